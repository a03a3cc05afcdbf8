#!/bin/sh
# clang-format leaves every file as it is. Versions lay out differently, so only the one the tree
# was made with counts (Debian 12's 14); exit 77 without it.
set -u
cd "$(dirname "$0")/.." || exit 2
format=
for name in clang-format-14 clang-format; do
  if command -v $name >/dev/null 2>&1 && $name --version | grep -q 'version 14\.'; then
    format=$name
    break
  fi
done
if [ -z "$format" ]; then
  echo "clang-format 14 is not here"
  exit 77
fi
bad=0
for file in $(find src include cli tests -name '*.c' -o -name '*.h' -o -name '*.cc' 2>/dev/null | sort); do
  $format "$file" | cmp -s - "$file" || { echo "$file: not as clang-format leaves it (make format)"; bad=1; }
done
exit $bad
