/* Matrix products: oneDNN, both ways of bfloat16, and every level's own, against sums in double
 * over random shapes, strides and transposes; few rows and one; NaN, empty sums, repeatability.
 * label: threads */
#include "check.h"

#include <math.h>

#include "ops/cpu/cpu_device.h"

typedef struct {
  rp_device *d;
  rp_queue *q;
  rp_ptr memory;
} box;

/* cuda is the stand-in of tests/fake, or a GPU where LD_LIBRARY_PATH names the true libraries. */
enum { MOST = 1 << 21, BOXES = RATPLUS_WITH_CUDA ? 9 : 8, CUDA_BOX = 8 };
static const char *const names[] = {"cpu, dot",     "cpu, widen",        "ref64",
                                    "guard",        "level ref",         "level avx2",
                                    "level avx512", "level avx512_bf16", "cuda"};

static bool box_open(box *b, int which) {
  rp_error err = {0};
  const rp_cpu_level level = (rp_cpu_level)(which - 4);
  const rp_device_kind kind = which == 2          ? RP_DEVICE_REF64
                              : which == 3        ? RP_DEVICE_GUARD
                              : which == CUDA_BOX ? RP_DEVICE_CUDA
                                                  : RP_DEVICE_CPU;
  const bool of_level = which >= 4 && which != CUDA_BOX;
  if (of_level && level > rp_cpu_best()) return false;
  if (which == 0 && rp_cpu_now() < RP_CPU_AVX512_BF16) return false;
  if (which < 2) rp_bf16_way_force(which == 0 ? RP_BF16_DOT : RP_BF16_WIDEN);
  if (of_level)
    check_ok(rp_cpu_device_open(&b->d, level, &err), err);
  else
    check_ok(rp_device_open(&b->d, kind, &err), err);
  rp_bf16_way_force(-1);
  check_ok(rp_queue_open(&b->q, b->d, &err), err);
  check_ok(rp_device_alloc(b->d, 3 * MOST * 8, "matrices", &b->memory, &err), err);
  return true;
}

static void box_close(box *b) {
  rp_queue_close(b->q);
  rp_device_free(b->d, b->memory);
  rp_device_close(b->d);
}

/* One product: what goes in, on the host. */
typedef struct {
  rp_gemm_args a;
  int64_t n[3];
  float *x[3]; /* a, b, c before */
  float *got;
} product;

static float value(rp_rng *r, rp_dtype t) {
  const float v = (float)rp_rng_normal(r);
  return t == RP_BF16 ? rp_bf16_to_f32(rp_f32_to_bf16(v)) : v;
}

static product product_laid(rp_rng *r, const int s[3], int ta, int tb, bool bf16, rp_dtype real) {
  product p = {.a = {.M = s[0], .N = s[1], .K = s[2], .ta = ta, .tb = tb}};
  rp_gemm_args *a = &p.a;
  const rp_dtype in = bf16 ? RP_BF16 : real;
  a->accumulate = check_pick(r, 0, 1);
  const rp_dtype out = !a->accumulate && check_pick(r, 0, 1) ? in : real;
  a->lda = (a->ta ? a->M : a->K) + (check_pick(r, 0, 1) ? check_pick(r, 0, 40) : 0);
  a->ldb = (a->tb ? a->K : a->N) + (check_pick(r, 0, 1) ? check_pick(r, 0, 40) : 0);
  a->ldc = a->N + (check_pick(r, 0, 1) ? check_pick(r, 0, 40) : 0);
  if (!a->lda) a->lda = 1;
  if (!a->ldb) a->ldb = 1;
  p.n[0] = (a->ta ? a->K : a->M) * a->lda;
  p.n[1] = (a->tb ? a->N : a->K) * a->ldb;
  p.n[2] = a->M * a->ldc;
  a->a.dtype = a->b.dtype = in;
  a->c.dtype = out;
  for (int i = 0; i < 3; i++) {
    assert_true(p.n[i] <= MOST);
    p.x[i] = malloc((size_t)(p.n[i] + 1) * sizeof(float));
    for (int64_t j = 0; j < p.n[i]; j++) p.x[i][j] = value(r, bf16 ? RP_BF16 : RP_F32);
  }
  p.got = malloc((size_t)(p.n[2] + 1) * sizeof(float));
  return p;
}

static product product_make(rp_rng *r, const int s[3], bool bf16, rp_dtype real) {
  const int ta = check_pick(r, 0, 1), tb = check_pick(r, 0, 1);
  return product_laid(r, s, ta, tb, bf16, real);
}

static void product_free(product *p) {
  for (int i = 0; i < 3; i++) free(p->x[i]);
  free(p->got);
}

static void product_run(product *p, box *b) {
  rp_error err = {0};
  rp_tensor *const t[3] = {&p->a.a, &p->a.b, &p->a.c};
  for (int i = 0; i < 3; i++) {
    t[i]->p = rp_ptr_add(b->memory, (size_t)i * MOST * 8);
    rp_upload_as(b->q, *t[i], p->x[i], RP_F32, p->n[i]);
  }
  check_ok(rp_queue_reserve(b->q, rp_op_scratch(b->d, RP_OP_gemm, &p->a), &err), err);
  rp_op_gemm(b->q, &p->a);
  rp_download_as(b->q, p->got, RP_F32, p->a.c, p->n[2]);
  if (rp_wait(b->q, &err)) fail_msg("%s", err.text);
}

static void product_check(const product *p, const char *name) {
  const rp_gemm_args *a = &p->a;
  for (int m = 0; m < a->M; m++) {
    for (int64_t n = 0; n < a->ldc; n++) {
      const int64_t at = m * a->ldc + n;
      double sum = a->accumulate || n >= a->N ? (double)p->x[2][at] : 0, terms = fabs(sum);
      for (int64_t k = 0; k < a->K && n < a->N; k++) {
        const double t = (double)p->x[0][a->ta ? k * a->lda + m : m * a->lda + k] *
                         (double)p->x[1][a->tb ? n * a->ldb + k : k * a->ldb + n];
        sum += t;
        terms += fabs(t);
      }
      const double got = (double)p->got[at];
      const double allowed =
          n >= a->N ? 0 : 4 * 1.2e-7 * terms + (a->c.dtype == RP_BF16 ? fabs(sum) / 256 : 0);
      if (!(fabs(got - sum) <= allowed))
        fail_msg(
            "%s: %dx%dx%d ta %d tb %d add %d ld %lld %lld %lld %s -> %s at %d,%lld: %.9g, "
            "wanted %.9g (allowed %.3g)",
            name, a->M, a->N, a->K, a->ta, a->tb, a->accumulate, (long long)a->lda,
            (long long)a->ldb, (long long)a->ldc, rp_dtype_name(a->a.dtype),
            rp_dtype_name(a->c.dtype), m, (long long)n, got, sum, allowed);
    }
  }
}

static void one(rp_rng *r, box *b, const char *name, const int s[3], bool bf16) {
  product p = product_make(r, s, bf16, rp_device_real(b->d));
  product_run(&p, b);
  product_check(&p, name);
  product_free(&p);
}

/* Below, at and above the register tile, the panels and the blocks of every level. */
static int some_size(rp_rng *r) {
  static const int sizes[] = {1, 2, 3, 5, 6, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 95, 96, 97};
  return check_pick(r, 0, 2) ? sizes[rp_rng_below(r, 19)] : check_pick(r, 1, 130);
}

static void products_are_the_sums(void **state) {
  (void)state;
  for (int which = 0; which < BOXES; which++) {
    box b;
    rp_rng r = check_rng(1);
    if (!box_open(&b, which)) continue;
    for (int i = 0; i < 60; i++) {
      int s[3] = {some_size(&r), some_size(&r), some_size(&r)};
      if (i % 8 == 0) s[2] = check_pick(&r, 250, 600);
      if (i % 20 == 7) s[1] = check_pick(&r, 1000, 1300);
      if (i % 30 == 11) s[0] = 2050, s[1] = check_pick(&r, 1, 9), s[2] = check_pick(&r, 1, 9);
      one(&r, &b, names[which], s, i % 2);
    }
    box_close(&b);
  }
}

static void an_empty_sum_is_zero(void **state) {
  (void)state;
  static const int shapes[][3] = {{5, 7, 0}, {0, 3, 4}, {3, 0, 4}, {0, 0, 0}, {1, 1, 0}};
  for (int which = 0; which < BOXES; which++) {
    box b;
    rp_rng r = check_rng(2);
    if (!box_open(&b, which)) continue;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
      for (int j = 0; j < 4; j++) one(&r, &b, names[which], shapes[i], j % 2);
    box_close(&b);
  }
}

/* A NaN or infinity of a reaches its row of c and no other; c is never read without accumulate. */
static void nan_stays_in_its_row(void **state) {
  (void)state;
  for (int which = 0; which < BOXES; which++) {
    box b;
    rp_rng r = check_rng(3);
    if (!box_open(&b, which)) continue;
    for (int i = 0; i < 8; i++) {
      const int s[3] = {check_pick(&r, 2, 70), check_pick(&r, 1, 70), check_pick(&r, 1, 70)};
      product p = product_make(&r, s, i % 2, rp_device_real(b.d));
      p.a.accumulate = 0;
      const int row = check_pick(&r, 0, s[0] - 1), k = check_pick(&r, 0, s[2] - 1);
      p.x[0][p.a.ta ? k * p.a.lda + row : row * p.a.lda + k] = NAN;
      for (int64_t j = 0; j < p.n[2]; j++) p.x[2][j] = NAN;
      product_run(&p, &b);
      for (int m = 0; m < s[0]; m++)
        for (int n = 0; n < s[1]; n++)
          if (isnan(p.got[m * p.a.ldc + n]) != (m == row))
            fail_msg("%s: NaN of row %d seen at %d,%d", names[which], row, m, n);
      product_free(&p);
    }
    box_close(&b);
  }
}

static void same_row(const product *p, int row, const float *want, const char *name,
                     const char *when) {
  const rp_gemm_args *a = &p->a;
  if (memcmp(p->got, want, (size_t)a->N * sizeof(float)))
    fail_msg("%s: row %d of %dx%dx%d %s -> %s is not the same %s", name, row, a->M, a->N, a->K,
             rp_dtype_name(a->a.dtype), rp_dtype_name(a->c.dtype), when);
}

/* Few rows times a weight: a row of c has the bits of that row alone, beside any others. */
static void one_of_few(rp_rng *r, box *b, const char *name, const int s[3], bool bf16) {
  product p = product_laid(r, s, 0, 1, bf16, rp_device_real(b->d));
  const int64_t lda = p.a.lda, ldc = p.a.ldc;
  float *const all = malloc((size_t)p.n[2] * sizeof(float));
  assert_true(rp_gemm_is_few(&p.a));
  product_run(&p, b);
  product_check(&p, name);
  memcpy(all, p.got, (size_t)p.n[2] * sizeof(float));
  for (int m = 0; m < s[0]; m++) {
    product alone = p;
    alone.a.M = 1;
    alone.n[0] = lda, alone.n[2] = ldc;
    alone.x[0] += m * lda, alone.x[2] += m * ldc;
    product_run(&alone, b);
    same_row(&alone, m, all + m * ldc, name, "alone");
  }
  const int bad = check_pick(r, 0, s[0] - 1);
  p.x[0][bad * lda + check_pick(r, 0, s[2] - 1)] = NAN;
  product_run(&p, b);
  for (int m = 0; m < s[0]; m++) {
    product row = p;
    row.got += m * ldc;
    if (m != bad) same_row(&row, m, all + m * ldc, name, "beside NaN");
    for (int n = 0; n < s[1] && m == bad; n++) assert_true(isnan(row.got[n]));
  }
  free(all);
  product_free(&p);
}

static void a_row_of_few_is_that_row_alone(void **state) {
  (void)state;
  for (int which = 0; which < CUDA_BOX; which++) { /* cuBLASLt may sum otherwise at another shape */
    box b;
    rp_rng r = check_rng(5);
    if (!box_open(&b, which)) continue;
    for (int i = 0; i < 2 * RP_FEW_ROWS; i++) {
      const int s[3] = {i / 2 + 1,
                        check_pick(&r, 0, 2) ? some_size(&r) : 2 * check_pick(&r, 0, 9) + 1,
                        i % 16 < 2 ? check_pick(&r, 250, 600) : some_size(&r)};
      one_of_few(&r, &b, names[which], s, i % 2);
    }
    box_close(&b);
  }
}

/* The same bits again, and no allocation, once a shape was seen. */
static void a_known_shape_repeats_without_memory(void **state) {
  (void)state;
  for (int which = 0; which < BOXES; which++) {
    box b;
    rp_rng r = check_rng(4);
    if (!box_open(&b, which)) continue;
    for (int i = 0; i < 4; i++) {
      const int s[3] = {check_pick(&r, 1, 99), check_pick(&r, 1, 99), check_pick(&r, 1, 300)};
      product p = product_make(&r, s, i % 2, rp_device_real(b.d));
      float *before = malloc((size_t)(p.n[2] + 1) * sizeof(float));
      product_run(&p, &b);
      memcpy(before, p.got, (size_t)p.n[2] * sizeof(float));
      rp_mem_fail_at(which == 3 ? 0 : 1); /* the guard keeps its list in memory */
      product_run(&p, &b);
      rp_mem_fail_at(0);
      assert_memory_equal(before, p.got, (size_t)p.n[2] * sizeof(float));
      free(before);
      product_free(&p);
    }
    box_close(&b);
  }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(products_are_the_sums),
    cmocka_unit_test(an_empty_sum_is_zero),
    cmocka_unit_test(nan_stays_in_its_row),
    cmocka_unit_test(a_row_of_few_is_that_row_alone),
    cmocka_unit_test(a_known_shape_repeats_without_memory),
};
CHECK_MAIN(tests)
