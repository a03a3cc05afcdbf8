#include "ops/cpu/kern/tile.h"

/* Attention over key segments. Unit of work: (row, key-value head, tile of TILE queries), each with
 * its own output, over KEYS keys at a time. Scores lie turned, s[key][query]: keys are read as they
 * come (no turning of K or V), and the softmax runs across queries, one lane each. A tile of keys
 * meets the queries that see it and no others, so that tiles may be wide. */
enum { TILE = 128, KEYS = 64, LDT = TILE + RP_LINE };

typedef struct {
  rp_real *q;               /* [TILE][ld], scaled */
  rp_real *qt;              /* [hp][LDT] */
  rp_real *k;               /* [TILE][ld]; KEYS of them but in own_key */
  rp_real *v;               /* [TILE][ld] */
  rp_real *s;               /* [KEYS][LDT], key by query */
  rp_real *o;               /* [TILE][ld] */
  rp_real *max, *sum, *fix; /* [TILE] */
} work;

static size_t work_reals(int h) {
  return 4 * TILE * (size_t)pitch_of(h) + (round_up((size_t)h, RP_LINE) + KEYS) * LDT + 3 * TILE;
}
static work work_at(uint8_t *scratch, int thread, int h) {
  const size_t rows = TILE * (size_t)pitch_of(h);
  rp_real *p = (rp_real *)scratch + (size_t)thread * work_reals(h);
  work w = {.q = p, .k = p + rows, .v = p + 2 * rows, .o = p + 3 * rows, .qt = p + 4 * rows};
  w.s = w.qt + round_up((size_t)h, RP_LINE) * LDT;
  w.max = w.s + KEYS * LDT;
  w.sum = w.max + TILE;
  w.fix = w.sum + TILE;
  return w;
}
size_t RP_SCRATCH(attend)(const rp_cpu_ctx *c, const void *args) {
  const rp_attend_args *a = args;
  const size_t tiles = (size_t)c->threads * work_reals(a->h) * sizeof(rp_real);
  const size_t ones = RP_LEVEL_NAME(rp_attend_one_scratch)(c, a);
  return tiles > ones ? tiles : ones;
}

/* The scores that queries [from, to) do not see, for a key outside [t - far, t - near], become -inf. */
static void mask(rp_real *s, const rp_seg *g, int32_t first, int count, int32_t t0, int from,
                 int to) {
  for (int i = 0; i < count; i++) {
    const int64_t key = g->pos + (int64_t)(first + i) * g->step;
    const int64_t low = key + g->near - t0, high = key + g->far - t0;
    rp_real *row = s + i * LDT;
    for (int q = from; q < to; q++) row[q] = q < low || q > high ? -(rp_real)INFINITY : row[q];
  }
}

/* Online softmax: s[count][nq] becomes exp(s - max) under the new maximum, fix the factor of what
 * was summed under the old one. For the queries from `from` on. */
static void soften(const work *w, int count, int from, int nq) {
  rp_real *restrict fix = w->fix + from, *restrict max = w->max + from,
                    *restrict sum = w->sum + from;
  for (int q = 0; q < nq; q++) fix[q] = max[q];
  for (int i = 0; i < count; i++) {
    const rp_real *restrict s = w->s + i * LDT + from;
    for (int q = 0; q < nq; q++) max[q] = s[q] > max[q] ? s[q] : max[q];
  }
  for (int q = 0; q < nq; q++) fix[q] = exp_below(fix[q] - max[q]);
  for (int q = 0; q < nq; q++) sum[q] *= fix[q];
  for (int i = 0; i < count; i++) {
    rp_real *restrict s = w->s + i * LDT + from;
    for (int q = 0; q < nq; q++) {
      const rp_real p = exp_below(s[q] - max[q]);
      s[q] = p;
      sum[q] += p;
    }
  }
}

typedef struct {
  const rp_attend_args *a;
  rp_row row;
  int g, head; /* key-value head, query head */
  int32_t t0;  /* position of the tile's first query */
  int nq, np;  /* its queries; rounded up to lines */
  int hp, ld;  /* h rounded up to lines; of a row in the work */
} job;

/* Keys that lie at even distances, and their values. */
typedef struct {
  rp_tensor k, v;
  int64_t at, value, ld; /* elements: the first key and value; from one to the next */
  int count;
} run;

/* The run that begins with entry e of a segment, of at most `most` keys. */
static run run_of(const job *j, const rp_seg *g, int32_t e, int most) {
  const rp_attend_args *a = j->a;
  const int h = a->h;
  const int32_t slot = g->slot + e * g->slot_step;
  if (g->src == RP_SRC_NEW) {
    const int64_t ld = (int64_t)a->Hk * h, at = (j->row.tok + slot) * ld + (int64_t)j->g * h;
    return (run){a->k, a->v, at, at, ld * g->slot_step, most};
  }
  const int32_t *table =
      rp_cell_table(&a->kv, j->row.cell, a->Hk, h, sizeof(rp_real), j->g, g->src);
  const int64_t at = rp_kv_entry(table[slot / RP_KV_BLOCK], slot, h);
  const int count = (RP_KV_BLOCK - slot % RP_KV_BLOCK + g->slot_step - 1) / g->slot_step;
  return (run){.k = a->kv.pool,
               .v = a->kv.pool,
               .at = at,
               .value = at + (int64_t)RP_KV_BLOCK * h,
               .ld = (int64_t)h * g->slot_step,
               .count = count < most ? count : most};
}

/* `count` keys and values of a segment from its entry `first` on, to w->k and w->v. */
static void pack_keys(const job *j, const work *w, const rp_seg *g, int32_t first, int count) {
  const int h = j->a->h, ld = j->ld;
  for (int i = 0; i < count;) {
    const run r = run_of(j, g, first + i, count - i);
    pack_rows(w->k + i * ld, r.k, r.at, r.ld, r.count, h, ld);
    pack_rows(w->v + i * ld, r.v, r.value, r.ld, r.count, h, ld);
    i += r.count;
  }
}
static void ask_keys(const job *j, const rp_seg *g, int32_t first) {
  const int count = g->count - first < KEYS ? g->count - first : KEYS;
  for (int i = 0; i < count;) {
    const run r = run_of(j, g, first + i, count - i);
    ask_rows(r.k, r.at, r.ld, r.count, j->a->h);
    ask_rows(r.v, r.value, r.ld, r.count, j->a->h);
    i += r.count;
  }
}

/* Each query's own key: one score a query instead of a tile of them. */
static void own_key(const job *j, const work *w, const rp_seg *g) {
  const int from = g->pos - j->t0;
  pack_keys(j, w, g, 0, g->count);
  for (int q = 0; q < j->np; q++) w->s[q] = -(rp_real)INFINITY;
  for (int i = 0; i < g->count; i++)
    w->s[from + i] = dot(w->q + (from + i) * j->ld, w->k + i * j->ld, j->hp);
  soften(w, 1, 0, j->np);
  for (int q = 0; q < j->nq; q++) {
    rp_real *restrict o = w->o + q * j->ld;
    const rp_real *restrict v = w->v + (q - from) * j->ld;
    const rp_real f = w->fix[q], p = w->s[q];
    if (q < from)
      for (int c = 0; c < j->hp; c++) o[c] *= f;
    else
      for (int c = 0; c < j->hp; c++) o[c] = o[c] * f + p * v[c];
  }
}

static void segment(const job *j, const work *w, const rp_seg *g) {
  const int hp = j->hp, ld = j->ld;
  for (int32_t first = 0; first < g->count; first += KEYS) {
    const int count = g->count - first < KEYS ? g->count - first : KEYS;
    const tile_span see = queries_of(g, first, count, j->t0, j->nq);
    const int from = see.from, n = see.to - from;
    if (n <= 0) continue;
    const int lines = (int)round_up((size_t)n, RP_LINE);
    pack_keys(j, w, g, first, count);
    ask_keys(j, g, first + KEYS);
    tile_mm(count, lines, hp, w->k, ld, 1, w->qt + from, LDT, w->s + from, LDT, false);
    if (!see.whole) mask(w->s, g, first, count, j->t0, from, from + lines);
    soften(w, count, from, lines);
    for (int q = from; q < see.to; q++) {
      rp_real *restrict o = w->o + q * ld;
      const rp_real f = w->fix[q];
      if (f != 1)
        for (int c = 0; c < hp; c++) o[c] *= f;
    }
    tile_mm(n, hp, count, w->s + from, 1, LDT, w->v, ld, w->o + from * ld, ld, true);
  }
}

static void attend_tile(const job *j, const work *w, rp_pat pat) {
  const rp_attend_args *a = j->a;
  const int64_t all = (int64_t)a->H * a->h, tok = j->row.tok + j->t0 - j->row.pos;
  const int ld = j->ld;
  rp_seg segs[RP_SEGS_MAX];
  const rp_past past = {j->row.pos, j->row.top, a->kv.margin};
  const int n = rp_segs(segs, pat, past, j->t0, j->t0 + j->nq);
  pack_rows(w->q, a->q, tok * all + (int64_t)j->head * a->h, all, j->nq, a->h, ld);
  for (int i = 0; i < j->nq * ld; i++) w->q[i] *= (rp_real)a->scale;
  turn(w->qt, w->q, ld, j->nq, j->hp, LDT);
  memset(w->o, 0, (size_t)(j->nq * ld) * sizeof(rp_real));
  for (int q = 0; q < TILE; q++) {
    w->max[q] = (rp_real)-1e30; /* finite, so that masked scores give 0 and not NaN */
    w->sum[q] = 0;
  }
  for (int i = 0; i < n; i++) {
    if (segs[i].far == 0)
      own_key(j, w, &segs[i]);
    else
      segment(j, w, &segs[i]);
  }
  for (int q = 0; q < j->nq; q++) {
    rp_real *o = w->o + q * ld;
    const rp_real r = 1 / w->sum[q];
    for (int c = 0; c < a->h; c++) o[c] *= r;
    store(a->out, (tok + q) * all + (int64_t)j->head * a->h, o, a->h);
    if (a->lse.at)
      ((rp_real *)a->lse.at)[(tok + q) * a->H + j->head] =
          w->max[q] + (rp_real)log((double)w->sum[q]);
  }
}

void RP_DRIVER(attend)(rp_cpu_ctx *c, const void *args) {
  const rp_attend_args *a = args;
  const bool ok = is_compute(a->q) && a->q.dtype == a->k.dtype && a->q.dtype == a->v.dtype &&
                  a->q.dtype == a->out.dtype;
  const rp_row *row = rows_of(c, &a->rows, &a->kv, "attend");
  if (!row || !dtypes(c, ok, "attend")) return;
  RP_LEVEL_NAME(rp_attend_one)(c, a, row);
  if (a->rows.longest == 1) return;
  const int tiles = (a->rows.longest + TILE - 1) / TILE;
  const int64_t units = (int64_t)a->rows.count * a->Hk * tiles;
  /* The tiles of a head follow each other, so that its keys stay in the cache, long ones first; who
   * runs which unit changes nothing. */
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
  for (int64_t u = 0; u < units; u++) {
    const int64_t i = u / tiles;
    job j = {.a = a, .row = row[i / a->Hk], .g = (int)(i % a->Hk)};
    const int32_t from = (tiles - 1 - (int32_t)(u % tiles)) * TILE;
    if (from >= j.row.n || j.row.n == 1) continue;
    j.t0 = j.row.pos + from;
    j.nq = j.row.n - from < TILE ? j.row.n - from : TILE;
    j.np = (int)round_up((size_t)j.nq, RP_LINE);
    j.hp = (int)round_up((size_t)a->h, RP_LINE);
    j.ld = pitch_of(a->h);
    const work w = work_at(c->scratch, omp_get_thread_num(), a->h);
    const rp_pat pat = ((const rp_pat *)a->pats.at)[(int64_t)j.row.plan * a->pats_stride + j.g];
    for (int m = 0; m < a->H / a->Hk; m++) {
      j.head = j.g * (a->H / a->Hk) + m;
      attend_tile(&j, &w, pat);
    }
  }
}
