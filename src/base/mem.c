#include "base/mem.h"

#include <assert.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

static atomic_size_t held, most_held;
static atomic_uint_fast64_t asked, fail_from; /* fail_from 0: never */

#ifndef NDEBUG
static _Thread_local bool forbidden;
#endif

void rp_mem_forbid(bool on) {
#ifndef NDEBUG
  forbidden = on;
#else
  (void)on;
#endif
}

uint64_t rp_mem_fail_at(uint64_t n) {
  atomic_store(&fail_from, 0);
  uint64_t before = atomic_exchange(&asked, 0);
  atomic_store(&fail_from, n);
  return before;
}

bool rp_mul_size(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }

bool rp_add_size(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

/* Counts one request; false when a test wants it to fail. */
static bool allowed(void) {
#ifndef NDEBUG
  assert(!forbidden && "an allocation inside a step");
#endif
  uint64_t nth = atomic_fetch_add(&asked, 1) + 1;
  uint64_t from = atomic_load(&fail_from);
  return !from || nth < from;
}

static void count(void *p) {
  size_t size = malloc_usable_size(p);
  size_t now = atomic_fetch_add(&held, size) + size;
  size_t peak = atomic_load(&most_held);
  while (now > peak && !atomic_compare_exchange_weak(&most_held, &peak, now)) {
  }
}

static void *take(size_t bytes) {
  void *p = NULL;
  if (bytes >= ALIGNMENT) {
    if (posix_memalign(&p, ALIGNMENT, bytes)) return NULL;
  } else {
    p = malloc(bytes ? bytes : 1);
  }
  if (p) count(p);
  return p;
}

/* PTRDIFF_MAX also keeps the size within what malloc promises to refuse. */
static bool size_of(size_t n, size_t size, size_t *bytes) {
  return rp_mul_size(n, size, bytes) && *bytes <= PTRDIFF_MAX;
}

void *rp_malloc(size_t n, size_t size) {
  size_t bytes;
  if (!allowed() || !size_of(n, size, &bytes)) return NULL;
  return take(bytes);
}

void *rp_calloc(size_t n, size_t size) {
  void *p = rp_malloc(n, size);
  if (p) memset(p, 0, n * size);
  return p;
}

void *rp_realloc(void *p, size_t n, size_t size) {
  size_t bytes;
  if (!allowed() || !size_of(n, size, &bytes)) return NULL;
  void *grown = take(bytes);
  if (!grown || !p) return grown;
  size_t old = malloc_usable_size(p);
  memcpy(grown, p, old < bytes ? old : bytes);
  rp_free(p);
  return grown;
}

void rp_free(void *p) {
  if (!p) return;
  atomic_fetch_sub(&held, malloc_usable_size(p));
  free(p);
}

char *rp_strdup(const char *s) {
  size_t n = strlen(s) + 1;
  char *copy = rp_malloc(n, 1);
  if (copy) memcpy(copy, s, n);
  return copy;
}

rp_status rp_grow(void *array, size_t *cap, size_t need, size_t size, const char *what,
                  rp_error *err) {
  if (need <= *cap) return RP_OK;
  size_t want = *cap > SIZE_MAX / 2 ? need : *cap * 2;
  if (want < need) want = need;
  if (want < 16) want = 16;
  void *old;
  memcpy(&old, array, sizeof old);
  void *grown = rp_realloc(old, want, size);
  if (!grown) {
    size_t bytes;
    if (!rp_mul_size(want, size, &bytes)) bytes = SIZE_MAX;
    return rp_fail_memory(err, bytes, what);
  }
  memcpy(array, &grown, sizeof grown);
  *cap = want;
  return RP_OK;
}

size_t rp_mem_now(void) { return atomic_load(&held); }

size_t rp_mem_peak(void) { return atomic_load(&most_held); }
