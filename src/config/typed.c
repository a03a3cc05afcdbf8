#include "config/typed.h"

#include <string.h>

static void ask(rp_typed *t, const rp_node *n) {
  if (t->n == t->cap) {
    const size_t cap = t->cap ? 2 * t->cap : 128;
    const rp_node **more = rp_realloc(t->asked, cap, sizeof *more);
    if (!more) {
      t->st = rp_fail_memory(t->err, cap * sizeof *more, "settings");
      return;
    }
    t->asked = more;
    t->cap = cap;
  }
  t->asked[t->n++] = n;
}

const rp_node *rp_typed_node(rp_typed *t, const char *path) {
  if (t->st) return NULL;
  const rp_node *n = rp_node_at((rp_node *)t->root, path);
  if (n) ask(t, n);
  return t->st ? NULL : n;
}

void rp_typed_bad(rp_typed *t, const char *path, const rp_node *n, const char *fmt, ...) {
  if (t->st) return;
  rp_str b = {0};
  va_list ap;
  if (n) {
    /* A word says the key itself. */
    if (n->at.line > 0 || (n->at.file && !strchr(n->at.file, '='))) rp_place_text(n->at, &b);
    rp_str text = {0};
    rp_node_text(n, &text);
    rp_str_addf(&b, "%s=%.200s", path, text.s ? text.s : "");
    rp_str_free(&text);
  } else {
    rp_str_add(&b, path);
  }
  rp_str_add(&b, ": ");
  va_start(ap, fmt);
  rp_str_vaddf(&b, fmt, ap);
  va_end(ap);
  t->st =
      b.failed ? rp_fail_memory(t->err, 256, "a message") : rp_fail(t->err, RP_USAGE, "%s", b.s);
  rp_str_free(&b);
}

/* The node when it is there and not null. */
static const rp_node *given(rp_typed *t, const char *path) {
  const rp_node *n = rp_typed_node(t, path);
  return n && n->kind != RP_NODE_NULL ? n : NULL;
}

bool rp_typed_bool(rp_typed *t, const char *path, bool without) {
  const rp_node *n = given(t, path);
  if (!n) return without;
  if (n->kind != RP_NODE_BOOL) {
    rp_typed_bad(t, path, n, "must be true or false");
    return without;
  }
  return n->integer != 0;
}

int64_t rp_typed_int(rp_typed *t, const char *path, int64_t lo, int64_t hi, int64_t without) {
  const rp_node *n = given(t, path);
  if (!n) return without;
  int64_t v = n->integer;
  if (n->kind == RP_NODE_REAL && n->real > -9e15 && n->real < 9e15 &&
      (double)(int64_t)n->real == n->real) {
    v = (int64_t)n->real; /* 1e9 is an integer to a person */
  } else if (n->kind != RP_NODE_INT) {
    rp_typed_bad(t, path, n, "must be an integer");
    return without;
  }
  if (v < lo || v > hi) {
    if (hi >= INT32_MAX) {
      rp_typed_bad(t, path, n, "must be at least %lld%s", (long long)lo,
                   v > hi ? " and smaller" : "");
    } else {
      rp_typed_bad(t, path, n, "must be from %lld to %lld", (long long)lo, (long long)hi);
    }
    return without;
  }
  return v;
}

double rp_typed_real(rp_typed *t, const char *path, double lo, double hi, double without) {
  const rp_node *n = given(t, path);
  if (!n) return without;
  const double v = n->kind == RP_NODE_INT ? (double)n->integer : n->real;
  if (n->kind != RP_NODE_INT && n->kind != RP_NODE_REAL) {
    rp_typed_bad(t, path, n, "must be a number");
    return without;
  }
  if (!(v >= lo && v <= hi)) {
    char a[32], b[32];
    rp_format_f64(a, lo, false);
    rp_format_f64(b, hi, false);
    if (hi >= 1e300) {
      rp_typed_bad(t, path, n, "must be a finite number of at least %s", a);
    } else {
      rp_typed_bad(t, path, n, "must be from %s to %s", a, b);
    }
    return without;
  }
  return v;
}

char *rp_typed_text(rp_typed *t, const char *path, const char *without) {
  const rp_node *n = given(t, path);
  rp_str b = {0};
  if (n && (n->kind == RP_NODE_LIST || n->kind == RP_NODE_MAP)) {
    rp_typed_bad(t, path, n, "must be a text");
    return NULL;
  }
  if (n) {
    rp_node_text(n, &b);
  } else if (without) {
    rp_str_add(&b, without);
  }
  if (t->st || (!b.len && !without && !b.failed)) {
    rp_str_free(&b);
    return NULL;
  }
  char *s = rp_str_take(&b);
  if (!s) t->st = rp_fail_memory(t->err, 64, "settings");
  return s;
}

int rp_typed_name(rp_typed *t, const char *path, const char *const *names, int without) {
  const rp_node *n = given(t, path);
  if (!n) return without;
  rp_str all = {0};
  for (int i = 0; names[i]; i++) {
    if (n->kind == RP_NODE_STRING && strcmp(n->string, names[i]) == 0) {
      rp_str_free(&all);
      return i;
    }
    rp_str_addf(&all, "%s%s", i ? ", " : "", names[i]);
  }
  rp_typed_bad(t, path, n, "must be one of %s", all.s ? all.s : "");
  rp_str_free(&all);
  return without;
}

static void accept_all(rp_typed *t, const rp_node *n) {
  ask(t, n);
  for (const rp_node *c = n->child; c && !t->st; c = c->next) accept_all(t, c);
}

void rp_typed_accept(rp_typed *t, const char *path) {
  const rp_node *n = rp_typed_node(t, path);
  if (n) accept_all(t, n);
}

static bool was_asked(const rp_typed *t, const rp_node *n) {
  for (size_t i = 0; i < t->n; i++) {
    if (t->asked[i] == n) return true;
  }
  return false;
}

static void add_unread(const rp_typed *t, const rp_node *n, rp_str *out) {
  for (const rp_node *c = n->child; c; c = c->next) {
    if (was_asked(t, c)) continue;
    if (c->kind == RP_NODE_MAP && c->child) {
      add_unread(t, c, out);
    } else {
      rp_node_path(c, out);
      rp_str_add(out, "\n");
    }
  }
}

void rp_typed_unread(const rp_typed *t, rp_str *out) { add_unread(t, t->root, out); }

void rp_typed_free(rp_typed *t) { rp_free(t->asked); }
