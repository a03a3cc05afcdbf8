/* bench_train.c - whole optimizer steps on random tokens: tokens per second, and the share of what
 * the model's FLOPs allow at the product rate of the same run. */
#include "base/cpu.h"
#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"
#include "bench/place.h"
#include "bench/work.h"
#include "model/cost.h"
#include "model/net.h"
#include "model/spread.h"
#include "ops/rate.h"
#include "train/optimizer.h"

enum { MOST_STEPS = 1000, MOST_CASES = RP_WORK_MOST };

/* One line of the result. */
typedef struct {
  rp_dtype dtype;
  char *pattern;
  double seconds; /* of a step, median */
  double tokens;  /* per second */
  double flops;   /* of a step */
  double rate;    /* products, FLOP/s */
  double loss;
  double waited, busy, sent; /* of a step of this rank, over ranks: seconds, seconds, bytes */
  rp_op_times ops;           /* of all steps that were timed */
  int steps;
  bool recompute;
} row;

typedef struct {
  rp_device *dev;
  rp_model_settings m;
  rp_optim_settings optim;
  double clip;
  int batch, T;   /* batch: of all ranks together */
  bool recompute; /* where it must fit; else where it would not fit without */
  rp_shard shard;
  rp_comm *comm; /* NULL: alone */
  int ranks;
} task;

static int own_batch(const task *t) { return t->batch / t->ranks; }

typedef struct {
  rp_device *d; /* the task's */
  rp_queue *q;
  rp_params params;
  rp_optimizer opt;
  rp_spread *spread; /* NULL: alone */
  rp_net *net;
  rp_weights weights;
  rp_ptr ids, labels, loss;
} rig;

static void rig_close(rig *g) {
  if (g->q) rp_wait(g->q, NULL);
  rp_spread_close(g->spread);
  rp_net_close(g->net);
  rp_optimizer_close(&g->opt);
  rp_params_close(&g->params);
  if (g->d) {
    rp_device_free(g->d, g->ids);
    rp_device_free(g->d, g->labels);
    rp_device_free(g->d, g->loss);
  }
  rp_queue_close(g->q);
  *g = (rig){0};
}

static rp_status upload_tokens(rig *g, const task *t, rp_error *err) {
  const size_t n = (size_t)own_batch(t) * (size_t)t->T;
  int32_t *ids = rp_malloc(n, 2 * sizeof *ids);
  if (!ids) return rp_fail_memory(err, 2 * n * sizeof *ids, "random tokens");
  rp_rng r;
  rp_rng_init(&r, 1, RP_RNG_BENCH, 1);
  for (size_t i = 0; i < 2 * n; i++) ids[i] = (int32_t)rp_rng_below(&r, (uint64_t)t->m.V);
  rp_upload(g->q, g->ids, ids, n * sizeof *ids);
  rp_upload(g->q, g->labels, ids + n, n * sizeof *ids);
  const rp_status st = rp_wait(g->q, err);
  rp_free(ids);
  return st;
}

static bool in_parts(const task *t) { return t->ranks > 1 && rp_shard_parts(t->shard); }

static rp_net_opts net_opts(const task *t, rp_dtype dtype) {
  return (rp_net_opts){
      .batch = own_batch(t), .T = t->T, .dtype = dtype, .train = true, .recompute = t->recompute};
}

/* Bytes of a rank. */
static rp_status need_of(const task *t, rp_dtype dtype, double *bytes, rp_error *err) {
  rp_shape shape = {0};
  rp_layout lay = {0};
  rp_net_bytes net;
  rp_status st = RP_OK;
  const rp_net_opts o = net_opts(t, dtype);
  const rp_dtype real = rp_device_real(t->dev);
  RP_GO(rp_shape_make(&shape, &t->m, err));
  RP_GO(rp_layout_make(&lay, &shape, 0, in_parts(t) ? t->ranks : 1, err));
  RP_GO(rp_net_plan(t->dev, &t->m, &o, &net, err));
  const rp_params_bytes p = rp_params_plan(&lay, real, dtype, true);
  *bytes = (double)(p.masters + p.copy + p.grads + net.acts + net.tmp + net.scratch + net.tables) +
           (double)rp_optimizer_plan(&lay, real, t->optim.name);
fail:
  rp_layout_free(&lay);
  rp_shape_free(&shape);
  return st;
}

/* Recomputes where all activations would not fit. */
static rp_status fit(task *t, const rp_bench_opts *o, rp_dtype dtype, rp_error *err) {
  char takes[32], there[32];
  double need;
  const double free = (double)rp_bench_memory(t->dev, o->memory);
  RP_TRY(need_of(t, dtype, &need, err));
  if (need > free) {
    t->recompute = true;
    RP_TRY(need_of(t, dtype, &need, err));
  }
  if (need <= free) return RP_OK;
  rp_format_bytes(takes, need);
  rp_format_bytes(there, free);
  return rp_fail(err, RP_NO_MEMORY,
                 "steps of %d sequences of %d tokens take %s of memory in %s, and %s are free; "
                 "give a smaller --batch, --seq-len or --shape",
                 own_batch(t), t->T, takes, rp_dtype_name(dtype), there);
}

static rp_status rig_open(rig *g, const task *t, rp_dtype dtype, rp_error *err) {
  rp_status st = RP_OK;
  const size_t n = (size_t)own_batch(t) * (size_t)t->T * sizeof(int32_t);
  const bool parts = in_parts(t);
  const rp_net_opts o = net_opts(t, dtype);
  *g = (rig){0};
  g->d = t->dev;
  RP_GO(rp_queue_open(&g->q, g->d, err));
  RP_GO(rp_device_alloc(g->d, n, "tokens", &g->ids, err));
  RP_GO(rp_device_alloc(g->d, n, "labels", &g->labels, err));
  RP_GO(rp_device_alloc(g->d, sizeof(rp_loss), "the loss", &g->loss, err));
  RP_GO(rp_params_open_part(&g->params, g->q, &t->m, dtype, true, parts ? rp_comm_rank(t->comm) : 0,
                            parts ? t->ranks : 1, err));
  RP_GO(rp_params_rough(&g->params, 1, err));
  RP_GO(rp_optimizer_open(&g->opt, &g->params, &t->optim, t->clip, err));
  RP_GO(rp_net_open(&g->net, g->q, &t->m, &o, err));
  g->weights = rp_params_weights(&g->params);
  if (t->ranks > 1) {
    RP_GO(rp_spread_open(&g->spread, &g->params, t->comm, t->shard, true, err));
    g->weights = rp_spread_weights(g->spread);
    rp_spread_last(g->spread, true);
    g->opt.sum = parts ? rp_spread_sum : NULL;
    g->opt.sum_ctx = g->spread;
  }
  RP_GO(upload_tokens(g, t, err));
  return RP_OK;
fail:
  rig_close(g);
  return st;
}

static rp_status step(rig *g, const task *t, int plan, double *seconds, rp_error *err) {
  const rp_pass p = {.batch = own_batch(t),
                     .T = t->T,
                     .plan = plan,
                     .grad = true,
                     .weight = 1.0 / t->ranks,
                     .ids = g->ids,
                     .labels = g->labels,
                     .loss = g->loss};
  const double from = rp_now();
  rp_op_zero(g->q, &(rp_zero_args){g->loss, sizeof(rp_loss)});
  RP_TRY(rp_net_pass(g->net, &g->weights, &p, err));
  if (g->spread) rp_spread_finish(g->spread);
  rp_optimizer_step(&g->opt, 1e-4, g->loss);
  RP_TRY(rp_wait(g->q, err));
  *seconds = rp_now() - from;
  return RP_OK;
}

/* Rank 0's clock says when all have enough. */
static rp_status same_mind(const task *t, bool *more, rp_error *err) {
  int64_t v = *more;
  if (t->ranks == 1) return RP_OK;
  RP_TRY(rp_comm_host_run(t->comm, RP_COMM_BROADCAST, RP_I64, &v, &v, 1, 0, err));
  *more = v != 0;
  return RP_OK;
}

static void note_traffic(row *r, rp_comm_stats a, rp_comm_stats b, int steps) {
  r->waited = (b.waited - a.waited) / steps;
  r->busy = (b.busy - a.busy) / steps;
  r->sent = 0;
  for (int k = 0; k < RP_COMM_KINDS; k++) r->sent += (double)(b.sent[k] - a.sent[k]) / steps;
}

/* A first step that is not timed, then steps until the time is used. */
static rp_status time_steps(rig *g, const task *t, const rp_bench_opts *o, row *r, rp_error *err) {
  double took[MOST_STEPS], spent = 0;
  const double seconds = o->seconds > 0 ? o->seconds : 15;
  const int most = o->steps > 0 && o->steps < MOST_STEPS ? o->steps : MOST_STEPS;
  int n = 0, plan;
  rp_pats pats;
  rp_loss loss;
  RP_TRY(rp_pats_parse(&pats, r->pattern, t->m.N, t->m.Hk, err));
  const rp_flops f = rp_cost_flops(&t->m, &pats, t->batch, t->T);
  const rp_status st = rp_net_add_plan(g->net, &pats, &plan, err);
  rp_pats_free(&pats);
  if (st) return st;
  RP_TRY(step(g, t, plan, &took[0], err));
  if (o->ops) rp_queue_time(g->q, &r->ops);
  const rp_comm_stats before = t->comm ? rp_comm_counts(t->comm) : (rp_comm_stats){0};
  for (bool more = true; more;) {
    RP_TRY(step(g, t, plan, &took[n], err));
    spent += took[n++];
    more = n < most && (o->steps > 0 || n < 2 || spent < seconds);
    RP_TRY(same_mind(t, &more, err));
  }
  rp_queue_time(g->q, NULL);
  r->steps = n;
  if (t->comm) note_traffic(r, before, rp_comm_counts(t->comm), n);
  rp_download(g->q, &loss, g->loss, sizeof loss);
  RP_TRY(rp_wait(g->q, err));
  r->seconds = rp_median(took, n);
  r->tokens = (double)t->batch * t->T / r->seconds;
  r->flops = 3 * (f.products + f.attention + f.head);
  r->loss = loss.mean;
  return RP_OK;
}

/* All patterns in one dtype: the rate before and after, the better of the two. */
static rp_status bench_dtype(const task *asked, const rp_bench_opts *o, row *rows, int n,
                             rp_error *err) {
  rp_status st = RP_OK;
  rig g = {0};
  task own = *asked;
  const task *t = &own;
  double before, after;
  const double seconds = o->seconds > 0 && o->seconds < 1.5 ? o->seconds : 1.5;
  RP_TRY(fit(&own, o, rows[0].dtype, err));
  RP_TRY(rp_product_rate(t->dev, rows[0].dtype, seconds, &before, err));
  RP_GO(rig_open(&g, t, rows[0].dtype, err));
  for (int i = 0; i < n; i++) RP_GO(time_steps(&g, t, o, &rows[i], err));
  RP_GO(rp_product_rate(t->dev, rows[0].dtype, seconds, &after, err));
  for (int i = 0; i < n; i++) {
    rows[i].rate = t->ranks * (before > after ? before : after);
    rows[i].recompute = t->recompute;
  }
fail:
  rig_close(&g);
  return st;
}

static rp_status one_number(const char *flag, const int64_t *given, size_t n, int *at,
                            rp_error *err) {
  if (!n) return RP_OK;
  if (n > 1 || given[0] < 1 || given[0] > 1 << 24)
    return rp_fail(err, RP_USAGE, "bench train: --%s takes one number from 1 to %d", flag, 1 << 24);
  *at = (int)given[0];
  return RP_OK;
}

/* On a GPU a model of a billion, so that there is enough to do. */
static rp_status own_task(task *t, const rp_bench_opts *o, rp_error *err) {
  const bool gpu = rp_device_apart(t->dev);
  const rp_model_settings usual = gpu ? rp_bench_shape(24, 2048) : rp_bench_shape(12, 768);
  t->batch = gpu ? 8 : 4;
  t->T = gpu ? 4096 : 1024;
  t->clip = 1;
  t->shard = RP_SHARD_NONE;
  t->optim = (rp_optim_settings){.name = RP_OPT_ADAMW,
                                 .lr = 1e-4,
                                 .weight_decay = 0.1,
                                 .beta1 = 0.9,
                                 .beta2 = 0.95,
                                 .eps = 1e-8};
  RP_TRY(rp_bench_own_shape(&t->m, o, &usual, err));
  RP_TRY(one_number("seq-len", o->seq_lens, o->n_seq_lens, &t->T, err));
  RP_TRY(one_number("batch", o->batches, o->n_batches, &t->batch, err));
  return rp_pats_uniform(&t->m.pats, (rp_pat){1, 0, 0}, t->m.N, t->m.Hk, err);
}

/* ---- the report ---- */

/* Share of the collectives' time that nobody waited for. */
static double hidden(const row *r) { return r->busy > r->waited ? 1 - r->waited / r->busy : 0; }

static void add_ranks(rp_str *b, const task *t, const row *rows, int n) {
  static const char *const names[] = {"", "FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", ""};
  if (t->ranks == 1) return;
  rp_str_addf(b, "%d ranks, %s; of rank 0, a step:\n", t->ranks, names[t->shard]);
  rp_str_add(b, "dtype     pattern          sent MB  collectives s  waited s  hidden\n");
  for (int i = 0; i < n; i++)
    rp_str_addf(b, "%-9s %-14s %9.1f %14.3f %9.3f %6.0f%%\n", rp_dtype_name(rows[i].dtype),
                rows[i].pattern, rows[i].sent * 1e-6, rows[i].busy, rows[i].waited,
                100 * hidden(&rows[i]));
}

static void add_text(rp_str *b, const task *t, const rp_bench_opts *o, const row *rows, int n) {
  rp_str_addf(b, "%d layers, d=%d, %d heads of %d, V=%d, T=%d, batch %d; ", t->m.N, t->m.d, t->m.H,
              t->m.h, t->m.V, t->T, t->batch);
  rp_bench_place(b, t->dev);
  rp_str_add(b, "\n");
  rp_str_add(b, "dtype     pattern          tokens/s   s/step  GFLOP/s  products  share\n");
  for (int i = 0; i < n; i++) {
    const row *r = &rows[i];
    rp_str_addf(b, "%-9s %-14s %10.1f %8.3f %8.1f %9.1f %5.1f%%%s\n", rp_dtype_name(r->dtype),
                r->pattern, r->tokens, r->seconds, r->flops / r->seconds * 1e-9, r->rate * 1e-9,
                100 * r->flops / r->seconds / r->rate, r->recompute ? " recomputed" : "");
  }
  for (int i = 0; i < n; i++)
    if (o->ops)
      rp_figure_ops(b, &rows[i].ops, rows[i].steps, rows[i].seconds, rows[i].rate, "%s %s",
                    rp_dtype_name(rows[i].dtype), rows[i].pattern);
  add_ranks(b, t, rows, n);
}

static void add_json(rp_str *b, const task *t, const row *rows, int n) {
  rp_str_addf(b,
              "{\"layers\":%d,\"d\":%d,\"heads\":%d,\"d_head\":%d,\"vocab\":%d,\"seq_len\":%d,"
              "\"batch\":%d,\"device\":\"%s\",\"threads\":%d,\"processor\":",
              t->m.N, t->m.d, t->m.H, t->m.h, t->m.V, t->T, t->batch, rp_device_name(t->dev),
              rp_threads());
  rp_json_add_string(b, rp_device_label(t->dev));
  rp_str_add(b, ",\"cases\":[");
  for (int i = 0; i < n; i++) {
    const row *r = &rows[i];
    rp_str_addf(b,
                "%s{\"dtype\":\"%s\",\"pattern\":\"%s\",\"tokens_per_second\":%.6g,"
                "\"seconds_per_step\":%.6g,\"flops_per_step\":%.6g,\"product_rate\":%.6g,"
                "\"share\":%.4g,\"recompute\":%s,\"loss\":%.6g}",
                i ? "," : "", rp_dtype_name(r->dtype), r->pattern, r->tokens, r->seconds, r->flops,
                r->rate, r->flops / r->seconds / r->rate, r->recompute ? "true" : "false", r->loss);
    if (t->ranks > 1) {
      b->len--; /* the brace */
      rp_str_addf(b, ",\"ranks\":%d,\"sent\":%.6g,\"collectives\":%.6g,\"waited\":%.6g}", t->ranks,
                  r->sent, r->busy, r->waited);
    }
  }
  rp_str_add(b, "]}\n");
}

static rp_status report(const task *t, const rp_bench_opts *o, const row *rows, int n, char **text,
                        rp_error *err) {
  rp_str b = {0};
  if (o->json)
    add_json(&b, t, rows, n);
  else
    add_text(&b, t, o, rows, n);
  *text = rp_str_take(&b);
  return *text ? RP_OK : rp_fail_memory(err, 4096, "the benchmark's table");
}

/* Before anything is measured. */
static rp_status check_pattern(const task *t, const char *pattern, rp_error *err) {
  rp_pats p = {0};
  const rp_status st = rp_pats_parse(&p, pattern, t->m.N, t->m.Hk, err);
  rp_pats_free(&p);
  return st;
}

static rp_status run(const task *t, const rp_bench_opts *o, char **words, int dtypes, int patterns,
                     char **text, rp_error *err) {
  row rows[MOST_CASES];
  if (dtypes * patterns > MOST_CASES)
    return rp_fail(err, RP_USAGE, "more than %d cases in one benchmark", MOST_CASES);
  for (int i = 0; i < patterns; i++) RP_TRY(check_pattern(t, words[dtypes + i], err));
  for (int i = 0; i < dtypes; i++) {
    row *first = &rows[i * patterns];
    for (int j = 0; j < patterns; j++) {
      first[j] = (row){.pattern = words[dtypes + j]};
      RP_TRY(rp_bench_dtype(words[i], &first[j].dtype, err));
    }
    RP_TRY(bench_dtype(t, o, first, patterns, err));
  }
  return report(t, o, rows, dtypes * patterns, text, err);
}

static rp_status bench(const task *t, const rp_bench_opts *o, char **text, rp_error *err) {
  char *words[2 * MOST_CASES] = {0};
  int dtypes, patterns;
  rp_status st = RP_OK;
  RP_GO(rp_bench_split(o->dtypes ? o->dtypes : "float32,bfloat16", ',', words, &dtypes, err));
  RP_GO(
      rp_bench_split(o->patterns ? o->patterns : "D=1;D=64", ';', words + dtypes, &patterns, err));
  st = run(t, o, words, dtypes, patterns, text, err);
fail:
  for (int i = 0; i < 2 * MOST_CASES; i++) rp_free(words[i]);
  return st;
}

/* The batch is shared out, so that one rank and many do the same work. */
static rp_status bench_ranks(task *t, const rp_bench_opts *o, char **text, rp_error *err) {
  t->ranks = rp_ranks_count(o->ranks);
  t->comm = t->ranks > 1 ? rp_ranks_comm(o->ranks) : NULL;
  if (t->comm && rp_device_apart(t->dev)) RP_TRY(rp_comm_on_gpus(t->comm, err));
  if (o->shard) t->shard = (rp_shard)o->shard;
  if (t->batch % t->ranks)
    return rp_fail(err, RP_USAGE, "a batch of %d cannot be shared by %d ranks", t->batch, t->ranks);
  return bench(t, o, text, err);
}

static rp_status bench_config(task *t, const rp_config *c, const rp_bench_opts *o, char **text,
                              rp_error *err) {
  rp_settings s;
  if (rp_bench_told_shape(o) || o->n_seq_lens || o->n_batches)
    return rp_fail(err, RP_USAGE,
                   "a shape by flags (--shape, --batch ...) and a configuration: give one of the "
                   "two");
  RP_TRY(rp_settings_read(&s, c, 1, err));
  *t = (task){t->dev,
              s.model,
              s.optim,
              s.trainer.clip,
              s.train.batch,
              s.train.T,
              s.trainer.recompute,
              s.trainer.shard,
              NULL,
              1};
  const rp_status st = bench_ranks(t, o, text, err);
  rp_settings_free(&s);
  return st;
}

static rp_status bench_own(task *t, const rp_bench_opts *o, char **text, rp_error *err) {
  rp_status st = own_task(t, o, err);
  if (!st) st = bench_ranks(t, o, text, err);
  rp_pats_free(&t->m.pats);
  return st;
}

rp_status rp_bench_train(const rp_config *c, const rp_bench_opts *opts, char **text,
                         rp_error *err) {
  rp_bench_opts o;
  task t = {0};
  rp_bench_defaults(&o);
  if (opts) o = *opts;
  *text = NULL;
  rp_status st = rp_bench_device(&t.dev, o.device, false, err);
  if (!st) st = c ? bench_config(&t, c, &o, text, err) : bench_own(&t, &o, text, err);
  rp_device_close(t.dev);
  return st;
}
