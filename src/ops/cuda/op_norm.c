/* op_norm.c - RMSNorm and LayerNorm. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"

static bool aligned(rp_tensor t) { return t.p.at % (4 * (size_t)rp_dtype_bytes(t.dtype)) == 0; }

/* Which of the kernels of rows of 1, 2, 4 or 8 runs a thread; 4: that of any row. */
static int kernel_of(int32_t d, bool fits) {
  const int runs = RP_NORM_THREADS * 4;
  if (!fits || d % 4 || d > 8 * runs) return 4;
  return d <= runs ? 0 : d <= 2 * runs ? 1 : d <= 4 * runs ? 2 : 3;
}

static void put_norm(const rp_cuda_run *r, const void *args) {
  static const rp_cuda_kern k[2][5] = {
      {RP_KERN_norm_f32_1, RP_KERN_norm_f32_2, RP_KERN_norm_f32_4, RP_KERN_norm_f32_8,
       RP_KERN_norm_f32_any},
      {RP_KERN_norm_bf16_1, RP_KERN_norm_bf16_2, RP_KERN_norm_bf16_4, RP_KERN_norm_bf16_8,
       RP_KERN_norm_bf16_any}};
  const rp_norm_args *a = args;
  const bool layer = a->kind == RP_NORM_LAYER;
  const bool fits = aligned(a->x) && aligned(a->w) && aligned(a->y) && (!layer || aligned(a->b));
  rp_cuda_launch(r, k[a->y.dtype == RP_BF16][kernel_of(a->d, fits)],
                 (rp_cuda_grid){a->n, 1, 1, RP_NORM_THREADS, 0}, a, sizeof *a);
}
const rp_cuda_op rp_cuda_op_norm = {NULL, put_norm};

/* Rows are cut into parts: as many as there are blocks at a time, by the registers of each kernel, and of
 * at least four rows. */
static int32_t parts_of(const rp_cuda *g, int kernel, int32_t n) {
  static const int resident[5] = {5, 3, 2, 1, 4};
  const int64_t most = resident[kernel] * (int64_t)g->processors, some = rp_cuda_blocks(n, 4);
  return (int32_t)(some < most ? some : most);
}

static size_t norm_bwd_scratch(const rp_cuda *g, const void *args) {
  const rp_norm_bwd_args *a = args;
  const int32_t x = parts_of(g, kernel_of(a->d, true), a->n),
                y = parts_of(g, kernel_of(a->d, false), a->n);
  return (size_t)(x > y ? x : y) * (size_t)a->d * 2 * sizeof(float);
}

static void put_norm_bwd(const rp_cuda_run *r, const void *args) {
  static const rp_cuda_kern k[5] = {RP_KERN_norm_bwd_1, RP_KERN_norm_bwd_2, RP_KERN_norm_bwd_4,
                                    RP_KERN_norm_bwd_8, RP_KERN_norm_bwd_any};
  const rp_norm_bwd_args *a = args;
  const bool fits = aligned(a->x) && aligned(a->w) && aligned(a->dy) && aligned(a->dx);
  const int kernel = kernel_of(a->d, fits);
  const rp_norm_bwd_part p = {*a, parts_of(r->g, kernel, a->n), {r->scratch}};
  rp_cuda_launch(r, k[kernel], (rp_cuda_grid){p.parts, 1, 1, RP_NORM_THREADS, 0}, &p, sizeof p);
  if (!p.parts) return;
  RP_CUDA_LAUNCH(r, norm_bwd_sum,
                 ((rp_cuda_grid){rp_cuda_blocks(a->d, RP_NORM_COLUMNS),
                                 a->kind == RP_NORM_LAYER ? 2 : 1, 1, RP_NORM_SUM_THREADS, 0}),
                 &p);
}
const rp_cuda_op rp_cuda_op_norm_bwd = {norm_bwd_scratch, put_norm_bwd};

#endif
