/* training.h - one start of a run, from the lock to the last line: what run.c (starting, resuming,
 * ending) and loop.c (iterations) share. One thread's. */
#ifndef RP_TRAIN_TRAINING_H
#define RP_TRAIN_TRAINING_H

#include "ratplus/train.h"
#include "train/events.h"
#include "train/lock.h"
#include "train/metrics.h"
#include "train/rundir.h"
#include "train/text_sample.h"
#include "train/together.h"
#include "train/trainer.h"

/* What tests steer. */
typedef struct {
  int device;   /* an rp_device_kind over the configuration's; -1: the configuration's */
  bool no_rate; /* do not measure the product rate (no mfu) */
  /* Called before (after = false) and after each iteration. */
  void (*step)(void *ctx, rp_trainer *t, int64_t step, bool after);
  void *ctx;
} rp_train_inner;

typedef struct {
  const rp_config *c;
  const rp_train_opts *o;
  const rp_train_inner *in;
  rp_settings s;
  rp_device_kind kind;
  rp_comm *comm; /* NULL: alone. Files, metrics and news are rank 0's */
  int rank, ranks;
  void *reports; /* rp_together_bytes */
  rp_trainer t;
  rp_lock lock;
  rp_metrics_file metrics;
  rp_events *events; /* NULL when the file could not be made: training goes on without */
  rp_loop_state state;
  bool resumed;
  char *config_text; /* config.yaml */
  char *tokenizer;   /* bytes of tokenizer.model; NULL: none */
  size_t tokenizer_bytes;
  rp_text_sample *sample;         /* NULL: none is asked for, or possible */
  double rate, flops;             /* product rate (0: unknown), FLOPs of an iteration */
  double began, before;           /* rp_now() at the loop's start; seconds of former starts */
  double last_save;               /* rp_now() */
  double save_seconds;            /* what the last save took; NaN */
  double step_seconds;            /* smoothed time of an iteration; NaN */
  bool save_failed, write_failed; /* warned already */
  bool asked;                     /* some rank was asked to stop */
  bool clock;                     /* rank 0's time to save has come */
  bool saved;                     /* a checkpoint of state.step is on disk */
} rp_training;

/* The iterations from state.step on, validation, metrics, checkpoints. RP_STOPPED when asked to. */
rp_status rp_training_loop(rp_training *r, rp_error *err);
/* Reports to the caller; fields not given are NaN. */
rp_train_event rp_training_event(const rp_training *r, rp_train_kind kind);
void rp_training_tell(const rp_training *r, const rp_train_event *e);
/* status.json with the run's numbers; error NULL: none. Never fails the run. */
void rp_training_status(rp_training *r, const char *state, const char *error);

/* rp_train with what tests steer. inner NULL: nothing. */
rp_status rp_train_with(const rp_config *c, const rp_train_opts *opts, const rp_train_inner *inner,
                        rp_train_result *result, rp_error *err);

#endif
