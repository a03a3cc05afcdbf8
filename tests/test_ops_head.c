/* The head: loss, gradients and picks against plain loops in double. */
#include "kern_box.h"

typedef struct {
  int n, d, V, ignored; /* ignored: of ten labels */
  double weight;
} shape;

static shape some_shape(rp_rng *r, int round) {
  shape s = {check_pick(r, 1, 20), check_pick(r, 1, 40), check_pick(r, 2, 90), 0, 0};
  s.ignored = round % 5 == 4 ? 10 : check_pick(r, 0, 5);
  s.weight = check_pick(r, 0, 1) ? 1 : 0.25;
  return s;
}

static rp_head_loss_args args_for(const shape *s, rp_rng r, rp_dtype real, rp_dtype compute) {
  rp_head_loss_args a = {.n = s->n, .d = s->d, .V = s->V, .grad = 1, .weight = s->weight};
  int32_t *label = malloc((size_t)s->n * 4);
  a.x = kern_normal(&r, compute, compute, (int64_t)s->n * s->d, 1);
  a.w = kern_normal(&r, compute, compute, (int64_t)s->V * s->d, 0.5);
  a.dx = kern_tensor(real, (int64_t)s->n * s->d);
  a.dw = kern_const(real, (int64_t)s->V * s->d, 0.5);
  for (int i = 0; i < s->n; i++)
    label[i] = check_pick(&r, 0, 9) < s->ignored ? -100 : check_pick(&r, 0, s->V - 1);
  a.labels = kern_ints(label, s->n);
  free(label);
  a.loss = kern_alloc(sizeof(rp_loss));
  *(rp_loss *)a.loss.at = (rp_loss){0.125, 3, 7};
  return a;
}

static double logit(rp_tensor x, rp_tensor w, int row, int id, int d, double *abs) {
  double sum = 0;
  *abs = 0;
  for (int c = 0; c < d; c++) {
    const double t = kern_get(x, (int64_t)row * d + c) * kern_get(w, (int64_t)id * d + c);
    sum += t;
    *abs += fabs(t);
  }
  return sum;
}

/* dlogits [n][V] and the losses, from the formulas. */
static void naive(const rp_head_loss_args *a, double *dlogits, rp_loss *out, double *size) {
  const int32_t *label = (const int32_t *)a->labels.at;
  double sum = 0, abs;
  int64_t labels = 0;
  *size = 0;
  for (int i = 0; i < a->n; i++) labels += label[i] != -100;
  for (int i = 0; i < a->n; i++) {
    double z = 0, *row = dlogits + (int64_t)i * a->V;
    for (int j = 0; j < a->V; j++) {
      z += exp(logit(a->x, a->w, i, j, a->d, &abs));
      if (abs > *size) *size = abs;
    }
    for (int j = 0; j < a->V; j++) {
      const double p = exp(logit(a->x, a->w, i, j, a->d, &abs)) / z;
      row[j] = label[i] == -100 ? 0 : (p - (label[i] == j)) * a->weight / (double)labels;
      if (label[i] == j) sum -= log(p);
    }
  }
  *out = (rp_loss){labels ? a->weight * sum / (double)labels : 0, sum, labels};
}

static void check_loss(const kern_level *l, const rp_head_loss_args *a) {
  const int n = a->n, d = a->d, V = a->V;
  double *dl = calloc((size_t)n * (size_t)V, sizeof *dl), size;
  rp_loss want;
  naive(a, dl, &want, &size);
  const rp_loss got = *(const rp_loss *)a->loss.at;
  const double k = l->eps * (8 + 2 * size);
  assert_int_equal(got.labels, 7 + want.labels);
  kern_close(l, got.sum, 3 + want.sum, k * n, "sum");
  kern_close(l, got.mean, 0.125 + want.mean, k, "mean");
  const double each = k + kern_round(a->x.dtype); /* dlogits are rounded for the products */
  for (int i = 0; i < n; i++)
    for (int c = 0; c < d; c++) {
      double sum = 0, abs = 0;
      for (int j = 0; j < V; j++) {
        const double t = dl[(int64_t)i * V + j] * kern_get(a->w, (int64_t)j * d + c);
        sum += t;
        abs += fabs(t);
      }
      kern_close(l, kern_get(a->dx, (int64_t)i * d + c), sum, 2 * each * abs, "dx[%d,%d]", i, c);
    }
  for (int j = 0; j < V; j++)
    for (int c = 0; c < d; c++) {
      double sum = 0.5, abs = 0;
      for (int i = 0; i < n; i++) {
        const double t = dl[(int64_t)i * V + j] * kern_get(a->x, (int64_t)i * d + c);
        sum += t;
        abs += fabs(t);
      }
      kern_close(l, kern_get(a->dw, (int64_t)j * d + c), sum, 2 * each * abs + 4 * l->eps,
                 "dw[%d,%d]", j, c);
    }
  free(dl);
}

static void loss_is_the_formula(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(1);
  for (int round = 0; round < 40; round++) {
    const shape s = some_shape(&r, round);
    for (int i = 0; i < levels; i++)
      for (int half = 0; half < (i ? 2 : 1); half++) {
        rp_head_loss_args a =
            args_for(&s, check_rng(100 + (uint64_t)round), l[i].real, half ? RP_BF16 : l[i].real);
        kern_run(&l[i], RP_OP_head_loss, &a, 1 + round % 3);
        check_loss(&l[i], &a);
        const rp_loss with = *(rp_loss *)a.loss.at;
        *(rp_loss *)a.loss.at = (rp_loss){0.125, 3, 7};
        a.grad = 0;
        a.dx = a.dw = (rp_tensor){{0}, RP_F32};
        kern_run(&l[i], RP_OP_head_loss, &a, 1);
        assert_memory_equal(&with, (void *)a.loss.at, sizeof with);
        kern_free_all();
      }
  }
}

/* A vocabulary so large that the rows take two chunks. */
static void chunks_join(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  const shape s = {4, 2, 2200000, 3, 1};
  const rp_head_loss_args a = args_for(&s, check_rng(200), RP_F32, RP_F32);
  kern_run(&l[levels - 1], RP_OP_head_loss, &a, 2);
  check_loss(&l[levels - 1], &a);
  kern_free_all();
}

static void wrong_labels_are_refused(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  const shape s = {4, 3, 5, 0, 1};
  for (int i = 0; i < levels; i++)
    for (int bad = 0; bad < 2; bad++) {
      const rp_head_loss_args a = args_for(&s, check_rng(300), l[i].real, l[i].real);
      rp_error err;
      ((int32_t *)a.labels.at)[2] = bad ? 5 : -1;
      check_fails(kern_try(&l[i], RP_OP_head_loss, &a, 1, &err), RP_BAD_DATA, err, "token 2");
      kern_free_all();
    }
}

static void nan_reaches_the_loss(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  const shape s = {4, 3, 50, 0, 1};
  for (int i = 0; i < levels; i++) {
    const rp_head_loss_args a = args_for(&s, check_rng(400), l[i].real, l[i].real);
    kern_set(a.x, 5, NAN);
    kern_run(&l[i], RP_OP_head_loss, &a, 1);
    assert_true(isnan(((rp_loss *)a.loss.at)->mean));
    assert_true(isnan(kern_get(a.dx, 4)));
    assert_false(isnan(kern_get(a.dx, 0)));
    kern_free_all();
  }
}

static void pick_takes_what_it_says(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(5);
  for (int round = 0; round < 40; round++) {
    const shape s = some_shape(&r, round);
    for (int i = 0; i < levels; i++)
      for (int half = 0; half < (i ? 2 : 1); half++) {
        const rp_dtype compute = half ? RP_BF16 : l[i].real;
        rp_pick_args a = {.n = s.n, .d = s.d, .V = s.V};
        int32_t ids[20];
        for (int k = 0; k < s.n; k++) ids[k] = check_pick(&r, -1, s.V - 1);
        a.x = kern_normal(&r, compute, compute, (int64_t)s.n * s.d, 1);
        a.w = kern_normal(&r, compute, compute, (int64_t)s.V * s.d, 1);
        if (s.V > 4) /* a tie */
          for (int c = 0; c < s.d; c++) kern_set(a.w, 3 * s.d + c, kern_get(a.w, s.d + c));
        a.ids = kern_ints(ids, s.n);
        a.lse = kern_tensor(l[i].real, s.n).p;
        a.logit = kern_tensor(l[i].real, s.n).p;
        a.best = kern_alloc((size_t)s.n * 4);
        kern_run(&l[i], RP_OP_pick, &a, 1 + round % 3);
        for (int k = 0; k < s.n; k++) {
          double sum = 0, abs, size = 0, best = -INFINITY;
          for (int j = 0; j < s.V; j++) {
            const double z = logit(a.x, a.w, k, j, s.d, &abs);
            sum += exp(z);
            if (z > best) best = z;
            if (abs > size) size = abs;
          }
          const double tol = l[i].eps * (8 + 2 * size);
          const int id = ((int32_t *)a.best.at)[k];
          kern_close(&l[i], kern_real(&l[i], a.lse, k), log(sum), tol, "lse");
          kern_close(&l[i], logit(a.x, a.w, k, id, s.d, &abs), best, tol, "best");
          assert_true(s.V <= 4 || id != 3);
          const double z = ids[k] < 0 ? 0 : logit(a.x, a.w, k, ids[k], s.d, &abs);
          kern_close(&l[i], kern_real(&l[i], a.logit, k), z, tol, "logit");
        }
        a.lse = a.logit = a.best = a.ids = (rp_ptr){0};
        kern_run(&l[i], RP_OP_pick, &a, 1);
        kern_free_all();
      }
  }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(loss_is_the_formula),      cmocka_unit_test(chunks_join),
    cmocka_unit_test(wrong_labels_are_refused), cmocka_unit_test(nan_reaches_the_loss),
    cmocka_unit_test(pick_takes_what_it_says),
};
CHECK_MAIN(tests)
