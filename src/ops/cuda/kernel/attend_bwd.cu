/* attend_bwd.cu - backward of attention of any head width, with products of float32. */
#include "ops/cuda/kernel/attend_bwd.h"

#include "ops/cuda/kernel/attend_bwd_lists.h"

/* ---- delta ---- */

template <class T>
RP_DEVICE void delta_body(const rp_attend_bwd_all &a) {
  const rp_attend_bwd_args &op = a.op;
  const int64_t i = (int64_t)blockIdx.x * (RP_ATTEND_BWD_THREADS / 32) + threadIdx.x / 32;
  const int64_t tokens = op.rows.tokens;
  if (i >= tokens * op.H) return;
  const T *out = (const T *)op.out.p.at + i * op.h;
  const float *dout = (const float *)op.dout.p.at + i * op.h;
  float sum = 0;
  for (int c = threadIdx.x % 32; c < op.h; c += 32) sum += dout[c] * to_f32(out[c]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) ((float *)a.delta.at)[i % op.H * tokens + i / op.H] = sum;
}
RP_KERNEL(attend_bwd_delta_f32, rp_attend_bwd_all, RP_ATTEND_BWD_THREADS) { delta_body<float>(a); }
RP_KERNEL(attend_bwd_delta_bf16, rp_attend_bwd_all, RP_ATTEND_BWD_THREADS) { delta_body<bf16>(a); }

/* ---- any head width, products of float32 ---- */

enum { TILE = RP_ATTEND_BWD_TILE, WIDE = RP_ATTEND_BWD_WIDE, PIECE = 32, PITCH = TILE + 4 };

/* PIECE channels of 64 queries and keys, turned: [channel][entry]; or PIECE entries, WIDE channels. */
union pieces {
  struct {
    float q[PIECE][PITCH], dout[PIECE][PITCH], k[PIECE][PITCH], v[PIECE][PITCH];
  } turned;
  struct {
    float x[PIECE][WIDE + 4], y[PIECE][WIDE + 4];
  } plain;
};
struct room {
  pieces in;
  float p[TILE][PITCH], s[TILE][PITCH];
  float lse[TILE], delta[TILE];
};
static_assert(sizeof(room) == RP_ATTEND_BWD_SHARED, "");

/* Channels c0 .. of `count` rows, row i at x + at(i), turned; zeros beyond the rows and beyond channel h. */
template <class T, class AT>
RP_DEVICE void load_turned(float (*to)[PITCH], const T *x, AT at, int count, int c0, int h) {
  const int c = threadIdx.x % PIECE;
  for (int i = (int)threadIdx.x / PIECE * 4; i < TILE; i += RP_ATTEND_BWD_THREADS / PIECE * 4) {
    float y[4];
    RP_UNROLL
    for (int j = 0; j < 4; j++)
      y[j] = i + j < count && c0 + c < h ? to_f32(x[at(i + j) + c0 + c]) : 0;
    *(float4 *)&to[c][i] = make_float4(y[0], y[1], y[2], y[3]);
  }
}

/* Rows i0 .. of them as they lie, channels c0 .. */
template <class T, class AT>
RP_DEVICE void load_plain(float (*to)[WIDE + 4], const T *x, AT at, int i0, int count, int c0,
                          int h) {
  const int c = threadIdx.x % WIDE;
  RP_UNROLL
  for (int i = threadIdx.x / WIDE; i < PIECE; i += RP_ATTEND_BWD_THREADS / WIDE)
    to[i][c] = i0 + i < count && c0 + c < h ? to_f32(x[at(i0 + i) + c0 + c]) : 0;
}

/* c[i][j] += a[i] b[j] */
RP_DEVICE void outer(float c[4][4], float4 a, float4 b) {
  const float x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
  RP_UNROLL
  for (int i = 0; i < 4; i++) RP_UNROLL
  for (int j = 0; j < 4; j++) c[i][j] += x[i] * y[j];
}

/* A tile of queries and one of keys as they meet: where they are, and who sees whom. */
struct meeting {
  int32_t t0, queries, keys; /* of the tiles */
  int32_t near, far;
};

/* Probabilities and the scores' gradients (without the scale) of queries and keys that lie at q(i), k(j)
 * and stand at t0 + i, key(j); [query][key], or turned. */
template <bool by_key, class T, class Q, class K, class KEY>
RP_DEVICE void meet(room *r, const rp_attend_bwd_args &op, const meeting &m, Q q_at, K k_at,
                    KEY key) {
  const int tx = threadIdx.x % 16, ty = (int)threadIdx.x / 16;
  float s[4][4] = {}, d[4][4] = {};
  for (int c0 = 0; c0 < op.h; c0 += PIECE) {
    load_turned(r->in.turned.q, (const T *)op.q.p.at, q_at, m.queries, c0, op.h);
    load_turned(r->in.turned.dout, (const float *)op.dout.p.at, q_at, m.queries, c0, op.h);
    load_turned(r->in.turned.k, (const T *)op.k.p.at, k_at, m.keys, c0, op.h);
    load_turned(r->in.turned.v, (const T *)op.v.p.at, k_at, m.keys, c0, op.h);
    __syncthreads();
    const int end = rp_min_i32(PIECE, op.h - c0);
    for (int c = 0; c < end; c++) {
      const float4 q = *(const float4 *)&r->in.turned.q[c][4 * ty];
      const float4 o = *(const float4 *)&r->in.turned.dout[c][4 * ty];
      outer(s, q, *(const float4 *)&r->in.turned.k[c][4 * tx]);
      outer(d, o, *(const float4 *)&r->in.turned.v[c][4 * tx]);
    }
    __syncthreads();
  }
  const float scale = (float)op.scale;
  RP_UNROLL
  for (int i = 0; i < 4; i++) {
    const int qi = 4 * ty + i;
    RP_UNROLL
    for (int j = 0; j < 4; j++) {
      const int kj = 4 * tx + j;
      const int32_t ago = m.t0 + qi - key(kj);
      const bool seen = qi < m.queries && kj < m.keys && ago >= m.near && ago <= m.far;
      const float p = seen ? fast_exp2((s[i][j] * scale - r->lse[qi]) * 1.44269504f) : 0;
      const float g = p * (d[i][j] - r->delta[qi]);
      if (by_key) {
        r->s[kj][qi] = g;
      } else {
        r->p[qi][kj] = p;
        r->s[qi][kj] = g;
      }
    }
  }
  __syncthreads();
}

RP_DEVICE void open_queries(room *r, const rp_attend_bwd_all &a, const rp_row &row, int head,
                            int32_t t0, int32_t count) {
  const int i = threadIdx.x;
  const int64_t at = row.tok + t0 + i, tokens = a.op.rows.tokens;
  if (i < TILE) {
    r->lse[i] = i < count ? ((const float *)a.op.lse.at)[at * a.op.H + head] : 0;
    r->delta[i] = i < count ? ((const float *)a.delta.at)[head * tokens + at] : 0;
  }
}

/* The four channels of each half of WIDE that a thread has. */
RP_DEVICE void add_row(float c[8], float a, const float *row, int tx) {
  const float4 x = *(const float4 *)&row[4 * tx], y = *(const float4 *)&row[WIDE / 2 + 4 * tx];
  c[0] += a * x.x, c[1] += a * x.y, c[2] += a * x.z, c[3] += a * x.w;
  c[4] += a * y.x, c[5] += a * y.y, c[6] += a * y.z, c[7] += a * y.w;
}
RP_DEVICE void put_row(float *to, const float c[8], float scale, int tx, int c0, int h) {
  RP_UNROLL
  for (int j = 0; j < 8; j++) {
    const int at = c0 + (j < 4 ? 4 * tx + j : WIDE / 2 + 4 * tx + j - 4);
    if (at < h) to[at] = c[j] * scale;
  }
}

/* Blocks of the heaviest tiles come first: `unit` of `units` rows and heads, `rank` among its tiles. */
template <class T>
RP_DEVICE void keys_body(const rp_attend_bwd_all &a) {
  RP_SHARED(room, r);
  const rp_attend_bwd_args &op = a.op;
  const int64_t units = (int64_t)op.rows.count * op.Hk, unit = blockIdx.x % units;
  const int g = (int)(unit % op.Hk), tx = threadIdx.x % 16, ty = (int)threadIdx.x / 16;
  const rp_row row = ((const rp_row *)op.rows.row.at)[unit / op.Hk];
  key_tile tile;
  if (!key_tile_at(&tile, pat_of(op, row, g), row.n, (int32_t)(blockIdx.x / units), TILE)) return;
  const int64_t kv = (int64_t)op.Hk * op.h, wide = (int64_t)op.H * op.h;
  const auto key = [&](int j) { return tile_key(tile, j); };
  const auto k_at = [&](int j) { return (row.tok + key(j)) * kv + (int64_t)g * op.h; };
  const int c0 = (int)blockIdx.y * WIDE, group = op.H / op.Hk;
  float dk[4][8] = {}, dv[4][8] = {};
  for (int head = g * group; head < (g + 1) * group; head++)
    for (int32_t t0 = tile.t0; t0 < tile.t1; t0 += TILE) {
      const meeting m = {t0, rp_min_i32(TILE, tile.t1 - t0), tile.count, 0, tile.list.far};
      const auto q_at = [&](int i) { return (row.tok + t0 + i) * wide + (int64_t)head * op.h; };
      open_queries(r, a, row, head, t0, m.queries);
      meet<false, T>(r, op, m, q_at, k_at, key);
      for (int i0 = 0; i0 < m.queries; i0 += PIECE) {
        load_plain(r->in.plain.x, (const T *)op.q.p.at, q_at, i0, m.queries, c0, op.h);
        load_plain(r->in.plain.y, (const float *)op.dout.p.at, q_at, i0, m.queries, c0, op.h);
        __syncthreads();
        for (int i = 0; i < PIECE; i++) {
          const float4 p = *(const float4 *)&r->p[i0 + i][4 * ty];
          const float4 s = *(const float4 *)&r->s[i0 + i][4 * ty];
          const float pj[4] = {p.x, p.y, p.z, p.w}, sj[4] = {s.x, s.y, s.z, s.w};
          RP_UNROLL
          for (int j = 0; j < 4; j++) {
            add_row(dv[j], pj[j], r->in.plain.y[i], tx);
            add_row(dk[j], sj[j], r->in.plain.x[i], tx);
          }
        }
        __syncthreads();
      }
    }
  RP_UNROLL
  for (int j = 0; j < 4; j++) {
    if (4 * ty + j >= tile.count) break;
    put_row((float *)op.dk.p.at + k_at(4 * ty + j), dk[j], (float)op.scale, tx, c0, op.h);
    put_row((float *)op.dv.p.at + k_at(4 * ty + j), dv[j], 1, tx, c0, op.h);
  }
}
RP_KERNEL(attend_bwd_keys_f32, rp_attend_bwd_all, RP_ATTEND_BWD_THREADS) { keys_body<float>(a); }
RP_KERNEL(attend_bwd_keys_bf16, rp_attend_bwd_all, RP_ATTEND_BWD_THREADS) { keys_body<bf16>(a); }

template <class T>
RP_DEVICE void queries_body(const rp_attend_bwd_all &a) {
  RP_SHARED(room, r);
  const rp_attend_bwd_args &op = a.op;
  const int64_t units = (int64_t)op.rows.count * op.H, unit = blockIdx.x % units;
  const int head = (int)(unit % op.H), g = head / (op.H / op.Hk);
  const int tx = threadIdx.x % 16, ty = (int)threadIdx.x / 16;
  const rp_row row = ((const rp_row *)op.rows.row.at)[unit / op.H];
  const int32_t tiles = (row.n + TILE - 1) / TILE, rank = (int32_t)(blockIdx.x / units);
  if (rank >= tiles) return;
  const int32_t t0 = (tiles - 1 - rank) * TILE, t1 = rp_min_i32(row.n, t0 + TILE);
  const int64_t kv = (int64_t)op.Hk * op.h, wide = (int64_t)op.H * op.h;
  const auto q_at = [&](int i) { return (row.tok + t0 + i) * wide + (int64_t)head * op.h; };
  const int c0 = (int)blockIdx.y * WIDE;
  rp_seg seg[RP_SEGS_MAX];
  const int segs = rp_segs(seg, pat_of(op, row, g), rp_past{}, t0, t1);
  float dq[4][8] = {};
  open_queries(r, a, row, head, t0, t1 - t0);
  for (int n = 0; n < segs; n++)
    for (int32_t j0 = 0; j0 < seg[n].count; j0 += TILE) {
      const rp_seg s = seg[n];
      const meeting m = {t0, t1 - t0, rp_min_i32(TILE, s.count - j0), s.near, s.far};
      const auto key = [&](int j) { return s.pos + (j0 + rp_min_i32(j, m.keys - 1)) * s.step; };
      const auto k_at = [&](int j) { return (row.tok + key(j)) * kv + (int64_t)g * op.h; };
      meet<true, T>(r, op, m, q_at, k_at, key);
      for (int i0 = 0; i0 < m.keys; i0 += PIECE) {
        load_plain(r->in.plain.x, (const T *)op.k.p.at, k_at, i0, m.keys, c0, op.h);
        __syncthreads();
        for (int i = 0; i < PIECE; i++) {
          const float4 g4 = *(const float4 *)&r->s[i0 + i][4 * ty];
          const float gi[4] = {g4.x, g4.y, g4.z, g4.w};
          RP_UNROLL
          for (int j = 0; j < 4; j++) add_row(dq[j], gi[j], r->in.plain.x[i], tx);
        }
        __syncthreads();
      }
    }
  RP_UNROLL
  for (int j = 0; j < 4; j++)
    if (4 * ty + j < t1 - t0)
      put_row((float *)op.dq.p.at + q_at(4 * ty + j), dq[j], (float)op.scale, tx, c0, op.h);
}
RP_KERNEL(attend_bwd_queries_f32, rp_attend_bwd_all, RP_ATTEND_BWD_THREADS) {
  queries_body<float>(a);
}
RP_KERNEL(attend_bwd_queries_bf16, rp_attend_bwd_all, RP_ATTEND_BWD_THREADS) {
  queries_body<bf16>(a);
}
