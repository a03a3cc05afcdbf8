/* cuda_api.h - the functions of CUDA that are called, found when the program runs.
 *
 * The driver (libcuda.so.1) and cuBLASLt are opened by name, so that one program runs on machines with
 * and without them; only their headers are needed to build. Opened once and kept; any thread. */
#ifndef RP_OPS_CUDA_API_H
#define RP_OPS_CUDA_API_H

#include <cublasLt.h>
#include <cuda.h>
#include <stdbool.h>

#include "base/error.h"

/* The header of CUDA replaces names by those of their present versions (cuMemGetInfo_v2): the table has
 * these, whoever names them. */
#define RP_CUDA_DRIVER(X) \
  X(cuInit) \
  X(cuDriverGetVersion) \
  X(cuGetErrorString) \
  X(cuDeviceGetCount) \
  X(cuDeviceGet) \
  X(cuDeviceGetName) \
  X(cuDeviceGetAttribute) \
  X(cuDeviceTotalMem) \
  X(cuDevicePrimaryCtxRetain) \
  X(cuDevicePrimaryCtxRelease) \
  X(cuCtxSetCurrent) \
  X(cuMemGetInfo) \
  X(cuMemPoolCreate) \
  X(cuMemPoolDestroy) \
  X(cuMemPoolSetAttribute) \
  X(cuMemPoolGetAttribute) \
  X(cuMemAllocFromPoolAsync) \
  X(cuMemFreeAsync) \
  X(cuMemHostAlloc) \
  X(cuMemFreeHost) \
  X(cuMemcpyHtoDAsync) \
  X(cuMemcpyDtoHAsync) \
  X(cuMemcpyDtoDAsync) \
  X(cuMemsetD8Async) \
  X(cuMemsetD2D8Async) \
  X(cuStreamCreate) \
  X(cuStreamDestroy) \
  X(cuStreamSynchronize) \
  X(cuStreamWaitEvent) \
  X(cuStreamBeginCapture) \
  X(cuStreamEndCapture) \
  X(cuEventCreate) \
  X(cuEventDestroy) \
  X(cuEventRecord) \
  X(cuEventSynchronize) \
  X(cuLaunchHostFunc) \
  X(cuModuleLoadData) \
  X(cuModuleUnload) \
  X(cuModuleGetFunction) \
  X(cuFuncGetAttribute) \
  X(cuFuncSetAttribute) \
  X(cuLaunchKernel) \
  X(cuGraphInstantiate) \
  X(cuGraphLaunch) \
  X(cuGraphDestroy) \
  X(cuGraphExecDestroy)
#define RP_CUDA_BLAS(X) \
  X(cublasLtCreate) \
  X(cublasLtDestroy) \
  X(cublasLtGetStatusString) \
  X(cublasLtMatmulDescCreate) \
  X(cublasLtMatmulDescDestroy) \
  X(cublasLtMatmulDescSetAttribute) \
  X(cublasLtMatrixLayoutCreate) \
  X(cublasLtMatrixLayoutDestroy) \
  X(cublasLtMatmulPreferenceCreate) \
  X(cublasLtMatmulPreferenceDestroy) \
  X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatmulAlgoGetHeuristic) \
  X(cublasLtMatmul)

typedef struct {
#define RP_X(name) __typeof__(name) *name;
  RP_CUDA_DRIVER(RP_X)
  RP_CUDA_BLAS(RP_X)
#undef RP_X
} rp_cuda_api;

/* The driver, started, and with `blas` cuBLASLt as well. What is missing is named (RP_USAGE). */
rp_status rp_cuda_load(const rp_cuda_api **api, bool blas, rp_error *err);
const char *rp_cuda_error(const rp_cuda_api *api, CUresult r);

#endif
