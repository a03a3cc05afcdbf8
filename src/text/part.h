/* part.h - the tokens of one input file, and where its documents end: what an interrupted
 * tokenization keeps. One thread each.
 *
 * Two files: NAME.bin holds the ids; NAME.idx, written first, the number of ids up to the end of
 * each document (u64) and a trailer of eight u64. A part is there when both are, and agree. */
#ifndef RP_TEXT_PART_H
#define RP_TEXT_PART_H

#include "base/file.h"
#include "base/str.h"

typedef struct {
  uint64_t docs, tokens, empty, invalid, bytes;
} rp_part_stats;

/* *found: the finished part is there. Fails only when memory is short. */
rp_status rp_part_find(const char *dir, const char *name, int num_bytes, bool *found,
                       rp_part_stats *out, rp_error *err);

typedef struct rp_part_writer rp_part_writer;
rp_status rp_part_create(rp_part_writer **w, const char *dir, const char *name, int num_bytes,
                         rp_error *err);
void rp_part_add(rp_part_writer *w, const int32_t *ids, size_t n);
void rp_part_end_doc(rp_part_writer *w);
rp_part_stats *rp_part_counts(rp_part_writer *w); /* empty, invalid and bytes are the caller's */
rp_status rp_part_commit(rp_part_writer *w, rp_error *err); /* frees w */
void rp_part_cancel(rp_part_writer *w);                     /* frees w; NULL is fine */

/* A finished part, mapped. */
typedef struct {
  rp_map ids, idx;
} rp_part;
rp_status rp_part_open(rp_part *p, const char *dir, const char *name, rp_error *err);
void rp_part_close(rp_part *p);
/* Tokens of the part before the end of document d; d -1: 0. */
uint64_t rp_part_end(const rp_part *p, int64_t d);

#endif
