#!/bin/sh
# Every public header compiles alone, as C11 and as C++11, without a warning; every inner header as
# C11, those of kernels for GPUs as the tests compile them. Prints what does not; exit 1 if there is one.
set -u
cd "$(dirname "$0")/.." || exit 2
cc=${CC:-cc} cxx=${CXX:-c++}
warn="-Wall -Wextra -Wshadow -Werror -fsyntax-only"
bad=0
for header in include/ratplus/*.h; do
  name=${header#include/}
  echo "#include \"$name\"" | $cc -std=c11 -pedantic $warn -Iinclude -x c - ||
    { echo "$header does not compile alone as C11"; bad=1; }
  echo "#include \"$name\"" | $cxx -std=c++11 -pedantic $warn -Iinclude -x c++ - ||
    { echo "$header does not compile alone as C++"; bad=1; }
done
for header in $(find src -name '*.h' ! -path '*/kern/*' ! -path '*/cuda/kernel/*' | sort); do
  echo "#include \"${header#src/}\"" | $cc -std=c11 -D_GNU_SOURCE $warn -Wno-unused-function \
      -Iinclude -Isrc -x c - || { echo "$header does not compile alone"; bad=1; }
done
for header in src/ops/cuda/kernel/*.h; do
  echo "#include \"${header#src/}\"" | $cxx -std=c++17 -DRP_EMULATE -Wall -Wextra -Werror -fsyntax-only \
      -Wno-unused-function -Iinclude -Isrc -Itests/fake -x c++ - ||
    { echo "$header does not compile alone"; bad=1; }
done
exit $bad
