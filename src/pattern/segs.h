/* segs.h - which keys a tile of queries sees, as a short list of key segments (count.h: how many they
 * are). Integers only, inline, no state: gcc and nvcc compile the same text.
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

#endif
