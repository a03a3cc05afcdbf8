/* Requests decoded together, and scores: laid beside the same done alone, one token a call.
 * label: tsan */
#include <math.h>

#include "base/json.h"
#include "model_box.h"
#include "ratplus/generate.h"
#include "session/engine.h"
#include "session/sample.h"

enum { V = 29, SEQ = 160 };

/* A model with weights large enough that no two tokens are near, in double. */
typedef struct {
  box b;
  rp_model *m;
  rp_weights w;
} lab;

static void lab_open(lab *l, uint64_t stream, int seq_len) {
  rp_error err = {0};
  rp_rng r = check_rng(stream);
  rp_model_settings m = box_settings(2, 2, 1, 8, 24, V);
  m.max_seq_len = seq_len;
  box_open(&l->b, RP_DEVICE_REF64, &m, RP_F32, 1, 8, false);
  box_weights(&l->b, &r, 0.6);
  l->w = rp_params_weights(&l->b.params);
  check_ok(rp_model_borrow(&l->m, l->b.q, &l->b.m, RP_F32, &l->w, &err), err);
}

static void lab_close(lab *l) {
  rp_model_close(l->m);
  rp_pats_free(&l->b.m.pats);
  box_close(&l->b);
}

static rp_engine *engine_open(const lab *l, int chunk, int rows, int wanted, uint64_t bytes) {
  rp_error err = {0};
  rp_engine_opts o;
  rp_engine *e;
  rp_engine_defaults(&o);
  o.chunk = chunk;
  o.rows = rows;
  o.wanted = wanted;
  o.cache_bytes = bytes;
  check_ok(rp_engine_open(&e, l->m, &o, &err), err);
  return e;
}

static uint64_t need(const lab *l, const char *pattern, int64_t tokens) {
  rp_error err = {0};
  uint64_t bytes;
  check_ok(rp_cache_need(l->m, pattern, tokens, 0, &bytes, &err), err);
  return bytes;
}

static const char *const patterns[] = {"D=1", "D=4", "D=4,W=6", "D=8,W=3,I=2", "D=-1,W=9,I=1"};

static const char *pick_pattern(rp_rng *r) { return patterns[check_pick(r, 0, 4)]; }

static void random_ids(rp_rng *r, int32_t *ids, int n) {
  for (int i = 0; i < n; i++) ids[i] = check_pick(r, 0, V - 1);
}

/* ---- alone ---- */

/* Feeds ids one by one and gives the logits after the last. */
static void step(rp_session *s, const int32_t *ids, int64_t n, rp_engine *e, float *logits) {
  rp_error err = {0};
  for (int64_t i = 0; i < n; i++) {
    const rp_feed f = {.session = s, .ids = ids + i, .n = 1, .logits = logits};
    check_ok(rp_engine_call(e, &f, 1, &err), err);
  }
}

/* What a request gives by the definition: tokens into out, how many is returned. */
static int64_t alone(const lab *l, const rp_request *q, int32_t *out, rp_end *end) {
  rp_error err = {0};
  rp_engine *e = engine_open(l, 8, 1, 8, 0);
  rp_session *s;
  rp_sampler sampler;
  rp_sample_work w;
  float logits[V];
  int64_t n = 0;
  const int64_t limit = q->limit ? q->limit : SEQ;
  check_ok(rp_session_open(&s, e, q->pattern, limit, &err), err);
  check_ok(rp_sample_work_open(&w, V, &err), err);
  check_ok(rp_sampler_open(&sampler, V, &q->sample, q->stream, &err), err);
  step(s, q->ids, (int64_t)q->n, e, logits);
  *end = RP_END_NONE;
  while (*end == RP_END_NONE) {
    check_ok(rp_sampler_next(&sampler, &w, logits, &out[n], &err), err);
    n++;
    for (size_t i = 0; i < q->n_stop_ids; i++)
      if (q->stop_ids[i] == out[n - 1]) *end = RP_END_STOP;
    if (*end) break;
    if (n == q->max_tokens)
      *end = RP_END_TOKENS;
    else if ((int64_t)q->n + n == limit)
      *end = RP_END_LENGTH;
    else
      step(s, &out[n - 1], 1, e, logits);
  }
  rp_sampler_close(&sampler);
  rp_sample_work_close(&w);
  rp_session_close(s);
  rp_engine_close(e);
  return n;
}

/* ---- together ---- */

typedef struct {
  int32_t ids[SEQ], stop[2], want[SEQ + 1], got[SEQ + 1];
  int64_t n_want, n_got;
  rp_end want_end, end;
  rp_request q;
  int64_t number;
  int enough; /* cancels after so many tokens; 0: never */
} job;

static int on_piece(void *ctx, const rp_generated *g) {
  job *j = ctx;
  assert_int_equal(g->request, j->number);
  assert_int_equal(j->end, RP_END_NONE);
  if (g->token >= 0) {
    assert_true(j->n_got <= SEQ);
    j->got[j->n_got++] = g->token;
  }
  assert_int_equal(g->tokens, j->n_got);
  assert_int_equal(g->len, 0);
  if (g->end == RP_END_FAILED) printf("# failed: %s\n", g->error->text);
  j->end = g->end;
  return j->enough && j->n_got >= j->enough;
}

static void make_job(rp_rng *r, job *j, int longest) {
  *j = (job){0};
  rp_request_defaults(&j->q);
  j->q.n = (size_t)check_pick(r, 1, longest);
  random_ids(r, j->ids, (int)j->q.n);
  j->q.ids = j->ids;
  j->q.pattern = pick_pattern(r);
  j->q.max_tokens = check_pick(r, 1, 40);
  if (check_pick(r, 0, 3) == 0) {
    j->q.limit = (int64_t)j->q.n + check_pick(r, 1, 30);
    j->q.max_tokens = -1;
  }
  j->q.sample.temperature = check_pick(r, 0, 1) * 0.7;
  j->q.sample.repeat_penalty = check_pick(r, 0, 2) ? 1 : 1.5;
  j->q.sample.seed = rp_rng_u64(r);
  j->q.stream = rp_rng_below(r, 100);
  j->q.n_stop_ids = (size_t)check_pick(r, 0, 2);
  random_ids(r, j->stop, 2);
  j->q.stop_ids = j->stop;
  j->q.got = on_piece;
  j->q.ctx = j;
}

static void add(rp_generator *g, job *j) {
  rp_error err = {0};
  check_ok(rp_generator_add(g, &j->q, &j->number, &err), err);
}

static void check_job(const job *j) {
  assert_int_equal(j->end, j->want_end);
  assert_int_equal(j->n_got, j->n_want);
  assert_memory_equal(j->got, j->want, (size_t)j->n_want * sizeof *j->got);
}

/* Tokens of every request, whatever its neighbours, the size of calls and of the pool. */
static void together_as_alone(void **state) {
  (void)state;
  rp_error err = {0};
  rp_rng r = check_rng(1);
  lab l;
  lab_open(&l, 100, SEQ);
  for (int k = 0; k < 12; k++) {
    enum { JOBS = 14 };
    static job jobs[JOBS];
    const int chunk = check_pick(&r, 1, 40), rows = check_pick(&r, 1, 10);
    rp_engine *e = engine_open(&l, chunk, rows, check_pick(&r, 1, 12),
                               need(&l, "D=1", SEQ) * (uint64_t)check_pick(&r, 1, 3));
    rp_generator *g;
    int64_t left = 1;
    int added = 0;
    rp_engine_facts facts = {.size = sizeof facts};
    check_ok(rp_generator_open(&g, l.m, e, NULL, &err), err);
    for (int i = 0; i < JOBS; i++) {
      make_job(&r, &jobs[i], 70);
      jobs[i].n_want = alone(&l, &jobs[i].q, jobs[i].want, &jobs[i].want_end);
    }
    while (left || added < JOBS) { /* they come between any two steps */
      if (added < JOBS && (!left || !check_pick(&r, 0, 3))) add(g, &jobs[added++]);
      check_ok(rp_generator_step(g, &left, &err), err);
      rp_engine_about(e, &facts);
      assert_true(facts.cache_used <= facts.cache_bytes);
    }
    for (int i = 0; i < JOBS; i++) check_job(&jobs[i]);
    rp_engine_about(e, &facts);
    assert_int_equal(facts.sessions, 0);
    rp_generator_close(g);
    rp_engine_close(e);
  }
  lab_close(&l);
}

/* A session goes on with what comes next as if all had come at once. */
/* Prompts that begin alike, at one place or two: texts are those of each alone, whoever leaves when, and
 * however many fit. */
static void beginnings_in_common(void **state) {
  (void)state;
  rp_error err = {0};
  rp_rng r = check_rng(20);
  lab l;
  lab_open(&l, 120, SEQ);
  for (int k = 0; k < 12; k++) {
    enum { JOBS = 14 };
    static job jobs[JOBS];
    int32_t trunk[2][90];
    rp_generator *g;
    int64_t left = 1;
    int added = 0;
    const int rows = check_pick(&r, 1, 8), fork = check_pick(&r, 17, 40);
    rp_engine *e = engine_open(&l, check_pick(&r, 3, 40), rows, 12,
                               need(&l, "D=1", SEQ) * (uint64_t)check_pick(&r, 1, 6));
    check_ok(rp_generator_open(&g, l.m, e, NULL, &err), err);
    random_ids(&r, trunk[0], 90);
    memcpy(trunk[1], trunk[0], sizeof trunk[1]);
    random_ids(&r, trunk[1] + fork, 90 - fork);
    for (int i = 0; i < JOBS; i++) {
      make_job(&r, &jobs[i], 70);
      const int from = check_pick(&r, 0, (int)jobs[i].q.n);
      memcpy(jobs[i].ids, trunk[check_pick(&r, 0, 1)], (size_t)from * sizeof *jobs[i].ids);
      if (check_pick(&r, 0, 3)) jobs[i].q.pattern = patterns[k % 2 + 1];
      jobs[i].n_want = alone(&l, &jobs[i].q, jobs[i].want, &jobs[i].want_end);
      if (check_pick(&r, 0, 4) == 0) jobs[i].enough = check_pick(&r, 1, 3);
    }
    while (left || added < JOBS) {
      while (added < JOBS && (!left || check_pick(&r, 0, 2))) {
        add(g, &jobs[added++]);
        left = 1;
      }
      if (added && check_pick(&r, 0, 9) == 0)
        rp_generator_cancel(g, jobs[check_pick(&r, 0, added - 1)].number);
      check_ok(rp_generator_step(g, &left, &err), err);
    }
    for (int i = 0; i < JOBS; i++) {
      assert_true(jobs[i].end != RP_END_FAILED && jobs[i].end != RP_END_NONE);
      if (jobs[i].end != RP_END_CANCELLED) check_job(&jobs[i]);
      assert_memory_equal(jobs[i].got, jobs[i].want, (size_t)jobs[i].n_got * sizeof *jobs[i].got);
    }
    rp_engine_facts facts = {.size = sizeof facts};
    rp_engine_about(e, &facts);
    assert_int_equal(facts.sessions, 0);
    assert_int_equal(facts.cache_used, 0);
    rp_generator_close(g);
    rp_engine_close(e);
  }
  lab_close(&l);
}

/* A beginning of 50 tokens is fed once and held once, also for those that join later. */
static void a_beginning_counted(void **state) {
  (void)state;
  enum { JOBS = 9, TRUNK = 50, MADE = 5 };
  static job jobs[JOBS];
  rp_error err = {0};
  rp_rng r = check_rng(21);
  int32_t trunk[TRUNK];
  lab l;
  lab_open(&l, 121, SEQ);
  random_ids(&r, trunk, TRUNK);
  const uint64_t one = need(&l, "D=1", 16), most = need(&l, "D=1", TRUNK + 20);
  for (int k = 0; k < 3; k++) { /* all at once; three at a time; the same without room to spare */
    rp_generator *g;
    int64_t left = 1, own = 0;
    uint64_t bytes = one * (TRUNK / 16 + 1), highest = 0;
    rp_engine *e = engine_open(&l, 40, k ? 3 : JOBS, 12, k == 2 ? most : most * (JOBS + 1));
    check_ok(rp_generator_open(&g, l.m, e, NULL, &err), err);
    for (int i = 0; i < JOBS; i++) {
      jobs[i] = (job){0};
      rp_request_defaults(&jobs[i].q);
      const int tail = i == JOBS - 1 ? 0 : check_pick(&r, 1, 12); /* the last is the trunk alone */
      memcpy(jobs[i].ids, trunk, sizeof trunk);
      random_ids(&r, jobs[i].ids + TRUNK, tail);
      jobs[i].ids[TRUNK] = i;
      jobs[i].q.ids = jobs[i].ids;
      jobs[i].q.n = (size_t)(TRUNK + tail);
      jobs[i].q.pattern = "D=1";
      jobs[i].q.max_tokens = MADE;
      jobs[i].q.got = on_piece;
      jobs[i].q.ctx = &jobs[i];
      jobs[i].n_want = alone(&l, &jobs[i].q, jobs[i].want, &jobs[i].want_end);
      own += tail ? tail : 1;
      bytes += one * (uint64_t)((TRUNK + tail + MADE + 15) / 16 - TRUNK / 16 + 1);
      add(g, &jobs[i]);
    }
    while (left) {
      rp_engine_facts f = {.size = sizeof f};
      check_ok(rp_generator_step(g, &left, &err), err);
      rp_engine_about(e, &f);
      if (f.cache_used > highest) highest = f.cache_used;
    }
    for (int i = 0; i < JOBS; i++) check_job(&jobs[i]);
    rp_generator_facts f = {.size = sizeof f};
    rp_generator_about(g, &f);
    if (k < 2)
      assert_int_equal(f.prompt_tokens, TRUNK + own);
    else
      assert_true(f.prompt_tokens >= TRUNK + own);
    assert_true(highest <= bytes && (k || highest < JOBS * need(&l, "D=1", TRUNK)));
    rp_generator_close(g);
    rp_engine_close(e);
  }
  lab_close(&l);
}

static void a_session_goes_on(void **state) {
  (void)state;
  rp_error err = {0};
  rp_rng r = check_rng(2);
  lab l;
  static job one, two;
  int32_t all[SEQ];
  lab_open(&l, 101, SEQ);
  rp_engine *e = engine_open(&l, 16, 4, 16, 0);
  rp_generator *g;
  rp_session *s;
  check_ok(rp_generator_open(&g, l.m, e, NULL, &err), err);
  check_ok(rp_session_open(&s, e, "D=4,W=6", SEQ, &err), err);
  make_job(&r, &one, 20);
  one.q.n_stop_ids = 0;
  one.q.limit = 0;
  one.q.max_tokens = 9;
  one.q.session = s;
  add(g, &one);
  check_ok(rp_generator_run(g, NULL, &err), err);
  assert_int_equal(one.end, RP_END_TOKENS);
  assert_int_equal(rp_session_tokens(s), (int64_t)one.q.n + 8); /* all but the last */
  make_job(&r, &two, 20);
  two.q.n_stop_ids = 0;
  two.q.limit = 0;
  two.q.max_tokens = 9;
  two.ids[0] = one.got[8];
  two.q.session = s;
  add(g, &two);
  check_ok(rp_generator_run(g, NULL, &err), err);
  memcpy(all, one.ids, one.q.n * sizeof *all);
  memcpy(all + one.q.n, one.got, 8 * sizeof *all);
  memcpy(all + one.q.n + 8, two.ids, two.q.n * sizeof *all);
  rp_request q = two.q;
  q.session = NULL;
  q.pattern = "D=4,W=6";
  q.ids = all;
  q.n = one.q.n + 8 + two.q.n;
  two.n_want = alone(&l, &q, two.want, &two.want_end);
  check_job(&two);
  rp_generator_close(g);
  rp_session_close(s);
  rp_engine_close(e);
  lab_close(&l);
}

static void cancelled(void **state) {
  (void)state;
  rp_error err = {0};
  rp_rng r = check_rng(3);
  lab l;
  static job jobs[5];
  lab_open(&l, 102, SEQ);
  rp_engine *e = engine_open(&l, 64, 2, 16, 0);
  rp_generator *g;
  int64_t left;
  const volatile sig_atomic_t stop = 1;
  check_ok(rp_generator_open(&g, l.m, e, NULL, &err), err);
  for (int i = 0; i < 5; i++) {
    make_job(&r, &jobs[i], 5);
    jobs[i].q.pattern = "D=8";
    jobs[i].q.n_stop_ids = 0;
    jobs[i].q.limit = 0;
    jobs[i].q.max_tokens = 12;
    jobs[i].enough = i == 0 ? 3 : 0;
    add(g, &jobs[i]);
  }
  assert_int_equal(rp_generator_run(g, &stop, &err), RP_STOPPED);
  check_ok(rp_generator_step(g, &left, &err), err);
  rp_generator_cancel(g, jobs[1].number); /* under way */
  rp_generator_cancel(g, jobs[3].number); /* waiting */
  rp_generator_cancel(g, 12345);
  check_ok(rp_generator_run(g, NULL, &err), err);
  static const rp_end want[] = {RP_END_CANCELLED, RP_END_CANCELLED, RP_END_TOKENS, RP_END_CANCELLED,
                                RP_END_TOKENS};
  static const int tokens[] = {3, 1, 12, 0, 12};
  for (int i = 0; i < 5; i++) {
    assert_int_equal(jobs[i].end, want[i]);
    assert_int_equal(jobs[i].n_got, tokens[i]);
  }
  rp_generator_facts f = {.size = sizeof f};
  rp_generator_about(g, &f);
  assert_int_equal(f.tokens, 28);
  assert_int_equal(f.running + f.waiting, 0);
  /* Closed in the middle: sessions go too. */
  for (int i = 0; i < 5; i++) {
    jobs[i].end = RP_END_NONE;
    jobs[i].n_got = jobs[i].enough = 0;
    add(g, &jobs[i]);
  }
  check_ok(rp_generator_step(g, &left, &err), err);
  assert_int_equal(left, 5);
  rp_generator_close(g);
  rp_engine_close(e);
  lab_close(&l);
}

static void requests_refused(void **state) {
  (void)state;
  rp_error err;
  rp_rng r = check_rng(4);
  lab l;
  static job j;
  lab_open(&l, 103, SEQ);
  const uint64_t pool = need(&l, "D=1", 64);
  rp_engine *e = engine_open(&l, 64, 2, 16, pool);
  rp_generator *g;
  int64_t fits;
  char text[64];
  check_ok(rp_generator_open(&g, l.m, e, NULL, &err), err);
  make_job(&r, &j, 10);
  rp_request q = j.q;
  q.n = 0;
  check_fails(rp_generator_add(g, &q, NULL, &err), RP_USAGE, err, "no token");
  q = j.q;
  j.ids[0] = V;
  check_fails(rp_generator_add(g, &q, NULL, &err), RP_USAGE, err, "token 0 of the prompt is 29");
  j.ids[0] = -1;
  check_fails(rp_generator_add(g, &q, NULL, &err), RP_USAGE, err, "token 0 of the prompt is -1");
  j.ids[0] = 0;
  q.limit = (int64_t)q.n;
  check_fails(rp_generator_add(g, &q, NULL, &err), RP_USAGE, err, "length limit is");
  q.limit = 0;
  q.pattern = "D=0";
  assert_int_equal(rp_generator_add(g, &q, NULL, &err), RP_USAGE);
  q = j.q;
  q.sample.temperature = -1;
  check_fails(rp_generator_add(g, &q, NULL, &err), RP_USAGE, err, "temperature");
  q = j.q;
  q.stops = (const char *const[]){""};
  q.n_stops = 1;
  check_fails(rp_generator_add(g, &q, NULL, &err), RP_USAGE, err, "stop string is empty");
  /* A pool that is too small says what it holds; without a number asked for the text ends there. */
  check_ok(rp_cache_fit(l.m, "D=1", pool, 0, SEQ, &fits, &err), err);
  q = j.q;
  q.pattern = "D=1";
  q.limit = 0;
  q.n_stop_ids = 0;
  q.max_tokens = SEQ - (int64_t)q.n;
  snprintf(text, sizeof text, "holds %lld", (long long)fits);
  check_fails(rp_generator_add(g, &q, NULL, &err), RP_NO_MEMORY, err, text);
  q.max_tokens = -1;
  check_ok(rp_generator_add(g, &q, &j.number, &err), err);
  check_ok(rp_generator_run(g, NULL, &err), err);
  assert_int_equal(j.end, RP_END_LENGTH);
  assert_int_equal((int64_t)q.n + j.n_got, fits);
  /* max_tokens 0 is an answer too. */
  j.n_got = 0;
  j.end = RP_END_NONE;
  q.max_tokens = 0;
  check_ok(rp_generator_add(g, &q, &j.number, &err), err);
  check_ok(rp_generator_run(g, NULL, &err), err);
  assert_int_equal(j.end, RP_END_TOKENS);
  assert_int_equal(j.n_got, 0);
  rp_generator_close(g);
  rp_engine_close(e);
  lab_close(&l);
}

/* ---- scores ---- */

typedef struct {
  int32_t ids[SEQ], best[SEQ];
  float logprob[SEQ];
  int n;
} sequence;

/* Sequences that have beginnings in common, are equal, or end inside another; some empty. */
static void make_sequences(rp_rng *r, sequence *s, int n) {
  for (int i = 0; i < n; i++) {
    s[i].n = check_pick(r, 0, 60);
    random_ids(r, s[i].ids, s[i].n);
    if (i && check_pick(r, 0, 3)) {
      const sequence *other = &s[check_pick(r, 0, i - 1)];
      const int same = check_pick(r, 0, other->n);
      memcpy(s[i].ids, other->ids, (size_t)same * sizeof *s[i].ids);
      if (check_pick(r, 0, 4) == 0 || s[i].n < same) s[i].n = same;
    }
  }
}

/* One token a call, from the logits by the definition. */
static void check_scores(const lab *l, const sequence *s, const char *pattern, double tol) {
  rp_error err = {0};
  rp_engine *e = engine_open(l, 1, 1, 1, need(l, "D=1", SEQ));
  rp_session *session;
  float logits[V];
  check_ok(rp_session_open(&session, e, pattern, SEQ, &err), err);
  if (s->n) assert_true(isnan(s->logprob[0]));
  for (int i = 0; i < s->n; i++) {
    double sum = 0;
    int best = 0;
    step(session, &s->ids[i], 1, e, logits);
    for (int v = 0; v < V; v++) {
      sum += exp(logits[v]);
      if (logits[v] > logits[best]) best = v;
    }
    assert_int_equal(s->best[i], best);
    if (i + 1 < s->n) check_close(s->logprob[i + 1], logits[s->ids[i + 1]] - log(sum), tol);
  }
  rp_session_close(session);
  rp_engine_close(e);
}

static void score(const lab *l, rp_engine *e, sequence *s, int n, const rp_score_opts *o) {
  rp_error err = {0};
  rp_scoring list[32];
  for (int i = 0; i < n; i++)
    list[i] = (rp_scoring){s[i].ids, (size_t)s[i].n, s[i].logprob, s[i].best};
  check_ok(rp_score(l->m, e, list, (size_t)n, o, &err), err);
}

typedef struct {
  int64_t done, of;
} progress;

static void on_progress(void *ctx, int64_t done, int64_t of) {
  progress *p = ctx;
  assert_true(done >= p->done && done <= of);
  *p = (progress){done, of};
}

/* Different beginnings of all sequences: what has to be computed. */
static int64_t beginnings(const sequence *s, int n) {
  int64_t count = 0;
  for (int i = 0; i < n; i++)
    for (int len = 1; len <= s[i].n; len++) {
      bool fresh = true;
      for (int j = 0; j < i && fresh; j++)
        fresh = s[j].n < len || memcmp(s[j].ids, s[i].ids, (size_t)len * sizeof *s->ids) != 0;
      count += fresh;
    }
  return count;
}

/* Also of sequences longer than the model was trained at. */
static void scores_of_many(void **state) {
  (void)state;
  rp_rng r = check_rng(5);
  lab l;
  lab_open(&l, 104, 40);
  for (int k = 0; k < 12; k++) {
    static sequence s[32];
    const int n = check_pick(&r, 1, 32);
    const char *pattern = pick_pattern(&r);
    rp_score_opts o;
    progress p = {0};
    rp_engine_facts facts = {.size = sizeof facts};
    rp_score_defaults(&o);
    o.pattern = pattern;
    o.chunk = check_pick(&r, 0, 1) ? check_pick(&r, 1, 9) : 0;
    o.progress = on_progress;
    o.ctx = &p;
    /* From a pool that just holds the longest to one for all: there nothing is computed twice. */
    const int holds = k % 2 ? check_pick(&r, 1, 4) : 64;
    rp_engine *e = engine_open(&l, check_pick(&r, 1, 50), check_pick(&r, 1, 12),
                               check_pick(&r, 1, 50), need(&l, pattern, 60) * (uint64_t)holds);
    int64_t of = 0, computed;
    o.computed = &computed;
    make_sequences(&r, s, n);
    score(&l, e, s, n, &o);
    for (int i = 0; i < n; i++) {
      check_scores(&l, &s[i], pattern, 2e-6);
      of += s[i].n;
    }
    assert_int_equal(p.done, of);
    assert_true(computed >= beginnings(s, n));
    if (holds == 64) assert_int_equal(computed, beginnings(s, n));
    rp_engine_about(e, &facts);
    assert_int_equal(facts.sessions, 0);
    assert_int_equal(facts.cache_used, 0);
    rp_engine_close(e);
  }
  lab_close(&l);
}

/* Sessions of others in the same pool make it dearer, not wrong; too many are an error. */
static void a_pool_shared_with_others(void **state) {
  (void)state;
  rp_error err = {0};
  rp_rng r = check_rng(6);
  lab l;
  static sequence s[20];
  int32_t ids[SEQ];
  rp_session *other;
  lab_open(&l, 105, SEQ);
  rp_engine *e = engine_open(&l, 16, 8, 16, need(&l, "D=1", 60) + need(&l, "D=1", 100));
  random_ids(&r, ids, SEQ);
  check_ok(rp_session_open(&other, e, "D=1", SEQ, &err), err);
  const rp_feed f = {.session = other, .ids = ids, .n = 100};
  check_ok(rp_prefill(&f, NULL, &err), err);
  make_sequences(&r, s, 20);
  rp_score_opts o;
  rp_score_defaults(&o);
  o.pattern = "D=1";
  score(&l, e, s, 20, &o);
  for (int i = 0; i < 20; i++) check_scores(&l, &s[i], "D=1", 2e-6);
  const rp_feed more = {.session = other, .ids = ids, .n = 50};
  check_ok(rp_prefill(&more, NULL, &err), err);
  random_ids(&r, ids, 60);
  const rp_scoring long_one = {ids, 60, NULL, NULL};
  assert_int_equal(rp_score(l.m, e, &long_one, 1, &o, &err), RP_NO_MEMORY);
  rp_session_close(other);
  check_ok(rp_score(l.m, e, &long_one, 1, &o, &err), err); /* results that nobody wants */
  rp_engine_close(e);
  lab_close(&l);
}

static void scores_refused(void **state) {
  (void)state;
  rp_error err;
  rp_rng r = check_rng(7);
  lab l;
  int32_t ids[SEQ];
  int64_t fits;
  char text[64];
  const volatile sig_atomic_t stop = 1;
  lab_open(&l, 106, SEQ);
  const uint64_t pool = need(&l, "D=4", 70);
  rp_engine *e = engine_open(&l, 16, 8, 16, pool);
  rp_score_opts o;
  rp_score_defaults(&o);
  o.pattern = "D=4";
  random_ids(&r, ids, SEQ);
  rp_scoring s[2] = {{ids, 5, NULL, NULL}, {ids, SEQ, NULL, NULL}};
  check_ok(rp_cache_fit(l.m, "D=4", pool, 0, SEQ, &fits, &err), err);
  snprintf(text, sizeof text, "sequence 1 has %d tokens, and the cache holds %lld", SEQ,
           (long long)fits);
  check_fails(rp_score(l.m, e, s, 2, &o, &err), RP_NO_MEMORY, err, text);
  ids[4] = V;
  check_fails(rp_score(l.m, e, s, 1, &o, &err), RP_USAGE, err, "sequence 0: token 4 is 29");
  o.pattern = "D=x";
  assert_int_equal(rp_score(l.m, e, s, 1, &o, &err), RP_USAGE);
  o.pattern = "D=4";
  o.stop = &stop;
  ids[4] = 0;
  assert_int_equal(rp_score(l.m, e, s, 1, &o, &err), RP_STOPPED);
  o.stop = NULL;
  check_ok(rp_score(l.m, e, NULL, 0, &o, &err), err);
  rp_engine_close(e);
  lab_close(&l);
}

/* ---- the authors' own scores ---- */

enum { ROW = 128 };

typedef struct {
  int32_t ids[ROW], best[ROW], want_best[ROW];
  float logprob[ROW];
  double want[ROW];
  int n;
} reference_row;

static void read_row(const rp_json *at, reference_row *r) {
  const rp_json *lp = rp_json_get(at, "logprobs")->child, *top = rp_json_get(at, "argmax")->child;
  *r = (reference_row){0};
  for (const rp_json *t = rp_json_get(at, "tokens")->child; t; t = t->next) {
    assert_true(r->n < ROW);
    r->ids[r->n] = (int32_t)t->integer;
    r->want[r->n] = lp->real;
    r->want_best[r->n++] = (int32_t)top->integer;
    lp = lp->next;
    top = top->next;
  }
  assert_true(!lp && !top);
}

/* All rows of a pattern in one call, and stepping. */
static void reference_scores(void **state) {
  (void)state;
  if (!RATPLUS_WITH_ZIP) skip();
  rp_error err = {0};
  rp_model *m;
  rp_json_doc *doc;
  char *text;
  size_t len;
  rp_model_opts mo;
  rp_model_defaults(&mo);
  mo.dtype = "float32";
  const char *dir = "tests/data/reference/";
  char path[128];
  snprintf(path, sizeof path, "%sscores.json", dir);
  check_ok(rp_file_read(check_source(path), 1 << 20, &text, &len, &err), err);
  check_ok(rp_json_parse(&doc, text, len, path, &err), err);
  snprintf(path, sizeof path, "%sratplus.pth", dir);
  check_ok(rp_model_open(&m, check_source(path), &mo, &err), err);
  for (const rp_json *p = rp_json_root(doc)->child; p; p = p->next) {
    for (int chunk = 0; chunk < 2; chunk++) {
      static reference_row rows[3];
      rp_scoring list[3];
      rp_engine *e;
      rp_engine_opts o;
      rp_score_opts so;
      double most = 0;
      int n = 0;
      for (const rp_json *at = p->child; at; at = at->next, n++) {
        read_row(at, &rows[n]);
        list[n] = (rp_scoring){rows[n].ids, (size_t)rows[n].n, rows[n].logprob, rows[n].best};
      }
      assert_int_equal(n, 3);
      rp_engine_defaults(&o);
      o.cache_bytes = 16 << 20;
      check_ok(rp_engine_open(&e, m, &o, &err), err);
      rp_score_defaults(&so);
      so.pattern = p->key;
      so.chunk = chunk;
      check_ok(rp_score(m, e, list, 3, &so, &err), err);
      for (int k = 0; k < 3; k++) {
        assert_memory_equal(rows[k].best, rows[k].want_best, (size_t)rows[k].n * sizeof(int32_t));
        for (int i = 1; i < rows[k].n; i++)
          most = fmax(most, fabs((double)rows[k].logprob[i] - rows[k].want[i]));
      }
      printf("# %s, %s: log-probabilities to %.1e\n", p->key, chunk ? "stepping" : "at once", most);
      check_close(most, 0, 1e-4);
      rp_engine_close(e);
    }
  }
  rp_model_close(m);
  rp_json_free(doc);
  rp_free(text);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(together_as_alone),   cmocka_unit_test(beginnings_in_common),
    cmocka_unit_test(a_beginning_counted), cmocka_unit_test(a_session_goes_on),
    cmocka_unit_test(cancelled),           cmocka_unit_test(requests_refused),
    cmocka_unit_test(scores_of_many),      cmocka_unit_test(a_pool_shared_with_others),
    cmocka_unit_test(scores_refused),      cmocka_unit_test(reference_scores),
};
CHECK_MAIN(tests)
