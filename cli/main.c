#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

static int unknown_verb(const char *name) {
  const char *names[64];
  size_t n = 0;
  for (; cli_verbs[n] && n < 64; n++) names[n] = cli_verbs[n]->name;
  const char *near = cli_nearest(name, names, n);
  return cli_fail(RP_USAGE, "there is no verb %s%s%s%s; `ratplus --help` lists them", name,
                  near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

/* A full disk or a closed pipe behind stdout is a failure too. */
static int finish(int code) {
  errno = 0;
  if (fflush(stdout) == 0 && !ferror(stdout)) return code;
  const int said =
      cli_fail(RP_FAIL, "writing the results failed: %s", strerror(errno ? errno : EIO));
  return code ? code : said;
}

static int run_verb(const cli_verb *v, int argc, char **argv) {
  cli_args *a;
  int code = cli_args_parse(&a, v, argc, argv);
  if (code) return code;
  if (cli_has(a, "help")) {
    cli_help_verb(stdout, v);
  } else {
    code = v->run(a);
  }
  cli_args_free(a);
  return code;
}

int main(int argc, char **argv) {
  rp_log_set(cli_log, NULL, getenv("RATPLUS_DEBUG") ? RP_LOG_DEBUG : RP_LOG_INFO);
  if (argc < 2) {
    cli_help(stderr);
    return RP_USAGE;
  }
  const char *verb = argv[1];
  if (strcmp(verb, "--version") == 0) {
    printf("%s\n", rp_build_info());
    return finish(0);
  }
  const bool help =
      strcmp(verb, "--help") == 0 || strcmp(verb, "-h") == 0 || strcmp(verb, "help") == 0;
  if (help && argc < 3) {
    cli_help(stdout);
    return finish(0);
  }
  const cli_verb *v = cli_verb_find(help ? argv[2] : verb);
  if (!v) return unknown_verb(help ? argv[2] : verb);
  if (help) {
    cli_help_verb(stdout, v);
    return finish(0);
  }
  return finish(run_verb(v, argc, argv));
}
