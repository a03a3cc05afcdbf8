/* cuda_gemm.c - matrix products by cuBLASLt.
 *
 * cuBLASLt counts along columns: a matrix that lies row by row is its transpose there, so c^T = op(b)^T
 * op(a)^T is asked for and nothing is moved. What describes a product and the way to compute it are looked
 * up once per shape and kept. */
#include "ops/cuda/gpus.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_device.h"

/* What makes two products the same to cuBLASLt; compared as bytes, so without holes. */
typedef struct {
  int64_t lda, ldb, ldc, ldaux;
  int32_t M, N, K, ta, tb, accumulate;
  int32_t in, out, epilogue;
  int32_t align[3]; /* of a, b, c */
} key;

typedef struct {
  key k;
  bool there;
  cublasLtMatmulDesc_t desc;
  cublasLtMatrixLayout_t a, b, c; /* as cuBLASLt names them: its a is our b */
  cublasLtMatmulAlgo_t algo;
} entry;

enum { SLOTS = 1024, MOST = SLOTS / 4 * 3 };

struct rp_cuda_products {
  const rp_cuda *g;
  cublasLtHandle_t handle;
  cublasLtMatmulPreference_t preference;
  pthread_mutex_t mutex; /* over what follows */
  entry slot[SLOTS];
  int used;
};

static rp_status failed(const rp_cuda *g, cublasStatus_t r, const char *what, rp_error *err) {
  return rp_fail(err, r == CUBLAS_STATUS_ALLOC_FAILED ? RP_NO_MEMORY : RP_FAIL,
                 "cuBLASLt on %s: %s: %s", g->label, what, g->api->cublasLtGetStatusString(r));
}

static void drop(const rp_cuda_api *api, entry *e) {
  if (e->desc) api->cublasLtMatmulDescDestroy(e->desc);
  if (e->a) api->cublasLtMatrixLayoutDestroy(e->a);
  if (e->b) api->cublasLtMatrixLayoutDestroy(e->b);
  if (e->c) api->cublasLtMatrixLayoutDestroy(e->c);
  *e = (entry){0};
}

void rp_cuda_products_close(rp_cuda_products *p) {
  if (!p) return;
  const rp_cuda_api *api = p->g->api;
  for (int i = 0; i < SLOTS; i++) drop(api, &p->slot[i]);
  if (p->preference) api->cublasLtMatmulPreferenceDestroy(p->preference);
  if (p->handle) api->cublasLtDestroy(p->handle);
  pthread_mutex_destroy(&p->mutex);
  rp_free(p);
}

rp_status rp_cuda_products_open(rp_cuda_products **out, const rp_cuda *g, rp_error *err) {
  rp_cuda_products *p = *out = rp_calloc(1, sizeof *p);
  const uint64_t workspace = RP_CUDA_WORKSPACE;
  /* Sums over parts of k may not be rounded to the result's type between the parts. */
  const uint32_t between = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  if (!p) return rp_fail_memory(err, sizeof *p, "products");
  p->g = g;
  pthread_mutex_init(&p->mutex, NULL);
  cublasStatus_t r = g->api->cublasLtCreate(&p->handle);
  if (!r) r = g->api->cublasLtMatmulPreferenceCreate(&p->preference);
  if (!r)
    r = g->api->cublasLtMatmulPreferenceSetAttribute(
        p->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
  if (!r)
    r = g->api->cublasLtMatmulPreferenceSetAttribute(
        p->preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &between, sizeof between);
  if (!r) return RP_OK;
  rp_cuda_products_close(p);
  *out = NULL;
  return failed(g, r, "its start", err);
}

/* ---- what describes a product ---- */

static cudaDataType_t type_of(int32_t dtype) { return dtype == RP_BF16 ? CUDA_R_16BF : CUDA_R_32F; }

static int32_t alignment(rp_ptr p) {
  const uintptr_t lowest = p.at & (~p.at + 1);
  return lowest && lowest < 256 ? (int32_t)lowest : 256;
}

/* Elements between rows; of a single row they say nothing. */
static int64_t stride(int64_t ld, int64_t rows, int64_t cols) { return rows == 1 ? cols : ld; }

static key key_of(const rp_cuda_product *p) {
  const rp_gemm_args *g = &p->gemm;
  return (key){.lda = stride(g->lda, g->ta ? g->K : g->M, g->ta ? g->M : g->K),
               .ldb = stride(g->ldb, g->tb ? g->N : g->K, g->tb ? g->K : g->N),
               .ldc = stride(g->ldc, g->M, g->N),
               .ldaux = p->epilogue ? p->ldaux : 0,
               .M = g->M,
               .N = g->N,
               .K = g->K,
               .ta = g->ta != 0,
               .tb = g->tb != 0,
               .accumulate = g->accumulate != 0,
               .in = (int32_t)g->a.dtype,
               .out = (int32_t)g->c.dtype,
               .epilogue = (int32_t)p->epilogue,
               .align = {alignment(g->a.p), alignment(g->b.p), alignment(g->c.p)}};
}

static cublasStatus_t set(const rp_cuda_api *api, entry *e,
                          cublasLtMatmulDescAttributes_t attribute, const void *value, size_t n) {
  return api->cublasLtMatmulDescSetAttribute(e->desc, attribute, value, n);
}

static cublasStatus_t describe(const rp_cuda_api *api, entry *e) {
  static const cublasLtEpilogue_t epilogues[] = {
      CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_DGELU};
  const key *k = &e->k;
  const cublasOperation_t ops[] = {CUBLAS_OP_N, CUBLAS_OP_T};
  const cudaDataType_t in = type_of(k->in), out = type_of(k->out);
  const cublasLtEpilogue_t epilogue = epilogues[k->epilogue];
  cublasStatus_t r = api->cublasLtMatmulDescCreate(&e->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  if (!r) r = set(api, e, CUBLASLT_MATMUL_DESC_TRANSA, &ops[k->tb], sizeof *ops);
  if (!r) r = set(api, e, CUBLASLT_MATMUL_DESC_TRANSB, &ops[k->ta], sizeof *ops);
  if (!r) r = set(api, e, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
  if (!r && k->epilogue)
    r = set(api, e, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &k->ldaux, sizeof k->ldaux);
  if (!r)
    r = api->cublasLtMatrixLayoutCreate(&e->a, in, (uint64_t)(k->tb ? k->K : k->N),
                                        (uint64_t)(k->tb ? k->N : k->K), k->ldb);
  if (!r)
    r = api->cublasLtMatrixLayoutCreate(&e->b, in, (uint64_t)(k->ta ? k->M : k->K),
                                        (uint64_t)(k->ta ? k->K : k->M), k->lda);
  if (!r) r = api->cublasLtMatrixLayoutCreate(&e->c, out, (uint64_t)k->N, (uint64_t)k->M, k->ldc);
  return r;
}

/* Without the alignments the choice would count on 256 bytes. */
static cublasStatus_t choose(const rp_cuda_products *p, entry *e) {
  static const cublasLtMatmulPreferenceAttributes_t of[] = {
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
      CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
  static const int ours[] = {1, 0, 2, 2};
  const rp_cuda_api *api = p->g->api;
  cublasLtMatmulHeuristicResult_t found;
  cublasStatus_t r = CUBLAS_STATUS_SUCCESS;
  int n = 0;
  for (int i = 0; i < 4 && !r; i++) {
    const uint32_t bytes = (uint32_t)e->k.align[ours[i]];
    r = api->cublasLtMatmulPreferenceSetAttribute(p->preference, of[i], &bytes, sizeof bytes);
  }
  if (!r)
    r = api->cublasLtMatmulAlgoGetHeuristic(p->handle, e->desc, e->a, e->b, e->c, e->c,
                                            p->preference, 1, &found, &n);
  if (!r && !n) r = CUBLAS_STATUS_NOT_SUPPORTED;
  if (!r) r = found.state;
  if (!r) e->algo = found.algo;
  return r;
}

static uint64_t hash(const key *k) {
  const uint8_t *b = (const uint8_t *)k;
  uint64_t h = 1469598103934665603u;
  for (size_t i = 0; i < sizeof *k; i++) h = (h ^ b[i]) * 1099511628211u;
  return h;
}

/* The entry of the product, made where it is new. A table that fills up begins anew. */
static cublasStatus_t look_up(rp_cuda_products *p, const key *k, entry **out) {
  _Static_assert(sizeof *k == 4 * 8 + 12 * 4, "no holes");
  const rp_cuda_api *api = p->g->api;
  if (p->used == MOST) {
    for (int i = 0; i < SLOTS; i++) drop(api, &p->slot[i]);
    p->used = 0;
  }
  entry *e = &p->slot[hash(k) % SLOTS];
  while (e->there && memcmp(&e->k, k, sizeof *k)) e = e == p->slot + SLOTS - 1 ? p->slot : e + 1;
  *out = e;
  if (e->there) return CUBLAS_STATUS_SUCCESS;
  e->k = *k;
  cublasStatus_t r = describe(api, e);
  if (!r) r = choose(p, e);
  if (r) {
    drop(api, e);
    return r;
  }
  e->there = true;
  p->used++;
  return r;
}

/* ---- a product ---- */

static cublasStatus_t multiply(const rp_cuda_products *p, entry *e, CUstream stream,
                               CUdeviceptr workspace, const rp_cuda_product *a) {
  const rp_gemm_args *g = &a->gemm;
  const float scale = (float)a->scale, add = g->accumulate ? 1 : 0;
  const void *aux = (const void *)a->aux.at;
  void *c = (void *)g->c.p.at;
  cublasStatus_t r = CUBLAS_STATUS_SUCCESS;
  if (a->epilogue)
    r = set(p->g->api, e, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux);
  if (r) return r;
  return p->g->api->cublasLtMatmul(p->handle, e->desc, &scale, (const void *)g->b.p.at, e->a,
                                   (const void *)g->a.p.at, e->b, &add, c, e->c, c, e->c, &e->algo,
                                   (void *)(uintptr_t)workspace, RP_CUDA_WORKSPACE, stream);
}

/* A sum of nothing, which cuBLASLt does not take. */
static rp_status empty_sum(const rp_cuda *g, CUstream stream, const rp_gemm_args *a,
                           rp_error *err) {
  const size_t size = (size_t)rp_dtype_bytes(a->c.dtype);
  const int64_t ld = stride(a->ldc, a->M, a->N);
  if (a->accumulate) return RP_OK;
  const CUresult r = g->api->cuMemsetD2D8Async(a->c.p.at, (size_t)ld * size, 0, (size_t)a->N * size,
                                               (size_t)a->M, stream);
  return r ? rp_cuda_fail(g, r, "a product", err) : RP_OK;
}

rp_status rp_cuda_products_put(rp_cuda_products *p, CUstream stream, CUdeviceptr workspace,
                               const rp_cuda_product *a, rp_error *err) {
  const rp_gemm_args *g = &a->gemm;
  const key k = key_of(a);
  entry *e;
  if (!g->M || !g->N) return RP_OK;
  if (!g->K) return empty_sum(p->g, stream, g, err);
  pthread_mutex_lock(&p->mutex);
  cublasStatus_t r = look_up(p, &k, &e);
  if (!r) r = multiply(p, e, stream, workspace, a);
  pthread_mutex_unlock(&p->mutex);
  if (!r) return RP_OK;
  failed(p->g, r, "a product", err);
  return rp_fail_at(err, "op gemm, %dx%dx%d, %s to %s", g->M, g->N, g->K, rp_dtype_name(g->a.dtype),
                    rp_dtype_name(g->c.dtype));
}

#else
typedef int rp_no_products; /* an empty file is no C */
#endif
