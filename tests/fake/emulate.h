/* emulate.h - what src/ops/cuda/kernel is compiled with in place of nvcc: CUDA's names for a C++ compiler.
 *
 * The threads of a block are fibers; one runs until it has to wait at a barrier or for its warp, then the next.
 * Odd blocks run their threads backwards, so that an order nobody asked for shows. Shared memory begins as NaN,
 * copies that are asynchronous come when they are waited for and not before, and what lies behind the dynamic shared
 * memory cannot be touched. A block whose threads wait for each other for good ends the program with a sentence. */
#ifndef RP_FAKE_EMULATE_H
#define RP_FAKE_EMULATE_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __expf expf
#define RP_UNROLL
#define RP_DEVICE [[maybe_unused]] static inline
#define RP_KERNEL(name, args, threads) \
  static void name(const args &a); \
  extern "C" __attribute__((visibility("default"))) void emulated_##name(const void *p) { \
    emulate_threads_are(threads); \
    name(*(const args *)p); \
  } \
  static void name(const args &a)
#define RP_KERNEL_FIT(name, args, threads, blocks) RP_KERNEL(name, args, threads)
#define RP_SHARED(type, name) type *const name = (type *)emulated.shared

struct emulated_index {
  unsigned x, y, z;
};
struct emulated_state {
  emulated_index thread, block, block_size, grid;
  void *shared;
};
extern emulated_state emulated;
#define threadIdx emulated.thread
#define blockIdx emulated.block
#define blockDim emulated.block_size
#define gridDim emulated.grid

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
  return {x, y, z, w};
}
static inline double2 make_double2(double x, double y) { return {x, y}; }

/* ---- waiting ---- */

void emulate_threads_are(unsigned n);           /* as the launch said, else the program ends */
void emulate_stop();                            /* the launch fails */
void emulate_barrier(int id, unsigned threads); /* 0 threads: all of the block that are left */
/* Each lane of the warp gives `bytes` (64 at most) and gets those of all, [32][64], once all have come;
 * they stay until its next exchange. Lanes that ended give nothing. */
const unsigned char *emulate_exchange(const void *mine, unsigned bytes);

static inline void __syncthreads() { emulate_barrier(0, 0); }
static inline void __syncwarp(unsigned = ~0u) { emulate_exchange("", 1); }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

template <class T>
static inline T emulate_from(T x, unsigned lane) {
  const unsigned char *all = emulate_exchange(&x, sizeof x);
  T y;
  memcpy(&y, all + 64 * lane, sizeof y);
  return y;
}
template <class T>
static inline T __shfl_sync(unsigned, T x, int from, int width = 32) {
  const unsigned lane = emulated.thread.x % 32, w = (unsigned)width;
  return emulate_from(x, lane / w * w + (unsigned)from % w);
}
template <class T>
static inline T __shfl_xor_sync(unsigned, T x, int mask, int width = 32) {
  const unsigned lane = emulated.thread.x % 32, w = (unsigned)width, from = lane ^ (unsigned)mask;
  return emulate_from(x, from / w > lane / w ? lane : from);
}
template <class T>
static inline T __shfl_up_sync(unsigned, T x, unsigned by, int width = 32) {
  const unsigned lane = emulated.thread.x % 32, w = (unsigned)width;
  return emulate_from(x, lane % w >= by ? lane - by : lane);
}
template <class T>
static inline T __shfl_down_sync(unsigned, T x, unsigned by, int width = 32) {
  const unsigned lane = emulated.thread.x % 32, w = (unsigned)width;
  return emulate_from(x, lane % w + by < w ? lane + by : lane);
}
static inline unsigned __ballot_sync(unsigned, int x) {
  const int yes = x != 0;
  const unsigned char *all = emulate_exchange(&yes, sizeof yes);
  unsigned r = 0;
  for (unsigned i = 0; i < 32; i++) {
    int y;
    memcpy(&y, all + 64 * i, sizeof y);
    r |= (y == 1 ? 1u : 0u) << i;
  }
  return r;
}
static inline int __any_sync(unsigned m, int x) { return __ballot_sync(m, x) != 0; }

/* ---- one after the other, so nothing is atomic ---- */

template <class T>
static inline T atomicAdd(T *p, T x) {
  const T was = *p;
  *p = was + x;
  return was;
}
template <class T>
static inline T atomicMax(T *p, T x) {
  const T was = *p;
  if (x > was) *p = x;
  return was;
}
template <class T>
static inline T __ldg(const T *p) {
  return *p;
}
template <class T>
static inline T __ldcs(const T *p) {
  return *p;
}
template <class T>
static inline void __stcs(T *p, T x) {
  *p = x;
}

template <class T>
static inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
static inline T max(T a, T b) {
  return a < b ? b : a;
}
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }

/* ---- lane.h ---- */

static inline float emulate_f32_of_bits(uint32_t x) {
  float f;
  memcpy(&f, &x, 4);
  return f;
}
static inline uint32_t emulate_f32_bits(float f) {
  uint32_t x;
  memcpy(&x, &f, 4);
  return x;
}
uint16_t emulate_bf16(float x);
void emulate_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]);
void emulate_load_matrix_x4(uint32_t r[4], const void *row, bool trans);
void emulate_copy_async(void *to, const void *from, int bytes);
void emulate_copies_close_group();
void emulate_copies_wait(int pending);

/* ---- wgmma.h ---- */

/* Products are made when they are waited for: from their operands as they were when they began, which must
 * not have changed since. c: NaN meanwhile, unless added to. a: four registers, or NULL: a_at says where it lies. */
void emulate_mma(float *c, int columns, uint64_t a_at, const uint32_t *a, uint64_t b_at, bool add);
void emulate_mma_close_group();
void emulate_mma_wait(int pending);

uint32_t emulate_shared_at(const void *p); /* from the beginning of the shared memory */
void emulate_gate_open(uint64_t *gate, uint32_t count);
void emulate_gate_come(uint64_t *gate);
void emulate_gate_come_behind_copies(uint64_t *gate);
void emulate_gate_wait(uint64_t *gate, uint32_t turn);
void emulate_barrier_pass(int id, unsigned threads);

#endif
