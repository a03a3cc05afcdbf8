/* YAML text to a tree, as OmegaConf's loader does it: YAML 1.1 scalars, duplicate keys refused. */
#include <string.h>

#include "config/reader.h"

#if RATPLUS_WITH_YAML
#include <yaml.h>

#define DEPTH_MOST 64
#define ANCHORS_MOST 256

typedef struct {
  const char *name;
  rp_node *node;
} anchor;

typedef struct {
  rp_tree *tree;
  const char *file;
  yaml_parser_t parser;
  anchor anchors[ANCHORS_MOST];
  int n_anchors;
  rp_error *err;
} reader;

static rp_place place_of(const reader *r, yaml_mark_t mark) {
  return (rp_place){r->file, (int)mark.line + 1, (int)mark.column + 1};
}

static rp_status next_event(reader *r, yaml_event_t *e) {
  if (yaml_parser_parse(&r->parser, e)) return RP_OK;
  const yaml_parser_t *p = &r->parser;
  if (p->error == YAML_MEMORY_ERROR) return rp_fail_memory(r->err, 0, "reading YAML");
  rp_place at = place_of(r, p->problem_mark);
  if (p->error == YAML_READER_ERROR) {
    return rp_fail(r->err, RP_USAGE, "%s: byte %zu: %s; the file is not UTF-8 text", r->file,
                   p->problem_offset, p->problem ? p->problem : "cannot be read");
  }
  return rp_fail_place(r->err, at, "not YAML: %s%s%s", p->context ? p->context : "",
                       p->context ? ", " : "", p->problem ? p->problem : "syntax error");
}

static rp_status remember(reader *r, const yaml_char_t *name, rp_node *n, rp_place at) {
  if (!name || !n) return RP_OK;
  if (r->n_anchors == ANCHORS_MOST) {
    return rp_fail_place(r->err, at, "more than %d anchors; write the values out", ANCHORS_MOST);
  }
  const char *s = (const char *)name;
  r->anchors[r->n_anchors].name = rp_tree_text(r->tree, s, strlen(s));
  r->anchors[r->n_anchors].node = n;
  if (r->anchors[r->n_anchors].name) r->n_anchors++;
  return RP_OK;
}

static rp_status alias(reader *r, const yaml_event_t *e, rp_node **out) {
  const char *name = (const char *)e->data.alias.anchor;
  for (int i = r->n_anchors - 1; i >= 0; i--) {
    if (strcmp(r->anchors[i].name, name) != 0) continue;
    *out = rp_node_copy(r->tree, r->anchors[i].node);
    return RP_OK;
  }
  return rp_fail_place(r->err, place_of(r, e->start_mark),
                       "the alias *%s has no anchor before it; write &%s there", name, name);
}

static rp_status scalar(reader *r, const yaml_event_t *e, rp_node **out) {
  const char *s = (const char *)e->data.scalar.value;
  const size_t len = e->data.scalar.length;
  rp_place at = place_of(r, e->start_mark);
  if (e->data.scalar.tag && !e->data.scalar.quoted_implicit && !e->data.scalar.plain_implicit) {
    return rp_fail_place(r->err, at, "the tag %s is not supported; write the value without it",
                         (const char *)e->data.scalar.tag);
  }
  if (memchr(s, 0, len)) {
    return rp_fail_place(r->err, at, "a text with a NUL byte; remove it");
  }
  const bool plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
  if (plain && len == 1 && *s == '=') {
    return rp_fail_place(r->err, at, "a bare = is no value; quote it");
  }
  rp_node *n = rp_node_string(r->tree, s, len, at);
  *out = n;
  if (n && plain && !rp_scalar_yaml(n, s, len) && rp_scalar_too_big(s, len)) {
    return rp_fail_place(r->err, at, "the integer %s does not fit 64 bits", s);
  }
  return remember(r, e->data.scalar.anchor, n, at);
}

static rp_status value(reader *r, yaml_event_t *e, int depth, rp_node **out);

static rp_status list(reader *r, rp_node *n, int depth) {
  for (;;) {
    yaml_event_t e;
    rp_node *item = NULL;
    RP_TRY(next_event(r, &e));
    const bool end = e.type == YAML_SEQUENCE_END_EVENT;
    rp_status st = end ? RP_OK : value(r, &e, depth + 1, &item);
    yaml_event_delete(&e);
    if (end || st) return st;
    rp_list_add(n, item);
  }
}

/* The key of a map: a scalar that is no null, whose text is unique. */
static rp_status map_key(reader *r, const rp_node *map, const rp_node *key) {
  if (key->kind == RP_NODE_LIST || key->kind == RP_NODE_MAP || key->kind == RP_NODE_NULL) {
    return rp_fail_place(r->err, key->at, "a key must be a name or a number, not %s",
                         key->kind == RP_NODE_NULL ? "null" : "a list or a map");
  }
  if (key->kind == RP_NODE_STRING && strcmp(key->string, "<<") == 0) {
    return rp_fail_place(r->err, key->at, "the merge key << is not supported; use ${path} instead");
  }
  if (map->count >= RP_KEYS_MOST) {
    return rp_fail_place(r->err, key->at, "more than %d keys in one map", RP_KEYS_MOST);
  }
  for (const rp_node *c = map->child; c; c = c->next) {
    if (c->key_kind == key->kind && key->kind == RP_NODE_STRING &&
        strcmp(c->key, key->string) == 0) {
      return rp_fail_place(r->err, key->at, "the key %s is there twice in one map; remove one",
                           key->string);
    }
  }
  return RP_OK;
}

static rp_status map(reader *r, rp_node *n, int depth) {
  for (;;) {
    yaml_event_t e;
    rp_node *key = NULL, *val = NULL;
    RP_TRY(next_event(r, &e));
    const bool end = e.type == YAML_MAPPING_END_EVENT;
    rp_status st = end ? RP_OK : value(r, &e, depth + 1, &key);
    yaml_event_delete(&e);
    if (end || st) return st;
    if (!key) return rp_tree_status(r->tree, r->file, r->err);
    RP_TRY(map_key(r, n, key));
    const char *name = rp_key_text(r->tree, key);
    if (!name) return rp_fail_memory(r->err, 0, "a key");
    RP_TRY(next_event(r, &e));
    st = value(r, &e, depth + 1, &val);
    yaml_event_delete(&e);
    if (st) return st;
    rp_map_put(n, name, key->kind, val);
  }
}

static rp_status value(reader *r, yaml_event_t *e, int depth, rp_node **out) {
  rp_place at = place_of(r, e->start_mark);
  if (depth > DEPTH_MOST) {
    return rp_fail_place(r->err, at, "nested deeper than %d levels", DEPTH_MOST);
  }
  RP_TRY(rp_tree_status(r->tree, r->file, r->err));
  if (e->type == YAML_ALIAS_EVENT) return alias(r, e, out);
  if (e->type == YAML_SCALAR_EVENT) return scalar(r, e, out);
  const bool is_map = e->type == YAML_MAPPING_START_EVENT;
  const yaml_char_t *tag = is_map ? e->data.mapping_start.tag : e->data.sequence_start.tag;
  if (tag) {
    return rp_fail_place(r->err, at, "the tag %s is not supported; write the value without it",
                         (const char *)tag);
  }
  rp_node *n = rp_node_new(r->tree, is_map ? RP_NODE_MAP : RP_NODE_LIST, at);
  if (!n) return rp_tree_status(r->tree, r->file, r->err);
  RP_TRY(is_map ? map(r, n, depth) : list(r, n, depth));
  *out = n;
  return remember(r, is_map ? e->data.mapping_start.anchor : e->data.sequence_start.anchor, n, at);
}

/* Stream start, document start, one value, document end, stream end. */
static rp_status document(reader *r, rp_node **root) {
  for (;;) {
    yaml_event_t e;
    RP_TRY(next_event(r, &e));
    rp_status st = RP_OK;
    rp_place at = place_of(r, e.start_mark);
    const yaml_event_type_t type = e.type;
    if (type == YAML_DOCUMENT_START_EVENT) {
      if (*root) st = rp_fail_place(r->err, at, "a second document (---); keep one in a file");
    } else if (type != YAML_STREAM_START_EVENT && type != YAML_STREAM_END_EVENT &&
               type != YAML_DOCUMENT_END_EVENT) {
      st = value(r, &e, 0, root);
    }
    yaml_event_delete(&e);
    if (st || type == YAML_STREAM_END_EVENT) return st;
  }
}

/* "# @package NAME" in the header: the lines at the top that start with "# @", as Hydra reads it. */
static const char *package_header(rp_tree *t, const char *text, size_t len) {
  const char *p = text, *end = text + len;
  while (p < end) {
    const char *line_end = memchr(p, '\n', (size_t)(end - p));
    if (!line_end) line_end = end;
    const char *s = p;
    while (s < line_end && (*s == ' ' || *s == '\t' || *s == '\r')) s++;
    const bool blank = s == line_end, comment = !blank && *s == '#';
    while (s < line_end && (*s == '#' || *s == ' ')) s++;
    if (!blank && (!comment || s == line_end || *s != '@')) return NULL;
    if (line_end - s > 9 && memcmp(s, "@package ", 9) == 0) {
      s += 9;
      while (s < line_end && *s == ' ') s++;
      const char *stop = line_end;
      while (stop > s && (stop[-1] == ' ' || stop[-1] == '\r' || stop[-1] == '\t')) stop--;
      return rp_tree_text(t, s, (size_t)(stop - s));
    }
    p = line_end < end ? line_end + 1 : end;
  }
  return NULL;
}

rp_status rp_read_yaml(rp_tree *t, const char *file, const char *text, size_t len, rp_node **root,
                       const char **package, rp_error *err) {
  reader *r = rp_calloc(1, sizeof *r);
  if (!r) return rp_fail_memory(err, sizeof *r, "reading YAML");
  r->tree = t;
  r->err = err;
  *root = NULL;
  if (package) *package = package_header(t, text, len);
  r->file = rp_tree_text(t, file, strlen(file));
  rp_status st = rp_tree_status(t, file, err);
  if (st) goto fail;
  if (!yaml_parser_initialize(&r->parser)) {
    st = rp_fail_memory(err, 0, "reading YAML");
    goto fail;
  }
  yaml_parser_set_encoding(&r->parser, YAML_UTF8_ENCODING);
  yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, len);
  st = document(r, root);
  yaml_parser_delete(&r->parser);
  if (!st) st = rp_tree_status(t, file, err);
  if (!st && (!*root || (*root)->kind == RP_NODE_NULL)) {
    *root = rp_node_new(t, RP_NODE_MAP, (rp_place){r->file, 1, 1});
    st = rp_tree_status(t, file, err);
  } else if (!st && (*root)->kind != RP_NODE_MAP) {
    st = rp_fail_place(err, (*root)->at, "a configuration is a map (key: value), not a %s",
                       (*root)->kind == RP_NODE_LIST ? "list" : "single value");
  }
fail:
  rp_free(r);
  return st;
}

#else

rp_status rp_read_yaml(rp_tree *t, const char *file, const char *text, size_t len, rp_node **root,
                       const char **package, rp_error *err) {
  (void)t, (void)text, (void)len, (void)root, (void)package;
  return rp_fail(err, RP_USAGE,
                 "%s: this ratplus is built without libyaml, so it reads composed JSON only; "
                 "make it elsewhere with `ratplus config --json ... > run.json` and pass "
                 "--config run.json",
                 file);
}

#endif
