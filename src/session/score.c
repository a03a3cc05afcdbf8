/* score.c - log-probabilities of given sequences. Sorted, those with a common beginning are
 * neighbours: a span of neighbours is fed as far as they agree, and then forks by its next tokens. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "ratplus/generate.h"
#include "session/origin.h"

typedef struct {
  const rp_scoring *s;
  size_t number; /* as the caller counts */
} sequence;

/* Neighbours [lo, hi) of the sorted sequences, which agree in their first `end` tokens. */
typedef struct {
  size_t lo, hi;
  int64_t end, done;
  int64_t told;    /* tokens counted as done before: they may come again after a loss */
  rp_origin *from; /* while it waits; NULL: from nothing */
  rp_session *s;   /* while it is under way: holds `done` tokens */
  uint64_t need;   /* bytes of pool at `end` */
  int64_t n;       /* tokens in the call */
  bool forks;      /* the call gives logits, for the different tokens that follow its end */
} span;

typedef struct {
  const rp_model *m;
  rp_engine *e;
  const rp_score_opts *o;
  rp_model_facts model;
  rp_engine_facts engine;
  sequence *seq; /* [n], sorted; empty ones are not among them */
  size_t n;
  int64_t longest; /* tokens */
  span *waiting;   /* a stack */
  size_t n_waiting, cap_waiting;
  span *running; /* [rows], the oldest first */
  int n_running, rows;
  uint64_t reserved; /* bytes of pool: the needs of those under way and of origins */
  rp_feed *feeds;    /* [rows] */
  int32_t *next;     /* [chunk]: of all rows, one after the other; so best and logprob */
  int32_t *best;
  float *logprob;
  float *logits; /* [rows, V] */
  int64_t done, of, computed;
} scorer;

void rp_score_defaults(rp_score_opts *o) { *o = (rp_score_opts){.size = sizeof *o}; }

/* ---- before ---- */

static rp_status check_ids(const scorer *w, const sequence *q, rp_error *err) {
  for (size_t i = 0; i < q->s->n; i++)
    if (q->s->ids[i] < 0 || q->s->ids[i] >= w->model.vocab_size)
      return rp_fail(err, RP_USAGE, "sequence %zu: token %zu is %d, and the model has %d tokens",
                     q->number, i, q->s->ids[i], w->model.vocab_size);
  return RP_OK;
}

static rp_status check_fits(scorer *w, rp_error *err) {
  const sequence *longest = NULL;
  int64_t fits;
  for (size_t k = 0; k < w->n; k++)
    if (!longest || w->seq[k].s->n > longest->s->n) longest = &w->seq[k];
  if (!longest) return RP_OK;
  const int64_t n = w->longest = (int64_t)longest->s->n;
  RP_TRY(
      rp_cache_fit(w->m, w->o->pattern, w->engine.cache_bytes, w->engine.rollback, n, &fits, err));
  if (fits >= n) return RP_OK;
  return rp_fail(err, RP_NO_MEMORY,
                 "sequence %zu has %lld tokens, and the cache holds %lld in this pattern; give a "
                 "larger cache, a sparser pattern, or a shorter sequence",
                 longest->number, (long long)n, (long long)fits);
}

static int compare(const void *a, const void *b) {
  const sequence *x = a, *y = b;
  const size_t n = x->s->n < y->s->n ? x->s->n : y->s->n;
  for (size_t i = 0; i < n; i++)
    if (x->s->ids[i] != y->s->ids[i]) return x->s->ids[i] < y->s->ids[i] ? -1 : 1;
  if (x->s->n != y->s->n) return x->s->n < y->s->n ? -1 : 1;
  return x->number < y->number ? -1 : 1;
}

static rp_status open_buffers(scorer *w, rp_error *err) {
  const size_t rows = (size_t)w->rows, chunk = (size_t)w->engine.chunk;
  const size_t cells = rows * (size_t)w->model.vocab_size;
  w->running = rp_calloc(rows, sizeof *w->running);
  w->feeds = rp_calloc(rows, sizeof *w->feeds);
  w->next = rp_malloc(chunk, sizeof *w->next);
  w->best = rp_malloc(chunk, sizeof *w->best);
  w->logprob = rp_malloc(chunk, sizeof *w->logprob);
  w->logits = rp_malloc(cells, sizeof *w->logits);
  if (w->running && w->feeds && w->next && w->best && w->logprob && w->logits) return RP_OK;
  return rp_fail_memory(err, cells * sizeof *w->logits, "scores");
}

static rp_status open_scorer(scorer *w, const rp_scoring *s, size_t n, rp_error *err) {
  w->model.size = sizeof w->model;
  w->engine.size = sizeof w->engine;
  rp_model_about(w->m, &w->model);
  rp_engine_about(w->e, &w->engine);
  w->rows = w->engine.rows;
  w->seq = rp_calloc(n + 1, sizeof *w->seq);
  if (!w->seq) return rp_fail_memory(err, n * sizeof *w->seq, "sequences");
  for (size_t i = 0; i < n; i++) {
    if (!s[i].n) continue;
    w->seq[w->n++] = (sequence){&s[i], i};
    if (s[i].logprob) s[i].logprob[0] = NAN;
    w->of += (int64_t)s[i].n;
    RP_TRY(check_ids(w, &w->seq[w->n - 1], err));
  }
  RP_TRY(check_fits(w, err));
  qsort(w->seq, w->n, sizeof *w->seq, compare);
  return open_buffers(w, err);
}

/* ---- spans ---- */

static const rp_scoring *at(const scorer *w, size_t k) { return w->seq[k].s; }

static rp_status need_of(const scorer *w, int64_t tokens, uint64_t *need, rp_error *err) {
  return rp_cache_need(w->m, w->o->pattern, tokens, w->engine.rollback, need, err);
}

static void close_scorer(scorer *w) {
  for (size_t i = 0; i < w->n_waiting; i++) rp_origin_leave(w->waiting[i].from, &w->reserved);
  for (int i = 0; i < w->n_running; i++) rp_session_close(w->running[i].s);
  rp_free(w->seq);
  rp_free(w->waiting);
  rp_free(w->running);
  rp_free(w->feeds);
  rp_free(w->next);
  rp_free(w->best);
  rp_free(w->logprob);
  rp_free(w->logits);
}

static rp_status push(scorer *w, const span *p, rp_error *err) {
  RP_TRY(rp_grow(&w->waiting, &w->cap_waiting, w->n_waiting + 1, sizeof *w->waiting,
                 "sequences with a common beginning", err));
  w->waiting[w->n_waiting++] = *p;
  return RP_OK;
}

/* Tokens that all of [lo, hi) have in common: sorted, the first and the last decide. */
static int64_t agree(const scorer *w, size_t lo, size_t hi) {
  const rp_scoring *a = at(w, lo), *b = at(w, hi - 1);
  return (int64_t)rp_ids_agree(a->ids, a->n, b->ids, b->n);
}

/* Puts those of [lo, hi) that go on after `depth` tokens on the stack, by the token that follows. */
static rp_status divide(scorer *w, size_t lo, size_t hi, int64_t depth, int64_t told,
                        rp_origin *from, rp_error *err) {
  const size_t bottom = w->n_waiting;
  while (lo < hi && (int64_t)at(w, lo)->n == depth) lo++;
  for (size_t end; lo < hi; lo = end) {
    for (end = lo + 1; end < hi && at(w, end)->ids[depth] == at(w, lo)->ids[depth];) end++;
    span p = {.lo = lo, .hi = end, .end = agree(w, lo, end), .told = told, .from = from};
    RP_TRY(need_of(w, p.end, &p.need, err));
    RP_TRY(push(w, &p, err));
    if (from) from->users++;
  }
  /* Taken from the end: the first in order goes on top. */
  for (size_t a = bottom, b = w->n_waiting; a + 1 < b; a++) {
    const span p = w->waiting[a];
    w->waiting[a] = w->waiting[--b];
    w->waiting[b] = p;
  }
  return RP_OK;
}

/* A span that was fed to its end: its session is where those that go on come from. */
static rp_status branch(scorer *w, const span *p, rp_error *err) {
  if (at(w, p->hi - 1)->n == (size_t)p->end) {
    rp_session_close(p->s);
    return RP_OK;
  }
  rp_origin *from;
  RP_TRY(rp_origin_make(&from, p->s, p->need, &w->reserved, err));
  const rp_status st = divide(w, p->lo, p->hi, p->end, p->told, from, err);
  rp_origin_leave(from, &w->reserved);
  return st;
}

/* Gives the span a session: its origin's, a fork of it, or an empty one, which then is fed again what
 * the others have in common: dearer, not wrong. */
static rp_status start(scorer *w, span *p, rp_error *err) {
  p->done = 0;
  p->s = rp_origin_take(p->from, &w->reserved);
  p->from = NULL;
  if (p->s) p->done = rp_session_tokens(p->s);
  if (p->s) return RP_OK;
  return rp_session_open(&p->s, w->e, w->o->pattern, w->longest, err);
}

static rp_status admit(scorer *w, rp_error *err) {
  span p = w->waiting[--w->n_waiting];
  const rp_status st = start(w, &p, err);
  if (st) return st;
  w->running[w->n_running++] = p;
  w->reserved += p.need;
  return RP_OK;
}

static bool may_admit(const scorer *w) {
  if (!w->n_waiting || w->n_running == w->rows) return false;
  const uint64_t need = w->waiting[w->n_waiting - 1].need;
  return !w->n_running ||
         (w->reserved <= w->engine.cache_bytes && need <= w->engine.cache_bytes - w->reserved);
}

/* The pool is full in spite of what was reckoned (others hold sessions of this engine): origins go
 * first, then the youngest span; the oldest always comes to its end. */
static rp_status make_room(scorer *w, rp_error *err) {
  bool gone = false;
  for (size_t i = 0; i < w->n_waiting; i++) {
    if (rp_origin_drop(w->waiting[i].from, &w->reserved)) gone = true;
  }
  if (gone) return RP_OK;
  if (w->n_running < 2) return RP_NO_MEMORY; /* the sentence is the call's */
  span p = w->running[--w->n_running];
  rp_session_close(p.s);
  w->reserved -= p.need;
  w->rows = w->n_running;
  p.s = NULL;
  return push(w, &p, err);
}

/* ---- a call ---- */

/* The first of the span's sequences that goes on after its end; hi: none. */
static size_t first_going_on(const scorer *w, const span *p) {
  size_t k = p->lo;
  while (k < p->hi && (int64_t)at(w, k)->n == p->end) k++;
  return k;
}

/* Tokens [done, done + n) of a span as row i of the call; their results begin at `from`. */
static void add_feed(scorer *w, int i, span *p, int64_t n, int64_t from) {
  const rp_scoring *s = at(w, p->lo);
  int32_t *next = w->next + from;
  const bool ends = p->done + n == p->end;
  p->n = n;
  p->forks = false;
  for (int64_t k = 0; k < n; k++) next[k] = p->done + k + 1 < p->end ? s->ids[p->done + k + 1] : -1;
  if (ends) {
    const size_t k = first_going_on(w, p);
    if (k < p->hi) next[n - 1] = at(w, k)->ids[p->end];
    p->forks = k < p->hi && next[n - 1] != at(w, p->hi - 1)->ids[p->end];
  }
  w->feeds[i] = (rp_feed){.session = p->s,
                          .ids = s->ids + p->done,
                          .n = n,
                          .next = next,
                          .logprob = w->logprob + from,
                          .best = w->best + from};
  if (p->forks) w->feeds[i].logits = w->logits + (size_t)i * (size_t)w->model.vocab_size;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* Fills a call: the oldest spans first, then waiting ones while there is room. */
static rp_status make_call(scorer *w, int *rows, rp_error *err) {
  const int64_t all = least(w->engine.chunk, w->engine.wanted);
  const int64_t each = w->o->chunk > 0 ? w->o->chunk : all;
  int64_t used = 0;
  *rows = 0;
  while (used < all) {
    if (*rows == w->n_running) {
      if (!may_admit(w)) break;
      RP_TRY(admit(w, err));
    }
    span *p = &w->running[*rows];
    const int64_t n = least(least(each, all - used), p->end - p->done);
    add_feed(w, (*rows)++, p, n, used);
    used += n;
  }
  return RP_OK;
}

static double log_sum(const float *logits, int V) {
  double top = -INFINITY, sum = 0;
  for (int i = 0; i < V; i++)
    if (logits[i] > top) top = logits[i];
  for (int i = 0; i < V; i++) sum += exp((double)logits[i] - top);
  return top + log(sum);
}

/* Gives every sequence of the span what the call says of its tokens. */
static void take_row(scorer *w, span *p, const rp_feed *f) {
  const double lse = p->forks ? log_sum(f->logits, w->model.vocab_size) : 0;
  const size_t from = (size_t)p->done, n = (size_t)f->n;
  for (size_t k = p->lo; k < p->hi; k++) {
    const rp_scoring *s = at(w, k);
    /* Its last token has no next one. */
    const size_t inner = from + n < s->n ? n : s->n - 1 - from;
    if (s->best) memcpy(s->best + from, f->best, n * sizeof *s->best);
    if (!s->logprob) continue;
    memcpy(s->logprob + from + 1, f->logprob, inner * sizeof *s->logprob);
    if (p->forks && inner == n)
      s->logprob[from + n] = (float)((double)f->logits[s->ids[from + n]] - lse);
  }
  p->done += f->n;
  if (p->done > p->told) w->done += (p->done - p->told) * (int64_t)(p->hi - p->lo);
  if (p->done > p->told) p->told = p->done;
}

static rp_status take_results(scorer *w, int rows, rp_error *err) {
  rp_status st = RP_OK;
  int kept = 0;
  for (int i = 0; i < w->n_running; i++) {
    span p = w->running[i];
    if (i < rows) take_row(w, &p, &w->feeds[i]);
    if (p.done < p.end || st) {
      w->running[kept++] = p;
      continue;
    }
    w->reserved -= p.need;
    st = branch(w, &p, err);
  }
  w->n_running = kept;
  return st;
}

static rp_status score_all(scorer *w, rp_error *err) {
  RP_TRY(divide(w, 0, w->n, 0, 0, NULL, err));
  while (w->n_waiting || w->n_running) {
    int rows;
    if (w->o->stop && *w->o->stop) return rp_fail(err, RP_STOPPED, "stopped as asked");
    RP_TRY(make_call(w, &rows, err));
    const rp_status st = rp_engine_call(w->e, w->feeds, rows, err);
    if (st == RP_NO_MEMORY) {
      RP_TRY(make_room(w, err));
      continue;
    }
    if (st) return st;
    for (int i = 0; i < rows; i++) w->computed += w->feeds[i].n;
    RP_TRY(take_results(w, rows, err));
    if (w->o->progress) w->o->progress(w->o->ctx, w->done, w->of);
  }
  return RP_OK;
}

rp_status rp_score(const rp_model *m, rp_engine *e, const rp_scoring *s, size_t n,
                   const rp_score_opts *opts, rp_error *err) {
  rp_score_opts defaults;
  rp_score_defaults(&defaults);
  scorer w = {.m = m, .e = e, .o = opts ? opts : &defaults};
  rp_status st = open_scorer(&w, s, n, err);
  if (!st) st = score_all(&w, err);
  if (w.o->computed) *w.o->computed = w.computed;
  close_scorer(&w);
  return st;
}
