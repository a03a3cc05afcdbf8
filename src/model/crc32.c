/* crc32.c - eight bytes at a time through eight tables, so that saving is not bound by it. */
#include "model/crc32.h"

#include <pthread.h>

static uint32_t table[8][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
    table[0][i] = c;
  }
  for (int t = 1; t < 8; t++) {
    for (uint32_t i = 0; i < 256; i++)
      table[t][i] = table[t - 1][i] >> 8 ^ table[0][table[t - 1][i] & 255];
  }
}

uint32_t rp_crc32(const void *data, uint64_t bytes) {
  const uint8_t *p = data;
  uint32_t c = UINT32_MAX;
  pthread_once(&once, fill);
  for (; bytes >= 8; bytes -= 8, p += 8) {
    c ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    c = table[7][c & 255] ^ table[6][c >> 8 & 255] ^ table[5][c >> 16 & 255] ^ table[4][c >> 24] ^
        table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
  }
  for (; bytes; bytes--) c = c >> 8 ^ table[0][(c ^ *p++) & 255];
  return ~c;
}
