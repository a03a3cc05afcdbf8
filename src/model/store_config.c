/* store_config.c - the configuration of a stored model: what came along, what its tensors tell, and
 * the caller's words, laid over each other in this order.
 *
 * A .pth carries the configuration of whatever program version wrote it. Of its model section only
 * the keys that exist today are kept; sizes come from the shapes, which cannot be out of date. */
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "config/settings.h"
#include "model/store_inner.h"

#define CELL "model.backbone.seq_cell."
#define FFN "model.backbone.hidden_cell."

/* ------------------------------------------------------------------ an older file's keys */

/* Keys of the model section that are read or accepted; everything under them is kept. */
static const char *const model_keys[] = {"model.backbone._name_",
                                         "model.backbone.num_layers",
                                         "model.backbone.d_model",
                                         "model.backbone.bias",
                                         "model.backbone.ln",
                                         "model.backbone.dropout",
                                         "model.backbone.init",
                                         CELL "_name_",
                                         CELL "d_head",
                                         CELL "num_head",
                                         CELL "num_kv_head",
                                         CELL "dilation_size",
                                         CELL "local_size",
                                         CELL "initial_size",
                                         CELL "apply_re",
                                         CELL "joint_train",
                                         CELL "k_channel",
                                         CELL "d_model",
                                         CELL "bias",
                                         CELL "init",
                                         CELL "ln",
                                         CELL "dropout",
                                         FFN "_name_",
                                         FFN "d_ffn",
                                         FFN "act_fn",
                                         FFN "ln",
                                         FFN "bias",
                                         FFN "d_model",
                                         FFN "init",
                                         FFN "dropout",
                                         "model.embedding._name_",
                                         "model.embedding.vocab_size",
                                         "model.embedding.seq_len",
                                         "model.embedding.d_model",
                                         "model.embedding.dropout",
                                         "model.embedding.init",
                                         "model.embedding.pe._name_",
                                         "model.embedding.pe.dim",
                                         "model.embedding.pe.base",
                                         "model.embedding.pe.scale",
                                         "model.embedding.pe.max_seq_len",
                                         "model.head"};

typedef enum { UNKNOWN, INNER, WHOLE } known_as;

/* Whether a path is a known key, above one, or neither. */
static known_as look_up(const char *path) {
  const size_t len = strlen(path);
  if (!rp_starts_with(path, "model")) return WHOLE;
  if (path[5] && path[5] != '.') return WHOLE;
  for (size_t i = 0; i < sizeof model_keys / sizeof *model_keys; i++) {
    if (!strcmp(model_keys[i], path)) return WHOLE;
    if (rp_starts_with(model_keys[i], path) && model_keys[i][len] == '.') return INNER;
  }
  return UNKNOWN;
}

static void add_value(rp_str *b, const rp_json *v, const char *path, rp_str *dropped);

static void add_members(rp_str *b, const rp_json *v, const char *path, rp_str *dropped) {
  bool first = true;
  rp_str_add(b, "{");
  for (const rp_json *c = v->child; c; c = c->next) {
    rp_str below = {0};
    rp_str_addf(&below, "%s%s%s", path ? path : "", path && *path ? "." : "", c->key);
    const known_as known = path && !below.failed ? look_up(below.s) : WHOLE;
    if (known == UNKNOWN) {
      rp_str_addf(dropped, "%s%s", dropped->len ? ", " : "", below.s);
    } else {
      if (!first) rp_str_add(b, ",");
      first = false;
      rp_json_add_string(b, c->key);
      rp_str_add(b, ":");
      add_value(b, c, known == INNER ? below.s : NULL, dropped);
    }
    if (below.failed) b->failed = true;
    rp_str_free(&below);
  }
  rp_str_add(b, "}");
}

/* path NULL: everything below is kept. */
static void add_value(rp_str *b, const rp_json *v, const char *path, rp_str *dropped) {
  switch (v->type) {
    case RP_JSON_NULL: rp_str_add(b, "null"); break;
    case RP_JSON_BOOL: rp_str_add(b, v->integer ? "true" : "false"); break;
    case RP_JSON_INT: rp_str_addf(b, "%lld", (long long)v->integer); break;
    case RP_JSON_REAL: rp_json_add_real(b, v->real); break;
    case RP_JSON_STRING: rp_json_add_string(b, v->string); break;
    case RP_JSON_ARRAY:
      rp_str_add(b, "[");
      for (const rp_json *c = v->child; c; c = c->next) {
        add_value(b, c, NULL, dropped);
        if (c->next) rp_str_add(b, ",");
      }
      rp_str_add(b, "]");
      break;
    case RP_JSON_OBJECT: add_members(b, v, path, dropped); break;
  }
}

rp_status rp_store_prune(rp_store *s, rp_error *err) {
  rp_str b = {0}, dropped = {0};
  rp_json_doc *doc = NULL;
  RP_TRY(rp_json_parse(&doc, s->config, strlen(s->config), s->config_name, err));
  add_value(&b, rp_json_root(doc), "", &dropped);
  rp_json_free(doc);
  if (dropped.len)
    rp_log(RP_LOG_NOTICE, "%s: keys of an older version are ignored: %.600s", s->config_name,
           dropped.s);
  rp_str_free(&dropped);
  const size_t len = strlen(s->config);
  rp_free(s->config);
  s->config = rp_str_take(&b);
  rp_str_free(&b);
  return s->config ? RP_OK : rp_fail_memory(err, len, "a configuration");
}

/* ------------------------------------------------------------------ words from the tensors */

enum { MOST_TOLD = 24 };
typedef struct {
  char at[MOST_TOLD][96];
  int n;
} told_words;

static void tell(told_words *w, const char *path, const char *value) {
  if (w->n < MOST_TOLD) rp_snprintf(w->at[w->n++], sizeof w->at[0], "++%s=%s", path, value);
}

static void tell_int(told_words *w, const char *path, int64_t value) {
  char text[24];
  rp_snprintf(text, sizeof text, "%lld", (long long)value);
  tell(w, path, text);
}

/* The value at a dotted path of a configuration; NULL when absent or null. */
static const rp_json *value_at(const rp_json *c, const char *path) {
  while (c && *path) {
    char key[64];
    const size_t n = strcspn(path, ".");
    rp_snprintf(key, sizeof key, "%.*s", (int)n, path);
    c = c->type == RP_JSON_OBJECT ? rp_json_get(c, key) : NULL;
    path += n + (path[n] == '.');
  }
  return c && c->type != RP_JSON_NULL ? c : NULL;
}

static bool has(const rp_json *c, const char *path) { return value_at(c, path) != NULL; }

static int64_t get_int(const rp_json *c, const char *path, int64_t without) {
  const rp_json *v = value_at(c, path);
  return v && v->type == RP_JSON_INT ? v->integer : without;
}

static rp_status tell_heads(told_words *w, const rp_store *s, const rp_told *t, const rp_json *c,
                            rp_error *err) {
  int64_t h = get_int(c, CELL "d_head", 0), H = get_int(c, CELL "num_head", 0);
  if (h < 1 && H < 1)
    return rp_fail(err, RP_USAGE,
                   "%s: neither its tensors nor a configuration say how wide a head is; add " CELL
                   "d_head=N (128 in the published models)",
                   s->path);
  if (h < 1) h = H > 0 && t->d % H == 0 ? t->d / H : 1;
  if (H < 1) H = t->d % h == 0 ? t->d / h : 1;
  if (!has(c, CELL "d_head")) tell_int(w, CELL "d_head", h);
  if (!has(c, CELL "num_head")) tell_int(w, CELL "num_head", H);
  const int64_t Hk = get_int(c, CELL "num_kv_head", H), q = 2 * t->d;
  if (Hk < 1 || h > INT64_C(1) << 32 || Hk > INT64_C(1) << 24) return RP_OK;
  /* Rows after o and q: k and x, and g where the recurrence is on. */
  if (t->fgate || t->in_rows - q == 3 * Hk * h) {
    tell(w, CELL "apply_re", "true");
  } else if (t->in_rows - q == 2 * Hk * h) {
    tell(w, CELL "apply_re", "false");
  } else {
    return rp_fail(err, RP_BAD_DATA,
                   "%s: in_proj has %lld rows, which %lld kv heads of %lld fit neither with nor "
                   "without recurrence; give " CELL "d_head=, num_head= and num_kv_head=",
                   s->path, (long long)t->in_rows, (long long)Hk, (long long)h);
  }
  return RP_OK;
}

static void tell_norms(told_words *w, const rp_told *t, const rp_json *c) {
  static const char *const names[] = {"rmsnorm", "layernorm"};
  if (!has(c, "model.backbone.ln")) tell(w, "model.backbone.ln", names[t->final_bias]);
  if (!has(c, CELL "ln")) tell(w, CELL "ln", names[t->mixer_bias]);
  if (!has(c, FFN "ln")) tell(w, FFN "ln", names[t->ffn_bias]);
}

/* Words that a model without a configuration of ours needs. `c` is the configuration with the
 * caller's words, asked only for what the tensors leave open. */
static rp_status tell_all(told_words *w, const rp_store *s, const rp_json *c, rp_error *err) {
  rp_told t;
  RP_TRY(rp_store_told(s, &t, err));
  tell_int(w, "model.backbone.num_layers", t.N);
  tell_int(w, "model.backbone.d_model", t.d);
  tell_int(w, "data.vocab_size", t.V);
  tell_int(w, "model.embedding.vocab_size", t.V);
  if (t.f > 0) tell_int(w, FFN "d_ffn", t.f);
  if (t.f > 0 && t.fc1_rows == 2 * t.f) tell(w, FFN "act_fn", "swiglu");
  tell_norms(w, &t, c);
  if (!t.head || !has(c, "task.tie_embedding"))
    tell(w, "task.tie_embedding", !t.head || t.head_same ? "true" : "false");
  if (!t.mixer) {
    tell(w, CELL "_name_", "identity");
    return RP_OK;
  }
  const rp_json *name = value_at(c, CELL "_name_");
  if (!name || name->type != RP_JSON_STRING || strcmp(name->string, "ratplus")) {
    if (name && name->type == RP_JSON_STRING)
      rp_log(RP_LOG_NOTICE,
             "%s: its seq_cell is called %.60s; its shapes are those of ratplus, so "
             "it is read as ratplus",
             s->path, name->string);
    tell(w, CELL "_name_", "ratplus");
  }
  return tell_heads(w, s, &t, c, err);
}

/* ------------------------------------------------------------------ laid over each other */

/* Without words it is the file that is wrong, not the caller. */
static rp_status blame(rp_status st, size_t n, rp_error *err) {
  if (st != RP_USAGE || n) return st;
  if (err) err->status = RP_BAD_DATA;
  return RP_BAD_DATA;
}

static rp_status compose_text(const rp_store *s, const char *text, const told_words *told,
                              const char *const *words, size_t n, bool loose, rp_config **c,
                              rp_error *err) {
  const size_t all = n + (size_t)told->n;
  const char **w = rp_malloc(all + 1, sizeof *w);
  if (!w) return rp_fail_memory(err, all * sizeof *w, "words of a configuration");
  for (int i = 0; i < told->n; i++) w[i] = told->at[i];
  if (n) memcpy(w + told->n, words, n * sizeof *w);
  const rp_status st = rp_config_from_text(
      c, text, strlen(text), s->config_name ? s->config_name : s->path, w, all, loose, err);
  rp_free(w);
  return blame(st, n, err);
}

/* What stands for a pattern that nobody knows, where sizes alone are asked for. */
static void tell_dense(told_words *w) {
  tell(w, CELL "dilation_size", "1");
  tell(w, CELL "joint_train", "false");
}

static bool says_pattern(const rp_json *c) {
  return has(c, CELL "dilation_size") || has(c, CELL "joint_train");
}

/* The configuration as a tree to look into. */
static rp_status look_into(const rp_config *c, rp_json_doc **doc, rp_error *err) {
  char *text = NULL;
  RP_TRY(rp_config_json(c, &text, err));
  const rp_status st = rp_json_parse(doc, text, strlen(text), "the configuration", err);
  rp_free(text);
  return st;
}

rp_status rp_store_compose(const rp_store *s, const char *const *words, size_t n, rp_config **c,
                           bool *known, rp_error *err) {
  told_words told = {.n = 0};
  const char *const text = s->config ? s->config : "{}";
  const bool ours = s->config && !s->pth;
  rp_json_doc *doc = NULL;
  rp_config *first = NULL;
  rp_status st = RP_OK;
  *c = NULL;
  RP_GO(compose_text(s, text, &told, words, n, !ours, &first, err));
  RP_GO(look_into(first, &doc, err));
  *known = says_pattern(rp_json_root(doc));
  if (!ours) RP_GO(tell_all(&told, s, rp_json_root(doc), err));
  if (!*known) tell_dense(&told);
  if (told.n) {
    RP_GO(compose_text(s, text, &told, words, n, !ours, c, err));
  } else {
    *c = first;
    first = NULL;
  }
fail:
  rp_json_free(doc);
  rp_config_free(first);
  return st;
}

rp_status rp_store_config(const rp_store *s, const char *const *words, size_t n, rp_config **c,
                          rp_error *err) {
  bool known;
  *c = NULL;
  if (!s->config && !n) return RP_OK;
  return rp_store_compose(s, words, n, c, &known, err);
}

rp_status rp_store_run_dtype(const rp_store *s, const rp_config *c, const char *asked,
                             const rp_shape *shape, rp_dtype *out, rp_error *err) {
  char *told = !asked && c ? rp_config_get(c, "trainer.dtype") : NULL;
  const char *text = asked ? asked : told;
  rp_status st = RP_OK;
  if (!text)
    *out = rp_store_dtype(s, &shape->p[0]) == RP_BF16 ? RP_BF16 : RP_F32;
  else if (strcmp(text, "float32") == 0)
    *out = RP_F32;
  else if (strcmp(text, "bfloat16") == 0)
    *out = RP_BF16;
  else
    st = rp_fail(err, RP_USAGE, "dtype %s: must be float32 or bfloat16", text);
  rp_free(told);
  return st;
}

rp_status rp_store_pattern_known(const rp_store *s, const char *const *words, size_t n, bool *known,
                                 rp_error *err) {
  rp_config *c;
  *known = false;
  RP_TRY(rp_store_compose(s, words, n, &c, known, err));
  rp_config_free(c);
  return RP_OK;
}

rp_status rp_store_model(const rp_store *s, const char *const *words, size_t n,
                         rp_model_settings *m, rp_error *err) {
  rp_config *c;
  bool known;
  *m = (rp_model_settings){0};
  RP_TRY(rp_store_compose(s, words, n, &c, &known, err));
  const rp_status st = rp_model_settings_read(m, c, err);
  rp_config_free(c);
  if (!st) return RP_OK;
  rp_fail_at(err, "%s", s->path);
  return blame(st, n, err);
}

/* ------------------------------------------------------------------ settings as text */

/* One of D, W, I: a number, a list with one per layer, or a list of lists with one per kv head. */
static void add_pattern(rp_str *b, const rp_model_settings *m, char which) {
  bool by_head = false, by_layer = false;
  const rp_pats *p = &m->pats;
#define AT(i, k) \
  (which == 'D'   ? rp_pats_get(p, i, k).D \
   : which == 'W' ? rp_pats_get(p, i, k).W \
                  : rp_pats_get(p, i, k).I)
  for (int i = 0; i < m->N; i++) {
    for (int k = 0; k < m->Hk; k++) {
      if (AT(i, k) != AT(i, 0)) by_head = true;
      if (AT(i, k) != AT(0, 0)) by_layer = true;
    }
  }
  if (!by_layer) {
    rp_str_addf(b, "%d", AT(0, 0));
    return;
  }
  for (int i = 0; i < m->N; i++) {
    rp_str_add(b, i ? "," : "[");
    for (int k = 0; k < (by_head ? m->Hk : 1); k++)
      rp_str_addf(b, "%s%d", by_head ? (k ? "," : "[") : "", AT(i, k));
    if (by_head) rp_str_add(b, "]");
  }
  rp_str_add(b, "]");
#undef AT
}

static void add_real(rp_str *b, const char *key, double x) {
  char text[32];
  rp_format_f64(text, x, true);
  rp_str_addf(b, ",\"%s\":%s", key, text);
}

static const char *yes_no(bool x) { return x ? "true" : "false"; }

static void add_cell(rp_str *b, const rp_model_settings *m, bool pattern_known) {
  static const char *const norms[] = {"rmsnorm", "layernorm"};
  if (m->cell == RP_CELL_IDENTITY) {
    rp_str_add(b, ",\"seq_cell\":{\"_name_\":\"identity\"}");
    return;
  }
  rp_str_addf(b, ",\"seq_cell\":{\"d_head\":%d,\"num_head\":%d,\"num_kv_head\":%d,\"ln\":\"%s\"",
              m->h, m->H, m->Hk, norms[m->mixer_norm]);
  if (pattern_known) {
    static const char *const keys[] = {"dilation_size", "local_size", "initial_size"};
    for (int i = 0; i < 3; i++) {
      rp_str_addf(b, ",\"%s\":", keys[i]);
      add_pattern(b, m, "DWI"[i]);
    }
    rp_str_addf(b, ",\"joint_train\":%s", yes_no(m->joint_train));
  }
  rp_str_addf(b, ",\"apply_re\":%s,\"_name_\":\"ratplus\"}", yes_no(m->apply_re));
}

rp_status rp_model_settings_json(const rp_model_settings *m, bool pattern_known, char **text,
                                 rp_error *err) {
  static const char *const norms[] = {"rmsnorm", "layernorm"};
  static const char *const inits[] = {"fixed", "xavier", "uniform", "torch"};
  rp_str b = {0};
  rp_str_addf(
      &b,
      "{\"data\":{\"vocab_size\":%d},\"model\":{\"backbone\":{\"num_layers\":%d,"
      "\"d_model\":%d,\"bias\":false,\"ln\":\"%s\",\"dropout\":0.0,\"init\":{\"_name_\":\"%s\"",
      m->V, m->N, m->d, norms[m->final_norm], inits[m->init]);
  add_real(&b, "initializer_range", m->init_range);
  rp_str_add(&b, "}");
  add_cell(&b, m, pattern_known);
  rp_str_addf(&b,
              ",\"hidden_cell\":{\"d_ffn\":%d,\"act_fn\":\"%s\",\"ln\":\"%s\",\"bias\":false,"
              "\"_name_\":\"ffn\"},\"_name_\":\"sequence\"},\"embedding\":{\"vocab_size\":%d,"
              "\"d_model\":%d,\"pe\":{\"_name_\":\"%s\"",
              m->f, rp_act_name(m->act), norms[m->ffn_norm], m->V, m->d,
              m->rope ? "rope" : "empty");
  if (m->cell != RP_CELL_IDENTITY) rp_str_addf(&b, ",\"dim\":%d", m->h);
  add_real(&b, "base", m->rope_base);
  add_real(&b, "scale", m->rope_scale);
  rp_str_addf(&b,
              ",\"max_seq_len\":%d},\"_name_\":\"lm\"},\"head\":{\"_name_\":\"lm\"}},\"task\":{"
              "\"tie_embedding\":%s,\"_name_\":\"lm\"}}",
              m->max_seq_len, yes_no(m->tied));
  *text = rp_str_take(&b);
  rp_str_free(&b);
  return *text ? RP_OK : rp_fail_memory(err, 0, "the configuration of a model");
}
