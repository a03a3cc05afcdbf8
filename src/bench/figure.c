#include "bench/figure.h"

#include <stdarg.h>

#include "base/json.h"
#include "base/log.h"
#include "ops/rate.h"

/* Whoever gives little time gets a rough answer: a smaller product, and not twice. */
rp_status rp_limits_measure(rp_limits *l, rp_device *d, rp_dtype dtype, double seconds,
                            rp_error *err) {
  double product, read, copy;
  double *best = &l->product[dtype == RP_BF16];
  const bool rough = seconds < RP_RATE_ROUGH;
  if (rough && *best > 0) return RP_OK;
  RP_TRY(rp_product_rate(d, dtype, seconds, &product, err));
  RP_TRY(rp_memory_rate(d, seconds, &read, &copy, err));
  if (product > *best) *best = product;
  if (read > l->read) l->read = read;
  if (copy > l->copy) l->copy = copy;
  return RP_OK;
}

const char *rp_figure_work(const rp_figure *f) {
  return f->work ? f->work : f->decode ? "decode" : "prefill";
}

double rp_figure_limit(const rp_figure *f, const rp_limits *l) {
  const double product = f->flops / l->product[f->dtype == RP_BF16], read = f->bytes / l->read;
  return product > read ? product : read;
}

static bool by_memory(const rp_figure *f, const rp_limits *l) {
  return f->bytes / l->read > f->flops / l->product[f->dtype == RP_BF16];
}

rp_status rp_figures_add(rp_figures *all, const rp_figure *f, rp_error *err) {
  RP_TRY(rp_grow(&all->at, &all->cap, all->n + 1, sizeof *all->at, "figures", err));
  all->at[all->n++] = *f;
  return RP_OK;
}

rp_status rp_figures_note(rp_figures *all, rp_error *err, const char *fmt, ...) {
  rp_str b = {0};
  va_list ap;
  RP_TRY(rp_grow(&all->note, &all->notes_cap, all->notes + 1, sizeof *all->note, "notes", err));
  va_start(ap, fmt);
  rp_str_vaddf(&b, fmt, ap);
  va_end(ap);
  char *text = rp_str_take(&b);
  if (!text) return rp_fail_memory(err, 256, "a note");
  all->note[all->notes++] = text;
  return RP_OK;
}

void rp_figures_free(rp_figures *all) {
  for (size_t i = 0; i < all->notes; i++) rp_free(all->note[i]);
  rp_free(all->note);
  rp_free(all->at);
  *all = (rp_figures){0};
}

rp_status rp_figure_time(rp_figure *f, rp_timed run, void *ctx, double seconds, int most,
                         rp_error *err) {
  double took[RP_FIGURE_RUNS];
  const double from = rp_now();
  int n = 0;
  if (most > RP_FIGURE_RUNS) most = RP_FIGURE_RUNS;
  for (bool done = false; n < most && !done && (n == 0 || rp_now() - from < seconds); n++)
    RP_TRY(run(ctx, &took[n], &done, err));
  f->seconds = rp_median(took, n); /* sorts */
  f->least = took[0];
  f->most = took[n - 1];
  f->runs = n;
  return RP_OK;
}

/* ---- the report ---- */

static void add_head(rp_str *b, const rp_limits *l) {
  rp_str_add(b, "limits: products");
  for (int i = 0; i < 2; i++)
    if (l->product[i] > 0)
      rp_str_addf(b, " %.1f GFLOP/s %s,", l->product[i] * 1e-9,
                  rp_dtype_name(i ? RP_BF16 : RP_F32));
  rp_str_addf(b, " memory read %.1f GB/s\n", l->read * 1e-9);
  rp_str_add(b,
             "work     dtype     pattern           T  batch   tokens/s         ms  least..most ms"
             "      cache   share of\n");
}

static void add_line(rp_str *b, const rp_figure *f, const rp_limits *l) {
  char cache[32], attend[48] = "";
  rp_format_bytes(cache, f->cache);
  if (f->attend > 0) rp_snprintf(attend, sizeof attend, ", attend %.3f ms", f->attend * 1e3);
  rp_str_addf(b, "%-8s %-9s %-12s %6lld %6lld %10.1f %10.3f %7.4g..%-7.4g %11s %5.1f%% %s%s%s\n",
              rp_figure_work(f), rp_dtype_name(f->dtype), f->pattern, (long long)f->T,
              (long long)f->batch, f->tokens / f->seconds, f->seconds * 1e3, f->least * 1e3,
              f->most * 1e3, f->cache > 0 ? cache : "-", 100 * rp_figure_limit(f, l) / f->seconds,
              by_memory(f, l) ? "memory" : "products", f->one_head ? " (one head)" : "", attend);
}

static void add_json(rp_str *b, const rp_figure *f, const rp_limits *l) {
  rp_str_addf(b, "{\"work\":\"%s\",\"dtype\":\"%s\",\"pattern\":", rp_figure_work(f),
              rp_dtype_name(f->dtype));
  rp_json_add_string(b, f->pattern);
  rp_str_addf(b,
              ",\"seq_len\":%lld,\"batch\":%lld,\"one_head\":%s,\"tokens_per_second\":%.6g,"
              "\"seconds\":%.6g,\"least\":%.6g,\"most\":%.6g,\"runs\":%d,\"flops\":%.17g,"
              "\"bytes\":%.17g,\"cache_bytes\":%.17g,\"limit_seconds\":%.6g,\"limit\":\"%s\","
              "\"share\":%.4g",
              (long long)f->T, (long long)f->batch, f->one_head ? "true" : "false",
              f->tokens / f->seconds, f->seconds, f->least, f->most, f->runs, f->flops, f->bytes,
              f->cache, rp_figure_limit(f, l), by_memory(f, l) ? "memory" : "products",
              rp_figure_limit(f, l) / f->seconds);
  if (f->attend > 0) rp_str_addf(b, ",\"attend_seconds\":%.6g", f->attend);
  rp_str_add(b, "}");
}

static void add_all_json(rp_str *b, const rp_figures *all, const rp_limits *l, const char *head,
                         const char *more) {
  rp_str_addf(b, "{%s", head);
  for (int i = 0; i < 2; i++)
    if (l->product[i] > 0)
      rp_str_addf(b, ",\"product_%s\":%.6g", rp_dtype_name(i ? RP_BF16 : RP_F32), l->product[i]);
  rp_str_addf(b, ",\"memory_read\":%.6g,\"cases\":[", l->read);
  for (size_t i = 0; i < all->n; i++) {
    if (i) rp_str_add(b, ",");
    add_json(b, &all->at[i], l);
  }
  rp_str_addf(b, "]%s%s,\"left_out\":[", more ? "," : "", more ? more : "");
  for (size_t i = 0; i < all->notes; i++) {
    if (i) rp_str_add(b, ",");
    rp_json_add_string(b, all->note[i]);
  }
  rp_str_add(b, "]}\n");
}

rp_status rp_figures_report(const rp_figures *all, const rp_limits *l, const char *head,
                            const char *more, int json, char **text, rp_error *err) {
  rp_str b = {0};
  if (json) {
    add_all_json(&b, all, l, head, more);
  } else {
    rp_str_addf(&b, "%s\n", head);
    add_head(&b, l);
    for (size_t i = 0; i < all->n; i++) add_line(&b, &all->at[i], l);
    if (more) rp_str_add(&b, more);
    for (size_t i = 0; i < all->notes; i++) rp_str_addf(&b, "%s\n", all->note[i]);
  }
  *text = rp_str_take(&b);
  return *text ? RP_OK : rp_fail_memory(err, 4096, "the benchmark's table");
}

/* The op that takes the most time of those not yet told; -1: none. */
static int longest(const rp_op_times *t, const bool *told) {
  int most = -1;
  for (int i = 0; i < RP_OP_COUNT; i++)
    if (!told[i] && t->count[i] && (most < 0 || t->seconds[i] > t->seconds[most])) most = i;
  return most;
}

void rp_figure_ops(rp_str *b, const rp_op_times *t, int runs, double seconds, double rate,
                   const char *name, ...) {
  bool told[RP_OP_COUNT] = {false};
  char text[96];
  va_list ap;
  va_start(ap, name);
  rp_vsnprintf(text, sizeof text, name, ap);
  va_end(ap);
  rp_str_addf(b, "\n%-34s calls        ms   share\n", text);
  for (int i; (i = longest(t, told)) >= 0; told[i] = true) {
    const double s = t->seconds[i] / runs;
    rp_str_addf(b, "  %-30s %7.0f %9.2f %6.1f%%", rp_op_name((rp_op)i), (double)t->count[i] / runs,
                1e3 * s, 100 * s / seconds);
    if (i == RP_OP_gemm)
      rp_str_addf(b, "  %.1f%% of products, %.1f GB/s", 100 * t->product / runs / s / rate,
                  1e-9 * t->moved / runs / s);
    rp_str_add(b, "\n");
  }
}
