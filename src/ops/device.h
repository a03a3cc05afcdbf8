/* device.h - devices, their memory and their queues.
 *
 * A device owns memory that the host must not touch: its addresses are rp_ptr, a struct the host
 * cannot dereference. Work is put on a queue and runs in order; the host learns the outcome in
 * rp_wait, the only blocking call. An error in an op is sticky: later ops of the queue do nothing and
 * rp_wait returns the first sentence. One queue is one thread's at a time.
 *
 * Devices: cpu (the fastest level of this processor, oneDNN for products), ref (the cpu held at plain
 * C), ref64 (the plain C in double: every "float32" tensor is float64, for central differences), guard
 * (a cpu whose memory is PROT_NONE outside an op and whose ops run late, in rp_wait or when its list
 * is full, so that nothing above can lean on host memory or on order), cuda (a GPU, in cuda/). */
#ifndef RP_OPS_DEVICE_H
#define RP_OPS_DEVICE_H

#include "base/dtype.h"
#include "base/hd.h"
#include "base/mem.h"

typedef struct {
  uintptr_t at;
} rp_ptr; /* 0: none */
typedef struct {
  rp_ptr p;
  rp_dtype dtype;
} rp_tensor;

RP_HD static inline rp_ptr rp_ptr_add(rp_ptr p, size_t bytes) {
  return (rp_ptr){p.at ? p.at + bytes : 0};
}
static inline rp_tensor rp_tensor_at(rp_tensor t, int64_t elements) {
  return (rp_tensor){rp_ptr_add(t.p, (size_t)elements * (size_t)rp_dtype_bytes(t.dtype)), t.dtype};
}

typedef enum {
  RP_DEVICE_CPU,
  RP_DEVICE_REF,
  RP_DEVICE_REF64,
  RP_DEVICE_GUARD,
  RP_DEVICE_CUDA
} rp_device_kind;
typedef struct rp_device rp_device;
typedef struct rp_queue rp_queue;

/* RP_USAGE where this machine or this build has none of the kind. */
rp_status rp_device_open(rp_device **d, rp_device_kind kind, rp_error *err);
/* What a user calls a device, as one that can run whole models: cpu, cuda, auto (or nothing: cuda where
 * that can, else cpu). Else RP_USAGE, and a sentence that says why, without the name. */
rp_status rp_device_choose(const char *name, rp_device_kind *kind, rp_error *err);
void rp_device_close(rp_device *d); /* all memory and queues must be gone; NULL is fine */
const char *rp_device_name(const rp_device *d);
/* Whether its memory and its processors are its own and not the host's: a GPU. */
bool rp_device_apart(const rp_device *d);
/* What it is: "NVIDIA H100 80GB HBM3", or the host's processor. */
const char *rp_device_label(const rp_device *d);
/* What "float32" means here: RP_F32, and RP_F64 on ref64. Called `real` in comments. */
rp_dtype rp_device_real(const rp_device *d);

/* Zeroed device memory, 64-byte aligned. `what` is for the error. */
rp_status rp_device_alloc(rp_device *d, size_t bytes, const char *what, rp_ptr *out, rp_error *err);
void rp_device_free(rp_device *d, rp_ptr p); /* none is fine; its queues must be idle */
/* Whether putting an op takes memory of the host, since the device keeps it to run it later. */
bool rp_device_keeps_ops(const rp_device *d);
/* Whether ops of the device read host memory where it lies. If so, host memory [at, at + bytes) that
 * stays and is not written can be lent to it: ops may read it at *out until rp_device_free, which
 * takes it back and frees nothing. It does not count in the two sums below. */
bool rp_device_reads_host(const rp_device *d);
rp_status rp_device_lend(rp_device *d, const void *at, size_t bytes, rp_ptr *out, rp_error *err);
/* Bytes that are free where the device has its memory. */
uint64_t rp_device_available(const rp_device *d);
/* Bytes of device memory in use, and the most ever. */
size_t rp_device_bytes(const rp_device *d);
size_t rp_device_peak(const rp_device *d);

rp_status rp_queue_open(rp_queue **q, rp_device *d, rp_error *err);
void rp_queue_close(rp_queue *q); /* waits; NULL is fine */
rp_device *rp_queue_device(const rp_queue *q);
/* What is put on q from now on runs after what was put on `first`, of the same device, so far; an error
 * that `first` is known to have is q's as well. */
void rp_queue_after(rp_queue *q, rp_queue *first);
/* Scratch that the ops of this queue share; grows only here (never inside a step). */
rp_status rp_queue_reserve(rp_queue *q, size_t bytes, rp_error *err);

/* Host to device; src may be reused at once. Device to host; dst is valid after rp_wait. */
void rp_upload(rp_queue *q, rp_ptr dst, const void *src, size_t bytes);
void rp_download(rp_queue *q, void *dst, rp_ptr src, size_t bytes);
/* The same for n elements, converted between host elements of `host` and the tensor's dtype (any of
 * F32, F64, BF16), so that the host speaks float32 on every device. */
void rp_upload_as(rp_queue *q, rp_tensor dst, const void *src, rp_dtype host, int64_t n);
void rp_download_as(rp_queue *q, void *dst, rp_dtype host, rp_tensor src, int64_t n);

/* A host function put on the queue like an op: run(args, err) is called in queue order, on whatever
 * thread runs the queue, with a copy of the `bytes` (at most RP_CALL_BYTES) at args; an error it
 * leaves is sticky. It may touch device memory. Not part of a recording. What starts work for another
 * thread, and what waits for that work, are such calls: so a collective takes its place among ops. */
enum { RP_CALL_BYTES = 96 };
typedef void (*rp_call_fn)(const void *args, rp_error *err);
void rp_call(rp_queue *q, rp_call_fn run, const void *args, size_t bytes);
/* Between the two the calling thread, which need not run a queue, may touch the device's memory
 * (false: it may not). */
bool rp_device_enter(rp_device *d);
void rp_device_leave(rp_device *d);

/* Runs everything put so far. The first error of the queue, which stays. */
rp_status rp_wait(rp_queue *q, rp_error *err);
/* An error found by the host while it puts work (bad shape): made sticky as an op's would be. */
void rp_queue_fail(rp_queue *q, rp_status st, const char *fmt, ...) RP_PRINTF(3, 4);

/* Records the ops put between begin and end (they run as usual; uploads and downloads are not
 * part), and puts them again with the same arguments. Free with rp_tape_free, before its queue. */
typedef struct rp_tape rp_tape;
rp_status rp_record_begin(rp_queue *q, rp_error *err);
rp_status rp_record_end(rp_queue *q, rp_tape **tape, rp_error *err);
void rp_replay(rp_queue *q, const rp_tape *tape);
void rp_tape_free(rp_tape *tape);

#endif
