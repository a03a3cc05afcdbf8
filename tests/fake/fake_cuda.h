/* fake_cuda.h - a CUDA driver and a cuBLASLt without a GPU, for tests: libraries of the real names.
 *
 * What they keep of the real ones: memory of the device that the host cannot touch, and that holds
 * anything when it is new; work that runs late, in the order of its stream, when somebody waits; host
 * memory that must be pinned to be copied; captured streams, which take down what they are told and do
 * nothing; errors of the work that come out when it is waited for, and then stay for good. Kernels run too, thread by
 * thread (emulate.h), as on a GPU of compute capability 8.0, or 9.0, with three multiprocessors. One thread. */
#ifndef RP_FAKE_CUDA_H
#define RP_FAKE_CUDA_H

#include <cublasLt.h>
#include <cuda.h>
#include <stdbool.h>
#include <stddef.h>

#include "launch.h"

typedef struct {
  /* Set by a test. */
  int gpus;           /* that the driver shows; all are the same one */
  size_t capacity;    /* bytes of the device's memory */
  int capability;     /* 80 or 90 */
  unsigned fail_call; /* the n-th call from now fails with fail_with; 0: none */
  CUresult fail_with;
  unsigned fault_op; /* the n-th piece of work from now loses the device with fault_with; 0: none */
  CUresult fault_with;
  /* Counted. */
  unsigned calls, work;              /* of functions that can fail; pieces of work done */
  unsigned mapped, copies, launches; /* blocks had from the device; copies; graphs launched */
  unsigned kernels;                  /* launched */
  const char *kernel;                /* the last of them */
  unsigned choices;                  /* products for which an algorithm was chosen */
  int streams, events, pools, graphs, descriptors, contexts, modules; /* that are there */
  size_t live, cached, pinned; /* bytes handed out, kept by pools, pinned */
  unsigned misuse;             /* calls that the real libraries forbid */
} fake_cuda;
extern fake_cuda fake;

/* As if the machine had just started; nothing may be in use. */
void fake_cuda_reset(void);

/* For the second library: work put on a stream, and whether bytes lie in one live block. */
typedef void (*fake_work)(const void *args);
CUresult fake_put(CUstream s, fake_work run, const void *args, size_t bytes);
bool fake_holds(CUdeviceptr p, size_t bytes);
void fake_lose(CUresult why); /* by work that runs */

#endif
