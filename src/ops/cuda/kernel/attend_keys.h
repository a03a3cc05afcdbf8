/* attend_keys.h - device code that the kernels of attention share: which tile of queries a block has, and
 * the keys its queries see, as one list whatever they lie in. Included behind lane.h. */
#ifndef RP_OPS_CUDA_KERNEL_ATTEND_KEYS_H
#define RP_OPS_CUDA_KERNEL_ATTEND_KEYS_H

#include "ops/cuda/kernel/lane.h"
#include "ops/ops.h"

/* ---- tiles ---- */

typedef struct {
  int32_t row, tile;
} attend_tile;

/* Tile i of the call, where rows of more than `few` tokens are cut into tiles of `size` queries: row by
 * row, the last tile of a row, which sees most, first. row -1: there is none. The whole warp comes. */
RP_DEVICE attend_tile find_tile(const rp_rows &rows, int few, int size, int32_t i) {
  const int lane = (int)threadIdx.x % 32;
  for (int32_t base = 0; base < rows.count; base += 32) {
    const int32_t at = base + lane;
    const int32_t n = at < rows.count ? ((const rp_row *)rows.row.at)[at].n : 0;
    const int32_t tiles = n > few ? (n + size - 1) / size : 0;
    int32_t end = tiles;
    RP_UNROLL
    for (int by = 1; by < 32; by *= 2) {
      const int32_t below = __shfl_up_sync(RP_ALL_LANES, end, by);
      if (lane >= by) end += below;
    }
    const unsigned past = __ballot_sync(RP_ALL_LANES, end > i);
    if (past) {
      const int its = 32 - __popc(past);
      return {base + its, __shfl_sync(RP_ALL_LANES, end, its) - 1 - i};
    }
    i -= __shfl_sync(RP_ALL_LANES, end, 31);
  }
  return {-1, 0};
}

/* A row, which must lie inside of the call: else the device stops. */
RP_DEVICE rp_row row_at(const rp_rows &rows, int32_t i) {
  const rp_row r = ((const rp_row *)rows.row.at)[i];
  if (r.tok < 0 || r.n < 1 || r.n > rows.longest || r.tok > rows.tokens - r.n || r.pos < 0 ||
      r.top < r.pos)
    stop_device();
  return r;
}

RP_DEVICE rp_pat pat_at(rp_ptr pats, int32_t stride, int32_t plan, int32_t head) {
  return ((const rp_pat *)pats.at)[(int64_t)plan * stride + head];
}

/* ---- keys ---- */

/* The segments of a tile one behind the other: key j lies in segment i, first[i] <= j < first[i + 1]. In
 * shared memory. */
typedef struct {
  rp_seg seg[RP_SEGS_MAX];
  int32_t first[RP_SEGS_MAX + 1], n, count; /* segments; keys of all */
  int32_t own, own_end; /* queries [own, own_end) from the tile's first on see themselves besides */
  const int32_t *table[2]; /* of KEPT, of RING */
} attend_keys;

/* Those of queries [t0, t1), which are positions, of a row and a key-value head; by one thread. With
 * `apart` a window of nothing but the query itself is left out of the list. */
RP_DEVICE void find_keys(attend_keys *k, const rp_attend_args &a, const rp_row &row, rp_pat pat,
                         int32_t head, int32_t t0, int32_t t1, bool apart) {
  const rp_past past = {row.pos, row.top, a.kv.margin};
  const int n = rp_segs(k->seg, pat, past, t0, t1);
  int32_t count = 0, to = 0;
  k->own = k->own_end = 0;
  for (int i = 0; i < n; i++) {
    const rp_seg s = k->seg[i];
    if (apart && s.far == 0) {
      k->own = s.pos - t0;
      k->own_end = k->own + s.count;
      continue;
    }
    k->seg[to] = s;
    k->first[to++] = count;
    count += s.count;
  }
  k->first[to] = count;
  k->n = to;
  k->count = count;
  if (!row.cell.at) return;
  for (int list = RP_SRC_KEPT; list <= RP_SRC_RING; list++)
    k->table[list - RP_SRC_KEPT] =
        rp_cell_table(&a.kv, row.cell, a.Hk, a.h, sizeof(float), head, (rp_src)list);
}

/* Where a key and its value lie, and which queries of the tile see it: [low, high]. */
typedef struct {
  const unsigned char *k, *v;
  bool fresh; /* of the call's own tokens */
  int32_t low, high;
} attend_key;

/* Key j, from segment *i or a later one; j < count. Queries are counted from position t0 on, `most` of
 * them. */
template <class T>
RP_DEVICE attend_key key_at(const attend_keys *k, int *i, int32_t j, const rp_attend_args &a,
                            int32_t tok, int32_t head, int32_t t0, int32_t most) {
  while (j >= k->first[*i + 1]) ++*i;
  const rp_seg *s = &k->seg[*i];
  const int32_t e = j - k->first[*i], slot = s->slot + e * s->slot_step;
  const int64_t pos = s->pos + (int64_t)e * s->step - t0;
  attend_key key;
  key.fresh = s->src == RP_SRC_NEW;
  if (key.fresh) {
    const int64_t at = (((int64_t)tok + slot) * a.Hk + head) * a.h * (int64_t)sizeof(T);
    key.k = (const unsigned char *)a.k.p.at + at;
    key.v = (const unsigned char *)a.v.p.at + at;
  } else {
    const int32_t block = k->table[s->src - RP_SRC_KEPT][slot / RP_KV_BLOCK];
    key.k =
        (const unsigned char *)a.kv.pool.p.at + rp_kv_entry(block, slot, a.h) * (int64_t)sizeof(T);
    key.v = key.k + (int64_t)RP_KV_BLOCK * a.h * (int64_t)sizeof(T);
  }
  const int64_t low = pos + s->near, high = pos + s->far;
  key.low = low > 0 ? (int32_t)(low < most ? low : most) : 0;
  key.high = (int32_t)(high < most - 1 ? high : most - 1);
  return key;
}

/* What of it kernels keep that copy keys without threads' registers: where it lies, + 1 for one of the call's
 * own tokens, 0 for none; the first query that sees it, and << 16 the one behind the last. */
typedef struct {
  uintptr_t at;
  uint32_t seen;
} attend_place;
enum { RP_ATTEND_UNSEEN = 0xffff };

template <class T>
RP_DEVICE attend_place place_of_key(const attend_keys *k, int *i, int32_t j,
                                    const rp_attend_args &a, int32_t tok, int32_t head, int32_t t0,
                                    int32_t most) {
  const attend_key key = key_at<T>(k, i, j, a, tok, head, t0, most);
  return {(uintptr_t)key.k + (key.fresh ? 1 : 0), (uint32_t)key.low | (uint32_t)(key.high + 1)
                                                                          << 16};
}

/* From a key to its value, in bytes. */
template <class T>
RP_DEVICE int64_t to_value(const rp_attend_args &a, bool fresh) {
  return fresh ? (int64_t)a.v.p.at - (int64_t)a.k.p.at
               : (int64_t)RP_KV_BLOCK * a.h * (int64_t)sizeof(T);
}

/* ---- tiles in shared memory ----
 *
 * Rows of N bfloat16; the 16 bytes c of row r lie at (c ^ r % 8), so that eight rows of a column are in
 * different banks. */

/* In bytes from the first row. */
template <int N>
RP_DEVICE uint32_t swizzled(int row, int chunk) {
  return (uint32_t)(row * 2 * N + ((chunk ^ (row & 7)) << 4));
}

#endif
