#include "fuzz.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/str.h"
#include "model/crc32.h"
#include "model/store_inner.h"

static void put(rp_str *b, uint64_t x, int bytes) {
  for (int i = 0; i < bytes; i++) {
    const char c = i < 8 ? (char)(x >> (8 * i)) : 0;
    rp_str_addn(b, &c, 1);
  }
}

static void put_header(rp_str *b, bool central, const char *name, const void *data, size_t size,
                       uint32_t at) {
  put(b, central ? 0x02014b50 : 0x04034b50, 4);
  if (central) put(b, 20, 2);
  put(b, 20, 2);
  put(b, 0, 8);
  put(b, rp_crc32(data, size), 4);
  put(b, size, 4);
  put(b, size, 4);
  put(b, strlen(name), 2);
  put(b, 0, 2);
  if (central) put(b, 0, 10);
  if (central) put(b, at, 4);
  rp_str_add(b, name);
}

/* A .pth whose pickle is the input, with three storages of zeros. */
static void make_archive(rp_str *b, const uint8_t *data, size_t size) {
  static const char *const names[] = {"a/data.pkl", "a/data/0", "a/data/1", "a/data/2"};
  static const char zeros[4096];
  uint32_t at[4];
  for (int i = 0; i < 4; i++) {
    const void *d = i ? (const void *)zeros : data;
    const size_t n = i ? sizeof zeros : size;
    at[i] = (uint32_t)b->len;
    put_header(b, false, names[i], d, n, 0);
    rp_str_addn(b, d, n);
  }
  const size_t directory = b->len;
  for (int i = 0; i < 4; i++)
    put_header(b, true, names[i], i ? (const void *)zeros : data, i ? sizeof zeros : size, at[i]);
  const size_t end = b->len;
  put(b, 0x06054b50, 4);
  put(b, 0, 4);
  put(b, 4, 2);
  put(b, 4, 2);
  put(b, end - directory, 4);
  put(b, directory, 4);
  put(b, 0, 2);
}

/* What a caller does with a file that opened. */
static void use(rp_store *s) {
  static const char *const words[] = {"model.backbone.seq_cell.d_head=4"};
  rp_error err = {0};
  rp_model_settings m;
  rp_shape shape = {0};
  if (!rp_store_model(s, words, 1, &m, &err)) {
    if ((int64_t)m.N * m.d * m.f < 100000 && !rp_shape_make(&shape, &m, &err) &&
        !rp_store_check(s, &shape, &err)) {
      for (int i = 0; i < shape.n; i++) {
        const rp_param *p = &shape.p[i];
        float *x = rp_malloc((size_t)(p->rows * p->cols), sizeof *x);
        bool has;
        if (x) (void)rp_store_get_f32(s, p, x, &err);
        if (x) (void)rp_store_moment_f32(s, &shape, p, "exp_avg", x, &has, &err);
        rp_free(x);
      }
    }
  }
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
}

/* Any bytes as the pickle of a .pth: refused, or used without harm. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char path[64];
  rp_error err = {0};
  rp_str b = {0};
  rp_store *s;
  const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  if (fd < 0) return 0;
  make_archive(&b, data, size);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (!b.failed && write(fd, b.s, b.len) == (ssize_t)b.len && !rp_store_open(&s, path, &err)) {
    use(s);
    rp_store_close(s);
  }
  rp_str_free(&b);
  close(fd);
  return 0;
}
