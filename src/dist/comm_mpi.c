/* comm_mpi.c - the wire over MPI: non-blocking sends and receives, polled by one thread. */
#include "dist/comm_inner.h"

#if RATPLUS_WITH_MPI

#include <mpi.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/str.h"

enum { DATA = 1, NOTE = 2, HERE = 3 };

typedef struct {
  MPI_Comm data, notes;
  int size;
  MPI_Request *requests; /* [2 * size] */
  bool *done;            /* [2 * size] */
  int n;
  char *kept; /* [size][RP_TOLD_BYTES]: notes on their way */
} mpi_wire;

static rp_status check(int code, const char *what, rp_error *err) {
  char text[MPI_MAX_ERROR_STRING + 1] = "";
  int n = 0;
  if (code == MPI_SUCCESS) return RP_OK;
  MPI_Error_string(code, text, &n);
  return rp_fail(err, RP_FAIL, "MPI: %s failed: %s", what, text);
}

static rp_status begin(void *own, const rp_move *m, int n, rp_error *err) {
  mpi_wire *w = own;
  w->n = 0;
  for (int i = 0; i < n; i++) {
    MPI_Request *r = &w->requests[i];
    const int bytes = (int)m[i].bytes;
    RP_TRY(m[i].send ? check(MPI_Isend(m[i].at, bytes, MPI_BYTE, m[i].peer, DATA, w->data, r),
                             "a send", err)
                     : check(MPI_Irecv(m[i].at, bytes, MPI_BYTE, m[i].peer, DATA, w->data, r),
                             "a receive", err));
    w->done[i] = false;
    w->n++;
  }
  return RP_OK;
}

static rp_status poll(void *own, int *left, rp_error *err) {
  mpi_wire *w = own;
  *left = 0;
  for (int i = 0; i < w->n; i++) {
    int flag = 1;
    if (!w->done[i])
      RP_TRY(check(MPI_Test(&w->requests[i], &flag, MPI_STATUS_IGNORE), "a transfer", err));
    w->done[i] = flag;
    *left += !flag;
  }
  return RP_OK;
}

static bool is_done(void *own, int i) { return ((mpi_wire *)own)->done[i]; }

/* A note that cannot be sent is for a rank that is gone. */
static void tell(void *own, int peer, const char note[RP_TOLD_BYTES]) {
  mpi_wire *w = own;
  MPI_Request r;
  int flag = 0;
  char *kept = w->kept + (size_t)peer * RP_TOLD_BYTES;
  memcpy(kept, note, RP_TOLD_BYTES);
  if (MPI_Isend(kept, RP_TOLD_BYTES, MPI_BYTE, peer, NOTE, w->notes, &r) != MPI_SUCCESS) return;
  for (int i = 0; i < 100 && !flag; i++)
    if (MPI_Test(&r, &flag, MPI_STATUS_IGNORE) != MPI_SUCCESS) return;
  if (!flag) MPI_Request_free(&r);
}

static bool told(void *own, int *from, char note[RP_TOLD_BYTES]) {
  mpi_wire *w = own;
  MPI_Status s;
  int flag = 0;
  if (MPI_Iprobe(MPI_ANY_SOURCE, NOTE, w->notes, &flag, &s) != MPI_SUCCESS || !flag) return false;
  *from = s.MPI_SOURCE;
  return MPI_Recv(note, RP_TOLD_BYTES, MPI_BYTE, s.MPI_SOURCE, NOTE, w->notes, &s) == MPI_SUCCESS;
}

/* After a failure somebody may never come to the farewell, so there is none. */
static void close_wire(void *own, bool broken) {
  mpi_wire *w = own;
  if (!broken) {
    MPI_Comm_free(&w->data);
    MPI_Comm_free(&w->notes);
    MPI_Finalize();
  }
  rp_free(w->requests);
  rp_free(w->done);
  rp_free(w->kept);
  rp_free(w);
}

static const rp_wire wire = {close_wire, begin, poll, is_done, tell, told, NULL};

/* MPI's start returns when all ranks came, or never: so another thread goes into it, and this one
 * watches the clock. It may be left behind there, and what it writes to stays. */
static struct {
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  bool done;
  int code, level;
} starting = {.mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static void *start_mpi(void *ctx) {
  int level = MPI_THREAD_SINGLE;
  (void)ctx;
  const int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
  pthread_mutex_lock(&starting.mutex);
  starting.code = code;
  starting.level = level;
  starting.done = true;
  pthread_cond_signal(&starting.wake);
  pthread_mutex_unlock(&starting.mutex);
  return NULL;
}

static bool is_started(double seconds) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += (time_t)seconds + 1;
  pthread_mutex_lock(&starting.mutex);
  while (!starting.done && !pthread_cond_timedwait(&starting.wake, &starting.mutex, &until)) {
  }
  const bool done = starting.done;
  pthread_mutex_unlock(&starting.mutex);
  return done;
}

static const char *const who_lacks =
    "MPI has waited %.0f s for ranks that were not started or cannot be reached; which, the "
    "launcher's messages say (mpirun --display-map: where each should be)";

static rp_status start(double deadline, rp_error *err) {
  pthread_t thread;
  const double early = deadline < 20 ? deadline / 2 : 10;
  if (pthread_create(&thread, NULL, start_mpi, NULL))
    return rp_fail(err, RP_FAIL, "no thread could be made for the start of MPI");
  if (!is_started(early)) {
    rp_log(RP_LOG_WARNING, who_lacks, early);
    if (!is_started(deadline - early)) {
      pthread_detach(thread);
      return rp_fail(err, RP_FAIL, who_lacks, deadline);
    }
  }
  pthread_join(thread, NULL);
  return check(starting.code, "its start", err);
}

/* ---- who is there ---- */

/* Some MPIs let a rank out of their start before the others are in it, and a rank may stop behind it.
 * Collectives of MPI would wait for it for ever, so rank 0 first hears of each by a message of no bytes,
 * names those it does not hear of, and lets all go on by another. */
typedef struct {
  int rank, size, n; /* n came */
  bool *came;        /* [size] */
  double began, deadline;
  bool warned;
} roll;

static void send_nothing(int to) {
  MPI_Request r;
  if (MPI_Isend(NULL, 0, MPI_BYTE, to, HERE, MPI_COMM_WORLD, &r) == MPI_SUCCESS)
    MPI_Request_free(&r);
}

/* The rank that a message of no bytes came from; -1: none is there. */
static int hear_of(int from) {
  MPI_Status s;
  int flag = 0;
  if (MPI_Iprobe(from, HERE, MPI_COMM_WORLD, &flag, &s) != MPI_SUCCESS || !flag) return -1;
  MPI_Recv(NULL, 0, MPI_BYTE, s.MPI_SOURCE, HERE, MPI_COMM_WORLD, &s);
  return s.MPI_SOURCE;
}

static rp_status speak_of_missing(roll *k, rp_error *err) {
  rp_str b = {0};
  rp_status st = RP_OK;
  const double early = k->deadline < 20 ? k->deadline / 2 : 10, waited = rp_now() - k->began;
  if (waited < early || (k->warned && waited < k->deadline)) return RP_OK;
  for (int r = 1; r < k->size; r++)
    if (!k->came[r]) rp_str_addf(&b, "%s%d", b.len ? ", " : "", r);
  if (waited < k->deadline)
    rp_log(RP_LOG_WARNING, "after %.0f s these of %d ranks have begun MPI but say nothing: %s",
           waited, k->size, b.s ? b.s : "?");
  else
    st = rp_fail(err, RP_FAIL,
                 "rank 0 waited %.0f s for ranks that began MPI but say nothing: %s of %d; look at "
                 "their machines (mpirun --display-map: where each is)",
                 waited, b.s ? b.s : "?", k->size);
  k->warned = true;
  rp_str_free(&b);
  return st;
}

static rp_status hear_of_all(roll *k, rp_error *err) {
  for (k->n = 1; k->n < k->size;) {
    const int r = hear_of(MPI_ANY_SOURCE);
    if (r > 0 && r < k->size && !k->came[r]) {
      k->came[r] = true;
      k->n++;
      continue;
    }
    RP_TRY(speak_of_missing(k, err));
    nanosleep(&(struct timespec){0, 1000000}, NULL);
  }
  for (int r = 1; r < k->size; r++) send_nothing(r);
  return RP_OK;
}

/* Rank 0's patience ends first, and its message says more. */
static rp_status await_first(const roll *k, rp_error *err) {
  send_nothing(0);
  while (hear_of(0)) {
    if (rp_now() - k->began > k->deadline + 10)
      return rp_fail(err, RP_FAIL, "rank 0 does not answer rank %d; its own message says why",
                     k->rank);
    nanosleep(&(struct timespec){0, 1000000}, NULL);
  }
  return RP_OK;
}

static rp_status call_roll(int rank, int size, double deadline, rp_error *err) {
  roll k = {.rank = rank, .size = size, .began = rp_now(), .deadline = deadline};
  if (rank) return await_first(&k, err);
  k.came = rp_calloc((size_t)size, sizeof *k.came);
  if (!k.came) return rp_fail_memory(err, (size_t)size, "a list of ranks");
  const rp_status st = hear_of_all(&k, err);
  rp_free(k.came);
  return st;
}

static rp_status initialise(double deadline, rp_error *err) {
  int there = 0;
  MPI_Initialized(&there);
  if (there) {
    return rp_fail(err, RP_USAGE,
                   "MPI was initialised before in this process; join the ranks once, and leave "
                   "MPI_Init to the library");
  }
  RP_TRY(start(deadline, err));
  if (starting.level < MPI_THREAD_SERIALIZED)
    return rp_fail(err, RP_USAGE,
                   "this MPI does not allow calls from a thread of our own "
                   "(MPI_THREAD_SERIALIZED); use one that does, as Open MPI");
  return RP_OK;
}

rp_status rp_comm_open_mpi(rp_comm **c, const rp_comm_opts *o, rp_error *err) {
  int rank = 0, size = 1;
  const double deadline = o && o->deadline > 0 ? o->deadline : RP_COMM_DEADLINE;
  *c = NULL;
  RP_TRY(initialise(deadline, err));
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  RP_TRY(call_roll(rank, size, deadline, err));
  mpi_wire *w = rp_calloc(1, sizeof *w);
  if (!w) return rp_fail_memory(err, sizeof *w, "a communicator");
  MPI_Comm_dup(MPI_COMM_WORLD, &w->data);
  MPI_Comm_dup(MPI_COMM_WORLD, &w->notes);
  MPI_Comm_set_errhandler(w->data, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(w->notes, MPI_ERRORS_RETURN);
  w->size = size;
  w->requests = rp_calloc(2 * (size_t)size, sizeof *w->requests);
  w->done = rp_calloc(2 * (size_t)size, sizeof *w->done);
  w->kept = rp_calloc((size_t)size, RP_TOLD_BYTES);
  if (!w->requests || !w->done || !w->kept) {
    close_wire(w, true);
    return rp_fail_memory(err, (size_t)size * RP_TOLD_BYTES, "a communicator");
  }
  return rp_comm_make(c, &wire, w, rank, size, o, err);
}

bool rp_comm_has_mpi(void) { return true; }

#else

bool rp_comm_has_mpi(void) { return false; }

rp_status rp_comm_open_mpi(rp_comm **c, const rp_comm_opts *o, rp_error *err) {
  (void)o;
  *c = NULL;
  return rp_fail(
      err, RP_USAGE,
      "this build has no MPI: install libopenmpi-dev and build again, or start one rank");
}

#endif
