/* ratplus/bench.h - what this machine can do, and what the program gets from it.
 *
 * Every speed is stated as a share of a limit that is measured in the same run. A call takes seconds
 * to a minute, uses all of rp_threads, and returns a table for people or JSON for programs. */
#ifndef RATPLUS_BENCH_H
#define RATPLUS_BENCH_H

#include "ratplus/config.h"
#include "ratplus/ranks.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  size_t size;    /* sizeof this struct; filled by rp_bench_defaults */
  int json;       /* one JSON object instead of a table */
  double seconds; /* to spend on each figure, about; 0: its default */
  int steps;      /* train: optimizer steps to time; 0: as `seconds` says */
  /* train: "float32", "bfloat16", or both with a comma; NULL: both. */
  const char *dtypes;
  /* train: patterns, separated by ';'; NULL: "D=1;D=64". */
  const char *patterns;
  /* kernel: "cpu" (default), "guard", or a level: "ref", "avx2", "avx512". */
  const char *device;
  /* train: who shares the batch (NULL: alone), and 1 FULL_SHARD, 2 SHARD_GRAD_OP, 3 NO_SHARD; 0: the
   * configuration's, or NO_SHARD. */
  rp_ranks *ranks;
  int shard;
} rp_bench_opts;
RP_API void rp_bench_defaults(rp_bench_opts *o);

/* Product rates (float32; bfloat16 by each way) and memory rates (read, copy), for one thread and
 * for all. Text: free with rp_free. */
RP_API rp_status rp_bench_machine(const rp_bench_opts *o, char **text, rp_error *err);

/* Time of one op at a size as models have it, or of all (name NULL), beside the plain C level in the
 * same run, and its share of the limit: product or memory rate, whichever bounds it. */
RP_API rp_status rp_bench_kernel(const char *name, const rp_bench_opts *o, char **text,
                                 rp_error *err);

/* Tokens per second of whole optimizer steps on random tokens, and the share of what the model's
 * FLOPs allow at the product rate measured in the same run. c: the model, batch size and sequence
 * length of a configuration; NULL: 12 layers, d=768, 6 heads of 128, V=32000, T=1024, batch 4. */
RP_API rp_status rp_bench_train(const rp_config *c, const rp_bench_opts *o, char **text,
                                rp_error *err);

#ifdef __cplusplus
}
#endif
#endif
