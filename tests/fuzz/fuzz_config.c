#include "fuzz.h"

#include "config/compose.h"
#include "config/settings.h"

/* The input is a YAML file; below a line "%%" (if there is one) each line is a word laid over it. What
 * composes is printed and read again, and must print the same. */

#define WORDS_MOST 16

static size_t split_words(char *text, const char **words) {
  size_t n = 0;
  char *p = strstr(text, "\n%%\n");
  if (!p) return 0;
  *p = '\0';
  for (p += 4; *p && n < WORDS_MOST; n++) {
    words[n] = p;
    p += strcspn(p, "\n");
    if (*p) *p++ = '\0';
  }
  return n;
}

static void print_and_read_again(const rp_config *c, bool json) {
  rp_error err = {0};
  rp_config *again = NULL;
  char *first = NULL, *second = NULL;
  rp_status (*const print)(const rp_config *, char **, rp_error *) =
      json ? rp_config_json : rp_config_yaml;
  fuzz_hold(!print(c, &first, &err));
  rp_status st = rp_config_from_text(&again, first, strlen(first), json ? "x.json" : "x.yaml", NULL,
                                     0, false, &err);
  /* A text that looks like ${...} or ??? once resolved does not read back, nor two keys that print
   * alike (1 and "1"); everything else must. */
  if (!st) {
    fuzz_hold(!print(again, &second, &err));
    fuzz_hold(strcmp(first, second) == 0);
  } else {
    fuzz_hold(err.text[0]);
  }
  rp_config_free(again);
  rp_free(first);
  rp_free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  rp_error err = {0};
  rp_config *c = NULL;
  const char *words[WORDS_MOST];
  char *text = malloc(size + 1);
  if (!text) return 0;
  if (size) memcpy(text, data, size);
  text[size] = '\0';
  const size_t n = split_words(text, words);
  const size_t len = n || strlen(text) < size ? strlen(text) : size;
  if (rp_config_from_text(&c, text, len, "input.yaml", words, n, false, &err)) {
    fuzz_hold(err.status != RP_OK && err.text[0] && !c);
  } else {
    rp_settings s;
    rp_model_settings m;
    print_and_read_again(c, true);
    print_and_read_again(c, false);
    if (!rp_settings_read(&s, c, 1, &err)) rp_settings_free(&s);
    if (!rp_model_settings_read(&m, c, &err)) rp_model_settings_free(&m);
  }
  rp_config_free(c);
  free(text);
  return 0;
}
