/* trainer.h - what one rank computes: a model with gradients, optimizer and data on one device.
 *
 * With a communicator the ranks compute one step together: each serves its shares of the data, and
 * gradients, losses and norms are summed over all. It knows iterations, not runs: no files but those
 * it loads from and saves to. One thread's. */
#ifndef RP_TRAIN_TRAINER_H
#define RP_TRAIN_TRAINER_H

#include <signal.h>

#include "data/loader.h"
#include "model/net.h"
#include "model/spread.h"
#include "train/checkpoint.h"
#include "train/optimizer.h"

typedef struct {
  const rp_settings *s; /* borrowed */
  rp_device *dev;
  rp_queue *q;
  rp_params params;
  rp_optimizer opt;
  rp_net *net;
  rp_weights weights;
  rp_comm *comm;     /* borrowed; NULL: alone */
  rp_spread *spread; /* NULL: alone */
  int rank, ranks;
  int plan;                 /* of the configured pattern */
  int shards, per_share;    /* of all ranks; micro-batches of a share in an iteration */
  int own, accum;           /* shares of this rank; its micro-batches: own * per_share */
  rp_loader **train, **val; /* [own]; val NULL entries never */
  int64_t S;                /* iterations of the run */
  int64_t micro_batches;    /* served by each share */
  int32_t *ids, *labels;    /* host, one micro-batch [batch, T] */
  rp_ptr dids, dlabels;     /* [accum][batch, T] */
  rp_ptr loss;              /* rp_loss [2] */
  rp_loss mine[2];          /* this rank's own of the last iteration */
  bool steady;              /* from the second iteration on: a debug build lets no step allocate */
  bool late; /* the device keeps its ops for later, in memory of its own: steps allocate */
} rp_trainer;

/* One optimizer step as the host sees it. */
typedef struct {
  double loss, norm;
  bool skipped;
} rp_pass_result;
typedef struct {
  int passes; /* 1, or 2: sparse first, then dense */
  rp_pass_result pass[2];
  int64_t skipped; /* in all, so far */
  int32_t in_a_row;
  double waited; /* seconds that this rank waited for others' data */
} rp_step_result;

/* Everything allocated, data opened; weights zero. shards: a multiple of the ranks. comm NULL: one
 * rank. */
rp_status rp_trainer_open(rp_trainer *t, const rp_settings *s, rp_device_kind kind, int shards,
                          rp_comm *comm, rp_error *err);
void rp_trainer_close(rp_trainer *t); /* {0} is fine */

/* One iteration at rate lr: with joint_train the sparse step, then the dense step, on the same
 * micro-batches; else one step in the configured pattern. Waits at its end. */
rp_status rp_trainer_step(rp_trainer *t, double lr, rp_step_result *r, rp_error *err);
/* Where the data of the last iteration began: "tokens 123 of FILE", for reports. */
void rp_trainer_data_at(const rp_trainer *t, char *out, size_t cap);

/* Token-weighted loss over what the val loaders yield, from their start, in the configured pattern
 * and, with joint_train, dense (else NaN). stop: polled between micro-batches, on all ranks; then
 * *stopped and no losses. progress(ctx, done, of); NULL is fine. */
typedef void (*rp_val_progress)(void *ctx, int64_t done, int64_t of);
rp_status rp_trainer_validate(rp_trainer *t, const volatile sig_atomic_t *stop,
                              rp_val_progress progress, void *ctx, double *val, double *dense,
                              bool *stopped, rp_error *err);

/* Initial weights of trainer.seed, or those of a store's path. */
rp_status rp_trainer_init(rp_trainer *t, rp_error *err);
rp_status rp_trainer_load_weights(rp_trainer *t, const char *path, rp_error *err);
/* Weights, optimizer, counters and data position of a checkpoint folder. */
rp_status rp_trainer_resume(rp_trainer *t, const char *dir, const rp_loop_state *st, rp_error *err);
/* model.safetensors and optimizer.safetensors into the folder: this rank's files of them; when all
 * ranks have written theirs, one writes the indices. */
rp_status rp_trainer_write(rp_trainer *t, const char *dir, rp_error *err);
rp_status rp_trainer_write_index(rp_trainer *t, const char *dir, rp_error *err);
/* Counters of the device into the state. */
rp_status rp_trainer_state(rp_trainer *t, rp_loop_state *st, rp_error *err);

/* trainer.device (or the option over it) and the machine: which device; RP_USAGE for cuda. */
rp_status rp_trainer_device(const char *name, rp_device_kind *kind, rp_error *err);
/* FLOPs of one iteration: all its passes, backward twice the forward. */
double rp_trainer_flops(const rp_settings *s, int64_t micro_batches);
/* FLOP/s of a product in the run's dtype, measured now in about 0.2 s; 0 when it cannot be. */
double rp_trainer_product_rate(rp_device_kind kind, rp_dtype dtype);

#endif
