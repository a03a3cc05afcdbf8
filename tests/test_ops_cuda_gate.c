/* Gate, scan and rotation on the device cuda over rows of many chunks, against ref64; the same bits twice, and
 * whatever else is in a call. It is the stand-in of tests/fake, or a GPU where LD_LIBRARY_PATH names the true
 * libraries. */
#include "check.h"

#include <math.h>

#include "ops/ops.h"

#if RATPLUS_WITH_CUDA

typedef struct {
  rp_device *d;
  rp_queue *q;
  rp_ptr given[32];
  int n;
} box;

static void box_open(box *b, rp_device_kind kind) {
  rp_error err = {0};
  *b = (box){0};
  check_ok(rp_device_open(&b->d, kind, &err), err);
  check_ok(rp_queue_open(&b->q, b->d, &err), err);
}
static void box_empty(box *b) {
  while (b->n) rp_device_free(b->d, b->given[--b->n]);
}
static void box_close(box *b) {
  box_empty(b);
  rp_queue_close(b->q);
  rp_device_close(b->d);
}

enum { ROWS = 4 };
/* One call, on the host. */
typedef struct {
  int rows, H, Hk, h, re, states, by_token, bf16, pad, turns;
  rp_row row[ROWS];
  int tokens, longest;
  float *p, *rope, *cells, *up[3]; /* up: dq, dk, dv */
} call;
/* What came out: q, k, v, cells, and of backward dp. */
enum { OUTS = 5 };
typedef struct {
  float *x[OUTS];
  int64_t n[OUTS];
} outcome;

static int64_t ldp_of(const call *c) {
  return (int64_t)c->h * (2 * c->H + (c->re ? 3 : 2) * c->Hk) + c->pad;
}
static int64_t cell_of(const call *c) { return (int64_t)c->states * 2 * c->Hk * c->h; }

static float *values(rp_rng *r, int64_t n, double mean, double spread, bool bf16) {
  float *x = malloc((size_t)(n ? n : 1) * sizeof *x);
  assert_non_null(x);
  for (int64_t i = 0; i < n; i++) {
    x[i] = (float)(mean + spread * rp_rng_normal(r));
    if (bf16) x[i] = rp_bf16_to_f32(rp_f32_to_bf16(x[i]));
  }
  return x;
}

static void fill(call *c, rp_rng *r, double gate) {
  const int64_t ldp = ldp_of(c), kv = (int64_t)c->Hk * c->h, q = (int64_t)c->H * c->h;
  int top = 0;
  for (int i = 0; i < c->rows; i++) {
    c->row[i].tok = c->tokens;
    c->tokens += c->row[i].n;
    if (c->row[i].n > c->longest) c->longest = c->row[i].n;
    if (c->row[i].pos + c->row[i].n > top) top = c->row[i].pos + c->row[i].n;
  }
  c->p = values(r, c->tokens * ldp, 0, 1, c->bf16);
  for (int t = 0; c->re && t < c->tokens; t++)
    for (int64_t i = 0; i < kv; i++) c->p[t * ldp + 2 * q + 2 * kv + i] += (float)gate;
  for (int64_t i = 0; c->bf16 && i < c->tokens * ldp; i++)
    c->p[i] = rp_bf16_to_f32(rp_f32_to_bf16(c->p[i]));
  const int64_t angles = (int64_t)(c->by_token ? c->tokens : top) * c->h;
  c->rope = values(r, angles, 0, 0.7, false);
  c->cells = values(r, c->rows * cell_of(c), 0, 1, false);
  for (int i = 0; i < 3; i++) c->up[i] = values(r, c->tokens * (i ? kv : q), 0, 1, false);
}
static void call_free(call *c) {
  float *all[] = {c->p, c->rope, c->cells, c->up[0], c->up[1], c->up[2]};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static rp_tensor put(box *b, rp_dtype t, const float *x, int64_t n) {
  rp_error err = {0};
  const rp_dtype real = rp_device_real(b->d), own = t == RP_F32 ? real : t;
  rp_tensor y = {.dtype = own};
  check_ok(rp_device_alloc(b->d, (size_t)(n ? n : 1) * (size_t)rp_dtype_bytes(own), "a tensor",
                           &y.p, &err),
           err);
  b->given[b->n++] = y.p;
  if (x) rp_upload_as(b->q, y, x, RP_F32, n);
  return y;
}

static void forward(box *b, const call *c, rp_dtype compute, outcome *o) {
  const int64_t kv = (int64_t)c->Hk * c->h, q = (int64_t)c->H * c->h, n = c->tokens;
  rp_row row[ROWS];
  memcpy(row, c->row, sizeof row);
  rp_gate_args a = {.rows = {.count = c->rows, .tokens = c->tokens, .longest = c->longest},
                    .H = c->H,
                    .Hk = c->Hk,
                    .h = c->h,
                    .re = c->re,
                    .rope_by_token = c->by_token,
                    .ldp = ldp_of(c)};
  a.p = put(b, compute, c->p, n * a.ldp);
  a.q = put(b, compute, NULL, n * q);
  a.k = put(b, compute, NULL, n * kv);
  a.v = put(b, compute, NULL, n * kv);
  if (c->turns) a.rope = put(b, RP_F32, c->rope, (int64_t)(c->by_token ? n : c->longest) * c->h).p;
  const rp_tensor cells = put(b, RP_F32, c->cells, c->rows * cell_of(c));
  if (c->states) {
    a.kv = (rp_kv){.pool = put(b, compute, NULL, rp_kv_block_elements(c->h)),
                   .blocks = 1,
                   .layers = 1,
                   .margin = c->states - 1,
                   .states = c->states};
    for (int i = 0; i < c->rows; i++) row[i].cell = rp_tensor_at(cells, i * cell_of(c)).p;
  }
  a.rows.row = put(b, RP_I32, NULL, (int64_t)sizeof row / 4).p;
  rp_upload(b->q, a.rows.row, row, sizeof row);
  rp_error err = {0};
  check_ok(rp_queue_reserve(b->q, rp_op_scratch(b->d, RP_OP_gate, &a), &err), err);
  rp_op_gate(b->q, &a);
  const rp_tensor from[] = {a.q, a.k, a.v, cells};
  const int64_t sizes[] = {n * q, n * kv, n * kv, c->rows * cell_of(c)};
  for (int i = 0; i < 4; i++) {
    o->n[i] = sizes[i];
    o->x[i] = malloc((size_t)sizes[i] * sizeof(float) + 1);
    rp_download_as(b->q, o->x[i], RP_F32, from[i], sizes[i]);
  }
  check_ok(rp_wait(b->q, &err), err);
  box_empty(b);
}

static void backward(box *b, const call *c, rp_dtype compute, outcome *o) {
  const int64_t kv = (int64_t)c->Hk * c->h, q = (int64_t)c->H * c->h, n = c->tokens;
  rp_row row[ROWS];
  memcpy(row, c->row, sizeof row);
  for (int i = 0; i < ROWS; i++) row[i].pos = row[i].top = 0;
  rp_gate_bwd_args a = {.rows = {.count = c->rows, .tokens = c->tokens, .longest = c->longest},
                        .H = c->H,
                        .Hk = c->Hk,
                        .h = c->h,
                        .re = c->re,
                        .ldp = ldp_of(c)};
  a.p = put(b, compute, c->p, n * a.ldp);
  a.dp = put(b, compute, c->p, n * a.ldp);
  a.dq = put(b, RP_F32, c->up[0], n * q);
  a.dk = put(b, RP_F32, c->up[1], n * kv);
  a.dv = put(b, RP_F32, c->up[2], n * kv);
  if (c->turns) a.rope = put(b, RP_F32, c->rope, (int64_t)c->longest * c->h).p;
  a.rows.row = put(b, RP_I32, NULL, (int64_t)sizeof row / 4).p;
  rp_upload(b->q, a.rows.row, row, sizeof row);
  rp_error err = {0};
  check_ok(rp_queue_reserve(b->q, rp_op_scratch(b->d, RP_OP_gate_bwd, &a), &err), err);
  rp_op_gate_bwd(b->q, &a);
  o->n[4] = n * a.ldp;
  o->x[4] = malloc((size_t)o->n[4] * sizeof(float) + 1);
  rp_download_as(b->q, o->x[4], RP_F32, a.dp, o->n[4]);
  check_ok(rp_wait(b->q, &err), err);
  box_empty(b);
}

static void outcome_free(outcome *o) {
  for (int i = 0; i < OUTS; i++) free(o->x[i]);
}

static void run(box *b, const call *c, outcome *o) {
  const rp_dtype compute = c->bf16 ? RP_BF16 : RP_F32;
  *o = (outcome){0};
  forward(b, c, compute, o);
  backward(b, c, compute, o);
}

static void describe(char text[256], const call *c) {
  snprintf(text, 256,
           "%s H %d Hk %d h %d re %d states %d by token %d pad %d turns %d rows %d %d %d %d",
           c->bf16 ? "bfloat16" : "float32", c->H, c->Hk, c->h, c->re, c->states, c->by_token,
           c->pad, c->turns, c->row[0].n, c->row[1].n, c->row[2].n, c->row[3].n);
}

/* Each output within some units of the largest it has, and a rounding to bfloat16. */
static void compare(const call *c, const outcome *got, const outcome *want) {
  char text[256];
  describe(text, c);
  for (int i = 0; i < OUTS; i++) {
    double most = 1;
    for (int64_t at = 0; at < want->n[i]; at++) most = fmax(most, fabs(want->x[i][at]));
    const double half = c->bf16 && i != 3 ? 1.0 / 128 : 0;
    for (int64_t at = 0; at < want->n[i]; at++) {
      const double x = got->x[i][at], y = want->x[i][at];
      if (!(fabs(x - y) <= 40 * 1.2e-7 * most + half * fabs(y)))
        fail_msg("%s: output %d element %lld: %.9g, wanted %.9g", text, i, (long long)at, x, y);
    }
  }
}
static void same(const call *c, const outcome *a, const outcome *b) {
  char text[256];
  describe(text, c);
  for (int i = 0; i < OUTS; i++)
    if (memcmp(a->x[i], b->x[i], (size_t)a->n[i] * sizeof(float)) != 0)
      fail_msg("%s: output %d differs the second time", text, i);
}

static call draw(rp_rng *r, int longest) {
  static const int widths[] = {128, 64, 8, 24, 6, 16};
  call c = {.rows = check_pick(r, 1, ROWS),
            .Hk = check_pick(r, 1, 3),
            .h = widths[check_pick(r, 0, 5)],
            .re = check_pick(r, 0, 7) > 0,
            .bf16 = check_pick(r, 0, 1),
            .by_token = check_pick(r, 0, 1),
            .turns = check_pick(r, 0, 5) > 0,
            .pad = check_pick(r, 0, 3) ? 8 * check_pick(r, 0, 2) : check_pick(r, 1, 7)};
  c.H = c.Hk * check_pick(r, 1, 3);
  if (c.by_token && c.re) c.states = check_pick(r, 0, 4);
  for (int i = 0; i < c.rows; i++) {
    c.row[i].n = check_pick(r, 0, 3) ? check_pick(r, 1, longest) : check_pick(r, 1, 9);
    if (c.states) c.row[i].pos = c.row[i].top = check_pick(r, 0, 2) * check_pick(r, 1, 50);
  }
  return c;
}

static void rows_of_many_chunks(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  box gpu, ref;
  box_open(&gpu, RP_DEVICE_CUDA);
  box_open(&ref, RP_DEVICE_REF64);
  for (int round = 0; round < 24; round++) {
    call c = draw(&r, round % 6 ? 300 : 1700);
    outcome got, again, want;
    fill(&c, &r, round % 3 * 2.0);
    run(&gpu, &c, &got);
    run(&gpu, &c, &again);
    run(&ref, &c, &want);
    compare(&c, &got, &want);
    same(&c, &got, &again);
    outcome_free(&got), outcome_free(&again), outcome_free(&want);
    call_free(&c);
  }
  box_close(&gpu);
  box_close(&ref);
}

/* A short row alone goes another way than beside a long one. */
static void a_row_does_not_see_the_others(void **state) {
  (void)state;
  rp_rng r = check_rng(2);
  box gpu;
  box_open(&gpu, RP_DEVICE_CUDA);
  for (int round = 0; round < 12; round++) {
    call two = {.rows = 2,
                .H = 2,
                .Hk = 2,
                .h = round % 4 ? 64 : 6,
                .re = 1,
                .states = 2,
                .by_token = 1,
                .turns = 1,
                .bf16 = round % 2};
    two.row[0].n = round % 3 ? check_pick(&r, 1, 4) : check_pick(&r, 5, 400);
    two.row[1].n = check_pick(&r, 100, 300);
    two.row[0].pos = two.row[0].top = 17;
    fill(&two, &r, 1);
    call one = two;
    one.rows = 1;
    one.tokens = one.longest = two.row[0].n;
    outcome x = {0}, y = {0};
    const rp_dtype compute = two.bf16 ? RP_BF16 : RP_F32;
    forward(&gpu, &two, compute, &x);
    forward(&gpu, &one, compute, &y);
    for (int i = 0; i < 4; i++) assert_memory_equal(x.x[i], y.x[i], (size_t)y.n[i] * sizeof(float));
    outcome_free(&x), outcome_free(&y);
    call_free(&two);
  }
  box_close(&gpu);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(rows_of_many_chunks),
    cmocka_unit_test(a_row_does_not_see_the_others),
};
CHECK_MAIN(tests)

#else

static void there_is_no_device_cuda(void **state) {
  (void)state;
  skip();
}
static const struct CMUnitTest tests[] = {cmocka_unit_test(there_is_no_device_cuda)};
CHECK_MAIN(tests)

#endif
