/* hopper.h - kernels of hopper.cu: attention on GPUs of compute capability 9.0. */
#ifndef RP_OPS_CUDA_KERNEL_HOPPER_H
#define RP_OPS_CUDA_KERNEL_HOPPER_H

#include "ops/ops.h"

/* A tile has so many queries of one row and head. The items of a call are its tiles: no more than
 * (tokens / RP_HOPPER_QUERIES + rows) * H, which must be below 2^31. */
enum {
  RP_HOPPER_QUERIES = 128,
  RP_HOPPER_THREADS = 384,
  RP_HOPPER_SHARED = 227 * 1024,
};

/* bfloat16, h = 128, scale above 0, 16-byte aligned tensors. One block a multiprocessor; they take items
 * in turns from `next`, an int32 that is 0 at first. */
typedef struct {
  rp_attend_args attend;
  rp_ptr next;
  int32_t few; /* rows of so few tokens are another kernel's */
} rp_hopper_attend_args;

#define RP_CUDA_HOPPER_KERNELS(X) X(hopper_attend)

#endif
