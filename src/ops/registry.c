/* registry.c - cases put on devices: layout between bands, contents, reading back. */
#include "ops/registry.h"

#include <math.h>

enum { BAND = 64, CHUNK = 4096, FILL = 0xff };

/* ---- making a case ---- */

static void make(rp_case *c, rp_op op, uint64_t seed, bool bf16, const rp_case_bench *size) {
  memset(c, 0, sizeof *c);
  c->op = op;
  c->before_op = -1;
  c->seed = seed;
  c->bf16 = bf16;
  c->bench = size != NULL;
  if (size) c->size = *size;
  rp_rng_init(&c->rng, seed, RP_RNG_TEST, (uint64_t)op);
  const rp_case_fn fill = rp_case_of(op);
  if (fill) fill(c);
}

void rp_case_make(rp_case *c, rp_op op, uint64_t seed, bool bf16) { make(c, op, seed, bf16, NULL); }

void rp_case_make_bench(rp_case *c, rp_op op, bool bf16, const rp_case_bench *size) {
  make(c, op, 1, bf16, size);
}

bool rp_case_computes(const rp_case *c) {
  for (int i = 0; i < c->tensors; i++)
    if (c->t[i].type == RP_CASE_COMPUTE) return true;
  return false;
}

/* The lowest size is drawn more often: edges are where kernels fail. */
int rp_case_size(rp_case *c, int low, int high, int bench) {
  if (c->bench) return bench;
  if (rp_rng_below(&c->rng, 6) == 0) return low;
  return low + (int)rp_rng_below(&c->rng, (uint64_t)(high - low) + 1);
}

static void place(rp_case *c, rp_case_tensor *t, const void *at, bool typed) {
  t->at[t->places] = (size_t)((const uint8_t *)at - (const uint8_t *)c);
  t->typed[t->places++] = typed;
}

static rp_case_tensor *add(rp_case *c, rp_case_type type, rp_case_role role, int64_t n) {
  rp_case_tensor *t = &c->t[c->tensors++];
  *t = (rp_case_tensor){.type = type, .role = role, .n = n, .row = n};
  return t;
}

rp_case_tensor *rp_case_in(rp_case *c, rp_tensor *at, rp_case_type type, int64_t n, double spread) {
  rp_case_tensor *t = add(c, type, RP_CASE_IN, n);
  t->spread = spread;
  place(c, t, at, true);
  return t;
}

rp_case_tensor *rp_case_out(rp_case *c, rp_tensor *at, rp_case_type type, int64_t n, int64_t row,
                            double factor) {
  rp_case_tensor *t = add(c, type, RP_CASE_OUT, n);
  t->row = row;
  t->factor = factor;
  place(c, t, at, true);
  return t;
}

rp_case_tensor *rp_case_at(rp_case *c, rp_ptr *at, rp_case_type type, int64_t n) {
  rp_case_tensor *t = add(c, type, RP_CASE_IN, n);
  place(c, t, at, false);
  return t;
}

/* Contents that do not fit show as NULL, which no op takes. */
rp_case_tensor *rp_case_bytes(rp_case *c, rp_ptr *at, const void *bytes, size_t n) {
  rp_case_tensor *t = rp_case_at(c, at, RP_CASE_BYTES, (int64_t)n);
  const size_t words = (n + 7) / 8;
  if (words > RP_CASE_RAW / 8 - c->raw_used) return t;
  t->bytes = memcpy(c->raw + c->raw_used, bytes, n);
  c->raw_used += words;
  return t;
}

void rp_case_points(rp_case *c, rp_case_tensor *in, size_t at, const rp_case_tensor *to,
                    size_t plus) {
  c->link[c->links++] = (rp_case_link){(int)(in - c->t), (int)(to - c->t), at, plus};
}

void rp_case_also(rp_case *c, rp_case_tensor *t, rp_tensor *at) { place(c, t, at, true); }
void rp_case_also_at(rp_case *c, rp_case_tensor *t, rp_ptr *at) { place(c, t, at, false); }

/* A function of seed, tensor and element, so that nothing is kept; a benchmark repeats itself,
 * which no kernel notices. Floats, so that every device reads the same number. */
double rp_case_value(const rp_case *c, int t, int64_t i) {
  uint32_t u[4];
  const rp_case_tensor *x = &c->t[t];
  if (x->entry) return x->entry(c, i);
  rp_philox(c->seed, RP_RNG_TEST, (uint64_t)t + 1000, (uint64_t)(c->bench ? i % CHUNK : i), u);
  if (x->type == RP_CASE_I32) return floor(x->mean + x->spread * (u[0] * 0x1p-32));
  const double a = (u[0] + 0.5) * 0x1p-32, b = (u[1] + 0.5) * 0x1p-32;
  return (float)(x->mean + x->spread * sqrt(-2 * log(a)) * cos(6.283185307179586 * b));
}

/* ---- on a device ---- */

static rp_dtype dtype_of(const rp_case *c, const rp_case_tensor *t, rp_dtype real) {
  switch (t->type) {
    case RP_CASE_REAL: return real;
    case RP_CASE_COMPUTE: return c->bf16 ? RP_BF16 : real;
    case RP_CASE_F64: return RP_F64;
    default: return RP_I32;
  }
}

static size_t bytes_of(const rp_case_run *r, int t) {
  const rp_case_tensor *x = &r->c.t[t];
  return (size_t)x->n * (x->type == RP_CASE_BYTES ? 1 : (size_t)rp_dtype_bytes(r->dtype[t]));
}

static rp_ptr tensor_at(const rp_case_run *r, int t) { return rp_ptr_add(r->memory, r->offset[t]); }

/* Offsets and dtypes; returns the bytes of all. */
static size_t lay_out(rp_case_run *r, rp_dtype real) {
  size_t at = BAND;
  for (int i = 0; i < r->c.tensors; i++) {
    r->dtype[i] = dtype_of(&r->c, &r->c.t[i], real);
    r->offset[i] = at;
    at += bytes_of(r, i) + BAND;
    at = (at + 63) & ~(size_t)63;
  }
  return at;
}

static void set_addresses(rp_case_run *r) {
  for (int i = 0; i < r->c.tensors; i++) {
    const rp_case_tensor *t = &r->c.t[i];
    const rp_ptr p = tensor_at(r, i);
    const rp_tensor typed = {p, r->dtype[i]};
    for (int j = 0; j < t->places; j++)
      memcpy((uint8_t *)&r->c + t->at[j], t->typed[j] ? (const void *)&typed : (const void *)&p,
             t->typed[j] ? sizeof typed : sizeof p);
  }
  for (int i = 0; i < r->c.links; i++) {
    const rp_case_link *l = &r->c.link[i];
    const rp_ptr p = rp_ptr_add(tensor_at(r, l->to), l->plus);
    uint8_t *in =
        (uint8_t *)r->c.raw + ((const uint8_t *)r->c.t[l->in].bytes - (uint8_t *)r->c.raw);
    memcpy(in + l->at, &p, sizeof p);
  }
}

static void upload_ints(rp_case_run *r, int t) {
  int32_t x[CHUNK];
  const int64_t n = r->c.t[t].n;
  for (int64_t at = 0; at < n; at += CHUNK) {
    const int64_t m = n - at < CHUNK ? n - at : CHUNK;
    for (int64_t i = 0; i < m; i++) x[i] = (int32_t)rp_case_value(&r->c, t, at + i);
    rp_upload(r->q, rp_ptr_add(tensor_at(r, t), (size_t)at * 4), x, (size_t)m * 4);
  }
}

static void upload_floats(rp_case_run *r, int t, int64_t poison) {
  float x[CHUNK];
  const int64_t n = r->c.t[t].n;
  const rp_tensor to = {tensor_at(r, t), r->dtype[t]};
  for (int64_t at = 0; at < n && !(r->c.bench && at); at += CHUNK) {
    const int64_t m = n - at < CHUNK ? n - at : CHUNK;
    for (int64_t i = 0; i < m; i++) {
      x[i] = (float)rp_case_value(&r->c, t, at + i);
      if (at + i == poison) x[i] = NAN;
    }
    rp_upload_as(r->q, rp_tensor_at(to, at), x, RP_F32, m);
  }
  if (r->c.bench) rp_repeat(r->q, to, CHUNK, n);
}

static void upload(rp_case_run *r, int t, int64_t poison) {
  const rp_case_tensor *x = &r->c.t[t];
  if (x->bytes)
    rp_upload(r->q, tensor_at(r, t), x->bytes, bytes_of(r, t));
  else if (x->type == RP_CASE_I32)
    upload_ints(r, t);
  else if (x->type != RP_CASE_BYTES)
    upload_floats(r, t, poison);
}

/* Bands, and outputs that nobody wrote, are NaN in every floating point type. */
static void fill(rp_case_run *r, size_t bytes) {
  uint8_t x[CHUNK];
  memset(x, FILL, sizeof x);
  for (size_t at = 0; at < bytes && !r->c.bench; at += CHUNK)
    rp_upload(r->q, rp_ptr_add(r->memory, at), x, bytes - at < CHUNK ? bytes - at : CHUNK);
}

static rp_status reserve(rp_case_run *r, rp_op op, const void *args, rp_error *err) {
  return rp_queue_reserve(r->q, rp_op_scratch(rp_queue_device(r->q), op, args), err);
}

static void put(rp_queue *q, rp_op op, const rp_op_args *a) {
  switch (op) {
#define RP_X(name) \
  case RP_OP_##name: rp_op_##name(q, &a->name); break;
    RP_OPS(RP_X)
#undef RP_X
    default: break;
  }
}

static bool poisonable(const rp_case_tensor *t) {
  return (t->role & RP_CASE_IN) && !t->bytes && t->type <= RP_CASE_F64;
}

rp_status rp_case_open(rp_case_run *r, const rp_case *c, rp_queue *q, int64_t poison,
                       rp_error *err) {
  rp_device *d = rp_queue_device(q);
  rp_status st = RP_OK;
  memset(r, 0, sizeof *r);
  r->q = q;
  r->c = *c;
  for (int i = 0; i < c->tensors; i++) /* contents moved with the case */
    if (c->t[i].bytes)
      r->c.t[i].bytes =
          (const uint8_t *)&r->c + ((const uint8_t *)c->t[i].bytes - (const uint8_t *)c);
  const size_t bytes = lay_out(r, rp_device_real(d));
  RP_GO(rp_device_alloc(d, bytes, "a case", &r->memory, err));
  set_addresses(r);
  fill(r, bytes);
  for (int i = 0; i < c->tensors; i++) {
    if (!(c->t[i].role & RP_CASE_IN)) continue;
    upload(r, i, poison);
    if (poisonable(&c->t[i])) poison = -1;
  }
  RP_GO(reserve(r, c->op, &r->c.args, err));
  if (c->before_op >= 0) {
    RP_GO(reserve(r, (rp_op)c->before_op, &r->c.before, err));
    put(q, (rp_op)c->before_op, &r->c.before);
  }
  RP_GO(rp_wait(q, err));
  return RP_OK;
fail:
  rp_case_close(r);
  return st;
}

void rp_case_put(rp_case_run *r) { put(r->q, r->c.op, &r->c.args); }

rp_status rp_case_read(rp_case_run *r, int t, double *out, rp_error *err) {
  const rp_case_tensor *x = &r->c.t[t];
  if (x->type != RP_CASE_I32) {
    rp_download_as(r->q, out, RP_F64, (rp_tensor){tensor_at(r, t), r->dtype[t]}, x->n);
    return rp_wait(r->q, err);
  }
  int32_t *ints = rp_malloc((size_t)x->n, sizeof *ints);
  if (!ints) return rp_fail_memory(err, (size_t)x->n * sizeof *ints, "a case");
  rp_download(r->q, ints, tensor_at(r, t), (size_t)x->n * sizeof *ints);
  const rp_status st = rp_wait(r->q, err);
  for (int64_t i = 0; i < x->n; i++) out[i] = ints[i];
  rp_free(ints);
  return st;
}

rp_status rp_case_bands(rp_case_run *r, rp_error *err) {
  uint8_t band[2][BAND];
  for (int t = 0; t < r->c.tensors; t++) {
    const rp_ptr p = tensor_at(r, t);
    rp_download(r->q, band[0], (rp_ptr){p.at - BAND}, BAND);
    rp_download(r->q, band[1], rp_ptr_add(p, bytes_of(r, t)), BAND);
    RP_TRY(rp_wait(r->q, err));
    for (int i = 0; i < 2 * BAND; i++)
      if (band[i / BAND][i % BAND] != FILL)
        return rp_fail(err, RP_FAIL, "op %s wrote %s tensor %d", rp_op_name(r->c.op),
                       i < BAND ? "before" : "behind", t);
  }
  return RP_OK;
}

void rp_case_close(rp_case_run *r) {
  if (r->q && r->memory.at) {
    rp_wait(r->q, NULL);
    rp_device_free(rp_queue_device(r->q), r->memory);
  }
  r->memory.at = 0;
}

size_t rp_case_memory(const rp_case *c, rp_dtype real) {
  rp_case_run r = {.c = *c};
  return lay_out(&r, real);
}

double rp_case_traffic(const rp_case *c, rp_dtype real) {
  rp_case_run r = {.c = *c};
  double sum = 0;
  lay_out(&r, real);
  for (int t = 0; t < c->tensors; t++) {
    const rp_case_role role = c->t[t].role;
    sum += (double)bytes_of(&r, t) * ((role & RP_CASE_IN ? 1 : 0) + (role & RP_CASE_OUT ? 1 : 0));
  }
  return c->bytes > 0 ? c->bytes : sum;
}
