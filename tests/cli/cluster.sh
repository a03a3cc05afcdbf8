#!/bin/bash
# The job scripts of docs/cluster.md, as they stand there, under launchers that stand in for a
# cluster's: a signal stops and saves, the job is put back into the queue, and goes on to its end.
# label: slow, label: alone
set -u
export SLURM_CPUS_PER_TASK=1 # tiny models: one thread
ref=$RATPLUS_SOURCE/tests/data/reference
if ! "$RATPLUS" --version | grep -q '^built in:.* yaml.* mpi' || ! command -v mpirun >/dev/null; then
  echo "ok - all # SKIP needs MPI, mpirun and libyaml"
  exit
fi
case $RATPLUS_BUILD in
  *asan) # what they run is what ranks.sh runs
    echo "ok - all # SKIP the job scripts are tried with the release build"
    exit ;;
esac

. "$RATPLUS_SOURCE/tests/cli/tap.bash"

# --- a cluster ----------------------------------------------------------------------------------
mkdir -p bin
real_mpirun=$(command -v mpirun)
export REF=$ref REAL_MPIRUN=$real_mpirun OTHER=$RATPLUS_BUILD/tests/ratplus-nccl
cat >bin/ratplus <<'END'
#!/bin/bash
shift 2 # train experiment=...
program=$RATPLUS
[ -n "${RANK:-}" ] && program=$OTHER
exec "$program" train experiment=fineweb_edu/ratplus-1b "configs_dir=$RATPLUS_SOURCE/configs" \
  trainer.dtype=float32 data.vocab_size=97 data.seq_len=48 data.batch_size=1 \
  data.global_batch_size=8 "data.train.tokenized_file_path=$REF/train.bin" \
  data.train.limit_tokens=7680 "data.val.tokenized_file_path=$REF/val.bin" data.val.limit_tokens=768 \
  trainer.max_epoch=12 trainer.log_interval=10 trainer.save_interval=1.0 model.backbone.num_layers=2 \
  model.backbone.d_model=32 model.backbone.seq_cell.d_head=16 \
  model.backbone.seq_cell.dilation_size=8 data.shards=8 "$@"
END
cat >bin/mpirun <<'END'
#!/bin/bash
while [[ $1 == --* ]]; do case $1 in --map-by) shift 2 ;; *) shift ;; esac; done
exec "$REAL_MPIRUN" --allow-run-as-root --oversubscribe --bind-to none -n 2 "$@"
END
cat >bin/srun <<'END'
#!/bin/bash
while [[ $1 == --* ]]; do shift; done
[ "$1" = torchrun ] && exec "$@"
exec mpirun "$@"
END
cat >bin/scontrol <<'END'
#!/bin/bash
[ "$1" = show ] && echo localhost && exit
echo "$@" >>scontrol.txt
END
# Two ranks; SIGTERM goes to both; whatever they say becomes 1.
cat >bin/torchrun <<'END'
#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=$((20000 + RANDOM % 20000))
RANK=0 "$@" & a=$!
RANK=1 "$@" & b=$!
trap 'kill -TERM $a $b' TERM
wait $a; x=$?; wait $b; y=$?
[ $x -gt 128 ] && { wait $a; x=$?; wait $b; y=$?; }
[ $x$y = 00 ] || exit 1
END
chmod +x bin/*
export PATH=$PWD/bin:$PATH SLURM_JOB_ID=4711 SLURM_NNODES=1 SLURM_JOB_NODELIST=localhost
# Not a step of Slurm: the ranks come from the launchers above.
unset SLURM_STEP_ID

# --- the scripts --------------------------------------------------------------------------------
# TITLE: the indented block under it.
script_of() {
  awk -v title="## $1" '
    /^## / { on = $0 == title }
    on && /^    / { print substr($0, 5) }' "$RATPLUS_SOURCE/docs/cluster.md" |
    sed "s|/shared/runs/first|$PWD/run-$1|" >"$1.sh"
  bash -n "$1.sh" && grep -q '^#SBATCH' "$1.sh" && grep -q "run-$1" "$1.sh"
}
field() { sed -n "s/.*\"$2\":\"\{0,1\}\([^,}\"]*\).*/\1/p" "$1" 2>/dev/null; }
started() {
  local i
  for i in $(seq 300); do
    grep -q '^step 10/' err.txt && return
    sleep 0.1
  done
  echo "# $(cat err.txt)"
}
ranks_of() { pgrep -f -- "ratplus.* train .*run_dir=$PWD/run-$1( |\$)" | grep -vx "$job"; }

# TITLE: its script stops at the signal that its own header asks for, sent to whom it says.
try_script() {
  local how
  rm -f scontrol.txt
  check "$1: the script is there" script_of "$1"
  how=$(sed -n 's/^#SBATCH.*--signal=\([A-Z:0-9]*\)@.*/\1/p' "$1.sh")
  bash "$1.sh" >out.txt 2>err.txt </dev/null &
  job=$!
  started
  case $how in
    B:*) kill "-${how#B:}" $job ;;
    *) case $1 in
         # All processes of the step: the ranks, and torchrun before them.
         torchrun) kill -TERM $(pgrep -P $job) ;;
         *) ranks_of "$1" | while read -r pid; do
              [ "$(readlink "/proc/$pid/exe")" = "$(readlink -f "$RATPLUS")" ] && kill "-$how" "$pid"
            done ;;
       esac ;;
  esac
  wait $job
  check "$1: $how stops the run" test "$(field "run-$1/status.json" state)" = stopped
  check "$1: before its end" test "$(field "run-$1/status.json" step)" -lt 240
  check "$1: and puts the job back" grep -qx 'requeue 4711' scontrol.txt
  rm -f scontrol.txt
  bash "$1.sh" >out.txt 2>err.txt </dev/null
  check "$1: the next start goes on" grep -q 'resumed from step [1-9]' err.txt
  check "$1: to the end" test "$(field "run-$1/status.json" state)" = finished
  check "$1: which is not put back" test ! -e scontrol.txt
}

try_script srun
try_script mpirun
[ -x "$OTHER" ] && try_script torchrun
