/* meet.h - how ranks find each other without MPI: all come to rank 0's address, learn there where the
 * others are, and connect pairwise. One thread's. */
#ifndef RP_DIST_MEET_H
#define RP_DIST_MEET_H

#include "base/error.h"

typedef struct {
  const char *host; /* rank 0's, as the launcher gave it */
  int port;         /* rank 0 binds it */
  int rank, size;
  double
      deadline; /* seconds until those who did not come are an error; a notice after at most 10 */
} rp_meeting;

/* Two connections with every other rank, into data[size] and notes[size] (this rank's are -1); on
 * failure all are closed. RP_USAGE: the port is taken, or there is no such host. */
rp_status rp_meet(const rp_meeting *m, int *data, int *notes, rp_error *err);

#endif
