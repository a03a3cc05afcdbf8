/* norm.h - kernels of norm.cu: RMSNorm and LayerNorm. */
#ifndef RP_OPS_CUDA_KERNEL_NORM_H
#define RP_OPS_CUDA_KERNEL_NORM_H

#include "ops/ops.h"

enum { RP_NORM_THREADS = 256, RP_NORM_COLUMNS = 32, RP_NORM_SUM_THREADS = 1024 };

/* A row a block. part: float [parts][2][d], the terms of dw and of db that a block's rows have. */
typedef struct {
  rp_norm_bwd_args op;
  int32_t parts;
  rp_ptr part;
} rp_norm_bwd_part;

/* Rows of at most N * 4 * THREADS elements, in runs of 4; or (_any) all others. norm in a grid of rows,
 * norm_bwd of parts, norm_bwd_sum of (columns / COLUMNS, 1 or with db 2). */
#define RP_CUDA_NORM_KERNELS(X) \
  X(norm_f32_1) \
  X(norm_f32_2) \
  X(norm_f32_4) \
  X(norm_f32_8) \
  X(norm_bf16_1) \
  X(norm_bf16_2) \
  X(norm_bf16_4) \
  X(norm_bf16_8) \
  X(norm_f32_any) \
  X(norm_bf16_any) \
  X(norm_bwd_1) \
  X(norm_bwd_2) \
  X(norm_bwd_4) \
  X(norm_bwd_8) \
  X(norm_bwd_any) \
  X(norm_bwd_sum)

#endif
