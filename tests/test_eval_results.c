/* Results of evaluations read back: the pivot, what is missing, hostile files. */
#include "check.h"
#include "ratplus/results.h"

static const char *file_with(const char *name, const char *text) {
  rp_error err = {0};
  const char *path = check_path(name);
  check_ok(rp_file_replace(path, text, strlen(text), false, &err), err);
  return path;
}

static void rows_become_a_table_and_a_picture(void **state) {
  (void)state;
  rp_error err = {0};
  const char *a = file_with("a.jsonl",
                            "{\"label\":\"cut\",\"pattern\":\"D=1\",\"perplexity\":17.7,"
                            "\"cache_bytes_per_token\":4096}\n"
                            "{\"label\":\"cut\",\"pattern\":\"D=64\",\"perplexity\":54.5}\n");
  const char *b = file_with("b.jsonl",
                            "{\"label\":\"adapted\",\"pattern\":\"D=64\","
                            "\"perplexity\":40,\"cache_bytes_per_token\":64.5}");
  const char *paths[] = {a, b};
  const char *svg = check_path("out.svg");
  char *text;
  check_ok(rp_results_table(paths, 2, svg, &text, &err), err);
  assert_non_null(strstr(text, "17.70"));
  assert_non_null(strstr(text, "64.5"));
  const char *dense = strstr(text, "\nD=1 "), *sparse = strstr(text, "\nD=64");
  assert_true(dense && sparse && dense < sparse);
  assert_non_null(strstr(dense, " - ")); /* the adapted model was not measured there */
  assert_true(rp_is_file(svg));
  assert_true(rp_results_is(a));
  rp_free(text);
}

static void bad_files_are_named(void **state) {
  (void)state;
  rp_error err = {0};
  char *text;
  const char *p[] = {file_with("bad.jsonl", "{\"label\":\"a\"}\n")};
  check_fails(rp_results_table(p, 1, NULL, &text, &err), RP_BAD_DATA, err, "line 1");
  p[0] = file_with("torn.jsonl", "{\"label\":\"a\",\"pattern\":\"D=1\",\"perplexity\":2}\n{\"la");
  check_fails(rp_results_table(p, 1, NULL, &text, &err), RP_BAD_DATA, err, "line 2");
  p[0] = file_with("empty.jsonl", "");
  check_fails(rp_results_table(p, 1, NULL, &text, &err), RP_BAD_DATA, err, "holds no result");
  p[0] = check_path("none.jsonl");
  assert_false(rp_results_is(p[0]));
  assert_int_not_equal(rp_results_table(p, 1, NULL, &text, &err), RP_OK);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(rows_become_a_table_and_a_picture),
    cmocka_unit_test(bad_files_are_named),
};
CHECK_MAIN(tests)
