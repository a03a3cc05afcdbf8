/* The bar on a terminal's last line. */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

static cli_progress *bar; /* the one on the screen */

double cli_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void cli_progress_start(cli_progress *p) {
  const char *term = getenv("TERM");
  *p = (cli_progress){0};
  p->terminal = isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0);
  p->started = cli_seconds();
  bar = p;
}

void cli_progress_clear(void) {
  if (!bar || !bar->drawn) return;
  fputs("\r\033[K", stderr);
  bar->drawn = false;
}

static int columns(void) {
  struct winsize w;
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 20 ? w.ws_col : 80;
}

static void time_left(char out[32], double s) {
  if (s >= 3600) {
    snprintf(out, 32, "%d h %02d min left", (int)(s / 3600), (int)(s / 60) % 60);
  } else if (s >= 60) {
    snprintf(out, 32, "%d min %02d s left", (int)(s / 60), (int)s % 60);
  } else {
    snprintf(out, 32, "%d s left", (int)s);
  }
}

void cli_progress_update(cli_progress *p, uint64_t done, uint64_t total, const char *text) {
  const double now = cli_seconds();
  if (!p->terminal || (now - p->last < 0.1 && done < total)) return;
  p->last = now;
  char line[512], left[32] = "";
  const double share = total ? (double)done / (double)total : 0;
  if (total) {
    char cells[21];
    for (int i = 0; i < 20; i++) cells[i] = i < (int)(20 * share) ? '#' : '.';
    cells[20] = '\0';
    if (share > 0) time_left(left, (now - p->started) * (1 - share) / share);
    snprintf(line, sizeof line, "[%s] %3d%%  %s  %s", cells, (int)(100 * share), text, left);
  } else {
    snprintf(line, sizeof line, "%s", text);
  }
  fprintf(stderr, "\r\033[K%.*s", columns() - 1, line);
  fflush(stderr);
  p->drawn = true;
}

void cli_progress_end(cli_progress *p) {
  cli_progress_clear();
  if (bar == p) bar = NULL;
}
