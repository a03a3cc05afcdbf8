/* comm_nccl.c - collectives over the memory of GPUs by NCCL, for ranks that a wire brought together.
 *
 * NCCL is told not to block, so that its start, its collectives and its end are polled like any wire:
 * the deadline, the word of another rank and an error of NCCL end them alike, and then its own threads
 * and kernels are aborted. */
#include "dist/comm_inner.h"

#if RATPLUS_WITH_NCCL

#include <cuda_runtime_api.h>
#include <nccl.h>
#include <string.h>
#include <time.h>

#include "base/log.h"

typedef struct {
  ncclComm_t comm;
  cudaStream_t stream;
  int device;
} nccl_engine;

static rp_status check(const nccl_engine *e, ncclResult_t r, const char *what, rp_error *err) {
  if (r == ncclSuccess || r == ncclInProgress) return RP_OK;
  const char *more = ncclGetLastError(e->comm);
  return rp_fail(err, RP_FAIL, "NCCL: %s failed: %s%s%s", what, ncclGetErrorString(r),
                 more && *more ? ": " : "", more ? more : "");
}

static rp_status check_cuda(cudaError_t r, const char *what, rp_error *err) {
  if (r == cudaSuccess) return RP_OK;
  return rp_fail(err, RP_FAIL, "CUDA: %s failed: %s", what, cudaGetErrorString(r));
}

/* Numbers that are added keep their type, all others travel as bytes. */
static rp_status type_of(const rp_collective *a, ncclDataType_t *type, size_t *n, rp_error *err) {
  *n = (size_t)a->n;
  switch (a->dtype) {
    case RP_F32: *type = ncclFloat32; return RP_OK;
    case RP_F64: *type = ncclFloat64; return RP_OK;
    case RP_I64: *type = ncclInt64; return RP_OK;
    default: break;
  }
  if (a->kind == RP_COMM_SUM || a->kind == RP_COMM_SCATTER)
    return rp_fail(err, RP_FAIL, "no sums of %s over ranks; this is a bug",
                   rp_dtype_name(a->dtype));
  *type = ncclUint8;
  *n *= (size_t)rp_dtype_bytes(a->dtype);
  return RP_OK;
}

static rp_status begin(void *own, const rp_collective *a, rp_error *err) {
  nccl_engine *e = own;
  ncclDataType_t type = ncclUint8;
  size_t n = 0;
  const void *in = (const void *)a->in.at;
  void *out = (void *)a->out.at;
  RP_TRY(type_of(a, &type, &n, err));
  RP_TRY(check_cuda(cudaSetDevice(e->device), "the choice of a device", err));
  ncclResult_t r = ncclInvalidArgument;
  switch (a->kind) {
    case RP_COMM_SUM: r = ncclAllReduce(in, out, n, type, ncclSum, e->comm, e->stream); break;
    case RP_COMM_SCATTER:
      r = ncclReduceScatter(in, out, n, type, ncclSum, e->comm, e->stream);
      break;
    case RP_COMM_GATHER: r = ncclAllGather(in, out, n, type, e->comm, e->stream); break;
    case RP_COMM_BROADCAST: r = ncclBroadcast(in, out, n, type, a->root, e->comm, e->stream); break;
    default: break;
  }
  return check(e, r, rp_comm_kind_name(a->kind), err);
}

/* First whether it is on the stream at all, then whether the stream came to its end. */
static rp_status poll(void *own, bool *done, rp_error *err) {
  nccl_engine *e = own;
  ncclResult_t now = ncclSuccess;
  *done = false;
  RP_TRY(check(e, ncclCommGetAsyncError(e->comm, &now), "a look at its state", err));
  RP_TRY(check(e, now, "a collective", err));
  if (now == ncclInProgress) return RP_OK;
  const cudaError_t stream = cudaStreamQuery(e->stream);
  if (stream == cudaErrorNotReady) return RP_OK;
  *done = stream == cudaSuccess;
  return check_cuda(stream, "a collective", err);
}

/* Until NCCL is through with what it was asked; false: it is not by then, or failed. */
static bool settles(const nccl_engine *e, double seconds) {
  ncclResult_t now = ncclInProgress;
  for (const double end = rp_now() + seconds; now == ncclInProgress && rp_now() < end;) {
    if (ncclCommGetAsyncError(e->comm, &now) != ncclSuccess) return false;
    if (now == ncclInProgress) nanosleep(&(struct timespec){0, 1000000}, NULL);
  }
  return now == ncclSuccess;
}

static void close_engine(void *own, bool broken) {
  nccl_engine *e = own;
  cudaSetDevice(e->device);
  if (e->comm) {
    if (!broken) {
      const ncclResult_t r = ncclCommFinalize(e->comm);
      broken = (r != ncclSuccess && r != ncclInProgress) || !settles(e, 10);
    }
    if (broken)
      ncclCommAbort(e->comm);
    else
      ncclCommDestroy(e->comm);
  }
  if (e->stream) cudaStreamDestroy(e->stream);
  rp_free(e);
}

static const rp_engine engine = {close_engine, begin, poll};

/* What can fail on one rank alone comes first: the start waits for all, as long as a collective may. */
static rp_status prepare(nccl_engine *e, const rp_comm *c, ncclUniqueId *id, rp_error *err) {
  RP_TRY(check_cuda(cudaSetDevice(e->device), "the choice of a device", err));
  RP_TRY(check_cuda(cudaStreamCreateWithFlags(&e->stream, cudaStreamNonBlocking), "a stream", err));
  if (rp_comm_rank(c)) return RP_OK;
  return check(e, ncclGetUniqueId(id), "its meeting point", err);
}

static rp_status start(nccl_engine *e, const rp_comm *c, const ncclUniqueId *id, rp_error *err) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  const double deadline = rp_comm_deadline(c);
  const ncclResult_t r =
      ncclCommInitRankConfig(&e->comm, rp_comm_size(c), *id, rp_comm_rank(c), &config);
  RP_TRY(check(e, r, "its start", err));
  if (settles(e, deadline)) return RP_OK;
  ncclResult_t now = ncclSystemError;
  ncclCommGetAsyncError(e->comm, &now);
  if (now != ncclInProgress) return check(e, now, "its start", err);
  return rp_fail(err, RP_FAIL, "NCCL has not brought the ranks together within %.0f s", deadline);
}

rp_status rp_comm_use_nccl(rp_comm *c, int device, rp_error *err) {
  rp_status st = RP_OK;
  ncclUniqueId id = {{0}};
  nccl_engine *e = rp_calloc(1, sizeof *e);
  if (!e) st = rp_fail_memory(err, sizeof *e, "NCCL");
  if (e) e->device = device;
  if (!st) st = prepare(e, c, &id, err);
  _Static_assert(sizeof id % 8 == 0, "a meeting point travels in whole words");
  RP_GO(rp_comm_agree(c, st, err));
  RP_GO(rp_comm_host_run(c, RP_COMM_BROADCAST, RP_I64, &id, &id, sizeof id / 8, 0, err));
  RP_GO(rp_comm_agree(c, start(e, c, &id, err), err));
  rp_comm_set_engine(c, &engine, e);
  return RP_OK;
fail:
  if (e) close_engine(e, true);
  return st;
}

bool rp_comm_has_nccl(void) { return true; }

#else

bool rp_comm_has_nccl(void) { return false; }

rp_status rp_comm_use_nccl(rp_comm *c, int device, rp_error *err) {
  (void)c;
  (void)device;
  return rp_fail(err, RP_USAGE, "this build has no NCCL");
}

#endif
