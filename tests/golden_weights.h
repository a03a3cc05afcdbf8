/* golden_weights.h - weights and token ids of the golden files from a hash: tools/golden/README.md
 * has the formula, tools/golden/hashing.py the same in Python. Pure. */
#ifndef RP_GOLDEN_WEIGHTS_H
#define RP_GOLDEN_WEIGHTS_H

#include <stdint.h>

/* FNV-1a of the parameter's (or stream's) name. */
static inline uint64_t golden_key(const char *name) {
  uint64_t x = 0xcbf29ce484222325u;
  for (; *name; name++) x = (x ^ (uint8_t)*name) * 0x100000001b3u;
  return x;
}

/* Element i of the stream (seed, key), in [0, 1) with 24 bits. */
static inline double golden_unit(uint64_t seed, uint64_t key, int64_t i) {
  uint64_t z = seed + key + ((uint64_t)i + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z = z ^ (z >> 31);
  return (double)(z >> 40) / 16777216.0;
}

/* The same in [-1, 1). */
static inline double golden_signed(uint64_t seed, uint64_t key, int64_t i) {
  return 2 * golden_unit(seed, key, i) - 1;
}

/* Element i of an embedding or a matrix, of a norm's weight, of a norm's bias. */
static inline float golden_matrix(uint64_t seed, double scale, uint64_t key, int64_t i) {
  return (float)(scale * golden_signed(seed, key, i));
}
static inline float golden_norm_weight(uint64_t seed, uint64_t key, int64_t i) {
  return (float)(1 + 0.2 * golden_signed(seed, key, i));
}
static inline float golden_norm_bias(uint64_t seed, uint64_t key, int64_t i) {
  return (float)(0.1 * golden_signed(seed, key, i));
}

/* Token i of the stream (seed, key). */
static inline int32_t golden_token(uint64_t seed, uint64_t key, int64_t i, int32_t V) {
  double u = golden_unit(seed, key, i);
  return (int32_t)(V * (u * u));
}

#endif
