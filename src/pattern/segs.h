/* segs.h - which keys a tile of queries sees, as a short list of key segments (count.h: how many they
 * are). Integers only, inline, no state: gcc and nvcc compile the same text.
 *
 * Token t sees s <= t when s < I, or t - s <= W, or D != -1 and (s+1) mod D == 0 (D = 1: dense).
 * The three sets are split so that they are disjoint: initial s < I; local s >= I, t - s <= W;
 * dilated s >= I, t - s > W. Positions are below 2^30; D is -1 or >= 1, W and I are >= 0. */
#ifndef RP_PATTERN_SEGS_H
#define RP_PATTERN_SEGS_H

#include "base/hd.h"
#include "config/settings.h" /* rp_pat */

/* Where the new tokens of a row stand: the first has position `pos`; the cache has taken in all before
 * it and once held up to `top` >= pos tokens (more after a truncation); a token leaves the window for
 * good `margin` tokens late, so that a truncation by as many finds it there. Training: {0, 0, 0}. */
typedef struct {
  int32_t pos, top, margin;
} rp_past;

/* Where keys lie: among the call's new tokens; in the cache's list KEPT, which only grows (initial, then
 * dilated positions, or all of them when D = 1); or in its RING, the newest W + margin positions from I on,
 * position s at (s - I) mod (W + margin). */
typedef enum { RP_SRC_NEW, RP_SRC_KEPT, RP_SRC_RING } rp_src;

/* Keys pos, pos + step, ... (count of them), entries slot, slot + slot_step, ... of their list (NEW: slot
 * 0 is the row's first token). Query t sees key s iff t - far <= s <= t - near. */
typedef struct {
  int32_t src, slot, slot_step, pos, step, count, near, far;
} rp_seg;
enum { RP_SEGS_MAX = 9 };

RP_HD static inline int32_t rp_min_i32(int32_t a, int32_t b) { return a < b ? a : b; }
RP_HD static inline int32_t rp_max_i32(int32_t a, int32_t b) { return a > b ? a : b; }

/* First position >= I, and >= s, of the dilated set (may be beyond every length); D >= 1. */
RP_HD static inline int64_t rp_pat_next(rp_pat p, int64_t s) {
  const int64_t low = s > p.I ? s : p.I, r = (low + 1) % p.D;
  return low + (r ? p.D - r : 0);
}
RP_HD static inline int64_t rp_pat_first(rp_pat p) { return rp_pat_next(p, p.I); }

/* Entries of RING at most; D = 1 has none. */
RP_HD static inline int64_t rp_pat_ring(rp_pat p, int32_t margin) {
  return p.D == 1 ? 0 : (int64_t)p.W + margin;
}
/* Dilated positions below this one are in KEPT once the cache has held `top` tokens. */
RP_HD static inline int64_t rp_pat_evicted(rp_pat p, int32_t margin, int64_t top) {
  return top - rp_pat_ring(p, margin);
}
/* Entry in KEPT of a dilated position s >= I. */
RP_HD static inline int32_t rp_pat_slot(rp_pat p, int64_t s) {
  return (int32_t)(p.I + (s - rp_pat_first(p)) / p.D);
}

/* Adds positions first, first + step, ... below end, all of one list; RING is cut where it wraps. */
RP_HD static inline int rp_seg_add(rp_seg *o, int n, rp_pat p, rp_past past, rp_src src,
                                   int64_t first, int64_t end, int32_t step, int32_t near,
                                   int32_t far) {
  while (first < end) {
    const int64_t all = (end - first + step - 1) / step, ring = rp_pat_ring(p, past.margin);
    int64_t count = all, slot = first - past.pos;
    if (src == RP_SRC_KEPT) slot = step == 1 ? first : rp_pat_slot(p, first);
    if (src == RP_SRC_RING) {
      slot = (first - p.I) % ring;
      const int64_t whole = (ring - slot + step - 1) / step;
      if (whole < count) count = whole;
    }
    o[n++] = (rp_seg){src,
                      (int32_t)slot,
                      src == RP_SRC_KEPT ? 1 : step,
                      (int32_t)first,
                      step,
                      (int32_t)count,
                      near,
                      far};
    first += count * step;
  }
  return n;
}

/* The part of [first, end) before past.pos is in `src`, the rest is NEW. */
RP_HD static inline int rp_seg_split(rp_seg *o, int n, rp_pat p, rp_past past, rp_src src,
                                     int64_t first, int64_t end, int32_t near, int32_t far) {
  const int64_t pos = past.pos, old = end < pos ? end : pos;
  n = rp_seg_add(o, n, p, past, src, first, old, 1, near, far);
  return rp_seg_add(o, n, p, past, RP_SRC_NEW, first > pos ? first : pos, end, 1, near, far);
}

/* Segments of the queries [t0, t1), past.pos <= t0 < t1: at most RP_SEGS_MAX (3 without a past),
 * disjoint, each with keys that some query of the tile sees. Returns how many. */
RP_HD static inline int rp_segs(rp_seg *o, rp_pat p, rp_past past, int32_t t0, int32_t t1) {
  if (p.D == 1) return rp_seg_split(o, 0, p, past, RP_SRC_KEPT, 0, t1, 0, INT32_MAX);
  int n = rp_seg_split(o, 0, p, past, RP_SRC_KEPT, 0, rp_min_i32(p.I, t1), 0, INT32_MAX);
  const int32_t low = rp_max_i32(p.I, p.W < t0 ? t0 - p.W : 0);
  n = rp_seg_split(o, n, p, past, RP_SRC_RING, low, t1, 0, p.W);
  const int64_t end = (int64_t)t1 - 1 - p.W; /* keys older than the window of some query */
  if (p.D < 1 || end <= p.I) return n;
  const int64_t gone = rp_pat_evicted(p, past.margin, past.top);
  const int64_t kept = gone < end ? gone : end, old = past.pos < end ? past.pos : end;
  const int32_t near = p.W + 1, far = INT32_MAX;
  n = rp_seg_add(o, n, p, past, RP_SRC_KEPT, rp_pat_next(p, 0), kept, p.D, near, far);
  n = rp_seg_add(o, n, p, past, RP_SRC_RING, rp_pat_next(p, kept), old, p.D, near, far);
  return rp_seg_add(o, n, p, past, RP_SRC_NEW, rp_pat_next(p, old > kept ? old : kept), end, p.D,
                    near, far);
}

#endif
