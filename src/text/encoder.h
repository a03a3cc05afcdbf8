/* encoder.h - tokenizers opened, and text encoded quickly: word by word where that is exact.
 *
 * With byte-pair models of the LLaMA family no piece reaches over the place where a word ends and a
 * space begins, so a text may be encoded in parts. Whether that holds is read from the model when
 * it is opened; where it does not, texts are encoded whole. */
#ifndef RP_TEXT_ENCODER_H
#define RP_TEXT_ENCODER_H

#include "base/str.h"
#include "ratplus/text.h"
#include "text/spm.h"

/* A run of more bytes than this without a place to cut is cut between two characters: nothing that
 * people write, and SentencePiece would take a hundred times its size in memory. */
enum { RP_WORD_MOST = 1 << 20 };

/* Where a text may be cut without a change of its ids. */
typedef struct {
  bool spaces;   /* in front of a space that follows something else */
  bool newlines; /* on both sides of a line feed */
} rp_cuts;
/* The first allowed cut in (from, len), len when there is none. */
size_t rp_cut_next(rp_cuts cuts, const char *s, size_t from, size_t len);
/* The last allowed cut in (0, len), 0 when there is none. */
size_t rp_cut_last(rp_cuts cuts, const char *s, size_t len);

struct rp_tokenizer {
  rp_spm *whole; /* the model as it is */
  rp_spm *rest;  /* the same without a space in front of the text: for what follows a cut */
  rp_cuts cuts;
  bool prefix; /* the model puts a space in front of a text */
  int size, unk, bos, eos;
  char sha256[65];
  char *bytes;       /* what each id adds to a text */
  size_t *bytes_at;  /* [size + 1] */
  int32_t *controls; /* ids of the control pieces */
  int n_controls;
};

/* A tokenizer of the bytes of a .model file, named `name` in errors. */
rp_status rp_tokenizer_load(rp_tokenizer **out, const char *proto, size_t len, const char *name,
                            rp_error *err);

/* Encodes for one thread: remembers the ids of short words. */
typedef struct rp_encoder rp_encoder;
rp_status rp_encoder_open(rp_encoder **e, const rp_tokenizer *t, rp_error *err);
void rp_encoder_close(rp_encoder *e); /* NULL is fine */
/* Appends the ids of a piece of a document: `begins` for its first, then pieces cut at allowed
 * places. */
rp_status rp_encoder_add(rp_encoder *e, const char *s, size_t len, bool begins, rp_ids *out,
                         rp_error *err);

#endif
