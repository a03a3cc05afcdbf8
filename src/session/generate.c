/* generate.c - requests decoded together: who joins, what goes into a call, what comes out. */
#include "ratplus/generate.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "session/engine.h"
#include "session/origin.h"
#include "session/sample.h"
#include "session/text_stream.h"

/* Fewer tokens in common are not worth the call that ends behind them. */
enum { WORTH_SHARING = 16 };

/* A request without a session of its own begins when its first tokens go into a call. Until then it
 * may follow another whose prompt begins as its own and which has not come as far as they agree
 * (`leads`): it waits till that one is there, and goes on from a fork (`from`). */
typedef struct request request;
struct request {
  request *next;
  int64_t number;
  atomic_bool cancelled;
  rp_session *s;       /* NULL before it begins */
  request *leads;      /* whom it follows; NULL: nobody */
  int64_t agrees;      /* tokens in common with it */
  rp_origin *from;     /* where it goes on from; NULL: from nothing */
  int64_t from_tokens; /* held there */
  bool own, begins;
  char *pattern;  /* NULL: the model's */
  int64_t limit;  /* of its own session */
  int32_t *ids;   /* [n]: the prompt */
  int64_t n, fed; /* fed: of the prompt */
  int64_t most, made;
  rp_end at_most; /* what its end is called when `most` are made */
  int32_t last;   /* the token made last, not in the session */
  uint64_t need;  /* bytes of pool that are kept for it */
  int32_t eos;    /* -1: none, or ignored */
  int32_t *stop_ids;
  size_t n_stop_ids;
  rp_sampler sampler;
  rp_text_stream text;
  rp_generated_fn got;
  void *ctx;
};

/* In the order they came. */
typedef struct {
  request *first, *last;
  int n;
} request_list;

struct rp_generator {
  const rp_model *m;
  rp_engine *e;
  const rp_tokenizer *t;
  rp_model_facts model;
  rp_engine_facts engine;
  int rows; /* most requests under way */
  int64_t numbers;
  pthread_mutex_t lock; /* of the lists, which rp_generator_cancel walks */
  request_list waiting, running;
  uint64_t reserved; /* bytes of pool: the needs of those under way and of origins */
  rp_feed *feeds;    /* [rows] of a call, */
  request **fed;     /* [rows] whose they are, */
  float *logits;     /* [rows, V] and what comes of them */
  int32_t *best;     /* [rows] */
  rp_sample_work work;
  rp_str out; /* text of one piece */
  rp_generator_facts facts;
};

const char *rp_end_name(rp_end e) {
  static const char *const names[] = {"",       "eos",       "stop",  "max_tokens",
                                      "length", "cancelled", "failed"};
  return (unsigned)e < sizeof names / sizeof *names ? names[e] : "";
}

static rp_session *leave_origin(rp_generator *g, request *r, bool take);

/* ---- opening and closing ---- */

static void free_request(rp_generator *g, request *r) {
  if (!r) return;
  leave_origin(g, r, false);
  if (r->own) rp_session_close(r->s);
  rp_free(r->pattern);
  rp_free(r->ids);
  rp_free(r->stop_ids);
  rp_sampler_close(&r->sampler);
  rp_text_stream_close(&r->text);
  rp_free(r);
}

static void free_list(rp_generator *g, request_list *l) {
  for (request *r = l->first, *next; r; r = next) {
    next = r->next;
    l->first = next;
    free_request(g, r);
  }
}

static int least(int a, int b) { return a < b ? a : b; }

static rp_status open_buffers(rp_generator *g, rp_error *err) {
  const size_t rows = (size_t)g->rows, V = (size_t)g->model.vocab_size;
  size_t cells;
  g->feeds = rp_calloc(rows, sizeof *g->feeds);
  g->fed = rp_calloc(rows, sizeof *g->fed);
  g->best = rp_calloc(rows, sizeof *g->best);
  g->logits = rp_mul_size(rows, V, &cells) ? rp_malloc(cells, sizeof *g->logits) : NULL;
  if (!g->feeds || !g->fed || !g->best || !g->logits)
    return rp_fail_memory(err, rows * V * sizeof *g->logits, "logits");
  return rp_sample_work_open(&g->work, g->model.vocab_size, err);
}

rp_status rp_generator_open(rp_generator **out, const rp_model *m, rp_engine *e,
                            const rp_tokenizer *t, rp_error *err) {
  rp_status st = RP_OK;
  *out = NULL;
  rp_generator *g = rp_calloc(1, sizeof *g);
  if (!g) return rp_fail_memory(err, sizeof *g, "a generator");
  pthread_mutex_init(&g->lock, NULL);
  g->m = m;
  g->e = e;
  g->t = t;
  g->model.size = sizeof g->model;
  g->engine.size = sizeof g->engine;
  rp_model_about(m, &g->model);
  rp_engine_about(e, &g->engine);
  g->rows = least(g->engine.rows, least(g->engine.chunk, g->engine.wanted));
  if (t && rp_tokenizer_vocab_size(t) > g->model.vocab_size)
    RP_GO(rp_fail(err, RP_USAGE,
                  "the tokenizer has %d pieces and the model %d: it is another model's; give the "
                  "one it was trained with",
                  rp_tokenizer_vocab_size(t), g->model.vocab_size));
  RP_GO(open_buffers(g, err));
  *out = g;
  return RP_OK;
fail:
  rp_generator_close(g);
  return st;
}

void rp_generator_close(rp_generator *g) {
  if (!g) return;
  free_list(g, &g->waiting);
  free_list(g, &g->running);
  pthread_mutex_destroy(&g->lock);
  rp_free(g->feeds);
  rp_free(g->fed);
  rp_free(g->best);
  rp_free(g->logits);
  rp_sample_work_close(&g->work);
  rp_str_free(&g->out);
  rp_free(g);
}

void rp_generator_about(const rp_generator *g, rp_generator_facts *out) {
  const size_t size = out->size < sizeof *out ? out->size : sizeof *out;
  rp_generator_facts f = g->facts;
  f.size = out->size;
  f.running = g->running.n;
  f.waiting = g->waiting.n;
  memcpy(out, &f, size);
}

/* ---- the lists ---- */

static void append(rp_generator *g, request_list *l, request *r) {
  pthread_mutex_lock(&g->lock);
  r->next = NULL;
  if (l->last)
    l->last->next = r;
  else
    l->first = r;
  l->last = r;
  l->n++;
  pthread_mutex_unlock(&g->lock);
}

static void take_out(rp_generator *g, request_list *l, request *r) {
  pthread_mutex_lock(&g->lock);
  request *before = NULL;
  for (request *p = l->first; p != r; p = p->next) before = p;
  if (before)
    before->next = r->next;
  else
    l->first = r->next;
  if (l->last == r) l->last = before;
  l->n--;
  pthread_mutex_unlock(&g->lock);
}

static void cancel_in(request_list *l, int64_t number) {
  for (request *r = l->first; r; r = r->next)
    if (r->number == number) atomic_store(&r->cancelled, true);
}

void rp_generator_cancel(rp_generator *g, int64_t number) {
  pthread_mutex_lock(&g->lock);
  cancel_in(&g->waiting, number);
  cancel_in(&g->running, number);
  pthread_mutex_unlock(&g->lock);
}

/* ---- common beginnings ---- */

static bool same_pattern(const request *a, const request *b) {
  return a->pattern == b->pattern ||
         (a->pattern && b->pattern && strcmp(a->pattern, b->pattern) == 0);
}

/* Whether q, which has not begun, had better wait for r, which has. */
static void follow(request *q, request *r) {
  if (q == r || !q->own || q->s || !r->own || !r->s || r->fed >= r->n || r->fed >= q->n ||
      q->limit != r->limit || !same_pattern(q, r))
    return;
  int64_t n = (int64_t)rp_ids_agree(q->ids, (size_t)q->n, r->ids, (size_t)r->n);
  if (n == q->n) n--; /* its last token is its own: logits come from it */
  const int64_t had = q->leads && q->agrees > q->from_tokens ? q->agrees : q->from_tokens;
  if (n <= r->fed || n < had + WORTH_SHARING) return;
  q->leads = r;
  q->agrees = n;
}

/* Does `act` for all that have not begun. */
static void for_each_later(rp_generator *g, request *r, void (*act)(request *, request *)) {
  for (request *q = g->running.first; q; q = q->next)
    if (!q->s) act(q, r);
  for (request *q = g->waiting.first; q; q = q->next)
    if (!q->s) act(q, r);
}

static void forsake(request *q, request *r) {
  if (q->leads == r) q->leads = NULL;
}

/* One that is under way and has not begun yet has room for what it goes on from. Where only waiting
 * ones are left, an origin needs room of its own, or is given up. */
static void keep_origin(rp_generator *g, rp_origin *o, const char *pattern) {
  uint64_t need;
  if (o->need || !o->s) return;
  for (const request *q = g->running.first; q; q = q->next)
    if (q->from == o) return;
  if (rp_cache_need(g->m, pattern, rp_session_tokens(o->s), g->engine.rollback, &need, NULL) ||
      g->reserved > g->engine.cache_bytes || need > g->engine.cache_bytes - g->reserved) {
    rp_origin_drop(o, &g->reserved);
    return;
  }
  o->need = need;
  g->reserved += need;
}

/* r leaves its origin, or takes a session from it. */
static rp_session *leave_origin(rp_generator *g, request *r, bool take) {
  rp_origin *o = r->from;
  const bool last = !o || o->users == 1;
  rp_session *s = NULL;
  r->from = NULL;
  if (take)
    s = rp_origin_take(o, &g->reserved);
  else
    rp_origin_leave(o, &g->reserved);
  if (!last) keep_origin(g, o, r->pattern);
  return s;
}

/* Those that follow r to where it is now go on from a fork of it. */
static void share(rp_generator *g, request *r) {
  rp_origin *from = NULL;
  rp_session *s;
  request_list *const lists[] = {&g->running, &g->waiting};
  for (int i = 0; i < 2; i++) {
    for (request *q = lists[i]->first; q; q = q->next) {
      if (q->leads != r || q->agrees != r->fed) continue;
      q->leads = NULL;
      if (!from &&
          (rp_session_fork(&s, r->s, NULL) || rp_origin_make(&from, s, 0, &g->reserved, NULL)))
        continue;
      leave_origin(g, q, false);
      q->from = from;
      q->from_tokens = r->fed;
      from->users++;
    }
  }
  if (!from) return;
  keep_origin(g, from, r->pattern);
  rp_origin_leave(from, &g->reserved);
}

/* Tokens of r's prompt up to where the next one leaves it that follows it. */
static int64_t to_next_fork(const rp_generator *g, const request *r) {
  int64_t end = r->n;
  const request_list *const lists[] = {&g->running, &g->waiting};
  for (int i = 0; i < 2; i++)
    for (const request *q = lists[i]->first; q; q = q->next)
      if (q->leads == r && q->agrees < end) end = q->agrees;
  return end - r->fed;
}

/* Gives up what waiting requests would go on from. False: there was nothing. */
static bool drop_origins(rp_generator *g) {
  bool any = false;
  request_list *const lists[] = {&g->running, &g->waiting};
  for (int i = 0; i < 2; i++)
    for (request *q = lists[i]->first; q; q = q->next)
      if (rp_origin_drop(q->from, &g->reserved)) any = true;
  return any;
}

/* A session for a request that is about to be fed. */
static rp_status begin(rp_generator *g, request *r, rp_error *err) {
  r->s = leave_origin(g, r, true);
  if (!r->s) RP_TRY(rp_session_open(&r->s, g->e, r->pattern, r->limit, err));
  r->fed = rp_session_tokens(r->s);
  for_each_later(g, r, follow);
  return RP_OK;
}

/* ---- adding ---- */

void rp_request_defaults(rp_request *r) {
  *r = (rp_request){.size = sizeof *r, .max_tokens = -1};
  rp_sample_defaults(&r->sample);
}

static rp_status check_ids(const rp_generator *g, const rp_request *r, rp_error *err) {
  if (!r->n)
    return rp_fail(err, RP_USAGE, "the prompt has no token; give at least one, such as BOS");
  for (size_t i = 0; i < r->n; i++)
    if (r->ids[i] < 0 || r->ids[i] >= g->model.vocab_size)
      return rp_fail(err, RP_USAGE, "token %zu of the prompt is %d, and the model has %d tokens", i,
                     r->ids[i], g->model.vocab_size);
  return RP_OK;
}

static rp_status pool_is_small(const rp_generator *g, const request *r, int64_t tokens,
                               int64_t fits, rp_error *err) {
  char pool[32], need[32];
  rp_format_bytes(pool, (double)g->engine.cache_bytes);
  rp_format_bytes(need, (double)r->need);
  return rp_fail(err, RP_NO_MEMORY,
                 "%lld tokens in the pattern %s take %s of cache, and the pool of %s holds %lld; "
                 "give a larger pool, a sparser pattern, or fewer tokens",
                 (long long)tokens,
                 r->s         ? rp_session_pattern(r->s)
                 : r->pattern ? r->pattern
                              : "of the model",
                 need, pool, (long long)fits);
}

/* Sets how many tokens it may make, and what it needs of the pool for them. */
static rp_status size_request(rp_generator *g, request *r, int64_t max_tokens, rp_error *err) {
  const char *pattern = r->s ? rp_session_pattern(r->s) : r->pattern;
  const int64_t held = r->s ? rp_session_tokens(r->s) : 0;
  const int64_t begin = held + r->n; /* tokens before the first that is made */
  int64_t fits;
  if (begin >= r->limit)
    return rp_fail(err, RP_USAGE,
                   "the prompt has %lld tokens%s and the length limit is %lld, so nothing can be "
                   "generated; give a shorter prompt or a larger limit",
                   (long long)begin, held ? " with what was before it" : "", (long long)r->limit);
  r->at_most = RP_END_TOKENS;
  r->most = max_tokens;
  if (max_tokens < 0 || max_tokens > r->limit - begin) {
    r->at_most = RP_END_LENGTH;
    r->most = r->limit - begin;
  }
  RP_TRY(rp_cache_need(g->m, pattern, begin + r->most, g->engine.rollback, &r->need, err));
  if (r->need <= g->engine.cache_bytes) return RP_OK;
  RP_TRY(rp_cache_fit(g->m, pattern, g->engine.cache_bytes, g->engine.rollback, begin + r->most,
                      &fits, err));
  /* Without a number asked for it runs as far as the pool goes. */
  if (max_tokens >= 0 || fits <= begin) return pool_is_small(g, r, begin + r->most, fits, err);
  r->most = fits - begin;
  return rp_cache_need(g->m, pattern, fits, g->engine.rollback, &r->need, err);
}

static rp_status copy_ids(int32_t **to, const int32_t *from, size_t n, rp_error *err) {
  *to = rp_malloc(n ? n : 1, sizeof **to);
  if (!*to) return rp_fail_memory(err, n * sizeof **to, "token ids");
  if (n) memcpy(*to, from, n * sizeof **to);
  return RP_OK;
}

static rp_status fill_request(rp_generator *g, request *r, const rp_request *q, rp_error *err) {
  RP_TRY(check_ids(g, q, err));
  r->number = g->numbers;
  r->s = q->session;
  r->own = !q->session;
  r->begins = q->begins;
  r->limit = r->s ? rp_session_limit(r->s) : q->limit > 0 ? q->limit : g->model.seq_len;
  r->n = (int64_t)q->n;
  r->got = q->got;
  r->ctx = q->ctx;
  r->eos = g->t && !q->ignore_eos ? rp_tokenizer_eos(g->t) : -1;
  r->n_stop_ids = q->n_stop_ids;
  RP_TRY(copy_ids(&r->ids, q->ids, q->n, err));
  RP_TRY(copy_ids(&r->stop_ids, q->stop_ids, q->n_stop_ids, err));
  if (q->pattern && !r->s) {
    r->pattern = rp_strdup(q->pattern);
    if (!r->pattern) return rp_fail_memory(err, strlen(q->pattern), "a pattern");
  }
  RP_TRY(rp_sampler_open(&r->sampler, g->model.vocab_size, &q->sample, q->stream, err));
  RP_TRY(rp_text_stream_open(&r->text, q->stops, q->n_stops, err));
  return size_request(g, r, q->max_tokens, err);
}

rp_status rp_generator_add(rp_generator *g, const rp_request *q, int64_t *number, rp_error *err) {
  request *r = rp_calloc(1, sizeof *r);
  if (!r) return rp_fail_memory(err, sizeof *r, "a request");
  r->text.hit = -1;
  const rp_status st = fill_request(g, r, q, err);
  if (st) {
    free_request(g, r);
    return st;
  }
  for (request *p = g->running.first; p; p = p->next) follow(r, p);
  if (number) *number = r->number;
  g->numbers++;
  append(g, &g->waiting, r);
  return RP_OK;
}

/* ---- what comes out ---- */

/* Tells the callback; nonzero when it has enough. The text is what stands in g->out. */
static int tell(rp_generator *g, request *r, int32_t token, rp_end end, const rp_error *error) {
  if (!r->got) return 0;
  const rp_generated piece = {.request = r->number,
                              .token = token,
                              .text = g->out.len ? g->out.s : "",
                              .len = g->out.len,
                              .end = end,
                              .error = error,
                              .session = r->s,
                              .prompt_tokens = r->fed,
                              .tokens = r->made};
  return r->got(r->ctx, &piece);
}

/* The last word to the callback; then the request is gone. */
static void finish(rp_generator *g, request_list *l, request *r, int32_t token, rp_end end,
                   const rp_error *error) {
  rp_text_stream_end(&r->text, &g->out);
  tell(g, r, token, end, error);
  rp_str_clear(&g->out);
  take_out(g, l, r);
  if (l == &g->running) g->reserved -= r->need;
  for_each_later(g, r, forsake);
  free_request(g, r);
}

static void fail_request(rp_generator *g, request_list *l, request *r, const rp_error *error) {
  rp_str_clear(&g->out);
  finish(g, l, r, -1, RP_END_FAILED, error);
}

static bool is_stop_id(const request *r, int32_t id) {
  for (size_t i = 0; i < r->n_stop_ids; i++)
    if (r->stop_ids[i] == id) return true;
  return false;
}

/* Whether SentencePiece leaves the first byte of this token out at the beginning of a text: the space
 * in front of a word. */
static bool begins_with_mark(const rp_generator *g, int32_t id, size_t bytes) {
  char *text;
  size_t n;
  if (rp_tokenizer_decode(g->t, &id, 1, &text, &n, NULL)) return false;
  rp_free(text);
  return n + 1 == bytes;
}

static void add_text(rp_generator *g, request *r, int32_t id) {
  size_t n = 0;
  const char *s = g->t ? rp_tokenizer_bytes(g->t, id, &n) : NULL;
  if (!s) return; /* a row of the embedding that is no piece of the tokenizer */
  if (r->begins && r->made == 1 && n && s[0] == ' ' && begins_with_mark(g, id, n)) s++, n--;
  rp_text_stream_add(&r->text, s, n, &g->out);
}

/* A token was made: shows it, and ends the request where it is over. */
static void got_token(rp_generator *g, request *r, int32_t id) {
  rp_error err = {0};
  rp_end end = RP_END_NONE;
  r->last = id;
  r->made++;
  g->facts.tokens++;
  rp_str_clear(&g->out);
  if (id == r->eos) {
    end = RP_END_EOS;
  } else if (is_stop_id(r, id)) {
    end = RP_END_STOP;
  } else {
    add_text(g, r, id);
    if (r->text.hit >= 0)
      end = RP_END_STOP;
    else if (r->made >= r->most)
      end = r->at_most;
  }
  if (g->out.failed || r->text.held.failed) {
    rp_str_free(&g->out);
    rp_fail_memory(&err, 64, "generated text");
    fail_request(g, &g->running, r, &err);
  } else if (end) {
    finish(g, &g->running, r, id, end, NULL);
  } else if (tell(g, r, id, RP_END_NONE, NULL)) {
    atomic_store(&r->cancelled, true);
  }
}

/* ---- a step ---- */

static void end_cancelled(rp_generator *g, request_list *l) {
  for (request *r = l->first, *next; r; r = next) {
    next = r->next;
    if (!atomic_load(&r->cancelled)) continue;
    rp_str_clear(&g->out);
    finish(g, l, r, -1, RP_END_CANCELLED, NULL);
  }
}

/* Requests join while there is a row and room for all they may ever take, so that none has to leave
 * again before its end. */
static void admit(rp_generator *g) {
  for (request *r; (r = g->waiting.first) != NULL && g->running.n < g->rows;) {
    const uint64_t have = g->engine.cache_bytes;
    if (g->reserved > have || r->need > have - g->reserved) {
      if (g->running.n) return;
      drop_origins(g);
    }
    if (r->most < 1) { /* max_tokens 0 */
      rp_str_clear(&g->out);
      finish(g, &g->waiting, r, -1, r->at_most, NULL);
      continue;
    }
    take_out(g, &g->waiting, r);
    append(g, &g->running, r);
    g->reserved += r->need;
  }
}

/* A row of one token: the logits are looked at on the host only where the most likely token is not
 * what is wanted. */
static void add_feed(rp_generator *g, int i, request *r, const int32_t *ids, int64_t n,
                     bool wanted) {
  rp_feed *f = &g->feeds[i];
  *f = (rp_feed){.session = r->s, .ids = ids, .n = n};
  g->fed[i] = r;
  if (!wanted) return;
  if (n == 1 && rp_sampler_is_plain(&r->sampler))
    f->best = &g->best[i];
  else
    f->logits = g->logits + (size_t)i * (size_t)g->model.vocab_size;
}

/* First a token of everyone under way, then what is left of the call to prompts in their order. */
static int make_call(rp_generator *g, int64_t *prompt_tokens) {
  int n = 0, left = g->engine.chunk, wanted = g->engine.wanted;
  *prompt_tokens = 0;
  for (request *r = g->running.first; r; r = r->next) {
    if (r->fed < r->n) continue;
    add_feed(g, n++, r, &r->last, 1, true);
    left--;
    wanted--;
  }
  for (request *r = g->running.first, *next; r && left > 0 && n < g->rows; r = next) {
    rp_error err = {0};
    next = r->next;
    if (r->fed == r->n || r->leads) continue;
    if (!r->s && begin(g, r, &err)) {
      fail_request(g, &g->running, r, &err);
      continue;
    }
    const int64_t rest = r->n - r->fed, whole = to_next_fork(g, r);
    const int64_t most = whole < left ? whole : left;
    if (most == rest && wanted-- <= 0) break;
    add_feed(g, n++, r, r->ids + r->fed, most, most == rest);
    left -= (int)most;
    *prompt_tokens += most;
  }
  return n;
}

static void take_results(rp_generator *g, int n) {
  for (int i = 0; i < n; i++) {
    const rp_feed *f = &g->feeds[i];
    request *r = g->fed[i];
    rp_error err = {0};
    int32_t id;
    if (r->fed < r->n) {
      r->fed += f->n;
      share(g, r);
    }
    if (f->best) {
      id = *f->best;
      rp_sampler_took(&r->sampler, id);
    } else if (!f->logits) {
      continue;
    } else if (rp_sampler_next(&r->sampler, &g->work, f->logits, &id, &err)) {
      fail_request(g, &g->running, r, &err);
      continue;
    }
    got_token(g, r, id);
  }
}

static void count(rp_generator *g, int n, int64_t prompt_tokens, double seconds) {
  g->facts.prompt_tokens += prompt_tokens;
  if (prompt_tokens) {
    g->facts.prompt_seconds += seconds;
  } else {
    g->facts.decode_tokens += n;
    g->facts.decode_seconds += seconds;
  }
}

rp_status rp_generator_step(rp_generator *g, int64_t *left, rp_error *err) {
  rp_error own = {0};
  int64_t prompt_tokens;
  if (!err) err = &own;
  end_cancelled(g, &g->waiting);
  end_cancelled(g, &g->running);
  admit(g);
  const int n = make_call(g, &prompt_tokens);
  const double t0 = rp_now();
  const rp_status st = n ? rp_engine_call(g->e, g->feeds, n, err) : RP_OK;
  if (st == RP_NO_MEMORY) {
    if (!drop_origins(g))
      /* Someone else's sessions took of the pool: the one that came last gives way. */
      fail_request(g, &g->running, g->running.last, err);
  } else if (st) {
    return st;
  } else if (n) {
    count(g, n, prompt_tokens, rp_now() - t0);
    take_results(g, n);
  }
  *left = g->waiting.n + g->running.n;
  return RP_OK;
}

rp_status rp_generator_run(rp_generator *g, const volatile sig_atomic_t *stop, rp_error *err) {
  for (int64_t left = 1; left;) {
    if (stop && *stop) return rp_fail(err, RP_STOPPED, "stopped as asked");
    RP_TRY(rp_generator_step(g, &left, err));
  }
  return RP_OK;
}

/* ---- the pool ---- */

rp_status rp_cache_plan(const rp_model *m, const char *pattern, const int64_t *tokens, size_t n,
                        uint64_t *bytes, rp_error *err) {
  uint64_t sum = 0, most = 0;
  uint64_t free = rp_model_available(m);
  const bool known = free > 0;
  rp_model_facts facts = {.size = sizeof facts};
  rp_model_about(m, &facts);
  for (size_t i = 0; i < n; i++) {
    uint64_t one;
    RP_TRY(rp_cache_need(m, pattern, tokens[i], 0, &one, err));
    sum = sum + one < sum ? UINT64_MAX : sum + one;
    if (one > most) most = one;
  }
  /* Pages of the mapped weights count as free, and must stay. */
  free = free > facts.weights_mapped ? free - facts.weights_mapped : 0;
  if (known && sum > free / 2) sum = free / 2;
  *bytes = sum > most ? sum : most;
  return RP_OK;
}
