/* spread.c - gathering and reducing units around a net's passes. */
#include "model/spread.h"

/* A unit's tensors in one place: matrices, vectors, and of the embedding in bfloat16 the float32
 * table as well. */
typedef struct {
  int unit;         /* whose; -1: nobody's */
  rp_tensor at[2];  /* by rp_group: [ranks * part] */
  rp_tensor wide;   /* float32 matrices that at[0] is rounded from; none */
  rp_ticket ticket; /* of the last collective on it; 0: none */
  bool ready;       /* awaited */
  rp_tensor slot[RP_SLOTS];
} place;

enum { ROTATE = 2, OWN = 2 }; /* layers' buffers; those of units 0 and N+1 come before them */

struct rp_spread {
  rp_params *p;
  rp_comm *c;
  rp_shard how;
  bool parts, train, last, back;
  int ranks, units;
  place *w, *g;          /* [places], [OWN + ROTATE]; parts only */
  int places;            /* of w */
  rp_ticket *reduced;    /* [units] of the unit's last reduction */
  rp_ticket last_reduce; /* 0: nothing to wait for */
  rp_ptr memory;         /* all of it */
};

bool rp_shard_parts(rp_shard how) { return how == RP_SHARD_FULL || how == RP_SHARD_GRAD_OP; }

/* ---- buffers ---- */

/* Which place of w, or of g, a unit has. */
static int place_of(int unit, int units, bool rotate) {
  if (!rotate) return unit;
  if (unit == 0) return 0;
  return unit == units - 1 ? 1 : OWN + unit % ROTATE;
}

static int places_of(int units, bool rotate) { return rotate ? OWN + ROTATE : units; }

/* Sizes of place i, in elements by group. */
static void place_size(const rp_layout *l, int units, int i, bool rotate, int64_t n[2]) {
  for (int g = 0; g < 2; g++) {
    if (rotate && i >= OWN)
      n[g] = units > 2 ? rp_layout_largest(l, g, 1, units - 2) : 0;
    else
      n[g] = rp_layout_largest(l, g, rotate && i == 1 ? units - 1 : i,
                               rotate && i == 1 ? units - 1 : i);
  }
}

static size_t take(size_t *used, int64_t n, rp_dtype t) {
  const size_t at = *used;
  *used += ((size_t)n * (size_t)rp_dtype_bytes(t) + 63) & ~(size_t)63;
  return at;
}

/* Lays out the places one behind the other from `used` on; base none: counts only. */
static void carve(place *w, int places, const rp_layout *l, int units, bool rotate, rp_dtype matrix,
                  rp_dtype real, rp_ptr base, size_t *used) {
  for (int i = 0; i < places; i++) {
    int64_t n[2];
    place_size(l, units, i, rotate, n);
    const size_t m = take(used, n[0], matrix), v = take(used, n[1], real);
    const bool wide = i == 0 && matrix != real;
    const size_t x = wide ? take(used, n[0], real) : 0;
    if (!w) continue;
    w[i] = (place){.unit = -1};
    w[i].at[0] = (rp_tensor){rp_ptr_add(base, m), matrix};
    w[i].at[1] = (rp_tensor){rp_ptr_add(base, v), real};
    if (wide) w[i].wide = (rp_tensor){rp_ptr_add(base, x), real};
  }
}

rp_spread_bytes rp_spread_plan(const rp_shape *s, const rp_layout *l, rp_shard how, rp_dtype real,
                               rp_dtype dtype, bool train) {
  rp_spread_bytes b = {0};
  const bool rotate = how == RP_SHARD_FULL;
  if (!rp_shard_parts(how) || l->ranks == 1) return b;
  carve(NULL, places_of(s->units, rotate), l, s->units, rotate, dtype == RP_BF16 ? RP_BF16 : real,
        real, (rp_ptr){0}, &b.gathered);
  if (train) carve(NULL, OWN + ROTATE, l, s->units, true, real, real, (rp_ptr){0}, &b.grads);
  return b;
}

static rp_status open_places(rp_spread *s, rp_error *err) {
  const rp_params *p = s->p;
  const rp_dtype real = rp_device_real(p->dev), dtype = p->copy.p.at ? RP_BF16 : RP_F32;
  const bool rotate = s->how == RP_SHARD_FULL;
  const rp_spread_bytes b = rp_spread_plan(&p->shape, &p->lay, s->how, real, dtype, s->train);
  size_t used = 0;
  s->places = places_of(s->units, rotate);
  s->w = rp_calloc((size_t)s->places, sizeof *s->w);
  s->g = rp_calloc(OWN + ROTATE, sizeof *s->g);
  if (!s->w || !s->g) return rp_fail_memory(err, (size_t)s->places * sizeof *s->w, "units");
  RP_TRY(rp_device_alloc(p->dev, b.gathered + b.grads, "gathered parameters and gradients",
                         &s->memory, err));
  carve(s->w, s->places, &p->lay, s->units, rotate, p->compute, real, s->memory, &used);
  if (s->train) carve(s->g, OWN + ROTATE, &p->lay, s->units, true, real, real, s->memory, &used);
  return RP_OK;
}

rp_status rp_spread_open(rp_spread **out, rp_params *p, rp_comm *c, rp_shard how, bool train,
                         rp_error *err) {
  rp_status st = RP_OK;
  *out = NULL;
  rp_spread *s = rp_calloc(1, sizeof *s);
  if (!s) return rp_fail_memory(err, sizeof *s, "the spread of a model over ranks");
  *s = (rp_spread){.p = p, .c = c, .how = how, .train = train, .units = p->shape.units};
  s->ranks = rp_comm_size(c);
  s->parts = rp_shard_parts(how);
  s->reduced = rp_calloc((size_t)s->units, sizeof *s->reduced);
  if (!s->reduced) RP_GO(rp_fail_memory(err, (size_t)s->units * sizeof *s->reduced, "units"));
  if (s->parts) RP_GO(open_places(s, err));
  *out = s;
  return RP_OK;
fail:
  rp_spread_close(s);
  return st;
}

void rp_spread_close(rp_spread *s) {
  if (!s) return;
  rp_comm_drain(s->c);
  rp_device_free(s->p->dev, s->memory);
  rp_free(s->w);
  rp_free(s->g);
  rp_free(s->reduced);
  rp_free(s);
}

/* ---- a unit in its place ---- */

static void fill_slots(const rp_spread *s, place *x, int unit) {
  const rp_unit_at *u = &s->p->lay.unit[unit];
  for (int i = 0; i < RP_SLOTS; i++) {
    const rp_param *t = rp_shape_at(&s->p->shape, unit, i);
    x->slot[i] = (rp_tensor){{0}, RP_F32};
    if (t) x->slot[i] = rp_tensor_at(x->at[t->group], t->offset - u->from[t->group]);
  }
  /* Slot 1 of the embedding: the table as its lookup reads it. */
  if (unit == 0) x->slot[RP_SLOT_EMBED + 1] = x->wide.p.at ? x->wide : x->at[0];
}

static void start_gather(rp_spread *s, int unit) {
  const rp_params *p = s->p;
  const rp_unit_at *u = &p->lay.unit[unit];
  place *x = &s->w[place_of(unit, s->units, s->how == RP_SHARD_FULL)];
  if (x->unit == unit) return;
  x->unit = unit;
  x->ready = false;
  fill_slots(s, x, unit);
  for (int g = 0; g < 2; g++) {
    const bool wide = g == RP_GROUP_MATRIX && x->wide.p.at;
    const bool rounded = g == RP_GROUP_MATRIX && p->copy.p.at && !wide;
    const rp_tensor in = rp_tensor_at(rounded ? p->copy : p->p[g], u->at[g]);
    const rp_ptr out = wide ? x->wide.p : x->at[g].p;
    if (!u->part[g]) continue;
    x->ticket = rp_comm_start(s->c, p->q,
                              &(rp_collective){RP_COMM_GATHER, 0, in.dtype, u->part[g], in.p, out});
  }
}

static place *gathered(rp_spread *s, int unit) {
  place *x = &s->w[place_of(unit, s->units, s->how == RP_SHARD_FULL)];
  if (x->ready) return x;
  rp_comm_await(s->c, s->p->q, x->ticket);
  x->ready = true;
  if (x->wide.p.at)
    rp_op_cast(s->p->q,
               &(rp_cast_args){s->p->lay.unit[unit].part[0] * s->ranks, x->wide, x->at[0]});
  return x;
}

/* The unit that is needed next is on its way while this one works. A held unit 0 is asked for in the
 * middle of a pass, for the head. */
static void start_next(rp_spread *s, int unit, bool held) {
  if (unit == 0 && held) return;
  const int next = s->back ? unit - 1 : unit + 1;
  if (next >= 1 && next < s->units) start_gather(s, next);
}

static rp_status need(void *ctx, rp_queue *q, int unit, const rp_tensor **w, rp_error *err) {
  rp_spread *s = ctx;
  (void)q, (void)err;
  if (!s->parts) {
    *w = s->p->slots + (size_t)unit * RP_SLOTS;
    return RP_OK;
  }
  const place *x = &s->w[place_of(unit, s->units, s->how == RP_SHARD_FULL)];
  const bool held = x->unit == unit && x->ready;
  start_gather(s, unit);
  start_next(s, unit, held);
  *w = gathered(s, unit)->slot;
  return RP_OK;
}

/* Unit 0 is done last in every pass; nothing outlives one. */
static void done(void *ctx, rp_queue *q, int unit) {
  rp_spread *s = ctx;
  (void)q;
  if (unit) return;
  s->back = false;
  for (int i = 0; i < s->places; i++) s->w[i].unit = -1;
}

/* ---- gradients ---- */

static size_t unit_bytes(const rp_spread *s, int unit, int g) {
  return (size_t)(s->p->lay.unit[unit].part[g] * s->ranks) *
         (size_t)rp_dtype_bytes(rp_device_real(s->p->dev));
}

/* A whole unit's gradients begin at 0, but this rank's part at what former micro-batches left: so
 * the sum over ranks adds to it. */
static void begin_grads(rp_spread *s, place *x, int unit) {
  const rp_params *p = s->p;
  const rp_unit_at *u = &p->lay.unit[unit];
  const rp_ticket t = s->reduced[unit] > x->ticket ? s->reduced[unit] : x->ticket;
  if (t) rp_comm_await(s->c, p->q, t);
  x->unit = unit;
  fill_slots(s, x, unit);
  for (int g = 0; g < 2; g++) {
    if (!u->part[g]) continue;
    const rp_tensor own = rp_tensor_at(x->at[g], u->part[g] * p->lay.rank);
    rp_op_zero(p->q, &(rp_zero_args){x->at[g].p, unit_bytes(s, unit, g)});
    rp_op_cast(p->q, &(rp_cast_args){u->part[g], rp_tensor_at(p->g[g], u->at[g]), own});
  }
}

static rp_status grad(void *ctx, rp_queue *q, int unit, const rp_tensor **out, rp_error *err) {
  rp_spread *s = ctx;
  (void)q, (void)err;
  s->back = true;
  if (!s->parts) {
    *out = s->p->gslots + (size_t)unit * RP_SLOTS;
    return RP_OK;
  }
  place *x = &s->g[place_of(unit, s->units, true)];
  if (x->unit != unit) begin_grads(s, x, unit);
  *out = x->slot;
  return RP_OK;
}

static void reduce(rp_spread *s, rp_comm_kind kind, int unit, int64_t n, rp_ptr in, rp_ptr out) {
  const rp_collective a = {kind, 0, rp_device_real(s->p->dev), n, in, out};
  if (!n) return;
  s->last_reduce = s->reduced[unit] = rp_comm_start(s->c, s->p->q, &a);
}

static void grad_ready(void *ctx, rp_queue *q, int unit) {
  rp_spread *s = ctx;
  const rp_params *p = s->p;
  const rp_unit_at *u = &p->lay.unit[unit];
  (void)q;
  if (!s->parts && !s->last) return;
  place *x = s->parts ? &s->g[place_of(unit, s->units, true)] : NULL;
  for (int g = 0; g < 2; g++) {
    const rp_ptr part = rp_tensor_at(p->g[g], u->at[g]).p;
    if (x)
      reduce(s, RP_COMM_SCATTER, unit, u->part[g], x->at[g].p, part);
    else
      reduce(s, RP_COMM_SUM, unit, u->n[g], part, part);
  }
  if (!x) return;
  x->unit = -1;
  x->ticket = s->reduced[unit];
}

void rp_spread_last(rp_spread *s, bool last) { s->last = last; }

/* Collectives end in the order they began. */
void rp_spread_finish(rp_spread *s) {
  if (s->last_reduce) rp_comm_await(s->c, s->p->q, s->last_reduce);
  s->last_reduce = 0;
}

void rp_spread_sum(void *ctx, rp_queue *q, rp_ptr sums, int n) {
  rp_spread *s = ctx;
  rp_comm_await(s->c, q,
                rp_comm_start(s->c, q, &(rp_collective){RP_COMM_SUM, 0, RP_F64, n, sums, sums}));
}

rp_weights rp_spread_weights(rp_spread *s) {
  return (rp_weights){.ctx = s, .need = need, .done = done, .grad = grad, .grad_ready = grad_ready};
}

/* ---- whole tensors ---- */

static void collect(rp_spread *s, const rp_tensor group[2], int unit) {
  const rp_unit_at *u = &s->p->lay.unit[unit];
  place *x = &s->g[place_of(unit, s->units, true)];
  for (int g = 0; g < 2; g++) {
    const rp_tensor in = rp_tensor_at(group[g], u->at[g]);
    if (!u->part[g]) continue;
    x->ticket = rp_comm_start(
        s->c, s->p->q, &(rp_collective){RP_COMM_GATHER, 0, in.dtype, u->part[g], in.p, x->at[g].p});
    rp_comm_await(s->c, s->p->q, x->ticket);
  }
}

rp_status rp_spread_pull(void *ctx, const rp_param *t, rp_dtype dtype, void *out, rp_error *err) {
  rp_spread_source *from = ctx;
  rp_spread *s = from->s;
  rp_queue *q = from->p->q;
  rp_tensor at = rp_tensor_at(from->group[t->group], t->offset);
  if (s && s->parts) {
    const rp_unit_at *u = &s->p->lay.unit[t->unit];
    if (from->unit != t->unit) collect(s, from->group, t->unit);
    from->unit = t->unit;
    at = rp_tensor_at(s->g[place_of(t->unit, s->units, true)].at[t->group],
                      t->offset - u->from[t->group]);
  }
  if (out) rp_download_as(q, out, dtype, at, t->rows * t->cols);
  return rp_wait(q, err);
}

/* ---- what it costs ---- */

static void add_cost(rp_comm_kind k, int ranks, int64_t n, rp_dtype t, double *bytes,
                     int64_t *collectives) {
  if (!n) return;
  bytes[k] += rp_comm_cost(k, ranks, n, t);
  ++*collectives;
}

void rp_spread_traffic(const rp_layout *l, const rp_shape *s, rp_shard how, int ranks,
                       rp_dtype real, rp_dtype dtype, bool grad_too, bool last,
                       double bytes[RP_COMM_KINDS], int64_t *collectives) {
  const bool parts = rp_shard_parts(how);
  for (int u = 0; u < s->units; u++) {
    const bool layer = u > 0 && u < s->units - 1;
    /* Layers but the last two are gathered again in backward. */
    const int times = how == RP_SHARD_FULL && grad_too && layer && u < s->units - 3 ? 2 : 1;
    for (int g = 0; g < 2; g++) {
      const rp_dtype t = g == RP_GROUP_MATRIX && u > 0 && dtype == RP_BF16 ? RP_BF16 : real;
      for (int i = 0; i < times && parts; i++)
        add_cost(RP_COMM_GATHER, ranks, l->unit[u].part[g], t, bytes, collectives);
      if (parts && grad_too)
        add_cost(RP_COMM_SCATTER, ranks, l->unit[u].part[g], real, bytes, collectives);
      if (!parts && grad_too && last)
        add_cost(RP_COMM_SUM, ranks, l->unit[u].n[g], real, bytes, collectives);
    }
  }
}
