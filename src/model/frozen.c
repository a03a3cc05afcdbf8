/* frozen.c - which tensors stay in their file, and the conversion of the others. */
#include "model/frozen.h"

#include "base/cpu.h"
#include "base/str.h"
#include "model/kind.h"

enum { CHUNK = 1 << 20 }; /* elements that pass through the host at a time */

/* One table of the net: a tensor in one dtype. */
typedef struct {
  const rp_param *p;
  rp_tensor *to;
  const void *direct; /* NULL: converted */
} item;

typedef struct {
  rp_frozen *f;
  const rp_store *s;
  rp_queue *q;
  rp_dtype real;
  bool reads_host; /* the device does */
  item *at;
  int n;
  size_t own, mapped; /* bytes of those converted, with what aligns them, and of the others */
} plan;

static size_t bytes_of(const item *it) {
  return (size_t)(it->p->rows * it->p->cols) * (size_t)rp_dtype_bytes(it->to->dtype);
}

static void add(plan *l, const rp_param *p, int slot, rp_dtype dtype) {
  item *it = &l->at[l->n++];
  *it = (item){.p = p, .to = &l->f->slots[(size_t)p->unit * RP_SLOTS + (size_t)slot]};
  it->to->dtype = dtype;
  const void *direct = l->reads_host ? rp_store_direct(l->s, p, dtype) : NULL;
  if (!direct || !rp_store_map_of(l->s, direct)) return;
  it->direct = direct;
  l->mapped += bytes_of(it);
}

/* The embedding is looked up and, when the head is tied, multiplied by. A product reads the computed
 * dtype; a row that is looked up is not rounded. One table does for both where it loses nothing. */
static void add_embedding(plan *l, const rp_param *p, rp_dtype compute, bool tied) {
  const rp_dtype real = l->real;
  const bool half = rp_store_dtype(l->s, p) == RP_BF16;
  if (tied) add(l, p, p->slot, compute);
  if (!tied || (compute != real && !half)) add(l, p, p->slot + 1, half ? RP_BF16 : real);
}

/* Carved in one order for planning and for use. */
static void carve(plan *l, uintptr_t base) {
  rp_carve c = {base, 0, 0};
  for (int i = 0; i < l->n; i++)
    if (!l->at[i].direct) l->at[i].to->p = rp_carve_take(&c, bytes_of(&l->at[i]));
  l->own = c.used;
}

/* Tables of the net, and what they take. */
static rp_status make_plan(plan *l, const rp_shape *shape, rp_dtype dtype, rp_error *err) {
  const rp_dtype real = l->real, compute = dtype == RP_BF16 ? RP_BF16 : real;
  const size_t slots = (size_t)shape->units * RP_SLOTS;
  l->f->slots = rp_calloc(slots, sizeof *l->f->slots);
  if (!l->f->slots) return rp_fail_memory(err, slots * sizeof *l->f->slots, "the table of weights");
  const bool tied = !rp_shape_at(shape, shape->units - 1, RP_SLOT_HEAD);
  l->at = rp_calloc((size_t)shape->n + 1, sizeof *l->at);
  if (!l->at) return rp_fail_memory(err, (size_t)shape->n * sizeof *l->at, "the list of weights");
  for (int i = 0; i < shape->n; i++) {
    const rp_param *p = &shape->p[i];
    if (p->unit == 0)
      add_embedding(l, p, compute, tied);
    else
      add(l, p, p->slot, p->group == RP_GROUP_MATRIX ? compute : real);
  }
  carve(l, 0);
  return RP_OK;
}

/* The pages of a file are lent once, whole: a device looks through its blocks at every op. */
static rp_status lend(plan *l, const item *it, rp_error *err) {
  rp_frozen *f = l->f;
  const rp_map *m = rp_store_map_of(l->s, it->direct);
  int i = 0;
  while (i < f->n_lent && f->lent[i].at != (uintptr_t)m->data) i++;
  if (i == f->n_lent) {
    RP_TRY(rp_device_lend(f->dev, m->data, m->bytes, &f->lent[i], err));
    f->n_lent++;
  }
  it->to->p = rp_ptr_add(f->lent[i], (size_t)((const uint8_t *)it->direct - m->data));
  f->mapped += bytes_of(it);
  return RP_OK;
}

/* What is mapped needs none; the system gives its pages away and reads them again. */
static rp_status check_room(const plan *l, rp_dtype dtype, rp_error *err) {
  char own[32], mapped[32], have[32];
  const uint64_t free = rp_memory_available();
  if (!l->own || !l->reads_host || !free || l->own <= free) return RP_OK;
  rp_format_bytes(own, (double)l->own);
  rp_format_bytes(mapped, (double)l->mapped);
  rp_format_bytes(have, (double)free);
  return rp_fail(
      err, RP_NO_MEMORY,
      "%s: to run it in %s takes %s of memory for converted weights, beside %s mapped "
      "from the file, and %s are free; `ratplus convert --dtype %s` writes a model whose "
      "weights are all mapped",
      rp_store_path(l->s), rp_dtype_name(dtype), own, mapped, have, rp_dtype_name(dtype));
}

/* Elements of the table's own dtype are copied bit for bit; others pass through float32. */
static rp_status convert(const plan *l, const item *it, void *host, rp_error *err) {
  const int64_t n = it->p->rows * it->p->cols;
  const rp_dtype is = rp_store_dtype(l->s, it->p);
  const rp_dtype via = is == it->to->dtype ? is : RP_F32;
  const uint8_t *all = rp_store_direct(l->s, it->p, via);
  for (int64_t at = 0; at < n; at += CHUNK) {
    const int64_t m = n - at < CHUNK ? n - at : CHUNK;
    const void *from = all ? all + at * rp_dtype_bytes(via) : host;
    if (!all) RP_TRY(rp_store_get_part(l->s, it->p, via, at, m, host, err));
    if (via == it->to->dtype)
      rp_upload(l->q, rp_tensor_at(*it->to, at).p, from, (size_t)(m * rp_dtype_bytes(via)));
    else
      rp_upload_as(l->q, rp_tensor_at(*it->to, at), from, via, m);
    RP_TRY(rp_wait(l->q, err));
  }
  return RP_OK;
}

static rp_status fill(plan *l, const rp_frozen_told *told, rp_error *err) {
  rp_status st = RP_OK;
  size_t done = 0;
  void *host = NULL;
  if (l->own) {
    RP_GO(rp_device_alloc(l->f->dev, l->own, "converted weights", &l->f->own, err));
    carve(l, l->f->own.at);
    host = rp_malloc(CHUNK, sizeof(double));
    if (!host) RP_GO(rp_fail_memory(err, CHUNK * sizeof(double), "weights being converted"));
  }
  for (int i = 0; i < l->n; i++) {
    const item *it = &l->at[i];
    if (it->direct) {
      RP_GO(lend(l, it, err));
      continue;
    }
    RP_GO(convert(l, it, host, err));
    done += bytes_of(it);
    l->f->kept += bytes_of(it);
    if (told && told->progress && told->progress(told->ctx, (double)done / (double)l->own))
      RP_GO(rp_fail(err, RP_STOPPED, "stopped as asked"));
  }
fail:
  rp_free(host);
  return st;
}

rp_status rp_frozen_open(rp_frozen *f, rp_queue *q, const rp_shape *shape, rp_dtype dtype,
                         const rp_store *s, const rp_frozen_told *told, rp_error *err) {
  rp_status st = RP_OK;
  rp_device *dev = rp_queue_device(q);
  *f = (rp_frozen){.dev = dev};
  plan l = {
      .f = f, .s = s, .q = q, .real = rp_device_real(dev), .reads_host = rp_device_reads_host(dev)};
  const size_t n = (size_t)shape->n + 1;
  f->lent = rp_calloc(n, sizeof *f->lent); /* no more files than tensors */
  if (!f->lent) RP_GO(rp_fail_memory(err, n * sizeof *f->lent, "the list of mapped files"));
  RP_GO(make_plan(&l, shape, dtype, err));
  RP_GO(check_room(&l, dtype, err));
  RP_GO(fill(&l, told, err));
  /* Where one table of the embedding does for both. */
  if (!f->slots[RP_SLOT_EMBED + 1].p.at) f->slots[RP_SLOT_EMBED + 1] = f->slots[RP_SLOT_EMBED];
fail:
  rp_free(l.at);
  if (st) rp_frozen_close(f);
  return st;
}

rp_status rp_frozen_plan(const rp_shape *shape, rp_dtype dtype, const rp_store *s, uint64_t *mapped,
                         uint64_t *kept, rp_error *err) {
  rp_frozen f = {0};
  plan l = {.f = &f, .s = s, .real = RP_F32, .reads_host = true};
  *mapped = *kept = 0;
  const rp_status st = make_plan(&l, shape, dtype, err);
  for (int i = 0; i < l.n && !st; i++)
    if (!l.at[i].direct) *kept += bytes_of(&l.at[i]);
  *mapped = l.mapped;
  rp_free(l.at);
  rp_free(f.slots);
  return st;
}

void rp_frozen_close(rp_frozen *f) {
  for (int i = 0; i < f->n_lent; i++) rp_device_free(f->dev, f->lent[i]);
  if (f->own.at) rp_device_free(f->dev, f->own);
  rp_free(f->slots);
  rp_free(f->lent);
  *f = (rp_frozen){0};
}

static rp_status need(void *ctx, rp_queue *q, int unit, const rp_tensor **w, rp_error *err) {
  const rp_frozen *f = ctx;
  (void)q, (void)err;
  *w = f->slots + (size_t)unit * RP_SLOTS;
  return RP_OK;
}

static rp_status grad(void *ctx, rp_queue *q, int unit, const rp_tensor **g, rp_error *err) {
  (void)ctx, (void)q, (void)unit, (void)g;
  return rp_fail(err, RP_FAIL, "weights that are only run have no gradients; this is a bug");
}

static void nothing(void *ctx, rp_queue *q, int unit) { (void)ctx, (void)q, (void)unit; }

rp_weights rp_frozen_weights(rp_frozen *f) {
  return (rp_weights){.ctx = f, .need = need, .done = nothing, .grad = grad, .grad_ready = nothing};
}
