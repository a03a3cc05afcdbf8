/* Devices and queues: order, sticky errors, late runs, tapes, the guard's memory, accounting. */
#include "check.h"

#include <math.h>
#include <signal.h>
#include <sys/wait.h>

#include "ops/backend.h"
#include "ops/cpu/cpu_device.h"

/* cuda is the stand-in of tests/fake, or a GPU where LD_LIBRARY_PATH names the true libraries. */
static const rp_device_kind kinds[] = {RP_DEVICE_CPU, RP_DEVICE_REF, RP_DEVICE_REF64,
                                       RP_DEVICE_GUARD, RP_DEVICE_CUDA};
enum { KINDS = RATPLUS_WITH_CUDA ? 5 : 4 };

typedef struct {
  rp_device *d;
  rp_queue *q;
  rp_ptr p;
} box;

static box box_open(rp_device_kind kind, size_t bytes) {
  box b;
  rp_error err = {0};
  check_ok(rp_device_open(&b.d, kind, &err), err);
  check_ok(rp_queue_open(&b.q, b.d, &err), err);
  check_ok(rp_device_alloc(b.d, bytes, "a test", &b.p, &err), err);
  return b;
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

static void memory_is_zero_aligned_and_counted(void **state) {
  (void)state;
  for (int k = 0; k < KINDS; k++) {
    box b = box_open(kinds[k], 1000);
    uint8_t got[1000];
    rp_ptr more;
    rp_error err = {0};
    assert_int_equal(b.p.at % 64, 0);
    memset(got, 1, sizeof got);
    rp_download(b.q, got, b.p, sizeof got);
    wait_ok(b.q);
    for (int i = 0; i < 1000; i++) assert_int_equal(got[i], 0);
    assert_int_equal(rp_device_bytes(b.d), 1000);
    check_ok(rp_device_alloc(b.d, 5000, "a test", &more, &err), err);
    assert_int_equal(rp_device_bytes(b.d), 6000);
    rp_device_free(b.d, more);
    assert_int_equal(rp_device_bytes(b.d), 1000);
    assert_int_equal(rp_device_peak(b.d), 6000);
    check_fails(rp_device_alloc(b.d, SIZE_MAX / 2, "the moon", &more, &err), RP_NO_MEMORY, err,
                "the moon");
    assert_int_equal(rp_device_bytes(b.d), 1000);
    box_close(&b);
  }
}

static void copies_keep_their_order_and_their_source(void **state) {
  (void)state;
  for (int k = 0; k < KINDS; k++) {
    box b = box_open(kinds[k], 64);
    int32_t x = 1, first = 0, second = 0;
    rp_upload(b.q, b.p, &x, sizeof x);
    x = 2; /* the source is free at once */
    rp_download(b.q, &first, b.p, sizeof first);
    rp_upload(b.q, b.p, &x, sizeof x);
    x = 3;
    rp_download(b.q, &second, b.p, sizeof second);
    wait_ok(b.q);
    assert_int_equal(first, 1);
    assert_int_equal(second, 2);
    box_close(&b);
  }
}

static void conversions_round_to_nearest_even(void **state) {
  (void)state;
  /* Halfway to even, above halfway by less than float32 sees, subnormal, infinity. */
  static const double in[] = {
      1.00390625, 1.01171875, 1.00390625 + 1e-12, -1.00390625 - 1e-12, 1e-40, INFINITY, 3.0};
  static const double want[] = {1, 1.015625, 1.0078125, -1.0078125, 0x1p-133, INFINITY, 3};
  for (int k = 0; k < KINDS; k++) {
    box b = box_open(kinds[k], 64);
    double out[7];
    rp_upload_as(b.q, (rp_tensor){b.p, RP_BF16}, in, RP_F64, 7);
    rp_download_as(b.q, out, RP_F64, (rp_tensor){b.p, RP_BF16}, 7);
    wait_ok(b.q);
    for (int i = 0; i < 7; i++) assert_true(out[i] == want[i]);
    box_close(&b);
  }
}

static void the_first_error_stays_and_stops_the_rest(void **state) {
  (void)state;
  for (int k = 0; k < KINDS; k++) {
    box b = box_open(kinds[k], 64);
    int32_t x = 7, got = 0;
    rp_error err = {0};
    rp_upload(b.q, b.p, &x, sizeof x);
    rp_queue_fail(b.q, RP_BAD_DATA, "first at %d", 41);
    rp_queue_fail(b.q, RP_FAIL, "second");
    x = 8;
    rp_upload(b.q, b.p, &x, sizeof x);
    check_fails(rp_wait(b.q, &err), RP_BAD_DATA, err, "first at 41");
    check_fails(rp_wait(b.q, &err), RP_BAD_DATA, err, "first at 41");
    rp_queue *other;
    check_ok(rp_queue_open(&other, b.d, &err), err);
    rp_download(other, &got, b.p, sizeof got); /* another queue is not concerned */
    wait_ok(other);
    assert_int_equal(got, 7);
    rp_queue_close(other);
    box_close(&b);
  }
}

static void wrong_arguments_are_a_sentence(void **state) {
  (void)state;
  for (int k = 0; k < KINDS; k++) {
    const rp_dtype real = kinds[k] == RP_DEVICE_REF64 ? RP_F64 : RP_F32;
    rp_gemm_args good = {.M = 2, .N = 2, .K = 2, .lda = 2, .ldb = 2, .ldc = 2};
    for (int i = 0; i < 6; i++) {
      box b = box_open(kinds[k], 96);
      rp_error err = {0};
      rp_gemm_args a = good;
      a.a = a.b = a.c = (rp_tensor){b.p, real};
      if (i == 0) a.M = -1;
      if (i == 1) a.lda = 1;
      if (i == 2) a.c.p.at += 90;
      if (i == 3) a.a.p.at = 0;
      if (i == 4) a.b.dtype = RP_I32;
      if (i == 5) a.K = 1 << 30, a.lda = a.K;
      rp_op_gemm(b.q, &a);
      check_fails(rp_wait(b.q, &err), RP_FAIL, err, "op gemm on device");
      box_close(&b);
    }
    box b = box_open(kinds[k], 96);
    rp_error err = {0};
    int32_t x = 0;
    rp_upload(b.q, rp_ptr_add(b.p, 95), &x, sizeof x);
    check_fails(rp_wait(b.q, &err), RP_FAIL, err, "an upload of 4 bytes");
    box_close(&b);
  }
}

/* 64 x 64 products need scratch that nobody reserved. */
static void scratch_must_be_reserved(void **state) {
  (void)state;
  box b = box_open(RP_DEVICE_REF, 3 * 64 * 64 * 4);
  rp_error err = {0};
  const rp_tensor t = {b.p, RP_F32};
  const rp_gemm_args a = {.M = 64,
                          .N = 64,
                          .K = 64,
                          .lda = 64,
                          .ldb = 64,
                          .ldc = 64,
                          .a = t,
                          .b = rp_tensor_at(t, 4096),
                          .c = rp_tensor_at(t, 8192)};
  assert_true(rp_op_scratch(b.d, RP_OP_gemm, &a) > 0);
  rp_op_gemm(b.q, &a);
  check_fails(rp_wait(b.q, &err), RP_FAIL, err, "bytes of scratch");
  box_close(&b);
}

/* What one queue makes, another takes over; an error goes along. */
static void a_queue_may_come_after_another(void **state) {
  (void)state;
  for (int k = 0; k < KINDS; k++) {
    box b = box_open(kinds[k], 256);
    rp_queue *other;
    rp_error err = {0};
    const int32_t x = 41;
    int32_t got = 0;
    check_ok(rp_queue_open(&other, b.d, &err), err);
    rp_upload(b.q, b.p, &x, sizeof x);
    rp_queue_after(other, b.q);
    rp_op_copy(other, &(rp_copy_args){rp_ptr_add(b.p, 128), b.p, 4});
    rp_queue_after(b.q, other);
    rp_download(b.q, &got, rp_ptr_add(b.p, 128), 4);
    wait_ok(b.q);
    assert_int_equal(got, 41);
    rp_queue_fail(b.q, RP_BAD_DATA, "of the first");
    rp_queue_after(other, b.q);
    check_fails(rp_wait(other, &err), RP_BAD_DATA, err, "of the first");
    rp_queue_close(other);
    box_close(&b);
  }
}

/* x doubles by an op that adds it to itself: a product with 2 in a 1 x 1 matrix. */
static void put_doubling(box *b) {
  const rp_dtype real = rp_device_real(b->d);
  const rp_tensor x = {b->p, real}, two = {rp_ptr_add(b->p, 64), real};
  const rp_tensor y = {rp_ptr_add(b->p, 128), real};
  rp_op_copy(b->q, &(rp_copy_args){y.p, x.p, (size_t)rp_dtype_bytes(real)});
  rp_gemm_args a = {.M = 1, .N = 1, .K = 1, .lda = 1, .ldb = 1, .ldc = 1, .a = y, .b = two, .c = x};
  rp_op_gemm(b->q, &a);
}

static void reserve_doubling(box *b) {
  const rp_tensor x = {b->p, rp_device_real(b->d)};
  const rp_gemm_args a = {
      .M = 1, .N = 1, .K = 1, .lda = 1, .ldb = 1, .ldc = 1, .a = x, .b = x, .c = x};
  rp_error err = {0};
  check_ok(rp_queue_reserve(b->q, rp_op_scratch(b->d, RP_OP_gemm, &a), &err), err);
}

static void a_tape_does_again_what_was_recorded(void **state) {
  (void)state;
  for (int k = 0; k < KINDS; k++) {
    box b = box_open(kinds[k], 256);
    const rp_tensor x = {b.p, rp_device_real(b.d)};
    const float one = 1, two = 2;
    float got = 0;
    rp_tape *tape;
    rp_error err = {0};
    reserve_doubling(&b);
    rp_upload_as(b.q, (rp_tensor){rp_ptr_add(b.p, 64), x.dtype}, &two, RP_F32, 1);
    check_ok(rp_record_begin(b.q, &err), err);
    check_fails(rp_record_begin(b.q, &err), RP_FAIL, err, "under way");
    rp_upload_as(b.q, x, &one, RP_F32, 1); /* no part of the tape */
    put_doubling(&b);
    check_ok(rp_record_end(b.q, &tape, &err), err);
    rp_replay(b.q, tape);
    put_doubling(&b); /* no part of it either */
    rp_replay(b.q, tape);
    rp_tape_free(tape);
    rp_download_as(b.q, &got, RP_F32, x, 1);
    wait_ok(b.q);
    assert_true(got == 16);
    check_fails(rp_record_end(b.q, &tape, &err), RP_FAIL, err, "no recording");
    box_close(&b);
  }
}

static void many_ops_overflow_the_list_in_order(void **state) {
  (void)state;
  box b = box_open(RP_DEVICE_GUARD, 256);
  const rp_tensor x = {b.p, RP_F32};
  const float one = 1, two = 2;
  float got[3];
  reserve_doubling(&b);
  rp_upload_as(b.q, x, &one, RP_F32, 1);
  rp_upload_as(b.q, (rp_tensor){rp_ptr_add(b.p, 64), RP_F32}, &two, RP_F32, 1);
  for (int i = 0; i < 100; i++) put_doubling(&b); /* 200 ops, a list of 64 */
  rp_download_as(b.q, got, RP_F32, x, 1);
  wait_ok(b.q);
  assert_true(got[0] == 0x1p100f);
  box_close(&b);
}

static void the_guard_runs_late(void **state) {
  (void)state;
  box b = box_open(RP_DEVICE_GUARD, 64);
  uint32_t x = 5, got = 5;
  rp_upload(b.q, b.p, &x, sizeof x);
  rp_download(b.q, &got, b.p, sizeof got);
  assert_int_not_equal(got, 5); /* overwritten at once, filled in rp_wait */
  wait_ok(b.q);
  assert_int_equal(got, 5);
  box_close(&b);
}

/* What a child does in the guard's memory must end it with a fault. */
static void child_faults(const box *b, size_t offset, bool write) {
  volatile uint8_t *p = (volatile uint8_t *)rp_ptr_add(b->p, offset).at;
  const pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
    uint8_t seen = 0;
    if (write)
      *p = 1;
    else
      seen = *p;
    _exit(seen ? 3 : 2);
  }
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid);
#if defined(__SANITIZE_ADDRESS__)
  assert_true(WIFSIGNALED(status) ||
              WEXITSTATUS(status) == 1); /* the sanitizer reports, then exits */
#else
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
#endif
}

static void the_host_cannot_touch_guarded_memory(void **state) {
  (void)state;
  box b = box_open(RP_DEVICE_GUARD, 5000);
  const int32_t x = 1;
  child_faults(&b, 0, false);
  child_faults(&b, 4999, true);
  rp_upload(b.q, b.p, &x, sizeof x);
  wait_ok(b.q);
  child_faults(&b, 0, false);    /* closed again after an op */
  child_faults(&b, 5056, false); /* behind the block: never there */
  box_close(&b);
}

static void failing_allocations_are_reported(void **state) {
  (void)state;
  for (int k = 0; k < KINDS; k++) {
    for (uint64_t n = 1; n < 40; n++) {
      rp_device *d = NULL;
      rp_queue *q = NULL;
      rp_ptr p = {0};
      rp_error err = {0};
      const int32_t x = 1;
      rp_mem_fail_at(n);
      rp_status st = rp_device_open(&d, kinds[k], &err);
      if (!st) st = rp_queue_open(&q, d, &err);
      if (!st) st = rp_device_alloc(d, 1 << 16, "a test", &p, &err);
      if (!st) st = rp_queue_reserve(q, 1 << 16, &err);
      if (!st) rp_upload(q, p, &x, sizeof x);
      if (!st) st = rp_wait(q, &err);
      rp_mem_fail_at(0);
      if (st) assert_int_equal(st, RP_NO_MEMORY);
      if (st) assert_true(err.text[0]);
      rp_queue_close(q);
      rp_device_close(d);
      if (!st) break;
    }
  }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(memory_is_zero_aligned_and_counted),
    cmocka_unit_test(copies_keep_their_order_and_their_source),
    cmocka_unit_test(conversions_round_to_nearest_even),
    cmocka_unit_test(the_first_error_stays_and_stops_the_rest),
    cmocka_unit_test(wrong_arguments_are_a_sentence),
    cmocka_unit_test(scratch_must_be_reserved),
    cmocka_unit_test(a_queue_may_come_after_another),
    cmocka_unit_test(a_tape_does_again_what_was_recorded),
    cmocka_unit_test(many_ops_overflow_the_list_in_order),
    cmocka_unit_test(the_guard_runs_late),
    cmocka_unit_test(the_host_cannot_touch_guarded_memory),
    cmocka_unit_test(failing_allocations_are_reported),
};
CHECK_MAIN(tests)
