/* The words of a command line laid over a composed tree, and how maps are laid over each other. */
#include <string.h>

#include "config/compose.h"
#include "config/interp.h"
#include "config/suggest.h"

rp_status rp_merge(rp_tree *t, rp_node *root, rp_node *dst, const rp_node *src, rp_error *err) {
  for (const rp_node *s = src->child; s; s = s->next) {
    rp_node *d = rp_map_find(dst, s->key, s->key_kind);
    if (s->kind == RP_NODE_MAP && d && rp_is_interpolation(d)) {
      /* init: ${model.backbone.init} below init: {_name_: xavier}: what it refers to is taken over
       * first. What resolving leaves in the nodes is forgotten by copying the result. */
      rp_node *v = NULL;
      rp_tree *scratch = t;
      rp_node *copy = rp_node_copy(scratch, root);
      rp_str path = {0};
      rp_node_path(d, &path);
      rp_node *same = copy && path.s ? rp_node_at(copy, path.s) : NULL;
      rp_str_free(&path);
      if (!same) return rp_tree_status(t, "merging", err);
      RP_TRY(rp_resolve_node(t, copy, same, &v, err));
      if (v->kind == RP_NODE_MAP) {
        d = rp_node_copy(t, v);
        rp_map_put(dst, s->key, s->key_kind, d);
        RP_TRY(rp_tree_status(t, "merging", err));
      }
    }
    if (s->kind == RP_NODE_MAP && d && d->kind == RP_NODE_MAP) {
      RP_TRY(rp_merge(t, root, d, s, err));
      continue;
    }
    rp_node *n = rp_node_copy(t, s);
    rp_map_put(dst, s->key, s->key_kind, n);
    RP_TRY(rp_tree_status(t, "merging", err));
  }
  return RP_OK;
}

/* --- words -------------------------------------------------------------------------------- */

/* The map the key's way leads to before it is lost. */
static const rp_node *deepest(const rp_node *root, const char *key) {
  for (;;) {
    const size_t len = strcspn(key, ".");
    const rp_node *next = rp_node_part(root, key, len);
    if (!key[len] || !next || next->kind != RP_NODE_MAP) return root;
    root = next;
    key += len + 1;
  }
}

static rp_status unknown_key(rp_composing *c, rp_node *root, const rp_word *w) {
  rp_str paths = {0}, hint = {0};
  rp_node_paths(root, &paths);
  rp_suggest(w->key, paths.s, 3, &hint);
  rp_status st;
  if (w->todo == RP_WORD_DELETE) {
    st =
        rp_fail(c->err, RP_USAGE, "%.200s: there is no key %.200s to delete%s%s%s", w->text, w->key,
                hint.len ? "; did you mean " : "", hint.s ? hint.s : "", hint.len ? "?" : "");
  } else if (hint.len) {
    st = rp_fail(c->err, RP_USAGE,
                 "%.200s: there is no key %.200s; did you mean %s? A new key is written "
                 "+%.200s",
                 w->text, w->key, hint.s, w->text);
  } else {
    rp_str there = {0};
    const rp_node *in = deepest(root, w->key);
    rp_node_path(in, &there);
    rp_str_add(&there, there.len ? " has: " : "at the top are: ");
    for (const rp_node *n = in->child; n; n = n->next) {
      rp_str_addf(&there, "%s%s", n == in->child ? "" : ", ", n->key);
    }
    st = rp_fail(
        c->err, RP_USAGE,
        "%.200s: there is no key %.200s, and none like it (%.800s). A new key is written +%.200s",
        w->text, w->key, there.s ? there.s : "", w->text);
    rp_str_free(&there);
  }
  rp_str_free(&paths);
  rp_str_free(&hint);
  return st;
}

/* A map value may only name keys that are there, unless it is added. */
static bool knows_all(const rp_node *old, const rp_node *value) {
  if (old->kind != RP_NODE_MAP || value->kind != RP_NODE_MAP) return true;
  for (const rp_node *c = value->child; c; c = c->next) {
    const rp_node *o = rp_map_find(old, c->key, c->key_kind);
    if (!o || !knows_all(o, c)) return false;
  }
  return true;
}

/* The container the last part of the key is in; *out NULL when the way does not exist. */
static rp_status way_to(rp_composing *c, rp_node *root, const char *key, bool make, rp_node **out,
                        const char **last) {
  rp_node *n = root;
  *out = NULL;
  for (;;) {
    const size_t len = strcspn(key, ".");
    if (!key[len]) break;
    const char *part = rp_tree_text(c->tree, key, len);
    rp_node *next = part ? rp_node_part(n, part, len) : NULL;
    if (!next && !make) return rp_tree_status(c->tree, key, c->err);
    if (!next || (next->kind != RP_NODE_MAP && next->kind != RP_NODE_LIST)) {
      if (!make || n->kind != RP_NODE_MAP) return rp_tree_status(c->tree, key, c->err);
      next = rp_node_new(c->tree, RP_NODE_MAP, n->at);
      rp_map_put(n, part, RP_NODE_STRING, next);
      RP_TRY(rp_tree_status(c->tree, key, c->err));
    }
    n = next;
    key += len + 1;
  }
  *out = n;
  *last = rp_tree_text(c->tree, key, strlen(key));
  return rp_tree_status(c->tree, key, c->err);
}

static rp_status delete_key(rp_composing *c, rp_node *root, rp_node *in, const char *last,
                            const rp_word *w) {
  rp_node *n = in ? rp_node_part(in, last, strlen(last)) : NULL;
  if (!n) return unknown_key(c, root, w);
  if (in->kind == RP_NODE_LIST) {
    return rp_fail(c->err, RP_USAGE,
                   "%s: an element of a list is not deleted; write the whole list", w->text);
  }
  if (w->has_value && !rp_node_same(n, w->value)) {
    rp_str text = {0};
    rp_node_text(n, &text);
    rp_status st = rp_fail(c->err, RP_USAGE, "%.200s: not deleted, its value is %.200s", w->text,
                           text.s ? text.s : "");
    rp_str_free(&text);
    return st;
  }
  rp_map_remove(in, n);
  return RP_OK;
}

/* An element of a list replaced: the node takes the value's place in the chain. */
static void set_element(rp_node *list, rp_node *old, rp_node *value) {
  value->up = list;
  value->next = old->next;
  for (rp_node **p = &list->child; *p; p = &(*p)->next) {
    if (*p != old) continue;
    *p = value;
    break;
  }
  if (list->last == old) list->last = value;
}

static rp_status set_key(rp_composing *c, rp_node *root, rp_node *in, const char *last,
                         const rp_word *w) {
  const bool add = w->todo != RP_WORD_SET || c->loose;
  rp_node *old = in ? rp_node_part(in, last, strlen(last)) : NULL;
  if ((!old && !add) || !in || (!old && in->kind != RP_NODE_MAP)) return unknown_key(c, root, w);
  if (!add && !knows_all(old, w->value)) return unknown_key(c, root, w);
  if (w->todo == RP_WORD_ADD && old && old->kind != RP_NODE_NULL && w->value->kind != RP_NODE_MAP &&
      w->value->kind != RP_NODE_LIST) {
    return rp_fail(c->err, RP_USAGE, "%.200s: %.200s is there already; write %.200s to set it",
                   w->text, w->key, w->text + 1);
  }
  rp_node *copy = rp_node_copy(c->tree, w->value);
  if (!copy) return rp_tree_status(c->tree, w->text, c->err);
  if (in->kind == RP_NODE_LIST) {
    set_element(in, old, copy);
    return RP_OK;
  }
  if (old && rp_is_interpolation(old)) { /* a reference is replaced, never written through */
    rp_map_put(in, old->key, old->key_kind, copy);
    return RP_OK;
  }
  /* Through a map of one key, so that a map value merges and anything else replaces. */
  rp_node *one = rp_node_new(c->tree, RP_NODE_MAP, copy->at);
  if (!one) return rp_tree_status(c->tree, w->text, c->err);
  rp_map_put(one, old ? old->key : last, old ? old->key_kind : RP_NODE_STRING, copy);
  return rp_merge(c->tree, root, in, one, c->err);
}

rp_status rp_apply_words(rp_composing *c, rp_node *root) {
  for (size_t i = 0; i < c->n; i++) {
    const rp_word *w = &c->words[i];
    if (c->used[i]) continue;
    if (strcmp(w->key, "hydra") == 0 || rp_starts_with(w->key, "hydra.") ||
        rp_starts_with(w->key, "hydra/")) {
      continue;
    }
    if (w->package || strchr(w->key, '/')) {
      return rp_fail(c->err, RP_USAGE,
                     "%s: a group is chosen over a tree of groups, and here is "
                     "only one composed file",
                     w->text);
    }
    rp_node *in;
    const char *last;
    const bool make = w->todo == RP_WORD_ADD || w->todo == RP_WORD_ADD_OR_SET ||
                      (c->loose && w->todo == RP_WORD_SET);
    RP_TRY(way_to(c, root, w->key, make, &in, &last));
    if (w->todo == RP_WORD_DELETE) {
      RP_TRY(delete_key(c, root, in, in ? last : "", w));
    } else {
      RP_TRY(set_key(c, root, in, in ? last : "", w));
    }
  }
  return RP_OK;
}
