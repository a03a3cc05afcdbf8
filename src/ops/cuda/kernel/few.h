/* few.h - kernels of few.cu: products of few rows with a weight as it lies, c[M,N] = a[M,K] b[N,K]^T. */
#ifndef RP_OPS_CUDA_KERNEL_FEW_H
#define RP_OPS_CUDA_KERNEL_FEW_H

#include "ops/ops.h"

enum {
  RP_FEW_MOST = 32, /* rows of a */
  RP_FEW_THREADS = 256,
  RP_FEW_SLICES = RP_FEW_THREADS / 32, /* of k: a warp each */
};

/* Dynamic shared memory of few_bf16: the sums of each slice, rows of c apart by so many floats. */
#define RP_FEW_STRIDE(tiles) (16 * (tiles) + 4)
#define RP_FEW_SHARED(tiles, groups) (RP_FEW_SLICES * 8 * (groups)*RP_FEW_STRIDE(tiles) * 4)

/* Parameters are the op's. few_bf16_T_G: a block has 16 T columns of c; M is at most 8 G. few_f32_R: a warp has R.
 * Rows of a and b begin at 16 bytes; those of the _any at any element. */
#define RP_CUDA_FEW_KERNELS(X) \
  X(few_bf16_1_1) \
  X(few_bf16_1_2) \
  X(few_bf16_1_4) \
  X(few_bf16_2_1) \
  X(few_bf16_2_2) \
  X(few_bf16_2_4) \
  X(few_bf16_any) \
  X(few_f32_2) \
  X(few_f32_4) \
  X(few_f32_any)

#endif
