/* mem.h - every host allocation of the library: overflow-checked, counted, and able to fail on
 * demand in tests. Any thread.
 *
 * Freed by rp_free (public). Contents are zeroed by rp_calloc only. */
#ifndef RP_BASE_MEM_H
#define RP_BASE_MEM_H

#include <stdbool.h>
#include "base/error.h"

/* n * size bytes, NULL when that overflows or memory is short. 64-byte aligned when >= 64 bytes. */
void *rp_malloc(size_t n, size_t size);
void *rp_calloc(size_t n, size_t size);
/* Like realloc for n * size bytes; the old block stays valid when NULL is returned. */
void *rp_realloc(void *p, size_t n, size_t size);
char *rp_strdup(const char *s);

/* Stores a*b (or a+b) in *out and returns true; false on overflow. */
bool rp_mul_size(size_t a, size_t b, size_t *out);
bool rp_add_size(size_t a, size_t b, size_t *out);

/* Grows *array (elements of `size` bytes, *cap of them) to hold at least `need`; doubles. */
rp_status rp_grow(void *array, size_t *cap, size_t need, size_t size, const char *what,
                  rp_error *err);

/* Bytes now held through the functions above, and the most ever held. */
size_t rp_mem_now(void);
size_t rp_mem_peak(void);

/* Tests: the n-th allocation from now (1 = the next) and all after it until reset fail; 0 resets.
 * Returns how many allocations were asked for since the last call. */
uint64_t rp_mem_fail_at(uint64_t n);

/* Debug builds: while on, an allocation by the calling thread is a fatal error of the test
 * (no allocation inside a training or decode step). Release builds: no effect. */
void rp_mem_forbid(bool on);

#endif
