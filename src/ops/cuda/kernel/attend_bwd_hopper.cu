/* attend_bwd_hopper.cu - backward of attention with the products of warpgroups (wgmma.h).
 *
 * The mathematics is that of attend_bwd_mma.cu. Of a block's three warpgroups the first brings rows to shared
 * memory, the two others have 64 rows each of what the block makes. Their scores lie as the next product takes
 * them from registers: [key][query] for dk and dv, [query][key] for dq. */
#include "ops/cuda/kernel/attend_bwd_hopper.h"
#include "ops/cuda/kernel/attend_bwd_lists.h"

#if defined(RP_EMULATE) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

#include "ops/cuda/kernel/wgmma.h"

namespace {

enum { ROW = 128 };                 /* bytes of a row of an operand: 64 channels */
enum { LOADERS = 128, MAKERS = 8 }; /* threads, warps */
#define LOG2E 1.4426950408889634

RP_DEVICE int lane_of() { return (int)(threadIdx.x % 32); }
RP_DEVICE int same(int x) { return __shfl_sync(RP_ALL_LANES, x, 0); }

struct place {
  int stage;
  uint32_t turn;
};
template <int STAGES>
RP_DEVICE void step(place *p) {
  if (++p->stage == STAGES) {
    p->stage = 0;
    p->turn ^= 1;
  }
}

/* Where eighth `e` of a row lies in a tile of `rows`. */
RP_DEVICE uint32_t place_of(int rows, int row, int e) {
  return (uint32_t)((e / 8 * rows + row) * ROW + ((e % 8 ^ row % 8) << 4));
}

/* Rows i of a tile come from x + at(i), zeros from `count` on. One warpgroup. */
template <int h, int rows, class AT>
RP_DEVICE void load_rows(unsigned char *tile, const bf16 *x, AT at, int count) {
  enum { EIGHTHS = h / 8, EACH = LOADERS / EIGHTHS };
  const int e = (int)threadIdx.x % EIGHTHS, own = (int)threadIdx.x / EIGHTHS;
#pragma unroll 4
  for (int n = 0; n < rows; n += EACH) {
    const int i = n + own;
    copy_async_16(tile + place_of(rows, i, e), x + (i < count ? at(i) + e * 8 : 0),
                  i < count ? 16 : 0);
  }
}

/* c[64 x N] = a b^T: rows of a tile of A, and all N rows of a tile. */
template <int h, int A, int N>
RP_DEVICE void make_scores(float (&c)[N / 2], uint64_t a, uint64_t b) {
  mma_fence();
  RP_UNROLL
  for (int i = 0; i < h / 16; i++) {
    const uint64_t x = a + (uint32_t)((i / 4 * A * ROW + i % 4 * 32) >> 4);
    const uint64_t y = b + (uint32_t)((i / 4 * N * ROW + i % 4 * 32) >> 4);
    if (i == 0)
      mma_shared_new(c, x, y);
    else
      mma_shared(c, x, y, 1);
  }
  mma_close_group();
}
/* c[64 x h] += a b: b are the N rows of a tile. */
template <int h, int N>
RP_DEVICE void add_rows(float (&c)[h / 2], uint32_t (&a)[N / 16][4], uint64_t b) {
  mma_given(a);
  mma_fence();
  RP_UNROLL
  for (int i = 0; i < N / 16; i++) mma_regs(c, a[i], b + (uint32_t)(i * 16 * ROW >> 4), 1);
  mma_close_group();
}

template <int N>
RP_DEVICE void round_scores(uint32_t (&p)[N / 16][4], const float (&s)[N / 2]) {
  RP_UNROLL
  for (int i = 0; i < N / 4; i++) p[i / 4][i % 4] = bf16x2(s[2 * i + 1], s[2 * i]);
}

/* Rows `row` and row + 8 of what a warpgroup made; row i goes to at(i). */
template <int h, class AT>
RP_DEVICE void put_gradient(float *to, const float (&c)[h / 2], AT at, int row, int count,
                            float scale) {
  RP_UNROLL
  for (int m = 0; m < 2; m++) {
    if (row + 8 * m >= count) continue;
    float *y = to + at(row + 8 * m) + lane_of() % 4 * 2;
    RP_UNROLL
    for (int n = 0; n < h / 8; n++)
      *(float2 *)(y + 8 * n) = make_float2(c[4 * n + 2 * m] * scale, c[4 * n + 2 * m + 1] * scale);
  }
}

/* ---- dk, dv ---- */

enum { KEYS = RP_ATTEND_BWD_HOPPER_KEYS, ASKED = RP_ATTEND_BWD_HOPPER_ASKED, ASKED_STAGES = 4 };

/* The work of a block: a tile of keys, and over all heads of its group the queries t0 .. t1 - 1 that see any
 * of them, ASKED at a time. */
struct keys_job {
  int32_t tok, g, head, group; /* of the row; key-value head, first query head, query heads */
  key_tile tile;               /* count 0: there is none */
};

/* Queries from t0 on. For warpgroup w: bit w: they see keys of its; bit 2 + w: not each of them each. */
struct asked {
  int32_t t0;
  uint32_t flags;
};
enum { MEET = 1, PARTLY = 4, LAST = 16 };

template <int h>
struct keys_room {
  unsigned char k[KEYS * h * 2], v[KEYS * h * 2];
  unsigned char q[ASKED_STAGES][ASKED * h * 2], dout[ASKED_STAGES][ASKED * h * 2];
  float lse[ASKED_STAGES][ASKED], delta[ASKED_STAGES][ASKED];
  asked now[ASKED_STAGES];
  int32_t at[KEYS]; /* positions; beyond the last key its */
  keys_job job;
  uint64_t keys_there, there[ASKED_STAGES], read[ASKED_STAGES]; /* gates */
};

RP_DEVICE keys_job find_keys_job(const rp_attend_bwd_args &op) {
  const uint32_t units = (uint32_t)op.rows.count * (uint32_t)op.Hk;
  const uint32_t rank = blockIdx.x / units, unit = blockIdx.x - rank * units;
  const int32_t i = (int32_t)(unit / (uint32_t)op.Hk), g = (int32_t)unit - i * op.Hk;
  const rp_row row = ((const rp_row *)op.rows.row.at)[i];
  keys_job j = {row.tok, g, op.H / op.Hk * g, op.H / op.Hk, {}};
  if (!key_tile_at(&j.tile, pat_of(op, row, g), row.n, (int32_t)rank, KEYS)) j.tile.count = 0;
  return j;
}

/* Which of the queries from t0 on see keys from .. to: MEET, and PARTLY if not all see all. */
RP_DEVICE uint32_t flags_of(int32_t t0, int32_t from, int32_t to, int32_t far) {
  if (t0 + ASKED <= from || t0 - to > far) return 0;
  return MEET | (t0 < to || t0 + ASKED - 1 - from > far ? PARTLY : 0);
}

/* Of the whole block. */
template <int h>
RP_DEVICE void load_keys(const rp_attend_bwd_args &op, keys_room<h> *r) {
  const int64_t kv = (int64_t)op.Hk * h;
  const int32_t *at = r->at, count = r->job.tile.count;
  const int64_t from = r->job.tok * kv + (int64_t)r->job.g * h;
  const auto row_at = [&](int i) { return at[i] * kv; };
  load_rows<h, KEYS>(r->k, (const bf16 *)op.k.p.at + from, row_at, count);
  load_rows<h, KEYS>(r->v, (const bf16 *)op.v.p.at + from, row_at, count);
  gate_come_behind_copies(&r->keys_there);
}

template <int h>
RP_DEVICE void load_asked(const rp_attend_bwd_mma_args &a, keys_room<h> *r) {
  const rp_attend_bwd_args &op = a.op;
  const int64_t wide = (int64_t)op.H * h;
  const auto row_at = [&](int row) { return row * wide; };
  /* Half of the threads have lse, half delta; queries that are not there have P = 0. */
  const int mine = (int)threadIdx.x % ASKED;
  const bool lse = threadIdx.x < ASKED;
  const float *const stats = (const float *)(lse ? a.lse.at : a.delta.at);
  const int32_t first = r->job.tile.t0, end = r->job.tile.t1;
  place now = {0, 0};
  for (int32_t head = r->job.head, heads = r->job.group; heads > 0; head++, heads--)
    for (int32_t t0 = first; t0 < end; t0 += ASKED) {
      const int32_t count = rp_min_i32(ASKED, end - t0), token = r->job.tok + t0;
      float stat = lse ? INFINITY : 0;
      if (mine < count) stat = stats[(int64_t)head * op.rows.tokens + token + mine];
      const int64_t from = token * wide + (int64_t)head * h;
      gate_wait(&r->read[now.stage], now.turn ^ 1);
      load_rows<h, ASKED>(r->q[now.stage], (const bf16 *)op.q.p.at + from, row_at, count);
      load_rows<h, ASKED>(r->dout[now.stage], (const bf16 *)a.dout.at + from, row_at, count);
      gate_come_behind_copies(&r->there[now.stage]);
      (lse ? &r->lse[now.stage][0] : &r->delta[now.stage][0])[mine] = stat;
      if (threadIdx.x == 0) {
        const int32_t keys = r->job.tile.count, far = r->job.tile.list.far;
        uint32_t flags = flags_of(t0, r->at[0], r->at[63], far);
        if (keys > 64) flags |= flags_of(t0, r->at[64], r->at[127], far) << 1;
        if (heads == 1 && t0 + ASKED >= end) flags |= LAST;
        r->now[now.stage] = {t0, flags};
      }
      gate_come(&r->there[now.stage]);
      step<ASKED_STAGES>(&now);
    }
}

/* s = the scores of keys (rows) and queries (columns) become P. */
template <int N>
RP_DEVICE void soften_keys(float (&s)[N / 2], const float *lse, float c) {
  RP_UNROLL
  for (int n = 0; n < N / 8; n++) {
    const float2 x = *(const float2 *)&lse[8 * n + lane_of() % 4 * 2];
    RP_UNROLL
    for (int i = 0; i < 4; i++) s[4 * n + i] = fast_exp2(s[4 * n + i] * c - (i % 2 ? x.y : x.x));
  }
}
/* P of pairs that do not see each other is 0. first, second: positions of the thread's keys, less that of the
 * first query. */
template <int N>
RP_DEVICE void hide_keys(float (&s)[N / 2], int32_t first, int32_t second, int32_t far) {
  RP_UNROLL
  for (int i = 0; i < N / 2; i++) {
    const int32_t ago = i / 4 * 8 + lane_of() % 4 * 2 + i % 2 - (i % 4 < 2 ? first : second);
    if (ago < 0 || ago > far) s[i] = 0;
  }
}

/* P (d - delta), d = dout v, from the rounded P: what is in registers here is all that there is room for. */
template <int N>
RP_DEVICE void slope_keys(uint32_t (&g)[N / 16][4], const float (&d)[N / 2],
                          const uint32_t (&p)[N / 16][4], const float *delta) {
  RP_UNROLL
  for (int n = 0; n < N / 8; n++) {
    const float2 x = *(const float2 *)&delta[8 * n + lane_of() % 4 * 2];
    RP_UNROLL
    for (int m = 0; m < 2; m++) {
      const uint32_t one = p[n / 2][n % 2 * 2 + m];
      const float *at = &d[4 * n + 2 * m];
      g[n / 2][n % 2 * 2 + m] = bf16x2(high_f32(one) * (at[1] - x.y), low_f32(one) * (at[0] - x.x));
    }
  }
}

template <int h>
RP_DEVICE void make_keys(const rp_attend_bwd_mma_args &a, keys_room<h> *r, int group) {
  const rp_attend_bwd_args &op = a.op;
  const float c = (float)(op.scale * LOG2E);
  const uint32_t own = (uint32_t)(group * 64 * ROW);
  const uint64_t k = mma_along(shared_at(r->k) + own), v = mma_along(shared_at(r->v) + own);
  const int row = group * 64 + same((int)threadIdx.x / 32) % 4 * 16 + lane_of() / 4;
  float dk[h / 2], dv[h / 2], s[ASKED / 2], d[ASKED / 2];
  uint32_t p[ASKED / 16][4], g[ASKED / 16][4];
  RP_UNROLL
  for (int i = 0; i < h / 2; i++) dk[i] = dv[i] = 0;
  place now = {0, 0};
  uint32_t flags = 0;
  /* To the next queries that see keys of this warpgroup; false: there are none. */
  const auto seek = [&] {
    while (!(flags & LAST)) {
      gate_wait(&r->there[now.stage], now.turn);
      flags = r->now[now.stage].flags;
      if (flags >> group & MEET) return true;
      __syncwarp();
      if (lane_of() == 0) gate_come(&r->read[now.stage]);
      step<ASKED_STAGES>(&now);
    }
    return false;
  };
  gate_wait(&r->keys_there, 0);
  bool more = seek();
  if (more) {
    mma_sees_shared();
    make_scores<h, KEYS, ASKED>(s, k, mma_along(shared_at(r->q[now.stage])));
    mma_wait<0>();
    mma_made(s);
  }
  while (more) {
    const int stage = now.stage;
    const uint32_t q = shared_at(r->q[stage]), o = shared_at(r->dout[stage]);
    make_scores<h, KEYS, ASKED>(d, v, mma_along(o));
    soften_keys<ASKED>(s, r->lse[stage], c);
    if (flags >> group & PARTLY)
      hide_keys<ASKED>(s, r->at[row] - r->now[stage].t0, r->at[row + 8] - r->now[stage].t0,
                       r->job.tile.list.far);
    round_scores<ASKED>(p, s);
    add_rows<h, ASKED>(dv, p, mma_across(o, ASKED * ROW));
    mma_wait<1>();
    mma_made(d);
    slope_keys<ASKED>(g, d, p, r->delta[stage]);
    step<ASKED_STAGES>(&now);
    more = seek();
    mma_sees_shared();
    /* With no more queries that is for nothing: ptxas wants all products of a turn or none. */
    make_scores<h, KEYS, ASKED>(s, k, mma_along(shared_at(r->q[more ? now.stage : stage])));
    add_rows<h, ASKED>(dk, g, mma_across(q, ASKED * ROW));
    mma_wait<0>();
    mma_made(s);
    mma_made(dv);
    mma_made(dk);
    __syncwarp();
    if (lane_of() == 0) gate_come(&r->read[stage]);
  }
  const int64_t kv = (int64_t)op.Hk * h;
  const int64_t from = r->job.tok * kv + (int64_t)r->job.g * h;
  const auto at = [&](int i) { return from + r->at[i] * kv; };
  put_gradient<h>((float *)op.dv.p.at, dv, at, row, r->job.tile.count, 1);
  put_gradient<h>((float *)op.dk.p.at, dk, at, row, r->job.tile.count, (float)op.scale);
}

template <int h>
RP_DEVICE void keys_body(const rp_attend_bwd_mma_args &a) {
  RP_SHARED(keys_room<h>, r);
  static_assert(sizeof *r <= RP_ATTEND_BWD_HOPPER_KEYS_SHARED(h), "shared memory");
  if (threadIdx.x == 0) {
    if (shared_at(r) % 1024) stop_device();
    r->job = find_keys_job(a.op);
    gate_open(&r->keys_there, LOADERS);
    for (int i = 0; i < ASKED_STAGES; i++) {
      gate_open(&r->there[i], 2 * LOADERS);
      gate_open(&r->read[i], MAKERS);
    }
  }
  __syncthreads();
  if (!r->job.tile.count) return;
  if (threadIdx.x < KEYS) r->at[threadIdx.x] = tile_key(r->job.tile, (int32_t)threadIdx.x);
  __syncthreads();
  const int group = same((int)threadIdx.x / 128);
  if (group == 0) {
    leave_registers<h == 128 ? 24 : 40>();
    load_keys<h>(a.op, r);
    load_asked<h>(a, r);
  } else {
    take_registers<h == 128 ? 240 : 232>();
    make_keys<h>(a, r, group - 1);
  }
}

/* ---- dq ---- */

enum { QUERIES = RP_ATTEND_BWD_HOPPER_QUERIES, MET = RP_ATTEND_BWD_HOPPER_MET };
enum { K_STAGES = 3, V_STAGES = 2 };
enum { GATHER = 32 }; /* keys that a warp brings */

/* The work of a block: queries t0 .. t0 + count - 1, and the keys of all their segments as one list. */
struct queries_job {
  int32_t tok, g, head;    /* of the row; key-value head, query head */
  int32_t t0, count, keys; /* count 0: there is none */
  rp_seg seg[3]; /* as many as there are without a past; those that are not there have no keys */
};

template <int h>
struct queries_room {
  unsigned char q[QUERIES * h * 2], dout[QUERIES * h * 2];
  unsigned char k[K_STAGES][MET * h * 2], v[V_STAGES][MET * h * 2];
  uint32_t see[K_STAGES][MET]; /* of the queries those from the low half to below the high one */
  uint32_t partly[K_STAGES][MET / GATHER]; /* bit w: warpgroup w has to look at `see` */
  queries_job job;
  uint64_t queries_there; /* gates */
  uint64_t k_there[K_STAGES], k_read[K_STAGES], v_there[V_STAGES], v_read[V_STAGES];
};

RP_DEVICE queries_job find_queries_job(const rp_attend_bwd_args &op) {
  const uint32_t units = (uint32_t)op.rows.count * (uint32_t)op.H;
  const uint32_t rank = blockIdx.x / units, unit = blockIdx.x - rank * units;
  const int32_t i = (int32_t)(unit / (uint32_t)op.H), head = (int32_t)unit - i * op.H;
  const rp_row row = ((const rp_row *)op.rows.row.at)[i];
  const int32_t tiles = (row.n + QUERIES - 1) / QUERIES, g = head / (op.H / op.Hk);
  queries_job j = {row.tok, g, head, (tiles - 1 - (int32_t)rank) * QUERIES, 0, 0, {}};
  if (j.t0 < 0) return j;
  j.count = rp_min_i32(QUERIES, row.n - j.t0);
  rp_seg seg[RP_SEGS_MAX];
  const int n = rp_segs(seg, pat_of(op, row, g), rp_past{}, j.t0, j.t0 + j.count);
  for (int k = 0; k < n; k++) {
    j.seg[k] = seg[k];
    j.keys += seg[k].count;
  }
  return j;
}

/* Position of entry i of the list, and which of the queries see it; -1: there is none. */
RP_DEVICE int32_t find_key(const queries_job &j, int32_t i, uint32_t *see) {
  *see = 0;
  for (int n = 0; n < 3; n++) {
    const rp_seg &s = j.seg[n];
    if (i >= s.count) {
      i -= s.count;
      continue;
    }
    const int32_t at = s.pos + i * s.step, low = at - j.t0 + s.near;
    const int64_t end = (int64_t)at - j.t0 + s.far + 1;
    const uint32_t to = end < 0 ? 0 : end < QUERIES ? (uint32_t)end : (uint32_t)QUERIES;
    *see = (uint32_t)rp_min_i32(low > 0 ? low : 0, QUERIES) | to << 16;
    return at;
  }
  return -1;
}

/* The GATHER rows whose places in memory the lanes know (-1: none), from row `first` of a tile on. */
template <int h>
RP_DEVICE void gather(unsigned char *tile, const bf16 *x, int first, long long mine) {
  enum { EIGHTHS = h / 8, EACH = 32 / EIGHTHS };
  const int e = lane_of() % EIGHTHS, own = lane_of() / EIGHTHS;
#pragma unroll 4
  for (int i = 0; i < GATHER; i += EACH) {
    const long long at = __shfl_sync(RP_ALL_LANES, mine, i + own);
    copy_async_16(tile + place_of(MET, first + i + own, e), x + (at < 0 ? 0 : at + e * 8),
                  at < 0 ? 0 : 16);
  }
}

template <int h>
RP_DEVICE void load_met(const rp_attend_bwd_mma_args &a, queries_room<h> *r) {
  const rp_attend_bwd_args &op = a.op;
  const queries_job &j = r->job;
  const int64_t kv = (int64_t)op.Hk * h, wide = (int64_t)op.H * h;
  const int64_t from = (int64_t)(j.tok + j.t0) * wide + (int64_t)j.head * h;
  const auto row_at = [&](int row) { return row * wide; };
  load_rows<h, QUERIES>(r->q, (const bf16 *)op.q.p.at + from, row_at, j.count);
  load_rows<h, QUERIES>(r->dout, (const bf16 *)a.dout.at + from, row_at, j.count);
  gate_come_behind_copies(&r->queries_there);
  const int warp = same((int)threadIdx.x / 32);
  place k = {0, 0}, v = {0, 0};
  for (int32_t i = 0; i < j.keys; i += MET) {
    uint32_t see;
    const int32_t key = find_key(j, i + (int32_t)threadIdx.x, &see);
    const long long at = key < 0 ? -1 : (int64_t)(j.tok + key) * kv + (int64_t)j.g * h;
    const uint32_t low = see & 0xffff, end = see >> 16;
    const int one = __any_sync(RP_ALL_LANES, low > 0 || end < QUERIES / 2);
    const int two = __any_sync(RP_ALL_LANES, low > QUERIES / 2 || end < QUERIES);
    gate_wait(&r->k_read[k.stage], k.turn ^ 1);
    gather<h>(r->k[k.stage], (const bf16 *)op.k.p.at, warp * GATHER, at);
    gate_come_behind_copies(&r->k_there[k.stage]);
    r->see[k.stage][threadIdx.x] = see;
    if (lane_of() == 0) r->partly[k.stage][warp] = (uint32_t)(one | two << 1);
    gate_come(&r->k_there[k.stage]);
    gate_wait(&r->v_read[v.stage], v.turn ^ 1);
    gather<h>(r->v[v.stage], (const bf16 *)op.v.p.at, warp * GATHER, at);
    gate_come_behind_copies(&r->v_there[v.stage]);
    step<K_STAGES>(&k);
    step<V_STAGES>(&v);
  }
}

/* s = the scores of queries (rows) and keys (columns) become P. row: the thread's first, in the tile. */
template <int N>
RP_DEVICE void soften_queries(float (&s)[N / 2], const float (&lse)[2], float c,
                              const uint32_t *see, const uint32_t *partly, uint32_t bit,
                              uint32_t row) {
  RP_UNROLL
  for (int i = 0; i < N / 2; i++) s[i] = fast_exp2(s[i] * c - lse[i / 2 % 2]);
  RP_UNROLL
  for (int n = 0; n < N / GATHER; n++) {
    if (!(partly[n] & bit)) continue;
    RP_UNROLL
    for (int j = n * 4; j < n * 4 + 4; j++) {
      const uint2 w = *(const uint2 *)(see + 8 * j + lane_of() % 4 * 2);
      RP_UNROLL
      for (int i = 0; i < 4; i++) {
        const uint32_t one = i % 2 ? w.y : w.x, at = row + (uint32_t)(i / 2 * 8);
        if (at < (one & 0xffff) || at >= one >> 16) s[4 * j + i] = 0;
      }
    }
  }
}

/* p becomes P (d - delta), d = dout v. */
template <int N>
RP_DEVICE void slope_queries(uint32_t (&p)[N / 16][4], const float (&d)[N / 2],
                             const float (&delta)[2]) {
  RP_UNROLL
  for (int i = 0; i < N / 4; i++) {
    uint32_t *const one = &p[i / 4][i % 4];
    *one = bf16x2(high_f32(*one) * (d[2 * i + 1] - delta[i % 2]),
                  low_f32(*one) * (d[2 * i] - delta[i % 2]));
  }
}

template <int h>
RP_DEVICE void make_queries(const rp_attend_bwd_mma_args &a, queries_room<h> *r, int group) {
  const rp_attend_bwd_args &op = a.op;
  const queries_job &j = r->job;
  const int row = group * 64 + same((int)threadIdx.x / 32) % 4 * 16 + lane_of() / 4;
  const float c = (float)(op.scale * LOG2E);
  const bool speaks = lane_of() == 0;
  const uint32_t bit = 1u << group, own = (uint32_t)(group * 64 * ROW);
  const uint64_t q = mma_along(shared_at(r->q) + own), o = mma_along(shared_at(r->dout) + own);
  float lse[2], delta[2];
  RP_UNROLL
  for (int m = 0; m < 2; m++) {
    const int i = row + 8 * m;
    const int64_t at = (int64_t)j.head * op.rows.tokens + j.tok + j.t0 + i;
    lse[m] = i < j.count ? ((const float *)a.lse.at)[at] : INFINITY;
    delta[m] = i < j.count ? ((const float *)a.delta.at)[at] : 0;
  }
  float dq[h / 2], s[MET / 2], d[MET / 2];
  uint32_t p[MET / 16][4];
  RP_UNROLL
  for (int i = 0; i < h / 2; i++) dq[i] = 0;
  place k = {0, 0}, v = {0, 0};
  gate_wait(&r->queries_there, 0);
  gate_wait(&r->k_there[0], 0);
  mma_sees_shared();
  make_scores<h, QUERIES, MET>(s, q, mma_along(shared_at(r->k[0])));
  mma_wait<0>();
  mma_made(s);
  for (int32_t left = j.keys; left > 0; left -= MET) {
    const int stage = k.stage;
    gate_wait(&r->v_there[v.stage], v.turn);
    mma_sees_shared();
    make_scores<h, QUERIES, MET>(d, o, mma_along(shared_at(r->v[v.stage])));
    soften_queries<MET>(s, lse, c, r->see[stage], r->partly[stage], bit, (uint32_t)row);
    round_scores<MET>(p, s);
    step<K_STAGES>(&k);
    if (left > MET) gate_wait(&r->k_there[k.stage], k.turn);
    mma_sees_shared();
    /* Behind the last keys that is for nothing: ptxas wants all products of a turn or none. */
    make_scores<h, QUERIES, MET>(s, q, mma_along(shared_at(r->k[left > MET ? k.stage : stage])));
    mma_wait<1>();
    mma_made(d);
    __syncwarp();
    if (speaks) gate_come(&r->v_read[v.stage]);
    step<V_STAGES>(&v);
    slope_queries<MET>(p, d, delta);
    add_rows<h, MET>(dq, p, mma_across(shared_at(r->k[stage]), MET * ROW));
    mma_wait<0>();
    mma_made(s);
    mma_made(dq);
    __syncwarp();
    if (speaks) gate_come(&r->k_read[stage]);
  }
  const int64_t wide = (int64_t)op.H * h;
  const auto at = [&](int i) { return (int64_t)(j.tok + j.t0 + i) * wide + (int64_t)j.head * h; };
  put_gradient<h>((float *)op.dq.p.at, dq, at, row, j.count, (float)op.scale);
}

template <int h>
RP_DEVICE void queries_body(const rp_attend_bwd_mma_args &a) {
  RP_SHARED(queries_room<h>, r);
  static_assert(sizeof *r <= RP_ATTEND_BWD_HOPPER_QUERIES_SHARED(h), "shared memory");
  if (threadIdx.x == 0) {
    if (shared_at(r) % 1024) stop_device();
    r->job = find_queries_job(a.op);
    gate_open(&r->queries_there, LOADERS);
    for (int i = 0; i < K_STAGES; i++) {
      gate_open(&r->k_there[i], 2 * LOADERS);
      gate_open(&r->k_read[i], MAKERS);
    }
    for (int i = 0; i < V_STAGES; i++) {
      gate_open(&r->v_there[i], LOADERS);
      gate_open(&r->v_read[i], MAKERS);
    }
  }
  __syncthreads();
  if (!r->job.count) return;
  const int group = same((int)threadIdx.x / 128);
  if (group == 0) {
    leave_registers<h == 128 ? 24 : 40>();
    load_met<h>(a, r);
  } else {
    take_registers<h == 128 ? 240 : 232>();
    make_queries<h>(a, r, group - 1);
  }
}

}  // namespace

#define RP_BODY(name, h) name##_body<h>(a)
#else
#define RP_BODY(name, h) stop_device()
#endif

/* That one block has a multiprocessor is what ptxas must know to give registers from one warpgroup to another. */
#ifdef RP_EMULATE
#define RP_HOPPER_KERNEL(name) RP_KERNEL(name, rp_attend_bwd_mma_args, RP_ATTEND_BWD_HOPPER_THREADS)
#else
#define RP_HOPPER_KERNEL(name) \
  extern "C" __global__ void __launch_bounds__(RP_ATTEND_BWD_HOPPER_THREADS, 1) \
      name(const __grid_constant__ rp_attend_bwd_mma_args a)
#endif
#define RP_HOPPER(name, h) \
  RP_HOPPER_KERNEL(attend_bwd_hopper_##name##_##h) { RP_BODY(name, h); }
RP_HOPPER(keys, 64)
RP_HOPPER(keys, 128)
RP_HOPPER(queries, 64)
RP_HOPPER(queries, 128)
