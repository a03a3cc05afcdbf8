#include "text/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#if RATPLUS_WITH_ZLIB
#include <zlib.h>
#endif
#if RATPLUS_WITH_ZSTD
#include <zstd.h>
#endif

enum { RAW = 1 << 17, HEAD = 6 };

typedef enum { PLAIN, GZIP, ZSTD } packing;

struct rp_unpack {
  char *name;
  int fd;
  const volatile int *stop;
  bool close_fd, at_end; /* at_end: the file itself has no more */
  packing kind;
  size_t from, to; /* raw[from, to) is read and not yet used */
  int64_t taken;
  uint8_t head[HEAD]; /* first bytes of the text, looked at before they are handed out */
  size_t head_at, head_n;
  bool inside; /* in the middle of a gzip member or zstd frame */
#if RATPLUS_WITH_ZLIB
  z_stream z;
  bool z_open;
#endif
#if RATPLUS_WITH_ZSTD
  ZSTD_DStream *zs;
#endif
  uint8_t raw[RAW];
};

/* A signal restarts read, so a wait for a silent pipe looks at the flag itself. */
static rp_status wait_for_bytes(const rp_unpack *r, rp_error *err) {
  struct pollfd p = {.fd = r->fd, .events = POLLIN};
  while (r->stop) {
    if (*r->stop)
      return rp_fail(err, RP_STOPPED, "%s: stopped as asked; the same call goes on from here",
                     r->name);
    const int ready = poll(&p, 1, 100);
    if (ready > 0 || (ready < 0 && errno != EINTR)) break; /* an error shows in read */
  }
  return RP_OK;
}

static rp_status refill(rp_unpack *r, rp_error *err) {
  if (r->from > 0) {
    memmove(r->raw, r->raw + r->from, r->to - r->from);
    r->to -= r->from;
    r->from = 0;
  }
  while (!r->at_end && r->to < RAW) {
    RP_TRY(wait_for_bytes(r, err));
    ssize_t n = read(r->fd, r->raw + r->to, RAW - r->to);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return rp_fail_errno(err, "cannot read", r->name);
    if (n == 0) r->at_end = true;
    r->to += (size_t)n;
    r->taken += n;
    if (r->to >= 16) break; /* enough to know what it is; a pipe need not fill the buffer */
  }
  return RP_OK;
}

#if RATPLUS_WITH_ZLIB || RATPLUS_WITH_ZSTD
static rp_status cut_off(const rp_unpack *r, rp_error *err) {
  return rp_fail(err, RP_BAD_DATA,
                 "%s: the compressed file is cut off after %lld bytes; fetch or pack it again",
                 r->name, (long long)r->taken);
}
#endif

static rp_status read_plain(rp_unpack *r, void *out, size_t cap, size_t *n, rp_error *err) {
  if (r->from == r->to) RP_TRY(refill(r, err));
  size_t take = r->to - r->from < cap ? r->to - r->from : cap;
  memcpy(out, r->raw + r->from, take);
  r->from += take;
  *n = take;
  return RP_OK;
}

#if RATPLUS_WITH_ZLIB
static rp_status read_gzip(rp_unpack *r, void *out, size_t cap, size_t *n, rp_error *err) {
  *n = 0;
  while (*n == 0) {
    if (r->from == r->to) RP_TRY(refill(r, err));
    if (r->from == r->to) return r->inside ? cut_off(r, err) : RP_OK;
    if (!r->inside) {
      /* Tape blocks and some tools leave zeros behind the last member. */
      while (r->from < r->to && r->raw[r->from] == 0) r->from++;
      if (r->from == r->to) continue;
      if (inflateReset(&r->z) != Z_OK) return rp_fail_memory(err, 0, "unpacking gzip");
      r->inside = true;
    }
    r->z.next_in = r->raw + r->from;
    r->z.avail_in = (uInt)(r->to - r->from);
    r->z.next_out = out;
    r->z.avail_out = cap > (1u << 30) ? 1u << 30 : (uInt)cap;
    const uInt room = r->z.avail_out;
    const int rc = inflate(&r->z, Z_NO_FLUSH);
    r->from = r->to - r->z.avail_in;
    *n = room - r->z.avail_out;
    if (rc == Z_STREAM_END) {
      r->inside = false;
    } else if (rc == Z_MEM_ERROR) {
      return rp_fail_memory(err, 0, "unpacking gzip");
    } else if (rc != Z_OK && rc != Z_BUF_ERROR) {
      return rp_fail(err, RP_BAD_DATA, "%s: broken gzip data near byte %lld (%s); fetch it again",
                     r->name, (long long)(r->taken - (int64_t)(r->to - r->from)),
                     r->z.msg ? r->z.msg : "inflate failed");
    }
  }
  return RP_OK;
}
#endif

#if RATPLUS_WITH_ZSTD
static rp_status read_zstd(rp_unpack *r, void *out, size_t cap, size_t *n, rp_error *err) {
  *n = 0;
  while (*n == 0) {
    if (r->from == r->to) RP_TRY(refill(r, err));
    if (r->from == r->to && !r->inside) return RP_OK;
    ZSTD_inBuffer in = {r->raw + r->from, r->to - r->from, 0};
    ZSTD_outBuffer o = {out, cap, 0};
    const size_t rc = ZSTD_decompressStream(r->zs, &o, &in);
    r->from += in.pos;
    *n = o.pos;
    if (ZSTD_isError(rc))
      return rp_fail(err, RP_BAD_DATA, "%s: broken zstd data near byte %lld (%s); fetch it again",
                     r->name, (long long)(r->taken - (int64_t)(r->to - r->from)),
                     ZSTD_getErrorName(rc));
    r->inside = rc != 0;
    if (*n == 0 && in.size == 0 && r->at_end && r->inside) return cut_off(r, err);
  }
  return RP_OK;
}
#endif

#if !RATPLUS_WITH_ZLIB || !RATPLUS_WITH_ZSTD
static rp_status without(const rp_unpack *r, const char *what, rp_error *err) {
  return rp_fail(err, RP_FAIL,
                 "%s: packed with %s, which this ratplus is built without; unpack it with "
                 "`%s -dc` into --input -",
                 r->name, what, what);
}
#endif

static rp_status open_packing(rp_unpack *r, rp_error *err) {
  const uint8_t *p = r->raw;
  const size_t n = r->to;
  if (n >= 2 && p[0] == 0x1f && p[1] == 0x8b) r->kind = GZIP;
  if (n >= 4 && memcmp(p, "\x28\xb5\x2f\xfd", 4) == 0) r->kind = ZSTD;
  if (n >= 4 && (p[0] & 0xf0) == 0x50 && memcmp(p + 1, "\x2a\x4d\x18", 3) == 0) r->kind = ZSTD;
  if (r->kind == GZIP) {
#if RATPLUS_WITH_ZLIB
    if (inflateInit2(&r->z, 15 + 16) != Z_OK) return rp_fail_memory(err, 0, "unpacking gzip");
    r->z_open = true;
#else
    return without(r, "gzip", err);
#endif
  }
  if (r->kind == ZSTD) {
#if RATPLUS_WITH_ZSTD
    r->zs = ZSTD_createDStream();
    if (!r->zs) return rp_fail_memory(err, 0, "unpacking zstd");
    ZSTD_DCtx_setParameter(r->zs, ZSTD_d_windowLogMax, 31); /* files packed with --long=31 */
#else
    return without(r, "zstd", err);
#endif
  }
  return RP_OK;
}

static rp_status read_text(rp_unpack *r, void *out, size_t cap, size_t *n, rp_error *err) {
#if RATPLUS_WITH_ZLIB
  if (r->kind == GZIP) return read_gzip(r, out, cap, n, err);
#endif
#if RATPLUS_WITH_ZSTD
  if (r->kind == ZSTD) return read_zstd(r, out, cap, n, err);
#endif
  return read_plain(r, out, cap, n, err);
}

/* What the first bytes of the text say about a file that is no text, or no UTF-8. */
static rp_status check_head(rp_unpack *r, rp_error *err) {
  static const struct {
    const char *magic;
    size_t n;
    const char *what, *how;
  } rows[] = {
      {"PAR1", 4, "a Parquet file",
       "print it as JSON lines with duckdb or pyarrow into --input - (docs/data.md)"},
      {"ARROW1", 6, "an Arrow file",
       "print it as JSON lines with pyarrow into --input - (docs/data.md)"},
      {"BZh", 3, "packed with bzip2", "unpack it with `bzip2 -dc` into --input -"},
      {"\xfd"
       "7zXZ",
       5, "packed with xz", "unpack it with `xz -dc` into --input -"},
      {"PK\x03\x04", 4, "a zip archive", "unpack it with `unzip -p` into --input -"},
      {"\xff\xfe", 2, "UTF-16 text", "turn it into UTF-8 with `iconv -f UTF-16 -t UTF-8`"},
      {"\xfe\xff", 2, "UTF-16 text", "turn it into UTF-8 with `iconv -f UTF-16 -t UTF-8`"},
  };
  for (bool more = true; more && r->head_n < HEAD;) {
    size_t n;
    RP_TRY(read_text(r, r->head + r->head_n, HEAD - r->head_n, &n, err));
    more = n > 0;
    r->head_n += n;
  }
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
    if (r->head_n >= rows[i].n && memcmp(r->head, rows[i].magic, rows[i].n) == 0)
      return rp_fail(err, RP_BAD_DATA, "%s: this is %s; %s", r->name, rows[i].what, rows[i].how);
  if (r->head_n >= 3 && memcmp(r->head, "\xef\xbb\xbf", 3) == 0) r->head_at = 3;
  return RP_OK;
}

rp_status rp_unpack_open(rp_unpack **out, const char *path, const volatile int *stop,
                         rp_error *err) {
  rp_status st = RP_OK;
  const bool is_stdin = strcmp(path, "-") == 0;
  *out = NULL;
  if (!is_stdin && rp_is_dir(path))
    return rp_fail(err, RP_USAGE, "%s: is a folder; name the files in it", path);
  rp_unpack *r = rp_calloc(1, sizeof *r);
  if (!r) return rp_fail_memory(err, sizeof *r, "a reader");
  r->fd = -1;
  r->stop = stop;
  r->name = rp_strdup(is_stdin ? "standard input" : path);
  if (!r->name) RP_GO(rp_fail_memory(err, strlen(path) + 1, "the name of a file"));
  r->close_fd = !is_stdin;
  r->fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
  if (r->fd < 0) RP_GO(rp_fail_errno(err, "cannot open", path));
  RP_GO(refill(r, err));
  RP_GO(open_packing(r, err));
  RP_GO(check_head(r, err));
  *out = r;
  return RP_OK;
fail:
  rp_unpack_close(r);
  return st;
}

void rp_unpack_close(rp_unpack *r) {
  if (!r) return;
#if RATPLUS_WITH_ZLIB
  if (r->z_open) inflateEnd(&r->z);
#endif
#if RATPLUS_WITH_ZSTD
  ZSTD_freeDStream(r->zs);
#endif
  if (r->close_fd && r->fd >= 0) close(r->fd);
  rp_free(r->name);
  rp_free(r);
}

rp_status rp_unpack_read(rp_unpack *r, void *out, size_t cap, size_t *n, rp_error *err) {
  if (r->head_at < r->head_n) {
    *n = r->head_n - r->head_at < cap ? r->head_n - r->head_at : cap;
    memcpy(out, r->head + r->head_at, *n);
    r->head_at += *n;
    return RP_OK;
  }
  return read_text(r, out, cap, n, err);
}

const char *rp_unpack_name(const rp_unpack *r) { return r->name; }
int64_t rp_unpack_raw(const rp_unpack *r) { return r->taken - (int64_t)(r->to - r->from); }
