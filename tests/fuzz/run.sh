#!/bin/bash
# Runs every fuzz target for FUZZ_SECONDS (60): tests/fuzz/run.sh BUILD [PATTERN]
# New inputs go to BUILD/corpus, what breaks a target to BUILD/crashes, with the command that
# repeats it. Ends with "N passed, N failed".
set -u
build=${1:?tests/fuzz/run.sh BUILD [PATTERN]}
pattern=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
seconds=${FUZZ_SECONDS:-60}
passed=0 failed=0
log=$(mktemp) || exit 2
trap 'rm -f "$log"' EXIT

for target in "$build"/tests/fuzz_*; do
  name=$(basename "$target")
  [ -f "$here/$name.c" ] && [ -x "$target" ] || continue
  case $name in *$pattern*) ;; *) continue ;; esac
  new=$build/corpus/${name#fuzz_}
  mkdir -p "$new" "$build/crashes" "$here/corpus/${name#fuzz_}"
  if "$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
      -artifact_prefix="$build/crashes/$name-" "$new" "$here/corpus/${name#fuzz_}" \
      >"$log" 2>&1 </dev/null; then
    passed=$((passed + 1))
    echo "ok   $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs," \
         "coverage $(grep -o 'cov: [0-9]*' "$log" | tail -n 1 | cut -d' ' -f2)"
  else
    failed=$((failed + 1))
    echo "FAIL $name"
    grep -v '^#' "$log" | tail -n 60 | sed 's/^/    /'
    artifact=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    echo "    repeat: $target $artifact"
  fi
done
if [ $((passed + failed)) = 0 ]; then
  echo "no fuzz target fits \"$pattern\""
  failed=1
fi
echo "$passed passed, $failed failed"
[ $failed = 0 ]
