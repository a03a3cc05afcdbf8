#include "session/sample.h"

#include <math.h>

#include "base/rng.h"

void rp_sample_defaults(rp_sample_opts *o) {
  *o = (rp_sample_opts){.size = sizeof *o, .repeat_penalty = 1, .top_p = 1};
}

rp_status rp_sample_check(const rp_sample_opts *o, rp_error *err) {
  /* Written so that NaN is out of every range. */
  if (!(o->temperature >= 0 && o->temperature < INFINITY))
    return rp_fail(err, RP_USAGE, "temperature %g: must be 0 (greedy) or more", o->temperature);
  if (o->top_k < 0) return rp_fail(err, RP_USAGE, "top-k %d: must be 0 (all) or more", o->top_k);
  if (!(o->top_p > 0 && o->top_p <= 1))
    return rp_fail(err, RP_USAGE, "top-p %g: must be above 0 and at most 1 (all)", o->top_p);
  if (!(o->min_p >= 0 && o->min_p <= 1))
    return rp_fail(err, RP_USAGE, "min-p %g: must be from 0 (all) to 1", o->min_p);
  if (!(o->repeat_penalty > 0 && o->repeat_penalty < INFINITY))
    return rp_fail(err, RP_USAGE, "repeat penalty %g: must be above 0; 1 is none",
                   o->repeat_penalty);
  return RP_OK;
}

rp_status rp_sample_work_open(rp_sample_work *w, int V, rp_error *err) {
  w->at = rp_malloc((size_t)V, sizeof *w->at);
  return w->at ? RP_OK : rp_fail_memory(err, (size_t)V * sizeof *w->at, "sampling");
}

void rp_sample_work_close(rp_sample_work *w) {
  rp_free(w->at);
  w->at = NULL;
}

rp_status rp_sampler_open(rp_sampler *s, int V, const rp_sample_opts *o, uint64_t stream,
                          rp_error *err) {
  const size_t words = ((size_t)V + 63) / 64;
  *s = (rp_sampler){.o = *o, .stream = stream, .V = V};
  RP_TRY(rp_sample_check(o, err));
  if (o->repeat_penalty == 1) return RP_OK;
  s->seen = rp_calloc(words, sizeof *s->seen);
  return s->seen ? RP_OK : rp_fail_memory(err, words * sizeof *s->seen, "a repetition penalty");
}

void rp_sampler_close(rp_sampler *s) {
  rp_free(s->seen);
  *s = (rp_sampler){0};
}

bool rp_sampler_is_plain(const rp_sampler *s) { return s->o.temperature == 0 && !s->seen; }

void rp_sampler_took(rp_sampler *s, int32_t id) {
  if (s->seen) s->seen[id / 64] |= (uint64_t)1 << id % 64;
  s->index++;
}

/* ---- candidates: ordered by likelihood or by id, in heaps ---- */

typedef bool (*before_fn)(const rp_candidate *a, const rp_candidate *b);

static bool likelier(const rp_candidate *a, const rp_candidate *b) {
  return a->l > b->l || (a->l == b->l && a->id < b->id);
}

static bool higher(const rp_candidate *a, const rp_candidate *b) { return a->id > b->id; }

static void sift(rp_candidate *c, int n, int i, before_fn before) {
  const rp_candidate x = c[i];
  for (int child; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && before(&c[child + 1], &c[child])) child++;
    if (!before(&c[child], &x)) break;
    c[i] = c[child];
  }
  c[i] = x;
}

static void make_heap(rp_candidate *c, int n, before_fn before) {
  for (int i = n / 2; i-- > 0;) sift(c, n, i, before);
}

/* Moves the first of a heap of n behind the n - 1 others. */
static void pop(rp_candidate *c, int n, before_fn before) {
  const rp_candidate first = c[0];
  c[0] = c[n - 1];
  sift(c, n - 1, 0, before);
  c[n - 1] = first;
}

/* ---- from logits to one token ---- */

static double penalised(const rp_sampler *s, int id, float logit) {
  if (!s->seen || !(s->seen[id / 64] >> id % 64 & 1)) return logit;
  return logit >= 0 ? logit / s->o.repeat_penalty : logit * s->o.repeat_penalty;
}

/* Fills the candidates in order of id; *largest is where the likeliest stands. */
static rp_status gather(const rp_sampler *s, const float *logits, rp_candidate *c, int *n,
                        int *largest, rp_error *err) {
  *n = 0;
  *largest = 0;
  for (int id = 0; id < s->V; id++) {
    if (isnan(logits[id]) || logits[id] == INFINITY)
      return rp_fail(err, RP_FAIL,
                     "the logit of token %d is not finite; the model's weights are broken, or "
                     "bfloat16 is too narrow for them (try --dtype float32)",
                     id);
    if (logits[id] == -INFINITY) continue;
    c[*n] = (rp_candidate){.l = penalised(s, id, logits[id]), .id = id};
    if (likelier(&c[*n], &c[*largest])) *largest = *n;
    ++*n;
  }
  return *n ? RP_OK : rp_fail(err, RP_FAIL, "no logit is finite; the model's weights are broken");
}

static double mass(const rp_candidate *c, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += c[i].w;
  return sum;
}

/* Takes the likeliest out of the heap c[0, n), to its end, as top-k and top-p say; returns how many.
 * They stand in c[n - count, n), the likeliest last. */
static int take_top(const rp_sample_opts *o, rp_candidate *c, int n) {
  const int most = o->top_k > 0 && o->top_k < n ? o->top_k : n;
  int count = 0;
  if (o->top_p == 1) {
    for (; count < most; count++) pop(c, n - count, likelier);
    return count;
  }
  /* The mass is that of the most: without top-k of all, which need not be sorted for it. */
  double all = mass(c, n), sum = 0;
  if (most < n) {
    for (int i = 0; i < most; i++) pop(c, n - i, likelier);
    all = mass(c + n - most, most);
  }
  while (count < most && sum < o->top_p * all) {
    if (most == n) pop(c, n - count, likelier);
    sum += c[n - ++count].w;
  }
  return count;
}

static void sort_by_id(rp_candidate *c, int n) {
  make_heap(c, n, higher);
  for (int i = n; i > 1; i--) pop(c, i, higher);
}

/* Leaves the candidates that may be drawn in c[0, result), in order of id. */
static int keep(const rp_sample_opts *o, rp_candidate *c, int n) {
  const bool top = (o->top_k > 0 && o->top_k < n) || o->top_p < 1;
  int kept = 0, from = 0;
  if (top) {
    make_heap(c, n, likelier);
    from = n - take_top(o, c, n);
  }
  for (int i = from; i < n; i++)
    if (c[i].w >= o->min_p) c[kept++] = c[i];
  if (top) sort_by_id(c, kept);
  return kept;
}

static int32_t draw(const rp_sampler *s, const rp_candidate *c, int n) {
  uint32_t x[4];
  rp_philox(s->o.seed, RP_RNG_SAMPLE, s->stream, s->index, x);
  const double u = (double)((x[0] | (uint64_t)x[1] << 32) >> 11) * 0x1p-53; /* [0, 1) */
  const double target = u * mass(c, n);
  double sum = 0;
  int last = 0;
  for (int i = 0; i < n; i++) {
    sum += c[i].w;
    if (sum > target) return c[i].id;
    if (c[i].w > 0) last = i;
  }
  return c[last].id;
}

rp_status rp_sampler_next(rp_sampler *s, rp_sample_work *w, const float *logits, int32_t *id,
                          rp_error *err) {
  rp_candidate *c = w->at;
  int n, largest;
  RP_TRY(gather(s, logits, c, &n, &largest, err));
  *id = c[largest].id;
  if (s->o.temperature > 0) {
    const double top = c[largest].l;
    for (int i = 0; i < n; i++) c[i].w = exp((c[i].l - top) / s->o.temperature);
    *id = draw(s, c, keep(&s->o, c, n));
  }
  rp_sampler_took(s, *id);
  return RP_OK;
}
