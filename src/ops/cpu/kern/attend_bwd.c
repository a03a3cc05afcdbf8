#include "ops/cpu/kern/tile.h"

/* Backward of attention. Unit of work: (row, key-value head), which owns its columns of dk and dv
 * and those of its query heads in dq, so that every sum has one order. Probabilities are made again
 * from lse; as in the forward, scores lie turned, [key][query], and keys are packed once for the tiles
 * of queries that meet them, which add up their gradients before these go where they belong. */
enum {
  TILE = PAIRS ? 128 : 64,
  KEYS = PAIRS ? 128 : 64,
  TILES = PAIRS ? 2 : 4,
  MANY = 512,
  LDT = TILE + RP_LINE
};

typedef struct {
  int32_t t0;            /* position of its first query */
  int nq, np;            /* its queries; rounded up to lines */
  rp_real *q;            /* [TILE in slots][ld] across queries */
  rp_real *qt;           /* [hp in slots][LDT] */
  rp_real *d;            /* [TILE in slots][ld] across queries, dout */
  rp_real *dt;           /* [hp in slots][LDT] */
  rp_real *dq;           /* [TILE][ld] */
  rp_real *lse, *delta;  /* [TILE]; lse to the exponent of 2 */
  rp_real *query, *dout; /* [TILE][ld] reals: q and d, or while a tile is opened the work's */
} tile;
typedef struct {
  rp_real *k, *v;   /* [KEYS][lk] along h; or [TILE][ld] reals, each query's own */
  rp_real *across;  /* [KEYS in slots][ld]: k across keys; k itself where slots are reals */
  rp_real *dk, *dv; /* [KEYS][ld] */
  rp_real *p;       /* [KEYS][LDT], key by query: probabilities */
  rp_real *s;       /* [KEYS][LDT], key by query: dout v, then the scores' gradients */
  rp_real *st; /* [KEYS in slots][LDT]: those of two keys side by side; s where slots are reals */
  tile tile[TILES];
} work;

static size_t tile_reals(int h) {
  const size_t turned = RP_SLOTS(round_up((size_t)h, RP_LINE)) * LDT;
  return (TILE + 2 * RP_SLOTS(TILE)) * (size_t)pitch_of(h) + 2 * turned + 2 * TILE;
}
/* What only pairs take: query, dout; across, st. */
static size_t pairs_reals(int h) {
  return PAIRS ? (2 * TILE + KEYS / 2) * (size_t)pitch_of(h) + KEYS / 2 * LDT : 0;
}
static size_t work_reals(int h) {
  return 2 * (TILE + KEYS) * (size_t)pitch_of(h) + 2 * KEYS * LDT + pairs_reals(h) +
         TILES * tile_reals(h);
}
static work work_at(uint8_t *scratch, int thread, int h) {
  const size_t ld = (size_t)pitch_of(h), n = TILE * ld, half = RP_SLOTS(TILE) * ld;
  const size_t turned = RP_SLOTS(round_up((size_t)h, RP_LINE)) * LDT;
  rp_real *p = (rp_real *)scratch + (size_t)thread * work_reals(h);
  work w = {.k = p, .v = p + n, .dk = p + 2 * n, .dv = p + 2 * n + KEYS * ld};
  w.p = w.dv + KEYS * ld;
  w.s = w.p + KEYS * LDT;
  rp_real *pairs = w.s + KEYS * LDT;
  w.across = PAIRS ? pairs + 2 * n : w.k;
  w.st = PAIRS ? w.across + KEYS / 2 * ld : w.s;
  p = pairs + pairs_reals(h);
  for (int i = 0; i < TILES; i++, p += tile_reals(h)) {
    tile *t = &w.tile[i];
    *t = (tile){.dq = p, .q = p + n, .d = p + n + half, .qt = p + n + 2 * half};
    t->dt = t->qt + turned;
    t->lse = t->dt + turned;
    t->delta = t->lse + TILE;
    t->query = PAIRS ? pairs : t->q;
    t->dout = PAIRS ? pairs + n : t->d;
  }
  return w;
}
size_t RP_SCRATCH(attend_bwd)(const rp_cpu_ctx *c, const void *args) {
  const rp_attend_bwd_args *a = args;
  if (PAIRS && a->q.dtype != RP_BF16) return RP_BASE_NAME(rp_attend_bwd_scratch)(c, a);
  return (size_t)c->threads * work_reals(a->h) * sizeof(rp_real);
}

typedef struct {
  const rp_attend_bwd_args *a;
  rp_row row;
  int g, head;           /* key-value head, query head */
  int hp, ld;            /* h rounded up to lines; of a row in the work */
  int lk;                /* of a row along h in it */
  rp_real scale, scale2; /* of scores: to the exponent of e, of 2 */
} job;

/* Probabilities and scaled score gradients of s = scores, [count][n from query `begin` on], in place: p
 * and s of the work. */
static void grads(const job *j, const work *w, const tile *t, const rp_seg *g, int32_t first,
                  int count, int begin, int n) {
  const rp_real *restrict lse = t->lse + begin, *restrict delta = t->delta + begin;
  const rp_real scale = j->scale, scale2 = j->scale2;
  for (int i = 0; i < count; i++) {
    const int64_t key = g->pos + (int64_t)(first + i) * g->step - t->t0 - begin;
    const int64_t low = key + g->near, high = key + g->far;
    const int from = low > 0 ? (int)(low < n ? low : n) : 0;
    const int to = high < n ? (int)(high + 1) : n;
    rp_real *restrict p = w->p + i * LDT + begin, *restrict s = w->s + i * LDT + begin;
    for (int q = 0; q < n; q++) p[q] = exp2_below(p[q] * scale2 - lse[q]);
    for (int q = 0; q < from; q++) p[q] = 0;
    for (int q = to; q < n; q++) p[q] = 0;
    for (int q = 0; q < n; q++) s[q] = p[q] * ((s[q] - delta[q]) * scale);
  }
}
/* Those as tile_mm's left sides: in pairs, of two queries in p and s, of two keys in st. */
static void weigh(const work *w, int count, int begin, int n) {
#if defined(__AVX512BF16__)
  rp_real *p = w->p + begin, *s = w->s + begin, *st = w->st + begin;
  if (count % 2) memset(s + count * LDT, 0, (size_t)n * sizeof *s);
  for (int i = 0; i < count; i += 2) pair_rows(st + i / 2 * LDT, s + i * LDT, s + (i + 1) * LDT, n);
  for (int i = 0; i < count; i++) {
    narrow_row(p + i * LDT, p + i * LDT, n);
    narrow_row(s + i * LDT, s + i * LDT, n);
  }
#else
  (void)w, (void)count, (void)begin, (void)n;
#endif
}

/* The next keys, values and their gradients. */
static void ask_keys(const rp_attend_bwd_args *a, int64_t at, int64_t ld, int left) {
  const int count = left < KEYS ? left : KEYS;
  ask_rows(a->k, at, ld, count, a->h);
  ask_rows(a->v, at, ld, count, a->h);
  ask_rows(a->dk, at, ld, count, a->h);
  ask_rows(a->dv, at, ld, count, a->h);
}

/* to[count][h], rows `ld` elements apart, += from. */
static void add_rows(const job *j, rp_real *to, int64_t ld, const rp_real *from, int count) {
  for (int i = 0; i < count; i++) {
    rp_real *restrict y = to + i * ld;
    const rp_real *restrict x = from + i * j->ld;
    for (int c = 0; c < j->a->h; c++) y[c] += x[c];
  }
}

/* A tile of queries and `count` of the packed keys, from the i-th on: entries first, first + 1, ... of
 * their segment. In pairs i is even: what that adds is masked. Keys that not all see are met in pieces, each by those who may. */
static void meet(const job *j, const work *w, const tile *t, const rp_seg *g, int32_t first, int i,
                 int count) {
  const int hp = j->hp, ld = j->ld, lk = j->lk, slots = RP_SLOTS(hp);
  const tile_span see = queries_of(g, first, count, t->t0, t->nq);
  const int from = see.from, n = see.to - from, lines = (int)round_up((size_t)n, RP_LINE);
  if (!see.whole && count > PIECE && g->step * PIECE <= TILE) {
    const int half = (int)round_up((size_t)count / 2, PIECE);
    meet(j, w, t, g, first, i, half);
    meet(j, w, t, g, first + half, i + half, count - half);
    return;
  }
  rp_real *p = w->p + from, *s = w->s + from;
  tile_mm(count, lines, slots, w->k + i * lk, lk, 1, t->qt + from, LDT, p, LDT, false);
  tile_mm(count, lines, slots, w->v + i * lk, lk, 1, t->dt + from, LDT, s, LDT, false);
  grads(j, w, t, g, first, count, from, lines);
  weigh(w, count, from, lines);
  const rp_real *d = t->d + RP_SLOTS(from) * ld, *q = t->q + RP_SLOTS(from) * ld;
  tile_mm(count, hp, RP_SLOTS(n), p, LDT, 1, d, ld, w->dv + i * ld, ld, true);
  tile_mm(count, hp, RP_SLOTS(n), s, LDT, 1, q, ld, w->dk + i * ld, ld, true);
  tile_mm(n, hp, RP_SLOTS(count), w->st + from, 1, LDT, w->across + RP_SLOTS(i) * ld, ld,
          t->dq + from * ld, ld, true);
}

static void segment(const job *j, const work *w, int tiles, const rp_seg *g) {
  const rp_attend_bwd_args *a = j->a;
  const int64_t all = (int64_t)a->Hk * a->h, step = all * g->step;
  const int64_t pos = j->row.tok + g->pos;
  for (int32_t first = 0; first < g->count; first += KEYS) {
    const int32_t end = g->count - first < KEYS ? g->count : first + KEYS;
    const int count = end - first;
    const int64_t at = (pos + (int64_t)first * g->step) * all + (int64_t)j->g * a->h;
    pack_along(w->k, a->k, at, step, count, a->h, j->lk);
    pack_along(w->v, a->v, at, step, count, a->h, j->lk);
    if (PAIRS) pack_across(w->across, 0, a->k, at, step, count, a->h, j->ld);
    ask_keys(a, at + KEYS * step, step, g->count - end);
    memset(w->dk, 0, (size_t)(count * j->ld) * sizeof(rp_real));
    memset(w->dv, 0, (size_t)(count * j->ld) * sizeof(rp_real));
    for (int i = 0; i < tiles; i++) {
      const tile *t = &w->tile[i];
      const key_span keys = keys_of(g, t->t0, t->nq);
      const int32_t from = (keys.from > first ? keys.from : first) & ~PAIRS;
      const int32_t to = keys.to < end ? keys.to : end;
      if (from < to) meet(j, w, t, g, from, from - first, to - from);
    }
    add_rows(j, wr(a->dk, at), step, w->dk, count);
    add_rows(j, wr(a->dv, at), step, w->dv, count);
  }
}

/* Each query's own key: elementwise. */
static void own_keys(const job *j, const work *w, const tile *t, const rp_seg *g) {
  const rp_attend_bwd_args *a = j->a;
  const int64_t all = (int64_t)a->Hk * a->h;
  const int from = g->pos > t->t0 ? g->pos - t->t0 : 0;
  const int end = g->pos + g->count - t->t0, to = end < t->nq ? end : t->nq, count = to - from;
  if (count <= 0) return;
  const int64_t at = (j->row.tok + t->t0 + from) * all + (int64_t)j->g * a->h;
  pack_rows(w->k, a->k, at, all, count, a->h, j->ld);
  pack_rows(w->v, a->v, at, all, count, a->h, j->ld);
  for (int i = 0; i < count; i++) {
    const int q = from + i;
    const rp_real *restrict k = w->k + i * j->ld, *restrict d = t->dout + q * j->ld;
    const rp_real *restrict query = t->query + q * j->ld;
    rp_real *restrict dq = t->dq + q * j->ld;
    rp_real *restrict dk = wr(a->dk, at + i * all), *restrict dv = wr(a->dv, at + i * all);
    const rp_real p = exp2_below(dot(query, k, j->hp) * j->scale2 - t->lse[q]);
    const rp_real s = p * ((dot(d, w->v + i * j->ld, j->hp) - t->delta[q]) * j->scale);
    for (int c = 0; c < j->hp; c++) dq[c] += s * k[c];
    for (int c = 0; c < a->h; c++) dk[c] += s * query[c];
    for (int c = 0; c < a->h; c++) dv[c] += p * d[c];
  }
}

/* Element of t's first query, and those from one query to the next. */
static int64_t queries_at(const job *j, const tile *t, int64_t *ld) {
  *ld = (int64_t)j->a->H * j->a->h;
  return (j->row.tok + t->t0) * *ld + (int64_t)j->head * j->a->h;
}

/* Rows of a tile, as reals, as the sides of its products: across queries, which reals are already, and
 * turned. `free` has room for as many rows. */
static void sides(const job *j, const tile *t, const rp_real *rows, rp_real *across,
                  rp_real *turned, rp_real *free) {
#if defined(__AVX512BF16__)
  for (int q = 0; q < t->nq; q += 2)
    pair_rows(across + q / 2 * j->ld, rows + q * j->ld, rows + (q + 1) * j->ld, j->hp);
  for (int q = 0; q < t->nq; q++) narrow_row(free + q * j->lk, rows + q * j->ld, j->hp);
  turn(turned, free, j->lk, t->nq, j->hp / 2, LDT);
#else
  (void)across, (void)free;
  turn(turned, rows, j->ld, t->nq, j->hp, LDT);
#endif
}

static void open_tile(const job *j, const work *w, const tile *t) {
  const rp_attend_bwd_args *a = j->a;
  const int ld = j->ld;
  int64_t all;
  const int64_t at = queries_at(j, t, &all);
  if (PAIRS && t->nq % 2) { /* the last pair's second row */
    memset(t->query + t->nq * ld, 0, (size_t)ld * sizeof(rp_real));
    memset(t->dout + t->nq * ld, 0, (size_t)ld * sizeof(rp_real));
  }
  pack_rows(t->query, a->q, at, all, t->nq, a->h, ld);
  pack_rows(t->dout, a->dout, at, all, t->nq, a->h, ld);
  if (PAIRS)
    round_as(RP_BF16, t->dout, (int64_t)t->nq * ld); /* so that dout v and delta still cancel */
  sides(j, t, t->query, t->q, t->qt, w->k);
  sides(j, t, t->dout, t->d, t->dt, w->k);
  pack_rows(t->dq, a->out, at, all, t->nq, a->h, ld); /* out, until delta is made */
  for (int q = 0; q < TILE; q++) t->lse[q] = t->delta[q] = 0;
  for (int q = 0; q < t->nq; q++) {
    const rp_real lse = ((const rp_real *)a->lse.at)[(j->row.tok + t->t0 + q) * a->H + j->head];
    t->lse[q] = lse * (rp_real)1.4426950408889634;
    t->delta[q] = dot(t->dout + q * ld, t->dq + q * ld, j->hp);
  }
  memset(t->dq, 0, (size_t)(t->nq * ld) * sizeof(rp_real));
}
static void close_tile(const job *j, const tile *t) {
  int64_t all;
  const int64_t at = queries_at(j, t, &all);
  for (int q = 0; q < t->nq; q++)
    memcpy(wr(j->a->dq, at + q * all), t->dq + q * j->ld, (size_t)j->a->h * sizeof(rp_real));
}

/* Queries [from, to) of the row, at most TILES tiles. */
static void attend_bwd_tiles(const job *j, work *w, rp_pat pat, int32_t from, int32_t to) {
  rp_seg segs[RP_SEGS_MAX];
  const int n = rp_segs(segs, pat, (rp_past){0}, from, to);
  int tiles = 0;
  for (int32_t t0 = from; t0 < to; t0 += TILE, tiles++) {
    tile *t = &w->tile[tiles];
    t->t0 = t0;
    t->nq = to - t0 < TILE ? to - t0 : TILE;
    t->np = (int)round_up((size_t)t->nq, RP_LINE);
    open_tile(j, w, t);
    for (int i = 0; i < n; i++)
      if (segs[i].far == 0) own_keys(j, w, t, &segs[i]);
  }
  for (int i = 0; i < n; i++)
    if (segs[i].far != 0) segment(j, w, tiles, &segs[i]);
  for (int i = 0; i < tiles; i++) close_tile(j, &w->tile[i]);
}

static void attend_bwd_unit(job *j, work *w) {
  const rp_attend_bwd_args *a = j->a;
  const rp_pat pat = ((const rp_pat *)a->pats.at)[(int64_t)j->row.plan * a->pats_stride + j->g];
  const int64_t ld = (int64_t)a->Hk * a->h;
  for (int32_t t = 0; t < j->row.n; t++) {
    const int64_t at = (j->row.tok + t) * ld + (int64_t)j->g * a->h;
    memset(wr(a->dk, at), 0, (size_t)a->h * sizeof(rp_real));
    memset(wr(a->dv, at), 0, (size_t)a->h * sizeof(rp_real));
  }
  for (int32_t from = 0, step; from < j->row.n; from += step) {
    const int32_t most = j->row.n - from < TILES * TILE ? j->row.n : from + TILES * TILE;
    step = keys_met(pat, (rp_past){0}, from, most) < MANY ? TILE : TILES * TILE;
    const int32_t to = j->row.n - from < step ? j->row.n : from + step;
    for (int m = 0; m < a->H / a->Hk; m++) {
      j->head = j->g * (a->H / a->Hk) + m;
      attend_bwd_tiles(j, w, pat, from, to);
    }
  }
}

void RP_DRIVER(attend_bwd)(rp_cpu_ctx *c, const void *args) {
  const rp_attend_bwd_args *a = args;
  if (PAIRS && a->q.dtype != RP_BF16) {
    RP_BASE_NAME(rp_attend_bwd)(c, a);
    return;
  }
  const bool ok = is_compute(a->q) && a->q.dtype == a->k.dtype && a->q.dtype == a->v.dtype &&
                  a->q.dtype == a->out.dtype && is_real(a->dout) && is_real(a->dq) &&
                  is_real(a->dk) && is_real(a->dv);
  const rp_row *row = rows_of(c, &a->rows, &(rp_kv){0}, "attend_bwd");
  if (!row || !dtypes(c, ok, "attend_bwd")) return;
  const int64_t units = (int64_t)a->rows.count * a->Hk;
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
  for (int64_t u = 0; u < units; u++) {
    job j = {.a = a, .row = row[u / a->Hk], .g = (int)(u % a->Hk)};
    j.hp = (int)round_up((size_t)a->h, RP_LINE);
    j.ld = pitch_of(a->h);
    j.lk = pitch_of(RP_SLOTS(a->h));
    j.scale = (rp_real)a->scale;
    j.scale2 = (rp_real)(a->scale * 1.4426950408889634);
    work w = work_at(c->scratch, omp_get_thread_num(), a->h);
    attend_bwd_unit(&j, &w);
  }
}
