/* cost.h - what a model and a pattern cost, counted from the definition: the numbers that info, the
 * planner, the benchmarks and the progress line quote. Pure.
 *
 * Operations are floating point operations, a multiply-add is 2; attention counts the two products
 * of each (query head, query, key) that the pattern shows, 4h. */
#ifndef RP_MODEL_COST_H
#define RP_MODEL_COST_H

#include "config/settings.h"

/* One forward pass, by part (model.md 2): linear layers, attention, logits. Backward is twice the
 * forward. */
typedef struct {
  double products, attention, head;
} rp_flops;
/* Of `batch` sequences of T tokens, logits of every token. */
rp_flops rp_cost_flops(const rp_model_settings *m, const rp_pats *pats, int64_t batch, int64_t T);
/* Of the one step that makes a sequence T tokens long. */
rp_flops rp_cost_step(const rp_model_settings *m, const rp_pats *pats, int64_t T);

/* Sums over the kv heads of one layer, or of the whole model. Whole numbers, exact below 2^53. */
typedef struct {
  double heads;                   /* kv heads summed over */
  double pairs;                   /* (query, key) pairs of T tokens */
  double initial, local, dilated; /* keys that the last query sees, by the set they count in */
  double keys;                    /* their sum */
  double kept, ring;              /* entries of a cache's two lists after T tokens (count.h) */
  double blocks;                  /* blocks of RP_KV_BLOCK entries that hold them */
} rp_seen;
/* With rollback margin R; layer -1: all of them. */
rp_seen rp_cost_seen(const rp_pats *pats, int layer, int64_t T, int64_t R);

/* Bytes of one entry of one kv head, K and V. A block is RP_KV_BLOCK of them. */
double rp_cost_entry(const rp_model_settings *m, rp_dtype dtype);
/* Bytes of the whole model's key-value cache after T tokens (model.md 4), keys and values in `dtype`,
 * without the recurrence state and without what blocks leave empty. */
double rp_cost_cache(const rp_model_settings *m, const rp_pats *pats, int64_t T, rp_dtype dtype);
/* Bytes of the blocks that hold them, at rollback margin R: what an engine's pool gives. */
double rp_cost_blocks(const rp_model_settings *m, const rp_pats *pats, int64_t T, int64_t R,
                      rp_dtype dtype);
/* Bytes of the recurrence states of one sequence: k and v, float32, every layer, the last R + 1. */
double rp_cost_state(const rp_model_settings *m, int64_t R);

#endif
