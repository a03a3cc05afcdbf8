/* params.c - flat weight buffers and the hooks of one rank. */
#include "model/params.h"

#include <math.h>
#include "base/rng.h"

enum { CHUNK = 1 << 20 }; /* elements that pass through the host at a time */

rp_params_bytes rp_params_plan(const rp_layout *l, rp_dtype real, rp_dtype dtype, bool train) {
  const size_t n = (size_t)(l->local[0] + l->local[1]), b = (size_t)rp_dtype_bytes(real);
  return (rp_params_bytes){
      .masters = n * b,
      .copy = dtype == RP_BF16 ? (size_t)l->local[0] * (size_t)rp_dtype_bytes(RP_BF16) : 0,
      .grads = train ? n * b : 0,
  };
}

static rp_status alloc(rp_params *p, int64_t n, rp_dtype dtype, const char *what, rp_tensor *t,
                       rp_error *err) {
  t->dtype = dtype;
  return rp_device_alloc(p->dev, (size_t)n * (size_t)rp_dtype_bytes(dtype), what, &t->p, err);
}

/* What products read of a matrix, and the master of a vector. */
static rp_tensor computed(const rp_params *p, const rp_param *t) {
  bool rounded = t->group == RP_GROUP_MATRIX && p->copy.p.at;
  return rp_tensor_at(rounded ? p->copy : p->p[t->group], t->offset);
}

static void fill_slots(rp_params *p) {
  for (int i = 0; i < p->shape.n; i++) {
    const rp_param *t = &p->shape.p[i];
    size_t at = (size_t)t->unit * RP_SLOTS + (size_t)t->slot;
    p->slots[at] = computed(p, t);
    if (t->unit == 0) p->slots[at + 1] = rp_tensor_at(p->p[t->group], t->offset);
    if (p->g[0].p.at) p->gslots[at] = rp_tensor_at(p->g[t->group], t->offset);
  }
}

rp_status rp_params_open_part(rp_params *p, rp_queue *q, const rp_model_settings *m, rp_dtype dtype,
                              bool train, int rank, int ranks, rp_error *err) {
  rp_status st = RP_OK;
  *p = (rp_params){.dev = rp_queue_device(q), .q = q, .m = *m};
  const rp_dtype real = rp_device_real(p->dev);
  p->compute = dtype == RP_BF16 ? RP_BF16 : real;
  RP_GO(rp_shape_make(&p->shape, m, err));
  RP_GO(rp_layout_make(&p->lay, &p->shape, rank, ranks, err));
  const int64_t *n = p->lay.local;
  for (int i = 0; i < 2; i++) RP_GO(alloc(p, n[i], real, "parameters", &p->p[i], err));
  if (dtype == RP_BF16) RP_GO(alloc(p, n[0], RP_BF16, "rounded parameters", &p->copy, err));
  for (int i = 0; train && i < 2; i++) RP_GO(alloc(p, n[i], real, "gradients", &p->g[i], err));
  const size_t slots = (size_t)p->shape.units * RP_SLOTS;
  p->slots = rp_calloc(slots, sizeof *p->slots);
  p->gslots = rp_calloc(slots, sizeof *p->gslots);
  if (!p->slots || !p->gslots) {
    st = rp_fail_memory(err, slots * sizeof *p->slots, "the table of parameters");
    goto fail;
  }
  if (ranks == 1) fill_slots(p);
  return RP_OK;
fail:
  rp_params_close(p);
  return st;
}

rp_status rp_params_open(rp_params *p, rp_queue *q, const rp_model_settings *m, rp_dtype dtype,
                         bool train, rp_error *err) {
  return rp_params_open_part(p, q, m, dtype, train, 0, 1, err);
}

void rp_params_close(rp_params *p) {
  for (int i = 0; i < 2; i++) {
    if (p->p[i].p.at) rp_device_free(p->dev, p->p[i].p);
    if (p->g[i].p.at) rp_device_free(p->dev, p->g[i].p);
  }
  if (p->copy.p.at) rp_device_free(p->dev, p->copy.p);
  rp_free(p->slots);
  rp_free(p->gslots);
  rp_layout_free(&p->lay);
  rp_shape_free(&p->shape);
  *p = (rp_params){0};
}

/* How one tensor's initial values are drawn. */
typedef struct {
  bool normal;
  double scale; /* standard deviation, or bound of the uniform */
} draw;

static draw draw_of(const rp_params *p, const rp_param *t) {
  const double fan = 1 / sqrt((double)t->cols);
  switch (p->m.init) {
    case RP_INIT_FIXED: return (draw){true, p->m.init_range};
    case RP_INIT_XAVIER: return (draw){true, fan};
    case RP_INIT_UNIFORM: return (draw){false, fan};
    case RP_INIT_TORCH: break;
  }
  return t->role == RP_ROLE_EMBED ? (draw){true, 1} : (draw){false, fan};
}

/* Elements [from, from + n) of tensor `index`; from is even. Two elements a Philox call, so that an
 * element's value depends on its place alone. */
static void draw_values(draw w, uint64_t seed, int index, int64_t from, int64_t n, float *out) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < n; i += 2) {
    uint32_t u[4];
    rp_philox(seed, RP_RNG_INIT, (uint64_t)index, (uint64_t)(from + i) / 2, u);
    double a = ((double)(((uint64_t)u[0] << 32 | u[1]) >> 11) + 0.5) * 0x1p-53;
    double b = ((double)(((uint64_t)u[2] << 32 | u[3]) >> 11) + 0.5) * 0x1p-53;
    double radius = sqrt(-2 * log(a)), angle = 6.283185307179586 * b;
    double x0 = w.normal ? radius * cos(angle) : 2 * a - 1;
    double x1 = w.normal ? radius * sin(angle) : 2 * b - 1;
    out[i] = (float)(w.scale * x0);
    if (i + 1 < n) out[i + 1] = (float)(w.scale * x1);
  }
}

static void constant_values(float x, int64_t n, float *out) {
  for (int64_t i = 0; i < n; i++) out[i] = x;
}

rp_tensor rp_params_piece(const rp_params *p, const rp_tensor group[2], const rp_param *t,
                          rp_piece *piece) {
  *piece = p->lay.piece[t - p->shape.p];
  return rp_tensor_at(group[t->group], piece->at);
}

/* rough: a chunk of each tensor is drawn. */
static rp_status init(rp_params *p, uint64_t seed, bool rough, rp_error *err) {
  rp_status st = RP_OK;
  float *host = rp_malloc(CHUNK, sizeof *host);
  if (!host) return rp_fail_memory(err, CHUNK * sizeof *host, "initial values");
  for (int i = 0; i < p->shape.n; i++) {
    const rp_param *t = &p->shape.p[i];
    rp_piece piece;
    const rp_tensor to = rp_params_piece(p, p->p, t, &piece);
    for (int64_t at = 0; at < piece.n && !(rough && at); at += CHUNK) {
      const int64_t n = piece.n - at < CHUNK ? piece.n - at : CHUNK;
      if (t->role == RP_ROLE_ONE || t->role == RP_ROLE_ZERO)
        constant_values(t->role == RP_ROLE_ONE, n, host);
      else
        draw_values(draw_of(p, t), seed, i, piece.from + at, n, host);
      rp_upload_as(p->q, rp_tensor_at(to, at), host, RP_F32, n);
      RP_GO(rp_wait(p->q, err));
    }
    if (rough) rp_repeat(p->q, to, CHUNK, piece.n);
  }
  rp_params_round(p);
  st = rp_wait(p->q, err);
fail:
  rp_free(host);
  return st;
}

rp_status rp_params_init(rp_params *p, uint64_t seed, rp_error *err) {
  return init(p, seed, false, err);
}

rp_status rp_params_rough(rp_params *p, uint64_t seed, rp_error *err) {
  return init(p, seed, true, err);
}

rp_status rp_params_load(rp_params *p, const rp_store *s, rp_error *err) {
  rp_status st = rp_store_check(s, &p->shape, err);
  if (st) return st;
  size_t most = 0;
  for (int i = 0; i < p->shape.n; i++) {
    size_t n = (size_t)(p->shape.p[i].rows * p->shape.p[i].cols);
    if (n > most) most = n;
  }
  float *host = rp_malloc(most, sizeof *host);
  if (!host) return rp_fail_memory(err, most * sizeof *host, "a tensor being loaded");
  for (int i = 0; i < p->shape.n; i++) {
    const rp_param *t = &p->shape.p[i];
    if (!p->lay.piece[i].n) continue;
    const float *from = rp_store_direct(s, t, RP_F32);
    if (!from) {
      RP_GO(rp_store_get_f32(s, t, host, err));
      from = host;
    }
    RP_GO(rp_params_set(p, t, from, err));
  }
  rp_params_round(p);
  st = rp_wait(p->q, err);
fail:
  rp_free(host);
  return st;
}

rp_status rp_params_get(rp_params *p, const rp_param *t, float *out, rp_error *err) {
  rp_piece x;
  const rp_tensor from = rp_params_piece(p, p->p, t, &x);
  rp_download_as(p->q, out + x.from, RP_F32, from, x.n);
  return rp_wait(p->q, err);
}

rp_status rp_params_set(rp_params *p, const rp_param *t, const float *in, rp_error *err) {
  rp_piece x;
  const rp_tensor to = rp_params_piece(p, p->p, t, &x);
  rp_upload_as(p->q, to, in + x.from, RP_F32, x.n);
  return rp_wait(p->q, err);
}

rp_status rp_params_get_f64(rp_params *p, int which, const rp_param *t, double *out,
                            rp_error *err) {
  rp_piece x;
  const rp_tensor from = rp_params_piece(p, which ? p->g : p->p, t, &x);
  rp_download_as(p->q, out + x.from, RP_F64, from, x.n);
  return rp_wait(p->q, err);
}

rp_status rp_params_set_f64(rp_params *p, const rp_param *t, const double *in, rp_error *err) {
  rp_piece x;
  const rp_tensor to = rp_params_piece(p, p->p, t, &x);
  rp_upload_as(p->q, to, in + x.from, RP_F64, x.n);
  return rp_wait(p->q, err);
}

void rp_params_round(rp_params *p) {
  if (!p->copy.p.at) return;
  rp_op_cast(p->q, &(rp_cast_args){p->lay.local[RP_GROUP_MATRIX], p->p[RP_GROUP_MATRIX], p->copy});
}

void rp_params_zero_grads(rp_params *p) {
  for (int i = 0; i < 2; i++) {
    size_t bytes = (size_t)p->lay.local[i] * (size_t)rp_dtype_bytes(p->g[i].dtype);
    rp_op_zero(p->q, &(rp_zero_args){p->g[i].p, bytes});
  }
}

rp_status rp_params_pull(void *ctx, const rp_param *t, rp_dtype dtype, void *out, rp_error *err) {
  rp_params *p = ctx;
  rp_piece x;
  const rp_tensor from = rp_params_piece(p, p->p, t, &x);
  if (out) rp_download_as(p->q, out, dtype, from, x.n);
  return rp_wait(p->q, err);
}

static rp_status need(void *ctx, rp_queue *q, int unit, const rp_tensor **w, rp_error *err) {
  const rp_params *p = ctx;
  (void)q, (void)err;
  *w = p->slots + (size_t)unit * RP_SLOTS;
  return RP_OK;
}

static rp_status grad(void *ctx, rp_queue *q, int unit, const rp_tensor **g, rp_error *err) {
  const rp_params *p = ctx;
  (void)q, (void)err;
  *g = p->gslots + (size_t)unit * RP_SLOTS;
  return RP_OK;
}

static void nothing(void *ctx, rp_queue *q, int unit) { (void)ctx, (void)q, (void)unit; }

rp_weights rp_params_weights(rp_params *p) {
  return (rp_weights){.ctx = p, .need = need, .done = nothing, .grad = grad, .grad_ready = nothing};
}
