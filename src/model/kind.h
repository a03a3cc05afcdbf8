/* kind.h - kinds of layer: a mixer or an FFN is a row of functions, and the net asks no further.
 *
 * A kind reads its weights and gradients by slot, its input x, and what its forward left in acts. The
 * same functions plan a run: on a dry run nothing is put on the queue, only sizes are noted. */
#ifndef RP_MODEL_KIND_H
#define RP_MODEL_KIND_H

#include "model/params.h"

/* A bump arena over device memory; dry: base 0 counts only. */
typedef struct {
  uintptr_t base;
  size_t used, peak;
} rp_carve;
rp_ptr rp_carve_take(rp_carve *c, size_t bytes); /* 64-byte aligned, never none */

typedef struct {
  rp_queue *q;
  rp_device *dev;
  const rp_model_settings *m;
  rp_dtype real, compute;
  rp_rows rows;
  int n;           /* tokens of the call */
  rp_ptr pats;     /* rp_pat [plans][Hk] of the layer at hand */
  int pats_stride; /* from one plan to the next */
  rp_ptr rope;     /* by position, none with pe: empty; for inference by token of the call */
  rp_kv kv;        /* inference: the caches; pool none in training */
  bool infer;      /* rows have positions of their own and may have caches */
  rp_carve tmp;    /* work buffers; a kind takes them and gives all back on return */
  bool dry;
  size_t scratch; /* dry: the most any op asks of the queue */
} rp_run;

typedef struct {
  const char *name;
  /* Bytes kept for backward, for n tokens. */
  size_t (*acts)(const rp_run *r);
  /* x_out = x_in + cell(norm(x_in)), both real [n, d]; they may be the same buffer. x_out none: only
   * what backward reads is made. */
  void (*forward)(rp_run *r, const rp_tensor *w, rp_tensor x_in, rp_tensor x_out, rp_ptr acts);
  /* dx real [n, d]: in the gradient of x_out, out that of x_in. g[slot] +=. */
  void (*backward)(rp_run *r, const rp_tensor *w, const rp_tensor *g, rp_tensor x_in, rp_tensor dx,
                   rp_ptr acts);
} rp_kind;

/* Gated recurrence and attention (ratplus; attention-only with apply_re false); NULL for identity. */
const rp_kind *rp_kind_mixer(const rp_model_settings *m);
const rp_kind *rp_kind_ffn(const rp_model_settings *m);

/* Puts an op, or notes its scratch on a dry run. */
#define RP_PUT(r, name, ...) \
  do { \
    const rp_##name##_args rp_put_ = __VA_ARGS__; \
    if ((r)->dry) \
      rp_run_note((r), RP_OP_##name, &rp_put_); \
    else \
      rp_op_##name((r)->q, &rp_put_); \
  } while (0)
void rp_run_note(rp_run *r, rp_op op, const void *args);

/* The products of a linear layer w[out, in] (compute) over n rows; ld* of the wide side only. */
void rp_linear(rp_run *r, rp_tensor x, int64_t ldx, rp_tensor w, int out, int in, rp_tensor y,
               bool add);
/* g[out, in] += dy[n, out]^T x[n, in]. */
void rp_linear_grad_w(rp_run *r, rp_tensor dy, rp_tensor x, int out, int in, rp_tensor g);
/* dx[n, in] = dy[n, out] w[out, in]. */
void rp_linear_grad_x(rp_run *r, rp_tensor dy, rp_tensor w, int out, int in, rp_tensor dx);

/* A work tensor of `elements` from r->tmp. */
rp_tensor rp_run_tmp(rp_run *r, rp_dtype dtype, int64_t elements);
/* t itself when it has the computed dtype, else its rounding in a work tensor. */
rp_tensor rp_run_rounded(rp_run *r, rp_tensor t, int64_t elements);

#endif
