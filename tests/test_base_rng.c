#include "check.h"

static void philox_known_answers(void **state) {
  (void)state;
  static const struct {
    uint64_t seed, stream, counter;
    uint32_t out[4];
  } rows[] = {
      {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {~0ull, ~0ull, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {0x299f31d0a4093822,
       0x0370734413198a2e,
       0x85a308d3243f6a88,
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    uint32_t out[4];
    rp_philox(rows[i].seed, 0, rows[i].stream, rows[i].counter, out);
    assert_memory_equal(out, rows[i].out, sizeof out);
  }
}

static void mt19937_known_answers(void **state) {
  (void)state;
  static const uint32_t first[] = {3499211612u, 581869302u, 3890346734u};
  rp_mt19937 m;
  rp_mt_seed(&m, 5489);
  for (int i = 0; i < 3; i++) assert_int_equal(rp_mt_next(&m), first[i]);
  for (int i = 3; i < 9999; i++) rp_mt_next(&m);
  assert_int_equal(rp_mt_next(&m), 4123659995u); /* the 10000th, as std::mt19937 promises */
}

/* Numbers drawn one by one are the blocks in order, whatever is mixed. */
static void a_cursor_walks_the_blocks(void **state) {
  (void)state;
  rp_rng a = check_rng(1), pick = check_rng(2);
  uint32_t block[4];
  for (uint64_t i = 0; i < 4000; i++) {
    if (i % 4 == 0) rp_philox(a.seed, a.purpose, a.stream, i / 4, block);
    if (i % 2 == 0 && check_pick(&pick, 0, 1)) {
      uint64_t want = block[i % 4] | (uint64_t)block[i % 4 + 1] << 32;
      assert_true(rp_rng_u64(&a) == want);
      i++;
    } else {
      assert_int_equal(rp_rng_u32(&a), block[i % 4]);
    }
  }
}

static void seeds_purposes_and_streams_differ(void **state) {
  (void)state;
  rp_rng r[4];
  rp_rng_init(&r[0], 7, RP_RNG_INIT, 0);
  rp_rng_init(&r[1], 7, RP_RNG_SHUFFLE, 0);
  rp_rng_init(&r[2], 8, RP_RNG_INIT, 0);
  rp_rng_init(&r[3], 7, RP_RNG_INIT, 1);
  uint64_t first[4];
  for (int i = 0; i < 4; i++) first[i] = rp_rng_u64(&r[i]);
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < i; j++) assert_true(first[i] != first[j]);
  rp_rng_init(&r[1], 7, RP_RNG_INIT, 0);
  assert_true(rp_rng_u64(&r[1]) == first[0]);
}

/* Means and variances within five standard errors. */
static void uniform_and_normal_have_their_moments(void **state) {
  (void)state;
  enum { N = 400000 };
  rp_rng r = check_rng(3);
  double sum = 0, squares = 0, nsum = 0, nsquares = 0, fourth = 0;
  for (int i = 0; i < N; i++) {
    double u = rp_rng_uniform(&r), z = rp_rng_normal(&r);
    assert_true(u >= 0 && u < 1);
    assert_true(z > -9 && z < 9);
    sum += u;
    squares += u * u;
    nsum += z;
    nsquares += z * z;
    fourth += z * z * z * z;
  }
  check_close(sum / N, 0.5, 5 * 0.2887 / 632.4);
  check_close(squares / N, 1.0 / 3, 5 * 0.2981 / 632.4);
  check_close(nsum / N, 0, 5 / 632.4);
  check_close(nsquares / N, 1, 5 * 1.4142 / 632.4);
  check_close(fourth / N, 3, 5 * 9.798 / 632.4);
}

static void below_is_even_and_inside(void **state) {
  (void)state;
  rp_rng r = check_rng(4);
  int counts[7] = {0};
  for (int i = 0; i < 70000; i++) counts[rp_rng_below(&r, 7)]++;
  for (int i = 0; i < 7; i++) check_close(counts[i], 10000, 5 * 92.6);
  assert_int_equal(rp_rng_below(&r, 1), 0);
  /* a range where taking the remainder alone would give the lower third twice as often */
  uint64_t n = 3ull << 62, low = 0;
  for (int i = 0; i < 30000; i++) {
    uint64_t x = rp_rng_below(&r, n);
    assert_true(x < n);
    low += x < 1ull << 62;
  }
  check_close(low, 10000, 5 * 81.7);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(philox_known_answers),
    cmocka_unit_test(mt19937_known_answers),
    cmocka_unit_test(a_cursor_walks_the_blocks),
    cmocka_unit_test(seeds_purposes_and_streams_differ),
    cmocka_unit_test(uniform_and_normal_have_their_moments),
    cmocka_unit_test(below_is_even_and_inside),
};
CHECK_MAIN(tests)
