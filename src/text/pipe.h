/* pipe.h - batches of text encoded by several threads and taken back in order.
 *
 * One thread owns the pipe: it takes a free job, fills it, submits it, and takes finished ones in
 * the order of submission. A fixed number of jobs bounds the memory, and the order of what comes
 * out does not depend on the number of threads. */
#ifndef RP_TEXT_PIPE_H
#define RP_TEXT_PIPE_H

#include "text/docs.h"
#include "text/encoder.h"

typedef struct {
  rp_batch in;
  bool jsonl, ends_file; /* ends_file: the last job of its file (its batch is empty) */
  size_t file;           /* which input; for the owner */
  const char *name;      /* of the input, for errors; outlives the job */
  rp_ids ids;            /* BOS and EOS included */
  rp_status st;          /* set when filled (a failure is passed on), then of the encoding */
  rp_error err;
} rp_job;

typedef struct {
  const rp_tokenizer *tokenizer;
  const char *field;
  bool bos, eos;
} rp_pipe_spec;

typedef struct rp_pipe rp_pipe;
/* spec and what it points to outlive the pipe. */
rp_status rp_pipe_open(rp_pipe **p, const rp_pipe_spec *spec, int threads, rp_error *err);
void rp_pipe_close(rp_pipe *p); /* waits for the threads; NULL is fine */
/* A job to fill, or NULL while all are under way. The same one until submitted. */
rp_job *rp_pipe_free_job(rp_pipe *p);
void rp_pipe_submit(rp_pipe *p);
/* Waits for the oldest submitted job; NULL when there is none. Then it is released. */
rp_job *rp_pipe_oldest(rp_pipe *p);
void rp_pipe_release(rp_pipe *p);

#endif
