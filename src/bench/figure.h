/* figure.h - what the benchmarks of inference share: the machine's limits, figures that stand
 * against them, the notes on what was left out, and the table or JSON of all.
 *
 * A figure is the median time of one piece of work whose FLOPs and bytes were counted from its
 * shape and pattern (model/cost.h). Its limit is the larger of FLOPs at the product rate and
 * bytes at the memory read rate, both measured in the same run. One thread's. */
#ifndef RP_BENCH_FIGURE_H
#define RP_BENCH_FIGURE_H

#include "base/str.h"
#include "config/settings.h"
#include "ops/ops.h"
#include "ratplus/bench.h"

typedef struct {
  double product[2]; /* FLOP/s in float32, bfloat16; 0: not measured */
  double read, copy; /* bytes/s; copy: read and written */
} rp_limits;
/* Measures on the device for about `seconds` each what `dtype` needs; a rate that was there stays if it was
 * higher: what disturbs a measurement only makes it slower. */
rp_status rp_limits_measure(rp_limits *l, rp_device *d, rp_dtype dtype, double seconds,
                            rp_error *err);

typedef struct {
  bool decode;      /* else prefill */
  const char *work; /* what it is called; NULL: "prefill" or "decode" */
  rp_dtype dtype;
  char pattern[64]; /* as it was asked for, cut where it is longer */
  int64_t T; /* prefill: tokens of a sequence; decode: positions, of which the last are timed */
  int64_t batch;
  bool one_head; /* one key-value head with its queries was timed and counted for all */
  double tokens; /* new tokens of one run */
  double flops, bytes, cache;  /* of one run; bytes read (decode), bytes of cache afterwards */
  double seconds, least, most; /* of one run: median, and the two ends */
  double attend;               /* of it in the attention op; 0: not told apart */
  int runs;
} rp_figure;
const char *rp_figure_work(const rp_figure *f);
/* Seconds that the limits allow. */
double rp_figure_limit(const rp_figure *f, const rp_limits *l);

typedef struct {
  rp_figure *at;
  size_t n, cap;
  char **note;
  size_t notes, notes_cap;
} rp_figures;
rp_status rp_figures_add(rp_figures *all, const rp_figure *f, rp_error *err);
rp_status rp_figures_note(rp_figures *all, rp_error *err, const char *fmt, ...) RP_PRINTF(3, 4);
void rp_figures_free(rp_figures *all); /* {0} is fine */

/* One run of the work, timed; *done false: there are no more. */
typedef rp_status (*rp_timed)(void *ctx, double *seconds, bool *done, rp_error *err);
enum { RP_FIGURE_RUNS = 1024 };
/* Runs until `seconds` are over or `most` runs are made (at most RP_FIGURE_RUNS), at least one;
 * median and ends. */
rp_status rp_figure_time(rp_figure *f, rp_timed run, void *ctx, double seconds, int most,
                         rp_error *err);

/* Which ops the time of `runs` runs went to, of which one takes `seconds` (not counting what it waits
 * for here); rate: of products, FLOP/s. The name is printf's. */
void rp_figure_ops(rp_str *b, const rp_op_times *t, int runs, double seconds, double rate,
                   const char *name, ...) RP_PRINTF(6, 7);

/* A table, or JSON with `head` (members of an object, without braces) in front of the figures
 * and `more` (NULL: nothing) behind them. */
rp_status rp_figures_report(const rp_figures *all, const rp_limits *l, const char *head,
                            const char *more, int json, char **text, rp_error *err);

#endif
