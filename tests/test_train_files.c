/* What a run leaves on disk, and the schedule: no model needed. */
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/wait.h>

#include "base/json.h"
#include "check.h"
#include "train/checkpoint.h"
#include "train/events.h"
#include "train/lock.h"
#include "train/metrics.h"
#include "train/rundir.h"
#include "train/schedule.h"

/* ---- schedule ---- */

static void counts_steps_as_written(void **state) {
  (void)state;
  assert_int_equal(rp_sched_steps(1, 10, 3), 3);
  assert_int_equal(rp_sched_steps(3, 10, 4), 7); /* 30 // 4, not 3 * (10 // 4) */
  assert_int_equal(rp_sched_steps(0, 10, 4), 0);
  assert_int_equal(rp_sched_save_every(0.1, 5), 1);
  assert_int_equal(rp_sched_save_every(0.1, 100), 10);
  assert_int_equal(rp_sched_save_every(0.25, 10), 2);
  assert_int_equal(rp_sched_warmup(0.05, 20), 1);
  assert_int_equal(rp_sched_warmup(0.05, 19), 0);
  assert_int_equal(rp_sched_warmup(0, 19), 0);
  assert_int_equal(rp_sched_warmup(1, 19), 19);
}

/* Values worked out by hand: S = 12, warm-up 4, lr 1, eta_min 0.2. cos(pi k/8) is known. */
static void rates_are_those_of_the_formula(void **state) {
  (void)state;
  const rp_optim_settings o = {.lr = 1, .eta_min = 0.2, .warmup = 0.34, .sched = RP_SCHED_COSINE};
  const double want[12] = {0.25,
                           0.5,
                           0.75,
                           1.0,
                           1.0,
                           0.9695518130045147,
                           0.882842712474619,
                           0.7530733729460359,
                           0.6,
                           0.4469266270539641,
                           0.317157287525381,
                           0.2304481869954853};
  for (int i = 0; i < 12; i++) check_close(rp_sched_lr(&o, i, 12), want[i], 1e-15);
  const rp_optim_settings flat = {
      .lr = 0.3, .eta_min = 0.2, .warmup = 0.5, .sched = RP_SCHED_CONSTANT};
  for (int i = 0; i < 12; i++) assert_true(rp_sched_lr(&flat, i, 12) == 0.3);
}

/* ---- metrics ---- */

static rp_metrics a_line(int64_t step) {
  rp_metrics m = rp_metrics_none(step);
  m.tokens = step * 10;
  m.train_loss = 1.0 / (double)(step + 3);
  m.lr = 1e-6;
  return m;
}

static void metrics_are_read_back(void **state) {
  (void)state;
  rp_error err = {0};
  rp_metrics_file f;
  rp_metrics *got;
  size_t n;
  const char *dir = check_path("metrics");
  check_ok(rp_mkdirs(dir, &err), err);
  check_ok(rp_metrics_open(&f, dir, 0, &err), err);
  for (int i = 0; i < 6; i++) {
    rp_metrics m = a_line(i * 2);
    if (i == 3) m.val_loss = 2.5;
    check_ok(rp_metrics_add(&f, &m, &err), err);
  }
  rp_metrics_close(&f);
  check_ok(rp_metrics_read(dir, &got, &n, &err), err);
  assert_int_equal(n, 6);
  for (int i = 0; i < 6; i++) {
    assert_int_equal(got[i].step, i * 2);
    assert_true(got[i].train_loss == a_line(i * 2).train_loss);
    assert_true(isnan(got[i].mfu));
    assert_true(i == 3 ? got[i].val_loss == 2.5 : isnan(got[i].val_loss));
  }
  rp_free(got);
  /* What was not measured is left out, never 0 or null. */
  rp_str b = {0};
  rp_metrics m = a_line(7);
  m.grad_norm = INFINITY;
  rp_metrics_format(&b, &m);
  assert_string_equal(b.s, "{\"step\":7,\"tokens\":70,\"train_loss\":0.1,\"lr\":1e-06}");
  rp_str_free(&b);
}

static void append(const char *path, const char *text) {
  FILE *f = fopen(path, "a");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
}

static void metrics_are_cut_at_a_resume(void **state) {
  (void)state;
  rp_error err = {0};
  rp_metrics_file f;
  rp_metrics *got;
  size_t n;
  const char *dir = check_path("cut"), *path = check_path("cut/metrics.jsonl");
  check_ok(rp_mkdirs(dir, &err), err);
  check_ok(rp_metrics_open(&f, dir, 0, &err), err);
  for (int i = 0; i < 6; i++) {
    rp_metrics m = a_line(i);
    check_ok(rp_metrics_add(&f, &m, &err), err);
  }
  rp_metrics_close(&f);
  append(path, "{\"step\":6,\"tra"); /* torn by a crash */
  check_ok(rp_metrics_read(dir, &got, &n, &err), err);
  assert_int_equal(n, 6);
  rp_free(got);
  check_ok(rp_metrics_open(&f, dir, 4, &err), err);
  rp_metrics m = a_line(4);
  m.val_loss = 9;
  check_ok(rp_metrics_add(&f, &m, &err), err);
  rp_metrics_close(&f);
  check_ok(rp_metrics_read(dir, &got, &n, &err), err);
  assert_int_equal(n, 5);
  assert_true(got[4].val_loss == 9);
  rp_free(got);
  append(path, "[1,2]\n");
  check_fails(rp_metrics_read(dir, &got, &n, &err), RP_BAD_DATA, err, "line 6");
}

/* ---- TensorBoard ---- */

static uint64_t little(const uint8_t *p, int n) {
  uint64_t v = 0;
  while (n-- > 0) v = v << 8 | p[n];
  return v;
}

static void crc_is_castagnolis(void **state) {
  (void)state;
  /* RFC 3720, B.4, and the usual check value. */
  uint8_t b[32] = {0};
  assert_int_equal(rp_crc32c("123456789", 9), 0xe3069283);
  assert_int_equal(rp_crc32c(b, 32), 0x8a9136aa);
  memset(b, 0xff, 32);
  assert_int_equal(rp_crc32c(b, 32), 0x62a8ab43);
  for (int i = 0; i < 32; i++) b[i] = (uint8_t)i;
  assert_int_equal(rp_crc32c(b, 32), 0x46dd794e);
}

/* Frames are whole, and the fields are where TensorBoard looks for them. */
static void events_are_framed(void **state) {
  (void)state;
  rp_error err = {0};
  rp_events *e;
  rp_map m;
  char **names;
  size_t n;
  const char *dir = check_path("events");
  check_ok(rp_mkdirs(dir, &err), err);
  check_ok(rp_events_open(&e, dir, 300, &err), err);
  const rp_scalar s[] = {{"train_loss", 1.5}, {"val_loss", NAN}};
  check_ok(rp_events_add(e, 301, s, 2, &err), err);
  rp_events_close(e);
  check_ok(rp_list_dir(dir, &names, &n, &err), err);
  assert_int_equal(n, 1);
  assert_true(rp_starts_with(names[0], "events.out.tfevents."));
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", dir, names[0]);
  rp_list_free(names, n);
  check_ok(rp_map_open(&m, path, &err), err);
  size_t at = 0;
  int records = 0;
  while (at < m.bytes) {
    const uint64_t len = little(m.data + at, 8);
    assert_int_equal(little(m.data + at + 8, 4), rp_crc32c_masked(m.data + at, 8));
    const uint8_t *event = m.data + at + 12;
    assert_int_equal(little(event + len, 4), rp_crc32c_masked(event, len));
    assert_int_equal(event[0], 0x09); /* wall_time, fixed64 */
    const uint8_t *rest = event + 9;
    static const uint8_t start[] = {0x10, 0xac, 0x02, 0x3a, 0x02, 0x08, 0x01};
    static const uint8_t value[] = {0x10, 0xad, 0x02, 0x2a, 0x13, 0x0a, 0x11, 0x0a, 0x0a};
    if (records == 0)
      assert_memory_equal(rest,
                          "\x1a\x0d"
                          "brain.Event:2",
                          15);
    if (records == 1) assert_memory_equal(rest, start, sizeof start);
    if (records == 2) {
      assert_memory_equal(rest, value, sizeof value);
      assert_memory_equal(rest + sizeof value, "train_loss\x15\x00\x00\xc0\x3f", 15);
      assert_int_equal(len, 9 + sizeof value + 15);
    }
    records++;
    at += 16 + len;
  }
  assert_int_equal(records, 3);
  rp_map_close(&m);
}

/* ---- lock ---- */

static void lock_has_one_holder(void **state) {
  (void)state;
  rp_error err = {0};
  rp_lock a, b;
  char who[256];
  const char *dir = check_path("lock");
  check_ok(rp_mkdirs(dir, &err), err);
  check_ok(rp_lock_take(&a, dir, "slurm 12", false, &err), err);
  check_fails(rp_lock_take(&b, dir, NULL, false, &err), RP_USAGE, err, "slurm 12");
  check_fails(rp_lock_take(&b, dir, NULL, true, &err), RP_USAGE, err, "run_dir=");
  rp_lock_holder(dir, who, sizeof who);
  assert_non_null(strstr(who, "slurm 12"));
  rp_lock_drop(&a);
  assert_false(rp_exists(check_path("lock/lock")));
  rp_lock_holder(dir, who, sizeof who);
  assert_string_equal(who, "");
  check_ok(rp_lock_take(&b, dir, NULL, false, &err), err);
  rp_lock_drop(&b);
}

/* A holder that was killed on this machine is replaced; one elsewhere only when told to. */
static void lock_of_the_dead_is_replaced(void **state) {
  (void)state;
  rp_error err = {0};
  rp_lock l;
  const char *dir = check_path("dead"), *path = check_path("dead/lock");
  check_ok(rp_mkdirs(dir, &err), err);
  const pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    if (rp_lock_take(&l, dir, NULL, false, &err)) _exit(1);
    raise(SIGKILL);
  }
  waitpid(pid, NULL, 0);
  assert_true(rp_exists(path));
  check_ok(rp_lock_take(&l, dir, NULL, false, &err), err);
  rp_lock_drop(&l);
  const char *far = "{\"host\":\"elsewhere.example\",\"pid\":17}\n";
  check_ok(rp_file_replace(path, far, strlen(far), false, &err), err);
  check_fails(rp_lock_take(&l, dir, NULL, false, &err), RP_USAGE, err, "--take-over");
  assert_non_null(strstr(err.text, "elsewhere.example"));
  check_ok(rp_lock_take(&l, dir, NULL, true, &err), err);
  rp_lock_drop(&l);
  check_ok(rp_file_replace(path, "\xff{", 2, false, &err), err); /* not a lock: nobody's */
  check_ok(rp_lock_take(&l, dir, NULL, false, &err), err);
  rp_lock_drop(&l);
}

/* ---- status ---- */

static void status_is_read_back(void **state) {
  (void)state;
  rp_error err = {0};
  rp_run_status s = rp_run_status_none("stopped"), got;
  const char *dir = check_path("status"), *path = check_path("status/status.json");
  check_ok(rp_mkdirs(dir, &err), err);
  s.step = 7;
  s.of = 9;
  s.val_loss = 1.25;
  check_ok(rp_run_status_write(dir, &s, "why \"so\"", &err), err);
  check_ok(rp_run_status_read(dir, &got, &err), err);
  assert_string_equal(got.state, "stopped");
  assert_true(got.step == 7 && got.of == 9 && got.val_loss == 1.25 && isnan(got.val_loss_dense));
  const char *bad[] = {"",
                       "[]",
                       "{}",
                       "{\"state\":1,\"step\":2,\"of\":3}",
                       "{\"state\":\"x\"}",
                       "{\"state\":\"x\",\"step\":\"2\",\"of\":3}",
                       "nonsense"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    check_ok(rp_file_replace(path, bad[i], strlen(bad[i]), false, &err), err);
    check_fails(rp_run_status_read(dir, &got, &err), RP_BAD_DATA, err, "status");
  }
}

/* ---- checkpoints ---- */

typedef struct {
  int fail; /* 1: the callback fails after a file; 2: it is killed there */
  int64_t step;
} filler;

static rp_status fill(void *ctx, const char *dir, rp_error *err) {
  const filler *f = ctx;
  char path[1024], text[32];
  snprintf(path, sizeof path, "%s/model.safetensors", dir);
  snprintf(text, sizeof text, "%lld", (long long)f->step);
  RP_TRY(rp_file_replace(path, text, strlen(text), true, err));
  if (f->fail == 1) return rp_fail(err, RP_FAIL, "no room");
  if (f->fail == 2) raise(SIGKILL);
  snprintf(path, sizeof path, "%s/state.json", dir);
  const rp_loop_state s = {.step = f->step,
                           .of = 100,
                           .adam_step = 2 * f->step,
                           .shards = 1,
                           .val_loss = NAN,
                           .val_loss_dense = 3.5,
                           .val_step = -1,
                           .cpu = "x"};
  return rp_loop_state_write(path, &s, err);
}

static rp_status save(const char *run, int64_t step, int fails, rp_error *err) {
  filler f = {fails, step};
  return rp_checkpoint_save(run, step, fill, &f, err);
}

static int count_entries(const char *dir, const char *prefix) {
  char **names;
  size_t n;
  int found = 0;
  rp_error err = {0};
  check_ok(rp_list_dir(dir, &names, &n, &err), err);
  for (size_t i = 0; i < n; i++) found += rp_starts_with(names[i], prefix);
  rp_list_free(names, n);
  return found;
}

static int64_t latest(const char *run) {
  char *dir;
  rp_error err = {0};
  rp_loop_state s;
  check_ok(rp_checkpoint_latest(run, &dir, &err), err);
  if (!dir) return -1;
  char path[1024];
  snprintf(path, sizeof path, "%s/state.json", dir);
  rp_free(dir);
  check_ok(rp_loop_state_read(path, &s, &err), err);
  assert_true(isnan(s.val_loss) && s.val_loss_dense == 3.5 && s.adam_step == 2 * s.step);
  return s.step;
}

static void checkpoint_is_whole_or_absent(void **state) {
  (void)state;
  rp_error err = {0};
  const char *run = check_path("ck"), *dir = check_path("ck/checkpoints");
  assert_int_equal(latest(run), -1);
  check_ok(save(run, 5, 0, &err), err);
  assert_int_equal(latest(run), 5);
  check_fails(save(run, 6, 1, &err), RP_FAIL, err, "no room");
  assert_int_equal(latest(run), 5);
  assert_int_equal(count_entries(dir, "step-"), 1);
  assert_int_equal(count_entries(dir, ".tmp"), 0);
  const pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    save(run, 7, 2, &err);
    _exit(0);
  }
  waitpid(pid, NULL, 0);
  assert_int_equal(latest(run), 5);
  assert_int_equal(count_entries(dir, ".tmp"), 1);
  rp_checkpoint_clean(run);
  assert_int_equal(count_entries(dir, ".tmp"), 0);
  check_ok(save(run, 7, 0, &err), err);
  assert_int_equal(latest(run), 7);
  check_ok(save(run, 7, 1, &err), err); /* there already: left alone */
  char target[64] = "";
  assert_true(readlink(check_path("ck/checkpoints/latest"), target, 63) > 0);
  assert_string_equal(target, "step-00000007");
}

/* A crash after the folder was renamed and before `latest` moved. */
static void latest_decides(void **state) {
  (void)state;
  rp_error err = {0};
  const char *run = check_path("late"), *link = check_path("late/checkpoints/latest");
  check_ok(save(run, 1, 0, &err), err);
  check_ok(save(run, 2, 0, &err), err);
  assert_int_equal(unlink(link), 0);
  assert_int_equal(symlink("step-00000001", link), 0);
  assert_int_equal(latest(run), 1);
  check_ok(save(run, 2, 0, &err), err); /* written again */
  assert_int_equal(latest(run), 2);
  assert_int_equal(unlink(link), 0);
  assert_int_equal(latest(run), 2); /* the newest without the link */
  assert_int_equal(symlink("step-00000044", link), 0);
  assert_int_equal(latest(run), 2);
}

static void old_checkpoints_go(void **state) {
  (void)state;
  rp_error err = {0};
  const char *run = check_path("prune"), *dir = check_path("prune/checkpoints");
  /* Regular every 10; 13 and 27 by the clock; multiples of 20 kept for good. */
  const rp_checkpoint_keep k = {.interval = 10, .of = 55, .last = 2, .every = 20};
  const int64_t steps[] = {10, 13, 20, 27, 30, 40, 50, 55};
  const int left[] = {1, 2, 2, 3, 2, 3, 3, 4};
  for (int i = 0; i < 8; i++) {
    check_ok(save(run, steps[i], 0, &err), err);
    rp_checkpoint_prune(run, &k);
    const int now = count_entries(dir, "step-");
    if (now != left[i]) fail_msg("after %d: %d folders, wanted %d", (int)steps[i], now, left[i]);
    assert_int_equal(latest(run), steps[i]);
  }
  assert_int_equal(count_entries(dir, "step-00000020"), 1);
  assert_int_equal(count_entries(dir, "step-00000040"), 1);
  assert_int_equal(count_entries(dir, ".tmp"), 0);
}

static void bad_states_are_refused(void **state) {
  (void)state;
  rp_error err = {0};
  rp_loop_state s;
  const char *path = check_path("bad-state.json");
  const char *bad[] = {"{",
                       "[]",
                       "{\"step\":1}",
                       "{\"step\":-1,\"adam_step\":0}",
                       "{\"step\":5,\"adam_step\":1,\"of\":4}",
                       "{\"step\":1.5,\"adam_step\":1}",
                       "{\"step\":1,\"adam_step\":1,\"shards\":99999999999}",
                       "{\"step\":1,\"adam_step\":\"1\"}"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    check_ok(rp_file_replace(path, bad[i], strlen(bad[i]), false, &err), err);
    check_fails(rp_loop_state_read(path, &s, &err), RP_BAD_DATA, err, "bad-state.json");
  }
  /* Of a converted checkpoint. */
  const char *good = "{\"step\":3,\"adam_step\":6}";
  check_ok(rp_file_replace(path, good, strlen(good), false, &err), err);
  check_ok(rp_loop_state_read(path, &s, &err), err);
  assert_true(s.step == 3 && s.adam_step == 6 && s.of == -1 && s.micro_batches == -1);
}

static void old_runs_are_moved_away(void **state) {
  (void)state;
  rp_error err = {0};
  char *moved;
  const char *run = check_path("mine"), *mark = check_path("mine/mark");
  for (int i = 1; i < 4; i++) {
    check_ok(rp_mkdirs(run, &err), err);
    check_ok(rp_file_replace(mark, "x", 1, false, &err), err);
    check_ok(rp_run_move_away(run, &moved, &err), err);
    char want[800];
    snprintf(want, sizeof want, "%s.old-%d", run, i);
    assert_string_equal(moved, want);
    assert_false(rp_exists(mark));
    rp_free(moved);
  }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(counts_steps_as_written), cmocka_unit_test(rates_are_those_of_the_formula),
    cmocka_unit_test(metrics_are_read_back),   cmocka_unit_test(metrics_are_cut_at_a_resume),
    cmocka_unit_test(crc_is_castagnolis),      cmocka_unit_test(events_are_framed),
    cmocka_unit_test(lock_has_one_holder),     cmocka_unit_test(lock_of_the_dead_is_replaced),
    cmocka_unit_test(status_is_read_back),     cmocka_unit_test(checkpoint_is_whole_or_absent),
    cmocka_unit_test(latest_decides),          cmocka_unit_test(old_checkpoints_go),
    cmocka_unit_test(bad_states_are_refused),  cmocka_unit_test(old_runs_are_moved_away),
};
CHECK_MAIN(tests)
