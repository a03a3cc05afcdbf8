/* cpu.c - devices cpu, ref and ref64: an op runs when it is put. */
#include "ops/cpu/cpu_device.h"

#include <sys/mman.h>

static const rp_cpu_table *table_of(rp_cpu_level level) {
#if defined(__x86_64__)
  if (level == RP_CPU_AVX512_BF16) return &rp_cpu_table_avx512_bf16;
  if (level == RP_CPU_AVX512) return &rp_cpu_table_avx512;
  if (level == RP_CPU_AVX2) return &rp_cpu_table_avx2;
#else
  (void)level;
#endif
  return &rp_cpu_table_ref;
}

rp_status rp_cpu_engine_open(rp_cpu_engine *e, rp_cpu_level level, bool library, rp_error *err) {
  *e = (rp_cpu_engine){.table = table_of(level), .threads = rp_threads(), .real = RP_F32};
  if (!library) return RP_OK;
  e->way = rp_bf16_way_now(NULL);
  if (level == RP_CPU_AVX512_BF16 && e->way == RP_BF16_WIDEN) e->table = table_of(RP_CPU_AVX512);
  return rp_products_there() ? rp_products_open(&e->products, e->threads, err) : RP_OK;
}

void rp_cpu_engine_ref64(rp_cpu_engine *e) {
  *e = (rp_cpu_engine){.table = &rp_cpu_table_ref64, .threads = rp_threads(), .real = RP_F64};
}

void rp_cpu_engine_close(rp_cpu_engine *e) {
  rp_products_close(e->products);
  e->products = NULL;
}

/* Columns that are one element wide and not packed: oneDNN 3.7 misreads the stride of some. */
static bool strided_column(const rp_gemm_args *a) {
  return ((a->ta ? a->M : a->K) == 1 && a->lda != 1) ||
         ((a->tb ? a->K : a->N) == 1 && a->ldb != 1) || (a->N == 1 && a->ldc != 1);
}

static bool own_product(const rp_cpu_engine *e, const rp_gemm_args *a) {
  return !e->products || (a->a.dtype == RP_BF16 && e->way == RP_BF16_WIDEN) || strided_column(a);
}

static void gemm(rp_cpu_ctx *c, const rp_gemm_args *a, size_t used) {
  const rp_cpu_engine *e = c->products;
  if (rp_gemm_is_few(a))
    e->table->few(c, a, used);
  else if (own_product(e, a))
    e->table->gemm(c, a, used);
  else
    rp_products_gemm(e->products, c, a, used);
}

static size_t gemm_scratch(const rp_cpu_ctx *c, const rp_gemm_args *a) {
  const rp_cpu_engine *e = c->products;
  if (rp_gemm_is_few(a)) return e->table->few_scratch(c, a);
  return own_product(e, a) ? e->table->gemm_scratch(c, a) : rp_products_scratch(e->products, a);
}

static rp_cpu_ctx context(const rp_cpu_engine *e) {
  return (rp_cpu_ctx){
      .threads = e->threads, .gemm = gemm, .gemm_scratch = gemm_scratch, .products = e};
}

bool rp_cpu_engine_has(const rp_cpu_engine *e, rp_op op) { return e->table->run[op] != NULL; }

size_t rp_cpu_engine_scratch(const rp_cpu_engine *e, rp_op op, const void *args) {
  if (!e->table->scratch[op]) return 0;
  const rp_cpu_ctx c = context(e);
  return e->table->scratch[op](&c, args);
}

void rp_cpu_engine_run(const rp_cpu_engine *e, uint8_t *scratch, size_t bytes, rp_op op,
                       const void *args, rp_error *err) {
  const size_t need = rp_cpu_engine_scratch(e, op, args);
  if (need > bytes) {
    rp_fail(err, RP_FAIL,
            "op %s takes %zu bytes of scratch and its queue has %zu; reserve them "
            "before the step",
            rp_op_name(op), need, bytes);
    return;
  }
  rp_cpu_ctx c = context(e);
  c.scratch = scratch;
  c.scratch_bytes = bytes;
  c.err = err;
  e->table->run[op](&c, args);
}

void rp_cpu_engine_copy(const rp_cpu_engine *e, const rp_copy *c) {
  if (!c->as) {
    void *dev = (void *)c->dev.p.at;
    memcpy(c->up ? dev : c->host, c->up ? c->host : dev, (size_t)c->n);
    return;
  }
  const rp_tensor host = {{(uintptr_t)c->host}, c->host_dtype};
  const rp_cast_args cast = {c->n, c->up ? host : c->dev, c->up ? c->dev : host};
  rp_cpu_ctx ctx = context(e);
  e->table->run[RP_OP_cast](&ctx, &cast);
}

/* ---- the device ---- */

typedef struct {
  void *block;
  uint8_t *scratch; /* in the block */
  size_t bytes;
} cpu_queue;

static void close_device(rp_device *d) {
  rp_cpu_engine_close(d->own);
  rp_free(d->own);
}

/* Large blocks ask for huge pages before they are touched: products walk them in strides. */
#define HUGE_PAGE ((uintptr_t)2 << 20)
static uintptr_t huge_up(uintptr_t at) { return (at + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1); }
static void ask_huge(void *p, size_t bytes) {
  const uintptr_t from = huge_up((uintptr_t)p);
  const uintptr_t to = ((uintptr_t)p + bytes) & ~(HUGE_PAGE - 1);
  if (to > from) madvise((void *)from, to - from, MADV_HUGEPAGE);
}

static rp_status alloc(rp_device *d, size_t bytes, const char *what, void **out, rp_error *err) {
  const rp_cpu_engine *e = d->own;
  uint8_t *p = rp_malloc((bytes + 63) & ~(size_t)63, 1);
  if (!p) return rp_fail_memory(err, bytes, what);
  ask_huge(p, bytes);
  rp_cpu_ctx c = context(e);
  e->table->run[RP_OP_zero](&c, &(rp_zero_args){{(uintptr_t)p}, bytes});
  *out = p;
  return RP_OK;
}

static void release(rp_device *d, void *p, size_t bytes) {
  (void)d, (void)bytes;
  rp_free(p);
}

static rp_status queue_open(rp_queue *q, rp_error *err) {
  q->own = rp_calloc(1, sizeof(cpu_queue));
  return q->own ? RP_OK : rp_fail_memory(err, sizeof(cpu_queue), "a queue");
}

static void queue_close(rp_queue *q) {
  cpu_queue *cq = q->own;
  rp_free(cq->block);
  rp_free(cq);
}

/* Scratch from this size on begins with a huge page: tiles that fit into the second cache then also find
 * room there side by side. */
enum { SCRATCH_HUGE = 128 << 10 };
static rp_status reserve(rp_queue *q, size_t bytes, rp_error *err) {
  cpu_queue *cq = q->own;
  if (bytes <= cq->bytes) return RP_OK;
  rp_free(cq->block); /* nothing in it outlives an op */
  *cq = (cpu_queue){0};
  const bool large = bytes >= SCRATCH_HUGE;
  const size_t whole = bytes < 4096 ? 4096 : bytes;
  const size_t block = large ? huge_up(whole) + HUGE_PAGE : whole;
  cq->block = rp_malloc(block, 1);
  if (!cq->block) return rp_fail_memory(err, bytes, "scratch");
  if (large) ask_huge(cq->block, block);
  cq->scratch = (uint8_t *)(large ? huge_up((uintptr_t)cq->block) : (uintptr_t)cq->block);
  cq->bytes = whole;
  return RP_OK;
}

static void put(rp_queue *q, rp_op op, const void *args) {
  const cpu_queue *cq = q->own;
  rp_cpu_engine_run(q->d->own, cq->scratch, cq->bytes, op, args, &q->err);
}

static void copy(rp_queue *q, const rp_copy *c) { rp_cpu_engine_copy(q->d->own, c); }
static void call(rp_queue *q, const rp_host_call *c) { c->run(c->args, &q->err); }
static void run(rp_queue *q) { (void)q; }
static bool has(const rp_device *d, rp_op op) { return rp_cpu_engine_has(d->own, op); }
static size_t scratch(const rp_device *d, rp_op op, const void *args) {
  return rp_cpu_engine_scratch(d->own, op, args);
}

static const rp_backend backend = {.reads_host = true,
                                   .close = close_device,
                                   .alloc = alloc,
                                   .free = release,
                                   .queue_open = queue_open,
                                   .queue_close = queue_close,
                                   .reserve = reserve,
                                   .put = put,
                                   .copy = copy,
                                   .call = call,
                                   .run = run,
                                   .has = has,
                                   .scratch = scratch};

static rp_status open_engine(rp_device *d, const char *name, const rp_cpu_engine *e,
                             rp_error *err) {
  rp_cpu_engine *own = rp_malloc(1, sizeof *own);
  if (!own) return rp_fail_memory(err, sizeof *own, "a device");
  *own = *e;
  d->kind = &backend;
  d->name = name;
  d->real = e->real;
  d->own = own;
  return RP_OK;
}

rp_status rp_cpu_open(rp_device *d, rp_device_kind kind, rp_error *err) {
  static const char *const names[] = {"cpu", "ref", "ref64"};
  rp_cpu_engine e;
  if (kind > RP_DEVICE_REF64) return rp_fail(err, RP_FAIL, "there is no device of kind %d", kind);
  if (kind == RP_DEVICE_REF64)
    rp_cpu_engine_ref64(&e);
  else if (kind == RP_DEVICE_REF)
    RP_TRY(rp_cpu_engine_open(&e, RP_CPU_REF, false, err));
  else
    RP_TRY(rp_cpu_engine_open(&e, rp_cpu_now(), true, err));
  const rp_status st = open_engine(d, names[kind], &e, err);
  if (st) rp_cpu_engine_close(&e);
  return st;
}

rp_status rp_cpu_device_open(rp_device **out, rp_cpu_level level, rp_error *err) {
  static const char *const names[] = {"cpu-ref", "cpu-avx2", "cpu-avx512", "cpu-avx512_bf16"};
  rp_cpu_engine e;
  *out = NULL;
  if (level > rp_cpu_best())
    return rp_fail(err, RP_USAGE, "this processor has no %s; its level is %s",
                   rp_cpu_level_name(level), rp_cpu_level_name(rp_cpu_best()));
  RP_TRY(rp_cpu_engine_open(&e, level, false, err));
  rp_device *d = rp_calloc(1, sizeof *d);
  if (!d) return rp_fail_memory(err, sizeof *d, "a device");
  const rp_status st = open_engine(d, names[level], &e, err);
  if (st) {
    rp_free(d);
    return st;
  }
  pthread_mutex_init(&d->mutex, NULL);
  *out = d;
  return RP_OK;
}
