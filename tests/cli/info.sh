#!/bin/bash
# ratplus info of models and token files. TAP; runs in an empty folder with RATPLUS (the program) and
# RATPLUS_SOURCE (the checkout) set.
R=$RATPLUS
S=$RATPLUS_SOURCE/tests/data
export LC_ALL=C

check() {
  local name=$1 code=$2 out=$3 err=$4 got bad=
  shift 4
  "$@" >.stdout 2>.stderr
  got=$?
  [ "$got" = "$code" ] || bad="exit $got, wanted $code"
  fits .stdout "$out" || bad="$bad; stdout has no \"$out\""
  fits .stderr "$err" || bad="$bad; stderr has no \"$err\""
  if [ -z "$bad" ]; then
    echo "ok - $name"
  else
    echo "not ok - $name ($bad)"
    sed 's/^/# /' .stdout .stderr | head -20
  fi
}

fits() {
  case $2 in
    '*') true ;;
    '') [ ! -s "$1" ] ;;
    *) grep -qF -- "$2" "$1" ;;
  esac
}

"$R" convert "$S/reference/ratplus.pth" model 2>/dev/null
check "help" 0 "Usage: ratplus info PATH" "" "$R" info --help
check "a .pth" 0 "RAT+, 3 layers, d=64, 4 heads of 16, f=256 gelu, V=97" "" "$R" info \
  "$S/reference/ratplus.pth"
check "a model directory" 0 "parameters  178688" "" "$R" info model
check "its pattern" 0 "D=8, trained jointly with D=1" "" "$R" info model
check "JSON" 0 '"parameters":178688' "" "$R" info --json model
check "a word" 0 "D=16" "*" "$R" info model model.backbone.seq_cell.dilation_size=16
check "a token file" 0 "60001" "*" "$R" info "$S/reference/train.bin"
check "two paths" 0 "60001" "*" "$R" info model "$S/reference/train.bin"
check "nothing to tell about" 2 "" "info of what?" "$R" info
check "no such path" 3 "" "nowhere: no such file" "$R" info nowhere
check "something else" 3 "" "neither a model" "$R" info "$0"
check "a damaged model" 3 "" "before 2020" "$R" info "$S/pth/legacy.pth"
check "a width that is missing" 2 "" "d_head=" "$R" info "$S/pth/bare.pth"
check "paths and an experiment" 2 "" "not both" "$R" info model experiment=fineweb_edu/ratplus-1b
