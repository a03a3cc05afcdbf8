/* head.h - kernels of head.cu: rows of logits become losses, gradients and picks. */
#ifndef RP_OPS_CUDA_KERNEL_HEAD_H
#define RP_OPS_CUDA_KERNEL_HEAD_H

#include "ops/ops.h"

enum {
  RP_HEAD_THREADS = 1024,
  RP_HEAD_VECTORS = 8, /* of 4 logits that a thread of head_rows_held keeps */
  RP_HEAD_HELD = RP_HEAD_THREADS * RP_HEAD_VECTORS * 4, /* logits of a row that a block keeps */
  RP_HEAD_IGNORED = -100
};

/* How many labels count, and what the gradient of a loss is multiplied by: weight / labels. */
typedef struct {
  double scale;
  int64_t labels;
} rp_head_share;

/* share of labels[n]; a label outside the vocabulary stops the device. One block. */
typedef struct {
  int32_t n, V;
  double weight;
  rp_ptr labels, share;
} rp_head_labels_args;

/* Of a chunk, a block a row: loss[row] double, and with grad the row's gradient of `dtype` in the place of
 * its logits. logits [rows][ld], 16-byte aligned, ld a multiple of 4: a gradient in bfloat16 is [rows][2 ld].
 * Columns between V and ld hold anything. held: V is at most RP_HEAD_HELD. */
typedef struct {
  int32_t V, grad;
  int64_t ld;
  rp_tensor logits; /* dtype is the gradient's */
  rp_ptr labels, loss, share;
} rp_head_rows_args;

/* Adds n losses in a fixed order to an rp_loss. One block. */
typedef struct {
  int32_t n;
  double weight;
  rp_ptr loss, share, to;
} rp_head_total_args;

/* Picks of rows of logits [rows][ld], a block a row; any output may be none. wide: rows are 16-byte aligned. */
typedef struct {
  int32_t V, wide;
  int64_t ld;
  rp_ptr logits, ids, lse, logit, best;
} rp_pick_rows_args;

#define RP_CUDA_HEAD_KERNELS(X) \
  X(head_labels) X(head_rows_held) X(head_rows) X(head_total) X(pick_rows)

#endif
