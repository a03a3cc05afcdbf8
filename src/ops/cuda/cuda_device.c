/* cuda_device.c - device cuda: memory, queues as streams, recorded steps as graphs. */
#include "ops/backend.h"

#if RATPLUS_WITH_CUDA

#include <stdatomic.h>

#include "base/str.h"
#include "ops/cuda/cuda_kernels.h"
#include "ops/cuda/gpus.h"

enum { MOST_CALLS = 64 };

typedef struct cuda_queue cuda_queue;
typedef struct {
  rp_host_call call;
  cuda_queue *queue;
} host_call;

struct cuda_queue {
  CUstream stream;
  CUevent reached; /* for queues that come after this one */
  rp_cuda_stage *stage;
  CUdeviceptr scratch;
  size_t scratch_bytes;
  unsigned scratch_made; /* how often: a graph holds its address */
  host_call call[MOST_CALLS];
  unsigned calls;        /* put */
  atomic_uint calls_run; /* by the driver's thread */
  rp_error call_err;     /* the first of them; the host looks when the stream is idle */
};

CUresult rp_cuda_use(const rp_cuda *g) { return g->api->cuCtxSetCurrent(g->context); }

rp_status rp_cuda_fail(const rp_cuda *g, CUresult r, const char *what, rp_error *err) {
  const char *text = rp_cuda_error(g->api, r);
  if (r == CUDA_ERROR_OUT_OF_MEMORY)
    return rp_fail(err, RP_NO_MEMORY, "%s: no memory on %s; free some or make the job smaller",
                   what, g->label);
  return rp_fail(err, RP_FAIL, "%s on %s: %s; what was on it is lost, what was saved is whole",
                 what, g->label, text);
}

/* The first error stays. */
static void queue_error(rp_queue *q, CUresult r, const char *what) {
  cuda_queue *cq = q->own;
  if (!r) return;
  rp_cuda_stage_drop(cq->stage);
  if (!q->err.status) rp_cuda_fail(q->d->own, r, what, &q->err);
}

/* ---- memory ---- */

static rp_status no_memory(const rp_cuda *g, size_t bytes, const char *what, rp_error *err) {
  size_t free_bytes = 0, total = 0;
  char want[32], have[32], all[32];
  g->api->cuMemGetInfo(&free_bytes, &total);
  rp_format_bytes(want, (double)bytes);
  rp_format_bytes(have, (double)free_bytes);
  rp_format_bytes(all, (double)total);
  return rp_fail(err, RP_NO_MEMORY,
                 "%s: no memory for %s on %s, where %s of %s are free; free some or make the job "
                 "smaller",
                 what, want, g->label, have, all);
}

/* There for every stream when it returns. */
static rp_status have(const rp_cuda *g, size_t bytes, bool zeroed, const char *what,
                      CUdeviceptr *out, rp_error *err) {
  *out = 0;
  CUresult r = rp_cuda_use(g);
  if (!r) r = g->api->cuMemAllocFromPoolAsync(out, bytes, g->pool, g->stream);
  if (!r && zeroed) r = g->api->cuMemsetD8Async(*out, 0, bytes, g->stream);
  if (!r) r = g->api->cuStreamSynchronize(g->stream);
  if (!r) return RP_OK;
  if (*out) g->api->cuMemFreeAsync(*out, g->stream);
  *out = 0;
  return r == CUDA_ERROR_OUT_OF_MEMORY ? no_memory(g, bytes, what, err)
                                       : rp_cuda_fail(g, r, what, err);
}

static rp_status alloc(rp_device *d, size_t bytes, const char *what, void **out, rp_error *err) {
  CUdeviceptr p;
  const rp_status st = have(d->own, bytes, true, what, &p, err);
  *out = (void *)(uintptr_t)p;
  return st;
}

/* Its queues are idle, and the pool gives it away again in the order of its stream. */
static void release(rp_device *d, void *p, size_t bytes) {
  const rp_cuda *g = d->own;
  (void)bytes;
  if (!rp_cuda_use(g)) g->api->cuMemFreeAsync((CUdeviceptr)(uintptr_t)p, g->stream);
}

/* What was freed is the pool's, and the driver counts it as used. */
static uint64_t available(const rp_device *d) {
  const rp_cuda *g = d->own;
  size_t free_bytes = 0, total = 0;
  cuuint64_t used = 0, held = 0;
  if (!rp_cuda_use(g)) {
    g->api->cuMemGetInfo(&free_bytes, &total);
    g->api->cuMemPoolGetAttribute(g->pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used);
    g->api->cuMemPoolGetAttribute(g->pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &held);
  }
  return free_bytes + (held > used ? held - used : 0);
}

/* ---- queues ---- */

static void queue_close(rp_queue *q) {
  const rp_cuda *g = q->d->own;
  cuda_queue *cq = q->own;
  rp_cuda_use(g);
  if (cq->stream) g->api->cuStreamSynchronize(cq->stream);
  if (cq->scratch) g->api->cuMemFreeAsync(cq->scratch, g->stream);
  rp_cuda_stage_close(cq->stage);
  if (cq->reached) g->api->cuEventDestroy(cq->reached);
  if (cq->stream) g->api->cuStreamDestroy(cq->stream);
  rp_free(cq);
}

static rp_status queue_open(rp_queue *q, rp_error *err) {
  const rp_cuda *g = q->d->own;
  rp_status st = RP_OK;
  cuda_queue *cq = q->own = rp_calloc(1, sizeof *cq);
  if (!cq) return rp_fail_memory(err, sizeof *cq, "a queue");
  CUresult r = rp_cuda_use(g);
  if (!r) r = g->api->cuStreamCreate(&cq->stream, CU_STREAM_NON_BLOCKING);
  if (!r) r = g->api->cuEventCreate(&cq->reached, CU_EVENT_DISABLE_TIMING);
  if (r) RP_GO(rp_cuda_fail(g, r, "a stream", err));
  RP_GO(rp_cuda_stage_open(&cq->stage, g, err));
  return RP_OK;
fail:
  queue_close(q);
  return st;
}

static void run(rp_queue *q) {
  const rp_cuda *g = q->d->own;
  cuda_queue *cq = q->own;
  CUresult r = rp_cuda_use(g);
  if (!r) r = g->api->cuStreamSynchronize(cq->stream);
  if (!r) r = rp_cuda_stage_settle(cq->stage);
  if (!r && !q->err.status && cq->call_err.status) q->err = cq->call_err;
  queue_error(q, r, "the work of a queue");
}

static rp_status reserve(rp_queue *q, size_t bytes, rp_error *err) {
  const rp_cuda *g = q->d->own;
  cuda_queue *cq = q->own;
  if (bytes <= cq->scratch_bytes) return RP_OK;
  run(q);
  if (cq->scratch) g->api->cuMemFreeAsync(cq->scratch, g->stream);
  cq->scratch_bytes = 0;
  RP_TRY(have(g, bytes, false, "scratch", &cq->scratch, err));
  cq->scratch_bytes = bytes;
  cq->scratch_made++;
  return RP_OK;
}

static void copy(rp_queue *q, const rp_copy *c) {
  cuda_queue *cq = q->own;
  CUresult r = rp_cuda_use(q->d->own);
  if (!r) r = rp_cuda_stage_copy(cq->stage, cq->stream, c);
  queue_error(q, r, c->up ? "an upload" : "a download");
}

static void CUDA_CB run_call(void *p) {
  host_call *h = p;
  cuda_queue *cq = h->queue;
  if (!cq->call_err.status) h->call.run(h->call.args, &cq->call_err);
  atomic_fetch_add(&cq->calls_run, 1);
}

static void call(rp_queue *q, const rp_host_call *c) {
  const rp_cuda *g = q->d->own;
  cuda_queue *cq = q->own;
  if (cq->calls - atomic_load(&cq->calls_run) == MOST_CALLS) run(q);
  if (q->err.status) return;
  host_call *h = &cq->call[cq->calls % MOST_CALLS];
  *h = (host_call){*c, cq};
  CUresult r = rp_cuda_use(g);
  if (!r) r = g->api->cuLaunchHostFunc(cq->stream, run_call, h);
  if (!r) cq->calls++;
  queue_error(q, r, "a call of the host");
}

static void after(rp_queue *q, rp_queue *first) {
  const rp_cuda *g = q->d->own;
  cuda_queue *cq = q->own, *other = first->own;
  CUresult r = rp_cuda_use(g);
  if (!r) r = g->api->cuEventRecord(other->reached, other->stream);
  if (!r) r = g->api->cuStreamWaitEvent(cq->stream, other->reached, 0);
  queue_error(q, r, "the order of two queues");
}

/* The host has no way to its memory. */
static bool enter(rp_device *d) {
  (void)d;
  return false;
}

/* ---- ops ---- */

#define RP_X(name) &rp_cuda_op_##name,
static const rp_cuda_op *const ops[] = {RP_OPS(RP_X)};
#undef RP_X

static bool has(const rp_device *d, rp_op op) {
  (void)d, (void)op;
  return true;
}

static size_t scratch(const rp_device *d, rp_op op, const void *args) {
  return ops[op]->scratch ? ops[op]->scratch(d->own, args) : 0;
}

static void put(rp_queue *q, rp_op op, const void *args) {
  const rp_cuda *g = q->d->own;
  const cuda_queue *cq = q->own;
  const size_t takes = scratch(q->d, op, args);
  queue_error(q, rp_cuda_use(g), rp_op_name(op));
  if (q->err.status) return;
  if (takes > cq->scratch_bytes) {
    rp_fail(&q->err, RP_FAIL,
            "op %s takes %zu bytes of scratch and its queue has %zu; reserve them before the step",
            rp_op_name(op), takes, cq->scratch_bytes);
    return;
  }
  ops[op]->put(&(rp_cuda_run){g, cq->stream, cq->scratch, &q->err}, args);
  if (q->err.status) rp_cuda_stage_drop(cq->stage);
}

/* ---- recorded steps ---- */

typedef struct {
  CUgraphExec exec;
  unsigned scratch_made;
} graph;

static void forget(rp_device *d, void *own) {
  const rp_cuda *g = d->own;
  graph *x = own;
  rp_cuda_use(g);
  if (x->exec) g->api->cuGraphExecDestroy(x->exec);
  rp_free(x);
}

/* The ops once more onto the stream while it only takes down what it is told. */
static void capture(rp_queue *q, const rp_tape *t, graph *x) {
  const rp_cuda *g = q->d->own;
  const cuda_queue *cq = q->own;
  CUgraph taken = NULL;
  CUresult r = rp_cuda_use(g);
  if (!r) r = g->api->cuStreamBeginCapture(cq->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  if (!r) {
    rp_tape_put(q, t);
    r = g->api->cuStreamEndCapture(cq->stream, &taken);
  }
  if (x->exec) g->api->cuGraphExecDestroy(x->exec);
  x->exec = NULL;
  if (!r) r = g->api->cuGraphInstantiate(&x->exec, taken, 0);
  if (taken) g->api->cuGraphDestroy(taken);
  x->scratch_made = cq->scratch_made;
  queue_error(q, r, "the recording of a step");
}

static void *record(rp_queue *q, const rp_tape *t, rp_error *err) {
  graph *x = rp_calloc(1, sizeof *x);
  if (!x) {
    rp_fail_memory(err, sizeof *x, "a recorded step");
    return NULL;
  }
  capture(q, t, x);
  return x;
}

static void replay(rp_queue *q, const rp_tape *t, void *own) {
  const rp_cuda *g = q->d->own;
  const cuda_queue *cq = q->own;
  graph *x = own;
  if (x->scratch_made != cq->scratch_made) capture(q, t, x);
  if (q->err.status) return;
  CUresult r = rp_cuda_use(g);
  if (!r) r = g->api->cuGraphLaunch(x->exec, cq->stream);
  queue_error(q, r, "a recorded step");
}

/* ---- the device ---- */

static void close_device(rp_device *d) {
  rp_cuda *g = d->own;
  const rp_cuda_api *api = g->api;
  if (g->context) rp_cuda_use(g);
  rp_cuda_kernels_close(g->kernels, g);
  rp_cuda_products_close(g->products);
  if (g->stream) api->cuStreamSynchronize(g->stream);
  if (g->stream) api->cuStreamDestroy(g->stream);
  if (g->pool) api->cuMemPoolDestroy(g->pool);
  if (g->context) {
    api->cuCtxSetCurrent(NULL);
    api->cuDevicePrimaryCtxRelease(g->gpu);
  }
  rp_cpu_engine_close(&g->host);
  rp_free(g);
}

static const char *label(const rp_device *d) { return ((const rp_cuda *)d->own)->name; }

static const rp_backend backend = {.keeps_ops = true,
                                   .close = close_device,
                                   .label = label,
                                   .alloc = alloc,
                                   .free = release,
                                   .available = available,
                                   .queue_open = queue_open,
                                   .queue_close = queue_close,
                                   .reserve = reserve,
                                   .put = put,
                                   .copy = copy,
                                   .call = call,
                                   .after = after,
                                   .enter = enter,
                                   .run = run,
                                   .has = has,
                                   .scratch = scratch,
                                   .record = record,
                                   .replay = replay,
                                   .forget = forget};

/* What was freed stays in the pool, so that a second run of the same shapes asks the driver nothing. */
static CUresult open_pool(rp_cuda *g) {
  cuuint64_t keep = UINT64_MAX;
  const CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = g->gpu}};
  const CUresult r = g->api->cuMemPoolCreate(&g->pool, &props);
  if (r) return r;
  return g->api->cuMemPoolSetAttribute(g->pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep);
}

static CUresult attributes(rp_cuda *g) {
  const rp_cuda_api *api = g->api;
  int major = 0, minor = 0;
  CUresult r =
      api->cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, g->gpu);
  if (!r)
    r = api->cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, g->gpu);
  if (!r)
    r = api->cuDeviceGetAttribute(&g->processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, g->gpu);
  g->capability = major * 10 + minor;
  return r;
}

static rp_status open_gpu(rp_cuda *g, rp_error *err) {
  int gpus = 0, mine = 0;
  rp_snprintf(g->label, sizeof g->label, "the driver");
  CUresult r = g->api->cuDeviceGetCount(&gpus);
  if (!r) RP_TRY(rp_gpus_mine(gpus, &mine, err));
  if (!r) r = g->api->cuDeviceGet(&g->gpu, mine);
  if (!r) r = g->api->cuDeviceGetName(g->name, sizeof g->name, g->gpu);
  if (!r) rp_snprintf(g->label, sizeof g->label, "GPU %d (%s)", mine, g->name);
  if (!r) r = attributes(g);
  if (!r) r = g->api->cuDevicePrimaryCtxRetain(&g->context, g->gpu);
  if (!r) r = rp_cuda_use(g);
  if (!r) r = g->api->cuStreamCreate(&g->stream, CU_STREAM_NON_BLOCKING);
  if (!r) r = open_pool(g);
  return r ? rp_cuda_fail(g, r, "opening it", err) : RP_OK;
}

rp_status rp_cuda_open(rp_device *d, rp_error *err) {
  rp_status st = RP_OK;
  rp_cuda *g = rp_calloc(1, sizeof *g);
  if (!g) return rp_fail_memory(err, sizeof *g, "a device");
  d->own = g;
  RP_GO(rp_cuda_load(&g->api, true, err));
  RP_GO(open_gpu(g, err));
  RP_GO(rp_cuda_products_open(&g->products, g, err));
  RP_GO(rp_cuda_kernels_open(&g->kernels, g, err));
  RP_GO(rp_cpu_engine_open(&g->host, rp_cpu_now(), false, err));
  d->kind = &backend;
  d->name = "cuda";
  d->real = RP_F32;
  return RP_OK;
fail:
  close_device(d);
  return st;
}

#else

rp_status rp_cuda_open(rp_device *d, rp_error *err) {
  (void)d;
  return rp_fail(err, RP_USAGE, "this build has no CUDA");
}

#endif
