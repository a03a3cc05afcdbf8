/* call.c - new tokens of many sessions in one pass. */
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "session/inner.h"

/* ---- what is asked for ---- */

static bool scored(const rp_feed *f) { return f->logprob || f->best; }

typedef struct {
  int tokens, longest;
  int scored, logits; /* tokens of each pick */
} shape;

static rp_status check_feed(const rp_engine *e, const rp_feed *f, rp_error *err) {
  const int V = e->model->m.V;
  const rp_session *s = f->session;
  if (!s || s->e != e) return rp_fail(err, RP_USAGE, "a row's session is not of this engine");
  if (f->n < 1 || !f->ids) return rp_fail(err, RP_USAGE, "a row has no tokens");
  if (f->n > s->limit - s->pos)
    return rp_fail(err, RP_USAGE,
                   "%lld tokens after %d are beyond the session's limit of %lld tokens",
                   (long long)f->n, (int)s->pos, (long long)s->limit);
  for (int64_t i = 0; i < f->n; i++)
    if (f->ids[i] < 0 || f->ids[i] >= V)
      return rp_fail(err, RP_USAGE, "token %d is not in the vocabulary of %d", (int)f->ids[i], V);
  for (int64_t i = 0; f->next && f->logprob && i < f->n; i++)
    if (f->next[i] >= V)
      return rp_fail(err, RP_USAGE, "token %d is not in the vocabulary of %d", (int)f->next[i], V);
  if (f->logprob && !f->next)
    return rp_fail(err, RP_USAGE, "log-probabilities are asked for without their tokens");
  return RP_OK;
}

static rp_status check_call(const rp_engine *e, const rp_feed *rows, int n, shape *x,
                            rp_error *err) {
  *x = (shape){0};
  if (n < 1 || n > e->o.rows)
    return rp_fail(err, RP_USAGE, "a call of %d rows; this engine takes 1 to %d", n, e->o.rows);
  for (int i = 0; i < n; i++) {
    RP_TRY(check_feed(e, &rows[i], err));
    for (int j = 0; j < i; j++)
      if (rows[j].session == rows[i].session)
        return rp_fail(err, RP_USAGE, "a session is in two rows of one call");
    if (rows[i].n > e->o.chunk - x->tokens)
      return rp_fail(err, RP_USAGE,
                     "a call of more than %d tokens; use rp_prefill or a larger chunk", e->o.chunk);
    x->tokens += (int)rows[i].n;
    if (rows[i].n > x->longest) x->longest = (int)rows[i].n;
    if (scored(&rows[i])) x->scored += (int)rows[i].n;
    if (rows[i].logits) x->logits++;
  }
  if (x->scored > e->o.wanted || x->logits > e->o.wanted)
    return rp_fail(err, RP_USAGE,
                   "a call that wants the logits of %d tokens; this engine takes at most %d",
                   x->scored > x->logits ? x->scored : x->logits, e->o.wanted);
  return RP_OK;
}

/* Cancelled, or past its deadline: said once. */
static rp_status check_stop(const rp_feed *rows, int n, rp_error *err) {
  for (int i = 0; i < n; i++) {
    if (atomic_exchange(&rows[i].session->cancelled, 0))
      return rp_fail(err, RP_STOPPED, "cancelled");
    if (rows[i].session->deadline > 0 && rp_now() >= rows[i].session->deadline)
      return rp_fail(err, RP_STOPPED, "the deadline has passed");
  }
  return RP_OK;
}

static rp_status reserve(rp_engine *e, const rp_feed *rows, int n, rp_error *err) {
  int64_t need = 0, taken = 0;
  e->n_entries = 0;
  for (int i = 0; i < n; i++) rp_session_grow(rows[i].session, rows[i].n, false, &need);
  rp_growth_undo(e);
  if (need > e->n_free)
    return rp_fail(err, RP_NO_MEMORY,
                   "the pool of %d cache blocks has %d left and this call takes %lld; close "
                   "sessions, or open the engine with more bytes of cache",
                   e->kv.blocks, e->n_free, (long long)need);
  for (int i = 0; i < n; i++) rp_session_grow(rows[i].session, rows[i].n, true, &taken);
  return RP_OK;
}

/* ---- the pass ---- */

/* Rows, ids and wanted tokens on the host; what pads a call reads token 0 and writes to nobody. */
static void lay_out(rp_engine *e, const rp_feed *rows, int n, const shape *x, int padded,
                    const int picks[2]) {
  int tok = 0, one = 0, two = picks[0];
  memset(e->at, 0, (size_t)(picks[0] + picks[1]) * sizeof *e->at);
  for (int i = 0; i < picks[0]; i++) e->next[i] = -1;
  for (int i = 0; i < n; i++) {
    const rp_feed *f = &rows[i];
    const rp_session *s = f->session;
    e->row[i] = (rp_row){.tok = tok,
                         .n = (int32_t)f->n,
                         .pos = s->pos,
                         .top = s->top,
                         .plan = s->plan,
                         .cell = s->cell};
    memcpy(e->ids + tok, f->ids, (size_t)f->n * sizeof *f->ids);
    for (int64_t t = 0; scored(f) && t < f->n; t++, one++) {
      e->at[one] = tok + (int32_t)t;
      if (f->next) e->next[one] = f->next[t];
    }
    tok += (int)f->n;
    if (f->logits) e->at[two++] = tok - 1;
  }
  memset(e->ids + x->tokens, 0, (size_t)(padded - x->tokens) * sizeof *e->ids);
}

/* One of the steps that came lately; else it takes the place of the oldest. */
static rp_step *step_of(rp_engine *e, const rp_step *want) {
  for (int i = 0; i < RP_STEPS; i++) {
    rp_step *s = &e->step[i];
    if (s->rows == want->rows && s->tokens == want->tokens && s->picks[0] == want->picks[0] &&
        s->picks[1] == want->picks[1])
      return s;
  }
  rp_step *s = &e->step[e->steps++ % RP_STEPS];
  rp_tape_free(s->tape);
  *s = *want;
  return NULL;
}

/* A step that comes again is recorded, so that a GPU is told of its ops at once. */
static rp_status run(rp_engine *e, const rp_net_call *c, rp_error *err) {
  const rp_step want = {c->rows.count, c->rows.tokens, {c->picks[0].n, c->picks[1].n}, NULL};
  rp_step *s = e->late && c->rows.longest == 1 ? step_of(e, &want) : NULL;
  if (s && s->tape) {
    rp_replay(e->q, s->tape);
    return RP_OK;
  }
  if (s) RP_TRY(rp_record_begin(e->q, err));
  const rp_status st = rp_net_run(e->net, &e->model->weights, c, err);
  if (s)
    rp_record_end(e->q, &s->tape, NULL); /* without the memory for it, it is put again as it was */
  return st;
}

static rp_status pass(rp_engine *e, int n, const shape *x, rp_error *err) {
  const int padded = rp_call_size(x->tokens, e->o.chunk);
  const int picks[2] = {rp_call_size(x->scored, e->wanted), rp_call_size(x->logits, e->wanted)};
  rp_queue *q = e->q;
  rp_upload(q, e->d_row, e->row, (size_t)n * sizeof *e->row);
  rp_upload(q, e->d_ids, e->ids, (size_t)padded * sizeof *e->ids);
  if (picks[0] + picks[1])
    rp_upload(q, e->d_at, e->at, (size_t)(picks[0] + picks[1]) * sizeof *e->at);
  if (picks[0]) rp_upload(q, e->d_next, e->next, (size_t)picks[0] * sizeof *e->next);
  if (e->n_entries) {
    rp_upload(q, e->d_entries, e->entries, e->n_entries * sizeof *e->entries);
    rp_op_table(q, &(rp_table_args){(int32_t)e->n_entries, e->d_entries});
  }
  const rp_net_call c = {
      .rows = {e->d_row, n, padded, x->longest},
      .ids = e->d_ids,
      .at = e->d_at,
      .picks = {{picks[0], e->d_next, e->d_lse, e->d_logit, e->d_best, {0}},
                {.n = picks[1], .logits = e->d_logits}},
      .kv = e->kv,
  };
  return run(e, &c, err);
}

static void fetch(rp_engine *e, const rp_feed *rows, int n, const shape *x) {
  const rp_dtype real = rp_device_real(e->dev);
  const int V = e->model->m.V;
  if (x->scored) {
    rp_download_as(e->q, e->lse, RP_F64, (rp_tensor){e->d_lse, real}, x->scored);
    rp_download_as(e->q, e->logit, RP_F64, (rp_tensor){e->d_logit, real}, x->scored);
    rp_download(e->q, e->best, e->d_best, (size_t)x->scored * sizeof *e->best);
  }
  int64_t at = 0;
  for (int i = 0; i < n; i++)
    if (rows[i].logits)
      rp_download_as(e->q, rows[i].logits, RP_F32,
                     rp_tensor_at((rp_tensor){e->d_logits, real}, at++ * V), V);
}

static void hand_out(const rp_engine *e, const rp_feed *rows, int n) {
  int at = 0;
  for (int i = 0; i < n; i++) {
    const rp_feed *f = &rows[i];
    for (int64_t t = 0; scored(f) && t < f->n; t++, at++) {
      if (f->best) f->best[t] = e->best[at];
      if (f->logprob) f->logprob[t] = f->next[t] < 0 ? NAN : (float)(e->logit[at] - e->lse[at]);
    }
    rp_session *s = f->session;
    s->pos += (int32_t)f->n;
    if (s->pos > s->top) s->top = s->pos;
  }
}

static rp_status call(rp_engine *e, const rp_feed *rows, int n, rp_error *err) {
  shape x;
  RP_TRY(check_call(e, rows, n, &x, err));
  RP_TRY(check_stop(rows, n, err));
  RP_TRY(rp_wait(e->q, err)); /* an error of the device stays */
  RP_TRY(reserve(e, rows, n, err));
  const int picks[2] = {rp_call_size(x.scored, e->wanted), rp_call_size(x.logits, e->wanted)};
  lay_out(e, rows, n, &x, rp_call_size(x.tokens, e->o.chunk), picks);
  RP_TRY(pass(e, n, &x, err));
  fetch(e, rows, n, &x);
  RP_TRY(rp_wait(e->q, err));
  hand_out(e, rows, n);
  return RP_OK;
}

/* Everything was reserved when the engine was opened. */
rp_status rp_engine_call(rp_engine *e, const rp_feed *rows, int n, rp_error *err) {
  pthread_mutex_lock(&e->mutex);
  rp_mem_forbid(!e->late);
  const rp_status st = call(e, rows, n, err);
  rp_mem_forbid(false);
  pthread_mutex_unlock(&e->mutex);
  return st;
}

/* ---- a whole prompt ---- */

void rp_prefill_defaults(rp_prefill_opts *o) { *o = (rp_prefill_opts){.size = sizeof *o}; }

rp_status rp_prefill(const rp_feed *f, const rp_prefill_opts *opts, rp_error *err) {
  rp_prefill_opts usual;
  rp_prefill_defaults(&usual);
  if (!opts) opts = &usual;
  if (opts->size != sizeof *opts)
    return rp_fail(err, RP_USAGE, "rp_prefill: options not filled by rp_prefill_defaults");
  if (!f->session || f->n < 1)
    return rp_fail(err, RP_USAGE, "a prompt has no tokens or no session");
  rp_engine *e = f->session->e;
  int64_t chunk = opts->chunk > 0 && opts->chunk < e->o.chunk ? opts->chunk : e->o.chunk;
  if (scored(f) && chunk > e->o.wanted) chunk = e->o.wanted;
  if (chunk < 1) return rp_fail(err, RP_USAGE, "this engine was opened to give no logits");
  if (f->n > f->session->limit - f->session->pos)
    return rp_fail(err, RP_USAGE,
                   "a prompt of %lld tokens after %lld is beyond the session's limit of %lld",
                   (long long)f->n, (long long)f->session->pos, (long long)f->session->limit);
  for (int64_t done = 0; done < f->n;) {
    rp_feed part = *f;
    part.n = f->n - done < chunk ? f->n - done : chunk;
    part.ids = f->ids + done;
    part.next = f->next ? f->next + done : NULL;
    part.logprob = f->logprob ? f->logprob + done : NULL;
    part.best = f->best ? f->best + done : NULL;
    if (done + part.n < f->n) part.logits = NULL;
    RP_TRY(rp_engine_call(e, &part, 1, err));
    done += part.n;
    if (opts->progress && opts->progress(opts->ctx, done, f->n) && done < f->n)
      return rp_fail(err, RP_STOPPED, "stopped as asked");
  }
  return RP_OK;
}
