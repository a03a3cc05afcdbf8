#include <stdatomic.h>
#include <stdlib.h>

#include "base/cpu.h"
#include "base/machine.h"
#include "base/str.h"

enum { MOST_THREADS = 4096 };

static _Atomic(int) in_force; /* 0: not asked for yet */

int rp_threads_default(void) {
  double cpus;
  uint64_t memory;
  int n = rp_machine_cores(true);
  rp_cgroup_limits("", &cpus, &memory);
  /* A thread beyond the quota would only be stopped in the middle of a barrier. */
  if (cpus > 0 && cpus < n) n = cpus < 1 ? 1 : (int)(cpus + 1e-6);
  const char *slurm = getenv("SLURM_CPUS_PER_TASK");
  int64_t given;
  if (slurm && rp_parse_i64(slurm, &given) && given >= 1 && given < n) n = (int)given;
  return n;
}

int rp_threads(void) {
  int n = atomic_load(&in_force);
  if (n) return n;
  int expected = 0;
  n = rp_threads_default();
  return atomic_compare_exchange_strong(&in_force, &expected, n) ? n : expected;
}

int rp_threads_set(int n) {
  if (n <= 0) n = rp_threads_default();
  if (n > MOST_THREADS) n = MOST_THREADS;
  atomic_store(&in_force, n);
  return n;
}
