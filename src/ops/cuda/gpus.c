/* gpus.c - what the driver says of the GPUs. */
#include "ops/cuda/gpus.h"

#include <stdatomic.h>

static atomic_int chosen;

void rp_gpus_choose(int gpu) { atomic_store(&chosen, gpu); }

rp_status rp_gpus_mine(int n, int *gpu, rp_error *err) {
  *gpu = n == 1 ? 0 : atomic_load(&chosen);
  if (n < 1) return rp_fail(err, RP_USAGE, "the CUDA driver shows no GPU");
  if (*gpu < n) return RP_OK;
  return rp_fail(
      err, RP_USAGE,
      "rank %d of this machine has no GPU of its own: the CUDA driver shows %d; start at "
      "most %d ranks a machine",
      *gpu, n, n);
}

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_api.h"

static CUresult look(const rp_cuda_api *api, int i, rp_gpu *g) {
  CUdevice d;
  CUresult r = api->cuDeviceGet(&d, i);
  if (!r) r = api->cuDeviceGetName(g->name, sizeof g->name, d);
  if (!r) r = api->cuDeviceTotalMem(&g->bytes, d);
  if (!r) r = api->cuDeviceGetAttribute(&g->major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, d);
  if (!r) r = api->cuDeviceGetAttribute(&g->minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, d);
  return r;
}

rp_status rp_gpus(rp_gpu *list, int most, int *n, int *version, rp_error *err) {
  const rp_cuda_api *api;
  *n = *version = 0;
  RP_TRY(rp_cuda_load(&api, false, err));
  CUresult r = api->cuDriverGetVersion(version);
  if (!r) r = api->cuDeviceGetCount(n);
  if (!r && !*n) return rp_fail(err, RP_USAGE, "the CUDA driver shows no GPU");
  for (int i = 0; i < *n && i < most && !r; i++) r = look(api, i, &list[i]);
  return r ? rp_fail(err, RP_FAIL, "the CUDA driver: %s", rp_cuda_error(api, r)) : RP_OK;
}

#else

rp_status rp_gpus(rp_gpu *list, int most, int *n, int *version, rp_error *err) {
  (void)list, (void)most;
  *n = *version = 0;
  return rp_fail(err, RP_USAGE, "this build has no CUDA");
}

#endif
