/* ranks.c - ranks as callers see them. */
#include "ratplus/ranks.h"

#include "base/mem.h"
#include "dist/comm.h"
#include "ops/cuda/gpus.h"

/* One thing for the public and for the rooms above. */
struct rp_ranks {
  rp_comm *comm;
};

void rp_ranks_defaults(rp_ranks_opts *o) { *o = (rp_ranks_opts){.size = sizeof *o}; }

static rp_status check_count(const rp_ranks_opts *o, int found, rp_error *err) {
  if (o->count <= 0 || o->count == found) return RP_OK;
  return rp_fail(err, RP_USAGE,
                 "%s says %d ranks and MPI says %d: under Slurm start with srun --mpi=pmix, else "
                 "with the mpirun of the MPI this program was built with, or give --ranks 1",
                 o->launcher ? o->launcher : "the launcher", o->count, found);
}

/* Over MPI, or, for a launcher that brings none, over TCP. */
static rp_status open_comm(const rp_ranks_opts *o, rp_comm **c, rp_error *err) {
  const rp_comm_opts opts = {.deadline = o->deadline, .rate = o->rate, .latency = o->latency};
  const rp_comm_place at = {o->host, o->port, o->rank, o->count};
  if (!o->host) return rp_comm_open_mpi(c, &opts, err);
  if (rp_comm_has_nccl()) return rp_comm_open_sock(c, &at, &opts, err);
  return rp_fail(
      err, RP_USAGE,
      "this build joins ranks over MPI, since it has no NCCL; start them with mpirun -n %d",
      o->count);
}

int rp_ranks_without_mpi(void) { return rp_comm_has_nccl(); }
int rp_ranks_with_mpi(void) { return rp_comm_has_mpi(); }

rp_status rp_ranks_join(const rp_ranks_opts *o, rp_ranks **out, rp_error *err) {
  rp_status st = RP_OK;
  *out = NULL;
  rp_ranks *r = rp_calloc(1, sizeof *r);
  if (!r) return rp_fail_memory(err, sizeof *r, "ranks");
  RP_GO(open_comm(o, &r->comm, err));
  RP_GO(check_count(o, rp_comm_size(r->comm), err));
  rp_gpus_choose(rp_comm_local_rank(r->comm));
  *out = r;
  return RP_OK;
fail:
  rp_ranks_leave(r);
  return st;
}

rp_comm *rp_ranks_comm(rp_ranks *r) { return r ? r->comm : NULL; }
int rp_ranks_rank(const rp_ranks *r) { return r ? rp_comm_rank(r->comm) : 0; }
int rp_ranks_count(const rp_ranks *r) { return r ? rp_comm_size(r->comm) : 1; }

int rp_ranks_speaks(rp_ranks *r) {
  bool here = false;
  if (!r) return 1;
  return rp_comm_failure(r->comm, &here, NULL) ? here : rp_comm_rank(r->comm) == 0;
}

rp_status rp_ranks_agree(rp_ranks *r, rp_status st) {
  rp_error err = {0};
  return rp_comm_agree(rp_ranks_comm(r), st, &err);
}

int rp_ranks_leave(rp_ranks *r) {
  bool here;
  if (!r) return 0;
  const int broken = r->comm && rp_comm_failure(r->comm, &here, NULL) != RP_OK;
  rp_comm_close(r->comm);
  rp_free(r);
  return broken;
}
