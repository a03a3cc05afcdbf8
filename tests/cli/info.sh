#!/bin/bash
# ratplus info of models and token files. TAP; runs in an empty folder with RATPLUS (the program) and
# RATPLUS_SOURCE (the checkout) set.
R=$RATPLUS
S=$RATPLUS_SOURCE/tests/data
export LC_ALL=C
if ! "$R" --version | grep -q '^built in:.* zip '; then
  echo "ok - all # SKIP built without libzip"
  exit
fi

. "$RATPLUS_SOURCE/tests/cli/tap.bash"

"$R" convert "$S/reference/ratplus.pth" model 2>/dev/null
says "help" 0 "Usage: ratplus info PATH" "" "$R" info --help
says "a .pth" 0 "RAT+, 3 layers, d=64, 4 heads of 16, f=256 gelu, V=97" "" "$R" info \
  "$S/reference/ratplus.pth"
says "a model directory" 0 "parameters  178688" "" "$R" info model
says "its pattern" 0 "D=8, trained jointly with D=1" "" "$R" info model
says "JSON" 0 '"parameters":178688' "" "$R" info --json model
says "a word" 0 "D=16" "*" "$R" info model model.backbone.seq_cell.dilation_size=16
says "a token file" 0 "60001" "*" "$R" info "$S/reference/train.bin"
says "two paths" 0 "60001" "*" "$R" info model "$S/reference/train.bin"
says "a pattern" 0 "sees 500 of 4096 keys: 4 initial, 257 local, 239 dilated" "" "$R" info \
  --pattern D=16,W=256,I=4
says "a pattern drawn" 0 "  i..d.lll" "" "$R" info --pattern D=4,W=2,I=1 --seq-len 8
says "a pattern by layer" 0 "sees 1040 of 2048 keys" "" "$R" info --pattern 'D=[1,64]*12' \
  --layers 24 --seq-len 2048
says "a pattern as JSON" 0 '"keys_kept":500.0' "" "$R" info --json --pattern D=16,W=256,I=4
says "no pattern" 2 "" "D=" "$R" info --pattern banana
says "a pattern that sees nothing" 2 "" "D=-1" "$R" info --pattern D=-1
says "a sequence of nothing" 2 "" "from 1 to" "$R" info --pattern D=4 --seq-len 0
says "a pattern and a path" 2 "" "not both" "$R" info --pattern D=4 model
says "nothing to tell about" 2 "" "info of what?" "$R" info
says "no such path" 3 "" "nowhere: no such file" "$R" info nowhere
says "something else" 3 "" "neither a model" "$R" info "$0"
says "a damaged model" 3 "" "before 2020" "$R" info "$S/pth/legacy.pth"
says "a width that is missing" 2 "" "d_head=" "$R" info "$S/pth/bare.pth"
says "paths and an experiment" 2 "" "not both" "$R" info model experiment=fineweb_edu/ratplus-1b
