/* count.h - how many: keys that a query sees, pairs of a sequence, entries and blocks of a cache
 * (model.md 3, 4). The numbers that costs, plans, benchmarks and the cache itself share. Integers
 * only, inline, no state. Lengths are below 2^31; D, W and I as in segs.h.
 *
 * A cache has two lists per layer and kv head: KEPT, the initial and then the dilated positions, or
 * all of them when D = 1; and RING, the newest W + R positions from I on, none when D = 1. R, the
 * rollback margin, is how many tokens late a token leaves the window, so that truncating by as many
 * finds it there. A list is stored in blocks of RP_KV_BLOCK positions, K and V of one kv head. */
#ifndef RP_PATTERN_COUNT_H
#define RP_PATTERN_COUNT_H

#include "pattern/segs.h"

enum { RP_KV_BLOCK = 16 };

/* Dilated positions s with (s + 1) mod D = 0 in from <= s < to. */
RP_HD static inline int64_t rp_pat_dilated(rp_pat p, int64_t from, int64_t to) {
  return p.D >= 1 && to > from ? to / p.D - from / p.D : 0;
}

/* Keys a <= s < b that query t sees, by the set each is counted in: initial, else local, else
 * dilated. */
typedef struct {
  int64_t initial, local, dilated;
} rp_pat_sets;
RP_HD static inline int64_t rp_span(int64_t from, int64_t to) { return to > from ? to - from : 0; }
RP_HD static inline rp_pat_sets rp_pat_see_in(rp_pat p, int64_t t, int64_t a, int64_t b) {
  const int64_t I = p.I, low = t - p.W > I ? t - p.W : I; /* the window begins here */
  const int64_t end = b < t + 1 ? b : t + 1;
  rp_pat_sets n;
  n.initial = rp_span(a, I < end ? I : end);
  n.local = rp_span(a > low ? a : low, end);
  n.dilated = rp_pat_dilated(p, a > I ? a : I, low < end ? low : end);
  return n;
}
RP_HD static inline rp_pat_sets rp_pat_see(rp_pat p, int64_t t) {
  return rp_pat_see_in(p, t, 0, t + 1);
}
RP_HD static inline int64_t rp_pat_keys(rp_pat p, int64_t t) {
  const rp_pat_sets n = rp_pat_see(p, t);
  return n.initial + n.local + n.dilated;
}

/* Sum of i / D (rounded down) for i = 0 .. n. */
RP_HD static inline int64_t rp_sum_div(int64_t n, int64_t D) {
  if (n < 0) return 0;
  const int64_t q = n / D, r = n % D;
  return D * (q * (q - 1) / 2) + q * (r + 1);
}

/* (query, key) pairs of T tokens: the sum of rp_pat_keys over t = 0 .. T-1. */
RP_HD static inline int64_t rp_pat_pairs(rp_pat p, int64_t T) {
  if (p.D == 1 || T <= p.I) return T * (T + 1) / 2;
  const int64_t I = p.I, m = T - I; /* queries t = I .. T-1; u = t - I */
  int64_t n = I * (I + 1) / 2 + m * I;
  const int64_t full = m - 1 < p.W ? m - 1 : p.W; /* u <= W: the window is u + 1 tokens */
  n += (full + 1) * (full + 2) / 2 + (m - 1 - full) * ((int64_t)p.W + 1);
  if (p.D > 1 && m - 1 > p.W) {
    const int64_t b = T - 1 - p.W; /* i = t - W runs over I+1 .. b */
    n += rp_sum_div(b, p.D) - rp_sum_div(I, p.D) - (b - I) * (I / p.D);
  }
  return n;
}

/* Entries of KEPT and of RING after T tokens; without a margin their sum is n(T) of model.md 4. */
RP_HD static inline int64_t rp_pat_in_kept(rp_pat p, int64_t T, int64_t R) {
  if (p.D == 1 || T <= p.I) return T;
  return p.I + rp_pat_dilated(p, p.I, T - p.W - R);
}
RP_HD static inline int64_t rp_pat_in_ring(rp_pat p, int64_t T, int64_t R) {
  if (p.D == 1 || T <= p.I) return 0;
  return p.W + R < T - p.I ? p.W + R : T - p.I;
}
RP_HD static inline int64_t rp_pat_cache(rp_pat p, int64_t T, int64_t R) {
  return rp_pat_in_kept(p, T, R) + rp_pat_in_ring(p, T, R);
}

/* Blocks that hold them. */
RP_HD static inline int64_t rp_pat_blocks(rp_pat p, int64_t T, int64_t R) {
  const int64_t kept = rp_pat_in_kept(p, T, R), ring = rp_pat_in_ring(p, T, R);
  return (kept + RP_KV_BLOCK - 1) / RP_KV_BLOCK + (ring + RP_KV_BLOCK - 1) / RP_KV_BLOCK;
}

#endif
