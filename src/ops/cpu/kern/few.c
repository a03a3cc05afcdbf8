/* few.c - the product of few rows with a weight [N, K] as it lies: what a step of decoding does.
 *
 * Such a product is bounded by reading the weight, so it is read once, in runs along k, by all
 * threads: each owns a range of C's columns. The sum of an element is one vector along k, whose
 * lanes are added at the end: its order depends neither on the other rows, nor on how many there
 * are, nor on the threads. Blocks of rows and columns only decide how many such sums are in
 * registers at a time. */
#include "ops/cpu/kern/drivers.h"
#include "ops/cpu/kern/vec.h"

/* Sums in registers; rows of x are taken ROWS at a time, so that a weight serves them in L1. */
#if defined(__AVX512F__) || defined(__aarch64__)
enum { SUMS = 24 };
#else
enum { SUMS = 12 };
#endif
enum { ROWS = 4, COLS = 12 };

/* ---- a vector of elements ---- */

static inline vec reals(const void *x) { return *(const vec *)x; }

/* Of 2 VEC bfloat16 those at even (odd 0) or odd places: both operands are split alike, so that no
 * lane need move. */
#ifdef RP_REAL_DOUBLE
static inline vec halves(const void *x, const int odd) {
  uint16_t from[2 * VEC];
  vec v = {0};
  memcpy(from, x, sizeof from);
  for (int l = 0; l < VEC; l++) v[l] = (rp_real)rp_bf16_to_f32(from[2 * l + odd]);
  return v;
}
#else
static inline vec halves(const void *x, const int odd) {
  const vec_words w = *(const vec_words *)x;
  return odd ? (vec)(w & 0xffff0000u) : (vec)(w << 16);
}
#endif

/* ---- a block of sums ---- */

/* Where the rows of a block begin. */
typedef struct {
  const uint8_t *x[ROWS], *w[COLS];
} lines;

/* Adds the products of one vector at byte `at` of every line. kind 0: reals; 1, 2: bfloat16 at
 * even, odd places. The operand with fewer lines is kept in registers. */
__attribute__((always_inline)) static inline void step(const int rows, const int cols,
                                                       const int kind, const lines *l, size_t at,
                                                       vec sum[ROWS][COLS]) {
  vec kept[ROWS];
  const bool keep_x = rows <= cols;
  const int inner = keep_x ? rows : cols, outer = keep_x ? cols : rows;
  RP_EACH(i, inner) {
    const uint8_t *p = (keep_x ? l->x[i] : l->w[i]) + at;
    kept[i] = kind ? halves(p, kind == 2) : reals(p);
  }
  RP_EACH(o, outer) {
    const uint8_t *p = (keep_x ? l->w[o] : l->x[o]) + at;
    const vec one = kind ? halves(p, kind == 2) : reals(p);
    RP_EACH(i, inner) {
      vec *to = keep_x ? &sum[i][o] : &sum[o][i];
      *to += kept[i] * one;
    }
  }
}

/* What is left of a line after whole vectors, followed by zeros. */
typedef struct {
  uint8_t x[ROWS][VEC_BYTES], w[COLS][VEC_BYTES];
} ends;

__attribute__((always_inline)) static inline void last(const int rows, const int cols,
                                                       const bool narrow, const lines *l, size_t at,
                                                       size_t bytes, vec sum[ROWS][COLS]) {
  ends e = {0};
  lines to;
  for (int m = 0; m < rows; m++) to.x[m] = memcpy(e.x[m], l->x[m] + at, bytes);
  for (int n = 0; n < cols; n++) to.w[n] = memcpy(e.w[n], l->w[n] + at, bytes);
  step(rows, cols, narrow ? 1 : 0, &to, 0, sum);
  if (narrow) step(rows, cols, 2, &to, 0, sum);
}

static inline void put(const rp_gemm_args *a, int row, int col, rp_real s) {
  const rp_tensor to = rp_tensor_at(a->c, row * a->ldc + col);
  if (to.dtype == RP_BF16)
    *(uint16_t *)to.p.at = rp_f32_to_bf16((float)s);
  else
    *(rp_real *)to.p.at = a->accumulate ? *(rp_real *)to.p.at + s : s;
}

/* c's rows [row, row + rows), columns [col, end) of at most cols. Past the end the last column is
 * worked out again and not written. */
__attribute__((always_inline)) static inline void block(const int rows, const int cols,
                                                        const bool narrow, const rp_gemm_args *a,
                                                        int row, int col, int end) {
  const size_t wide = narrow ? 2 : sizeof(rp_real), bytes = (size_t)a->K * wide;
  const size_t run = narrow ? 2 * VEC * wide : VEC_BYTES, whole = bytes / run * run;
  vec sum[ROWS][COLS];
  lines l;
  RP_EACH(m, rows) l.x[m] = (const uint8_t *)a->a.p.at + (size_t)(row + m) * (size_t)a->lda * wide;
  RP_EACH(n, cols) {
    const int at = col + n < end ? col + n : end - 1;
    l.w[n] = (const uint8_t *)a->b.p.at + (size_t)at * (size_t)a->ldb * wide;
  }
  RP_EACH(m, rows) RP_EACH(n, cols) sum[m][n] = (vec){0};
  for (size_t at = 0; at < whole; at += run) {
    step(rows, cols, narrow ? 1 : 0, &l, at, sum);
    if (narrow) step(rows, cols, 2, &l, at, sum);
  }
  if (bytes > whole) last(rows, cols, narrow, &l, whole, bytes - whole, sum);
  rp_real sums[ROWS][COLS]; /* the vectors are in registers: no index that is not a constant */
  RP_EACH(m, rows) RP_EACH(n, cols) sums[m][n] = vec_sum(sum[m][n]);
  for (int m = 0; m < rows; m++)
    for (int n = 0; n < cols && col + n < end; n++) put(a, row + m, col + n, sums[m][n]);
}

/* Blocks of `rows` rows while as many sums as there are registers belong to `of` rows. */
typedef void (*block_at)(const rp_gemm_args *a, int row, int col, int end);
#define RP_COLS(of) (SUMS / (of) < COLS ? SUMS / (of) : COLS)
#define RP_BLOCK(rows, of) \
  static void block_##rows##_of_##of(const rp_gemm_args *a, int row, int col, int end) { \
    if (a->a.dtype == RP_BF16) \
      block(rows, RP_COLS(of), true, a, row, col, end); \
    else \
      block(rows, RP_COLS(of), false, a, row, col, end); \
  }
RP_BLOCK(1, 1)
RP_BLOCK(2, 2)
RP_BLOCK(2, 3)
RP_BLOCK(3, 3)
RP_BLOCK(3, 4)
RP_BLOCK(4, 4)
/* By the rows of the larger groups: those, and groups of one row less (none of 0 or 1). */
static const block_at blocks[ROWS + 1][2] = {{NULL, NULL},
                                             {block_1_of_1, NULL},
                                             {block_2_of_2, NULL},
                                             {block_3_of_3, block_2_of_3},
                                             {block_4_of_4, block_3_of_4}};

/* ---- the product ---- */

/* M rows in groups of at most ROWS that differ by one at most. */
static void columns(const rp_gemm_args *a, int col, int end) {
  const int groups = (a->M + ROWS - 1) / ROWS, rows = (a->M + groups - 1) / groups;
  const int larger = a->M - groups * (rows - 1), cols = RP_COLS(rows);
  for (int n = col; n < end; n += cols) {
    const int to = n + cols < end ? n + cols : end;
    for (int g = 0, m = 0; g < groups; m += g < larger ? rows : rows - 1, g++)
      blocks[rows][g >= larger](a, m, n, to);
  }
}

void RP_LEVEL_NAME(rp_gemm_few)(const rp_cpu_ctx *c, const rp_gemm_args *a) {
  if (a->M == 0) return;
  const int threads = (double)a->M * a->N * a->K < 65536 ? 1 : c->threads;
  const int64_t units = (a->N + COLS - 1) / COLS;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; i++) {
    const int64_t from = units * i / threads * COLS, to = units * (i + 1) / threads * COLS;
    columns(a, (int)from, to < a->N ? (int)to : a->N);
  }
}
