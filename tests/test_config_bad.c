/* Bad input and the sentence it gets: where, what, and what to do. */
#include "config_box.h"

typedef struct {
  const char *text;  /* a file */
  const char *where; /* FILE:LINE:COLUMN, without the folder */
  const char *what;
} bad_file;

static const bad_file files[] = {
    {"a: [1, 2\nb: 3\n", "config.yaml:2:", "not YAML"},
    {"a: 1\na: 2\n", "config.yaml:2:1", "twice"},
    {"- 1\n", "config.yaml:1:1", "a configuration is a map"},
    {"a: 1\n---\nb: 2\n", "config.yaml:2:1", "second document"},
    {"a: !!python/object:os.system x\n", "config.yaml:1:4", "tag"},
    {"a: *b\n", "config.yaml:1:4", "no anchor"},
    {"x: {b: 1}\nc:\n  <<: {d: 1}\n", "config.yaml:3:3", "merge key"},
    {"a: 99999999999999999999\n", "config.yaml:1:4", "64 bits"},
    {"a: =\n", "config.yaml:1:4", "quote"},
    {"a: ???\n", "config.yaml:1:4", "a is ???"},
    {"_target_: os.system\n", "config.yaml:1:11", "never run"},
    {"b: 1\na: ${bb}\n", "config.yaml:2:4", "refers to bb, which is not there; did you mean b?"},
    {"a: ${b}\nb: ${a}\n", "config.yaml:2:4", "circle"},
    {"a: ${b\n", "config.yaml:1:4", "} is missing"},
    {"a: ${}\n", "config.yaml:1:4", "path is missing"},
    {"a: ${..b}\nb: 1\n", "config.yaml:1:4", "more dots than"},
    {"a: ${oc.env:HOME}\n", "config.yaml:1:4", "environment is not read"},
    {"a: ${system:rm}\n", "config.yaml:1:4", "no resolver system"},
    {"a: ${eval:\"__import__('os')\"}\n", "config.yaml:1:4", "all that eval knows"},
    {"a: ${eval:\"1 +\"}\n", "config.yaml:1:4", "ends where a number"},
    {"a: ${eval:\"1/0\"}\n", "config.yaml:1:4", "division by zero"},
    {"a: ${eval:\"10**30\"}\n", "config.yaml:1:4", "64 bits"},
    {"a: ${eval:\"[1] * 10**9\"}\n", "config.yaml:1:4", "too long"},
    {"a: ${eval:1,2}\n", "config.yaml:1:4", "quote it"},
    {"a: ${int:x}\n", "config.yaml:1:4", "int takes"},
    {"defaults: 5\n", "config.yaml:1:11", "must be a list"},
    {"defaults:\n  - nope\n", "config.yaml:2:5", "there is no"},
    {"defaults:\n  - override a: b\n", "config.yaml:2:17", "not supported"},
    {"defaults:\n  - a: [b, c]\n", "config.yaml:2:8", "one name"},
    {"defaults:\n  - _self_\n  - _self_\n", "config.yaml:3:5", "twice"},
    {"defaults:\n  - g: ../../../etc/passwd\n", "config.yaml:2:8", "'..'"},
    {"a: \"\\0\"\n", "config.yaml:1:4", "NUL"},
    {"a: \x80\n", "config.yaml", "UTF-8"},
};

static void files_get_a_place_and_a_sentence(void **state) {
  (void)state;
  box_needs_yaml();
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
    rp_error err = {0};
    rp_config *c = NULL;
    rp_config_opts o;
    rp_config_defaults(&o);
    o.configs_dir = box_tree("bad", files[i].text);
    check_fails(rp_config_compose(&c, NULL, 0, &o, &err), RP_USAGE, err, files[i].what);
    if (!strstr(err.text, files[i].where)) fail_msg("%s: not at %s", err.text, files[i].where);
    assert_null(c);
  }
}

typedef struct {
  const char *word, *what;
} bad_word;

static const bad_word words[] = {
    {"trainer.sede=1", "did you mean trainer.seed?"},
    {"trainer.sede=1", "+trainer.sede=1"},
    {"model.backbone.backbone.seq_cell.local_size=64",
     "did you mean model.backbone.seq_cell.local_size?"},
    {"seq_cell.local_size=64", "model.backbone.seq_cell.local_size"},
    {"frobnicate=1", "none like it"},
    {"trainer.frobnicate=1", "trainer has"},
    {"k=1,64", "k='[1,64]'"},
    {"optim.optimizer.betas=0.9,0.95", "optim.optimizer.betas='[0.9,0.95]'"},
    {"experiment", "no key=value"},
    {"=1", "key before = is missing"},
    {"a..b=1", "part of the key is empty"},
    {"trainer.seed=~", "cannot stand"},
    {"trainer.seed=a=b", "cannot stand"},
    {"trainer.seed=choice(1,2)", "functions"},
    {"trainer.seed='1", "closing quote"},
    {"trainer.seed=[1,2", "comma or ]"},
    {"trainer.seed={a", "colon is expected"},
    {"trainer.seed=${eval:1", "} is missing"},
    {"trainer.seed=99999999999999999999", "64 bits"},
    {"data.train.tokenized_file_path=caf\xc3\xa9", "ASCII need quotes"},
    {"~trainer.sede", "to delete; did you mean trainer.seed?"},
    {"~trainer.seed=1", "not deleted"},
    {"+trainer.seed=1", "is there already"},
    {"optim/optimizer=adamww", "did you mean optim/optimizer=adamw?"},
    {"optim/optimiser=adamw", "there is no group optim/optimiser"},
    {"model/backbone/layer=identity", "did you mean model/backbone/layer@model.backbone"},
    {"optim/optimizer=[adam,sgd]", "one name"},
    {"++optim/optimizer=adam", "cannot be added with ++"},
    {"optim/optimizer@x:y=adam", "':'"},
    {"data={nope: 1}", "there is no key data"},
    {"run_dir=\xff\xfe", "not UTF-8"},
    {"run_dir=\xed\xa0\x80", "not UTF-8"},
    {"configs_dir=", "path of a tree"},
    {"configs_dir=/nonexistent", "no config.yaml"},
};

static void words_get_a_sentence(void **state) {
  (void)state;
  box_needs_yaml();
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    rp_error err = {0};
    rp_config *c = NULL;
    check_fails(box_compose(&c, BOX_WORDS(BOX_SMALL, words[i].word), &err), RP_USAGE, err,
                words[i].what);
    assert_null(c);
  }
}

static const bad_word values[] = {
    {"trainer.seed=-1", "trainer.seed=-1: must be at least 0"},
    {"trainer.seed=x", "trainer.seed=x: must be an integer"},
    {"trainer.dtype=float16", "one of float32, bfloat16"},
    {"trainer.device=gpu", "one of auto, cpu, cuda"},
    {"trainer.save_interval=2", "from 0 to 1"},
    {"trainer.save_checkpoint=1", "true or false"},
    {"trainer.gradient_clipping=true", "a number (1.0), or false"},
    {"trainer.gradient_clipping=-1", "at least 0"},
    {"trainer.global_batch_size=7", "multiple of 1 rank times data.batch_size 8"},
    {"trainer.fsdp.sharding_strategy=9", "from 1 to 4"},
    {"optim.optimizer.lr=nan", "from 0 to 1000000"},
    {"optim.optimizer.lr=big", "must be a number"},
    {"optim.optimizer.betas=[0.9]", "two numbers"},
    {"optim.optimizer.betas=[0.9,1.0]", "below 1"},
    {"optim.optimizer._name_=rmsprop", "one of adamw, adam, sgd"},
    {"optim.lr_scheduler.warmup_iter=100", "from 0 to 1"},
    {"data.num_bytes=3", "1, 2 or 4"},
    {"data.train.seq_len=7", "must equal data.seq_len 512"},
    {"data.train.batch_size=2", "must equal data.batch_size 8"},
    {"data.train._name_=lm", "one of lm_ordered, lm_random"},
    {"data.train._name_=sft_random", "data.train.tokenized_input_path: name the file"},
    {"data.train.tokenized_file_path=null", "name a token file"},
    {"model.backbone.bias=true", "no biases"},
    {"model.backbone.dropout=0.1", "no dropout"},
    {"model.backbone.ln=batchnorm", "one of rmsnorm, layernorm"},
    {"model.backbone.seq_cell.d_head=48", "must equal d_model 256"},
    {"model.backbone.seq_cell.num_kv_head=3", "must divide num_head 4"},
    {"model.backbone.seq_cell.num_head=2", "must equal d_model"},
    {"model.embedding.pe.dim=32", "must equal d_head 64"},
    {"model.backbone.seq_cell.k_channel=32", "must equal d_head 64"},
    {"model.backbone.seq_cell._name_=attention", "apply_re=false"},
    {"model.backbone.seq_cell._name_=mamba", "one of ratplus, identity"},
    {"model/embedding@model.embedding.pe=empty", "needs positions"},
    {"model.backbone.seq_cell.dilation_size=0", "D is at least 1, or -1"},
    {"model.backbone.seq_cell.dilation_size=-1", "sees nothing"},
    {"model.backbone.seq_cell.local_size=-2", "no integer from -1"},
    {"model.backbone.seq_cell.dilation_size=[1,64]", "2 entries and the model 4 layers"},
    {"model.backbone.seq_cell.dilation_size={1:1,64:2}", "add up to 3 heads, the model has 4"},
    {"model.backbone.hidden_cell.act_fn=tanh", "one of gelu, relu"},
    {"model.backbone.num_layers=0", "from 1 to 4096"},
    {"task._name_=cls", "one of lm"},
};

static void values_get_a_sentence(void **state) {
  (void)state;
  box_needs_yaml();
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    rp_error err = {0};
    rp_settings s;
    check_fails(box_settings(&s, BOX_WORDS(BOX_SMALL, values[i].word), 1, &err), RP_USAGE, err,
                values[i].what);
  }
}

static void no_experiment_lists_them(void **state) {
  (void)state;
  box_needs_yaml();
  rp_error err = {0};
  rp_config *c = NULL;
  check_fails(box_compose(&c, BOX_WORDS("trainer.seed=1"), &err), RP_USAGE, err, "demo/ratplus");
  check_fails(box_compose(&c, BOX_WORDS("experiment=demo/ratpls"), &err), RP_USAGE, err,
              "did you mean experiment=demo/ratplus?");
}

static void unread_keys_are_refused(void **state) {
  (void)state;
  rp_error err = {0};
  rp_config *c = NULL;
  rp_settings s;
  static const char text[] =
      "{\"trainer\": {\"sed\": 1}, \"data\": {\"train\": "
      "{\"tokenized_file_path\": \"a\"}, \"val\": "
      "{\"tokenized_file_path\": \"a\"}}}";
  check_ok(rp_config_from_text(&c, text, sizeof text - 1, "x.json", NULL, 0, false, &err), err);
  check_fails(rp_settings_read(&s, c, 1, &err), RP_USAGE, err, "trainer.sed=1: nothing reads this");
  rp_config_free(c);
}

static void deep_and_large_are_bounded(void **state) {
  (void)state;
  box_needs_yaml();
  rp_error err = {0};
  rp_config *c = NULL;
  rp_str b = {0};
  rp_str_add(&b, "a: ");
  for (int i = 0; i < 5000; i++) rp_str_add(&b, "[");
  check_fails(rp_config_from_text(&c, b.s, b.len, "x.yaml", NULL, 0, false, &err), RP_USAGE, err,
              "deeper");
  rp_str_clear(&b);
  rp_str_add(&b, "a0: [x, x, x, x, x, x, x, x]\n"); /* each line eight times the one before */
  for (int i = 1; i < 12; i++) {
    rp_str_addf(&b, "a%d: [", i);
    for (int k = 0; k < 8; k++) rp_str_addf(&b, "\"${a%d}\"%s", i - 1, k < 7 ? ", " : "]\n");
  }
  check_fails(rp_config_from_text(&c, b.s, b.len, "x.yaml", NULL, 0, false, &err), RP_USAGE, err,
              "grows beyond");
  rp_str_clear(&b);
  rp_str_add(&b, "a0: xxxxxxxx\n");
  for (int i = 1; i < 12; i++) {
    rp_str_addf(&b, "a%d: ${a%d}${a%d}${a%d}${a%d}${a%d}${a%d}${a%d}${a%d}\n", i, i - 1, i - 1,
                i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
  }
  check_fails(rp_config_from_text(&c, b.s, b.len, "x.yaml", NULL, 0, false, &err), RP_USAGE, err,
              "longer than 1 MiB");
  rp_str_clear(&b);
  for (int i = 0; i < 5000; i++) rp_str_addf(&b, "k%d: 1\n", i);
  check_fails(rp_config_from_text(&c, b.s, b.len, "x.yaml", NULL, 0, false, &err), RP_USAGE, err,
              "keys in one map");
  rp_str_clear(&b);
  rp_str_add(&b, "+a");
  for (int i = 0; i < 5000; i++) rp_str_add(&b, ".a");
  rp_str_add(&b, "=1");
  check_fails(rp_config_from_text(&c, "", 0, "x.yaml", BOX_WORDS(b.s), 1, false, &err), RP_USAGE,
              err, "64 parts");
  rp_str_free(&b);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(files_get_a_place_and_a_sentence),
                                          cmocka_unit_test(words_get_a_sentence),
                                          cmocka_unit_test(values_get_a_sentence),
                                          cmocka_unit_test(no_experiment_lists_them),
                                          cmocka_unit_test(unread_keys_are_refused),
                                          cmocka_unit_test(deep_and_large_are_bounded)};
CHECK_MAIN(tests)
