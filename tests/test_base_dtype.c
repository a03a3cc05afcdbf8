#include "check.h"

#include <math.h>

#include "base/dtype.h"

static uint32_t bits_of(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

static float from_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static void every_bfloat16_comes_back(void **state) {
  (void)state;
  for (uint32_t v = 0; v < 65536; v++) {
    float f = rp_bf16_to_f32((uint16_t)v);
    if (isnan(f))
      assert_true(isnan(rp_bf16_to_f32(rp_f32_to_bf16(f))));
    else
      assert_int_equal(rp_f32_to_bf16(f), v);
  }
}

/* The value of a float16 by its definition. */
static double f16_by_definition(uint32_t v) {
  int e = (int)(v >> 10 & 31), m = (int)(v & 1023);
  double x = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
  return v & 0x8000 ? -x : x;
}

static void every_float16_is_its_definition_and_comes_back(void **state) {
  (void)state;
  for (uint32_t v = 0; v < 65536; v++) {
    float f = rp_f16_to_f32((uint16_t)v);
    double want = f16_by_definition(v);
    if (isnan(want)) {
      assert_true(isnan(f));
      assert_true(isnan(rp_f16_to_f32(rp_f32_to_f16(f))));
      continue;
    }
    assert_true((double)f == want && !signbit(f) == !signbit(want));
    assert_int_equal(rp_f32_to_f16(f), v);
  }
}

/* The nearer of the two neighbours below and above in magnitude, the even one of equally near. */
static bool nearest(double x, uint32_t got, double (*value)(uint32_t), uint32_t infinity) {
  uint32_t sign = got & 0x8000, g = got & 0x7fff;
  double a = fabs(x), here = g >= infinity ? INFINITY : value(g);
  double top = value(infinity - 1), step = top - value(infinity - 2);
  if (!(sign != 0) != !signbit(x)) return false;
  if (isinf(here)) return a >= top + step / 2;
  double off = fabs(a - here);
  double up = g + 1 == infinity ? top + step : value(g + 1);
  double down = g ? value(g - 1) : -INFINITY;
  if (fabs(a - up) < off || fabs(a - down) < off) return false;
  if (fabs(a - up) == off || fabs(a - down) == off) return g % 2 == 0;
  return true;
}

static double bf16_value(uint32_t v) { return (double)rp_bf16_to_f32((uint16_t)v); }

static void rounding_is_to_the_nearest_even(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  for (int i = 0; i < 200000; i++) {
    /* random floats, and exact ties and their neighbours between two values of each type */
    uint32_t u = rp_rng_u32(&r);
    if (i % 3 == 1) u = (u & 0xffff0000u) | (0x8000u + (uint32_t)check_pick(&r, -1, 1));
    if (i % 3 == 2)
      u = bits_of((float)f16_by_definition(u & 0xffff)) + 0x1000u + (uint32_t)check_pick(&r, -1, 1);
    float f = from_bits(u);
    if (isnan(f)) {
      assert_true(isnan(rp_bf16_to_f32(rp_f32_to_bf16(f))));
      assert_true(isnan(rp_f16_to_f32(rp_f32_to_f16(f))));
      continue;
    }
    if (isinf(f)) continue;
    if (!nearest((double)f, rp_f32_to_bf16(f), bf16_value, 0x7f80))
      fail_msg("%a to bfloat16 is not %a", (double)f, bf16_value(rp_f32_to_bf16(f)));
    if (!nearest((double)f, rp_f32_to_f16(f), f16_by_definition, 0x7c00))
      fail_msg("%a to float16 is not %a", (double)f, f16_by_definition(rp_f32_to_f16(f)));
  }
}

/* The whole subnormal range and both ends of float16, every float32 there that matters. */
static void float16_ends(void **state) {
  (void)state;
  assert_int_equal(rp_f32_to_f16(65504.0f), 0x7bff);
  assert_int_equal(rp_f32_to_f16(65519.996f), 0x7bff);
  assert_int_equal(rp_f32_to_f16(65520.0f), 0x7c00);
  assert_int_equal(rp_f32_to_f16(-1e30f), 0xfc00);
  assert_int_equal(rp_f32_to_f16(0x1p-24f), 1);
  assert_int_equal(rp_f32_to_f16(0x1p-25f), 0); /* a tie with zero, which is even */
  assert_int_equal(rp_f32_to_f16(0x1.000002p-25f), 1);
  assert_int_equal(rp_f32_to_f16(0x1.8p-24f), 2);
  assert_int_equal(rp_f32_to_f16(-0x1p-30f), 0x8000);
  assert_int_equal(rp_f32_to_f16(0x1.ffcp-15f), 0x400); /* rounds up into the normal numbers */
  assert_int_equal(rp_f32_to_bf16(3.4028235e38f), 0x7f80);
}

static void names_and_sizes(void **state) {
  (void)state;
  assert_string_equal(rp_dtype_name(RP_BF16), "bfloat16");
  assert_string_equal(rp_dtype_name(RP_I64), "int64");
  assert_int_equal(rp_dtype_bytes(RP_F64), 8);
  assert_int_equal(rp_dtype_bytes(RP_F16), 2);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_bfloat16_comes_back),
    cmocka_unit_test(every_float16_is_its_definition_and_comes_back),
    cmocka_unit_test(rounding_is_to_the_nearest_even),
    cmocka_unit_test(float16_ends),
    cmocka_unit_test(names_and_sizes),
};
CHECK_MAIN(tests)
