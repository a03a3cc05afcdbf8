/* pattern_svg.c - a pattern as a picture: masks side by side, below them which layer and head has
 * which. */
#include "base/chart.h"
#include "model/pattern_view.h"

enum {
  MARGIN = 30,
  SIDE = 250,  /* of a mask */
  CELLS = 125, /* along it at most: two pixels each */
  GRID_WIDE = 800,
  GRID_HIGH = 480,
  CELL = 18, /* of the layout at most */
  LEGEND = 22
};
#define WIDTH (2 * MARGIN + 3 * SIDE + 2 * 25)

/* Colours of the three sets, and of what is unseen, as the series of charts have them. */
static const char *set_colour(char set) {
  return set == 'i' ? rp_svg_colour(1) : set == 'l' ? rp_svg_colour(0) : rp_svg_colour(2);
}

/* Cells of one look are one path: set and step of opacity, 0 where nothing is seen. */
enum { STEPS = 8, LOOKS = 3 * STEPS + 1 };

static int look_of(rp_mask_cell cell) {
  const int set = cell.most == 'i' ? 0 : cell.most == 'l' ? 1 : 2;
  return cell.share <= 0 ? 0 : 1 + set * STEPS + (int)(cell.share * (STEPS - 1));
}

/* The runs of one look along the rows, in cells. */
static void add_look(rp_str *b, const uint8_t *looks, int n, int look) {
  rp_str_addf(b, "<path fill=\"%s\" fill-opacity=\"%.1f\" d=\"",
              set_colour("ild"[(look - 1) / STEPS]), 0.3 + 0.1 * ((look - 1) % STEPS));
  for (int r = 0; r < n; r++) {
    for (int c = 0, run; c <= r; c += run) {
      for (run = 1; c + run <= r && looks[r * n + c + run] == looks[r * n + c]; run++) continue;
      if (looks[r * n + c] == look) rp_str_addf(b, "M%d %dh%dv1h-%dz", c, r, run, run);
    }
  }
  rp_str_add(b, "\"/>\n");
}

static void add_mask(rp_str *b, const rp_pattern_view *v, int kind, double left, double top) {
  char text[72], name[64];
  uint8_t looks[CELLS * CELLS];
  bool used[LOOKS] = {false};
  const int n = v->T < CELLS ? (int)v->T : CELLS;
  for (int r = 0; r < n; r++) {
    for (int c = 0; c <= r; c++) {
      looks[r * n + c] = (uint8_t)look_of(rp_mask_at(v->kind[kind], v->T, n, n, r, c));
      used[looks[r * n + c]] = true;
    }
  }
  rp_str_addf(b, "<path class=\"grid\" d=\"M%.1f %.1fh%dv%dh-%dzl%d %d\"/>\n", left, top, SIDE,
              SIDE, SIDE, SIDE, SIDE);
  rp_str_addf(b, "<g transform=\"translate(%.1f %.1f) scale(%.4f)\">\n", left, top,
              (double)SIDE / n);
  for (int look = 1; look < LOOKS; look++)
    if (used[look]) add_look(b, looks, n, look);
  rp_str_add(b, "</g>\n");
  rp_kind_text(v->kind[kind], name);
  rp_snprintf(text, sizeof text, "%c: %s", rp_kind_letter(kind), name);
  rp_svg_text(b, left, top - 8, "start", "", v->kinds > 1 ? text : name);
}

static void add_sets(rp_str *b, double top) {
  static const struct {
    char set;
    const char *name;
  } sets[] = {{'i', "initial"}, {'l', "local"}, {'d', "dilated"}};
  for (int i = 0; i < 3; i++) {
    const double x = MARGIN + 110.0 * i;
    rp_str_addf(b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"14\" height=\"14\" fill=\"%s\"/>\n", x, top,
                set_colour(sets[i].set));
    rp_svg_text(b, x + 20, top + 12, "start", "", sets[i].name);
  }
  rp_svg_text(b, MARGIN + 330, top + 12, "start", "",
              "rows are queries, columns keys; pale: only some of a cell");
}

/* Sizes of the layout's cells: square where there is room. */
static void grid_cell(const rp_pattern_view *v, double *wide, double *high) {
  *wide = (double)GRID_WIDE / v->pats.kv_heads;
  *high = (double)GRID_HIGH / v->pats.layers;
  if (*wide > CELL) *wide = CELL;
  if (*high > CELL) *high = CELL;
}

static void add_cell(rp_str *b, int kind, double x, double y, double wide, double high, int run) {
  const char letter[2] = {rp_kind_letter(kind), 0};
  const char *colour = kind == RP_KIND_OTHERS ? "#888" : rp_svg_colour((size_t)kind);
  rp_str_addf(b,
              "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\" "
              "fill-opacity=\".5\"/>\n",
              x, y, wide * run, high, colour);
  if (high >= 12) rp_svg_text(b, x + wide * run / 2, y + high / 2 + 5, "middle", "", letter);
}

static void add_grid(rp_str *b, const rp_pattern_view *v, double top) {
  const int N = v->pats.layers, Hk = v->pats.kv_heads;
  double wide, high;
  grid_cell(v, &wide, &high);
  rp_svg_text(b, MARGIN, top - 8, "start", "", "rows are layers, columns kv heads");
  for (int l = 0; l < N; l++) {
    const uint8_t *kind = v->kind_of + (size_t)l * (size_t)Hk;
    for (int k = 0, run; k < Hk; k += run) {
      for (run = 1; k + run < Hk && kind[k + run] == kind[k]; run++) continue;
      add_cell(b, kind[k], MARGIN + k * wide, top + l * high, wide, high, run);
    }
  }
}

static void add_legend(rp_str *b, const rp_pattern_view *v, int shown, double top) {
  for (int k = 0; k < shown; k++, top += LEGEND) {
    char name[64], text[200];
    rp_kind_text(v->kind[k], name);
    add_cell(b, k, MARGIN, top, 16, 16, 1);
    rp_snprintf(text, sizeof text,
                "%s: %d heads; of %lld tokens the last query sees %lld keys, a cache keeps %lld",
                name, v->count[k], (long long)v->T, (long long)rp_pat_keys(v->kind[k], v->T - 1),
                (long long)rp_pat_cache(v->kind[k], v->T, 0));
    rp_svg_text(b, MARGIN + 26, top + 13, "start", "", text);
  }
  if (shown < v->kinds) rp_svg_text(b, MARGIN, top + 13, "start", "", "and others");
}

void rp_pattern_svg(rp_str *b, const rp_pattern_view *v) {
  enum { LEGENDS = 16, TOP = 84, SETS = TOP + SIDE + 14, GRID = SETS + 64 };
  const int masks = v->kinds < RP_MASKS ? v->kinds : RP_MASKS;
  const int shown = v->kinds < LEGENDS ? v->kinds : LEGENDS;
  double wide, high;
  char title[160];
  grid_cell(v, &wide, &high);
  const double below = GRID + high * v->pats.layers + 20;
  rp_svg_begin(b, WIDTH, (int)below + LEGEND * (shown + 1) + MARGIN);
  rp_snprintf(title, sizeof title, "%.100s over %lld tokens", v->name, (long long)v->T);
  rp_svg_text(b, MARGIN, 34, "start", " class=\"title\"", title);
  for (int k = 0; k < masks; k++) add_mask(b, v, k, MARGIN + k * (SIDE + 25.0), TOP);
  add_sets(b, SETS);
  add_grid(b, v, GRID);
  add_legend(b, v, shown, below);
  rp_str_add(b, "</svg>\n");
}
