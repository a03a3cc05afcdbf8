/* head.cu - rows of logits: losses, gradients, picks.
 *
 * A block has a row. Sums of exponentials are float32 within a thread, double between threads, in an order that
 * follows from the row's length alone. */
#include "ops/cuda/kernel/head.h"
#include "ops/cuda/kernel/lane.h"

enum { WARPS = RP_HEAD_THREADS / 32 };
#define LOG2_E 1.4426950408889634f

/* exp(z - max). A maximum of -infinity, of a thread that saw nothing else, is no reason for NaN. */
RP_DEVICE float exp_below(float z, float max) {
  return fast_exp2((z - (max == -INFINITY ? 0 : max)) * LOG2_E);
}

/* ---- a block ---- */

/* Every thread gets it; `room` [WARPS] is free again after the next barrier. */
RP_DEVICE double block_sum(double x, double *room) {
  x = warp_sum(x);
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_sum(threadIdx.x % 32 < WARPS ? room[threadIdx.x % 32] : 0);
}
RP_DEVICE float block_max(float x, float *room) {
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_max(threadIdx.x % 32 < WARPS ? room[threadIdx.x % 32] : -INFINITY);
}

/* ---- head_loss ---- */

RP_KERNEL(head_labels, rp_head_labels_args, RP_HEAD_THREADS) {
  __shared__ double room[WARPS];
  const int32_t *label = (const int32_t *)a.labels.at;
  int32_t count = 0;
  for (int32_t i = (int32_t)threadIdx.x; i < a.n; i += RP_HEAD_THREADS) {
    const int32_t x = label[i];
    if (x == RP_HEAD_IGNORED) continue;
    if (x < 0 || x >= a.V) stop_device();
    count++;
  }
  const double labels = block_sum(count, room);
  if (threadIdx.x) return;
  rp_head_share *to = (rp_head_share *)a.share.at;
  to->labels = (int64_t)labels;
  to->scale = labels > 0 ? a.weight / labels : 0;
}

/* Four gradients of a row, from element `at`, of either type. */
RP_DEVICE void put_gradients(const rp_head_rows_args &a, void *row, int32_t at, const float g[4]) {
  if (a.logits.dtype == RP_BF16)
    *(uint2 *)((bf16 *)row + at) = make_uint2(bf16x2(g[1], g[0]), bf16x2(g[3], g[2]));
  else
    *(float4 *)((float *)row + at) = make_float4(g[0], g[1], g[2], g[3]);
}

RP_DEVICE void put_no_gradients(const rp_head_rows_args &a, void *row) {
  const float none[4] = {0, 0, 0, 0};
  for (int32_t at = (int32_t)threadIdx.x * 4; at < a.V; at += RP_HEAD_THREADS * 4)
    put_gradients(a, row, at, none);
}

/* Four logits from element `at`; -infinity where the row has ended. */
RP_DEVICE void get_logits(float to[4], const float *row, int32_t at, int32_t V) {
  if (at >= V) {
    RP_UNROLL
    for (int i = 0; i < 4; i++) to[i] = -INFINITY;
    return;
  }
  const float4 x = *(const float4 *)(row + at);
  to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
  if (at + 4 <= V) return;
  RP_UNROLL
  for (int i = 1; i < 4; i++)
    if (at + i >= V) to[i] = -INFINITY;
}

RP_DEVICE double loss_of(double sum, float max, float hit) {
  return log(sum) + (double)max - (double)hit;
}

/* The row stays in registers: its logits are read once, and no gradient is written before all are read. */
RP_KERNEL(head_rows_held, rp_head_rows_args, RP_HEAD_THREADS) {
  __shared__ double sums[WARPS];
  __shared__ float maxima[WARPS];
  const int64_t row = blockIdx.x;
  const int32_t label = ((const int32_t *)a.labels.at)[row], first = (int32_t)threadIdx.x * 4;
  float *z = (float *)a.logits.p.at + row * a.ld;
  double *loss = (double *)a.loss.at + row;
  if (label == RP_HEAD_IGNORED) {
    if (threadIdx.x == 0) *loss = 0;
    if (a.grad) put_no_gradients(a, z);
    return;
  }
  float x[RP_HEAD_VECTORS][4], most = -INFINITY, sum = 0;
  const float hit = z[label];
  RP_UNROLL
  for (int j = 0; j < RP_HEAD_VECTORS; j++)
    get_logits(x[j], z, first + j * RP_HEAD_THREADS * 4, a.V);
  RP_UNROLL
  for (int j = 0; j < RP_HEAD_VECTORS; j++) {
    RP_UNROLL
    for (int i = 0; i < 4; i++) most = fmaxf(most, x[j][i]);
  }
  const float max = block_max(most, maxima);
  RP_UNROLL
  for (int j = 0; j < RP_HEAD_VECTORS; j++) {
    RP_UNROLL
    for (int i = 0; i < 4; i++) {
      x[j][i] = fast_exp2((x[j][i] - max) * LOG2_E);
      sum += x[j][i];
    }
  }
  const double total = block_sum(sum, sums);
  if (threadIdx.x == 0) *loss = loss_of(total, max, hit);
  if (!a.grad) return;
  const double scale = ((const rp_head_share *)a.share.at)->scale;
  const float f = (float)(scale / total);
  RP_UNROLL
  for (int j = 0; j < RP_HEAD_VECTORS; j++) {
    const int32_t at = first + j * RP_HEAD_THREADS * 4;
    if (at >= a.V) break;
    RP_UNROLL
    for (int i = 0; i < 4; i++) {
      x[j][i] *= f;
      if (at + i == label) x[j][i] -= (float)scale;
    }
    put_gradients(a, z, at, x[j]);
  }
}

/* ---- rows of any length ---- */

/* What a thread has seen of a row: the maximum, the first place of it, the sum of exp(z - max). */
struct seen {
  float max, sum;
  int32_t at;
};

RP_DEVICE void see(seen &s, const float x[4], int32_t at) {
  float most = s.max;
  RP_UNROLL
  for (int i = 0; i < 4; i++) {
    if (x[i] > most || (x[i] == most && at + i < s.at)) {
      most = x[i];
      s.at = at + i;
    }
  }
  s.sum *= exp_below(s.max, most);
  RP_UNROLL
  for (int i = 0; i < 4; i++) s.sum += exp_below(x[i], most);
  s.max = most;
}

/* The same of the whole row, in every thread; sum in double. */
RP_DEVICE double see_all(seen &s, double *sums, float *maxima, int32_t *places) {
  const float max = block_max(s.max, maxima);
  int32_t at = s.max == max ? s.at : INT32_MAX;
  RP_UNROLL
  for (int i = 16; i; i /= 2) at = min(at, __shfl_xor_sync(RP_ALL_LANES, at, i));
  if (threadIdx.x % 32 == 0) places[threadIdx.x / 32] = at;
  const double total = block_sum((double)s.sum * (double)exp_below(s.max, max), sums);
  at = threadIdx.x % 32 < WARPS ? places[threadIdx.x % 32] : INT32_MAX;
  RP_UNROLL
  for (int i = 16; i; i /= 2) at = min(at, __shfl_xor_sync(RP_ALL_LANES, at, i));
  s.max = max;
  s.at = at;
  return total;
}

enum { TILE = 4 }; /* vectors of a thread that are on their way at a time */

/* Gradients replace the logits tile by tile: those in bfloat16 end below the next tile's logits. */
RP_KERNEL(head_rows, rp_head_rows_args, RP_HEAD_THREADS) {
  __shared__ double sums[WARPS];
  __shared__ float maxima[WARPS];
  __shared__ int32_t places[WARPS];
  const int64_t row = blockIdx.x;
  const int32_t label = ((const int32_t *)a.labels.at)[row], first = (int32_t)threadIdx.x * 4;
  float *z = (float *)a.logits.p.at + row * a.ld;
  double *loss = (double *)a.loss.at + row;
  if (label == RP_HEAD_IGNORED) {
    if (threadIdx.x == 0) *loss = 0;
    if (a.grad) put_no_gradients(a, z);
    return;
  }
  const float hit = z[label];
  seen s = {-INFINITY, 0, INT32_MAX};
  float x[TILE][4];
  for (int32_t from = 0; from < a.V; from += RP_HEAD_THREADS * 4 * TILE) {
    RP_UNROLL
    for (int j = 0; j < TILE; j++) get_logits(x[j], z, from + first + j * RP_HEAD_THREADS * 4, a.V);
    RP_UNROLL
    for (int j = 0; j < TILE; j++)
      if (from + first + j * RP_HEAD_THREADS * 4 < a.V)
        see(s, x[j], from + first + j * RP_HEAD_THREADS * 4);
  }
  const double total = see_all(s, sums, maxima, places);
  if (threadIdx.x == 0) *loss = loss_of(total, s.max, hit);
  if (!a.grad) return;
  const double scale = ((const rp_head_share *)a.share.at)->scale;
  const float f = (float)(scale / total);
  for (int32_t from = 0; from < a.V; from += RP_HEAD_THREADS * 4 * TILE) {
    RP_UNROLL
    for (int j = 0; j < TILE; j++) get_logits(x[j], z, from + first + j * RP_HEAD_THREADS * 4, a.V);
    __syncthreads();
    RP_UNROLL
    for (int j = 0; j < TILE; j++) {
      const int32_t at = from + first + j * RP_HEAD_THREADS * 4;
      if (at >= a.V) break;
      RP_UNROLL
      for (int i = 0; i < 4; i++) {
        x[j][i] = fast_exp2((x[j][i] - s.max) * LOG2_E) * f;
        if (at + i == label) x[j][i] -= (float)scale;
      }
      put_gradients(a, z, at, x[j]);
    }
  }
}

RP_KERNEL(head_total, rp_head_total_args, RP_HEAD_THREADS) {
  __shared__ double room[WARPS];
  const double *loss = (const double *)a.loss.at;
  double sum = 0;
  for (int32_t i = (int32_t)threadIdx.x; i < a.n; i += RP_HEAD_THREADS) sum += loss[i];
  sum = block_sum(sum, room);
  if (threadIdx.x) return;
  const int64_t labels = ((const rp_head_share *)a.share.at)->labels;
  rp_loss *to = (rp_loss *)a.to.at;
  if (labels) to->mean += a.weight * (sum / (double)labels);
  to->sum += sum;
  to->labels += labels;
}

/* ---- pick ---- */

RP_DEVICE void get_narrow(float to[4], const float *row, int32_t at, int32_t V) {
  RP_UNROLL
  for (int i = 0; i < 4; i++) to[i] = at + i < V ? row[at + i] : -INFINITY;
}

RP_KERNEL(pick_rows, rp_pick_rows_args, RP_HEAD_THREADS) {
  __shared__ double sums[WARPS];
  __shared__ float maxima[WARPS];
  __shared__ int32_t places[WARPS];
  const int64_t row = blockIdx.x;
  const float *z = (const float *)a.logits.at + row * a.ld;
  seen s = {-INFINITY, 0, INT32_MAX};
  float x[TILE][4];
  for (int32_t from = (int32_t)threadIdx.x * 4; from < a.V; from += RP_HEAD_THREADS * 4 * TILE) {
    RP_UNROLL
    for (int j = 0; j < TILE; j++) {
      const int32_t at = from + j * RP_HEAD_THREADS * 4;
      if (a.wide)
        get_logits(x[j], z, at, a.V);
      else
        get_narrow(x[j], z, at, a.V);
    }
    RP_UNROLL
    for (int j = 0; j < TILE; j++)
      if (from + j * RP_HEAD_THREADS * 4 < a.V) see(s, x[j], from + j * RP_HEAD_THREADS * 4);
  }
  const double total = see_all(s, sums, maxima, places);
  if (threadIdx.x) return;
  if (a.lse.at) ((float *)a.lse.at)[row] = (float)(log(total) + (double)s.max);
  if (a.best.at) ((int32_t *)a.best.at)[row] = s.at < a.V ? s.at : 0;
  if (!a.logit.at) return;
  const int32_t id = a.ids.at ? ((const int32_t *)a.ids.at)[row] : -1;
  ((float *)a.logit.at)[row] = id >= 0 && id < a.V ? z[id] : 0;
}
