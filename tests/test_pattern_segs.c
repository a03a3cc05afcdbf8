/* The segment function against the definition of the visible set, pair by pair. */
#include "check.h"
#include "pattern/segs.h"

static bool sees(rp_pat p, int t, int s) {
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

/* Marks the pairs of one tile in seen[tile][T]: how many segments show key s to query t. */
static void mark_tile(rp_pat p, int t0, int t1, int T, uint8_t *seen) {
  rp_seg segs[RP_SEGS_MAX];
  const int n = rp_segs(segs, p, t0, t1);
  assert_in_range(n, 1, RP_SEGS_MAX);
  memset(seen, 0, (size_t)(t1 - t0) * (size_t)T);
  for (int g = 0; g < n; g++) {
    assert_true(segs[g].count >= 1 && segs[g].step >= 1);
    for (int i = 0; i < segs[g].count; i++) {
      const int64_t s = segs[g].pos + (int64_t)i * segs[g].step;
      assert_true(s >= 0 && s < t1);
      int users = 0;
      for (int t = t0; t < t1; t++) {
        if (s < (int64_t)t - segs[g].far || s > (int64_t)t - segs[g].near) continue;
        seen[(int64_t)(t - t0) * T + s]++;
        users++;
      }
      assert_true(users > 0); /* a tile pays only for keys that one of its queries sees */
    }
  }
}

static void segments_are_the_visible_set(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  uint8_t *seen = malloc(64 * 700);
  int64_t pairs = 0;
  for (int round = 0; round < 1500; round++) {
    const int T = check_pick(&r, 1, check_pick(&r, 0, 3) ? 150 : 700);
    const int tile = check_pick(&r, 1, 64);
    const rp_pat p = some_pat(&r, T);
    for (int t0 = 0; t0 < T; t0 += tile) {
      const int t1 = t0 + tile < T ? t0 + tile : T;
      mark_tile(p, t0, t1, T, seen);
      for (int t = t0; t < t1; t++)
        for (int s = 0; s < T; s++, pairs++)
          if (seen[(int64_t)(t - t0) * T + s] != sees(p, t, s))
            fail_msg("D=%d W=%d I=%d, tile [%d,%d): query %d, key %d in %d segments, wanted %d",
                     p.D, p.W, p.I, t0, t1, t, s, seen[(int64_t)(t - t0) * T + s], sees(p, t, s));
    }
  }
  free(seen);
  assert_true(pairs > 20000000);
}

static void far_positions_do_not_overflow(void **state) {
  (void)state;
  rp_seg g[RP_SEGS_MAX];
  const int32_t t = 1 << 29;
  const rp_pat wide = {INT32_MAX, 0, INT32_MAX - 5};
  assert_int_equal(rp_segs(g, wide, t, t + 64), 1);
  assert_int_equal(g[0].count, t + 64);
  const rp_pat late = {INT32_MAX, 1, 0};
  assert_int_equal(rp_segs(g, late, t, t + 2), 1);
  assert_int_equal(g[0].pos, t - 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(segments_are_the_visible_set),
    cmocka_unit_test(far_positions_do_not_overflow),
};
CHECK_MAIN(tests)
