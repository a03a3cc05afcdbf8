/* ops.h - the op table: everything a model asks of a device.
 *
 * rp_op_NAME(q, &args) copies args and returns; the op runs in queue order. Integers are shapes; what
 * changes from step to step (ids, positions, learning rate, counters) is read from device memory.
 * Letters: n tokens of the call, d width, H query heads, Hk key-value heads, h head width, f FFN
 * width, V vocabulary. `real` is rp_device_real; `compute` is real or RP_BF16, the same for every
 * compute tensor of a call. Overwrite unless "+=" is said. Buffers do not alias unless said.
 *
 * RP_OPS is the one list: it makes the declarations, the devices' tables, and the names that tests
 * and benchmarks walk. */
#ifndef RP_OPS_OPS_H
#define RP_OPS_OPS_H

#include "config/settings.h" /* rp_act, rp_norm, rp_opt_name, rp_pat */
#include "ops/cache.h"

#define RP_OPS(X) \
  X(zero) \
  X(copy) \
  X(cast) \
  X(take) \
  X(table) \
  X(gemm) \
  X(embed) \
  X(embed_bwd) \
  X(norm) \
  X(norm_bwd) \
  X(rope) \
  X(gate) \
  X(gate_bwd) \
  X(attend) \
  X(append) \
  X(attend_bwd) \
  X(ogate) \
  X(ogate_bwd) \
  X(act) \
  X(act_bwd) \
  X(head_loss) \
  X(pick) \
  X(sumsq) \
  X(clip) \
  X(optim)

/* A row is a run of n new tokens of one sequence: training has one row a sequence. On the device. */
typedef struct {
  int32_t tok;  /* its first token in the call's n */
  int32_t n;    /* tokens, >= 1 */
  int32_t pos;  /* position of its first token; training 0 */
  int32_t top;  /* the most tokens its cache ever held, pos or up to margin more; training 0 */
  int32_t plan; /* which pattern plan it runs in */
  int32_t unused;
  rp_ptr cell; /* its session's (cache.h); training none: the keys are the row's own */
} rp_row;
typedef struct {
  rp_ptr row;                     /* rp_row [count] on the device */
  int32_t count, tokens, longest; /* bounds that the host knows: rows, sum of n, largest n */
} rp_rows;

/* bytes at p become 0. */
typedef struct {
  rp_ptr p;
  size_t bytes;
} rp_zero_args;
/* bytes at src go to dst. */
typedef struct {
  rp_ptr dst, src;
  size_t bytes;
} rp_copy_args;
/* dst[i] = src[i], rounded to nearest even where narrower. F32, F64, BF16. */
typedef struct {
  int64_t n;
  rp_tensor src, dst;
} rp_cast_args;

/* y[i,d] = x[at[i],d], n rows of real; at: int32 [n], below `rows`. */
typedef struct {
  int32_t n, d, rows;
  rp_ptr at;
  rp_tensor x, y;
} rp_take_args;
/* Entries of block tables: the int32 at `at` becomes `block`. list: rp_table_entry [n]. */
typedef struct {
  rp_ptr at;
  int32_t block, unused;
} rp_table_entry;
typedef struct {
  int32_t n;
  rp_ptr list;
} rp_table_args;

/* c[M,N] = op(a)[M,K] * op(b)[K,N]. ta: a lies as [K,M]; tb: b lies as [N,K] (a weight [out,in] is
 * tb = 1). ld*: elements between stored rows. a and b: both compute; c: real or compute.
 * Sums in real. accumulate: c += (c real), else c is never read. K = 0 gives 0. */
typedef struct {
  int32_t M, N, K, ta, tb, accumulate;
  int64_t lda, ldb, ldc;
  rp_tensor a, b, c;
} rp_gemm_args;

/* x[n,d] real = table[ids[i]] (table [V,d] any dtype). Ids were checked by the host. */
typedef struct {
  int32_t n, d, V;
  rp_ptr ids;
  rp_tensor table, x;
} rp_embed_args;
/* dtable[V,d] real += rows of dx[n,d] real; the same sums for any number of threads. */
typedef struct {
  int32_t n, d, V;
  rp_ptr ids;
  rp_tensor dx, dtable;
} rp_embed_bwd_args;

/* y[n,d] (real or compute) = norm(x[n,d] real) * w[d] + b[d]; RMSNorm has no b. eps 1e-6.
 * stat[n,2] real: mean (0 for RMSNorm) and 1/std, for backward; may be none. */
typedef struct {
  int32_t n, d;
  rp_norm kind;
  rp_tensor x, w, b, y;
  rp_ptr stat;
} rp_norm_args;
/* dx[n,d] real += ..., dw[d] real +=, db[d] real += (none for RMSNorm), from dy[n,d] real.
 * Row partials are summed in a fixed order. */
typedef struct {
  int32_t n, d;
  rp_norm kind;
  rp_tensor x, w, dy, dx, dw, db;
  rp_ptr stat;
} rp_norm_bwd_args;

/* table[count][h] real for positions from..from+count-1, or with rows for every token of the call
 * (count = rows.tokens): h/2 cosines, then h/2 sines of (t / scale) * base^(-2i/h), computed in
 * double. */
typedef struct {
  int64_t from;
  int32_t count, h;
  double base, scale;
  rp_ptr table;
  rp_rows rows; /* row none: from and count say which */
} rp_rope_args;

/* Gate, scan, rotate (model.md 2 a-c), one pass from the projection p[n, ldp] compute, columns
 * o H*h | q H*h | k Hk*h | x Hk*h | g Hk*h (g only when re), to q[n,H*h], k[n,Hk*h], v[n,Hk*h]
 * compute, rounded once after the rotation. re 0: k and x pass without the recurrence.
 * rope: table by position, or with rope_by_token by token of the call; none: no rotation.
 * A row with a cell goes on from its state and leaves there those after its last kv.states tokens. */
typedef struct {
  rp_rows rows;
  int32_t H, Hk, h, re, rope_by_token;
  int64_t ldp;
  rp_tensor p, q, k, v;
  rp_ptr rope;
  rp_kv kv;
} rp_gate_args;
/* dp's columns q, k, x, g (compute) from dq[n,H*h], dk[n,Hk*h], dv[n,Hk*h] real. */
typedef struct {
  rp_rows rows;
  int32_t H, Hk, h, re;
  int64_t ldp;
  rp_tensor p, dq, dk, dv, dp;
  rp_ptr rope;
} rp_gate_bwd_args;

/* out[n,H*h] compute = softmax(q k^T * scale) v over the visible set of each query (model.md 3), one
 * online softmax in real. Query head j uses key-value head j / (H/Hk). pats: rp_pat [plans][Hk] of this
 * layer, plans pats_stride elements apart. lse[n,H] real: log-sum-exp of the scaled scores, for
 * backward; may be none. A row with a cell also sees the tokens before it, in its cache. */
typedef struct {
  rp_rows rows;
  int32_t H, Hk, h, pats_stride;
  double scale;
  rp_ptr pats;
  rp_tensor q, k, v, out;
  rp_ptr lse;
  rp_kv kv;
} rp_attend_args;
/* The new tokens' keys and values k, v[n,Hk*h] compute go into the caches of their rows, each row with
 * a cell: what leaves a window is kept or dropped, then the window takes the new ones (model.md 4).
 * The blocks are in the tables already. */
typedef struct {
  rp_rows rows;
  int32_t Hk, h, pats_stride;
  rp_ptr pats;
  rp_tensor k, v;
  rp_kv kv;
} rp_append_args;
/* dq, dk, dv real from dout[n,H*h] real; out and lse as the forward left them. */
typedef struct {
  rp_rows rows;
  int32_t H, Hk, h, pats_stride;
  double scale;
  rp_ptr pats;
  rp_tensor q, k, v, out, dout, dq, dk, dv;
  rp_ptr lse;
} rp_attend_bwd_args;

/* y[n,d] = a[n,d] * sigmoid(o), o = the first d columns of p[n,ldp]; sigmoid(o) and y are rounded to
 * compute. y may be a. */
typedef struct {
  int32_t n, d;
  int64_t ldp;
  rp_tensor a, p, y;
} rp_ogate_args;
/* da[n,d] real, and dp's first d columns (compute), from dy[n,d] real. da may be dy. */
typedef struct {
  int32_t n, d;
  int64_t ldp;
  rp_tensor a, p, dy, da, dp;
} rp_ogate_bwd_args;

/* v[n,f] = act(u[n,f]), swiglu: u[n,2f], v = u[:, :f] * silu(u[:, f:]). compute. */
typedef struct {
  int32_t n, f;
  rp_act act;
  rp_tensor u, v;
} rp_act_args;
/* du (shape of u, compute) from dv[n,f] real. */
typedef struct {
  int32_t n, f;
  rp_act act;
  rp_tensor u, dv, du;
} rp_act_bwd_args;

/* What losses add up to, on the device. */
typedef struct {
  double mean;    /* sum over calls of weight * (mean loss over the call's own labels; none: 0) */
  double sum;     /* sum of losses over all labels seen */
  int64_t labels; /* how many */
} rp_loss;
/* Cross-entropy of logits x[n,d] w[V,d]^T (never whole, never rounded) against labels[n] (int32,
 * -100: ignored); adds to loss. With grad: dx[n,d] real, and dw[V,d] real +=, of weight * mean. */
typedef struct {
  int32_t n, d, V, grad;
  double weight;
  rp_tensor x, w, dx, dw;
  rp_ptr labels, loss;
} rp_head_loss_args;

/* What inference takes from the logits of x[n,d]: lse[n] real, best[n] int32 (lowest id on ties),
 * logit[n] real of ids[n] (int32; negative: 0), logits[n,V] real. Any output may be none. */
typedef struct {
  int32_t n, d, V;
  rp_tensor x, w;
  rp_ptr ids, lse, logit, best, logits;
} rp_pick_args;

/* One logical tensor inside the flat buffers, on the device. */
typedef struct {
  int64_t offset, n; /* elements, in the buffer of its group */
  int32_t group;     /* rp_group */
  double decay;      /* weight decay */
} rp_range;
/* out[i] double = sum of squares of range i of the gradients g[group] (real), in double, in an order
 * that does not depend on threads. */
typedef struct {
  int32_t ranges;
  rp_ptr range;
  rp_tensor g[2];
  rp_ptr out;
} rp_sumsq_args;

/* The optimizer's state that steers it, on the device. */
typedef struct {
  double lr;        /* uploaded by the host before each step */
  double norm;      /* made by clip: global gradient norm */
  double factor;    /* made by clip: min(1, max / (norm + 1e-6)) */
  int64_t t;        /* optimizer steps taken (Adam's counter), advanced by clip */
  int64_t skipped;  /* steps skipped so far */
  int32_t skip;     /* made by clip: this step is skipped (norm or loss not finite) */
  int32_t in_a_row; /* skipped steps since the last good one */
} rp_ctl;
/* Norm from the n sums of squares in tensor order; max 0: no clipping (factor 1). */
typedef struct {
  int32_t n;
  double max;
  rp_ptr sums, loss, ctl;
} rp_clip_args;
/* One step over both groups (model.md 5): p, m, v, g [group] real; SGD uses m as its momentum buffer
 * and no v. Gradients become 0, also when the step is skipped. copy: matrices rounded to compute, or
 * none. Decay is each range's. */
typedef struct {
  int32_t ranges;
  rp_opt_name kind;
  double beta1, beta2, eps, momentum;
  rp_ptr range, ctl;
  rp_tensor p[2], g[2], m[2], v[2], copy;
} rp_optim_args;

typedef enum {
#define RP_X(name) RP_OP_##name,
  RP_OPS(RP_X)
#undef RP_X
      RP_OP_COUNT
} rp_op;

#define RP_X(name) void rp_op_##name(rp_queue *q, const rp_##name##_args *a);
RP_OPS(RP_X)
#undef RP_X

const char *rp_op_name(rp_op op);
/* Puts copies of the first `have` elements of t behind them until there are n. */
void rp_repeat(rp_queue *q, rp_tensor t, int64_t have, int64_t n);

/* Whether the device has the op. */
bool rp_device_has(const rp_device *d, rp_op op);

/* Where the time of a queue goes. From now on each op is waited for and counted in `times` (the
 * caller's; NULL: no more), so that nothing overlaps any longer. */
typedef struct {
  int64_t count[RP_OP_COUNT];
  double seconds[RP_OP_COUNT];
  double product, moved; /* of the gemms: FLOPs, and bytes of their three operands */
} rp_op_times;
void rp_queue_time(rp_queue *q, rp_op_times *times);

size_t rp_op_args_bytes(rp_op op);
/* Scratch bytes the op takes from the queue for these shapes (pointers are not looked at). */
size_t rp_op_scratch(const rp_device *d, rp_op op, const void *args);

#endif
