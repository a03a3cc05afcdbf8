/* run.c - how a run starts, resumes and ends: whose directory it is, what is checked before the first
 * step, and what is left behind. */
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/log.h"
#include "ops/cuda/gpus.h"
#include "train/memplan.h"
#include "train/training.h"

void rp_train_defaults(rp_train_opts *o) { *o = (rp_train_opts){.size = sizeof *o}; }

/* ---- the place ---- */

static rp_status check_settings(rp_training *r, rp_error *err) {
  const rp_trainer_settings *s = &r->s.trainer;
  if (s->needs_pretrained && !s->pretrained_path)
    return rp_fail(err, RP_USAGE,
                   "trainer.pretrained_path is empty, and this experiment starts "
                   "from trained weights; give a model directory, a run or a .pth, or say "
                   "trainer.pretrained_path=none to start from scratch");
  if (s->shard == RP_SHARD_HYBRID)
    return rp_fail(err, RP_USAGE,
                   "trainer.fsdp.sharding_strategy=HYBRID_SHARD (4) is not built; use FULL_SHARD "
                   "(1), SHARD_GRAD_OP (2) or NO_SHARD (3)");
  RP_TRY(rp_trainer_device(r->o->device ? r->o->device : s->device, &r->kind, err));
  if (r->in->device >= 0) r->kind = (rp_device_kind)r->in->device;
  return RP_OK;
}

static rp_status latest_state(const char *run_dir, char **dir, rp_loop_state *s, rp_error *err) {
  rp_status st = RP_OK;
  char *path = NULL;
  RP_GO(rp_checkpoint_latest(run_dir, dir, err));
  if (!*dir) return RP_OK;
  path = rp_path_join(*dir, "state.json");
  if (!path) RP_GO(rp_fail_memory(err, strlen(*dir), "a path"));
  RP_GO(rp_loop_state_read(path, s, err));
fail:
  rp_free(path);
  return st;
}

static void name_result(rp_train_result *out, const char *run_dir) {
  *out = (rp_train_result){.val_loss = NAN, .val_loss_dense = NAN};
  rp_snprintf(out->run_dir, sizeof out->run_dir, "%s", run_dir);
}

static void report_finished(const char *run_dir, rp_train_result *out) {
  rp_run_status s;
  if (rp_run_status_read(run_dir, &s, NULL)) return;
  out->step = s.step;
  out->of = s.of;
  out->val_loss = s.val_loss;
  out->val_loss_dense = s.val_loss_dense;
  out->was_finished = 1;
}

/* Looks at the run directory under the lock. With --overwrite a finished or different run is moved
 * away; an unfinished one of the same configuration is resumed all the same, since a job script
 * repeats its command line. */
static rp_status settle(rp_training *r, rp_run_kind *kind, rp_error *err) {
  rp_status st = RP_OK;
  char *diff = NULL, *moved = NULL;
  const char *dir = r->s.trainer.run_dir;
  RP_GO(rp_run_look(dir, r->c, kind, &diff, err));
  const bool other = *kind == RP_RUN_DIFFERENT;
  if (other && !r->o->overwrite) RP_GO(rp_run_differs(dir, diff, err));
  if (!(other || *kind == RP_RUN_FINISHED) || !r->o->overwrite) goto fail;
  RP_GO(rp_run_move_away(dir, &moved, err));
  RP_GO(rp_lock_moved(&r->lock, moved, err));
  rp_lock_drop(&r->lock);
  RP_GO(rp_lock_take(&r->lock, dir, r->o->job, r->o->take_over, err));
  rp_log(RP_LOG_NOTICE, "the run that was there is now %s", moved);
  *kind = RP_RUN_NEW;
fail:
  rp_free(diff);
  rp_free(moved);
  return st;
}

/* ---- before the first step ---- */

static rp_status read_tokenizer(rp_training *r, const char *path, rp_error *err) {
  return rp_file_read(path, (size_t)1 << 28, &r->tokenizer, &r->tokenizer_bytes, err);
}

/* tokenizer=FILE, else what lies beside the weights, which come from `from` (NULL: nowhere). */
static rp_status find_tokenizer(rp_training *r, const char *from, rp_error *err) {
  rp_status st = RP_OK;
  rp_store *s = NULL;
  char *path = NULL;
  if (r->s.trainer.tokenizer) return read_tokenizer(r, r->s.trainer.tokenizer, err);
  if (!from) return RP_OK;
  RP_GO(rp_store_open(&s, from, err));
  path = rp_path_join(rp_store_path(s), "tokenizer.model");
  if (!path) RP_GO(rp_fail_memory(err, strlen(from), "a path"));
  if (rp_is_file(path)) RP_GO(read_tokenizer(r, path, err));
fail:
  rp_free(path);
  rp_store_close(s);
  return st;
}

static rp_status check_disk(const rp_training *r, rp_error *err) {
  rp_train_memory m;
  char want[32], have[32];
  if (!r->s.trainer.save_checkpoint || r->s.trainer.max_epoch == 0 || r->rank) return RP_OK;
  RP_TRY(rp_memplan_make(&r->s, r->kind, r->ranks, &m, err));
  const uint64_t disk = rp_disk_free(r->s.trainer.run_dir);
  if (!disk || disk >= 2 * m.checkpoint) return RP_OK;
  rp_format_bytes(want, 2 * (double)m.checkpoint);
  rp_format_bytes(have, (double)disk);
  return rp_fail(err, RP_FAIL,
                 "%s: two checkpoints take %s and %s are free on that file system; "
                 "make room, give run_dir= on another one, or trainer.save_checkpoint=false",
                 r->s.trainer.run_dir, want, have);
}

static void this_processor(const rp_device *d, char out[96]) {
  if (rp_device_apart(d))
    rp_snprintf(out, 96, "%s", rp_device_label(d));
  else
    rp_snprintf(out, 96, "%.70s (%s)", rp_cpu()->name, rp_cpu_level_name(rp_cpu_now()));
}

static void notice_other_machine(const rp_training *r, const char *cpu, int threads) {
  if (r->rank) return;
  if (r->state.ranks && r->state.ranks != r->ranks)
    rp_log(RP_LOG_NOTICE, "the checkpoint was made by %d ranks, these are %d: bits may differ",
           r->state.ranks, r->ranks);
  if (!*r->state.cpu || !r->state.threads) return;
  if (strcmp(r->state.cpu, cpu) == 0 && (r->state.threads == threads || rp_device_apart(r->t.dev)))
    return;
  rp_log(RP_LOG_NOTICE,
         "the checkpoint was made with %d threads on %s, this is %d threads on %s: "
         "bits may differ",
         r->state.threads, r->state.cpu, threads, cpu);
}

static rp_status check_state(const rp_training *r, const char *dir, rp_error *err) {
  const int64_t S = r->t.S;
  if ((r->state.of < 0 || r->state.of == S) && r->state.step <= S) return RP_OK;
  return rp_fail(err, RP_BAD_DATA,
                 "%s: was saved at step %lld of %lld, but the data now give %lld "
                 "steps; bring the token files back to what they were, or start another run with "
                 "run_dir=",
                 dir, (long long)r->state.step, (long long)r->state.of, (long long)S);
}

/* Allocates and fills: from the checkpoint `dir`, or from pretrained weights, or at random. */
static rp_status open_trainer(rp_training *r, const char *dir, rp_error *err) {
  const rp_trainer_settings *s = &r->s.trainer;
  const int shards = r->state.shards > 0 ? r->state.shards : s->shards > 0 ? s->shards : r->ranks;
  if (s->shards > 0 && shards != s->shards)
    return rp_fail(err, RP_USAGE, "data.shards=%d, but %s was saved with %d; leave data.shards out",
                   s->shards, dir, shards);
  RP_TRY(check_disk(r, err));
  if (!r->in->no_rate && s->max_epoch > 0)
    r->rate = r->ranks * rp_trainer_product_rate(r->kind, s->dtype);
  RP_TRY(rp_trainer_open(&r->t, &r->s, r->kind, shards, r->comm, err));
  r->flops = rp_trainer_flops(&r->s, (int64_t)r->t.accum * r->ranks);
  if (dir) {
    RP_TRY(check_state(r, dir, err));
    RP_TRY(find_tokenizer(r, dir, err));
    return rp_trainer_resume(&r->t, dir, &r->state, err);
  }
  RP_TRY(find_tokenizer(r, s->pretrained_path, err));
  if (s->pretrained_path) return rp_trainer_load_weights(&r->t, s->pretrained_path, err);
  return rp_trainer_init(&r->t, err);
}

/* Samples are to look at: a run goes on without them. Gathering the weights takes all ranks, so all
 * make them, or none. */
static rp_status open_sample(rp_training *r, rp_error *err) {
  rp_error e = {0};
  int64_t lacking = 0;
  if (!r->s.trainer.sample_every) return RP_OK;
  if (!r->tokenizer || rp_text_sample_open(&r->sample, &r->t, r->tokenizer, r->tokenizer_bytes, &e))
    lacking = 1;
  if (*e.text && r->rank == 0) rp_log(RP_LOG_WARNING, "no samples of text: %s", e.text);
  if (r->comm)
    RP_TRY(rp_comm_host_run(r->comm, RP_COMM_SUM, RP_I64, &lacking, &lacking, 1, 0, err));
  if (!lacking) return RP_OK;
  rp_text_sample_close(r->sample);
  r->sample = NULL;
  return RP_OK;
}

static rp_status open_files(rp_training *r, rp_error *err) {
  if (r->rank) return RP_OK;
  rp_status st = RP_OK;
  rp_error e = {0};
  const char *dir = r->s.trainer.run_dir;
  char *path = rp_path_join(dir, "config.yaml");
  if (!path) return rp_fail_memory(err, strlen(dir), "a path");
  RP_GO(rp_config_yaml(r->c, &r->config_text, err));
  if (!rp_exists(path))
    RP_GO(rp_file_replace(path, r->config_text, strlen(r->config_text), true, err));
  RP_GO(rp_metrics_open(&r->metrics, dir, r->state.step, err));
  if (rp_events_open(&r->events, dir, r->resumed ? r->state.step : -1, &e))
    rp_log(RP_LOG_WARNING, "%s; training goes on without TensorBoard events", e.text);
fail:
  rp_free(path);
  return st;
}

/* Where the run's device has its memory; 0: that cannot be told. */
static uint64_t available(const rp_training *r) {
  rp_device *d;
  if (rp_device_open(&d, r->kind, NULL)) return 0;
  const uint64_t bytes = rp_device_available(d);
  rp_device_close(d);
  return bytes;
}

/* Ranks that have it together: a GPU is one rank's. */
static int sharers(const rp_training *r) {
  return r->kind == RP_DEVICE_CUDA ? 1 : rp_comm_neighbours(r->comm);
}

static rp_status open_run(rp_training *r, rp_error *err) {
  rp_status st = RP_OK;
  char *dir = NULL;
  char cpu[96];
  RP_GO(rp_comm_agree(r->comm, latest_state(r->s.trainer.run_dir, &dir, &r->state, err), err));
  RP_GO(rp_together_same(r->comm, &r->s, r->c, dir ? r->state.step : -1, err));
  r->resumed = dir != NULL;
  if (!dir) r->state = (rp_loop_state){.val_loss = NAN, .val_loss_dense = NAN, .val_step = -1};
  /* What is free is told before any rank of this machine takes some of it. */
  RP_GO(rp_comm_agree(
      r->comm, rp_memplan_check(&r->s, r->kind, r->ranks, sharers(r), available(r), err), err));
  r->reports = rp_calloc(1, rp_together_bytes(r->comm) + 1);
  RP_GO(rp_comm_agree(
      r->comm, r->reports ? open_trainer(r, dir, err) : rp_fail_memory(err, 64, "reports"), err));
  RP_GO(open_sample(r, err));
  if (r->state.tokens < 0)
    r->state.tokens = r->state.step * r->s.trainer.global_batch * r->s.train.T;
  this_processor(r->t.dev, cpu);
  notice_other_machine(r, cpu, rp_threads());
  rp_snprintf(r->state.cpu, sizeof r->state.cpu, "%s", cpu);
  r->state.threads = rp_threads();
  r->state.ranks = r->ranks;
  r->state.of = r->t.S;
  r->before = r->state.seconds;
  RP_GO(rp_comm_agree(r->comm, open_files(r, err), err));
fail:
  rp_free(dir);
  return st;
}

/* ---- start to end ---- */

/* Which GPU, and that there are more. */
static void tell_gpu(const rp_training *r) {
  int n, version;
  if (r->kind != RP_DEVICE_CUDA || r->rank) return;
  rp_log(RP_LOG_INFO, "device: %s", rp_device_label(r->t.dev));
  if (r->ranks > 1 || rp_gpus(NULL, 0, &n, &version, NULL) || n == 1) return;
  if (rp_comm_has_nccl())
    rp_log(RP_LOG_NOTICE, "%d GPUs visible, 1 used: `mpirun -n %d ratplus train ...` uses all", n,
           n);
  else
    rp_log(RP_LOG_NOTICE, "%d GPUs visible, 1 used: this build has no NCCL to use more", n);
}

static rp_status train_here(rp_training *r, rp_error *err) {
  r->began = r->last_save = rp_now();
  r->saved = r->resumed;
  rp_training_status(r, "running", NULL);
  rp_train_event e = rp_training_event(r, RP_TRAIN_START);
  rp_training_tell(r, &e);
  tell_gpu(r);
  RP_TRY(rp_training_loop(r, err));
  rp_training_status(r, "finished", NULL);
  return RP_OK;
}

static void note_end(rp_training *r, rp_status st, const rp_error *err, rp_train_result *out) {
  if (st == RP_STOPPED)
    rp_training_status(r, "stopped", NULL);
  else if (st)
    rp_training_status(r, "failed", err->text);
  if (!r->t.q) return;
  out->step = r->state.step;
  out->of = r->t.S;
  out->val_loss = r->state.val_loss;
  out->val_loss_dense = r->state.val_loss_dense;
  out->skipped = r->state.skipped;
  out->saved = r->saved;
  rp_train_event e = rp_training_event(r, RP_TRAIN_END);
  e.val_loss = r->state.val_loss;
  e.val_loss_dense = r->state.val_loss_dense;
  e.text = st ? err->text : NULL;
  rp_training_tell(r, &e);
}

/* A run directory that was made for a start which failed at once is taken away again. */
static void forget(const rp_training *r, bool made) {
  if (made) (void)rmdir(r->s.trainer.run_dir);
}

/* Rank 0's part of finding the place: folder, lock, whose run lies there. */
static rp_status take_place(rp_training *r, rp_run_kind *kind, rp_error *err) {
  const char *dir = r->s.trainer.run_dir;
  if (r->rank) return RP_OK;
  RP_TRY(rp_mkdirs(dir, err));
  RP_TRY(rp_lock_take(&r->lock, dir, r->o->job, r->o->take_over, err));
  RP_TRY(settle(r, kind, err));
  if (*kind != RP_RUN_FINISHED) rp_checkpoint_clean(dir);
  return RP_OK;
}

/* What rank 0 found holds for all. */
static rp_status same_for_all(rp_training *r, int *value, rp_error *err) {
  int64_t v = *value;
  if (!r->comm) return RP_OK;
  RP_TRY(rp_comm_host_run(r->comm, RP_COMM_BROADCAST, RP_I64, &v, &v, 1, 0, err));
  *value = (int)v;
  return RP_OK;
}

/* From here on the error says which rank failed. */
static rp_status tell_others(const rp_training *r, rp_status st, rp_error *err) {
  bool here;
  rp_comm_tell(r->comm, err->text);
  rp_comm_failure(r->comm, &here, err);
  return err->status = st;
}

static rp_status in_place(rp_training *r, rp_train_result *out, rp_error *err) {
  rp_run_kind kind = RP_RUN_NEW;
  const char *dir = r->s.trainer.run_dir;
  const bool there = r->rank || rp_exists(dir);
  rp_status st = rp_comm_agree(r->comm, take_place(r, &kind, err), err);
  int found = kind;
  if (!st) st = same_for_all(r, &found, err);
  kind = (rp_run_kind)found;
  if (!st && kind == RP_RUN_FINISHED) {
    report_finished(dir, out);
  } else if (!st) {
    const bool fresh = kind == RP_RUN_NEW;
    st = open_run(r, err);
    const bool opened = !st;
    if (!st) st = train_here(r, err);
    /* The others hear of it before this one tidies up. */
    if (st && st != RP_STOPPED && r->comm) st = tell_others(r, st, err);
    if (opened || !fresh) note_end(r, st, err, out);
  }
  rp_lock_drop(&r->lock);
  forget(r, st && !there);
  return st;
}

/* A run of another configuration, or a finished one, is told about before anything is touched: its
 * directory may be read-only, its lock may be held. */
static rp_status look_first(const rp_training *r, rp_train_result *out, int *done, rp_error *err) {
  rp_run_kind kind;
  char *diff = NULL;
  const char *dir = r->s.trainer.run_dir;
  if (r->o->overwrite || r->rank) return RP_OK;
  rp_status st = rp_run_look(dir, r->c, &kind, &diff, err);
  if (!st && kind == RP_RUN_DIFFERENT) st = rp_run_differs(dir, diff, err);
  if (!st && kind == RP_RUN_FINISHED) {
    report_finished(dir, out);
    *done = 1;
  }
  rp_free(diff);
  return st;
}

static void close_training(rp_training *r) {
  rp_text_sample_close(r->sample);
  rp_trainer_close(&r->t);
  rp_metrics_close(&r->metrics);
  rp_events_close(r->events);
  rp_free(r->config_text);
  rp_free(r->tokenizer);
  rp_free(r->reports);
  rp_settings_free(&r->s);
}

rp_status rp_train_with(const rp_config *c, const rp_train_opts *opts, const rp_train_inner *inner,
                        rp_train_result *result, rp_error *err) {
  rp_status st = RP_OK;
  rp_train_result unread;
  rp_error own = {0};
  rp_train_opts defaults;
  const rp_train_inner none = {.device = -1};
  int done = 0;
  if (!result) result = &unread;
  if (!err) err = &own;
  rp_train_defaults(&defaults);
  rp_training r = {
      .c = c,
      .o = opts ? opts : &defaults,
      .in = inner ? inner : &none,
      .comm = opts && rp_ranks_count(opts->ranks) > 1 ? rp_ranks_comm(opts->ranks) : NULL,
      .rank = opts ? rp_ranks_rank(opts->ranks) : 0,
      .ranks = opts ? rp_ranks_count(opts->ranks) : 1,
      .lock = {.fd = -1},
      .metrics = {.fd = -1},
      .save_seconds = NAN,
      .step_seconds = NAN};
  name_result(result, "");
  RP_GO(rp_comm_agree(r.comm, rp_settings_read(&r.s, c, r.ranks, err), err));
  name_result(result, r.s.trainer.run_dir);
  RP_GO(rp_comm_agree(r.comm, check_settings(&r, err), err));
  if (r.comm && r.kind == RP_DEVICE_CUDA) RP_GO(rp_comm_on_gpus(r.comm, err));
  RP_GO(rp_comm_agree(r.comm, look_first(&r, result, &done, err), err));
  RP_GO(same_for_all(&r, &done, err));
  if (!done) st = in_place(&r, result, err);
fail:
  close_training(&r);
  return st;
}

rp_status rp_train(const rp_config *c, const rp_train_opts *opts, rp_train_result *result,
                   rp_error *err) {
  return rp_train_with(c, opts, NULL, result, err);
}
