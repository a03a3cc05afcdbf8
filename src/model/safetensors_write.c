/* safetensors_write.c - writing .safetensors files, one tensor in memory at a time. */
#include <string.h>

#include "base/json.h"
#include "model/store.h"

enum { DATA_ALIGN = 64 }; /* the data of a file starts here, so that mapped tensors are aligned */

/* A tensor on its way into a file. */
typedef struct {
  const rp_tensor_set *set;
  const rp_param *p;
  rp_dtype dtype;
  uint64_t bytes;
  int file;
} item;

typedef struct {
  item *at;
  int n, files;
  uint64_t bytes, largest;
} plan;

static const char *dtype_tag(rp_dtype t) {
  switch (t) {
    case RP_F32: return "F32";
    case RP_BF16: return "BF16";
    case RP_F64: return "F64";
    case RP_F16: return "F16";
    case RP_I32: return "I32";
    case RP_I64: return "I64";
  }
  return "";
}

static rp_status make_plan(plan *l, const rp_tensor_set *sets, int n, uint64_t shard_bytes,
                           rp_error *err) {
  size_t count = 0;
  uint64_t in_file = 0;
  *l = (plan){.files = 1};
  for (int i = 0; i < n; i++) count += (size_t)sets[i].shape->n;
  l->at = rp_malloc(count + 1, sizeof *l->at);
  if (!l->at) return rp_fail_memory(err, count * sizeof *l->at, "the list of tensors to write");
  for (int i = 0; i < n; i++) {
    const rp_tensor_set *set = &sets[i];
    for (int j = 0; j < set->shape->n; j++) {
      const rp_param *p = &set->shape->p[j];
      const rp_dtype dtype = set->dtypes ? set->dtypes[j] : set->dtype;
      const uint64_t bytes = (uint64_t)(p->rows * p->cols) * (uint64_t)rp_dtype_bytes(dtype);
      if (in_file && bytes > shard_bytes - (in_file < shard_bytes ? in_file : shard_bytes)) {
        l->files++;
        in_file = 0;
      }
      in_file += bytes;
      l->bytes += bytes;
      if (bytes > l->largest) l->largest = bytes;
      l->at[l->n++] = (item){set, p, dtype, bytes, l->files - 1};
    }
  }
  return RP_OK;
}

static void add_name(rp_str *b, const item *it) {
  char name[160];
  rp_snprintf(name, sizeof name, "%s%s", it->set->prefix, it->p->name);
  rp_json_add_string(b, name);
}

static void add_header(rp_str *b, const plan *l, int file) {
  uint64_t at = 0;
  rp_str_add(b, "{\"__metadata__\":{\"format\":\"pt\"}");
  for (int i = 0; i < l->n; i++) {
    const item *it = &l->at[i];
    if (it->file != file) continue;
    rp_str_add(b, ",");
    add_name(b, it);
    rp_str_addf(b, ":{\"dtype\":\"%s\",\"shape\":[%lld", dtype_tag(it->dtype),
                (long long)it->p->rows);
    if (it->p->ndim == 2) rp_str_addf(b, ",%lld", (long long)it->p->cols);
    rp_str_addf(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                (unsigned long long)(at + it->bytes));
    at += it->bytes;
  }
  rp_str_add(b, "}");
  while ((b->len + 8) % DATA_ALIGN && !b->failed) rp_str_add(b, " ");
}

/* A file of another rank: its tensors may have parts here. */
static rp_status take_part(const plan *l, int file, rp_error *err) {
  for (int i = 0; i < l->n; i++) {
    const item *it = &l->at[i];
    if (it->file == file) RP_TRY(it->set->pull(it->set->ctx, it->p, it->dtype, NULL, err));
  }
  return RP_OK;
}

/* Everything of a file but its end: durable and under its name when it is committed. */
static rp_status begin_file(rp_out **out, const char *path, const plan *l, int file, void *scratch,
                            bool alone, rp_error *err) {
  rp_status st = RP_OK;
  rp_out *o = NULL;
  rp_str head = {0};
  uint8_t length[8];
  add_header(&head, l, file);
  if (head.failed) {
    st = rp_fail_memory(err, head.len, "the header of a safetensors file");
    goto fail;
  }
  for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)head.len >> (8 * i));
  st = rp_out_open(&o, path, err);
  if (st) {
    if (!alone) take_part(l, file, NULL); /* the other ranks wait for it */
    goto fail;
  }
  rp_out_write(o, length, sizeof length);
  rp_out_write(o, head.s, head.len);
  for (int i = 0; i < l->n; i++) {
    const item *it = &l->at[i];
    if (it->file != file) continue;
    RP_GO(it->set->pull(it->set->ctx, it->p, it->dtype, scratch, err));
    rp_out_write(o, scratch, (size_t)it->bytes);
  }
  *out = o;
  o = NULL;
fail:
  rp_out_cancel(o);
  rp_str_free(&head);
  return st;
}

/* "dir/model.safetensors" -> "model-00002-of-00005.safetensors", beside it or alone. */
static void add_shard_name(rp_str *b, const char *path, bool with_dir, int file, int files) {
  static const char tail[] = ".safetensors";
  const char *slash = strrchr(path, '/');
  if (!with_dir && slash) path = slash + 1;
  size_t stem = strlen(path);
  if (rp_ends_with(path, tail)) stem -= sizeof tail - 1;
  rp_str_addn(b, path, stem);
  rp_str_addf(b, "-%05d-of-%05d%s", file + 1, files, tail);
}

static rp_status write_index(const char *path, const plan *l, rp_error *err) {
  rp_str b = {0}, name = {0};
  rp_str_addf(&b, "{\n  \"metadata\": {\"total_size\": %llu},\n  \"weight_map\": {\n",
              (unsigned long long)l->bytes);
  for (int i = 0; i < l->n; i++) {
    const item *it = &l->at[i];
    rp_str_clear(&name);
    add_shard_name(&name, path, false, it->file, l->files);
    rp_str_add(&b, "    ");
    add_name(&b, it);
    rp_str_add(&b, ": ");
    if (!name.failed) rp_json_add_string(&b, name.s);
    rp_str_add(&b, i + 1 < l->n ? ",\n" : "\n");
  }
  rp_str_add(&b, "  }\n}\n");
  rp_str_clear(&name);
  rp_str_addf(&name, "%s.index.json", path);
  rp_status st = b.failed || name.failed
                     ? rp_fail_memory(err, b.len, "the index of a sharded model")
                     : rp_file_replace(name.s, b.s, b.len, true, err);
  rp_str_free(&b);
  rp_str_free(&name);
  return st;
}

/* With several ranks about a file each, so that they write at the same time. */
static rp_status plan_of(plan *l, const rp_writing *w, rp_error *err) {
  uint64_t most = w->shard_bytes ? w->shard_bytes : UINT64_C(5000000000);
  RP_TRY(make_plan(l, w->sets, w->n, most, err));
  if (w->ranks <= 1) return RP_OK;
  const uint64_t each = l->bytes / (uint64_t)w->ranks + 1;
  if (each < most) most = each;
  rp_free(l->at);
  return make_plan(l, w->sets, w->n, most, err);
}

/* Files are begun one after another, since their tensors may be gathered from all ranks, and made
 * durable at the end, by all ranks at once. */
static rp_status write_own(const rp_writing *w, const plan *l, rp_out **outs, void *scratch,
                           rp_error *err) {
  rp_status st = RP_OK, bad = RP_OK;
  rp_str name = {0};
  for (int i = 0; i < l->files; i++) {
    if (i % w->ranks != w->rank) {
      RP_GO(take_part(l, i, bad ? NULL : err));
      continue;
    }
    rp_str_clear(&name);
    if (l->files == 1)
      rp_str_add(&name, w->path);
    else
      add_shard_name(&name, w->path, true, i, l->files);
    if (name.failed) RP_GO(rp_fail_memory(err, strlen(w->path), "a path"));
    st = begin_file(&outs[i], name.s, l, i, scratch, w->ranks == 1, bad ? NULL : err);
    if (st && !bad) bad = st;
  }
  RP_GO(bad);
  for (int i = 0; i < l->files; i++) {
    rp_out *o = outs[i];
    outs[i] = NULL;
    if (o) RP_GO(rp_out_commit(o, err));
  }
fail:
  rp_str_free(&name);
  return st;
}

rp_status rp_safetensors_write_part(const rp_writing *w, rp_error *err) {
  rp_status st = RP_OK;
  void *scratch = NULL;
  rp_out **outs = NULL;
  plan l;
  RP_GO(plan_of(&l, w, err));
  scratch = rp_malloc((size_t)l.largest + 1, 1);
  outs = rp_calloc((size_t)l.files, sizeof *outs);
  if (!scratch || !outs)
    RP_GO(rp_fail_memory(err, (size_t)l.largest, "the largest tensor to write"));
  st = write_own(w, &l, outs, scratch, err);
fail:
  for (int i = 0; outs && i < l.files; i++) rp_out_cancel(outs[i]);
  rp_free(outs);
  rp_free(scratch);
  rp_free(l.at);
  return st;
}

rp_status rp_safetensors_write_index(const rp_writing *w, rp_error *err) {
  plan l;
  rp_status st = plan_of(&l, w, err);
  if (!st && l.files > 1) st = write_index(w->path, &l, err);
  rp_free(l.at);
  return st;
}

rp_status rp_safetensors_write_sets(const char *path, const rp_tensor_set *sets, int n,
                                    uint64_t shard_bytes, rp_error *err) {
  const rp_writing w = {path, sets, n, shard_bytes, 0, 1};
  RP_TRY(rp_safetensors_write_part(&w, err));
  return rp_safetensors_write_index(&w, err);
}

rp_status rp_safetensors_write(const char *path, const rp_shape *shape, rp_dtype dtype,
                               const char *prefix, uint64_t shard_bytes, rp_pull pull, void *ctx,
                               rp_error *err) {
  const rp_tensor_set set = {
      .shape = shape, .prefix = prefix, .dtype = dtype, .pull = pull, .ctx = ctx};
  return rp_safetensors_write_sets(path, &set, 1, shard_bytes, err);
}
