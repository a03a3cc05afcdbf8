/* store.c - the table of tensors behind every kind of file, and what is asked of it. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/str.h"
#include "model/store_inner.h"

/* ------------------------------------------------------------------ the table */

rp_status rp_table_add(rp_table *t, const char *name, const rp_view *v, rp_error *err) {
  RP_TRY(rp_grow(&t->v, &t->cap, t->n + 1, sizeof *t->v, "the list of a file's tensors", err));
  char *own = rp_strdup(name);
  if (!own) return rp_fail_memory(err, strlen(name) + 1, "the name of a tensor");
  t->v[t->n] = *v;
  t->v[t->n++].name = own;
  return RP_OK;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const rp_view *)a)->name, ((const rp_view *)b)->name);
}

rp_status rp_table_sort(rp_table *t, const char *what, rp_error *err) {
  if (t->n) qsort(t->v, t->n, sizeof *t->v, by_name);
  for (size_t i = 1; i < t->n; i++) {
    if (!strcmp(t->v[i - 1].name, t->v[i].name))
      return rp_fail(err, RP_BAD_DATA, "%s: tensor \"%.200s\" is there twice; the file is damaged",
                     what, t->v[i].name);
  }
  return RP_OK;
}

const rp_view *rp_table_find(const rp_table *t, const char *name) {
  const rp_view key = {.name = name};
  return t->n ? bsearch(&key, t->v, t->n, sizeof *t->v, by_name) : NULL;
}

void rp_table_free(rp_table *t) {
  for (size_t i = 0; i < t->n; i++) rp_free((void *)(uintptr_t)t->v[i].name);
  rp_free(t->v);
  *t = (rp_table){0};
}

/* ------------------------------------------------------------------ views */

bool rp_view_bytes(const rp_view *v, uint64_t *bytes) {
  uint64_t n = (uint64_t)rp_dtype_bytes(v->dtype);
  bool none = false;
  for (int i = 0; i < v->ndim; i++) {
    if (v->dims[i] < 0) return false;
    if (v->dims[i] == 0) {
      none = true;
    } else if (n > INT64_MAX / (uint64_t)v->dims[i]) {
      return false;
    } else {
      n *= (uint64_t)v->dims[i];
    }
  }
  *bytes = none ? 0 : n;
  return true;
}

void rp_view_pack(rp_view *v) {
  int64_t step = 1;
  for (int i = v->ndim - 1; i >= 0; i--) {
    v->strides[i] = step;
    step *= v->dims[i];
  }
}

bool rp_view_is_packed(const rp_view *v) {
  int64_t step = 1;
  for (int i = v->ndim - 1; i >= 0; i--) {
    if (v->dims[i] != 1 && v->strides[i] != step) return false;
    step *= v->dims[i];
  }
  return true;
}

static float read_f32(const uint8_t *at, rp_dtype dtype) {
  union {
    float f32;
    double f64;
    uint16_t u16;
    int32_t i32;
    int64_t i64;
  } u;
  memcpy(&u, at, (size_t)rp_dtype_bytes(dtype));
  switch (dtype) {
    case RP_F32: return u.f32;
    case RP_BF16: return rp_bf16_to_f32(u.u16);
    case RP_F64: return (float)u.f64;
    case RP_F16: return rp_f16_to_f32(u.u16);
    case RP_I32: return (float)u.i32;
    case RP_I64: return (float)u.i64;
  }
  return 0;
}

/* Offset in elements of the index-th element in C order. */
static int64_t place(const rp_view *v, int64_t index) {
  int64_t at = 0;
  for (int i = v->ndim - 1; i >= 0; i--) {
    at += index % v->dims[i] * v->strides[i];
    index /= v->dims[i];
  }
  return at;
}

void rp_view_get_f32(const rp_view *v, int64_t first, int64_t n, float *out) {
  const int64_t size = rp_dtype_bytes(v->dtype);
  if (n < 1) return;
  if (rp_view_is_packed(v)) {
    const uint8_t *at = v->data + first * size;
    if (v->dtype == RP_F32) {
      memcpy(out, at, (size_t)(n * size));
      return;
    }
    for (int64_t i = 0; i < n; i++) out[i] = read_f32(at + i * size, v->dtype);
    return;
  }
  for (int64_t i = 0; i < n; i++) out[i] = read_f32(v->data + place(v, first + i) * size, v->dtype);
}

/* ------------------------------------------------------------------ what a store owns */

rp_status rp_store_map(rp_store *s, const char *path, rp_map *m, rp_error *err) {
  RP_TRY(rp_grow(&s->maps, &s->cap_maps, s->n_maps + 1, sizeof *s->maps, "mapped files", err));
  RP_TRY(rp_map_open(m, path, err));
  s->maps[s->n_maps++] = *m;
  return RP_OK;
}

rp_status rp_store_block(rp_store *s, size_t bytes, void **block, rp_error *err) {
  RP_TRY(rp_grow(&s->blocks, &s->cap_blocks, s->n_blocks + 1, sizeof *s->blocks,
                 "unpacked storages", err));
  *block = rp_malloc(bytes ? bytes : 1, 1);
  if (!*block) return rp_fail_memory(err, bytes, "a tensor's unpacked storage");
  s->blocks[s->n_blocks++] = *block;
  return RP_OK;
}

void rp_store_close(rp_store *s) {
  if (!s) return;
  rp_table_free(&s->tensors);
  rp_table_free(&s->moments);
  for (size_t i = 0; i < s->n_maps; i++) rp_map_close(&s->maps[i]);
  for (size_t i = 0; i < s->n_blocks; i++) rp_free(s->blocks[i]);
  rp_free(s->maps);
  rp_free(s->blocks);
  rp_free(s->path);
  rp_free(s->config);
  rp_free(s->config_name);
  rp_free(s->tokenizer);
  rp_free(s);
}

rp_status rp_store_open(rp_store **out, const char *path, rp_error *err) {
  rp_status st = RP_OK;
  *out = NULL;
  rp_store *s = rp_calloc(1, sizeof *s);
  if (!s) return rp_fail_memory(err, sizeof *s, "an open model");
  s->adam = s->step = s->of = -1;
  if (!*path) {
    st = rp_fail(err, RP_USAGE, "the path of the model is empty; give a model directory or a .pth");
  } else if (rp_is_dir(path)) {
    st = rp_modeldir_read(s, path, err);
  } else if (!rp_exists(path)) {
    st = rp_fail(err, RP_BAD_DATA,
                 "%s: no such file or directory; give a model directory, a checkpoint, a run "
                 "directory or a .pth",
                 path);
  } else {
    s->path = rp_strdup(path);
    if (!s->path) {
      st = rp_fail_memory(err, strlen(path) + 1, "a path");
    } else if (rp_ends_with(path, ".safetensors")) {
      st = rp_safetensors_read(s, &s->tensors, path, err);
    } else if (rp_ends_with(path, ".safetensors.index.json")) {
      st = rp_safetensors_read_index(s, &s->tensors, path, err);
    } else {
      st = rp_pth_read(s, path, err);
    }
  }
  if (!st) st = rp_table_sort(&s->tensors, path, err);
  if (!st) st = rp_table_sort(&s->moments, path, err);
  if (!st && !s->tensors.n)
    st = rp_fail(err, RP_BAD_DATA, "%s: holds no tensors, so it is no model", path);
  if (!st && s->pth && s->config) st = rp_store_prune(s, err);
  if (st) {
    rp_store_close(s);
    return st;
  }
  *out = s;
  return RP_OK;
}

int rp_store_count(const rp_store *s) { return (int)s->tensors.n; }
const rp_view *rp_store_at(const rp_store *s, int i) { return &s->tensors.v[i]; }
const rp_view *rp_store_find(const rp_store *s, const char *name) {
  return rp_table_find(&s->tensors, name);
}
const char *rp_store_path(const rp_store *s) { return s->path; }
const char *rp_store_tokenizer(const rp_store *s) { return s->tokenizer; }
void rp_store_steps(const rp_store *s, int64_t *adam, int64_t *step) {
  *adam = s->adam;
  *step = s->step;
}

/* ------------------------------------------------------------------ logical tensors */

/* The separate gate projection of older files, whose rows come after those of in_proj. */
static const rp_view *gate_rows(const rp_store *s, const char *name) {
  static const char tail[] = "in_proj.weight";
  char gate[128];
  if (!rp_ends_with(name, tail)) return NULL;
  rp_snprintf(gate, sizeof gate, "%.*sfgate_proj.weight", (int)(strlen(name) - sizeof tail + 1),
              name);
  return rp_store_find(s, gate);
}

static void print_dims(char out[128], const rp_view *v) {
  size_t n = 0;
  out[0] = 0;
  for (int i = 0; i < v->ndim; i++)
    n += (size_t)rp_snprintf(out + n, 128 - n, "%s%lld", i ? ", " : "", (long long)v->dims[i]);
}

static void print_param(char out[128], const rp_param *p) {
  if (p->ndim == 1) {
    rp_snprintf(out, 128, "%lld", (long long)p->rows);
  } else {
    rp_snprintf(out, 128, "%lld, %lld", (long long)p->rows, (long long)p->cols);
  }
}

static bool fits(const rp_view *v, const rp_param *p, int64_t rows) {
  return v->ndim == p->ndim && v->dims[0] == rows && (p->ndim == 1 || v->dims[1] == p->cols);
}

/* The view of p and, when its last rows lie elsewhere, the second part. */
static rp_status find_param(const rp_store *s, const rp_param *p, const rp_view **v,
                            const rp_view **more, rp_error *err) {
  *more = NULL;
  *v = rp_store_find(s, p->name);
  if (!*v)
    return rp_fail(err, RP_BAD_DATA, "%s: tensor %s is missing; the file belongs to another model",
                   s->path, p->name);
  if (fits(*v, p, p->rows)) return RP_OK;
  const rp_view *gate = gate_rows(s, p->name);
  if (gate && gate->ndim == 2 && fits(gate, p, gate->dims[0]) && gate->dims[0] < p->rows &&
      fits(*v, p, p->rows - gate->dims[0])) {
    *more = gate;
    return RP_OK;
  }
  char has[128], wants[128];
  print_dims(has, *v);
  print_param(wants, p);
  return rp_fail(err, RP_BAD_DATA,
                 "%s: tensor %s is [%s] where the configuration asks for [%s]; check the sizes it "
                 "names (d_model, d_head, num_kv_head, d_ffn, apply_re)",
                 s->path, p->name, has, wants);
}

static bool is_extra(const rp_store *s, const rp_shape *shape, const rp_view *v) {
  if (rp_shape_find(shape, v->name)) return false;
  if (!strcmp(v->name, "head.lm_head.weight")) return !fits(v, &shape->p[0], shape->p[0].rows);
  if (!rp_ends_with(v->name, ".fgate_proj.weight")) return true;
  char name[128];
  rp_snprintf(name, sizeof name, "%.*sin_proj.weight",
              (int)(strlen(v->name) - strlen("fgate_proj.weight")), v->name);
  const rp_param *p = rp_shape_find(shape, name);
  const rp_view *in = p ? rp_store_find(s, name) : NULL;
  return !in || fits(in, p, p->rows);
}

rp_status rp_store_check(const rp_store *s, const rp_shape *shape, rp_error *err) {
  const rp_view *v, *more;
  for (int i = 0; i < shape->n; i++) RP_TRY(find_param(s, &shape->p[i], &v, &more, err));
  for (size_t i = 0; i < s->tensors.n; i++) {
    v = &s->tensors.v[i];
    if (v->dtype == RP_I32 || v->dtype == RP_I64)
      return rp_fail(err, RP_BAD_DATA, "%s: tensor %.200s holds integers (%s), not weights",
                     s->path, v->name, rp_dtype_name(v->dtype));
    if (is_extra(s, shape, v))
      return rp_fail(err, RP_BAD_DATA,
                     "%s: tensor %.200s is no part of the model that the configuration describes; "
                     "check num_layers, seq_cell and tie_embedding",
                     s->path, v->name);
  }
  rp_told told;
  if (rp_shape_find(shape, "head.lm_head.weight")) return RP_OK;
  RP_TRY(rp_store_told(s, &told, err));
  if (told.head && !told.head_same)
    rp_log(RP_LOG_NOTICE,
           "%s: its head.lm_head.weight differs from the embedding, but the head is tied; the "
           "embedding is used (task.tie_embedding=false takes both)",
           s->path);
  return RP_OK;
}

rp_status rp_store_get_f32(const rp_store *s, const rp_param *p, float *out, rp_error *err) {
  return rp_store_get(s, p, RP_F32, out, err);
}

/* n elements of a view, from the first-th in C order on, as `dtype`. */
static void copy_as(const rp_view *v, int64_t first, int64_t n, rp_dtype dtype, uint8_t *out) {
  float some[1024];
  const int64_t size = rp_dtype_bytes(dtype);
  if (v->dtype == dtype && rp_view_is_packed(v)) {
    if (n) memcpy(out, v->data + first * size, (size_t)(n * size));
    return;
  }
  if (v->dtype == dtype) {
    for (int64_t i = 0; i < n; i++)
      memcpy(out + i * size, v->data + place(v, first + i) * size, (size_t)size);
    return;
  }
  for (int64_t i = 0; i < n; i += 1024) {
    const int64_t m = n - i < 1024 ? n - i : 1024;
    rp_view_get_f32(v, first + i, m, some);
    for (int64_t k = 0; k < m; k++) {
      const double wide = some[k];
      const uint16_t half = dtype == RP_BF16 ? rp_f32_to_bf16(some[k]) : rp_f32_to_f16(some[k]);
      const void *from = size == 8   ? (const void *)&wide
                         : size == 4 ? (void *)&some[k]
                                     : (void *)&half;
      memcpy(out + (i + k) * size, from, (size_t)size);
    }
  }
}

rp_status rp_store_get_part(const rp_store *s, const rp_param *p, rp_dtype dtype, int64_t from,
                            int64_t n, void *out, rp_error *err) {
  const rp_view *v, *more;
  RP_TRY(find_param(s, p, &v, &more, err));
  const int64_t first = more ? (p->rows - more->dims[0]) * p->cols : p->rows * p->cols;
  const int64_t here = from >= first ? 0 : n < first - from ? n : first - from;
  copy_as(v, from, here, dtype, out);
  if (here < n)
    copy_as(more, from + here - first, n - here, dtype,
            (uint8_t *)out + here * rp_dtype_bytes(dtype));
  return RP_OK;
}

rp_status rp_store_get(const rp_store *s, const rp_param *p, rp_dtype dtype, void *out,
                       rp_error *err) {
  return rp_store_get_part(s, p, dtype, 0, p->rows * p->cols, out, err);
}

const void *rp_store_direct(const rp_store *s, const rp_param *p, rp_dtype dtype) {
  const rp_view *v = rp_store_find(s, p->name);
  if (!v || v->dtype != dtype || !fits(v, p, p->rows) || !rp_view_is_packed(v)) return NULL;
  return (uintptr_t)v->data % (uintptr_t)rp_dtype_bytes(dtype) ? NULL : v->data;
}

const rp_map *rp_store_map_of(const rp_store *s, const void *at) {
  const uint8_t *p = at;
  for (size_t i = 0; i < s->n_maps; i++) {
    const rp_map *m = &s->maps[i];
    if (p >= m->data && (size_t)(p - m->data) < m->bytes) return m;
  }
  return NULL;
}

rp_dtype rp_store_dtype(const rp_store *s, const rp_param *p) {
  const rp_view *v = rp_store_find(s, p->name);
  return v ? v->dtype : RP_F32;
}

rp_status rp_store_moment_f32(const rp_store *s, const rp_shape *shape, const rp_param *p,
                              const char *which, float *out, bool *has, rp_error *err) {
  char name[160];
  const long long index = p - shape->p;
  *has = false;
  if (!s->moments.n) return RP_OK;
  if (s->numbered && s->numbered != shape->n)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: its optimizer numbers %lld tensors, the model has %d; it belongs to "
                   "another model",
                   s->path, (long long)s->numbered, shape->n);
  rp_snprintf(name, sizeof name, "%s.%s", which, p->name);
  if (s->numbered) rp_snprintf(name, sizeof name, "%s.#%lld", which, index);
  const rp_view *v = rp_table_find(&s->moments, name);
  if (!v) return RP_OK;
  if (!fits(v, p, p->rows)) {
    char is[128], wants[128];
    print_dims(is, v);
    print_param(wants, p);
    return rp_fail(err, RP_BAD_DATA,
                   "%s: the optimizer's %s of %s is [%s], not [%s]; it belongs to another model",
                   s->path, which, p->name, is, wants);
  }
  rp_view_get_f32(v, 0, p->rows * p->cols, out);
  *has = true;
  return RP_OK;
}
