/* The communicator: every collective over 1 to 4 ranks against sums made here, on host and device
 * memory, started and awaited, counted, limited in rate; and what happens when a rank fails. */
#include "ranks_box.h"

#include <signal.h>

#include "base/log.h"
#include "ops/ops.h"

/* Values whose sums depend on the order, different on every rank. */
static float value(int rank, int64_t i) {
  rp_rng r;
  rp_rng_init(&r, 77, RP_RNG_TEST, (uint64_t)(rank * 100003 + i));
  return (float)((double)rp_rng_below(&r, 1u << 30) / (1u << 24) - 32);
}

static float sum_in_rank_order(int ranks, int64_t i) {
  float s = value(0, i);
  for (int r = 1; r < ranks; r++) s += value(r, i);
  return s;
}

static void fill(rp_comm *c, float *x, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] = value(rp_comm_rank(c), i);
}

static const int64_t sizes[] = {0, 1, 2, 3, 5, 64, 1000, 3000001};
enum { SIZES = sizeof sizes / sizeof *sizes };

/* An all-reduce, and a reduce-scatter followed by an all-gather, make the same bits. */
static int sums(rp_comm *c) {
  rp_error err = {0};
  const int ranks = rp_comm_size(c), rank = rp_comm_rank(c);
  for (int k = 0; k < SIZES; k++) {
    const int64_t n = sizes[k], part = (n + ranks - 1) / ranks, all = part * ranks;
    float *x = rp_calloc((size_t)all + 1, sizeof *x), *y = rp_calloc((size_t)all + 1, sizeof *y);
    RANK_TRUE(x && y);
    fill(c, x, n);
    RANK_OK(rp_comm_host_run(c, RP_COMM_SUM, RP_F32, x, y, n, 0, &err));
    for (int64_t i = 0; i < n; i++) RANK_TRUE(y[i] == sum_in_rank_order(ranks, i));
    RANK_OK(rp_comm_host_run(c, RP_COMM_SCATTER, RP_F32, x, x + part * rank, part, 0, &err));
    RANK_OK(rp_comm_host_run(c, RP_COMM_GATHER, RP_F32, x + part * rank, x, part, 0, &err));
    RANK_TRUE(!memcmp(x, y, (size_t)n * sizeof *x));
    fill(c, x, n);
    RANK_OK(rp_comm_host_run(c, RP_COMM_SUM, RP_F32, x, x, n, 0, &err));
    RANK_TRUE(!memcmp(x, y, (size_t)n * sizeof *x));
    rp_free(x);
    rp_free(y);
  }
  return 0;
}

static int others(rp_comm *c) {
  rp_error err = {0};
  const int ranks = rp_comm_size(c), rank = rp_comm_rank(c);
  uint16_t in[5], out[5 * 8];
  for (int i = 0; i < 5; i++) in[i] = (uint16_t)(rank * 10 + i);
  RANK_OK(rp_comm_host_run(c, RP_COMM_GATHER, RP_BF16, in, out, 5, 0, &err));
  for (int i = 0; i < 5 * ranks; i++) RANK_TRUE(out[i] == i / 5 * 10 + i % 5);
  for (int root = 0; root < ranks; root++) {
    int64_t v = rank == root ? 4711 + root : 0;
    RANK_OK(rp_comm_host_run(c, RP_COMM_BROADCAST, RP_I64, &v, &v, 1, root, &err));
    RANK_TRUE(v == 4711 + root);
  }
  int64_t whole = rank + 1;
  RANK_OK(rp_comm_host_run(c, RP_COMM_SUM, RP_I64, &whole, &whole, 1, 0, &err));
  RANK_TRUE(whole == ranks * (ranks + 1) / 2);
  double real = 0.1 * (rank + 1), want = 0.1;
  for (int r = 1; r < ranks; r++) want += 0.1 * (r + 1);
  RANK_OK(rp_comm_host_run(c, RP_COMM_SUM, RP_F64, &real, &real, 1, 0, &err));
  RANK_TRUE(real == want);
  RANK_OK(rp_comm_barrier(c, &err));
  RANK_TRUE(rp_comm_host(c, ranks - 1)[0]);
  return 0;
}

/* Collectives between ops, several in flight, on a device that runs late and on one that does not. */
static int queued_on(rp_comm *c, rp_device_kind kind) {
  enum { N = 4096, MANY = 40 };
  rp_error err = {0};
  rp_device *d;
  rp_queue *q;
  rp_ptr x;
  rp_ticket t[MANY];
  const int ranks = rp_comm_size(c);
  static float host[N];
  RANK_OK(rp_device_open(&d, kind, &err));
  RANK_OK(rp_queue_open(&q, d, &err));
  RANK_OK(rp_device_alloc(d, (size_t)MANY * N * sizeof *host, "x", &x, &err));
  for (int k = 0; k < MANY; k++) {
    const rp_ptr at = rp_ptr_add(x, (size_t)k * sizeof host);
    for (int i = 0; i < N; i++) host[i] = value(rp_comm_rank(c), i + k);
    rp_upload(q, at, host, sizeof host);
    t[k] = rp_comm_start(c, q, &(rp_collective){RP_COMM_SUM, 0, RP_F32, N, at, at});
  }
  for (int k = MANY - 1; k >= 0; k--) {
    const rp_ptr at = rp_ptr_add(x, (size_t)k * sizeof host);
    rp_comm_await(c, q, t[k]);
    /* A later op sees the sum: the first element is moved over the second. */
    rp_op_cast(q, &(rp_cast_args){1, {at, RP_F32}, {rp_ptr_add(at, 4), RP_F32}});
    rp_download(q, host, at, sizeof host);
    RANK_OK(rp_wait(q, &err));
    RANK_TRUE(host[1] == sum_in_rank_order(ranks, k));
    for (int i = 2; i < N; i++) RANK_TRUE(host[i] == sum_in_rank_order(ranks, i + k));
  }
  rp_device_free(d, x);
  rp_queue_close(q);
  rp_device_close(d);
  return 0;
}

static int queued(rp_comm *c) {
  queued_on(c, RP_DEVICE_CPU);
  return queued_on(c, RP_DEVICE_GUARD);
}

/* Bytes sent by all ranks together are what the formula says. */
static int counted(rp_comm *c) {
  enum { N = 1001 };
  static const rp_comm_kind kinds[] = {RP_COMM_SUM, RP_COMM_SCATTER, RP_COMM_GATHER,
                                       RP_COMM_BROADCAST};
  rp_error err = {0};
  const int ranks = rp_comm_size(c);
  static float x[N * 4], y[N * 4];
  for (int k = 0; k < 4; k++) {
    const rp_comm_stats before = rp_comm_counts(c);
    RANK_OK(rp_comm_host_run(c, kinds[k], RP_F32, x, y, N, 0, &err));
    const rp_comm_stats after = rp_comm_counts(c);
    int64_t sent = (int64_t)(after.sent[kinds[k]] - before.sent[kinds[k]]);
    RANK_TRUE(after.calls[kinds[k]] == before.calls[kinds[k]] + 1);
    RANK_OK(rp_comm_host_run(c, RP_COMM_SUM, RP_I64, &sent, &sent, 1, 0, &err));
    const double want = rp_comm_cost(kinds[k], ranks, N, RP_F32) * ranks;
    RANK_TRUE((double)sent > want - 1 && (double)sent < want + 1);
  }
  return 0;
}

/* 4 MB/s: an all-reduce of 2 MB over two ranks takes half a second of sending. */
static int limited(rp_comm *c) {
  enum { N = 1 << 19 };
  rp_error err = {0};
  float *x = rp_calloc(N, sizeof *x);
  RANK_TRUE(x);
  RANK_OK(rp_comm_barrier(c, &err));
  const double t0 = rp_now();
  RANK_OK(rp_comm_host_run(c, RP_COMM_SUM, RP_F32, x, x, N, 0, &err));
  const double took = rp_now() - t0;
  RANK_TRUE(took > 0.45);
  rp_free(x);
  return 0;
}

/* ---- failures ---- */

/* The last rank stops; the others end within the deadline, naming it, and one of them speaks. */
static int silent(rp_comm *c) {
  rp_error err = {0};
  bool here = false;
  char name[32];
  const int last = rp_comm_size(c) - 1;
  double x = 1;
  RANK_OK(rp_comm_barrier(c, &err));
  if (rp_comm_rank(c) == last) {
    raise(SIGSTOP);
    _exit(3);
  }
  const double t0 = rp_now();
  RANK_TRUE(rp_comm_host_run(c, RP_COMM_SUM, RP_F64, &x, &x, 1, 0, &err) == RP_FAIL);
  RANK_TRUE(rp_now() - t0 < 10);
  snprintf(name, sizeof name, "rank %d on ", last);
  RANK_TRUE(strstr(err.text, name) && strstr(err.text, "did not answer"));
  RANK_TRUE(rp_comm_failure(c, &here, &err) == RP_FAIL);
  RANK_TRUE(here == (rp_comm_rank(c) == 0));
  return 42;
}

/* One rank tells of its own error while the others wait for it. */
static int told(rp_comm *c) {
  rp_error err = {0};
  bool here = false;
  const int last = rp_comm_size(c) - 1;
  double x = 1;
  RANK_OK(rp_comm_barrier(c, &err));
  if (rp_comm_rank(c) == last) {
    usleep(200000);
    rp_comm_tell(c, "the disk is full");
    RANK_TRUE(rp_comm_failure(c, &here, &err) == RP_FAIL && here);
    usleep(500000);
    return 42;
  }
  const double t0 = rp_now();
  RANK_TRUE(rp_comm_host_run(c, RP_COMM_SUM, RP_F64, &x, &x, 1, 0, &err) == RP_FAIL);
  RANK_TRUE(rp_now() - t0 < 5);
  RANK_TRUE(strstr(err.text, "the disk is full") && strstr(err.text, " on "));
  RANK_TRUE(rp_comm_failure(c, &here, &err) == RP_FAIL && !here);
  /* It stays so. */
  RANK_TRUE(rp_comm_host_run(c, RP_COMM_SUM, RP_F64, &x, &x, 1, 0, &err) == RP_FAIL);
  return 42;
}

static const box_rank_case ranks[] = {
    {"sums", sums, 0, 0},       {"others", others, 0, 0},     {"queued", queued, 0, 0},
    {"counted", counted, 0, 0}, {"limited", limited, 0, 4e6}, {"silent", silent, 1, 0},
    {"told", told, 0, 0},
};

/* ---- cases ---- */

static void alone(void **state) {
  (void)state;
  rp_comm *c;
  rp_error err = {0};
  check_ok(rp_comm_open_self(&c, NULL, &err), err);
  assert_int_equal(rp_comm_size(c), 1);
  assert_int_equal(sums(c) + others(c) + queued(c), 0);
  assert_int_equal(rp_comm_counts(c).sent[RP_COMM_SUM], 0);
  rp_comm_close(c);
}

static void sums_over_ranks(void **state) {
  (void)state;
  check_needs_ranks();
  for (int n = 1; n <= 4; n++) assert_int_equal(box_ranks(n, "sums"), 0);
}

static void other_collectives(void **state) {
  (void)state;
  check_needs_ranks();
  for (int n = 2; n <= 4; n++) assert_int_equal(box_ranks(n, "others"), 0);
}

static void on_queues(void **state) {
  (void)state;
  check_needs_ranks();
  for (int n = 2; n <= 3; n++) assert_int_equal(box_ranks(n, "queued"), 0);
}

static void bytes_are_counted(void **state) {
  (void)state;
  check_needs_ranks();
  for (int n = 2; n <= 4; n++) assert_int_equal(box_ranks(n, "counted"), 0);
}

static void rate_is_limited(void **state) {
  (void)state;
  check_needs_ranks();
  assert_int_equal(box_ranks(2, "limited"), 0);
}

static void a_silent_rank_is_named(void **state) {
  (void)state;
  check_needs_ranks();
  assert_int_equal(box_ranks(3, "silent"), 42);
}

static void a_rank_tells_of_its_error(void **state) {
  (void)state;
  check_needs_ranks();
  assert_int_equal(box_ranks(3, "told"), 42);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(alone),
    cmocka_unit_test(sums_over_ranks),
    cmocka_unit_test(other_collectives),
    cmocka_unit_test(on_queues),
    cmocka_unit_test(bytes_are_counted),
    cmocka_unit_test(rate_is_limited),
    cmocka_unit_test(a_silent_rank_is_named),
    cmocka_unit_test(a_rank_tells_of_its_error),
};

int main(int argc, char **argv) {
  box_rank_main(argc, argv, ranks, sizeof ranks / sizeof *ranks);
  check_begin(argc, argv);
  return cmocka_run_group_tests(tests, NULL, NULL) ? 1 : 0;
}
