/* bench_layer.c - prefill and decode of one mixer layer, of its core, and what a layer costs
 * over T. */
#include "bench/cost_lines.h"
#include "bench/mixer_figures.h"

#define LENGTHS 4096, 8192, 16384, 32768, 65536, 131072, 262144, -1

/* The paper's grid holds 262144 tokens at every length. */
#define LISTS \
  .patterns = "D=1;D=16;D=16,W=256", .T = {4096, -1}, .batch = {1, -1}, .paper_T = {LENGTHS}, \
  .paper_batch = {64, 128, 256, 512, 1024, 4096, -1}, .paper_tokens = 262144, .seconds = 2, \
  .patience = RP_MIXER_WHOLE_SECONDS, .one_layer = true

static rp_status run(const rp_work_kind *kind, bool core, const rp_config *c,
                     const rp_bench_opts *o, char **text, rp_error *err) {
  rp_work w;
  rp_figures all = {0};
  rp_limits l = {0};
  rp_status st = RP_OK;
  *text = NULL;
  RP_GO(rp_work_read(&w, kind, c, o, err));
  RP_GO(rp_mixer_figures(&w, core, &l, &all, err));
  RP_GO(rp_work_report(&w, &w.m, &all, &l, text, err));
fail:
  rp_figures_free(&all);
  rp_work_free(&w);
  return st;
}

rp_status rp_bench_layer(const rp_config *c, const rp_bench_opts *o, char **text, rp_error *err) {
  static const rp_work_kind layer = {.name = "layer", LISTS};
  return run(&layer, false, c, o, text, err);
}

rp_status rp_bench_core(const rp_config *c, const rp_bench_opts *o, char **text, rp_error *err) {
  static const rp_work_kind core = {.name = "core", LISTS};
  return run(&core, true, c, o, text, err);
}

rp_status rp_bench_curve(const rp_config *c, const rp_bench_opts *o, char **text, rp_error *err) {
  static const rp_work_kind curve = {.name = "curve",
                                     .patterns = "D=1;D=4;D=16;D=64",
                                     .T = {LENGTHS},
                                     .batch = {1, -1},
                                     .seconds = 1,
                                     .patience = 300,
                                     .one_layer = true,
                                     .slopes = true};
  return run(&curve, false, c, o, text, err);
}
