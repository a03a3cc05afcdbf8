/* chart.h - line charts as SVG text: several named series over a number or a list of names; the
 * parts that other pictures share. Pure.
 *
 * Colours read on light and dark pages; every series has its own marker, so none rests on colour
 * alone. */
#ifndef RP_BASE_CHART_H
#define RP_BASE_CHART_H

#include "base/str.h"

typedef struct {
  const char *label;
  const double *x; /* [n]; with categories: their indices */
  const double *y; /* [n]; a point that is not finite (or not above 0 on a log axis) is left out */
  size_t n;
  bool dashed;
} rp_series;

typedef struct {
  const char *title, *x_label, *y_label;
  bool log_x, log_y;
  bool binary_x;                 /* with log_x: ticks at powers of two, "4K" */
  const char *const *categories; /* names along x; NULL: x is a number */
  size_t n_categories;
  const rp_series *series;
  size_t n;
} rp_chart;

/* The whole document (free with rp_free). RP_USAGE when no series has a point to show. */
rp_status rp_chart_svg(const rp_chart *c, char **svg, rp_error *err);

/* <svg>, the styles (text, .title, .axis, .grid) and the page; "</svg>" is the caller's. */
void rp_svg_begin(rp_str *b, int width, int height);
/* A line of text, escaped; anchor "start", "middle" or "end"; `more`: further attributes. */
void rp_svg_text(rp_str *b, double x, double y, const char *anchor, const char *more,
                 const char *text);
const char *rp_svg_colour(size_t k); /* of series k, "#1f77b4" */

#endif
