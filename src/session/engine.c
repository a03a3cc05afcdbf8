/* engine.c - a model with a queue, a pool of blocks and the buffers of a call. */
#include <string.h>

#include "base/cpu.h"
#include "base/log.h"
#include "base/str.h"
#include "model/kind.h"
#include "session/inner.h"

void rp_engine_defaults(rp_engine_opts *o) {
  *o = (rp_engine_opts){.size = sizeof *o, .chunk = 512, .rows = 64, .wanted = 64};
}

int rp_call_size(int n, int most) {
  const int step = n <= 16 ? 1 : n <= 64 ? 16 : 64;
  const int size = (n + step - 1) / step * step;
  return size < most ? size : most;
}

int64_t rp_pats_blocks(const rp_pats *p, int64_t tokens, int rollback) {
  int64_t n = 0;
  for (int i = 0; i < p->layers * p->kv_heads; i++) n += rp_pat_blocks(p->at[i], tokens, rollback);
  return n;
}

static size_t block_bytes(const rp_model_settings *m, rp_dtype compute, rp_dtype real) {
  return (size_t)rp_kv_block_elements(m->h) *
         (size_t)rp_dtype_bytes(compute == RP_BF16 ? RP_BF16 : real);
}

static rp_status check_opts(const rp_engine_opts *o, rp_error *err) {
  if (o->size != sizeof *o)
    return rp_fail(err, RP_USAGE, "rp_engine_open: options not filled by rp_engine_defaults");
  if (o->chunk < 1 || o->chunk > 1 << 20 || o->rows < 1 || o->rows > 1 << 16 || o->wanted < 0 ||
      o->wanted > 1 << 20 || o->rollback < 0 || o->rollback > 1 << 16)
    return rp_fail(err, RP_USAGE,
                   "an engine of %d tokens a call, %d rows, %d wanted tokens and a rollback of %d "
                   "is out of range",
                   o->chunk, o->rows, o->wanted, o->rollback);
  return RP_OK;
}

/* Device buffers of a call, carved in one order for planning and for use. */
static size_t carve(rp_engine *e, uintptr_t base, const rp_model_settings *m, size_t real) {
  rp_carve c = {base, 0, 0};
  const size_t chunk = (size_t)e->o.chunk, wanted = (size_t)e->wanted;
  e->d_entries = rp_carve_take(&c, e->entries_cap * sizeof(rp_table_entry));
  e->d_row = rp_carve_take(&c, (size_t)e->o.rows * sizeof(rp_row));
  e->d_ids = rp_carve_take(&c, chunk * 4);
  e->d_at = rp_carve_take(&c, 2 * wanted * 4);
  e->d_next = rp_carve_take(&c, wanted * 4);
  e->d_best = rp_carve_take(&c, wanted * 4);
  e->d_lse = rp_carve_take(&c, wanted * real);
  e->d_logit = rp_carve_take(&c, wanted * real);
  const int most = e->o.rows < e->wanted ? e->o.rows : e->wanted;
  e->d_logits = rp_carve_take(&c, (size_t)rp_call_size(most, e->wanted) * (size_t)m->V * real);
  return c.used;
}

static void sizes(rp_engine *e, const rp_model_settings *m, const rp_engine_opts *o) {
  e->o = *o;
  if (e->o.rows > e->o.chunk) e->o.rows = e->o.chunk;
  if (e->o.wanted > e->o.chunk) e->o.wanted = e->o.chunk;
  e->wanted = rp_call_size(e->o.wanted, e->o.chunk);
  /* n new tokens of a row touch at most n / 16 + 2 blocks of each of its lists. */
  e->entries_cap = ((size_t)e->o.chunk / RP_KV_BLOCK + 2 * (size_t)e->o.rows + 1) * 2 *
                   (size_t)m->N * (size_t)m->Hk;
}

static rp_net_opts net_opts(const rp_engine *e, rp_dtype compute) {
  return (rp_net_opts){.batch = 1, .T = e->o.chunk, .dtype = compute, .infer = true};
}

void rp_engine_time(rp_engine *e, rp_op_times *times) { rp_queue_time(e->q, times); }

rp_status rp_engine_plan(const rp_device *d, const rp_model_settings *m, rp_dtype compute,
                         const rp_engine_opts *o, uint64_t *work, rp_error *err) {
  rp_engine e = {0};
  rp_net_bytes b;
  RP_TRY(check_opts(o, err));
  sizes(&e, m, o);
  const rp_net_opts no = net_opts(&e, compute);
  RP_TRY(rp_net_plan(d, m, &no, &b, err));
  *work = b.acts + b.tmp + b.scratch + b.tables +
          carve(&e, 0, m, (size_t)rp_dtype_bytes(rp_device_real(d)));
  return RP_OK;
}

/* Every size of call is walked dry once: its products are made and its scratch is there. */
static rp_status reserve(rp_engine *e, rp_error *err) {
  size_t most = 0;
  for (int n = 1; n <= e->o.chunk; n = rp_call_size(n, e->o.chunk) + 1) {
    size_t bytes;
    RP_TRY(rp_net_run_scratch(e->net, rp_call_size(n, e->o.chunk), &bytes, err));
    if (bytes > most) most = bytes;
  }
  return rp_queue_reserve(e->q, most, err);
}

static uint64_t pool_blocks(const rp_engine *e) {
  const rp_model *m = e->model;
  if (e->o.cache_bytes) return e->o.cache_bytes / e->block_bytes;
  return (uint64_t)((m->seq_len + RP_KV_BLOCK - 1) / RP_KV_BLOCK) * (uint64_t)m->m.N *
         (uint64_t)m->m.Hk;
}

/* Memory that is not there would be given all the same, and the system would end the process later.
 * Weights that were converted are there already; of those in the file the system can take pages back. */
static rp_status check_room(rp_engine *e, rp_error *err) {
  char cache[32], work[32], have[32], mapped[32];
  rp_model_facts f = {.size = sizeof f};
  const uint64_t free = rp_device_available(e->dev), pool = pool_blocks(e) * e->block_bytes;
  const uint64_t most =
      e->work_bytes + carve(e, 0, &e->model->m, (size_t)rp_dtype_bytes(rp_device_real(e->dev)));
  const bool counts = rp_device_reads_host(e->dev) || rp_device_apart(e->dev);
  if (!free || !counts || (pool <= free && most <= free - pool)) return RP_OK;
  rp_model_about(e->model, &f);
  rp_format_bytes(cache, (double)pool);
  rp_format_bytes(work, (double)most);
  rp_format_bytes(have, (double)free);
  rp_format_bytes(mapped, (double)f.weights_mapped);
  return rp_fail(err, RP_NO_MEMORY,
                 "%s of cache and %s of work buffers are more than the %s that are free (%s of "
                 "weights are mapped from the file and not counted); give less cache, a sparser "
                 "pattern or fewer tokens a call",
                 cache, work, have, mapped);
}

static rp_status open_pool(rp_engine *e, rp_error *err) {
  const rp_model_settings *m = &e->model->m;
  const rp_dtype real = rp_device_real(e->dev);
  const rp_dtype compute = e->model->compute == RP_BF16 ? RP_BF16 : real;
  uint64_t blocks = pool_blocks(e);
  if (blocks > INT32_MAX)
    return rp_fail(err, RP_USAGE, "a pool of %llu blocks is beyond 2^31; give fewer bytes of cache",
                   (unsigned long long)blocks);
  if (blocks < 1) blocks = 1;
  e->kv = (rp_kv){.pool = {{0}, compute},
                  .blocks = (int32_t)blocks,
                  .layers = m->N,
                  .margin = e->o.rollback,
                  .states = m->apply_re ? e->o.rollback + 1 : 0};
  RP_TRY(rp_device_alloc(e->dev, blocks * e->block_bytes, "the pool of cache blocks", &e->kv.pool.p,
                         err));
  e->refs = rp_calloc(blocks, sizeof *e->refs);
  e->free = rp_malloc(blocks, sizeof *e->free);
  if (!e->refs || !e->free) return rp_fail_memory(err, blocks * 8, "the list of cache blocks");
  for (uint64_t i = 0; i < blocks; i++) e->free[i] = (int32_t)(blocks - 1 - i);
  e->n_free = (int32_t)blocks;
  return RP_OK;
}

static rp_status open_buffers(rp_engine *e, rp_error *err) {
  const size_t real = (size_t)rp_dtype_bytes(rp_device_real(e->dev));
  const size_t wanted = (size_t)e->wanted + 1;
  const size_t bytes = carve(e, 0, &e->model->m, real);
  RP_TRY(rp_device_alloc(e->dev, bytes, "the buffers of a call", &e->device, err));
  carve(e, e->device.at, &e->model->m, real);
  e->work_bytes += bytes;
  e->entries = rp_malloc(e->entries_cap, sizeof *e->entries);
  e->row = rp_malloc((size_t)e->o.rows, sizeof *e->row);
  e->ids = rp_malloc((size_t)e->o.chunk, sizeof *e->ids);
  e->at = rp_malloc(2 * wanted, sizeof *e->at);
  e->next = rp_malloc(wanted, sizeof *e->next);
  e->best = rp_malloc(wanted, sizeof *e->best);
  e->lse = rp_malloc(wanted, sizeof *e->lse);
  e->logit = rp_malloc(wanted, sizeof *e->logit);
  if (!e->entries || !e->row || !e->ids || !e->at || !e->next || !e->best || !e->lse || !e->logit)
    return rp_fail_memory(err, e->entries_cap * sizeof *e->entries, "the buffers of a call");
  return RP_OK;
}

rp_status rp_engine_open(rp_engine **out, const rp_model *m, const rp_engine_opts *opts,
                         rp_error *err) {
  rp_status st = RP_OK;
  rp_engine_opts usual;
  rp_net_bytes b;
  *out = NULL;
  rp_engine_defaults(&usual);
  RP_TRY(check_opts(opts ? opts : &usual, err));
  rp_engine *e = rp_calloc(1, sizeof *e);
  if (!e) return rp_fail_memory(err, sizeof *e, "an engine");
  pthread_mutex_init(&e->mutex, NULL);
  e->model = m;
  e->dev = m->dev;
  e->late = rp_device_keeps_ops(m->dev);
  sizes(e, &m->m, opts ? opts : &usual);
  if (m->borrowed)
    e->q = m->q;
  else
    RP_GO(rp_queue_open(&e->q, e->dev, err));
  const rp_net_opts no = net_opts(e, m->compute);
  RP_GO(rp_net_plan(e->dev, &m->m, &no, &b, err));
  e->work_bytes = b.acts + b.tmp + b.scratch + b.tables;
  e->block_bytes = block_bytes(&m->m, m->compute, rp_device_real(e->dev));
  RP_GO(check_room(e, err));
  RP_GO(rp_net_open(&e->net, e->q, &m->m, &no, err));
  RP_GO(reserve(e, err));
  RP_GO(open_pool(e, err));
  RP_GO(open_buffers(e, err));
  e->plans = 1; /* plan 0 is dense and the net's own */
  RP_GO(rp_pats_uniform(&e->plan[0].pats, (rp_pat){1, 0, 0}, m->m.N, m->m.Hk, err));
  RP_GO(rp_wait(e->q, err));
  *out = e;
  e = NULL;
fail:
  rp_engine_close(e);
  return st;
}

void rp_engine_close(rp_engine *e) {
  if (!e) return;
  if (e->q) rp_wait(e->q, NULL);
  for (int i = 0; i < RP_STEPS; i++) rp_tape_free(e->step[i].tape);
  rp_net_close(e->net);
  if (e->device.at) rp_device_free(e->dev, e->device);
  if (e->kv.pool.p.at) rp_device_free(e->dev, e->kv.pool.p);
  if (!e->model->borrowed) rp_queue_close(e->q);
  for (int i = 0; i < e->plans; i++) rp_pats_free(&e->plan[i].pats);
  void *const all[] = {e->refs, e->free, e->entries, e->row, e->ids,
                       e->at,   e->next, e->best,    e->lse, e->logit};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) rp_free(all[i]);
  pthread_mutex_destroy(&e->mutex);
  rp_free(e);
}

void rp_engine_about(rp_engine *e, rp_engine_facts *out) {
  pthread_mutex_lock(&e->mutex);
  rp_engine_facts f = {
      .cache_bytes = (uint64_t)e->kv.blocks * e->block_bytes,
      .cache_used = (uint64_t)(e->kv.blocks - e->n_free) * e->block_bytes,
      .work_bytes = e->work_bytes,
      .sessions = e->sessions,
      .chunk = e->o.chunk,
      .rows = e->o.rows,
      .wanted = e->o.wanted,
      .rollback = e->o.rollback,
  };
  pthread_mutex_unlock(&e->mutex);
  f.size = out->size < sizeof f ? out->size : sizeof f;
  memcpy(out, &f, f.size);
}

static uint64_t need_of(const rp_model *m, const rp_pats *p, int64_t tokens, int rollback) {
  return (uint64_t)rp_pats_blocks(p, tokens, rollback) *
         block_bytes(&m->m, m->compute, rp_device_real(m->dev));
}

rp_status rp_cache_need(const rp_model *m, const char *pattern, int64_t tokens, int rollback,
                        uint64_t *bytes, rp_error *err) {
  rp_pats p = {0};
  if (tokens < 0 || tokens >= 1 << 30 || rollback < 0)
    return rp_fail(err, RP_USAGE, "a session of %lld tokens is not possible", (long long)tokens);
  RP_TRY(rp_model_parse(m, pattern, &p, err));
  *bytes = need_of(m, &p, tokens, rollback);
  rp_pats_free(&p);
  return RP_OK;
}

rp_status rp_cache_fit(const rp_model *m, const char *pattern, uint64_t bytes, int rollback,
                       int64_t most, int64_t *tokens, rp_error *err) {
  rp_pats p = {0};
  int64_t low = 0, high = most < (1 << 30) - 1 ? most : (1 << 30) - 1;
  if (most < 0 || rollback < 0) return rp_fail(err, RP_USAGE, "a negative number of tokens");
  RP_TRY(rp_model_parse(m, pattern, &p, err));
  while (low < high) {
    const int64_t mid = low + (high - low + 1) / 2;
    if (need_of(m, &p, mid, rollback) <= bytes)
      low = mid;
    else
      high = mid - 1;
  }
  *tokens = low;
  rp_pats_free(&p);
  return RP_OK;
}
