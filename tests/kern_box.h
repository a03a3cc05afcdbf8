/* kern_box.h - what the tests of kernels share: the levels of this processor, tensors between guard
 * bytes, and one call of one op with scratch that is exactly as large as promised. */
#ifndef RP_KERN_BOX_H
#define RP_KERN_BOX_H

#include "check.h"

#include <math.h>

#include "ops/cpu/kern.h"

typedef struct {
  const char *name;
  const rp_cpu_table *table;
  rp_dtype real;
  double eps;        /* of real */
  rp_dtype compute;  /* what the level has code of its own for */
  double weight_eps; /* of attention's weights in a product of bfloat16 */
} kern_level;

enum { KERN_LEVELS = 5 };

/* ref64 first, then every level that this processor runs. */
CHECK_MAYBE static int kern_levels(kern_level out[KERN_LEVELS]) {
  int n = 0;
  out[n++] = (kern_level){"ref64", &rp_cpu_table_ref64, RP_F64, 2.3e-16, RP_F64, 0};
  out[n++] = (kern_level){"ref", &rp_cpu_table_ref, RP_F32, 1.2e-7, RP_F32, 0};
#if defined(__x86_64__)
  if (rp_cpu_best() >= RP_CPU_AVX2)
    out[n++] = (kern_level){"avx2", &rp_cpu_table_avx2, RP_F32, 1.2e-7, RP_F32, 0};
  if (rp_cpu_best() >= RP_CPU_AVX512)
    out[n++] = (kern_level){"avx512", &rp_cpu_table_avx512, RP_F32, 1.2e-7, RP_F32, 0};
  if (rp_cpu_best() >= RP_CPU_AVX512_BF16)
    out[n++] =
        (kern_level){"avx512_bf16", &rp_cpu_table_avx512_bf16, RP_F32, 1.2e-7, RP_BF16, 1.0 / 256};
#endif
  return n;
}

/* ---- memory between guards ---- */

enum { KERN_GUARD = 128, KERN_BLOCKS = 512 };
static struct {
  uint8_t *raw;
  size_t bytes;
} kern_block[KERN_BLOCKS];
static int kern_blocks;

CHECK_MAYBE static rp_ptr kern_alloc(size_t bytes) {
  assert_true(kern_blocks < KERN_BLOCKS);
  const size_t all = (bytes + 63) / 64 * 64 + 2 * KERN_GUARD;
  uint8_t *raw = aligned_alloc(64, all);
  assert_non_null(raw);
  memset(raw, 0xff, all); /* NaN in every float type: what is read before it is written shows */
  kern_block[kern_blocks].raw = raw;
  kern_block[kern_blocks++].bytes = bytes;
  return (rp_ptr){(uintptr_t)raw + KERN_GUARD};
}
CHECK_MAYBE static void kern_check_guards(const char *what) {
  for (int i = 0; i < kern_blocks; i++) {
    const uint8_t *raw = kern_block[i].raw;
    for (int j = 0; j < KERN_GUARD; j++)
      if (raw[j] != 0xff || raw[KERN_GUARD + kern_block[i].bytes + (size_t)j] != 0xff)
        fail_msg("%s wrote outside block %d of %zu bytes", what, i, kern_block[i].bytes);
  }
}
CHECK_MAYBE static void kern_free_all(void) {
  kern_check_guards("a kernel");
  for (int i = 0; i < kern_blocks; i++) free(kern_block[i].raw);
  kern_blocks = 0;
}

CHECK_MAYBE static rp_tensor kern_tensor(rp_dtype dtype, int64_t n) {
  return (rp_tensor){kern_alloc((size_t)n * (size_t)rp_dtype_bytes(dtype)), dtype};
}
CHECK_MAYBE static double kern_get(rp_tensor t, int64_t i) {
  if (t.dtype == RP_F64) return ((const double *)t.p.at)[i];
  if (t.dtype == RP_F32) return (double)((const float *)t.p.at)[i];
  return (double)rp_bf16_to_f32(((const uint16_t *)t.p.at)[i]);
}
CHECK_MAYBE static void kern_set(rp_tensor t, int64_t i, double v) {
  if (t.dtype == RP_F64)
    ((double *)t.p.at)[i] = v;
  else if (t.dtype == RP_F32)
    ((float *)t.p.at)[i] = (float)v;
  else
    ((uint16_t *)t.p.at)[i] = rp_f32_to_bf16((float)v);
}
CHECK_MAYBE static double kern_real(const kern_level *l, rp_ptr p, int64_t i) {
  return kern_get((rp_tensor){p, l->real}, i);
}
CHECK_MAYBE static rp_ptr kern_ints(const int32_t *v, int n) {
  const rp_ptr p = kern_alloc((size_t)n * 4);
  memcpy((void *)p.at, v, (size_t)n * 4);
  return p;
}
/* Normal numbers of a spread; `like` narrower than t: values that type can hold, so that the same
 * draw gives the same inputs on every level. */
CHECK_MAYBE static rp_tensor kern_normal(rp_rng *r, rp_dtype dtype, rp_dtype like, int64_t n,
                                         double spread) {
  const rp_tensor t = kern_tensor(dtype, n);
  for (int64_t i = 0; i < n; i++) {
    float v = (float)(rp_rng_normal(r) * spread);
    if (like == RP_BF16) v = rp_bf16_to_f32(rp_f32_to_bf16(v));
    kern_set(t, i, (double)v);
  }
  return t;
}
CHECK_MAYBE static rp_tensor kern_const(rp_dtype dtype, int64_t n, double v) {
  const rp_tensor t = kern_tensor(dtype, n);
  for (int64_t i = 0; i < n; i++) kern_set(t, i, v);
  return t;
}

/* ---- one call ---- */

static const char *const kern_op_names[] = {
#define RP_X(name) #name,
    RP_OPS(RP_X)
#undef RP_X
};

CHECK_MAYBE static rp_status kern_try(const kern_level *l, rp_op op, const void *args, int threads,
                                      rp_error *err) {
  rp_cpu_ctx c = {.threads = threads,
                  .err = err,
                  .gemm = l->table->gemm,
                  .gemm_scratch = l->table->gemm_scratch};
  const int blocks = kern_blocks;
  assert_non_null(l->table->run[op]);
  if (l->table->scratch[op]) c.scratch_bytes = l->table->scratch[op](&c, args);
  c.scratch = (uint8_t *)kern_alloc(c.scratch_bytes).at;
  memset(err, 0, sizeof *err);
  l->table->run[op](&c, args);
  kern_check_guards(kern_op_names[op]);
  free(kern_block[--kern_blocks].raw);
  assert_int_equal(kern_blocks, blocks);
  return err->status;
}
CHECK_MAYBE static void kern_run(const kern_level *l, rp_op op, const void *args, int threads) {
  rp_error err;
  if (kern_try(l, op, args, threads, &err)) fail_msg("%s: %s", kern_op_names[op], err.text);
}

/* Half a unit in the last place of a compute type, relative. */
CHECK_MAYBE static double kern_round(rp_dtype t) { return t == RP_BF16 ? 1.0 / 256 : 0; }
#define kern_close(l, got, want, tol, ...) \
  do { \
    const double got_ = (got), want_ = (want), tol_ = (tol); \
    if (!(fabs(got_ - want_) <= tol_)) { \
      char where_[256]; \
      snprintf(where_, sizeof where_, __VA_ARGS__); \
      fail_msg("%s: %s: %.9g, wanted %.9g, apart by %.3g (allowed %.3g)", (l)->name, where_, got_, \
               want_, got_ - want_, tol_); \
    } \
  } while (0)

#endif
