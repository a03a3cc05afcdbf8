#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static void sizes_that_overflow_are_refused(void **state) {
  (void)state;
  size_t out = 0;
  assert_true(rp_mul_size(SIZE_MAX / 8, 8, &out));
  assert_int_equal(out, SIZE_MAX / 8 * 8);
  assert_false(rp_mul_size(SIZE_MAX / 8 + 1, 8, &out));
  assert_false(rp_mul_size((size_t)1 << 32, (size_t)1 << 32, &out));
  assert_true(rp_mul_size(0, SIZE_MAX, &out) && out == 0);
  assert_true(rp_add_size(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
  assert_false(rp_add_size(SIZE_MAX, 1, &out));
  size_t before = rp_mem_now();
  assert_null(rp_malloc((size_t)1 << 32, (size_t)1 << 32));
  assert_null(rp_calloc(SIZE_MAX, 2));
  assert_null(rp_malloc(SIZE_MAX / 2 + 2, 1));
  char *p = rp_malloc(4, 1);
  memcpy(p, "abc", 4);
  assert_null(rp_realloc(p, SIZE_MAX, SIZE_MAX));
  assert_string_equal(p, "abc"); /* still there */
  rp_free(p);
  assert_int_equal(rp_mem_now(), before);
}

static void products_agree_with_wide_ones(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  for (int i = 0; i < 20000; i++) {
    size_t a = rp_rng_u64(&r) >> check_pick(&r, 0, 63), b = rp_rng_u64(&r) >> check_pick(&r, 0, 63);
    size_t out = 0;
    __extension__ typedef unsigned __int128 wide;
    wide product = (wide)a * b, sum = (wide)a + b;
    bool fits = product <= SIZE_MAX;
    assert_int_equal(rp_mul_size(a, b, &out), fits);
    if (fits) assert_true(out == (size_t)product);
    fits = sum <= SIZE_MAX;
    assert_int_equal(rp_add_size(a, b, &out), fits);
    if (fits) assert_true(out == (size_t)sum);
  }
}

static void blocks_are_aligned_counted_and_kept(void **state) {
  (void)state;
  rp_rng r = check_rng(2);
  enum { N = 100 };
  uint8_t *blocks[N] = {0};
  size_t sizes[N] = {0}, before = rp_mem_now();
  for (int step = 0; step < 3000; step++) {
    int i = check_pick(&r, 0, N - 1);
    size_t n = (size_t)check_pick(&r, 0, 2000), old = sizes[i];
    uint8_t *p = rp_realloc(blocks[i], n, 1);
    assert_non_null(p);
    if (n >= 64) assert_int_equal((uintptr_t)p % 64, 0);
    for (size_t k = 0; k < n && k < old; k++) assert_int_equal(p[k], (uint8_t)i);
    memset(p, i, n);
    blocks[i] = p;
    sizes[i] = n;
  }
  size_t sum = 0;
  for (int i = 0; i < N; i++) sum += sizes[i];
  assert_true(rp_mem_now() - before >= sum);
  assert_true(rp_mem_peak() >= rp_mem_now());
  for (int i = 0; i < N; i++) rp_free(blocks[i]);
  rp_free(NULL);
  assert_int_equal(rp_mem_now(), before);
  uint8_t *zero = rp_calloc(1000, 3);
  for (int i = 0; i < 3000; i++) assert_int_equal(zero[i], 0);
  rp_free(zero);
}

static void allocations_fail_on_demand(void **state) {
  (void)state;
  rp_mem_fail_at(3);
  void *a = rp_malloc(1, 1), *b = rp_strdup("x");
  assert_non_null(a);
  assert_non_null(b);
  assert_null(rp_malloc(1, 1));
  assert_null(rp_calloc(1, 1));
  assert_null(rp_realloc(a, 2, 1));
  assert_null(rp_strdup("y"));
  assert_int_equal(rp_mem_fail_at(0), 6);
  void *c = rp_malloc(1, 1);
  assert_non_null(c);
  assert_int_equal(rp_mem_fail_at(0), 1);
  rp_free(a);
  rp_free(b);
  rp_free(c);
}

static void arrays_grow(void **state) {
  (void)state;
  int *array = NULL;
  size_t cap = 0;
  rp_error err = {0};
  for (int i = 0; i < 10000; i++) {
    check_ok(rp_grow(&array, &cap, (size_t)i + 1, sizeof *array, "numbers", &err), err);
    array[i] = i;
  }
  for (int i = 0; i < 10000; i++) assert_int_equal(array[i], i);
  assert_true(cap >= 10000 && cap < 40000);
  int *before = array;
  size_t cap_before = cap;
  check_fails(rp_grow(&array, &cap, SIZE_MAX / 2, sizeof *array, "numbers", &err), RP_NO_MEMORY,
              err, "numbers: no memory for");
  assert_ptr_equal(array, before);
  assert_int_equal(cap, cap_before);
  rp_free(array);
}

static void *churn(void *ctx) {
  (void)ctx;
  for (int i = 0; i < 20000; i++) rp_free(rp_malloc((size_t)(i % 300), 1));
  return NULL;
}

static void counts_hold_across_threads(void **state) {
  (void)state;
  size_t before = rp_mem_now();
  pthread_t t[4];
  for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&t[i], NULL, churn, NULL), 0);
  for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
  assert_int_equal(rp_mem_now(), before);
}

static void an_allocation_inside_a_step_is_fatal_in_debug(void **state) {
  (void)state;
#ifdef NDEBUG
  rp_mem_forbid(true);
  void *p = rp_malloc(1, 1);
  rp_mem_forbid(false);
  assert_non_null(p);
  rp_free(p);
#else
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    signal(SIGABRT, SIG_DFL);
    if (!freopen("/dev/null", "w", stderr)) _exit(2);
    rp_mem_forbid(true);
    void *p = rp_malloc(1, 1);
    _exit(p ? 0 : 1);
  }
  int status;
  waitpid(child, &status, 0);
  assert_true(WIFSIGNALED(status));
  assert_int_equal(WTERMSIG(status), SIGABRT);
#endif
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(sizes_that_overflow_are_refused),
    cmocka_unit_test(products_agree_with_wide_ones),
    cmocka_unit_test(blocks_are_aligned_counted_and_kept),
    cmocka_unit_test(allocations_fail_on_demand),
    cmocka_unit_test(arrays_grow),
    cmocka_unit_test(counts_hold_across_threads),
    cmocka_unit_test(an_allocation_inside_a_step_is_fatal_in_debug),
};
CHECK_MAIN(tests)
