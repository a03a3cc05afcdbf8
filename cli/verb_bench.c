/* ratplus bench: what the machine can do, and what the program gets from it. */
#include <string.h>

#include "cli/cli.h"
#include "cli/machine_cache.h"
#include "ratplus/bench.h"

/* Which kinds a flag belongs to; a flag that is not here belongs to all. */
typedef struct {
  const char *flag, *kinds;
} belongs;
static const belongs flag_kinds[] = {
    {"cached", "machine"},
    {"steps", "train model"},
    {"dtype", "kernel train model layer core curve"},
    {"pattern", "kernel train model layer core curve"},
    {"ops", "train model"},
    {"shard", "train"},
    {"ranks", "train"},
    {"deadline", "train"},
    {"link-rate", "train"},
    {"model", "model layer core curve"},
    {"shape", "train model layer core curve"},
    {"layers", "train model"},
    {"width", "kernel train model layer core curve"},
    {"heads", "kernel train model layer core curve"},
    {"kv-heads", "kernel train model layer core curve"},
    {"vocab", "train model"},
    {"attention-only", "train model layer core curve"},
    {"only", "kernel model layer core curve"},
    {"seq-len", "kernel train model layer core curve"},
    {"batch", "kernel train model layer core curve"},
    {"tokens", "layer core"},
    {"chunk", "model"},
    {"svg", "kernel model layer core curve"},
    {"protocol", "model layer core"},
    {"memory", "kernel train model layer core curve"},
    {"patience", "kernel model layer core curve"},
    {"configs", "train model layer core curve"},
    {"config", "train model layer core curve"},
};

static bool among(const char *words, const char *word) {
  const size_t n = strlen(word);
  for (const char *at = words; (at = strstr(at, word)); at += n)
    if ((at == words || at[-1] == ' ') && (at[n] == ' ' || !at[n])) return true;
  return false;
}

static int check_flags(const cli_args *a, const char *sub) {
  for (size_t i = 0; i < sizeof flag_kinds / sizeof *flag_kinds; i++)
    if (cli_has(a, flag_kinds[i].flag) && !among(flag_kinds[i].kinds, sub))
      return cli_fail(RP_USAGE, "bench %s takes no --%s; it is for bench %s", sub,
                      flag_kinds[i].flag, flag_kinds[i].kinds);
  if (cli_has(a, "ops") && cli_has(a, "json"))
    return cli_fail(RP_USAGE, "--ops prints a table; leave out --json");
  return 0;
}

/* All --pattern in one list; false: too long. */
static bool join_patterns(const cli_args *a, rp_bench_opts *o, char *buf, size_t size) {
  size_t used = 0;
  for (size_t i = 0; i < cli_count(a, "pattern"); i++) {
    const int n =
        snprintf(buf + used, size - used, "%s%s", i ? ";" : "", cli_text_at(a, "pattern", i));
    if (n < 0 || (size_t)n >= size - used) return false;
    used += (size_t)n;
    o->patterns = buf;
  }
  return true;
}

/* A whole number in a range; absent: 0. An exit code. */
static int whole(const cli_args *a, const char *flag, int64_t most, int *out) {
  if (!cli_has(a, flag)) return 0;
  const int64_t v = cli_int(a, flag);
  if (v < 1 || v > most)
    return cli_fail(RP_USAGE, "--%s %lld: give a count from 1 to %lld", flag, (long long)v,
                    (long long)most);
  *out = (int)v;
  return 0;
}

/* A number above 0 and at most `most`; absent: 0. */
static int above(const cli_args *a, const char *flag, double most, double *out) {
  if (!cli_has(a, flag)) return 0;
  *out = cli_real(a, flag);
  if (!(*out > 0 && *out <= most))
    return cli_fail(RP_USAGE, "--%s %g: give a number above 0, at most %g", flag, *out, most);
  return 0;
}

static int options(const cli_args *a, rp_bench_opts *o) {
  rp_bench_defaults(o);
  o->json = cli_has(a, "json");
  o->ops = cli_has(a, "ops");
  o->seconds = cli_real(a, "seconds");
  o->dtypes = cli_text(a, "dtype");
  o->device = cli_text(a, "device");
  if (o->seconds < 0 || o->seconds > 3600)
    return cli_fail(RP_USAGE, "--seconds %g: give seconds from 0 to 3600", o->seconds);
  return whole(a, "steps", 1024, &o->steps);
}

/* threads: how many are in force. */
typedef int (*bench_fn)(const cli_args *a, rp_bench_opts *o, int threads);

/* Runs with each of the counts of threads, one table after the other. */
static int with_threads(const cli_args *a, rp_bench_opts *o, bench_fn bench) {
  size_t n;
  int code = 0;
  const int64_t *counts = cli_ints(a, "threads", &n);
  for (size_t i = 0; i < n; i++)
    if (counts[i] < 1 || counts[i] > 4096)
      return cli_fail(RP_USAGE, "--threads %lld: must be from 1 to 4096", (long long)counts[i]);
  if (n > 1 && cli_has(a, "svg"))
    return cli_fail(RP_USAGE, "--svg draws one chart: give one count of --threads");
  if (!n) return bench(a, o, rp_threads_set(0));
  for (size_t i = 0; i < n && !code; i++) code = bench(a, o, rp_threads_set((int)counts[i]));
  return code;
}

enum { MOST_SIZE = 1 << 20, MOST_TOKENS = 1 << 30 };

/* What the benchmarks of inference are told. */
static int shape_options(const cli_args *a, rp_bench_opts *o) {
  double gib = 0;
  int code = 0, tokens = 0;
  o->model = cli_text(a, "model");
  o->shape = cli_text(a, "shape");
  o->attention_only = cli_has(a, "attention-only");
  o->only = cli_text(a, "only");
  o->paper = cli_has(a, "protocol");
  o->seq_lens = cli_ints(a, "seq-len", &o->n_seq_lens);
  o->batches = cli_ints(a, "batch", &o->n_batches);
  if ((code = whole(a, "layers", MOST_SIZE, &o->layers))) return code;
  if ((code = whole(a, "width", MOST_SIZE, &o->width))) return code;
  if ((code = whole(a, "heads", MOST_SIZE, &o->heads))) return code;
  if ((code = whole(a, "kv-heads", MOST_SIZE, &o->kv_heads))) return code;
  if ((code = whole(a, "vocab", MOST_SIZE, &o->vocab))) return code;
  if ((code = whole(a, "chunk", MOST_SIZE, &o->chunk))) return code;
  if ((code = whole(a, "tokens", MOST_TOKENS, &tokens))) return code;
  o->tokens = tokens;
  if ((code = above(a, "patience", 1e6, &o->patience))) return code;
  if ((code = above(a, "memory", 1 << 20, &gib))) return code;
  o->memory = (uint64_t)(gib * (1 << 30));
  return 0;
}

static const char *const strategies[] = {"FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", NULL};

static int print(char *text) {
  fputs(text, stdout);
  rp_free(text);
  return 0;
}

/* The table, and the chart where --svg says. */
static int print_both(const cli_args *a, char *text, char *svg) {
  print(text);
  const int code = svg ? cli_write_file(cli_text(a, "svg"), svg) : 0;
  rp_free(svg);
  return code;
}

/* The words' configuration; none: *c NULL. */
static int compose(const cli_args *a, rp_config **c) {
  size_t n;
  *c = NULL;
  cli_words(a, &n);
  return n || cli_has(a, "config") ? cli_compose(a, true, c) : 0;
}

static int bench_here(const cli_args *a, rp_bench_opts *o, int threads) {
  rp_error err = {0};
  rp_config *c;
  char *text = NULL;
  const int code = compose(a, &c);
  (void)threads;
  if (code) return code;
  const rp_status st = rp_bench_train(c, o, &text, &err);
  rp_config_free(c);
  if (st) return cli_ranks_error(o->ranks, &err);
  if (rp_ranks_speaks(o->ranks)) return print(text);
  rp_free(text);
  return 0;
}

static int bench_train(const cli_args *a, rp_bench_opts *o) {
  const char *how = cli_text(a, "shard");
  for (int i = 0; how && i < 3; i++)
    if (strcmp(how, strategies[i]) == 0) o->shard = i + 1;
  int code = shape_options(a, o);
  if (!code) code = cli_ranks_join(a, &o->ranks);
  return code ? code : cli_ranks_leave(o->ranks, with_threads(a, o, bench_here));
}

typedef struct {
  const char *name;
  rp_status (*run)(const rp_config *c, const rp_bench_opts *o, char **text, rp_error *err);
} inference;
static const inference kinds[] = {{"model", rp_bench_model},
                                  {"layer", rp_bench_layer},
                                  {"core", rp_bench_core},
                                  {"curve", rp_bench_curve}};

static int tell(void *ctx, int done, int of, const char *what) {
  cli_progress_update(ctx, (uint64_t)done, (uint64_t)of, what);
  return *cli_stop_flag();
}

static const inference *inference_named(const char *sub) {
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
    if (strcmp(sub, kinds[i].name) == 0) return &kinds[i];
  return NULL;
}

/* Kernels, and all kinds of inference: many figures, told of one by one. */
static int bench_figures(const cli_args *a, rp_bench_opts *o, int threads) {
  rp_error err = {0};
  rp_config *c;
  size_t n;
  const char *const *plain = cli_plain(a, &n);
  const inference *k = inference_named(cli_sub(a));
  char *text = NULL, *svg = NULL;
  cli_progress bar;
  int code = shape_options(a, o);
  (void)threads;
  if (!code) code = compose(a, &c);
  if (code) return code;
  cli_signals_catch();
  cli_progress_start(&bar);
  o->progress = tell;
  o->ctx = &bar;
  if (cli_has(a, "svg")) o->svg = &svg;
  const rp_status st =
      k ? k->run(c, o, &text, &err) : rp_bench_kernel(n ? plain[0] : NULL, o, &text, &err);
  cli_progress_end(&bar);
  rp_config_free(c);
  return st ? cli_error(&err) : print_both(a, text, svg);
}

static int bench_machine(const cli_args *a, rp_bench_opts *o, int threads) {
  rp_error err = {0};
  char *text = NULL, path[4096];
  const bool cached = cli_has(a, "cached");
  if (cached && !cli_machine_file(path, sizeof path, threads, o->json)) return RP_USAGE;
  if (cached && cli_machine_print(path)) return 0;
  if (rp_bench_machine(o, &text, &err)) return cli_error(&err);
  fputs(text, stdout);
  const int code = cached ? cli_machine_keep(path, text) : 0;
  rp_free(text);
  return code;
}

static int run(const cli_args *a) {
  char patterns[4096];
  rp_bench_opts o;
  size_t n;
  const char *const *plain = cli_plain(a, &n);
  const char *sub = cli_sub(a);
  int code = check_flags(a, sub);
  if (!code) code = options(a, &o);
  if (code) return code;
  if (!join_patterns(a, &o, patterns, sizeof patterns))
    return cli_fail(RP_USAGE, "--pattern: all together are longer than %zu bytes", sizeof patterns);
  const bool kernel = strcmp(sub, "kernel") == 0;
  size_t words;
  cli_words(a, &words);
  if (words && (kernel || strcmp(sub, "machine") == 0))
    return cli_fail(RP_USAGE, "bench %s takes no configuration", sub);
  if (n > kernel) return cli_fail(RP_USAGE, "bench %s: %s is one word too many", sub, plain[n - 1]);
  if (strcmp(sub, "train") == 0) return bench_train(a, &o);
  return with_threads(a, &o, strcmp(sub, "machine") == 0 ? bench_machine : bench_figures);
}

static const char *const subs[] = {
    "machine\trates of matrix products and of memory, by one thread and by all",
    "kernel\ttime of one op, or of all, beside plain C and against the machine",
    "train\ttokens per second of optimizer steps, and the share of the limit",
    "model\tprefill and decode of a whole model",
    "layer\tthe same of one mixer layer",
    "core\tthe same of what lies between its projections: gate, scan, attention",
    "curve\ta layer over T, and the exponent of its cost for each pattern",
    NULL};

static const char *const shapes[] = {"1b", "3b", "7b", NULL};
static const char *const phases[] = {"prefill", "decode", NULL};
static const char *const protocols[] = {"paper", NULL};
static const char *const devices[] = {"auto", "cpu",    "cuda",        "guard", "ref",
                                      "avx2", "avx512", "avx512_bf16", NULL};

static const cli_flag flags[] = {
    CLI_FLAG_JSON,
    {.name = "threads",
     .letter = 't',
     .type = CLI_INTS,
     .value = "LIST",
     .help =
         "counts of threads, a table for each (default: the physical cores this process may use)"},
    {.name = "cached",
     .type = CLI_SWITCH,
     .help =
         "machine: print what was found since the machine was booted; else measure, and keep it "
         "in ~/.cache/ratplus"},
    {.name = "seconds",
     .type = CLI_REAL,
     .value = "S",
     .help = "time to spend on each figure, about"},
    {.name = "steps",
     .type = CLI_INT,
     .value = "N",
     .help = "train: optimizer steps to time, in place of --seconds; model: steps of a decode "
             "(default: 16)"},
    {.name = "ops",
     .help = "train, model: also which ops the time goes to; they are waited for one by one"},
    {.name = "dtype",
     .type = CLI_TEXT,
     .value = "TYPES",
     .help = "float32, bfloat16, or both with a comma (default: kernel and train both, a model its "
             "own, "
             "random weights bfloat16)"},
    {.name = "pattern",
     .type = CLI_TEXT,
     .value = "LIST",
     .repeat = true,
     .help = "patterns, separated by semicolons, as in 'D=1;D=16,W=256'; quote them"},
    CLI_FLAG_MODEL,
    {.name = "shape",
     .type = CLI_TEXT,
     .value = "SHAPE",
     .choices = shapes,
     .help =
         "random weights of 1b, 3b or 7b (default: 1b; train on a processor: the small one below)"},
    {.name = "layers", .type = CLI_INT, .value = "N", .help = "in place of the shape's layers"},
    {.name = "width", .type = CLI_INT, .value = "N", .help = "in place of its width"},
    {.name = "heads",
     .type = CLI_INT,
     .value = "N",
     .help = "in place of its heads (default: heads of 128)"},
    {.name = "kv-heads",
     .type = CLI_INT,
     .value = "N",
     .help = "key-value heads (default: as many as heads)"},
    {.name = "vocab", .type = CLI_INT, .value = "N", .help = "in place of its vocabulary"},
    {.name = "attention-only",
     .type = CLI_SWITCH,
     .help = "a shape without the recurrence: the baseline"},
    {.name = "only",
     .type = CLI_TEXT,
     .value = "WORK",
     .choices = phases,
     .help = "prefill or decode (default: both); kernel: whole sequences or steps"},
    {.name = "seq-len",
     .type = CLI_INTS,
     .value = "LIST",
     .help = "T: tokens of a sequence (train: one number); positions of a decode, of which the "
             "last are "
             "timed"},
    {.name = "batch",
     .type = CLI_INTS,
     .value = "LIST",
     .help = "sessions that decode together; 0: as many as fit into the memory; kernel: sequences, "
             "sessions of a step, or rows of a product; train: sequences of a step"},
    {.name = "tokens",
     .type = CLI_INT,
     .value = "N",
     .help = "layer, core: tokens of a prefill, as sequences of T (default: one sequence)"},
    {.name = "chunk",
     .type = CLI_INT,
     .value = "N",
     .help = "model: tokens of a prompt that go into one call (default: 512)"},
    {.name = "protocol",
     .type = CLI_TEXT,
     .value = "NAME",
     .choices = protocols,
     .help = "paper: the lists of the paper's measurements: layer, core: 262144 tokens at T = 4096 "
             "... 262144, decode of 64 ... 4096 sessions; model: decode of the last 1024 of T "
             "positions at the largest batch that fits"},
    {.name = "memory",
     .type = CLI_REAL,
     .value = "GIB",
     .help = "memory that may be used, in GiB (default: what is free)"},
    {.name = "patience",
     .type = CLI_REAL,
     .value = "S",
     .help = "leave out what takes longer than this at the machine's limit (default: 60; curve "
             "and kernel: 300)"},
    {.name = "svg",
     .type = CLI_TEXT,
     .value = "FILE",
     .help = "also draw cost over T as a log-log chart with fitted exponents"},
    {.name = "shard",
     .type = CLI_TEXT,
     .value = "STRATEGY",
     .choices = strategies,
     .help = "train over ranks: what each keeps (default: the configuration's, or NO_SHARD)"},
    CLI_FLAG_RANKS,
    CLI_FLAG_DEADLINE,
    CLI_FLAG_LINK_RATE,
    {.name = "device",
     .type = CLI_TEXT,
     .value = "DEVICE",
     .choices = devices,
     .help = "cpu or cuda; machine, kernel: also guard, or a level of the processor's kernels "
             "(default: cpu)"},
    CLI_FLAG_CONFIGS,
    CLI_FLAG_CONFIG,
    CLI_FLAGS_END};

const cli_verb cli_verb_bench = {
    .name = "bench",
    .usage =
        "machine | kernel [NAME] | train | model | layer | core | curve [experiment=NAME "
        "key=value ...]",
    .summary = "measure this machine, the kernels, training and inference against the machine",
    .detail =
        "Every speed is printed beside the limit it stands against, measured in the same run: keep "
        "the machine quiet meanwhile. `bench train` times whole optimizer steps on random tokens, "
        "of the configuration's model, batch and sequence length or, without one, of 12 layers, "
        "d=768, 6 heads of 128, V=32000, T=1024, batch 4, on a GPU of shape 1b, T=4096, batch 8; "
        "a step of joint training is one of D=1 and one of the pattern. Activations that do not "
        "fit "
        "into the memory are recomputed.\n"
        "\n"
        "`bench model`, `layer`, `core` and `curve` take a model, a configuration or a shape "
        "(random weights). Their limit is the larger of counted FLOPs at the product rate and, in "
        "a decode, bytes of weights and cache at the memory read rate. A decode stands behind its "
        "keys without a prefill. What does not fit into the memory or takes too long is left out, "
        "with a line that says so; exit code 4 when nothing fits. Of a layer one head may stand "
        "for all: where all take over a minute at the limit or more memory than there is.\n"
        "\n"
        "`bench kernel` times each op at sizes of training and of decoding, or at those that "
        "--seq-len, --batch, --pattern, --width and --heads say, for the ops that have such sizes, "
        "beside plain C. Memory is a limit by its rate of copying, for what hardly writes by that "
        "of reading.\n"
        "\n"
        "With --device cuda all is done by a GPU, by default at larger sizes, and stands against "
        "what "
        "that GPU does: products of cuBLASLt, a copy, a sum of squares. A window between two waits "
        "holds many runs of a short op; what memory bounds finds none of its data in the cache.\n"
        "\n"
        "  ratplus bench machine\n"
        "  ratplus bench kernel attend\n"
        "  ratplus bench kernel attend --seq-len 16384,65536 --pattern 'D=16;D=16,W=256'\n"
        "  ratplus bench kernel gemm --only decode --batch 1,2,4,8,16,32 --dtype bfloat16\n"
        "  ratplus bench train --dtype bfloat16 --pattern 'D=1;D=16,W=256'\n"
        "  ratplus bench model --shape 1b --seq-len 4096,16384 --batch 1,8,32\n"
        "  ratplus bench model --model runs/first --protocol paper\n"
        "  ratplus bench layer --shape 7b --protocol paper\n"
        "  ratplus bench core --seq-len 4096 --batch 1,64 --only decode --pattern 'D=1;D=16'\n"
        "  ratplus bench curve --svg curve.svg",
    .flags = flags,
    .subs = subs,
    .takes = CLI_TAKES_PLAIN | CLI_TAKES_WORDS,
    .run = run};
