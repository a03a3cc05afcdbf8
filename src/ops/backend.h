/* backend.h - what a kind of device implements; device.c is the public face of all of them.
 *
 * device.c keeps what every kind shares: the list of allocations and their sum, the sticky error of a
 * queue, tapes. A kind runs ops in the order they were put, at once or later, and stops at the first
 * error of its queue. Functions of one queue are called by one thread at a time; alloc and free by
 * any. */
#ifndef RP_OPS_BACKEND_H
#define RP_OPS_BACKEND_H

#include <pthread.h>
#include "ops/ops.h"

/* A copy between host and device. as: n elements with conversion; else n bytes. */
typedef struct {
  bool up, as;
  rp_tensor dev;
  void *host; /* read when up */
  rp_dtype host_dtype;
  int64_t n;
} rp_copy;
size_t rp_copy_host_bytes(const rp_copy *c);

/* A host function in its place among ops. */
typedef struct {
  rp_call_fn run;
  _Alignas(8) uint8_t args[RP_CALL_BYTES];
} rp_host_call;

typedef struct {
  bool reads_host; /* an rp_ptr may be the address of host memory */
  bool keeps_ops;  /* a put takes memory of the host: ops run later */
  void (*close)(rp_device *d);
  const char *(*label)(const rp_device *d); /* NULL: it is the host's processor and memory */
  /* Zeroed, 64-byte aligned. */
  rp_status (*alloc)(rp_device *d, size_t bytes, const char *what, void **out, rp_error *err);
  void (*free)(rp_device *d, void *p, size_t bytes);
  uint64_t (*available)(const rp_device *d); /* NULL: memory is the host's */
  rp_status (*queue_open)(rp_queue *q, rp_error *err);
  void (*queue_close)(rp_queue *q);
  rp_status (*reserve)(rp_queue *q, size_t bytes, rp_error *err);
  void (*put)(rp_queue *q, rp_op op, const void *args);
  void (*copy)(rp_queue *q, const rp_copy *c);
  void (*call)(rp_queue *q, const rp_host_call *c);
  /* Ops put on q from now on run after those put on `first` so far; NULL: they do anyway. */
  void (*after)(rp_queue *q, rp_queue *first);
  bool (*enter)(rp_device *d); /* NULL: memory is always there */
  void (*leave)(rp_device *d);
  void (*run)(rp_queue *q); /* everything put so far, to the end or the first error */
  bool (*has)(const rp_device *d, rp_op op);
  size_t (*scratch)(const rp_device *d, rp_op op, const void *args);
  /* What was recorded, made into one thing that is put at once on the same queue; NULL: its ops are put
   * one by one. record: NULL when memory is short; other errors are the queue's. */
  void *(*record)(rp_queue *q, const rp_tape *t, rp_error *err);
  void (*replay)(rp_queue *q, const rp_tape *t, void *made);
  void (*forget)(rp_device *d, void *made);
} rp_backend;

typedef struct {
  uintptr_t at;
  size_t bytes;
  bool lent; /* by the host, which frees it */
} rp_block;

struct rp_device {
  const rp_backend *kind;
  const char *name;
  rp_dtype real;
  void *own;             /* the kind's */
  pthread_mutex_t mutex; /* over what follows */
  rp_block *block;
  size_t blocks, blocks_cap, bytes, peak;
};

struct rp_queue {
  rp_device *d;
  void *own;          /* the kind's */
  rp_error err;       /* sticky */
  rp_tape *tape;      /* being recorded; NULL */
  rp_op_times *times; /* NULL: not asked for */
};

/* Opens a kind's own part; fills kind, name, real, own. */
rp_status rp_cpu_open(rp_device *d, rp_device_kind kind, rp_error *err);
rp_status rp_guard_open(rp_device *d, rp_error *err);
rp_status rp_cuda_open(rp_device *d, rp_error *err);

/* Whether [p, p + bytes) lies in one allocation. */
bool rp_device_holds(rp_device *d, rp_ptr p, size_t bytes);

/* False, with a sticky error, when the arguments would lead the op outside of device memory or to a
 * dtype it does not know. Costs some hundred nanoseconds. */
bool rp_op_check(rp_queue *q, rp_op op, const void *args);

/* Puts an op that was checked: sticky errors, recording, then the kind. */
void rp_queue_put(rp_queue *q, rp_op op, const void *args);
/* The ops of a tape, one by one, not recorded and not timed, until the first error. */
void rp_tape_put(rp_queue *q, const rp_tape *t);

#endif
