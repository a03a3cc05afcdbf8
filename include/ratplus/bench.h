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
  int ops;        /* train, model: also the time by op (text only); each is then waited for */
  /* "float32", "bfloat16", or both with a comma; NULL: both (kernel, train), or the model's own,
   * bfloat16 for random weights (model, layer, core, curve). */
  const char *dtypes;
  /* Patterns, separated by ';'; NULL: a default of each kind. */
  const char *patterns;
  /* "auto" or "cpu" (default), "cuda"; machine, kernel: also "guard", or a level: "ref", "avx2",
   * "avx512", "avx512_bf16". */
  const char *device;
  /* train: who shares the batch (NULL: alone), and 1 FULL_SHARD, 2 SHARD_GRAD_OP, 3 NO_SHARD; 0: the
   * configuration's, or NO_SHARD. */
  rp_ranks *ranks;
  int shard;
  /* train, model, layer, core, curve: the shape, where no configuration and no model says it. */
  const char *model; /* what rp_model_open takes; NULL: random weights */
  const char *
      shape; /* "1b", "3b", "7b"; NULL: a default of each kind. What follows replaces parts of it; 0: its own */
  int layers, width, heads, kv_heads, vocab;
  int attention_only; /* no recurrence */
  /* the work */
  const char *only;        /* "prefill" or "decode"; NULL: both */
  const int64_t *seq_lens; /* T; [n_seq_lens]; none: a default of each kind; train: one */
  size_t n_seq_lens;
  /* Sessions that decode together, [n_batches]; 0: as many as fit; train: one number of sequences. */
  const int64_t *batches;
  size_t n_batches;
  int64_t tokens;  /* layer, core: tokens of a prefill, as sequences of T; 0: one sequence */
  int chunk;       /* model: tokens of a prompt that go into one call; 0: 512 */
  int paper;       /* the lists of the paper's measurements, where they are not given */
  uint64_t memory; /* bytes that all may take; 0: what is free */
  double
      patience; /* what takes longer at the machine's limit is left out; 0: a default of each kind */
  /* Before each figure: which of how many, and what; nonzero: stop (RP_STOPPED). NULL: none. */
  int (*progress)(void *ctx, int done, int of, const char *what);
  void *ctx;
  /* Gets cost over T as a log-log chart with the fitted exponents, SVG (free with rp_free); NULL:
   * none. */
  char **svg;
} rp_bench_opts;
RP_API void rp_bench_defaults(rp_bench_opts *o);

/* Product rates (float32; bfloat16 by each way) and memory rates (read, copy), for one thread and
 * for all, or of a GPU. Text: free with rp_free. */
RP_API rp_status rp_bench_machine(const rp_bench_opts *o, char **text, rp_error *err);

/* Time of one op, or of all (name NULL), beside the plain C level in the same run (but for a GPU), and its share of
 * the limit: product or memory rate, whichever bounds it. At sizes of training and of decoding, or
 * at those that seq_lens, batches (sequences, sessions, rows), patterns, width, heads and kv_heads
 * say, for the ops that have such sizes; only: whole sequences ("prefill") or steps ("decode"). */
RP_API rp_status rp_bench_kernel(const char *name, const rp_bench_opts *o, char **text,
                                 rp_error *err);

/* Tokens per second of whole optimizer steps on random tokens, and the share of what the model's
 * FLOPs allow at the product rate measured in the same run. c: the model, batch size and sequence
 * length of a configuration; NULL: 12 layers, d=768, 6 heads of 128, V=32000, T=1024, batch 4, on a GPU
 * shape 1b, T=4096, batch 8. Where not all activations fit into the memory they are recomputed. */
RP_API rp_status rp_bench_train(const rp_config *c, const rp_bench_opts *o, char **text,
                                rp_error *err);

/* Inference. Each prints prefill and decode with tokens per second, the median and the ends of the
 * times, bytes of cache, and the share of the limit: counted FLOPs at the product rate, or for decode
 * bytes of weights and cache at the memory read rate where that takes longer. What does not fit into
 * the memory or the patience is left out with a note; RP_NO_MEMORY when nothing fits. c: the shape of
 * a configuration; NULL: that of the options. docs/benchmarks.md has the details.
 *
 * A whole model, with an engine and sessions. A decode stands behind T keys without a prefill. */
RP_API rp_status rp_bench_model(const rp_config *c, const rp_bench_opts *o, char **text,
                                rp_error *err);
/* The mixer of one layer with random weights (of a model only the shape is read): norm, projection,
 * gate, scan and rotation, attention, output gate, projection. A prefill is whole sequences in one call;
 * a decode the last of T positions, its weights and caches read from memory. Where all heads do not fit
 * into the memory or take over a minute, one head is timed and counted for all. */
RP_API rp_status rp_bench_layer(const rp_config *c, const rp_bench_opts *o, char **text,
                                rp_error *err);
/* What lies between its projections: gate, scan and rotation, and attention, whose time is also told
 * alone. */
RP_API rp_status rp_bench_core(const rp_config *c, const rp_bench_opts *o, char **text,
                               rp_error *err);
/* A layer over T = 4096 ... 262144, and the exponent of its cost in T for each pattern. */
RP_API rp_status rp_bench_curve(const rp_config *c, const rp_bench_opts *o, char **text,
                                rp_error *err);

#ifdef __cplusplus
}
#endif
#endif
