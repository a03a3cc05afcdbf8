#include "fuzz.h"

#include "config/settings.h"

/* Two bytes choose the sizes of a model (1 to 8 layers and kv heads), the rest is a pattern's text.
 * What is a pattern must read back the same from its own text; what is none gets a sentence that a
 * terminal can print. */

static void reads_back(const rp_pats *p) {
  rp_error err = {0};
  rp_pats again;
  char *first = rp_pats_format(p), *second;
  fuzz_hold(first && !rp_pats_parse(&again, first, p->layers, p->kv_heads, &err));
  const size_t n = (size_t)(p->layers * p->kv_heads);
  fuzz_hold(memcmp(again.at, p->at, n * sizeof *p->at) == 0);
  second = rp_pats_format(&again);
  fuzz_hold(second && strcmp(first, second) == 0);
  rp_pats_free(&again);
  rp_free(first);
  rp_free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  rp_error err = {0};
  rp_pats p;
  if (size < 2) return 0;
  char *text = malloc(size - 1);
  if (!text) return 0;
  memcpy(text, data + 2, size - 2);
  text[size - 2] = '\0';
  const rp_status st = rp_pats_parse(&p, text, 1 + (data[0] & 7), 1 + (data[1] & 7), &err);
  if (st) {
    fuzz_hold(err.status == st && (st == RP_USAGE || st == RP_NO_MEMORY) && !p.at);
    fuzz_hold(err.text[0] && strlen(err.text) < 600);
    for (const char *c = err.text; *c; c++) fuzz_hold(*c >= ' ' && *c <= '~');
  } else {
    reads_back(&p);
    rp_pats_free(&p);
  }
  free(text);
  return 0;
}
