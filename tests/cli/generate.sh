#!/bin/bash
# ratplus generate, the samples that training prints, and the C example of docs/: what they print, how
# they end, and the sentence and exit code of each bad input.
set -u
export SLURM_CPUS_PER_TASK=1 # tiny models: one thread
R=$RATPLUS
data=$RATPLUS_SOURCE/tests/data
if ! "$R" --version | grep -q '^built in:.* sentencepiece ' ||
   ! "$R" --version | grep -q '^built in:.* yaml '; then
  echo "ok - all # SKIP built without SentencePiece or libyaml"
  exit
fi

. "$RATPLUS_SOURCE/tests/cli/tap.bash"

# generate ARGUMENTS...: standard input is the script's.
generate() { "$R" generate "$@" >out.txt 2>err.txt; }

refused() { # NAME CODE SENTENCE ARGUMENTS...
  local name=$1 code=$2 part=$3 got
  shift 3
  generate "$@"
  got=$?
  if [ $got = "$code" ] && tail -n 1 err.txt | grep -qF -- "$part" && [ ! -s out.txt ]; then
    echo "ok - refused: $name"
  else
    echo "# exit $got, wanted $code and \"$part\"; said: $(tail -n 3 err.txt) $(head -c 200 out.txt)"
    echo "not ok - refused: $name"
  fi
}

field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,}\"]*\).*/\1/p"; }

# --- a model of a text that repeats itself ------------------------------------------------------
# Documents of counting, so that after some iterations it counts by itself and ends with EOS.
awk 'BEGIN { srand(3); for (d = 0; d < 600; d++) {
  n = 3 + int(rand() * 20); k = int(rand() * 5)
  split("red green blue black white", w, " ")
  for (i = 0; i < n; i++) printf "%s%s", i ? " " : "", w[(k + i) % 5 + 1]
  printf "\n<|end|>\n" } }' >text.txt
"$R" tokenize --tokenizer "$data/text/llama.model" --input text.txt --separator $'\n<|end|>\n' \
  --val-share 0.1 --out tokens >/dev/null 2>&1
train() { # RUN WORDS...
  local run=$1
  shift
  "$R" train experiment=cpu/ratplus-tiny "configs_dir=$RATPLUS_SOURCE/configs" data_dir=tokens \
    run_dir="$run" tokenizer="$data/text/llama.model" data.vocab_size=700 data.seq_len=64 \
    data.batch_size=4 data.global_batch_size=4 data.train.limit_tokens=15360 \
    data.val.limit_tokens=-1 model.backbone.num_layers=2 model.backbone.d_model=32 \
    model.backbone.seq_cell.d_head=16 model.backbone.seq_cell.dilation_size=4 \
    optim.optimizer.lr=0.01 trainer.log_interval=20 "$@" >train.out 2>train.err </dev/null
}
train run trainer.sample_every=20 trainer.sample_prompt='red green' trainer.sample_tokens=16
check "a run with samples" test $? = 0
check "a sample every so often" test "$(grep -c '^sample [0-9]*/60  red green' train.err)" = 3
check "of what the model has learned" grep -q '^sample 60/60 .*\(blue black\|white red\|black white\)' train.err
train plain
check "no samples unless asked for... every 50 of 60" test "$(grep -c '^sample' train.err)" = 1
train none trainer.sample_every=0
check "none at all" test "$(grep -c '^sample' train.err)" = 0
check "the weights are the same with and without, bit for bit" cmp \
  run/checkpoints/latest/model.safetensors none/checkpoints/latest/model.safetensors
check "and the optimizer's state" cmp run/checkpoints/latest/optimizer.safetensors \
  none/checkpoints/latest/optimizer.safetensors
train none trainer.sample_every=1
check "samples make no other run of it" grep -q '^finished before' train.out
"$R" info experiment=cpu/ratplus-tiny "configs_dir=$RATPLUS_SOURCE/configs" data_dir=tokens --json \
  trainer.sample_every=1 >info.txt 2>/dev/null
check "they are in the memory plan" test "$(field samples <info.txt)" -gt 10000

m=(--model run --pattern D=1)

# --- one prompt ---------------------------------------------------------------------------------
generate "${m[@]}" --prompt 'red green' -n 12 </dev/null
check "a text" test "$? $(cat out.txt)" = "0  blue black white red green blue black" -o -s out.txt
check "it goes on as the text did" grep -q 'blue black white' out.txt
check "the pattern is printed" grep -q '^pattern: D=1$' err.txt
check "and statistics" grep -q '^prompt: [0-9]* tokens, [0-9.]* tokens/s; text: [0-9]* tokens, .*cache .* state ' err.txt
cp out.txt dense.txt
generate --model run --prompt 'red green' -n 12 </dev/null
check "trained jointly: D=1 without --pattern" cmp out.txt dense.txt
generate --model run --prompt 'red green' -n 12 --pattern 'D=4' </dev/null
check "the pattern trained: no notice" test "$(grep -c notice err.txt)" = 0
check "goes on too" grep -q 'blue' out.txt
generate --model run --prompt 'red green' -n 12 --pattern 'D=8,W=4' </dev/null
check "another: one notice with the command" \
  test "$(grep -c 'notice: .*D=8,W=4; .ratplus train experiment=' err.txt)" = 1
printf 'red green\n' | generate "${m[@]}" --prompt - -n 12
check "a prompt from standard input, without the line feed at its end" cmp out.txt dense.txt
generate "${m[@]}" -p 'red green' -n 12 --dtype float32 -t 2 -s 7 -c 60 </dev/null
check "short options; greedy does not depend on the seed" cmp out.txt dense.txt
generate "${m[@]}" --prompt 'red green' -n 12 --json </dev/null
check "JSON" grep -q '^{"prompt":0,"text":" .*blue.*","tokens":\[[0-9,]*\],"prompt_tokens":[0-9]*,"end":"[a-z_]*"}$' out.txt
check "the same text" test "$(field text <out.txt)" = "$(cat dense.txt)"
generate "${m[@]}" --prompt 'red green' -n 0 --json </dev/null
check "no token asked for" grep -q '"text":"","tokens":\[\],"prompt_tokens":0,"end":"max_tokens"' out.txt

# --- how it ends --------------------------------------------------------------------------------
generate "${m[@]}" --prompt 'red green' --stop 'ck wh' --json </dev/null
check "a stop string across the borders of tokens" test "$(field end <out.txt)" = stop
check "is cut off" grep -q '"text":" *blue bla"' out.txt
generate "${m[@]}" --prompt 'red green' --stop 'xyz' --stop 'bl' --json </dev/null
check "several, the first to come" grep -q '"text":" *",.*"end":"stop"' out.txt
id=$(sed -n 's/.*"tokens":\[[0-9]*,\([0-9]*\),.*/\1/p' out.txt)
generate "${m[@]}" --prompt 'red green' -n 3 --json </dev/null
id=$(sed -n 's/.*"tokens":\[[0-9]*,[0-9]*,\([0-9]*\).*/\1/p' out.txt)
check "max tokens" test "$(field end <out.txt)" = max_tokens
generate "${m[@]}" --prompt 'red green' --stop-id "699,$id" --json </dev/null
check "a stop id" test "$(field end <out.txt)" = stop
generate "${m[@]}" --prompt 'red green' --json </dev/null
check "EOS, or the length limit" grep -q '"end":"\(eos\|length\)"' out.txt
generate "${m[@]}" --prompt 'red green' --ignore-eos --json </dev/null
check "--ignore-eos runs to the length limit" test "$(field end <out.txt)" = length
check "prompt and text together are the limit" env LC_ALL=C awk '
  { match($0, /"tokens":\[[^]]*/); n = split(substr($0, RSTART, RLENGTH), t, ",")
    match($0, /"prompt_tokens":[0-9]*/); p = substr($0, RSTART + 16, RLENGTH - 16)
    exit n + p != 64 }' out.txt
generate "${m[@]}" --prompt 'red green' --ignore-eos --json -c 200 </dev/null
check "--max-length beyond the trained one" env LC_ALL=C awk '
  { match($0, /"tokens":\[[^]]*/); n = split(substr($0, RSTART, RLENGTH), t, ","); exit n < 190 }' out.txt

# --- sampling -----------------------------------------------------------------------------------
sample() { generate "${m[@]}" --prompt 'red' --ignore-eos -n 40 --temperature 1.5 "$@" </dev/null; }
sample --seed 1 && cp out.txt a.txt
sample --seed 1
check "a seed gives the text again" cmp out.txt a.txt
sample --seed 2
check "another seed another" test "$(cmp -s out.txt a.txt; echo $?)" = 1
sample --seed 1 --threads 2
check "whatever the threads" cmp out.txt a.txt
generate "${m[@]}" --prompt 'red' --ignore-eos -n 40 </dev/null && cp out.txt greedy.txt
sample --top-k 1
check "top-k 1 is greedy" cmp out.txt greedy.txt
sample --top-p 1e-9
check "a small top-p is greedy" cmp out.txt greedy.txt
sample --min-p 1
check "min-p 1 is greedy" cmp out.txt greedy.txt
different() { sed 's/.*"tokens":\[\([^]]*\).*/\1/' out.txt | tr ',' '\n' | sort -u | wc -l; }
generate "${m[@]}" --prompt 'red' --ignore-eos -n 30 --json </dev/null
few=$(different)
generate "${m[@]}" --prompt 'red' --ignore-eos -n 30 --repeat-penalty 3 --json </dev/null
check "a penalty for repetition brings other tokens" test "$(different)" -gt "$few"

# --- several prompts ----------------------------------------------------------------------------
several=(--prompt red --prompt 'green blue' --prompt 'white
red' --prompt '' --prompt 'blue black white red green')
generate "${m[@]}" "${several[@]}" -n 20 --temperature 1 --seed 3 --json </dev/null
check "a line a prompt, in order" test "$(field prompt <out.txt | tr '\n' ' ')" = "0 1 2 3 4 "
cp out.txt together.txt
generate "${m[@]}" "${several[@]}" -n 20 --temperature 1 --seed 3 --json --cache-mib 1 --threads 2 </dev/null
check "whatever the cache" cmp out.txt together.txt
generate "${m[@]}" --prompt red -n 20 --temperature 1 --seed 3 --json </dev/null
check "the first alone is what it was among others" test "$(head -n 1 together.txt)" = "$(cat out.txt)"
generate "${m[@]}" "${several[@]}" -n 5 </dev/null
check "each under the beginning of its prompt" test "$(grep -c '^==> [1-5]: .* <==$' out.txt)" = 5
check "on one line" grep -q '^==> 3: white red <==$' out.txt
printf 'red\ngreen blue\n' >prompts.txt
generate "${m[@]}" --prompts prompts.txt -n 6 --json && cp out.txt file.txt
generate "${m[@]}" --prompt red --prompt 'green blue' -n 6 --json </dev/null
check "a file of prompts" cmp out.txt file.txt
printf '{"q": "red"}\n{"q": "green blue"}\n' | generate "${m[@]}" --prompts - --field q -n 6 --json
check "JSON lines of prompts" cmp out.txt file.txt

# --- prompts that are odd -----------------------------------------------------------------------
generate "${m[@]}" --prompt '' -n 4 --json </dev/null
check "an empty prompt is BOS" test "$? $(field prompt_tokens <out.txt)" = "0 1"
generate "${m[@]}" --prompt red --bos -n 4 --json </dev/null
with=$(field prompt_tokens <out.txt)
generate "${m[@]}" --prompt red -n 4 --json </dev/null
check "--bos is a token more" test "$with" = $(($(field prompt_tokens <out.txt) + 1))
printf 'red \xff\xe2\x82 green' >bad.txt
generate "${m[@]}" --prompt - -n 4 --json <bad.txt && cp out.txt bad.json
printf 'red \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd green' | generate "${m[@]}" --prompt - -n 4 --json
check "bytes that are not UTF-8 read as U+FFFD" cmp out.txt bad.json
generate "${m[@]}" --prompt 'red</s>' -n 1 --json </dev/null
plain=$(field prompt_tokens <out.txt)
generate "${m[@]}" --prompt 'red</s>' -n 1 --json --parse-special </dev/null
check "a control piece is text unless asked for" test "$plain" -gt "$(field prompt_tokens <out.txt)"
long=$(yes 'red green' | head -n 60 | tr '\n' ' ')
refused "a prompt at the length limit" 2 "the length limit is 64" "${m[@]}" --prompt "$long" </dev/null
generate "${m[@]}" --prompt "$long" -c 1000 -n 5 </dev/null
check "with a larger one it goes" test $? = 0

# --- interrupted --------------------------------------------------------------------------------
"$R" generate --model run --pattern D=-1,W=32 --prompt red --ignore-eos -c 2000000 >out.txt 2>err.txt </dev/null &
pid=$!
for _ in $(seq 200); do
  [ "$(wc -c <out.txt)" -gt 50 ] && break
  sleep 0.05
done
kill -INT $pid 2>/dev/null # a background job of a script ignores SIGINT unless it catches it
wait $pid
check "Ctrl-C ends it with 130" test $? = 130
check "with statistics" grep -q '^prompt: .* text: [0-9]' err.txt
check "and a whole line" test "$(tail -c 1 out.txt | od -An -tx1 | tr -d ' ')" = 0a

# --- a conversation -----------------------------------------------------------------------------
printf 'red green\n\n blue\n' | generate "${m[@]}" --interactive -n 3 --ignore-eos
check "a line, an empty one, another: three texts" test "$? $(wc -l <out.txt)" = "0 3"
cp out.txt talk.txt
printf '\n blue\n' | generate "${m[@]}" --interactive -n 3 --ignore-eos --prompt 'red green'
check "the same with the first as --prompt" cmp out.txt talk.txt
generate "${m[@]}" --prompt 'red green' -n 6 --ignore-eos </dev/null
check "the session is kept: an empty line goes on" test "$(head -n 2 talk.txt | tr -d '\n')" = "$(cat out.txt)"
mkfifo talk
"$R" generate --model run --pattern D=-1,W=32 --interactive --ignore-eos -c 2000000 <talk >out.txt 2>err.txt &
pid=$!
exec 9>talk
echo red >&9
for _ in $(seq 200); do
  [ "$(wc -c <out.txt)" -gt 50 ] && break
  sleep 0.05
done
kill -INT $pid
for _ in $(seq 200); do
  [ "$(tail -c 1 out.txt | od -An -tx1 | tr -d ' ')" = 0a ] && break
  sleep 0.05
done
check "the first Ctrl-C ends the text" test "$(tail -c 1 out.txt | od -An -tx1 | tr -d ' ')" = 0a
sleep 0.2
kill -INT $pid
wait $pid
check "the second leaves with 0" test $? = 0
exec 9>&-

# --- the example of docs/ -----------------------------------------------------------------------
if [ -x "$RATPLUS_BUILD/stream" ]; then
  "$RATPLUS_BUILD/stream" run 'red green' D=1 >out.txt 2>err.txt
  check "the C example streams a text" test $? = 0
  generate "${m[@]}" --prompt 'red green' -n 100 </dev/null && cp out.txt want.txt
  "$RATPLUS_BUILD/stream" run 'red green' D=1 >out.txt 2>err.txt
  check "the same text" cmp out.txt want.txt
  "$RATPLUS_BUILD/stream" nowhere 'red green' >out.txt 2>err.txt
  check "and says what is wrong" test "$? $(grep -c nowhere err.txt)" = "3 1"
else
  echo "ok - the C example # SKIP built without tests"
fi

# --- bad input ----------------------------------------------------------------------------------
refused "no model" 2 "--model" --prompt x </dev/null
refused "a model that is not there" 3 "nowhere" --model nowhere --prompt x </dev/null
refused "no prompt" 2 "which prompt" "${m[@]}" </dev/null
refused "a stray argument" 2 "no key=value" "${m[@]}" hello </dev/null
refused "a shell's stray word" 2 "quote the pattern" "${m[@]}" --prompt x D=64:12 </dev/null
refused "a pattern of nothing" 2 "D=-1" --model run --pattern D=-1 --prompt x </dev/null
refused "a negative number of tokens" 2 "--max-tokens -1" "${m[@]}" --prompt x -n -1 </dev/null
refused "a temperature below 0" 2 "temperature -1" "${m[@]}" --prompt x --temperature -1 </dev/null
refused "top-p above 1" 2 "top-p 1.5" "${m[@]}" --prompt x --top-p 1.5 </dev/null
refused "top-k below 0" 2 "--top-k -1" "${m[@]}" --prompt x --top-k -1 </dev/null
refused "min-p above 1" 2 "min-p 2" "${m[@]}" --prompt x --min-p 2 </dev/null
refused "a penalty of 0" 2 "repeat penalty 0" "${m[@]}" --prompt x --repeat-penalty 0 </dev/null
refused "an empty stop string" 2 "stop string is empty" "${m[@]}" --prompt x --stop '' </dev/null
refused "a stop id that is none" 2 "--stop-id 700" "${m[@]}" --prompt x --stop-id 700 </dev/null
refused "a loop over a file" 2 "--interactive goes with" "${m[@]}" --interactive --prompts prompts.txt </dev/null
refused "no tokenizer" 2 "give --tokenizer" --model run/checkpoints/latest/model.safetensors \
  --pattern D=1 --prompt x model.backbone.seq_cell.d_head=16 </dev/null
refused "a file of prompts that is not there" 1 "nowhere.txt" "${m[@]}" --prompts nowhere.txt </dev/null
refused "more than the cache holds" 4 "the pool of 1.00 MiB holds" "${m[@]}" --prompt x -n 100000 -c 200000 \
  --cache-mib 1 </dev/null
generate "${m[@]}" --prompt red --ignore-eos -c 200000 --cache-mib 1 --json --dtype float32 </dev/null
check "without a number it runs as far as the cache goes" test "$? $(field end <out.txt)" = "0 length"
says "a full disk" 1 "" "writing the results failed" \
  sh -c '"$0" generate "$@" >/dev/full' "$R" "${m[@]}" --prompt red
