/* lanes.h - small inline pieces the drivers are made of: widening loads and rounding stores, branch
 * free transcendental functions that compilers turn into vectors, sums in a fixed order.
 *
 * Included by kern/ sources only, after RP_LEVEL is set. In double the functions are libm's. */
#ifndef RP_OPS_CPU_KERN_LANES_H
#define RP_OPS_CPU_KERN_LANES_H

#include <math.h>
#include <omp.h>
#include <string.h>
#include "ops/cpu/kern/drivers.h"

/* Elementwise drivers work on blocks of this many elements, widened into stack buffers. */
enum { RP_BLOCK = 512 };
/* Independent partial sums of a reduction; the same at every level. */
enum { RP_LANES = 16 };

/* ---- memory ---- */

static inline const void *rd(rp_tensor t, int64_t i) {
  return (const void *)(t.p.at + (uintptr_t)i * (uintptr_t)rp_dtype_bytes(t.dtype));
}
static inline void *wr(rp_tensor t, int64_t i) {
  return (void *)(t.p.at + (uintptr_t)i * (uintptr_t)rp_dtype_bytes(t.dtype));
}
static inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* dst[n] = t[i .. i+n), widened. F32, F64, BF16. */
static inline void load(rp_real *restrict dst, rp_tensor t, int64_t i, int64_t n) {
  if (t.dtype == RP_REAL) {
    memcpy(dst, rd(t, i), (size_t)n * sizeof(rp_real));
  } else if (t.dtype == RP_BF16) {
    const uint16_t *restrict s = rd(t, i);
    for (int64_t j = 0; j < n; j++) dst[j] = (rp_real)rp_bf16_to_f32(s[j]);
  } else if (t.dtype == RP_F32) {
    const float *restrict s = rd(t, i);
    for (int64_t j = 0; j < n; j++) dst[j] = (rp_real)s[j];
  } else {
    const double *restrict s = rd(t, i);
    for (int64_t j = 0; j < n; j++) dst[j] = (rp_real)s[j];
  }
}

/* t[i .. i+n) = src[n], rounded to nearest even where t is narrower. F32, F64, BF16. */
static inline void store(rp_tensor t, int64_t i, const rp_real *restrict src, int64_t n) {
  if (t.dtype == RP_REAL) {
    memcpy(wr(t, i), src, (size_t)n * sizeof(rp_real));
  } else if (t.dtype == RP_BF16) {
    uint16_t *restrict d = wr(t, i);
    for (int64_t j = 0; j < n; j++) d[j] = rp_f32_to_bf16((float)src[j]);
  } else if (t.dtype == RP_F32) {
    float *restrict d = wr(t, i);
    for (int64_t j = 0; j < n; j++) d[j] = (float)src[j];
  } else {
    double *restrict d = wr(t, i);
    for (int64_t j = 0; j < n; j++) d[j] = (double)src[j];
  }
}

/* Values as a compute tensor of dtype t would hold them. */
static inline void round_as(rp_dtype t, rp_real *x, int64_t n) {
  if (t != RP_BF16) return;
  for (int64_t j = 0; j < n; j++) x[j] = (rp_real)rp_bf16_to_f32(rp_f32_to_bf16((float)x[j]));
}

static inline bool is_real(rp_tensor t) { return t.dtype == RP_REAL; }
static inline bool is_compute(rp_tensor t) { return t.dtype == RP_REAL || t.dtype == RP_BF16; }
static inline bool is_float(rp_tensor t) {
  return t.dtype == RP_F32 || t.dtype == RP_F64 || t.dtype == RP_BF16;
}
/* Fails the queue when a driver was given dtypes it does not take. */
static inline bool dtypes(rp_cpu_ctx *c, bool ok, const char *op) {
  if (!ok)
    rp_fail(c->err, RP_FAIL, "op %s: a tensor has a dtype that it does not take; this is a bug",
            op);
  return ok;
}

/* The rows of a call, looked at: NULL, with a sticky error, where one contradicts itself. kv: the
 * op's caches; NULL where it looks into none. */
static inline const rp_row *rows_of(rp_cpu_ctx *c, const rp_rows *r, const rp_kv *kv,
                                    const char *op) {
  const rp_row *row = (const rp_row *)r->row.at;
  for (int32_t i = 0; i < r->count; i++) {
    const rp_row *x = &row[i];
    const bool inside =
        x->tok >= 0 && x->n >= 1 && x->n <= r->longest && x->tok <= r->tokens - x->n;
    const bool stands = x->pos >= 0 && x->pos <= (1 << 30) - x->n && x->top >= x->pos;
    const bool past = !kv || (x->cell.at ? kv->pool.p.at && x->top - x->pos <= kv->margin
                                         : x->pos == 0 && x->top == 0);
    if (inside && stands && past) continue;
    rp_fail(c->err, RP_FAIL,
            "op %s: row %d (token %d, %d tokens, position %d of %d) does not fit the call's %d "
            "tokens or its cache; this is a bug",
            op, (int)i, (int)x->tok, (int)x->n, (int)x->pos, (int)x->top, (int)r->tokens);
    return NULL;
  }
  return row;
}

/* ---- functions of one value ---- */

#ifdef RP_REAL_DOUBLE
static inline double exp_real(double x) { return exp(x); }
static inline double exp_below(double x) { return exp(x); }
static inline double exp2_below(double x) { return exp2(x); }
static inline double erf_real(double x) { return erf(x); }
static inline double tanh_real(double x) { return tanh(x); }
static inline double sqrt_real(double x) { return sqrt(x); }
static inline double sigmoid_real(double x) { return 1 / (1 + exp(-x)); }
#else
static inline float sqrt_real(float x) { return sqrtf(x); }
static inline float bits_to_f32(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static inline uint32_t f32_to_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}
/* Polynomials are summed in pairs, not from one end: a chain of dependent products is what such a
 * function would wait for. */

/* exp(x) = p 2^n for |x| < 104; *bits: n + 0x4b400000. */
static inline float exp_parts(float x, uint32_t *bits) {
  const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
  const float shifted = x * 1.44269504f + magic;
  const float n = shifted - magic;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f, s = r * r;
  const float high = 1.394216109e-3f * s + (8.363776144e-3f * r + 4.166636345e-2f);
  *bits = f32_to_bits(shifted);
  return (high * s + (1.666657336e-1f * r + 5.000000029e-1f)) * s + r + 1.0f;
}
/* 2 ulp (1 where the result is normal); 0 below -104, infinity above 88.73, NaN stays. The scale is
 * applied in two halves so that neither end leaves the exponent range too early. */
static inline float exp_real(float x) {
  uint32_t bits;
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float p = exp_parts(x, &bits);
  const uint32_t i = bits - 0x4b400000u + 256, half = i >> 1; /* n + 256 > 0 */
  return p * bits_to_f32((half - 1) << 23) * bits_to_f32((i - half - 1) << 23);
}
/* The same where x <= 88 is known, as in a softmax, and results below 2^-125 may be 0. */
static inline float exp_below(float x) {
  uint32_t bits;
  const float p = exp_parts(x, &bits);
  const float scaled = p * bits_to_f32((bits - 0x4b400000u + 127) << 23);
  return x < -86.6f ? 0.0f : scaled;
}
/* 2^x, 2 ulp, where x <= 127 is known; below -125 it is 0. NaN stays. */
static inline float exp2_below(float x) {
  const float shifted =
      x + 12582912.0f; /* 1.5 * 2^23: rounds to an integer, which its last bits hold */
  const float r = x - (shifted - 12582912.0f), s = r * r;
  const float high = 1.535336189e-4f * s + (1.339887442e-3f * r + 9.618437358e-3f);
  const float p =
      (high * s + (5.550332471e-2f * r + 2.402264791e-1f)) * s + (6.931472029e-1f * r + 1.0f);
  const float scaled = p * bits_to_f32((f32_to_bits(shifted) << 23) + 0x3f800000u);
  return x < -125.0f ? 0.0f : scaled;
}
/* Absolute error 1e-7; NaN stays. */
static inline float erf_real(float x) {
  const float t = fabsf(x), s = x * x;
  const float s2 = s * s;
  const float p =
      ((-5.976893800e-4f * s + 4.990980253e-3f) * s2 + (-2.676556700e-2f * s + 1.128180277e-1f)) *
          s2 +
      (-3.761249432e-1f * s + 1.283791500e-1f);
  const float near0 = p * x + x;
  const float u = t > 4.0f ? 4.0f : t; /* erf is 1 to float32 from 3.92 on */
  const float u2 = u * u;
  const float high =
      (2.090955570e-5f * u - 4.323030063e-4f) * u2 + (4.160526998e-3f * u - 2.509149679e-2f);
  const float low =
      (1.082366194e-1f * u + 6.333866465e-1f) * u2 + (1.294951591e-1f * u - 1.705520319e-4f);
  const float q = high * (u2 * u2) + low + u;
  const float far0 = copysignf(1.0f - exp_below(-q), x);
  return t > 0.92f ? far0 : near0;
}
/* Absolute error 2e-7; NaN stays. */
static inline float tanh_real(float x) { return 1.0f - 2.0f / (exp_real(2.0f * x) + 1.0f); }
/* 1 / (1 + exp(-x)), 3 ulp: 0 below -88, 1 above 80; NaN stays. Between these one scale is enough: it is
 * infinite, and the result 0, where exp would be. */
static inline float sigmoid_real(float x) {
  uint32_t bits;
  const float p = exp_parts(-x, &bits);
  const float sum = 1.0f + p * bits_to_f32((bits - 0x4b400000u + 127) << 23);
  const float in_range = 1.0f / (x > 80.0f ? 1.0f : sum);
  return x < -88.0f ? 0.0f : in_range;
}
#endif

/* ---- sums in a fixed order ---- */

static inline rp_real sum_lanes(const rp_real *acc) {
  rp_real s = 0;
  for (int l = 0; l < RP_LANES; l++) s += acc[l];
  return s;
}
static inline rp_real dot(const rp_real *restrict a, const rp_real *restrict b, int64_t n) {
  rp_real acc[RP_LANES] = {0};
  int64_t i = 0;
  for (; i + RP_LANES <= n; i += RP_LANES)
    for (int l = 0; l < RP_LANES; l++) acc[l] += a[i + l] * b[i + l];
  for (int l = 0; i + l < n; l++) acc[l] += a[i + l] * b[i + l];
  return sum_lanes(acc);
}

#endif
