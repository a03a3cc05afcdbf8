/* ratplus/info.h - particulars of what lies at a path. Any thread; nothing is written. */
#ifndef RATPLUS_INFO_H
#define RATPLUS_INFO_H

#include "ratplus/base.h"

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

/* What a pattern ("D=16,W=256,I=4") sees of a sequence of seq_len tokens and what a cache keeps of
 * it; short sequences are drawn. layers and kv_heads (1 where the pattern is one for all) say how
 * many the lists in it are for. Free with rp_free. */
RP_API rp_status rp_pattern_info(const char *pattern, int64_t seq_len, int layers, int kv_heads,
                                 int json, char **text, rp_error *err);

/* This machine: processor, level of kernels, how bfloat16 is multiplied, threads, memory; as lines
 * for a person or as JSON (free with rp_free). */
RP_API rp_status rp_info_machine(int json, char **text, rp_error *err);

#ifdef __cplusplus
}
#endif
#endif
