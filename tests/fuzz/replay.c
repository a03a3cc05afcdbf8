/* replay.c - the main program of a fuzz target in an ordinary build: feeds it every file of the
 * corpus folder that is named, and an empty input. Each file is a test case. */
#include "fuzz.h"

#include <stdio.h>

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
  printf("ok - empty input\n");
  char **names = NULL;
  size_t n = 0;
  rp_error err = {0};
  if (argc > 1 && rp_is_dir(argv[1]) && rp_list_dir(argv[1], &names, &n, &err)) {
    printf("not ok - %s\n", err.text);
    return 1;
  }
  for (size_t i = 0; i < n; i++) {
    char *path = rp_path_join(argv[1], names[i]), *text = NULL;
    size_t len = 0;
    bool read = path && !rp_file_read(path, 1 << 26, &text, &len, &err);
    printf("# %s\n", names[i]);
    if (read) LLVMFuzzerTestOneInput((const uint8_t *)text, len);
    printf("%s - %s\n", read ? "ok" : "not ok", names[i]);
    rp_free(text);
    rp_free(path);
  }
  rp_list_free(names, n);
  return 0;
}
