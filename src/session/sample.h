/* sample.h - one token out of logits (docs/inference.md, Sampling). A sampler is one stream's; its
 * work space may be shared by the samplers of a thread. */
#ifndef RP_SESSION_SAMPLE_H
#define RP_SESSION_SAMPLE_H

#include "base/mem.h"
#include "ratplus/generate.h"

typedef struct {
  double l; /* penalised logit */
  double w; /* exp((l - largest) / temperature) */
  int32_t id;
} rp_candidate;

typedef struct {
  rp_candidate *at; /* [V] */
} rp_sample_work;
rp_status rp_sample_work_open(rp_sample_work *w, int V, rp_error *err);
void rp_sample_work_close(rp_sample_work *w); /* {0} is fine */

typedef struct {
  rp_sample_opts o;
  uint64_t stream, index; /* index: of the next token */
  uint64_t *seen;         /* bit a token, [V / 64 rounded up]; NULL when nothing is penalised */
  int V;
} rp_sampler;
/* RP_USAGE for settings out of range. */
rp_status rp_sampler_open(rp_sampler *s, int V, const rp_sample_opts *o, uint64_t stream,
                          rp_error *err);
void rp_sampler_close(rp_sampler *s); /* {0} is fine */
/* The most likely token of the logits as they are is what it takes. */
bool rp_sampler_is_plain(const rp_sampler *s);
/* Takes token `index` of the stream from logits [V] and moves on. RP_FAIL when a logit is NaN or
 * infinite, or none is finite (-infinity is a token that never comes). Allocates nothing. */
rp_status rp_sampler_next(rp_sampler *s, rp_sample_work *w, const float *logits, int32_t *id,
                          rp_error *err);
/* Moves on over a token that was taken otherwise. */
void rp_sampler_took(rp_sampler *s, int32_t id);

#endif
