/* bf16way.c - how this processor multiplies bfloat16: asked, known, or measured.
 *
 * What was measured (two threads, 2048^3): Zen 5 dot 850, widened 400 GFLOP/s; Emerald Rapids without
 * AMX (a virtual machine hides it) dot 170-185, widened 260-315. Both before gemm.c's broadcasts lost an
 * addition each (docs/kernels.md): widening has become faster since, twice as fast on Zen 3. */
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

/* Seconds of the fastest of some products in a way; 0 when it cannot be had. */
static double seconds_of(rp_bf16_way way, rp_error *err) {
  rp_device *d = NULL;
  rp_queue *q = NULL;
  rp_ptr m = {0};
  double best = 0;
  const size_t square = (size_t)SIDE * SIDE * 2;
  rp_bf16_way_force((int)way);
  const rp_status opened = rp_device_open(&d, RP_DEVICE_CPU, err);
  rp_bf16_way_force(-1);
  if (opened) return 0;
  if (rp_queue_open(&q, d, err) || rp_device_alloc(d, 3 * square, "a trial", &m, err)) goto done;
  const rp_gemm_args a = {.M = rp_products_there() ? SIDE : RP_FEW_ROWS, /* few.c has both */
                          .N = SIDE,
                          .K = SIDE,
                          .tb = 1,
                          .lda = SIDE,
                          .ldb = SIDE,
                          .ldc = SIDE,
                          .a = {m, RP_BF16},
                          .b = {rp_ptr_add(m, square), RP_BF16},
                          .c = {rp_ptr_add(m, 2 * square), RP_BF16}};
  if (rp_queue_reserve(q, rp_op_scratch(d, RP_OP_gemm, &a), err)) goto done;
  for (int i = 0; i <= ROUNDS; i++) {
    const double t = rp_now();
    rp_op_gemm(q, &a);
    if (rp_wait(q, err)) break;
    const double took = rp_now() - t;
    if (i > 0 && (best == 0 || took < best)) best = took;
  }
done:
  rp_queue_close(q);
  rp_device_close(d);
  return err->status ? 0 : best;
}

static rp_bf16_way measured(void) {
  rp_error err = {0};
  const double dot = seconds_of(RP_BF16_DOT, &err);
  const double wide = seconds_of(RP_BF16_WIDEN, &err);
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
  if (rp_cpu_now() < RP_CPU_AVX512_BF16) return;
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
  if (force >= 0) { /* also from inside choose() */
    if (reason) *reason = RP_WAY_ASKED;
    return (rp_bf16_way)force;
  }
  pthread_once(&once, choose);
  if (reason) *reason = why;
  return chosen;
}
