/* check.h - what every test file includes: cmocka, the seed, folders that vanish, and checks that
 * print the library's sentence.
 *
 *   #include "check.h"
 *   static void law_holds(void **state) { ... }
 *   static const struct CMUnitTest tests[] = {cmocka_unit_test(law_holds)};
 *   CHECK_MAIN(tests)
 *
 * The program takes one argument, a pattern of cases to run ("law_*"). Random choices come from
 * check_rng, so that SEED=n repeats them. A comment "label: slow" in a test file leaves the whole
 * file out of `make test-fast`; check_slow() at the start of a case leaves out that case. "label: alone"
 * and "label: threads" are told by tests/run.sh. */
#ifndef RP_CHECK_H
#define RP_CHECK_H

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/rng.h"
#include "base/str.h"

#ifdef __GNUC__
#define CHECK_MAYBE __attribute__((unused))
#endif

/* $SEED, or 1. */
CHECK_MAYBE static uint64_t check_seed(void) {
  const char *text = getenv("SEED");
  return text && *text ? strtoull(text, NULL, 10) : 1;
}

/* A generator of its own for each `stream` (a case takes any number it likes). */
CHECK_MAYBE static rp_rng check_rng(uint64_t stream) {
  rp_rng r;
  rp_rng_init(&r, check_seed(), RP_RNG_TEST, stream);
  return r;
}

/* A whole number in [low, high]. */
CHECK_MAYBE static int check_pick(rp_rng *r, int low, int high) {
  return low + (int)rp_rng_below(r, (uint64_t)(high - low) + 1);
}

CHECK_MAYBE static const char *check_dir_made; /* of this process, removed when it ends */

CHECK_MAYBE static void check_dir_remove(void) {
  if (check_dir_made) rp_remove_tree(check_dir_made, NULL);
}

/* A folder of this process under $TMPDIR or /tmp, empty at first, removed when it ends. */
CHECK_MAYBE static const char *check_dir(void) {
  static char path[512];
  if (check_dir_made) return path;
  const char *base = getenv("TMPDIR");
  snprintf(path, sizeof path, "%s/ratplus-test-XXXXXX", base && *base ? base : "/tmp");
  if (!mkdtemp(path)) fail_msg("cannot make a folder %s", path);
  check_dir_made = path;
  atexit(check_dir_remove);
  return path;
}

/* check_dir() + "/" + name; good until 64 further calls. */
CHECK_MAYBE static const char *check_path(const char *name) {
  static char paths[64][768];
  static int next;
  char *path = paths[next++ % 64];
  snprintf(path, sizeof paths[0], "%s/%s", check_dir(), name);
  return path;
}

/* A file of the source tree: check_source("tests/golden/x.bin"); good until 64 further calls. */
CHECK_MAYBE static const char *check_source(const char *name) {
  static char paths[64][768];
  static int next;
  char *path = paths[next++ % 64];
  snprintf(path, sizeof paths[0], "%s/%s", CHECK_SOURCE_DIR, name);
  return path;
}

/* A sanitizer looks on, which costs five times the time. */
CHECK_MAYBE static bool check_sanitized(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return true;
#elif defined(__has_feature) /* clang */
  return __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
  return false;
#endif
}

/* Rounds of a law that has many: all n; a quarter in `make test-fast`, and under a sanitizer, where
 * they run the same code. */
CHECK_MAYBE static int check_rounds(int n) {
  return !check_sanitized() && !getenv("CHECK_FAST") ? n : n / 4 > 1 ? n / 4 : 1;
}

/* Leaves this case out of `make test-fast`. */
#define check_slow() \
  do { \
    if (getenv("CHECK_FAST")) skip(); \
  } while (0)

/* Skips this case in a build that cannot compose configurations. */
#define check_needs_yaml() \
  do { \
    if (!RATPLUS_WITH_YAML) skip(); \
  } while (0)

/* The call succeeds; else its sentence is printed. `err` is the rp_error the call was given. */
#define check_ok(call, err) \
  do { \
    rp_status check_st_ = (call); \
    if (check_st_) fail_msg("%s: status %d: %s", #call, (int)check_st_, (err).text); \
  } while (0)

/* The call fails with `status`, and its sentence holds `part`. */
#define check_fails(call, want, err, part) \
  do { \
    memset(&(err), 0, sizeof(err)); \
    rp_status check_st_ = (call); \
    if (check_st_ != (want) || !strstr((err).text, (part))) \
      fail_msg("%s: status %d (wanted %d), sentence \"%s\" (wanted \"%s\")", #call, \
               (int)check_st_, (int)(want), (err).text, (part)); \
  } while (0)

/* |a - b| <= tolerance; NaN fails. */
#define check_close(a, b, tolerance) \
  do { \
    double check_a_ = (double)(a), check_b_ = (double)(b), check_d_ = check_a_ - check_b_; \
    if (!(check_d_ <= (double)(tolerance) && -check_d_ <= (double)(tolerance))) \
      fail_msg("%s = %.9g, %s = %.9g, apart by %.3g (allowed %.3g)", #a, check_a_, #b, check_b_, \
               check_d_, (double)(tolerance)); \
  } while (0)

CHECK_MAYBE static void check_begin(int argc, char **argv) {
  if (argc > 1) cmocka_set_test_filter(argv[1]);
  setvbuf(stdout, NULL, _IOLBF, 0); /* a sanitizer's end must not take the report with it */
  setlocale(LC_NUMERIC, "");
  printf("# %s SEED=%llu\n", argv[0], (unsigned long long)check_seed());
}

#define CHECK_MAIN(tests) \
  int main(int argc, char **argv) { \
    check_begin(argc, argv); \
    return cmocka_run_group_tests(tests, NULL, NULL) ? 1 : 0; \
  }

#endif
