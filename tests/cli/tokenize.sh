#!/bin/bash
# ratplus tokenizer and tokenize: what they write, that nothing but the text and the settings decides
# it, and the sentence and exit code of each bad input.
set -u
data=$RATPLUS_SOURCE/tests/data/text
model=$data/llama.model

if "$RATPLUS" --version | grep -q 'left out.*sentencepiece\|without.*sentencepiece'; then
  echo "ok - all # SKIP built without SentencePiece"
  exit 0
fi

. "$RATPLUS_SOURCE/tests/cli/tap.bash"

# NAME CODE SENTENCE ARGUMENTS...: exit code and a part of the one line on stderr, nothing on stdout.
refused() {
  local name=$1 code=$2 part=$3 got
  shift 3
  "$RATPLUS" "$@" >out.txt 2>err.txt </dev/null
  got=$?
  if [ $got = "$code" ] && grep -qF -- "$part" err.txt && [ ! -s out.txt ] &&
     [ "$(wc -l <err.txt)" = 1 ]; then
    echo "ok - refused: $name"
  else
    echo "# exit $got, wanted $code and \"$part\"; said: $(cat err.txt out.txt)"
    echo "not ok - refused: $name"
  fi
}

tok() { "$RATPLUS" tokenize --tokenizer "$model" "$@" 2>err.txt </dev/null; }

# --- a corpus of ten files, the same for every SEED -------------------------------------------
awk 'BEGIN { srand(7); n = split("the recurrence keeps what attention would look up again über " \
  "Straße 1234 日月 ، e-mail, and then", w, " ")
  for (f = 0; f < 10; f++) for (d = 0; d < 150; d++) {
    for (k = int(rand() * 160); k >= 0; k--)
      printf "%s%s", w[1 + int(rand() * n)], rand() < 0.1 ? "\n" : " " > ("text-" f ".txt")
    printf "<|end|>" > ("text-" f ".txt") } }'
sep='<|end|>'

tok --input text-*.txt --separator "$sep" --out whole --threads 1 >out.txt
check "tokenize writes token files" test -s whole/train.bin -a -s whole/train.bin.json -a \
  ! -e whole/val.bin -a ! -e whole/tokenize.parts
check "it says what it wrote" grep -q '^whole/train.bin  [0-9]* tokens, 2 bytes an id$' out.txt
check "nothing else is said without a terminal" test ! -s err.txt
tok --input text-*.txt --separator "$sep" --out four --threads 4 >/dev/null
check "one thread and four write the same bytes" cmp whole/train.bin four/train.bin
check "and the same sidecar" cmp whole/train.bin.json four/train.bin.json
tok --input text-*.txt --separator "$sep" --out whole >out.txt
check "a second call has nothing to do" grep -q 'complete already' out.txt
tok --json --input text-*.txt --separator "$sep" --out json >out.txt
check "--json prints one object" grep -q '^{"train_tokens": [0-9]*, .*}$' out.txt

tok --input text-*.txt --separator "$sep" --shuffle-seed 3 --val-share 0.1 --out shuffled-a \
  --threads 1 >/dev/null
tok --input text-*.txt --separator "$sep" --shuffle-seed 3 --val-share 0.1 --out shuffled-b \
  --threads 3 >/dev/null
check "a seed gives the same order again" cmp shuffled-a/train.bin shuffled-b/train.bin
check "and the same held-out part" cmp shuffled-a/val.bin shuffled-b/val.bin
check "shuffled is not as it came" test "$(cmp -s shuffled-a/train.bin whole/train.bin; echo $?)" = 1

# --- the ways in -------------------------------------------------------------------------------
cat text-*.txt >all.txt
"$RATPLUS" tokenize --tokenizer "$model" --input - --separator '<|end|>' --out piped \
  <all.txt >/dev/null 2>err.txt
check "a pipe gives what the files give" cmp piped/train.bin whole/train.bin
if "$RATPLUS" --version | grep -q 'zlib' && command -v gzip >/dev/null; then
  gzip -kf text-0.txt
  tok --input text-0.txt.gz text-[1-9].txt --separator "$sep" --out packed >/dev/null
  check "gzip is unpacked" cmp packed/train.bin whole/train.bin
  head -c 3000 text-0.txt.gz >cut.txt.gz
  refused "gzip cut off" 3 "cut.txt.gz: the compressed file is cut off" \
    tokenize --tokenizer "$model" --input cut.txt.gz --out bad
fi
printf '{"id": 1, "text": "the recurrence"}\n\n{"text": "über"}\n' >a.jsonl
printf 'the recurrence\x01über\x01' >a.txt
tok --input a.jsonl --out lines >/dev/null
tok --input a.txt --separator '\x01' --out plain >/dev/null
check "JSON lines and plain text give the same ids" cmp lines/train.bin plain/train.bin
printf 'a b\0c \377\376 d' >raw.txt
tok --input raw.txt --out raw >out.txt
check "NUL and bad UTF-8 are text too, and counted" grep -q '1 with bytes that are not UTF-8' out.txt
tok --input a.txt --out wide --num-bytes 4 >/dev/null
check "four bytes an id" test "$(wc -c <wide/train.bin)" = $((2 * $(tok --input a.txt --out narrow \
  >/dev/null; wc -c <narrow/train.bin)))

# --- killed and taken up -----------------------------------------------------------------------
for i in 1 2 3 4 5 6 7 8; do
  "$RATPLUS" tokenize --tokenizer "$model" --input text-*.txt --separator "$sep" --val-tokens 5000 \
    --shuffle-seed 9 --out killed --threads 2 >/dev/null 2>&1 &
  pid=$!
  sleep "0.0$i"
  kill -9 $pid 2>/dev/null
  wait $pid 2>/dev/null
  # Whatever is under a final name is whole: the sidecar knows how long.
  for f in train val; do
    [ -e killed/$f.bin ] || continue
    tokens=$(sed -n 's/.*"tokens": \([0-9]*\).*/\1/p' killed/$f.bin.json)
    [ "$(wc -c <killed/$f.bin)" = $((2 * tokens)) ] || echo "not ok - half a $f.bin after kill -9"
  done
done
tok --input text-*.txt --separator "$sep" --val-tokens 5000 --shuffle-seed 9 --out killed >/dev/null
tok --input text-*.txt --separator "$sep" --val-tokens 5000 --shuffle-seed 9 --out never >/dev/null
check "killed eight times it ends with the same train.bin" cmp killed/train.bin never/train.bin
check "and val.bin" cmp killed/val.bin never/val.bin
check "and nothing else" test "$(ls killed | tr '\n' ' ')" = \
  "train.bin train.bin.json val.bin val.bin.json "
printf '{"text": "x"' >late.jsonl
tok --input text-*.txt late.jsonl --separator "$sep" --out partly >/dev/null
check "a bad last file keeps the parts before it" test "$(ls partly/tokenize.parts/*.bin | wc -l)" = 10
printf '{"text": "x"}' >late.jsonl
tok --input text-*.txt late.jsonl --separator "$sep" --out partly >out.txt
check "which the next call takes up" grep -q '10 of 11 files done before' out.txt

# --- stopped by a signal -------------------------------------------------------------------------
mkfifo silent
exec 9<>silent
"$RATPLUS" tokenize --tokenizer "$model" --input - --out stopped <silent >/dev/null 2>stop.txt &
pid=$!
for i in $(seq 100); do [ -e stopped/tokenize.parts/lock ] && break; sleep 0.1; done
sleep 0.2
kill -TERM $pid
wait $pid
check "a signal while a pipe is silent ends it with 75" test $? = 75
exec 9>&-
check "which says so" grep -q 'stopped as asked' stop.txt

# --- tokenizer train ----------------------------------------------------------------------------
"$RATPLUS" tokenizer train --input text-*.txt --vocab-size 400 --out t.model >out.txt 2>err.txt
check "tokenizer train writes a model" test -s t.model -a "$(cat out.txt)" = t.model
"$RATPLUS" tokenizer train --input text-*.txt --vocab-size 400 --out u.model --overwrite \
  >/dev/null 2>&1
check "the same text, the same model" cmp t.model u.model
"$RATPLUS" tokenize --tokenizer t.model --input a.txt --out own >out.txt 2>&1
check "and tokenize takes it" test -s own/train.bin

# --- bad inputs ---------------------------------------------------------------------------------
t=(tokenize --tokenizer "$model")
mkdir -p folder
printf 'PAR1xxxx' >a.parquet
printf '\377\376h\0i\0' >utf16.txt
printf ' \n\n' >blank.txt
printf '{"text": "a"}\n{"text": 1}\n' >number.jsonl
printf '{"text": "a"}\n{"body": "b"}\n' >other.jsonl
printf '{"text": "a"}\n\n{"text": "b\n' >broken.jsonl
: >empty.txt
: >file
refused "no input" 2 "give --input" "${t[@]}" --out bad
refused "no tokenizer" 2 "give --tokenizer" tokenize --input a.txt --out bad
refused "no output" 2 "give --out" "${t[@]}" --input a.txt
refused "a missing file" 2 "nowhere.txt: no such file" "${t[@]}" --input nowhere.txt --out bad
refused "a folder" 2 "folder: is a folder" "${t[@]}" --input folder --out bad
refused "an empty name" 2 "empty name" "${t[@]}" --input '' --out bad
refused "standard input twice" 2 "named twice" "${t[@]}" --input - --input - --out bad
refused "empty standard input" 3 "no text" "${t[@]}" --input - --out bad
refused "an empty file" 3 "no text" "${t[@]}" --input empty.txt --out bad
refused "white space" 3 "no text" "${t[@]}" --input blank.txt --out bad
refused "Parquet" 3 "a.parquet: this is a Parquet file" "${t[@]}" --input a.parquet --out bad
refused "UTF-16" 3 "utf16.txt: this is UTF-16" "${t[@]}" --input utf16.txt --out bad
refused "a field of numbers" 3 "number.jsonl: line 2: column 10: the field is not a string" \
  "${t[@]}" --input number.jsonl --out bad
refused "a missing field" 3 'other.jsonl: line 2: no key "text" (there are: body)' \
  "${t[@]}" --input other.jsonl --out bad
refused "a broken line" 3 "broken.jsonl: line 3: column 12: the line ends" \
  "${t[@]}" --input broken.jsonl --out bad
refused "text as JSON lines" 3 "a.txt: line 1: column 1: expected a JSON object" \
  "${t[@]}" --format jsonl --input a.txt --out bad
refused "an unknown format" 2 "--format" "${t[@]}" --format xml --input a.txt --out bad
refused "an empty field" 2 "field" "${t[@]}" --field '' --input a.jsonl --out bad
refused "field and separator" 2 "leave it out" "${t[@]}" --field x --separator y --input a.txt --out bad
refused "field and plain text" 2 "leave one out" "${t[@]}" --field x --format text --input a.txt --out bad
refused "an empty separator" 2 "separator is empty" "${t[@]}" --separator '' --input a.txt --out bad
refused "a bad escape" 2 '--separator \q' "${t[@]}" --separator '\q' --input a.txt --out bad
refused "one byte an id" 2 "vocabulary of 700 does not fit" "${t[@]}" --num-bytes 1 --input a.txt --out bad
refused "three bytes an id" 2 "use 1, 2 or 4" "${t[@]}" --num-bytes 3 --input a.txt --out bad
refused "a share of one" 2 "between 0 and 1" "${t[@]}" --val-share 1 --input a.txt --out bad
refused "a share that is none" 2 "must be a number" "${t[@]}" --val-share x --input a.txt --out bad
refused "a negative count" 2 "not possible" "${t[@]}" --val-tokens -5 --input a.txt --out bad
refused "share and count" 2 "not both" "${t[@]}" --val-share 0.1 --val-tokens 5 --input a.txt --out bad
refused "nothing left to train on" 2 "leave none" "${t[@]}" --val-tokens 100000 --input a.txt --out bad
refused "no threads" 2 "--threads 0" "${t[@]}" --threads 0 --input a.txt --out bad
refused "an unknown flag" 2 "no --inptu" "${t[@]}" --inptu a.txt --out bad
refused "another run's files" 2 "--overwrite" "${t[@]}" --input a.txt --out whole
refused "an output that is a file" 1 "file" "${t[@]}" --input a.txt --out file
refused "a model that is none" 3 "a.txt: not a SentencePiece model" \
  tokenize --tokenizer a.txt --input a.txt --out bad
refused "a missing model" 1 "nowhere.model" tokenize --tokenizer nowhere.model --input a.txt --out bad
refused "a folder without model" 2 "no tokenizer.model" tokenize --tokenizer folder --input a.txt --out bad
check "none of these left a result" test ! -e bad/train.bin -a ! -e bad/val.bin
refused "no verb of its own" 2 "tokenizer what?" tokenizer --input a.txt
refused "another verb of its own" 2 "tokenizer has no trian; did you mean train?" tokenizer trian --input a.txt
refused "no vocabulary size" 2 "--vocab-size" tokenizer train --input a.txt --out bad.model
refused "no model file" 2 "give --out" tokenizer train --input a.txt --vocab-size 300
refused "too small a vocabulary" 2 "260" tokenizer train --input a.txt --vocab-size 20 --out bad.model
refused "fewer pieces than characters" 2 "vocabulary of 261" \
  tokenizer train --input text-0.txt --vocab-size 261 --out bad.model
refused "too large a vocabulary" 2 "vocabulary of 90000" \
  tokenizer train --input a.txt --vocab-size 90000 --out bad.model
refused "a model that is there" 2 "--overwrite" tokenizer train --input a.txt --vocab-size 300 --out t.model
refused "nothing to learn from" 3 "no text" tokenizer train --input blank.txt --vocab-size 300 --out bad.model
refused "coverage above one" 2 "coverage" \
  tokenizer train --input a.txt --vocab-size 300 --character-coverage 2 --out bad.model
check "none of these left a model" test ! -e bad.model
