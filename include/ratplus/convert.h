/* ratplus/convert.h - models from one kind of file to another: the reference's .pth, model
 * directories, checkpoints. Any thread; files are replaced whole or not at all. */
#ifndef RATPLUS_CONVERT_H
#define RATPLUS_CONVERT_H

#include "ratplus/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  size_t size;           /* sizeof this struct; filled by rp_convert_defaults */
  const char *dtype;     /* "float32", "bfloat16", also of a run of it; NULL: as in the input */
  const char *tokenizer; /* a SentencePiece model copied along; NULL: the input's, if any */
  int with_optimizer;    /* optimizer state and step too: a checkpoint that training goes on from */
  int overwrite;         /* an existing output is replaced */
  const char *const *words; /* "key=value": what the input does not say, or says otherwise */
  size_t n_words;
} rp_convert_opts;
RP_API void rp_convert_defaults(rp_convert_opts *o);

/* Reads `in` (a model directory, a checkpoint, a run directory, a .safetensors file or a .pth) and
 * writes `out`: a model directory, or a .pth when it ends in .pth. RP_USAGE when `out` is there
 * already or a size is unknown (it names the key), RP_BAD_DATA when `in` is damaged. */
RP_API rp_status rp_convert(const char *in, const char *out, const rp_convert_opts *opts,
                            rp_error *err);

#ifdef __cplusplus
}
#endif
#endif
