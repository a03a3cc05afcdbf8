/* kind.c - what all kinds of layer share: arenas, dry runs, linear layers. */
#include "model/kind.h"

rp_ptr rp_carve_take(rp_carve *c, size_t bytes) {
  if (!c->used) c->used = 64; /* a dry arena starts at 0, which would be "none" */
  rp_ptr p = {c->base + c->used};
  c->used += (bytes + 63) & ~(size_t)63;
  if (c->used > c->peak) c->peak = c->used;
  return p;
}

void rp_run_note(rp_run *r, rp_op op, const void *args) {
  size_t s = rp_op_scratch(r->dev, op, args);
  if (s > r->scratch) r->scratch = s;
}

rp_tensor rp_run_tmp(rp_run *r, rp_dtype dtype, int64_t elements) {
  size_t bytes = (size_t)elements * (size_t)rp_dtype_bytes(dtype);
  return (rp_tensor){rp_carve_take(&r->tmp, bytes), dtype};
}

rp_tensor rp_run_rounded(rp_run *r, rp_tensor t, int64_t elements) {
  if (t.dtype == r->compute) return t;
  rp_tensor out = rp_run_tmp(r, r->compute, elements);
  RP_PUT(r, cast, {elements, t, out});
  return out;
}

void rp_linear(rp_run *r, rp_tensor x, int64_t ldx, rp_tensor w, int out, int in, rp_tensor y,
               bool add) {
  RP_PUT(r, gemm,
         {.M = r->n,
          .N = out,
          .K = in,
          .tb = 1,
          .accumulate = add,
          .lda = ldx,
          .ldb = in,
          .ldc = out,
          .a = x,
          .b = w,
          .c = y});
}

void rp_linear_grad_w(rp_run *r, rp_tensor dy, rp_tensor x, int out, int in, rp_tensor g) {
  RP_PUT(r, gemm,
         {.M = out,
          .N = in,
          .K = r->n,
          .ta = 1,
          .accumulate = 1,
          .lda = out,
          .ldb = in,
          .ldc = in,
          .a = dy,
          .b = x,
          .c = g});
}

void rp_linear_grad_x(rp_run *r, rp_tensor dy, rp_tensor w, int out, int in, rp_tensor dx) {
  RP_PUT(
      r, gemm,
      {.M = r->n, .N = in, .K = out, .lda = out, .ldb = in, .ldc = in, .a = dy, .b = w, .c = dx});
}
