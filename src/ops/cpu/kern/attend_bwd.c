#include "ops/cpu/kern/tile.h"

/* Backward of attention. Unit of work: (row, key-value head), which owns its columns of dk and dv
 * and those of its query heads in dq, so that every sum has one order. Probabilities are made again
 * from lse; as in the forward, scores lie turned, [key][query]. */
enum { TILE = 64, LDT = TILE + RP_LINE };

typedef struct {
  rp_real *q;           /* [TILE][ld], scaled */
  rp_real *qt;          /* [hp][LDT] */
  rp_real *d;           /* [TILE][ld], dout */
  rp_real *dt;          /* [hp][LDT] */
  rp_real *dq;          /* [TILE][ld] */
  rp_real *k;           /* [TILE][ld] */
  rp_real *v;           /* [TILE][ld] */
  rp_real *add;         /* [TILE][ld] */
  rp_real *p;           /* [TILE][LDT], key by query: probabilities */
  rp_real *s;           /* [TILE][LDT], key by query: dout v, then the scores' gradients */
  rp_real *lse, *delta; /* [TILE] */
} work;

static size_t work_reals(int h) {
  const size_t turned = 2 * round_up((size_t)h, RP_LINE) * LDT;
  return 6 * TILE * (size_t)pitch_of(h) + turned + 2 * TILE * LDT + 2 * TILE;
}
static work work_at(uint8_t *scratch, int thread, int h) {
  const size_t n = TILE * (size_t)pitch_of(h), turned = round_up((size_t)h, RP_LINE) * LDT;
  rp_real *p = (rp_real *)scratch + (size_t)thread * work_reals(h);
  work w = {.q = p, .d = p + n, .dq = p + 2 * n, .k = p + 3 * n, .v = p + 4 * n, .add = p + 5 * n};
  w.qt = p + 6 * n;
  w.dt = w.qt + turned;
  w.p = w.dt + turned;
  w.s = w.p + TILE * LDT;
  w.lse = w.s + TILE * LDT;
  w.delta = w.lse + TILE;
  return w;
}
size_t RP_SCRATCH(attend_bwd)(const rp_cpu_ctx *c, const void *args) {
  const rp_attend_bwd_args *a = args;
  return (size_t)c->threads * work_reals(a->h) * sizeof(rp_real);
}

typedef struct {
  const rp_attend_bwd_args *a;
  rp_row row;
  int g, head;
  int32_t t0;
  int nq, np, hp, ld; /* ld: of a row in the work */
} job;

/* to[count rows][h], `ld` elements apart, += A B; rows that end inside a line go through `add`. */
static void add_mm(const job *j, const work *w, rp_real *to, int64_t ld, int count,
                   const rp_real *a, const rp_real *b) {
  const int h = j->a->h, hp = j->hp, ldt = j->ld;
  if (h == hp) {
    tile_mm(count, hp, j->nq, a, LDT, 1, b, ldt, to, ld, true);
    return;
  }
  tile_mm(count, hp, j->nq, a, LDT, 1, b, ldt, w->add, ldt, false);
  for (int i = 0; i < count; i++)
    for (int c = 0; c < h; c++) to[i * ld + c] += w->add[i * ldt + c];
}

/* Probabilities and score gradients of s = scores, [count][np], in place: p and s of the work. */
static void grads(const job *j, const work *w, const rp_seg *g, int32_t first, int count) {
  const rp_real *restrict lse = w->lse, *restrict delta = w->delta;
  for (int i = 0; i < count; i++) {
    const int64_t key = g->pos + (int64_t)(first + i) * g->step;
    const int64_t low = key + g->near - j->t0, high = key + g->far - j->t0;
    const int from = low > 0 ? (int)(low < j->np ? low : j->np) : 0;
    const int to = high < j->np ? (int)(high + 1) : j->np;
    rp_real *restrict p = w->p + i * LDT, *restrict s = w->s + i * LDT;
    for (int q = 0; q < j->np; q++) p[q] = exp_below(p[q] - lse[q]);
    for (int q = 0; q < from; q++) p[q] = 0;
    for (int q = to; q < j->np; q++) p[q] = 0;
    for (int q = 0; q < j->np; q++) s[q] = p[q] * (s[q] - delta[q]);
  }
}

/* The next keys, values and their gradients. */
static void ask_keys(const rp_attend_bwd_args *a, int64_t at, int64_t ld, int left) {
  const int count = left < TILE ? left : TILE;
  ask_rows(a->k, at, ld, count, a->h);
  ask_rows(a->v, at, ld, count, a->h);
  ask_rows(a->dk, at, ld, count, a->h);
  ask_rows(a->dv, at, ld, count, a->h);
}

static void segment(const job *j, const work *w, const rp_seg *g) {
  const rp_attend_bwd_args *a = j->a;
  const int64_t all = (int64_t)a->Hk * a->h, step = all * g->step;
  const int hp = j->hp, ld = j->ld;
  for (int32_t first = 0; first < g->count; first += TILE) {
    const int count = g->count - first < TILE ? g->count - first : TILE;
    const int64_t at =
        (j->row.tok + g->pos + (int64_t)first * g->step) * all + (int64_t)j->g * a->h;
    pack_rows(w->k, a->k, at, step, count, a->h, ld);
    pack_rows(w->v, a->v, at, step, count, a->h, ld);
    ask_keys(a, at + TILE * step, step, g->count - first - TILE);
    tile_mm(count, j->np, hp, w->k, ld, 1, w->qt, LDT, w->p, LDT, false);
    tile_mm(count, j->np, hp, w->v, ld, 1, w->dt, LDT, w->s, LDT, false);
    grads(j, w, g, first, count);
    add_mm(j, w, wr(a->dv, at), step, count, w->p, w->d);
    add_mm(j, w, wr(a->dk, at), step, count, w->s, w->q);
    tile_mm(j->nq, hp, count, w->s, 1, LDT, w->k, ld, w->dq, ld, true);
  }
}

/* Each query's own key: elementwise. */
static void own_key(const job *j, const work *w, const rp_seg *g) {
  const rp_attend_bwd_args *a = j->a;
  const int64_t all = (int64_t)a->Hk * a->h;
  const int64_t at = (j->row.tok + g->pos) * all + (int64_t)j->g * a->h;
  const int from = g->pos - j->t0;
  pack_rows(w->k, a->k, at, all, g->count, a->h, j->ld);
  pack_rows(w->v, a->v, at, all, g->count, a->h, j->ld);
  for (int i = 0; i < g->count; i++) {
    const int q = from + i;
    const rp_real *restrict k = w->k + i * j->ld, *restrict d = w->d + q * j->ld;
    const rp_real *restrict query = w->q + q * j->ld;
    rp_real *restrict dq = w->dq + q * j->ld;
    rp_real *restrict dk = wr(a->dk, at + i * all), *restrict dv = wr(a->dv, at + i * all);
    const rp_real p = exp_real(dot(query, k, j->hp) - w->lse[q]);
    const rp_real s = p * (dot(d, w->v + i * j->ld, j->hp) - w->delta[q]);
    for (int c = 0; c < j->hp; c++) dq[c] += s * k[c];
    for (int c = 0; c < a->h; c++) dk[c] += s * query[c];
    for (int c = 0; c < a->h; c++) dv[c] += p * d[c];
  }
}

static void attend_bwd_tile(const job *j, const work *w, rp_pat pat) {
  const rp_attend_bwd_args *a = j->a;
  const int64_t all = (int64_t)a->H * a->h, tok = j->row.tok + j->t0;
  const int64_t at = tok * all + (int64_t)j->head * a->h;
  const int hp = j->hp, ld = j->ld;
  rp_seg segs[RP_SEGS_MAX];
  const int n = rp_segs(segs, pat, (rp_past){0}, j->t0, j->t0 + j->nq);
  pack_rows(w->q, a->q, at, all, j->nq, a->h, ld);
  for (int i = 0; i < j->nq * ld; i++) w->q[i] *= (rp_real)a->scale;
  turn(w->qt, w->q, ld, j->nq, hp, LDT);
  pack_rows(w->d, a->dout, at, all, j->nq, a->h, ld);
  turn(w->dt, w->d, ld, j->nq, hp, LDT);
  pack_rows(w->dq, a->out, at, all, j->nq, a->h, ld); /* out, until delta is made */
  for (int q = 0; q < TILE; q++) w->lse[q] = w->delta[q] = 0;
  for (int q = 0; q < j->nq; q++) {
    w->lse[q] = ((const rp_real *)a->lse.at)[(tok + q) * a->H + j->head];
    w->delta[q] = dot(w->d + q * ld, w->dq + q * ld, hp);
  }
  memset(w->dq, 0, (size_t)(j->nq * ld) * sizeof(rp_real));
  for (int i = 0; i < n; i++) {
    if (segs[i].far == 0)
      own_key(j, w, &segs[i]);
    else
      segment(j, w, &segs[i]);
  }
  for (int q = 0; q < j->nq; q++) {
    rp_real *restrict to = wr(a->dq, at + q * all);
    for (int c = 0; c < a->h; c++) to[c] = w->dq[q * ld + c] * (rp_real)a->scale;
  }
}

static void attend_bwd_unit(job *j, const work *w) {
  const rp_attend_bwd_args *a = j->a;
  const rp_pat pat = ((const rp_pat *)a->pats.at)[(int64_t)j->row.plan * a->pats_stride + j->g];
  const int64_t ld = (int64_t)a->Hk * a->h;
  for (int32_t t = 0; t < j->row.n; t++) {
    const int64_t at = (j->row.tok + t) * ld + (int64_t)j->g * a->h;
    memset(wr(a->dk, at), 0, (size_t)a->h * sizeof(rp_real));
    memset(wr(a->dv, at), 0, (size_t)a->h * sizeof(rp_real));
  }
  for (j->t0 = 0; j->t0 < j->row.n; j->t0 += TILE) {
    j->nq = j->row.n - j->t0 < TILE ? j->row.n - j->t0 : TILE;
    j->np = (int)round_up((size_t)j->nq, RP_LINE);
    for (int m = 0; m < a->H / a->Hk; m++) {
      j->head = j->g * (a->H / a->Hk) + m;
      attend_bwd_tile(j, w, pat);
    }
  }
}

void RP_DRIVER(attend_bwd)(rp_cpu_ctx *c, const void *args) {
  const rp_attend_bwd_args *a = args;
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
    const work w = work_at(c->scratch, omp_get_thread_num(), a->h);
    attend_bwd_unit(&j, &w);
  }
}
