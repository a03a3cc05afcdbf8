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

/* What a cache's lists hold, entry by entry, kept by the words of model.md 4. */
typedef struct {
  int kept[2000], ring[2000];
} lists;

/* Position s enters the cache: the one that leaves the window is kept or dropped. */
static void enter(lists *l, rp_pat p, rp_past *past, int s) {
  const int W = p.W + past->margin, gone = s - W;
  if (p.D == 1 || s < p.I) {
    l->kept[s] = s;
  } else if (W > 0) {
    l->ring[(s - p.I) % W] = s;
  }
  /* what left before a truncation is there already */
  if (p.D > 1 && gone >= p.I && (gone + 1) % p.D == 0 && s >= past->top) {
    int n = p.I;
    for (int d = p.I; d < gone; d++) n += (d + 1) % p.D == 0;
    l->kept[n] = gone;
  }
  past->pos = s + 1;
  if (past->pos > past->top) past->top = past->pos;
}

static int where(const lists *l, rp_past past, int src, int slot) {
  if (src == RP_SRC_KEPT) return l->kept[slot];
  if (src == RP_SRC_RING) return l->ring[slot];
  return past.pos + slot;
}

/* Marks the pairs of one tile in seen[tile][T]: how many segments show key s to query t. */
static void mark_tile(rp_pat p, const lists *l, rp_past past, int t0, int t1, int T,
                      uint8_t *seen) {
  rp_seg segs[RP_SEGS_MAX];
  const int n = rp_segs(segs, p, past, t0, t1);
  assert_in_range(n, 1, past.pos ? RP_SEGS_MAX : 3);
  memset(seen, 0, (size_t)(t1 - t0) * (size_t)T);
  for (int g = 0; g < n; g++) {
    assert_true(segs[g].count >= 1 && segs[g].step >= 1);
    for (int i = 0; i < segs[g].count; i++) {
      const int64_t s = segs[g].pos + (int64_t)i * segs[g].step;
      assert_true(s >= 0 && s < t1 && (s < past.pos) == (segs[g].src != RP_SRC_NEW));
      if (s != where(l, past, segs[g].src, segs[g].slot + i * segs[g].slot_step))
        fail_msg("D=%d W=%d I=%d, new from %d (top %d, margin %d): key %d is not in list %d at %d",
                 p.D, p.W, p.I, past.pos, past.top, past.margin, (int)s, segs[g].src,
                 segs[g].slot + i * segs[g].slot_step);
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

/* All tiles of the new tokens [past.pos, end); returns the pairs compared. */
static int64_t check_tiles(rp_pat p, const lists *l, rp_past past, int tile, int end, int T,
                           uint8_t *seen) {
  int64_t pairs = 0;
  for (int t0 = past.pos; t0 < end; t0 += tile) {
    const int t1 = t0 + tile < end ? t0 + tile : end;
    mark_tile(p, l, past, t0, t1, T, seen);
    for (int t = t0; t < t1; t++)
      for (int s = 0; s < T; s++, pairs++)
        if (seen[(int64_t)(t - t0) * T + s] != sees(p, t, s))
          fail_msg(
              "D=%d W=%d I=%d, new from %d, tile [%d,%d): query %d, key %d in %d segments, "
              "wanted %d",
              p.D, p.W, p.I, past.pos, t0, t1, t, s, seen[(int64_t)(t - t0) * T + s],
              sees(p, t, s));
  }
  return pairs;
}

static void segments_are_the_visible_set(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  uint8_t *seen = malloc(64 * 700);
  int64_t pairs = 0;
  for (int round = 0; round < 1500; round++) {
    const int T = check_pick(&r, 1, check_pick(&r, 0, 3) ? 150 : 700);
    const int tile = check_pick(&r, 1, 64);
    pairs += check_tiles(some_pat(&r, T), NULL, (rp_past){0}, tile, T, T, seen);
  }
  free(seen);
  assert_true(pairs > 20000000);
}

/* Chunks of any size, now and then taken back by at most the margin. */
static void segments_of_a_cache_are_the_visible_set(void **state) {
  (void)state;
  rp_rng r = check_rng(3);
  uint8_t *seen = malloc(64 * 700);
  lists *l = malloc(sizeof *l);
  int64_t pairs = 0;
  for (int round = 0; pairs < 100000000; round++) {
    const int T = check_pick(&r, 1, check_pick(&r, 0, 3) ? 150 : 700);
    const rp_pat p = some_pat(&r, T);
    rp_past past = {0, 0, check_pick(&r, 0, 1) ? check_pick(&r, 0, 20) : 0};
    memset(l, 0xff, sizeof *l);
    while (past.pos < T) {
      int end = past.pos + check_pick(&r, 1, check_pick(&r, 0, 2) ? 5 : 100);
      if (end > T) end = T;
      pairs += check_tiles(p, l, past, check_pick(&r, 1, 64), end, T, seen);
      for (int s = past.pos; s < end; s++) enter(l, p, &past, s);
      if (past.pos < T && check_pick(&r, 0, 3) == 0) {
        const int low = past.top - past.margin;
        past.pos = check_pick(&r, low > 0 ? low : 0, past.pos);
      }
    }
  }
  free(l);
  free(seen);
}

static void far_positions_do_not_overflow(void **state) {
  (void)state;
  rp_seg g[RP_SEGS_MAX];
  const int32_t t = 1 << 29;
  const rp_pat wide = {INT32_MAX, 0, INT32_MAX - 5};
  assert_int_equal(rp_segs(g, wide, (rp_past){0}, t, t + 64), 1);
  assert_int_equal(g[0].count, t + 64);
  const rp_pat late = {INT32_MAX, 1, 0};
  assert_int_equal(rp_segs(g, late, (rp_past){0}, t, t + 2), 1);
  assert_int_equal(g[0].pos, t - 1);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(segments_are_the_visible_set),
    cmocka_unit_test(segments_of_a_cache_are_the_visible_set),
    cmocka_unit_test(far_positions_do_not_overflow),
};
CHECK_MAIN(tests)
