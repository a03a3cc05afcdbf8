/* attend_bwd_hopper.h - kernels of attend_bwd_hopper.cu: the backward of attention on GPUs of compute
 * capability 9.0, for bfloat16 and heads of 64 and 128 channels. attend_bwd_mma_prepare_* comes before them. */
#ifndef RP_OPS_CUDA_KERNEL_ATTEND_BWD_HOPPER_H
#define RP_OPS_CUDA_KERNEL_ATTEND_BWD_HOPPER_H

#include "ops/cuda/kernel/attend_bwd_mma.h"

enum {
  RP_ATTEND_BWD_HOPPER_THREADS =
      384, /* three warpgroups, of which the first brings what the others need */
  RP_ATTEND_BWD_HOPPER_KEYS = 128,    /* of a block that makes dk and dv */
  RP_ATTEND_BWD_HOPPER_ASKED = 64,    /* queries that it takes at a time */
  RP_ATTEND_BWD_HOPPER_QUERIES = 128, /* of a block that makes dq */
  RP_ATTEND_BWD_HOPPER_MET = 128,     /* keys that it takes at a time */
};

/* Bytes of shared memory: keys and values, four stages of queries and gradients with their lse and delta; queries
 * and gradients, three stages of keys with who sees them, two of values. */
#define RP_ATTEND_BWD_HOPPER_KEYS_SHARED(h) (2 * 128 * (h)*2 + 4 * (2 * 64 * (h)*2 + 512) + 768)
#define RP_ATTEND_BWD_HOPPER_QUERIES_SHARED(h) (7 * 128 * (h)*2 + 3 * (512 + 16) + 256)

/* Parameters are rp_attend_bwd_mma_args, grids as those of attend_bwd_mma.h with these tiles. */
#define RP_CUDA_ATTEND_BWD_HOPPER_KERNELS(X) \
  X(attend_bwd_hopper_keys_64) \
  X(attend_bwd_hopper_keys_128) \
  X(attend_bwd_hopper_queries_64) \
  X(attend_bwd_hopper_queries_128)

#endif
