/* session.c - timelines: their patterns, tables of blocks, forks and truncations. */
#include <string.h>

#include "base/log.h"
#include "session/inner.h"

static int real_bytes(const rp_engine *e) { return rp_dtype_bytes(rp_device_real(e->dev)); }

const rp_pats *rp_session_pats(const rp_session *s) { return &s->e->plan[s->plan].pats; }

/* ---- plans ---- */

static bool same(const rp_pats *a, const rp_pats *b) {
  return memcmp(a->at, b->at, sizeof *a->at * (size_t)(a->layers * a->kv_heads)) == 0;
}

/* A plan of the net for these patterns, which are taken over. */
static rp_status take_plan(rp_engine *e, rp_pats *pats, int *plan, rp_error *err) {
  int unused = -1;
  for (int i = 0; i < e->plans; i++) {
    if (same(&e->plan[i].pats, pats)) {
      rp_pats_free(pats);
      e->plan[i].sessions++;
      *plan = i;
      return RP_OK;
    }
    if (i > 0 && e->plan[i].sessions == 0) unused = i;
  }
  if (unused < 0) {
    RP_TRY(rp_net_add_plan(e->net, pats, &unused, err));
    e->plans = unused + 1;
  } else {
    RP_TRY(rp_net_set_plan(e->net, unused, pats, err));
    rp_pats_free(&e->plan[unused].pats);
  }
  e->plan[unused] = (rp_used_plan){*pats, 1};
  *pats = (rp_pats){0};
  *plan = unused;
  return RP_OK;
}

/* ---- lists ---- */

static int lists_of(const rp_engine *e) { return 2 * e->model->m.N * e->model->m.Hk; }
static rp_pat pat_of(const rp_session *s, int list) { return rp_session_pats(s)->at[list / 2]; }
static rp_src src_of(int list) { return list % 2 ? RP_SRC_RING : RP_SRC_KEPT; }

static int64_t entries_of(const rp_session *s, int list, int64_t tokens) {
  const rp_pat p = pat_of(s, list);
  return src_of(list) == RP_SRC_KEPT ? rp_pat_in_kept(p, tokens, s->e->o.rollback)
                                     : rp_pat_in_ring(p, tokens, s->e->o.rollback);
}
static int64_t blocks_for(int64_t entries) { return (entries + RP_KV_BLOCK - 1) / RP_KV_BLOCK; }

/* Tables for `limit` tokens, all empty. */
static rp_status make_lists(rp_session *s, rp_error *err) {
  const int lists = lists_of(s->e);
  int64_t at = lists;
  s->list = rp_calloc((size_t)lists, sizeof *s->list);
  if (!s->list) return rp_fail_memory(err, (size_t)lists * sizeof *s->list, "a session");
  for (int i = 0; i < lists; i++) {
    s->list[i].begin = (int32_t)at;
    at += blocks_for(entries_of(s, i, s->limit));
    if (at > INT32_MAX)
      return rp_fail(err, RP_USAGE, "a session of %lld tokens has more than 2^31 blocks",
                     (long long)s->limit);
  }
  s->n_ints = (size_t)at;
  s->ints = rp_calloc(s->n_ints, sizeof *s->ints);
  if (!s->ints) return rp_fail_memory(err, s->n_ints * sizeof *s->ints, "the tables of a session");
  for (int i = 0; i < lists; i++) s->ints[i] = s->list[i].begin;
  return RP_OK;
}

static rp_status make_cell(rp_session *s, rp_error *err) {
  const rp_model_settings *m = &s->e->model->m;
  s->states_bytes = rp_cell_states_bytes(&s->e->kv, m->Hk, m->h, real_bytes(s->e));
  s->cell_bytes = s->states_bytes + s->n_ints * sizeof *s->ints;
  return rp_device_alloc(s->e->dev, s->cell_bytes, "a session", &s->cell, err);
}

/* Gives back what the session holds; its tables mean nothing then. */
static void drop_blocks(rp_session *s) {
  rp_engine *e = s->e;
  for (int i = 0; s->list && s->ints && i < lists_of(e); i++) {
    for (int32_t b = 0; b < s->list[i].blocks; b++) {
      const int32_t block = s->ints[s->list[i].begin + b];
      if (--e->refs[block] == 0) e->free[e->n_free++] = block;
    }
    s->list[i].blocks = 0;
  }
  s->blocks = 0;
}

static void close_locked(rp_session *s) {
  rp_engine *e = s->e;
  drop_blocks(s);
  if (s->cell.at) rp_device_free(e->dev, s->cell);
  if (s->plan >= 0) e->plan[s->plan].sessions--;
  e->sessions--;
  rp_free(s->list);
  rp_free(s->ints);
  rp_free(s->pattern);
  rp_free(s);
}

void rp_session_close(rp_session *s) {
  if (!s) return;
  rp_engine *e = s->e;
  pthread_mutex_lock(&e->mutex);
  close_locked(s);
  pthread_mutex_unlock(&e->mutex);
}

static rp_session *new_session(rp_engine *e, rp_error *err) {
  rp_session *s = rp_calloc(1, sizeof *s);
  if (!s) {
    rp_fail_memory(err, sizeof *s, "a session");
    return NULL;
  }
  s->e = e;
  s->plan = -1;
  e->sessions++;
  return s;
}

static rp_status open_locked(rp_session **out, rp_engine *e, const char *pattern, int64_t limit,
                             rp_error *err) {
  rp_status st = RP_OK;
  rp_pats pats = {0};
  rp_session *s = new_session(e, err);
  if (!s) return RP_NO_MEMORY;
  s->limit = limit > 0 ? limit : e->model->seq_len;
  if (s->limit >= 1 << 30)
    RP_GO(rp_fail(err, RP_USAGE, "a session of %lld tokens is beyond 2^30; give a smaller limit",
                  (long long)s->limit));
  RP_GO(rp_model_parse(e->model, pattern, &pats, err));
  s->pattern = rp_pats_format(&pats);
  if (!s->pattern) RP_GO(rp_fail_memory(err, 64, "a pattern"));
  RP_GO(take_plan(e, &pats, &s->plan, err));
  RP_GO(make_lists(s, err));
  RP_GO(make_cell(s, err));
  rp_upload(e->q, rp_ptr_add(s->cell, s->states_bytes), s->ints, s->n_ints * sizeof *s->ints);
  RP_GO(rp_wait(e->q, err));
  *out = s;
  s = NULL;
fail:
  rp_pats_free(&pats);
  if (s) close_locked(s);
  return st;
}

rp_status rp_session_open(rp_session **out, rp_engine *e, const char *pattern, int64_t limit,
                          rp_error *err) {
  *out = NULL;
  pthread_mutex_lock(&e->mutex);
  const rp_status st = open_locked(out, e, pattern, limit, err);
  pthread_mutex_unlock(&e->mutex);
  return st;
}

/* ---- forks and truncations ---- */

static rp_status fork_locked(rp_session **out, const rp_session *from, rp_error *err) {
  rp_status st = RP_OK;
  rp_engine *e = from->e;
  rp_session *s = new_session(e, err);
  if (!s) return RP_NO_MEMORY;
  s->limit = from->limit;
  s->plan = from->plan;
  e->plan[s->plan].sessions++;
  s->pattern = rp_strdup(from->pattern);
  if (!s->pattern) RP_GO(rp_fail_memory(err, 64, "a pattern"));
  RP_GO(make_lists(s, err));
  RP_GO(make_cell(s, err));
  rp_op_copy(e->q, &(rp_copy_args){s->cell, from->cell, s->cell_bytes});
  RP_GO(rp_wait(e->q, err));
  memcpy(s->ints, from->ints, s->n_ints * sizeof *s->ints);
  memcpy(s->list, from->list, (size_t)lists_of(e) * sizeof *s->list);
  for (int i = 0; i < lists_of(e); i++)
    for (int32_t b = 0; b < s->list[i].blocks; b++) e->refs[s->ints[s->list[i].begin + b]]++;
  s->blocks = from->blocks;
  s->pos = from->pos;
  s->top = from->top;
  *out = s;
  s = NULL;
fail:
  if (s) close_locked(s);
  return st;
}

rp_status rp_session_fork(rp_session **out, rp_session *from, rp_error *err) {
  *out = NULL;
  pthread_mutex_lock(&from->e->mutex);
  const rp_status st = fork_locked(out, from, err);
  pthread_mutex_unlock(&from->e->mutex);
  return st;
}

rp_status rp_session_truncate(rp_session *s, int64_t tokens, rp_error *err) {
  const int64_t low = s->top - s->e->o.rollback;
  if (tokens < 0 || tokens > s->pos)
    return rp_fail(err, RP_USAGE, "a session of %d tokens cannot be cut to %lld", (int)s->pos,
                   (long long)tokens);
  if (tokens != 0 && tokens != s->pos && tokens < low)
    return rp_fail(err, RP_USAGE,
                   "a session that held %d tokens cannot go back to %lld: the engine's rollback "
                   "is %d; fork the session where you may want to return",
                   (int)s->top, (long long)tokens, s->e->o.rollback);
  pthread_mutex_lock(&s->e->mutex);
  if (tokens == 0) {
    drop_blocks(s);
    s->top = 0;
  }
  s->pos = (int32_t)tokens;
  pthread_mutex_unlock(&s->e->mutex);
  return RP_OK;
}

/* ---- growing ---- */

typedef struct {
  rp_session *s;
  bool do_it;
  int64_t *need;
} growth;

static void set_entry(rp_session *s, int32_t at, int32_t block) {
  rp_engine *e = s->e;
  s->ints[at] = block;
  e->entries[e->n_entries++] = (rp_table_entry){
      .at = rp_ptr_add(s->cell, s->states_bytes + (size_t)at * sizeof *s->ints), .block = block};
}

static int32_t take_block(rp_engine *e) {
  const int32_t block = e->free[--e->n_free];
  e->refs[block] = 1;
  return block;
}

/* Block b of a list will be written: it must be there, and the session's alone. On a dry run what
 * would be shared no longer is noted, for rp_growth_undo: of two rows that write into a block which
 * they alone share, the second one keeps it. */
static void touch(const growth *g, int list, int32_t b) {
  rp_session *s = g->s;
  rp_engine *e = s->e;
  rp_list *l = &s->list[list];
  const int32_t at = l->begin + b;
  if (b >= l->blocks) {
    ++*g->need;
    if (!g->do_it) return;
    set_entry(s, at, take_block(e));
    l->blocks = b + 1;
    s->blocks++;
  } else if (e->refs[s->ints[at]] > 1) {
    const int32_t old = s->ints[at];
    ++*g->need;
    e->refs[old]--;
    if (!g->do_it) {
      e->entries[e->n_entries++].block = old;
      return;
    }
    const int32_t block = take_block(e);
    rp_op_copy(e->q, &(rp_copy_args){rp_ptr_add(e->kv.pool.p, e->block_bytes * (size_t)block),
                                     rp_ptr_add(e->kv.pool.p, e->block_bytes * (size_t)old),
                                     e->block_bytes});
    set_entry(s, at, block);
  }
}

static void touch_entries(const growth *g, int list, int64_t from, int64_t to) {
  if (from >= to) return;
  for (int64_t b = from / RP_KV_BLOCK; b <= (to - 1) / RP_KV_BLOCK; b++) touch(g, list, (int32_t)b);
}

/* The positions [from, to) of RING, of which only the newest stay. */
static void touch_ring(const growth *g, int list, rp_pat p, int64_t from, int64_t to) {
  const int64_t size = rp_pat_ring(p, g->s->e->o.rollback);
  if (from < p.I) from = p.I;
  if (to - size > from) from = to - size;
  if (size == 0 || from >= to) return;
  const int64_t first = (from - p.I) % size, n = to - from;
  if (first + n <= size) {
    touch_entries(g, list, first, first + n);
    return;
  }
  /* In the order of the list, so that blocks come one after the other; both ends may lie in one. */
  const int64_t rest = first + n - size;
  const int64_t begin = blocks_for(rest) * RP_KV_BLOCK;
  touch_entries(g, list, 0, rest);
  touch_entries(g, list, first > begin ? first : begin, size);
}

void rp_session_grow(rp_session *s, int64_t n, bool do_it, int64_t *need) {
  const growth g = {s, do_it, need};
  const int64_t from = s->pos, to = from + n, top = to > s->top ? to : s->top;
  for (int i = 0; i < lists_of(s->e); i++) {
    const rp_pat p = pat_of(s, i);
    if (src_of(i) == RP_SRC_RING) {
      touch_ring(&g, i, p, from, to);
    } else if (p.D == 1) {
      touch_entries(&g, i, from, to);
    } else {
      const int64_t initial = to < p.I ? to : p.I;
      const int64_t had = entries_of(s, i, s->top), has = entries_of(s, i, top);
      const int64_t later = had > p.I ? had : p.I;
      /* What is new of the dilated ones begins behind the initial ones, maybe in their block. */
      touch_entries(&g, i, from, initial);
      const int64_t begin =
          from < initial ? (initial + RP_KV_BLOCK - 1) / RP_KV_BLOCK * RP_KV_BLOCK : later;
      touch_entries(&g, i, begin > later ? begin : later, has);
    }
  }
}

void rp_growth_undo(rp_engine *e) {
  while (e->n_entries) e->refs[e->entries[--e->n_entries].block]++;
}

/* ---- facts ---- */

int64_t rp_session_tokens(const rp_session *s) { return s->pos; }
int64_t rp_session_limit(const rp_session *s) { return s->limit; }
const char *rp_session_pattern(const rp_session *s) { return s->pattern; }
uint64_t rp_session_cache_bytes(const rp_session *s) {
  return (uint64_t)s->blocks * s->e->block_bytes;
}
uint64_t rp_session_state_bytes(const rp_session *s) {
  const rp_model_settings *m = &s->e->model->m;
  return (uint64_t)m->N * (uint64_t)s->e->kv.states * 2 * (uint64_t)m->Hk * (uint64_t)m->h *
         (uint64_t)real_bytes(s->e);
}

void rp_session_cancel(rp_session *s) { atomic_store(&s->cancelled, 1); }
void rp_session_deadline(rp_session *s, double seconds) {
  s->deadline = seconds > 0 ? rp_now() + seconds : 0;
}

/* A benchmark's shortcut: as after that many tokens, with whatever the blocks contain. */
rp_status rp_session_skip(rp_session *s, int64_t tokens, rp_error *err) {
  rp_status st = RP_OK;
  rp_engine *e = s->e;
  pthread_mutex_lock(&e->mutex);
  if (tokens < 0 || s->pos + tokens > s->limit)
    RP_GO(rp_fail(err, RP_USAGE, "%lld more tokens are beyond the session's limit of %lld",
                  (long long)tokens, (long long)s->limit));
  while (tokens > 0) {
    const int64_t n = tokens < e->o.chunk ? tokens : e->o.chunk;
    int64_t need = 0;
    e->n_entries = 0;
    rp_session_grow(s, n, false, &need);
    rp_growth_undo(e);
    if (need > e->n_free)
      RP_GO(rp_fail(err, RP_NO_MEMORY, "the pool of %d cache blocks is full", e->kv.blocks));
    rp_session_grow(s, n, true, &need);
    rp_upload(e->q, e->d_entries, e->entries, e->n_entries * sizeof *e->entries);
    rp_op_table(e->q, &(rp_table_args){(int32_t)e->n_entries, e->d_entries});
    RP_GO(rp_wait(e->q, err));
    s->pos += (int32_t)n;
    if (s->pos > s->top) s->top = s->pos;
    tokens -= n;
  }
fail:
  pthread_mutex_unlock(&e->mutex);
  return st;
}
