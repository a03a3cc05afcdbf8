/* bf16way.c - how this processor multiplies bfloat16: asked, known, or measured.
 *
 * What was measured (two threads, 2048^3): Zen 5 dot 850, widened 400 GFLOP/s; Emerald Rapids without
 * AMX (a virtual machine hides it) dot 170-185, widened 260-315. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/log.h"
#include "ops/cpu/products.h"

enum { SIDE = 512, ROUNDS = 3 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static rp_bf16_way chosen;
static rp_way_reason why;
static _Atomic(int) forced = -1;

const char *rp_bf16_way_name(rp_bf16_way way) { return way == RP_BF16_DOT ? "dot" : "widen"; }

void rp_bf16_way_force(int way) { atomic_store(&forced, way); }

/* Seconds of the fastest product of SIDE^3 in a way; 0 when it cannot be had. */
static double seconds_of(rp_bf16_way way, uint8_t *buffer) {
  rp_products *p;
  rp_error err = {0};
  rp_bf16_way_force((int)way);
  const rp_status opened = rp_products_open(&p, rp_threads(), &err);
  rp_bf16_way_force(-1);
  if (opened) return 0;
  rp_cpu_ctx c = {.threads = rp_threads(), .products = p, .err = &err};
  const size_t square = (size_t)SIDE * SIDE * 2;
  const rp_gemm_args a = {.M = SIDE, .N = SIDE, .K = SIDE, .tb = 1, .lda = SIDE, .ldb = SIDE,
                          .ldc = SIDE, .a = {{(uintptr_t)buffer}, RP_BF16},
                          .b = {{(uintptr_t)buffer + square}, RP_BF16},
                          .c = {{(uintptr_t)buffer + 2 * square}, RP_BF16}};
  double best = 0;
  c.scratch_bytes = rp_products_scratch(&c, &a);
  c.scratch = rp_malloc(c.scratch_bytes + 64, 1);
  for (int i = 0; c.scratch && i <= ROUNDS; i++) {
    const double t = rp_now();
    rp_products_gemm(&c, &a, 0);
    const double took = rp_now() - t;
    if (i > 0 && (best == 0 || took < best)) best = took;
  }
  rp_free(c.scratch);
  rp_products_close(p);
  return err.status ? 0 : best;
}

static rp_bf16_way measured(void) {
  uint8_t *buffer = rp_calloc(3 * (size_t)SIDE * SIDE, 2);
  if (!buffer) return RP_BF16_WIDEN;
  const double dot = seconds_of(RP_BF16_DOT, buffer), wide = seconds_of(RP_BF16_WIDEN, buffer);
  rp_free(buffer);
  return dot > 0 && (wide == 0 || dot < wide) ? RP_BF16_DOT : RP_BF16_WIDEN;
}

/* Families whose rates are known. */
static bool known(const rp_cpu_info *cpu, rp_bf16_way *way) {
  const bool amd = strcmp(cpu->vendor, "AuthenticAMD") == 0;
  const bool intel = strcmp(cpu->vendor, "GenuineIntel") == 0;
  *way = RP_BF16_DOT;
  if (cpu->amx_bf16) return true;
  if (amd && (cpu->family == 25 || cpu->family == 26)) return true; /* Zen 4, Zen 5 */
  *way = RP_BF16_WIDEN;
  return intel;
}

static void choose(void) {
  const char *asked = getenv("RATPLUS_BF16");
  const rp_cpu_info *cpu = rp_cpu();
  chosen = RP_BF16_WIDEN;
  why = RP_WAY_ONLY;
  if (!rp_products_there() || !cpu->avx512_bf16 || rp_cpu_now() < RP_CPU_AVX512) return;
  why = RP_WAY_ASKED;
  if (asked && strcmp(asked, "widen") == 0) return;
  if (asked && strcmp(asked, "dot") == 0) {
    chosen = RP_BF16_DOT;
    return;
  }
  why = RP_WAY_TABLE;
  if (known(cpu, &chosen)) return;
  why = RP_WAY_MEASURED;
  chosen = measured();
}

rp_bf16_way rp_bf16_way_now(rp_way_reason *reason) {
  const int force = atomic_load(&forced);
  if (force >= 0) { /* also from inside choose(), which measures */
    if (reason) *reason = RP_WAY_ASKED;
    return (rp_bf16_way)force;
  }
  pthread_once(&once, choose);
  if (reason) *reason = why;
  return chosen;
}
