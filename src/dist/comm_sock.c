/* comm_sock.c - the wire over TCP: two connections a pair, one for data and one for notes, polled by
 * one thread. It serves launchers that bring no MPI. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"
#include "dist/comm_inner.h"
#include "dist/meet.h"

typedef struct {
  int rank, size;
  int *data, *notes; /* [size] connections */
  rp_move *moves;    /* [2 * size], what is left of them */
  int n;
  struct note {
    size_t got;
    char text[RP_TOLD_BYTES];
  } * heard;       /* [size] notes on their way here */
  bool *bye;       /* [size] said farewell */
  int gone;        /* the rank whose connection broke; -1 */
  int next_to_ask; /* for notes */
} sock_wire;

static bool would_block(ssize_t k) {
  return k < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
}

static rp_status begin(void *own, const rp_move *m, int n, rp_error *err) {
  sock_wire *w = own;
  (void)err;
  memcpy(w->moves, m, (size_t)n * sizeof *m);
  w->n = n;
  return RP_OK;
}

static rp_status push(sock_wire *w, rp_move *m, rp_error *err) {
  while (m->bytes) {
    const int fd = w->data[m->peer];
    const ssize_t k = m->send ? send(fd, m->at, m->bytes, MSG_DONTWAIT | MSG_NOSIGNAL)
                              : recv(fd, m->at, m->bytes, MSG_DONTWAIT);
    if (would_block(k)) return RP_OK;
    if (k <= 0) {
      w->gone = m->peer;
      return rp_fail(err, RP_FAIL, "the connection with rank %d is closed", m->peer);
    }
    m->at = (char *)m->at + k;
    m->bytes -= (size_t)k;
  }
  return RP_OK;
}

static rp_status poll_moves(void *own, int *left, rp_error *err) {
  sock_wire *w = own;
  *left = 0;
  for (int i = 0; i < w->n; i++) {
    RP_TRY(push(w, &w->moves[i], err));
    *left += w->moves[i].bytes > 0;
  }
  return RP_OK;
}

static bool is_done(void *own, int i) { return !((sock_wire *)own)->moves[i].bytes; }

/* A note that does not fit into what the system holds for the other is for one that hangs. */
static void tell(void *own, int peer, const char note[RP_TOLD_BYTES]) {
  const sock_wire *w = own;
  (void)!send(w->notes[peer], note, RP_TOLD_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static const char farewell = 'B';

/* Whether a whole note of this rank is there. */
static bool hear_from(sock_wire *w, int peer) {
  struct note *n = &w->heard[peer];
  while (!w->bye[peer] && w->gone != peer) {
    const ssize_t k = recv(w->notes[peer], n->text + n->got, RP_TOLD_BYTES - n->got, MSG_DONTWAIT);
    if (would_block(k)) return false;
    if (k <= 0) {
      w->gone = peer;
      return false;
    }
    n->got += (size_t)k;
    if (n->got < RP_TOLD_BYTES) continue;
    n->got = 0;
    if (*n->text != farewell) return true;
    w->bye[peer] = true;
  }
  return false;
}

static bool told(void *own, int *from, char note[RP_TOLD_BYTES]) {
  sock_wire *w = own;
  for (int i = 0; i < w->size; i++) {
    const int r = w->next_to_ask = (w->next_to_ask + 1) % w->size;
    if (r == w->rank || !hear_from(w, r)) continue;
    *from = r;
    memcpy(note, w->heard[r].text, RP_TOLD_BYTES);
    return true;
  }
  return false;
}

static int gone(void *own) { return ((sock_wire *)own)->gone; }

/* Nobody closes before all have said farewell: a connection that is closed with something unread
 * takes with it what the other has not read yet. */
static void part(sock_wire *w) {
  char note[RP_TOLD_BYTES] = {farewell};
  int from, left = w->size - 1;
  for (int r = 0; r < w->size; r++)
    if (r != w->rank) tell(w, r, note);
  for (const double end = rp_now() + 10; left && w->gone < 0 && rp_now() < end;) {
    while (told(w, &from, note)) {
    }
    left = w->size - 1;
    for (int r = 0; r < w->size; r++) left -= w->bye[r];
    if (left) nanosleep(&(struct timespec){0, 1000000}, NULL);
  }
}

static void free_wire(sock_wire *w) {
  if (!w) return;
  rp_free(w->data);
  rp_free(w->notes);
  rp_free(w->moves);
  rp_free(w->heard);
  rp_free(w->bye);
  rp_free(w);
}

static void close_wire(void *own, bool broken) {
  sock_wire *w = own;
  if (!broken) part(w);
  for (int r = 0; r < w->size; r++) {
    if (r == w->rank) continue;
    close(w->data[r]);
    close(w->notes[r]);
  }
  free_wire(w);
}

static const rp_wire wire = {close_wire, begin, poll_moves, is_done, tell, told, gone};

static rp_status make_wire(sock_wire **out, int rank, int size, rp_error *err) {
  const size_t n = (size_t)size;
  sock_wire *w = *out = rp_calloc(1, sizeof *w);
  if (!w) return rp_fail_memory(err, sizeof *w, "a communicator");
  *w = (sock_wire){.rank = rank, .size = size, .gone = -1};
  w->data = rp_calloc(n, sizeof *w->data);
  w->notes = rp_calloc(n, sizeof *w->notes);
  w->moves = rp_calloc(2 * n, sizeof *w->moves);
  w->heard = rp_calloc(n, sizeof *w->heard);
  w->bye = rp_calloc(n, sizeof *w->bye);
  if (!w->data || !w->notes || !w->moves || !w->heard || !w->bye)
    return rp_fail_memory(err, n * sizeof *w->heard, "a communicator");
  return RP_OK;
}

rp_status rp_comm_open_sock(rp_comm **c, const rp_comm_place *p, const rp_comm_opts *o,
                            rp_error *err) {
  rp_status st = RP_OK;
  sock_wire *w = NULL;
  *c = NULL;
  if (p->size < 1 || p->size > 65536 || p->rank < 0 || p->rank >= p->size || p->port < 1 ||
      p->port > 65535)
    return rp_fail(err, RP_USAGE, "rank %d of %d at port %d: there is no such rank or port",
                   p->rank, p->size, p->port);
  const rp_meeting m = {p->host, p->port, p->rank, p->size,
                        o && o->deadline > 0 ? o->deadline : RP_COMM_DEADLINE};
  RP_GO(make_wire(&w, p->rank, p->size, err));
  RP_GO(rp_meet(&m, w->data, w->notes, err));
  return rp_comm_make(c, &wire, w, p->rank, p->size, o, err);
fail:
  free_wire(w);
  return st;
}
