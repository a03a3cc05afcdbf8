/* Every op of RP_OPS at every level and on every device against ref64, over the registry's cases.
 * CHECK_OP=NAME: that op alone on devices. label: threads */
#include "check.h"

#include <math.h>

#include "ops/cpu/cpu_device.h"
#include "ops/registry.h"

typedef struct {
  rp_device *d;
  rp_queue *q;
} box;

static const char *const box_names[] = {
    "cpu", "guard", "ref", "level ref", "level avx2", "level avx512", "level avx512_bf16", "cuda"};
enum { CUDA_BOX = 7 };

/* False where this processor has no such level. */
static bool box_open(box *b, int which) {
  static const rp_device_kind kinds[] = {RP_DEVICE_CPU, RP_DEVICE_GUARD, RP_DEVICE_REF};
  rp_error err = {0};
  if (which == CUDA_BOX) {
    if (!RATPLUS_WITH_CUDA) return false;
    check_ok(rp_device_open(&b->d, RP_DEVICE_CUDA, &err), err);
  } else if (which < 3) {
    check_ok(rp_device_open(&b->d, kinds[which], &err), err);
  } else {
    const rp_cpu_level level = (rp_cpu_level)(which - 3);
    if (level > rp_cpu_best()) return false;
    check_ok(rp_cpu_device_open(&b->d, level, &err), err);
  }
  check_ok(rp_queue_open(&b->q, b->d, &err), err);
  return true;
}

static void box_close(box *b) {
  rp_queue_close(b->q);
  rp_device_close(b->d);
}

/* Outputs of one run, by tensor; inputs as the case says. */
static void run_case(const rp_case *c, rp_queue *q, int64_t poison, const char *name,
                     double *values[RP_CASE_TENSORS]) {
  rp_case_run r;
  rp_error err = {0};
  if (rp_case_open(&r, c, q, poison, &err)) fail_msg("%s: %s", name, err.text);
  rp_case_put(&r);
  if (rp_wait(q, &err)) fail_msg("%s: %s", name, err.text);
  for (int t = 0; t < c->tensors; t++) {
    values[t] = NULL;
    if (c->t[t].type == RP_CASE_BYTES || !c->t[t].role) continue;
    values[t] = malloc((size_t)(c->t[t].n ? c->t[t].n : 1) * sizeof(double));
    assert_non_null(values[t]);
    check_ok(rp_case_read(&r, t, values[t], &err), err);
  }
  if (rp_case_bands(&r, &err))
    fail_msg("%s: %s (seed %llu)", name, err.text, (unsigned long long)c->seed);
  rp_case_close(&r);
}

static void free_values(double *values[RP_CASE_TENSORS], int n) {
  for (int t = 0; t < n; t++) free(values[t]);
}

static double largest(const double *x, int64_t n) {
  double most = 0;
  for (int64_t i = 0; i < n; i++)
    if (fabs(x[i]) > most) most = fabs(x[i]);
  return most;
}

static double tolerance(const rp_case *c, int t, double *const *want, int64_t i) {
  const rp_case_tensor *x = &c->t[t];
  const int64_t row = i / x->row * x->row;
  const double seen = c->terms ? c->terms(c, want, t, i) : largest(want[t] + row, x->row);
  const double size = seen > x->least ? seen : x->least;
  const double eps = x->type == RP_CASE_F64 ? 2.3e-16 : x->type == RP_CASE_I32 ? 0 : 1.2e-7;
  /* A bfloat16 between two devices' sums may fall either way; so may one inside the op. */
  const double half = c->bf16 && x->type != RP_CASE_F64 && x->factor > 0 ? 1.0 / 128 : 0;
  const double of = fabs(want[t][i]);
  const bool sums = c->op == RP_OP_attend || c->op == RP_OP_attend_bwd || c->op == RP_OP_head_loss;
  const bool rounded = x->type == RP_CASE_COMPUTE || c->op == RP_OP_ogate_bwd;
  return x->factor * eps * size + (sums ? half * size : rounded ? half * of : 0);
}

static void compare(const rp_case *c, double *const *got, double *const *want, const char *name) {
  for (int t = 0; t < c->tensors; t++) {
    if (!(c->t[t].role & RP_CASE_OUT) || !got[t]) continue;
    for (int64_t i = 0; i < c->t[t].n; i++) {
      const double a = got[t][i], b = want[t][i];
      if (memcmp(&a, &b, sizeof a) == 0) continue;
      const double most = tolerance(c, t, want, i);
      if (!(fabs(a - b) <= most))
        fail_msg(
            "%s on %s: seed %llu %s tensor %d element %lld: %.9g, wanted %.9g, apart by %.3g "
            "(allowed %.3g)",
            rp_op_name(c->op), name, (unsigned long long)c->seed, c->bf16 ? "bfloat16" : "float32",
            t, (long long)i, a, b, fabs(a - b), most);
    }
  }
}

static void check_case(const rp_case *c, rp_queue *q, rp_queue *ref, const char *name) {
  double *got[RP_CASE_TENSORS], *want[RP_CASE_TENSORS];
  run_case(c, ref, -1, "ref64", want);
  run_case(c, q, -1, name, got);
  compare(c, got, want, name);
  free_values(got, c->tensors);
  free_values(want, c->tensors);
}

static void every_op_has_a_case_and_an_entry(void **state) {
  (void)state;
  for (int op = 0; op < RP_OP_COUNT; op++) {
    rp_case c;
    if (!rp_case_of((rp_op)op))
      fail_msg("op %s has no case in registry_ops.c", rp_op_name((rp_op)op));
    rp_case_make(&c, (rp_op)op, 1, false);
    int outputs = 0;
    for (int t = 0; t < c.tensors; t++) outputs += (c.t[t].role & RP_CASE_OUT) != 0;
    if (!outputs) fail_msg("the case of op %s has no output", rp_op_name((rp_op)op));
    const rp_cpu_table *tables[] = {
      &rp_cpu_table_ref,
      &rp_cpu_table_ref64,
#if defined(__x86_64__)
      &rp_cpu_table_avx2,
      &rp_cpu_table_avx512,
      &rp_cpu_table_avx512_bf16
#endif
    };
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
      if (!tables[i]->run[op]) fail_msg("op %s is not in table %zu", rp_op_name((rp_op)op), i);
  }
}

static void every_op_on(int which) {
  const char *one = getenv("CHECK_OP");
  box b, ref;
  rp_error err = {0};
  if (!box_open(&b, which)) skip();
  check_ok(rp_device_open(&ref.d, RP_DEVICE_REF64, &err), err);
  check_ok(rp_queue_open(&ref.q, ref.d, &err), err);
  for (int op = 0; op < RP_OP_COUNT; op++) {
    if (which == CUDA_BOX && !rp_device_has(b.d, (rp_op)op)) continue;
    if (one && strcmp(one, rp_op_name((rp_op)op)) != 0) continue;
    for (int round = 0; round < 8; round++) {
      rp_case c;
      rp_case_make(&c, (rp_op)op, check_seed() * 1000 + (uint64_t)round, round % 2);
      if (round % 2 && !rp_case_computes(&c)) continue;
      check_case(&c, b.q, ref.q, box_names[which]);
    }
  }
  box_close(&ref);
  box_close(&b);
}

/* FLOPs of attention, and what a step reads of its caches, from the definition of the pattern. */
static void check_counts(const rp_case *c) {
  const rp_case_bench *z = &c->size;
  const rp_pat p = z->pat;
  double pairs = 0, entries = 0;
  for (int64_t t = z->step ? z->T - 1 : 0; t < z->T; t++)
    for (int64_t s = 0; s <= t; s++)
      pairs += s < p.I || t - s <= p.W || (p.D != -1 && (s + 1) % p.D == 0);
  for (int64_t s = 0; s < z->T - 1; s++)
    entries += s < p.I || s >= z->T - 1 - p.W || (p.D != -1 && (s + 1) % p.D == 0);
  const double wide = (double)z->H * z->h, batch = z->batch;
  if (c->op == RP_OP_attend) assert_true(c->flops == 4 * pairs * wide * batch);
  if (c->op == RP_OP_attend_bwd) assert_true(c->flops == 10 * pairs * wide * batch);
  if (c->op == RP_OP_attend && z->step)
    assert_true(c->bytes == entries * 2 * z->Hk * z->h * (c->bf16 ? 2 : 4) * batch);
}

/* The sizes that the benchmark times, small, in both forms: the caches of a step are laid out by
 * formula. */
static void every_size_of_the_benchmark(void **state) {
  (void)state;
  static const rp_pat pats[] = {{1, 0, 0}, {4, 0, 0}, {4, 19, 0}, {-1, 17, 3}, {16, 5, 2}};
  box b, ref;
  rp_error err = {0};
  rp_rng r = check_rng(2);
  assert_true(box_open(&b, 0));
  check_ok(rp_device_open(&ref.d, RP_DEVICE_REF64, &err), err);
  check_ok(rp_queue_open(&ref.q, ref.d, &err), err);
  for (int op = 0; op < RP_OP_COUNT; op++) {
    if (!(rp_case_bench_by((rp_op)op) & RP_CASE_BY_TOKENS)) continue;
    for (int round = 0; round < 8; round++) {
      const int Hk = check_pick(&r, 1, 3);
      const rp_case_bench size = {.step = round % 2,
                                  .T = check_pick(&r, 2, 90),
                                  .batch = check_pick(&r, 1, 4),
                                  .H = Hk * check_pick(&r, 1, 2),
                                  .Hk = Hk,
                                  .h = 16,
                                  .pat = pats[check_pick(&r, 0, 4)]};
      rp_case c;
      rp_case_make_bench(&c, (rp_op)op, round / 2 % 2, &size);
      check_counts(&c);
      if (op == RP_OP_head_loss || op == RP_OP_pick || op == RP_OP_embed || op == RP_OP_embed_bwd)
        continue;      /* 32000 words, whatever the size */
      c.bench = false; /* guard bands, and values that do not repeat */
      check_case(&c, b.q, ref.q, "bench");
    }
  }
  box_close(&ref);
  box_close(&b);
}

static void every_op_on_cpu(void **state) { (void)state, every_op_on(0); }
static void every_op_on_guard(void **state) { (void)state, every_op_on(1); }
static void every_op_on_ref(void **state) { (void)state, every_op_on(2); }
static void every_op_at_ref(void **state) { (void)state, every_op_on(3); }
static void every_op_at_avx2(void **state) { (void)state, every_op_on(4); }
static void every_op_at_avx512(void **state) { (void)state, every_op_on(5); }
static void every_op_at_avx512_bf16(void **state) { (void)state, every_op_on(6); }
/* Those it has, on the stand-in of tests/fake, or on a GPU where LD_LIBRARY_PATH names the true libraries. */
static void every_op_on_cuda(void **state) { (void)state, every_op_on(CUDA_BOX); }

/* What a GPU has other kernels for: rows from 1024 elements on, keys of a step shared out over blocks. */
static void large_sizes_on_cuda(void **state) {
  (void)state;
  static const struct {
    rp_op op;
    rp_case_bench size;
  } cases[] = {
      {RP_OP_norm, {.T = 3, .batch = 1, .H = 64, .Hk = 64, .h = 16}},
      {RP_OP_norm, {.T = 3, .batch = 1, .H = 200, .Hk = 200, .h = 16}},
      {RP_OP_norm, {.T = 3, .batch = 1, .H = 512, .Hk = 512, .h = 16}},
      {RP_OP_norm, {.T = 3, .batch = 1, .H = 530, .Hk = 530, .h = 16}},
      {RP_OP_norm_bwd, {.T = 3, .batch = 1, .H = 128, .Hk = 128, .h = 16}},
      {RP_OP_norm_bwd, {.T = 3, .batch = 1, .H = 256, .Hk = 256, .h = 16}},
      {RP_OP_norm_bwd, {.T = 3, .batch = 1, .H = 530, .Hk = 530, .h = 16}},
      {RP_OP_attend,
       {.step = true, .T = 1500, .batch = 1, .H = 2, .Hk = 1, .h = 128, .pat = {1, 0, 0}}},
      {RP_OP_attend,
       {.step = true, .T = 1111, .batch = 2, .H = 1, .Hk = 1, .h = 64, .pat = {2, 70, 3}}},
      {RP_OP_attend,
       {.step = true, .T = 1300, .batch = 1, .H = 1, .Hk = 1, .h = 256, .pat = {1, 0, 0}}},
  };
  box b = {0}, ref;
  rp_error err = {0};
  if (!box_open(&b, CUDA_BOX)) skip();
  check_ok(rp_device_open(&ref.d, RP_DEVICE_REF64, &err), err);
  check_ok(rp_queue_open(&ref.q, ref.d, &err), err);
  for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
    rp_case c;
    rp_case_make_bench(&c, cases[i / 2].op, i % 2, &cases[i / 2].size);
    c.bench = false; /* guard bands, and values that do not repeat */
    check_case(&c, b.q, ref.q, "cuda");
  }
  box_close(&ref);
  box_close(&b);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_op_has_a_case_and_an_entry),
    cmocka_unit_test(every_size_of_the_benchmark),
    cmocka_unit_test(every_op_on_cpu),
    cmocka_unit_test(every_op_on_guard),
    cmocka_unit_test(every_op_on_ref),
    cmocka_unit_test(every_op_at_ref),
    cmocka_unit_test(every_op_at_avx2),
    cmocka_unit_test(every_op_at_avx512),
    cmocka_unit_test(every_op_at_avx512_bf16),
    cmocka_unit_test(every_op_on_cuda),
    cmocka_unit_test(large_sizes_on_cuda),
};
CHECK_MAIN(tests)
