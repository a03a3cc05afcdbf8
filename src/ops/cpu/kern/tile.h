/* tile.h - small dense products on packed tiles, and the packing, for the attention drivers.
 *
 * A tile is row-major real memory with rows of a whole number of 64-byte lines. c[M][N] (+)= A B
 * with A(m, k) = a[m * am + k * ak], so that one function serves A, its transpose and broadcasts of
 * either; B is b[K][ldb]. N is a multiple of RP_LINE; M and K are any. Included by kern/ sources
 * only. */
#ifndef RP_OPS_CPU_KERN_TILE_H
#define RP_OPS_CPU_KERN_TILE_H

#include "ops/cpu/kern/lanes.h"
#include "ops/cpu/kern/vec.h"

/* The register block is 6 rows x BLOCK_VECS vectors. */
#if defined(__AVX512F__)
enum { BLOCK_VECS = 4 };
#else
enum { BLOCK_VECS = 2 };
#endif
enum { RP_LINE = 64 / (int)sizeof(rp_real) };

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
      for (int n = 0; n < nv; n++) acc[m][n] += s * row[n];
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

/* to[count][hp] = rows of t (h columns from element `at`, `ld` elements apart), then zeros. */
static inline void pack_rows(rp_real *to, rp_tensor t, int64_t at, int64_t ld, int count, int h,
                             int hp) {
  for (int i = 0; i < count; i++) {
    load(to + (int64_t)i * hp, t, at + i * ld, h);
    for (int c = h; c < hp; c++) to[(int64_t)i * hp + c] = 0;
  }
}
/* to[hp][ld] = from[count][hp] turned; columns count .. ld are zero. */
static inline void turn(rp_real *restrict to, const rp_real *restrict from, int count, int hp,
                        int ld) {
  for (int c = 0; c < hp; c++) {
    for (int i = 0; i < count; i++) to[c * ld + i] = from[i * hp + c];
    for (int i = count; i < ld; i++) to[c * ld + i] = 0;
  }
}

#endif
