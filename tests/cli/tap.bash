# What the scripts here share: sourced, no test of its own. TAP on stdout.

check() { # NAME COMMAND...
  local name=$1
  shift
  if "$@"; then echo "ok - $name"; else echo "not ok - $name"; fi
}

# says NAME CODE OUT ERR COMMAND...: exit code, a part of stdout, a part of stderr ("": empty, "*":
# anything).
says() {
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
