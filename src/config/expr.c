/* The grammar of `eval`, with Python's precedence and Python's meaning of // and %:
 *   sum:   term (('+' | '-') term)*
 *   term:  sign (('*' | '/' | '//' | '%') sign)*
 *   sign:  ('+' | '-') sign | power
 *   power: atom ['**' sign]
 *   atom:  number | '(' sum ')' | '[' [sum (',' sum)*] ']' */
#include <math.h>
#include <string.h>

#include "config/interp.h"

#define DEPTH_MOST 50

typedef struct {
  rp_tree *tree;
  const char *text, *p;
  rp_place at;
  rp_error *err;
  int depth;
} expr;

static rp_status sum(expr *e, rp_node **out);

static rp_status bad(const expr *e, const char *why) {
  return rp_fail_place(e->err, e->at, "eval \"%.200s\", at character %d: %s", e->text,
                       (int)(e->p - e->text) + 1, why);
}

static void skip_space(expr *e) {
  while (*e->p == ' ' || *e->p == '\t' || *e->p == '\n') e->p++;
}

static bool take(expr *e, const char *token) {
  skip_space(e);
  if (!rp_starts_with(e->p, token)) return false;
  e->p += strlen(token);
  return true;
}

static rp_status no_memory(const expr *e) { return rp_tree_status(e->tree, "eval", e->err); }

static rp_status make(expr *e, rp_node_kind kind, rp_node **out) {
  *out = rp_node_new(e->tree, kind, e->at);
  return *out ? RP_OK : no_memory(e);
}

static rp_status make_int(expr *e, int64_t v, rp_node **out) {
  RP_TRY(make(e, RP_NODE_INT, out));
  (*out)->integer = v;
  return RP_OK;
}

static rp_status make_real(expr *e, double v, rp_node **out) {
  RP_TRY(make(e, RP_NODE_REAL, out));
  (*out)->real = v;
  return RP_OK;
}

static bool is_number(const rp_node *n) {
  return n->kind == RP_NODE_INT || n->kind == RP_NODE_REAL;
}

static double real_of(const rp_node *n) {
  return n->kind == RP_NODE_INT ? (double)n->integer : n->real;
}

/* --- operators ---------------------------------------------------------------------------- */

static rp_status repeat(expr *e, const rp_node *list, int64_t times, rp_node **out) {
  if (times > 0 && list->count && (uint64_t)times > RP_EVAL_LIST_MOST / list->count) {
    return bad(e, "the list gets too long");
  }
  RP_TRY(make(e, RP_NODE_LIST, out));
  for (int64_t i = 0; i < times && list->count; i++) {
    for (const rp_node *c = list->child; c; c = c->next) {
      rp_node *d = rp_node_copy(e->tree, c);
      if (!d) return no_memory(e);
      rp_list_add(*out, d);
    }
  }
  return RP_OK;
}

static rp_status join(expr *e, const rp_node *a, const rp_node *b, rp_node **out) {
  if (a->count + b->count > RP_EVAL_LIST_MOST) return bad(e, "the list gets too long");
  RP_TRY(repeat(e, a, 1, out));
  for (const rp_node *c = b->child; c; c = c->next) {
    rp_node *d = rp_node_copy(e->tree, c);
    if (!d) return no_memory(e);
    rp_list_add(*out, d);
  }
  return RP_OK;
}

static rp_status add(expr *e, const rp_node *a, const rp_node *b, rp_node **out) {
  int64_t v;
  if (a->kind == RP_NODE_LIST && b->kind == RP_NODE_LIST) return join(e, a, b, out);
  if (!is_number(a) || !is_number(b)) return bad(e, "+ takes two numbers or two lists");
  if (a->kind == RP_NODE_INT && b->kind == RP_NODE_INT) {
    if (__builtin_add_overflow(a->integer, b->integer, &v)) {
      return bad(e, "the integer does not fit 64 bits");
    }
    return make_int(e, v, out);
  }
  return make_real(e, real_of(a) + real_of(b), out);
}

static rp_status subtract(expr *e, const rp_node *a, const rp_node *b, rp_node **out) {
  int64_t v;
  if (!is_number(a) || !is_number(b)) return bad(e, "- takes two numbers");
  if (a->kind == RP_NODE_INT && b->kind == RP_NODE_INT) {
    if (__builtin_sub_overflow(a->integer, b->integer, &v)) {
      return bad(e, "the integer does not fit 64 bits");
    }
    return make_int(e, v, out);
  }
  return make_real(e, real_of(a) - real_of(b), out);
}

static rp_status multiply(expr *e, const rp_node *a, const rp_node *b, rp_node **out) {
  int64_t v;
  if (a->kind == RP_NODE_LIST && b->kind == RP_NODE_INT) return repeat(e, a, b->integer, out);
  if (b->kind == RP_NODE_LIST && a->kind == RP_NODE_INT) return repeat(e, b, a->integer, out);
  if (!is_number(a) || !is_number(b)) return bad(e, "* takes numbers, or a list and an integer");
  if (a->kind == RP_NODE_INT && b->kind == RP_NODE_INT) {
    if (__builtin_mul_overflow(a->integer, b->integer, &v)) {
      return bad(e, "the integer does not fit 64 bits");
    }
    return make_int(e, v, out);
  }
  return make_real(e, real_of(a) * real_of(b), out);
}

static rp_status floor_divide(expr *e, int64_t a, int64_t b, bool want_rest, rp_node **out) {
  if (b == -1) { /* INT64_MIN / -1 overflows */
    if (!want_rest && a == INT64_MIN) return bad(e, "the integer does not fit 64 bits");
    return make_int(e, want_rest ? 0 : -a, out);
  }
  int64_t q = a / b, r = a % b;
  if (r != 0 && (r < 0) != (b < 0)) {
    q--;
    r += b;
  }
  return make_int(e, want_rest ? r : q, out);
}

static rp_status divide(expr *e, const rp_node *a, const rp_node *b, char op, rp_node **out) {
  if (!is_number(a) || !is_number(b)) return bad(e, "division takes two numbers");
  const double x = real_of(a), y = real_of(b);
  if (y == 0) return bad(e, "division by zero");
  if (op == '/') return make_real(e, x / y, out);
  if (a->kind == RP_NODE_INT && b->kind == RP_NODE_INT) {
    return floor_divide(e, a->integer, b->integer, op == '%', out);
  }
  double r = fmod(x, y);
  if (r != 0 && (r < 0) != (y < 0)) r += y;
  return make_real(e, op == '%' ? r : floor(x / y), out);
}

static rp_status power_of(expr *e, const rp_node *a, const rp_node *b, rp_node **out) {
  if (!is_number(a) || !is_number(b)) return bad(e, "** takes two numbers");
  if (a->kind == RP_NODE_REAL || b->kind == RP_NODE_REAL || b->integer < 0) {
    if (real_of(a) == 0 && real_of(b) < 0) return bad(e, "zero to a negative power");
    const double v = pow(real_of(a), real_of(b));
    if (isnan(v) && !isnan(real_of(a)) && !isnan(real_of(b))) {
      return bad(e, "a negative number to a fractional power");
    }
    return make_real(e, v, out);
  }
  int64_t v = 1, base = a->integer;
  for (int64_t k = b->integer; k > 0; k >>= 1) {
    if ((k & 1) && __builtin_mul_overflow(v, base, &v)) {
      return bad(e, "the integer does not fit 64 bits");
    }
    if (k > 1 && __builtin_mul_overflow(base, base, &base)) {
      return bad(e, "the integer does not fit 64 bits");
    }
  }
  return make_int(e, v, out);
}

/* --- grammar ------------------------------------------------------------------------------ */

/* True when the integer text has a leading zero, which Python refuses. */
static bool leading_zero(const char *s, size_t n) {
  return n > 1 && s[0] == '0' && strspn(s, "0_") < n && strspn(s, "0123456789_") >= n;
}

static rp_status number(expr *e, rp_node **out) {
  const char *s = e->p;
  while ((*e->p >= '0' && *e->p <= '9') || *e->p == '.' || *e->p == '_') e->p++;
  if (e->p > s && (*e->p == 'e' || *e->p == 'E')) {
    const char *back = e->p++;
    if (*e->p == '+' || *e->p == '-') e->p++;
    if (*e->p < '0' || *e->p > '9') e->p = back;
    while (*e->p >= '0' && *e->p <= '9') e->p++;
  }
  const size_t n = (size_t)(e->p - s);
  RP_TRY(make(e, RP_NODE_NULL, out));
  if (n > 0 && !leading_zero(s, n) && rp_scalar_word(*out, s, n) && is_number(*out)) return RP_OK;
  const bool big = n > 0 && rp_scalar_too_big(s, n);
  e->p = s;
  if (big) return bad(e, "the integer does not fit 64 bits");
  return bad(e, *s ? "numbers, lists and + - * / // % ** ( ) are all that eval knows; a number or "
                     "a list is expected here"
                   : "it ends where a number or a list is expected");
}

static rp_status list(expr *e, rp_node **out) {
  RP_TRY(make(e, RP_NODE_LIST, out));
  rp_node *l = *out;
  if (take(e, "]")) return RP_OK;
  for (;;) {
    rp_node *item, *linked;
    RP_TRY(sum(e, &item));
    linked = rp_node_copy(e->tree, item);
    if (!linked) return no_memory(e);
    rp_list_add(l, linked);
    if (l->count > RP_EVAL_LIST_MOST) return bad(e, "the list gets too long");
    if (take(e, "]")) return RP_OK;
    if (!take(e, ",")) return bad(e, "a comma or ] is expected");
    if (take(e, "]")) return RP_OK;
  }
}

static rp_status atom(expr *e, rp_node **out) {
  skip_space(e);
  if (take(e, "(")) {
    RP_TRY(sum(e, out));
    return take(e, ")") ? RP_OK : bad(e, "a ) is expected");
  }
  if (take(e, "[")) return list(e, out);
  return number(e, out);
}

static rp_status sign(expr *e, rp_node **out) {
  if (++e->depth > DEPTH_MOST) return bad(e, "nested too deeply");
  skip_space(e);
  rp_status st;
  if (*e->p == '-' || *e->p == '+') {
    const char op = *e->p++;
    rp_node *v, *zero;
    RP_TRY(sign(e, &v));
    if (!is_number(v)) return bad(e, "a sign takes a number");
    e->depth--;
    if (op == '+') {
      *out = v;
      return RP_OK;
    }
    if (v->kind == RP_NODE_REAL) return make_real(e, -v->real, out);
    RP_TRY(make_int(e, 0, &zero));
    return subtract(e, zero, v, out);
  }
  rp_node *base, *exponent;
  RP_TRY(atom(e, &base));
  *out = base;
  st = RP_OK;
  if (take(e, "**")) {
    RP_TRY(sign(e, &exponent));
    st = power_of(e, base, exponent, out);
  }
  e->depth--;
  return st;
}

static rp_status term(expr *e, rp_node **out) {
  rp_node *right;
  RP_TRY(sign(e, out));
  for (;;) {
    const rp_node *left = *out;
    if (take(e, "//")) {
      RP_TRY(sign(e, &right));
      RP_TRY(divide(e, left, right, 'f', out));
    } else if (take(e, "/") || take(e, "%")) {
      const char op = e->p[-1];
      RP_TRY(sign(e, &right));
      RP_TRY(divide(e, left, right, op, out));
    } else if (take(e, "*")) {
      RP_TRY(sign(e, &right));
      RP_TRY(multiply(e, left, right, out));
    } else {
      return RP_OK;
    }
  }
}

static rp_status sum(expr *e, rp_node **out) {
  rp_node *right;
  RP_TRY(term(e, out));
  for (;;) {
    const rp_node *left = *out;
    if (take(e, "+")) {
      RP_TRY(term(e, &right));
      RP_TRY(add(e, left, right, out));
    } else if (take(e, "-")) {
      RP_TRY(term(e, &right));
      RP_TRY(subtract(e, left, right, out));
    } else {
      return RP_OK;
    }
  }
}

rp_status rp_eval(rp_tree *t, const char *text, rp_place at, rp_node **out, rp_error *err) {
  expr e = {t, text, text, at, err, 0};
  RP_TRY(sum(&e, out));
  skip_space(&e);
  if (*e.p) return bad(&e, "an operator or the end is expected");
  return RP_OK;
}
