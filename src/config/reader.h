/* reader.h - texts to trees: YAML files (through libyaml, only here), JSON files, and the words of
 * a command line. Everything returned lives in the tree that was handed in. */
#ifndef RP_CONFIG_READER_H
#define RP_CONFIG_READER_H

#include "config/node.h"

/* A YAML document: a map, or an empty map when there is none. `file` is kept for messages. The
 * header comment "# @package NAME" is returned in *package (NULL: none). */
rp_status rp_read_yaml(rp_tree *t, const char *file, const char *text, size_t len, rp_node **root,
                       const char **package, rp_error *err);
/* A JSON object as the same kind of tree. */
rp_status rp_read_json(rp_tree *t, const char *file, const char *text, size_t len, rp_node **root,
                       rp_error *err);

typedef enum { RP_WORD_SET, RP_WORD_ADD, RP_WORD_ADD_OR_SET, RP_WORD_DELETE } rp_word_do;
/* One word of the command line. */
typedef struct {
  const char *text; /* the whole word */
  rp_word_do todo;
  const char *key;     /* "a.b", or a group "a/b" */
  const char *package; /* after @, NULL when there is none */
  bool has_value;      /* an = was there */
  rp_node *value;      /* NULL without one */
} rp_word;
rp_status rp_read_word(rp_tree *t, const char *text, rp_word *w, rp_error *err);

#endif
