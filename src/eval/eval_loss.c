/* eval_loss.c - token-weighted loss of a model over a token file, pattern by pattern. */
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "dist/comm.h"
#include "model/cost.h"
#include "model/net.h"
#include "ratplus/eval.h"
#include "train/trainer.h"

void rp_eval_defaults(rp_eval_opts *o) { *o = (rp_eval_opts){.size = sizeof *o}; }

void rp_eval_free(rp_eval_row *rows, size_t n) {
  for (size_t i = 0; rows && i < n; i++) rp_free(rows[i].pattern);
  rp_free(rows);
}

/* ---- where batches come from: windows of a file, or the loaders of a run ---- */

typedef struct {
  int batch, T;
  int64_t batches; /* of one walk over all */
  int64_t at;      /* batches served */
  rp_tokens file;  /* windows */
  int64_t windows;
  int32_t eos, V;
  int32_t *raw;        /* [T + 1] */
  rp_loader **loaders; /* [shards]; NULL: windows */
  int shards;
} source;

static rp_status next_windows(source *s, int32_t *ids, int32_t *labels, int *count, rp_error *err) {
  const int64_t from = s->at * s->batch, left = s->windows - from;
  *count = left < s->batch ? (int)left : s->batch;
  for (int b = 0; b < *count; b++) {
    RP_TRY(rp_tokens_get(&s->file, (from + b) * s->T, s->T + 1, 0, s->V, s->raw, err));
    for (int t = 0; t < s->T; t++) {
      ids[b * s->T + t] = s->raw[t];
      labels[b * s->T + t] = s->raw[t] == s->eos ? -100 : s->raw[t + 1];
    }
  }
  return RP_OK;
}

static rp_status next_batch(source *s, int32_t *ids, int32_t *labels, int *count, rp_error *err) {
  rp_status st;
  if (s->loaders) {
    const int64_t each = s->batches / s->shards;
    rp_loader *l = s->loaders[s->at / each];
    *count = s->batch;
    if (s->at % each == 0) RP_TRY(rp_loader_seek(l, 0));
    st = rp_loader_next(l, ids, labels, err);
  } else {
    st = next_windows(s, ids, labels, count, err);
  }
  s->at++;
  return st;
}

static void close_source(source *s) {
  for (int i = 0; s->loaders && i < s->shards; i++) rp_loader_close(s->loaders[i]);
  rp_free(s->loaders);
  rp_tokens_close(&s->file);
  rp_free(s->raw);
}

/* ---- the model on a device ---- */

typedef struct {
  rp_model_settings m;
  rp_device *dev;
  rp_queue *q;
  rp_params params;
  rp_net *net;
  rp_weights weights;
  int32_t *ids, *labels; /* host [batch, T] */
  rp_ptr dids, dlabels, loss;
} machine;

static rp_status open_machine(machine *k, rp_device_kind kind, rp_dtype dtype, int batch, int T,
                              const rp_store *weights, rp_error *err) {
  const size_t n = (size_t)batch * (size_t)T, bytes = n * sizeof(int32_t);
  const rp_net_opts o = {.batch = batch, .T = T, .dtype = dtype};
  RP_TRY(rp_device_open(&k->dev, kind, err));
  RP_TRY(rp_queue_open(&k->q, k->dev, err));
  RP_TRY(rp_params_open(&k->params, k->q, &k->m, dtype, false, err));
  RP_TRY(rp_net_open(&k->net, k->q, &k->m, &o, err));
  RP_TRY(rp_params_load(&k->params, weights, err));
  k->weights = rp_params_weights(&k->params);
  k->ids = rp_malloc(n, sizeof *k->ids);
  k->labels = rp_malloc(n, sizeof *k->labels);
  if (!k->ids || !k->labels) return rp_fail_memory(err, 2 * bytes, "a batch");
  RP_TRY(rp_device_alloc(k->dev, bytes, "ids", &k->dids, err));
  RP_TRY(rp_device_alloc(k->dev, bytes, "labels", &k->dlabels, err));
  return rp_device_alloc(k->dev, sizeof(rp_loss), "losses", &k->loss, err);
}

static void close_machine(machine *k) {
  if (k->q) rp_wait(k->q, NULL);
  if (k->dev) {
    rp_device_free(k->dev, k->dids);
    rp_device_free(k->dev, k->dlabels);
    rp_device_free(k->dev, k->loss);
  }
  rp_net_close(k->net);
  if (k->params.dev) rp_params_close(&k->params);
  rp_queue_close(k->q);
  rp_device_close(k->dev);
  rp_free(k->ids);
  rp_free(k->labels);
  rp_model_settings_free(&k->m);
}

/* The rank's own batches: every ranks-th. All are read, since a loader's draws go on. */
static bool is_mine(const source *s, const rp_eval_opts *o) {
  return s->at % rp_ranks_count(o->ranks) == rp_ranks_rank(o->ranks);
}

/* Losses of all ranks added up; a rank that failed or was stopped ends all. */
static rp_status sum_ranks(const rp_eval_opts *o, rp_status st, rp_loss *loss, rp_error *err) {
  rp_comm *c = rp_ranks_comm(o->ranks);
  if (rp_ranks_count(o->ranks) == 1) return st;
  RP_TRY(rp_comm_agree(c, st, err));
  RP_TRY(rp_comm_host_run(c, RP_COMM_SUM, RP_F64, &loss->sum, &loss->sum, 1, 0, err));
  return rp_comm_host_run(c, RP_COMM_SUM, RP_I64, &loss->labels, &loss->labels, 1, 0, err);
}

/* One walk over the source in one plan. */
static rp_status walk(machine *k, source *s, int plan, const rp_eval_opts *o, int64_t done,
                      int64_t of, rp_loss *loss, rp_error *err) {
  rp_op_zero(k->q, &(rp_zero_args){k->loss, sizeof(rp_loss)});
  s->at = 0;
  while (s->at < s->batches) {
    int count;
    const bool mine = is_mine(s, o);
    RP_TRY(next_batch(s, k->ids, k->labels, &count, err));
    if (!mine) continue;
    const size_t bytes = (size_t)count * (size_t)s->T * sizeof(int32_t);
    rp_upload(k->q, k->dids, k->ids, bytes);
    rp_upload(k->q, k->dlabels, k->labels, bytes);
    const rp_pass p = {.batch = count,
                       .T = s->T,
                       .plan = plan,
                       .weight = 1,
                       .ids = k->dids,
                       .labels = k->dlabels,
                       .loss = k->loss};
    RP_TRY(rp_net_pass(k->net, &k->weights, &p, err));
    RP_TRY(rp_wait(k->q, err));
    if (o->progress) o->progress(o->ctx, done + s->at, of);
    if (o->stop && *o->stop) return rp_fail(err, RP_STOPPED, "stopped as asked");
  }
  rp_download(k->q, loss, k->loss, sizeof *loss);
  return rp_wait(k->q, err);
}

/* ---- patterns ---- */

typedef struct {
  rp_pats *at;
  size_t n;
} pattern_list;

static bool is_dense(const rp_pats *p) {
  for (int i = 0; i < p->layers * p->kv_heads; i++)
    if (p->at[i].D != 1) return false;
  return true;
}

static bool same_pattern(const rp_pats *a, const rp_pats *b) {
  if (is_dense(a) && is_dense(b)) return true;
  return a->layers == b->layers && a->kv_heads == b->kv_heads &&
         memcmp(a->at, b->at, sizeof *a->at * (size_t)(a->layers * a->kv_heads)) == 0;
}

static rp_status add_parsed(pattern_list *l, const char *text, const rp_model_settings *m,
                            rp_error *err) {
  RP_TRY(rp_pats_parse(&l->at[l->n], text, m->N, m->Hk, err));
  l->n++;
  return RP_OK;
}

static rp_status add_copy(pattern_list *l, const rp_pats *p, rp_error *err) {
  RP_TRY(rp_pats_uniform(&l->at[l->n], (rp_pat){1, 0, 0}, p->layers, p->kv_heads, err));
  memcpy(l->at[l->n].at, p->at, sizeof *p->at * (size_t)(p->layers * p->kv_heads));
  l->n++;
  return RP_OK;
}

static rp_status add_dense(pattern_list *l, const rp_model_settings *m, rp_error *err) {
  RP_TRY(rp_pats_uniform(&l->at[l->n], (rp_pat){1, 0, 0}, m->N, m->Hk, err));
  l->n++;
  return RP_OK;
}

/* run: of a whole configuration, which validates in both patterns of a joint training. */
static rp_status list_patterns(pattern_list *l, const rp_eval_opts *o, const rp_model_settings *m,
                               bool run, rp_error *err) {
  const size_t room = o->n_patterns ? o->n_patterns : 2;
  l->at = rp_calloc(room, sizeof *l->at);
  if (!l->at) return rp_fail_memory(err, room * sizeof *l->at, "patterns");
  for (size_t i = 0; i < o->n_patterns; i++) RP_TRY(add_parsed(l, o->patterns[i], m, err));
  if (o->n_patterns) return RP_OK;
  if (run || !m->joint_train) RP_TRY(add_copy(l, &m->pats, err));
  return m->joint_train ? add_dense(l, m, err) : RP_OK;
}

static bool is_trained(const rp_pats *p, const rp_model_settings *m) {
  return same_pattern(p, &m->pats) || (m->joint_train && is_dense(p));
}

static void notice_untrained(const rp_eval_row *rows, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (rows[i].trained) continue;
    rp_log(RP_LOG_NOTICE,
           "the model was not trained in the pattern %s; `ratplus train "
           "experiment=cpu/adapt-tiny trainer.pretrained_path=MODEL "
           "model.backbone.seq_cell.dilation_size=...` adapts it",
           rows[i].pattern);
    return;
  }
}

/* ---- rows ---- */

static rp_status make_row(machine *k, source *s, const rp_pats *pats, const rp_eval_opts *o,
                          int64_t done, int64_t of, rp_eval_row *row, rp_error *err) {
  int plan;
  rp_loss loss = {0};
  row->pattern = rp_pats_format(pats);
  if (!row->pattern) return rp_fail_memory(err, 64, "a pattern");
  RP_TRY(rp_net_add_plan(k->net, pats, &plan, err));
  const double t0 = rp_now();
  RP_TRY(sum_ranks(o, walk(k, s, plan, o, done, of, &loss, err), &loss, err));
  row->seconds = rp_now() - t0;
  row->trained = is_trained(pats, &k->m);
  row->tokens = loss.labels;
  row->loss = loss.labels ? loss.sum / (double)loss.labels : NAN;
  row->perplexity = exp(row->loss);
  row->windows = s->loaders ? s->batches * s->batch : s->windows;
  row->seq_len = s->T;
  row->tokens_per_second = row->seconds > 0 ? (double)row->windows * s->T / row->seconds : 0;
  row->cache_bytes_per_token = rp_cost_cache(&k->m, pats, s->T, RP_BF16) / s->T;
  return RP_OK;
}

static rp_status make_rows(machine *k, source *s, const rp_eval_opts *o, bool run,
                           rp_eval_row **rows, size_t *n, rp_error *err) {
  rp_status st = RP_OK;
  pattern_list l = {0};
  rp_eval_row *out = NULL;
  RP_GO(list_patterns(&l, o, &k->m, run, err));
  out = rp_calloc(l.n, sizeof *out);
  if (!out) RP_GO(rp_fail_memory(err, l.n * sizeof *out, "results"));
  for (size_t i = 0; i < l.n; i++)
    RP_GO(make_row(k, s, &l.at[i], o, (int64_t)i * s->batches, (int64_t)l.n * s->batches, &out[i],
                   err));
  notice_untrained(out, l.n);
  *rows = out;
  *n = l.n;
  out = NULL;
fail:
  rp_eval_free(out, l.n);
  for (size_t i = 0; i < l.n; i++) rp_pats_free(&l.at[i]);
  rp_free(l.at);
  return st;
}

static rp_status dtype_of(const char *text, rp_dtype fallback, rp_dtype *out, rp_error *err) {
  *out = fallback;
  if (!text || strcmp(text, "float32") == 0) {
    if (text) *out = RP_F32;
    return RP_OK;
  }
  *out = RP_BF16;
  if (strcmp(text, "bfloat16") == 0) return RP_OK;
  return rp_fail(err, RP_USAGE, "dtype %s: must be float32 or bfloat16", text);
}

/* ---- a model and a file ---- */

/* What the model's own configuration says about its data; defaults where it says nothing. */
typedef struct {
  int64_t seq_len, num_bytes, eos;
  rp_dtype dtype;
} told;

static void read_int(const rp_config *c, const char *path, int64_t *out) {
  char *text = c ? rp_config_get(c, path) : NULL;
  int64_t v;
  if (text && rp_parse_i64(text, &v)) *out = v;
  rp_free(text);
}

static rp_status what_is_told(const rp_store *s, const rp_eval_opts *o, const rp_model_settings *m,
                              told *t, rp_error *err) {
  rp_config *c = NULL;
  *t = (told){.seq_len = m->max_seq_len, .eos = 2, .dtype = RP_F32};
  RP_TRY(rp_store_config(s, o->words, o->n_words, &c, err));
  read_int(c, "data.seq_len", &t->seq_len);
  read_int(c, "data.num_bytes", &t->num_bytes);
  read_int(c, "data.ignore_input_index", &t->eos);
  char *dtype = c ? rp_config_get(c, "trainer.dtype") : NULL;
  if (dtype && strcmp(dtype, "bfloat16") == 0) t->dtype = RP_BF16;
  rp_free(dtype);
  rp_config_free(c);
  return RP_OK;
}

static rp_status open_file(source *s, const rp_eval_opts *o, const told *t, rp_error *err) {
  rp_error e = {0};
  rp_status st = rp_tokens_open(&s->file, o->data, o->num_bytes, false, s->V, &e);
  if (st == RP_USAGE && !o->num_bytes && t->num_bytes > 0) {
    e = (rp_error){0};
    st = rp_tokens_open(&s->file, o->data, (int)t->num_bytes, false, s->V, &e);
  }
  if (st == RP_USAGE && !o->num_bytes)
    return rp_fail(err, st,
                   "%s: neither %s.json nor the model's configuration says how many bytes "
                   "an id has; give --num-bytes",
                   o->data, o->data);
  if (st) return rp_fail(err, st, "%s", e.text);
  s->windows = (s->file.tokens - 1) / s->T;
  if (s->windows < 1)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: %lld tokens are fewer than the %d of one window and its "
                   "last label; give a longer file or a smaller --seq-len",
                   o->data, (long long)s->file.tokens, s->T + 1);
  return RP_OK;
}

/* A batch of about 4096 tokens: larger ones gain nothing on a CPU. */
static void size_batches(source *s) {
  s->batch = 4096 / s->T > 1 ? 4096 / s->T : 1;
  if (s->batch > s->windows) s->batch = (int)s->windows;
  s->batches = (s->windows + s->batch - 1) / s->batch;
}

static rp_status check_pattern_known(const rp_store *s, const rp_eval_opts *o, rp_error *err) {
  bool known = true;
  if (o->n_patterns) return RP_OK;
  RP_TRY(rp_store_pattern_known(s, o->words, o->n_words, &known, err));
  if (known) return RP_OK;
  return rp_fail(err, RP_USAGE,
                 "%s says neither a dilation_size nor joint_train; give --pattern, "
                 "as in --pattern 'D=1'",
                 rp_store_path(s));
}

static rp_status open_windows(const rp_eval_opts *o, machine *k, source *s, rp_error *err) {
  rp_status st = RP_OK;
  rp_store *store = NULL;
  told t;
  rp_dtype dtype;
  rp_device_kind kind;
  if (!o->model) return rp_fail(err, RP_USAGE, "no model is named; give --model DIR");
  if (!o->data) return rp_fail(err, RP_USAGE, "no text is named; give --data FILE, a token file");
  RP_GO(rp_trainer_device(o->device, &kind, err));
  RP_GO(rp_store_open(&store, o->model, err));
  RP_GO(check_pattern_known(store, o, err));
  RP_GO(rp_store_model(store, o->words, o->n_words, &k->m, err));
  RP_GO(what_is_told(store, o, &k->m, &t, err));
  RP_GO(dtype_of(o->dtype, t.dtype, &dtype, err));
  const int64_t T = o->seq_len > 0 ? o->seq_len : t.seq_len;
  if (T < 1 || T > 262144)
    RP_GO(rp_fail(err, RP_USAGE,
                  "the sequence length %lld is not within 1 and 262144; give "
                  "--seq-len",
                  (long long)T));
  s->T = (int)T;
  s->V = k->m.V;
  s->eos = (int32_t)t.eos;
  s->raw = rp_malloc((size_t)T + 1, sizeof *s->raw);
  if (!s->raw) RP_GO(rp_fail_memory(err, ((size_t)T + 1) * sizeof *s->raw, "a window"));
  RP_GO(open_file(s, o, &t, err));
  size_batches(s);
  RP_GO(open_machine(k, kind, dtype, s->batch, s->T, store, err));
fail:
  rp_store_close(store);
  return st;
}

static rp_status eval_file(const rp_eval_opts *o, rp_eval_row **rows, size_t *n, rp_error *err) {
  machine k = {0};
  source s = {0};
  rp_status st = rp_comm_agree(rp_ranks_comm(o->ranks), open_windows(o, &k, &s, err), err);
  if (!st) st = make_rows(&k, &s, o, false, rows, n, err);
  close_machine(&k);
  close_source(&s);
  return st;
}

/* ---- the run of a configuration ---- */

/* Where its weights are. */
static const char *weights_of(const rp_eval_opts *o, const rp_trainer_settings *s) {
  if (o->model) return o->model;
  return s->pretrained_path ? s->pretrained_path : s->run_dir;
}

/* The configuration's, else those of the run that saved these weights; a model that is no checkpoint
 * was saved by nobody. */
static rp_status shards_of(const rp_settings *x, const rp_store *store, int *shards,
                           rp_error *err) {
  rp_loop_state state = {0};
  *shards = x->trainer.shards;
  if (*shards > 0) return RP_OK;
  char *path = rp_path_join(rp_store_path(store), "state.json");
  if (!path) return rp_fail_memory(err, strlen(rp_store_path(store)), "a path");
  const rp_status st = rp_is_file(path) ? rp_loop_state_read(path, &state, err) : RP_OK;
  rp_free(path);
  *shards = state.shards > 0 ? state.shards : 1;
  return st;
}

static rp_status open_val(source *s, const rp_settings *x, const rp_store *store, rp_error *err) {
  s->batch = x->val.batch;
  s->T = x->val.T;
  RP_TRY(shards_of(x, store, &s->shards, err));
  s->loaders = rp_calloc((size_t)s->shards, sizeof *s->loaders);
  if (!s->loaders) return rp_fail_memory(err, 64, "loaders");
  for (int i = 0; i < s->shards; i++)
    RP_TRY(rp_loader_open(&s->loaders[i], &x->val, i, s->shards, err));
  s->batches = rp_loader_batches(s->loaders[0]) * s->shards;
  return RP_OK;
}

/* The machine owns a copy of the settings' patterns, so that both may be freed. */
static rp_status copy_model(rp_model_settings *to, const rp_model_settings *from, rp_error *err) {
  pattern_list l = {&to->pats, 0};
  *to = *from;
  to->pats = (rp_pats){0};
  return add_copy(&l, &from->pats, err);
}

static rp_status open_run(const rp_config *c, const rp_eval_opts *o, machine *k, source *s,
                          rp_error *err) {
  rp_status st = RP_OK;
  rp_settings x = {0};
  rp_store *store = NULL;
  rp_dtype dtype;
  rp_device_kind kind;
  bool have = false;
  RP_GO(rp_settings_read(&x, c, 1, err));
  have = true;
  if (o->data || o->seq_len)
    RP_GO(rp_fail(err, RP_USAGE,
                  "with experiment= the data and its length come from the "
                  "configuration; set data.val.tokenized_file_path= and data.seq_len=, or leave "
                  "experiment= out and give --model"));
  RP_GO(rp_trainer_device(o->device ? o->device : x.trainer.device, &kind, err));
  RP_GO(dtype_of(o->dtype, x.trainer.dtype, &dtype, err));
  const char *path = weights_of(o, &x.trainer);
  if (!rp_exists(path))
    RP_GO(rp_fail(err, RP_USAGE,
                  "%s: there is no model; give --model, trainer.pretrained_path= or "
                  "the run_dir= of a trained run",
                  path));
  RP_GO(rp_store_open(&store, path, err));
  RP_GO(copy_model(&k->m, &x.model, err));
  RP_GO(open_val(s, &x, store, err));
  RP_GO(open_machine(k, kind, dtype, s->batch, s->T, store, err));
fail:
  rp_store_close(store);
  if (have) rp_settings_free(&x);
  return st;
}

static rp_status eval_run(const rp_config *c, const rp_eval_opts *o, rp_eval_row **rows, size_t *n,
                          rp_error *err) {
  machine k = {0};
  source s = {0};
  rp_status st = rp_comm_agree(rp_ranks_comm(o->ranks), open_run(c, o, &k, &s, err), err);
  if (!st) st = make_rows(&k, &s, o, true, rows, n, err);
  close_machine(&k);
  close_source(&s);
  return st;
}

rp_status rp_eval_loss(const rp_config *c, const rp_eval_opts *opts, rp_eval_row **rows, size_t *n,
                       rp_error *err) {
  rp_eval_opts o;
  rp_eval_defaults(&o);
  *rows = NULL;
  *n = 0;
  if (opts) o = *opts;
  return c ? eval_run(c, &o, rows, n, err) : eval_file(&o, rows, n, err);
}
