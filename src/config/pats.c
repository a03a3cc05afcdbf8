/* D, W and I of every layer and head: out of values of a configuration, out of pattern text, and
 * back to the shortest text. */
#include <stdlib.h>
#include <string.h>

#include "config/interp.h"
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

static rp_status one_value(const rp_node *n, const char *what, int32_t *out, rp_error *err) {
  if (n->kind != RP_NODE_INT || n->integer < -1 || n->integer > PAT_MOST) {
    rp_str b = {0};
    rp_node_text(n, &b);
    rp_status st =
        rp_fail(err, RP_USAGE, "%s: %s is no integer from -1 to 2^30", what, b.s ? b.s : "");
    rp_str_free(&b);
    return st;
  }
  *out = (int32_t)n->integer;
  return RP_OK;
}

/* {1: 4, 64: 12}: the first 4 heads 1, the next 12 heads 64. */
static rp_status head_counts(const rp_node *n, int kv_heads, int32_t *out, const char *what,
                             rp_error *err) {
  int64_t at = 0;
  for (const rp_node *c = n->child; c; c = c->next) {
    int64_t value;
    if (!rp_parse_i64(c->key, &value) || value < -1 || value > PAT_MOST) {
      return rp_fail(err, RP_USAGE, "%s: %s in {value: heads, ...} is no integer from -1 to 2^30",
                     what, c->key);
    }
    if (c->kind != RP_NODE_INT || c->integer < 1) {
      return rp_fail(err, RP_USAGE, "%s: {%s: ...} needs a count of heads, at least 1", what,
                     c->key);
    }
    for (int64_t i = 0; i < c->integer && at < kv_heads; i++) out[at++] = (int32_t)value;
    if (c->integer > kv_heads) at = (int64_t)kv_heads + 1;
  }
  int64_t sum = 0;
  for (const rp_node *c = n->child; c; c = c->next) {
    sum = sum > PAT_MOST || c->integer > PAT_MOST ? PAT_MOST : sum + c->integer;
  }
  if (sum != kv_heads) {
    return rp_fail(err, RP_USAGE,
                   "%s: the counts add up to %lld heads, the model has %d key-value heads", what,
                   (long long)sum, kv_heads);
  }
  return RP_OK;
}

/* 1x4+64x12: the same without braces. */
static rp_status head_runs(const char *s, int kv_heads, int32_t *out, const char *what,
                           rp_error *err) {
  int64_t at = 0;
  for (const char *p = s;;) {
    char *end;
    const long value = strtol(p, &end, 10);
    if (end == p || *end != 'x' || value < -1 || value > PAT_MOST) break;
    p = end + 1;
    const long times = strtol(p, &end, 10);
    if (end == p || times < 1 || times > PAT_MOST) break;
    for (long i = 0; i < times && at + i < kv_heads; i++) out[at + i] = (int32_t)value;
    at += times;
    if (!*end && at == kv_heads) return RP_OK;
    if (!*end) {
      return rp_fail(err, RP_USAGE,
                     "%s: the runs add up to %lld heads, the model has %d key-value "
                     "heads",
                     what, (long long)at, kv_heads);
    }
    if (*end != '+') break;
    p = end + 1;
  }
  return rp_fail(err, RP_USAGE,
                 "%s: %s: write an integer, a list, or runs of heads VALUExHEADS+..., "
                 "as in 1x4+64x12",
                 what, s);
}

static rp_status layer_values(const rp_node *n, int kv_heads, int32_t *out, const char *what,
                              rp_error *err) {
  if (n->kind == RP_NODE_STRING) return head_runs(n->string, kv_heads, out, what, err);
  if (n->kind == RP_NODE_MAP) return head_counts(n, kv_heads, out, what, err);
  if (n->kind == RP_NODE_LIST) {
    if (n->count != (size_t)kv_heads) {
      return rp_fail(err, RP_USAGE,
                     "%s: a layer's list has %zu entries, the model has %d key-value "
                     "heads",
                     what, n->count, kv_heads);
    }
    int k = 0;
    for (const rp_node *c = n->child; c; c = c->next) RP_TRY(one_value(c, what, &out[k++], err));
    return RP_OK;
  }
  RP_TRY(one_value(n, what, &out[0], err));
  for (int k = 1; k < kv_heads; k++) out[k] = out[0];
  return RP_OK;
}

rp_status rp_pat_values(const rp_node *n, int layers, int kv_heads, int32_t *out, const char *what,
                        rp_error *err) {
  if (n->kind != RP_NODE_LIST) {
    RP_TRY(layer_values(n, kv_heads, out, what, err));
    for (int l = 1; l < layers; l++) {
      memcpy(out + (size_t)l * (size_t)kv_heads, out, (size_t)kv_heads * sizeof *out);
    }
    return RP_OK;
  }
  if (n->count != (size_t)layers) {
    return rp_fail(err, RP_USAGE,
                   "%s: the list has %zu entries and the model %d layers; write one "
                   "entry per layer (one per head: {value:heads,...})",
                   what, n->count, layers);
  }
  for (const rp_node *c = n->child; c; c = c->next, out += kv_heads) {
    RP_TRY(layer_values(c, kv_heads, out, what, err));
  }
  return RP_OK;
}

/* --- text to pattern ---------------------------------------------------------------------- */

/* Value of "D=..." as a node; runs of heads stay text. */
static rp_status read_value(rp_tree *t, const char *item, rp_node **out, rp_error *err) {
  const char *v = item + 2;
  if (*v == '{' || (*v == '[' && strchr(v, '{'))) {
    return rp_parse_word_value(t, item, 2, out, err);
  }
  if (*v != '[' && strchr(v, 'x')) {
    *out = rp_node_string(t, v, strlen(v), (rp_place){0});
    return *out ? RP_OK : rp_tree_status(t, item, err);
  }
  if (strchr(v, ':')) {
    return rp_fail(err, RP_USAGE,
                   "%s: a shell has taken the braces away; quote the pattern: "
                   "--pattern 'D={1:4,64:12}', or write D=1x4+64x12",
                   item);
  }
  return rp_eval(t, v, (rp_place){item, 0, 0}, out, err);
}

/* Length of the item up to a comma outside brackets. */
static size_t item_length(const char *s) {
  int depth = 0;
  size_t i = 0;
  for (; s[i]; i++) {
    if (strchr("[{(", s[i])) depth++;
    if (strchr("]})", s[i])) depth--;
    if (s[i] == ',' && depth <= 0) break;
  }
  return i;
}

static rp_status read_item(rp_tree *t, const char *item, rp_pats *p, int32_t *values, int *seen,
                           rp_error *err) {
  static const char *const later[] = {"topk=", "block=", "score=", NULL};
  for (int i = 0; later[i]; i++) {
    if (rp_starts_with(item, later[i])) {
      return rp_fail(err, RP_USAGE,
                     "%s: choosing blocks by their scores is not in this version; "
                     "D, W and I are",
                     item);
    }
  }
  const char *const which = *item ? strchr("DWI", *item) : NULL;
  if (!which || item[1] != '=') {
    return rp_fail(err, RP_USAGE,
                   "%s: a pattern is D=..., W=..., I=... joined by commas, as in "
                   "D=16,W=256,I=4",
                   *item ? item : "an empty item");
  }
  const int bit = 1 << (which - "DWI");
  if (*seen & bit) return rp_fail(err, RP_USAGE, "%s: %c is there twice", item, *which);
  *seen |= bit;
  rp_node *n;
  RP_TRY(read_value(t, item, &n, err));
  RP_TRY(rp_pat_values(n, p->layers, p->kv_heads, values, item, err));
  for (int i = 0; i < p->layers * p->kv_heads; i++) {
    int32_t *at = *which == 'D' ? &p->at[i].D : *which == 'W' ? &p->at[i].W : &p->at[i].I;
    *at = values[i];
  }
  return RP_OK;
}

rp_status rp_pats_parse(rp_pats *out, const char *text, int layers, int kv_heads, rp_error *err) {
  RP_TRY(rp_pats_make(out, layers, kv_heads, err));
  rp_status st = RP_OK;
  rp_tree *t = rp_tree_new();
  const size_t n = (size_t)layers * (size_t)kv_heads;
  int32_t *values = rp_malloc(n, sizeof *values);
  int seen = 0;
  if (!t || !values) {
    st = rp_fail_memory(err, n * sizeof *values, "a pattern");
    goto fail;
  }
  const char *p = text + strspn(text, " ");
  do {
    const size_t len = item_length(p);
    char *item = rp_tree_text(t, p, len);
    if (!item) {
      st = rp_tree_status(t, "a pattern", err);
      goto fail;
    }
    for (size_t k = len; k > 0 && item[k - 1] == ' '; k--) item[k - 1] = '\0';
    RP_GO(read_item(t, item, out, values, &seen, err));
    p += len;
    if (!*p) break;
    p++;
    p += strspn(p, " ");
  } while (true);
  st = rp_pats_check(out, err);
fail:
  rp_free(values);
  rp_tree_free(t);
  if (st) rp_pats_free(out);
  return st;
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

static void add_layer(const rp_pats *p, char which, int layer, rp_str *out) {
  if (heads_same(p, which, layer)) {
    rp_str_addf(out, "%d", part_of(p, which, layer, 0));
    return;
  }
  rp_str_add(out, "[");
  for (int k = 0; k < p->kv_heads; k++) {
    rp_str_addf(out, "%s%d", k ? "," : "", part_of(p, which, layer, k));
  }
  rp_str_add(out, "]");
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
