/* rundir.h - the run directory: whose run lies there, and how far it is.
 *
 * Files of ours in RUN: config.yaml (identity), status.json, metrics.jsonl, event files, lock,
 * checkpoints/. Everything is replaced atomically. */
#ifndef RP_TRAIN_RUNDIR_H
#define RP_TRAIN_RUNDIR_H

#include "config/settings.h"

/* status.json. */
typedef struct {
  char state[16]; /* running, stopped, finished, failed */
  int64_t step, of;
  double val_loss, val_loss_dense;       /* NaN: none */
  double seconds_per_step, save_seconds; /* of one iteration, of the last checkpoint; NaN */
} rp_run_status;
rp_run_status rp_run_status_none(const char *state);
/* Not durable by itself: the checkpoint is the truth, this is for scripts. error NULL: none. */
rp_status rp_run_status_write(const char *run_dir, const rp_run_status *s, const char *error,
                              rp_error *err);
/* RP_BAD_DATA when there is none or it is no status; s->state is then "". */
rp_status rp_run_status_read(const char *run_dir, rp_run_status *s, rp_error *err);

typedef enum {
  RP_RUN_NEW,      /* nothing there */
  RP_RUN_SAME,     /* the same configuration, not finished */
  RP_RUN_FINISHED, /* the same configuration, finished */
  RP_RUN_DIFFERENT /* another configuration */
} rp_run_kind;
/* Compares c with RUN/config.yaml. *diff: the differing keys, one a line (free with rp_free), NULL
 * unless DIFFERENT. */
rp_status rp_run_look(const char *run_dir, const rp_config *c, rp_run_kind *kind, char **diff,
                      rp_error *err);
/* The error for a different run in the same place: names run_dir= first, then --overwrite. */
rp_status rp_run_differs(const char *run_dir, const char *diff, rp_error *err);
/* Renames RUN to RUN.old-N (the first N from 1 that is free) and makes RUN anew, empty; *moved is
 * the new name (free with rp_free). */
rp_status rp_run_move_away(const char *run_dir, char **moved, rp_error *err);

#endif
