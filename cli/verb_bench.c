/* ratplus bench: what the machine can do, and what the program gets from it. */
#include <string.h>

#include "cli/cli.h"
#include "ratplus/bench.h"

static int options(const cli_args *a, rp_bench_opts *o) {
  rp_bench_defaults(o);
  o->json = cli_has(a, "json");
  o->seconds = cli_real(a, "seconds");
  o->steps = (int)cli_int(a, "steps");
  o->dtypes = cli_text(a, "dtype");
  o->patterns = cli_text(a, "patterns");
  o->device = cli_text(a, "device");
  if (o->seconds < 0 || o->seconds > 3600)
    return cli_fail(RP_USAGE, "--seconds %g: give seconds from 0 to 3600", o->seconds);
  if (cli_has(a, "steps") && (cli_int(a, "steps") < 1 || cli_int(a, "steps") > 1000))
    return cli_fail(RP_USAGE, "--steps %lld: give a count from 1 to 1000",
                    (long long)cli_int(a, "steps"));
  return cli_use_threads(a);
}

static const char *const strategies[] = {"FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", NULL};

static int print(char *text) {
  fputs(text, stdout);
  rp_free(text);
  return 0;
}

static int bench_here(const cli_args *a, const rp_bench_opts *o) {
  rp_error err = {0};
  rp_config *c = NULL;
  char *text = NULL;
  size_t n;
  cli_words(a, &n);
  if (n || cli_has(a, "config")) {
    const int code = cli_compose(a, true, &c);
    if (code) return code;
  }
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
  const int code = cli_ranks_join(a, &o->ranks);
  return code ? code : cli_ranks_leave(o->ranks, bench_here(a, o));
}

static int run(const cli_args *a) {
  rp_bench_opts o;
  rp_error err = {0};
  char *text = NULL;
  size_t n;
  const char *const *plain = cli_plain(a, &n);
  const char *sub = cli_sub(a);
  const int code = options(a, &o);
  if (code) return code;
  if (n > (strcmp(sub, "kernel") == 0))
    return cli_fail(RP_USAGE, "bench %s: %s is one word too many", sub, plain[n - 1]);
  if (strcmp(sub, "train") == 0) return bench_train(a, &o);
  const rp_status st = strcmp(sub, "machine") == 0
                           ? rp_bench_machine(&o, &text, &err)
                           : rp_bench_kernel(n ? plain[0] : NULL, &o, &text, &err);
  return st ? cli_error(&err) : print(text);
}

static const char *const subs[] = {
    "machine\trates of matrix products and of memory, by one thread and by all",
    "kernel\ttime of one op, or of all, beside plain C and against the machine",
    "train\ttokens per second of optimizer steps, and the share of the limit", NULL};

static const char *const devices[] = {"cpu", "guard", "ref", "avx2", "avx512", NULL};

static const cli_flag flags[] = {
    CLI_FLAG_JSON,
    CLI_FLAG_THREADS,
    {.name = "seconds",
     .type = CLI_REAL,
     .value = "S",
     .help = "time to spend on each figure, about"},
    {.name = "steps",
     .type = CLI_INT,
     .value = "N",
     .help = "train: optimizer steps to time, in place of --seconds"},
    {.name = "dtype",
     .type = CLI_TEXT,
     .value = "TYPES",
     .help = "train: float32, bfloat16, or both with a comma (default: both)"},
    {.name = "patterns",
     .type = CLI_TEXT,
     .value = "LIST",
     .help = "train: patterns, separated by semicolons (default: 'D=1;D=64')"},
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
     .help = "kernel: which device or level of kernels (default: cpu)"},
    CLI_FLAG_CONFIGS,
    CLI_FLAG_CONFIG,
    CLI_FLAGS_END};

const cli_verb cli_verb_bench = {
    .name = "bench",
    .usage = "machine | kernel [NAME] | train [experiment=NAME key=value ...]",
    .summary = "measure this machine, the kernels, and training against the machine",
    .detail =
        "Every speed is printed beside the limit it stands against, measured in the same run: keep "
        "the machine quiet meanwhile. `bench train` times whole optimizer steps on random tokens, "
        "of the configuration's model, batch and sequence length or, without one, of 12 layers, "
        "d=768, 6 heads of 128, V=32000, T=1024, batch 4.\n"
        "\n"
        "  ratplus bench machine\n"
        "  ratplus bench kernel attend\n"
        "  ratplus bench train --dtype bfloat16 --patterns 'D=1;D=16,W=256'",
    .flags = flags,
    .subs = subs,
    .takes = CLI_TAKES_PLAIN | CLI_TAKES_WORDS,
    .run = run};
