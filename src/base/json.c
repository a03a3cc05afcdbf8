#include "base/json.h"

#include <stdlib.h>
#include <string.h>

enum { DEEPEST = 128, NODES_PER_BLOCK = 256, SORT_ABOVE = 8 };

typedef struct block {
  struct block *next;
  size_t used;
  rp_json nodes[NODES_PER_BLOCK];
} block;

struct rp_json_doc {
  block *blocks;
  char *strings; /* every key and string, each with its NUL */
  const rp_json *root;
};

/* The reader's place. Strings never need more room than their source, quotes included. */
typedef struct {
  rp_json_doc *doc;
  const char *text, *at, *end, *what;
  char *out;
  int depth;
  rp_error *err;
} reader;

static rp_status parse_value(reader *r, rp_json **node);

static rp_status complain(const reader *r, const char *at, const char *sentence) {
  size_t line = 1, column = 1;
  for (const char *p = r->text; p < at; p++) {
    column = *p == '\n' ? 1 : column + 1;
    line += *p == '\n';
  }
  return rp_fail(r->err, RP_BAD_DATA, "%s: line %zu, column %zu: %s", r->what, line, column,
                 sentence);
}

static void skip_blanks(reader *r) {
  while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r'))
    r->at++;
}

static rp_status new_node(reader *r, rp_json **node) {
  block *b = r->doc->blocks;
  if (!b || b->used == NODES_PER_BLOCK) {
    b = rp_malloc(1, sizeof *b);
    if (!b) return rp_fail_memory(r->err, sizeof *b, r->what);
    b->next = r->doc->blocks;
    b->used = 0;
    r->doc->blocks = b;
  }
  *node = &b->nodes[b->used++];
  **node = (rp_json){0};
  return RP_OK;
}

/* Length of the valid UTF-8 sequence at p (Unicode, table 3-7), 0 when there is none. */
static size_t utf8_sequence(const unsigned char *p, size_t left) {
  unsigned char c = p[0], low = 0x80, high = 0xBF;
  size_t n = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
  if (n < 2) return n;
  if (n > left) return 0;
  if (c == 0xE0) low = 0xA0;
  if (c == 0xED) high = 0x9F;
  if (c == 0xF0) low = 0x90;
  if (c == 0xF4) high = 0x8F;
  if (p[1] < low || p[1] > high) return 0;
  for (size_t i = 2; i < n; i++)
    if ((p[i] & 0xC0) != 0x80) return 0;
  return n;
}

static bool hex4(const reader *r, const char *p, unsigned *out) {
  if (r->end - p < 4) return false;
  unsigned v = 0;
  for (int i = 0; i < 4; i++) {
    char c = p[i];
    if (c >= '0' && c <= '9')
      v = v * 16 + (unsigned)(c - '0');
    else if ((c | 32) >= 'a' && (c | 32) <= 'f')
      v = v * 16 + (unsigned)((c | 32) - 'a' + 10);
    else
      return false;
  }
  *out = v;
  return true;
}

static void put_utf8(reader *r, unsigned v) {
  if (v < 0x80) {
    *r->out++ = (char)v;
    return;
  }
  int more = v < 0x800 ? 1 : v < 0x10000 ? 2 : 3;
  static const unsigned lead[] = {0, 0xC0, 0xE0, 0xF0};
  *r->out++ = (char)(lead[more] | v >> 6 * more);
  while (more--) *r->out++ = (char)(0x80 | (v >> 6 * more & 0x3F));
}

/* After "\u". */
static rp_status unicode_escape(reader *r) {
  unsigned v, w;
  const char *at = r->at - 2;
  if (!hex4(r, r->at, &v)) return complain(r, at, "\\u needs four hexadecimal digits");
  r->at += 4;
  if (v == 0) return complain(r, at, "\\u0000 is not allowed in a string");
  if (v >= 0xD800 && v < 0xE000) {
    bool pair = v < 0xDC00 && r->end - r->at >= 6 && r->at[0] == '\\' && r->at[1] == 'u' &&
                hex4(r, r->at + 2, &w) && w >= 0xDC00 && w < 0xE000;
    if (!pair) return complain(r, at, "half of a surrogate pair");
    r->at += 6;
    v = 0x10000 + ((v - 0xD800) << 10) + (w - 0xDC00);
  }
  put_utf8(r, v);
  return RP_OK;
}

static rp_status escape(reader *r) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  if (++r->at >= r->end) return complain(r, r->at, "the text ends inside a string");
  char c = *r->at++;
  if (c == 'u') return unicode_escape(r);
  const char *known = c ? strchr(from, c) : NULL;
  if (!known) return complain(r, r->at - 2, "unknown escape in a string");
  *r->out++ = to[known - from];
  return RP_OK;
}

/* At the opening quote. */
static rp_status parse_string(reader *r, const char **string, size_t *len) {
  const char *begin = r->at++;
  char *start = r->out;
  for (;;) {
    if (r->at >= r->end) return complain(r, begin, "this string has no end");
    unsigned char c = (unsigned char)*r->at;
    if (c == '"') break;
    if (c < 0x20) return complain(r, r->at, "a control character in a string; write it as \\u00XX");
    if (c == '\\') {
      RP_TRY(escape(r));
      continue;
    }
    size_t n = utf8_sequence((const unsigned char *)r->at, (size_t)(r->end - r->at));
    if (!n) return complain(r, r->at, "this is not valid UTF-8");
    memcpy(r->out, r->at, n);
    r->out += n;
    r->at += n;
  }
  r->at++;
  *string = start;
  *len = (size_t)(r->out - start);
  *r->out++ = 0;
  return RP_OK;
}

static const char *skip_digits(const reader *r, const char *p) {
  while (p < r->end && *p >= '0' && *p <= '9') p++;
  return p;
}

/* End of the number at r->at by RFC 8259's grammar, or NULL; *whole when it is an integer. */
static const char *scan_number(const reader *r, bool *whole) {
  const char *p = r->at + (*r->at == '-'), *q = skip_digits(r, p);
  if (q == p || (*p == '0' && q > p + 1)) return NULL;
  *whole = true;
  if (q < r->end && *q == '.') {
    *whole = false;
    p = q + 1;
    q = skip_digits(r, p);
    if (q == p) return NULL;
  }
  if (q < r->end && (*q == 'e' || *q == 'E')) {
    *whole = false;
    p = q + 1;
    if (p < r->end && (*p == '+' || *p == '-')) p++;
    q = skip_digits(r, p);
    if (q == p) return NULL;
  }
  return q;
}

static rp_status parse_number(reader *r, rp_json *node) {
  bool whole = false;
  const char *end = scan_number(r, &whole);
  if (!end) return complain(r, r->at, "this is not a number");
  char number[512];
  size_t n = (size_t)(end - r->at);
  if (n >= sizeof number) return complain(r, r->at, "a number of more than 511 characters");
  memcpy(number, r->at, n);
  number[n] = 0;
  if (!rp_parse_f64(number, &node->real)) return complain(r, r->at, "this number is out of range");
  bool fits = whole && rp_parse_i64(number, &node->integer);
  node->type = fits ? RP_JSON_INT : RP_JSON_REAL;
  r->at = end;
  return RP_OK;
}

static rp_status parse_word(reader *r, rp_json *node) {
  static const struct {
    const char *word;
    rp_json_type type;
    int value;
  } words[] = {{"true", RP_JSON_BOOL, 1}, {"false", RP_JSON_BOOL, 0}, {"null", RP_JSON_NULL, 0}};
  for (size_t i = 0; i < 3; i++) {
    size_t n = strlen(words[i].word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, words[i].word, n) != 0) continue;
    node->type = words[i].type;
    node->integer = words[i].value;
    r->at += n;
    return RP_OK;
  }
  return complain(r, r->at, "a value is expected here; none begins like this");
}

static int by_key(const void *a, const void *b) {
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static rp_status complain_twice(const reader *r, const char *key) {
  char sentence[256];
  rp_snprintf(sentence, sizeof sentence,
              "the key \"%.150s\" appears twice in the object that ends here", key);
  return complain(r, r->at - 1, sentence);
}

/* Hostile headers can have millions of keys, so large objects are sorted. */
static rp_status check_keys(const reader *r, const rp_json *object) {
  if (object->count <= SORT_ABOVE) {
    for (const rp_json *a = object->child; a; a = a->next)
      for (const rp_json *b = a->next; b; b = b->next)
        if (strcmp(a->key, b->key) == 0) return complain_twice(r, a->key);
    return RP_OK;
  }
  const char **keys = rp_malloc(object->count, sizeof *keys);
  if (!keys) return rp_fail_memory(r->err, object->count * sizeof *keys, r->what);
  size_t n = 0;
  for (const rp_json *a = object->child; a; a = a->next) keys[n++] = a->key;
  qsort(keys, n, sizeof *keys, by_key);
  rp_status st = RP_OK;
  for (size_t i = 1; !st && i < n; i++)
    if (strcmp(keys[i - 1], keys[i]) == 0) st = complain_twice(r, keys[i]);
  rp_free(keys);
  return st;
}

static rp_status parse_member(reader *r, bool object, rp_json **item) {
  const char *key = NULL;
  size_t len;
  skip_blanks(r);
  if (object) {
    if (r->at >= r->end || *r->at != '"') return complain(r, r->at, "a key in quotes is expected");
    RP_TRY(parse_string(r, &key, &len));
    skip_blanks(r);
    if (r->at >= r->end || *r->at != ':') return complain(r, r->at, "\":\" is expected");
    r->at++;
  }
  RP_TRY(parse_value(r, item));
  (*item)->key = key;
  return RP_OK;
}

/* At the opening bracket. */
static rp_status parse_container(reader *r, rp_json *node) {
  bool object = *r->at == '{';
  char close = object ? '}' : ']';
  node->type = object ? RP_JSON_OBJECT : RP_JSON_ARRAY;
  if (++r->depth > DEEPEST) return complain(r, r->at, "nested deeper than 128 levels");
  r->at++;
  skip_blanks(r);
  const rp_json **link = &node->child;
  bool more = r->at >= r->end || *r->at != close;
  while (more) {
    rp_json *item;
    RP_TRY(parse_member(r, object, &item));
    *link = item;
    link = &item->next;
    node->count++;
    skip_blanks(r);
    more = r->at < r->end && *r->at == ',';
    if (more) r->at++;
  }
  if (r->at >= r->end || *r->at != close)
    return complain(r, r->at, object ? "\",\" or \"}\" is expected" : "\",\" or \"]\" is expected");
  r->at++;
  r->depth--;
  return object ? check_keys(r, node) : RP_OK;
}

static rp_status parse_value(reader *r, rp_json **node) {
  RP_TRY(new_node(r, node));
  skip_blanks(r);
  if (r->at >= r->end) return complain(r, r->at, "the text ends where a value is expected");
  char c = *r->at;
  if (c == '{' || c == '[') return parse_container(r, *node);
  if (c == '-' || (c >= '0' && c <= '9')) return parse_number(r, *node);
  if (c != '"') return parse_word(r, *node);
  (*node)->type = RP_JSON_STRING;
  return parse_string(r, &(*node)->string, &(*node)->len);
}

rp_status rp_json_parse(rp_json_doc **doc, const char *text, size_t len, const char *what,
                        rp_error *err) {
  *doc = NULL;
  rp_json_doc *d = rp_calloc(1, sizeof *d);
  if (!d) return rp_fail_memory(err, sizeof *d, what);
  rp_json *root;
  rp_status st = RP_OK;
  d->strings = rp_malloc(len, 1);
  if (!d->strings) {
    st = rp_fail_memory(err, len, what);
    goto fail;
  }
  reader r = {.doc = d,
              .text = text,
              .at = text,
              .end = text + len,
              .what = what,
              .out = d->strings,
              .err = err};
  RP_GO(parse_value(&r, &root));
  skip_blanks(&r);
  if (r.at < r.end) {
    st = complain(&r, r.at, "there is more text after the value");
    goto fail;
  }
  d->root = root;
  *doc = d;
  return RP_OK;
fail:
  rp_json_free(d);
  return st;
}

const rp_json *rp_json_root(const rp_json_doc *doc) { return doc->root; }

void rp_json_free(rp_json_doc *doc) {
  if (!doc) return;
  while (doc->blocks) {
    block *next = doc->blocks->next;
    rp_free(doc->blocks);
    doc->blocks = next;
  }
  rp_free(doc->strings);
  rp_free(doc);
}

const rp_json *rp_json_get(const rp_json *object, const char *key) {
  if (!object || object->type != RP_JSON_OBJECT) return NULL;
  const rp_json *item = object->child;
  while (item && strcmp(item->key, key) != 0) item = item->next;
  return item;
}

/* Bytes at s that a string may hold as they are. */
static size_t plain_run(const char *s) {
  const unsigned char *p = (const unsigned char *)s;
  while (*p >= 0x20 && *p != '"' && *p != '\\') {
    size_t left = 1;
    while (left < 4 && p[left]) left++;
    size_t n = utf8_sequence(p, left);
    if (!n) break;
    p += n;
  }
  return (size_t)(p - (const unsigned char *)s);
}

void rp_json_add_string(rp_str *b, const char *s) {
  rp_str_add(b, "\"");
  while (*s) {
    size_t plain = plain_run(s);
    rp_str_addn(b, s, plain);
    s += plain;
    if (!*s) break;
    if (*s == '"' || *s == '\\')
      rp_str_addf(b, "\\%c", *s);
    else if ((unsigned char)*s >= 0x80)
      rp_str_add(b, "\xEF\xBF\xBD"); /* not UTF-8: U+FFFD, for no JSON text may hold it */
    else if (*s == '\n')
      rp_str_add(b, "\\n");
    else if (*s == '\t')
      rp_str_add(b, "\\t");
    else
      rp_str_addf(b, "\\u%04x", (unsigned)(unsigned char)*s);
    s++;
  }
  rp_str_add(b, "\"");
}

void rp_json_add_real(rp_str *b, double x) {
  char text[32];
  if (x - x != 0) {
    rp_str_add(b, "null");
    return;
  }
  rp_format_f64(text, x, true);
  rp_str_add(b, text);
}
