#include "train/trainer.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "model/cost.h"
#include "ops/rate.h"
#include "train/schedule.h"

/* ---- opening ---- */

static rp_status open_loaders(rp_loader ***out, const rp_load_settings *s, const rp_trainer *t,
                              const char *what, rp_error *err) {
  *out = rp_calloc((size_t)t->own, sizeof **out);
  if (!*out) return rp_fail_memory(err, (size_t)t->own * sizeof **out, "loaders");
  for (int i = 0; i < t->own; i++)
    if (rp_loader_open(&(*out)[i], s, t->rank * t->own + i, t->shards, err))
      return rp_fail_at(err, "data.%s", what);
  return RP_OK;
}

static void close_loaders(rp_loader **l, int shards) {
  for (int i = 0; l && i < shards; i++) rp_loader_close(l[i]);
  rp_free(l);
}

static rp_status divide(rp_trainer *t, rp_error *err) {
  const int batch = t->s->train.batch, global = t->s->trainer.global_batch;
  if (t->shards % t->ranks)
    return rp_fail(err, RP_USAGE,
                   "data.shards=%d cannot be shared by %d ranks; start as many as divide it",
                   t->shards, t->ranks);
  if (t->shards < 1 || batch < 1 || global % (batch * t->shards))
    return rp_fail(err, RP_USAGE,
                   "trainer.global_batch_size=%d is no multiple of data.batch_size=%d times "
                   "data.shards=%d; change one of them",
                   global, batch, t->shards);
  t->per_share = global / (batch * t->shards);
  t->own = t->shards / t->ranks;
  t->accum = t->per_share * t->own;
  return RP_OK;
}

static rp_status open_data(rp_trainer *t, rp_error *err) {
  const rp_settings *s = t->s;
  RP_TRY(divide(t, err));
  RP_TRY(open_loaders(&t->train, &s->train, t, "train", err));
  RP_TRY(open_loaders(&t->val, &s->val, t, "val", err));
  t->S = rp_sched_steps(s->trainer.max_epoch, rp_loader_batches(t->train[0]), t->per_share);
  if (s->trainer.max_epoch > 0 && t->S < 1)
    return rp_fail(err, RP_BAD_DATA,
                   "data.train: %lld micro-batches a share are fewer than the "
                   "%d of one iteration; give more tokens or a smaller trainer.global_batch_size",
                   (long long)rp_loader_batches(t->train[0]), t->per_share);
  return RP_OK;
}

static rp_status open_buffers(rp_trainer *t, rp_error *err) {
  const size_t n = (size_t)t->s->train.batch * (size_t)t->s->train.T;
  const size_t bytes = n * (size_t)t->accum * sizeof(int32_t);
  t->ids = rp_malloc(n, sizeof *t->ids);
  t->labels = rp_malloc(n, sizeof *t->labels);
  if (!t->ids || !t->labels) return rp_fail_memory(err, 2 * n * sizeof *t->ids, "a micro-batch");
  RP_TRY(rp_device_alloc(t->dev, bytes, "ids of an iteration", &t->dids, err));
  RP_TRY(rp_device_alloc(t->dev, bytes, "labels of an iteration", &t->dlabels, err));
  return rp_device_alloc(t->dev, 2 * sizeof(rp_loss), "losses", &t->loss, err);
}

/* Parameters and what steps on them; over ranks with the hooks that gather and reduce. */
static rp_status open_weights(rp_trainer *t, rp_error *err) {
  const rp_settings *s = t->s;
  const bool parts = t->ranks > 1 && rp_shard_parts(s->trainer.shard);
  RP_TRY(rp_params_open_part(&t->params, t->q, &s->model, s->trainer.dtype, true,
                             parts ? t->rank : 0, parts ? t->ranks : 1, err));
  RP_TRY(rp_optimizer_open(&t->opt, &t->params, &s->optim, s->trainer.clip, err));
  if (t->ranks == 1) {
    t->weights = rp_params_weights(&t->params);
    return RP_OK;
  }
  RP_TRY(rp_spread_open(&t->spread, &t->params, t->comm, s->trainer.shard, true, err));
  t->weights = rp_spread_weights(t->spread);
  if (!parts) return RP_OK;
  t->opt.sum = rp_spread_sum;
  t->opt.sum_ctx = t->spread;
  return RP_OK;
}

rp_status rp_trainer_open(rp_trainer *t, const rp_settings *s, rp_device_kind kind, int shards,
                          rp_comm *comm, rp_error *err) {
  rp_status st = RP_OK;
  *t = (rp_trainer){.s = s, .shards = shards, .comm = comm};
  t->rank = comm ? rp_comm_rank(comm) : 0;
  t->ranks = comm ? rp_comm_size(comm) : 1;
  const rp_net_opts o = {.batch = s->train.batch,
                         .T = s->train.T,
                         .dtype = s->trainer.dtype,
                         .train = true,
                         .recompute = s->trainer.recompute};
  RP_GO(open_data(t, err));
  RP_GO(rp_device_open(&t->dev, kind, err));
  t->late = rp_device_keeps_ops(t->dev);
  RP_GO(rp_queue_open(&t->q, t->dev, err));
  RP_GO(open_weights(t, err));
  RP_GO(rp_net_open(&t->net, t->q, &s->model, &o, err));
  RP_GO(rp_net_add_plan(t->net, &s->model.pats, &t->plan, err));
  RP_GO(open_buffers(t, err));
  return RP_OK;
fail:
  rp_trainer_close(t);
  return st;
}

void rp_trainer_close(rp_trainer *t) {
  if (t->q) rp_wait(t->q, NULL);
  rp_spread_close(t->spread);
  close_loaders(t->train, t->own);
  close_loaders(t->val, t->own);
  rp_free(t->ids);
  rp_free(t->labels);
  if (t->dev) {
    rp_device_free(t->dev, t->dids);
    rp_device_free(t->dev, t->dlabels);
    rp_device_free(t->dev, t->loss);
  }
  rp_net_close(t->net);
  rp_optimizer_close(&t->opt);
  if (t->params.dev) rp_params_close(&t->params);
  rp_queue_close(t->q);
  rp_device_close(t->dev);
  *t = (rp_trainer){0};
}

/* ---- an iteration ---- */

static size_t batch_bytes(const rp_trainer *t) {
  return (size_t)t->s->train.batch * (size_t)t->s->train.T * sizeof(int32_t);
}

static rp_status fetch(rp_trainer *t, rp_loader *from, int slot, rp_error *err) {
  RP_TRY(rp_loader_next(from, t->ids, t->labels, err));
  const size_t bytes = batch_bytes(t), at = bytes * (size_t)slot;
  rp_upload(t->q, rp_ptr_add(t->dids, at), t->ids, bytes);
  rp_upload(t->q, rp_ptr_add(t->dlabels, at), t->labels, bytes);
  return RP_OK;
}

static rp_pass pass_of(const rp_trainer *t, int slot, int plan, bool grad, int which) {
  const size_t at = batch_bytes(t) * (size_t)slot;
  return (rp_pass){.batch = t->s->train.batch,
                   .T = t->s->train.T,
                   .plan = plan,
                   .grad = grad,
                   .weight = 1.0 / ((double)t->accum * t->ranks),
                   .ids = rp_ptr_add(t->dids, at),
                   .labels = rp_ptr_add(t->dlabels, at),
                   .loss = rp_ptr_add(t->loss, sizeof(rp_loss) * (size_t)which)};
}

/* The losses of all ranks added up, after this rank's own are noted in mine (NULL: not). */
static void sum_losses(rp_trainer *t, rp_ptr loss, int n, rp_loss *mine) {
  rp_ticket last = 0;
  if (mine) rp_download(t->q, mine, loss, sizeof *mine * (size_t)n);
  if (t->ranks == 1) return;
  for (int i = 0; i < n; i++, loss = rp_ptr_add(loss, sizeof(rp_loss))) {
    const rp_ptr labels = rp_ptr_add(loss, offsetof(rp_loss, labels));
    rp_comm_start(t->comm, t->q, &(rp_collective){RP_COMM_SUM, 0, RP_F64, 2, loss, loss});
    last =
        rp_comm_start(t->comm, t->q, &(rp_collective){RP_COMM_SUM, 0, RP_I64, 1, labels, labels});
  }
  rp_comm_await(t->comm, t->q, last);
}

/* One complete optimizer step over the iteration's micro-batches. */
static rp_status put_pass(rp_trainer *t, int plan, int which, double lr, rp_error *err) {
  const rp_ptr loss = rp_ptr_add(t->loss, sizeof(rp_loss) * (size_t)which);
  rp_op_zero(t->q, &(rp_zero_args){loss, sizeof(rp_loss)});
  for (int i = 0; i < t->accum; i++) {
    const rp_pass p = pass_of(t, i, plan, true, which);
    if (t->spread) rp_spread_last(t->spread, i + 1 == t->accum);
    RP_TRY(rp_net_pass(t->net, &t->weights, &p, err));
  }
  if (t->spread) rp_spread_finish(t->spread);
  sum_losses(t, loss, 1, &t->mine[which]);
  rp_optimizer_step(&t->opt, lr, loss);
  return RP_OK;
}

static rp_status step(rp_trainer *t, double lr, rp_step_result *r, rp_error *err) {
  rp_ctl ctl[2];
  rp_loss loss[2];
  const bool joint = t->s->model.joint_train;
  const double waited = t->comm ? rp_comm_counts(t->comm).waited : 0;
  *r = (rp_step_result){.passes = joint ? 2 : 1};
  for (int i = 0; i < t->accum; i++) RP_TRY(fetch(t, t->train[i / t->per_share], i, err));
  for (int i = 0; i < r->passes; i++) {
    RP_TRY(put_pass(t, i == 1 ? 0 : t->plan, i, lr, err));
    rp_download(t->q, &ctl[i], t->opt.ctl, sizeof ctl[i]);
  }
  rp_download(t->q, loss, t->loss, sizeof loss);
  RP_TRY(rp_wait(t->q, err));
  t->micro_batches += t->per_share;
  for (int i = 0; i < r->passes; i++)
    r->pass[i] = (rp_pass_result){loss[i].mean, ctl[i].norm, ctl[i].skip != 0};
  if (t->comm) r->waited = rp_comm_counts(t->comm).waited - waited;
  r->skipped = ctl[r->passes - 1].skipped;
  r->in_a_row = ctl[r->passes - 1].in_a_row;
  return RP_OK;
}

rp_status rp_trainer_step(rp_trainer *t, double lr, rp_step_result *r, rp_error *err) {
  rp_mem_forbid(t->steady && !t->late);
  const rp_status st = step(t, lr, r, err);
  rp_mem_forbid(false);
  t->steady = true;
  return st;
}

void rp_trainer_data_at(const rp_trainer *t, char *out, size_t cap) {
  const rp_load_settings *s = &t->s->train;
  rp_snprintf(out, cap, "micro-batches before %lld of each share, the last at token %lld of %s",
              (long long)t->micro_batches, (long long)rp_loader_at(t->train[t->own - 1]),
              s->file    ? s->file
              : s->input ? s->input
                         : "?");
}

/* ---- validation ---- */

/* Whether any rank was asked to stop; all must agree, since the next pass is everyone's. */
static rp_status asked(const rp_trainer *t, const volatile sig_atomic_t *stop, bool *out,
                       rp_error *err) {
  int64_t n = stop && *stop;
  if (t->ranks > 1) RP_TRY(rp_comm_host_run(t->comm, RP_COMM_SUM, RP_I64, &n, &n, 1, 0, err));
  *out = n > 0;
  return RP_OK;
}

static rp_status validate_batch(rp_trainer *t, int share, rp_error *err) {
  RP_TRY(fetch(t, t->val[share], 0, err));
  for (int which = 0; which <= t->s->model.joint_train; which++) {
    const rp_pass p = pass_of(t, 0, which ? 0 : t->plan, false, which);
    RP_TRY(rp_net_pass(t->net, &t->weights, &p, err));
  }
  return rp_wait(t->q, err);
}

rp_status rp_trainer_validate(rp_trainer *t, const volatile sig_atomic_t *stop,
                              rp_val_progress progress, void *ctx, double *val, double *dense,
                              bool *stopped, rp_error *err) {
  const bool joint = t->s->model.joint_train;
  const int64_t each = rp_loader_batches(t->val[0]);
  rp_loss loss[2];
  *val = *dense = NAN;
  *stopped = false;
  rp_op_zero(t->q, &(rp_zero_args){t->loss, 2 * sizeof(rp_loss)});
  for (int share = 0; share < t->own; share++) {
    RP_TRY(rp_loader_seek(t->val[share], 0));
    for (int64_t i = 0; i < each; i++) {
      RP_TRY(validate_batch(t, share, err));
      if (progress) progress(ctx, (share * each + i + 1) * t->ranks, each * t->shards);
      RP_TRY(asked(t, stop, stopped, err));
      if (*stopped) return RP_OK;
    }
  }
  sum_losses(t, t->loss, 2, NULL);
  rp_download(t->q, loss, t->loss, sizeof loss);
  RP_TRY(rp_wait(t->q, err));
  if (loss[0].labels) *val = loss[0].sum / (double)loss[0].labels;
  if (joint && loss[1].labels) *dense = loss[1].sum / (double)loss[1].labels;
  return RP_OK;
}

/* ---- weights and state ---- */

rp_status rp_trainer_init(rp_trainer *t, rp_error *err) {
  return rp_params_init(&t->params, t->s->trainer.seed, err);
}

rp_status rp_trainer_load_weights(rp_trainer *t, const char *path, rp_error *err) {
  rp_store *s = NULL;
  RP_TRY(rp_store_open(&s, path, err));
  const rp_status st = rp_params_load(&t->params, s, err);
  rp_store_close(s);
  return st;
}

/* Ten in a row stopped the run that wrote it; whoever starts it again wants to go on. */
enum { MOST_IN_A_ROW = 10 };

rp_status rp_trainer_resume(rp_trainer *t, const char *dir, const rp_loop_state *state,
                            rp_error *err) {
  rp_status st = RP_OK;
  rp_store *s = NULL;
  const rp_ctl ctl = {.t = state->adam_step,
                      .skipped = state->skipped,
                      .in_a_row = state->in_a_row < MOST_IN_A_ROW ? state->in_a_row : 0};
  RP_GO(rp_store_open(&s, dir, err));
  RP_GO(rp_params_load(&t->params, s, err));
  RP_GO(rp_optimizer_read(&t->opt, s, err));
  RP_GO(rp_optimizer_ctl_set(&t->opt, &ctl, err));
  t->micro_batches = state->micro_batches >= 0 ? state->micro_batches : state->step * t->per_share;
  for (int i = 0; i < t->own; i++) {
    st = rp_loader_seek(t->train[i], t->micro_batches);
    if (st)
      RP_GO(rp_fail(err, st,
                    "%s: data.train cannot be moved to micro-batch %lld; remove "
                    "this checkpoint",
                    dir, (long long)t->micro_batches));
  }
fail:
  rp_store_close(s);
  return st;
}

/* What a checkpoint holds: the model, then the moments, as sources of whole tensors. */
typedef struct {
  rp_spread_source from[3];
  rp_tensor_set set[3];
  char prefix[3][32];
  rp_writing file[2]; /* model, optimizer */
  char *path[2];
} writing;

static void set_source(rp_trainer *t, writing *w, int i, const rp_tensor *group,
                       const char *prefix) {
  if (*prefix) rp_snprintf(w->prefix[i], sizeof w->prefix[i], "%s.", prefix);
  w->from[i] = (rp_spread_source){t->spread, &t->params, group, -1};
  w->set[i] = (rp_tensor_set){.shape = &t->params.shape,
                              .prefix = w->prefix[i],
                              .dtype = RP_F32,
                              .pull = rp_spread_pull,
                              .ctx = &w->from[i]};
}

static rp_status start_writing(rp_trainer *t, writing *w, const char *dir, rp_error *err) {
  *w = (writing){0};
  w->path[0] = rp_path_join(dir, "model.safetensors");
  w->path[1] = rp_path_join(dir, "optimizer.safetensors");
  if (!w->path[0] || !w->path[1]) return rp_fail_memory(err, strlen(dir), "a path");
  const int moments = rp_optimizer_moments(&t->opt);
  set_source(t, w, 0, t->params.p, "");
  for (int i = 0; i < moments; i++)
    set_source(t, w, 1 + i, rp_optimizer_moment(&t->opt, i), rp_optimizer_moment_name(&t->opt, i));
  w->file[0] = (rp_writing){w->path[0], w->set, 1, 0, t->rank, t->ranks};
  w->file[1] = (rp_writing){w->path[1], w->set + 1, moments, 0, t->rank, t->ranks};
  return RP_OK;
}

static void end_writing(writing *w) {
  rp_free(w->path[0]);
  rp_free(w->path[1]);
}

rp_status rp_trainer_write(rp_trainer *t, const char *dir, rp_error *err) {
  writing w;
  rp_status st = start_writing(t, &w, dir, err);
  if (!st) st = rp_safetensors_write_part(&w.file[0], err);
  if (!st || t->spread) {
    const rp_status more = rp_safetensors_write_part(&w.file[1], st ? NULL : err);
    if (!st) st = more;
  }
  end_writing(&w);
  return st;
}

rp_status rp_trainer_write_index(rp_trainer *t, const char *dir, rp_error *err) {
  writing w;
  rp_status st = start_writing(t, &w, dir, err);
  for (int i = 0; i < 2 && !st; i++) st = rp_safetensors_write_index(&w.file[i], err);
  end_writing(&w);
  return st;
}

rp_status rp_trainer_state(rp_trainer *t, rp_loop_state *st, rp_error *err) {
  rp_ctl ctl;
  RP_TRY(rp_optimizer_ctl_get(&t->opt, &ctl, err));
  st->adam_step = ctl.t;
  st->skipped = ctl.skipped;
  st->in_a_row = ctl.in_a_row;
  st->micro_batches = t->micro_batches;
  st->shards = t->shards;
  return RP_OK;
}

/* ---- device and its rate ---- */

rp_status rp_trainer_device(const char *name, rp_device_kind *kind, rp_error *err) {
  rp_error why;
  const rp_status st = rp_device_choose(name, kind, &why);
  return st ? rp_fail(err, st, "trainer.device=%s: %s; use trainer.device=cpu", name, why.text)
            : RP_OK;
}

double rp_trainer_flops(const rp_settings *s, int64_t micro_batches) {
  const int64_t batch = (int64_t)s->train.batch * micro_batches;
  const rp_flops f = rp_cost_flops(&s->model, &s->model.pats, batch, s->train.T);
  double sum = f.products + f.attention + f.head;
  rp_pats dense = {0};
  if (s->model.joint_train &&
      !rp_pats_uniform(&dense, (rp_pat){1, 0, 0}, s->model.N, s->model.Hk, NULL)) {
    const rp_flops g = rp_cost_flops(&s->model, &dense, batch, s->train.T);
    sum += g.products + g.attention + g.head;
    rp_pats_free(&dense);
  }
  return 3 * sum;
}

double rp_trainer_product_rate(rp_device_kind kind, rp_dtype dtype) {
  rp_device *d;
  double rate = 0;
  if (rp_device_open(&d, kind, NULL)) return 0;
  if (rp_product_rate(d, dtype, 0.5, &rate, NULL)) rate = 0;
  rp_device_close(d);
  return rate;
}
