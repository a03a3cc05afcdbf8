/* cuda_stage.c - copies between host and device, through a ring of pinned memory.
 *
 * The GPU reads and writes the ring while the host is elsewhere: an upload is copied (and converted) into
 * it at once, a download is taken out of it when it is settled. Pieces lie in the ring in the order they
 * were put, each with an event that says when the GPU is through with it. */
#include "ops/cuda/gpus.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_device.h"

enum { RING = 8 << 20, PIECE = RING / 4, PIECES = 64, LINE = 64 };

typedef struct {
  CUevent done;
  size_t at, bytes; /* in the ring */
  rp_copy copy;     /* of this piece; its device side is the ring */
} piece;

struct rp_cuda_stage {
  const rp_cuda *g;
  uint8_t *ring;
  size_t head; /* where the next piece begins */
  piece piece[PIECES];
  unsigned first, n;
};

rp_status rp_cuda_stage_open(rp_cuda_stage **out, const rp_cuda *g, rp_error *err) {
  void *ring = NULL;
  rp_cuda_stage *s = *out = rp_calloc(1, sizeof *s);
  if (!s) return rp_fail_memory(err, sizeof *s, "a queue");
  s->g = g;
  CUresult r = g->api->cuMemHostAlloc(&ring, RING, 0);
  s->ring = ring;
  for (int i = 0; i < PIECES && !r; i++)
    r = g->api->cuEventCreate(&s->piece[i].done, CU_EVENT_DISABLE_TIMING);
  if (!r) return RP_OK;
  rp_cuda_stage_close(s);
  *out = NULL;
  return rp_cuda_fail(g, r, "pinned memory", err);
}

void rp_cuda_stage_close(rp_cuda_stage *s) {
  if (!s) return;
  for (int i = 0; i < PIECES; i++)
    if (s->piece[i].done) s->g->api->cuEventDestroy(s->piece[i].done);
  if (s->ring) s->g->api->cuMemFreeHost(s->ring);
  rp_free(s);
}

void rp_cuda_stage_drop(rp_cuda_stage *s) { s->n = 0; }

static CUresult settle_first(rp_cuda_stage *s) {
  const piece *p = &s->piece[s->first];
  const CUresult r = s->g->api->cuEventSynchronize(p->done);
  if (r) return r;
  if (!p->copy.up) rp_cpu_engine_copy(&s->g->host, &p->copy);
  s->first = (s->first + 1) % PIECES;
  s->n--;
  return CUDA_SUCCESS;
}

CUresult rp_cuda_stage_settle(rp_cuda_stage *s) {
  CUresult r = CUDA_SUCCESS;
  while (s->n && !r) r = settle_first(s);
  return r;
}

/* Room for `bytes` in one stretch, between the newest piece and the oldest. */
static bool room(rp_cuda_stage *s, size_t bytes, size_t *at) {
  const size_t oldest = s->piece[s->first].at;
  if (s->n == PIECES) return false;
  if (!s->n) s->head = 0;
  *at = s->head;
  if (!s->n) return true;
  if (s->head <= oldest) return oldest - s->head >= bytes;
  if (RING - s->head >= bytes) return true;
  *at = 0;
  return oldest >= bytes;
}

static CUresult take(rp_cuda_stage *s, size_t bytes, piece **out) {
  size_t at;
  bytes = (bytes + LINE - 1) / LINE * LINE;
  while (!room(s, bytes, &at)) {
    const CUresult r = settle_first(s);
    if (r) return r;
  }
  *out = &s->piece[(s->first + s->n) % PIECES];
  (*out)->at = at;
  (*out)->bytes = bytes;
  s->head = at + bytes;
  return CUDA_SUCCESS;
}

static CUresult copy_piece(rp_cuda_stage *s, CUstream stream, const rp_copy *c, size_t bytes) {
  piece *p = NULL;
  CUresult r = take(s, bytes, &p);
  if (r) return r;
  uint8_t *at = s->ring + p->at;
  p->copy = *c;
  p->copy.dev.p.at = (uintptr_t)at;
  if (c->up) {
    rp_cpu_engine_copy(&s->g->host, &p->copy);
    r = s->g->api->cuMemcpyHtoDAsync(c->dev.p.at, at, bytes, stream);
  } else {
    r = s->g->api->cuMemcpyDtoHAsync(at, c->dev.p.at, bytes, stream);
  }
  if (!r) r = s->g->api->cuEventRecord(p->done, stream);
  if (!r) s->n++;
  return r;
}

CUresult rp_cuda_stage_copy(rp_cuda_stage *s, CUstream stream, const rp_copy *c) {
  const size_t dev = c->as ? (size_t)rp_dtype_bytes(c->dev.dtype) : 1;
  const size_t host = c->as ? (size_t)rp_dtype_bytes(c->host_dtype) : 1;
  CUresult r = CUDA_SUCCESS;
  const int64_t most = PIECE / (int64_t)dev;
  for (int64_t from = 0; from < c->n && !r; from += most) {
    rp_copy part = *c;
    part.n = c->n - from < most ? c->n - from : most;
    part.dev.p = rp_ptr_add(c->dev.p, (size_t)from * dev);
    part.host = (uint8_t *)c->host + (size_t)from * host;
    r = copy_piece(s, stream, &part, (size_t)part.n * dev);
  }
  return r;
}

#else
typedef int rp_no_stage; /* an empty file is no C */
#endif
