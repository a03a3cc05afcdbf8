#include "ops/cpu/kern/lanes.h"

/* Norm, clipping and the optimizers over flat buffers. A range is cut into PARTS parts whatever the
 * threads, so that every sum has one order. */
enum { PARTS = 64 };

/* Elements [*from, *to) of part `part` of n, whole lines but for the last. */
static void part_of(int64_t n, int part, int64_t *from, int64_t *to) {
  const int64_t each = (int64_t)round_up((size_t)((n + PARTS - 1) / PARTS), 64);
  *from = part * each < n ? part * each : n;
  *to = *from + each < n ? *from + each : n;
}

/* A group may be empty. */
static bool real_or_none(rp_tensor t) { return !t.p.at || is_real(t); }

static double sum_squares(const rp_real *x, int64_t n) {
  double acc[RP_LANES] = {0}, s = 0;
  int64_t i = 0;
  for (; i + RP_LANES <= n; i += RP_LANES)
    for (int l = 0; l < RP_LANES; l++) acc[l] += (double)x[i + l] * (double)x[i + l];
  for (int l = 0; i + l < n; l++) acc[l] += (double)x[i + l] * (double)x[i + l];
  for (int l = 0; l < RP_LANES; l++) s += acc[l];
  return s;
}

size_t RP_SCRATCH(sumsq)(const rp_cpu_ctx *c, const void *args) {
  (void)c;
  return (size_t)((const rp_sumsq_args *)args)->ranges * PARTS * sizeof(double);
}

void RP_DRIVER(sumsq)(rp_cpu_ctx *c, const void *args) {
  const rp_sumsq_args *a = args;
  if (!dtypes(c, real_or_none(a->g[0]) && real_or_none(a->g[1]), "sumsq")) return;
  const rp_range *range = (const rp_range *)a->range.at;
  double *part = (double *)c->scratch, *out = (double *)a->out.at; /* part: [ranges][PARTS] */
  const int64_t units = (int64_t)a->ranges * PARTS;
#pragma omp parallel for num_threads(c->threads) schedule(static)
  for (int64_t u = 0; u < units; u++) {
    const rp_range *r = &range[u / PARTS];
    int64_t from, to;
    part_of(r->n, (int)(u % PARTS), &from, &to);
    part[u] = sum_squares(rd(a->g[r->group], r->offset + from), to - from);
  }
  for (int32_t i = 0; i < a->ranges; i++) {
    out[i] = 0;
    for (int j = 0; j < PARTS; j++) out[i] += part[i * PARTS + j];
  }
}

void RP_DRIVER(clip)(rp_cpu_ctx *c, const void *args) {
  (void)c;
  const rp_clip_args *a = args;
  rp_ctl *ctl = (rp_ctl *)a->ctl.at;
  const double *sums = (const double *)a->sums.at;
  double sum = 0;
  for (int32_t i = 0; i < a->n; i++) sum += sums[i];
  ctl->norm = sqrt(sum);
  ctl->factor = 1;
  if (a->max > 0 && a->max / (ctl->norm + 1e-6) < 1) ctl->factor = a->max / (ctl->norm + 1e-6);
  const bool finite =
      isfinite(ctl->norm) && (!a->loss.at || isfinite(((const rp_loss *)a->loss.at)->mean));
  ctl->skip = !finite;
  if (finite) {
    ctl->t++;
    ctl->in_a_row = 0;
  } else {
    ctl->skipped++;
    ctl->in_a_row++;
  }
}

/* What one step multiplies by, in double once and real in the loops. */
typedef struct {
  rp_real factor, keep, decay, b1, c1, b2, c2, rate, root, eps, lr, momentum;
} step;

static step step_of(const rp_optim_args *a, const rp_ctl *ctl, double decay) {
  const double bc1 = 1 - pow(a->beta1, (double)ctl->t), bc2 = 1 - pow(a->beta2, (double)ctl->t);
  step s = {.factor = (rp_real)ctl->factor, .eps = (rp_real)a->eps, .lr = (rp_real)ctl->lr};
  s.keep = a->kind == RP_OPT_ADAMW ? (rp_real)(1 - ctl->lr * decay) : 1;
  s.decay = a->kind == RP_OPT_ADAMW ? 0 : (rp_real)decay;
  s.b1 = (rp_real)a->beta1;
  s.c1 = (rp_real)(1 - a->beta1);
  s.b2 = (rp_real)a->beta2;
  s.c2 = (rp_real)(1 - a->beta2);
  s.rate = (rp_real)(ctl->lr / bc1);
  s.root = (rp_real)(1 / sqrt(bc2));
  s.momentum = (rp_real)a->momentum;
  return s;
}

static void adam(const step *s, rp_real *restrict p, rp_real *restrict g, rp_real *restrict m,
                 rp_real *restrict v, int64_t n) {
  const step k = *s;
  for (int64_t i = 0; i < n; i++) {
    const rp_real grad = g[i] * k.factor + k.decay * p[i];
    m[i] = k.b1 * m[i] + k.c1 * grad;
    v[i] = k.b2 * v[i] + k.c2 * grad * grad;
    p[i] = p[i] * k.keep - k.rate * m[i] / (sqrt_real(v[i]) * k.root + k.eps);
    g[i] = 0;
  }
}
static void sgd(const step *s, rp_real *restrict p, rp_real *restrict g, rp_real *restrict m,
                int64_t n) {
  const step k = *s;
  for (int64_t i = 0; i < n; i++) {
    m[i] = k.momentum * m[i] + (g[i] * k.factor + k.decay * p[i]);
    p[i] -= k.lr * m[i];
    g[i] = 0;
  }
}

static void optim_part(const rp_optim_args *a, const rp_ctl *ctl, const rp_range *r, int part) {
  int64_t from, to;
  part_of(r->n, part, &from, &to);
  const int64_t at = r->offset + from, n = to - from;
  if (n <= 0) return;
  rp_real *p = wr(a->p[r->group], at), *g = wr(a->g[r->group], at);
  if (ctl->skip) {
    memset(g, 0, (size_t)n * sizeof(rp_real));
    return;
  }
  const step s = step_of(a, ctl, r->decay);
  for (int64_t i = 0; i < n; i += RP_BLOCK) { /* the copy is made while the block is in the cache */
    const int64_t m = n - i < RP_BLOCK ? n - i : RP_BLOCK;
    rp_real *first = wr(a->m[r->group], at + i);
    if (a->kind == RP_OPT_SGD)
      sgd(&s, p + i, g + i, first, m);
    else
      adam(&s, p + i, g + i, first, wr(a->v[r->group], at + i), m);
    if (a->copy.p.at && r->group == 0) store(a->copy, at + i, p + i, m);
  }
}

void RP_DRIVER(optim)(rp_cpu_ctx *c, const void *args) {
  const rp_optim_args *a = args;
  bool ok = !a->copy.p.at || is_compute(a->copy);
  for (int i = 0; i < 2; i++)
    ok = ok && real_or_none(a->p[i]) && real_or_none(a->g[i]) && real_or_none(a->m[i]) &&
         real_or_none(a->v[i]);
  if (!dtypes(c, ok, "optim")) return;
  const rp_range *range = (const rp_range *)a->range.at;
  const rp_ctl *ctl = (const rp_ctl *)a->ctl.at;
  const int64_t units = (int64_t)a->ranges * PARTS;
#pragma omp parallel for num_threads(c->threads) schedule(static)
  for (int64_t u = 0; u < units; u++) optim_part(a, ctl, &range[u / PARTS], (int)(u % PARTS));
}
