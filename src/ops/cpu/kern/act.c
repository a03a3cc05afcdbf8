#include "ops/cpu/kern/lanes.h"

/* Activations of the FFN and the output gate: elementwise over blocks widened to real. */

static const double inv_sqrt2 = 0.70710678118654752440, inv_sqrt2pi = 0.39894228040143267794;
static const double sqrt_2_pi = 0.79788456080286535588, cube = 0.044715;

/* v = act(u) */
static void act_block(rp_act act, const rp_real *restrict u, rp_real *restrict v, int64_t n) {
  switch (act) {
    case RP_ACT_GELU:
      for (int64_t i = 0; i < n; i++)
        v[i] = (rp_real)0.5 * u[i] * (1 + erf_real(u[i] * (rp_real)inv_sqrt2));
      break;
    case RP_ACT_RELU:
      for (int64_t i = 0; i < n; i++) v[i] = u[i] <= 0 ? 0 : u[i];
      break;
    case RP_ACT_RELUSQUARED:
      for (int64_t i = 0; i < n; i++) v[i] = u[i] <= 0 ? 0 : u[i] * u[i];
      break;
    case RP_ACT_FASTGELU:
      for (int64_t i = 0; i < n; i++) {
        const rp_real in = (rp_real)sqrt_2_pi * (u[i] + (rp_real)cube * u[i] * u[i] * u[i]);
        v[i] = (rp_real)0.5 * u[i] * (1 + tanh_real(in));
      }
      break;
    default: /* silu, and the gate of swiglu */
      for (int64_t i = 0; i < n; i++) v[i] = u[i] * sigmoid_real(u[i]);
  }
}

/* g = act'(u) */
static void slope_block(rp_act act, const rp_real *restrict u, rp_real *restrict g, int64_t n) {
  switch (act) {
    case RP_ACT_GELU:
      for (int64_t i = 0; i < n; i++)
        g[i] = (rp_real)0.5 * (1 + erf_real(u[i] * (rp_real)inv_sqrt2)) +
               u[i] * (rp_real)inv_sqrt2pi * exp_real(u[i] * u[i] * (rp_real)-0.5);
      break;
    case RP_ACT_RELU:
      for (int64_t i = 0; i < n; i++) g[i] = u[i] <= 0 ? 0 : 1 + 0 * u[i];
      break;
    case RP_ACT_RELUSQUARED:
      for (int64_t i = 0; i < n; i++) g[i] = u[i] <= 0 ? 0 : 2 * u[i];
      break;
    case RP_ACT_FASTGELU:
      for (int64_t i = 0; i < n; i++) {
        const rp_real s = u[i] * u[i];
        const rp_real t = tanh_real((rp_real)sqrt_2_pi * u[i] * (1 + (rp_real)cube * s));
        g[i] = (rp_real)0.5 * (1 + t) + (rp_real)0.5 * u[i] * (1 - t * t) * (rp_real)sqrt_2_pi *
                                            (1 + (rp_real)(3 * cube) * s);
      }
      break;
    default:
      for (int64_t i = 0; i < n; i++) {
        const rp_real s = sigmoid_real(u[i]);
        g[i] = s + u[i] * s * (1 - s);
      }
  }
}

/* Blocks of a row: the unit of work is (row, block), so that any n and f split alike. */
typedef struct {
  int64_t row, col, n;
} span;
static int64_t spans(int64_t n, int64_t width) { return n * ((width + RP_BLOCK - 1) / RP_BLOCK); }
static span span_at(int64_t i, int64_t width) {
  const int64_t per = (width + RP_BLOCK - 1) / RP_BLOCK, col = i % per * RP_BLOCK;
  return (span){i / per, col, width - col < RP_BLOCK ? width - col : RP_BLOCK};
}

void RP_DRIVER(act)(rp_cpu_ctx *c, const void *args) {
  const rp_act_args *a = args;
  if (!dtypes(c, is_compute(a->u) && a->u.dtype == a->v.dtype, "act")) return;
  const int64_t f = a->f, ld = a->act == RP_ACT_SWIGLU ? 2 * f : f, units = spans(a->n, f);
  const int threads = team_for(c, a->n * f);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < units; i++) {
    const span s = span_at(i, f);
    rp_real u[RP_BLOCK], v[RP_BLOCK];
    load(u, a->u, s.row * ld + (ld - f) + s.col, s.n);
    act_block(a->act, u, v, s.n);
    if (a->act == RP_ACT_SWIGLU) {
      load(u, a->u, s.row * ld + s.col, s.n);
      for (int64_t j = 0; j < s.n; j++) v[j] *= u[j];
    }
    store(a->v, s.row * f + s.col, v, s.n);
  }
}

void RP_DRIVER(act_bwd)(rp_cpu_ctx *c, const void *args) {
  const rp_act_bwd_args *a = args;
  if (!dtypes(c, is_compute(a->u) && a->u.dtype == a->du.dtype && is_real(a->dv), "act_bwd"))
    return;
  const int64_t f = a->f, ld = a->act == RP_ACT_SWIGLU ? 2 * f : f, units = spans(a->n, f);
  const int threads = team_for(c, a->n * f);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < units; i++) {
    const span s = span_at(i, f);
    rp_real u[RP_BLOCK], g[RP_BLOCK], w[RP_BLOCK], v[RP_BLOCK];
    const rp_real *dv = rd(a->dv, s.row * f + s.col);
    load(u, a->u, s.row * ld + (ld - f) + s.col, s.n);
    slope_block(a->act, u, g, s.n);
    for (int64_t j = 0; j < s.n; j++) g[j] *= dv[j];
    if (a->act == RP_ACT_SWIGLU) {
      load(w, a->u, s.row * ld + s.col, s.n);
      act_block(a->act, u, v, s.n);
      for (int64_t j = 0; j < s.n; j++) g[j] *= w[j];
      for (int64_t j = 0; j < s.n; j++) v[j] *= dv[j];
      store(a->du, s.row * ld + s.col, v, s.n);
    }
    store(a->du, s.row * ld + (ld - f) + s.col, g, s.n);
  }
}

void RP_DRIVER(ogate)(rp_cpu_ctx *c, const void *args) {
  const rp_ogate_args *a = args;
  if (!dtypes(c, is_compute(a->a) && a->a.dtype == a->p.dtype && a->a.dtype == a->y.dtype, "ogate"))
    return;
  const int64_t d = a->d, units = spans(a->n, d);
  const int threads = team_for(c, a->n * d);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < units; i++) {
    const span s = span_at(i, d);
    rp_real o[RP_BLOCK], x[RP_BLOCK];
    load(o, a->p, s.row * a->ldp + s.col, s.n);
    load(x, a->a, s.row * d + s.col, s.n);
    for (int64_t j = 0; j < s.n; j++) o[j] = sigmoid_real(o[j]);
    round_as(a->p.dtype, o, s.n);
    for (int64_t j = 0; j < s.n; j++) x[j] *= o[j];
    store(a->y, s.row * d + s.col, x, s.n);
  }
}

/* The slope is that of the unrounded sigmoid: the rounded one is flat where it rounds to 1. */
void RP_DRIVER(ogate_bwd)(rp_cpu_ctx *c, const void *args) {
  const rp_ogate_bwd_args *a = args;
  if (!dtypes(c,
              is_compute(a->a) && a->a.dtype == a->p.dtype && a->a.dtype == a->dp.dtype &&
                  is_real(a->dy) && is_real(a->da),
              "ogate_bwd"))
    return;
  const int64_t d = a->d, units = spans(a->n, d);
  const int threads = team_for(c, a->n * d);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < units; i++) {
    const span s = span_at(i, d);
    rp_real o[RP_BLOCK], x[RP_BLOCK], dy[RP_BLOCK];
    load(o, a->p, s.row * a->ldp + s.col, s.n);
    load(x, a->a, s.row * d + s.col, s.n);
    load(dy, a->dy, s.row * d + s.col, s.n);
    for (int64_t j = 0; j < s.n; j++) o[j] = sigmoid_real(o[j]);
    for (int64_t j = 0; j < s.n; j++) x[j] *= dy[j] * o[j] * (1 - o[j]);
    store(a->dp, s.row * a->ldp + s.col, x, s.n);
    round_as(a->p.dtype, o, s.n);
    for (int64_t j = 0; j < s.n; j++) dy[j] *= o[j];
    store(a->da, s.row * d + s.col, dy, s.n);
  }
}
