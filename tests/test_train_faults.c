/* What goes wrong outside: killed processes, full and read-only disks, memory that runs out, runs in
 * each other's way. label: slow */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/log.h"
#include "train_box.h"

/* ---- killed at any moment ---- */

enum { KILL_STEPS = 24 };

static const char *const kill_words[] = {"trainer.save_interval=0.05",  "trainer.keep_last=3",
                                         "trainer.eval_when_log=true",  "optim/optimizer=adam",
                                         "data.train._name_=lm_random", NULL};

/* The program started anew as `FILE --train DATA RUN`: a process of its own, so that a kill hits one
 * with all its threads. */
static int child_main(char **argv) {
  rp_error err = {0};
  rp_config *c = box_config_in(argv[2], argv[3], KILL_STEPS, kill_words);
  const rp_status st = box_train(c, RP_DEVICE_CPU, NULL, false, NULL, &err);
  if (st) fprintf(stderr, "%s\n", err.text);
  rp_config_free(c);
  return (int)st;
}

static pid_t start_child(const char *run) {
  const char *data = box_data_dir();
  const pid_t pid = fork();
  if (pid == 0) {
    execl("/proc/self/exe", "test", "--train", data, run, (char *)NULL);
    _exit(99);
  }
  assert_true(pid > 0);
  return pid;
}

/* Every visible checkpoint is whole. */
static int check_checkpoints(const char *run) {
  static const char *const files[] = {"model.safetensors", "optimizer.safetensors", "config.yaml",
                                      "state.json"};
  char dir[1024], path[1400];
  char **names = NULL;
  size_t n = 0;
  int whole = 0;
  rp_error err = {0};
  snprintf(dir, sizeof dir, "%s/checkpoints", run);
  if (!rp_is_dir(dir)) return 0;
  check_ok(rp_list_dir(dir, &names, &n, &err), err);
  for (size_t i = 0; i < n; i++) {
    if (!rp_starts_with(names[i], "step-")) continue;
    for (int f = 0; f < 4; f++) {
      snprintf(path, sizeof path, "%s/%s/%s", dir, names[i], files[f]);
      if (!rp_is_file(path)) fail_msg("%s is missing", path);
    }
    snprintf(path, sizeof path, "%s/%s", dir, names[i]);
    rp_store *s = NULL;
    check_ok(rp_store_open(&s, path, &err), err);
    rp_store_close(s);
    whole++;
  }
  rp_list_free(names, n);
  return whole;
}

static void nap(double seconds) {
  struct timespec t = {(time_t)seconds, (long)(1e9 * (seconds - floor(seconds)))};
  nanosleep(&t, NULL);
}

static void killed_at_any_moment_ends_the_same(void **state) {
  (void)state;
  check_needs_yaml();
  check_slow();
  rp_rng r = check_rng(10);
  char whole[1024], part[1024];
  int how, kills = 0, runs = 0;
  snprintf(whole, sizeof whole, "%s", check_path("never-killed"));
  snprintf(part, sizeof part, "%s", check_path("killed"));
  double t0 = rp_now();
  pid_t pid = start_child(whole);
  waitpid(pid, &how, 0);
  assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
  const double once = rp_now() - t0;
  t0 = rp_now();
  /* Shorter and longer lives, until one reaches the end; a few runs if that is soon. */
  while (rp_now() - t0 < 25 && (kills < check_rounds(40) || runs == 0)) {
    pid = start_child(part);
    nap(once * (0.02 + 0.5 * rp_rng_uniform(&r)));
    kill(pid, SIGKILL);
    waitpid(pid, &how, 0);
    check_checkpoints(part);
    if (WIFSIGNALED(how)) {
      kills++;
      continue;
    }
    assert_int_equal(WEXITSTATUS(how), 0);
    box_same_runs(whole, part);
    runs++;
    rp_error err = {0};
    check_ok(rp_remove_tree(part, &err), err);
  }
  if (rp_exists(part)) { /* the one under way is led to its end */
    pid = start_child(part);
    waitpid(pid, &how, 0);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    box_same_runs(whole, part);
    runs++;
  }
  printf("# %d kills, %d runs led to their end, %.2f s each alone\n", kills, runs, once);
  assert_true(kills >= 5 && runs >= 1);
}

/* ---- disks ---- */

static char spoken[16384];
static void hear(void *ctx, rp_log_level level, const char *line) {
  (void)ctx, (void)level;
  strncat(spoken, line, sizeof spoken - strlen(spoken) - 2);
  strcat(spoken, "\n");
}

/* What to do to the run's disk, and when. */
typedef struct {
  box_log log;
  const char *run;
  int from, to;
  void (*spoil)(const char *run, bool on);
} trouble;

static void trouble_event(void *ctx, const rp_train_event *e) {
  trouble *t = ctx;
  box_event(&t->log, e);
  if (e->kind != RP_TRAIN_STEP) return;
  if (e->step == t->from) t->spoil(t->run, true);
  if (e->step == t->to) t->spoil(t->run, false);
}

static rp_status train_in_trouble(const rp_config *c, trouble *t, rp_train_result *result,
                                  rp_error *err) {
  rp_train_opts o;
  rp_train_defaults(&o);
  o.event = trouble_event;
  o.ctx = t;
  rp_threads_set(1);
  const rp_train_inner in = {.device = RP_DEVICE_CPU, .no_rate = true};
  *spoken = 0;
  rp_log_set(hear, NULL, RP_LOG_WARNING);
  const rp_status st = rp_train_with(c, &o, &in, result, err);
  rp_log_set(NULL, NULL, RP_LOG_WARNING);
  return st;
}

/* No file may grow beyond 16 KiB: no checkpoint fits. */
static void fill_disk(const char *run, bool on) {
  (void)run;
  struct rlimit l;
  getrlimit(RLIMIT_FSIZE, &l);
  l.rlim_cur = on ? 16384 : l.rlim_max;
  setrlimit(RLIMIT_FSIZE, &l);
}

/* Nothing can be made in checkpoints/: for root, modes do not count, so a file stands in its place. */
static void block_folder(const char *run, bool on) {
  char dir[1024], away[1024];
  snprintf(dir, sizeof dir, "%s/checkpoints", run);
  snprintf(away, sizeof away, "%s/away", run);
  if (on) {
    rename(dir, away);
    const int fd = open(dir, O_CREAT | O_WRONLY, 0444);
    if (fd >= 0) close(fd);
  } else {
    unlink(dir);
    rename(away, dir);
  }
}

static void lose_folder(const char *run, bool on) {
  if (geteuid() == 0) {
    block_folder(run, on);
    return;
  }
  char dir[1024];
  snprintf(dir, sizeof dir, "%s/checkpoints", run);
  chmod(dir, on ? 0555 : 0755);
}

static void goes_on_without_a_disk(const char *name, void (*spoil)(const char *, bool)) {
  rp_error err = {0};
  rp_train_result result;
  static trouble t;
  char run[1024];
  const char *more[] = {"trainer.save_interval=0.1", NULL};
  signal(SIGXFSZ, SIG_IGN);
  snprintf(run, sizeof run, "%s", check_path(name));
  rp_config *c = box_config(run, 10, more);
  t = (trouble){.log = {.stop_at = -1}, .run = run, .from = 3, .to = 7, .spoil = spoil};
  check_ok(train_in_trouble(c, &t, &result, &err), err);
  assert_int_equal(result.step, 10);
  assert_non_null(strstr(spoken, "no checkpoint could be saved"));
  assert_non_null(strstr(spoken, "step 4:"));
  assert_null(strstr(spoken, "step 3:"));
  assert_null(strstr(spoken, "step 8:"));
  assert_int_equal(t.log.saves, 6); /* 1 2 3, then 8 9 10 */
  assert_true(check_checkpoints(run) >= 3);
  rp_metrics *m;
  size_t n;
  check_ok(rp_metrics_read(run, &m, &n, &err), err);
  assert_int_equal(n, 10);
  rp_free(m);
  rp_config_free(c);
}

static void a_full_disk_costs_a_warning(void **state) {
  (void)state;
  check_needs_yaml();
  goes_on_without_a_disk("full", fill_disk);
}

static void a_read_only_disk_costs_a_warning(void **state) {
  (void)state;
  check_needs_yaml();
  goes_on_without_a_disk("read-only", lose_folder);
}

/* Full until the end: the last save is an error, and the former checkpoint is whole. */
static void a_full_disk_at_the_end_is_an_error(void **state) {
  (void)state;
  check_needs_yaml();
  rp_error err = {0};
  rp_train_result result;
  static trouble t;
  char run[1024];
  signal(SIGXFSZ, SIG_IGN);
  snprintf(run, sizeof run, "%s", check_path("full-end"));
  rp_config *c = box_config(run, 10, NULL);
  t = (trouble){.log = {.stop_at = -1}, .run = run, .from = 5, .to = 100, .spoil = fill_disk};
  check_fails(train_in_trouble(c, &t, &result, &err), RP_FAIL, err, "last checkpoint");
  fill_disk(run, false);
  assert_int_equal(check_checkpoints(run), 5);
  rp_run_status s;
  check_ok(rp_run_status_read(run, &s, &err), err);
  assert_string_equal(s.state, "failed");
  box_log log = {.stop_at = -1};
  check_ok(box_train(c, RP_DEVICE_CPU, &log, false, &result, &err), err);
  assert_int_equal(log.start, 5);
  rp_config_free(c);
}

/* Lines that found no room are written when there is some. */
static void fill_for_metrics(const char *run, bool on) {
  (void)run;
  struct rlimit l;
  getrlimit(RLIMIT_FSIZE, &l);
  l.rlim_cur = on ? 100 : l.rlim_max;
  setrlimit(RLIMIT_FSIZE, &l);
}

static void metrics_wait_for_room(void **state) {
  (void)state;
  check_needs_yaml();
  rp_error err = {0};
  static trouble t;
  char run[1024];
  const char *more[] = {"trainer.save_checkpoint=false", NULL};
  signal(SIGXFSZ, SIG_IGN);
  snprintf(run, sizeof run, "%s", check_path("full-metrics"));
  rp_config *c = box_config(run, 10, more);
  t = (trouble){.log = {.stop_at = -1}, .run = run, .from = 2, .to = 6, .spoil = fill_for_metrics};
  check_ok(train_in_trouble(c, &t, NULL, &err), err);
  assert_non_null(strstr(spoken, "metrics.jsonl"));
  rp_metrics *m;
  size_t n;
  check_ok(rp_metrics_read(run, &m, &n, &err), err);
  assert_int_equal(n, 10);
  for (size_t i = 0; i < n; i++) assert_int_equal(m[i].step, i);
  rp_free(m);
  rp_config_free(c);
}

/* ---- memory ---- */

/* Whatever allocation fails, the run ends with a status (or goes on, where the failure costs no more
 * than a warning), and what lies on the disk can be gone on with. */
static void any_failed_allocation_is_a_status(void **state) {
  (void)state;
  check_needs_yaml();
  rp_error err = {0};
  rp_rng r = check_rng(11);
  char run[1024];
  snprintf(run, sizeof run, "%s", check_path("memory"));
  const char *more[] = {"trainer.save_interval=0.5", NULL};
  rp_config *c = box_config(run, 2, more);
  rp_mem_fail_at(0);
  check_ok(box_train(c, RP_DEVICE_CPU, NULL, false, NULL, &err), err);
  const uint64_t all = rp_mem_fail_at(0);
  /* Every one, and on a slow machine some of those that time does not reach. */
  const double t0 = rp_now();
  int tried = 0, failed = 0;
  for (uint64_t n = 1; n <= all; tried++) {
    if (rp_exists(run)) check_ok(rp_remove_tree(run, &err), err);
    err = (rp_error){0};
    rp_mem_fail_at(n);
    const rp_status st = box_train(c, RP_DEVICE_CPU, NULL, false, NULL, &err);
    rp_mem_fail_at(0);
    if (st != RP_OK && st != RP_NO_MEMORY && st != RP_FAIL && st != RP_BAD_DATA && st != RP_USAGE)
      fail_msg("allocation %d: status %d: %s", (int)n, (int)st, err.text);
    if (st && !err.text[0]) fail_msg("allocation %d: no sentence", (int)n);
    if (st != RP_OK && st != RP_NO_MEMORY) printf("# allocation %d: %s\n", (int)n, err.text);
    failed += st != RP_OK;
    if (rp_exists(run)) check_checkpoints(run);
    const bool late = rp_now() - t0 > check_rounds(60);
    n += late ? 1 + rp_rng_below(&r, 1 + all / 10) : 1;
  }
  printf("# %d allocations, %d tried, %d runs failed\n", (int)all, tried, failed);
  assert_true(failed > 10);
  if (rp_exists(run)) check_ok(rp_remove_tree(run, &err), err);
  check_ok(box_train(c, RP_DEVICE_CPU, NULL, false, NULL, &err), err);
  rp_config_free(c);
}

/* ---- runs in each other's way ---- */

static void a_different_run_is_kept(void **state) {
  (void)state;
  check_needs_yaml();
  rp_error err = {0};
  rp_train_result result;
  char run[1024];
  snprintf(run, sizeof run, "%s", check_path("kept"));
  const char *other[] = {"optim.optimizer.lr=0.001", "trainer.seed=5", NULL};
  rp_config *a = box_config(run, 3, NULL), *b = box_config(run, 3, other);
  check_ok(box_train(a, RP_DEVICE_CPU, NULL, false, &result, &err), err);
  const double val = result.val_loss;
  check_fails(box_train(b, RP_DEVICE_CPU, NULL, false, &result, &err), RP_USAGE, err, "run_dir=");
  assert_non_null(strstr(err.text, "optim.optimizer.lr"));
  assert_non_null(strstr(err.text, "trainer.seed"));
  assert_true(strstr(err.text, "run_dir=") < strstr(err.text, "--overwrite"));
  check_ok(box_train(b, RP_DEVICE_CPU, NULL, true, &result, &err), err);
  assert_true(result.val_loss != val && !result.was_finished);
  rp_run_status s;
  char old[1100];
  snprintf(old, sizeof old, "%s.old-1", run);
  check_ok(rp_run_status_read(old, &s, &err), err);
  check_close(s.val_loss, val, 1e-12);
  assert_false(rp_exists(check_path("kept.old-1/lock")));
  rp_config_free(a);
  rp_config_free(b);
}

static void a_held_run_is_refused(void **state) {
  (void)state;
  check_needs_yaml();
  rp_error err = {0};
  rp_lock l;
  char run[1024];
  snprintf(run, sizeof run, "%s", check_path("held"));
  rp_config *c = box_config(run, 3, NULL);
  check_ok(rp_mkdirs(run, &err), err);
  check_ok(rp_lock_take(&l, run, "job 4711", false, &err), err);
  check_fails(box_train(c, RP_DEVICE_CPU, NULL, false, NULL, &err), RP_USAGE, err, "job 4711");
  check_fails(box_train(c, RP_DEVICE_CPU, NULL, true, NULL, &err), RP_USAGE, err, "job 4711");
  rp_lock_drop(&l);
  check_ok(box_train(c, RP_DEVICE_CPU, NULL, false, NULL, &err), err);
  rp_config_free(c);
}

/* A start that fails at once leaves nothing behind. */
static void a_failed_start_leaves_nothing(void **state) {
  (void)state;
  check_needs_yaml();
  rp_error err = {0};
  char run[1024];
  snprintf(run, sizeof run, "%s", check_path("nothing"));
  const char *missing[] = {"data.train.tokenized_file_path=/nowhere/train.bin", NULL};
  const char *cuda[] = {"trainer.device=cuda", NULL};
  const char *few[] = {"data.val.limit_tokens=10", NULL};
  const char *model[] = {"trainer.pretrained_path=/nowhere/model", NULL};
  const char *const *cases[] = {missing, cuda, few, model};
  const char *parts[] = {"/nowhere/train.bin", "trainer.device=cpu", "data.val", "/nowhere/model"};
  for (int i = 0; i < 4; i++) {
    rp_config *c = box_config(run, 3, cases[i]);
    err = (rp_error){0};
    const rp_status st = box_train(c, RP_DEVICE_CPU, NULL, false, NULL, &err);
    if (!st || !strstr(err.text, parts[i])) fail_msg("%s: %d %s", parts[i], (int)st, err.text);
    if (rp_exists(run)) fail_msg("%s: the run directory was left", parts[i]);
    rp_config_free(c);
  }
}

/* A checkpoint that was damaged afterwards is named. */
static void a_damaged_checkpoint_is_named(void **state) {
  (void)state;
  check_needs_yaml();
  rp_error err = {0};
  box_log log = {.stop_at = 3};
  char run[1024], path[1200];
  snprintf(run, sizeof run, "%s", check_path("damaged"));
  rp_config *c = box_config(run, 8, NULL);
  assert_int_equal(box_train(c, RP_DEVICE_CPU, &log, false, NULL, &err), RP_STOPPED);
  static const char *const files[] = {"model.safetensors", "optimizer.safetensors", "state.json"};
  for (int i = 0; i < 3; i++) {
    char *text;
    size_t n;
    snprintf(path, sizeof path, "%s/checkpoints/latest/%s", run, files[i]);
    check_ok(rp_file_read(path, 1 << 28, &text, &n, &err), err);
    check_ok(rp_file_replace(path, text, n / 2, false, &err), err);
    check_fails(box_train(c, RP_DEVICE_CPU, NULL, false, NULL, &err), RP_BAD_DATA, err, files[i]);
    check_ok(rp_file_replace(path, text, n, false, &err), err);
    rp_free(text);
  }
  log = (box_log){.stop_at = -1};
  check_ok(box_train(c, RP_DEVICE_CPU, &log, false, NULL, &err), err);
  assert_int_equal(log.start, 4);
  rp_config_free(c);
}

/* The data shrank meanwhile: the schedule would be another. */
static void other_data_is_an_error(void **state) {
  (void)state;
  check_needs_yaml();
  rp_error err = {0};
  box_log log = {.stop_at = 1};
  const char *mine[] = {NULL, "data.train.limit_tokens=-1", NULL};
  char word[1024], file[1024];
  snprintf(file, sizeof file, "%s", check_path("shrinking.bin"));
  snprintf(word, sizeof word, "data.train.tokenized_file_path=%.900s", file);
  mine[0] = word;
  box_tokens(file, 2000, BOX_V, 3);
  rp_config *c = box_config(check_path("shrunk"), 8, mine);
  assert_int_equal(box_train(c, RP_DEVICE_CPU, &log, false, NULL, &err), RP_STOPPED);
  box_tokens(file, 1500, BOX_V, 3);
  check_fails(box_train(c, RP_DEVICE_CPU, NULL, false, NULL, &err), RP_BAD_DATA, err, "steps");
  rp_config_free(c);
}

static void stopping_without_saving_says_so(void **state) {
  (void)state;
  check_needs_yaml();
  rp_error err = {0};
  rp_train_result result;
  box_log log = {.stop_at = 1};
  const char *more[] = {"trainer.save_checkpoint=false", NULL};
  rp_config *c = box_config(check_path("unsaved"), 5, more);
  check_fails(box_train(c, RP_DEVICE_CPU, &log, false, &result, &err), RP_STOPPED, err,
              "nothing was saved");
  assert_false(result.saved);
  assert_false(rp_exists(check_path("unsaved/checkpoints")));
  rp_config_free(c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(killed_at_any_moment_ends_the_same),
    cmocka_unit_test(a_full_disk_costs_a_warning),
    cmocka_unit_test(a_read_only_disk_costs_a_warning),
    cmocka_unit_test(a_full_disk_at_the_end_is_an_error),
    cmocka_unit_test(metrics_wait_for_room),
    cmocka_unit_test(any_failed_allocation_is_a_status),
    cmocka_unit_test(a_different_run_is_kept),
    cmocka_unit_test(a_held_run_is_refused),
    cmocka_unit_test(a_failed_start_leaves_nothing),
    cmocka_unit_test(a_damaged_checkpoint_is_named),
    cmocka_unit_test(other_data_is_an_error),
    cmocka_unit_test(stopping_without_saving_says_so),
};

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "--train") == 0) return child_main(argv);
  check_begin(argc, argv);
  return cmocka_run_group_tests(tests, NULL, NULL) ? 1 : 0;
}
