#include "ops/cpu/kern/tile.h"

/* Attention over key segments. Unit of work: (row, key-value head, TILES tiles of TILE queries), each
 * with its own output, over KEYS keys at a time, which are packed once for all tiles of the unit: rows
 * of a head lie a page or more apart, and looking each up costs more than reading it. Scores lie
 * turned, s[key][query]: keys are read as they come (no turning of K or V), and the softmax runs across
 * queries, one lane each. A tile meets the keys that any of its queries sees, and of the queries those
 * that see any of the keys, so that tiles may be wide. */
enum { TILE = 128, KEYS = PAIRS ? 128 : 64, TILES = 4, MANY = 1024, LDT = TILE + RP_LINE };

typedef struct {
  int32_t t0;         /* position of its first query */
  int nq;             /* its queries */
  rp_real *qt;        /* [hp in slots][LDT] */
  rp_real *o;         /* [TILE][ld] */
  rp_real *max, *sum; /* [TILE]: of the scores before they are scaled; of exp */
} tile;
typedef struct {
  rp_real *q;    /* [TILE][ld], while a tile is opened */
  rp_real *k;    /* [KEYS][lk] along h */
  rp_real *v;    /* [KEYS in slots][ld] across keys */
  rp_real *s;    /* [KEYS][LDT], key by query */
  rp_real *fix;  /* [TILE] */
  rp_real scale; /* of scores, to the exponent of 2 */
  tile tile[TILES];
} work;

static size_t tile_reals(int h) {
  return TILE * (size_t)pitch_of(h) + RP_SLOTS(round_up((size_t)h, RP_LINE)) * LDT + 2 * TILE;
}
static size_t work_reals(int h) {
  return (TILE + 2 * KEYS) * (size_t)pitch_of(h) + KEYS * LDT + TILE + TILES * tile_reals(h);
}
static work work_at(uint8_t *scratch, int thread, int h) {
  const size_t ld = (size_t)pitch_of(h);
  rp_real *p = (rp_real *)scratch + (size_t)thread * work_reals(h);
  work w = {.q = p, .k = p + TILE * ld, .v = p + (TILE + KEYS) * ld};
  w.s = w.v + KEYS * ld;
  w.fix = w.s + KEYS * LDT;
  p = w.fix + TILE;
  for (int i = 0; i < TILES; i++, p += tile_reals(h)) {
    tile *t = &w.tile[i];
    *t = (tile){.o = p, .qt = p + TILE * ld};
    t->max = t->qt + RP_SLOTS(round_up((size_t)h, RP_LINE)) * LDT;
    t->sum = t->max + TILE;
  }
  return w;
}
size_t RP_SCRATCH(attend)(const rp_cpu_ctx *c, const void *args) {
  const rp_attend_args *a = args;
  if (PAIRS && a->q.dtype != RP_BF16) return RP_BASE_NAME(rp_attend_scratch)(c, a);
  const size_t tiles = (size_t)c->threads * work_reals(a->h) * sizeof(rp_real);
  const size_t ones = RP_BASE_NAME(rp_attend_one_scratch)(c, a);
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

/* Online softmax: scores s[count][nq] become exp(scale (s - max)) under the new maximum, fix the factor
 * of what was summed under the old one. For the queries from `from` on. */
static void soften(const work *w, const tile *t, int count, int from, int nq) {
  rp_real *restrict fix = w->fix + from, *restrict max = t->max + from,
                    *restrict sum = t->sum + from;
  const rp_real scale = w->scale;
  for (int q = 0; q < nq; q++) fix[q] = max[q];
  for (int i = 0; i < count; i++) {
    const rp_real *restrict s = w->s + i * LDT + from;
    for (int q = 0; q < nq; q++) max[q] = s[q] > max[q] ? s[q] : max[q];
  }
  for (int q = 0; q < nq; q++) fix[q] = exp2_below(scale * (fix[q] - max[q]));
  for (int q = 0; q < nq; q++) sum[q] *= fix[q];
  for (int i = 0; i < count; i++) {
    rp_real *restrict s = w->s + i * LDT + from;
    for (int q = 0; q < nq; q++) {
      const rp_real p = exp2_below(scale * (s[q] - max[q]));
      s[q] = p;
      sum[q] += p;
    }
  }
}
/* Those of tile_mm's left side: in pairs, those of two keys side by side. */
static void weigh(const work *w, int count, int from, int nq) {
#if defined(__AVX512BF16__)
  rp_real *s = w->s + from;
  if (count % 2) memset(s + count * LDT, 0, (size_t)nq * sizeof *s);
  for (int i = 0; i < count; i += 2) pair_rows(s + i / 2 * LDT, s + i * LDT, s + (i + 1) * LDT, nq);
#else
  (void)w, (void)count, (void)from, (void)nq;
#endif
}

typedef struct {
  const rp_attend_args *a;
  rp_row row;
  int g, head; /* key-value head, query head */
  int hp, ld;  /* h rounded up to lines; of a row in the work */
  int lk;      /* of a row of keys in it */
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
  const int h = j->a->h;
  for (int i = 0; i < count;) {
    const run r = run_of(j, g, first + i, count - i);
    pack_along(w->k + i * j->lk, r.k, r.at, r.ld, r.count, h, j->lk);
    pack_across(w->v, i, r.v, r.value, r.ld, r.count, h, j->ld);
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

/* Each query's own key: one score a query instead of a tile of them, in reals. */
static void own_keys(const job *j, const work *w, const tile *t, const rp_seg *g) {
  const rp_attend_args *a = j->a;
  const int ld = j->ld, h = a->h;
  const int from = g->pos > t->t0 ? g->pos - t->t0 : 0, end = g->pos + g->count - t->t0;
  const int64_t tok = j->row.tok + t->t0 - j->row.pos;
  if (PAIRS) /* else open_tile has left them so */
    pack_rows(w->q, a->q, (tok * a->H + j->head) * h, (int64_t)a->H * h, t->nq, h, ld);
  for (int first = from / RP_LINE * RP_LINE; first < t->nq; first += KEYS) {
    const int begin = first > from ? first : from, to = first + KEYS < t->nq ? first + KEYS : t->nq;
    const int lines = (int)round_up((size_t)(to - first), RP_LINE);
    const int count = (to < end ? to : end) - begin;
    if (count <= 0) return;
    const int64_t at = ((tok + begin) * a->Hk + j->g) * h, all = (int64_t)a->Hk * h;
    pack_rows(w->k, a->k, at, all, count, h, ld);
    pack_rows(w->v, a->v, at, all, count, h, ld);
    for (int q = first; q < first + lines; q++) w->s[q] = -(rp_real)INFINITY;
    for (int i = 0; i < count; i++)
      w->s[begin + i] = dot(w->q + (begin + i) * ld, w->k + i * ld, j->hp);
    soften(w, t, 1, first, lines);
    for (int i = 0; i < count; i++) {
      rp_real *restrict o = t->o + (begin + i) * ld;
      const rp_real *restrict v = w->v + i * ld;
      const rp_real f = w->fix[begin + i], p = w->s[begin + i];
      for (int c = 0; c < j->hp; c++) o[c] = o[c] * f + p * v[c];
    }
  }
}

/* A tile of queries and `count` of the packed keys, from the i-th on: entries first, first + 1, ... of
 * their segment. In pairs i is even: what that adds is masked. Keys that not all see are met in pieces, each by those who may. */
static void meet(const job *j, const work *w, const tile *t, const rp_seg *g, int32_t first, int i,
                 int count) {
  const int hp = j->hp, ld = j->ld, slots = RP_SLOTS(hp);
  const tile_span see = queries_of(g, first, count, t->t0, t->nq);
  const int from = see.from, n = see.to - from, lines = (int)round_up((size_t)n, RP_LINE);
  if (!see.whole && count > PIECE && g->step * PIECE <= TILE) {
    const int half = (int)round_up((size_t)count / 2, PIECE);
    meet(j, w, t, g, first, i, half);
    meet(j, w, t, g, first + half, i + half, count - half);
    return;
  }
  tile_mm(count, lines, slots, w->k + i * j->lk, j->lk, 1, t->qt + from, LDT, w->s + from, LDT,
          false);
  if (!see.whole) mask(w->s, g, first, count, t->t0, from, from + lines);
  soften(w, t, count, from, lines);
  weigh(w, count, from, lines);
  for (int q = from; q < see.to; q++) {
    rp_real *restrict o = t->o + q * ld;
    const rp_real f = w->fix[q];
    if (f != 1)
      for (int c = 0; c < hp; c++) o[c] *= f;
  }
  tile_mm(n, hp, RP_SLOTS(count), w->s + from, 1, LDT, w->v + RP_SLOTS(i) * ld, ld,
          t->o + from * ld, ld, true);
}

static void segment(const job *j, const work *w, int tiles, const rp_seg *g) {
  for (int32_t first = 0; first < g->count; first += KEYS) {
    const int32_t end = g->count - first < KEYS ? g->count : first + KEYS;
    pack_keys(j, w, g, first, end - first);
    ask_keys(j, g, end);
    for (int i = 0; i < tiles; i++) {
      const tile *t = &w->tile[i];
      const key_span keys = keys_of(g, t->t0, t->nq);
      const int32_t from = (keys.from > first ? keys.from : first) & ~PAIRS;
      const int32_t to = keys.to < end ? keys.to : end;
      if (from < to) meet(j, w, t, g, from, from - first, to - from);
    }
  }
}

static void open_tile(const job *j, const work *w, const tile *t) {
  const rp_attend_args *a = j->a;
  const int64_t all = (int64_t)a->H * a->h, tok = j->row.tok + t->t0 - j->row.pos;
  pack_along(w->q, a->q, tok * all + (int64_t)j->head * a->h, all, t->nq, a->h, j->lk);
  turn(t->qt, w->q, j->lk, t->nq, RP_SLOTS(j->hp), LDT);
  memset(t->o, 0, (size_t)(t->nq * j->ld) * sizeof(rp_real));
  for (int q = 0; q < TILE; q++) {
    t->max[q] = (rp_real)-1e30; /* finite, so that masked scores give 0 and not NaN */
    t->sum[q] = 0;
  }
}
static void close_tile(const job *j, const tile *t) {
  const rp_attend_args *a = j->a;
  const int64_t all = (int64_t)a->H * a->h, tok = j->row.tok + t->t0 - j->row.pos;
  for (int q = 0; q < t->nq; q++) {
    rp_real *o = t->o + q * j->ld;
    const rp_real r = 1 / t->sum[q];
    for (int c = 0; c < a->h; c++) o[c] *= r;
    store(a->out, (tok + q) * all + (int64_t)j->head * a->h, o, a->h);
    if (a->lse.at)
      ((rp_real *)a->lse.at)[(tok + q) * a->H + j->head] =
          t->max[q] * (rp_real)a->scale + (rp_real)log((double)t->sum[q]);
  }
}

/* Queries [from, to) of the row, at most TILES tiles. */
static void attend_tiles(const job *j, work *w, rp_pat pat, int32_t from, int32_t to) {
  const int32_t pos = j->row.pos;
  const rp_past past = {pos, j->row.top, j->a->kv.margin};
  rp_seg segs[RP_SEGS_MAX];
  const int n = rp_segs(segs, pat, past, pos + from, pos + to);
  int tiles = 0;
  for (int32_t t0 = from; t0 < to; t0 += TILE, tiles++) {
    tile *t = &w->tile[tiles];
    t->t0 = pos + t0;
    t->nq = to - t0 < TILE ? to - t0 : TILE;
    open_tile(j, w, t);
    for (int i = 0; i < n; i++)
      if (segs[i].far == 0) own_keys(j, w, t, &segs[i]);
  }
  for (int i = 0; i < n; i++)
    if (segs[i].far != 0) segment(j, w, tiles, &segs[i]);
  for (int k = 0; k < tiles; k++) close_tile(j, &w->tile[k]);
}

/* A unit: its tiles together where the keys are many; else one by one, each staying in the cache. */
static void attend_unit(const job *j, work *w, rp_pat pat, int32_t from, int32_t to) {
  const int32_t pos = j->row.pos;
  const rp_past past = {pos, j->row.top, j->a->kv.margin};
  const int64_t keys = keys_met(pat, past, pos + from, pos + to);
  const int32_t step = keys < MANY ? TILE : TILES * TILE;
  for (; from < to; from += step)
    attend_tiles(j, w, pat, from, to - from < step ? to : from + step);
}

void RP_DRIVER(attend)(rp_cpu_ctx *c, const void *args) {
  const rp_attend_args *a = args;
  if (PAIRS && a->q.dtype != RP_BF16) {
    RP_BASE_NAME(rp_attend)(c, a);
    return;
  }
  const bool ok = is_compute(a->q) && a->q.dtype == a->k.dtype && a->q.dtype == a->v.dtype &&
                  a->q.dtype == a->out.dtype;
  const rp_row *row = rows_of(c, &a->rows, &a->kv, "attend");
  if (!row || !dtypes(c, ok, "attend")) return;
  RP_BASE_NAME(rp_attend_one)(c, a, row);
  if (a->rows.longest == 1) return;
  const int parts = (a->rows.longest + TILES * TILE - 1) / (TILES * TILE);
  const int64_t units = (int64_t)a->rows.count * a->Hk * parts;
  /* The units of a head follow each other, so that its keys stay in the cache, long ones first; who
   * runs which unit changes nothing. */
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
  for (int64_t u = 0; u < units; u++) {
    const int64_t i = u / parts;
    job j = {.a = a, .row = row[i / a->Hk], .g = (int)(i % a->Hk)};
    const int32_t from = (parts - 1 - (int32_t)(u % parts)) * TILES * TILE;
    if (from >= j.row.n || j.row.n == 1) continue;
    const int32_t to = j.row.n - from < TILES * TILE ? j.row.n : from + TILES * TILE;
    j.hp = (int)round_up((size_t)a->h, RP_LINE);
    j.ld = pitch_of(a->h);
    j.lk = pitch_of(RP_SLOTS(a->h));
    work w = work_at(c->scratch, omp_get_thread_num(), a->h);
    w.scale = (rp_real)(a->scale * 1.4426950408889634);
    const rp_pat pat = ((const rp_pat *)a->pats.at)[(int64_t)j.row.plan * a->pats_stride + j.g];
    for (int m = 0; m < a->H / a->Hk; m++) {
      j.head = j.g * (a->H / a->Hk) + m;
      attend_unit(&j, &w, pat, from, to);
    }
  }
}
