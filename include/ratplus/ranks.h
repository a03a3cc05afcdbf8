/* ratplus/ranks.h - several processes that train or evaluate together.
 *
 * Every process that a launcher started (mpirun, srun, torchrun) joins once, does the same calls with the ranks
 * in their options, and leaves. One thread's. What a launcher says stands in the environment, which
 * the library does not read: the caller passes it on. */
#ifndef RATPLUS_RANKS_H
#define RATPLUS_RANKS_H

#include "ratplus/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rp_ranks rp_ranks;

typedef struct {
  size_t size;          /* sizeof this struct; filled by rp_ranks_defaults */
  int count;            /* ranks that the launcher says; 0: as many as there are */
  const char *launcher; /* what said so, for errors ("SLURM_STEP_NUM_TASKS"); NULL */
  double deadline;      /* seconds after which a rank that does not answer ends the run; 0: 300 */
  double rate,
      latency; /* tests: bytes a second this rank may send, seconds a collective takes more */
  /* For launchers that bring no MPI, in a build with NCCL: */
  const char *host; /* rank 0's machine, where all meet; NULL: MPI knows */
  int port;         /* free there */
  int rank;         /* this process, of `count` */
} rp_ranks_opts;
RP_API void rp_ranks_defaults(rp_ranks_opts *o);

/* What joining takes in this build: MPI, or host, port and rank. */
RP_API int rp_ranks_with_mpi(void);
RP_API int rp_ranks_without_mpi(void);
/* Joins, over MPI unless host is given. RP_USAGE: the build cannot, MPI and launcher disagree on the
 * number, or the port is taken. RP_FAIL: not all came within the deadline. */
RP_API rp_status rp_ranks_join(const rp_ranks_opts *o, rp_ranks **out, rp_error *err);
/* NULL: one rank. */
RP_API int rp_ranks_rank(const rp_ranks *r);
RP_API int rp_ranks_count(const rp_ranks *r);
/* Whether results and errors are this rank's to print: rank 0, or after a failure the one that failed
 * or found it. */
RP_API int rp_ranks_speaks(rp_ranks *r);
/* Whether all may go on: RP_OK, or a status that is not, of the first rank that has one. */
RP_API rp_status rp_ranks_agree(rp_ranks *r, rp_status st);
/* Waits for all ranks, unless something failed: then 1, and the process has to end by _exit. NULL is
 * fine. */
RP_API int rp_ranks_leave(rp_ranks *r);

#ifdef __cplusplus
}
#endif
#endif
