/* join.h - the parts of a corpus joined into train.bin and val.bin. One thread.
 *
 * Documents keep the order of the inputs, or take that of a seed: then document k is number
 * perm(k), a keyed bijection that needs no memory, and the documents' places are looked up in the
 * mapped indexes of the parts. The held-out tokens are the last documents of that order. */
#ifndef RP_TEXT_JOIN_H
#define RP_TEXT_JOIN_H

#include "text/part.h"
#include "text/ticker.h"

typedef struct {
  const char *dir;    /* of the parts; the results are made here too, then renamed */
  const char *out;    /* the folder for train.bin and val.bin */
  char *const *names; /* [n] */
  size_t n;
  int num_bytes, vocab_size, eos; /* eos -1: none */
  bool shuffle;
  uint64_t seed;
  double val_share;
  int64_t val_tokens;
  const char *tokenizer_sha256, *made_from;
  rp_ticker *ticker;
} rp_join_spec;
rp_status rp_join(const rp_join_spec *s, int64_t *train_tokens, int64_t *val_tokens, rp_error *err);

/* perm(k) of 0 <= k < n, n > 0: a bijection of [0, n) for each seed. */
uint64_t rp_shuffled(uint64_t seed, uint64_t n, uint64_t k);

#endif
