/* gate_scan.h - kernels of gate_scan.cu: gate, scan and rotation of rows of many tokens, in one pass. */
#ifndef RP_OPS_CUDA_KERNEL_GATE_SCAN_H
#define RP_OPS_CUDA_KERNEL_GATE_SCAN_H

#include "ops/cuda/kernel/gate.h"

/* A block is 16 columns of 4 + 4 channels by 16 runs of tokens; a thread has one run of a column, so many
 * tokens that the projection's part fills 72 registers. */
enum {
  RP_SCAN_THREADS = 256,
  RP_SCAN_COLUMNS = 16,
  RP_SCAN_RUNS = 16,
  RP_SCAN_WIDTH = 8 * RP_SCAN_COLUMNS, /* channels of a block */
  RP_SCAN_TOKENS_F32 = 3,
  RP_SCAN_TOKENS_BF16 = 6,
  RP_SCAN_GROUP = 4,   /* chunks */
  RP_SCAN_LD = 1 << 27 /* elements between tokens at most */
};
/* Tokens of a chunk, which is a block's. Chunks of a call: the rows' one behind the other. */
RP_HD static inline int32_t rp_scan_chunk(bool bf16) {
  return RP_SCAN_RUNS * (bf16 ? RP_SCAN_TOKENS_BF16 : RP_SCAN_TOKENS_F32);
}
/* The first chunk of a row, the which-th, that begins at token tok; and how many there can be. */
RP_HD static inline int64_t rp_scan_first(int32_t tok, int32_t which, int32_t chunk) {
  return (int64_t)(tok / chunk) + which;
}

/* links, all bits 1 at first: a word that counts the blocks that began, then from RP_SCAN_LINKS on
 * [chunk][blocks of kv columns][3][RP_SCAN_WIDTH] floats (gate_chain.h). */
enum { RP_SCAN_LINKS = 64 };
typedef struct {
  rp_gate_args op;
  rp_ptr links;
  int32_t kv_blocks, q_blocks; /* of columns; q_blocks for each of kv_blocks */
} rp_gate_scan_args;

/* A block's shared memory. Of a run of tokens: the product of its gates, k~, v~; then the same of all runs before
 * it. [4]: channels 0, 1, then their partners, then 2, 3 and theirs, of each column. */
typedef struct {
  float run[3][4][RP_SCAN_RUNS][2 * RP_SCAN_COLUMNS];
  float carry[2][4][2 * RP_SCAN_COLUMNS]; /* k~, v~ before the chunk */
  rp_row row;                             /* what the block does: a chunk of this row */
  int64_t slot;                           /* the chunk among the call's, */
  int32_t chunk;                          /* among its row's */
  int32_t part;                           /* 0: the scan, else these q columns */
  int32_t block;                          /* of kv columns */
  uint32_t turn;
} rp_gate_scan_room;

/* x: chunks x (1 + q_blocks) x kv_blocks. */
#define RP_CUDA_GATE_SCAN_KERNELS(X) X(gate_scan_f32) X(gate_scan_bf16)

#endif
