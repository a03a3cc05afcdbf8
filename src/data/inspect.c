/* inspect.c - what a token file holds, for people. */
#include <string.h>

#include "base/json.h"
#include "data/loader.h"
#include "ratplus/text.h"

/* The sidecar's hash of the tokenizer, "" without one. */
static rp_status read_hash(const char *path, char out[65], rp_error *err) {
  rp_str name = {0};
  char *text = NULL;
  size_t len = 0;
  rp_json_doc *doc = NULL;
  rp_status st = RP_OK;
  out[0] = '\0';
  rp_str_addf(&name, "%s.json", path);
  if (name.failed) RP_GO(rp_fail_memory(err, strlen(path), "a path"));
  if (!rp_is_file(name.s)) goto fail;
  RP_GO(rp_file_read(name.s, 1 << 20, &text, &len, err));
  RP_GO(rp_json_parse(&doc, text, len, name.s, err));
  const rp_json *v = rp_json_get(rp_json_root(doc), "tokenizer_sha256");
  if (v && v->type == RP_JSON_STRING && v->len == 64) memcpy(out, v->string, 65);
fail:
  rp_json_free(doc);
  rp_free(text);
  rp_str_free(&name);
  return st;
}

rp_status rp_tokens_inspect(const char *path, int num_bytes, rp_tokens_report *out, rp_error *err) {
  rp_tokens t;
  rp_sidecar side;
  rp_tokens_report r = {.num_bytes_known = 1, .eos = 2, .vocab_size = -1, .max_id = -1};
  RP_TRY(rp_sidecar_read(&side, path, err));
  RP_TRY(read_hash(path, r.tokenizer_sha256, err));
  if (num_bytes == 0 && side.num_bytes < 0) {
    num_bytes = 2;
    r.num_bytes_known = 0;
  }
  RP_TRY(rp_tokens_open(&t, path, num_bytes, false, 0, err));
  if (side.eos >= 0 && side.eos <= INT32_MAX) r.eos = (int)side.eos;
  r.vocab_size = side.vocab_size;
  r.bytes = (int64_t)t.map.bytes;
  r.tokens = t.tokens;
  r.num_bytes = t.num_bytes;
  for (int64_t i = 0; i < t.tokens; i++) {
    const int64_t id = rp_tokens_id(&t, i);
    if (id > r.max_id) r.max_id = id;
    r.eos_count += id == r.eos;
  }
  rp_tokens_close(&t);
  r.size = out->size < sizeof r ? out->size : sizeof r;
  memcpy(out, &r, r.size);
  return RP_OK;
}

static void add_json(rp_str *b, const char *path, const rp_tokens_report *r) {
  rp_str_add(b, "{\"path\": ");
  rp_json_add_string(b, path);
  rp_str_addf(b, ", \"kind\": \"tokens\", \"bytes\": %lld, \"tokens\": %lld, \"num_bytes\": %d",
              (long long)r->bytes, (long long)r->tokens, r->num_bytes);
  rp_str_addf(b, ", \"max_id\": %lld, \"eos\": %d, \"eos_count\": %lld", (long long)r->max_id,
              r->eos, (long long)r->eos_count);
  if (r->vocab_size >= 0) rp_str_addf(b, ", \"vocab_size\": %lld", (long long)r->vocab_size);
  if (r->tokenizer_sha256[0]) {
    rp_str_add(b, ", \"tokenizer_sha256\": ");
    rp_json_add_string(b, r->tokenizer_sha256);
  }
  rp_str_add(b, "}\n");
}

static void add_text(rp_str *b, const char *path, const rp_tokens_report *r) {
  char size[32];
  rp_format_bytes(size, (double)r->bytes);
  rp_str_addf(b, "%s: a token file\n", path);
  rp_str_addf(b, "  tokens        %lld (%s, %d byte%s an id%s)\n", (long long)r->tokens, size,
              r->num_bytes, r->num_bytes > 1 ? "s" : "",
              r->num_bytes_known ? "" : " assumed: it has no .json beside it");
  rp_str_addf(b, "  EOS (id %d)    %lld", r->eos, (long long)r->eos_count);
  if (r->eos_count) rp_str_addf(b, ", one in %lld tokens", (long long)(r->tokens / r->eos_count));
  rp_str_addf(b, "\n  largest id    %lld\n", (long long)r->max_id);
  if (r->vocab_size >= 0) rp_str_addf(b, "  vocabulary    %lld\n", (long long)r->vocab_size);
  if (r->tokenizer_sha256[0]) rp_str_addf(b, "  tokenizer     sha256 %s\n", r->tokenizer_sha256);
}

rp_status rp_tokens_info(const char *path, int num_bytes, int as_json, char **text, rp_error *err) {
  rp_tokens_report r = {.size = sizeof r};
  rp_str b = {0};
  *text = NULL;
  RP_TRY(rp_tokens_inspect(path, num_bytes, &r, err));
  (as_json ? add_json : add_text)(&b, path, &r);
  const size_t len = b.len;
  *text = rp_str_take(&b);
  return *text ? RP_OK : rp_fail_memory(err, len, "a report");
}
