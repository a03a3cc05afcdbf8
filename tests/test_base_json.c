#include "check.h"

#include <math.h>

#include "base/json.h"

static void write_value(rp_str *b, const rp_json *v) {
  if (v->key) {
    rp_json_add_string(b, v->key);
    rp_str_add(b, ":");
  }
  switch (v->type) {
    case RP_JSON_NULL: rp_str_add(b, "null"); return;
    case RP_JSON_BOOL: rp_str_add(b, v->integer ? "true" : "false"); return;
    case RP_JSON_INT: rp_str_addf(b, "%lld", (long long)v->integer); return;
    case RP_JSON_REAL: rp_json_add_real(b, v->real); return;
    case RP_JSON_STRING: rp_json_add_string(b, v->string); return;
    case RP_JSON_ARRAY:
    case RP_JSON_OBJECT: break;
  }
  rp_str_add(b, v->type == RP_JSON_ARRAY ? "[" : "{");
  for (const rp_json *c = v->child; c; c = c->next) {
    write_value(b, c);
    if (c->next) rp_str_add(b, ",");
  }
  rp_str_add(b, v->type == RP_JSON_ARRAY ? "]" : "}");
}

/* Any Unicode scalar value but NUL. */
static void random_string(rp_rng *r, rp_str *b) {
  rp_str s = {0};
  for (int n = check_pick(r, 0, 12); n > 0; n--) {
    static const int tops[] = {0x7f, 0x7ff, 0xffff, 0x10ffff};
    int c = check_pick(r, 1, tops[check_pick(r, 0, 3)]);
    char u[5] = {0};
    if (c >= 0xd800 && c < 0xe000) c = '"';
    if (c < 0x80) {
      u[0] = (char)c;
    } else if (c < 0x800) {
      u[0] = (char)(0xc0 | c >> 6);
      u[1] = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
      u[0] = (char)(0xe0 | c >> 12);
      u[1] = (char)(0x80 | (c >> 6 & 63));
      u[2] = (char)(0x80 | (c & 63));
    } else {
      u[0] = (char)(0xf0 | c >> 18);
      u[1] = (char)(0x80 | (c >> 12 & 63));
      u[2] = (char)(0x80 | (c >> 6 & 63));
      u[3] = (char)(0x80 | (c & 63));
    }
    rp_str_add(&s, u);
  }
  rp_json_add_string(b, s.s ? s.s : "");
  rp_str_free(&s);
}

static void random_value(rp_rng *r, rp_str *b, int depth) {
  int kind = check_pick(r, 0, depth ? 6 : 4), n = check_pick(r, 0, 20);
  switch (kind) {
    case 0: rp_str_add(b, "null"); break;
    case 1: rp_str_add(b, n % 2 ? "true" : "false"); break;
    case 2: rp_str_addf(b, "%lld", (long long)((int64_t)rp_rng_u64(r) >> n)); break;
    case 3: rp_json_add_real(b, rp_rng_normal(r) * pow(10, n - 10)); break;
    case 4: random_string(r, b); break;
    default:
      rp_str_add(b, kind == 5 ? "[" : "{");
      for (int i = 0; i < n; i++) {
        if (i) rp_str_add(b, ",");
        if (kind == 6) rp_str_addf(b, "\"%d\\u00e9\":", i);
        random_value(r, b, depth - 1);
      }
      rp_str_add(b, kind == 5 ? "]" : "}");
  }
}

static void written_and_read_is_the_same(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  for (int i = 0; i < 300; i++) {
    rp_str text = {0}, again = {0};
    rp_error err = {0};
    rp_json_doc *doc = NULL;
    random_value(&r, &text, 3);
    check_ok(rp_json_parse(&doc, text.s, text.len, "text", &err), err);
    write_value(&again, rp_json_root(doc));
    rp_json_free(doc);
    rp_str third = {0};
    check_ok(rp_json_parse(&doc, again.s, again.len, "again", &err), err);
    write_value(&third, rp_json_root(doc));
    assert_string_equal(again.s, third.s);
    rp_json_free(doc);
    rp_str_free(&text);
    rp_str_free(&again);
    rp_str_free(&third);
  }
}

static void values_are_what_was_written(void **state) {
  (void)state;
  static const char text[] =
      " {\"a\" : [1, -2.5e-3, true,\r\n\tfalse, null], \"s\": \"x\\n\\u00e9\\ud83d\\ude00/\\/\","
      "\"big\": 9223372036854775808, \"least\": -9223372036854775808, \"e\": {}} ";
  rp_error err = {0};
  rp_json_doc *doc = NULL;
  check_ok(rp_json_parse(&doc, text, sizeof text - 1, "text", &err), err);
  const rp_json *root = rp_json_root(doc), *a = rp_json_get(root, "a");
  assert_int_equal(root->type, RP_JSON_OBJECT);
  assert_int_equal(root->count, 5);
  assert_int_equal(a->count, 5);
  assert_int_equal(a->child->type, RP_JSON_INT);
  assert_int_equal(a->child->integer, 1);
  assert_true(a->child->real == 1);
  assert_true(a->child->next->real == -0.0025);
  assert_int_equal(a->child->next->next->type, RP_JSON_BOOL);
  assert_string_equal(rp_json_get(root, "s")->string, "x\n\xc3\xa9\xf0\x9f\x98\x80//");
  assert_int_equal(rp_json_get(root, "s")->len, 10);
  assert_int_equal(rp_json_get(root, "big")->type, RP_JSON_REAL);
  assert_true(rp_json_get(root, "big")->real == 9223372036854775808.0);
  assert_true(rp_json_get(root, "least")->integer == INT64_MIN);
  assert_int_equal(rp_json_get(root, "e")->count, 0);
  assert_null(rp_json_get(root, "none"));
  assert_null(rp_json_get(a, "a"));
  rp_json_free(doc);
}

static void bad_text_gets_a_sentence_with_its_place(void **state) {
  (void)state;
  static const struct {
    const char *text, *part;
  } rows[] = {
      {"", "line 1, column 1: the text ends"},
      {"[1,\n 2,\n x]", "line 3, column 2"},
      {"{\"a\":1,\"b\":2,\"a\":3}", "\"a\" appears twice"},
      {"{\"a\":1,}", "a key in quotes"},
      {"{\"a\" 1}", "\":\" is expected"},
      {"{\"a\":1", "\",\" or \"}\""},
      {"[1,]", "a value is expected"},
      {"[1 2]", "\",\" or \"]\""},
      {"[1]]", "more text after"},
      {"01", "not a number"},
      {"-", "not a number"},
      {"1.", "not a number"},
      {"1e", "not a number"},
      {".5", "a value is expected"},
      {"+1", "a value is expected"},
      {"1e999", "out of range"},
      {"NaN", "a value is expected"},
      {"Infinity", "a value is expected"},
      {"nul", "a value is expected"},
      {"'a'", "a value is expected"},
      {"\"abc", "has no end"},
      {"\"a\\", "ends inside a string"},
      {"\"\\x\"", "unknown escape"},
      {"\"\\u12\"", "four hexadecimal"},
      {"\"\\u0000\"", "\\u0000 is not allowed"},
      {"\"\\ud800\"", "surrogate"},
      {"\"\\udc00\"", "surrogate"},
      {"\"\\ud800\\u0041\"", "surrogate"},
      {"\"\x01\"", "control character"},
      {"\"\xc0\x80\"", "UTF-8"},                 /* overlong */
      {"\"\xed\xa0\x80\"", "UTF-8"},             /* a surrogate */
      {"\"\xf4\x90\x80\x80\"", "UTF-8"},         /* past U+10FFFF */
      {"\"\xf0\x8f\xbf\xbf\"", "UTF-8"},         /* overlong */
      {"\"\xe2\x82\"", "UTF-8"},                 /* cut */
      {"\"\x80\"", "UTF-8"},                     /* without a beginning */
      {"\xef\xbb\xbf{}", "a value is expected"}, /* a byte order mark */
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    rp_json_doc *doc = NULL;
    rp_error err;
    check_fails(rp_json_parse(&doc, rows[i].text, strlen(rows[i].text), "FILE", &err), RP_BAD_DATA,
                err, rows[i].part);
    assert_true(rp_starts_with(err.text, "FILE: line "));
    assert_null(doc);
  }
}

static void depth_is_bounded(void **state) {
  (void)state;
  static char text[200002];
  rp_json_doc *doc = NULL;
  rp_error err = {0};
  memset(text, '[', 100000);
  memset(text + 100000, ']', 100000);
  check_fails(rp_json_parse(&doc, text, 200000, "bomb", &err), RP_BAD_DATA, err, "128 levels");
  check_ok(rp_json_parse(&doc, text + 100000 - 128, 256, "deep", &err), err);
  rp_json_free(doc);
  check_fails(rp_json_parse(&doc, text + 100000 - 129, 258, "deeper", &err), RP_BAD_DATA, err,
              "128 levels");
}

static void many_keys_are_quick_and_the_double_is_found(void **state) {
  (void)state;
  enum { KEYS = 200000 };
  rp_str b = {0};
  rp_str_add(&b, "{");
  for (int i = 0; i < KEYS; i++) rp_str_addf(&b, "\"key%d\":%d,", i * 7919 % KEYS, i);
  size_t end = b.len;
  rp_str_add(&b, "\"last\":0}");
  rp_json_doc *doc = NULL;
  rp_error err = {0};
  check_ok(rp_json_parse(&doc, b.s, b.len, "keys", &err), err);
  assert_int_equal(rp_json_root(doc)->count, KEYS + 1);
  rp_json_free(doc);
  b.len = end;
  rp_str_add(&b, "\"key17\":0}");
  check_fails(rp_json_parse(&doc, b.s, b.len, "keys", &err), RP_BAD_DATA, err, "\"key17\"");
  rp_str_free(&b);
}

/* Every prefix of a text, and the text with one byte changed: an answer, never a crash. */
static void damaged_text_never_crashes(void **state) {
  (void)state;
  static const char text[] = "{\"a\":[1,2.5e+3,{\"b\":\"\\u00e9\\ud83d\\ude00\"}],\"c\":true}";
  enum { N = sizeof text - 1 };
  rp_rng r = check_rng(2);
  for (int i = 0; i < 4000; i++) {
    size_t n = i < N ? (size_t)i : N;
    char *copy = malloc(n ? n : 1); /* exactly as long, for the sanitizer's sake */
    memcpy(copy, text, n);
    if (i >= N) copy[check_pick(&r, 0, N - 1)] = (char)check_pick(&r, 0, 255);
    rp_json_doc *doc = NULL;
    rp_error err = {0};
    rp_status st = rp_json_parse(&doc, copy, n, "text", &err);
    assert_true(st == RP_OK || st == RP_BAD_DATA);
    if (i < N) assert_int_equal(st, RP_BAD_DATA);
    rp_json_free(doc);
    free(copy);
  }
}

static void every_failed_allocation_is_reported(void **state) {
  (void)state;
  rp_str b = {0};
  rp_str_add(&b, "{");
  for (int i = 0; i < 600; i++) rp_str_addf(&b, "%s\"k%d\":[%d]", i ? "," : "", i, i);
  rp_str_add(&b, "}");
  size_t before = rp_mem_now();
  uint64_t n = 1;
  for (;; n++) {
    rp_json_doc *doc = NULL;
    rp_error err = {0};
    rp_mem_fail_at(n);
    rp_status st = rp_json_parse(&doc, b.s, b.len, "text", &err);
    rp_mem_fail_at(0);
    rp_json_free(doc);
    assert_int_equal(rp_mem_now(), before);
    if (!st) break;
    assert_int_equal(st, RP_NO_MEMORY);
    assert_non_null(strstr(err.text, "no memory"));
  }
  assert_true(n > 3);
  rp_str_free(&b);
}

static void strings_that_are_not_utf8_are_written_as_json(void **state) {
  (void)state;
  rp_str b = {0};
  rp_json_add_string(&b, "a\xff\"\\\x01\n\xc3\xa9\xe2\x82");
  assert_string_equal(b.s, "\"a\xef\xbf\xbd\\\"\\\\\\u0001\\n\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\"");
  rp_json_doc *doc = NULL;
  rp_error err = {0};
  check_ok(rp_json_parse(&doc, b.s, b.len, "text", &err), err);
  rp_json_free(doc);
  rp_str_clear(&b);
  rp_json_add_real(&b, INFINITY);
  rp_json_add_real(&b, NAN);
  assert_string_equal(b.s, "nullnull");
  rp_str_free(&b);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(written_and_read_is_the_same),
    cmocka_unit_test(values_are_what_was_written),
    cmocka_unit_test(bad_text_gets_a_sentence_with_its_place),
    cmocka_unit_test(depth_is_bounded),
    cmocka_unit_test(many_keys_are_quick_and_the_double_is_found),
    cmocka_unit_test(damaged_text_never_crashes),
    cmocka_unit_test(every_failed_allocation_is_reported),
    cmocka_unit_test(strings_that_are_not_utf8_are_written_as_json),
};
CHECK_MAIN(tests)
