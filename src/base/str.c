#include "base/str.h"

#include <errno.h>
#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static locale_t c_locale;
static pthread_once_t c_locale_once = PTHREAD_ONCE_INIT;

static void make_c_locale(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

/* The C locale; glibc and musl hand out a static one, so this does not fail. */
static locale_t neutral(void) {
  pthread_once(&c_locale_once, make_c_locale);
  return c_locale;
}

int rp_vsnprintf(char *out, size_t cap, const char *fmt, va_list ap) {
  locale_t before = uselocale(neutral());
  int n = vsnprintf(out, cap, fmt, ap);
  uselocale(before);
  return n;
}

int rp_snprintf(char *out, size_t cap, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  int n = rp_vsnprintf(out, cap, fmt, ap);
  va_end(ap);
  return n;
}

/* Room for n more bytes and the NUL. */
static bool reserve(rp_str *b, size_t n) {
  size_t need;
  if (b->failed) return false;
  if (!rp_add_size(b->len, n, &need) || !rp_add_size(need, 1, &need) ||
      rp_grow(&b->s, &b->cap, need, 1, "a string", NULL))
    b->failed = true;
  return !b->failed;
}

void rp_str_addn(rp_str *b, const char *s, size_t n) {
  if (!reserve(b, n)) return;
  if (n) memcpy(b->s + b->len, s, n);
  b->len += n;
  b->s[b->len] = 0;
}

void rp_str_add(rp_str *b, const char *s) { rp_str_addn(b, s, strlen(s)); }

void rp_str_vaddf(rp_str *b, const char *fmt, va_list ap) {
  va_list again;
  va_copy(again, ap);
  int n = rp_vsnprintf(NULL, 0, fmt, ap);
  if (n < 0) b->failed = true;
  if (n >= 0 && reserve(b, (size_t)n)) {
    rp_vsnprintf(b->s + b->len, (size_t)n + 1, fmt, again);
    b->len += (size_t)n;
  }
  va_end(again);
}

void rp_str_addf(rp_str *b, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  rp_str_vaddf(b, fmt, ap);
  va_end(ap);
}

void rp_str_clear(rp_str *b) {
  b->len = 0;
  if (b->s) b->s[0] = 0;
}

void rp_str_free(rp_str *b) {
  rp_free(b->s);
  *b = (rp_str){0};
}

char *rp_str_take(rp_str *b) {
  char *s = b->s;
  if (b->failed) {
    rp_free(s);
    s = NULL;
  } else if (!s) {
    s = rp_strdup("");
  }
  *b = (rp_str){0};
  return s;
}

static bool digit(char c) { return c >= '0' && c <= '9'; }

bool rp_parse_i64(const char *s, int64_t *out) {
  const char *p = s + (*s == '-' || *s == '+');
  if (!digit(*p)) return false;
  char *end;
  errno = 0;
  long long v = strtoll(s, &end, 10);
  if (errno || *end) return false;
  *out = v;
  return true;
}

/* strtod alone would also take leading blanks, "inf", "nan" and hexadecimals. */
static bool looks_decimal(const char *p) {
  p += *p == '-' || *p == '+';
  size_t digits = 0;
  for (; digit(*p); p++) digits++;
  if (*p == '.') p++;
  for (; digit(*p); p++) digits++;
  if (!digits) return false;
  if (*p == 'e' || *p == 'E') {
    p++;
    p += *p == '-' || *p == '+';
    if (!digit(*p)) return false;
    while (digit(*p)) p++;
  }
  return !*p;
}

bool rp_parse_f64(const char *s, double *out) {
  if (!looks_decimal(s)) return false;
  double v = strtod_l(s, NULL, neutral());
  if (v > 1.7976931348623157e308 || v < -1.7976931348623157e308) return false;
  *out = v;
  return true;
}

/* Fewest significant digits that read back; text is "d.ddde[+-]xx" of |x|. */
static int shortest_digits(char text[40], double x) {
  for (int n = 1; n < 17; n++) {
    rp_snprintf(text, 40, "%.*e", n - 1, x);
    if (strtod_l(text, NULL, neutral()) == x) return n;
  }
  rp_snprintf(text, 40, "%.16e", x);
  return 17;
}

/* As Python's repr lays it out: positional for exponents -4 to 15. */
void rp_format_f64(char out[32], double x, bool always_point) {
  if (x != x || x > 1.7976931348623157e308 || x < -1.7976931348623157e308) {
    memcpy(out, x != x ? "nan" : x > 0 ? "inf" : "-inf", x < 0 ? 5 : 4);
    return;
  }
  char text[40], digits[20];
  bool minus = __builtin_signbit(x);
  int n = shortest_digits(text, minus ? -x : x);
  int exponent = atoi(strchr(text, 'e') + 1);
  digits[0] = text[0];
  if (n > 1) memcpy(digits + 1, text + 2, (size_t)n - 1);
  digits[n] = 0;
  const char *sign = minus ? "-" : "";
  if (exponent < -4 || exponent > 15) {
    rp_snprintf(out, 32, "%s%c%s%se%c%02d", sign, digits[0], n > 1 ? "." : "", digits + 1,
                exponent < 0 ? '-' : '+', exponent < 0 ? -exponent : exponent);
  } else if (exponent < 0) {
    rp_snprintf(out, 32, "%s0.%.*s%s", sign, -exponent - 1, "000", digits);
  } else if (n <= exponent + 1) {
    rp_snprintf(out, 32, "%s%s%.*s%s", sign, digits, exponent + 1 - n, "000000000000000",
                always_point ? ".0" : "");
  } else {
    rp_snprintf(out, 32, "%s%.*s.%s", sign, exponent + 1, digits, digits + exponent + 1);
  }
}

void rp_format_bytes(char out[32], double bytes) {
  static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  int u = 0;
  while (bytes >= 1024 && u < 6) {
    bytes /= 1024;
    u++;
  }
  rp_snprintf(out, 32, u ? "%.2f %s" : "%.0f %s", bytes, units[u]);
}

int rp_edit_distance(const char *a, const char *b, int limit) {
  enum { LONGEST = 256 };
  size_t n = strlen(a), m = strlen(b);
  if (n >= LONGEST || m >= LONGEST) return strcmp(a, b) ? limit + 1 : 0;
  int row[LONGEST];
  for (size_t j = 0; j <= m; j++) row[j] = (int)j;
  for (size_t i = 1; i <= n; i++) {
    int diagonal = row[0];
    row[0] = (int)i;
    for (size_t j = 1; j <= m; j++) {
      int best = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      if (row[j] + 1 < best) best = row[j] + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      row[j] = best;
    }
  }
  return row[m] > limit ? limit + 1 : row[m];
}

bool rp_starts_with(const char *s, const char *prefix) {
  return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool rp_ends_with(const char *s, const char *suffix) {
  size_t n = strlen(s), m = strlen(suffix);
  return n >= m && memcmp(s + n - m, suffix, m) == 0;
}
