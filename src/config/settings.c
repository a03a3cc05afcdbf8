/* Keys to typed values: the one place that knows their names and defaults. */
#include "config/settings.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "config/compose.h"
#include "config/suggest.h"
#include "config/typed.h"

#define SIZE_MOST (1 << 24)
#define BB "model.backbone."
#define CELL BB "seq_cell."
#define FFN BB "hidden_cell."

static const char *const act_names[] = {"gelu",     "relu",   "relusquared", "silu",
                                        "fastgelu", "swiglu", NULL};
static const char *const norm_names[] = {"rmsnorm", "layernorm", NULL};
static const char *const init_names[] = {"fixed", "xavier",        "uniform",
                                         "torch", "torch_uniform", NULL};
static const char *const cell_names[] = {"ratplus", "identity", NULL};
static const char *const pe_names[] = {"rope", "empty", NULL};
static const char *const load_names[] = {"lm_ordered", "lm_random", "sft_random", "sft_ordered",
                                         NULL};
static const char *const opt_names[] = {"adamw", "adam", "sgd", NULL};
static const char *const sched_names[] = {"cosine", "constant", NULL};
static const char *const shard_names[] = {"FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD",
                                          NULL};
static const char *const dtype_names[] = {"float32", "bfloat16", NULL};
static const char *const device_names[] = {"auto", "cpu", "cuda", NULL};

const char *rp_act_name(rp_act a) { return act_names[a]; }

static int read_int(rp_typed *t, const char *path, int64_t lo, int64_t hi, int64_t without) {
  return (int)rp_typed_int(t, path, lo, hi, without);
}

/* --- model -------------------------------------------------------------------------------- */

/* A switch the model does not have must be off. */
static void must_be_off(rp_typed *t, const char *path) {
  const rp_node *n = rp_typed_node(t, path);
  if (!n || n->kind == RP_NODE_NULL) return;
  const double v = n->kind == RP_NODE_REAL ? n->real : (double)n->integer;
  if (n->kind >= RP_NODE_STRING || v != 0) {
    rp_typed_bad(t, path, n, "this model has no %s; leave it %s",
                 rp_ends_with(path, "bias") ? "biases" : "dropout",
                 rp_ends_with(path, "bias") ? "false" : "0");
  }
}

static rp_init read_init(rp_typed *t) {
  const int i = rp_typed_name(t, BB "init._name_", init_names, 0);
  return i == 4 ? RP_INIT_UNIFORM : (rp_init)i;
}

static void read_cell(rp_typed *t, rp_model_settings *m, bool any_cell) {
  const char *const path = CELL "_name_";
  const rp_node *n = rp_typed_node(t, path);
  if (any_cell && n && n->kind == RP_NODE_STRING && strcmp(n->string, "ratplus") != 0 &&
      strcmp(n->string, "identity") != 0) {
    rp_log(RP_LOG_NOTICE, "%s=%s is not known here; it is read as ratplus", path, n->string);
    m->cell = RP_CELL_RATPLUS;
    return;
  }
  if (n && n->kind == RP_NODE_STRING && strcmp(n->string, "attention") == 0) {
    rp_typed_bad(t, path, n, "the attention-only model is %s=ratplus with %sapply_re=false", path,
                 CELL);
  }
  m->cell = (rp_cell_name)rp_typed_name(t, path, cell_names, RP_CELL_RATPLUS);
}

static void read_heads(rp_typed *t, rp_model_settings *m) {
  m->h = read_int(t, CELL "d_head", 1, 65536, 64);
  m->H = read_int(t, CELL "num_head", 1, 65536, m->h > 0 && m->d >= m->h ? m->d / m->h : 1);
  m->Hk = read_int(t, CELL "num_kv_head", 1, 65536, m->H);
  const rp_node *heads = rp_typed_node(t, CELL "num_head");
  const rp_node *dim = rp_typed_node(t, "model.embedding.pe.dim");
  const rp_node *channel = rp_typed_node(t, CELL "k_channel");
  if (m->cell != RP_CELL_RATPLUS) return;
  if ((int64_t)m->H * m->h != m->d) {
    rp_typed_bad(t, CELL "num_head", heads, "num_head %d times d_head %d must equal d_model %d",
                 m->H, m->h, m->d);
  }
  if (m->H % m->Hk != 0) {
    rp_typed_bad(t, CELL "num_kv_head", rp_typed_node(t, CELL "num_kv_head"),
                 "must divide num_head %d", m->H);
  }
  if (channel && channel->kind != RP_NODE_NULL &&
      (channel->kind != RP_NODE_INT || channel->integer != m->h)) {
    rp_typed_bad(t, CELL "k_channel", channel, "must equal d_head %d", m->h);
  }
  if (m->rope && dim && dim->kind != RP_NODE_NULL &&
      (dim->kind != RP_NODE_INT || dim->integer != m->h)) {
    rp_typed_bad(t, "model.embedding.pe.dim", dim, "must equal d_head %d", m->h);
  }
  if (m->rope && m->h % 2) {
    rp_typed_bad(t, CELL "d_head", rp_typed_node(t, CELL "d_head"),
                 "must be even, rotary positions turn pairs");
  }
}

/* One of dilation_size, local_size, initial_size into every head of m->pats. */
static void read_pat(rp_typed *t, rp_model_settings *m, const char *path, char which,
                     int32_t *values) {
  const rp_node *n = rp_typed_node(t, path);
  rp_error why = {0};
  if (!n || n->kind == RP_NODE_NULL || t->st) return;
  const rp_node *where = n;
  const rp_status st = rp_pat_values(n, which, m->N, m->Hk, values, &where, &why);
  if (st == RP_USAGE) rp_typed_bad(t, path, n, "%s", why.text);
  if (st && !t->st) t->st = rp_fail(t->err, st, "%s", why.text);
  if (!t->st) rp_pats_lay(&m->pats, which, values);
}

static void read_pats(rp_typed *t, rp_model_settings *m) {
  if (t->st) return;
  rp_error why = {0};
  t->st = rp_pats_make(&m->pats, m->N, m->Hk, t->err);
  if (t->st) return;
  for (int i = 0; i < m->N * m->Hk; i++) m->pats.at[i].D = 64; /* the reference's default */
  int32_t *values = rp_malloc((size_t)m->N * (size_t)m->Hk, sizeof *values);
  if (!values) {
    t->st = rp_fail_memory(t->err, (size_t)m->N * (size_t)m->Hk * sizeof *values, "a pattern");
    return;
  }
  read_pat(t, m, CELL "dilation_size", 'D', values);
  read_pat(t, m, CELL "local_size", 'W', values);
  read_pat(t, m, CELL "initial_size", 'I', values);
  rp_free(values);
  if (!t->st && m->cell == RP_CELL_RATPLUS && rp_pats_check(&m->pats, &why)) {
    rp_typed_bad(t, CELL "dilation_size", rp_typed_node(t, CELL "dilation_size"), "%s", why.text);
  }
}

static void read_position(rp_typed *t, rp_model_settings *m) {
  const char *const pe = "model.embedding.pe._name_";
  m->rope = rp_typed_name(t, pe, pe_names, 0) == 0;
  m->rope_base = rp_typed_real(t, "model.embedding.pe.base", 1, 1e12, 10000);
  m->rope_scale = rp_typed_real(t, "model.embedding.pe.scale", 1e-6, 1e6, 1);
  const int T = read_int(t, "data.seq_len", 1, SIZE_MOST, 2048);
  m->max_seq_len = read_int(t, "model.embedding.pe.max_seq_len", 1, SIZE_MOST, T);
  if (!m->rope && m->cell == RP_CELL_RATPLUS) {
    rp_typed_bad(t, pe, rp_typed_node(t, pe), "ratplus needs positions; write %s=rope", pe);
  }
}

static void read_vocabulary(rp_typed *t, rp_model_settings *m) {
  static const char *const keys[] = {"data.vocab_size", "model.embedding.vocab_size",
                                     "model.head.vocab_size", NULL};
  m->V = 32000;
  for (int i = 2; i >= 0; i--) m->V = read_int(t, keys[i], 2, 1 << 30, m->V);
}

static void read_groups(rp_typed *t) {
  static const char *const sequence[] = {"sequence", NULL}, *const ffn[] = {"ffn", NULL},
                           *const lm[] = {"lm", NULL};
  rp_typed_name(t, BB "_name_", sequence, 0);
  rp_typed_name(t, FFN "_name_", ffn, 0);
  rp_typed_name(t, "model.embedding._name_", lm, 0);
  rp_typed_name(t, "model.head._name_", lm, 0);
  rp_typed_name(t, "task._name_", lm, 0);
}

static void read_model(rp_typed *t, rp_model_settings *m, bool any_cell) {
  static const char *const off[] = {BB "bias",
                                    CELL "bias",
                                    FFN "bias",
                                    BB "dropout",
                                    CELL "dropout",
                                    FFN "dropout",
                                    "model.embedding.dropout",
                                    NULL};
  read_groups(t);
  m->N = read_int(t, BB "num_layers", 1, 4096, 12);
  m->d = read_int(t, BB "d_model", 1, 1 << 20, 768);
  m->f = read_int(t, FFN "d_ffn", 1, SIZE_MOST, 4 * (int64_t)m->d);
  m->act = (rp_act)rp_typed_name(t, FFN "act_fn", act_names, RP_ACT_GELU);
  for (int i = 0; off[i]; i++) must_be_off(t, off[i]);
  m->final_norm = (rp_norm)rp_typed_name(t, BB "ln", norm_names, RP_NORM_RMS);
  m->mixer_norm = (rp_norm)rp_typed_name(t, CELL "ln", norm_names, m->final_norm);
  m->ffn_norm = (rp_norm)rp_typed_name(t, FFN "ln", norm_names, m->final_norm);
  m->init = read_init(t);
  m->init_range = rp_typed_real(t, BB "init.initializer_range", 0, 1000, 0.02);
  read_cell(t, m, any_cell);
  m->apply_re = rp_typed_bool(t, CELL "apply_re", true);
  m->joint_train = rp_typed_bool(t, CELL "joint_train", true);
  m->tied = rp_typed_bool(t, "task.tie_embedding", true);
  if (m->cell == RP_CELL_IDENTITY) m->joint_train = false;
  read_position(t, m);
  read_heads(t, m);
  read_vocabulary(t, m);
  read_pats(t, m);
}

/* --- data --------------------------------------------------------------------------------- */

/* "data.train." + key, in a buffer of the caller. */
static const char *under(char buf[96], const char *which, const char *key) {
  rp_snprintf(buf, 96, "data.%s.%s", which, key);
  return buf;
}

static void read_paths(rp_typed *t, const char *which, rp_load_settings *l) {
  char b[96];
  l->file = rp_typed_text(t, under(b, which, "tokenized_file_path"), NULL);
  l->input = rp_typed_text(t, under(b, which, "tokenized_input_path"), NULL);
  l->label = rp_typed_text(t, under(b, which, "tokenized_label_path"), NULL);
  const bool lm = l->name == RP_LOAD_LM_ORDERED || l->name == RP_LOAD_LM_RANDOM;
  if (t->st) return;
  if (lm && !l->file) {
    rp_typed_bad(t, under(b, which, "tokenized_file_path"), NULL,
                 "name a token file (made by `ratplus tokenize`), or data_dir=DIR where the tree "
                 "knows that key");
  }
  if (!lm && (!l->input || !l->label)) {
    rp_typed_bad(t, under(b, which, l->input ? "tokenized_label_path" : "tokenized_input_path"),
                 NULL, "name the file; %s reads inputs and labels", load_names[l->name]);
  }
}

/* null is a value here: no id is ignored. */
static int32_t read_ignore(rp_typed *t, const char *which) {
  char b[96];
  const char *path = under(b, which, "ignore_input_index");
  if (!rp_typed_node(t, path)) path = "data.ignore_input_index";
  rp_typed_node(t, "data.ignore_input_index");
  return read_int(t, path, 0, INT32_MAX, INT32_MIN);
}

static void read_loader(rp_typed *t, const char *which, rp_load_settings *l, rp_load_name usual) {
  char b[96];
  l->name = (rp_load_name)rp_typed_name(t, under(b, which, "_name_"), load_names, usual);
  l->limit_tokens = rp_typed_int(t, under(b, which, "limit_tokens"), -1, INT64_MAX, -1);
  const int T = read_int(t, "data.seq_len", 1, SIZE_MOST, 2048);
  const int batch = read_int(t, "data.batch_size", 1, SIZE_MOST, 1);
  const int global_batch = read_int(t, "data.global_batch_size", 1, SIZE_MOST, batch);
  const int bytes = read_int(t, "data.num_bytes", 1, 4, 2);
  l->T = read_int(t, under(b, which, "seq_len"), 1, SIZE_MOST, T);
  l->batch = read_int(t, under(b, which, "batch_size"), 1, SIZE_MOST, batch);
  l->global_batch = read_int(t, under(b, which, "global_batch_size"), 1, SIZE_MOST, global_batch);
  l->num_bytes = read_int(t, under(b, which, "num_bytes"), 1, 4, bytes);
  l->V = read_int(t, "data.vocab_size", 2, 1 << 30, 32000);
  l->seed = (uint32_t)rp_typed_int(t, under(b, which, "seed"), 0, UINT32_MAX, 0);
  l->ignore_input = read_ignore(t, which);
  if (l->num_bytes == 3) {
    under(b, which, "num_bytes");
    rp_typed_bad(t, b, rp_typed_node(t, b), "must be 1, 2 or 4");
  }
  if (l->T != T) {
    under(b, which, "seq_len");
    rp_typed_bad(t, b, rp_typed_node(t, b), "must equal data.seq_len %d", T);
  }
  if (l->batch != batch) {
    under(b, which, "batch_size");
    rp_typed_bad(t, b, rp_typed_node(t, b), "must equal data.batch_size %d", batch);
  }
  read_paths(t, which, l);
}

/* --- optimizer ---------------------------------------------------------------------------- */

static void read_betas(rp_typed *t, rp_optim_settings *o) {
  const char *const path = "optim.optimizer.betas";
  const rp_node *n = rp_typed_node(t, path);
  double *const to[2] = {&o->beta1, &o->beta2};
  o->beta1 = 0.9;
  o->beta2 = 0.999;
  if (!n || n->kind == RP_NODE_NULL) return;
  int i = 0;
  bool ok = n->kind == RP_NODE_LIST && n->count == 2;
  for (const rp_node *c = n->child; ok && c; c = c->next, i++) {
    *to[i] = c->kind == RP_NODE_INT ? (double)c->integer : c->real;
    ok = (c->kind == RP_NODE_INT || c->kind == RP_NODE_REAL) && *to[i] >= 0 && *to[i] < 1;
  }
  if (!ok) rp_typed_bad(t, path, n, "must be two numbers from 0 to below 1, as in [0.9, 0.95]");
}

static void read_optim(rp_typed *t, rp_optim_settings *o) {
  o->name = (rp_opt_name)rp_typed_name(t, "optim.optimizer._name_", opt_names, RP_OPT_ADAMW);
  o->lr = rp_typed_real(t, "optim.optimizer.lr", 0, 1e6, 1e-3);
  o->weight_decay =
      rp_typed_real(t, "optim.optimizer.weight_decay", 0, 1e6, o->name == RP_OPT_ADAMW ? 0.01 : 0);
  o->eps = rp_typed_real(t, "optim.optimizer.eps", 0, 1, 1e-8);
  o->momentum = rp_typed_real(t, "optim.optimizer.momentum", 0, 1, 0);
  read_betas(t, o);
  o->sched =
      (rp_sched_name)rp_typed_name(t, "optim.lr_scheduler._name_", sched_names, RP_SCHED_COSINE);
  o->warmup = rp_typed_real(t, "optim.lr_scheduler.warmup_iter", 0, 1, 0);
  o->eta_min = rp_typed_real(t, "optim.lr_scheduler.eta_min", 0, 1e6, 0);
}

/* --- trainer ------------------------------------------------------------------------------ */

static rp_shard read_shard(rp_typed *t) {
  const char *const path = "trainer.fsdp.sharding_strategy";
  const rp_node *n = rp_typed_node(t, path);
  if (n && n->kind == RP_NODE_STRING) {
    return (rp_shard)(rp_typed_name(t, path, shard_names, 2) + 1);
  }
  return (rp_shard)read_int(t, path, 1, 4, RP_SHARD_NONE);
}

static double read_clip(rp_typed *t) {
  const char *const path = "trainer.gradient_clipping";
  const rp_node *n = rp_typed_node(t, path);
  if (n && n->kind == RP_NODE_BOOL) {
    if (n->integer) rp_typed_bad(t, path, n, "must be a number (1.0), or false");
    return 0;
  }
  return rp_typed_real(t, path, 0, 1e300, 0);
}

static void read_pretrained(rp_typed *t, const rp_config *c, rp_trainer_settings *s) {
  s->pretrained_path = rp_typed_text(t, "trainer.pretrained_path", NULL);
  const char *e = c->experiment;
  const char *name = e ? strrchr(e, '/') : NULL;
  s->needs_pretrained = !s->pretrained_path && e &&
                        (rp_starts_with(e, "fineweb_adapt/") || rp_starts_with(e, "ruler_sft/") ||
                         rp_starts_with(e, "gen/") || (name && rp_starts_with(name + 1, "adapt")));
  if (s->pretrained_path && strcmp(s->pretrained_path, "none") == 0) {
    rp_free(s->pretrained_path);
    s->pretrained_path = NULL;
  }
}

static void read_saving(rp_typed *t, rp_trainer_settings *s) {
  s->load_checkpoint = rp_typed_bool(t, "trainer.load_checkpoint", false);
  s->save_checkpoint = rp_typed_bool(t, "trainer.save_checkpoint", false);
  s->save_interval = rp_typed_real(t, "trainer.save_interval", 0, 1, 0.1);
  s->save_minutes = rp_typed_real(t, "trainer.save_minutes", 0, 1e6, 30);
  s->keep_last = read_int(t, "trainer.keep_last", 0, SIZE_MOST, 0);
  s->keep_every = read_int(t, "trainer.keep_every", 0, INT32_MAX, 0);
  s->save_dir = rp_typed_text(t, "trainer.save_dir", "runs/exp/ckpt/train");
}

static void read_trainer(rp_typed *t, const rp_config *c, rp_trainer_settings *s) {
  s->max_epoch = read_int(t, "trainer.max_epoch", 0, 1 << 20, 1);
  const int device = rp_typed_name(t, "trainer.device", device_names, 0);
  if (!t->st) {
    s->device = rp_strdup(device_names[device]);
    if (!s->device) t->st = rp_fail_memory(t->err, 8, "settings");
  }
  s->seed = (uint64_t)rp_typed_int(t, "trainer.seed", 0, INT64_MAX, 1005);
  s->eval_when_log = rp_typed_bool(t, "trainer.eval_when_log", false);
  s->log_interval = read_int(t, "trainer.log_interval", 1, INT32_MAX, 50);
  s->dtype = rp_typed_name(t, "trainer.dtype", dtype_names, 0) ? RP_BF16 : RP_F32;
  s->global_batch = read_int(t, "trainer.global_batch_size", 1, SIZE_MOST,
                             read_int(t, "data.global_batch_size", 1, SIZE_MOST, 1));
  s->clip = read_clip(t);
  s->shard = read_shard(t);
  s->shards = read_int(t, "data.shards", 1, 65536, 0);
  s->recompute = rp_typed_bool(t, "trainer.recompute", false);
  s->tokenizer = rp_typed_text(t, "tokenizer", NULL);
  s->sample_every = read_int(t, "trainer.sample_every", 0, INT32_MAX, 0);
  s->sample_tokens = read_int(t, "trainer.sample_tokens", 1, 4096, 64);
  s->sample_prompt = rp_typed_text(t, "trainer.sample_prompt", NULL);
  read_saving(t, s);
  read_pretrained(t, c, s);
}

/* Accumulation is what is left of the global batch; it must be whole. */
static void check_batches(rp_typed *t, const rp_settings *s, int ranks) {
  const char *const path = "trainer.global_batch_size";
  if (t->st || ranks <= 0) return;
  const int64_t once = (int64_t)ranks * s->train.batch;
  if (s->trainer.global_batch % once != 0) {
    rp_typed_bad(t, path, rp_typed_node(t, path),
                 "must be a multiple of %d rank%s times data.batch_size %d", ranks,
                 ranks == 1 ? "" : "s", s->train.batch);
  }
  if (s->trainer.shards && s->trainer.shards % ranks != 0) {
    rp_typed_bad(t, "data.shards", rp_typed_node(t, "data.shards"),
                 "must be a multiple of the %d ranks", ranks);
  }
}

/* --- keys nothing reads ------------------------------------------------------------------- */

static void accept_known(rp_typed *t) {
  static const char *const keys[] = {"base_dir",
                                     "data_dir",
                                     "wandb",
                                     "wandb_use",
                                     "data._name_",
                                     "trainer.test_speed",
                                     "trainer.check_gradient_norm",
                                     "trainer.torch_compile",
                                     CELL "k_channel",
                                     CELL "d_model",
                                     CELL "init",
                                     FFN "d_model",
                                     FFN "init",
                                     "model.embedding.d_model",
                                     "model.embedding.seq_len",
                                     "model.embedding.init",
                                     "model.embedding.pe.dim",
                                     "model.head",
                                     "task",
                                     "data.train.vocab_size",
                                     "data.val.vocab_size",
                                     "optim.lr_scheduler.T_max",
                                     NULL};
  for (int i = 0; keys[i]; i++) rp_typed_accept(t, keys[i]);
}

/* Every key that can be read, for "did you mean": those read here and their neighbours. */
static void refuse_unread(rp_typed *t, const rp_config *c) {
  rp_str unread = {0}, known = {0}, hint = {0}, extra = {0};
  rp_typed_unread(t, &unread);
  for (size_t i = 0; i < t->n; i++) {
    rp_node_path(t->asked[i], &known);
    rp_str_add(&known, "\n");
  }
  for (char *p = unread.s; p && *p && !t->st;) {
    char *end = strchr(p, '\n');
    *end = '\0';
    if (rp_config_was_added(c, p)) {
      rp_str_addf(&extra, "%s%s", extra.len ? ", " : "", p);
    } else {
      const rp_node *n = rp_node_at((rp_node *)t->root, p);
      rp_suggest(p, known.s, 2, &hint);
      rp_typed_bad(t, p, n,
                   "nothing reads this key%s%s%s; remove it, or add it with +%s to carry "
                   "it along",
                   hint.len ? "; did you mean " : "", hint.s ? hint.s : "", hint.len ? "?" : "", p);
    }
    p = end + 1;
  }
  if (!t->st && extra.len) rp_log(RP_LOG_NOTICE, "keys without effect: %s", extra.s);
  if (!t->st && (unread.failed || known.failed)) t->st = rp_fail_memory(t->err, 0, "settings");
  rp_str_free(&unread);
  rp_str_free(&known);
  rp_str_free(&hint);
  rp_str_free(&extra);
}

static void say_what_has_no_effect(rp_typed *t) {
  if (!rp_typed_bool(t, "wandb_use", false)) return;
  rp_log(RP_LOG_NOTICE,
         "wandb_use has no effect: the numbers go to metrics.jsonl and TensorBoard "
         "events in the run directory");
}

/* --- whole -------------------------------------------------------------------------------- */

/* strict: a key that nothing reads is an error. */
static rp_status read_all(rp_settings *out, const rp_config *c, int ranks, bool strict,
                          rp_error *err) {
  rp_typed t = {.root = c->root, .err = err};
  memset(out, 0, sizeof *out);
  read_model(&t, &out->model, false);
  read_loader(&t, "train", &out->train, RP_LOAD_LM_ORDERED);
  read_loader(&t, "val", &out->val, RP_LOAD_LM_ORDERED);
  read_optim(&t, &out->optim);
  read_trainer(&t, c, &out->trainer);
  check_batches(&t, out, ranks);
  out->trainer.run_dir = rp_typed_text(&t, "run_dir", NULL);
  accept_known(&t);
  if (!t.st && strict) refuse_unread(&t, c);
  if (!t.st && strict) say_what_has_no_effect(&t);
  if (!t.st && !out->trainer.run_dir) {
    out->trainer.run_dir = rp_run_dir_default(c, out);
    if (!out->trainer.run_dir) t.st = rp_fail_memory(err, 256, "settings");
  }
  rp_typed_free(&t);
  if (t.st) rp_settings_free(out);
  return t.st;
}

rp_status rp_settings_read(rp_settings *out, const rp_config *c, int ranks, rp_error *err) {
  return read_all(out, c, ranks, true, err);
}

rp_status rp_config_check(const rp_config *c, rp_error *err) {
  rp_settings s;
  RP_TRY(rp_settings_read(&s, c, 0, err));
  rp_settings_free(&s);
  return RP_OK;
}

rp_status rp_settings_read_any(rp_settings *out, const rp_config *c, rp_error *err) {
  return read_all(out, c, 0, false, err);
}

rp_status rp_model_settings_read(rp_model_settings *out, const rp_config *c, rp_error *err) {
  rp_typed t = {.root = c->root, .err = err};
  memset(out, 0, sizeof *out);
  read_model(&t, out, true);
  rp_typed_free(&t);
  if (t.st) rp_model_settings_free(out);
  return t.st;
}

void rp_model_settings_free(rp_model_settings *m) {
  if (m) rp_pats_free(&m->pats);
}

static void free_loader(rp_load_settings *l) {
  rp_free(l->file);
  rp_free(l->input);
  rp_free(l->label);
}

void rp_settings_free(rp_settings *s) {
  if (!s) return;
  rp_model_settings_free(&s->model);
  free_loader(&s->train);
  free_loader(&s->val);
  rp_free(s->trainer.device);
  rp_free(s->trainer.save_dir);
  rp_free(s->trainer.run_dir);
  rp_free(s->trainer.pretrained_path);
  rp_free(s->trainer.tokenizer);
  rp_free(s->trainer.sample_prompt);
  memset(s, 0, sizeof *s);
}
