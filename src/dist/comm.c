/* comm.c - the communicator's thread, its list of collectives, and how each is made of moves. */
#include "dist/comm.h"
#include "ops/cuda/gpus.h"

#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "dist/comm_inner.h"

/* JOBS in flight at most; a piece of a sum is PIECE bytes over all ranks together, so that what is
 * held of others' data does not grow with their number. */
enum { JOBS = 256, PIECE = 8 << 20, LEAST_PIECE = 4096, HOST = 64 };

typedef struct {
  rp_collective a;
  rp_device *dev; /* whose memory; NULL: the host's */
} job;

struct rp_comm {
  const rp_wire *wire; /* NULL: self */
  void *own;
  const rp_engine *engine; /* NULL: collectives are made of moves */
  void *engine_own;
  int rank, size;
  char (*hosts)[HOST]; /* [size] */
  rp_comm_opts o;
  rp_move *moves;   /* [2 * size] */
  uint8_t *scratch; /* [size][piece] */
  size_t piece;
  uint64_t started; /* tickets given; the caller's thread */
  pthread_t thread;
  bool running;
  pthread_mutex_t mutex; /* over what follows */
  pthread_cond_t wake;   /* a job came, one ended, or it is over */
  job jobs[JOBS];
  uint64_t put, done; /* jobs ever; ticket t is done when done >= t */
  bool quit, telling, busy, settled;
  bool speaks;      /* the failure is this rank's to report */
  rp_error failure; /* sticky */
  char note[RP_TOLD_BYTES];
  rp_comm_stats counts;
};

const char *rp_comm_kind_name(rp_comm_kind k) {
  static const char *const names[] = {"all-reduce", "reduce-scatter", "all-gather", "broadcast"};
  return names[k];
}

/* ---- failure ---- */

static void set_failure(rp_comm *c, rp_status st, bool speaks, const char *text) {
  pthread_mutex_lock(&c->mutex);
  if (!c->failure.status) {
    c->failure.status = st;
    c->speaks = speaks;
    rp_snprintf(c->failure.text, sizeof c->failure.text, "%s", text);
  }
  pthread_cond_broadcast(&c->wake);
  pthread_mutex_unlock(&c->mutex);
}

rp_status rp_comm_failure(rp_comm *c, bool *here, rp_error *err) {
  pthread_mutex_lock(&c->mutex);
  const rp_status st = c->failure.status;
  *here = c->speaks;
  if (st && err) *err = c->failure;
  pthread_mutex_unlock(&c->mutex);
  return st;
}

static bool is_broken(rp_comm *c) {
  pthread_mutex_lock(&c->mutex);
  const bool broken = c->failure.status != RP_OK;
  pthread_mutex_unlock(&c->mutex);
  return broken;
}

static void nap(double seconds) {
  const struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  nanosleep(&t, NULL);
}

/* A rank ended without a word. The lowest that is left speaks of it. */
static void lose(rp_comm *c, int rank) {
  rp_error text = {0};
  rp_fail(
      &text, RP_FAIL,
      "rank %d on %s ended, and its connections with it; all ranks end, and the last checkpoint "
      "is whole: look at that machine and its messages, then start the same command again",
      rank, c->hosts[rank]);
  set_failure(c, RP_FAIL, c->rank == (rank == 0), text.text);
}

/* A note begins with its kind: 'E' an error of the sender, 'W' "I am waiting, too", 'G' a rank that
 * it saw end, which others may take for the end of the sender. */
static bool hear(rp_comm *c, bool *alive) {
  char note[RP_TOLD_BYTES];
  int from;
  while (c->wire && c->wire->told(c->own, &from, note)) {
    note[RP_TOLD_BYTES - 1] = 0;
    if (alive) alive[from] = true;
    if (note[0] == 'E') {
      set_failure(c, RP_FAIL, false, note + 1);
      return true;
    }
    int64_t rank;
    if (note[0] == 'G' && rp_parse_i64(note + 1, &rank) && rank >= 0 && rank < c->size) {
      lose(c, (int)rank);
      return true;
    }
  }
  return false;
}

static void tell_all(rp_comm *c, char kind, const char *text) {
  char note[RP_TOLD_BYTES];
  rp_snprintf(note, sizeof note, "%c%s", kind, text);
  for (int r = 0; r < c->size; r++)
    if (r != c->rank) c->wire->tell(c->own, r, note);
}

/* What there is to hear; else an end that was seen here is told to all. */
static bool is_over(rp_comm *c) {
  char rank[16];
  if (hear(c, NULL) || is_broken(c)) return true;
  const int gone = c->wire && c->wire->gone ? c->wire->gone(c->own) : -1;
  if (gone < 0) return false;
  rp_snprintf(rank, sizeof rank, "%d", gone);
  tell_all(c, 'G', rank);
  lose(c, gone);
  return true;
}

/* Which ranks do not answer: those this one waits for may themselves wait for another, so everyone
 * that is past its deadline says so, and who says nothing is the one to name. The lowest that
 * answers speaks. */
static void name_the_silent(rp_comm *c, int awaited, double waited) {
  rp_str b = {0};
  rp_error text = {0};
  bool *alive = rp_calloc((size_t)c->size, sizeof *alive);
  if (!alive) {
    set_failure(c, RP_FAIL, true, "a collective took too long");
    return;
  }
  tell_all(c, 'W', "");
  alive[c->rank] = true;
  const double grace = c->o.deadline < 4 ? c->o.deadline / 2 : 2;
  for (const double end = rp_now() + grace; rp_now() < end; nap(0.01))
    if (hear(c, alive)) goto done;
  int silent = 0, lowest = c->size;
  for (int r = c->size - 1; r >= 0; r--) {
    if (alive[r]) lowest = r;
    if (!alive[r]) {
      rp_str_addf(&b, "%srank %d on %s", silent ? ", " : "", r, c->hosts[r]);
      silent++;
    }
  }
  if (!silent) rp_str_addf(&b, "rank %d on %s", awaited, c->hosts[awaited]);
  rp_fail(&text, RP_FAIL,
          "%s did not answer for %.0f s; all ranks end, and the last checkpoint is whole: look at "
          "that machine and its messages, then start the same command again",
          b.s ? b.s : "a rank", waited);
  set_failure(c, RP_FAIL, lowest == c->rank, text.text);
done:
  rp_str_free(&b);
  rp_free(alive);
}

/* ---- moving bytes ---- */

/* Another rank's failure is heard at most this much later. */
static const double look_every = 0.02;
/* A longer pause between two looks was this rank's own: it was stopped, or its machine slept. That
 * time is nobody's silence. */
static const double own_pause = 1;

static rp_status look(rp_comm *c, bool whole, int *left, rp_error *err) {
  bool done;
  if (!whole) return c->wire->poll(c->own, left, err);
  RP_TRY(c->engine->poll(c->engine_own, &done, err));
  *left = !done;
  return RP_OK;
}

/* The rank that a move waits for; of a whole collective any. */
static int awaited(const rp_comm *c, bool whole, int n) {
  int i = 0;
  if (whole) return c->size > 1 && c->rank == 0;
  while (i < n - 1 && c->wire->is_done(c->own, i)) i++;
  return c->moves[i].peer;
}

/* An engine's error comes to several ranks at once: the lowest is the first to tell. */
static void speak_for_all(rp_comm *c, const rp_error *err) {
  char note[RP_TOLD_BYTES];
  const double end = rp_now() + 0.05 * (c->rank < 20 ? c->rank : 20);
  for (; rp_now() < end; nap(0.01))
    if (hear(c, NULL)) return;
  rp_snprintf(note, sizeof note, "rank %d on %s: %s", c->rank, c->hosts[c->rank], err->text);
  tell_all(c, 'E', note);
  set_failure(c, err->status, true, note);
}

/* Waits for n moves that were begun, or for a whole collective of the engine. */
static rp_status finish(rp_comm *c, bool whole, int n, rp_error *err) {
  double t0 = rp_now(), last = t0, next_look = t0 + look_every, pause = 0; /* t0: silent since */
  int left = n;
  for (;;) {
    const rp_status st = look(c, whole, &left, err);
    if (st) {
      /* A word that came before says more; the wire's trouble is each rank's own to see. */
      if (!is_over(c) && whole) speak_for_all(c, err);
      return st;
    }
    if (!left) return RP_OK;
    const double now = rp_now();
    if (now - last > own_pause) t0 += now - last;
    last = now;
    if (now >= next_look) {
      next_look = now + look_every;
      if (is_over(c)) return RP_FAIL;
    }
    if (now - t0 > c->o.deadline) {
      name_the_silent(c, awaited(c, whole, n), now - t0);
      return RP_FAIL;
    }
    /* Spinning takes a core from the work that the collective should hide behind. */
    if (now - t0 > 20e-6) nap(pause = pause < 100e-6 ? pause + 2e-6 : pause);
  }
}

static rp_status move_all(rp_comm *c, int n, rp_comm_kind kind, rp_error *err) {
  uint64_t sent = 0;
  if (!n) return RP_OK;
  const double t0 = rp_now();
  for (int i = 0; i < n; i++)
    if (c->moves[i].send) sent += c->moves[i].bytes;
  RP_TRY(c->wire->begin(c->own, c->moves, n, err));
  RP_TRY(finish(c, false, n, err));
  pthread_mutex_lock(&c->mutex);
  c->counts.sent[kind] += sent;
  pthread_mutex_unlock(&c->mutex);
  const double rest = c->o.rate > 0 ? (double)sent / c->o.rate - (rp_now() - t0) : 0;
  if (rest > 0) nap(rest);
  return RP_OK;
}

static int add_move(rp_comm *c, int n, int peer, bool send, void *at, size_t bytes) {
  if (!bytes) return n;
  c->moves[n] = (rp_move){peer, send, at, bytes};
  return n + 1;
}

/* ---- sums ---- */

#define ADD(type) \
  do { \
    type *restrict a = to; \
    const type *restrict b = from; \
    for (size_t i = 0; i < n; i++) a[i] += b[i]; \
  } while (0)

static void add_to(rp_dtype t, void *to, const void *from, size_t n) {
  if (t == RP_F32)
    ADD(float);
  else if (t == RP_F64)
    ADD(double);
  else
    ADD(int64_t);
}

/* Elements [*from, *from + *n) of `all` that rank r sums in an all-reduce. */
static void part_of(int64_t all, int ranks, int r, int64_t *from, int64_t *n) {
  const int64_t each = all / ranks, more = all % ranks;
  *from = each * r + (r < more ? r : more);
  *n = each + (r < more);
}

/* What one rank sums: pieces of everyone's part travel at once, then are added in rank order. out
 * gets this rank's part. */
typedef struct {
  rp_comm_kind kind;
  rp_dtype dtype;
  uint8_t *in, *out;
  int64_t all;  /* elements of in */
  int64_t part; /* SCATTER: of each rank; -1: as part_of cuts */
} summing;

static void cut(const rp_comm *c, const summing *s, int r, int64_t *from, int64_t *n) {
  if (s->part < 0) {
    part_of(s->all, c->size, r, from, n);
  } else {
    *from = s->part * r;
    *n = s->part;
  }
}

static int64_t within(int64_t n, int64_t at, int64_t piece) {
  return n <= at ? 0 : n - at < piece ? n - at : piece;
}

static rp_status sum_parts(rp_comm *c, const summing *s, rp_error *err) {
  const size_t size = (size_t)rp_dtype_bytes(s->dtype);
  const int64_t piece = (int64_t)(c->piece / size);
  int64_t from, n, mine_from, mine;
  cut(c, s, c->rank, &mine_from, &mine);
  /* All ranks go through the same rounds: the first rank has the longest part. */
  cut(c, s, 0, &from, &n);
  for (int64_t at = 0, longest = n; at < longest; at += piece) {
    const size_t take = (size_t)within(mine, at, piece);
    uint8_t *own = s->in + (size_t)(mine_from + at) * size;
    int m = 0;
    for (int r = 0; r < c->size; r++) {
      if (r == c->rank) continue;
      cut(c, s, r, &from, &n);
      const size_t give = (size_t)within(n, at, piece);
      m = add_move(c, m, r, true, s->in + (size_t)(from + at) * size, give * size);
      m = add_move(c, m, r, false, c->scratch + c->piece * (size_t)r, take * size);
    }
    RP_TRY(move_all(c, m, s->kind, err));
    if (!take) continue;
    /* One after another into rank 0's place of the scratch: out may be own. */
    for (int r = 0; r < c->size; r++) {
      const void *next = r == c->rank ? (void *)own : c->scratch + c->piece * (size_t)r;
      if (r > 0)
        add_to(s->dtype, c->scratch, next, take);
      else if (next != c->scratch)
        memcpy(c->scratch, next, take * size);
    }
    memcpy(s->out + (size_t)at * size, c->scratch, take * size);
  }
  return RP_OK;
}

/* Parts of `all` bytes each rank holds at its place become everyone's. */
static rp_status spread_parts(rp_comm *c, rp_comm_kind kind, const summing *s, rp_error *err) {
  const size_t size = (size_t)rp_dtype_bytes(s->dtype);
  const int64_t piece = (int64_t)(PIECE / size);
  int64_t from, n, mine_from, mine;
  cut(c, s, c->rank, &mine_from, &mine);
  cut(c, s, 0, &from, &n);
  for (int64_t at = 0, longest = n; at < longest; at += piece) {
    const size_t give = (size_t)within(mine, at, piece) * size;
    int m = 0;
    for (int r = 0; r < c->size; r++) {
      if (r == c->rank) continue;
      cut(c, s, r, &from, &n);
      const size_t take = (size_t)within(n, at, piece) * size;
      m = add_move(c, m, r, true, s->out + (size_t)(mine_from + at) * size, give);
      m = add_move(c, m, r, false, s->out + (size_t)(from + at) * size, take);
    }
    RP_TRY(move_all(c, m, kind, err));
  }
  return RP_OK;
}

/* ---- the collectives ---- */

static rp_status all_reduce(rp_comm *c, const rp_collective *a, rp_error *err) {
  const size_t size = (size_t)rp_dtype_bytes(a->dtype);
  int64_t from, n;
  part_of(a->n, c->size, c->rank, &from, &n);
  summing s = {RP_COMM_SUM, a->dtype, (uint8_t *)a->in.at, (uint8_t *)a->out.at, a->n, -1};
  s.out += (size_t)from * size;
  RP_TRY(sum_parts(c, &s, err));
  s.out = (uint8_t *)a->out.at;
  return spread_parts(c, RP_COMM_SUM, &s, err);
}

static rp_status reduce_scatter(rp_comm *c, const rp_collective *a, rp_error *err) {
  const summing s = {RP_COMM_SCATTER,      a->dtype,       (uint8_t *)a->in.at,
                     (uint8_t *)a->out.at, a->n * c->size, a->n};
  return sum_parts(c, &s, err);
}

static rp_status all_gather(rp_comm *c, const rp_collective *a, rp_error *err) {
  const size_t bytes = (size_t)a->n * (size_t)rp_dtype_bytes(a->dtype);
  uint8_t *own = (uint8_t *)a->out.at + bytes * (size_t)c->rank;
  if ((uintptr_t)own != a->in.at) memcpy(own, (void *)a->in.at, bytes);
  const summing s = {RP_COMM_GATHER, a->dtype, NULL, (uint8_t *)a->out.at, a->n * c->size, a->n};
  return spread_parts(c, RP_COMM_GATHER, &s, err);
}

static rp_status broadcast(rp_comm *c, const rp_collective *a, rp_error *err) {
  const size_t all = (size_t)a->n * (size_t)rp_dtype_bytes(a->dtype);
  uint8_t *out = (uint8_t *)a->out.at;
  if (c->rank == a->root && a->in.at != a->out.at) memcpy(out, (void *)a->in.at, all);
  for (size_t at = 0; at < all; at += PIECE) {
    const size_t bytes = all - at < PIECE ? all - at : PIECE;
    int m = 0;
    if (c->rank != a->root) m = add_move(c, m, a->root, false, out + at, bytes);
    for (int r = 0; r < c->size && c->rank == a->root; r++)
      if (r != a->root) m = add_move(c, m, r, true, out + at, bytes);
    RP_TRY(move_all(c, m, RP_COMM_BROADCAST, err));
  }
  return RP_OK;
}

/* With one rank every collective is a copy. */
static void copy_self(const rp_collective *a) {
  if (a->in.at != a->out.at)
    memcpy((void *)a->out.at, (void *)a->in.at, (size_t)a->n * (size_t)rp_dtype_bytes(a->dtype));
}

/* The engine's own business how; what is counted is what the moves would send. */
static rp_status run_whole(rp_comm *c, const rp_collective *a, rp_error *err) {
  RP_TRY(c->engine->begin(c->engine_own, a, err));
  RP_TRY(finish(c, true, 1, err));
  pthread_mutex_lock(&c->mutex);
  c->counts.sent[a->kind] += (uint64_t)rp_comm_cost(a->kind, c->size, a->n, a->dtype);
  pthread_mutex_unlock(&c->mutex);
  return RP_OK;
}

static rp_status run_collective(rp_comm *c, const rp_collective *a, rp_error *err) {
  if (c->o.latency > 0) nap(c->o.latency);
  if (c->size == 1) {
    copy_self(a);
    return RP_OK;
  }
  switch (a->kind) {
    case RP_COMM_SUM: return all_reduce(c, a, err);
    case RP_COMM_SCATTER: return reduce_scatter(c, a, err);
    case RP_COMM_GATHER: return all_gather(c, a, err);
    case RP_COMM_BROADCAST: return broadcast(c, a, err);
    default: return rp_fail(err, RP_FAIL, "there is no collective %d; this is a bug", (int)a->kind);
  }
}

static void run_job(rp_comm *c, const job *j) {
  rp_error err = {0};
  rp_status st = RP_OK;
  const double t0 = rp_now();
  const bool whole = j->dev && c->engine;
  const bool entered = j->dev && rp_device_enter(j->dev);
  if (whole)
    st = run_whole(c, &j->a, &err);
  else if (j->dev && !entered)
    st = rp_fail(&err, RP_FAIL, "the device's memory could not be opened for a collective");
  else
    st = run_collective(c, &j->a, &err);
  if (entered) rp_device_leave(j->dev);
  if (st) set_failure(c, st, true, err.text); /* no effect where the failure is known already */
  pthread_mutex_lock(&c->mutex);
  c->counts.calls[j->a.kind]++;
  c->counts.busy += rp_now() - t0;
  pthread_mutex_unlock(&c->mutex);
}

/* ---- the thread ---- */

static void *work(void *ctx) {
  rp_comm *c = ctx;
  /* Naps of microseconds would otherwise each be longer by the 50 of the default slack. */
  prctl(PR_SET_TIMERSLACK, 1000);
  pthread_mutex_lock(&c->mutex);
  for (;;) {
    while (!c->quit && !c->telling && (c->done == c->put || c->failure.status))
      pthread_cond_wait(&c->wake, &c->mutex);
    if (c->telling) {
      pthread_mutex_unlock(&c->mutex);
      tell_all(c, 'E', c->note);
      pthread_mutex_lock(&c->mutex);
      c->telling = false;
      pthread_cond_broadcast(&c->wake);
      continue;
    }
    if (c->done == c->put || c->failure.status) break;
    const job j = c->jobs[c->done % JOBS];
    c->busy = true;
    pthread_mutex_unlock(&c->mutex);
    run_job(c, &j);
    pthread_mutex_lock(&c->mutex);
    c->busy = false;
    if (!c->failure.status) c->done++;
    pthread_cond_broadcast(&c->wake);
  }
  pthread_mutex_unlock(&c->mutex);
  return NULL;
}

static rp_status submit(rp_comm *c, const job *j, rp_error *err) {
  pthread_mutex_lock(&c->mutex);
  while (c->put - c->done == JOBS && !c->failure.status) pthread_cond_wait(&c->wake, &c->mutex);
  const rp_status st = c->failure.status;
  if (st) {
    if (err) *err = c->failure;
  } else {
    c->jobs[c->put++ % JOBS] = *j;
    pthread_cond_broadcast(&c->wake);
  }
  pthread_mutex_unlock(&c->mutex);
  return st;
}

static rp_status await(rp_comm *c, rp_ticket t, rp_error *err) {
  pthread_mutex_lock(&c->mutex);
  const double t0 = rp_now();
  const bool blocks = c->done < t;
  while (c->done < t && !c->failure.status) pthread_cond_wait(&c->wake, &c->mutex);
  if (blocks) c->counts.waited += rp_now() - t0;
  const rp_status st = c->done < t ? c->failure.status : RP_OK;
  if (st && err) *err = c->failure;
  pthread_mutex_unlock(&c->mutex);
  return st;
}

/* ---- on a queue ---- */

typedef struct {
  rp_comm *c;
  job j;
} start_args;
typedef struct {
  rp_comm *c;
  rp_ticket t;
} await_args;

static void start_now(const void *args, rp_error *err) {
  const start_args *a = args;
  submit(a->c, &a->j, err);
}

static void await_now(const void *args, rp_error *err) {
  const await_args *a = args;
  await(a->c, a->t, err);
}

rp_ticket rp_comm_start(rp_comm *c, rp_queue *q, const rp_collective *a) {
  const start_args s = {c, {*a, rp_queue_device(q)}};
  _Static_assert(sizeof s <= RP_CALL_BYTES, "the arguments of a call are larger than its room");
  rp_call(q, start_now, &s, sizeof s);
  return ++c->started;
}

void rp_comm_await(rp_comm *c, rp_queue *q, rp_ticket t) {
  const await_args a = {c, t};
  rp_call(q, await_now, &a, sizeof a);
}

rp_status rp_comm_host_run(rp_comm *c, rp_comm_kind kind, rp_dtype dtype, const void *in, void *out,
                           int64_t n, int root, rp_error *err) {
  const job j = {
      .a = {kind, root, dtype, n, {(uintptr_t)in}, {(uintptr_t)out}},
  };
  RP_TRY(submit(c, &j, err));
  return await(c, ++c->started, err);
}

rp_status rp_comm_barrier(rp_comm *c, rp_error *err) {
  int64_t one = 1, all;
  return rp_comm_host_run(c, RP_COMM_SUM, RP_I64, &one, &all, 1, 0, err);
}

void rp_comm_drain(rp_comm *c) {
  pthread_mutex_lock(&c->mutex);
  while (c->busy || (c->done < c->put && !c->failure.status))
    pthread_cond_wait(&c->wake, &c->mutex);
  pthread_mutex_unlock(&c->mutex);
}

void rp_comm_tell(rp_comm *c, const char *sentence) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += 1;
  pthread_mutex_lock(&c->mutex);
  if (!c->failure.status && !c->settled) {
    rp_snprintf(c->note, sizeof c->note, "rank %d on %s: %s", c->rank, c->hosts[c->rank], sentence);
    c->failure.status = RP_FAIL;
    rp_snprintf(c->failure.text, sizeof c->failure.text, "%s", c->note);
    c->speaks = true;
    c->telling = c->size > 1;
    pthread_cond_broadcast(&c->wake);
    while (c->telling && !pthread_cond_timedwait(&c->wake, &c->mutex, &until)) {
    }
  }
  pthread_mutex_unlock(&c->mutex);
}

void rp_comm_set_engine(rp_comm *c, const rp_engine *e, void *own) {
  c->engine = e;
  c->engine_own = own;
}

double rp_comm_deadline(const rp_comm *c) { return c->o.deadline; }

void rp_comm_settle(rp_comm *c) {
  pthread_mutex_lock(&c->mutex);
  c->settled = true;
  pthread_mutex_unlock(&c->mutex);
}

/* ---- life ---- */

int rp_comm_rank(const rp_comm *c) { return c->rank; }
int rp_comm_size(const rp_comm *c) { return c->size; }
const char *rp_comm_host(const rp_comm *c, int rank) { return c->hosts[rank]; }

int rp_comm_neighbours(const rp_comm *c) {
  int n = 0;
  if (!c) return 1;
  for (int r = 0; r < c->size; r++) n += strcmp(c->hosts[r], c->hosts[c->rank]) == 0;
  return n;
}

int rp_comm_local_rank(const rp_comm *c) {
  int n = 0;
  for (int r = 0; r < c->rank; r++) n += strcmp(c->hosts[r], c->hosts[c->rank]) == 0;
  return n;
}

static rp_status find_gpu(int *gpu, rp_error *err) {
  int n, version;
  RP_TRY(rp_gpus(NULL, 0, &n, &version, err));
  return rp_gpus_mine(n, gpu, err);
}

rp_status rp_comm_on_gpus(rp_comm *c, rp_error *err) {
  int gpu = 0;
  if (c->engine) return RP_OK;
  if (!rp_comm_has_nccl())
    return rp_fail(
        err, RP_USAGE,
        "%d ranks on GPUs need NCCL, and this build has none; start one rank, or take the "
        "processor",
        c->size);
  RP_TRY(rp_comm_agree(c, find_gpu(&gpu, err), err));
  return rp_comm_use_nccl(c, gpu, err);
}

rp_comm_stats rp_comm_counts(rp_comm *c) {
  pthread_mutex_lock(&c->mutex);
  const rp_comm_stats s = c->counts;
  pthread_mutex_unlock(&c->mutex);
  return s;
}

double rp_comm_cost(rp_comm_kind k, int ranks, int64_t n, rp_dtype dtype) {
  const double bytes = (double)n * rp_dtype_bytes(dtype);
  switch (k) {
    case RP_COMM_SUM: return 2 * bytes * (ranks - 1) / ranks;
    case RP_COMM_BROADCAST: return bytes * (ranks - 1) / ranks;
    default: return bytes * (ranks - 1);
  }
}

static size_t piece_bytes(int ranks) {
  const size_t piece = PIECE / (size_t)ranks / 64 * 64;
  return piece < LEAST_PIECE ? LEAST_PIECE : piece;
}

size_t rp_comm_bytes(int ranks) {
  return ranks == 1 ? 0 : (size_t)ranks * (piece_bytes(ranks) + 2 * sizeof(rp_move) + HOST);
}

static rp_status allocate(rp_comm *c, rp_error *err) {
  const size_t n = (size_t)c->size;
  c->piece = piece_bytes(c->size);
  c->hosts = rp_calloc(n, sizeof *c->hosts);
  c->moves = rp_calloc(2 * n, sizeof *c->moves);
  c->scratch = c->size > 1 ? rp_malloc(n, c->piece) : NULL;
  if (!c->hosts || !c->moves || (c->size > 1 && !c->scratch))
    return rp_fail_memory(err, n * c->piece, "the buffers of the communicator");
  if (gethostname(c->hosts[c->rank], HOST - 1)) rp_snprintf(c->hosts[c->rank], HOST, "?");
  return RP_OK;
}

rp_status rp_comm_make(rp_comm **out, const rp_wire *w, void *own, int rank, int size,
                       const rp_comm_opts *o, rp_error *err) {
  rp_status st = RP_OK;
  char host[HOST];
  rp_comm *c = rp_calloc(1, sizeof *c);
  *out = NULL;
  if (!c) {
    if (w) w->close(own, true);
    return rp_fail_memory(err, sizeof *c, "a communicator");
  }
  *c = (rp_comm){.wire = w, .own = own, .rank = rank, .size = size};
  if (o) c->o = *o;
  if (!(c->o.deadline > 0)) c->o.deadline = RP_COMM_DEADLINE;
  pthread_mutex_init(&c->mutex, NULL);
  pthread_cond_init(&c->wake, NULL);
  RP_GO(allocate(c, err));
  if (pthread_create(&c->thread, NULL, work, c))
    RP_GO(rp_fail(err, RP_FAIL, "no thread could be made for the communicator"));
  c->running = true;
  memcpy(host, c->hosts[rank], HOST);
  RP_GO(rp_comm_host_run(c, RP_COMM_GATHER, RP_I64, host, c->hosts, HOST / 8, 0, err));
  c->counts = (rp_comm_stats){0};
  *out = c;
  return RP_OK;
fail:
  rp_comm_close(c);
  return st;
}

void rp_comm_close(rp_comm *c) {
  if (!c) return;
  if (c->running) {
    pthread_mutex_lock(&c->mutex);
    c->quit = true;
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->mutex);
    pthread_join(c->thread, NULL);
  }
  if (c->engine) c->engine->close(c->engine_own, c->failure.status != RP_OK);
  if (c->wire) c->wire->close(c->own, c->failure.status != RP_OK);
  pthread_cond_destroy(&c->wake);
  pthread_mutex_destroy(&c->mutex);
  rp_free(c->hosts);
  rp_free(c->moves);
  rp_free(c->scratch);
  rp_free(c);
}

rp_status rp_comm_open_self(rp_comm **c, const rp_comm_opts *o, rp_error *err) {
  return rp_comm_make(c, NULL, NULL, 0, 1, o, err);
}
