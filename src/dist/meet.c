#include "dist/meet.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/str.h"

/* What a rank says first on every connection. Numbers as the machine has them: all ranks run the same
 * program. */
typedef struct {
  char magic[8];
  int32_t size, rank, to;
  int32_t notes; /* this connection is for notes */
  char port[8];  /* where the sender listens for the ranks above it */
} hello;
static const char magic[8] = "RPRANKS";

/* Where a rank listens; host "": on rank 0's machine, found under the name all know. */
typedef struct {
  char host[64], port[8];
} place;

typedef struct {
  const rp_meeting *m;
  int *data, *notes;
  place *places; /* [size] */
  int listener;
  char port[8]; /* it listens at */
  double began;
  bool noticed;
} meeting;

/* ---- time ---- */

static double waited(const meeting *k) { return rp_now() - k->began; }
static bool is_late(const meeting *k) { return waited(k) > k->m->deadline; }

static bool is_there(const meeting *k, int rank) {
  return k->data[rank] >= 0 && k->notes[rank] >= 0;
}

/* "1, 3" of the ranks from first to end that did not come. */
static void list_missing(const meeting *k, int first, int end, rp_str *b) {
  for (int r = first; r < end; r++)
    if (!is_there(k, r)) rp_str_addf(b, "%s%d", b->len ? ", " : "", r);
}

static rp_status speak_of_missing(meeting *k, int first, int end, rp_error *err) {
  rp_str b = {0};
  rp_status st = RP_OK;
  const double early = k->m->deadline < 20 ? k->m->deadline / 2 : 10;
  if (waited(k) < early || (k->noticed && !is_late(k))) return RP_OK;
  list_missing(k, first, end, &b);
  const char *who = b.s ? b.s : "?";
  if (is_late(k))
    st = rp_fail(err, RP_FAIL,
                 "rank %d waited %.0f s at %s port %d for ranks that did not come: %s of %d; see "
                 "that they are started and that their machines reach this address",
                 k->m->rank, waited(k), k->m->host, k->m->port, who, k->m->size);
  else
    rp_log(RP_LOG_WARNING, "after %.0f s these of %d ranks have not come to %s port %d: %s",
           waited(k), k->m->size, k->m->host, k->m->port, who);
  k->noticed = true;
  rp_str_free(&b);
  return st;
}

static void nap(void) { nanosleep(&(struct timespec){0, 50000000}, NULL); }

/* ---- whole messages, with an end to patience ---- */

static bool send_whole(int fd, const void *data, size_t n) {
  for (const char *at = data; n;) {
    const ssize_t k = send(fd, at, n, MSG_NOSIGNAL);
    if (k < 0 && errno == EINTR) continue;
    if (k <= 0) return false;
    at += k;
    n -= (size_t)k;
  }
  return true;
}

static bool read_whole(int fd, void *data, size_t n, double seconds) {
  const double end = rp_now() + seconds;
  for (char *at = data; n;) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, 100) < 1) {
      if (rp_now() > end) return false;
      continue;
    }
    const ssize_t k = recv(fd, at, n, 0);
    if (k < 0 && errno == EINTR) continue;
    if (k <= 0) return false;
    at += k;
    n -= (size_t)k;
  }
  return true;
}

static void set_up(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
}

/* ---- listening ---- */

static bool is_loopback(const struct sockaddr *a) {
  if (a->sa_family == AF_INET)
    return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
  const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
  return IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == 127);
}

static rp_status find(const char *host, const char *port, int flags, struct addrinfo **out,
                      rp_error *err) {
  const struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};
  const int code = getaddrinfo(host, port, &want, out);
  if (!code) return RP_OK;
  return rp_fail(err, RP_USAGE, "%s, where rank 0 is said to be, is no host that is known here: %s",
                 host ? host : "this machine", gai_strerror(code));
}

/* Its own machine's loopback serves ranks that were told that name; else every address, since the
 * name may stand for another one here than elsewhere. */
static rp_status listen_at(meeting *k, const char *host, const char *port, rp_error *err) {
  struct addrinfo *list = NULL, *any = NULL;
  int code = 0;
  RP_TRY(find(host, port, 0, &list, err));
  if (!is_loopback(list->ai_addr)) {
    const rp_status st = find(NULL, port, AI_PASSIVE, &any, err);
    freeaddrinfo(list);
    RP_TRY(st);
    list = any;
  }
  for (const struct addrinfo *a = list; a && k->listener < 0; a = a->ai_next) {
    const int one = 1, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (!bind(fd, a->ai_addr, a->ai_addrlen) && !listen(fd, SOMAXCONN)) {
      k->listener = fd;
    } else {
      code = errno;
      close(fd);
      if (code == EADDRINUSE) break; /* on one family is on all: others connect by either */
    }
  }
  freeaddrinfo(list);
  if (k->listener >= 0) return RP_OK;
  return rp_fail(err, RP_USAGE,
                 "port %s of %s, where the ranks should meet, cannot be had: %s; give another "
                 "MASTER_PORT (torchrun: --master-port)",
                 port, host, strerror(code));
}

static rp_status listen_anywhere(meeting *k, rp_error *err) {
  struct sockaddr_storage at;
  socklen_t n = sizeof at;
  RP_TRY(listen_at(k, k->m->host, "0", err));
  if (getsockname(k->listener, (struct sockaddr *)&at, &n) ||
      getnameinfo((struct sockaddr *)&at, n, NULL, 0, k->port, sizeof k->port, NI_NUMERICSERV))
    return rp_fail(err, RP_FAIL, "a port of this machine cannot be told: %s", strerror(errno));
  return RP_OK;
}

/* ---- connecting ---- */

/* A machine that is switched off says nothing at all: a few seconds are enough. */
static bool connects(int fd, const struct addrinfo *a) {
  int code = 0;
  socklen_t n = sizeof code;
  struct pollfd p = {.fd = fd, .events = POLLOUT};
  fcntl(fd, F_SETFL, O_NONBLOCK);
  if (connect(fd, a->ai_addr, a->ai_addrlen) &&
      (errno != EINPROGRESS || poll(&p, 1, 5000) < 1 ||
       getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &n) || code))
    return false;
  return !fcntl(fd, F_SETFL, 0);
}

static int connect_once(const char *host, const char *port) {
  struct addrinfo *list = NULL;
  int fd = -1;
  if (find(host, port, 0, &list, NULL)) return -1;
  for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
    fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connects(fd, a)) continue;
    close(fd);
    fd = -1;
  }
  freeaddrinfo(list);
  return fd;
}

/* One connection to a lower rank, as often as it takes. */
static rp_status call_on(meeting *k, int rank, bool notes, rp_error *err) {
  const rp_meeting *m = k->m;
  hello h = {.size = m->size, .rank = m->rank, .to = rank, .notes = notes};
  char port[16];
  memcpy(h.magic, magic, sizeof magic);
  rp_snprintf(h.port, sizeof h.port, "%s", k->port);
  rp_snprintf(port, sizeof port, "%d", m->port);
  const place *p = &k->places[rank];
  for (;;) {
    const int fd = connect_once(*p->host ? p->host : m->host, rank ? p->port : port);
    if (fd >= 0 && send_whole(fd, &h, sizeof h)) {
      set_up(fd);
      *(notes ? &k->notes[rank] : &k->data[rank]) = fd;
      return RP_OK;
    }
    if (fd >= 0) close(fd);
    RP_TRY(speak_of_missing(k, rank, rank + 1, err));
    nap();
  }
}

static rp_status call_on_both(meeting *k, int rank, rp_error *err) {
  RP_TRY(call_on(k, rank, false, err));
  return call_on(k, rank, true, err);
}

/* ---- being called on ---- */

static void note_place(const meeting *k, const hello *h, int fd) {
  struct sockaddr_storage from;
  socklen_t n = sizeof from;
  place *p = &k->places[h->rank];
  rp_snprintf(p->port, sizeof p->port, "%.7s", h->port);
  if (getpeername(fd, (struct sockaddr *)&from, &n) || is_loopback((struct sockaddr *)&from))
    return;
  getnameinfo((struct sockaddr *)&from, n, p->host, sizeof p->host, NULL, 0, NI_NUMERICHOST);
}

/* A stranger, or a rank that is here already, is sent away without a word. */
static void take_in(meeting *k, int fd) {
  const rp_meeting *m = k->m;
  hello h;
  if (!read_whole(fd, &h, sizeof h, 5) || memcmp(h.magic, magic, sizeof magic) || h.to != m->rank ||
      h.rank <= m->rank || h.rank >= m->size || (h.notes & ~1)) {
    close(fd);
    return;
  }
  if (h.size != m->size)
    rp_log(RP_LOG_WARNING, "rank %d was told of %d ranks, this one of %d", h.rank, h.size, m->size);
  int *slot = h.notes ? &k->notes[h.rank] : &k->data[h.rank];
  if (*slot >= 0 || h.size != m->size) {
    close(fd);
    return;
  }
  set_up(fd);
  *slot = fd;
  if (!h.notes) note_place(k, &h, fd);
}

static rp_status await_higher(meeting *k, rp_error *err) {
  for (;;) {
    int there = k->m->rank + 1;
    while (there < k->m->size && is_there(k, there)) there++;
    if (there == k->m->size) return RP_OK;
    RP_TRY(speak_of_missing(k, k->m->rank + 1, k->m->size, err));
    struct pollfd p = {.fd = k->listener, .events = POLLIN};
    if (poll(&p, 1, 50) < 1) continue;
    const int fd = accept4(k->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) take_in(k, fd);
  }
}

/* ---- the table of places ---- */

static rp_status send_places(meeting *k, rp_error *err) {
  const size_t bytes = (size_t)k->m->size * sizeof *k->places;
  for (int r = 1; r < k->m->size; r++)
    if (!send_whole(k->data[r], k->places, bytes))
      return rp_fail(err, RP_FAIL, "rank %d went away while the ranks met", r);
  return RP_OK;
}

/* Rank 0 waits for all before it answers; its own patience ends first. */
static rp_status read_places(meeting *k, rp_error *err) {
  const size_t bytes = (size_t)k->m->size * sizeof *k->places;
  if (!read_whole(k->data[0], k->places, bytes, k->m->deadline + 10))
    return rp_fail(err, RP_FAIL,
                   "rank 0 at %s port %d sent rank %d away: not all came, which its own message "
                   "says, or it was told of another number of ranks than %d",
                   k->m->host, k->m->port, k->m->rank, k->m->size);
  for (int r = 0; r < k->m->size; r++) {
    k->places[r].host[sizeof k->places[r].host - 1] = 0;
    k->places[r].port[sizeof k->places[r].port - 1] = 0;
  }
  return RP_OK;
}

static rp_status meet(meeting *k, rp_error *err) {
  if (k->m->rank == 0) {
    char port[16];
    rp_snprintf(port, sizeof port, "%d", k->m->port);
    RP_TRY(listen_at(k, k->m->host, port, err));
    RP_TRY(await_higher(k, err));
    return send_places(k, err);
  }
  RP_TRY(listen_anywhere(k, err));
  RP_TRY(call_on_both(k, 0, err));
  RP_TRY(read_places(k, err));
  for (int r = 1; r < k->m->rank; r++) RP_TRY(call_on_both(k, r, err));
  return await_higher(k, err);
}

rp_status rp_meet(const rp_meeting *m, int *data, int *notes, rp_error *err) {
  meeting k = {.m = m, .data = data, .notes = notes, .listener = -1, .began = rp_now()};
  for (int r = 0; r < m->size; r++) data[r] = notes[r] = -1;
  k.places = rp_calloc((size_t)m->size, sizeof *k.places);
  if (!k.places) return rp_fail_memory(err, (size_t)m->size * sizeof *k.places, "ranks");
  const rp_status st = meet(&k, err);
  for (int r = 0; r < m->size && st; r++) {
    if (data[r] >= 0) close(data[r]);
    if (notes[r] >= 0) close(notes[r]);
  }
  if (k.listener >= 0) close(k.listener);
  rp_free(k.places);
  return st;
}
