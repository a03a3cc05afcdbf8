/* op_head.c - loss and picks from logits of a chunk of rows at a time.
 *
 * A chunk is as many rows as CHUNK bytes of float32 hold, so it follows from the shape alone. Each is
 * multiplied once: its logits become the gradient where they lie, which two more products read. By columns
 * instead the logits would be multiplied twice, or read before the softmax of their rows is known. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"

enum { LINE = 256 };
static const int64_t chunk_bytes = 256 << 20, pick_bytes = 64 << 20;

static size_t lines(size_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }
/* Elements between rows of logits, so that each is a whole number of 16-byte vectors of bfloat16. */
static int64_t stride_of(int32_t V) { return ((int64_t)V + 7) / 8 * 8; }

/* Rows of each chunk but the last: all about equal, in whole tiles of a product where they are many. */
static int32_t chunk_rows(int32_t n, int32_t V, int64_t bytes) {
  enum { TILE = 128 };
  int64_t most = bytes / (stride_of(V) * (int64_t)sizeof(float));
  if (most >= TILE) most = most / TILE * TILE;
  if (most < 1) most = 1;
  if (n <= most) return n;
  const int64_t chunks = rp_cuda_blocks(n, most), rows = rp_cuda_blocks(n, chunks);
  return (int32_t)(most >= TILE ? rp_cuda_blocks(rows, TILE) * TILE : rows);
}

static rp_cuda_grid rows_grid(int64_t rows) {
  return (rp_cuda_grid){rows, 1, 1, RP_HEAD_THREADS, 0};
}

/* logits [m, V] of rows [row, row + m) of x. */
static void put_logits(const rp_cuda_run *r, rp_tensor x, rp_tensor w, int32_t row, int32_t m,
                       int32_t d, int32_t V, rp_ptr logits, int64_t ld) {
  rp_cuda_multiply(r, &(rp_gemm_args){.M = m,
                                      .N = V,
                                      .K = d,
                                      .tb = 1,
                                      .lda = d,
                                      .ldb = d,
                                      .ldc = ld,
                                      .a = rp_tensor_at(x, (int64_t)row * d),
                                      .b = w,
                                      .c = {logits, RP_F32}});
}

/* ---- head_loss ---- */

/* Scratch: the products' | rp_head_share | loss [n] double | logits [rows][stride] float32. */
typedef struct {
  size_t share, loss, logits, end;
  int32_t rows;
  int64_t ld;
} layout;
static layout layout_of(const rp_head_loss_args *a) {
  layout l = {.rows = chunk_rows(a->n, a->V, chunk_bytes), .ld = stride_of(a->V)};
  l.share = RP_CUDA_WORKSPACE;
  l.loss = l.share + LINE;
  l.logits = l.loss + lines((size_t)a->n * sizeof(double));
  l.end = l.logits + (size_t)l.rows * (size_t)l.ld * sizeof(float);
  return l;
}

static size_t head_loss_scratch(const rp_cuda *g, const void *args) {
  (void)g;
  return layout_of(args).end;
}

/* dx of rows [row, row + m), and dw, from their gradient of logits. */
static void put_backward(const rp_cuda_run *r, const rp_head_loss_args *a, int32_t row, int32_t m,
                         rp_tensor grad, int64_t ld) {
  const int32_t V = a->V, d = a->d;
  const rp_tensor x = rp_tensor_at(a->x, (int64_t)row * d);
  rp_cuda_multiply(r, &(rp_gemm_args){.M = m,
                                      .N = d,
                                      .K = V,
                                      .lda = ld,
                                      .ldb = d,
                                      .ldc = d,
                                      .a = grad,
                                      .b = a->w,
                                      .c = rp_tensor_at(a->dx, (int64_t)row * d)});
  rp_cuda_multiply(r, &(rp_gemm_args){.M = V,
                                      .N = d,
                                      .K = m,
                                      .ta = 1,
                                      .accumulate = 1,
                                      .lda = ld,
                                      .ldb = d,
                                      .ldc = d,
                                      .a = grad,
                                      .b = x,
                                      .c = a->dw});
}

static void put_head_loss(const rp_cuda_run *r, const void *args) {
  const rp_head_loss_args *a = args;
  const layout l = layout_of(a);
  const rp_ptr share = {r->scratch + l.share}, loss = {r->scratch + l.loss};
  const rp_tensor logits = {{r->scratch + l.logits}, a->x.dtype};
  RP_CUDA_LAUNCH(r, head_labels, rows_grid(1),
                 (&(rp_head_labels_args){a->n, a->V, a->weight, a->labels, share}));
  for (int32_t row = 0; row < a->n; row += l.rows) {
    const int32_t m = a->n - row < l.rows ? a->n - row : l.rows;
    put_logits(r, a->x, a->w, row, m, a->d, a->V, logits.p, l.ld);
    const rp_head_rows_args rows = {a->V,
                                    a->grad,
                                    l.ld,
                                    logits,
                                    rp_ptr_add(a->labels, (size_t)row * sizeof(int32_t)),
                                    rp_ptr_add(loss, (size_t)row * sizeof(double)),
                                    share};
    if (a->V <= RP_HEAD_HELD)
      RP_CUDA_LAUNCH(r, head_rows_held, rows_grid(m), &rows);
    else
      RP_CUDA_LAUNCH(r, head_rows, rows_grid(m), &rows);
    if (a->grad) put_backward(r, a, row, m, logits, a->x.dtype == RP_BF16 ? 2 * l.ld : l.ld);
  }
  RP_CUDA_LAUNCH(r, head_total, rows_grid(1),
                 (&(rp_head_total_args){a->n, a->weight, loss, share, a->loss}));
}
const rp_cuda_op rp_cuda_op_head_loss = {head_loss_scratch, put_head_loss};

/* ---- pick ---- */

static int32_t pick_chunk(const rp_pick_args *a) {
  return a->logits.at ? a->n : chunk_rows(a->n, a->V, pick_bytes);
}

/* As if no logits were asked for, since pointers do not count. */
static size_t pick_scratch(const rp_cuda *g, const void *args) {
  const rp_pick_args *a = args;
  (void)g;
  return RP_CUDA_WORKSPACE +
         (size_t)chunk_rows(a->n, a->V, pick_bytes) * (size_t)stride_of(a->V) * sizeof(float);
}

static void put_pick(const rp_cuda_run *r, const void *args) {
  const rp_pick_args *a = args;
  const int32_t chunk = pick_chunk(a);
  const int64_t ld = a->logits.at ? a->V : stride_of(a->V);
  const rp_ptr logits = a->logits.at ? a->logits : (rp_ptr){r->scratch + RP_CUDA_WORKSPACE};
  for (int32_t row = 0; row < a->n; row += chunk) {
    const int32_t m = a->n - row < chunk ? a->n - row : chunk;
    put_logits(r, a->x, a->w, row, m, a->d, a->V, logits, ld);
    RP_CUDA_LAUNCH(r, pick_rows, rows_grid(m),
                   (&(rp_pick_rows_args){a->V, logits.at % 16 == 0 && ld % 4 == 0, ld, logits,
                                         rp_ptr_add(a->ids, (size_t)row * sizeof(float)),
                                         rp_ptr_add(a->lse, (size_t)row * sizeof(float)),
                                         rp_ptr_add(a->logit, (size_t)row * sizeof(float)),
                                         rp_ptr_add(a->best, (size_t)row * sizeof(float))}));
  }
}
const rp_cuda_op rp_cuda_op_pick = {pick_scratch, put_pick};

#endif
