/* op_gemm.c - products: of few rows with a weight as it lies our own, all others cuBLASLt's. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"

/* Whether rows begin at 16 bytes; of a single one the stride says nothing. */
static bool even_rows(rp_tensor t, int64_t ld, int32_t rows) {
  const size_t size = (size_t)rp_dtype_bytes(t.dtype);
  return t.p.at % 16 == 0 && (rows == 1 || (size_t)ld * size % 16 == 0);
}

/* By the tiles of 16 columns that a block has, one or two, and by groups of 8 rows: 1, 2, 4. */
static void put_narrow(const rp_cuda_run *r, const rp_gemm_args *a, bool even) {
  static const rp_cuda_kern kern[2][3] = {
      {RP_KERN_few_bf16_1_1, RP_KERN_few_bf16_1_2, RP_KERN_few_bf16_1_4},
      {RP_KERN_few_bf16_2_1, RP_KERN_few_bf16_2_2, RP_KERN_few_bf16_2_4}};
  enum { FULL = 4096 }; /* columns from which on every multiprocessor has a block of two tiles */
  const int wide = even && a->N >= FULL, few = even ? (a->M > 8) + (a->M > 16) : 2;
  const int tiles = 1 + wide, groups = 1 << few;
  rp_cuda_launch(r, even ? kern[wide][few] : RP_KERN_few_bf16_any,
                 (rp_cuda_grid){rp_cuda_blocks(a->N, 16 * tiles), 1, 1, RP_FEW_THREADS,
                                (size_t)RP_FEW_SHARED(tiles, groups)},
                 a, sizeof *a);
}

static void put_wide(const rp_cuda_run *r, const rp_gemm_args *a, bool even) {
  enum { FULL = 4096 };
  const int cols = even && a->N >= FULL ? 4 : 2;
  rp_cuda_launch(
      r,
      !even       ? RP_KERN_few_f32_any
      : cols == 4 ? RP_KERN_few_f32_4
                  : RP_KERN_few_f32_2,
      (rp_cuda_grid){rp_cuda_blocks(a->N, RP_FEW_SLICES * cols), 1, 1, RP_FEW_THREADS, 0}, a,
      sizeof *a);
}

void rp_cuda_multiply(const rp_cuda_run *r, const rp_gemm_args *a) {
  if (r->err->status) return;
  if (a->M > RP_FEW_MOST || a->ta || !a->tb || !a->K) {
    const rp_cuda_product p = {.gemm = *a, .scale = 1};
    rp_cuda_products_put(r->g->products, r->stream, r->scratch, &p, r->err);
    return;
  }
  const bool even = even_rows(a->a, a->lda, a->M) && even_rows(a->b, a->ldb, a->N);
  if (a->a.dtype == RP_BF16)
    put_narrow(r, a, even);
  else
    put_wide(r, a, even);
}

static size_t gemm_scratch(const rp_cuda *g, const void *args) {
  (void)g, (void)args;
  return RP_CUDA_WORKSPACE;
}
static void put_gemm(const rp_cuda_run *r, const void *args) { rp_cuda_multiply(r, args); }
const rp_cuda_op rp_cuda_op_gemm = {gemm_scratch, put_gemm};

#endif
