/* products.c - matrix products by oneDNN 2.6 and 3.x, whose ways to describe a primitive differ.
 *
 * A shape's primitive is made once and kept in a table with the memory objects that carry its
 * operands; the scratchpad is the queue's. */
#include "ops/cpu/products.h"

#if RATPLUS_WITH_ONEDNN

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#include <pthread.h>

#include "base/str.h"

/* What makes two products the same primitive; compared as bytes. */
typedef struct {
  int64_t lda, ldb, ldc;
  int32_t M, N, K, ta, tb, accumulate;
  int32_t in, out; /* rp_dtype */
} key;

typedef struct {
  key k;
  dnnl_primitive_t primitive;
  dnnl_memory_t memory[4]; /* a, b, c, scratchpad */
  size_t scratchpad;
} entry;

struct rp_products {
  pthread_mutex_t mutex;
  dnnl_engine_t engine;
  dnnl_stream_t stream;
  int threads;
  entry *entries;   /* open addressing; primitive NULL: free */
  size_t used, cap; /* cap: a power of two */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;

static char library_name[48];

/* RATPLUS_CPU holds for the library too; oneDNN allows this once, before its first use. */
static void begin_library(void) {
  static const dnnl_cpu_isa_t isa[] = {dnnl_cpu_isa_sse41, dnnl_cpu_isa_avx2,
                                       dnnl_cpu_isa_avx512_core};
  const dnnl_version_t *v = dnnl_version();
  rp_snprintf(library_name, sizeof library_name, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
  if (rp_cpu_now() < RP_CPU_AVX512_BF16) dnnl_set_max_cpu_isa(isa[rp_cpu_now()]);
}

bool rp_products_there(void) { return true; }

const char *rp_products_name(void) {
  pthread_once(&once, begin_library);
  return library_name;
}

rp_status rp_products_open(rp_products **out, int threads, rp_error *err) {
  pthread_once(&once, begin_library);
  *out = NULL;
  rp_products *p = rp_calloc(1, sizeof *p);
  if (!p) return rp_fail_memory(err, sizeof *p, "matrix products");
  p->threads = threads;
  if (dnnl_engine_create(&p->engine, dnnl_cpu, 0) ||
      dnnl_stream_create(&p->stream, p->engine, dnnl_stream_default_flags)) {
    if (p->engine) dnnl_engine_destroy(p->engine);
    rp_free(p);
    return rp_fail(err, RP_FAIL, "%s cannot open the processor", rp_products_name());
  }
  pthread_mutex_init(&p->mutex, NULL);
  *out = p;
  return RP_OK;
}

static void entry_destroy(entry *e) {
  for (int i = 0; i < 4; i++)
    if (e->memory[i]) dnnl_memory_destroy(e->memory[i]);
  if (e->primitive) dnnl_primitive_destroy(e->primitive);
  *e = (entry){.k = e->k};
}

void rp_products_close(rp_products *p) {
  if (!p) return;
  for (size_t i = 0; i < p->cap; i++) entry_destroy(&p->entries[i]);
  dnnl_stream_destroy(p->stream);
  dnnl_engine_destroy(p->engine);
  pthread_mutex_destroy(&p->mutex);
  rp_free(p->entries);
  rp_free(p);
}

/* ---- descriptions ---- */

static dnnl_data_type_t type_of(int32_t t) { return t == RP_BF16 ? dnnl_bf16 : dnnl_f32; }

/* [rows, cols] whose stored rows are ld apart; transposed: it lies as [cols, rows]. */
typedef struct {
  dnnl_dims_t dims, strides;
  dnnl_data_type_t type;
} layout;

static layout layout_of(int64_t rows, int64_t cols, int64_t ld, int transposed, int32_t type) {
  layout l = {.dims = {rows, cols}, .type = type_of(type)};
  l.strides[0] = transposed ? 1 : ld;
  l.strides[1] = transposed ? ld : 1;
  return l;
}

static void layouts_of(layout l[3], const key *k) {
  l[0] = layout_of(k->M, k->K, k->lda, k->ta, k->in);
  l[1] = layout_of(k->K, k->N, k->ldb, k->tb, k->in);
  l[2] = layout_of(k->M, k->N, k->ldc, 0, k->out);
}

static dnnl_status_t make_attr(dnnl_primitive_attr_t *attr, bool accumulate) {
  dnnl_status_t st = dnnl_primitive_attr_create(attr);
  if (!st) st = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
  if (st || !accumulate) return st;
  dnnl_post_ops_t ops;
  st = dnnl_post_ops_create(&ops);
  if (st) return st;
#if DNNL_VERSION_MAJOR >= 3
  st = dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
#else
  st = dnnl_post_ops_append_sum(ops, 1.0f);
#endif
  if (!st) st = dnnl_primitive_attr_set_post_ops(*attr, ops);
  dnnl_post_ops_destroy(ops);
  return st;
}

#if DNNL_VERSION_MAJOR >= 3
static dnnl_status_t make_primitive(rp_products *p, entry *e, const layout l[3],
                                    const_dnnl_primitive_attr_t attr) {
  dnnl_memory_desc_t md[3] = {0};
  dnnl_primitive_desc_t pd = NULL;
  dnnl_status_t st = dnnl_success;
  for (int i = 0; i < 3 && !st; i++)
    st = dnnl_memory_desc_create_with_strides(&md[i], 2, l[i].dims, l[i].type, l[i].strides);
  if (!st) st = dnnl_matmul_primitive_desc_create(&pd, p->engine, md[0], md[1], NULL, md[2], attr);
  if (!st) st = dnnl_primitive_create(&e->primitive, pd);
  for (int i = 0; i < 3 && !st; i++)
    st = dnnl_memory_create(&e->memory[i], md[i], p->engine, DNNL_MEMORY_NONE);
  if (!st) {
    const_dnnl_memory_desc_t pad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    e->scratchpad = dnnl_memory_desc_get_size(pad);
    st = dnnl_memory_create(&e->memory[3], pad, p->engine, DNNL_MEMORY_NONE);
  }
  if (pd) dnnl_primitive_desc_destroy(pd);
  for (int i = 0; i < 3; i++)
    if (md[i]) dnnl_memory_desc_destroy(md[i]);
  return st;
}
#else
static dnnl_status_t make_primitive(rp_products *p, entry *e, const layout l[3],
                                    const_dnnl_primitive_attr_t attr) {
  dnnl_memory_desc_t md[3];
  dnnl_matmul_desc_t desc;
  dnnl_primitive_desc_t pd = NULL;
  dnnl_status_t st = dnnl_success;
  for (int i = 0; i < 3 && !st; i++)
    st = dnnl_memory_desc_init_by_strides(&md[i], 2, l[i].dims, l[i].type, l[i].strides);
  if (!st) st = dnnl_matmul_desc_init(&desc, &md[0], &md[1], NULL, &md[2]);
  if (!st) st = dnnl_primitive_desc_create(&pd, &desc, attr, p->engine, NULL);
  if (!st) st = dnnl_primitive_create(&e->primitive, pd);
  for (int i = 0; i < 3 && !st; i++)
    st = dnnl_memory_create(&e->memory[i], &md[i], p->engine, DNNL_MEMORY_NONE);
  if (!st) {
    const dnnl_memory_desc_t *pad = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    e->scratchpad = dnnl_memory_desc_get_size(pad);
    st = dnnl_memory_create(&e->memory[3], pad, p->engine, DNNL_MEMORY_NONE);
  }
  if (pd) dnnl_primitive_desc_destroy(pd);
  return st;
}
#endif

static dnnl_status_t make_entry(rp_products *p, entry *e) {
  layout l[3];
  dnnl_primitive_attr_t attr = NULL;
  layouts_of(l, &e->k);
  dnnl_status_t st = make_attr(&attr, e->k.accumulate);
  if (!st) st = make_primitive(p, e, l, attr);
  if (attr) dnnl_primitive_attr_destroy(attr);
  if (st) entry_destroy(e);
  return st;
}

/* ---- the table ---- */

static uint64_t hash(const key *k) {
  const uint8_t *b = (const uint8_t *)k;
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < sizeof *k; i++) h = (h ^ b[i]) * 0x100000001b3u;
  return h ^ h >> 32;
}

static entry *place(entry *entries, size_t cap, const key *k) {
  size_t i = hash(k) & (cap - 1);
  while (entries[i].primitive && memcmp(&entries[i].k, k, sizeof *k)) i = (i + 1) & (cap - 1);
  return &entries[i];
}

static rp_status grow(rp_products *p, rp_error *err) {
  const size_t cap = p->cap ? p->cap * 2 : 64;
  entry *entries = rp_calloc(cap, sizeof *entries);
  if (!entries) return rp_fail_memory(err, cap * sizeof *entries, "the table of products");
  for (size_t i = 0; i < p->cap; i++)
    if (p->entries[i].primitive) *place(entries, cap, &p->entries[i].k) = p->entries[i];
  rp_free(p->entries);
  p->entries = entries;
  p->cap = cap;
  return RP_OK;
}

/* The entry of a shape, made when it is new. Under the mutex, with the team set. */
static rp_status find(rp_products *p, const key *k, entry **out, rp_error *err) {
  if ((p->used + 1) * 4 > p->cap * 3) RP_TRY(grow(p, err));
  entry *e = place(p->entries, p->cap, k);
  if (!e->primitive) {
    e->k = *k;
    const dnnl_status_t st = make_entry(p, e);
    if (st)
      return rp_fail(err, st == dnnl_out_of_memory ? RP_NO_MEMORY : RP_FAIL,
                     "%s refuses the product %d x %d x %d of %s (its status %d)",
                     rp_products_name(), k->M, k->N, k->K, rp_dtype_name((rp_dtype)k->in), (int)st);
    p->used++;
  }
  *out = e;
  return RP_OK;
}

/* ---- one product ---- */

/* A leading size of 1 makes its stride meaningless; oneDNN wants it sensible. */
static int64_t stride(int64_t ld, int64_t rows, int64_t cols) {
  return rows == 1 || ld < cols ? cols : ld;
}

static key key_of(const rp_gemm_args *a, rp_dtype in, rp_dtype out) {
  key k;
  memset(&k, 0, sizeof k);
  k.M = a->M, k.N = a->N, k.K = a->K;
  k.ta = a->ta != 0, k.tb = a->tb != 0, k.accumulate = a->accumulate != 0;
  k.lda = a->ta ? stride(a->lda, a->K, a->M) : stride(a->lda, a->M, a->K);
  k.ldb = a->tb ? stride(a->ldb, a->N, a->K) : stride(a->ldb, a->K, a->N);
  k.ldc = stride(a->ldc, a->M, a->N);
  k.in = (int32_t)in, k.out = (int32_t)out;
  return k;
}

/* Nothing to multiply: C is 0, or stays. */
static bool empty(const rp_gemm_args *a) {
  if (a->M == 0 || a->N == 0) return true;
  if (a->K) return false;
  const size_t bytes = (size_t)a->N * (size_t)rp_dtype_bytes(a->c.dtype);
  for (int i = 0; i < a->M && !a->accumulate; i++)
    memset((void *)rp_tensor_at(a->c, i * a->ldc).p.at, 0, bytes);
  return true;
}

static void execute(rp_products *p, rp_cpu_ctx *c, const rp_gemm_args *a, size_t used) {
  const key k = key_of(a, a->a.dtype, a->c.dtype);
  entry *e;
  if (find(p, &k, &e, c->err)) return;
  void *const data[4] = {(void *)a->a.p.at, (void *)a->b.p.at, (void *)a->c.p.at,
                         c->scratch + used};
  static const int names[4] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
  dnnl_exec_arg_t args[4];
  dnnl_status_t st = dnnl_success;
  for (int i = 0; i < 4 && !st; i++) {
#if DNNL_VERSION_MAJOR >= 3
    st = dnnl_memory_set_data_handle(e->memory[i], data[i]);
#else
    st = dnnl_memory_set_data_handle_v2(e->memory[i], data[i], p->stream);
#endif
    args[i] = (dnnl_exec_arg_t){names[i], e->memory[i]};
  }
  if (!st) st = dnnl_primitive_execute(e->primitive, p->stream, 4, args);
  if (!st) st = dnnl_stream_wait(p->stream);
  if (st)
    rp_fail(c->err, RP_FAIL, "%s fails in a product of %d x %d x %d (its status %d)",
            rp_products_name(), a->M, a->N, a->K, (int)st);
}

/* oneDNN takes its team from the calling thread's setting, when it makes a primitive and when it
 * runs one. */
static int begin(rp_products *p) {
  pthread_mutex_lock(&p->mutex);
  const int before = omp_get_max_threads();
  if (before != p->threads) omp_set_num_threads(p->threads);
  return before;
}

static void end(rp_products *p, int before) {
  if (before != p->threads) omp_set_num_threads(before);
  pthread_mutex_unlock(&p->mutex);
}

void rp_products_gemm(rp_products *p, rp_cpu_ctx *c, const rp_gemm_args *a, size_t used) {
  if (empty(a)) return;
  const int before = begin(p);
  execute(p, c, a, used);
  end(p, before);
}

/* An error here comes again when the product runs. */
size_t rp_products_scratch(rp_products *p, const rp_gemm_args *a) {
  rp_error err = {0};
  if (a->M == 0 || a->N == 0 || a->K == 0) return 0;
  const key k = key_of(a, a->a.dtype, a->c.dtype);
  entry *e;
  const int before = begin(p);
  const size_t pad = find(p, &k, &e, &err) ? 0 : e->scratchpad;
  end(p, before);
  return (pad + 63) & ~(size_t)63;
}

#else
typedef int rp_products_are_elsewhere; /* an empty file is no C */
#endif
