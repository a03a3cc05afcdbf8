#include "ops/cpu/kern/lanes.h"

/* The head: logits of a chunk of rows at a time, so that [n, V] never exists whole. The chunk
 * depends on the shape alone. */
enum { IGNORED = -100 };
static const int64_t chunk_elements = 16 << 20;

static int32_t chunk_rows(int32_t n, int32_t V) {
  int64_t rows = chunk_elements / V;
  if (rows >= 64) rows = rows / 64 * 64;
  if (rows < 1) rows = 1;
  return rows < n ? (int32_t)rows : n;
}

/* ---- rows of logits ---- */

static rp_real max_of(const rp_real *x, int64_t n) {
  rp_real acc[RP_LANES], m = -(rp_real)INFINITY;
  for (int l = 0; l < RP_LANES; l++) acc[l] = m;
  int64_t i = 0;
  for (; i + RP_LANES <= n; i += RP_LANES)
    for (int l = 0; l < RP_LANES; l++) acc[l] = x[i + l] > acc[l] ? x[i + l] : acc[l];
  for (; i < n; i++) m = x[i] > m ? x[i] : m;
  for (int l = 0; l < RP_LANES; l++) m = acc[l] > m ? acc[l] : m;
  return m;
}

/* Sum of exp(x - max); with keep, x becomes exp(x - max). Blocks are summed in double. */
static double sum_exp(rp_real *x, rp_real max, int64_t n, bool keep) {
  double total = 0;
  for (int64_t i = 0; i < n; i += RP_BLOCK) {
    rp_real e[RP_BLOCK], acc[RP_LANES] = {0};
    const int64_t m = n - i < RP_BLOCK ? n - i : RP_BLOCK;
    for (int64_t j = 0; j < m; j++) e[j] = exp_below(x[i + j] - max);
    if (keep) memcpy(x + i, e, (size_t)m * sizeof(rp_real));
    int64_t j = 0;
    for (; j + RP_LANES <= m; j += RP_LANES)
      for (int l = 0; l < RP_LANES; l++) acc[l] += e[j + l];
    for (int l = 0; j + l < m; l++) acc[l] += e[j + l];
    total += (double)sum_lanes(acc);
  }
  return total;
}

/* Loss of one row of logits z[V]; with grad z becomes scale * (softmax - onehot). */
static double loss_row(rp_real *restrict z, int32_t V, int32_t label, bool grad, double scale) {
  const rp_real max = max_of(z, V), hit = z[label];
  const double sum = sum_exp(z, max, V, grad);
  if (grad) {
    const rp_real f = (rp_real)(scale / sum);
    for (int32_t j = 0; j < V; j++) z[j] *= f;
    z[label] -= (rp_real)scale;
  }
  return log(sum) + (double)max - (double)hit;
}

/* ---- head_loss ---- */

/* Scratch: loss[n] double | logits[rows, V] real | dlogits[rows, V] compute (float32: the logits) |
 * the products' own. */
typedef struct {
  size_t logits, dlogits, end;
} layout;
static layout layout_of(const rp_head_loss_args *a, int32_t rows) {
  layout l = {.logits = round_up((size_t)a->n * sizeof(double), 64)};
  const size_t elements = (size_t)rows * (size_t)a->V;
  l.dlogits = l.logits;
  l.end = l.logits + round_up(elements * sizeof(rp_real), 64);
  if (a->grad && a->x.dtype != RP_REAL) {
    l.dlogits = l.end;
    l.end += round_up(elements * (size_t)rp_dtype_bytes(a->x.dtype), 64);
  }
  return l;
}

/* The three products of a chunk of m rows from `row`. */
typedef struct {
  rp_gemm_args logits, dx, dw;
} products;
static products products_of(const rp_head_loss_args *a, int32_t row, int32_t m, rp_tensor logits,
                            rp_tensor dlogits) {
  const int32_t V = a->V, d = a->d;
  const rp_tensor x = rp_tensor_at(a->x, (int64_t)row * d);
  const rp_tensor dx = rp_tensor_at(a->dx, (int64_t)row * d);
  products p;
  p.logits = (rp_gemm_args){.M = m,
                            .N = V,
                            .K = d,
                            .tb = 1,
                            .lda = d,
                            .ldb = d,
                            .ldc = V,
                            .a = x,
                            .b = a->w,
                            .c = logits};
  p.dx = (rp_gemm_args){
      .M = m, .N = d, .K = V, .lda = V, .ldb = d, .ldc = d, .a = dlogits, .b = a->w, .c = dx};
  p.dw = (rp_gemm_args){.M = V,
                        .N = d,
                        .K = m,
                        .ta = 1,
                        .accumulate = 1,
                        .lda = V,
                        .ldb = d,
                        .ldc = d,
                        .a = dlogits,
                        .b = x,
                        .c = a->dw};
  return p;
}

static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }
size_t RP_SCRATCH(head_loss)(const rp_cpu_ctx *c, const void *args) {
  const rp_head_loss_args *a = args;
  const int32_t rows = chunk_rows(a->n, a->V);
  const layout l = layout_of(a, rows);
  size_t most = 0;
  for (int tail = 0; tail < 2; tail++) {
    const int32_t m = tail ? a->n % rows : rows;
    if (!m) continue;
    const products p =
        products_of(a, 0, m, (rp_tensor){{0}, RP_REAL}, (rp_tensor){{0}, a->x.dtype});
    most = max_size(most, c->gemm_scratch(c, &p.logits));
    if (!a->grad) continue;
    most = max_size(most, max_size(c->gemm_scratch(c, &p.dx), c->gemm_scratch(c, &p.dw)));
  }
  return l.end + most;
}

/* Labels that count; -1 after an error. */
static int64_t count_labels(rp_cpu_ctx *c, const rp_head_loss_args *a) {
  const int32_t *label = (const int32_t *)a->labels.at;
  int64_t n = 0;
  for (int32_t i = 0; i < a->n; i++) {
    if (label[i] == IGNORED) continue;
    if (label[i] < 0 || label[i] >= a->V) {
      rp_fail(c->err, RP_BAD_DATA, "label %d of token %d is not in the vocabulary of %d ids",
              (int)label[i], (int)i, (int)a->V);
      return -1;
    }
    n++;
  }
  return n;
}

/* Losses of the chunk's rows, and its dlogits. */
static void chunk_loss(rp_cpu_ctx *c, const rp_head_loss_args *a, int32_t row, int32_t m,
                       rp_tensor logits, rp_tensor dlogits, double scale, double *loss) {
  const int32_t *label = (const int32_t *)a->labels.at + row;
#pragma omp parallel for num_threads(c->threads) schedule(static)
  for (int32_t i = 0; i < m; i++) {
    rp_real *z = wr(logits, (int64_t)i * a->V);
    loss[i] = 0;
    if (label[i] != IGNORED)
      loss[i] = loss_row(z, a->V, label[i], a->grad, scale);
    else if (a->grad)
      memset(z, 0, (size_t)a->V * sizeof(rp_real));
    if (a->grad && dlogits.p.at != logits.p.at) store(dlogits, (int64_t)i * a->V, z, a->V);
  }
}

void RP_DRIVER(head_loss)(rp_cpu_ctx *c, const void *args) {
  const rp_head_loss_args *a = args;
  const bool ok = is_compute(a->x) && a->x.dtype == a->w.dtype &&
                  (!a->grad || (is_real(a->dx) && is_real(a->dw)));
  if (!dtypes(c, ok, "head_loss")) return;
  const int64_t labels = count_labels(c, a);
  if (labels < 0) return;
  const int32_t rows = chunk_rows(a->n, a->V), *label = (const int32_t *)a->labels.at;
  const layout l = layout_of(a, rows);
  const rp_tensor logits = {{(uintptr_t)c->scratch + l.logits}, RP_REAL};
  const rp_tensor dlogits = {{(uintptr_t)c->scratch + l.dlogits}, a->x.dtype};
  const double scale = labels ? a->weight / (double)labels : 0;
  double *loss = (double *)c->scratch, sum = 0;
  for (int32_t row = 0; row < a->n; row += rows) {
    const int32_t m = a->n - row < rows ? a->n - row : rows;
    const products p = products_of(a, row, m, logits, dlogits);
    bool any = false;
    for (int32_t i = row; i < row + m; i++) any = any || label[i] != IGNORED;
    if (!any) { /* a prompt's rows: nothing to learn */
      memset(loss + row, 0, (size_t)m * sizeof(double));
      if (a->grad) memset((void *)p.dx.c.p.at, 0, (size_t)m * (size_t)a->d * sizeof(rp_real));
      continue;
    }
    c->gemm(c, &p.logits, l.end);
    chunk_loss(c, a, row, m, logits, dlogits, scale, loss + row);
    if (!a->grad) continue;
    c->gemm(c, &p.dx, l.end);
    c->gemm(c, &p.dw, l.end);
  }
  for (int32_t i = 0; i < a->n; i++) sum += loss[i];
  rp_loss *out = (rp_loss *)a->loss.at;
  if (labels) out->mean += a->weight * (sum / (double)labels);
  out->sum += sum;
  out->labels += labels;
}

/* ---- pick ---- */

static rp_gemm_args pick_product(const rp_pick_args *a, int32_t row, int32_t m, rp_ptr logits) {
  return (rp_gemm_args){.M = m,
                        .N = a->V,
                        .K = a->d,
                        .tb = 1,
                        .lda = a->d,
                        .ldb = a->d,
                        .ldc = a->V,
                        .a = rp_tensor_at(a->x, (int64_t)row * a->d),
                        .b = a->w,
                        .c = {logits, RP_REAL}};
}
static size_t pick_own(const rp_pick_args *a) {
  if (a->logits.at) return 0;
  return round_up((size_t)chunk_rows(a->n, a->V) * (size_t)a->V * sizeof(rp_real), 64);
}
size_t RP_SCRATCH(pick)(const rp_cpu_ctx *c, const void *args) {
  const rp_pick_args *a = args;
  const int32_t rows = chunk_rows(a->n, a->V), tail = rows ? a->n % rows : 0;
  const rp_gemm_args whole = pick_product(a, 0, rows, (rp_ptr){0});
  const rp_gemm_args rest = pick_product(a, 0, tail, (rp_ptr){0});
  const size_t most = c->gemm_scratch(c, &whole);
  return pick_own(a) + (tail ? max_size(most, c->gemm_scratch(c, &rest)) : most);
}

static void pick_row(const rp_pick_args *a, int32_t row, rp_real *z) {
  const rp_real max = max_of(z, a->V);
  if (a->best.at) {
    int32_t j = 0;
    while (j < a->V && z[j] != max) j++;
    ((int32_t *)a->best.at)[row] = j < a->V ? j : 0;
  }
  if (a->logit.at) {
    const int32_t id = a->ids.at ? ((const int32_t *)a->ids.at)[row] : -1;
    ((rp_real *)a->logit.at)[row] = id >= 0 && id < a->V ? z[id] : 0;
  }
  if (a->lse.at)
    ((rp_real *)a->lse.at)[row] = (rp_real)(log(sum_exp(z, max, a->V, false)) + (double)max);
}

void RP_DRIVER(pick)(rp_cpu_ctx *c, const void *args) {
  const rp_pick_args *a = args;
  if (!dtypes(c, is_compute(a->x) && a->x.dtype == a->w.dtype, "pick")) return;
  const int32_t rows = chunk_rows(a->n, a->V);
  for (int32_t row = 0; row < a->n; row += rows) {
    const int32_t m = a->n - row < rows ? a->n - row : rows;
    rp_real *logits =
        a->logits.at ? (rp_real *)a->logits.at + (int64_t)row * a->V : (rp_real *)c->scratch;
    const rp_gemm_args p = pick_product(a, row, m, (rp_ptr){(uintptr_t)logits});
    c->gemm(c, &p, pick_own(a));
#pragma omp parallel for num_threads(m == 1 ? 1 : c->threads) schedule(static)
    for (int32_t i = 0; i < m; i++) pick_row(a, row + i, logits + (int64_t)i * a->V);
  }
}
