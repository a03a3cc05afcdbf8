/* attend_bwd_lists.h - which queries the keys of a row meet, in tiles.
 *
 * A tile of queries meets the keys of its segments (pattern/segs.h). For tiles of keys the positions of a row
 * are cut into lists, so that work follows the pairs that are seen: initial and dilated keys, which all later
 * queries see, compactly; and the rest, which only their windows see. A key is in one list, so its gradient
 * has one owner. */
#ifndef RP_OPS_CUDA_KERNEL_ATTEND_BWD_LISTS_H
#define RP_OPS_CUDA_KERNEL_ATTEND_BWD_LISTS_H

#include "ops/cuda/kernel/attend_bwd.h"
#include "ops/cuda/kernel/lane.h"
#include "pattern/segs.h"

typedef struct {
  int32_t first,
      step; /* position of entry j: first + j step; with skip: of the j-th that is not dilated */
  int32_t skip; /* D of the dilated positions that are left out; 0: none are */
  int32_t count;
  int32_t far; /* query t sees key s iff 0 <= t - s <= far */
} key_list;

RP_DEVICE int32_t key_at(key_list l, int32_t j) {
  const int32_t i = l.first + j * l.step;
  return l.skip ? i + i / (l.skip - 1) : i;
}

/* How many of the positions below s are not dilated. */
RP_DEVICE int32_t not_dilated(rp_pat p, int32_t s) { return p.D < 1 ? s : s - s / p.D; }

/* The lists of a row of n tokens; most work first. */
RP_DEVICE void key_lists(key_list l[RP_ATTEND_BWD_LISTS], rp_pat p, int32_t n) {
  if (p.D == 1) p.I = 0;
  const int32_t initial = rp_min_i32(p.I, n);
  const int64_t first = p.D < 1 ? n : rp_pat_next(p, 0);
  l[0] = {0, 1, 0, initial, INT32_MAX};
  l[1] = {(int32_t)rp_min_i32((int32_t)(first < n ? first : n), n), p.D, 0,
          first < n ? (int32_t)((n - 1 - first) / p.D) + 1 : 0, INT32_MAX};
  l[2] = {not_dilated(p, initial), 1, p.D < 1 ? 0 : p.D,
          not_dilated(p, n) - not_dilated(p, initial), p.W};
}

typedef struct {
  key_list list;
  int32_t j0, count; /* its entries j0 .. j0 + count - 1 */
  int32_t t0, t1;    /* the queries that see any of them */
} key_tile;

/* Position of its entry j; beyond the last one that of the last. */
RP_DEVICE int32_t tile_key(const key_tile &k, int32_t j) {
  return key_at(k.list, k.j0 + rp_min_i32(j, k.count - 1));
}

/* Tile `rank` of those of a row; false: there are fewer. */
RP_DEVICE bool key_tile_at(key_tile *k, rp_pat p, int32_t n, int32_t rank, int32_t size) {
  key_list l[RP_ATTEND_BWD_LISTS];
  key_lists(l, p, n);
  for (int i = 0; i < RP_ATTEND_BWD_LISTS; i++) {
    const int32_t tiles = (l[i].count + size - 1) / size;
    if (rank >= tiles) {
      rank -= tiles;
      continue;
    }
    k->list = l[i];
    k->j0 = rank * size;
    k->count = rp_min_i32(size, l[i].count - k->j0);
    k->t0 = key_at(l[i], k->j0);
    const int64_t end = (int64_t)key_at(l[i], k->j0 + k->count - 1) + l[i].far + 1;
    k->t1 = end < n ? (int32_t)end : n;
    return true;
  }
  return false;
}

RP_DEVICE rp_pat pat_of(const rp_attend_bwd_args &op, const rp_row &row, int g) {
  return ((const rp_pat *)op.pats.at)[(int64_t)row.plan * op.pats_stride + g];
}

#endif
