#include "train/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"

typedef struct {
  char host[256], job[256];
  int64_t pid; /* 0: the file says nothing */
} holder;

static void host_name(char out[256]) {
  memset(out, 0, 256);
  if (gethostname(out, 255) || !out[0]) strcpy(out, "localhost");
}

static void copy_field(const rp_json *o, const char *key, char out[256]) {
  const rp_json *v = rp_json_get(o, key);
  if (v && v->type == RP_JSON_STRING) rp_snprintf(out, 256, "%s", v->string);
}

/* What the locked file says; anything odd counts as nobody. */
static holder read_holder(int fd) {
  holder h = {.pid = 0};
  char text[2048];
  const ssize_t n = pread(fd, text, sizeof text, 0);
  rp_json_doc *doc = NULL;
  if (n <= 0 || rp_json_parse(&doc, text, (size_t)n, "lock", NULL)) return h;
  const rp_json *o = rp_json_root(doc);
  const rp_json *pid = o->type == RP_JSON_OBJECT ? rp_json_get(o, "pid") : NULL;
  if (pid && pid->type == RP_JSON_INT) {
    h.pid = pid->integer;
    copy_field(o, "host", h.host);
    copy_field(o, "job", h.job);
  }
  rp_json_free(doc);
  return h;
}

static void describe(const holder *h, char *out, size_t cap) {
  rp_snprintf(out, cap, "host %s, process %lld%s%s", h->host, (long long)h->pid,
              h->job[0] ? ", job " : "", h->job);
}

static rp_status held(const char *run_dir, const holder *h, bool remote, rp_error *err) {
  char who[640] = "another process";
  if (h->pid) describe(h, who, sizeof who);
  return rp_fail(err, RP_USAGE, "%s: this run is held by %s; %s", run_dir, who,
                 remote ? "if that process is gone, start with --take-over"
                        : "wait for it, stop it, or give another run_dir=");
}

static rp_status write_holder(int fd, const char *path, const char *job, rp_error *err) {
  char host[256];
  host_name(host);
  rp_str b = {0};
  rp_str_add(&b, "{\"host\":");
  rp_json_add_string(&b, host);
  rp_str_addf(&b, ",\"pid\":%ld", (long)getpid());
  if (job && *job) {
    rp_str_add(&b, ",\"job\":");
    rp_json_add_string(&b, job);
  }
  rp_str_add(&b, "}\n");
  rp_status st = RP_OK;
  if (b.failed)
    st = rp_fail_memory(err, 512, "the lock");
  else if (ftruncate(fd, 0) || pwrite(fd, b.s, b.len, 0) != (ssize_t)b.len || fsync(fd))
    st = rp_fail_errno(err, "cannot write", path);
  rp_str_free(&b);
  return st;
}

/* The descriptor is of the file that now stands at path (not one that was just removed). */
static bool still_there(int fd, const char *path) {
  struct stat a, b;
  return !fstat(fd, &a) && !stat(path, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static bool alive(int64_t pid) { return kill((pid_t)pid, 0) == 0 || errno != ESRCH; }

/* Opens and locks path; *busy when somebody else has it. On a file system without flock a process
 * of this machine that lives is taken to be the holder. */
static rp_status open_locked(const char *path, int *fd, bool *busy, rp_error *err) {
  for (;;) {
    *busy = false;
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (*fd < 0) return rp_fail_errno(err, "cannot open the lock", path);
    if (flock(*fd, LOCK_EX | LOCK_NB)) {
      *busy = errno == EWOULDBLOCK;
      char here[256];
      host_name(here);
      const holder h = read_holder(*fd);
      if (h.pid && strcmp(h.host, here) == 0 && h.pid != getpid() && alive(h.pid)) *busy = true;
    }
    if (*busy || still_there(*fd, path)) return RP_OK;
    close(*fd);
  }
}

rp_status rp_lock_take(rp_lock *l, const char *run_dir, const char *job, bool take_over,
                       rp_error *err) {
  rp_status st = RP_OK;
  bool busy = false;
  char here[256];
  host_name(here);
  *l = (rp_lock){.fd = -1};
  l->path = rp_path_join(run_dir, "lock");
  if (!l->path) return rp_fail_memory(err, strlen(run_dir), "a path");
  RP_GO(open_locked(l->path, &l->fd, &busy, err));
  const holder h = read_holder(l->fd);
  const bool remote = h.pid && strcmp(h.host, here) != 0;
  if (busy && !(remote && take_over)) RP_GO(held(run_dir, &h, remote, err));
  if (remote && !take_over) RP_GO(held(run_dir, &h, true, err));
  if (busy) { /* a remote holder on a file system that shares flock: a file of our own */
    close(l->fd);
    l->fd = -1;
    if (unlink(l->path)) RP_GO(rp_fail_errno(err, "cannot remove", l->path));
    RP_GO(open_locked(l->path, &l->fd, &busy, err));
    if (busy) RP_GO(held(run_dir, &h, false, err));
  }
  RP_GO(write_holder(l->fd, l->path, job, err));
  return RP_OK;
fail:
  if (l->fd >= 0) close(l->fd);
  l->fd = -1;
  rp_lock_drop(l);
  return st;
}

void rp_lock_drop(rp_lock *l) {
  if (l->path && l->fd >= 0) {
    if (still_there(l->fd, l->path)) unlink(l->path);
    close(l->fd);
  }
  rp_free(l->path);
  *l = (rp_lock){.fd = -1};
}

rp_status rp_lock_moved(rp_lock *l, const char *run_dir, rp_error *err) {
  char *path = rp_path_join(run_dir, "lock");
  if (!path) return rp_fail_memory(err, strlen(run_dir), "a path");
  rp_free(l->path);
  l->path = path;
  return RP_OK;
}

void rp_lock_holder(const char *run_dir, char *out, size_t cap) {
  if (cap) out[0] = 0;
  char *path = rp_path_join(run_dir, "lock");
  const int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
  if (fd >= 0) {
    char here[256];
    host_name(here);
    const holder h = read_holder(fd);
    const bool local = h.pid && strcmp(h.host, here) == 0;
    /* A dead local holder holds nothing. */
    const bool gone = local && !alive(h.pid);
    if (h.pid && !gone) describe(&h, out, cap);
    close(fd);
  }
  rp_free(path);
}
