#include "bench/place.h"

#include <string.h>

#include "base/cpu.h"
#include "ops/cpu/cpu_device.h"

void rp_bench_defaults(rp_bench_opts *o) { *o = (rp_bench_opts){.size = sizeof *o}; }

static rp_status open_named(rp_device **d, const char *name, bool parts, rp_error *err) {
  rp_device_kind kind = RP_DEVICE_CUDA;
  if (parts && strcmp(name, "guard") == 0) return rp_device_open(d, RP_DEVICE_GUARD, err);
  for (int i = 0; parts && i < RP_CPU_LEVELS; i++)
    if (strcmp(name, rp_cpu_level_name((rp_cpu_level)i)) == 0)
      return rp_cpu_device_open(d, (rp_cpu_level)i, err);
  if (!parts || strcmp(name, "cuda")) RP_TRY(rp_device_choose(name, &kind, err));
  return rp_device_open(d, kind, err);
}

rp_status rp_bench_device(rp_device **d, const char *name, bool parts, rp_error *err) {
  rp_error why;
  *d = NULL;
  if (!name) name = "cpu";
  const rp_status st = open_named(d, name, parts, &why);
  return st ? rp_fail(err, st, "device %s: %s", name, why.text) : RP_OK;
}

void rp_bench_place(rp_str *b, const rp_device *d) {
  rp_str_add(b, rp_device_label(d));
  if (!rp_device_apart(d))
    rp_str_addf(b, ", %d thread%s", rp_threads(), rp_threads() == 1 ? "" : "s");
}

/* A GPU keeps some for itself that it does not tell of: contexts, stacks, ends of blocks. */
uint64_t rp_bench_memory(const rp_device *d, uint64_t asked) {
  uint64_t there = rp_device_available(d);
  if (rp_device_apart(d)) there -= there / 32;
  return asked && asked < there ? asked : there;
}
