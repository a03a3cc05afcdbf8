/* rate.h - measured limits of this machine, for the benchmarks to stand against. */
#ifndef RP_BENCH_RATE_H
#define RP_BENCH_RATE_H

#include "base/str.h"
#include "ops/ops.h"
#include "ratplus/bench.h"

typedef struct {
  rp_device *d;
  rp_queue *q;
  rp_ptr memory;
} rp_bench_box;
/* A device with a queue and `bytes` of memory. */
rp_status rp_bench_box_open(rp_bench_box *b, rp_device_kind kind, size_t bytes, rp_error *err);
void rp_bench_box_close(rp_bench_box *b); /* {0} is fine */
/* n normal numbers of this spread: rates depend on zeros and subnormals. They repeat themselves,
 * which no kernel notices. */
void rp_bench_fill(rp_queue *q, rp_tensor t, int64_t n, double spread);

/* Below so many seconds a rate is a rough one. */
#define RP_BENCH_ROUGH 0.5
/* FLOP/s of square products of side 2048, of 384 for a rough rate (weights stored [out, in]), in
 * float32 or bfloat16, in about `seconds`: the best of many, since what disturbs a measurement
 * only makes it slower. */
rp_status rp_bench_product_rate(rp_device_kind kind, rp_dtype dtype, double seconds, double *rate,
                                rp_error *err);
/* Bytes/s of memory that no cache holds: read, or copied (bytes read plus bytes written). A
 * rough rate takes less memory, of which some may lie in a large cache. */
rp_status rp_bench_memory_rate(double seconds, double *read, double *copy, rp_error *err);

/* Memory that no cache holds, to be read between two runs: the second then finds its own data in
 * memory as one layer of many does. */
typedef struct {
  uint64_t *at;
  int64_t n;
  uint64_t sum; /* of what was read, so that it is read */
} rp_bench_cold;
enum { RP_BENCH_COLD = 256 << 20 }; /* bytes; a quarter for a rough figure */
rp_status rp_bench_cold_open(rp_bench_cold *c, double seconds, rp_error *err);
void rp_bench_cold_run(rp_bench_cold *c);
void rp_bench_cold_close(rp_bench_cold *c); /* {0} is fine */

/* Median of n values, which are sorted. */
double rp_bench_median(double *x, int n);

#endif
