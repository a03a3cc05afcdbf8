/* append.c - new keys and values into the caches of their sessions. */
#include "ops/cpu/kern/lanes.h"

/* Unit of work: (row, key-value head), which owns its two lists. */
typedef struct {
  const rp_append_args *a;
  const rp_row *row;
  const int32_t *kept, *ring; /* tables of blocks */
  rp_pat pat;
  int head;
  int64_t size; /* of RING */
} unit;

static void entry(const unit *u, rp_src list, int64_t e, rp_tensor *k, rp_tensor *v) {
  const rp_append_args *a = u->a;
  const int32_t *table = list == RP_SRC_KEPT ? u->kept : u->ring;
  *k = rp_tensor_at(a->kv.pool, rp_kv_entry(table[e / RP_KV_BLOCK], (int32_t)e, a->h));
  *v = rp_tensor_at(*k, (int64_t)RP_KV_BLOCK * a->h);
}

/* Position s, from the new tokens or from RING, to entry e of a list. */
static void put(const unit *u, int64_t s, rp_src list, int64_t e) {
  const rp_append_args *a = u->a;
  const size_t bytes = (size_t)a->h * (size_t)rp_dtype_bytes(a->k.dtype);
  rp_tensor k, v, k_to, v_to;
  entry(u, list, e, &k_to, &v_to);
  if (s >= u->row->pos) {
    const int64_t at = ((u->row->tok + s - u->row->pos) * a->Hk + u->head) * (int64_t)a->h;
    k = rp_tensor_at(a->k, at);
    v = rp_tensor_at(a->v, at);
  } else {
    entry(u, RP_SRC_RING, (s - u->pat.I) % u->size, &k, &v);
  }
  memcpy((void *)k_to.p.at, (const void *)k.p.at, bytes);
  memcpy((void *)v_to.p.at, (const void *)v.p.at, bytes);
}

/* What leaves the window goes to KEPT before RING is written over. */
static void append_unit(const unit *u) {
  const rp_pat p = u->pat;
  const int32_t margin = u->a->kv.margin;
  const int64_t from = u->row->pos, end = from + u->row->n;
  const int64_t top = end > u->row->top ? end : u->row->top;
  if (p.D == 1) {
    for (int64_t s = from; s < end; s++) put(u, s, RP_SRC_KEPT, s);
    return;
  }
  for (int64_t s = from; s < end && s < p.I; s++) put(u, s, RP_SRC_KEPT, s);
  if (p.D > 1) {
    const int64_t gone = rp_pat_evicted(p, margin, u->row->top);
    const int64_t going = rp_pat_evicted(p, margin, top);
    for (int64_t s = rp_pat_next(p, gone); s < going; s += p.D)
      put(u, s, RP_SRC_KEPT, rp_pat_slot(p, s));
  }
  int64_t s = end - u->size > from ? end - u->size : from;
  for (s = s > p.I ? s : p.I; s < end; s++) put(u, s, RP_SRC_RING, (s - p.I) % u->size);
}

void RP_DRIVER(append)(rp_cpu_ctx *c, const void *args) {
  const rp_append_args *a = args;
  const bool ok = is_compute(a->k) && a->k.dtype == a->v.dtype && a->k.dtype == a->kv.pool.dtype;
  const rp_row *row = rows_of(c, &a->rows, &a->kv, "append");
  if (!row || !dtypes(c, ok, "append")) return;
  const int64_t units = (int64_t)a->rows.count * a->Hk;
  const int threads = team_for(c, (int64_t)a->rows.tokens * a->Hk * a->h);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < units; i++) {
    unit u = {.a = a, .row = &row[i / a->Hk], .head = (int)(i % a->Hk)};
    if (!u.row->cell.at) continue;
    const int real = sizeof(rp_real);
    u.kept = rp_cell_table(&a->kv, u.row->cell, a->Hk, a->h, real, u.head, RP_SRC_KEPT);
    u.ring = rp_cell_table(&a->kv, u.row->cell, a->Hk, a->h, real, u.head, RP_SRC_RING);
    u.pat = ((const rp_pat *)a->pats.at)[(int64_t)u.row->plan * a->pats_stride + u.head];
    u.size = rp_pat_ring(u.pat, a->kv.margin);
    append_unit(&u);
  }
}
