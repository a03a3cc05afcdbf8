#include "text/jsonl.h"

#include <string.h>

#include "text/utf8.h"

enum { DEPTH = 256, NAMES = 200 };

typedef struct {
  const char *line, *p, *end;
  const char *value; /* of the wanted field: the last one seen, NULL before */
  char names[NAMES]; /* keys of the outer object, for the sentence */
  rp_error *err;
} scan;

typedef struct {
  const char *s; /* between the quotes */
  size_t n;
  bool escaped;
} raw_string;

static rp_status bad(scan *c, const char *what) {
  return rp_fail(c->err, RP_BAD_DATA, "column %zu: %s", (size_t)(c->p - c->line) + 1, what);
}

static void skip_space(scan *c) {
  while (c->p < c->end && (*c->p == ' ' || *c->p == '\t' || *c->p == '\r' || *c->p == '\n')) c->p++;
}

static int hex_digit(char h) {
  if (h >= '0' && h <= '9') return h - '0';
  if (h >= 'a' && h <= 'f') return h - 'a' + 10;
  if (h >= 'A' && h <= 'F') return h - 'A' + 10;
  return -1;
}

static rp_status scan_escape(scan *c) {
  c->p++;
  if (c->p == c->end) return bad(c, "the line ends inside a string");
  if (*c->p != 'u') {
    if (!strchr("\"\\/bfnrt", *c->p) || !*c->p) return bad(c, "an escape that JSON does not know");
    c->p++;
    return RP_OK;
  }
  c->p++;
  for (int i = 0; i < 4; i++, c->p++) {
    if (c->p == c->end) return bad(c, "the line ends inside a string");
    if (hex_digit(*c->p) < 0) return bad(c, "\\u needs four hexadecimal digits");
  }
  return RP_OK;
}

static rp_status scan_string(scan *c, raw_string *out) {
  if (c->p == c->end || *c->p != '"') return bad(c, "expected a string in double quotes");
  *out = (raw_string){.s = ++c->p};
  while (c->p < c->end && *c->p != '"') {
    if ((unsigned char)*c->p < ' ') return bad(c, "a control character inside a string");
    if (*c->p == '\\') {
      out->escaped = true;
      RP_TRY(scan_escape(c));
    } else {
      c->p++;
    }
  }
  if (c->p == c->end) return bad(c, "the line ends inside a string");
  out->n = (size_t)(c->p - out->s);
  c->p++;
  return RP_OK;
}

static size_t skip_digits(scan *c) {
  const char *from = c->p;
  while (c->p < c->end && *c->p >= '0' && *c->p <= '9') c->p++;
  return (size_t)(c->p - from);
}

static rp_status scan_number(scan *c) {
  if (c->p < c->end && *c->p == '-') c->p++;
  const bool zero = c->p < c->end && *c->p == '0';
  const size_t digits = skip_digits(c);
  if (digits == 0 || (zero && digits > 1)) return bad(c, "expected a value");
  if (c->p < c->end && *c->p == '.') {
    c->p++;
    if (!skip_digits(c)) return bad(c, "a number ends with its point");
  }
  if (c->p < c->end && (*c->p == 'e' || *c->p == 'E')) {
    c->p++;
    if (c->p < c->end && (*c->p == '+' || *c->p == '-')) c->p++;
    if (!skip_digits(c)) return bad(c, "an exponent without digits");
  }
  return RP_OK;
}

static rp_status scan_word(scan *c, const char *word) {
  size_t n = strlen(word);
  if ((size_t)(c->end - c->p) < n || memcmp(c->p, word, n)) return bad(c, "expected a value");
  c->p += n;
  return RP_OK;
}

static rp_status scan_object(scan *c, const char *field, int depth);

static rp_status scan_array(scan *c, int depth);

static rp_status scan_value(scan *c, int depth) {
  raw_string s;
  if (c->p == c->end) return bad(c, "the line ends where a value should be");
  if (depth > DEPTH) return bad(c, "more than 256 levels of nesting");
  switch (*c->p) {
    case '{': return scan_object(c, NULL, depth);
    case '[': return scan_array(c, depth);
    case '"': return scan_string(c, &s);
    case 't': return scan_word(c, "true");
    case 'f': return scan_word(c, "false");
    case 'n': return scan_word(c, "null");
    default: return scan_number(c);
  }
}

/* After an element: true to go on, false at `close`. */
static rp_status scan_next(scan *c, char close, bool *more) {
  skip_space(c);
  if (c->p == c->end) return bad(c, "the line ends inside an object or a list");
  if (*c->p != ',' && *c->p != close) return bad(c, "expected a comma or the end");
  *more = *c->p++ == ',';
  skip_space(c);
  return RP_OK;
}

static rp_status scan_array(scan *c, int depth) {
  bool more = true;
  c->p++;
  skip_space(c);
  if (c->p < c->end && *c->p == ']') {
    c->p++;
    return RP_OK;
  }
  while (more) {
    RP_TRY(scan_value(c, depth + 1));
    RP_TRY(scan_next(c, ']', &more));
  }
  return RP_OK;
}

static uint32_t four_hex(const char *s) {
  uint32_t x = 0;
  for (int i = 0; i < 4; i++) x = x << 4 | (uint32_t)hex_digit(s[i]);
  return x;
}

/* A checked string to bytes. */
static void decode_string(raw_string r, rp_str *out) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  const char *p = r.s, *end = r.s + r.n;
  while (p < end) {
    const char *esc = r.escaped ? memchr(p, '\\', (size_t)(end - p)) : NULL;
    rp_str_addn(out, p, (size_t)((esc ? esc : end) - p));
    if (!esc) return;
    p = esc + 2;
    if (esc[1] != 'u') {
      rp_str_addn(out, to + (strchr(from, esc[1]) - from), 1);
      continue;
    }
    char utf8[4];
    uint32_t code = four_hex(p);
    p += 4;
    if (code >= 0xd800 && code < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u') {
      uint32_t low = four_hex(p + 2);
      if (low >= 0xdc00 && low < 0xe000) {
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        p += 6;
      }
    }
    rp_str_addn(out, utf8, (size_t)rp_utf8_put(utf8, code));
  }
}

/* Remembers where the wanted value begins, or where inside this member to look for it. */
static rp_status scan_member(scan *c, raw_string key, const char *field, int depth) {
  rp_str name = {0};
  rp_status st = RP_OK;
  const char *s = key.s;
  size_t n = key.n;
  if (key.escaped) {
    decode_string(key, &name);
    if (name.failed) {
      rp_str_free(&name);
      return rp_fail_memory(c->err, key.n, "a key");
    }
    s = name.s ? name.s : "";
    n = name.len;
  }
  const size_t want = strlen(field);
  const bool starts = n <= want && memcmp(field, s, n) == 0;
  if (depth == 0 && strlen(c->names) + n + 3 < NAMES && rp_utf8_valid(s, n)) {
    if (c->names[0]) strcat(c->names, ", ");
    strncat(c->names, s, n);
  }
  if (starts && n == want) {
    c->value = c->p;
    st = scan_value(c, depth + 1);
  } else if (starts && field[n] == '.' && c->p < c->end && *c->p == '{') {
    st = scan_object(c, field + n + 1, depth + 1);
  } else {
    st = scan_value(c, depth + 1);
  }
  rp_str_free(&name);
  return st;
}

/* field NULL: nothing in here is wanted. */
static rp_status scan_object(scan *c, const char *field, int depth) {
  bool more = true;
  c->p++;
  skip_space(c);
  if (c->p < c->end && *c->p == '}') {
    c->p++;
    return RP_OK;
  }
  while (more) {
    raw_string key;
    RP_TRY(scan_string(c, &key));
    skip_space(c);
    if (c->p == c->end || *c->p != ':') return bad(c, "expected a colon after a key");
    c->p++;
    skip_space(c);
    RP_TRY(field ? scan_member(c, key, field, depth) : scan_value(c, depth + 1));
    RP_TRY(scan_next(c, '}', &more));
  }
  return RP_OK;
}

rp_status rp_jsonl_text(const char *line, size_t len, const char *field, rp_str *out,
                        rp_error *err) {
  scan c = {.line = line, .p = line, .end = line + len, .err = err};
  skip_space(&c);
  if (c.p == c.end || *c.p != '{') return bad(&c, "expected a JSON object, one on each line");
  RP_TRY(scan_object(&c, field, 0));
  skip_space(&c);
  if (c.p != c.end) return bad(&c, "text after the object");
  if (!c.value)
    return rp_fail(err, RP_BAD_DATA, "no key \"%s\" (there are: %s); name one with --field", field,
                   c.names[0] ? c.names : "none");
  c.p = c.value;
  if (*c.p == 'n') return RP_OK;
  if (*c.p != '"') return bad(&c, "the field is not a string; name another with --field");
  raw_string s;
  RP_TRY(scan_string(&c, &s));
  decode_string(s, out);
  return out->failed ? rp_fail_memory(err, s.n, "a line of text") : RP_OK;
}
