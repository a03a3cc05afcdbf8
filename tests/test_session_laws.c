/* Sessions against one whole forward pass: any pattern, any cut into calls, forks, truncations, batches.
 * On ref64 a difference can only be an error; on the other devices it is float32's rounding. */
#include <math.h>

#include "model_box.h"
#include "pattern/count.h"
#include "ratplus/session.h"
#include "session/engine.h"

enum { T_MOST = 90, V = 37 };

static rp_pat some_pat(rp_rng *r) {
  static const int D[] = {-1, 1, 2, 3, 4, 7, 16, 64};
  rp_pat p = {D[rp_rng_below(r, 8)], 0, 0};
  if (check_pick(r, 0, 1)) p.W = check_pick(r, 0, check_pick(r, 0, 3) ? 20 : T_MOST + 5);
  if (check_pick(r, 0, 2) == 0) p.I = check_pick(r, 0, 20);
  if (p.D == -1 && !p.W && !p.I) p.W = 1;
  return p;
}

/* A model, and what one forward pass over `T` tokens says of every next token. */
typedef struct {
  box b;
  rp_weights w;
  rp_model *model;
  rp_engine *e;
  rp_pats pats;
  char *pattern;
  int T, R;
  int32_t ids[T_MOST + 1];
  double logprob[T_MOST];
  int32_t best[T_MOST];
} world;

static void whole_pass(world *x) {
  rp_error err = {0};
  const size_t n = (size_t)x->T;
  double lse[T_MOST], logit[T_MOST];
  rp_ptr at[4]; /* next ids, lse, logit, best */
  int plan;
  for (int i = 0; i < 4; i++)
    check_ok(rp_device_alloc(x->b.dev, n * 8, "a pass", &at[i], &err), err);
  check_ok(rp_net_add_plan(x->b.net, &x->pats, &plan, &err), err);
  rp_upload(x->b.q, x->b.ids, x->ids, n * 4);
  rp_upload(x->b.q, at[0], x->ids + 1, n * 4);
  const rp_net_pick p = {.batch = 1,
                         .T = x->T,
                         .plan = plan,
                         .ids = x->b.ids,
                         .wanted = at[0],
                         .lse = at[1],
                         .logit = at[2],
                         .best = at[3]};
  check_ok(rp_net_score(x->b.net, &x->w, &p, &err), err);
  const rp_dtype real = rp_device_real(x->b.dev);
  rp_download_as(x->b.q, lse, RP_F64, (rp_tensor){at[1], real}, x->T);
  rp_download_as(x->b.q, logit, RP_F64, (rp_tensor){at[2], real}, x->T);
  rp_download(x->b.q, x->best, at[3], n * 4);
  check_ok(rp_wait(x->b.q, &err), err);
  for (int t = 0; t < x->T; t++) x->logprob[t] = logit[t] - lse[t];
  for (int i = 0; i < 4; i++) rp_device_free(x->b.dev, at[i]);
}

static void world_open(world *x, rp_rng *r, rp_device_kind kind, rp_dtype dtype) {
  rp_error err = {0};
  memset(x, 0, sizeof *x);
  const int Hk = check_pick(r, 1, 2), H = Hk * check_pick(r, 1, 2), N = check_pick(r, 1, 3);
  x->T = check_pick(r, 1, T_MOST);
  x->R = check_pick(r, 0, 1) ? check_pick(r, 0, 5) : 0;
  rp_model_settings m = box_settings(N, H, Hk, 2 * check_pick(r, 1, 5), check_pick(r, 3, 20), V);
  m.apply_re = check_pick(r, 0, 3) != 0;
  m.tied = check_pick(r, 0, 1);
  m.max_seq_len = T_MOST;
  box_open(&x->b, kind, &m, dtype, 1, x->T, false);
  box_weights(&x->b, r, 0.5);
  x->w = rp_params_weights(&x->b.params);
  check_ok(rp_pats_uniform(&x->pats, (rp_pat){1, 0, 0}, N, Hk, &err), err);
  const rp_pat one = some_pat(r);
  const bool mixed = check_pick(r, 0, 1);
  for (int i = 0; i < N * Hk; i++) x->pats.at[i] = mixed ? some_pat(r) : one;
  x->pattern = rp_pats_format(&x->pats);
  assert_non_null(x->pattern);
  for (int t = 0; t <= x->T; t++) x->ids[t] = check_pick(r, 0, V - 1);
  whole_pass(x);
  check_ok(rp_model_borrow(&x->model, x->b.q, &m, dtype, &x->w, &err), err);
  rp_engine_opts o;
  rp_engine_defaults(&o);
  o.chunk = check_pick(r, 4, 70);
  o.rows = 4;
  o.wanted = o.chunk;
  o.rollback = x->R;
  o.cache_bytes = 1 << 21;
  check_ok(rp_engine_open(&x->e, x->model, &o, &err), err);
}

static void world_close(world *x) {
  rp_pats pats = x->b.m.pats;
  rp_engine_close(x->e);
  rp_model_close(x->model);
  box_close(&x->b);
  rp_pats_free(&pats);
  rp_pats_free(&x->pats);
  rp_free(x->pattern);
}

static void compare(const world *x, int from, int n, const float *logprob, const int32_t *best,
                    double tolerance) {
  for (int i = 0; i < n; i++) {
    const double want = x->logprob[from + i];
    if (!(fabs(logprob[i] - want) <= tolerance * (1 + fabs(want))))
      fail_msg("pattern %s, R=%d, T=%d: log-probability at %d is %.9g, in one pass %.9g",
               x->pattern, x->R, x->T, from + i, logprob[i], want);
    if (tolerance < 1e-6 && best[i] != x->best[from + i])
      fail_msg("pattern %s: most likely after %d is %d, in one pass %d", x->pattern, from + i,
               best[i], x->best[from + i]);
  }
}

/* The next tokens of s, `n` of them, and whether they agree with the whole pass. */
static void feed(const world *x, rp_session *s, int n, double tolerance) {
  rp_error err = {0};
  float logprob[T_MOST];
  int32_t best[T_MOST];
  const int from = (int)rp_session_tokens(s);
  const rp_feed f = {.session = s,
                     .ids = x->ids + from,
                     .n = n,
                     .next = x->ids + from + 1,
                     .logprob = logprob,
                     .best = best};
  check_ok(rp_prefill(&f, NULL, &err), err);
  compare(x, from, n, logprob, best, tolerance);
}

static int64_t held(const world *x, int64_t tokens) {
  int64_t n = 0;
  for (int i = 0; i < x->pats.layers * x->pats.kv_heads; i++)
    n += rp_pat_blocks(x->pats.at[i], tokens, x->R);
  return n * (int64_t)rp_kv_block_elements(x->b.m.h) * rp_dtype_bytes(x->b.params.compute);
}

/* One timeline in random calls, with forks that live on and truncations that are told again. */
static void walk(world *x, rp_rng *r, double tolerance) {
  rp_error err = {0};
  rp_session *s[3] = {NULL};
  check_ok(rp_session_open(&s[0], x->e, x->pattern, T_MOST, &err), err);
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
      feed(x, s[i], n, tolerance);
      if (at + n > top[i]) top[i] = at + n;
      assert_int_equal(rp_session_cache_bytes(s[i]), held(x, top[i]));
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
  rp_engine_facts f = {.size = sizeof f};
  rp_engine_about(x->e, &f);
  assert_int_equal(f.cache_used, 0);
  assert_int_equal(f.sessions, 0);
}

static void sessions_on(rp_device_kind kind, rp_dtype dtype, int rounds, double tolerance) {
  rp_rng r = check_rng((uint64_t)kind + 10 * (uint64_t)dtype);
  for (int round = 0; round < rounds; round++) {
    world x;
    world_open(&x, &r, kind, dtype);
    walk(&x, &r, tolerance);
    world_close(&x);
  }
}

/* Values of float32 are told apart: what is left is the float of the result. */
static void any_calls_are_one_pass_in_double(void **state) {
  (void)state;
  sessions_on(RP_DEVICE_REF64, RP_F32, 120, 5e-7);
}
/* Scores of spread some units pass exp; a hundred roundings of float32. */
static void any_calls_are_one_pass(void **state) {
  (void)state;
  sessions_on(RP_DEVICE_CPU, RP_F32, 60, 2e-4);
}
static void any_calls_are_one_pass_on_guard(void **state) {
  (void)state;
  sessions_on(RP_DEVICE_GUARD, RP_F32, 10, 2e-4);
}

/* At equal shapes a row's bits are its own, whatever the other rows hold. */
static void rows_do_not_see_each_other(void **state) {
  (void)state;
  rp_rng r = check_rng(5);
  for (int round = 0; round < 30; round++) {
    rp_error err = {0};
    world x;
    float logits[2][4][V];
    world_open(&x, &r, RP_DEVICE_CPU, RP_F32);
    for (int pass = 0; pass < 2; pass++) {
      rp_session *s[4];
      int32_t ids[4];
      rp_feed f[4];
      for (int i = 0; i < 4; i++) {
        check_ok(rp_session_open(&s[i], x.e, i % 2 ? x.pattern : "D=1", T_MOST, &err), err);
        for (int t = 0; t < 3 + i; t++) {
          const int32_t id = i == 0 ? t : check_pick(&r, 0, V - 1);
          const rp_feed one = {.session = s[i], .ids = &id, .n = 1};
          check_ok(rp_engine_call(x.e, &one, 1, &err), err);
        }
        ids[i] = i == 0 ? 5 : check_pick(&r, 0, V - 1);
        f[i] = (rp_feed){.session = s[i], .ids = &ids[i], .n = 1, .logits = logits[pass][i]};
      }
      check_ok(rp_engine_call(x.e, f, 4, &err), err);
      for (int i = 0; i < 4; i++) rp_session_close(s[i]);
    }
    assert_memory_equal(logits[0][0], logits[1][0], sizeof logits[0][0]);
    world_close(&x);
  }
}

static void bad_calls_change_nothing(void **state) {
  (void)state;
  rp_rng r = check_rng(6);
  rp_error err = {0};
  world x;
  rp_session *s;
  world_open(&x, &r, RP_DEVICE_CPU, RP_F32);
  check_ok(rp_session_open(&s, x.e, "D=1", 10, &err), err);
  const int32_t ids[12] = {1, 2, 3}, bad = V;
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

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(any_calls_are_one_pass_in_double),
    cmocka_unit_test(any_calls_are_one_pass),
    cmocka_unit_test(any_calls_are_one_pass_on_guard),
    cmocka_unit_test(rows_do_not_see_each_other),
    cmocka_unit_test(bad_calls_change_nothing),
};
CHECK_MAIN(tests)
