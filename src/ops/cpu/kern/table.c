/* table.c - the ops of this level, by their place in RP_OPS. An op joins with one line below. */
#include "ops/cpu/kern/drivers.h"

/* X: an op; S: an op with a scratch function (drivers.h lists those too); P: one of those that the level
 * avx512_bf16 builds itself. */
#define RP_KERNELS(X, S, P) \
  X(zero) \
  X(copy) \
  X(cast) \
  X(take) \
  X(table) \
  S(gemm) \
  X(embed) \
  X(embed_bwd) \
  X(norm) \
  S(norm_bwd) \
  X(rope) \
  S(gate) \
  S(gate_bwd) \
  P(attend) \
  X(append) \
  P(attend_bwd) \
  X(ogate) \
  X(ogate_bwd) \
  X(act) \
  X(act_bwd) \
  S(head_loss) \
  S(pick) \
  S(sumsq) \
  X(clip) \
  X(optim)

#define RP_NONE(name)
#define RP_RUN_AT(name) [RP_OP_##name] = RP_BASE_NAME(rp_##name),
#define RP_SCRATCH_AT(name) [RP_OP_##name] = RP_BASE_NAME(rp_##name##_scratch),
#define RP_OWN_RUN_AT(name) [RP_OP_##name] = RP_DRIVER(name),
#define RP_OWN_SCRATCH_AT(name) [RP_OP_##name] = RP_SCRATCH(name),
const rp_cpu_table RP_LEVEL_NAME(rp_cpu_table) = {
    .run = {RP_KERNELS(RP_RUN_AT, RP_RUN_AT, RP_OWN_RUN_AT)},
    .scratch = {RP_KERNELS(RP_NONE, RP_SCRATCH_AT, RP_OWN_SCRATCH_AT)},
    .gemm = RP_BASE_NAME(rp_gemm_plain),
    .gemm_scratch = RP_BASE_NAME(rp_gemm_plain_scratch),
    .few = RP_LEVEL_NAME(rp_gemm_few),
    .few_scratch = RP_LEVEL_NAME(rp_gemm_few_scratch),
};
