/* cpu.h - what this processor is, which level of kernels runs on it, how many threads to use. */
#ifndef RP_BASE_CPU_H
#define RP_BASE_CPU_H

#include "base/error.h"

/* Kernel levels in rising order; RATPLUS_CPU=ref|avx2|avx512|avx512_bf16, read once, caps what is used. */
typedef enum {
  RP_CPU_REF = 0,
  RP_CPU_AVX2 = 1,
  RP_CPU_AVX512 = 2,
  RP_CPU_AVX512_BF16 = 3,
  RP_CPU_LEVELS = 4
} rp_cpu_level;

rp_cpu_level rp_cpu_best(void); /* what the processor can do */
rp_cpu_level rp_cpu_now(void);  /* best, capped by RATPLUS_CPU and rp_cpu_cap */
/* Tests and benchmarks: caps further; RP_CPU_AVX512_BF16 lifts it. */
void rp_cpu_cap(rp_cpu_level cap);
const char *rp_cpu_level_name(rp_cpu_level level);

typedef struct {
  char name[64]; /* as the processor calls itself */
  char vendor[16];
  int family, model;
  int avx2, avx512, avx512_bf16, amx_bf16;
  int cores, affinity_cores;                 /* physical cores, and of the affinity mask */
  double cgroup_cpus;                        /* cpu.max; 0 without a limit */
  uint64_t memory_bytes, memory_limit_bytes; /* physical; the cgroup's limit or 0 */
} rp_cpu_info;
const rp_cpu_info *rp_cpu(void); /* read once */

/* Threads in force: as set by rp_threads_set (public); its default otherwise. Parallel regions say
 * num_threads(rp_threads()); nothing sets OpenMP's own defaults. */
int rp_threads(void);
/* What rp_threads_set(0) comes to, computed anew (affinity and cgroup may have changed). */
int rp_threads_default(void);

/* The tightest cgroup limits of this process (v1 and v2), 0 where there is none. `root` is put in
 * front of /proc and /sys; "" except in tests. */
void rp_cgroup_limits(const char *root, double *cpus, uint64_t *memory);

/* Memory that a new run may count on: free physical memory, capped by the cgroup. */
uint64_t rp_memory_available(void);
/* Anonymous memory of this process now (RssAnon), and its peak as far as the kernel tells: VmHWM
 * less the file pages resident now. Both 0 where /proc is missing. */
uint64_t rp_memory_anonymous(void);
uint64_t rp_memory_anonymous_peak(void);

#endif
