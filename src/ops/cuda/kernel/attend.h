/* attend.h - kernels of attend.cu: attention of any width and type, and new keys into their caches. */
#ifndef RP_OPS_CUDA_KERNEL_ATTEND_H
#define RP_OPS_CUDA_KERNEL_ATTEND_H

#include "ops/ops.h"

/* attend_plain: TILE queries of a head a block, KEYS keys at a time, COLUMNS of the values; the shared memory
 * is an attend_plain_shared. Grid: tiles x H, columns. */
enum {
  RP_ATTEND_THREADS = 256,
  RP_ATTEND_TILE = 64,
  RP_ATTEND_KEYS = 64,
  RP_ATTEND_COLUMNS = 128,
  RP_ATTEND_PART = 64 /* of the width at a time */
};
typedef struct {
  rp_attend_args op;
  int32_t few; /* rows of so few tokens are another kernel's */
} rp_attend_plain_args;
typedef struct {
  float q[RP_ATTEND_TILE][RP_ATTEND_PART + 4], k[RP_ATTEND_KEYS][RP_ATTEND_PART + 4];
  float p[RP_ATTEND_TILE][RP_ATTEND_KEYS + 4], v[RP_ATTEND_KEYS][RP_ATTEND_COLUMNS];
  const unsigned char *key[RP_ATTEND_KEYS], *value[RP_ATTEND_KEYS];
  int32_t low[RP_ATTEND_KEYS], high[RP_ATTEND_KEYS];
} rp_attend_plain_shared;

/* append: TOKENS new tokens of a row and a key-value head a block; _16: where all keys are whole 16 bytes, and
 * aligned so. Grid: tiles of tokens, Hk. */
enum { RP_APPEND_TOKENS = 32 };

#define RP_CUDA_ATTEND_KERNELS(X) \
  X(attend_plain_f32) \
  X(attend_plain_bf16) \
  X(append_16) \
  X(append_2)

#endif
