/* ranks_box.h - tests over several ranks: the test's own program, started again under mpirun.
 *
 * box_ranks(4, "sums") in a case starts this program four times; box_rank_main, called first in
 * main, runs the named function there, which ends with 0 when all is well. box_ranks_tcp does the same
 * without any launcher, the ranks meeting at a port; box_ranks_start lets some be missing. */
#ifndef RP_RANKS_BOX_H
#define RP_RANKS_BOX_H

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

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

/* The exit code of the named case on n ranks; what they print goes to `log` (NULL: to ours). */
CHECK_MAYBE static int box_ranks_to(int n, const char *name, const char *log) {
  char line[2048];
  snprintf(line, sizeof line,
           "ASAN_OPTIONS=detect_leaks=0 OMPI_MCA_btl_vader_single_copy_mechanism=none timeout -k 5 "
           "120 mpirun --allow-run-as-root --oversubscribe --bind-to none -n %d '%s' --rank %s "
           "%s%s 2>&1",
           n, box_rank_program, name, log ? ">" : "", log ? log : "");
  fflush(stdout);
  const int st = system(line);
  return WIFEXITED(st) ? WEXITSTATUS(st) : 255;
}

CHECK_MAYBE static int box_ranks(int n, const char *name) { return box_ranks_to(n, name, NULL); }

/* A port of this machine that nobody has. */
CHECK_MAYBE static int box_free_port(void) {
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t n = sizeof at;
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&at, n) || getsockname(fd, (struct sockaddr *)&at, &n))
    fail_msg("no port can be had");
  close(fd);
  return ntohs(at.sin_port);
}

/* Starts this program as one rank of n that meet at the port; what it prints goes to `log` (NULL: to
 * ours). */
CHECK_MAYBE static pid_t box_ranks_start(int rank, int n, int port, const char *name,
                                         const char *log) {
  char place[64];
  fflush(NULL);
  const pid_t pid = fork();
  if (pid < 0) fail_msg("no process can be made");
  if (pid) return pid;
  snprintf(place, sizeof place, "%d %d %d", rank, n, port);
  setenv("BOX_PLACE", place, 1);
  setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
  if (log && !freopen(log, "w", stdout)) _exit(97);
  dup2(STDOUT_FILENO, STDERR_FILENO);
  alarm(120);
  execl(box_rank_program, box_rank_program, "--rank", name, (char *)NULL);
  _exit(97);
}

/* The exit code of a rank, 128 and its signal. */
CHECK_MAYBE static int box_ranks_end(pid_t pid) {
  int st;
  if (waitpid(pid, &st, 0) != pid) return 255;
  return WIFEXITED(st) ? WEXITSTATUS(st) : 128 + WTERMSIG(st);
}

/* As box_ranks, over TCP: the first code that is not 0. */
CHECK_MAYBE static int box_ranks_tcp(int n, const char *name) {
  pid_t pid[64];
  int code = 0;
  const int port = box_free_port();
  for (int r = n - 1; r >= 0; r--) pid[r] = box_ranks_start(r, n, port, name, NULL);
  for (int r = 0; r < n; r++) {
    const int one = box_ranks_end(pid[r]);
    if (!code) code = one;
  }
  return code;
}

CHECK_MAYBE static rp_status box_rank_join(const box_rank_case *k, rp_comm **c, rp_error *err) {
  rp_ranks_opts o;
  rp_comm_place at = {.host = "localhost"};
  const char *place = getenv("BOX_PLACE");
  rp_ranks_defaults(&o);
  o.deadline = k->deadline;
  o.rate = getenv("BOX_LINK") ? strtod(getenv("BOX_LINK"), NULL) : k->rate;
  if (place) {
    const rp_comm_opts opts = {.deadline = k->deadline, .rate = k->rate};
    sscanf(place, "%d %d %d", &at.rank, &at.size, &at.port);
    return rp_comm_open_sock(c, &at, &opts, err);
  }
  const rp_status st = rp_ranks_join(&o, &box_joined, err);
  *c = rp_ranks_comm(box_joined);
  return st;
}

CHECK_MAYBE static int box_rank_leave(rp_comm *c) {
  bool here;
  if (box_joined) return rp_ranks_leave(box_joined);
  const int broken = rp_comm_failure(c, &here, NULL) != RP_OK;
  rp_comm_close(c);
  return broken;
}

/* In a rank: runs its case and ends the program; else returns. */
CHECK_MAYBE static void box_rank_main(int argc, char **argv, const box_rank_case *cases, size_t n) {
  box_rank_program = argv[0];
  if (argc != 3 || strcmp(argv[1], "--rank")) return;
  for (size_t i = 0; i < n; i++) {
    rp_comm *c = NULL;
    rp_error err = {0};
    if (strcmp(cases[i].name, argv[2])) continue;
    if (box_rank_join(&cases[i], &c, &err)) {
      printf("%s\n", err.text);
      fflush(NULL);
      _exit(99);
    }
    rp_threads_set(1); /* as many ranks as cores: threads would only wait for each other */
    const int code = cases[i].run(c);
    const int broken = box_rank_leave(c);
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
