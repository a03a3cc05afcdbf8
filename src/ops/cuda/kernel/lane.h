/* lane.h - what the kernels in this folder are written in: CUDA C++ of sm_80, one parameter a kernel.
 *
 *   RP_KERNEL(name, args, THREADS) { ... a.n ... }     a: const args &, blocks of THREADS threads
 *   RP_KERNEL_FIT(name, args, THREADS, BLOCKS) { ... } so few registers that BLOCKS blocks run beside each other
 *
 * nvcc makes device code of it, found by name (cuda_kernels.h). With RP_EMULATE a C++ compiler makes the
 * same text into functions that tests/fake/emulate.cc runs thread by thread, so what a plain compiler does not
 * know goes through the functions below: the PTX instructions, and the kernel's dynamic shared memory. */
#ifndef RP_OPS_CUDA_KERNEL_LANE_H
#define RP_OPS_CUDA_KERNEL_LANE_H

#include <math.h>
#include <stdint.h>

#ifdef RP_EMULATE
#include "emulate.h"
#else
#define RP_KERNEL(name, args, threads) \
  extern "C" __global__ void __launch_bounds__(threads) name(const __grid_constant__ args a)
#define RP_KERNEL_FIT(name, args, threads, blocks) \
  extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ args a)
#define RP_DEVICE static __device__ __forceinline__
#define RP_UNROLL _Pragma("unroll")
/* The dynamic shared memory, which the launch gave a size; 128-byte aligned, holds anything. */
#define RP_SHARED(type, name) \
  extern __shared__ __align__(128) unsigned char rp_shared[]; \
  type *const name = (type *)rp_shared
#endif

/* What a kernel does that was given nonsense: the device is lost, its queues say so. */
RP_DEVICE void stop_device() {
#ifdef RP_EMULATE
  emulate_stop();
#else
  asm volatile("trap;");
#endif
}

/* ---- bfloat16, as two bytes ---- */

typedef uint16_t bf16;

RP_DEVICE uint32_t f32_bits(float x) {
#ifdef RP_EMULATE
  return emulate_f32_bits(x);
#else
  return __float_as_uint(x);
#endif
}
RP_DEVICE float f32_of_bits(uint32_t x) {
#ifdef RP_EMULATE
  return emulate_f32_of_bits(x);
#else
  return __uint_as_float(x);
#endif
}
RP_DEVICE float to_f32(float x) { return x; }
RP_DEVICE float to_f32(bf16 x) { return f32_of_bits((uint32_t)x << 16); }
/* To nearest even; NaN stays NaN. The second lies in the lower half. */
RP_DEVICE uint32_t bf16x2(float high, float low) {
#ifdef RP_EMULATE
  return (uint32_t)emulate_bf16(high) << 16 | emulate_bf16(low);
#else
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
#endif
}
RP_DEVICE bf16 to_bf16(float x) { return (bf16)bf16x2(0, x); }
RP_DEVICE float low_f32(uint32_t x) { return to_f32((bf16)x); }
RP_DEVICE float high_f32(uint32_t x) { return to_f32((bf16)(x >> 16)); }

/* One element of a tensor's type. */
RP_DEVICE void put_f32(float *to, float x) { *to = x; }
RP_DEVICE void put_f32(bf16 *to, float x) { *to = to_bf16(x); }

/* ---- a warp ---- */

#define RP_ALL_LANES 0xffffffffu
RP_DEVICE float warp_sum(float x) {
  RP_UNROLL
  for (int i = 16; i; i /= 2) x += __shfl_xor_sync(RP_ALL_LANES, x, i);
  return x;
}
RP_DEVICE double warp_sum(double x) {
  RP_UNROLL
  for (int i = 16; i; i /= 2) x += __shfl_xor_sync(RP_ALL_LANES, x, i);
  return x;
}
RP_DEVICE float warp_max(float x) {
  RP_UNROLL
  for (int i = 16; i; i /= 2) x = fmaxf(x, __shfl_xor_sync(RP_ALL_LANES, x, i));
  return x;
}

/* 2^x; the hardware's, 2 units in the last place. */
RP_DEVICE float fast_exp2(float x) {
#ifdef RP_EMULATE
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

/* The square root; the hardware's, 1 unit in the last place. */
RP_DEVICE float fast_root(float x) {
#ifdef RP_EMULATE
  return sqrtf(x);
#else
  float y;
  asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

/* c += a b of one warp. a: 16 x 16, b: 16 x 8, bfloat16; c: 16 x 8. With g = lane / 4 and p = lane % 4,
 * c holds (g, 2p), (g, 2p+1), (g+8, 2p), (g+8, 2p+1); a pairs (g, 2p..), (g+8, 2p..), (g, 2p+8..),
 * (g+8, 2p+8..); b pairs of rows (2p.., g), (2p+8.., g). The lower half of a pair is the first. */
RP_DEVICE void mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
#ifdef RP_EMULATE
  emulate_mma_bf16(c, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#ifndef RP_EMULATE
RP_DEVICE uint32_t shared_at(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }
#endif

/* Four 8 x 8 matrices of two-byte elements out of shared memory: lanes 8i .. 8i+7 say where the rows of
 * matrix i begin (16-byte aligned); r[i] is the pair (lane / 4, 2 (lane % 4)..) of it, with trans of its
 * transpose. */
RP_DEVICE void load_matrix_x4(uint32_t r[4], const void *row) {
#ifdef RP_EMULATE
  emulate_load_matrix_x4(r, row, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_at(row))
               : "memory");
#endif
}
RP_DEVICE void load_matrix_x4_trans(uint32_t r[4], const void *row) {
#ifdef RP_EMULATE
  emulate_load_matrix_x4(r, row, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_at(row))
               : "memory");
#endif
}

/* ---- words that blocks of a launch hand to each other ---- */

/* Each word on its own: nothing is said about others written before or after it. */
RP_DEVICE uint32_t load_relaxed(const uint32_t *p) {
#ifdef RP_EMULATE
  return *p;
#else
  uint32_t x;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
  return x;
#endif
}
RP_DEVICE void store_relaxed(uint32_t *p, uint32_t x) {
#ifdef RP_EMULATE
  *p = x;
#else
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(x) : "memory");
#endif
}
/* Waits until the word is not `empty`; `seen` is what a load of it gave. Blocks that wait must have got their
 * turn from a counter after the blocks they wait for, which thus run or ran. */
RP_DEVICE uint32_t await_word(const uint32_t *p, uint32_t seen, uint32_t empty) {
  while (seen == empty) {
#ifdef RP_EMULATE
    emulate_stop(); /* earlier blocks have ended */
#endif
    seen = load_relaxed(p);
  }
  return seen;
}

/* 16 bytes that no kernel writes while this one runs, and those of them that are read but once: they take no
 * room in the first cache. Loads of the second kind keep their order, so that many can be on their way. */
RP_DEVICE uint4 load_16(const void *p) {
#ifdef RP_EMULATE
  return *(const uint4 *)p;
#else
  return __ldg((const uint4 *)p);
#endif
}
RP_DEVICE uint4 load_stream_16(const void *p) {
#ifdef RP_EMULATE
  return *(const uint4 *)p;
#else
  uint4 r;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
               : "l"(p));
  return r;
#endif
}

/* ---- copies that go on behind a thread's back ---- */

/* 16 bytes into shared memory; with bytes 0 zeros (from is not read). They are there after copies_wait of
 * the group they are in, for this thread; for others after a barrier behind it. */
RP_DEVICE void copy_async_16(void *to, const void *from, int bytes) {
#ifdef RP_EMULATE
  emulate_copy_async(to, from, bytes);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_at(to)), "l"(from),
               "r"(bytes)
               : "memory");
#endif
}
RP_DEVICE void copies_close_group() {
#ifdef RP_EMULATE
  emulate_copies_close_group();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/* Until at most `pending` of the newest groups are under way. */
template <int pending>
RP_DEVICE void copies_wait() {
#ifdef RP_EMULATE
  emulate_copies_wait(pending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

#endif
