#include "check.h"

#include "data/loader.h"
#include "golden_draws.h"

/* n ids of `num_bytes` bytes each, as a file. */
static const char *write_ids(const char *name, const int32_t *ids, size_t n, int num_bytes) {
  const char *path = check_path(name);
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  for (size_t i = 0; i < n; i++)
    for (int b = 0; b < num_bytes; b++) fputc((int)((uint32_t)ids[i] >> (8 * b) & 255), f);
  assert_int_equal(fclose(f), 0);
  return path;
}

static void write_text(const char *name, const char *text) {
  rp_error err = {0};
  check_ok(rp_file_replace(check_path(name), text, strlen(text), false, &err), err);
}

static int32_t *random_ids(rp_rng *r, size_t n, int V) {
  int32_t *ids = rp_malloc(n, sizeof *ids);
  assert_non_null(ids);
  for (size_t i = 0; i < n; i++) ids[i] = check_pick(r, 0, V - 1);
  return ids;
}

static rp_load_settings settings(rp_load_name name, const char *file, int T, int batch, int global,
                                 int num_bytes, int V) {
  return (rp_load_settings){.name = name,
                            .file = (char *)(uintptr_t)file,
                            .limit_tokens = -1,
                            .T = T,
                            .batch = batch,
                            .global_batch = global,
                            .num_bytes = num_bytes,
                            .V = V,
                            .ignore_input = 2};
}

static void draws_are_those_of_pytorch(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof golden_draws / sizeof golden_draws[0]; i++) {
    rp_mt19937 m;
    rp_mt_seed(&m, golden_draws[i].seed);
    for (int k = 0; k < GOLDEN_DRAWS; k++)
      assert_int_equal(rp_loader_draw(&m, golden_draws[i].n), golden_draws[i].x[k]);
  }
}

/* Every share of lm_ordered, over two epochs, serves its part of the file in order. */
static void ordered_shares_cover_the_file_once(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  for (int round = 0; round < 60; round++) {
    const int bytes = (int[]){1, 2, 4}[check_pick(&r, 0, 2)], V = check_pick(&r, 4, 200);
    const int T = check_pick(&r, 1, 9), batch = check_pick(&r, 1, 3), shares = check_pick(&r, 1, 4);
    const int global = batch * shares * check_pick(&r, 1, 3), steps = check_pick(&r, 1, 4);
    const size_t used = (size_t)T * (size_t)global * (size_t)steps;
    const size_t n = used + 1 + (size_t)check_pick(&r, 0, T * global - 1);
    int32_t *ids = random_ids(&r, n, V), got[32], want[32];
    rp_load_settings s =
        settings(RP_LOAD_LM_ORDERED, write_ids("o.bin", ids, n, bytes), T, batch, global, bytes, V);
    rp_error err = {0};
    size_t at = 0;
    for (int share = 0; share < shares; share++) {
      rp_loader *l;
      check_ok(rp_loader_open(&l, &s, share, shares, &err), err);
      const int64_t batches = rp_loader_batches(l);
      const size_t begin = at;
      assert_int_equal(batches, steps * (global / batch / shares));
      for (int64_t k = 0; k < 2 * batches; k++) {
        if (k == batches) at = begin;
        check_ok(rp_loader_next(l, got, want, &err), err);
        assert_int_equal(rp_loader_at(l), at);
        for (int j = 0; j < batch * T; j++, at++) {
          assert_int_equal(got[j], ids[at]);
          assert_int_equal(want[j], ids[at] == 2 ? -100 : ids[at + 1]);
        }
      }
      rp_loader_close(l);
    }
    assert_int_equal(at, used);
    rp_free(ids);
  }
}

/* Random windows and rows begin where the golden draws say, go on over epochs, and a seek replays
 * them. */
static void random_windows_follow_the_draws(void **state) {
  (void)state;
  enum { T = 8, BATCH = 2, V = 97, N = 59904 + T + 1, ROWS = 97 };
  rp_rng r = check_rng(2);
  int32_t *ids = random_ids(&r, N, V), got[BATCH * T], want[BATCH * T];
  rp_load_settings lm =
      settings(RP_LOAD_LM_RANDOM, write_ids("r.bin", ids, N, 2), T, BATCH, 6, 2, V);
  rp_error err = {0};
  for (int share = 0; share < 3; share++) {
    rp_loader *l;
    lm.limit_tokens = 6 * T + 5; /* one global batch an epoch: the generator goes on */
    check_ok(rp_loader_open(&l, &lm, share, 3, &err), err);
    assert_int_equal(rp_loader_batches(l), 1);
    const uint64_t *x = golden_draws[3 + share].x; /* seeds 0, 1, 2 at n = 59904 */
    for (int pass = 0; pass < 2; pass++) {
      for (int k = pass * 3; k < GOLDEN_DRAWS / BATCH; k++) {
        check_ok(rp_loader_next(l, got, want, &err), err);
        for (int j = 0; j < BATCH * T; j++) {
          const uint64_t at = x[k * BATCH + j / T] + (uint64_t)(j % T);
          assert_int_equal(got[j], ids[at]);
          assert_int_equal(want[j], ids[at] == 2 ? -100 : ids[at + 1]);
        }
      }
      assert_int_equal(rp_loader_seek(l, 3), RP_OK);
    }
    rp_loader_close(l);
  }
  rp_load_settings sft = settings(RP_LOAD_SFT_RANDOM, NULL, T, BATCH, BATCH, 2, V);
  sft.input = sft.label = (char *)(uintptr_t)write_ids("rows.bin", ids, ROWS * T, 2);
  rp_loader *l;
  check_ok(rp_loader_open(&l, &sft, 0, 1, &err), err);
  for (int k = 0; k < GOLDEN_DRAWS / BATCH; k++) {
    check_ok(rp_loader_next(l, got, want, &err), err);
    for (int j = 0; j < BATCH * T; j++)
      assert_int_equal(got[j], ids[golden_draws[2].x[k * BATCH + j / T] * T + (uint64_t)(j % T)]);
  }
  rp_loader_close(l);
  rp_free(ids);
}

/* More shards than ranks: the shares of one run are those of another at equal shards; a seek lands
 * where serving lands. */
static void seek_is_serving(void **state) {
  (void)state;
  enum { T = 5, BATCH = 3 };
  static const rp_load_name names[] = {RP_LOAD_LM_ORDERED, RP_LOAD_LM_RANDOM};
  rp_rng r = check_rng(3);
  int32_t *ids = random_ids(&r, 1000, 50), a[2][BATCH * T], b[2][BATCH * T];
  const char *path = write_ids("s.bin", ids, 1000, 1);
  for (int round = 0; round < 20; round++) {
    rp_load_settings s = settings(names[round % 2], path, T, BATCH, BATCH * 2, 1, 50);
    rp_loader *l, *m;
    rp_error err = {0};
    s.seed = (uint32_t)round;
    check_ok(rp_loader_open(&l, &s, 1, 2, &err), err);
    check_ok(rp_loader_open(&m, &s, 1, 2, &err), err);
    const int k = check_pick(&r, 0, 90);
    for (int i = 0; i <= k; i++) check_ok(rp_loader_next(l, a[0], a[1], &err), err);
    assert_int_equal(rp_loader_seek(m, k), RP_OK);
    check_ok(rp_loader_next(m, b[0], b[1], &err), err);
    assert_memory_equal(a, b, sizeof a);
    rp_loader_close(l);
    rp_loader_close(m);
  }
  rp_free(ids);
}

static void sft_rows_are_served_as_they_are(void **state) {
  (void)state;
  enum { T = 4, ROWS = 7 };
  int32_t in[ROWS * T], label[ROWS * T], a[2 * T], b[2 * T];
  for (int i = 0; i < ROWS * T; i++) {
    in[i] = i % 5 == 0 ? 2 : i;
    label[i] = i % 3 ? -100 : i % 40;
  }
  for (int bytes = 1; bytes <= 4; bytes *= 2) {
    rp_load_settings s = settings(RP_LOAD_SFT_ORDERED, NULL, T, 2, 2, bytes, 60);
    s.input = (char *)(uintptr_t)write_ids("in.bin", in, ROWS * T, bytes);
    s.label = (char *)(uintptr_t)write_ids("label.bin", label, ROWS * T, bytes);
    rp_loader *l;
    rp_error err = {0};
    check_ok(rp_loader_open(&l, &s, 0, 1, &err), err);
    assert_int_equal(rp_loader_batches(l), 3);
    for (int k = 0; k < 6; k++) {
      check_ok(rp_loader_next(l, a, b, &err), err);
      assert_memory_equal(a, in + k % 3 * 2 * T, sizeof a);
      assert_memory_equal(b, label + k % 3 * 2 * T, sizeof b);
    }
    rp_loader_close(l);
  }
}

static void limits_are_floored_and_checked(void **state) {
  (void)state;
  enum { N = 100 };
  int32_t ids[N] = {0};
  rp_loader *l;
  rp_error err = {0};
  /* 99 usable tokens, 4 * 6 = 24 a global batch: 96 fit. */
  rp_load_settings s = settings(RP_LOAD_LM_ORDERED, write_ids("l.bin", ids, N, 2), 4, 2, 6, 2, 10);
  static const struct { int64_t limit, batches; } good[] = {{-1, 12}, {24, 3}, {47, 3}, {119, 12}};
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
    s.limit_tokens = good[i].limit;
    check_ok(rp_loader_open(&l, &s, 0, 1, &err), err);
    assert_int_equal(rp_loader_batches(l), good[i].batches);
    rp_loader_close(l);
  }
  s.limit_tokens = 120;
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_USAGE, err, "limit_tokens=96");
  s.limit_tokens = 23;
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_USAGE, err, "less than one global batch");
  s.limit_tokens = 0;
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_USAGE, err, "less than one global batch");
  s.limit_tokens = -2;
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_USAGE, err, "limit_tokens is -2");
  s.limit_tokens = -1;
  s.global_batch = 26;
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_BAD_DATA, err, "less than one global batch");
  check_fails(rp_loader_open(&l, &s, 0, 2, &err), RP_USAGE, err, "not a multiple");
  s.name = RP_LOAD_LM_RANDOM; /* the limit only says how many */
  s.global_batch = 6;
  s.limit_tokens = 24000;
  check_ok(rp_loader_open(&l, &s, 0, 1, &err), err);
  assert_int_equal(rp_loader_batches(l), 3000);
  rp_loader_close(l);
  s.T = 98; /* needs T + 2 */
  check_ok(rp_loader_open(&l, &s, 0, 1, &err), err);
  rp_loader_close(l);
  s.T = 99;
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_BAD_DATA, err, "too few");
}

static void bad_files_are_named(void **state) {
  (void)state;
  int32_t ids[64] = {1, 2, 3};
  rp_loader *l;
  rp_error err = {0};
  rp_load_settings s = settings(RP_LOAD_LM_ORDERED, check_path("none"), 4, 1, 1, 2, 10);
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_FAIL, err, "none");
  s.file = NULL;
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_USAGE, err, "no token file");
  s.file = (char *)(uintptr_t)check_dir();
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_BAD_DATA, err, "folder");
  s.file = (char *)(uintptr_t)write_ids("e.bin", ids, 0, 2);
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_BAD_DATA, err, "empty");
  write_text("odd.bin", "12345");
  s.file = (char *)(uintptr_t)check_path("odd.bin");
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_BAD_DATA, err, "not a whole number");
  s.num_bytes = 3;
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_USAGE, err, "1, 2 or 4");
  s.num_bytes = 2;
  ids[40] = 10;
  s.file = (char *)(uintptr_t)write_ids("v.bin", ids, 64, 2);
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_BAD_DATA, err, "token 40 is 10");
  s.limit_tokens = 36; /* what is never read does not matter */
  check_ok(rp_loader_open(&l, &s, 0, 1, &err), err);
  rp_loader_close(l);
  ids[40] = -1; /* 4294967295 in four bytes */
  s = settings(RP_LOAD_LM_ORDERED, write_ids("w.bin", ids, 64, 4), 4, 1, 1, 4, 0);
  int32_t got[4], want[4];
  check_ok(rp_loader_open(&l, &s, 0, 1, &err), err);
  check_ok(rp_loader_seek(l, 10), err);
  check_fails(rp_loader_next(l, got, want, &err), RP_BAD_DATA, err, "4294967295");
  rp_loader_close(l);
}

static void sidecars_are_held_against_the_file(void **state) {
  (void)state;
  static const struct {
    const char *json, *part;
  } bad[] = {{"{\"num_bytes\":4}", "num_bytes is 2"},
             {"{\"vocab_size\":11}", "vocab_size is 10"},
             {"{\"tokens\":63}", "holds 64 tokens"},
             {"{\"tokens\":\"x\"}", "not a whole number"},
             {"{\"tokens\":-1}", "not a whole number"},
             {"[]", "JSON object"},
             {"{", "line 1"}};
  int32_t ids[64] = {0};
  rp_loader *l;
  rp_error err = {0};
  rp_load_settings s = settings(RP_LOAD_LM_ORDERED, write_ids("c.bin", ids, 64, 2), 4, 1, 1, 2, 10);
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    write_text("c.bin.json", bad[i].json);
    s.file = (char *)(uintptr_t)check_path("c.bin"); /* paths are good for a few calls only */
    check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_BAD_DATA, err, bad[i].part);
  }
  write_text("c.bin.json", "{\"num_bytes\":2,\"vocab_size\":10,\"tokens\":64,\"eos\":2,\"x\":[1]}");
  s.file = (char *)(uintptr_t)check_path("c.bin");
  check_ok(rp_loader_open(&l, &s, 0, 1, &err), err);
  rp_loader_close(l);
}

static void bad_sft_files_are_named(void **state) {
  (void)state;
  int32_t ids[24] = {0}, got[8], want[8];
  rp_loader *l;
  rp_error err = {0};
  rp_load_settings s = settings(RP_LOAD_SFT_ORDERED, NULL, 4, 2, 2, 2, 10);
  s.input = (char *)(uintptr_t)write_ids("i.bin", ids, 24, 2);
  s.label = (char *)(uintptr_t)write_ids("j.bin", ids, 20, 2);
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_BAD_DATA, err, "made together");
  s.label = (char *)(uintptr_t)write_ids("j.bin", ids, 23, 2);
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_BAD_DATA, err, "whole samples");
  ids[9] = -1;
  s.label = (char *)(uintptr_t)write_ids("j.bin", ids, 24, 2);
  check_ok(rp_loader_open(&l, &s, 0, 1, &err), err);
  check_ok(rp_loader_next(l, got, want, &err), err);
  check_fails(rp_loader_next(l, got, want, &err), RP_BAD_DATA, err, "label 1 of sample 2 is -1");
  rp_loader_close(l);
  ids[9] = -101;
  s.label = (char *)(uintptr_t)write_ids("j.bin", ids, 24, 2);
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_BAD_DATA, err, "-101");
  s.limit_tokens = 32;
  s.label = s.input;
  check_fails(rp_loader_open(&l, &s, 0, 1, &err), RP_USAGE, err, "limit_tokens=24");
}

static void failed_allocations_end_cleanly(void **state) {
  (void)state;
  int32_t ids[64] = {0};
  rp_error err = {0};
  rp_loader *l = NULL;
  rp_load_settings s = settings(RP_LOAD_LM_RANDOM, write_ids("m.bin", ids, 64, 2), 4, 1, 1, 2, 10);
  write_text("m.bin.json", "{\"num_bytes\":2}");
  rp_status st = RP_NO_MEMORY;
  for (uint64_t n = 1; st; n++) {
    rp_mem_fail_at(n);
    st = rp_loader_open(&l, &s, 0, 1, &err);
    rp_mem_fail_at(0);
    if (st && (st != RP_NO_MEMORY || n > 100)) fail_msg("allocation %d: %s", (int)n, err.text);
    assert_true(st == RP_OK || l == NULL);
  }
  rp_loader_close(l);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(draws_are_those_of_pytorch),
    cmocka_unit_test(ordered_shares_cover_the_file_once),
    cmocka_unit_test(random_windows_follow_the_draws),
    cmocka_unit_test(seek_is_serving),
    cmocka_unit_test(sft_rows_are_served_as_they_are),
    cmocka_unit_test(limits_are_floored_and_checked),
    cmocka_unit_test(bad_files_are_named),
    cmocka_unit_test(sidecars_are_held_against_the_file),
    cmocka_unit_test(bad_sft_files_are_named),
    cmocka_unit_test(failed_allocations_end_cleanly),
};
CHECK_MAIN(tests)
