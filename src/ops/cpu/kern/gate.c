#include "ops/cpu/kern/lanes.h"

/* Gate, scan, rotate. Unit of work: (row, key-value head); the scan walks the tokens with one lane
 * a channel. Columns of the projection: o H*h | q H*h | k Hk*h | x Hk*h | g Hk*h. */

typedef struct {
  int64_t q, k, x, g;
} columns;
static columns columns_of(int H, int Hk, int h) {
  const int64_t q = (int64_t)H * h, kv = (int64_t)Hk * h;
  return (columns){q, 2 * q, 2 * q + kv, 2 * q + 2 * kv};
}

/* Pairs (i, i + h/2) turn by the position's angle: rope[h] = h/2 cosines, h/2 sines; sign -1 turns
 * back. to may not be from. rope NULL: a copy. */
static void rotate(rp_real *restrict to, const rp_real *restrict from, const rp_real *restrict rope,
                   int h, rp_real sign) {
  if (!rope) {
    memcpy(to, from, (size_t)h * sizeof(rp_real));
    return;
  }
  const int m = h / 2;
  const rp_real *restrict cosine = rope, *restrict sine = rope + m;
  for (int i = 0; i < m; i++) {
    const rp_real s = sign * sine[i];
    to[i] = from[i] * cosine[i] - from[i + m] * s;
    to[i + m] = from[i + m] * cosine[i] + from[i] * s;
  }
}
static const rp_real *rope_at(rp_ptr rope, int64_t position, int h) {
  return rope.at ? (const rp_real *)rope.at + position * h : NULL;
}

/* state = g * state + (1 - g) * in */
static void scan(rp_real *restrict state, const rp_real *restrict g, const rp_real *restrict in,
                 int h) {
  for (int i = 0; i < h; i++) state[i] = g[i] * state[i] + (1 - g[i]) * in[i];
}

enum { GATE_ROWS = 6 };
size_t RP_SCRATCH(gate)(const rp_cpu_ctx *c, const void *args) {
  const rp_gate_args *a = args;
  return (size_t)c->threads * GATE_ROWS * round_up((size_t)a->h, RP_LANES) * sizeof(rp_real);
}

/* A row's state of one head before its first token, and after a later one. */
static rp_real *state_at(const rp_gate_args *a, const rp_row *row, int head, int32_t t) {
  const rp_ptr p = rp_cell_state(&a->kv, row->cell, a->Hk, a->h, sizeof(rp_real), t);
  return (rp_real *)p.at + (int64_t)head * a->h;
}
static void state_in(const rp_gate_args *a, const rp_row *row, int head, rp_real *k, rp_real *v) {
  const rp_real *from = state_at(a, row, head, row->pos - 1);
  memcpy(k, from, (size_t)a->h * sizeof(rp_real));
  memcpy(v, from + (int64_t)a->Hk * a->h, (size_t)a->h * sizeof(rp_real));
}
static void state_out(const rp_gate_args *a, const rp_row *row, int head, int32_t t,
                      const rp_real *k, const rp_real *v) {
  rp_real *to = state_at(a, row, head, row->pos + t);
  memcpy(to, k, (size_t)a->h * sizeof(rp_real));
  memcpy(to + (int64_t)a->Hk * a->h, v, (size_t)a->h * sizeof(rp_real));
}

static void gate_unit(const rp_gate_args *a, const rp_row *row, int head, rp_real *scratch) {
  const int h = a->h, group = a->H / a->Hk;
  const int64_t hp = (int64_t)round_up((size_t)h, RP_LANES);
  const int64_t ldq = (int64_t)a->H * h, ldk = (int64_t)a->Hk * h;
  const columns col = columns_of(a->H, a->Hk, h);
  const bool keep = a->re && row->cell.at;
  rp_real *k = scratch, *v = k + hp, *in = v + hp, *g = in + hp, *out = g + hp;
  memset(k, 0, (size_t)(2 * hp) * sizeof(rp_real));
  if (keep && row->pos > 0) state_in(a, row, head, k, v);
  for (int32_t t = 0; t < row->n; t++) {
    const int64_t tok = row->tok + t, p = tok * a->ldp + (int64_t)head * h;
    const rp_real *rope = rope_at(a->rope, a->rope_by_token ? tok : row->pos + t, h);
    if (a->re) {
      load(g, a->p, p + col.g, h);
      for (int i = 0; i < h; i++) g[i] = sigmoid_real(g[i]);
      load(in, a->p, p + col.k, h);
      scan(k, g, in, h);
      load(in, a->p, p + col.x, h);
      scan(v, g, in, h);
      if (keep && t >= row->n - a->kv.states) state_out(a, row, head, t, k, v);
    } else {
      load(k, a->p, p + col.k, h);
      load(v, a->p, p + col.x, h);
    }
    rotate(out, k, rope, h, 1);
    store(a->k, tok * ldk + (int64_t)head * h, out, h);
    store(a->v, tok * ldk + (int64_t)head * h, v, h);
    for (int j = head * group; j < (head + 1) * group; j++) {
      load(in, a->p, tok * a->ldp + col.q + (int64_t)j * h, h);
      rotate(out, in, rope, h, 1);
      store(a->q, tok * ldq + (int64_t)j * h, out, h);
    }
  }
}

void RP_DRIVER(gate)(rp_cpu_ctx *c, const void *args) {
  const rp_gate_args *a = args;
  const bool ok = is_compute(a->p) && a->p.dtype == a->q.dtype && a->p.dtype == a->k.dtype &&
                  a->p.dtype == a->v.dtype;
  const rp_row *row = rows_of(c, &a->rows, &a->kv, "gate");
  if (!row || !dtypes(c, ok, "gate")) return;
  const int64_t hp = (int64_t)round_up((size_t)a->h, RP_LANES);
  const int64_t units = (int64_t)a->rows.count * a->Hk;
#pragma omp parallel for num_threads(c->threads) schedule(static)
  for (int64_t u = 0; u < units; u++)
    gate_unit(a, &row[u / a->Hk], (int)(u % a->Hk),
              (rp_real *)c->scratch + omp_get_thread_num() * GATE_ROWS * hp);
}

/* Of a thread: k~ and v~ before the rotation and the gate, [longest][h] each, and eight rows. */
enum { BWD_ROWS = 8 };
static size_t bwd_reals(const rp_gate_bwd_args *a) {
  const size_t kept = a->re ? 3 * (size_t)a->rows.longest : 0;
  return (kept + BWD_ROWS) * round_up((size_t)a->h, RP_LANES);
}
size_t RP_SCRATCH(gate_bwd)(const rp_cpu_ctx *c, const void *args) {
  return (size_t)c->threads * bwd_reals(args) * sizeof(rp_real);
}

/* q's columns: the gradient turned back. */
static void gate_bwd_query(const rp_gate_bwd_args *a, int64_t tok, int head, const rp_real *rope,
                           rp_real *in, rp_real *out) {
  const int h = a->h, group = a->H / a->Hk;
  const int64_t ldq = (int64_t)a->H * h;
  for (int j = head * group; j < (head + 1) * group; j++) {
    load(in, a->dq, tok * ldq + (int64_t)j * h, h);
    rotate(out, in, rope, h, -1);
    store(a->dp, tok * a->ldp + ldq + (int64_t)j * h, out, h);
  }
}

/* One stream backward through one token. r: dk~_t + g_{t+1} r_{t+1} on entry, g_t r_t on return;
 * din = (1 - g) r; dg += r (before - in). */
static void scan_bwd(rp_real *restrict r, const rp_real *restrict g, const rp_real *restrict before,
                     const rp_real *restrict in, rp_real *restrict din, rp_real *restrict dg,
                     int h) {
  for (int i = 0; i < h; i++) {
    dg[i] += r[i] * (before[i] - in[i]);
    din[i] = (1 - g[i]) * r[i];
    r[i] *= g[i];
  }
}

/* k~, v~ and the gate of every token, as the forward made them. */
static void gate_again(const rp_gate_bwd_args *a, const rp_row *row, int head, rp_real *kept,
                       rp_real *in) {
  const int h = a->h;
  const int64_t hp = (int64_t)round_up((size_t)h, RP_LANES);
  const columns col = columns_of(a->H, a->Hk, h);
  for (int32_t t = 0; t < row->n; t++) {
    const int64_t p = (row->tok + t) * a->ldp + (int64_t)head * h;
    rp_real *k = kept + 3 * hp * t, *v = k + hp, *g = v + hp;
    load(g, a->p, p + col.g, h);
    for (int i = 0; i < h; i++) g[i] = sigmoid_real(g[i]);
    if (t)
      memcpy(k, k - 3 * hp, (size_t)(2 * hp) * sizeof(rp_real));
    else
      memset(k, 0, (size_t)(2 * hp) * sizeof(rp_real));
    load(in, a->p, p + col.k, h);
    scan(k, g, in, h);
    load(in, a->p, p + col.x, h);
    scan(v, g, in, h);
  }
}

static void gate_bwd_unit(const rp_gate_bwd_args *a, const rp_row *row, int head, rp_real *kept) {
  const int h = a->h;
  const int64_t hp = (int64_t)round_up((size_t)h, RP_LANES), ldk = (int64_t)a->Hk * h;
  const columns col = columns_of(a->H, a->Hk, h);
  rp_real *rk = kept + (a->re ? 3 * hp * row->n : 0), *rv = rk + hp, *in = rv + hp;
  rp_real *out = in + hp, *dg = out + hp, *zero = dg + hp; /* zero [2][hp]: before the first */
  memset(rk, 0, (size_t)(BWD_ROWS * hp) * sizeof(rp_real));
  if (a->re) gate_again(a, row, head, kept, in);
  for (int32_t t = row->n - 1; t >= 0; t--) {
    const int64_t tok = row->tok + t, p = tok * a->ldp + (int64_t)head * h;
    const rp_real *rope = rope_at(a->rope, row->pos + t, h);
    const rp_real *dk = rd(a->dk, tok * ldk + (int64_t)head * h);
    const rp_real *dv = rd(a->dv, tok * ldk + (int64_t)head * h);
    gate_bwd_query(a, tok, head, rope, in, out);
    rotate(out, dk, rope, h, -1);
    if (!a->re) {
      store(a->dp, p + col.k, out, h);
      store(a->dp, p + col.x, dv, h);
      continue;
    }
    const rp_real *now = kept + 3 * hp * t, *before = t ? now - 3 * hp : zero, *g = now + 2 * hp;
    for (int i = 0; i < h; i++) rk[i] += out[i];
    for (int i = 0; i < h; i++) rv[i] += dv[i];
    memset(dg, 0, (size_t)h * sizeof(rp_real));
    load(in, a->p, p + col.k, h);
    scan_bwd(rk, g, before, in, out, dg, h);
    store(a->dp, p + col.k, out, h);
    load(in, a->p, p + col.x, h);
    scan_bwd(rv, g, before + hp, in, out, dg, h);
    store(a->dp, p + col.x, out, h);
    for (int i = 0; i < h; i++) dg[i] *= g[i] * (1 - g[i]);
    store(a->dp, p + col.g, dg, h);
  }
}

void RP_DRIVER(gate_bwd)(rp_cpu_ctx *c, const void *args) {
  const rp_gate_bwd_args *a = args;
  const bool ok = is_compute(a->p) && a->p.dtype == a->dp.dtype && is_real(a->dq) &&
                  is_real(a->dk) && is_real(a->dv);
  const rp_row *row = rows_of(c, &a->rows, &(rp_kv){0}, "gate_bwd");
  if (!row || !dtypes(c, ok, "gate_bwd")) return;
  const int64_t units = (int64_t)a->rows.count * a->Hk;
  const size_t each = bwd_reals(a);
#pragma omp parallel for num_threads(c->threads) schedule(static)
  for (int64_t u = 0; u < units; u++)
    gate_bwd_unit(a, &row[u / a->Hk], (int)(u % a->Hk),
                  (rp_real *)c->scratch + (size_t)omp_get_thread_num() * each);
}
