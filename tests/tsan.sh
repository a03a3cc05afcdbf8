#!/bin/bash
# The tests labelled "tsan" in a build with ThreadSanitizer: tests/tsan.sh BUILD [PATTERN] [SEED]
# Archer tells the sanitizer which thread of a parallel region waits for which; code that was built
# without it (libc, SentencePiece, the runtime of OpenMP) is not watched.
set -u
build=${1:?tests/tsan.sh BUILD [PATTERN] [SEED]}
here=$(cd "$(dirname "$0")" && pwd)
archer=$(clang -print-resource-dir 2>/dev/null)/../../libarcher.so
if [ ! -e "$archer" ]; then
  echo "tests/tsan.sh: no libarcher.so beside clang (Debian packages clang, libomp-dev)" >&2
  exit 2
fi
export OMP_TOOL_LIBRARIES=$archer KMP_BLOCKTIME=0
export TSAN_OPTIONS=${TSAN_OPTIONS:-ignore_noninstrumented_modules=1:second_deadlock_stack=1}
CHECK_LABEL=tsan exec "$here/run.sh" "$build" "${2:-}" "${3:-}"
