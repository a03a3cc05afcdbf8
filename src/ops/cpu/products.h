/* products.h - matrix products by a library, and how this processor multiplies bfloat16.
 *
 * oneDNN makes a primitive for a shape; they are kept, so that the second product of a shape
 * allocates nothing. Any thread may use one rp_products; products then run one after another. */
#ifndef RP_OPS_CPU_PRODUCTS_H
#define RP_OPS_CPU_PRODUCTS_H

#include "ops/cpu/kern.h"

typedef struct rp_products rp_products;

/* Whether a library for products is built in. */
bool rp_products_there(void);
/* RP_FAIL "built without oneDNN" where there is none. */
rp_status rp_products_open(rp_products **p, int threads, rp_error *err);
void rp_products_close(rp_products *p); /* NULL is fine */
/* As ctx.gemm and ctx.gemm_scratch. */
void rp_products_gemm(rp_products *p, rp_cpu_ctx *c, const rp_gemm_args *a, size_t used);
size_t rp_products_scratch(rp_products *p, const rp_gemm_args *a);
/* "oneDNN 2.6.3"; static. */
const char *rp_products_name(void);

/* Products of bfloat16 with float32 sums run through the processor's bfloat16 dot product (or AMX), or
 * through float32 multiply-adds on panels widened while they are packed (kern/gemm.c). The products
 * are the same, only the sums round differently. The way dot also means the kernels of the level
 * avx512_bf16 (kern.h), with or without a library; large products need the library for it. */
typedef enum { RP_BF16_WIDEN, RP_BF16_DOT } rp_bf16_way;
const char *rp_bf16_way_name(rp_bf16_way way); /* "widen", "dot" */

/* Why a way was chosen. */
typedef enum { RP_WAY_ASKED, RP_WAY_TABLE, RP_WAY_MEASURED, RP_WAY_ONLY } rp_way_reason;
/* Of this processor: RATPLUS_BF16=dot|widen, else a table by family, else a measurement of some
 * milliseconds; decided once. reason may be NULL. */
rp_bf16_way rp_bf16_way_now(rp_way_reason *reason);
/* Benchmarks and tests: the way of devices opened from now on; -1 gives the choice back. */
void rp_bf16_way_force(int way);

#endif
