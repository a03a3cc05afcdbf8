/* tokenizer.c - the public face of a tokenizer. */
#include <string.h>

#include "base/file.h"
#include "ratplus/text.h"
#include "text/encoder.h"
#include "text/model_spec.h"
#include "text/sha256.h"

enum { MODEL_MOST = 256 << 20 };
static const char space_mark[] = "\xe2\x96\x81"; /* U+2581, a space in pieces */

/* Where texts may be cut; see encoder.h for why each condition is there. */
static rp_cuts find_cuts(const rp_spm *m, const rp_model_spec *spec) {
  rp_cuts cuts = {false, false};
  if (!spec->bpe || !spec->byte_fallback || spec->charsmap || spec->remove_extra_spaces ||
      !spec->escape_spaces)
    return cuts;
  cuts = (rp_cuts){true, true};
  for (int id = 0; id < rp_spm_size(m); id++) {
    size_t n;
    const char *s = rp_spm_piece(m, id, &n);
    if (rp_spm_is_control(m, id) || rp_spm_is_byte(m, id) || id == rp_spm_unk(m)) continue;
    if (n > 1 && memchr(s, '\n', n)) cuts.newlines = false;
    while (n >= 3 && memcmp(s, space_mark, 3) == 0) s += 3, n -= 3;
    if (memmem(s, n, space_mark, 3) || memchr(s, ' ', n)) cuts.spaces = false;
  }
  return cuts;
}

static void add_piece(const rp_tokenizer *t, int id, rp_str *out) {
  size_t n;
  const char *s = rp_spm_piece(t->whole, id, &n);
  if (rp_spm_is_control(t->whole, id)) return;
  if (rp_spm_is_byte(t->whole, id)) { /* <0x0A> */
    static const char digits[] = "0123456789ABCDEF";
    const char *a = n == 6 ? strchr(digits, s[3]) : NULL, *b = n == 6 ? strchr(digits, s[4]) : NULL;
    char c = a && b ? (char)((a - digits) << 4 | (b - digits)) : '?';
    rp_str_addn(out, &c, 1);
    return;
  }
  if (id == t->unk) {
    rp_str_add(out, " \xe2\x81\x87 "); /* as SentencePiece shows it */
    return;
  }
  for (const char *m; (m = memmem(s, n, space_mark, 3)) != NULL;) {
    rp_str_addn(out, s, (size_t)(m - s));
    rp_str_addn(out, " ", 1);
    n -= (size_t)(m - s) + 3;
    s = m + 3;
  }
  rp_str_addn(out, s, n);
}

static rp_status make_bytes(rp_tokenizer *t, rp_error *err) {
  rp_str all = {0};
  t->bytes_at = rp_calloc((size_t)t->size + 1, sizeof *t->bytes_at);
  if (!t->bytes_at) return rp_fail_memory(err, sizeof *t->bytes_at * (size_t)t->size, "pieces");
  for (int id = 0; id < t->size; id++) {
    add_piece(t, id, &all);
    t->bytes_at[id + 1] = all.len;
  }
  const size_t len = all.len;
  t->bytes = rp_str_take(&all);
  return t->bytes ? RP_OK : rp_fail_memory(err, len, "pieces");
}

static rp_status list_controls(rp_tokenizer *t, rp_error *err) {
  int n = 0;
  for (int id = 0; id < t->size; id++) n += rp_spm_is_control(t->whole, id);
  t->controls = rp_malloc((size_t)n + 1, sizeof *t->controls);
  if (!t->controls) return rp_fail_memory(err, (size_t)n * sizeof *t->controls, "control pieces");
  for (int id = 0; id < t->size; id++)
    if (rp_spm_is_control(t->whole, id)) t->controls[t->n_controls++] = id;
  return RP_OK;
}

static rp_status load(rp_tokenizer *t, const char *proto, size_t len, const char *path,
                      rp_error *err) {
  rp_status st = RP_OK;
  rp_model_spec spec;
  rp_str bare = {0};
  rp_sha256 sha;
  RP_TRY(rp_spm_open(&t->whole, proto, len, path, err));
  if (!rp_model_spec_read(&spec, proto, len) || !rp_model_spec_bare(proto, len, &bare))
    RP_GO(bare.failed ? rp_fail_memory(err, len, "a tokenizer")
                      : rp_fail(err, RP_BAD_DATA, "%s: not a SentencePiece model", path));
  RP_GO(rp_spm_open(&t->rest, bare.s, bare.len, path, err));
  t->size = rp_spm_size(t->whole);
  t->unk = rp_spm_unk(t->whole);
  t->bos = rp_spm_bos(t->whole);
  t->eos = rp_spm_eos(t->whole);
  t->prefix = spec.dummy_prefix;
  if (t->size < 1) RP_GO(rp_fail(err, RP_BAD_DATA, "%s: a model without pieces", path));
  t->cuts = find_cuts(t->whole, &spec);
  rp_sha256_init(&sha);
  rp_sha256_add(&sha, proto, len);
  rp_sha256_hex(&sha, t->sha256);
  RP_GO(list_controls(t, err));
  RP_GO(make_bytes(t, err));
fail:
  rp_str_free(&bare);
  return st;
}

rp_status rp_tokenizer_load(rp_tokenizer **out, const char *proto, size_t len, const char *name,
                            rp_error *err) {
  *out = NULL;
  rp_tokenizer *t = rp_calloc(1, sizeof *t);
  if (!t) return rp_fail_memory(err, sizeof *t, "a tokenizer");
  const rp_status st = load(t, proto, len, name, err);
  if (st)
    rp_tokenizer_close(t);
  else
    *out = t;
  return st;
}

rp_status rp_tokenizer_open(rp_tokenizer **out, const char *path, rp_error *err) {
  rp_status st = RP_OK;
  char *joined = NULL, *proto = NULL;
  size_t len = 0;
  *out = NULL;
  if (!path || !*path)
    return rp_fail(err, RP_USAGE, "no tokenizer is named; give --tokenizer FILE.model");
  if (rp_is_dir(path)) {
    joined = rp_path_join(path, "tokenizer.model");
    if (!joined) RP_GO(rp_fail_memory(err, strlen(path) + 16, "a path"));
    if (!rp_exists(joined))
      RP_GO(rp_fail(err, RP_USAGE,
                    "%s: there is no tokenizer.model in this folder; give "
                    "--tokenizer FILE.model",
                    path));
    path = joined;
  }
  RP_GO(rp_file_read(path, MODEL_MOST, &proto, &len, err));
  RP_GO(rp_tokenizer_load(out, proto, len, path, err));
fail:
  rp_free(joined);
  rp_free(proto);
  return st;
}

void rp_tokenizer_close(rp_tokenizer *t) {
  if (!t) return;
  rp_spm_close(t->whole);
  rp_spm_close(t->rest);
  rp_free(t->bytes);
  rp_free(t->bytes_at);
  rp_free(t->controls);
  rp_free(t);
}

int rp_tokenizer_vocab_size(const rp_tokenizer *t) { return t->size; }
int rp_tokenizer_bos(const rp_tokenizer *t) { return t->bos; }
int rp_tokenizer_eos(const rp_tokenizer *t) { return t->eos; }
int rp_tokenizer_unk(const rp_tokenizer *t) { return t->unk; }
const char *rp_tokenizer_sha256(const rp_tokenizer *t) { return t->sha256; }

static rp_status add_special(int id, const char *name, rp_ids *ids, rp_error *err) {
  if (id < 0) return rp_fail(err, RP_USAGE, "the tokenizer has no %s; leave that flag out", name);
  RP_TRY(rp_grow(&ids->id, &ids->cap, ids->n + 1, sizeof *ids->id, "token ids", err));
  ids->id[ids->n++] = id;
  return RP_OK;
}

/* The longest control piece that s[0, len) begins with, -1 for none; *n becomes its bytes. */
static int control_at(const rp_tokenizer *t, const char *s, size_t len, size_t *n) {
  int found = -1;
  *n = 0;
  for (int i = 0; i < t->n_controls; i++) {
    size_t k;
    const char *piece = rp_spm_piece(t->whole, t->controls[i], &k);
    if (k <= *n || k > len || memcmp(s, piece, k) != 0) continue;
    found = t->controls[i];
    *n = k;
  }
  return found;
}

/* Appends the ids of a text in which control pieces count. */
static rp_status encode_special(const rp_tokenizer *t, const rp_spm *first, const char *text,
                                size_t len, rp_ids *ids, rp_error *err) {
  size_t from = 0;
  for (size_t at = 0; at < len;) {
    size_t n;
    const int id = control_at(t, text + at, len - at, &n);
    if (id < 0) {
      at++;
      continue;
    }
    if (at > from) RP_TRY(rp_spm_encode(from ? t->whole : first, text + from, at - from, ids, err));
    RP_TRY(add_special(id, "piece", ids, err));
    from = at += n;
  }
  if (len > from) return rp_spm_encode(from ? t->whole : first, text + from, len - from, ids, err);
  return RP_OK;
}

rp_status rp_tokenizer_encode(const rp_tokenizer *t, const char *text, size_t len, int flags,
                              int32_t **out, size_t *n, rp_error *err) {
  rp_status st = RP_OK;
  rp_ids ids = {0};
  *out = NULL;
  *n = 0;
  RP_GO(rp_grow(&ids.id, &ids.cap, 1, sizeof *ids.id, "token ids", err));
  if (flags & RP_ENCODE_BOS) RP_GO(add_special(t->bos, "BOS", &ids, err));
  const rp_spm *spm = flags & RP_ENCODE_CONTINUED ? t->rest : t->whole;
  if (flags & RP_ENCODE_SPECIAL)
    RP_GO(encode_special(t, spm, text, len, &ids, err));
  else
    RP_GO(rp_spm_encode(spm, text, len, &ids, err));
  if (flags & RP_ENCODE_EOS) RP_GO(add_special(t->eos, "EOS", &ids, err));
  *out = ids.id;
  *n = ids.n;
  return RP_OK;
fail:
  rp_free(ids.id);
  return st;
}

rp_status rp_tokenizer_decode(const rp_tokenizer *t, const int32_t *ids, size_t n, char **text,
                              size_t *len, rp_error *err) {
  *text = NULL;
  for (size_t i = 0; i < n; i++)
    if (ids[i] < 0 || ids[i] >= t->size)
      return rp_fail(err, RP_BAD_DATA, "id %d at position %zu is outside the vocabulary of %d",
                     ids[i], i, t->size);
  return rp_spm_decode(t->whole, ids, n, text, len, err);
}

const char *rp_tokenizer_bytes(const rp_tokenizer *t, int32_t id, size_t *len) {
  *len = 0;
  if (id < 0 || id >= t->size) return NULL;
  *len = t->bytes_at[id + 1] - t->bytes_at[id];
  return t->bytes + t->bytes_at[id];
}
