#!/bin/bash
# ratplus bench: that each kind measures and prints, and the sentence and exit code of each bad input.
# TAP; runs in an empty folder. label: slow
# label: alone
set -u
R=$RATPLUS
export LC_ALL=C SLURM_CPUS_PER_TASK=1

. "$RATPLUS_SOURCE/tests/cli/tap.bash"

tiny=$RATPLUS_SOURCE/tests/data/config/tiny.json
says "help" 0 "Usage: ratplus bench machine" "" "$R" bench --help
check "a level by name has no product of its own kind" sh -c \
  '! "$1" bench machine --seconds 0.01 --device ref --json | grep -q _dot' sh "$R"
says "the machine" 0 '"product_float32":{"one":' "*" "$R" bench machine --seconds 0.01 --json
export XDG_CACHE_HOME=$PWD/cache
says "the machine, kept" 0 "memory, read" "wrote $XDG_CACHE_HOME/ratplus/machine-" \
  "$R" bench machine --seconds 0.01 --cached
cp .stdout first.txt
says "the machine, as kept" 0 "memory, read" "as measured before: $XDG_CACHE_HOME" "$R" bench machine --cached
check "the same numbers" cmp .stdout first.txt
says "another form is measured anew" 0 '"memory_read"' "wrote " "$R" bench machine --seconds 0.01 --cached --json
says "so is another cap of instructions" 0 "memory, read" "wrote " \
  env RATPLUS_CPU=ref "$R" bench machine --seconds 0.01 --cached
says "no folder to keep it in" 2 "" "neither XDG_CACHE_HOME nor HOME" \
  env -u XDG_CACHE_HOME -u HOME "$R" bench machine --cached
says "a folder that cannot be" 1 "memory, read" "cannot write" \
  env XDG_CACHE_HOME=/dev/null "$R" bench machine --seconds 0.01 --cached
says "a kernel is not kept" 2 "" "bench kernel takes no --cached" "$R" bench kernel act --cached
says "one kernel" 0 "act" "*" "$R" bench kernel act --seconds 0.001
tiny_op="--seconds 0.001 --heads 2 --width 32"
# Two sessions of 40 positions: the step sees 40 keys of 32 numbers, 39 of them in the caches.
says "a step of attention, its FLOPs and bytes" 0 "\"flops\":$((2 * 4 * 40 * 32)),\"bytes\":$((2 * 39 * 2 * 32 * 2))," \
  "" "$R" bench kernel attend $tiny_op --only decode --seq-len 40 --batch 2 --pattern D=1 --dtype bfloat16 --json
flops=$((3 * 10 * (1 + 2 + 10 * 3 + 2) * 32)) # T=12, D=8, W=2: the window, and key 7 for queries 10 and 11
says "attention backward of three sequences" 0 "\"flops\":$flops," "" \
  "$R" bench kernel attend_bwd $tiny_op --seq-len 12 --batch 3 --pattern 'D=8,W=2' --dtype float32 --json
says "rows of a product" 0 "2 rows, d=32" "" "$R" bench kernel gemm --seconds 0.001 --width 32 --batch 1,2
says "heads that share keys" 0 "1x40, 4x16 (2), D=8" "" \
  "$R" bench kernel attend --seconds 0.001 --width 64 --heads 4 --kv-heads 2 --seq-len 40 --pattern D=8 --batch 1
says "gate, scan and rotation against the copy rate" 0 "memory copy" "" \
  "$R" bench kernel gate $tiny_op --seq-len 4096 --batch 1
says "a chart of kernels" 0 "attend" "wrote kernel.svg" \
  "$R" bench kernel attend $tiny_op --seq-len 16,32 --pattern 'D=1;D=8' --dtype float32 --svg kernel.svg
check "its lines" grep -q 'D=8.*: T^' kernel.svg
says "a kernel that does not fit" 4 "" "of memory" "$R" bench kernel attend --seq-len 1048576 --memory 0.1
says "a kernel that takes too long is left out" 0 "left out: attend float32 1x1000000" "" \
  "$R" bench kernel attend $tiny_op --seq-len 16,1000000 --pattern D=1 --only prefill --patience 0.1 --batch 1
says "training" 0 "tokens/s" "*" "$R" bench train --config "$tiny" --dtype float32 --pattern 'D=1;D=8' \
  --steps 1 --seconds 0.1
"$R" bench train --config "$tiny" --dtype float32 --pattern D=1 --steps 1 --seconds 0.1 --json >out.txt 2>/dev/null
check "training as JSON: speed, rate and share" \
  grep -q '"tokens_per_second":.*"share":' out.txt

says "nothing named" 2 "" "bench what?" "$R" bench
says "something else named" 2 "" "bench has no machin; did you mean machine?" "$R" bench machin
says "a word too many" 2 "" "one word too many" "$R" bench machine attend
says "no such op" 2 "" "nosuch: no such op; there are" "$R" bench kernel nosuch
says "a pattern of an op that has none" 2 "" "act has no case of these sizes" "$R" bench kernel act --pattern D=8
says "patterns of heads" 2 "" "D={1:4,8:2}" "$R" bench kernel attend --pattern 'D={1:4,8:2}'
says "a kernel of no sequences" 2 "" "--batch 0: give numbers from 1 to 128" "$R" bench kernel attend --batch 0
says "more than a call holds" 2 "" "more than one call can hold" \
  "$R" bench kernel attend --seq-len 1073741823 --batch 64
says "an odd head" 2 "" "heads of an even width" "$R" bench kernel attend --width 6 --heads 2
says "keys that no query shares" 2 "" "cannot share 3" "$R" bench kernel attend --heads 4 --kv-heads 3
says "a configuration of a kernel" 2 "" "bench kernel takes no configuration" "$R" bench kernel act lr=1
says "no such level" 2 "" "must be one of auto, cpu, cuda, guard" "$R" bench kernel act --device gpu
says "less than no time" 2 "" "--seconds -1" "$R" bench machine --seconds -1
says "a time that is none" 2 "" "must be a number" "$R" bench machine --seconds soon
says "a level of a whole model" 2 "" "device ref: no such device; there are auto, cpu and cuda" \
  "$R" bench model --device ref
says "training of a shape by flags" 0 '"seq_len":32,"batch":2,' "*" \
  "$R" bench train --layers 1 --width 32 --heads 2 --vocab 50 --seq-len 32 --batch 2 --dtype float32 --steps 1 \
  --seconds 0.1 --pattern D=1 --json
says "training that fits only when activations are made again" 0 '"recompute":true' "*" \
  "$R" bench train --layers 8 --width 64 --heads 2 --vocab 50 --seq-len 256 --batch 2 --dtype float32 --steps 1 \
  --seconds 0.1 --pattern D=1 --json --memory 0.02
says "training that does not fit" 4 "" "give a smaller --batch" "$R" bench train --batch 4096 --memory 1 --seconds 0.1
says "training of a shape and a configuration" 2 "" "give one of the two" \
  "$R" bench train --config "$tiny" --layers 2
says "no steps" 2 "" "--steps 0: give a count from 1" "$R" bench train --steps 0
says "a pattern that is none" 2 "" "banana" "$R" bench train --pattern banana
says "a pattern that sees nothing" 2 "" "D=-1" "$R" bench train --pattern D=-1
says "a dtype there is not" 2 "" "--dtype int8" "$R" bench train --dtype int8
says "no threads" 2 "" "--threads 0" "$R" bench machine --threads 0
says "no threads among some" 2 "" "--threads 0: must be from 1 to 4096" "$R" bench kernel act --threads 1,0
says "a chart of two counts of threads" 2 "" "--svg draws one chart" \
  "$R" bench curve --threads 1,2 --svg x.svg
"$R" bench kernel act --seconds 0.001 --width 64 --threads 1,2 --json >out.txt 2>/dev/null
check "a table for each count of threads" test "$(grep -o '"threads":[0-9]*' out.txt | tr '\n' ' ')" = \
  '"threads":1 "threads":2 '
says "no such configuration" 2 "" "nowhere.json" "$R" bench train --config nowhere.json

# Inference: shapes so small that each takes no time. The counts below are made by hand: 14 d^2 weights a
# layer and V d of the head; a step reads all of them and 63 keys and values; a query sees 64.
small="--layers 2 --width 128 --heads 4 --vocab 500 --seconds 0.01"
weights=$((2 * 14 * 128 * 128 + 500 * 128))
bytes=$((4 * weights + 63 * 2 * 128 * 2 * 4))
flops=$((2 * weights + 4 * 64 * 128 * 2))
says "a decode, its FLOPs and bytes" 0 "\"flops\":$flops,\"bytes\":$bytes," "" \
  "$R" bench model $small --only decode --seq-len 64 --steps 1 --pattern D=1 --dtype float32 --json
says "a prefill and decodes of two patterns" 0 "decode   bfloat16  D=8,W=4" "" \
  "$R" bench model $small --seq-len 48 --batch 1,2 --pattern D=1 --pattern 'D=8,W=4'
says "the largest batch that fits" 0 "decode   bfloat16  D=8" "" \
  "$R" bench model $small --only decode --seq-len 40 --batch 0 --memory 0.02 --pattern D=8
says "the paper's protocol" 0 '"seq_len":64,"batch":1,' "" \
  "$R" bench model $small --protocol paper --only decode --seq-len 64 --batch 1 --steps 3 --json
says "which ops a step's time goes to" 0 "gemm" "*" \
  "$R" bench train --config "$tiny" --dtype float32 --pattern D=1 --steps 1 --seconds 0.1 --ops
says "which ops a decode's time goes to" 0 "gemm" "" \
  "$R" bench model $small --only decode --seq-len 40 --pattern D=1 --ops
says "ops are lines for people" 2 "" "leave out --json" "$R" bench model $small --ops --json
says "a kernel is one op" 2 "" "bench kernel takes no --ops" "$R" bench kernel act --ops
says "a configuration's shape" 0 "work" "*" "$R" bench model --config "$tiny" --seq-len 16 --seconds 0.01
# A model on disk: three layers of width 64 trained in PyTorch, as a directory in each type.
if "$R" --version | grep -q '^built in:.* zip '; then
  "$R" convert "$RATPLUS_SOURCE/tests/data/reference/ratplus.pth" model --dtype bfloat16 >/dev/null 2>&1
  says "a model on disk, its weights in the pages of their file" 0 "model: 3 layers, d=64, 4 heads of 16, f=256, V=97" "" \
    "$R" bench model --model model --dtype bfloat16 --seq-len 32 --batch 1,3 --seconds 0.01
  says "the same converted, and in both types" 0 "decode   float32   D=1 " "" \
    "$R" bench model --model model --dtype bfloat16,float32 --seq-len 32 --seconds 0.01
  says "a layer of its shape" 0 "layer: d=64, 4 heads of 16;" "" \
    "$R" bench layer --model model --seq-len 32 --seconds 0.01
else
  echo "ok - a model on disk # SKIP built without libzip"
fi
says "no recurrence" 0 "attention only" "" "$R" bench model $small --attention-only --seq-len 16
says "what takes too long is left out" 0 "left out: prefill bfloat16 D=1, T=100000, batch 1" "" \
  "$R" bench model $small --seq-len 16,100000 --pattern D=1 --only prefill --patience 0.1
says "weights that do not fit" 4 "" "the weights of this shape take" \
  "$R" bench model --shape 7b --memory 1
says "a cache that does not fit" 4 "" "nothing is left to measure" \
  "$R" bench model $small --only decode --seq-len 100000 --batch 64 --memory 0.1

# One mixer layer: 6 d^2 weights; its core reads four of the five parts of the projection.
one="--width 128 --heads 4 --seconds 0.01 --dtype float32"
layer=$((6 * 128 * 128))
flops=$((2 * layer + 4 * 64 * 128))
bytes=$((4 * layer + 63 * 2 * 128 * 4))
says "a layer's decode, its FLOPs and bytes" 0 "\"flops\":$flops,\"bytes\":$bytes," "" \
  "$R" bench layer $one --only decode --seq-len 64 --pattern D=1 --json
flops=$((2 * 64 * 2 * layer + 2 * 4 * 128 * 64 * 65 / 2))
says "a layer's prefill of two sequences" 0 "\"flops\":$flops,\"bytes\":0," \
  "" "$R" bench layer $one --only prefill --seq-len 64 --tokens 128 --pattern D=1 --json
flops=$((3 * 4 * (7 + 5) * 128)) # T=64: eight dilated, of which one is in the window of five
bytes=$((3 * (7 + 4) * 2 * 128 * 4)) # T=63: seven dilated are older than the window's four
says "a core's decode of three sessions" 0 "\"flops\":$flops,\"bytes\":$bytes," "" \
  "$R" bench core $one --only decode --seq-len 64 --batch 3 --pattern D=8,W=4 --json
flops=$((4 * 128 * 64 * 65 / 2))
bytes=$((64 * 4 * 128 * 4))
says "a core's prefill" 0 "\"flops\":$flops,\"bytes\":$bytes," "" \
  "$R" bench core $one --only prefill --seq-len 64 --pattern D=1 --json
says "a layer in two types and a pattern for each head" 0 "decode   float32   D={1:1,8:3}" "" \
  "$R" bench layer --width 128 --heads 4 --seconds 0.01 --dtype bfloat16,float32 --seq-len 48 \
  --pattern 'D={1:1,8:3}'
says "a layer without the recurrence" 0 "attention only" "" \
  "$R" bench layer $one --attention-only --kv-heads 2 --seq-len 32
says "a layer of a configuration" 0 "prefill" "*" "$R" bench layer --config "$tiny" --seq-len 16 --seconds 0.01
says "one head where all do not fit" 0 "(one head)" "" \
  "$R" bench core --width 1024 --heads 8 --seconds 0.01 --only prefill --seq-len 1024 --memory 0.01 --pattern D=1
says "the paper's lists, and what is left out of them" 0 "left out: decode float32 D=1, T=512, batch 4096" "" \
  "$R" bench layer $one --protocol paper --only decode --seq-len 512 --pattern D=1 --memory 0.5
says "as many sessions as fit" 0 "decode   float32   D=8 " "" \
  "$R" bench core $one --only decode --seq-len 40 --batch 0 --memory 0.28 --pattern D=8
says "what no call can hold" 4 "" "one head alone takes 29.80 PiB of memory" \
  "$R" bench core --only decode --seq-len 1000000000 --batch 65536 --pattern D=1 --seconds 0.01
says "sequences that no call can hold" 4 "" "of memory" \
  "$R" bench layer $one --only prefill --seq-len 1073741823 --tokens 1073741824 --pattern D=1

says "cost over T and its exponents" 0 "cost ~ T^e" "" \
  "$R" bench curve $one --seq-len 32,64,128 --pattern 'D=1;D=8'
says "the same as JSON and as a chart" 0 '"curves":[{"work":"prefill","dtype":"float32","pattern":"D=1"' \
  "wrote curve.svg" "$R" bench curve $one --seq-len 32,64,128 --pattern 'D=1;D=8' --json --svg curve.svg
check "the chart has a line for each work and pattern" \
  test "$(grep -c '>D=[18]: T^' curve.svg)" = 4
says "a chart of a model" 0 "decode" "wrote model.svg" \
  "$R" bench model $small --seq-len 16,32 --pattern D=1 --svg model.svg
check "its lengths" grep -q '>32<' model.svg
says "a chart where none can be" 1 "decode" "cannot write nowhere/x.svg" \
  "$R" bench core $one --only decode --seq-len 16 --svg nowhere/x.svg

says "a protocol of a curve" 2 "" "bench curve takes no --protocol" "$R" bench curve --protocol paper
says "no tokens" 2 "" "--tokens 0: give a count from 1" "$R" bench layer --tokens 0
says "tokens beyond every size" 2 "" "--tokens 4611686018427387904" "$R" bench layer --tokens 4611686018427387904
says "a length beyond every size" 2 "" "--seq-len 4611686018427387904: give numbers from 2" \
  "$R" bench layer --seq-len 4611686018427387904
says "a length that is no number" 2 "" "--seq-len" "$R" bench layer --seq-len 4k,8k
says "an empty length" 2 "" "--seq-len" "$R" bench core --seq-len 16,,32
says "a pattern for layers that are not there" 2 "" "D=[1,64]" "$R" bench layer --pattern 'D=[1,64]'
says "a width beyond every size" 2 "" "--width 9223372036854775807" \
  "$R" bench core --width 9223372036854775807
says "layers of a layer" 2 "" "bench layer takes no --layers" "$R" bench layer --layers 2
says "a chunk of a core" 2 "" "bench core takes no --chunk" "$R" bench core --chunk 2

says "a shape there is not" 2 "" "must be one of 1b" "$R" bench model --shape 2b
says "heads that do not divide" 2 "" "a width of 128 is not 3 heads" \
  "$R" bench model --width 128 --heads 3
says "key-value heads that do not divide" 2 "" "4 query heads cannot share 3" \
  "$R" bench model --width 128 --heads 4 --kv-heads 3
says "no layers" 2 "" "--layers 0: give a count from 1" "$R" bench model --layers 0
says "a length of one" 2 "" "--seq-len 1: give numbers from 2" "$R" bench model --seq-len 1
says "less than no batch" 2 "" "--batch -1" "$R" bench model --batch -1
says "no memory" 2 "" "--memory 0: give a number above 0" "$R" bench model --memory 0
says "a protocol there is not" 2 "" "must be one of paper" "$R" bench model --protocol other
says "a shape and a model" 2 "" "give one of the two" "$R" bench model --model x --layers 2
says "no such model" 3 "" "nowhere" "$R" bench model --model nowhere
says "a pattern of a model that is none" 2 "" "banana" "$R" bench model $small --pattern banana
says "a flag of another kind" 2 "" "bench machine takes no --shape" "$R" bench machine --shape 1b
