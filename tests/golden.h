/* golden.h - reads the golden files (tools/golden/README.md has their format): settings, weights
 * from the hash, tensors, and the comparison of a sampled tensor. */
#ifndef RP_GOLDEN_H
#define RP_GOLDEN_H

#include <math.h>

#include "base/json.h"
#include "golden_weights.h"
#include "model_box.h"

typedef struct {
  char name[80];
  rp_json_doc *doc;
  const rp_json *root;
  rp_store *store;
  rp_model_settings m;
  uint64_t seed;
  double scale;
} golden;

CHECK_MAYBE static const rp_json *golden_get(const rp_json *at, const char *key) {
  const rp_json *v = rp_json_get(at, key);
  if (!v) fail_msg("golden file without \"%s\"", key);
  return v;
}
CHECK_MAYBE static double golden_real(const rp_json *at, const char *key) {
  return golden_get(at, key)->real;
}
CHECK_MAYBE static int golden_int(const rp_json *at, const char *key) {
  return (int)golden_get(at, key)->integer;
}
CHECK_MAYBE static const char *golden_text(const rp_json *at, const char *key) {
  return golden_get(at, key)->string;
}

/* [layer][kv head] = [D, W, I] */
CHECK_MAYBE static void golden_pats(rp_pats *pats, const rp_json *list) {
  rp_pat *out = pats->at;
  for (const rp_json *layer = list->child; layer; layer = layer->next)
    for (const rp_json *head = layer->child; head; head = head->next) {
      const rp_json *D = head->child, *W = D->next, *I = W->next;
      *out++ = (rp_pat){(int32_t)D->integer, (int32_t)W->integer, (int32_t)I->integer};
    }
  assert_int_equal(out - pats->at, pats->layers * pats->kv_heads);
}

CHECK_MAYBE static rp_act golden_act(const char *name) {
  for (int a = 0; a < RP_ACTS; a++)
    if (!strcmp(rp_act_name((rp_act)a), name)) return (rp_act)a;
  fail_msg("no activation %s", name);
  return RP_ACT_GELU;
}

CHECK_MAYBE static void golden_settings(golden *g) {
  const rp_json *j = golden_get(g->root, "model"), *pats = rp_json_get(g->root, "pats");
  g->m = box_settings(golden_int(j, "N"), golden_int(j, "H"), golden_int(j, "Hk"),
                      golden_int(j, "h"), golden_int(j, "f"), golden_int(j, "V"));
  rp_model_settings *m = &g->m;
  m->act = golden_act(golden_text(j, "act"));
  m->mixer_norm = m->ffn_norm = m->final_norm =
      strcmp(golden_text(j, "norm"), "rmsnorm") ? RP_NORM_LAYER : RP_NORM_RMS;
  m->cell = strcmp(golden_text(j, "cell"), "ratplus") ? RP_CELL_IDENTITY : RP_CELL_RATPLUS;
  m->apply_re = golden_int(j, "apply_re");
  m->tied = golden_int(j, "tied");
  m->rope = golden_int(j, "rope");
  m->rope_base = golden_real(j, "rope_base");
  m->rope_scale = golden_real(j, "rope_scale");
  if (pats) golden_pats(&m->pats, pats);
}

CHECK_MAYBE static void golden_open(golden *g, const char *name) {
  rp_error err = {0};
  char path[160], *text;
  size_t len;
  *g = (golden){0};
  snprintf(g->name, sizeof g->name, "%s", name);
  snprintf(path, sizeof path, "tests/data/golden/%s.json", name);
  check_ok(rp_file_read(check_source(path), 1 << 22, &text, &len, &err), err);
  check_ok(rp_json_parse(&g->doc, text, len, path, &err), err);
  rp_free(text);
  g->root = rp_json_root(g->doc);
  snprintf(path, sizeof path, "tests/data/golden/%s.safetensors", name);
  check_ok(rp_store_open(&g->store, check_source(path), &err), err);
  const rp_json *w = golden_get(g->root, "weights");
  g->seed = (uint64_t)golden_int(w, "seed");
  g->scale = golden_real(w, "scale");
  golden_settings(g);
}

CHECK_MAYBE static void golden_close(golden *g) {
  rp_pats_free(&g->m.pats);
  rp_store_close(g->store);
  rp_json_free(g->doc);
}

CHECK_MAYBE static void golden_set_weights(const golden *g, rp_params *p) {
  rp_error err = {0};
  for (int i = 0; i < p->shape.n; i++) {
    const rp_param *t = &p->shape.p[i];
    const int64_t n = t->rows * t->cols;
    const uint64_t key = golden_key(t->name);
    float *w = rp_malloc((size_t)n, sizeof *w);
    assert_non_null(w);
    for (int64_t j = 0; j < n; j++)
      w[j] = t->role == RP_ROLE_ONE    ? golden_norm_weight(g->seed, key, j)
             : t->role == RP_ROLE_ZERO ? golden_norm_bias(g->seed, key, j)
                                       : golden_matrix(g->seed, g->scale, key, j);
    check_ok(rp_params_set(p, t, w, &err), err);
    rp_free(w);
  }
  rp_params_round(p);
  check_ok(rp_wait(p->q, &err), err);
}

/* A stored tensor; its elements are 4 bytes wide, `n` receives how many. */
CHECK_MAYBE static const void *golden_tensor(const golden *g, const char *name, rp_dtype dtype,
                                             int64_t *n) {
  const rp_view *v = rp_store_find(g->store, name);
  if (!v) fail_msg("%s: no tensor %s", g->name, name);
  assert_int_equal(v->dtype, dtype);
  *n = 1;
  for (int i = 0; i < v->ndim; i++) *n *= v->dims[i];
  return v->data;
}

/* `got` [n] against a sampled tensor and its {stride, norm, proj}. tol: of the norm; `digits`
 * is the same for the numbers that the JSON holds in full. */
CHECK_MAYBE static void golden_sampled(const golden *g, const char *prefix, const char *param,
                                       const rp_json *entry, const double *got, int64_t n,
                                       double tol, double digits) {
  char name[160];
  int64_t stored;
  snprintf(name, sizeof name, "%s%s", prefix, param);
  const float *want = golden_tensor(g, name, RP_F32, &stored);
  const int stride = golden_int(entry, "stride");
  const double norm = golden_real(entry, "norm"), floor = norm > 0 ? norm : 1e-30;
  assert_int_equal(stored, (n + stride - 1) / stride);
  double diff = 0, sum = 0, proj = 0;
  for (int64_t i = 0; i < stored; i++) diff += pow(got[i * stride] - (double)want[i], 2);
  const uint64_t key = golden_key(param);
  for (int64_t i = 0; i < n; i++) {
    sum += got[i] * got[i];
    proj += golden_signed(77, key, i) * got[i];
  }
  const double share = sqrt((double)stored / (double)n) * (stride > 1 ? 2 : 1);
  if (!(sqrt(diff) <= tol * share * floor))
    fail_msg("%s: %s: sampled elements apart by %.3g of the norm (allowed %.3g)", g->name, name,
             sqrt(diff) / share / floor, tol);
  if (!(fabs(sqrt(sum) - norm) <= digits * floor))
    fail_msg("%s: %s: norm %.12g, wanted %.12g (allowed %.3g relative)", g->name, name, sqrt(sum),
             norm, digits);
  if (!(fabs(proj - golden_real(entry, "proj")) <= digits * floor))
    fail_msg("%s: %s: projection %.12g, wanted %.12g (allowed %.3g of norm %.3g)", g->name, name,
             proj, golden_real(entry, "proj"), digits, norm);
}

#endif
