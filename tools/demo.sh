#!/bin/sh
# The demonstration: from text to a trained, cut, adapted and measured model.
#
#   tools/demo.sh [--text FILE] [--out DIR]
#
# Text: Debian's King James Bible and "An Anarchist FAQ", fetched with apt-get download and unpacked
# below build/ (no root needed), or FILE. Every step leaves its result in DIR (build/demo; a FILE has
# a folder of its own) and is not repeated: an interrupted demo goes on where it was, and a second
# one only shows the table again. A signal, also to this script alone, lets a training save first.
set -eu
LC_ALL=C
export LC_ALL

root=$(cd "$(dirname "$0")/.." && pwd)
out=
text=
while [ $# -gt 0 ]; do
  case $1 in
    --text) text=${2:?"--text needs a file"}; shift 2 ;;
    --out) out=${2:?"--out needs a folder"}; shift 2 ;;
    *) echo "tools/demo.sh: unknown word \"$1\"; usage: tools/demo.sh [--text FILE] [--out DIR]" >&2
       exit 2 ;;
  esac
done
[ -z "$text" ] || [ -r "$text" ] || {
  echo "tools/demo.sh: cannot read $text; give --text a plain text file of some megabytes" >&2
  exit 2
}

# Which text a folder is for: the table of another one must not be taken for this one's.
made_from="Debian's packages"
[ -z "$text" ] || made_from=$(cksum <"$text")
[ -n "$out" ] || out=$root/build/demo${text:+-${made_from%% *}}
[ ! -f "$out/made-from" ] || [ "$(cat "$out/made-from")" = "$made_from" ] || {
  echo "tools/demo.sh: $out holds the demo of another text; give another --out, or remove it" >&2
  exit 2
}

ratplus=${RATPLUS:-$root/build/release/ratplus}
configs=$root/configs
mkdir -p "$out/text"
printf '%s\n' "$made_from" >"$out/made-from"

# run PROGRAM...: so that a signal reaches it once, whoever got it: a terminal signals all, make its
# child alone. In a session of its own it hears of none but what is passed on here.
child=
signal=
pass_on() {
  [ "$1 $signal" = "TERM TERM" ] || [ -z "$child" ] || kill -TERM "$child"
  signal=$1
  [ -n "$child" ] || exit 75
}
for s in INT TERM HUP; do trap "pass_on $s" $s; done
run() {
  setsid "$@" &
  child=$!
  code=0
  wait $child || code=$?
  while kill -0 $child 2>/dev/null; do code=0; wait $child || code=$?; done
  child=
  [ -z "$signal" ] || {
    echo "tools/demo.sh: stopped; the same command goes on" >&2
    exit 75
  }
  return $code
}

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
[ -t 2 ] && [ -z "${NO_COLOR:-}" ] || say() { printf '\n%s\n' "$*" >&2; }

# Unpacks the named Debian packages into $out/packages.
fetch() {
  mkdir -p "$out/packages/partial"
  (cd "$out/packages" && apt-get -q download "$@") >"$out/packages/log" 2>&1 || {
    cat "$out/packages/log" >&2
    echo "tools/demo.sh: cannot download $*; run apt-get update, or give --text FILE" >&2
    exit 1
  }
  for deb in "$out"/packages/*.deb; do dpkg-deb -x "$deb" "$out/packages"; done
}

bible() {
  LD_LIBRARY_PATH=$(dirname "$(find "$out/packages" -name 'libreadline.so.*' | sort | sed -n 1p)") \
    "$out/packages/usr/bin/bible" -f -l9999 -p "$out/packages/usr/lib" "$@"
}

# One document a chapter or section, ended by a line that holds a form feed alone.
make_texts() {
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "tools/demo.sh: this system has no apt to fetch the texts with; give --text FILE" >&2
    exit 1
  fi
  readline=$(apt-cache depends bible-kjv 2>/dev/null | sed -n 's/.*Depends: \(libreadline[^ ]*\)/\1/p' |
    sed -n 1p)
  fetch bible-kjv bible-kjv-text anarchism $readline
  bible gen1:1-rev22:21 | awk '
    { split($1, at, ":"); if (at[1] != chapter && chapter != "") print "\f"; chapter = at[1]
      sub(/^[^ ]+ /, ""); print }
    END { print "\f" }' >"$out/text/bible.txt.tmp"
  for f in "$out"/packages/usr/share/doc/anarchism/markdown/sec*.md*; do
    case $f in *.gz) gzip -dc "$f" ;; *) cat "$f" ;; esac
    printf '\n\f\n'
  done >"$out/text/anarchism.txt.tmp"
  for name in bible anarchism; do
    [ "$(wc -c <"$out/text/$name.txt.tmp")" -gt 1000000 ] || {
      echo "tools/demo.sh: the text of the package $name came out too short; give --text FILE" >&2
      exit 1
    }
    mv "$out/text/$name.txt.tmp" "$out/text/$name.txt"
  done
}

if [ -n "$text" ]; then
  set -- "$text"
else
  say "1. Text: Debian's packages bible-kjv-text and anarchism"
  [ -f "$out/text/anarchism.txt" ] || make_texts
  set -- "$out/text/bible.txt" "$out/text/anarchism.txt"
fi
for f in "$@"; do printf '   %s: %s bytes\n' "$f" "$(wc -c <"$f" | tr -d ' ')" >&2; done

say "2. Tokens: a vocabulary of 512 pieces"
separator='\n\x0c\n'
tokens=$out/tokens
[ -f "$out/tokenizer.model" ] ||
  run "$ratplus" tokenizer train --input "$@" --separator "$separator" --vocab-size 512 \
    --out "$out/tokenizer.model"
[ -f "$tokens/train.bin" ] || # joined after val.bin
  run "$ratplus" tokenize --tokenizer "$out/tokenizer.model" --input "$@" --separator "$separator" \
    --shuffle-seed 1 --val-tokens 131072 --out "$tokens"

train() { # name, experiment, words...
  name=$1; experiment=$2; shift 2
  run "$ratplus" train --configs "$configs" experiment="$experiment" data_dir="$tokens" \
    tokenizer="$out/tokenizer.model" run_dir="$out/$name" "$@"
}

say "3. Training: RAT+ with active recurrence learning, and attention alone, same layers, width and data"
train ratplus demo/ratplus
train attention demo/attention

patterns='D=1 D=4 D=16 D=64 D=16,W=16'
say "4. Adaptation: each model, each pattern, a short while"
sizes_of() { # sets D and W of a pattern
  D=${1#D=}; D=${D%%,*}; W=0
  case $1 in *W=*) W=${1#*W=} ;; esac
}
for model in ratplus attention; do
  recurrence=true
  [ $model = ratplus ] || recurrence=false
  for p in $patterns; do
    sizes_of "$p"
    train "$model-D${D}W$W" demo/adapt trainer.pretrained_path="$out/$model" \
      model.backbone.seq_cell.apply_re=$recurrence \
      model.backbone.seq_cell.dilation_size="$D" model.backbone.seq_cell.local_size="$W"
  done
done

say "5. Measuring: validation perplexity in every pattern"
measure() { # label, run, pattern...
  label=$1; run=$2; shift 2
  flags=
  for p in "$@"; do flags="$flags --pattern $p"; done
  run "$ratplus" eval loss --json --label "$label" --model "$out/$run" $flags --data "$tokens/val.bin" \
    >>"$out/results.jsonl.tmp" 2>>"$out/notices"
}
if [ ! -f "$out/results.jsonl" ]; then
  rm -f "$out/results.jsonl.tmp"
  : >"$out/notices" # cutting a model untrained for a pattern is what is measured here
  measure 'attention, cut' attention $patterns
  measure 'RAT+, cut' ratplus $patterns
  for model in attention ratplus; do
    label='attention, adapted'
    [ $model = attention ] || label='RAT+, adapted'
    for p in $patterns; do
      sizes_of "$p"
      measure "$label" "$model-D${D}W$W" "$p"
    done
  done
  mv "$out/results.jsonl.tmp" "$out/results.jsonl"
fi
say "Perplexity on held-out text; key-value cache in bytes a token"
"$ratplus" info "$out/results.jsonl" --svg "$out/results.svg"
# What a model makes of a prompt, and how fast tokens come behind some thousands of others: there the
# cache is what is read.
generate() { # pattern, prompt or -, words...
  pattern=$1; prompt=$2; shift 2
  "$ratplus" generate --model "$out/ratplus" --ignore-eos --pattern "$pattern" --prompt "$prompt" "$@" \
    >"$out/generated" 2>"$out/statistics" || {
    cat "$out/statistics" >&2
    exit 1
  }
}
sample() { # pattern
  generate "$1" "$start" --max-tokens 60 --temperature 0.8 --top-p 0.9 --seed 7
  printf '%s: %s%s' "$1" "$start" "$(tr '\n' ' ' <"$out/generated")"
  head -c 16000 "$source" >"$out/prompt"
  generate "$1" - --max-length 32768 --max-tokens 128 <"$out/prompt"
  sed -n 's/^prompt: \([0-9]*\) tokens.*text: [0-9]* tokens, \(.*\); cache \(.*\), state.*/\n   behind \1 tokens: \2, a cache of \3/p' \
    "$out/statistics"
}
if [ ! -f "$out/sample.txt" ]; then
  source=$1
  start='In the beginning'
  [ -z "$text" ] || start=$(head -n 1 "$text" | cut -c 1-40)
  for p in D=1 D=16; do sample $p; done >"$out/sample.txt.tmp"
  mv "$out/sample.txt.tmp" "$out/sample.txt"
fi
say "6. Text of the RAT+ model, dense and seeing every 16th key"
cat "$out/sample.txt"
printf '\nThe picture: %s\nLoss curves: %s info %s %s --svg curves.svg\n' "$out/results.svg" \
  "$ratplus" "$out/ratplus" "$out/attention" >&2
