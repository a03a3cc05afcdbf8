#include "fuzz.h"

#include "base/json.h"

static void write_value(rp_str *b, const rp_json *v) {
  if (v->key) {
    rp_json_add_string(b, v->key);
    rp_str_add(b, ":");
  }
  switch (v->type) {
    case RP_JSON_NULL: rp_str_add(b, "null"); break;
    case RP_JSON_BOOL: rp_str_add(b, v->integer ? "true" : "false"); break;
    case RP_JSON_INT: rp_str_addf(b, "%lld", (long long)v->integer); break;
    case RP_JSON_REAL: rp_json_add_real(b, v->real); break;
    case RP_JSON_STRING: rp_json_add_string(b, v->string); break;
    case RP_JSON_ARRAY:
    case RP_JSON_OBJECT:
      rp_str_add(b, v->type == RP_JSON_ARRAY ? "[" : "{");
      for (const rp_json *c = v->child; c; c = c->next) {
        write_value(b, c);
        if (c->next) rp_str_add(b, ",");
      }
      rp_str_add(b, v->type == RP_JSON_ARRAY ? "]" : "}");
  }
}

/* What was read, written and read again, is written the same. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  rp_error err = {0};
  rp_json_doc *first = NULL, *second = NULL;
  rp_str a = {0}, b = {0};
  if (rp_json_parse(&first, (const char *)data, size, "input", &err)) {
    fuzz_hold(err.status != RP_OK && err.text[0]);
    return 0;
  }
  write_value(&a, rp_json_root(first));
  fuzz_hold(!a.failed);
  fuzz_hold(!rp_json_parse(&second, a.s, a.len, "output", &err));
  write_value(&b, rp_json_root(second));
  fuzz_hold(strcmp(a.s, b.s) == 0);
  rp_str_free(&a);
  rp_str_free(&b);
  rp_json_free(first);
  rp_json_free(second);
  return 0;
}
