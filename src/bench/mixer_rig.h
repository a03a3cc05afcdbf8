/* mixer_rig.h - one mixer on a device, ready to be timed: the whole (norm, projections, gate,
 * scan, attention, output gate) or its core (gate, scan, attention alone). A prefill is `batch`
 * sequences of T tokens in one call; a decode the step that makes `batch` sequences T tokens
 * long, over caches whose blocks hold whatever they hold, with nothing of it in the processor's
 * caches: of a GPU, several rigs take turns. One thread's. */
#ifndef RP_BENCH_MIXER_RIG_H
#define RP_BENCH_MIXER_RIG_H

#include "bench/figure.h"
#include "model/kind.h"

typedef struct {
  rp_device *dev;      /* the caller's */
  rp_model_settings m; /* one layer without its FFN; pats owned */
  int slices;          /* 1; or into how many of what is timed the heads were cut */
  rp_dtype dtype;
  bool decode, core;
  int64_t T, batch;
} rp_mixer_work;

/* The layer of `model` in a pattern text for its key-value heads; its device is to be set. */
rp_status rp_mixer_work_make(rp_mixer_work *w, const rp_model_settings *model, const char *pattern,
                             rp_error *err);
void rp_mixer_work_free(rp_mixer_work *w); /* {0} is fine */
/* The same of one key-value head with its queries, at the layer's full width; false where there
 * is only one, or where they differ in their patterns. All but the norm costs a slice's part of
 * the whole. */
bool rp_mixer_one_head(rp_mixer_work *w);
/* FLOPs, bytes, tokens and cache of one run, of all heads: of a work that is not cut. */
void rp_mixer_count(const rp_mixer_work *w, rp_figure *f);
/* Bytes that a rig takes, without allocating. */
double rp_mixer_need(const rp_mixer_work *w);
/* Opens, times, closes; of all heads. warm: one run in front is not timed. */
rp_status rp_mixer_time(const rp_mixer_work *w, rp_figure *f, bool warm, double seconds,
                        rp_error *err);

#endif
