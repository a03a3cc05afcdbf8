/* store_told.c - what the tensors alone tell of a model's sizes. */
#include <string.h>

#include "base/str.h"
#include "model/store_inner.h"

static const char layers[] = "backbone.layers.";

/* Number of the layer in a tensor's name, and what follows it; -1 when it is of no layer. */
static int64_t layer_of(const char *name, const char **rest) {
  int64_t n = 0;
  if (!rp_starts_with(name, layers)) return -1;
  const char *c = name + sizeof layers - 1;
  if (*c < '0' || *c > '9') return -1;
  for (; *c >= '0' && *c <= '9'; c++) {
    n = n * 10 + (*c - '0');
    if (n > 1000000) return -1;
  }
  if (*c != '.') return -1;
  *rest = c + 1;
  return n;
}

static bool is_matrix(const rp_view *v) { return v->ndim == 2 && v->dims[0] && v->dims[1]; }

/* Values of two tensors compared; shared storage needs no look. */
static bool is_same(const rp_view *a, const rp_view *b) {
  uint64_t bytes = 0, other = 0;
  if (a->dtype != b->dtype || a->ndim != b->ndim || a->dims[0] != b->dims[0]) return false;
  if (!rp_view_bytes(a, &bytes) || !rp_view_bytes(b, &other) || bytes != other) return false;
  if (rp_view_is_packed(a) && rp_view_is_packed(b))
    return a->data == b->data || !memcmp(a->data, b->data, (size_t)bytes);
  const int64_t n = (int64_t)bytes / rp_dtype_bytes(a->dtype);
  for (int64_t i = 0; i < n; i += 512) {
    float x[512], y[512];
    const int64_t m = n - i < 512 ? n - i : 512;
    rp_view_get_f32(a, i, m, x);
    rp_view_get_f32(b, i, m, y);
    if (memcmp(x, y, (size_t)m * sizeof *x)) return false;
  }
  return true;
}

static void tell_layer(rp_told *t, const char *rest, const rp_view *v) {
  if (!strcmp(rest, "seq_layer.in_proj.weight") && is_matrix(v)) {
    t->mixer = true;
    t->in_rows += v->dims[0];
  } else if (!strcmp(rest, "seq_layer.fgate_proj.weight") && is_matrix(v)) {
    t->fgate = true;
    t->in_rows += v->dims[0];
  } else if (!strcmp(rest, "hidden_layer.fc2.weight") && is_matrix(v)) {
    t->f = v->dims[1];
  } else if (!strcmp(rest, "hidden_layer.fc1.weight") && is_matrix(v)) {
    t->fc1_rows = v->dims[0];
  } else if (!strcmp(rest, "seq_layer.input_norm.bias")) {
    t->mixer_bias = true;
  } else if (!strcmp(rest, "hidden_layer.ln.bias")) {
    t->ffn_bias = true;
  }
}

rp_status rp_store_told(const rp_store *s, rp_told *t, rp_error *err) {
  const rp_view *wte = rp_store_find(s, "embedding.wte.weight"),
                *head = rp_store_find(s, "head.lm_head.weight");
  *t = (rp_told){.f = -1};
  if (!wte || !is_matrix(wte))
    return rp_fail(err, RP_BAD_DATA,
                   "%s: has no matrix embedding.wte.weight; it holds no model of this kind",
                   s->path);
  t->V = wte->dims[0];
  t->d = wte->dims[1];
  for (size_t i = 0; i < s->tensors.n; i++) {
    const rp_view *v = &s->tensors.v[i];
    const char *rest = NULL;
    const int64_t layer = layer_of(v->name, &rest);
    if (layer >= t->N) t->N = layer + 1;
    if (layer == 0) tell_layer(t, rest, v);
  }
  if (t->N < 1)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: has no tensors of layers (%s0...); it holds no model of "
                   "this kind",
                   s->path, layers);
  t->final_bias = rp_store_find(s, "backbone.ln.bias") != NULL;
  t->head = head != NULL;
  t->head_same = head && is_same(head, wte);
  return RP_OK;
}
