/* comm.h - ranks that work together: collectives over buffers, started now and awaited later.
 *
 * A communicator owns one thread, which does the work of every collective in the order they were
 * started; that order must be the same on all ranks. Sums run in rank order whatever is summed and
 * however it is cut, so that their bits depend on the number of ranks alone. The first failure (a rank
 * that is silent past the deadline, one that tells of an error of its own) is sticky: every later
 * collective fails with the same sentence. Bytes and times are counted. One thread's, but for what
 * says otherwise.
 *
 * Implementations: self (one rank, no traffic), MPI (any MPI-3), TCP; and NCCL for what lies on GPUs,
 * on top of one of them. */
#ifndef RP_DIST_COMM_H
#define RP_DIST_COMM_H

#include "ops/device.h"

typedef struct rp_comm rp_comm;

enum { RP_COMM_DEADLINE = 300 };

typedef struct {
  double deadline; /* seconds that a collective may take; 0: RP_COMM_DEADLINE */
  double rate;    /* tests: bytes a second that this rank may send at most; 0: as fast as it goes */
  double latency; /* tests: seconds added to every collective */
} rp_comm_opts;

rp_status rp_comm_open_self(rp_comm **c, const rp_comm_opts *o, rp_error *err);
/* Joins the ranks that the MPI launcher started. RP_USAGE in a build without MPI. */
rp_status rp_comm_open_mpi(rp_comm **c, const rp_comm_opts *o, rp_error *err);
bool rp_comm_has_mpi(void);
/* Joins ranks that some launcher started and told who they are: over TCP, meeting at rank 0. */
typedef struct {
  const char *host; /* rank 0's machine */
  int port;         /* free there: rank 0 binds it */
  int rank, size;
} rp_comm_place;
rp_status rp_comm_open_sock(rp_comm **c, const rp_comm_place *p, const rp_comm_opts *o,
                            rp_error *err);
/* From here on collectives on queues are NCCL's, over the memory of this GPU; sums are in NCCL's order,
 * not in that of the ranks. All ranks together. RP_USAGE in a build without NCCL. */
rp_status rp_comm_use_nccl(rp_comm *c, int device, rp_error *err);
bool rp_comm_has_nccl(void);
/* The same with this process's GPU (ops/cuda/gpus.h), unless it was done before. RP_USAGE, with what to do,
 * where the ranks cannot. */
rp_status rp_comm_on_gpus(rp_comm *c, rp_error *err);
/* Waits for what was started and, unless it failed, for all ranks; NULL is fine. After a failure the
 * process must end without MPI's own farewell (_exit). */
void rp_comm_close(rp_comm *c);

int rp_comm_rank(const rp_comm *c);
int rp_comm_size(const rp_comm *c);
const char *rp_comm_host(const rp_comm *c, int rank); /* its machine's name */
int rp_comm_neighbours(const rp_comm *c); /* ranks on this machine, this one too; c NULL: 1 */
int rp_comm_local_rank(const rp_comm *c); /* how many of them come before this one */

typedef enum {
  RP_COMM_SUM,       /* in[n] of all ranks added up into out[n] of all */
  RP_COMM_SCATTER,   /* in[ranks][n] added up; out[n] of rank r is the r-th part */
  RP_COMM_GATHER,    /* in[n] of rank r is out[ranks][n]'s r-th part, on all ranks */
  RP_COMM_BROADCAST, /* in[n] of rank root becomes out[n] of all */
  RP_COMM_KINDS
} rp_comm_kind;
const char *rp_comm_kind_name(rp_comm_kind k);

/* in and out may be the same where they have the same size, and in SCATTER and GATHER where the small
 * one is this rank's part of the large one. Sums: F32, F64, I64; the others any dtype. */
typedef struct {
  rp_comm_kind kind;
  int root;
  rp_dtype dtype;
  int64_t n;
  rp_ptr in, out;
} rp_collective;

/* Puts the start of a collective over device memory on the queue; buffers are the collective's until
 * its ticket is awaited, which is put on the queue too. */
typedef uint64_t rp_ticket;
rp_ticket rp_comm_start(rp_comm *c, rp_queue *q, const rp_collective *a);
void rp_comm_await(rp_comm *c, rp_queue *q, rp_ticket t);

/* The same over host memory, done when it returns. Every queue that was given collectives must be
 * idle (rp_wait). */
rp_status rp_comm_host_run(rp_comm *c, rp_comm_kind kind, rp_dtype dtype, const void *in, void *out,
                           int64_t n, int root, rp_error *err);
rp_status rp_comm_barrier(rp_comm *c, rp_error *err);

/* Returns when the communicator's thread touches no buffer any more: all is done, or it failed. */
void rp_comm_drain(rp_comm *c);

/* Tells all ranks that this one failed; their collectives end with its sentence. Returns when it is
 * told, or after a second. The communicator is broken afterwards. */
void rp_comm_tell(rp_comm *c, const char *sentence);
/* RP_OK, or the sticky failure. *here: this rank is the one to speak of it. Any thread. */
rp_status rp_comm_failure(rp_comm *c, bool *here, rp_error *err);

/* All ranks go on, or none: the first rank's failure becomes everyone's, its sentence with rank and
 * host in front unless all failed. Whoever fails so needs not be told: rank 0 speaks. c NULL: st. */
rp_status rp_comm_agree(rp_comm *c, rp_status st, rp_error *err);
/* RP_USAGE on all ranks, naming the first, where a number (a checksum) is not the same on all. */
rp_status rp_comm_same(rp_comm *c, const char *what, const char *advice, uint64_t mine,
                       rp_error *err);
/* From here on rp_comm_tell does nothing: what failed is known to all. */
void rp_comm_settle(rp_comm *c);
struct rp_ranks;
rp_comm *rp_ranks_comm(struct rp_ranks *r); /* NULL for NULL */

/* What went over the wire. sent: payload bytes that left this rank, by kind. busy: seconds the
 * communicator's thread worked; waited: seconds that awaiting blocked. */
typedef struct {
  uint64_t sent[RP_COMM_KINDS], calls[RP_COMM_KINDS];
  double busy, waited;
} rp_comm_stats;
rp_comm_stats rp_comm_counts(rp_comm *c);

/* Bytes that a collective sends from one rank on average over ranks: n elements in all for SUM, n of
 * a part for SCATTER and GATHER. */
double rp_comm_cost(rp_comm_kind k, int ranks, int64_t n, rp_dtype dtype);
/* Bytes a communicator holds for itself. */
size_t rp_comm_bytes(int ranks);

#endif
