/* Text as it is streamed: whole characters, stop strings, the same whatever the pieces; and what the
 * tokenizer's flags for prompts give. */
#include "check.h"
#include "ratplus/text.h"
#include "session/text_stream.h"
#include "text/spm.h"
#include "text/utf8.h"

#define MODEL "tests/data/text/llama.model"

/* Streams s[0, n) in random pieces; what was shown (free with rp_free). Every call shows whole
 * characters only. */
static char *stream(rp_rng *r, const char *s, size_t n, const char *const *stops, size_t n_stops,
                    size_t *len, int *hit) {
  rp_error err = {0};
  rp_text_stream t;
  rp_str out = {0};
  check_ok(rp_text_stream_open(&t, stops, n_stops, &err), err);
  for (size_t at = 0; at < n;) {
    const size_t before = out.len, most = n - at, piece = (size_t)check_pick(r, 0, 5);
    rp_text_stream_add(&t, s + at, piece < most ? piece : most, &out);
    at += piece < most ? piece : most;
    assert_true(rp_utf8_valid(out.s ? out.s + before : "", out.len - before));
  }
  rp_text_stream_end(&t, &out);
  *len = out.len;
  *hit = t.hit;
  rp_text_stream_close(&t);
  return rp_str_take(&out);
}

/* ---- characters ---- */

/* By the definition: each byte that begins no character is U+FFFD. */
static void expect_characters(const char *s, size_t n, rp_str *out) {
  for (size_t i = 0; i < n;) {
    const int k = rp_utf8_next(s + i, n - i);
    if (k)
      rp_str_addn(out, s + i, (size_t)k);
    else
      rp_str_add(out, "\xef\xbf\xbd");
    i += k ? (size_t)k : 1;
  }
}

/* Bytes that are often the inside of a character, often broken. */
static size_t random_bytes(rp_rng *r, char *s, size_t most) {
  static const char *const parts[] = {
      "a",    "\xc3\xbc",     "\xe2\x82\xac", "\xf0\x9f\x90\x80", "\xe2\x82", "\xf0\x9f\x90",
      "\x80", "\xed\xa0\x80", "\xc0\xaf",     "\xf4\x90\x80\x80", "\xff",     "\xe0\x80"};
  size_t n = 0;
  while (n + 4 <= most && check_pick(r, 0, 20)) {
    const char *p = parts[check_pick(r, 0, 11)];
    memcpy(s + n, p, strlen(p));
    n += strlen(p);
  }
  return n;
}

static void whole_characters_whatever_the_pieces(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  for (int k = 0; k < 3000; k++) {
    char s[80];
    size_t len;
    int hit;
    rp_str want = {0};
    const size_t n = random_bytes(&r, s, sizeof s);
    expect_characters(s, n, &want);
    char *got = stream(&r, s, n, NULL, 0, &len, &hit);
    assert_int_equal(len, want.len);
    if (len) assert_memory_equal(got, want.s, len);
    assert_int_equal(hit, -1);
    rp_free(got);
    rp_str_free(&want);
  }
}

static void beginnings_of_characters(void **state) {
  (void)state;
  /* Every string of 1 to 3 bytes against trying all that may follow. */
  int begins = 0;
  for (int a = 0x70; a < 256; a++) {
    for (int b = 0x7f; b < 0xc2; b++) {
      const char two[4] = {(char)a, (char)b, 0, 0};
      bool any = false;
      for (int c = 0x80; c < 0xc0 && !any; c++) {
        char s[4] = {(char)a, (char)b, (char)c, (char)0x80};
        any = rp_utf8_next(s, 3) == 3 || rp_utf8_next(s, 4) == 4;
        /* Three bytes: the fourth is anything. */
        if (rp_utf8_next(s, 4) == 4) assert_true(rp_utf8_begins(s, 3));
        if (rp_utf8_next(s, 3) == 3) assert_false(rp_utf8_begins(s, 3));
      }
      if (rp_utf8_next(two, 2) == 2) any = false;
      assert_int_equal(rp_utf8_begins(two, 2), any);
      begins += any;
    }
  }
  assert_true(begins > 400);
  assert_false(rp_utf8_begins("", 0));
  assert_false(rp_utf8_begins("a", 1));
  assert_false(rp_utf8_begins("\xc1", 1));
  assert_true(rp_utf8_begins("\xc2", 1));
  assert_true(rp_utf8_begins("\xe0", 1));
  assert_true(rp_utf8_begins("\xf4", 1));
  assert_false(rp_utf8_begins("\xf5", 1));
}

/* ---- stop strings ---- */

/* The first place where a stop string is complete decides, there the longest. */
static size_t cut_at(const char *s, size_t n, const char *const *stops, size_t n_stops) {
  for (size_t end = 1; end <= n; end++) {
    size_t most = 0;
    for (size_t i = 0; i < n_stops; i++) {
      const size_t k = strlen(stops[i]);
      if (k <= end && k > most && memcmp(s + end - k, stops[i], k) == 0) most = k;
    }
    if (most) return end - most;
  }
  return SIZE_MAX;
}

static void stop_strings_across_pieces(void **state) {
  (void)state;
  rp_rng r = check_rng(2);
  int hits = 0;
  for (int k = 0; k < 5000; k++) {
    char s[60], buf[3][8];
    const char *stops[3];
    const size_t n = (size_t)check_pick(&r, 0, 50), n_stops = (size_t)check_pick(&r, 1, 3);
    for (size_t i = 0; i < n; i++) s[i] = "aabc"[check_pick(&r, 0, 3)];
    for (size_t i = 0; i < n_stops; i++) {
      const int len = check_pick(&r, 1, 6);
      for (int j = 0; j < len; j++) buf[i][j] = "aabc"[check_pick(&r, 0, 3)];
      buf[i][len] = '\0';
      stops[i] = buf[i];
    }
    size_t len, cut = cut_at(s, n, stops, n_stops);
    int hit;
    char *got = stream(&r, s, n, stops, n_stops, &len, &hit);
    assert_int_equal(hit >= 0, cut != SIZE_MAX);
    assert_int_equal(len, cut == SIZE_MAX ? n : cut);
    if (len) assert_memory_equal(got, s, len);
    hits += hit >= 0;
    rp_free(got);
  }
  assert_true(hits > 1000 && hits < 4900);
}

/* Nothing is held back that cannot become a stop string. */
static void only_what_may_stop_is_held_back(void **state) {
  (void)state;
  rp_error err = {0};
  rp_text_stream t;
  rp_str out = {0};
  const char *stops[] = {"\n\n", "END"};
  check_ok(rp_text_stream_open(&t, stops, 2, &err), err);
  rp_text_stream_add(&t, "one\n", 4, &out);
  assert_string_equal(out.s, "one");
  rp_text_stream_add(&t, "EN", 2, &out);
  assert_string_equal(out.s, "one\n");
  rp_text_stream_add(&t, "x", 1, &out);
  assert_string_equal(out.s, "one\nENx");
  rp_text_stream_add(&t, "EEN", 3, &out);
  rp_text_stream_add(&t, "D and more", 10, &out);
  assert_string_equal(out.s, "one\nENxE");
  assert_int_equal(t.hit, 1);
  rp_text_stream_add(&t, "nothing", 7, &out);
  rp_text_stream_end(&t, &out);
  assert_string_equal(out.s, "one\nENxE");
  rp_text_stream_close(&t);
  check_fails(rp_text_stream_open(&t, (const char *const[]){""}, 1, &err), RP_USAGE, err, "empty");
  rp_str_free(&out);
}

/* ---- with a tokenizer ---- */

static rp_tokenizer *open_tokenizer(void) {
  rp_error err = {0};
  rp_tokenizer *t = NULL;
  check_ok(rp_tokenizer_open(&t, check_source(MODEL), &err), err);
  return t;
}

/* A text streamed token by token is the text that SentencePiece decodes at once. */
static void streamed_is_decoded(void **state) {
  (void)state;
  if (!RATPLUS_WITH_SENTENCEPIECE) skip();
  rp_error err = {0};
  rp_rng r = check_rng(3);
  rp_tokenizer *t = open_tokenizer();
  const int32_t space = 3 + ' '; /* its byte piece is no space in front of a word */
  for (int k = 0; k < 500; k++) {
    int32_t ids[40];
    const int n = check_pick(&r, 1, 40);
    rp_text_stream s;
    rp_str out = {0};
    char *want;
    size_t len;
    check_ok(rp_text_stream_open(&s, NULL, 0, &err), err);
    for (int i = 0; i < n; i++) { /* bytes pieces often: they lie in front */
      ids[i] = check_pick(&r, 3, check_pick(&r, 0, 1) ? 258 : rp_tokenizer_vocab_size(t) - 1);
      size_t bytes;
      const char *piece = rp_tokenizer_bytes(t, ids[i], &bytes);
      if (i == 0 && piece[0] == ' ' && ids[i] != space) piece++, bytes--;
      rp_text_stream_add(&s, piece, bytes, &out);
    }
    rp_text_stream_end(&s, &out);
    check_ok(rp_tokenizer_decode(t, ids, (size_t)n, &want, &len, &err), err);
    assert_int_equal(out.len, len);
    if (len) assert_memory_equal(out.s, want, len);
    rp_free(want);
    rp_str_free(&out);
    rp_text_stream_close(&s);
  }
  rp_tokenizer_close(t);
}

static void encodes(const rp_tokenizer *t, const char *text, int flags, const int32_t *want,
                    size_t n_want) {
  rp_error err = {0};
  int32_t *ids;
  size_t n;
  check_ok(rp_tokenizer_encode(t, text, strlen(text), flags, &ids, &n, &err), err);
  if (n != n_want || (n && memcmp(ids, want, n * sizeof *ids) != 0)) {
    for (size_t i = 0; i < n; i++) printf("# %zu: %d\n", i, ids[i]);
    fail_msg("\"%s\", flags %d: other ids", text, flags);
  }
  rp_free(ids);
}

/* A control piece is text unless asked for; then what stands around it is encoded by itself. */
static void control_pieces_in_a_prompt(void **state) {
  (void)state;
  if (!RATPLUS_WITH_SENTENCEPIECE) skip();
  rp_error err = {0};
  rp_tokenizer *t = open_tokenizer();
  int32_t *plain, *a, *b, want[64];
  size_t n, na, nb;
  check_ok(rp_tokenizer_encode(t, "one</s>two", 10, 0, &plain, &n, &err), err);
  for (size_t i = 0; i < n; i++) assert_int_not_equal(plain[i], rp_tokenizer_eos(t));
  rp_free(plain);
  check_ok(rp_tokenizer_encode(t, "one", 3, 0, &a, &na, &err), err);
  check_ok(rp_tokenizer_encode(t, "two", 3, 0, &b, &nb, &err), err);
  n = 0;
  memcpy(want, a, na * sizeof *a);
  n += na;
  want[n++] = rp_tokenizer_eos(t);
  memcpy(want + n, b, nb * sizeof *b);
  encodes(t, "one</s>two", RP_ENCODE_SPECIAL, want, n + nb);
  const int32_t both[] = {rp_tokenizer_bos(t), rp_tokenizer_eos(t), rp_tokenizer_eos(t)};
  encodes(t, "<s></s></s>", RP_ENCODE_SPECIAL, both, 3);
  encodes(t, "", RP_ENCODE_SPECIAL, NULL, 0);
  encodes(t, "one", RP_ENCODE_SPECIAL, a, na);
  /* Going on: no space in front, so "one two" in two parts is "one two". */
  check_ok(rp_tokenizer_encode(t, "one two", 7, 0, &plain, &n, &err), err);
  rp_free(b);
  check_ok(rp_tokenizer_encode(t, " two", 4, RP_ENCODE_CONTINUED, &b, &nb, &err), err);
  assert_int_equal(n, na + nb);
  assert_memory_equal(plain, a, na * sizeof *a);
  assert_memory_equal(plain + na, b, nb * sizeof *b);
  rp_free(plain);
  rp_free(a);
  rp_free(b);
  rp_tokenizer_close(t);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(whole_characters_whatever_the_pieces),
    cmocka_unit_test(beginnings_of_characters),
    cmocka_unit_test(stop_strings_across_pieces),
    cmocka_unit_test(only_what_may_stop_is_held_back),
    cmocka_unit_test(streamed_is_decoded),
    cmocka_unit_test(control_pieces_in_a_prompt),
};
CHECK_MAIN(tests)
