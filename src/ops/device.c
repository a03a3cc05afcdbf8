/* device.c - what all kinds of device share: allocations, sticky errors, copies. */
#include <stdarg.h>

#include "base/cpu.h"
#include "base/str.h"
#include "ops/backend.h"

static rp_status open_kind(rp_device *d, rp_device_kind kind, rp_error *err) {
  switch (kind) {
    case RP_DEVICE_GUARD: return rp_guard_open(d, err);
    case RP_DEVICE_CUDA: return rp_cuda_open(d, err);
    default: return rp_cpu_open(d, kind, err);
  }
}

rp_status rp_device_open(rp_device **out, rp_device_kind kind, rp_error *err) {
  *out = NULL;
  rp_device *d = rp_calloc(1, sizeof *d);
  if (!d) return rp_fail_memory(err, sizeof *d, "a device");
  const rp_status st = open_kind(d, kind, err);
  if (st) {
    rp_free(d);
    return st;
  }
  pthread_mutex_init(&d->mutex, NULL);
  *out = d;
  return RP_OK;
}

void rp_device_close(rp_device *d) {
  if (!d) return;
  for (size_t i = 0; i < d->blocks; i++)
    if (!d->block[i].lent) d->kind->free(d, (void *)d->block[i].at, d->block[i].bytes);
  d->kind->close(d);
  pthread_mutex_destroy(&d->mutex);
  rp_free(d->block);
  rp_free(d);
}

/* Whether a GPU is here and can be opened. */
static rp_status can_cuda(rp_error *err) {
  rp_device *d;
  RP_TRY(rp_device_open(&d, RP_DEVICE_CUDA, err));
  rp_device_close(d);
  return RP_OK;
}

rp_status rp_device_choose(const char *name, rp_device_kind *kind, rp_error *err) {
  *kind = RP_DEVICE_CPU;
  if (name && strcmp(name, "cpu") == 0) return RP_OK;
  const bool any = !name || !*name || strcmp(name, "auto") == 0;
  if (!any && strcmp(name, "cuda"))
    return rp_fail(err, RP_USAGE, "no such device; there are auto, cpu and cuda");
  const rp_status st = can_cuda(any ? NULL : err);
  if (!st) *kind = RP_DEVICE_CUDA;
  return any ? RP_OK : st;
}

const char *rp_device_name(const rp_device *d) { return d->name; }
bool rp_device_apart(const rp_device *d) { return d->kind->label != NULL; }
const char *rp_device_label(const rp_device *d) {
  return d->kind->label ? d->kind->label(d) : rp_cpu()->name;
}
rp_dtype rp_device_real(const rp_device *d) { return d->real; }

/* Room for one more entry, so that noting an allocation cannot fail. */
static rp_status note_block(rp_device *d, uintptr_t at, size_t bytes, bool lent, rp_error *err) {
  pthread_mutex_lock(&d->mutex);
  const rp_status st = rp_grow(&d->block, &d->blocks_cap, d->blocks + 1, sizeof *d->block,
                               "the list of device memory", err);
  if (!st) {
    d->block[d->blocks++] = (rp_block){at, bytes, lent};
    if (!lent) d->bytes += bytes;
    if (d->bytes > d->peak) d->peak = d->bytes;
  }
  pthread_mutex_unlock(&d->mutex);
  return st;
}

rp_status rp_device_alloc(rp_device *d, size_t bytes, const char *what, rp_ptr *out,
                          rp_error *err) {
  out->at = 0;
  const size_t asked = bytes ? bytes : 1;
  void *p;
  if (asked > PTRDIFF_MAX - 4096) return rp_fail_memory(err, bytes, what);
  RP_TRY(d->kind->alloc(d, asked, what, &p, err));
  const rp_status st = note_block(d, (uintptr_t)p, asked, false, err);
  if (st) {
    d->kind->free(d, p, asked);
    return st;
  }
  out->at = (uintptr_t)p;
  return RP_OK;
}

void rp_device_free(rp_device *d, rp_ptr p) {
  if (!p.at) return;
  size_t bytes = 0; /* of its own */
  pthread_mutex_lock(&d->mutex);
  for (size_t i = 0; i < d->blocks; i++) {
    if (d->block[i].at != p.at) continue;
    if (!d->block[i].lent) bytes = d->block[i].bytes;
    d->block[i] = d->block[--d->blocks];
    break;
  }
  d->bytes -= bytes;
  pthread_mutex_unlock(&d->mutex);
  if (bytes) d->kind->free(d, (void *)p.at, bytes);
}

bool rp_device_keeps_ops(const rp_device *d) { return d->kind->keeps_ops; }

bool rp_device_reads_host(const rp_device *d) { return d->kind->reads_host; }

rp_status rp_device_lend(rp_device *d, const void *at, size_t bytes, rp_ptr *out, rp_error *err) {
  out->at = 0;
  if (!d->kind->reads_host || !at || !bytes)
    return rp_fail(err, RP_FAIL, "device %s cannot read memory of the host; this is a bug",
                   d->name);
  RP_TRY(note_block(d, (uintptr_t)at, bytes, true, err));
  out->at = (uintptr_t)at;
  return RP_OK;
}

bool rp_device_holds(rp_device *d, rp_ptr p, size_t bytes) {
  bool held = false;
  pthread_mutex_lock(&d->mutex);
  for (size_t i = 0; i < d->blocks && !held; i++) {
    const rp_block b = d->block[i];
    held = p.at >= b.at && p.at - b.at <= b.bytes && bytes <= b.bytes - (p.at - b.at);
  }
  pthread_mutex_unlock(&d->mutex);
  return held;
}

/* The mutex is no part of what a reader sees as the device's state. */
static size_t read_size(const rp_device *d, const size_t *what) {
  pthread_mutex_t *mutex = (pthread_mutex_t *)&d->mutex;
  pthread_mutex_lock(mutex);
  const size_t n = *what;
  pthread_mutex_unlock(mutex);
  return n;
}

uint64_t rp_device_available(const rp_device *d) {
  return d->kind->available ? d->kind->available(d) : rp_memory_available();
}

size_t rp_device_bytes(const rp_device *d) { return read_size(d, &d->bytes); }
size_t rp_device_peak(const rp_device *d) { return read_size(d, &d->peak); }

rp_status rp_queue_open(rp_queue **out, rp_device *d, rp_error *err) {
  *out = NULL;
  rp_queue *q = rp_calloc(1, sizeof *q);
  if (!q) return rp_fail_memory(err, sizeof *q, "a queue");
  q->d = d;
  const rp_status st = d->kind->queue_open(q, err);
  if (st) {
    rp_free(q);
    return st;
  }
  *out = q;
  return RP_OK;
}

void rp_queue_close(rp_queue *q) {
  if (!q) return;
  q->d->kind->run(q);
  q->d->kind->queue_close(q);
  rp_tape_free(q->tape);
  rp_free(q);
}

void rp_queue_after(rp_queue *q, rp_queue *first) {
  if (q->err.status || q == first) return;
  if (first->d != q->d) {
    rp_queue_fail(q, RP_FAIL, "a queue of device %s after one of another; this is a bug",
                  q->d->name);
    return;
  }
  if (q->d->kind->after) q->d->kind->after(q, first);
  if (first->err.status) rp_queue_fail(q, first->err.status, "%s", first->err.text);
}

rp_device *rp_queue_device(const rp_queue *q) { return q->d; }

rp_status rp_queue_reserve(rp_queue *q, size_t bytes, rp_error *err) {
  return q->d->kind->reserve(q, bytes, err);
}

size_t rp_copy_host_bytes(const rp_copy *c) {
  return (size_t)c->n * (c->as ? (size_t)rp_dtype_bytes(c->host_dtype) : 1);
}

static bool is_float(rp_dtype t) { return t == RP_F32 || t == RP_F64 || t == RP_BF16; }

static void put_copy(rp_queue *q, const rp_copy *c) {
  if (q->err.status || c->n == 0) return;
  if (c->as && !(is_float(c->host_dtype) && is_float(c->dev.dtype))) {
    rp_queue_fail(q, RP_FAIL,
                  "a copy between %s and %s: only float32, float64 and bfloat16 are "
                  "converted; this is a bug",
                  rp_dtype_name(c->host_dtype), rp_dtype_name(c->dev.dtype));
    return;
  }
  const size_t bytes = (size_t)c->n * (c->as ? (size_t)rp_dtype_bytes(c->dev.dtype) : 1);
  if (c->n < 0 || !rp_device_holds(q->d, c->dev.p, bytes)) {
    rp_queue_fail(q, RP_FAIL, "%s of %lld %s would leave the memory of device %s; this is a bug",
                  c->up ? "an upload" : "a download", (long long)c->n, c->as ? "elements" : "bytes",
                  q->d->name);
    return;
  }
  q->d->kind->copy(q, c);
}

void rp_upload(rp_queue *q, rp_ptr dst, const void *src, size_t bytes) {
  put_copy(q,
           &(rp_copy){.up = true, .dev = {dst, RP_F32}, .host = (void *)src, .n = (int64_t)bytes});
}

void rp_download(rp_queue *q, void *dst, rp_ptr src, size_t bytes) {
  put_copy(q, &(rp_copy){.dev = {src, RP_F32}, .host = dst, .n = (int64_t)bytes});
}

void rp_upload_as(rp_queue *q, rp_tensor dst, const void *src, rp_dtype host, int64_t n) {
  put_copy(
      q, &(rp_copy){
             .up = true, .as = true, .dev = dst, .host = (void *)src, .host_dtype = host, .n = n});
}

void rp_download_as(rp_queue *q, void *dst, rp_dtype host, rp_tensor src, int64_t n) {
  put_copy(q, &(rp_copy){.as = true, .dev = src, .host = dst, .host_dtype = host, .n = n});
}

void rp_call(rp_queue *q, rp_call_fn run, const void *args, size_t bytes) {
  rp_host_call c = {.run = run};
  if (q->err.status) return;
  if (bytes > sizeof c.args) {
    rp_queue_fail(q, RP_FAIL, "a call with %zu bytes of arguments; this is a bug", bytes);
    return;
  }
  memcpy(c.args, args, bytes);
  q->d->kind->call(q, &c);
}

bool rp_device_enter(rp_device *d) { return !d->kind->enter || d->kind->enter(d); }

void rp_device_leave(rp_device *d) {
  if (d->kind->leave) d->kind->leave(d);
}

rp_status rp_wait(rp_queue *q, rp_error *err) {
  q->d->kind->run(q);
  if (q->err.status && err) *err = q->err;
  return q->err.status;
}

void rp_queue_fail(rp_queue *q, rp_status st, const char *fmt, ...) {
  q->d->kind->run(q); /* what was put before may have failed before */
  if (q->err.status) return;
  va_list ap;
  va_start(ap, fmt);
  rp_vsnprintf(q->err.text, sizeof q->err.text, fmt, ap);
  va_end(ap);
  q->err.status = st;
}
