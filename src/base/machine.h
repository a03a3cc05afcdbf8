/* machine.h - what Linux tells in /proc and /sys, read anew at each call. base/cpu.h is the way in;
 * this header serves base/ alone. Any thread. */
#ifndef RP_BASE_MACHINE_H
#define RP_BASE_MACHINE_H

#include <stdbool.h>
#include <stddef.h>

/* Physical cores, of the affinity mask only or all that are online; at least 1. */
int rp_machine_cores(bool affinity_only);

/* The name of the processor where it does not tell itself (device tree, /proc/cpuinfo). */
void rp_machine_name(char *out, size_t cap);

#endif
