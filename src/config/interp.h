/* interp.h - ${interpolations}, resolvers and the little grammar of values they share with the
 * words of a command line. Nothing read here is ever executed: `eval` is arithmetic. */
#ifndef RP_CONFIG_INTERP_H
#define RP_CONFIG_INTERP_H

#include "config/node.h"

/* Replaces every interpolation under `root`: *out is a new tree without any, in the same arena.
 * RP_USAGE names place and path: a key that is not there, a cycle, a resolver that does not exist,
 * an expression that is none. */
rp_status rp_resolve(rp_tree *t, rp_node *root, rp_node **out, rp_error *err);
/* The value of one node of `root`, whatever it refers to resolved. */
rp_status rp_resolve_node(rp_tree *t, rp_node *root, rp_node *n, rp_node **out, rp_error *err);
bool rp_is_interpolation(const rp_node *n);

/* Value of a word, from `text`+`from` to its end: element (',' element)*. More than one element is
 * an error that shows the list form. Interpolations stay as they are, as text. */
rp_status rp_parse_word_value(rp_tree *t, const char *text, size_t from, rp_node **out,
                              rp_error *err);

/* Arithmetic: integers, reals, lists; + - * / // % **, parentheses. At most this many elements in
 * a list. */
#define RP_EVAL_LIST_MOST 100000
rp_status rp_eval(rp_tree *t, const char *text, rp_place at, rp_node **out, rp_error *err);

#endif
