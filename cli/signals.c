#include <signal.h>
#include <unistd.h>

#include "cli/cli.h"

static volatile int stop;

static void on_signal(int n) {
  if (stop) _exit(128 + n);
  stop = n;
}

void cli_signals_catch(void) {
  static const int numbers[] = {SIGTERM, SIGINT, SIGUSR1, SIGHUP};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    struct sigaction old, act = {.sa_handler = on_signal};
    sigemptyset(&act.sa_mask);
    if (numbers[i] == SIGHUP && sigaction(SIGHUP, NULL, &old) == 0 && old.sa_handler == SIG_IGN) {
      continue; /* nohup */
    }
    act.sa_flags = SA_RESTART;
    sigaction(numbers[i], &act, NULL);
  }
  signal(SIGPIPE, SIG_IGN);
}

const volatile int *cli_stop_flag(void) { return &stop; }
