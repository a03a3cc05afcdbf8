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
  const rp_path_kind kind = rp_path_look(path);
  size_t n_words;
  cli_words(a, &n_words);
  if (n_words && (kind == RP_PATH_TOKENS || kind == RP_PATH_RUN))
    return cli_fail(RP_USAGE, "%s: key=value words are for a model; leave them out", path);
  switch (kind) {
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

/* Prints one pattern; svg: its picture goes into this file. */
static int print_pattern(const rp_pattern_opts *o, const char *svg) {
  rp_error err = {0};
  char *text, *picture = NULL;
  if (rp_pattern_info(o, &text, svg ? &picture : NULL, &err)) return cli_error(&err);
  fputs(text, stdout);
  const int code = svg ? cli_write_file(svg, picture) : 0;
  rp_free(text);
  rp_free(picture);
  return code;
}

/* config: of the words, NULL without an experiment. */
static int print_patterns(const cli_args *a, const char *model, const rp_config *config) {
  rp_pattern_opts o;
  rp_pattern_defaults(&o);
  o.model = model;
  o.config = config;
  if (model) o.words = cli_words(a, &o.n_words);
  o.seq_len = cli_int(a, "seq-len");
  if (cli_has(a, "layers")) o.layers = (int)cli_int(a, "layers");
  if (cli_has(a, "kv-heads")) o.kv_heads = (int)cli_int(a, "kv-heads");
  o.json = cli_has(a, "json");
  o.colours = cli_colours(stdout);
  o.utf8 = cli_utf8();
  for (size_t i = 0; i < cli_count(a, "pattern"); i++) {
    o.pattern = cli_text_at(a, "pattern", i);
    if (i && !o.json) putchar('\n');
    const int code = print_pattern(&o, cli_text(a, "svg"));
    if (code) return code;
  }
  return 0;
}

static int info_pattern(const cli_args *a, const char *const *paths, size_t n, bool experiment) {
  rp_config *config = NULL;
  size_t n_words;
  cli_words(a, &n_words);
  if (n > 1) return cli_fail(RP_USAGE, "info --pattern takes one model");
  if (cli_has(a, "seq-len") && cli_int(a, "seq-len") < 1)
    return cli_fail(RP_USAGE, "--seq-len: give a length from 1 to 2^30");
  if (cli_has(a, "svg") && cli_count(a, "pattern") > 1)
    return cli_fail(RP_USAGE, "--svg draws one --pattern");
  if ((n || experiment) && (cli_has(a, "layers") || cli_has(a, "kv-heads")))
    return cli_fail(RP_USAGE,
                    "the model says its layers and kv heads; leave --layers and "
                    "--kv-heads out");
  if (!n && !experiment && n_words)
    return cli_fail(RP_USAGE, "key=value words need a model or experiment=NAME that they are for");
  if (experiment) {
    const int code = cli_compose(a, true, &config);
    if (code) return code;
  }
  const int code = print_patterns(a, n ? paths[0] : NULL, config);
  rp_config_free(config);
  return code;
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
  experiment |= cli_has(a, "config");
  if (cli_has(a, "pattern")) return info_pattern(a, plain, n, experiment);
  if (experiment) return cli_info_plan(a, cli_has(a, "json"), (int)cli_int(a, "ranks"));
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
     .help =
         "draw into this file the loss curves of the run directories given, the results, or the "
         "pattern"},
    {.name = "ranks",
     .type = CLI_INT,
     .value = "N",
     .fallback = "1",
     .help = "plan a run on so many ranks, by each strategy"},
    {.name = "gpus-per-node",
     .type = CLI_INT,
     .value = "G",
     .help = "with --ranks: ranks of a machine, which share its link (default: 1)"},
    {.name = "link",
     .type = CLI_REAL,
     .value = "GB/s",
     .help = "with --ranks: what a machine sends in a second"},
    {.name = "rate",
     .type = CLI_REAL,
     .value = "TFLOP/s",
     .help = "with --ranks: what a rank computes in a second"},
    {.name = "latency",
     .type = CLI_REAL,
     .value = "US",
     .help = "with --ranks: microseconds that every collective takes"},
    CLI_FLAG_PATTERN,
    {.name = "seq-len",
     .type = CLI_INT,
     .value = "T",
     .help = "with --pattern: tokens of the sequence (default: the model's, else 4096)"},
    {.name = "layers",
     .type = CLI_INT,
     .value = "N",
     .help = "with --pattern and no model: layers, where it lists one entry for each (default: 1)"},
    {.name = "kv-heads",
     .type = CLI_INT,
     .value = "N",
     .help = "with --pattern and no model: key-value heads, likewise (default: 1)"},
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
    .usage =
        "PATH ... | machine | experiment=NAME [key=value ...] | [MODEL] --pattern P "
        "[--seq-len T]",
    .summary = "tell what a model, checkpoint, token file or run is, and what a run would take",
    .detail =
        "A model directory, checkpoint or .pth: sizes, parameters, dtype, pattern, bytes of cache "
        "per token, tensors. A token file: ids, documents, tokenizer. A run directory: where it "
        "stands; with --svg the loss curves of several in one picture. Files that `eval loss "
        "--json` "
        "wrote (.jsonl): one table, a row a pattern, a column a label. With experiment=NAME: the "
        "memory and time that run would take, before it starts. The word machine: this "
        "processor, its level of kernels, threads and memory.\n"
        "\n"
        "With --pattern: the keys a query sees and a cache keeps, and pictures of the mask and of "
        "which layer and head has which; with a model or experiment=NAME the operations and bytes "
        "too, beside those of D=1. Long sequences are drawn in cells that stand for many queries "
        "and keys.\n"
        "\n"
        "  ratplus info machine\n"
        "  ratplus info model\n"
        "  ratplus info data/train.bin\n"
        "  ratplus info runs/a runs/b --svg curves.svg\n"
        "  ratplus info results.jsonl --svg results.svg\n"
        "  ratplus info experiment=fineweb_edu/ratplus-1b data.batch_size=4\n"
        "  ratplus info experiment=fineweb_edu/ratplus-7b --ranks 64 --gpus-per-node 8 --link 50 "
        "--rate 400\n"
        "  ratplus info --pattern 'D=16,W=256,I=4' --seq-len 4096\n"
        "  ratplus info model --pattern 'D=[1,64]*12' --svg pattern.svg",
    .flags = flags,
    .takes = CLI_TAKES_PLAIN | CLI_TAKES_WORDS,
    .run = run};
