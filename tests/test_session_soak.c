/* Sixty-four sessions in eight patterns that join, leave, fork, go back and are decoded together, from
 * a pool that is often full: what every step gave is compared with a run of the same tokens alone.
 * SOAK_SECONDS=180 goes on for so long; otherwise a fixed number of calls. */
#include "base/log.h"
#include "session_box.h"

enum { SESSIONS = 64, ROWS = 24, LONGEST = 80, CALLS = 1500, R = 4, KINDS = 8 };
static const char *const kinds[KINDS] = {"D=1",      "D=16", "D=4,W=5,I=2", "D=-1,W=9,I=3",
                                         "D=8,W=20", "D=2",  "D=64,W=12",   "D=7,I=20"};

/* A session, its tokens, and after which of them logits were asked for. */
typedef struct {
  rp_session *s;
  int kind, n;
  int32_t ids[LONGEST];
  bool said[LONGEST];
  float top[LONGEST], gap[LONGEST]; /* log-probability of the likeliest, and how far the next is */
  int32_t best[LONGEST];
} life;

typedef struct {
  world w;
  rp_engine *many, *alone;
  life l[SESSIONS];
  int joined, left, forked, cut, full, calls;
  int64_t compared, close;
} soak;

static void open_engines(soak *x, rp_rng *r) {
  rp_error err = {0};
  rp_engine_opts o;
  world_open(&x->w, r, RP_DEVICE_CPU, RP_F32, 1, false);
  rp_engine_defaults(&o);
  o.chunk = 160;
  o.rows = o.wanted = ROWS;
  o.rollback = R;
  o.cache_bytes =
      (uint64_t)world_bytes(&x->w, &x->w.in[0].pats, 0, 0) +
      (uint64_t)(100 * x->w.b.m.N * x->w.b.m.Hk) * (uint64_t)rp_kv_block_elements(x->w.b.m.h) * 4;
  check_ok(rp_engine_open(&x->many, x->w.model, &o, &err), err);
  o.chunk = o.wanted = LONGEST;
  o.rollback = 0;
  o.cache_bytes = 1 << 21;
  check_ok(rp_engine_open(&x->alone, x->w.model, &o, &err), err);
}

/* The whole text in one call of its own: float32 sums in another order, as in test_session_laws. */
static void compare(soak *x, const life *l) {
  rp_error err = {0};
  rp_session *s;
  float logprob[LONGEST];
  int32_t best[LONGEST], next[LONGEST];
  const double tol = 2e-4;
  if (!l->n) return;
  for (int t = 0; t < l->n; t++) next[t] = l->said[t] ? l->best[t] : -1;
  check_ok(rp_session_open(&s, x->alone, kinds[l->kind], LONGEST, &err), err);
  const rp_feed f = {
      .session = s, .ids = l->ids, .n = l->n, .next = next, .logprob = logprob, .best = best};
  check_ok(rp_engine_call(x->alone, &f, 1, &err), err);
  for (int t = 0; t < l->n; t++) {
    if (!l->said[t]) continue;
    const double allowed = tol * (1 + fabs((double)l->top[t]));
    if (!(fabs((double)l->top[t] - (double)logprob[t]) <= allowed))
      fail_msg("%s: after %d tokens %.9g, alone %.9g", kinds[l->kind], t + 1, (double)l->top[t],
               (double)logprob[t]);
    if ((double)l->gap[t] > 2 * allowed)
      assert_int_equal(l->best[t], best[t]);
    else
      x->close++;
    x->compared++;
  }
  rp_session_close(s);
}

static void leave(soak *x, life *l) {
  compare(x, l);
  rp_session_close(l->s);
  *l = (life){0};
  x->left++;
}

static void note(life *l, const float *z) {
  int best = 0;
  double sum = 0, second = -INFINITY;
  for (int v = 1; v < WORLD_V; v++)
    if (z[v] > z[best]) best = v;
  for (int v = 0; v < WORLD_V; v++) {
    sum += exp((double)z[v] - (double)z[best]);
    if (v != best && (double)z[v] > second) second = z[v];
  }
  const int t = l->n - 1;
  l->said[t] = true;
  l->best[t] = best;
  l->top[t] = (float)-log(sum);
  l->gap[t] = (float)((double)z[best] - second);
}

/* Some sessions, most by the token they said last, some by a piece of text. */
static void step(soak *x, rp_rng *r) {
  static float z[ROWS][WORLD_V];
  rp_error err = {0};
  rp_feed f[ROWS];
  life *who[ROWS];
  int rows = 0, room = 160;
  for (int k = 0, i = check_pick(r, 0, SESSIONS - 1); k < SESSIONS; k++, i = (i + 1) % SESSIONS) {
    life *l = &x->l[i];
    if (!l->s || rows == ROWS || l->n == LONGEST || check_pick(r, 0, 3) == 0) continue;
    int n = l->n && check_pick(r, 0, 7) ? 1 : check_pick(r, 1, 20);
    if (n > LONGEST - l->n) n = LONGEST - l->n;
    if (n > room) break;
    for (int t = 0; t < n; t++) l->ids[l->n + t] = check_pick(r, 0, WORLD_V - 1);
    if (n == 1 && l->n && l->said[l->n - 1]) l->ids[l->n] = l->best[l->n - 1];
    who[rows] = l;
    f[rows] = (rp_feed){.session = l->s, .ids = l->ids + l->n, .n = n, .logits = z[rows]};
    rows++;
    room -= n;
  }
  if (!rows) return;
  const uint64_t used = engine_used(x->many);
  const rp_status st = rp_engine_call(x->many, f, rows, &err);
  x->calls++;
  if (st == RP_NO_MEMORY) { /* nothing has changed; somebody leaves */
    assert_int_equal(engine_used(x->many), used);
    x->full++;
    leave(x, who[check_pick(r, 0, rows - 1)]);
    return;
  }
  check_ok(st, err);
  for (int i = 0; i < rows; i++) {
    for (int64_t t = 0; t < f[i].n; t++) who[i]->said[who[i]->n + t] = false;
    who[i]->n += (int)f[i].n;
    assert_int_equal(rp_session_tokens(who[i]->s), who[i]->n);
    note(who[i], z[i]);
  }
}

static void come_and_go(soak *x, rp_rng *r) {
  rp_error err = {0};
  life *l = &x->l[check_pick(r, 0, SESSIONS - 1)], *from = &x->l[check_pick(r, 0, SESSIONS - 1)];
  if (!l->s && from->s && check_pick(r, 0, 1)) {
    *l = *from;
    check_ok(rp_session_fork(&l->s, from->s, &err), err);
    x->forked++;
  } else if (!l->s) {
    l->kind = check_pick(r, 0, KINDS - 1);
    check_ok(rp_session_open(&l->s, x->many, kinds[l->kind], LONGEST, &err), err);
    x->joined++;
  } else if (l->n == LONGEST || check_pick(r, 0, 9) == 0) {
    leave(x, l);
  } else if (l->n > 0) {
    const int back = l->n - check_pick(r, 0, R);
    if (back > 0 && rp_session_truncate(l->s, back, &err) == RP_OK) {
      compare(x, l);
      l->n = back;
      x->cut++;
    }
  }
}

static void every_step_is_that_of_a_lone_run(void **state) {
  (void)state;
  static soak x;
  const char *seconds = getenv("SOAK_SECONDS");
  const double end = seconds && *seconds ? rp_now() + strtod(seconds, NULL) : 0;
  rp_rng r = check_rng(1);
  rp_threads_set(1);
  open_engines(&x, &r);
  for (int i = 0; end > 0 ? rp_now() < end : i < check_rounds(CALLS); i++) {
    for (int k = check_pick(&r, 0, 4); k > 0; k--) come_and_go(&x, &r);
    step(&x, &r);
  }
  for (int i = 0; i < SESSIONS; i++)
    if (x.l[i].s) leave(&x, &x.l[i]);
  printf(
      "# %d calls, %d joined, %d forked, %d cut, %d left, %d times full; %lld steps compared, "
      "%lld too close to tell tokens\n",
      x.calls, x.joined, x.forked, x.cut, x.left, x.full, (long long)x.compared,
      (long long)x.close);
  assert_true(x.joined > 10 && x.forked > 10 && x.cut > 10 && x.full > 0 && x.compared > 100);
  assert_int_equal(engine_used(x.many), 0);
  rp_engine_close(x.many);
  rp_engine_close(x.alone);
  world_close(&x.w);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(every_step_is_that_of_a_lone_run)};
CHECK_MAIN(tests)
