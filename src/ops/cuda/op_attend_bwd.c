/* op_attend_bwd.c - the backward of attention: delta, then tiles of keys, then tiles of queries. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"

/* The products of a warp serve these, if tensors lie well; else, and for float32, the general kernels. */
static bool is_wide(const rp_attend_bwd_args *a) {
  return a->q.dtype == RP_BF16 && (a->h == 64 || a->h == 128);
}
static bool lies_well(const rp_attend_bwd_args *a) {
  const uintptr_t all = a->q.p.at | a->k.p.at | a->v.p.at | a->out.p.at | a->dout.p.at |
                        a->dq.p.at | a->dk.p.at | a->dv.p.at;
  return all % 16 == 0;
}
/* GPUs with less shared memory are 8.6, 8.9 and those from 12.0 on. */
static bool has_room(const rp_cuda *g, const rp_attend_bwd_args *a) {
  const int c = g->capability;
  return a->h == 64 || c == 80 || c == 87 || (c >= 90 && c < 120);
}

/* lse and delta of each token and head, then dout rounded. */
static size_t stats_bytes(const rp_attend_bwd_args *a) {
  return ((size_t)a->rows.tokens * (size_t)a->H * sizeof(float) + 127) / 128 * 128;
}
static size_t attend_bwd_scratch(const rp_cuda *g, const void *args) {
  const rp_attend_bwd_args *a = args;
  (void)g;
  const size_t wide = (size_t)a->rows.tokens * (size_t)a->H * (size_t)a->h;
  return 2 * stats_bytes(a) + (is_wide(a) ? 2 * wide : 0);
}

/* Tiles of keys and of queries for each row and head. */
static rp_cuda_grid keys_grid(const rp_attend_bwd_args *a, int tile, int threads, size_t shared) {
  const int64_t tiles = rp_cuda_blocks(a->rows.longest, tile) + RP_ATTEND_BWD_LISTS - 1;
  return (rp_cuda_grid){tiles * a->rows.count * a->Hk, 1, 1, threads, shared};
}
static rp_cuda_grid queries_grid(const rp_attend_bwd_args *a, int tile, int threads,
                                 size_t shared) {
  const int64_t tiles = rp_cuda_blocks(a->rows.longest, tile);
  return (rp_cuda_grid){tiles * a->rows.count * a->H, 1, 1, threads, shared};
}

static rp_attend_bwd_mma_args prepare(const rp_cuda_run *r, const rp_attend_bwd_args *op) {
  const rp_attend_bwd_mma_args a = {
      *op, {r->scratch}, {r->scratch + stats_bytes(op)}, {r->scratch + 2 * stats_bytes(op)}};
  const int threads = RP_ATTEND_BWD_MMA_THREADS;
  const int64_t warps = (int64_t)op->rows.tokens * op->H;
  const rp_cuda_grid grid = {rp_cuda_blocks(warps, threads / 32), 1, 1, threads, 0};
  if (op->h == 64)
    RP_CUDA_LAUNCH(r, attend_bwd_mma_prepare_64, grid, &a);
  else
    RP_CUDA_LAUNCH(r, attend_bwd_mma_prepare_128, grid, &a);
  return a;
}

static void put_mma(const rp_cuda_run *r, const rp_attend_bwd_args *op) {
  const rp_attend_bwd_mma_args a = prepare(r, op);
  const int h = op->h;
  const rp_cuda_grid keys = keys_grid(op, RP_ATTEND_BWD_MMA_KEYS, RP_ATTEND_BWD_MMA_THREADS,
                                      (size_t)RP_ATTEND_BWD_MMA_KEYS_SHARED(h));
  const rp_cuda_grid queries =
      queries_grid(op, RP_ATTEND_BWD_MMA_QUERIES, RP_ATTEND_BWD_MMA_THREADS,
                   (size_t)RP_ATTEND_BWD_MMA_QUERIES_SHARED(h));
  if (h == 64) {
    RP_CUDA_LAUNCH(r, attend_bwd_mma_keys_64, keys, &a);
    RP_CUDA_LAUNCH(r, attend_bwd_mma_queries_64, queries, &a);
  } else {
    RP_CUDA_LAUNCH(r, attend_bwd_mma_keys_128, keys, &a);
    RP_CUDA_LAUNCH(r, attend_bwd_mma_queries_128, queries, &a);
  }
}

static void put_hopper(const rp_cuda_run *r, const rp_attend_bwd_args *op) {
  const rp_attend_bwd_mma_args a = prepare(r, op);
  const int h = op->h;
  const rp_cuda_grid keys = keys_grid(op, RP_ATTEND_BWD_HOPPER_KEYS, RP_ATTEND_BWD_HOPPER_THREADS,
                                      (size_t)RP_ATTEND_BWD_HOPPER_KEYS_SHARED(h));
  const rp_cuda_grid queries =
      queries_grid(op, RP_ATTEND_BWD_HOPPER_QUERIES, RP_ATTEND_BWD_HOPPER_THREADS,
                   (size_t)RP_ATTEND_BWD_HOPPER_QUERIES_SHARED(h));
  if (h == 64) {
    RP_CUDA_LAUNCH(r, attend_bwd_hopper_keys_64, keys, &a);
    RP_CUDA_LAUNCH(r, attend_bwd_hopper_queries_64, queries, &a);
  } else {
    RP_CUDA_LAUNCH(r, attend_bwd_hopper_keys_128, keys, &a);
    RP_CUDA_LAUNCH(r, attend_bwd_hopper_queries_128, queries, &a);
  }
}

static rp_cuda_grid grid_of(int64_t tiles, const rp_attend_bwd_args *a, int heads) {
  return (rp_cuda_grid){tiles * a->rows.count * heads, rp_cuda_blocks(a->h, RP_ATTEND_BWD_WIDE), 1,
                        RP_ATTEND_BWD_THREADS, RP_ATTEND_BWD_SHARED};
}

static void put_general(const rp_cuda_run *r, const rp_attend_bwd_args *args) {
  const rp_attend_bwd_all a = {*args, {r->scratch}};
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

static void put_attend_bwd(const rp_cuda_run *r, const void *args) {
  const rp_attend_bwd_args *a = args;
  const bool wide = is_wide(a) && lies_well(a);
  if (wide && RATPLUS_CUDA_HOPPER && r->g->capability == 90)
    put_hopper(r, a);
  else if (wide && has_room(r->g, a))
    put_mma(r, a);
  else
    put_general(r, a);
}
const rp_cuda_op rp_cuda_op_attend_bwd = {attend_bwd_scratch, put_attend_bwd};

#endif
