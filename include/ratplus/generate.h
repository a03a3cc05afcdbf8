/* ratplus/generate.h - text out of sessions, many prompts decoded together; and scores, the
 * log-probability of every token of given sequences. docs/inference.md defines the sampling.
 *
 * A generator belongs to one engine. One thread's at a time, except rp_generator_cancel; callbacks
 * come on the thread that steps, and may cancel but not add, step or close. Close a generator before
 * its engine. */
#ifndef RATPLUS_GENERATE_H
#define RATPLUS_GENERATE_H

#include <signal.h>
#include "ratplus/session.h"
#include "ratplus/text.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- sampling ---- */

/* How the next token is taken from the logits, in this order. Token number i of a stream depends on
 * the logits, these settings and (seed, stream, i) alone. */
typedef struct {
  size_t size; /* sizeof this struct; filled by rp_sample_defaults */
  double
      repeat_penalty; /* of each distinct token generated so far (not of the prompt): a logit >= 0
                            is divided by it, another multiplied; 1: off */
  double temperature; /* logits are divided by it; 0 (the default): the most likely token, the
                            lowest id on ties, and nothing below counts */
  int top_k;          /* the k most likely, the lower id on ties; 0: all */
  double top_p;       /* of those the fewest, from the likeliest on, that hold this mass; 1: all */
  double min_p;       /* of those the ones at least this share as likely as the likeliest; 0: all */
  uint64_t seed;
} rp_sample_opts;
RP_API void rp_sample_defaults(rp_sample_opts *o);
/* RP_USAGE names the first value out of its range. */
RP_API rp_status rp_sample_check(const rp_sample_opts *o, rp_error *err);

/* ---- many prompts, decoded together ---- */

typedef enum {
  RP_END_NONE = 0,  /* it goes on */
  RP_END_EOS,       /* the model ended it */
  RP_END_STOP,      /* a stop string (cut off with all behind it) or a stop id */
  RP_END_TOKENS,    /* max_tokens are there */
  RP_END_LENGTH,    /* the session or the pool holds no more */
  RP_END_CANCELLED, /* rp_generator_cancel, or the callback said so */
  RP_END_FAILED     /* `error` says why */
} rp_end;
/* "eos", "stop", "max_tokens", "length", "cancelled", "failed"; "" for RP_END_NONE. */
RP_API const char *rp_end_name(rp_end e);

/* A token that came, or the end. Everything lives until the callback returns. */
typedef struct {
  int64_t request;  /* its number, from rp_generator_add */
  int32_t token;    /* -1: none came with this end */
  const char *text; /* whole UTF-8 characters; "" while a character or a stop string may be
                                unfinished; bytes that can be no character are U+FFFD */
  size_t len;
  rp_end end;                    /* the last call of a request is the one where this is not 0 */
  const rp_error *error;         /* of RP_END_FAILED; else NULL */
  const rp_session *session;     /* NULL when it failed before it had one */
  int64_t prompt_tokens, tokens; /* read, generated so far */
} rp_generated;
/* Nonzero: enough of this request. */
typedef int (*rp_generated_fn)(void *ctx, const rp_generated *g);

typedef struct {
  size_t size;        /* sizeof this struct; filled by rp_request_defaults */
  const int32_t *ids; /* the prompt, copied; at least one token */
  size_t n;
  rp_session *session; /* to go on with (pattern and limit are its own; it stays the caller's and
                           holds all but the last token at the end); NULL: a new one */
  const char *pattern; /* NULL: the model's */
  int64_t limit;       /* most tokens of prompt and text; 0: the model's seq_len */
  int64_t max_tokens;  /* to generate; -1: as many as limit and pool hold */
  rp_sample_opts sample;
  uint64_t stream;          /* of random numbers: another for every request of the same seed */
  const char *const *stops; /* strings that end it, also across the borders of tokens; copied */
  size_t n_stops;
  const int32_t *stop_ids; /* tokens that end it, not shown; copied */
  size_t n_stop_ids;
  int ignore_eos;
  int begins; /* the text has nothing in front of it (a prompt without text): the space that
                           a tokenizer puts before a first word is left out */
  rp_generated_fn got; /* NULL: none */
  void *ctx;
} rp_request;
RP_API void rp_request_defaults(rp_request *r);

typedef struct rp_generator rp_generator;
/* tokenizer NULL: tokens without text, and no EOS but stop_ids. Model, engine and tokenizer must
 * outlive it. RP_USAGE when the tokenizer has more pieces than the model. */
RP_API rp_status rp_generator_open(rp_generator **out, const rp_model *m, rp_engine *e,
                                   const rp_tokenizer *t, rp_error *err);
/* Requests that are not at their end get no further call; NULL is fine. */
RP_API void rp_generator_close(rp_generator *g);

/* Queues a request; it joins between two steps when the engine has a row and the pool room for all
 * of it, in the order they came. RP_USAGE: no token, an id, a limit (the prompt alone reaches it), a
 * setting. RP_NO_MEMORY: the pool is too small for it at any time, with the number that fits. */
RP_API rp_status rp_generator_add(rp_generator *g, const rp_request *r, int64_t *number,
                                  rp_error *err);
/* Ends it at the next step. From any thread; a number that is not there is ignored. */
RP_API void rp_generator_cancel(rp_generator *g, int64_t number);
/* One call of the engine: a token of every request under way and pieces of new prompts. *left: those
 * not at their end. A failure that is one request's is told to that request. */
RP_API rp_status rp_generator_step(rp_generator *g, int64_t *left, rp_error *err);
/* Steps until none is left, or until *stop (NULL: never) is not 0: RP_STOPPED, the rest can go on. */
RP_API rp_status rp_generator_run(rp_generator *g, const volatile sig_atomic_t *stop,
                                  rp_error *err);

typedef struct {
  size_t size; /* sizeof this struct, set by the caller */
  int64_t prompt_tokens;
  double prompt_seconds; /* of calls with pieces of prompts */
  int64_t decode_tokens; /* of calls with nothing but single steps */
  double decode_seconds;
  int64_t tokens; /* generated in all */
  int running, waiting;
} rp_generator_facts;
RP_API void rp_generator_about(const rp_generator *g, rp_generator_facts *out);

/* Bytes of a pool for sessions of these many tokens together: what they take, at most half of the
 * memory that is free, at least the largest one's. pattern NULL: the model's. */
RP_API rp_status rp_cache_plan(const rp_model *m, const char *pattern, const int64_t *tokens,
                               size_t n, uint64_t *bytes, rp_error *err);

/* ---- scores ---- */

typedef struct {
  const int32_t *ids; /* [n] */
  size_t n;
  float *logprob; /* [n]: natural log of the probability of ids[i] after those before it; NaN for
                         the first; or NULL */
  int32_t *best;  /* [n]: the most likely token after ids[0..i], the lowest id on ties; or NULL */
} rp_scoring;

typedef struct {
  size_t size;         /* sizeof this struct; filled by rp_score_defaults */
  const char *pattern; /* NULL: the model's */
  int chunk;           /* most new tokens of a sequence in a call (1: stepping); 0: the engine's */
  const volatile sig_atomic_t *stop; /* polled between calls; NULL: never */
  /* After each call: tokens done of all (a shared one counts for every sequence); NULL. */
  void (*progress)(void *ctx, int64_t done, int64_t of);
  void *ctx;
  int64_t *computed; /* set to the tokens that went through the model, shared ones once; NULL */
} rp_score_opts;
RP_API void rp_score_defaults(rp_score_opts *o);

/* Fills logprob and best of n sequences, several in a call; what sequences have in common at their
 * beginning is computed once. RP_USAGE: an id that is none (sequence and token are named, from 0).
 * RP_NO_MEMORY: a sequence that the pool cannot hold, with the number of tokens that fit. */
RP_API rp_status rp_score(const rp_model *m, rp_engine *e, const rp_scoring *s, size_t n,
                          const rp_score_opts *opts, rp_error *err);

#ifdef __cplusplus
}
#endif
#endif
