/* The device cuda on the stand-in of tests/fake: order of streams, staging, the pool, every call that can
 * fail, a lost device, graphs beside the guard, products with their epilogues. */
#include "check.h"

#if RATPLUS_WITH_CUDA

#include <math.h>

#include "fake_cuda.h"
#include "ops/backend.h"
#include "ops/cuda/cuda_device.h"
#include "ops/cuda/gpus.h"

typedef struct {
  rp_device *d;
  rp_queue *q;
  rp_ptr p;
} box;

static box box_open(rp_device_kind kind, size_t bytes) {
  box b;
  rp_error err = {0};
  if (kind == RP_DEVICE_CUDA) fake_cuda_reset();
  check_ok(rp_device_open(&b.d, kind, &err), err);
  check_ok(rp_queue_open(&b.q, b.d, &err), err);
  check_ok(rp_device_alloc(b.d, bytes, "a test", &b.p, &err), err);
  return b;
}

/* Nothing is left behind, and nothing was done that CUDA forbids. */
static void check_gone(void) {
  assert_int_equal(fake.misuse, 0);
  assert_int_equal(fake.streams, 0);
  assert_int_equal(fake.events, 0);
  assert_int_equal(fake.pools, 0);
  assert_int_equal(fake.modules, 0);
  assert_int_equal(fake.graphs, 0);
  assert_int_equal(fake.descriptors, 0);
  assert_int_equal(fake.contexts, 0);
  assert_int_equal(fake.live, 0);
  assert_int_equal(fake.cached, 0);
  assert_int_equal(fake.pinned, 0);
}

static void box_close(box *b) {
  rp_queue_close(b->q);
  rp_device_free(b->d, b->p);
  rp_device_close(b->d);
}

static void wait_ok(rp_queue *q) {
  rp_error err = {0};
  check_ok(rp_wait(q, &err), err);
}

/* ---- copies ---- */

static void work_runs_when_it_is_waited_for(void **state) {
  (void)state;
  box b = box_open(RP_DEVICE_CUDA, 64);
  int32_t x = 5, got = 1;
  rp_upload(b.q, b.p, &x, sizeof x);
  x = 6;
  rp_download(b.q, &got, b.p, sizeof got);
  assert_int_equal(got, 1);
  wait_ok(b.q);
  assert_int_equal(got, 5);
  assert_int_equal(fake.copies, 2);
  box_close(&b);
  check_gone();
}

/* More bytes, and more pieces, than the ring has. */
static void long_copies_go_through_the_ring(void **state) {
  (void)state;
  enum { N = 21 << 20, SMALL = 300 };
  box b = box_open(RP_DEVICE_CUDA, N);
  rp_rng r = check_rng(1);
  uint8_t *from = malloc(N), *to = calloc(1, N);
  for (int i = 0; i < N; i++) from[i] = (uint8_t)(i * 7 + i / 1000);
  for (int round = 0; round < 2; round++) {
    size_t at = 0;
    rp_upload(b.q, b.p, from, N);
    rp_download(b.q, to, b.p, N);
    wait_ok(b.q);
    assert_memory_equal(from, to, N);
    for (int i = 0; i < SMALL; i++) { /* up and down, of sizes that meet the ring's end anywhere */
      const size_t n = (size_t)check_pick(&r, 1, i % 10 ? 9000 : 1 << 21);
      if (at + n > N) break;
      from[at] ^= 0xff;
      rp_upload(b.q, rp_ptr_add(b.p, at), from + at, n);
      rp_download(b.q, to + at, rp_ptr_add(b.p, at), n);
      at += n;
    }
    wait_ok(b.q);
    assert_memory_equal(from, to, at);
  }
  free(from);
  free(to);
  box_close(&b);
  check_gone();
}

static void conversions_go_piece_by_piece(void **state) {
  (void)state;
  enum { N = 3 << 20 };
  box b = box_open(RP_DEVICE_CUDA, (size_t)N * 2);
  float *from = malloc(N * sizeof *from), *to = calloc(N, sizeof *to);
  for (int i = 0; i < N; i++) from[i] = (float)i * 0.37f - 1000;
  rp_upload_as(b.q, (rp_tensor){b.p, RP_BF16}, from, RP_F32, N);
  rp_download_as(b.q, to, RP_F32, (rp_tensor){b.p, RP_BF16}, N);
  wait_ok(b.q);
  for (int i = 0; i < N; i++)
    if (to[i] != rp_bf16_to_f32(rp_f32_to_bf16(from[i]))) fail_msg("element %d", i);
  free(from);
  free(to);
  box_close(&b);
  check_gone();
}

static void queues_order_each_other_by_events(void **state) {
  (void)state;
  for (int ordered = 0; ordered < 2; ordered++) {
    box b = box_open(RP_DEVICE_CUDA, 256);
    rp_error err = {0};
    rp_queue *other;
    const int32_t x = 9;
    int32_t got = -1;
    check_ok(rp_queue_open(&other, b.d, &err), err);
    rp_upload(b.q, b.p, &x, sizeof x);
    if (ordered) rp_queue_after(other, b.q);
    rp_op_copy(other, &(rp_copy_args){rp_ptr_add(b.p, 128), b.p, 4});
    rp_download(other, &got, rp_ptr_add(b.p, 128), 4);
    wait_ok(other);
    assert_int_equal(got, ordered ? 9 : 0); /* the stand-in runs nothing that nobody waits for */
    rp_queue_close(other);
    box_close(&b);
    check_gone();
  }
}

/* ---- calls of the host ---- */

typedef struct {
  int *list, *n, value;
} note;

static void write_note(const void *args, rp_error *err) {
  const note *x = args;
  x->list[(*x->n)++] = x->value;
  if (x->value == 150) rp_fail(err, RP_BAD_DATA, "note 150");
}

static void calls_run_in_order_up_to_an_error(void **state) {
  (void)state;
  box b = box_open(RP_DEVICE_CUDA, 64);
  int list[200], n = 0;
  rp_error err = {0};
  for (int i = 0; i < 200; i++) rp_call(b.q, write_note, &(note){list, &n, i}, sizeof(note));
  check_fails(rp_wait(b.q, &err), RP_BAD_DATA, err, "note 150");
  assert_int_equal(n, 151);
  for (int i = 0; i < n; i++) assert_int_equal(list[i], i);
  rp_call(b.q, write_note, &(note){list, &n, 0}, sizeof(note));
  check_fails(rp_wait(b.q, &err), RP_BAD_DATA, err, "note 150");
  assert_int_equal(n, 151);
  box_close(&b);
  check_gone();
}

/* ---- memory ---- */

static void memory_that_was_freed_is_had_again(void **state) {
  (void)state;
  box b = box_open(RP_DEVICE_CUDA, 5000);
  rp_error err = {0};
  rp_ptr p;
  uint8_t x[5000], got[5000];
  memset(x, 7, sizeof x);
  rp_upload(b.q, b.p, x, sizeof x);
  wait_ok(b.q);
  const unsigned mapped = fake.mapped;
  for (int i = 0; i < 10; i++) {
    rp_device_free(b.d, b.p);
    check_ok(rp_device_alloc(b.d, 5000, "a test", &b.p, &err), err);
    rp_download(b.q, got, b.p, sizeof got);
    wait_ok(b.q);
    for (int j = 0; j < 5000; j++) assert_int_equal(got[j], 0);
  }
  assert_int_equal(fake.mapped, mapped);
  check_fails(rp_device_alloc(b.d, fake.capacity, "the weights", &p, &err), RP_NO_MEMORY, err,
              "the weights: no memory for 1.00 GiB on GPU 0 (stand-in), where");
  assert_true(rp_device_available(b.d) < fake.capacity);
  check_ok(rp_device_alloc(b.d, fake.capacity / 2, "half", &p, &err), err);
  assert_true(rp_device_available(b.d) < fake.capacity / 2);
  rp_device_free(b.d, p); /* the pool keeps it, and gives it again */
  assert_true(rp_device_available(b.d) > fake.capacity / 2);
  check_ok(rp_device_alloc(b.d, fake.capacity / 2, "half", &p, &err), err);
  box_close(&b); /* closes what is still there */
  check_gone();
}

/* ---- what every device does, beside the guard ---- */

enum { SIDE = 24, MATRICES = 6, FLOATS = SIDE * SIDE };

static rp_tensor matrix(const box *b, int i) {
  return (rp_tensor){rp_ptr_add(b->p, (size_t)i * FLOATS * 4), RP_F32};
}

static void reserve_gemm(const box *b) {
  rp_error err = {0};
  const rp_gemm_args a = {.M = SIDE,
                          .N = SIDE,
                          .K = SIDE,
                          .lda = SIDE,
                          .ldb = SIDE,
                          .ldc = SIDE,
                          .a = matrix(b, 0),
                          .b = matrix(b, 1),
                          .c = matrix(b, 2)};
  check_ok(rp_queue_reserve(b->q, rp_op_scratch(b->d, RP_OP_gemm, &a), &err), err);
}

/* Small whole numbers, so that every sum is exact. */
static void upload_numbers(const box *b, uint64_t seed) {
  float x[MATRICES * FLOATS];
  rp_rng r = check_rng(seed);
  for (int i = 0; i < MATRICES * FLOATS; i++) x[i] = (float)check_pick(&r, -3, 3);
  rp_upload(b->q, b->p, x, sizeof x);
}

/* c = a b^T, d = c, e += a d, part of f = 0. */
static void put_step(const box *b) {
  rp_gemm_args a = {.M = SIDE,
                    .N = SIDE - 1,
                    .K = 5,
                    .tb = 1,
                    .lda = SIDE,
                    .ldb = SIDE,
                    .ldc = SIDE,
                    .a = matrix(b, 0),
                    .b = matrix(b, 1),
                    .c = matrix(b, 2)};
  rp_op_gemm(b->q, &a);
  rp_op_copy(b->q, &(rp_copy_args){matrix(b, 3).p, matrix(b, 2).p, FLOATS * 4});
  a.tb = 0, a.accumulate = 1, a.b = matrix(b, 3), a.c = matrix(b, 4);
  rp_op_gemm(b->q, &a);
  rp_op_zero(b->q, &(rp_zero_args){matrix(b, 5).p, 100});
}

static void same_memory(const box *a, const box *b) {
  float x[MATRICES * FLOATS], y[MATRICES * FLOATS];
  rp_download(a->q, x, a->p, sizeof x);
  rp_download(b->q, y, b->p, sizeof y);
  wait_ok(a->q);
  wait_ok(b->q);
  assert_memory_equal(x, y, sizeof x);
}

static void recorded_steps_are_graphs(void **state) {
  (void)state;
  box b[2] = {box_open(RP_DEVICE_CUDA, MATRICES * FLOATS * 4),
              box_open(RP_DEVICE_GUARD, MATRICES * FLOATS * 4)};
  rp_tape *tape[2];
  rp_queue *other;
  rp_error err = {0};
  for (int i = 0; i < 2; i++) {
    reserve_gemm(&b[i]);
    upload_numbers(&b[i], 1);
    check_ok(rp_record_begin(b[i].q, &err), err);
    put_step(&b[i]);
    check_ok(rp_record_end(b[i].q, &tape[i], &err), err);
  }
  same_memory(&b[0], &b[1]); /* they ran once, and not twice */
  for (int round = 0; round < 4; round++) {
    for (int i = 0; i < 2; i++) {
      upload_numbers(&b[i], (uint64_t)round + 2);
      if (round == 2) /* the scratch moves, whose address the graph had */
        check_ok(rp_queue_reserve(b[i].q, 2 * RP_CUDA_WORKSPACE, &err), err);
      rp_replay(b[i].q, tape[i]);
      rp_replay(b[i].q, tape[i]);
    }
    same_memory(&b[0], &b[1]);
  }
  assert_int_equal(fake.launches, 8);
  check_ok(rp_queue_open(&other, b[0].d, &err), err);
  check_ok(rp_queue_reserve(other, RP_CUDA_WORKSPACE, &err), err);
  rp_replay(other, tape[0]); /* on another queue, op by op */
  rp_replay(b[1].q, tape[1]);
  wait_ok(other);
  same_memory(&b[0], &b[1]);
  assert_int_equal(fake.launches, 8);
  rp_queue_close(other);
  for (int i = 0; i < 2; i++) {
    rp_tape_free(tape[i]);
    box_close(&b[i]);
  }
  check_gone();
}

/* ---- what fails ---- */

/* Everything a run does, up to the first error. */
static rp_status whole_life(rp_error *err) {
  rp_status st = RP_OK;
  box b = {0};
  rp_tape *tape = NULL;
  float got[4];
  RP_GO(rp_device_open(&b.d, RP_DEVICE_CUDA, err));
  RP_GO(rp_queue_open(&b.q, b.d, err));
  RP_GO(rp_device_alloc(b.d, MATRICES * FLOATS * 4, "a test", &b.p, err));
  RP_GO(rp_queue_reserve(b.q, RP_CUDA_WORKSPACE, err));
  upload_numbers(&b, 1);
  RP_GO(rp_record_begin(b.q, err));
  put_step(&b);
  RP_GO(rp_record_end(b.q, &tape, err));
  rp_queue_after(b.q, b.q);
  rp_replay(b.q, tape);
  rp_download(b.q, got, b.p, sizeof got);
  RP_GO(rp_wait(b.q, err));
  RP_GO(rp_device_alloc(b.d, 100, "a test", &(rp_ptr){0}, err));
fail:
  rp_tape_free(tape);
  rp_queue_close(b.q);
  rp_device_close(b.d);
  return st;
}

static void any_call_may_find_no_memory(void **state) {
  (void)state;
  unsigned failed = 0;
  rp_error err = {0};
  fake_cuda_reset();
  check_ok(whole_life(&err), err);
  const unsigned calls = fake.calls;
  check_gone();
  for (unsigned n = 1; n <= calls; n++) {
    err = (rp_error){0};
    fake_cuda_reset();
    fake.fail_call = n;
    fake.fail_with = CUDA_ERROR_OUT_OF_MEMORY;
    const rp_status st = whole_life(&err);
    failed += st != RP_OK;
    /* The library of products has errors of its own. */
    if (st && st != RP_NO_MEMORY && !strstr(err.text, "op gemm"))
      fail_msg("call %u: status %d: %s", n, (int)st, err.text);
    if (st) assert_true(err.text[0]);
    assert_int_equal(fake.misuse, 0);
    assert_int_equal(fake.pinned, 0);
    assert_int_equal(fake.streams + fake.events + fake.graphs + fake.contexts, 0);
  }
  assert_true(failed > 60); /* the rest is of closing, where nobody can be told */
}

static void a_lost_device_ends_the_run_with_a_sentence(void **state) {
  (void)state;
  rp_error err = {0};
  fake_cuda_reset();
  check_ok(whole_life(&err), err);
  const unsigned work = fake.work;
  assert_true(work > 10);
  for (unsigned n = 1; n < work; n++) {
    fake_cuda_reset();
    fake.fault_op = n;
    fake.fault_with = CUDA_ERROR_LAUNCH_FAILED;
    check_fails(whole_life(&err), RP_FAIL, err, "GPU 0 (stand-in): unspecified launch failure");
    assert_non_null(strstr(err.text, "what was saved is whole"));
    assert_int_equal(fake.misuse, 0);
  }
  fake_cuda_reset();
  check_ok(whole_life(&err), err); /* the next run has a device again */
}

/* The error is the device's: another queue meets it as well, and the first sentence stays. */
static void a_lost_device_is_lost_for_every_queue(void **state) {
  (void)state;
  box b = box_open(RP_DEVICE_CUDA, 64);
  rp_queue *other;
  rp_error err = {0};
  rp_ptr p;
  int32_t got = 3;
  check_ok(rp_queue_open(&other, b.d, &err), err);
  fake.fault_op = 1;
  fake.fault_with = CUDA_ERROR_ILLEGAL_ADDRESS;
  rp_op_zero(b.q, &(rp_zero_args){b.p, 64});
  rp_download(b.q, &got, b.p, 4);
  check_fails(rp_wait(b.q, &err), RP_FAIL, err, "an illegal memory access");
  assert_int_equal(got, 3);
  rp_download(other, &got, b.p, 4);
  check_fails(rp_wait(other, &err), RP_FAIL, err, "a download on GPU 0");
  check_fails(rp_device_alloc(b.d, 64, "more", &p, &err), RP_FAIL, err, "more on GPU 0");
  assert_int_equal(got, 3);
  rp_queue_close(other);
  box_close(&b);
}

/* ---- products ---- */

static double tanh_gelu(double x) {
  return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

static void epilogues_are_their_formulas(void **state) {
  (void)state;
  enum { M = 7, N = 11, K = 13, LD = 16 };
  for (int round = 0; round < 6; round++) {
    const rp_dtype t = round % 2 ? RP_BF16 : RP_F32;
    const rp_cuda_epilogue epilogue = (rp_cuda_epilogue)(round / 2);
    box b = box_open(RP_DEVICE_CUDA, 1 << 14);
    rp_rng r = check_rng((uint64_t)round);
    rp_error err = {0};
    float x[4][M * LD], got[2][M * LD]; /* a [M,K], b [N,K], c and aux [M,LD] */
    for (int i = 0; i < 4; i++) {
      for (int j = 0; j < M * LD; j++)
        x[i][j] = rp_bf16_to_f32(rp_f32_to_bf16((float)rp_rng_normal(&r)));
    }
    float weight[N * K];
    for (int j = 0; j < N * K; j++)
      weight[j] = rp_bf16_to_f32(rp_f32_to_bf16((float)rp_rng_normal(&r)));
    rp_tensor at[4];
    for (int i = 0; i < 4; i++) at[i] = (rp_tensor){rp_ptr_add(b.p, (size_t)i << 12), t};
    rp_upload_as(b.q, at[0], x[0], RP_F32, M * K);
    rp_upload_as(b.q, at[1], weight, RP_F32, N * K);
    rp_upload_as(b.q, at[2], x[2], RP_F32, M * LD);
    rp_upload_as(b.q, at[3], x[3], RP_F32, M * LD);
    const rp_cuda_product p = {.gemm = {.M = M,
                                        .N = N,
                                        .K = K,
                                        .tb = 1,
                                        .lda = K,
                                        .ldb = K,
                                        .ldc = LD,
                                        .a = at[0],
                                        .b = at[1],
                                        .c = at[2]},
                               .scale = 0.25,
                               .epilogue = epilogue,
                               .aux = at[3].p,
                               .ldaux = LD};
    rp_ptr workspace;
    CUstream stream = NULL;
    rp_cuda *g = b.d->own;
    wait_ok(b.q);
    check_ok(rp_device_alloc(b.d, RP_CUDA_WORKSPACE, "workspace", &workspace, &err), err);
    assert_int_equal(g->api->cuStreamCreate(&stream, 0), 0);
    check_ok(rp_cuda_products_put(g->products, stream, workspace.at, &p, &err), err);
    assert_int_equal(g->api->cuStreamSynchronize(stream), 0);
    assert_int_equal(g->api->cuStreamDestroy(stream), 0);
    rp_download_as(b.q, got[0], RP_F32, at[2], M * LD);
    rp_download_as(b.q, got[1], RP_F32, at[3], M * LD);
    wait_ok(b.q);
    for (int m = 0; m < M; m++)
      for (int n = 0; n < LD; n++) {
        double sum = 0, terms = 0;
        const double aux = (double)x[3][m * LD + n];
        for (int k = 0; k < K && n < N; k++) {
          sum += 0.25 * (double)x[0][m * K + k] * (double)weight[n * K + k];
          terms += fabs((double)x[0][m * K + k] * (double)weight[n * K + k]);
        }
        const double slope = (tanh_gelu(aux + 1e-5) - tanh_gelu(aux - 1e-5)) / 2e-5;
        const double want = n >= N                         ? (double)x[2][m * LD + n]
                            : epilogue == RP_CUDA_GELU     ? tanh_gelu(sum)
                            : epilogue == RP_CUDA_GELU_BWD ? sum * slope
                                                           : sum;
        const double kept = epilogue == RP_CUDA_GELU && n < N ? sum : aux;
        const double round_off = t == RP_BF16 ? 1.0 / 256 : 0;
        check_close(got[0][m * LD + n], want, 1e-6 * terms + 1e-7 + round_off * fabs(want));
        check_close(got[1][m * LD + n], kept, 1e-6 * terms + round_off * fabs(kept));
      }
    rp_device_free(b.d, workspace);
    box_close(&b);
    check_gone();
  }
}

static void a_way_to_multiply_is_chosen_once(void **state) {
  (void)state;
  box b = box_open(RP_DEVICE_CUDA, MATRICES * FLOATS * 4);
  reserve_gemm(&b);
  put_step(&b);
  assert_int_equal(fake.choices, 2);
  for (int i = 0; i < 5; i++) put_step(&b);
  assert_int_equal(fake.choices, 2);
  for (int M = 1; M <= SIDE; M++) /* more shapes than the table keeps */
    for (int N = 1; N <= SIDE; N++)
      for (int K = 1; K <= 2; K++)
        rp_op_gemm(b.q, &(rp_gemm_args){.M = M,
                                        .N = N,
                                        .K = K,
                                        .lda = K,
                                        .ldb = N,
                                        .ldc = N,
                                        .a = matrix(&b, 0),
                                        .b = matrix(&b, 1),
                                        .c = matrix(&b, 2)});
  wait_ok(b.q);
  assert_int_equal(fake.choices, 2 + 2 * SIDE * SIDE);
  put_step(&b);
  wait_ok(b.q);
  box_close(&b);
  check_gone();
}

/* At any element: what is chosen for whole lines does not serve there. */
static void products_of_odd_addresses(void **state) {
  (void)state;
  box b = box_open(RP_DEVICE_CUDA, MATRICES * FLOATS * 4);
  reserve_gemm(&b);
  for (int i = 0; i < 8; i++)
    rp_op_gemm(b.q, &(rp_gemm_args){.M = 3,
                                    .N = 3,
                                    .K = 3,
                                    .lda = 3,
                                    .ldb = 3,
                                    .ldc = 3,
                                    .a = rp_tensor_at(matrix(&b, 0), i & 1),
                                    .b = rp_tensor_at(matrix(&b, 1), i >> 1 & 1),
                                    .c = rp_tensor_at(matrix(&b, 2), i >> 2)});
  wait_ok(b.q);
  assert_int_equal(fake.choices, 8);
  box_close(&b);
  check_gone();
}

static void scratch_must_be_reserved(void **state) {
  (void)state;
  box b = box_open(RP_DEVICE_CUDA, MATRICES * FLOATS * 4);
  rp_error err = {0};
  put_step(&b);
  check_fails(rp_wait(b.q, &err), RP_FAIL, err, "bytes of scratch");
  box_close(&b);
  check_gone();
}

/* ---- attention on GPUs of compute capability 9.0 ---- */

enum { WIDE = 128, HEADS = 4, GROUPS = 2, ROWS = 4, LIST = 64, BLOCKS = 30, PIECES = 12 };
typedef struct {
  rp_row row[ROWS];
  int rows, tokens, longest, all; /* all: positions */
  rp_pat pat[2 * GROUPS];         /* of two plans */
  int margin;
  float *q, *k, *v, *pool;
  int32_t cell[ROWS]
              [2 * GROUPS * (1 + LIST)]; /* lists of blocks, any: what lies there is the same */
  double *out, *lse;
} attention;

static float *some_values(rp_rng *r, int64_t n, double spread) {
  float *x = malloc((size_t)n * sizeof *x);
  for (int64_t i = 0; i < n; i++)
    x[i] = rp_bf16_to_f32(rp_f32_to_bf16((float)(rp_rng_normal(r) * spread)));
  return x;
}

static attention some_attention(rp_rng *r, int rows, const int *n, bool cached) {
  static const rp_pat pats[] = {{1, 0, 0},   {16, 0, 0}, {16, 70, 0},   {-1, 0, 4},     {16, 40, 4},
                                {-1, 90, 0}, {3, 7, 1},  {64, 200, 30}, {-1, 130, 200}, {-1, 0, 0}};
  attention x = {.rows = rows, .margin = check_pick(r, 0, 5)};
  for (int i = 0; i < rows; i++) {
    const int pos = cached ? check_pick(r, 0, 400) : 0;
    x.row[i] = (rp_row){.tok = x.tokens, .n = n[i], .pos = pos, .plan = check_pick(r, 0, 1)};
    x.row[i].top = pos ? pos + check_pick(r, 0, x.margin) : 0;
    x.tokens += n[i];
    if (n[i] > x.longest) x.longest = n[i];
    for (int j = 0; j < 2 * GROUPS * (1 + LIST); j++)
      x.cell[i][j] = j < 2 * GROUPS ? 2 * GROUPS + j * LIST : check_pick(r, 0, BLOCKS - 1);
  }
  for (int i = 0; i < 2 * GROUPS; i++) x.pat[i] = pats[check_pick(r, 0, 9)];
  x.q = some_values(r, (int64_t)x.tokens * HEADS * WIDE, 1.5);
  x.k = some_values(r, (int64_t)x.tokens * GROUPS * WIDE, 1);
  x.v = some_values(r, (int64_t)x.tokens * GROUPS * WIDE, 1);
  x.pool = some_values(r, BLOCKS * rp_kv_block_elements(WIDE), 1);
  x.out = malloc((size_t)x.tokens * HEADS * WIDE * sizeof *x.out);
  x.lse = malloc((size_t)x.tokens * HEADS * sizeof *x.lse);
  return x;
}

static rp_ptr piece(box *b, rp_ptr *all, int *n, size_t bytes, const void *from) {
  rp_error err = {0};
  assert_true(*n < PIECES);
  check_ok(rp_device_alloc(b->d, bytes, "a test", &all[*n], &err), err);
  if (from) rp_upload(b->q, all[*n], from, bytes);
  return all[(*n)++];
}
static rp_tensor numbers(box *b, rp_ptr *all, int *n, int64_t count, rp_dtype type,
                         const float *from) {
  const rp_tensor t = {piece(b, all, n, (size_t)(count * rp_dtype_bytes(type)), NULL), type};
  if (from) rp_upload_as(b->q, t, from, RP_F32, count);
  return t;
}

/* Fills x->out and x->lse. */
static void attend_on(box *b, attention *x, rp_dtype compute, rp_dtype real) {
  const int64_t queries = (int64_t)x->tokens * HEADS, keys = (int64_t)x->tokens * GROUPS;
  rp_ptr all[PIECES];
  rp_row row[ROWS];
  int n = 0;
  for (int i = 0; i < x->rows; i++) {
    row[i] = x->row[i];
    row[i].cell = piece(b, all, &n, sizeof x->cell[i], x->cell[i]);
  }
  rp_attend_args a = {.H = HEADS, .Hk = GROUPS, .h = WIDE, .pats_stride = GROUPS, .scale = 0.09};
  a.rows = (rp_rows){piece(b, all, &n, sizeof row, row), x->rows, x->tokens, x->longest};
  a.pats = piece(b, all, &n, sizeof x->pat, x->pat);
  a.kv = (rp_kv){.blocks = BLOCKS, .layers = 1, .margin = x->margin};
  a.kv.pool = numbers(b, all, &n, BLOCKS * rp_kv_block_elements(WIDE), compute, x->pool);
  a.q = numbers(b, all, &n, queries * WIDE, compute, x->q);
  a.k = numbers(b, all, &n, keys * WIDE, compute, x->k);
  a.v = numbers(b, all, &n, keys * WIDE, compute, x->v);
  a.out = numbers(b, all, &n, queries * WIDE, compute, NULL);
  a.lse = numbers(b, all, &n, queries, real, NULL).p;
  rp_error err = {0};
  check_ok(rp_queue_reserve(b->q, rp_op_scratch(b->d, RP_OP_attend, &a), &err), err);
  rp_op_attend(b->q, &a);
  rp_download_as(b->q, x->out, RP_F64, a.out, queries * WIDE);
  rp_download_as(b->q, x->lse, RP_F64, (rp_tensor){a.lse, real}, queries);
  wait_ok(b->q);
  while (n) rp_device_free(b->d, all[--n]);
}

static void long_rows_on_hopper(void **state) {
  (void)state;
  static const struct {
    int rows, n[ROWS];
    bool cached;
  } calls[] = {{1, {64}, 0}, {1, {200}, 0}, {2, {260, 1}, 1}, {3, {1, 129, 40}, 1}};
  rp_rng r = check_rng(11);
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    attention x = some_attention(&r, calls[i].rows, calls[i].n, calls[i].cached);
    attention y = x;
    const int64_t queries = (int64_t)x.tokens * HEADS;
    box b, ref = box_open(RP_DEVICE_REF64, 1);
    rp_error err = {0};
    fake_cuda_reset();
    fake.capability = 90;
    check_ok(rp_device_open(&b.d, RP_DEVICE_CUDA, &err), err);
    check_ok(rp_queue_open(&b.q, b.d, &err), err);
    b.p.at = 0;
    attend_on(&ref, &x, RP_F64, RP_F64);
    y.out = malloc((size_t)queries * WIDE * sizeof *y.out);
    y.lse = malloc((size_t)queries * sizeof *y.lse);
    attend_on(&b, &y, RP_BF16, RP_F32);
    if (RATPLUS_CUDA_HOPPER) assert_string_equal(fake.kernel, "emulated_hopper_attend");
    for (int64_t j = 0; j < queries; j++) {
      check_close(y.lse[j], x.lse[j], 2e-5 * (1 + fabs(x.lse[j])));
      for (int64_t c = j * WIDE; c < (j + 1) * WIDE; c++) check_close(y.out[c], x.out[c], 0.02);
    }
    free(x.out);
    free(x.lse);
    free(y.out);
    free(y.lse);
    free(x.q);
    free(x.k);
    free(x.v);
    free(x.pool);
    box_close(&ref);
    box_close(&b);
    check_gone();
  }
}

/* ---- who may use it ---- */

static void the_device_is_asked_for_by_name(void **state) {
  (void)state;
  rp_device_kind kind;
  rp_error err = {0};
  fake_cuda_reset();
  check_ok(rp_device_choose("auto", &kind, &err), err);
  assert_int_equal(kind, RP_DEVICE_CUDA);
  check_ok(rp_device_choose("cpu", &kind, &err), err);
  assert_int_equal(kind, RP_DEVICE_CPU);
  check_ok(rp_device_choose("cuda", &kind, &err), err);
  assert_int_equal(kind, RP_DEVICE_CUDA);
  check_fails(rp_device_choose("gpu", &kind, &err), RP_USAGE, err, "auto, cpu and cuda");
  check_gone();
}

static void a_rank_has_its_own_gpu(void **state) {
  (void)state;
  rp_device *d;
  rp_ptr p;
  rp_error err = {0};
  fake_cuda_reset();
  rp_gpus_choose(2);
  check_ok(rp_device_open(&d, RP_DEVICE_CUDA, &err), err); /* the only one is everyone's */
  rp_device_close(d);
  fake.gpus = 3;
  check_ok(rp_device_open(&d, RP_DEVICE_CUDA, &err), err);
  check_fails(rp_device_alloc(d, 2 * fake.capacity, "x", &p, &err), RP_NO_MEMORY, err,
              "GPU 2 (stand-in)");
  rp_device_close(d);
  fake.gpus = 2;
  check_fails(rp_device_open(&d, RP_DEVICE_CUDA, &err), RP_USAGE, err,
              "rank 2 of this machine has no GPU of its own: the CUDA driver shows 2");
  rp_gpus_choose(0);
  check_gone();
}

static void the_machine_shows_its_gpus(void **state) {
  (void)state;
  rp_gpu g;
  rp_error err = {0};
  int n, version;
  fake_cuda_reset();
  check_ok(rp_gpus(&g, 1, &n, &version, &err), err);
  assert_int_equal(n, 1);
  assert_string_equal(g.name, "stand-in");
  assert_int_equal(g.major, 8);
  assert_int_equal(g.bytes, fake.capacity);
  assert_int_equal(version, CUDA_VERSION);
}

static void a_collective_cannot_read_its_memory(void **state) {
  (void)state;
  box b = box_open(RP_DEVICE_CUDA, 64);
  rp_error err = {0};
  rp_ptr p;
  assert_false(rp_device_enter(b.d));
  assert_false(rp_device_reads_host(b.d));
  check_fails(rp_device_lend(b.d, &err, 1, &p, &err), RP_FAIL, err, "cannot read memory");
  box_close(&b);
  check_gone();
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(work_runs_when_it_is_waited_for),
    cmocka_unit_test(long_copies_go_through_the_ring),
    cmocka_unit_test(conversions_go_piece_by_piece),
    cmocka_unit_test(queues_order_each_other_by_events),
    cmocka_unit_test(calls_run_in_order_up_to_an_error),
    cmocka_unit_test(memory_that_was_freed_is_had_again),
    cmocka_unit_test(recorded_steps_are_graphs),
    cmocka_unit_test(any_call_may_find_no_memory),
    cmocka_unit_test(a_lost_device_ends_the_run_with_a_sentence),
    cmocka_unit_test(a_lost_device_is_lost_for_every_queue),
    cmocka_unit_test(epilogues_are_their_formulas),
    cmocka_unit_test(a_way_to_multiply_is_chosen_once),
    cmocka_unit_test(products_of_odd_addresses),
    cmocka_unit_test(scratch_must_be_reserved),
    cmocka_unit_test(the_device_is_asked_for_by_name),
    cmocka_unit_test(long_rows_on_hopper),
    cmocka_unit_test(a_rank_has_its_own_gpu),
    cmocka_unit_test(the_machine_shows_its_gpus),
    cmocka_unit_test(a_collective_cannot_read_its_memory),
};
CHECK_MAIN(tests)

#else

static void the_stand_in_needs_the_headers_of_cuda(void **state) {
  (void)state;
  skip();
}
static const struct CMUnitTest tests[] = {cmocka_unit_test(the_stand_in_needs_the_headers_of_cuda)};
CHECK_MAIN(tests)

#endif
