/* Sessions against the golden files of an independent PyTorch implementation: what a cache holds,
 * position by position, the recurrence it goes on from, and logits that came by decode steps. */
#include "golden_cases.h"
#include "pattern/count.h"
#include "session/inner.h"

enum { CHUNK = 64, ROLLBACK = 3, MOST_B = 4 };

/* A golden model, on a device, behind an engine. */
typedef struct {
  golden g;
  const golden_mode *how;
  const char *prefix; /* of the file's tensors in this mode's numerics */
  rp_device *dev;
  rp_queue *q;
  rp_params params;
  rp_weights w;
  rp_model *model;
  rp_engine *e;
} stage;

static void stage_open(stage *x, const golden_case *o, int rollback) {
  rp_error err = {0};
  *x = (stage){.how = o->how, .prefix = o->how->dtype == RP_BF16 ? "bf16." : ""};
  golden_open(&x->g, o->name);
  x->g.m.max_seq_len = 256;
  check_ok(rp_device_open(&x->dev, o->how->kind, &err), err);
  check_ok(rp_queue_open(&x->q, x->dev, &err), err);
  check_ok(rp_params_open(&x->params, x->q, &x->g.m, o->how->dtype, false, &err), err);
  golden_set_weights(&x->g, &x->params);
  x->w = rp_params_weights(&x->params);
  check_ok(rp_model_borrow(&x->model, x->q, &x->g.m, o->how->dtype, &x->w, &err), err);
  rp_engine_opts opts;
  rp_engine_defaults(&opts);
  opts.chunk = opts.wanted = CHUNK;
  opts.rollback = rollback;
  opts.cache_bytes = 1 << 22;
  check_ok(rp_engine_open(&x->e, x->model, &opts, &err), err);
}

static void stage_close(stage *x) {
  rp_engine_close(x->e);
  rp_model_close(x->model);
  rp_params_close(&x->params);
  rp_queue_close(x->q);
  rp_device_close(x->dev);
  golden_close(&x->g);
}

static rp_session *session_in(const stage *x, const rp_pats *pats, int limit) {
  rp_error err = {0};
  rp_session *s;
  char *text = rp_pats_format(pats);
  assert_non_null(text);
  check_ok(rp_session_open(&s, x->e, text, limit, &err), err);
  rp_free(text);
  return s;
}

/* The first n tokens, in calls of `each`, or of random sizes when that is 0. */
static void feed(rp_session *s, rp_rng *r, const int32_t *ids, int n, int each, float *logits) {
  rp_error err = {0};
  for (int at = 0; at < n;) {
    int take = each ? each : check_pick(r, 1, CHUNK);
    if (take > n - at) take = n - at;
    const rp_feed f = {
        .session = s, .ids = ids + at, .n = take, .logits = at + take == n ? logits : NULL};
    check_ok(rp_engine_call(s->e, &f, 1, &err), err);
    at += take;
  }
}

/* ---- what a cache holds ---- */

/* Whether position p lies in the ring after T tokens, and at which entry of its list. */
static bool place_of(rp_pat p, int pos, int T, int R, int *entry) {
  const int64_t ring = rp_pat_in_ring(p, T, R), size = p.W + R;
  const bool inside = p.D != 1 && pos >= p.I && pos >= T - ring;
  if (inside)
    *entry = (int)((pos - p.I) % size);
  else if (p.D == 1 || pos < p.I)
    *entry = pos;
  else
    *entry = p.I + (int)rp_pat_dilated(p, p.I, pos);
  return inside;
}

/* Key and value [h] of a position, out of its block; of head `list / 2`, counted over layers. */
static void fetch(const stage *x, const rp_session *s, int head, bool ring, int entry, double *k,
                  double *v) {
  rp_error err = {0};
  const rp_list *l = &s->list[2 * head + ring];
  const int h = x->g.m.h;
  assert_in_range(entry / RP_KV_BLOCK, 0, l->blocks - 1);
  const int64_t at = rp_kv_entry(s->ints[l->begin + entry / RP_KV_BLOCK], entry, h);
  rp_download_as(x->q, k, RP_F64, rp_tensor_at(s->e->kv.pool, at), h);
  rp_download_as(x->q, v, RP_F64, rp_tensor_at(s->e->kv.pool, at + RP_KV_BLOCK * h), h);
  check_ok(rp_wait(x->q, &err), err);
}

/* got[n] against a stored tensor, within `tol` of its largest element. */
static void near(const stage *x, const char *name, const double *got, int64_t n, double tol) {
  char full[96];
  int64_t stored;
  snprintf(full, sizeof full, "%s%s", x->prefix, name);
  const float *want = golden_tensor(&x->g, full, RP_F32, &stored);
  assert_int_equal(stored, n);
  const double apart = golden_apart(got, want, n, NULL);
  if (!(apart <= tol))
    fail_msg("%s: %s apart by %.3g of the largest (allowed %.3g)", x->g.name, full, apart, tol);
}

static void blocks_hold(const stage *x, const rp_session *s, int c, const rp_pats *pats, int T,
                        int R, double tol) {
  char name[64];
  const int h = x->g.m.h, Hk = x->g.m.Hk;
  for (int head = 0; head < pats->layers * Hk; head++) {
    int64_t n = 0;
    snprintf(name, sizeof name, "%d.%d.%d.pos", c, head / Hk, head % Hk);
    if (!rp_store_find(x->g.store, name)) {
      assert_int_equal(rp_pat_cache(pats->at[head], T, 0), 0);
      continue;
    }
    const int32_t *pos = golden_tensor(&x->g, name, RP_I32, &n);
    double *k = rp_malloc((size_t)(n * h), sizeof *k), *v = rp_malloc((size_t)(n * h), sizeof *v);
    assert_true(k && v);
    for (int64_t i = 0; i < n; i++) {
      int entry;
      const bool ring = place_of(pats->at[head], pos[i], T, R, &entry);
      fetch(x, s, head, ring, entry, k + i * h, v + i * h);
    }
    snprintf(name, sizeof name, "%d.%d.%d.k", c, head / Hk, head % Hk);
    near(x, name, k, n * h, tol);
    name[strlen(name) - 1] = 'v';
    near(x, name, v, n * h, tol);
    rp_free(k);
    rp_free(v);
    if (R == 0) assert_int_equal(n, rp_pat_cache(pats->at[head], T, 0));
  }
}

/* k~ and v~ after the last token, of every layer. */
static void states_hold(const stage *x, const rp_session *s, int c, int T, double tol) {
  rp_error err = {0};
  char name[64];
  const int n = x->g.m.Hk * x->g.m.h;
  const rp_dtype real = rp_device_real(x->dev);
  double state[2 * 256];
  assert_in_range(n, 1, 256);
  for (int i = 0; x->g.m.apply_re && i < x->g.m.N; i++) {
    rp_kv kv = s->e->kv;
    kv.layer = i;
    const rp_ptr at = rp_cell_state(&kv, s->cell, x->g.m.Hk, x->g.m.h, rp_dtype_bytes(real), T - 1);
    rp_download_as(x->q, state, RP_F64, (rp_tensor){at, real}, 2 * n);
    check_ok(rp_wait(x->q, &err), err);
    snprintf(name, sizeof name, "%d.%d.state_k", c, i);
    near(x, name, state, n, tol);
    name[strlen(name) - 1] = 'v';
    near(x, name, state + n, n, tol);
  }
}

/* In double what is left is the file's float32. */
static double allowed_of(const stage *x) {
  if (x->how->kind == RP_DEVICE_REF64) return 1e-7;
  return golden_real(x->how->dtype == RP_BF16 ? golden_get(x->g.root, "bf16") : x->g.root, "tol");
}

static void a_cache_is_golden(void **state) {
  const golden_case *o = *state;
  rp_rng r = check_rng(1);
  for (int way = 0; way < 4; way++) { /* token by token; pieces; any pieces, without and with R */
    const int R = way == 3 ? ROLLBACK : 0;
    stage x;
    int c = 0;
    stage_open(&x, o, R);
    const rp_json *list = golden_get(x.g.root, "cases");
    for (const rp_json *at = list->child; at; at = at->next, c++) {
      char name[32];
      float last[512];
      double logits[512];
      int64_t n;
      golden_pats(&x.g.m.pats, golden_get(at, "pats"));
      const int T = golden_int(at, "T");
      snprintf(name, sizeof name, "%d.ids", c);
      const int32_t *ids = golden_tensor(&x.g, name, RP_I32, &n);
      assert_int_equal(n, T);
      rp_session *s = session_in(&x, &x.g.m.pats, T);
      feed(s, &r, ids, T, way < 2 ? way * 16 + 1 : 0, last);
      blocks_hold(&x, s, c, &x.g.m.pats, T, R, allowed_of(&x));
      states_hold(&x, s, c, T, allowed_of(&x));
      for (int i = 0; i < x.g.m.V; i++) logits[i] = last[i];
      snprintf(name, sizeof name, "%d.last", c);
      near(&x, name, logits, x.g.m.V, allowed_of(&x));
      rp_session_close(s);
    }
    assert_int_equal(c, list->count);
    stage_close(&x);
  }
}

/* ---- logits by decode steps ---- */

typedef struct {
  double logits, rms; /* of a row's largest; of all */
} allowed;
static allowed allowed_logits(const stage *x) {
  if (x->how->kind == RP_DEVICE_REF64) return (allowed){1e-7, 1e-7};
  const bool low = x->how->dtype == RP_BF16;
  const rp_json *tol = golden_get(low ? golden_get(x->g.root, "bf16") : x->g.root, "tol");
  const double logits = golden_real(tol, "logits");
  return (allowed){logits, low ? golden_real(tol, "logits_rms") : logits};
}

static void steps_are_golden(void **state) {
  const golden_case *o = *state;
  rp_error err = {0};
  stage x;
  char name[32];
  int64_t rows, n;
  golden_sums sums = {0, 0};
  stage_open(&x, o, 0);
  const int T = golden_int(x.g.root, "T"), B = golden_int(x.g.root, "B"), V = x.g.m.V;
  const allowed most = allowed_logits(&x);
  const int32_t *ids = golden_tensor(&x.g, "ids", RP_I32, &n);
  const int32_t *row = golden_tensor(&x.g, "logits_rows", RP_I32, &rows);
  snprintf(name, sizeof name, "%slogits", x.prefix);
  const float *want = golden_tensor(&x.g, name, RP_F32, &n);
  float *got = rp_malloc((size_t)(B * V), sizeof *got);
  assert_non_null(got);
  rp_session *s[MOST_B];
  rp_feed f[MOST_B];
  assert_in_range(B, 1, MOST_B);
  assert_in_range(V, 1, 512);
  for (int b = 0; b < B; b++) s[b] = session_in(&x, &x.g.m.pats, T);
  int64_t seen = 0;
  for (int t = 0; t < T; t++) {
    for (int b = 0; b < B; b++)
      f[b] = (rp_feed){.session = s[b], .ids = ids + b * T + t, .n = 1, .logits = got + b * V};
    check_ok(rp_engine_call(x.e, f, B, &err), err);
    for (int64_t r = 0; r < rows; r++) {
      if (row[r] % T != t) continue;
      double z[512];
      for (int v = 0; v < V; v++) z[v] = (double)got[row[r] / T * V + v];
      const double apart = golden_apart(z, want + r * V, V, &sums);
      if (!(apart <= most.logits))
        fail_msg("%s: logits of row %d apart by %.3g of the largest (allowed %.3g)", x.g.name,
                 row[r], apart, most.logits);
      seen++;
    }
  }
  for (int b = 0; b < B; b++) rp_session_close(s[b]);
  assert_int_equal(seen, rows);
  check_close(sqrt(sums.apart / sums.wanted), 0, most.rms);
  rp_free(got);
  stage_close(&x);
}

int main(int argc, char **argv) {
  check_begin(argc, argv);
  golden_add("cache-", a_cache_is_golden);
  const size_t caches = golden_count;
  golden_add("pass-", steps_are_golden);
  if (caches < 12 || golden_count < 150)
    return printf("only %zu golden cases found\n", golden_count), 1;
  return _cmocka_run_group_tests("golden sessions", golden_tests, golden_count, NULL, NULL) ? 1 : 0;
}
