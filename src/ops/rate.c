#include "ops/rate.h"

#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/log.h"
#include "base/rng.h"

/* ---- memory to work on ---- */

rp_status rp_rate_box_open(rp_rate_box *b, rp_device *d, size_t bytes, rp_error *err) {
  rp_status st = RP_OK;
  *b = (rp_rate_box){.d = d};
  RP_GO(rp_queue_open(&b->q, b->d, err));
  RP_GO(rp_device_alloc(b->d, bytes, "a benchmark", &b->memory, err));
  return RP_OK;
fail:
  rp_rate_box_close(b);
  return st;
}

void rp_rate_box_close(rp_rate_box *b) {
  rp_queue_close(b->q);
  if (b->d) rp_device_free(b->d, b->memory);
  *b = (rp_rate_box){0};
}

/* A beginning that is uploaded and then doubled by the device. */
void rp_fill(rp_queue *q, rp_tensor t, int64_t n, double spread) {
  enum { CHUNK = 4096 };
  float x[CHUNK];
  rp_rng r;
  rp_rng_init(&r, 1, RP_RNG_BENCH, 0);
  for (int i = 0; i < CHUNK; i++) x[i] = (float)(spread * rp_rng_normal(&r));
  rp_upload_as(q, t, x, RP_F32, n < CHUNK ? n : CHUNK);
  rp_repeat(q, t, CHUNK, n);
}

/* ---- time ---- */

static rp_status record_window(rp_window *w, rp_error *err) {
  RP_TRY(rp_record_begin(w->q, err));
  for (int i = 0; i < w->pieces; i++) w->put(w->ctx, i % w->sides);
  RP_TRY(rp_record_end(w->q, &w->tape, err));
  return rp_wait(w->q, err);
}

/* A window of some milliseconds: of few pieces first, then of as many as these say. */
rp_status rp_window_open(rp_window *w, double seconds, rp_error *err) {
  const double whole = seconds / 4 < 5e-3 ? seconds / 4 : 5e-3;
  double each;
  if (w->sides < 1) w->sides = 1;
  w->pieces = w->sides;
  if (!rp_device_apart(rp_queue_device(w->q))) {
    w->pieces = w->sides = 1;
    return RP_OK;
  }
  for (int i = 0; i < 3; i++) {
    RP_TRY(record_window(w, err));
    RP_TRY(rp_window_run(w, &each, err));
    double n = whole / each;
    if (n > RP_WINDOW_PIECES) n = RP_WINDOW_PIECES;
    if (n <= w->pieces) return RP_OK;
    w->pieces = ((int)n + w->sides - 1) / w->sides * w->sides;
    rp_tape_free(w->tape);
    w->tape = NULL;
  }
  return record_window(w, err);
}

rp_status rp_window_run(rp_window *w, double *seconds, rp_error *err) {
  const double from = rp_now();
  if (w->tape)
    rp_replay(w->q, w->tape);
  else
    w->put(w->ctx, 0);
  RP_TRY(rp_wait(w->q, err));
  *seconds = (rp_now() - from) / w->pieces;
  return RP_OK;
}

void rp_window_close(rp_window *w) {
  rp_tape_free(w->tape);
  *w = (rp_window){0};
}

int rp_rate_sides(const rp_device *d, double bytes) {
  enum { MOST = 16 };
  if (!rp_device_apart(d) || bytes <= 0) return 1;
  const double n = RP_COLD / bytes;
  return n > MOST ? MOST : 1 + (int)n;
}

/* ---- products ---- */

typedef struct {
  rp_rate_box b;
  rp_gemm_args a;
} product;

static void put_product(void *ctx, int which) {
  const product *p = ctx;
  (void)which;
  rp_op_gemm(p->b.q, &p->a);
}

/* Into `real`, or on a GPU, whose memory is slow beside its products, into what is multiplied. */
static rp_status product_open(product *p, rp_device *d, rp_dtype dtype, int side, rp_error *err) {
  const size_t n = (size_t)side * (size_t)side;
  const rp_dtype real = rp_device_real(d), in = dtype == RP_BF16 ? RP_BF16 : real;
  RP_TRY(rp_rate_box_open(&p->b, d, 3 * n * 8, err));
  p->a = (rp_gemm_args){.M = side,
                        .N = side,
                        .K = side,
                        .tb = 1,
                        .lda = side,
                        .ldb = side,
                        .ldc = side,
                        .a = {p->b.memory, in},
                        .b = {rp_ptr_add(p->b.memory, n * 8), in},
                        .c = {rp_ptr_add(p->b.memory, n * 16), rp_device_apart(d) ? in : real}};
  rp_fill(p->b.q, p->a.a, (int64_t)n, 1);
  rp_fill(p->b.q, p->a.b, (int64_t)n, 1);
  return rp_queue_reserve(p->b.q, rp_op_scratch(d, RP_OP_gemm, &p->a), err);
}

/* Seconds of one: median and least of what fits into the time. */
static rp_status time_product(product *p, double seconds, int least_runs, double *median,
                              double *least, rp_error *err) {
  enum { MOST = 1024 };
  double took[MOST];
  rp_window w = {.q = p->b.q, .put = put_product, .ctx = p};
  rp_status st = RP_OK;
  int n = 0;
  const double from = rp_now();
  RP_GO(rp_window_open(&w, seconds, err));
  RP_GO(rp_window_run(&w, &took[0], err)); /* is not counted */
  while (n < least_runs || (n < MOST && rp_now() - from < seconds))
    RP_GO(rp_window_run(&w, &took[n++], err));
  *median = rp_median(took, n); /* sorts */
  *least = took[0];
fail:
  rp_window_close(&w);
  return st;
}

rp_status rp_product_rate(rp_device *d, rp_dtype dtype, double seconds, double *rate,
                          rp_error *err) {
  const bool gpu = rp_device_apart(d);
  const int most = gpu ? 8192 : 2048;
  double median, least;
  int side = 256;
  for (bool last = false;; side *= 2) {
    product p = {0};
    rp_status st = product_open(&p, d, dtype, side, err);
    if (!st) st = time_product(&p, last ? seconds : 0, last ? 2 : 3, &median, &least, err);
    rp_rate_box_close(&p.b);
    if (st) return st;
    if (last) break;
    /* Twice the side is eight times the work: one of it may take a few times what was given, since
     * what is small is slow, and whatever disturbs it seems to make it large. */
    last = side == most || 8 * least > 4 * seconds;
    if (last) side /= 2;
  }
  *rate = 2.0 * side * side * side / (gpu ? median : least);
  return RP_OK;
}

/* ---- memory ---- */

/* The sum of words: memory is read, nothing else costs. Each thread reads so many runs side by side and
 * asks for what follows, as the kernels do: on some processors a single run leaves a third of the rate
 * unused, on others four do. */
static double read_once(const uint64_t *x, int64_t n, int threads, int runs, uint64_t *sum) {
  enum { LINE = 8, AHEAD = 32 * LINE };
  const int64_t each = n / (threads * runs) / LINE * LINE;
  uint64_t s = 0;
  const double t = rp_now();
#pragma omp parallel for num_threads(threads) schedule(static) reduction(+ : s)
  for (int thread = 0; thread < threads; thread++) {
    const uint64_t *from = x + thread * runs * each;
    for (int64_t i = 0; i < each; i += LINE)
      for (int run = 0; run < runs; run++) {
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

static size_t cold_bytes(double seconds) { return seconds < RP_RATE_ROUGH ? RP_COLD / 4 : RP_COLD; }

static rp_status host_memory_rate(double seconds, double *read, double *copy, rp_error *err) {
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
    for (int runs = 1; runs <= 4; runs += 3) {
      const double r = read_once(x, n, threads, runs, &sum);
      if (best_read == 0 || r < best_read) best_read = r;
    }
    const double c = copy_once(y, x, n, threads);
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

/* A copy, and where the device has it a sum of squares of what is copied. */
typedef struct {
  rp_rate_box b;
  size_t bytes; /* of a half */
  rp_sumsq_args sum;
  bool reads;
} traffic;
enum { RANGES = 16 };

static void put_traffic(void *ctx, int which) {
  const traffic *t = ctx;
  (void)which;
  if (t->reads)
    rp_op_sumsq(t->b.q, &t->sum);
  else
    rp_op_copy(t->b.q, &(rp_copy_args){rp_ptr_add(t->b.memory, t->bytes), t->b.memory, t->bytes});
}

static rp_status time_traffic(traffic *t, double seconds, double *rate, rp_error *err) {
  rp_window w = {.q = t->b.q, .put = put_traffic, .ctx = t};
  rp_status st = RP_OK;
  double best = 0, took;
  RP_GO(rp_window_open(&w, seconds, err));
  const double from = rp_now();
  for (int i = 0; i < 2 || rp_now() - from < seconds; i++) {
    RP_GO(rp_window_run(&w, &took, err));
    if (best == 0 || took < best) best = took;
  }
  *rate = (t->reads ? 1.0 : 2.0) * (double)t->bytes / best;
fail:
  rp_window_close(&w);
  return st;
}

static rp_status gpu_memory_rate(rp_device *d, double seconds, double *read, double *copy,
                                 rp_error *err) {
  traffic t = {.bytes = 2 * cold_bytes(seconds)};
  rp_range range[RANGES];
  rp_status st = RP_OK;
  double sum = 0;
  const int64_t n = (int64_t)(t.bytes / sizeof(float)) / RANGES;
  for (int i = 0; i < RANGES; i++) range[i] = (rp_range){.offset = i * n, .n = n};
  RP_GO(rp_rate_box_open(&t.b, d, 2 * t.bytes + sizeof range + RANGES * sizeof(double), err));
  const rp_ptr rest = rp_ptr_add(t.b.memory, 2 * t.bytes);
  t.sum = (rp_sumsq_args){RANGES, rest, {{t.b.memory, RP_F32}}, rp_ptr_add(rest, sizeof range)};
  rp_upload(t.b.q, rest, range, sizeof range);
  rp_fill(t.b.q, (rp_tensor){t.b.memory, RP_F32}, RANGES * n, 1);
  RP_GO(time_traffic(&t, seconds / 2, copy, err));
  t.reads = rp_device_has(d, RP_OP_sumsq);
  if (t.reads) RP_GO(rp_queue_reserve(t.b.q, rp_op_scratch(d, RP_OP_sumsq, &t.sum), err));
  if (t.reads) RP_GO(time_traffic(&t, seconds / 2, &sum, err));
  *read = sum > *copy ? sum : *copy;
fail:
  rp_rate_box_close(&t.b);
  return st;
}

rp_status rp_memory_rate(rp_device *d, double seconds, double *read, double *copy, rp_error *err) {
  return rp_device_apart(d) ? gpu_memory_rate(d, seconds, read, copy, err)
                            : host_memory_rate(seconds, read, copy, err);
}

rp_status rp_cold_open(rp_cold *c, double seconds, rp_error *err) {
  const size_t bytes = cold_bytes(seconds);
  *c = (rp_cold){.at = rp_malloc(bytes, 1), .n = (int64_t)(bytes / sizeof *c->at)};
  if (!c->at) return rp_fail_memory(err, bytes, "memory to read between two runs");
  for (int64_t i = 0; i < c->n; i++) c->at[i] = (uint64_t)i;
  return RP_OK;
}

void rp_cold_run(rp_cold *c) {
  if (c->at) read_once(c->at, c->n, rp_threads(), 4, &c->sum);
}

void rp_cold_close(rp_cold *c) {
  rp_free(c->at);
  *c = (rp_cold){0};
}

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double rp_median(double *x, int n) {
  qsort(x, (size_t)n, sizeof *x, compare);
  return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}
