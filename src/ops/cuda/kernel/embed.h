/* embed.h - kernels of embed.cu: rows of the table, and their gradients.
 *
 * Backward sorts the tokens by id, those of an id in their order, by digits (bits of the id) from the lowest
 * on. The sorted list is cut into tiles; a run of tokens of one id inside a tile is added up in registers,
 * those that leave it are put together from the tiles' parts. */
#ifndef RP_OPS_CUDA_KERNEL_EMBED_H
#define RP_OPS_CUDA_KERNEL_EMBED_H

#include "ops/ops.h"

enum {
  RP_EMBED_THREADS = 128,
  RP_EMBED_EACH = 4,   /* runs of 4 that a thread of embed takes */
  RP_EMBED_SORT = 256, /* threads of the sort's kernels, which take SORT_TILE tokens */
  RP_EMBED_SORT_TILE = 1024,
  RP_EMBED_BITS = 9, /* of a digit at most */
  RP_EMBED_TILE = 32 /* tokens of a tile of embed_bwd */
};

/* One digit of the ids: (id >> shift) % 2^bits. from: int32 pairs (id, token) in the order so far, none: that
 * of the tokens; to: in the new order. count: int32 [tiles][2^bits]. */
typedef struct {
  int32_t n, tiles, shift, bits;
  rp_ptr ids, from, to, count;
} rp_embed_sort;
/* sorted: pairs (id, token). part: float [tiles][2][d], the sums of a tile's first run, where it began before
 * the tile, and of its last, where it goes on behind it. */
typedef struct {
  rp_embed_bwd_args op;
  rp_ptr sorted, part;
} rp_embed_tiles;

/* embed in a grid of (n, pieces of d); _any: any table, one element a thread. */
#define RP_CUDA_EMBED_KERNELS(X) \
  X(embed_f32) \
  X(embed_bf16) \
  X(embed_any) \
  X(embed_sort_count) \
  X(embed_sort_move) \
  X(embed_bwd_tile) \
  X(embed_bwd_tile_any) \
  X(embed_bwd_join)

#endif
