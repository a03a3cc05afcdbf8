/* zip_read.h - the archive around a .pth: entries by name, mapped where they are stored plainly,
 * unpacked where they are not. The only user of libzip for reading. One thread; the mapping must
 * outlive it. */
#ifndef RP_MODEL_ZIP_READ_H
#define RP_MODEL_ZIP_READ_H

#include "base/file.h"

typedef struct rp_zip rp_zip;
/* RP_BAD_DATA for what is no zip; RP_USAGE in a build without libzip. */
rp_status rp_zip_open(rp_zip **z, rp_map map, const char *path, rp_error *err);
void rp_zip_close(rp_zip *z); /* NULL is fine */
size_t rp_zip_count(const rp_zip *z);
const char *rp_zip_name(const rp_zip *z, size_t i);
/* Index of an entry, or -1. */
int64_t rp_zip_find(const rp_zip *z, const char *name);
uint64_t rp_zip_bytes(const rp_zip *z, size_t i);
/* The entry's bytes inside the mapping; NULL when it is compressed. */
const uint8_t *rp_zip_mapped(const rp_zip *z, size_t i);
/* Unpacks rp_zip_bytes(z, i) bytes; checks the checksum. */
rp_status rp_zip_unpack(const rp_zip *z, size_t i, void *out, rp_error *err);

#endif
