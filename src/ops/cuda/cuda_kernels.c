/* cuda_kernels.c - loads the modules that cmake/Cuda.cmake built into this library, and launches. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include "ops/cuda/cuda_kernels.h"

/* The files that nvcc made, as they lie in the library. */
#define NAME_OF(name) #name
#define RP_M(module, list) \
  __asm__( \
      ".pushsection .rodata,\"a\",@progbits\n" \
      ".balign 64\n" \
      ".hidden rp_cuda_image_" #module \
      "\n" \
      ".globl rp_cuda_image_" #module \
      "\n" \
      "rp_cuda_image_" #module \
      ":\n" \
      ".incbin \"" RATPLUS_CUDA_IMAGES "/" #module \
      ".fatbin\"\n" \
      ".popsection\n"); \
  extern const char rp_cuda_image_##module[];
RP_CUDA_MODULES(RP_M)
#undef RP_M

#define RP_M(module, list) MODULE_##module,
enum { RP_CUDA_MODULES(RP_M) MODULES };
#undef RP_M

#define RP_M(module, list) rp_cuda_image_##module,
static const char *const images[] = {RP_CUDA_MODULES(RP_M)};
#undef RP_M

#define RP_X(name) NAME_OF(name),
#define RP_M(module, list) list(RP_X)
static const char *const names[] = {RP_CUDA_MODULES(RP_M)};
#undef RP_X
#undef RP_M
#define RP_X(name) +1
#define RP_M(module, list) [MODULE_##module] = 0 list(RP_X),
static const int counts[] = {RP_CUDA_MODULES(RP_M)}; /* kernels of each module */
#undef RP_X
#undef RP_M

struct rp_cuda_kernels {
  CUmodule module[MODULES];
  CUfunction function[RP_KERN_COUNT];
};

/* A launch may ask for as much dynamic shared memory as the GPU has. */
static CUresult find(CUfunction *f, const rp_cuda *g, CUmodule m, const char *name) {
  int most = 0, own = 0;
  CUresult r = g->api->cuModuleGetFunction(f, m, name);
  if (!r)
    r = g->api->cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                                     g->gpu);
  if (!r) r = g->api->cuFuncGetAttribute(&own, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, *f);
  if (!r)
    r = g->api->cuFuncSetAttribute(*f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most - own);
  return r;
}

static CUresult load(rp_cuda_kernels *k, const rp_cuda *g) {
  int next = 0;
  for (int m = 0; m < MODULES; m++) {
    CUresult r = g->api->cuModuleLoadData(&k->module[m], images[m]);
    for (int i = 0; i < counts[m] && !r; i++, next++)
      r = find(&k->function[next], g, k->module[m], names[next]);
    if (r) return r;
  }
  return CUDA_SUCCESS;
}

rp_status rp_cuda_kernels_open(rp_cuda_kernels **out, const rp_cuda *g, rp_error *err) {
  rp_cuda_kernels *k = *out = rp_calloc(1, sizeof *k);
  if (!k) return rp_fail_memory(err, sizeof *k, "kernels");
  const CUresult r = load(k, g);
  if (r == CUDA_ERROR_NO_BINARY_FOR_GPU)
    return rp_fail(err, RP_USAGE,
                   "%s is older than the kernels of this build (compute capability 8.0 or newer)",
                   g->label);
  return r ? rp_cuda_fail(g, r, "loading kernels", err) : RP_OK;
}

void rp_cuda_kernels_close(rp_cuda_kernels *k, const rp_cuda *g) {
  if (!k) return;
  for (int m = 0; m < MODULES; m++)
    if (k->module[m]) g->api->cuModuleUnload(k->module[m]);
  rp_free(k);
}

void rp_cuda_launch(const rp_cuda_run *r, rp_cuda_kern kern, rp_cuda_grid grid, const void *args,
                    size_t bytes) {
  const rp_cuda *g = r->g;
  const rp_cuda_kernels *k = g->kernels;
  if (r->err->status || !grid.x || !grid.y || !grid.z) return;
  if (grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535) {
    rp_fail(r->err, RP_FAIL, "kernel %s: too many blocks (%lld, %lld, %lld)", names[kern],
            (long long)grid.x, (long long)grid.y, (long long)grid.z);
    return;
  }
  void *const how[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, (void *)args, CU_LAUNCH_PARAM_BUFFER_SIZE,
                       &bytes, CU_LAUNCH_PARAM_END};
  const CUresult e = g->api->cuLaunchKernel(k->function[kern], (unsigned)grid.x, (unsigned)grid.y,
                                            (unsigned)grid.z, (unsigned)grid.threads, 1, 1,
                                            (unsigned)grid.shared, r->stream, NULL, (void **)how);
  if (e) rp_cuda_fail(g, e, names[kern], r->err);
}

#endif
