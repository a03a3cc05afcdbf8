/* Typed settings: the reference's own configuration and command, defaults, patterns as text, the
 * name of a run, and what makes two runs different. */
#include "config_box.h"

#define TRAIN_FILES \
  "data.train.tokenized_file_path=train.bin", "data.val.tokenized_file_path=val.bin"

/* --- the reference ------------------------------------------------------------------------ */

static void check_reference_model(const rp_model_settings *m) {
  assert_int_equal(m->N, 3);
  assert_int_equal(m->d, 64);
  assert_int_equal(m->f, 256);
  assert_int_equal(m->V, 97);
  assert_int_equal(m->H, 4);
  assert_int_equal(m->Hk, 4);
  assert_int_equal(m->h, 16);
  assert_int_equal(m->act, RP_ACT_GELU);
  assert_int_equal(m->mixer_norm, RP_NORM_RMS);
  assert_int_equal(m->init, RP_INIT_FIXED);
  assert_int_equal(m->cell, RP_CELL_RATPLUS);
  assert_true(m->apply_re && m->joint_train && m->tied && m->rope);
  assert_true(m->init_range == 0.02 && m->rope_base == 10000 && m->rope_scale == 1);
  assert_int_equal(m->max_seq_len, 96);
  for (int l = 0; l < 3; l++) assert_int_equal(rp_pats_get(&m->pats, l, 3).D, 8);
}

/* The command of the small run of the authors' own program. */
static void the_command_of_the_reference_run(void **state) {
  (void)state;
  box_needs_yaml();
  rp_error err = {0};
  rp_settings s;
  check_ok(
      box_settings(
          &s,
          BOX_WORDS("experiment=fineweb_edu/ratplus-1b", "trainer.dtype=float32",
                    "trainer.pretrained_path=ratplus.pth", "trainer.load_checkpoint=false",
                    "data.vocab_size=97", "data.seq_len=96", "data.batch_size=2",
                    "data.global_batch_size=4", "data.train.tokenized_file_path=train.bin",
                    "data.train.limit_tokens=7680", "data.val.tokenized_file_path=val.bin",
                    "data.val.limit_tokens=-1", "trainer.log_interval=1",
                    "model.backbone.num_layers=3", "model.backbone.d_model=64",
                    "model.backbone.seq_cell.d_head=16", "model.backbone.seq_cell.dilation_size=8"),
          1, &err),
      err);
  check_reference_model(&s.model);
  assert_int_equal(s.train.name, RP_LOAD_LM_ORDERED);
  assert_string_equal(s.train.file, "train.bin");
  assert_true(s.train.limit_tokens == 7680 && s.val.limit_tokens == -1);
  assert_true(s.train.T == 96 && s.train.batch == 2 && s.train.global_batch == 4);
  assert_true(s.train.num_bytes == 2 && s.train.V == 97 && s.train.ignore_input == 2);
  assert_int_equal(s.train.seed, 0);
  assert_int_equal(s.optim.name, RP_OPT_ADAMW);
  assert_true(s.optim.lr == 8e-4 && s.optim.weight_decay == 0.1 && s.optim.eps == 1e-8);
  assert_true(s.optim.beta1 == 0.9 && s.optim.beta2 == 0.95);
  assert_true(s.optim.warmup == 0.05 && s.optim.eta_min == 1e-6);
  assert_int_equal(s.trainer.dtype, RP_F32);
  assert_true(s.trainer.seed == 1005 && s.trainer.clip == 1.0 && s.trainer.global_batch == 4);
  assert_true(s.trainer.log_interval == 1 && s.trainer.max_epoch == 1);
  assert_string_equal(s.trainer.pretrained_path, "ratplus.pth");
  assert_string_equal(
      s.trainer.run_dir,
      "runs/exp/ckpt/fineweb_pretrain/fineweb_llama96-lm-lmposrope10000-sequenced64l3-"
      "ratplusd8p0w0reTruejointtrainTrue-ffn-lm/0x0008_4_1");
  rp_settings_free(&s);
}

/* The configuration that lies inside the reference's .pth: every key is understood. */
static void the_configuration_inside_a_pth(void **state) {
  (void)state;
  rp_error err = {0};
  rp_config *c = NULL;
  rp_config_opts o;
  rp_settings s;
  rp_model_settings m;
  rp_config_defaults(&o);
  o.file = check_source("tests/data/config/reference.json");
  check_ok(rp_config_compose(&c, NULL, 0, &o, &err), err);
  check_ok(rp_settings_read(&s, c, 1, &err), err);
  check_reference_model(&s.model);
  assert_int_equal(s.trainer.dtype, RP_BF16);
  assert_true(s.train.limit_tokens == 110000000000);
  rp_settings_free(&s);
  check_ok(rp_model_settings_read(&m, c, &err), err);
  check_reference_model(&m);
  rp_model_settings_free(&m);
  rp_config_free(c);
}

static void full_sizes(void **state) {
  (void)state;
  box_needs_yaml();
  static const struct {
    const char *word, *run_dir;
    int N, d, H, batch;
    double lr;
  } cases[] = {
      {"experiment=fineweb_edu/ratplus-1b",
       "fineweb_llama4096-lm-lmposrope10000-sequenced2048l24-ratplusd64p0w0reTruejointtrainTrue-"
       "ffn-"
       "lm/0x0008_512_1",
       24, 2048, 16, 512, 8e-4},
      {"experiment=fineweb_edu/attention-3b",
       "fineweb_llama4096-lm-lmposrope10000-sequenced2560l28-"
       "ratplusd-1p0w64reFalsejointtrainTrue-ffn-lm/0x0007_640_1",
       28, 2560, 20, 640, 7e-4},
      {"experiment=fineweb_adapt/7b/ratplus-7b-d16w256",
       "fineweb_llama4096-lm-lmposrope10000-sequenced4096l32-"
       "ratplusd16p4w256reTruejointtrainFalse-ffn-lm/2e-05_768_1",
       32, 4096, 32, 768, 2e-5},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    rp_error err = {0};
    rp_settings s;
    check_ok(box_settings(&s, BOX_WORDS(cases[i].word), 8, &err), err);
    assert_true(s.model.N == cases[i].N && s.model.d == cases[i].d && s.model.H == cases[i].H);
    assert_true(s.model.f == 4 * cases[i].d && s.model.h == 128 && s.model.V == 32000);
    assert_true(s.trainer.global_batch == cases[i].batch && s.optim.lr == cases[i].lr);
    assert_true(rp_ends_with(s.trainer.run_dir, cases[i].run_dir));
    rp_settings_free(&s);
  }
}

/* Every experiment of our tree composes and reads; those that adapt ask for a model. */
static void every_experiment_reads(void **state) {
  (void)state;
  box_needs_yaml();
  rp_error err = {0};
  rp_config_opts o;
  char *names = NULL;
  int n = 0;
  rp_config_defaults(&o);
  o.configs_dir = check_source("configs");
  check_ok(rp_config_experiments(&o, &names, &err), err);
  assert_non_null(names);
  for (char *p = names; *p; n++) {
    char *end = strchr(p, '\n'), word[128];
    *end = '\0';
    snprintf(word, sizeof word, "experiment=%s", p);
    rp_settings s;
    check_ok(box_settings(&s, BOX_WORDS(word), 1, &err), err);
    const bool needs = strstr(p, "adapt") || strstr(p, "ruler_sft") || strstr(p, "gen/");
    assert_int_equal(s.trainer.needs_pretrained, needs);
    rp_settings_free(&s);
    check_ok(box_settings(&s, BOX_WORDS(word, "trainer.pretrained_path=none"), 1, &err), err);
    assert_false(s.trainer.needs_pretrained);
    assert_null(s.trainer.pretrained_path);
    rp_settings_free(&s);
    p = end + 1;
  }
  assert_true(n >= 40);
  rp_free(names);
}

/* What a file leaves out takes the reference's default. */
static void left_out_keys_take_defaults(void **state) {
  (void)state;
  rp_error err = {0};
  rp_config *c = NULL;
  rp_settings s;
  static const char text[] =
      "{\"data\": {\"train\": {\"tokenized_file_path\": \"a\"}, "
      "\"val\": {\"tokenized_file_path\": \"b\"}}}";
  check_ok(rp_config_from_text(&c, text, sizeof text - 1, "x.json", NULL, 0, false, &err), err);
  check_ok(rp_settings_read(&s, c, 1, &err), err);
  assert_true(s.model.N == 12 && s.model.d == 768 && s.model.h == 64 && s.model.H == 12);
  assert_true(s.model.joint_train && rp_pats_get(&s.model.pats, 0, 0).D == 64);
  assert_true(s.trainer.save_interval == 0.1 && s.trainer.save_minutes == 30);
  assert_true(s.trainer.seed == 1005 && s.trainer.log_interval == 50 && s.trainer.clip == 0);
  assert_true(s.train.limit_tokens == -1 && s.train.ignore_input == INT32_MIN);
  rp_settings_free(&s);
  rp_config_free(c);
}

/* Words over a model that says nothing: keys are added, as far as they are read. */
static void loose_words_describe_a_model(void **state) {
  (void)state;
  rp_error err = {0};
  rp_config *c = NULL;
  rp_model_settings m;
  check_ok(rp_config_from_text(&c, "{}", 2, "model",
                               BOX_WORDS("model.backbone.num_layers=2", "model.backbone.d_model=32",
                                         "model.backbone.seq_cell.d_head=8",
                                         "model.backbone.seq_cell.dilation_size=[1,4]"),
                               4, true, &err),
           err);
  check_ok(rp_model_settings_read(&m, c, &err), err);
  assert_true(m.N == 2 && m.d == 32 && m.H == 4);
  assert_true(rp_pats_get(&m.pats, 0, 0).D == 1 && rp_pats_get(&m.pats, 1, 3).D == 4);
  rp_model_settings_free(&m);
  rp_config_free(c);
}

static void swaps_leave_keys_behind(void **state) {
  (void)state;
  box_needs_yaml();
  rp_error err = {0};
  rp_settings s;
  check_ok(box_settings(&s,
                        BOX_WORDS(BOX_SMALL, "optim/optimizer=sgd", "optim/lr_scheduler=constant",
                                  "model/backbone/layer@model.backbone.seq_cell=identity"),
                        1, &err),
           err);
  assert_int_equal(s.optim.name, RP_OPT_SGD);
  assert_true(s.optim.momentum == 0.9);
  assert_int_equal(s.optim.sched, RP_SCHED_CONSTANT);
  assert_int_equal(s.model.cell, RP_CELL_IDENTITY);
  assert_false(s.model.joint_train);
  rp_settings_free(&s);
  check_ok(box_settings(&s,
                        BOX_WORDS(BOX_SMALL, "+anything.at.all=1", "~trainer.fsdp",
                                  "hydra.run.dir=x", "run_dir=here"),
                        1, &err),
           err);
  assert_string_equal(s.trainer.run_dir, "here");
  assert_int_equal(s.trainer.shard, RP_SHARD_NONE);
  rp_settings_free(&s);
}

/* --- patterns ----------------------------------------------------------------------------- */

/* The forms of patterns (test_config_pattern.c) as values of a configuration. */
static void patterns_in_a_configuration(void **state) {
  (void)state;
  box_needs_yaml();
  static const char *const cases[][2] = {{"16", "D=16"},
                                         {"[1,64,1,64]", "D=[1,64]*2"},
                                         {"1x1+64x3", "D=1x1+64x3"},
                                         {"{1:1,64:3}", "D=1x1+64x3"},
                                         {"[{1:1,64:3},1,1,1x4]", "D=[1x1+64x3,1,1,1]"},
                                         {"${eval:\"[1,[2,2,2,3]]*2\"}", "D=[1,2x3+3x1]*2"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    rp_error err = {0};
    rp_settings s;
    char word[128];
    snprintf(word, sizeof word, "model.backbone.seq_cell.dilation_size=%s", cases[i][0]);
    check_ok(box_settings(&s, BOX_WORDS(BOX_SMALL, word), 1, &err), err);
    char *text = rp_pats_format(&s.model.pats);
    assert_string_equal(text, cases[i][1]);
    rp_free(text);
    rp_settings_free(&s);
  }
}

/* Patterns by head count the kv heads. */
static void patterns_of_grouped_heads(void **state) {
  (void)state;
  box_needs_yaml();
  static const char *const few = "model.backbone.seq_cell.num_kv_head=2";
  static const char *const one = "model.backbone.seq_cell.num_kv_head=1";
  rp_error err = {0};
  rp_settings s;
  check_ok(
      box_settings(&s, BOX_WORDS(BOX_SMALL, few, "model.backbone.seq_cell.dilation_size=1x1+64x1"),
                   1, &err),
      err);
  assert_true(s.model.H == 4 && s.model.Hk == 2 && s.model.pats.kv_heads == 2);
  assert_int_equal(rp_pats_get(&s.model.pats, 3, 1).D, 64);
  rp_settings_free(&s);
  check_ok(box_settings(&s, BOX_WORDS(BOX_SMALL, one), 1, &err), err);
  assert_true(s.model.Hk == 1);
  rp_settings_free(&s);
  check_fails(box_settings(
                  &s, BOX_WORDS(BOX_SMALL, few, "model.backbone.seq_cell.dilation_size={1:1,64:3}"),
                  1, &err),
              RP_USAGE, err, "add up to 4 heads, the model has 2 key-value heads");
  check_fails(
      box_settings(&s, BOX_WORDS(BOX_SMALL, "model.backbone.seq_cell.local_size=[1,2,3,-1]"), 1,
                   &err),
      RP_USAGE, err, "local_size=[1, 2, 3, -1]: layer 3: W is at least 0");
  check_fails(
      box_settings(&s, BOX_WORDS(BOX_SMALL, "model.backbone.seq_cell.initial_size=2x1"), 1, &err),
      RP_USAGE, err, "initial_size=2x1: the counts add up to 1 heads");
}

static void no_id_may_be_ignored(void **state) {
  (void)state;
  box_needs_yaml();
  rp_error err = {0};
  rp_settings s;
  check_ok(box_settings(&s, BOX_WORDS(BOX_SMALL, "data.train.ignore_input_index=null"), 1, &err),
           err);
  assert_int_equal(s.train.ignore_input, INT32_MIN);
  assert_int_equal(s.val.ignore_input, 2);
  rp_settings_free(&s);
}

/* --- runs --------------------------------------------------------------------------------- */

static void long_lists_are_hashed_in_the_name(void **state) {
  (void)state;
  box_needs_yaml();
  rp_error err = {0};
  rp_settings a, b;
  const char *const first = "model.backbone.seq_cell.dilation_size=${eval:\"[1,64]*3\"}";
  const char *const second = "model.backbone.seq_cell.dilation_size=${eval:\"[1,64,64]*2\"}";
  check_ok(box_settings(&a, BOX_WORDS("experiment=cpu/ratplus-tiny", first), 1, &err), err);
  check_ok(box_settings(&b, BOX_WORDS("experiment=cpu/ratplus-tiny", second), 1, &err), err);
  assert_string_not_equal(a.trainer.run_dir, b.trainer.run_dir);
  assert_non_null(strstr(a.trainer.run_dir, "ratplusd164"));
  assert_true(strlen(strrchr(a.trainer.run_dir, '/')) < 200);
  rp_settings_free(&a);
  rp_settings_free(&b);
}

static char *diff_of(const char *word) {
  rp_error err = {0};
  rp_config *a = NULL, *b = NULL;
  char *text = NULL;
  check_ok(box_compose(&a, BOX_WORDS(BOX_SMALL), &err), err);
  check_ok(box_compose(&b, BOX_WORDS(BOX_SMALL, word), &err), err);
  check_ok(rp_config_diff(a, b, &text, &err), err);
  rp_config_free(a);
  rp_config_free(b);
  return text;
}

static void what_makes_a_run_different(void **state) {
  (void)state;
  box_needs_yaml();
  static const char *const same[] = {"trainer.log_interval=3",
                                     "trainer.save_dir=elsewhere",
                                     "data_dir=/another/place",
                                     "trainer.save_minutes=1",
                                     "trainer.recompute=true",
                                     "optim.optimizer.lr=2e-3",
                                     "trainer.keep_last=2",
                                     "wandb_use=true",
                                     "+extra=1",
                                     "run_dir=x",
                                     "tokenizer=t.model",
                                     "trainer.device=cpu",
                                     "model.backbone.seq_cell.dilation_size=[16,16,16,16]"};
  static const char *const other[][2] = {
      {"optim.optimizer.lr=1e-3", "optim.optimizer.lr: 0.002, 0.001"},
      {"trainer.seed=1", "trainer.seed: 1005, 1"},
      {"model.backbone.seq_cell.dilation_size=8", "pattern: D=16, D=8"},
      {"data.batch_size=4", "data.train.batch_size: 8, 4"},
      {"optim/optimizer=sgd", "optim.optimizer._name_: adamw, sgd"},
      {"trainer.pretrained_path=m", "trainer.pretrained_path: null, m"},
      {"data.train.tokenized_file_path=other.bin", "train.bin, other.bin"},
      {"trainer.max_epoch=2", "trainer.max_epoch: 1, 2"}};
  for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
    char *text = diff_of(same[i]);
    if (*text) fail_msg("%s makes another run: %s", same[i], text);
    rp_free(text);
  }
  for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
    char *text = diff_of(other[i][0]);
    if (!strstr(text, other[i][1])) fail_msg("%s: %s", other[i][0], text);
    rp_free(text);
  }
}

/* A configuration written out and read again is the same, as YAML and as JSON. */
static void written_and_read_again(void **state) {
  (void)state;
  box_needs_yaml();
  rp_error err = {0};
  for (int json = 0; json < 2; json++) {
    rp_config *a = NULL, *b = NULL;
    char *first, *second;
    rp_status (*const print)(const rp_config *, char **, rp_error *) =
        json ? rp_config_json : rp_config_yaml;
    check_ok(
        box_compose(&a,
                    BOX_WORDS(BOX_SMALL, "+x='yes'", "+y=010", "+z=1.0",
                              "+w={1:4,a: ' b ', c: '#'}", "+v=[]", "+u=1:30", "+t=[[1,2],{a:1}]"),
                    &err),
        err);
    check_ok(print(a, &first, &err), err);
    check_ok(rp_config_from_text(&b, first, strlen(first), json ? "x.json" : "x.yaml", NULL, 0,
                                 false, &err),
             err);
    check_ok(print(b, &second, &err), err);
    assert_string_equal(first, second);
    rp_free(first);
    rp_free(second);
    rp_config_free(a);
    rp_config_free(b);
  }
}

/* --- memory ------------------------------------------------------------------------------- */

/* Every allocation fails in turn: a clean status each time, nothing left behind. */
static void a_failed_allocation_is_a_status(void **state) {
  (void)state;
  box_needs_yaml();
  const size_t before = rp_mem_now();
  int failures = 0;
  for (uint64_t n = 1;; n++) {
    rp_error err = {0};
    rp_config *c = NULL;
    rp_settings s;
    char *text = NULL;
    rp_mem_fail_at(n);
    rp_status st = box_compose(
        &c, BOX_WORDS(BOX_SMALL, "model.backbone.seq_cell.dilation_size=[1,4,4,8]"), &err);
    if (!st) st = rp_settings_read(&s, c, 1, &err);
    if (!st) {
      st = rp_config_diff(c, c, &text, &err);
      rp_free(text);
      rp_settings_free(&s);
    }
    rp_config_free(c);
    rp_mem_fail_at(0);
    assert_int_equal(rp_mem_now(), before);
    if (!st) break;
    if (st != RP_NO_MEMORY || !err.text[0]) fail_msg("n=%d: %d %s", (int)n, (int)st, err.text);
    failures++;
  }
  assert_true(failures > 50);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(the_command_of_the_reference_run),
                                          cmocka_unit_test(the_configuration_inside_a_pth),
                                          cmocka_unit_test(full_sizes),
                                          cmocka_unit_test(every_experiment_reads),
                                          cmocka_unit_test(left_out_keys_take_defaults),
                                          cmocka_unit_test(loose_words_describe_a_model),
                                          cmocka_unit_test(swaps_leave_keys_behind),
                                          cmocka_unit_test(patterns_in_a_configuration),
                                          cmocka_unit_test(patterns_of_grouped_heads),
                                          cmocka_unit_test(no_id_may_be_ignored),
                                          cmocka_unit_test(long_lists_are_hashed_in_the_name),
                                          cmocka_unit_test(what_makes_a_run_different),
                                          cmocka_unit_test(written_and_read_again),
                                          cmocka_unit_test(a_failed_allocation_is_a_status)};
CHECK_MAIN(tests)
