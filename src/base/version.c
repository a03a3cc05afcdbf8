#include <pthread.h>

#include "base/cpu.h"
#include "base/str.h"
#include "ratplus_build.h" /* made by the build: RATPLUS_COMMIT, RATPLUS_LIBRARIES */

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

static char build_info[1024];
static pthread_once_t once = PTHREAD_ONCE_INIT;

const char *rp_version(void) {
  return TEXT(RP_VERSION_MAJOR) "." TEXT(RP_VERSION_MINOR) "." TEXT(RP_VERSION_PATCH);
}

static void describe(void) {
#if defined(__x86_64__)
  const char *machine = "x86-64, levels ref avx2 avx512";
#else
  const char *machine = "arm64, level ref";
#endif
  rp_snprintf(build_info, sizeof build_info,
              "ratplus %s\n"
              "commit: %s\n"
              "kernels: %s\n"
              "built in: OpenMP %d%s\n"
              "left out: %s",
              rp_version(), RATPLUS_COMMIT, machine, _OPENMP, RATPLUS_LIBRARIES, RATPLUS_LEFT_OUT);
}

const char *rp_build_info(void) {
  pthread_once(&once, describe);
  return build_info;
}
