/* pth_write.c - checkpoints that torch.load(weights_only=True) reads.
 *
 * A zip of stored entries, written in one pass through rp_out, so that it is atomic and durable and
 * the tensors lie at multiples of 64 bytes, where readers map them. */
#include <string.h>

#include "base/json.h"
#include "model/crc32.h"
#include "model/store.h"

enum { DATA_ALIGN = 64 };

/* ------------------------------------------------------------------ zip */

typedef struct {
  char name[48];
  uint64_t at, bytes; /* of the local header; of the data */
  uint32_t crc;
} zip_entry;

typedef struct {
  rp_out *out;
  zip_entry *e;
  size_t n, cap;
  rp_error *err;
} zip;

static void put(rp_str *b, uint64_t x, int bytes) {
  char at[8];
  for (int i = 0; i < bytes; i++) at[i] = (char)(x >> (8 * i));
  rp_str_addn(b, at, (size_t)bytes);
}

static uint32_t cap32(uint64_t x) { return x < UINT32_MAX ? (uint32_t)x : UINT32_MAX; }

/* The fields that a local and a central header share, from "version needed" on. */
static void put_common(rp_str *b, const zip_entry *e, size_t extra) {
  const bool wide = e->bytes >= UINT32_MAX;
  put(b, wide ? 45 : 20, 2);
  put(b, 0x800, 2); /* names are UTF-8 */
  put(b, 0, 2);     /* stored */
  put(b, 0, 2);     /* 1980-01-01, so that equal models are equal files */
  put(b, 0x21, 2);
  put(b, e->crc, 4);
  put(b, cap32(e->bytes), 4);
  put(b, cap32(e->bytes), 4);
  put(b, strlen(e->name), 2);
  put(b, extra, 2);
}

/* Local header, with a filler that aligns the data. */
static rp_status zip_add(zip *z, const char *name, const void *data, uint64_t bytes) {
  rp_str b = {0};
  RP_TRY(
      rp_grow(&z->e, &z->cap, z->n + 1, sizeof *z->e, "the list of an archive's entries", z->err));
  zip_entry *e = &z->e[z->n++];
  *e = (zip_entry){.at = rp_out_at(z->out), .bytes = bytes, .crc = rp_crc32(data, bytes)};
  rp_snprintf(e->name, sizeof e->name, "%s", name);
  const size_t wide = bytes >= UINT32_MAX ? 20 : 0;
  const uint64_t head = e->at + 30 + strlen(name) + wide + 4;
  const size_t filler = (size_t)((DATA_ALIGN - head % DATA_ALIGN) % DATA_ALIGN);
  put(&b, 0x04034b50, 4);
  put_common(&b, e, wide + 4 + filler);
  rp_str_add(&b, name);
  if (wide) {
    put(&b, 1, 2);
    put(&b, 16, 2);
    put(&b, bytes, 8);
    put(&b, bytes, 8);
  }
  rp_str_add(&b, "FB");
  put(&b, filler, 2);
  for (size_t i = 0; i < filler; i++) rp_str_add(&b, "Z");
  const bool failed = b.failed;
  if (!failed) {
    rp_out_write(z->out, b.s, b.len);
    rp_out_write(z->out, data, (size_t)bytes);
  }
  rp_str_free(&b);
  return failed ? rp_fail_memory(z->err, 256, "the header of an archive's entry") : RP_OK;
}

static void put_central(rp_str *b, const zip_entry *e) {
  const bool wide = e->bytes >= UINT32_MAX, far = e->at >= UINT32_MAX;
  const size_t extra = wide || far ? 4 + (wide ? 16u : 0) + (far ? 8u : 0) : 0;
  put(b, 0x02014b50, 4);
  put(b, wide || far ? 45 : 20, 2);
  put_common(b, e, extra);
  put(b, 0, 2); /* comment */
  put(b, 0, 2); /* disk */
  put(b, 0, 2);
  put(b, 0, 4);
  put(b, cap32(e->at), 4);
  rp_str_add(b, e->name);
  if (!extra) return;
  put(b, 1, 2);
  put(b, extra - 4, 2);
  if (wide) {
    put(b, e->bytes, 8);
    put(b, e->bytes, 8);
  }
  if (far) put(b, e->at, 8);
}

static rp_status zip_end(zip *z) {
  rp_str b = {0};
  const uint64_t at = rp_out_at(z->out);
  for (size_t i = 0; i < z->n; i++) put_central(&b, &z->e[i]);
  const uint64_t bytes = b.len;
  if (z->n >= 0xffff || at + bytes >= UINT32_MAX) {
    put(&b, 0x06064b50, 4);
    put(&b, 44, 8);
    put(&b, 45, 2);
    put(&b, 45, 2);
    put(&b, 0, 8); /* disks */
    put(&b, z->n, 8);
    put(&b, z->n, 8);
    put(&b, bytes, 8);
    put(&b, at, 8);
    put(&b, 0x07064b50, 4);
    put(&b, 0, 4);
    put(&b, at + bytes, 8);
    put(&b, 1, 4);
  }
  const uint64_t count = z->n < 0xffff ? z->n : 0xffff;
  put(&b, 0x06054b50, 4);
  put(&b, 0, 4);
  put(&b, count, 2);
  put(&b, count, 2);
  put(&b, cap32(bytes), 4);
  put(&b, cap32(at), 4);
  put(&b, 0, 2);
  const bool failed = b.failed;
  if (!failed) rp_out_write(z->out, b.s, b.len);
  rp_str_free(&b);
  return failed ? rp_fail_memory(z->err, (size_t)bytes, "the directory of an archive") : RP_OK;
}

/* ------------------------------------------------------------------ pickle */

static void add_text(rp_str *b, const char *s) {
  rp_str_add(b, "X");
  put(b, strlen(s), 4);
  rp_str_add(b, s);
}

static void add_int(rp_str *b, int64_t x) {
  if (x >= INT32_MIN && x <= INT32_MAX) {
    rp_str_add(b, "J");
    put(b, (uint64_t)x, 4);
  } else {
    rp_str_addn(b, "\x8a\x08", 2);
    put(b, (uint64_t)x, 8);
  }
}

static void add_bool(rp_str *b, bool x) { rp_str_addn(b, x ? "\x88" : "\x89", 1); }

static void add_real(rp_str *b, double x) {
  uint64_t bits;
  char at[8];
  memcpy(&bits, &x, 8);
  for (int i = 0; i < 8; i++) at[i] = (char)(bits >> (56 - 8 * i));
  rp_str_add(b, "G");
  rp_str_addn(b, at, 8);
}

/* A float tensor of the storage `key`; ndim 0: one number. */
static void add_tensor(rp_str *b, int64_t key, rp_dtype dtype, int ndim, int64_t rows,
                       int64_t cols) {
  static const char *const storages[] = {"Float", "BFloat16", "Double", "Half", "Int", "Long"};
  char name[24];
  rp_str_add(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
  add_text(b, "storage");
  rp_str_addf(b, "ctorch\n%sStorage\n", storages[dtype]);
  rp_snprintf(name, sizeof name, "%lld", (long long)key);
  add_text(b, name);
  add_text(b, "cpu");
  add_int(b, ndim ? rows * cols : 1);
  rp_str_add(b, "tQ");
  add_int(b, 0);
  rp_str_add(b, "(");
  if (ndim > 0) add_int(b, rows);
  if (ndim > 1) add_int(b, cols);
  rp_str_add(b, "t(");
  if (ndim > 1) add_int(b, cols);
  if (ndim > 0) add_int(b, 1);
  rp_str_add(b, "t");
  add_bool(b, false);
  rp_str_add(b, "ccollections\nOrderedDict\n)RtR");
}

static void add_json(rp_str *b, const rp_json *v) {
  switch (v->type) {
    case RP_JSON_NULL: rp_str_add(b, "N"); break;
    case RP_JSON_BOOL: add_bool(b, v->integer); break;
    case RP_JSON_INT: add_int(b, v->integer); break;
    case RP_JSON_REAL: add_real(b, v->real); break;
    case RP_JSON_STRING: add_text(b, v->string); break;
    case RP_JSON_ARRAY:
      rp_str_add(b, "](");
      for (const rp_json *c = v->child; c; c = c->next) add_json(b, c);
      rp_str_add(b, "e");
      break;
    case RP_JSON_OBJECT:
      rp_str_add(b, "}(");
      for (const rp_json *c = v->child; c; c = c->next) {
        add_text(b, c->key);
        add_json(b, c);
      }
      rp_str_add(b, "u");
      break;
  }
}

/* ------------------------------------------------------------------ the checkpoint */

typedef struct {
  const rp_tensor_set *w;
  const rp_pth_extra *x;
  zip z;
  rp_str pickle;
  void *scratch;
  rp_error *err;
} writer;

static rp_dtype dtype_of(const rp_tensor_set *set, int i) {
  return set->dtypes ? set->dtypes[i] : set->dtype;
}

static void add_task(writer *w) {
  rp_str *b = &w->pickle;
  const rp_shape *s = w->w->shape;
  add_text(b, "task");
  rp_str_add(b, "ccollections\nOrderedDict\n)R(");
  for (int i = 0; i < s->n; i++) {
    const rp_param *p = &s->p[i];
    add_text(b, p->name);
    add_tensor(b, i, dtype_of(w->w, i), p->ndim, p->rows, p->cols);
  }
  if (w->x->tied) {
    add_text(b, "head.lm_head.weight");
    add_tensor(b, 0, dtype_of(w->w, 0), 2, s->p[0].rows, s->p[0].cols);
  }
  rp_str_add(b, "u");
}

/* Storages: weights 0..n-1, then every set of moments, then one step for every tensor. */
static void add_states(writer *w) {
  rp_str *b = &w->pickle;
  const int n = w->w->shape->n, sets = w->x->n_moments;
  rp_str_add(b, "}(");
  for (int i = 0; i < n && sets; i++) {
    const rp_param *p = &w->w->shape->p[i];
    add_int(b, i);
    rp_str_add(b, "}(");
    add_text(b, "step");
    add_tensor(b, (int64_t)n * (1 + sets) + i, RP_F32, 0, 1, 1);
    for (int k = 0; k < sets; k++) {
      char kind[32];
      rp_snprintf(kind, sizeof kind, "%s", w->x->moments[k].prefix);
      kind[strcspn(kind, ".")] = 0;
      add_text(b, kind);
      add_tensor(b, (int64_t)n * (1 + k) + i, RP_F32, p->ndim, p->rows, p->cols);
    }
    rp_str_add(b, "u");
  }
  rp_str_add(b, "u");
}

static void add_group(writer *w) {
  static const rp_optim_settings adamw = {
      .lr = 1e-3, .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
  rp_str *b = &w->pickle;
  const rp_optim_settings *o = w->x->optim ? w->x->optim : &adamw;
  rp_str_add(b, "](}(");
  add_text(b, "lr");
  add_real(b, o->lr);
  add_text(b, "initial_lr");
  add_real(b, o->lr);
  add_text(b, "weight_decay");
  add_real(b, o->weight_decay);
  if (o->name == RP_OPT_SGD) {
    add_text(b, "momentum");
    add_real(b, o->momentum);
    add_text(b, "dampening");
    add_int(b, 0);
    add_text(b, "nesterov");
    add_bool(b, false);
  } else {
    add_text(b, "betas");
    rp_str_add(b, "(");
    add_real(b, o->beta1);
    add_real(b, o->beta2);
    rp_str_add(b, "t");
    add_text(b, "eps");
    add_real(b, o->eps);
    add_text(b, "amsgrad");
    add_bool(b, false);
    add_text(b, "capturable");
    add_bool(b, false);
    add_text(b, "decoupled_weight_decay");
    add_bool(b, o->name == RP_OPT_ADAMW);
    add_text(b, "fused");
    rp_str_add(b, "N");
  }
  add_text(b, "foreach");
  rp_str_add(b, "N");
  add_text(b, "maximize");
  add_bool(b, false);
  add_text(b, "differentiable");
  add_bool(b, false);
  add_text(b, "params");
  rp_str_add(b, "](");
  for (int i = 0; i < w->w->shape->n; i++) add_int(b, i);
  rp_str_add(b, "eue");
}

static rp_status add_config(writer *w) {
  rp_json_doc *doc;
  if (!w->x->config_json) return RP_OK;
  RP_TRY(rp_json_parse(&doc, w->x->config_json, strlen(w->x->config_json), "the configuration",
                       w->err));
  add_text(&w->pickle, "config");
  add_json(&w->pickle, rp_json_root(doc));
  rp_json_free(doc);
  return RP_OK;
}

static rp_status make_pickle(writer *w) {
  rp_str *b = &w->pickle;
  const int64_t step = w->x->step;
  rp_str_addn(b, "\x80\x02}(", 4);
  add_task(w);
  RP_TRY(add_config(w));
  add_text(b, "step");
  add_int(b, step < 0 ? -1 : step - 1);
  add_text(b, "optimizer");
  if (w->x->n_moments) {
    rp_str_add(b, "}(");
    add_text(b, "state");
    add_states(w);
    add_text(b, "param_groups");
    add_group(w);
    rp_str_add(b, "u");
  } else {
    rp_str_add(b, "}");
  }
  add_text(b, "lr_scheduler");
  rp_str_add(b, "}");
  if (step > 0) {
    rp_str_add(b, "(");
    if (w->x->of > 0) {
      add_text(b, "T_max");
      add_int(b, w->x->of);
    }
    add_text(b, "last_epoch");
    add_int(b, step);
    add_text(b, "_step_count");
    add_int(b, step + 1);
    rp_str_add(b, "u");
  }
  add_text(b, "resume_kwargs");
  rp_str_add(b, "}");
  if (step > 0) {
    rp_str_add(b, "(");
    add_text(b, "resume_step");
    add_int(b, step - 1);
    rp_str_add(b, "u");
  }
  rp_str_add(b, "u.");
  return b->failed ? rp_fail_memory(w->err, b->len, "the pickle of a checkpoint") : RP_OK;
}

static rp_status add_set(writer *w, const rp_tensor_set *set, int64_t key) {
  char name[48];
  for (int i = 0; i < set->shape->n; i++) {
    const rp_param *p = &set->shape->p[i];
    const rp_dtype dtype = dtype_of(set, i);
    RP_TRY(set->pull(set->ctx, p, dtype, w->scratch, w->err));
    rp_snprintf(name, sizeof name, "archive/data/%lld", (long long)(key + i));
    RP_TRY(zip_add(&w->z, name, w->scratch,
                   (uint64_t)(p->rows * p->cols) * (uint64_t)rp_dtype_bytes(dtype)));
  }
  return RP_OK;
}

static rp_status write_all(writer *w) {
  const int64_t n = w->w->shape->n;
  const float adam = (float)w->x->adam;
  char name[48];
  RP_TRY(make_pickle(w));
  RP_TRY(zip_add(&w->z, "archive/data.pkl", w->pickle.s, w->pickle.len));
  RP_TRY(zip_add(&w->z, "archive/byteorder", "little", 6));
  RP_TRY(add_set(w, w->w, 0));
  for (int k = 0; k < w->x->n_moments; k++) RP_TRY(add_set(w, &w->x->moments[k], n * (1 + k)));
  for (int64_t i = 0; i < n && w->x->n_moments; i++) {
    rp_snprintf(name, sizeof name, "archive/data/%lld", (long long)(n * (1 + w->x->n_moments) + i));
    RP_TRY(zip_add(&w->z, name, &adam, sizeof adam));
  }
  RP_TRY(zip_add(&w->z, "archive/version", "3\n", 2));
  return zip_end(&w->z);
}

static size_t largest(const rp_tensor_set *set) {
  int64_t most = 1;
  for (int i = 0; i < set->shape->n; i++) {
    const int64_t bytes = set->shape->p[i].rows * set->shape->p[i].cols * 8;
    if (bytes > most) most = bytes;
  }
  return (size_t)most;
}

rp_status rp_pth_write(const char *path, const rp_tensor_set *weights, const rp_pth_extra *extra,
                       rp_error *err) {
  writer w = {.w = weights, .x = extra, .z = {.err = err}, .err = err};
  const size_t bytes = largest(weights);
  rp_status st = RP_OK;
  w.scratch = rp_malloc(bytes, 1);
  if (!w.scratch) return rp_fail_memory(err, bytes, "the largest tensor to write");
  RP_GO(rp_out_open(&w.z.out, path, err));
  RP_GO(write_all(&w));
  st = rp_out_commit(w.z.out, err);
  w.z.out = NULL;
fail:
  rp_out_cancel(w.z.out);
  rp_str_free(&w.pickle);
  rp_free(w.z.e);
  rp_free(w.scratch);
  return st;
}
