/* norm.cu - RMSNorm and LayerNorm, eps 1e-6: a row lies in the registers of a block. */
#include "ops/cuda/kernel/norm.h"
#include "ops/cuda/kernel/wide.h"

enum { THREADS = RP_NORM_THREADS, WARPS = THREADS / 32 };

/* The sums of x and y over a block, in every thread. box: two buffers that take turns, so that one barrier
 * is enough. */
struct pair {
  float x, y;
};
RP_DEVICE pair block_sum(pair p, float2 *box) {
  p.x = warp_sum(p.x);
  p.y = warp_sum(p.y);
  if (threadIdx.x % 32 == 0) box[threadIdx.x / 32] = make_float2(p.x, p.y);
  __syncthreads();
  p = {0, 0};
  RP_UNROLL
  for (int i = 0; i < WARPS; i++) p.x += box[i].x, p.y += box[i].y;
  return p;
}

RP_DEVICE float inverse_root(float mean_square) { return 1 / sqrtf(mean_square + 1e-6f); }

RP_DEVICE void put_stat(rp_ptr stat, int64_t row, float mean, float rstd) {
  if (!stat.at || threadIdx.x) return;
  ((float *)stat.at)[2 * row] = mean;
  ((float *)stat.at)[2 * row + 1] = rstd;
}

template <class T, int N>
RP_DEVICE void norm_body(const rp_norm_args &a) {
  __shared__ float2 box[2][WARPS];
  const int64_t row = blockIdx.x, d = a.d;
  const bool layer = a.kind == RP_NORM_LAYER;
  const float *x = (const float *)a.x.p.at + row * d, *w = (const float *)a.w.p.at;
  const float *b = (const float *)a.b.p.at, share = 1 / (float)a.d;
  T *y = (T *)a.y.p.at + row * d;
  float v[N][4], scale[N][4];
  float mean = 0, sum = 0;
  RP_UNROLL
  for (int i = 0; i < N; i++) {
    const int col = (int)(i * THREADS + threadIdx.x) * 4;
    v[i][0] = v[i][1] = v[i][2] = v[i][3] = 0;
    if (col >= a.d) continue;
    load(v[i], x + col);
    load(scale[i], w + col);
  }
  if (layer) {
    RP_UNROLL
    for (int i = 0; i < N; i++) sum += (v[i][0] + v[i][1]) + (v[i][2] + v[i][3]);
    mean = block_sum({sum, 0}, box[0]).x * share;
    sum = 0;
  }
  RP_UNROLL
  for (int i = 0; i < N; i++) {
    if ((int)(i * THREADS + threadIdx.x) * 4 >= a.d) continue;
    RP_UNROLL
    for (int j = 0; j < 4; j++) {
      v[i][j] -= mean;
      sum += v[i][j] * v[i][j];
    }
  }
  const float rstd = inverse_root(block_sum({sum, 0}, box[1]).x * share);
  RP_UNROLL
  for (int i = 0; i < N; i++) {
    const int col = (int)(i * THREADS + threadIdx.x) * 4;
    if (col >= a.d) continue;
    RP_UNROLL
    for (int j = 0; j < 4; j++) v[i][j] = v[i][j] * rstd * scale[i][j];
    if (layer) {
      float more[4];
      load(more, b + col);
      RP_UNROLL
      for (int j = 0; j < 4; j++) v[i][j] += more[j];
    }
    store(y + col, v[i]);
  }
  put_stat(a.stat, row, mean, rstd);
}

template <class T>
RP_DEVICE void norm_any(const rp_norm_args &a) {
  __shared__ float2 box[2][WARPS];
  const int64_t row = blockIdx.x, d = a.d;
  const bool layer = a.kind == RP_NORM_LAYER;
  const float *x = (const float *)a.x.p.at + row * d, *w = (const float *)a.w.p.at;
  const float *b = (const float *)a.b.p.at, share = 1 / (float)a.d;
  T *y = (T *)a.y.p.at + row * d;
  float mean = 0, sum = 0;
  if (layer) {
    for (int64_t i = threadIdx.x; i < d; i += THREADS) sum += x[i];
    mean = block_sum({sum, 0}, box[0]).x * share;
    sum = 0;
  }
  for (int64_t i = threadIdx.x; i < d; i += THREADS) sum += (x[i] - mean) * (x[i] - mean);
  const float rstd = inverse_root(block_sum({sum, 0}, box[1]).x * share);
  for (int64_t i = threadIdx.x; i < d; i += THREADS)
    put_f32(&y[i], (x[i] - mean) * rstd * w[i] + (layer ? b[i] : 0));
  put_stat(a.stat, row, mean, rstd);
}

#define NORM(type, T, N) \
  RP_KERNEL(norm_##type##_##N, rp_norm_args, THREADS) { norm_body<T, N>(a); }
NORM(f32, float, 1)
NORM(f32, float, 2)
NORM(f32, float, 4)
NORM(f32, float, 8)
NORM(bf16, bf16, 1)
NORM(bf16, bf16, 2)
NORM(bf16, bf16, 4)
NORM(bf16, bf16, 8)
RP_KERNEL(norm_f32_any, rp_norm_args, THREADS) { norm_any<float>(a); }
RP_KERNEL(norm_bf16_any, rp_norm_args, THREADS) { norm_any<bf16>(a); }

/* ---- backward ---- */

RP_DEVICE int64_t first_row(const rp_norm_bwd_part &a, int64_t part) {
  return a.op.n * part / a.parts;
}

/* dx of the rows of one part, whose terms of dw and db stay in registers. */
template <int N>
RP_DEVICE void norm_bwd_body(const rp_norm_bwd_part &a) {
  __shared__ float2 box[2][WARPS];
  const rp_norm_bwd_args &o = a.op;
  const int64_t d = o.d, from = first_row(a, blockIdx.x), to = first_row(a, blockIdx.x + 1);
  const bool layer = o.kind == RP_NORM_LAYER;
  const float share = 1 / (float)o.d;
  float scale[N][4], dw[N][4], db[N][4];
  RP_UNROLL
  for (int i = 0; i < N; i++) {
    const int col = (int)(i * THREADS + threadIdx.x) * 4;
    RP_UNROLL
    for (int j = 0; j < 4; j++) scale[i][j] = dw[i][j] = db[i][j] = 0;
    if (col < o.d) load(scale[i], (const float *)o.w.p.at + col);
  }
  for (int64_t row = from; row < to; row++) {
    const float *x = (const float *)o.x.p.at + row * d, *dy = (const float *)o.dy.p.at + row * d;
    float *dx = (float *)o.dx.p.at + row * d;
    const float *stat = (const float *)o.stat.at + 2 * row;
    const float mean = stat[0], rstd = stat[1];
    float v[N][4], g[N][4], was[N][4];
    pair s = {0, 0};
    RP_UNROLL
    for (int i = 0; i < N; i++) {
      const int col = (int)(i * THREADS + threadIdx.x) * 4;
      if (col >= o.d) continue;
      load(v[i], x + col);
      load(g[i], dy + col);
      load(was[i], dx + col);
    }
    RP_UNROLL
    for (int i = 0; i < N; i++) {
      if ((int)(i * THREADS + threadIdx.x) * 4 >= o.d) continue;
      RP_UNROLL
      for (int j = 0; j < 4; j++) {
        v[i][j] = (v[i][j] - mean) * rstd;
        dw[i][j] += g[i][j] * v[i][j];
        if (layer) db[i][j] += g[i][j];
        g[i][j] *= scale[i][j];
        s.x += g[i][j];
        s.y += g[i][j] * v[i][j];
      }
    }
    s = block_sum(s, box[(row - from) % 2]);
    const float mg = layer ? s.x * share : 0, mgx = s.y * share;
    RP_UNROLL
    for (int i = 0; i < N; i++) {
      const int col = (int)(i * THREADS + threadIdx.x) * 4;
      if (col >= o.d) continue;
      RP_UNROLL
      for (int j = 0; j < 4; j++) was[i][j] += rstd * (g[i][j] - mg - v[i][j] * mgx);
      store(dx + col, was[i]);
    }
  }
  float *part = (float *)a.part.at + (int64_t)blockIdx.x * 2 * d;
  RP_UNROLL
  for (int i = 0; i < N; i++) {
    const int col = (int)(i * THREADS + threadIdx.x) * 4;
    if (col >= o.d) continue;
    store(part + col, dw[i]);
    if (layer) store(part + d + col, db[i]);
  }
}

RP_KERNEL(norm_bwd_1, rp_norm_bwd_part, THREADS) { norm_bwd_body<1>(a); }
RP_KERNEL(norm_bwd_2, rp_norm_bwd_part, THREADS) { norm_bwd_body<2>(a); }
RP_KERNEL(norm_bwd_4, rp_norm_bwd_part, THREADS) { norm_bwd_body<4>(a); }
RP_KERNEL(norm_bwd_8, rp_norm_bwd_part, THREADS) { norm_bwd_body<8>(a); }

/* A thread has the same columns in every row, so the part needs no barrier. */
RP_KERNEL(norm_bwd_any, rp_norm_bwd_part, THREADS) {
  __shared__ float2 box[2][WARPS];
  const rp_norm_bwd_args &o = a.op;
  const int64_t d = o.d, from = first_row(a, blockIdx.x), to = first_row(a, blockIdx.x + 1);
  const bool layer = o.kind == RP_NORM_LAYER;
  const float *w = (const float *)o.w.p.at, share = 1 / (float)o.d;
  float *part = (float *)a.part.at + (int64_t)blockIdx.x * 2 * d;
  for (int64_t row = from; row < to; row++) {
    const float *x = (const float *)o.x.p.at + row * d, *dy = (const float *)o.dy.p.at + row * d;
    float *dx = (float *)o.dx.p.at + row * d;
    const float *stat = (const float *)o.stat.at + 2 * row;
    const float mean = stat[0], rstd = stat[1];
    pair s = {0, 0};
    for (int64_t i = threadIdx.x; i < d; i += THREADS) {
      s.x += dy[i] * w[i];
      s.y += dy[i] * w[i] * ((x[i] - mean) * rstd);
    }
    s = block_sum(s, box[(row - from) % 2]);
    const float mg = layer ? s.x * share : 0, mgx = s.y * share;
    for (int64_t i = threadIdx.x; i < d; i += THREADS) {
      const float v = (x[i] - mean) * rstd;
      dx[i] += rstd * (dy[i] * w[i] - mg - v * mgx);
      part[i] = (row > from ? part[i] : 0) + dy[i] * v;
      if (layer) part[d + i] = (row > from ? part[d + i] : 0) + dy[i];
    }
  }
}

/* dw (or db) += the parts: a warp takes every 32nd, then they are added in order. */
RP_KERNEL(norm_bwd_sum, rp_norm_bwd_part, RP_NORM_SUM_THREADS) {
  enum { GROUPS = RP_NORM_SUM_THREADS / RP_NORM_COLUMNS };
  __shared__ float sums[GROUPS][RP_NORM_COLUMNS];
  const int col = (int)threadIdx.x % RP_NORM_COLUMNS, group = (int)threadIdx.x / RP_NORM_COLUMNS;
  const int64_t d = a.op.d, at = (int64_t)blockIdx.x * RP_NORM_COLUMNS + col;
  const float *part = (const float *)a.part.at + blockIdx.y * d + at;
  float sum = 0;
  if (at < d) {
    for (int32_t p = group; p < a.parts; p += GROUPS) sum += part[p * 2 * d];
  }
  sums[group][col] = sum;
  __syncthreads();
  if (group || at >= d) return;
  float *to = (float *)(blockIdx.y ? a.op.db : a.op.dw).p.at + at;
  sum = *to;
  for (int i = 0; i < GROUPS; i++) sum += sums[i][col];
  *to = sum;
}
