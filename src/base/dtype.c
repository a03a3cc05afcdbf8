#include "base/dtype.h"

const char *rp_dtype_name(rp_dtype t) {
  static const char *const names[] = {"float32", "bfloat16", "float64",
                                      "float16", "int32",    "int64"};
  return names[t];
}

float rp_f16_to_f32(uint16_t v) {
  uint32_t sign = (uint32_t)(v & 0x8000u) << 16;
  uint32_t exponent = (v >> 10) & 0x1fu;
  uint32_t fraction = v & 0x3ffu;
  uint32_t u;
  if (exponent == 0x1fu) {
    u = 0x7f800000u | fraction << 13;
  } else if (exponent) {
    u = (exponent + 112) << 23 | fraction << 13;
  } else { /* a subnormal is fraction * 2^-24, exact in float32 */
    float f = (float)fraction * 0x1p-24f;
    memcpy(&u, &f, 4);
  }
  u |= sign;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

/* Round to nearest even: drops `shift` low bits. */
static uint32_t round_shift(uint32_t v, int shift) {
  uint32_t half = 1u << (shift - 1);
  return (v + half - 1 + ((v >> shift) & 1)) >> shift;
}

uint16_t rp_f32_to_f16(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  uint32_t sign = (u >> 16) & 0x8000u;
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (u >> 13 & 0x3ffu));
  if (u >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and up round to infinity */
  if (u >= 0x38800000u) return (uint16_t)(sign | (round_shift(u, 13) - (112u << 10)));
  int shift = 126 - (int)(u >> 23);
  if (shift > 24) return (uint16_t)sign; /* below half of the smallest subnormal */
  return (uint16_t)(sign | round_shift((u & 0x7fffffu) | 0x800000u, shift));
}
