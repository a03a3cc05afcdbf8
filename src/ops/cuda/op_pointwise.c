/* op_pointwise.c - activations of the FFN, the output gate. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"

/* Whether runs of V elements of t, rows `ld` apart, lie in whole aligned accesses of at most 16 bytes. */
static bool runs(rp_tensor t, int64_t ld, int V) {
  const size_t bytes = (size_t)V * (size_t)rp_dtype_bytes(t.dtype);
  return t.p.at % (bytes < 16 ? bytes : 16) == 0 && ld % V == 0;
}

static void launch(const rp_cuda_run *r, const rp_cuda_kern k[4], bool bf16, int run, int64_t rows,
                   int64_t width, const void *args, size_t bytes) {
  const int64_t piece = RP_POINTWISE_THREADS * RP_POINTWISE_EACH * (int64_t)run;
  const rp_cuda_kern kern = k[(run == 1 ? 2 : 0) + (bf16 ? 0 : 1)];
  rp_cuda_launch(r, kern,
                 (rp_cuda_grid){rows, rp_cuda_blocks(width, piece), 1, RP_POINTWISE_THREADS, 0},
                 args, bytes);
}
#define KERNELS(op) \
  { RP_KERN_##op##_bf16, RP_KERN_##op##_f32, RP_KERN_##op##_bf16_any, RP_KERN_##op##_f32_any }

/* Without a gate all rows are one, in lines as wide as a block's piece. */
static void put_activation(const rp_cuda_run *r, const rp_cuda_kern k[4], rp_pointwise_act *a,
                           int64_t n, int64_t f, int most) {
  const bool gated = a->act == RP_ACT_SWIGLU, bf16 = a->u.dtype == RP_BF16;
  const int64_t ld = gated ? f : n * f;
  const bool fits = runs(a->u, ld, most) && (!a->v.p.at || runs(a->v, ld, most)) &&
                    (!a->du.p.at || (runs(a->du, ld, most) && runs(a->dv, ld, most)));
  const int run = fits ? most : 1;
  const int64_t piece = RP_POINTWISE_THREADS * RP_POINTWISE_EACH * (int64_t)run;
  a->total = n * f;
  a->width = (int32_t)(gated ? f : piece);
  a->pv = a->width;
  a->pu = gated ? 2 * f : piece;
  launch(r, k, bf16, run, rp_cuda_blocks(a->total, a->width), a->width, a, sizeof *a);
}

static void put_act(const rp_cuda_run *r, const void *args) {
  static const rp_cuda_kern k[4] = KERNELS(act);
  const rp_act_args *a = args;
  rp_pointwise_act p = {.act = a->act, .u = a->u, .v = a->v};
  put_activation(r, k, &p, a->n, a->f, a->u.dtype == RP_BF16 ? 8 : 4);
}
const rp_cuda_op rp_cuda_op_act = {NULL, put_act};

static void put_act_bwd(const rp_cuda_run *r, const void *args) {
  static const rp_cuda_kern k[4] = KERNELS(act_bwd);
  const rp_act_bwd_args *a = args;
  rp_pointwise_act p = {.act = a->act, .u = a->u, .dv = a->dv, .du = a->du};
  put_activation(r, k, &p, a->n, a->f, 4);
}
const rp_cuda_op rp_cuda_op_act_bwd = {NULL, put_act_bwd};

static void put_ogate(const rp_cuda_run *r, const void *args) {
  static const rp_cuda_kern k[4] = KERNELS(ogate);
  const rp_ogate_args *a = args;
  const bool bf16 = a->a.dtype == RP_BF16;
  const int most = bf16 ? 8 : 4;
  const rp_pointwise_gate p = {.d = a->d, .ldp = a->ldp, .a = a->a, .p = a->p, .y = a->y};
  const bool fits = runs(a->a, a->d, most) && runs(a->p, a->ldp, most) && runs(a->y, a->d, most);
  launch(r, k, bf16, fits ? most : 1, a->n, a->d, &p, sizeof p);
}
const rp_cuda_op rp_cuda_op_ogate = {NULL, put_ogate};

static void put_ogate_bwd(const rp_cuda_run *r, const void *args) {
  static const rp_cuda_kern k[4] = KERNELS(ogate_bwd);
  const rp_ogate_bwd_args *a = args;
  const rp_pointwise_gate p = {
      .d = a->d, .ldp = a->ldp, .a = a->a, .p = a->p, .dy = a->dy, .da = a->da, .dp = a->dp};
  const bool fits = runs(a->a, a->d, 4) && runs(a->p, a->ldp, 4) && runs(a->dy, a->d, 4) &&
                    runs(a->da, a->d, 4) && runs(a->dp, a->ldp, 4);
  launch(r, k, a->a.dtype == RP_BF16, fits ? 4 : 1, a->n, a->d, &p, sizeof p);
}
const rp_cuda_op rp_cuda_op_ogate_bwd = {NULL, put_ogate_bwd};

#endif
