/* spm.h - SentencePiece behind plain C: the only door to that C++ library.
 *
 * A processor is immutable once open: any thread may encode and decode with it. Nothing is printed.
 * A build without SentencePiece has the same functions; each fails with a sentence. */
#ifndef RP_TEXT_SPM_H
#define RP_TEXT_SPM_H

#include "base/mem.h"

/* A growing list of ids, freed with rp_free(ids.id). */
typedef struct {
  int32_t *id;
  size_t n, cap;
} rp_ids;

typedef struct rp_spm rp_spm;
/* proto: the bytes of a .model file, named `name` in errors. */
rp_status rp_spm_open(rp_spm **out, const void *proto, size_t len, const char *name, rp_error *err);
void rp_spm_close(rp_spm *s); /* NULL is fine */
/* Appends the ids of text exactly as SentencePiece gives them, without BOS or EOS. */
rp_status rp_spm_encode(const rp_spm *s, const char *text, size_t len, rp_ids *out, rp_error *err);
/* The text of n ids, each in [0, size) (free with rp_free). */
rp_status rp_spm_decode(const rp_spm *s, const int32_t *ids, size_t n, char **text, size_t *len,
                        rp_error *err);

int rp_spm_size(const rp_spm *s);
int rp_spm_unk(const rp_spm *s); /* -1: none; so bos and eos */
int rp_spm_bos(const rp_spm *s);
int rp_spm_eos(const rp_spm *s);
/* The piece as in the model ("\xe2\x96\x81the"); lives as long as s. */
const char *rp_spm_piece(const rp_spm *s, int id, size_t *len);
bool rp_spm_is_control(const rp_spm *s, int id);
bool rp_spm_is_byte(const rp_spm *s, int id);
int rp_spm_id(const rp_spm *s, const char *piece, size_t len);

typedef struct {
  int vocab_size;
  double coverage;   /* share of the characters that get pieces of their own */
  bool split_digits; /* every digit is a piece */
  /* The next sentence, valid until the next call; *s NULL at the end. */
  rp_status (*next)(void *ctx, const char **s, size_t *len, rp_error *err);
  void *ctx;
} rp_spm_train_spec;
/* A BPE model with byte fallback (unk 0, bos 1, eos 2) as LLaMA's, in *proto (free with rp_free).
 * The same sentences give the same bytes: the library's number of threads, which it records in the
 * model, is left as it is. */
rp_status rp_spm_train(const rp_spm_train_spec *spec, char **proto, size_t *len, rp_error *err);

#endif
