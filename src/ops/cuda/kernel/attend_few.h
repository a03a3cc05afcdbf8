/* attend_few.h - kernels of attend_few.cu: attention of rows of few tokens over caches, in bfloat16. */
#ifndef RP_OPS_CUDA_KERNEL_ATTEND_FEW_H
#define RP_OPS_CUDA_KERNEL_ATTEND_FEW_H

#include "ops/ops.h"

/* A unit is a row, a key-value head and `heads` query heads of its group: `chunks` units have all of them.
 *
 * attend_few_N: widths of at most N that are multiples of 8, all tensors and the pool at 16 bytes, a positive
 * scale. A block has a part of a unit's keys. Shared memory: RP_ATTEND_FEW_SHARED. Grid: units x parts.
 * attend_merge, where there may be several parts: a block has a query of a unit. Grid: units x queries. */
enum { RP_ATTEND_FEW_QUERIES = 16, RP_ATTEND_MERGE_THREADS = 128 };
#define RP_ATTEND_FEW_WARPS(N) ((N) <= 128 ? 4 : 2)
#define RP_ATTEND_FEW_STAGES(N) ((N) <= 64 ? 4 : 3)
#define RP_ATTEND_FEW_SHARED(N) \
  ((size_t)RP_ATTEND_FEW_WARPS(N) * \
       (RP_ATTEND_FEW_STAGES(N) * (2 * 16 * 2 * (N) + 16 * 4) + 128) + \
   384)

typedef struct {
  rp_attend_args op;
  int32_t few;           /* rows of more tokens are another kernel's */
  int32_t heads, chunks; /* heads x few: at most RP_ATTEND_FEW_QUERIES */
  int32_t queries;       /* of a unit at most: heads x the tokens of a row */
  /* A unit's parts: as many as have `least` keys each, up to `fill`; more, if each has `most` keys; at most
   * `parts`. */
  int32_t parts, fill, least, most;
  rp_ptr
      sums; /* float [units][parts][queries][h + 4]: the sum of values, the largest score, the sum of exp */
  rp_ptr made; /* int32 [units]: how many parts it has; 0: no row of this kernel */
} rp_attend_few_args;

#define RP_CUDA_ATTEND_FEW_KERNELS(X) \
  X(attend_few_64) \
  X(attend_few_128) \
  X(attend_few_256) \
  X(attend_merge)

#endif
