#include "text/utf8.h"

int rp_utf8_next(const char *s, size_t n) {
  const uint8_t *p = (const uint8_t *)s;
  if (p[0] < 0x80) return 1;
  const int bytes = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
  if (p[0] < 0xc2 || p[0] > 0xf4 || n < (size_t)bytes) return 0;
  for (int i = 1; i < bytes; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  /* Overlong forms, surrogates, and what lies beyond U+10FFFF. */
  if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f)) return 0;
  if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) return 0;
  return bytes;
}

bool rp_utf8_valid(const char *s, size_t n) {
  for (size_t i = 0; i < n;) {
    int bytes = rp_utf8_next(s + i, n - i);
    if (!bytes) return false;
    i += (size_t)bytes;
  }
  return true;
}

bool rp_utf8_begins(const char *s, size_t n) {
  char whole[4];
  if (n == 0 || n > 3) return false;
  /* Filled up with the least bytes that are allowed there. */
  const uint8_t second = (uint8_t)s[0] == 0xe0 ? 0xa0 : (uint8_t)s[0] == 0xf0 ? 0x90 : 0x80;
  for (size_t i = 0; i < 4; i++) whole[i] = i < n ? s[i] : i == 1 ? (char)second : (char)0x80;
  return rp_utf8_next(whole, 4) > (int)n;
}

int rp_utf8_put(char out[4], uint32_t code) {
  if ((code >= 0xd800 && code < 0xe000) || code > 0x10ffff) code = 0xfffd;
  if (code < 0x80) {
    out[0] = (char)code;
    return 1;
  }
  const int bytes = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
  for (int i = bytes - 1; i > 0; i--, code >>= 6) out[i] = (char)(0x80 | (code & 0x3f));
  out[0] = (char)(lead[bytes] | code);
  return bytes;
}

size_t rp_utf8_floor(const char *s, size_t at) {
  size_t p = at;
  while (p > 0 && at - p < 3 && ((uint8_t)s[p] & 0xc0) == 0x80) p--;
  return ((uint8_t)s[p] & 0xc0) == 0x80 ? at : p;
}
