/* tape.c - ops put between two marks, kept with their arguments to be put again. */
#include "ops/backend.h"

/* Records one after another: the op, then its arguments in whole words. */
struct rp_tape {
  uint64_t *words;
  size_t n, cap;
  rp_error err; /* memory ran short while recording */
};

static size_t words_of(rp_op op) { return (rp_op_args_bytes(op) + 7) / 8; }

static void record(rp_tape *t, rp_op op, const void *args) {
  const size_t need = t->n + 1 + words_of(op);
  if (t->err.status) return;
  if (rp_grow(&t->words, &t->cap, need, sizeof *t->words, "a recorded step", &t->err)) return;
  t->words[t->n] = (uint64_t)op;
  memcpy(t->words + t->n + 1, args, rp_op_args_bytes(op));
  t->n = need;
}

void rp_queue_put(rp_queue *q, rp_op op, const void *args) {
  if (q->err.status) return;
  if (q->tape) record(q->tape, op, args);
  q->d->kind->put(q, op, args);
}

rp_status rp_record_begin(rp_queue *q, rp_error *err) {
  if (q->tape) return rp_fail(err, RP_FAIL, "a recording is under way on this queue; end it first");
  q->tape = rp_calloc(1, sizeof *q->tape);
  return q->tape ? RP_OK : rp_fail_memory(err, sizeof *q->tape, "a recorded step");
}

rp_status rp_record_end(rp_queue *q, rp_tape **tape, rp_error *err) {
  *tape = NULL;
  if (!q->tape) return rp_fail(err, RP_FAIL, "no recording is under way on this queue");
  rp_tape *t = q->tape;
  q->tape = NULL;
  if (t->err.status) {
    const rp_status st = rp_fail(err, t->err.status, "%s", t->err.text);
    rp_tape_free(t);
    return st;
  }
  *tape = t;
  return RP_OK;
}

void rp_replay(rp_queue *q, const rp_tape *tape) {
  for (size_t i = 0; i < tape->n;) {
    const rp_op op = (rp_op)tape->words[i];
    rp_queue_put(q, op, tape->words + i + 1);
    i += 1 + words_of(op);
  }
}

void rp_tape_free(rp_tape *tape) {
  if (!tape) return;
  rp_free(tape->words);
  rp_free(tape);
}
