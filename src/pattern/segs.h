/* segs.h - which keys a tile of queries sees, as a short list of key segments, and how many there
 * are. Integers only, inline, no state: gcc and nvcc compile the same text.
 *
 * Token t sees s <= t when s < I, or t - s <= W, or D != -1 and (s+1) mod D == 0 (D = 1: dense).
 * The three sets are split so that they are disjoint: initial s < I; local s >= I, t - s <= W;
 * dilated s >= I, t - s > W. Positions are below 2^30; D is -1 or >= 1, W and I are >= 0. */
#ifndef RP_PATTERN_SEGS_H
#define RP_PATTERN_SEGS_H

#include "config/settings.h" /* rp_pat */

#ifdef __CUDACC__
#define RP_HD __host__ __device__
#else
#define RP_HD
#endif

/* Keys pos, pos + step, ... (count of them). Query t sees key s iff t - far <= s <= t - near. */
typedef struct {
  int32_t pos, step, count, near, far;
} rp_seg;
enum { RP_SEGS_MAX = 3 };

RP_HD static inline int32_t rp_min_i32(int32_t a, int32_t b) { return a < b ? a : b; }
RP_HD static inline int32_t rp_max_i32(int32_t a, int32_t b) { return a > b ? a : b; }

/* First dilated position >= I (may be beyond every length). */
RP_HD static inline int64_t rp_pat_first(rp_pat p) {
  const int64_t r = ((int64_t)p.I + 1) % p.D;
  return (int64_t)p.I + (r ? p.D - r : 0);
}

/* Segments of the queries [t0, t1), t0 < t1: at most RP_SEGS_MAX, disjoint, each with a key that
 * some query of the tile sees. Returns how many. Every key of a segment with near 0 and
 * pos + (count-1) * step <= t0 is seen by the whole tile unless far says otherwise. */
RP_HD static inline int rp_segs(rp_seg *o, rp_pat p, int32_t t0, int32_t t1) {
  int n = 0;
  if (p.D == 1) {
    o[n++] = (rp_seg){0, 1, t1, 0, INT32_MAX};
    return n;
  }
  if (p.I > 0) o[n++] = (rp_seg){0, 1, rp_min_i32(p.I, t1), 0, INT32_MAX};
  const int32_t low = rp_max_i32(p.I, p.W < t0 ? t0 - p.W : 0);
  if (low < t1) o[n++] = (rp_seg){low, 1, t1 - low, 0, p.W};
  const int64_t last =
      (int64_t)t1 - 2 - p.W; /* the newest key older than the window of some query */
  if (p.D > 1 && last >= 0) {
    const int64_t d0 = rp_pat_first(p);
    if (d0 <= last)
      o[n++] = (rp_seg){(int32_t)d0, p.D, (int32_t)((last - d0) / p.D) + 1, p.W + 1, INT32_MAX};
  }
  return n;
}

/* Keys that query t sees. */
RP_HD static inline int64_t rp_pat_keys(rp_pat p, int64_t t) {
  if (p.D == 1 || t < p.I) return t + 1;
  const int64_t low = t - p.W > p.I ? t - p.W : p.I;
  int64_t n = p.I + (t - low + 1);
  if (p.D > 1 && t - p.W > p.I) n += (t - p.W) / p.D - p.I / p.D;
  return n;
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

/* Positions that a cache keeps after T tokens (model.md 4), without the recurrence state. */
RP_HD static inline int64_t rp_pat_cache(rp_pat p, int64_t T) {
  const int64_t I = p.I, past = T - I;
  if (past <= 0) return T;
  int64_t n = I + (p.W < past ? p.W : past);
  if (p.D >= 1 && T - p.W > I) n += (T - p.W) / p.D - I / p.D;
  return n;
}

#endif
