/* chart.c - layout of a line chart: one plot area, axes with round ticks, a legend on the right. */
#include "base/chart.h"

#include <math.h>
#include <string.h>

enum { PLOT = 568, HEIGHT = 460, LEFT = 92, RIGHT = 216, TOP = 52, BOTTOM = 62, TICKS = 6 };

/* One axis: values low..high (their logarithms on a log axis) to pixels. */
typedef struct {
  double low, high, from, to;
  bool log;
} axis;

static const char *const colours[] = {"#1f77b4", "#d95f02", "#1b9e77", "#b3368c",
                                      "#7a6a00", "#5c5cc0", "#c0392b", "#4d7a8a"};
enum { COLOURS = sizeof colours / sizeof *colours };

static double scaled(const axis *a, double v) { return a->log ? log10(v) : v; }

static double pixel(const axis *a, double v) {
  return a->from + (scaled(a, v) - a->low) / (a->high - a->low) * (a->to - a->from);
}

static bool shown(const rp_chart *c, const rp_series *s, size_t i) {
  return isfinite(s->x[i]) && isfinite(s->y[i]) && (!c->log_y || s->y[i] > 0) &&
         (!c->log_x || c->categories || s->x[i] > 0);
}

static void widen(axis *a, double v) {
  const double s = scaled(a, v);
  if (s < a->low) a->low = s;
  if (s > a->high) a->high = s;
}

/* A little air at both ends, and some height for a constant. */
static void settle(axis *a, double air) {
  double span = a->high - a->low;
  if (span <= 1e-12 * (fabs(a->high) + 1)) span = a->log ? 1 : fabs(a->high) * 0.2 + 0.1;
  const double mid = (a->high + a->low) / 2;
  a->low = mid - span * (0.5 + air);
  a->high = mid + span * (0.5 + air);
}

static bool find_axes(const rp_chart *c, axis *x, axis *y) {
  size_t points = 0;
  *x = (axis){INFINITY, -INFINITY, LEFT, LEFT + PLOT, c->log_x && !c->categories};
  *y = (axis){INFINITY, -INFINITY, HEIGHT - BOTTOM, TOP, c->log_y};
  for (size_t k = 0; k < c->n; k++) {
    for (size_t i = 0; i < c->series[k].n; i++) {
      if (!shown(c, &c->series[k], i)) continue;
      widen(x, c->series[k].x[i]);
      widen(y, c->series[k].y[i]);
      points++;
    }
  }
  if (!points) return false;
  if (c->categories) {
    x->low = -0.4;
    x->high = (double)c->n_categories - 0.6;
  } else {
    settle(x, 0.02);
  }
  settle(y, 0.06);
  return true;
}

const char *rp_svg_colour(size_t k) { return colours[k % COLOURS]; }

void rp_svg_text(rp_str *b, double x, double y, const char *anchor, const char *more,
                 const char *text) {
  rp_str_addf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>", x, y, anchor, more);
  for (const char *s = text; *s; s++) {
    if (*s == '<') {
      rp_str_add(b, "&lt;");
    } else if (*s == '&') {
      rp_str_add(b, "&amp;");
    } else if ((unsigned char)*s >= 0x20) {
      rp_str_addn(b, s, 1);
    }
  }
  rp_str_add(b, "</text>\n");
}

static void add_named_tick(rp_str *b, const axis *a, double value, const char *text, bool across) {
  const double at = pixel(a, value);
  if (across) {
    rp_str_addf(b, "<path class=\"grid\" d=\"M%d %.1fH%d\"/>\n", LEFT, at, LEFT + PLOT);
    rp_svg_text(b, LEFT - 8, at + 4, "end", "", text);
  } else {
    rp_str_addf(b, "<path class=\"grid\" d=\"M%.1f %dV%d\"/>\n", at, TOP, HEIGHT - BOTTOM);
    rp_svg_text(b, at, HEIGHT - BOTTOM + 18, "middle", "", text);
  }
}

static void add_tick(rp_str *b, const axis *a, double value, bool across) {
  char text[32];
  rp_snprintf(text, sizeof text, "%.7g", value);
  add_named_tick(b, a, value, text, across);
}

/* Powers of two, at most some dozen of them: "512", "4K", "1M". */
static void binary_ticks(rp_str *b, const axis *x) {
  static const char *const units[] = {"", "K", "M", "G"};
  const double low = x->low / log10(2), high = x->high / log10(2);
  const int stride = (int)ceil((high - low) / (2 * TICKS));
  for (int k = (int)ceil(low); k <= high && k < 40; k += stride) {
    char text[32];
    const int unit = k < 0 ? 0 : k / 10;
    rp_snprintf(text, sizeof text, "%g%s", ldexp(1, k - 10 * unit), units[unit]);
    add_named_tick(b, x, ldexp(1, k), text, false);
  }
}

/* Steps of 1, 2 or 5 times a power of ten between two values. */
static void even_ticks(rp_str *b, const axis *a, double low, double high, bool across) {
  const double raw = (high - low) / TICKS, power = pow(10, floor(log10(raw)));
  const double step = raw <= power       ? power
                      : raw <= 2 * power ? 2 * power
                      : raw <= 5 * power ? 5 * power
                                         : 10 * power;
  for (double k = ceil(low / step); k * step <= high; k++) add_tick(b, a, k * step, across);
}

static void linear_ticks(rp_str *b, const axis *a, bool across) {
  even_ticks(b, a, a->low, a->high, across);
}

/* Less than a decade: even steps; a few: 1, 2 and 5 of each; many: powers of ten alone. */
static void log_ticks(rp_str *b, const axis *a, bool across) {
  static const double in_decade[] = {1, 2, 5};
  const double span = a->high - a->low;
  if (span < 1) {
    even_ticks(b, a, pow(10, a->low), pow(10, a->high), across);
    return;
  }
  const int each = span < 2.5 ? 3 : 1;
  const double stride = each == 3 ? 1 : ceil(span / (2 * TICKS));
  for (double k = floor(a->low); k <= a->high; k += stride) {
    for (int i = 0; i < each; i++) {
      const double v = in_decade[i] * pow(10, k);
      if (log10(v) >= a->low && log10(v) <= a->high) add_tick(b, a, v, across);
    }
  }
}

static void add_axes(rp_str *b, const rp_chart *c, const axis *x, const axis *y) {
  (y->log ? log_ticks : linear_ticks)(b, y, true);
  if (c->categories) {
    for (size_t i = 0; i < c->n_categories; i++)
      rp_svg_text(b, pixel(x, (double)i), HEIGHT - BOTTOM + 18, "middle", "", c->categories[i]);
  } else if (x->log && c->binary_x) {
    binary_ticks(b, x);
  } else {
    (x->log ? log_ticks : linear_ticks)(b, x, false);
  }
  rp_str_addf(b, "<path class=\"axis\" d=\"M%d %dV%dH%d\"/>\n", LEFT, TOP, HEIGHT - BOTTOM,
              LEFT + PLOT);
  rp_svg_text(b, LEFT + PLOT / 2.0, HEIGHT - 18, "middle", "", c->x_label);
  char turn[64];
  const double middle = (TOP + HEIGHT - BOTTOM) / 2.0;
  rp_snprintf(turn, sizeof turn, " transform=\"rotate(-90 18 %.1f)\"", middle);
  rp_svg_text(b, 18, middle, "middle", turn, c->y_label);
  rp_svg_text(b, LEFT, 28, "start", " class=\"title\"", c->title);
}

static void add_marker(rp_str *b, size_t k, double x, double y) {
  const char *colour = colours[k % COLOURS];
  switch (k % 4) {
    case 0:
      rp_str_addf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n", x, y, colour);
      break;
    case 1:
      rp_str_addf(b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\" fill=\"%s\"/>\n", x - 4,
                  y - 4, colour);
      break;
    case 2:
      rp_str_addf(b, "<path d=\"M%.1f %.1fl5 9h-10z\" fill=\"%s\"/>\n", x, y - 5, colour);
      break;
    default:
      rp_str_addf(b, "<path d=\"M%.1f %.1fl5 5l-5 5l-5 -5z\" fill=\"%s\"/>\n", x, y - 5, colour);
  }
}

/* Markers crowd a long curve, so only short series get them at every point. */
enum { MARKED = 40 };

static void add_series(rp_str *b, const rp_chart *c, size_t k, const axis *x, const axis *y) {
  const rp_series *s = &c->series[k];
  bool pen = false;
  rp_str_addf(b, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s d=\"",
              colours[k % COLOURS], s->dashed ? " stroke-dasharray=\"6 4\"" : "");
  for (size_t i = 0; i < s->n; i++) {
    if (!shown(c, s, i)) continue;
    rp_str_addf(b, "%c%.1f %.1f", pen ? 'L' : 'M', pixel(x, s->x[i]), pixel(y, s->y[i]));
    pen = true;
  }
  rp_str_add(b, "\"/>\n");
  for (size_t i = 0; s->n <= MARKED && i < s->n; i++)
    if (shown(c, s, i)) add_marker(b, k, pixel(x, s->x[i]), pixel(y, s->y[i]));
  const double row = TOP + 14 + 24.0 * (double)k, left = LEFT + PLOT + 18;
  rp_str_addf(b, "<path stroke=\"%s\" stroke-width=\"2\"%s d=\"M%.1f %.1fh26\"/>\n",
              colours[k % COLOURS], s->dashed ? " stroke-dasharray=\"6 4\"" : "", left, row);
  add_marker(b, k, left + 13, row);
  rp_svg_text(b, left + 34, row + 4, "start", "", s->label);
}

void rp_svg_begin(rp_str *b, int width, int height) {
  rp_str_addf(b,
              "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
              "height=\"%d\">\n<style>\n"
              "text { font: 13px sans-serif; fill: #222 } .title { font-size: 16px; font-weight: "
              "bold }\n.page { fill: #fff } .axis { stroke: #444; fill: none } .grid { stroke: "
              "#bbb; stroke-opacity: .5; fill: none }\n"
              "@media (prefers-color-scheme: dark) { text { fill: #ddd } .page { fill: #16181c } "
              ".axis { stroke: #aaa } .grid { stroke: #555 } }\n</style>\n"
              "<rect class=\"page\" width=\"%d\" height=\"%d\"/>\n",
              width, height, width, height, width, height);
}

/* Width of the legend: labels of more than some 22 letters make the chart wider. */
static int legend(const rp_chart *c) {
  size_t longest = 0;
  for (size_t k = 0; k < c->n; k++)
    if (strlen(c->series[k].label) > longest) longest = strlen(c->series[k].label);
  const int wanted = 60 + 7 * (int)(longest < 60 ? longest : 60);
  return wanted > RIGHT ? wanted : RIGHT;
}

rp_status rp_chart_svg(const rp_chart *c, char **svg, rp_error *err) {
  axis x, y;
  rp_str b = {0};
  if (!find_axes(c, &x, &y))
    return rp_fail(err, RP_USAGE, "a chart without a single point; measure something first");
  rp_svg_begin(&b, LEFT + PLOT + legend(c), HEIGHT);
  add_axes(&b, c, &x, &y);
  for (size_t k = 0; k < c->n; k++) add_series(&b, c, k, &x, &y);
  rp_str_add(&b, "</svg>\n");
  *svg = rp_str_take(&b);
  return *svg ? RP_OK : rp_fail_memory(err, 65536, "a chart");
}
