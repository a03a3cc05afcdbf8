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

/* ---- rows of few tokens over caches ---- */

/* Sums of parts, at most: as much as a product's workspace would do, so that plans do not grow. */
enum { SUMS_BYTES = 16 << 20, PARTS = 128 };
/* Keys that a block is worth; keys from which on a part is cut for balance; blocks that read as fast as
 * the memory can. */
enum { LEAST_KEYS = 64, MOST_KEYS = 2048, ENOUGH_BLOCKS = 64 };

static int group_of(const rp_attend_args *a) { return a->H / a->Hk; }

/* The most tokens of a row that attend_few serves: of what a draft asks for, but no prompts. */
static int few_tokens(const rp_attend_args *a) {
  const int tokens = RP_ATTEND_FEW_QUERIES / group_of(a);
  return tokens < 1 ? 1 : tokens < 8 ? tokens : 8;
}

/* Parts of a unit: blocks for every multiprocessor twice, enough of them for a long row among short
 * ones, and as many as there is room for. */
static void share_out(const rp_cuda *g, rp_attend_few_args *x, int64_t units) {
  const int64_t each = (int64_t)x->queries * (x->op.h + 4) * 4;
  const int64_t fit = ((SUMS_BYTES - 16) / units - 4) / each,
                per_row = (int64_t)x->op.Hk * x->chunks;
  const int64_t fill = 2 * g->processors / units;
  int64_t parts = (ENOUGH_BLOCKS + per_row - 1) / per_row;
  if (parts < fill) parts = fill;
  if (parts > PARTS) parts = PARTS;
  if (parts > fit) parts = fit;
  x->parts = parts > 1 ? (int32_t)parts : 1;
  x->fill = fill > 1 ? (int32_t)(fill < PARTS ? fill : PARTS) : 1;
  x->least = LEAST_KEYS;
  x->most = MOST_KEYS;
}

static void put_few(const rp_cuda_run *r, const rp_attend_args *a, int few) {
  rp_attend_few_args x = {.op = *a, .few = few, .chunks = 1, .heads = group_of(a)};
  if (x.heads > RP_ATTEND_FEW_QUERIES) {
    x.chunks = (int32_t)rp_cuda_blocks(x.heads, RP_ATTEND_FEW_QUERIES);
    x.heads = RP_ATTEND_FEW_QUERIES;
  }
  x.queries = x.heads * (a->rows.longest < few ? a->rows.longest : few);
  const int64_t units = (int64_t)a->rows.count * a->Hk * x.chunks;
  if (!units) return;
  share_out(r->g, &x, units);
  x.made = (rp_ptr){r->scratch};
  x.sums = (rp_ptr){r->scratch + (size_t)(units * 4 + 15) / 16 * 16};
  const int64_t blocks = units * x.parts;
  if (a->h <= 64)
    RP_CUDA_LAUNCH(
        r, attend_few_64,
        ((rp_cuda_grid){blocks, 1, 1, 32 * RP_ATTEND_FEW_WARPS(64), RP_ATTEND_FEW_SHARED(64)}), &x);
  else if (a->h <= 128)
    RP_CUDA_LAUNCH(
        r, attend_few_128,
        ((rp_cuda_grid){blocks, 1, 1, 32 * RP_ATTEND_FEW_WARPS(128), RP_ATTEND_FEW_SHARED(128)}),
        &x);
  else
    RP_CUDA_LAUNCH(
        r, attend_few_256,
        ((rp_cuda_grid){blocks, 1, 1, 32 * RP_ATTEND_FEW_WARPS(256), RP_ATTEND_FEW_SHARED(256)}),
        &x);
  if (x.parts > 1)
    RP_CUDA_LAUNCH(r, attend_merge,
                   ((rp_cuda_grid){units * x.queries, 1, 1, RP_ATTEND_MERGE_THREADS, 0}), &x);
}

/* ---- which kernel ---- */

/* Whether the kernels that copy 16 bytes at a time and multiply bfloat16 serve the op. */
static bool is_whole(const rp_attend_args *a) {
  return a->q.dtype == RP_BF16 && a->h % 8 == 0 && a->h <= 256 && a->scale > 0 && aligned(a->q.p) &&
         aligned(a->k.p) && aligned(a->v.p) && aligned(a->out.p) && aligned(a->kv.pool.p);
}

/* Rows of few tokens are told apart on the device: where there are caches two kernels go over all rows, each
 * over its own. */
static void put_attend(const rp_cuda_run *r, const void *args) {
  const rp_attend_args *a = args;
  if (!is_whole(a)) {
    put_plain(r, a, 0);
    return;
  }
  const int few = a->kv.pool.p.at ? few_tokens(a) : 0;
  if (few) put_few(r, a, few);
  if (a->rows.longest <= few) return;
  if (rp_hopper_serves(r->g, a))
    rp_hopper_put(r, a, few);
  else
    put_tile(r, a, few);
}

static size_t attend_scratch(const rp_cuda *g, const void *args) {
  (void)g;
  return ((const rp_attend_args *)args)->q.dtype == RP_BF16 ? SUMS_BYTES : 0;
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
