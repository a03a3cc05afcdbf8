/* kern.h - how the CPU's levels are laid out.
 *
 * The sources in kern/ are the specification in plain C. They are compiled once per level (ref, avx2,
 * avx512) with that level's flags and once in double (ref64); RP_LEVEL names the build, so every
 * function defined there is called rp_<op>_<level>. Each build fills one table; tests compare every
 * level with ref64. The level avx512_bf16 builds only what multiplies bfloat16 itself, by the
 * processor's products of pairs (vec.h); the rest, and float32, is avx512's.
 *
 * An implementation is one threaded driver (OpenMP, c->threads): it splits its work by shape, never by
 * scheduling, takes scratch from c->scratch and never allocates. */
#ifndef RP_OPS_CPU_KERN_H
#define RP_OPS_CPU_KERN_H

#include "base/cpu.h"
#include "ops/ops.h"

typedef struct rp_cpu_ctx rp_cpu_ctx;
struct rp_cpu_ctx {
  uint8_t *scratch; /* 64-byte aligned, as large as the op's scratch function said */
  size_t scratch_bytes;
  int threads;
  /* The products of this device: oneDNN's, or the level's own rp_gemm. Takes scratch after `used`
   * bytes of c->scratch. */
  void (*gemm)(rp_cpu_ctx *c, const rp_gemm_args *a, size_t used);
  size_t (*gemm_scratch)(const rp_cpu_ctx *c, const rp_gemm_args *a);
  const void *products; /* the products' own data */
  rp_error *err; /* first error of the queue: rp_fail(c->err, ...) in the driver, then return */
};

typedef void (*rp_cpu_op)(rp_cpu_ctx *c, const void *args);
typedef size_t (*rp_cpu_scratch)(const rp_cpu_ctx *c, const void *args);
typedef struct {
  rp_cpu_op run[RP_OP_COUNT];
  rp_cpu_scratch scratch[RP_OP_COUNT]; /* NULL: none */
  /* The level's own product, for ctx.gemm where there is no library. */
  void (*gemm)(rp_cpu_ctx *c, const rp_gemm_args *a, size_t used);
  size_t (*gemm_scratch)(const rp_cpu_ctx *c, const rp_gemm_args *a);
  /* The product where rp_gemm_is_few. */
  void (*few)(rp_cpu_ctx *c, const rp_gemm_args *a, size_t used);
  size_t (*few_scratch)(const rp_cpu_ctx *c, const rp_gemm_args *a);
} rp_cpu_table;

/* Few rows times a weight as it lies: bounded by reading the weight. Up to this bound a row of c has
 * the same bits whatever the other rows are and however many there are. */
enum { RP_FEW_ROWS = 32 };
static inline bool rp_gemm_is_few(const rp_gemm_args *a) {
  return a->M <= RP_FEW_ROWS && a->tb && !a->ta;
}

extern const rp_cpu_table rp_cpu_table_ref, rp_cpu_table_ref64;
#if defined(__x86_64__)
extern const rp_cpu_table rp_cpu_table_avx2, rp_cpu_table_avx512, rp_cpu_table_avx512_bf16;
#endif

/* Inside kern/: the level's own name of a function, and the element type of `real`. */
#ifdef RP_LEVEL
#define RP_PASTE2(a, b) a##_##b
#define RP_PASTE(a, b) RP_PASTE2(a, b)
#define RP_LEVEL_NAME(name) RP_PASTE(name, RP_LEVEL)
#ifdef RP_REAL_DOUBLE
typedef double rp_real;
#define RP_REAL RP_F64
#else
typedef float rp_real;
#define RP_REAL RP_F32
#endif
/* The name of the build that has everything: this one, or the one below it. */
#ifdef __AVX512BF16__
#define RP_BASE_NAME(name) RP_PASTE(name, avx512)
#else
#define RP_BASE_NAME(name) RP_LEVEL_NAME(name)
#endif
/* The level's own product; its scratch begins `used` bytes into c->scratch. */
void RP_BASE_NAME(rp_gemm_plain)(rp_cpu_ctx *c, const rp_gemm_args *a, size_t used);
size_t RP_BASE_NAME(rp_gemm_plain_scratch)(const rp_cpu_ctx *c, const rp_gemm_args *a);
#define RP_FEW(name) \
  void name(rp_gemm_few)(rp_cpu_ctx * c, const rp_gemm_args *a, size_t used); \
  size_t name(rp_gemm_few_scratch)(const rp_cpu_ctx *c, const rp_gemm_args *a);
RP_FEW(RP_LEVEL_NAME)
#ifdef __AVX512BF16__
RP_FEW(RP_BASE_NAME)
#endif
#undef RP_FEW
#endif

#endif
