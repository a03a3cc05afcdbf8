/* A resolved tree as YAML and JSON text. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "config/node.h"

/* A resolved text that holds "${" is no reference any more: escaped, so that it reads back as it is.
 * Returns s itself when there is nothing to escape, else a text in b. */
static const char *escaped(const char *s, rp_str *b) {
  if (!strstr(s, "${")) return s;
  while (*s) {
    const size_t slashes = strspn(s, "\\");
    const bool opens = rp_starts_with(s + slashes, "${");
    for (size_t i = 0; i < slashes * (opens ? 2 : 1); i++) rp_str_add(b, "\\");
    s += slashes;
    if (opens) rp_str_add(b, "\\");
    if (*s) rp_str_addn(b, s++, 1);
  }
  return b->failed ? "" : b->s;
}

/* --- JSON --------------------------------------------------------------------------------- */

static void indent_to(int indent, int depth, rp_str *out) {
  if (indent <= 0) return;
  rp_str_add(out, "\n");
  for (int i = 0; i < indent * depth; i++) rp_str_add(out, " ");
}

static void add_json(const rp_node *n, int indent, int depth, rp_str *out) {
  char number[32];
  switch (n->kind) {
    case RP_NODE_NULL: rp_str_add(out, "null"); return;
    case RP_NODE_BOOL: rp_str_add(out, n->integer ? "true" : "false"); return;
    case RP_NODE_INT: rp_str_addf(out, "%lld", (long long)n->integer); return;
    case RP_NODE_REAL:
      if (isfinite(n->real)) {
        rp_format_f64(number, n->real, true);
        rp_str_add(out, number);
      } else {
        rp_str_add(out, "null");
      }
      return;
    case RP_NODE_STRING: {
      rp_str b = {0};
      rp_json_add_string(out, escaped(n->string, &b));
      out->failed |= b.failed;
      rp_str_free(&b);
      return;
    }
    case RP_NODE_LIST:
    case RP_NODE_MAP: break;
  }
  const bool map = n->kind == RP_NODE_MAP;
  rp_str_add(out, map ? "{" : "[");
  for (const rp_node *c = n->child; c; c = c->next) {
    if (c != n->child) rp_str_add(out, indent > 0 ? "," : ", ");
    indent_to(indent, depth + 1, out);
    if (map) {
      rp_json_add_string(out, c->key);
      rp_str_add(out, ": ");
    }
    add_json(c, indent, depth + 1, out);
  }
  if (n->child) indent_to(indent, depth, out);
  rp_str_add(out, map ? "}" : "]");
}

void rp_emit_json(const rp_node *root, int indent, rp_str *out) {
  add_json(root, indent, 0, out);
  if (indent > 0) rp_str_add(out, "\n");
}

/* --- YAML --------------------------------------------------------------------------------- */

/* Whether a plain scalar would read back as this very string. */
static bool plain_is_safe(const char *s) {
  const size_t len = strlen(s);
  rp_node n = {0};
  if (len == 0 || rp_scalar_yaml(&n, s, len) || rp_scalar_too_big(s, len)) return false;
  if (strchr("-?:,[]{}#&*!|>'\"%@`=~ <", *s)) return false;
  if (s[len - 1] == ' ' || s[len - 1] == ':' || strstr(s, ": ") || strstr(s, " #")) return false;
  for (const char *p = s; *p; p++) {
    if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f || strchr("{}[],", *p)) return false;
  }
  return true;
}

/* Code point of the character at s (valid UTF-8) when YAML text must not hold it as it is: controls,
 * line separators, byte order marks. 0 for any other; *bytes is its length. */
static unsigned unprintable(const char *s, int *bytes) {
  const unsigned char *u = (const unsigned char *)s;
  *bytes = 1;
  if (*u < 0x20 || *u == 0x7f) return *u;
  if (u[0] == 0xc2 && u[1] < 0xa0) {
    *bytes = 2;
    return u[1];
  }
  if (u[0] < 0xe0 || u[0] > 0xef) return 0;
  const unsigned code = (u[0] & 15u) << 12 | (u[1] & 63u) << 6 | (u[2] & 63u);
  *bytes = 3;
  return code == 0x2028 || code == 0x2029 || code == 0xfeff || code >= 0xfffe ? code : 0;
}

static bool is_printable(const char *s) {
  int bytes;
  for (; *s; s++) {
    if (unprintable(s, &bytes)) return false;
  }
  return true;
}

static void add_double_quoted(const char *s, rp_str *out) {
  rp_str_add(out, "\"");
  while (*s) {
    int bytes;
    const unsigned code = unprintable(s, &bytes);
    if (*s == '\n') {
      rp_str_add(out, "\\n");
    } else if (code) {
      rp_str_addf(out, "\\u%04x", code);
    } else {
      if (*s == '"' || *s == '\\') rp_str_add(out, "\\");
      rp_str_addn(out, s, (size_t)bytes);
    }
    s += bytes;
  }
  rp_str_add(out, "\"");
}

static void add_yaml_string(const char *s, rp_str *out) {
  if (plain_is_safe(s)) {
    rp_str_add(out, s);
    return;
  }
  if (!is_printable(s)) {
    add_double_quoted(s, out);
    return;
  }
  rp_str_add(out, "'");
  for (const char *p = s; *p; p++) {
    if (*p == '\'') rp_str_add(out, "'");
    rp_str_addn(out, p, 1);
  }
  rp_str_add(out, "'");
}

static void add_yaml_key(const rp_node *n, rp_str *out) {
  const char *bare = n->key + strspn(n->key, "-");
  if (n->key_kind == RP_NODE_STRING) {
    add_yaml_string(n->key, out);
  } else if (n->key_kind == RP_NODE_REAL && strspn(bare, "infa") > 0) { /* inf, nan */
    rp_str_addf(out, "%s.%s", bare > n->key ? "-" : "", bare);
  } else {
    rp_str_add(out, n->key);
  }
}

static void add_yaml_scalar(const rp_node *n, rp_str *out) {
  char number[32];
  switch (n->kind) {
    case RP_NODE_NULL: rp_str_add(out, "null"); return;
    case RP_NODE_BOOL: rp_str_add(out, n->integer ? "true" : "false"); return;
    case RP_NODE_STRING: {
      rp_str b = {0};
      add_yaml_string(escaped(n->string, &b), out);
      out->failed |= b.failed;
      rp_str_free(&b);
      return;
    }
    case RP_NODE_LIST: rp_str_add(out, "[]"); return;
    case RP_NODE_MAP: rp_str_add(out, "{}"); return;
    case RP_NODE_INT: rp_str_addf(out, "%lld", (long long)n->integer); return;
    case RP_NODE_REAL: break;
  }
  if (isnan(n->real)) {
    rp_str_add(out, ".nan");
  } else if (isinf(n->real)) {
    rp_str_add(out, n->real > 0 ? ".inf" : "-.inf");
  } else {
    rp_format_f64(number, n->real, true);
    rp_str_add(out, number);
  }
}

/* Lists of scalars stay on one line, as people write them. */
static bool is_short_list(const rp_node *n) {
  if (n->kind != RP_NODE_LIST) return false;
  for (const rp_node *c = n->child; c; c = c->next) {
    if (c->child) return false;
  }
  return true;
}

static void add_short_list(const rp_node *n, rp_str *out) {
  rp_str_add(out, "[");
  for (const rp_node *c = n->child; c; c = c->next) {
    if (c != n->child) rp_str_add(out, ", ");
    add_yaml_scalar(c, out);
  }
  rp_str_add(out, "]");
}

static void add_spaces(int n, rp_str *out) {
  for (int i = 0; i < n; i++) rp_str_add(out, " ");
}

static void add_yaml(const rp_node *n, int depth, rp_str *out) {
  for (const rp_node *c = n->child; c; c = c->next) {
    add_spaces(2 * depth, out);
    if (n->kind == RP_NODE_MAP) {
      add_yaml_key(c, out);
      rp_str_add(out, ":");
    } else {
      rp_str_add(out, "-");
    }
    if (!c->child || is_short_list(c)) {
      rp_str_add(out, " ");
      if (c->child) {
        add_short_list(c, out);
      } else {
        add_yaml_scalar(c, out);
      }
      rp_str_add(out, "\n");
    } else {
      rp_str_add(out, "\n");
      add_yaml(c, depth + 1, out);
    }
  }
}

void rp_emit_yaml(const rp_node *root, rp_str *out) {
  if (!root->child) {
    rp_str_add(out, "{}\n");
    return;
  }
  add_yaml(root, 0, out);
}
