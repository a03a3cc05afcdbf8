/* Whole trainings: against the authors' own run, resumed bit for bit, on every device. */
#include "base/json.h"
#include "train_box.h"

/* ---- the authors' run ---- */

static const rp_json *array_of(const rp_json *o, const char *key) {
  const rp_json *v = rp_json_get(o, key);
  if (!v || v->type != RP_JSON_ARRAY) fail_msg("%s: no array", key);
  return v;
}

static rp_config *reference_config(const char *run_dir) {
  static char own[8][1024];
  const char *words[] = {"experiment=fineweb_edu/ratplus-1b",
                         own[0],
                         "trainer.dtype=float32",
                         own[1],
                         "trainer.load_checkpoint=false",
                         "data.vocab_size=97",
                         "data.seq_len=96",
                         "data.batch_size=2",
                         "data.global_batch_size=4",
                         own[2],
                         "data.train.limit_tokens=7680",
                         own[3],
                         "data.val.limit_tokens=-1",
                         "trainer.log_interval=1",
                         "model.backbone.num_layers=3",
                         "model.backbone.d_model=64",
                         "model.backbone.seq_cell.d_head=16",
                         "model.backbone.seq_cell.dilation_size=8",
                         own[4]};
  snprintf(own[0], 1024, "configs_dir=%s", check_source("configs"));
  snprintf(own[1], 1024, "trainer.pretrained_path=%s",
           check_source("tests/data/reference/ratplus.pth"));
  snprintf(own[2], 1024, "data.train.tokenized_file_path=%s",
           check_source("tests/data/reference/train.bin"));
  snprintf(own[3], 1024, "data.val.tokenized_file_path=%s",
           check_source("tests/data/reference/val.bin"));
  snprintf(own[4], 1024, "run_dir=%s", run_dir);
  rp_error err = {0};
  rp_config *c = NULL;
  check_ok(rp_config_compose(&c, words, sizeof words / sizeof *words, NULL, &err), err);
  return c;
}

static void follows_the_authors_run(void **state) {
  (void)state;
  check_needs_yaml();
  static box_log log;
  rp_error err = {0};
  rp_train_result result;
  char *text = NULL;
  size_t len = 0;
  rp_json_doc *doc = NULL;
  log = (box_log){.stop_at = -1};
  rp_config *c = reference_config(check_path("reference-run"));
  check_ok(box_train(c, RP_DEVICE_CPU, &log, false, &result, &err), err);
  check_ok(rp_file_read(check_source("tests/data/reference/joint-float32.json"), 1 << 20, &text,
                        &len, &err),
           err);
  check_ok(rp_json_parse(&doc, text, len, "joint-float32.json", &err), err);
  assert_int_equal(log.n, 20);
  const rp_json *root = rp_json_root(doc);
  const rp_json *it = array_of(root, "steps")->child;
  const rp_json *norm = array_of(root, "grad_norms")->child;
  for (int i = 0; i < log.n; i++, it = it->next) {
    const rp_train_event *e = &log.at[i];
    check_close(e->train_loss, rp_json_get(it, "train_loss")->real, 1e-5);
    check_close(e->train_loss1, rp_json_get(it, "train_loss1")->real, 1e-5);
    check_close(e->grad_norm1 / norm->real, 1, 1e-5);
    check_close(e->grad_norm / norm->next->real, 1, 1e-5);
    /* The authors log the rate of the next iteration. */
    if (i + 1 < log.n) check_close(log.at[i + 1].lr, rp_json_get(it, "lr")->real, 1e-12);
    norm = norm->next->next;
  }
  check_close(result.val_loss, rp_json_get(root, "val_loss")->real, 1e-5);
  rp_json_free(doc);
  rp_free(text);
  rp_config_free(c);
}

/* ---- resuming ---- */

/* Runs to the end in one go and in pieces cut after the given steps: the last checkpoints are equal,
 * and so are the lines of the log but for times. */
static void same_in_pieces(const char *name, const char *const *more, int device, int steps,
                           const int *cuts, int n_cuts) {
  static box_log whole, part;
  char one[64], two[64];
  rp_error err = {0};
  rp_train_result result;
  snprintf(one, sizeof one, "%s-whole", name);
  snprintf(two, sizeof two, "%s-pieces", name);
  const char *dir1 = check_path(one), *dir2 = check_path(two);
  rp_config *c1 = box_config(dir1, steps, more), *c2 = box_config(dir2, steps, more);
  whole = (box_log){.stop_at = -1};
  check_ok(box_train(c1, device, &whole, false, &result, &err), err);
  assert_int_equal(result.step, steps);
  const double val = result.val_loss;
  assert_true(isfinite(val));
  int64_t from = 0;
  for (int i = 0; i < n_cuts; i++) {
    part = (box_log){.stop_at = cuts[i]};
    const rp_status st = box_train(c2, device, &part, false, &result, &err);
    if (st != RP_STOPPED) fail_msg("%s: status %d: %s", name, st, err.text);
    assert_int_equal(part.start, from);
    assert_int_equal(result.step, cuts[i] + 1);
    assert_true(result.saved);
    for (int j = 0; j < part.n; j++) {
      const rp_train_event *a = &whole.at[from + j], *b = &part.at[j];
      assert_true(a->train_loss == b->train_loss && a->grad_norm == b->grad_norm && a->lr == b->lr);
    }
    from = cuts[i] + 1;
  }
  part = (box_log){.stop_at = -1};
  check_ok(box_train(c2, device, &part, false, &result, &err), err);
  assert_int_equal(part.start, from);
  assert_true(result.val_loss == val);
  box_same_runs(dir1, dir2);
  /* And once more: nothing to do. */
  check_ok(box_train(c2, device, &part, false, &result, &err), err);
  assert_true(result.was_finished && fabs(result.val_loss - val) < 1e-12);
  rp_config_free(c1);
  rp_config_free(c2);
}

static void resumes_bit_for_bit_joint(void **state) {
  (void)state;
  check_needs_yaml();
  const int cuts[] = {0, 3, 6};
  same_in_pieces("joint", NULL, RP_DEVICE_CPU, 8, cuts, 3);
}

static void resumes_bit_for_bit_every_setting(void **state) {
  (void)state;
  check_needs_yaml();
  static const char *const opts[] = {"optim/optimizer=adamw", "optim/optimizer=adam",
                                     "optim/optimizer=sgd"};
  static const char *const joint[] = {"model.backbone.seq_cell.joint_train=true",
                                      "model.backbone.seq_cell.joint_train=false"};
  static const char *const dtypes[] = {"trainer.dtype=float32", "trainer.dtype=bfloat16"};
  static const char *const loads[] = {"data.train._name_=lm_ordered",
                                      "data.train._name_=lm_random"};
  rp_rng r = check_rng(1);
  for (int i = 0; i < 12; i++) {
    char name[32];
    snprintf(name, sizeof name, "setting%d", i);
    const char *more[] = {opts[i % 3],
                          "optim.optimizer.lr=0.002",
                          joint[i / 3 % 2],
                          dtypes[i / 6],
                          loads[check_pick(&r, 0, 1)],
                          check_pick(&r, 0, 1) ? "trainer.recompute=true" : "trainer.max_epoch=1",
                          NULL};
    const int cuts[] = {check_pick(&r, 0, 4)};
    same_in_pieces(name, more, RP_DEVICE_CPU, 6, cuts, 1);
  }
}

static void resumes_with_shards_and_epochs(void **state) {
  (void)state;
  check_needs_yaml();
  const char *more[] = {"data.shards=2", "trainer.max_epoch=2", "data.train._name_=lm_random",
                        "trainer.eval_when_log=true", NULL};
  const int cuts[] = {4, 7};
  static box_log log;
  rp_error err = {0};
  rp_train_result result;
  /* twice five iterations */
  const char *a = check_path("epochs-whole"), *b = check_path("epochs-pieces");
  rp_config *c1 = box_config(a, 5, more), *c2 = box_config(b, 5, more);
  log = (box_log){.stop_at = -1};
  check_ok(box_train(c1, RP_DEVICE_CPU, &log, false, &result, &err), err);
  assert_int_equal(result.of, 10);
  for (int i = 0; i < 2; i++) {
    log = (box_log){.stop_at = cuts[i]};
    assert_int_equal(box_train(c2, RP_DEVICE_CPU, &log, false, &result, &err), RP_STOPPED);
  }
  log = (box_log){.stop_at = -1};
  check_ok(box_train(c2, RP_DEVICE_CPU, &log, false, &result, &err), err);
  box_same_runs(a, b);
  rp_config_free(c1);
  rp_config_free(c2);
}

/* ---- devices ---- */

/* The same numbers on every kind of device: bits on the guard, rounding on the plain C ones. */
static void trains_alike_on_every_device(void **state) {
  (void)state;
  check_needs_yaml();
  static const rp_device_kind kinds[] = {RP_DEVICE_CPU, RP_DEVICE_GUARD, RP_DEVICE_REF,
                                         RP_DEVICE_REF64};
  static box_log logs[4];
  rp_error err = {0};
  rp_train_result result;
  for (int i = 0; i < 4; i++) {
    char name[32];
    snprintf(name, sizeof name, "device%d", i);
    rp_config *c = box_config(check_path(name), 6, NULL);
    logs[i] = (box_log){.stop_at = -1};
    check_ok(box_train(c, (int)kinds[i], &logs[i], false, &result, &err), err);
    assert_int_equal(logs[i].n, 6);
    for (int j = 0; j < 6; j++) {
      check_close(logs[i].at[j].train_loss, logs[0].at[j].train_loss, i == 1 ? 0 : 2e-5);
      check_close(logs[i].at[j].grad_norm / logs[0].at[j].grad_norm, 1, i == 1 ? 0 : 2e-4);
    }
    check_close(logs[i].at[5].val_loss, logs[0].at[5].val_loss, i == 1 ? 0 : 2e-5);
    rp_config_free(c);
  }
}

static void resumes_on_the_guard(void **state) {
  (void)state;
  check_needs_yaml();
  const int cuts[] = {2};
  const char *more[] = {"trainer.dtype=bfloat16", NULL};
  same_in_pieces("guard", more, RP_DEVICE_GUARD, 5, cuts, 1);
}

/* ---- what is not finite ---- */

typedef struct {
  int from, to; /* iterations whose weights are spoilt */
  float kept;
} spoil;

/* Makes one weight infinite before the iteration and puts it back afterwards. */
static void spoil_step(void *ctx, rp_trainer *t, int64_t step, bool after) {
  spoil *s = ctx;
  if (step < s->from || step >= s->to) return;
  rp_error err = {0};
  float one[BOX_V * 32];
  const rp_param *p = &t->params.shape.p[0];
  check_ok(rp_params_get(&t->params, p, one, &err), err);
  if (!after) s->kept = one[37];
  one[37] = after ? s->kept : INFINITY;
  check_ok(rp_params_set(&t->params, p, one, &err), err);
  rp_params_round(&t->params);
  check_ok(rp_wait(t->q, &err), err);
}

static rp_status train_spoilt(const rp_config *c, spoil *s, box_log *log, rp_train_result *result,
                              rp_error *err) {
  rp_train_opts o;
  rp_train_defaults(&o);
  o.event = box_event;
  o.ctx = log;
  rp_threads_set(1); /* as box_train: a library's products may depend on the threads */
  const rp_train_inner in = {
      .device = RP_DEVICE_CPU, .no_rate = true, .step = spoil_step, .ctx = s};
  return rp_train_with(c, &o, &in, result, err);
}

static char spoken[8192];
static void hear(void *ctx, rp_log_level level, const char *line) {
  (void)ctx, (void)level;
  strncat(spoken, line, sizeof spoken - strlen(spoken) - 2);
  strcat(spoken, "\n");
}

static void skips_steps_that_are_not_finite(void **state) {
  (void)state;
  check_needs_yaml();
  static box_log log;
  rp_error err = {0};
  rp_train_result result;
  rp_config *c = box_config(check_path("spoilt"), 10, NULL);
  spoil s = {.from = 4, .to = 6};
  log = (box_log){.stop_at = -1};
  *spoken = 0;
  rp_log_set(hear, NULL, RP_LOG_WARNING);
  check_ok(train_spoilt(c, &s, &log, &result, &err), err);
  rp_log_set(NULL, NULL, RP_LOG_WARNING);
  assert_int_equal(result.skipped, 4); /* two iterations of two optimizer steps */
  assert_non_null(strstr(spoken, "step 4, sparse pass"));
  assert_non_null(strstr(spoken, "step 5, dense pass"));
  assert_non_null(strstr(spoken, "train.bin"));
  assert_null(strstr(spoken, "step 6"));
  assert_true(isfinite(log.at[9].train_loss));
  /* The count is in the checkpoint, Adam's counter without the skipped steps. */
  rp_loop_state ls;
  check_ok(rp_loop_state_read(check_path("spoilt/checkpoints/latest/state.json"), &ls, &err), err);
  assert_int_equal(ls.skipped, 4);
  assert_int_equal(ls.adam_step, 16);
  rp_config_free(c);
}

static void stops_after_ten_in_a_row(void **state) {
  (void)state;
  check_needs_yaml();
  static box_log log;
  rp_error err = {0};
  rp_train_result result;
  const char *more[] = {"trainer.save_interval=1.0", NULL};
  rp_config *c = box_config(check_path("hopeless"), 12, more);
  rp_config *c2 = box_config(check_path("hopeful"), 12, more);
  spoil s = {.from = 3, .to = 100};
  log = (box_log){.stop_at = -1};
  check_fails(train_spoilt(c, &s, &log, &result, &err), RP_FAIL, err,
              "10 optimizer steps in a row");
  assert_non_null(strstr(err.text, "step-00000008"));
  assert_int_equal(result.step, 8);
  /* Its weights are those after three good iterations: the same as of a run stopped there. */
  log = (box_log){.stop_at = 2};
  assert_int_equal(box_train(c2, RP_DEVICE_CPU, &log, false, &result, &err), RP_STOPPED);
  box_same_runs(check_path("hopeless"), check_path("hopeful"));
  rp_run_status rs;
  check_ok(rp_run_status_read(check_path("hopeless"), &rs, &err), err);
  assert_string_equal(rs.state, "failed");
  /* And it can go on. */
  log = (box_log){.stop_at = -1};
  check_ok(box_train(c, RP_DEVICE_CPU, &log, false, &result, &err), err);
  assert_int_equal(log.start, 8);
  assert_int_equal(result.skipped, 10);
  rp_config_free(c);
  rp_config_free(c2);
}

/* ---- accumulation ---- */

/* 2 x 2 sequences are 1 x 4 when every micro-batch has as many labels; else a mean of means. */
static void accumulates_means_plainly(void **state) {
  (void)state;
  check_needs_yaml();
  static box_log a, b;
  rp_error err = {0};
  const char *small[] = {"data.ignore_input_index=1000", "data.batch_size=1", NULL};
  const char *large[] = {"data.ignore_input_index=1000", "data.batch_size=4", NULL};
  rp_config *c1 = box_config(check_path("acc1"), 5, small);
  rp_config *c2 = box_config(check_path("acc4"), 5, large);
  a = b = (box_log){.stop_at = -1};
  check_ok(box_train(c1, RP_DEVICE_CPU, &a, false, NULL, &err), err);
  check_ok(box_train(c2, RP_DEVICE_CPU, &b, false, NULL, &err), err);
  for (int i = 0; i < 5; i++) {
    check_close(a.at[i].train_loss, b.at[i].train_loss, 1e-4);
    check_close(a.at[i].grad_norm / b.at[i].grad_norm, 1, 1e-3);
  }
  rp_config_free(c1);
  rp_config_free(c2);
}

static void validates_only(void **state) {
  (void)state;
  check_needs_yaml();
  rp_error err = {0};
  rp_train_result trained, seen;
  static box_log log;
  rp_config *c = box_config(check_path("source"), 5, NULL);
  log = (box_log){.stop_at = -1};
  check_ok(box_train(c, RP_DEVICE_CPU, &log, false, &trained, &err), err);
  char path[1024];
  snprintf(path, sizeof path, "trainer.pretrained_path=%s", check_path("source"));
  const char *more[] = {"trainer.max_epoch=0", path, NULL};
  rp_config *v = box_config(check_path("only"), 5, more);
  check_ok(box_train(v, RP_DEVICE_CPU, NULL, false, &seen, &err), err);
  assert_true(seen.val_loss == trained.val_loss);
  assert_true(seen.val_loss_dense == trained.val_loss_dense);
  assert_int_equal(seen.step, 0);
  assert_false(rp_exists(check_path("only/checkpoints")));
  rp_config_free(c);
  rp_config_free(v);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(follows_the_authors_run),
    cmocka_unit_test(resumes_bit_for_bit_joint),
    cmocka_unit_test(resumes_bit_for_bit_every_setting),
    cmocka_unit_test(resumes_with_shards_and_epochs),
    cmocka_unit_test(trains_alike_on_every_device),
    cmocka_unit_test(resumes_on_the_guard),
    cmocka_unit_test(skips_steps_that_are_not_finite),
    cmocka_unit_test(stops_after_ten_in_a_row),
    cmocka_unit_test(accumulates_means_plainly),
    cmocka_unit_test(validates_only),
};
CHECK_MAIN(tests)
