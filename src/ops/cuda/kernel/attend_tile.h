/* attend_tile.h - kernels of attend_tile.cu: attention of many queries in bfloat16. */
#ifndef RP_OPS_CUDA_KERNEL_ATTEND_TILE_H
#define RP_OPS_CUDA_KERNEL_ATTEND_TILE_H

#include "ops/ops.h"

/* attend_tile_N: widths of at most N that are multiples of 8, all tensors and the pool at 16 bytes, a positive
 * scale. A block has a tile of a head's queries; the shared memory is RP_ATTEND_TILE_SHARED. Grid: tiles x H. */
enum { RP_ATTEND_TILE_THREADS = 128 };
#define RP_ATTEND_TILE_QUERIES(N) ((N) <= 128 ? 128 : 64)
#define RP_ATTEND_TILE_KEYS(N) ((N) <= 128 ? 64 : 32)
/* Queries; two tiles of keys and of values; where the keys lie; who sees them; the segments. */
#define RP_ATTEND_TILE_SHARED(N) \
  ((size_t)2 * (N) * (RP_ATTEND_TILE_QUERIES(N) + 4 * RP_ATTEND_TILE_KEYS(N)) + \
   (size_t)RP_ATTEND_TILE_KEYS(N) * (2 * 8 + 3 * 4) + 384)

typedef struct {
  rp_attend_args op;
  int32_t few; /* rows of so few tokens are another kernel's */
} rp_attend_tile_args;

#define RP_CUDA_ATTEND_TILE_KERNELS(X) \
  X(attend_tile_64) \
  X(attend_tile_128) \
  X(attend_tile_256)

#endif
