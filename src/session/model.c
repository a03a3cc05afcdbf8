/* model.c - immutable weights on a device, from a file, from someone else, or random. */
#include <string.h>

#include "base/str.h"
#include "session/inner.h"

void rp_model_defaults(rp_model_opts *o) { *o = (rp_model_opts){.size = sizeof *o}; }

static rp_status copy_pats(rp_pats *to, const rp_pats *from, rp_error *err) {
  RP_TRY(rp_pats_uniform(to, (rp_pat){1, 0, 0}, from->layers, from->kv_heads, err));
  memcpy(to->at, from->at, sizeof *from->at * (size_t)(from->layers * from->kv_heads));
  return RP_OK;
}

static rp_status choose_place(const char *device, rp_device_kind *kind, rp_error *err) {
  rp_error why;
  const rp_status st = rp_device_choose(device, kind, &why);
  return st ? rp_fail(err, st, "device %s: %s; use --device cpu", device, why.text) : RP_OK;
}

static int64_t told_length(const rp_config *c, int64_t usual) {
  char *text = c ? rp_config_get(c, "data.seq_len") : NULL;
  int64_t v;
  if (!text || !rp_parse_i64(text, &v) || v < 1) v = usual;
  rp_free(text);
  return v;
}

static rp_status open_device(rp_model *m, rp_device_kind kind, rp_error *err) {
  RP_TRY(rp_device_open(&m->dev, kind, err));
  return rp_queue_open(&m->q, m->dev, err);
}

static rp_status read_file(rp_model *m, const rp_store *s, const rp_model_opts *o, rp_error *err) {
  rp_status st = RP_OK;
  rp_config *c = NULL;
  rp_shape shape = {0};
  RP_GO(rp_store_model(s, o->words, o->n_words, &m->m, err));
  RP_GO(rp_store_pattern_known(s, o->words, o->n_words, &m->pattern_known, err));
  RP_GO(rp_store_config(s, o->words, o->n_words, &c, err));
  RP_GO(rp_shape_make(&shape, &m->m, err));
  RP_GO(rp_store_run_dtype(s, c, o->dtype, &shape, &m->compute, err));
  m->parameters = shape.total;
  m->seq_len = told_length(c, m->m.max_seq_len);
  m->path = rp_strdup(rp_store_path(s));
  m->tokenizer = rp_store_tokenizer(s) ? rp_strdup(rp_store_tokenizer(s)) : NULL;
  if (!m->path || (rp_store_tokenizer(s) && !m->tokenizer))
    RP_GO(rp_fail_memory(err, 64, "a path"));
  if (o->progress && o->progress(o->ctx, 0)) RP_GO(rp_fail(err, RP_STOPPED, "stopped as asked"));
  RP_GO(rp_store_check(s, &shape, err));
  const rp_frozen_told told = {o->progress, o->ctx};
  RP_GO(rp_frozen_open(&m->frozen, m->q, &shape, m->compute, s, &told, err));
  m->weights = rp_frozen_weights(&m->frozen);
  if (o->progress) o->progress(o->ctx, 1);
fail:
  rp_shape_free(&shape);
  rp_config_free(c);
  return st;
}

rp_status rp_model_open(rp_model **out, const char *path, const rp_model_opts *opts,
                        rp_error *err) {
  rp_status st = RP_OK;
  rp_store *s = NULL;
  rp_model_opts usual;
  rp_device_kind kind;
  *out = NULL;
  rp_model_defaults(&usual);
  if (!opts) opts = &usual;
  if (opts->size != sizeof *opts)
    return rp_fail(err, RP_USAGE, "rp_model_open: options not filled by rp_model_defaults");
  if (!path || !*path) return rp_fail(err, RP_USAGE, "no model is named; give --model DIR");
  RP_TRY(choose_place(opts->device, &kind, err));
  rp_model *m = rp_calloc(1, sizeof *m);
  if (!m) return rp_fail_memory(err, sizeof *m, "a model");
  RP_GO(rp_store_open(&s, path, err));
  RP_GO(open_device(m, kind, err));
  RP_GO(read_file(m, s, opts, err));
  if (m->frozen.n_lent) {
    m->store = s;
    s = NULL;
  }
  *out = m;
  m = NULL;
fail:
  rp_model_close(m);
  rp_store_close(s);
  return st;
}

rp_status rp_model_borrow(rp_model **out, rp_queue *q, const rp_model_settings *settings,
                          rp_dtype compute, const rp_weights *w, rp_error *err) {
  rp_status st = RP_OK;
  rp_shape shape = {0};
  *out = NULL;
  rp_model *m = rp_calloc(1, sizeof *m);
  if (!m) return rp_fail_memory(err, sizeof *m, "a model");
  m->borrowed = m->pattern_known = true;
  m->m = *settings;
  m->m.pats = (rp_pats){0};
  m->q = q;
  m->dev = rp_queue_device(q);
  m->compute = compute;
  m->weights = *w;
  m->seq_len = settings->max_seq_len;
  RP_GO(copy_pats(&m->m.pats, &settings->pats, err));
  RP_GO(rp_shape_make(&shape, &m->m, err));
  m->parameters = shape.total;
  *out = m;
  m = NULL;
fail:
  rp_shape_free(&shape);
  rp_model_close(m);
  return st;
}

rp_status rp_model_random(rp_model **out, const rp_model_settings *settings, rp_device_kind kind,
                          rp_dtype dtype, uint64_t seed, rp_error *err) {
  rp_status st = RP_OK;
  *out = NULL;
  rp_model *m = rp_calloc(1, sizeof *m);
  if (!m) return rp_fail_memory(err, sizeof *m, "a model");
  m->pattern_known = true;
  m->m = *settings;
  m->m.pats = (rp_pats){0};
  m->compute = dtype;
  m->seq_len = settings->max_seq_len;
  RP_GO(copy_pats(&m->m.pats, &settings->pats, err));
  RP_GO(open_device(m, kind, err));
  RP_GO(rp_params_open(&m->params, m->q, &m->m, dtype, false, err));
  RP_GO(rp_params_rough(&m->params, seed, err));
  RP_GO(rp_wait(m->q, err));
  m->parameters = m->params.shape.total;
  m->weights = rp_params_weights(&m->params);
  *out = m;
  m = NULL;
fail:
  rp_model_close(m);
  return st;
}

void rp_model_close(rp_model *m) {
  if (!m) return;
  if (!m->borrowed) {
    if (m->q) rp_wait(m->q, NULL);
    rp_frozen_close(&m->frozen);
    if (m->params.dev) rp_params_close(&m->params);
    rp_queue_close(m->q);
    rp_device_close(m->dev);
  }
  rp_store_close(m->store);
  rp_model_settings_free(&m->m);
  rp_free(m->path);
  rp_free(m->tokenizer);
  rp_free(m);
}

const rp_model_settings *rp_model_settings_of(const rp_model *m) { return &m->m; }
uint64_t rp_model_available(const rp_model *m) { return rp_device_available(m->dev); }

void rp_model_about(const rp_model *m, rp_model_facts *out) {
  rp_model_facts f = {.layers = m->m.N,
                      .width = m->m.d,
                      .heads = m->m.H,
                      .kv_heads = m->m.Hk,
                      .head_width = m->m.h,
                      .ffn_width = m->m.f,
                      .vocab_size = m->m.V,
                      .recurrence = m->m.apply_re,
                      .parameters = m->parameters,
                      .seq_len = m->seq_len,
                      .dtype = m->compute == RP_BF16 ? "bfloat16" : "float32",
                      .device = rp_device_name(m->dev),
                      .path = m->path,
                      .tokenizer = m->tokenizer};
  if (m->params.dev) {
    const rp_params_bytes b =
        rp_params_plan(&m->params.lay, rp_device_real(m->dev), m->compute, false);
    f.weights = b.masters + b.copy;
  } else if (!m->borrowed) {
    f.weights_mapped = m->frozen.mapped;
    f.weights = m->frozen.mapped + m->frozen.kept;
  }
  f.size = out->size < sizeof f ? out->size : sizeof f;
  memcpy(out, &f, f.size);
}

static bool is_dense(const rp_pats *p) {
  for (int i = 0; i < p->layers * p->kv_heads; i++)
    if (p->at[i].D != 1) return false;
  return true;
}

rp_status rp_model_parse(const rp_model *m, const char *pattern, rp_pats *out, rp_error *err) {
  if (pattern) return rp_pats_parse(out, pattern, m->m.N, m->m.Hk, err);
  if (!m->pattern_known)
    return rp_fail(err, RP_USAGE,
                   "%s says neither a dilation_size nor joint_train; give --pattern, as in "
                   "--pattern 'D=1'",
                   m->path);
  if (m->m.joint_train) return rp_pats_uniform(out, (rp_pat){1, 0, 0}, m->m.N, m->m.Hk, err);
  return copy_pats(out, &m->m.pats, err);
}

rp_status rp_model_pattern(const rp_model *m, char **text, rp_error *err) {
  rp_pats p = {0};
  RP_TRY(rp_model_parse(m, NULL, &p, err));
  *text = rp_pats_format(&p);
  rp_pats_free(&p);
  return *text ? RP_OK : rp_fail_memory(err, 64, "a pattern");
}

rp_status rp_model_trained(const rp_model *m, const char *pattern, int *trained, rp_error *err) {
  rp_pats p = {0};
  RP_TRY(rp_model_parse(m, pattern, &p, err));
  const size_t bytes = sizeof *p.at * (size_t)(p.layers * p.kv_heads);
  const bool dense = is_dense(&p);
  *trained = m->pattern_known && ((dense && (m->m.joint_train || is_dense(&m->m.pats))) ||
                                  memcmp(p.at, m->m.pats.at, bytes) == 0);
  rp_pats_free(&p);
  return RP_OK;
}
