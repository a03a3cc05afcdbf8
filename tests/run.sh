#!/bin/bash
# Runs the tests of a build: tests/run.sh BUILD [PATTERN] [SEED]
#
# PATTERN is a part of a test's name (base_json), or NAME/CASE (test_base_json/deep_*). Each
# tests/test_*.c is one program, each tests/cli/*.sh one script; what is counted is their cases.
# CHECK_FAST=1 leaves out files with the comment "label: slow", CHECK_LABEL=tsan all without the comment
# "label: tsan"; CHECK_ALL=1 tries every pair of ranks
# and strategy where else some are drawn, CHECK_KILLS=n kills so many ranks. CHECK_JOBS=n runs n files at
# once (as many as there are cores, at most 4), each with its share of the cores as threads; those with
# the comment "label: threads" have all of them; those with "label: alone", which measure time or start
# ranks, come last and one by one. What is printed has the same order always;
# of one file alone its remarks ("# ...") are shown, too.
# RATPLUS_LOCALE=de_DE.UTF-8 sets the locale of numbers, RATPLUS_EMULATOR="qemu-aarch64 -L ..." runs
# programs of another machine. Every failure is shown with the command that repeats it alone; then come
# the ten files that took most of the processors; the last line is "N passed, N failed" and
# ", N skipped" if any were.
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

# Between two parallel regions a thread of libgomp spins for milliseconds, which costs tests of tiny
# shapes most of their time, and tenfold where threads of two programs wait for each other.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-2000}

scratch=$(mktemp -d "${TMPDIR:-/tmp}/ratplus-run-XXXXXX") || exit 2
trap 'rm -rf "$scratch"' EXIT
trap 'kill $(jobs -p) 2>/dev/null; wait; exit 130' INT TERM
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

# guarded LOG COMMAND...: the command within CHECK_TIMEOUT; ends with it, or when this shell is told to.
guarded() {
  local log=$1 pid
  shift
  timeout -k 10 "${CHECK_TIMEOUT:-900}" env --default-signal=INT,QUIT $in_locale "$@" \
    >"$log" 2>&1 </dev/null &
  pid=$!
  trap 'kill "$pid"; wait "$pid"; exit 143' TERM
  wait "$pid"
}

# run_one LOG NAME READER COMMAND...: runs and reads the report; prints what there is to say, and
# leaves in LOG.sum its counts, seconds, processor seconds and name.
run_one() {
  local log=$1 name=$2 reader=$3 began wall cpu status p=0 f=0 s=0 word what
  shift 3
  began=$(date +%s%N)
  guarded "$log" "$@"
  status=$?
  wall=$((($(date +%s%N) - began) / 1000000))e-3
  times >"$log.times" # of the commands this shell has waited for, in the second line
  cpu=$(awk -F '[ms ]+' 'NR == 2 { print $1 * 60 + $2 + $3 * 60 + $4 }' "$log.times")
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
  [ ${#names[@]} -gt 1 ] || sed -n '2,$s/^# /# /p' "$log" # what it counted
  [ $((p + f + s)) = 0 ] ||
    printf '%-34s %4d passed %8.1f s %8.1f s cpu\n' "$name" "$p" "$wall" "$cpu"
  echo "$p $f $s $wall $cpu $name" >"$log.sum"
}

# ---- which files, in which order -------------------------------------------------------------------

slow() {
  [ -n "${CHECK_FAST:-}" ] && [ -f "$1" ] && grep -q 'label: slow' "$1"
}

# wanted SOURCE NAME
wanted() {
  case $2 in *$pattern*) ;; *) return 1 ;; esac
  ! slow "$1" && { [ -z "${CHECK_LABEL:-}" ] || grep -q "label: $CHECK_LABEL\\b" "$1"; }
}

together=() alone=()
add() { # SOURCE NAME
  wanted "$1" "$2" || return
  if grep -q 'label: alone' "$1"; then alone+=("$2"); else together+=("$2"); fi
}

# A program whose source is gone was left by an older build.
for program in "$build"/tests/test_* "$build"/tests/fuzz_*; do
  name=$(basename "$program")
  [ -x "$program" ] && [ -f "$program" ] || continue
  if [ -f "$here/tests/$name.c" ]; then
    add "$here/tests/$name.c" "$name"
  elif [ -f "$here/tests/fuzz/$name.c" ] && [ -z "$cases" ]; then
    add "$here/tests/fuzz/$name.c" "$name"
  fi
done
for script in "$here"/tests/cli/*.sh; do
  [ -f "$script" ] && [ -x "$build/ratplus" ] && add "$script" "cli_$(basename "$script" .sh)"
done
names=(${together[@]+"${together[@]}"} ${alone[@]+"${alone[@]}"})

# start NUMBER
start() {
  local name=${names[$1]} log=$scratch/$1.log threads=$((cores / jobs > 0 ? cores / jobs : 1))
  grep -q 'label: threads' "$here/tests/$name.c" 2>/dev/null && threads=$cores
  export SLURM_CPUS_PER_TASK=$threads # the default of the library
  case $name in
    fuzz_*) run_one "$log" "$name" read_tap ${RATPLUS_EMULATOR:-} "$build/tests/$name" \
              "$here/tests/fuzz/corpus/${name#fuzz_}" ;;
    cli_*) mkdir -p "$scratch/$name"
           CHECK_CASES=$cases run_one "$log" "$name" read_tap \
             env -C "$scratch/$name" bash "$here/tests/cli/${name#cli_}.sh" ;;
    *) run_one "$log" "$name" read_cmocka ${RATPLUS_EMULATOR:-} "$build/tests/$name" \
         ${cases:+"$cases"} ;;
  esac >"$log.said"
}

# ---- the run ---------------------------------------------------------------------------------------

cores=$(nproc 2>/dev/null || echo 1)
jobs=${CHECK_JOBS:-$((cores < 4 ? cores : 4))}
shown=0 running=0

# What has ended is shown as far as everything before it has ended too.
show_ended() {
  while [ $shown -lt $1 ] && [ -e "$scratch/$shown.log.sum" ]; do
    cat "$scratch/$shown.log.said"
    shown=$((shown + 1))
  done
}

for i in "${!names[@]}"; do
  most=$jobs
  [ "$i" -lt ${#together[@]} ] || most=1
  while [ $running -ge "$most" ]; do
    wait -n
    running=$((running - 1))
    show_ended "$i"
  done
  start "$i" &
  running=$((running + 1))
done
wait
show_ended ${#names[@]}

passed=0 failed=0 skipped=0
for i in "${!names[@]}"; do
  read -r p f s _ <"$scratch/$i.log.sum" || p=0 f=1 s=0
  passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
if [ $((passed + failed + skipped)) = 0 ]; then
  echo "no test fits \"${2:-}\"; tests/ has the names"
  failed=1
fi
if [ ${#names[@]} -gt 10 ]; then
  cat "$scratch"/*.log.sum | awk '{ all += $5 } END { printf "# %.0f s of processors, most by:\n", all }'
  sort -k 5,5 -gr "$scratch"/*.log.sum | head -n 10 |
    awk '{ printf "#   %-34s %8.1f s %8.1f s cpu\n", $6, $4, $5 }'
fi
line="$passed passed, $failed failed"
[ $skipped = 0 ] || line="$line, $skipped skipped"
echo "$line"
[ $failed = 0 ]
