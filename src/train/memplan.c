#include "train/memplan.h"

#include "base/cpu.h"
#include "base/str.h"
#include "model/cost.h"
#include "model/net.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/text_sample.h"
#include "train/trainer.h"

static uint64_t largest_tensor(const rp_shape *s) {
  int64_t most = 0;
  for (int i = 0; i < s->n; i++) {
    const int64_t n = s->p[i].rows * s->p[i].cols;
    if (n > most) most = n;
  }
  return (uint64_t)most * sizeof(float);
}

static uint64_t loader_bytes(const rp_settings *s, int ranks) {
  /* On the device ids and labels of the whole iteration, on the host one micro-batch. */
  const uint64_t T = (uint64_t)s->train.T;
  return 2 * sizeof(int32_t) * T *
         ((uint64_t)(s->trainer.global_batch / ranks) + (uint64_t)s->train.batch);
}

static void add_up(rp_train_memory *m) {
  m->total = m->masters + m->copy + m->grads + m->optimizer + m->acts + m->work + m->scratch +
             m->tables + m->loader + m->saving + m->gathered + m->comm + m->samples;
}

static rp_status plan_on(rp_device *d, const rp_settings *s, int ranks, rp_train_memory *out,
                         rp_error *err) {
  rp_status st = RP_OK;
  rp_shape shape = {0};
  rp_layout lay = {0};
  const bool parts = ranks > 1 && rp_shard_parts(s->trainer.shard);
  rp_net_bytes net;
  const rp_dtype real = rp_device_real(d);
  const rp_net_opts o = {.batch = s->train.batch,
                         .T = s->train.T,
                         .dtype = s->trainer.dtype,
                         .train = true,
                         .recompute = s->trainer.recompute};
  RP_GO(rp_shape_make(&shape, &s->model, err));
  RP_GO(rp_net_plan(d, &s->model, &o, &net, err));
  RP_GO(rp_layout_make(&lay, &shape, 0, parts ? ranks : 1, err));
  const rp_params_bytes p = rp_params_plan(&lay, real, s->trainer.dtype, true);
  const rp_spread_bytes x =
      rp_spread_plan(&shape, &lay, s->trainer.shard, real, s->trainer.dtype, true);
  *out = (rp_train_memory){.masters = p.masters,
                           .copy = p.copy,
                           .grads = p.grads,
                           .acts = net.acts,
                           .work = net.tmp,
                           .scratch = net.scratch,
                           .tables = net.tables,
                           .loader = loader_bytes(s, ranks),
                           .gathered = x.gathered + x.grads,
                           .comm = rp_comm_bytes(ranks)};
  out->optimizer = rp_optimizer_plan(&lay, real, s->optim.name);
  /* Written straight from pages of the heap that no buffer above shares. */
  out->saving = s->trainer.save_checkpoint ? largest_tensor(&shape) : 0;
  RP_GO(rp_text_sample_plan(d, s, &out->samples, err));
  out->checkpoint =
      (uint64_t)shape.total * sizeof(float) * (s->optim.name == RP_OPT_SGD ? 2 : 3) + (1u << 16);
  add_up(out);
fail:
  rp_layout_free(&lay);
  rp_shape_free(&shape);
  return st;
}

rp_status rp_memplan_make(const rp_settings *s, rp_device_kind kind, int ranks,
                          rp_train_memory *out, rp_error *err) {
  rp_device *d = NULL;
  *out = (rp_train_memory){0};
  RP_TRY(rp_device_open(&d, kind, err));
  const rp_status st = plan_on(d, s, ranks, out, err);
  out->available = rp_device_available(d);
  rp_device_close(d);
  return st;
}

/* What the run would take with these two settings; UINT64_MAX when that cannot be told. */
static uint64_t total_with(const rp_settings *s, rp_device_kind kind, int ranks, bool recompute,
                           int batch) {
  rp_settings other = *s; /* shares what s owns; only numbers change */
  rp_train_memory m;
  other.trainer.recompute = recompute;
  other.train.batch = other.val.batch = batch;
  return rp_memplan_make(&other, kind, ranks, &m, NULL) ? UINT64_MAX : m.total;
}

/* The next smaller batch that divides the global one; 0: none. */
static int smaller_batch(const rp_settings *s, int ranks, int batch) {
  for (int b = batch - 1; b > 0; b--)
    if (s->trainer.global_batch % (b * ranks) == 0) return b;
  return 0;
}

void rp_memplan_advice(const rp_settings *s, rp_device_kind kind, int ranks, uint64_t available,
                       char *out, size_t cap) {
  char size[32];
  const int batch = s->train.batch;
  /* A smaller batch costs little speed, recomputation a third more work: but a batch of one row is
   * slow as well, so recomputation is named where it is enough. */
  if (!s->trainer.recompute) {
    const uint64_t total = total_with(s, kind, ranks, true, batch);
    rp_format_bytes(size, (double)total);
    if (total <= available) {
      rp_snprintf(out, cap, "trainer.recompute=true makes it fit (%s)", size);
      return;
    }
  }
  for (int b = smaller_batch(s, ranks, batch); b > 0; b = smaller_batch(s, ranks, b)) {
    for (int recompute = s->trainer.recompute; recompute <= 1; recompute++) {
      const uint64_t total = total_with(s, kind, ranks, recompute, b);
      if (total > available) continue;
      rp_format_bytes(size, (double)total);
      rp_snprintf(out, cap, "data.batch_size=%d%s makes it fit (%s)", b,
                  recompute && !s->trainer.recompute ? " with trainer.recompute=true" : "", size);
      return;
    }
  }
  rp_snprintf(out, cap,
              "no batch size makes it fit: take a smaller model, a shorter data.seq_len, "
              "or a machine with more memory");
}

rp_status rp_memplan_check(const rp_settings *s, rp_device_kind kind, int ranks, int here,
                           uint64_t available, rp_error *err) {
  rp_train_memory m;
  char want[32], one[32], have[32], advice[512];
  RP_TRY(rp_memplan_make(s, kind, ranks, &m, err));
  const uint64_t each = available / (uint64_t)here;
  if (!available || m.total <= each) return RP_OK;
  rp_format_bytes(one, (double)m.total);
  rp_format_bytes(want, (double)m.total * here);
  rp_format_bytes(have, (double)available);
  rp_memplan_advice(s, kind, ranks, each, advice, sizeof advice);
  if (here == 1)
    return rp_fail(err, RP_NO_MEMORY, "this run takes %s of memory and %s are free; %s", want, have,
                   advice);
  return rp_fail(err, RP_NO_MEMORY,
                 "the %d ranks on this machine take %s of memory, %s each, and %s are free; %s",
                 here, want, one, have, advice);
}

/* ---- the public plan ---- */

void rp_train_plan_defaults(rp_train_plan_opts *o) {
  *o = (rp_train_plan_opts){.size = sizeof *o, .ranks = 1};
}

/* Iterations, or why the training data, which need not be there yet, does not say. */
static void count_steps(const rp_settings *s, int shards, rp_train_plan *out) {
  const int per_share = s->trainer.global_batch / (s->train.batch * shards);
  rp_loader *l = NULL;
  rp_error err = {0};
  if (per_share < 1)
    rp_fail(&err, RP_USAGE,
            "trainer.global_batch_size=%d is no multiple of data.batch_size=%d times "
            "data.shards=%d; change one of them",
            s->trainer.global_batch, s->train.batch, shards);
  else if (!rp_loader_open(&l, &s->train, 0, shards, &err))
    out->steps = rp_sched_steps(s->trainer.max_epoch, rp_loader_batches(l), per_share);
  rp_snprintf(out->unknown, sizeof out->unknown, "%s", err.text);
  rp_loader_close(l);
}

static rp_status fill(const rp_settings *s, rp_device_kind kind, int ranks, rp_train_plan *out,
                      rp_error *err) {
  rp_shape shape = {0};
  RP_TRY(rp_memplan_make(s, kind, ranks, &out->memory, err));
  RP_TRY(rp_shape_make(&shape, &s->model, err));
  out->parameters = shape.total;
  rp_shape_free(&shape);
  const int shards = s->trainer.shards > 0 ? s->trainer.shards : ranks;
  out->accumulation = s->trainer.global_batch / (s->train.batch * ranks);
  count_steps(s, shards, out);
  out->tokens_per_step = (int64_t)s->trainer.global_batch * s->train.T;
  out->flops_per_step = rp_trainer_flops(s, s->trainer.global_batch / s->train.batch);
  out->fits = !out->memory.available || out->memory.total <= out->memory.available;
  if (!out->fits)
    rp_memplan_advice(s, kind, ranks, out->memory.available, out->advice, sizeof out->advice);
  rp_snprintf(out->run_dir, sizeof out->run_dir, "%s", s->trainer.run_dir);
  return RP_OK;
}

rp_status rp_train_plan_make(const rp_config *c, const rp_train_plan_opts *opts, rp_train_plan *out,
                             rp_error *err) {
  rp_status st = RP_OK;
  rp_settings s = {0};
  rp_device_kind kind;
  const int ranks = opts && opts->ranks > 0 ? opts->ranks : 1;
  *out = (rp_train_plan){.steps = -1};
  RP_GO(rp_settings_read(&s, c, ranks, err));
  RP_GO(rp_trainer_device(opts && opts->device ? opts->device : s.trainer.device, &kind, err));
  st = fill(&s, kind, ranks, out, err);
fail:
  rp_settings_free(&s);
  return st;
}
