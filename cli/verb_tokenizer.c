/* ratplus tokenizer train: a vocabulary learned from text. */
#include <string.h>

#include "cli/text_flags.h"

static int train(const cli_args *a, const rp_text_source *source) {
  rp_tokenizer_train_opts o;
  rp_error err = {0};
  cli_text_progress progress;
  rp_tokenizer_train_defaults(&o);
  o.source = *source;
  o.out = cli_text(a, "out");
  if (!o.out) return cli_fail(RP_USAGE, "where to? give --out FILE.model");
  if (!cli_has(a, "vocab-size"))
    return cli_fail(RP_USAGE,
                    "how large? give --vocab-size N, 32000 as LLaMA's or less for a test");
  const int64_t size = cli_int(a, "vocab-size");
  o.vocab_size = size < 0 || size > INT32_MAX ? -1 : (int)size;
  o.character_coverage = cli_real(a, "character-coverage");
  o.split_digits = !cli_has(a, "keep-digits");
  o.max_bytes = cli_int(a, "max-bytes");
  o.overwrite = cli_has(a, "overwrite");
  o.stop = cli_stop_flag();
  o.progress = cli_text_progress_tell;
  o.progress_ctx = &progress;
  cli_signals_catch();
  cli_text_progress_start(&progress);
  const rp_status st = rp_tokenizer_train(&o, &err);
  cli_progress_end(&progress.bar);
  if (st) return cli_error(&err);
  printf("%s\n", o.out);
  return 0;
}

static int run(const cli_args *a) {
  rp_text_source source;
  int code = cli_text_source(a, &source);
  if (!code) code = train(a, &source);
  cli_text_source_free(&source);
  return code;
}

static const char *const subs[] = {
    "train\tlearn a byte-pair vocabulary with byte fallback from text", NULL};

static const cli_flag flags[] = {
    CLI_FLAGS_TEXT,
    {.name = "out", .type = CLI_TEXT, .value = "FILE", .help = "the model file to write"},
    {.name = "vocab-size",
     .type = CLI_INT,
     .value = "N",
     .help = "pieces in all, the 3 control and 256 byte pieces among them"},
    {.name = "character-coverage",
     .type = CLI_REAL,
     .value = "SHARE",
     .fallback = "0.99995",
     .help = "share of the text's characters that get pieces; the rest is spelled in bytes"},
    {.name = "max-bytes",
     .type = CLI_INT,
     .value = "N",
     .fallback = "268435456",
     .help = "learn from so much text at most, the same share of every file"},
    {.name = "keep-digits", .type = CLI_SWITCH, .help = "let digits join into longer pieces"},
    {.name = "overwrite", .type = CLI_SWITCH, .help = "replace the model file"},
    CLI_FLAGS_END};

const cli_verb cli_verb_tokenizer = {
    .name = "tokenizer",
    .usage = "train --input FILE... --vocab-size N --out FILE.model",
    .summary = "learn a vocabulary from text",
    .detail =
        "Learns a SentencePiece model with LLaMA's settings: byte pairs, byte fallback, every "
        "digit a piece, no normalization; unk 0, BOS 1, EOS 2. The same text gives the same file. "
        "Any tool that reads SentencePiece models reads it.\n"
        "\n"
        "  ratplus tokenizer train --input corpus.jsonl.gz --vocab-size 32000 --out t.model",
    .flags = flags,
    .subs = subs,
    .takes = CLI_TAKES_PLAIN,
    .run = run};
