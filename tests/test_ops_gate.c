/* Gate, scan, rotate: forward against the formulas step by step in double, backward against central
 * differences on ref64 and every level against ref64. */
#include "kern_box.h"

typedef struct {
  int rows, n[4], H, Hk, h, re, rope, tokens, longest;
} shape;

static shape some_shape(rp_rng *r) {
  static const int h[] = {2, 6, 16, 64, 128, 20};
  shape s = {.rows = check_pick(r, 1, 3), .Hk = check_pick(r, 1, 2)};
  s.H = s.Hk * check_pick(r, 1, 3);
  s.h = h[rp_rng_below(r, 6)];
  s.re = check_pick(r, 0, 3) > 0;
  s.rope = check_pick(r, 0, 3) > 0;
  for (int i = 0; i < s.rows; i++) {
    s.n[i] = check_pick(r, 0, 4) ? check_pick(r, 1, 80) : 1;
    s.tokens += s.n[i];
    if (s.n[i] > s.longest) s.longest = s.n[i];
  }
  return s;
}
static int64_t width_of(const shape *s) {
  return (2 * s->H + (s->re ? 3 : 2) * s->Hk) * s->h + 3; /* 3: ldp may be wider */
}

static rp_gate_args forward_for(const shape *s, rp_rng r, rp_dtype real, rp_dtype compute,
                                rp_dtype like) {
  rp_gate_args a = {.H = s->H, .Hk = s->Hk, .h = s->h, .re = s->re, .ldp = width_of(s)};
  a.rows = (rp_rows){kern_alloc((size_t)s->rows * sizeof(rp_row)), s->rows, s->tokens, s->longest};
  int32_t tok = 0;
  for (int i = 0; i < s->rows; tok += s->n[i++])
    ((rp_row *)a.rows.row.at)[i] = (rp_row){.tok = tok, .n = s->n[i]};
  a.p = kern_normal(&r, compute, like, s->tokens * a.ldp, 1.5);
  a.q = kern_tensor(compute, (int64_t)s->tokens * s->H * s->h);
  a.k = kern_tensor(compute, (int64_t)s->tokens * s->Hk * s->h);
  a.v = kern_tensor(compute, (int64_t)s->tokens * s->Hk * s->h);
  if (!s->rope) return a;
  const rp_tensor rope = kern_tensor(real, (int64_t)s->longest * s->h);
  for (int t = 0; t < s->longest; t++)
    for (int i = 0; i < s->h / 2; i++) {
      const double angle = t * pow(100, -2.0 * i / s->h);
      kern_set(rope, (int64_t)t * s->h + i, cos(angle));
      kern_set(rope, (int64_t)t * s->h + s->h / 2 + i, sin(angle));
    }
  a.rope = rope.p;
  return a;
}

/* x[h] turned by token t's angles, from the table the kernel reads. */
static double turned(const kern_level *l, const rp_gate_args *a, const double *x, int t, int c) {
  if (!a->rope.at) return x[c];
  const int m = a->h / 2, i = c % m;
  const double co = kern_real(l, a->rope, (int64_t)t * a->h + i);
  const double si = kern_real(l, a->rope, (int64_t)t * a->h + m + i);
  return c < m ? x[c] * co - x[c + m] * si : x[c] * co + x[c - m] * si;
}

static void check_token(const kern_level *l, const rp_gate_args *a, int tok, int t, double *k,
                        double *v) {
  const int h = a->h, dq = a->H * h, dk = a->Hk * h;
  const int64_t p = (int64_t)tok * a->ldp;
  const double tol = 30 * l->eps, half = kern_round(a->p.dtype); /* |values| stay below 10 */
  double x[128];
  for (int j = 0; j < a->H; j++) {
    for (int c = 0; c < h; c++) x[c] = kern_get(a->p, p + dq + j * h + c);
    for (int c = 0; c < h; c++)
      kern_close(l, kern_get(a->q, (int64_t)tok * dq + j * h + c), turned(l, a, x, t, c),
                 tol + half * fabs(turned(l, a, x, t, c)), "q token %d channel %d", tok, j * h + c);
  }
  for (int c = 0; c < dk; c++) {
    const double kt = kern_get(a->p, p + 2 * dq + c), xt = kern_get(a->p, p + 2 * dq + dk + c);
    const double g = a->re ? 1 / (1 + exp(-kern_get(a->p, p + 2 * dq + 2 * dk + c))) : 0;
    k[c] = g * k[c] + (1 - g) * kt;
    v[c] = g * v[c] + (1 - g) * xt;
  }
  for (int c = 0; c < dk; c++) {
    const double want = turned(l, a, k + c / h * h, t, c % h);
    kern_close(l, kern_get(a->k, (int64_t)tok * dk + c), want, tol + half * fabs(want),
               "k token %d channel %d", tok, c);
    kern_close(l, kern_get(a->v, (int64_t)tok * dk + c), v[c], tol + half * fabs(v[c]),
               "v token %d channel %d", tok, c);
  }
}

static void forward_is_the_formula(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(1);
  for (int round = 0; round < 60; round++) {
    const shape s = some_shape(&r);
    for (int i = 0; i < levels; i++)
      for (int half = 0; half < (i ? 2 : 1); half++) {
        const rp_dtype compute = half ? RP_BF16 : l[i].real;
        const rp_gate_args a =
            forward_for(&s, check_rng(100 + (uint64_t)round), l[i].real, compute, compute);
        kern_run(&l[i], RP_OP_gate, &a, 1 + round % 3);
        int tok = 0;
        for (int row = 0; row < s.rows; row++) {
          double k[256] = {0}, v[256] = {0};
          for (int t = 0; t < s.n[row]; t++) check_token(&l[i], &a, tok++, t, k, v);
        }
        kern_free_all();
      }
  }
}

static rp_gate_bwd_args backward_for(const rp_gate_args *f, rp_rng r, rp_dtype real) {
  const int64_t nq = (int64_t)f->rows.tokens * f->H * f->h;
  const int64_t nk = (int64_t)f->rows.tokens * f->Hk * f->h;
  rp_gate_bwd_args b = {.rows = f->rows,
                        .H = f->H,
                        .Hk = f->Hk,
                        .h = f->h,
                        .re = f->re,
                        .ldp = f->ldp,
                        .p = f->p,
                        .rope = f->rope};
  b.dq = kern_normal(&r, real, RP_F32, nq, 1);
  b.dk = kern_normal(&r, real, RP_F32, nk, 1);
  b.dv = kern_normal(&r, real, RP_F32, nk, 1);
  b.dp = kern_const(f->p.dtype, f->rows.tokens * f->ldp, 7);
  return b;
}
static double loss(const kern_level *l, const rp_gate_args *f, const rp_gate_bwd_args *b) {
  const int64_t nq = (int64_t)f->rows.tokens * f->H * f->h;
  const int64_t nk = (int64_t)f->rows.tokens * f->Hk * f->h;
  double sum = 0;
  kern_run(l, RP_OP_gate, f, 1);
  for (int64_t i = 0; i < nq; i++) sum += kern_get(f->q, i) * kern_get(b->dq, i);
  for (int64_t i = 0; i < nk; i++)
    sum += kern_get(f->k, i) * kern_get(b->dk, i) + kern_get(f->v, i) * kern_get(b->dv, i);
  return sum;
}

static void backward_is_the_slope(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  kern_levels(l);
  rp_rng r = check_rng(2);
  for (int round = 0; round < 60; round++) {
    const shape s = some_shape(&r);
    const rp_gate_args f =
        forward_for(&s, check_rng(200 + (uint64_t)round), RP_F64, RP_F64, RP_F32);
    const rp_gate_bwd_args b = backward_for(&f, check_rng(201), RP_F64);
    kern_run(&l[0], RP_OP_gate_bwd, &b, 2);
    for (int probe = 0; probe < 40; probe++) {
      const int64_t i = (int64_t)rp_rng_below(&r, (uint64_t)(s.tokens * f.ldp));
      const int64_t col = i % f.ldp;
      if (col < s.H * s.h || col >= f.ldp - 3) { /* not ours to write */
        kern_close(&l[0], kern_get(b.dp, i), 7, 0, "dp[%d]", (int)i);
        continue;
      }
      const double x = kern_get(f.p, i), e = 1e-5;
      kern_set(f.p, i, x + e);
      const double up = loss(&l[0], &f, &b);
      kern_set(f.p, i, x - e);
      const double down = loss(&l[0], &f, &b);
      kern_set(f.p, i, x);
      const double want = (up - down) / (2 * e);
      kern_close(&l[0], kern_get(b.dp, i), want, 1e-7 + 1e-7 * fabs(want), "dp[%d] column %d",
                 (int)i, (int)col);
    }
    kern_free_all();
  }
}

static void backward_levels_agree(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(3);
  for (int round = 0; round < 40; round++) {
    const shape s = some_shape(&r);
    for (int half = 0; half < 2; half++) {
      const rp_rng draw = check_rng(300 + (uint64_t)round);
      const rp_gate_args f = forward_for(&s, draw, RP_F64, RP_F64, half ? RP_BF16 : RP_F32);
      const rp_gate_bwd_args want = backward_for(&f, check_rng(301), RP_F64);
      kern_run(&l[0], RP_OP_gate_bwd, &want, 1);
      for (int i = 1; i < levels; i++) {
        rp_gate_bwd_args b[3];
        const rp_gate_args a =
            forward_for(&s, draw, RP_F32, half ? RP_BF16 : RP_F32, half ? RP_BF16 : RP_F32);
        for (int t = 0; t < 3; t++) {
          b[t] = backward_for(&a, check_rng(301), RP_F32);
          kern_run(&l[i], RP_OP_gate_bwd, &b[t], t + 1);
        }
        const int64_t n = s.tokens * a.ldp;
        assert_memory_equal(b[0].dp.p.at, b[1].dp.p.at, n * rp_dtype_bytes(a.p.dtype));
        assert_memory_equal(b[0].dp.p.at, b[2].dp.p.at, n * rp_dtype_bytes(a.p.dtype));
        for (int64_t j = 0; j < n; j++) {
          const double w = kern_get(want.dp, j);
          /* sums of up to 40 decaying terms of size about 4 */
          kern_close(&l[i], kern_get(b[0].dp, j), w,
                     200 * l[i].eps + kern_round(a.p.dtype) * fabs(w), "dp[%d] column %d", (int)j,
                     (int)(j % a.ldp));
        }
      }
      kern_free_all();
    }
  }
}

/* n values of a few drawn ones over and over. */
static rp_tensor repeated(rp_rng *r, rp_dtype dtype, int64_t n) {
  enum { DRAWN = 9973 };
  const rp_tensor from = kern_normal(r, dtype, dtype, DRAWN, 1.5), to = kern_tensor(dtype, n);
  const int64_t each = rp_dtype_bytes(dtype);
  for (int64_t i = 0; i < n; i += DRAWN)
    memcpy((char *)to.p.at + i * each, (const char *)from.p.at,
           (size_t)((n - i < DRAWN ? n - i : DRAWN) * each));
  return to;
}
static rp_tensor further(rp_tensor t, int64_t n) {
  return (rp_tensor){{t.p.at + (uintptr_t)(n * rp_dtype_bytes(t.dtype))}, t.dtype};
}
static rp_gate_args row_of(const rp_gate_args *f, const rp_row *row) {
  rp_gate_args a = *f;
  a.rows = (rp_rows){kern_alloc(sizeof *row), 1, row->n, row->n};
  *(rp_row *)a.rows.row.at = (rp_row){.n = row->n};
  a.p = further(f->p, row->tok * f->ldp);
  a.q = further(f->q, (int64_t)row->tok * f->H * f->h);
  a.k = further(f->k, (int64_t)row->tok * f->Hk * f->h);
  a.v = further(f->v, (int64_t)row->tok * f->Hk * f->h);
  return a;
}
static rp_gate_bwd_args row_of_bwd(const rp_gate_bwd_args *f, const rp_row *row) {
  rp_gate_bwd_args a = *f;
  a.rows = (rp_rows){kern_alloc(sizeof *row), 1, row->n, row->n};
  *(rp_row *)a.rows.row.at = (rp_row){.n = row->n};
  a.p = further(f->p, row->tok * f->ldp);
  a.dp = further(f->dp, row->tok * f->ldp);
  a.dq = further(f->dq, (int64_t)row->tok * f->H * f->h);
  a.dk = further(f->dk, (int64_t)row->tok * f->Hk * f->h);
  a.dv = further(f->dv, (int64_t)row->tok * f->Hk * f->h);
  return a;
}
static void assert_same(rp_tensor a, rp_tensor b, int64_t n) {
  assert_memory_equal(a.p.at, b.p.at, (size_t)(n * rp_dtype_bytes(a.dtype)));
}

/* shift: what is written begins at that element of a line. */
static void check_large(const kern_level *l, rp_dtype compute, int shift) {
  const int each = compute == RP_BF16 ? 10950 : 5475;
  const shape s = {3, {each, each + 1, each - 1}, 2, 1, 128, 1, 1, 3 * each, each + 1};
  const int64_t n = s.tokens, nq = n * s.H * s.h, nk = n * s.Hk * s.h;
  rp_rng r = check_rng(4);
  shape drawn = s;
  drawn.rows = drawn.tokens = drawn.n[0] = 1; /* for the rotation: all but the tensors */
  rp_gate_args f = forward_for(&drawn, r, l->real, compute, compute);
  f.rows = (rp_rows){kern_alloc(3 * sizeof(rp_row)), 3, s.tokens, s.longest};
  rp_row *row = (rp_row *)f.rows.row.at;
  for (int i = 0, tok = 0; i < 3; tok += s.n[i++]) row[i] = (rp_row){.tok = tok, .n = s.n[i]};
  f.ldp = width_of(&s) - 3 + shift;
  f.p = repeated(&r, compute, n * f.ldp);
  f.q = further(kern_tensor(compute, nq + shift), shift);
  f.k = further(kern_tensor(compute, nk + shift), shift);
  f.v = further(kern_tensor(compute, nk + shift), shift);
  rp_gate_args alone = f;
  alone.q = kern_tensor(compute, nq);
  alone.k = kern_tensor(compute, nk);
  alone.v = kern_tensor(compute, nk);
  rp_gate_bwd_args b = {.rows = f.rows,
                        .H = s.H,
                        .Hk = s.Hk,
                        .h = s.h,
                        .re = 1,
                        .ldp = f.ldp,
                        .p = f.p,
                        .rope = f.rope,
                        .dq = repeated(&r, l->real, nq),
                        .dk = repeated(&r, l->real, nk),
                        .dv = repeated(&r, l->real, nk),
                        .dp = kern_const(compute, n * f.ldp, 7)};
  rp_gate_bwd_args b_alone = b;
  b_alone.dp = kern_const(compute, n * f.ldp, 7);
  kern_run(l, RP_OP_gate, &f, 2);
  kern_run(l, RP_OP_gate_bwd, &b, 2);
  for (int i = 0; i < 3; i++) {
    const rp_gate_args one = row_of(&alone, &row[i]);
    const rp_gate_bwd_args one_bwd = row_of_bwd(&b_alone, &row[i]);
    kern_run(l, RP_OP_gate, &one, 1);
    kern_run(l, RP_OP_gate_bwd, &one_bwd, 1);
  }
  assert_same(f.q, alone.q, nq);
  assert_same(f.k, alone.k, nk);
  assert_same(f.v, alone.v, nk);
  assert_same(b.dp, b_alone.dp, n * f.ldp);
  kern_free_all();
}
/* Over 32 MiB go past the caches where lines are written whole: the same bits as row by row. */
static void large_is_many_small(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  for (int i = 1; i < levels; i++)
    for (int shift = 0; shift < 2; shift++) {
      check_large(&l[i], RP_F32, shift);
      check_large(&l[i], RP_BF16, shift);
    }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(forward_is_the_formula),
    cmocka_unit_test(backward_is_the_slope),
    cmocka_unit_test(backward_levels_agree),
    cmocka_unit_test(large_is_many_small),
};
CHECK_MAIN(tests)
