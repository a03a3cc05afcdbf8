/* optimizer.h - optimizer state of one model on one device, and the step that uses it.
 *
 * Moments are `real`, laid out as the masters. The counters (rp_ctl) live on the device: norm, clip
 * factor, skip flag and Adam's step are made and read there. One thread's. */
#ifndef RP_TRAIN_OPTIMIZER_H
#define RP_TRAIN_OPTIMIZER_H

#include "model/params.h"

typedef struct {
  rp_params *p; /* borrowed */
  rp_optim_settings o;
  double clip;          /* 0: off */
  int ranges;           /* tensors */
  rp_ptr range;         /* rp_range [ranges] */
  rp_ptr sums;          /* double [ranges] */
  rp_ptr ctl;           /* rp_ctl */
  rp_tensor m[2], v[2]; /* by rp_group; SGD: m is the momentum buffer, v none */
  /* Puts the sum over ranks of n doubles (the squares of a part's tensors) on the queue; NULL: the
   * gradients are whole here. */
  void (*sum)(void *ctx, rp_queue *q, rp_ptr sums, int n);
  void *sum_ctx;
} rp_optimizer;

/* Allocates zeroed moments and the range table. The parameters must have gradients. */
rp_status rp_optimizer_open(rp_optimizer *o, rp_params *p, const rp_optim_settings *s, double clip,
                            rp_error *err);
void rp_optimizer_close(rp_optimizer *o); /* {0} is fine */
/* Bytes of the moments, without allocating. */
size_t rp_optimizer_plan(const rp_layout *l, rp_dtype real, rp_opt_name name);

/* Puts one step at rate lr on the queue: norms per tensor and then in tensor order, clip, update,
 * rounding; gradients are 0 afterwards. loss: rp_loss of the pass, on the device. */
void rp_optimizer_step(rp_optimizer *o, double lr, rp_ptr loss);

/* Moments as files know them: "exp_avg", "exp_avg_sq" or "momentum_buffer"; count 2 or 1. */
int rp_optimizer_moments(const rp_optimizer *o);
const char *rp_optimizer_moment_name(const rp_optimizer *o, int which);
/* Its buffers by rp_group, laid out as the masters. */
rp_tensor *rp_optimizer_moment(rp_optimizer *o, int which);
/* One logical tensor of moment `which`, float32 in C order; this rank's piece of it. */
rp_status rp_optimizer_get(rp_optimizer *o, int which, const rp_param *t, float *out,
                           rp_error *err);
rp_status rp_optimizer_set(rp_optimizer *o, int which, const rp_param *t, const float *in,
                           rp_error *err);
rp_status rp_optimizer_ctl_get(rp_optimizer *o, rp_ctl *ctl, rp_error *err);
rp_status rp_optimizer_ctl_set(rp_optimizer *o, const rp_ctl *ctl, rp_error *err);

/* Reads all moments from a store that carries them (RP_BAD_DATA names the tensor it lacks). */
rp_status rp_optimizer_read(rp_optimizer *o, const rp_store *s, rp_error *err);

#endif
