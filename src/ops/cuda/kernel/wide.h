/* wide.h - runs of neighbouring elements to float32 and back: 8 of bfloat16 and 4 of float32 in one access
 * of 16 bytes, 4 of bfloat16 (beside float32) in one of 8, which lie aligned to that; 1 anywhere. */
#ifndef RP_OPS_CUDA_KERNEL_WIDE_H
#define RP_OPS_CUDA_KERNEL_WIDE_H

#include "ops/cuda/kernel/lane.h"

RP_DEVICE void load(float (&x)[1], const float *p) { x[0] = *p; }
RP_DEVICE void load(float (&x)[1], const bf16 *p) { x[0] = to_f32(*p); }
RP_DEVICE void load(float (&x)[4], const float *p) {
  const float4 v = *(const float4 *)p;
  x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
}
RP_DEVICE void load(float (&x)[4], const bf16 *p) {
  const uint2 v = *(const uint2 *)p;
  x[0] = low_f32(v.x), x[1] = high_f32(v.x), x[2] = low_f32(v.y), x[3] = high_f32(v.y);
}
RP_DEVICE void load(float (&x)[8], const bf16 *p) {
  const uint4 v = *(const uint4 *)p;
  x[0] = low_f32(v.x), x[1] = high_f32(v.x), x[2] = low_f32(v.y), x[3] = high_f32(v.y);
  x[4] = low_f32(v.z), x[5] = high_f32(v.z), x[6] = low_f32(v.w), x[7] = high_f32(v.w);
}

RP_DEVICE void store(float *p, const float (&x)[1]) { *p = x[0]; }
RP_DEVICE void store(bf16 *p, const float (&x)[1]) { *p = to_bf16(x[0]); }
RP_DEVICE void store(float *p, const float (&x)[4]) {
  *(float4 *)p = make_float4(x[0], x[1], x[2], x[3]);
}
RP_DEVICE void store(bf16 *p, const float (&x)[4]) {
  *(uint2 *)p = make_uint2(bf16x2(x[1], x[0]), bf16x2(x[3], x[2]));
}
RP_DEVICE void store(bf16 *p, const float (&x)[8]) {
  *(uint4 *)p =
      make_uint4(bf16x2(x[1], x[0]), bf16x2(x[3], x[2]), bf16x2(x[5], x[4]), bf16x2(x[7], x[6]));
}

#endif
