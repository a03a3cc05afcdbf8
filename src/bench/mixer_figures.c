#include "bench/mixer_figures.h"

#include "bench/mixer_rig.h"

typedef struct {
  const rp_work *w;
  const rp_limits *l;
  rp_figures *all;
  bool core;
  int done, of;
} bench;

static rp_status need_at(void *ctx, int64_t batch, double *need, rp_error *err) {
  rp_mixer_work *work = ctx;
  (void)err;
  work->batch = batch;
  *need = rp_mixer_need(work);
  return RP_OK;
}

/* The batch that a figure is of, its counts, and whether one head stands for all. */
static rp_status prepare(const bench *b, rp_mixer_work *work, rp_figure *f, double *need,
                         double *limit, rp_error *err) {
  if (!f->batch) RP_TRY(rp_work_largest(b->w, need_at, work, &f->batch, err));
  if (!f->batch) f->batch = 1; /* does not fit either, and is told */
  work->batch = f->batch;
  rp_mixer_count(work, f);
  *limit = rp_figure_limit(f, b->l);
  *need = rp_mixer_need(work);
  if (*limit <= RP_MIXER_WHOLE_SECONDS && *limit <= b->w->o.patience &&
      *need <= (double)b->w->memory)
    return RP_OK;
  f->one_head = rp_mixer_one_head(work);
  *limit /= work->slices;
  *need = rp_mixer_need(work);
  return RP_OK;
}

static rp_status figure(bench *b, rp_figure *f, const char *pattern, rp_error *err) {
  rp_mixer_work work = {0};
  rp_status st = RP_OK;
  bool fits;
  double need, limit;
  rp_snprintf(f->pattern, sizeof f->pattern, "%s", pattern);
  RP_GO(rp_mixer_work_make(&work, &b->w->m, pattern, err));
  work.dev = b->w->dev;
  work.dtype = f->dtype;
  work.decode = f->decode;
  work.core = b->core;
  work.T = f->T;
  RP_GO(prepare(b, &work, f, &need, &limit, err));
  RP_GO(rp_work_progress(b->w, b->done++, b->of, f, err));
  RP_GO(rp_work_fits(b->w, f, limit, need, b->all, &fits, err));
  if (!fits) goto fail;
  RP_GO(rp_mixer_time(&work, f, limit < 1, b->w->o.seconds, err));
  RP_GO(rp_figures_add(b->all, f, err));
fail:
  rp_mixer_work_free(&work);
  return st;
}

static int64_t sequences(const rp_work *w, int64_t T) {
  return w->o.tokens > T ? w->o.tokens / T : 1;
}

static rp_status in_dtype(bench *b, rp_dtype dtype, rp_error *err) {
  const rp_work *w = b->w;
  for (int decode = 0; decode < 2; decode++) {
    for (int t = 0; rp_work_does(w, decode) && t < w->Ts; t++)
      for (int p = 0; p < w->patterns; p++)
        for (int i = 0; i < (decode ? w->batches : 1); i++) {
          rp_figure f = {.decode = decode,
                         .dtype = dtype,
                         .T = w->T[t],
                         .batch = decode ? w->batch[i] : sequences(w, w->T[t])};
          RP_TRY(figure(b, &f, w->pattern[p], err));
        }
  }
  return RP_OK;
}

rp_status rp_mixer_figures(const rp_work *w, bool core, rp_limits *l, rp_figures *all,
                           rp_error *err) {
  const double seconds = w->o.seconds < 1.5 ? w->o.seconds : 1.5;
  const int each =
      w->Ts * w->patterns * (rp_work_does(w, false) + rp_work_does(w, true) * w->batches);
  bench b = {.w = w, .l = l, .all = all, .core = core, .of = w->dtypes * each};
  for (int i = 0; i < w->dtypes; i++) {
    RP_TRY(rp_limits_measure(l, w->dev, w->dtype[i], seconds, err));
    RP_TRY(in_dtype(&b, w->dtype[i], err));
    RP_TRY(rp_limits_measure(l, w->dev, w->dtype[i], seconds, err));
  }
  return rp_work_any(w, all, err);
}
