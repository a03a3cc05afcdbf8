/* cache.h - how the caches of sessions lie on a device; inline, for kernels and for src/session.
 *
 * A pool is an array of blocks. A block has RP_KV_BLOCK entries of one key-value head: their keys,
 * [RP_KV_BLOCK][h], then their values, both compute. A session's cell is one allocation without pointers,
 * so that a fork is a copy of it:
 *
 *   states  real [layers][states][2][Hk*h]: the recurrence after a token (k~ before the rotation,
 *           then v~), that after position t in slot t mod states; states is margin + 1, or 0 without
 *           recurrence
 *   lists   int32 [layers][Hk][2]: where the tables of KEPT and of RING begin, from here
 *   tables  int32: block numbers; entry e of a list is entry e mod RP_KV_BLOCK of block e div RP_KV_BLOCK
 */
#ifndef RP_OPS_CACHE_H
#define RP_OPS_CACHE_H

#include "ops/device.h"
#include "pattern/count.h"

/* Caches as an op of one layer sees them. pool none: the rows have no caches. */
typedef struct {
  rp_tensor pool; /* [blocks][2][RP_KV_BLOCK][h] compute */
  int32_t blocks, layer, layers, margin, states;
} rp_kv;

RP_HD static inline int64_t rp_kv_block_elements(int32_t h) { return 2 * (int64_t)RP_KV_BLOCK * h; }

/* Element of the pool where entry e of a block has its key; its value lies RP_KV_BLOCK * h on. */
RP_HD static inline int64_t rp_kv_entry(int32_t block, int32_t e, int32_t h) {
  return block * rp_kv_block_elements(h) + (int64_t)(e % RP_KV_BLOCK) * h;
}

/* Bytes of the states at the start of a cell. */
RP_HD static inline size_t rp_cell_states_bytes(const rp_kv *kv, int32_t Hk, int32_t h,
                                                int real_bytes) {
  const size_t bytes =
      (size_t)kv->layers * (size_t)kv->states * 2 * (size_t)Hk * (size_t)h * (size_t)real_bytes;
  return (bytes + 63) & ~(size_t)63;
}
/* k~ [Hk*h], then v~ [Hk*h], of this layer after position t. */
RP_HD static inline rp_ptr rp_cell_state(const rp_kv *kv, rp_ptr cell, int32_t Hk, int32_t h,
                                         int real_bytes, int32_t t) {
  const size_t each = 2 * (size_t)Hk * (size_t)h * (size_t)real_bytes;
  return rp_ptr_add(cell,
                    each * ((size_t)kv->layer * (size_t)kv->states + (size_t)(t % kv->states)));
}
/* The table of a list (RP_SRC_KEPT, RP_SRC_RING) of a key-value head in this layer: int32. */
RP_HD static inline const int32_t *rp_cell_table(const rp_kv *kv, rp_ptr cell, int32_t Hk,
                                                 int32_t h, int real_bytes, int32_t head,
                                                 rp_src list) {
  const int32_t *lists = (const int32_t *)(cell.at + rp_cell_states_bytes(kv, Hk, h, real_bytes));
  return lists + lists[((size_t)kv->layer * (size_t)Hk + (size_t)head) * 2 + (list - RP_SRC_KEPT)];
}

#endif
