/* What `info --pattern` counts, against the definition of the visible set. */
#include "base/json.h"
#include "check.h"
#include "ratplus/info.h"

static bool sees(int D, int W, int I, int64_t t, int64_t s) {
  return s <= t && (s < I || t - s <= W || (D != -1 && (s + 1) % D == 0));
}

static double number(const rp_json *o, const char *key) {
  const rp_json *v = rp_json_get(o, key);
  assert_non_null(v);
  return v->real;
}

static void counts_are_the_definition(void **state) {
  (void)state;
  rp_rng r = check_rng(9);
  rp_error err = {0};
  for (int round = 0; round < 400; round++) {
    const int W = check_pick(&r, 0, 20), I = check_pick(&r, 0, 9), T = check_pick(&r, 1, 150);
    const int D = check_pick(&r, 0, 7) || !(W + I) ? check_pick(&r, 1, 40) : -1;
    char pattern[64], *text;
    rp_json_doc *doc;
    int64_t all = 0, last = 0, kept = 0;
    rp_snprintf(pattern, sizeof pattern, "D=%d,W=%d,I=%d", D, W, I);
    check_ok(rp_pattern_info(pattern, T, 1, 1, 1, &text, &err), err);
    check_ok(rp_json_parse(&doc, text, strlen(text), "info", &err), err);
    for (int64_t t = 0; t < T; t++) {
      for (int64_t s = 0; s <= t; s++) all += sees(D, W, I, t, s);
    }
    /* Kept after T tokens: what the query of position T sees, itself left out. */
    for (int64_t s = 0; s < T; s++) {
      last += sees(D, W, I, T - 1, s);
      kept += sees(D, W, I, T, s);
    }
    const rp_json *root = rp_json_root(doc);
    assert_true(number(root, "keys_last") == (double)last);
    assert_true(number(root, "keys_kept") == (double)kept);
    check_close(number(root, "keys_mean"), (double)all / T, 1e-9);
    check_close(number(root, "keys_last_initial") + number(root, "keys_last_local") +
                    number(root, "keys_last_dilated"),
                (double)last, 1e-9);
    rp_json_free(doc);
    rp_free(text);
  }
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(counts_are_the_definition)};
CHECK_MAIN(tests)
