/* op_hopper.h - attention by the kernels of hopper.cu. */
#ifndef RP_OPS_CUDA_OP_HOPPER_H
#define RP_OPS_CUDA_OP_HOPPER_H

#include "ops/cuda/cuda_kernels.h"

enum { RP_HOPPER_SCRATCH = sizeof(int32_t) };

/* Whether they serve the op, which is bfloat16, of a scale above 0 and 16-byte aligned tensors. */
bool rp_hopper_serves(const rp_cuda *g, const rp_attend_args *a);
/* Its rows of more than `few` tokens. */
void rp_hopper_put(const rp_cuda_run *r, const rp_attend_args *a, int few);

#endif
