/* The cache of `ratplus bench machine --cached`: one text file a result. */
#include "cli/machine_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"

/* The kernel's name for this boot: 36 letters and dashes. */
static void boot_id(char out[40]) {
  FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
  if (!f || !fgets(out, 40, f)) snprintf(out, 40, "unknown");
  if (f) fclose(f);
  out[strspn(out, "0123456789abcdef-")] = '\0';
}

/* What RATPLUS_CPU allows, as far as it is one of the names. */
static const char *cap(void) {
  static const char *const names[] = {"ref", "avx2", "avx512", "avx512_bf16"};
  const char *told = getenv("RATPLUS_CPU");
  for (int i = 0; told && i < 4; i++)
    if (strcmp(told, names[i]) == 0) return names[i];
  return "all";
}

bool cli_machine_file(char *path, int size, int threads, bool json) {
  const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  const bool own = cache && *cache == '/';
  char boot[40];
  if (!own && (!home || *home != '/')) {
    cli_fail(RP_USAGE, "--cached: neither XDG_CACHE_HOME nor HOME names a folder");
    return false;
  }
  boot_id(boot);
  const int n =
      snprintf(path, (size_t)size, "%s%s/ratplus/machine-%s-%s-t%d-%s.%s", own ? cache : home,
               own ? "" : "/.cache", boot, rp_version(), threads, cap(), json ? "json" : "txt");
  if (n > 0 && n < size) return true;
  cli_fail(RP_USAGE, "--cached: the name of its file is too long");
  return false;
}

bool cli_machine_print(const char *path) {
  char buf[4096];
  size_t n, all = 0;
  FILE *f = fopen(path, "r");
  if (!f) return false;
  while ((n = fread(buf, 1, sizeof buf, f)) > 0) all += fwrite(buf, 1, n, stdout);
  fclose(f);
  if (all) cli_note("as measured before: %s", path);
  return all > 0;
}

int cli_machine_keep(char *path, const char *text) {
  for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
    *at = '\0';
    const bool bad = mkdir(path, 0777) && errno != EEXIST;
    const int why = errno;
    *at = '/';
    if (bad) return cli_fail(RP_FAIL, "cannot write %s: %s", path, strerror(why));
  }
  return cli_write_file(path, text);
}
