/* params.h - the weights of one model on one device: flat buffers, initial values, loading, and the
 * hooks through which a net asks for a unit's tensors.
 *
 * Masters are `real`: one flat buffer of matrices, one of vectors (rp_shape's offsets, or a rank's
 * part of them). In bfloat16 a
 * rounded copy of the matrices is what products read. Gradients mirror the masters. One thread's. */
#ifndef RP_MODEL_PARAMS_H
#define RP_MODEL_PARAMS_H

#include "model/layout.h"
#include "model/store.h"
#include "ops/ops.h"

/* What a net asks of whoever holds the weights (one rank, or a sharded group). Units: 0 embedding,
 * 1..N layers, N+1 last norm and untied head. Tensors come by slot (RP_SLOT_*), absent ones none. For
 * unit 0 need gives two: the table as products read it, and the table as the lookup reads it.
 * The pointers hold until done (or the next call for that unit). */
typedef struct {
  void *ctx;
  rp_status (*need)(void *ctx, rp_queue *q, int unit, const rp_tensor **w, rp_error *err);
  void (*done)(void *ctx, rp_queue *q, int unit);
  /* Gradient tensors (real), added to. */
  rp_status (*grad)(void *ctx, rp_queue *q, int unit, const rp_tensor **g, rp_error *err);
  /* No further work of this pass adds to the unit's gradients. */
  void (*grad_ready)(void *ctx, rp_queue *q, int unit);
} rp_weights;

typedef struct {
  rp_device *dev;
  rp_queue *q;
  rp_model_settings m; /* borrowed pats */
  rp_shape shape;
  rp_layout lay;     /* what of it is here */
  rp_dtype compute;  /* real of the device, or RP_BF16 */
  rp_tensor p[2];    /* masters, by rp_group: [lay.local[group]] */
  rp_tensor g[2];    /* gradients, real; none when not training */
  rp_tensor copy;    /* matrices in compute; none when compute is real */
  rp_tensor *slots;  /* [units][RP_SLOTS] what need returns; of a part: not used */
  rp_tensor *gslots; /* [units][RP_SLOTS] what grad returns */
} rp_params;

/* Allocates (zeroed). dtype: RP_F32 or RP_BF16, the run's. q and m's contents stay the caller's. */
rp_status rp_params_open(rp_params *p, rp_queue *q, const rp_model_settings *m, rp_dtype dtype,
                         bool train, rp_error *err);
/* The same, of which this rank keeps its part alone (layout.h). */
rp_status rp_params_open_part(rp_params *p, rp_queue *q, const rp_model_settings *m, rp_dtype dtype,
                              bool train, int rank, int ranks, rp_error *err);
void rp_params_close(rp_params *p); /* {0} is fine */
/* Bytes by group for these settings, without allocating: masters, copy, gradients. */
typedef struct {
  size_t masters, copy, grads;
} rp_params_bytes;
rp_params_bytes rp_params_plan(const rp_layout *l, rp_dtype real, rp_dtype dtype, bool train);

/* Initial values by role and settings (model.md 1): Philox of (seed, tensor index, element). */
rp_status rp_params_init(rp_params *p, uint64_t seed, rp_error *err);
/* The same whose numbers repeat themselves, made where the weights are: for benchmarks. */
rp_status rp_params_rough(rp_params *p, uint64_t seed, rp_error *err);
/* From a store that passed rp_store_check. */
rp_status rp_params_load(rp_params *p, const rp_store *s, rp_error *err);
/* One logical tensor in C order to or from the host; n = rows * cols elements, of which only this
 * rank's piece is looked at. Masters. */
rp_status rp_params_get(rp_params *p, const rp_param *t, float *out, rp_error *err);
rp_status rp_params_set(rp_params *p, const rp_param *t, const float *in, rp_error *err);
/* The same in double, for tests on ref64; which: 0 masters, 1 gradients. */
rp_status rp_params_get_f64(rp_params *p, int which, const rp_param *t, double *out, rp_error *err);
rp_status rp_params_set_f64(rp_params *p, const rp_param *t, const double *in, rp_error *err);
/* Puts the rounding of all matrices to `copy` on the queue (after set/init/load/optim). */
void rp_params_round(rp_params *p);
/* Puts zeroing of all gradients on the queue. */
void rp_params_zero_grads(rp_params *p);
/* rp_pull for writers, of the masters: ctx is the rp_params. */
rp_status rp_params_pull(void *ctx, const rp_param *t, rp_dtype dtype, void *out, rp_error *err);
/* This rank's piece of tensor t in one of the buffers laid out as the masters. */
rp_tensor rp_params_piece(const rp_params *p, const rp_tensor group[2], const rp_param *t,
                          rp_piece *piece);
/* Hooks of one rank that keeps everything: ctx is the rp_params. */
rp_weights rp_params_weights(rp_params *p);

#endif
