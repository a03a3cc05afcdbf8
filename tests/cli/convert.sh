#!/bin/bash
# ratplus convert as it is typed. TAP; runs in an empty folder with RATPLUS (the program) and
# RATPLUS_SOURCE (the checkout) set.
R=$RATPLUS
S=$RATPLUS_SOURCE/tests/data/pth
export LC_ALL=C
if ! "$R" --version | grep -q '^built in:.* zip '; then
  echo "ok - all # SKIP built without libzip"
  exit
fi

. "$RATPLUS_SOURCE/tests/cli/tap.bash"

# holds NAME COMMAND...: the command succeeds.
holds() {
  local name=$1
  shift
  if "$@" >.stdout 2>&1; then
    echo "ok - $name"
  else
    echo "not ok - $name"
    sed 's/^/# /' .stdout .stderr | head -20
  fi
}

says "help" 0 "Usage: ratplus convert IN OUT" "" "$R" convert --help
says "a .pth" 0 "" "wrote model" "$R" convert "$S/plain.pth" model
holds "its configuration" grep -q "dilation_size: 4" model/config.yaml
holds "its weights" test -s model/model.safetensors
says "a folder to a .pth" 0 "" "wrote back.pth" "$R" convert model back.pth
says "and back" 0 "" "wrote again" "$R" convert back.pth again/
holds "the same weights" cmp model/model.safetensors again/model.safetensors
holds "the same configuration" cmp model/config.yaml again/config.yaml
says "another dtype" 0 "" "wrote half" "$R" convert --dtype bfloat16 model half
holds "is run in it" grep -q "^  dtype: bfloat16$" half/config.yaml
says "wholly from the mapped file" 0 "nothing converted" "" "$R" info half
says "and the first again" 0 "" "wrote full" "$R" convert --dtype float32 half full
holds "is run in that" grep -q "^  dtype: float32$" full/config.yaml
says "views, strides, offsets" 0 "" "wrote views" "$R" convert "$S/views.pth" views
holds "the same weights from views" cmp model/model.safetensors views/model.safetensors
says "a separate gate and _orig_mod." 0 "" "wrote gate" "$R" convert "$S/fgate.pth" gate
holds "the same weights from a separate gate" cmp model/model.safetensors gate/model.safetensors
says "an older configuration" 0 "" "is read as ratplus" "$R" convert "$S/easydict.pth" easy
holds "the same model from it" cmp model/model.safetensors easy/model.safetensors
says "optimizer state" 0 "" "wrote run/checkpoints/step-00000007" "$R" convert --with-optimizer \
  "$S/adam_named.pth" run/checkpoints/step-00000007
holds "where the loop stands" grep -q '"adam_step":14' run/checkpoints/step-00000007/state.json
says "a run directory" 0 "" "wrote of-run.pth" "$R" convert --with-optimizer run of-run.pth
says "a missing width, given" 0 "" "wrote bare" "$R" convert "$S/bare.pth" bare \
  model.backbone.seq_cell.d_head=4
says "a tokenizer" 0 "" "wrote tok" "$R" convert --tokenizer \
  "$RATPLUS_SOURCE/tests/data/text/llama.model" "$S/plain.pth" tok
holds "is beside the model" cmp "$RATPLUS_SOURCE/tests/data/text/llama.model" tok/tokenizer.model
says "over what is there, when asked" 0 "" "wrote half" "$R" convert --overwrite model half
holds "the new one" cmp model/model.safetensors half/model.safetensors

# A run cut in the middle, taken through a .pth and back, ends with the same bytes.
F=$RATPLUS_SOURCE/tests/data/reference
run() {
  "$R" train --configs "$RATPLUS_SOURCE/configs" experiment=fineweb_edu/ratplus-1b +run_dir="$1" \
    trainer.dtype=float32 trainer.pretrained_path="$F/ratplus.pth" data.vocab_size=97 \
    data.seq_len=96 data.batch_size=2 data.global_batch_size=4 model.backbone.d_model=64 \
    data.train.tokenized_file_path="$F/train.bin" data.train.limit_tokens=1536 \
    data.val.tokenized_file_path="$F/val.bin" data.val.limit_tokens=384 \
    model.backbone.num_layers=3 model.backbone.seq_cell.d_head=16 \
    model.backbone.seq_cell.dilation_size=8 trainer.save_interval=0.5 \
    trainer.load_checkpoint=true trainer.save_checkpoint=true
}
holds "a run of four steps" run whole
says "its middle as a .pth" 0 "" "wrote middle.pth" "$R" convert --with-optimizer \
  whole/checkpoints/step-00000002 middle.pth
says "and as a checkpoint again" 0 "" "wrote rest" "$R" convert --with-optimizer middle.pth \
  rest/checkpoints/step-00000002
holds "training goes on from it" run rest
holds "to the same weights" cmp whole/checkpoints/step-00000004/model.safetensors \
  rest/checkpoints/step-00000004/model.safetensors
holds "and the same optimizer" cmp whole/checkpoints/step-00000004/optimizer.safetensors \
  rest/checkpoints/step-00000004/optimizer.safetensors

# What goes wrong, and the sentence it gets.
says "no arguments" 2 "" "an input and an output, 0 were given" "$R" convert
says "one argument" 2 "" "1 was given" "$R" convert model
says "three arguments" 2 "" "3 were given" "$R" convert a b c
says "no such input" 3 "" "nowhere: no such file or directory" "$R" convert nowhere out
mkdir -p empty
says "an empty folder" 3 "" "neither model.safetensors nor checkpoints" "$R" convert empty out
mkdir -p pths && cp "$S/plain.pth" pths/19999.pth
says "a folder of .pth files" 3 "" "give one of them: pths/19999.pth" "$R" convert pths out
says "a text" 3 "" "neither a model directory" "$R" convert "$0" out
says "the format before 2020" 3 "" "torch.save(torch.load(PATH), PATH)" "$R" convert \
  "$S/legacy.pth" out
says "a pickle that calls" 3 "" "\"posix system\"" "$R" convert "$S/evil.pth" out
head -c 5000 "$S/plain.pth" >cut.pth
says "a .pth that is cut" 3 "" "damaged or cut" "$R" convert cut.pth out
cp -r model broken
head -c 1000 model/model.safetensors >broken/model.safetensors
says "a safetensors file that is cut" 3 "" "model.safetensors" "$R" convert broken out
cp model/model.safetensors broken/ && echo "model: [" >broken/config.yaml
says "a configuration that is none" 3 "" "config.yaml:" "$R" convert broken out
says "a missing width" 2 "" "model.backbone.seq_cell.d_head=" "$R" convert "$S/bare.pth" out
says "sizes that do not fit" 3 "" "layers.2.seq_layer.in_proj.weight is missing" "$R" convert \
  "$S/plain.pth" out model.backbone.num_layers=3
says "heads that do not fit" 3 "" "in_proj has 40 rows" "$R" convert "$S/plain.pth" out \
  model.backbone.seq_cell.d_head=3
says "a value of the wrong kind" 2 "" "num_layers" "$R" convert model out \
  model.backbone.num_layers=many
says "a key nobody knows" 2 "" "num_layer" "$R" convert model out model.backbone.num_layer=2
says "an unknown dtype" 2 "" "float8" "$R" convert --dtype float8 model out
says "no optimizer state" 3 "" "carries no optimizer state" "$R" convert --with-optimizer model out
says "a tokenizer that is not there" 2 "" "no such file" "$R" convert --tokenizer t.model model out
says "a tokenizer for a .pth" 2 "" "holds no tokenizer" "$R" convert --tokenizer "$0" model out.pth
says "an output that is there" 2 "" "half is there already; add --overwrite" "$R" convert model half
says "a .pth that is there" 2 "" "add --overwrite" "$R" convert model back.pth
touch half/thesis.tex
says "a folder with other things" 2 "" "thesis.tex" "$R" convert --overwrite model half
touch plainfile
says "a file in the way" 2 "" "is a file" "$R" convert model plainfile
says "a folder nobody can make" 1 "" "/proc/none" "$R" convert model /proc/none/model
says "an unknown flag" 2 "" "--with-optimizer" "$R" convert --with-optimiser model out
holds "nothing of all that is left" test ! -e out -a ! -e out.pth
holds "and no temporaries" sh -c '! ls -d *.tmp-* *.old-* 2>/dev/null'
