/* sha256.h - SHA-256 (FIPS 180-4), to name tokenizers and parts of a corpus. One thread each. */
#ifndef RP_TEXT_SHA256_H
#define RP_TEXT_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  uint32_t h[8];
  uint64_t bytes;
  uint8_t block[64];
} rp_sha256;
void rp_sha256_init(rp_sha256 *s);
void rp_sha256_add(rp_sha256 *s, const void *data, size_t n);
/* 64 lower-case hex digits and a NUL; s must be initialised again after it. */
void rp_sha256_hex(rp_sha256 *s, char out[65]);

#endif
