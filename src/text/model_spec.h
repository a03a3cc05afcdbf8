/* model_spec.h - the few settings of a SentencePiece model file that decide how texts may be cut,
 * read from its protocol buffer. No state. */
#ifndef RP_TEXT_MODEL_SPEC_H
#define RP_TEXT_MODEL_SPEC_H

#include "base/str.h"

typedef struct {
  bool bpe, byte_fallback;
  bool charsmap; /* characters are rewritten (NFKC and the like) */
  bool dummy_prefix, remove_extra_spaces, escape_spaces;
} rp_model_spec;
/* false: not a model file. */
bool rp_model_spec_read(rp_model_spec *s, const char *proto, size_t len);
/* Appends the model to out without its self-test and with no space put in front of texts. */
bool rp_model_spec_bare(const char *proto, size_t len, rp_str *out);

#endif
