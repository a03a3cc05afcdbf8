/* ratplus man, ratplus completion: what packagers install, made from the table. */
#include <string.h>

#include "cli/cli.h"

static int run_man(const cli_args *a) {
  (void)a;
  cli_man(stdout);
  return 0;
}

static int run_completion(const cli_args *a) { return cli_completion(stdout, cli_sub(a)); }

static const char *const shells[] = {"bash\tfor bash", "zsh\tfor zsh", "fish\tfor fish", NULL};

const cli_verb cli_verb_man = {.name = "man",
                               .usage = "",
                               .summary = "print the manual page in roff",
                               .takes = CLI_HIDDEN,
                               .run = run_man};

const cli_verb cli_verb_completion = {
    .name = "completion",
    .usage = "bash|zsh|fish",
    .summary = "print a completion script",
    .detail = "  ratplus completion bash > /etc/bash_completion.d/ratplus",
    .subs = shells,
    .takes = CLI_HIDDEN,
    .run = run_completion};
