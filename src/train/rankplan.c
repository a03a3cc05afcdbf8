/* rankplan.c - what a run over ranks will hold, send and take, by strategy, on paper: the walk of
 * spread.c with two clocks, the work's and the wire's. */
#include "base/str.h"
#include "model/cost.h"
#include "train/memplan.h"

void rp_rank_plan_defaults(rp_rank_plan_opts *o) {
  *o = (rp_rank_plan_opts){.size = sizeof *o, .ranks = 2, .per_node = 1};
}

/* One pass of one micro-batch after another. */
typedef struct {
  const rp_layout *lay;
  const rp_rank_plan_opts *o;
  rp_shard how;
  rp_dtype real, dtype;
  int units;
  double layer, head; /* seconds of forward: of a layer, of the head */
  bool recompute;
  double second;    /* of the wire, per byte */
  double now, wire; /* clocks */
  double worked;    /* seconds of work so far */
  double *arrival;  /* [units] when a unit is gathered; < 0: not asked for */
} walk;

static double send(walk *w, rp_comm_kind k, int64_t n, rp_dtype t) {
  if (!n) return w->wire;
  if (w->wire < w->now) w->wire = w->now;
  w->wire += rp_comm_cost(k, w->o->ranks, n, t) * w->second + w->o->latency;
  return w->wire;
}

static void work(walk *w, double seconds) {
  w->now += seconds;
  w->worked += seconds;
}

static void ask(walk *w, int unit) {
  if (unit < 0 || unit >= w->units || w->arrival[unit] >= 0 || !rp_shard_parts(w->how)) return;
  for (int g = 0; g < 2; g++) {
    const bool half = g == RP_GROUP_MATRIX && unit > 0 && w->dtype == RP_BF16;
    w->arrival[unit] =
        send(w, RP_COMM_GATHER, w->lay->unit[unit].part[g], half ? RP_BF16 : w->real);
  }
}

static void need(walk *w, int unit, int next) {
  ask(w, unit);
  ask(w, next);
  if (w->arrival[unit] > w->now) w->now = w->arrival[unit];
}

static void reduce(walk *w, int unit, bool last) {
  const rp_unit_at *u = &w->lay->unit[unit];
  for (int g = 0; g < 2; g++) {
    if (rp_shard_parts(w->how))
      send(w, RP_COMM_SCATTER, u->part[g], w->real);
    else if (last)
      send(w, RP_COMM_SUM, u->n[g], w->real);
  }
}

static void one_pass(walk *w, bool last) {
  const int end = w->units - 1;
  for (int u = 0; u < w->units; u++) w->arrival[u] = -1;
  for (int u = 0; u < end; u++) {
    need(w, u, u + 1);
    if (u > 0) work(w, w->layer);
  }
  need(w, end, -1);
  work(w, 3 * w->head);
  reduce(w, end, last);
  for (int u = 1; u < end - 2 && w->how == RP_SHARD_FULL; u++) w->arrival[u] = -1;
  for (int u = end - 1; u > 0; u--) {
    need(w, u, u > 1 ? u - 1 : -1);
    work(w, (w->recompute ? 3 : 2) * w->layer);
    reduce(w, u, last);
  }
  reduce(w, 0, last);
}

static void add_pass(walk *w, const rp_flops *f, int accum, const rp_shape *s, rp_rank_plan *out) {
  const int layers = w->units - 2;
  double bytes[RP_COMM_KINDS] = {0};
  const double rate = w->o->rate > 0 ? w->o->rate : 1e30;
  w->layer = layers ? (f->products + f->attention) / layers / rate : 0;
  w->head = f->head / rate;
  for (int i = 0; i < accum; i++) {
    one_pass(w, i + 1 == accum);
    rp_spread_traffic(w->lay, s, w->how, w->o->ranks, w->real, w->dtype, true, i + 1 == accum,
                      bytes, &out->collectives);
  }
  if (w->wire > w->now) w->now = w->wire;
  out->reduced += bytes[RP_COMM_SUM];
  out->scattered += bytes[RP_COMM_SCATTER];
  out->gathered += bytes[RP_COMM_GATHER];
}

/* Bytes leave the machine by one link that its ranks share; within it they are not counted, unless
 * there is one machine. */
static double seconds_per_byte(const rp_rank_plan_opts *o) {
  const int node = o->per_node < 1 ? 1 : o->per_node;
  if (o->link <= 0) return 0;
  if (o->ranks <= node) return 1 / o->link;
  return (double)(o->ranks - node) / (o->ranks - 1) * node / o->link;
}

static rp_status plan_with(const rp_settings *s, rp_device_kind kind, const rp_shape *shape,
                           walk *w, rp_rank_plan *out, rp_error *err) {
  rp_settings other = *s; /* borrows what s owns */
  rp_layout lay;
  rp_pats dense;
  const int accum = s->trainer.global_batch / (s->train.batch * w->o->ranks);
  other.trainer.shard = w->how;
  *out = (rp_rank_plan){.strategy = (int)w->how};
  RP_TRY(rp_memplan_make(&other, kind, w->o->ranks, &out->memory, err));
  RP_TRY(rp_layout_make(&lay, shape, 0, rp_shard_parts(w->how) ? w->o->ranks : 1, err));
  w->lay = &lay;
  w->now = w->wire = w->worked = 0;
  rp_flops f = rp_cost_flops(&s->model, &s->model.pats, s->train.batch, s->train.T);
  add_pass(w, &f, accum, shape, out);
  if (s->model.joint_train &&
      !rp_pats_uniform(&dense, (rp_pat){1, 0, 0}, s->model.N, s->model.Hk, NULL)) {
    f = rp_cost_flops(&s->model, &dense, s->train.batch, s->train.T);
    add_pass(w, &f, accum, shape, out);
    rp_pats_free(&dense);
  }
  rp_layout_free(&lay);
  out->work = w->o->rate > 0 ? w->worked : 0;
  out->wire = (out->reduced + out->scattered + out->gathered) * w->second +
              (double)out->collectives * w->o->latency;
  out->seconds = w->o->rate > 0 && w->o->link > 0 ? w->now : 0;
  rp_snprintf(out->binds, sizeof out->binds, "%s",
              !out->seconds                    ? ""
              : out->seconds < 1.1 * out->work ? "work"
              : out->wire > out->work          ? "network"
                                               : "both");
  return RP_OK;
}

rp_status rp_rank_plan_settings(const rp_settings *s, rp_device_kind kind,
                                const rp_rank_plan_opts *o, rp_rank_plan rows[3], rp_error *err) {
  rp_status st = RP_OK;
  rp_shape shape = {0};
  walk w = {.o = o, .real = RP_F32, .dtype = s->trainer.dtype, .second = seconds_per_byte(o)};
  RP_GO(rp_shape_make(&shape, &s->model, err));
  w.units = shape.units;
  w.recompute = s->trainer.recompute;
  w.arrival = rp_calloc((size_t)shape.units, sizeof *w.arrival);
  if (!w.arrival) RP_GO(rp_fail_memory(err, 64, "a plan"));
  for (int i = 0; i < 3; i++) {
    w.how = (rp_shard)(3 - i);
    RP_GO(plan_with(s, kind, &shape, &w, &rows[i], err));
  }
fail:
  rp_free(w.arrival);
  rp_shape_free(&shape);
  return st;
}

rp_status rp_rank_plan_make(const rp_config *c, const rp_rank_plan_opts *o, rp_rank_plan rows[3],
                            rp_error *err) {
  rp_status st = RP_OK;
  rp_settings s = {0};
  RP_GO(rp_settings_read(&s, c, o->ranks, err));
  st = rp_rank_plan_settings(&s, RP_DEVICE_CPU, o, rows, err);
fail:
  rp_settings_free(&s);
  return st;
}
