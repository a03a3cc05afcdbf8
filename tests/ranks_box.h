/* ranks_box.h - tests over several ranks: the test's own program, started again under mpirun.
 *
 * box_ranks(4, "sums") in a case starts this program four times; box_rank_main, called first in
 * main, runs the named function there, which ends with 0 when all is well. */
#ifndef RP_RANKS_BOX_H
#define RP_RANKS_BOX_H

#include <sys/wait.h>

#include "check.h"
#include "dist/comm.h"
#include "ratplus/ranks.h"

typedef int (*box_rank_fn)(rp_comm *c);
typedef struct {
  const char *name;
  box_rank_fn run;
  double deadline, rate; /* of rp_ranks_opts; 0: as it is */
} box_rank_case;

CHECK_MAYBE static rp_ranks *box_joined; /* in a rank */

CHECK_MAYBE static const char *box_rank_program;

/* Why ranks cannot be started here; NULL: they can. */
CHECK_MAYBE static const char *box_no_ranks(void) {
  if (!rp_comm_has_mpi()) return "this build has no MPI";
  if (system("command -v mpirun >/dev/null 2>&1")) return "there is no mpirun";
  return NULL;
}

/* Skips the case where ranks cannot be started. */
#define check_needs_ranks() \
  do { \
    const char *check_why_ = box_no_ranks(); \
    if (check_why_) { \
      printf("# %s\n", check_why_); \
      skip(); \
    } \
  } while (0)

/* The exit code of the named case on n ranks. */
CHECK_MAYBE static int box_ranks(int n, const char *name) {
  char line[2048];
  snprintf(
      line, sizeof line,
      "ASAN_OPTIONS=detect_leaks=0 OMPI_MCA_btl_vader_single_copy_mechanism=none timeout -k 5 "
      "120 mpirun --allow-run-as-root --oversubscribe --bind-to none -n %d '%s' --rank %s 2>&1",
      n, box_rank_program, name);
  fflush(stdout);
  const int st = system(line);
  return WIFEXITED(st) ? WEXITSTATUS(st) : 255;
}

/* In a rank: runs its case and ends the program; else returns. */
CHECK_MAYBE static void box_rank_main(int argc, char **argv, const box_rank_case *cases, size_t n) {
  box_rank_program = argv[0];
  if (argc != 3 || strcmp(argv[1], "--rank")) return;
  for (size_t i = 0; i < n; i++) {
    rp_ranks_opts o;
    rp_error err = {0};
    if (strcmp(cases[i].name, argv[2])) continue;
    rp_ranks_defaults(&o);
    o.deadline = cases[i].deadline;
    o.rate = cases[i].rate;
    if (rp_ranks_join(&o, &box_joined, &err)) {
      printf("%s\n", err.text);
      _exit(99);
    }
    rp_threads_set(1); /* as many ranks as cores: threads would only wait for each other */
    const int code = cases[i].run(rp_ranks_comm(box_joined));
    const int broken = rp_ranks_leave(box_joined);
    fflush(NULL);
    if (broken) _exit(code);
    exit(code);
  }
  _exit(98);
}

/* In a rank: prints and ends with 1 unless it holds. */
#define RANK_TRUE(x) \
  do { \
    if (!(x)) { \
      printf("%s:%d: rank %d: not so: %s\n", __FILE__, __LINE__, rp_comm_rank(c), #x); \
      fflush(stdout); \
      _exit(1); \
    } \
  } while (0)
#define RANK_OK(call) \
  do { \
    if (call) { \
      printf("%s:%d: rank %d: %s: %s\n", __FILE__, __LINE__, rp_comm_rank(c), #call, err.text); \
      fflush(stdout); \
      _exit(1); \
    } \
  } while (0)

#endif
