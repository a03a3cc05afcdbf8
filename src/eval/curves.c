/* curves.c - loss curves of runs as one picture. */
#include <math.h>
#include <string.h>

#include "base/chart.h"
#include "base/file.h"
#include "ratplus/eval.h"
#include "train/metrics.h"

/* The curves of one run. */
typedef struct {
  rp_metrics *m;
  size_t n;
  char *train_label, *val_label;
  double *x, *train, *val; /* [n] */
  size_t train_points, val_points;
} curve;

static void free_curve(curve *c) {
  rp_free(c->m);
  rp_free(c->train_label);
  rp_free(c->val_label);
  rp_free(c->x);
  rp_free(c->train);
  rp_free(c->val);
}

/* The last part of the path, without a slash at its end. */
static rp_status label_curve(curve *c, const char *dir, rp_error *err) {
  size_t n = strlen(dir);
  while (n > 1 && dir[n - 1] == '/') n--;
  size_t from = n;
  while (from > 0 && dir[from - 1] != '/') from--;
  rp_str a = {0}, b = {0};
  rp_str_addf(&a, "%.*s", (int)(n - from), dir + from);
  rp_str_addf(&b, "%.*s, validation", (int)(n - from), dir + from);
  c->train_label = rp_str_take(&a);
  c->val_label = rp_str_take(&b);
  return c->train_label && c->val_label ? RP_OK : rp_fail_memory(err, n, "a label");
}

static rp_status read_curve(curve *c, const char *dir, rp_error *err) {
  RP_TRY(rp_metrics_read(dir, &c->m, &c->n, err));
  if (!c->n)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: has no metrics.jsonl with a line in it; name a run "
                   "directory",
                   dir);
  RP_TRY(label_curve(c, dir, err));
  c->x = rp_malloc(c->n, sizeof *c->x);
  c->train = rp_malloc(c->n, sizeof *c->train);
  c->val = rp_malloc(c->n, sizeof *c->val);
  if (!c->x || !c->train || !c->val) return rp_fail_memory(err, 3 * c->n * 8, "a curve");
  for (size_t i = 0; i < c->n; i++) {
    c->x[i] = (double)c->m[i].step;
    c->train[i] = c->m[i].train_loss;
    c->val[i] = c->m[i].val_loss;
    c->train_points += isfinite(c->train[i]);
    c->val_points += isfinite(c->val[i]);
  }
  return RP_OK;
}

rp_status rp_runs_svg(const char *const *dirs, size_t n, char **svg, rp_error *err) {
  rp_status st = RP_OK;
  curve *all = rp_calloc(n ? n : 1, sizeof *all);
  rp_series *series = rp_calloc(2 * n + 1, sizeof *series);
  size_t used = 0;
  *svg = NULL;
  if (!all || !series) RP_GO(rp_fail_memory(err, n * sizeof *all, "curves"));
  for (size_t i = 0; i < n; i++) {
    curve *c = &all[i];
    RP_GO(read_curve(c, dirs[i], err));
    if (c->train_points)
      series[used++] = (rp_series){.label = c->train_label, .x = c->x, .y = c->train, .n = c->n};
    if (c->val_points)
      series[used++] =
          (rp_series){.label = c->val_label, .x = c->x, .y = c->val, .n = c->n, .dashed = true};
  }
  const rp_chart chart = {
      .title = "Loss", .x_label = "step", .y_label = "loss", .series = series, .n = used};
  st = rp_chart_svg(&chart, svg, err);
fail:
  for (size_t i = 0; all && i < n; i++) free_curve(&all[i]);
  rp_free(all);
  rp_free(series);
  return st;
}
