/* Charts: what is drawn, what is left out, and that hostile labels stay text. */
#include <math.h>

#include "base/chart.h"
#include "check.h"

static int count(const char *text, const char *part) {
  int n = 0;
  for (const char *s = text; (s = strstr(s, part)); s += strlen(part)) n++;
  return n;
}

static void every_series_is_drawn_and_named(void **state) {
  (void)state;
  rp_error err = {0};
  const double x[] = {0, 1, 2}, y[] = {17.7, 36.5, 54.5}, z[] = {12.3, NAN, 12.7};
  const rp_series s[] = {{"attention <cut>", x, y, 3, false}, {"RAT+ & more", x, z, 3, true}};
  const char *const names[] = {"D=1", "D=16", "D=64"};
  const rp_chart c = {.title = "T",
                      .x_label = "pattern",
                      .y_label = "perplexity",
                      .log_y = true,
                      .categories = names,
                      .n_categories = 3,
                      .series = s,
                      .n = 2};
  char *svg;
  check_ok(rp_chart_svg(&c, &svg, &err), err);
  assert_non_null(strstr(svg, "attention &lt;cut>"));
  assert_non_null(strstr(svg, "RAT+ &amp; more"));
  for (int i = 0; i < 3; i++) assert_int_equal(count(svg, names[i]) >= 1, 1);
  assert_int_equal(count(svg, "<circle"), 4);  /* three points and the legend */
  assert_int_equal(count(svg, "<rect x="), 3); /* NaN is left out */
  assert_null(strstr(svg, "nan"));
  rp_free(svg);
}

static void nothing_to_show_is_an_error(void **state) {
  (void)state;
  rp_error err = {0};
  const double x[] = {1}, y[] = {-1};
  const rp_series s[] = {{"a", x, y, 1, false}};
  const rp_chart c = {"", "", "", .log_x = true, .log_y = true, .series = s, .n = 1};
  char *svg;
  check_fails(rp_chart_svg(&c, &svg, &err), RP_USAGE, err, "without a single point");
}

/* A value lies where a log axis puts it: the middle one of 1, 10, 100 in the middle. */
static void a_log_axis_is_logarithmic(void **state) {
  (void)state;
  rp_error err = {0};
  const double x[] = {1, 10, 100}, y[] = {1, 10, 100};
  const rp_series s[] = {{"a", x, y, 3, false}};
  const rp_chart c = {"", "", "", .log_x = true, .log_y = true, .series = s, .n = 1};
  char *svg;
  double cx[3], cy[3];
  check_ok(rp_chart_svg(&c, &svg, &err), err);
  const char *at = svg;
  for (int i = 0; i < 3; i++) {
    at = strstr(at, "<circle") + 1;
    char x_text[16], y_text[16]; /* sscanf's own numbers would follow the locale */
    assert_int_equal(sscanf(at, "circle cx=\"%15[0-9.]\" cy=\"%15[0-9.]\"", x_text, y_text), 2);
    assert_true(rp_parse_f64(x_text, &cx[i]) && rp_parse_f64(y_text, &cy[i]));
  }
  check_close(cx[1], (cx[0] + cx[2]) / 2, 0.2);
  check_close(cy[1], (cy[0] + cy[2]) / 2, 0.2);
  assert_true(cx[0] < cx[2] && cy[0] > cy[2]);
  rp_free(svg);
}

/* Lengths of sequences are powers of two and read as such; long labels get room. */
static void lengths_and_long_labels(void **state) {
  (void)state;
  rp_error err = {0};
  const double x[] = {512, 4096, 262144}, y[] = {1, 10, 1e6};
  rp_series s[] = {{"a", x, y, 3, false}};
  rp_chart c = {"", "", "", .log_x = true, .log_y = true, .binary_x = true, .series = s, .n = 1};
  char *narrow, *wide;
  check_ok(rp_chart_svg(&c, &narrow, &err), err);
  assert_non_null(strstr(narrow, ">512<"));
  assert_non_null(strstr(narrow, ">4K<"));
  assert_non_null(strstr(narrow, ">256K<"));
  assert_non_null(strstr(narrow, ">1000000<"));
  assert_non_null(strstr(narrow, "width=\"876\""));
  s[0].label = "bfloat16 D=16,W=256,I=4 x8: T^1.00";
  check_ok(rp_chart_svg(&c, &wide, &err), err);
  assert_null(strstr(wide, "width=\"876\""));
  rp_free(narrow);
  rp_free(wide);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_series_is_drawn_and_named),
    cmocka_unit_test(nothing_to_show_is_an_error),
    cmocka_unit_test(a_log_axis_is_logarithmic),
    cmocka_unit_test(lengths_and_long_labels),
};
CHECK_MAIN(tests)
