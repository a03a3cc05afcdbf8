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

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(philox_known_answers),
    cmocka_unit_test(mt19937_known_answers),
};
CHECK_MAIN(tests)
