/* The grammar of patterns; blanks may stand between any two of its words:
 *   pattern: part (',' part)*
 *   part:    ('D' | 'W' | 'I') '=' value
 *   value:   term ('+' term)*              joins lists, or runs of heads
 *   term:    atom ('*' atom)*              a list as often as the integer says
 *   atom:    integer | runs | list | '(' value ')'
 *   runs:    integer 'x' heads | '{' integer ':' heads (',' integer ':' heads)* '}'
 *   list:    '[' [value (',' value)*] ']'
 * A list has one entry per layer; an entry is an integer, runs of heads, or a list with one integer
 * per head. Errors say which character; what the model's sizes refuse is found in pats.c, whose
 * complaint about a node comes back here for its place. */
#include <string.h>

#include "config/typed.h"

enum { DEPTH_MOST = 8, NODES_MOST = 1 << 18, HEADS_MOST = 1 << 16, EXCERPT = 40 };

#define EXAMPLE "a pattern is D=..., W=..., I=... joined by commas, as in D=16,W=256,I=4"
#define VALUES \
  "an integer, a list with one entry per layer, as in [1,64]*12, or runs of heads, as in " \
  "1x4+64x12"

typedef struct {
  rp_tree *tree;
  const char *text, *p;
  char which; /* 'D', 'W' or 'I' */
  int depth, nodes;
  rp_error *err;
} reader;

static rp_status value(reader *r, rp_node **out);

/* --- errors ------------------------------------------------------------------------------- */

/* The text around `at`, safe to print. */
static void excerpt(char out[2 * EXCERPT + 8], const char *text, const char *at) {
  const char *from = at - text > EXCERPT ? at - EXCERPT : text;
  const size_t left = strlen(from), n = left > 2 * EXCERPT ? 2 * EXCERPT : left;
  char *o = out;
  if (from > text) o = memcpy(o, "...", 3), o += 3;
  for (size_t i = 0; i < n; i++) *o++ = (char)(from[i] < ' ' || from[i] > '~' ? '?' : from[i]);
  if (n < left) o = memcpy(o, "...", 3), o += 3;
  *o = '\0';
}

static rp_status bad(const reader *r, const char *at, const char *fmt, ...) RP_PRINTF(3, 4);
static rp_status bad(const reader *r, const char *at, const char *fmt, ...) {
  char around[2 * EXCERPT + 8], why[512];
  va_list ap;
  va_start(ap, fmt);
  rp_vsnprintf(why, sizeof why, fmt, ap);
  va_end(ap);
  excerpt(around, r->text, at);
  return rp_fail(r->err, RP_USAGE, "pattern '%s', character %d: %s", around,
                 (int)(at - r->text) + 1, why);
}

static rp_status no_memory(const reader *r) { return rp_tree_status(r->tree, "a pattern", r->err); }

/* --- words -------------------------------------------------------------------------------- */

static void skip_blanks(reader *r) { r->p += strspn(r->p, " \t"); }

static bool take(reader *r, char c) {
  skip_blanks(r);
  if (*r->p != c) return false;
  r->p++;
  return true;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/* An integer as it is written: a sign at most, no leading zero, nothing glued to it but the x of a
 * run. What is too large for any use comes back as INT32_MAX. */
static rp_status integer(reader *r, int64_t *out) {
  const char *const s = r->p, *p = s + (*s == '-');
  int64_t v = 0;
  size_t n = 0;
  while (is_digit(p[n])) n++;
  if (!n) return bad(r, s, "expected here: " VALUES);
  size_t more = n;
  while (is_digit(p[more]) || p[more] == '.' || (is_letter(p[more]) && p[more] != 'x')) more++;
  if (more > n)
    return bad(r, s, "%.*s is no integer from -1 to 2^30", more < 24 ? (int)more : 24, s);
  if (n > 1 && *p == '0') return bad(r, s, "an integer begins with no 0; leave it out");
  for (size_t i = 0; i < n && v < INT32_MAX; i++) v = v * 10 + (p[i] - '0');
  if (v > INT32_MAX) v = INT32_MAX;
  r->p = p + n;
  *out = *s == '-' ? -v : v;
  return RP_OK;
}

static rp_status heads(reader *r, int64_t *out) {
  skip_blanks(r);
  const char *const s = r->p;
  if (!is_digit(*s) && *s != '-')
    return bad(r, s, "runs of heads are VALUExHEADS joined by +, as in 1x4+64x12");
  RP_TRY(integer(r, out));
  if (*out < 1) return bad(r, s, "the count of heads is at least 1");
  if (*out > HEADS_MOST) return bad(r, s, "runs of heads have at most %d heads", HEADS_MOST);
  return RP_OK;
}

/* --- nodes -------------------------------------------------------------------------------- */

static rp_status make(reader *r, rp_node_kind kind, const char *at, rp_node **out) {
  if (++r->nodes > NODES_MOST) return bad(r, at, "the list gets too long");
  *out = rp_node_new(r->tree, kind, (rp_place){NULL, 0, (int)(at - r->text) + 1});
  return *out ? RP_OK : no_memory(r);
}

/* Whether the integer may be a D, W or I. */
static rp_status check_value(const reader *r, const rp_node *n) {
  if (n->kind != RP_NODE_INT) return RP_OK;
  rp_error why = {0};
  if (!rp_pat_value_check(r->which, n->integer, &why)) return RP_OK;
  return bad(r, r->text + n->at.column - 1, "%s", why.text);
}

/* One run: a child of a map, whose key is the value. */
static rp_status add_run(reader *r, rp_node *map, int64_t v, const char *at, int64_t count) {
  char key[16];
  rp_error why = {0};
  rp_node *n;
  if (rp_pat_value_check(r->which, v, &why)) return bad(r, at, "%s", why.text);
  RP_TRY(make(r, RP_NODE_INT, at, &n));
  rp_snprintf(key, sizeof key, "%d", (int)v);
  n->integer = count;
  n->key_kind = RP_NODE_INT;
  n->key = rp_tree_text(r->tree, key, strlen(key));
  if (!n->key) return no_memory(r);
  rp_list_add(map, n);
  return RP_OK;
}

/* The children of `from` once more behind those of `to`. */
static rp_status append(reader *r, const char *at, rp_node *to, const rp_node *from) {
  for (const rp_node *c = from->child; c; c = c->next) {
    rp_node *d = rp_node_copy(r->tree, c);
    r->nodes += 1 + (int)c->count;
    if (r->nodes > NODES_MOST) return bad(r, at, "the list gets too long");
    if (!d) return no_memory(r);
    d->key = c->key;
    d->key_kind = c->key_kind;
    rp_list_add(to, d);
  }
  return RP_OK;
}

static rp_status repeat(reader *r, const char *at, const rp_node *list, const rp_node *times,
                        rp_node **out) {
  if (times->integer < 1) return bad(r, at, "a list is repeated at least once");
  RP_TRY(make(r, RP_NODE_LIST, r->text + list->at.column - 1, out));
  if (!list->count) return RP_OK;
  for (int64_t i = 0; i < times->integer; i++) RP_TRY(append(r, at, *out, list));
  return RP_OK;
}

/* --- grammar ------------------------------------------------------------------------------ */

static rp_status list(reader *r, const char *at, rp_node **out) {
  RP_TRY(make(r, RP_NODE_LIST, at, out));
  if (take(r, ']')) return RP_OK;
  for (;;) {
    rp_node *entry;
    RP_TRY(value(r, &entry));
    RP_TRY(check_value(r, entry));
    rp_list_add(*out, entry);
    if (take(r, ']')) return RP_OK;
    if (!take(r, ',')) return bad(r, r->p, "a comma or ] is expected here");
  }
}

static bool has_key(const rp_node *map, int64_t v) {
  char key[16];
  rp_snprintf(key, sizeof key, "%d", (int)v);
  for (const rp_node *c = map->child; c; c = c->next)
    if (strcmp(c->key, key) == 0) return true;
  return false;
}

static rp_status map(reader *r, const char *at, rp_node **out) {
  RP_TRY(make(r, RP_NODE_MAP, at, out));
  for (;;) {
    int64_t v, count;
    skip_blanks(r);
    const char *const key = r->p;
    if (!is_digit(*key) && *key != '-')
      return bad(r, key, "{value:heads, ...} begins with a value, and here is no integer");
    RP_TRY(integer(r, &v));
    if (!take(r, ':')) return bad(r, r->p, "{value:heads, ...} needs a : here");
    RP_TRY(heads(r, &count));
    if (has_key(*out, v))
      return bad(r, key, "%d is there twice; runs may repeat a value: 1x2+64x4+1x2", (int)v);
    RP_TRY(add_run(r, *out, v, key, count));
    if (take(r, '}')) return RP_OK;
    if (!take(r, ',')) return bad(r, r->p, "a comma or } is expected here");
  }
}

static rp_status atom(reader *r, rp_node **out) {
  int64_t v, count;
  skip_blanks(r);
  const char *const at = r->p;
  if (take(r, '[')) return list(r, at, out);
  if (take(r, '{')) return map(r, at, out);
  if (take(r, '(')) {
    RP_TRY(value(r, out));
    return take(r, ')') ? RP_OK : bad(r, r->p, "a ) is expected here");
  }
  RP_TRY(integer(r, &v));
  if (!take(r, 'x')) {
    RP_TRY(make(r, RP_NODE_INT, at, out));
    (*out)->integer = v;
    return RP_OK;
  }
  RP_TRY(heads(r, &count));
  RP_TRY(make(r, RP_NODE_MAP, at, out));
  return add_run(r, *out, v, at, count);
}

static rp_status term(reader *r, rp_node **out) {
  RP_TRY(atom(r, out));
  for (;;) {
    const rp_node *const left = *out;
    rp_node *right;
    skip_blanks(r);
    const char *const at = r->p;
    if (!take(r, '*')) return RP_OK;
    RP_TRY(atom(r, &right));
    const bool after = left->kind == RP_NODE_LIST && right->kind == RP_NODE_INT;
    if (!after && (left->kind != RP_NODE_INT || right->kind != RP_NODE_LIST))
      return bad(r, at, "* repeats a list, as in [1,64]*12");
    RP_TRY(repeat(r, at, after ? left : right, after ? right : left, out));
  }
}

static rp_status value(reader *r, rp_node **out) {
  if (++r->depth > DEPTH_MOST) return bad(r, r->p, "nested too deeply");
  RP_TRY(term(r, out));
  for (;;) {
    rp_node *right;
    skip_blanks(r);
    const char *const at = r->p;
    if (!take(r, '+')) break;
    RP_TRY(term(r, &right));
    if ((*out)->kind == RP_NODE_INT || (*out)->kind != right->kind)
      return bad(r, at, "+ joins two lists, as in [1]*4+[64]*8, or two runs of heads, 1x4+64x8");
    RP_TRY(append(r, at, *out, right));
  }
  r->depth--;
  return RP_OK;
}

rp_status rp_pat_read_value(rp_tree *t, const char *text, char which, rp_node **out,
                            rp_error *err) {
  reader r = {.tree = t, .text = text, .p = text, .which = which, .err = err};
  RP_TRY(value(&r, out));
  RP_TRY(check_value(&r, *out));
  skip_blanks(&r);
  return *r.p ? bad(&r, r.p, "expected here: the end; a value is " VALUES) : RP_OK;
}

/* --- parts -------------------------------------------------------------------------------- */

/* What somebody may have meant who wrote something else than D=, W= or I=. */
static rp_status bad_name(const reader *r, const char *at, size_t n) {
  static const char *const words[] = {
      "d", "w", "i", "dilation_size", "local_size", "initial_size", "topk", "block", "score"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    if (strlen(words[i]) != n || strncmp(at, words[i], n) != 0) continue;
    if (i >= 6)
      return bad(r, at,
                 "%s: choosing blocks by their scores is not in this version; D, W and I are",
                 words[i]);
    return bad(r, at, "in a pattern %s is written %c=", words[i], "DWI"[i % 3]);
  }
  if (n == 1 && strchr("DWI", *at))
    return bad(r, at + n, "after %c comes = and its value; " EXAMPLE, *at);
  return bad(r, at, "%s" EXAMPLE, *at && *at != ',' ? "" : "an empty item; ");
}

/* Reads "D=..." up to the comma behind it. */
static rp_status part(reader *r, rp_node **out, int *seen) {
  skip_blanks(r);
  const char *const at = r->p;
  size_t n = 0;
  while (is_letter(at[n])) n++;
  r->p = at + n;
  if (n != 1 || !strchr("DWI", *at) || !take(r, '=')) return bad_name(r, at, n);
  const int bit = 1 << (strchr("DWI", *at) - "DWI");
  if (*seen & bit) return bad(r, at, "%c is there twice", *at);
  *seen |= bit;
  r->which = *at;
  RP_TRY(value(r, out));
  RP_TRY(check_value(r, *out));
  skip_blanks(r);
  if (*r->p == ':')
    return bad(r, r->p,
               "a shell has taken the braces away; quote the pattern: "
               "--pattern 'D={1:4,64:12}', or write D=1x4+64x12");
  if (*r->p && *r->p != ',') return bad(r, r->p, "a comma or the end is expected here; " EXAMPLE);
  return RP_OK;
}

/* Lays the values of one part over every head of p. */
static rp_status lay(const reader *r, const rp_node *n, rp_pats *p, int32_t *values) {
  rp_error why = {0};
  const rp_node *where = n;
  const rp_status st = rp_pat_values(n, r->which, p->layers, p->kv_heads, values, &where, &why);
  if (st == RP_USAGE) return bad(r, r->text + where->at.column - 1, "%s", why.text);
  if (st) return rp_fail(r->err, st, "%s", why.text);
  rp_pats_lay(p, r->which, values);
  return RP_OK;
}

rp_status rp_pats_parse(rp_pats *out, const char *text, int layers, int kv_heads, rp_error *err) {
  RP_TRY(rp_pats_make(out, layers, kv_heads, err));
  rp_status st = RP_OK;
  const size_t n = (size_t)layers * (size_t)kv_heads;
  rp_tree *t = rp_tree_new();
  int32_t *values = rp_malloc(n, sizeof *values);
  reader r = {.tree = t, .text = text, .p = text, .err = err};
  int seen = 0;
  if (!t || !values) {
    st = rp_fail_memory(err, n * sizeof *values, "a pattern");
    goto fail;
  }
  do {
    rp_node *node;
    RP_GO(part(&r, &node, &seen));
    RP_GO(lay(&r, node, out, values));
  } while (take(&r, ','));
  st = rp_pats_check(out, err);
  if (st) {
    char around[2 * EXCERPT + 8];
    excerpt(around, text, text);
    rp_fail_at(err, "pattern '%s'", around);
  }
fail:
  rp_free(values);
  rp_tree_free(t);
  if (st) rp_pats_free(out);
  return st;
}
