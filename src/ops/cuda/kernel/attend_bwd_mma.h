/* attend_bwd_mma.h - kernels of attend_bwd_mma.cu: the backward of attention for bfloat16 and heads of 64 and
 * 128 channels, with the products of a warp. As those of attend_bwd.h they follow each other. */
#ifndef RP_OPS_CUDA_KERNEL_ATTEND_BWD_MMA_H
#define RP_OPS_CUDA_KERNEL_ATTEND_BWD_MMA_H

#include "ops/ops.h"

enum {
  RP_ATTEND_BWD_MMA_THREADS = 128,
  RP_ATTEND_BWD_MMA_KEYS = 64,     /* of a block that makes dk and dv */
  RP_ATTEND_BWD_MMA_ASKED = 64,    /* queries that it takes at a time */
  RP_ATTEND_BWD_MMA_QUERIES = 128, /* of a block that makes dq */
  RP_ATTEND_BWD_MMA_MET = 32,      /* keys that it takes at a time */
};

/* All tensors lie at multiples of 16 bytes. */
typedef struct {
  rp_attend_bwd_args op;
  rp_ptr lse;   /* [H][tokens], in units of log 2 */
  rp_ptr delta; /* [H][tokens]: sum of dout * out */
  rp_ptr dout;  /* [tokens][H * h], bfloat16 */
} rp_attend_bwd_mma_args;

/* Bytes of shared memory: keys, values and two turns of queries and gradients, probabilities and theirs; two
 * blocks fit on a multiprocessor of 228 KiB. */
#define RP_ATTEND_BWD_MMA_KEYS_SHARED(h) (6 * 64 * (h)*2 + 2 * 64 * 64 * 2 + 2 * 64 * 4)
#define RP_ATTEND_BWD_MMA_QUERIES_SHARED(h) ((2 * 128 + 4 * 32) * (h)*2)

/* prepare: a warp a token and head. keys: blocks tiles of a row * rows * Hk, as many tiles as
 * RP_ATTEND_BWD_LISTS says. queries: tiles * rows * H. */
#define RP_CUDA_ATTEND_BWD_MMA_KERNELS(X) \
  X(attend_bwd_mma_prepare_64) \
  X(attend_bwd_mma_prepare_128) \
  X(attend_bwd_mma_keys_64) \
  X(attend_bwd_mma_keys_128) \
  X(attend_bwd_mma_queries_64) \
  X(attend_bwd_mma_queries_128)

#endif
