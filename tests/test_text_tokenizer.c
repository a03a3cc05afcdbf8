#include "check.h"

#include "ratplus/text.h"
#include "text/encoder.h"
#include "text/sha256.h"
#include "text/utf8.h"

static rp_tokenizer *open_model(const char *name) {
  rp_error err = {0};
  rp_tokenizer *t;
  char path[256];
  snprintf(path, sizeof path, "tests/data/text/%s", name);
  check_ok(rp_tokenizer_open(&t, check_source(path), &err), err);
  return t;
}

#if RATPLUS_WITH_SENTENCEPIECE

typedef struct {
  char text[8192];
  size_t len, n[2];
  int32_t ids[2][8192];
} golden;

static size_t read_hex(const char *s, char *out) {
  size_t n = 0;
  for (; s[0] != '\t' && s[0] != '-'; s += 2) {
    char pair[3] = {s[0], s[1], 0};
    out[n++] = (char)strtol(pair, NULL, 16);
  }
  return n;
}

/* A line of cases.txt; false at the end. */
static bool read_case(FILE *f, golden *g) {
  static char line[1 << 17];
  if (!fgets(line, sizeof line, f)) return false;
  g->len = read_hex(line, g->text);
  char *at = strchr(line, '\t');
  for (int m = 0; m < 2; m++) {
    assert_non_null(at);
    g->n[m] = 0;
    char *end = ++at;
    for (; *at != '-' && *at != '\t' && *at != '\n'; at = end + (*end == ' '))
      g->ids[m][g->n[m]++] = (int32_t)strtol(at, &end, 10);
    if (*at == '-') at++;
  }
  return true;
}

/* Splits the text at random among the places where it may be cut. */
static void encode_in_parts(rp_encoder *e, const rp_tokenizer *t, const golden *g, rp_rng *r,
                            rp_ids *out) {
  rp_error err = {0};
  size_t from = 0;
  bool begins = true;
  out->n = 0;
  while (from < g->len) {
    size_t to = from;
    do to = rp_cut_next(t->cuts, g->text, to, g->len);
    while (to < g->len && check_pick(r, 0, 3));
    check_ok(rp_encoder_add(e, g->text + from, to - from, begins, out, &err), err);
    begins = false;
    from = to;
  }
}

static void ids_are_those_of_sentencepiece(void **state) {
  (void)state;
  static golden g;
  rp_tokenizer *t[2] = {open_model("llama.model"), open_model("unigram.model")};
  rp_encoder *e[2];
  rp_error err = {0};
  rp_ids ids = {0};
  rp_rng r = check_rng(1);
  int cases = 0;
  FILE *f = fopen(check_source("tests/data/text/cases.txt"), "r");
  assert_non_null(f);
  assert_true(t[0]->cuts.spaces && t[0]->cuts.newlines);
  assert_false(t[1]->cuts.spaces || t[1]->cuts.newlines);
  for (int m = 0; m < 2; m++) check_ok(rp_encoder_open(&e[m], t[m], &err), err);
  for (; read_case(f, &g); cases++) {
    for (int m = 0; m < 2; m++) {
      int32_t *whole;
      size_t n;
      check_ok(rp_tokenizer_encode(t[m], g.text, g.len, 0, &whole, &n, &err), err);
      assert_int_equal(n, g.n[m]);
      assert_memory_equal(whole, g.ids[m], n * sizeof *whole);
      rp_free(whole);
      encode_in_parts(e[m], t[m], &g, &r, &ids);
      assert_int_equal(ids.n, g.n[m]);
      if (ids.n) assert_memory_equal(ids.id, g.ids[m], ids.n * sizeof *ids.id);
    }
  }
  assert_true(cases > 80);
  fclose(f);
  rp_free(ids.id);
  for (int m = 0; m < 2; m++) rp_encoder_close(e[m]);
  for (int m = 0; m < 2; m++) rp_tokenizer_close(t[m]);
}

/* Random bytes rich in what the cuts look at: word by word is as whole. */
static void words_are_as_the_whole(void **state) {
  (void)state;
  static const char *const bits[] = {" ", " ",    "\n",   "\xe2\x96\x81", "the", "in", "e",  "1",
                                     "a", "\xc3", "\xff", "\xe6\x88\x91", "   ", "\r", "\t", "rec"};
  rp_tokenizer *t = open_model("llama.model");
  rp_encoder *e;
  rp_error err = {0};
  rp_rng r = check_rng(2);
  rp_ids ids = {0};
  check_ok(rp_encoder_open(&e, t, &err), err);
  for (int round = 0; round < 1500; round++) {
    rp_str text = {0};
    int32_t *whole;
    size_t n;
    for (int k = check_pick(&r, 0, 30); k > 0; k--) rp_str_add(&text, bits[check_pick(&r, 0, 15)]);
    check_ok(rp_tokenizer_encode(t, text.s ? text.s : "", text.len, 0, &whole, &n, &err), err);
    ids.n = 0;
    check_ok(rp_encoder_add(e, text.s, text.len, true, &ids, &err), err);
    assert_int_equal(ids.n, n);
    if (n) assert_memory_equal(ids.id, whole, n * sizeof *whole);
    rp_free(whole);
    rp_str_free(&text);
  }
  rp_free(ids.id);
  rp_encoder_close(e);
  rp_tokenizer_close(t);
}

static void specials_and_text_again(void **state) {
  (void)state;
  static const char text[] =
      "The recurrence \xf0\x9f\x98\x80 keeps\n  \xc3\x9c"
      "bermut, 42";
  rp_tokenizer *t = open_model("llama.model");
  rp_error err = {0};
  int32_t *ids;
  size_t n, len;
  char *back;
  rp_str streamed = {0};
  assert_int_equal(rp_tokenizer_vocab_size(t), 700);
  assert_int_equal(rp_tokenizer_unk(t), 0);
  assert_int_equal(rp_tokenizer_bos(t), 1);
  assert_int_equal(rp_tokenizer_eos(t), 2);
  check_ok(
      rp_tokenizer_encode(t, text, strlen(text), RP_ENCODE_BOS | RP_ENCODE_EOS, &ids, &n, &err),
      err);
  assert_int_equal(ids[0], 1);
  assert_int_equal(ids[n - 1], 2);
  check_ok(rp_tokenizer_decode(t, ids, n, &back, &len, &err), err);
  assert_string_equal(back, text);
  for (size_t i = 0; i < n; i++) {
    const char *s = rp_tokenizer_bytes(t, ids[i], &len);
    rp_str_addn(&streamed, s, len);
  }
  assert_string_equal(streamed.s,
                      " The recurrence \xf0\x9f\x98\x80 keeps\n  \xc3\x9c"
                      "bermut, 42");
  assert_null(rp_tokenizer_bytes(t, 700, &len));
  assert_null(rp_tokenizer_bytes(t, -1, &len));
  ids[1] = 700;
  rp_free(back);
  check_fails(rp_tokenizer_decode(t, ids, n, &back, &len, &err), RP_BAD_DATA, err, "position 1");
  rp_free(ids);
  rp_str_free(&streamed);
  rp_tokenizer_close(t);
}

static void broken_models_are_refused(void **state) {
  (void)state;
  rp_error err = {0};
  rp_tokenizer *t;
  char *model;
  size_t len;
  check_fails(rp_tokenizer_open(&t, NULL, &err), RP_USAGE, err, "--tokenizer");
  check_fails(rp_tokenizer_open(&t, check_path("none"), &err), RP_FAIL, err, "none");
  check_fails(rp_tokenizer_open(&t, check_dir(), &err), RP_USAGE, err, "no tokenizer.model");
  const char *path = check_path("t.model");
  check_ok(rp_file_replace(path, "hello", 5, false, &err), err);
  check_fails(rp_tokenizer_open(&t, path, &err), RP_BAD_DATA, err, "not a SentencePiece model");
  check_ok(rp_file_replace(path, "", 0, false, &err), err);
  check_fails(rp_tokenizer_open(&t, path, &err), RP_BAD_DATA, err, "t.model");
  check_ok(rp_file_read(check_source("tests/data/text/llama.model"), 1 << 20, &model, &len, &err),
           err);
  rp_rng r = check_rng(3);
  for (int round = 0; round < 100; round++) { /* cut off anywhere: refused or whole, no crash */
    const size_t n = (size_t)check_pick(&r, 0, (int)len - 1);
    path = check_path("t.model");
    check_ok(rp_file_replace(path, model, n, false, &err), err);
    if (!rp_tokenizer_open(&t, path, &err)) rp_tokenizer_close(t);
  }
  rp_free(model);
}

static const char *const train_lines[] = {
    "the cat sat on the mat and the dog ran after the cat",
    "a small vocabulary is learned from a few lines of text",
    "numbers like 1234 and 5678 are split into digits, each a piece",
};

static void train_text(const char *name) {
  rp_error err = {0};
  rp_str text = {0};
  for (int i = 0; i < 60; i++) rp_str_addf(&text, "%s\n", train_lines[i % 3]);
  check_ok(rp_file_replace(check_path(name), text.s, text.len, false, &err), err);
  rp_str_free(&text);
}

static void training_is_repeatable(void **state) {
  (void)state;
  rp_error err = {0};
  rp_tokenizer_train_opts o;
  char *first = NULL, *again;
  size_t n, m;
  train_text("t.txt");
  const char *input = check_path("t.txt");
  rp_tokenizer_train_defaults(&o);
  o.source.inputs = &input;
  o.source.n = 1;
  o.vocab_size = 320;
  o.overwrite = 1;
  for (int threads = 1; threads <= 4; threads++) {
    rp_threads_set(threads);
    o.out = check_path("made.model");
    check_ok(rp_tokenizer_train(&o, &err), err);
    check_ok(
        rp_file_read(o.out, 1 << 20, threads == 1 ? &first : &again, threads == 1 ? &n : &m, &err),
        err);
    if (threads == 1) continue;
    assert_int_equal(n, m);
    assert_memory_equal(first, again, n);
    rp_free(again);
  }
  rp_free(first);
  rp_threads_set(0);
  rp_tokenizer *t;
  int32_t *ids;
  check_ok(rp_tokenizer_open(&t, check_path("made.model"), &err), err);
  assert_int_equal(rp_tokenizer_vocab_size(t), 320);
  assert_int_equal(rp_tokenizer_eos(t), 2);
  assert_true(t->cuts.spaces && t->cuts.newlines);
  check_ok(rp_tokenizer_encode(t, "\xe2\x82\xac", 3, 0, &ids, &n, &err), err);
  assert_int_equal(n, 4); /* a space, and a character never seen as three bytes */
  rp_free(ids);
  rp_tokenizer_close(t);
}

static void training_refuses(void **state) {
  (void)state;
  rp_error err = {0};
  rp_tokenizer_train_opts o;
  train_text("t.txt");
  const char *input = check_path("t.txt");
  rp_tokenizer_train_defaults(&o);
  o.source.inputs = &input;
  o.source.n = 1;
  o.out = check_path("r.model");
  o.vocab_size = 100;
  check_fails(rp_tokenizer_train(&o, &err), RP_USAGE, err, "260");
  o.vocab_size = 262; /* fewer than the bytes and characters */
  check_fails(rp_tokenizer_train(&o, &err), RP_USAGE, err, "vocabulary of 262");
  o.vocab_size = 1 << 20;
  check_fails(rp_tokenizer_train(&o, &err), RP_USAGE, err, "vocabulary of 1048576");
  assert_false(rp_exists(o.out));
  o.vocab_size = 320;
  o.out = input;
  check_fails(rp_tokenizer_train(&o, &err), RP_USAGE, err, "--overwrite");
  input = check_path("blank.txt");
  o.out = check_path("r.model");
  check_ok(rp_file_replace(input, " \n\n", 3, false, &err), err);
  check_fails(rp_tokenizer_train(&o, &err), RP_BAD_DATA, err, "no text");
}

#else

static void refused_without_the_library(void **state) {
  (void)state;
  rp_error err = {0};
  rp_tokenizer *t;
  (void)open_model;
  check_fails(rp_tokenizer_open(&t, check_source("tests/data/text/llama.model"), &err), RP_FAIL,
              err, "without SentencePiece");
}

#endif

static void sha256_known_answers(void **state) {
  (void)state;
  static const char *const rows[][2] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"}};
  rp_sha256 s;
  char hex[65];
  for (int i = 0; i < 3; i++) {
    for (size_t cut = 0; cut <= strlen(rows[i][0]); cut++) {
      rp_sha256_init(&s);
      rp_sha256_add(&s, rows[i][0], cut);
      rp_sha256_add(&s, rows[i][0] + cut, strlen(rows[i][0]) - cut);
      rp_sha256_hex(&s, hex);
      assert_string_equal(hex, rows[i][1]);
    }
  }
  rp_sha256_init(&s);
  for (int i = 0; i < 1000; i++) rp_sha256_add(&s, "aaaaaaaaaa", 10);
  for (int i = 0; i < 990; i++)
    for (int k = 0; k < 1000; k++) rp_sha256_add(&s, "a", 1);
  rp_sha256_hex(&s, hex);
  assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void utf8_is_the_standard(void **state) {
  (void)state;
  static const char *const bad[] = {
      "\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
      "\xf8", "\xe2\x82", "\xc3(",        "\xff"};
  char s[4];
  for (uint32_t c = 0; c < 0x110000; c++) {
    const int n = rp_utf8_put(s, c);
    if (rp_utf8_next(s, (size_t)n) != n) fail_msg("U+%04X", c);
  }
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    assert_false(rp_utf8_valid(bad[i], strlen(bad[i])));
  assert_int_equal(rp_utf8_floor("a\xe2\x82\xac", 3), 1);
  assert_int_equal(rp_utf8_floor("a\xe2\x82\xac"
                                 "b",
                                 4),
                   4);
}

static const struct CMUnitTest tests[] = {
#if RATPLUS_WITH_SENTENCEPIECE
    cmocka_unit_test(ids_are_those_of_sentencepiece), cmocka_unit_test(words_are_as_the_whole),
    cmocka_unit_test(specials_and_text_again),        cmocka_unit_test(broken_models_are_refused),
    cmocka_unit_test(training_is_repeatable),         cmocka_unit_test(training_refuses),
#else
    cmocka_unit_test(refused_without_the_library),
#endif
    cmocka_unit_test(sha256_known_answers),           cmocka_unit_test(utf8_is_the_standard),
};
CHECK_MAIN(tests)
