/* few.c - the product of few rows with a weight [N, K] as it lies: what a step of decoding does.
 *
 * Such a product is bounded by reading the weight, so it is read once, in runs along k, by all
 * threads: each owns a range of C's columns. Rows of bfloat16 are widened once, before; a weight is
 * widened in registers. The sum of an element is one vector along k, whose lanes are added at the
 * end: its order depends neither on the other rows, nor on how many there are, nor on the threads.
 * Blocks of rows and columns only decide how many such sums are in registers at a time. The columns of
 * a block lie far apart, so that each of a few streams runs through memory in order: neighbouring columns
 * are streams of a page each, and by the time the processor has seen where they go they end. */
#include "ops/cpu/kern/lanes.h"
#include "ops/cpu/kern/vec.h"

/* Sums in registers; rows of x are taken ROWS at a time, so that a weight serves them in L1. */
#if defined(__AVX512F__) || defined(__aarch64__)
enum { SUMS = 24 };
#else
enum { SUMS = 12 };
#endif
/* Bytes of a line of the weight that are asked for in front of those being read. */
enum { ROWS = 4, COLS = 6, AHEAD = 384 };

/* Elements of a run: two vectors of a weight in bfloat16, whose rows are in split order. */
#define RP_RUN(narrow) ((narrow) ? 2 * VEC : VEC)

/* to[K rounded up to runs] = from[K] in split order, zeros at the end. */
static void widen_row(rp_real *to, const uint16_t *from, int K) {
  int k = 0;
  for (; k + 2 * VEC <= K; k += 2 * VEC) {
    *(vec *)(to + k) = vec_halves(from + k, 0);
    *(vec *)(to + k + VEC) = vec_halves(from + k, 1);
  }
  if (k == K) return;
  memset(to + k, 0, 2 * VEC * sizeof *to);
  for (; k < K; k++) to[vec_split_at(k)] = (rp_real)rp_bf16_to_f32(from[k]);
}

/* ---- a block of sums ---- */

/* Where the rows of a block begin. */
typedef struct {
  const rp_real *x[ROWS];
  const uint8_t *w[COLS];
} lines;

/* Adds the products of one vector of every line, from element xk of the rows and byte `at` of the
 * weights. kind 0: reals; 1, 2: bfloat16 at even, odd places. The operand with fewer lines is kept
 * in registers. */
__attribute__((always_inline)) static inline void step(const int rows, const int cols,
                                                       const int kind, const lines *l, size_t xk,
                                                       size_t at, vec sum[ROWS][COLS]) {
  vec kept[COLS];
  if (rows <= cols) {
    RP_EACH(m, rows) kept[m] = *(const vec *)(l->x[m] + xk);
    RP_EACH(n, cols) {
      const vec w = kind ? vec_halves(l->w[n] + at, kind == 2) : *(const vec *)(l->w[n] + at);
      RP_EACH(m, rows) sum[m][n] += kept[m] * w;
    }
    return;
  }
  RP_EACH(n, cols)
  kept[n] = kind ? vec_halves(l->w[n] + at, kind == 2) : *(const vec *)(l->w[n] + at);
  RP_EACH(m, rows) {
    const vec x = *(const vec *)(l->x[m] + xk);
    RP_EACH(n, cols) sum[m][n] += x * kept[n];
  }
}

/* What is left of the lines after whole runs, followed by zeros. */
typedef struct {
  rp_real x[ROWS][2 * VEC];
  uint8_t w[COLS][VEC_BYTES];
} ends;

__attribute__((always_inline)) static inline void last(const int rows, const int cols,
                                                       const bool narrow, const lines *l, int k,
                                                       int K, vec sum[ROWS][COLS]) {
  const size_t wide = narrow ? 2 : sizeof(rp_real), left = (size_t)(K - k);
  ends e = {0};
  lines to;
  RP_EACH(m, rows)
  to.x[m] = memcpy(e.x[m], l->x[m] + k, (narrow ? 2 * VEC : left) * sizeof(rp_real));
  RP_EACH(n, cols) to.w[n] = memcpy(e.w[n], l->w[n] + (size_t)k * wide, left * wide);
  step(rows, cols, narrow ? 1 : 0, &to, 0, 0, sum);
  if (narrow) step(rows, cols, 2, &to, VEC, 0, sum);
}

static inline void put(const rp_gemm_args *a, int row, int col, rp_real s) {
  const rp_tensor to = rp_tensor_at(a->c, row * a->ldc + col);
  if (to.dtype == RP_BF16)
    *(uint16_t *)to.p.at = rp_f32_to_bf16((float)s);
  else
    *(rp_real *)to.p.at = a->accumulate ? *(rp_real *)to.p.at + s : s;
}

/* The product, with the rows as reals: x[M][ldx]. */
typedef struct {
  const rp_gemm_args *a;
  const rp_real *x;
  int64_t ldx;
} job;

/* c's rows [row, row + rows), columns col, col + apart, ... of cols, below end. Past the end the last
 * column is worked out again and not written. */
__attribute__((always_inline)) static inline void block(const int rows, const int cols,
                                                        const bool narrow, const job *j, int row,
                                                        int col, int apart, int end) {
  const rp_gemm_args *a = j->a;
  const size_t wide = narrow ? 2 : sizeof(rp_real);
  vec sum[ROWS][COLS];
  lines l;
  RP_EACH(m, rows) l.x[m] = j->x + (row + m) * j->ldx;
  RP_EACH(n, cols) {
    const int at = col + n * apart < end ? col + n * apart : end - 1;
    l.w[n] = (const uint8_t *)a->b.p.at + (size_t)at * (size_t)a->ldb * wide;
  }
  RP_EACH(m, rows) RP_EACH(n, cols) sum[m][n] = (vec){0};
  int k = 0;
  for (; k + RP_RUN(narrow) <= a->K; k += RP_RUN(narrow)) {
    if (row == 0) RP_EACH(n, cols) __builtin_prefetch(l.w[n] + AHEAD + (size_t)k * wide, 0, 2);
    step(rows, cols, narrow ? 1 : 0, &l, (size_t)k, (size_t)k * wide, sum);
    if (narrow) step(rows, cols, 2, &l, (size_t)k + VEC, (size_t)k * wide, sum);
  }
  if (k < a->K) last(rows, cols, narrow, &l, k, a->K, sum);
  rp_real sums[ROWS][COLS]; /* the vectors are in registers: no index that is not a constant */
  RP_EACH(m, rows) RP_EACH(n, cols) sums[m][n] = vec_sum(sum[m][n]);
  for (int m = 0; m < rows; m++)
    for (int n = 0; n < cols && col + n * apart < end; n++)
      put(a, row + m, col + n * apart, sums[m][n]);
}

/* Blocks of `rows` rows while as many sums as there are registers belong to `of` rows. */
typedef void (*block_at)(const job *j, int row, int col, int apart, int end);
#define RP_COLS(of) (SUMS / (of) < COLS ? SUMS / (of) : COLS)
#define RP_ROW_BLOCK(rows, of) \
  static void block_##rows##_of_##of(const job *j, int row, int col, int apart, int end) { \
    if (j->a->a.dtype == RP_BF16) \
      block(rows, RP_COLS(of), true, j, row, col, apart, end); \
    else \
      block(rows, RP_COLS(of), false, j, row, col, apart, end); \
  }
RP_ROW_BLOCK(1, 1)
RP_ROW_BLOCK(2, 2)
RP_ROW_BLOCK(2, 3)
RP_ROW_BLOCK(3, 3)
RP_ROW_BLOCK(3, 4)
RP_ROW_BLOCK(4, 4)
/* By the rows of the larger groups: those, and groups of one row less (none of 0 or 1). */
static const block_at blocks[ROWS + 1][2] = {{NULL, NULL},
                                             {block_1_of_1, NULL},
                                             {block_2_of_2, NULL},
                                             {block_3_of_3, block_2_of_3},
                                             {block_4_of_4, block_3_of_4}};

/* ---- the product ---- */

/* M rows in groups of at most ROWS that differ by one at most. */
static void columns(const job *j, int col, int end) {
  const int M = j->a->M, groups = (M + ROWS - 1) / ROWS, rows = (M + groups - 1) / groups;
  const int larger = M - groups * (rows - 1), cols = RP_COLS(rows);
  const int apart = (end - col + cols - 1) / cols;
  for (int n = col; n < col + apart; n++)
    for (int g = 0, m = 0; g < groups; m += g < larger ? rows : rows - 1, g++)
      blocks[rows][g >= larger](j, m, n, apart, end);
}

static int64_t widened_row(const rp_gemm_args *a) {
  return (int64_t)round_up((size_t)a->K, 2 * VEC);
}

size_t RP_LEVEL_NAME(rp_gemm_few_scratch)(const rp_cpu_ctx *c, const rp_gemm_args *a) {
  (void)c;
  if (a->a.dtype != RP_BF16) return 0;
  return (size_t)a->M * (size_t)widened_row(a) * sizeof(rp_real);
}

void RP_LEVEL_NAME(rp_gemm_few)(rp_cpu_ctx *c, const rp_gemm_args *a, size_t used) {
  if (a->M == 0) return;
  const bool narrow = a->a.dtype == RP_BF16;
  const int threads = (double)a->M * a->N * a->K < 65536 ? 1 : c->threads;
  const int64_t units = (a->N + COLS - 1) / COLS;
  rp_real *x = (rp_real *)(c->scratch + used);
  const job j = {a, narrow ? x : (const rp_real *)a->a.p.at, narrow ? widened_row(a) : a->lda};
#pragma omp parallel num_threads(threads)
  {
    if (narrow) {
#pragma omp for schedule(static)
      for (int m = 0; m < a->M; m++)
        widen_row(x + m * j.ldx, (const uint16_t *)a->a.p.at + m * a->lda, a->K);
    }
#pragma omp for schedule(static)
    for (int i = 0; i < threads; i++) {
      const int64_t from = units * i / threads * COLS, to = units * (i + 1) / threads * COLS;
      columns(&j, (int)from, to < a->N ? (int)to : a->N);
    }
  }
}
