/* registry_sizes.c - the sizes at which the benchmark times each op. On a processor those of training a
 * model of width 768, of long sequences, and of decoding at width 2048; on a GPU those of width 2048, of
 * more tokens and sessions: enough to do for all its multiprocessors. */
#include "ops/registry.h"

#define DENSE \
  { 1, 0, 0 }
#define FAR \
  { 16, 0, 0 }
#define NEAR_AND_FAR \
  { 16, 256, 0 }

/* Four sequences of 1024 tokens. */
#define TRAINING \
  { false, 1024, 4, 6, 6, 128, DENSE, 0 }
/* One row, or session, and several. */
#define ROWS(n) \
  { true, 1, n, 16, 16, 128, DENSE, 0 }
/* As many heads as there are threads, at least two: backward takes whole heads. */
#define LONG(pattern) \
  { false, 16384, 1, 0, 0, 128, pattern, 0 }
#define STEP(T, sessions, pattern) \
  { true, T, sessions, 16, 16, 128, pattern, 0 }

static const rp_case_bench usual[] = {TRAINING};
static const rp_case_bench products[] = {TRAINING, ROWS(1), ROWS(8), ROWS(16)};
/* Logits chunk by chunk, and those of a step. */
static const rp_case_bench loss[] = {{false, 1024, 1, 6, 6, 128, DENSE, 0}};
static const rp_case_bench picks[] = {{false, 1024, 1, 6, 6, 128, DENSE, 0}, ROWS(1), ROWS(8)};
/* More than any processor's cache holds: what is read and written is counted against memory. */
static const rp_case_bench gates[] = {{false, 4096, 8, 6, 6, 128, DENSE, 0}};
static const rp_case_bench forward[] = {TRAINING,
                                        LONG(DENSE),
                                        LONG(FAR),
                                        LONG(NEAR_AND_FAR),
                                        STEP(16384, 1, DENSE),
                                        STEP(16384, 1, NEAR_AND_FAR),
                                        STEP(4096, 8, DENSE),
                                        STEP(16384, 8, NEAR_AND_FAR)};
static const rp_case_bench backward[] = {TRAINING, LONG(DENSE), LONG(FAR), LONG(NEAR_AND_FAR)};

#define GPU_TRAINING \
  { false, 4096, 8, 16, 16, 128, DENSE, 1 << 27 }
#define GPU_LONG(pattern) \
  { false, 16384, 4, 16, 16, 128, pattern, 0 }

static const rp_case_bench gpu_usual[] = {GPU_TRAINING};
static const rp_case_bench gpu_products[] = {GPU_TRAINING, ROWS(1), ROWS(16), ROWS(64)};
static const rp_case_bench gpu_picks[] = {
    {false, 512, 1, 16, 16, 128, DENSE, 0}, ROWS(1), ROWS(64)};
static const rp_case_bench gpu_appends[] = {GPU_TRAINING, STEP(4096, 64, NEAR_AND_FAR)};
static const rp_case_bench gpu_forward[] = {GPU_TRAINING,
                                            GPU_LONG(DENSE),
                                            GPU_LONG(FAR),
                                            GPU_LONG(NEAR_AND_FAR),
                                            STEP(4096, 1, DENSE),
                                            STEP(4096, 64, DENSE),
                                            STEP(16384, 1, NEAR_AND_FAR),
                                            STEP(16384, 64, FAR),
                                            STEP(16384, 64, NEAR_AND_FAR)};
static const rp_case_bench gpu_backward[] = {GPU_TRAINING, GPU_LONG(DENSE), GPU_LONG(FAR),
                                             GPU_LONG(NEAR_AND_FAR)};

#define LIST(sizes) return *n = (int)(sizeof sizes / sizeof *sizes), sizes
static const rp_case_bench *gpu_benches(rp_op op, int *n) {
  switch (op) {
    case RP_OP_gemm: LIST(gpu_products);
    case RP_OP_pick: LIST(gpu_picks);
    case RP_OP_append: LIST(gpu_appends);
    case RP_OP_attend: LIST(gpu_forward);
    case RP_OP_attend_bwd: LIST(gpu_backward);
    default: LIST(gpu_usual);
  }
}

const rp_case_bench *rp_case_benches(rp_op op, bool gpu, int *n) {
  if (gpu) return gpu_benches(op, n);
  switch (op) {
    case RP_OP_gemm: LIST(products);
    case RP_OP_head_loss: LIST(loss);
    case RP_OP_pick: LIST(picks);
    case RP_OP_gate:
    case RP_OP_gate_bwd: LIST(gates);
    case RP_OP_attend: LIST(forward);
    case RP_OP_attend_bwd: LIST(backward);
    default: LIST(usual);
  }
}

unsigned rp_case_bench_by(rp_op op) {
  const unsigned rows = RP_CASE_BY_TOKENS | RP_CASE_BY_WIDTH, heads = rows | RP_CASE_BY_HEADS;
  switch (op) {
    case RP_OP_zero:
    case RP_OP_copy:
    case RP_OP_cast:
    case RP_OP_table:
    case RP_OP_sumsq:
    case RP_OP_clip:
    case RP_OP_optim: return 0;
    case RP_OP_take: return RP_CASE_BY_WIDTH;
    case RP_OP_rope:
    case RP_OP_gate:
    case RP_OP_gate_bwd: return heads;
    case RP_OP_append:
    case RP_OP_attend:
    case RP_OP_attend_bwd: return heads | RP_CASE_BY_PATTERN;
    default: return rows;
  }
}
