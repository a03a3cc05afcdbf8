/* rate.h - how work on a device is timed, and what the device can do: the limits that training and the
 * benchmarks stand against. */
#ifndef RP_OPS_RATE_H
#define RP_OPS_RATE_H

#include "ops/ops.h"

typedef struct {
  rp_device *d;
  rp_queue *q;
  rp_ptr memory;
} rp_rate_box;
/* A queue and `bytes` of memory of a device, which outlives it. */
rp_status rp_rate_box_open(rp_rate_box *b, rp_device *d, size_t bytes, rp_error *err);
void rp_rate_box_close(rp_rate_box *b); /* {0} is fine */
/* n normal numbers of this spread: rates depend on zeros and subnormals. They repeat themselves,
 * which no kernel notices. */
void rp_fill(rp_queue *q, rp_tensor t, int64_t n, double spread);

/* The time of a piece of work that `put` puts on q. A GPU is told what to do while it works, so one piece
 * between two waits would be mostly telling and waiting: there a window holds many, recorded, and lasts
 * some milliseconds. Elsewhere it holds one. */
typedef struct {
  rp_queue *q;
  void (*put)(void *ctx, int which); /* of the `sides` that the work takes in turn */
  void *ctx;
  int sides, pieces; /* pieces: of a window, a multiple of sides */
  rp_tape *tape;
} rp_window;
enum { RP_WINDOW_PIECES = 1024 };
/* put, ctx, q and sides are set. Runs the work at least once. */
rp_status rp_window_open(rp_window *w, double seconds, rp_error *err);
rp_status rp_window_run(rp_window *w, double *seconds, rp_error *err); /* of a piece */
void rp_window_close(rp_window *w);                                    /* {0} is fine */
/* Work whose data take `bytes` is given so many sides, each with its own, that a GPU finds none of them in
 * its cache when their turn comes. */
int rp_rate_sides(const rp_device *d, double bytes);

/* Below so many seconds a rate is a rough one. */
#define RP_RATE_ROUGH 0.5
/* FLOP/s of square products (weights stored [out, in]) in float32 or bfloat16, in about `seconds`. On a
 * processor the best of many of a side up to 2048, since what disturbs a measurement only makes it slower;
 * on a GPU, whose clock falls under load, the median at a side up to 8192. Little time means a smaller
 * side. */
rp_status rp_product_rate(rp_device *d, rp_dtype dtype, double seconds, double *rate,
                          rp_error *err);
/* Bytes/s of memory that no cache holds: read, or copied (bytes read plus bytes written). A
 * rough rate takes less memory, of which some may lie in a large cache. On a GPU reading is that of the
 * sum of squares. */
rp_status rp_memory_rate(rp_device *d, double seconds, double *read, double *copy, rp_error *err);

/* Memory that no cache of the processor holds, to be read between two runs: the second then finds its own
 * data in memory as one layer of many does. */
typedef struct {
  uint64_t *at;
  int64_t n;
  uint64_t sum; /* of what was read, so that it is read */
} rp_cold;
enum { RP_COLD = 256 << 20 }; /* bytes; a quarter for a rough figure */
rp_status rp_cold_open(rp_cold *c, double seconds, rp_error *err);
void rp_cold_run(rp_cold *c);   /* {0}: nothing */
void rp_cold_close(rp_cold *c); /* {0} is fine */

/* Median of n values, which are sorted. */
double rp_median(double *x, int n);

#endif
