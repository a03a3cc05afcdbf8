#include "bench/mixer_rig.h"

#include <math.h>

#include "base/log.h"
#include "model/cost.h"
#include "ops/rate.h"

/* ---- what it is ---- */

rp_status rp_mixer_work_make(rp_mixer_work *w, const rp_model_settings *model, const char *pattern,
                             rp_error *err) {
  *w = (rp_mixer_work){.m = *model, .slices = 1};
  w->m.pats = (rp_pats){0};
  w->m.N = 1;
  w->m.f = 0;
  return rp_pats_parse(&w->m.pats, pattern, 1, w->m.Hk, err);
}

void rp_mixer_work_free(rp_mixer_work *w) { rp_pats_free(&w->m.pats); }

bool rp_mixer_one_head(rp_mixer_work *w) {
  const rp_pat one = w->m.pats.at[0];
  for (int i = 1; i < w->m.Hk; i++) {
    const rp_pat p = w->m.pats.at[i];
    if (p.D != one.D || p.W != one.W || p.I != one.I) return false;
  }
  if (w->m.Hk == 1) return false;
  w->slices = w->m.Hk;
  w->m.H /= w->m.Hk;
  w->m.Hk = w->m.pats.kv_heads = 1;
  return true;
}

/* Elements of the weights: W_in [P, d], W_out [d, H*h]. */
static double weights(const rp_model_settings *m) {
  return ((double)rp_in_proj_rows(m) + (double)m->H * m->h) * m->d;
}

void rp_mixer_count(const rp_mixer_work *w, rp_figure *f) {
  const rp_model_settings *m = &w->m;
  const double batch = (double)w->batch, c = rp_dtype_bytes(w->dtype);
  const rp_flops n =
      w->decode ? rp_cost_step(m, &m->pats, w->T) : rp_cost_flops(m, &m->pats, w->batch, w->T);
  f->tokens = w->decode ? batch : batch * (double)w->T;
  f->flops = (n.attention + (w->core ? 0 : n.products)) * (w->decode ? batch : 1);
  f->cache = batch * rp_cost_cache(m, &m->pats, w->T, w->dtype);
  f->bytes = 0;
  if (w->decode)
    f->bytes =
        batch * rp_cost_cache(m, &m->pats, w->T - 1, w->dtype) + (w->core ? 0 : weights(m) * c);
  else if (w->core) /* the projection, without the output gate's part */
    f->bytes = f->tokens * ((double)rp_in_proj_rows(m) - (double)m->H * m->h) * c;
}

/* ---- the rig ---- */

/* What is timed apart. ALL: where there is nothing to be told apart. */
enum { ALL, SHARED, SLICED, ATTEND, PARTS };

typedef struct {
  const rp_mixer_work *w;
  rp_device *d;
  rp_queue *q;
  rp_run run;
  rp_ptr memory;
  size_t bytes; /* that carve took */
  size_t side;  /* bytes of a side's memory */
  int sides;    /* rigs beside each other */
  rp_tensor weight[RP_SLOTS], x;
  rp_ptr acts; /* of the kind of layer, where the whole is timed */
  /* By hand: norm(x) [n, d]; projection [n, P]; q and attention [n, H*h]; k~, v~ [n, Hk*h] */
  rp_tensor y, p, qh, k, v, a;
  rp_ptr cells;
  size_t cell, ints; /* bytes of a session's, and ints of its lists and tables */
  rp_cold cold;
  rp_window window[PARTS]; /* of a GPU */
  double attend[RP_FIGURE_RUNS];
  int runs;
} rig;

/* The whole of a layer runs as the model runs it; its core, and a slice of it, op by op. */
static bool by_hand(const rp_mixer_work *w) { return w->core || w->slices > 1; }

static int inner(const rp_model_settings *m) { return m->H * m->h; }

static void put_whole(rig *g) {
  rp_kind_mixer(&g->w->m)->forward(&g->run, g->weight, g->x, g->x, g->acts);
}

static void put_norm(rig *g) {
  const rp_model_settings *m = &g->w->m;
  RP_PUT(&g->run, norm,
         {.n = g->run.n,
          .d = m->d,
          .kind = m->mixer_norm,
          .x = g->x,
          .w = g->weight[RP_SLOT_NORM1],
          .b = g->weight[RP_SLOT_NORM1_BIAS],
          .y = g->y});
}

static void put_gate(rig *g) {
  const rp_model_settings *m = &g->w->m;
  const int P = (int)rp_in_proj_rows(m);
  rp_run *r = &g->run;
  if (!g->w->core) rp_linear(r, g->y, m->d, g->weight[RP_SLOT_IN], P, m->d, g->p, false);
  RP_PUT(r, gate,
         {r->rows, m->H, m->Hk, m->h, m->apply_re, r->infer, P, g->p, g->qh, g->k, g->v, r->rope,
          r->kv});
}

static void put_attend(rig *g) {
  const rp_model_settings *m = &g->w->m;
  rp_run *r = &g->run;
  RP_PUT(r, attend,
         {.rows = r->rows,
          .H = m->H,
          .Hk = m->Hk,
          .h = m->h,
          .pats_stride = r->pats_stride,
          .scale = 1 / sqrt(m->h),
          .pats = r->pats,
          .q = g->qh,
          .k = g->k,
          .v = g->v,
          .out = g->a,
          .kv = r->kv});
}

static void put_rest(rig *g) {
  const rp_model_settings *m = &g->w->m;
  rp_run *r = &g->run;
  if (r->infer)
    RP_PUT(r, append, {r->rows, m->Hk, m->h, r->pats_stride, r->pats, g->k, g->v, r->kv});
  if (g->w->core) return;
  RP_PUT(r, ogate, {r->n, inner(m), rp_in_proj_rows(m), g->a, g->p, g->a});
  rp_linear(r, g->a, inner(m), g->weight[RP_SLOT_OUT], m->d, inner(m), g->x, true);
}

static void put_all(rig *g) {
  if (!by_hand(g->w)) {
    put_whole(g);
    return;
  }
  if (!g->w->core) put_norm(g);
  put_gate(g);
  put_attend(g);
  put_rest(g);
}

/* Blocks of one key-value head's list of one session. */
static int64_t list_blocks(const rp_mixer_work *w, int head, bool ring) {
  const rp_pat p = w->m.pats.at[head];
  const int64_t n = ring ? rp_pat_in_ring(p, w->T, 0) : rp_pat_in_kept(p, w->T, 0);
  return (n + RP_KV_BLOCK - 1) / RP_KV_BLOCK;
}

static int64_t session_blocks(const rp_mixer_work *w) {
  int64_t n = 0;
  for (int i = 0; i < w->m.Hk; i++) n += list_blocks(w, i, false) + list_blocks(w, i, true);
  return n;
}

static int64_t tokens(const rp_mixer_work *w) { return w->decode ? w->batch : w->batch * w->T; }
static int64_t pool_blocks(const rp_mixer_work *w) {
  return w->decode ? w->batch * session_blocks(w) : 0;
}

static void run_init(rig *g) {
  const rp_mixer_work *w = g->w;
  const rp_model_settings *m = &w->m;
  const rp_dtype real = rp_device_real(g->d), compute = w->dtype == RP_BF16 ? RP_BF16 : real;
  const int32_t n = (int32_t)tokens(w);
  g->run = (rp_run){.q = g->q, .dev = g->d, .m = m, .real = real, .compute = compute, .n = n};
  g->run.rows = (rp_rows){{0}, (int32_t)w->batch, n, w->decode ? 1 : (int32_t)w->T};
  g->run.pats_stride = m->Hk;
  g->run.infer = w->decode;
  if (!w->decode) return;
  g->run.kv = (rp_kv){.pool = {{0}, compute},
                      .blocks = (int32_t)pool_blocks(w),
                      .layers = 1,
                      .states = m->apply_re};
  g->ints = 2 * (size_t)m->Hk + (size_t)session_blocks(w);
  g->cell = rp_cell_states_bytes(&g->run.kv, m->Hk, m->h, rp_dtype_bytes(real)) +
            (g->ints * sizeof(int32_t) + 63) / 64 * 64;
}

static rp_tensor take(rp_carve *at, rp_dtype dtype, size_t elements) {
  return (rp_tensor){rp_carve_take(at, elements * (size_t)rp_dtype_bytes(dtype)), dtype};
}

static void carve_weights(rig *g, rp_carve *at) {
  const rp_model_settings *m = &g->w->m;
  const rp_run *r = &g->run;
  const size_t d = (size_t)m->d;
  g->weight[RP_SLOT_IN] = take(at, r->compute, (size_t)rp_in_proj_rows(m) * d);
  g->weight[RP_SLOT_OUT] = take(at, r->compute, d * (size_t)inner(m));
  g->weight[RP_SLOT_NORM1] = take(at, r->real, d);
  if (m->mixer_norm == RP_NORM_LAYER) g->weight[RP_SLOT_NORM1_BIAS] = take(at, r->real, d);
  g->x = take(at, r->real, (size_t)r->n * d);
}

static void carve_hand(rig *g, rp_carve *at) {
  const rp_model_settings *m = &g->w->m;
  const rp_dtype c = g->run.compute;
  const size_t n = (size_t)g->run.n, kv = (size_t)m->Hk * (size_t)m->h;
  if (!g->w->core) g->y = take(at, c, n * (size_t)m->d);
  g->p = take(at, c, n * (size_t)rp_in_proj_rows(m));
  g->qh = take(at, c, n * (size_t)inner(m));
  g->k = take(at, c, n * kv);
  g->v = take(at, c, n * kv);
  g->a = take(at, c, n * (size_t)inner(m));
}

/* Tensors from memory at `base`, in one order for planning and for use. */
static void carve(rig *g, uintptr_t base) {
  const rp_mixer_work *w = g->w;
  const rp_model_settings *m = &w->m;
  rp_run *r = &g->run;
  rp_carve at = {base, 0, 0};
  r->rows.row = rp_carve_take(&at, (size_t)w->batch * sizeof(rp_row));
  r->pats = rp_carve_take(&at, (size_t)m->Hk * sizeof(rp_pat));
  const size_t angles = w->decode ? (size_t)r->n : (size_t)w->T;
  if (m->rope) r->rope = take(&at, r->real, angles * (size_t)m->h).p;
  if (w->decode) {
    g->cells = rp_carve_take(&at, (size_t)w->batch * g->cell);
    r->kv.pool = take(&at, r->compute, (size_t)r->kv.blocks * (size_t)rp_kv_block_elements(m->h));
  }
  if (!w->core) carve_weights(g, &at);
  if (by_hand(w))
    carve_hand(g, &at);
  else
    g->acts = rp_carve_take(&at, rp_kind_mixer(m)->acts(r));
  r->tmp.base = base ? base + at.used : 0;
  g->bytes = at.used;
}

/* Walks the work dry: memory, work buffers behind it, scratch of the queue. */
static void plan(rig *g) {
  run_init(g);
  g->run.dry = true;
  carve(g, 0);
  put_all(g);
  g->run.dry = false;
  g->bytes += g->run.tmp.peak;
}

/* What one call cannot count is beyond every memory: its largest tensors say so. */
static double beyond(const rp_mixer_work *w) {
  const double block = (double)rp_kv_block_elements(w->m.h) * rp_dtype_bytes(w->dtype);
  const double row = (double)rp_in_proj_rows(&w->m) * rp_dtype_bytes(w->dtype);
  return (double)pool_blocks(w) * block + (double)tokens(w) * row;
}

double rp_mixer_need(const rp_mixer_work *w) {
  rig g = {.w = w, .d = w->dev};
  if (tokens(w) > INT32_MAX || pool_blocks(w) > INT32_MAX) return beyond(w);
  plan(&g);
  return (double)g.bytes + (double)g.run.scratch + (w->decode ? RP_COLD : 0);
}

/* ---- contents ---- */

/* One session's lists and tables, its blocks from `block` on. */
static void lay_tables(const rig *g, int32_t *ints, int32_t block) {
  const int lists = 2 * g->w->m.Hk;
  int32_t at = lists;
  for (int i = 0; i < lists; i++) {
    ints[i] = at;
    for (int64_t b = list_blocks(g->w, i / 2, i % 2); b > 0; b--) ints[at++] = block++;
  }
}

static rp_status upload_cells(rig *g, rp_row *row, rp_error *err) {
  const rp_mixer_work *w = g->w;
  const int32_t each = (int32_t)session_blocks(w);
  const size_t states =
      rp_cell_states_bytes(&g->run.kv, w->m.Hk, w->m.h, rp_dtype_bytes(g->run.real));
  int32_t *ints = rp_malloc(g->ints, sizeof *ints);
  if (!ints) return rp_fail_memory(err, g->ints * sizeof *ints, "the tables of a session");
  for (int64_t i = 0; i < w->batch; i++) {
    row[i].cell = rp_ptr_add(g->cells, (size_t)i * g->cell);
    lay_tables(g, ints, (int32_t)i * each);
    rp_upload(g->q, rp_ptr_add(row[i].cell, states), ints, g->ints * sizeof *ints);
  }
  rp_free(ints);
  return RP_OK;
}

static rp_status upload_rows(rig *g, rp_error *err) {
  const rp_mixer_work *w = g->w;
  rp_status st = RP_OK;
  const int32_t T = (int32_t)w->T;
  rp_row *row = rp_calloc((size_t)w->batch, sizeof *row);
  if (!row) return rp_fail_memory(err, (size_t)w->batch * sizeof *row, "rows");
  for (int32_t i = 0; i < (int32_t)w->batch; i++)
    row[i] = w->decode ? (rp_row){.tok = i, .n = 1, .pos = T - 1, .top = T - 1}
                       : (rp_row){.tok = i * T, .n = T};
  if (w->decode) RP_GO(upload_cells(g, row, err));
  rp_upload(g->q, g->run.rows.row, row, (size_t)w->batch * sizeof *row);
  rp_upload(g->q, g->run.pats, w->m.pats.at, (size_t)w->m.Hk * sizeof(rp_pat));
fail:
  rp_free(row);
  return st;
}

static void fill(rig *g) {
  const rp_model_settings *m = &g->w->m;
  const rp_run *r = &g->run;
  const int64_t n = r->n, d = m->d, P = rp_in_proj_rows(m);
  if (g->w->decode) rp_fill(g->q, r->kv.pool, r->kv.blocks * rp_kv_block_elements(m->h), 1);
  if (g->w->core) {
    rp_fill(g->q, g->p, n * P, 1);
  } else {
    rp_fill(g->q, g->weight[RP_SLOT_IN], P * d, 0.02);
    rp_fill(g->q, g->weight[RP_SLOT_OUT], d * inner(m), 0.02);
    rp_fill(g->q, g->weight[RP_SLOT_NORM1], d, 1);
    rp_fill(g->q, g->x, n * d, 1);
  }
  if (m->rope)
    rp_op_rope(g->q, &(rp_rope_args){.count = g->w->decode ? r->n : (int)g->w->T,
                                     .h = m->h,
                                     .base = m->rope_base,
                                     .scale = m->rope_scale,
                                     .table = r->rope,
                                     .rows = g->w->decode ? r->rows : (rp_rows){.count = 0}});
}

/* ---- of a GPU, parts side by side ---- */

/* Turns to a side. */
static void turn(rig *g, int side) { carve(g, g->memory.at + (size_t)side * g->side); }

static void put_all_of(void *ctx, int side) {
  turn(ctx, side);
  put_all(ctx);
}
static void put_shared_of(void *ctx, int side) {
  turn(ctx, side);
  put_norm(ctx);
}
static void put_sliced_of(void *ctx, int side) {
  turn(ctx, side);
  put_gate(ctx);
  put_attend(ctx);
  put_rest(ctx);
}
static void put_attend_of(void *ctx, int side) {
  turn(ctx, side);
  put_attend(ctx);
}

static rp_status open_windows(rig *g, double seconds, rp_error *err) {
  static void (*const puts[PARTS])(void *, int) = {put_all_of, put_shared_of, put_sliced_of,
                                                   put_attend_of};
  const rp_mixer_work *w = g->w;
  const bool wanted[PARTS] = {w->slices == 1, w->slices > 1 && !w->core, w->slices > 1, by_hand(w)};
  for (int i = 0; i < PARTS; i++) {
    if (!wanted[i]) continue;
    g->window[i] = (rp_window){.q = g->q, .put = puts[i], .ctx = g, .sides = g->sides};
    RP_TRY(rp_window_open(&g->window[i], seconds, err));
  }
  return RP_OK;
}

static rp_status rig_open(rig *g, double seconds, rp_error *err) {
  const bool gpu = rp_device_apart(g->w->dev);
  g->d = g->w->dev;
  RP_TRY(rp_queue_open(&g->q, g->d, err));
  if (g->w->decode && !gpu) RP_TRY(rp_cold_open(&g->cold, seconds, err));
  plan(g);
  g->side = (g->bytes + 255) / 256 * 256;
  g->sides = g->w->decode ? rp_rate_sides(g->d, (double)g->side) : 1;
  RP_TRY(rp_queue_reserve(g->q, g->run.scratch, err));
  RP_TRY(rp_device_alloc(g->d, (size_t)g->sides * g->side, "a layer's benchmark", &g->memory, err));
  for (int i = 0; i < g->sides; i++) {
    turn(g, i);
    RP_TRY(upload_rows(g, err));
    fill(g);
  }
  RP_TRY(rp_wait(g->q, err));
  return gpu ? open_windows(g, seconds, err) : RP_OK;
}

static void rig_close(rig *g) {
  if (g->q) rp_wait(g->q, NULL);
  for (int i = 0; i < PARTS; i++) rp_window_close(&g->window[i]);
  if (g->memory.at) rp_device_free(g->d, g->memory);
  rp_cold_close(&g->cold);
  rp_queue_close(g->q);
  rp_free(g);
}

/* ---- time ---- */

/* What was put since `*at` ends now; its time goes to `part`. */
static rp_status lap(rig *g, double *at, double *part, rp_error *err) {
  RP_TRY(rp_wait(g->q, err));
  const double now = rp_now();
  *part += now - *at;
  *at = now;
  return RP_OK;
}

/* The parts that there are, each over and over. */
static rp_status once_in_windows(rig *g, double *seconds, rp_error *err) {
  double took[PARTS] = {0};
  for (int i = 0; i < PARTS; i++)
    if (g->window[i].tape) RP_TRY(rp_window_run(&g->window[i], &took[i], err));
  *seconds = took[ALL] + took[SHARED] + g->w->slices * took[SLICED];
  g->attend[g->runs++] = g->w->slices * took[ATTEND];
  return RP_OK;
}

static rp_status once(void *ctx, double *seconds, bool *done, rp_error *err) {
  rig *g = ctx;
  double shared = 0, sliced = 0, attend = 0;
  (void)done;
  if (rp_device_apart(g->d)) return once_in_windows(g, seconds, err);
  rp_cold_run(&g->cold);
  double at = rp_now();
  if (!by_hand(g->w)) {
    put_whole(g);
    *seconds = 0;
    return lap(g, &at, seconds, err);
  }
  if (!g->w->core) {
    put_norm(g);
    RP_TRY(lap(g, &at, &shared, err));
  }
  put_gate(g);
  RP_TRY(lap(g, &at, &sliced, err));
  put_attend(g);
  RP_TRY(lap(g, &at, &attend, err));
  put_rest(g);
  RP_TRY(lap(g, &at, &sliced, err));
  *seconds = shared + g->w->slices * (sliced + attend);
  g->attend[g->runs++] = g->w->slices * attend;
  return RP_OK;
}

rp_status rp_mixer_time(const rp_mixer_work *w, rp_figure *f, bool warm, double seconds,
                        rp_error *err) {
  rp_status st = RP_OK;
  double first = 0;
  bool done;
  rig *g = rp_calloc(1, sizeof *g);
  if (!g) return rp_fail_memory(err, sizeof *g, "a layer's benchmark");
  g->w = w;
  RP_GO(rig_open(g, seconds, err));
  if (warm) RP_GO(once(g, &first, &done, err));
  g->runs = 0;
  RP_GO(rp_figure_time(f, once, g, seconds, RP_FIGURE_RUNS, err));
  if (by_hand(w)) f->attend = rp_median(g->attend, g->runs);
fail:
  rig_close(g);
  return st;
}
