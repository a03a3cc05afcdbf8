#include "ops/cpu/kern/lanes.h"

/* Gate, scan, rotate. Unit of work: (row, some key-value heads that lie side by side); the scan walks
 * the tokens with one lane a channel. Columns of the projection: o H*h | q H*h | k Hk*h | x Hk*h |
 * g Hk*h. */

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
static void rotate_heads(rp_real *restrict to, const rp_real *restrict from, const rp_real *rope,
                         int heads, int h, rp_real sign) {
  for (int i = 0; i < heads; i++) rotate(to + i * h, from + i * h, rope, h, sign);
}
static const rp_real *rope_at(rp_ptr rope, int64_t position, int h) {
  return rope.at ? (const rp_real *)rope.at + position * h : NULL;
}

/* state = g * state + (1 - g) * in */
static void scan(rp_real *restrict state, const rp_real *restrict g, const rp_real *restrict in,
                 int h) {
  for (int i = 0; i < h; i++) state[i] = g[i] * state[i] + (1 - g[i]) * in[i];
}

/* ---- units ---- */

/* Heads of a unit: as many as fill the threads evenly, since what lies side by side is read at once;
 * at most MOST_WIDTH channels, so that a token's rows stay in the first cache. Every channel is on
 * its own, so this changes no result. */
enum { MOST_WIDTH = 1024 };
static int heads_of(const rp_rows *rows, int Hk, int h, int threads) {
  int best = 1;
  int64_t least = INT64_MAX;
  for (int n = 1; n <= Hk && (n == 1 || n * h <= MOST_WIDTH); n++) {
    const int64_t units = (int64_t)rows->count * ((Hk + n - 1) / n);
    const int64_t time = (units + threads - 1) / threads * n;
    if (time > least) continue;
    least = time;
    best = n;
  }
  return best;
}

/* The pitch of the widest unit, however many rows there are: more rows never take more scratch. */
static size_t widest(int Hk, int h) {
  const int64_t all = (int64_t)Hk * h, most = h < MOST_WIDTH ? MOST_WIDTH / h * h : h;
  return round_up((size_t)(all < most ? all : most), RP_LANES);
}

typedef struct {
  const rp_row *row;
  int head, heads; /* key-value heads [head, head + heads) */
  int w;           /* heads * h */
  int64_t pitch;   /* w rounded up */
} unit;
static int64_t units_of(const rp_rows *rows, int Hk, int each) {
  return (int64_t)rows->count * ((Hk + each - 1) / each);
}
static unit unit_at(const rp_row *rows, int Hk, int h, int each, int64_t i) {
  const int64_t per = (Hk + each - 1) / each;
  const int head = (int)(i % per) * each, heads = Hk - head < each ? Hk - head : each;
  return (unit){&rows[i / per], head, heads, heads * h,
                (int64_t)round_up((size_t)each * (size_t)h, RP_LANES)};
}

/* ---- forward ---- */

enum { GATE_ROWS = 5 };
size_t RP_SCRATCH(gate)(const rp_cpu_ctx *c, const void *args) {
  const rp_gate_args *a = args;
  return (size_t)c->threads * GATE_ROWS * widest(a->Hk, a->h) * sizeof(rp_real);
}

/* A row's state of a unit's heads before its first token, and after a later one. */
static rp_real *state_at(const rp_gate_args *a, const rp_row *row, int head, int32_t t) {
  const rp_ptr p = rp_cell_state(&a->kv, row->cell, a->Hk, a->h, sizeof(rp_real), t);
  return (rp_real *)p.at + (int64_t)head * a->h;
}
static void state_in(const rp_gate_args *a, const unit *u, rp_real *k, rp_real *v) {
  const rp_real *from = state_at(a, u->row, u->head, u->row->pos - 1);
  memcpy(k, from, (size_t)u->w * sizeof(rp_real));
  memcpy(v, from + (int64_t)a->Hk * a->h, (size_t)u->w * sizeof(rp_real));
}
static void state_out(const rp_gate_args *a, const unit *u, int32_t t, const rp_real *k,
                      const rp_real *v) {
  rp_real *to = state_at(a, u->row, u->head, u->row->pos + t);
  memcpy(to, k, (size_t)u->w * sizeof(rp_real));
  memcpy(to + (int64_t)a->Hk * a->h, v, (size_t)u->w * sizeof(rp_real));
}

static void sigmoids(rp_real *g, int64_t n) {
  for (int64_t i = 0; i < n; i++) g[i] = sigmoid_real(g[i]);
}

static void gate_unit(const rp_gate_args *a, const unit *u, rp_real *scratch) {
  const rp_row *row = u->row;
  const int h = a->h, w = u->w, group = a->H / a->Hk;
  const int64_t hp = u->pitch, ldq = (int64_t)a->H * h, ldk = (int64_t)a->Hk * h;
  const columns col = columns_of(a->H, a->Hk, h);
  const bool keep = a->re && row->cell.at;
  rp_real *k = scratch, *v = k + hp, *in = v + hp, *g = in + hp, *out = g + hp;
  memset(k, 0, (size_t)(2 * hp) * sizeof(rp_real));
  if (keep && row->pos > 0) state_in(a, u, k, v);
  for (int32_t t = 0; t < row->n; t++) {
    const int64_t tok = row->tok + t, at = (int64_t)u->head * h, p = tok * a->ldp + at;
    const rp_real *rope = rope_at(a->rope, a->rope_by_token ? tok : row->pos + t, h);
    if (a->re) {
      load(g, a->p, p + col.g, w);
      sigmoids(g, w);
      load(in, a->p, p + col.k, w);
      scan(k, g, in, w);
      load(in, a->p, p + col.x, w);
      scan(v, g, in, w);
      if (keep && t >= row->n - a->kv.states) state_out(a, u, t, k, v);
    } else {
      load(k, a->p, p + col.k, w);
      load(v, a->p, p + col.x, w);
    }
    rotate_heads(out, k, rope, u->heads, h, 1);
    store(a->k, tok * ldk + at, out, w);
    store(a->v, tok * ldk + at, v, w);
    for (int j = 0; j < group; j++) { /* as many query heads at a time as there are channels here */
      const int64_t q = (int64_t)u->head * group * h + (int64_t)j * w;
      load(in, a->p, tok * a->ldp + col.q + q, w);
      rotate_heads(out, in, rope, u->heads, h, 1);
      store(a->q, tok * ldq + q, out, w);
    }
  }
}

void RP_DRIVER(gate)(rp_cpu_ctx *c, const void *args) {
  const rp_gate_args *a = args;
  const bool ok = is_compute(a->p) && a->p.dtype == a->q.dtype && a->p.dtype == a->k.dtype &&
                  a->p.dtype == a->v.dtype;
  const rp_row *row = rows_of(c, &a->rows, &a->kv, "gate");
  if (!row || !dtypes(c, ok, "gate")) return;
  const int threads = team_for(c, (int64_t)a->rows.tokens * (a->H + 2 * a->Hk) * a->h);
  const int each = heads_of(&a->rows, a->Hk, a->h, threads);
  const int64_t units = units_of(&a->rows, a->Hk, each);
  const size_t reals = GATE_ROWS * widest(a->Hk, a->h);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < units; i++) {
    const unit u = unit_at(row, a->Hk, a->h, each, i);
    gate_unit(a, &u, (rp_real *)c->scratch + (size_t)omp_get_thread_num() * reals);
  }
}

/* ---- backward ---- */

/* The scan runs forward once for the states in front of every CHUNK tokens; then chunk by chunk from
 * the end, forward again with all states kept, and backward through them. So memory grows with
 * T / CHUNK. Of a thread: starts [chunks][2], kept [CHUNK][3] (k~, v~ before the rotation, the gate),
 * and rows of [pitch]. */
enum { CHUNK = 32, BWD_ROWS = 5 };
static int64_t chunks_of(int32_t n) { return (n + CHUNK - 1) / CHUNK; }
static size_t bwd_reals(const rp_gate_bwd_args *a) {
  const size_t kept = a->re ? 2 * (size_t)chunks_of(a->rows.longest) + 3 * CHUNK : 0;
  return (kept + BWD_ROWS) * widest(a->Hk, a->h);
}
size_t RP_SCRATCH(gate_bwd)(const rp_cpu_ctx *c, const void *args) {
  return (size_t)c->threads * bwd_reals(args) * sizeof(rp_real);
}

/* q's columns: the gradient turned back. */
static void gate_bwd_query(const rp_gate_bwd_args *a, const unit *u, int64_t tok,
                           const rp_real *rope, rp_real *out) {
  const int h = a->h, w = u->w, group = a->H / a->Hk;
  const int64_t ldq = (int64_t)a->H * h;
  for (int j = 0; j < group; j++) {
    const int64_t q = (int64_t)u->head * group * h + (int64_t)j * w;
    rotate_heads(out, rd(a->dq, tok * ldq + q), rope, u->heads, h, -1);
    store(a->dp, tok * a->ldp + ldq + q, out, w);
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

/* One token forward: k, v and g at `to` from the states `before` (which may be `to`). */
static void gate_again(const rp_gate_bwd_args *a, const unit *u, int32_t t, const rp_real *before,
                       rp_real *to, rp_real *in) {
  const int64_t hp = u->pitch, p = (u->row->tok + t) * a->ldp + (int64_t)u->head * a->h;
  const columns col = columns_of(a->H, a->Hk, a->h);
  rp_real *k = to, *v = to + hp, *g = to + 2 * hp;
  load(g, a->p, p + col.g, u->w);
  sigmoids(g, u->w);
  if (to != before) memcpy(to, before, (size_t)(2 * hp) * sizeof(rp_real));
  load(in, a->p, p + col.k, u->w);
  scan(k, g, in, u->w);
  load(in, a->p, p + col.x, u->w);
  scan(v, g, in, u->w);
}

/* The states before each chunk. `state` has room for k, v and the gate. */
static void starts_of(const rp_gate_bwd_args *a, const unit *u, rp_real *starts, rp_real *state,
                      rp_real *in) {
  const int64_t hp = u->pitch, last = (chunks_of(u->row->n) - 1) * CHUNK;
  memset(state, 0, (size_t)(2 * hp) * sizeof(rp_real));
  for (int32_t t = 0; t <= last; t++) {
    if (t % CHUNK == 0)
      memcpy(starts + t / CHUNK * 2 * hp, state, (size_t)(2 * hp) * sizeof(rp_real));
    if (t < last) gate_again(a, u, t, state, state, in);
  }
}

/* The rows of a thread. */
typedef struct {
  rp_real *rk, *rv, *in, *out, *dg;
} bwd_rows;

/* now, before: k, v (and the gate) after and before token t. */
static void scans_bwd(const rp_gate_bwd_args *a, const unit *u, int64_t p, const rp_real *now,
                      const rp_real *before, const rp_real *dv, const bwd_rows *r) {
  const int w = u->w;
  const int64_t hp = u->pitch;
  const columns col = columns_of(a->H, a->Hk, a->h);
  const rp_real *g = now + 2 * hp;
  for (int i = 0; i < w; i++) r->rk[i] += r->out[i];
  for (int i = 0; i < w; i++) r->rv[i] += dv[i];
  memset(r->dg, 0, (size_t)w * sizeof(rp_real));
  load(r->in, a->p, p + col.k, w);
  scan_bwd(r->rk, g, before, r->in, r->out, r->dg, w);
  store(a->dp, p + col.k, r->out, w);
  load(r->in, a->p, p + col.x, w);
  scan_bwd(r->rv, g, before + hp, r->in, r->out, r->dg, w);
  store(a->dp, p + col.x, r->out, w);
  for (int i = 0; i < w; i++) r->dg[i] *= g[i] * (1 - g[i]);
  store(a->dp, p + col.g, r->dg, w);
}

static void gate_bwd_unit(const rp_gate_bwd_args *a, const unit *u, rp_real *scratch) {
  const rp_row *row = u->row;
  const int64_t hp = u->pitch, ldk = (int64_t)a->Hk * a->h, at = (int64_t)u->head * a->h;
  const columns col = columns_of(a->H, a->Hk, a->h);
  const bwd_rows r = {scratch, scratch + hp, scratch + 2 * hp, scratch + 3 * hp, scratch + 4 * hp};
  rp_real *kept = scratch + BWD_ROWS * hp, *starts = kept + (a->re ? 3 * CHUNK * hp : 0);
  memset(r.rk, 0, (size_t)(2 * hp) * sizeof(rp_real));
  if (a->re) starts_of(a, u, starts, kept, r.in);
  for (int32_t t = row->n - 1; t >= 0; t--) {
    const int64_t tok = row->tok + t, p = tok * a->ldp + at;
    const rp_real *rope = rope_at(a->rope, row->pos + t, a->h);
    const rp_real *dk = rd(a->dk, tok * ldk + at), *dv = rd(a->dv, tok * ldk + at);
    const int32_t first = t / CHUNK * CHUNK, i = t - first;
    const rp_real *start = starts + t / CHUNK * 2 * hp;
    if (a->re && (t == row->n - 1 || i == CHUNK - 1))
      for (int32_t j = 0; j <= i; j++)
        gate_again(a, u, first + j, j ? kept + 3 * hp * (j - 1) : start, kept + 3 * hp * j, r.in);
    gate_bwd_query(a, u, tok, rope, r.out);
    rotate_heads(r.out, dk, rope, u->heads, a->h, -1);
    if (a->re) {
      scans_bwd(a, u, p, kept + 3 * hp * i, i ? kept + 3 * hp * (i - 1) : start, dv, &r);
    } else {
      store(a->dp, p + col.k, r.out, u->w);
      store(a->dp, p + col.x, dv, u->w);
    }
  }
}

void RP_DRIVER(gate_bwd)(rp_cpu_ctx *c, const void *args) {
  const rp_gate_bwd_args *a = args;
  const bool ok = is_compute(a->p) && a->p.dtype == a->dp.dtype && is_real(a->dq) &&
                  is_real(a->dk) && is_real(a->dv);
  const rp_row *row = rows_of(c, &a->rows, &(rp_kv){0}, "gate_bwd");
  if (!row || !dtypes(c, ok, "gate_bwd")) return;
  const int each = heads_of(&a->rows, a->Hk, a->h, c->threads);
  const int64_t units = units_of(&a->rows, a->Hk, each);
  const size_t reals = bwd_reals(a);
#pragma omp parallel for num_threads(c->threads) schedule(static)
  for (int64_t i = 0; i < units; i++) {
    const unit u = unit_at(row, a->Hk, a->h, each, i);
    gate_bwd_unit(a, &u, (rp_real *)c->scratch + (size_t)omp_get_thread_num() * reals);
  }
}
