/* move.cu - conversion, rows, block tables. */
#include "ops/cuda/kernel/lane.h"
#include "ops/cuda/kernel/move.h"

/* Through float32 a double could be rounded twice; a first rounding to odd (von Neumann) keeps the bit
 * that decides the second. */
RP_DEVICE bf16 bf16_of_f64(double x) {
  float f = (float)x;
  if ((double)f != x && isfinite(f)) {
    uint32_t u = f32_bits(f);
    if (!(u & 1)) u += ((double)f > x) == (x > 0) ? -1 : 1;
    f = f32_of_bits(u);
  }
  return to_bf16(f);
}

RP_DEVICE double load(rp_tensor t, int64_t i) {
  if (t.dtype == RP_F64) return ((const double *)t.p.at)[i];
  if (t.dtype == RP_BF16) return to_f32(((const bf16 *)t.p.at)[i]);
  return ((const float *)t.p.at)[i];
}

/* Bound by memory in its common forms, float32 and bfloat16; eight elements in flight hide the rest. */
RP_KERNEL(cast, rp_cast_args, RP_MOVE_THREADS) {
  enum { EACH = 8 };
  const int64_t step = (int64_t)gridDim.x * blockDim.x;
  for (int64_t at = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; at < a.n; at += step * EACH) {
    double x[EACH];
    RP_UNROLL
    for (int i = 0; i < EACH; i++) x[i] = at + i * step < a.n ? load(a.src, at + i * step) : 0;
    RP_UNROLL
    for (int i = 0; i < EACH; i++) {
      const int64_t to = at + i * step;
      if (to >= a.n) break;
      if (a.dst.dtype == RP_F64)
        ((double *)a.dst.p.at)[to] = x[i];
      else if (a.dst.dtype == RP_F32)
        ((float *)a.dst.p.at)[to] = (float)x[i];
      else
        ((bf16 *)a.dst.p.at)[to] = a.src.dtype == RP_F64 ? bf16_of_f64(x[i]) : to_bf16((float)x[i]);
    }
  }
}

/* A row that is not there is a bug of the caller: it stops the device. */
RP_KERNEL(take, rp_take_args, RP_MOVE_THREADS) {
  const int32_t i = (int32_t)blockIdx.x, row = ((const int32_t *)a.at.at)[i];
  const int32_t col = (int32_t)(blockIdx.y * blockDim.x + threadIdx.x);
  if (row < 0 || row >= a.rows) stop_device();
  if (col < a.d)
    ((float *)a.y.p.at)[(int64_t)i * a.d + col] =
        ((const float *)a.x.p.at)[(int64_t)row * a.d + col];
}

RP_KERNEL(table, rp_table_args, RP_MOVE_THREADS) {
  const int32_t i = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
  const rp_table_entry *list = (const rp_table_entry *)a.list.at;
  if (i < a.n) *(int32_t *)list[i].at.at = list[i].block;
}
