/* pattern_draw.c - a pattern on a terminal: masks, and which layer and head has which. */
#include <string.h>

#include "model/pattern_view.h"

enum {
  COLUMNS = 64, /* the longest sequence drawn whole, and the cells across a longer one */
  ROWS = 32,    /* down: a terminal's cell is about twice as high as wide */
  SAMPLES = 64, /* queries that a row of a long sequence is made from */
  LINES = 64    /* of the layout */
};

char rp_kind_letter(int kind) {
  static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz?";
  return letters[kind];
}

void rp_kind_text(rp_pat p, char out[64]) {
  char W[16] = "", I[16] = "";
  if (p.W) rp_snprintf(W, sizeof W, ",W=%d", p.W);
  if (p.I) rp_snprintf(I, sizeof I, ",I=%d", p.I);
  rp_snprintf(out, 64, "D=%d%s%s", p.D, W, I);
}

/* ------------------------------------------------------------------ masks */

static int64_t cut(int64_t T, int n, int i) { return T * i / n; }

rp_mask_cell rp_mask_at(rp_pat p, int64_t T, int rows, int columns, int r, int c) {
  const int64_t t0 = cut(T, rows, r), n = cut(T, rows, r + 1) - t0;
  const int64_t a = cut(T, columns, c), b = cut(T, columns, c + 1);
  const int64_t picks = n < SAMPLES ? n : SAMPLES;
  int64_t all = 0;
  rp_pat_sets sum = {0, 0, 0};
  for (int64_t i = 0; i < picks; i++) {
    const int64_t t = t0 + n * i / picks;
    const rp_pat_sets s = rp_pat_see_in(p, t, a, b);
    sum.initial += s.initial;
    sum.local += s.local;
    sum.dilated += s.dilated;
    all += rp_span(a, b < t + 1 ? b : t + 1);
  }
  const int64_t seen = sum.initial + sum.local + sum.dilated;
  if (!all) return (rp_mask_cell){-1, '.'};
  if (!seen) return (rp_mask_cell){0, '.'};
  const double share = (double)seen / (double)all;
  if (sum.initial >= sum.local && sum.initial >= sum.dilated) return (rp_mask_cell){share, 'i'};
  return (rp_mask_cell){share, sum.local >= sum.dilated ? 'l' : 'd'};
}

static const char *colour_of(char set) {
  return set == 'i' ? "\033[33m" : set == 'l' ? "\033[36m" : set == 'd' ? "\033[35m" : "\033[2m";
}

/* Five shades, the lightest for no key, the next for any: one in D is never lost. */
static const char *shade(double share, bool utf8) {
  static const char *const ascii[] = {".", ":", "+", "*", "#"};
  static const char *const blocks[] = {"\u00b7", "\u2591", "\u2592", "\u2593", "\u2588"};
  const int k = share <= 0 ? 0 : share < 1.0 / 3 ? 1 : share < 2.0 / 3 ? 2 : share < 1 ? 3 : 4;
  return (utf8 ? blocks : ascii)[k];
}

/* One row; the colour changes only where the set does. */
static void add_row(rp_str *b, rp_pat p, int64_t T, int rows, int columns, int r, bool colours,
                    bool utf8) {
  char now = 0;
  rp_str_add(b, "  ");
  for (int c = 0; c < columns; c++) {
    const rp_mask_cell cell = rp_mask_at(p, T, rows, columns, r, c);
    if (cell.share < 0) break; /* keys to come */
    if (colours && cell.most != now) rp_str_addf(b, "\033[0m%s", colour_of(cell.most));
    now = cell.most;
    if (T <= COLUMNS)
      rp_str_addn(b, &cell.most, 1);
    else
      rp_str_add(b, shade(cell.share, utf8));
  }
  rp_str_add(b, colours ? "\033[0m\n" : "\n");
}

static void add_mask(rp_str *b, const rp_pattern_view *v, int kind, bool colours, bool utf8) {
  char text[64];
  const int64_t T = v->T;
  const int columns = T <= COLUMNS ? (int)T : COLUMNS, rows = T <= COLUMNS ? (int)T : ROWS;
  rp_kind_text(v->kind[kind], text);
  if (v->kinds > 1) rp_str_addf(b, "%c  %s\n", rp_kind_letter(kind), text);
  for (int r = 0; r < rows; r++) add_row(b, v->kind[kind], T, rows, columns, r, colours, utf8);
}

static void add_masks(rp_str *b, const rp_pattern_view *v, bool colours, bool utf8) {
  if (v->T <= COLUMNS) {
    rp_str_add(b, "\nmask, a row a query: i initial, l local, d dilated, . unseen\n");
  } else {
    rp_str_addf(b, "\nmask, %d rows of queries, %d columns of keys; seen: %s none, %s some, %s all",
                ROWS, COLUMNS, shade(0, utf8), shade(0.1, utf8), shade(1, utf8));
    rp_str_add(b, colours ? "; \033[33minitial \033[36mlocal \033[35mdilated\033[0m\n" : "\n");
  }
  for (int k = 0; k < v->kinds && k < RP_MASKS; k++) add_mask(b, v, k, colours, utf8);
  if (v->kinds > RP_MASKS) rp_str_addf(b, "and %d patterns more\n", v->kinds - RP_MASKS);
}

/* ------------------------------------------------------------------ layout */

static void add_kind(rp_str *b, int kind, bool colours) {
  const char letter = rp_kind_letter(kind);
  if (colours) rp_str_addf(b, "\033[%dm", 31 + kind % 6);
  rp_str_addn(b, &letter, 1);
  if (colours) rp_str_add(b, "\033[0m");
}

/* A letter a head; runs A*40 B*88 where they would not fit a line. */
static void add_heads(rp_str *b, const uint8_t *kind, int heads, bool colours) {
  for (int k = 0, n; k < heads; k += n) {
    for (n = 1; k + n < heads && kind[k + n] == kind[k]; n++) continue;
    if (heads > COLUMNS) {
      if (k) rp_str_add(b, " ");
      add_kind(b, kind[k], colours);
      rp_str_addf(b, "*%d", n);
    } else {
      for (int i = 0; i < n; i++) add_kind(b, kind[k], colours);
    }
  }
  rp_str_add(b, "\n");
}

static void add_legend(rp_str *b, const rp_pattern_view *v, bool colours) {
  for (int k = 0; k < v->kinds; k++) {
    char text[64];
    rp_kind_text(v->kind[k], text);
    rp_str_add(b, "  ");
    add_kind(b, k, colours);
    rp_str_addf(b, "  %-28s %d heads, the last query sees %lld keys, a cache keeps %lld\n", text,
                v->count[k], (long long)rp_pat_keys(v->kind[k], v->T - 1),
                (long long)rp_pat_cache(v->kind[k], v->T, 0));
  }
  if (v->kinds == RP_KINDS) rp_str_add(b, "  ?  every other one\n");
}

static void add_layout(rp_str *b, const rp_pattern_view *v, bool colours) {
  const int N = v->pats.layers, Hk = v->pats.kv_heads;
  const size_t row = (size_t)Hk;
  int lines = 0;
  rp_str_add(b, "\nlayout, a letter a kv head\n");
  for (int l = 0, n; l < N; l += n) {
    const uint8_t *const kind = v->kind_of + (size_t)l * row;
    for (n = 1; l + n < N && !memcmp(kind, kind + (size_t)n * row, row); n++) continue;
    if (lines++ == LINES) {
      rp_str_addf(b, "  and %d layers more\n", N - l);
      break;
    }
    if (n > 1)
      rp_str_addf(b, "  layers %4d to %-4d ", l, l + n - 1);
    else
      rp_str_addf(b, "  layer  %4d         ", l);
    add_heads(b, kind, Hk, colours);
  }
  add_legend(b, v, colours);
}

void rp_pattern_draw(rp_str *b, const rp_pattern_view *v, bool colours, bool utf8) {
  add_masks(b, v, colours, utf8);
  if (v->pats.layers > 1 || v->pats.kv_heads > 1) add_layout(b, v, colours);
}
