/* loader.h - token files, and the micro-batches that training and validation read from them.
 *
 * A token file is raw little-endian ids; it is mapped, never copied. A loader serves the micro-
 * batches of one share (spec: shards) in the order that model.md section 5 fixes. One thread each. */
#ifndef RP_DATA_LOADER_H
#define RP_DATA_LOADER_H

#include "base/file.h"
#include "base/rng.h"
#include "config/settings.h"

/* PATH.json beside a token file; -1 for what it does not say. Unknown keys are ignored. */
typedef struct {
  bool found;
  int64_t num_bytes, vocab_size, eos, tokens;
} rp_sidecar;
/* A missing sidecar is found = false; one that cannot be read is RP_BAD_DATA. */
rp_status rp_sidecar_read(rp_sidecar *s, const char *tokens_path, rp_error *err);

typedef struct {
  rp_map map;
  char *path;
  int num_bytes;  /* 1, 2 or 4 */
  bool is_signed; /* SFT files */
  int64_t tokens;
} rp_tokens;
/* Opens and checks size and sidecar (PATH.json, where there is one: a contradicting num_bytes,
 * vocab_size or number of tokens is RP_BAD_DATA). num_bytes 0: as the sidecar says. V > 0: every
 * id is checked against it as it is read. */
rp_status rp_tokens_open(rp_tokens *t, const char *path, int num_bytes, bool is_signed, int V,
                         rp_error *err);
void rp_tokens_close(rp_tokens *t);
/* Copies ids [from, from+n) widened to int32; RP_BAD_DATA names file and position of an id outside
 * [lo, V). V 0: not checked. */
rp_status rp_tokens_get(const rp_tokens *t, int64_t from, int64_t n, int32_t lo, int32_t V,
                        int32_t *out, rp_error *err);
/* The id at `at` (0 <= at < tokens), not checked. */
int64_t rp_tokens_id(const rp_tokens *t, int64_t at);
/* Looks for ids outside [lo, V) among [from, from+n): all of them up to 32 Mi ids, beyond that
 * evenly spread pieces of as many (what is read later is checked then). */
rp_status rp_tokens_scan(const rp_tokens *t, int64_t from, int64_t n, int32_t lo, int32_t V,
                         rp_error *err);

/* One number of [0, n), n > 0, as PyTorch's randint draws it on the CPU: next32 mod n below 2^28,
 * else (next32 * 2^32 + next32) mod n. */
uint64_t rp_loader_draw(rp_mt19937 *m, uint64_t n);

typedef struct rp_loader rp_loader;
/* Opens the files of `s` for share `share` of `shares`. Fails before the first step when there are
 * too few tokens for one global batch or a limit is too large (naming the largest that fits). */
rp_status rp_loader_open(rp_loader **l, const rp_load_settings *s, int share, int shares,
                         rp_error *err);
void rp_loader_close(rp_loader *l); /* NULL is fine */
/* Micro-batches of s->batch samples in one epoch of this share. */
int64_t rp_loader_batches(const rp_loader *l);
/* The next micro-batch: ids [batch, T] in [0, V), labels [batch, T] in [0, V) or -100. Goes on over
 * epochs. RP_BAD_DATA names file, sample and position. */
rp_status rp_loader_next(rp_loader *l, int32_t *ids, int32_t *labels, rp_error *err);
/* Moves so that `micro_batches` have been served since the start (resume; replays random draws). */
rp_status rp_loader_seek(rp_loader *l, int64_t micro_batches);
/* For reports: file offset (in tokens) of the first sample of the last micro-batch served. */
int64_t rp_loader_at(const rp_loader *l);

#endif
