#!/bin/bash
# ratplus train: what a run leaves, how it resumes and stops, and the sentence and exit code of each
# bad input.
set -u
export SLURM_CPUS_PER_TASK=1 # tiny models: one thread
ref=$RATPLUS_SOURCE/tests/data/reference
if ! "$RATPLUS" --version | grep -q '^built in:.* yaml '; then
  echo "ok - all # SKIP built without libyaml"
  exit
fi

. "$RATPLUS_SOURCE/tests/cli/tap.bash"

# A small run over the authors' data; further words come behind and win.
words=(experiment=fineweb_edu/ratplus-1b "configs_dir=$RATPLUS_SOURCE/configs" trainer.dtype=float32
       data.vocab_size=97 data.seq_len=48 data.batch_size=2 data.global_batch_size=4
       "data.train.tokenized_file_path=$ref/train.bin" data.train.limit_tokens=1920
       "data.val.tokenized_file_path=$ref/val.bin" data.val.limit_tokens=768
       trainer.log_interval=2 trainer.save_interval=0.2 model.backbone.num_layers=2
       model.backbone.d_model=32 model.backbone.seq_cell.d_head=16
       model.backbone.seq_cell.dilation_size=8)
train() { "$RATPLUS" train "${words[@]}" "$@" >out.txt 2>err.txt </dev/null; }

# NAME CODE SENTENCE ARGUMENTS...: exit code and a part of the last line on stderr.
refused() {
  local name=$1 code=$2 part=$3 got
  shift 3
  train "$@"
  got=$?
  if [ $got = "$code" ] && tail -n 1 err.txt | grep -qF -- "$part" && [ ! -s out.txt ]; then
    echo "ok - refused: $name"
  else
    echo "# exit $got, wanted $code and \"$part\"; said: $(tail -n 3 err.txt) $(cat out.txt)"
    echo "not ok - refused: $name"
  fi
}

field() { sed -n "s/.*\"$2\":\"\{0,1\}\([^,}\"]*\).*/\1/p" "$1"; }

# --- a run from end to end ----------------------------------------------------------------------
train run_dir=first
check "a run ends with 0" test $? = 0
check "it prints the validation losses" grep -q '^val_loss_dense [0-9.]*$' out.txt
check "the first line names the run and where it began" grep -q '^run: first, from step 0 of 10$' err.txt
check "a plain line per log interval" test "$(grep -c '^step ' err.txt)" = 6
check "no bar and no colours without a terminal" test "$(tr -d '\n\r\033' <err.txt | wc -c)" = \
  "$(tr -d '\n' <err.txt | wc -c)"
check "status.json says finished" test "$(field first/status.json state)" = finished
check "metrics.jsonl has the lines" test "$(wc -l <first/metrics.jsonl)" = 6
check "validation is in the last line" test "$(tail -n 1 first/metrics.jsonl | grep -c \
  '"step":9,.*"train_loss":.*"train_loss1":.*"val_loss":.*"val_loss_dense":.*"lr":.*"grad_norm":')" = 1
check "what was not measured is left out" test "$(head -n 1 first/metrics.jsonl | grep -c val_loss)" = 0
check "events are written" test -s "$(echo first/events.out.tfevents.*)"
check "checkpoints come at the interval" test "$(ls first/checkpoints | tr '\n' ' ')" = \
  "latest step-00000002 step-00000004 step-00000006 step-00000008 step-00000010 "
check "latest is a relative link" test "$(readlink first/checkpoints/latest)" = step-00000010
check "a checkpoint is a model directory with its state" test \
  "$(ls first/checkpoints/latest | tr '\n' ' ')" = \
  "config.yaml model.safetensors optimizer.safetensors state.json "
check "the lock is gone" test ! -e first/lock

train run_dir=first
check "a finished run is told" grep -q '^finished before, after 10 steps$' out.txt
check "with its loss" grep -q "^val_loss $(env LC_ALL=C printf %.6f "$(field first/status.json val_loss)")$" out.txt
train run_dir=first --json
check "also in JSON" grep -q '^{"step":10,"of":10,"val_loss":.*"was_finished":true}$' out.txt

# --- stopped by a signal, and gone on with -----------------------------------------------------
"$RATPLUS" train "${words[@]}" run_dir=second data.train.limit_tokens=38400 \
  trainer.save_interval=0.5 >out.txt 2>err.txt </dev/null &
pid=$!
for _ in $(seq 200); do
  grep -q '^step 2/' err.txt && break
  sleep 0.05
done
kill -TERM $pid
wait $pid
check "SIGTERM ends it with 75" test $? = 75
check "and says that it was saved" grep -q 'with a checkpoint; the same command goes on' err.txt
check "status.json says stopped" test "$(field second/status.json state)" = stopped
step=$(field second/status.json step)
check "the checkpoint is of that step" test "$(readlink second/checkpoints/latest)" = \
  "step-$(printf %08d "$step")"
train run_dir=second data.train.limit_tokens=38400 trainer.save_interval=0.5
check "the same command goes on" test $? = 0
check "from that step" grep -q "^run: second, resumed from step $step of 200$" err.txt
train run_dir=third data.train.limit_tokens=38400 trainer.save_interval=0.5
check "as if never stopped: weights" cmp {second,third}/checkpoints/latest/model.safetensors
check "as if never stopped: optimizer" cmp {second,third}/checkpoints/latest/optimizer.safetensors
lines() { sed 's/,"tokens_per_second".*//' "$1/metrics.jsonl"; }
check "as if never stopped: losses" test "$(lines second | md5sum)" = "$(lines third | md5sum)"

# --- other beginnings -------------------------------------------------------------------------
train run_dir=adapted trainer.pretrained_path=first model.backbone.seq_cell.joint_train=false \
  model.backbone.seq_cell.dilation_size=16
check "a run starts from another run's weights" test $? = 0
check "without a sparse loss" test "$(grep -c train_loss1 adapted/metrics.jsonl)" = 0
train run_dir=from-pth trainer.pretrained_path="$ref/ratplus.pth" data.seq_len=96 \
  model.backbone.num_layers=3 model.backbone.d_model=64
check "and from the reference's checkpoint" test $? = 0
train run_dir=only trainer.max_epoch=0 trainer.pretrained_path=first
check "max_epoch=0 validates only" test "$(grep ^val_loss out.txt | md5sum)" = \
  "$(train run_dir=first; grep ^val_loss out.txt | md5sum)"
check "and saves nothing" test ! -e only/checkpoints
train run_dir=first optim.optimizer.lr=0.5 --overwrite
check "--overwrite moves the old run" test "$(field first.old-1/status.json state)" = finished
"$RATPLUS" train --dtype bfloat16 "${words[@]}" run_dir=rounded >out.txt 2>err.txt
check "--dtype is trainer.dtype" grep -q 'dtype: bfloat16' rounded/config.yaml

# --- bad input ----------------------------------------------------------------------------------
refused "a different run in the same place" 2 "optim.optimizer.lr" run_dir=second \
  data.train.limit_tokens=38400 optim.optimizer.lr=1
refused "run_dir= is named first" 2 "with run_dir=PATH, or move the old one" run_dir=second
refused "no such device" 2 "trainer.device=cpu" run_dir=no trainer.device=cuda
refused "cuda by flag" 2 "trainer.device=cpu" run_dir=no --device cuda
refused "no training file" 1 "nowhere.bin" run_dir=no data.train.tokenized_file_path=nowhere.bin
refused "no validation file" 1 "nowhere.bin" run_dir=no data.val.tokenized_file_path=nowhere.bin
: >empty.bin
refused "an empty file" 3 "empty.bin" run_dir=no data.train.tokenized_file_path=empty.bin
head -c 101 "$ref/train.bin" >odd.bin
refused "half an id at its end" 3 "odd.bin" run_dir=no data.train.tokenized_file_path=odd.bin
head -c 100 "$ref/train.bin" >short.bin
refused "too few tokens" 3 "short.bin" run_dir=no data.train.tokenized_file_path=short.bin \
  data.train.limit_tokens=-1
refused "ids beyond the vocabulary" 3 "train.bin" run_dir=no data.vocab_size=50
refused "too few tokens to validate" 2 "data.val" run_dir=no data.val.limit_tokens=100
refused "a limit beyond the file" 2 "train.bin" run_dir=no data.train.limit_tokens=99999999
refused "a batch that does not divide" 2 "data.batch_size" run_dir=no data.batch_size=3
refused "shards that do not divide" 2 "shards" run_dir=no data.shards=3
refused "no model where it should be" 3 "nowhere" run_dir=no trainer.pretrained_path=nowhere
refused "a model of other sizes" 3 "d_model" run_dir=no trainer.pretrained_path=second \
  model.backbone.d_model=64
refused "no pretrained model" 2 "trainer.pretrained_path is empty" run_dir=no \
  experiment=fineweb_adapt/1b/ratplus-1b-d16
refused "a key nobody reads" 2 "dilation_sise" run_dir=no model.backbone.seq_cell.dilation_sise=4
refused "no experiment of that name" 2 "ratplus-1b" run_dir=no experiment=fineweb_edu/ratplus-1c
refused "a dtype there is not" 2 "float16" run_dir=no trainer.dtype=float16
refused "an optimizer there is not" 2 "lion" run_dir=no optim/optimizer=lion
refused "a learning rate that is none" 2 "optim.optimizer.lr" run_dir=no optim.optimizer.lr=fast
refused "heads that do not fit" 2 "d_head" run_dir=no model.backbone.seq_cell.d_head=24
refused "dropout" 2 "dropout" run_dir=no model.backbone.dropout=0.1
# Open MPI keeps what it allocated to the end.
ASAN_OPTIONS=detect_leaks=0 refused "two ranks" 2 "--ranks 1" run_dir=no --ranks 2
refused "a flag there is not" 2 "--overwriet" run_dir=no --overwriet
refused "no threads" 2 "--threads 0" run_dir=no --threads 0
refused "a tokenizer that is not there" 1 "nowhere.model" run_dir=no tokenizer=nowhere.model
refused "a run directory that is a file" 1 "odd.bin" run_dir=odd.bin
refused "more memory than there is" 4 "no batch size makes it fit" \
  run_dir=no model.backbone.d_model=65536 model.backbone.seq_cell.d_head=128
RANK=0 WORLD_SIZE=4 refused "a launcher's four ranks" 2 "WORLD_SIZE says 4 ranks" run_dir=no
mkdir held && printf '{"host":"far.example","pid":12,"job":"slurm 9"}' >held/lock
refused "a lock of another machine" 2 "host far.example, process 12, job slurm 9" run_dir=held
train run_dir=held --take-over
check "--take-over breaks it" test $? = 0
printf '{"step":3}' >second/checkpoints/latest/state.json
rm second/status.json
refused "a damaged checkpoint" 3 "adam_step" run_dir=second data.train.limit_tokens=38400 \
  trainer.save_interval=0.5
check "nothing was left of what was refused" test ! -e no
