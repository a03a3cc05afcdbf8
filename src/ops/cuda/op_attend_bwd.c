/* op_attend_bwd.c - the backward of attention: delta, then tiles of keys, then tiles of queries. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"

static size_t attend_bwd_scratch(const rp_cuda *g, const void *args) {
  const rp_attend_bwd_args *a = args;
  (void)g;
  return (size_t)a->rows.tokens * (size_t)a->H * sizeof(float);
}

static rp_cuda_grid grid_of(int64_t tiles, const rp_attend_bwd_args *a, int heads) {
  return (rp_cuda_grid){tiles * a->rows.count * heads, rp_cuda_blocks(a->h, RP_ATTEND_BWD_WIDE), 1,
                        RP_ATTEND_BWD_THREADS, RP_ATTEND_BWD_SHARED};
}

static void put_attend_bwd(const rp_cuda_run *r, const void *args) {
  const rp_attend_bwd_all a = {*(const rp_attend_bwd_args *)args, {r->scratch}};
  const rp_attend_bwd_args *op = &a.op;
  const int64_t warps = (int64_t)op->rows.tokens * op->H;
  const int64_t tiles = rp_cuda_blocks(op->rows.longest, RP_ATTEND_BWD_TILE);
  const rp_cuda_grid rows = {rp_cuda_blocks(warps, RP_ATTEND_BWD_THREADS / 32), 1, 1,
                             RP_ATTEND_BWD_THREADS, 0};
  const rp_cuda_grid keys = grid_of(tiles + RP_ATTEND_BWD_LISTS - 1, op, op->Hk);
  const rp_cuda_grid queries = grid_of(tiles, op, op->H);
  if (op->q.dtype == RP_BF16) {
    RP_CUDA_LAUNCH(r, attend_bwd_delta_bf16, rows, &a);
    RP_CUDA_LAUNCH(r, attend_bwd_keys_bf16, keys, &a);
    RP_CUDA_LAUNCH(r, attend_bwd_queries_bf16, queries, &a);
  } else {
    RP_CUDA_LAUNCH(r, attend_bwd_delta_f32, rows, &a);
    RP_CUDA_LAUNCH(r, attend_bwd_keys_f32, keys, &a);
    RP_CUDA_LAUNCH(r, attend_bwd_queries_f32, queries, &a);
  }
}
const rp_cuda_op rp_cuda_op_attend_bwd = {attend_bwd_scratch, put_attend_bwd};

#endif
