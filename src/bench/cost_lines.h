/* cost_lines.h - cost over T: figures that differ in T alone are one line, whose slope on
 * log-log paper is fitted; the table of slopes, and the chart. */
#ifndef RP_BENCH_COST_LINES_H
#define RP_BENCH_COST_LINES_H

#include "bench/work.h"

typedef struct {
  const rp_figure *of; /* its first figure */
  int n;
  double x[RP_WORK_MOST],
      y[RP_WORK_MOST]; /* T, rising; seconds of one sequence's prefill, or a step */
  double exponent,
      last; /* over all, and between the two longest T; NaN with fewer than two lengths */
} rp_line;

/* Slope of the least squares through (log x, log y); NaN where all x are one. */
double rp_fit_exponent(const double *x, const double *y, int n);
/* The lines of all figures, in the order of their first (free with rp_free). */
rp_status rp_lines_make(const rp_figures *all, rp_line **lines, size_t *n, rp_error *err);
/* Each line's slopes and what D=1 costs beside it, as a table or as members of a JSON object. */
void rp_lines_add(rp_str *b, const rp_line *lines, size_t n, int json);
rp_status rp_lines_svg(const rp_line *lines, size_t n, const char *title, char **svg,
                       rp_error *err);

/* What a benchmark of inference returns: the table or JSON of all figures, with slopes where its
 * kind has them, and the chart where it was asked for. m: the model that ran. */
rp_status rp_work_report(const rp_work *w, const rp_model_settings *m, const rp_figures *all,
                         const rp_limits *l, char **text, rp_error *err);

#endif
