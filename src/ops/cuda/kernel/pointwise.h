/* pointwise.h - kernels of pointwise.cu: activations of the FFN, the output gate. */
#ifndef RP_OPS_CUDA_KERNEL_POINTWISE_H
#define RP_OPS_CUDA_KERNEL_POINTWISE_H

#include "ops/ops.h"

enum { RP_POINTWISE_THREADS = 128, RP_POINTWISE_EACH = 2 };

/* In a grid of (rows, pieces of a row): a piece is THREADS * EACH runs of `run` elements. `width` elements
 * of a row, `total` of all rows; pu, pv: elements between rows of u and of the rest. */
typedef struct {
  int64_t total, pu, pv;
  int32_t width;
  rp_act act;
  rp_tensor u, v, dv, du; /* act: u, v; act_bwd: u, dv, du */
} rp_pointwise_act;
typedef struct {
  int32_t d;
  int64_t ldp;
  rp_tensor a, p, y, dy, da, dp; /* ogate: a, p, y; ogate_bwd: all but y */
} rp_pointwise_gate;

/* Of bfloat16 or float32; in runs of 16 bytes, or (_any) of one element. */
#define RP_CUDA_POINTWISE_KERNELS(X) \
  X(act_bf16) \
  X(act_f32) \
  X(act_bf16_any) \
  X(act_f32_any) \
  X(act_bwd_bf16) \
  X(act_bwd_f32) \
  X(act_bwd_bf16_any) \
  X(act_bwd_f32_any) \
  X(ogate_bf16) \
  X(ogate_f32) \
  X(ogate_bf16_any) \
  X(ogate_f32_any) \
  X(ogate_bwd_bf16) \
  X(ogate_bwd_f32) \
  X(ogate_bwd_bf16_any) \
  X(ogate_bwd_f32_any)

#endif
