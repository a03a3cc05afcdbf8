/* op_hopper.c - attention by the kernels of hopper.cu. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/op_hopper.h"

/* Of shorter rows the tiles would be mostly empty. */
enum { LONG = 64 };

static int64_t items_most(const rp_attend_args *a) {
  return ((int64_t)a->rows.tokens / RP_HOPPER_QUERIES + a->rows.count) * a->H;
}

bool rp_hopper_serves(const rp_cuda *g, const rp_attend_args *a) {
  return RATPLUS_CUDA_HOPPER && g->capability == 90 && a->h == 128 && a->rows.longest >= LONG &&
         items_most(a) < INT32_MAX;
}

void rp_hopper_put(const rp_cuda_run *r, const rp_attend_args *a, int few) {
  const rp_hopper_attend_args x = {*a, {r->scratch}, few};
  const int64_t items = items_most(a);
  const rp_cuda_grid grid = {items < r->g->processors ? items : r->g->processors, 1, 1,
                             RP_HOPPER_THREADS, RP_HOPPER_SHARED};
  if (r->err->status) return;
  const CUresult e = r->g->api->cuMemsetD8Async(r->scratch, 0, RP_HOPPER_SCRATCH, r->stream);
  if (e) rp_cuda_fail(r->g, e, "attend", r->err);
  RP_CUDA_LAUNCH(r, hopper_attend, grid, &x);
}

#endif
