/* cuda_runtime_api.h - as much of CUDA's as src/dist/comm_nccl.c uses; memory is the host's. */
#ifndef RP_FAKE_CUDA_H
#define RP_FAKE_CUDA_H

typedef enum {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNotReady = 600
} cudaError_t;
typedef struct CUstream_st *cudaStream_t;
enum { cudaStreamNonBlocking = 1 };

cudaError_t cudaSetDevice(int device);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaStreamDestroy(cudaStream_t s);
const char *cudaGetErrorString(cudaError_t e);

#endif
