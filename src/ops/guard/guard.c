/* guard.c - a cpu whose memory the host cannot touch, and whose ops run late.
 *
 * Every allocation is mapped on its own, ends at a page that is never there, and is PROT_NONE while
 * no op runs. Ops and copies are kept in a list, which runs in rp_wait or when it is full. What a
 * download will fill is overwritten at once, so that reading it before rp_wait shows. Scratch ends
 * at a missing page as well and is as large as the op at hand said. */
#include <sys/mman.h>
#include <unistd.h>

#include "ops/cpu/cpu_device.h"

enum { MOST_PENDING = 64, POISON = 0xa5 };

typedef struct region region;
struct region {
  region *next;
  uint8_t *map; /* pages, then one page that stays PROT_NONE */
  size_t pages; /* bytes without that page */
  uint8_t *at;  /* what the caller got: ends where the pages end, to 64 bytes */
};

typedef struct {
  rp_cpu_engine engine;
  pthread_mutex_t mutex; /* over what follows */
  region *regions;
  int open; /* queues that run ops now */
} guard;

typedef enum { AN_OP, A_COPY, A_CALL } pending_kind;

typedef struct {
  pending_kind kind;
  rp_op op;
  rp_copy copy; /* host of an upload: our own copy, freed after */
  void *args;   /* of an op, or the rp_host_call */
} pending;

typedef struct {
  region scratch;
  pending list[MOST_PENDING];
  int n;
} guard_queue;

static size_t page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static bool map_region(region *r, size_t bytes) {
  const size_t used = (bytes + 63) & ~(size_t)63;
  r->pages = (used + page() - 1) / page() * page();
  void *map =
      mmap(NULL, r->pages + page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return false;
  r->map = map;
  r->at = r->map + r->pages - used;
  return true;
}

static void unmap_region(const region *r) {
  if (r->map) munmap(r->map, r->pages + page());
}

static bool protect_all(const guard *g, int access) {
  bool fine = true;
  for (const region *r = g->regions; r; r = r->next)
    if (mprotect(r->map, r->pages, access)) fine = false;
  return fine;
}

/* Memory is there from the first enter to the last leave. */
static bool enter(guard *g) {
  bool fine = true;
  pthread_mutex_lock(&g->mutex);
  if (g->open++ == 0) fine = protect_all(g, PROT_READ | PROT_WRITE);
  pthread_mutex_unlock(&g->mutex);
  return fine;
}

static void leave(guard *g) {
  pthread_mutex_lock(&g->mutex);
  if (--g->open == 0) protect_all(g, PROT_NONE);
  pthread_mutex_unlock(&g->mutex);
}

static void close_device(rp_device *d) {
  guard *g = d->own;
  rp_cpu_engine_close(&g->engine);
  pthread_mutex_destroy(&g->mutex);
  rp_free(g);
}

static rp_status alloc(rp_device *d, size_t bytes, const char *what, void **out, rp_error *err) {
  guard *g = d->own;
  region *r = rp_calloc(1, sizeof *r);
  if (!r || !map_region(r, bytes)) {
    rp_free(r);
    return rp_fail_memory(err, bytes, what);
  }
  pthread_mutex_lock(&g->mutex);
  if (g->open) mprotect(r->map, r->pages, PROT_READ | PROT_WRITE);
  r->next = g->regions;
  g->regions = r;
  pthread_mutex_unlock(&g->mutex);
  *out = r->at;
  return RP_OK;
}

static void release(rp_device *d, void *p, size_t bytes) {
  guard *g = d->own;
  (void)bytes;
  pthread_mutex_lock(&g->mutex);
  region **at = &g->regions;
  while (*at && (*at)->at != p) at = &(*at)->next;
  region *r = *at;
  if (r) *at = r->next;
  pthread_mutex_unlock(&g->mutex);
  if (!r) return;
  unmap_region(r);
  rp_free(r);
}

static rp_status queue_open(rp_queue *q, rp_error *err) {
  q->own = rp_calloc(1, sizeof(guard_queue));
  return q->own ? RP_OK : rp_fail_memory(err, sizeof(guard_queue), "a queue");
}

static void queue_close(rp_queue *q) {
  guard_queue *gq = q->own;
  unmap_region(&gq->scratch);
  rp_free(gq);
}

static void forget(pending *p) {
  rp_free(p->args);
  if (p->kind == A_COPY && p->copy.up) rp_free(p->copy.host);
}

static void run_op(rp_queue *q, const pending *p) {
  const guard *g = q->d->own;
  const guard_queue *gq = q->own;
  const size_t have =
      gq->scratch.map ? (size_t)(gq->scratch.map + gq->scratch.pages - gq->scratch.at) : 0;
  const size_t need = (rp_cpu_engine_scratch(&g->engine, p->op, p->args) + 63) & ~(size_t)63;
  uint8_t *end = gq->scratch.map ? gq->scratch.map + gq->scratch.pages : NULL;
  const size_t given = need <= have ? need : have;
  rp_cpu_engine_run(&g->engine, given ? end - given : end, given, p->op, p->args, &q->err);
}

static void run_call(rp_queue *q, const rp_host_call *c) { c->run(c->args, &q->err); }

static void run(rp_queue *q) {
  guard *g = q->d->own;
  guard_queue *gq = q->own;
  if (!gq->n) return;
  if (!enter(g)) rp_fail(&q->err, RP_FAIL, "device guard: mprotect failed");
  for (int i = 0; i < gq->n; i++) {
    pending *p = &gq->list[i];
    if (!q->err.status) {
      if (p->kind == A_COPY)
        rp_cpu_engine_copy(&g->engine, &p->copy);
      else if (p->kind == A_CALL)
        run_call(q, p->args);
      else
        run_op(q, p);
    }
    forget(p);
  }
  gq->n = 0;
  leave(g);
}

/* What comes first may as well run now. */
static void after(rp_queue *q, rp_queue *first) {
  (void)q;
  run(first);
}

static rp_status reserve(rp_queue *q, size_t bytes, rp_error *err) {
  guard_queue *gq = q->own;
  if (bytes <= gq->scratch.pages) return RP_OK;
  run(q);
  unmap_region(&gq->scratch);
  gq->scratch = (region){0};
  if (!map_region(&gq->scratch, bytes) ||
      mprotect(gq->scratch.map, gq->scratch.pages, PROT_READ | PROT_WRITE))
    return rp_fail_memory(err, bytes, "scratch");
  gq->scratch.at = gq->scratch.map;
  return RP_OK;
}

/* Room in the list; what is in it runs when it is full. */
static pending *next(rp_queue *q) {
  guard_queue *gq = q->own;
  if (gq->n == MOST_PENDING) run(q);
  return q->err.status ? NULL : &gq->list[gq->n];
}

static void keep(rp_queue *q, pending_kind kind, rp_op op, const void *args, size_t bytes) {
  pending *p = next(q);
  if (!p) return;
  *p = (pending){.kind = kind, .op = op, .args = rp_malloc(bytes, 1)};
  if (!p->args) {
    rp_queue_fail(q, RP_NO_MEMORY, "not enough memory to keep an op");
    return;
  }
  memcpy(p->args, args, bytes);
  ((guard_queue *)q->own)->n++;
}

static void put(rp_queue *q, rp_op op, const void *args) {
  keep(q, AN_OP, op, args, rp_op_args_bytes(op));
}

static void call(rp_queue *q, const rp_host_call *c) { keep(q, A_CALL, 0, c, sizeof *c); }

static bool device_enter(rp_device *d) { return enter(d->own); }
static void device_leave(rp_device *d) { leave(d->own); }

static void copy(rp_queue *q, const rp_copy *c) {
  const size_t bytes = rp_copy_host_bytes(c);
  pending *p = next(q);
  if (!p) return;
  *p = (pending){.kind = A_COPY, .copy = *c};
  if (c->up) {
    p->copy.host = rp_malloc(bytes, 1);
    if (!p->copy.host) {
      rp_queue_fail(q, RP_NO_MEMORY, "not enough memory to keep an upload of %zu bytes", bytes);
      return;
    }
    memcpy(p->copy.host, c->host, bytes);
  } else {
    memset(c->host, POISON, bytes);
  }
  ((guard_queue *)q->own)->n++;
}

static bool has(const rp_device *d, rp_op op) {
  return rp_cpu_engine_has(&((const guard *)d->own)->engine, op);
}

static size_t scratch(const rp_device *d, rp_op op, const void *args) {
  return rp_cpu_engine_scratch(&((const guard *)d->own)->engine, op, args);
}

static const rp_backend backend = {.keeps_ops = true,
                                   .close = close_device,
                                   .alloc = alloc,
                                   .free = release,
                                   .queue_open = queue_open,
                                   .queue_close = queue_close,
                                   .reserve = reserve,
                                   .put = put,
                                   .copy = copy,
                                   .call = call,
                                   .after = after,
                                   .enter = device_enter,
                                   .leave = device_leave,
                                   .run = run,
                                   .has = has,
                                   .scratch = scratch};

rp_status rp_guard_open(rp_device *d, rp_error *err) {
  guard *g = rp_calloc(1, sizeof *g);
  if (!g) return rp_fail_memory(err, sizeof *g, "a device");
  const rp_status st = rp_cpu_engine_open(&g->engine, rp_cpu_now(), true, err);
  if (st) {
    rp_free(g);
    return st;
  }
  pthread_mutex_init(&g->mutex, NULL);
  d->kind = &backend;
  d->name = "guard";
  d->real = g->engine.real;
  d->own = g;
  return RP_OK;
}
