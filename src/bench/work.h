/* work.h - what a benchmark of inference was asked for: the shape, the lists, what may be used. */
#ifndef RP_BENCH_WORK_H
#define RP_BENCH_WORK_H

#include "bench/figure.h"

enum { RP_WORK_MOST = 32 }; /* entries of a list */

/* The defaults of a kind of benchmark. */
typedef struct {
  const char *name, *patterns;
  int64_t T[8], batch[8];             /* ended by -1 */
  int64_t paper_T[8], paper_batch[8]; /* the same with --protocol paper */
  int64_t tokens, paper_tokens;       /* of a prefill, as sequences of T; 0: one sequence */
  double seconds, patience;
  bool one_layer; /* of a model only the shape of a layer is taken */
  bool slopes;    /* the report has those of cost over T */
} rp_work_kind;

typedef struct {
  const rp_work_kind *kind;
  rp_bench_opts o;     /* with the defaults of the kind in place of zeros */
  rp_model_settings m; /* unless it is a file's weights that are run; its patterns are dense */
  rp_dtype dtype[2];
  int dtypes; /* 0: the model's own */
  char *pattern[RP_WORK_MOST];
  int patterns;
  int64_t T[RP_WORK_MOST], batch[RP_WORK_MOST];
  int Ts, batches;
  rp_device *dev;
  uint64_t memory; /* bytes of it that may be used, free now */
} rp_work;

/* Reads and checks all; RP_USAGE names the flag. rp_work_free in any case. */
rp_status rp_work_read(rp_work *w, const rp_work_kind *kind, const rp_config *c,
                       const rp_bench_opts *o, rp_error *err);
void rp_work_free(rp_work *w);
bool rp_work_does(const rp_work *w, bool decode);

/* A RAT+ model of N layers of width d, heads of 128 (one of d where that does not divide), f = 4d,
 * V=32000; its patterns are to be set. */
rp_model_settings rp_bench_shape(int N, int d);
/* `usual`, or --shape in its place, with the parts that the options replace; patterns as they were. */
rp_status rp_bench_own_shape(rp_model_settings *m, const rp_bench_opts *o,
                             const rp_model_settings *usual, rp_error *err);
bool rp_bench_told_shape(const rp_bench_opts *o); /* whether one of these options is given */
/* The words between separators, each a copy; at most RP_WORK_MOST. */
rp_status rp_bench_split(const char *text, char separator, char **out, int *n, rp_error *err);
rp_status rp_bench_dtype(const char *name, rp_dtype *t, rp_error *err);
/* One type, or two with a comma. */
rp_status rp_bench_dtypes(const char *text, rp_dtype out[2], int *n, rp_error *err);
/* n numbers given for a flag, in their absence the usual ones (ended by -1), each from low to
 * high. */
rp_status rp_bench_numbers(const char *flag, const int64_t *given, size_t n, const int64_t *usual,
                           int64_t low, int64_t high, int64_t out[RP_WORK_MOST], int *count,
                           rp_error *err);
/* Whether a size given for a flag is from 1 to most; 0: not given. */
rp_status rp_bench_part(const char *flag, int value, int most, rp_error *err);

/* Tells the caller which figure comes; RP_STOPPED when that says so. */
rp_status rp_work_progress(const rp_work *w, int done, int of, const rp_figure *f, rp_error *err);
/* The members of the report's head: kind and shape, as a line or as JSON (free with rp_free). */
char *rp_work_head(const rp_work *w, const rp_model_settings *m);
/* "layer: d=2048, ..."; free with rp_free. */
char *rp_work_title(const rp_work *w, const rp_model_settings *m);
/* "decode bfloat16 D=1, T=4096, batch 64", for notes. */
void rp_work_name(char out[160], const rp_figure *f);

/* Whether f (`limit` seconds at the machine's limit, `need` bytes of memory) is to be measured;
 * a note says why not. */
rp_status rp_work_fits(const rp_work *w, const rp_figure *f, double limit, double need,
                       rp_figures *all, bool *fits, rp_error *err);
/* The largest batch whose need fits into the memory, at most 65536; 0: none. */
typedef rp_status (*rp_work_need)(void *ctx, int64_t batch, double *need, rp_error *err);
rp_status rp_work_largest(const rp_work *w, rp_work_need need, void *ctx, int64_t *batch,
                          rp_error *err);
/* RP_NO_MEMORY, or RP_USAGE, when no figure is there. */
rp_status rp_work_any(const rp_work *w, const rp_figures *all, rp_error *err);

#endif
