/* move.c - zeroing, copies and conversion. */
#include "ops/cpu/kern/drivers.h"

/* Part `i` of `n` items for `threads` threads, in whole multiples of `unit`. */
static int64_t part(int64_t n, int64_t unit, int i, int threads) {
  const int64_t units = (n + unit - 1) / unit;
  const int64_t at = units * i / threads * unit;
  return at < n ? at : n;
}

void RP_DRIVER(zero)(rp_cpu_ctx *c, const void *args) {
  const rp_zero_args *a = args;
  const int threads = team_for(c, (int64_t)a->bytes / 4);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; i++) {
    const int64_t from = part((int64_t)a->bytes, 4096, i, threads);
    const int64_t to = part((int64_t)a->bytes, 4096, i + 1, threads);
    memset((uint8_t *)a->p.at + from, 0, (size_t)(to - from));
  }
}

void RP_DRIVER(copy)(rp_cpu_ctx *c, const void *args) {
  const rp_copy_args *a = args;
  const int threads = team_for(c, (int64_t)a->bytes / 4);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; i++) {
    const int64_t from = part((int64_t)a->bytes, 4096, i, threads);
    const int64_t to = part((int64_t)a->bytes, 4096, i + 1, threads);
    memcpy((uint8_t *)a->dst.at + from, (const uint8_t *)a->src.at + from, (size_t)(to - from));
  }
}

void RP_DRIVER(take)(rp_cpu_ctx *c, const void *args) {
  const rp_take_args *a = args;
  const int32_t *at = (const int32_t *)a->at.at;
  for (int32_t i = 0; i < a->n; i++) {
    if (at[i] < 0 || at[i] >= a->rows) {
      rp_fail(c->err, RP_FAIL, "op take: row %d of %d; this is a bug", (int)at[i], (int)a->rows);
      return;
    }
    memcpy((rp_real *)a->y.p.at + (int64_t)i * a->d,
           (const rp_real *)a->x.p.at + (int64_t)at[i] * a->d, (size_t)a->d * sizeof(rp_real));
  }
}

void RP_DRIVER(table)(rp_cpu_ctx *c, const void *args) {
  const rp_table_args *a = args;
  const rp_table_entry *list = (const rp_table_entry *)a->list.at;
  (void)c;
  for (int32_t i = 0; i < a->n; i++) *(int32_t *)list[i].at.at = list[i].block;
}

static float f32_of_f32(float x) { return x; }
static float f32_of_f64(double x) { return (float)x; }
static double f64_of_f32(float x) { return x; }
static double f64_of_f64(double x) { return x; }
static double f64_of_bf16(uint16_t x) { return rp_bf16_to_f32(x); }
static uint16_t bf16_of_bf16(uint16_t x) { return x; }

/* Through float32 a double could be rounded twice; a first rounding to odd (von Neumann) keeps the
 * bit that decides the second. */
static uint16_t bf16_of_f64(double x) {
  float f = (float)x;
  uint32_t u;
  memcpy(&u, &f, 4);
  const double back = f;
  const int inexact = back != x && f == f && (u & 0x7f800000u) != 0x7f800000u;
  if (inexact && (u & 1) == 0) {
    const int away = (back > x) == (x > 0); /* rounded away from zero */
    u = away ? u - 1 : u + 1;
  }
  memcpy(&f, &u, 4);
  return rp_f32_to_bf16(f);
}

#define RP_MOVE(name, to_type, from_type, convert) \
  static void name(void *dst, const void *src, int64_t from, int64_t to) { \
    to_type *restrict y = dst; \
    const from_type *restrict x = src; \
    for (int64_t i = from; i < to; i++) y[i] = convert(x[i]); \
  }
RP_MOVE(f32_f32, float, float, f32_of_f32)
RP_MOVE(f32_f64, float, double, f32_of_f64)
RP_MOVE(f32_bf16, float, uint16_t, rp_bf16_to_f32)
RP_MOVE(f64_f32, double, float, f64_of_f32)
RP_MOVE(f64_f64, double, double, f64_of_f64)
RP_MOVE(f64_bf16, double, uint16_t, f64_of_bf16)
RP_MOVE(bf16_f32, uint16_t, float, rp_f32_to_bf16)
RP_MOVE(bf16_f64, uint16_t, double, bf16_of_f64)
RP_MOVE(bf16_bf16, uint16_t, uint16_t, bf16_of_bf16)

typedef void (*move)(void *dst, const void *src, int64_t from, int64_t to);
static move move_of(rp_dtype dst, rp_dtype src) {
  static const move moves[3][3] = {
      [RP_F32] = {[RP_F32] = f32_f32, [RP_BF16] = f32_bf16, [RP_F64] = f32_f64},
      [RP_BF16] = {[RP_F32] = bf16_f32, [RP_BF16] = bf16_bf16, [RP_F64] = bf16_f64},
      [RP_F64] = {[RP_F32] = f64_f32, [RP_BF16] = f64_bf16, [RP_F64] = f64_f64},
  };
  return moves[dst][src];
}

void RP_DRIVER(cast)(rp_cpu_ctx *c, const void *args) {
  const rp_cast_args *a = args;
  const int threads = team_for(c, a->n);
  const move run = move_of(a->dst.dtype, a->src.dtype);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; i++)
    run((void *)a->dst.p.at, (const void *)a->src.p.at, part(a->n, 1024, i, threads),
        part(a->n, 1024, i + 1, threads));
}
