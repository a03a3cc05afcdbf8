#!/bin/bash
# ratplus eval loss: the numbers it prints, and the sentence and exit code of each bad input.
set -u
export SLURM_CPUS_PER_TASK=1 # tiny models: one thread
ref=$RATPLUS_SOURCE/tests/data/reference
if ! "$RATPLUS" --version | grep -q '^built in:.* yaml '; then
  echo "ok - all # SKIP built without libyaml"
  exit
fi

. "$RATPLUS_SOURCE/tests/cli/tap.bash"

evaluate() { "$RATPLUS" eval loss "$@" >out.txt 2>err.txt </dev/null; }

# NAME CODE SENTENCE ARGUMENTS...: exit code and a part of the last line on stderr.
refused() {
  local name=$1 code=$2 part=$3 got
  shift 3
  evaluate "$@"
  got=$?
  if [ $got = "$code" ] && tail -n 1 err.txt | grep -qF -- "$part" && [ ! -s out.txt ]; then
    echo "ok - refused: $name"
  else
    echo "# exit $got, wanted $code and \"$part\"; said: $(tail -n 3 err.txt) $(cat out.txt)"
    echo "not ok - refused: $name"
  fi
}

field() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,}\"]*\).*/\1/p"; }

words=(experiment=fineweb_edu/ratplus-1b "configs_dir=$RATPLUS_SOURCE/configs" trainer.dtype=float32
       data.vocab_size=97 data.seq_len=96 data.batch_size=2 data.global_batch_size=4
       "data.train.tokenized_file_path=$ref/train.bin" data.train.limit_tokens=1536
       "data.val.tokenized_file_path=$ref/val.bin" data.val.limit_tokens=-1
       "trainer.pretrained_path=$ref/ratplus.pth" model.backbone.num_layers=3
       model.backbone.d_model=64 model.backbone.seq_cell.d_head=16
       model.backbone.seq_cell.dilation_size=8 run_dir=run)

# --- a model and a file ---------------------------------------------------------------------------
"$RATPLUS" train "${words[@]}" >trained.txt 2>/dev/null
check "a run to look at" test $? = 0
evaluate --model run --data "$ref/val.bin" --pattern 'D=1' --pattern 'D=8' --pattern 'D=8,W=16,I=4'
check "a table, a row a pattern" test "$(wc -l <out.txt)" = 4
check "in the order given" test "$(env LC_ALL=C awk 'NR > 1 {print $1}' out.txt | tr '\n' ' ')" = \
  "D=1 D=8 D=8,W=16,I=4 "
check "one notice for patterns not trained" test "$(grep -c 'was not trained in the pattern' err.txt)" = 1
evaluate --model run --data "$ref/val.bin" --json
check "trained jointly: D=1 without --pattern" test "$(field pattern <out.txt)" = D=1
check "the pattern used is printed" grep -q '^pattern: D=1$' err.txt
check "every full window, none floored" test "$(field windows <out.txt)" = 41
check "labels after the end of a document do not count" test "$(field tokens <out.txt)" -lt 3936
evaluate --model run --data "$ref/val.bin" --json --seq-len 4000
check "one long window" test "$(field windows <out.txt)" = 1
evaluate --model run/checkpoints/latest --data "$ref/val.bin" --json --label x --pattern D=8
check "a checkpoint, and a label" test "$(field label <out.txt)" = x
evaluate --model run/checkpoints/latest/model.safetensors --data "$ref/val.bin" --pattern D=1 --json \
  model.backbone.seq_cell.d_head=16 --num-bytes 2 --seq-len 96
check "a bare file with what it does not say" test $? = 0
evaluate --model "$ref/ratplus.pth" --data "$ref/val.bin" --json --dtype float32
check "the reference's checkpoint" test "$(field pattern <out.txt)" = D=1
f32=$(field loss <out.txt)
evaluate --model "$ref/ratplus.pth" --data "$ref/val.bin" --json --dtype bfloat16
check "bfloat16 is near" env LC_ALL=C awk -v a="$f32" -v b="$(field loss <out.txt)" \
  'BEGIN { d = a - b; exit !(d != 0 && d * d < 1e-4) }'

# --- a run's own number -----------------------------------------------------------------------
evaluate "${words[@]}" --model run --json
# printed WORD VALUE: what training printed is the value, rounded to six digits behind the point.
printed() {
  env LC_ALL=C awk -v word="$1" -v value="$2" \
    '$1 == word { found = 1; d = $2 - value; exit !(d * d <= 1e-12) } END { if (!found) exit 1 }' \
    trained.txt
}
check "experiment= gives the run's val_loss" printed val_loss "$(head -n 1 out.txt | field loss)"
check "and, trained jointly, the dense one" \
  printed val_loss_dense "$(tail -n 1 out.txt | field loss)"
evaluate "${words[@]}" trainer.pretrained_path=none --json
check "without a path: the run's latest" printed val_loss "$(head -n 1 out.txt | field loss)"

# --- bad input ----------------------------------------------------------------------------------
val=$ref/val.bin
refused "no model" 2 "--model" --data "$val"
refused "no text" 2 "--data" --model run
refused "a model that is not there" 3 "nowhere" --model nowhere --data "$val"
refused "a text that is not there" 1 "nowhere.bin" --model run --data nowhere.bin
refused "a folder for a text" 3 "is a folder" --model run --data .
refused "a shell's stray word" 2 "quote the pattern" --model run --data "$val" D=64:12
refused "a pattern that sees nothing" 2 "D=-1" --model run --data "$val" --pattern 'D=-1'
refused "a pattern of other letters" 2 "X=3" --model run --data "$val" --pattern 'X=3'
refused "D=0" 2 "D=0" --model run --data "$val" --pattern 'D=0'
refused "more layers than there are" 2 "D=[1,2]" --model run --data "$val" --pattern 'D=[1,2]'
refused "more heads than there are" 2 "D=" --model run --data "$val" --pattern 'D={1:4,64:12}'
refused "no length" 2 "--seq-len 0" --model run --data "$val" --seq-len 0
refused "a length that is no number" 2 "--seq-len" --model run --data "$val" --seq-len long
refused "a window longer than the text" 3 "4001 tokens" --model run --data "$val" --seq-len 4001
refused "bytes there are not" 2 "--num-bytes 3" --model run --data "$val" --num-bytes 3
refused "ids beyond the vocabulary" 3 "val.bin" --model run --data "$val" --num-bytes 4
refused "a dtype there is not" 2 "float16" --model run --data "$val" --dtype float16
refused "cuda" 2 "cuda" --model run --data "$val" --device cuda
refused "bytes that nobody says" 2 "--num-bytes" --data "$val" --pattern D=1 --seq-len 96 \
  --model run/checkpoints/latest/model.safetensors model.backbone.seq_cell.d_head=16
refused "two models" 2 "--model" --model run --model run --data "$val"
refused "no such kind of evaluation" 2 "loose" loose --model run
refused "data beside experiment=" 2 "data.val.tokenized_file_path=" "${words[@]}" --data "$val"
refused "a run without a model" 2 "run_dir=" "${words[@]}" trainer.pretrained_path=none run_dir=no
head -c 2000 run/checkpoints/latest/model.safetensors >cut.safetensors
refused "half a file" 3 "cut.safetensors" --model cut.safetensors --data "$val" --pattern D=1
printf 'not a model' >x.pth
refused "a text for a .pth" 3 "x.pth" --model x.pth --data "$val"
mkdir empty
refused "an empty folder" 3 "empty" --model empty --data "$val"
check "nothing was made by what was refused" test ! -e no
