/* pointwise.cu - activations of the FFN, the output gate. Bound by memory; what bfloat16 cannot show is
 * computed in fewer instructions, or the exact GELU would be bound by them. */
#include "ops/cuda/kernel/pointwise.h"
#include "ops/cuda/kernel/wide.h"

enum { THREADS = RP_POINTWISE_THREADS, EACH = RP_POINTWISE_EACH };

/* ---- functions; the type is the one that the result is rounded to ---- */

template <class T>
RP_DEVICE constexpr bool is_bf16() {
  return sizeof(T) == 2;
}

template <class T>
RP_DEVICE float exp_of(float x) {
  if constexpr (is_bf16<T>()) return fast_exp2(1.44269504f * x);
  return expf(x);
}

/* s = sigmoid(x), and s (1 - s) without cancellation. */
struct sigmoid {
  float s, slope;
};
template <class T>
RP_DEVICE sigmoid sigmoid_of(float x) {
  const float e = exp_of<T>(-fabsf(x)), r = __fdividef(1, 1 + e);
  return {x >= 0 ? r : e * r, e * r * r};
}

/* The normal distribution up to x, and e = exp(-x^2 / 2). Of bfloat16 by Abramowitz and Stegun 7.1.26, off
 * by 1.5e-7 at most. */
struct normal {
  float phi, e;
};
template <class T>
RP_DEVICE normal normal_of(float x) {
  if constexpr (!is_bf16<T>()) return {0.5f + 0.5f * erff(0.70710678f * x), expf(-0.5f * x * x)};
  const float t = __fdividef(1, 1 + 0.3275911f * 0.70710678f * fabsf(x));
  const float e = fast_exp2(-0.72134752f * x * x);
  const float p =
      t * (0.254829592f +
           t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  const float tail = 0.5f * p * e;
  return {x >= 0 ? 1 - tail : tail, e};
}

/* tanh-GELU is x sigmoid(y). */
RP_DEVICE float fast_gelu_in(float x) { return 1.59576912f * x * (1 + 0.044715f * x * x); }

template <class T, rp_act act>
RP_DEVICE float act_of(float x) {
  switch (act) {
    case RP_ACT_GELU: return x * normal_of<T>(x).phi;
    case RP_ACT_RELU: return x <= 0 ? 0 : x;
    case RP_ACT_RELUSQUARED: return x <= 0 ? 0 : x * x;
    case RP_ACT_FASTGELU: return x * sigmoid_of<T>(fast_gelu_in(x)).s;
    default: return x * sigmoid_of<T>(x).s; /* silu, and the gate of swiglu */
  }
}

template <class T, rp_act act>
RP_DEVICE float slope_of(float x) {
  switch (act) {
    case RP_ACT_GELU: {
      const normal n = normal_of<T>(x);
      return n.phi + 0.39894228f * x * n.e;
    }
    case RP_ACT_RELU: return x <= 0 ? 0 : 1 + 0 * x;
    case RP_ACT_RELUSQUARED: return x <= 0 ? 0 : 2 * x;
    case RP_ACT_FASTGELU: {
      const sigmoid s = sigmoid_of<T>(fast_gelu_in(x));
      return s.s + s.slope * 1.59576912f * x * (1 + 3 * 0.044715f * x * x);
    }
    default: {
      const sigmoid s = sigmoid_of<T>(x);
      return s.s + x * s.slope;
    }
  }
}

/* ---- a thread's part ---- */

/* Column of run i of this thread, and whether the row has it. */
template <int V>
RP_DEVICE bool column(int *col, int i, int64_t width) {
  *col = (int)((blockIdx.y * EACH + i) * THREADS + threadIdx.x) * V;
  return *col < width;
}

template <class T, int V, rp_act act>
RP_DEVICE void act_part(const rp_pointwise_act &a) {
  const int64_t row = blockIdx.x, left = min((int64_t)a.width, a.total - row * a.width);
  const T *u = (const T *)a.u.p.at + row * a.pu;
  T *v = (T *)a.v.p.at + row * a.pv;
  constexpr bool gated = act == RP_ACT_SWIGLU;
  float x[EACH][V], w[EACH][V];
  int col;
  RP_UNROLL
  for (int i = 0; i < EACH; i++) {
    if (!column<V>(&col, i, left)) continue;
    load(x[i], u + (gated ? a.width : 0) + col);
    if (gated) load(w[i], u + col);
  }
  RP_UNROLL
  for (int i = 0; i < EACH; i++) {
    if (!column<V>(&col, i, left)) continue;
    RP_UNROLL
    for (int j = 0; j < V; j++) x[i][j] = act_of<T, act>(x[i][j]) * (gated ? w[i][j] : 1);
    store(v + col, x[i]);
  }
}

template <class T, int V, rp_act act>
RP_DEVICE void act_bwd_part(const rp_pointwise_act &a) {
  const int64_t row = blockIdx.x, left = min((int64_t)a.width, a.total - row * a.width);
  const T *u = (const T *)a.u.p.at + row * a.pu;
  const float *dv = (const float *)a.dv.p.at + row * a.pv;
  T *du = (T *)a.du.p.at + row * a.pu;
  constexpr bool gated = act == RP_ACT_SWIGLU;
  float x[EACH][V], w[EACH][V], g[EACH][V];
  int col;
  RP_UNROLL
  for (int i = 0; i < EACH; i++) {
    if (!column<V>(&col, i, left)) continue;
    load(x[i], u + (gated ? a.width : 0) + col);
    load(g[i], dv + col);
    if (gated) load(w[i], u + col);
  }
  RP_UNROLL
  for (int i = 0; i < EACH; i++) {
    if (!column<V>(&col, i, left)) continue;
    if (gated) {
      float dw[V];
      RP_UNROLL
      for (int j = 0; j < V; j++) {
        dw[j] = act_of<T, act>(x[i][j]) * g[i][j];
        g[i][j] *= w[i][j];
      }
      store(du + col, dw);
    }
    RP_UNROLL
    for (int j = 0; j < V; j++) x[i][j] = slope_of<T, act>(x[i][j]) * g[i][j];
    store(du + (gated ? a.width : 0) + col, x[i]);
  }
}

/* One choice for all elements of a block, or each would branch. */
#define BY_ACT(part) \
  switch (a.act) { \
    case RP_ACT_GELU: return part<T, V, RP_ACT_GELU>(a); \
    case RP_ACT_RELU: return part<T, V, RP_ACT_RELU>(a); \
    case RP_ACT_RELUSQUARED: return part<T, V, RP_ACT_RELUSQUARED>(a); \
    case RP_ACT_FASTGELU: return part<T, V, RP_ACT_FASTGELU>(a); \
    case RP_ACT_SWIGLU: return part<T, V, RP_ACT_SWIGLU>(a); \
    default: return part<T, V, RP_ACT_SILU>(a); \
  }
template <class T, int V>
RP_DEVICE void act_body(const rp_pointwise_act &a) {
  BY_ACT(act_part)
}
template <class T, int V>
RP_DEVICE void act_bwd_body(const rp_pointwise_act &a) {
  BY_ACT(act_bwd_part)
}

/* As a tensor of the type holds it. */
template <class T>
RP_DEVICE float rounded(float x) {
  if constexpr (is_bf16<T>()) return to_f32(to_bf16(x));
  return x;
}

/* y may be a: a thread reads what it writes, and before. */
template <class T, int V>
RP_DEVICE void ogate_body(const rp_pointwise_gate &a) {
  const int64_t row = blockIdx.x;
  const T *x = (const T *)a.a.p.at + row * a.d, *o = (const T *)a.p.p.at + row * a.ldp;
  T *y = (T *)a.y.p.at + row * a.d;
  float s[EACH][V], v[EACH][V];
  int col;
  RP_UNROLL
  for (int i = 0; i < EACH; i++) {
    if (!column<V>(&col, i, a.d)) continue;
    load(s[i], o + col);
    load(v[i], x + col);
  }
  RP_UNROLL
  for (int i = 0; i < EACH; i++) {
    if (!column<V>(&col, i, a.d)) continue;
    RP_UNROLL
    for (int j = 0; j < V; j++) v[i][j] *= rounded<T>(sigmoid_of<T>(s[i][j]).s);
    store(y + col, v[i]);
  }
}

/* The slope is that of the unrounded sigmoid: the rounded one is flat where it rounds to 1. */
template <class T, int V>
RP_DEVICE void ogate_bwd_body(const rp_pointwise_gate &a) {
  const int64_t row = blockIdx.x;
  const T *x = (const T *)a.a.p.at + row * a.d, *o = (const T *)a.p.p.at + row * a.ldp;
  const float *dy = (const float *)a.dy.p.at + row * a.d;
  float *da = (float *)a.da.p.at + row * a.d;
  T *dp = (T *)a.dp.p.at + row * a.ldp;
  float s[EACH][V], v[EACH][V], g[EACH][V];
  int col;
  RP_UNROLL
  for (int i = 0; i < EACH; i++) {
    if (!column<V>(&col, i, a.d)) continue;
    load(s[i], o + col);
    load(v[i], x + col);
    load(g[i], dy + col);
  }
  RP_UNROLL
  for (int i = 0; i < EACH; i++) {
    if (!column<V>(&col, i, a.d)) continue;
    RP_UNROLL
    for (int j = 0; j < V; j++) {
      const sigmoid k = sigmoid_of<T>(s[i][j]);
      v[i][j] *= g[i][j] * k.slope;
      g[i][j] *= rounded<T>(k.s);
    }
    store(dp + col, v[i]);
    store(da + col, g[i]);
  }
}

#define KERNELS(op, args, wide) \
  RP_KERNEL(op##_bf16, args, THREADS) { op##_body<bf16, wide>(a); } \
  RP_KERNEL(op##_f32, args, THREADS) { op##_body<float, 4>(a); } \
  RP_KERNEL(op##_bf16_any, args, THREADS) { op##_body<bf16, 1>(a); } \
  RP_KERNEL(op##_f32_any, args, THREADS) { op##_body<float, 1>(a); }
KERNELS(act, rp_pointwise_act, 8)
KERNELS(act_bwd, rp_pointwise_act, 4)
KERNELS(ogate, rp_pointwise_gate, 8)
KERNELS(ogate_bwd, rp_pointwise_gate, 4)
