/* comm_inner.h - what carries the bytes between ranks; comm.c does everything else.
 *
 * A wire is used by the communicator's thread alone, but for open and close. */
#ifndef RP_DIST_COMM_INNER_H
#define RP_DIST_COMM_INNER_H

#include "dist/comm.h"

enum { RP_TOLD_BYTES = 1024 };

typedef struct {
  int peer;
  bool send;
  void *at;
  size_t bytes;
} rp_move;

typedef struct {
  void (*close)(void *own, bool broken);
  /* Begins all moves; at most one to and one from a peer. */
  rp_status (*begin)(void *own, const rp_move *m, int n, rp_error *err);
  /* *left: moves not done yet; done[i] of each. */
  rp_status (*poll)(void *own, int *left, rp_error *err);
  bool (*is_done)(void *own, int i); /* of the last begin, after a poll */
  /* Sends a note past everything else, and reads one if it is there. */
  void (*tell)(void *own, int peer, const char note[RP_TOLD_BYTES]);
  bool (*told)(void *own, int *from, char note[RP_TOLD_BYTES]);
  /* A rank whose end was seen; -1: none. NULL: such ends are not seen. */
  int (*gone)(void *own);
} rp_wire;

/* What does whole collectives over device memory by itself, in place of moves. The communicator's thread
 * alone uses it, but for set and close. */
typedef struct {
  void (*close)(void *own, bool broken);
  rp_status (*begin)(void *own, const rp_collective *a, rp_error *err);
  rp_status (*poll)(void *own, bool *done, rp_error *err);
} rp_engine;
/* Before the first collective over device memory; takes over own. */
void rp_comm_set_engine(rp_comm *c, const rp_engine *e, void *own);
double rp_comm_deadline(const rp_comm *c);

/* Takes over own, also on failure; rank of size. */
rp_status rp_comm_make(rp_comm **c, const rp_wire *w, void *own, int rank, int size,
                       const rp_comm_opts *o, rp_error *err);

#endif
