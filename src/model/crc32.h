/* crc32.h - the checksum of zip archives (CRC-32, reflected 0xEDB88320). Pure. */
#ifndef RP_MODEL_CRC32_H
#define RP_MODEL_CRC32_H

#include <stdint.h>

uint32_t rp_crc32(const void *data, uint64_t bytes);

#endif
