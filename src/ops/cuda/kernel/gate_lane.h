/* gate_lane.h - what gate.cu, gate_scan.cu and gate_bwd.cu share. */
#ifndef RP_OPS_CUDA_KERNEL_GATE_LANE_H
#define RP_OPS_CUDA_KERNEL_GATE_LANE_H

#include "ops/cuda/kernel/gate.h"
#include "ops/cuda/kernel/lane.h"

/* ---- arithmetic: the same bits in every kernel, whatever a compiler would contract ---- */

/* 1 / (1 + e^-x), 3 units in the last place. */
RP_DEVICE float sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + fast_exp2(-1.4426950408889634f * x));
}
RP_DEVICE float2 sigmoid(float2 x) { return make_float2(sigmoid(x.x), sigmoid(x.y)); }
RP_DEVICE float step(float state, float g, float in) { return fmaf(g, state, (1 - g) * in); }
RP_DEVICE float2 step(float2 state, float2 g, float2 in) {
  return make_float2(step(state.x, g.x, in.x), step(state.y, g.y, in.y));
}
RP_DEVICE float2 fma2(float2 a, float2 b, float2 c) {
  return make_float2(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y));
}
RP_DEVICE float2 mul2(float2 a, float2 b) { return make_float2(a.x * b.x, a.y * b.y); }

/* By an angle; back with the sine's sign changed. */
RP_DEVICE void turn(float &low, float &high, float cosine, float sine) {
  const float a = low, b = high;
  low = fmaf(a, cosine, -(b * sine));
  high = fmaf(b, cosine, a * sine);
}
RP_DEVICE void turn(float2 &low, float2 &high, float2 cosine, float2 sine) {
  turn(low.x, high.x, cosine.x, sine.x);
  turn(low.y, high.y, cosine.y, sine.y);
}

/* ---- four elements side by side, as they lie ---- */

template <class T>
struct quad {
  uint32_t w[sizeof(T)];
};
RP_DEVICE void fetch(quad<float> &q, const float *p) {
  const uint4 x = *(const uint4 *)p;
  q.w[0] = x.x, q.w[1] = x.y, q.w[2] = x.z, q.w[3] = x.w;
}
RP_DEVICE void fetch(quad<bf16> &q, const bf16 *p) {
  const uint2 x = *(const uint2 *)p;
  q.w[0] = x.x, q.w[1] = x.y;
}
/* What is read once: it need not stay in a cache. */
RP_DEVICE void fetch_once(quad<float> &q, const float *p) {
  const uint4 x = __ldcs((const uint4 *)p);
  q.w[0] = x.x, q.w[1] = x.y, q.w[2] = x.z, q.w[3] = x.w;
}
RP_DEVICE void fetch_once(quad<bf16> &q, const bf16 *p) {
  const uint2 x = __ldcs((const uint2 *)p);
  q.w[0] = x.x, q.w[1] = x.y;
}
RP_DEVICE void store(float *p, const quad<float> &q) {
  *(uint4 *)p = make_uint4(q.w[0], q.w[1], q.w[2], q.w[3]);
}
RP_DEVICE void store(bf16 *p, const quad<bf16> &q) { *(uint2 *)p = make_uint2(q.w[0], q.w[1]); }
/* What is not read again soon. */
RP_DEVICE void store_once(float *p, const quad<float> &q) {
  __stcs((uint4 *)p, make_uint4(q.w[0], q.w[1], q.w[2], q.w[3]));
}
RP_DEVICE void store_once(bf16 *p, const quad<bf16> &q) {
  __stcs((uint2 *)p, make_uint2(q.w[0], q.w[1]));
}
template <class T>
RP_DEVICE void clear(quad<T> &q) {
  RP_UNROLL
  for (unsigned i = 0; i < sizeof(T); i++) q.w[i] = 0;
}
/* What was computed of it before is computed again, rather than kept in registers. */
template <class T>
RP_DEVICE void forget(quad<T> &q) {
#ifndef RP_EMULATE
  RP_UNROLL
  for (unsigned i = 0; i < sizeof(T); i++) asm volatile("" : "+r"(q.w[i]));
#else
  (void)q;
#endif
}
/* Elements 2j and 2j + 1. */
RP_DEVICE float2 two(const quad<float> &q, int j) {
  return make_float2(f32_of_bits(q.w[2 * j]), f32_of_bits(q.w[2 * j + 1]));
}
RP_DEVICE float2 two(const quad<bf16> &q, int j) {
  return make_float2(low_f32(q.w[j]), high_f32(q.w[j]));
}
RP_DEVICE void set_two(quad<float> &q, int j, float2 x) {
  q.w[2 * j] = f32_bits(x.x), q.w[2 * j + 1] = f32_bits(x.y);
}
RP_DEVICE void set_two(quad<bf16> &q, int j, float2 x) { q.w[j] = bf16x2(x.y, x.x); }

/* ---- where things are ---- */

typedef struct {
  int64_t q, k, x, g;
} columns;
RP_DEVICE columns columns_of(int32_t H, int32_t Hk, int32_t h) {
  const int64_t q = (int64_t)H * h, kv = (int64_t)Hk * h;
  columns c;
  c.q = q, c.k = 2 * q, c.x = c.k + kv, c.g = c.x + kv;
  return c;
}

/* A thread's channels: at .. at + wide of all heads', and the same `half` on. */
typedef struct {
  int64_t at;
  int32_t half, i; /* i: within the head's half */
  bool both;       /* there is a second half */
} pairs;
RP_DEVICE pairs pairs_of(int64_t column, int32_t h, int wide) {
  const int32_t half = rp_gate_half(h), each = half / wide;
  pairs p;
  p.half = half;
  p.i = (int32_t)(column % each) * wide;
  p.at = column / each * h + p.i;
  p.both = p.i + half < h;
  return p;
}

#endif
