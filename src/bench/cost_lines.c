#include "bench/cost_lines.h"

#include <math.h>
#include <string.h>

#include "base/chart.h"
#include "base/json.h"

/* ---- lines ---- */

double rp_fit_exponent(const double *x, const double *y, int n) {
  double mx = 0, my = 0, xx = 0, xy = 0;
  for (int i = 0; i < n; i++) {
    mx += log(x[i]) / n;
    my += log(y[i]) / n;
  }
  for (int i = 0; i < n; i++) {
    const double a = log(x[i]) - mx;
    xx += a * a;
    xy += a * (log(y[i]) - my);
  }
  return xx > 1e-12 ? xy / xx : NAN;
}

/* A prefill is counted per sequence, so its batch makes no other line. */
static bool same_line(const rp_figure *a, const rp_figure *b) {
  return a->work == b->work && a->decode == b->decode && a->dtype == b->dtype &&
         strcmp(a->pattern, b->pattern) == 0 && (!a->decode || a->batch == b->batch);
}

static void add_point(rp_line *l, const rp_figure *f) {
  const double x = (double)f->T, y = f->decode ? f->seconds : f->seconds / (double)f->batch;
  int i = l->n;
  if (l->n == RP_WORK_MOST) return;
  for (l->n++; i > 0 && l->x[i - 1] > x; i--) {
    l->x[i] = l->x[i - 1];
    l->y[i] = l->y[i - 1];
  }
  l->x[i] = x;
  l->y[i] = y;
}

rp_status rp_lines_make(const rp_figures *all, rp_line **lines, size_t *n, rp_error *err) {
  *n = 0;
  *lines = rp_calloc(all->n + 1, sizeof **lines);
  if (!*lines) return rp_fail_memory(err, all->n * sizeof **lines, "lines of cost");
  for (size_t i = 0; i < all->n; i++) {
    size_t k = 0;
    while (k < *n && !same_line((*lines)[k].of, &all->at[i])) k++;
    if (k == *n) (*lines)[(*n)++].of = &all->at[i];
    add_point(&(*lines)[k], &all->at[i]);
  }
  for (size_t k = 0; k < *n; k++) {
    rp_line *l = &(*lines)[k];
    l->exponent = rp_fit_exponent(l->x, l->y, l->n);
    l->last = l->n > 1 ? rp_fit_exponent(l->x + l->n - 2, l->y + l->n - 2, 2) : NAN;
  }
  return RP_OK;
}

/* How many times l's cost at its longest T a line of D=1 has there; NaN: there is none. */
static double dense_over(const rp_line *lines, size_t n, const rp_line *l) {
  for (size_t k = 0; k < n; k++) {
    rp_figure as = *l->of;
    rp_snprintf(as.pattern, sizeof as.pattern, "D=1");
    if (!same_line(lines[k].of, &as)) continue;
    for (int i = 0; i < lines[k].n; i++)
      if (lines[k].x[i] == l->x[l->n - 1]) return lines[k].y[i] / l->y[l->n - 1];
  }
  return NAN;
}

/* ---- the table ---- */

/* "1.93", or "-". */
static const char *number(char out[16], double x) {
  if (isfinite(x))
    rp_snprintf(out, 16, "%.2f", x);
  else
    rp_snprintf(out, 16, "-");
  return out;
}

static void add_text(rp_str *b, const rp_line *lines, size_t n) {
  rp_str_add(b,
             "cost ~ T^e: e by least squares over all lengths, and between the two longest\n"
             "work     dtype     pattern       batch  lengths      e  longest        T           ms"
             "  D=1 / it\n");
  for (size_t k = 0; k < n; k++) {
    const rp_line *l = &lines[k];
    char all[16], last[16], dense[16];
    rp_str_addf(b, "%-8s %-9s %-12s %6lld %8d %6s %8s %8.0f %12.3f %9s\n", rp_figure_work(l->of),
                rp_dtype_name(l->of->dtype), l->of->pattern,
                (long long)(l->of->decode ? l->of->batch : 1), l->n, number(all, l->exponent),
                number(last, l->last), l->x[l->n - 1], l->y[l->n - 1] * 1e3,
                number(dense, dense_over(lines, n, l)));
  }
}

static void add_member(rp_str *b, const char *name, double x) {
  if (isfinite(x)) rp_str_addf(b, ",\"%s\":%.6g", name, x);
}

static void add_json(rp_str *b, const rp_line *lines, size_t n) {
  rp_str_add(b, "\"curves\":[");
  for (size_t k = 0; k < n; k++) {
    const rp_line *l = &lines[k];
    rp_str_addf(b, "%s{\"work\":\"%s\",\"dtype\":\"%s\",\"pattern\":", k ? "," : "",
                rp_figure_work(l->of), rp_dtype_name(l->of->dtype));
    rp_json_add_string(b, l->of->pattern);
    rp_str_addf(b, ",\"batch\":%lld,\"lengths\":%d", (long long)(l->of->decode ? l->of->batch : 1),
                l->n);
    add_member(b, "exponent", l->exponent);
    add_member(b, "last_exponent", l->last);
    rp_str_addf(b, ",\"longest\":%.0f,\"seconds\":%.6g", l->x[l->n - 1], l->y[l->n - 1]);
    add_member(b, "dense_over_it", dense_over(lines, n, l));
    rp_str_add(b, "}");
  }
  rp_str_add(b, "]");
}

void rp_lines_add(rp_str *b, const rp_line *lines, size_t n, int json) {
  (json ? add_json : add_text)(b, lines, n);
}

/* ---- the chart ---- */

enum { LABEL = 112 };

/* "bfloat16 D=16,W=256 x8: T^1.21", with what tells the lines apart. */
static void label(char out[LABEL], const rp_line *lines, size_t n, const rp_line *l) {
  bool works = false, types = false, batches = false;
  char dtype[24] = "", work[24] = "", batch[24] = "", slope[24] = "";
  for (size_t k = 0; k < n; k++) {
    works |= lines[k].of->work != l->of->work;
    types |= lines[k].of->dtype != l->of->dtype;
    batches |= lines[k].of->decode && l->of->decode && lines[k].of->batch != l->of->batch;
  }
  if (works) rp_snprintf(work, sizeof work, "%s ", rp_figure_work(l->of));
  if (types) rp_snprintf(dtype, sizeof dtype, "%s ", rp_dtype_name(l->of->dtype));
  if (batches) rp_snprintf(batch, sizeof batch, " x%lld", (long long)l->of->batch);
  if (isfinite(l->exponent)) rp_snprintf(slope, sizeof slope, ": T^%.2f", l->exponent);
  rp_snprintf(out, LABEL, "%s%s%.56s%s%s", work, dtype, l->of->pattern, batch, slope);
}

static const char *what_costs(const rp_line *lines, size_t n) {
  bool prefill = false, decode = false;
  for (size_t k = 0; k < n; k++) *(lines[k].of->decode ? &decode : &prefill) = true;
  if (prefill && decode) return "ms: a sequence's prefill (solid), a step (dashed)";
  return decode ? "ms of a step of decoding" : "ms of one sequence";
}

rp_status rp_lines_svg(const rp_line *lines, size_t n, const char *title, char **svg,
                       rp_error *err) {
  rp_status st = RP_OK;
  rp_series *s = rp_calloc(n + 1, sizeof *s);
  char(*labels)[LABEL] = rp_calloc(n + 1, sizeof *labels);
  double(*ms)[RP_WORK_MOST] = rp_calloc(n + 1, sizeof *ms);
  if (!s || !labels || !ms) RP_GO(rp_fail_memory(err, n * (sizeof *s + sizeof *ms), "a chart"));
  for (size_t k = 0; k < n; k++) {
    const rp_line *l = &lines[k];
    for (int i = 0; i < l->n; i++) ms[k][i] = l->y[i] * 1e3;
    label(labels[k], lines, n, l);
    s[k] = (rp_series){
        .label = labels[k], .x = l->x, .y = ms[k], .n = (size_t)l->n, .dashed = l->of->decode};
  }
  const rp_chart c = {.title = title,
                      .x_label = "T",
                      .y_label = what_costs(lines, n),
                      .log_x = true,
                      .log_y = true,
                      .binary_x = true,
                      .series = s,
                      .n = n};
  st = rp_chart_svg(&c, svg, err);
fail:
  rp_free(s);
  rp_free(labels);
  rp_free(ms);
  return st;
}

/* ---- the report ---- */

rp_status rp_work_report(const rp_work *w, const rp_model_settings *m, const rp_figures *all,
                         const rp_limits *l, char **text, rp_error *err) {
  rp_status st = RP_OK;
  rp_line *lines = NULL;
  size_t n = 0;
  rp_str slopes = {0};
  char *head = rp_work_head(w, m), *title = rp_work_title(w, m);
  if (!head || !title) RP_GO(rp_fail_memory(err, 512, "the benchmark's table"));
  RP_GO(rp_lines_make(all, &lines, &n, err));
  if (w->kind->slopes) rp_lines_add(&slopes, lines, n, w->o.json);
  if (slopes.failed) RP_GO(rp_fail_memory(err, 4096, "the benchmark's table"));
  RP_GO(rp_figures_report(all, l, head, slopes.s, w->o.json, text, err));
  if (w->o.svg) RP_GO(rp_lines_svg(lines, n, title, w->o.svg, err));
fail:
  rp_str_free(&slopes);
  rp_free(lines);
  rp_free(title);
  rp_free(head);
  return st;
}
