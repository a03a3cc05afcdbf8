/* The optimizer's step against formulas written out in double, tensor by tensor. */
#include <math.h>

#include "model_box.h"
#include "train/optimizer.h"

enum { STEPS = 6 };

/* All elements of the model in one row, in the order of its tensors. */
typedef struct {
  int64_t n;
  double *p, *g, *m, *v;
} mirror;

static void mirror_open(mirror *x, const rp_shape *s) {
  x->n = s->total;
  x->p = rp_calloc((size_t)x->n * 4, sizeof *x->p);
  assert_non_null(x->p);
  x->g = x->p + x->n;
  x->m = x->g + x->n;
  x->v = x->m + x->n;
}

/* model.md 5: clipping by min(1, c / (norm + 1e-6)), decay first in AdamW, eps outside the bias
 * correction, decay into the gradient in Adam and SGD, first v = g. */
static void expect_step(mirror *x, const rp_optim_settings *o, double clip, double lr, int t) {
  double sum = 0;
  for (int64_t i = 0; i < x->n; i++) sum += x->g[i] * x->g[i];
  const double norm = sqrt(sum), factor = clip > 0 ? fmin(1, clip / (norm + 1e-6)) : 1;
  for (int64_t i = 0; i < x->n; i++) {
    double g = x->g[i] * factor;
    if (o->name == RP_OPT_ADAMW) x->p[i] -= lr * o->weight_decay * x->p[i];
    if (o->name != RP_OPT_ADAMW) g += o->weight_decay * x->p[i];
    if (o->name == RP_OPT_SGD) {
      x->m[i] = t == 1 ? g : o->momentum * x->m[i] + g;
      x->p[i] -= lr * x->m[i];
      continue;
    }
    x->m[i] = o->beta1 * x->m[i] + (1 - o->beta1) * g;
    x->v[i] = o->beta2 * x->v[i] + (1 - o->beta2) * g * g;
    const double m = x->m[i] / (1 - pow(o->beta1, t)), v = x->v[i] / (1 - pow(o->beta2, t));
    x->p[i] -= lr * m / (sqrt(v) + o->eps);
  }
}

/* Uploads the mirror's gradients, and compares or reads the masters. */
static void put_grads(box *b, const mirror *x) {
  int64_t at = 0;
  for (int i = 0; i < b->params.shape.n; i++) {
    const rp_param *t = &b->params.shape.p[i];
    const int64_t n = t->rows * t->cols;
    rp_upload_as(b->q, rp_tensor_at(b->params.g[t->group], t->offset), x->g + at, RP_F64, n);
    at += n;
  }
}

static void get_masters(box *b, double *out) {
  rp_error err = {0};
  for (int i = 0; i < b->params.shape.n; i++) {
    const rp_param *t = &b->params.shape.p[i];
    check_ok(rp_params_get_f64(&b->params, 0, t, out, &err), err);
    out += t->rows * t->cols;
  }
}

static void follow(rp_device_kind kind, rp_opt_name name, double clip, double tolerance) {
  rp_error err = {0};
  rp_rng r = check_rng(20 + (uint64_t)name);
  rp_optim_settings o = {
      .name = name, .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .momentum = 0.8};
  rp_model_settings m = box_settings(2, 2, 2, 8, 40, 37);
  rp_optimizer opt;
  rp_ctl ctl;
  mirror x;
  box b;
  box_open(&b, kind, &m, RP_F32, 1, 8, false);
  box_weights(&b, &r, 0.3);
  check_ok(rp_optimizer_open(&opt, &b.params, &o, clip, &err), err);
  mirror_open(&x, &b.params.shape);
  get_masters(&b, x.p);
  double *got = rp_malloc((size_t)x.n, sizeof *got);
  assert_non_null(got);
  for (int t = 1; t <= STEPS; t++) {
    const double lr = 0.01 * rp_rng_uniform(&r);
    for (int64_t i = 0; i < x.n; i++) x.g[i] = (float)(0.1 * rp_rng_normal(&r));
    put_grads(&b, &x);
    rp_optimizer_step(&opt, lr, (rp_ptr){0});
    check_ok(rp_optimizer_ctl_get(&opt, &ctl, &err), err);
    expect_step(&x, &o, clip, lr, t);
    get_masters(&b, got);
    for (int64_t i = 0; i < x.n; i++) check_close(got[i], x.p[i], tolerance);
    assert_true(ctl.t == t && ctl.lr == lr && ctl.skipped == 0);
  }
  for (int i = 0; i < b.params.shape.n; i++) { /* gradients are used up */
    const rp_param *p = &b.params.shape.p[i];
    check_ok(rp_params_get_f64(&b.params, 1, p, got, &err), err);
    for (int64_t j = 0; j < p->rows * p->cols; j++) assert_true(got[j] == 0);
  }
  rp_free(got);
  rp_free(x.p);
  rp_optimizer_close(&opt);
  box_close(&b);
  rp_pats_free(&m.pats);
}

static void steps_are_those_of_the_formulas(void **state) {
  (void)state;
  static const rp_opt_name names[] = {RP_OPT_ADAMW, RP_OPT_ADAM, RP_OPT_SGD};
  static const double clips[] = {0, 0.5, 1e9};
  for (int i = 0; i < 3; i++) {
    for (int c = 0; c < 3; c++) {
      /* float32: six steps of |lr| <= 0.01 on |p| < 2; double: rounding alone, the decay is float */
      follow(RP_DEVICE_REF64, names[i], clips[c], 1e-9);
      follow(RP_DEVICE_CPU, names[i], clips[c], 5e-6);
      follow(RP_DEVICE_GUARD, names[i], clips[c], 5e-6);
    }
  }
}

/* A gradient that is not finite changes nothing but the counts. */
static void a_skipped_step_changes_nothing(void **state) {
  (void)state;
  rp_error err = {0};
  rp_rng r = check_rng(30);
  const rp_optim_settings o = {
      .name = RP_OPT_ADAMW, .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
  rp_model_settings m = box_settings(1, 2, 2, 8, 40, 37);
  rp_optimizer opt;
  rp_ctl ctl;
  mirror x;
  box b;
  box_open(&b, RP_DEVICE_CPU, &m, RP_BF16, 1, 8, false);
  box_weights(&b, &r, 0.3);
  check_ok(rp_optimizer_open(&opt, &b.params, &o, 1, &err), err);
  mirror_open(&x, &b.params.shape);
  get_masters(&b, x.p);
  for (int bad = 0; bad < 3; bad++) {
    for (int64_t i = 0; i < x.n; i++) x.g[i] = 0.1;
    x.g[bad * 7] = bad == 0 ? NAN : bad == 1 ? INFINITY : -INFINITY;
    put_grads(&b, &x);
    rp_optimizer_step(&opt, 0.1, (rp_ptr){0});
    check_ok(rp_optimizer_ctl_get(&opt, &ctl, &err), err);
    assert_true(ctl.t == 0 && ctl.skip && ctl.skipped == bad + 1 && ctl.in_a_row == bad + 1);
    get_masters(&b, x.g);
    assert_memory_equal(x.g, x.p, (size_t)x.n * sizeof *x.p);
  }
  rp_free(x.p);
  rp_optimizer_close(&opt);
  box_close(&b);
  rp_pats_free(&m.pats);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(steps_are_those_of_the_formulas),
    cmocka_unit_test(a_skipped_step_changes_nothing),
};
CHECK_MAIN(tests)
