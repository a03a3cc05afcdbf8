/* The communicator: every collective over 1 to 4 ranks against sums made here, on host and device
 * memory, started and awaited, counted, limited in rate; and what happens when a rank fails. Over MPI
 * where it is, over TCP, and through the calls of NCCL (fake/) on either.
 * label: slow
 * label: alone, label: tsan */
#include "ranks_box.h"

#include <dlfcn.h>
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
  RANK_TRUE(rp_comm_neighbours(c) == ranks);
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

/* Every kind over device memory, in place and not, of all types. */
static void fill_as(rp_dtype t, int rank, int64_t n, void *to) {
  for (int64_t i = 0; i < n; i++) {
    if (t == RP_F32) ((float *)to)[i] = value(rank, i);
    if (t == RP_F64) ((double *)to)[i] = (double)value(rank, i) / 3;
    if (t == RP_I64) ((int64_t *)to)[i] = rank * 1000 + i;
    if (t == RP_BF16) ((uint16_t *)to)[i] = (uint16_t)(rank * 1000 + i);
  }
}

static void add_as(rp_dtype t, const void *from, int64_t n, void *to) {
  for (int64_t i = 0; i < n; i++) {
    if (t == RP_F32) ((float *)to)[i] += ((const float *)from)[i];
    if (t == RP_F64) ((double *)to)[i] += ((const double *)from)[i];
    if (t == RP_I64) ((int64_t *)to)[i] += ((const int64_t *)from)[i];
  }
}

enum { MOST = 4 * 3001 };
typedef struct {
  rp_comm *c;
  rp_queue *q;
  rp_ptr in, out; /* [MOST] doubles each */
} devices;

/* What rank `me` should hold after a collective of n elements, and of how many. */
static int64_t expected(const devices *k, const rp_collective *a, void *want) {
  static double one[MOST];
  const int ranks = rp_comm_size(k->c), me = rp_comm_rank(k->c);
  const size_t size = (size_t)rp_dtype_bytes(a->dtype);
  const bool parts = a->kind == RP_COMM_SCATTER;
  const int64_t all = parts ? a->n * ranks : a->n;
  if (a->kind == RP_COMM_BROADCAST) fill_as(a->dtype, a->root, a->n, want);
  for (int r = 0; r < ranks && a->kind == RP_COMM_GATHER; r++)
    fill_as(a->dtype, r, a->n, (char *)want + (size_t)(r * a->n) * size);
  if (a->kind == RP_COMM_GATHER) return a->n * ranks;
  if (a->kind == RP_COMM_BROADCAST) return a->n;
  fill_as(a->dtype, 0, all, want);
  for (int r = 1; r < ranks; r++) {
    fill_as(a->dtype, r, all, one);
    add_as(a->dtype, one, all, want);
  }
  if (parts) memmove(want, (char *)want + (size_t)(me * a->n) * size, (size_t)a->n * size);
  return a->n;
}

static int one_kind(const devices *k, rp_comm_kind kind, rp_dtype t, int64_t n, bool in_place) {
  static double host[MOST], want[MOST];
  rp_error err = {0};
  rp_comm *c = k->c;
  const int ranks = rp_comm_size(c), me = rp_comm_rank(c);
  const size_t size = (size_t)rp_dtype_bytes(t), at = (size_t)(me * n) * size;
  rp_collective a = {kind, ranks - 1, t, n, k->in, k->out};
  if (in_place) a.out = a.in;
  if (in_place && kind == RP_COMM_SCATTER) a.out = rp_ptr_add(a.in, at);
  if (in_place && kind == RP_COMM_GATHER) a.in = rp_ptr_add(a.out, at);
  const int64_t given = kind == RP_COMM_SCATTER ? n * ranks : n;
  fill_as(t, me, given, host);
  rp_upload(k->q, a.in, host, (size_t)given * size);
  rp_comm_await(c, k->q, rp_comm_start(c, k->q, &a));
  const int64_t got = expected(k, &a, want);
  rp_download(k->q, host, a.out, (size_t)got * size);
  RANK_OK(rp_wait(k->q, &err));
  RANK_TRUE(!memcmp(host, want, (size_t)got * size));
  return 0;
}

static int kinds_on(rp_comm *c) {
  static const int64_t many[] = {1, 2, 64, 3001};
  static const rp_dtype types[] = {RP_F32, RP_F64, RP_I64, RP_BF16};
  rp_error err = {0};
  rp_device *d;
  devices k = {.c = c};
  RANK_OK(rp_device_open(&d, RP_DEVICE_GUARD, &err));
  RANK_OK(rp_queue_open(&k.q, d, &err));
  RANK_OK(rp_device_alloc(d, 8 * MOST, "in", &k.in, &err));
  RANK_OK(rp_device_alloc(d, 8 * MOST, "out", &k.out, &err));
  for (int kind = 0; kind < RP_COMM_KINDS; kind++)
    for (int t = 0; t < 4; t++)
      for (int i = 0; i < 8; i++) {
        if (types[t] == RP_BF16 && (kind == RP_COMM_SUM || kind == RP_COMM_SCATTER)) continue;
        one_kind(&k, (rp_comm_kind)kind, types[t], many[i / 2], i % 2);
      }
  rp_device_free(d, k.in);
  rp_device_free(d, k.out);
  rp_queue_close(k.q);
  rp_device_close(d);
  return 0;
}

/* ---- through NCCL's calls ---- */

static int nccl(rp_comm *c) {
  rp_error err = {0};
  RANK_OK(rp_comm_use_nccl(c, 0, &err));
  const rp_comm_stats before = rp_comm_counts(c);
  kinds_on(c);
  queued(c);
  const rp_comm_stats after = rp_comm_counts(c);
  RANK_TRUE(after.calls[RP_COMM_SUM] > before.calls[RP_COMM_SUM] + 80);
  if (rp_comm_size(c) > 1) RANK_TRUE(after.sent[RP_COMM_SUM] > before.sent[RP_COMM_SUM]);
  return others(c); /* and host memory goes its own way */
}

static rp_status one_sum(rp_comm *c, rp_error *out) {
  rp_device *d;
  rp_queue *q;
  rp_ptr x;
  rp_error err = {0};
  RANK_OK(rp_device_open(&d, RP_DEVICE_CPU, &err));
  RANK_OK(rp_queue_open(&q, d, &err));
  RANK_OK(rp_device_alloc(d, 64, "x", &x, &err));
  rp_comm_await(c, q, rp_comm_start(c, q, &(rp_collective){RP_COMM_SUM, 0, RP_F32, 4, x, x}));
  return rp_wait(q, out); /* what it holds is left to the end of the process */
}

/* The last rank's second collective fails in NCCL: all end with one sentence, which one speaks. */
static int nccl_breaks(rp_comm *c) {
  rp_error err = {0};
  bool here;
  char how[40];
  const int last = rp_comm_size(c) - 1;
  snprintf(how, sizeof how, "%d 2", last);
  setenv("FAKE_NCCL_BREAK", how, 1);
  RANK_OK(rp_comm_use_nccl(c, 0, &err));
  RANK_OK(one_sum(c, &err));
  const double t0 = rp_now();
  RANK_TRUE(one_sum(c, &err) == RP_FAIL);
  RANK_TRUE(rp_now() - t0 < 10);
  snprintf(how, sizeof how, "rank %d on ", last);
  RANK_TRUE(strstr(err.text, how) && strstr(err.text, "NCCL") && strstr(err.text, "system error"));
  RANK_TRUE(rp_comm_failure(c, &here, NULL) && here == (rp_comm_rank(c) == last));
  return 42;
}

static int nccl_silent(rp_comm *c) {
  rp_error err = {0};
  char name[32];
  const int last = rp_comm_size(c) - 1;
  RANK_OK(rp_comm_use_nccl(c, 0, &err));
  RANK_OK(one_sum(c, &err));
  if (rp_comm_rank(c) == last) {
    raise(SIGSTOP);
    _exit(3);
  }
  RANK_TRUE(one_sum(c, &err) == RP_FAIL);
  snprintf(name, sizeof name, "rank %d on ", last);
  RANK_TRUE(strstr(err.text, name) && strstr(err.text, "did not answer"));
  return 42;
}

/* A GPU that is not there is an error of all. */
static int nccl_no_gpu(rp_comm *c) {
  rp_error err = {0};
  RANK_TRUE(rp_comm_use_nccl(c, rp_comm_rank(c), &err) == RP_FAIL);
  RANK_TRUE(strstr(err.text, "rank 1 on ") && strstr(err.text, "CUDA"));
  return 0;
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

/* The last rank ends without a word; the others name it at once, and one of them speaks. */
static int killed(rp_comm *c) {
  rp_error err = {0};
  bool here = false;
  char name[32];
  const int last = rp_comm_size(c) - 1;
  double x = 1;
  RANK_OK(rp_comm_barrier(c, &err));
  if (rp_comm_rank(c) == last) raise(SIGKILL);
  const double t0 = rp_now();
  RANK_TRUE(rp_comm_host_run(c, RP_COMM_SUM, RP_F64, &x, &x, 1, 0, &err) == RP_FAIL);
  RANK_TRUE(rp_now() - t0 < 5);
  snprintf(name, sizeof name, "rank %d on ", last);
  RANK_TRUE(strstr(err.text, name) && strstr(err.text, "ended"));
  RANK_TRUE(rp_comm_failure(c, &here, NULL) == RP_FAIL && here == (rp_comm_rank(c) == 0));
  return 42;
}

static int nothing(rp_comm *c) {
  (void)c;
  return 0;
}

static const box_rank_case ranks[] = {
    {"sums", sums, 0, 0},          {"others", others, 0, 0},      {"queued", queued, 0, 0},
    {"counted", counted, 0, 0},    {"limited", limited, 0, 4e6},  {"silent", silent, 1, 0},
    {"told", told, 0, 0},          {"kinds", kinds_on, 0, 0},     {"nccl", nccl, 0, 0},
    {"killed", killed, 0, 0},      {"breaks", nccl_breaks, 0, 0}, {"hangs", nccl_silent, 1, 0},
    {"no_gpu", nccl_no_gpu, 0, 0}, {"nothing", nothing, 2, 0},    {"late", nothing, 2, 0},
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

static void every_kind_on_devices(void **state) {
  (void)state;
  for (int n = 1; n <= 4; n++) assert_int_equal(box_ranks_tcp(n, "kinds"), 0);
  check_needs_ranks();
  for (int n = 2; n <= 3; n++) assert_int_equal(box_ranks(n, "kinds"), 0);
}

static void over_tcp(void **state) {
  (void)state;
  static const char *const names[] = {"sums", "others", "queued", "counted"};
  for (int i = 0; i < 4; i++)
    for (int n = 1; n <= 4; n++) assert_int_equal(box_ranks_tcp(n, names[i]), 0);
  assert_int_equal(box_ranks_tcp(2, "limited"), 0);
}

static void failures_over_tcp(void **state) {
  (void)state;
  pid_t pid[3];
  const int port = box_free_port();
  assert_int_equal(box_ranks_tcp(3, "told"), 42);
  for (int r = 0; r < 3; r++) pid[r] = box_ranks_start(r, 3, port, "silent", NULL);
  assert_int_equal(box_ranks_end(pid[0]), 42);
  assert_int_equal(box_ranks_end(pid[1]), 42);
  kill(pid[2], SIGKILL);
  assert_int_equal(box_ranks_end(pid[2]), 128 + SIGKILL);
  for (int r = 0; r < 3; r++) pid[r] = box_ranks_start(r, 3, port, "killed", NULL);
  assert_int_equal(box_ranks_end(pid[0]), 42);
  assert_int_equal(box_ranks_end(pid[1]), 42);
  assert_int_equal(box_ranks_end(pid[2]), 128 + SIGKILL);
}

static void nccl_over_tcp_and_mpi(void **state) {
  (void)state;
  pid_t pid[3];
  const int port = box_free_port();
  for (int n = 1; n <= 4; n++) assert_int_equal(box_ranks_tcp(n, "nccl"), 0);
  assert_int_equal(box_ranks_tcp(3, "breaks"), 42);
  assert_int_equal(box_ranks_tcp(2, "no_gpu"), 0);
  for (int r = 0; r < 3; r++) pid[r] = box_ranks_start(r, 3, port, "hangs", NULL);
  assert_int_equal(box_ranks_end(pid[0]), 42);
  assert_int_equal(box_ranks_end(pid[1]), 42);
  kill(pid[2], SIGKILL);
  assert_int_equal(box_ranks_end(pid[2]), 128 + SIGKILL);
  check_needs_ranks();
  assert_int_equal(box_ranks(2, "nccl"), 0);
  assert_int_equal(box_ranks(3, "nccl"), 0);
}

/* ---- meeting ---- */

static void assert_says(const char *log, const char *part) {
  char text[4096] = "";
  FILE *f = fopen(log, "r");
  assert_non_null(f);
  const size_t n = fread(text, 1, sizeof text - 1, f);
  text[n] = 0;
  fclose(f);
  if (!strstr(text, part)) fail_msg("\"%s\" does not say \"%s\"", text, part);
}

static int connect_to(int port) {
  struct sockaddr_in at = {.sin_family = AF_INET,
                           .sin_port = htons((uint16_t)port),
                           .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  for (int i = 0; i < 100; i++, usleep(20000)) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (!connect(fd, (struct sockaddr *)&at, sizeof at)) return fd;
    close(fd);
  }
  fail_msg("nobody listens");
  return -1;
}

/* In rank 1 of the case "late": MPI is begun, and nothing more comes. */
static void be_late(int argc, char **argv) {
  const char *rank = getenv("OMPI_COMM_WORLD_RANK");
  int (*begin)(int *, char ***) = NULL;
  if (argc != 3 || strcmp(argv[2], "late") || !rank || strcmp(rank, "1")) return;
  *(void **)&begin = dlsym(RTLD_DEFAULT, "MPI_Init");
  if (!begin || begin(NULL, NULL)) _exit(97);
  sleep(60);
  _exit(96);
}

static void late_ranks_of_mpi_are_named(void **state) {
  (void)state;
  check_needs_ranks();
  const char *log = check_path("late");
  const double t0 = rp_now();
  assert_int_equal(box_ranks_to(3, "late", log), 99);
  assert_true(rp_now() - t0 < 30);
  assert_says(log, "for ranks that began MPI but say nothing: 1 of 3");
}

/* Ranks 1 and 3 of four do not come. */
static void missing_ranks_are_named(void **state) {
  (void)state;
  const char *zero = check_path("zero"), *two = check_path("two");
  const int port = box_free_port();
  const pid_t a = box_ranks_start(0, 4, port, "nothing", zero);
  const pid_t b = box_ranks_start(2, 4, port, "nothing", two);
  assert_int_equal(box_ranks_end(a), 99);
  assert_int_equal(box_ranks_end(b), 99);
  assert_says(zero, "did not come: 1, 3 of 4");
  assert_says(two, "sent rank 2 away");
  const pid_t lonely = box_ranks_start(1, 2, port, "nothing", two);
  assert_int_equal(box_ranks_end(lonely), 99);
  assert_says(two, "did not come: 0 of 2");
}

static void taken_port_is_named(void **state) {
  (void)state;
  char part[64];
  const char *log = check_path("taken");
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
  socklen_t n = sizeof at;
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&at, n) || listen(fd, 1) ||
                       getsockname(fd, (struct sockaddr *)&at, &n),
                   0);
  snprintf(part, sizeof part, "port %d of localhost", ntohs(at.sin_port));
  assert_int_equal(box_ranks_end(box_ranks_start(0, 2, ntohs(at.sin_port), "nothing", log)), 99);
  assert_says(log, part);
  assert_says(log, "MASTER_PORT");
  close(fd);
}

/* Strangers at the door, one that says nothing, one that says nonsense, one that is rank 1 of another
 * run, keep nobody out. */
static void strangers_are_sent_away(void **state) {
  (void)state;
  static const char noise[200] = "GET / HTTP/1.1\r\n\r\n";
  struct {
    char magic[8];
    int32_t size, rank, to, notes;
    char port[8];
  } other = {"RPRANKS", 3, 1, 0, 0, "1"};
  const int port = box_free_port();
  const pid_t a = box_ranks_start(0, 2, port, "others", NULL);
  const int one = connect_to(port), two = connect_to(port), three = connect_to(port);
  assert_int_equal(write(two, noise, sizeof noise), sizeof noise);
  assert_int_equal(write(three, &other, sizeof other), sizeof other);
  close(one);
  const pid_t b = box_ranks_start(1, 2, port, "others", NULL);
  assert_int_equal(box_ranks_end(a), 0);
  assert_int_equal(box_ranks_end(b), 0);
  close(two);
  close(three);
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
    cmocka_unit_test(every_kind_on_devices),
    cmocka_unit_test(over_tcp),
    cmocka_unit_test(failures_over_tcp),
    cmocka_unit_test(nccl_over_tcp_and_mpi),
    cmocka_unit_test(missing_ranks_are_named),
    cmocka_unit_test(late_ranks_of_mpi_are_named),
    cmocka_unit_test(taken_port_is_named),
    cmocka_unit_test(strangers_are_sent_away),
};

int main(int argc, char **argv) {
  be_late(argc, argv);
  box_rank_main(argc, argv, ranks, sizeof ranks / sizeof *ranks);
  check_begin(argc, argv);
  return cmocka_run_group_tests(tests, NULL, NULL) ? 1 : 0;
}
