/* attend_one.c - attention of rows of one token: what a step of decoding does.
 *
 * Such a row reads every key it sees once, and that is the time it takes: keys and values are read
 * where they lie, widened in registers, by as many units as there are key-value heads. Where these
 * are few, the keys of a head are shared out over parts, merged in order. How many parts depends on
 * the row's keys and on the number of rows only, so the threads change nothing. */
#include "ops/cpu/kern/lanes.h"
#include "ops/cpu/kern/vec.h"
#include "pattern/segs.h"

/* Sums in registers; the fewest keys worth a part, and the most parts; bytes asked for ahead. */
enum { SUMS = 8, PART_KEYS = 512, PARTS = 16, ENOUGH_UNITS = 64, AHEAD = 4096 };

/* At most RP_KV_BLOCK keys and values `stride` bytes apart. */
typedef struct {
  const uint8_t *k, *v;
  size_t stride;
  int count;
  /* Of a whole block, whose values lie behind its keys: as much is asked for as is read, AHEAD bytes
   * behind it, and past the block's end from the `next` one. Blocks are too short for the processor to
   * guess what follows. */
  bool asks;
  const uint8_t *next;
  size_t asked, bytes; /* so far, from k on; of the block */
} run;

typedef struct {
  const rp_attend_args *a;
  rp_row row;
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

static inline int place_of(const rp_attend_args *a, int c) {
  const bool narrow = a->q.dtype == RP_BF16;
  return narrow && c < whole_of(narrow, a->h) ? vec_split_at(c) : c;
}

/* `at` bytes of the block are read; never further ahead than the next block goes. */
static inline void ask(run *r, size_t at) {
  const size_t to = at + (r->bytes < AHEAD ? r->bytes : AHEAD);
  for (; r->asked < to; r->asked += 64) {
    const bool here = r->asked < r->bytes;
    __builtin_prefetch(here ? r->k + r->asked : r->next + (r->asked - r->bytes), 0, 2);
  }
}

/* s[n] = q . k of n keys from the first-th on. */
__attribute__((always_inline)) static inline void dots(const bool narrow, const int n, run *r,
                                                       int first, const rp_real *q, int h,
                                                       rp_real *s) {
  vec sum[SUMS];
  const int whole = whole_of(narrow, h);
  const size_t stride = r->stride, wide = narrow ? 2 : sizeof(rp_real);
  const uint8_t *k = r->k + (size_t)first * stride;
  RP_EACH(i, n) sum[i] = (vec){0};
  for (int c = 0; c < whole; c += narrow ? 2 * VEC : VEC) {
    if (r->asks) ask(r, (size_t)first * stride + (size_t)(c * n) * wide);
    for (int part = c; part < c + (narrow ? 2 * VEC : VEC); part += VEC)
      RP_EACH(i, n) sum[i] += *(const vec *)(q + part) * at(narrow, k + (size_t)i * stride, part);
  }
  RP_EACH(i, n) s[i] = vec_sum(sum[i]);
  for (int c = whole; c < h; c++)
    RP_EACH(i, n) s[i] += q[c] * one_at(narrow, k + (size_t)i * stride, c);
}

/* o[nv vectors from c on] = f o + sum p v. */
__attribute__((always_inline)) static inline void values(const bool narrow, const int nv, run *r,
                                                         int c, const rp_real *p, rp_real f,
                                                         rp_real *o) {
  vec sum[SUMS];
  const size_t wide = narrow ? 2 : sizeof(rp_real);
  RP_EACH(i, nv) sum[i] = *(const vec *)(o + c + i * VEC) * f;
  for (int k = 0; k < r->count; k++) {
    const size_t from = (size_t)k * r->stride + (size_t)c * wide;
    const uint8_t *v = r->v + from;
    if (r->asks) ask(r, r->bytes / 2 + (size_t)(c * r->count + k * nv * VEC) * wide);
    RP_EACH(i, nv) sum[i] += p[k] * at(narrow, v, i * VEC);
  }
  RP_EACH(i, nv) { *(vec *)(o + c + i * VEC) = sum[i]; }
}

/* Takes a run into one head's sums. */
__attribute__((always_inline)) static inline void take(const bool narrow, run *r, int h,
                                                       const rp_real *q, rp_real *acc) {
  rp_real s[RP_KV_BLOCK], *o = acc + 2, max = acc[0], sum = 0;
  const int whole = whole_of(narrow, h);
  int i = 0, c = 0;
  for (; i + SUMS <= r->count; i += SUMS) dots(narrow, SUMS, r, i, q, h, s + i);
  for (; i < r->count; i++) dots(narrow, 1, r, i, q, h, s + i);
  for (i = 0; i < r->count; i++) max = s[i] > max ? s[i] : max;
  for (i = 0; i < r->count; i++) s[i] = exp_real(s[i] - max);
  for (i = 0; i < r->count; i++) sum += s[i];
  const rp_real f = exp_real(acc[0] - max);
  acc[0] = max;
  acc[1] = acc[1] * f + sum;
  for (; c + SUMS * VEC <= whole; c += SUMS * VEC) values(narrow, SUMS, r, c, s, f, o);
  for (; c + 2 * VEC <= whole; c += 2 * VEC) values(narrow, 2, r, c, s, f, o);
  for (; c < whole; c += VEC) values(narrow, 1, r, c, s, f, o);
  for (; c < h; c++) {
    o[c] *= f;
    for (i = 0; i < r->count; i++) o[c] += s[i] * one_at(narrow, r->v + (size_t)i * r->stride, c);
  }
}

static void take_run(const job *j, run *r) {
  const rp_attend_args *a = j->a;
  const size_t each = head_reals(a);
  for (int m = 0; m < heads_of(a); m++) {
    if (a->q.dtype == RP_BF16)
      take(true, r, a->h, j->q + m * a->h, j->acc + (size_t)m * each);
    else
      take(false, r, a->h, j->q + m * a->h, j->acc + (size_t)m * each);
    r->asks = false; /* the first head has */
  }
}

/* ---- a segment ---- */

/* Keys [first, end) of a segment, where they lie together. */
static void segment(const job *j, const rp_seg *g, int first, int end) {
  const rp_attend_args *a = j->a;
  const size_t wide = (size_t)rp_dtype_bytes(a->k.dtype);
  if (g->src == RP_SRC_NEW) { /* the row's own token */
    const int64_t from = ((int64_t)j->row.tok * a->Hk + j->g) * a->h;
    take_run(j, &(run){.k = rd(a->k, from), .v = rd(a->v, from), .count = 1});
    return;
  }
  const int32_t *table =
      rp_cell_table(&a->kv, j->row.cell, a->Hk, a->h, sizeof(rp_real), j->g, g->src);
  const size_t values_on = (size_t)RP_KV_BLOCK * (size_t)a->h * wide;
  size_t asked = 0; /* of the block that comes */
  for (int i = first; i < end;) {
    const int32_t e = g->slot + i * g->slot_step;
    const int in_block = (RP_KV_BLOCK - e % RP_KV_BLOCK + g->slot_step - 1) / g->slot_step;
    const uint8_t *k = rd(a->kv.pool, rp_kv_entry(table[e / RP_KV_BLOCK], e, a->h));
    run r = {.k = k, .v = k + values_on, .stride = (size_t)g->slot_step * (size_t)a->h * wide};
    r.count = in_block < end - i ? in_block : end - i;
    r.asks = r.count == RP_KV_BLOCK && i + r.count < end;
    r.bytes = 2 * values_on;
    r.asked = asked;
    if (r.asks) r.next = rd(a->kv.pool, rp_kv_entry(table[e / RP_KV_BLOCK + 1], 0, a->h));
    take_run(j, &r);
    asked = r.asked > r.bytes ? r.asked - r.bytes : 0;
    i += r.count;
  }
}

/* ---- a row and a key-value head ---- */

typedef struct {
  rp_seg seg[RP_SEGS_MAX];
  int n;        /* segments */
  int64_t keys; /* of all */
} plan;

static plan plan_of(const rp_attend_args *a, const rp_row *row, int g) {
  const rp_pat pat = ((const rp_pat *)a->pats.at)[(int64_t)row->plan * a->pats_stride + g];
  plan p = {.keys = 0};
  p.n = rp_segs(p.seg, pat, (rp_past){row->pos, row->top, a->kv.margin}, row->pos, row->pos + 1);
  for (int i = 0; i < p.n; i++) p.keys += p.seg[i].count;
  return p;
}
static int parts_of(const rp_attend_args *a, const plan *p) {
  const int64_t parts = p->keys / PART_KEYS, most = parts_most(a);
  return parts < 1 ? 1 : (int)(parts < most ? parts : most);
}

/* Keys [first, end) of all the row's segments, in order. */
static void part(const job *j, const plan *p, int64_t first, int64_t end) {
  const rp_attend_args *a = j->a;
  const int heads = heads_of(a);
  const size_t each = head_reals(a);
  for (int m = 0; m < heads; m++) {
    rp_real *acc = j->acc + (size_t)m * each, *q = j->q + m * a->h;
    rp_real *free = acc + 2 + a->h;
    load(free, a->q, ((int64_t)j->row.tok * a->H + j->g * heads + m) * a->h, a->h);
    for (int c = 0; c < a->h; c++) q[place_of(a, c)] = free[c] * (rp_real)a->scale;
    memset(acc, 0, each * sizeof *acc);
    acc[0] = (rp_real)-1e30;
  }
  for (int i = 0; i < p->n; i++) {
    const int count = p->seg[i].count;
    const int64_t from = first > 0 ? first : 0, to = end < count ? end : count;
    if (from < to) segment(j, &p->seg[i], (int)from, (int)to);
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
    const rp_real r = 1 / acc[1];
    rp_real *free = acc + 2 + a->h;
    for (int c = 0; c < a->h; c++) free[c] = acc[2 + place_of(a, c)] * r;
    store(a->out, head * a->h, free, a->h);
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
#pragma omp parallel for num_threads(c->threads) schedule(dynamic)
  for (int64_t u = 0; u < heads * most; u++) {
    const int64_t i = u / most, p = u % most;
    const rp_row *row = &rows[i / a->Hk];
    if (row->n != 1) continue;
    const plan all = plan_of(a, row, (int)(i % a->Hk));
    const int parts = parts_of(a, &all);
    if (p >= parts) continue;
    const job j = {a, *row, (int)(i % a->Hk),
                   queries + (size_t)omp_get_thread_num() * query_reals(a),
                   accs + (size_t)u * acc_reals(a)};
    part(&j, &all, all.keys * p / parts, all.keys * (p + 1) / parts);
    if (parts == 1) finish(a, row, j.g, j.acc);
  }
  for (int64_t i = 0; i < heads && most > 1; i++) {
    const rp_row *row = &rows[i / a->Hk];
    if (row->n != 1) continue;
    const plan all = plan_of(a, row, (int)(i % a->Hk));
    const int parts = parts_of(a, &all);
    rp_real *to = accs + (size_t)(i * most) * acc_reals(a);
    const size_t each = head_reals(a);
    for (int p = 1; p < parts; p++)
      for (int m = 0; m < heads_of(a); m++)
        merge(to + (size_t)m * each, to + (size_t)p * acc_reals(a) + (size_t)m * each, a->h);
    if (parts > 1) finish(a, row, (int)(i % a->Hk), to);
  }
}
