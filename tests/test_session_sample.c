/* The sampler: against goldens of an independent implementation, its laws over random logits, and the
 * frequencies of what it draws. */
#include <math.h>

#include "base/json.h"
#include "check.h"
#include "session/sample.h"

static void open_sampler(rp_sampler *s, rp_sample_work *w, int V, const rp_sample_opts *o,
                         uint64_t stream) {
  rp_error err = {0};
  check_ok(rp_sample_work_open(w, V, &err), err);
  check_ok(rp_sampler_open(s, V, o, stream, &err), err);
}

static int32_t next(rp_sampler *s, rp_sample_work *w, const float *logits) {
  rp_error err = {0};
  int32_t id = -1;
  check_ok(rp_sampler_next(s, w, logits, &id, &err), err);
  return id;
}

/* ---- goldens ---- */

static double real_of(const rp_json *c, const char *key) { return rp_json_get(c, key)->real; }

static void follow_case(const rp_json *c, int number) {
  rp_sampler s;
  rp_sample_work w;
  rp_sample_opts o;
  float logits[128];
  int V = 0;
  rp_sample_defaults(&o);
  for (const rp_json *x = rp_json_get(c, "logits")->child; x; x = x->next)
    logits[V++] = x->type == RP_JSON_NULL ? -INFINITY : (float)x->real;
  o.temperature = real_of(c, "temperature");
  o.top_k = (int)real_of(c, "top_k");
  o.top_p = real_of(c, "top_p");
  o.min_p = real_of(c, "min_p");
  o.repeat_penalty = real_of(c, "repeat_penalty");
  o.seed = strtoull(rp_json_get(c, "seed")->string, NULL, 10);
  open_sampler(&s, &w, V, &o, (uint64_t)rp_json_get(c, "stream")->integer);
  for (const rp_json *x = rp_json_get(c, "seen")->child; x; x = x->next)
    rp_sampler_took(&s, (int32_t)x->integer);
  uint64_t seen[2] = {0}, index = s.index;
  if (s.seen) memcpy(seen, s.seen, ((size_t)V + 63) / 64 * sizeof *seen);
  for (const rp_json *x = rp_json_get(c, "drawn")->child; x; x = x->next) {
    const int32_t id = next(&s, &w, logits);
    if (id != x->integer)
      fail_msg("case %d, index %llu: drew %d, wanted %lld", number, (unsigned long long)index, id,
               (long long)x->integer);
    assert_int_equal(s.index, ++index);
    if (s.seen) memcpy(s.seen, seen, ((size_t)V + 63) / 64 * sizeof *seen);
  }
  rp_sampler_close(&s);
  rp_sample_work_close(&w);
}

static void goldens(void **state) {
  (void)state;
  rp_error err = {0};
  rp_json_doc *doc;
  char *text;
  size_t len;
  int n = 0;
  check_ok(rp_file_read(check_source("tests/data/golden/sample.json"), 1 << 20, &text, &len, &err),
           err);
  check_ok(rp_json_parse(&doc, text, len, "sample.json", &err), err);
  for (const rp_json *c = rp_json_root(doc)->child; c; c = c->next) follow_case(c, n++);
  assert_true(n >= 100);
  rp_json_free(doc);
  rp_free(text);
}

/* ---- laws ---- */

static void random_logits(rp_rng *r, float *logits, int V) {
  const double spread = check_pick(r, 1, 8);
  for (int i = 0; i < V; i++) logits[i] = (float)(spread * rp_rng_normal(r));
  if (check_pick(r, 0, 1))
    for (int i = 0; i < V; i++) logits[i] = roundf(logits[i]);
}

static int argmax(const float *l, int V) {
  int best = 0;
  for (int i = 1; i < V; i++)
    if (l[i] > l[best]) best = i;
  return best;
}

/* Every way to leave nothing but the likeliest gives it, at any temperature and index. */
static void only_the_likeliest_is_left(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  float logits[300];
  for (int k = 0; k < 500; k++) {
    const int V = check_pick(&r, 1, 300);
    rp_sample_opts o;
    rp_sampler s;
    rp_sample_work w;
    random_logits(&r, logits, V);
    rp_sample_defaults(&o);
    o.seed = rp_rng_u64(&r);
    const int how = k % 4;
    if (how) o.temperature = 0.1 + 3 * rp_rng_uniform(&r);
    if (how == 1) o.top_k = 1;
    if (how == 2) o.top_p = 1e-12;
    open_sampler(&s, &w, V, &o, rp_rng_u64(&r) >> 20);
    if (how == 3) s.o.temperature = 1e-300; /* all others underflow, but for ties */
    const int best = argmax(logits, V);
    for (int i = 0; i < 5; i++) {
      const int32_t id = next(&s, &w, logits);
      if (how < 3)
        assert_int_equal(id, best);
      else
        assert_true(logits[id] == logits[best]);
    }
    rp_sampler_close(&s);
    rp_sample_work_close(&w);
  }
}

/* What is drawn is a function of (logits, settings, seed, stream, index), not of what came before; and
 * it does differ with each of them. */
static void draws_depend_on_seed_stream_and_index_alone(void **state) {
  (void)state;
  enum { V = 50, N = 200 };
  rp_rng r = check_rng(2);
  static float logits[N][V];
  rp_sample_opts o;
  rp_sampler a, b[3];
  rp_sample_work w;
  rp_error err = {0};
  int32_t first[N];
  int differ[3] = {0};
  rp_sample_defaults(&o);
  o.temperature = 1;
  o.seed = 7;
  for (int i = 0; i < N; i++) random_logits(&r, logits[i], V);
  open_sampler(&a, &w, V, &o, 3);
  for (int i = 0; i < N; i++) first[i] = next(&a, &w, logits[i]);
  check_ok(rp_sampler_open(&b[0], V, &o, 3, &err), err);
  check_ok(rp_sampler_open(&b[1], V, &o, 4, &err), err);
  o.seed++;
  check_ok(rp_sampler_open(&b[2], V, &o, 3, &err), err);
  for (int i = N - 1; i >= 0; i--) {
    for (int k = 0; k < 3; k++) {
      b[k].index = (uint64_t)i;
      differ[k] += next(&b[k], &w, logits[i]) != first[i];
    }
  }
  assert_int_equal(differ[0], 0);
  assert_true(differ[1] > 0 && differ[2] > 0);
  for (int k = 0; k < 3; k++) rp_sampler_close(&b[k]);
  rp_sampler_close(&a);
  rp_sample_work_close(&w);
}

/* ---- frequencies ---- */

/* Pearson's statistic of n draws against the probabilities; bins are those that may be drawn. */
static void frequencies_fit(void **state) {
  (void)state;
  rp_rng r = check_rng(4);
  for (int k = 0; k < 12; k++) {
    enum { V = 12, N = 40000 };
    float logits[V];
    double w[V], sum = 0, chi = 0;
    int count[V] = {0}, bins = 0;
    rp_sample_opts o;
    rp_sampler s;
    rp_sample_work work;
    rp_sample_defaults(&o);
    o.seed = (uint64_t)k;
    o.temperature = 0.5 + 0.25 * k;
    o.min_p = k % 3 == 1 ? 0.05 : 0;
    o.top_k = k % 3 == 2 ? 6 : 0;
    for (int i = 0; i < V; i++) logits[i] = (float)rp_rng_normal(&r);
    open_sampler(&s, &work, V, &o, 11);
    const double top = logits[argmax(logits, V)];
    for (int i = 0; i < V; i++) {
      int before = 0;
      for (int j = 0; j < V; j++) before += logits[j] > logits[i];
      w[i] = exp((logits[i] - top) / o.temperature);
      if (w[i] < o.min_p || (o.top_k && before >= o.top_k)) w[i] = 0;
      sum += w[i];
      bins += w[i] > 0;
    }
    for (int i = 0; i < N; i++) count[next(&s, &work, logits)]++;
    for (int i = 0; i < V; i++) {
      const double want = N * w[i] / sum;
      if (want == 0) assert_int_equal(count[i], 0);
      if (want > 0) chi += (count[i] - want) * (count[i] - want) / want;
    }
    /* Wilson and Hilferty: the cube root of chi / df is nearly normal; 4.5 sigma is 3e-6 a case. */
    const double df = bins - 1;
    assert_true(df > 1);
    const double z = (cbrt(chi / df) - (1 - 2 / (9 * df))) / sqrt(2 / (9 * df));
    if (!(z < 4.5)) fail_msg("case %d: chi-square %.1f over %g degrees, z %.2f", k, chi, df, z);
    rp_sampler_close(&s);
    rp_sample_work_close(&work);
  }
}

/* ---- what is refused ---- */

static void settings_out_of_range(void **state) {
  (void)state;
  rp_error err;
  rp_sample_opts o;
  static const double bad_temperature[] = {-1, NAN, INFINITY}, bad_p[] = {0, -0.1, 1.1, NAN};
  for (size_t i = 0; i < 3; i++) {
    rp_sample_defaults(&o);
    o.temperature = bad_temperature[i];
    check_fails(rp_sample_check(&o, &err), RP_USAGE, err, "temperature");
  }
  for (size_t i = 0; i < 4; i++) {
    rp_sample_defaults(&o);
    o.top_p = bad_p[i];
    check_fails(rp_sample_check(&o, &err), RP_USAGE, err, "top-p");
    rp_sample_defaults(&o);
    o.min_p = i ? bad_p[i] : -1;
    check_fails(rp_sample_check(&o, &err), RP_USAGE, err, "min-p");
    rp_sample_defaults(&o);
    o.repeat_penalty = i == 2 ? INFINITY : bad_p[i];
    check_fails(rp_sample_check(&o, &err), RP_USAGE, err, "repeat penalty");
  }
  rp_sample_defaults(&o);
  o.top_k = -1;
  check_fails(rp_sample_check(&o, &err), RP_USAGE, err, "top-k -1");
}

static void logits_that_are_none(void **state) {
  (void)state;
  static const float bad[] = {NAN, INFINITY};
  rp_error err;
  rp_sample_opts o;
  rp_sampler s;
  rp_sample_work w;
  int32_t id;
  rp_sample_defaults(&o);
  open_sampler(&s, &w, 4, &o, 0);
  for (int i = 0; i < 2; i++) {
    const float logits[] = {0, 1, bad[i], 2};
    check_fails(rp_sampler_next(&s, &w, logits, &id, &err), RP_FAIL, err, "token 2 is not finite");
  }
  const float none[] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
  check_fails(rp_sampler_next(&s, &w, none, &id, &err), RP_FAIL, err, "no logit is finite");
  rp_sampler_close(&s);
  rp_sample_work_close(&w);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(goldens),
    cmocka_unit_test(only_the_likeliest_is_left),
    cmocka_unit_test(draws_depend_on_seed_stream_and_index_alone),
    cmocka_unit_test(frequencies_fit),
    cmocka_unit_test(settings_out_of_range),
    cmocka_unit_test(logits_that_are_none),
};
CHECK_MAIN(tests)
