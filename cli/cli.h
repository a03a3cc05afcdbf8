/* cli.h - the frame of the program: one table of verbs and flags that feeds parsing, --help, the man
 * page and shell completion; what every verb shares.
 *
 * A verb is one file, cli/verb_NAME.c, that defines `const cli_verb cli_verb_NAME`, and one line in
 * cli/verbs.c. It includes public headers (ratplus/...) and cli/ headers only, writes results to
 * stdout and everything else to stderr, and returns the exit code (an rp_status is one). */
#ifndef RATPLUS_CLI_CLI_H
#define RATPLUS_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "ratplus/base.h"
#include "ratplus/config.h"
#include "ratplus/ranks.h"

/* --- the table ---------------------------------------------------------------------------- */

typedef enum {
  CLI_SWITCH, /* no value */
  CLI_TEXT,
  CLI_INT, /* 64-bit; "k", "M", "G" are not understood */
  CLI_REAL,
  CLI_INTS, /* a,b,c */
  CLI_REALS
} cli_type;

typedef struct {
  const char *name; /* "model" for --model; NULL ends a list */
  char letter;      /* 'm' for -m; 0 none */
  cli_type type;
  const char *value;    /* what help calls the value: "DIR" */
  const char *fallback; /* the default as text, shown in help and used when absent; NULL none */
  const char *help;     /* one sentence, lower case, no full stop */
  bool repeat;          /* may be given more than once */
  const char *const *choices; /* allowed texts, ended by NULL; NULL: any */
} cli_flag;

typedef struct cli_args cli_args;

enum {
  CLI_TAKES_WORDS = 1, /* key=value words */
  CLI_TAKES_PLAIN = 2, /* arguments that are neither flags nor key=value */
  CLI_HIDDEN = 4       /* not in the list of verbs */
};

typedef struct {
  const char *name;    /* "train" */
  const char *usage;   /* what follows "ratplus NAME" */
  const char *summary; /* one sentence, lower case, no full stop */
  const char *detail;  /* paragraphs separated by empty lines; lines that start with two spaces are
                          kept as they are; NULL none */
  const cli_flag *flags;   /* own flags, ended by name NULL; NULL none. --help is everybody's */
  const char *const *subs; /* "loss\twhat it does", ended by NULL: the first argument must be one of
                              them. NULL: no such words */
  unsigned takes;
  int (*run)(const cli_args *a);
} cli_verb;

extern const cli_verb *const cli_verbs[]; /* in the order of help; ended by NULL */
const cli_verb *cli_verb_find(const char *name);

/* Flags that many verbs share, for use inside a list of flags. */
#define CLI_FLAG_CONFIGS \
  { \
    .name = "configs", .type = CLI_TEXT, .value = "DIR", \
    .help = "read this tree of configurations (also configs_dir=DIR)" \
  }
#define CLI_FLAG_CONFIG \
  { \
    .name = "config", .type = CLI_TEXT, .value = "FILE", \
    .help = "start from this composed configuration (YAML or JSON) instead of a tree" \
  }
#define CLI_FLAG_JSON \
  { .name = "json", .type = CLI_SWITCH, .help = "print JSON" }
#define CLI_FLAG_MODEL \
  { \
    .name = "model", .letter = 'm', .type = CLI_TEXT, .value = "PATH", .repeat = true, \
    .help = "a model directory, checkpoint, run directory or reference .pth" \
  }
#define CLI_FLAG_PATTERN \
  { \
    .name = "pattern", .type = CLI_TEXT, .value = "P", .repeat = true, \
    .help = "what a query sees, as in 'D=16,W=256,I=4'; quote it" \
  }
#define CLI_FLAG_TOKENIZER \
  { .name = "tokenizer", .type = CLI_TEXT, .value = "FILE", .help = "a SentencePiece model" }
#define CLI_FLAG_THREADS \
  { \
    .name = "threads", .letter = 't', .type = CLI_INT, .value = "N", \
    .help = "threads to use (default: the physical cores this process may use)" \
  }
#define CLI_FLAG_DTYPE \
  { \
    .name = "dtype", .type = CLI_TEXT, .value = "TYPE", .choices = cli_dtypes, \
    .help = "compute in float32 or bfloat16" \
  }
#define CLI_FLAG_DEVICE \
  { \
    .name = "device", .type = CLI_TEXT, .value = "DEVICE", .choices = cli_devices, \
    .help = "auto, cpu or cuda (default: auto)" \
  }
#define CLI_FLAG_SEED \
  { \
    .name = "seed", .letter = 's', .type = CLI_INT, .value = "N", .fallback = "0", \
    .help = "seed of every random choice" \
  }
#define CLI_FLAG_RANKS \
  { \
    .name = "ranks", .type = CLI_INT, .value = "N", \
    .help = "how many ranks the launcher started; 1: this process is alone whatever it says" \
  }
#define CLI_FLAG_DEADLINE \
  { \
    .name = "deadline", .type = CLI_REAL, .value = "S", \
    .help = "seconds after which a rank that does not answer ends all (default: 300)" \
  }
#define CLI_FLAG_LINK_RATE \
  { \
    .name = "link-rate", .type = CLI_REAL, .value = "GB/s", \
    .help = "send no faster than this, to try out a slower network" \
  }
#define CLI_FLAGS_END \
  { .name = NULL }
extern const char *const cli_dtypes[], *const cli_devices[];

/* --- arguments, as parsed and checked against the table ----------------------------------- */

bool cli_has(const cli_args *a, const char *flag); /* given, not by default */
size_t cli_count(const cli_args *a, const char *flag);
const char *cli_text(const cli_args *a, const char *flag); /* the last; the default; NULL */
const char *cli_text_at(const cli_args *a, const char *flag, size_t i);
int64_t cli_int(const cli_args *a, const char *flag); /* 0 when absent and without default */
double cli_real(const cli_args *a, const char *flag);
/* Numbers of CLI_INTS (or CLI_REALS); *n of them; live as long as a. */
const int64_t *cli_ints(const cli_args *a, const char *flag, size_t *n);
const double *cli_reals(const cli_args *a, const char *flag, size_t *n);
const char *const *cli_words(const cli_args *a, size_t *n); /* key=value */
const char *const *cli_plain(const cli_args *a, size_t *n);
const char *cli_sub(const cli_args *a); /* the verb's own first word; NULL */
const cli_verb *cli_args_verb(const cli_args *a);
const char *cli_program_dir(const cli_args *a);

/* Composes the words as --configs and --config say, prints the tree that was used to stderr.
 * Returns an exit code, the error already printed. */
int cli_compose(const cli_args *a, bool need_experiment, rp_config **out);
/* The same with these words in place of the command line's. */
int cli_compose_words(const cli_args *a, const char *const *words, size_t n, bool need_experiment,
                      rp_config **out);
/* Applies --threads where the verb has it; an exit code. */
int cli_use_threads(const cli_args *a);

/* --- output ------------------------------------------------------------------------------- */

/* On stdout: s quoted and escaped; `,"name":x`, nothing when x was not measured. The program never
 * sets a locale, so printf's point is a point. */
void cli_json_string(const char *s);
void cli_json_text(const char *s, size_t n); /* n bytes, which may hold NUL */
void cli_json_real(const char *name, double x);

/* "ratplus: error: TEXT" to stderr; returns the exit code of the error. */
int cli_error(const rp_error *err);
int cli_fail(rp_status status, const char *fmt, ...) RP_PRINTF(2, 3);
/* A line to stderr, above a progress bar that may be there. */
void cli_note(const char *fmt, ...) RP_PRINTF(1, 2);
bool cli_colours(FILE *f); /* a terminal, and NO_COLOR is not set */
bool cli_utf8(void);       /* the locale's characters are UTF-8 */
/* Writes a whole text file and says so; an exit code, the error printed. */
int cli_write_file(const char *path, const char *text);

/* A bar on stderr when that is a terminal, nothing elsewhere. One at a time. */
typedef struct {
  bool terminal, drawn;
  double started, last; /* seconds */
} cli_progress;
double cli_seconds(void); /* of a clock that only goes forward */
void cli_progress_start(cli_progress *p);
/* done of total (0: unknown) and a text; draws at most ten times a second, and always at the end. */
void cli_progress_update(cli_progress *p, uint64_t done, uint64_t total, const char *text);
void cli_progress_end(cli_progress *p);
/* Takes the bar off the screen before a line is printed; the next update draws it again. */
void cli_progress_clear(void);

/* --- signals ------------------------------------------------------------------------------ */

/* From here on SIGTERM, SIGINT, SIGUSR1 and SIGHUP (unless it was ignored) set the flag; a second
 * one ends the program at once with 128+n. SIGPIPE is ignored. */
void cli_signals_catch(void);
/* Becomes the number of the first signal; 0 before. May be read from any thread. */
const volatile int *cli_stop_flag(void);

/* --- help ---------------------------------------------------------------------------------- */

void cli_help(FILE *out);
void cli_help_verb(FILE *out, const cli_verb *v);
void cli_man(FILE *out);
int cli_completion(FILE *out, const char *shell);
/* Wraps `text` at 80 columns, every line but the first after `indent` blanks. */
void cli_wrap(FILE *out, const char *text, int column, int indent);
/* The nearest of n names, NULL when none is near. */
const char *cli_nearest(const char *wanted, const char *const *names, size_t n);

/* Parses argv[2..] for the verb. 0, or an exit code with the error printed. */
int cli_args_parse(cli_args **out, const cli_verb *v, int argc, char **argv);
void cli_args_free(cli_args *a);
/* Folder of the running program into buf; "" when the system does not say. */
void cli_find_program_dir(char *buf, size_t size);
/* Where the library's messages go: stderr, with colours on a terminal. */
void cli_log(void *ctx, rp_log_level level, const char *line);

/* --- ranks -------------------------------------------------------------------------------- */

void cli_hush(bool on);    /* cli_note says nothing: another rank does */
void cli_silence(bool on); /* nor does cli_error */
/* Joins the ranks that --ranks or a launcher's variables tell of; *out NULL: alone. The verb has the
 * flags ranks, deadline, link-rate. */
int cli_ranks_join(const cli_args *a, rp_ranks **out);
/* Prints the error where this rank is the one to; the exit code. */
int cli_ranks_error(rp_ranks *r, const rp_error *err);
/* Parts, and returns code; after a failure among ranks it ends the program with it. */
int cli_ranks_leave(rp_ranks *r, int code);

#endif
