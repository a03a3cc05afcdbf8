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
                          .ranks = r->ranks,
                          .slowest = -1,
                          .waiting = NAN,
                          .skipped = r->state.skipped,
                          .run_dir = r->s.trainer.run_dir};
}

void rp_training_tell(const rp_training *r, const rp_train_event *e) {
  if (r->o->event && r->rank == 0) r->o->event(r->o->ctx, e);
}

void rp_training_status(rp_training *r, const char *state, const char *error) {
  rp_run_status s = rp_run_status_none(state);
  if (r->rank) return;
  s.step = r->state.step;
  s.of = r->t.q ? r->t.S : r->state.of;
  s.val_loss = r->state.val_loss;
  s.val_loss_dense = r->state.val_loss_dense;
  s.seconds_per_step = r->step_seconds;
  s.save_seconds = r->save_seconds;
  rp_run_status_write(r->s.trainer.run_dir, &s, error, NULL);
}

/* Of this rank; what all agreed on is r->asked. */
static bool asked_here(const rp_training *r) { return r->o->stop && *r->o->stop; }

/* Ranks learn of each other's wish with the next iteration's report. */
static bool asked_to_stop(const rp_training *r) {
  return r->asked || (r->ranks == 1 && asked_here(r));
}

/* ---- checkpoints ---- */

static rp_status write_file(const char *dir, const char *name, const void *data, size_t n,
                            rp_error *err) {
  char *path = rp_path_join(dir, name);
  if (!path) return rp_fail_memory(err, strlen(dir), "a path");
  const rp_status st = rp_file_replace(path, data, n, true, err);
  rp_free(path);
  return st;
}

/* A checkpoint in the making, over all ranks. */
typedef struct {
  rp_training *r;
  bool named; /* the other ranks know the folder, or that there is none */
} saving;

enum { PATH_ROOM = 4096 };

/* The folder that rank 0 made; "" when it could not. */
static rp_status name_folder(saving *s, const char *dir, char room[PATH_ROOM], rp_error *err) {
  s->named = true;
  rp_snprintf(room, PATH_ROOM, "%s", dir);
  return rp_together_text(s->r->comm, 0, room, PATH_ROOM, err);
}

static rp_status write_weights(rp_training *r, const char *dir, rp_error *err) {
  rp_status st = rp_trainer_state(&r->t, &r->state, err);
  if (!st) st = rp_trainer_write(&r->t, dir, err);
  return rp_comm_agree(r->comm, st, err);
}

static rp_status fill(void *ctx, const char *dir, rp_error *err) {
  saving *s = ctx;
  rp_training *r = s->r;
  char room[PATH_ROOM];
  RP_TRY(name_folder(s, dir, room, err));
  RP_TRY(write_weights(r, dir, err));
  RP_TRY(rp_trainer_write_index(&r->t, dir, err));
  RP_TRY(write_file(dir, "config.yaml", r->config_text, strlen(r->config_text), err));
  if (r->tokenizer)
    RP_TRY(write_file(dir, "tokenizer.model", r->tokenizer, r->tokenizer_bytes, err));
  char *path = rp_path_join(dir, "state.json");
  if (!path) return rp_fail_memory(err, strlen(dir), "a path");
  const rp_status st = rp_loop_state_write(path, &r->state, err);
  rp_free(path);
  return st;
}

/* Rank 0 makes the folder and, when all have written their parts, gives it its name. */
static rp_status save_together(rp_training *r, rp_error *err) {
  saving s = {r, false};
  char room[PATH_ROOM] = "";
  rp_status st = RP_OK;
  if (r->rank == 0) {
    st = rp_checkpoint_save(r->s.trainer.run_dir, r->state.step, fill, &s, err);
    if (!s.named) name_folder(&s, "", room, NULL);
  } else {
    RP_TRY(name_folder(&s, "", room, err));
    if (*room) st = write_weights(r, room, err);
  }
  return rp_comm_agree(r->comm, st, err);
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
  const rp_status st = save_together(r, err);
  r->last_save = rp_now();
  if (st) return st;
  r->saved = true;
  r->save_failed = false;
  r->save_seconds = r->last_save - t0;
  const rp_checkpoint_keep keep = {.interval = save_interval(r),
                                   .of = r->t.S,
                                   .last = r->s.trainer.keep_last,
                                   .every = r->s.trainer.keep_every};
  if (r->rank == 0) rp_checkpoint_prune(dir, &keep);
  tell_saved(r, r->save_seconds);
  return RP_OK;
}

/* A save in the middle of a run that fails costs a warning; the former checkpoint is whole. */
static void try_save(rp_training *r) {
  rp_error e = {0};
  if (!save(r, &e)) return;
  r->save_failed = true;
  if (r->rank) return;
  rp_log(RP_LOG_WARNING,
         "step %lld: no checkpoint could be saved (%s); training goes on, the "
         "former checkpoint is whole, and it is tried again at the next interval",
         (long long)r->state.step, e.text);
}

static bool clock_says(const rp_training *r) {
  const double minutes = r->s.trainer.save_minutes;
  return minutes > 0 && rp_now() - r->last_save >= 60 * minutes;
}

static bool time_to_save(const rp_training *r) {
  const rp_trainer_settings *s = &r->s.trainer;
  if (!s->save_checkpoint) return false;
  if (r->state.step % save_interval(r) == 0) return true;
  if (s->keep_every > 0 && r->state.step % s->keep_every == 0) return true;
  return r->clock;
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
  double seconds, waited;
  int slowest; /* of its last iteration */
} interval;

static void tell_log(const rp_training *r, const rp_metrics *m, double grad_norm1,
                     const interval *in) {
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
  if (r->ranks > 1 && in->seconds > 0) {
    e.waiting = in->waited / in->seconds;
    e.slowest = in->slowest;
  }
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

/* The data told are those of the rank that had the value. */
static rp_status report_skips(const rp_training *r, const rp_step_result *x, const rp_together *all,
                              rp_error *err) {
  char who[160] = "", at[512] = "";
  bool any = false;
  for (int i = 0; i < x->passes; i++) any = any || x->pass[i].skipped;
  if (!any) return RP_OK;
  rp_trainer_data_at(&r->t, at, sizeof at);
  RP_TRY(rp_together_text(r->comm, all->first_bad > 0 ? all->first_bad : 0, at, sizeof at, err));
  if (r->ranks > 1 && all->first_bad >= 0)
    rp_snprintf(who, sizeof who, " on rank %d, %s", all->first_bad,
                rp_comm_host(r->comm, all->first_bad));
  for (int i = 0; i < x->passes && !r->rank; i++) {
    if (!x->pass[i].skipped) continue;
    rp_log(RP_LOG_WARNING,
           "step %lld%s: the %s is not finite%s; this optimizer step is skipped "
           "(%lld so far; data: %s)",
           (long long)r->state.step - 1,
           x->passes == 1 ? ""
           : i == 0       ? ", sparse pass"
                          : ", dense pass",
           isfinite(x->pass[i].loss) ? "gradient norm" : "loss", who, (long long)x->skipped, at);
  }
  return RP_OK;
}

static rp_status too_many_skips(rp_training *r, const rp_together *all, rp_error *err) {
  char who[160] = "";
  if (r->ranks > 1 && all->first_bad >= 0)
    rp_snprintf(who, sizeof who, " (rank %d on %s)", all->first_bad,
                rp_comm_host(r->comm, all->first_bad));
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
                 "is not finite%s; %s; lower optim.optimizer.lr, set trainer.gradient_clipping, or "
                 "look at the data",
                 (long long)r->state.step - 1, MOST_IN_A_ROW, who, where);
}

static void smooth(rp_training *r, double dt) {
  r->step_seconds = isfinite(r->step_seconds) ? 0.9 * r->step_seconds + 0.1 * dt : dt;
}

/* How the iteration went on all ranks. */
static rp_status report(rp_training *r, const rp_step_result *x, double seconds, rp_together *all,
                        rp_error *err) {
  *all = (rp_together){
      .stop = asked_here(r), .save = clock_says(r), .seconds = seconds, .waited = x->waited};
  for (int i = 0; i < x->passes; i++)
    if (!isfinite(r->t.mine[i].mean)) all->bad |= 1 << i;
  RP_TRY(rp_together_report(r->comm, all, r->reports, err));
  r->asked = r->asked || all->stop;
  r->clock = all->save;
  return RP_OK;
}

/* Runs iteration state.step; afterwards state.step counts it. */
static rp_status iterate(rp_training *r, rp_metrics *m, double *grad_norm1, interval *in,
                         rp_together *all, rp_error *err) {
  const int64_t step = r->state.step;
  rp_step_result x;
  *m = rp_metrics_none(step);
  m->lr = rp_sched_lr(&r->s.optim, step, r->t.S);
  if (r->in->step) r->in->step(r->in->ctx, &r->t, step, false);
  const double t0 = rp_now();
  rp_status st = rp_trainer_step(&r->t, m->lr, &x, err);
  if (!st) st = report(r, &x, rp_now() - t0, all, err);
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
  in->waited += all->waited;
  in->slowest = all->slowest;
  smooth(r, dt);
  name_results(&x, m, grad_norm1);
  m->tokens = r->state.tokens;
  tell_step(r, m, *grad_norm1, dt);
  return report_skips(r, &x, all, err);
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
  if (r->rank) return;
  if (in->seconds > 0) {
    m->tokens_per_second = (double)in->tokens / in->seconds;
    if (r->rate > 0) m->mfu = r->flops * (double)in->steps / in->seconds / r->rate;
  }
  m->seconds = r->before + rp_now() - r->began;
  write_metrics(r, m);
  tell_log(r, m, grad_norm1, in);
  *in = (interval){0};
  rp_training_status(r, "running", NULL);
}

/* A sample of text after state.step iterations, where it is time for one. */
static void try_sample(rp_training *r) {
  rp_error err = {0};
  const char *text;
  if (!r->sample || r->state.step % r->s.trainer.sample_every) return;
  if (rp_text_sample_make(r->sample, r->state.step, &text, &err)) {
    if (r->rank) return;
    rp_log(RP_LOG_WARNING, "step %lld: no sample of text: %s", (long long)r->state.step - 1,
           err.text);
    return;
  }
  rp_train_event e = rp_training_event(r, RP_TRAIN_SAMPLE);
  e.text = text;
  rp_training_tell(r, &e);
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
    rp_together all;
    RP_TRY(iterate(r, &m, &grad_norm1, &in, &all, err));
    const bool last = r->state.step == S;
    const bool log = last || (every > 0 && m.step % every == 0);
    bool stop = asked_to_stop(r);
    if (r->state.in_a_row >= MOST_IN_A_ROW) {
      finish_line(r, &m, grad_norm1, &in);
      return rp_comm_agree(r->comm, too_many_skips(r, &all, err), err);
    }
    if (!stop && (last || (log && r->s.trainer.eval_when_log))) RP_TRY(validate(r, &m, &stop, err));
    if (log) finish_line(r, &m, grad_norm1, &in);
    if (!stop) try_sample(r);
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
