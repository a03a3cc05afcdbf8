#include "fuzz.h"

#include "base/json.h"
#include "text/jsonl.h"

/* What the strict reader of whole documents takes, the reader of one field takes too, and both find
 * the same text. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  rp_error err = {0};
  rp_str out = {0};
  rp_json_doc *doc = NULL;
  const char *line = (const char *)data;
  const rp_status st = rp_jsonl_text(line, size, "text", &out, &err);
  fuzz_hold(st == RP_OK || (st == RP_BAD_DATA && err.text[0]));
  if (!rp_json_parse(&doc, line, size, "line", NULL)) {
    const rp_json *root = rp_json_root(doc);
    const rp_json *v = root->type == RP_JSON_OBJECT ? rp_json_get(root, "text") : NULL;
    if (v && v->type == RP_JSON_STRING) {
      fuzz_hold(st == RP_OK && out.len == v->len);
      fuzz_hold(v->len == 0 || memcmp(out.s, v->string, v->len) == 0);
    } else {
      fuzz_hold(st != RP_OK || (v && v->type == RP_JSON_NULL && out.len == 0));
    }
  }
  rp_json_free(doc);
  rp_str_clear(&out);
  (void)rp_jsonl_text(line, size, "a.b", &out, &err);
  rp_str_free(&out);
  return 0;
}
