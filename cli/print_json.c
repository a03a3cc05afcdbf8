/* JSON on stdout, for verbs that print rows of their own. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

void cli_json_text(const char *s, size_t n) {
  putchar('"');
  for (size_t i = 0; i < n; i++) {
    const unsigned char c = (unsigned char)s[i];
    if (c == '"' || c == '\\')
      printf("\\%c", c);
    else if (c < 32)
      printf("\\u%04x", c);
    else
      putchar(c);
  }
  putchar('"');
}

void cli_json_string(const char *s) { cli_json_text(s, strlen(s)); }

void cli_json_real(const char *name, double x) {
  if (isfinite(x)) printf(",\"%s\":%.9g", name, x);
}
