/* What goes to stderr: errors and the library's messages; what verbs share besides. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

bool cli_colours(FILE *f) {
  const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
  return isatty(fileno(f)) && !(no && *no) && !(term && strcmp(term, "dumb") == 0);
}

static void labelled(const char *label, const char *colour, const char *text) {
  const bool colours = cli_colours(stderr);
  cli_progress_clear();
  fprintf(stderr, "ratplus: %s%s%s%s\n", colours ? colour : "", label, colours ? "\033[0m" : "",
          text);
}

static bool silent;
void cli_silence(bool on) { silent = on; }

int cli_error(const rp_error *err) {
  const char *text = *err->text ? err->text : "failed without saying why";
  if (!silent) labelled("error: ", "\033[1;31m", text);
  return err->status ? (int)err->status : RP_FAIL;
}

int cli_fail(rp_status status, const char *fmt, ...) {
  rp_error err = {.status = status};
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(err.text, sizeof err.text, fmt, ap);
  va_end(ap);
  return cli_error(&err);
}

static bool hushed;
void cli_hush(bool on) { hushed = on; }

void cli_note(const char *fmt, ...) {
  va_list ap;
  if (hushed) return;
  cli_progress_clear();
  va_start(ap, fmt);
  vfprintf(stderr, fmt, ap);
  va_end(ap);
  fputc('\n', stderr);
}

void cli_log(void *ctx, rp_log_level level, const char *line) {
  (void)ctx;
  if (level >= RP_LOG_WARNING) {
    labelled("warning: ", "\033[1;33m", line);
  } else if (level == RP_LOG_NOTICE) {
    labelled("notice: ", "\033[1m", line);
  } else {
    labelled("", "", line);
  }
}

/* The locale's variables alone are read; none is set. */
bool cli_utf8(void) {
  static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
  for (int i = 0; i < 3; i++) {
    const char *value = getenv(names[i]);
    if (value && *value) return strcasestr(value, "utf-8") || strcasestr(value, "utf8");
  }
  return false;
}

/* Beside and renamed, so that no half file stands under its name. */
int cli_write_file(const char *path, const char *text) {
  char tmp[4200];
  if (snprintf(tmp, sizeof tmp, "%s.tmp-%ld", path, (long)getpid()) >= (int)sizeof tmp)
    return cli_fail(RP_USAGE, "%.40s...: the name is too long", path);
  FILE *f = fopen(tmp, "w");
  if (!f) return cli_fail(RP_FAIL, "cannot write %s: %s", path, strerror(errno));
  const bool bad = fputs(text, f) == EOF;
  if (fclose(f) || bad || rename(tmp, path)) {
    const int code = cli_fail(RP_FAIL, "cannot write %s: %s", path, strerror(errno));
    remove(tmp);
    return code;
  }
  cli_note("wrote %s", path);
  return 0;
}

/* --- the program itself ------------------------------------------------------------------- */

void cli_find_program_dir(char *buf, size_t size) {
  const ssize_t n = readlink("/proc/self/exe", buf, size - 1);
  buf[n > 0 ? n : 0] = '\0';
  char *slash = strrchr(buf, '/');
  if (slash) *slash = '\0';
}

int cli_compose(const cli_args *a, bool need_experiment, rp_config **out) {
  size_t n;
  const char *const *words = cli_words(a, &n);
  return cli_compose_words(a, words, n, need_experiment, out);
}

int cli_compose_words(const cli_args *a, const char *const *words, size_t n, bool need_experiment,
                      rp_config **out) {
  rp_config_opts o;
  rp_error err = {0};
  rp_config_defaults(&o);
  o.configs_dir = cli_text(a, "configs");
  o.file = cli_text(a, "config");
  o.program_dir = cli_program_dir(a);
  o.need_experiment = need_experiment && !o.file;
  if (rp_config_compose(out, words, n, &o, &err)) return cli_error(&err);
  if (rp_config_dir(*out)) {
    cli_note("configs: %s", rp_config_dir(*out));
  } else {
    cli_note("configuration: %s", o.file);
  }
  return 0;
}

int cli_use_threads(const cli_args *a) {
  if (!cli_has(a, "threads")) return 0;
  const int64_t n = cli_int(a, "threads");
  if (n < 1 || n > 4096) {
    return cli_fail(RP_USAGE, "--threads %lld: must be from 1 to 4096", (long long)n);
  }
  rp_threads_set((int)n);
  return 0;
}
