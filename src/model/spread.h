/* spread.h - the weights of one model over several ranks: the hooks through which a net's units are
 * gathered ahead of use, and their gradients reduced as soon as a unit's backward has ended.
 *
 * NO_SHARD: every rank keeps everything, gradients are summed in the last micro-batch of a step.
 * SHARD_GRAD_OP: parameters, gradients and moments are kept in parts; a pass gathers each unit once.
 * FULL_SHARD: the same, but layers share two buffers, so that backward gathers all but the last two
 * again. Buffers are gathered in the computed dtype, vectors and the embedding (whose lookup reads the
 * masters) in float32. All ranks put the same work in the same order. One thread's. */
#ifndef RP_MODEL_SPREAD_H
#define RP_MODEL_SPREAD_H

#include "dist/comm.h"
#include "model/params.h"

typedef struct rp_spread rp_spread;

/* p: whole for NO_SHARD, else opened as this rank's part. Both stay the caller's. train: gradients
 * too. */
rp_status rp_spread_open(rp_spread **s, rp_params *p, rp_comm *c, rp_shard how, bool train,
                         rp_error *err);
void rp_spread_close(rp_spread *s); /* NULL is fine; waits for what the communicator still does */
rp_weights rp_spread_weights(rp_spread *s);
bool rp_shard_parts(rp_shard how); /* whether a rank keeps parts */

/* Before a micro-batch: whether it is the step's last. */
void rp_spread_last(rp_spread *s, bool last);
/* After it: puts waiting for all reductions on the queue. */
void rp_spread_finish(rp_spread *s);
/* rp_optimizer's sum: ctx is the spread. */
void rp_spread_sum(void *ctx, rp_queue *q, rp_ptr sums, int n);

/* A source of whole tensors (rp_pull) from buffers laid out as the masters, which every rank must ask
 * for the same tensors in the same order; out NULL: only takes part. Between steps; it uses the
 * gradients' buffers. */
typedef struct {
  rp_spread *s; /* NULL: one rank */
  const rp_params *p;
  const rp_tensor *group; /* [2] */
  int unit;               /* gathered now; -1 at first */
} rp_spread_source;
rp_status rp_spread_pull(void *ctx, const rp_param *t, rp_dtype dtype, void *out, rp_error *err);

/* Bytes of the buffers above, and what a pass sends from one rank on average, by kind. */
typedef struct {
  size_t gathered, grads;
} rp_spread_bytes;
rp_spread_bytes rp_spread_plan(const rp_shape *s, const rp_layout *l, rp_shard how, rp_dtype real,
                               rp_dtype dtype, bool train);
/* One micro-batch, with grad backward too; last: of its step. Adds to bytes[RP_COMM_KINDS] and
 * counts collectives. */
void rp_spread_traffic(const rp_layout *l, const rp_shape *s, rp_shard how, int ranks,
                       rp_dtype real, rp_dtype dtype, bool grad, bool last,
                       double bytes[RP_COMM_KINDS], int64_t *collectives);

#endif
