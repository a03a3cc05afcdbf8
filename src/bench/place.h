/* place.h - the device that a benchmark runs on. */
#ifndef RP_BENCH_PLACE_H
#define RP_BENCH_PLACE_H

#include "base/str.h"
#include "ops/device.h"
#include "ratplus/bench.h"

/* Opens what --device names (NULL: the processor); RP_USAGE. `parts`: guard, and a level of the
 * processor's kernels, are names as well, and a GPU may lack ops. */
rp_status rp_bench_device(rp_device **d, const char *name, bool parts, rp_error *err);
/* "AMD EPYC, 2 threads", or the GPU. */
void rp_bench_place(rp_str *b, const rp_device *d);
/* Bytes of the device that a benchmark may take: at most `asked` (0: what is free now). */
uint64_t rp_bench_memory(const rp_device *d, uint64_t asked);

#endif
