/* Attention: forward against the definition (every query masked by brute force, in double),
 * backward against central differences on ref64 and every level against ref64. */
#include "kern_box.h"
#include "ops/cache.h"
#include "pattern/segs.h"

typedef struct {
  int rows, n[4], H, Hk, h, tokens, longest;
  rp_pat pat[8]; /* [plan 0..1][Hk], at most */
  int plan[4];
  double scale;
} shape;

static rp_pat some_pat(rp_rng *r, int T) {
  static const int D[] = {-1, 1, 1, 2, 3, 4, 16, 64, 100};
  rp_pat p = {D[rp_rng_below(r, 9)], 0, 0};
  if (check_pick(r, 0, 1)) p.W = check_pick(r, 0, check_pick(r, 0, 2) ? 20 : T + 5);
  if (check_pick(r, 0, 2) == 0) p.I = check_pick(r, 0, check_pick(r, 0, 2) ? 20 : T + 5);
  if (p.D == -1 && !p.W && !p.I) p.W = 1;
  return p;
}

static shape some_shape(rp_rng *r, int longest) {
  static const int h[] = {2, 6, 16, 64, 128, 8, 20};
  shape s = {.rows = check_pick(r, 1, 3), .Hk = check_pick(r, 1, 2)};
  s.H = s.Hk * check_pick(r, 1, 3);
  s.h = h[rp_rng_below(r, 7)];
  for (int i = 0; i < s.rows; i++) {
    s.n[i] = check_pick(r, 0, 5) ? check_pick(r, 1, longest) : 1;
    s.tokens += s.n[i];
    if (s.n[i] > s.longest) s.longest = s.n[i];
    s.plan[i] = check_pick(r, 0, 1);
  }
  for (int i = 0; i < 2 * s.Hk; i++) s.pat[i] = some_pat(r, s.longest);
  s.scale = check_pick(r, 0, 1) ? 1 / sqrt(s.h) : 0.3;
  return s;
}

static rp_rows rows_for(const shape *s, rp_ptr *pats) {
  rp_rows rows = {kern_alloc((size_t)s->rows * sizeof(rp_row)), s->rows, s->tokens, s->longest};
  int32_t tok = 0;
  for (int i = 0; i < s->rows; i++) {
    ((rp_row *)rows.row.at)[i] = (rp_row){.tok = tok, .n = s->n[i], .plan = s->plan[i]};
    tok += s->n[i];
  }
  *pats = kern_alloc(2 * (size_t)s->Hk * sizeof(rp_pat));
  memcpy((void *)pats->at, s->pat, 2 * (size_t)s->Hk * sizeof(rp_pat));
  return rows;
}

static rp_attend_args forward_for(const shape *s, rp_rng r, rp_dtype real, rp_dtype compute,
                                  rp_dtype like) {
  const int64_t nq = (int64_t)s->tokens * s->H * s->h, nk = (int64_t)s->tokens * s->Hk * s->h;
  rp_attend_args a = {.H = s->H, .Hk = s->Hk, .h = s->h, .pats_stride = s->Hk, .scale = s->scale};
  a.rows = rows_for(s, &a.pats);
  a.q = kern_normal(&r, compute, like, nq, 1.5);
  a.k = kern_normal(&r, compute, like, nk, 1.5);
  a.v = kern_normal(&r, compute, like, nk, 1);
  a.out = kern_tensor(compute, nq);
  a.lse = kern_tensor(real, (int64_t)s->tokens * s->H).p;
  return a;
}

static bool sees(rp_pat p, int t, int s) {
  return s <= t && (s < p.I || t - s <= p.W || (p.D != -1 && (s + 1) % p.D == 0));
}

/* One query from the definition; abs: sum p |v| by channel; size: the largest sum |q k| scale. */
static double naive(const rp_attend_args *a, rp_pat p, int tok, int t, int head, double *out,
                    double *abs, double *size) {
  const int g = head / (a->H / a->Hk), h = a->h;
  double *score = calloc((size_t)t + 1, sizeof *score), max = -INFINITY, sum = 0;
  *size = 0;
  for (int s = 0; s <= t; s++) {
    double all = 0;
    for (int c = 0; c < h; c++) {
      const double qk = kern_get(a->q, ((int64_t)(tok + t) * a->H + head) * h + c) *
                        kern_get(a->k, ((int64_t)(tok + s) * a->Hk + g) * h + c) * a->scale;
      score[s] += qk;
      all += fabs(qk);
    }
    if (sees(p, t, s) && score[s] > max) max = score[s];
    if (sees(p, t, s) && all > *size) *size = all;
  }
  for (int s = 0; s <= t; s++) sum += sees(p, t, s) ? exp(score[s] - max) : 0;
  for (int c = 0; c < h; c++) out[c] = abs[c] = 0;
  for (int s = 0; s <= t; s++)
    for (int c = 0; c < h && sees(p, t, s); c++) {
      const double pv =
          exp(score[s] - max) / sum * kern_get(a->v, ((int64_t)(tok + s) * a->Hk + g) * h + c);
      out[c] += pv;
      abs[c] += fabs(pv);
    }
  free(score);
  return max + log(sum);
}

/* Every `every`-th query. */
static void check_forward(const kern_level *l, const shape *s, const rp_attend_args *a, int every) {
  double out[128], abs[128], size;
  int tok = 0;
  for (int row = 0; row < s->rows; tok += s->n[row++])
    for (int t = 0; t < s->n[row]; t += every)
      for (int head = 0; head < s->H; head++) {
        const rp_pat p = s->pat[s->plan[row] * s->Hk + head / (s->H / s->Hk)];
        const double lse = naive(a, p, tok, t, head, out, abs, &size);
        /* of exp's argument, and of sums over up to 64 keys, then over as many such sums as there are */
        const double k = l->eps * (8 + 4 * size + s->n[row] / 64);
        const double weight = a->q.dtype == RP_BF16 ? l->weight_eps : 0;
        kern_close(l, kern_real(l, a->lse, (int64_t)(tok + t) * s->H + head), lse,
                   k + l->eps * 2 * fabs(lse), "lse row %d t %d head %d D=%d W=%d I=%d h=%d", row,
                   t, head, p.D, p.W, p.I, s->h);
        for (int c = 0; c < s->h; c++)
          kern_close(l, kern_get(a->out, ((int64_t)(tok + t) * s->H + head) * s->h + c), out[c],
                     (k + weight) * abs[c] + kern_round(a->out.dtype) * fabs(out[c]),
                     "out row %d t %d head %d c %d D=%d W=%d I=%d h=%d", row, t, head, c, p.D, p.W,
                     p.I, s->h);
      }
}

static void forward_is_the_definition(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(1);
  for (int round = 0; round < 24; round++) {
    const shape s = some_shape(&r, round % 4 ? 90 : 300);
    const rp_rng draw = check_rng(100 + (uint64_t)round);
    for (int i = 0; i < levels; i++)
      for (int half = 0; half < (i ? 2 : 1); half++) {
        const rp_dtype compute = half ? RP_BF16 : l[i].real;
        const rp_attend_args a = forward_for(&s, draw, l[i].real, compute, compute);
        kern_run(&l[i], RP_OP_attend, &a, 1 + round % 3);
        check_forward(&l[i], &s, &a, 1);
        kern_free_all();
      }
  }
}

static rp_attend_bwd_args backward_for(const shape *s, const rp_attend_args *f, rp_rng r,
                                       rp_dtype real) {
  const int64_t nq = (int64_t)s->tokens * s->H * s->h, nk = (int64_t)s->tokens * s->Hk * s->h;
  rp_attend_bwd_args b = {.rows = f->rows,
                          .H = f->H,
                          .Hk = f->Hk,
                          .h = f->h,
                          .scale = f->scale,
                          .pats_stride = f->pats_stride,
                          .pats = f->pats,
                          .q = f->q,
                          .k = f->k,
                          .v = f->v,
                          .out = f->out,
                          .lse = f->lse};
  b.dout = kern_normal(&r, real, RP_F32, nq, 1);
  b.dq = kern_tensor(real, nq);
  b.dk = kern_tensor(real, nk);
  b.dv = kern_tensor(real, nk);
  return b;
}

static double loss(const kern_level *l, const rp_attend_args *a, rp_tensor dout, int64_t n) {
  double sum = 0;
  kern_run(l, RP_OP_attend, a, 2);
  for (int64_t i = 0; i < n; i++) sum += kern_get(a->out, i) * kern_get(dout, i);
  return sum;
}

/* So many keys that tiles of queries meet them together, at all the ends a row can have. */
static void many_keys_are_the_definition(void **state) {
  (void)state;
  static const int h[] = {6, 16, 20, 64};
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(8);
  for (int round = 0; round < check_rounds(4); round++) {
    shape s = {.rows = 1, .H = 1, .Hk = 1, .h = h[round % 4], .scale = 0.3};
    s.n[0] = s.tokens = s.longest = check_pick(&r, 1025, 1700);
    s.pat[0] = s.pat[1] = round % 2 ? some_pat(&r, s.longest) : (rp_pat){1, 0, 0};
    if (round % 4 == 3) s.pat[0] = s.pat[1] = (rp_pat){2, 600, 600};
    const rp_rng draw = check_rng(1000 + (uint64_t)round);
    for (int i = 0; i < 2 * levels - 1; i++) {
      const kern_level *at = &l[(i + 1) / 2];
      const rp_dtype compute = i && i % 2 ? RP_BF16 : at->real;
      const rp_attend_args a = forward_for(&s, draw, at->real, compute, compute);
      kern_run(at, RP_OP_attend, &a, 2);
      check_forward(at, &s, &a, 11);
      kern_free_all();
    }
  }
}

static void backward_is_the_slope(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  kern_levels(l);
  rp_rng r = check_rng(2);
  for (int round = 0; round < 30; round++) {
    const shape s = some_shape(&r, 140);
    const int64_t nq = (int64_t)s.tokens * s.H * s.h, nk = (int64_t)s.tokens * s.Hk * s.h;
    const rp_attend_args f =
        forward_for(&s, check_rng(200 + (uint64_t)round), RP_F64, RP_F64, RP_F32);
    kern_run(&l[0], RP_OP_attend, &f, 1);
    const rp_attend_bwd_args b = backward_for(&s, &f, check_rng(300), RP_F64);
    kern_run(&l[0], RP_OP_attend_bwd, &b, 2);
    const rp_tensor in[] = {f.q, f.k, f.v}, grad[] = {b.dq, b.dk, b.dv};
    for (int probe = 0; probe < 24; probe++) {
      const int which = probe % 3;
      const int64_t i = (int64_t)rp_rng_below(&r, (uint64_t)(which ? nk : nq));
      const double x = kern_get(in[which], i), e = 1e-5;
      kern_set(in[which], i, x + e);
      const double up = loss(&l[0], &f, b.dout, nq);
      kern_set(in[which], i, x - e);
      const double down = loss(&l[0], &f, b.dout, nq);
      kern_set(in[which], i, x);
      const double want = (up - down) / (2 * e);
      /* the difference's own error: eps of scores of up to 40 in each of nq outputs over 2e, five times
       * the likely sum of it, and e^2 curvature */
      kern_close(&l[0], kern_get(grad[which], i), want,
                 5 * 2.3e-16 * 40 * sqrt((double)nq) / (2 * e) + 1e-6 * fabs(want),
                 "d%c[%d] T=%d h=%d D=%d W=%d I=%d", "qkv"[which], (int)i, s.n[0], s.h, s.pat[0].D,
                 s.pat[0].W, s.pat[0].I);
    }
    kern_free_all();
  }
}

static double norm_of(rp_tensor t, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += kern_get(t, i) * kern_get(t, i);
  return sqrt(sum / (double)n);
}

static void backward_levels_agree(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(3);
  for (int round = 0; round < 12; round++) {
    const shape s = some_shape(&r, round % 4 ? 90 : 200);
    const int64_t n[] = {(int64_t)s.tokens * s.H * s.h, (int64_t)s.tokens * s.Hk * s.h,
                         (int64_t)s.tokens * s.Hk * s.h};
    for (int half = 0; half < 2; half++) {
      const rp_rng draw = check_rng(400 + (uint64_t)round);
      const rp_attend_args f = forward_for(&s, draw, RP_F64, RP_F64, half ? RP_BF16 : RP_F32);
      kern_run(&l[0], RP_OP_attend, &f, 1);
      const rp_attend_bwd_args want = backward_for(&s, &f, check_rng(500), RP_F64);
      kern_run(&l[0], RP_OP_attend_bwd, &want, 1);
      const rp_tensor w[] = {want.dq, want.dk, want.dv};
      for (int i = 1; i < levels; i++) {
        const rp_dtype compute = half ? RP_BF16 : RP_F32;
        const rp_attend_args a = forward_for(&s, draw, RP_F32, compute, compute);
        kern_run(&l[i], RP_OP_attend, &a, 1);
        const rp_attend_bwd_args b = backward_for(&s, &a, check_rng(500), RP_F32);
        kern_run(&l[i], RP_OP_attend_bwd, &b, 2);
        const rp_tensor g[] = {b.dq, b.dk, b.dv};
        /* dout v and delta cancel. Scores up to ~10 in size carry h products of eps each; delta is of
         * an out rounded by 2^-9, whose error every key of a query shares: h such terms, times a key,
         * of which an element may have six times the likely error, and their norm once */
        const double tol = half ? 1.0 / 16 : l[i].eps * 100 * (4 + s.h / 8.0);
        const double shared = half ? 6.0 / 512 * sqrt(s.h) * 1.5 * s.scale : tol / 10;
        for (int k = 0; k < 3; k++) {
          const double size = norm_of(w[k], n[k]);
          double apart = 0;
          for (int64_t j = 0; j < n[k]; j++) {
            const double got = kern_get(g[k], j), ref = kern_get(w[k], j);
            kern_close(&l[i], got, ref, shared + tol * (size + fabs(ref)),
                       "d%c[%d] T=%d h=%d half %d", "qkv"[k], (int)j, s.n[0], s.h, half);
            apart += (got - ref) * (got - ref);
          }
          kern_close(&l[i], sqrt(apart / (double)n[k]), 0,
                     (half ? shared / 6 : shared) + tol * size / 8, "norm of d%c's error",
                     "qkv"[k]);
        }
      }
      kern_free_all();
    }
  }
}

static void threads_do_not_change_a_bit(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(4);
  for (int round = 0; round < 6; round++) {
    const shape s = some_shape(&r, 150);
    const int64_t nq = (int64_t)s.tokens * s.H * s.h, nk = (int64_t)s.tokens * s.Hk * s.h;
    for (int i = 0; i < levels; i++) {
      rp_attend_args f[3];
      rp_attend_bwd_args b[3];
      const size_t bytes = (size_t)rp_dtype_bytes(l[i].real);
      const size_t wide = (size_t)rp_dtype_bytes(l[i].compute);
      for (int t = 0; t < 3; t++) {
        f[t] = forward_for(&s, check_rng(600), l[i].real, l[i].compute, RP_F32);
        kern_run(&l[i], RP_OP_attend, &f[t], t + 1);
        b[t] = backward_for(&s, &f[t], check_rng(601), l[i].real);
        kern_run(&l[i], RP_OP_attend_bwd, &b[t], t + 1);
        assert_memory_equal(f[0].out.p.at, f[t].out.p.at, (size_t)nq * wide);
        assert_memory_equal(b[0].dq.p.at, b[t].dq.p.at, (size_t)nq * bytes);
        assert_memory_equal(b[0].dk.p.at, b[t].dk.p.at, (size_t)nk * bytes);
        assert_memory_equal(b[0].dv.p.at, b[t].dv.p.at, (size_t)nk * bytes);
      }
      kern_free_all();
    }
  }
}

/* A NaN key reaches exactly the queries that see it, a NaN value those at least (0 * NaN within a
 * tile), and neither another head. */
static void nan_reaches_those_who_see_it(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(5);
  for (int round = 0; round < 10; round++) {
    shape s = some_shape(&r, 120);
    s.rows = 1;
    s.H = s.Hk = 2;
    s.tokens = s.longest = s.n[0];
    s.plan[0] = 0;
    const int at = check_pick(&r, 0, s.n[0] - 1);
    for (int i = 0; i < levels; i++) {
      const rp_attend_args a = forward_for(&s, check_rng(700), l[i].real, l[i].compute, RP_F32);
      kern_set(round % 2 ? a.k : a.v, (int64_t)at * 2 * s.h, NAN);
      kern_run(&l[i], RP_OP_attend, &a, 2);
      for (int t = 0; t < s.n[0]; t++) {
        const bool is = isnan(kern_get(a.out, (int64_t)t * 2 * s.h));
        const bool want = sees(s.pat[0], t, at);
        assert_false(isnan(kern_get(a.out, ((int64_t)t * 2 + 1) * s.h)));
        if (round % 2 ? is != want : want && !is)
          fail_msg("%s: query %d, NaN in key %d, D=%d W=%d I=%d", l[i].name, t, at, s.pat[0].D,
                   s.pat[0].W, s.pat[0].I);
      }
      kern_free_all();
    }
  }
}

/* The last token of f's only row as a step behind a cache that holds the others: blocks in a random
 * order, what the pattern keeps in KEPT (W = 0, so there is no RING). */
static rp_attend_args step_for(const shape *s, const rp_attend_args *f, rp_rng *r) {
  const int T = s->n[0], pos = T - 1;
  const int per_head = (T + RP_KV_BLOCK - 1) / RP_KV_BLOCK, blocks = per_head * s->Hk;
  rp_attend_args a = *f;
  a.kv = (rp_kv){.blocks = blocks, .layers = 1};
  a.kv.pool = kern_tensor(f->k.dtype, blocks * rp_kv_block_elements(s->h));
  const rp_ptr cell = kern_alloc((size_t)(2 * s->Hk + blocks) * sizeof(int32_t));
  int32_t *lists = (int32_t *)cell.at, *tables = lists + 2 * s->Hk;
  const int shift = check_pick(r, 0, blocks - 1);
  for (int b = 0; b < blocks; b++) tables[b] = (b * 7 + shift) % blocks; /* 7: see below */
  for (int g = 0; g < s->Hk; g++) {
    lists[2 * g] = lists[2 * g + 1] = 2 * s->Hk + g * per_head;
    for (int t = 0; t < pos; t++) {
      if (!sees(s->pat[g], T, t)) continue;
      const int32_t e = s->pat[g].D == 1 || t < s->pat[g].I ? t : rp_pat_slot(s->pat[g], t);
      const int64_t at = rp_kv_entry(tables[g * per_head + e / RP_KV_BLOCK], e, s->h);
      for (int c = 0; c < s->h; c++) {
        const int64_t from = ((int64_t)t * s->Hk + g) * s->h + c;
        kern_set(a.kv.pool, at + c, kern_get(f->k, from));
        kern_set(a.kv.pool, at + RP_KV_BLOCK * s->h + c, kern_get(f->v, from));
      }
    }
  }
  a.rows = (rp_rows){kern_alloc(sizeof(rp_row)), 1, 1, 1};
  *(rp_row *)a.rows.row.at = (rp_row){.n = 1, .pos = pos, .top = pos, .cell = cell};
  a.q = rp_tensor_at(f->q, (int64_t)pos * s->H * s->h);
  a.k = rp_tensor_at(f->k, (int64_t)pos * s->Hk * s->h);
  a.v = rp_tensor_at(f->v, (int64_t)pos * s->Hk * s->h);
  a.out = kern_tensor(f->out.dtype, (int64_t)s->H * s->h);
  a.lse = kern_tensor(RP_F64, s->H).p; /* as wide as any real */
  return a;
}

/* Thousands of keys, which a step of few heads shares out over its threads, in parts that do not
 * depend on them. */
static void a_step_is_the_definition(void **state) {
  (void)state;
  static const int D[] = {1, 1, 2}, width[] = {20, 128, 64};
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(7);
  for (int round = 0; round < 6; round++) {
    shape s = {.rows = 1, .Hk = check_pick(&r, 1, 2), .scale = 0.3};
    s.H = s.Hk * check_pick(&r, 1, 2);
    s.h = width[round / 2];
    s.n[0] = s.tokens = s.longest = (round % 2 ? 2100 : 2) + check_pick(&r, 0, 60);
    while ((s.n[0] + RP_KV_BLOCK - 1) / RP_KV_BLOCK * s.Hk % 7 ==
           0) /* 7 must not divide the blocks */
      s.n[0] = s.tokens = s.longest = s.longest + RP_KV_BLOCK;
    for (int g = 0; g < s.Hk; g++)
      s.pat[g] = (rp_pat){D[rp_rng_below(&r, 3)], 0, check_pick(&r, 0, 9)};
    for (int i = 0; i < 2 * levels - 1; i++) {
      const kern_level *at = &l[(i + 1) / 2];
      const rp_dtype compute = i && i % 2 ? RP_BF16 : at->real;
      const rp_attend_args f = forward_for(&s, check_rng(900), at->real, compute, compute);
      const rp_attend_args a = step_for(&s, &f, &r);
      const size_t bytes = (size_t)(s.H * s.h * rp_dtype_bytes(compute));
      double out[128], abs[128], size;
      uint8_t first[9 * 128 * sizeof(double)];
      kern_run(at, RP_OP_attend, &a, 1);
      memcpy(first, (const void *)a.out.p.at, bytes);
      kern_run(at, RP_OP_attend, &a, 3);
      assert_memory_equal(first, (const void *)a.out.p.at, bytes);
      for (int head = 0; head < s.H; head++) {
        const rp_pat p = s.pat[head / (s.H / s.Hk)];
        const double lse = naive(&f, p, 0, s.n[0] - 1, head, out, abs, &size);
        /* of exp's argument, and of sums of 16 terms, then of as many such sums as there are */
        const double k = at->eps * (8 + 4 * size + s.n[0] / 16.0);
        kern_close(at, kern_real(at, a.lse, head), lse, k + at->eps * 2 * fabs(lse), "lse head %d",
                   head);
        for (int c = 0; c < s.h; c++)
          kern_close(at, kern_get(a.out, (int64_t)head * s.h + c), out[c],
                     k * abs[c] + kern_round(compute) * fabs(out[c]),
                     "out head %d c %d T=%d D=%d I=%d h=%d", head, c, s.n[0], p.D, p.I, s.h);
      }
      kern_free_all();
    }
  }
}

/* A NaN key or value in the cache reaches every head that reads it, whatever its score, and no other. */
static void nan_in_a_cache_reaches_its_heads(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(10);
  for (int round = 0; round < 8; round++) {
    shape s = {.rows = 1, .Hk = 2, .H = 4, .h = round % 4 < 2 ? 128 : 20, .scale = 0.3};
    s.n[0] = s.tokens = s.longest = check_pick(&r, 2, 90);
    s.pat[0] = s.pat[1] = (rp_pat){1, 0, 0};
    const int at = check_pick(&r, 0, s.n[0] - 1), g = check_pick(&r, 0, 1);
    for (int i = 0; i < 2 * levels - 1; i++) {
      const kern_level *level = &l[(i + 1) / 2];
      const rp_dtype compute = i && i % 2 ? RP_BF16 : level->real;
      const rp_attend_args f = forward_for(&s, check_rng(950), level->real, compute, compute);
      kern_set(round % 2 ? f.k : f.v, ((int64_t)at * s.Hk + g) * s.h, NAN);
      const rp_attend_args a = step_for(&s, &f, &r);
      kern_run(level, RP_OP_attend, &a, 2);
      for (int head = 0; head < s.H; head++)
        for (int c = 0; c < s.h; c++) {
          const bool want = head / 2 == g && (round % 2 || c == 0);
          if (isnan(kern_get(a.out, (int64_t)head * s.h + c)) != want)
            fail_msg("%s: head %d column %d, NaN in head %d's %s %d of %d", level->name, head, c, g,
                     round % 2 ? "key" : "value", at, s.n[0]);
        }
      kern_free_all();
    }
  }
}

static void later_rows_without_a_cache_are_refused(void **state) {
  (void)state;
  kern_level l[KERN_LEVELS];
  const int levels = kern_levels(l);
  rp_rng r = check_rng(6);
  const shape s = some_shape(&r, 20);
  for (int i = 0; i < levels; i++) {
    const rp_attend_args a = forward_for(&s, check_rng(800), l[i].real, l[i].real, RP_F32);
    rp_error err;
    ((rp_row *)a.rows.row.at)->pos = 3;
    check_fails(kern_try(&l[i], RP_OP_attend, &a, 1, &err), RP_FAIL, err, "position 3");
    kern_free_all();
  }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(forward_is_the_definition),
    cmocka_unit_test(many_keys_are_the_definition),
    cmocka_unit_test(backward_is_the_slope),
    cmocka_unit_test(backward_levels_agree),
    cmocka_unit_test(threads_do_not_change_a_bit),
    cmocka_unit_test(nan_reaches_those_who_see_it),
    cmocka_unit_test(a_step_is_the_definition),
    cmocka_unit_test(nan_in_a_cache_reaches_its_heads),
    cmocka_unit_test(later_rows_without_a_cache_are_refused),
};
CHECK_MAIN(tests)
