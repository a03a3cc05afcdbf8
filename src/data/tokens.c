/* tokens.c - token files: mapped, checked against their sidecar, widened as they are read. */
#include <limits.h>
#include <string.h>

#include "base/json.h"
#include "data/loader.h"

enum { SIDECAR_MOST = 1 << 20 };

static rp_status sidecar_int(const rp_json *root, const char *key, const char *path, int64_t *out,
                             rp_error *err) {
  const rp_json *v = rp_json_get(root, key);
  *out = -1;
  if (!v) return RP_OK;
  if (v->type != RP_JSON_INT || v->integer < 0)
    return rp_fail(err, RP_BAD_DATA, "%s: %s is not a whole number; write the file again", path,
                   key);
  *out = v->integer;
  return RP_OK;
}

rp_status rp_sidecar_read(rp_sidecar *s, const char *tokens_path, rp_error *err) {
  rp_status st = RP_OK;
  rp_json_doc *doc = NULL;
  char *text = NULL;
  size_t len = 0;
  rp_str path = {0};
  *s = (rp_sidecar){.num_bytes = -1, .vocab_size = -1, .eos = -1, .tokens = -1};
  rp_str_addf(&path, "%s.json", tokens_path);
  if (path.failed) RP_GO(rp_fail_memory(err, path.cap, "the name of a sidecar"));
  if (!rp_is_file(path.s)) goto fail;
  RP_GO(rp_file_read(path.s, SIDECAR_MOST, &text, &len, err));
  RP_GO(rp_json_parse(&doc, text, len, path.s, err));
  const rp_json *root = rp_json_root(doc);
  if (root->type != RP_JSON_OBJECT)
    RP_GO(rp_fail(err, RP_BAD_DATA, "%s: expected a JSON object that describes %s", path.s,
                  tokens_path));
  RP_GO(sidecar_int(root, "num_bytes", path.s, &s->num_bytes, err));
  RP_GO(sidecar_int(root, "vocab_size", path.s, &s->vocab_size, err));
  RP_GO(sidecar_int(root, "eos", path.s, &s->eos, err));
  RP_GO(sidecar_int(root, "tokens", path.s, &s->tokens, err));
  s->found = true;
fail:
  rp_json_free(doc);
  rp_free(text);
  rp_str_free(&path);
  return st;
}

/* What the caller wants against what the sidecar and the size of the file say. */
static rp_status check_tokens(const rp_tokens *t, const rp_sidecar *s, int V, rp_error *err) {
  if (s->num_bytes >= 0 && s->num_bytes != t->num_bytes)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: num_bytes is %d but %s.json says %lld; set data.num_bytes to that", t->path,
                   t->num_bytes, t->path, (long long)s->num_bytes);
  if (V > 0 && s->vocab_size >= 0 && s->vocab_size != V)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: vocab_size is %d but %s.json says %lld; use the tokenizer's vocabulary "
                   "size, or tokenize again",
                   t->path, V, t->path, (long long)s->vocab_size);
  if (t->map.bytes == 0)
    return rp_fail(err, RP_BAD_DATA, "%s: the file is empty; tokenize again", t->path);
  if (t->map.bytes % (size_t)t->num_bytes)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: %zu bytes are not a whole number of %d-byte ids; the file is cut off or "
                   "num_bytes is wrong",
                   t->path, t->map.bytes, t->num_bytes);
  if (s->tokens >= 0 && s->tokens != t->tokens)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: holds %lld tokens but %s.json says %lld; the file is cut off or was "
                   "changed: tokenize again",
                   t->path, (long long)t->tokens, t->path, (long long)s->tokens);
  return RP_OK;
}

rp_status rp_tokens_open(rp_tokens *t, const char *path, int num_bytes, bool is_signed, int V,
                         rp_error *err) {
  rp_status st = RP_OK;
  rp_sidecar side;
  *t = (rp_tokens){.num_bytes = num_bytes, .is_signed = is_signed};
  if (!path || !*path)
    return rp_fail(err, RP_USAGE, "no token file is named; set data_dir or the path of the file");
  if (rp_is_dir(path))
    return rp_fail(err, RP_BAD_DATA, "%s: is a folder, not a token file; name the file in it",
                   path);
  RP_GO(rp_sidecar_read(&side, path, err));
  if (num_bytes == 0) {
    if (side.num_bytes < 0)
      RP_GO(rp_fail(err, RP_USAGE,
                    "%s: bytes per id unknown, as there is no %s.json; give "
                    "num_bytes",
                    path, path));
    t->num_bytes = side.num_bytes > 4 ? 0 : (int)side.num_bytes;
  }
  if (t->num_bytes != 1 && t->num_bytes != 2 && t->num_bytes != 4)
    RP_GO(rp_fail(err, num_bytes ? RP_USAGE : RP_BAD_DATA,
                  "%s: num_bytes is %lld but must be 1, 2 or 4", path,
                  num_bytes ? (long long)num_bytes : (long long)side.num_bytes));
  t->path = rp_strdup(path);
  if (!t->path) RP_GO(rp_fail_memory(err, strlen(path) + 1, "the name of a token file"));
  RP_GO(rp_map_open(&t->map, path, err));
  t->tokens = (int64_t)(t->map.bytes / (size_t)t->num_bytes);
  RP_GO(check_tokens(t, &side, V, err));
  return RP_OK;
fail:
  rp_tokens_close(t);
  return st;
}

void rp_tokens_close(rp_tokens *t) {
  if (!t) return;
  rp_map_close(&t->map);
  rp_free(t->path);
  *t = (rp_tokens){0};
}

int64_t rp_tokens_id(const rp_tokens *t, int64_t at) {
  const uint8_t *p = t->map.data + (size_t)at * (size_t)t->num_bytes;
  uint32_t v = p[0];
  if (t->num_bytes >= 2) v |= (uint32_t)p[1] << 8;
  if (t->num_bytes == 4) v |= (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
  if (!t->is_signed) return v;
  int64_t half = (int64_t)1 << (8 * t->num_bytes - 1);
  return v >= half ? (int64_t)v - 2 * half : (int64_t)v;
}

static rp_status bad_id(const rp_tokens *t, int64_t at, int64_t id, int32_t lo, int32_t V,
                        rp_error *err) {
  if (V > 0)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: token %lld is %lld, outside %d to %d; the file belongs to another "
                   "vocabulary, or num_bytes (%d) is wrong",
                   t->path, (long long)at, (long long)id, lo, V - 1, t->num_bytes);
  return rp_fail(err, RP_BAD_DATA,
                 "%s: token %lld is %lld, which is no token id; num_bytes (%d) "
                 "may be wrong",
                 t->path, (long long)at, (long long)id, t->num_bytes);
}

rp_status rp_tokens_get(const rp_tokens *t, int64_t from, int64_t n, int32_t lo, int32_t V,
                        int32_t *out, rp_error *err) {
  if (from < 0 || n < 0 || from > t->tokens - n)
    return rp_fail(err, RP_BAD_DATA, "%s: tokens %lld to %lld do not exist, the file holds %lld",
                   t->path, (long long)from, (long long)(from + n - 1), (long long)t->tokens);
  int64_t least = V > 0 ? lo : INT32_MIN;
  int64_t most = V > 0 ? (int64_t)V - 1 : INT32_MAX;
  for (int64_t i = 0; i < n; i++) {
    int64_t id = rp_tokens_id(t, from + i);
    if (id < least || id > most) return bad_id(t, from + i, id, lo, V, err);
    out[i] = (int32_t)id;
  }
  return RP_OK;
}

rp_status rp_tokens_scan(const rp_tokens *t, int64_t from, int64_t n, int32_t lo, int32_t V,
                         rp_error *err) {
  enum { PIECE = 2048, PIECES = 16384 };
  int32_t buf[PIECE];
  if (V <= 0 || n <= 0) return RP_OK;
  if (!t->is_signed && t->num_bytes < 4 && (int64_t)V >= (int64_t)1 << (8 * t->num_bytes))
    return RP_OK;
  int64_t pieces = (n + PIECE - 1) / PIECE;
  int64_t looked = pieces < PIECES ? pieces : PIECES;
  for (int64_t i = 0; i < looked; i++) {
    /* The first and the last piece are always among those looked at. */
    int64_t k = looked < pieces ? (int64_t)((double)i * (double)(pieces - 1) / (PIECES - 1)) : i;
    int64_t at = k * PIECE, left = n - at;
    RP_TRY(rp_tokens_get(t, from + at, left < PIECE ? left : PIECE, lo, V, buf, err));
  }
  return RP_OK;
}
