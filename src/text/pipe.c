#include "text/pipe.h"

#include <pthread.h>
#include <string.h>

#include "text/jsonl.h"
#include "text/utf8.h"

enum { WAITING, RUNNING, DONE };

typedef struct {
  rp_pipe *pipe;
  rp_encoder *encoder;
  rp_str text; /* of one JSON line */
  pthread_t thread;
  bool started;
} worker;

struct rp_pipe {
  rp_pipe_spec spec;
  int n_workers, n_jobs;
  worker *workers;
  rp_job *jobs;
  int *state;                      /* of each job */
  uint64_t submitted, next, taken; /* jobs submitted, begun by workers, released by the owner */
  bool quit;
  pthread_mutex_t lock;
  pthread_cond_t work, done;
};

static rp_status add_id(rp_ids *ids, int32_t id, rp_error *err) {
  RP_TRY(rp_grow(&ids->id, &ids->cap, ids->n + 1, sizeof *ids->id, "token ids", err));
  ids->id[ids->n++] = id;
  return RP_OK;
}

static rp_status encode_piece(worker *w, rp_job *j, rp_piece *p, rp_error *err) {
  const rp_pipe_spec *spec = &w->pipe->spec;
  const char *s = j->in.text.s ? j->in.text.s + p->at : "";
  size_t len = p->len;
  if (j->jsonl) {
    rp_str_clear(&w->text);
    if (rp_jsonl_text(s, len, spec->field, &w->text, err))
      return rp_fail_at(err, "%s: line %llu", j->name, (unsigned long long)p->line);
    s = w->text.s ? w->text.s : "";
    len = w->text.len;
    p->blank = rp_text_is_blank(s, len);
  }
  p->invalid = !rp_utf8_valid(s, len);
  p->text_len = len;
  if (!p->blank) {
    if (p->begins && spec->bos) RP_TRY(add_id(&j->ids, spec->tokenizer->bos, err));
    RP_TRY(rp_encoder_add(w->encoder, s, len, p->begins, &j->ids, err));
    if (p->ends && spec->eos) RP_TRY(add_id(&j->ids, spec->tokenizer->eos, err));
  }
  p->ids_end = j->ids.n;
  return RP_OK;
}

static void encode_job(worker *w, rp_job *j) {
  j->ids.n = 0;
  for (size_t i = 0; i < j->in.n && !j->st; i++)
    j->st = encode_piece(w, j, &j->in.pieces[i], &j->err);
}

static void *work(void *arg) {
  worker *w = arg;
  rp_pipe *p = w->pipe;
  pthread_mutex_lock(&p->lock);
  for (;;) {
    while (!p->quit && p->next == p->submitted) pthread_cond_wait(&p->work, &p->lock);
    if (p->quit) break;
    const int k = (int)(p->next++ % (uint64_t)p->n_jobs);
    p->state[k] = RUNNING;
    pthread_mutex_unlock(&p->lock);
    encode_job(w, &p->jobs[k]);
    pthread_mutex_lock(&p->lock);
    p->state[k] = DONE;
    pthread_cond_signal(&p->done);
  }
  pthread_mutex_unlock(&p->lock);
  return NULL;
}

static rp_status start(rp_pipe *p, rp_error *err) {
  for (int i = 0; i < p->n_workers; i++) {
    worker *w = &p->workers[i];
    w->pipe = p;
    RP_TRY(rp_encoder_open(&w->encoder, p->spec.tokenizer, err));
    if (pthread_create(&w->thread, NULL, work, w))
      return rp_fail(err, RP_FAIL, "cannot start thread %d of %d; use fewer --threads", i + 1,
                     p->n_workers);
    w->started = true;
  }
  return RP_OK;
}

rp_status rp_pipe_open(rp_pipe **out, const rp_pipe_spec *spec, int threads, rp_error *err) {
  *out = NULL;
  rp_pipe *p = rp_calloc(1, sizeof *p);
  if (!p) return rp_fail_memory(err, sizeof *p, "threads that encode");
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->work, NULL);
  pthread_cond_init(&p->done, NULL);
  p->spec = *spec;
  p->n_workers = threads < 1 ? 1 : threads;
  p->n_jobs = 2 * p->n_workers + 1;
  p->workers = rp_calloc((size_t)p->n_workers, sizeof *p->workers);
  p->jobs = rp_calloc((size_t)p->n_jobs, sizeof *p->jobs);
  p->state = rp_calloc((size_t)p->n_jobs, sizeof *p->state);
  rp_status st = p->workers && p->jobs && p->state
                     ? start(p, err)
                     : rp_fail_memory(err, (size_t)p->n_jobs * sizeof *p->jobs, "jobs");
  if (st)
    rp_pipe_close(p);
  else
    *out = p;
  return st;
}

void rp_pipe_close(rp_pipe *p) {
  if (!p) return;
  pthread_mutex_lock(&p->lock);
  p->quit = true;
  pthread_cond_broadcast(&p->work);
  pthread_mutex_unlock(&p->lock);
  for (int i = 0; p->workers && i < p->n_workers; i++) {
    worker *w = &p->workers[i];
    if (w->started) pthread_join(w->thread, NULL);
    rp_encoder_close(w->encoder);
    rp_str_free(&w->text);
  }
  for (int i = 0; p->jobs && i < p->n_jobs; i++) {
    rp_batch_free(&p->jobs[i].in);
    rp_free(p->jobs[i].ids.id);
  }
  pthread_cond_destroy(&p->done);
  pthread_cond_destroy(&p->work);
  pthread_mutex_destroy(&p->lock);
  rp_free(p->workers);
  rp_free(p->jobs);
  rp_free(p->state);
  rp_free(p);
}

rp_job *rp_pipe_free_job(rp_pipe *p) {
  /* submitted and taken change in the owner's thread only. */
  if (p->submitted - p->taken == (uint64_t)p->n_jobs) return NULL;
  return &p->jobs[p->submitted % (uint64_t)p->n_jobs];
}

void rp_pipe_submit(rp_pipe *p) {
  pthread_mutex_lock(&p->lock);
  p->state[p->submitted++ % (uint64_t)p->n_jobs] = WAITING;
  pthread_cond_signal(&p->work);
  pthread_mutex_unlock(&p->lock);
}

rp_job *rp_pipe_oldest(rp_pipe *p) {
  if (p->submitted == p->taken) return NULL;
  const int k = (int)(p->taken % (uint64_t)p->n_jobs);
  pthread_mutex_lock(&p->lock);
  while (p->state[k] != DONE) pthread_cond_wait(&p->done, &p->lock);
  pthread_mutex_unlock(&p->lock);
  return &p->jobs[k];
}

void rp_pipe_release(rp_pipe *p) { p->taken++; }
