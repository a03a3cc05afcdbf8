/* check.c - arguments looked at before an op is put: a wrong shape is a sentence, not a write into
 * somebody else's memory. Only extents and dtypes; what a row of tokens says lies on the device. */
#include "ops/backend.h"

typedef struct {
  rp_queue *q;
  rp_op op;
  bool ok;
} check;

static void wrong(check *c, const char *what) {
  if (!c->ok) return;
  c->ok = false;
  rp_queue_fail(c->q, RP_FAIL, "op %s on device %s: %s; this is a bug", rp_op_name(c->op),
                c->q->d->name, what);
}

static void must(check *c, bool holds, const char *what) {
  if (!holds) wrong(c, what);
}

/* `bytes` at p lie in the device's memory. */
static void bytes_at(check *c, rp_ptr p, double bytes, const char *what) {
  if (!c->ok || bytes == 0) return;
  if (bytes < 0 || bytes > (double)PTRDIFF_MAX || !rp_device_holds(c->q->d, p, (size_t)bytes))
    rp_queue_fail(c->q, RP_FAIL,
                  "op %s on device %s: %s (%.0f bytes) is not whole in its memory; "
                  "this is a bug",
                  rp_op_name(c->op), c->q->d->name, what, bytes);
  c->ok = !c->q->err.status;
}

typedef enum { REAL, COMPUTE, EITHER, ANY } allowed;

static void dtype_of(check *c, rp_dtype t, allowed a, const char *what) {
  const rp_dtype real = c->q->d->real;
  const bool fine =
      t == real || (a != REAL && t == RP_BF16) || (a == ANY && (t == RP_F32 || t == RP_F64));
  if (fine || !c->ok) return;
  c->ok = false;
  rp_queue_fail(c->q, RP_FAIL,
                "op %s on device %s: %s is %s, which it does not take; this is a bug",
                rp_op_name(c->op), c->q->d->name, what, rp_dtype_name(t));
}

/* rows x cols elements, rows ld apart. */
static void strided(check *c, rp_tensor t, allowed a, int64_t rows, int64_t cols, int64_t ld,
                    const char *what) {
  if (!c->ok || rows == 0 || cols == 0) return;
  must(c, rows > 0 && cols > 0 && (ld >= cols || rows == 1), "a size or stride is out of range");
  dtype_of(c, t.dtype, a, what);
  if (c->ok)
    bytes_at(c, t.p, ((double)(rows - 1) * (double)ld + (double)cols) * rp_dtype_bytes(t.dtype),
             what);
}

static void matrix(check *c, rp_tensor t, allowed a, int64_t rows, int64_t cols, const char *what) {
  strided(c, t, a, rows, cols, cols, what);
}

static void optional(check *c, rp_tensor t, allowed a, int64_t rows, int64_t cols,
                     const char *what) {
  if (t.p.at) matrix(c, t, a, rows, cols, what);
}

static void values(check *c, rp_ptr p, int64_t n, size_t size, const char *what) {
  must(c, n >= 0, "a size is negative");
  bytes_at(c, p, (double)n * (double)size, what);
}

static size_t real_bytes(const check *c) { return (size_t)rp_dtype_bytes(c->q->d->real); }

static void same(check *c, rp_tensor a, rp_tensor b) {
  must(c, a.dtype == b.dtype, "tensors of the computed dtype differ in it");
}

static void rows_of(check *c, const rp_rows *r) {
  must(c, r->count >= 0 && r->tokens >= r->count && r->longest <= r->tokens,
       "its rows contradict themselves");
  values(c, r->row, r->count, sizeof(rp_row), "the list of rows");
}

static void heads(check *c, int H, int Hk, int h) {
  must(c, H > 0 && Hk > 0 && h > 0 && H % Hk == 0, "its heads are no whole groups");
}

static void check_zero(check *c, const rp_zero_args *a) {
  bytes_at(c, a->p, (double)a->bytes, "its target");
}

static void check_copy(check *c, const rp_copy_args *a) {
  bytes_at(c, a->dst, (double)a->bytes, "dst");
  bytes_at(c, a->src, (double)a->bytes, "src");
}

static void check_take(check *c, const rp_take_args *a) {
  values(c, a->at, a->n, 4, "at");
  matrix(c, a->x, REAL, a->rows, a->d, "x");
  matrix(c, a->y, REAL, a->n, a->d, "y");
}

static void check_table(check *c, const rp_table_args *a) {
  values(c, a->list, a->n, sizeof(rp_table_entry), "the list of entries");
}

static void check_cast(check *c, const rp_cast_args *a) {
  matrix(c, a->src, ANY, 1, a->n, "src");
  matrix(c, a->dst, ANY, 1, a->n, "dst");
}

static void check_gemm(check *c, const rp_gemm_args *a) {
  must(c, a->M >= 0 && a->N >= 0 && a->K >= 0, "a size is negative");
  if (a->M == 0 || a->N == 0) return;
  strided(c, a->a, COMPUTE, a->ta ? a->K : a->M, a->ta ? a->M : a->K, a->lda, "a");
  strided(c, a->b, COMPUTE, a->tb ? a->N : a->K, a->tb ? a->K : a->N, a->ldb, "b");
  strided(c, a->c, a->accumulate ? REAL : EITHER, a->M, a->N, a->ldc, "c");
  same(c, a->a, a->b);
}

static void check_embed(check *c, const rp_embed_args *a) {
  values(c, a->ids, a->n, 4, "ids");
  matrix(c, a->table, ANY, a->V, a->d, "table");
  matrix(c, a->x, REAL, a->n, a->d, "x");
}

static void check_embed_bwd(check *c, const rp_embed_bwd_args *a) {
  values(c, a->ids, a->n, 4, "ids");
  matrix(c, a->dx, REAL, a->n, a->d, "dx");
  matrix(c, a->dtable, REAL, a->V, a->d, "dtable");
}

static void check_norm(check *c, const rp_norm_args *a) {
  matrix(c, a->x, REAL, a->n, a->d, "x");
  matrix(c, a->w, ANY, 1, a->d, "w");
  if (a->kind == RP_NORM_LAYER) matrix(c, a->b, ANY, 1, a->d, "b");
  matrix(c, a->y, EITHER, a->n, a->d, "y");
  if (a->stat.at) values(c, a->stat, 2 * (int64_t)a->n, real_bytes(c), "stat");
}

static void check_norm_bwd(check *c, const rp_norm_bwd_args *a) {
  matrix(c, a->x, REAL, a->n, a->d, "x");
  matrix(c, a->w, ANY, 1, a->d, "w");
  matrix(c, a->dy, REAL, a->n, a->d, "dy");
  matrix(c, a->dx, REAL, a->n, a->d, "dx");
  matrix(c, a->dw, REAL, 1, a->d, "dw");
  if (a->kind == RP_NORM_LAYER) matrix(c, a->db, REAL, 1, a->d, "db");
  values(c, a->stat, 2 * (int64_t)a->n, real_bytes(c), "stat");
}

static void check_rope(check *c, const rp_rope_args *a) {
  must(c, a->h > 0 && a->h % 2 == 0 && a->scale > 0 && a->base > 0, "no rotation is so described");
  values(c, a->table, (int64_t)a->count * a->h, real_bytes(c), "table");
  if (!a->rows.row.at) return;
  rows_of(c, &a->rows);
  must(c, a->count == a->rows.tokens, "its rows are not as many tokens as the table has");
}

static void caches(check *c, const rp_kv *kv, rp_tensor like, int h) {
  if (!kv->pool.p.at) return;
  must(c, kv->layer >= 0 && kv->layer < kv->layers && kv->margin >= 0 && kv->blocks >= 0,
       "its caches are described wrongly");
  matrix(c, kv->pool, COMPUTE, kv->blocks, rp_kv_block_elements(h), "the pool of blocks");
  same(c, kv->pool, like);
}

/* Columns of the projection: o, q, k, x, and g where there is a recurrence. */
static int64_t projection(int H, int Hk, int h, int re) {
  return (int64_t)h * (2 * (int64_t)H + (re ? 3 : 2) * (int64_t)Hk);
}

static void check_gate(check *c, const rp_gate_args *a) {
  const int64_t n = a->rows.tokens;
  heads(c, a->H, a->Hk, a->h);
  must(c, !a->rope.at || a->h % 2 == 0, "an odd head width cannot be rotated");
  rows_of(c, &a->rows);
  strided(c, a->p, COMPUTE, n, projection(a->H, a->Hk, a->h, a->re), a->ldp, "p");
  matrix(c, a->q, COMPUTE, n, (int64_t)a->H * a->h, "q");
  matrix(c, a->k, COMPUTE, n, (int64_t)a->Hk * a->h, "k");
  matrix(c, a->v, COMPUTE, n, (int64_t)a->Hk * a->h, "v");
  same(c, a->p, a->q), same(c, a->q, a->k), same(c, a->k, a->v);
  caches(c, &a->kv, a->k, a->h);
}

static void check_gate_bwd(check *c, const rp_gate_bwd_args *a) {
  const int64_t n = a->rows.tokens, kv = (int64_t)a->Hk * a->h;
  heads(c, a->H, a->Hk, a->h);
  must(c, !a->rope.at || a->h % 2 == 0, "an odd head width cannot be rotated");
  rows_of(c, &a->rows);
  strided(c, a->p, COMPUTE, n, projection(a->H, a->Hk, a->h, a->re), a->ldp, "p");
  strided(c, a->dp, COMPUTE, n, projection(a->H, a->Hk, a->h, a->re), a->ldp, "dp");
  matrix(c, a->dq, REAL, n, (int64_t)a->H * a->h, "dq");
  matrix(c, a->dk, REAL, n, kv, "dk");
  matrix(c, a->dv, REAL, n, kv, "dv");
  same(c, a->p, a->dp);
}

static void check_attend(check *c, const rp_attend_args *a) {
  const int64_t n = a->rows.tokens, kv = (int64_t)a->Hk * a->h, wide = (int64_t)a->H * a->h;
  heads(c, a->H, a->Hk, a->h);
  rows_of(c, &a->rows);
  values(c, a->pats, a->Hk, sizeof(rp_pat), "the patterns");
  matrix(c, a->q, COMPUTE, n, wide, "q");
  matrix(c, a->k, COMPUTE, n, kv, "k");
  matrix(c, a->v, COMPUTE, n, kv, "v");
  matrix(c, a->out, COMPUTE, n, wide, "out");
  if (a->lse.at) values(c, a->lse, n * a->H, real_bytes(c), "lse");
  same(c, a->q, a->k), same(c, a->k, a->v), same(c, a->v, a->out);
  caches(c, &a->kv, a->k, a->h);
}

static void check_append(check *c, const rp_append_args *a) {
  const int64_t n = a->rows.tokens, kv = (int64_t)a->Hk * a->h;
  heads(c, a->Hk, a->Hk, a->h);
  rows_of(c, &a->rows);
  values(c, a->pats, a->Hk, sizeof(rp_pat), "the patterns");
  matrix(c, a->k, COMPUTE, n, kv, "k");
  matrix(c, a->v, COMPUTE, n, kv, "v");
  same(c, a->k, a->v);
  must(c, a->kv.pool.p.at != 0, "there are no caches");
  caches(c, &a->kv, a->k, a->h);
}

static void check_attend_bwd(check *c, const rp_attend_bwd_args *a) {
  const int64_t n = a->rows.tokens, kv = (int64_t)a->Hk * a->h, wide = (int64_t)a->H * a->h;
  heads(c, a->H, a->Hk, a->h);
  rows_of(c, &a->rows);
  values(c, a->pats, a->Hk, sizeof(rp_pat), "the patterns");
  matrix(c, a->q, COMPUTE, n, wide, "q");
  matrix(c, a->k, COMPUTE, n, kv, "k");
  matrix(c, a->v, COMPUTE, n, kv, "v");
  matrix(c, a->out, COMPUTE, n, wide, "out");
  matrix(c, a->dout, REAL, n, wide, "dout");
  matrix(c, a->dq, REAL, n, wide, "dq");
  matrix(c, a->dk, REAL, n, kv, "dk");
  matrix(c, a->dv, REAL, n, kv, "dv");
  values(c, a->lse, n * a->H, real_bytes(c), "lse");
  same(c, a->q, a->k), same(c, a->k, a->v), same(c, a->v, a->out);
}

static void check_ogate(check *c, const rp_ogate_args *a) {
  matrix(c, a->a, COMPUTE, a->n, a->d, "a");
  strided(c, a->p, COMPUTE, a->n, a->d, a->ldp, "p");
  matrix(c, a->y, COMPUTE, a->n, a->d, "y");
  same(c, a->a, a->p), same(c, a->p, a->y);
}

static void check_ogate_bwd(check *c, const rp_ogate_bwd_args *a) {
  matrix(c, a->a, COMPUTE, a->n, a->d, "a");
  strided(c, a->p, COMPUTE, a->n, a->d, a->ldp, "p");
  matrix(c, a->dy, REAL, a->n, a->d, "dy");
  matrix(c, a->da, REAL, a->n, a->d, "da");
  strided(c, a->dp, COMPUTE, a->n, a->d, a->ldp, "dp");
  same(c, a->a, a->p), same(c, a->p, a->dp);
}

static int64_t inner(rp_act act, int f) { return act == RP_ACT_SWIGLU ? 2 * (int64_t)f : f; }

static void check_act(check *c, const rp_act_args *a) {
  matrix(c, a->u, COMPUTE, a->n, inner(a->act, a->f), "u");
  matrix(c, a->v, COMPUTE, a->n, a->f, "v");
  same(c, a->u, a->v);
}

static void check_act_bwd(check *c, const rp_act_bwd_args *a) {
  matrix(c, a->u, COMPUTE, a->n, inner(a->act, a->f), "u");
  matrix(c, a->dv, REAL, a->n, a->f, "dv");
  matrix(c, a->du, COMPUTE, a->n, inner(a->act, a->f), "du");
  same(c, a->u, a->du);
}

static void check_head_loss(check *c, const rp_head_loss_args *a) {
  matrix(c, a->x, COMPUTE, a->n, a->d, "x");
  matrix(c, a->w, COMPUTE, a->V, a->d, "w");
  same(c, a->x, a->w);
  values(c, a->labels, a->n, 4, "labels");
  values(c, a->loss, 1, sizeof(rp_loss), "loss");
  if (!a->grad) return;
  matrix(c, a->dx, REAL, a->n, a->d, "dx");
  matrix(c, a->dw, REAL, a->V, a->d, "dw");
}

static void check_pick(check *c, const rp_pick_args *a) {
  matrix(c, a->x, COMPUTE, a->n, a->d, "x");
  matrix(c, a->w, COMPUTE, a->V, a->d, "w");
  same(c, a->x, a->w);
  if (a->lse.at) values(c, a->lse, a->n, real_bytes(c), "lse");
  if (a->best.at) values(c, a->best, a->n, 4, "best");
  if (a->logit.at) values(c, a->logit, a->n, real_bytes(c), "logit");
  if (a->logit.at) values(c, a->ids, a->n, 4, "ids");
  if (a->logits.at) values(c, a->logits, (int64_t)a->n * a->V, real_bytes(c), "logits");
}

static void check_sumsq(check *c, const rp_sumsq_args *a) {
  values(c, a->range, a->ranges, sizeof(rp_range), "the ranges");
  values(c, a->out, a->ranges, sizeof(double), "out");
  for (int i = 0; i < 2; i++) optional(c, a->g[i], REAL, 1, 1, "g");
}

static void check_clip(check *c, const rp_clip_args *a) {
  values(c, a->sums, a->n, sizeof(double), "sums");
  values(c, a->ctl, 1, sizeof(rp_ctl), "ctl");
  if (a->loss.at) values(c, a->loss, 1, sizeof(rp_loss), "loss");
}

static void check_optim(check *c, const rp_optim_args *a) {
  values(c, a->range, a->ranges, sizeof(rp_range), "the ranges");
  values(c, a->ctl, 1, sizeof(rp_ctl), "ctl");
  for (int i = 0; i < 2; i++) {
    optional(c, a->p[i], REAL, 1, 1, "p");
    optional(c, a->g[i], REAL, 1, 1, "g");
    optional(c, a->m[i], REAL, 1, 1, "m");
    optional(c, a->v[i], REAL, 1, 1, "v");
  }
  optional(c, a->copy, EITHER, 1, 1, "copy");
}

bool rp_op_check(rp_queue *q, rp_op op, const void *args) {
  check c = {q, op, true};
  switch (op) {
#define RP_X(name) \
  case RP_OP_##name: check_##name(&c, args); break;
    RP_OPS(RP_X)
#undef RP_X
    default: wrong(&c, "there is no such op");
  }
  return c.ok;
}
