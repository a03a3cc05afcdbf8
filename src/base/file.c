#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/str.h"

rp_status rp_map_open(rp_map *m, const char *path, rp_error *err) {
  *m = (rp_map){0};
  /* O_NONBLOCK: a named pipe without a writer must not hold us up before it is refused. */
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return rp_fail_errno(err, "cannot open", path);
  rp_status st = RP_OK;
  struct stat s;
  if (fstat(fd, &s)) {
    st = rp_fail_errno(err, "cannot read", path);
  } else if (!S_ISREG(s.st_mode)) {
    st = rp_fail(err, RP_FAIL, "cannot read %s: it is not a regular file; give a file", path);
  } else if (s.st_size > 0) {
    void *p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
      st = rp_fail_errno(err, "cannot map", path);
    else
      *m = (rp_map){.data = p, .bytes = (size_t)s.st_size};
  }
  close(fd);
  return st;
}

void rp_map_close(rp_map *m) {
  if (m->data) munmap((void *)(uintptr_t)m->data, m->bytes);
  *m = (rp_map){0};
}

/* Reads at most `most` + 1 bytes: one more tells that there is more. */
static rp_status read_all(int fd, const char *path, size_t most, rp_str *b, rp_error *err) {
  char chunk[16384];
  while (b->len <= most) {
    ssize_t n = read(fd, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return rp_fail_errno(err, "cannot read", path);
    if (n == 0) break;
    rp_str_addn(b, chunk, (size_t)n);
    if (b->failed) return rp_fail_memory(err, b->len + (size_t)n, path);
  }
  if (b->len <= most) return RP_OK;
  char size[32];
  rp_format_bytes(size, (double)most);
  return rp_fail(err, RP_BAD_DATA, "%s: longer than the %s that such a file may have", path, size);
}

rp_status rp_file_read(const char *path, size_t most, char **text, size_t *len, rp_error *err) {
  *text = NULL;
  if (len) *len = 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return rp_fail_errno(err, "cannot open", path);
  rp_str b = {0};
  rp_status st = read_all(fd, path, most, &b, err);
  close(fd);
  size_t n = b.len;
  if (st) {
    rp_str_free(&b);
    return st;
  }
  *text = rp_str_take(&b);
  if (!*text) return rp_fail_memory(err, n + 1, path);
  if (len) *len = n;
  return RP_OK;
}

struct rp_out {
  char *path, *tmp;
  int fd;
  int error; /* errno of the first failed write */
  size_t have;
  uint64_t at;
  uint8_t buffer[1 << 16];
};

static void out_free(rp_out *o) {
  if (o->fd >= 0) close(o->fd);
  rp_free(o->path);
  rp_free(o->tmp);
  rp_free(o);
}

rp_status rp_out_open(rp_out **out, const char *path, rp_error *err) {
  *out = NULL;
  struct stat s;
  /* A rename would replace a device or a pipe itself. */
  if (!stat(path, &s) && !S_ISREG(s.st_mode))
    return rp_fail(err, RP_FAIL, "cannot write %s: it is %s; give the name of a file", path,
                   S_ISDIR(s.st_mode) ? "a folder" : "not a regular file");
  rp_out *o = rp_malloc(1, sizeof *o);
  if (!o) return rp_fail_memory(err, sizeof *o, path);
  o->fd = -1;
  o->error = 0;
  o->have = 0;
  o->at = 0;
  rp_str tmp = {0};
  rp_str_addf(&tmp, "%s.tmp-%ld", path, (long)getpid());
  o->path = rp_strdup(path);
  o->tmp = rp_str_take(&tmp);
  rp_status st = RP_OK;
  if (!o->path || !o->tmp) {
    st = rp_fail_memory(err, strlen(path) + 32, path);
  } else {
    unlink(o->tmp);
    o->fd = open(o->tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (o->fd < 0) st = rp_fail_errno(err, "cannot write", path);
  }
  if (st)
    out_free(o);
  else
    *out = o;
  return st;
}

static int write_fully(int fd, const void *data, size_t bytes) {
  const uint8_t *p = data;
  while (bytes) {
    ssize_t n = write(fd, p, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    p += n;
    bytes -= (size_t)n;
  }
  return 0;
}

static void out_flush(rp_out *o) {
  if (!o->error) o->error = write_fully(o->fd, o->buffer, o->have);
  o->have = 0;
}

void rp_out_write(rp_out *o, const void *data, size_t bytes) {
  o->at += bytes;
  if (o->error || !bytes) return;
  if (bytes > sizeof o->buffer - o->have) out_flush(o);
  if (bytes >= sizeof o->buffer) {
    if (!o->error) o->error = write_fully(o->fd, data, bytes);
    return;
  }
  memcpy(o->buffer + o->have, data, bytes);
  o->have += bytes;
}

uint64_t rp_out_at(const rp_out *o) { return o->at; }

/* The folder that holds `path` (free with rp_free). */
static char *parent_of(const char *path) {
  size_t n = strlen(path);
  while (n > 1 && path[n - 1] == '/') n--;
  while (n && path[n - 1] != '/') n--;
  while (n > 1 && path[n - 1] == '/') n--;
  if (!n) return rp_strdup(".");
  rp_str b = {0};
  rp_str_addn(&b, path, n);
  return rp_str_take(&b);
}

static rp_status sync_parent(const char *path, rp_error *err) {
  char *parent = parent_of(path);
  if (!parent) return rp_fail_memory(err, strlen(path), path);
  rp_status st = rp_sync_dir(parent, err);
  rp_free(parent);
  return st;
}

static rp_status out_finish(rp_out *o, bool sync, rp_error *err) {
  out_flush(o);
  if (!o->error && sync && fsync(o->fd)) o->error = errno;
  if (close(o->fd) && !o->error) o->error = errno;
  o->fd = -1;
  if (!o->error && rename(o->tmp, o->path)) o->error = errno;
  rp_status st = RP_OK;
  if (o->error) {
    errno = o->error;
    st = rp_fail_errno(err, "cannot write", o->path);
    unlink(o->tmp);
  } else if (sync) {
    st = sync_parent(o->path, err);
  }
  out_free(o);
  return st;
}

rp_status rp_out_commit(rp_out *o, rp_error *err) { return out_finish(o, true, err); }

void rp_out_cancel(rp_out *o) {
  if (!o) return;
  unlink(o->tmp);
  out_free(o);
}

rp_status rp_file_replace(const char *path, const void *data, size_t bytes, bool sync,
                          rp_error *err) {
  rp_out *o;
  RP_TRY(rp_out_open(&o, path, err));
  rp_out_write(o, data, bytes);
  return out_finish(o, sync, err);
}

rp_status rp_mkdirs(const char *path, rp_error *err) {
  char *copy = rp_strdup(path);
  if (!copy) return rp_fail_memory(err, strlen(path), path);
  rp_status st = RP_OK;
  for (char *p = copy; !st && *p;) {
    while (*p == '/') p++;
    while (*p && *p != '/') p++;
    char c = *p;
    *p = 0;
    if (mkdir(copy, 0777) && !rp_is_dir(copy)) {
      if (errno == EEXIST) errno = ENOTDIR;
      st = rp_fail_errno(err, "cannot make the folder", copy);
    }
    *p = c;
  }
  rp_free(copy);
  return st;
}

rp_status rp_sync_dir(const char *path, rp_error *err) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return rp_fail_errno(err, "cannot open the folder", path);
  rp_status st = RP_OK;
  /* Some network file systems cannot sync a folder and say EINVAL; there is nothing to do then. */
  if (fsync(fd) && errno != EINVAL) st = rp_fail_errno(err, "cannot sync the folder", path);
  close(fd);
  return st;
}

rp_status rp_rename(const char *from, const char *to, rp_error *err) {
  if (rename(from, to)) {
    rp_fail_errno(err, "cannot rename it to", to);
    return rp_fail_at(err, "%s", from);
  }
  RP_TRY(sync_parent(to, err));
  return sync_parent(from, err);
}

static int remove_one(const char *path, const struct stat *s, int kind, struct FTW *at) {
  (void)s;
  (void)kind;
  (void)at;
  return remove(path);
}

rp_status rp_remove_tree(const char *path, rp_error *err) {
  if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS))
    return rp_fail_errno(err, "cannot remove", path);
  return RP_OK;
}

bool rp_exists(const char *path) {
  struct stat s;
  return !stat(path, &s);
}

bool rp_is_dir(const char *path) {
  struct stat s;
  int e = errno;
  bool yes = !stat(path, &s) && S_ISDIR(s.st_mode);
  errno = e;
  return yes;
}

bool rp_is_file(const char *path) {
  struct stat s;
  return !stat(path, &s) && S_ISREG(s.st_mode);
}

int64_t rp_file_size(const char *path) {
  struct stat s;
  return stat(path, &s) ? -1 : (int64_t)s.st_size;
}

uint64_t rp_disk_free(const char *path) {
  struct statvfs v;
  char *at = rp_strdup(path);
  uint64_t bytes = 0;
  while (at) {
    if (!statvfs(at, &v)) {
      bytes = (uint64_t)v.f_bavail * v.f_frsize;
      break;
    }
    if (strcmp(at, "/") == 0 || strcmp(at, ".") == 0) break;
    char *up = parent_of(at);
    rp_free(at);
    at = up;
  }
  rp_free(at);
  return bytes;
}

char *rp_path_join(const char *dir, const char *name) {
  rp_str b = {0};
  rp_str_add(&b, dir);
  if (!rp_ends_with(dir, "/")) rp_str_add(&b, "/");
  rp_str_add(&b, name);
  return rp_str_take(&b);
}

static int by_bytes(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

rp_status rp_list_dir(const char *path, char ***names, size_t *n, rp_error *err) {
  *names = NULL;
  *n = 0;
  DIR *d = opendir(path);
  if (!d) return rp_fail_errno(err, "cannot read the folder", path);
  rp_status st = RP_OK;
  char **list = NULL;
  size_t count = 0, cap = 0;
  struct dirent *e;
  while (errno = 0, e = readdir(d)) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
    RP_GO(rp_grow(&list, &cap, count + 1, sizeof *list, path, err));
    list[count] = rp_strdup(e->d_name);
    if (!list[count]) {
      st = rp_fail_memory(err, strlen(e->d_name) + 1, path);
      goto fail;
    }
    count++;
  }
  if (errno) {
    st = rp_fail_errno(err, "cannot read the folder", path);
    goto fail;
  }
  closedir(d);
  if (count) qsort(list, count, sizeof *list, by_bytes);
  *names = list;
  *n = count;
  return RP_OK;
fail:
  closedir(d);
  rp_list_free(list, count);
  return st;
}

void rp_list_free(char **names, size_t n) {
  for (size_t i = 0; i < n; i++) rp_free(names[i]);
  rp_free(names);
}
