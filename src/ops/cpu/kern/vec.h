/* vec.h - vectors of real as wide as the level's registers, loaded from any element. Included by
 * kern/ sources only. */
#ifndef RP_OPS_CPU_KERN_VEC_H
#define RP_OPS_CPU_KERN_VEC_H

#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "ops/cpu/kern.h"

#if defined(__AVX512F__)
enum { VEC_BYTES = 64 };
#elif defined(__AVX2__)
enum { VEC_BYTES = 32 };
#else
enum { VEC_BYTES = 16 };
#endif
typedef rp_real vec __attribute__((vector_size(VEC_BYTES), may_alias, aligned(sizeof(rp_real))));
enum { VEC = VEC_BYTES / (int)sizeof(rp_real) };
#ifdef RP_REAL_DOUBLE
typedef int64_t vec_ints __attribute__((vector_size(VEC_BYTES)));
#else
typedef int32_t vec_ints __attribute__((vector_size(VEC_BYTES)));
#endif

/* What a product of two vectors adds to a sum. A slot of a vector is a real; at the level avx512_bf16 it
 * is a pair of neighbouring bfloat16, and two products are added to the slot's float32. */
#ifdef __AVX512BF16__
enum { PAIRS = 1 };
static inline vec vec_mul_add(vec sum, vec a, vec b) {
  return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
/* The same slot a with every one of b. */
static inline vec vec_mul_add_all(vec sum, rp_real a, vec b) {
  return vec_mul_add(sum, (vec)_mm512_set1_ps(a), b);
}
/* 2 VEC reals, rounded, in order. */
static inline vec vec_narrow(vec a, vec b) {
  return (vec)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
}
/* Slot l: lanes l of both, rounded. */
static inline vec vec_pair(vec low, vec high) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (vec)_mm512_permutexvar_epi16(order, (__m512i)vec_narrow(low, high));
}
#else
enum { PAIRS = 0 };
static inline vec vec_mul_add(vec sum, vec a, vec b) { return sum + a * b; }
static inline vec vec_mul_add_all(vec sum, rp_real a, vec b) { return sum + a * b; }
#endif

/* A loop over registers: n is a constant of at most 16. */
#define RP_EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < n; i++)

/* Of 2 VEC bfloat16 values those at even (odd 0) or odd places: widening so moves no lane. What they meet
 * is kept in the same order, here called split: of every 2 VEC elements the even ones, then the odd ones. */
#ifdef RP_REAL_DOUBLE
static inline vec vec_halves(const void *x, const int odd) {
  vec v = {0};
  for (int l = 0; l < VEC; l++) v[l] = (rp_real)rp_bf16_to_f32(((const uint16_t *)x)[2 * l + odd]);
  return v;
}
#else
typedef uint32_t vec_words __attribute__((vector_size(VEC_BYTES), may_alias, aligned(2)));
static inline vec vec_halves(const void *x, const int odd) {
  const vec_words w = *(const vec_words *)x;
  return odd ? (vec)(w & 0xffff0000u) : (vec)(w << 16);
}
#endif
/* Where element i of a row lies in split order. */
static inline int vec_split_at(int i) {
  return i / (2 * VEC) * (2 * VEC) + i % 2 * VEC + i % (2 * VEC) / 2;
}

/* The lanes' sum, halves added until one is left. */
static inline rp_real vec_sum(vec v) {
  rp_real lane[VEC];
  memcpy(lane, &v, sizeof lane);
  for (int n = VEC / 2; n > 0; n /= 2)
    for (int l = 0; l < n; l++) lane[l] += lane[l + n];
  return lane[0];
}

/* Lane l: the sum of v[l]'s lanes, with the bits of vec_sum. Vectors are added in pairs: of n groups of
 * lanes in each of two, the halves of every group, which gives one vector of 2 n groups. */
static inline vec vec_sums(vec v[VEC]) {
#pragma GCC unroll 8
  for (int n = VEC / 2; n > 0; n /= 2) {
    vec_ints low;
    RP_EACH(l, VEC) low[l] = l / n * 2 * n + l % n;
    RP_EACH(i, n)
    v[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], low) +
           __builtin_shuffle(v[2 * i], v[2 * i + 1], low + n);
  }
  return v[0];
}

#endif
