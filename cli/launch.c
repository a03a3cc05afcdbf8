/* Whether a launcher started several of us, and how they part. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

/* What the environment of a launcher says of this process. */
typedef struct {
  const char *said_by; /* the variable with the number of ranks; NULL: nobody started several */
  int64_t n, rank;     /* rank -1: it was not told */
  bool torchrun, slurm;
} launch;

/* A variable's number; fallback where it is not set or empty. */
static int number(const char *name, int64_t least, int64_t fallback, int64_t *out) {
  const char *text = getenv(name);
  char *end;
  *out = fallback;
  if (!text || !*text) return 0;
  errno = 0;
  const long long v = strtoll(text, &end, 10);
  if (errno || *end || v < least || v > 1 << 20)
    return cli_fail(
        RP_USAGE,
        "%s=%s in the environment is no number that a launcher gives; unset it, or give "
        "--ranks 1",
        name, text);
  *out = v;
  return 0;
}

static int read_pair(launch *l, const char *count, const char *rank) {
  int code = number(count, 1, 1, &l->n);
  if (!code) code = number(rank, 0, -1, &l->rank);
  if (code || l->n == 1) return code;
  l->said_by = count;
  if (l->rank < l->n) return 0;
  return cli_fail(RP_USAGE, "%s=%lld in the environment, but %s=%lld", rank, (long long)l->rank,
                  count, (long long)l->n);
}

/* Who started how many: torchrun, which may itself run under one of the others; then Open MPI, and
 * Slurm inside a step. A lone WORLD_SIZE is some script's. */
static int find_launch(launch *l) {
  int code = 0;
  *l = (launch){.rank = -1};
  if (getenv("RANK") && getenv("WORLD_SIZE")) code = read_pair(l, "WORLD_SIZE", "RANK");
  if (code || l->said_by) {
    l->torchrun = true;
    return code;
  }
  code = read_pair(l, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK");
  if (code || l->said_by || !getenv("SLURM_STEP_ID")) return code;
  code = read_pair(l, "SLURM_STEP_NUM_TASKS", "SLURM_PROCID");
  l->slurm = l->said_by != NULL;
  return code;
}

/* ---- where ranks meet that no MPI brings together ---- */

/* "node[03-07,12].x,y" -> "node03.x". */
static void first_host(const char *list, char *out, size_t cap) {
  const size_t name = strcspn(list, "[,");
  const char *more = list[name] == '[' ? list + name + 1 : "";
  const char *end = *more ? more + strcspn(more, "]") : "";
  if (*end) end++;
  snprintf(out, cap, "%.*s%.*s%.*s", (int)name, list, (int)strcspn(more, "-,]"), more,
           (int)strcspn(end, ","), end);
}

/* torchrun's agent may hold MASTER_PORT for a store of its own: then it is the next one. */
static int meet_torchrun(rp_ranks_opts *o) {
  int64_t port;
  const char *host = getenv("MASTER_ADDR"), *agent = getenv("TORCHELASTIC_USE_AGENT_STORE");
  const int code = number("MASTER_PORT", 1, 0, &port);
  if (code) return code;
  if (!host || !*host || !port)
    return cli_fail(RP_USAGE,
                    "RANK and WORLD_SIZE are set, but not MASTER_ADDR and MASTER_PORT, where the "
                    "ranks meet; torchrun sets all of them");
  if (agent && (strcmp(agent, "True") == 0 || strcmp(agent, "1") == 0))
    port += port < 65535 ? 1 : -1;
  o->host = host;
  o->port = (int)port;
  return 0;
}

/* One port a job step, unless MASTER_ADDR and MASTER_PORT say where. */
static int meet_slurm(rp_ranks_opts *o, char *host, size_t cap) {
  int64_t job, step;
  const char *nodes = getenv("SLURM_STEP_NODELIST"), *id = getenv("SLURM_JOB_ID");
  if (getenv("MASTER_ADDR") && getenv("MASTER_PORT")) return meet_torchrun(o);
  if (!nodes || !id)
    return cli_fail(
        RP_USAGE,
        "SLURM_STEP_NODELIST and SLURM_JOB_ID are not set, and so it is not known where "
        "the ranks meet; give MASTER_ADDR and MASTER_PORT");
  first_host(nodes, host, cap);
  job = strtoll(id, NULL, 10);
  step = strtoll(getenv("SLURM_STEP_ID"), NULL, 10);
  o->host = host;
  o->port = 20000 + (int)((uint64_t)(job * 31 + step) % 20000);
  return 0;
}

/* Of other ranks only warnings are news. */
static void quiet_log(void *ctx, rp_log_level level, const char *line) {
  if (level < RP_LOG_WARNING) return;
  fprintf(stderr, "ratplus: rank %d: warning: %s\n", rp_ranks_rank(ctx), line);
}

/* How they join: by the launcher's variables where this build can, else over MPI. */
static int find_place(const cli_args *a, const launch *l, rp_ranks_opts *o, char *host,
                      size_t cap) {
  o->rank = (int)l->rank;
  if (l->torchrun && rp_ranks_without_mpi()) return meet_torchrun(o);
  if (l->torchrun)
    return cli_fail(
        RP_USAGE,
        "%s says %lld ranks, as torchrun does, and this build has no NCCL; start it with "
        "mpirun -n %lld ratplus %s ..., or give --ranks 1",
        l->said_by, (long long)l->n, (long long)l->n, cli_args_verb(a)->name);
  if (l->slurm && l->rank >= 0 && !rp_ranks_with_mpi() && rp_ranks_without_mpi())
    return meet_slurm(o, host, cap);
  return 0;
}

/* The flags over what the launcher says. */
static int read_flags(const cli_args *a, const launch *l, rp_ranks_opts *o) {
  const int64_t n = cli_has(a, "ranks") ? cli_int(a, "ranks") : l->n;
  rp_ranks_defaults(o);
  if (n < 1 || n > 65536)
    return cli_fail(RP_USAGE, "--ranks %lld: give a number from 1 to 65536", (long long)n);
  o->launcher = cli_has(a, "ranks") ? "--ranks" : l->said_by;
  o->count = (int)n;
  if (cli_has(a, "deadline")) o->deadline = cli_real(a, "deadline");
  if (cli_has(a, "link-rate")) o->rate = 1e9 * cli_real(a, "link-rate");
  if (o->deadline < 0 || o->rate < 0)
    return cli_fail(RP_USAGE, "--deadline and --link-rate take numbers above 0");
  return 0;
}

static int join(const cli_args *a, const launch *l, rp_ranks **out) {
  rp_ranks_opts o;
  rp_error err = {0};
  char host[256];
  int code = read_flags(a, l, &o);
  if (code || o.count == 1) return code;
  code = find_place(a, l, &o, host, sizeof host);
  if (code) return code;
  /* Where they meet over TCP each has its own view of who is missing. */
  if (o.host) cli_silence(false);
  if (rp_ranks_join(&o, out, &err)) {
    code = cli_error(&err);
    /* MPI may still be waiting in a thread that no farewell reaches. */
    fflush(NULL);
    if (err.status == RP_FAIL) _exit(code);
    return code;
  }
  if (rp_ranks_rank(*out) == 0) return 0;
  rp_log_set(quiet_log, *out, RP_LOG_WARNING);
  cli_hush(true);
  return 0;
}

int cli_ranks_join(const cli_args *a, rp_ranks **out) {
  launch l = {.n = 1, .rank = -1};
  /* --ranks 1 is for environments that say nonsense, too. */
  const bool alone = cli_has(a, "ranks") && cli_int(a, "ranks") == 1;
  int code = alone ? 0 : find_launch(&l);
  *out = NULL;
  if (code) return code;
  /* All ranks find the same; the first says it. */
  cli_silence(l.rank > 0);
  code = join(a, &l, out);
  cli_silence(false);
  return code;
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
