/* bench_model.c - prefill and decode of a whole model, through an engine and sessions. */
#include "base/cpu.h"
#include "base/log.h"
#include "base/rng.h"
#include "bench/cost_lines.h"
#include "model/cost.h"
#include "session/engine.h"

static const rp_work_kind kind = {.name = "model",
                                  .patterns = "D=1;D=16,W=256",
                                  .T = {4096, -1},
                                  .batch = {1, -1},
                                  .paper_T = {4096, 16384, -1},
                                  .paper_batch = {0, -1},
                                  .seconds = 3,
                                  .patience = 60};

enum { CHUNK = 512, STEPS = 16, PAPER_STEPS = 1024 };

/* A model in one dtype. */
typedef struct {
  const rp_work *w;
  rp_limits *l;
  rp_figures *all;
  rp_model *model;
  const rp_model_settings *m;
  rp_dtype dtype;
  double weights;
  rp_str ops; /* with --ops: the lines of each figure */
  int done, of;
} bench;

/* ---- memory ---- */

static rp_engine_opts engine_opts(const bench *b, int64_t batch) {
  rp_engine_opts o;
  rp_engine_defaults(&o);
  o.chunk = b->w->o.chunk > 0 ? b->w->o.chunk : CHUNK;
  if (o.chunk < batch) o.chunk = (int)batch;
  o.rows = o.wanted = (int)batch;
  return o;
}

/* Bytes of the weights, an engine and `batch` sessions of T tokens. */
static rp_status need_of(const bench *b, const rp_pats *p, int64_t T, int64_t batch, double *need,
                         rp_error *err) {
  const rp_engine_opts o = engine_opts(b, batch);
  const double lists = 2.0 * b->m->N * b->m->Hk;
  const double blocks = rp_cost_seen(p, -1, T, 0).blocks;
  uint64_t work;
  RP_TRY(rp_engine_plan(b->w->dev, b->m, b->dtype, &o, &work, err));
  /* Of a session: blocks, each with three ints, and its tables on both sides. */
  const double session =
      rp_cost_blocks(b->m, p, T, 0, b->dtype) + 16 * blocks + 16 * lists + rp_cost_state(b->m, 0);
  *need = b->weights + (double)work + (double)batch * session;
  return RP_OK;
}

typedef struct {
  const bench *b;
  const rp_pats *p;
  int64_t T;
} question;
static rp_status need_at(void *ctx, int64_t batch, double *need, rp_error *err) {
  const question *a = ctx;
  return need_of(a->b, a->p, a->T, batch, need, err);
}

/* ---- an engine with sessions ---- */

typedef struct {
  rp_engine *e;
  rp_session **s;      /* [batch] */
  rp_feed *feed;       /* [batch] */
  int32_t *ids, *best; /* [most of batch and T], [batch] */
  float *logits;       /* prefill: [V] */
  int batch;
  /* decode: step `step` of `steps` is at position T - span + step * span / steps */
  const bench *b;
  const rp_pats *p;
  int64_t T, span;
  int step, steps;
  double flops, bytes; /* of all steps so far */
  rp_op_times ops;     /* of all runs */
} rig;

static void rig_close(rig *g) {
  for (int i = 0; g->s && i < g->batch; i++) rp_session_close(g->s[i]);
  rp_engine_close(g->e);
  rp_free(g->s);
  rp_free(g->feed);
  rp_free(g->ids);
  rp_free(g->best);
  rp_free(g->logits);
  *g = (rig){0};
}

static rp_status rig_buffers(rig *g, int64_t ids, int V, rp_error *err) {
  const size_t n = (size_t)g->batch;
  rp_rng r;
  g->s = rp_calloc(n, sizeof *g->s);
  g->feed = rp_calloc(n, sizeof *g->feed);
  g->best = rp_calloc(n, sizeof *g->best);
  g->ids = rp_malloc((size_t)ids, sizeof *g->ids);
  g->logits = rp_malloc((size_t)V, sizeof *g->logits);
  if (!g->s || !g->feed || !g->best || !g->ids || !g->logits)
    return rp_fail_memory(err, (size_t)ids * 4 + n * 64, "the sessions of a benchmark");
  rp_rng_init(&r, 1, RP_RNG_BENCH, 2);
  for (int64_t i = 0; i < ids; i++) g->ids[i] = (int32_t)rp_rng_below(&r, (uint64_t)V);
  return RP_OK;
}

static rp_status rig_open(rig *g, const bench *b, const rp_figure *f, const rp_pats *p,
                          const char *pattern, rp_error *err) {
  rp_engine_opts o = engine_opts(b, f->batch);
  *g = (rig){.batch = (int)f->batch, .b = b, .p = p, .T = f->T};
  o.cache_bytes = (uint64_t)(rp_cost_blocks(b->m, p, f->T, 0, b->dtype) * (double)f->batch);
  RP_TRY(rig_buffers(g, f->batch > f->T ? f->batch : f->T, b->m->V, err));
  RP_TRY(rp_engine_open(&g->e, b->model, &o, err));
  for (int i = 0; i < g->batch; i++) {
    RP_TRY(rp_session_open(&g->s[i], g->e, pattern, f->T, err));
    g->feed[i] = (rp_feed){.session = g->s[i], .ids = &g->ids[i], .n = 1, .best = &g->best[i]};
  }
  return RP_OK;
}

/* ---- prefill ---- */

static rp_status prefill_once(void *ctx, double *seconds, bool *done, rp_error *err) {
  rig *g = ctx;
  const rp_feed f = {.session = g->s[0], .ids = g->ids, .n = g->T, .logits = g->logits};
  (void)done;
  RP_TRY(rp_session_truncate(g->s[0], 0, err));
  const double from = rp_now();
  RP_TRY(rp_prefill(&f, NULL, err));
  *seconds = rp_now() - from;
  return RP_OK;
}

/* Logits are made of the last token alone. */
static void count_prefill(const bench *b, rp_figure *f, const rp_pats *p) {
  const rp_flops c = rp_cost_flops(b->m, p, 1, f->T);
  f->flops = c.products + c.attention + rp_cost_step(b->m, p, f->T).head;
  f->tokens = (double)f->T;
  f->cache = rp_cost_cache(b->m, p, f->T, b->dtype);
}

/* ---- decode ---- */

/* What the step at position `pos` of one session adds: FLOPs, and bytes of its cache. */
static void count_step(const bench *b, const rp_pats *p, int64_t pos, double *flops,
                       double *cache) {
  const rp_flops c = rp_cost_step(b->m, p, pos + 1);
  *flops += c.products + c.attention + c.head;
  *cache += rp_cost_cache(b->m, p, pos, b->dtype);
}

/* Every weight of the products and the head is read once a step, whatever the batch. */
static double weights_read(const bench *b, const rp_pats *p) {
  const rp_flops c = rp_cost_step(b->m, p, 1);
  return (c.products + c.head) / 2 * rp_dtype_bytes(b->dtype);
}

static rp_status decode_once(void *ctx, double *seconds, bool *done, rp_error *err) {
  rig *g = ctx;
  const int64_t pos = g->T - g->span + g->step * g->span / g->steps;
  double flops = 0, cache = 0;
  for (int i = 0; i < g->batch; i++)
    RP_TRY(rp_session_skip(g->s[i], pos - rp_session_tokens(g->s[i]), err));
  const double from = rp_now();
  RP_TRY(rp_engine_call(g->e, g->feed, g->batch, err));
  *seconds = rp_now() - from;
  for (int i = 0; i < g->batch; i++) g->ids[i] = g->best[i];
  count_step(g->b, g->p, pos, &flops, &cache);
  g->flops += g->batch * flops;
  g->bytes += g->batch * cache + weights_read(g->b, g->p);
  *done = ++g->step == g->steps;
  return RP_OK;
}

static void count_decode(const bench *b, rp_figure *f, const rp_pats *p) {
  double flops = 0, cache = 0;
  count_step(b, p, f->T - 1, &flops, &cache);
  f->flops = (double)f->batch * flops;
  f->bytes = (double)f->batch * cache + weights_read(b, p);
  f->tokens = (double)f->batch;
  f->cache = (double)f->batch * rp_cost_cache(b->m, p, f->T, b->dtype);
}

static void choose_steps(rig *g, const rp_bench_opts *o) {
  g->steps = o->steps > 0 ? o->steps : o->paper ? PAPER_STEPS : STEPS;
  g->span = o->paper ? PAPER_STEPS : g->steps;
  if (g->span > g->T - 1) g->span = g->T - 1;
  if (g->steps > g->span) g->steps = (int)g->span;
}

/* ---- figures ---- */

static void time_ops(rig *g) {
  if (g->b->w->o.ops) rp_engine_time(g->e, &g->ops);
}
static void note_ops(bench *b, const rig *g, const rp_figure *f) {
  if (b->w->o.ops)
    rp_figure_ops(&b->ops, &g->ops, f->runs, f->seconds, b->l->product[b->dtype == RP_BF16],
                  "%s %s, T=%lld", rp_figure_work(f), f->pattern, (long long)f->T);
}

static rp_status measure(bench *b, rp_figure *f, const rp_pats *p, const char *pattern,
                         rp_error *err) {
  rig g = {0};
  rp_status st = RP_OK;
  bool done;
  double seconds;
  RP_GO(rig_open(&g, b, f, p, pattern, err));
  if (!f->decode) {
    if (rp_figure_limit(f, b->l) < 1) RP_GO(prefill_once(&g, &seconds, &done, err));
    time_ops(&g);
    RP_GO(rp_figure_time(f, prefill_once, &g, b->w->o.seconds, 1024, err));
  } else {
    choose_steps(&g, &b->w->o);
    /* One step that is not timed, in front of the first. */
    for (int i = 0; i < g.batch; i++) RP_GO(rp_session_skip(g.s[i], g.T - g.span - 1, err));
    RP_GO(rp_engine_call(g.e, g.feed, g.batch, err));
    time_ops(&g);
    RP_GO(rp_figure_time(f, decode_once, &g, b->w->o.seconds, g.steps, err));
    f->flops = g.flops / f->runs;
    f->bytes = g.bytes / f->runs;
  }
  note_ops(b, &g, f);
  RP_GO(rp_figures_add(b->all, f, err));
fail:
  rig_close(&g);
  return st;
}

static rp_status figure(bench *b, rp_figure *f, const char *pattern, rp_error *err) {
  rp_pats p = {0};
  rp_status st = RP_OK;
  bool fits;
  double need;
  rp_snprintf(f->pattern, sizeof f->pattern, "%s", pattern);
  f->dtype = b->dtype;
  RP_GO(rp_pats_parse(&p, pattern, b->m->N, b->m->Hk, err));
  if (!f->batch) RP_GO(rp_work_largest(b->w, need_at, &(question){b, &p, f->T}, &f->batch, err));
  if (!f->batch) f->batch = 1; /* does not fit either, and is told */
  RP_GO(rp_work_progress(b->w, b->done++, b->of, f, err));
  (f->decode ? count_decode : count_prefill)(b, f, &p);
  RP_GO(need_of(b, &p, f->T, f->batch, &need, err));
  RP_GO(rp_work_fits(b->w, f, rp_figure_limit(f, b->l), need, b->all, &fits, err));
  if (fits) RP_GO(measure(b, f, &p, pattern, err));
fail:
  rp_pats_free(&p);
  return st;
}

static rp_status figures(bench *b, rp_error *err) {
  const rp_work *w = b->w;
  for (int decode = 0; decode < 2; decode++) {
    for (int t = 0; rp_work_does(w, decode) && t < w->Ts; t++)
      for (int p = 0; p < w->patterns; p++)
        for (int i = 0; i < (decode ? w->batches : 1); i++) {
          rp_figure f = {.decode = decode, .T = w->T[t], .batch = decode ? w->batch[i] : 1};
          RP_TRY(figure(b, &f, w->pattern[p], err));
        }
  }
  return RP_OK;
}

/* ---- the model ---- */

static rp_status weights_of(const rp_model_settings *m, rp_dtype dtype, double *bytes,
                            rp_error *err) {
  rp_shape shape = {0};
  rp_layout lay = {0};
  rp_status st = RP_OK;
  RP_GO(rp_shape_make(&shape, m, err));
  RP_GO(rp_layout_make(&lay, &shape, 0, 1, err));
  const rp_params_bytes b = rp_params_plan(&lay, RP_F32, dtype, false);
  *bytes = (double)b.masters + (double)b.copy;
fail:
  rp_layout_free(&lay);
  rp_shape_free(&shape);
  return st;
}

static rp_status open_random(bench *b, rp_error *err) {
  char takes[32], there[32];
  RP_TRY(weights_of(&b->w->m, b->dtype, &b->weights, err));
  if (b->weights > (double)b->w->memory) {
    rp_format_bytes(takes, b->weights);
    rp_format_bytes(there, (double)b->w->memory);
    return rp_fail(err, RP_NO_MEMORY,
                   "the weights of this shape take %s in %s, and %s may be used; choose a smaller "
                   "shape or more --memory",
                   takes, rp_dtype_name(b->dtype), there);
  }
  const rp_device_kind where = rp_device_apart(b->w->dev) ? RP_DEVICE_CUDA : RP_DEVICE_CPU;
  return rp_model_random(&b->model, &b->w->m, where, b->dtype, 1, err);
}

static rp_status open_file(bench *b, bool own, rp_error *err) {
  rp_model_opts o;
  rp_model_facts f = {.size = sizeof f};
  rp_model_defaults(&o);
  o.device = rp_device_name(b->w->dev);
  o.dtype = own ? NULL : rp_dtype_name(b->dtype);
  RP_TRY(rp_model_open(&b->model, b->w->o.model, &o, err));
  rp_model_about(b->model, &f);
  b->dtype = f.dtype[0] == 'b' ? RP_BF16 : RP_F32;
  b->weights = (double)f.weights;
  return RP_OK;
}

static rp_status in_dtype(bench *b, bool own, rp_error *err) {
  rp_status st = RP_OK;
  const double seconds = b->w->o.seconds < 1.5 ? b->w->o.seconds : 1.5;
  RP_GO(b->w->o.model ? open_file(b, own, err) : open_random(b, err));
  b->m = rp_model_settings_of(b->model);
  RP_GO(rp_limits_measure(b->l, b->w->dev, b->dtype, seconds, err));
  RP_GO(figures(b, err));
  RP_GO(rp_limits_measure(b->l, b->w->dev, b->dtype, seconds, err));
fail:
  return st;
}

/* The lines of the ops behind the table. */
static rp_status add_ops(const bench *b, char **text, rp_error *err) {
  rp_str s = {0};
  if (!b->ops.len) return RP_OK;
  rp_str_add(&s, *text);
  rp_str_add(&s, b->ops.s);
  rp_free(*text);
  *text = rp_str_take(&s);
  return *text ? RP_OK : rp_fail_memory(err, b->ops.len, "the benchmark's table");
}

static rp_status every_dtype(const rp_work *w, rp_figures *all, char **text, rp_error *err) {
  rp_limits l = {0};
  rp_status st = RP_OK;
  const int dtypes = w->dtypes ? w->dtypes : 1;
  const int each =
      w->Ts * w->patterns * (rp_work_does(w, false) + rp_work_does(w, true) * w->batches);
  bench b = {.w = w, .l = &l, .all = all, .of = dtypes * each};
  for (int i = 0; i < dtypes; i++) {
    rp_model_close(b.model); /* one at a time is in memory */
    b.model = NULL;
    b.dtype = w->dtype[i];
    RP_GO(in_dtype(&b, !w->dtypes, err));
  }
  RP_GO(rp_work_any(w, all, err));
  RP_GO(rp_work_report(w, b.m, all, &l, text, err));
  RP_GO(add_ops(&b, text, err));
fail:
  rp_str_free(&b.ops);
  rp_model_close(b.model);
  return st;
}

rp_status rp_bench_model(const rp_config *c, const rp_bench_opts *o, char **text, rp_error *err) {
  rp_work w;
  rp_figures all = {0};
  *text = NULL;
  rp_status st = rp_work_read(&w, &kind, c, o, err);
  if (!st) st = every_dtype(&w, &all, text, err);
  rp_figures_free(&all);
  rp_work_free(&w);
  return st;
}
