/* tokenize: orders, shares of a corpus, files whatever the threads, resumption, bad input.
 * label: tsan */
#include "check.h"

#include "ratplus/text.h"
#include "text/join.h"

/* rp_shuffled is a bijection, and another one for another seed. */
static void shuffles_are_permutations(void **state) {
  (void)state;
  static const uint64_t sizes[] = {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4096, 4097};
  bool seen[4097];
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    uint64_t moved = 0, differs = 0;
    memset(seen, 0, sizeof seen);
    for (uint64_t k = 0; k < sizes[i]; k++) {
      const uint64_t p = rp_shuffled(7, sizes[i], k);
      assert_true(p < sizes[i] && !seen[p]);
      seen[p] = true;
      moved += p != k;
      differs += p != rp_shuffled(8, sizes[i], k);
    }
    if (sizes[i] >= 100) assert_true(moved > sizes[i] * 9 / 10 && differs > sizes[i] * 9 / 10);
  }
  for (int i = 0; i < 100; i++) {
    const uint64_t n = ((uint64_t)1 << 40) + 12345;
    assert_true(rp_shuffled(1, n, (uint64_t)i) < n);
  }
}

#if RATPLUS_WITH_SENTENCEPIECE

enum { FILES = 3, DOCS = 40, EOS = 2 };

typedef struct {
  char *path[FILES];
  rp_tokenizer *t;
  char model[512];
  int32_t *ids[FILES * DOCS + 1]; /* of each document, EOS included */
  size_t n[FILES * DOCS + 1];
  size_t docs, total;
} corpus;

static void add_word(rp_str *b, rp_rng *r) {
  static const char *const words[] = {"the", "recurrence", "Fuchs", "über",   "1234",
                                      "\n",  "x  y",       "日月",  "e-mail,"};
  rp_str_addf(b, "%s%s", words[check_pick(r, 0, 8)], check_pick(r, 0, 5) ? " " : "");
}

/* Three files of documents split at "<|end|>", some of them blank, some long. */
static void make_corpus(corpus *c, uint64_t stream) {
  rp_rng r = check_rng(stream);
  rp_error err = {0};
  memset(c, 0, sizeof *c);
  snprintf(c->model, sizeof c->model, "%s", check_source("tests/data/text/llama.model"));
  check_ok(rp_tokenizer_open(&c->t, c->model, &err), err);
  for (int f = 0; f < FILES; f++) {
    char name[32];
    rp_str text = {0};
    for (int d = 0; d < DOCS; d++) {
      rp_str doc = {0};
      rp_str_add(&doc, "");
      /* One document too long for a batch, some of white space. */
      int words = f == 1 && d == 7 ? 60000 : check_pick(&r, 0, 9) ? check_pick(&r, 1, 60) : 0;
      if (words == 0) rp_str_add(&doc, " \n");
      for (; words > 0; words--) add_word(&doc, &r);
      rp_str_add(&text, doc.s);
      rp_str_add(&text, "<|end|>");
      bool blank = true;
      for (size_t i = 0; i < doc.len; i++) blank &= doc.s[i] == ' ' || doc.s[i] == '\n';
      if (!blank) {
        check_ok(rp_tokenizer_encode(c->t, doc.s, doc.len, RP_ENCODE_EOS, &c->ids[c->docs],
                                     &c->n[c->docs], &err),
                 err);
        c->total += c->n[c->docs++];
      }
      rp_str_free(&doc);
    }
    snprintf(name, sizeof name, "corpus-%d.txt", f);
    c->path[f] = rp_strdup(check_path(name));
    check_ok(rp_file_replace(c->path[f], text.s, text.len, false, &err), err);
    rp_str_free(&text);
  }
}

static void free_corpus(corpus *c) {
  for (size_t i = 0; i < c->docs; i++) rp_free(c->ids[i]);
  for (int f = 0; f < FILES; f++) rp_free(c->path[f]);
  rp_tokenizer_close(c->t);
}

static rp_tokenize_opts options(corpus *c, const char *out) {
  rp_tokenize_opts o;
  rp_tokenize_defaults(&o);
  o.source.inputs = (const char *const *)c->path;
  o.source.n = FILES;
  o.source.separator = "<|end|>";
  o.source.separator_len = 7;
  o.tokenizer = c->model;
  o.out = out;
  return o;
}

static size_t read_ids(const char *dir, const char *name, int num_bytes, int32_t **out) {
  char *text;
  size_t n;
  rp_error err = {0};
  char *path = rp_path_join(dir, name);
  check_ok(rp_file_read(path, 1 << 28, &text, &n, &err), err);
  rp_free(path);
  assert_int_equal(n % (size_t)num_bytes, 0);
  n /= (size_t)num_bytes;
  *out = rp_calloc(n + 1, sizeof **out);
  for (size_t i = 0; i < n; i++)
    for (int b = 0; b < num_bytes; b++)
      (*out)[i] |= (uint8_t)text[i * (size_t)num_bytes + (size_t)b] << (8 * b);
  rp_free(text);
  return n;
}

/* Whatever the threads and bytes an id: the file is the documents' ids in order. */
static void files_hold_the_documents_in_order(void **state) {
  (void)state;
  corpus c;
  rp_error err = {0};
  make_corpus(&c, 1);
  static const int bytes[] = {0, 2, 4};
  for (int round = 0; round < 3; round++) {
    char dir[600];
    int32_t *got;
    rp_tokenize_result r = {.size = sizeof r};
    snprintf(dir, sizeof dir, "%s/out-%d", check_dir(), round);
    rp_tokenize_opts o = options(&c, dir);
    o.num_bytes = bytes[round];
    o.threads = 1 + 2 * round;
    check_ok(rp_tokenize(&o, &r, &err), err);
    assert_int_equal(r.num_bytes, round == 2 ? 4 : 2);
    assert_int_equal(r.train_tokens, c.total);
    assert_int_equal(r.documents, c.docs);
    assert_int_equal(r.val_tokens, 0);
    assert_int_equal(r.documents + r.empty, FILES * DOCS);
    const size_t n = read_ids(dir, "train.bin", r.num_bytes, &got);
    size_t at = 0;
    assert_int_equal(n, c.total);
    for (size_t d = 0; d < c.docs; at += c.n[d++])
      assert_memory_equal(got + at, c.ids[d], c.n[d] * sizeof **c.ids);
    rp_free(got);
    char *parts = rp_path_join(dir, "tokenize.parts");
    assert_false(rp_exists(parts));
    rp_free(parts);
    rp_tokens_report info = {.size = sizeof info};
    char *file = rp_path_join(dir, "train.bin");
    check_ok(rp_tokens_inspect(file, 0, &info, &err), err);
    assert_int_equal(info.tokens, c.total);
    assert_int_equal(info.eos_count, c.docs);
    assert_int_equal(info.vocab_size, 700);
    assert_string_equal(info.tokenizer_sha256, rp_tokenizer_sha256(c.t));
    rp_free(file);
    check_ok(rp_tokenize(&o, &r, &err), err); /* again: nothing to do */
    assert_int_equal(r.was_complete, 1);
    o.eos = 0;
    check_fails(rp_tokenize(&o, &r, &err), RP_USAGE, err, "--overwrite");
  }
  free_corpus(&c);
}

/* Shuffled and split: train and val together are each document once, val the last of the order. */
static void held_out_tokens_are_the_last_documents(void **state) {
  (void)state;
  corpus c;
  rp_error err = {0};
  make_corpus(&c, 2);
  for (int round = 0; round < 8; round++) {
    char dir[600];
    int32_t *got[2];
    size_t n[2], at[2] = {0, 0}, split = 0;
    rp_tokenize_result r = {.size = sizeof r};
    snprintf(dir, sizeof dir, "%s/val-%d", check_dir(), round);
    rp_tokenize_opts o = options(&c, dir);
    o.shuffle = round & 1;
    o.shuffle_seed = (uint64_t)round;
    if (round & 2)
      o.val_share = 0.1;
    else
      o.val_tokens = round < 4 ? 1000 : (int64_t)c.total - 5;
    const int64_t want = o.val_tokens ? o.val_tokens : (int64_t)(0.1 * (double)c.total);
    check_ok(rp_tokenize(&o, &r, &err), err);
    assert_true(r.val_tokens >= want && r.val_tokens <= 2 * want);
    n[0] = read_ids(dir, "train.bin", 2, &got[0]);
    n[1] = read_ids(dir, "val.bin", 2, &got[1]);
    assert_int_equal(n[0], r.train_tokens);
    assert_int_equal(n[1], r.val_tokens);
    for (size_t k = 0; k < c.docs; k++) {
      const size_t d = o.shuffle ? (size_t)rp_shuffled(o.shuffle_seed, c.docs, k) : k;
      const int to = at[0] == n[0];
      if (!to && n[0] - at[0] < c.n[d]) { /* cut in two, the first part ended too */
        const size_t head = n[0] - at[0] - 1;
        assert_memory_equal(got[0] + at[0], c.ids[d], head * sizeof **c.ids);
        assert_int_equal(got[0][n[0] - 1], EOS);
        assert_memory_equal(got[1], c.ids[d] + head, (c.n[d] - head) * sizeof **c.ids);
        at[0] = n[0];
        at[1] = c.n[d] - head;
        split++;
        continue;
      }
      assert_memory_equal(got[to] + at[to], c.ids[d], c.n[d] * sizeof **c.ids);
      at[to] += c.n[d];
    }
    assert_int_equal(at[0], n[0]);
    assert_int_equal(at[1], n[1]);
    assert_true(split <= 1);
    rp_free(got[0]);
    rp_free(got[1]);
  }
  free_corpus(&c);
}

static int stop_after(void *ctx, const rp_text_progress *p) {
  int *calls = ctx;
  (void)p;
  return --*calls < 0;
}

/* Stopped anywhere by the caller, the next call goes on and ends with the same bytes. */
static void a_stopped_call_is_taken_up(void **state) {
  (void)state;
  corpus c;
  rp_error err = {0};
  rp_tokenize_result r = {.size = sizeof r};
  int32_t *want, *got;
  char whole[600], dir[600];
  volatile int stop = 1;
  make_corpus(&c, 3);
  snprintf(whole, sizeof whole, "%s/whole", check_dir());
  snprintf(dir, sizeof dir, "%s/stopped", check_dir());
  rp_tokenize_opts o = options(&c, whole);
  o.val_share = 0.05;
  check_ok(rp_tokenize(&o, &r, &err), err);
  const size_t n = read_ids(whole, "train.bin", 2, &want);
  o.out = dir;
  o.stop = &stop;
  check_fails(rp_tokenize(&o, &r, &err), RP_STOPPED, err, "goes on");
  stop = 0;
  rp_status st = RP_STOPPED;
  for (int calls = 0; st == RP_STOPPED && calls < 10; calls++) {
    int left = calls;
    o.progress = stop_after;
    o.progress_ctx = &left;
    st = rp_tokenize(&o, &r, &err);
  }
  check_ok(st, err);
  assert_int_equal(read_ids(dir, "train.bin", 2, &got), n);
  assert_memory_equal(got, want, n * sizeof *got);
  rp_free(got);
  rp_free(want);
  free_corpus(&c);
}

/* JSON lines give the same ids as the same documents in plain text. */
static void json_lines_are_as_plain_text(void **state) {
  (void)state;
  rp_error err = {0};
  rp_tokenize_result r = {.size = sizeof r};
  int32_t *a, *b;
  static const char lines[] =
      "{\"id\":1,\"meta\":{\"text\":\"The quick \\u00fcber\"}}\n\n{\"meta\":{\"text\":\"\"}}\r\n"
      "{\"meta\":{\"text\":\"two\\nlines \\ud83d\\ude00\"}}";
  static const char plain[] =
      "The quick \xc3\xbc"
      "ber|two\nlines \xf0\x9f\x98\x80|";
  char *json = rp_strdup(check_path("a.jsonl")), *text = rp_strdup(check_path("a.txt"));
  char *out_a = rp_strdup(check_path("out-a")), *out_b = rp_strdup(check_path("out-b"));
  char *model = rp_strdup(check_source("tests/data/text/llama.model"));
  check_ok(rp_file_replace(json, lines, strlen(lines), false, &err), err);
  check_ok(rp_file_replace(text, plain, strlen(plain), false, &err), err);
  rp_tokenize_opts o;
  rp_tokenize_defaults(&o);
  o.tokenizer = model;
  o.source.inputs = (const char *const *)&json;
  o.source.n = 1;
  o.source.field = "meta.text";
  o.out = out_a;
  check_ok(rp_tokenize(&o, &r, &err), err);
  assert_int_equal(r.documents, 2);
  assert_int_equal(r.empty, 1);
  o.source.inputs = (const char *const *)&text;
  o.source.separator = "|";
  o.source.separator_len = 1;
  o.out = out_b;
  check_ok(rp_tokenize(&o, &r, &err), err);
  const size_t n = read_ids(out_a, "train.bin", 2, &a);
  assert_int_equal(read_ids(out_b, "train.bin", 2, &b), n);
  assert_memory_equal(a, b, n * sizeof *a);
  rp_free(a);
  rp_free(b);
  rp_free(json);
  rp_free(text);
  rp_free(out_a);
  rp_free(out_b);
  rp_free(model);
}

/* Every allocation of ours fails once: a clean status each time, and no half result. */
static void failed_allocations_end_cleanly(void **state) {
  (void)state;
  rp_error err = {0};
  char *text = rp_strdup(check_path("m.jsonl")), *out = rp_strdup(check_path("out-m"));
  char *model = rp_strdup(check_source("tests/data/text/llama.model"));
  char *train = rp_path_join(out, "train.bin");
  static const char lines[] = "{\"text\":\"The quick\"}\n{\"text\":\"two\\nlines\"}\n";
  check_ok(rp_file_replace(text, lines, strlen(lines), false, &err), err);
  rp_tokenize_opts o;
  rp_tokenize_defaults(&o);
  o.tokenizer = model;
  o.source.inputs = (const char *const *)&text;
  o.source.n = 1;
  o.val_tokens = 3;
  o.out = out;
  o.threads = 2;
  rp_status st = RP_NO_MEMORY;
  uint64_t n = 0;
  while (st) {
    rp_mem_fail_at(++n);
    st = rp_tokenize(&o, NULL, &err);
    rp_mem_fail_at(0);
    if (st && (st != RP_NO_MEMORY || n > 2000)) fail_msg("allocation %d: %s", (int)n, err.text);
    if (st && rp_exists(train)) { /* whole already; what failed came after */
      rp_tokenize_result r = {.size = sizeof r};
      check_ok(rp_tokenize(&o, &r, &err), err);
      assert_int_equal(r.was_complete, 1);
    }
    if (st && rp_is_dir(out)) check_ok(rp_remove_tree(out, &err), err);
  }
  assert_true(n > 20);
  assert_true(rp_exists(train));
  rp_free(text);
  rp_free(out);
  rp_free(model);
  rp_free(train);
}

static void bad_requests_are_refused(void **state) {
  (void)state;
  corpus c;
  rp_error err = {0};
  make_corpus(&c, 4);
  char out[600];
  snprintf(out, sizeof out, "%s/bad", check_dir());
  rp_tokenize_opts good = options(&c, out), o = good;
  o.num_bytes = 1;
  check_fails(rp_tokenize(&o, NULL, &err), RP_USAGE, err,
              "vocabulary of 700 does not fit in 1 byte");
  o.num_bytes = 3;
  check_fails(rp_tokenize(&o, NULL, &err), RP_USAGE, err, "1, 2 or 4");
  o = good;
  o.val_share = 1;
  check_fails(rp_tokenize(&o, NULL, &err), RP_USAGE, err, "between 0 and 1");
  o.val_share = 0.5;
  o.val_tokens = 5;
  check_fails(rp_tokenize(&o, NULL, &err), RP_USAGE, err, "not both");
  o.val_share = 0;
  o.val_tokens = (int64_t)c.total;
  check_fails(rp_tokenize(&o, NULL, &err), RP_USAGE, err, "leave none");
  o = good;
  o.source.n = 0;
  check_fails(rp_tokenize(&o, NULL, &err), RP_USAGE, err, "no input");
  const char *const twice[] = {"-", "-"}, *const none[] = {"/nonexistent/file"};
  o.source.inputs = twice;
  o.source.n = 2;
  check_fails(rp_tokenize(&o, NULL, &err), RP_USAGE, err, "twice");
  o.source.inputs = none;
  o.source.n = 1;
  check_fails(rp_tokenize(&o, NULL, &err), RP_USAGE, err, "no such file");
  o = good;
  o.size = 8;
  check_fails(rp_tokenize(&o, NULL, &err), RP_USAGE, err, "rp_tokenize_defaults");
  o = good;
  o.source.format = RP_TEXT_JSONL;
  check_fails(rp_tokenize(&o, NULL, &err), RP_BAD_DATA, err, "corpus-0.txt: line 1: column 1");
  char *train = rp_path_join(out, "train.bin");
  assert_false(rp_exists(train));
  rp_free(train);
  free_corpus(&c);
}

#endif

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(shuffles_are_permutations),
#if RATPLUS_WITH_SENTENCEPIECE
    cmocka_unit_test(files_hold_the_documents_in_order),
    cmocka_unit_test(held_out_tokens_are_the_last_documents),
    cmocka_unit_test(a_stopped_call_is_taken_up),
    cmocka_unit_test(json_lines_are_as_plain_text),
    cmocka_unit_test(failed_allocations_end_cleanly),
    cmocka_unit_test(bad_requests_are_refused),
#endif
};
CHECK_MAIN(tests)
