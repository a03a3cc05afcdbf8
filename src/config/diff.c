/* Whether two configurations give the same run: what the numbers depend on, line by line. Compared
 * are typed values, so a key left out equals its default and 8e-4 equals 0.0008. */
#include <string.h>

#include "config/typed.h"

static void line(rp_str *b, const char *key, const char *fmt, ...) RP_PRINTF(3, 4);
static void line(rp_str *b, const char *key, const char *fmt, ...) {
  va_list ap;
  rp_str_addf(b, "%s=", key);
  va_start(ap, fmt);
  rp_str_vaddf(b, fmt, ap);
  va_end(ap);
  rp_str_add(b, "\n");
}

static void real(rp_str *b, const char *key, double v) {
  char text[32];
  rp_format_f64(text, v, false);
  line(b, key, "%s", text);
}

/* Folders may move; the file's name says which data it is. */
static void file(rp_str *b, const char *which, const char *key, const char *path) {
  if (!path) return;
  const char *slash = strrchr(path, '/');
  rp_str_addf(b, "data.%s.", which);
  line(b, key, "%s", slash ? slash + 1 : path);
}

static void add_pats(const rp_pats *p, rp_str *b) {
  char *text = rp_pats_format(p);
  if (!text) b->failed = true;
  line(b, "model.backbone.seq_cell: pattern", "%s", text ? text : "");
  rp_free(text);
}

static void add_model(const rp_model_settings *m, rp_str *b) {
  line(b, "model.backbone.num_layers", "%d", m->N);
  line(b, "model.backbone.d_model", "%d", m->d);
  line(b, "model.backbone.hidden_cell.d_ffn", "%d", m->f);
  line(b, "data.vocab_size", "%d", m->V);
  line(b, "model.backbone.seq_cell._name_", "%s",
       m->cell == RP_CELL_IDENTITY ? "identity" : "ratplus");
  if (m->cell == RP_CELL_RATPLUS) {
    line(b, "model.backbone.seq_cell.num_head", "%d", m->H);
    line(b, "model.backbone.seq_cell.num_kv_head", "%d", m->Hk);
    line(b, "model.backbone.seq_cell.apply_re", "%s", m->apply_re ? "true" : "false");
    line(b, "model.backbone.seq_cell.joint_train", "%s", m->joint_train ? "true" : "false");
    add_pats(&m->pats, b);
  }
  line(b, "model.backbone.hidden_cell.act_fn", "%s", rp_act_name(m->act));
  line(b, "model.backbone.ln", "%d", m->final_norm);
  line(b, "model.backbone.seq_cell.ln", "%d", m->mixer_norm);
  line(b, "model.backbone.hidden_cell.ln", "%d", m->ffn_norm);
  line(b, "model.backbone.init._name_", "%d", m->init);
  real(b, "model.backbone.init.initializer_range", m->init_range);
  line(b, "task.tie_embedding", "%s", m->tied ? "true" : "false");
  line(b, "model.embedding.pe._name_", "%s", m->rope ? "rope" : "empty");
  real(b, "model.embedding.pe.base", m->rope_base);
  real(b, "model.embedding.pe.scale", m->rope_scale);
}

static void add_loader(const char *which, const rp_load_settings *l, rp_str *b) {
  rp_str_addf(b, "data.%s.", which);
  line(b, "_name_", "%d", l->name);
  file(b, which, "tokenized_file_path", l->file);
  file(b, which, "tokenized_input_path", l->input);
  file(b, which, "tokenized_label_path", l->label);
  rp_str_addf(b, "data.%s.", which);
  line(b, "limit_tokens", "%lld", (long long)l->limit_tokens);
  rp_str_addf(b, "data.%s.", which);
  line(b, "seq_len", "%d", l->T);
  rp_str_addf(b, "data.%s.", which);
  line(b, "batch_size", "%d", l->batch);
  rp_str_addf(b, "data.%s.", which);
  line(b, "global_batch_size", "%d", l->global_batch);
  rp_str_addf(b, "data.%s.", which);
  line(b, "num_bytes", "%d", l->num_bytes);
  rp_str_addf(b, "data.%s.", which);
  line(b, "ignore_input_index", "%d", l->ignore_input);
  rp_str_addf(b, "data.%s.", which);
  line(b, "seed", "%u", l->seed);
}

static void add_training(const rp_settings *s, rp_str *b) {
  static const char *const opts[] = {"adamw", "adam", "sgd"};
  const rp_optim_settings *o = &s->optim;
  line(b, "optim.optimizer._name_", "%s", opts[o->name]);
  real(b, "optim.optimizer.lr", o->lr);
  real(b, "optim.optimizer.weight_decay", o->weight_decay);
  if (o->name == RP_OPT_SGD) {
    real(b, "optim.optimizer.momentum", o->momentum);
  } else {
    real(b, "optim.optimizer.betas[0]", o->beta1);
    real(b, "optim.optimizer.betas[1]", o->beta2);
    real(b, "optim.optimizer.eps", o->eps);
  }
  line(b, "optim.lr_scheduler._name_", "%s", o->sched == RP_SCHED_COSINE ? "cosine" : "constant");
  real(b, "optim.lr_scheduler.warmup_iter", o->warmup);
  real(b, "optim.lr_scheduler.eta_min", o->eta_min);
  line(b, "trainer.max_epoch", "%d", s->trainer.max_epoch);
  line(b, "trainer.seed", "%llu", (unsigned long long)s->trainer.seed);
  line(b, "trainer.dtype", "%s", rp_dtype_name(s->trainer.dtype));
  line(b, "trainer.global_batch_size", "%d", s->trainer.global_batch);
  real(b, "trainer.gradient_clipping", s->trainer.clip);
  line(b, "trainer.pretrained_path", "%s",
       s->trainer.pretrained_path ? s->trainer.pretrained_path : "null");
}

static rp_status lines_of(const rp_config *c, rp_str *b, rp_error *err) {
  rp_settings s;
  RP_TRY(rp_settings_read_any(&s, c, err));
  add_model(&s.model, b);
  add_loader("train", &s.train, b);
  add_loader("val", &s.val, b);
  add_training(&s, b);
  rp_settings_free(&s);
  return b->failed ? rp_fail_memory(err, b->len, "comparing configurations") : RP_OK;
}

/* The line of `all` with the key of `line`; NULL when it has none. */
static const char *line_with_key(const char *all, const char *one) {
  const size_t key = strcspn(one, "=") + 1;
  for (const char *s = all; s && *s; s = strchr(s, '\n') + 1) {
    if (strncmp(s, one, key) == 0) return s;
  }
  return NULL;
}

/* Lines of `a` whose value differs in `b`; those only one side has are given by `absent`. */
static void compare(const char *a, const char *b, bool swapped, rp_str *out) {
  for (const char *s = a; s && *s; s = strchr(s, '\n') + 1) {
    const int len = (int)strcspn(s, "\n"), key = (int)strcspn(s, "=");
    const char *o = line_with_key(b, s);
    if (o && swapped) continue;
    if (o && strncmp(s, o, (size_t)len + 1) == 0) continue;
    const char *other = o ? o + key + 1 : "(not there)\n";
    const int other_len = (int)strcspn(other, "\n");
    const char *first = swapped ? other : s + key + 1, *second = swapped ? s + key + 1 : other;
    const int n1 = swapped ? other_len : len - key - 1, n2 = swapped ? len - key - 1 : other_len;
    rp_str_addf(out, "%.*s: %.*s, %.*s\n", key, s, n1, first, n2, second);
  }
}

rp_status rp_config_diff(const rp_config *a, const rp_config *b, char **text, rp_error *err) {
  rp_str la = {0}, lb = {0}, out = {0};
  *text = NULL;
  rp_status st = lines_of(a, &la, err);
  if (!st) st = lines_of(b, &lb, err);
  if (!st) {
    compare(la.s, lb.s, false, &out);
    compare(lb.s, la.s, true, &out);
    *text = out.failed ? NULL : rp_str_take(&out);
    if (!*text) st = rp_fail_memory(err, out.len, "comparing configurations");
  }
  rp_str_free(&la);
  rp_str_free(&lb);
  rp_str_free(&out);
  return st;
}
