#include "train/events.h"

#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"

/* ---- CRC-32C, reflected, four bits at a time: records are small ---- */

static uint32_t crc_step(uint32_t c, uint8_t byte) {
  static const uint32_t nibble[16] = {0x00000000u, 0x105ec76fu, 0x20bd8edeu, 0x30e349b1u,
                                      0x417b1dbcu, 0x5125dad3u, 0x61c69362u, 0x7198540du,
                                      0x82f63b78u, 0x92a8fc17u, 0xa24bb5a6u, 0xb21572c9u,
                                      0xc38d26c4u, 0xd3d3e1abu, 0xe330a81au, 0xf36e6f75u};
  c ^= byte;
  c = (c >> 4) ^ nibble[c & 15];
  return (c >> 4) ^ nibble[c & 15];
}

uint32_t rp_crc32c(const void *data, size_t n) {
  const uint8_t *p = data;
  uint32_t c = 0xffffffffu;
  for (size_t i = 0; i < n; i++) c = crc_step(c, p[i]);
  return ~c;
}

uint32_t rp_crc32c_masked(const void *data, size_t n) {
  const uint32_t c = rp_crc32c(data, n);
  return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

/* ---- protobuf: the wire types that an Event needs ---- */

static void put_varint(rp_str *b, uint64_t v) {
  char c[10];
  size_t n = 0;
  do {
    c[n] = (char)(v & 127);
    v >>= 7;
    if (v) c[n] = (char)(c[n] | (char)0x80);
    n++;
  } while (v);
  rp_str_addn(b, c, n);
}

static void put_little(rp_str *b, uint64_t v, int bytes) {
  char c[8];
  for (int i = 0; i < bytes; i++) c[i] = (char)(v >> (8 * i) & 255);
  rp_str_addn(b, c, (size_t)bytes);
}

static void put_double(rp_str *b, int field, double x) {
  uint64_t u;
  memcpy(&u, &x, 8);
  put_varint(b, (uint64_t)field << 3 | 1);
  put_little(b, u, 8);
}

static void put_float(rp_str *b, int field, float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  put_varint(b, (uint64_t)field << 3 | 5);
  put_little(b, u, 4);
}

static void put_int(rp_str *b, int field, int64_t x) {
  put_varint(b, (uint64_t)field << 3);
  put_varint(b, (uint64_t)x);
}

static void put_bytes(rp_str *b, int field, const char *s, size_t n) {
  put_varint(b, (uint64_t)field << 3 | 2);
  put_varint(b, n);
  rp_str_addn(b, s, n);
}

/* ---- the file ---- */

struct rp_events {
  int fd;
  off_t good; /* end of the last whole record */
  char *path;
  rp_str event, part, frame; /* kept, so that records after the first few allocate nothing */
};

static rp_status write_record(rp_events *e, rp_error *err) {
  rp_str *f = &e->frame;
  rp_str_clear(f);
  put_little(f, e->event.len, 8);
  if (f->failed || e->event.failed || e->part.failed)
    return rp_fail_memory(err, e->event.len, "a TensorBoard record");
  put_little(f, rp_crc32c_masked(f->s, 8), 4);
  rp_str_addn(f, e->event.s, e->event.len);
  put_little(f, rp_crc32c_masked(e->event.s, e->event.len), 4);
  if (f->failed) return rp_fail_memory(err, e->event.len, "a TensorBoard record");
  for (size_t at = 0; at < f->len;) {
    const ssize_t n = write(e->fd, f->s + at, f->len - at);
    if (n <= 0) {
      const rp_status st = rp_fail_errno(err, "cannot write", e->path);
      if (ftruncate(e->fd, e->good) == 0) lseek(e->fd, e->good, SEEK_SET);
      return st;
    }
    at += (size_t)n;
  }
  e->good += (off_t)f->len;
  return RP_OK;
}

static void begin(rp_events *e, int64_t step) {
  rp_str_clear(&e->event);
  put_double(&e->event, 1, rp_wall_time());
  if (step > 0) put_int(&e->event, 2, step);
}

rp_status rp_events_open(rp_events **out, const char *dir, int64_t resume_step, rp_error *err) {
  static atomic_int count;
  rp_status st = RP_OK;
  rp_str path = {0};
  char host[256] = "localhost";
  *out = NULL;
  rp_events *e = rp_calloc(1, sizeof *e);
  if (!e) return rp_fail_memory(err, sizeof *e, "TensorBoard events");
  e->fd = -1;
  gethostname(host, sizeof host - 1);
  for (char *c = host; *c; c++)
    if (*c == '/') *c = '_';
  rp_str_addf(&path, "%s/events.out.tfevents.%010lld.%s.%ld.%d", dir, (long long)rp_wall_time(),
              host, (long)getpid(), atomic_fetch_add(&count, 1));
  e->path = rp_str_take(&path);
  if (!e->path) RP_GO(rp_fail_memory(err, 0, "TensorBoard events"));
  e->fd = open(e->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (e->fd < 0) RP_GO(rp_fail_errno(err, "cannot create", e->path));
  begin(e, 0);
  put_bytes(&e->event, 3, "brain.Event:2", 13);
  RP_GO(write_record(e, err));
  if (resume_step >= 0) {
    begin(e, resume_step);
    rp_str_clear(&e->part);
    put_int(&e->part, 1, 1); /* SessionLog.status = START */
    put_bytes(&e->event, 7, e->part.s ? e->part.s : "", e->part.len);
    RP_GO(write_record(e, err));
  }
  *out = e;
  return RP_OK;
fail:
  rp_events_close(e);
  return st;
}

rp_status rp_events_add(rp_events *e, int64_t step, const rp_scalar *s, size_t n, rp_error *err) {
  rp_str value = {0};
  begin(e, step);
  rp_str_clear(&e->part);
  for (size_t i = 0; i < n; i++) {
    if (!isfinite(s[i].value)) continue;
    rp_str_clear(&value);
    put_bytes(&value, 1, s[i].tag, strlen(s[i].tag));
    put_float(&value, 2, (float)s[i].value);
    if (!value.failed) put_bytes(&e->part, 1, value.s, value.len);
  }
  const bool failed = value.failed;
  rp_str_free(&value);
  if (failed) return rp_fail_memory(err, 64, "a TensorBoard record");
  if (e->part.len) put_bytes(&e->event, 5, e->part.s, e->part.len);
  return write_record(e, err);
}

void rp_events_close(rp_events *e) {
  if (!e) return;
  if (e->fd >= 0) close(e->fd);
  rp_free(e->path);
  rp_str_free(&e->event);
  rp_str_free(&e->part);
  rp_str_free(&e->frame);
  rp_free(e);
}
