/* Sessions against one whole forward pass: any pattern, any cut into calls, forks, truncations, batches.
 * On ref64 a difference can only be an error; on the other devices it is float32's rounding, and in
 * bfloat16 what its roundings make of the pass itself.
 * label: tsan */
#include "session_box.h"

/* How far sessions may be from the pass, and what they were. */
typedef struct {
  double each;   /* of a log-probability, relative to 1 + |it| */
  bool tokens;   /* the likeliest tokens are held to be the same */
  double square; /* sum of squared differences */
  int64_t n;     /* log-probabilities compared */
  int models, calls, rows;
} tally;

static void compare(const world *x, const world_pattern *in, int from, int n, const float *logprob,
                    const int32_t *best, tally *a) {
  for (int i = 0; i < n; i++) {
    const double want = in->logprob[from + i], apart = logprob[i] - want;
    if (!(fabs(apart) <= a->each * (1 + fabs(want))))
      fail_msg("pattern %s, R=%d, T=%d: log-probability at %d is %.9g, in one pass %.9g", in->text,
               x->R, x->T, from + i, logprob[i], want);
    if (a->tokens && best[i] != in->best[from + i])
      fail_msg("pattern %s: most likely after %d is %d, in one pass %d", in->text, from + i,
               best[i], in->best[from + i]);
    a->square += apart * apart;
    a->n++;
  }
}

/* ---- one timeline, one call after the other ---- */

/* The next tokens of s, `n` of them, and whether they agree with the whole pass. */
static void feed(const world *x, const world_pattern *in, rp_session *s, int n, tally *a) {
  rp_error err = {0};
  float logprob[WORLD_T];
  int32_t best[WORLD_T];
  const int from = (int)rp_session_tokens(s);
  const rp_feed f = {.session = s,
                     .ids = x->ids + from,
                     .n = n,
                     .next = x->ids + from + 1,
                     .logprob = logprob,
                     .best = best};
  check_ok(rp_prefill(&f, NULL, &err), err);
  compare(x, in, from, n, logprob, best, a);
  a->calls++;
  a->rows++;
}

/* In random calls, with forks that live on and truncations that are told again. */
static void walk(world *x, rp_rng *r, tally *a) {
  rp_error err = {0};
  const world_pattern *in = &x->in[0];
  rp_session *s[3] = {NULL};
  check_ok(rp_session_open(&s[0], x->e, in->text, WORLD_T, &err), err);
  int top[3] = {0};
  for (int step = 0; step < 40; step++) {
    const int i = check_pick(r, 0, 2);
    if (!s[i]) {
      check_ok(rp_session_fork(&s[i], s[0], &err), err);
      top[i] = top[0];
    }
    const int at = (int)rp_session_tokens(s[i]), left = x->T - at;
    if (left > 0) {
      const int n = check_pick(r, 1, check_pick(r, 0, 1) ? (left < 4 ? left : 4) : left);
      feed(x, in, s[i], n, a);
      if (at + n > top[i]) top[i] = at + n;
      assert_int_equal(rp_session_cache_bytes(s[i]), world_bytes(x, &in->pats, top[i], x->R));
    }
    const int now = (int)rp_session_tokens(s[i]);
    const int low = top[i] - x->R > 0 ? top[i] - x->R : 0;
    if (check_pick(r, 0, 2) == 0 && low <= now) {
      const int back = check_pick(r, low, now);
      check_ok(rp_session_truncate(s[i], back, &err), err);
      if (back == 0) top[i] = 0; /* a new beginning */
    }
    if (low > 1 && top[i]) {
      check_fails(rp_session_truncate(s[i], low - 1, &err), RP_USAGE, err, "rollback");
      err = (rp_error){0};
    }
    if (i > 0 && check_pick(r, 0, 9) == 0) {
      rp_session_close(s[i]);
      s[i] = NULL;
    }
    if (s[i] && left == 0 && check_pick(r, 0, 3) == 0) {
      check_ok(rp_session_truncate(s[i], 0, &err), err);
      top[i] = 0;
    }
  }
  for (int i = 0; i < 3; i++) rp_session_close(s[i]);
}

/* ---- many timelines in one call ---- */

enum { CROWD = 6 };
typedef struct {
  rp_session *s[CROWD];
  int in[CROWD]; /* its pattern */
  float logprob[WORLD_ROWS][WORLD_T];
  int32_t best[WORLD_ROWS][WORLD_T];
  rp_feed f[WORLD_ROWS];
  int who[WORLD_ROWS], rows;
} crowd;

/* Some of them, with one token or some each, as many as a call takes. */
static void draw_call(const world *x, rp_rng *r, int chunk, crowd *c) {
  int room = chunk;
  c->rows = 0;
  for (int i = check_pick(r, 0, CROWD - 1), k = 0; k < CROWD; k++, i = (i + 1) % CROWD) {
    if (c->rows == WORLD_ROWS || !room || check_pick(r, 0, 3) == 0) continue;
    const int at = (int)rp_session_tokens(c->s[i]), left = x->T - at;
    const int most = left < room ? left : room;
    if (!most) continue;
    const int n = check_pick(r, 0, 1) ? 1 : check_pick(r, 1, most), row = c->rows++;
    c->who[row] = i;
    c->f[row] = (rp_feed){.session = c->s[i],
                          .ids = x->ids + at,
                          .n = n,
                          .next = x->ids + at + 1,
                          .logprob = c->logprob[row],
                          .best = c->best[row]};
    room -= n;
  }
}

static void walk_together(world *x, rp_rng *r, tally *a) {
  rp_error err = {0};
  crowd c = {.rows = 0};
  rp_engine_facts facts = {.size = sizeof facts};
  rp_engine_about(x->e, &facts);
  for (int i = 0; i < CROWD; i++) {
    c.in[i] = check_pick(r, 0, WORLD_PATTERNS - 1);
    check_ok(rp_session_open(&c.s[i], x->e, x->in[c.in[i]].text, WORLD_T, &err), err);
  }
  for (int step = 0; step < 12; step++) {
    const int i = check_pick(r, 0, CROWD - 1), from = check_pick(r, 0, CROWD - 1);
    if (check_pick(r, 0, 3) == 0 && i != from) { /* one leaves, another's twin comes */
      rp_session_close(c.s[i]);
      check_ok(rp_session_fork(&c.s[i], c.s[from], &err), err);
      c.in[i] = c.in[from];
    }
    draw_call(x, r, facts.chunk, &c);
    if (!c.rows) continue;
    int at[WORLD_ROWS];
    for (int k = 0; k < c.rows; k++) at[k] = (int)rp_session_tokens(c.f[k].session);
    check_ok(rp_engine_call(x->e, c.f, c.rows, &err), err);
    for (int k = 0; k < c.rows; k++)
      compare(x, &x->in[c.in[c.who[k]]], at[k], (int)c.f[k].n, c.logprob[k], c.best[k], a);
    a->calls++;
    a->rows += c.rows;
  }
  for (int i = 0; i < CROWD; i++) rp_session_close(c.s[i]);
}

/* ---- the laws ---- */

static void both_walks(world *x, rp_rng *r, tally *a) {
  rp_engine_facts f = {.size = sizeof f};
  walk(x, r, a);
  walk_together(x, r, a);
  rp_engine_about(x->e, &f);
  assert_int_equal(f.cache_used, 0);
  assert_int_equal(f.sessions, 0);
  a->models++;
}

static void say(const tally *a) {
  printf("# %d models, %d calls of %d rows, %lld log-probabilities\n", a->models, a->calls, a->rows,
         (long long)a->n);
}

static void sessions_on(rp_device_kind kind, rp_dtype dtype, int models, double tolerance) {
  rp_rng r = check_rng((uint64_t)kind + 10 * (uint64_t)dtype);
  tally a = {.each = tolerance, .tokens = tolerance < 1e-6};
  for (int i = 0; i < check_rounds(models); i++) {
    world x;
    world_threads(i);
    world_open(&x, &r, kind, dtype, 1, false);
    both_walks(&x, &r, &a);
    world_close(&x);
  }
  say(&a);
}

/* Values of float32 are told apart: what is left is the float of the result. */
static void any_calls_are_one_pass_in_double(void **state) {
  (void)state;
  sessions_on(RP_DEVICE_REF64, RP_F32, 500, 5e-7);
}
/* Scores of spread some units pass exp; a hundred roundings of float32. */
static void any_calls_are_one_pass(void **state) {
  (void)state;
  sessions_on(RP_DEVICE_CPU, RP_F32, 500, 2e-4);
}
static void any_calls_are_one_pass_on_guard(void **state) {
  (void)state;
  sessions_on(RP_DEVICE_GUARD, RP_F32, 50, 2e-4);
}

/* Root of the mean square of what bfloat16 makes of the passes: both worlds have the same weights. */
static double roundings(const world *x, const world *exact) {
  double square = 0;
  for (int k = 0; k < WORLD_PATTERNS; k++)
    for (int t = 0; t < x->T; t++) square += pow(x->in[k].logprob[t] - exact->in[k].logprob[t], 2);
  return sqrt(square / (WORLD_PATTERNS * x->T));
}

/* A session rounds where the pass does. Sums in another order make some roundings fall to the other
 * side, and were it all of them the two would be as two draws: sqrt(2) of one's distance from exact.
 * Of single positions: eight times that distance. */
static void bfloat16_on(rp_device_kind kind, int models) {
  rp_rng r = check_rng(20 + (uint64_t)kind);
  tally all = {0};
  double worst = 0;
  for (int i = 0; i < check_rounds(models); i++) {
    world x, exact;
    rp_rng same = r;
    world_threads(i);
    world_open(&exact, &same, RP_DEVICE_REF64, RP_F32, 20, true);
    world_open(&x, &r, kind, RP_BF16, 20, true);
    assert_memory_equal(x.ids, exact.ids, sizeof x.ids);
    const double rounding = roundings(&x, &exact);
    tally a = {.each = 8 * rounding};
    both_walks(&x, &r, &a);
    const double share = sqrt(a.square / (double)a.n) / rounding;
    if (!(share <= sqrt(2)))
      fail_msg("sessions are apart from the pass by %.3g of its distance from exact", share);
    worst = fmax(worst, share);
    all.models++;
    all.calls += a.calls;
    all.rows += a.rows;
    all.n += a.n;
    world_close(&x);
    world_close(&exact);
  }
  say(&all);
  printf("# apart by at most %.3f of the pass's own rounding\n", worst);
}
static void bfloat16_sessions_round_as_the_pass(void **state) {
  (void)state;
  bfloat16_on(RP_DEVICE_CPU, 150);
  bfloat16_on(RP_DEVICE_REF, 50);
}
static void bfloat16_sessions_round_as_the_pass_on_guard(void **state) {
  (void)state;
  bfloat16_on(RP_DEVICE_GUARD, 10);
}

/* At equal shapes a row's bits are its own, whatever the other rows hold. */
static void rows_do_not_see_each_other(void **state) {
  (void)state;
  rp_rng r = check_rng(5);
  for (int round = 0; round < check_rounds(60); round++) {
    rp_error err = {0};
    world x;
    float logits[2][WORLD_ROWS][WORLD_V];
    world_threads(round);
    world_open(&x, &r, RP_DEVICE_CPU, round % 2 ? RP_BF16 : RP_F32, 1, false);
    for (int pass = 0; pass < 2; pass++) {
      rp_session *s[WORLD_ROWS];
      int32_t ids[WORLD_ROWS];
      rp_feed f[WORLD_ROWS];
      for (int i = 0; i < WORLD_ROWS; i++) {
        check_ok(rp_session_open(&s[i], x.e, i % 2 ? x.in[0].text : "D=1", WORLD_T, &err), err);
        for (int t = 0; t < 3 + i; t++) {
          const int32_t id = i == 0 ? t : check_pick(&r, 0, WORLD_V - 1);
          const rp_feed one = {.session = s[i], .ids = &id, .n = 1};
          check_ok(rp_engine_call(x.e, &one, 1, &err), err);
        }
        ids[i] = i == 0 ? 5 : check_pick(&r, 0, WORLD_V - 1);
        f[i] = (rp_feed){.session = s[i], .ids = &ids[i], .n = 1, .logits = logits[pass][i]};
      }
      check_ok(rp_engine_call(x.e, f, WORLD_ROWS, &err), err);
      for (int i = 0; i < WORLD_ROWS; i++) rp_session_close(s[i]);
    }
    assert_memory_equal(logits[0][0], logits[1][0], sizeof logits[0][0]);
    world_close(&x);
  }
}

/* ---- calls that fail ---- */

static void bad_calls_change_nothing(void **state) {
  (void)state;
  rp_rng r = check_rng(6);
  rp_error err = {0};
  world x;
  rp_session *s;
  world_open(&x, &r, RP_DEVICE_CPU, RP_F32, 1, false);
  check_ok(rp_session_open(&s, x.e, "D=1", 10, &err), err);
  const int32_t ids[12] = {1, 2, 3}, bad = WORLD_V;
  rp_feed f = {.session = s, .ids = &bad, .n = 1};
  check_fails(rp_engine_call(x.e, &f, 1, &err), RP_USAGE, err, "vocabulary");
  f.ids = ids;
  f.n = 11;
  err = (rp_error){0};
  check_fails(rp_prefill(&f, NULL, &err), RP_USAGE, err, "limit of 10");
  f.n = 1;
  const rp_feed two[2] = {f, f};
  err = (rp_error){0};
  check_fails(rp_engine_call(x.e, two, 2, &err), RP_USAGE, err, "two rows");
  err = (rp_error){0};
  rp_session_cancel(s);
  check_fails(rp_engine_call(x.e, &f, 1, &err), RP_STOPPED, err, "cancelled");
  err = (rp_error){0};
  rp_session_deadline(s, 1e-9);
  check_fails(rp_engine_call(x.e, &f, 1, &err), RP_STOPPED, err, "deadline");
  rp_session_deadline(s, 0);
  assert_int_equal(rp_session_tokens(s), 0);
  assert_int_equal(rp_session_cache_bytes(s), 0);
  err = (rp_error){0};
  check_ok(rp_engine_call(x.e, &f, 1, &err), err);
  assert_int_equal(rp_session_tokens(s), 1);
  rp_session_close(s);
  world_close(&x);
}

/* A pool of `blocks` for each list: a text of 20 tokens in `twins` sessions, then a token each in one
 * call. What that writes is the last block, of which all but one session need a copy. */
static void twins_step(const world *x, int lists, int blocks, int missing, int twins) {
  rp_error err = {0};
  rp_engine *e;
  rp_engine_opts o;
  rp_session *s[WORLD_ROWS];
  rp_feed f[WORLD_ROWS];
  float logprob[WORLD_ROWS];
  const int64_t block = (int64_t)rp_kv_block_elements(x->b.m.h) * 4;
  rp_engine_defaults(&o);
  o.rows = WORLD_ROWS;
  o.chunk = 20;
  o.cache_bytes = (uint64_t)((blocks * lists - missing) * block);
  check_ok(rp_engine_open(&e, x->model, &o, &err), err);
  check_ok(rp_session_open(&s[0], e, "D=1", 0, &err), err);
  const rp_feed prompt = {.session = s[0], .ids = x->ids, .n = 20};
  check_ok(rp_engine_call(e, &prompt, 1, &err), err);
  for (int i = 1; i < twins; i++) check_ok(rp_session_fork(&s[i], s[0], &err), err);
  for (int i = 0; i < twins; i++)
    f[i] = (rp_feed){
        .session = s[i], .ids = x->ids + 20, .n = 1, .next = x->ids + 21, .logprob = &logprob[i]};
  assert_int_equal(engine_used(e), 2 * lists * block);
  if (missing) {
    check_fails(rp_engine_call(e, f, twins, &err), RP_NO_MEMORY, err, "cache blocks");
    err = (rp_error){0};
    assert_int_equal(engine_used(e), 2 * lists * block);
    assert_int_equal(rp_session_tokens(s[1]), 20);
    rp_session_close(s[--twins]); /* now it fits */
  }
  check_ok(rp_engine_call(e, f, twins, &err), err);
  assert_int_equal(engine_used(e), (1 + twins) * lists * block);
  for (int i = 0; i < twins; i++) check_close(logprob[i], logprob[0], 0);
  for (int i = 0; i < twins; i++) rp_session_close(s[i]);
  assert_int_equal(engine_used(e), 0);
  rp_engine_close(e);
}

static void a_pool_is_full_when_it_is_full(void **state) {
  (void)state;
  rp_rng r = check_rng(7);
  for (int round = 0; round < 10; round++) {
    world x;
    world_threads(round);
    world_open(&x, &r, RP_DEVICE_CPU, RP_F32, 22, false);
    const int lists = x.b.m.N * x.b.m.Hk;
    for (int twins = 2; twins <= WORLD_ROWS; twins++) {
      twins_step(&x, lists, 1 + twins, 0, twins);
      twins_step(&x, lists, 1 + twins, check_pick(&r, 1, lists), twins);
    }
    world_close(&x);
  }
}

/* ---- memory ---- */

/* What a call needs was taken when the engine was opened; a debug build ends at an allocation. */
static void calls_allocate_nothing(void **state) {
  (void)state;
  rp_rng r = check_rng(8);
  for (int round = 0; round < 20; round++) {
    rp_error err = {0};
    world x;
    rp_session *s[WORLD_ROWS];
    rp_feed f[WORLD_ROWS];
    float logits[WORLD_ROWS][WORLD_V];
    world_threads(round);
    world_open(&x, &r, RP_DEVICE_CPU, round % 2 ? RP_BF16 : RP_F32, 1, false);
    for (int i = 0; i < WORLD_ROWS; i++)
      check_ok(rp_session_open(&s[i], x.e, x.in[i % WORLD_PATTERNS].text, WORLD_T, &err), err);
    rp_mem_fail_at(0);
    const size_t held = rp_mem_now(), device = rp_device_bytes(x.b.dev);
    for (int t = 0; t < x.T; t++) {
      for (int i = 0; i < WORLD_ROWS; i++)
        f[i] = (rp_feed){.session = s[i], .ids = &x.ids[t], .n = 1, .logits = logits[i]};
      check_ok(rp_engine_call(x.e, f, WORLD_ROWS, &err), err);
    }
    const int asked = (int)rp_mem_fail_at(0);
    if (asked) fail_msg("%d allocations in %d decode steps", asked, x.T);
    assert_int_equal(rp_mem_now(), held);
    assert_int_equal(rp_device_bytes(x.b.dev), device);
    for (int i = 0; i < WORLD_ROWS; i++) rp_session_close(s[i]);
    world_close(&x);
  }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(any_calls_are_one_pass_in_double),
    cmocka_unit_test(any_calls_are_one_pass),
    cmocka_unit_test(any_calls_are_one_pass_on_guard),
    cmocka_unit_test(bfloat16_sessions_round_as_the_pass),
    cmocka_unit_test(bfloat16_sessions_round_as_the_pass_on_guard),
    cmocka_unit_test(rows_do_not_see_each_other),
    cmocka_unit_test(bad_calls_change_nothing),
    cmocka_unit_test(a_pool_is_full_when_it_is_full),
    cmocka_unit_test(calls_allocate_nothing),
};
CHECK_MAIN(tests)
