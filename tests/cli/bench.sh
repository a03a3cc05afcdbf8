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
says "the machine" 0 '"product_float32":{"one":' "*" "$R" bench machine --seconds 0.01 --json
says "one kernel" 0 "act" "*" "$R" bench kernel act --seconds 0.001
says "training" 0 "tokens/s" "*" "$R" bench train --config "$tiny" --dtype float32 --patterns 'D=1;D=8' \
  --steps 1
"$R" bench train --config "$tiny" --dtype float32 --patterns D=1 --steps 1 --json >out.txt 2>/dev/null
check "training as JSON: speed, rate and share" \
  grep -q '"tokens_per_second":.*"share":' out.txt

says "nothing named" 2 "" "bench what?" "$R" bench
says "something else named" 2 "" "bench has no machin; did you mean machine?" "$R" bench machin
says "a word too many" 2 "" "one word too many" "$R" bench machine attend
says "no such op" 2 "" "nosuch: no such op; there are" "$R" bench kernel nosuch
says "no such level" 2 "" "must be one of cpu" "$R" bench kernel act --device gpu
says "less than no time" 2 "" "--seconds -1" "$R" bench machine --seconds -1
says "a time that is none" 2 "" "must be a number" "$R" bench machine --seconds soon
says "no steps" 2 "" "--steps 0: give a count from 1" "$R" bench train --steps 0
says "a pattern that is none" 2 "" "banana" "$R" bench train --patterns banana
says "a pattern that sees nothing" 2 "" "D=-1" "$R" bench train --patterns D=-1
says "a dtype there is not" 2 "" "--dtype int8" "$R" bench train --dtype int8
says "no threads" 2 "" "--threads 0" "$R" bench machine --threads 0
says "no such configuration" 2 "" "nowhere.json" "$R" bench train --config nowhere.json
