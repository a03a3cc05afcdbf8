/* docs.h - the documents of one input, in batches of bounded size. One thread each; a batch is
 * whoever holds it. */
#ifndef RP_TEXT_DOCS_H
#define RP_TEXT_DOCS_H

#include "base/str.h"
#include "ratplus/text.h"
#include "text/encoder.h"

/* A document, or a part of one cut where the encoder allows it. */
typedef struct {
  size_t at, len;      /* in the batch's text */
  uint64_t line;       /* of the file, from 1 */
  bool begins, ends;   /* the first, the last part of its document */
  bool blank, invalid; /* set when encoded: white space only; bytes that are not UTF-8 */
  size_t text_len;     /* set when encoded: bytes of its text */
  size_t ids_end;      /* set when encoded: its ids end here in the job's */
} rp_piece;

typedef struct {
  rp_str text;
  rp_piece *pieces;
  size_t n, cap;
  int64_t empty; /* documents of white space that were left out */
} rp_batch;
void rp_batch_free(rp_batch *b);

typedef struct rp_docs rp_docs;
/* `src` and `stop` (as for rp_unpack_open) must outlive it; path is one of its inputs. Pieces of JSON lines are whole lines, still
 * JSON. */
rp_status rp_docs_open(rp_docs **d, const rp_text_source *src, const char *path, rp_cuts cuts,
                       const volatile int *stop, rp_error *err);
void rp_docs_close(rp_docs *d); /* NULL is fine */
/* Fills b with about 256 KiB; b->n is 0 only at the end. A document longer than that is cut where
 * `cuts` allows; one with no such place in 16 MiB is cut at a space or between characters. */
rp_status rp_docs_next(rp_docs *d, rp_batch *b, rp_error *err);
int64_t rp_docs_raw(const rp_docs *d); /* bytes of the file used so far */
const char *rp_docs_name(const rp_docs *d);
bool rp_docs_is_jsonl(const rp_docs *d);

bool rp_text_is_blank(const char *s, size_t n); /* nothing but white space */
/* Checks the source's fields; RP_USAGE. */
rp_status rp_text_source_check(const rp_text_source *s, rp_error *err);
bool rp_text_is_jsonl(const rp_text_source *s, const char *path);

#endif
