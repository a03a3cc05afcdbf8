/* Counts of a pattern against the definition of the visible set, position by position. */
#include "check.h"
#include "pattern/count.h"

static bool sees(rp_pat p, int64_t t, int64_t s) {
  return s <= t && (s < p.I || t - s <= p.W || (p.D != -1 && (s + 1) % p.D == 0));
}

static rp_pat some_pat(rp_rng *r, int T) {
  static const int D[] = {-1, 1, 2, 3, 4, 7, 16, 64, 100, 1000};
  rp_pat p = {D[rp_rng_below(r, 10)], 0, 0};
  if (check_pick(r, 0, 2)) p.W = check_pick(r, 0, check_pick(r, 0, 3) ? 20 : T + 5);
  if (check_pick(r, 0, 2)) p.I = check_pick(r, 0, check_pick(r, 0, 3) ? 20 : T + 5);
  if (p.D == -1 && !p.W && !p.I) p.W = 1;
  return p;
}

static void keys_and_pairs_are_those_of_the_mask(void **state) {
  (void)state;
  rp_rng r = check_rng(2);
  for (int round = 0; round < 3000; round++) {
    const int T = check_pick(&r, 1, 200);
    const rp_pat p = some_pat(&r, T);
    int64_t pairs = 0;
    for (int t = 0; t < T; t++) {
      int64_t initial = 0, local = 0, all = 0, part = 0;
      const int a = check_pick(&r, 0, T), b = check_pick(&r, 0, T);
      for (int s = 0; s <= t; s++) {
        all += sees(p, t, s);
        initial += s < p.I;
        local += s >= p.I && t - s <= p.W;
        part += s >= a && s < b && sees(p, t, s);
      }
      const rp_pat_sets n = rp_pat_see(p, t), in = rp_pat_see_in(p, t, a, b);
      assert_int_equal(in.initial + in.local + in.dilated, part);
      assert_int_equal(n.initial, initial);
      assert_int_equal(n.local, local);
      assert_int_equal(n.initial + n.local + n.dilated, all);
      assert_int_equal(rp_pat_keys(p, t), all);
      pairs += all;
      assert_int_equal(rp_pat_pairs(p, t + 1), pairs);
    }
  }
}

/* What the lists hold after T tokens, as sets: with a margin, a token that the window of a query up
 * to R earlier would see is still in RING, so the dilated ones that left are older than W + R. */
static void lists_hold_what_a_walk_puts_there(void **state) {
  (void)state;
  rp_rng r = check_rng(3);
  for (int round = 0; round < 2000; round++) {
    const int most = check_pick(&r, 1, 200), R = check_pick(&r, 0, 1) ? check_pick(&r, 0, 40) : 0;
    const rp_pat p = some_pat(&r, most);
    int64_t kept = 0, ring = 0, oldest = p.I; /* of RING */
    for (int T = 1; T <= most; T++) {         /* token T - 1 is taken in */
      if (p.D == 1 || T - 1 < p.I) {
        kept++;
      } else {
        ring++;
        if (ring > (int64_t)p.W + R) {
          kept += p.D != -1 && (oldest + 1) % p.D == 0;
          oldest++;
          ring--;
        }
      }
      assert_int_equal(rp_pat_in_kept(p, T, R), kept);
      assert_int_equal(rp_pat_in_ring(p, T, R), ring);
      assert_int_equal(rp_pat_cache(p, T, R), kept + ring);
      assert_int_equal(rp_pat_blocks(p, T, R), (kept + 15) / 16 + (ring + 15) / 16);
      if (R) continue;
      /* The next query reads the cache and itself. */
      int64_t next = 0;
      for (int s = 0; s < T; s++) next += sees(p, T, s);
      assert_int_equal(kept + ring, next);
    }
  }
}

static void long_sequences_do_not_overflow(void **state) {
  (void)state;
  const int64_t T = INT32_MAX;
  const rp_pat wide = {INT32_MAX, INT32_MAX, 0}, late = {-1, 5, INT32_MAX}, all = {1, 0, 0};
  assert_int_equal(rp_pat_pairs(all, T), T * (T + 1) / 2);
  assert_int_equal(rp_pat_pairs(wide, T), T * (T + 1) / 2);
  assert_int_equal(rp_pat_pairs(late, T), T * (T + 1) / 2);
  assert_int_equal(rp_pat_cache(wide, T, INT32_MAX), T);
  assert_int_equal(rp_pat_in_kept(late, T, 7), T);
  assert_int_equal(rp_pat_blocks(all, T, 0), (T + 15) / 16);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(keys_and_pairs_are_those_of_the_mask),
    cmocka_unit_test(lists_hold_what_a_walk_puts_there),
    cmocka_unit_test(long_sequences_do_not_overflow),
};
CHECK_MAIN(tests)
