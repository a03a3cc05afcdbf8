/* dtype.h - element types and their conversions. */
#ifndef RP_BASE_DTYPE_H
#define RP_BASE_DTYPE_H

#include <stdint.h>
#include <string.h>

typedef enum { RP_F32 = 0, RP_BF16 = 1, RP_F64 = 2, RP_F16 = 3, RP_I32 = 4, RP_I64 = 5 } rp_dtype;

static inline int rp_dtype_bytes(rp_dtype t) {
  static const int bytes[] = {4, 2, 8, 2, 4, 8};
  return bytes[t];
}
/* "float32", "bfloat16", "float64", "float16", "int32", "int64" */
const char *rp_dtype_name(rp_dtype t);

static inline float rp_bf16_to_f32(uint16_t v) {
  uint32_t u = (uint32_t)v << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
/* Round to nearest even; NaN stays NaN. */
static inline uint16_t rp_f32_to_bf16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  uint32_t nan = (u & 0x7fffffffu) > 0x7f800000u;
  uint32_t r = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  return (uint16_t)(nan ? (u >> 16) | 0x40u : r);
}
float rp_f16_to_f32(uint16_t v);
uint16_t rp_f32_to_f16(float f);

#endif
