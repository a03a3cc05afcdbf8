/* fake_cuda.c - the driver: see fake_cuda.h. */
#include "fake_cuda.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ARGS = 1024, KERNEL_ARGS = 960, DIRTY = 0xa5 };

typedef struct work work;
struct work {
  work *next;
  fake_work run;
  bool by_host; /* a function of the host, which must not call CUDA or see its memory */
  _Alignas(16) unsigned char args[ARGS];
};
typedef struct {
  work *first, *last;
} list;

struct CUstream_st {
  list todo;
  bool captures, spoilt;
  list taken;
};
struct CUevent_st {
  CUstream stream; /* where it was recorded last */
  unsigned recorded, reached;
};
struct CUgraph_st {
  list work;
};
struct CUgraphExec_st {
  list work;
};
typedef struct block block;
struct block {
  block *next;
  unsigned char *at;
  size_t bytes, mapped;
  bool live;
  CUmemoryPool pool;
};
struct CUmemPoolHandle_st {
  cuuint64_t keep;
};
typedef struct pinned pinned;
struct pinned {
  pinned *next;
  void *at;
  size_t bytes;
};

fake_cuda fake = {.gpus = 1, .capacity = (size_t)1 << 30, .capability = 80};
static CUresult lost;
static bool in_host_function, started;
static int open_memory, capturing;
static block *blocks;
static pinned *pins;
static __thread CUcontext current;
static struct CUctx_st { int retained; } the_context;

void fake_cuda_reset(void) {
  fake = (fake_cuda){.gpus = 1, .capacity = (size_t)1 << 30, .capability = 80};
  lost = CUDA_SUCCESS;
}

void fake_lose(CUresult why) {
  if (!lost) lost = why;
}

static CUresult misused(CUresult r) {
  fake.misuse++;
  return r;
}

/* What every call that can fail begins with. */
static CUresult begin(bool needs_context) {
  fake.calls++;
  if (!started) return misused(CUDA_ERROR_NOT_INITIALIZED);
  if (in_host_function) return misused(CUDA_ERROR_NOT_PERMITTED);
  if (needs_context && !current) return misused(CUDA_ERROR_INVALID_CONTEXT);
  if (fake.fail_call && --fake.fail_call == 0) {
    if (fake.fail_with != CUDA_ERROR_OUT_OF_MEMORY) fake_lose(fake.fail_with);
    return fake.fail_with;
  }
  return needs_context ? lost : CUDA_SUCCESS;
}
#define BEGIN() \
  do { \
    const CUresult begun_ = begin(true); \
    if (begun_) return begun_; \
  } while (0)

/* Calls that may not come between the two ends of a capture. */
#define NOT_CAPTURED() \
  do { \
    if (capturing) return misused(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED); \
  } while (0)

/* ---- memory ---- */

static void protect(int access) {
  for (block *b = blocks; b; b = b->next) mprotect(b->at, b->mapped, access);
}
static void open_blocks(void) {
  if (open_memory++ == 0) protect(PROT_READ | PROT_WRITE);
}
static void close_blocks(void) {
  if (--open_memory == 0) protect(PROT_NONE);
}

static block *block_of(CUdeviceptr p) {
  for (block *b = blocks; b; b = b->next)
    if (p >= (CUdeviceptr)b->at && p < (CUdeviceptr)b->at + b->mapped) return b;
  return NULL;
}

bool fake_holds(CUdeviceptr p, size_t bytes) {
  const block *b = block_of(p);
  return b && b->live && bytes <= b->bytes && p - (CUdeviceptr)b->at <= b->bytes - bytes;
}

static void unmap(block *b) {
  block **at = &blocks;
  while (*at != b) at = &(*at)->next;
  *at = b->next;
  munmap(b->at, b->mapped);
  free(b);
}

static void trim(CUmemoryPool pool) {
  for (block *b = blocks, *next; b; b = next) {
    next = b->next;
    if (b->live || (pool && b->pool != pool)) continue;
    fake.cached -= b->mapped;
    unmap(b);
  }
}

static block *reuse(CUmemoryPool pool, size_t bytes) {
  for (block *b = blocks; b; b = b->next)
    if (!b->live && b->pool == pool && b->mapped >= bytes) {
      fake.cached -= b->mapped;
      return b;
    }
  return NULL;
}

static block *map(CUmemoryPool pool, size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (bytes + page - 1) / page * page;
  if (whole > fake.capacity - fake.live - fake.cached) trim(NULL);
  if (whole > fake.capacity - fake.live - fake.cached) return NULL;
  void *at = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  block *b = calloc(1, sizeof *b);
  if (at == MAP_FAILED || !b) abort();
  *b = (block){blocks, at, bytes, whole, false, pool};
  blocks = b;
  fake.mapped++;
  return b;
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *p, size_t bytes, CUmemoryPool pool, CUstream s) {
  BEGIN();
  NOT_CAPTURED();
  (void)s;
  block *b = reuse(pool, bytes);
  if (!b) b = map(pool, bytes);
  if (!b) return CUDA_ERROR_OUT_OF_MEMORY;
  b->live = true;
  b->bytes = bytes;
  fake.live += b->mapped;
  mprotect(b->at, b->mapped, PROT_READ | PROT_WRITE);
  memset(b->at, DIRTY, bytes < 1 << 20 ? bytes : 1 << 20);
  if (!open_memory) mprotect(b->at, b->mapped, PROT_NONE);
  *p = (CUdeviceptr)b->at;
  return CUDA_SUCCESS;
}

CUresult cuMemFreeAsync(CUdeviceptr p, CUstream s) {
  block *b = block_of(p);
  BEGIN();
  (void)s;
  if (!b || !b->live || (CUdeviceptr)b->at != p) return misused(CUDA_ERROR_INVALID_VALUE);
  b->live = false;
  fake.live -= b->mapped;
  fake.cached += b->mapped;
  if (!b->pool->keep) trim(b->pool);
  return CUDA_SUCCESS;
}

CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *props) {
  BEGIN();
  if (props->allocType != CU_MEM_ALLOCATION_TYPE_PINNED ||
      props->location.type != CU_MEM_LOCATION_TYPE_DEVICE || props->location.id >= fake.gpus)
    return misused(CUDA_ERROR_INVALID_VALUE);
  *pool = calloc(1, sizeof **pool);
  fake.pools++;
  return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute a, void *value) {
  BEGIN();
  if (a != CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) return misused(CUDA_ERROR_INVALID_VALUE);
  memcpy(&pool->keep, value, sizeof pool->keep);
  return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute a, void *value) {
  cuuint64_t n = 0;
  BEGIN();
  const bool held = a == CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT;
  if (!held && a != CU_MEMPOOL_ATTR_USED_MEM_CURRENT) return misused(CUDA_ERROR_INVALID_VALUE);
  for (const block *b = blocks; b; b = b->next)
    if (b->pool == pool && (held || b->live)) n += b->mapped;
  *(cuuint64_t *)value = n;
  return CUDA_SUCCESS;
}

CUresult cuMemPoolDestroy(CUmemoryPool pool) {
  trim(pool);
  free(pool);
  fake.pools--;
  return begin(true);
}

CUresult cuMemGetInfo(size_t *free_bytes, size_t *total) {
  BEGIN();
  *total = fake.capacity;
  *free_bytes = fake.capacity - fake.live - fake.cached;
  return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void **p, size_t bytes, unsigned flags) {
  BEGIN();
  NOT_CAPTURED();
  (void)flags;
  pinned *x = calloc(1, sizeof *x);
  *p = malloc(bytes);
  if (!x || !*p) abort();
  *x = (pinned){pins, *p, bytes};
  pins = x;
  fake.pinned += bytes;
  return CUDA_SUCCESS;
}

CUresult cuMemFreeHost(void *p) {
  pinned **at = &pins;
  while (*at && (*at)->at != p) at = &(*at)->next;
  pinned *x = *at;
  if (!x) return misused(CUDA_ERROR_INVALID_VALUE);
  *at = x->next;
  fake.pinned -= x->bytes;
  free(x->at);
  free(x);
  return begin(true);
}

static bool is_pinned(const void *p, size_t bytes) {
  for (const pinned *x = pins; x; x = x->next)
    if ((const char *)p >= (const char *)x->at &&
        (const char *)p + bytes <= (const char *)x->at + x->bytes)
      return true;
  return false;
}

/* ---- work ---- */

static void push(list *l, const work *from) {
  work *w = malloc(sizeof *w);
  if (!w) abort();
  *w = *from;
  w->next = NULL;
  if (l->last)
    l->last->next = w;
  else
    l->first = w;
  l->last = w;
}

static void clear(list *l) {
  for (work *w = l->first, *next; w; w = next) {
    next = w->next;
    free(w);
  }
  *l = (list){0};
}

static list copy_of(const list *l) {
  list to = {0};
  for (const work *w = l->first; w; w = w->next) push(&to, w);
  return to;
}

static CUresult put(CUstream s, fake_work run, bool by_host, const void *args, size_t bytes) {
  work w = {.run = run, .by_host = by_host};
  if (!s || bytes > ARGS) abort();
  memcpy(w.args, args, bytes);
  push(s->captures ? &s->taken : &s->todo, &w);
  return CUDA_SUCCESS;
}

CUresult fake_put(CUstream s, fake_work run, const void *args, size_t bytes) {
  BEGIN();
  return put(s, run, false, args, bytes);
}

static void do_work(const work *w) {
  if (w->by_host) {
    const int open = open_memory;
    if (open) protect(PROT_NONE);
    open_memory = 0;
    in_host_function = true;
    w->run(w->args);
    in_host_function = false;
    open_memory = open;
    if (open) protect(PROT_READ | PROT_WRITE);
  } else {
    w->run(w->args);
  }
}

/* Until the event was reached so often; NULL: to the end. Of a lost device nothing runs. */
static void run_stream(CUstream s, CUevent e, unsigned reached) {
  open_blocks();
  while (s->todo.first && !lost && !(e && e->reached >= reached)) {
    work *w = s->todo.first;
    s->todo.first = w->next;
    if (!s->todo.first) s->todo.last = NULL;
    fake.work++;
    if (fake.fault_op && --fake.fault_op == 0)
      fake_lose(fake.fault_with);
    else
      do_work(w);
    free(w);
  }
  if (lost) clear(&s->todo);
  close_blocks();
}

typedef struct {
  void *to;
  const void *from;
  size_t bytes;
  CUdeviceptr device[2]; /* to be held */
} move;

static void run_move(const void *args) {
  const move *m = args;
  for (int i = 0; i < 2; i++)
    if (m->device[i] && !fake_holds(m->device[i], m->bytes)) {
      fake_lose(CUDA_ERROR_ILLEGAL_ADDRESS);
      return;
    }
  memcpy(m->to, m->from, m->bytes);
}

static CUresult put_move(const move *m, CUstream s) {
  BEGIN();
  if (!m->bytes) return misused(CUDA_ERROR_INVALID_VALUE);
  if ((!m->device[0] && !is_pinned(m->to, m->bytes)) ||
      (!m->device[1] && !is_pinned(m->from, m->bytes)))
    return misused(CUDA_ERROR_INVALID_VALUE);
  fake.copies++;
  return put(s, run_move, false, m, sizeof *m);
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t n, CUstream s) {
  return put_move(&(move){(void *)to, from, n, {to, 0}}, s);
}
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t n, CUstream s) {
  return put_move(&(move){to, (const void *)from, n, {0, from}}, s);
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s) {
  return put_move(&(move){(void *)to, (const void *)from, n, {to, from}}, s);
}

typedef struct {
  CUdeviceptr p;
  size_t pitch, width, height;
  unsigned char value;
} fill;

static void run_fill(const void *args) {
  const fill *f = args;
  if (!fake_holds(f->p, (f->height - 1) * f->pitch + f->width)) {
    fake_lose(CUDA_ERROR_ILLEGAL_ADDRESS);
    return;
  }
  for (size_t i = 0; i < f->height; i++)
    memset((unsigned char *)f->p + i * f->pitch, f->value, f->width);
}

static CUresult put_fill(const fill *f, CUstream s) {
  BEGIN();
  if (!f->width || !f->height || f->pitch < f->width) return misused(CUDA_ERROR_INVALID_VALUE);
  return put(s, run_fill, false, f, sizeof *f);
}

CUresult cuMemsetD8Async(CUdeviceptr p, unsigned char value, size_t n, CUstream s) {
  return put_fill(&(fill){p, n, n, 1, value}, s);
}
CUresult cuMemsetD2D8Async(CUdeviceptr p, size_t pitch, unsigned char value, size_t width,
                           size_t height, CUstream s) {
  return put_fill(&(fill){p, pitch, width, height, value}, s);
}

typedef struct {
  CUhostFn fn;
  void *data;
} host_function;

static void run_host_function(const void *args) {
  const host_function *h = args;
  h->fn(h->data);
}

CUresult cuLaunchHostFunc(CUstream s, CUhostFn fn, void *data) {
  BEGIN();
  return put(s, run_host_function, true, &(host_function){fn, data}, sizeof(host_function));
}

/* ---- streams and events ---- */

CUresult cuStreamCreate(CUstream *s, unsigned flags) {
  BEGIN();
  (void)flags;
  *s = calloc(1, sizeof **s);
  fake.streams++;
  return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream s) {
  clear(&s->todo);
  clear(&s->taken);
  free(s);
  fake.streams--;
  return begin(true);
}

CUresult cuStreamSynchronize(CUstream s) {
  BEGIN();
  if (s->captures) {
    s->spoilt = true;
    return misused(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  }
  run_stream(s, NULL, 0);
  return lost;
}

CUresult cuEventCreate(CUevent *e, unsigned flags) {
  BEGIN();
  (void)flags;
  *e = calloc(1, sizeof **e);
  fake.events++;
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent e) {
  free(e);
  fake.events--;
  return begin(true);
}

typedef struct {
  CUevent event;
  CUstream stream;
  unsigned n;
} moment;

static void run_record(const void *args) {
  const moment *m = args;
  m->event->reached = m->n;
}

static void run_wait(const void *args) {
  const moment *m = args;
  if (m->event->reached < m->n) run_stream(m->stream, m->event, m->n);
}

CUresult cuEventRecord(CUevent e, CUstream s) {
  BEGIN();
  e->stream = s;
  return put(s, run_record, false, &(moment){e, s, ++e->recorded}, sizeof(moment));
}

CUresult cuStreamWaitEvent(CUstream s, CUevent e, unsigned flags) {
  BEGIN();
  (void)flags;
  if (!e->stream) return CUDA_SUCCESS;
  return put(s, run_wait, false, &(moment){e, e->stream, e->recorded}, sizeof(moment));
}

CUresult cuEventSynchronize(CUevent e) {
  BEGIN();
  NOT_CAPTURED();
  if (e->stream) run_stream(e->stream, e, e->recorded);
  return lost;
}

/* ---- kernels: emulate.cc runs them ---- */

/* Dynamic shared memory of a block. */
static int shared_most(void) { return (fake.capability < 90 ? 163 : 227) << 10; }

CUresult cuModuleLoadData(CUmodule *m, const void *image) {
  BEGIN();
  if (!image) return misused(CUDA_ERROR_INVALID_IMAGE);
  *m = calloc(1, 1);
  fake.modules++;
  return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule m) {
  free(m);
  fake.modules--;
  return begin(true);
}

CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) {
  char emulated[96];
  BEGIN();
  (void)m;
  snprintf(emulated, sizeof emulated, "emulated_%s", name);
  *f = dlsym(RTLD_DEFAULT, emulated);
  return *f ? CUDA_SUCCESS : misused(CUDA_ERROR_NOT_FOUND);
}

CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f) {
  BEGIN();
  (void)f;
  if (a != CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES) return misused(CUDA_ERROR_INVALID_VALUE);
  *v = 0;
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute a, int v) {
  BEGIN();
  (void)f;
  if (a != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || v > shared_most())
    return misused(CUDA_ERROR_INVALID_VALUE);
  return CUDA_SUCCESS;
}

typedef struct {
  fake_kernel kernel;
  unsigned grid[3], threads, shared;
  _Alignas(16) unsigned char args[KERNEL_ARGS];
} launch;

static void run_launch(const void *args) {
  const launch *x = args;
  if (!fake_emulate(x->kernel, x->grid, x->threads, x->shared, x->args))
    fake_lose(CUDA_ERROR_LAUNCH_FAILED);
}

CUresult cuLaunchKernel(CUfunction f, unsigned x, unsigned y, unsigned z, unsigned threads,
                        unsigned threads_y, unsigned threads_z, unsigned shared, CUstream s,
                        void **params, void **extra) {
  launch l = {.kernel = (fake_kernel)f, .grid = {x, y, z}, .threads = threads, .shared = shared};
  BEGIN();
  if (params || extra[0] != CU_LAUNCH_PARAM_BUFFER_POINTER ||
      extra[2] != CU_LAUNCH_PARAM_BUFFER_SIZE || extra[4] != CU_LAUNCH_PARAM_END)
    abort();
  const size_t bytes = *(const size_t *)extra[3];
  if (!x || !y || !z || y > 65535 || z > 65535 || !threads || threads > 1024 || threads_y != 1 ||
      threads_z != 1 || shared > (unsigned)shared_most() || bytes > sizeof l.args)
    return misused(CUDA_ERROR_INVALID_VALUE);
  memcpy(l.args, extra[1], bytes);
  Dl_info info;
  fake.kernels++;
  fake.kernel = dladdr((const void *)f, &info) ? info.dli_sname : NULL;
  return put(s, run_launch, false, &l, sizeof l);
}

/* ---- graphs ---- */

CUresult cuStreamBeginCapture(CUstream s, CUstreamCaptureMode mode) {
  BEGIN();
  (void)mode;
  if (s->captures) return misused(CUDA_ERROR_ILLEGAL_STATE);
  s->captures = true;
  s->spoilt = false;
  capturing++;
  return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream s, CUgraph *g) {
  *g = NULL;
  if (!s->captures) return misused(CUDA_ERROR_ILLEGAL_STATE);
  s->captures = false;
  capturing--;
  const CUresult r = begin(true);
  if (r || s->spoilt) {
    clear(&s->taken);
    return r ? r : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  }
  *g = calloc(1, sizeof **g);
  (*g)->work = s->taken;
  s->taken = (list){0};
  fake.graphs++;
  return CUDA_SUCCESS;
}

CUresult cuGraphInstantiate(CUgraphExec *x, CUgraph g, unsigned long long flags) {
  BEGIN();
  (void)flags;
  *x = calloc(1, sizeof **x);
  (*x)->work = copy_of(&g->work);
  fake.graphs++;
  return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec x, CUstream s) {
  BEGIN();
  for (const work *w = x->work.first; w; w = w->next) push(s->captures ? &s->taken : &s->todo, w);
  fake.launches++;
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph g) {
  clear(&g->work);
  free(g);
  fake.graphs--;
  return begin(true);
}

CUresult cuGraphExecDestroy(CUgraphExec x) {
  clear(&x->work);
  free(x);
  fake.graphs--;
  return begin(true);
}

/* ---- the machine ---- */

CUresult cuInit(unsigned flags) {
  started = flags == 0;
  return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult r, const char **text) {
  *text = r == CUDA_ERROR_OUT_OF_MEMORY     ? "out of memory"
          : r == CUDA_ERROR_ILLEGAL_ADDRESS ? "an illegal memory access was encountered"
          : r == CUDA_ERROR_LAUNCH_FAILED   ? "unspecified launch failure"
                                            : NULL;
  return *text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuDeviceGetCount(int *n) {
  *n = fake.gpus;
  return begin(false);
}

CUresult cuDeviceGet(CUdevice *d, int i) {
  *d = i;
  return i < fake.gpus ? begin(false) : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGetName(char *name, int n, CUdevice d) {
  (void)d;
  strncpy(name, "stand-in", (size_t)n);
  return begin(false);
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice d) {
  (void)d;
  *bytes = fake.capacity;
  return begin(false);
}

CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) {
  (void)d;
  switch (a) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = fake.capability / 10; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *v = fake.capability % 10; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = 3; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *v = shared_most(); break;
    default: return misused(CUDA_ERROR_INVALID_VALUE);
  }
  return begin(false);
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) {
  const CUresult r = begin(false);
  (void)d;
  if (r) return r;
  *c = (CUcontext)&the_context;
  fake.contexts++;
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice d) {
  (void)d;
  fake.contexts--;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext c) {
  current = c;
  return c ? begin(true) : CUDA_SUCCESS;
}
