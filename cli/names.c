/* "Did you mean": the nearest of a few names. */
#include <string.h>

#include "cli/cli.h"

#define LONGEST 40

/* Letters to add, drop, change or swap to make b of a; LONGEST for names that are longer. */
static int distance(const char *a, const char *b) {
  int d[LONGEST + 1][LONGEST + 1];
  const int n = (int)strlen(a), m = (int)strlen(b);
  if (n > LONGEST || m > LONGEST) return LONGEST;
  for (int i = 0; i <= n; i++) d[i][0] = i;
  for (int j = 0; j <= m; j++) d[0][j] = j;
  for (int i = 1; i <= n; i++) {
    for (int j = 1; j <= m; j++) {
      int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
      if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped && d[i - 2][j - 2] + 1 < best) best = d[i - 2][j - 2] + 1;
      d[i][j] = best;
    }
  }
  return d[n][m];
}

const char *cli_nearest(const char *wanted, const char *const *names, size_t n) {
  const char *best = NULL;
  int least = (int)strlen(wanted) / 3 + 2;
  for (size_t i = 0; i < n; i++) {
    const bool starts = strlen(wanted) >= 3 && strncmp(names[i], wanted, strlen(wanted)) == 0;
    const int d = starts ? 1 : distance(wanted, names[i]);
    if (d >= least) continue;
    least = d;
    best = names[i];
  }
  return best;
}
