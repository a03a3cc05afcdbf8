/* tape.c - the way of an op onto its queue: timed where that is asked for, and kept with its
 * arguments between two marks, to be put again. */
#include "base/log.h"
#include "ops/backend.h"

/* Records one after another: the op, then its arguments in whole words. */
struct rp_tape {
  uint64_t *words;
  size_t n, cap;
  rp_error err; /* memory ran short while recording */
  rp_queue *q;  /* it was recorded on */
  rp_device *d; /* of q */
  void *made;   /* by the kind of device; NULL */
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

static void put_timed(rp_queue *q, rp_op op, const void *args) {
  rp_op_times *t = q->times;
  q->d->kind->run(q);
  const double from = rp_now();
  q->d->kind->put(q, op, args);
  q->d->kind->run(q);
  t->seconds[op] += rp_now() - from;
  t->count[op]++;
  if (op == RP_OP_gemm) {
    const rp_gemm_args *a = args;
    t->product += 2.0 * a->M * a->N * a->K;
    t->moved += (double)a->M * a->K * (double)rp_dtype_bytes(a->a.dtype) +
                (double)a->N * a->K * (double)rp_dtype_bytes(a->b.dtype) +
                (double)a->M * a->N * (double)rp_dtype_bytes(a->c.dtype);
  }
}

void rp_queue_put(rp_queue *q, rp_op op, const void *args) {
  if (q->err.status) return;
  if (q->tape) record(q->tape, op, args);
  if (q->times)
    put_timed(q, op, args);
  else
    q->d->kind->put(q, op, args);
}

void rp_queue_time(rp_queue *q, rp_op_times *times) { q->times = times; }

rp_status rp_record_begin(rp_queue *q, rp_error *err) {
  if (q->tape) return rp_fail(err, RP_FAIL, "a recording is under way on this queue; end it first");
  q->tape = rp_calloc(1, sizeof *q->tape);
  if (!q->tape) return rp_fail_memory(err, sizeof *q->tape, "a recorded step");
  q->tape->q = q;
  q->tape->d = q->d;
  return RP_OK;
}

rp_status rp_record_end(rp_queue *q, rp_tape **tape, rp_error *err) {
  *tape = NULL;
  if (!q->tape) return rp_fail(err, RP_FAIL, "no recording is under way on this queue");
  rp_tape *t = q->tape;
  q->tape = NULL;
  if (!t->err.status && q->d->kind->record) t->made = q->d->kind->record(q, t, &t->err);
  if (t->err.status) {
    const rp_status st = rp_fail(err, t->err.status, "%s", t->err.text);
    rp_tape_free(t);
    return st;
  }
  *tape = t;
  return RP_OK;
}

static void put_all(rp_queue *q, const rp_tape *t, void (*one)(rp_queue *, rp_op, const void *)) {
  for (size_t i = 0; i < t->n && !q->err.status;) {
    const rp_op op = (rp_op)t->words[i];
    one(q, op, t->words + i + 1);
    i += 1 + words_of(op);
  }
}

void rp_tape_put(rp_queue *q, const rp_tape *t) { put_all(q, t, q->d->kind->put); }

void rp_replay(rp_queue *q, const rp_tape *tape) {
  if (q->err.status) return;
  if (tape->made && tape->q == q && !q->tape && !q->times)
    q->d->kind->replay(q, tape, tape->made);
  else
    put_all(q, tape, rp_queue_put);
}

void rp_tape_free(rp_tape *tape) {
  if (!tape) return;
  if (tape->made) tape->d->kind->forget(tape->d, tape->made);
  rp_free(tape->words);
  rp_free(tape);
}
