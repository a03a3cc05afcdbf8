/* gpus.h - which GPUs are here, for those who ask without using them. */
#ifndef RP_OPS_CUDA_GPUS_H
#define RP_OPS_CUDA_GPUS_H

#include <stddef.h>

#include "base/error.h"

typedef struct {
  char name[96];
  int major, minor; /* compute capability */
  size_t bytes;     /* of memory */
} rp_gpu;

/* The first `most` GPUs into list, how many there are into n (at least 1), and the CUDA version of the
 * driver (13000) into version. Else a sentence that says why there is none. */
rp_status rp_gpus(rp_gpu *list, int most, int *n, int *version, rp_error *err);

/* Of n that the driver shows, the one that this process uses: the first, unless rp_gpus_choose said
 * another before any was opened; the only one is everyone's. RP_USAGE: there are fewer. */
rp_status rp_gpus_mine(int n, int *gpu, rp_error *err);
void rp_gpus_choose(int gpu);

#endif
