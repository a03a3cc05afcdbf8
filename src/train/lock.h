/* lock.h - one writer per run directory.
 *
 * RUN/lock holds host, process and job of the holder and is locked with flock while it lives, so that
 * a holder that died on this machine leaves nothing behind that matters. A holder on another machine
 * cannot be asked whether it lives; only `take_over` breaks its lock. */
#ifndef RP_TRAIN_LOCK_H
#define RP_TRAIN_LOCK_H

#include "base/str.h"

typedef struct {
  int fd; /* -1: not held */
  char *path;
} rp_lock;

/* RP_USAGE names the holder. job NULL: none. */
rp_status rp_lock_take(rp_lock *l, const char *run_dir, const char *job, bool take_over,
                       rp_error *err);
/* Removes the file. {.fd = -1} and {0} are fine. */
void rp_lock_drop(rp_lock *l);
/* After the run directory was renamed, its new place. */
rp_status rp_lock_moved(rp_lock *l, const char *run_dir, rp_error *err);
/* "host H, process P, job J" of RUN/lock, "" when nobody holds it. */
void rp_lock_holder(const char *run_dir, char *out, size_t cap);

#endif
