#!/bin/sh
# clang-tidy finds nothing in src/ and cli/: tools/check-tidy.sh BUILD. Versions find different
# things, so only the one the tree was made with counts (Debian 12's 14); exit 77 without it.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${1:?tools/check-tidy.sh BUILD}
tidy=
for name in clang-tidy-14 clang-tidy; do
  if command -v $name >/dev/null 2>&1 && $name --version | grep -q 'version 14\.'; then
    tidy=$name
    break
  fi
done
if [ -z "$tidy" ]; then
  echo "clang-tidy 14 is not here"
  exit 77
fi
# The kernels are compiled once per level from the same text; once is enough here.
find src cli -name '*.c' ! -path '*/kern/*' 2>/dev/null | sort |
  xargs -P "$(nproc)" -n 4 $tidy --quiet -p "$build" 2>/dev/null | grep -E 'error:|warning:' |
  sort -u >"$build/tidy.log"
sed "s|$PWD/||" "$build/tidy.log"
[ ! -s "$build/tidy.log" ]
