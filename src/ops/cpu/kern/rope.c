/* rope.c - the table of cosines and sines by position. */
#include <math.h>

#include "ops/cpu/kern/drivers.h"

void RP_DRIVER(rope)(rp_cpu_ctx *c, const void *args) {
  const rp_rope_args *a = args;
  rp_real *table = (rp_real *)a->table.at;  // [count, h]
  const int half = a->h / 2;
#pragma omp parallel for num_threads(c->threads) schedule(static)
  for (int t = 0; t < a->count; t++) {
    const double at = (double)(a->from + t) / a->scale;
    rp_real *row = table + (size_t)t * (size_t)a->h;
    for (int i = 0; i < half; i++) {
      const double angle = at * pow(a->base, -2.0 * i / a->h);
      row[i] = (rp_real)cos(angle);
      row[half + i] = (rp_real)sin(angle);
    }
  }
}
