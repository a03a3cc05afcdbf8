/* Groups: a defaults list names files, each lands under its package, later ones win. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "config/compose.h"
#include "config/interp.h"
#include "config/suggest.h"

#define FILE_MOST ((size_t)4 << 20)
#define DEPTH_MOST 16

/* One entry of a defaults list, its group and package worked out. */
typedef struct {
  const char *group;   /* "model/backbone/layer"; "" for a file at the root */
  const char *written; /* the group as the entry writes it, without a slash in front: what the
                          package is made of */
  const char *option;  /* file name inside the group, without .yaml; NULL: nothing chosen */
  const char *parent;  /* package of the file that has the list */
  const char *package; /* written after @; NULL: none */
  const char *key;     /* what a word must say to choose another: group or group@package */
  rp_place at;
  bool is_self;
} entry;

/* The choices met so far, for "more than once" and "did you mean". */
typedef struct {
  rp_composing *c;
  rp_node *root;
  rp_str keys;     /* one a line */
  bool *is_choice; /* [n] words that choose a file of a group */
} composing;

/* --- files -------------------------------------------------------------------------------- */

static const char *join(rp_tree *t, const char *a, const char *between, const char *b) {
  const size_t la = strlen(a), lm = strlen(between), lb = strlen(b);
  char *s = rp_tree_alloc(t, la + lm + lb + 1);
  if (!s) return NULL;
  memcpy(s, a, la);
  memcpy(s + la, between, lm);
  memcpy(s + la + lm, b, lb);
  return s;
}

/* "a" and "b" with the separator only where both are there. */
static const char *join_parts(rp_tree *t, const char *a, const char *separator, const char *b) {
  if (!*a) return b;
  return *b ? join(t, a, separator, b) : a;
}

static const char *dotted(rp_tree *t, const char *group) {
  char *s = rp_tree_text(t, group, strlen(group));
  for (char *p = s; p && *p; p++) {
    if (*p == '/') *p = '.';
  }
  return s;
}

bool rp_group_exists(rp_tree *t, const char *dir, const char *group) {
  if (strstr(group, "..")) return false;
  const char *path = join(t, dir, "/", group);
  return path && rp_is_dir(path);
}

static rp_status add_options(const char *dir, const char *prefix, int depth, rp_str *out,
                             rp_error *err) {
  char **names = NULL;
  size_t n = 0;
  rp_status st = rp_list_dir(dir, &names, &n, err);
  if (st) return st;
  for (size_t i = 0; i < n && !st; i++) {
    char *path = rp_path_join(dir, names[i]);
    if (!path) {
      st = rp_fail_memory(err, strlen(names[i]), "a path");
    } else if (rp_ends_with(names[i], ".yaml") && rp_is_file(path)) {
      rp_str_addf(out, "%s%.*s\n", prefix, (int)strlen(names[i]) - 5, names[i]);
    } else if (depth < DEPTH_MOST && rp_is_dir(path)) {
      rp_str below = {0};
      rp_str_addf(&below, "%s%s/", prefix, names[i]);
      st = below.failed ? rp_fail_memory(err, 0, "a path")
                        : add_options(path, below.s, depth + 1, out, err);
      rp_str_free(&below);
    }
    rp_free(path);
  }
  rp_list_free(names, n);
  return st;
}

static int by_line(const void *a, const void *b) {
  const char *s = *(const char *const *)a, *t = *(const char *const *)b;
  const size_t n = strcspn(s, "\n"), m = strcspn(t, "\n");
  const int c = memcmp(s, t, n < m ? n : m);
  return c ? c : n < m ? -1 : n > m;
}

/* Files of a folder come sorted with their endings, nested ones in between: a-b before a. */
static rp_status sort_lines(rp_str *lines, rp_error *err) {
  size_t n = 0;
  rp_str sorted = {0};
  for (const char *p = lines->s; p && *p; p++) n += *p == '\n';
  const char **at = rp_malloc(n + 1, sizeof *at);
  if (!at) return rp_fail_memory(err, n * sizeof *at, "a list of files");
  n = 0;
  for (const char *p = lines->s; p && *p; p = strchr(p, '\n') + 1) at[n++] = p;
  qsort(at, n, sizeof *at, by_line);
  for (size_t i = 0; i < n; i++) rp_str_addn(&sorted, at[i], strcspn(at[i], "\n") + 1);
  rp_free(at);
  rp_str_free(lines);
  *lines = sorted;
  return sorted.failed ? rp_fail_memory(err, n, "a list of files") : RP_OK;
}

rp_status rp_group_options(const char *dir, const char *group, rp_str *out, rp_error *err) {
  char *path = *group ? rp_path_join(dir, group) : rp_strdup(dir);
  if (!path) return rp_fail_memory(err, 0, "a path");
  rp_status st = add_options(path, "", 0, out, err);
  if (!st && out->failed) st = rp_fail_memory(err, out->len, "a list of files");
  if (!st) st = sort_lines(out, err);
  rp_free(path);
  return st;
}

static rp_status no_such_file(composing *k, const entry *e, const char *path) {
  rp_str options = {0}, hint = {0};
  rp_error ignored;
  rp_group_options(k->c->dir, e->group, &options, &ignored);
  rp_suggest(e->option, options.s, 3, &hint);
  rp_status st;
  if (hint.len) {
    st = rp_fail_place(k->c->err, e->at, "there is no %s; did you mean %s=%s?", path, e->key,
                       hint.s);
  } else {
    for (char *p = options.s; p && *p; p++) {
      if (*p == '\n') *p = p[1] ? ' ' : '\0';
    }
    st = rp_fail_place(k->c->err, e->at, "there is no %s; %s can be: %s", path, e->key,
                       options.len ? options.s : "nothing (the group is empty)");
  }
  rp_str_free(&options);
  rp_str_free(&hint);
  return st;
}

static rp_status load(composing *k, const entry *e, rp_node **root, const char **package) {
  rp_composing *c = k->c;
  const char *inside = join_parts(c->tree, e->group, "/", e->option);
  const char *path = inside ? join(c->tree, c->dir, "/", inside) : NULL;
  if (path) path = join(c->tree, path, "", ".yaml");
  RP_TRY(rp_tree_status(c->tree, "composing", c->err));
  if (strstr(inside, "..")) {
    return rp_fail_place(c->err, e->at, "%s: '..' cannot be part of a group's name", inside);
  }
  if (!rp_is_file(path)) return no_such_file(k, e, path);
  char *text = NULL;
  size_t len = 0;
  RP_TRY(rp_file_read(path, FILE_MOST, &text, &len, c->err));
  rp_status st = rp_read_yaml(c->tree, path, text, len, root, package, c->err);
  rp_free(text);
  return st;
}

/* --- packages ----------------------------------------------------------------------------- */

/* Package of an entry: written after @, or in its file's header, or its group; below the package of
 * the file that asked for it unless _global_ says otherwise. */
static const char *final_package(rp_tree *t, const entry *e, const char *header) {
  const char *p = e->package ? e->package : header;
  if (p && strcmp(p, "_here_") == 0) {
    p = "";
  } else if (p && strcmp(p, "_group_") == 0) {
    return dotted(t, e->group);
  }
  if (!p) p = dotted(t, e->written);
  if (!p) return NULL;
  if (!e->package && header && !rp_starts_with(header, "_global_")) return header;
  const char *last = NULL;
  for (const char *s = strstr(p, "_global_"); s; s = strstr(s + 1, "_global_")) last = s;
  if (last) {
    last += strlen("_global_");
    return *last == '.' ? last + 1 : last;
  }
  return join_parts(t, e->parent, ".", p);
}

/* The map under `root` at a package, made where it is missing. */
static rp_status at_package(composing *k, rp_node *root, const char *package, rp_node **out) {
  rp_tree *t = k->c->tree;
  const char *const whole = package;
  for (int parts = 0; *package; parts++) {
    const size_t len = strcspn(package, ".");
    if (parts == RP_PARTS_MOST || !len) {
      return rp_fail(k->c->err, RP_USAGE, "the package %.100s %s", whole,
                     len ? "has more than 64 parts" : "has an empty part");
    }
    const char *part = rp_tree_text(t, package, len);
    rp_node *n = rp_map_find(root, part ? part : "", RP_NODE_STRING);
    if (!n || n->kind != RP_NODE_MAP) {
      n = rp_node_new(t, RP_NODE_MAP, root->at);
      rp_map_put(root, part, RP_NODE_STRING, n);
    }
    RP_TRY(rp_tree_status(t, "composing", k->c->err));
    root = n;
    package += len;
    if (*package == '.') package++;
  }
  *out = root;
  return RP_OK;
}

/* --- the defaults list -------------------------------------------------------------------- */

static rp_status bad_entry(composing *k, const rp_node *n, const char *why) {
  return rp_fail_place(k->c->err, n->at, "in a defaults list: %s", why);
}

/* "group@package" of an entry that stands in a file of group `base` with package `parent`. */
static rp_status place_entry(composing *k, const rp_node *n, const char *name, const char *base,
                             const char *parent, entry *e) {
  rp_tree *t = k->c->tree;
  if (rp_starts_with(name, "override ") || rp_starts_with(name, "optional ")) {
    return bad_entry(k, n,
                     "`override` and `optional` are not supported; choose the group once, or "
                     "in the word group=name");
  }
  if (strstr(name, "${")) return bad_entry(k, n, "interpolations are not supported here");
  const char *at = strchr(name, '@');
  const size_t len = at ? (size_t)(at - name) : strlen(name);
  const char *group = rp_tree_text(t, name, len);
  e->package = at ? rp_tree_text(t, at + 1, strlen(at + 1)) : NULL;
  RP_TRY(rp_tree_status(t, "composing", k->c->err));
  e->written = *group == '/' ? group + 1 : group;
  e->group = *group == '/' ? group + 1 : join_parts(t, base, "/", group);
  e->parent = parent;
  e->at = n->at;
  return RP_OK;
}

/* What a word must say to choose another file for this entry. */
static rp_status entry_key(composing *k, entry *e) {
  rp_tree *t = k->c->tree;
  const char *package = final_package(t, e, NULL), *usual = dotted(t, e->group);
  RP_TRY(rp_tree_status(t, "composing", k->c->err));
  e->key = e->group;
  if (strcmp(package, usual) != 0) {
    e->key = join(t, e->group, "@", *package ? package : "_global_");
  }
  return rp_tree_status(t, "composing", k->c->err);
}

/* - name   or   - path/name@package : a file, not a choice */
static rp_status file_entry(composing *k, const rp_node *n, const char *base, const char *parent,
                            entry *e) {
  if (strcmp(n->string, "_self_") == 0) {
    e->is_self = true;
    return RP_OK;
  }
  RP_TRY(place_entry(k, n, n->string, base, parent, e));
  const char *slash = strrchr(e->group, '/');
  e->option = slash ? slash + 1 : e->group;
  e->group = slash ? rp_tree_text(k->c->tree, e->group, (size_t)(slash - e->group)) : "";
  slash = strrchr(e->written, '/');
  e->written = slash ? rp_tree_text(k->c->tree, e->written, (size_t)(slash - e->written)) : "";
  e->key = "";
  return rp_tree_status(k->c->tree, "composing", k->c->err);
}

static rp_status read_entry(composing *k, const rp_node *n, const char *base, const char *parent,
                            entry *e) {
  *e = (entry){0};
  if (n->kind == RP_NODE_STRING) return file_entry(k, n, base, parent, e);
  if (n->kind != RP_NODE_MAP || n->count != 1) {
    return bad_entry(k, n, "an entry is _self_, a file, or group: name");
  }
  const rp_node *v = n->child;
  RP_TRY(place_entry(k, v, v->key, base, parent, e));
  if (v->kind == RP_NODE_STRING) {
    e->option = v->string;
  } else if (v->kind != RP_NODE_NULL) {
    return bad_entry(k, v, "the choice of a group is one name; lists of names are not supported");
  }
  return entry_key(k, e);
}

/* A word that chooses this entry's group, or deletes it. */
static rp_status apply_choice(composing *k, entry *e) {
  rp_composing *c = k->c;
  for (size_t i = 0; i < c->n; i++) {
    const rp_word *w = &c->words[i];
    const size_t len = strlen(w->key);
    if (!k->is_choice[i] || w->todo == RP_WORD_ADD || !rp_starts_with(e->key, w->key)) continue;
    const bool same = w->package ? e->key[len] == '@' && strcmp(e->key + len + 1, w->package) == 0
                                 : e->key[len] == '\0';
    if (!same) continue;
    c->used[i] = true;
    if (w->todo != RP_WORD_DELETE) {
      e->option = w->value->string;
      e->at = (rp_place){w->text, 0, 0};
    } else if (!w->has_value || (e->option && strcmp(w->value->string, e->option) == 0)) {
      e->option = NULL;
    } else {
      return rp_fail_place(c->err, (rp_place){w->text, 0, 0}, "cannot delete: the choice is %s",
                           e->option ? e->option : "null");
    }
  }
  return RP_OK;
}

static rp_status remember_choice(composing *k, const entry *e) {
  if (!*e->key) return RP_OK;
  const size_t len = strlen(e->key);
  for (const char *s = k->keys.s; s && *s; s = strchr(s, '\n') + 1) {
    if (strncmp(s, e->key, len) == 0 && s[len] == '\n') {
      return rp_fail_place(k->c->err, e->at, "%s is chosen more than once; keep one", e->key);
    }
  }
  rp_str_addf(&k->keys, "%s\n", e->key);
  return k->keys.failed ? rp_fail_memory(k->c->err, k->keys.len, "a list of groups") : RP_OK;
}

static rp_status compose_entry(composing *k, entry *e, int depth);

/* The file's own content, below its package. */
static rp_status lay_own(composing *k, rp_node *own, const char *package) {
  rp_node *dst = NULL;
  rp_node *list = rp_map_find(own, "defaults", RP_NODE_STRING);
  if (list) rp_map_remove(own, list);
  if (!own->child) return RP_OK;
  RP_TRY(at_package(k, k->root, package, &dst));
  return rp_merge(k->c->tree, k->root, dst, own, k->c->err);
}

/* +group=name words are entries at the end of the root file's list. */
static rp_status added_entries(composing *k, int depth) {
  rp_composing *c = k->c;
  for (size_t i = 0; i < c->n; i++) {
    const rp_word *w = &c->words[i];
    if (w->todo != RP_WORD_ADD || !c->used[i]) continue;
    entry e = {.group = w->key,
               .written = w->key,
               .option = w->value->string,
               .parent = "",
               .package = w->package,
               .at = {w->text, 0, 0}};
    RP_TRY(entry_key(k, &e));
    RP_TRY(compose_entry(k, &e, depth + 1));
  }
  return RP_OK;
}

static rp_status compose_file(composing *k, const entry *e, rp_node *own, const char *package,
                              int depth) {
  rp_node *list = rp_map_find(own, "defaults", RP_NODE_STRING);
  bool self_done = false;
  if (list && list->kind != RP_NODE_LIST && list->kind != RP_NODE_NULL) {
    return rp_fail_place(k->c->err, list->at, "defaults must be a list (- group: name)");
  }
  for (rp_node *n = list ? list->child : NULL; n; n = n->next) {
    entry sub;
    RP_TRY(read_entry(k, n, e->group, package, &sub));
    if (!sub.is_self) {
      RP_TRY(apply_choice(k, &sub));
      RP_TRY(compose_entry(k, &sub, depth + 1));
      continue;
    }
    if (self_done) return bad_entry(k, n, "_self_ is there twice");
    self_done = true;
    RP_TRY(lay_own(k, own, package));
  }
  if (!self_done) RP_TRY(lay_own(k, own, package));
  return depth == 0 ? added_entries(k, depth) : RP_OK;
}

static rp_status compose_entry(composing *k, entry *e, int depth) {
  rp_node *own = NULL;
  const char *header = NULL;
  if (depth > DEPTH_MOST) {
    return rp_fail_place(k->c->err, e->at,
                         "defaults lists are nested deeper than %d; %s/%s may "
                         "refer to itself",
                         DEPTH_MOST, e->group, e->option ? e->option : "");
  }
  RP_TRY(remember_choice(k, e));
  if (!e->option) return RP_OK;
  if (strcmp(e->option, "???") == 0) {
    return rp_fail_place(k->c->err, e->at, "%s must be chosen: %s=NAME", e->key, e->key);
  }
  RP_TRY(load(k, e, &own, &header));
  const char *package = depth == 0 ? "" : final_package(k->c->tree, e, header);
  RP_TRY(rp_tree_status(k->c->tree, "composing", k->c->err));
  return compose_file(k, e, own, package, depth);
}

/* A choice no defaults list has. */
static rp_status unused_choice(composing *k, const rp_word *w) {
  rp_str hint = {0};
  const char *wanted = w->package ? join(k->c->tree, w->key, "@", w->package) : w->key;
  rp_suggest(wanted ? wanted : w->key, k->keys.s, 2, &hint);
  /* The same group under another package is nearer than any spelling. */
  const size_t len = strlen(w->key);
  for (const char *s = k->keys.s; s && *s; s = strchr(s, '\n') + 1) {
    if (strncmp(s, w->key, len) != 0 || s[len] != '@') continue;
    rp_str_clear(&hint);
    rp_str_addn(&hint, s, strcspn(s, "\n"));
    break;
  }
  rp_status st = rp_fail_place(k->c->err, (rp_place){w->text, 0, 0},
                               "no defaults list has %s%s%s%s; +%s adds it as a further choice",
                               wanted ? wanted : w->key, hint.len ? "; did you mean " : "",
                               hint.s ? hint.s : "", hint.len ? "?" : "",
                               w->todo == RP_WORD_DELETE ? w->text + 1 : w->text);
  rp_str_free(&hint);
  return st;
}

/* Words whose key is a group and whose value is a name are choices. */
static rp_status find_choices(composing *k) {
  rp_composing *c = k->c;
  bool *is_choice = k->is_choice;
  for (size_t i = 0; i < c->n; i++) {
    const rp_word *w = &c->words[i];
    const rp_place at = {w->text, 0, 0};
    is_choice[i] = false;
    if (rp_starts_with(w->key, "hydra")) continue;
    if (!rp_group_exists(c->tree, c->dir, w->key)) {
      if (!w->package && !strchr(w->key, '/')) continue;
      return rp_fail_place(c->err, at, "there is no group %s in %s", w->key, c->dir);
    }
    if (w->value && w->value->kind == RP_NODE_MAP) continue;
    /* data=... with `data` both a group and a key goes to the group, as in Hydra. */
    if (w->value && w->value->kind != RP_NODE_STRING) {
      return rp_fail_place(c->err, at, "%s is a group; its choice is one name", w->key);
    }
    if (w->todo == RP_WORD_ADD_OR_SET) {
      return rp_fail_place(c->err, at, "a group cannot be added with ++; write +%s=...", w->key);
    }
    is_choice[i] = true;
    c->used[i] = w->todo == RP_WORD_ADD;
  }
  return RP_OK;
}

rp_status rp_compose_groups(rp_composing *c, rp_node **root) {
  composing k = {c, rp_node_new(c->tree, RP_NODE_MAP, (rp_place){0}), {0}, NULL};
  bool *is_choice = k.is_choice = rp_calloc(c->n + 1, sizeof *is_choice);
  rp_status st = RP_OK;
  if (!is_choice || !k.root) {
    st = rp_fail_memory(c->err, c->n, "a configuration");
    goto fail;
  }
  RP_GO(find_choices(&k));
  entry first = {.group = "", .written = "", .option = "config", .parent = "", .key = ""};
  RP_GO(compose_entry(&k, &first, 0));
  for (size_t i = 0; i < c->n; i++) {
    if (!is_choice[i]) continue;
    if (!c->used[i]) {
      st = unused_choice(&k, &c->words[i]);
      goto fail;
    }
  }
  *root = k.root;
fail:
  rp_str_free(&k.keys);
  rp_free(is_choice);
  return st;
}
