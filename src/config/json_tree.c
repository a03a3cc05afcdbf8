/* An already composed configuration in JSON, as the same tree a YAML file gives. */
#include <string.h>

#include "base/json.h"
#include "config/reader.h"

static rp_node *convert(rp_tree *t, const rp_json *j, rp_place at) {
  static const rp_node_kind kinds[] = {
      [RP_JSON_NULL] = RP_NODE_NULL,     [RP_JSON_BOOL] = RP_NODE_BOOL,
      [RP_JSON_INT] = RP_NODE_INT,       [RP_JSON_REAL] = RP_NODE_REAL,
      [RP_JSON_STRING] = RP_NODE_STRING, [RP_JSON_ARRAY] = RP_NODE_LIST,
      [RP_JSON_OBJECT] = RP_NODE_MAP};
  if (j->type == RP_JSON_STRING) return rp_node_string(t, j->string, j->len, at);
  rp_node *n = rp_node_new(t, kinds[j->type], at);
  if (!n) return NULL;
  n->integer = j->integer;
  n->real = j->real;
  for (const rp_json *c = j->child; c; c = c->next) {
    rp_node *d = convert(t, c, at);
    if (!d) return NULL;
    if (j->type == RP_JSON_OBJECT) {
      rp_map_put(n, rp_tree_text(t, c->key, strlen(c->key)), RP_NODE_STRING, d);
    } else {
      rp_list_add(n, d);
    }
  }
  return n;
}

static bool too_many_keys(const rp_json *j) {
  if (j->type == RP_JSON_OBJECT && j->count > RP_KEYS_MOST) return true;
  for (const rp_json *c = j->child; c; c = c->next) {
    if (too_many_keys(c)) return true;
  }
  return false;
}

rp_status rp_read_json(rp_tree *t, const char *file, const char *text, size_t len, rp_node **root,
                       rp_error *err) {
  rp_json_doc *doc = NULL;
  rp_status st = rp_json_parse(&doc, text, len, file, err);
  if (st) return st == RP_NO_MEMORY ? st : (err ? (err->status = RP_USAGE) : RP_USAGE);
  const char *name = rp_tree_text(t, file, strlen(file));
  if (rp_json_root(doc)->type != RP_JSON_OBJECT) {
    st = rp_fail(err, RP_USAGE, "%s: a configuration is an object ({...})", file);
  } else if (too_many_keys(rp_json_root(doc))) {
    st = rp_fail(err, RP_USAGE, "%s: more than %d keys in one object", file, RP_KEYS_MOST);
  } else {
    *root = convert(t, rp_json_root(doc), (rp_place){name, 0, 0});
    st = rp_tree_status(t, file, err);
  }
  rp_json_free(doc);
  return st;
}
