/* ratplus info: what lies at a path, and what a run would take. */
#include <string.h>

#include "cli/cli.h"
#include "cli/info_runs.h"
#include "ratplus/info.h"
#include "ratplus/results.h"
#include "ratplus/text.h"

static int info_model(const cli_args *a, const char *path) {
  rp_error err = {0};
  char *text;
  size_t n;
  const char *const *words = cli_words(a, &n);
  if (rp_model_info(path, words, n, cli_has(a, "json"), &text, &err)) return cli_error(&err);
  fputs(text, stdout);
  rp_free(text);
  return 0;
}

static int info_tokens(const cli_args *a, const char *path) {
  rp_error err = {0};
  char *text;
  if (rp_tokens_info(path, (int)cli_int(a, "num-bytes"), cli_has(a, "json"), &text, &err))
    return cli_error(&err);
  fputs(text, stdout);
  rp_free(text);
  return 0;
}

static int info_machine(const cli_args *a) {
  rp_error err = {0};
  char *text;
  const int code = cli_use_threads(a);
  if (code) return code;
  if (rp_info_machine(cli_has(a, "json"), &text, &err)) return cli_error(&err);
  fputs(text, stdout);
  rp_free(text);
  return 0;
}

static int info_path(const cli_args *a, const char *path) {
  switch (rp_path_look(path)) {
    case RP_PATH_MODEL: return info_model(a, path);
    case RP_PATH_TOKENS: return info_tokens(a, path);
    case RP_PATH_RUN: return cli_info_runs(&path, 1, cli_has(a, "json"), NULL);
    case RP_PATH_NOTHING: return cli_fail(RP_BAD_DATA, "%s: no such file or directory", path);
    case RP_PATH_OTHER: break;
  }
  return cli_fail(RP_BAD_DATA,
                  "%s: neither a model, a checkpoint, a run directory nor a token file", path);
}

static int info_results(const cli_args *a, const char *const *paths, size_t n) {
  rp_error err = {0};
  char *text;
  if (rp_results_table(paths, n, cli_text(a, "svg"), &text, &err)) return cli_error(&err);
  fputs(text, stdout);
  rp_free(text);
  return 0;
}

static int info_pattern(const cli_args *a, size_t paths) {
  rp_error err = {0};
  if (paths) return cli_fail(RP_USAGE, "info takes either paths or --pattern, not both");
  for (size_t i = 0; i < cli_count(a, "pattern"); i++) {
    char *text;
    if (rp_pattern_info(cli_text_at(a, "pattern", i), cli_int(a, "seq-len"),
                        (int)cli_int(a, "layers"), (int)cli_int(a, "kv-heads"), cli_has(a, "json"),
                        &text, &err))
      return cli_error(&err);
    fputs(text, stdout);
    rp_free(text);
  }
  return 0;
}

static int run(const cli_args *a) {
  size_t n, n_words;
  const char *const *plain = cli_plain(a, &n);
  const char *const *words = cli_words(a, &n_words);
  bool experiment = false;
  for (size_t i = 0; i < n_words; i++)
    if (!strncmp(words[i], "experiment=", 11)) experiment = true;
  if (experiment && n) {
    return cli_fail(RP_USAGE, "info takes either paths or experiment=NAME, not both");
  }
  if (experiment || cli_has(a, "config"))
    return cli_info_plan(a, cli_has(a, "json"), (int)cli_int(a, "ranks"));
  if (cli_has(a, "pattern")) return info_pattern(a, n);
  if (!n)
    return cli_fail(RP_USAGE,
                    "info of what? Give a model, checkpoint, run directory or token file, "
                    "or experiment=NAME");
  if (n == 1 && !strcmp(plain[0], "machine")) return info_machine(a);
  if (rp_results_is(plain[0])) return info_results(a, plain, n);
  if (cli_has(a, "svg")) return cli_info_runs(plain, n, cli_has(a, "json"), cli_text(a, "svg"));
  for (size_t i = 0; i < n; i++) {
    const int code = info_path(a, plain[i]);
    if (code) return code;
  }
  return 0;
}

static const cli_flag flags[] = {
    CLI_FLAG_JSON,
    {.name = "svg",
     .type = CLI_TEXT,
     .value = "FILE",
     .help = "draw the loss curves of the run directories given, or the results, into this file"},
    {.name = "ranks",
     .type = CLI_INT,
     .value = "N",
     .fallback = "1",
     .help = "plan a run on so many ranks"},
    CLI_FLAG_PATTERN,
    {.name = "seq-len",
     .type = CLI_INT,
     .value = "T",
     .fallback = "4096",
     .help = "with --pattern: tokens of the sequence"},
    {.name = "layers",
     .type = CLI_INT,
     .value = "N",
     .fallback = "1",
     .help = "with --pattern: layers, where it lists one entry for each"},
    {.name = "kv-heads",
     .type = CLI_INT,
     .value = "N",
     .fallback = "1",
     .help = "with --pattern: key-value heads, where it lists one entry for each"},
    {.name = "num-bytes",
     .type = CLI_INT,
     .value = "N",
     .help = "bytes of an id in a token file without a .json beside it"},
    CLI_FLAG_THREADS,
    CLI_FLAG_CONFIGS,
    CLI_FLAG_CONFIG,
    CLI_FLAGS_END};

const cli_verb cli_verb_info = {
    .name = "info",
    .usage = "PATH ... | machine | experiment=NAME [key=value ...] | --pattern P --seq-len T",
    .summary = "tell what a model, checkpoint, token file or run is, and what a run would take",
    .detail =
        "A model directory, checkpoint or .pth: sizes, parameters, dtype, pattern, bytes of cache "
        "per token, tensors. A token file: ids, documents, tokenizer. A run directory: where it "
        "stands; with --svg the loss curves of several in one picture. Files that `eval loss "
        "--json` "
        "wrote (.jsonl): one table, a row a pattern, a column a label. With experiment=NAME: the "
        "memory and time that run would take, before it starts. With --pattern: how many keys a "
        "query sees, and a picture of a short sequence. The word machine: this "
        "processor, its level of kernels, threads and memory.\n"
        "\n"
        "  ratplus info machine\n"
        "  ratplus info model\n"
        "  ratplus info data/train.bin\n"
        "  ratplus info runs/a runs/b --svg curves.svg\n"
        "  ratplus info results.jsonl --svg results.svg\n"
        "  ratplus info experiment=fineweb_edu/ratplus-1b data.batch_size=4\n"
        "  ratplus info --pattern 'D=16,W=256,I=4' --seq-len 4096",
    .flags = flags,
    .takes = CLI_TAKES_PLAIN | CLI_TAKES_WORDS,
    .run = run};
