/* gate_bwd.h - kernels of gate_bwd.cu: gate, scan and rotation backward. */
#ifndef RP_OPS_CUDA_KERNEL_GATE_BWD_H
#define RP_OPS_CUDA_KERNEL_GATE_BWD_H

#include "ops/cuda/kernel/gate_scan.h"

/* Blocks as in gate_scan.h, of this many tokens a run. */
enum { RP_GATE_BWD_TOKENS = 3, RP_GATE_BWD_CHUNK = RP_SCAN_RUNS * RP_GATE_BWD_TOKENS };

/* A unit is a row's chunks of one block of kv columns. links, all bits 1 at first: as in gate_scan.h, but
 * [2][unit][chunk][3][RP_SCAN_WIDTH]: of the scan, then of the scan backward, whose chunks count from the row's end. */
typedef struct {
  rp_gate_bwd_args op;
  rp_ptr links;
  int32_t kv_blocks, q_blocks, units, chunks; /* chunks: of the longest row */
  int32_t at_once;                            /* units */
} rp_gate_bwd_scan_args;

/* A block's shared memory. run: first of each run of tokens the product of its gates, k~ and v~ from 0, and what
 * it sends back of k~ and v~; then what runs behind it send back, and k~ and v~ before it. */
typedef struct {
  float run[5][4][RP_SCAN_RUNS][2 * RP_SCAN_COLUMNS];
  float carry[2][4][2 * RP_SCAN_COLUMNS]; /* what later chunks send back */
  float up[2][RP_GATE_BWD_TOKENS][2][RP_SCAN_THREADS]
          [4]; /* dk, turned back, and dv, of each thread */
  rp_row row;
  int32_t unit, chunk, part; /* part 0: the scan; 1: backward; else these q columns */
} rp_gate_bwd_room;

/* x: (units / at_once + 1) x chunks x (2 + q_blocks) x at_once. */
#define RP_CUDA_GATE_BWD_KERNELS(X) X(gate_bwd_f32) X(gate_bwd_bf16)

#endif
