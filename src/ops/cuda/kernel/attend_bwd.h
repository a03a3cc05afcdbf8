/* attend_bwd.h - kernels of attend_bwd.cu: the backward of attention.
 *
 * Three follow each other: delta[H][tokens] = sum of dout * out; then a block for each tile of keys makes its
 * dk and dv, and a block for each tile of queries its dq. Each sum has one owner and one order. */
#ifndef RP_OPS_CUDA_KERNEL_ATTEND_BWD_H
#define RP_OPS_CUDA_KERNEL_ATTEND_BWD_H

#include "ops/ops.h"

enum {
  RP_ATTEND_BWD_THREADS = 256,
  RP_ATTEND_BWD_TILE = 64, /* queries, and keys */
  RP_ATTEND_BWD_WIDE =
      128, /* channels of the gradients that a block of the general kernels makes */
};

typedef struct {
  rp_attend_bwd_args op;
  rp_ptr delta; /* [H][tokens] */
} rp_attend_bwd_all;

/* Bytes of shared memory of the general kernels. */
enum { RP_ATTEND_BWD_SHARED = (4 * 32 + 2 * 64) * 68 * 4 + 2 * 64 * 4 };

/* delta: a warp a token and head. keys: blocks (tiles of a row * rows * Hk, channels), where a row has
 * up to RP_ATTEND_BWD_LISTS - 1 tiles more than its tokens fill. queries: (tiles * rows * H, channels). */
enum { RP_ATTEND_BWD_LISTS = 3 };
#define RP_CUDA_ATTEND_BWD_KERNELS(X) \
  X(attend_bwd_delta_f32) \
  X(attend_bwd_delta_bf16) \
  X(attend_bwd_keys_f32) \
  X(attend_bwd_keys_bf16) \
  X(attend_bwd_queries_f32) \
  X(attend_bwd_queries_bf16)

#endif
