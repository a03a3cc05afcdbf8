/* Lines of a text one by one: plain, JSON, packed, and what is no text. */
#include "check.h"
#include "ratplus/text.h"

static const char *write_file(const char *name, const void *data, size_t n) {
  rp_error err = {0};
  const char *path = check_path(name);
  check_ok(rp_file_replace(path, data, n, false, &err), err);
  return path;
}

/* The file gives exactly these lines. */
static void gives(const char *path, rp_text_format format, const char *const *want,
                  const size_t *len, const int64_t *number, size_t n) {
  rp_error err = {0};
  rp_lines *l;
  const char *text;
  size_t got;
  check_ok(rp_lines_open(&l, path, format, NULL, NULL, &err), err);
  assert_string_equal(rp_lines_name(l), path);
  for (size_t i = 0; i < n; i++) {
    check_ok(rp_lines_next(l, &text, &got, &err), err);
    assert_non_null(text);
    assert_int_equal(got, len ? len[i] : strlen(want[i]));
    assert_memory_equal(text, want[i], got);
    assert_int_equal(text[got], 0);
    assert_int_equal(rp_lines_number(l), number ? number[i] : (int64_t)i + 1);
  }
  for (int i = 0; i < 2; i++) { /* the end stays the end */
    check_ok(rp_lines_next(l, &text, &got, &err), err);
    assert_null(text);
  }
  rp_lines_close(l);
}

static void plain_lines(void **state) {
  (void)state;
  const char *const want[] = {"one", "", "three  ", "fo\0ur", "last"};
  const size_t len[] = {3, 0, 7, 5, 4};
  static const char all[] = "one\r\n\nthree  \nfo\0ur\nlast";
  gives(write_file("plain.txt", all, sizeof all - 1), RP_TEXT_AUTO, want, len, NULL, 5);
  gives(write_file("ended.txt", "a\nb\n", 4), RP_TEXT_AUTO, (const char *const[]){"a", "b"}, NULL,
        NULL, 2);
  gives(write_file("empty.txt", "", 0), RP_TEXT_AUTO, NULL, NULL, NULL, 0);
  gives(write_file("feed.txt", "\n", 1), RP_TEXT_AUTO, (const char *const[]){""}, NULL, NULL, 1);
}

/* Lines around and above what is read at once. */
static void long_lines(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  enum { LINES = 40 };
  static const int sizes[] = {0, 1, 65535, 65536, 65537, 131072, 200001};
  rp_error err = {0};
  rp_str all = {0};
  size_t at[LINES + 1] = {0};
  for (int i = 0; i < LINES; i++) {
    const int n = sizes[check_pick(&r, 0, 6)];
    for (int k = 0; k < n; k++) rp_str_addn(&all, &"abcdefgh"[(k + i) % 8], 1);
    rp_str_add(&all, "\n");
    at[i + 1] = all.len;
  }
  rp_lines *l;
  const char *path = write_file("long.txt", all.s, all.len), *text;
  size_t n;
  check_ok(rp_lines_open(&l, path, RP_TEXT_PLAIN, NULL, NULL, &err), err);
  for (int i = 0; i < LINES; i++) {
    check_ok(rp_lines_next(l, &text, &n, &err), err);
    assert_int_equal(n, at[i + 1] - at[i] - 1);
    if (n) assert_memory_equal(text, all.s + at[i], n);
  }
  check_ok(rp_lines_next(l, &text, &n, &err), err);
  assert_null(text);
  rp_lines_close(l);
  rp_str_free(&all);
}

static void json_lines(void **state) {
  (void)state;
  static const char all[] =
      "{\"text\": \"a\\nb\", \"x\": 1}\n\n  \r\n{\"text\": \"\"}\r\n{\"text\": \"z\"}";
  const char *const want[] = {"a\nb", "", "z"};
  const int64_t number[] = {1, 4, 5};
  gives(write_file("a.jsonl", all, sizeof all - 1), RP_TEXT_AUTO, want, NULL, number, 3);
  rp_error err = {0};
  rp_lines *l;
  static const char deep[] = "{\"q\": {\"a\": \"deep\"}}\n{\"q\": 1}\n";
  const char *text, *path = write_file("b.txt", deep, sizeof deep - 1);
  size_t n;
  check_ok(rp_lines_open(&l, path, RP_TEXT_JSONL, "q.a", NULL, &err), err);
  check_ok(rp_lines_next(l, &text, &n, &err), err);
  assert_string_equal(text, "deep");
  check_fails(rp_lines_next(l, &text, &n, &err), RP_BAD_DATA, err, "b.txt: line 2");
  rp_lines_close(l);
}

static void refused(void **state) {
  (void)state;
  rp_error err;
  rp_lines *l;
  check_fails(rp_lines_open(&l, check_path("nowhere"), RP_TEXT_AUTO, NULL, NULL, &err), RP_FAIL,
              err, "nowhere");
  const char *path = write_file("utf16.txt", "\xff\xfe\x61\x00\x62\x00", 6);
  assert_int_equal(rp_lines_open(&l, path, RP_TEXT_AUTO, NULL, NULL, &err), RP_BAD_DATA);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(plain_lines),
    cmocka_unit_test(long_lines),
    cmocka_unit_test(json_lines),
    cmocka_unit_test(refused),
};
CHECK_MAIN(tests)
