/* rate.h - measured limits of a device, for the benchmarks to stand against, and how work on a device
 * is timed. */
#ifndef RP_BENCH_RATE_H
#define RP_BENCH_RATE_H

#include "base/str.h"
#include "ops/ops.h"
#include "ratplus/bench.h"

/* Opens what --device names; RP_USAGE. NULL or "auto": the processor. `levels`: guard, and a level of
 * the processor's kernels, are names as well, and a GPU may lack ops. */
rp_status rp_bench_device(rp_device **d, const char *name, bool levels, rp_error *err);
/* "AMD EPYC, 2 threads", or the GPU. */
void rp_bench_place(rp_str *b, const rp_device *d);
/* Bytes of the device that a benchmark may take: at most `asked` (0: what is free now). */
uint64_t rp_bench_memory(const rp_device *d, uint64_t asked);

typedef struct {
  rp_device *d;
  rp_queue *q;
  rp_ptr memory;
} rp_bench_box;
/* A queue and `bytes` of memory of a device, which outlives it. */
rp_status rp_bench_box_open(rp_bench_box *b, rp_device *d, size_t bytes, rp_error *err);
void rp_bench_box_close(rp_bench_box *b); /* {0} is fine */
/* n normal numbers of this spread: rates depend on zeros and subnormals. They repeat themselves,
 * which no kernel notices. */
void rp_bench_fill(rp_queue *q, rp_tensor t, int64_t n, double spread);

/* The time of a piece of work that `put` puts on q. A GPU is told what to do while it works, so one piece
 * between two waits would be mostly telling and waiting: there a window holds many, recorded, and lasts
 * some milliseconds. Elsewhere it holds one. */
typedef struct {
  rp_queue *q;
  void (*put)(void *ctx, int which); /* of the `sides` that the work takes in turn */
  void *ctx;
  int sides, pieces; /* pieces: of a window, a multiple of sides */
  rp_tape *tape;
} rp_bench_window;
enum { RP_BENCH_PIECES = 1024 };
/* put, ctx, q and sides are set. Runs the work at least once. */
rp_status rp_bench_window_open(rp_bench_window *w, double seconds, rp_error *err);
rp_status rp_bench_window_run(rp_bench_window *w, double *seconds, rp_error *err); /* of a piece */
void rp_bench_window_close(rp_bench_window *w);                                    /* {0} is fine */
/* Work whose data take `bytes` is given so many sides, each with its own, that a GPU finds none of them in
 * its cache when their turn comes. */
int rp_bench_sides(const rp_device *d, double bytes);

/* Below so many seconds a rate is a rough one. */
#define RP_BENCH_ROUGH 0.5
/* FLOP/s of square products (weights stored [out, in]) in float32 or bfloat16, in about `seconds`. On a
 * processor the best of many of side 2048 (384 for a rough rate), since what disturbs a measurement only
 * makes it slower; on a GPU, whose clock falls under load, the median of the largest side up to 8192
 * that fits into the time. */
rp_status rp_bench_product_rate(rp_device *d, rp_dtype dtype, double seconds, double *rate,
                                rp_error *err);
/* Bytes/s of memory that no cache holds: read, or copied (bytes read plus bytes written). A
 * rough rate takes less memory, of which some may lie in a large cache. On a GPU reading is that of the
 * sum of squares. */
rp_status rp_bench_memory_rate(rp_device *d, double seconds, double *read, double *copy,
                               rp_error *err);

/* Memory that no cache of the processor holds, to be read between two runs: the second then finds its own
 * data in memory as one layer of many does. */
typedef struct {
  uint64_t *at;
  int64_t n;
  uint64_t sum; /* of what was read, so that it is read */
} rp_bench_cold;
enum { RP_BENCH_COLD = 256 << 20 }; /* bytes; a quarter for a rough figure */
rp_status rp_bench_cold_open(rp_bench_cold *c, double seconds, rp_error *err);
void rp_bench_cold_run(rp_bench_cold *c);   /* {0}: nothing */
void rp_bench_cold_close(rp_bench_cold *c); /* {0} is fine */

/* Median of n values, which are sorted. */
double rp_bench_median(double *x, int n);

#endif
