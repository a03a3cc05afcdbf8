/* cuda_kernels.h - the kernels of kernel/, and how an op of the device puts them on its stream.
 *
 * A module is one file kernel/NAME.cu; NAME.h beside it lists its kernels, in RP_CUDA_NAME_KERNELS, and
 * declares the struct that each takes as its only parameter. A new module joins in RP_CUDA_MODULES.
 *
 * An op NAME of RP_OPS is rp_cuda_op_NAME, in one of the files op_*.c: what scratch it takes, and what it puts. */
#ifndef RP_OPS_CUDA_KERNELS_H
#define RP_OPS_CUDA_KERNELS_H

#include "ops/backend.h"
#include "ops/cuda/cuda_device.h"
#include "ops/cuda/kernel/attend.h"
#include "ops/cuda/kernel/attend_bwd.h"
#include "ops/cuda/kernel/attend_bwd_hopper.h"
#include "ops/cuda/kernel/attend_bwd_mma.h"
#include "ops/cuda/kernel/attend_few.h"
#include "ops/cuda/kernel/attend_tile.h"
#include "ops/cuda/kernel/embed.h"
#include "ops/cuda/kernel/gate.h"
#include "ops/cuda/kernel/gate_bwd.h"
#include "ops/cuda/kernel/gate_scan.h"
#include "ops/cuda/kernel/head.h"
#include "ops/cuda/kernel/hopper.h"
#include "ops/cuda/kernel/move.h"
#include "ops/cuda/kernel/norm.h"
#include "ops/cuda/kernel/optim.h"
#include "ops/cuda/kernel/pointwise.h"

/* M(module, list of its kernels) */
#define RP_CUDA_MODULES(M) \
  M(move, RP_CUDA_MOVE_KERNELS) \
  M(attend_bwd, RP_CUDA_ATTEND_BWD_KERNELS) \
  M(gate, RP_CUDA_GATE_KERNELS) \
  M(gate_scan, RP_CUDA_GATE_SCAN_KERNELS) \
  M(hopper, RP_CUDA_HOPPER_KERNELS) \
  M(gate_bwd, RP_CUDA_GATE_BWD_KERNELS) \
  M(embed, RP_CUDA_EMBED_KERNELS) \
  M(norm, RP_CUDA_NORM_KERNELS) \
  M(optim, RP_CUDA_OPTIM_KERNELS) \
  M(pointwise, RP_CUDA_POINTWISE_KERNELS) \
  M(attend, RP_CUDA_ATTEND_KERNELS) \
  M(attend_bwd_hopper, RP_CUDA_ATTEND_BWD_HOPPER_KERNELS) \
  M(attend_bwd_mma, RP_CUDA_ATTEND_BWD_MMA_KERNELS) \
  M(head, RP_CUDA_HEAD_KERNELS) \
  M(attend_tile, RP_CUDA_ATTEND_TILE_KERNELS) \
  M(attend_few, RP_CUDA_ATTEND_FEW_KERNELS)

#define RP_X(name) RP_KERN_##name,
#define RP_M(module, list) list(RP_X)
typedef enum { RP_CUDA_MODULES(RP_M) RP_KERN_COUNT } rp_cuda_kern;
#undef RP_M
#undef RP_X

/* Loads all of them, which takes a context that is current. */
rp_status rp_cuda_kernels_open(rp_cuda_kernels **k, const rp_cuda *g, rp_error *err);
void rp_cuda_kernels_close(rp_cuda_kernels *k, const rp_cuda *g); /* NULL is fine */

/* One op being put. The first error makes the rest do nothing. */
typedef struct {
  const rp_cuda *g;
  CUstream stream;
  CUdeviceptr scratch; /* at least as much as the op's scratch function said */
  rp_error *err;
} rp_cuda_run;

typedef struct {
  int64_t x, y, z; /* blocks; 0 anywhere: nothing is put. y, z: at most 65535 */
  int threads;     /* of a block, as many as the kernel's RP_KERNEL says */
  size_t
      shared; /* bytes of dynamic shared memory; 227 KiB at most on sm_90, 99 on sm_86 and sm_89 */
} rp_cuda_grid;
void rp_cuda_launch(const rp_cuda_run *r, rp_cuda_kern k, rp_cuda_grid grid, const void *args,
                    size_t bytes);
#define RP_CUDA_LAUNCH(r, name, grid, args) \
  rp_cuda_launch(r, RP_KERN_##name, grid, args, sizeof *(args))

typedef struct {
  size_t (*scratch)(const rp_cuda *g,
                    const void *args); /* NULL: none; pointers are not looked at */
  void (*put)(const rp_cuda_run *r, const void *args);
} rp_cuda_op;
/* A product, on op_gemm.c's way; the scratch begins with RP_CUDA_WORKSPACE bytes for it. */
void rp_cuda_multiply(const rp_cuda_run *r, const rp_gemm_args *a);

#define RP_X(name) extern const rp_cuda_op rp_cuda_op_##name;
RP_OPS(RP_X)
#undef RP_X

static inline int64_t rp_cuda_blocks(int64_t n, int64_t each) { return (n + each - 1) / each; }

#endif
