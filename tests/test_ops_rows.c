/* Embedding, norms, activations and the output gate: forward against the formulas in double,
 * backward against central differences on ref64 and every level against ref64. */
#include "kern_box.h"

/* ---- activations ---- */

static double act_of(rp_act act, double u) {
  switch (act) {
    case RP_ACT_GELU: return 0.5 * u * erfc(-u / sqrt(2));
    case RP_ACT_RELU: return fmax(u, 0);
    case RP_ACT_RELUSQUARED: return fmax(u, 0) * fmax(u, 0);
    case RP_ACT_FASTGELU: return 0.5 * u * (1 + tanh(sqrt(2 / M_PI) * (u + 0.044715 * u * u * u)));
    default: return u / (1 + exp(-u));
  }
}
static double slope_of(rp_act act, double u) {
  const double e = 1e-5;
  if (act == RP_ACT_RELU) return u > 0;
  if (act == RP_ACT_RELUSQUARED) return 2 * fmax(u, 0);
  return (act_of(act, u + e) - act_of(act, u - e)) / (2 * e);
}

/* n numbers that also hold the far ends, zeros, and everything between -100 and 100. */
static rp_tensor spread_of(rp_rng *r, rp_dtype dtype, int64_t n) {
  static const double ends[] = {0, -0.0, 1e-30, -1e-30, 88.9, -88.9, 120, -120, 1e4, -1e4};
  const rp_tensor t = kern_normal(r, dtype, dtype, n, 2);
  for (int64_t i = 0; i < n; i++) {
    const int kind = check_pick(r, 0, 9);
    if (kind == 0) kern_set(t, i, ends[rp_rng_below(r, 10)]);
    if (kind == 1) kern_set(t, i, (rp_rng_uniform(r) - 0.5) * 200);
    if (kind == 2) kern_set(t, i, (rp_rng_uniform(r) - 0.5) * 1e-3);
  }
  return t;
}

static void activations_are_their_formulas(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(1);
  for (int act = 0; act < RP_ACTS; act++)
    for (int round = 0; round < 12; round++) {
      const int n = check_pick(&r, 1, 5), f = check_pick(&r, 1, round % 3 ? 40 : 1300);
      for (int i = 0; i < levels; i++)
        for (int half = 0; half < (i ? 2 : 1); half++) {
          const rp_dtype compute = half ? RP_BF16 : l[i].real;
          const int wide = act == RP_ACT_SWIGLU, ld = wide ? 2 * f : f;
          rp_act_args a = {.n = n, .f = f, .act = (rp_act)act};
          a.u = spread_of(&r, compute, (int64_t)n * ld);
          a.v = kern_tensor(compute, (int64_t)n * f);
          kern_run(&l[i], RP_OP_act, &a, 1 + round % 3);
          rp_act_bwd_args b = {.n = n, .f = f, .act = (rp_act)act, .u = a.u};
          b.dv = kern_normal(&r, l[i].real, RP_F32, (int64_t)n * f, 1);
          b.du = kern_tensor(compute, (int64_t)n * ld);
          kern_run(&l[i], RP_OP_act_bwd, &b, 1 + round % 3);
          for (int64_t j = 0; j < (int64_t)n * f; j++) {
            /* swiglu: the first half by silu of the second */
            const int64_t first = j / f * ld + j % f, at = wide ? first + f : first;
            const double u = kern_get(a.u, at), w = wide ? kern_get(a.u, first) : 1;
            const double v = act_of((rp_act)act, u) * w, dv = kern_get(b.dv, j);
            const double d = slope_of((rp_act)act, u) * w * dv, half_ulp = kern_round(compute);
            /* erf and tanh are good to 1e-7 absolute, times u; the argument of an exp to eps u^2 */
            const double k = 2 * l[i].eps * (1 + fabs(u));
            kern_close(&l[i], kern_get(a.v, j), v,
                       k * fabs(w) + (half_ulp + 4 * l[i].eps) * fabs(v), "%d act(%g)", act, u);
            kern_close(&l[i], kern_get(b.du, at), d,
                       1e-5 * fabs(w * dv) + (half_ulp + 1e-5) * fabs(d) + 2 * k * fabs(w * dv),
                       "%d slope(%g)", act, u);
            if (wide)
              kern_close(
                  &l[i], kern_get(b.du, first), act_of((rp_act)act, u) * dv,
                  k * fabs(dv) + (half_ulp + 4 * l[i].eps) * fabs(act_of((rp_act)act, u) * dv),
                  "swiglu's other half at %g", u);
          }
          kern_free_all();
        }
    }
}

static void nan_stays(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  for (int i = 0; i < levels; i++)
    for (int act = 0; act < RP_ACTS; act++)
      for (int sign = -1; sign < 2; sign += 2)
        for (int half = 0; half < 2; half++) {
          const rp_dtype compute = half ? RP_BF16 : l[i].real;
          rp_act_args a = {.n = 1, .f = 33, .act = (rp_act)act};
          a.u = kern_const(compute, 66, copysign(NAN, sign));
          a.v = kern_const(compute, 33, 0);
          kern_run(&l[i], RP_OP_act, &a, 1);
          rp_act_bwd_args b = {.n = 1, .f = 33, .act = (rp_act)act, .u = a.u};
          b.dv = kern_const(l[i].real, 33, 1);
          b.du = kern_const(compute, 66, 0);
          kern_run(&l[i], RP_OP_act_bwd, &b, 1);
          for (int j = 0; j < 33; j++) {
            if (!isnan(kern_get(a.v, j))) fail_msg("%s: act %d lost a NaN", l[i].name, act);
            if (!isnan(kern_get(b.du, j))) fail_msg("%s: slope %d lost a NaN", l[i].name, act);
          }
          kern_free_all();
        }
}

/* ---- output gate ---- */

static void output_gate_is_its_formula(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(2);
  for (int round = 0; round < 30; round++) {
    const int n = check_pick(&r, 1, 6), d = check_pick(&r, 1, round % 3 ? 40 : 1100);
    const int ldp = d + check_pick(&r, 0, 9);
    for (int i = 0; i < levels; i++)
      for (int half = 0; half < (i ? 2 : 1); half++) {
        const rp_dtype compute = half ? RP_BF16 : l[i].real;
        const rp_tensor y = kern_tensor(compute, (int64_t)n * d);
        rp_ogate_args a = {.n = n, .d = d, .ldp = ldp, .y = y};
        a.a = kern_normal(&r, compute, compute, (int64_t)n * d, 2);
        a.p = kern_normal(&r, compute, compute, (int64_t)n * ldp, 2);
        kern_run(&l[i], RP_OP_ogate, &a, 1 + round % 3);
        rp_ogate_bwd_args b = {.n = n, .d = d, .ldp = ldp, .a = a.a, .p = a.p};
        b.dy = kern_normal(&r, l[i].real, RP_F32, (int64_t)n * d, 1);
        b.da = kern_tensor(l[i].real, (int64_t)n * d);
        b.dp = kern_const(compute, (int64_t)n * ldp, 7);
        kern_run(&l[i], RP_OP_ogate_bwd, &b, 1 + round % 3);
        for (int64_t j = 0; j < (int64_t)n * ldp; j++) {
          const int64_t at = j / ldp * d + j % ldp;
          if (j % ldp >= d) {
            kern_close(&l[i], kern_get(b.dp, j), 7, 0, "dp beside the gate");
            continue;
          }
          const double s = 1 / (1 + exp(-kern_get(a.p, j))), x = kern_get(a.a, at);
          const double dy = kern_get(b.dy, at), tol = 4 * l[i].eps + kern_round(compute);
          kern_close(&l[i], kern_get(y, at), x * s, 2 * tol * fabs(x * s), "y");
          kern_close(&l[i], kern_get(b.da, at), dy * s, tol * fabs(dy * s), "da");
          kern_close(&l[i], kern_get(b.dp, j), dy * x * s * (1 - s),
                     tol * fabs(dy * x * s * (1 - s)) + 4 * l[i].eps * fabs(dy * x), "do");
        }
        a.y = a.a; /* in place, and backward too */
        kern_run(&l[i], RP_OP_ogate, &a, 1);
        assert_memory_equal(a.a.p.at, y.p.at, n * d * rp_dtype_bytes(compute));
        kern_free_all();
      }
  }
}

/* ---- norms ---- */

typedef struct {
  rp_norm_args f;
  rp_norm_bwd_args b;
} norms;
static norms norms_for(rp_rng r, int n, int d, rp_norm kind, rp_dtype real, rp_dtype compute) {
  norms s = {.f = {.n = n, .d = d, .kind = kind}, .b = {.n = n, .d = d, .kind = kind}};
  s.f.x = kern_normal(&r, real, RP_F32, (int64_t)n * d, 3);
  s.f.w = kern_normal(&r, real, RP_F32, d, 1);
  s.f.y = kern_tensor(compute, (int64_t)n * d);
  s.f.stat = kern_tensor(real, 2 * (int64_t)n).p;
  s.b.x = s.f.x;
  s.b.w = s.f.w;
  s.b.stat = s.f.stat;
  s.b.dy = kern_normal(&r, real, RP_F32, (int64_t)n * d, 1);
  s.b.dx = kern_const(real, (int64_t)n * d, 0.5);
  s.b.dw = kern_const(real, d, 0.25);
  if (kind == RP_NORM_RMS) return s;
  s.f.b = kern_normal(&r, real, RP_F32, d, 1);
  s.b.db = kern_const(real, d, 0.125);
  return s;
}

static void norms_are_their_formulas(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(3);
  for (int round = 0; round < 40; round++) {
    const int n = check_pick(&r, 1, round % 4 ? 5 : 200),
              d = check_pick(&r, 1, round % 3 ? 40 : 900);
    const rp_norm kind = round % 2 ? RP_NORM_LAYER : RP_NORM_RMS;
    for (int i = 0; i < levels; i++)
      for (int half = 0; half < (i ? 2 : 1); half++) {
        const rp_dtype compute = half ? RP_BF16 : l[i].real;
        const norms s = norms_for(check_rng(30 + (uint64_t)round), n, d, kind, l[i].real, compute);
        kern_run(&l[i], RP_OP_norm, &s.f, 1 + round % 3);
        for (int row = 0; row < n; row++) {
          double mean = 0, var = 0;
          for (int c = 0; c < d; c++) mean += kern_get(s.f.x, (int64_t)row * d + c) / d;
          if (kind == RP_NORM_RMS) mean = 0;
          for (int c = 0; c < d; c++)
            var += pow(kern_get(s.f.x, (int64_t)row * d + c) - mean, 2) / d;
          const double rstd = 1 / sqrt(var + 1e-6);
          const double k = l[i].eps * (8 + d / 16.0);
          for (int c = 0; c < d; c++) {
            const double w = kern_get(s.f.w, c), x = kern_get(s.f.x, (int64_t)row * d + c);
            const double b = kind == RP_NORM_LAYER ? kern_get(s.f.b, c) : 0;
            const double y = (x - mean) * rstd * w + b;
            kern_close(
                &l[i], kern_get(s.f.y, (int64_t)row * d + c), y,
                k * ((fabs(x) + 10) * rstd * fabs(w) + fabs(b)) + kern_round(compute) * fabs(y),
                "row %d channel %d of %d", row, c, d);
          }
        }
        kern_free_all();
      }
  }
}

static double norm_loss(const kern_level *l, const norms *s) {
  double sum = 0;
  kern_run(l, RP_OP_norm, &s->f, 1);
  for (int64_t i = 0; i < (int64_t)s->f.n * s->f.d; i++)
    sum += kern_get(s->f.y, i) * kern_get(s->b.dy, i);
  return sum;
}

static void norm_gradients_are_slopes(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  kern_levels(l);
  rp_rng r = check_rng(4);
  for (int round = 0; round < 30; round++) {
    const int n = check_pick(&r, 1, round % 4 ? 5 : 100), d = check_pick(&r, 2, 70);
    const rp_norm kind = round % 2 ? RP_NORM_LAYER : RP_NORM_RMS;
    const norms s = norms_for(check_rng(40 + (uint64_t)round), n, d, kind, RP_F64, RP_F64);
    kern_run(&l[0], RP_OP_norm, &s.f, 1);
    kern_run(&l[0], RP_OP_norm_bwd, &s.b, 2);
    for (int probe = 0; probe < 30; probe++) {
      const int which = probe % (kind == RP_NORM_LAYER ? 3 : 2);
      const rp_tensor in = which == 0 ? s.f.x : which == 1 ? s.f.w : s.f.b;
      const rp_tensor grad = which == 0 ? s.b.dx : which == 1 ? s.b.dw : s.b.db;
      const double before = which == 0 ? 0.5 : which == 1 ? 0.25 : 0.125;
      const int64_t i = (int64_t)rp_rng_below(&r, (uint64_t)(which ? d : (int64_t)n * d));
      const double x = kern_get(in, i), e = 1e-5;
      kern_set(in, i, x + e);
      const double up = norm_loss(&l[0], &s);
      kern_set(in, i, x - e);
      const double down = norm_loss(&l[0], &s);
      kern_set(in, i, x);
      const double want = (up - down) / (2 * e) + before;
      kern_close(&l[0], kern_get(grad, i), want, 2e-7 * (1 + fabs(want)) * sqrt(n), "d%c[%d] d=%d",
                 "xwb"[which], (int)i, d);
    }
    kern_free_all();
  }
}

static void norm_levels_agree(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(5);
  for (int round = 0; round < 20; round++) {
    const int n = check_pick(&r, 1, round % 2 ? 5 : 1100), d = check_pick(&r, 4, 300);
    const rp_norm kind = round % 4 < 2 ? RP_NORM_LAYER : RP_NORM_RMS;
    const norms w = norms_for(check_rng(50), n, d, kind, RP_F64, RP_F64);
    kern_run(&l[0], RP_OP_norm, &w.f, 1);
    kern_run(&l[0], RP_OP_norm_bwd, &w.b, 1);
    for (int i = 1; i < levels; i++) {
      norms s[3];
      for (int t = 0; t < 3; t++) {
        s[t] = norms_for(check_rng(50), n, d, kind, RP_F32, RP_F32);
        kern_run(&l[i], RP_OP_norm, &s[t].f, t + 1);
        kern_run(&l[i], RP_OP_norm_bwd, &s[t].b, t + 1);
        assert_memory_equal(s[0].b.dx.p.at, s[t].b.dx.p.at, (size_t)n * (size_t)d * 4);
        assert_memory_equal(s[0].b.dw.p.at, s[t].b.dw.p.at, (size_t)d * 4);
      }
      for (int64_t j = 0; j < (int64_t)n * d; j++)
        kern_close(&l[i], kern_get(s[0].b.dx, j), kern_get(w.b.dx, j), 200 * l[i].eps,
                   "dx n=%d d=%d", n, d);
      for (int64_t j = 0; j < d; j++) {
        kern_close(&l[i], kern_get(s[0].b.dw, j), kern_get(w.b.dw, j), 20 * n * l[i].eps, "dw");
        if (kind == RP_NORM_LAYER)
          kern_close(&l[i], kern_get(s[0].b.db, j), kern_get(w.b.db, j), 4 * n * l[i].eps, "db");
      }
    }
    kern_free_all();
  }
}

/* ---- embedding ---- */

static void embedding_copies_and_adds(void **state) {
  (void)state;
  static const rp_dtype tables[] = {RP_F32, RP_F64, RP_BF16};
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(6);
  for (int round = 0; round < 30; round++) {
    const int n = check_pick(&r, 1, 50), d = check_pick(&r, 1, 300), V = check_pick(&r, 1, 20);
    int32_t ids[50];
    for (int i = 0; i < n; i++) ids[i] = check_pick(&r, 0, V - 1);
    for (int i = 0; i < levels; i++) {
      rp_embed_args a = {.n = n, .d = d, .V = V, .ids = kern_ints(ids, n)};
      a.table = kern_normal(&r, tables[round % 3], RP_F32, (int64_t)V * d, 1);
      a.x = kern_tensor(l[i].real, (int64_t)n * d);
      kern_run(&l[i], RP_OP_embed, &a, 1 + round % 3);
      rp_embed_bwd_args b = {.n = n, .d = d, .V = V, .ids = a.ids};
      b.dx = kern_normal(&r, l[i].real, RP_F32, (int64_t)n * d, 1);
      b.dtable = kern_const(l[i].real, (int64_t)V * d, 0.5);
      kern_run(&l[i], RP_OP_embed_bwd, &b, 1 + round % 3);
      for (int64_t j = 0; j < (int64_t)n * d; j++)
        kern_close(&l[i], kern_get(a.x, j), kern_get(a.table, ids[j / d] * d + j % d), 0, "x");
      for (int64_t j = 0; j < (int64_t)V * d; j++) {
        double sum = 0.5;
        for (int k = 0; k < n; k++)
          if (ids[k] == j / d) sum += kern_get(b.dx, (int64_t)k * d + j % d);
        kern_close(&l[i], kern_get(b.dtable, j), sum, 2 * n * n * l[i].eps, "dtable");
      }
      kern_free_all();
    }
  }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(activations_are_their_formulas), cmocka_unit_test(nan_stays),
    cmocka_unit_test(output_gate_is_its_formula),     cmocka_unit_test(norms_are_their_formulas),
    cmocka_unit_test(norm_gradients_are_slopes),      cmocka_unit_test(norm_levels_agree),
    cmocka_unit_test(embedding_copies_and_adds),
};
CHECK_MAIN(tests)
