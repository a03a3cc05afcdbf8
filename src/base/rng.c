#include "base/rng.h"

#include <math.h>

/* Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011). */
static void philox_rounds(uint32_t c[4], uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; round++) {
    uint64_t a = (uint64_t)0xD2511F53u * c[0];
    uint64_t b = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t c1 = c[1], c3 = c[3];
    c[0] = (uint32_t)(b >> 32) ^ c1 ^ k0;
    c[1] = (uint32_t)b;
    c[2] = (uint32_t)(a >> 32) ^ c3 ^ k1;
    c[3] = (uint32_t)a;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

void rp_philox(uint64_t seed, uint32_t purpose, uint64_t stream, uint64_t counter,
               uint32_t out[4]) {
  out[0] = (uint32_t)counter;
  out[1] = (uint32_t)(counter >> 32);
  out[2] = (uint32_t)stream;
  out[3] = (uint32_t)(stream >> 32) ^ purpose << 24;
  philox_rounds(out, (uint32_t)seed, (uint32_t)(seed >> 32));
}

void rp_rng_init(rp_rng *r, uint64_t seed, rp_rng_purpose purpose, uint64_t stream) {
  *r = (rp_rng){.seed = seed, .stream = stream, .purpose = (uint32_t)purpose};
}

uint32_t rp_rng_u32(rp_rng *r) {
  if (!r->have) {
    rp_philox(r->seed, r->purpose, r->stream, r->counter++, r->buf);
    r->have = 4;
  }
  return r->buf[4 - r->have--];
}

uint64_t rp_rng_u64(rp_rng *r) {
  uint64_t low = rp_rng_u32(r);
  return low | (uint64_t)rp_rng_u32(r) << 32;
}

double rp_rng_uniform(rp_rng *r) { return (double)(rp_rng_u64(r) >> 11) * 0x1p-53; }

double rp_rng_normal(rp_rng *r) {
  double u = 1.0 - rp_rng_uniform(r); /* (0, 1] */
  double v = rp_rng_uniform(r);
  return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925 * v);
}

uint64_t rp_rng_below(rp_rng *r, uint64_t n) {
  uint64_t skip = (0 - n) % n; /* 2^64 mod n: so many lowest numbers would bias the rest */
  uint64_t x;
  do x = rp_rng_u64(r);
  while (x < skip);
  return x % n;
}

/* Matsumoto and Nishimura's MT19937 (1998), initialisation of 2002. */
void rp_mt_seed(rp_mt19937 *m, uint32_t seed) {
  m->mt[0] = seed;
  for (uint32_t i = 1; i < 624; i++)
    m->mt[i] = 1812433253u * (m->mt[i - 1] ^ m->mt[i - 1] >> 30) + i;
  m->at = 624;
}

static void twist(uint32_t mt[624]) {
  for (int i = 0; i < 624; i++) {
    uint32_t y = (mt[i] & 0x80000000u) | (mt[(i + 1) % 624] & 0x7fffffffu);
    mt[i] = mt[(i + 397) % 624] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
  }
}

uint32_t rp_mt_next(rp_mt19937 *m) {
  if (m->at >= 624) {
    twist(m->mt);
    m->at = 0;
  }
  uint32_t y = m->mt[m->at++];
  y ^= y >> 11;
  y ^= y << 7 & 0x9d2c5680u;
  y ^= y << 15 & 0xefc60000u;
  return y ^ y >> 18;
}
