/* D, W and I of every layer and head: out of values of a configuration or a pattern's text
 * (pat_text.c), and back to the shortest text. */
#include <string.h>

#include "config/typed.h"

#define PAT_MOST (1 << 30)

rp_status rp_pats_make(rp_pats *out, int layers, int kv_heads, rp_error *err) {
  size_t n;
  memset(out, 0, sizeof *out);
  if (layers < 1 || kv_heads < 1 || !rp_mul_size((size_t)layers, (size_t)kv_heads, &n)) {
    return rp_fail(err, RP_USAGE, "a pattern needs at least one layer and one head");
  }
  out->at = rp_malloc(n, sizeof *out->at);
  if (!out->at) return rp_fail_memory(err, n * sizeof *out->at, "a pattern");
  out->layers = layers;
  out->kv_heads = kv_heads;
  for (size_t i = 0; i < n; i++) out->at[i] = (rp_pat){1, 0, 0};
  return RP_OK;
}

rp_pat rp_pats_get(const rp_pats *p, int layer, int kv_head) {
  return p->at[(size_t)layer * (size_t)p->kv_heads + (size_t)kv_head];
}

void rp_pats_free(rp_pats *p) {
  if (!p) return;
  rp_free(p->at);
  memset(p, 0, sizeof *p);
}

rp_status rp_pats_check(const rp_pats *p, rp_error *err) {
  for (int l = 0; l < p->layers; l++) {
    for (int k = 0; k < p->kv_heads; k++) {
      const rp_pat a = rp_pats_get(p, l, k);
      if (a.D != -1 && a.D < 1) {
        return rp_fail(err, RP_USAGE,
                       "D=%d (layer %d): D is at least 1, or -1 for no dilated tokens", a.D, l);
      }
      if (a.W < 0 || a.I < 0) {
        return rp_fail(err, RP_USAGE, "%s=%d (layer %d): W and I are at least 0",
                       a.W < 0 ? "W" : "I", a.W < 0 ? a.W : a.I, l);
      }
      if (a.D == -1 && a.W == 0 && a.I == 0) {
        return rp_fail(err, RP_USAGE,
                       "D=-1,W=0,I=0 (layer %d) sees nothing but the token itself; "
                       "give W (a local window) or I (initial tokens)",
                       l);
      }
    }
  }
  return RP_OK;
}

rp_status rp_pats_uniform(rp_pats *out, rp_pat one, int layers, int kv_heads, rp_error *err) {
  RP_TRY(rp_pats_make(out, layers, kv_heads, err));
  for (int i = 0; i < layers * kv_heads; i++) out->at[i] = one;
  rp_status st = rp_pats_check(out, err);
  if (st) rp_pats_free(out);
  return st;
}

/* --- values ------------------------------------------------------------------------------- */

rp_status rp_pat_value_check(char which, int64_t v, rp_error *err) {
  const bool fits = v <= PAT_MOST && v >= (which == 'D' ? -1 : 0) && !(which == 'D' && v == 0);
  if (fits) return RP_OK;
  if (v < -1 || v > PAT_MOST)
    return rp_fail(err, RP_USAGE, "%lld is no integer from -1 to 2^30", (long long)v);
  if (which == 'D') return rp_fail(err, RP_USAGE, "D is at least 1, or -1 for no dilated tokens");
  return rp_fail(err, RP_USAGE, "%c is at least 0", which);
}

void rp_pats_lay(rp_pats *p, char which, const int32_t *values) {
  for (int i = 0; i < p->layers * p->kv_heads; i++) {
    rp_pat *a = &p->at[i];
    *(which == 'D' ? &a->D : which == 'W' ? &a->W : &a->I) = values[i];
  }
}

/* What the values of one part are for, and where an error points. */
typedef struct {
  char which;
  int layers, kv_heads, layer; /* layer -1: all of them */
  const rp_node **where;
  rp_error *err;
} reading;

static rp_status bad(const reading *r, const rp_node *at, const char *fmt, ...) RP_PRINTF(3, 4);
static rp_status bad(const reading *r, const rp_node *at, const char *fmt, ...) {
  va_list ap;
  char why[512];
  va_start(ap, fmt);
  rp_vsnprintf(why, sizeof why, fmt, ap);
  va_end(ap);
  *r->where = at;
  if (r->layer < 0) return rp_fail(r->err, RP_USAGE, "%s", why);
  return rp_fail(r->err, RP_USAGE, "layer %d: %s", r->layer, why);
}

static rp_status one_value(const reading *r, const rp_node *n, int32_t *out) {
  rp_error why = {0};
  if (n->kind != RP_NODE_INT) {
    rp_str b = {0};
    rp_node_text(n, &b);
    const rp_status st = bad(r, n, "%.60s is no integer from -1 to 2^30", b.s ? b.s : "");
    rp_str_free(&b);
    return st;
  }
  if (rp_pat_value_check(r->which, n->integer, &why)) return bad(r, n, "%s", why.text);
  *out = (int32_t)n->integer;
  return RP_OK;
}

/* {1: 4, 64: 12}: the first 4 heads 1, the next 12 heads 64. */
static rp_status head_counts(const reading *r, const rp_node *n, int32_t *out) {
  int64_t at = 0, sum = 0;
  for (const rp_node *c = n->child; c; c = c->next) {
    int64_t v;
    rp_error why = {0};
    if (!rp_parse_i64(c->key, &v))
      return bad(r, n, "%.40s in {value:heads, ...} is no integer from -1 to 2^30", c->key);
    if (rp_pat_value_check(r->which, v, &why)) return bad(r, n, "%s", why.text);
    if (c->kind != RP_NODE_INT || c->integer < 1)
      return bad(r, c, "{%.40s: ...} needs a count of heads, at least 1", c->key);
    for (int64_t i = 0; i < c->integer && at < r->kv_heads; i++) out[at++] = (int32_t)v;
    sum = sum > PAT_MOST || c->integer > PAT_MOST ? PAT_MOST : sum + c->integer;
  }
  if (sum == r->kv_heads) return RP_OK;
  return bad(r, n, "the counts add up to %lld heads, the model has %d key-value heads",
             (long long)sum, r->kv_heads);
}

/* A text in a configuration: 1x4+64x12 and the other forms of pattern text. */
static rp_status text_values(const reading *r, const rp_node *n, int32_t *out);

static rp_status layer_values(const reading *r, const rp_node *n, int32_t *out) {
  if (n->kind == RP_NODE_STRING) return text_values(r, n, out);
  if (n->kind == RP_NODE_MAP) return head_counts(r, n, out);
  if (n->kind == RP_NODE_LIST) {
    if (n->count != (size_t)r->kv_heads)
      return bad(r, n,
                 "its list has %zu entries, the model has %d key-value heads; write one for "
                 "each, or runs of heads, as in 1x4+64x12",
                 n->count, r->kv_heads);
    int k = 0;
    for (const rp_node *c = n->child; c; c = c->next) RP_TRY(one_value(r, c, &out[k++]));
    return RP_OK;
  }
  RP_TRY(one_value(r, n, &out[0]));
  for (int k = 1; k < r->kv_heads; k++) out[k] = out[0];
  return RP_OK;
}

static rp_status text_values(const reading *r, const rp_node *n, int32_t *out) {
  rp_error why = {0};
  rp_node *value;
  rp_tree *t = rp_tree_new();
  if (!t) return rp_fail_memory(r->err, sizeof *n, "a pattern");
  rp_status st = rp_pat_read_value(t, n->string, r->which, &value, &why);
  if (st) {
    st = st == RP_USAGE ? bad(r, n, "%s", why.text) : rp_fail(r->err, st, "%s", why.text);
  } else if (value->kind == RP_NODE_LIST && r->layer < 0) {
    st = bad(r, n, "write a list as one, without quotes around it");
  } else {
    st = layer_values(r, value, out);
    *r->where = n; /* the value goes with its tree */
  }
  rp_tree_free(t);
  return st;
}

rp_status rp_pat_values(const rp_node *n, char which, int layers, int kv_heads, int32_t *out,
                        const rp_node **where, rp_error *err) {
  reading r = {which, layers, kv_heads, -1, where, err};
  if (n->kind != RP_NODE_LIST) {
    RP_TRY(layer_values(&r, n, out));
    for (int l = 1; l < layers; l++) {
      memcpy(out + (size_t)l * (size_t)kv_heads, out, (size_t)kv_heads * sizeof *out);
    }
    return RP_OK;
  }
  if (n->count != (size_t)layers)
    return bad(&r, n,
               "the list has %zu entries and the model %d layers; write one entry per layer, "
               "or runs of heads, as in 1x4+64x12, for every layer alike",
               n->count, layers);
  for (const rp_node *c = n->child; c; c = c->next, out += kv_heads) {
    r.layer++;
    RP_TRY(layer_values(&r, c, out));
  }
  return RP_OK;
}

/* --- pattern to text ---------------------------------------------------------------------- */

static int32_t part_of(const rp_pats *p, char which, int layer, int head) {
  const rp_pat a = rp_pats_get(p, layer, head);
  return which == 'D' ? a.D : which == 'W' ? a.W : a.I;
}

static bool layers_same(const rp_pats *p, char which, int a, int b) {
  for (int k = 0; k < p->kv_heads; k++) {
    if (part_of(p, which, a, k) != part_of(p, which, b, k)) return false;
  }
  return true;
}

static bool heads_same(const rp_pats *p, char which, int layer) {
  for (int k = 1; k < p->kv_heads; k++) {
    if (part_of(p, which, layer, k) != part_of(p, which, layer, 0)) return false;
  }
  return true;
}

/* Smallest number of layers whose repetition is the whole. */
static int period(const rp_pats *p, char which) {
  for (int n = 1; n < p->layers; n++) {
    bool fits = p->layers % n == 0;
    for (int l = n; l < p->layers && fits; l++) fits = layers_same(p, which, l, l - n);
    if (fits) return n;
  }
  return p->layers;
}

static void add_runs(const rp_pats *p, char which, int layer, rp_str *out) {
  for (int k = 0; k < p->kv_heads;) {
    const int32_t v = part_of(p, which, layer, k);
    int n = 1;
    while (k + n < p->kv_heads && part_of(p, which, layer, k + n) == v) n++;
    rp_str_addf(out, "%s%dx%d", k ? "+" : "", v, n);
    k += n;
  }
}

/* One layer in a list, the shorter of [1,64,64] and 1x1+64x2. */
static void add_layer(const rp_pats *p, char which, int layer, rp_str *out) {
  rp_str list = {0}, runs = {0};
  if (heads_same(p, which, layer)) {
    rp_str_addf(out, "%d", part_of(p, which, layer, 0));
    return;
  }
  for (int k = 0; k < p->kv_heads; k++) {
    rp_str_addf(&list, "%s%d", k ? "," : "[", part_of(p, which, layer, k));
  }
  rp_str_add(&list, "]");
  add_runs(p, which, layer, &runs);
  if (list.failed || runs.failed) {
    out->failed = true;
  } else {
    rp_str_add(out, runs.len < list.len ? runs.s : list.s);
  }
  rp_str_free(&list);
  rp_str_free(&runs);
}

static void add_part(const rp_pats *p, char which, int32_t usual, rp_str *out) {
  const int n = period(p, which);
  if (n == 1 && heads_same(p, which, 0) && part_of(p, which, 0, 0) == usual) return;
  rp_str_addf(out, "%s%c=", out->len ? "," : "", which);
  if (n == 1 && heads_same(p, which, 0)) {
    rp_str_addf(out, "%d", part_of(p, which, 0, 0));
  } else if (n == 1) {
    add_runs(p, which, 0, out);
  } else {
    rp_str_add(out, "[");
    for (int l = 0; l < n; l++) {
      if (l) rp_str_add(out, ",");
      add_layer(p, which, l, out);
    }
    rp_str_add(out, "]");
    if (n < p->layers) rp_str_addf(out, "*%d", p->layers / n);
  }
}

char *rp_pats_format(const rp_pats *p) {
  rp_str b = {0};
  add_part(p, 'D', 1, &b);
  add_part(p, 'W', 0, &b);
  add_part(p, 'I', 0, &b);
  if (!b.len) rp_str_add(&b, "D=1");
  return rp_str_take(&b);
}
