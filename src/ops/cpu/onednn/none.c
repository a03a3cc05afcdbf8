/* none.c - the products of a build without oneDNN: there are none, and the level's own serve. */
#include "ops/cpu/products.h"

#if !RATPLUS_WITH_ONEDNN

bool rp_products_there(void) { return false; }

rp_status rp_products_open(rp_products **p, int threads, rp_error *err) {
  (void)threads;
  *p = NULL;
  return rp_fail(err, RP_FAIL, "built without oneDNN");
}

void rp_products_close(rp_products *p) { (void)p; }

void rp_products_gemm(rp_products *p, rp_cpu_ctx *c, const rp_gemm_args *a, size_t used) {
  (void)p, (void)a, (void)used;
  rp_fail(c->err, RP_FAIL, "built without oneDNN");
}

size_t rp_products_scratch(rp_products *p, const rp_gemm_args *a) {
  (void)p, (void)a;
  return 0;
}

const char *rp_products_name(void) { return "its own products"; }

#else
typedef int rp_products_are_elsewhere; /* an empty file is no C */
#endif
