/* mixer.c - the RAT+ mixer and its attention-only sibling (model.md 2): norm, one projection, gate
 * scan rotate, attention over the visible set, output gate, projection back. */
#include <math.h>
#include "model/kind.h"

/* What forward leaves for backward; n tokens. */
typedef struct {
  rp_ptr stat;    /* [n, 2] of the norm */
  rp_tensor p;    /* [n, P] the projection */
  rp_tensor q;    /* [n, H*h] */
  rp_tensor k, v; /* [n, Hk*h] after scan and rotation */
  rp_tensor a;    /* [n, H*h] what attention returned */
  rp_ptr lse;     /* [n, H] */
} kept;

static kept kept_at(const rp_run *r, rp_ptr base, size_t *bytes) {
  const rp_model_settings *m = r->m;
  const size_t n = (size_t)r->n, c = (size_t)rp_dtype_bytes(r->compute);
  const size_t real = (size_t)rp_dtype_bytes(r->real);
  const size_t d = (size_t)m->d, kv = (size_t)m->Hk * (size_t)m->h;
  rp_carve at = {base.at, 0, 0};
  kept k;
  k.stat = rp_carve_take(&at, n * 2 * real);
  k.p = (rp_tensor){rp_carve_take(&at, n * (size_t)rp_in_proj_rows(m) * c), r->compute};
  k.q = (rp_tensor){rp_carve_take(&at, n * d * c), r->compute};
  k.k = (rp_tensor){rp_carve_take(&at, n * kv * c), r->compute};
  k.v = (rp_tensor){rp_carve_take(&at, n * kv * c), r->compute};
  k.a = (rp_tensor){rp_carve_take(&at, n * d * c), r->compute};
  k.lse = rp_carve_take(&at, n * (size_t)m->H * real);
  *bytes = at.used;
  return k;
}

static size_t acts(const rp_run *r) {
  size_t bytes;
  kept_at(r, (rp_ptr){0}, &bytes);
  return bytes;
}

/* The norm's output is cheap to make again, so backward does instead of keeping it. */
static rp_tensor normed(rp_run *r, const rp_tensor *w, rp_tensor x, rp_ptr stat) {
  rp_tensor y = rp_run_tmp(r, r->compute, (int64_t)r->n * r->m->d);
  RP_PUT(r, norm,
         {r->n, r->m->d, r->m->mixer_norm, x, w[RP_SLOT_NORM1], w[RP_SLOT_NORM1_BIAS], y, stat});
  return y;
}

static rp_tensor gated(rp_run *r, const kept *k, int64_t P) {
  rp_tensor z = rp_run_tmp(r, r->compute, (int64_t)r->n * r->m->d);
  RP_PUT(r, ogate, {r->n, r->m->d, P, k->a, k->p, z});
  return z;
}

static void forward(rp_run *r, const rp_tensor *w, rp_tensor x_in, rp_tensor x_out, rp_ptr base) {
  const rp_model_settings *m = r->m;
  const int d = m->d, P = (int)rp_in_proj_rows(m);
  const size_t mark = r->tmp.used;
  size_t bytes;
  kept k = kept_at(r, base, &bytes);
  rp_tensor y = normed(r, w, x_in, k.stat);
  rp_linear(r, y, d, w[RP_SLOT_IN], P, d, k.p, false);
  RP_PUT(
      r, gate,
      {r->rows, m->H, m->Hk, m->h, m->apply_re, r->infer, P, k.p, k.q, k.k, k.v, r->rope, r->kv});
  RP_PUT(r, attend,
         {r->rows, m->H, m->Hk, m->h, r->pats_stride, 1 / sqrt(m->h), r->pats, k.q, k.k, k.v, k.a,
          k.lse, r->kv});
  if (r->infer) RP_PUT(r, append, {r->rows, m->Hk, m->h, r->pats_stride, r->pats, k.k, k.v, r->kv});
  if (x_out.p.at) {
    rp_tensor z = gated(r, &k, P);
    if (x_out.p.at != x_in.p.at) RP_PUT(r, cast, {(int64_t)r->n * d, x_in, x_out});
    rp_linear(r, z, d, w[RP_SLOT_OUT], d, d, x_out, true);
  }
  r->tmp.used = mark;
}

/* From the gradient of the gated output to that of the projection p, all its columns. */
static rp_tensor back_to_projection(rp_run *r, const kept *k, rp_tensor dz, int64_t P) {
  const rp_model_settings *m = r->m;
  const int64_t n = r->n, kv = (int64_t)m->Hk * m->h;
  rp_tensor dp = rp_run_tmp(r, r->compute, n * P);
  rp_tensor dq = rp_run_tmp(r, r->real, n * m->d);
  rp_tensor dk = rp_run_tmp(r, r->real, n * kv), dv = rp_run_tmp(r, r->real, n * kv);
  RP_PUT(r, ogate_bwd, {r->n, m->d, P, k->a, k->p, dz, dz, dp});
  RP_PUT(r, attend_bwd,
         {r->rows, m->H, m->Hk, m->h, r->pats_stride, 1 / sqrt(m->h), r->pats, k->q, k->k, k->v,
          k->a, dz, dq, dk, dv, k->lse});
  RP_PUT(r, gate_bwd, {r->rows, m->H, m->Hk, m->h, m->apply_re, P, k->p, dq, dk, dv, dp, r->rope});
  return dp;
}

static void backward(rp_run *r, const rp_tensor *w, const rp_tensor *g, rp_tensor x_in,
                     rp_tensor dx, rp_ptr base) {
  const rp_model_settings *m = r->m;
  const int d = m->d, P = (int)rp_in_proj_rows(m);
  const size_t mark = r->tmp.used;
  size_t bytes;
  kept k = kept_at(r, base, &bytes);
  rp_tensor dy = rp_run_tmp(r, r->real, (int64_t)r->n * d);
  rp_tensor dout = rp_run_rounded(r, dx, (int64_t)r->n * d);
  rp_linear_grad_w(r, dout, gated(r, &k, P), d, d, g[RP_SLOT_OUT]);
  rp_linear_grad_x(r, dout, w[RP_SLOT_OUT], d, d, dy);
  rp_tensor dp = back_to_projection(r, &k, dy, P);
  rp_linear_grad_w(r, dp, normed(r, w, x_in, k.stat), P, d, g[RP_SLOT_IN]);
  rp_linear_grad_x(r, dp, w[RP_SLOT_IN], P, d, dy);
  RP_PUT(r, norm_bwd,
         {r->n, d, m->mixer_norm, x_in, w[RP_SLOT_NORM1], dy, dx, g[RP_SLOT_NORM1],
          g[RP_SLOT_NORM1_BIAS], k.stat});
  r->tmp.used = mark;
}

const rp_kind *rp_kind_mixer(const rp_model_settings *m) {
  static const rp_kind attention = {"attention", acts, forward, backward};
  static const rp_kind ratplus = {"ratplus", acts, forward, backward};
  if (m->cell == RP_CELL_IDENTITY) return NULL;
  return m->apply_re ? &ratplus : &attention;
}
