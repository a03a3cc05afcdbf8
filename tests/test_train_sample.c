/* Samples of text while a model trains: they come when they should, change nothing of the run, and
 * never end it. */
#include "train_box.h"

#define TOKENIZER "tests/data/text/llama.model"
#define needs_text() \
  do { \
    check_needs_yaml(); \
    if (!RATPLUS_WITH_SENTENCEPIECE) skip(); \
  } while (0)

typedef struct {
  int n;
  int64_t at[32];
  char first[256], last[256];
} seen;

static void on_event(void *ctx, const rp_train_event *e) {
  seen *s = ctx;
  if (e->kind != RP_TRAIN_SAMPLE) return;
  assert_non_null(e->text);
  assert_true(s->n < 32);
  s->at[s->n] = e->step;
  snprintf(s->n++ ? s->last : s->first, sizeof s->first, "%s", e->text);
}

/* Five iterations into check_dir()/NAME with these words; V is the tokenizer's. */
static void train(const char *name, int device, const char *const *more, seen *s) {
  rp_error err = {0};
  const char *words[24] = {"data.vocab_size=700", "trainer.save_checkpoint=true"};
  char tokenizer[900];
  size_t n = 2;
  snprintf(tokenizer, sizeof tokenizer, "tokenizer=%s", check_source(TOKENIZER));
  words[n++] = tokenizer;
  for (; *more; more++) words[n++] = *more;
  words[n] = NULL;
  rp_config *c = box_config(check_path(name), 5, words);
  rp_train_opts o;
  rp_train_result result;
  const rp_train_inner in = {.device = device, .no_rate = true};
  rp_train_defaults(&o);
  o.event = on_event;
  o.ctx = s;
  *s = (seen){0};
  rp_threads_set(1);
  check_ok(rp_train_with(c, &o, &in, &result, &err), err);
  rp_config_free(c);
}

static void same_with_and_without(const char *name, int device, const char *dtype) {
  seen s, none;
  char with[64], without[64];
  snprintf(with, sizeof with, "%s-with", name);
  snprintf(without, sizeof without, "%s-without", name);
  train(with, device,
        (const char *const[]){dtype, "trainer.sample_every=2", "trainer.sample_prompt='the law'",
                              "trainer.sample_tokens=9", NULL},
        &s);
  train(without, device, (const char *const[]){dtype, "trainer.sample_every=0", NULL}, &none);
  assert_int_equal(none.n, 0);
  assert_int_equal(s.n, 2);
  assert_int_equal(s.at[0], 2);
  assert_int_equal(s.at[1], 4);
  assert_memory_equal(s.first, "the law", 7);
  assert_true(strlen(s.first) > 7);
  assert_string_not_equal(s.first, s.last);
  box_same_runs(check_path(with), check_path(without));
}

static void the_run_is_the_same(void **state) {
  (void)state;
  needs_text();
  same_with_and_without("f32", RP_DEVICE_CPU, "trainer.dtype=float32");
  same_with_and_without("bf16", RP_DEVICE_CPU, "trainer.dtype=bfloat16");
}

static void the_run_is_the_same_on_the_guard(void **state) {
  (void)state;
  needs_text();
  same_with_and_without("guard", RP_DEVICE_GUARD, "trainer.dtype=bfloat16");
}

/* The beginning of a document has nothing in front, so no space either. */
static void a_sample_of_nothing(void **state) {
  (void)state;
  needs_text();
  seen s;
  train("empty", RP_DEVICE_CPU,
        (const char *const[]){"trainer.sample_every=5", "trainer.sample_tokens=40", NULL}, &s);
  assert_int_equal(s.n, 1);
  assert_true(s.first[0] != '\0');
}

/* A tokenizer of another model is a warning. */
static void never_the_end_of_a_run(void **state) {
  (void)state;
  needs_text();
  seen s;
  train("other", RP_DEVICE_CPU,
        (const char *const[]){"data.vocab_size=97", "trainer.sample_every=1", NULL}, &s);
  assert_int_equal(s.n, 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_run_is_the_same),
    cmocka_unit_test(the_run_is_the_same_on_the_guard),
    cmocka_unit_test(a_sample_of_nothing),
    cmocka_unit_test(never_the_end_of_a_run),
};
CHECK_MAIN(tests)
