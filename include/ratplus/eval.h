/* ratplus/eval.h - what a trained model loses on a text, pattern by pattern; the curves of runs.
 *
 * Calls are independent of each other; each is one thread's. */
#ifndef RATPLUS_EVAL_H
#define RATPLUS_EVAL_H

#include <signal.h>
#include "ratplus/config.h"
#include "ratplus/ranks.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  size_t size;              /* sizeof this struct; filled by rp_eval_defaults */
  const char *model;        /* model directory, checkpoint, run or .pth; NULL: see rp_eval_loss */
  const char *const *words; /* "key=value" over the model's own configuration */
  size_t n_words;
  const char *const *patterns; /* as in "D=16,W=256"; none: the model's own */
  size_t n_patterns;
  const char *data;   /* token file: every full window of it */
  int seq_len;        /* 0: the model's */
  int num_bytes;      /* per id in `data`; 0: FILE.json, else the model's configuration */
  const char *dtype;  /* "float32", "bfloat16"; NULL: the configuration's, else float32 */
  const char *device; /* "auto", "cpu", "cuda"; NULL: auto */
  rp_ranks *ranks; /* who shares the batches; NULL: this process alone. Rows are the same on all */
  const volatile sig_atomic_t *stop;                     /* polled between batches; NULL: never */
  void (*progress)(void *ctx, int64_t done, int64_t of); /* batches over all patterns; NULL */
  void *ctx;
} rp_eval_opts;
RP_API void rp_eval_defaults(rp_eval_opts *o);

typedef struct {
  char *pattern; /* as it was used; free all rows with rp_eval_free */
  int trained;   /* the model was trained in this pattern */
  double loss, perplexity;
  int64_t tokens;  /* labels that counted */
  int64_t windows; /* sequences read */
  int seq_len;
  double seconds, tokens_per_second;
  double cache_bytes_per_token; /* of keys and values in bfloat16 over a sequence of seq_len */
} rp_eval_row;

/* Loss of a model on a token file, token-weighted: one row a pattern, in the order given. Without
 * patterns: the one of the model's configuration, or D=1 if it was trained jointly.
 *
 * c NULL: opts.model and opts.data say what; every full window counts, nothing is floored, labels
 * after the end of a document do not count. c given: what the run of this configuration validates on,
 * by the val loader's rules, in its configured pattern and, trained jointly, in D=1: the run's own
 * val_loss and val_loss_dense; the model is opts.model, else trainer.pretrained_path, else the
 * run's own latest checkpoint.
 *
 * RP_USAGE: nothing to run, a pattern that does not fit. RP_BAD_DATA: model or tokens. RP_STOPPED:
 * asked to. */
RP_API rp_status rp_eval_loss(const rp_config *c, const rp_eval_opts *opts, rp_eval_row **rows,
                              size_t *n, rp_error *err);
RP_API void rp_eval_free(rp_eval_row *rows, size_t n);

/* Loss curves of run directories as one SVG (free with rp_free): train_loss, and val_loss where it
 * was measured. RP_BAD_DATA when a run has no metrics. */
RP_API rp_status rp_runs_svg(const char *const *dirs, size_t n, char **svg, rp_error *err);

#ifdef __cplusplus
}
#endif
#endif
