#!/bin/bash
# ratplus and ratplus config as they are typed: output, exit codes, and that nothing goes astray.
# TAP; runs in an empty folder with RATPLUS (the program) and RATPLUS_SOURCE (the checkout) set.
R=$RATPLUS
export RATPLUS_CONFIGS=$RATPLUS_SOURCE/configs

# case NAME CODE OUT ERR COMMAND...: exit code, a part of stdout, a part of stderr ("" : empty, "*":
# anything).
check() {
  local name=$1 code=$2 out=$3 err=$4 got
  shift 4
  "$@" >out 2>err
  got=$?
  local bad=
  [ "$got" = "$code" ] || bad="exit $got, wanted $code"
  fits out "$out" || bad="$bad; stdout has no \"$out\""
  fits err "$err" || bad="$bad; stderr has no \"$err\""
  grep -q "$(printf '\033')" out err && bad="$bad; colours without a terminal"
  if [ -z "$bad" ]; then
    echo "ok - $name"
  else
    echo "not ok - $name ($bad)"
    sed 's/^/# /' out err | head -20
  fi
}

fits() {
  case $2 in
    '*') true ;;
    '') [ ! -s "$1" ] ;;
    *) grep -qF -- "$2" "$1" ;;
  esac
}

# A build without libyaml reads composed JSON only.
if "$R" --version | grep -q 'left out:.*yaml'; then
  check "a tree without libyaml" 2 "" "built without libyaml" "$R" config experiment=demo/ratplus
  check "JSON without libyaml" 0 '"num_layers": 3' "*" "$R" config --config \
    "$RATPLUS_SOURCE/tests/data/config/reference.json"
  "$R" config --config "$RATPLUS_SOURCE/tests/data/config/reference.json" >run.yaml 2>/dev/null
  check "what it writes it reads" 0 '"num_layers": 3' "*" "$R" config --config run.yaml
  exit 0
fi

check "no verb" 2 "" "Usage: ratplus VERB" "$R"
check "help" 0 "Usage: ratplus VERB" "" "$R" --help
check "help of a verb" 0 "Usage: ratplus config experiment=NAME" "" "$R" config --help
check "help before a verb" 0 "Usage: ratplus config experiment=NAME" "" "$R" help config
check "version" 0 "ratplus 0.1.0" "" "$R" --version
check "unknown verb" 2 "" "did you mean config?" "$R" confgi
check "unknown flag" 2 "" "did you mean --json?" "$R" config --jsno
check "unknown letter" 2 "" "config has no -z" "$R" config -z
check "flag without its value" 2 "" "--configs needs a value" "$R" config --configs
check "flag twice" 2 "" "--configs is given twice" "$R" config --configs a --configs b
check "switch with a value" 2 "" "--json takes no value" "$R" config --json=1
check "a stray argument" 2 "" "is no key=value" "$R" config foo
check "a pattern the shell took apart" 2 "" "quote the pattern" "$R" config D=64:12
check "--config-path" 2 "" "--configs DIR" "$R" config --config-path=x
check "--config-name" 2 "" "experiment=NAME" "$R" config --config-name x
check "--cfg job" 2 "" "ratplus config" "$R" config --cfg job
check "-m" 2 "" "one call is one run" "$R" config -m
check "no experiment" 2 "" "fineweb_edu/ratplus-1b" "$R" config
check "YAML" 0 "num_layers: 24" "configs: " "$R" config experiment=fineweb_edu/ratplus-1b
check "JSON" 0 '"num_layers": 24' "configs: " "$R" config --json experiment=fineweb_edu/ratplus-1b
check "a word" 0 "dilation_size: 16" "*" "$R" config experiment=fineweb_edu/ratplus-1b \
  model.backbone.seq_cell.dilation_size=16
check "a list" 0 "dilation_size: [1, 64, 1, 64, 1, 64]" "*" "$R" config experiment=cpu/ratplus-tiny \
  'model.backbone.seq_cell.dilation_size=${eval:"[1,64]*3"}'
check "a slip" 2 "" "did you mean model.backbone.seq_cell.local_size?" "$R" config \
  experiment=fineweb_edu/ratplus-1b model.backbone.backbone.seq_cell.local_size=64
check "values checked" 2 "" "must be true or false" "$R" config --check experiment=demo/ratplus \
  trainer.save_checkpoint=perhaps
check "values that are fine" 0 "vocab_size: " "*" "$R" config --check experiment=demo/ratplus
check "experiments" 0 "demo/ratplus" "" "$R" config --experiments
check "no tree" 2 "" "not a tree of configurations" "$R" config --configs /nowhere experiment=x
check "configs_dir=" 0 "seed: 1005" "configs: $RATPLUS_CONFIGS" "$R" config \
  "configs_dir=$RATPLUS_CONFIGS" experiment=demo/ratplus
check "man" 0 ".TH RATPLUS 1" "" "$R" man
check "completion" 0 "complete -o default -F _ratplus ratplus" "" "$R" completion bash
check "completion of nothing" 2 "" "completion what?" "$R" completion

# A tree in ./configs is found; the environment comes before it.
unset RATPLUS_CONFIGS
mkdir -p configs
printf 'defaults:\n  - _self_\n  - experiment: x\nname: ours\n' >configs/config.yaml
mkdir -p configs/experiment
printf '# @package _global_\nvalue: ${name}!\n' >configs/experiment/x.yaml
check "./configs" 0 "value: ours!" "configs: configs" "$R" config experiment=x
check "a file's place" 2 "" "configs/experiment/bad.yaml:2:8: " bash -c \
  "printf '# @package _global_\nvalue: \${nam}\n' >configs/experiment/bad.yaml; '$R' config experiment=bad"

# A composed file instead of a tree, in both forms; words go over it.
"$R" config --json experiment=x >run.json 2>/dev/null
"$R" config experiment=x >run.yaml 2>/dev/null
check "composed JSON" 0 "value: ours!" "configuration: run.json" "$R" config --config run.json
check "composed YAML and a word" 0 "name: z" "*" "$R" config --config run.yaml name=z
check "a group over a composed file" 2 "" "a group is chosen over a tree" "$R" config \
  --config run.json optim/optimizer=sgd
check "a composed file that is not there" 2 "" "gone.json" "$R" config --config gone.json

check "stdout is full" 1 "*" "No space left" bash -c "'$R' config experiment=x >/dev/full"
[ -e /dev/full ] || echo "# no /dev/full here"
