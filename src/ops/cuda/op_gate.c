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

static int64_t walk_blocks(const rp_rows *rows, int H, int Hk, int h, int wide) {
  const int64_t columns = rp_gate_columns(H, h, wide) + rp_gate_columns(Hk, h, wide);
  return rows->count * rp_cuda_blocks(columns, RP_GATE_WALK_THREADS);
}

static bool gate_by_4(const rp_gate_args *a) {
  const size_t bytes = 4 * (size_t)rp_dtype_bytes(a->p.dtype);
  return a->h % 8 == 0 && aligned(a->p, a->ldp, bytes) && aligned(a->q, 0, bytes) &&
         aligned(a->k, 0, bytes) && aligned(a->v, 0, bytes) && a->rope.at % 16 == 0;
}

static void put_gate(const rp_cuda_run *r, const void *args) {
  const rp_gate_args *a = args;
  const bool bf16 = a->p.dtype == RP_BF16, by4 = gate_by_4(a);
  const rp_cuda_grid grid = {walk_blocks(&a->rows, a->H, a->Hk, a->h, by4 ? 4 : 1), 1, 1,
                             RP_GATE_WALK_THREADS, 0};
  if (by4 && bf16) RP_CUDA_LAUNCH(r, gate_walk_bf16_4, grid, a);
  if (by4 && !bf16) RP_CUDA_LAUNCH(r, gate_walk_f32_4, grid, a);
  if (!by4 && bf16) RP_CUDA_LAUNCH(r, gate_walk_bf16, grid, a);
  if (!by4 && !bf16) RP_CUDA_LAUNCH(r, gate_walk_f32, grid, a);
}
const rp_cuda_op rp_cuda_op_gate = {NULL, put_gate};

static size_t gate_bwd_scratch(const rp_cuda *g, const void *args) {
  const rp_gate_bwd_args *a = args;
  (void)g;
  if (!a->re) return 0;
  return (size_t)a->rows.count * (size_t)rp_cuda_blocks(a->rows.longest, RP_GATE_KEPT) * 4 *
         (size_t)rp_gate_columns(a->Hk, a->h, 1) * sizeof(float);
}

static void put_gate_bwd(const rp_cuda_run *r, const void *args) {
  const rp_gate_bwd_walk_args a = {
      .op = *(const rp_gate_bwd_args *)args,
      .starts = {r->scratch},
      .runs =
          (int32_t)rp_cuda_blocks(((const rp_gate_bwd_args *)args)->rows.longest, RP_GATE_KEPT)};
  const rp_cuda_grid grid = {walk_blocks(&a.op.rows, a.op.H, a.op.Hk, a.op.h, 1), 1, 1,
                             RP_GATE_WALK_THREADS, 0};
  if (a.op.p.dtype == RP_BF16)
    RP_CUDA_LAUNCH(r, gate_bwd_walk_bf16, grid, &a);
  else
    RP_CUDA_LAUNCH(r, gate_bwd_walk_f32, grid, &a);
}
const rp_cuda_op rp_cuda_op_gate_bwd = {gate_bwd_scratch, put_gate_bwd};

#endif
