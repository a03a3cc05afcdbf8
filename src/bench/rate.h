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

/* Below so many seconds a rate is a rough one. */
#define RP_BENCH_ROUGH 0.5
/* FLOP/s of square products of side 2048, of 768 for a rough rate (weights stored [out, in]), in float32 or
 * bfloat16, in about `seconds`: the best of many, since what disturbs a measurement only makes it slower. */
rp_status rp_bench_product_rate(rp_device_kind kind, rp_dtype dtype, double seconds, double *rate,
                                rp_error *err);
/* Bytes/s of memory that no cache holds: read, or copied (bytes read plus bytes written). */
rp_status rp_bench_memory_rate(double seconds, double *read, double *copy, rp_error *err);

/* Median of n values, which are sorted. */
double rp_bench_median(double *x, int n);

#endif
