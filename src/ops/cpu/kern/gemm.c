/* gemm.c - the level's own matrix product: packed panels, a register tile, threads over C.
 *
 * Both operands are converted to `real` while they are packed, so that every dtype and transpose is
 * one inner kernel. A thread owns a rectangle of C and its own panels, so there is no barrier. The
 * sum of an element runs over k in order, in blocks of KC: it depends neither on the threads nor on
 * where the element lies. */
#include "ops/cpu/kern/drivers.h"
#include "ops/cpu/kern/vec.h"

#if defined(__AVX512F__) || defined(__aarch64__)
enum { MR = 6, NV = 4 };
#elif defined(__AVX2__)
enum { MR = 6, NV = 2 };
#else
enum { MR = 4, NV = 2 };
#endif

#if defined(__clang__)
#define RP_UNROLL _Pragma("unroll")
#else
#define RP_UNROLL _Pragma("GCC unroll 8")
#endif

enum {
  NR = NV * VEC,
  KC = 1024 / (int)sizeof(rp_real), /* rows of a packed panel: an MR x KC and a KC x NR fit L1/L2 */
  MC = MR * 16,
  NC = 4096 / (int)sizeof(rp_real) / NR * NR,
  ROWS = 2048 /* rows of C a thread works on before it packs b anew; bounds `sums` */
};

/* Panels of one thread, and its sums where C is narrower than real. */
typedef struct {
  rp_real *a;     // [MC/MR][KC][MR]
  rp_real *b;     // [NC/NR][KC][NR]
  rp_real *sums;  // [ROWS][NC]
} panels;

static size_t rounded(size_t n) { return (n + 63) & ~(size_t)63; }

static size_t panels_bytes(int64_t rows, bool narrow) {
  const int64_t sums = narrow ? (rows < ROWS ? rows : ROWS) * NC : 0;
  return rounded((size_t)(MC * KC + NC * KC) * sizeof(rp_real)) +
         rounded((size_t)sums * sizeof(rp_real));
}

static panels panels_at(uint8_t *p) {
  rp_real *a = (rp_real *)p;
  rp_real *b = a + MC * KC;
  return (panels){a, b, (rp_real *)(p + rounded((size_t)(MC * KC + NC * KC) * sizeof(rp_real)))};
}

static inline rp_real widened(uint16_t v) { return (rp_real)rp_bf16_to_f32(v); }
static inline rp_real same(rp_real v) { return v; }

/* Panels of `width` lines by `depth` steps from x, where line l step k lies at x[l*sl + k*sk], into
 * out[panel][step][width]; lines past the end are 0. One stride is 1: the loop over it is inside.
 * Inlined for each width, so that a step of a panel is a constant number of stores. */
#define RP_PACK(name, type, convert) \
  __attribute__((always_inline)) static inline void name( \
      rp_real *restrict out, const type *restrict x, int64_t sl, int64_t sk, int lines, int depth, \
      const int width) { \
    for (int l0 = 0; l0 < lines; l0 += width, out += (size_t)width * (size_t)depth) { \
      const type *from = x + l0 * sl; \
      const int n = lines - l0 < width ? lines - l0 : width; \
      if (n < width) memset(out, 0, (size_t)width *(size_t)depth * sizeof *out); \
      if (sl == 1 && n == width) { \
        for (int k = 0; k < depth; k++) \
          for (int l = 0; l < width; l++) out[k * width + l] = convert(from[k * sk + l]); \
      } else if (sk == 1 && n == width) { \
        for (int k = 0; k < depth; k++) \
          for (int l = 0; l < width; l++) out[k * width + l] = convert(from[l * sl + k]); \
      } else { \
        for (int k = 0; k < depth; k++) \
          for (int l = 0; l < n; l++) out[k * width + l] = convert(from[l * sl + k * sk]); \
      } \
    } \
  }
RP_PACK(pack_real, rp_real, same)
RP_PACK(pack_bf16, uint16_t, widened)

__attribute__((always_inline)) static inline void pack(rp_real *out, rp_tensor x, int64_t at,
                                                       int64_t sl, int64_t sk, int lines, int depth,
                                                       const int width) {
  if (x.dtype == RP_BF16)
    pack_bf16(out, (const uint16_t *)x.p.at + at, sl, sk, lines, depth, width);
  else
    pack_real(out, (const rp_real *)x.p.at + at, sl, sk, lines, depth, width);
}

/* tile[MR][NR] = a[depth][MR]^T b[depth][NR] */
static inline void micro(int depth, const rp_real *restrict a, const rp_real *restrict b,
                         vec tile[MR][NV]) {
  vec sum[MR][NV];
  RP_UNROLL for (int i = 0; i < MR; i++) RP_UNROLL for (int j = 0; j < NV; j++) sum[i][j] =
      (vec){0};
  for (int k = 0; k < depth; k++, a += MR, b += NR) {
    vec row[NV];
    RP_UNROLL for (int j = 0; j < NV; j++) row[j] = *(const vec *)(b + j * VEC);
    RP_UNROLL for (int i = 0; i < MR; i++) RP_UNROLL for (int j = 0; j < NV; j++) sum[i][j] +=
        a[i] * row[j];
  }
  RP_UNROLL for (int i = 0; i < MR; i++) RP_UNROLL for (int j = 0; j < NV; j++) tile[i][j] =
      sum[i][j];
}

/* c[MR, NR] (+)= tile. */
static inline void put_tile(rp_real *c, int64_t ldc, bool add, const vec t[MR][NV]) {
  RP_UNROLL for (int i = 0; i < MR; i++) RP_UNROLL for (int j = 0; j < NV; j++) {
    vec *to = (vec *)(c + i * ldc + j * VEC);
    *to = add ? (vec)(*to + t[i][j]) : t[i][j];
  }
}

/* c[m, n] (+)= a corner of the tile, at the edges of C. */
static void put_edge(rp_real *c, int64_t ldc, int m, int n, bool add, const vec t[MR][NV]) {
  for (int i = 0; i < m; i++) {
    rp_real *restrict row = c + i * ldc;
    const rp_real *restrict from = (const rp_real *)t[i];
    for (int j = 0; j < n; j++) row[j] = add ? row[j] + from[j] : from[j];
  }
}

static void block(const panels *p, int rows, int cols, int depth, rp_real *c, int64_t ldc,
                  bool add) {
  vec tile[MR][NV];
  for (int j = 0; j < cols; j += NR) {
    for (int i = 0; i < rows; i += MR) {
      rp_real *to = c + i * ldc + j;
      const int m = rows - i < MR ? rows - i : MR, n = cols - j < NR ? cols - j : NR;
      for (int l = 0; l < m; l++) __builtin_prefetch(to + l * ldc, 1); /* rows of C lie far apart */
      micro(depth, p->a + (size_t)i * (size_t)depth, p->b + (size_t)j * (size_t)depth, tile);
      if (m == MR && n == NR)
        put_tile(to, ldc, add, (const vec(*)[NV])tile);
      else
        put_edge(to, ldc, m, n, add, (const vec(*)[NV])tile);
    }
  }
}

static void round_rows(const rp_gemm_args *a, const rp_real *sums, int row, int col, int rows,
                       int cols) {
  for (int i = 0; i < rows; i++) {
    uint16_t *restrict c = (uint16_t *)a->c.p.at + (row + i) * a->ldc + col;
    for (int j = 0; j < cols; j++) c[j] = rp_f32_to_bf16((float)sums[i * (int64_t)NC + j]);
  }
}

/* C's rows [row, row + rows) and columns [col, col + cols): rows <= ROWS, cols <= NC. */
static void stripe(const rp_gemm_args *a, const panels *p, int row, int col, int rows, int cols) {
  const bool narrow = a->c.dtype == RP_BF16;
  rp_real *c = narrow ? p->sums : (rp_real *)a->c.p.at + row * a->ldc + col;
  const int64_t ldc = narrow ? NC : a->ldc;
  const int64_t al = a->ta ? 1 : a->lda, ak = a->ta ? a->lda : 1;
  const int64_t bl = a->tb ? a->ldb : 1, bk = a->tb ? 1 : a->ldb;
  for (int k = 0; k < a->K; k += KC) {
    const int depth = a->K - k < KC ? a->K - k : KC;
    pack(p->b, a->b, col * bl + k * bk, bl, bk, cols, depth, NR);
    for (int i = 0; i < rows; i += MC) {
      const int m = rows - i < MC ? rows - i : MC;
      pack(p->a, a->a, (row + i) * al + k * ak, al, ak, m, depth, MR);
      block(p, m, cols, depth, c + i * ldc, ldc, a->accumulate || k > 0);
    }
  }
  if (narrow) round_rows(a, p->sums, row, col, rows, cols);
}

/* The rectangle of C of one thread. */
static void rectangle(const rp_gemm_args *a, const panels *p, int row, int row_end, int col,
                      int col_end) {
  for (int j = col; j < col_end; j += NC) {
    const int cols = col_end - j < NC ? col_end - j : NC;
    for (int i = row; i < row_end; i += ROWS)
      stripe(a, p, i, j, row_end - i < ROWS ? row_end - i : ROWS, cols);
  }
}

/* Threads along M; the rest go along N. The largest rectangle decides the time, then its edges. */
static int threads_along_m(int64_t mu, int64_t nu, int threads) {
  int best = 1;
  int64_t least = INT64_MAX;
  for (int tm = 1; tm <= threads; tm++) {
    if (threads % tm) continue;
    const int64_t m = (mu + tm - 1) / tm, n = (nu + threads / tm - 1) / (threads / tm);
    const int64_t time = m * n * 64 + m + n;
    if (time >= least) continue;
    least = time;
    best = tm;
  }
  return best;
}

static int edge(int64_t units, int unit, int i, int parts, int end) {
  const int64_t at = units * i / parts * unit;
  return at < end ? (int)at : end;
}

static void no_terms(const rp_gemm_args *a) {
  const size_t bytes = (size_t)a->N * (size_t)rp_dtype_bytes(a->c.dtype);
  for (int i = 0; i < a->M && !a->accumulate; i++)
    memset((void *)rp_tensor_at(a->c, i * a->ldc).p.at, 0, bytes);
}

static int threads_of(const rp_cpu_ctx *c, const rp_gemm_args *a) {
  return (double)a->M * a->N * a->K < 65536 ? 1 : c->threads;
}

void RP_LEVEL_NAME(rp_gemm_plain)(rp_cpu_ctx *c, const rp_gemm_args *a, size_t used) {
  if (a->M == 0 || a->N == 0) return;
  if (a->K == 0) {
    no_terms(a);
    return;
  }
  const int threads = threads_of(c, a);
  const int64_t mu = (a->M + MR - 1) / MR, nu = (a->N + NR - 1) / NR;
  const int tm = threads_along_m(mu, nu, threads), tn = threads / tm;
  const size_t each = panels_bytes(a->M, a->c.dtype == RP_BF16);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; i++) {
    const panels p = panels_at(c->scratch + used + each * (size_t)i);
    rectangle(a, &p, edge(mu, MR, i / tn, tm, a->M), edge(mu, MR, i / tn + 1, tm, a->M),
              edge(nu, NR, i % tn, tn, a->N), edge(nu, NR, i % tn + 1, tn, a->N));
  }
}

size_t RP_LEVEL_NAME(rp_gemm_plain_scratch)(const rp_cpu_ctx *c, const rp_gemm_args *a) {
  return panels_bytes(a->M, a->c.dtype == RP_BF16) * (size_t)threads_of(c, a);
}

void RP_DRIVER(gemm)(rp_cpu_ctx *c, const void *args) { c->gemm(c, args, 0); }

size_t RP_SCRATCH(gemm)(const rp_cpu_ctx *c, const void *args) { return c->gemm_scratch(c, args); }
