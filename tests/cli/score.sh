#!/bin/bash
# ratplus score: what it prints, that its numbers are those of `eval loss`, and the sentence and exit
# code of each bad input.
set -u
export SLURM_CPUS_PER_TASK=1 # tiny models: one thread
ref=$RATPLUS_SOURCE/tests/data/reference
if ! "$RATPLUS" --version | grep -q '^built in:.* zip '; then
  echo "ok - all # SKIP built without libzip"
  exit
fi

. "$RATPLUS_SOURCE/tests/cli/tap.bash"

score() { "$RATPLUS" score "$@" >out.txt 2>err.txt; }

# refused NAME CODE SENTENCE ARGUMENTS...: standard input is the script's.
refused() {
  local name=$1 code=$2 part=$3 got
  shift 3
  score "$@"
  got=$?
  if [ $got = "$code" ] && tail -n 1 err.txt | grep -qF -- "$part"; then
    echo "ok - refused: $name"
  else
    echo "# exit $got, wanted $code and \"$part\"; said: $(tail -n 3 err.txt)"
    echo "not ok - refused: $name"
  fi
}

model=(--model "$ref/ratplus.pth" --dtype float32)

# --- ids ----------------------------------------------------------------------------------------
printf '48 34 18 45\n\n[48,34, 18]\n48\t34,19\n' >ids.txt
score "${model[@]}" --pattern D=1 --tokens ids.txt
check "a line a sequence, in order" test "$? $(wc -l <out.txt)" = "0 4"
check "the first token has no log-probability" \
  grep -q '^{"logprobs":\[null,-3\.2826[0-9]*,-3\.3397[0-9]*,-5\.5139[0-9]*\],"argmax":\[85,62,91,9\]}$' out.txt
check "a line of no ids" test "$(sed -n 2p out.txt)" = '{"logprobs":[],"argmax":[]}'
check "the pattern used is printed" grep -q '^pattern: D=1$' err.txt
check "common beginnings are computed once" grep -q '^4 sequences, 10 tokens, 5 of them computed' err.txt
cp out.txt once.txt
score "${model[@]}" --pattern D=1 --tokens - <ids.txt
check "standard input gives the same" cmp out.txt once.txt
gzip -k ids.txt 2>/dev/null && "$RATPLUS" --version | grep -q '^built in:.* zlib ' && {
  score "${model[@]}" --pattern D=1 --tokens ids.txt.gz
  check "gzip gives the same" cmp out.txt once.txt
}
score "${model[@]}" --pattern D=1 --tokens ids.txt --from 2
check "--from adds the sum of a span" env LC_ALL=C awk -F'[][,:{}"]+' \
  'NR == 1 { d = $4 + $5 - 0; } /"sum"/ { n++ } END { exit n != 4 }' out.txt
check "which is that of its tokens" env LC_ALL=C awk '
  NR == 1 { match($0, /null,[^]]*/); split(substr($0, RSTART, RLENGTH), lp, ",")
            match($0, /"sum":[^}]*/); sum = substr($0, RSTART + 6, RLENGTH - 6)
            d = lp[3] + lp[4] - sum; exit !(d * d < 1e-12) }' out.txt
score "${model[@]}" --pattern D=1 --tokens ids.txt --from 9
check "beyond the end it is nothing" test "$(grep -c '"sum":0}$' out.txt)" = 4
score "${model[@]}" --tokens ids.txt
check "trained jointly: D=1 without --pattern" cmp out.txt once.txt
score "${model[@]}" --tokens ids.txt --pattern D=4
check "a pattern not trained: one notice with the command" \
  test "$(grep -c 'was not trained in the pattern D=4; .ratplus train' err.txt)" = 1
score --model "$ref/ratplus.pth" --dtype bfloat16 --pattern D=1 --tokens ids.txt
check "bfloat16 is near" env LC_ALL=C awk '
  match($0, /null,[^]]*/) { split(substr($0, RSTART, RLENGTH), lp, ",")
    if (lp[2] != "") { d = lp[2] + 3.2827; exit !(d * d < 0.01) } }' out.txt

# --- against eval loss --------------------------------------------------------------------------
# Windows of T and a label, as eval reads them; labels after the end of a document (2) do not count.
T=96
od -An -v -tu2 -w2 "$ref/val.bin" | awk -v T=$T '{ id[NR - 1] = $1 + 0 }
  END { for (w = 0; w * T + T < NR; w++) { line = id[w * T]
        for (i = 1; i <= T; i++) line = line " " id[w * T + i]; print line } }' >windows.txt
loss_of_scores() {
  env LC_ALL=C awk 'NR == FNR { ids[FNR] = $0; next }
    { split(ids[FNR], id, " "); match($0, /null[^]]*/); n = split(substr($0, RSTART, RLENGTH), lp, ",")
      for (i = 2; i <= n; i++) if (id[i - 1] != 2) { sum -= lp[i]; count++ } }
    END { printf "%.9f\n", sum / count }' windows.txt out.txt
}
near() { env LC_ALL=C awk -v a="$1" -v b="$2" -v tol="$3" \
  'BEGIN { d = a / b - 1; exit !(b > 0 && d < tol && -d < tol) }'; }
for p in D=1 D=8 'D=8,W=5' 'D=16,W=16,I=4' 'D=-1,W=8,I=4'; do
  want=$("$RATPLUS" eval loss "${model[@]}" --data "$ref/val.bin" --num-bytes 2 --seq-len $T --json \
    --pattern "$p" 2>/dev/null </dev/null | sed 's/.*"loss":\([^,]*\),.*/\1/')
  score "${model[@]}" --pattern "$p" --tokens windows.txt -c 97
  check "$p: the loss of eval, at once" near "$(loss_of_scores)" "$want" 1e-5
  score "${model[@]}" --pattern "$p" --tokens windows.txt -c 97 --chunk 1
  check "$p: the loss of eval, by decode steps" near "$(loss_of_scores)" "$want" 1e-5
done

# A pool for hardly more than one sequence gives the same numbers.
score "${model[@]}" --pattern D=1 --tokens windows.txt --chunk 7 --cache-mib 1
check "a small cache" near "$(loss_of_scores)" "$("$RATPLUS" eval loss "${model[@]}" --data \
  "$ref/val.bin" --num-bytes 2 --seq-len $T --json --pattern D=1 2>/dev/null </dev/null |
  sed 's/.*"loss":\([^,]*\),.*/\1/')" 1e-5

# --- text ---------------------------------------------------------------------------------------
if "$RATPLUS" --version | grep -q '^built in:.* sentencepiece '; then
  small=$RATPLUS_SOURCE/tests/data/text/llama.model
  refused "a tokenizer of another model" 2 "700 pieces and the model 97" "${model[@]}" --pattern D=1 \
    --tokenizer "$small" --text - <<<"hello"
fi
refused "text without a tokenizer" 2 "give --tokenizer" "${model[@]}" --text - <<<"hello"

# --- bad input ----------------------------------------------------------------------------------
refused "no model" 2 "--model" --tokens - <ids.txt
refused "nothing to score" 2 "--tokens FILE or --text FILE" "${model[@]}" </dev/null
refused "both" 2 "one of them" "${model[@]}" --tokens - --text - </dev/null
refused "a text's flag for ids" 2 "are for --text" "${model[@]}" --tokens - --bos </dev/null
refused "no file" 1 "nowhere.txt" "${model[@]}" --tokens nowhere.txt </dev/null
refused "a word among the ids" 3 "standard input:2: token 1 is no number" "${model[@]}" --tokens - \
  <<<$'1 2\n3 four'
check "what came before it was scored" test "$(wc -l <out.txt)" = 1
refused "an id that is none" 3 "standard input:1: token 2 is 97, and the model has 97" "${model[@]}" \
  --tokens - <<<"1 2 97"
refused "a negative id" 3 "token 0 is -1" "${model[@]}" --tokens - <<<"-1"
refused "an id beyond every number" 3 "token 0 is 99999999999999999999" "${model[@]}" --tokens - \
  <<<"99999999999999999999"
seq 1 20000 | awk '{ printf "%d ", $1 % 90 }' >long.txt
refused "a line that does not fit" 4 "20000 tokens, and the cache holds " "${model[@]}" --tokens long.txt \
  --pattern D=1 --cache-mib 1
fits=$(sed -n 's/.*the cache holds \([0-9]*\) .*/\1/p' err.txt)
check "the number that fits is there" test "${fits:-0}" -gt 100
env LC_ALL=C awk -v n="$fits" '{ for (i = 1; i <= n; i++) printf "%s ", $i }' long.txt >fits.txt
score "${model[@]}" --tokens fits.txt --pattern D=1 --cache-mib 1
check "and is right" test "$? $(wc -l <out.txt)" = "0 1"
refused "a pattern of nothing" 2 "D=-1" "${model[@]}" --tokens ids.txt --pattern D=-1
refused "two patterns" 2 "once" "${model[@]}" --tokens ids.txt --pattern D=1 --pattern D=4
refused "no chunk" 2 "--chunk 0" "${model[@]}" --tokens ids.txt --chunk 0
refused "counting from below" 2 "--from -1" "${model[@]}" --tokens ids.txt --from -1
refused "no cache" 2 "--cache-mib 0" "${model[@]}" --tokens ids.txt --cache-mib 0
says "a full disk" 1 "" "writing the results failed" \
  sh -c '"$0" score "$@" >/dev/full' "$RATPLUS" "${model[@]}" --tokens ids.txt
