/* ffn.c - the feed-forward cell: norm, up projection, activation, down projection. */
#include "model/kind.h"

/* Columns of the up projection. */
static int up_rows(const rp_model_settings *m) { return m->act == RP_ACT_SWIGLU ? 2 * m->f : m->f; }

typedef struct {
  rp_ptr stat; /* [n, 2] */
  rp_tensor u; /* [n, f], swiglu [n, 2f] */
} kept;

static kept kept_at(const rp_run *r, rp_ptr base, size_t *bytes) {
  const size_t n = (size_t)r->n;
  rp_carve at = {base.at, 0, 0};
  kept k;
  k.stat = rp_carve_take(&at, n * 2 * (size_t)rp_dtype_bytes(r->real));
  k.u = (rp_tensor){
      rp_carve_take(&at, n * (size_t)up_rows(r->m) * (size_t)rp_dtype_bytes(r->compute)),
      r->compute};
  *bytes = at.used;
  return k;
}

static size_t acts(const rp_run *r) {
  size_t bytes;
  kept_at(r, (rp_ptr){0}, &bytes);
  return bytes;
}

static rp_tensor normed(rp_run *r, const rp_tensor *w, rp_tensor x, rp_ptr stat) {
  rp_tensor y = rp_run_tmp(r, r->compute, (int64_t)r->n * r->m->d);
  RP_PUT(r, norm,
         {r->n, r->m->d, r->m->ffn_norm, x, w[RP_SLOT_NORM2], w[RP_SLOT_NORM2_BIAS], y, stat});
  return y;
}

static rp_tensor activated(rp_run *r, const kept *k) {
  rp_tensor v = rp_run_tmp(r, r->compute, (int64_t)r->n * r->m->f);
  RP_PUT(r, act, {r->n, r->m->f, r->m->act, k->u, v});
  return v;
}

static void forward(rp_run *r, const rp_tensor *w, rp_tensor x_in, rp_tensor x_out, rp_ptr base) {
  const rp_model_settings *m = r->m;
  const size_t mark = r->tmp.used;
  size_t bytes;
  kept k = kept_at(r, base, &bytes);
  rp_linear(r, normed(r, w, x_in, k.stat), m->d, w[RP_SLOT_FC1], up_rows(m), m->d, k.u, false);
  if (x_out.p.at) {
    rp_tensor v = activated(r, &k);
    if (x_out.p.at != x_in.p.at) RP_PUT(r, cast, {(int64_t)r->n * m->d, x_in, x_out});
    rp_linear(r, v, m->f, w[RP_SLOT_FC2], m->d, m->f, x_out, true);
  }
  r->tmp.used = mark;
}

static void backward(rp_run *r, const rp_tensor *w, const rp_tensor *g, rp_tensor x_in,
                     rp_tensor dx, rp_ptr base) {
  const rp_model_settings *m = r->m;
  const int d = m->d, f = m->f, up = up_rows(m);
  const size_t mark = r->tmp.used;
  size_t bytes;
  kept k = kept_at(r, base, &bytes);
  rp_tensor dy = rp_run_tmp(r, r->real, (int64_t)r->n * d);
  rp_tensor dv = rp_run_tmp(r, r->real, (int64_t)r->n * f);
  rp_tensor du = rp_run_tmp(r, r->compute, (int64_t)r->n * up);
  rp_tensor dout = rp_run_rounded(r, dx, (int64_t)r->n * d);
  rp_linear_grad_w(r, dout, activated(r, &k), d, f, g[RP_SLOT_FC2]);
  rp_linear_grad_x(r, dout, w[RP_SLOT_FC2], d, f, dv);
  RP_PUT(r, act_bwd, {r->n, f, m->act, k.u, dv, du});
  rp_linear_grad_w(r, du, normed(r, w, x_in, k.stat), up, d, g[RP_SLOT_FC1]);
  rp_linear_grad_x(r, du, w[RP_SLOT_FC1], up, d, dy);
  RP_PUT(r, norm_bwd,
         {r->n, d, m->ffn_norm, x_in, w[RP_SLOT_NORM2], dy, dx, g[RP_SLOT_NORM2],
          g[RP_SLOT_NORM2_BIAS], k.stat});
  r->tmp.used = mark;
}

const rp_kind *rp_kind_ffn(const rp_model_settings *m) {
  static const rp_kind ffn = {"ffn", acts, forward, backward};
  (void)m;
  return &ffn;
}
