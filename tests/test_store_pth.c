/* Checkpoints of the reference: every form that tools/make_pth_samples.py makes with PyTorch is read
 * to the same values; damage is refused; what we write is read back. */
#include "base/log.h"
#include "store_box.h"

static char notices[4096];
static void keep_notice(void *ctx, rp_log_level level, const char *line) {
  (void)ctx;
  (void)level;
  const size_t n = strlen(notices);
  snprintf(notices + n, sizeof notices - n, "%s\n", line);
}

static const char *const head_word[] = {"model.backbone.seq_cell.d_head=4"};

static void open_sample(const char *name, rp_store **s) {
  rp_error err = {0};
  char path[128];
  rp_snprintf(path, sizeof path, "tests/data/pth/%s.pth", name);
  check_ok(rp_store_open(s, check_source(path), &err), err);
}

static void every_form_is_read(void **state) {
  (void)state;
  box_need_zip();
  static const struct {
    const char *name;
    rp_dtype dtype;
  } forms[] = {{"plain", RP_F32},         {"views", RP_F32},
               {"bf16", RP_BF16},         {"f16", RP_F16},
               {"f64", RP_F64},           {"tied_shared", RP_F32},
               {"fgate", RP_F32},         {"compiled_layers", RP_F32},
               {"easydict", RP_F32},      {"omegaconf", RP_F32},
               {"parameters", RP_F32},    {"metadata", RP_F32},
               {"adam_numbered", RP_F32}, {"adam_named", RP_F32},
               {"sgd", RP_F32},           {"protocol4", RP_F32},
               {"deflated", RP_F32},      {"rezipped", RP_F32}};
  rp_error err = {0};
  rp_model_settings want = box_sample();
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    rp_store *s;
    rp_model_settings m;
    rp_shape shape;
    open_sample(forms[i].name, &s);
    check_ok(rp_store_model(s, NULL, 0, &m, &err), err);
    box_check_settings(&m, &want);
    check_ok(rp_shape_make(&shape, &m, &err), err);
    check_ok(rp_store_check(s, &shape, &err), err);
    box_check_values(s, &shape);
    assert_int_equal(rp_store_dtype(s, &shape.p[0]), forms[i].dtype);
    int64_t adam, step;
    rp_store_steps(s, &adam, &step);
    assert_int_equal(step, 7);
    assert_null(rp_store_tokenizer(s));
    rp_shape_free(&shape);
    rp_model_settings_free(&m);
    rp_store_close(s);
  }
  rp_model_settings_free(&want);
}

/* Without a configuration the width of a head is asked for, and the pattern is unknown. */
static void shapes_alone(void **state) {
  (void)state;
  box_need_zip();
  static const char *const names[] = {"bare", "state_dict", "tied_twice"};
  rp_error err = {0};
  for (int i = 0; i < 3; i++) {
    rp_store *s;
    rp_model_settings m;
    rp_shape shape;
    bool known = true;
    open_sample(names[i], &s);
    check_fails(rp_store_model(s, NULL, 0, &m, &err), RP_USAGE, err,
                "model.backbone.seq_cell.d_head=");
    check_ok(rp_store_model(s, head_word, 1, &m, &err), err);
    assert_true(m.N == 2 && m.d == 8 && m.f == 16 && m.V == 11 && m.H == 2 && m.h == 4);
    assert_true(m.apply_re && m.tied && !m.joint_train);
    check_ok(rp_store_pattern_known(s, head_word, 1, &known, &err), err);
    assert_false(known);
    const char *words[] = {head_word[0], "model.backbone.seq_cell.dilation_size=2"};
    check_ok(rp_store_pattern_known(s, words, 2, &known, &err), err);
    assert_true(known);
    check_ok(rp_shape_make(&shape, &m, &err), err);
    check_ok(rp_store_check(s, &shape, &err), err);
    box_check_values(s, &shape);
    rp_shape_free(&shape);
    rp_model_settings_free(&m);
    rp_store_close(s);
  }
}

static void words_win(void **state) {
  (void)state;
  box_need_zip();
  static const char *const words[] = {"model.backbone.seq_cell.dilation_size=[1,8]",
                                      "model.embedding.pe.base=500000"};
  static const char *const wrong[] = {"model.backbone.num_layers=3"};
  static const char *const heads[] = {"model.backbone.seq_cell.d_head=3"};
  rp_error err = {0};
  rp_store *s;
  rp_model_settings m;
  rp_shape shape;
  open_sample("plain", &s);
  check_ok(rp_store_model(s, words, 2, &m, &err), err);
  assert_true(rp_pats_get(&m.pats, 0, 0).D == 1 && rp_pats_get(&m.pats, 1, 1).D == 8);
  assert_true(m.rope_base == 500000);
  rp_model_settings_free(&m);
  check_ok(rp_store_model(s, wrong, 1, &m, &err), err);
  check_ok(rp_shape_make(&shape, &m, &err), err);
  check_fails(rp_store_check(s, &shape, &err), RP_BAD_DATA, err, "layers.2");
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
  check_fails(rp_store_model(s, heads, 1, &m, &err), RP_BAD_DATA, err, "in_proj has 40 rows");
  rp_store_close(s);
}

static void other_kinds_of_model(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  rp_store *s;
  rp_model_settings m;
  rp_shape shape;
  open_sample("attention", &s);
  check_ok(rp_store_model(s, NULL, 0, &m, &err), err);
  assert_true(!m.apply_re && !m.joint_train);
  rp_model_settings_free(&m);
  rp_store_close(s);
  open_sample("untied", &s);
  check_ok(rp_store_model(s, NULL, 0, &m, &err), err);
  assert_false(m.tied);
  check_ok(rp_shape_make(&shape, &m, &err), err);
  check_ok(rp_store_check(s, &shape, &err), err);
  box_check_values(s, &shape);
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
  rp_store_close(s);
  open_sample("layernorm_swiglu", &s);
  check_ok(rp_store_model(s, NULL, 0, &m, &err), err);
  assert_true(m.act == RP_ACT_SWIGLU && m.f == 16);
  assert_true(m.mixer_norm == RP_NORM_LAYER && m.final_norm == RP_NORM_LAYER);
  check_ok(rp_shape_make(&shape, &m, &err), err);
  check_ok(rp_store_check(s, &shape, &err), err);
  box_check_values(s, &shape);
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
  rp_store_close(s);
}

static void older_names_get_a_notice(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  rp_store *s;
  rp_model_settings m;
  notices[0] = 0;
  rp_log_set(keep_notice, NULL, RP_LOG_DEBUG);
  open_sample("easydict", &s);
  check_ok(rp_store_model(s, NULL, 0, &m, &err), err);
  rp_log_set(NULL, NULL, RP_LOG_DEBUG);
  assert_int_equal(m.cell, RP_CELL_RATPLUS);
  assert_non_null(strstr(notices, "model.backbone.seq_cell.k_conv"));
  assert_non_null(strstr(notices, "model.backbone.prenorm"));
  assert_non_null(strstr(notices, "rat2gated"));
  rp_model_settings_free(&m);
  rp_store_close(s);
}

/* A head of its own, where the configuration says there is none, is not dropped in silence. */
static void a_head_that_differs_gets_a_notice(void **state) {
  (void)state;
  box_need_zip();
  static const char *const tied[] = {"task.tie_embedding=true"};
  rp_error err = {0};
  for (int i = 0; i < 2; i++) {
    rp_store *s;
    rp_model_settings m;
    rp_shape shape;
    notices[0] = 0;
    open_sample(i ? "tied_shared" : "untied", &s);
    check_ok(rp_store_model(s, tied, 1, &m, &err), err);
    check_ok(rp_shape_make(&shape, &m, &err), err);
    rp_log_set(keep_notice, NULL, RP_LOG_DEBUG);
    check_ok(rp_store_check(s, &shape, &err), err);
    rp_log_set(NULL, NULL, RP_LOG_DEBUG);
    assert_int_equal(strstr(notices, "differs from the embedding") != NULL, i == 0);
    rp_shape_free(&shape);
    rp_model_settings_free(&m);
    rp_store_close(s);
  }
}

static void optimizer_state(void **state) {
  (void)state;
  box_need_zip();
  static const char *const names[] = {"adam_numbered", "adam_named"};
  rp_error err = {0};
  rp_model_settings m = box_sample();
  rp_shape shape;
  rp_store *s;
  int64_t adam, step;
  bool has = true;
  float x[512];
  check_ok(rp_shape_make(&shape, &m, &err), err);
  for (int i = 0; i < 2; i++) {
    open_sample(names[i], &s);
    box_check_moments(s, &shape, "exp_avg", 100);
    box_check_moments(s, &shape, "exp_avg_sq", 200);
    rp_store_steps(s, &adam, &step);
    assert_true(adam == 14 && step == 7);
    check_ok(rp_store_moment_f32(s, &shape, &shape.p[0], "momentum_buffer", x, &has, &err), err);
    assert_false(has);
    rp_store_close(s);
  }
  open_sample("sgd", &s);
  box_check_moments(s, &shape, "momentum_buffer", 200);
  rp_store_close(s);
  open_sample("plain", &s);
  check_ok(rp_store_moment_f32(s, &shape, &shape.p[0], "exp_avg", x, &has, &err), err);
  assert_false(has);
  rp_store_close(s);
  rp_shape_free(&shape);
  m.N = 1;
  check_ok(rp_shape_make(&shape, &m, &err), err);
  open_sample("adam_numbered", &s);
  check_fails(rp_store_moment_f32(s, &shape, &shape.p[0], "exp_avg", x, &has, &err), RP_BAD_DATA,
              err, "numbers 14 tensors, the model has 8");
  rp_store_close(s);
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
}

static rp_status open_path(const char *path, rp_error *err) {
  rp_store *s;
  const rp_status st = rp_store_open(&s, path, err);
  rp_store_close(s);
  return st;
}

static void refused(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  check_fails(open_path(check_source("tests/data/pth/legacy.pth"), &err), RP_BAD_DATA, err,
              "before 2020");
  check_fails(open_path(check_source("tests/data/pth/evil.pth"), &err), RP_BAD_DATA, err,
              "posix system");
  const char *path = check_path("x.pth");
  box_write(path, "", 0);
  check_fails(open_path(path, &err), RP_BAD_DATA, err, "neither a model directory");
  box_write(path, "hello, this is text", 19);
  check_fails(open_path(path, &err), RP_BAD_DATA, err, "neither a model directory");
  box_write(path, "PK\3\4 and nothing else", 21);
  check_fails(open_path(path, &err), RP_BAD_DATA, err, "damaged or cut");
}

/* Cut anywhere a checkpoint is refused; changed anywhere it does no harm. */
static void cut_and_changed(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  char *file;
  size_t n;
  rp_model_settings m = box_sample();
  rp_shape shape;
  check_ok(rp_shape_make(&shape, &m, &err), err);
  check_ok(rp_file_read(check_source("tests/data/pth/bf16.pth"), 1 << 20, &file, &n, &err), err);
  const char *path = check_path("cut.pth");
  for (size_t k = 0; k < n; k++) {
    box_write(path, file, k);
    assert_int_equal(open_path(path, &err), RP_BAD_DATA);
  }
  rp_rng r = check_rng(6);
  const size_t before = rp_mem_now();
  for (int round = 0; round < 3000; round++) {
    const size_t at = (size_t)check_pick(&r, 0, (int)n - 1);
    const char was = file[at];
    rp_store *s;
    file[at] = (char)check_pick(&r, 0, 255);
    box_write(path, file, n);
    if (!rp_store_open(&s, path, &err)) {
      float x[512];
      rp_model_settings told;
      for (int j = 0; j < shape.n; j++) (void)rp_store_get_f32(s, &shape.p[j], x, &err);
      if (!rp_store_model(s, NULL, 0, &told, &err)) rp_model_settings_free(&told);
      rp_store_close(s);
    }
    file[at] = was;
  }
  assert_int_equal(rp_mem_now(), before);
  rp_free(file);
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
}

static void short_of_memory(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  const size_t before = rp_mem_now();
  rp_status st = RP_NO_MEMORY;
  for (uint64_t n = 1; st; n++) {
    rp_store *s;
    rp_model_settings m = {0};
    rp_mem_fail_at(n);
    st = rp_store_open(&s, check_source("tests/data/pth/omegaconf.pth"), &err);
    if (!st) st = rp_store_model(s, NULL, 0, &m, &err);
    rp_mem_fail_at(0);
    if (st && st != RP_NO_MEMORY) fail_msg("allocation %d: status %d: %s", (int)n, st, err.text);
    rp_model_settings_free(&m);
    rp_store_close(s);
    assert_int_equal(rp_mem_now(), before);
  }
}

/* What we write is what we read, for any model, with and without an optimizer. */
static void written_is_read(void **state) {
  (void)state;
  box_need_zip();
  static const rp_dtype dtypes[] = {RP_F32, RP_BF16, RP_F16};
  rp_rng r = check_rng(7);
  rp_error err = {0};
  for (int round = 0; round < 30; round++) {
    rp_model_settings m = box_random(&r), back;
    rp_shape shape;
    rp_store *s;
    char *config;
    check_ok(rp_shape_make(&shape, &m, &err), err);
    check_ok(rp_model_settings_json(&m, true, &config, &err), err);
    box_source weights = {&shape, 0}, avg = {&shape, 100}, sq = {&shape, 200};
    const rp_tensor_set set = {&shape, "", dtypes[round % 3], NULL, box_pull, &weights};
    const rp_tensor_set moments[2] = {{&shape, "exp_avg.", RP_F32, NULL, box_pull, &avg},
                                      {&shape, "exp_avg_sq.", RP_F32, NULL, box_pull, &sq}};
    const rp_pth_extra extra = {.tied = m.tied,
                                .config_json = config,
                                .step = round,
                                .adam = 2 * round,
                                .moments = moments,
                                .n_moments = round % 2 ? 2 : 0};
    const char *path = check_path("written.pth");
    check_ok(rp_pth_write(path, &set, &extra, &err), err);
    check_ok(rp_store_open(&s, path, &err), err);
    assert_int_equal(rp_store_count(s), shape.n + m.tied);
    check_ok(rp_store_model(s, NULL, 0, &back, &err), err);
    box_check_settings(&back, &m);
    check_ok(rp_store_check(s, &shape, &err), err);
    box_check_values(s, &shape);
    for (int i = 0; i < shape.n; i++)
      assert_non_null(rp_store_direct(s, &shape.p[i], dtypes[round % 3]));
    int64_t adam, step;
    rp_store_steps(s, &adam, &step);
    assert_int_equal(step, round);
    assert_int_equal(adam, round % 2 ? 2 * round : -1);
    if (round % 2) box_check_moments(s, &shape, "exp_avg", 100);
    if (round % 2) box_check_moments(s, &shape, "exp_avg_sq", 200);
    rp_store_close(s);
    rp_free(config);
    rp_shape_free(&shape);
    rp_model_settings_free(&m);
    rp_model_settings_free(&back);
  }
}

/* The authors' own file. */
static void the_authors_run(void **state) {
  (void)state;
  box_need_zip();
  rp_error err = {0};
  rp_store *s;
  rp_model_settings m;
  rp_shape shape;
  const size_t before = rp_mem_now();
  check_ok(rp_store_open(&s, check_source("tests/data/reference/ratplus.pth"), &err), err);
  assert_true(rp_mem_now() < before + 100000); /* the weights are mapped, not copied */
  check_ok(rp_store_model(s, NULL, 0, &m, &err), err);
  assert_true(m.N == 3 && m.d == 64 && m.h == 16 && m.V == 97 && m.f == 256);
  assert_true(m.apply_re && m.joint_train && m.tied);
  assert_int_equal(rp_pats_get(&m.pats, 2, 3).D, 8);
  check_ok(rp_shape_make(&shape, &m, &err), err);
  check_ok(rp_store_check(s, &shape, &err), err);
  for (int i = 0; i < shape.n; i++) assert_non_null(rp_store_direct(s, &shape.p[i], RP_F32));
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
  rp_store_close(s);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(every_form_is_read),
                                          cmocka_unit_test(shapes_alone),
                                          cmocka_unit_test(words_win),
                                          cmocka_unit_test(other_kinds_of_model),
                                          cmocka_unit_test(older_names_get_a_notice),
                                          cmocka_unit_test(a_head_that_differs_gets_a_notice),
                                          cmocka_unit_test(optimizer_state),
                                          cmocka_unit_test(refused),
                                          cmocka_unit_test(cut_and_changed),
                                          cmocka_unit_test(short_of_memory),
                                          cmocka_unit_test(written_is_read),
                                          cmocka_unit_test(the_authors_run)};
CHECK_MAIN(tests)
