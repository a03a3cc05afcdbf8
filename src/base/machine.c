#include "base/machine.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/str.h"

enum { CPUS = 8192, PAGE_OF_TEXT = 16384 };

/* Files of /proc and /sys are short; what does not fit is cut. False when there is none. */
static bool read_text(const char *path, char text[PAGE_OF_TEXT]) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  size_t have = 0;
  ssize_t n = 1;
  while (have < PAGE_OF_TEXT - 1 && (n = read(fd, text + have, PAGE_OF_TEXT - 1 - have)) > 0)
    have += (size_t)n;
  close(fd);
  text[have] = 0;
  return n >= 0;
}

/* The number after `name` at the beginning of a line, times `unit`; `missing` when absent. */
static uint64_t field(const char *text, const char *name, uint64_t unit, uint64_t missing) {
  size_t n = strlen(name);
  for (const char *line = text; line; line = strchr(line, '\n')) {
    line += *line == '\n';
    if (strncmp(line, name, n) == 0) return strtoull(line + n, NULL, 10) * unit;
  }
  return missing;
}

/* The lowest hardware thread of cpu's core stands for the core; cpu itself where unknown. */
static int core_of(int cpu) {
  char path[96], text[PAGE_OF_TEXT];
  rp_snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list",
              cpu);
  if (!read_text(path, text)) return cpu;
  int first = atoi(text);
  return first >= 0 && first < CPUS ? first : cpu;
}

static bool in_list(const char *list, int cpu) {
  while (*list) {
    char *end;
    long a = strtol(list, &end, 10), b = a;
    if (end == list) return false;
    if (*end == '-') b = strtol(end + 1, &end, 10);
    if (cpu >= a && cpu <= b) return true;
    list = end + (*end == ',');
  }
  return false;
}

static int count_cores(const cpu_set_t *mask, size_t bytes, const char *online) {
  bool seen[CPUS] = {false};
  int cores = 0;
  for (int cpu = 0; cpu < CPUS; cpu++) {
    if (mask ? !CPU_ISSET_S(cpu, bytes, mask) : !in_list(online, cpu)) continue;
    int core = core_of(cpu);
    cores += !seen[core];
    seen[core] = true;
  }
  return cores;
}

int rp_machine_cores(bool affinity_only) {
  char online[PAGE_OF_TEXT];
  int cores = 0;
  if (affinity_only) {
    size_t bytes = CPU_ALLOC_SIZE(CPUS);
    cpu_set_t *mask = rp_calloc(1, bytes);
    if (mask && !sched_getaffinity(0, bytes, mask)) cores = count_cores(mask, bytes, NULL);
    rp_free(mask);
  } else if (read_text("/sys/devices/system/cpu/online", online)) {
    cores = count_cores(NULL, 0, online);
  }
  if (cores < 1) cores = (int)sysconf(_SC_NPROCESSORS_ONLN);
  return cores < 1 ? 1 : cores;
}

void rp_machine_name(char *out, size_t cap) {
  char text[PAGE_OF_TEXT];
  out[0] = 0;
  if (read_text("/proc/device-tree/model", text)) {
    rp_snprintf(out, cap, "%s", text);
  } else if (read_text("/proc/cpuinfo", text)) {
    const char *p = strstr(text, "model name");
    p = p ? strchr(p, ':') : NULL;
    if (p) rp_snprintf(out, cap, "%.*s", (int)strcspn(p + 2, "\n"), p + 2);
  }
}

/* ---- cgroups ------------------------------------------------------------------------------
 * A limit on any ancestor counts, so the path is walked up to the mount point. In a container the
 * path of /proc/self/cgroup may lie outside of what is mounted; the files that do not exist are
 * passed over, and the walk still ends at the mount point, which is then the container's own. */

typedef struct {
  const char *root;  /* put in front of everything */
  const char *mount; /* "/sys/fs/cgroup", "/sys/fs/cgroup/memory", ... */
  char path[1024];   /* below the mount point, with a leading / or empty */
} place;

static bool read_in(const place *p, const char *name, char text[PAGE_OF_TEXT]) {
  char path[2048];
  int n = rp_snprintf(path, sizeof path, "%s%s%s/%s", p->root, p->mount, p->path, name);
  return n < (int)sizeof path && read_text(path, text);
}

static bool up(place *p) {
  char *slash = strrchr(p->path, '/');
  if (!slash) return false;
  *slash = 0;
  return true;
}

/* Fills p from the line of /proc/self/cgroup whose controllers hold `controller` ("" is v2's). */
static bool find_place(place *p, const char *root, const char *controller, const char *mount) {
  char path[1024], text[PAGE_OF_TEXT];
  *p = (place){.root = root, .mount = mount};
  rp_snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
  if (!read_text(path, text)) return false;
  char *save = NULL;
  for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
    char *names = strchr(line, ':'), *where = names ? strchr(names + 1, ':') : NULL;
    if (!where) continue;
    *where++ = 0;
    names++;
    bool found = !*controller && !*names;
    char *save2 = NULL;
    for (char *s = strtok_r(names, ",", &save2); s; s = strtok_r(NULL, ",", &save2))
      found = found || (*controller && strcmp(s, controller) == 0);
    if (!found) continue;
    rp_snprintf(p->path, sizeof p->path, "%s", strcmp(where, "/") == 0 ? "" : where);
    return true;
  }
  return false;
}

static void lower_cpus(double *cpus, double quota, double period) {
  if (quota <= 0 || period <= 0) return;
  if (*cpus == 0 || quota / period < *cpus) *cpus = quota / period;
}

static void lower_memory(uint64_t *memory, uint64_t limit) {
  /* v1 writes "no limit" as a huge number */
  if (limit == 0 || limit >= UINT64_MAX / 4) return;
  if (*memory == 0 || limit < *memory) *memory = limit;
}

static void limits_v2(const char *root, double *cpus, uint64_t *memory) {
  place p;
  char text[PAGE_OF_TEXT];
  if (!find_place(&p, root, "", "/sys/fs/cgroup")) return;
  do {
    if (read_in(&p, "cpu.max", text) && text[0] != 'm') {
      char *end;
      double quota = (double)strtoll(text, &end, 10);
      lower_cpus(cpus, quota, (double)strtoll(end, NULL, 10));
    }
    if (read_in(&p, "memory.max", text) && text[0] != 'm')
      lower_memory(memory, strtoull(text, NULL, 10));
  } while (up(&p));
}

static void limits_v1(const char *root, double *cpus, uint64_t *memory) {
  place p;
  char quota[PAGE_OF_TEXT], period[PAGE_OF_TEXT];
  if (find_place(&p, root, "cpu", "/sys/fs/cgroup/cpu")) {
    do {
      if (read_in(&p, "cpu.cfs_quota_us", quota) && read_in(&p, "cpu.cfs_period_us", period))
        lower_cpus(cpus, (double)strtoll(quota, NULL, 10), (double)strtoll(period, NULL, 10));
    } while (up(&p));
  }
  if (find_place(&p, root, "memory", "/sys/fs/cgroup/memory")) {
    do {
      if (read_in(&p, "memory.limit_in_bytes", quota))
        lower_memory(memory, strtoull(quota, NULL, 10));
    } while (up(&p));
  }
}

void rp_cgroup_limits(const char *root, double *cpus, uint64_t *memory) {
  *cpus = 0;
  *memory = 0;
  limits_v2(root, cpus, memory);
  limits_v1(root, cpus, memory);
}

/* Room left under one cgroup's limit: pages of files it read can be dropped, so they do not count. */
static void lower_room(uint64_t *room, const char *limit, const char *used, const char *stat,
                       const char *inactive) {
  if (limit[0] == 'm') return;
  uint64_t most = strtoull(limit, NULL, 10);
  if (most == 0 || most >= UINT64_MAX / 4) return;
  uint64_t held = strtoull(used, NULL, 10), files = field(stat, inactive, 1, 0);
  held = held > files ? held - files : 0;
  uint64_t left = most > held ? most - held : 0;
  if (left < *room) *room = left;
}

static void cap_by_cgroups(uint64_t *room) {
  static const struct {
    const char *controller, *mount, *limit, *used, *inactive;
  } kinds[] = {
      {"", "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "},
      {"memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
       "total_inactive_file "},
  };
  char limit[PAGE_OF_TEXT], used[PAGE_OF_TEXT], stat[PAGE_OF_TEXT];
  for (size_t i = 0; i < 2; i++) {
    place p;
    if (!find_place(&p, "", kinds[i].controller, kinds[i].mount)) continue;
    do {
      if (!read_in(&p, kinds[i].limit, limit) || !read_in(&p, kinds[i].used, used)) continue;
      if (!read_in(&p, "memory.stat", stat)) stat[0] = 0;
      lower_room(room, limit, used, stat, kinds[i].inactive);
    } while (up(&p));
  }
}

uint64_t rp_memory_available(void) {
  char text[PAGE_OF_TEXT];
  uint64_t room = UINT64_MAX;
  if (read_text("/proc/meminfo", text)) room = field(text, "MemAvailable:", 1024, UINT64_MAX);
  if (room == UINT64_MAX) room = rp_cpu()->memory_bytes;
  cap_by_cgroups(&room);
  return room;
}

uint64_t rp_memory_anonymous(void) {
  char text[PAGE_OF_TEXT];
  return read_text("/proc/self/status", text) ? field(text, "RssAnon:", 1024, 0) : 0;
}

uint64_t rp_memory_anonymous_peak(void) {
  char text[PAGE_OF_TEXT];
  if (!read_text("/proc/self/status", text)) return 0;
  uint64_t now = field(text, "RssAnon:", 1024, 0), peak = field(text, "VmHWM:", 1024, 0);
  uint64_t files = field(text, "RssFile:", 1024, 0) + field(text, "RssShmem:", 1024, 0);
  return peak > files + now ? peak - files : now;
}
