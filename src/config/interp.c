#include "config/interp.h"

#include <string.h>
#include <time.h>

#include "config/suggest.h"

#define DEPTH_MOST 48
#define TEXT_MOST ((size_t)1 << 20)

/* What is being read: the text of a node (or of a word), and how far. */
typedef struct {
  rp_tree *tree;
  rp_node *root; /* NULL: a word, whose interpolations stay text */
  rp_node *self; /* the node that holds the text; relative paths start at its container */
  const char *text, *p;
  rp_place at;
  int *depth;
  rp_error *err;
} reading;

static rp_status resolve(reading *outer, rp_node *n, rp_node **out);
static rp_status interpolation(reading *r, rp_node **out);
static rp_status element(reading *r, const char *stops, rp_node **out);

bool rp_is_interpolation(const rp_node *n) {
  return n->kind == RP_NODE_STRING && strstr(n->string, "${");
}

static rp_status bad(const reading *r, const char *why) {
  if (!r->root) {
    rp_place at = {r->text, 0, (int)(r->p - r->text) + 1};
    return rp_fail_place(r->err, at, "%s", why);
  }
  return rp_fail_place(r->err, r->at, "\"%.200s\", at character %d: %s", r->text,
                       (int)(r->p - r->text) + 1, why);
}

static rp_status short_of_memory(const reading *r) {
  return rp_tree_status(r->tree, r->at.file ? r->at.file : "a configuration", r->err);
}

static rp_status string_node(reading *r, rp_str *b, rp_node **out) {
  if (b->failed) return rp_fail_memory(r->err, b->len, "a value");
  if (b->len > TEXT_MOST) return bad(r, "the text gets longer than 1 MiB");
  *out = rp_node_string(r->tree, b->s ? b->s : "", b->len, r->at);
  return *out ? RP_OK : short_of_memory(r);
}

static void skip_space(reading *r) {
  while (*r->p == ' ' || *r->p == '\t') r->p++;
}

/* --- references --------------------------------------------------------------------------- */

/* Walks `path` from `base`, through whatever interpolation lies on the way; *out NULL: absent. */
static rp_status walk(reading *r, rp_node *base, const char *path, rp_node **out) {
  rp_node *n = base;
  *out = NULL;
  while (n && *path) {
    const size_t len = strcspn(path, ".");
    if (rp_is_interpolation(n)) RP_TRY(resolve(r, n, &n));
    n = rp_node_part(n, path, len);
    path += len;
    if (*path == '.') path++;
  }
  *out = n;
  return RP_OK;
}

/* Leading dots of a path choose its base: none the root, one the container of self. */
static rp_status find(reading *r, const char *path, rp_node **out) {
  rp_node *base = r->root;
  const char *p = path;
  if (*p == '.') {
    base = r->self->up;
    while (*++p == '.' && base) base = base->up;
    if (!base) return bad(r, "the path has more dots than there are levels above it");
  }
  return walk(r, base, p, out);
}

static rp_status missing(reading *r, const char *path) {
  rp_str paths = {0}, hint = {0};
  rp_node_paths(r->root, &paths);
  rp_suggest(path + strspn(path, "."), paths.s, 2, &hint);
  rp_status st = rp_fail_place(
      r->err, r->at, "\"%.200s\" refers to %.200s, which is not there%s%s%s", r->text, path,
      hint.len ? "; did you mean " : "", hint.s ? hint.s : "", hint.len ? "?" : "");
  rp_str_free(&paths);
  rp_str_free(&hint);
  return st;
}

/* The path up to '}', with [key] as .key and inner interpolations put in. */
static rp_status path_text(reading *r, rp_str *path) {
  for (;;) {
    if (!*r->p) return bad(r, "a } is missing");
    if (*r->p == '}') break;
    if (rp_starts_with(r->p, "${")) {
      rp_node *inner;
      RP_TRY(interpolation(r, &inner));
      if (inner->kind != RP_NODE_STRING && inner->kind != RP_NODE_INT) {
        return bad(r, "an interpolation inside a path must give a name");
      }
      rp_node_text(inner, path);
      continue;
    }
    const char c = *r->p;
    if (strchr("{(\"'\n", c)) return bad(r, "this character cannot be part of a path");
    r->p++;
    if (c == ']') continue;
    if (c == '[') {
      if (path->len && path->s[path->len - 1] != '.') rp_str_add(path, ".");
    } else {
      rp_str_addn(path, &c, 1);
    }
  }
  while (path->len && (path->s[path->len - 1] == ' ' || path->s[path->len - 1] == '\t')) {
    path->s[--path->len] = '\0';
  }
  r->p++;
  return path->failed ? rp_fail_memory(r->err, path->len, "a path") : RP_OK;
}

static rp_status reference(reading *r, rp_node **out) {
  rp_str path = {0};
  rp_node *target = NULL;
  rp_status st = path_text(r, &path);
  if (!st && (!path.len || strspn(path.s, ".") == path.len)) {
    st = bad(r, "a path is missing between ${ and }");
  }
  if (!st) st = find(r, path.s, &target);
  if (!st && !target) st = missing(r, path.s);
  if (!st) st = resolve(r, target, out);
  rp_str_free(&path);
  return st;
}

/* --- resolvers ---------------------------------------------------------------------------- */

typedef struct {
  rp_node *arg[8];
  int n;
} args;

static rp_status do_eval(reading *r, const args *a, rp_node **out) {
  if (a->n != 1) {
    return bad(r,
               "eval takes one expression; quote it when it has commas: ${eval:\"[1, 64] * 12\"}");
  }
  rp_node *n = a->arg[0];
  if (n->kind == RP_NODE_STRING) return rp_eval(r->tree, n->string, r->at, out, r->err);
  if (n->kind == RP_NODE_INT || n->kind == RP_NODE_REAL || n->kind == RP_NODE_LIST) {
    *out = n;
    return RP_OK;
  }
  return bad(r, "eval takes arithmetic of numbers and lists");
}

static rp_status do_select(reading *r, const args *a, rp_node **out) {
  if (a->n < 1 || a->n > 2 || a->arg[0]->kind != RP_NODE_STRING) {
    return bad(r, "oc.select takes a path and a default: ${oc.select:a.b,null}");
  }
  rp_node *target;
  RP_TRY(find(r, a->arg[0]->string, &target));
  if (target) return resolve(r, target, out);
  *out = a->n == 2 ? a->arg[1] : rp_node_new(r->tree, RP_NODE_NULL, r->at);
  return *out ? RP_OK : short_of_memory(r);
}

static rp_status do_now(reading *r, const args *a, rp_node **out) {
  char buf[256];
  struct tm tm;
  const time_t now = time(NULL);
  if (a->n != 1 || a->arg[0]->kind != RP_NODE_STRING) {
    return bad(r, "now takes a format: ${now:%Y-%m-%d}");
  }
  if (!localtime_r(&now, &tm) || !strftime(buf, sizeof buf, a->arg[0]->string, &tm)) {
    return bad(r, "now: the format gives no text, or too much");
  }
  *out = rp_node_string(r->tree, buf, strlen(buf), r->at);
  return *out ? RP_OK : short_of_memory(r);
}

static rp_status do_int(reading *r, const args *a, rp_node **out) {
  if (a->n != 1) return bad(r, "int takes one value");
  const rp_node *n = a->arg[0];
  rp_node *v = *out = rp_node_new(r->tree, RP_NODE_INT, r->at);
  if (!v) return short_of_memory(r);
  if (n->kind == RP_NODE_INT || n->kind == RP_NODE_BOOL) {
    v->integer = n->integer;
    return RP_OK;
  }
  if (n->kind == RP_NODE_REAL && n->real > -9.2e18 && n->real < 9.2e18) {
    v->integer = (int64_t)n->real;
    return RP_OK;
  }
  if (n->kind == RP_NODE_STRING) {
    const char *s = n->string + strspn(n->string, " ");
    size_t len = strlen(s);
    while (len && s[len - 1] == ' ') len--;
    if (rp_scalar_word(v, s, len) && v->kind == RP_NODE_INT) return RP_OK;
  }
  return bad(r, "int takes a number, or a text that is an integer");
}

static rp_status call(reading *r, const char *name, const args *a, rp_node **out) {
  if (strcmp(name, "eval") == 0) return do_eval(r, a, out);
  if (strcmp(name, "oc.select") == 0) return do_select(r, a, out);
  if (strcmp(name, "now") == 0) return do_now(r, a, out);
  if (strcmp(name, "int") == 0) return do_int(r, a, out);
  return rp_fail_place(
      r->err, r->at,
      "\"%.200s\": there is no resolver %s here; the ones there are: eval, oc.select, "
      "now, int%s",
      r->text, name, strcmp(name, "oc.env") == 0 ? " (the environment is not read)" : "");
}

static rp_status resolver(reading *r, const char *name, size_t len, rp_node **out) {
  args a = {{0}, 0};
  char buf[64];
  if (len >= sizeof buf) return bad(r, "no resolver has a name that long");
  memcpy(buf, name, len);
  buf[len] = '\0';
  skip_space(r);
  while (*r->p != '}' || (a.n > 0 && r->p[-1] == ',')) {
    if (!*r->p) return bad(r, "a } is missing");
    if (a.n == 8) return bad(r, "more than 8 arguments");
    RP_TRY(element(r, ",}", &a.arg[a.n++]));
    skip_space(r);
    if (*r->p == '}') break;
    if (*r->p != ',') return bad(r, "a comma or } is expected; quote the argument");
    r->p++;
  }
  r->p++;
  return call(r, buf, &a, out);
}

/* --- text --------------------------------------------------------------------------------- */

static bool is_name(char c, bool first) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         (!first && ((c >= '0' && c <= '9') || c == '-'));
}

/* Length of "oc.select" when a colon follows it, else 0. */
static size_t resolver_name(const char *s) {
  const char *p = s;
  for (;;) {
    if (!is_name(*p, true)) return 0;
    while (is_name(*p, false)) p++;
    if (*p != '.') break;
    p++;
  }
  return p[strspn(p, " \t")] == ':' ? (size_t)(p - s) : 0;
}

/* In a word, "${...}" is copied as it stands; quotes inside may hold braces. */
static rp_status raw_interpolation(reading *r, rp_str *b) {
  const char *from = r->p;
  int depth = 0;
  char quote = 0;
  for (; *r->p; r->p++) {
    const char c = *r->p;
    if (c == '\\' && r->p[1]) {
      r->p++;
    } else if (quote) {
      if (c == quote) quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '{') {
      depth++;
    } else if (c == '}' && --depth == 0) {
      r->p++;
      rp_str_addn(b, from, (size_t)(r->p - from));
      return RP_OK;
    }
  }
  r->p = from;
  return bad(r, "a } is missing after ${");
}

static rp_status interpolation(reading *r, rp_node **out) {
  const char *from = r->p;
  if (++*r->depth > DEPTH_MOST) return bad(r, "nested too deeply");
  r->p += 2;
  skip_space(r);
  const size_t name = resolver_name(r->p);
  rp_status st;
  if (name) {
    const char *s = r->p;
    r->p += name;
    r->p += strspn(r->p, " \t") + 1;
    st = resolver(r, s, name, out);
  } else {
    st = reference(r, out);
  }
  --*r->depth;
  (void)from;
  return st;
}

/* One "${...}": its text into b, its value into *only. */
static rp_status add_interpolation(reading *r, rp_str *b, rp_node **only) {
  if (!r->root) return raw_interpolation(r, b);
  RP_TRY(interpolation(r, only));
  rp_node_text(*only, b);
  if (b->len > TEXT_MOST) return bad(r, "the text gets longer than 1 MiB");
  return RP_OK;
}

/* 'text' or "text"; stands on the opening quote. */
static rp_status quoted(reading *r, rp_node **out) {
  const char quote = *r->p, *from = r->p++;
  rp_str b = {0};
  rp_node *ignored;
  rp_status st = RP_OK;
  while (*r->p && *r->p != quote && !st) {
    if (*r->p == '\\' && (r->p[1] == quote || (r->p[1] == '\\' && r->p[2] == quote))) {
      rp_str_addn(&b, r->p + 1, 1);
      r->p += 2;
    } else if (rp_starts_with(r->p, "${")) {
      st = add_interpolation(r, &b, &ignored);
    } else {
      rp_str_addn(&b, r->p++, 1);
    }
  }
  if (!st && !*r->p) {
    r->p = from;
    st = bad(r, "the closing quote is missing");
  }
  if (!st) {
    r->p++;
    st = string_node(r, &b, out);
  }
  rp_str_free(&b);
  return st;
}

/* Characters an unquoted text of a word may hold besides letters, digits, ':' and spaces. */
static bool word_char(char c) { return is_name(c, false) || strchr("/-\\+.$%*@?|: \t", c) != NULL; }

static rp_status bad_word_char(const reading *r) {
  char why[200];
  if (*r->p == '(') {
    return bad(r,
               "functions such as choice(...) and range(...) are not supported; quote the "
               "value when ( is part of it");
  }
  if ((unsigned char)*r->p >= 0x80) {
    return bad(r, "letters outside ASCII need quotes inside the word: 'key=\"...\"'");
  }
  rp_snprintf(why, sizeof why,
              "%c cannot stand in an unquoted value; quote it inside the word: "
              "'key=\"...\"'",
              *r->p);
  return bad(r, why);
}

/* An unquoted text up to one of `stops`. */
static rp_status primitive(reading *r, const char *stops, rp_node **out) {
  const char *from = r->p;
  rp_str b = {0};
  rp_node *only = NULL;
  int values = 0;
  bool other = false, escaped = false;
  size_t keep = 0; /* trailing blanks beyond this are dropped */
  rp_status st = RP_OK;
  while (*r->p && !strchr(stops, *r->p)) {
    if (rp_starts_with(r->p, "${")) {
      RP_GO(add_interpolation(r, &b, &only));
      values++;
      keep = b.len;
      continue;
    }
    if (*r->p == '\\' && r->p[1] && strchr("\\()[]{}:=, \t", r->p[1])) {
      rp_str_addn(&b, r->p + 1, 1);
      r->p += 2;
      escaped = true;
      keep = b.len;
      continue;
    }
    if (!r->root && !word_char(*r->p)) {
      st = bad_word_char(r);
      goto fail;
    }
    rp_str_addn(&b, r->p, 1);
    if (*r->p != ' ' && *r->p != '\t') {
      other = true;
      keep = b.len;
    }
    r->p++;
  }
  if (b.s && keep < b.len) {
    b.len = keep;
    b.s[keep] = '\0';
  }
  if (values == 1 && only && !other && !escaped) {
    *out = only;
    goto fail;
  }
  RP_GO(string_node(r, &b, out));
  if (!values && !escaped && b.len && !rp_scalar_word(*out, b.s, b.len) &&
      rp_scalar_too_big(b.s, b.len)) {
    r->p = from;
    st = bad(r, "the integer does not fit 64 bits");
  }
fail:
  rp_str_free(&b);
  return st;
}

static rp_status list(reading *r, rp_node **out) {
  rp_node *l = *out = rp_node_new(r->tree, RP_NODE_LIST, r->at);
  if (!l) return short_of_memory(r);
  r->p++;
  skip_space(r);
  if (*r->p == ']') {
    r->p++;
    return RP_OK;
  }
  for (;;) {
    rp_node *item;
    if (strchr(",]", *r->p)) return bad(r, "a value is expected before this; '' is an empty text");
    RP_TRY(element(r, ",]", &item));
    rp_list_add(l, rp_node_copy(r->tree, item));
    skip_space(r);
    if (*r->p == ']') {
      r->p++;
      return RP_OK;
    }
    if (*r->p != ',') return bad(r, "a comma or ] is expected");
    r->p++;
    skip_space(r);
    if (!*r->p) return bad(r, "a ] is missing");
  }
}

static rp_status map(reading *r, rp_node **out) {
  rp_node *m = *out = rp_node_new(r->tree, RP_NODE_MAP, r->at);
  if (!m) return short_of_memory(r);
  r->p++;
  skip_space(r);
  while (*r->p != '}') {
    rp_node *key, *item;
    skip_space(r);
    RP_TRY(primitive(r, ":,}", &key));
    if (*r->p != ':') return bad(r, "a map is {key: value, ...}; a colon is expected");
    if (key->kind == RP_NODE_NULL || key->kind >= RP_NODE_LIST) {
      return bad(r, "a key must be a name or a number");
    }
    r->p++;
    skip_space(r);
    if (strchr(",}", *r->p)) return bad(r, "a value is expected before this; '' is an empty text");
    RP_TRY(element(r, ",}", &item));
    const char *name = rp_key_text(r->tree, key);
    rp_map_put(m, name, key->kind, rp_node_copy(r->tree, item));
    skip_space(r);
    if (*r->p == ',') {
      r->p++;
    } else if (*r->p != '}') {
      return bad(r, "a comma or } is expected");
    }
  }
  r->p++;
  return short_of_memory(r);
}

static rp_status element(reading *r, const char *stops, rp_node **out) {
  skip_space(r);
  if (++*r->depth > DEPTH_MOST) return bad(r, "nested too deeply");
  rp_status st;
  if (*r->p == '[') {
    st = list(r, out);
  } else if (*r->p == '{') {
    st = map(r, out);
  } else if (*r->p == '"' || *r->p == '\'') {
    st = quoted(r, out);
  } else {
    st = primitive(r, stops, out);
  }
  --*r->depth;
  return st;
}

/* The whole text of a node: pieces and interpolations. Backslashes before ${ escape it. */
static rp_status whole_text(reading *r, rp_node **out) {
  rp_str b = {0};
  rp_node *only = NULL;
  rp_status st = RP_OK;
  while (*r->p) {
    size_t slashes = strspn(r->p, "\\");
    if (rp_starts_with(r->p + slashes, "${")) {
      for (size_t i = 0; i < slashes / 2; i++) rp_str_add(&b, "\\");
      r->p += slashes;
      if (slashes % 2) {
        rp_str_add(&b, "${");
        r->p += 2;
        continue;
      }
      const bool first = r->p == r->text;
      RP_GO(add_interpolation(r, &b, &only));
      if (first && !*r->p) {
        *out = only;
        goto fail;
      }
      continue;
    }
    if (!slashes) slashes = 1;
    rp_str_addn(&b, r->p, slashes);
    r->p += slashes;
  }
  st = string_node(r, &b, out);
fail:
  rp_str_free(&b);
  return st;
}

/* --- trees -------------------------------------------------------------------------------- */

static rp_status check_plain(const reading *r, const rp_node *n) {
  if (n->kind == RP_NODE_STRING && strcmp(n->string, "???") == 0) {
    rp_str path = {0};
    rp_node_path(n, &path);
    rp_status st = rp_fail_place(r->err, n->at, "%s is ???, a value to be given; give it: %s=VALUE",
                                 path.s ? path.s : "", path.s ? path.s : "");
    rp_str_free(&path);
    return st;
  }
  if (n->key && strcmp(n->key, "_target_") == 0) {
    return rp_fail_place(r->err, n->at,
                         "_target_ names Python code, which is never run here; "
                         "remove the key");
  }
  return RP_OK;
}

static rp_status build(reading *r, rp_node *n, rp_node **out) {
  RP_TRY(check_plain(r, n));
  if (rp_is_interpolation(n)) {
    rp_node *v;
    RP_TRY(resolve(r, n, &v));
    *out = rp_node_copy(r->tree, v);
    return *out ? RP_OK : short_of_memory(r);
  }
  if (n->kind != RP_NODE_LIST && n->kind != RP_NODE_MAP) {
    *out = rp_node_copy(r->tree, n);
    return *out ? RP_OK : short_of_memory(r);
  }
  *out = rp_node_new(r->tree, n->kind, n->at);
  if (!*out) return short_of_memory(r);
  for (rp_node *c = n->child; c; c = c->next) {
    rp_node *d;
    RP_TRY(build(r, c, &d));
    d->key = c->key;
    d->key_kind = c->key_kind;
    rp_list_add(*out, d);
  }
  return RP_OK;
}

/* Value of a node, made once; a node met again while it is being made is a cycle. */
static rp_status resolve(reading *outer, rp_node *n, rp_node **out) {
  if (n->resolved) {
    *out = n->resolved;
    return RP_OK;
  }
  if (n->busy) {
    rp_str path = {0};
    rp_node_path(n, &path);
    rp_status st =
        rp_fail_place(outer->err, outer->at, "\"%.200s\": %.200s refers to itself in a circle",
                      outer->text, path.s ? path.s : "the whole configuration");
    rp_str_free(&path);
    return st;
  }
  if (++*outer->depth > DEPTH_MOST) return bad(outer, "references are nested too deeply");
  n->busy = true;
  reading r = *outer;
  rp_status st;
  if (rp_is_interpolation(n)) {
    r.self = n;
    r.text = r.p = n->string;
    r.at = n->at;
    st = whole_text(&r, out);
  } else {
    st = build(&r, n, out);
  }
  n->busy = false;
  --*outer->depth;
  if (!st) n->resolved = *out;
  return st;
}

rp_status rp_resolve_node(rp_tree *t, rp_node *root, rp_node *n, rp_node **out, rp_error *err) {
  int depth = 0;
  reading r = {t, root, n, "", "", n->at, &depth, err};
  return resolve(&r, n, out);
}

rp_status rp_resolve(rp_tree *t, rp_node *root, rp_node **out, rp_error *err) {
  int depth = 0;
  reading r = {t, root, root, "", "", root->at, &depth, err};
  return build(&r, root, out);
}

rp_status rp_parse_word_value(rp_tree *t, const char *text, size_t from, rp_node **out,
                              rp_error *err) {
  int depth = 0;
  reading r = {t, NULL, NULL, text, text + from, {text, 0, 0}, &depth, err};
  skip_space(&r);
  if (!*r.p) {
    *out = rp_node_string(t, "", 0, r.at);
    return *out ? RP_OK : short_of_memory(&r);
  }
  RP_TRY(element(&r, ",", out));
  skip_space(&r);
  if (*r.p == ',') {
    const char *v = text + from;
    return rp_fail_place(err, r.at, "several values; a list is written %.*s'[%.200s]'",
                         (int)(from < 200 ? from : 200), text, v);
  }
  if (*r.p) return bad(&r, "nothing may follow the value; quote it as a whole");
  return RP_OK;
}
