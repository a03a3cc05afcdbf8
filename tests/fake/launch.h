/* launch.h - between the stand-in of the driver and emulate.cc, which runs its kernels. */
#ifndef RP_FAKE_LAUNCH_H
#define RP_FAKE_LAUNCH_H

#include <stdbool.h>

/* A kernel as emulate.cc runs it, one block after the other; false: it stopped the device. */
typedef void (*fake_kernel)(const void *args);
#ifdef __cplusplus
extern "C"
#endif
    bool
    fake_emulate(fake_kernel k, const unsigned grid[3], unsigned threads, unsigned shared,
                 const void *args);

#endif
