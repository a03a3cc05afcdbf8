#include "base/cpu.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/machine.h"
#include "base/str.h"

static rp_cpu_info info;
static rp_cpu_level best_level, masked_level;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Atomic(int) test_cap = RP_CPU_AVX512_BF16;

const char *rp_cpu_level_name(rp_cpu_level level) {
  static const char *const names[] = {"ref", "avx2", "avx512", "avx512_bf16"};
  return level < RP_CPU_LEVELS ? names[level] : "unknown";
}

#if defined(__x86_64__)
static bool bit(unsigned reg, int n) { return reg >> n & 1; }

/* Which register files the operating system saves. */
static unsigned saved_state(void) {
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

static void read_family(unsigned eax) {
  info.family = eax >> 8 & 15;
  info.model = eax >> 4 & 15;
  if (info.family == 15) info.family += eax >> 20 & 255;
  if (info.family == 6 || info.family >= 15) info.model |= (eax >> 16 & 15) << 4;
}

static void read_features(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return;
  read_family(a);
  bool fma = bit(c, 12), f16c = bit(c, 29), osxsave = bit(c, 27), avx = bit(c, 28);
  unsigned saved = osxsave ? saved_state() : 0;
  bool ymm = (saved & 0x6) == 0x6, zmm = ymm && (saved & 0xe0) == 0xe0;
  bool tiles = (saved & 0x60000) == 0x60000;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
  info.avx2 = ymm && avx && fma && f16c && bit(b, 5);
  /* F, DQ, BW and VL */
  info.avx512 = info.avx2 && zmm && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);
  info.amx_bf16 = info.avx512 && tiles && bit(d, 22) && bit(d, 24);
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) info.avx512_bf16 = info.avx512 && bit(a, 5);
}

static void read_name(void) {
  unsigned r[4];
  if (__get_cpuid(0, &r[0], &r[1], &r[2], &r[3])) {
    memcpy(info.vendor, &r[1], 4);
    memcpy(info.vendor + 4, &r[3], 4);
    memcpy(info.vendor + 8, &r[2], 4);
  }
  char name[49] = {0};
  for (unsigned i = 0; i < 3; i++) {
    if (!__get_cpuid(0x80000002u + i, &r[0], &r[1], &r[2], &r[3])) return;
    memcpy(name + 16 * i, r, 16);
  }
  const char *begin = name + strspn(name, " ");
  rp_snprintf(info.name, sizeof info.name, "%s", begin);
}
#else
static void read_features(void) {}

static void read_name(void) { rp_machine_name(info.name, sizeof info.name); }
#endif

static rp_cpu_level masked(rp_cpu_level level) {
  const char *mask = getenv("RATPLUS_CPU");
  for (int i = 0; mask && i < RP_CPU_LEVELS; i++)
    if (strcmp(mask, rp_cpu_level_name((rp_cpu_level)i)) == 0 && (int)level > i)
      return (rp_cpu_level)i;
  return level;
}

static void detect(void) {
  read_name();
  read_features();
  if (!info.name[0]) rp_snprintf(info.name, sizeof info.name, "unknown processor");
  best_level = info.avx512_bf16 ? RP_CPU_AVX512_BF16
               : info.avx512    ? RP_CPU_AVX512
               : info.avx2      ? RP_CPU_AVX2
                                : RP_CPU_REF;
  masked_level = masked(best_level);
  info.affinity_cores = rp_machine_cores(true);
  info.cores = rp_machine_cores(false);
  rp_cgroup_limits("", &info.cgroup_cpus, &info.memory_limit_bytes);
  info.memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

const rp_cpu_info *rp_cpu(void) {
  pthread_once(&once, detect);
  return &info;
}

rp_cpu_level rp_cpu_best(void) {
  rp_cpu();
  return best_level;
}

rp_cpu_level rp_cpu_now(void) {
  rp_cpu();
  int cap = atomic_load(&test_cap);
  return (int)masked_level < cap ? masked_level : (rp_cpu_level)cap;
}

void rp_cpu_cap(rp_cpu_level cap) { atomic_store(&test_cap, (int)cap); }
