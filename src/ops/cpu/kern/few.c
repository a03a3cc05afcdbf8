/* few.c - the product of few rows with a weight [N, K] as it lies: what a step of decoding does.
 *
 * Such a product is bounded by reading the weight, so it is read once, in runs along k, by all
 * threads: each owns a range of C's columns. Rows of bfloat16 are widened once, before; a weight is
 * widened in registers; where the processor multiplies pairs (vec.h) both stay as they are. The sum of
 * an element is one vector along k, whose lanes are added at the end: its order depends neither on the
 * other rows, nor on how many there are, nor on the threads.
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
/* Bytes of a line of the weight that are asked for in front of those being read: as measured, by the
 * processors that have the level. */
#if defined(__AVX512F__)
enum { AHEAD = 2048 };
#else
enum { AHEAD = 384 };
#endif
enum { ROWS = 4, COLS = 6 };

/* Bytes of an element of a weight, and of a run of it: what a vector of a row meets, or two of a widened
 * row; and where the run that begins at byte `at` of a weight begins in a row. */
#define RP_WIDE(widen) (PAIRS || (widen) ? sizeof(uint16_t) : sizeof(rp_real))
#define RP_RUN(widen) ((widen) ? 2 * VEC * sizeof(uint16_t) : sizeof(vec))
#define RP_IN_ROW(widen, at) ((widen) ? (at) / sizeof(uint16_t) * sizeof(rp_real) : (at))

/* to[K rounded up to two vectors] = from[K] in split order, zeros at the end. */
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
  const uint8_t *x[ROWS], *w[COLS];
} lines;

/* A vector of a weight. kind 0: as it lies; 1, 2: its bfloat16 at even, odd places. */
static inline vec weight(const uint8_t *w, const int kind) {
  return kind ? vec_halves(w, kind == 2) : *(const vec *)w;
}

/* Adds the products of one vector of every line, from byte xk of the rows and `at` of the weights.
 * The operand with fewer lines is kept in registers. */
__attribute__((always_inline)) static inline void step(const int rows, const int cols,
                                                       const int kind, const lines *l, size_t xk,
                                                       size_t at, vec sum[ROWS][COLS]) {
  vec kept[COLS];
  if (rows <= cols) {
    RP_EACH(m, rows) kept[m] = *(const vec *)(l->x[m] + xk);
    RP_EACH(n, cols) {
      const vec w = weight(l->w[n] + at, kind);
      RP_EACH(m, rows) sum[m][n] = vec_mul_add(sum[m][n], kept[m], w);
    }
    return;
  }
  RP_EACH(n, cols) kept[n] = weight(l->w[n] + at, kind);
  RP_EACH(m, rows) {
    const vec x = *(const vec *)(l->x[m] + xk);
    RP_EACH(n, cols) sum[m][n] = vec_mul_add(sum[m][n], x, kept[n]);
  }
}
/* Adds the products of the run that begins at byte `at` of the weights. */
__attribute__((always_inline)) static inline void run(const int rows, const int cols,
                                                      const bool widen, const lines *l, size_t at,
                                                      vec sum[ROWS][COLS]) {
  if (!widen) {
    step(rows, cols, 0, l, at, at, sum);
    return;
  }
  step(rows, cols, 1, l, RP_IN_ROW(true, at), at, sum);
  step(rows, cols, 2, l, RP_IN_ROW(true, at) + sizeof(vec), at, sum);
}

/* What is left of the lines after whole runs, `left` bytes of the weights from byte `at` on, followed
 * by zeros. */
typedef struct {
  vec x[ROWS][2], w[COLS];
} ends;

__attribute__((always_inline)) static inline void last(const int rows, const int cols,
                                                       const bool widen, const lines *l, size_t at,
                                                       size_t left, vec sum[ROWS][COLS]) {
  ends e = {0};
  lines to;
  RP_EACH(m, rows)
  to.x[m] = memcpy(&e.x[m], l->x[m] + RP_IN_ROW(widen, at), widen ? 2 * sizeof(vec) : left);
  RP_EACH(n, cols) to.w[n] = memcpy(&e.w[n], l->w[n] + at, left);
  run(rows, cols, widen, &to, 0, sum);
}

/* The product; the rows as they meet the weight: x[M], ldx bytes apart. */
typedef struct {
  const rp_gemm_args *a;
  const uint8_t *x;
  size_t ldx;
} job;

/* Of c the rows of one of so many groups, [row, ...), and columns col, col + apart, ... below end. */
typedef struct {
  int group, groups, row, col, apart, end;
} place;

/* Adds up the vectors of a block and writes the sums. */
__attribute__((always_inline)) static inline void put(const int rows, const int cols,
                                                      const rp_gemm_args *a, place p,
                                                      vec sum[ROWS][COLS]) {
  vec line[SUMS + VEC]; /* in registers: no index that is not a constant */
  rp_real out[SUMS + VEC];
  RP_EACH(m, rows) RP_EACH(n, cols) line[m * cols + n] = sum[m][n];
  RP_EACH(i, VEC) line[rows * cols + i] = (vec){0};
#pragma GCC unroll 12
  for (int i = 0; i < rows * cols; i += VEC) *(vec *)(out + i) = vec_sums(line + i);
  const int within = (p.end - p.col + p.apart - 1) / p.apart;
  const int there = within < cols ? within : cols;
  uint16_t narrow[SUMS + VEC];
  if (a->c.dtype == RP_BF16)
    for (int i = 0; i < rows * cols; i++) narrow[i] = rp_f32_to_bf16((float)out[i]);
  for (int m = 0; m < rows; m++) {
    const rp_tensor to = rp_tensor_at(a->c, (p.row + m) * a->ldc + p.col);
    for (int n = 0; n < there; n++) {
      const int64_t at = (int64_t)n * p.apart;
      if (to.dtype == RP_BF16)
        ((uint16_t *)to.p.at)[at] = narrow[m * cols + n];
      else
        ((rp_real *)to.p.at)[at] =
            out[m * cols + n] + (a->accumulate ? ((rp_real *)to.p.at)[at] : 0);
    }
  }
}

/* `rows` by `cols` elements of c. Past the end the last column is worked out again and not written.
 * One group of rows asks for its weights a little ahead; several share out the asking for those of the
 * columns that follow, so that memory is read all the while. */
__attribute__((always_inline)) static inline void block(const int rows, const int cols,
                                                        const bool widen, const job *j, place p) {
  const rp_gemm_args *a = j->a;
  const size_t bytes = (size_t)a->K * RP_WIDE(widen);
  vec sum[ROWS][COLS];
  lines l;
  RP_EACH(m, rows) l.x[m] = j->x + (size_t)(p.row + m) * j->ldx;
  RP_EACH(n, cols) {
    const int at = p.col + n * p.apart < p.end ? p.col + n * p.apart : p.end - 1;
    l.w[n] = (const uint8_t *)a->b.p.at + (size_t)at * (size_t)a->ldb * RP_WIDE(widen);
  }
  RP_EACH(m, rows) RP_EACH(n, cols) sum[m][n] = (vec){0};
  const size_t ahead = p.groups == 1 ? AHEAD : (size_t)a->ldb * RP_WIDE(widen);
  size_t at = 0;
  for (int due = p.group; at + RP_RUN(widen) <= bytes; at += RP_RUN(widen), due--) {
    if (due == 0) {
      RP_EACH(n, cols) __builtin_prefetch(l.w[n] + ahead + at, 0, 2);
      due = p.groups;
    }
    run(rows, cols, widen, &l, at, sum);
  }
  if (at < bytes) last(rows, cols, widen, &l, at, bytes - at, sum);
  put(rows, cols, a, p, sum);
}

/* Blocks of `rows` rows while as many sums as there are registers belong to `of` rows. */
typedef void (*block_at)(const job *j, place p);
#define RP_COLS(of) (SUMS / (of) < COLS ? SUMS / (of) : COLS)
#define RP_ROW_BLOCK(rows, of) \
  static void block_##rows##_of_##of(const job *j, place p) { \
    if (!PAIRS && j->a->a.dtype == RP_BF16) \
      block(rows, RP_COLS(of), true, j, p); \
    else \
      block(rows, RP_COLS(of), false, j, p); \
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
  place p = {.groups = groups, .apart = (end - col + cols - 1) / cols, .end = end};
  for (p.col = col; p.col < col + p.apart; p.col++)
    for (p.group = p.row = 0; p.group < groups; p.group++) {
      blocks[rows][p.group >= larger](j, p);
      p.row += p.group < larger ? rows : rows - 1;
    }
}

/* Bytes of a row that is widened before, a whole number of runs; 0: it stays where it is. */
static size_t widened_row(const rp_gemm_args *a) {
  return PAIRS || a->a.dtype != RP_BF16 ? 0 : round_up((size_t)a->K, 2 * VEC) * sizeof(rp_real);
}

size_t RP_LEVEL_NAME(rp_gemm_few_scratch)(const rp_cpu_ctx *c, const rp_gemm_args *a) {
  if (PAIRS && a->a.dtype != RP_BF16) return RP_BASE_NAME(rp_gemm_few_scratch)(c, a);
  return (size_t)a->M * widened_row(a);
}

void RP_LEVEL_NAME(rp_gemm_few)(rp_cpu_ctx *c, const rp_gemm_args *a, size_t used) {
  if (PAIRS && a->a.dtype != RP_BF16) {
    RP_BASE_NAME(rp_gemm_few)(c, a, used);
    return;
  }
  if (a->M == 0) return;
  const int threads = (double)a->M * a->N * a->K < 65536 ? 1 : c->threads;
  const int64_t units = (a->N + COLS - 1) / COLS;
  const size_t wide = (size_t)rp_dtype_bytes(a->a.dtype), widened = widened_row(a);
  uint8_t *x = c->scratch + used;
  job j = {a, (const uint8_t *)a->a.p.at, (size_t)a->lda * wide};
  if (widened) j.x = x, j.ldx = widened;
#pragma omp parallel num_threads(threads)
  {
    if (widened) {
#pragma omp for schedule(static)
      for (int m = 0; m < a->M; m++)
        widen_row((rp_real *)(x + (size_t)m * widened), (const uint16_t *)a->a.p.at + m * a->lda,
                  a->K);
    }
#pragma omp for schedule(static)
    for (int i = 0; i < threads; i++) {
      const int64_t from = units * i / threads * COLS, to = units * (i + 1) / threads * COLS;
      columns(&j, (int)from, to < a->N ? (int)to : a->N);
    }
  }
}
