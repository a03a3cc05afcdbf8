/* rng.h - random numbers.
 *
 * Philox4x32-10 is counter-based: a number is a function of (seed, purpose, step, position), so no
 * state is saved and ranks never collide. Mt19937 is here only because the reference's loaders draw
 * with it (spec: random windows are those PyTorch draws). */
#ifndef RP_BASE_RNG_H
#define RP_BASE_RNG_H

#include <stdint.h>

typedef enum {
  RP_RNG_INIT = 1,
  RP_RNG_SHUFFLE = 2,
  RP_RNG_SAMPLE = 3,
  RP_RNG_TEST = 4,
  RP_RNG_BENCH = 5
} rp_rng_purpose;

/* Four 32-bit numbers of (seed, purpose, stream, counter). */
void rp_philox(uint64_t seed, uint32_t purpose, uint64_t stream, uint64_t counter, uint32_t out[4]);

/* A cursor over one stream, for code that wants numbers one by one. */
typedef struct {
  uint64_t seed, stream, counter;
  uint32_t purpose, have, buf[4];
} rp_rng;
void rp_rng_init(rp_rng *r, uint64_t seed, rp_rng_purpose purpose, uint64_t stream);
uint32_t rp_rng_u32(rp_rng *r);
uint64_t rp_rng_u64(rp_rng *r);
double rp_rng_uniform(rp_rng *r);             /* [0, 1) with 53 bits */
double rp_rng_normal(rp_rng *r);              /* N(0, 1), Box-Muller */
uint64_t rp_rng_below(rp_rng *r, uint64_t n); /* [0, n) without bias; n > 0 */

typedef struct {
  uint32_t mt[624];
  int at;
} rp_mt19937;
void rp_mt_seed(rp_mt19937 *m, uint32_t seed); /* the classic 32-bit initialisation */
uint32_t rp_mt_next(rp_mt19937 *m);

#endif
