/* Threads, cores, memory limits, clocks of this machine.
 * label: threads */
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include "base/cpu.h"
#include "base/log.h"

/* A /proc and /sys of our own. */
static void put(const char *name, const char *text) {
  char *path = rp_path_join(check_dir(), name), *dir = rp_strdup(path);
  rp_error err = {0};
  *strrchr(dir, '/') = 0;
  check_ok(rp_mkdirs(dir, &err), err);
  check_ok(rp_file_replace(path, text, strlen(text), false, &err), err);
  rp_free(dir);
  rp_free(path);
}

static void expect_limits(const char *root, double cpus, uint64_t memory) {
  double c = -1;
  uint64_t m = 1;
  rp_cgroup_limits(check_path(root), &c, &m);
  check_close(c, cpus, 1e-9);
  assert_true(m == memory);
}

static void the_tightest_cgroup_v2_limit_counts(void **state) {
  (void)state;
  put("v2/proc/self/cgroup", "0::/a/b\n");
  put("v2/sys/fs/cgroup/cpu.max", "max 100000\n");
  expect_limits("v2", 0, 0);
  put("v2/sys/fs/cgroup/a/cpu.max", "150000 100000\n");
  put("v2/sys/fs/cgroup/a/memory.max", "1000000\n");
  expect_limits("v2", 1.5, 1000000);
  put("v2/sys/fs/cgroup/a/b/cpu.max", "400000 100000\n");
  put("v2/sys/fs/cgroup/a/b/memory.max", "max\n");
  expect_limits("v2", 1.5, 1000000);
  put("v2/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
  put("v2/sys/fs/cgroup/memory.max", "500000\n");
  expect_limits("v2", 0.5, 500000);
  /* in a container the path is that of the host, and only the mount point is there */
  put("in/proc/self/cgroup", "0::/system.slice/x.scope\n");
  put("in/sys/fs/cgroup/cpu.max", "300000 100000\n");
  put("in/sys/fs/cgroup/memory.max", "7\n");
  expect_limits("in", 3, 7);
}

static void cgroup_v1_limits_count(void **state) {
  (void)state;
  put("v1/proc/self/cgroup", "5:cpuset:/z\n4:cpu,cpuacct:/job\n3:memory:/job/step\n0::/\n");
  put("v1/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "250000\n");
  put("v1/sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000\n");
  put("v1/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  put("v1/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  put("v1/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  put("v1/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "4096000\n");
  expect_limits("v1", 2.5, 4096000);
}

static void strange_cgroup_files_are_no_limit(void **state) {
  (void)state;
  expect_limits("nothing", 0, 0);
  put("odd/proc/self/cgroup", "garbage\n0::/a\n::\n");
  put("odd/sys/fs/cgroup/a/cpu.max", "x y\n");
  put("odd/sys/fs/cgroup/a/memory.max", "");
  put("odd/sys/fs/cgroup/cpu.max", "0 0\n");
  expect_limits("odd", 0, 0);
}

static void threads_follow_affinity_and_slurm(void **state) {
  (void)state;
  cpu_set_t before, one;
  assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
  unsetenv("SLURM_CPUS_PER_TASK");
  int all = rp_threads_default();
  assert_true(all >= 1 && all <= CPU_COUNT(&before));
  setenv("SLURM_CPUS_PER_TASK", "1", 1);
  assert_int_equal(rp_threads_default(), 1);
  setenv("SLURM_CPUS_PER_TASK", "100000", 1);
  assert_int_equal(rp_threads_default(), all);
  setenv("SLURM_CPUS_PER_TASK", "0", 1);
  assert_int_equal(rp_threads_default(), all);
  setenv("SLURM_CPUS_PER_TASK", "many", 1);
  assert_int_equal(rp_threads_default(), all);
  unsetenv("SLURM_CPUS_PER_TASK");
  int cpu = 0;
  while (!CPU_ISSET(cpu, &before)) cpu++;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
  int pinned = rp_threads_default();
  sched_setaffinity(0, sizeof before, &before);
  assert_int_equal(pinned, 1);
}

static void threads_are_what_was_set(void **state) {
  (void)state;
  assert_true(rp_threads() >= 1);
  assert_int_equal(rp_threads_set(3), 3);
  assert_int_equal(rp_threads(), 3);
  assert_true(rp_threads_set(1 << 30) < 1 << 30);
  assert_int_equal(rp_threads_set(0), rp_threads_default());
  assert_int_equal(rp_threads_set(-5), rp_threads());
}

static void levels_are_capped(void **state) {
  (void)state;
  const rp_cpu_info *info = rp_cpu();
  assert_true(rp_cpu_now() <= rp_cpu_best());
  assert_true(info->cores >= info->affinity_cores || info->affinity_cores >= 1);
  assert_true(info->name[0] && info->memory_bytes > 0);
  if (info->avx512) assert_true(info->avx2);
  rp_cpu_level now = rp_cpu_now();
  rp_cpu_cap(RP_CPU_REF);
  assert_int_equal(rp_cpu_now(), RP_CPU_REF);
  rp_cpu_cap(RP_CPU_AVX512_BF16);
  assert_int_equal(rp_cpu_now(), now);
  assert_string_equal(rp_cpu_level_name(RP_CPU_AVX2), "avx2");
}

static void anonymous_memory_is_seen(void **state) {
  (void)state;
  enum { BYTES = 64 << 20 };
  uint64_t before = rp_memory_anonymous();
  if (!before) skip();
  char *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(p, 1, BYTES);
  uint64_t with = rp_memory_anonymous();
  munmap(p, BYTES);
  uint64_t after = rp_memory_anonymous(), peak = rp_memory_anonymous_peak();
  assert_true(with - before > BYTES / 10 * 9 && with - before < BYTES / 10 * 11);
  assert_true(after < with - BYTES / 10 * 9);
  assert_true(peak >= with - BYTES / 10);
  uint64_t room = rp_memory_available();
  assert_true(room > 0 && room <= rp_cpu()->memory_bytes);
}

typedef struct {
  int lines;
  char last[4096];
  rp_log_level level;
} sink;

static void keep(void *ctx, rp_log_level level, const char *line) {
  sink *s = ctx;
  s->lines++;
  s->level = level;
  snprintf(s->last, sizeof s->last, "%s", line);
}

static void the_log_goes_where_it_is_sent(void **state) {
  (void)state;
  sink s = {0};
  rp_log(RP_LOG_WARNING, "nobody hears this");
  rp_log_set(keep, &s, RP_LOG_NOTICE);
  rp_log(RP_LOG_INFO, "below");
  assert_int_equal(s.lines, 0);
  rp_log(RP_LOG_WARNING, "step %d of %.1f", 3, 4.5);
  assert_int_equal(s.lines, 1);
  assert_int_equal(s.level, RP_LOG_WARNING);
  assert_string_equal(s.last, "step 3 of 4.5");
  char longer[5000];
  memset(longer, 'x', sizeof longer - 1);
  longer[sizeof longer - 1] = 0;
  rp_log(RP_LOG_NOTICE, "%s", longer);
  assert_true(strlen(s.last) > 1000);
  rp_log_set(NULL, NULL, RP_LOG_DEBUG);
  rp_log(RP_LOG_WARNING, "nobody");
  assert_int_equal(s.lines, 2);
}

static void clocks_go_forward(void **state) {
  (void)state;
  double a = rp_now();
  usleep(2000);
  double b = rp_now();
  assert_true(b - a >= 0.002 && b - a < 5);
  assert_true(rp_wall_time() > 1.7e9);
}

static void the_build_tells_what_it_is(void **state) {
  (void)state;
  char want[64];
  snprintf(want, sizeof want, "%d.%d.%d", RP_VERSION_MAJOR, RP_VERSION_MINOR, RP_VERSION_PATCH);
  assert_string_equal(rp_version(), want);
  assert_non_null(strstr(rp_build_info(), want));
  assert_non_null(strstr(rp_build_info(), "commit: "));
  assert_non_null(strstr(rp_build_info(), "OpenMP"));
#if RATPLUS_WITH_ONEDNN
  assert_non_null(strstr(rp_build_info(), "onednn "));
#else
  assert_non_null(strstr(strstr(rp_build_info(), "left out"), "onednn"));
#endif
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(the_tightest_cgroup_v2_limit_counts),
    cmocka_unit_test(cgroup_v1_limits_count),
    cmocka_unit_test(strange_cgroup_files_are_no_limit),
    cmocka_unit_test(threads_follow_affinity_and_slurm),
    cmocka_unit_test(threads_are_what_was_set),
    cmocka_unit_test(levels_are_capped),
    cmocka_unit_test(anonymous_memory_is_seen),
    cmocka_unit_test(the_log_goes_where_it_is_sent),
    cmocka_unit_test(clocks_go_forward),
    cmocka_unit_test(the_build_tells_what_it_is),
};
CHECK_MAIN(tests)
