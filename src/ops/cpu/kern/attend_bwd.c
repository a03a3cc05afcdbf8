#include "ops/cpu/kern/tile.h"
#include "pattern/segs.h"

/* Backward of attention. Unit of work: (row, key-value head), which owns its columns of dk and dv
 * and those of its query heads in dq, so that every sum has one order. Probabilities are made again
 * from lse; as in the forward, scores lie turned, [key][query]. */
enum { TILE = 64 };

typedef struct {
  rp_real *q;           /* [TILE][hp], scaled */
  rp_real *qt;          /* [hp][TILE] */
  rp_real *d;           /* [TILE][hp], dout */
  rp_real *dt;          /* [hp][TILE] */
  rp_real *dq;          /* [TILE][hp] */
  rp_real *k;           /* [TILE][hp] */
  rp_real *v;           /* [TILE][hp] */
  rp_real *add;         /* [TILE][hp] */
  rp_real *p;           /* [TILE][TILE], key by query: probabilities */
  rp_real *s;           /* [TILE][TILE], key by query: dout v, then the scores' gradients */
  rp_real *lse, *delta; /* [TILE] */
} work;

static size_t work_reals(int h) {
  return 8 * TILE * round_up((size_t)h, RP_LINE) + 2 * TILE * TILE + 2 * TILE;
}
static work work_at(uint8_t *scratch, int thread, int h) {
  const size_t n = TILE * round_up((size_t)h, RP_LINE);
  rp_real *p = (rp_real *)scratch + (size_t)thread * work_reals(h);
  work w = {.q = p, .qt = p + n, .d = p + 2 * n, .dt = p + 3 * n, .dq = p + 4 * n};
  w.k = p + 5 * n;
  w.v = p + 6 * n;
  w.add = p + 7 * n;
  w.p = p + 8 * n;
  w.s = w.p + TILE * TILE;
  w.lse = w.s + TILE * TILE;
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
  int nq, np, hp;
} job;

/* to[count rows][h], `ld` elements apart, += A B; rows that end inside a line go through `add`. */
static void add_mm(const work *w, rp_real *to, int64_t ld, int count, int h, int hp, int K,
                   const rp_real *a, const rp_real *b) {
  if (h == hp) {
    tile_mm(count, hp, K, a, TILE, 1, b, hp, to, ld, true);
    return;
  }
  tile_mm(count, hp, K, a, TILE, 1, b, hp, w->add, hp, false);
  for (int i = 0; i < count; i++)
    for (int c = 0; c < h; c++) to[i * ld + c] += w->add[i * hp + c];
}

/* Probabilities and score gradients of s = scores, [count][np], in place: p and s of the work. */
static void grads(const job *j, const work *w, const rp_seg *g, int32_t first, int count) {
  const rp_real *restrict lse = w->lse, *restrict delta = w->delta;
  for (int i = 0; i < count; i++) {
    const int64_t key = g->pos + (int64_t)(first + i) * g->step;
    const int64_t low = key + g->near - j->t0, high = key + g->far - j->t0;
    const int from = low > 0 ? (int)(low < j->np ? low : j->np) : 0;
    const int to = high < j->np ? (int)(high + 1) : j->np;
    rp_real *restrict p = w->p + i * TILE, *restrict s = w->s + i * TILE;
    for (int q = 0; q < j->np; q++) p[q] = exp_real(p[q] - lse[q]);
    for (int q = 0; q < from; q++) p[q] = 0;
    for (int q = to; q < j->np; q++) p[q] = 0;
    for (int q = 0; q < j->np; q++) s[q] = p[q] * (s[q] - delta[q]);
  }
}

static void segment(const job *j, const work *w, const rp_seg *g) {
  const rp_attend_bwd_args *a = j->a;
  const int64_t ld = (int64_t)a->Hk * a->h, step = ld * g->step;
  const int hp = j->hp;
  for (int32_t first = 0; first < g->count; first += TILE) {
    const int count = g->count - first < TILE ? g->count - first : TILE;
    const int64_t at = (j->row.tok + g->pos + (int64_t)first * g->step) * ld + (int64_t)j->g * a->h;
    pack_rows(w->k, a->k, at, step, count, a->h, hp);
    pack_rows(w->v, a->v, at, step, count, a->h, hp);
    tile_mm(count, j->np, hp, w->k, hp, 1, w->qt, TILE, w->p, TILE, false);
    tile_mm(count, j->np, hp, w->v, hp, 1, w->dt, TILE, w->s, TILE, false);
    grads(j, w, g, first, count);
    add_mm(w, wr(a->dv, at), step, count, a->h, hp, j->nq, w->p, w->d);
    add_mm(w, wr(a->dk, at), step, count, a->h, hp, j->nq, w->s, w->q);
    tile_mm(j->nq, hp, count, w->s, 1, TILE, w->k, hp, w->dq, hp, true);
  }
}

/* Each query's own key: elementwise. */
static void own_key(const job *j, const work *w, const rp_seg *g) {
  const rp_attend_bwd_args *a = j->a;
  const int64_t ld = (int64_t)a->Hk * a->h;
  const int64_t at = (j->row.tok + g->pos) * ld + (int64_t)j->g * a->h;
  const int from = g->pos - j->t0;
  pack_rows(w->k, a->k, at, ld, g->count, a->h, j->hp);
  pack_rows(w->v, a->v, at, ld, g->count, a->h, j->hp);
  for (int i = 0; i < g->count; i++) {
    const int q = from + i;
    const rp_real *restrict k = w->k + i * j->hp, *restrict d = w->d + q * j->hp;
    const rp_real *restrict query = w->q + q * j->hp;
    rp_real *restrict dq = w->dq + q * j->hp;
    rp_real *restrict dk = wr(a->dk, at + i * ld), *restrict dv = wr(a->dv, at + i * ld);
    const rp_real p = exp_real(dot(query, k, j->hp) - w->lse[q]);
    const rp_real s = p * (dot(d, w->v + i * j->hp, j->hp) - w->delta[q]);
    for (int c = 0; c < j->hp; c++) dq[c] += s * k[c];
    for (int c = 0; c < a->h; c++) dk[c] += s * query[c];
    for (int c = 0; c < a->h; c++) dv[c] += p * d[c];
  }
}

static void attend_bwd_tile(const job *j, const work *w, rp_pat pat) {
  const rp_attend_bwd_args *a = j->a;
  const int64_t ld = (int64_t)a->H * a->h, tok = j->row.tok + j->t0;
  const int64_t at = tok * ld + (int64_t)j->head * a->h;
  const int hp = j->hp;
  rp_seg segs[RP_SEGS_MAX];
  const int n = rp_segs(segs, pat, (rp_past){0}, j->t0, j->t0 + j->nq);
  pack_rows(w->q, a->q, at, ld, j->nq, a->h, hp);
  for (int i = 0; i < j->nq * hp; i++) w->q[i] *= (rp_real)a->scale;
  turn(w->qt, w->q, j->nq, hp, TILE);
  pack_rows(w->d, a->dout, at, ld, j->nq, a->h, hp);
  turn(w->dt, w->d, j->nq, hp, TILE);
  pack_rows(w->dq, a->out, at, ld, j->nq, a->h, hp); /* out, until delta is made */
  for (int q = 0; q < TILE; q++) w->lse[q] = w->delta[q] = 0;
  for (int q = 0; q < j->nq; q++) {
    w->lse[q] = ((const rp_real *)a->lse.at)[(tok + q) * a->H + j->head];
    w->delta[q] = dot(w->d + q * hp, w->dq + q * hp, hp);
  }
  memset(w->dq, 0, (size_t)(j->nq * hp) * sizeof(rp_real));
  for (int i = 0; i < n; i++) {
    if (segs[i].far == 0)
      own_key(j, w, &segs[i]);
    else
      segment(j, w, &segs[i]);
  }
  for (int q = 0; q < j->nq; q++) {
    rp_real *restrict to = wr(a->dq, at + q * ld);
    for (int c = 0; c < a->h; c++) to[c] = w->dq[q * hp + c] * (rp_real)a->scale;
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
    const work w = work_at(c->scratch, omp_get_thread_num(), a->h);
    attend_bwd_unit(&j, &w);
  }
}
