/* vec.h - vectors of real as wide as the level's registers, loaded from any element. Included by
 * kern/ sources only. */
#ifndef RP_OPS_CPU_KERN_VEC_H
#define RP_OPS_CPU_KERN_VEC_H

#include <string.h>
#if defined(__AVX2__)
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

/* A loop over registers: n is a constant of at most 12. */
#define RP_EACH(i, n) _Pragma("GCC unroll 12") for (int i = 0; i < n; i++)

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

/* The values of a function of one lane. gcc makes a vector of the loop, but not once it is unrolled. */
#define VEC_MAP(v, f) \
  do { \
    rp_real lane[VEC]; \
    memcpy(lane, &(v), sizeof lane); \
    _Pragma("GCC unroll 1") for (int l = 0; l < VEC; l++) lane[l] = f(lane[l]); \
    memcpy(&(v), lane, sizeof lane); \
  } while (0)

/* Two vectors that lie side by side become the even and the odd elements (split order), and back. */
#if defined(RP_REAL_DOUBLE)
#define VEC_INDICES(f) f(0), f(1)
#elif defined(__AVX512F__)
#define VEC_INDICES(f) \
  f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), \
      f(15)
#elif defined(__AVX2__)
#define VEC_INDICES(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#else
#define VEC_INDICES(f) f(0), f(1), f(2), f(3)
#endif
#define VEC_EVEN(i) 2 * (i)
#define VEC_ODD(i) 2 * (i) + 1
#define VEC_LOW(i) (i) / 2 + (i) % 2 * VEC
#define VEC_HIGH(i) VEC / 2 + (i) / 2 + (i) % 2 * VEC
static inline void vec_split(vec *a, vec *b) {
  const vec x = *a, y = *b;
  *a = __builtin_shufflevector(x, y, VEC_INDICES(VEC_EVEN));
  *b = __builtin_shufflevector(x, y, VEC_INDICES(VEC_ODD));
}
static inline void vec_unsplit(vec *a, vec *b) {
  const vec x = *a, y = *b;
  *a = __builtin_shufflevector(x, y, VEC_INDICES(VEC_LOW));
  *b = __builtin_shufflevector(x, y, VEC_INDICES(VEC_HIGH));
}

/* 2 VEC values in split order to bfloat16 at x, rounded to nearest even; NaN stays NaN. */
#ifdef RP_REAL_DOUBLE
static inline void vec_to_halves(void *x, vec even, vec odd) {
  for (int l = 0; l < VEC; l++) {
    ((uint16_t *)x)[2 * l] = rp_f32_to_bf16((float)even[l]);
    ((uint16_t *)x)[2 * l + 1] = rp_f32_to_bf16((float)odd[l]);
  }
}
#else
/* In the upper half of each word. */
static inline vec_words vec_rounded(vec v) {
  const vec_words u = (vec_words)v, nan = (vec_words)(v != v);
  return (u + 0x7fffu + ((u >> 16) & 1)) | (nan & 0x7fc00000u);
}
static inline void vec_to_halves(void *x, vec even, vec odd) {
  *(vec_words *)x = vec_rounded(even) >> 16 | (vec_rounded(odd) & 0xffff0000u);
}
#endif

/* The first n bytes at x, and 0; those to x. n may be less than 0 or more than VEC_BYTES. Nothing else there
 * is touched. */
static inline size_t vec_bytes(int64_t n) {
  return n < 0 ? 0 : n < VEC_BYTES ? (size_t)n : (size_t)VEC_BYTES;
}
#if defined(__AVX512F__)
static inline __mmask64 vec_mask(int64_t n) {
  return n <= 0 ? 0 : ~(uint64_t)0 >> (VEC_BYTES - vec_bytes(n));
}
static inline vec vec_load_first(const void *x, int64_t n) {
  return (vec)_mm512_maskz_loadu_epi8(vec_mask(n), x);
}
static inline void vec_store_first(void *x, vec v, int64_t n) {
  _mm512_mask_storeu_epi8(x, vec_mask(n), (__m512i)v);
}
#else
static inline vec vec_load_first(const void *x, int64_t n) {
  vec v = {0};
  memcpy(&v, x, vec_bytes(n));
  return v;
}
static inline void vec_store_first(void *x, vec v, int64_t n) { memcpy(x, &v, vec_bytes(n)); }
#endif

/* Writes at a multiple of VEC_BYTES past the caches, where the level has that (VEC_PAST): a line written
 * whole and at once need not be read before. Who wrote so calls vec_past_end before others may read. */
#if defined(__AVX512F__) && !defined(RP_REAL_DOUBLE)
enum { VEC_PAST = 1 };
static inline void vec_store_past(void *x, vec v) { _mm512_stream_ps((float *)x, (__m512)v); }
static inline void vec_past_end(void) { _mm_sfence(); }
#elif defined(__AVX2__) && !defined(RP_REAL_DOUBLE)
enum { VEC_PAST = 1 };
static inline void vec_store_past(void *x, vec v) { _mm256_stream_ps((float *)x, (__m256)v); }
static inline void vec_past_end(void) { _mm_sfence(); }
#else
enum { VEC_PAST = 0 };
static inline void vec_store_past(void *x, vec v) { *(vec *)x = v; }
static inline void vec_past_end(void) {}
#endif

/* The lanes' sum, halves added until one is left. */
static inline rp_real vec_sum(vec v) {
  rp_real lane[VEC];
  memcpy(lane, &v, sizeof lane);
  for (int n = VEC / 2; n > 0; n /= 2)
    for (int l = 0; l < n; l++) lane[l] += lane[l + n];
  return lane[0];
}

#endif
