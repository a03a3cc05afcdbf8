#include "cli/text_flags.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

const char *const cli_text_formats[] = {"auto", "text", "jsonl", NULL};

static int hex(char c) {
  return isdigit((unsigned char)c)    ? c - '0'
         : isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10
                                      : -1;
}

/* Takes the escapes out in place; false for one that is none. */
static bool unescape(char *s, size_t *len) {
  static const char from[] = "ntr0\\", to[] = "\n\t\r\0\\";
  char *out = s;
  for (const char *p = s; *p;) {
    if (*p != '\\') {
      *out++ = *p++;
      continue;
    }
    const char *known = p[1] ? strchr(from, p[1]) : NULL;
    if (known) {
      *out++ = to[known - from];
      p += 2;
    } else if (p[1] == 'x' && p[2] && hex(p[2]) >= 0 && hex(p[3]) >= 0) {
      *out++ = (char)(hex(p[2]) << 4 | hex(p[3]));
      p += 4;
    } else {
      return false;
    }
  }
  *len = (size_t)(out - s);
  return true;
}

static int read_separator(const cli_args *a, rp_text_source *out) {
  const char *text = cli_text(a, "separator");
  if (!text) return 0;
  char *copy = strdup(text);
  if (!copy) return cli_fail(RP_NO_MEMORY, "out of memory reading --separator");
  out->separator = copy;
  if (unescape(copy, &out->separator_len)) return 0;
  return cli_fail(RP_USAGE, "--separator %s: only \\n \\t \\r \\0 \\\\ and \\xHH are understood",
                  text);
}

int cli_text_source(const cli_args *a, rp_text_source *out) {
  size_t n_plain;
  const char *const *plain = cli_plain(a, &n_plain), *format = cli_text(a, "format");
  const size_t n = cli_count(a, "input");
  *out = (rp_text_source){.field = "text"};
  if (n == 0) return cli_fail(RP_USAGE, "which text? give --input FILE, or --input - for a pipe");
  const char **inputs = calloc(n + n_plain, sizeof *inputs);
  if (!inputs) return cli_fail(RP_NO_MEMORY, "out of memory reading --input");
  for (size_t i = 0; i < n; i++) inputs[i] = cli_text_at(a, "input", i);
  for (size_t i = 0; i < n_plain; i++) inputs[n + i] = plain[i];
  out->inputs = inputs;
  out->n = n + n_plain;
  if (cli_has(a, "field")) {
    out->field = cli_text(a, "field");
    out->format = RP_TEXT_JSONL;
  }
  if (strcmp(format, "jsonl") == 0) out->format = RP_TEXT_JSONL;
  if (strcmp(format, "text") == 0) out->format = RP_TEXT_PLAIN;
  if (out->format == RP_TEXT_PLAIN && cli_has(a, "field"))
    return cli_fail(RP_USAGE, "--field is for JSON lines, --format says text; leave one out");
  if (out->format == RP_TEXT_JSONL && cli_has(a, "separator"))
    return cli_fail(RP_USAGE,
                    "--separator is for plain text, JSON lines are a document each; leave it out");
  return read_separator(a, out);
}

void cli_text_source_free(rp_text_source *s) {
  free((void *)(uintptr_t)s->separator);
  free((void *)(uintptr_t)s->inputs);
  *s = (rp_text_source){0};
}

void cli_text_progress_start(cli_text_progress *p) {
  *p = (cli_text_progress){0};
  cli_progress_start(&p->bar);
}

static void count(char out[32], int64_t n) {
  if (n >= 10000000)
    snprintf(out, 32, "%.1fM", (double)n * 1e-6);
  else if (n >= 10000)
    snprintf(out, 32, "%.1fk", (double)n * 1e-3);
  else
    snprintf(out, 32, "%lld", (long long)n);
}

int cli_text_progress_tell(void *ctx, const rp_text_progress *p) {
  cli_text_progress *c = ctx;
  char text[256], tokens[32], rate[32];
  const double s = p->seconds > 0.01 ? p->seconds : 0.01;
  count(tokens, p->tokens);
  count(rate, (int64_t)((double)p->tokens / s));
  if (p->tokens)
    snprintf(text, sizeof text, "%s  %s tokens  %s tokens/s  file %zu of %zu", p->phase, tokens,
             rate, p->input ? p->file + 1 : p->files, p->files);
  else
    snprintf(text, sizeof text, "%s", p->phase);
  if (c->bar.terminal) {
    cli_progress_update(&c->bar, (uint64_t)p->bytes, p->bytes_of > 0 ? (uint64_t)p->bytes_of : 0,
                        text);
  } else if (p->seconds - c->told >= 10) {
    c->told = p->seconds;
    if (p->bytes_of > 0)
      cli_note("%3.0f%%  %s", 100.0 * (double)p->bytes / (double)p->bytes_of, text);
    else
      cli_note("%s", text);
  }
  return 0;
}
