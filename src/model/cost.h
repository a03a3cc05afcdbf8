/* cost.h - what a model and a pattern cost, counted from the definition: the numbers that info, the
 * benchmarks and the progress line quote. Pure. */
#ifndef RP_MODEL_COST_H
#define RP_MODEL_COST_H

#include "config/settings.h"

/* Floating point operations of one forward pass over `batch` sequences of T, by part (model.md 2; a
 * multiply-add is 2): linear layers, attention over the pairs the pattern sees, logits. Backward is
 * twice the forward. */
typedef struct {
  double products, attention, head;
} rp_flops;
rp_flops rp_cost_flops(const rp_model_settings *m, const rp_pats *pats, int64_t batch, int64_t T);

/* Bytes of the whole model's key-value cache after T tokens (model.md 4), keys and values in `dtype`,
 * without the recurrence state. */
double rp_cost_cache(const rp_model_settings *m, const rp_pats *pats, int64_t T, rp_dtype dtype);
/* Bytes of the recurrence states of one sequence: k and v, float32, every layer. */
double rp_cost_state(const rp_model_settings *m);

#endif
