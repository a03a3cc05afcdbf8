#include "fuzz.h"

#include <stdio.h>
#include <unistd.h>

#include "data/loader.h"

enum { SETTINGS = 8, ROOM = 64 * 64 };

static char folder[64];

static void remove_folder(void) { rp_remove_tree(folder, NULL); }

static const char *write_file(const char *name, const uint8_t *data, size_t n) {
  static char paths[2][128];
  static int at;
  char *path = paths[at++ % 2];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  FILE *f = fopen(path, "wb");
  if (f) {
    fwrite(data, 1, n, f);
    fclose(f);
  }
  return path;
}

/* Eight bytes choose the loader, a length the sidecar, the rest are the tokens: refused, or every
 * id and label served is in range. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static int32_t ids[ROOM], labels[ROOM];
  if (!*folder) {
    snprintf(folder, sizeof folder, "%s/ratplus-fuzz-XXXXXX",
             access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    if (!mkdtemp(folder)) abort();
    atexit(remove_folder);
  }
  if (size < SETTINGS) return 0;
  const size_t side = data[7] < size - SETTINGS ? data[7] : size - SETTINGS;
  write_file("t.json", data + SETTINGS, side);
  char *path = (char *)(uintptr_t)write_file("t", data + SETTINGS + side, size - SETTINGS - side);
  const rp_load_settings s = {.name = (rp_load_name)(data[0] % 4),
                              .file = path,
                              .input = path,
                              .label = path,
                              .limit_tokens = data[1] == 255 ? -1 : data[1] * 7,
                              .T = data[2] % 64 + 1,
                              .batch = data[3] % 4 + 1,
                              .global_batch = data[3] % 4 + 1,
                              .num_bytes = data[4] % 6,
                              .V = data[5] + 1,
                              .ignore_input = 2,
                              .seed = data[6]};
  rp_error err = {0};
  rp_loader *l;
  if (rp_loader_open(&l, &s, 0, 1, &err)) {
    fuzz_hold(err.text[0]);
    return 0;
  }
  fuzz_hold(rp_loader_batches(l) > 0);
  for (int k = 0; k < 3; k++) {
    if (rp_loader_next(l, ids, labels, &err)) break;
    for (int i = 0; i < s.T * s.batch; i++) {
      fuzz_hold(ids[i] >= 0 && ids[i] < s.V);
      fuzz_hold((labels[i] >= 0 && labels[i] < s.V) || labels[i] == -100);
    }
  }
  rp_loader_close(l);
  return 0;
}
