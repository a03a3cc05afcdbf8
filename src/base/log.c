#include "base/log.h"

#include <pthread.h>
#include <time.h>

#include "base/str.h"

/* A reader holds the lock while the callback runs, so that after rp_log_set has returned the former
 * callback is never entered again. */
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static rp_log_fn sink;
static void *sink_ctx;
static rp_log_level sink_level;

void rp_log_set(rp_log_fn fn, void *ctx, rp_log_level level) {
  pthread_rwlock_wrlock(&lock);
  sink = fn;
  sink_ctx = ctx;
  sink_level = level;
  pthread_rwlock_unlock(&lock);
}

void rp_log(rp_log_level level, const char *fmt, ...) {
  pthread_rwlock_rdlock(&lock);
  if (sink && level >= sink_level) {
    char line[2048];
    va_list ap;
    va_start(ap, fmt);
    rp_vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    sink(sink_ctx, level, line);
  }
  pthread_rwlock_unlock(&lock);
}

static double seconds(clockid_t clock) {
  struct timespec t = {0};
  clock_gettime(clock, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double rp_now(void) { return seconds(CLOCK_MONOTONIC); }

double rp_wall_time(void) { return seconds(CLOCK_REALTIME); }
