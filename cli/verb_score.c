/* ratplus score: the log-probability of every token of given sequences. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/run_model.h"
#include "cli/text_flags.h"
#include "ratplus/generate.h"

/* Sequences are read, scored and printed in windows, so that memory does not grow with the input. */
enum { WINDOW_SEQUENCES = 1024, WINDOW_TOKENS = 1 << 18 };

typedef struct {
  int64_t line;
  size_t at, n; /* ids[at, at + n) of the window */
} sequence;

typedef struct {
  const cli_args *a;
  cli_model m;
  rp_engine *e;
  rp_lines *in;
  bool text; /* lines are text, not ids */
  int64_t from, fits;
  sequence seq[WINDOW_SEQUENCES];
  rp_scoring list[WINDOW_SEQUENCES];
  size_t n;
  int32_t *ids, *best; /* [cap] */
  float *logprob;
  size_t n_ids, cap;
  cli_progress bar;
  rp_score_opts o;
  int64_t sequences, tokens, computed;
  double seconds;
} run_state;

/* ---- reading ---- */

static int bad_line(const run_state *s, rp_status st, const char *fmt, long long a, long long b) {
  char what[256];
  snprintf(what, sizeof what, fmt, a, b);
  return cli_fail(st, "%s:%lld: %s", rp_lines_name(s->in), (long long)rp_lines_number(s->in), what);
}

static int make_room(run_state *s, size_t more) {
  if (s->n_ids + more <= s->cap) return 0;
  size_t cap = s->cap ? s->cap : 4096;
  while (cap < s->n_ids + more) cap *= 2;
  int32_t *ids = realloc(s->ids, cap * sizeof *ids);
  if (ids) s->ids = ids;
  int32_t *best = realloc(s->best, cap * sizeof *best);
  if (best) s->best = best;
  float *logprob = realloc(s->logprob, cap * sizeof *logprob);
  if (logprob) s->logprob = logprob;
  if (!ids || !best || !logprob) return cli_fail(RP_NO_MEMORY, "out of memory for %zu tokens", cap);
  s->cap = cap;
  return 0;
}

static bool is_between(char c) { return c == ' ' || c == '\t' || c == ','; }

/* "1 2 3", "1,2,3", "[1, 2, 3]"; nothing is a sequence of no tokens. */
static int read_ids(run_state *s, const char *text, size_t len, size_t *n) {
  const char *p = text, *end = text + len;
  while (p < end && is_between(*p)) p++;
  while (end > p && is_between(end[-1])) end--;
  if (end - p >= 2 && *p == '[' && end[-1] == ']') p++, end--;
  for (;; ++*n) {
    char *stop;
    while (p < end && is_between(*p)) p++;
    if (p == end) return 0;
    errno = 0;
    const long long id = strtoll(p, &stop, 10);
    if (stop == p || (stop < end && !is_between(*stop)))
      return bad_line(s, RP_BAD_DATA, "token %lld is no number; a line holds ids alone",
                      (long long)*n, 0);
    if (errno || id < 0 || id >= s->m.facts.vocab_size)
      return cli_fail(RP_BAD_DATA, "%s:%lld: token %zu is %.*s, and the model has %d tokens",
                      rp_lines_name(s->in), (long long)rp_lines_number(s->in), *n,
                      (int)(stop - p < 24 ? stop - p : 24), p, s->m.facts.vocab_size);
    const int code = make_room(s, *n + 1);
    if (code) return code;
    s->ids[s->n_ids + *n] = (int32_t)id;
    p = stop;
  }
}

static int encode(run_state *s, const char *text, size_t len, size_t *n) {
  rp_error err = {0};
  int32_t *ids;
  const int flags = (cli_has(s->a, "bos") ? RP_ENCODE_BOS : 0) |
                    (cli_has(s->a, "parse-special") ? RP_ENCODE_SPECIAL : 0);
  if (rp_tokenizer_encode(s->m.tokenizer, text, len, flags, &ids, n, &err)) return cli_error(&err);
  const int code = make_room(s, *n);
  if (!code && *n) memcpy(s->ids + s->n_ids, ids, *n * sizeof *ids);
  rp_free(ids);
  return code;
}

/* Fills the window; *code is of the first line that is bad, which ends it. */
static void read_window(run_state *s, bool *at_end, int *code) {
  s->n = s->n_ids = 0;
  while (s->n < WINDOW_SEQUENCES && s->n_ids < WINDOW_TOKENS) {
    rp_error err = {0};
    const char *text;
    size_t len, n = 0;
    const rp_status st = rp_lines_next(s->in, &text, &len, &err);
    *at_end = !st && !text;
    if (*at_end) return;
    *code = st == RP_STOPPED ? 128 + *cli_stop_flag()
            : st             ? cli_error(&err)
            : s->text        ? encode(s, text, len, &n)
                             : read_ids(s, text, len, &n);
    if (!*code && (int64_t)n > s->fits)
      *code = bad_line(s, RP_NO_MEMORY,
                       "%lld tokens, and the cache holds %lld in this pattern; give a larger "
                       "--cache-mib, a sparser --pattern, or a shorter line",
                       (long long)n, (long long)s->fits);
    if (*code) return;
    s->seq[s->n++] = (sequence){rp_lines_number(s->in), s->n_ids, n};
    s->n_ids += n;
  }
}

/* ---- scoring and printing ---- */

static void on_progress(void *ctx, int64_t done, int64_t of) {
  run_state *s = ctx;
  char line[96];
  snprintf(line, sizeof line, "%lld sequences before, %lld of %lld tokens", (long long)s->sequences,
           (long long)done, (long long)of);
  cli_progress_update(&s->bar, (uint64_t)done, (uint64_t)of, line);
}

static int print_sequence(const run_state *s, const sequence *q) {
  const float *logprob = s->logprob + q->at;
  double sum = 0;
  for (size_t i = 1; i < q->n; i++)
    if (!isfinite(logprob[i]))
      return cli_fail(RP_FAIL, "%s:%lld: the log-probability of token %zu is not finite",
                      rp_lines_name(s->in), (long long)q->line, i);
  putchar('{');
  if (s->text) {
    printf("\"tokens\":[");
    for (size_t i = 0; i < q->n; i++) printf("%s%d", i ? "," : "", s->ids[q->at + i]);
    printf("],");
  }
  printf("\"logprobs\":[");
  for (size_t i = 0; i < q->n; i++) {
    if (i)
      printf(",%.9g", logprob[i]);
    else
      printf("null");
    if (i && (int64_t)i >= s->from) sum += logprob[i];
  }
  printf("],\"argmax\":[");
  for (size_t i = 0; i < q->n; i++) printf("%s%d", i ? "," : "", s->best[q->at + i]);
  putchar(']');
  if (cli_has(s->a, "from")) printf(",\"sum\":%.9g", sum);
  printf("}\n");
  return 0;
}

static int score_window(run_state *s) {
  rp_error err = {0};
  int64_t computed = 0;
  const double t0 = cli_seconds();
  for (size_t i = 0; i < s->n; i++)
    s->list[i] = (rp_scoring){s->ids + s->seq[i].at, s->seq[i].n, s->logprob + s->seq[i].at,
                              s->best + s->seq[i].at};
  s->o.computed = &computed;
  const rp_status st = rp_score(s->m.model, s->e, s->list, s->n, &s->o, &err);
  cli_progress_clear();
  if (st == RP_STOPPED) return 128 + *cli_stop_flag();
  if (st) return cli_error(&err);
  s->seconds += cli_seconds() - t0;
  s->computed += computed;
  for (size_t i = 0; i < s->n; i++) {
    const int code = print_sequence(s, &s->seq[i]);
    if (code) return code;
    s->tokens += (int64_t)s->seq[i].n;
  }
  s->sequences += (int64_t)s->n;
  return fflush(stdout) ? RP_FAIL : 0; /* what failed is said at the end of the program */
}

static int score_all(run_state *s) {
  bool at_end = false;
  int code = 0;
  cli_progress_start(&s->bar);
  s->o.progress = on_progress;
  s->o.ctx = s;
  while (!at_end && !code) {
    read_window(s, &at_end, &code);
    const int scored = s->n ? score_window(s) : 0;
    if (scored) code = scored;
  }
  cli_progress_end(&s->bar);
  if (code == 0)
    cli_note("%lld sequences, %lld tokens, %lld of them computed, %.1f tokens/s",
             (long long)s->sequences, (long long)s->tokens, (long long)s->computed,
             s->seconds > 0 ? (double)s->computed / s->seconds : 0.0);
  return code;
}

/* ---- the start ---- */

static int check_options(const cli_args *a) {
  if (cli_has(a, "tokens") == cli_has(a, "text"))
    return cli_fail(RP_USAGE,
                    "what is scored? give --tokens FILE or --text FILE (- is standard "
                    "input), one of them");
  if (cli_has(a, "tokens") && (cli_has(a, "field") || cli_has(a, "bos") ||
                               cli_has(a, "tokenizer") || cli_has(a, "parse-special")))
    return cli_fail(RP_USAGE, "--field, --bos, --parse-special and --tokenizer are for --text");
  if (cli_has(a, "from") && cli_int(a, "from") < 0)
    return cli_fail(RP_USAGE, "--from %lld: tokens are counted from 0",
                    (long long)cli_int(a, "from"));
  if (cli_has(a, "chunk") && (cli_int(a, "chunk") < 1 || cli_int(a, "chunk") > 1 << 20))
    return cli_fail(RP_USAGE, "--chunk %lld: must be from 1 to 1048576",
                    (long long)cli_int(a, "chunk"));
  if (cli_has(a, "max-length") && cli_int(a, "max-length") < 1)
    return cli_fail(RP_USAGE, "--max-length %lld: must be 1 or more",
                    (long long)cli_int(a, "max-length"));
  return 0;
}

static int open_input(run_state *s) {
  rp_error err = {0};
  const char *path = cli_text(s->a, s->text ? "text" : "tokens");
  const rp_text_format format = !s->text                 ? RP_TEXT_PLAIN
                                : cli_has(s->a, "field") ? RP_TEXT_JSONL
                                                         : RP_TEXT_AUTO;
  const rp_status st =
      rp_lines_open(&s->in, path, format, cli_text(s->a, "field"), cli_stop_flag(), &err);
  return st == RP_STOPPED ? 128 + *cli_stop_flag() : st ? cli_error(&err) : 0;
}

/* A pool for one sequence of --max-length, or, as long sequences are one after the other, for about
 * one of the model's length at D=1. */
static int open_engine(run_state *s) {
  rp_engine_opts o;
  rp_error err = {0};
  uint64_t dense;
  const int64_t length =
      cli_has(s->a, "max-length") ? cli_int(s->a, "max-length") : s->m.facts.seq_len;
  rp_engine_defaults(&o);
  if (cli_int(s->a, "chunk") > o.chunk) o.chunk = (int)cli_int(s->a, "chunk");
  o.wanted = o.chunk;
  const int code = cli_cache_bytes(s->a, &s->m, &length, 1, &o.cache_bytes);
  if (code) return code;
  if (rp_cache_plan(s->m.model, "D=1", &s->m.facts.seq_len, 1, &dense, &err))
    return cli_error(&err);
  if (!cli_has(s->a, "cache-mib") && dense > o.cache_bytes) o.cache_bytes = dense;
  if (rp_engine_open(&s->e, s->m.model, &o, &err)) return cli_error(&err);
  if (rp_cache_fit(s->m.model, s->m.pattern, o.cache_bytes, 0, INT32_MAX, &s->fits, &err))
    return cli_error(&err);
  return 0;
}

static int run(const cli_args *a) {
  int code = check_options(a);
  if (code) return code;
  run_state *s = calloc(1, sizeof *s);
  if (!s) return cli_fail(RP_NO_MEMORY, "out of memory");
  cli_signals_catch();
  s->a = a;
  s->text = cli_has(a, "text");
  s->from = cli_int(a, "from");
  code = cli_model_open(a, &s->m);
  if (!code && s->text) code = cli_model_tokenizer(a, &s->m);
  if (!code) code = open_input(s);
  if (!code) code = open_engine(s);
  rp_score_defaults(&s->o);
  s->o.pattern = s->m.pattern;
  s->o.chunk = (int)cli_int(a, "chunk");
  s->o.stop = cli_stop_flag();
  if (!code) code = score_all(s);
  rp_lines_close(s->in);
  rp_engine_close(s->e);
  cli_model_close(&s->m);
  free(s->ids);
  free(s->best);
  free(s->logprob);
  free(s);
  return code;
}

static const cli_flag flags[] = {
    CLI_FLAG_MODEL,
    CLI_FLAG_PATTERN,
    {.name = "tokens",
     .type = CLI_TEXT,
     .value = "FILE",
     .help = "token ids, a sequence a line, separated by spaces or commas; - is standard input"},
    {.name = "text",
     .letter = 'f',
     .type = CLI_TEXT,
     .value = "FILE",
     .help = "text instead, a document a line or JSON lines (by the name, or by --field)"},
    {.name = "field",
     .type = CLI_TEXT,
     .value = "NAME",
     .help = "the key that holds the text of a JSON line, a.b inside an object (default: text)"},
    CLI_FLAG_TOKENIZER,
    {.name = "bos", .type = CLI_SWITCH, .help = "put BOS in front of every text"},
    {.name = "parse-special",
     .type = CLI_SWITCH,
     .help = "control pieces spelled in a text, as in </s>, are the pieces"},
    {.name = "from",
     .type = CLI_INT,
     .value = "N",
     .help = "add \"sum\", the log-probability of the tokens from number N (from 0) on together"},
    {.name = "chunk",
     .type = CLI_INT,
     .value = "N",
     .help = "most tokens of a sequence in a call (default: 512); 1 steps token by token"},
    {.name = "max-length",
     .letter = 'c',
     .type = CLI_INT,
     .value = "N",
     .help = "longest sequence to make room for (default: the model's length)"},
    CLI_FLAG_CACHE,
    CLI_FLAG_DTYPE,
    CLI_FLAG_DEVICE,
    CLI_FLAG_THREADS,
    CLI_FLAG_CONFIGS,
    CLI_FLAG_CONFIG,
    CLI_FLAGS_END};

const cli_verb cli_verb_score = {
    .name = "score",
    .usage = "--model PATH [--pattern P] --tokens FILE | --text FILE",
    .summary = "print the log-probability of every token of given sequences",
    .detail =
        "One JSON object a line, in the order of the input: \"logprobs\", natural logarithms, null "
        "for "
        "the first token, which has nothing before it; \"argmax\", the most likely token after "
        "each "
        "one (the lowest id on ties), so that token i was the greedy choice when argmax[i-1] is "
        "it. "
        "Text adds \"tokens\", its ids.\n"
        "\n"
        "What sequences have in common at their beginning is computed once. Memory is that of the "
        "cache, however long the input; a sequence that does not fit is refused with the number of "
        "tokens that would.\n"
        "\n"
        "  echo '1 450 7483' | ratplus score --model runs/first --pattern 'D=16' --tokens -\n"
        "  ratplus score --model runs/first --text questions.jsonl --field question --from 1",
    .flags = flags,
    .takes = CLI_TAKES_WORDS,
    .run = run};
