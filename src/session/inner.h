/* inner.h - what the files of this room share: models, engines with their pool of blocks, sessions. */
#ifndef RP_SESSION_INNER_H
#define RP_SESSION_INNER_H

#include <pthread.h>
#include <stdatomic.h>

#include "model/frozen.h"
#include "model/net.h"
#include "session/engine.h"

struct rp_model {
  rp_model_settings m; /* pats are its own */
  rp_device *dev;
  rp_queue *q;      /* of loading; a borrowed model's engines run on it */
  rp_store *store;  /* the file whose pages `frozen` reads; NULL: none */
  rp_frozen frozen; /* of a file, */
  rp_params params; /* or random ones */
  rp_weights weights;
  rp_dtype compute; /* RP_F32 (real of the device) or RP_BF16 */
  bool borrowed, pattern_known;
  int64_t parameters, seq_len;
  char *path, *tokenizer; /* NULL: none */
};

/* A pattern that sessions run in, by the number of its plan in the net. */
typedef struct {
  rp_pats pats;
  int sessions;
} rp_used_plan;

/* The ops of a call of one token a row, which its sizes alone decide. */
typedef struct {
  int32_t rows, tokens, picks[2]; /* 0 rows: none */
  rp_tape *tape;                  /* NULL: it came once so far */
} rp_step;
enum { RP_STEPS = 8 };

struct rp_engine {
  const rp_model *model;
  rp_engine_opts o;
  pthread_mutex_t mutex; /* over everything here and over its sessions' blocks */
  rp_device *dev;
  rp_queue *q;
  bool late; /* the device keeps its ops for later, in memory of its own: calls allocate */
  rp_net *net;
  rp_step step[RP_STEPS]; /* of a device that keeps its ops: the last ones that came */
  unsigned steps;         /* that ever came */
  rp_used_plan plan[RP_NET_PLANS];
  int plans;
  int sessions;
  uint64_t work_bytes;
  /* the pool */
  rp_kv kv;
  size_t block_bytes;
  int32_t *refs; /* [blocks] sessions that hold the block */
  int32_t *free; /* [blocks] a stack */
  int32_t n_free;
  /* a call */
  int wanted; /* room for tokens of each pick */
  size_t n_entries, entries_cap;
  rp_table_entry *entries; /* tables that change */
  rp_row *row;             /* [rows] */
  int32_t *ids;            /* [chunk] */
  int32_t *at;             /* [2 * wanted] */
  int32_t *next;           /* [wanted] */
  int32_t *best;           /* [wanted] */
  double *lse, *logit;     /* [wanted] */
  rp_ptr device;           /* all of the following */
  rp_ptr d_entries, d_row, d_ids, d_at, d_next, d_best, d_lse, d_logit, d_logits;
};

/* A list of blocks: KEPT or RING of one key-value head of one layer. */
typedef struct {
  int32_t begin; /* of its table, in ints from the start of the lists */
  int32_t blocks;
} rp_list;

struct rp_session {
  rp_engine *e;
  int plan;
  char *pattern;
  int64_t limit;
  int32_t pos, top;
  int32_t *ints; /* lists and tables as the cell has them */
  size_t n_ints;
  rp_list *list;  /* [layers][Hk][2] */
  int64_t blocks; /* held, over all lists */
  rp_ptr cell;
  size_t states_bytes, cell_bytes;
  atomic_int cancelled;
  double deadline; /* rp_now() of it; 0: none */
};

/* Sizes of calls: exact up to 16 tokens, then by steps, so that products come in few shapes. */
int rp_call_size(int n, int most);
/* Blocks of one layer-and-head pattern list; sums over a model. */
int64_t rp_pats_blocks(const rp_pats *p, int64_t tokens, int rollback);
const rp_pats *rp_session_pats(const rp_session *s);
/* The blocks that n more tokens of s are written to: adds to *need how many of the pool that takes.
 * With do_it takes them, shares none of them, and notes what changes in tables. Without, rows of one
 * call are counted one after the other and rp_growth_undo ends the count. e->n_entries is 0 before. */
void rp_session_grow(rp_session *s, int64_t n, bool do_it, int64_t *need);
void rp_growth_undo(rp_engine *e);
/* The pattern's text parsed for the model; NULL: its own. */
rp_status rp_model_parse(const rp_model *m, const char *pattern, rp_pats *out, rp_error *err);

#endif
