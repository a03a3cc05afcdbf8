/* fake_nccl.c - NCCL between processes of one machine, over a shared file: for tests where no GPU is.
 *
 * What it keeps of the real one: nothing blocks; a start, a collective and an end are in progress
 * until all ranks came; what is put on a stream ends later, and only when it is asked about; a rank
 * that aborts is an error for the others; collectives that do not fit each other are one. It sums in
 * rank order. FAKE_NCCL_BREAK="RANK N": the N-th collective of that rank fails. */
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "nccl.h"

enum { RANKS = 8, SLOW = 3 /* looks until something put is under way */ };
static const size_t room = (size_t)64 << 20; /* for what a rank gives */

typedef enum { REDUCE, SCATTER, GATHER, BROADCAST } kind;

typedef struct {
  kind what;
  const void *in;
  void *out;
  size_t n;
  ncclDataType_t type;
  int root;
} op;

typedef struct {
  atomic_ulong given, taken; /* collectives whose input lies here; that this rank is through with */
  op what;
} desk;

typedef struct {
  atomic_int joined, leaving, aborted;
  desk at[RANKS];
} meeting;

struct ncclComm {
  char path[128];
  meeting *all;
  int rank, n, looks;
  unsigned long seq;
  ncclResult_t now;
};
struct CUstream_st {
  ncclComm_t comm;
  op o;
  bool busy, given;
};

/* ---- CUDA ---- */

cudaError_t cudaSetDevice(int device) { return device ? cudaErrorMemoryAllocation : cudaSuccess; }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
  (void)flags;
  *s = calloc(1, sizeof **s);
  return *s ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaStreamDestroy(cudaStream_t s) {
  free(s);
  return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t e) {
  return e == cudaErrorMemoryAllocation ? "out of memory" : "an error";
}

/* ---- collectives ---- */

static size_t bytes_of(ncclDataType_t t) { return t == ncclUint8 ? 1 : t == ncclFloat32 ? 4 : 8; }

static uint8_t *desk_of(const ncclComm_t c, int rank) {
  return (uint8_t *)c->all + sizeof *c->all + room * (size_t)rank;
}

static void add(ncclDataType_t t, void *to, const void *from, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (t == ncclFloat32) ((float *)to)[i] += ((const float *)from)[i];
    if (t == ncclFloat64) ((double *)to)[i] += ((const double *)from)[i];
    if (t == ncclInt64) ((int64_t *)to)[i] += ((const int64_t *)from)[i];
  }
}

static void combine(const ncclComm_t c, const op *o) {
  const size_t size = bytes_of(o->type), n = o->n * size;
  const size_t from = o->what == SCATTER ? n * (size_t)c->rank : 0;
  if (o->what == BROADCAST) memcpy(o->out, desk_of(c, o->root), n);
  for (int r = 0; r < c->n && o->what == GATHER; r++)
    memcpy((uint8_t *)o->out + n * (size_t)r, desk_of(c, r), n);
  for (int r = 0; r < c->n && (o->what == REDUCE || o->what == SCATTER); r++) {
    if (r == 0)
      memcpy(o->out, desk_of(c, 0) + from, n);
    else
      add(o->type, o->out, desk_of(c, r) + from, o->n);
  }
}

static bool all_at(const ncclComm_t c, bool given, unsigned long seq) {
  for (int r = 0; r < c->n; r++) {
    desk *d = &c->all->at[r];
    if (atomic_load(given ? &d->given : &d->taken) < seq) return false;
  }
  return true;
}

static bool fits(const op *a, const op *b) {
  return a->what == b->what && a->n == b->n && a->type == b->type && a->root == b->root;
}

cudaError_t cudaStreamQuery(cudaStream_t s) {
  ncclComm_t c = s->comm;
  if (!s->busy) return cudaSuccess;
  desk *mine = &c->all->at[c->rank];
  if (!s->given) {
    if (!all_at(c, false, c->seq - 1)) return cudaErrorNotReady;
    const size_t parts = s->o.what == SCATTER ? (size_t)c->n : 1;
    memcpy(desk_of(c, c->rank), s->o.in, s->o.n * bytes_of(s->o.type) * parts);
    mine->what = s->o;
    atomic_store(&mine->given, c->seq);
    s->given = true;
  }
  if (!all_at(c, true, c->seq)) return cudaErrorNotReady;
  for (int r = 0; r < c->n; r++) {
    if (fits(&c->all->at[r].what, &s->o)) continue;
    c->now = ncclInvalidUsage;
    return cudaErrorNotReady;
  }
  combine(c, &s->o);
  atomic_store(&mine->taken, c->seq);
  s->busy = s->given = false;
  return cudaSuccess;
}

static bool breaks(const ncclComm_t c) {
  const char *text = getenv("FAKE_NCCL_BREAK");
  int rank;
  unsigned long n;
  return text && sscanf(text, "%d %lu", &rank, &n) == 2 && rank == c->rank && n == c->seq;
}

static ncclResult_t put(kind what, const void *in, void *out, size_t n, ncclDataType_t t, int root,
                        ncclComm_t c, cudaStream_t s) {
  const size_t bytes = n * bytes_of(t) * (what == SCATTER ? (size_t)c->n : 1);
  if (s->busy || bytes > room || root < 0 || root >= c->n) return ncclInvalidArgument;
  s->comm = c;
  s->o = (op){what, in, out, n, t, root};
  s->busy = true;
  c->seq++;
  c->looks = 0;
  if (breaks(c)) c->now = ncclSystemError;
  return ncclInProgress;
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t n, ncclDataType_t t, ncclRedOp_t o,
                           ncclComm_t c, cudaStream_t s) {
  return o == ncclSum ? put(REDUCE, in, out, n, t, 0, c, s) : ncclInvalidArgument;
}

ncclResult_t ncclReduceScatter(const void *in, void *out, size_t n, ncclDataType_t t, ncclRedOp_t o,
                               ncclComm_t c, cudaStream_t s) {
  return o == ncclSum ? put(SCATTER, in, out, n, t, 0, c, s) : ncclInvalidArgument;
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t n, ncclDataType_t t, ncclComm_t c,
                           cudaStream_t s) {
  return put(GATHER, in, out, n, t, 0, c, s);
}

ncclResult_t ncclBroadcast(const void *in, void *out, size_t n, ncclDataType_t t, int root,
                           ncclComm_t c, cudaStream_t s) {
  return put(BROADCAST, in, out, n, t, root, c, s);
}

/* ---- life ---- */

static size_t file_bytes(void) { return sizeof(meeting) + room * RANKS; }

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
  const char *dir = getenv("TMPDIR");
  const int n = snprintf(id->internal, sizeof id->internal, "%s/fake-nccl-XXXXXX",
                         dir && *dir ? dir : "/tmp");
  if (n >= (int)sizeof id->internal) return ncclSystemError;
  const int fd = mkstemp(id->internal);
  if (fd < 0) return ncclSystemError;
  const int failed = ftruncate(fd, (off_t)file_bytes());
  close(fd);
  return failed ? ncclSystemError : ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
  if (n > RANKS || config->blocking) return ncclInvalidArgument;
  const int fd = open(id.internal, O_RDWR);
  if (fd < 0) return ncclSystemError;
  void *at = mmap(NULL, file_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  ncclComm_t c = *out = calloc(1, sizeof *c);
  if (at == MAP_FAILED || !c) return ncclSystemError;
  *c = (struct ncclComm){.all = at, .rank = rank, .n = n};
  snprintf(c->path, sizeof c->path, "%.127s", id.internal);
  atomic_fetch_add(&c->all->joined, 1);
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *now) {
  if (c->now == ncclSuccess && atomic_load(&c->all->aborted)) c->now = ncclRemoteError;
  *now = c->now;
  if (*now != ncclSuccess) return ncclSuccess;
  const int leaving = atomic_load(&c->all->leaving);
  if (atomic_load(&c->all->joined) < c->n || (leaving && leaving < c->n) || c->looks++ < SLOW)
    *now = ncclInProgress;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t c) {
  atomic_fetch_add(&c->all->leaving, 1);
  c->looks = 0;
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t c) {
  unlink(c->path);
  munmap(c->all, file_bytes());
  free(c);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t c) {
  atomic_store(&c->all->aborted, 1);
  return ncclCommDestroy(c);
}

const char *ncclGetErrorString(ncclResult_t r) {
  return r == ncclSystemError    ? "unhandled system error"
         : r == ncclRemoteError  ? "remote process exited or there was a network error"
         : r == ncclInvalidUsage ? "invalid usage"
                                 : "invalid argument";
}

const char *ncclGetLastError(ncclComm_t c) {
  (void)c;
  return "";
}
