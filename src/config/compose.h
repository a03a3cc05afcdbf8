/* compose.h - what is inside an rp_config, and the two steps that make one: the files of a tree laid
 * over each other (groups.c), then the words (words.c). */
#ifndef RP_CONFIG_COMPOSE_H
#define RP_CONFIG_COMPOSE_H

#include "config/reader.h"
#include "ratplus/config.h"

struct rp_config {
  rp_tree *tree;
  rp_node *root;          /* resolved */
  const char *dir;        /* in the tree; NULL when from a file */
  const char *experiment; /* the word's choice; NULL without one */
  const char **added;     /* keys of +key=value words, ended by NULL */
};

/* True when a word added this key, or a map that holds it. */
bool rp_config_was_added(const rp_config *c, const char *path);

typedef struct {
  rp_tree *tree;
  const char *dir; /* of the tree of groups; NULL: there is none */
  rp_word *words;
  bool *used; /* [n] words that were choices of a group */
  size_t n;
  bool loose; /* unknown keys are added */
  rp_error *err;
} rp_composing;

/* Lays config.yaml and what its defaults list asks for over each other into *root. */
rp_status rp_compose_groups(rp_composing *c, rp_node **root);
/* Lays the words that are not choices over root, in their order. */
rp_status rp_apply_words(rp_composing *c, rp_node *root);
/* Lays map `src` over map `dst` by key; `root` is what interpolations in the way refer to. */
rp_status rp_merge(rp_tree *t, rp_node *root, rp_node *dst, const rp_node *src, rp_error *err);

/* True when the tree has the group (a folder). */
bool rp_group_exists(rp_tree *t, const char *dir, const char *group);
/* Names of the files under a group, nested ones as a/b, one a line, sorted. */
rp_status rp_group_options(const char *dir, const char *group, rp_str *out, rp_error *err);

#endif
