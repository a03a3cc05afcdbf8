/* vec.h - vectors of real as wide as the level's registers, loaded from any element, also of bfloat16.
 * Included by kern/ sources only. */
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
typedef rp_real vec __attribute__((vector_size(VEC_BYTES), may_alias, aligned(2)));
enum { VEC = VEC_BYTES / (int)sizeof(rp_real) };

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

/* ---- across lanes ---- */

/* f(lane, d) for every lane, as a shuffle takes them. */
#if defined(RP_REAL_DOUBLE)
#define VEC_LANES_16(f, l, d) f((l), d), f((l) + 1, d)
#else
#define VEC_LANES_16(f, l, d) f((l), d), f((l) + 1, d), f((l) + 2, d), f((l) + 3, d)
#endif
#define VEC_LANES_32(f, l, d) \
  VEC_LANES_16(f, l, d), VEC_LANES_16(f, (l) + 16 / (int)sizeof(rp_real), d)
#if defined(__AVX512F__)
#define VEC_LANES(f, d) VEC_LANES_32(f, 0, d), VEC_LANES_32(f, VEC / 2, d)
#elif defined(__AVX2__)
#define VEC_LANES(f, d) VEC_LANES_32(f, 0, d)
#else
#define VEC_LANES(f, d) VEC_LANES_16(f, 0, d)
#endif
/* Lane l of a where l has not d, of b where it has; and lane l ^ d. d: a power of two, or 0. */
#define VEC_OWN(l, d) (l) + ((l) & (d) ? VEC : 0)
#define VEC_OTHER(l, d) ((l) ^ (d)) + ((l) & (d) ? VEC : 0)
#define VEC_MEET(op, a, b, d) \
  op(__builtin_shufflevector(a, b, VEC_LANES(VEC_OWN, d)), \
     __builtin_shufflevector(a, b, VEC_LANES(VEC_OTHER, d)))

static inline vec vec_plus(vec a, vec b) { return a + b; }
typedef __typeof__((vec){0} > (vec){0}) vec_truth;
static inline vec vec_larger(vec a, vec b) {
  const vec_truth m = a > b;
  return (vec)((m & (vec_truth)a) | (~m & (vec_truth)b));
}

/* The lanes' sum, halves added until one is left. */
static inline rp_real vec_sum(vec v) {
  if (VEC > 8) v = VEC_MEET(vec_plus, v, v, 8 % VEC);
  if (VEC > 4) v = VEC_MEET(vec_plus, v, v, 4 % VEC);
  if (VEC > 2) v = VEC_MEET(vec_plus, v, v, 2 % VEC);
  return VEC_MEET(vec_plus, v, v, 1)[0];
}
/* Lane l: the same of v[l], of all VEC. */
static inline vec vec_sums(vec *v) {
  if (VEC > 8) RP_EACH(i, 8) v[i] = VEC_MEET(vec_plus, v[i], v[(i + 8) % VEC], 8 % VEC);
  if (VEC > 4) RP_EACH(i, 4) v[i] = VEC_MEET(vec_plus, v[i], v[(i + 4) % VEC], 4 % VEC);
  if (VEC > 2) RP_EACH(i, 2) v[i] = VEC_MEET(vec_plus, v[i], v[(i + 2) % VEC], 2 % VEC);
  return VEC_MEET(vec_plus, v[0], v[1], 1);
}
/* The largest lane. */
static inline rp_real vec_max(vec v) {
  if (VEC > 8) v = VEC_MEET(vec_larger, v, v, 8 % VEC);
  if (VEC > 4) v = VEC_MEET(vec_larger, v, v, 4 % VEC);
  if (VEC > 2) v = VEC_MEET(vec_larger, v, v, 2 % VEC);
  return VEC_MEET(vec_larger, v, v, 1)[0];
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
#define VEC_EVEN(l, d) 2 * (l)
#define VEC_ODD(l, d) 2 * (l) + 1
#define VEC_LOW(l, d) (l) / 2 + (l) % 2 * VEC
#define VEC_HIGH(l, d) VEC / 2 + (l) / 2 + (l) % 2 * VEC
static inline void vec_split(vec *a, vec *b) {
  const vec x = *a, y = *b;
  *a = __builtin_shufflevector(x, y, VEC_LANES(VEC_EVEN, 0));
  *b = __builtin_shufflevector(x, y, VEC_LANES(VEC_ODD, 0));
}
static inline void vec_unsplit(vec *a, vec *b) {
  const vec x = *a, y = *b;
  *a = __builtin_shufflevector(x, y, VEC_LANES(VEC_LOW, 0));
  *b = __builtin_shufflevector(x, y, VEC_LANES(VEC_HIGH, 0));
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

#endif
