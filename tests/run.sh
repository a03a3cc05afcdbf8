#!/bin/bash
# Runs the tests of a build: tests/run.sh BUILD [PATTERN] [SEED]
#
# PATTERN is a part of a test's name (base_json), or NAME/CASE (test_base_json/deep_*). Each
# tests/test_*.c is one program, each tests/cli/*.sh one script; what is counted is their cases.
# CHECK_FAST=1 leaves out files with the comment "label: slow"; CHECK_ALL=1 tries every pair of ranks
# and strategy where else some are drawn, CHECK_KILLS=n kills so many ranks. RATPLUS_LOCALE=de_DE.UTF-8
# sets the locale of numbers, RATPLUS_EMULATOR="qemu-aarch64 -L ..." runs programs of another machine.
# Every failure is shown with the command that repeats it alone; the last line is "N passed, N failed"
# and ", N skipped" if any were.
set -u

build=${1:?tests/run.sh BUILD [PATTERN] [SEED]}
pattern=${2:-}
seed=${3:-}
here=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "$build" && pwd) || exit 2
preset=$(basename "$build")
cases=
case $pattern in
  */*) cases=${pattern#*/}
       pattern=${pattern%%/*} ;;
esac
case $seed in
  *[!0-9]*) echo "tests/run.sh: SEED=$seed is not a whole number" >&2
            exit 2 ;;
esac
export SEED=${seed:-1}
export CMOCKA_MESSAGE_OUTPUT=STDOUT
export RATPLUS_SOURCE=$here RATPLUS_BUILD=$build RATPLUS=$build/ratplus
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1:allocator_may_return_null=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
unset RATPLUS_CONFIGS CDPATH

scratch=$(mktemp -d "${TMPDIR:-/tmp}/ratplus-run-XXXXXX") || exit 2
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
export TMPDIR=$scratch

# A locale with a decimal comma, made here when the system has none.
need_locale() {
  if ! locale -a 2>/dev/null | grep -qix 'de_DE\.utf-\?8'; then
    if [ ! -d "$build/locale/de_DE.UTF-8" ]; then
      mkdir -p "$build/locale"
      localedef -i de_DE -f UTF-8 "$build/locale/de_DE.UTF-8" >/dev/null 2>&1 || return 1
    fi
    export LOCPATH=$build/locale
  fi
}
need_locale || echo "# no locale de_DE.UTF-8 and no localedef to make it (Debian package locales)"
in_locale=
if [ -n "${RATPLUS_LOCALE:-}" ]; then
  unset LC_ALL
  in_locale=LC_NUMERIC=$RATPLUS_LOCALE
fi

passed=0 failed=0 skipped=0

# cmocka's report: "pass N", and "fail CASE" and "skip CASE" lines. A case that began and did not
# end took the program with it.
read_cmocka() {
  awk '
    /^\[=+\].*[Rr]unning/ { inside = 1; next }
    /^\[=+\].* run\.?$/ { inside = 0; next }
    !inside { next }
    /^\[ RUN      \] / { begun = substr($0, 14); next }
    /^\[       OK \] / { ok++; begun = ""; next }
    /^\[  FAILED  \] / { print "fail " substr($0, 14); begun = ""; next }
    /^\[  SKIPPED \] / { print "skip " substr($0, 14); begun = ""; next }
    END { if (begun != "") print "fail " begun; print "pass " ok + 0 }' "$1"
}

# TAP of a script: "ok - NAME", "not ok - NAME", "ok - NAME # SKIP why".
read_tap() {
  awk '
    /^(not )?ok([ \t]|$)/ {
      bad = /^not ok/; name = $0
      sub(/^(not )?ok *[0-9]* *-? */, "", name)
      if (name ~ /# SKIP/) print "skip " name
      else if (bad) print "fail " name
      else ok++
    }
    END { print "pass " ok + 0 }' "$1"
}

# What was printed between the beginning of a case and its failure.
show_case() {
  awk -v want="$2" '
    $0 == "[ RUN      ] " want { on = 1 }
    on && lines++ < 40 { print "    " $0 }
    $0 == "[  FAILED  ] " want { exit }' "$1"
}

repeat_line() {
  local preset_word=
  [ "$preset" = release ] || preset_word=" PRESET=$preset"
  echo "    repeat: make test$preset_word T='${1//\'/?}' SEED=$SEED" # a quote would end the word
}

# run_one NAME READER COMMAND...: runs, reads the report, counts.
run_one() {
  local name=$1 reader=$2 log=$scratch/log began ended status p=0 f=0 s=0 word what
  shift 2
  began=$(date +%s%N)
  timeout -k 10 "${CHECK_TIMEOUT:-900}" env $in_locale "$@" >"$log" 2>&1 </dev/null
  status=$?
  ended=$(date +%s%N)
  while read -r word what; do
    case $word in
      pass) p=$((p + what)) ;;
      skip) s=$((s + 1))
            echo "skip $name/$what" ;;
      fail) f=$((f + 1))
            echo "FAIL $name/$what"
            if [ "$reader" = read_cmocka ]; then
              show_case "$log" "$what"
            else
              tail -n 40 "$log" | sed 's/^/    /'
            fi
            repeat_line "$name/$what" ;;
    esac
  done < <($reader "$log")
  # A script without TAP lines is one case; 77 is its skip.
  if [ "$reader" = read_tap ] && [ $((p + f + s)) = 0 ]; then
    case $status in
      0) p=1 ;;
      77) s=1
          echo "skip $name" ;;
    esac
  fi
  if [ $status != 0 ] && [ $f = 0 ] && { [ $status != 77 ] || [ $s = 0 ]; }; then
    f=1
    if [ $status = 124 ]; then what="ran past ${CHECK_TIMEOUT:-900} s"; else what="exit $status"; fi
    echo "FAIL $name ($what)"
    tail -n 40 "$log" | sed 's/^/    /'
    repeat_line "$name"
  elif [ $((p + f + s)) = 0 ] && [ -z "$cases" ]; then
    f=1
    echo "FAIL $name (not one case ran)"
    repeat_line "$name"
  fi
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
  [ $((p + f + s)) = 0 ] || printf '%-34s %4d passed %8.1f s\n' "$name" "$p" \
    "$(((ended - began) / 1000000))e-3"
}

slow() {
  [ -n "${CHECK_FAST:-}" ] && [ -f "$1" ] && grep -q 'label: slow' "$1"
}

for program in "$build"/tests/test_* "$build"/tests/fuzz_*; do
  name=$(basename "$program")
  [ -x "$program" ] && [ -f "$program" ] || continue
  case $name in *$pattern*) ;; *) continue ;; esac
  # A program whose source is gone was left by an older build.
  [ -f "$here/tests/$name.c" ] || [ -f "$here/tests/fuzz/$name.c" ] || continue
  slow "$here/tests/$name.c" && continue
  if [ "${name#fuzz_}" != "$name" ]; then
    [ -z "$cases" ] || continue
    run_one "$name" read_tap ${RATPLUS_EMULATOR:-} "$program" \
      "$here/tests/fuzz/corpus/${name#fuzz_}"
  else
    run_one "$name" read_cmocka ${RATPLUS_EMULATOR:-} "$program" ${cases:+"$cases"}
  fi
done

for script in "$here"/tests/cli/*.sh; do
  name=cli_$(basename "$script" .sh)
  [ -f "$script" ] && [ -x "$build/ratplus" ] || continue
  case $name in *$pattern*) ;; *) continue ;; esac
  slow "$script" && continue
  mkdir -p "$scratch/$name"
  CHECK_CASES=$cases run_one "$name" read_tap env -C "$scratch/$name" bash "$script"
done

if [ $((passed + failed + skipped)) = 0 ]; then
  echo "no test fits \"${2:-}\"; tests/ has the names"
  failed=1
fi
line="$passed passed, $failed failed"
[ $skipped = 0 ] || line="$line, $skipped skipped"
echo "$line"
[ $failed = 0 ]
