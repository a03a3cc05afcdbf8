/* Arguments against the table. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

typedef struct {
  const cli_flag *flag;
  const char *text;
  int64_t *ints;
  double *reals;
  size_t n;
} given;

struct cli_args {
  const cli_verb *verb;
  const char *sub;
  given *flags;
  size_t n_flags, n_words, n_plain;
  const char **words, **plain;
  char program_dir[4096];
};

/* Every verb's. */
static const cli_flag help_flag = {.name = "help", .letter = 'h', .type = CLI_SWITCH};

/* --- looking up --------------------------------------------------------------------------- */

static const cli_flag *flag_named(const cli_verb *v, const char *name, size_t len) {
  for (const cli_flag *f = v->flags; f && f->name; f++) {
    if (strlen(f->name) == len && memcmp(f->name, name, len) == 0) return f;
  }
  return len == 4 && memcmp(name, "help", 4) == 0 ? &help_flag : NULL;
}

static const cli_flag *flag_lettered(const cli_verb *v, char letter) {
  for (const cli_flag *f = v->flags; f && f->name; f++) {
    if (f->letter == letter) return f;
  }
  return letter == 'h' ? &help_flag : NULL;
}

static const given *last_given(const cli_args *a, const char *flag) {
  for (size_t i = a->n_flags; i > 0; i--) {
    if (strcmp(a->flags[i - 1].flag->name, flag) == 0) return &a->flags[i - 1];
  }
  return NULL;
}

static const char *fallback(const cli_args *a, const char *flag) {
  const cli_flag *f = flag_named(a->verb, flag, strlen(flag));
  return f ? f->fallback : NULL;
}

bool cli_has(const cli_args *a, const char *flag) { return last_given(a, flag) != NULL; }

size_t cli_count(const cli_args *a, const char *flag) {
  size_t n = 0;
  for (size_t i = 0; i < a->n_flags; i++) n += strcmp(a->flags[i].flag->name, flag) == 0;
  return n;
}

const char *cli_text(const cli_args *a, const char *flag) {
  const given *g = last_given(a, flag);
  return g ? g->text : fallback(a, flag);
}

const char *cli_text_at(const cli_args *a, const char *flag, size_t i) {
  for (size_t k = 0; k < a->n_flags; k++) {
    if (strcmp(a->flags[k].flag->name, flag) == 0 && i-- == 0) return a->flags[k].text;
  }
  return NULL;
}

int64_t cli_int(const cli_args *a, const char *flag) {
  const given *g = last_given(a, flag);
  if (g) return g->ints[0];
  const char *text = fallback(a, flag);
  return text ? strtoll(text, NULL, 10) : 0;
}

double cli_real(const cli_args *a, const char *flag) {
  const given *g = last_given(a, flag);
  if (g) return g->reals[0];
  const char *text = fallback(a, flag);
  return text ? strtod(text, NULL) : 0;
}

const int64_t *cli_ints(const cli_args *a, const char *flag, size_t *n) {
  const given *g = last_given(a, flag);
  *n = g ? g->n : 0;
  return g ? g->ints : NULL;
}

const double *cli_reals(const cli_args *a, const char *flag, size_t *n) {
  const given *g = last_given(a, flag);
  *n = g ? g->n : 0;
  return g ? g->reals : NULL;
}

const char *const *cli_words(const cli_args *a, size_t *n) {
  *n = a->n_words;
  return a->words;
}

const char *const *cli_plain(const cli_args *a, size_t *n) {
  *n = a->n_plain;
  return a->plain;
}

const char *cli_sub(const cli_args *a) { return a->sub; }
const cli_verb *cli_args_verb(const cli_args *a) { return a->verb; }
const char *cli_program_dir(const cli_args *a) { return *a->program_dir ? a->program_dir : NULL; }

/* --- values ------------------------------------------------------------------------------- */

static int bad_value(const cli_flag *f, const char *text, const char *what) {
  return cli_fail(RP_USAGE, "--%s %s: %s", f->name, text, what);
}

static int check_choice(const cli_flag *f, const char *text) {
  char all[256] = "";
  for (const char *const *c = f->choices; c && *c; c++) {
    if (strcmp(*c, text) == 0) return 0;
    const size_t at = strlen(all);
    snprintf(all + at, sizeof all - at, "%s%s", at ? ", " : "", *c);
  }
  if (!f->choices) return 0;
  return cli_fail(RP_USAGE, "--%s %s: must be one of %s", f->name, text, all);
}

/* Numbers separated by commas; a flag of one number takes exactly one. The program never calls
 * setlocale, so strtod reads a point whatever the environment says. */
static int parse_numbers(given *g) {
  const bool ints = g->flag->type == CLI_INT || g->flag->type == CLI_INTS;
  const bool many = g->flag->type == CLI_INTS || g->flag->type == CLI_REALS;
  size_t most = 1;
  for (const char *p = g->text; *p; p++) most += *p == ',';
  if (ints) {
    g->ints = calloc(most, sizeof *g->ints);
  } else {
    g->reals = calloc(most, sizeof *g->reals);
  }
  if (!g->ints && !g->reals)
    return cli_fail(RP_NO_MEMORY, "out of memory reading --%s", g->flag->name);
  for (const char *p = g->text;; p++) {
    char *end;
    errno = 0;
    if (ints) {
      g->ints[g->n++] = strtoll(p, &end, 10);
    } else {
      g->reals[g->n++] = strtod(p, &end);
    }
    const bool stops = *end == '\0' || (many && *end == ',');
    if (end == p || !stops || errno || *p == ' ') {
      return bad_value(g->flag, g->text,
                       many   ? (ints ? "must be integers separated by commas, as in 1,4,16"
                                      : "must be numbers separated by commas")
                       : ints ? "must be an integer"
                              : "must be a number");
    }
    if (!*end) return 0;
    p = end;
  }
}

static int add_flag(cli_args *a, const cli_flag *f, const char *text) {
  if (!f->repeat && last_given(a, f->name)) {
    return cli_fail(RP_USAGE, "--%s is given twice; give it once", f->name);
  }
  given *g = &a->flags[a->n_flags++];
  *g = (given){.flag = f, .text = text};
  if (f->type == CLI_SWITCH) return 0;
  if (f->type == CLI_TEXT) return check_choice(f, text);
  return parse_numbers(g);
}

/* --- words -------------------------------------------------------------------------------- */

/* What Hydra's own flags are called here. */
static int hydra_flag(const char *arg) {
  static const char *const known[][2] = {
      {"--config-path", "a tree of configurations is read with --configs DIR"},
      {"--config-dir", "a tree of configurations is read with --configs DIR"},
      {"--config-name",
       "an experiment is chosen with experiment=NAME; a composed file with "
       "--config FILE"},
      {"--cfg", "`ratplus config experiment=NAME ...` prints the configuration"},
      {"--multirun", "one call is one run; write a loop in the shell"},
      {"--package", "`ratplus config experiment=NAME ...` prints the configuration"},
      {"--resolve", "`ratplus config` always prints resolved values"},
      {"-m", "one call is one run; write a loop in the shell"},
      {NULL, NULL}};
  for (int i = 0; known[i][0]; i++) {
    const size_t n = strlen(known[i][0]);
    if (strncmp(arg, known[i][0], n) == 0 && (arg[n] == '\0' || arg[n] == '=')) {
      return cli_fail(RP_USAGE, "%s is Hydra's; here %s", known[i][0], known[i][1]);
    }
  }
  return 0;
}

static int unknown_flag(const cli_verb *v, const char *arg) {
  const char *names[64];
  size_t n = 0;
  const int hydra = hydra_flag(arg);
  if (hydra) return hydra;
  for (const cli_flag *f = v->flags; f && f->name && n < 63; f++) names[n++] = f->name;
  names[n++] = "help";
  char name[64];
  snprintf(name, sizeof name, "%.*s", (int)strcspn(arg + 2, "="), arg[1] == '-' ? arg + 2 : "");
  const char *near = *name ? cli_nearest(name, names, n) : NULL;
  return cli_fail(RP_USAGE, "%s has no %.*s%s%s%s; `ratplus %s --help` lists what it has", v->name,
                  (int)strcspn(arg, "="), arg, near ? "; did you mean --" : "", near ? near : "",
                  near ? "?" : "", v->name);
}

static bool is_word(const char *arg) { return strchr(arg, '=') || *arg == '~' || *arg == '+'; }

/* "D=64:12" is what a shell leaves of D={1:4,64:12}. */
static int stray_pattern(const char *arg) {
  if (!strchr("DWI", arg[0]) || arg[1] != '=') return 0;
  return cli_fail(RP_USAGE,
                  "%s: a pattern goes after --pattern; quote the pattern, or the shell "
                  "takes it apart: --pattern 'D={1:4,64:12}'",
                  arg);
}

static int no_such_sub(const cli_verb *v, const char *arg) {
  const char *names[32];
  char buf[32][32];
  size_t n = 0;
  for (; v->subs[n] && n < 32; n++) {
    snprintf(buf[n], sizeof buf[n], "%.*s", (int)strcspn(v->subs[n], "\t"), v->subs[n]);
    names[n] = buf[n];
  }
  const char *near = cli_nearest(arg, names, n);
  return cli_fail(RP_USAGE, "%s has no %s%s%s%s; `ratplus %s --help` lists what it has", v->name,
                  arg, near ? "; did you mean " : "", near ? near : "", near ? "?" : "", v->name);
}

static int add_plain(cli_args *a, const char *arg) {
  const cli_verb *v = a->verb;
  for (size_t i = 0; v->subs && !a->sub && v->subs[i]; i++) {
    const size_t n = strcspn(v->subs[i], "\t");
    if (strlen(arg) == n && memcmp(arg, v->subs[i], n) == 0) {
      a->sub = arg;
      return 0;
    }
  }
  if (v->subs && !a->sub && !(v->takes & CLI_TAKES_PLAIN)) return no_such_sub(v, arg);
  if (*arg && is_word(arg)) {
    const int stray = stray_pattern(arg);
    if (stray) return stray;
    if (v->takes & CLI_TAKES_WORDS) {
      a->words[a->n_words++] = arg;
      return 0;
    }
  }
  if (v->takes & CLI_TAKES_PLAIN) {
    a->plain[a->n_plain++] = arg;
    return 0;
  }
  if (v->takes & CLI_TAKES_WORDS) {
    return cli_fail(RP_USAGE, "'%s' is no key=value and no option of %s", arg, v->name);
  }
  return cli_fail(RP_USAGE, "%s takes no '%s'; `ratplus %s --help` says what it takes", v->name,
                  arg, v->name);
}

/* One argument that starts with '-'; *i moves over a value of its own. */
static int add_option(cli_args *a, int argc, char **argv, int *i) {
  const char *arg = argv[*i], *value = NULL;
  const cli_flag *f;
  if (arg[1] == '-') {
    const size_t len = strcspn(arg + 2, "=");
    f = flag_named(a->verb, arg + 2, len);
    if (arg[2 + len] == '=') value = arg + 3 + len;
  } else {
    f = arg[2] == '\0' ? flag_lettered(a->verb, arg[1]) : NULL;
  }
  if (!f) return unknown_flag(a->verb, arg);
  if (f->type == CLI_SWITCH) {
    if (value) return cli_fail(RP_USAGE, "--%s takes no value", f->name);
    return add_flag(a, f, "");
  }
  if (!value) {
    if (*i + 1 >= argc) {
      return cli_fail(RP_USAGE, "%s needs a value: --%s %s", arg, f->name, f->value);
    }
    value = argv[++*i];
  }
  return add_flag(a, f, value);
}

/* --- whole -------------------------------------------------------------------------------- */

int cli_args_parse(cli_args **out, const cli_verb *v, int argc, char **argv) {
  const size_t n = (size_t)argc + 1;
  *out = NULL;
  cli_args *a = calloc(1, sizeof *a);
  int code = 0;
  if (!a) return cli_fail(RP_NO_MEMORY, "out of memory reading the arguments");
  a->verb = v;
  a->flags = calloc(n, sizeof *a->flags);
  a->words = calloc(n, sizeof *a->words);
  a->plain = calloc(n, sizeof *a->plain);
  if (!a->flags || !a->words || !a->plain) {
    code = cli_fail(RP_NO_MEMORY, "out of memory reading the arguments");
    goto fail;
  }
  bool flags = true;
  for (int i = 2; i < argc && !code; i++) {
    const char *arg = argv[i];
    if (flags && strcmp(arg, "--") == 0) {
      flags = false;
    } else if (flags && arg[0] == '-' && arg[1]) {
      code = add_option(a, argc, argv, &i);
    } else {
      code = add_plain(a, arg);
    }
  }
  /* Plain arguments may stand before the word that is meant: files behind --input. */
  if (!code && v->subs && !a->sub && !cli_has(a, "help")) {
    code = a->n_plain ? no_such_sub(v, a->plain[0])
                      : cli_fail(RP_USAGE, "%s what? `ratplus %s --help` lists what it has",
                                 v->name, v->name);
  }
  cli_find_program_dir(a->program_dir, sizeof a->program_dir);
fail:
  if (code) {
    cli_args_free(a);
  } else {
    *out = a;
  }
  return code;
}

void cli_args_free(cli_args *a) {
  if (!a) return;
  for (size_t i = 0; a->flags && i < a->n_flags; i++) {
    free(a->flags[i].ints);
    free(a->flags[i].reals);
  }
  free(a->flags);
  free(a->words);
  free(a->plain);
  free(a);
}
