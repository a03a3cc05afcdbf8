#include "check.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static void put(const char *path, const char *text) {
  rp_error err = {0};
  check_ok(rp_file_replace(path, text, strlen(text), false, &err), err);
}

static void assert_holds(const char *path, const char *want) {
  rp_error err = {0};
  char *text;
  size_t len;
  check_ok(rp_file_read(path, 1 << 20, &text, &len, &err), err);
  assert_int_equal(len, strlen(want));
  assert_string_equal(text, want);
  rp_free(text);
}

static size_t names_in(const char *dir) {
  rp_error err = {0};
  char **names;
  size_t n;
  check_ok(rp_list_dir(dir, &names, &n, &err), err);
  rp_list_free(names, n);
  return n;
}

static const char *fresh(const char *name) {
  const char *dir = check_path(name);
  rp_error err = {0};
  check_ok(rp_mkdirs(dir, &err), err);
  return dir;
}

static void what_is_written_is_read(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  const char *path = check_path("random");
  for (int round = 0; round < 20; round++) {
    size_t n = (size_t)check_pick(&r, 0, 300000), at = 0;
    uint8_t *data = malloc(n + 1);
    for (size_t i = 0; i < n; i++) data[i] = (uint8_t)rp_rng_u32(&r);
    rp_error err = {0};
    rp_out *o;
    check_ok(rp_out_open(&o, path, &err), err);
    while (at < n) { /* pieces below, at and above the buffer */
      size_t piece = (size_t)check_pick(&r, 0, round % 2 ? 100000 : 700);
      if (piece > n - at) piece = n - at;
      rp_out_write(o, data + at, piece);
      at += piece;
      assert_int_equal(rp_out_at(o), at);
    }
    check_ok(rp_out_commit(o, &err), err);
    rp_map m;
    check_ok(rp_map_open(&m, path, &err), err);
    assert_int_equal(m.bytes, n);
    assert_int_equal(rp_file_size(path), n);
    if (n) assert_memory_equal(m.data, data, n);
    if (!n) assert_null(m.data);
    rp_map_close(&m);
    free(data);
  }
}

static void a_file_appears_only_when_committed(void **state) {
  (void)state;
  const char *dir = fresh("appear"), *path = check_path("appear/file");
  rp_error err = {0};
  rp_out *o;
  check_ok(rp_out_open(&o, path, &err), err);
  rp_out_write(o, "new", 3);
  assert_false(rp_exists(path));
  rp_out_cancel(o);
  assert_int_equal(names_in(dir), 0);
  put(path, "old");
  check_ok(rp_out_open(&o, path, &err), err);
  rp_out_write(o, "new", 3);
  assert_holds(path, "old");
  check_ok(rp_out_commit(o, &err), err);
  assert_holds(path, "new");
  assert_int_equal(names_in(dir), 1);
  rp_out_cancel(NULL);
}

/* A write past RLIMIT_FSIZE fails as one on a full disk does. */
static void a_failed_write_leaves_the_old_file(void **state) {
  (void)state;
  const char *dir = fresh("full"), *path = check_path("full/file");
  static char big[200000];
  put(path, "old");
  struct rlimit before, small;
  getrlimit(RLIMIT_FSIZE, &before);
  small = before;
  small.rlim_cur = 100000;
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  rp_error err = {0};
  rp_out *o = NULL;
  rp_status opened = rp_out_open(&o, path, &err), written = RP_OK;
  if (!opened) {
    rp_out_write(o, big, sizeof big);
    rp_out_write(o, big, sizeof big); /* the first failure is kept, further writes do nothing */
    written = rp_out_commit(o, &err);
  }
  rp_error small_err = {0};
  rp_status replaced = rp_file_replace(path, big, sizeof big, true, &small_err);
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, SIG_DFL);
  assert_int_equal(opened, RP_OK);
  assert_int_equal(written, RP_FAIL);
  assert_int_equal(replaced, RP_FAIL);
  assert_non_null(strstr(err.text, path));
  assert_non_null(strstr(err.text, "File too large"));
  assert_holds(path, "old");
  assert_int_equal(names_in(dir), 1);
}

/* Readers beside a writer that replaces again and again see a whole file each time. */
static void a_reader_never_sees_half(void **state) {
  (void)state;
  const char *path = check_path("shared");
  static char text[2][70001];
  for (int i = 0; i < 2; i++) memset(text[i], 'a' + i, 70000);
  put(path, text[0]);
  pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < 300; i++)
      if (rp_file_replace(path, text[i % 2], 70000, false, NULL)) _exit(1);
    _exit(0);
  }
  int status = -1;
  while (waitpid(child, &status, WNOHANG) == 0) {
    rp_error err = {0};
    char *seen;
    size_t len;
    check_ok(rp_file_read(path, 1 << 20, &seen, &len, &err), err);
    bool whole = len == 70000 && (strcmp(seen, text[0]) == 0 || strcmp(seen, text[1]) == 0);
    rp_free(seen);
    if (!whole) {
      waitpid(child, &status, 0);
      fail_msg("a reader saw %zu bytes of a file half replaced", len);
    }
  }
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void what_cannot_be_written_is_refused(void **state) {
  (void)state;
  rp_out *o;
  rp_error err;
  put(check_path("plain"), "x");
  check_fails(rp_out_open(&o, "/dev/null", &err), RP_FAIL, err, "not a regular file");
  check_fails(rp_out_open(&o, check_dir(), &err), RP_FAIL, err, "a folder");
  check_fails(rp_out_open(&o, check_path("none/file"), &err), RP_FAIL, err, "No such file");
  check_fails(rp_out_open(&o, check_path("plain/file"), &err), RP_FAIL, err, "Not a directory");
  assert_null(o);
}

static void what_cannot_be_read_is_refused(void **state) {
  (void)state;
  rp_map m;
  rp_error err;
  char *text;
  size_t len;
  const char *fifo = check_path("fifo");
  assert_int_equal(mkfifo(fifo, 0600), 0);
  check_fails(rp_map_open(&m, fifo, &err), RP_FAIL, err, "not a regular file");
  check_fails(rp_map_open(&m, check_dir(), &err), RP_FAIL, err, "not a regular file");
  check_fails(rp_map_open(&m, check_path("none"), &err), RP_FAIL, err, "No such file");
  check_fails(rp_file_read(check_path("none"), 10, &text, &len, &err), RP_FAIL, err, "No such");
  check_fails(rp_file_read(check_dir(), 10, &text, &len, &err), RP_FAIL, err, "directory");
  put(check_path("eleven"), "12345678901");
  check_fails(rp_file_read(check_path("eleven"), 10, &text, &len, &err), RP_BAD_DATA, err,
              "longer than the 10 B");
  assert_null(text);
  check_ok(rp_file_read(check_path("eleven"), 11, &text, &len, &err), err);
  assert_int_equal(len, 11);
  rp_free(text);
  check_fails(rp_file_read("/dev/zero", 1000, &text, NULL, &err), RP_BAD_DATA, err, "longer");
}

static void folders_are_made_listed_and_removed(void **state) {
  (void)state;
  rp_error err = {0};
  const char *root = check_path("tree"), *outside = check_path("outside");
  check_ok(rp_mkdirs(check_path("tree/a/b//c/"), &err), err);
  check_ok(rp_mkdirs(check_path("tree/a/b"), &err), err);
  assert_true(rp_is_dir(check_path("tree/a/b/c")));
  put(check_path("tree/z"), "");
  put(check_path("tree/B"), "");
  put(check_path("tree/.hidden"), "");
  put(outside, "kept");
  assert_int_equal(symlink(outside, check_path("tree/a/link")), 0);
  assert_int_equal(symlink(check_dir(), check_path("tree/a/up")), 0);
  char **names;
  size_t n;
  check_ok(rp_list_dir(root, &names, &n, &err), err);
  static const char *const want[] = {".hidden", "B", "a", "z"};
  assert_int_equal(n, 4);
  for (size_t i = 0; i < 4; i++) assert_string_equal(names[i], want[i]);
  rp_list_free(names, n);
  check_fails(rp_mkdirs(check_path("tree/z/y"), &err), RP_FAIL, err, "Not a directory");
  check_ok(rp_remove_tree(root, &err), err);
  assert_false(rp_exists(root));
  assert_holds(outside, "kept");
  check_fails(rp_remove_tree(root, &err), RP_FAIL, err, "No such file");
  check_fails(rp_list_dir(root, &names, &n, &err), RP_FAIL, err, "No such file");
}

static void renaming_and_asking(void **state) {
  (void)state;
  rp_error err = {0};
  const char *a = check_path("rename-a"), *b = check_path("rename-b");
  put(a, "text");
  check_ok(rp_rename(a, b, &err), err);
  assert_false(rp_exists(a));
  assert_true(rp_is_file(b) && !rp_is_dir(b));
  check_fails(rp_rename(a, b, &err), RP_FAIL, err, "rename-a");
  assert_non_null(strstr(err.text, "rename-b"));
  assert_int_equal(rp_file_size(b), 4);
  assert_int_equal(rp_file_size(a), -1);
  assert_true(rp_disk_free(check_path("not/yet/there")) > 0);
  assert_true(rp_disk_free("relative/not/there") > 0);
  char *joined = rp_path_join("x", "y");
  assert_string_equal(joined, "x/y");
  rp_free(joined);
  joined = rp_path_join("x/", "y");
  assert_string_equal(joined, "x/y");
  rp_free(joined);
}

static void every_failed_allocation_leaves_nothing(void **state) {
  (void)state;
  const char *dir = fresh("memory"), *path = check_path("memory/file");
  put(path, "old");
  size_t before = rp_mem_now();
  for (uint64_t n = 1;; n++) {
    rp_error err = {0};
    rp_mem_fail_at(n);
    rp_status st = rp_file_replace(path, "new", 3, true, &err);
    rp_mem_fail_at(0);
    assert_int_equal(rp_mem_now(), before);
    assert_int_equal(names_in(dir), 1);
    if (!st) break;
    assert_int_equal(st, RP_NO_MEMORY);
    assert_true(n < 100);
  }
  assert_holds(path, "new");
  for (uint64_t n = 1;; n++) {
    rp_error err = {0};
    char **names;
    size_t count;
    rp_mem_fail_at(n);
    rp_status st = rp_list_dir(dir, &names, &count, &err);
    rp_mem_fail_at(0);
    if (!st) rp_list_free(names, count);
    assert_int_equal(rp_mem_now(), before);
    if (!st) break;
    assert_int_equal(st, RP_NO_MEMORY);
  }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(what_is_written_is_read),
    cmocka_unit_test(a_file_appears_only_when_committed),
    cmocka_unit_test(a_failed_write_leaves_the_old_file),
    cmocka_unit_test(a_reader_never_sees_half),
    cmocka_unit_test(what_cannot_be_written_is_refused),
    cmocka_unit_test(what_cannot_be_read_is_refused),
    cmocka_unit_test(folders_are_made_listed_and_removed),
    cmocka_unit_test(renaming_and_asking),
    cmocka_unit_test(every_failed_allocation_leaves_nothing),
};
CHECK_MAIN(tests)
