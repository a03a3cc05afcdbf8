/* typed.h - typed values out of a resolved tree. What was asked for is remembered, so that at the end
 * every key that nothing asked for can be named. One thread; lives as long as one reading. */
#ifndef RP_CONFIG_TYPED_H
#define RP_CONFIG_TYPED_H

#include "config/node.h"
#include "config/settings.h"

typedef struct {
  const rp_node *root;
  const rp_node **asked;
  size_t n, cap;
  rp_status st; /* the first failure; everything after it does nothing */
  rp_error *err;
} rp_typed;

/* The node at a dotted path, marked as read; NULL when absent or after a failure. */
const rp_node *rp_typed_node(rp_typed *t, const char *path);
/* Sticky failure: "PLACE: PATH=VALUE: why". n NULL: the key is not there. */
void rp_typed_bad(rp_typed *t, const char *path, const rp_node *n, const char *fmt, ...)
    RP_PRINTF(4, 5);

/* Each gives `without` when the key is absent or null. Bounds are inclusive. */
bool rp_typed_bool(rp_typed *t, const char *path, bool without);
int64_t rp_typed_int(rp_typed *t, const char *path, int64_t lo, int64_t hi, int64_t without);
double rp_typed_real(rp_typed *t, const char *path, double lo, double hi, double without);
/* Owned by the caller; NULL when `without` is NULL and the key is absent, null or empty. */
char *rp_typed_text(rp_typed *t, const char *path, const char *without);
/* Index of the value in `names` (ended by NULL). */
int rp_typed_name(rp_typed *t, const char *path, const char *const *names, int without);
/* Marks everything under path as read. */
void rp_typed_accept(rp_typed *t, const char *path);
/* Leaves nothing asked for, one path a line. */
void rp_typed_unread(const rp_typed *t, rp_str *out);
void rp_typed_free(rp_typed *t);

/* D, W or I (`which`) of every head, out[layers][kv_heads]: an integer, a list with one entry per
 * layer, a map of counts, a text in the grammar of patterns. When a value does not fit, *where is its
 * node, n itself or one below it. */
rp_status rp_pat_values(const rp_node *n, char which, int layers, int kv_heads, int32_t *out,
                        const rp_node **where, rp_error *err);
/* Whether v may be a D, W or I; the sentence says what may. */
rp_status rp_pat_value_check(char which, int64_t v, rp_error *err);
/* The value of one part of a pattern's text, all of it, as a node. */
rp_status rp_pat_read_value(rp_tree *t, const char *text, char which, rp_node **out, rp_error *err);
rp_status rp_pats_make(rp_pats *out, int layers, int kv_heads, rp_error *err);
/* Sets D, W or I of every head. */
void rp_pats_lay(rp_pats *p, char which, const int32_t *values);
/* Every head's three integers make a pattern. */
rp_status rp_pats_check(const rp_pats *p, rp_error *err);

/* rp_settings_read of a stored configuration: unknown keys and any number of ranks pass, nothing is
 * logged. */
rp_status rp_settings_read_any(rp_settings *out, const rp_config *c, rp_error *err);

/* Where the reference would put this run (docs/configuration.md). Free with rp_free. */
char *rp_run_dir_default(const rp_config *c, const rp_settings *s);

#endif
