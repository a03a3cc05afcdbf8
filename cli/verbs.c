/* The verbs, in the order help lists them. A further verb is two lines here. */
#include <string.h>

#include "cli/cli.h"

extern const cli_verb cli_verb_tokenizer, cli_verb_tokenize;
extern const cli_verb cli_verb_convert, cli_verb_info;
extern const cli_verb cli_verb_train, cli_verb_eval, cli_verb_bench;
extern const cli_verb cli_verb_score, cli_verb_generate;
extern const cli_verb cli_verb_config, cli_verb_man, cli_verb_completion;

/* clang-format off: a line each, so that two additions do not meet. */
const cli_verb *const cli_verbs[] = {
    &cli_verb_config,
    &cli_verb_tokenizer,
    &cli_verb_tokenize,
    &cli_verb_train,
    &cli_verb_eval,
    &cli_verb_score,
    &cli_verb_generate,
    &cli_verb_bench,
    &cli_verb_convert,
    &cli_verb_info,
    &cli_verb_man,
    &cli_verb_completion,
    NULL,
};
/* clang-format on */

const char *const cli_dtypes[] = {"float32", "bfloat16", NULL};
const char *const cli_devices[] = {"auto", "cpu", "cuda", NULL};

const cli_verb *cli_verb_find(const char *name) {
  for (int i = 0; cli_verbs[i]; i++) {
    if (strcmp(cli_verbs[i]->name, name) == 0) return cli_verbs[i];
  }
  return NULL;
}
