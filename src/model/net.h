/* net.h - the network: one forward and one explicit backward over units, for any device.
 *
 * A net owns activations and the plans (patterns) it was given; weights are arguments. Everything it
 * does is put on its queue; nothing here waits but rp_net_open. One thread's at a time. */
#ifndef RP_MODEL_NET_H
#define RP_MODEL_NET_H

#include "model/params.h"

typedef struct rp_net rp_net;

typedef struct {
  int batch, T;   /* sequences of a call and tokens of each, at most */
  rp_dtype dtype; /* RP_F32 (real of the device) or RP_BF16 */
  bool train;     /* keeps what backward reads */
  bool recompute; /* keeps only each layer's input and makes the rest again in backward */
  /* Inference over caches (rp_net_run): batch is 1, T the most tokens of a call. */
  bool infer;
} rp_net_opts;

/* Bytes by group, without allocating (spec: `info` tells before a run starts). */
typedef struct {
  size_t acts;    /* what forward keeps for backward */
  size_t tmp;     /* the net's own work buffers */
  size_t scratch; /* the queue's scratch, largest op */
  size_t tables;  /* RoPE, rows, plans */
} rp_net_bytes;
rp_status rp_net_plan(const rp_device *d, const rp_model_settings *m, const rp_net_opts *o,
                      rp_net_bytes *out, rp_error *err);

rp_status rp_net_open(rp_net **net, rp_queue *q, const rp_model_settings *m, const rp_net_opts *o,
                      rp_error *err);
void rp_net_close(rp_net *net); /* NULL is fine; the queue must be idle */

/* Adds a pattern for all layers; *plan is its number. Plan 0 is dense and always there. */
rp_status rp_net_add_plan(rp_net *net, const rp_pats *pats, int *plan, rp_error *err);
enum { RP_NET_PLANS = 64 }; /* the most there can be */
/* Plan `plan`, added before, becomes another pattern; no call that uses it may be under way. */
rp_status rp_net_set_plan(rp_net *net, int plan, const rp_pats *pats, rp_error *err);

/* One micro-batch: forward, loss, and with grad backward. ids and labels: int32 [batch, T] on the
 * device. loss: rp_loss on the device, added to. */
typedef struct {
  int batch, T, plan;
  bool grad;
  double weight; /* of this micro-batch's mean loss: 1 / accumulation */
  rp_ptr ids, labels, loss;
} rp_pass;
rp_status rp_net_pass(rp_net *net, const rp_weights *w, const rp_pass *p, rp_error *err);

/* Forward only, then pick (rp_pick_args): lse, logit of wanted[batch,T], best for every position;
 * any output may be none. */
typedef struct {
  int batch, T, plan;
  rp_ptr ids, wanted, lse, logit, best;
} rp_net_pick;
rp_status rp_net_score(rp_net *net, const rp_weights *w, const rp_net_pick *p, rp_error *err);

/* What is taken from the logits of some tokens of a call; outputs as in rp_pick_args, none: not. */
typedef struct {
  int n; /* tokens; 0: nothing */
  rp_ptr ids, lse, logit, best, logits;
} rp_take_logits;
/* New tokens of any sessions over their caches, for a net opened with infer. All pointers are on the
 * device. at: int32 [picks[0].n + picks[1].n], which tokens of the call the picks are of. */
typedef struct {
  rp_rows rows; /* positions, plans and cells as rp_row says */
  rp_ptr ids;   /* int32 [rows.tokens] */
  rp_ptr at;
  rp_take_logits picks[2];
  rp_kv kv; /* layer is the net's to set */
} rp_net_call;
rp_status rp_net_run(rp_net *net, const rp_weights *w, const rp_net_call *call, rp_error *err);
/* Scratch of the largest call of exactly n tokens that the queue must have reserved. */
rp_status rp_net_run_scratch(rp_net *net, int n, size_t *bytes, rp_error *err);

/* Forward only: the final normed rows [batch*T, d] (compute), valid until the next call; times the
 * head they are the logits. For tests. */
rp_status rp_net_hidden(rp_net *net, const rp_weights *w, int batch, int T, int plan, rp_ptr ids,
                        rp_tensor *x, rp_error *err);

#endif
