/* ratplus/session.h - inference: a model, engines that run it, sessions that are timelines of it.
 *
 * A model is immutable weights on a device, shared by every engine and thread. An engine is a model
 * with a queue, a pool of cache blocks sized at its start, and work buffers. A session belongs to one
 * engine: its caches, the float32 state of its recurrence, its position, its pattern. Two sessions of
 * one engine may run in different patterns. docs/inference.md draws what a cache holds.
 *
 * Calls on one engine from several threads take turns; a session is one thread's at a time, except
 * rp_session_cancel. Close sessions before their engine and engines before their model. */
#ifndef RATPLUS_SESSION_H
#define RATPLUS_SESSION_H

#include "ratplus/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- models ---- */

typedef struct rp_model rp_model;

typedef struct {
  size_t size;              /* sizeof this struct; filled by rp_model_defaults */
  const char *const *words; /* "key=value" over the model's own configuration */
  size_t n_words;
  const char *dtype;  /* "float32", "bfloat16"; NULL: the configuration's, else the file's */
  const char *device; /* "auto", "cpu", "cuda"; NULL: auto */
  /* Share of the weights loaded, 0 to 1; nonzero: stop (RP_STOPPED). NULL: none. */
  int (*progress)(void *ctx, double done);
  void *ctx;
} rp_model_opts;
RP_API void rp_model_defaults(rp_model_opts *o);

/* path: a model directory, a checkpoint, a run directory (its latest) or a .pth. RP_BAD_DATA names
 * the file and the first thing wrong; RP_USAGE asks by name for what the file does not say. */
RP_API rp_status rp_model_open(rp_model **out, const char *path, const rp_model_opts *opts,
                               rp_error *err);
RP_API void rp_model_close(rp_model *m); /* NULL is fine */

typedef struct {
  size_t size; /* sizeof this struct, set by the caller */
  int layers, width, heads, kv_heads, head_width, ffn_width, vocab_size;
  int recurrence; /* keys and values pass the gated recurrence (RAT+) */
  int64_t parameters;
  int64_t seq_len;         /* the length it was trained at, and the default limit of a session */
  const char *dtype;       /* "float32" or "bfloat16": what it computes in */
  const char *device;      /* its name */
  const char *path;        /* the folder or file that was opened */
  const char *tokenizer;   /* path of the tokenizer.model beside it; NULL: none */
  uint64_t weights;        /* bytes they take, of which */
  uint64_t weights_mapped; /* so many are pages of the file, shared by all processes that run it */
} rp_model_facts;
/* Texts live as long as the model. */
RP_API void rp_model_about(const rp_model *m, rp_model_facts *out);
/* The pattern a session without one runs in: the configuration's, or D=1 when trained jointly (free
 * with rp_free). RP_USAGE when the file says neither. */
RP_API rp_status rp_model_pattern(const rp_model *m, char **text, rp_error *err);
/* *trained is 1 when the model was trained in this pattern; any other may want an adaptation first. */
RP_API rp_status rp_model_trained(const rp_model *m, const char *pattern, int *trained,
                                  rp_error *err);

/* ---- engines ---- */

typedef struct rp_engine rp_engine;

typedef struct {
  size_t size;          /* sizeof this struct; filled by rp_engine_defaults */
  int chunk;            /* most new tokens of a call; longer prompts are cut; default 512 */
  int rows;             /* most sessions of a call; default 64 */
  int wanted;           /* most tokens of a call whose logits are asked for; default 64 */
  int rollback;         /* R: sessions can be truncated by up to R tokens; default 0 */
  uint64_t cache_bytes; /* of the pool; 0: one session of the model's length at D=1 */
} rp_engine_opts;
RP_API void rp_engine_defaults(rp_engine_opts *o);

/* Reserves everything a call needs. RP_NO_MEMORY says what it would take and what there is. */
RP_API rp_status rp_engine_open(rp_engine **out, const rp_model *m, const rp_engine_opts *opts,
                                rp_error *err);
RP_API void rp_engine_close(rp_engine *e); /* NULL is fine */

typedef struct {
  size_t size;          /* sizeof this struct, set by the caller */
  uint64_t cache_bytes; /* of the pool */
  uint64_t cache_used;  /* of its blocks that sessions hold, each counted once */
  uint64_t work_bytes;  /* of all other buffers */
  int sessions, chunk, rows, wanted, rollback;
} rp_engine_facts;
RP_API void rp_engine_about(rp_engine *e, rp_engine_facts *out);
/* Bytes of pool that a session in `pattern` takes for `tokens` tokens at rollback margin R, exact
 * (NULL: the model's pattern). */
RP_API rp_status rp_cache_need(const rp_model *m, const char *pattern, int64_t tokens, int rollback,
                               uint64_t *bytes, rp_error *err);
/* The largest number of tokens that fit into `bytes` of pool, at most `most`. */
RP_API rp_status rp_cache_fit(const rp_model *m, const char *pattern, uint64_t bytes, int rollback,
                              int64_t most, int64_t *tokens, rp_error *err);

/* ---- sessions ---- */

typedef struct rp_session rp_session;

/* A timeline of no tokens. pattern: as in "D=16,W=256"; NULL: the model's. limit: most tokens it may
 * ever hold (its tables are made for them); 0: the model's seq_len. Takes no cache blocks yet. */
RP_API rp_status rp_session_open(rp_session **out, rp_engine *e, const char *pattern, int64_t limit,
                                 rp_error *err);
RP_API void rp_session_close(rp_session *s); /* gives its blocks back; NULL is fine */
/* A second timeline with the same past. Blocks are shared until one of the two writes into them. */
RP_API rp_status rp_session_fork(rp_session **out, rp_session *from, rp_error *err);
/* Back to `tokens` tokens: 0, or at most R (of the engine) below the most it has held. RP_USAGE
 * beyond that: go back to a fork. */
RP_API rp_status rp_session_truncate(rp_session *s, int64_t tokens, rp_error *err);

RP_API int64_t rp_session_tokens(const rp_session *s);
RP_API int64_t rp_session_limit(const rp_session *s);
RP_API const char *rp_session_pattern(const rp_session *s); /* lives as long as s */
/* Bytes of the cache blocks it holds (shared ones in full), and of its recurrence state. */
RP_API uint64_t rp_session_cache_bytes(const rp_session *s);
RP_API uint64_t rp_session_state_bytes(const rp_session *s);

/* The running or next call that includes s ends before its next chunk, with RP_STOPPED; s then holds
 * the chunks that were done. From any thread. */
RP_API void rp_session_cancel(rp_session *s);
/* The same when `seconds` from now have passed; 0 or less takes a deadline away. */
RP_API void rp_session_deadline(rp_session *s, double seconds);

/* ---- calls ---- */

/* New tokens of one session and what is wanted of them. */
typedef struct {
  rp_session *session;
  const int32_t *ids; /* [n], each below vocab_size */
  int64_t n;          /* >= 1 */
  float *logits;      /* [vocab_size] after the last token; NULL */
  /* After every token: with `next` [n] the log-probability of next[i] (NaN where it is negative),
   * and the most likely token, the lowest id on ties. Each NULL or [n]. */
  const int32_t *next;
  float *logprob;
  int32_t *best;
} rp_feed;

/* One pass over all rows together: single steps of some sessions, pieces of prompts of others, each
 * session at most once; n tokens together at most `chunk`. Everything is reserved for all rows, or
 * the call fails and nothing has changed: RP_NO_MEMORY (the pool is full), RP_USAGE (an id, a limit,
 * too many), RP_STOPPED (cancelled, deadline). At equal shapes a row's results do not depend, bit for
 * bit, on what the other rows hold. */
RP_API rp_status rp_engine_call(rp_engine *e, const rp_feed *rows, int n, rp_error *err);

/* One session's tokens, however many, in calls of at most `chunk` (0: the engine's). progress after
 * each: tokens done so far; nonzero: stop. On a failure the session holds the calls that were done. */
typedef struct {
  size_t size; /* sizeof this struct; filled by rp_prefill_defaults */
  int chunk;
  int (*progress)(void *ctx, int64_t done, int64_t of);
  void *ctx;
} rp_prefill_opts;
RP_API void rp_prefill_defaults(rp_prefill_opts *o);
RP_API rp_status rp_prefill(const rp_feed *f, const rp_prefill_opts *opts, rp_error *err);

#ifdef __cplusplus
}
#endif
#endif
