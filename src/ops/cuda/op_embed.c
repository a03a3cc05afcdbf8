/* op_embed.c - rows of the table, and their gradients. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"

static bool aligned(rp_tensor t) { return t.p.at % (4 * (size_t)rp_dtype_bytes(t.dtype)) == 0; }

static void put_embed(const rp_cuda_run *r, const void *args) {
  const rp_embed_args *a = args;
  const bool fits = aligned(a->table) && aligned(a->x) && a->d % 4 == 0 && a->table.dtype != RP_F64;
  const rp_cuda_kern k = !fits                       ? RP_KERN_embed_any
                         : a->table.dtype == RP_BF16 ? RP_KERN_embed_bf16
                                                     : RP_KERN_embed_f32;
  const int64_t piece = fits ? 4 * RP_EMBED_EACH * RP_EMBED_THREADS : RP_EMBED_THREADS;
  rp_cuda_launch(r, k, (rp_cuda_grid){a->n, rp_cuda_blocks(a->d, piece), 1, RP_EMBED_THREADS, 0}, a,
                 sizeof *a);
}
const rp_cuda_op rp_cuda_op_embed = {NULL, put_embed};

/* How the ids are cut into digits. */
typedef struct {
  int passes, bits;
} digits;
static digits digits_of(int32_t V) {
  int bits = 1;
  while (V - 1 > 0 && bits < 31 && (V - 1) >> bits) bits++;
  const int passes = (bits + RP_EMBED_BITS - 1) / RP_EMBED_BITS;
  return (digits){passes, (bits + passes - 1) / passes};
}

/* Bytes of the scratch's parts, in their order: two lists of pairs, counts, sums of tiles. */
typedef struct {
  size_t list, count, part;
  int32_t sort_tiles;
  int64_t tiles;
} layout;
static layout layout_of(const rp_embed_bwd_args *a) {
  layout l = {.sort_tiles = (int32_t)rp_cuda_blocks(a->n, RP_EMBED_SORT_TILE),
              .tiles = rp_cuda_blocks(a->n, RP_EMBED_TILE)};
  l.list = ((size_t)a->n * 8 + 15) / 16 * 16;
  l.count = ((size_t)l.sort_tiles << RP_EMBED_BITS) * 4;
  l.part = (size_t)l.tiles * 2 * (size_t)a->d * sizeof(float);
  return l;
}

static size_t embed_bwd_scratch(const rp_cuda *g, const void *args) {
  (void)g;
  const layout l = layout_of(args);
  return 2 * l.list + l.count + l.part;
}

/* The pairs (id, token) by id; returns where they lie. */
static CUdeviceptr sort(const rp_cuda_run *r, const rp_embed_bwd_args *a, const layout *l) {
  const digits g = digits_of(a->V);
  const rp_cuda_grid grid = {l->sort_tiles, 1, 1, RP_EMBED_SORT, 0};
  CUdeviceptr from = 0, to = r->scratch;
  for (int i = 0; i < g.passes; i++) {
    const rp_embed_sort s = {.n = a->n,
                             .tiles = l->sort_tiles,
                             .shift = i * g.bits,
                             .bits = g.bits,
                             .ids = a->ids,
                             .from = {from},
                             .to = {to},
                             .count = {r->scratch + 2 * l->list}};
    RP_CUDA_LAUNCH(r, embed_sort_count, grid, &s);
    RP_CUDA_LAUNCH(r, embed_sort_move, grid, &s);
    from = to;
    to = r->scratch + (i % 2 ? 0 : l->list);
  }
  return from;
}

static void put_embed_bwd(const rp_cuda_run *r, const void *args) {
  const rp_embed_bwd_args *a = args;
  const layout l = layout_of(a);
  if (!a->n || !a->d) return;
  const rp_embed_tiles t = {*a, {sort(r, a, &l)}, {r->scratch + 2 * l.list + l.count}};
  const bool fits = aligned(a->dx) && aligned(a->dtable) && a->d % 4 == 0;
  const int64_t pieces = rp_cuda_blocks(a->d, RP_EMBED_THREADS);
  rp_cuda_launch(r, fits ? RP_KERN_embed_bwd_tile : RP_KERN_embed_bwd_tile_any,
                 (rp_cuda_grid){l.tiles, fits ? rp_cuda_blocks(a->d, 4 * RP_EMBED_THREADS) : pieces,
                                1, RP_EMBED_THREADS, 0},
                 &t, sizeof t);
  RP_CUDA_LAUNCH(r, embed_bwd_join, ((rp_cuda_grid){l.tiles, pieces, 1, RP_EMBED_THREADS, 0}), &t);
}
const rp_cuda_op rp_cuda_op_embed_bwd = {embed_bwd_scratch, put_embed_bwd};

#endif
