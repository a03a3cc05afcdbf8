#include "fuzz.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/store_inner.h"

/* Any bytes as a .safetensors file: refused, or every tensor lies inside and reads. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char path[64];
  rp_error err = {0};
  const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  rp_store *s = rp_calloc(1, sizeof *s);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (fd >= 0 && s && write(fd, data, size) == (ssize_t)size &&
      !rp_safetensors_read(s, &s->tensors, path, &err) && !rp_table_sort(&s->tensors, path, &err)) {
    for (size_t i = 0; i < s->tensors.n; i++) {
      const rp_view *v = &s->tensors.v[i];
      uint64_t bytes = 0;
      if (!rp_view_bytes(v, &bytes)) abort();
      const int64_t n = (int64_t)bytes / rp_dtype_bytes(v->dtype);
      for (int64_t k = 0; k < n; k += 16) {
        float x[16];
        rp_view_get_f32(v, k, n - k < 16 ? n - k : 16, x);
      }
      if (rp_table_find(&s->tensors, v->name) != v) abort();
    }
    rp_told told;
    s->path = rp_strdup(path);
    if (s->path) (void)rp_store_told(s, &told, &err);
  }
  rp_store_close(s);
  if (fd >= 0) close(fd);
  return 0;
}
