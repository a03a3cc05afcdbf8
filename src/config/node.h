/* node.h - the tree a configuration is while it is read, merged and resolved.
 *
 * A tree owns every node and string in one arena: nothing is freed alone, all of it with
 * rp_tree_free. Allocation failures are sticky in the tree (functions then return NULL), and so is
 * the bound on its size, which keeps a hostile file from growing without end. One thread at a time
 * while it is built; once built, any number may read it. */
#ifndef RP_CONFIG_NODE_H
#define RP_CONFIG_NODE_H

#include "base/str.h"

typedef enum {
  RP_NODE_NULL,
  RP_NODE_BOOL,
  RP_NODE_INT,
  RP_NODE_REAL,
  RP_NODE_STRING,
  RP_NODE_LIST,
  RP_NODE_MAP
} rp_node_kind;

/* Where a value was written. file NULL: nowhere a person could look; line 0: a word, whose text is
 * `file`, with the column counted in it. */
typedef struct {
  const char *file;
  int line, column;
} rp_place;

typedef struct rp_node rp_node;
struct rp_node {
  rp_node_kind kind;
  rp_node_kind key_kind; /* STRING, INT, REAL or BOOL: 1 and "1" are two keys */
  const char *key;       /* text of the key in a map; NULL elsewhere */
  rp_place at;
  int64_t integer;       /* INT; BOOL as 0 or 1 */
  double real;           /* REAL */
  const char *string;    /* STRING */
  rp_node *up, *next;    /* container; following sibling */
  rp_node *child, *last; /* of LIST and MAP */
  size_t count;
  rp_node *resolved; /* used while interpolations are resolved */
  bool busy;
};

/* What no configuration of a person exceeds: keys in one map, parts of a dotted path. */
#define RP_KEYS_MOST 4096
#define RP_PARTS_MOST 64

typedef struct rp_tree rp_tree;
rp_tree *rp_tree_new(void); /* NULL when memory is short */
void rp_tree_free(rp_tree *t);
/* RP_OK, or the sticky failure as a sentence that names `what`. */
rp_status rp_tree_status(const rp_tree *t, const char *what, rp_error *err);

void *rp_tree_alloc(rp_tree *t, size_t bytes); /* zeroed */
char *rp_tree_text(rp_tree *t, const char *s, size_t n);

rp_node *rp_node_new(rp_tree *t, rp_node_kind kind, rp_place at);
rp_node *rp_node_string(rp_tree *t, const char *s, size_t n, rp_place at);
/* Appends `n` to the list `list`. n NULL (out of memory) does nothing. */
void rp_list_add(rp_node *list, rp_node *n);
/* Puts n under key, in place of what is there. Does nothing when n or key is NULL. */
void rp_map_put(rp_node *map, const char *key, rp_node_kind key_kind, rp_node *n);
rp_node *rp_map_find(const rp_node *map, const char *key, rp_node_kind key_kind);
/* Child by the text of a path's part: a key of any kind, or an index of a list. NULL when absent. */
rp_node *rp_node_part(const rp_node *n, const char *part, size_t len);
void rp_map_remove(rp_node *map, rp_node *n);
/* A deep copy, not linked anywhere. */
rp_node *rp_node_copy(rp_tree *t, const rp_node *n);
bool rp_node_same(const rp_node *a, const rp_node *b);

/* The node at a dotted path, without resolving anything; NULL when absent. */
rp_node *rp_node_at(rp_node *root, const char *path);
/* "model.backbone.ln"; "" for the root. */
void rp_node_path(const rp_node *n, rp_str *out);
/* "FILE:LINE:COLUMN: ", "'WORD', column C: " or "". */
void rp_place_text(rp_place at, rp_str *out);
/* Value as Python's str() prints it: what string interpolation inserts. */
void rp_node_text(const rp_node *n, rp_str *out);
/* Text of a scalar as a key; NULL when memory is short. */
const char *rp_key_text(rp_tree *t, const rp_node *n);
/* Like rp_fail, with the place in front. */
rp_status rp_fail_place(rp_error *err, rp_place at, const char *fmt, ...) RP_PRINTF(3, 4);

/* Scalars. `n` gets kind and value; false: it is a string. */
bool rp_scalar_yaml(rp_node *n, const char *s, size_t len); /* plain scalar of a file, YAML 1.1 */
bool rp_scalar_word(rp_node *n, const char *s, size_t len); /* unquoted primitive of a word */
/* An integer that does not fit 64 bits: neither call above takes it, and it is no string either. */
bool rp_scalar_too_big(const char *s, size_t len);

/* Emitters. */
void rp_emit_yaml(const rp_node *root, rp_str *out);
void rp_emit_json(const rp_node *root, int indent, rp_str *out);
/* Every leaf's dotted path, in order, separated by newlines. */
void rp_node_paths(const rp_node *root, rp_str *out);

#endif
