/* metrics.h - metrics.jsonl: one JSON object a line, a line per log interval.
 *
 * Lines are appended whole; what could not be written (a full disk) is kept and written with the
 * next line. One writer (the run's lock says who); any reader. */
#ifndef RP_TRAIN_METRICS_H
#define RP_TRAIN_METRICS_H

#include "base/str.h"

/* What was not measured is NaN and left out of the file. */
typedef struct {
  int64_t step, tokens;
  double train_loss, train_loss1, val_loss, val_loss_dense;
  double lr, grad_norm, tokens_per_second, mfu, seconds;
  int64_t skipped; /* left out when 0 */
} rp_metrics;
/* Everything not measured. */
rp_metrics rp_metrics_none(int64_t step);

typedef struct {
  int fd;
  char *path;
  int64_t good;   /* end of the last whole line */
  rp_str pending; /* lines not yet on disk */
} rp_metrics_file;
/* Opens RUN/metrics.jsonl for appending, after cutting it before the first line whose step is >=
 * `from`, or that is not whole. */
rp_status rp_metrics_open(rp_metrics_file *f, const char *run_dir, int64_t from, rp_error *err);
/* RP_FAIL: not written yet; the line is kept. */
rp_status rp_metrics_add(rp_metrics_file *f, const rp_metrics *m, rp_error *err);
void rp_metrics_sync(rp_metrics_file *f);
void rp_metrics_close(rp_metrics_file *f); /* {0} is fine */

/* The line as it stands in the file, without the newline. */
void rp_metrics_format(rp_str *b, const rp_metrics *m);
/* All whole lines of RUN/metrics.jsonl in order (free with rp_free); no file: none. A line that is
 * not such an object is RP_BAD_DATA with its number; a torn last line is not read. */
rp_status rp_metrics_read(const char *run_dir, rp_metrics **out, size_t *n, rp_error *err);

#endif
