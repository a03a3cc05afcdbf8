#include "train/optimizer.h"

#include "base/str.h"

static int moments_of(rp_opt_name name) { return name == RP_OPT_SGD ? 1 : 2; }

size_t rp_optimizer_plan(const rp_layout *l, rp_dtype real, rp_opt_name name) {
  return (size_t)(l->local[0] + l->local[1]) * (size_t)rp_dtype_bytes(real) *
         (size_t)moments_of(name);
}

static rp_status alloc_moments(rp_optimizer *o, rp_error *err) {
  const rp_dtype real = rp_device_real(o->p->dev);
  for (int which = 0; which < rp_optimizer_moments(o); which++) {
    for (int g = 0; g < 2; g++) {
      rp_tensor *t = which ? &o->v[g] : &o->m[g];
      const size_t n = (size_t)o->p->lay.local[g];
      t->dtype = real;
      RP_TRY(rp_device_alloc(o->p->dev, n * (size_t)rp_dtype_bytes(real), "optimizer state", &t->p,
                             err));
    }
  }
  return RP_OK;
}

static rp_status upload_ranges(rp_optimizer *o, rp_error *err) {
  const rp_shape *s = &o->p->shape;
  rp_range *r = rp_calloc((size_t)s->n, sizeof *r);
  if (!r) return rp_fail_memory(err, (size_t)s->n * sizeof *r, "the optimizer's range table");
  for (int i = 0; i < s->n; i++)
    r[i] = (rp_range){.offset = o->p->lay.piece[i].at,
                      .n = o->p->lay.piece[i].n,
                      .group = (int32_t)s->p[i].group,
                      .decay = o->o.weight_decay};
  rp_upload(o->p->q, o->range, r, (size_t)s->n * sizeof *r);
  const rp_status st = rp_wait(o->p->q, err);
  rp_free(r);
  return st;
}

/* The three ops of a step. */
typedef struct {
  rp_sumsq_args sumsq;
  rp_clip_args clip;
  rp_optim_args optim;
} ops;

static void make_ops(const rp_optimizer *o, rp_ptr loss, ops *a) {
  const rp_params *p = o->p;
  a->sumsq = (rp_sumsq_args){.ranges = o->ranges, .range = o->range, .out = o->sums};
  a->clip = (rp_clip_args){o->ranges, o->clip, o->sums, loss, o->ctl};
  a->optim = (rp_optim_args){.ranges = o->ranges,
                             .kind = o->o.name,
                             .beta1 = o->o.beta1,
                             .beta2 = o->o.beta2,
                             .eps = o->o.eps,
                             .momentum = o->o.momentum,
                             .range = o->range,
                             .ctl = o->ctl,
                             .copy = p->copy};
  for (int g = 0; g < 2; g++) {
    a->sumsq.g[g] = a->optim.g[g] = p->g[g];
    a->optim.p[g] = p->p[g];
    a->optim.m[g] = o->m[g];
    a->optim.v[g] = o->v[g];
  }
}

/* The net reserves for its own ops; ours may need more in a tiny model. */
static rp_status reserve(const rp_optimizer *o, rp_error *err) {
  ops a;
  make_ops(o, (rp_ptr){0}, &a);
  const rp_device *d = o->p->dev;
  const size_t n[3] = {rp_op_scratch(d, RP_OP_sumsq, &a.sumsq),
                       rp_op_scratch(d, RP_OP_clip, &a.clip),
                       rp_op_scratch(d, RP_OP_optim, &a.optim)};
  for (int i = 0; i < 3; i++) RP_TRY(rp_queue_reserve(o->p->q, n[i], err));
  return RP_OK;
}

rp_status rp_optimizer_open(rp_optimizer *o, rp_params *p, const rp_optim_settings *s, double clip,
                            rp_error *err) {
  rp_status st = RP_OK;
  *o = (rp_optimizer){.p = p, .o = *s, .clip = clip, .ranges = p->shape.n};
  const size_t n = (size_t)o->ranges;
  RP_GO(rp_device_alloc(p->dev, n * sizeof(rp_range), "optimizer state", &o->range, err));
  RP_GO(rp_device_alloc(p->dev, n * sizeof(double), "optimizer state", &o->sums, err));
  RP_GO(rp_device_alloc(p->dev, sizeof(rp_ctl), "optimizer state", &o->ctl, err));
  RP_GO(alloc_moments(o, err));
  RP_GO(reserve(o, err));
  RP_GO(upload_ranges(o, err));
  return RP_OK;
fail:
  rp_optimizer_close(o);
  return st;
}

void rp_optimizer_close(rp_optimizer *o) {
  if (!o->p) return;
  rp_device *d = o->p->dev;
  rp_device_free(d, o->range);
  rp_device_free(d, o->sums);
  rp_device_free(d, o->ctl);
  for (int g = 0; g < 2; g++) {
    rp_device_free(d, o->m[g].p);
    rp_device_free(d, o->v[g].p);
  }
  *o = (rp_optimizer){0};
}

void rp_optimizer_step(rp_optimizer *o, double lr, rp_ptr loss) {
  rp_queue *q = o->p->q;
  ops a;
  make_ops(o, loss, &a);
  rp_upload(q, rp_ptr_add(o->ctl, offsetof(rp_ctl, lr)), &lr, sizeof lr);
  rp_op_sumsq(q, &a.sumsq);
  if (o->sum) o->sum(o->sum_ctx, q, o->sums, o->ranges);
  rp_op_clip(q, &a.clip);
  rp_op_optim(q, &a.optim);
}

/* ---- state to and from the host ---- */

int rp_optimizer_moments(const rp_optimizer *o) { return moments_of(o->o.name); }

const char *rp_optimizer_moment_name(const rp_optimizer *o, int which) {
  if (o->o.name == RP_OPT_SGD) return "momentum_buffer";
  return which ? "exp_avg_sq" : "exp_avg";
}

rp_tensor *rp_optimizer_moment(rp_optimizer *o, int which) { return which ? o->v : o->m; }

rp_status rp_optimizer_get(rp_optimizer *o, int which, const rp_param *t, float *out,
                           rp_error *err) {
  rp_piece x;
  const rp_tensor from = rp_params_piece(o->p, rp_optimizer_moment(o, which), t, &x);
  rp_download_as(o->p->q, out + x.from, RP_F32, from, x.n);
  return rp_wait(o->p->q, err);
}

rp_status rp_optimizer_set(rp_optimizer *o, int which, const rp_param *t, const float *in,
                           rp_error *err) {
  rp_piece x;
  const rp_tensor to = rp_params_piece(o->p, rp_optimizer_moment(o, which), t, &x);
  rp_upload_as(o->p->q, to, in + x.from, RP_F32, x.n);
  return rp_wait(o->p->q, err);
}

rp_status rp_optimizer_ctl_get(rp_optimizer *o, rp_ctl *ctl, rp_error *err) {
  rp_download(o->p->q, ctl, o->ctl, sizeof *ctl);
  return rp_wait(o->p->q, err);
}

rp_status rp_optimizer_ctl_set(rp_optimizer *o, const rp_ctl *ctl, rp_error *err) {
  rp_upload(o->p->q, o->ctl, ctl, sizeof *ctl);
  return rp_wait(o->p->q, err);
}

static int64_t largest(const rp_shape *s) {
  int64_t most = 1;
  for (int i = 0; i < s->n; i++) {
    const int64_t n = s->p[i].rows * s->p[i].cols;
    if (n > most) most = n;
  }
  return most;
}

rp_status rp_optimizer_read(rp_optimizer *o, const rp_store *s, rp_error *err) {
  rp_status st = RP_OK;
  const rp_shape *shape = &o->p->shape;
  const size_t most = (size_t)largest(shape);
  float *host = rp_malloc(most, sizeof *host);
  if (!host) return rp_fail_memory(err, most * sizeof *host, "optimizer state being loaded");
  for (int which = 0; which < rp_optimizer_moments(o); which++) {
    const char *name = rp_optimizer_moment_name(o, which);
    for (int i = 0; i < shape->n; i++) {
      bool has = false;
      if (!o->p->lay.piece[i].n) continue;
      RP_GO(rp_store_moment_f32(s, shape, &shape->p[i], name, host, &has, err));
      if (!has)
        RP_GO(rp_fail(err, RP_BAD_DATA,
                      "%s: carries no \"%s.%s\"; remove this checkpoint, or "
                      "start another run from its weights with trainer.pretrained_path=",
                      rp_store_path(s), name, shape->p[i].name));
      RP_GO(rp_optimizer_set(o, which, &shape->p[i], host, err));
    }
  }
fail:
  rp_free(host);
  return st;
}
