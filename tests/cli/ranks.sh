#!/bin/bash
# ratplus under mpirun: what ranks say, how they stop, what they do when one of them dies, hangs or
# differs, and that every checkpoint on disk is whole.
# label: slow, label: alone
set -u
export SLURM_CPUS_PER_TASK=1 # tiny models: one thread
ref=$RATPLUS_SOURCE/tests/data/reference
if ! "$RATPLUS" --version | grep -q '^built in:.* mpi'; then
  echo "ok - all # SKIP built without MPI"
  exit
fi
if ! command -v mpirun >/dev/null; then
  echo "ok - all # SKIP there is no mpirun (Debian package openmpi-bin)"
  exit
fi
if ! "$RATPLUS" --version | grep -q '^built in:.* yaml '; then
  echo "ok - all # SKIP built without libyaml"
  exit
fi
export ASAN_OPTIONS=detect_leaks=0

. "$RATPLUS_SOURCE/tests/cli/tap.bash"

words=(experiment=fineweb_edu/ratplus-1b "configs_dir=$RATPLUS_SOURCE/configs" trainer.dtype=float32
       data.vocab_size=97 data.seq_len=48 data.batch_size=1 data.global_batch_size=4
       "data.train.tokenized_file_path=$ref/train.bin" data.train.limit_tokens=7680
       "data.val.tokenized_file_path=$ref/val.bin" data.val.limit_tokens=768
       trainer.log_interval=4 trainer.save_interval=0.1 model.backbone.num_layers=2
       model.backbone.d_model=32 model.backbone.seq_cell.d_head=16
       model.backbone.seq_cell.dilation_size=8 data.shards=4)
mpi=(timeout -k 5 120 mpirun --allow-run-as-root --oversubscribe --bind-to none)
# N ARGUMENTS...: ranks that train.
ranks() {
  local n=$1
  shift
  "${mpi[@]}" -n "$n" "$RATPLUS" train "${words[@]}" "$@" >out.txt 2>err.txt </dev/null
}
field() { sed -n "s/.*\"$2\":\"\{0,1\}\([^,}\"]*\).*/\1/p" "$1"; }
said() { grep -F -- "$1" err.txt; }

# --- a run from end to end ----------------------------------------------------------------------
ranks 2 run_dir=two trainer.fsdp.sharding_strategy=FULL_SHARD
check "two ranks end with 0" test $? = 0
check "one of them prints the result" test "$(grep -c '^val_loss ' out.txt)" = 1
check "one of them says where the run is" test "$(grep -c '^run: two, from step 0 of 40$' err.txt)" = 1
check "the log line has the share of waiting" grep -q 'waiting [0-9]*% (slowest: rank [01])' err.txt
check "metrics are written once" test "$(wc -l <two/metrics.jsonl)" = 11
check "the checkpoint is a model" eval '"$RATPLUS" info two/checkpoints/latest >/dev/null'
check "it is in parts with an index" test -f two/checkpoints/latest/model.safetensors.index.json
"$RATPLUS" eval loss "${words[@]}" run_dir=two --json >one.json 2>/dev/null
"${mpi[@]}" -n 3 "$RATPLUS" eval loss "${words[@]}" run_dir=two --json >three.json 2>/dev/null
check "eval over three ranks ends with 0" test $? = 0
check "eval over ranks gives the loss of one" test \
  "$(sed 's/.*"loss":\([0-9.]*\).*/\1/' one.json | cut -c 1-7)" = \
  "$(sed 's/.*"loss":\([0-9.]*\).*/\1/' three.json | cut -c 1-7)"
check "once" test "$(grep -c . three.json)" = "$(grep -c . one.json)"
# Shards that nobody named are the ranks of the first start, and stay the checkpoint's.
random=(data.shards=null data.val._name_=lm_random data.val.seed=5)
ranks 2 run_dir=drawn "${random[@]}"
"$RATPLUS" eval loss "${words[@]}" run_dir=drawn "${random[@]}" --json >drawn.json 2>err.txt
check "eval finds the shards in the checkpoint" test \
  "$(sed -n 's/^val_loss \([0-9.]*\).*/\1/p' out.txt | cut -c 1-7)" = \
  "$(sed 's/.*"loss":\([0-9.]*\).*/\1/' drawn.json | head -n 1 | cut -c 1-7)"
"$RATPLUS" eval loss "${words[@]}" run_dir=drawn "${random[@]}" data.shards=4 --json >other.json 2>err.txt
check "which is seen in the number" test "$(sed 's/.*"loss":\([0-9.]*\).*/\1/' drawn.json)" != \
  "$(sed 's/.*"loss":\([0-9.]*\).*/\1/' other.json)"
ranks 2 run_dir=two
check "a finished run ends with 0 on all" test $? = 0
check "and says so once" test "$(grep -c 'finished before' out.txt)" = 1

# --- bad input ----------------------------------------------------------------------------------
# NAME CODE SENTENCE N ARGUMENTS...: one line of error with this part.
refused() {
  local name=$1 code=$2 part=$3 n=$4 got
  shift 4
  ranks "$n" "$@"
  got=$?
  if [ $got = "$code" ] && [ "$(grep -c 'error:.*'"$part" err.txt)" = 1 ]; then
    echo "ok - refused: $name"
  else
    echo "# exit $got, wanted $code and \"$part\"; said: $(cat err.txt)"
    echo "not ok - refused: $name"
  fi
}
refused "shards that ranks do not divide" 2 "data.shards" 3 run_dir=bad data.global_batch_size=12
refused "a batch that ranks do not divide" 2 "global_batch_size" 3 run_dir=bad data.shards=3
refused "HYBRID_SHARD" 2 "sharding_strategy" 2 run_dir=bad trainer.fsdp.sharding_strategy=HYBRID_SHARD
refused "another number than MPI's" 2 "--ranks says 3 ranks and MPI says 2" 2 run_dir=bad --ranks 3
check "nothing is left behind" test ! -e bad
# Without NCCL there is MPI alone.
WORLD_SIZE=2 RANK=0 "$RATPLUS" train "${words[@]}" run_dir=bad >out.txt 2>err.txt
check "torchrun is told to be mpirun" test $? = 2
check "by name" said "mpirun -n 2 ratplus train"
SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 "$RATPLUS" train "${words[@]}" run_dir=bad >out.txt 2>err.txt
check "Slurm without its MPI is refused" test $? = 2
check "naming what to give" said "--mpi=pmix"
WORLD_SIZE=2 "$RATPLUS" train "${words[@]}" run_dir=bad --ranks 1 trainer.max_epoch=0 >out.txt 2>err.txt
check "--ranks 1 is alone" test $? = 0
rm -rf bad
WORLD_SIZE=two RANK=0 "$RATPLUS" train "${words[@]}" run_dir=bad >out.txt 2>err.txt
check "nonsense of a launcher is refused" test $? = 2
check "with its name" said "WORLD_SIZE=two"
WORLD_SIZE=2 RANK=2 "$RATPLUS" train "${words[@]}" run_dir=bad >out.txt 2>err.txt
check "a rank beyond the last, too" test $? = 2
check "with both" said "RANK=2 in the environment, but WORLD_SIZE=2"
WORLD_SIZE=2 RANK=1 "$RATPLUS" train "${words[@]}" run_dir=bad >out.txt 2>err.txt
check "the second of torchrun's ranks leaves the word to the first" test "$?-$(wc -c <err.txt)" = 2-0
"$RATPLUS" train "${words[@]}" run_dir=bad trainer.device=cuda >out.txt 2>err.txt
check "a GPU is refused" test $? = 2
check "by its name" said "trainer.device=cuda: "

# --- without MPI --------------------------------------------------------------------------------
# The second program is one with NCCL (of the tests): it joins by the variables of torchrun and Slurm.
other=$RATPLUS_BUILD/tests/ratplus-nccl
port() { echo $((20000 + (RANDOM * 32768 + RANDOM) % 20000)); }
# N ARGUMENTS...: ranks as torchrun starts them, rank 0's words in err.txt, the others' in errR.txt.
torched() {
  local n=$1 code=0 r pids=()
  shift
  for r in $(seq $((n - 1))); do
    RANK=$r WORLD_SIZE=$n timeout -k 5 120 "$other" train "${words[@]}" "$@" >"out$r.txt" \
      2>"err$r.txt" </dev/null &
    pids+=($!)
  done
  RANK=0 WORLD_SIZE=$n timeout -k 5 120 "$other" train "${words[@]}" "$@" >out.txt 2>err.txt </dev/null
  code=$?
  for r in "${pids[@]}"; do wait "$r" || code=$?; done
  return $code
}
export MASTER_ADDR=localhost MASTER_PORT
MASTER_PORT=$(port)
torched 2 run_dir=torch trainer.fsdp.sharding_strategy=FULL_SHARD
check "two ranks of torchrun train over TCP" test $? = 0
check "one of them prints the result" test "$(cat out.txt out1.txt | grep -c '^val_loss ')" = 1
same=yes
for f in two/checkpoints/latest/*.safetensors; do
  cmp -s "$f" "torch/checkpoints/latest/$(basename "$f")" || same=no
done
check "with the bits of the same over MPI" test $same = yes
MASTER_PORT=$(port) TORCHELASTIC_USE_AGENT_STORE=True torched 3 run_dir=torch trainer.max_epoch=0 \
  data.shards=12 data.global_batch_size=12
check "other ranks and a store of torchrun's agent" test $? = 2 # another configuration
check "are told of the run that is there" said "run_dir="
RANK=0 WORLD_SIZE=3 "$other" train "${words[@]}" run_dir=bad --deadline 2 >out.txt 2>err.txt
check "missing ranks end the start" test $? = 1
check "are warned of" said "these of 3 ranks have not come to localhost port $MASTER_PORT: 1, 2"
check "and named" said "did not come: 1, 2 of 3"
MASTER_PORT='' RANK=0 WORLD_SIZE=3 "$other" train "${words[@]}" run_dir=bad >out.txt 2>err.txt
check "no place to meet is refused" test $? = 2
check "naming what lacks" said "MASTER_ADDR and MASTER_PORT"
MASTER_ADDR=no.such.host.invalid RANK=0 WORLD_SIZE=3 "$other" train "${words[@]}" run_dir=bad \
  >out.txt 2>err.txt
check "an unknown host is refused" test $? = 2
check "by name" said "no.such.host.invalid"
perl -MIO::Socket -e '$s = IO::Socket::INET->new(Listen => 1, LocalAddr => "0.0.0.0") or die;
  $| = 1; print $s->sockport, "\n"; sleep 60' >taken.txt &
holder=$!
for i in $(seq 50); do [ -s taken.txt ] && break; sleep 0.1; done
MASTER_PORT=$(cat taken.txt) RANK=0 WORLD_SIZE=2 "$other" train "${words[@]}" run_dir=bad \
  >out.txt 2>err.txt
check "a port that is taken is refused" test $? = 2
check "with what to give" said "port $(cat taken.txt) of localhost, where the ranks should meet"
kill $holder
unset MASTER_ADDR MASTER_PORT

# As Slurm starts them where there is no MPI at all: they meet on the first of its nodes.
alone=$RATPLUS_BUILD/tests/ratplus-nccl-alone
export SLURM_JOB_ID=$RANDOM SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2
export SLURM_STEP_NODELIST="localhost,node[04-07]"
SLURM_PROCID=1 timeout 60 "$alone" train "${words[@]}" run_dir=slurm trainer.fsdp.sharding_strategy=FULL_SHARD \
  >out1.txt 2>err1.txt &
SLURM_PROCID=0 timeout 60 "$alone" train "${words[@]}" run_dir=slurm trainer.fsdp.sharding_strategy=FULL_SHARD \
  >out.txt 2>err.txt
check "the first of Slurm's tasks trains" test $? = 0
wait $!
check "the second, too" test "$?-$(cat out.txt out1.txt | grep -c '^val_loss ')" = 0-1
SLURM_STEP_NODELIST='nowhere[03-07,12].invalid' SLURM_PROCID=0 "$alone" train "${words[@]}" \
  run_dir=bad >out.txt 2>err.txt
check "an unknown node is refused" test $? = 2
check "and it is the first of the list" said "nowhere03.invalid, where rank 0"
unset SLURM_JOB_ID SLURM_STEP_ID SLURM_STEP_NUM_TASKS SLURM_STEP_NODELIST

# Different programs.
"${mpi[@]}" -n 1 "$RATPLUS" train "${words[@]}" run_dir=bad : -n 1 "$other" train "${words[@]}" \
  run_dir=bad >out.txt 2>err.txt
check "different programs are refused" test $? = 2
check "naming the rank" said "rank 1 on $(hostname) has another version of the program than rank 0"
check "nothing is left behind by any of these" test ! -e bad

# Different words on the second rank.
"${mpi[@]}" -n 1 "$RATPLUS" train "${words[@]}" run_dir=bad : -n 1 "$RATPLUS" train "${words[@]}" \
  run_dir=bad optim.optimizer.lr=0.5 >out.txt 2>err.txt
check "different configurations are refused" test $? = 2
check "naming the rank" said "rank 1 on $(hostname) has another configuration than rank 0"
cp "$ref/train.bin" other.bin
cp "$ref/train.bin.json" other.bin.json 2>/dev/null
mkdir -p a b && cp "$ref/train.bin" a/t.bin && cp "$ref/train.bin" b/t.bin
printf '\003' | dd of=b/t.bin bs=1 seek=4000 conv=notrunc 2>/dev/null
"${mpi[@]}" -n 1 -wdir "$PWD/a" "$RATPLUS" train "${words[@]}" "run_dir=$PWD/bad" \
  data.train.tokenized_file_path=t.bin : -n 1 -wdir "$PWD/b" "$RATPLUS" train "${words[@]}" \
  "run_dir=$PWD/bad" data.train.tokenized_file_path=t.bin >out.txt 2>err.txt
check "different token files are refused" test $? = 2
check "naming them" said "content of data.train's token file"
rm -rf bad
# A rank that never comes.
"${mpi[@]}" -n 1 "$RATPLUS" train "${words[@]}" run_dir=bad --deadline 3 : -n 1 sleep 30 >out.txt 2>err.txt
check "a rank that does not come ends the start" test $? = 1
check "with a warning before" said "warning: MPI has waited 2 s for ranks that were not started"
check "and an error" said "error: MPI has waited 3 s for ranks that were not started"

# --- signals ------------------------------------------------------------------------------------
long=(data.train.limit_tokens=-1 trainer.max_epoch=400 trainer.log_interval=1000
      trainer.save_interval=1.0)
# DIR STRATEGY ARGUMENTS...: three ranks in the background, going; mpirun's pid in $launcher.
start_long() {
  local dir=$1 how=$2 i
  shift 2
  "${mpi[@]}" -n 2 "$RATPLUS" train "${words[@]}" "${long[@]}" "run_dir=$PWD/$dir" \
    "trainer.fsdp.sharding_strategy=$how" "$@" >out.txt 2>err.txt </dev/null &
  launcher=$!
  for i in $(seq 300); do
    grep -q '^step 0/' err.txt && return
    sleep 0.1
  done
}
# The processes of the ranks of a run directory, by their own words.
ranks_of() { pgrep -f -- "^$RATPLUS train .*run_dir=$PWD/$1 "; }
start_long preempted 1
kill -USR1 "$(ranks_of preempted | tail -n 1)"
wait $launcher
check "SIGUSR1 to one rank ends all with 75" test $? = 75
check "status.json says stopped" test "$(field preempted/status.json state)" = stopped
check "the checkpoint is whole" eval '"$RATPLUS" info preempted/checkpoints/latest >/dev/null'
# Every signal to either rank, and the one that mpirun itself passes on.
for sig in TERM INT USR1 HUP; do
  for which in 1 2; do
    rm -rf preempted
    start_long preempted $((which + 1))
    kill -$sig "$(ranks_of preempted | sed -n ${which}p)"
    wait $launcher
    check "SIG$sig to one of two ranks, their $which. process" test \
      "$?-$(field preempted/status.json state)" = 75-stopped
  done
done
rm -rf preempted
start_long preempted 3
kill -USR1 "$(pgrep -P $launcher)"
wait $launcher
check "SIGUSR1 to mpirun" test "$?-$(field preempted/status.json state)" = 75-stopped

# --- no room --------------------------------------------------------------------------------------
# Rank 1 may write no file beyond 8 KiB (over TCP, since MPI needs files of its own).
limited='ulimit -f 8; exec "$0" "$@"'
"${mpi[@]}" --mca btl tcp,self -n 1 "$RATPLUS" train "${words[@]}" run_dir=full2 : \
  -n 1 bash -c "$limited" "$RATPLUS" train "${words[@]}" run_dir=full2 >out.txt 2>err.txt </dev/null
check "a rank that cannot write ends the run in its last save" test $? = 1
check "former saves are warned of, naming it" grep -q \
  "warning: step 4: no checkpoint could be saved (rank 1 on $(hostname): .*; training goes on" err.txt
check "the end names it once" test "$(grep -c "error: .*rank 1 on $(hostname)" err.txt)" = 1
check "no part of a checkpoint is left" test -z "$(ls full2/checkpoints 2>/dev/null)"
check "status.json says failed" test "$(field full2/status.json state)" = failed
ranks 2 run_dir=full2
check "with room the same command goes on" test "$?-$(field full2/status.json state)" = 0-finished
refused "a place that cannot be written" 1 "/proc/sys/ratplus" 2 run_dir=/proc/sys/ratplus

# --- a rank that hangs, and one that dies --------------------------------------------------------
start_long hung 3 --deadline 2
victim=$(ranks_of hung | tail -n 1)
kill -STOP "$victim"
wait $launcher
code=$?
kill -KILL "$victim" 2>/dev/null
check "a rank that hangs ends all with 1" test $code = 1
check "it is named with its machine" grep -qE "error: .*rank [01] on $(hostname) did not answer" err.txt
check "once" test "$(grep -c 'error:' err.txt)" = 1

# Ten times, or CHECK_KILLS times, a rank is killed at a random moment; the run that goes on is the one
# never stopped.
ranks 2 run_dir=whole trainer.fsdp.sharding_strategy=1
bad=0 kills=0
for i in $(seq "${CHECK_KILLS:-10}"); do
  [ "$(field killed/status.json state 2>/dev/null)" = finished ] && rm -rf killed
  "${mpi[@]}" -n 2 "$RATPLUS" train "${words[@]}" "run_dir=$PWD/killed" trainer.fsdp.sharding_strategy=1 \
    trainer.log_interval=1 >out.txt 2>err.txt </dev/null &
  launcher=$!
  sleep "0.$((RANDOM % 6 + 3))"
  pids=($(ranks_of killed))
  if [ ${#pids[@]} -gt 0 ] && kill -KILL "${pids[RANDOM % ${#pids[@]}]}" 2>/dev/null; then
    kills=$((kills + 1))
  fi
  wait $launcher
  for dir in killed/checkpoints/step-*; do
    [ -d "$dir" ] && ! "$RATPLUS" info "$dir" >/dev/null 2>&1 && bad=$((bad + 1))
  done
done
echo "# $kills ranks killed"
check "ranks were killed" test $kills -ge $((${CHECK_KILLS:-10} / 2))
check "every checkpoint on disk loads" test $bad = 0
ranks 2 run_dir=killed trainer.fsdp.sharding_strategy=1
check "the run goes on to its end" test $? = 0
same=yes
for f in whole/checkpoints/latest/*.safetensors; do
  cmp -s "$f" "killed/checkpoints/latest/$(basename "$f")" || same=no
done
check "with the bits of the run never stopped" test $same = yes
