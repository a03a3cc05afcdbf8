/* cuda_api.c - opens the libraries of CUDA and finds their functions. */
#include "base/error.h"

#if RATPLUS_WITH_CUDA

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "ops/cuda/cuda_api.h"

#define NAME_OF(name) #name
#define RP_X(name) {NAME_OF(name), offsetof(rp_cuda_api, name)},
typedef struct {
  const char *name;
  size_t at; /* in the table */
} function;
static const function driver[] = {RP_CUDA_DRIVER(RP_X)}, blas[] = {RP_CUDA_BLAS(RP_X)};
#undef RP_X
#define COUNT(list) (sizeof(list) / sizeof *(list))

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
static const char driver_file[] = "libcuda.so.1";
static const char blas_file[] = "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR);

static rp_cuda_api table;
static rp_error driver_error, blas_error;
static pthread_once_t driver_once = PTHREAD_ONCE_INIT, blas_once = PTHREAD_ONCE_INIT;

static void find(void *library, const char *file, const function *f, size_t n, rp_error *err) {
  for (size_t i = 0; i < n; i++) {
    void *at = dlsym(library, f[i].name);
    if (!at) {
      rp_fail(err, RP_USAGE, "%s has no %s; this build is for CUDA %d.%d", file, f[i].name,
              CUDA_VERSION / 1000, CUDA_VERSION % 1000 / 10);
      return;
    }
    memcpy((char *)&table + f[i].at, &at, sizeof at);
  }
}

static void start_driver(void) {
  rp_error *err = &driver_error;
  int version = 0;
  void *library = dlopen(driver_file, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    rp_fail(err, RP_USAGE, "no CUDA driver (%s)", dlerror());
    return;
  }
  find(library, driver_file, driver, COUNT(driver), err);
  if (err->status) return;
  const CUresult r = table.cuInit(0);
  if (r != CUDA_SUCCESS)
    rp_fail(err, RP_USAGE, "the CUDA driver does not start: %s", rp_cuda_error(&table, r));
  else if (table.cuDriverGetVersion(&version) || version / 1000 < CUDA_VERSION / 1000)
    rp_fail(err, RP_USAGE, "the driver is for CUDA %d.%d and this build for CUDA %d.%d",
            version / 1000, version % 1000 / 10, CUDA_VERSION / 1000, CUDA_VERSION % 1000 / 10);
}

/* Where the loader looks, then where CUDA is installed. */
static void *open_blas(char *why, size_t size) {
  const char *const set[] = {getenv("CUDA_PATH"), getenv("CUDA_HOME"), "/usr/local/cuda"};
  void *library = dlopen(blas_file, RTLD_NOW | RTLD_LOCAL);
  if (!library) rp_snprintf(why, size, "%s", dlerror());
  for (size_t i = 0; i < COUNT(set) && !library; i++) {
    char path[4096];
    if (!set[i] || !*set[i]) continue;
    rp_snprintf(path, sizeof path, "%s/lib64/%s", set[i], blas_file);
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  }
  return library;
}

static void start_blas(void) {
  char why[512];
  void *library = open_blas(why, sizeof why);
  if (!library)
    rp_fail(&blas_error, RP_USAGE,
            "no cuBLASLt (%s; it comes with CUDA, and LD_LIBRARY_PATH or CUDA_PATH can name its "
            "place)",
            why);
  else
    find(library, blas_file, blas, COUNT(blas), &blas_error);
}

rp_status rp_cuda_load(const rp_cuda_api **api, bool with_blas, rp_error *err) {
  *api = &table;
  pthread_once(&driver_once, start_driver);
  if (driver_error.status) return rp_fail(err, driver_error.status, "%s", driver_error.text);
  if (!with_blas) return RP_OK;
  pthread_once(&blas_once, start_blas);
  return blas_error.status ? rp_fail(err, blas_error.status, "%s", blas_error.text) : RP_OK;
}

const char *rp_cuda_error(const rp_cuda_api *api, CUresult r) {
  const char *text = NULL;
  return api->cuGetErrorString(r, &text) || !text ? "an error it has no name for" : text;
}

#endif
