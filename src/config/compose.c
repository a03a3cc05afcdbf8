/* The public calls: where the tree is, files and words to an rp_config, and its texts. */
#include "config/compose.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "config/interp.h"
#include "config/settings.h"

#define FILE_MOST ((size_t)16 << 20)

void rp_config_defaults(rp_config_opts *o) {
  memset(o, 0, sizeof *o);
  o->size = sizeof *o;
}

void rp_config_free(rp_config *c) {
  if (!c) return;
  rp_tree_free(c->tree);
  rp_free(c);
}

const char *rp_config_dir(const rp_config *c) { return c->dir; }

/* --- where the tree is -------------------------------------------------------------------- */

/* Whether a (or a/b) is a tree; its path in *dir, else its name among those `seen`. */
static void try_dir(const char *a, const char *b, char **dir, rp_str *seen) {
  if (!a || !*a || *dir) return;
  char *path = b ? rp_path_join(a, b) : rp_strdup(a);
  char *root = path ? rp_path_join(path, "config.yaml") : NULL;
  if (!root) {
    seen->failed = true;
  } else if (rp_is_file(root)) {
    *dir = path;
    path = NULL;
  } else {
    rp_str_addf(seen, "%s%s", seen->len ? ", " : "", path);
  }
  rp_free(root);
  rp_free(path);
}

/* --configs, $RATPLUS_CONFIGS, ./configs, $XDG_CONFIG_HOME, PREFIX/share. What somebody named must
 * be there; the other places are tried in turn. */
static rp_status find_tree(const char *named, const char *program_dir, char **dir, rp_error *err) {
  rp_str seen = {0};
  const char *env = getenv("RATPLUS_CONFIGS");
  const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
  const bool must = named || (env && *env);
  *dir = NULL;
  if (must) {
    try_dir(named ? named : env, NULL, dir, &seen);
  } else {
    try_dir("configs", NULL, dir, &seen);
    if (xdg && *xdg) {
      try_dir(xdg, "ratplus/configs", dir, &seen);
    } else {
      try_dir(home, ".config/ratplus/configs", dir, &seen);
    }
    try_dir(program_dir, "../share/ratplus/configs", dir, &seen);
  }
  rp_status st = RP_OK;
  if (seen.failed) {
    st = rp_fail_memory(err, 256, "the path of the configurations");
    rp_free(*dir);
    *dir = NULL;
  } else if (!*dir && must) {
    st = rp_fail(err, RP_USAGE, "%s: not a tree of configurations (there is no config.yaml in it)",
                 seen.s ? seen.s : "");
  } else if (!*dir) {
    st =
        rp_fail(err, RP_USAGE, "no tree of configurations found in %s; name one with --configs DIR",
                seen.s ? seen.s : "");
  }
  rp_str_free(&seen);
  return st;
}

/* --- composing ---------------------------------------------------------------------------- */

static rp_status need_experiment(const rp_composing *c) {
  if (!rp_group_exists(c->tree, c->dir, "experiment")) return RP_OK;
  for (size_t i = 0; i < c->n; i++) {
    if (strcmp(c->words[i].key, "experiment") == 0 && c->words[i].todo == RP_WORD_SET) {
      return RP_OK;
    }
  }
  rp_str names = {0};
  rp_status st = rp_group_options(c->dir, "experiment", &names, c->err);
  if (!st) {
    for (char *p = names.s; p && *p; p++) {
      if (*p == '\n') *p = p[1] ? ' ' : '\0';
    }
    st = rp_fail(c->err, RP_USAGE, "which experiment? Write experiment=NAME; %s/experiment has: %s",
                 c->dir, names.s && *names.s ? names.s : "none");
  }
  rp_str_free(&names);
  return st;
}

/* Words to rp_words, without configs_dir=PATH, whose value is returned in *dir. */
static rp_status read_words(rp_composing *c, const char *const *words, size_t n, const char **dir) {
  c->words = rp_calloc(n + 1, sizeof *c->words);
  c->used = rp_calloc(n + 1, sizeof *c->used);
  if (!c->words || !c->used) return rp_fail_memory(c->err, n * sizeof *c->words, "the words");
  for (size_t i = 0; i < n; i++) {
    rp_word *w = &c->words[c->n];
    RP_TRY(rp_read_word(c->tree, words[i], w, c->err));
    if (strcmp(w->key, "configs_dir") != 0) {
      c->n++;
      continue;
    }
    if (!w->value || w->value->kind != RP_NODE_STRING || !*w->value->string) {
      return rp_fail(c->err, RP_USAGE, "%s: configs_dir= takes the path of a tree", words[i]);
    }
    *dir = w->value->string;
  }
  return RP_OK;
}

static void drop(rp_node *root, const char *key) {
  rp_node *n = rp_map_find(root, key, RP_NODE_STRING);
  if (n) rp_map_remove(root, n);
}

bool rp_config_was_added(const rp_config *c, const char *path) {
  for (const char *const *a = c->added; *a; a++) {
    const size_t n = strlen(*a);
    if (rp_starts_with(path, *a) && (path[n] == '\0' || path[n] == '.')) return true;
  }
  return false;
}

/* What settings want to know of the words later. */
static rp_status keep_words(const rp_composing *c, rp_config *made) {
  size_t k = 0;
  made->added = rp_tree_alloc(c->tree, (c->n + 1) * sizeof *made->added);
  if (!made->added) return rp_tree_status(c->tree, "the words", c->err);
  for (size_t i = 0; i < c->n; i++) {
    const rp_word *w = &c->words[i];
    if (w->todo == RP_WORD_ADD || w->todo == RP_WORD_ADD_OR_SET) made->added[k++] = w->key;
    if (strcmp(w->key, "experiment") == 0 && w->value && w->value->kind == RP_NODE_STRING) {
      made->experiment = w->value->string;
    }
  }
  return RP_OK;
}

/* Words over root, interpolations resolved, and the result owned by *out. */
static rp_status finish(rp_composing *c, rp_node *root, rp_config **out) {
  RP_TRY(rp_apply_words(c, root));
  drop(root, "hydra");
  rp_node *resolved = NULL;
  RP_TRY(rp_resolve(c->tree, root, &resolved, c->err));
  rp_config *made = rp_calloc(1, sizeof *made);
  if (!made) return rp_fail_memory(c->err, sizeof *made, "a configuration");
  made->tree = c->tree;
  made->root = resolved;
  made->dir = c->dir;
  rp_status st = keep_words(c, made);
  if (st) {
    rp_free(made); /* the tree is the caller's until this succeeds */
    return st;
  }
  *out = made;
  return RP_OK;
}

/* Without libyaml, what begins with a brace is read as JSON whatever its name: JSON is YAML, and it is
 * what rp_config_yaml then writes. */
static bool looks_like_json(const char *name, const char *text) {
  const bool yaml = rp_ends_with(name, ".yaml") || rp_ends_with(name, ".yml");
  if (rp_ends_with(name, ".json")) return true;
  if (yaml && RATPLUS_WITH_YAML) return false;
  return text[strspn(text, " \t\r\n")] == '{';
}

static rp_status read_text(rp_composing *c, const char *what, const char *text, size_t len,
                           rp_node **root) {
  return looks_like_json(what, text) ? rp_read_json(c->tree, what, text, len, root, c->err)
                                     : rp_read_yaml(c->tree, what, text, len, root, NULL, c->err);
}

/* The tree of groups, or one composed file, into root. */
static rp_status base_of(rp_composing *c, const rp_config_opts *o, const char *word_dir,
                         rp_node **root) {
  char *found = NULL, *text = NULL;
  size_t len = 0;
  rp_status st = RP_OK;
  if (o->file && !rp_is_file(o->file)) {
    st = rp_fail(c->err, RP_USAGE, "%s: there is no such file to take a configuration from",
                 o->file);
    goto fail;
  }
  if (o->file) {
    RP_GO(rp_file_read(o->file, FILE_MOST, &text, &len, c->err));
    RP_GO(read_text(c, o->file, text, len, root));
  } else {
    RP_GO(find_tree(word_dir ? word_dir : o->configs_dir, o->program_dir, &found, c->err));
    c->dir = rp_tree_text(c->tree, found, strlen(found));
    RP_GO(rp_tree_status(c->tree, found, c->err));
    if (o->need_experiment) RP_GO(need_experiment(c));
    RP_GO(rp_compose_groups(c, root));
  }
fail:
  rp_free(found);
  rp_free(text);
  return st;
}

static rp_status start(rp_composing *c, const char *const *words, size_t n, const char **dir,
                       rp_error *err) {
  memset(c, 0, sizeof *c);
  c->err = err;
  c->tree = rp_tree_new();
  if (!c->tree) return rp_fail_memory(err, 64, "a configuration");
  return read_words(c, words, n, dir);
}

static void end(rp_composing *c, bool failed) {
  rp_free(c->words);
  rp_free(c->used);
  if (failed) rp_tree_free(c->tree);
}

rp_status rp_config_compose(rp_config **out, const char *const *words, size_t n,
                            const rp_config_opts *opts, rp_error *err) {
  rp_composing c;
  rp_node *root = NULL;
  const char *dir = NULL;
  rp_config_opts o;
  rp_config_defaults(&o);
  if (opts) memcpy(&o, opts, opts->size < sizeof o ? opts->size : sizeof o);
  *out = NULL;
  rp_status st = start(&c, words, n, &dir, err);
  if (!st) st = base_of(&c, &o, dir, &root);
  if (!st) st = finish(&c, root, out);
  end(&c, st != RP_OK);
  return st;
}

rp_status rp_config_from_text(rp_config **out, const char *text, size_t len, const char *what,
                              const char *const *words, size_t n, bool loose, rp_error *err) {
  rp_composing c;
  rp_node *root = NULL;
  const char *dir = NULL;
  *out = NULL;
  rp_status st = start(&c, words, n, &dir, err);
  c.loose = loose;
  if (!st) st = read_text(&c, what, text, len, &root);
  if (!st) st = finish(&c, root, out);
  end(&c, st != RP_OK);
  return st;
}

/* --- what is in it ------------------------------------------------------------------------ */

static rp_status take_text(rp_str *b, char **text, rp_error *err) {
  *text = b->failed ? NULL : rp_str_take(b);
  if (*text) return RP_OK;
  rp_str_free(b);
  return rp_fail_memory(err, 0, "the text of a configuration");
}

rp_status rp_config_yaml(const rp_config *c, char **text, rp_error *err) {
  rp_str b = {0};
  if (RATPLUS_WITH_YAML) {
    rp_emit_yaml(c->root, &b);
  } else {
    rp_emit_json(c->root, 2, &b);
  }
  return take_text(&b, text, err);
}

rp_status rp_config_json(const rp_config *c, char **text, rp_error *err) {
  rp_str b = {0};
  rp_emit_json(c->root, 2, &b);
  return take_text(&b, text, err);
}

rp_status rp_config_experiments(const rp_config_opts *opts, char **text, rp_error *err) {
  rp_str b = {0};
  char *dir = NULL;
  *text = NULL;
  RP_TRY(find_tree(opts ? opts->configs_dir : NULL, opts ? opts->program_dir : NULL, &dir, err));
  rp_status st = rp_group_options(dir, "experiment", &b, err);
  rp_free(dir);
  if (!st) return take_text(&b, text, err);
  rp_str_free(&b);
  return st;
}

char *rp_config_get(const rp_config *c, const char *path) {
  const rp_node *n = rp_node_at(c->root, path);
  if (!n) return NULL;
  rp_str b = {0};
  if (n->kind == RP_NODE_LIST || n->kind == RP_NODE_MAP) {
    rp_emit_json(n, 0, &b);
  } else if (n->kind == RP_NODE_NULL) {
    rp_str_add(&b, "null");
  } else if (n->kind == RP_NODE_BOOL) {
    rp_str_add(&b, n->integer ? "true" : "false");
  } else {
    rp_node_text(n, &b);
  }
  return rp_str_take(&b);
}
