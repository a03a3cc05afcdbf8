#!/bin/sh
# The shared library exports what tools/symbols.txt lists and nothing else, needs nothing that no
# library gives, and every RP_API declaration is defined: tools/check-symbols.sh LIB [--write]
set -u
here=$(cd "$(dirname "$0")" && pwd)
lib=${1:?tools/check-symbols.sh LIBRATPLUS.so [--write]}
list=$here/symbols.txt
bad=0

export LC_ALL=C
found=$(nm -D --defined-only "$lib" | awk '$2 ~ /[A-Z]/ { print $3 }' | sort)
if [ "${2:-}" = --write ]; then
  echo "$found" >"$list"
  exit 0
fi
for name in $(echo "$found" | comm -23 - "$list"); do
  echo "$name is exported and not in tools/symbols.txt"
  bad=1
done
for name in $(echo "$found" | comm -13 - "$list"); do
  echo "$name is in tools/symbols.txt and no longer exported"
  bad=1
done
missing=$(ldd -r "$lib" 2>&1 | grep 'undefined symbol')
if [ -n "$missing" ]; then
  echo "$missing"
  bad=1
fi
declared=$(cat "$here"/../include/ratplus/*.h | tr '\n' ' ' |
           grep -oE 'RP_API [^;]*;' | grep -oE 'rp_[a-z0-9_]+ *\(' | tr -d ' (' | sort -u)
for name in $declared; do
  echo "$found" | grep -qx "$name" || { echo "$name is declared RP_API and not defined"; bad=1; }
done
exit $bad
