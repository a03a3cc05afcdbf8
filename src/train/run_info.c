/* run_info.c - what a run directory tells about its run. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "ratplus/train.h"
#include "train/checkpoint.h"
#include "train/lock.h"
#include "train/metrics.h"
#include "train/rundir.h"

int rp_run_is(const char *dir) {
  bool is = false;
  static const char *const marks[] = {"status.json", "metrics.jsonl", "checkpoints"};
  for (int i = 0; i < 3 && !is; i++) {
    char *path = rp_path_join(dir, marks[i]);
    is = path && rp_exists(path);
    rp_free(path);
  }
  return is;
}

static void take_metrics(const rp_metrics *m, size_t n, rp_run_info *out) {
  for (size_t i = 0; i < n; i++) {
    if (isfinite(m[i].train_loss)) out->train_loss = m[i].train_loss;
    if (isfinite(m[i].tokens_per_second)) out->tokens_per_second = m[i].tokens_per_second;
    if (isfinite(m[i].val_loss)) out->val_loss = m[i].val_loss;
    if (isfinite(m[i].val_loss_dense)) out->val_loss_dense = m[i].val_loss_dense;
    if (m[i].skipped > out->skipped) out->skipped = m[i].skipped;
    if (out->step < m[i].step + 1) out->step = m[i].step + 1;
  }
}

static void take_status(const char *dir, rp_run_info *out) {
  rp_run_status s;
  if (rp_run_status_read(dir, &s, NULL)) return;
  rp_snprintf(out->state, sizeof out->state, "%s", s.state);
  out->step = s.step;
  out->of = s.of;
  if (isfinite(s.val_loss)) out->val_loss = s.val_loss;
  if (isfinite(s.val_loss_dense)) out->val_loss_dense = s.val_loss_dense;
  out->seconds_per_step = s.seconds_per_step;
  out->save_seconds = s.save_seconds;
}

static rp_status take_checkpoint(const char *dir, rp_run_info *out, rp_error *err) {
  char *latest = NULL;
  RP_TRY(rp_checkpoint_latest(dir, &latest, err));
  if (latest) out->checkpoint = rp_checkpoint_step(strrchr(latest, '/') + 1);
  rp_free(latest);
  return RP_OK;
}

rp_status rp_run_read(const char *dir, rp_run_info *out, rp_error *err) {
  rp_metrics *m = NULL;
  size_t n = 0;
  *out = (rp_run_info){.state = "unknown",
                       .checkpoint = -1,
                       .val_loss = NAN,
                       .val_loss_dense = NAN,
                       .train_loss = NAN,
                       .tokens_per_second = NAN,
                       .seconds_per_step = NAN,
                       .save_seconds = NAN};
  rp_snprintf(out->dir, sizeof out->dir, "%s", dir);
  if (!rp_run_is(dir))
    return rp_fail(err, RP_BAD_DATA,
                   "%s: is no run directory (it has no status.json, "
                   "metrics.jsonl or checkpoints)",
                   dir);
  RP_TRY(rp_metrics_read(dir, &m, &n, err));
  take_metrics(m, n, out);
  rp_free(m);
  take_status(dir, out);
  RP_TRY(take_checkpoint(dir, out, err));
  rp_lock_holder(dir, out->holder, sizeof out->holder);
  /* Killed: it says running, but nobody holds it. */
  if (strcmp(out->state, "running") == 0 && !out->holder[0])
    rp_snprintf(out->state, sizeof out->state, "interrupted");
  return RP_OK;
}
