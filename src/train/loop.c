/* loop.c - iterations of a run: steps, validation, metrics, checkpoints, stopping. */
#include <math.h>
#include <string.h>

#include "base/cpu.h"
#include "base/log.h"
#include "train/schedule.h"
#include "train/training.h"

enum { MOST_IN_A_ROW = 10 };

/* ---- telling ---- */

rp_train_event rp_training_event(const rp_training *r, rp_train_kind kind) {
  return (rp_train_event){.kind = kind,
                          .step = r->state.step,
                          .of = r->t.S,
                          .tokens = r->state.tokens,
                          .train_loss = NAN,
                          .train_loss1 = NAN,
                          .val_loss = NAN,
                          .val_loss_dense = NAN,
                          .lr = NAN,
                          .grad_norm = NAN,
                          .grad_norm1 = NAN,
                          .tokens_per_second = NAN,
                          .mfu = NAN,
                          .seconds = NAN,
                          .left = NAN,
                          .skipped = r->state.skipped,
                          .run_dir = r->s.trainer.run_dir};
}

void rp_training_tell(const rp_training *r, const rp_train_event *e) {
  if (r->o->event) r->o->event(r->o->ctx, e);
}

void rp_training_status(rp_training *r, const char *state, const char *error) {
  rp_run_status s = rp_run_status_none(state);
  s.step = r->state.step;
  s.of = r->t.q ? r->t.S : r->state.of;
  s.val_loss = r->state.val_loss;
  s.val_loss_dense = r->state.val_loss_dense;
  s.seconds_per_step = r->step_seconds;
  s.save_seconds = r->save_seconds;
  rp_run_status_write(r->s.trainer.run_dir, &s, error, NULL);
}

static bool asked_to_stop(const rp_training *r) { return r->o->stop && *r->o->stop; }

/* ---- checkpoints ---- */

static rp_status write_file(const char *dir, const char *name, const void *data, size_t n,
                            rp_error *err) {
  char *path = rp_path_join(dir, name);
  if (!path) return rp_fail_memory(err, strlen(dir), "a path");
  const rp_status st = rp_file_replace(path, data, n, true, err);
  rp_free(path);
  return st;
}

static rp_status fill(void *ctx, const char *dir, rp_error *err) {
  rp_training *r = ctx;
  RP_TRY(rp_trainer_state(&r->t, &r->state, err));
  RP_TRY(rp_trainer_write(&r->t, dir, err));
  RP_TRY(write_file(dir, "config.yaml", r->config_text, strlen(r->config_text), err));
  if (r->tokenizer)
    RP_TRY(write_file(dir, "tokenizer.model", r->tokenizer, r->tokenizer_bytes, err));
  char *path = rp_path_join(dir, "state.json");
  if (!path) return rp_fail_memory(err, strlen(dir), "a path");
  const rp_status st = rp_loop_state_write(path, &r->state, err);
  rp_free(path);
  return st;
}

static int64_t save_interval(const rp_training *r) {
  return rp_sched_save_every(r->s.trainer.save_interval, r->t.S);
}

static void tell_saved(const rp_training *r, double seconds) {
  char name[32];
  rp_checkpoint_name(name, r->state.step);
  rp_train_event e = rp_training_event(r, RP_TRAIN_SAVE);
  e.text = name;
  e.seconds = seconds;
  rp_training_tell(r, &e);
}

static rp_status save(rp_training *r, rp_error *err) {
  const double t0 = rp_now();
  const char *dir = r->s.trainer.run_dir;
  rp_metrics_sync(&r->metrics);
  r->state.seconds = r->before + t0 - r->began;
  const rp_status st = rp_checkpoint_save(dir, r->state.step, fill, r, err);
  r->last_save = rp_now();
  if (st) return st;
  r->saved = true;
  r->save_failed = false;
  r->save_seconds = r->last_save - t0;
  const rp_checkpoint_keep keep = {.interval = save_interval(r),
                                   .of = r->t.S,
                                   .last = r->s.trainer.keep_last,
                                   .every = r->s.trainer.keep_every};
  rp_checkpoint_prune(dir, &keep);
  tell_saved(r, r->save_seconds);
  return RP_OK;
}

/* A save in the middle of a run that fails costs a warning; the former checkpoint is whole. */
static void try_save(rp_training *r) {
  rp_error e = {0};
  if (!save(r, &e)) return;
  rp_log(RP_LOG_WARNING,
         "step %lld: no checkpoint could be saved (%s); training goes on, the "
         "former checkpoint is whole, and it is tried again at the next interval",
         (long long)r->state.step, e.text);
  r->save_failed = true;
}

static bool time_to_save(const rp_training *r) {
  const rp_trainer_settings *s = &r->s.trainer;
  if (!s->save_checkpoint) return false;
  if (r->state.step % save_interval(r) == 0) return true;
  if (s->keep_every > 0 && r->state.step % s->keep_every == 0) return true;
  return s->save_minutes > 0 && rp_now() - r->last_save >= 60 * s->save_minutes;
}

/* ---- metrics ---- */

static void warn_write(rp_training *r, const rp_error *e) {
  if (!r->write_failed)
    rp_log(RP_LOG_WARNING,
           "%s; training goes on, and what is missing is written when there is "
           "room",
           e->text);
  r->write_failed = true;
}

static void write_metrics(rp_training *r, const rp_metrics *m) {
  rp_error e = {0};
  const rp_scalar s[] = {{"train_loss", m->train_loss},
                         {"train_loss1", m->train_loss1},
                         {"val_loss", m->val_loss},
                         {"val_loss_dense", m->val_loss_dense},
                         {"lr", m->lr},
                         {"grad_norm", m->grad_norm},
                         {"tokens", m->tokens >= 0 ? (double)m->tokens : NAN},
                         {"tokens_per_second", m->tokens_per_second},
                         {"mfu", m->mfu},
                         {"seconds", m->seconds}};
  bool failed = rp_metrics_add(&r->metrics, m, &e) != RP_OK;
  if (failed) warn_write(r, &e);
  if (r->events && rp_events_add(r->events, m->step, s, sizeof s / sizeof *s, &e)) {
    warn_write(r, &e);
    failed = true;
  }
  if (!failed) r->write_failed = false;
}

/* What an interval of the log adds up. */
typedef struct {
  int64_t tokens, steps;
  double seconds;
} interval;

static void tell_log(const rp_training *r, const rp_metrics *m, double grad_norm1) {
  rp_train_event e = rp_training_event(r, RP_TRAIN_LOG);
  e.step = m->step;
  e.train_loss = m->train_loss;
  e.train_loss1 = m->train_loss1;
  e.val_loss = m->val_loss;
  e.val_loss_dense = m->val_loss_dense;
  e.lr = m->lr;
  e.grad_norm = m->grad_norm;
  e.grad_norm1 = grad_norm1;
  e.tokens_per_second = m->tokens_per_second;
  e.mfu = m->mfu;
  e.seconds = m->seconds;
  e.left = r->step_seconds * (double)(r->t.S - r->state.step);
  rp_training_tell(r, &e);
}

/* ---- an iteration ---- */

/* The losses and norms of an iteration under their names: with two passes the first is sparse. */
static void name_results(const rp_step_result *x, rp_metrics *m, double *grad_norm1) {
  const rp_pass_result *last = &x->pass[x->passes - 1];
  m->train_loss = last->loss;
  m->grad_norm = last->norm;
  m->train_loss1 = x->passes == 2 ? x->pass[0].loss : NAN;
  *grad_norm1 = x->passes == 2 ? x->pass[0].norm : NAN;
  m->skipped = x->skipped;
}

static void tell_step(const rp_training *r, const rp_metrics *m, double grad_norm1, double dt) {
  rp_train_event e = rp_training_event(r, RP_TRAIN_STEP);
  e.step = m->step;
  e.train_loss = m->train_loss;
  e.train_loss1 = m->train_loss1;
  e.lr = m->lr;
  e.grad_norm = m->grad_norm;
  e.grad_norm1 = grad_norm1;
  e.tokens_per_second = dt > 0 ? (double)r->s.trainer.global_batch * r->s.train.T / dt : NAN;
  e.mfu = r->rate > 0 && dt > 0 ? r->flops / dt / r->rate : NAN;
  e.left = r->step_seconds * (double)(r->t.S - r->state.step);
  rp_training_tell(r, &e);
}

static void report_skips(const rp_training *r, const rp_step_result *x) {
  for (int i = 0; i < x->passes; i++) {
    if (!x->pass[i].skipped) continue;
    char at[512];
    rp_trainer_data_at(&r->t, at, sizeof at);
    rp_log(RP_LOG_WARNING,
           "step %lld%s: the %s is not finite; this optimizer step is skipped "
           "(%lld so far; data: %s)",
           (long long)r->state.step - 1,
           x->passes == 1 ? ""
           : i == 0       ? ", sparse pass"
                          : ", dense pass",
           isfinite(x->pass[i].loss) ? "gradient norm" : "loss", (long long)x->skipped, at);
  }
}

static rp_status too_many_skips(rp_training *r, rp_error *err) {
  char where[160] = "nothing was saved, since trainer.save_checkpoint is false";
  rp_error e = {0};
  if (r->s.trainer.save_checkpoint) {
    char name[32];
    rp_checkpoint_name(name, r->state.step);
    rp_snprintf(where, sizeof where, "the last good state is checkpoint %s", name);
    if (save(r, &e)) rp_snprintf(where, sizeof where, "it could not be saved: %.100s", e.text);
  }
  return rp_fail(err, RP_FAIL,
                 "step %lld: %d optimizer steps in a row had a loss or gradient that "
                 "is not finite; %s; lower optim.optimizer.lr, set trainer.gradient_clipping, or "
                 "look at the data",
                 (long long)r->state.step - 1, MOST_IN_A_ROW, where);
}

static void smooth(rp_training *r, double dt) {
  r->step_seconds = isfinite(r->step_seconds) ? 0.9 * r->step_seconds + 0.1 * dt : dt;
}

/* Runs iteration state.step; afterwards state.step counts it. */
static rp_status iterate(rp_training *r, rp_metrics *m, double *grad_norm1, interval *in,
                         rp_error *err) {
  const int64_t step = r->state.step;
  rp_step_result x;
  *m = rp_metrics_none(step);
  m->lr = rp_sched_lr(&r->s.optim, step, r->t.S);
  if (r->in->step) r->in->step(r->in->ctx, &r->t, step, false);
  const double t0 = rp_now();
  const rp_status st = rp_trainer_step(&r->t, m->lr, &x, err);
  if (st) return rp_fail_at(err, "step %lld", (long long)step);
  const double dt = rp_now() - t0;
  if (r->in->step) r->in->step(r->in->ctx, &r->t, step, true);
  const int64_t tokens = (int64_t)r->s.trainer.global_batch * r->s.train.T;
  r->state.step++;
  r->state.tokens += tokens;
  r->state.skipped = x.skipped;
  r->state.in_a_row = x.in_a_row;
  r->saved = false;
  in->tokens += tokens;
  in->steps++;
  in->seconds += dt;
  smooth(r, dt);
  name_results(&x, m, grad_norm1);
  m->tokens = r->state.tokens;
  tell_step(r, m, *grad_norm1, dt);
  report_skips(r, &x);
  return RP_OK;
}

static void val_progress(void *ctx, int64_t done, int64_t of) {
  const rp_training *r = ctx;
  rp_train_event e = rp_training_event(r, RP_TRAIN_VAL);
  e.step = done;
  e.of = of;
  rp_training_tell(r, &e);
}

/* Validates into the state and m; *stopped when asked to stop meanwhile. */
static rp_status validate(rp_training *r, rp_metrics *m, bool *stopped, rp_error *err) {
  double val, dense;
  const rp_status st =
      rp_trainer_validate(&r->t, r->o->stop, val_progress, r, &val, &dense, stopped, err);
  if (st) return rp_fail_at(err, "validation after %lld steps", (long long)r->state.step);
  if (*stopped) return RP_OK;
  r->state.val_loss = m->val_loss = val;
  r->state.val_loss_dense = m->val_loss_dense = dense;
  r->state.val_step = r->state.step;
  return RP_OK;
}

static void finish_line(rp_training *r, rp_metrics *m, double grad_norm1, interval *in) {
  if (in->seconds > 0) {
    m->tokens_per_second = (double)in->tokens / in->seconds;
    if (r->rate > 0) m->mfu = r->flops * (double)in->steps / in->seconds / r->rate;
  }
  m->seconds = r->before + rp_now() - r->began;
  *in = (interval){0};
  write_metrics(r, m);
  tell_log(r, m, grad_norm1);
  rp_training_status(r, "running", NULL);
}

/* ---- stopping and ending ---- */

static rp_status stop_here(rp_training *r, rp_error *err) {
  rp_error e = {0};
  if (!r->s.trainer.save_checkpoint)
    return rp_fail(err, RP_STOPPED,
                   "stopped after step %lld as asked; nothing was saved, since "
                   "trainer.save_checkpoint is false",
                   (long long)r->state.step - 1);
  if (!r->saved && save(r, &e))
    return rp_fail(err, RP_FAIL,
                   "stopped after step %lld as asked, but no checkpoint could be "
                   "saved (%s); the former one is whole",
                   (long long)r->state.step - 1, e.text);
  return rp_fail(err, RP_STOPPED,
                 "stopped after %lld of %lld steps as asked, with a checkpoint; "
                 "the same command goes on from there",
                 (long long)r->state.step, (long long)r->t.S);
}

/* The validation of a run that has no step left to do but lacks it: one that only validates, or one
 * that was stopped between its last step and its validation. */
static rp_status only_validate(rp_training *r, rp_error *err) {
  if (r->state.val_step == r->t.S && isfinite(r->state.val_loss)) return RP_OK;
  rp_metrics m = rp_metrics_none(r->t.S > 0 ? r->t.S - 1 : 0);
  interval in = {0};
  bool stopped;
  RP_TRY(validate(r, &m, &stopped, err));
  if (stopped)
    return rp_fail(err, RP_STOPPED,
                   "stopped during the validation as asked; the same command "
                   "does it again");
  m.tokens = r->state.tokens;
  finish_line(r, &m, NAN, &in);
  return RP_OK;
}

rp_status rp_training_loop(rp_training *r, rp_error *err) {
  interval in = {0};
  const int64_t S = r->t.S;
  const int every = r->s.trainer.log_interval;
  if (r->state.step >= S) return only_validate(r, err);
  while (r->state.step < S) {
    rp_metrics m;
    double grad_norm1 = NAN;
    RP_TRY(iterate(r, &m, &grad_norm1, &in, err));
    const bool last = r->state.step == S;
    const bool log = last || (every > 0 && m.step % every == 0);
    bool stop = asked_to_stop(r);
    if (r->state.in_a_row >= MOST_IN_A_ROW) {
      finish_line(r, &m, grad_norm1, &in);
      return too_many_skips(r, err);
    }
    if (!stop && (last || (log && r->s.trainer.eval_when_log))) RP_TRY(validate(r, &m, &stop, err));
    if (log) finish_line(r, &m, grad_norm1, &in);
    if (stop || asked_to_stop(r)) return stop_here(r, err);
    if (last && r->s.trainer.save_checkpoint) {
      const rp_status st = save(r, err);
      if (st) return rp_fail_at(err, "the last checkpoint could not be saved");
    } else if (time_to_save(r)) {
      try_save(r);
    }
  }
  return RP_OK;
}
