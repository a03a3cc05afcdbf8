#!/bin/bash
# ratplus info of models and token files. TAP; runs in an empty folder with RATPLUS (the program) and
# RATPLUS_SOURCE (the checkout) set.
R=$RATPLUS
S=$RATPLUS_SOURCE/tests/data
export LC_ALL=C
if ! "$R" --version | grep -q '^built in:.* zip '; then
  echo "ok - all # SKIP built without libzip"
  exit
fi

. "$RATPLUS_SOURCE/tests/cli/tap.bash"

"$R" convert "$S/reference/ratplus.pth" model 2>/dev/null
says "help" 0 "Usage: ratplus info PATH" "" "$R" info --help
says "a .pth" 0 "RAT+, 3 layers, d=64, 4 heads of 16, f=256 gelu, V=97" "" "$R" info \
  "$S/reference/ratplus.pth"
says "a model directory" 0 "parameters  178688" "" "$R" info model
says "its pattern" 0 "D=8, trained jointly with D=1" "" "$R" info model
says "JSON" 0 '"parameters":178688' "" "$R" info --json model
says "a word" 0 "D=16" "*" "$R" info model model.backbone.seq_cell.dilation_size=16
says "a token file" 0 "60001" "*" "$R" info "$S/reference/train.bin"
says "a word of a token file" 2 "" "train.bin: key=value words are for a model" "$R" info "$S/reference/train.bin" \
  data.num_bytes=4
says "two paths" 0 "60001" "*" "$R" info model "$S/reference/train.bin"
says "a pattern" 0 "sees 500 of 4096 keys: 4 initial, 257 local, 239 dilated" "" "$R" info \
  --pattern D=16,W=256,I=4
says "a pattern drawn" 0 "  i..d.lll" "" "$R" info --pattern D=4,W=2,I=1 --seq-len 8
says "a pattern by layer" 0 "sees 1040 of 2048 keys" "" "$R" info --pattern 'D=[1,64]*12' \
  --layers 24 --seq-len 2048
says "a pattern as JSON" 0 '"keys_kept":500.0' "" "$R" info --json --pattern D=16,W=256,I=4
says "no pattern" 2 "" "D=" "$R" info --pattern banana
says "a pattern that sees nothing" 2 "" "D=-1" "$R" info --pattern D=-1
says "a sequence of nothing" 2 "" "from 1 to" "$R" info --pattern D=4 --seq-len 0
says "a pattern of a model" 0 "model         3 layers of 4 heads of 16, 4 kv heads" "" "$R" info model \
  --pattern D=4 --seq-len 100
says "its operations and bytes" 0 "recurrence, float32" "" "$R" info --pattern D=1x1+4x3 model
says "the model's own length" 0 "sequence      64 tokens" "" "$R" info --pattern D=4 model \
  model.embedding.pe.max_seq_len=64
if "$R" --version | grep -q "left out:.*yaml"; then
  echo "ok - a pattern of an experiment # SKIP built without libyaml"
else
  says "a pattern of an experiment" 0 "24 layers of 16 heads of 128, 16 kv heads" "configs:" "$R" info \
    --configs "$RATPLUS_SOURCE/configs" experiment=fineweb_edu/ratplus-1b --pattern 'D=[1,64]*12'
  says "grouped kv heads" 0 "of 128, 4 kv heads" "configs:" "$R" info \
    --configs "$RATPLUS_SOURCE/configs" experiment=fineweb_edu/ratplus-1b \
    model.backbone.seq_cell.num_kv_head=4 --pattern 'D=1x1+64x3'
  # A plan counts the steps, or says of the token file what a training would say.
  cp "$S/reference/train.bin" ids.bin
  plan=("$R" info --configs "$RATPLUS_SOURCE/configs" experiment=fineweb_edu/ratplus-1b data.seq_len=96
    data.batch_size=2 data.global_batch_size=4 data.train.limit_tokens=1536 data.vocab_size=97)
  ids=data.train.tokenized_file_path=ids.bin
  says "steps of a plan" 0 "steps                4 of 384 tokens" "configs:" "${plan[@]}" $ids
  echo '{"num_bytes":2,"vocab_size":98}' >ids.bin.json
  says "another vocabulary" 0 "unknown: ids.bin: vocab_size is 97 but ids.bin.json says 98" "configs:" \
    "${plan[@]}" $ids
  says "as JSON" 0 '"steps_unknown":"ids.bin: vocab_size is 97 but ids.bin.json says 98' "configs:" \
    "${plan[@]}" $ids --json
  rm ids.bin.json
  says "ids beyond the vocabulary" 0 "unknown: ids.bin: token " "configs:" "${plan[@]}" $ids \
    data.vocab_size=5
  says "no token file" 0 "unknown: cannot open no.bin" "configs:" "${plan[@]}" \
    data.train.tokenized_file_path=no.bin
fi
says "two patterns" 0 "D=8" "" "$R" info --pattern D=4 --pattern D=8
says "a pattern that is none" 2 "" "character 3: the counts add up to 3 heads, the model has 4" "$R" \
  info model --pattern D=1x3
says "what a shell leaves" 2 "" "quote the pattern" "$R" info model --pattern D=1:1 D=4:3
says "a layout" 0 "  layers    0 to 2    ABBB" "" "$R" info model --pattern D=1x1+4x3
says "two models" 2 "" "takes one model" "$R" info --pattern D=4 model model
says "sizes twice" 2 "" "leave --layers" "$R" info --pattern D=4 model --layers 3
says "words for nothing" 2 "" "need a model" "$R" info --pattern D=4 a.b=1
says "two pictures in one file" 2 "" "one --pattern" "$R" info --pattern D=4 --pattern D=8 --svg p.svg
says "no folder for a picture" 1 "*" "cannot write" "$R" info --pattern D=4 --svg no/where.svg
says "a picture" 0 "mask" "wrote p.svg" "$R" info model --pattern 'D=[1,1x1+4x3,16],W=3,I=1' \
  --svg p.svg
check "a picture has masks and layout" grep -q "rows are layers" p.svg
if command -v xmllint >/dev/null; then
  check "a picture is XML" xmllint --noout p.svg
elif command -v python3 >/dev/null; then
  check "a picture is XML" python3 -c 'import xml.dom.minidom as x; x.parse("p.svg")'
else
  echo "ok - a picture is XML # SKIP neither xmllint nor python3"
fi
# ASCII unless the locale says UTF-8; colours on a terminal, unless NO_COLOR.
check "ASCII in the C locale" bash -c '! "$1" info --pattern D=64 | LC_ALL=C grep -q "[^ -~]"' - "$R"
check "shades in UTF-8" bash -c \
  'LC_ALL=C.UTF-8 "$1" info --pattern D=64 | grep -qF "$(printf "\342\226\221")"' - "$R"
if command -v script >/dev/null; then
  terminal() { TERM=xterm script -qec "$1" /dev/null </dev/null; }
  esc=$(printf '\033')
  check "colours on a terminal" bash -c "grep -q '$esc\[3' <<<\"\$1\"" - \
    "$(unset NO_COLOR; terminal "$R info --pattern D=4,W=1 --seq-len 8")"
  check "none with NO_COLOR" bash -c "! grep -q '$esc\[' <<<\"\$1\"" - \
    "$(export NO_COLOR=1; terminal "$R info --pattern D=4,W=1 --seq-len 8")"
else
  echo "ok - colours on a terminal # SKIP no script(1)"
fi
says "nothing to tell about" 2 "" "info of what?" "$R" info
says "no such path" 3 "" "nowhere: no such file" "$R" info nowhere
says "something else" 3 "" "neither a model" "$R" info "$0"
says "a damaged model" 3 "" "before 2020" "$R" info "$S/pth/legacy.pth"
says "a width that is missing" 2 "" "d_head=" "$R" info "$S/pth/bare.pth"
says "paths and an experiment" 2 "" "not both" "$R" info model experiment=fineweb_edu/ratplus-1b
says "no ranks" 2 "" "--ranks 0: give a number from 1 on" "$R" info experiment=x --ranks 0
