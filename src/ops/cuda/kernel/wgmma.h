/* wgmma.h - products of a warpgroup, barriers in shared memory: PTX of sm_90a, for the bodies that are
 * compiled for it alone.
 *
 * A warpgroup is four warps that follow each other, the first of them a multiple of four. c[64 x N] of it: with
 * w = warp % 4, g = lane / 4 and p = lane % 4, c[4j ..] holds (16w + g, 8j + 2p), (16w + g, 8j + 2p + 1), and the
 * same of row 16w + g + 8. Operands in shared memory lie in rows of 64 elements, 128 bytes, the first at a multiple
 * of 1024 bytes; the eighth e of row r is at place e ^ r % 8 of the row. */
#ifndef RP_OPS_CUDA_KERNEL_WGMMA_H
#define RP_OPS_CUDA_KERNEL_WGMMA_H

#include "ops/cuda/kernel/lane.h"

#ifdef RP_EMULATE
RP_DEVICE uint32_t shared_at(const void *p) { return emulate_shared_at(p); }
#endif

/* ---- operands ---- */

/* Rows are rows of the product (or its columns), what is summed over lies along them: at `at` 16 elements,
 * 16 more 32 bytes on. */
RP_DEVICE uint64_t mma_along(uint32_t at) {
  return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 16 | at >> 4;
}
/* Rows are summed over: at `at` 16 of them, 16 more 2048 bytes on; columns of the product lie along them, the
 * next 64 so many bytes on. */
RP_DEVICE uint64_t mma_across(uint32_t at, uint32_t next) {
  return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)(next >> 4) << 16 | at >> 4;
}

/* ---- products, which go on behind the warpgroup's back ---- */

/* Before the first of them, and after registers of theirs were written. */
RP_DEVICE void mma_fence() {
#ifndef RP_EMULATE
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
RP_DEVICE void mma_close_group() {
#ifdef RP_EMULATE
  emulate_mma_close_group();
#else
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
/* Until at most `pending` of the newest groups are under way. */
template <int pending>
RP_DEVICE void mma_wait() {
#ifdef RP_EMULATE
  emulate_mma_wait(pending);
#else
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#endif
}
/* What a product made is not read above this. */
template <int n>
RP_DEVICE void mma_made(float (&c)[n]) {
#ifdef RP_EMULATE
  (void)c;
#else
  RP_UNROLL
  for (int i = 0; i < n; i++) asm volatile("" : "+f"(c[i])::"memory");
#endif
}

/* What a product takes from registers is made above this. */
template <int n>
RP_DEVICE void mma_given(uint32_t (&a)[n][4]) {
#ifdef RP_EMULATE
  (void)a;
#else
  RP_UNROLL
  for (int i = 0; i < 4 * n; i++) asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
#endif
}

#define RP_MMA_4(c, i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define RP_MMA_16(c, i) RP_MMA_4(c, i), RP_MMA_4(c, i + 4), RP_MMA_4(c, i + 8), RP_MMA_4(c, i + 12)

#define RP_MMA_NEW_4(c, i) "=f"(c[i]), "=f"(c[i + 1]), "=f"(c[i + 2]), "=f"(c[i + 3])
#define RP_MMA_NEW_16(c, i) \
  RP_MMA_NEW_4(c, i), RP_MMA_NEW_4(c, i + 4), RP_MMA_NEW_4(c, i + 8), RP_MMA_NEW_4(c, i + 12)

/* c = a b, or with `add` c += a b, over 16: a [64][16], b [N][16], both from mma_along. */
RP_DEVICE void mma_shared(float (&c)[32], uint64_t a, uint64_t b, int add) {
#ifdef RP_EMULATE
  emulate_mma(c, 64, a, nullptr, b, add);
#else
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, p, 1, 1, 0, 0;\n}"
      : RP_MMA_16(c, 0), RP_MMA_16(c, 16)
      : "l"(a), "l"(b), "r"(add));
#endif
}
RP_DEVICE void mma_shared(float (&c)[64], uint64_t a, uint64_t b, int add) {
#ifdef RP_EMULATE
  emulate_mma(c, 128, a, nullptr, b, add);
#else
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, p, 1, 1, 0, 0;\n}"
      : RP_MMA_16(c, 0), RP_MMA_16(c, 16), RP_MMA_16(c, 32), RP_MMA_16(c, 48)
      : "l"(a), "l"(b), "r"(add));
#endif
}
/* c = a b, of which nothing was there before. */
RP_DEVICE void mma_shared_new(float (&c)[32], uint64_t a, uint64_t b) {
#ifdef RP_EMULATE
  emulate_mma(c, 64, a, nullptr, b, false);
#else
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, %32, %33, p, 1, 1, 0, 0;\n}"
      : RP_MMA_NEW_16(c, 0), RP_MMA_NEW_16(c, 16)
      : "l"(a), "l"(b));
#endif
}
RP_DEVICE void mma_shared_new(float (&c)[64], uint64_t a, uint64_t b) {
#ifdef RP_EMULATE
  emulate_mma(c, 128, a, nullptr, b, false);
#else
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, %64, %65, p, 1, 1, 0, 0;\n}"
      : RP_MMA_NEW_16(c, 0), RP_MMA_NEW_16(c, 16), RP_MMA_NEW_16(c, 32), RP_MMA_NEW_16(c, 48)
      : "l"(a), "l"(b));
#endif
}
/* The same of a in registers, as in mma_bf16 (lane.h) of each warp's 16 rows, and b [16][N] from mma_across. */
RP_DEVICE void mma_regs(float (&c)[64], const uint32_t (&a)[4], uint64_t b, int add) {
#ifdef RP_EMULATE
  emulate_mma(c, 128, 0, a, b, add);
#else
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"
      : RP_MMA_16(c, 0), RP_MMA_16(c, 16), RP_MMA_16(c, 32), RP_MMA_16(c, 48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
#endif
}
RP_DEVICE void mma_regs(float (&c)[32], const uint32_t (&a)[4], uint64_t b, int add) {
#ifdef RP_EMULATE
  emulate_mma(c, 64, 0, a, b, add);
#else
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"
      : RP_MMA_16(c, 0), RP_MMA_16(c, 16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
#endif
}

/* Shared memory that others wrote by plain stores or copies, and that this thread knows to be there, is there
 * for its products as well. */
RP_DEVICE void mma_sees_shared() {
#ifndef RP_EMULATE
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* ---- barriers in shared memory ---- */

/* Turn 0, 1, 0, ... of a barrier ends when so many have come. */
RP_DEVICE void gate_open(uint64_t *gate, uint32_t count) {
#ifdef RP_EMULATE
  emulate_gate_open(gate, count);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(gate)), "r"(count)
               : "memory");
#endif
}
RP_DEVICE void gate_come(uint64_t *gate) {
#ifdef RP_EMULATE
  emulate_gate_come(gate);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_at(gate)) : "memory");
#endif
}
/* Comes when the copies that this thread began are done. */
RP_DEVICE void gate_come_behind_copies(uint64_t *gate) {
#ifdef RP_EMULATE
  emulate_gate_come_behind_copies(gate);
#else
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_at(gate))
               : "memory");
#endif
}
/* Until the turn is over. That before the first, 1, is. */
RP_DEVICE void gate_wait(uint64_t *gate, uint32_t turn) {
#ifdef RP_EMULATE
  emulate_gate_wait(gate, turn);
#else
  uint32_t over;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(over)
        : "r"(shared_at(gate)), "r"(turn)
        : "memory");
  } while (!over);
#endif
}

/* Barriers 1 .. 15 of `threads`; pass comes and does not wait. */
RP_DEVICE void barrier_wait(int id, int threads) {
#ifdef RP_EMULATE
  emulate_barrier(id, (unsigned)threads);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}
RP_DEVICE void barrier_pass(int id, int threads) {
#ifdef RP_EMULATE
  emulate_barrier_pass(id, (unsigned)threads);
#else
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

/* The 128 bytes at `at`, of global memory, come to the L2 cache. */
RP_DEVICE void ask_line(uintptr_t at) {
#ifdef RP_EMULATE
  (void)at;
#else
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
#endif
}

/* So many registers for each thread of this warpgroup from here on. */
template <int n>
RP_DEVICE void take_registers() {
#ifndef RP_EMULATE
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(n));
#endif
}
template <int n>
RP_DEVICE void leave_registers() {
#ifndef RP_EMULATE
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(n));
#endif
}

#endif
