/* cuda_device.h - device cuda: this process's GPU (gpus.h), through cuda_api.h.
 *
 * Memory comes from one pool of the driver, which keeps what is freed. A queue is a stream with a ring of
 * pinned memory, through which every copy goes; errors of the GPU come out in rp_wait. Products are
 * cuBLASLt's; the kernels are those of kernel/. */
#ifndef RP_OPS_CUDA_DEVICE_H
#define RP_OPS_CUDA_DEVICE_H

#include "ops/cpu/cpu_device.h"
#include "ops/cuda/cuda_api.h"

typedef struct rp_cuda_products rp_cuda_products;
typedef struct rp_cuda_kernels rp_cuda_kernels;

typedef struct {
  const rp_cuda_api *api;
  CUdevice gpu;
  CUcontext context;
  CUmemoryPool pool;
  CUstream stream; /* on which memory is had and given back */
  rp_cuda_products *products;
  rp_cuda_kernels *kernels;
  int processors, capability; /* multiprocessors; 90: compute capability 9.0 */
  rp_cpu_engine host;         /* converts what is staged */
  char name[96], label[128];  /* NVIDIA H100 80GB HBM3; GPU 0 (NVIDIA H100 80GB HBM3) */
} rp_cuda;

/* What cuBLASLt may take of a queue's scratch: what NVIDIA advises for the newest GPUs. */
enum { RP_CUDA_WORKSPACE = 32 << 20 };

/* Makes the context current in the calling thread; each entry begins with it. */
CUresult rp_cuda_use(const rp_cuda *g);
/* The status and sentence of an error r that `what` met. */
rp_status rp_cuda_fail(const rp_cuda *g, CUresult r, const char *what, rp_error *err);

/* ---- cuda_stage.c: copies ---- */

typedef struct rp_cuda_stage rp_cuda_stage;
rp_status rp_cuda_stage_open(rp_cuda_stage **s, const rp_cuda *g, rp_error *err);
void rp_cuda_stage_close(rp_cuda_stage *s); /* NULL is fine; the stream is idle */
/* Puts the copy on the stream in pieces; waits only when the ring is full of earlier ones. */
CUresult rp_cuda_stage_copy(rp_cuda_stage *s, CUstream stream, const rp_copy *c);
/* Downloads go to where they were asked for, in their order; waits for each. */
CUresult rp_cuda_stage_settle(rp_cuda_stage *s);
void rp_cuda_stage_drop(rp_cuda_stage *s); /* after an error: nothing more is delivered */

/* ---- cuda_gemm.c: products ---- */

typedef enum { RP_CUDA_PLAIN, RP_CUDA_GELU, RP_CUDA_GELU_BWD } rp_cuda_epilogue;
/* c = epilogue(scale * op(a) op(b)), c += it with accumulate (PLAIN alone). GELU is that of tanh, as in
 * `fastgelu`. aux [M, ldaux] of c's dtype: GELU writes there what goes into it, GELU_BWD reads it and
 * multiplies by the derivative. ldaux is a multiple of 8. */
typedef struct {
  rp_gemm_args gemm;
  double scale;
  rp_cuda_epilogue epilogue;
  rp_ptr aux;
  int64_t ldaux;
} rp_cuda_product;

rp_status rp_cuda_products_open(rp_cuda_products **p, const rp_cuda *g, rp_error *err);
void rp_cuda_products_close(rp_cuda_products *p); /* NULL is fine */
/* Onto the stream. Nothing is made for a shape, its strides and its alignments that were seen before. */
rp_status rp_cuda_products_put(rp_cuda_products *p, CUstream stream, CUdeviceptr workspace,
                               const rp_cuda_product *a, rp_error *err);

#endif
