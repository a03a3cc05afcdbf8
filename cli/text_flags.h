/* text_flags.h - where text comes from: the flags that `tokenizer train` and `tokenize` share. */
#ifndef RATPLUS_CLI_TEXT_FLAGS_H
#define RATPLUS_CLI_TEXT_FLAGS_H

#include "cli/cli.h"
#include "ratplus/text.h"

extern const char *const cli_text_formats[];

#define CLI_FLAGS_TEXT \
  {.name = "input", \
   .letter = 'f', \
   .type = CLI_TEXT, \
   .value = "FILE", \
   .repeat = true, \
   .help = \
       "text to read, plain or JSON lines, also gzip or zstd; - is standard input; further " \
       "files may follow"}, \
      {.name = "format", \
       .type = CLI_TEXT, \
       .value = "FORMAT", \
       .fallback = "auto", \
       .choices = cli_text_formats, \
       .help = "text or jsonl; auto goes by the name: .jsonl, .ndjson and .json, also packed"}, \
      {.name = "field", \
       .type = CLI_TEXT, \
       .value = "NAME", \
       .help = \
           "the key that holds the text of a JSON line, a.b inside an object (default: text); " \
           "given, standard input is JSON lines"}, \
  { \
    .name = "separator", .type = CLI_TEXT, .value = "STRING", \
    .help = \
        "what stands between documents of plain text; \\n \\t \\r \\0 \\\\ \\xHH are understood " \
        "(default: a file is one document)" \
  }

/* The source as the flags say; an exit code, the error printed. Freed by cli_text_source_free. */
int cli_text_source(const cli_args *a, rp_text_source *out);
void cli_text_source_free(rp_text_source *s);

/* The progress callback of both verbs: a bar on a terminal, elsewhere a line now and then. */
typedef struct {
  cli_progress bar;
  double told;
} cli_text_progress;
void cli_text_progress_start(cli_text_progress *p);
int cli_text_progress_tell(void *ctx, const rp_text_progress *p);

#endif
