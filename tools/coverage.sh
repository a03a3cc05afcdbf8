#!/bin/sh
# Which share of each source file's lines ran: tools/coverage.sh build/coverage, after its tests.
set -eu
build=$(cd "${1:?tools/coverage.sh BUILD}" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
# A kernel is compiled once per level; the level that ran most of it counts.
find "$build" -name '*.gcda' -path '*ratplus_*' -print0 | xargs -0 gcov -n -r -s "$root" 2>/dev/null | awk '
  /^File / { file = $0; sub(/^File ./, "", file); sub(/.$/, "", file); sub(/^\.\//, "", file) }
  /^Lines executed:/ && file ~ /^src\// {
    split($0, a, /[:% ]/); share = a[3]; n = $NF
    if (!(file in best) || share > best[file]) { best[file] = share; lines[file] = n }
    file = ""
  }
  END {
    for (f in best) {
      printf "%6.1f%% of %5d  %s\n", best[f], lines[f], f
      all += lines[f]; ran += lines[f] * best[f] / 100
    }
    if (all) printf "%6.1f%% of %5d  total\n", 100 * ran / all, all
  }' | sort -k 4
