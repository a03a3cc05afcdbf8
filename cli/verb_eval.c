/* ratplus eval: what a model loses on a text, pattern by pattern. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "ratplus/eval.h"

static void on_progress(void *ctx, int64_t done, int64_t of) {
  cli_progress_update(ctx, (uint64_t)done, (uint64_t)of, "evaluating");
}

static void print_json(const char *label, const rp_eval_row *rows, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const rp_eval_row *r = &rows[i];
    printf("{\"label\":");
    cli_json_string(label);
    printf(",\"pattern\":");
    cli_json_string(r->pattern);
    cli_json_real("loss", r->loss);
    cli_json_real("perplexity", r->perplexity);
    printf(",\"tokens\":%lld,\"windows\":%lld,\"seq_len\":%d", (long long)r->tokens,
           (long long)r->windows, r->seq_len);
    cli_json_real("tokens_per_second", r->tokens_per_second);
    cli_json_real("cache_bytes_per_token", r->cache_bytes_per_token);
    printf(",\"trained\":%s}\n", r->trained ? "true" : "false");
  }
}

static void print_table(const rp_eval_row *rows, size_t n) {
  size_t wide = 7;
  for (size_t i = 0; i < n; i++)
    if (strlen(rows[i].pattern) > wide) wide = strlen(rows[i].pattern);
  printf("%-*s  %9s  %10s  %10s  %10s  %14s\n", (int)wide, "pattern", "loss", "perplexity",
         "tokens", "tokens/s", "cache B/token");
  for (size_t i = 0; i < n; i++) {
    const rp_eval_row *r = &rows[i];
    printf("%-*s  %9.5f  %10.4f  %10lld  %10.0f  %14.1f\n", (int)wide, r->pattern, r->loss,
           r->perplexity, (long long)r->tokens, r->tokens_per_second, r->cache_bytes_per_token);
  }
}

static bool has_experiment(const char *const *words, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (strncmp(words[i], "experiment=", 11) == 0) return true;
  return false;
}

/* Options from the command line; patterns: room for all of them. */
static void read_options(const cli_args *a, rp_eval_opts *o, const char **patterns) {
  rp_eval_defaults(o);
  o->model = cli_text(a, "model");
  o->n_patterns = cli_count(a, "pattern");
  for (size_t i = 0; i < o->n_patterns; i++) patterns[i] = cli_text_at(a, "pattern", i);
  o->patterns = patterns;
  o->data = cli_text(a, "data");
  o->seq_len = (int)cli_int(a, "seq-len");
  o->num_bytes = (int)cli_int(a, "num-bytes");
  o->dtype = cli_text(a, "dtype");
  o->device = cli_text(a, "device");
  o->stop = cli_stop_flag();
}

static int check_options(const cli_args *a) {
  const int64_t T = cli_int(a, "seq-len"), bytes = cli_int(a, "num-bytes");
  if (cli_count(a, "model") > 1)
    return cli_fail(RP_USAGE,
                    "--model is given %zu times; one at a time, with --json the results "
                    "of several are laid side by side by `ratplus info`",
                    cli_count(a, "model"));
  if (cli_has(a, "seq-len") && (T < 1 || T > 262144))
    return cli_fail(RP_USAGE, "--seq-len %lld: must be from 1 to 262144", (long long)T);
  if (cli_has(a, "num-bytes") && bytes != 1 && bytes != 2 && bytes != 4)
    return cli_fail(RP_USAGE, "--num-bytes %lld: must be 1, 2 or 4", (long long)bytes);
  return cli_use_threads(a);
}

static int eval_loss(const cli_args *a, rp_config *c, rp_eval_opts *o) {
  rp_error err = {0};
  rp_eval_row *rows;
  size_t n;
  cli_progress bar;
  cli_signals_catch();
  cli_progress_start(&bar);
  o->progress = on_progress;
  o->ctx = &bar;
  const rp_status st = rp_eval_loss(c, o, &rows, &n, &err);
  cli_progress_end(&bar);
  if (st == RP_STOPPED) {
    cli_note("ratplus: %s; no results", err.text);
    return 128 + (*cli_stop_flag() ? *cli_stop_flag() : SIGTERM);
  }
  if (st) return cli_ranks_error(o->ranks, &err);
  if (!rp_ranks_speaks(o->ranks)) {
    rp_eval_free(rows, n);
    return 0;
  }
  const char *label = cli_text(a, "label") ? cli_text(a, "label") : o->model ? o->model : "run";
  for (size_t i = 0; i < n && !o->n_patterns; i++) cli_note("pattern: %s", rows[i].pattern);
  if (cli_has(a, "json"))
    print_json(label, rows, n);
  else
    print_table(rows, n);
  rp_eval_free(rows, n);
  return 0;
}

static int eval(const cli_args *a, rp_ranks *ranks) {
  rp_config *c = NULL;
  rp_eval_opts o;
  size_t n;
  const char *const *words = cli_words(a, &n);
  int code = check_options(a);
  if (!code && (has_experiment(words, n) || cli_has(a, "config"))) code = cli_compose(a, true, &c);
  if (code) return code;
  const char **patterns = malloc((cli_count(a, "pattern") + 1) * sizeof *patterns);
  if (!patterns) {
    rp_config_free(c);
    return cli_fail(RP_NO_MEMORY, "out of memory for the patterns");
  }
  read_options(a, &o, patterns);
  if (!c) {
    o.words = words;
    o.n_words = n;
  }
  o.ranks = ranks;
  code = eval_loss(a, c, &o);
  free(patterns);
  rp_config_free(c);
  return code;
}

static int run(const cli_args *a) {
  rp_ranks *ranks;
  const int code = cli_ranks_join(a, &ranks);
  return code ? code : cli_ranks_leave(ranks, eval(a, ranks));
}

static const cli_flag flags[] = {
    CLI_FLAG_MODEL,
    CLI_FLAG_PATTERN,
    {.name = "data",
     .letter = 'f',
     .type = CLI_TEXT,
     .value = "FILE",
     .help = "a token file, of which every full window counts"},
    {.name = "seq-len",
     .letter = 'c',
     .type = CLI_INT,
     .value = "T",
     .help = "tokens of a window (default: the model's data.seq_len)"},
    {.name = "num-bytes",
     .type = CLI_INT,
     .value = "1|2|4",
     .help = "bytes per id (default: FILE.json's, else the model's data.num_bytes)"},
    {.name = "label",
     .type = CLI_TEXT,
     .value = "NAME",
     .help = "what the results are called in JSON (default: the model's path)"},
    CLI_FLAG_RANKS,
    CLI_FLAG_DEADLINE,
    CLI_FLAG_LINK_RATE,
    CLI_FLAG_DTYPE,
    CLI_FLAG_DEVICE,
    CLI_FLAG_THREADS,
    CLI_FLAG_JSON,
    CLI_FLAG_CONFIGS,
    CLI_FLAG_CONFIG,
    CLI_FLAGS_END};

static const char *const subs[] = {
    "loss\tloss and perplexity on a token file, or on a run's validation data", NULL};

const cli_verb cli_verb_eval = {
    .name = "eval",
    .usage =
        "loss --model PATH --data FILE [--pattern P ...] | loss experiment=NAME [key=value ...]",
    .summary = "measure a model, pattern by pattern",
    .detail =
        "With --model and --data every full window of the token file counts, and labels after the "
        "end of a document do not. Without --pattern it is the one of the model's configuration, "
        "or D=1 if it was trained jointly.\n"
        "\n"
        "With experiment=NAME it is what the run of that configuration validates on, by the val "
        "loader's rules: the run's own number. The model is then --model, else "
        "trainer.pretrained_path, else the run's latest checkpoint.\n"
        "\n"
        "  ratplus eval loss --model runs/first --data tokens/val.bin --pattern 'D=1' \\\n"
        "    --pattern 'D=16' --pattern 'D=16,W=64,I=4'",
    .flags = flags,
    .subs = subs,
    .takes = CLI_TAKES_WORDS,
    .run = run};
