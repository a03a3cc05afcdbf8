/* optim.h - kernels of optim.cu: norm of the gradients, clipping, the optimizers.
 *
 * All ranges one behind the other are one line of elements, cut into SLICES equal slices: a block has a
 * slice, wherever ranges begin and end. */
#ifndef RP_OPS_CUDA_KERNEL_OPTIM_H
#define RP_OPS_CUDA_KERNEL_OPTIM_H

#include "ops/ops.h"

enum { RP_OPTIM_THREADS = 256, RP_OPTIM_ROOM = 64 };

/* begin: int64 [ranges + 1], where each range begins in the line. part: double [slices + ranges]; slice s
 * and range i have s + i, which no other two have. */
typedef struct {
  rp_sumsq_args op;
  int32_t slices;
  rp_ptr begin, part;
} rp_sumsq_slices;
/* factors: what one step multiplies by, ROOM bytes. */
typedef struct {
  rp_optim_args op;
  int32_t slices;
  rp_ptr begin, factors;
} rp_optim_slices;

/* _begin: one block. sumsq_part, optim: a grid of slices. sumsq_sum: a warp a range. clip: one warp. */
#define RP_CUDA_OPTIM_KERNELS(X) \
  X(sumsq_begin) \
  X(sumsq_part) \
  X(sumsq_sum) \
  X(clip) \
  X(optim_begin) \
  X(optim)

#endif
