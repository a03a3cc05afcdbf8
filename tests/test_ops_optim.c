/* Norm, clipping and the optimizers against plain loops in double over several steps. */
#include "kern_box.h"

enum { MAX_RANGES = 6 };
typedef struct {
  int ranges;
  rp_range range[MAX_RANGES];
  int64_t n[2]; /* elements of a group */
} layout;

static layout some_layout(rp_rng *r) {
  layout s = {.ranges = check_pick(r, 1, MAX_RANGES)};
  for (int i = 0; i < s.ranges; i++) {
    const int group = check_pick(r, 0, 1);
    const int n = check_pick(r, 1, check_pick(r, 0, 2) ? 70 : 9000);
    s.range[i] = (rp_range){s.n[group], n, group, check_pick(r, 0, 1) ? 0.1f : 0.0f};
    s.n[group] += n;
  }
  return s;
}

typedef struct {
  rp_optim_args o;
  rp_sumsq_args q;
  rp_clip_args c;
  rp_ctl *ctl;
  rp_loss *loss;
  double *p[2], *m[2], *v[2]; /* ours */
} state_of;

static state_of open_state(const layout *s, rp_rng r, const kern_level *l, rp_opt_name kind,
                           rp_dtype copy) {
  state_of t = {.o = {.ranges = s->ranges,
                      .kind = kind,
                      .beta1 = 0.9,
                      .beta2 = 0.95,
                      .eps = 1e-8,
                      .momentum = 0.9}};
  t.o.range = kern_alloc((size_t)s->ranges * sizeof(rp_range));
  memcpy((void *)t.o.range.at, s->range, (size_t)s->ranges * sizeof(rp_range));
  for (int g = 0; g < 2; g++) {
    t.o.p[g] = kern_normal(&r, l->real, RP_F32, s->n[g], 1);
    t.o.g[g] = kern_const(l->real, s->n[g], 0);
    t.o.m[g] = kern_const(l->real, s->n[g], 0);
    t.o.v[g] = kern_const(l->real, s->n[g], 0);
    t.p[g] = calloc((size_t)s->n[g] + 1, sizeof(double));
    t.m[g] = calloc((size_t)s->n[g] + 1, sizeof(double));
    t.v[g] = calloc((size_t)s->n[g] + 1, sizeof(double));
    for (int64_t i = 0; i < s->n[g]; i++) t.p[g][i] = kern_get(t.o.p[g], i);
  }
  t.o.copy = kern_tensor(copy, s->n[0]);
  t.o.ctl = kern_alloc(sizeof(rp_ctl));
  t.ctl = (rp_ctl *)t.o.ctl.at;
  *t.ctl = (rp_ctl){.lr = 0};
  t.q = (rp_sumsq_args){
      s->ranges, t.o.range, {t.o.g[0], t.o.g[1]}, kern_alloc((size_t)s->ranges * sizeof(double))};
  t.c = (rp_clip_args){s->ranges, 1.0, t.q.out, kern_alloc(sizeof(rp_loss)), t.o.ctl};
  t.loss = (rp_loss *)t.c.loss.at;
  *t.loss = (rp_loss){1, 1, 1};
  return t;
}
static void close_state(state_of *t) {
  for (int g = 0; g < 2; g++) {
    free(t->p[g]);
    free(t->m[g]);
    free(t->v[g]);
  }
  kern_free_all();
}

/* The textbook, one element. */
static void one(const state_of *t, int g, int64_t i, double grad, double wd, int64_t step) {
  const rp_optim_args *o = &t->o;
  double *p = &t->p[g][i], *m = &t->m[g][i], *v = &t->v[g][i];
  const double lr = t->ctl->lr;
  if (o->kind == RP_OPT_ADAMW)
    *p -= lr * wd * *p;
  else
    grad += wd * *p;
  if (o->kind == RP_OPT_SGD) {
    *m = step == 1 ? grad : o->momentum * *m + grad;
    *p -= lr * *m;
    return;
  }
  *m = o->beta1 * *m + (1 - o->beta1) * grad;
  *v = o->beta2 * *v + (1 - o->beta2) * grad * grad;
  *p -= lr * (*m / (1 - pow(o->beta1, (double)step))) /
        (sqrt(*v / (1 - pow(o->beta2, (double)step))) + o->eps);
}

static void check_step(const kern_level *l, const layout *s, const state_of *t, rp_rng *r, int step,
                       int threads) {
  double sum = 0, *grad[2];
  for (int g = 0; g < 2; g++) {
    grad[g] = calloc((size_t)s->n[g] + 1, sizeof(double));
    for (int64_t i = 0; i < s->n[g]; i++) {
      kern_set(t->o.g[g], i, rp_rng_normal(r) * (step % 2 ? 1 : 1e-4));
      grad[g][i] = kern_get(t->o.g[g], i);
      sum += grad[g][i] * grad[g][i];
    }
  }
  t->ctl->lr = 1e-3 * step;
  kern_run(l, RP_OP_sumsq, &t->q, threads);
  kern_run(l, RP_OP_clip, &t->c, threads);
  kern_run(l, RP_OP_optim, &t->o, threads);
  const double norm = sqrt(sum), factor = fmin(1, t->c.max / (norm + 1e-6));
  kern_close(l, t->ctl->norm, norm, 1e-12 * norm, "norm");
  kern_close(l, t->ctl->factor, t->c.max > 0 ? factor : 1, 1e-12, "factor");
  assert_int_equal(t->ctl->t, step);
  for (int i = 0; i < s->ranges; i++) {
    const rp_range *a = &s->range[i];
    for (int64_t j = a->offset; j < a->offset + a->n; j++) {
      one(t, a->group, j, grad[a->group][j] * t->ctl->factor, (double)a->decay, step);
      const double got = kern_get(t->o.p[a->group], j), want = t->p[a->group][j];
      kern_close(l, got, want, 8 * step * l->eps * (fabs(want) + t->ctl->lr * 40), "step %d p[%d]",
                 step, (int)j);
      assert_true(kern_get(t->o.g[a->group], j) == 0);
      if (a->group == 0)
        kern_close(l, kern_get(t->o.copy, j), got, kern_round(t->o.copy.dtype) * fabs(got), "copy");
    }
  }
  free(grad[0]);
  free(grad[1]);
}

static void steps_are_the_textbook(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(1);
  for (int round = 0; round < 12; round++) {
    const layout s = some_layout(&r);
    for (int i = 0; i < levels; i++) {
      state_of t = open_state(&s, check_rng(100), &l[i], (rp_opt_name)(round % 3),
                              round % 2 ? RP_BF16 : l[i].real);
      rp_rng draw = check_rng(101);
      t.c.max = round % 4 ? 1 : 0;
      for (int step = 1; step <= 5; step++) check_step(&l[i], &s, &t, &draw, step, 1 + round % 3);
      close_state(&t);
    }
  }
}

static void bad_steps_are_skipped(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(2);
  const layout s = some_layout(&r);
  for (int i = 0; i < levels; i++)
    for (int how = 0; how < 3; how++) {
      state_of t = open_state(&s, check_rng(200), &l[i], RP_OPT_ADAMW, l[i].real);
      const rp_range *last = &s.range[s.ranges - 1];
      t.ctl->lr = 1;
      for (int round = 1; round < 3; round++) {
        if (how == 0) t.loss->mean = NAN;
        if (how == 1) kern_set(t.o.g[last->group], last->offset + last->n - 1, NAN);
        if (how == 2) kern_set(t.o.g[s.range[0].group], s.range[0].offset, INFINITY);
        kern_run(&l[i], RP_OP_sumsq, &t.q, 2);
        kern_run(&l[i], RP_OP_clip, &t.c, 2);
        kern_run(&l[i], RP_OP_optim, &t.o, 2);
        assert_int_equal(t.ctl->skip, 1);
        assert_int_equal(t.ctl->skipped, round);
        assert_int_equal(t.ctl->in_a_row, round);
        assert_int_equal(t.ctl->t, 0);
        for (int g = 0; g < 2; g++)
          for (int64_t j = 0; j < s.n[g]; j++) {
            assert_true(kern_get(t.o.p[g], j) == t.p[g][j]);
            assert_true(kern_get(t.o.m[g], j) == 0 && kern_get(t.o.g[g], j) == 0);
          }
      }
      t.loss->mean = 1;
      kern_run(&l[i], RP_OP_sumsq, &t.q, 1);
      kern_run(&l[i], RP_OP_clip, &t.c, 1);
      assert_int_equal(t.ctl->skip, 0);
      assert_int_equal(t.ctl->in_a_row, 0);
      assert_int_equal(t.ctl->skipped, 2);
      assert_int_equal(t.ctl->t, 1);
      close_state(&t);
    }
}

static void sums_do_not_depend_on_threads(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(3);
  for (int round = 0; round < 5; round++) {
    const layout s = some_layout(&r);
    for (int i = 0; i < levels; i++) {
      double sums[3][MAX_RANGES];
      for (int threads = 1; threads < 4; threads++) {
        state_of t = open_state(&s, check_rng(300), &l[i], RP_OPT_ADAMW, l[i].real);
        rp_rng draw = check_rng(301);
        for (int g = 0; g < 2; g++)
          for (int64_t j = 0; j < s.n[g]; j++) kern_set(t.o.g[g], j, rp_rng_normal(&draw));
        kern_run(&l[i], RP_OP_sumsq, &t.q, threads);
        memcpy(sums[threads - 1], (void *)t.q.out.at, (size_t)s.ranges * sizeof(double));
        close_state(&t);
      }
      assert_memory_equal(sums[0], sums[1], (size_t)s.ranges * sizeof(double));
      assert_memory_equal(sums[0], sums[2], (size_t)s.ranges * sizeof(double));
    }
  }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(steps_are_the_textbook),
    cmocka_unit_test(bad_steps_are_skipped),
    cmocka_unit_test(sums_do_not_depend_on_threads),
};
CHECK_MAIN(tests)
