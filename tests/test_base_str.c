#include "check.h"

#include <locale.h>
#include <math.h>

/* The decimal comma must really be there, or the case below shows nothing. */
static int enter_comma(void **state) {
  *state = strdup(setlocale(LC_ALL, NULL));
  static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8"};
  for (size_t i = 0; i < 3; i++)
    if (setlocale(LC_ALL, names[i]) && localeconv()->decimal_point[0] == ',') return 0;
  return 0;
}

static int leave_comma(void **state) {
  setlocale(LC_ALL, *state);
  free(*state);
  return 0;
}

static void numbers_ignore_the_locale(void **state) {
  (void)state;
  if (localeconv()->decimal_point[0] != ',') skip();
  char text[64];
  double x = 0;
  snprintf(text, sizeof text, "%.1f", 1.5);
  assert_string_equal(text, "1,5"); /* plain printf does follow it */
  rp_snprintf(text, sizeof text, "%.1f %g", 1.5, 0.25);
  assert_string_equal(text, "1.5 0.25");
  rp_str b = {0};
  rp_str_addf(&b, "%.3f", 1234567.125);
  assert_string_equal(b.s, "1234567.125");
  rp_str_free(&b);
  assert_true(rp_parse_f64("1.5", &x));
  assert_true(x == 1.5);
  assert_false(rp_parse_f64("1,5", &x));
  rp_format_f64(text, 0.1, false);
  assert_string_equal(text, "0.1");
  rp_format_bytes(text, 1.5 * 1024);
  assert_string_equal(text, "1.50 KiB");
}

static double random_double(rp_rng *r) {
  double x;
  do {
    uint64_t bits = rp_rng_u64(r);
    memcpy(&x, &bits, 8);
  } while (!isfinite(x));
  return x;
}

static void formatted_reals_read_back(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  for (int i = 0; i < 20000; i++) {
    double x = i % 2 ? random_double(&r) : (double)(int64_t)rp_rng_u64(&r) * pow(10, -(i % 25));
    char text[32];
    double back = 0;
    rp_format_f64(text, x, i % 3 == 0);
    assert_true(rp_parse_f64(text, &back));
    if (memcmp(&back, &x, 8) != 0) fail_msg("%s is not %a", text, x);
  }
}

static void reals_are_laid_out_as_python_does(void **state) {
  (void)state;
  static const struct {
    double x;
    bool point;
    const char *text;
  } rows[] = {
      {0.0008, false, "0.0008"},
      {1e-6, false, "1e-06"},
      {3, true, "3.0"},
      {3, false, "3"},
      {-0.0, true, "-0.0"},
      {0.1 + 0.2, false, "0.30000000000000004"},
      {1e15, true, "1000000000000000.0"},
      {1e16, true, "1e+16"},
      {123456789012345680.0, false, "1.2345678901234568e+17"},
      {0.0001, false, "0.0001"},
      {0.00001, false, "1e-05"},
      {5e-324, false, "5e-324"},
      {1.7976931348623157e308, false, "1.7976931348623157e+308"},
      {-2.5, true, "-2.5"},
      {100, true, "100.0"},
      {12345.678, false, "12345.678"},
      {NAN, true, "nan"},
      {INFINITY, true, "inf"},
      {-INFINITY, true, "-inf"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char text[32];
    rp_format_f64(text, rows[i].x, rows[i].point);
    assert_string_equal(text, rows[i].text);
  }
}

static void integers_are_read_whole(void **state) {
  (void)state;
  static const char *const bad[] = {"",
                                    "-",
                                    "+",
                                    " 1",
                                    "1 ",
                                    "1.0",
                                    "0x10",
                                    "1e3",
                                    "--1",
                                    "9223372036854775808",
                                    "-9223372036854775809",
                                    "1a",
                                    "nan"};
  int64_t v;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (rp_parse_i64(bad[i], &v)) fail_msg("\"%s\" was read as %lld", bad[i], (long long)v);
  assert_true(rp_parse_i64("9223372036854775807", &v) && v == INT64_MAX);
  assert_true(rp_parse_i64("-9223372036854775808", &v) && v == INT64_MIN);
  assert_true(rp_parse_i64("+7", &v) && v == 7);
  assert_true(rp_parse_i64("007", &v) && v == 7);
  rp_rng r = check_rng(2);
  for (int i = 0; i < 2000; i++) {
    int64_t x = (int64_t)rp_rng_u64(&r) >> check_pick(&r, 0, 63);
    char text[32];
    rp_snprintf(text, sizeof text, "%lld", (long long)x);
    assert_true(rp_parse_i64(text, &v) && v == x);
  }
}

static void reals_are_read_whole(void **state) {
  (void)state;
  static const char *const bad[] = {"",    ".",   "-",     "e5",    "1e",    "1e+",    " 1", "1 ",
                                    "inf", "nan", "0x1p3", "1e400", "1.2.3", "-1e400", "1f"};
  double v = 0;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (rp_parse_f64(bad[i], &v)) fail_msg("\"%s\" was read as %g", bad[i], v);
  assert_true(rp_parse_f64(".5", &v) && v == 0.5);
  assert_true(rp_parse_f64("5.", &v) && v == 5);
  assert_true(rp_parse_f64("-1E-3", &v) && v == -0.001);
  assert_true(rp_parse_f64("1e-400", &v) && v == 0);
}

static void a_string_grows_like_an_array(void **state) {
  (void)state;
  rp_rng r = check_rng(3);
  static char want[1 << 16];
  rp_str b = {0};
  size_t n = 0;
  while (n < sizeof want - 64) {
    int k = check_pick(&r, 0, 40);
    char piece[64];
    for (int i = 0; i < k; i++) piece[i] = (char)check_pick(&r, 'a', 'z');
    piece[k] = 0;
    memcpy(want + n, piece, (size_t)k + 1);
    n += (size_t)k;
    if (k % 3 == 0)
      rp_str_add(&b, piece);
    else if (k % 3 == 1)
      rp_str_addn(&b, piece, (size_t)k);
    else
      rp_str_addf(&b, "%s", piece);
  }
  assert_false(b.failed);
  assert_int_equal(b.len, n);
  assert_string_equal(b.s, want);
  char *taken = rp_str_take(&b);
  assert_null(b.s);
  assert_string_equal(taken, want);
  rp_free(taken);
  char *empty = rp_str_take(&b);
  assert_string_equal(empty, "");
  rp_free(empty);
}

static void failure_in_a_string_sticks(void **state) {
  (void)state;
  rp_str b = {0};
  rp_str_add(&b, "before");
  rp_mem_fail_at(1);
  for (int i = 0; i < 100; i++) rp_str_add(&b, "more and more");
  rp_mem_fail_at(0);
  assert_true(b.failed);
  rp_str_add(&b, "after");
  assert_null(rp_str_take(&b));
  assert_null(b.s);
}

static int full_distance(const char *a, const char *b) {
  if (!*a || !*b) return (int)(strlen(a) + strlen(b));
  int best = full_distance(a + 1, b + 1) + (*a != *b);
  int x = full_distance(a + 1, b) + 1, y = full_distance(a, b + 1) + 1;
  if (x < best) best = x;
  return y < best ? y : best;
}

static void edit_distance_is_the_recursive_one(void **state) {
  (void)state;
  rp_rng r = check_rng(4);
  for (int i = 0; i < 500; i++) {
    char w[2][8];
    for (int k = 0; k < 2; k++) {
      int n = check_pick(&r, 0, 6);
      for (int j = 0; j < n; j++) w[k][j] = (char)check_pick(&r, 'a', 'c');
      w[k][n] = 0;
    }
    int d = full_distance(w[0], w[1]), limit = check_pick(&r, 0, 6);
    assert_int_equal(rp_edit_distance(w[0], w[1], limit), d > limit ? limit + 1 : d);
  }
  char a[1000];
  memset(a, 'x', 999);
  a[999] = 0;
  assert_int_equal(rp_edit_distance(a, "x", 3), 4);
  assert_int_equal(rp_edit_distance(a, a, 3), 0);
}

static void bytes_are_written_for_people(void **state) {
  (void)state;
  char text[32];
  rp_format_bytes(text, 0);
  assert_string_equal(text, "0 B");
  rp_format_bytes(text, 1234567890);
  assert_string_equal(text, "1.15 GiB");
  rp_format_bytes(text, 1e30);
  assert_true(rp_ends_with(text, "EiB") && strlen(text) < 31);
}

static void ends_and_beginnings(void **state) {
  (void)state;
  assert_true(rp_starts_with("layers.3", "layers."));
  assert_false(rp_starts_with("lay", "layers"));
  assert_true(rp_ends_with("model.pth", ".pth"));
  assert_false(rp_ends_with("pth", ".pth"));
  assert_true(rp_ends_with("x", "") && rp_starts_with("x", ""));
}

static void a_sentence_can_wrap_itself(void **state) {
  (void)state;
  rp_error err = {0};
  assert_int_equal(rp_fail(&err, RP_BAD_DATA, "byte %d", 7), RP_BAD_DATA);
  assert_int_equal(rp_fail(&err, RP_USAGE, "in x: %s", err.text), RP_USAGE);
  assert_string_equal(err.text, "in x: byte 7");
  assert_int_equal(rp_fail_at(&err, "file %s", "f"), RP_USAGE);
  assert_string_equal(err.text, "file f: in x: byte 7");
  char longer[4000];
  memset(longer, 'y', sizeof longer - 1);
  longer[sizeof longer - 1] = 0;
  assert_int_equal(rp_fail(&err, RP_FAIL, "%s", longer), RP_FAIL);
  assert_int_equal(strlen(err.text), sizeof err.text - 1);
  assert_int_equal(rp_fail_at(&err, "%s", longer), RP_FAIL);
  assert_int_equal(strlen(err.text), sizeof err.text - 1);
  assert_int_equal(rp_fail(NULL, RP_NO_MEMORY, "x"), RP_NO_MEMORY);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(numbers_ignore_the_locale, enter_comma, leave_comma),
    cmocka_unit_test(formatted_reals_read_back),
    cmocka_unit_test(reals_are_laid_out_as_python_does),
    cmocka_unit_test(integers_are_read_whole),
    cmocka_unit_test(reals_are_read_whole),
    cmocka_unit_test(a_string_grows_like_an_array),
    cmocka_unit_test(failure_in_a_string_sticks),
    cmocka_unit_test(edit_distance_is_the_recursive_one),
    cmocka_unit_test(bytes_are_written_for_people),
    cmocka_unit_test(ends_and_beginnings),
    cmocka_unit_test(a_sentence_can_wrap_itself),
};
CHECK_MAIN(tests)
