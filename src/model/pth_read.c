/* pth_read.c - checkpoints of the reference: a zip with data.pkl and one entry per storage. */
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "model/pickle.h"
#include "model/store_inner.h"
#include "model/zip_read.h"

static const int64_t most_steps = INT64_C(1) << 40;
/* Compressed storages are unpacked into memory; PyTorch writes none. */
static const uint64_t most_unpacked = UINT64_C(4) << 30;

typedef struct {
  rp_store *s;
  const char *path;
  rp_zip *zip;
  char root[256]; /* "archive/" */
  uint64_t unpacked;
  int64_t last; /* entry of the storage that was unpacked last, -1 */
  const uint8_t *last_at;
  rp_error *err;
} reader;

/* ------------------------------------------------------------------ the archive */

static rp_status check_kind(const char *path, rp_map m, rp_error *err) {
  if (m.bytes >= 4 && !memcmp(m.data, "PK\3\4", 4)) return RP_OK;
  if (m.bytes >= 2 && m.data[0] == 0x80 && m.data[1] <= 5)
    return rp_fail(
        err, RP_BAD_DATA,
        "%s: PyTorch's format from before 2020, a pickle without a zip; load it and save "
        "it again with a PyTorch of 1.6 or later: torch.save(torch.load(PATH), PATH)",
        path);
  return rp_fail(err, RP_BAD_DATA,
                 "%s: neither a model directory, a .safetensors file nor a .pth (a zip that "
                 "torch.save wrote)",
                 path);
}

/* Sets root to the folder that holds data.pkl. */
static rp_status find_root(reader *r, size_t *pickle) {
  static const char name[] = "data.pkl";
  for (size_t i = 0; i < rp_zip_count(r->zip); i++) {
    const char *e = rp_zip_name(r->zip, i), *slash = strchr(e, '/');
    if (strcmp(slash ? slash + 1 : e, name)) continue;
    const size_t len = slash ? (size_t)(slash - e) + 1 : 0;
    if (len >= sizeof r->root) break;
    memcpy(r->root, e, len);
    r->root[len] = 0;
    *pickle = i;
    return RP_OK;
  }
  return rp_fail(r->err, RP_BAD_DATA, "%s: a zip without data.pkl, so torch.save did not write it",
                 r->path);
}

static rp_status check_byteorder(reader *r) {
  char name[300];
  uint8_t text[8] = {0};
  rp_snprintf(name, sizeof name, "%sbyteorder", r->root);
  const int64_t i = rp_zip_find(r->zip, name);
  if (i < 0 || rp_zip_bytes(r->zip, (size_t)i) >= sizeof text) return RP_OK;
  RP_TRY(rp_zip_unpack(r->zip, (size_t)i, text, r->err));
  if (!strcmp((const char *)text, "big"))
    return rp_fail(r->err, RP_BAD_DATA,
                   "%s: written on a big-endian machine; save it again on a little-endian one",
                   r->path);
  return RP_OK;
}

static rp_status read_pickle(reader *r, rp_pickle **p) {
  size_t i = 0;
  RP_TRY(find_root(r, &i));
  RP_TRY(check_byteorder(r));
  const uint64_t bytes = rp_zip_bytes(r->zip, i);
  if (bytes > 64u << 20)
    return rp_fail(r->err, RP_BAD_DATA, "%s: its data.pkl has %llu bytes, more than any checkpoint",
                   r->path, (unsigned long long)bytes);
  uint8_t *data = rp_malloc((size_t)bytes + 1, 1);
  if (!data) return rp_fail_memory(r->err, (size_t)bytes, "the pickle of a checkpoint");
  rp_status st = rp_zip_unpack(r->zip, i, data, r->err);
  if (!st) st = rp_pickle_read(p, data, (size_t)bytes, r->path, r->err);
  rp_free(data);
  return st;
}

/* ------------------------------------------------------------------ tensors */

static rp_status bad_tensor(reader *r, const char *name, const char *what) {
  return rp_fail(r->err, RP_BAD_DATA, "%s: tensor %.200s: %s; the file is damaged", r->path, name,
                 what);
}

static rp_status find_storage(reader *r, const rp_pv *storage, const char *name,
                              const uint8_t **data) {
  char entry[600];
  rp_snprintf(entry, sizeof entry, "%sdata/%.256s", r->root, storage->string);
  const int64_t i = rp_zip_find(r->zip, entry);
  if (i < 0) return bad_tensor(r, name, "its storage is not in the archive");
  const uint64_t bytes = rp_zip_bytes(r->zip, (size_t)i);
  if ((uint64_t)storage->integer > bytes / (uint64_t)rp_dtype_bytes((rp_dtype)storage->dtype))
    return bad_tensor(r, name, "its storage is shorter than the pickle says");
  *data = rp_zip_mapped(r->zip, (size_t)i);
  if (!*data && i == r->last) *data = r->last_at;
  if (*data) return RP_OK;
  if (bytes > most_unpacked - r->unpacked)
    return rp_fail(r->err, RP_BAD_DATA,
                   "%s: more than 4 GiB of compressed tensors; save it "
                   "without compression, as torch.save does",
                   r->path);
  void *block;
  RP_TRY(rp_store_block(r->s, (size_t)bytes, &block, r->err));
  RP_TRY(rp_zip_unpack(r->zip, (size_t)i, block, r->err));
  r->unpacked += bytes;
  r->last = i;
  r->last_at = block;
  *data = block;
  return RP_OK;
}

/* The last element of the view lies inside the storage. */
static bool is_inside(const rp_view *v, int64_t offset, int64_t elements) {
  int64_t last = offset;
  bool none = false;
  for (int i = 0; i < v->ndim; i++) {
    int64_t step;
    if (!v->dims[i]) none = true;
    if (v->dims[i] && (__builtin_mul_overflow(v->dims[i] - 1, v->strides[i], &step) ||
                       __builtin_add_overflow(last, step, &last)))
      return false;
  }
  return none || last < elements;
}

static rp_status make_view(reader *r, const rp_pv *t, const char *name, rp_view *v) {
  const rp_pv *storage = t->state;
  const uint8_t *data;
  uint64_t bytes;
  *v = (rp_view){0};
  if (storage->dtype < 0)
    return rp_fail(r->err, RP_BAD_DATA,
                   "%s: tensor %.200s is of a type that weights do not have; float32, bfloat16, "
                   "float16 and float64 can be read",
                   r->path, name);
  if (t->dims->n > 4) return bad_tensor(r, name, "more than 4 dimensions");
  v->dtype = (rp_dtype)storage->dtype;
  v->ndim = (int)t->dims->n;
  for (int i = 0; i < v->ndim; i++) {
    v->dims[i] = t->dims->items[i]->integer;
    v->strides[i] = t->strides->items[i]->integer;
  }
  if (!rp_view_bytes(v, &bytes)) return bad_tensor(r, name, "sizes of no tensor");
  /* Strides of 0 let few bytes stand for a huge tensor; weights are never expanded. */
  if (bytes / (uint64_t)rp_dtype_bytes(v->dtype) > (uint64_t)storage->integer)
    return bad_tensor(r, name, "more elements than its storage holds");
  if (!is_inside(v, t->integer, storage->integer))
    return bad_tensor(r, name, "it reaches beyond its storage");
  RP_TRY(find_storage(r, storage, name, &data));
  v->data = data + t->integer * rp_dtype_bytes(v->dtype);
  return RP_OK;
}

/* Names as modules have them, without the wrappers of torch.compile, FSDP and DDP. */
static rp_status plain_name(reader *r, const rp_pv *key, char out[256]) {
  static const char *const wrappers[] = {"_orig_mod.", "_fsdp_wrapped_module.", "module."};
  size_t n = 0;
  if (key->type != RP_PV_STRING || key->len >= 256)
    return rp_fail(r->err, RP_BAD_DATA, "%s: a tensor without a name of use", r->path);
  for (const char *s = key->string; *s;) {
    size_t skip = 0;
    for (int i = 0; i < 3; i++) {
      if ((i < 2 || s == key->string) && rp_starts_with(s, wrappers[i])) skip = strlen(wrappers[i]);
    }
    if (skip) {
      s += skip;
    } else {
      out[n++] = *s++;
    }
  }
  out[n] = 0;
  return RP_OK;
}

static rp_status read_task(reader *r, const rp_pv *task) {
  char name[256];
  for (size_t i = 0; i + 1 < task->n; i += 2) {
    const rp_pv *t = task->items[i + 1];
    rp_view v;
    RP_TRY(plain_name(r, task->items[i], name));
    if (t->type != RP_PV_TENSOR) continue;
    RP_TRY(make_view(r, t, name, &v));
    RP_TRY(rp_table_add(&r->s->tensors, name, &v, r->err));
  }
  return RP_OK;
}

/* ------------------------------------------------------------------ the optimizer's state */

static int64_t number_of(reader *r, const rp_pv *v) {
  rp_view view;
  float x;
  if (!v) return -1;
  if (v->type == RP_PV_INT) return v->integer;
  if (v->type == RP_PV_REAL && v->real >= 0 && v->real < 1e15) return (int64_t)v->real;
  if (v->type != RP_PV_TENSOR || make_view(r, v, "step", &view)) return -1;
  uint64_t bytes = 0;
  if (!rp_view_bytes(&view, &bytes) || bytes != (uint64_t)rp_dtype_bytes(view.dtype)) return -1;
  rp_view_get_f32(&view, 0, 1, &x);
  return x >= 0 && x < 1e15f ? (int64_t)x : -1;
}

/* State of one parameter, under `name` or its number. */
static rp_status read_state(reader *r, const char *name, const rp_pv *state) {
  static const char *const kinds[] = {"exp_avg", "exp_avg_sq", "momentum_buffer"};
  char full[300];
  rp_view v;
  for (int i = 0; i < 3; i++) {
    const rp_pv *t = rp_pv_get(state, kinds[i]);
    if (!t || t->type != RP_PV_TENSOR) continue;
    rp_snprintf(full, sizeof full, "%s.%s", kinds[i], name);
    RP_TRY(make_view(r, t, full, &v));
    RP_TRY(rp_table_add(&r->s->moments, full, &v, r->err));
  }
  const int64_t adam = number_of(r, rp_pv_get(state, "step"));
  if (adam > r->s->adam) r->s->adam = adam;
  return RP_OK;
}

/* How many parameters the groups list. */
static int64_t count_params(const rp_pv *optimizer) {
  const rp_pv *groups = rp_pv_list(rp_pv_get(optimizer, "param_groups"));
  int64_t n = 0;
  for (size_t i = 0; groups && i < groups->n; i++) {
    const rp_pv *g = rp_pv_map(groups->items[i]);
    const rp_pv *params = g ? rp_pv_list(rp_pv_get(g, "params")) : NULL;
    if (params) n += (int64_t)params->n;
  }
  return n;
}

static rp_status read_optimizer(reader *r, const rp_pv *optimizer) {
  const rp_pv *states = rp_pv_map(rp_pv_get(optimizer, "state"));
  char name[256];
  int64_t most = 0;
  bool numbered = false, named = false;
  for (size_t i = 0; states && i + 1 < states->n; i += 2) {
    const rp_pv *key = states->items[i], *state = rp_pv_map(states->items[i + 1]);
    if (!state) continue;
    if (key->type == RP_PV_INT) {
      if (key->integer < 0 || key->integer > 10000000)
        return rp_fail(r->err, RP_BAD_DATA, "%s: the optimizer's state has a number of no use",
                       r->path);
      rp_snprintf(name, sizeof name, "#%lld", (long long)key->integer);
      if (key->integer >= most) most = key->integer + 1;
      numbered = true;
    } else {
      RP_TRY(plain_name(r, key, name));
      named = true;
    }
    RP_TRY(read_state(r, name, state));
  }
  if (numbered && named)
    return rp_fail(r->err, RP_BAD_DATA, "%s: the optimizer's state mixes numbers and names",
                   r->path);
  const int64_t listed = count_params(optimizer);
  if (numbered) r->s->numbered = listed > most ? listed : most;
  return RP_OK;
}

/* ------------------------------------------------------------------ the configuration */

typedef struct {
  rp_str text;
  int budget; /* values still to be written: shared parts make trees larger than their pickle */
} writer;

static bool add_json(writer *w, const rp_pv *v, int depth);

static bool add_json_map(writer *w, const rp_pv *map, int depth) {
  bool first = true;
  rp_str_add(&w->text, "{");
  for (size_t i = 0; i + 1 < map->n; i += 2) {
    const rp_pv *key = rp_pv_plain(map->items[i]);
    char number[32];
    rp_snprintf(number, sizeof number, "%lld", (long long)key->integer);
    const char *name = key->type == RP_PV_STRING ? key->string : number;
    if (key->type != RP_PV_STRING && key->type != RP_PV_INT) continue;
    /* The last of two equal keys counts, as in a dict. */
    if (key->type == RP_PV_STRING && rp_pv_get(map, name) != map->items[i + 1]) continue;
    if (!first) rp_str_add(&w->text, ",");
    first = false;
    rp_json_add_string(&w->text, name);
    rp_str_add(&w->text, ":");
    if (!add_json(w, map->items[i + 1], depth + 1)) return false;
  }
  rp_str_add(&w->text, "}");
  return true;
}

static bool add_json_list(writer *w, const rp_pv *list, int depth) {
  rp_str_add(&w->text, "[");
  for (size_t i = 0; i < list->n; i++) {
    if (i) rp_str_add(&w->text, ",");
    if (!add_json(w, list->items[i], depth + 1)) return false;
  }
  rp_str_add(&w->text, "]");
  return true;
}

static bool add_json(writer *w, const rp_pv *v, int depth) {
  v = rp_pv_plain(v);
  if (depth > 32 || w->budget-- < 1 || w->text.failed) return false;
  const rp_pv *map = rp_pv_map(v), *list = rp_pv_list(v);
  if (map) return add_json_map(w, map, depth);
  if (list) return add_json_list(w, list, depth);
  switch (v->type) {
    case RP_PV_BOOL: rp_str_add(&w->text, v->integer ? "true" : "false"); break;
    case RP_PV_INT: rp_str_addf(&w->text, "%lld", (long long)v->integer); break;
    case RP_PV_REAL: rp_json_add_real(&w->text, v->real); break;
    case RP_PV_STRING: rp_json_add_string(&w->text, v->string); break;
    case RP_PV_OBJECT: rp_str_add(&w->text, v->state ? "null" : "{}"); break;
    default: rp_str_add(&w->text, "null"); break;
  }
  return true;
}

static rp_status read_config(reader *r, const rp_pv *config) {
  writer w = {.budget = 100000};
  if (!rp_pv_map(config)) return RP_OK;
  const bool ok = add_json(&w, config, 0);
  if (w.text.failed) {
    rp_str_free(&w.text);
    return rp_fail_memory(r->err, 0, "the configuration of a checkpoint");
  }
  if (!ok) {
    rp_log(RP_LOG_NOTICE, "%s: its configuration is nested too deeply to be read; it is ignored",
           r->path);
    rp_str_free(&w.text);
    return RP_OK;
  }
  r->s->config = rp_str_take(&w.text);
  r->s->config_name = rp_malloc(strlen(r->path) + 32, 1);
  if (!r->s->config || !r->s->config_name) return rp_fail_memory(r->err, 0, "a configuration");
  rp_snprintf(r->s->config_name, strlen(r->path) + 32, "%s (its config)", r->path);
  return RP_OK;
}

/* ------------------------------------------------------------------ the whole */

static bool holds_tensors(const rp_pv *map) {
  for (size_t i = 1; i < map->n; i += 2) {
    if (map->items[i]->type == RP_PV_TENSOR) return true;
  }
  return false;
}

static rp_status read_root(reader *r, const rp_pv *root) {
  const rp_pv *map = rp_pv_map(root);
  if (!map)
    return rp_fail(r->err, RP_BAD_DATA,
                   "%s: holds no dict with the key 'task'; it is no "
                   "checkpoint of the reference",
                   r->path);
  const rp_pv *task = rp_pv_map(rp_pv_get(map, "task"));
  if (!task && holds_tensors(map)) return read_task(r, map); /* a bare state dict */
  if (!task)
    return rp_fail(r->err, RP_BAD_DATA,
                   "%s: has no state dict under the key 'task'; it is no "
                   "checkpoint of the reference",
                   r->path);
  RP_TRY(read_task(r, task));
  const rp_pv *optimizer = rp_pv_map(rp_pv_get(map, "optimizer"));
  const rp_pv *config = rp_pv_get(map, "config"), *step = rp_pv_get(map, "step");
  if (optimizer) RP_TRY(read_optimizer(r, optimizer));
  if (config) RP_TRY(read_config(r, config));
  const rp_pv *schedule = rp_pv_map(rp_pv_get(map, "lr_scheduler"));
  const rp_pv *of = schedule ? rp_pv_get(schedule, "T_max") : NULL;
  if (of && of->type == RP_PV_INT && of->integer >= 0 && of->integer < most_steps)
    r->s->of = of->integer;
  /* The reference counts iterations from 0 and stores the one it has just done. */
  if (step && step->type == RP_PV_INT && step->integer >= -1 && step->integer < most_steps)
    r->s->step = step->integer + 1;
  return RP_OK;
}

rp_status rp_pth_read(rp_store *s, const char *path, rp_error *err) {
  reader r = {.s = s, .path = path, .last = -1, .err = err};
  rp_pickle *pickle = NULL;
  rp_map m;
  rp_status st;
  s->pth = true;
  RP_TRY(rp_store_map(s, path, &m, err));
  RP_TRY(check_kind(path, m, err));
  RP_GO(rp_zip_open(&r.zip, m, path, err));
  RP_GO(read_pickle(&r, &pickle));
  RP_GO(read_root(&r, rp_pickle_root(pickle)));
fail:
  rp_pickle_free(pickle);
  rp_zip_close(r.zip);
  return st;
}
