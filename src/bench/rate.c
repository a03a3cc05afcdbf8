#include "bench/rate.h"

#include <stdlib.h>

#include "base/cpu.h"
#include "base/log.h"
#include "base/rng.h"

void rp_bench_defaults(rp_bench_opts *o) { *o = (rp_bench_opts){.size = sizeof *o}; }

rp_status rp_bench_box_open(rp_bench_box *b, rp_device_kind kind, size_t bytes, rp_error *err) {
  rp_status st = RP_OK;
  *b = (rp_bench_box){0};
  RP_GO(rp_device_open(&b->d, kind, err));
  RP_GO(rp_queue_open(&b->q, b->d, err));
  RP_GO(rp_device_alloc(b->d, bytes, "a benchmark", &b->memory, err));
  return RP_OK;
fail:
  rp_bench_box_close(b);
  return st;
}

void rp_bench_box_close(rp_bench_box *b) {
  rp_queue_close(b->q);
  if (b->d) rp_device_free(b->d, b->memory);
  rp_device_close(b->d);
  *b = (rp_bench_box){0};
}

/* A beginning that is uploaded and then doubled by the device. */
void rp_bench_fill(rp_queue *q, rp_tensor t, int64_t n, double spread) {
  enum { CHUNK = 4096 };
  float x[CHUNK];
  rp_rng r;
  const size_t each = (size_t)rp_dtype_bytes(t.dtype);
  rp_rng_init(&r, 1, RP_RNG_BENCH, 0);
  for (int i = 0; i < CHUNK; i++) x[i] = (float)(spread * rp_rng_normal(&r));
  rp_upload_as(q, t, x, RP_F32, n < CHUNK ? n : CHUNK);
  for (int64_t at = CHUNK; at < n; at *= 2)
    rp_op_copy(q, &(rp_copy_args){.dst = rp_tensor_at(t, at).p,
                                  .src = t.p,
                                  .bytes = (size_t)(n - at < at ? n - at : at) * each});
}

rp_status rp_bench_product_rate(rp_device_kind kind, rp_dtype dtype, double seconds, double *rate,
                                rp_error *err) {
  const int side = seconds < RP_BENCH_ROUGH ? 384 : 2048;
  rp_bench_box b;
  rp_status st = RP_OK;
  const size_t n = (size_t)side * (size_t)side;
  RP_TRY(rp_bench_box_open(&b, kind, 3 * n * 8, err));
  const rp_dtype real = rp_device_real(b.d), in = dtype == RP_BF16 ? RP_BF16 : real;
  const rp_gemm_args a = {.M = side,
                          .N = side,
                          .K = side,
                          .tb = 1,
                          .lda = side,
                          .ldb = side,
                          .ldc = side,
                          .a = {b.memory, in},
                          .b = {rp_ptr_add(b.memory, n * 8), in},
                          .c = {rp_ptr_add(b.memory, n * 16), real}};
  double best = 0;
  const double from = rp_now();
  rp_bench_fill(b.q, a.a, (int64_t)n, 1);
  rp_bench_fill(b.q, a.b, (int64_t)n, 1);
  RP_GO(rp_queue_reserve(b.q, rp_op_scratch(b.d, RP_OP_gemm, &a), err));
  for (int i = 0; i < 3 || rp_now() - from < seconds; i++) {
    const double t = rp_now();
    rp_op_gemm(b.q, &a);
    RP_GO(rp_wait(b.q, err));
    const double took = rp_now() - t;
    if (i > 0 && (best == 0 || took < best)) best = took;
  }
  *rate = 2.0 * side * side * side / best;
fail:
  rp_bench_box_close(&b);
  return st;
}

/* The sum of words: memory is read, nothing else costs. Each thread reads several runs side by
 * side and asks for what follows, as the kernels do: a single run leaves a third of the rate
 * unused. */
static double read_once(const uint64_t *x, int64_t n, int threads, uint64_t *sum) {
  enum { RUNS = 4, LINE = 8, AHEAD = 32 * LINE };
  const int64_t each = n / (threads * RUNS) / LINE * LINE;
  uint64_t s = 0;
  const double t = rp_now();
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : s)
  for (int thread = 0; thread < threads; thread++) {
    const uint64_t *from = x + thread * RUNS * each;
    for (int64_t i = 0; i < each; i += LINE)
      for (int run = 0; run < RUNS; run++) {
        const uint64_t *y = from + run * each + i;
        __builtin_prefetch(y + AHEAD, 0, 2);
        s += (y[0] ^ y[1]) + (y[2] ^ y[3]) + (y[4] ^ y[5]) + (y[6] ^ y[7]);
      }
  }
  *sum += s;
  return rp_now() - t;
}

static double copy_once(uint64_t *y, const uint64_t *x, int64_t n, int threads) {
  const double t = rp_now();
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; i++) {
    const int64_t from = n / threads * i, to = i + 1 == threads ? n : n / threads * (i + 1);
    memcpy(y + from, x + from, (size_t)(to - from) * sizeof *x);
  }
  return rp_now() - t;
}

static size_t cold_bytes(double seconds) {
  return seconds < RP_BENCH_ROUGH ? RP_BENCH_COLD / 4 : RP_BENCH_COLD;
}

rp_status rp_bench_memory_rate(double seconds, double *read, double *copy, rp_error *err) {
  const size_t bytes = cold_bytes(seconds);
  const int64_t n = (int64_t)(bytes / sizeof(uint64_t));
  const int threads = rp_threads();
  uint64_t *x = rp_malloc(bytes, 1), *y = rp_malloc(bytes, 1), sum = 0;
  rp_status st = RP_OK;
  double best_read = 0, best_copy = 0;
  if (!x || !y) {
    st = rp_fail_memory(err, 2 * bytes, "the memory benchmark");
    goto fail;
  }
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < n; i++) x[i] = y[i] = (uint64_t)i;
  const double from = rp_now();
  for (int i = 0; i < 2 || rp_now() - from < seconds; i++) {
    const double r = read_once(x, n, threads, &sum), c = copy_once(y, x, n, threads);
    if (best_read == 0 || r < best_read) best_read = r;
    if (best_copy == 0 || c < best_copy) best_copy = c;
  }
  y[0] = sum; /* the sum is used, so that it is made */
  *read = (double)bytes / best_read;
  *copy = 2.0 * (double)bytes / best_copy;
fail:
  rp_free(x);
  rp_free(y);
  return st;
}

rp_status rp_bench_cold_open(rp_bench_cold *c, double seconds, rp_error *err) {
  const size_t bytes = cold_bytes(seconds);
  *c = (rp_bench_cold){.at = rp_malloc(bytes, 1), .n = (int64_t)(bytes / sizeof *c->at)};
  if (!c->at) return rp_fail_memory(err, bytes, "memory to read between two runs");
  for (int64_t i = 0; i < c->n; i++) c->at[i] = (uint64_t)i;
  return RP_OK;
}

void rp_bench_cold_run(rp_bench_cold *c) { read_once(c->at, c->n, rp_threads(), &c->sum); }

void rp_bench_cold_close(rp_bench_cold *c) {
  rp_free(c->at);
  *c = (rp_bench_cold){0};
}

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double rp_bench_median(double *x, int n) {
  qsort(x, (size_t)n, sizeof *x, compare);
  return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}
