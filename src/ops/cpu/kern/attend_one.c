/* attend_one.c - attention of rows of one token: what a step of decoding does.
 *
 * Such a row reads every key it sees once, and that is the time it takes: keys and values are read
 * where they lie and in that order, widened in registers, by as many units as there are key-value
 * heads. Where these are few, the keys of a head are shared out over parts, merged in order. How many
 * parts depends on the row's keys and on the number of rows only, so the threads change nothing. */
#include "ops/cpu/kern/lanes.h"
#include "ops/cpu/kern/vec.h"
#include "pattern/segs.h"

/* Sums of values in registers; bytes asked for ahead (measured on Zen 4: 1 and 2 KB are alike, 3 KB loses
 * a third). The fewest keys worth a part, the most parts, and turns that a thread takes. */
enum { SUMS = 8, AHEAD = 2048, PART_KEYS = 512, PARTS = 16, ENOUGH_UNITS = 64, TURNS = 16 };
_Static_assert(RP_KV_BLOCK % VEC == 0, "a block's scores are whole vectors");

/* At most RP_KV_BLOCK keys and values, `stride` bytes apart. With each line of them that is read, the
 * line so many bytes on is asked for. */
typedef struct {
  const uint8_t *k, *v;
  size_t stride;
  ptrdiff_t k_ahead, v_ahead;
  int count;
} run;

typedef struct {
  const rp_attend_args *a;
  const rp_row *row;
  int g;        /* key-value head */
  rp_real *q;   /* [heads][h], scaled */
  rp_real *acc; /* [heads][head_reals]: the largest score, the sum of exp, o[h], h to spare */
} job;

static int heads_of(const rp_attend_args *a) { return a->H / a->Hk; }
static size_t head_reals(const rp_attend_args *a) {
  return round_up(2 * (size_t)a->h + 2, 64 / sizeof(rp_real));
}
static size_t acc_reals(const rp_attend_args *a) { return (size_t)heads_of(a) * head_reals(a); }
static size_t query_reals(const rp_attend_args *a) {
  return round_up((size_t)heads_of(a) * (size_t)a->h, 64 / sizeof(rp_real));
}
static int parts_most(const rp_attend_args *a) {
  const int64_t units = (int64_t)a->rows.count * a->Hk;
  const int64_t parts = (ENOUGH_UNITS + units - 1) / (units > 0 ? units : 1);
  return parts < PARTS ? (int)parts : PARTS;
}

/* ---- a run of keys ---- */

/* Whole runs of vectors: in bfloat16 two of each 2 VEC elements, which q and o have in split order. */
static inline int whole_of(const bool narrow, int h) {
  const int each = narrow ? 2 * VEC : VEC;
  return h / each * each;
}
static inline vec at(const bool narrow, const uint8_t *p, int i) {
  return narrow ? vec_halves((const uint16_t *)p + i / (2 * VEC) * (2 * VEC), i / VEC % 2)
                : *(const vec *)((const rp_real *)p + i);
}
static inline rp_real one_at(const bool narrow, const uint8_t *p, int i) {
  return narrow ? (rp_real)rp_bf16_to_f32(((const uint16_t *)p)[i]) : ((const rp_real *)p)[i];
}
static inline void ask(const uint8_t *p, int bytes) {
  for (int b = 0; b < bytes; b += 64) __builtin_prefetch(p + b, 0, 2);
}

/* q k, whose lanes are to be added up. */
__attribute__((always_inline)) static inline vec product(const bool narrow, const uint8_t *k,
                                                         ptrdiff_t ahead, const rp_real *q,
                                                         int whole) {
  const int wide = narrow ? 2 : sizeof(rp_real), step = narrow ? 2 * VEC : VEC;
  vec sum = {0};
  for (int c = 0; c < whole; c += step) {
    ask(k + c * wide + ahead, step * wide);
    for (int part = c; part < c + step; part += VEC)
      sum += *(const vec *)(q + part) * at(narrow, k, part);
  }
  return sum;
}

/* s[RP_KV_BLOCK] = q . k, -infinity beyond the last. The keys are read one after the other: memory
 * in order is what the processor reads ahead of. */
__attribute__((always_inline)) static inline void scores(const bool narrow, const run *r,
                                                         const rp_real *q, int h, rp_real *s) {
  const int whole = whole_of(narrow, h);
  for (int first = 0; first < RP_KV_BLOCK; first += VEC) {
    vec sum[VEC];
    RP_EACH(i, VEC) {
      const uint8_t *k = r->k + (size_t)(first + i) * r->stride;
      sum[i] = first + i < r->count ? product(narrow, k, r->k_ahead, q, whole) : (vec){0};
    }
    *(vec *)(s + first) = vec_sums(sum);
  }
  for (int i = 0; i < r->count && whole < h; i++)
    for (int c = whole; c < h; c++) s[i] += q[c] * one_at(narrow, r->k + (size_t)i * r->stride, c);
  for (int i = r->count; i < RP_KV_BLOCK; i++) s[i] = (rp_real)-INFINITY;
}

/* s[RP_KV_BLOCK] = exp(s - max) with the largest so far; returns their sum. */
static inline rp_real softmax(rp_real *s, rp_real *max) {
  vec *v = (vec *)s, m = (vec){0} + *max, sum = {0};
  RP_EACH(i, RP_KV_BLOCK / VEC) m = vec_larger(v[i], m);
  *max = vec_max(m);
  for (int i = 0; i < RP_KV_BLOCK; i++) s[i] = exp_below(s[i] - *max);
  RP_EACH(i, RP_KV_BLOCK / VEC) sum += v[i];
  return vec_sum(sum);
}

/* o[nv vectors from c on] = f o + sum p v. */
__attribute__((always_inline)) static inline void values(const bool narrow, const int nv,
                                                         const run *r, int c, const rp_real *p,
                                                         rp_real f, rp_real *o) {
  vec sum[SUMS];
  const int wide = narrow ? 2 : sizeof(rp_real);
  const uint8_t *v = r->v + c * wide;
  RP_EACH(i, nv) sum[i] = *(const vec *)(o + c + i * VEC) * f;
  for (int k = 0; k < r->count; k++, v += r->stride) {
    ask(v + r->v_ahead, nv * VEC * wide);
    RP_EACH(i, nv) sum[i] += p[k] * at(narrow, v, i * VEC);
  }
  RP_EACH(i, nv) { *(vec *)(o + c + i * VEC) = sum[i]; }
}

/* Takes a run into one head's sums. */
__attribute__((always_inline)) static inline void take(const bool narrow, const run *r, int h,
                                                       const rp_real *q, rp_real *acc) {
  rp_real p[RP_KV_BLOCK] __attribute__((aligned(64))), *o = acc + 2, max = acc[0];
  const int whole = whole_of(narrow, h);
  int c = 0;
  scores(narrow, r, q, h, p);
  const rp_real sum = softmax(p, &max), f = exp_below(acc[0] - max);
  acc[0] = max;
  acc[1] = acc[1] * f + sum;
  for (; c + SUMS * VEC <= whole; c += SUMS * VEC) values(narrow, SUMS, r, c, p, f, o);
  for (; c + 2 * VEC <= whole; c += 2 * VEC) values(narrow, 2, r, c, p, f, o);
  for (; c < whole; c += VEC) values(narrow, 1, r, c, p, f, o);
  for (; c < h; c++) {
    o[c] *= f;
    for (int i = 0; i < r->count; i++)
      o[c] += p[i] * one_at(narrow, r->v + (size_t)i * r->stride, c);
  }
}

static void take_run(const job *j, run *r) {
  const rp_attend_args *a = j->a;
  const bool narrow = a->q.dtype == RP_BF16;
  for (int m = 0; m < heads_of(a); m++) {
    const rp_real *q = j->q + m * a->h;
    rp_real *acc = j->acc + (size_t)m * head_reals(a);
    /* The width that models have: with it known, the query stays in registers. */
    if (narrow && a->h == 128)
      take(true, r, 128, q, acc);
    else if (narrow)
      take(true, r, a->h, q, acc);
    else if (a->h == 128)
      take(false, r, 128, q, acc);
    else
      take(false, r, a->h, q, acc);
    r->k_ahead = r->v_ahead = 0; /* the first head has asked */
  }
}

/* ---- a segment ---- */

static const int32_t *table_of(const rp_attend_args *a, const rp_row *row, int g, rp_src src) {
  return rp_cell_table(&a->kv, row->cell, a->Hk, a->h, sizeof(rp_real), g, src);
}
static const uint8_t *entry_at(const rp_attend_args *a, const int32_t *table, int32_t e) {
  return rd(a->kv.pool, rp_kv_entry(table[e / RP_KV_BLOCK], e, a->h));
}
/* Bytes of a block's keys; its values follow. */
static size_t half_of(const rp_attend_args *a) {
  return (size_t)RP_KV_BLOCK * (size_t)a->h * (size_t)rp_dtype_bytes(a->k.dtype);
}

/* Keys [first, end) of a segment, where they lie together. */
static void segment(const job *j, const rp_seg *g, int first, int end) {
  const rp_attend_args *a = j->a;
  const size_t half = half_of(a);
  if (g->src == RP_SRC_NEW) { /* the row's own token */
    const int64_t from = ((int64_t)j->row->tok * a->Hk + j->g) * a->h;
    take_run(j, &(run){.k = rd(a->k, from), .v = rd(a->v, from), .count = 1});
    return;
  }
  const int32_t *table = table_of(a, j->row, j->g, g->src);
  for (int i = first; i < end;) {
    const int32_t e = g->slot + i * g->slot_step;
    const int in_block = (RP_KV_BLOCK - e % RP_KV_BLOCK + g->slot_step - 1) / g->slot_step;
    const uint8_t *k = entry_at(a, table, e);
    run r = {.k = k, .v = k + half, .stride = half / RP_KV_BLOCK * (size_t)g->slot_step};
    r.count = in_block < end - i ? in_block : end - i;
    i += r.count;
    /* Blocks that follow each other in memory are one stream, which the processor reads ahead of as
     * well; it does not guess the way to another place, for which more has to be on its way. */
    if (i < end) {
      const uint8_t *then = entry_at(a, table, e / RP_KV_BLOCK * RP_KV_BLOCK + RP_KV_BLOCK);
      const bool on = then == k + 2 * half;
      r.k_ahead = on ? AHEAD : (ptrdiff_t)half;
      r.v_ahead = on ? AHEAD : then - r.v;
    }
    take_run(j, &r);
  }
}

/* ---- a row and a key-value head ---- */

static rp_pat pat_of(const rp_attend_args *a, const rp_row *row, int g) {
  return ((const rp_pat *)a->pats.at)[(int64_t)row->plan * a->pats_stride + g];
}
static int parts_of(const rp_attend_args *a, const rp_row *row, int g) {
  const int64_t parts = rp_pat_keys(pat_of(a, row, g), row->pos) / PART_KEYS;
  const int most = parts_most(a);
  return parts < 1 ? 1 : parts < most ? (int)parts : most;
}

__attribute__((always_inline)) static inline void query(const bool narrow, rp_real *q,
                                                        const uint8_t *x, int h, rp_real scale) {
  const int whole = whole_of(narrow, h);
  for (int c = 0; c < whole; c += VEC) *(vec *)(q + c) = at(narrow, x, c) * scale;
  for (int c = whole; c < h; c++) q[c] = one_at(narrow, x, c) * scale;
}
/* No key taken in yet. */
static void open_sums(const job *j) {
  const rp_attend_args *a = j->a;
  const int heads = heads_of(a);
  const size_t each = head_reals(a);
  for (int m = 0; m < heads; m++) {
    const uint8_t *x = rd(a->q, ((int64_t)j->row->tok * a->H + j->g * heads + m) * a->h);
    rp_real *acc = j->acc + (size_t)m * each, *q = j->q + m * a->h;
    if (a->q.dtype == RP_BF16)
      query(true, q, x, a->h, (rp_real)a->scale);
    else
      query(false, q, x, a->h, (rp_real)a->scale);
    memset(acc, 0, each * sizeof *acc);
    acc[0] = (rp_real)-1e30;
  }
}
/* In their own order again. */
static void out_of(const rp_attend_args *a, int64_t head, const rp_real *o, rp_real r,
                   rp_real *free) {
  const int whole = a->q.dtype == RP_BF16 ? whole_of(true, a->h) : 0;
  for (int c = 0; c < whole; c += 2 * VEC)
    for (int l = 0; l < VEC; l++) {
      free[c + 2 * l] = o[c + l] * r;
      free[c + 2 * l + 1] = o[c + VEC + l] * r;
    }
  for (int c = whole; c < a->h; c++) free[c] = o[c] * r;
  store(a->out, head * a->h, free, a->h);
}

/* One of the parts into which the keys of all segments are cut, in their order. */
static void part(const job *j, int which, int parts) {
  const rp_attend_args *a = j->a;
  const rp_row *row = j->row;
  rp_seg seg[RP_SEGS_MAX];
  int64_t keys = 0;
  const int n = rp_segs(seg, pat_of(a, row, j->g), (rp_past){row->pos, row->top, a->kv.margin},
                        row->pos, row->pos + 1);
  for (int i = 0; i < n; i++) keys += seg[i].count;
  int64_t first = keys * which / parts, end = keys * (which + 1) / parts;
  open_sums(j);
  for (int i = 0; i < n; i++) {
    const int count = seg[i].count;
    const int64_t from = first > 0 ? first : 0, to = end < count ? end : count;
    if (from < to) segment(j, &seg[i], (int)from, (int)to);
    first -= count, end -= count;
  }
}

/* to (+)= from: sums under different maxima. */
static void merge(rp_real *to, const rp_real *from, int h) {
  const rp_real max = to[0] > from[0] ? to[0] : from[0];
  const rp_real f = exp_real(to[0] - max), g = exp_real(from[0] - max);
  to[0] = max;
  for (int c = 1; c < h + 2; c++) to[c] = to[c] * f + from[c] * g;
}

static void finish(const rp_attend_args *a, const rp_row *row, int g, rp_real *acc) {
  const int heads = heads_of(a);
  const size_t each = head_reals(a);
  for (int m = 0; m < heads; m++, acc += each) {
    const int64_t head = (int64_t)row->tok * a->H + g * heads + m;
    out_of(a, head, acc + 2, 1 / acc[1], acc + 2 + a->h);
    if (a->lse.at) ((rp_real *)a->lse.at)[head] = acc[0] + (rp_real)log((double)acc[1]);
  }
}

/* ---- all of them ---- */

/* A unit's sums, by row, key-value head and part; a thread's queries. */
size_t RP_LEVEL_NAME(rp_attend_one_scratch)(const rp_cpu_ctx *c, const rp_attend_args *a) {
  const size_t units = (size_t)a->rows.count * (size_t)a->Hk * (size_t)parts_most(a);
  return (units * acc_reals(a) + (size_t)c->threads * query_reals(a)) * sizeof(rp_real);
}

void RP_LEVEL_NAME(rp_attend_one)(rp_cpu_ctx *c, const rp_attend_args *a, const rp_row *rows) {
  const int most = parts_most(a);
  const int64_t heads = (int64_t)a->rows.count * a->Hk;
  rp_real *accs = (rp_real *)c->scratch, *queries = accs + (size_t)(heads * most) * acc_reals(a);
  /* Neighbours lie side by side as a rule: a thread that takes several reads on in one stream. */
  const int64_t chunk = heads * most / (TURNS * c->threads) + 1;
#pragma omp parallel for num_threads(c->threads) schedule(dynamic, chunk)
  for (int64_t u = 0; u < heads * most; u++) {
    const int64_t i = u / most;
    const int p = (int)(u % most), g = (int)(i % a->Hk);
    const rp_row *row = &rows[i / a->Hk];
    const int parts = row->n == 1 ? parts_of(a, row, g) : 0;
    if (p >= parts) continue;
    const job j = {a, row, g, queries + (size_t)omp_get_thread_num() * query_reals(a),
                   accs + (size_t)u * acc_reals(a)};
    part(&j, p, parts);
    if (parts == 1) finish(a, row, g, j.acc);
  }
  for (int64_t i = 0; i < heads && most > 1; i++) {
    const rp_row *row = &rows[i / a->Hk];
    const int g = (int)(i % a->Hk), parts = row->n == 1 ? parts_of(a, row, g) : 0;
    rp_real *to = accs + (size_t)(i * most) * acc_reals(a);
    const size_t each = head_reals(a);
    for (int p = 1; p < parts; p++)
      for (int m = 0; m < heads_of(a); m++)
        merge(to + (size_t)m * each, to + (size_t)p * acc_reals(a) + (size_t)m * each, a->h);
    if (parts > 1) finish(a, row, g, to);
  }
}
