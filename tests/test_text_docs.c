#include "check.h"

#include "text/docs.h"
#include "text/jsonl.h"
#include "text/unpack.h"
#if RATPLUS_WITH_ZLIB
#include <zlib.h>
#endif
#if RATPLUS_WITH_ZSTD
#include <zstd.h>
#endif

static const char *write_file(const char *name, const void *data, size_t n) {
  rp_error err = {0};
  const char *path = check_path(name);
  check_ok(rp_file_replace(path, data, n, false, &err), err);
  return path;
}

static rp_status read_all(const char *path, rp_str *out, rp_error *err) {
  rp_unpack *r;
  char buf[777];
  size_t n = 1;
  rp_str_clear(out);
  RP_TRY(rp_unpack_open(&r, path, NULL, err));
  rp_status st = RP_OK;
  while (n && !(st = rp_unpack_read(r, buf, sizeof buf, &n, err))) rp_str_addn(out, buf, n);
  rp_unpack_close(r);
  return st;
}

static void random_text(rp_rng *r, rp_str *b, int n) {
  rp_str_clear(b);
  rp_str_add(b, "");
  while ((int)b->len < n) rp_str_addf(b, "%x ", rp_rng_u32(r) % (1u << check_pick(r, 1, 20)));
}

#if RATPLUS_WITH_ZLIB
static void add_gzip(rp_str *out, const char *s, size_t n) {
  z_stream z = {0};
  static unsigned char buf[1 << 20];
  assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  z.next_in = (unsigned char *)(uintptr_t)s;
  z.avail_in = (uInt)n;
  z.next_out = buf;
  z.avail_out = sizeof buf;
  assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
  rp_str_addn(out, (char *)buf, sizeof buf - z.avail_out);
  deflateEnd(&z);
}
#endif

#if RATPLUS_WITH_ZSTD
static void add_zstd(rp_str *out, const char *s, size_t n) {
  static char buf[1 << 20];
  const size_t len = ZSTD_compress(buf, sizeof buf, s, n, 3);
  assert_false(ZSTD_isError(len));
  rp_str_addn(out, buf, len);
}
#endif

typedef void (*packer)(rp_str *out, const char *s, size_t n);
static const packer packers[] = {
#if RATPLUS_WITH_ZLIB
    add_gzip,
#endif
#if RATPLUS_WITH_ZSTD
    add_zstd,
#endif
    NULL};

/* Packed in one or several members it reads as what went in; cut off anywhere it is an error. */
static void packed_files_read_as_their_text(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  rp_error err = {0};
  rp_str text = {0}, more = {0}, packed = {0}, got = {0};
  for (int round = 0; round < 12; round++) {
    random_text(&r, &text,
                check_pick(&r, 0, 1) ? check_pick(&r, 0, 40) : check_pick(&r, 0, 300000));
    random_text(&r, &more, check_pick(&r, 1, 3000));
    for (size_t p = 0; packers[p]; p++) {
      rp_str_clear(&packed);
      packers[p](&packed, text.s, text.len);
      const size_t first = packed.len;
      packers[p](&packed, more.s, more.len);
      check_ok(read_all(write_file("p", packed.s, packed.len), &got, &err), err);
      assert_int_equal(got.len, text.len + more.len);
      assert_memory_equal(got.s, text.s, text.len);
      assert_memory_equal(got.s + text.len, more.s, more.len);
      size_t cut = (size_t)check_pick(&r, 5, (int)packed.len - 1);
      if (cut == first) cut++;
      check_fails(read_all(write_file("p", packed.s, cut), &got, &err), RP_BAD_DATA, err,
                  "cut off");
      packed.s[first / 2] ^= 0x55;
      packed.s[first - 1] ^= 0x11;
      rp_status st = read_all(write_file("p", packed.s, packed.len), &got, &err);
      assert_true(st == RP_OK || st == RP_BAD_DATA);
    }
  }
  rp_str_free(&text);
  rp_str_free(&more);
  rp_str_free(&packed);
  rp_str_free(&got);
}

static void other_files_are_named(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    size_t n;
    const char *part;
  } rows[] = {{"PAR1....", 8, "Parquet"},
              {"ARROW1..", 8, "Arrow"},
              {"BZh91AY", 7, "bzip2"},
              {"\xfd"
               "7zXZ\0",
               6, "xz"},
              {"PK\3\4", 4, "zip"},
              {"\xff\xfeh\0", 4, "UTF-16"},
              {"\xfe\xff\0h", 4, "UTF-16"}};
  rp_error err = {0};
  rp_str got = {0};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    check_fails(read_all(write_file("o", rows[i].bytes, rows[i].n), &got, &err), RP_BAD_DATA, err,
                rows[i].part);
  check_fails(read_all(check_dir(), &got, &err), RP_USAGE, err, "folder");
  check_fails(read_all(check_path("nothing"), &got, &err), RP_FAIL, err, "nothing");
  check_ok(read_all(write_file("o", "\xef\xbb\xbfhi\0x", 7), &got, &err), err);
  assert_int_equal(got.len, 4); /* the mark is gone, the NUL is not */
  assert_memory_equal(got.s, "hi\0x", 4);
  check_ok(read_all(write_file("o", "", 0), &got, &err), err);
  assert_int_equal(got.len, 0);
  rp_str_free(&got);
}

static void json_fields_are_found(void **state) {
  (void)state;
  static const struct {
    const char *line, *field, *text;
  } rows[] = {
      {"{\"text\":\"hi\"}", "text", "hi"},
      {" { \"a\" : [1, -2.5e+3, {\"text\":\"no\"}], \"text\" : \"x\\n\\t\\\"\\\\\\/\" } \r", "text",
       "x\n\t\"\\/"},
      {"{\"text\":\"\\u00e9\\u20ac\\ud83d\\ude00\\ud83d!\\udE00\"}", "text",
       "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xef\xbf\xbd!\xef\xbf\xbd"},
      {"{\"t\\u0065xt\":\"escaped key\"}", "text", "escaped key"},
      {"{\"text\":\"first\",\"text\":\"last\"}", "text", "last"},
      {"{\"text\":null}", "text", ""},
      {"{\"a\":{\"b\":{\"c\":\"deep\"}}}", "a.b.c", "deep"},
      {"{\"a.b\":\"flat\"}", "a.b", "flat"},
      {"{\"a\":{},\"a.b\":\"flat\"}", "a.b", "flat"},
      {"{\"a\":true,\"b\":false,\"c\":null,\"d\":0,\"e\":[],\"f\":{},\"text\":\"\"}", "text", ""},
  };
  rp_str out = {0};
  rp_error err = {0};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    rp_str_clear(&out);
    rp_str_add(&out, "");
    check_ok(rp_jsonl_text(rows[i].line, strlen(rows[i].line), rows[i].field, &out, &err), err);
    assert_string_equal(out.s, rows[i].text);
  }
  rp_str_clear(&out);
  check_ok(rp_jsonl_text("{\"text\":\"a\\u0000b\"}", 19, "text", &out, &err), err);
  assert_memory_equal(out.s, "a\0b", 4);
  assert_int_equal(out.len, 3);
  rp_str_free(&out);
}

static void bad_json_is_refused(void **state) {
  (void)state;
  static const char *const rows[][2] = {{"", "column 1"},
                                        {"[1]", "JSON object"},
                                        {"{", "column 2"},
                                        {"{\"text\"", "colon"},
                                        {"{\"text\":", "line ends"},
                                        {"{\"text\":\"x", "line ends"},
                                        {"{\"text\":\"x\"", "line ends"},
                                        {"{\"text\":\"x\"}}", "after the object"},
                                        {"{\"text\":\"x\",}", "double quotes"},
                                        {"{\"text\":\"a\tb\"}", "control character"},
                                        {"{\"text\":\"\\x\"}", "escape"},
                                        {"{\"text\":\"\\u12g4\"}", "hexadecimal"},
                                        {"{\"text\":\"\\", "line ends"},
                                        {"{\"text\":12}", "not a string"},
                                        {"{\"text\":{\"a\":\"b\"}}", "not a string"},
                                        {"{\"body\":\"x\",\"id\":1}", "there are: body, id"},
                                        {"{}", "there are: none"},
                                        {"{\"a\":01,\"text\":\"\"}", "value"},
                                        {"{\"a\":1.,\"text\":\"\"}", "point"},
                                        {"{\"a\":1e,\"text\":\"\"}", "exponent"},
                                        {"{\"a\":tru,\"text\":\"\"}", "value"},
                                        {"{\"a\":NaN,\"text\":\"\"}", "value"},
                                        {"{'a':1}", "double quotes"},
                                        {"{\"a\":[1 2],\"text\":\"\"}", "comma"}};
  rp_str out = {0}, deep = {0};
  rp_error err = {0};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    check_fails(rp_jsonl_text(rows[i][0], strlen(rows[i][0]), "text", &out, &err), RP_BAD_DATA, err,
                rows[i][1]);
  rp_str_add(&deep, "{\"a\":");
  for (int i = 0; i < 100000; i++) rp_str_add(&deep, "[");
  check_fails(rp_jsonl_text(deep.s, deep.len, "text", &out, &err), RP_BAD_DATA, err, "nesting");
  rp_str_free(&deep);
  rp_str_free(&out);
}

/* The documents of `path` as one string: <begins|ends> text. */
static void show_docs(const rp_text_source *src, const char *path, rp_cuts cuts, rp_str *out,
                      int64_t *empty) {
  rp_docs *d;
  rp_batch b = {0};
  rp_error err = {0};
  rp_str_clear(out);
  rp_str_add(out, "");
  *empty = 0;
  check_ok(rp_docs_open(&d, src, path, cuts, NULL, &err), err);
  do {
    check_ok(rp_docs_next(d, &b, &err), err);
    *empty += b.empty;
    for (size_t i = 0; i < b.n; i++) {
      if (b.pieces[i].begins) rp_str_add(out, "[");
      rp_str_addn(out, b.text.s + b.pieces[i].at, b.pieces[i].len);
      if (b.pieces[i].ends) rp_str_addf(out, "]%llu", (unsigned long long)b.pieces[i].line);
    }
  } while (b.n);
  rp_batch_free(&b);
  rp_docs_close(d);
}

static void documents_are_split(void **state) {
  (void)state;
  static const struct {
    const char *text, *separator, *want;
    int empty;
  } rows[] = {{"", NULL, "", 0},
              {"a\nb\n", NULL, "[a\nb\n]1", 0},
              {" \n\t ", NULL, "", 1},
              {"a--b\n--c", "--", "[a]1[b\n]1[c]2", 0},
              {"a----b--", "--", "[a]1[b]1", 1},
              {"--a--", "--", "[a]1", 1},
              {"a\n\n\nb", "\n\n", "[a]1[\nb]3", 0},
              {"a-b", "--", "[a-b]1", 0},
              {"a<|e|>\n<|e|>b<|e|>\n", "<|e|>", "[a]1[b]2", 2}};
  rp_str out = {0};
  int64_t empty;
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    const rp_text_source s = {.separator = rows[i].separator,
                              .separator_len = rows[i].separator ? strlen(rows[i].separator) : 0};
    show_docs(&s, write_file("d.txt", rows[i].text, strlen(rows[i].text)), (rp_cuts){true, true},
              &out, &empty);
    assert_string_equal(out.s, rows[i].want);
    assert_int_equal(empty, rows[i].empty);
  }
  const rp_text_source json = {.format = RP_TEXT_JSONL, .field = "text"};
  show_docs(&json, write_file("d", "{}\n\n  \r\n{\"a\":1}", 15), (rp_cuts){true, true}, &out,
            &empty);
  assert_string_equal(out.s, "[{}]1[{\"a\":1}]4");
  rp_str_free(&out);
}

/* Large inputs, whatever the places where parts are cut, hold the same documents. */
static void long_documents_come_in_parts(void **state) {
  (void)state;
  rp_rng r = check_rng(2);
  rp_str text = {0}, want = {0}, got = {0};
  const rp_text_source s = {.separator = "<end>", .separator_len = 5};
  for (int round = 0; round < 6; round++) {
    int64_t empty;
    rp_str_clear(&text);
    rp_str_clear(&want);
    for (int k = check_pick(&r, 1, 6); k > 0; k--) {
      const size_t begin = text.len;
      const int len = check_pick(&r, 1, 700000);
      while ((int)(text.len - begin) < len)
        rp_str_addf(&text, "%x%s", rp_rng_u32(&r), check_pick(&r, 0, 9) ? " " : "<en ");
      rp_str_add(&want, "[");
      rp_str_addn(&want, text.s + begin, text.len - begin);
      rp_str_add(&want, "]1");
      rp_str_add(&text, "<end>");
    }
    const char *path = write_file("long.txt", text.s, text.len);
    show_docs(&s, path, (rp_cuts){true, true}, &got, &empty);
    assert_int_equal(got.len, want.len);
    assert_memory_equal(got.s, want.s, want.len);
    show_docs(&s, path, (rp_cuts){false, false}, &got, &empty);
    assert_int_equal(got.len, want.len);
    assert_memory_equal(got.s, want.s, want.len);
  }
  rp_str_free(&text);
  rp_str_free(&want);
  rp_str_free(&got);
}

static void formats_are_known_by_name(void **state) {
  (void)state;
  static const struct {
    const char *path;
    bool jsonl;
  } rows[] = {{"a.jsonl", true}, {"a.json.gz", true},   {"a.ndjson.zst", true},
              {"a.txt", false},  {"-", false},          {".gz", false},
              {"jsonl", false},  {"a.jsonl.txt", false}};
  rp_text_source s = {.format = RP_TEXT_AUTO};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    assert_int_equal(rp_text_is_jsonl(&s, rows[i].path), rows[i].jsonl);
  s.format = RP_TEXT_JSONL;
  assert_true(rp_text_is_jsonl(&s, "-"));
  s.format = RP_TEXT_PLAIN;
  assert_false(rp_text_is_jsonl(&s, "a.jsonl"));
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(packed_files_read_as_their_text),
    cmocka_unit_test(other_files_are_named),
    cmocka_unit_test(json_fields_are_found),
    cmocka_unit_test(bad_json_is_refused),
    cmocka_unit_test(documents_are_split),
    cmocka_unit_test(long_documents_come_in_parts),
    cmocka_unit_test(formats_are_known_by_name),
};
CHECK_MAIN(tests)
