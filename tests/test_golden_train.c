/* Training against the golden files: twenty iterations of joint and plain training (losses,
 * gradient norms, final weights), learning rates, and the statistics of initial weights. */
#include "golden.h"
#include "train/optimizer.h"
#include "train/schedule.h"

typedef struct {
  const char *label;
  rp_device_kind kind;
  rp_dtype dtype;
  bool recompute;
} mode;

static const mode modes[] = {
    {"ref64", RP_DEVICE_REF64, RP_F32, false},
    {"cpu", RP_DEVICE_CPU, RP_F32, false},
    {"guard", RP_DEVICE_GUARD, RP_F32, true},
    {"cpu-bfloat16", RP_DEVICE_CPU, RP_BF16, false},
};
enum { MODES = sizeof modes / sizeof *modes };

/* One run in the making. */
typedef struct {
  golden g;
  box b;
  rp_optimizer opt;
  rp_optim_settings optim;
  int plan, accumulation, S;
  bool joint;
  const int32_t *ids, *labels; /* [S, accumulation, batch, T] */
  double loss_tol, norm_tol, final_tol;
} run;

static rp_optim_settings read_optim(const rp_json *o) {
  const char *name = golden_text(o, "name"), *sched = golden_text(o, "sched");
  return (rp_optim_settings){
      .name = !strcmp(name, "adamw")  ? RP_OPT_ADAMW
              : !strcmp(name, "adam") ? RP_OPT_ADAM
                                      : RP_OPT_SGD,
      .lr = golden_real(o, "lr"),
      .weight_decay = golden_real(o, "weight_decay"),
      .beta1 = golden_real(o, "beta1"),
      .beta2 = golden_real(o, "beta2"),
      .eps = golden_real(o, "eps"),
      .momentum = golden_real(o, "momentum"),
      .sched = strcmp(sched, "constant") ? RP_SCHED_COSINE : RP_SCHED_CONSTANT,
      .warmup = golden_real(o, "warmup"),
      .eta_min = golden_real(o, "eta_min"),
  };
}

/* In double what is left is the file's float32 storage and a decay that is kept in float32. */
static void read_tolerances(run *r, const rp_json *at, const mode *how) {
  const rp_json *tol = golden_get(at, "tol");
  const bool exact = how->kind == RP_DEVICE_REF64;
  r->loss_tol = exact ? 1e-8 : golden_real(tol, "loss");
  r->norm_tol = exact ? 1e-8 : golden_real(tol, "norm");
  r->final_tol = exact ? 1e-7 : golden_real(tol, "final");
}

static void run_open(run *r, const char *name, const mode *how) {
  rp_error err = {0};
  int64_t n;
  golden_open(&r->g, name);
  const rp_json *root = r->g.root;
  r->S = golden_int(root, "S");
  r->accumulation = golden_int(root, "accumulation");
  r->joint = golden_int(root, "joint");
  r->ids = golden_tensor(&r->g, "ids", RP_I32, &n);
  r->labels = golden_tensor(&r->g, "labels", RP_I32, &n);
  r->optim = read_optim(golden_get(root, "optim"));
  box_open(&r->b, how->kind, &r->g.m, how->dtype, golden_int(root, "batch"), golden_int(root, "T"),
           how->recompute);
  golden_set_weights(&r->g, &r->b.params);
  check_ok(rp_net_add_plan(r->b.net, &r->g.m.pats, &r->plan, &err), err);
  check_ok(rp_optimizer_open(&r->opt, &r->b.params, &r->optim, golden_real(root, "clip"), &err),
           err);
  rp_params_zero_grads(&r->b.params);
}

static void run_close(run *r) {
  rp_wait(r->b.q, NULL);
  rp_optimizer_close(&r->opt);
  box_close(&r->b);
  golden_close(&r->g);
}

/* A whole pass of iteration i: every micro-batch, then one optimizer step. */
static void one_pass(run *r, int i, int plan, double lr, const rp_json *want) {
  rp_error err = {0};
  rp_loss loss;
  rp_ctl ctl;
  box *b = &r->b;
  const rp_weights w = rp_params_weights(&b->params);
  const int64_t each = (int64_t)b->batch * b->T;
  rp_op_zero(b->q, &(rp_zero_args){b->loss, sizeof loss});
  for (int a = 0; a < r->accumulation; a++) {
    const int64_t at = (i * r->accumulation + a) * each;
    const rp_pass p = {b->batch, b->T,      plan,   true, 1.0 / r->accumulation,
                       b->ids,   b->labels, b->loss};
    box_data(b, r->ids + at, r->labels + at);
    check_ok(rp_net_pass(b->net, &w, &p, &err), err);
  }
  rp_optimizer_step(&r->opt, lr, b->loss);
  rp_download(b->q, &loss, b->loss, sizeof loss);
  check_ok(rp_optimizer_ctl_get(&r->opt, &ctl, &err), err);
  const double want_loss = golden_real(want, "loss"), want_norm = golden_real(want, "norm");
  if (!(fabs(loss.mean / want_loss - 1) <= r->loss_tol))
    fail_msg("%s: iteration %d: loss %.9g, wanted %.9g", r->g.name, i, loss.mean, want_loss);
  if (!(fabs(ctl.norm / want_norm - 1) <= r->norm_tol))
    fail_msg("%s: iteration %d: norm %.9g, wanted %.9g", r->g.name, i, ctl.norm, want_norm);
  assert_int_equal(ctl.skip, 0);
}

static void compare_weights(run *r, const rp_json *at, const char *prefix) {
  rp_error err = {0};
  char tensor[32];
  const rp_shape *s = &r->b.params.shape;
  const rp_json *entries = golden_get(at, "final");
  snprintf(tensor, sizeof tensor, "%sfinal.", prefix);
  assert_int_equal(entries->count, s->n);
  for (int i = 0; i < s->n; i++) {
    const int64_t n = s->p[i].rows * s->p[i].cols;
    double *w = rp_malloc((size_t)n, sizeof *w);
    assert_non_null(w);
    check_ok(rp_params_get_f64(&r->b.params, 0, &s->p[i], w, &err), err);
    golden_sampled(&r->g, tensor, s->p[i].name, golden_get(entries, s->p[i].name), w, n,
                   r->final_tol, r->final_tol);
    rp_free(w);
  }
}

static void follow(const char *name, const mode *how) {
  run r = {0};
  const bool low = how->dtype == RP_BF16;
  run_open(&r, name, how);
  const rp_json *at = low ? rp_json_get(r.g.root, "bf16") : r.g.root;
  if (at) {
    read_tolerances(&r, at, how);
    const rp_json *step = golden_get(at, "steps")->child;
    for (int i = 0; i < r.S; i++, step = step->next) {
      const double lr = rp_sched_lr(&r.optim, i, r.S);
      const rp_json *pass = golden_get(step, "passes")->child;
      check_close(lr, golden_real(step, "lr"), 1e-15);
      one_pass(&r, i, r.plan, lr, pass);
      if (r.joint) one_pass(&r, i, 0, lr, pass->next);
    }
    assert_null(step);
    compare_weights(&r, at, low ? "bf16." : "");
  }
  run_close(&r);
}

static void follow_all(const char *name) {
  const bool joint = !strcmp(name, "train-joint"), queued = joint || !strcmp(name, "train-mixed");
  const bool cpu_alone = getenv("CHECK_FAST") || (check_sanitized() && !joint);
  for (int i = 0; i < MODES; i++) {
    if (modes[i].kind == RP_DEVICE_GUARD && !queued) continue;
    if (modes[i].kind != RP_DEVICE_CPU && cpu_alone) continue;
    printf("# %s on %s\n", name, modes[i].label);
    follow(name, &modes[i]);
  }
}

static void joint_training(void **state) { (void)state, follow_all("train-joint"); }
static void plain_training(void **state) { (void)state, follow_all("train-plain"); }
static void training_with_adam(void **state) { (void)state, follow_all("train-adam"); }
static void training_with_sgd(void **state) { (void)state, follow_all("train-sgd"); }
static void training_with_every_switch(void **state) { (void)state, follow_all("train-mixed"); }
static void training_attention_only(void **state) { (void)state, follow_all("train-attention"); }
static void training_at_full_head_width(void **state) { (void)state, follow_all("train-h128"); }
static void training_at_large_dilation(void **state) { (void)state, follow_all("train-d64"); }

/* ---- tables ---- */

static rp_json_doc *read_table(const char *name) {
  rp_error err = {0};
  rp_json_doc *doc;
  char path[160], *text;
  size_t len;
  snprintf(path, sizeof path, "tests/data/golden/%s.json", name);
  check_ok(rp_file_read(check_source(path), 1 << 20, &text, &len, &err), err);
  check_ok(rp_json_parse(&doc, text, len, path, &err), err);
  rp_free(text);
  return doc;
}

static void learning_rates(void **state) {
  (void)state;
  rp_json_doc *doc = read_table("schedule");
  int rates = 0;
  for (const rp_json *s = golden_get(rp_json_root(doc), "schedules")->child; s; s = s->next) {
    const char *sched = golden_text(s, "sched");
    const rp_optim_settings o = {
        .lr = golden_real(s, "lr"),
        .eta_min = golden_real(s, "eta_min"),
        .warmup = golden_real(s, "warmup"),
        .sched = strcmp(sched, "constant") ? RP_SCHED_COSINE : RP_SCHED_CONSTANT,
    };
    int64_t i = 0;
    for (const rp_json *r = golden_get(s, "rates")->child; r; r = r->next, rates++)
      check_close(rp_sched_lr(&o, i++, golden_int(s, "S")), r->real, 1e-15);
    assert_int_equal(i, golden_int(s, "S"));
  }
  assert_true(rates > 300);
  rp_json_free(doc);
}

/* Mean, deviation, and the shares beyond one and two deviations, each within five of its own
 * standard errors. */
static void check_law(const rp_json *want, const char *init, const float *w, int64_t n) {
  const char *law = golden_text(want, "law"), *name = golden_text(want, "name");
  if (!strcmp(law, "constant")) {
    for (int64_t i = 0; i < n; i++) assert_true(w[i] == (float)golden_real(want, "value"));
    return;
  }
  const bool normal = !strcmp(law, "normal");
  const double std = golden_real(want, "std"), count = (double)n;
  double sum = 0, square = 0, most = 0, beyond[2] = {0, 0};
  for (int64_t i = 0; i < n; i++) {
    const double x = (double)w[i] / std;
    sum += x, square += x * x;
    most = fmax(most, fabs(x));
    beyond[0] += fabs(x) > 1;
    beyond[1] += fabs(x) > 1.6;
  }
  const double share[2] = {normal ? 0.317311 : 1 - 1 / sqrt(3),
                           normal ? 0.109599 : 1 - 1.6 / sqrt(3)};
  const double spread = sqrt((normal ? 2 : 0.8) / count) * 5;
  if (!(fabs(sum / count) <= 5 / sqrt(count)) || !(fabs(square / count - 1) <= spread))
    fail_msg("%s: %s: mean %.4g deviations, mean square %.4g", init, name, sum / count,
             square / count);
  for (int i = 0; i < 2; i++)
    if (!(fabs(beyond[i] / count - share[i]) <= 5 * sqrt(share[i] * (1 - share[i]) / count)))
      fail_msg("%s: %s: share beyond %.1f deviations is %.4f, not %.4f", init, name, 1 + 0.6 * i,
               beyond[i] / count, share[i]);
  if (!normal && !(most <= sqrt(3) * (1 + 1e-6)))
    fail_msg("%s: %s: beyond the bound: %.4g deviations", init, name, most);
}

static void check_init(const rp_json *doc, const char *name, rp_init init) {
  rp_error err = {0};
  const rp_json *j = golden_get(doc, "model"), *want;
  box b;
  rp_model_settings m = box_settings(golden_int(j, "N"), golden_int(j, "H"), golden_int(j, "Hk"),
                                     golden_int(j, "h"), golden_int(j, "f"), golden_int(j, "V"));
  m.mixer_norm = m.ffn_norm = m.final_norm = RP_NORM_LAYER;
  m.tied = false;
  m.init = init;
  m.init_range = golden_real(doc, "initializer_range");
  box_open(&b, RP_DEVICE_CPU, &m, RP_F32, 1, 1, false);
  check_ok(rp_params_init(&b.params, check_seed(), &err), err);
  check_ok(rp_wait(b.q, &err), err);
  want = golden_get(golden_get(doc, "inits"), name)->child;
  for (int i = 0; i < b.params.shape.n; i++, want = want->next) {
    const rp_param *t = &b.params.shape.p[i];
    const int64_t n = t->rows * t->cols;
    float *w = rp_malloc((size_t)n, sizeof *w);
    assert_non_null(w);
    assert_string_equal(t->name, golden_text(want, "name"));
    check_ok(rp_params_get(&b.params, t, w, &err), err);
    check_law(want, name, w, n);
    rp_free(w);
  }
  assert_null(want);
  box_close(&b);
  rp_pats_free(&m.pats);
}

static void initial_weights(void **state) {
  (void)state;
  rp_json_doc *doc = read_table("init");
  const rp_json *root = rp_json_root(doc);
  check_init(root, "fixed", RP_INIT_FIXED);
  check_init(root, "xavier", RP_INIT_XAVIER);
  check_init(root, "uniform", RP_INIT_UNIFORM);
  check_init(root, "torch", RP_INIT_TORCH);
  rp_json_free(doc);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(joint_training),
    cmocka_unit_test(plain_training),
    cmocka_unit_test(training_with_adam),
    cmocka_unit_test(training_with_sgd),
    cmocka_unit_test(training_with_every_switch),
    cmocka_unit_test(training_attention_only),
    cmocka_unit_test(training_at_full_head_width),
    cmocka_unit_test(training_at_large_dilation),
    cmocka_unit_test(learning_rates),
    cmocka_unit_test(initial_weights),
};
CHECK_MAIN(tests)
