/* op_gate.c - gate, scan and rotation, their backward, the table of the rotation. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"

static void put_rope(const rp_cuda_run *r, const void *args) {
  const rp_rope_args *a = args;
  const bool rows = a->rows.row.at;
  const int64_t tiles = rp_cuda_blocks(rows ? a->rows.longest : a->count, RP_ROPE_TOKENS);
  const rp_cuda_grid grid = {tiles * (rows ? a->rows.count : 1),
                             rp_cuda_blocks(a->h / 2, RP_ROPE_THREADS), 1, RP_ROPE_THREADS, 0};
  RP_CUDA_LAUNCH(r, rope, grid, a);
}
const rp_cuda_op rp_cuda_op_rope = {NULL, put_rope};

/* Whether rows of `ld` elements from t on can be read `bytes` at a time. */
static bool aligned(rp_tensor t, int64_t ld, size_t bytes) {
  return t.p.at % bytes == 0 && (size_t)ld * (size_t)rp_dtype_bytes(t.dtype) % bytes == 0;
}

/* Links between blocks: nothing yet. */
static void fill_ones(const rp_cuda_run *r, size_t bytes, rp_op op) {
  const CUresult e = r->g->api->cuMemsetD8Async(r->scratch, 0xff, bytes, r->stream);
  if (e) rp_cuda_fail(r->g, e, rp_op_name(op), r->err);
}

static int64_t walk_blocks(const rp_rows *rows, int H, int Hk, int h, int wide) {
  const int64_t columns = rp_gate_columns(H, h, wide) + rp_gate_columns(Hk, h, wide);
  return rows->count * rp_cuda_blocks(columns, RP_GATE_WALK_THREADS);
}

static bool gate_by_4(const rp_gate_args *a) {
  const size_t bytes = 4 * (size_t)rp_dtype_bytes(a->p.dtype);
  return a->h % 8 == 0 && a->ldp < RP_SCAN_LD && aligned(a->p, a->ldp, bytes) &&
         aligned(a->q, 0, bytes) && aligned(a->k, 0, bytes) && aligned(a->v, 0, bytes) &&
         a->rope.at % 16 == 0;
}

static void put_gate_walk(const rp_cuda_run *r, const rp_gate_args *a, bool by4) {
  const bool bf16 = a->p.dtype == RP_BF16;
  const rp_cuda_grid grid = {walk_blocks(&a->rows, a->H, a->Hk, a->h, by4 ? 4 : 1), 1, 1,
                             RP_GATE_WALK_THREADS, 0};
  if (by4 && bf16) RP_CUDA_LAUNCH(r, gate_walk_bf16_4, grid, a);
  if (by4 && !bf16) RP_CUDA_LAUNCH(r, gate_walk_f32_4, grid, a);
  if (!by4 && bf16) RP_CUDA_LAUNCH(r, gate_walk_bf16, grid, a);
  if (!by4 && !bf16) RP_CUDA_LAUNCH(r, gate_walk_f32, grid, a);
}

/* Up to as many tokens as a thread of the scan takes, both kernels give the same bits: what a row gives does
 * not depend on how long others are. */
static bool gate_is_short(const rp_gate_args *a) {
  return a->rows.longest <= (a->p.dtype == RP_BF16 ? RP_SCAN_TOKENS_BF16 : RP_SCAN_TOKENS_F32);
}

static int64_t scan_chunks(const rp_gate_args *a) {
  return rp_scan_first(a->rows.tokens, a->rows.count, rp_scan_chunk(a->p.dtype == RP_BF16));
}
static int64_t scan_blocks(const rp_gate_args *a) {
  return rp_cuda_blocks(rp_gate_columns(a->Hk, a->h, 4), RP_SCAN_COLUMNS);
}

static size_t gate_scratch(const rp_cuda *g, const void *args) {
  const rp_gate_args *a = args;
  (void)g;
  if (a->h % 8 || gate_is_short(a)) return 0;
  const size_t links = (size_t)scan_chunks(a) * (size_t)scan_blocks(a) * 3 * RP_SCAN_WIDTH;
  return 4 * (RP_SCAN_LINKS + (a->re ? links : 0));
}

static void put_gate(const rp_cuda_run *r, const void *args) {
  const rp_gate_args *a = args;
  const bool by4 = gate_by_4(a);
  if (!by4 || gate_is_short(a) || (a->re && !a->rope.at)) {
    put_gate_walk(r, a, by4);
    return;
  }
  const int64_t kv = scan_blocks(a), q_columns = rp_gate_columns(a->H, a->h, 4);
  const rp_gate_scan_args x = {
      .op = *a,
      .links = {r->scratch},
      .kv_blocks = (int32_t)kv,
      .q_blocks = (int32_t)rp_cuda_blocks(rp_cuda_blocks(q_columns, RP_SCAN_COLUMNS), kv)};
  const rp_cuda_grid grid = {scan_chunks(a) * kv * (1 + x.q_blocks), 1, 1, RP_SCAN_THREADS,
                             sizeof(rp_gate_scan_room)};
  fill_ones(r, gate_scratch(r->g, a), RP_OP_gate);
  if (a->p.dtype == RP_BF16)
    RP_CUDA_LAUNCH(r, gate_scan_bf16, grid, &x);
  else
    RP_CUDA_LAUNCH(r, gate_scan_f32, grid, &x);
}
const rp_cuda_op rp_cuda_op_gate = {gate_scratch, put_gate};

/* ---- backward ---- */

/* So many units at once that what is read, written and read again of them, 32 bytes of a channel and token at
 * least, is half of a GPU's second-level cache of 50 MB. */
enum { BWD_AT_ONCE = 24 << 20 };

static rp_gate_bwd_scan_args bwd_scan(const rp_gate_bwd_args *a) {
  const int64_t kv = rp_cuda_blocks(rp_gate_columns(a->Hk, a->h, 4), RP_SCAN_COLUMNS);
  const int64_t q = rp_cuda_blocks(rp_gate_columns(a->H, a->h, 4), RP_SCAN_COLUMNS);
  const int64_t units = a->rows.count * kv, bytes = (int64_t)a->rows.longest * RP_SCAN_WIDTH * 32;
  const int64_t fit = BWD_AT_ONCE / bytes;
  return (rp_gate_bwd_scan_args){
      .op = *a,
      .kv_blocks = (int32_t)kv,
      .q_blocks = (int32_t)rp_cuda_blocks(q, kv),
      .units = (int32_t)units,
      .chunks = (int32_t)rp_cuda_blocks(a->rows.longest, RP_GATE_BWD_CHUNK),
      .at_once = (int32_t)(fit < 1       ? 1
                           : fit < units ? fit
                                         : units)};
}
static size_t bwd_links(const rp_gate_bwd_scan_args *x) {
  const size_t links = (size_t)x->units * (size_t)x->chunks * 2 * 3 * RP_SCAN_WIDTH;
  return 4 * (RP_SCAN_LINKS + (x->op.re ? links : 0));
}

static int32_t walk_runs(const rp_gate_bwd_args *a) {
  return (int32_t)rp_cuda_blocks(a->rows.longest, RP_GATE_KEPT);
}
static size_t gate_bwd_scratch(const rp_cuda *g, const void *args) {
  const rp_gate_bwd_args *a = args;
  (void)g;
  const size_t walk = (size_t)a->rows.count * (size_t)walk_runs(a) * 4 *
                      (size_t)rp_gate_columns(a->Hk, a->h, 1) * sizeof(float);
  size_t scan = 0;
  if (a->h % 8 == 0) {
    const rp_gate_bwd_scan_args x = bwd_scan(a);
    scan = bwd_links(&x);
  }
  return a->re && walk > scan ? walk : scan;
}

static bool gate_bwd_by_4(const rp_gate_bwd_args *a) {
  const size_t bytes = 4 * (size_t)rp_dtype_bytes(a->p.dtype);
  return a->h % 8 == 0 && a->ldp < RP_SCAN_LD && (!a->re || a->rope.at) &&
         aligned(a->p, a->ldp, bytes) && aligned(a->dp, a->ldp, bytes) && aligned(a->dq, 0, 16) &&
         aligned(a->dk, 0, 16) && aligned(a->dv, 0, 16) && a->rope.at % 16 == 0;
}

static void put_gate_bwd_walk(const rp_cuda_run *r, const rp_gate_bwd_args *op) {
  const rp_gate_bwd_walk_args a = {.op = *op, .starts = {r->scratch}, .runs = walk_runs(op)};
  const rp_cuda_grid grid = {walk_blocks(&op->rows, op->H, op->Hk, op->h, 1), 1, 1,
                             RP_GATE_WALK_THREADS, 0};
  if (op->p.dtype == RP_BF16)
    RP_CUDA_LAUNCH(r, gate_bwd_walk_bf16, grid, &a);
  else
    RP_CUDA_LAUNCH(r, gate_bwd_walk_f32, grid, &a);
}

static void put_gate_bwd(const rp_cuda_run *r, const void *args) {
  const rp_gate_bwd_args *a = args;
  if (!gate_bwd_by_4(a)) {
    put_gate_bwd_walk(r, a);
    return;
  }
  rp_gate_bwd_scan_args x = bwd_scan(a);
  x.links.at = r->scratch;
  const int64_t stages = rp_cuda_blocks(x.units, x.at_once) + 1;
  const rp_cuda_grid grid = {stages * x.chunks * (2 + x.q_blocks) * x.at_once, 1, 1,
                             RP_SCAN_THREADS, sizeof(rp_gate_bwd_room)};
  fill_ones(r, bwd_links(&x), RP_OP_gate_bwd);
  if (a->p.dtype == RP_BF16)
    RP_CUDA_LAUNCH(r, gate_bwd_bf16, grid, &x);
  else
    RP_CUDA_LAUNCH(r, gate_bwd_f32, grid, &x);
}
const rp_cuda_op rp_cuda_op_gate_bwd = {gate_bwd_scratch, put_gate_bwd};

#endif
