/* gate.h - kernels of gate.cu: gate, scan and rotation, their backward, the table of the rotation. */
#ifndef RP_OPS_CUDA_KERNEL_GATE_H
#define RP_OPS_CUDA_KERNEL_GATE_H

#include "ops/ops.h"

enum { RP_GATE_WALK_THREADS = 128, RP_ROPE_THREADS = 128, RP_ROPE_TOKENS = 32 };

/* Channels i and i + half of a head are one thread's, since they rotate together; of an odd head, which does
 * not rotate, the last has no partner. A thread has `wide` such pairs side by side. */
RP_HD static inline int32_t rp_gate_half(int32_t h) { return (h + 1) / 2; }
RP_HD static inline int64_t rp_gate_columns(int32_t heads, int32_t h, int wide) {
  return (int64_t)heads * (rp_gate_half(h) / wide);
}

/* Backward by walking: the states before each RP_GATE_KEPT tokens of a row, [rows][runs][4][pairs]. */
enum { RP_GATE_KEPT = 16 };
typedef struct {
  rp_gate_bwd_args op;
  rp_ptr starts;
  int32_t runs; /* of the longest row */
} rp_gate_bwd_walk_args;

/* rope: (RP_ROPE_TOKENS tokens of a row or of the table) x rows, pairs over y.
 * walk: (RP_GATE_WALK_THREADS columns of a row) x rows. */
#define RP_CUDA_GATE_KERNELS(X) \
  X(rope) \
  X(gate_walk_f32) \
  X(gate_walk_bf16) \
  X(gate_walk_f32_4) \
  X(gate_walk_bf16_4) \
  X(gate_bwd_walk_f32) \
  X(gate_bwd_walk_bf16)

#endif
