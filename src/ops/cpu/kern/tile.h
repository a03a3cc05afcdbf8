/* tile.h - small dense products on packed tiles, the packing, and which queries meet which keys, for
 * the attention drivers.
 *
 * A tile is row-major real memory with rows of a whole number of 64-byte lines. c[M][N] (+)= A B
 * with A(m, k) = a[m * am + k * ak], so that one function serves A, its transpose and broadcasts of
 * either; B is b[K][ldb]. N is a multiple of RP_LINE; M and K are any.
 *
 * At the level avx512_bf16 K counts pairs: a slot of A and of B holds two bfloat16 that lie next to
 * each other along k (vec.h). RP_SLOTS says how many slots so many k take. What a tensor gives is packed
 * `along` a product over its columns or `across` one over its rows. Included by kern/ sources only. */
#ifndef RP_OPS_CPU_KERN_TILE_H
#define RP_OPS_CPU_KERN_TILE_H

#include "ops/cpu/kern/lanes.h"
#include "ops/cpu/kern/vec.h"
#include "pattern/segs.h"

/* The register block is 6 rows x BLOCK_VECS vectors. */
#if defined(__AVX512F__)
enum { BLOCK_VECS = 4 };
#else
enum { BLOCK_VECS = 2 };
#endif
enum { RP_LINE = 64 / (int)sizeof(rp_real) };
#define RP_SLOTS(n) (((n) + PAIRS) / (1 + PAIRS))

__attribute__((always_inline)) static inline void block_mm(const int mr, const int nv, int K,
                                                           const rp_real *a, int64_t am, int64_t ak,
                                                           const rp_real *b, int64_t ldb,
                                                           rp_real *c, int64_t ldc, bool add) {
  vec acc[6][4];
#pragma GCC unroll 6
  for (int m = 0; m < mr; m++)
#pragma GCC unroll 4
    for (int n = 0; n < nv; n++) acc[m][n] = (vec){0};
#pragma GCC unroll 1
  for (int k = 0; k < K; k++) {
    vec row[4];
#pragma GCC unroll 4
    for (int n = 0; n < nv; n++) row[n] = *(const vec *)(b + k * ldb + n * VEC);
#pragma GCC unroll 6
    for (int m = 0; m < mr; m++) {
      const rp_real s = a[m * am + k * ak];
#pragma GCC unroll 4
      for (int n = 0; n < nv; n++) acc[m][n] = vec_mul_add_all(acc[m][n], s, row[n]);
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < mr; m++)
#pragma GCC unroll 4
    for (int n = 0; n < nv; n++) {
      vec *to = (vec *)(c + m * ldc + n * VEC);
      if (add)
        *to += acc[m][n];
      else
        *to = acc[m][n];
    }
}

/* One column block of nv vectors, all rows. */
__attribute__((always_inline)) static inline void column_mm(const int nv, int M, int K,
                                                            const rp_real *a, int64_t am,
                                                            int64_t ak, const rp_real *b,
                                                            int64_t ldb, rp_real *c, int64_t ldc,
                                                            bool add) {
  int m = 0;
  for (; m + 6 <= M; m += 6) block_mm(6, nv, K, a + m * am, am, ak, b, ldb, c + m * ldc, ldc, add);
  if (m + 4 <= M) {
    block_mm(4, nv, K, a + m * am, am, ak, b, ldb, c + m * ldc, ldc, add);
    m += 4;
  }
  if (m + 2 <= M) {
    block_mm(2, nv, K, a + m * am, am, ak, b, ldb, c + m * ldc, ldc, add);
    m += 2;
  }
  if (m < M) block_mm(1, nv, K, a + m * am, am, ak, b, ldb, c + m * ldc, ldc, add);
}

static void tile_mm(int M, int N, int K, const rp_real *a, int64_t am, int64_t ak, const rp_real *b,
                    int64_t ldb, rp_real *c, int64_t ldc, bool add) {
  int n = 0;
  for (; n + BLOCK_VECS * VEC <= N; n += BLOCK_VECS * VEC)
    column_mm(BLOCK_VECS, M, K, a, am, ak, b + n, ldb, c + n, ldc, add);
  for (; n + VEC <= N; n += VEC) column_mm(1, M, K, a, am, ak, b + n, ldb, c + n, ldc, add);
}

/* Keys that are met at once where not all queries see them. */
enum { PIECE = 32 };

/* The queries [from, to) of a tile, nq from position t0 on, that see any of `count` keys of a segment
 * from its entry `first` on, in whole lines (to may also be nq). whole: all of them see all. */
typedef struct {
  int from, to;
  bool whole;
} tile_span;
static inline tile_span queries_of(const rp_seg *g, int32_t first, int count, int32_t t0, int nq) {
  const int64_t low = g->pos + (int64_t)first * g->step - t0;
  const int64_t high = low + (int64_t)(count - 1) * g->step;
  const int64_t begin = low + g->near, end = high + g->far + 1;
  tile_span s = {0, nq, false};
  if (begin > 0) s.from = begin < nq ? (int)begin / RP_LINE * RP_LINE : nq;
  if (end <= nq - RP_LINE) s.to = end > 0 ? (int)round_up((size_t)end, RP_LINE) : 0;
  s.whole = high + g->near <= s.from && low + g->far >= s.to - 1;
  return s;
}

/* The entries [from, to) of a segment that any of nq queries from position t0 on sees. */
typedef struct {
  int32_t from, to;
} key_span;
static inline key_span keys_of(const rp_seg *g, int32_t t0, int nq) {
  const int64_t low = (int64_t)t0 - g->far - g->pos, high = (int64_t)t0 + nq - 1 - g->near - g->pos;
  const int64_t from = low > 0 ? (low + g->step - 1) / g->step : 0;
  const int64_t to = high >= 0 ? high / g->step + 1 : 0;
  return (key_span){(int32_t)(from < g->count ? from : g->count),
                    (int32_t)(to < g->count ? to : g->count)};
}

/* Keys that queries [from, to) meet as tiles: all but each one's own. */
static inline int64_t keys_met(rp_pat pat, rp_past past, int32_t from, int32_t to) {
  rp_seg segs[RP_SEGS_MAX];
  int64_t keys = 0;
  for (int n = rp_segs(segs, pat, past, from, to); n-- > 0;)
    if (segs[n].far != 0) keys += segs[n].count;
  return keys;
}

/* Elements of a row of h in a tile: an odd number of lines, so that a column of the tile does not
 * fall into a few sets of the first cache. */
static inline int pitch_of(int h) { return ((h + RP_LINE - 1) / RP_LINE | 1) * RP_LINE; }

/* to[count][ldt] = rows of t (h columns from element `at`, `ld` elements apart), then zeros. */
static inline void pack_rows(rp_real *to, rp_tensor t, int64_t at, int64_t ld, int count, int h,
                             int ldt) {
  for (int i = 0; i < count; i++) {
    load(to + (int64_t)i * ldt, t, at + i * ld, h);
    for (int c = h; c < ldt; c++) to[(int64_t)i * ldt + c] = 0;
  }
}

#if defined(__AVX512BF16__)
typedef uint32_t slot_bits __attribute__((may_alias));

/* x[n] rounded into n / 2 slots. n is rounded up to 2 VEC: x may be read, and to written, so far. */
static inline void narrow_row(rp_real *to, const rp_real *x, int n) {
  for (int c = 0; c < n; c += 2 * VEC)
    *(vec *)(to + c / 2) = vec_narrow(*(const vec *)(x + c), *(const vec *)(x + c + VEC));
}
/* to[n] = slots of a[n] and b[n]; n is a multiple of VEC. to may be a or b. */
static inline void pair_rows(rp_real *to, const rp_real *a, const rp_real *b, int n) {
  for (int c = 0; c < n; c += VEC)
    *(vec *)(to + c) = vec_pair(*(const vec *)(a + c), *(const vec *)(b + c));
}
#endif

/* to[count][ldt] = rows of t (h columns from element `at`, `ld` elements apart) as what a product over
 * columns takes, then zeros. In pairs t is bfloat16. */
static inline void pack_along(rp_real *to, rp_tensor t, int64_t at, int64_t ld, int count, int h,
                              int ldt) {
#if defined(__AVX512BF16__)
  const size_t bytes = (size_t)h * sizeof(uint16_t);
  for (int i = 0; i < count; i++, to += ldt) {
    memcpy(to, rd(t, at + i * ld), bytes);
    memset((uint8_t *)to + bytes, 0, (size_t)ldt * sizeof *to - bytes);
  }
#else
  pack_rows(to, t, at, ld, count, h, ldt);
#endif
}

/* Such rows as what a product over rows takes: the first one is row `first` of to, the rows before it are
 * there. A pair of which only one row is there has zeros for the other. Columns from h on are anything
 * in pairs: they meet no others. */
static inline void pack_across(rp_real *to, int first, rp_tensor t, int64_t at, int64_t ld,
                               int count, int h, int ldt) {
#if defined(__AVX512BF16__)
  for (int i = 0; i < count; i++) {
    slot_bits *restrict pair = (slot_bits *)(to + (int64_t)((first + i) / 2) * ldt);
    const uint16_t *restrict x = rd(t, at + i * ld);
    if ((first + i) % 2) {
      for (int c = 0; c < h; c++) pair[c] |= (uint32_t)x[c] << 16;
    } else if (i + 1 < count) {
      const uint16_t *restrict y = x + ld;
      for (int c = 0; c < h; c++) pair[c] = x[c] | (uint32_t)y[c] << 16;
      i++;
    } else {
      for (int c = 0; c < h; c++) pair[c] = x[c];
    }
  }
#else
  pack_rows(to + (int64_t)first * ldt, t, at, ld, count, h, ldt);
#endif
}

/* Asks for such rows: they lie too far apart for the processor to guess the next. */
static inline void ask_rows(rp_tensor t, int64_t at, int64_t ld, int count, int h) {
  const size_t bytes = (size_t)h * (size_t)rp_dtype_bytes(t.dtype);
  for (int i = 0; i < count; i++) {
    const uint8_t *row = rd(t, at + i * ld);
    for (size_t b = 0; b < bytes; b += 64) __builtin_prefetch(row + b, 0, 2);
  }
}
/* to[columns][ldt] = from[count][ld] turned; columns count .. ldt are zero. */
static inline void turn(rp_real *restrict to, const rp_real *restrict from, int ld, int count,
                        int columns, int ldt) {
  for (int c = 0; c < columns; c++) {
    for (int i = 0; i < count; i++) to[c * ldt + i] = from[i * ld + c];
    for (int i = count; i < ldt; i++) to[c * ldt + i] = 0;
  }
}

#endif
