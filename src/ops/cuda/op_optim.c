/* op_optim.c - norm of the gradients, clipping, the optimizers. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"

/* Two turns of the eight blocks that a multiprocessor holds. */
static int32_t slices_of(const rp_cuda *g) { return 16 * g->processors; }

/* Where each range begins, in front of the rest. */
static size_t begins(int32_t ranges) { return ((size_t)ranges + 1) * sizeof(int64_t); }

static size_t sumsq_scratch(const rp_cuda *g, const void *args) {
  const rp_sumsq_args *a = args;
  return begins(a->ranges) + ((size_t)slices_of(g) + (size_t)a->ranges) * sizeof(double);
}

static void put_sumsq(const rp_cuda_run *r, const void *args) {
  const rp_sumsq_args *a = args;
  const rp_sumsq_slices s = {*a, slices_of(r->g), {r->scratch}, {r->scratch + begins(a->ranges)}};
  if (!a->ranges) return;
  RP_CUDA_LAUNCH(r, sumsq_begin, ((rp_cuda_grid){1, 1, 1, RP_OPTIM_THREADS, 0}), &s);
  RP_CUDA_LAUNCH(r, sumsq_part, ((rp_cuda_grid){s.slices, 1, 1, RP_OPTIM_THREADS, 0}), &s);
  RP_CUDA_LAUNCH(
      r, sumsq_sum,
      ((rp_cuda_grid){rp_cuda_blocks(a->ranges, RP_OPTIM_THREADS / 32), 1, 1, RP_OPTIM_THREADS, 0}),
      &s);
}
const rp_cuda_op rp_cuda_op_sumsq = {sumsq_scratch, put_sumsq};

static void put_clip(const rp_cuda_run *r, const void *args) {
  const rp_clip_args *a = args;
  RP_CUDA_LAUNCH(r, clip, ((rp_cuda_grid){1, 1, 1, 32, 0}), a);
}
const rp_cuda_op rp_cuda_op_clip = {NULL, put_clip};

static size_t optim_scratch(const rp_cuda *g, const void *args) {
  (void)g;
  return begins(((const rp_optim_args *)args)->ranges) + RP_OPTIM_ROOM;
}

static void put_optim(const rp_cuda_run *r, const void *args) {
  const rp_optim_args *a = args;
  const rp_optim_slices s = {*a, slices_of(r->g), {r->scratch}, {r->scratch + begins(a->ranges)}};
  if (!a->ranges) return;
  RP_CUDA_LAUNCH(r, optim_begin, ((rp_cuda_grid){1, 1, 1, RP_OPTIM_THREADS, 0}), &s);
  RP_CUDA_LAUNCH(r, optim, ((rp_cuda_grid){s.slices, 1, 1, RP_OPTIM_THREADS, 0}), &s);
}
const rp_cuda_op rp_cuda_op_optim = {optim_scratch, put_optim};

#endif
