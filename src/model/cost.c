/* cost.c - FLOPs and cache bytes. */
#include "model/cost.h"

#include "model/shape.h"
#include "pattern/count.h"

static double weights_of_layer(const rp_model_settings *m) {
  const double d = m->d, f = m->f, up = m->act == RP_ACT_SWIGLU ? 2 * f : f;
  const bool mixer = m->cell != RP_CELL_IDENTITY;
  return (mixer ? (double)rp_in_proj_rows(m) * d + d * d : 0) + (up + f) * d;
}

/* Everything for `tokens` tokens whose queries see `pairs` keys, summed over kv heads. */
static rp_flops flops(const rp_model_settings *m, double tokens, double pairs) {
  const double group = (double)m->H / m->Hk;
  const bool mixer = m->cell != RP_CELL_IDENTITY;
  return (rp_flops){.products = 2 * weights_of_layer(m) * m->N * tokens,
                    .attention = mixer ? 4 * pairs * group * m->h : 0,
                    .head = 2 * (double)m->V * m->d * tokens};
}

rp_flops rp_cost_flops(const rp_model_settings *m, const rp_pats *pats, int64_t batch, int64_t T) {
  const double pairs = rp_cost_seen(pats, -1, T, 0).pairs;
  return flops(m, (double)batch * (double)T, pairs * (double)batch);
}

rp_flops rp_cost_step(const rp_model_settings *m, const rp_pats *pats, int64_t T) {
  return flops(m, 1, rp_cost_seen(pats, -1, T, 0).keys);
}

rp_seen rp_cost_seen(const rp_pats *pats, int layer, int64_t T, int64_t R) {
  const int first = layer < 0 ? 0 : layer, end = layer < 0 ? pats->layers : layer + 1;
  rp_seen n = {0};
  for (int i = first; i < end; i++) {
    for (int j = 0; j < pats->kv_heads; j++) {
      const rp_pat p = rp_pats_get(pats, i, j);
      const rp_pat_sets last = rp_pat_see(p, T - 1);
      n.heads += 1;
      n.pairs += (double)rp_pat_pairs(p, T);
      n.initial += (double)last.initial;
      n.local += (double)last.local;
      n.dilated += (double)last.dilated;
      n.kept += (double)rp_pat_in_kept(p, T, R);
      n.ring += (double)rp_pat_in_ring(p, T, R);
      n.blocks += (double)rp_pat_blocks(p, T, R);
    }
  }
  n.keys = n.initial + n.local + n.dilated;
  return n;
}

double rp_cost_entry(const rp_model_settings *m, rp_dtype dtype) {
  return 2.0 * m->h * rp_dtype_bytes(dtype);
}

double rp_cost_cache(const rp_model_settings *m, const rp_pats *pats, int64_t T, rp_dtype dtype) {
  if (m->cell == RP_CELL_IDENTITY) return 0;
  const rp_seen n = rp_cost_seen(pats, -1, T, 0);
  return (n.kept + n.ring) * rp_cost_entry(m, dtype);
}

double rp_cost_blocks(const rp_model_settings *m, const rp_pats *pats, int64_t T, int64_t R,
                      rp_dtype dtype) {
  if (m->cell == RP_CELL_IDENTITY) return 0;
  return rp_cost_seen(pats, -1, T, R).blocks * RP_KV_BLOCK * rp_cost_entry(m, dtype);
}

double rp_cost_state(const rp_model_settings *m, int64_t R) {
  if (m->cell == RP_CELL_IDENTITY || !m->apply_re) return 0;
  return 2.0 * m->Hk * m->h * rp_dtype_bytes(RP_F32) * m->N * (double)(R + 1);
}
