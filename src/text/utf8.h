/* utf8.h - the little about UTF-8 that readers of text need. No state. */
#ifndef RP_TEXT_UTF8_H
#define RP_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the well-formed character at s (1 to 4), 0 when there is none; n > 0. */
int rp_utf8_next(const char *s, size_t n);
bool rp_utf8_valid(const char *s, size_t n);
/* s[0, n) is the beginning of a well-formed character and not all of it. */
bool rp_utf8_begins(const char *s, size_t n);
/* Writes the character of a code point (a surrogate becomes U+FFFD); returns its bytes, 1 to 4. */
int rp_utf8_put(char out[4], uint32_t code);
/* The largest p <= at that is not inside a character of s. */
size_t rp_utf8_floor(const char *s, size_t at);

#endif
