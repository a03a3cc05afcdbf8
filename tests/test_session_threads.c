/* Several threads at once on one model: engines of their own that decode side by side, one engine
 * whose calls take turns, a call that another thread cancels. What each gets is what it gets alone,
 * bit for bit; `make tsan` sees whether they touch each other's memory.
 * label: threads, label: tsan */
#include <pthread.h>

#include "session_box.h"

enum { WORKERS = 2, PROMPT = 20, STEPS = 24, LIMIT = PROMPT + STEPS };
static const char *const kinds[WORKERS] = {"D=4,W=5,I=2", "D=1"};

/* One thread: a prompt and greedy steps behind it. No assertion in here: cmocka's jump out of a case
 * belongs to the first thread. */
typedef struct {
  const rp_model *model;
  rp_engine *shared; /* NULL: one of its own */
  const char *pattern;
  int start; /* first token of the prompt */
  rp_status st;
  rp_error err;
  int32_t said[STEPS];
  float last[WORLD_V]; /* the logits after the last step */
} worker;

static rp_status decode(worker *w, rp_engine *e) {
  int32_t ids[LIMIT];
  rp_session *s;
  for (int t = 0; t < PROMPT; t++) ids[t] = (w->start + 7 * t) % WORLD_V;
  rp_status st = rp_session_open(&s, e, w->pattern, LIMIT, &w->err);
  for (int i = 0; !st && i < STEPS; i++) {
    int32_t best[PROMPT];
    const int n = i ? 1 : PROMPT;
    const rp_feed f = {.session = s,
                       .ids = ids + (i ? PROMPT + i - 1 : 0),
                       .n = n,
                       .logits = w->last,
                       .best = best};
    st = rp_engine_call(e, &f, 1, &w->err);
    if (!st) w->said[i] = ids[PROMPT + i] = best[n - 1];
  }
  rp_session_close(s);
  return st;
}

static void *work(void *arg) {
  worker *w = arg;
  rp_engine *own = NULL;
  rp_engine_opts o;
  rp_engine_defaults(&o);
  o.chunk = o.wanted = PROMPT;
  w->st = w->shared ? RP_OK : rp_engine_open(&own, w->model, &o, &w->err);
  if (!w->st) w->st = decode(w, w->shared ? w->shared : own);
  rp_engine_close(own);
  return NULL;
}

static rp_model *open_model(void) {
  rp_error err = {0};
  rp_model *model;
  rp_model_settings m = box_settings(2, 2, 1, 8, 24, WORLD_V);
  m.init_range = 0.5;
  check_ok(rp_model_random(&model, &m, RP_DEVICE_CPU, RP_F32, 1, &err), err);
  rp_pats_free(&m.pats);
  return model;
}

static void start_all(worker *w) {
  pthread_t t[WORKERS];
  for (int i = 0; i < WORKERS; i++) assert_int_equal(pthread_create(&t[i], NULL, work, &w[i]), 0);
  for (int i = 0; i < WORKERS; i++) pthread_join(t[i], NULL);
  for (int i = 0; i < WORKERS; i++) check_ok(w[i].st, w[i].err);
}

static void one_after_the_other(worker *w) {
  for (int i = 0; i < WORKERS; i++) {
    work(&w[i]);
    check_ok(w[i].st, w[i].err);
  }
}

static void same(const worker *a, const worker *b) {
  for (int i = 0; i < WORKERS; i++) {
    assert_memory_equal(a[i].said, b[i].said, sizeof a[i].said);
    assert_memory_equal(a[i].last, b[i].last, sizeof a[i].last);
  }
}

static void side_by_side(bool shared) {
  rp_error err = {0};
  rp_model *model = open_model();
  rp_engine *e = NULL;
  rp_engine_opts o;
  worker alone[WORKERS];
  rp_engine_defaults(&o);
  o.chunk = o.wanted = PROMPT;
  o.cache_bytes = 1 << 20;
  if (shared) check_ok(rp_engine_open(&e, model, &o, &err), err);
  for (int i = 0; i < WORKERS; i++)
    alone[i] = (worker){.model = model, .shared = e, .pattern = kinds[i], .start = 3 + 11 * i};
  for (int threads = 1; threads <= 2; threads++) {
    worker together[WORKERS];
    rp_threads_set(threads);
    memcpy(together, alone, sizeof together);
    one_after_the_other(alone);
    for (int round = 0; round < check_rounds(8); round++) {
      start_all(together);
      same(alone, together);
    }
  }
  rp_engine_close(e);
  rp_model_close(model);
}

static void engines_of_one_model_run_at_once(void **state) {
  (void)state;
  side_by_side(false);
}

static void calls_on_one_engine_take_turns(void **state) {
  (void)state;
  side_by_side(true);
}

static void *cancel(void *arg) {
  rp_session_cancel(arg);
  return NULL;
}

/* A prompt of many chunks, cancelled at any moment: it holds whole chunks, and goes on from there. */
static void a_call_is_cancelled_from_another_thread(void **state) {
  (void)state;
  enum { LONG = 600 };
  rp_error err = {0};
  rp_model *model = open_model();
  rp_engine *e;
  rp_session *s;
  rp_engine_opts o;
  static int32_t ids[LONG];
  float once[WORLD_V], again[WORLD_V];
  rp_engine_defaults(&o);
  o.chunk = 8;
  o.cache_bytes = 1 << 21;
  check_ok(rp_engine_open(&e, model, &o, &err), err);
  for (int t = 0; t < LONG; t++) ids[t] = 5 * t % WORLD_V;
  for (int round = 0; round < 1 + check_rounds(8); round++) {
    pthread_t other;
    check_ok(rp_session_open(&s, e, "D=4,W=5,I=2", LONG, &err), err);
    rp_feed f = {.session = s, .ids = ids, .n = LONG, .logits = round ? again : once};
    if (round) assert_int_equal(pthread_create(&other, NULL, cancel, s), 0);
    rp_status st = rp_prefill(&f, NULL, &err);
    if (round) pthread_join(other, NULL);
    if (st != RP_STOPPED) check_ok(st, err);
    const int64_t done = rp_session_tokens(s);
    assert_true(st ? done < LONG && done % 8 == 0 : done == LONG);
    if (st == RP_STOPPED) {
      f.ids = ids + done;
      f.n = LONG - done;
      st = rp_prefill(&f, NULL, &err);
    }
    check_ok(st, err);
    if (round) assert_memory_equal(once, again, sizeof once);
    rp_session_close(s);
  }
  rp_engine_close(e);
  rp_model_close(model);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(engines_of_one_model_run_at_once),
    cmocka_unit_test(calls_on_one_engine_take_turns),
    cmocka_unit_test(a_call_is_cancelled_from_another_thread),
};
CHECK_MAIN(tests)
