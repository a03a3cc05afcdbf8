/* Conversions and the folders that models lie in. */
#include <sys/stat.h>

#include "ratplus/convert.h"
#include "ratplus/info.h"
#include "store_box.h"

static const char *sample(const char *name) {
  char path[128];
  rp_snprintf(path, sizeof path, "tests/data/pth/%s.pth", name);
  return check_source(path);
}

static rp_status convert(const char *in, const char *out, const char *dtype, bool optimizer,
                         bool overwrite, rp_error *err) {
  rp_convert_opts o;
  rp_convert_defaults(&o);
  o.dtype = dtype;
  o.with_optimizer = optimizer;
  o.overwrite = overwrite;
  return rp_convert(in, out, &o, err);
}

static char *read_file(const char *dir, const char *name, size_t *n) {
  rp_error err = {0};
  char *path = rp_path_join(dir, name), *text = NULL;
  check_ok(rp_file_read(path, 1 << 24, &text, n, &err), err);
  rp_free(path);
  return text;
}

static void same_file(const char *a, const char *b, const char *name) {
  size_t n = 0, m = 0;
  char *x = read_file(a, name, &n), *y = read_file(b, name, &m);
  assert_int_equal(n, m);
  assert_memory_equal(x, y, n);
  rp_free(x);
  rp_free(y);
}

static void check_model(const char *path, const rp_model_settings *want) {
  rp_error err = {0};
  rp_store *s;
  rp_model_settings m;
  rp_shape shape;
  check_ok(rp_store_open(&s, path, &err), err);
  check_ok(rp_store_model(s, NULL, 0, &m, &err), err);
  box_check_settings(&m, want);
  check_ok(rp_shape_make(&shape, &m, &err), err);
  check_ok(rp_store_check(s, &shape, &err), err);
  box_check_values(s, &shape);
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
  rp_store_close(s);
}

/* .pth -> folder -> .pth -> folder: the folders are equal, the model is the same everywhere. */
static void there_and_back(void **state) {
  (void)state;
  box_need_zip();
  static const char *const names[] = {"plain", "views", "bf16",     "f16",
                                      "f64",   "fgate", "easydict", "omegaconf"};
  rp_error err = {0};
  rp_model_settings want = box_sample();
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char one[64], two[64];
    rp_snprintf(one, sizeof one, "%s-1", names[i]);
    rp_snprintf(two, sizeof two, "%s-2", names[i]);
    const char *a = check_path(one), *b = check_path(two), *pth = check_path("back.pth");
    check_ok(convert(sample(names[i]), a, NULL, false, false, &err), err);
    check_model(a, &want);
    check_ok(convert(a, pth, NULL, false, true, &err), err);
    check_model(pth, &want);
    check_ok(convert(pth, b, NULL, false, false, &err), err);
    same_file(a, b, "model.safetensors");
    same_file(a, b, "config.yaml");
  }
  rp_model_settings_free(&want);
}

/* Settings survive as text, for any model. */
static void settings_survive(void **state) {
  (void)state;
  rp_rng r = check_rng(8);
  rp_error err = {0};
  for (int round = 0; round < 300; round++) {
    rp_model_settings m = box_random(&r), back;
    rp_config *c;
    char *json, *yaml;
    check_ok(rp_model_settings_json(&m, true, &json, &err), err);
    check_ok(rp_config_from_text(&c, json, strlen(json), "x.json", NULL, 0, false, &err), err);
    check_ok(rp_config_yaml(c, &yaml, &err), err);
    rp_config_free(c);
    check_ok(rp_config_from_text(&c, yaml, strlen(yaml), "x.yaml", NULL, 0, false, &err), err);
    check_ok(rp_model_settings_read(&back, c, &err), err);
    box_check_settings(&back, &m);
    rp_config_free(c);
    rp_free(json);
    rp_free(yaml);
    rp_model_settings_free(&m);
    rp_model_settings_free(&back);
  }
}

static void dtypes_change(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  rp_model_settings want = box_sample();
  rp_store *s;
  check_ok(convert(sample("plain"), check_path("half"), "bfloat16", false, false, &err), err);
  check_model(check_path("half"), &want); /* the values are exact in bfloat16 */
  check_ok(rp_store_open(&s, check_path("half"), &err), err);
  for (int i = 0; i < rp_store_count(s); i++) /* a vector is computed with in float32 */
    assert_int_equal(rp_store_at(s, i)->dtype, rp_store_at(s, i)->ndim == 2 ? RP_BF16 : RP_F32);
  rp_store_close(s);
  check_ok(convert(check_path("half"), check_path("full"), "float32", false, false, &err), err);
  check_ok(convert(sample("plain"), check_path("straight"), NULL, false, false, &err), err);
  same_file(check_path("full"), check_path("straight"), "model.safetensors");
  check_fails(convert(sample("plain"), check_path("x"), "float8", false, false, &err), RP_USAGE,
              err, "float8");
  rp_model_settings_free(&want);
}

static void optimizers_come_along(void **state) {
  (void)state;
  box_need_zip();
  static const char *const names[] = {"adam_numbered", "adam_named", "sgd"};
  rp_error err = {0};
  rp_model_settings m = box_sample();
  rp_shape shape;
  check_ok(rp_shape_make(&shape, &m, &err), err);
  for (int i = 0; i < 3; i++) {
    rp_store *s;
    int64_t adam, step;
    char name[32];
    rp_snprintf(name, sizeof name, "opt%d", i);
    const char *dir = check_path(name), *pth = check_path("opt.pth");
    check_ok(convert(sample(names[i]), dir, NULL, true, false, &err), err);
    check_ok(convert(dir, pth, NULL, true, true, &err), err);
    for (int k = 0; k < 2; k++) {
      check_ok(rp_store_open(&s, k ? pth : dir, &err), err);
      rp_store_steps(s, &adam, &step);
      assert_int_equal(step, 7);
      if (i < 2) {
        assert_int_equal(adam, 14);
        box_check_moments(s, &shape, "exp_avg", 100);
        box_check_moments(s, &shape, "exp_avg_sq", 200);
      } else {
        box_check_moments(s, &shape, "momentum_buffer", 200);
      }
      rp_store_close(s);
    }
  }
  size_t n;
  char *text = read_file(check_path("opt0"), "state.json", &n);
  assert_non_null(strstr(text, "\"step\":7"));
  assert_non_null(strstr(text, "\"adam_step\":14"));
  assert_non_null(strstr(text, "\"of\":40"));
  assert_non_null(strstr(text, "\"micro_batches\":14"));
  rp_free(text);
  check_fails(convert(sample("plain"), check_path("none"), NULL, true, false, &err), RP_BAD_DATA,
              err, "no optimizer state");
  assert_false(rp_exists(check_path("none")));
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
}

/* A file that says no pattern gives a folder that says none. */
static void unknown_patterns_stay_unknown(void **state) {
  (void)state;
  box_need_zip();
  static const char *const words[] = {"model.backbone.seq_cell.d_head=4"};
  rp_error err = {0};
  rp_convert_opts o;
  rp_store *s;
  rp_model_settings m;
  bool known = true;
  rp_convert_defaults(&o);
  check_fails(rp_convert(sample("bare"), check_path("bare"), &o, &err), RP_USAGE, err, "d_head=");
  o.words = words;
  o.n_words = 1;
  check_ok(rp_convert(sample("bare"), check_path("bare"), &o, &err), err);
  check_ok(rp_store_open(&s, check_path("bare"), &err), err);
  check_ok(rp_store_pattern_known(s, NULL, 0, &known, &err), err);
  assert_false(known);
  check_ok(rp_store_model(s, NULL, 0, &m, &err), err);
  assert_true(rp_pats_get(&m.pats, 0, 0).D == 1 && !m.joint_train);
  rp_model_settings_free(&m);
  rp_store_close(s);
}

static void outputs_are_not_overwritten(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  const char *in = sample("plain"), *out = check_path("there");
  check_ok(rp_mkdirs(out, &err), err);
  check_ok(convert(in, out, NULL, false, false, &err), err); /* an empty folder is no obstacle */
  check_fails(convert(in, out, NULL, false, false, &err), RP_USAGE, err, "--overwrite");
  check_ok(convert(in, out, "bfloat16", false, true, &err), err);
  box_write(check_path("there/thesis.tex"), "x", 1);
  check_fails(convert(in, out, NULL, false, true, &err), RP_USAGE, err, "thesis.tex");
  assert_true(rp_is_file(check_path("there/thesis.tex")));
  box_write(check_path("file"), "x", 1);
  check_fails(convert(in, check_path("file"), NULL, false, true, &err), RP_USAGE, err, "is a file");
  check_ok(convert(in, check_path("a.pth"), NULL, false, false, &err), err);
  check_fails(convert(in, check_path("a.pth"), NULL, false, false, &err), RP_USAGE, err,
              "--overwrite");
  check_fails(convert(in, "", NULL, false, false, &err), RP_USAGE, err, "no name");
  check_fails(convert(check_path("nowhere"), check_path("b"), NULL, false, false, &err),
              RP_BAD_DATA, err, "no such file");
  assert_false(rp_exists(check_path("b")));
  check_fails(convert(in, "/proc/nowhere/model", NULL, false, false, &err), RP_FAIL, err,
              "/proc/nowhere");
  /* A model may replace itself. */
  check_ok(convert(check_path("a.pth"), check_path("a.pth"), NULL, false, true, &err), err);
  char **names;
  size_t n;
  check_ok(rp_list_dir(check_dir(), &names, &n, &err), err);
  for (size_t i = 0; i < n; i++) {
    assert_null(strstr(names[i], ".tmp-"));
    assert_null(strstr(names[i], ".old-"));
  }
  rp_list_free(names, n);
}

static void tokenizers_come_along(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  rp_convert_opts o;
  rp_store *s;
  rp_convert_defaults(&o);
  box_write(check_path("any.model"), "not looked into", 15);
  o.tokenizer = check_path("any.model");
  check_ok(rp_convert(sample("plain"), check_path("tok1"), &o, &err), err);
  check_ok(convert(check_path("tok1"), check_path("tok2"), NULL, false, false, &err), err);
  same_file(check_path("tok1"), check_path("tok2"), "tokenizer.model");
  check_ok(rp_store_open(&s, check_path("tok2"), &err), err);
  assert_true(rp_ends_with(rp_store_tokenizer(s), "tok2/tokenizer.model"));
  rp_store_close(s);
  check_fails(rp_convert(sample("plain"), check_path("t.pth"), &o, &err), RP_USAGE, err,
              "holds no tokenizer");
  o.tokenizer = check_path("missing.model");
  check_fails(rp_convert(sample("plain"), check_path("tok3"), &o, &err), RP_USAGE, err,
              "no such file");
}

static rp_status open_path(const char *path, rp_error *err, char *really, size_t size) {
  rp_store *s;
  const rp_status st = rp_store_open(&s, path, err);
  if (!st) rp_snprintf(really, size, "%s", rp_store_path(s));
  rp_store_close(s);
  return st;
}

static void run_directories(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  char really[1024];
  check_ok(rp_mkdirs(check_path("run/checkpoints"), &err), err);
  check_fails(open_path(check_path("run"), &err, really, sizeof really), RP_BAD_DATA, err,
              "no whole checkpoint");
  check_ok(convert(sample("plain"), check_path("run/checkpoints/step-00000009"), NULL, false, false,
                   &err),
           err);
  check_ok(convert(sample("plain"), check_path("run/checkpoints/step-00000010"), NULL, false, false,
                   &err),
           err);
  check_ok(rp_mkdirs(check_path("run/checkpoints/step-00000011.tmp-1"), &err), err);
  check_ok(open_path(check_path("run"), &err, really, sizeof really), err);
  assert_true(rp_ends_with(really, "step-00000010"));
  assert_int_equal(symlink("step-00000009", check_path("run/checkpoints/latest")), 0);
  check_ok(open_path(check_path("run"), &err, really, sizeof really), err);
  assert_true(rp_ends_with(really, "step-00000009"));
  assert_int_equal(rp_path_look(check_path("run")), RP_PATH_RUN);
  assert_int_equal(rp_path_look(check_path("run/checkpoints/latest")), RP_PATH_MODEL);
  assert_int_equal(rp_path_look(check_path("nothing")), RP_PATH_NOTHING);
  assert_int_equal(rp_path_look(check_dir()), RP_PATH_OTHER);
  check_ok(rp_mkdirs(check_path("pths"), &err), err);
  box_write(check_path("pths/19999.pth"), "x", 1);
  check_fails(open_path(check_path("pths"), &err, really, sizeof really), RP_BAD_DATA, err,
              "19999.pth");
}

static void bad_folders(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  rp_store *s;
  rp_model_settings m;
  check_ok(convert(sample("plain"), check_path("bad"), NULL, false, false, &err), err);
  box_write(check_path("bad/config.yaml"), "model: [", 8);
  check_ok(rp_store_open(&s, check_path("bad"), &err), err);
  check_fails(rp_store_model(s, NULL, 0, &m, &err), RP_BAD_DATA, err, "config.yaml");
  rp_store_close(s);
  box_write(check_path("bad/config.yaml"), "model: {backbone: {num_layers: 0}}", 34);
  check_ok(rp_store_open(&s, check_path("bad"), &err), err);
  check_fails(rp_store_model(s, NULL, 0, &m, &err), RP_BAD_DATA, err, "num_layers");
  rp_store_close(s);
  box_write(check_path("bad/state.json"), "[]", 2);
  check_fails(rp_store_open(&s, check_path("bad"), &err), RP_BAD_DATA, err, "state.json");
  check_ok(rp_remove_tree(check_path("bad/state.json"), &err), err);
  /* Without a configuration the shapes speak, and the missing width is asked for. */
  check_ok(rp_remove_tree(check_path("bad/config.yaml"), &err), err);
  check_ok(rp_store_open(&s, check_path("bad"), &err), err);
  check_fails(rp_store_model(s, NULL, 0, &m, &err), RP_USAGE, err, "d_head=");
  rp_store_close(s);
}

static void descriptions(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  char *text;
  check_ok(rp_model_info(sample("adam_named"), NULL, 0, 0, &text, &err), err);
  assert_non_null(strstr(text, "reference .pth, 7 iterations done, with optimizer state"));
  assert_non_null(strstr(text, "RAT+, 2 layers, d=8, 2 heads of 4, f=16 gelu, V=11"));
  assert_non_null(strstr(text, "parameters  1408\n"));
  assert_non_null(strstr(text, "D=4,W=2,I=1, trained jointly with D=1"));
  rp_free(text);
  check_ok(rp_model_info(sample("bf16"), NULL, 0, 1, &text, &err), err);
  assert_non_null(strstr(text, "\"parameters\":1408,\"bytes\":2816,\"dtype\":\"bfloat16\""));
  /* 2 layers x 2 x 8 channels x 2 bytes */
  assert_non_null(strstr(text, "\"cache_bytes_per_token_dense\":64.0"));
  rp_free(text);
  check_fails(rp_model_info(sample("bare"), NULL, 0, 0, &text, &err), RP_USAGE, err, "d_head=");
}

/* Allocations that fail give a clean status, and nothing lies under the final name. */
static void short_of_memory(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  const char *out = check_path("memory");
  const size_t before = rp_mem_now();
  rp_status st = RP_NO_MEMORY;
  for (uint64_t n = 1; st; n += 1 + n / 16) {
    rp_mem_fail_at(n);
    st = convert(sample("adam_named"), out, NULL, true, false, &err);
    rp_mem_fail_at(0);
    if (st && st != RP_NO_MEMORY) fail_msg("allocation %d: status %d: %s", (int)n, st, err.text);
    assert_int_equal(rp_mem_now(), before);
    assert_int_equal(rp_exists(out), st == RP_OK);
  }
  rp_model_settings want = box_sample();
  check_model(out, &want);
  rp_model_settings_free(&want);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(short_of_memory),
                                          cmocka_unit_test(there_and_back),
                                          cmocka_unit_test(settings_survive),
                                          cmocka_unit_test(dtypes_change),
                                          cmocka_unit_test(optimizers_come_along),
                                          cmocka_unit_test(unknown_patterns_stay_unknown),
                                          cmocka_unit_test(outputs_are_not_overwritten),
                                          cmocka_unit_test(tokenizers_come_along),
                                          cmocka_unit_test(run_directories),
                                          cmocka_unit_test(bad_folders),
                                          cmocka_unit_test(descriptions)};
CHECK_MAIN(tests)
