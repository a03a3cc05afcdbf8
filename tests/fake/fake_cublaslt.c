/* fake_cublaslt.c - cuBLASLt: products in plain C, in the order of their stream; see fake_cuda.h.
 *
 * An algorithm is good for the shapes, strides and alignments it was chosen for, and for no others. One that may
 * round sums between parts of k must not be asked for. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "fake_cuda.h"

typedef struct {
  int32_t transposed[2], epilogue;
  int64_t aux_ld;
  void *aux;
} desc;
typedef struct {
  cudaDataType type;
  int64_t rows, cols, ld; /* columns lie ld apart */
} layout;
typedef struct {
  uint64_t workspace;
  uint32_t align[4], reductions;
} preference;
typedef struct {
  layout l[4];
  uint32_t align[4];
  int32_t transposed[2], epilogue;
} choice; /* as bytes */

/* The real handles point to things of their own; these are cast. */
#define DESC(p) ((desc *)(void *)(p))
#define LAYOUT(p) ((const layout *)(const void *)(p))
#define PREFERENCE(p) ((preference *)(void *)(p))

static void *made(size_t n) {
  void *p = calloc(1, n);
  if (!p) abort();
  fake.descriptors++;
  return p;
}

static cublasStatus_t gone(const void *p) {
  free((void *)p);
  fake.descriptors--;
  return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t misused(void) {
  fake.misuse++;
  return CUBLAS_STATUS_INVALID_VALUE;
}

static bool fails(void) {
  fake.calls++;
  return fake.fail_call && --fake.fail_call == 0;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) {
  if (fails()) return CUBLAS_STATUS_ALLOC_FAILED;
  *h = made(8);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t h) { return gone(h); }

const char *cublasLtGetStatusString(cublasStatus_t r) {
  return r == CUBLAS_STATUS_NOT_SUPPORTED ? "not supported" : "an error";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
  if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return misused();
  if (fails()) return CUBLAS_STATUS_ALLOC_FAILED;
  *d = made(sizeof(desc));
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) { return gone(d); }

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t a, const void *value,
                                              size_t n) {
  desc *x = DESC(d);
  void *to = a == CUBLASLT_MATMUL_DESC_TRANSA                 ? (void *)&x->transposed[0]
             : a == CUBLASLT_MATMUL_DESC_TRANSB               ? (void *)&x->transposed[1]
             : a == CUBLASLT_MATMUL_DESC_EPILOGUE             ? (void *)&x->epilogue
             : a == CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD      ? (void *)&x->aux_ld
             : a == CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER ? (void *)&x->aux
                                                              : NULL;
  const bool wide =
      a == CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD || a == CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER;
  if (!to || n != (wide ? 8 : 4)) return misused();
  memcpy(to, value, n);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type,
                                          uint64_t rows, uint64_t cols, int64_t ld) {
  if (!rows || !cols || ld < (int64_t)rows) return misused();
  if (fails()) return CUBLAS_STATUS_ALLOC_FAILED;
  layout *x = made(sizeof *x);
  *x = (layout){type, (int64_t)rows, (int64_t)cols, ld};
  *l = (void *)x;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) { return gone(l); }

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) {
  if (fails()) return CUBLAS_STATUS_ALLOC_FAILED;
  preference *x = made(sizeof *x);
  x->reductions = CUBLASLT_REDUCTION_SCHEME_MASK;
  for (int i = 0; i < 4; i++) x->align[i] = 256;
  *p = (void *)x;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) { return gone(p); }

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t a,
                                                    const void *value, size_t n) {
  preference *x = PREFERENCE(p);
  if (a == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES && n == 8) {
    memcpy(&x->workspace, value, n);
  } else if (a == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK && n == 4) {
    memcpy(&x->reductions, value, n);
  } else if (a >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES &&
             a <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES && n == 4) {
    memcpy(&x->align[a - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, n);
  } else {
    return misused();
  }
  return CUBLAS_STATUS_SUCCESS;
}

/* ---- what was chosen, and whether it fits ---- */

static uint64_t mark_of(const desc *d, const layout *const l[4], const uint32_t align[4]) {
  choice c;
  memset(&c, 0, sizeof c);
  for (int i = 0; i < 4; i++) {
    c.l[i].type = l[i]->type;
    c.l[i].rows = l[i]->rows, c.l[i].cols = l[i]->cols, c.l[i].ld = l[i]->ld;
    c.align[i] = align[i];
  }
  memcpy(c.transposed, d->transposed, sizeof c.transposed);
  c.epilogue = d->epilogue;
  uint64_t h = 5381;
  for (size_t i = 0; i < sizeof c; i++) h = h * 33 + ((const unsigned char *)&c)[i];
  return h;
}

static bool fits(const desc *d, const layout *const l[4]) {
  const bool ta = d->transposed[0], tb = d->transposed[1];
  const int64_t k = ta ? l[0]->rows : l[0]->cols;
  const bool types = l[0]->type == l[1]->type && l[2]->type == l[3]->type &&
                     (l[0]->type == CUDA_R_16BF || l[2]->type == CUDA_R_32F);
  return types && (ta ? l[0]->cols : l[0]->rows) == l[3]->rows &&
         (tb ? l[1]->cols : l[1]->rows) == k && (tb ? l[1]->rows : l[1]->cols) == l[3]->cols;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t d,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t to,
                                              cublasLtMatmulPreference_t p, int most,
                                              cublasLtMatmulHeuristicResult_t *result, int *n) {
  const layout *const l[4] = {LAYOUT(a), LAYOUT(b), LAYOUT(c), LAYOUT(to)};
  const preference *x = PREFERENCE(p);
  if (!h || most < 1 || !fits(DESC(d), l)) return misused();
  if (x->reductions & ~(uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) return misused();
  if (fails()) return CUBLAS_STATUS_NOT_SUPPORTED;
  *n = DESC(d)->epilogue == CUBLASLT_EPILOGUE_DEFAULT || DESC(d)->aux_ld % 8 == 0;
  if (!*n) return CUBLAS_STATUS_NOT_SUPPORTED;
  *result = (cublasLtMatmulHeuristicResult_t){.workspaceSize = (size_t)x->workspace};
  result->algo.data[0] = mark_of(DESC(d), l, x->align);
  for (int i = 0; i < 4; i++) result->algo.data[1 + i] = x->align[i];
  fake.choices++;
  return CUBLAS_STATUS_SUCCESS;
}

/* ---- a product ---- */

typedef struct {
  desc d;
  layout l[4];
  const void *a, *b, *c;
  void *to, *workspace;
  size_t workspace_bytes;
  float alpha, beta;
} product;

static double get(const layout *l, const void *p, int64_t i) {
  return l->type == CUDA_R_16BF ? (double)rp_bf16_to_f32(((const uint16_t *)p)[i])
                                : (double)((const float *)p)[i];
}

static void set(const layout *l, void *p, int64_t i, double v) {
  if (l->type == CUDA_R_16BF)
    ((uint16_t *)p)[i] = rp_f32_to_bf16((float)v);
  else
    ((float *)p)[i] = (float)v;
}

static double gelu(double x, bool slope) {
  const double u = sqrt(2 / acos(-1.0)), t = tanh(u * (x + 0.044715 * x * x * x));
  if (!slope) return 0.5 * x * (1 + t);
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * u * (1 + 3 * 0.044715 * x * x);
}

static bool held(const layout *l, const void *p) {
  const size_t size = l->type == CUDA_R_16BF ? 2 : 4;
  return fake_holds((CUdeviceptr)p, (size_t)((l->cols - 1) * l->ld + l->rows) * size);
}

static void element(const product *p, int64_t i, int64_t j) {
  const layout *l = p->l;
  const bool ta = p->d.transposed[0], tb = p->d.transposed[1];
  const int64_t K = ta ? l[0].rows : l[0].cols;
  layout aux = l[3];
  double sum = 0;
  for (int64_t k = 0; k < K; k++)
    sum += get(&l[0], p->a, ta ? i * l[0].ld + k : k * l[0].ld + i) *
           get(&l[1], p->b, tb ? k * l[1].ld + j : j * l[1].ld + k);
  sum *= (double)p->alpha;
  if (p->beta != 0) sum += (double)p->beta * get(&l[2], p->c, j * l[2].ld + i);
  aux.ld = p->d.aux_ld;
  if (p->d.epilogue == CUBLASLT_EPILOGUE_GELU_AUX) {
    set(&aux, p->d.aux, j * aux.ld + i, sum);
    sum = gelu(sum, false);
  } else if (p->d.epilogue == CUBLASLT_EPILOGUE_DGELU) {
    sum *= gelu(get(&aux, p->d.aux, j * aux.ld + i), true);
  }
  set(&l[3], p->to, j * l[3].ld + i, sum);
}

static void run_product(const void *args) {
  const product *p = args;
  if (!held(&p->l[0], p->a) || !held(&p->l[1], p->b) || !held(&p->l[3], p->to) ||
      !fake_holds((CUdeviceptr)p->workspace, p->workspace_bytes)) {
    fake_lose(CUDA_ERROR_ILLEGAL_ADDRESS);
    return;
  }
  memset(p->workspace, 0xff, p->workspace_bytes < 4096 ? p->workspace_bytes : 4096);
  for (int64_t j = 0; j < p->l[3].cols; j++)
    for (int64_t i = 0; i < p->l[3].rows; i++) element(p, i, j);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t d, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t la, const void *b,
                              cublasLtMatrixLayout_t lb, const void *beta, const void *c,
                              cublasLtMatrixLayout_t lc, void *to, cublasLtMatrixLayout_t lto,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes,
                              cudaStream_t s) {
  const layout *const l[4] = {LAYOUT(la), LAYOUT(lb), LAYOUT(lc), LAYOUT(lto)};
  const uintptr_t at[4] = {(uintptr_t)a, (uintptr_t)b, (uintptr_t)c, (uintptr_t)to};
  uint32_t align[4];
  for (int i = 0; i < 4; i++) {
    align[i] = (uint32_t)algo->data[1 + i];
    if (!align[i] || at[i] % align[i]) return misused();
  }
  if (!h || algo->data[0] != mark_of(DESC(d), l, align) || (uintptr_t)workspace % 256)
    return misused();
  if (fails()) return CUBLAS_STATUS_EXECUTION_FAILED;
  product p = {.d = *DESC(d), .a = a, .b = b, .c = c, .to = to, .workspace = workspace};
  for (int i = 0; i < 4; i++) p.l[i] = *l[i];
  p.workspace_bytes = bytes;
  memcpy(&p.alpha, alpha, sizeof p.alpha);
  memcpy(&p.beta, beta, sizeof p.beta);
  return fake_put(s, run_product, &p, sizeof p) ? CUBLAS_STATUS_EXECUTION_FAILED
                                                : CUBLAS_STATUS_SUCCESS;
}
