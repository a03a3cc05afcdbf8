/* safetensors.c - reading .safetensors files and the index of sharded ones.
 *
 * A file is: u64 length of the header, the header (JSON: name -> dtype, shape, data_offsets), the
 * data. As the format demands, the tensors cover the data without gaps or overlaps. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/store_inner.h"

static const uint64_t most_header = 100u << 20; /* as the format's own reader */

static bool read_dtype(const char *name, rp_dtype *dtype) {
  static const struct {
    const char *name;
    rp_dtype dtype;
  } known[] = {{"F32", RP_F32}, {"BF16", RP_BF16}, {"F16", RP_F16},
               {"F64", RP_F64}, {"I32", RP_I32},   {"I64", RP_I64}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (strcmp(known[i].name, name)) continue;
    *dtype = known[i].dtype;
    return true;
  }
  return false;
}

static rp_status bad(const char *path, const char *name, const char *what, rp_error *err) {
  return rp_fail(err, RP_BAD_DATA, "%s: tensor \"%.200s\": %s; the file is damaged", path, name,
                 what);
}

/* One entry of the header; data_bytes follow the header at `data`. */
static rp_status read_entry(const rp_json *e, const char *path, const uint8_t *data,
                            uint64_t data_bytes, rp_view *v, rp_error *err) {
  *v = (rp_view){.name = e->key};
  if (e->type != RP_JSON_OBJECT) return bad(path, e->key, "its description is no object", err);
  const rp_json *dtype = rp_json_get(e, "dtype"), *shape = rp_json_get(e, "shape"),
                *offsets = rp_json_get(e, "data_offsets");
  if (!dtype || dtype->type != RP_JSON_STRING || !shape || shape->type != RP_JSON_ARRAY ||
      !offsets || offsets->type != RP_JSON_ARRAY || offsets->count != 2)
    return bad(path, e->key, "dtype, shape or data_offsets is missing", err);
  if (!read_dtype(dtype->string, &v->dtype))
    return rp_fail(err, RP_BAD_DATA,
                   "%s: tensor \"%.200s\" is of dtype %.40s; F32, BF16, F16, F64, I32 and I64 can "
                   "be read",
                   path, e->key, dtype->string);
  if (shape->count > 4) return bad(path, e->key, "more than 4 dimensions", err);
  for (const rp_json *d = shape->child; d; d = d->next) {
    if (d->type != RP_JSON_INT || d->integer < 0)
      return bad(path, e->key, "a dimension is no whole number", err);
    v->dims[v->ndim++] = d->integer;
  }
  const rp_json *b = offsets->child, *end = b->next;
  uint64_t bytes;
  if (b->type != RP_JSON_INT || end->type != RP_JSON_INT || b->integer < 0 ||
      end->integer < b->integer || (uint64_t)end->integer > data_bytes)
    return bad(path, e->key, "its data lies outside the file", err);
  if (!rp_view_bytes(v, &bytes) || bytes != (uint64_t)(end->integer - b->integer))
    return bad(path, e->key, "its shape does not fit its bytes", err);
  rp_view_pack(v);
  v->data = data ? data + b->integer : NULL;
  return RP_OK;
}

typedef struct {
  uint64_t begin, end;
} span;

static int by_begin(const void *a, const void *b) {
  const span *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  return (x->end > y->end) - (x->end < y->end);
}

static rp_status check_cover(span *spans, size_t n, uint64_t bytes, const char *path,
                             rp_error *err) {
  uint64_t at = 0;
  if (n) qsort(spans, n, sizeof *spans, by_begin);
  for (size_t i = 0; i < n; i++) {
    if (spans[i].begin < at)
      return rp_fail(err, RP_BAD_DATA,
                     "%s: tensors overlap at byte %llu of the data; the file is "
                     "damaged",
                     path, (unsigned long long)spans[i].begin);
    if (spans[i].begin > at)
      return rp_fail(err, RP_BAD_DATA,
                     "%s: no tensor covers byte %llu of the data; the file is "
                     "damaged",
                     path, (unsigned long long)at);
    at = spans[i].end;
  }
  if (at != bytes)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: %llu bytes of data where its header tells of %llu; the "
                   "file is damaged or cut",
                   path, (unsigned long long)bytes, (unsigned long long)at);
  return RP_OK;
}

static rp_status read_header(rp_table *t, const rp_json *root, const char *path,
                             const uint8_t *data, uint64_t data_bytes, rp_error *err) {
  rp_status st = RP_OK;
  size_t n = 0;
  span *spans = rp_malloc(root->count + 1, sizeof *spans);
  if (!spans) return rp_fail_memory(err, (root->count + 1) * sizeof *spans, "a list of tensors");
  for (const rp_json *e = root->child; e; e = e->next) {
    rp_view v;
    if (!strcmp(e->key, "__metadata__")) continue;
    RP_GO(read_entry(e, path, data, data_bytes, &v, err));
    uint64_t bytes = 0;
    rp_view_bytes(&v, &bytes);
    const uint64_t begin = (uint64_t)rp_json_get(e, "data_offsets")->child->integer;
    spans[n++] = (span){begin, begin + bytes};
    RP_GO(rp_table_add(t, e->key, &v, err));
  }
  RP_GO(check_cover(spans, n, data_bytes, path, err));
fail:
  rp_free(spans);
  return st;
}

rp_status rp_safetensors_read(rp_store *s, rp_table *t, const char *path, rp_error *err) {
  rp_map m;
  RP_TRY(rp_store_map(s, path, &m, err));
  uint64_t header = 0;
  if (m.bytes < 8)
    return rp_fail(err, RP_BAD_DATA, "%s: %zu bytes are too few for a safetensors file; it is cut",
                   path, m.bytes);
  for (int i = 7; i >= 0; i--) header = header << 8 | m.data[i];
  if (header > m.bytes - 8 || header > most_header || header < 2)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: its first 8 bytes tell of a header of %llu bytes in a file of %zu; it is "
                   "no safetensors file or is cut",
                   path, (unsigned long long)header, m.bytes);
  rp_json_doc *doc = NULL;
  RP_TRY(rp_json_parse(&doc, (const char *)m.data + 8, (size_t)header, path, err));
  const rp_json *root = rp_json_root(doc);
  rp_status st = root->type == RP_JSON_OBJECT
                     ? read_header(t, root, path, m.data + 8 + header, m.bytes - 8 - header, err)
                     : rp_fail(err, RP_BAD_DATA, "%s: its header is no JSON object", path);
  rp_json_free(doc);
  return st;
}

/* ------------------------------------------------------------------ sharded */

/* A shard lies beside its index: a plain file name. */
static bool is_plain_name(const char *name) {
  return *name && !strchr(name, '/') && strcmp(name, ".") && strcmp(name, "..");
}

static int by_text(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static char *folder_of(const char *path) {
  const char *slash = strrchr(path, '/');
  char *dir = rp_strdup(slash ? path : ".");
  if (dir && slash) dir[slash == path ? 1 : slash - path] = 0;
  return dir;
}

static rp_status read_shards(rp_store *s, rp_table *t, const rp_json *map, const char *path,
                             rp_error *err) {
  rp_status st = RP_OK;
  char *file = NULL, *dir = NULL;
  size_t n = 0;
  const char **names = rp_malloc(map->count + 1, sizeof *names);
  if (!names) return rp_fail_memory(err, (map->count + 1) * sizeof *names, "a list of shards");
  for (const rp_json *e = map->child; e; e = e->next) {
    if (e->type != RP_JSON_STRING || !is_plain_name(e->string)) {
      st = rp_fail(err, RP_BAD_DATA, "%s: tensor \"%.200s\" names no file of this folder", path,
                   e->key);
      goto fail;
    }
    names[n++] = e->string;
  }
  if (n) qsort(names, n, sizeof *names, by_text);
  dir = folder_of(path);
  if (!dir) {
    st = rp_fail_memory(err, strlen(path), "a path");
    goto fail;
  }
  for (size_t i = 0; i < n; i++) {
    if (i && !strcmp(names[i], names[i - 1])) continue;
    rp_free(file);
    file = rp_path_join(dir, names[i]);
    if (!file) {
      st = rp_fail_memory(err, strlen(dir), "a path");
      goto fail;
    }
    RP_GO(rp_safetensors_read(s, t, file, err));
  }
fail:
  rp_free(file);
  rp_free(dir);
  rp_free(names);
  return st;
}

/* The index and the shards name the same tensors. */
static rp_status check_index(rp_table *t, const rp_json *map, const char *path, rp_error *err) {
  RP_TRY(rp_table_sort(t, path, err));
  for (const rp_json *e = map->child; e; e = e->next) {
    if (!rp_table_find(t, e->key))
      return rp_fail(err, RP_BAD_DATA, "%s: tensor \"%.200s\" is not in %s", path, e->key,
                     e->string);
  }
  if (t->n != map->count)
    return rp_fail(err, RP_BAD_DATA, "%s: names %zu tensors, its files hold %zu", path, map->count,
                   t->n);
  return RP_OK;
}

rp_status rp_safetensors_read_index(rp_store *s, rp_table *t, const char *path, rp_error *err) {
  char *text = NULL;
  size_t len = 0;
  rp_json_doc *doc = NULL;
  RP_TRY(rp_file_read(path, most_header, &text, &len, err));
  rp_status st = rp_json_parse(&doc, text, len, path, err);
  const rp_json *root = st ? NULL : rp_json_root(doc);
  const rp_json *map =
      root && root->type == RP_JSON_OBJECT ? rp_json_get(root, "weight_map") : NULL;
  if (!st && (!map || map->type != RP_JSON_OBJECT))
    st = rp_fail(err, RP_BAD_DATA, "%s: has no \"weight_map\"; it is no index of safetensors files",
                 path);
  if (!st) st = read_shards(s, t, map, path, err);
  if (!st) st = check_index(t, map, path, err);
  rp_json_free(doc);
  rp_free(text);
  return st;
}
