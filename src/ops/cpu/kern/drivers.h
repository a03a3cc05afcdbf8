/* drivers.h - what one build of the sources in kern/ defines: for every op of RP_OPS the driver
 * rp_<op>_<level>, and for those that need scratch rp_<op>_scratch_<level>, which looks at shapes and
 * at c->threads only. Drivers check the dtypes they are given and fail through c->err; shapes are
 * the caller's promise. */
#ifndef RP_OPS_CPU_KERN_DRIVERS_H
#define RP_OPS_CPU_KERN_DRIVERS_H

#include "ops/cpu/kern.h"

#define RP_DRIVER(name) RP_LEVEL_NAME(rp_##name)
#define RP_SCRATCH(name) RP_LEVEL_NAME(rp_##name##_scratch)

#define RP_X(name) void RP_BASE_NAME(rp_##name)(rp_cpu_ctx * c, const void *args);
RP_OPS(RP_X)
#undef RP_X

/* attend's rows of one token (attend_one.c); the others are left alone. */
void RP_BASE_NAME(rp_attend_one)(rp_cpu_ctx *c, const rp_attend_args *a, const rp_row *rows);
size_t RP_BASE_NAME(rp_attend_one_scratch)(const rp_cpu_ctx *c, const rp_attend_args *a);

#define RP_SCRATCH_OPS(X) \
  X(gemm) X(norm_bwd) X(gate) X(gate_bwd) X(attend) X(attend_bwd) X(head_loss) X(pick) X(sumsq)
#define RP_X(name) size_t RP_BASE_NAME(rp_##name##_scratch)(const rp_cpu_ctx *c, const void *args);
RP_SCRATCH_OPS(RP_X)
#undef RP_X

#ifdef __AVX512BF16__ /* what this level has instead where the operands are bfloat16 */
#define RP_X(name) \
  void RP_DRIVER(name)(rp_cpu_ctx * c, const void *args); \
  size_t RP_SCRATCH(name)(const rp_cpu_ctx *c, const void *args);
RP_X(attend)
RP_X(attend_bwd)
#undef RP_X
#endif

/* Threads for work on so many elements: a small op is done before another thread has heard of it,
 * and where the cores are shared with others, waiting for that one may take long. */
static inline int team_for(const rp_cpu_ctx *c, int64_t elements) {
  return elements < 16384 ? 1 : c->threads;
}

#endif
