/* attend_bwd_mma.cu - backward of attention with the products of a warp (mma_bf16).
 *
 * With P = exp2(c q k - lse), dP = dout v and dS = P (dP - delta): dv = P^T dout, dk = dS^T q scale,
 * dq = dS k scale. P and dS are rounded to bfloat16 for the products they go into, dout is before. */
#include "ops/cuda/kernel/attend_bwd_mma.h"

#include "ops/cuda/kernel/attend_bwd_lists.h"

enum { THREADS = RP_ATTEND_BWD_MMA_THREADS, WARPS = THREADS / 32 };
#define LOG2E 1.4426950408889634

RP_DEVICE int lane_of() { return (int)(threadIdx.x % 32); }
RP_DEVICE int warp_of() { return (int)(threadIdx.x / 32); }

/* ---- tiles in shared memory: rows of `wide` elements, eighth e of row r at place e ^ r % 8 ---- */

template <int wide>
RP_DEVICE bf16 *eight(bf16 *tile, int row, int e) {
  return tile + row * wide + ((e ^ (row & 7)) << 3);
}

/* Rows i of a tile come from x + at(i), zeros from `count` on. */
template <int wide, int rows, class AT>
RP_DEVICE void load_rows(bf16 *tile, const bf16 *x, AT at, int count) {
  enum { EIGHTHS = wide / 8, EACH = THREADS / EIGHTHS };
  const int e = threadIdx.x % EIGHTHS;
  RP_UNROLL
  for (int i = threadIdx.x / EIGHTHS; i < rows; i += EACH)
    copy_async_16(eight<wide>(tile, i, e), x + (i < count ? at(i) + e * 8 : 0), i < count ? 16 : 0);
}

/* a of mma_bf16 (16 x 16), rows r0.. and eighths e0, e0 + 1. */
template <int wide>
RP_DEVICE void load_a(uint32_t a[4], bf16 *tile, int r0, int e0) {
  const int l = lane_of();
  load_matrix_x4(a, eight<wide>(tile, r0 + l % 16, e0 + l / 16));
}
/* b of two blocks of 8 columns: those are rows r0.. of the tile, what is summed over lies along them. */
template <int wide>
RP_DEVICE void load_b(uint32_t b[4], bf16 *tile, int r0, int e0) {
  const int l = lane_of();
  load_matrix_x4(b, eight<wide>(tile, r0 + l % 8 + l / 16 * 8, e0 + l / 8 % 2));
}
/* The same where rows r0.. are summed over and columns are the eighths e0, e0 + 1. */
template <int wide>
RP_DEVICE void load_b_turned(uint32_t b[4], bf16 *tile, int r0, int e0) {
  const int l = lane_of();
  load_matrix_x4_trans(b, eight<wide>(tile, r0 + l % 16, e0 + l / 16));
}

/* c[32 x 8 N] = a b^T: rows a0.. of a, rows b0.. of b. */
template <int wide, int N>
RP_DEVICE void product_along(float (&c)[2][N][4], bf16 *a, int a0, bf16 *b, int b0) {
  RP_UNROLL
  for (int i = 0; i < 2 * N * 4; i++) c[i / (4 * N)][i / 4 % N][i % 4] = 0;
  RP_UNROLL
  for (int k = 0; k < wide / 8; k += 2) {
    uint32_t x[2][4];
    load_a<wide>(x[0], a, a0, k);
    load_a<wide>(x[1], a, a0 + 16, k);
    RP_UNROLL
    for (int n = 0; n < N; n += 2) {
      uint32_t y[4];
      load_b<wide>(y, b, b0 + 8 * n, k);
      RP_UNROLL
      for (int i = 0; i < 4; i++) mma_bf16(c[i / 2][n + i % 2], x[i / 2], y + i % 2 * 2);
    }
  }
}

/* c[32 x 8 N] += a b: rows a0.. of a [.][deep], eighths e0.. of b [deep][wide]. */
template <int wide, int deep, int N>
RP_DEVICE void product_across(float (&c)[2][N][4], bf16 *a, int a0, bf16 *b, int e0) {
  RP_UNROLL
  for (int k = 0; k < deep / 16; k++) {
    uint32_t x[2][4];
    load_a<deep>(x[0], a, a0, 2 * k);
    load_a<deep>(x[1], a, a0 + 16, 2 * k);
    RP_UNROLL
    for (int n = 0; n < N; n += 2) {
      uint32_t y[4];
      load_b_turned<wide>(y, b, 16 * k, e0 + n);
      RP_UNROLL
      for (int i = 0; i < 4; i++) mma_bf16(c[i / 2][n + i % 2], x[i / 2], y + i % 2 * 2);
    }
  }
}

/* ---- before: delta, and what is rounded ---- */

template <int h>
RP_DEVICE void prepare_body(const rp_attend_bwd_mma_args &a) {
  const rp_attend_bwd_args &op = a.op;
  const int64_t i = (int64_t)blockIdx.x * WARPS + warp_of(), tokens = op.rows.tokens;
  if (i >= tokens * op.H) return;
  const int64_t at = i * h + lane_of() * (h / 32);
  const float *dout = (const float *)op.dout.p.at + at;
  const uint32_t *out = (const uint32_t *)((const bf16 *)op.out.p.at + at);
  uint32_t *rounded = (uint32_t *)((bf16 *)a.dout.at + at);
  float sum = 0;
  RP_UNROLL
  for (int c = 0; c < h / 64; c++) {
    const float2 d = *(const float2 *)(dout + 2 * c);
    const uint32_t x = bf16x2(d.y, d.x), y = out[c];
    rounded[c] = x;
    sum += low_f32(x) * low_f32(y) + high_f32(x) * high_f32(y);
  }
  sum = warp_sum(sum);
  if (lane_of() == 0) {
    const int64_t to = i % op.H * tokens + i / op.H;
    ((float *)a.delta.at)[to] = sum;
    ((float *)a.lse.at)[to] = ((const float *)op.lse.at)[i] * (float)LOG2E;
  }
}
RP_KERNEL(attend_bwd_mma_prepare_64, rp_attend_bwd_mma_args, RP_ATTEND_BWD_MMA_THREADS) {
  prepare_body<64>(a);
}
RP_KERNEL(attend_bwd_mma_prepare_128, rp_attend_bwd_mma_args, RP_ATTEND_BWD_MMA_THREADS) {
  prepare_body<128>(a);
}

/* ---- dk, dv ---- */

/* Rows of the gradients of a warp's 32 x 8 N; row i of the tile goes to at(i). */
template <int N, class AT>
RP_DEVICE void put_gradient(float *to, float (&c)[2][N][4], AT at, int r0, int count, float scale) {
  RP_UNROLL
  for (int m = 0; m < 4; m++) {
    const int row = r0 + m * 8 + lane_of() / 4;
    if (row >= count) continue;
    float *y = to + at(row) + lane_of() % 4 * 2;
    RP_UNROLL
    for (int n = 0; n < N; n++)
      *(float2 *)(y + 8 * n) =
          make_float2(c[m / 2][n][m % 2 * 2] * scale, c[m / 2][n][m % 2 * 2 + 1] * scale);
  }
}

enum { KEYS = RP_ATTEND_BWD_MMA_KEYS, ASKED = RP_ATTEND_BWD_MMA_ASKED };

template <int h>
struct keys_room {
  bf16 k[KEYS * h], v[KEYS * h];
  bf16 q[2][ASKED * h], dout[2][ASKED * h];
  bf16 p[KEYS * ASKED], s[KEYS * ASKED]; /* key by query */
  float lse[ASKED], delta[ASKED];
};

/* Queries t0 .. t0 + count - 1 of a head, one after the other over all heads of a group. */
typedef struct {
  int32_t head, t0, count;
} asked;
RP_DEVICE asked asked_at(const key_tile &tile, int first_head, int32_t turns, int32_t i) {
  const int32_t t0 = tile.t0 + i % turns * ASKED;
  return {first_head + i / turns, t0, rp_min_i32(ASKED, tile.t1 - t0)};
}

template <int h>
RP_DEVICE void load_asked(const rp_attend_bwd_mma_args &a, keys_room<h> *r, int stage,
                          const rp_row &row, const asked &q) {
  const int64_t wide = (int64_t)a.op.H * h;
  const int64_t at = (int64_t)(row.tok + q.t0) * wide + (int64_t)q.head * h;
  const auto row_at = [&](int i) { return i * wide; };
  load_rows<h, ASKED>(r->q[stage], (const bf16 *)a.op.q.p.at + at, row_at, q.count);
  load_rows<h, ASKED>(r->dout[stage], (const bf16 *)a.dout.at + at, row_at, q.count);
  copies_close_group();
}
/* Thread i: lse of query i, then delta. Those that are not there have P = 0. */
RP_DEVICE float stat_of(const rp_attend_bwd_mma_args &a, const rp_row &row, const asked &q) {
  const int i = threadIdx.x % ASKED;
  const bool lse = threadIdx.x < ASKED;
  if (i >= q.count) return lse ? INFINITY : 0;
  const int64_t at = (int64_t)q.head * a.op.rows.tokens + row.tok + q.t0 + i;
  return ((const float *)(lse ? a.lse.at : a.delta.at))[at];
}

/* P and dS of 32 keys k0.. and 32 queries q0.. from scores s and dP, to shared memory. */
template <int h>
RP_DEVICE void put_scores(keys_room<h> *r, float (&s)[2][4][4], float (&d)[2][4][4], int k0,
                          int q0) {
  const int g = lane_of() / 4, pair = lane_of() % 4 * 2;
  RP_UNROLL
  for (int n = 0; n < 4; n++) {
    const float2 delta = *(const float2 *)&r->delta[q0 + 8 * n + pair];
    RP_UNROLL
    for (int m = 0; m < 4; m++) {
      const int row = k0 + 8 * m + g;
      const float *p = &s[m / 2][n][m % 2 * 2], *dp = &d[m / 2][n][m % 2 * 2];
      *(uint32_t *)(eight<ASKED>(r->p, row, q0 / 8 + n) + pair) = bf16x2(p[1], p[0]);
      *(uint32_t *)(eight<ASKED>(r->s, row, q0 / 8 + n) + pair) =
          bf16x2(p[1] * (dp[1] - delta.y), p[0] * (dp[0] - delta.x));
    }
  }
}

template <int h>
RP_DEVICE void keys_body(const rp_attend_bwd_mma_args &a) {
  RP_SHARED(keys_room<h>, r);
  static_assert(sizeof *r == RP_ATTEND_BWD_MMA_KEYS_SHARED(h), "");
  const rp_attend_bwd_args &op = a.op;
  const int64_t units = (int64_t)op.rows.count * op.Hk, unit = blockIdx.x % units;
  const int g = (int)(unit % op.Hk), group = op.H / op.Hk;
  const rp_row row = ((const rp_row *)op.rows.row.at)[unit / op.Hk];
  key_tile tile;
  if (!key_tile_at(&tile, pat_of(op, row, g), row.n, (int32_t)(blockIdx.x / units), KEYS)) return;
  const int64_t kv = (int64_t)op.Hk * h;
  const auto k_at = [&](int j) {
    return (int64_t)(row.tok + tile_key(tile, j)) * kv + (int64_t)g * h;
  };
  load_rows<h, KEYS>(r->k, (const bf16 *)op.k.p.at, k_at, tile.count);
  load_rows<h, KEYS>(r->v, (const bf16 *)op.v.p.at, k_at, tile.count);

  const int32_t turns = (tile.t1 - tile.t0 + ASKED - 1) / ASKED, end = turns * group;
  const int32_t last_key = tile_key(tile, KEYS);
  const float c = (float)(op.scale * LOG2E);
  /* A warp has 32 keys; of these half of the queries, then half of the channels. */
  const int k0 = warp_of() / 2 * 32, half = warp_of() % 2, q0 = half * 32, pair = lane_of() % 4 * 2;
  float dk[2][h / 16][4] = {}, dv[2][h / 16][4] = {};
  asked now = asked_at(tile, g * group, turns, 0);
  load_asked<h>(a, r, 0, row, now);
  float *const own = (threadIdx.x < ASKED ? r->lse : r->delta) + threadIdx.x % ASKED;
  *own = stat_of(a, row, now);
  for (int32_t i = 0; i < end; i++) {
    const int stage = i % 2;
    copies_wait<0>();
    __syncthreads();
    float stat = 0;
    const asked next = asked_at(tile, g * group, turns, i + 1);
    if (i + 1 < end) {
      load_asked<h>(a, r, !stage, row, next);
      stat = stat_of(a, row, next);
    }
    float s[2][4][4], d[2][4][4];
    product_along<h, 4>(s, r->k, k0, r->q[stage], q0);
    RP_UNROLL
    for (int n = 0; n < 4; n++) {
      const float2 lse = *(const float2 *)&r->lse[q0 + 8 * n + pair];
      RP_UNROLL
      for (int m = 0; m < 8; m++) {
        float *x = &s[m / 4][n][m % 4];
        *x = fast_exp2(*x * c - (m % 2 ? lse.y : lse.x));
      }
    }
    const int32_t most = now.t0 + ASKED - 1 - tile.t0; /* from a query back to a key */
    if (now.t0 < last_key || most > tile.list.far) RP_UNROLL
    for (int m = 0; m < 4; m++) {
      const int32_t ago = now.t0 + q0 + pair - tile_key(tile, k0 + 8 * m + lane_of() / 4);
      RP_UNROLL
      for (int n = 0; n < 8; n++) {
        const int32_t by = ago + n / 2 * 8 + n % 2;
        if (by < 0 || by > tile.list.far) s[m / 2][n / 2][m % 2 * 2 + n % 2] = 0;
      }
    }
    product_along<h, 4>(d, r->v, k0, r->dout[stage], q0);
    put_scores<h>(r, s, d, k0, q0);
    __syncthreads();
    *own = stat;
    product_across<h, ASKED>(dv, r->p, k0, r->dout[stage], half * (h / 16));
    product_across<h, ASKED>(dk, r->s, k0, r->q[stage], half * (h / 16));
    now = next;
  }
  const auto to = [&](int j) { return k_at(j) + half * (h / 2); };
  put_gradient((float *)op.dk.p.at, dk, to, k0, tile.count, (float)op.scale);
  put_gradient((float *)op.dv.p.at, dv, to, k0, tile.count, 1);
}
RP_KERNEL(attend_bwd_mma_keys_64, rp_attend_bwd_mma_args, RP_ATTEND_BWD_MMA_THREADS) {
  keys_body<64>(a);
}
RP_KERNEL(attend_bwd_mma_keys_128, rp_attend_bwd_mma_args, RP_ATTEND_BWD_MMA_THREADS) {
  keys_body<128>(a);
}

/* ---- dq ---- */

enum { QUERIES = RP_ATTEND_BWD_MMA_QUERIES, MET = RP_ATTEND_BWD_MMA_MET };

template <int h>
struct queries_room {
  bf16 q[QUERIES * h], dout[QUERIES * h];
  bf16 k[2][MET * h], v[2][MET * h];
};

/* Keys of a segment, entries j0 .. ; segments from `seg` on are left. */
typedef struct {
  int32_t seg, j0;
} met;

template <int h>
RP_DEVICE void load_met(const rp_attend_bwd_args &op, queries_room<h> *r, int stage,
                        const rp_row &row, int g, const rp_seg &seg, int32_t j0) {
  const int64_t kv = (int64_t)op.Hk * h, step = kv * seg.step;
  const int64_t at = (int64_t)(row.tok + seg.pos) * kv + j0 * step + (int64_t)g * h;
  const auto row_at = [&](int i) { return i * step; };
  load_rows<h, MET>(r->k[stage], (const bf16 *)op.k.p.at + at, row_at, seg.count - j0);
  load_rows<h, MET>(r->v[stage], (const bf16 *)op.v.p.at + at, row_at, seg.count - j0);
  copies_close_group();
}

/* Turns dS of the warp's 32 queries by 32 keys into a of mma_bf16, for 16 keys k0. */
RP_DEVICE void a_of(uint32_t a[4], float (&s)[4][4], int k0) {
  RP_UNROLL
  for (int i = 0; i < 4; i++) {
    const float *x = &s[k0 / 8 + i / 2][i % 2 * 2];
    a[i] = bf16x2(x[1], x[0]);
  }
}

template <int h>
RP_DEVICE void queries_body(const rp_attend_bwd_mma_args &a) {
  RP_SHARED(queries_room<h>, r);
  static_assert(sizeof *r == RP_ATTEND_BWD_MMA_QUERIES_SHARED(h), "");
  const rp_attend_bwd_args &op = a.op;
  const int64_t units = (int64_t)op.rows.count * op.H, unit = blockIdx.x % units;
  const int head = (int)(unit % op.H), g = head / (op.H / op.Hk);
  const rp_row row = ((const rp_row *)op.rows.row.at)[unit / op.H];
  const int32_t tiles = (row.n + QUERIES - 1) / QUERIES, rank = (int32_t)(blockIdx.x / units);
  if (rank >= tiles) return;
  const int32_t t0 = (tiles - 1 - rank) * QUERIES, t1 = rp_min_i32(row.n, t0 + QUERIES);
  const int64_t wide = (int64_t)op.H * h;
  const auto q_at = [&](int i) { return (int64_t)(row.tok + t0 + i) * wide + (int64_t)head * h; };
  load_rows<h, QUERIES>(r->q, (const bf16 *)op.q.p.at, q_at, t1 - t0);
  load_rows<h, QUERIES>(r->dout, (const bf16 *)a.dout.at, q_at, t1 - t0);

  rp_seg segs[RP_SEGS_MAX];
  const int count = rp_segs(segs, pat_of(op, row, g), rp_past{}, t0, t1);
  const int q0 = warp_of() * 32, pair = lane_of() % 4 * 2;
  float lse[4], delta[4]; /* of this thread's queries */
  RP_UNROLL
  for (int m = 0; m < 4; m++) {
    const int i = q0 + 8 * m + lane_of() / 4;
    const int64_t at = (int64_t)head * op.rows.tokens + row.tok + t0 + i;
    lse[m] = i < t1 - t0 ? ((const float *)a.lse.at)[at] : INFINITY;
    delta[m] = i < t1 - t0 ? ((const float *)a.delta.at)[at] : 0;
  }
  const float c = (float)(op.scale * LOG2E);
  float dq[2][h / 8][4] = {};
  met now = {0, 0};
  if (count) load_met<h>(op, r, 0, row, g, segs[0], 0);
  for (int stage = 0; now.seg < count; stage = !stage) {
    const rp_seg seg = segs[now.seg];
    copies_wait<0>();
    __syncthreads();
    met next = {now.seg, now.j0 + MET};
    if (next.j0 >= seg.count) next = {now.seg + 1, 0};
    if (next.seg < count) load_met<h>(op, r, !stage, row, g, segs[next.seg], next.j0);
    float s[2][4][4], d[2][4][4];
    product_along<h, 4>(s, r->q, q0, r->k[stage], 0);
    RP_UNROLL
    for (int m = 0; m < 4; m++) RP_UNROLL
    for (int n = 0; n < 8; n++) {
      float *x = &s[m / 2][n / 2][m % 2 * 2 + n % 2];
      *x = fast_exp2(*x * c - lse[m]);
    }
    const int32_t left = seg.count - now.j0, first = seg.pos + now.j0 * seg.step;
    const int32_t last = first + (rp_min_i32(left, MET) - 1) * seg.step;
    if (left < MET || t0 - last < seg.near || t0 + QUERIES - 1 - first > seg.far) RP_UNROLL
    for (int m = 0; m < 4; m++) {
      const int32_t ago = t0 + q0 + 8 * m + lane_of() / 4 - first;
      RP_UNROLL
      for (int n = 0; n < 8; n++) {
        const int j = n / 2 * 8 + pair + n % 2;
        const int32_t by = j < left ? ago - j * seg.step : -1;
        if (by < seg.near || by > seg.far) s[m / 2][n / 2][m % 2 * 2 + n % 2] = 0;
      }
    }
    product_along<h, 4>(d, r->dout, q0, r->v[stage], 0);
    RP_UNROLL
    for (int m = 0; m < 4; m++) RP_UNROLL
    for (int n = 0; n < 8; n++) {
      const int i = m % 2 * 2 + n % 2;
      s[m / 2][n / 2][i] *= d[m / 2][n / 2][i] - delta[m];
    }
    RP_UNROLL
    for (int k = 0; k < MET; k += 16) {
      uint32_t x[2][4];
      a_of(x[0], s[0], k);
      a_of(x[1], s[1], k);
      RP_UNROLL
      for (int n = 0; n < h / 8; n += 2) {
        uint32_t y[4];
        load_b_turned<h>(y, r->k[stage], k, n);
        RP_UNROLL
        for (int i = 0; i < 4; i++) mma_bf16(dq[i / 2][n + i % 2], x[i / 2], y + i % 2 * 2);
      }
    }
    now = next;
  }
  put_gradient((float *)op.dq.p.at, dq, q_at, q0, t1 - t0, (float)op.scale);
}
RP_KERNEL(attend_bwd_mma_queries_64, rp_attend_bwd_mma_args, RP_ATTEND_BWD_MMA_THREADS) {
  queries_body<64>(a);
}
RP_KERNEL(attend_bwd_mma_queries_128, rp_attend_bwd_mma_args, RP_ATTEND_BWD_MMA_THREADS) {
  queries_body<128>(a);
}
