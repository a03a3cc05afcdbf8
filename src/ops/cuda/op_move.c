/* op_move.c - zeroing, copies, conversion, rows, block tables. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"

static void failed(const rp_cuda_run *r, CUresult e, rp_op op) {
  if (e) rp_cuda_fail(r->g, e, rp_op_name(op), r->err);
}

static void put_zero(const rp_cuda_run *r, const void *args) {
  const rp_zero_args *a = args;
  if (a->bytes) failed(r, r->g->api->cuMemsetD8Async(a->p.at, 0, a->bytes, r->stream), RP_OP_zero);
}
const rp_cuda_op rp_cuda_op_zero = {NULL, put_zero};

static void put_copy(const rp_cuda_run *r, const void *args) {
  const rp_copy_args *a = args;
  if (a->bytes)
    failed(r, r->g->api->cuMemcpyDtoDAsync(a->dst.at, a->src.at, a->bytes, r->stream), RP_OP_copy);
}
const rp_cuda_op rp_cuda_op_copy = {NULL, put_copy};

static void put_cast(const rp_cuda_run *r, const void *args) {
  const rp_cast_args *a = args;
  const int64_t blocks = rp_cuda_blocks(a->n, 8 * RP_MOVE_THREADS);
  RP_CUDA_LAUNCH(r, cast, ((rp_cuda_grid){blocks < 8192 ? blocks : 8192, 1, 1, RP_MOVE_THREADS, 0}),
                 a);
}
const rp_cuda_op rp_cuda_op_cast = {NULL, put_cast};

static void put_take(const rp_cuda_run *r, const void *args) {
  const rp_take_args *a = args;
  RP_CUDA_LAUNCH(
      r, take, ((rp_cuda_grid){a->n, rp_cuda_blocks(a->d, RP_MOVE_THREADS), 1, RP_MOVE_THREADS, 0}),
      a);
}
const rp_cuda_op rp_cuda_op_take = {NULL, put_take};

static void put_table(const rp_cuda_run *r, const void *args) {
  const rp_table_args *a = args;
  RP_CUDA_LAUNCH(r, table,
                 ((rp_cuda_grid){rp_cuda_blocks(a->n, RP_MOVE_THREADS), 1, 1, RP_MOVE_THREADS, 0}),
                 a);
}
const rp_cuda_op rp_cuda_op_table = {NULL, put_table};

#endif
