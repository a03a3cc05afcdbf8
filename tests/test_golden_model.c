/* The model against the golden files of an independent PyTorch implementation: loss, logits and
 * every gradient of one pass, on every device and in both numerics.
 * label: threads */
#include "golden.h"

typedef struct {
  const char *label;
  rp_device_kind kind;
  rp_dtype dtype;
  bool recompute;
} mode;

static const mode modes[] = {
    {"ref64", RP_DEVICE_REF64, RP_F32, false},      {"ref", RP_DEVICE_REF, RP_F32, false},
    {"cpu", RP_DEVICE_CPU, RP_F32, false},          {"guard", RP_DEVICE_GUARD, RP_F32, true},
    {"ref-bfloat16", RP_DEVICE_REF, RP_BF16, true}, {"cpu-bfloat16", RP_DEVICE_CPU, RP_BF16, false},
};
enum { MODES = sizeof modes / sizeof *modes, MOST = 256 };

typedef struct {
  char name[80]; /* of the golden file */
  const mode *how;
} one;

/* Allowed of the loss, of a row's largest |logit|, of a gradient's norm; `digits` for whole-tensor
 * numbers. */
typedef struct {
  double loss, logits, logits_rms, grads, digits;
} allowed;

/* In double only the file's float32 storage and the order of sums are between us. */
static allowed allowed_of(const golden *g, const mode *how) {
  if (how->kind == RP_DEVICE_REF64) return (allowed){1e-12, 1e-7, 1e-7, 1e-7, 1e-10};
  const rp_json *tol = golden_get(g->root, "tol");
  if (how->dtype == RP_BF16) tol = golden_get(golden_get(g->root, "bf16"), "tol");
  const double logits = golden_real(tol, "logits");
  if (how->dtype == RP_BF16)
    return (allowed){golden_real(tol, "loss"), logits, golden_real(tol, "logits_rms"), 0, 0};
  const double grads = golden_real(tol, "grads");
  return (allowed){golden_real(tol, "loss"), logits, logits, grads, grads};
}

/* Logits [batch*T, V] of the box's ids, through the rows that the head's op reads. */
static double *logits_of(box *b, int plan) {
  rp_error err = {0};
  rp_tensor x;
  const rp_tensor *w;
  const int n = b->batch * b->T, V = b->m.V, d = b->m.d;
  const rp_dtype real = rp_device_real(b->dev);
  const rp_weights h = rp_params_weights(&b->params);
  rp_tensor z = {{0}, real};
  double *out = rp_malloc((size_t)(n * V), sizeof *out);
  assert_non_null(out);
  check_ok(
      rp_device_alloc(b->dev, (size_t)(n * V) * (size_t)rp_dtype_bytes(real), "logits", &z.p, &err),
      err);
  check_ok(rp_net_hidden(b->net, &h, b->batch, b->T, plan, b->ids, &x, &err), err);
  check_ok(h.need(h.ctx, b->q, b->m.tied ? 0 : b->m.N + 1, &w, &err), err);
  const rp_gemm_args a = {.M = n,
                          .N = V,
                          .K = d,
                          .tb = 1,
                          .lda = d,
                          .ldb = d,
                          .ldc = V,
                          .a = x,
                          .b = w[b->m.tied ? (int)RP_SLOT_EMBED : (int)RP_SLOT_HEAD],
                          .c = z};
  check_ok(rp_queue_reserve(b->q, rp_op_scratch(b->dev, RP_OP_gemm, &a), &err), err);
  rp_op_gemm(b->q, &a);
  rp_download_as(b->q, out, RP_F64, z, (int64_t)n * V);
  check_ok(rp_wait(b->q, &err), err);
  rp_device_free(b->dev, z.p);
  return out;
}

static void compare_logits(const golden *g, box *b, int plan, const char *prefix, allowed most) {
  char name[32];
  int64_t rows, n;
  const int V = b->m.V;
  snprintf(name, sizeof name, "%slogits", prefix);
  const int32_t *row = golden_tensor(g, "logits_rows", RP_I32, &rows);
  const float *want = golden_tensor(g, name, RP_F32, &n);
  assert_int_equal(n, rows * V);
  double *z = logits_of(b, plan), all = 0, size = 0;
  for (int64_t r = 0; r < rows; r++, want += V) {
    double top = 0, diff = 0;
    for (int v = 0; v < V; v++) {
      const double d = fabs(z[(int64_t)row[r] * V + v] - (double)want[v]);
      top = fmax(top, fabs((double)want[v]));
      diff = d >= diff ? d : isnan(d) ? INFINITY : diff;
      all += d * d;
      size += (double)want[v] * (double)want[v];
    }
    if (!(diff <= most.logits * top))
      fail_msg("%s: logits of row %d apart by %.3g of the largest (allowed %.3g)", g->name, row[r],
               diff / top, most.logits);
  }
  check_close(sqrt(all / size), 0, most.logits_rms);
  rp_free(z);
}

static void compare_grads(const golden *g, box *b, const rp_json *at, const char *prefix,
                          allowed most) {
  char tensor[32];
  const rp_json *entries = golden_get(at, "grads");
  double *grads = box_grads(b), *got = grads;
  snprintf(tensor, sizeof tensor, "%sgrad.", prefix);
  assert_int_equal(entries->count, b->params.shape.n);
  for (int i = 0; i < b->params.shape.n; i++) {
    const rp_param *t = &b->params.shape.p[i];
    const rp_json *entry = golden_get(entries, t->name), *own = rp_json_get(entry, "tol");
    const int64_t n = t->rows * t->cols;
    golden_sampled(g, tensor, t->name, entry, got, n, own ? own->real : most.grads,
                   own ? own->real : most.digits);
    got += n;
  }
  rp_free(grads);
}

static void follows_the_golden_pass(void **state) {
  const one *o = *state;
  const bool low = o->how->dtype == RP_BF16;
  const char *prefix = low ? "bf16." : "";
  rp_error err = {0};
  golden g;
  box b;
  int plan;
  int64_t n;
  golden_open(&g, o->name);
  box_open(&b, o->how->kind, &g.m, o->how->dtype, golden_int(g.root, "B"), golden_int(g.root, "T"),
           o->how->recompute);
  golden_set_weights(&g, &b.params);
  const int32_t *ids = golden_tensor(&g, "ids", RP_I32, &n);
  box_data(&b, ids, golden_tensor(&g, "labels", RP_I32, &n));
  check_ok(rp_net_add_plan(b.net, &g.m.pats, &plan, &err), err);
  const rp_json *at = low ? golden_get(g.root, "bf16") : g.root;
  const allowed most = allowed_of(&g, o->how);
  const double loss = box_pass(&b, b.batch, b.T, plan, true), want = golden_real(at, "loss");
  check_close(loss, want, most.loss * want);
  compare_grads(&g, &b, at, prefix, most);
  compare_logits(&g, &b, plan, prefix, most);
  box_close(&b);
  golden_close(&g);
}

/* The formulas of the hash, in three numbers that Python printed. */
static void the_hash_is_the_same(void **state) {
  (void)state;
  const uint64_t key = golden_key("backbone.ln.weight");
  check_close(golden_norm_weight(1, key, 0), 1.1233565, 1e-7);
  check_close(golden_matrix(1, 0.3, key, 5), 0.2986289, 1e-7);
  assert_int_equal(golden_token(1, golden_key("ids"), 3, 61), 6);
}

static bool has_bf16(const char *name) {
  golden g;
  golden_open(&g, name);
  const bool has = rp_json_get(g.root, "bf16") != NULL;
  golden_close(&g);
  return has;
}

static struct CMUnitTest tests[MOST];
static one cases[MOST];
static char labels[MOST][120];
static size_t count;

static void add(const char *file) {
  char name[80];
  snprintf(name, sizeof name, "%.*s", (int)(strlen(file) - strlen(".json")), file);
  for (int i = 0; i < MODES; i++) {
    if (modes[i].dtype == RP_BF16 && !has_bf16(name)) continue;
    if (count == MOST) fail_msg("more than %d golden cases", MOST);
    snprintf(cases[count].name, sizeof cases[count].name, "%s", name);
    cases[count].how = &modes[i];
    snprintf(labels[count], sizeof labels[count], "%s-%s", name, modes[i].label);
    tests[count] = (struct CMUnitTest){.name = labels[count],
                                       .test_func = follows_the_golden_pass,
                                       .initial_state = &cases[count]};
    count++;
  }
}

int main(int argc, char **argv) {
  rp_error err = {0};
  char **files;
  size_t n;
  check_begin(argc, argv);
  tests[count++] = (struct CMUnitTest)cmocka_unit_test(the_hash_is_the_same);
  if (rp_list_dir(check_source("tests/data/golden"), &files, &n, &err)) {
    printf("%s\n", err.text);
    return 1;
  }
  for (size_t i = 0; i < n; i++)
    if (rp_starts_with(files[i], "pass-") && rp_ends_with(files[i], ".json")) add(files[i]);
  rp_list_free(files, n);
  if (count < 100) return printf("only %zu golden cases found\n", count), 1;
  return _cmocka_run_group_tests("golden passes", tests, count, NULL, NULL) ? 1 : 0;
}
