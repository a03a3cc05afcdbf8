/* ratplus/info.h - particulars of what lies at a path. Any thread; nothing is written. */
#ifndef RATPLUS_INFO_H
#define RATPLUS_INFO_H

#include "ratplus/config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  RP_PATH_NOTHING = 0, /* no such file or folder */
  RP_PATH_MODEL,       /* a model directory, a checkpoint, a .safetensors file or a .pth */
  RP_PATH_RUN,         /* a run directory */
  RP_PATH_TOKENS,      /* a token file: it ends in .bin or has FILE.json beside it */
  RP_PATH_OTHER
} rp_path_kind;
RP_API rp_path_kind rp_path_look(const char *path);

/* What a model, checkpoint or .pth is: sizes, parameters, dtype, pattern, bytes of cache per token,
 * tensors; as lines for a person or as JSON (free with rp_free). Words ("key=value") fill in what
 * the file does not say. RP_BAD_DATA when it is damaged, RP_USAGE for a size that is missing. */
RP_API rp_status rp_model_info(const char *path, const char *const *words, size_t n_words, int json,
                               char **text, rp_error *err);

/* What a pattern sees and costs, beside D=1: keys a query sees, cache entries and blocks; where a
 * model is known, operations and bytes of a layer and of all of them; pictures of the mask and of
 * which layer and head has which. */
typedef struct {
  size_t size;         /* sizeof this struct; filled by rp_pattern_defaults */
  const char *pattern; /* "D=16,W=256,I=4" */
  int64_t seq_len;     /* tokens, 1 to 2^30; 0: the model's, else 4096 */
  const char *model;   /* what rp_model_info takes, with `words`; NULL */
  const char *const *words;
  size_t n_words;
  const rp_config *config; /* instead of model: a run's configuration; NULL */
  int layers, kv_heads;    /* with neither: how many the lists in the pattern are for; default 1 */
  int json;                /* numbers alone, one object and a newline */
  int colours, utf8;       /* what the reader of the text can show; default 0 */
} rp_pattern_opts;
RP_API void rp_pattern_defaults(rp_pattern_opts *o);
/* The text, and the pictures as one SVG document unless svg is NULL (free both with rp_free). */
RP_API rp_status rp_pattern_info(const rp_pattern_opts *o, char **text, char **svg, rp_error *err);

/* This machine: processor, level of kernels, how bfloat16 is multiplied, threads, memory; as lines
 * for a person or as JSON (free with rp_free). */
RP_API rp_status rp_info_machine(int json, char **text, rp_error *err);

#ifdef __cplusplus
}
#endif
#endif
