/* What a plain scalar means: in a file as OmegaConf reads YAML 1.1, in a word as Hydra's override
 * grammar reads an unquoted primitive. Checked against Hydra 1.3.8 (tools/config_expected.py). */
#include <math.h>
#include <string.h>

#include "config/node.h"

/* A cursor over the scalar; every pattern below moves it and says whether it matched. */
typedef struct {
  const char *s, *end;
} cursor;

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool word_is(const char *s, size_t len, const char *const *words) {
  for (; *words; words++) {
    if (strlen(*words) == len && memcmp(*words, s, len) == 0) return true;
  }
  return false;
}

static bool word_is_any_case(const char *s, size_t len, const char *lower) {
  if (strlen(lower) != len) return false;
  for (size_t i = 0; i < len; i++) {
    const char c = s[i];
    if ((c >= 'A' && c <= 'Z' ? c + 32 : c) != lower[i]) return false;
  }
  return true;
}

static void skip_sign(cursor *c) {
  if (c->s < c->end && (*c->s == '-' || *c->s == '+')) c->s++;
}

static bool skip_char(cursor *c, char x) {
  if (c->s >= c->end || *c->s != x) return false;
  c->s++;
  return true;
}

/* [0-9]+(_[0-9]+)* */
static bool skip_grouped(cursor *c) {
  const char *from = c->s;
  while (c->s < c->end && is_digit(*c->s)) c->s++;
  if (c->s == from) return false;
  while (c->end - c->s >= 2 && *c->s == '_' && is_digit(c->s[1])) {
    c->s++;
    while (c->s < c->end && is_digit(*c->s)) c->s++;
  }
  return true;
}

/* [eE][-+]?[0-9]+ ; must_sign: the sign is not optional */
static bool skip_exponent(cursor *c, bool must_sign) {
  cursor k = *c;
  if (!skip_char(&k, 'e') && !skip_char(&k, 'E')) return false;
  const char *before = k.s;
  skip_sign(&k);
  if (must_sign && k.s == before) return false;
  const char *digits = k.s;
  while (k.s < k.end && is_digit(*k.s)) k.s++;
  if (k.s == digits) return false;
  *c = k;
  return true;
}

/* Digits of a base with underscores left out; false on a digit outside it or an overflow. */
static bool digits_to(int64_t *out, const char *s, const char *end, int base, bool negative) {
  uint64_t v = 0;
  const uint64_t most = negative ? (uint64_t)INT64_MAX + 1 : (uint64_t)INT64_MAX;
  bool any = false;
  for (; s < end; s++) {
    if (*s == '_') continue;
    int d = is_digit(*s) ? *s - '0' : (*s | 32) - 'a' + 10;
    if (d < 0 || d >= base) return false;
    if (v > (most - (uint64_t)d) / (uint64_t)base) return false;
    v = v * (uint64_t)base + (uint64_t)d;
    any = true;
  }
  *out = negative ? (int64_t)(0 - v) : (int64_t)v;
  return any;
}

static bool set_int(rp_node *n, int64_t v) {
  n->kind = RP_NODE_INT;
  n->integer = v;
  return true;
}

static bool set_real(rp_node *n, double v) {
  n->kind = RP_NODE_REAL;
  n->real = v;
  return true;
}

/* Text of a decimal float, underscores allowed, to a double. */
static bool parse_real(rp_node *n, const char *s, size_t len) {
  char buf[128];
  size_t k = 0;
  for (size_t i = 0; i < len; i++) {
    if (s[i] == '_') continue;
    if (k + 1 >= sizeof buf) return false;
    buf[k++] = s[i];
  }
  buf[k] = '\0';
  /* "1." and "+.5" are floats here; the reader of numbers wants digits around the point. */
  char fixed[160];
  size_t m = 0;
  const char *p = buf;
  if (*p == '+') p++;
  if (*p == '-') fixed[m++] = *p++;
  if (*p == '.') fixed[m++] = '0';
  for (; *p; p++) {
    fixed[m++] = *p;
    if (*p == '.' && !is_digit(p[1])) fixed[m++] = '0';
  }
  fixed[m] = '\0';
  double v;
  if (rp_parse_f64(fixed, &v)) return set_real(n, v);
  /* Beyond the range of a double Python gives inf and 0, so what is left is decided by the sign of
   * the exponent. */
  const char *e = strpbrk(fixed, "eE");
  if (!e) return set_real(n, fixed[0] == '-' ? -INFINITY : INFINITY);
  return set_real(n, e[1] == '-' ? 0.0 : (fixed[0] == '-' ? -INFINITY : INFINITY));
}

/* Sexagesimal: [0-9]...(:[0-5]?[0-9])+ with an optional fraction, as YAML 1.1 has it. */
static bool sexagesimal(rp_node *n, const char *s, size_t len) {
  cursor c = {s, s + len};
  const bool negative = len > 0 && *s == '-';
  skip_sign(&c);
  const char *from = c.s;
  while (c.s < c.end && (is_digit(*c.s) || (*c.s == '_' && c.s > from))) c.s++;
  if (c.s == from || c.s == c.end || *c.s != ':') return false;
  const bool int_head = *from != '0';
  int64_t whole;
  if (!digits_to(&whole, from, c.s, 10, false) || whole > (int64_t)1 << 40) return false;
  double value = (double)whole;
  int parts = 0;
  while (skip_char(&c, ':')) {
    const char *part = c.s;
    while (c.s < c.end && is_digit(*c.s) && c.s - part < 2) c.s++;
    if (c.s == part || (c.s - part == 2 && *part > '5') || ++parts > 4) return false;
    int64_t v;
    if (!digits_to(&v, part, c.s, 10, false)) return false;
    whole = whole * 60 + v;
    value = value * 60 + (double)v;
  }
  if (c.s == c.end) return int_head && set_int(n, negative ? -whole : whole);
  if (!skip_char(&c, '.')) return false;
  double scale = 0.1;
  for (; c.s < c.end; c.s++) {
    if (*c.s == '_') continue;
    if (!is_digit(*c.s)) return false;
    value += scale * (*c.s - '0');
    scale /= 10;
  }
  return set_real(n, negative ? -value : value);
}

static bool yaml_int(rp_node *n, const char *s, size_t len) {
  cursor c = {s, s + len};
  const bool negative = len > 0 && *s == '-';
  skip_sign(&c);
  const size_t rest = (size_t)(c.end - c.s);
  int base = 10;
  if (rest == 0 || !is_digit(*c.s)) return false;
  if (rest > 2 && c.s[0] == '0' && c.s[1] == 'x') {
    base = 16;
    c.s += 2;
  } else if (rest > 2 && c.s[0] == '0' && c.s[1] == 'b') {
    base = 2;
    c.s += 2;
  } else if (rest > 1 && c.s[0] == '0') {
    base = 8;
    c.s += 1;
  }
  int64_t v;
  return digits_to(&v, c.s, c.end, base, negative) && set_int(n, v);
}

static bool yaml_real(rp_node *n, const char *s, size_t len) {
  cursor c = {s, s + len};
  if (*s == '.') {
    c.s++;
    if (!skip_grouped(&c)) return false;
    skip_exponent(&c, true);
    return c.s == c.end && parse_real(n, s, len);
  }
  skip_sign(&c);
  if (!skip_grouped(&c)) return false;
  if (skip_char(&c, '.')) {
    while (c.s < c.end && (is_digit(*c.s) || *c.s == '_')) c.s++;
    skip_exponent(&c, false);
  } else if (!skip_exponent(&c, false)) {
    return false;
  }
  return c.s == c.end && parse_real(n, s, len);
}

static bool yaml_special(rp_node *n, const char *s, size_t len) {
  static const char *const nulls[] = {"~", "null", "Null", "NULL", NULL};
  static const char *const yes[] = {"yes",  "Yes", "YES", "true", "True",
                                    "TRUE", "on",  "On",  "ON",   NULL};
  static const char *const no[] = {"no",    "No",  "NO",  "false", "False",
                                   "FALSE", "off", "Off", "OFF",   NULL};
  static const char *const nans[] = {".nan", ".NaN", ".NAN", NULL};
  static const char *const infs[] = {".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", NULL};
  static const char *const minus[] = {"-.inf", "-.Inf", "-.INF", NULL};
  if (len == 0 || word_is(s, len, nulls)) {
    n->kind = RP_NODE_NULL;
    return true;
  }
  if (word_is(s, len, yes) || word_is(s, len, no)) {
    n->kind = RP_NODE_BOOL;
    n->integer = word_is(s, len, yes);
    return true;
  }
  if (word_is(s, len, nans)) return set_real(n, NAN);
  if (word_is(s, len, infs)) return set_real(n, INFINITY);
  if (word_is(s, len, minus)) return set_real(n, -INFINITY);
  return false;
}

bool rp_scalar_yaml(rp_node *n, const char *s, size_t len) {
  if (yaml_special(n, s, len)) return true;
  if (!strchr("-+.0123456789", *s)) return false;
  return yaml_real(n, s, len) || yaml_int(n, s, len) || sexagesimal(n, s, len);
}

/* [+-]?('0' | [1-9](_?[0-9])*) */
static bool skip_word_int(cursor *c) {
  if (c->s >= c->end || !is_digit(*c->s)) return false;
  if (*c->s == '0') {
    c->s++;
    return true;
  }
  return skip_grouped(c);
}

static bool word_real(rp_node *n, const char *s, size_t len) {
  cursor c = {s, s + len};
  skip_sign(&c);
  const size_t rest = (size_t)(c.end - c.s);
  if (word_is_any_case(c.s, rest, "inf")) return set_real(n, *s == '-' ? -INFINITY : INFINITY);
  if (word_is_any_case(c.s, rest, "nan")) return set_real(n, NAN);
  const bool whole = skip_word_int(&c);
  const bool point = skip_char(&c, '.');
  const bool fraction = point && skip_grouped(&c);
  if (!whole && !fraction) return false;
  bool exponent = false;
  if (c.s < c.end && (*c.s == 'e' || *c.s == 'E')) {
    c.s++;
    skip_sign(&c);
    exponent = skip_grouped(&c);
    if (!exponent) return false;
  }
  return (point || exponent) && c.s == c.end && parse_real(n, s, len);
}

bool rp_scalar_word(rp_node *n, const char *s, size_t len) {
  if (word_is_any_case(s, len, "null")) {
    n->kind = RP_NODE_NULL;
    return true;
  }
  if (word_is_any_case(s, len, "true") || word_is_any_case(s, len, "false")) {
    n->kind = RP_NODE_BOOL;
    n->integer = len == 4;
    return true;
  }
  cursor c = {s, s + len};
  skip_sign(&c);
  const char *digits = c.s;
  int64_t v;
  if (skip_word_int(&c) && c.s == c.end && digits_to(&v, digits, c.end, 10, *s == '-')) {
    return set_int(n, v);
  }
  return word_real(n, s, len);
}

bool rp_scalar_too_big(const char *s, size_t len) {
  cursor c = {s, s + len};
  skip_sign(&c);
  return c.end - c.s > 18 && skip_grouped(&c) && c.s == c.end;
}
