/* str.h - growing strings, and numbers read and written without the locale. */
#ifndef RP_BASE_STR_H
#define RP_BASE_STR_H

#include <stdarg.h>
#include "base/mem.h"

/* A growing string; {0} is empty. Errors are sticky: after a failed allocation `failed` is set and
 * further calls do nothing; check once at the end. */
typedef struct {
  char *s; /* NUL-terminated once anything was added; NULL before */
  size_t len, cap;
  bool failed;
} rp_str;

void rp_str_add(rp_str *b, const char *s);
void rp_str_addn(rp_str *b, const char *s, size_t n);
/* printf, but numbers are formatted in the C locale whatever setlocale said. */
void rp_str_addf(rp_str *b, const char *fmt, ...) RP_PRINTF(2, 3);
void rp_str_vaddf(rp_str *b, const char *fmt, va_list ap) RP_PRINTF(2, 0);
void rp_str_clear(rp_str *b);
void rp_str_free(rp_str *b);
/* Hands the string to the caller (free with rp_free); "" when empty; NULL when failed. */
char *rp_str_take(rp_str *b);

/* snprintf in the C locale; always terminates. Returns what snprintf returns. */
int rp_snprintf(char *out, size_t cap, const char *fmt, ...) RP_PRINTF(3, 4);
int rp_vsnprintf(char *out, size_t cap, const char *fmt, va_list ap) RP_PRINTF(3, 0);

/* The whole of s as a number; false when it is not one or out of range. Locale-free. */
bool rp_parse_i64(const char *s, int64_t *out);
bool rp_parse_f64(const char *s, double *out);

/* Shortest decimal that reads back as x ("0.0008", "1e-06", "3.0" when always_point). */
void rp_format_f64(char out[32], double x, bool always_point);
/* 1234567890 bytes -> "1.15 GiB". */
void rp_format_bytes(char out[32], double bytes);

/* Edit distance for "did you mean"; at most `limit`+1 is returned. */
int rp_edit_distance(const char *a, const char *b, int limit);

bool rp_starts_with(const char *s, const char *prefix);
bool rp_ends_with(const char *s, const char *suffix);

#endif
