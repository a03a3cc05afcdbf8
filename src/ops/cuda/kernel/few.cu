/* few.cu - products of few rows with a weight: what a step of decoding does.
 *
 * They are bound by reading the weight, so it goes from memory to registers in vectors of 16 bytes, many on their
 * way at a time, and is used there for all rows. The sum of an element of c follows from K alone: neither the other
 * rows nor how many there are, nor which variant of a kernel serves them, change its bits. */
#include "ops/cuda/kernel/few.h"
#include "ops/cuda/kernel/lane.h"

/* ---- bfloat16: the weight is the long side of the tensor cores' tiles ----
 *
 * A sum may take k in any order that both operands share. So what the instruction takes for pairs (2p, 2p + 8) of
 * 16 are here the words of one 16-byte vector: lane 4g + p holds elements 8p .. 8p + 7 of 32 of row g, of the
 * weight and of a alike, and each vector serves two instructions. */

enum { STEP = 32, STEPS = 4, CHUNK = STEP * STEPS }; /* of k */

/* Elements k .. k + 7 of a row of K; zeros behind its end, and where there is no row. */
template <bool aligned>
RP_DEVICE uint4 narrow_vector(const bf16 *row, int32_t k, int32_t K, bool there, bool streamed) {
  if (!there || k >= K) return make_uint4(0, 0, 0, 0);
  if (aligned && k + 8 <= K) return streamed ? load_stream_16(row + k) : load_16(row + k);
  uint32_t x[4];
  RP_UNROLL
  for (int i = 0; i < 4; i++) {
    const uint32_t low = k + 2 * i < K ? row[k + 2 * i] : 0;
    x[i] = low | (uint32_t)(k + 2 * i + 1 < K ? row[k + 2 * i + 1] : 0) << 16;
  }
  return make_uint4(x[0], x[1], x[2], x[3]);
}

RP_DEVICE void put_sum(const rp_gemm_args &a, int32_t m, int32_t n, float sum) {
  const int64_t at = (int64_t)m * a.ldc + n;
  if (a.c.dtype == RP_BF16)
    ((bf16 *)a.c.p.at)[at] = to_bf16(sum);
  else
    ((float *)a.c.p.at)[at] = a.accumulate ? ((float *)a.c.p.at)[at] + sum : sum;
}

/* Warp s has chunks s, s + SLICES, ... of k, and its own sums of the block's 16 TILES columns and 8 GROUPS rows of c;
 * they are added in the order of the warps. */
template <int TILES, int GROUPS, bool aligned>
RP_DEVICE void few_narrow(const rp_gemm_args &a) {
  RP_SHARED(float, part); /* [SLICES][8 GROUPS][RP_FEW_STRIDE] */
  enum { COLS = 16 * TILES, ROWS = 8 * GROUPS, STRIDE = RP_FEW_STRIDE(TILES) };
  const int lane = (int)threadIdx.x % 32, slice = (int)threadIdx.x / 32, g = lane / 4, p = lane % 4;
  const int64_t first = (int64_t)blockIdx.x * COLS;
  const bf16 *w[TILES][2], *x[GROUPS];
  float sum[TILES][GROUPS][4];
  RP_UNROLL
  for (int t = 0; t < 2 * TILES; t++) {
    const int64_t n = first + 8 * t + g;
    w[t / 2][t % 2] = (const bf16 *)a.b.p.at + (n < a.N ? n : a.N - 1) * a.ldb + 8 * p;
  }
  RP_UNROLL
  for (int j = 0; j < GROUPS; j++)
    x[j] = (const bf16 *)a.a.p.at + (int64_t)(8 * j + g) * a.lda + 8 * p;
  RP_UNROLL
  for (int t = 0; t < TILES; t++) {
    RP_UNROLL
    for (int j = 0; j < GROUPS; j++) {
      RP_UNROLL
      for (int i = 0; i < 4; i++) sum[t][j][i] = 0;
    }
  }
  for (int32_t k = slice * CHUNK; k < a.K; k += RP_FEW_SLICES * CHUNK) {
    uint4 wide[STEPS][TILES][2];
    RP_UNROLL
    for (int u = 0; u < STEPS; u++) {
      RP_UNROLL
      for (int t = 0; t < 2 * TILES; t++)
        wide[u][t / 2][t % 2] =
            narrow_vector<aligned>(w[t / 2][t % 2], k + u * STEP, a.K - 8 * p, true, true);
    }
    RP_UNROLL
    for (int u = 0; u < STEPS; u++) {
      RP_UNROLL
      for (int j = 0; j < GROUPS; j++) {
        const uint4 v =
            narrow_vector<aligned>(x[j], k + u * STEP, a.K - 8 * p, 8 * j + g < a.M, false);
        const uint32_t b[2][2] = {{v.x, v.y}, {v.z, v.w}};
        RP_UNROLL
        for (int t = 0; t < TILES; t++) {
          const uint4 low = wide[u][t][0], high = wide[u][t][1];
          const uint32_t one[4] = {low.x, high.x, low.y, high.y};
          const uint32_t two[4] = {low.z, high.z, low.w, high.w};
          mma_bf16(sum[t][j], one, b[0]);
          mma_bf16(sum[t][j], two, b[1]);
        }
      }
    }
  }
  RP_UNROLL
  for (int t = 0; t < TILES; t++) {
    RP_UNROLL
    for (int j = 0; j < GROUPS; j++) {
      RP_UNROLL
      for (int i = 0; i < 4; i++)
        part[(slice * ROWS + 8 * j + 2 * p + i % 2) * STRIDE + 16 * t + 8 * (i / 2) + g] =
            sum[t][j][i];
    }
  }
  __syncthreads();
  for (int i = (int)threadIdx.x; i < COLS * ROWS; i += RP_FEW_THREADS) {
    const int m = i / COLS, n = i % COLS;
    if (m >= a.M || first + n >= a.N) continue;
    float all = 0;
    RP_UNROLL
    for (int s = 0; s < RP_FEW_SLICES; s++) all += part[(s * ROWS + m) * STRIDE + n];
    put_sum(a, m, (int32_t)first + n, all);
  }
}

#define NARROW(name, tiles, groups, aligned) \
  RP_KERNEL(name, rp_gemm_args, RP_FEW_THREADS) { few_narrow<tiles, groups, aligned>(a); }
NARROW(few_bf16_1_1, 1, 1, true)
NARROW(few_bf16_1_2, 1, 2, true)
NARROW(few_bf16_1_4, 1, 4, true)
NARROW(few_bf16_2_1, 2, 1, true)
NARROW(few_bf16_2_2, 2, 2, true)
NARROW(few_bf16_2_4, 2, 4, true)
NARROW(few_bf16_any, 1, 4, false)

/* ---- float32: a warp has some columns of c, its lanes lie along k ---- */

enum { GROUP = 8 }; /* rows of a at a time */

template <bool aligned>
RP_DEVICE float4 wide_vector(const float *row, int32_t k, int32_t K, bool there, bool streamed) {
  if (!there || k >= K) return make_float4(0, 0, 0, 0);
  if (aligned && k + 4 <= K) {
    const uint4 v = streamed ? load_stream_16(row + k) : load_16(row + k);
    return make_float4(f32_of_bits(v.x), f32_of_bits(v.y), f32_of_bits(v.z), f32_of_bits(v.w));
  }
  return make_float4(row[k], k + 1 < K ? row[k + 1] : 0, k + 2 < K ? row[k + 2] : 0,
                     k + 3 < K ? row[k + 3] : 0);
}

/* One level of the sums over lanes: of n values a lane keeps the half that its bit says. */
template <int n>
RP_DEVICE void share_sums(float *v, int lane, int bit) {
  RP_UNROLL
  for (int i = 0; i < n / 2; i++) {
    const float keep = lane & bit ? v[i + n / 2] : v[i], give = lane & bit ? v[i] : v[i + n / 2];
    v[i] = keep + __shfl_xor_sync(RP_ALL_LANES, give, bit);
  }
}

template <int COLS, int STEPS_AT_ONCE, bool aligned>
RP_DEVICE void few_wide(const rp_gemm_args &a) {
  const int lane = (int)threadIdx.x % 32;
  const int64_t first = ((int64_t)blockIdx.x * RP_FEW_SLICES + threadIdx.x / 32) * COLS;
  if (first >= a.N) return;
  const float *w[COLS];
  RP_UNROLL
  for (int n = 0; n < COLS; n++)
    w[n] = (const float *)a.b.p.at + (first + n < a.N ? first + n : a.N - 1) * a.ldb + 4 * lane;
  for (int32_t row = 0; row < a.M; row += GROUP) {
    const float *x = (const float *)a.a.p.at + row * a.lda + 4 * lane;
    float sum[GROUP * COLS];
    RP_UNROLL
    for (int i = 0; i < GROUP * COLS; i++) sum[i] = 0;
    for (int32_t k = 0; k < a.K; k += 128 * STEPS_AT_ONCE) {
      float4 wide[STEPS_AT_ONCE][COLS];
      RP_UNROLL
      for (int u = 0; u < STEPS_AT_ONCE; u++) {
        RP_UNROLL
        for (int n = 0; n < COLS; n++)
          wide[u][n] = wide_vector<aligned>(w[n], k + 128 * u, a.K - 4 * lane, true, true);
      }
      RP_UNROLL
      for (int u = 0; u < STEPS_AT_ONCE; u++) {
        RP_UNROLL
        for (int m = 0; m < GROUP; m++) {
          const float4 v = wide_vector<aligned>(x + m * a.lda, k + 128 * u, a.K - 4 * lane,
                                                row + m < a.M, false);
          RP_UNROLL
          for (int n = 0; n < COLS; n++) {
            float *s = &sum[m * COLS + n];
            *s = fmaf(v.x, wide[u][n].x, *s);
            *s = fmaf(v.y, wide[u][n].y, *s);
            *s = fmaf(v.z, wide[u][n].z, *s);
            *s = fmaf(v.w, wide[u][n].w, *s);
          }
        }
      }
    }
    /* Lane l ends with value l, of two columns with value l / 2. */
    if (COLS == 4) share_sums<32>(sum, lane, 16);
    share_sums<16>(sum, lane, COLS == 4 ? 8 : 16);
    share_sums<8>(sum, lane, COLS == 4 ? 4 : 8);
    share_sums<4>(sum, lane, COLS == 4 ? 2 : 4);
    share_sums<2>(sum, lane, COLS == 4 ? 1 : 2);
    if (COLS == 2) sum[0] += __shfl_xor_sync(RP_ALL_LANES, sum[0], 1);
    const int at = COLS == 4 ? lane : lane / 2;
    const int32_t m = row + at / COLS;
    const int64_t n = first + at % COLS;
    if (m < a.M && n < a.N && (COLS == 4 || lane % 2 == 0)) put_sum(a, m, (int32_t)n, sum[0]);
  }
}

RP_KERNEL(few_f32_2, rp_gemm_args, RP_FEW_THREADS) { few_wide<2, 8, true>(a); }
RP_KERNEL(few_f32_4, rp_gemm_args, RP_FEW_THREADS) { few_wide<4, 4, true>(a); }
RP_KERNEL(few_f32_any, rp_gemm_args, RP_FEW_THREADS) { few_wide<2, 4, false>(a); }
