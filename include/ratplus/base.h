/* ratplus/base.h - statuses, errors, version and logging of libratplus.
 *
 * Whatever can fail returns rp_status and leaves a sentence for a person in the caller's rp_error.
 * The library never prints, exits, aborts, installs signal handlers or touches the locale. */
#ifndef RATPLUS_BASE_H
#define RATPLUS_BASE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define RP_API __attribute__((visibility("default")))
#define RP_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define RP_API
#define RP_PRINTF(fmt, args)
#endif

#define RP_VERSION_MAJOR 0
#define RP_VERSION_MINOR 1
#define RP_VERSION_PATCH 0

/* The values are the exit codes of the program. */
typedef enum {
  RP_OK = 0,
  RP_FAIL = 1,      /* run-time failure: input/output, a device, a rank */
  RP_USAGE = 2,     /* wrong usage or configuration */
  RP_BAD_DATA = 3,  /* bad data, model or checkpoint */
  RP_NO_MEMORY = 4, /* out of memory, or a plan that will not fit */
  RP_STOPPED = 75   /* stopped on request, state saved */
} rp_status;

/* A caller's error. Initialise with {0}; it owns no memory. */
typedef struct {
  rp_status status;
  char text[2048]; /* what, where, what to do; no newline at the end */
} rp_error;

/* "0.1.0"; static. */
RP_API const char *rp_version(void);
/* Several lines: version, commit, features and the libraries built in; static. */
RP_API const char *rp_build_info(void);

typedef enum {
  RP_LOG_DEBUG = 0,
  RP_LOG_INFO = 1,
  RP_LOG_NOTICE = 2,
  RP_LOG_WARNING = 3
} rp_log_level;
typedef void (*rp_log_fn)(void *ctx, rp_log_level level, const char *line);
/* Sends the library's messages of at least `level` to fn, from any thread, one line a call without
 * a newline. fn NULL (the default) is silence. Process-wide. */
RP_API void rp_log_set(rp_log_fn fn, void *ctx, rp_log_level level);

/* Frees what a function of this library returned as "free with rp_free". NULL is fine. */
RP_API void rp_free(void *p);

/* Threads the library may use from here on; 0: physical cores of the affinity mask, capped by the
 * cgroup's cpu.max and SLURM_CPUS_PER_TASK. Returns the number in force. */
RP_API int rp_threads_set(int n);

#ifdef __cplusplus
}
#endif
#endif
