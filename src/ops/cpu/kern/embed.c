#include "ops/cpu/kern/lanes.h"

void RP_DRIVER(embed)(rp_cpu_ctx *c, const void *args) {
  const rp_embed_args *a = args;
  if (!dtypes(c, is_float(a->table) && is_real(a->x), "embed")) return;
  const int32_t *ids = (const int32_t *)a->ids.at;
  const int64_t d = a->d;
  const int threads = team_for(c, a->n * d);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int32_t i = 0; i < a->n; i++) load(wr(a->x, i * d), a->table, ids[i] * d, d);
}

/* Columns are split, not rows: every sum runs over the tokens in order. */
void RP_DRIVER(embed_bwd)(rp_cpu_ctx *c, const void *args) {
  const rp_embed_bwd_args *a = args;
  if (!dtypes(c, is_real(a->dx) && is_real(a->dtable), "embed_bwd")) return;
  const int32_t *ids = (const int32_t *)a->ids.at;
  const int64_t d = a->d, width = 128;
#pragma omp parallel for num_threads(c->threads) schedule(static)
  for (int64_t col = 0; col < d; col += width) {
    const int64_t m = d - col < width ? d - col : width;
    for (int64_t i = 0; i < a->n; i++) {
      const rp_real *restrict dx = rd(a->dx, i * d + col);
      rp_real *restrict to = wr(a->dtable, ids[i] * d + col);
      for (int64_t j = 0; j < m; j++) to[j] += dx[j];
    }
  }
}
