#include "config/suggest.h"

#include <string.h>

#define PARTS_MOST 16
#define NAME_MOST 160
#define FAR 1000

typedef struct {
  const char *part[PARTS_MOST];
  int n;
  char text[NAME_MOST];
} parts;

static bool split(parts *p, const char *s, size_t len) {
  if (len >= sizeof p->text) return false;
  memcpy(p->text, s, len);
  p->text[len] = '\0';
  p->n = 0;
  char *at = p->text;
  while (p->n < PARTS_MOST) {
    p->part[p->n++] = at;
    at = strpbrk(at, "./@");
    if (!at) return true;
    *at++ = '\0';
  }
  return false;
}

static int part_cost(const char *a, const char *b) {
  const size_t la = strlen(a), lb = strlen(b);
  const int limit = (int)((la > lb ? la : lb) / 3 + 1);
  const int d = rp_edit_distance(a, b, limit);
  return d > limit ? FAR : 2 * d;
}

/* Edit distance over parts: leaving one out costs 3, a slip inside one twice its letters. */
static int name_cost(const parts *a, const parts *b) {
  int row[PARTS_MOST + 1];
  for (int j = 0; j <= b->n; j++) row[j] = 3 * j;
  for (int i = 1; i <= a->n; i++) {
    int diagonal = row[0];
    row[0] = 3 * i;
    for (int j = 1; j <= b->n; j++) {
      const int swap = diagonal + part_cost(a->part[i - 1], b->part[j - 1]);
      const int gone = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 3;
      diagonal = row[j];
      row[j] = swap < gone ? swap : gone;
    }
  }
  return row[b->n];
}

/* The last part says most: with it right, whole levels may be missing. */
static int suggest_cost(const parts *wanted, const parts *name) {
  const int cost = name_cost(wanted, name);
  const int last = part_cost(wanted->part[wanted->n - 1], name->part[name->n - 1]);
  if (last >= FAR) return FAR;
  const int most = last == 0 ? 9 : 6;
  return cost + last <= most + last ? cost + last : FAR;
}

void rp_suggest(const char *wanted, const char *names, int most, rp_str *out) {
  parts w, name;
  int best[4] = {FAR, FAR, FAR, FAR};
  const char *at[4] = {0};
  size_t len[4] = {0};
  if (!names || !split(&w, wanted, strlen(wanted))) return;
  if (most > 4) most = 4;
  for (const char *s = names; *s;) {
    const size_t n = strcspn(s, "\n");
    const int cost = split(&name, s, n) ? suggest_cost(&w, &name) : FAR;
    int k = most;
    while (k > 0 && cost < best[k - 1]) k--;
    if (k < most) {
      for (int i = most - 1; i > k; i--) {
        best[i] = best[i - 1];
        at[i] = at[i - 1];
        len[i] = len[i - 1];
      }
      best[k] = cost;
      at[k] = s;
      len[k] = n;
    }
    s += n;
    if (*s) s++;
  }
  for (int i = 0; i < most && best[i] < FAR && best[i] <= best[0] + 2; i++) {
    if (i) rp_str_add(out, " or ");
    rp_str_addn(out, at[i], len[i]);
  }
}
