/* registry_ops.c - for every op, what a case of it is. */
#include <math.h>
#include <stddef.h>

#include "ops/registry.h"

static int64_t area(int a, int b) { return (int64_t)a * b; }

/* Of the benchmark: tokens of all sequences, or a step's rows; width. */
static int tokens(const rp_case *c) { return c->size.batch * (c->size.step ? 1 : c->size.T); }
static int width(const rp_case *c) { return c->size.H * c->size.h; }
static int elements(const rp_case *c) { return c->size.elements ? c->size.elements : 1 << 24; }

static void case_zero(rp_case *c) {
  rp_zero_args *a = &c->args.zero;
  const int n = rp_case_size(c, 1, 100000, elements(c));
  a->bytes = (size_t)n * 4;
  rp_case_tensor *t = rp_case_at(c, &a->p, RP_CASE_I32, n);
  t->role = RP_CASE_INOUT;
  t->spread = 1000;
  c->bytes = 4.0 * n;
}

static void case_copy(rp_case *c) {
  rp_copy_args *a = &c->args.copy;
  const int n = rp_case_size(c, 1, 100000, elements(c));
  a->bytes = (size_t)n * 4;
  rp_case_at(c, &a->src, RP_CASE_I32, n)->spread = 1000;
  rp_case_at(c, &a->dst, RP_CASE_I32, n)->role = RP_CASE_OUT;
  c->bytes = 8.0 * n;
}

static void case_take(rp_case *c) {
  rp_take_args *a = &c->args.take;
  a->rows = rp_case_size(c, 1, 50, 4096);
  a->n = rp_case_size(c, 1, 70, 64);
  a->d = rp_case_size(c, 1, 200, width(c));
  rp_case_in(c, &a->x, RP_CASE_REAL, area(a->rows, a->d), 1);
  rp_case_at(c, &a->at, RP_CASE_I32, a->n)->spread = a->rows;
  rp_case_out(c, &a->y, RP_CASE_REAL, area(a->n, a->d), a->d, 0);
  c->bytes = 8.0 * a->n * a->d;
}

/* Every other entry of one table is set. */
enum { TABLE = 32 };
static void case_table(rp_case *c) {
  rp_table_args *a = &c->args.table;
  rp_table_entry list[TABLE];
  a->n = rp_case_size(c, 1, TABLE, TABLE);
  for (int i = 0; i < a->n; i++)
    list[i] = (rp_table_entry){.block = (int32_t)rp_rng_below(&c->rng, 1 << 20)};
  rp_case_tensor *lists = rp_case_bytes(c, &a->list, list, sizeof *list * (size_t)a->n);
  rp_ptr nowhere; /* only the entries lead to these */
  for (int i = 0; i < a->n && c->tensors < RP_CASE_TENSORS; i++) {
    rp_case_tensor *t = rp_case_at(c, &nowhere, RP_CASE_I32, 1);
    t->places = 0;
    t->role = RP_CASE_INOUT;
    rp_case_points(c, lists, sizeof *list * (size_t)i, t, 0);
  }
  if (a->n > c->tensors - 1) a->n = c->tensors - 1;
}

/* Exact: rounding to nearest even leaves no choice. */
static void case_cast(rp_case *c) {
  rp_cast_args *a = &c->args.cast;
  a->n = rp_case_size(c, 1, 40000, elements(c));
  const bool narrow = c->bench || rp_rng_below(&c->rng, 2);
  rp_case_in(c, &a->src, narrow ? RP_CASE_REAL : RP_CASE_COMPUTE, a->n, 1);
  rp_case_out(c, &a->dst, narrow ? RP_CASE_COMPUTE : RP_CASE_REAL, a->n, a->n, 0);
}

static double gemm_terms(const rp_case *c, double *const *values, int t, int64_t i) {
  const rp_gemm_args *a = &c->args.gemm;
  const int64_t m = i / a->ldc, n = i % a->ldc;
  double sum = a->accumulate ? fabs(rp_case_value(c, t, i)) : 0;
  for (int64_t k = 0; k < a->K && n < a->N; k++)
    sum += fabs(values[0][a->ta ? k * a->lda + m : m * a->lda + k] *
                values[1][a->tb ? n * a->ldb + k : k * a->ldb + n]);
  return sum;
}

/* A sum in blocks of vectors is off by far less than K roundings of the whole: 4 is what the
 * longest chain of partial sums of random signs was ever seen to need, doubled. */
static void case_gemm(rp_case *c) {
  rp_gemm_args *a = &c->args.gemm;
  const bool gaps = !c->bench && rp_rng_below(&c->rng, 2);
  const bool few = !c->bench && rp_rng_below(&c->rng, 2); /* rows times a weight: decoding */
  a->M = rp_case_size(c, 1, few ? 40 : 150, tokens(c));
  a->N = rp_case_size(c, 1, 200, (c->size.step ? 8 : 4) * width(c));
  a->K = rp_case_size(c, 1, 300, width(c));
  a->ta = !c->bench && !few && rp_rng_below(&c->rng, 2);
  a->tb = c->bench || few || rp_rng_below(&c->rng, 2);
  a->accumulate = !c->bench && rp_rng_below(&c->rng, 2);
  a->lda = (a->ta ? a->M : a->K) + (gaps ? rp_case_size(c, 0, 9, 0) : 0);
  a->ldb = (a->tb ? a->K : a->N) + (gaps ? rp_case_size(c, 0, 9, 0) : 0);
  a->ldc = a->N + (gaps ? rp_case_size(c, 0, 9, 0) : 0);
  rp_case_in(c, &a->a, RP_CASE_COMPUTE, (a->ta ? a->K : a->M) * a->lda, 1);
  rp_case_in(c, &a->b, RP_CASE_COMPUTE, (a->tb ? a->N : a->K) * a->ldb, 1);
  const bool narrow = !a->accumulate && (c->bench || rp_rng_below(&c->rng, 2));
  rp_case_tensor *t =
      rp_case_out(c, &a->c, narrow ? RP_CASE_COMPUTE : RP_CASE_REAL, a->M * a->ldc, a->ldc, 4);
  t->role = RP_CASE_INOUT; /* what lies between rows must stay */
  t->spread = 1;
  c->terms = gemm_terms;
  c->flops = 2.0 * a->M * a->N * a->K;
  c->reads = c->size.step;
}

static void case_embed(rp_case *c) {
  rp_embed_args *a = &c->args.embed;
  a->n = rp_case_size(c, 1, 70, tokens(c));
  a->d = rp_case_size(c, 1, 200, width(c));
  a->V = rp_case_size(c, 1, 50, 32000);
  rp_case_in(c, &a->table, RP_CASE_REAL, area(a->V, a->d), 1);
  rp_case_at(c, &a->ids, RP_CASE_I32, a->n)->spread = a->V;
  rp_case_out(c, &a->x, RP_CASE_REAL, area(a->n, a->d), a->d, 0);
  c->bytes = 8.0 * a->n * a->d;
}

static void case_embed_bwd(rp_case *c) {
  rp_embed_bwd_args *a = &c->args.embed_bwd;
  a->n = rp_case_size(c, 1, 70, tokens(c));
  a->d = rp_case_size(c, 1, 200, width(c));
  a->V = rp_case_size(c, 1, 50, 32000);
  rp_case_in(c, &a->dx, RP_CASE_REAL, area(a->n, a->d), 1);
  rp_case_at(c, &a->ids, RP_CASE_I32, a->n)->spread = a->V;
  rp_case_tensor *t = rp_case_out(c, &a->dtable, RP_CASE_REAL, area(a->V, a->d), a->d, 1.0 * a->n);
  t->role = RP_CASE_INOUT; /* n: as many terms as all ids being one */
  t->spread = 1;
  c->bytes = 12.0 * a->n * a->d;
}

/* Ends of the sums of d squares, root and product. */
static void case_norm(rp_case *c) {
  rp_norm_args *a = &c->args.norm;
  a->n = rp_case_size(c, 1, 70, tokens(c));
  a->d = rp_case_size(c, 1, 300, width(c));
  a->kind = !c->bench && rp_rng_below(&c->rng, 2) ? RP_NORM_LAYER : RP_NORM_RMS;
  rp_case_in(c, &a->x, RP_CASE_REAL, area(a->n, a->d), 2);
  rp_case_in(c, &a->w, RP_CASE_REAL, a->d, 1);
  if (a->kind == RP_NORM_LAYER) rp_case_in(c, &a->b, RP_CASE_REAL, a->d, 1);
  rp_case_out(c, &a->y, c->bench || rp_rng_below(&c->rng, 2) ? RP_CASE_COMPUTE : RP_CASE_REAL,
              area(a->n, a->d), a->d, a->d == 1 ? 64 : 16);
  rp_case_tensor *t = rp_case_at(c, &a->stat, RP_CASE_REAL, area(a->n, 2));
  t->role = RP_CASE_OUT;
  t->row = 2;
  t->factor = 16;
}

static void case_norm_bwd(rp_case *c) {
  rp_norm_bwd_args *a = &c->args.norm_bwd;
  rp_norm_args *f = &c->before.norm;
  a->n = f->n = rp_case_size(c, 1, 70, tokens(c));
  a->d = f->d = rp_case_size(c, 8, 300, width(c)); /* of few elements everything may cancel */
  a->kind = f->kind = !c->bench && rp_rng_below(&c->rng, 2) ? RP_NORM_LAYER : RP_NORM_RMS;
  c->before_op = RP_OP_norm;
  rp_case_also(c, rp_case_in(c, &a->x, RP_CASE_REAL, area(a->n, a->d), 2), &f->x);
  rp_case_also(c, rp_case_in(c, &a->w, RP_CASE_REAL, a->d, 1), &f->w);
  rp_case_in(c, &a->dy, RP_CASE_REAL, area(a->n, a->d), 1);
  rp_case_in(c, &f->b, RP_CASE_REAL, a->d, 1);
  rp_case_out(c, &f->y, RP_CASE_REAL, area(a->n, a->d), a->d, 0)->role = RP_CASE_KEPT;
  rp_case_tensor *stat = rp_case_at(c, &a->stat, RP_CASE_REAL, area(a->n, 2));
  stat->role = RP_CASE_KEPT;
  rp_case_also_at(c, stat, &f->stat);
  rp_case_tensor *t = rp_case_out(c, &a->dx, RP_CASE_REAL, area(a->n, a->d), a->d, 64);
  t->role = RP_CASE_INOUT;
  t->spread = 1;
  rp_case_tensor *dw = rp_case_out(c, &a->dw, RP_CASE_REAL, a->d, a->d, 16 + a->n);
  dw->role = RP_CASE_INOUT;
  if (a->kind != RP_NORM_LAYER) return;
  rp_case_tensor *db = rp_case_out(c, &a->db, RP_CASE_REAL, a->d, a->d, 16 + a->n);
  db->role = RP_CASE_INOUT;
}

/* Angles and their functions are made in double: the last rounding is all. */
static void case_rope(rp_case *c) {
  rp_rope_args *a = &c->args.rope;
  a->from = rp_case_size(c, 0, 100000, 0);
  a->count = rp_case_size(c, 1, 90, tokens(c));
  a->h = 2 * rp_case_size(c, 1, 64, c->size.h / 2);
  a->base = 10000;
  a->scale = rp_case_size(c, 1, 4, 1);
  rp_case_tensor *t = rp_case_at(c, &a->table, RP_CASE_REAL, area(a->count, a->h));
  t->role = RP_CASE_OUT;
  t->factor = 1;
}

/* Rows of a call: up to three sequences of any length in tests, those of its size in the
 * benchmark. */
static rp_rows case_rows(rp_case *c, rp_row row[RP_CASE_ROWS], int longest, int plans) {
  rp_rows r = {.count = rp_case_size(c, 1, 3, c->size.batch)};
  for (int i = 0; i < r.count; i++) {
    const int n = rp_case_size(c, 1, longest, c->size.step ? 1 : c->size.T);
    row[i] = (rp_row){
        .tok = r.tokens,
        .n = n,
        .plan = plans > 1 && !c->bench ? (int32_t)rp_rng_below(&c->rng, (uint64_t)plans) : 0};
    r.tokens += n;
    if (n > r.longest) r.longest = n;
  }
  return r;
}

static void heads(rp_case *c, int32_t *H, int32_t *Hk, int32_t *h) {
  static const int widths[] = {2, 6, 16, 64, 128};
  *Hk = rp_case_size(c, 1, 3, c->size.Hk);
  *H = *Hk * rp_case_size(c, 1, 2, c->bench ? c->size.H / c->size.Hk : 1);
  *h = c->bench ? c->size.h : widths[rp_rng_below(&c->rng, 5)];
}

static void rope_table(rp_case *c, rp_ptr *at, int longest, int h) {
  rp_case_in(c, (rp_tensor *)at, RP_CASE_REAL, area(longest, h), 1)->typed[0] = false;
}

static int64_t projected(int H, int Hk, int h, int re) {
  return (int64_t)h * (2 * H + (re ? 3 : 2) * Hk);
}

/* Half of the cases go on from states of a cache: rows stand somewhere, one tensor of states
 * each. */
static void gate_states(rp_case *c, rp_gate_args *a, rp_row *row) {
  rp_kv *kv = &a->kv;
  if (c->bench || rp_rng_below(&c->rng, 2)) return;
  kv->blocks = kv->layers = 1;
  kv->margin = (int32_t)rp_rng_below(&c->rng, 4);
  kv->states = kv->margin + 1;
  a->rope_by_token = 1;
  rp_case_in(c, &kv->pool, RP_CASE_COMPUTE, rp_kv_block_elements(a->h), 1);
  for (int i = 0; i < a->rows.count; i++) {
    row[i].pos = (int32_t)rp_rng_below(&c->rng, 100);
    row[i].top = row[i].pos + (int32_t)rp_rng_below(&c->rng, (uint64_t)kv->margin + 1);
  }
}
static void gate_cells(rp_case *c, rp_gate_args *a, rp_case_tensor *rows) {
  rp_ptr nowhere;
  for (int i = 0; a->kv.states && i < a->rows.count; i++) {
    rp_case_tensor *t = rp_case_at(c, &nowhere, RP_CASE_REAL, area(2 * a->kv.states, a->Hk * a->h));
    t->places = 0;
    t->role = RP_CASE_INOUT;
    t->row = a->h;
    t->spread = t->least = 1;
    t->factor = 32;
    rp_case_points(c, rows, sizeof(rp_row) * (size_t)i + offsetof(rp_row, cell), t, 0);
  }
}

static void case_gate(rp_case *c) {
  rp_gate_args *a = &c->args.gate;
  rp_row row[RP_CASE_ROWS];
  a->rows = case_rows(c, row, 80, 1);
  heads(c, &a->H, &a->Hk, &a->h);
  a->re = c->bench || rp_rng_below(&c->rng, 3);
  gate_states(c, a, row);
  a->ldp = projected(a->H, a->Hk, a->h, a->re) + rp_case_size(c, 0, 5, 0);
  const int n = a->rows.tokens;
  rp_case_in(c, &a->p, RP_CASE_COMPUTE, n * a->ldp, 1);
  rope_table(c, &a->rope, a->rope_by_token ? n : a->rows.longest, a->h);
  rp_case_out(c, &a->q, RP_CASE_COMPUTE, area(n, a->H * a->h), a->h, 4);
  rp_case_out(c, &a->k, RP_CASE_COMPUTE, area(n, a->Hk * a->h), a->h, 32)->least = 1;
  rp_case_out(c, &a->v, RP_CASE_COMPUTE, area(n, a->Hk * a->h), a->h, 32)->least = 1;
  gate_cells(c, a, rp_case_bytes(c, &a->rows.row, row, sizeof *row * (size_t)a->rows.count));
  /* q, k, x and g are read, q, k~ and v~ written; the output gate's part lies aside */
  c->bytes = ((double)a->H * 2 + (double)a->Hk * 5) * a->h * n * (c->bf16 ? 2 : 4);
}

/* Gates near 1 make the sum over later tokens long, and cancel in (k_prev - k). */
static void case_gate_bwd(rp_case *c) {
  rp_gate_bwd_args *a = &c->args.gate_bwd;
  rp_row row[RP_CASE_ROWS];
  a->rows = case_rows(c, row, 80, 1);
  heads(c, &a->H, &a->Hk, &a->h);
  a->re = c->bench || rp_rng_below(&c->rng, 3);
  a->ldp = projected(a->H, a->Hk, a->h, a->re);
  const int n = a->rows.tokens;
  rp_case_in(c, &a->p, RP_CASE_COMPUTE, n * a->ldp, 1);
  rp_case_in(c, &a->dq, RP_CASE_REAL, area(n, a->H * a->h), 1);
  rp_case_in(c, &a->dk, RP_CASE_REAL, area(n, a->Hk * a->h), 1);
  rp_case_in(c, &a->dv, RP_CASE_REAL, area(n, a->Hk * a->h), 1);
  rope_table(c, &a->rope, a->rows.longest, a->h);
  rp_case_tensor *t = rp_case_out(c, &a->dp, RP_CASE_COMPUTE, n * a->ldp, a->ldp, 64);
  t->least = 1;
  t->role = RP_CASE_INOUT; /* columns o are not the op's */
  t->spread = 1;
  rp_case_bytes(c, &a->rows.row, row, sizeof *row * (size_t)a->rows.count);
  /* of the projection k, x and g are read, and all that dq, dk and dv bring; q, k, x and g
   * written */
  c->bytes = (double)a->h * n *
             (((double)a->H + 6.0 * a->Hk) * (c->bf16 ? 2 : 4) + ((double)a->H + 2.0 * a->Hk) * 4);
}

/* Two plans of patterns for Hk heads, at most 3; of the benchmark one, for as many as there are. */
enum { PATS = 64 };
static size_t patterns(rp_case *c, rp_pat pats[PATS], int Hk, int longest) {
  static const int D[] = {-1, 1, 2, 4, 16, 64};
  const int plans = c->bench ? 1 : 2;
  for (int i = 0; i < plans * Hk; i++) {
    rp_pat *p = &pats[i];
    *p = c->bench ? c->size.pat : (rp_pat){D[rp_rng_below(&c->rng, 6)], 0, 0};
    if (!c->bench && rp_rng_below(&c->rng, 2))
      p->W = (int32_t)rp_rng_below(&c->rng, (uint64_t)longest + 3);
    if (!c->bench && rp_rng_below(&c->rng, 3) == 0) p->I = (int32_t)rp_rng_below(&c->rng, 9);
    if (p->D == -1 && !p->W && !p->I) p->W = 1;
  }
  return sizeof *pats * (size_t)(plans * Hk);
}

/* Of the benchmark: keys that all queries of one head see together. */
static double pairs(const rp_case *c) {
  const rp_case_bench *z = &c->size;
  if (!c->bench) return 0;
  return (double)z->batch *
         (double)(z->step ? rp_pat_keys(z->pat, z->T - 1) : rp_pat_pairs(z->pat, z->T));
}

/* Of the benchmark: caches that hold T tokens of each sequence, the blocks of a list side by
 * side. */
static int64_t blocks_of_list(const rp_case *c, bool ring) {
  const int64_t n =
      ring ? rp_pat_in_ring(c->size.pat, c->size.T, 0) : rp_pat_in_kept(c->size.pat, c->size.T, 0);
  return (n + RP_KV_BLOCK - 1) / RP_KV_BLOCK;
}
static int64_t blocks_of_sequence(const rp_case *c) {
  return c->size.Hk * (blocks_of_list(c, false) + blocks_of_list(c, true));
}
static int64_t cell_ints(const rp_case *c) { return 2 * c->size.Hk + blocks_of_sequence(c); }

static int32_t cell_entry(const rp_case *c, int64_t i) {
  const int64_t lists = 2 * c->size.Hk, kept = blocks_of_list(c, false);
  const int64_t sequence = i / cell_ints(c), at = i % cell_ints(c);
  const int64_t each = kept + blocks_of_list(c, true);
  if (at < lists) return (int32_t)(lists + at / 2 * each + at % 2 * kept);
  return (int32_t)(sequence * blocks_of_sequence(c) + at - lists);
}

static void bench_caches(rp_case *c, rp_kv *kv, rp_rows *rows, rp_row *row) {
  rp_ptr nowhere;
  kv->layers = 1;
  kv->blocks = (int32_t)(c->size.batch * blocks_of_sequence(c));
  for (int i = 0; i < rows->count; i++) row[i].pos = row[i].top = c->size.step ? c->size.T - 1 : 0;
  rp_case_tensor *list = rp_case_bytes(c, &rows->row, row, sizeof *row * (size_t)rows->count);
  rp_case_tensor *cells = rp_case_at(c, &nowhere, RP_CASE_I32, rows->count * cell_ints(c));
  cells->places = 0;
  cells->entry = cell_entry;
  for (int i = 0; i < rows->count; i++)
    rp_case_points(c, list, sizeof *row * (size_t)i + offsetof(rp_row, cell), cells,
                   (size_t)(i * cell_ints(c)) * sizeof(int32_t));
}

/* Caches for the rows of a case: where they stand, a pool with blocks in any order, and cells of
 * one layer without states. pats [plans][Hk]. */
enum { CASE_BLOCKS = 256 };
typedef struct {
  int32_t cell[4][64]; /* of each row: lists, tables */
  size_t ints[4];
} case_caches;

static void cache_cell(case_caches *x, int i, const rp_row *row, const rp_pat *pats, rp_kv *kv,
                       int Hk, const int32_t *order) {
  int32_t *cell = x->cell[i], at = 2 * Hk;
  for (int g = 0; g < Hk; g++) {
    const int64_t end = row->pos + row->n > row->top ? row->pos + row->n : row->top;
    const rp_pat p = pats[row->plan * Hk + g];
    const int64_t entries[] = {rp_pat_in_kept(p, end, kv->margin),
                               rp_pat_in_ring(p, end, kv->margin)};
    for (int list = 0; list < 2; list++) {
      cell[2 * g + list] = at;
      for (int64_t e = 0; e < entries[list]; e += RP_KV_BLOCK)
        cell[at++] = order[kv->blocks++ % CASE_BLOCKS];
    }
  }
  x->ints[i] = (size_t)at;
}

static void random_caches(rp_case *c, case_caches *x, rp_kv *kv, rp_row *row, int rows,
                          const rp_pat *pats, int Hk) {
  int32_t order[CASE_BLOCKS];
  for (int i = 0; i < CASE_BLOCKS; i++) order[i] = i;
  for (int i = CASE_BLOCKS - 1; i > 0; i--) {
    const int j = (int)rp_rng_below(&c->rng, (uint64_t)i + 1);
    const int32_t one = order[i];
    order[i] = order[j];
    order[j] = one;
  }
  kv->layers = 1;
  kv->margin = (int32_t)rp_rng_below(&c->rng, 4);
  for (int i = 0; i < rows; i++) {
    row[i].pos = (int32_t)rp_rng_below(&c->rng, 60);
    row[i].top = row[i].pos + (int32_t)rp_rng_below(&c->rng, (uint64_t)kv->margin + 1);
    cache_cell(x, i, &row[i], pats, kv, Hk, order);
  }
  kv->blocks = CASE_BLOCKS;
}

/* The rows and cells of caches(), as contents. */
static void cache_contents(rp_case *c, const case_caches *x, rp_rows *rows, const rp_row *row) {
  rp_ptr nowhere;
  rp_case_tensor *list = rp_case_bytes(c, &rows->row, row, sizeof *row * (size_t)rows->count);
  for (int i = 0; x && i < rows->count; i++) {
    rp_case_tensor *t = rp_case_bytes(c, &nowhere, x->cell[i], x->ints[i] * sizeof(int32_t));
    t->places = 0;
    rp_case_points(c, list, sizeof *row * (size_t)i + offsetof(rp_row, cell), t, 0);
  }
}

/* exp multiplies the error of its argument, which grows with |q||k|. */
enum { ATTEND = 64, ATTEND_BACK = 512 };

static void case_attend(rp_case *c) {
  rp_attend_args *a = &c->args.attend;
  rp_row row[RP_CASE_ROWS];
  rp_pat pats[PATS];
  const bool cached = c->bench ? c->size.step : rp_rng_below(&c->rng, 2);
  a->rows = case_rows(c, row, cached ? 60 : 150, 2);
  heads(c, &a->H, &a->Hk, &a->h);
  a->pats_stride = a->Hk;
  a->scale = 1 / sqrt(a->h);
  const size_t pats_bytes = patterns(c, pats, a->Hk, a->rows.longest);
  case_caches x;
  if (cached && c->bench)
    bench_caches(c, &a->kv, &a->rows, row);
  else if (cached)
    random_caches(c, &x, &a->kv, row, a->rows.count, pats, a->Hk);
  if (cached)
    rp_case_in(c, &a->kv.pool, RP_CASE_COMPUTE, a->kv.blocks * rp_kv_block_elements(a->h), 1);
  const int n = a->rows.tokens;
  rp_case_in(c, &a->q, RP_CASE_COMPUTE, area(n, a->H * a->h), 1);
  rp_case_in(c, &a->k, RP_CASE_COMPUTE, area(n, a->Hk * a->h), 1);
  rp_case_in(c, &a->v, RP_CASE_COMPUTE, area(n, a->Hk * a->h), 1);
  rp_case_out(c, &a->out, RP_CASE_COMPUTE, area(n, a->H * a->h), a->h, ATTEND)->least = 1;
  rp_case_tensor *t = rp_case_at(c, &a->lse, RP_CASE_REAL, area(n, a->H));
  t->role = RP_CASE_OUT;
  t->factor = ATTEND;
  t->least = 1;
  if (!cached || !c->bench) cache_contents(c, cached ? &x : NULL, &a->rows, row);
  rp_case_bytes(c, &a->pats, pats, pats_bytes);
  c->flops = 4 * pairs(c) * a->H * a->h;
  if (!c->size.step) return;
  c->reads = true;
  c->bytes = 2.0 * (double)rp_pat_cache(c->size.pat, c->size.T - 1, 0) * a->Hk * a->h *
             (c->bf16 ? 2 : 4) * c->size.batch;
}

/* Exact: entries are copied. */
static void case_append(rp_case *c) {
  rp_append_args *a = &c->args.append;
  rp_row row[RP_CASE_ROWS];
  rp_pat pats[PATS];
  case_caches x;
  int32_t H;
  a->rows = case_rows(c, row, 60, 2);
  heads(c, &H, &a->Hk, &a->h);
  a->pats_stride = a->Hk;
  const size_t pats_bytes = patterns(c, pats, a->Hk, a->rows.longest);
  if (c->bench)
    bench_caches(c, &a->kv, &a->rows, row);
  else
    random_caches(c, &x, &a->kv, row, a->rows.count, pats, a->Hk);
  const int64_t n = area(a->rows.tokens, a->Hk * a->h);
  rp_case_in(c, &a->k, RP_CASE_COMPUTE, n, 1);
  rp_case_in(c, &a->v, RP_CASE_COMPUTE, n, 1);
  rp_case_tensor *pool = rp_case_out(c, &a->kv.pool, RP_CASE_COMPUTE,
                                     a->kv.blocks * rp_kv_block_elements(a->h), a->h, 0);
  pool->role = RP_CASE_INOUT;
  pool->spread = 1;
  if (!c->bench) cache_contents(c, &x, &a->rows, row);
  rp_case_bytes(c, &a->pats, pats, pats_bytes);
  c->bytes = 4.0 * (double)n * (c->bf16 ? 2 : 4);
}

static void case_attend_bwd(rp_case *c) {
  rp_attend_bwd_args *a = &c->args.attend_bwd;
  rp_attend_args *f = &c->before.attend;
  rp_row row[RP_CASE_ROWS];
  rp_pat pats[PATS];
  a->rows = f->rows = case_rows(c, row, 100, 2);
  heads(c, &a->H, &a->Hk, &a->h);
  f->H = a->H, f->Hk = a->Hk, f->h = a->h;
  a->pats_stride = f->pats_stride = a->Hk;
  a->scale = f->scale = 1 / sqrt(a->h);
  c->before_op = RP_OP_attend;
  const int n = a->rows.tokens;
  const int64_t wide = area(n, a->H * a->h), kv = area(n, a->Hk * a->h);
  rp_case_also(c, rp_case_in(c, &a->q, RP_CASE_COMPUTE, wide, 1), &f->q);
  rp_case_also(c, rp_case_in(c, &a->k, RP_CASE_COMPUTE, kv, 1), &f->k);
  rp_case_also(c, rp_case_in(c, &a->v, RP_CASE_COMPUTE, kv, 1), &f->v);
  rp_case_in(c, &a->dout, RP_CASE_REAL, wide, 1);
  rp_case_tensor *out = rp_case_out(c, &a->out, RP_CASE_COMPUTE, wide, a->h, 0);
  out->role = RP_CASE_KEPT;
  rp_case_also(c, out, &f->out);
  rp_case_tensor *lse = rp_case_at(c, &a->lse, RP_CASE_REAL, area(n, a->H));
  lse->role = RP_CASE_KEPT;
  rp_case_also_at(c, lse, &f->lse);
  /* dP - D cancels where a query sees one key; its terms are h products of spread 1. */
  rp_case_out(c, &a->dq, RP_CASE_REAL, wide, wide, ATTEND_BACK)->least = sqrt(a->h);
  rp_case_out(c, &a->dk, RP_CASE_REAL, kv, kv, ATTEND_BACK)->least = sqrt(a->h);
  rp_case_out(c, &a->dv, RP_CASE_REAL, kv, kv, ATTEND_BACK);
  rp_case_also_at(c, rp_case_bytes(c, &a->rows.row, row, sizeof *row * (size_t)a->rows.count),
                  &f->rows.row);
  rp_case_also_at(c, rp_case_bytes(c, &a->pats, pats, patterns(c, pats, a->Hk, a->rows.longest)),
                  &f->pats);
  c->flops = 10 * pairs(c) * a->H * a->h;
}

static void case_ogate(rp_case *c) {
  rp_ogate_args *a = &c->args.ogate;
  a->n = rp_case_size(c, 1, 70, tokens(c));
  a->d = rp_case_size(c, 1, 300, width(c));
  a->ldp = a->d + rp_case_size(c, 0, 99, 4 * width(c));
  rp_case_in(c, &a->a, RP_CASE_COMPUTE, area(a->n, a->d), 1);
  rp_case_in(c, &a->p, RP_CASE_COMPUTE, a->n * a->ldp, 1);
  rp_case_out(c, &a->y, RP_CASE_COMPUTE, area(a->n, a->d), a->d, 8);
  c->bytes = 3.0 * a->n * a->d * (c->bf16 ? 2 : 4);
}

static void case_ogate_bwd(rp_case *c) {
  rp_ogate_bwd_args *a = &c->args.ogate_bwd;
  a->n = rp_case_size(c, 1, 70, tokens(c));
  a->d = rp_case_size(c, 1, 300, width(c));
  a->ldp = a->d + rp_case_size(c, 0, 99, 4 * width(c));
  rp_case_in(c, &a->a, RP_CASE_COMPUTE, area(a->n, a->d), 1);
  rp_case_in(c, &a->p, RP_CASE_COMPUTE, a->n * a->ldp, 1);
  rp_case_in(c, &a->dy, RP_CASE_REAL, area(a->n, a->d), 1);
  rp_case_out(c, &a->da, RP_CASE_REAL, area(a->n, a->d), a->d, 8);
  rp_case_tensor *t = rp_case_out(c, &a->dp, RP_CASE_COMPUTE, a->n * a->ldp, a->ldp, 8);
  t->role = RP_CASE_INOUT;
  t->spread = 1;
  c->bytes = a->n * (double)a->d * (8 + 3 * (c->bf16 ? 2 : 4));
}

static rp_act some_act(rp_case *c) {
  return c->bench ? RP_ACT_GELU : (rp_act)rp_rng_below(&c->rng, RP_ACTS);
}

static void case_act(rp_case *c) {
  rp_act_args *a = &c->args.act;
  a->n = rp_case_size(c, 1, 70, tokens(c));
  a->f = rp_case_size(c, 1, 300, 4 * width(c));
  a->act = some_act(c);
  rp_case_in(c, &a->u, RP_CASE_COMPUTE, area(a->n, a->f) * (a->act == RP_ACT_SWIGLU ? 2 : 1), 2);
  /* 1 + erf cancels left of 0 */
  rp_case_out(c, &a->v, RP_CASE_COMPUTE, area(a->n, a->f), a->f, 8)->least = 1;
}

static void case_act_bwd(rp_case *c) {
  rp_act_bwd_args *a = &c->args.act_bwd;
  a->n = rp_case_size(c, 1, 70, tokens(c));
  a->f = rp_case_size(c, 1, 300, 4 * width(c));
  a->act = some_act(c);
  const int64_t inner = area(a->n, a->f) * (a->act == RP_ACT_SWIGLU ? 2 : 1);
  rp_case_in(c, &a->u, RP_CASE_COMPUTE, inner, 2);
  rp_case_in(c, &a->dv, RP_CASE_REAL, area(a->n, a->f), 1);
  rp_case_out(c, &a->du, RP_CASE_COMPUTE, inner, a->f, 16)->least = 1;
}

/* Losses are means of log-sum-exp of V logits, each a sum of d products. */
static void case_head_loss(rp_case *c) {
  rp_head_loss_args *a = &c->args.head_loss;
  a->n = rp_case_size(c, 1, 70, tokens(c));
  a->d = rp_case_size(c, 1, 100, width(c));
  a->V = rp_case_size(c, 2, 700, 32000);
  a->grad = c->bench || rp_rng_below(&c->rng, 3);
  a->weight = 0.5;
  rp_case_in(c, &a->x, RP_CASE_COMPUTE, area(a->n, a->d), 1);
  rp_case_in(c, &a->w, RP_CASE_COMPUTE, area(a->V, a->d), 0.2);
  rp_case_tensor *labels = rp_case_at(c, &a->labels, RP_CASE_I32, a->n);
  labels->mean = 0;
  labels->spread = a->V;
  static const double zero[3];
  rp_case_tensor *loss = rp_case_bytes(c, &a->loss, zero, sizeof zero);
  loss->type = RP_CASE_F64;
  loss->n = loss->row = 3;
  loss->role = RP_CASE_INOUT;
  loss->factor = 64 * 5.4e8; /* in eps of float32, whose logits it sums: eps(f32) / eps(f64) */
  if (a->grad) {
    rp_case_out(c, &a->dx, RP_CASE_REAL, area(a->n, a->d), area(a->n, a->d), 256);
    rp_case_out(c, &a->dw, RP_CASE_REAL, area(a->V, a->d), area(a->V, a->d), 256)->role =
        RP_CASE_INOUT;
  }
  c->flops = (a->grad ? 6.0 : 2.0) * a->n * a->d * a->V;
}

static void case_pick(rp_case *c) {
  rp_pick_args *a = &c->args.pick;
  a->n = rp_case_size(c, 1, 70, tokens(c));
  a->d = rp_case_size(c, 1, 100, width(c));
  a->V = rp_case_size(c, 2, 700, 32000);
  rp_case_in(c, &a->x, RP_CASE_COMPUTE, area(a->n, a->d), 1);
  rp_case_in(c, &a->w, RP_CASE_COMPUTE, area(a->V, a->d), 0.2);
  rp_case_at(c, &a->ids, RP_CASE_I32, a->n)->spread = a->V;
  if (!c->bench && rp_rng_below(&c->rng, 2)) {
    rp_case_tensor *t = rp_case_at(c, &a->logits, RP_CASE_REAL, area(a->n, a->V));
    t->role = RP_CASE_OUT;
    t->row = a->V;
    t->factor = 64;
  }
  rp_ptr *const to[] = {&a->lse, &a->logit};
  for (int i = 0; i < 2; i++) {
    rp_case_tensor *t = rp_case_at(c, to[i], RP_CASE_REAL, a->n);
    t->role = RP_CASE_OUT;
    t->factor = 64;
  }
  rp_case_at(c, &a->best, RP_CASE_I32, a->n)->role = RP_CASE_OUT;
  c->flops = 2.0 * a->n * a->d * a->V;
  c->reads = c->size.step;
}

/* Three ranges in two groups, the first of any length. */
static int ranges(rp_case *c, rp_range r[3], int64_t n[2]) {
  n[0] = rp_case_size(c, 1, 5000, elements(c));
  const int64_t second = rp_case_size(c, 1, 100, 768);
  n[1] = rp_case_size(c, 1, 300, 768);
  r[0] = (rp_range){0, n[0], 0, 0.1f};
  r[1] = (rp_range){n[0], second, 0, 0};
  r[2] = (rp_range){0, n[1], 1, 0.1f};
  n[0] += second;
  return 3;
}

/* Summed in double whatever the gradients are: the same bits but for the order. */
static void case_sumsq(rp_case *c) {
  rp_sumsq_args *a = &c->args.sumsq;
  rp_range r[3];
  int64_t n[2];
  a->ranges = ranges(c, r, n);
  for (int i = 0; i < 2; i++) rp_case_in(c, &a->g[i], RP_CASE_REAL, n[i], 1);
  rp_case_bytes(c, &a->range, r, sizeof r);
  rp_case_tensor *t = rp_case_at(c, &a->out, RP_CASE_F64, a->ranges);
  t->role = RP_CASE_OUT;
  t->factor = 64;
}

static void ctl(rp_case *c, rp_ptr *at, rp_case_role role) {
  const rp_ctl x = {.lr = 0.01, .norm = 2, .factor = 0.5, .t = 3};
  rp_case_tensor *t = rp_case_bytes(c, at, &x, sizeof x);
  t->type = RP_CASE_F64;
  t->n = t->row = sizeof x / 8;
  t->role = role;
  t->factor = 8;
}

static void case_clip(rp_case *c) {
  rp_clip_args *a = &c->args.clip;
  a->n = rp_case_size(c, 1, 300, 100);
  a->max = rp_case_size(c, 0, 3, 1);
  const rp_loss loss = {.mean = 2, .sum = 8, .labels = 4};
  rp_case_tensor *t = rp_case_at(c, &a->sums, RP_CASE_F64, a->n);
  t->mean = 9;
  t->spread = 1;
  rp_case_bytes(c, &a->loss, &loss, sizeof loss);
  ctl(c, &a->ctl, RP_CASE_INOUT);
}

static void case_optim(rp_case *c) {
  rp_optim_args *a = &c->args.optim;
  rp_range r[3];
  int64_t n[2];
  a->ranges = ranges(c, r, n);
  a->kind = c->bench ? RP_OPT_ADAMW : (rp_opt_name)rp_rng_below(&c->rng, 3);
  a->beta1 = 0.9, a->beta2 = 0.95, a->eps = 1e-8, a->momentum = 0.9;
  for (int i = 0; i < 2; i++) {
    rp_tensor *const to[] = {&a->p[i], &a->g[i], &a->m[i], &a->v[i]};
    for (int j = 0; j < (a->kind == RP_OPT_SGD ? 3 : 4); j++) {
      rp_case_tensor *t = rp_case_out(c, to[j], RP_CASE_REAL, n[i], n[i], 16);
      t->role = RP_CASE_INOUT;
      t->spread = j == 3 ? 0.01 : 1; /* v is positive */
      t->mean = j == 3 ? 1 : 0;
      if (j == 2) t->least = 1; /* the moment is a sum of two, which may cancel */
    }
  }
  if (c->bf16) rp_case_out(c, &a->copy, RP_CASE_COMPUTE, n[0], n[0], 16);
  rp_case_bytes(c, &a->range, r, sizeof r);
  ctl(c, &a->ctl, RP_CASE_IN);
}

rp_case_fn rp_case_of(rp_op op) {
  static const rp_case_fn fns[RP_OP_COUNT] = {
#define RP_X(name) [RP_OP_##name] = case_##name,
      RP_OPS(RP_X)
#undef RP_X
  };
  return op >= 0 && op < RP_OP_COUNT ? fns[op] : NULL;
}
