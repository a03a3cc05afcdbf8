#include "config/node.h"

#include <string.h>

/* A tree larger than this was not written by a person. */
#define TREE_MOST ((size_t)64 << 20)
#define BLOCK_BYTES ((size_t)16 << 10)

typedef struct block block;
struct block {
  block *next;
  size_t used, bytes;
};

struct rp_tree {
  block *blocks;
  size_t total;
  bool out_of_memory, too_large;
};

/* --- arena -------------------------------------------------------------------------------- */

rp_tree *rp_tree_new(void) { return rp_calloc(1, sizeof(rp_tree)); }

void rp_tree_free(rp_tree *t) {
  if (!t) return;
  block *b = t->blocks;
  while (b) {
    block *next = b->next;
    rp_free(b);
    b = next;
  }
  rp_free(t);
}

rp_status rp_tree_status(const rp_tree *t, const char *what, rp_error *err) {
  if (t->too_large) {
    return rp_fail(err, RP_USAGE, "%s: the configuration grows beyond %d MiB; shorten it", what,
                   (int)(TREE_MOST >> 20));
  }
  if (t->out_of_memory) return rp_fail_memory(err, t->total, "a configuration");
  return RP_OK;
}

void *rp_tree_alloc(rp_tree *t, size_t bytes) {
  if (t->out_of_memory || t->too_large) return NULL;
  if (bytes > TREE_MOST || t->total > TREE_MOST - bytes) {
    t->too_large = true;
    return NULL;
  }
  bytes = (bytes + 15) & ~(size_t)15;
  block *b = t->blocks;
  if (!b || b->bytes - b->used < bytes) {
    const size_t head = (sizeof(block) + 15) & ~(size_t)15;
    const size_t size = head + (bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES);
    b = rp_calloc(1, size);
    if (!b) {
      t->out_of_memory = true;
      return NULL;
    }
    b->used = head;
    b->bytes = size;
    b->next = t->blocks;
    t->blocks = b;
  }
  void *p = (char *)b + b->used;
  b->used += bytes;
  t->total += bytes;
  return p;
}

char *rp_tree_text(rp_tree *t, const char *s, size_t n) {
  char *p = rp_tree_alloc(t, n + 1);
  if (p && n) memcpy(p, s, n);
  return p;
}

/* --- nodes -------------------------------------------------------------------------------- */

rp_node *rp_node_new(rp_tree *t, rp_node_kind kind, rp_place at) {
  rp_node *n = rp_tree_alloc(t, sizeof *n);
  if (!n) return NULL;
  n->kind = kind;
  n->at = at;
  return n;
}

rp_node *rp_node_string(rp_tree *t, const char *s, size_t n, rp_place at) {
  rp_node *node = rp_node_new(t, RP_NODE_STRING, at);
  if (!node) return NULL;
  node->string = rp_tree_text(t, s, n);
  return node->string ? node : NULL;
}

void rp_list_add(rp_node *list, rp_node *n) {
  if (!n) return;
  n->up = list;
  n->next = NULL;
  if (list->last) {
    list->last->next = n;
  } else {
    list->child = n;
  }
  list->last = n;
  list->count++;
}

rp_node *rp_map_find(const rp_node *map, const char *key, rp_node_kind key_kind) {
  for (rp_node *c = map->child; c; c = c->next) {
    if (c->key_kind == key_kind && strcmp(c->key, key) == 0) return c;
  }
  return NULL;
}

void rp_map_put(rp_node *map, const char *key, rp_node_kind key_kind, rp_node *n) {
  if (!n || !key) return;
  n->key = key;
  n->key_kind = key_kind;
  rp_node *before = NULL;
  for (rp_node *c = map->child; c; before = c, c = c->next) {
    if (c->key_kind != key_kind || strcmp(c->key, key) != 0) continue;
    n->up = map;
    n->next = c->next;
    if (before) {
      before->next = n;
    } else {
      map->child = n;
    }
    if (map->last == c) map->last = n;
    return;
  }
  rp_list_add(map, n);
}

void rp_map_remove(rp_node *map, rp_node *n) {
  rp_node *before = NULL;
  for (rp_node *c = map->child; c; before = c, c = c->next) {
    if (c != n) continue;
    if (before) {
      before->next = c->next;
    } else {
      map->child = c->next;
    }
    if (map->last == c) map->last = before;
    map->count--;
    return;
  }
}

static rp_node *list_at(const rp_node *list, const char *part, size_t len) {
  size_t index = 0;
  if (len == 0 || len > 9) return NULL;
  for (size_t i = 0; i < len; i++) {
    if (part[i] < '0' || part[i] > '9') return NULL;
    index = index * 10 + (size_t)(part[i] - '0');
  }
  rp_node *c = list->child;
  while (c && index--) c = c->next;
  return c;
}

rp_node *rp_node_part(const rp_node *n, const char *part, size_t len) {
  if (n->kind == RP_NODE_LIST) return list_at(n, part, len);
  if (n->kind != RP_NODE_MAP) return NULL;
  for (rp_node *c = n->child; c; c = c->next) {
    if (strlen(c->key) == len && memcmp(c->key, part, len) == 0) return c;
  }
  return NULL;
}

rp_node *rp_node_copy(rp_tree *t, const rp_node *n) {
  rp_node *m = rp_node_new(t, n->kind, n->at);
  if (!m) return NULL;
  m->integer = n->integer;
  m->real = n->real;
  m->string = n->string;
  for (const rp_node *c = n->child; c; c = c->next) {
    rp_node *d = rp_node_copy(t, c);
    if (!d) return NULL;
    d->key = c->key;
    d->key_kind = c->key_kind;
    rp_list_add(m, d);
  }
  return m;
}

bool rp_node_same(const rp_node *a, const rp_node *b) {
  if (a->kind != b->kind || a->count != b->count) return false;
  switch (a->kind) {
    case RP_NODE_BOOL:
    case RP_NODE_INT: return a->integer == b->integer;
    case RP_NODE_REAL: return a->real == b->real || (a->real != a->real && b->real != b->real);
    case RP_NODE_STRING: return strcmp(a->string, b->string) == 0;
    default: break;
  }
  const rp_node *d = b->child;
  for (const rp_node *c = a->child; c; c = c->next, d = d->next) {
    const rp_node *o = a->kind == RP_NODE_MAP ? rp_map_find(b, c->key, c->key_kind) : d;
    if (!o || !rp_node_same(c, o)) return false;
  }
  return true;
}

/* --- paths and places --------------------------------------------------------------------- */

rp_node *rp_node_at(rp_node *root, const char *path) {
  rp_node *n = root;
  while (n && *path) {
    const size_t len = strcspn(path, ".");
    n = rp_node_part(n, path, len);
    path += len;
    if (*path == '.') path++;
  }
  return n;
}

static void add_index(const rp_node *n, rp_str *out) {
  int i = 0;
  for (const rp_node *c = n->up->child; c && c != n; c = c->next) i++;
  rp_str_addf(out, "%d", i);
}

void rp_node_path(const rp_node *n, rp_str *out) {
  if (!n->up) return;
  rp_node_path(n->up, out);
  if (n->up->up) rp_str_add(out, ".");
  if (n->up->kind == RP_NODE_LIST) {
    add_index(n, out);
  } else {
    rp_str_add(out, n->key);
  }
}

void rp_place_text(rp_place at, rp_str *out) {
  if (!at.file) return;
  const bool whole = strlen(at.file) <= 200;
  const int n = whole ? 200 : 160;
  if (at.line > 0) {
    rp_str_addf(out, "%s:%d:%d: ", at.file, at.line, at.column);
  } else if (at.column > 0) {
    rp_str_addf(out, "'%.*s%s', column %d: ", n, at.file, whole ? "" : "...", at.column);
  } else {
    rp_str_addf(out, "'%.*s%s': ", n, at.file, whole ? "" : "...");
  }
}

rp_status rp_fail_place(rp_error *err, rp_place at, const char *fmt, ...) {
  rp_str b = {0};
  va_list ap;
  rp_place_text(at, &b);
  va_start(ap, fmt);
  rp_str_vaddf(&b, fmt, ap);
  va_end(ap);
  rp_status st = b.failed ? rp_fail_memory(err, 256, "a message")
                          : rp_fail(err, RP_USAGE, "%s", b.s ? b.s : "");
  rp_str_free(&b);
  return st;
}

/* --- text --------------------------------------------------------------------------------- */

static void add_python_string(const char *s, rp_str *out) {
  const char quote = strchr(s, '\'') && !strchr(s, '"') ? '"' : '\'';
  rp_str_addn(out, &quote, 1);
  for (; *s; s++) {
    if (*s == '\n') {
      rp_str_add(out, "\\n");
    } else {
      if (*s == quote || *s == '\\') rp_str_add(out, "\\");
      rp_str_addn(out, s, 1);
    }
  }
  rp_str_addn(out, &quote, 1);
}

static void add_nested(const rp_node *n, rp_str *out) {
  if (n->kind == RP_NODE_STRING) {
    add_python_string(n->string, out);
  } else {
    rp_node_text(n, out);
  }
}

void rp_node_text(const rp_node *n, rp_str *out) {
  char number[32];
  switch (n->kind) {
    case RP_NODE_NULL: rp_str_add(out, "None"); return;
    case RP_NODE_BOOL: rp_str_add(out, n->integer ? "True" : "False"); return;
    case RP_NODE_INT: rp_str_addf(out, "%lld", (long long)n->integer); return;
    case RP_NODE_REAL:
      rp_format_f64(number, n->real, true);
      rp_str_add(out, number);
      return;
    case RP_NODE_STRING: rp_str_add(out, n->string); return;
    case RP_NODE_LIST:
    case RP_NODE_MAP: break;
  }
  rp_str_add(out, n->kind == RP_NODE_LIST ? "[" : "{");
  for (const rp_node *c = n->child; c; c = c->next) {
    if (c != n->child) rp_str_add(out, ", ");
    if (n->kind == RP_NODE_MAP) {
      if (c->key_kind == RP_NODE_STRING) {
        add_python_string(c->key, out);
      } else {
        rp_str_add(out, c->key);
      }
      rp_str_add(out, ": ");
    }
    add_nested(c, out);
  }
  rp_str_add(out, n->kind == RP_NODE_LIST ? "]" : "}");
}

const char *rp_key_text(rp_tree *t, const rp_node *n) {
  if (n->kind == RP_NODE_STRING) return n->string;
  if (n->kind == RP_NODE_BOOL) return n->integer ? "true" : "false";
  rp_str b = {0};
  rp_node_text(n, &b);
  const char *s = b.failed ? NULL : rp_tree_text(t, b.s ? b.s : "", b.len);
  rp_str_free(&b);
  return s;
}

void rp_node_paths(const rp_node *root, rp_str *out) {
  for (const rp_node *c = root->child; c; c = c->next) {
    if (c->kind == RP_NODE_MAP && c->child) {
      rp_node_paths(c, out);
      continue;
    }
    rp_node_path(c, out);
    rp_str_add(out, "\n");
  }
}
