/* ratplus generate: text, streamed; several prompts at once, or a loop on a terminal. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/run_model.h"
#include "ratplus/generate.h"

typedef struct {
  char *s;
  size_t len, cap;
} buffer;

/* One prompt and what came of it. */
typedef struct {
  char *text; /* the prompt */
  size_t len;
  int32_t *ids; /* of rp_tokenizer_encode */
  size_t n;
  int begins;
  buffer out; /* what is not printed yet */
  int32_t *tokens;
  size_t n_tokens, cap_tokens;
  int32_t last; /* the token that came last; -1: none */
  rp_end end;
  int64_t prompt_tokens;
  struct run_state *run;
} prompt;

typedef struct run_state {
  const cli_args *a;
  cli_model m;
  rp_engine *e;
  rp_generator *g;
  prompt *p;
  size_t n, cap;
  size_t now; /* the prompt whose text goes straight out */
  bool json;
  const char **stops;
  int32_t *stop_ids;
  size_t n_stops, n_stop_ids;
  uint64_t cache, state; /* bytes, over the sessions at their ends */
  int code;
} run_state;

static int no_memory(void) { return cli_fail(RP_NO_MEMORY, "out of memory"); }

static bool add_bytes(buffer *b, const char *s, size_t n) {
  if (b->len + n > b->cap) {
    const size_t cap = 2 * (b->len + n) + 64;
    char *at = realloc(b->s, cap);
    if (!at) return false;
    b->s = at;
    b->cap = cap;
  }
  if (n) memcpy(b->s + b->len, s, n);
  b->len += n;
  return true;
}

/* ---- prompts ---- */

static int add_prompt(run_state *r, const char *text, size_t len) {
  if (r->n == r->cap) {
    const size_t cap = r->cap ? 2 * r->cap : 16;
    prompt *p = realloc(r->p, cap * sizeof *p);
    if (!p) return no_memory();
    r->p = p;
    r->cap = cap;
  }
  prompt *p = &r->p[r->n];
  *p = (prompt){.text = malloc(len + 1), .len = len, .last = -1, .run = r};
  if (!p->text) return no_memory();
  memcpy(p->text, text, len);
  p->text[len] = '\0';
  r->n++;
  return 0;
}

/* Standard input as one prompt, without the line feed at its end. */
static int add_stdin(run_state *r) {
  buffer b = {0};
  char part[1 << 14];
  size_t n;
  int code = 0;
  while (!code && (n = fread(part, 1, sizeof part, stdin)) > 0)
    if (!add_bytes(&b, part, n)) code = no_memory();
  if (!code && ferror(stdin)) code = cli_fail(RP_FAIL, "standard input: %s", strerror(errno));
  if (b.len && b.s[b.len - 1] == '\n') b.len--;
  if (!code) code = add_prompt(r, b.len ? b.s : "", b.len);
  free(b.s);
  return code;
}

static int add_file(run_state *r, const char *path) {
  rp_error err = {0};
  rp_lines *in;
  const rp_text_format format = cli_has(r->a, "field") ? RP_TEXT_JSONL : RP_TEXT_AUTO;
  int code = 0;
  rp_status st = rp_lines_open(&in, path, format, cli_text(r->a, "field"), cli_stop_flag(), &err);
  while (!st && !code) {
    const char *text;
    size_t len;
    st = rp_lines_next(in, &text, &len, &err);
    if (!st && !text) break;
    if (!st) code = add_prompt(r, text, len);
  }
  rp_lines_close(in);
  return st == RP_STOPPED ? 128 + *cli_stop_flag() : st ? cli_error(&err) : code;
}

static int read_prompts(run_state *r) {
  int code = 0;
  for (size_t i = 0; !code && i < cli_count(r->a, "prompt"); i++) {
    const char *text = cli_text_at(r->a, "prompt", i);
    code = strcmp(text, "-") ? add_prompt(r, text, strlen(text)) : add_stdin(r);
  }
  if (!code && cli_has(r->a, "prompts")) code = add_file(r, cli_text(r->a, "prompts"));
  return code;
}

/* The ids of a prompt. Nothing at all cannot be gone on from: then it is BOS. */
static int encode(const run_state *r, prompt *p, int flags) {
  rp_error err = {0};
  if (cli_has(r->a, "parse-special")) flags |= RP_ENCODE_SPECIAL;
  const bool bos = cli_has(r->a, "bos") && !(flags & RP_ENCODE_CONTINUED);
  p->begins = p->len == 0;
  if (p->len == 0 && !bos) {
    if (rp_tokenizer_bos(r->m.tokenizer) < 0)
      return cli_fail(RP_USAGE,
                      "the prompt is empty, and the tokenizer has no BOS to begin with; "
                      "give a prompt");
    flags |= RP_ENCODE_BOS;
  }
  if (bos) flags |= RP_ENCODE_BOS;
  if (rp_tokenizer_encode(r->m.tokenizer, p->text, p->len, flags, &p->ids, &p->n, &err))
    return cli_error(&err);
  return 0;
}

/* ---- what comes out ---- */

/* The beginning of a prompt on one line, as what its text is called. */
static void print_label(const prompt *p, size_t number) {
  enum { MOST = 50 };
  printf("==> %zu: ", number + 1);
  size_t n = p->len < MOST ? p->len : MOST;
  while (n < p->len && n > 0 && ((unsigned char)p->text[n] & 0xc0) == 0x80) n--;
  for (size_t i = 0; i < n; i++) putchar((unsigned char)p->text[i] < 32 ? ' ' : p->text[i]);
  printf("%s <==\n", n < p->len ? "..." : "");
}

static void print_json(const prompt *p, size_t number) {
  printf("{\"prompt\":%zu,\"text\":", number);
  cli_json_text(p->out.s ? p->out.s : "", p->out.len);
  printf(",\"tokens\":[");
  for (size_t i = 0; i < p->n_tokens; i++) printf("%s%d", i ? "," : "", p->tokens[i]);
  printf("],\"prompt_tokens\":%lld,\"end\":\"%s\"}\n", (long long)p->prompt_tokens,
         rp_end_name(p->end));
}

/* Prints what may be printed, prompt after prompt: all of those at their end, and the text so far of
 * the next. */
static void print_ready(run_state *r) {
  cli_progress_clear();
  while (r->now < r->n) {
    prompt *p = &r->p[r->now];
    if (r->json) {
      if (p->end) print_json(p, r->now);
    } else {
      fwrite(p->out.s ? p->out.s : "", 1, p->out.len, stdout);
      p->out.len = 0;
      if (p->end) putchar('\n');
    }
    if (!p->end) break;
    free(p->out.s);
    free(p->tokens);
    p->out = (buffer){0};
    p->tokens = NULL;
    if (++r->now < r->n && !r->json) print_label(&r->p[r->now], r->now);
  }
  if (fflush(stdout)) r->code = RP_FAIL; /* what failed is said at the end of the program */
}

static bool keep_token(prompt *p, int32_t id) {
  if (p->n_tokens == p->cap_tokens) {
    const size_t cap = p->cap_tokens ? 2 * p->cap_tokens : 64;
    int32_t *tokens = realloc(p->tokens, cap * sizeof *tokens);
    if (!tokens) return false;
    p->tokens = tokens;
    p->cap_tokens = cap;
  }
  p->tokens[p->n_tokens++] = id;
  return true;
}

static int on_piece(void *ctx, const rp_generated *g) {
  prompt *p = ctx;
  run_state *r = p->run;
  p->end = g->end;
  p->prompt_tokens = g->prompt_tokens;
  if (g->token >= 0) p->last = g->token;
  bool kept = add_bytes(&p->out, g->text, g->len);
  if (kept && r->json && g->token >= 0) kept = keep_token(p, g->token);
  if (!kept) r->code = no_memory();
  if (g->end && g->session) {
    r->cache += rp_session_cache_bytes(g->session);
    r->state += rp_session_state_bytes(g->session);
  }
  if (g->end == RP_END_FAILED) {
    r->code = g->error->status;
    cli_fail(g->error->status, "prompt %zu: %s", (size_t)(p - r->p) + 1, g->error->text);
  }
  if (g->end || g->len) print_ready(r);
  return !kept || ferror(stdout);
}

static void print_statistics(const run_state *r) {
  rp_generator_facts f = {.size = sizeof f};
  char cache[32], state[32], weights[32], mapped[32];
  rp_generator_about(r->g, &f);
  cli_format_bytes(weights, r->m.facts.weights);
  cli_format_bytes(mapped, r->m.facts.weights_mapped);
  cli_format_bytes(cache, r->cache);
  cli_format_bytes(state, r->state);
  cli_note(
      "prompt: %lld tokens, %.1f tokens/s; text: %lld tokens, %.1f tokens/s; cache %s, state %s; "
      "weights %s, %s of them mapped from the file",
      (long long)f.prompt_tokens,
      f.prompt_seconds > 0 ? (double)f.prompt_tokens / f.prompt_seconds : 0.0, (long long)f.tokens,
      f.decode_seconds > 0 ? (double)f.decode_tokens / f.decode_seconds : 0.0, cache, state,
      weights, mapped);
}

/* ---- the run ---- */

static int64_t limit_of(const run_state *r) {
  return cli_has(r->a, "max-length") ? cli_int(r->a, "max-length") : r->m.facts.seq_len;
}

static rp_request request_of(const run_state *r, uint64_t stream) {
  const cli_args *a = r->a;
  rp_request q;
  rp_request_defaults(&q);
  q.pattern = r->m.pattern;
  q.limit = limit_of(r);
  q.max_tokens = cli_has(a, "max-tokens") ? cli_int(a, "max-tokens") : -1;
  q.sample.temperature = cli_real(a, "temperature");
  q.sample.top_k = (int)cli_int(a, "top-k");
  q.sample.top_p = cli_real(a, "top-p");
  q.sample.min_p = cli_real(a, "min-p");
  q.sample.repeat_penalty = cli_real(a, "repeat-penalty");
  q.sample.seed = (uint64_t)cli_int(a, "seed");
  q.stream = stream;
  q.stops = r->stops;
  q.n_stops = r->n_stops;
  q.stop_ids = r->stop_ids;
  q.n_stop_ids = r->n_stop_ids;
  q.ignore_eos = cli_has(a, "ignore-eos");
  q.got = on_piece;
  return q;
}

static int open_engine(run_state *r) {
  rp_engine_opts o;
  rp_error err = {0};
  const bool loop = cli_has(r->a, "interactive");
  const int64_t limit = limit_of(r), most = request_of(r, 0).max_tokens;
  int64_t one = limit, *tokens = loop ? &one : malloc((r->n + 1) * sizeof *tokens);
  if (!tokens) return no_memory();
  rp_engine_defaults(&o);
  for (size_t i = 0; i < r->n && !loop; i++) {
    const int64_t n = (int64_t)r->p[i].n;
    tokens[i] = most < 0 || most > limit - n ? limit : n + most;
    if (tokens[i] < 1) tokens[i] = 1;
  }
  /* No more at once than the engine has rows: the longest ones, were they sorted; as they come. */
  const size_t together = loop ? 1 : r->n < (size_t)o.rows ? r->n : (size_t)o.rows;
  /* Those that wait may go on from a beginning that they have in common with one who left. */
  const size_t planned = loop || together == r->n ? together : together + 1;
  int code = cli_cache_bytes(r->a, &r->m, tokens, planned, &o.cache_bytes);
  for (size_t i = together; !code && i < r->n && !loop; i++) {
    uint64_t need;
    if (cli_has(r->a, "cache-mib")) break;
    code = cli_cache_bytes(r->a, &r->m, &tokens[i], 1, &need);
    if (need > o.cache_bytes) o.cache_bytes = need;
  }
  if (!loop) free(tokens);
  if (code) return code;
  o.rows = o.wanted = (int)together;
  if (rp_engine_open(&r->e, r->m.model, &o, &err)) return cli_error(&err);
  if (rp_generator_open(&r->g, r->m.model, r->e, r->m.tokenizer, &err)) return cli_error(&err);
  return 0;
}

static rp_status run_to_end(run_state *r, rp_error *err) {
  cli_progress bar;
  rp_generator_facts f = {.size = sizeof f};
  rp_status st = RP_OK;
  int64_t left = 1, of = 0;
  for (size_t i = 0; i < r->n; i++) of += (int64_t)r->p[i].n;
  cli_progress_start(&bar);
  while (left && !st) {
    st = *cli_stop_flag() ? RP_STOPPED : rp_generator_step(r->g, &left, err);
    rp_generator_about(r->g, &f);
    if (!f.tokens) cli_progress_update(&bar, (uint64_t)f.prompt_tokens, (uint64_t)of, "reading");
  }
  cli_progress_end(&bar);
  return st;
}

static int add_all(run_state *r) {
  rp_error err = {0};
  for (size_t i = 0; i < r->n; i++) {
    rp_request q = request_of(r, i);
    q.ids = r->p[i].ids;
    q.n = r->p[i].n;
    q.begins = r->p[i].begins;
    q.ctx = &r->p[i];
    if (!rp_generator_add(r->g, &q, NULL, &err)) continue;
    return r->n > 1 ? cli_fail(err.status, "prompt %zu: %s", i + 1, err.text) : cli_error(&err);
  }
  return 0;
}

/* Interrupted: every text ends where it is. */
static void end_all(run_state *r) {
  int64_t left;
  for (size_t i = 0; i < r->n; i++) rp_generator_cancel(r->g, (int64_t)i);
  rp_generator_step(r->g, &left, NULL);
}

static int generate_all(run_state *r) {
  rp_error err = {0};
  int code = 0;
  for (size_t i = 0; i < r->n && !code; i++) code = encode(r, &r->p[i], 0);
  if (!code) code = open_engine(r);
  if (!code) code = add_all(r);
  if (code) return code;
  if (r->n > 1 && !r->json) print_label(&r->p[0], 0);
  const rp_status st = run_to_end(r, &err);
  if (st && st != RP_STOPPED) return cli_error(&err);
  if (st == RP_STOPPED) end_all(r);
  print_statistics(r);
  return st == RP_STOPPED ? 128 + *cli_stop_flag() : r->code;
}

/* ---- the loop on a terminal ---- */

static volatile sig_atomic_t interrupted;
static void on_interrupt(int n) {
  (void)n;
  interrupted = 1;
}

static void catch_interrupts(void) {
  struct sigaction act = {.sa_handler =
                              on_interrupt}; /* no SA_RESTART: it ends the wait for a line */
  sigemptyset(&act.sa_mask);
  sigaction(SIGINT, &act, NULL);
}

/* The next line without its end; -1 at the end of the input or at an interrupt. */
static ssize_t read_line(char **line, size_t *cap) {
  if (isatty(STDIN_FILENO)) {
    fputs("> ", stderr);
    fflush(stderr);
  }
  clearerr(stdin);
  const ssize_t n = getline(line, cap, stdin);
  return n > 0 && (*line)[n - 1] == '\n' ? n - 1 : n;
}

/* Goes on with the session: `last`, which was shown and is not in it (-1: none), then the prompt. */
static int take_turn(run_state *r, rp_session *s, prompt *p, int32_t last, uint64_t turn) {
  rp_error err = {0};
  int64_t number, left;
  const size_t more = last >= 0;
  int32_t *ids = malloc((p->n + 1) * sizeof *ids);
  if (!ids) return no_memory();
  ids[0] = last;
  if (p->n) memcpy(ids + more, p->ids, p->n * sizeof *ids);
  rp_request q = request_of(r, turn);
  q.session = s;
  q.ids = ids;
  q.n = p->n + more;
  q.begins = p->begins;
  q.ctx = p;
  rp_status st = rp_generator_add(r->g, &q, &number, &err);
  free(ids);
  if (!st) st = rp_generator_run(r->g, &interrupted, &err);
  if (st == RP_STOPPED) {
    rp_generator_cancel(r->g, number);
    st = rp_generator_step(r->g, &left, &err);
  }
  return st ? cli_error(&err) : r->code;
}

/* A line, or the prompt of the command line, and the text that follows it. *last goes from turn to
 * turn, as take_turn has it. */
static int one_turn(run_state *r, rp_session *s, const char *text, size_t len, uint64_t turn,
                    int32_t *last) {
  if (turn && !len && *last < 0) return 0; /* nothing to go on from */
  int code = add_prompt(r, text, len);
  if (code) return code;
  prompt *p = &r->p[r->n - 1];
  r->now = r->n - 1;
  if (!turn)
    code = encode(r, p, 0);
  else if (len)
    code = encode(r, p, RP_ENCODE_CONTINUED);
  if (!code) code = take_turn(r, s, p, *last, turn);
  *last = p->end == RP_END_EOS ? -1 : p->last;
  return code;
}

static int interact(run_state *r) {
  rp_error err = {0};
  rp_session *s = NULL;
  char *line = NULL;
  size_t cap = 0, given = r->n;
  int32_t last = -1;
  int interrupts = 0; /* without a line or a whole text between */
  int code = open_engine(r);
  if (!code && rp_session_open(&s, r->e, r->m.pattern, limit_of(r), &err)) code = cli_error(&err);
  catch_interrupts();
  for (uint64_t turn = 0; !code && interrupts < 2;) {
    ssize_t n = 0;
    const bool typed = turn || !given;
    if (typed) n = read_line(&line, &cap);
    if (n < 0 && !interrupted) break;
    if (n >= 0) {
      interrupted = 0;
      code = typed ? one_turn(r, s, line, (size_t)n, turn, &last)
                   : one_turn(r, s, r->p[0].text, r->p[0].len, turn, &last);
      turn++;
      if (!interrupted) interrupts = 0;
    }
    if (!interrupted) continue;
    interrupts++;
    interrupted = 0;
    fputc('\n', stderr);
  }
  if (r->g && !code) print_statistics(r);
  free(line);
  if (s) {
    rp_generator_close(r->g);
    r->g = NULL;
  }
  rp_session_close(s);
  return code;
}

/* ---- the start ---- */

static int check_options(const cli_args *a) {
  const bool loop = cli_has(a, "interactive");
  if (!cli_has(a, "prompt") && !cli_has(a, "prompts") && !loop)
    return cli_fail(RP_USAGE,
                    "which prompt? give --prompt TEXT (- is standard input), --prompts FILE "
                    "or --interactive");
  if (loop && (cli_has(a, "prompts") || cli_count(a, "prompt") > 1 || cli_has(a, "json")))
    return cli_fail(RP_USAGE,
                    "--interactive goes with one --prompt, and not with --prompts or --json");
  if (loop && cli_has(a, "prompt") && !strcmp(cli_text(a, "prompt"), "-"))
    return cli_fail(RP_USAGE, "--interactive reads lines from standard input; give --prompt TEXT");
  if (cli_has(a, "field") && !cli_has(a, "prompts"))
    return cli_fail(RP_USAGE, "--field is of the JSON lines of --prompts");
  if (cli_has(a, "max-tokens") && cli_int(a, "max-tokens") < 0)
    return cli_fail(RP_USAGE, "--max-tokens %lld: must be 0 or more",
                    (long long)cli_int(a, "max-tokens"));
  if (cli_has(a, "max-length") && cli_int(a, "max-length") < 1)
    return cli_fail(RP_USAGE, "--max-length %lld: must be 1 or more",
                    (long long)cli_int(a, "max-length"));
  if (cli_int(a, "top-k") < 0 || cli_int(a, "top-k") > INT32_MAX)
    return cli_fail(RP_USAGE, "--top-k %lld: must be 0 (all) or more",
                    (long long)cli_int(a, "top-k"));
  return 0;
}

static int read_stops(run_state *r) {
  size_t n;
  const int64_t *ids = cli_ints(r->a, "stop-id", &n);
  r->n_stops = cli_count(r->a, "stop");
  r->n_stop_ids = n;
  r->stops = calloc(r->n_stops + 1, sizeof *r->stops);
  r->stop_ids = calloc(n + 1, sizeof *r->stop_ids);
  if (!r->stops || !r->stop_ids) return no_memory();
  for (size_t i = 0; i < r->n_stops; i++) r->stops[i] = cli_text_at(r->a, "stop", i);
  for (size_t i = 0; i < n; i++) {
    if (ids[i] < 0 || ids[i] >= r->m.facts.vocab_size)
      return cli_fail(RP_USAGE, "--stop-id %lld: the model has %d tokens", (long long)ids[i],
                      r->m.facts.vocab_size);
    r->stop_ids[i] = (int32_t)ids[i];
  }
  return 0;
}

static void close_run(run_state *r) {
  rp_generator_close(r->g);
  rp_engine_close(r->e);
  cli_model_close(&r->m);
  for (size_t i = 0; i < r->n; i++) {
    free(r->p[i].text);
    free(r->p[i].out.s);
    free(r->p[i].tokens);
    rp_free(r->p[i].ids);
  }
  free(r->p);
  free(r->stops);
  free(r->stop_ids);
}

static int run(const cli_args *a) {
  run_state r = {.a = a, .json = cli_has(a, "json")};
  rp_error err = {0};
  int code = check_options(a);
  if (code) return code;
  if (!cli_has(a, "interactive")) cli_signals_catch();
  code = cli_model_open(a, &r.m);
  if (!code) code = cli_model_tokenizer(a, &r.m);
  if (!code) code = read_stops(&r);
  const rp_request q = request_of(&r, 0);
  if (!code && rp_sample_check(&q.sample, &err)) code = cli_error(&err);
  if (!code) code = read_prompts(&r);
  if (!code) code = cli_has(a, "interactive") ? interact(&r) : generate_all(&r);
  close_run(&r);
  return code;
}

static const cli_flag flags[] = {
    CLI_FLAG_MODEL,
    CLI_FLAG_PATTERN,
    {.name = "prompt",
     .letter = 'p',
     .type = CLI_TEXT,
     .value = "TEXT",
     .repeat = true,
     .help = "what the text goes on from; - is standard input"},
    {.name = "prompts",
     .letter = 'f',
     .type = CLI_TEXT,
     .value = "FILE",
     .help = "a prompt a line, or JSON lines (by the name, or by --field); - is standard input"},
    {.name = "field",
     .type = CLI_TEXT,
     .value = "NAME",
     .help = "the key that holds the prompt of a JSON line, a.b inside an object (default: text)"},
    {.name = "interactive",
     .letter = 'i',
     .type = CLI_SWITCH,
     .help = "go on with every line that is typed, in one session"},
    {.name = "max-tokens",
     .letter = 'n',
     .type = CLI_INT,
     .value = "N",
     .help = "most tokens to generate for a prompt (default: to the length limit)"},
    {.name = "max-length",
     .letter = 'c',
     .type = CLI_INT,
     .value = "N",
     .help = "most tokens of prompt and text (default: the model's length)"},
    {.name = "temperature",
     .type = CLI_REAL,
     .value = "T",
     .fallback = "0",
     .help = "divides the logits before a token is drawn; 0 takes the most likely"},
    {.name = "top-k",
     .type = CLI_INT,
     .value = "K",
     .fallback = "0",
     .help = "draw among the K most likely; 0 is all"},
    {.name = "top-p",
     .type = CLI_REAL,
     .value = "P",
     .fallback = "1",
     .help = "draw among the fewest that hold this share of the probability"},
    {.name = "min-p",
     .type = CLI_REAL,
     .value = "P",
     .fallback = "0",
     .help = "draw among those at least P times as likely as the likeliest"},
    {.name = "repeat-penalty",
     .type = CLI_REAL,
     .value = "X",
     .fallback = "1",
     .help = "make tokens less likely that were generated before"},
    CLI_FLAG_SEED,
    {.name = "stop",
     .type = CLI_TEXT,
     .value = "TEXT",
     .repeat = true,
     .help = "end where this text comes, which is not shown"},
    {.name = "stop-id",
     .type = CLI_INTS,
     .value = "N,...",
     .help = "end where one of these tokens comes"},
    {.name = "ignore-eos", .type = CLI_SWITCH, .help = "do not end at EOS"},
    {.name = "bos", .type = CLI_SWITCH, .help = "put BOS in front of the prompt"},
    {.name = "parse-special",
     .type = CLI_SWITCH,
     .help = "control pieces spelled in a prompt, as in </s>, are the pieces"},
    CLI_FLAG_TOKENIZER,
    CLI_FLAG_CACHE,
    CLI_FLAG_DTYPE,
    CLI_FLAG_DEVICE,
    CLI_FLAG_THREADS,
    CLI_FLAG_JSON,
    CLI_FLAG_CONFIGS,
    CLI_FLAG_CONFIG,
    CLI_FLAGS_END};

const cli_verb cli_verb_generate = {
    .name = "generate",
    .usage = "--model PATH [--pattern P] --prompt TEXT ...",
    .summary = "go on with a text",
    .detail =
        "Prints the text that follows the prompt as it comes, and at the end on standard error how "
        "fast "
        "it came and what cache and state held. Without further options every token is the most "
        "likely "
        "one. Several prompts are decoded together and printed one after the other, each under the "
        "beginning of its prompt; their texts do not depend on each other.\n"
        "\n"
        "The text ends at EOS, at a --stop, at --max-tokens, or at the length limit. An empty "
        "prompt "
        "is BOS. Bytes of a prompt that are not UTF-8 are read as U+FFFD.\n"
        "\n"
        "Ctrl-C ends the text after the token (exit 130). With --interactive a line that is typed "
        "is "
        "appended as it is, an empty one goes on; the first Ctrl-C returns to the prompt, the "
        "second "
        "or Ctrl-D leaves (exit 0).\n"
        "\n"
        "  ratplus generate --model runs/first --pattern 'D=16,W=64' --prompt 'In the beginning' "
        "-n 50\n"
        "  ratplus generate --model runs/first --temperature 0.8 --top-p 0.95 --seed 1 "
        "--interactive",
    .flags = flags,
    .takes = CLI_TAKES_WORDS,
    .run = run};
