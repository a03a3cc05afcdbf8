#!/bin/bash
# Training from a composed configuration (--config FILE.json): the way of a build without libyaml,
# and of a cluster node. TAP; runs in an empty folder.
set -u
export SLURM_CPUS_PER_TASK=1 # tiny models: one thread
ref=$RATPLUS_SOURCE/tests/data/reference
cp "$ref/train.bin" "$ref/val.bin" .

. "$RATPLUS_SOURCE/tests/cli/tap.bash"
train() {
  "$RATPLUS" train --config "$RATPLUS_SOURCE/tests/data/config/tiny.json" run_dir=run "$@" \
    >out.txt 2>err.txt </dev/null
}

train
check "a composed configuration trains" test $? = 0
check "and is validated" grep -q '^val_loss ' out.txt
check "the run says that it is finished" grep -q '"state": *"finished"' run/status.json
"$RATPLUS" eval loss --model run --data val.bin --pattern D=1 --pattern D=8 --json >eval.txt 2>err.txt
check "its model is measured" test $? = 0
check "a line a pattern" test "$(wc -l <eval.txt)" = 2
"$RATPLUS" convert run model >out.txt 2>err.txt
check "and converted" test -f model/model.safetensors
train
check "a second start finds it finished" test $? = 0
train optim.optimizer.lr=1e-4
check "words are laid over a composed configuration" test $? = 2
check "and what differs is named" grep -q 'optim.optimizer.lr' err.txt
