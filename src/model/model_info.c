/* model_info.c - what a stored model is, in words and in JSON. */
#include <string.h>

#include "base/json.h"
#include "model/cost.h"
#include "model/frozen.h"
#include "model/store_inner.h"
#include "ratplus/info.h"

typedef struct {
  rp_store *s;
  rp_model_settings m;
  rp_shape shape;
  bool pattern_known;
  char *pattern;              /* "D=16,W=256"; NULL when nothing says it */
  double dense, sparse;       /* bytes of cache per token, bfloat16, at max_seq_len */
  double state;               /* bytes of the recurrence's states */
  uint64_t bytes;             /* of the weights in their file */
  bool runs;                  /* its dtype is one that can be run */
  rp_dtype dtype;             /* of a run without --dtype, */
  uint64_t mapped, converted; /* which reads so many bytes of weights from the file's pages */
  int64_t adam, step;
} facts;

rp_path_kind rp_path_look(const char *path) {
  char *inner = NULL;
  if (!rp_exists(path)) return RP_PATH_NOTHING;
  if (rp_is_dir(path)) {
    static const char *const marks[] = {"model.safetensors", "model.safetensors.index.json",
                                        "checkpoints", "metrics.jsonl"};
    for (int i = 0; i < 4; i++) {
      inner = rp_path_join(path, marks[i]);
      const bool there = inner && rp_exists(inner);
      rp_free(inner);
      if (there) return i < 2 ? RP_PATH_MODEL : RP_PATH_RUN;
    }
    return RP_PATH_OTHER;
  }
  if (rp_ends_with(path, ".pth") || rp_ends_with(path, ".safetensors") ||
      rp_ends_with(path, ".safetensors.index.json"))
    return RP_PATH_MODEL;
  if (rp_ends_with(path, ".bin")) return RP_PATH_TOKENS;
  rp_str side = {0};
  rp_str_addf(&side, "%s.json", path);
  const bool tokens = !side.failed && rp_is_file(side.s);
  rp_str_free(&side);
  return tokens ? RP_PATH_TOKENS : RP_PATH_OTHER;
}

/* ------------------------------------------------------------------ gathering */

static double cache_per_token(const rp_model_settings *m, const rp_pats *p) {
  const int64_t T = m->max_seq_len;
  return rp_cost_cache(m, p, T, RP_BF16) / (double)T;
}

/* A configuration of another program may name a dtype that is none of ours. */
static rp_status find_run(facts *f, const char *const *words, size_t n, rp_error *err) {
  rp_config *c = NULL;
  RP_TRY(rp_store_config(f->s, words, n, &c, err));
  f->runs = !rp_store_run_dtype(f->s, c, NULL, &f->shape, &f->dtype, NULL);
  rp_config_free(c);
  if (!f->runs) return RP_OK;
  return rp_frozen_plan(&f->shape, f->dtype, f->s, &f->mapped, &f->converted, err);
}

static rp_status gather(facts *f, const char *path, const char *const *words, size_t n,
                        rp_error *err) {
  rp_pats dense = {0};
  RP_TRY(rp_store_open(&f->s, path, err));
  RP_TRY(rp_store_model(f->s, words, n, &f->m, err));
  RP_TRY(rp_store_pattern_known(f->s, words, n, &f->pattern_known, err));
  RP_TRY(rp_shape_make(&f->shape, &f->m, err));
  RP_TRY(rp_store_check(f->s, &f->shape, err));
  rp_store_steps(f->s, &f->adam, &f->step);
  for (int i = 0; i < f->shape.n; i++) {
    const rp_param *p = &f->shape.p[i];
    f->bytes += (uint64_t)(p->rows * p->cols) * (uint64_t)rp_dtype_bytes(rp_store_dtype(f->s, p));
  }
  RP_TRY(find_run(f, words, n, err));
  if (f->m.cell == RP_CELL_IDENTITY) return RP_OK;
  if (f->pattern_known && !(f->pattern = rp_pats_format(&f->m.pats)))
    return rp_fail_memory(err, 64, "a pattern");
  RP_TRY(rp_pats_uniform(&dense, (rp_pat){.D = 1}, f->m.N, f->m.Hk, err));
  f->dense = cache_per_token(&f->m, &dense);
  f->sparse = cache_per_token(&f->m, &f->m.pats);
  f->state = rp_cost_state(&f->m, 0);
  rp_pats_free(&dense);
  return RP_OK;
}

static const char *kind_name(const facts *f) {
  if (f->s->pth) return "reference .pth";
  if (f->s->moments.n) return "checkpoint";
  return rp_is_dir(f->s->path) ? "model directory" : "safetensors file";
}

static const char *mixer_name(const facts *f) {
  if (f->m.cell == RP_CELL_IDENTITY) return "no mixer";
  return f->m.apply_re ? "RAT+" : "attention-only";
}

/* The dtypes of the weights, "float32" or "bfloat16, float32". */
static void add_dtypes(rp_str *b, const facts *f) {
  unsigned seen = 0;
  for (int i = 0; i < f->shape.n; i++) {
    const rp_dtype t = rp_store_dtype(f->s, &f->shape.p[i]);
    if (seen >> t & 1) continue;
    rp_str_addf(b, "%s%s", seen ? ", " : "", rp_dtype_name(t));
    seen |= 1u << t;
  }
}

/* ------------------------------------------------------------------ for a person */

static void add_size(rp_str *b, const char *label, double bytes, const char *rest) {
  char size[32];
  rp_format_bytes(size, bytes);
  rp_str_addf(b, "%-12s%s%s\n", label, size, rest);
}

static void add_tensors(rp_str *b, const facts *f) {
  rp_str_addf(b, "tensors     %d, of which\n", f->shape.n);
  for (int i = 0; i < f->shape.n; i++) {
    const rp_param *p = &f->shape.p[i];
    if (p->unit > 1 && p->unit <= f->m.N) continue; /* layers are alike */
    rp_str_addf(b, "  %-48s [%lld", p->name, (long long)p->rows);
    if (p->ndim == 2) rp_str_addf(b, ", %lld", (long long)p->cols);
    rp_str_addf(b, "] %s\n", rp_dtype_name(rp_store_dtype(f->s, p)));
  }
}

static void add_cache(rp_str *b, const facts *f) {
  char rest[96];
  rp_snprintf(rest, sizeof rest, " a token in bfloat16 at D=1");
  add_size(b, "cache", f->dense, rest);
  if (f->pattern) {
    rp_snprintf(rest, sizeof rest, " a token at %.40s, T=%d", f->pattern, f->m.max_seq_len);
    add_size(b, "", f->sparse, rest);
  }
  if (f->m.apply_re) add_size(b, "state", f->state, " a sequence (recurrence, float32)");
}

static void add_run(rp_str *b, const facts *f) {
  char mapped[32], converted[32];
  rp_format_bytes(mapped, (double)f->mapped);
  rp_format_bytes(converted, (double)f->converted);
  rp_str_addf(b, "run in      %s: %s of weights mapped from the file, ", rp_dtype_name(f->dtype),
              mapped);
  if (f->converted)
    rp_str_addf(b, "%s converted into memory\n", converted);
  else
    rp_str_add(b, "nothing converted\n");
}

static void add_text(rp_str *b, const facts *f) {
  static const char *const norms[] = {"RMSNorm", "LayerNorm"};
  const rp_model_settings *m = &f->m;
  rp_str_addf(b, "path        %s\nkind        %s", f->s->path, kind_name(f));
  if (f->step >= 0) rp_str_addf(b, ", %lld iterations done", (long long)f->step);
  if (f->s->moments.n) rp_str_add(b, ", with optimizer state");
  rp_str_addf(b, "\nmodel       %s, %d layers, d=%d, ", mixer_name(f), m->N, m->d);
  if (m->cell != RP_CELL_IDENTITY) rp_str_addf(b, "%d heads of %d, ", m->H, m->h);
  if (m->Hk != m->H) rp_str_addf(b, "%d kv heads, ", m->Hk);
  rp_str_addf(b, "f=%d %s, V=%d, %s, %s head\n", m->f, rp_act_name(m->act), m->V,
              norms[m->final_norm], m->tied ? "tied" : "untied");
  rp_str_addf(b, "parameters  %lld\nweights     ", (long long)f->shape.total);
  add_dtypes(b, f);
  char size[32];
  rp_format_bytes(size, (double)f->bytes);
  rp_str_addf(b, ", %s\n", size);
  if (f->runs) add_run(b, f);
  if (m->cell != RP_CELL_IDENTITY) {
    rp_str_addf(b, "pattern     %s%s\n",
                f->pattern ? f->pattern : "not said; give one with --pattern",
                f->pattern && m->joint_train ? ", trained jointly with D=1" : "");
    add_cache(b, f);
  }
  rp_str_addf(b, "tokenizer   %s\n", f->s->tokenizer ? f->s->tokenizer : "none beside it");
  add_tensors(b, f);
}

/* ------------------------------------------------------------------ JSON */

static void add_string(rp_str *b, const char *key, const char *value) {
  rp_str_addf(b, ",\"%s\":", key);
  if (value) {
    rp_json_add_string(b, value);
  } else {
    rp_str_add(b, "null");
  }
}

static void add_number(rp_str *b, const char *key, int64_t value) {
  rp_str_addf(b, ",\"%s\":%lld", key, (long long)value);
}

static void add_real(rp_str *b, const char *key, double value) {
  rp_str_addf(b, ",\"%s\":", key);
  rp_json_add_real(b, value);
}

static void add_bool(rp_str *b, const char *key, bool value) {
  rp_str_addf(b, ",\"%s\":%s", key, value ? "true" : "false");
}

static void add_json(rp_str *b, const facts *f) {
  const rp_model_settings *m = &f->m;
  rp_str dtypes = {0};
  add_dtypes(&dtypes, f);
  rp_str_add(b, "{\"path\":");
  rp_json_add_string(b, f->s->path);
  add_string(b, "kind", kind_name(f));
  add_string(b, "mixer", mixer_name(f));
  add_number(b, "num_layers", m->N);
  add_number(b, "d_model", m->d);
  add_number(b, "d_head", m->h);
  add_number(b, "num_head", m->H);
  add_number(b, "num_kv_head", m->Hk);
  add_number(b, "d_ffn", m->f);
  add_string(b, "act_fn", rp_act_name(m->act));
  add_number(b, "vocab_size", m->V);
  add_bool(b, "tied", m->tied);
  add_bool(b, "apply_re", m->apply_re);
  add_bool(b, "joint_train", m->joint_train);
  add_number(b, "parameters", f->shape.total);
  add_number(b, "bytes", (int64_t)f->bytes);
  add_string(b, "dtype", dtypes.s);
  if (f->runs) {
    add_string(b, "run_dtype", rp_dtype_name(f->dtype));
    add_number(b, "mapped_bytes", (int64_t)f->mapped);
    add_number(b, "converted_bytes", (int64_t)f->converted);
  }
  add_string(b, "pattern", f->pattern);
  add_number(b, "max_seq_len", m->max_seq_len);
  add_real(b, "cache_bytes_per_token_dense", f->dense);
  add_real(b, "cache_bytes_per_token", f->sparse);
  add_real(b, "state_bytes", f->state);
  add_number(b, "step", f->step);
  add_number(b, "adam_step", f->adam);
  add_bool(b, "optimizer", f->s->moments.n > 0);
  add_string(b, "tokenizer", f->s->tokenizer);
  rp_str_add(b, ",\"tensors\":[");
  for (int i = 0; i < f->shape.n; i++) {
    const rp_param *p = &f->shape.p[i];
    rp_str_addf(b, "%s{\"name\":", i ? "," : "");
    rp_json_add_string(b, p->name);
    rp_str_addf(b, ",\"shape\":[%lld", (long long)p->rows);
    if (p->ndim == 2) rp_str_addf(b, ",%lld", (long long)p->cols);
    rp_str_addf(b, "],\"dtype\":\"%s\"}", rp_dtype_name(rp_store_dtype(f->s, p)));
  }
  rp_str_add(b, "]}\n");
  if (dtypes.failed) b->failed = true;
  rp_str_free(&dtypes);
}

rp_status rp_model_info(const char *path, const char *const *words, size_t n_words, int json,
                        char **text, rp_error *err) {
  facts f = {0};
  rp_str b = {0};
  *text = NULL;
  rp_status st = gather(&f, path, words, n_words, err);
  if (!st) {
    if (json) {
      add_json(&b, &f);
    } else {
      add_text(&b, &f);
    }
    *text = rp_str_take(&b);
    if (!*text) st = rp_fail_memory(err, b.len, "the description of a model");
  }
  rp_str_free(&b);
  rp_free(f.pattern);
  rp_shape_free(&f.shape);
  rp_model_settings_free(&f.m);
  rp_store_close(f.s);
  return st;
}
