/* unpack.h - the bytes of a text file: plain, gzip or zstd, or standard input. One thread each. */
#ifndef RP_TEXT_UNPACK_H
#define RP_TEXT_UNPACK_H

#include "base/mem.h"

typedef struct rp_unpack rp_unpack;
/* stop: NULL, or becomes nonzero, which ends the wait for a pipe with RP_STOPPED; outlives r.
 * "-" is standard input. What the file is shows in its first bytes. A UTF-8 mark in front of the
 * text is skipped; UTF-16, Parquet and other packers are RP_BAD_DATA with what to do about it. */
rp_status rp_unpack_open(rp_unpack **r, const char *path, const volatile int *stop, rp_error *err);
void rp_unpack_close(rp_unpack *r); /* NULL is fine */
/* Up to cap bytes; *n is 0 only at the end. A packed file that is cut off or broken is
 * RP_BAD_DATA. */
rp_status rp_unpack_read(rp_unpack *r, void *out, size_t cap, size_t *n, rp_error *err);
const char *rp_unpack_name(const rp_unpack *r); /* the path, or "standard input" */
int64_t rp_unpack_raw(const rp_unpack *r);      /* bytes taken from the file itself so far */

#endif
