/* run_model.h - what the verbs that run a model share: the model, its pattern, its tokenizer. Each
 * function returns an exit code, its error printed. */
#ifndef RATPLUS_CLI_RUN_MODEL_H
#define RATPLUS_CLI_RUN_MODEL_H

#include "cli/cli.h"
#include "ratplus/session.h"
#include "ratplus/text.h"

typedef struct {
  rp_model *model;
  rp_model_facts facts;
  char *pattern; /* the one that is used */
  rp_tokenizer *tokenizer;
} cli_model;

/* --model (or experiment=..., whose trainer.pretrained_path it then is, in its pattern and dtype) with
 * --dtype, --device, --threads and words; --pattern, or the model's own. Prints the pattern to stderr,
 * and a notice when the model was not trained in it. */
int cli_model_open(const cli_args *a, cli_model *m);
/* --tokenizer, or the model's own. */
int cli_model_tokenizer(const cli_args *a, cli_model *m);
void cli_model_close(cli_model *m); /* {0} is fine */

/* Bytes of pool: --cache-mib, else what sessions of these lengths take together, within reason. */
int cli_cache_bytes(const cli_args *a, const cli_model *m, const int64_t *tokens, size_t n,
                    uint64_t *bytes);

/* "1.25 MiB" */
void cli_format_bytes(char out[32], uint64_t bytes);

#define CLI_FLAG_CACHE \
  { \
    .name = "cache-mib", .type = CLI_INT, .value = "N", \
    .help = \
        "MiB of memory for keys and values (default: what is needed, at most half of what " \
        "is free)" \
  }

#endif
