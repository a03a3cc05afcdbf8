#include "train/trainer.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "model/cost.h"
#include "train/schedule.h"

/* ---- opening ---- */

static rp_status open_loaders(rp_loader ***out, const rp_load_settings *s, int shards,
                              const char *what, rp_error *err) {
  *out = rp_calloc((size_t)shards, sizeof **out);
  if (!*out) return rp_fail_memory(err, (size_t)shards * sizeof **out, "loaders");
  for (int i = 0; i < shards; i++)
    if (rp_loader_open(&(*out)[i], s, i, shards, err)) return rp_fail_at(err, "data.%s", what);
  return RP_OK;
}

static void close_loaders(rp_loader **l, int shards) {
  for (int i = 0; l && i < shards; i++) rp_loader_close(l[i]);
  rp_free(l);
}

static rp_status divide(rp_trainer *t, rp_error *err) {
  const int batch = t->s->train.batch, global = t->s->trainer.global_batch;
  if (t->shards < 1 || batch < 1 || global % (batch * t->shards))
    return rp_fail(err, RP_USAGE,
                   "trainer.global_batch_size=%d is no multiple of data.batch_size=%d times "
                   "data.shards=%d; change one of them",
                   global, batch, t->shards);
  t->per_share = global / (batch * t->shards);
  t->accum = t->per_share * t->shards;
  return RP_OK;
}

static rp_status open_data(rp_trainer *t, rp_error *err) {
  const rp_settings *s = t->s;
  RP_TRY(divide(t, err));
  RP_TRY(open_loaders(&t->train, &s->train, t->shards, "train", err));
  RP_TRY(open_loaders(&t->val, &s->val, t->shards, "val", err));
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

rp_status rp_trainer_open(rp_trainer *t, const rp_settings *s, rp_device_kind kind, int shards,
                          rp_error *err) {
  rp_status st = RP_OK;
  *t = (rp_trainer){.s = s, .shards = shards, .late = kind == RP_DEVICE_GUARD};
  const rp_net_opts o = {.batch = s->train.batch,
                         .T = s->train.T,
                         .dtype = s->trainer.dtype,
                         .train = true,
                         .recompute = s->trainer.recompute};
  RP_GO(open_data(t, err));
  RP_GO(rp_device_open(&t->dev, kind, err));
  RP_GO(rp_queue_open(&t->q, t->dev, err));
  RP_GO(rp_params_open(&t->params, t->q, &s->model, s->trainer.dtype, true, err));
  RP_GO(rp_optimizer_open(&t->opt, &t->params, &s->optim, s->trainer.clip, err));
  RP_GO(rp_net_open(&t->net, t->q, &s->model, &o, err));
  RP_GO(rp_net_add_plan(t->net, &s->model.pats, &t->plan, err));
  RP_GO(open_buffers(t, err));
  t->weights = rp_params_weights(&t->params);
  return RP_OK;
fail:
  rp_trainer_close(t);
  return st;
}

void rp_trainer_close(rp_trainer *t) {
  if (t->q) rp_wait(t->q, NULL);
  close_loaders(t->train, t->shards);
  close_loaders(t->val, t->shards);
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
                   .weight = 1.0 / t->accum,
                   .ids = rp_ptr_add(t->dids, at),
                   .labels = rp_ptr_add(t->dlabels, at),
                   .loss = rp_ptr_add(t->loss, sizeof(rp_loss) * (size_t)which)};
}

/* One complete optimizer step over the iteration's micro-batches. */
static rp_status put_pass(rp_trainer *t, int plan, int which, double lr, rp_error *err) {
  const rp_ptr loss = rp_ptr_add(t->loss, sizeof(rp_loss) * (size_t)which);
  rp_op_zero(t->q, &(rp_zero_args){loss, sizeof(rp_loss)});
  for (int i = 0; i < t->accum; i++) {
    const rp_pass p = pass_of(t, i, plan, true, which);
    RP_TRY(rp_net_pass(t->net, &t->weights, &p, err));
  }
  rp_optimizer_step(&t->opt, lr, loss);
  return RP_OK;
}

static rp_status step(rp_trainer *t, double lr, rp_step_result *r, rp_error *err) {
  rp_ctl ctl[2];
  rp_loss loss[2];
  const bool joint = t->s->model.joint_train;
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
              (long long)t->micro_batches, (long long)rp_loader_at(t->train[t->shards - 1]),
              s->file    ? s->file
              : s->input ? s->input
                         : "?");
}

/* ---- validation ---- */

rp_status rp_trainer_validate(rp_trainer *t, const volatile sig_atomic_t *stop,
                              rp_val_progress progress, void *ctx, double *val, double *dense,
                              bool *stopped, rp_error *err) {
  const bool joint = t->s->model.joint_train;
  const int64_t each = rp_loader_batches(t->val[0]);
  rp_loss loss[2];
  *val = *dense = NAN;
  *stopped = false;
  rp_op_zero(t->q, &(rp_zero_args){t->loss, 2 * sizeof(rp_loss)});
  for (int share = 0; share < t->shards; share++) {
    RP_TRY(rp_loader_seek(t->val[share], 0));
    for (int64_t i = 0; i < each; i++) {
      RP_TRY(fetch(t, t->val[share], 0, err));
      for (int which = 0; which <= joint; which++) {
        const rp_pass p = pass_of(t, 0, which ? 0 : t->plan, false, which);
        RP_TRY(rp_net_pass(t->net, &t->weights, &p, err));
      }
      RP_TRY(rp_wait(t->q, err));
      if (progress) progress(ctx, share * each + i + 1, each * t->shards);
      *stopped = stop && *stop;
      if (*stopped) return RP_OK;
    }
  }
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
  for (int i = 0; i < t->shards; i++) {
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

rp_status rp_trainer_write(rp_trainer *t, const char *dir, rp_error *err) {
  rp_status st = RP_OK;
  char *model = rp_path_join(dir, "model.safetensors");
  char *optimizer = rp_path_join(dir, "optimizer.safetensors");
  if (!model || !optimizer) RP_GO(rp_fail_memory(err, strlen(dir), "a path"));
  RP_GO(rp_safetensors_write(model, &t->params.shape, RP_F32, "", 0, rp_params_pull, &t->params,
                             err));
  RP_GO(rp_optimizer_write(&t->opt, optimizer, err));
fail:
  rp_free(model);
  rp_free(optimizer);
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
  *kind = RP_DEVICE_CPU;
  if (!name || !*name || strcmp(name, "auto") == 0 || strcmp(name, "cpu") == 0) return RP_OK;
  if (rp_starts_with(name, "cuda"))
    return rp_fail(err, RP_USAGE,
                   "trainer.device=%s: this build has no CUDA; use "
                   "trainer.device=cpu",
                   name);
  return rp_fail(err, RP_USAGE, "trainer.device=%s: no such device; use auto, cpu or cuda", name);
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

/* Best of a few products, the first of which only warms up. */
static double time_products(rp_queue *q, const rp_gemm_args *a) {
  const double flops = 2.0 * a->M * a->N * a->K;
  double best = 0, spent = 0;
  for (int i = 0; i < 6 && spent < 0.3; i++) {
    const double t0 = rp_now();
    rp_op_gemm(q, a);
    if (rp_wait(q, NULL)) return 0;
    const double dt = rp_now() - t0;
    spent += dt;
    if ((i > 0 || spent >= 0.3) && dt > 0 && flops / dt > best) best = flops / dt;
  }
  return best;
}

double rp_trainer_product_rate(rp_device_kind kind, rp_dtype dtype) {
  enum { M = 1536 };
  rp_device *dev = NULL;
  rp_queue *q = NULL;
  rp_ptr at = {0};
  double rate = 0;
  rp_error err = {0};
  if (rp_device_open(&dev, kind, &err) || rp_queue_open(&q, dev, &err)) goto fail;
  const rp_dtype real = rp_device_real(dev), compute = dtype == RP_BF16 ? RP_BF16 : real;
  const size_t one = (size_t)M * M * (size_t)rp_dtype_bytes(compute);
  const size_t out = (size_t)M * M * (size_t)rp_dtype_bytes(real);
  rp_gemm_args a = {.M = M, .N = M, .K = M, .tb = 1, .lda = M, .ldb = M, .ldc = M};
  if (rp_device_alloc(dev, 2 * one + out, "a product", &at, &err)) goto fail;
  a.a = (rp_tensor){at, compute};
  a.b = (rp_tensor){rp_ptr_add(at, one), compute};
  a.c = (rp_tensor){rp_ptr_add(at, 2 * one), real};
  if (rp_queue_reserve(q, rp_op_scratch(dev, RP_OP_gemm, &a), &err)) goto fail;
  rate = time_products(q, &a);
fail:
  if (at.at) rp_device_free(dev, at);
  rp_queue_close(q);
  rp_device_close(dev);
  return rate;
}
