/* checkpoint.h - RUN/checkpoints: written beside, synced, renamed; `latest` moves last.
 *
 * A folder step-NNNNNNNN is whole whenever it is visible. It is a model directory (config.yaml,
 * model.safetensors, tokenizer.model) plus optimizer.safetensors and state.json. What fills it is the
 * caller's callback, so that this module knows nothing of models. The run's lock must be held. */
#ifndef RP_TRAIN_CHECKPOINT_H
#define RP_TRAIN_CHECKPOINT_H

#include "base/str.h"

/* Where the loop stands: state.json. A checkpoint converted from a .pth says step and adam_step only;
 * the rest then reads as unknown: -1, and 0 for shards, threads and the skipped counts. */
typedef struct {
  int64_t step, of;      /* iterations done; of all */
  int64_t tokens;        /* read since step 0 */
  int64_t micro_batches; /* served by each share since step 0 */
  int64_t adam_step;     /* optimizer steps taken */
  int64_t skipped;       /* optimizer steps skipped */
  int32_t in_a_row;      /* skipped since the last good one */
  int32_t shards, threads, ranks;
  char cpu[96];                    /* processor and kernel level: bits may differ on others */
  double seconds;                  /* of training */
  double val_loss, val_loss_dense; /* of the last validation; NaN: none */
  int64_t val_step;                /* iterations done at that validation; -1: none */
} rp_loop_state;
rp_status rp_loop_state_write(const char *path, const rp_loop_state *s, rp_error *err);
rp_status rp_loop_state_read(const char *path, rp_loop_state *s, rp_error *err);

/* Fills the (existing, empty) folder. Files must be durable when it returns. */
typedef rp_status (*rp_checkpoint_fill)(void *ctx, const char *dir, rp_error *err);

/* Writes RUN/checkpoints/step-NNNNNNNN and moves `latest`. On failure nothing of it is visible and the
 * former checkpoint is whole. A checkpoint of this step that `latest` already names is left alone. */
rp_status rp_checkpoint_save(const char *run_dir, int64_t step, rp_checkpoint_fill fill, void *ctx,
                             rp_error *err);
/* Folder of the latest whole checkpoint (free with rp_free), NULL in *dir when there is none. A
 * `latest` that leads nowhere falls back on the newest folder. */
rp_status rp_checkpoint_latest(const char *run_dir, char **dir, rp_error *err);
/* Removes temporaries of saves that were interrupted. */
void rp_checkpoint_clean(const char *run_dir);

/* Which checkpoints stay: the `last` newest (0: all) of the regular ones, those whose step is a
 * multiple of `every` (0: none), and always the latest. A checkpoint is regular when its step is a
 * multiple of `interval` or equals `of`; of others (saved by the clock or at a signal) only the
 * newest of all checkpoints stays. */
typedef struct {
  int64_t interval, of;
  int last, every;
} rp_checkpoint_keep;
void rp_checkpoint_prune(const char *run_dir, const rp_checkpoint_keep *k);

/* Folder name of a step: "step-00000042". */
void rp_checkpoint_name(char out[32], int64_t step);
/* Step of such a name; -1 when it is none. */
int64_t rp_checkpoint_step(const char *name);

#endif
