/* cost.c - FLOPs and cache bytes. */
#include "model/cost.h"

#include "model/shape.h"
#include "pattern/count.h"

rp_flops rp_cost_flops(const rp_model_settings *m, const rp_pats *pats, int64_t batch, int64_t T) {
  const double d = m->d, f = m->f, tokens = (double)batch * (double)T;
  const bool mixer = m->cell != RP_CELL_IDENTITY;
  const double up = m->act == RP_ACT_SWIGLU ? 2 * f : f;
  const double weights = (mixer ? (double)rp_in_proj_rows(m) * d + d * d : 0) + (up + f) * d;
  double pairs = 0;
  for (int i = 0; mixer && i < m->N; i++)
    for (int j = 0; j < m->Hk; j++) pairs += (double)rp_pat_pairs(rp_pats_get(pats, i, j), T);
  const double group = (double)m->H / m->Hk;
  return (rp_flops){.products = 2 * weights * m->N * tokens,
                    .attention = 4 * pairs * group * m->h * (double)batch,
                    .head = 2 * (double)m->V * d * tokens};
}

double rp_cost_cache(const rp_model_settings *m, const rp_pats *pats, int64_t T, rp_dtype dtype) {
  double keys = 0;
  if (m->cell == RP_CELL_IDENTITY) return 0;
  for (int i = 0; i < m->N; i++)
    for (int j = 0; j < m->Hk; j++) keys += (double)rp_pat_cache(rp_pats_get(pats, i, j), T, 0);
  return keys * 2 * m->h * rp_dtype_bytes(dtype);
}

double rp_cost_state(const rp_model_settings *m) {
  if (m->cell == RP_CELL_IDENTITY || !m->apply_re) return 0;
  return 2.0 * m->Hk * m->h * rp_dtype_bytes(RP_F32) * m->N;
}
