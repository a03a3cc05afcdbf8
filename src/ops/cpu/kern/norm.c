#include "ops/cpu/kern/lanes.h"

/* RMSNorm and LayerNorm over rows of width d, eps 1e-6. Backward sums dw and db over blocks of rows
 * whose number depends on n alone, then over the blocks in order. */
static const double eps = 1e-6;
enum { MAX_PARTS = 64, MIN_ROWS = 16 };

static int parts_of(int32_t n) {
  const int p = (n + MIN_ROWS - 1) / MIN_ROWS;
  return p < MAX_PARTS ? p : MAX_PARTS;
}
static rp_real sum(const rp_real *x, int64_t n) {
  rp_real acc[RP_LANES] = {0};
  int64_t i = 0;
  for (; i + RP_LANES <= n; i += RP_LANES)
    for (int l = 0; l < RP_LANES; l++) acc[l] += x[i + l];
  for (int l = 0; i + l < n; l++) acc[l] += x[i + l];
  return sum_lanes(acc);
}
static rp_real sum_square(const rp_real *x, rp_real mean, int64_t n) {
  rp_real acc[RP_LANES] = {0};
  int64_t i = 0;
  for (; i + RP_LANES <= n; i += RP_LANES)
    for (int l = 0; l < RP_LANES; l++) acc[l] += (x[i + l] - mean) * (x[i + l] - mean);
  for (int l = 0; i + l < n; l++) acc[l] += (x[i + l] - mean) * (x[i + l] - mean);
  return sum_lanes(acc);
}

static void norm_row(const rp_norm_args *a, int64_t row) {
  const int64_t d = a->d;
  const rp_real *x = rd(a->x, row * d), *w = rd(a->w, 0);
  const rp_real *b = a->kind == RP_NORM_LAYER ? rd(a->b, 0) : NULL;
  const rp_real mean = b ? sum(x, d) / (rp_real)d : 0;
  const rp_real rstd = 1 / (rp_real)sqrt((double)(sum_square(x, mean, d) / (rp_real)d) + eps);
  for (int64_t i = 0; i < d; i += RP_BLOCK) {
    rp_real y[RP_BLOCK];
    const int64_t m = d - i < RP_BLOCK ? d - i : RP_BLOCK;
    for (int64_t j = 0; j < m; j++) y[j] = (x[i + j] - mean) * rstd * w[i + j];
    if (b)
      for (int64_t j = 0; j < m; j++) y[j] += b[i + j];
    store(a->y, row * d + i, y, m);
  }
  if (a->stat.at) {
    rp_real *stat = (rp_real *)a->stat.at + 2 * row;
    stat[0] = mean;
    stat[1] = rstd;
  }
}

void RP_DRIVER(norm)(rp_cpu_ctx *c, const void *args) {
  const rp_norm_args *a = args;
  const bool bias = a->kind == RP_NORM_LAYER;
  if (!dtypes(c, is_real(a->x) && is_real(a->w) && is_compute(a->y) && (!bias || is_real(a->b)),
              "norm"))
    return;
  const int threads = team_for(c, (int64_t)a->n * a->d);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int32_t row = 0; row < a->n; row++) norm_row(a, row);
}

size_t RP_SCRATCH(norm_bwd)(const rp_cpu_ctx *c, const void *args) {
  (void)c;
  const rp_norm_bwd_args *a = args;
  return (size_t)parts_of(a->n) * (size_t)a->d * 2 * sizeof(rp_real);
}

/* dx of one row, its terms of dw (and db) added to part [d] (and part + d). */
static void norm_bwd_row(const rp_norm_bwd_args *a, int64_t row, rp_real *restrict part) {
  const int64_t d = a->d;
  const rp_real *x = rd(a->x, row * d), *w = rd(a->w, 0), *dy = rd(a->dy, row * d);
  rp_real *restrict dx = wr(a->dx, row * d);
  const rp_real *stat = (const rp_real *)a->stat.at + 2 * row;
  const rp_real mean = stat[0], rstd = stat[1];
  rp_real sg[RP_LANES] = {0}, sgx[RP_LANES] = {0};
  int64_t i = 0;
  for (; i + RP_LANES <= d; i += RP_LANES)
    for (int l = 0; l < RP_LANES; l++) {
      const rp_real g = dy[i + l] * w[i + l];
      sg[l] += g;
      sgx[l] += g * (x[i + l] - mean);
    }
  for (int l = 0; i + l < d; l++) {
    const rp_real g = dy[i + l] * w[i + l];
    sg[l] += g;
    sgx[l] += g * (x[i + l] - mean);
  }
  const rp_real mg = a->kind == RP_NORM_LAYER ? sum_lanes(sg) / (rp_real)d : 0;
  const rp_real mgx = sum_lanes(sgx) / (rp_real)d * rstd;
  for (i = 0; i < d; i++) {
    const rp_real xhat = (x[i] - mean) * rstd;
    dx[i] += rstd * (dy[i] * w[i] - mg - xhat * mgx);
    part[i] += dy[i] * xhat;
  }
  if (a->kind == RP_NORM_LAYER)
    for (i = 0; i < d; i++) part[d + i] += dy[i];
}

void RP_DRIVER(norm_bwd)(rp_cpu_ctx *c, const void *args) {
  const rp_norm_bwd_args *a = args;
  const bool bias = a->kind == RP_NORM_LAYER;
  if (!dtypes(c,
              is_real(a->x) && is_real(a->w) && is_real(a->dy) && is_real(a->dx) &&
                  is_real(a->dw) && (!bias || is_real(a->db)),
              "norm_bwd"))
    return;
  const int parts = parts_of(a->n);
  const int64_t d = a->d;
  rp_real *all = (rp_real *)c->scratch; /* [parts][2][d] */
#pragma omp parallel for num_threads(c->threads) schedule(static)
  for (int p = 0; p < parts; p++) {
    rp_real *part = all + (int64_t)p * 2 * d;
    memset(part, 0, (size_t)(2 * d) * sizeof(rp_real));
    const int64_t end = (int64_t)a->n * (p + 1) / parts;
    for (int64_t row = (int64_t)a->n * p / parts; row < end; row++) norm_bwd_row(a, row, part);
  }
  rp_real *dw = wr(a->dw, 0), *db = bias ? wr(a->db, 0) : NULL;
  for (int p = 0; p < parts; p++) {
    const rp_real *part = all + (int64_t)p * 2 * d;
    for (int64_t i = 0; i < d; i++) dw[i] += part[i];
    if (bias)
      for (int64_t i = 0; i < d; i++) db[i] += part[d + i];
  }
}
