/* op_attend.c - attention, and new keys into their caches. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"
#include "ops/cuda/op_hopper.h"

static bool aligned(rp_ptr p) { return p.at % 16 == 0; }

/* ---- attention ---- */

/* Tiles of rows of more than `few` tokens, at most: the device knows how many (find_tile). */
static int64_t tiles_most(const rp_rows *r, int few, int size) {
  if (r->longest <= few) return 0;
  return (r->tokens - r->count) / size + r->count;
}

static void put_plain(const rp_cuda_run *r, const rp_attend_args *a, int few) {
  const rp_attend_plain_args x = {*a, few};
  const rp_cuda_grid grid = {tiles_most(&a->rows, few, RP_ATTEND_TILE) * a->H,
                             rp_cuda_blocks(a->h, RP_ATTEND_COLUMNS), 1, RP_ATTEND_THREADS,
                             sizeof(rp_attend_plain_shared)};
  if (a->q.dtype == RP_BF16)
    RP_CUDA_LAUNCH(r, attend_plain_bf16, grid, &x);
  else
    RP_CUDA_LAUNCH(r, attend_plain_f32, grid, &x);
}

static void put_tile(const rp_cuda_run *r, const rp_attend_args *a, int few) {
  const rp_attend_tile_args x = {*a, few};
  const int64_t tiles = tiles_most(&a->rows, few, RP_ATTEND_TILE_QUERIES(a->h));
  rp_cuda_grid grid = {tiles * a->H, 1, 1, RP_ATTEND_TILE_THREADS, 0};
  if (a->h <= 64) {
    grid.shared = RP_ATTEND_TILE_SHARED(64);
    RP_CUDA_LAUNCH(r, attend_tile_64, grid, &x);
  } else if (a->h <= 128) {
    grid.shared = RP_ATTEND_TILE_SHARED(128);
    RP_CUDA_LAUNCH(r, attend_tile_128, grid, &x);
  } else {
    grid.shared = RP_ATTEND_TILE_SHARED(256);
    RP_CUDA_LAUNCH(r, attend_tile_256, grid, &x);
  }
}

/* Whether the kernels that copy 16 bytes at a time and multiply bfloat16 serve the op. */
static bool is_whole(const rp_attend_args *a) {
  return a->q.dtype == RP_BF16 && a->h % 8 == 0 && a->h <= 256 && a->scale > 0 && aligned(a->q.p) &&
         aligned(a->k.p) && aligned(a->v.p) && aligned(a->out.p) && aligned(a->kv.pool.p);
}

static size_t attend_scratch(const rp_cuda *g, const void *args) {
  (void)args;
  return g->capability == 90 ? RP_HOPPER_SCRATCH : 0;
}

static void put_attend(const rp_cuda_run *r, const void *args) {
  const rp_attend_args *a = args;
  if (is_whole(a) && rp_hopper_serves(r->g, a))
    rp_hopper_put(r, a, 0);
  else if (is_whole(a))
    put_tile(r, a, 0);
  else
    put_plain(r, a, 0);
}
const rp_cuda_op rp_cuda_op_attend = {attend_scratch, put_attend};

/* ---- append ---- */

static void put_append(const rp_cuda_run *r, const void *args) {
  const rp_append_args *a = args;
  const rp_cuda_grid grid = {tiles_most(&a->rows, 0, RP_APPEND_TOKENS), a->Hk, 1, RP_ATTEND_THREADS,
                             0};
  const bool whole = (int64_t)a->h * rp_dtype_bytes(a->k.dtype) % 16 == 0;
  if (whole && aligned(a->k.p) && aligned(a->v.p) && aligned(a->kv.pool.p))
    RP_CUDA_LAUNCH(r, append_16, grid, a);
  else
    RP_CUDA_LAUNCH(r, append_2, grid, a);
}
const rp_cuda_op rp_cuda_op_append = {NULL, put_append};

#endif
