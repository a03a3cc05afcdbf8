/* cpu.h - what this processor is, which level of kernels runs on it, how many threads to use. */
#ifndef RP_BASE_CPU_H
#define RP_BASE_CPU_H

#include "base/error.h"

/* Kernel levels in rising order; RATPLUS_CPU=ref|avx2|avx512, read once, caps what is used. */
typedef enum { RP_CPU_REF = 0, RP_CPU_AVX2 = 1, RP_CPU_AVX512 = 2, RP_CPU_LEVELS = 3 } rp_cpu_level;

rp_cpu_level rp_cpu_best(void);    /* what the processor can do */
rp_cpu_level rp_cpu_now(void);     /* best, capped by RATPLUS_CPU and rp_cpu_cap */
void rp_cpu_cap(rp_cpu_level cap); /* tests and benchmarks: caps further; RP_CPU_AVX512 lifts it */
const char *rp_cpu_level_name(rp_cpu_level level);

typedef struct {
  char name[64];                    /* as the processor calls itself */
  char vendor[16];
  int family, model;
  int avx2, avx512, avx512_bf16, amx_bf16;
  int cores, affinity_cores;        /* physical cores, and of the affinity mask */
  double cgroup_cpus;               /* cpu.max; 0 without a limit */
  uint64_t memory_bytes, memory_limit_bytes; /* physical; the cgroup's limit or 0 */
} rp_cpu_info;
const rp_cpu_info *rp_cpu(void); /* read once */

int rp_threads(void); /* as set by rp_threads_set (public); its default otherwise */

/* Memory that a new run may count on: free physical memory, capped by the cgroup. */
uint64_t rp_memory_available(void);
/* Anonymous memory of this process now, and its peak as far as the kernel tells (VmHWM-based). */
uint64_t rp_memory_anonymous(void);

#endif
