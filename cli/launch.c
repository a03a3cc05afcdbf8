/* Whether a launcher started several of us, and how they part. */
#include <stdlib.h>
#include <unistd.h>

#include "cli/cli.h"

static long count_of(const char *name) {
  const char *text = getenv(name);
  return text ? strtol(text, NULL, 10) : 0;
}

/* Who says how many ranks there are: torchrun, Open MPI, Slurm inside a step. NULL: nobody. */
static const char *launcher(long *n, bool *torchrun) {
  *torchrun = false;
  if ((*n = count_of("OMPI_COMM_WORLD_SIZE")) > 1) return "OMPI_COMM_WORLD_SIZE";
  if ((*n = count_of("WORLD_SIZE")) > 1) {
    *torchrun = true;
    return "WORLD_SIZE";
  }
  if (getenv("SLURM_STEP_ID") && (*n = count_of("SLURM_STEP_NUM_TASKS")) > 1)
    return "SLURM_STEP_NUM_TASKS";
  *n = 1;
  return NULL;
}

/* Of other ranks only warnings are news. */
static void quiet_log(void *ctx, rp_log_level level, const char *line) {
  if (level < RP_LOG_WARNING) return;
  fprintf(stderr, "ratplus: rank %d: warning: %s\n", rp_ranks_rank(ctx), line);
}

int cli_ranks_join(const cli_args *a, rp_ranks **out) {
  rp_ranks_opts o;
  rp_error err = {0};
  bool torchrun;
  long n;
  *out = NULL;
  rp_ranks_defaults(&o);
  o.launcher = launcher(&n, &torchrun);
  if (cli_has(a, "ranks")) {
    if (cli_int(a, "ranks") == 1) return 0;
    if (cli_int(a, "ranks") < 1)
      return cli_fail(RP_USAGE, "--ranks %lld: give a number from 1 on",
                      (long long)cli_int(a, "ranks"));
    n = (long)cli_int(a, "ranks");
    o.launcher = "--ranks";
  } else if (!o.launcher) {
    return 0;
  } else if (torchrun) {
    return cli_fail(
        RP_USAGE,
        "%s says %ld ranks, as torchrun does, and this build has no NCCL; start it with "
        "mpirun -n %ld ratplus %s ..., or give --ranks 1",
        o.launcher, n, n, cli_args_verb(a)->name);
  }
  o.count = (int)n;
  if (cli_has(a, "deadline")) o.deadline = cli_real(a, "deadline");
  if (cli_has(a, "link-rate")) o.rate = 1e9 * cli_real(a, "link-rate");
  if (o.deadline < 0 || o.rate < 0)
    return cli_fail(RP_USAGE, "--deadline and --link-rate take numbers above 0");
  if (rp_ranks_join(&o, out, &err)) {
    /* All ranks find the same; the first says it. */
    return count_of("OMPI_COMM_WORLD_RANK") > 0 ? (int)err.status : cli_error(&err);
  }
  if (rp_ranks_rank(*out) == 0) return 0;
  rp_log_set(quiet_log, *out, RP_LOG_WARNING);
  cli_hush(true);
  return 0;
}

int cli_ranks_error(rp_ranks *r, const rp_error *err) {
  return rp_ranks_speaks(r) ? cli_error(err) : (int)err->status;
}

int cli_ranks_leave(rp_ranks *r, int code) {
  const int speaks = rp_ranks_speaks(r);
  rp_log_set(cli_log, NULL, RP_LOG_INFO);
  if (!rp_ranks_leave(r)) return code;
  /* A launcher ends everyone with the first that ends: the one who speaks is to be heard. */
  if (!speaks) sleep(1);
  fflush(NULL);
  _exit(code ? code : RP_FAIL);
}
