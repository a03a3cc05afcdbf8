/* ratplus tokenize: text to token files. */
#include <string.h>

#include "cli/text_flags.h"

static void print_json(const rp_tokenize_opts *o, const rp_tokenize_result *r) {
  printf("{\"train_tokens\": %lld, \"val_tokens\": %lld, \"num_bytes\": %d, \"vocab_size\": %d",
         (long long)r->train_tokens, (long long)r->val_tokens, r->num_bytes, r->vocab_size);
  if (r->was_complete) {
    printf(", \"was_complete\": true}\n");
    return;
  }
  printf(", \"documents\": %lld, \"empty\": %lld, \"invalid_utf8\": %lld, \"text_bytes\": %lld",
         (long long)r->documents, (long long)r->empty, (long long)r->invalid_utf8,
         (long long)r->text_bytes);
  printf(", \"parts\": %lld, \"parts_reused\": %lld, \"shuffled\": %s, \"was_complete\": false",
         (long long)r->parts, (long long)r->parts_reused, o->shuffle ? "true" : "false");
  printf(", \"seconds\": %.3f}\n", r->seconds);
}

static void print_text(const rp_tokenize_opts *o, const rp_tokenize_result *r) {
  printf("%s/train.bin  %lld tokens, %d byte%s an id\n", o->out, (long long)r->train_tokens,
         r->num_bytes, r->num_bytes > 1 ? "s" : "");
  if (r->val_tokens) printf("%s/val.bin  %lld tokens\n", o->out, (long long)r->val_tokens);
  if (r->was_complete) {
    printf("complete already, from the same text and settings\n");
    return;
  }
  const double tokens = (double)(r->train_tokens + r->val_tokens);
  printf("%lld documents, %.2f bytes a token", (long long)r->documents,
         (double)r->text_bytes / tokens);
  if (r->empty) printf(", %lld empty ones left out", (long long)r->empty);
  if (r->invalid_utf8) printf(", %lld with bytes that are not UTF-8", (long long)r->invalid_utf8);
  if (r->parts_reused)
    printf(", %lld of %lld files done before", (long long)r->parts_reused, (long long)r->parts);
  printf("; %.1f s, %.0f tokens/s\n", r->seconds,
         (double)r->tokens_now / (r->seconds > 0 ? r->seconds : 1e-9));
}

static int tokenize(const cli_args *a, const rp_text_source *source) {
  rp_tokenize_opts o;
  rp_tokenize_result r = {.size = sizeof r};
  rp_error err = {0};
  cli_text_progress progress;
  rp_tokenize_defaults(&o);
  o.source = *source;
  o.tokenizer = cli_text(a, "tokenizer");
  o.out = cli_text(a, "out");
  if (!o.tokenizer) return cli_fail(RP_USAGE, "which vocabulary? give --tokenizer FILE.model");
  if (!o.out) return cli_fail(RP_USAGE, "where to? give --out DIR");
  const int64_t bytes = cli_int(a, "num-bytes");
  o.num_bytes = bytes < 0 || bytes > 8 || (bytes == 0 && cli_has(a, "num-bytes")) ? 8 : (int)bytes;
  o.val_share = cli_real(a, "val-share");
  o.val_tokens = cli_int(a, "val-tokens");
  o.shuffle = cli_has(a, "shuffle-seed");
  o.shuffle_seed = (uint64_t)cli_int(a, "shuffle-seed");
  o.bos = cli_has(a, "bos");
  o.eos = !cli_has(a, "no-eos");
  o.overwrite = cli_has(a, "overwrite");
  o.stop = cli_stop_flag();
  o.progress = cli_text_progress_tell;
  o.progress_ctx = &progress;
  cli_signals_catch();
  cli_text_progress_start(&progress);
  const rp_status st = rp_tokenize(&o, &r, &err);
  cli_progress_end(&progress.bar);
  if (st) return cli_error(&err);
  (cli_has(a, "json") ? print_json : print_text)(&o, &r);
  return 0;
}

static int run(const cli_args *a) {
  rp_text_source source;
  int code = cli_use_threads(a);
  if (code) return code;
  code = cli_text_source(a, &source);
  if (!code) code = tokenize(a, &source);
  cli_text_source_free(&source);
  return code;
}

static const cli_flag flags[] = {
    CLI_FLAG_TOKENIZER,
    CLI_FLAGS_TEXT,
    {.name = "out",
     .type = CLI_TEXT,
     .value = "DIR",
     .help = "the folder for train.bin, val.bin and a .json beside each"},
    {.name = "num-bytes",
     .type = CLI_INT,
     .value = "N",
     .help = "bytes an id: 1, 2 or 4 (default: the fewest that hold the vocabulary)"},
    {.name = "val-share",
     .type = CLI_REAL,
     .value = "SHARE",
     .help = "hold this share of the tokens out as val.bin: the last documents"},
    {.name = "val-tokens",
     .type = CLI_INT,
     .value = "N",
     .help = "hold at least so many tokens out instead"},
    {.name = "shuffle-seed",
     .type = CLI_INT,
     .value = "N",
     .help = "put the documents in the order of this seed (default: as they come)"},
    {.name = "bos", .type = CLI_SWITCH, .help = "begin each document with BOS"},
    {.name = "no-eos", .type = CLI_SWITCH, .help = "do not end documents with EOS"},
    {.name = "overwrite", .type = CLI_SWITCH, .help = "replace files made from something else"},
    CLI_FLAG_THREADS,
    CLI_FLAG_JSON,
    CLI_FLAGS_END};

const cli_verb cli_verb_tokenize = {
    .name = "tokenize",
    .usage = "--tokenizer FILE.model --input FILE... --out DIR",
    .summary = "turn text into token files",
    .detail =
        "Writes DIR/train.bin, and DIR/val.bin where something is held out: the ids of all "
        "documents joined, each ended by EOS, as little-endian integers without a header; beside "
        "each a .json that says what it is. Documents of white space alone are left out.\n"
        "\n"
        "Every input file becomes a part in DIR/tokenize.parts first. Interrupted, the same "
        "command goes on after the last finished part. The result depends neither on --threads nor "
        "on interruptions.\n"
        "\n"
        "  ratplus tokenize --tokenizer t.model --input fineweb/*.jsonl.zst --val-tokens 10000000 "
        "--shuffle-seed 1 --out data",
    .flags = flags,
    .takes = CLI_TAKES_PLAIN,
    .run = run};
