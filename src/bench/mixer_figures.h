/* mixer_figures.h - figures of one mixer over the lists of a work: bench layer, core and curve. */
#ifndef RP_BENCH_MIXER_FIGURES_H
#define RP_BENCH_MIXER_FIGURES_H

#include "bench/work.h"

/* Where the whole of a layer takes longer than this at the machine's limit, or does not fit into
 * the memory, one head is timed and counted for all. */
#define RP_MIXER_WHOLE_SECONDS 60

/* Every work, pattern, length and batch in every dtype, between two measurements of the limits. */
rp_status rp_mixer_figures(const rp_work *w, bool core, rp_limits *l, rp_figures *all,
                           rp_error *err);

#endif
