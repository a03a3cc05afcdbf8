/* rope.c - the table of cosines and sines by position or by token. */
#include <math.h>

#include "ops/cpu/kern/lanes.h"

static void rotation(const rp_rope_args *a, int64_t position, rp_real *row) {
  const int half = a->h / 2;
  const double at = (double)position / a->scale;
  for (int i = 0; i < half; i++) {
    const double angle = at * pow(a->base, -2.0 * i / a->h);
    row[i] = (rp_real)cos(angle);
    row[half + i] = (rp_real)sin(angle);
  }
}

void RP_DRIVER(rope)(rp_cpu_ctx *c, const void *args) {
  const rp_rope_args *a = args;
  rp_real *table = (rp_real *)a->table.at; /* [count][h] */
  if (!a->rows.row.at) {
#pragma omp parallel for num_threads(c->threads) schedule(static)
    for (int t = 0; t < a->count; t++) rotation(a, a->from + t, table + (int64_t)t * a->h);
    return;
  }
  const rp_row *row = rows_of(c, &a->rows, NULL, "rope");
  for (int32_t i = 0; row && i < a->rows.count; i++) {
#pragma omp parallel for num_threads(c->threads) schedule(static) if (row[i].n > 8)
    for (int32_t t = 0; t < row[i].n; t++)
      rotation(a, (int64_t)row[i].pos + t, table + (int64_t)(row[i].tok + t) * a->h);
  }
}
