/* op_gemm.c - products, all of them cuBLASLt's. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"

void rp_cuda_multiply(const rp_cuda_run *r, const rp_gemm_args *a) {
  const rp_cuda_product p = {.gemm = *a, .scale = 1};
  if (!r->err->status) rp_cuda_products_put(r->g->products, r->stream, r->scratch, &p, r->err);
}

static size_t gemm_scratch(const rp_cuda *g, const void *args) {
  (void)g, (void)args;
  return RP_CUDA_WORKSPACE;
}
static void put_gemm(const rp_cuda_run *r, const void *args) { rp_cuda_multiply(r, args); }
const rp_cuda_op rp_cuda_op_gemm = {gemm_scratch, put_gemm};

#endif
