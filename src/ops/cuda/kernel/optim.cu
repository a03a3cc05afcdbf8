/* optim.cu - norm of the gradients, clipping, the optimizers. */
#include "ops/cuda/kernel/optim.h"
#include "ops/cuda/kernel/wide.h"

enum { THREADS = RP_OPTIM_THREADS };

/* ---- ranges as one line ---- */

/* begin[0 .. n], by one block. */
RP_DEVICE void find_begins(rp_ptr ranges, int32_t n, rp_ptr begin) {
  __shared__ int64_t sums[THREADS];
  const rp_range *range = (const rp_range *)ranges.at;
  int64_t *to = (int64_t *)begin.at, before = 0;
  for (int32_t from = 0; from < n; from += THREADS) {
    const int32_t at = from + (int32_t)threadIdx.x;
    int64_t sum = at < n ? range[at].n : 0;
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned step = 1; step < THREADS; step *= 2) {
      if (threadIdx.x >= step) sum += sums[threadIdx.x - step];
      __syncthreads();
      sums[threadIdx.x] = sum;
      __syncthreads();
    }
    if (at < n) to[at + 1] = before + sum;
    before += sums[THREADS - 1];
    __syncthreads();
  }
  if (threadIdx.x == 0) to[0] = 0;
}

/* Elements of a slice, but for the last ones that there are. */
RP_DEVICE int64_t slice_length(int64_t total, int32_t slices) {
  const int64_t each = (total + slices - 1) / slices;
  return (each + 4 * THREADS - 1) / (4 * THREADS) * (4 * THREADS);
}

/* The range that element `at` of the line is in. */
RP_DEVICE int32_t range_at(const int64_t *begin, int32_t n, int64_t at) {
  int32_t low = 0, high = n - 1; /* the last whose begin is at most `at` */
  while (low < high) {
    const int32_t mid = low + (high - low + 1) / 2;
    if (begin[mid] <= at)
      low = mid;
    else
      high = mid - 1;
  }
  return low;
}

/* What of elements [from, to) of a group lies in whole runs of 4: [*first, *last). */
RP_DEVICE void runs_of(int64_t from, int64_t to, bool aligned, int64_t *first, int64_t *last) {
  *first = aligned ? min((from + 3) / 4 * 4, to) : from;
  *last = aligned ? max(to / 4 * 4, *first) : from;
}

/* ---- norm of the gradients ---- */

RP_KERNEL(sumsq_begin, rp_sumsq_slices, THREADS) { find_begins(a.op.range, a.op.ranges, a.begin); }

RP_DEVICE double block_sum(double x) {
  __shared__ double box[THREADS / 32];
  x = warp_sum(x);
  __syncthreads(); /* those of the sum before have read it */
  if (threadIdx.x % 32 == 0) box[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
  RP_UNROLL
  for (int i = 0; i < THREADS / 32; i++) x += box[i];
  return x;
}

/* This thread's share of the squares of g[from .. to). */
RP_DEVICE double squares(const float *g, int64_t from, int64_t to) {
  enum { EACH = 4 };
  int64_t first, last;
  runs_of(from, to, (uintptr_t)g % 16 == 0, &first, &last);
  double sum[EACH] = {0, 0, 0, 0};
  int64_t i = first + 4 * (int64_t)threadIdx.x;
  for (; i + (EACH - 1) * 4 * THREADS < last; i += EACH * 4 * THREADS) {
    float x[EACH][4];
    RP_UNROLL
    for (int k = 0; k < EACH; k++) load(x[k], g + i + k * 4 * THREADS);
    RP_UNROLL
    for (int k = 0; k < EACH; k++) RP_UNROLL
    for (int j = 0; j < 4; j++) sum[k] += (double)x[k][j] * x[k][j];
  }
  for (; i < last; i += 4 * THREADS) {
    float x[4];
    load(x, g + i);
    RP_UNROLL
    for (int j = 0; j < 4; j++) sum[0] += (double)x[j] * x[j];
  }
  for (i = from + threadIdx.x; i < first; i += THREADS) sum[1] += (double)g[i] * g[i];
  for (i = last + threadIdx.x; i < to; i += THREADS) sum[2] += (double)g[i] * g[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

RP_KERNEL(sumsq_part, rp_sumsq_slices, THREADS) {
  const int64_t *begin = (const int64_t *)a.begin.at;
  const rp_range *range = (const rp_range *)a.op.range.at;
  const int32_t n = a.op.ranges;
  const int64_t total = begin[n], length = slice_length(total, a.slices);
  const int64_t from = blockIdx.x * length, to = min(from + length, total);
  if (from >= to) return;
  for (int32_t i = range_at(begin, n, from); i < n && begin[i] < to; i++) {
    const int64_t base = range[i].offset - begin[i];
    const int64_t at = max(from, begin[i]) + base, end = min(to, begin[i + 1]) + base;
    if (at >= end) continue;
    const float *g = (const float *)(range[i].group ? a.op.g[1] : a.op.g[0]).p.at;
    const double sum = block_sum(squares(g, at, end));
    if (threadIdx.x == 0) ((double *)a.part.at)[(int64_t)blockIdx.x + i] = sum;
  }
}

RP_KERNEL(sumsq_sum, rp_sumsq_slices, THREADS) {
  const int64_t *begin = (const int64_t *)a.begin.at;
  const int32_t i = (int32_t)(blockIdx.x * (THREADS / 32) + threadIdx.x / 32);
  if (i >= a.op.ranges) return;
  const int64_t length = slice_length(begin[a.op.ranges], a.slices);
  double sum = 0;
  if (begin[i] < begin[i + 1]) {
    const int64_t last = (begin[i + 1] - 1) / length;
    for (int64_t s = begin[i] / length + threadIdx.x % 32; s <= last; s += 32)
      sum += ((const double *)a.part.at)[s + i];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) ((double *)a.op.out.at)[i] = sum;
}

/* ---- clipping ---- */

RP_KERNEL(clip, rp_clip_args, 32) {
  rp_ctl *ctl = (rp_ctl *)a.ctl.at;
  const double *sums = (const double *)a.sums.at;
  double sum = 0;
  for (int32_t i = (int32_t)threadIdx.x; i < a.n; i += 32) sum += sums[i];
  sum = warp_sum(sum);
  if (threadIdx.x) return;
  const double norm = sqrt(sum), factor = a.max / (norm + 1e-6);
  const bool finite =
      isfinite(norm) && (!a.loss.at || isfinite(((const rp_loss *)a.loss.at)->mean));
  ctl->norm = norm;
  ctl->factor = a.max > 0 && factor < 1 ? factor : 1;
  ctl->skip = !finite;
  ctl->t += finite;
  ctl->skipped += !finite;
  ctl->in_a_row = finite ? 0 : ctl->in_a_row + 1;
}

/* ---- optimizers ---- */

/* What one step multiplies by, in double once; what a range's decay adds comes with the range. */
struct factors {
  double lr;
  float factor, b1, c1, b2, c2, rate, root, eps, momentum;
  int32_t skip;
};
static_assert(sizeof(factors) <= RP_OPTIM_ROOM, "room for the factors of a step");

RP_KERNEL(optim_begin, rp_optim_slices, THREADS) {
  const rp_optim_args &o = a.op;
  const rp_ctl *ctl = (const rp_ctl *)o.ctl.at;
  if (threadIdx.x == 0) {
    factors f;
    f.lr = ctl->lr;
    f.factor = (float)ctl->factor;
    f.b1 = (float)o.beta1;
    f.c1 = (float)(1 - o.beta1);
    f.b2 = (float)o.beta2;
    f.c2 = (float)(1 - o.beta2);
    f.rate = (float)(ctl->lr / (1 - pow(o.beta1, (double)ctl->t)));
    f.root = (float)(1 / sqrt(1 - pow(o.beta2, (double)ctl->t)));
    f.eps = (float)o.eps;
    f.momentum = (float)o.momentum;
    f.skip = ctl->skip;
    *(factors *)a.factors.at = f;
  }
  find_begins(o.range, o.ranges, a.begin);
}

/* A step of a range, and where its group lies. */
struct step {
  factors f;
  float keep, decay, lr;
  float *p, *g, *m, *v;
  rp_tensor copy;
};

template <int V>
RP_DEVICE void put_copy(const rp_tensor &copy, int64_t at, const float (&p)[V]) {
  if (copy.dtype == RP_BF16)
    store((bf16 *)copy.p.at + at, p);
  else if (copy.p.at)
    store((float *)copy.p.at + at, p);
}

/* The hardware's root and quotient: an error of some units in the last place of a step is far below one of
 * the parameter. */
template <rp_opt_name kind, int V>
RP_DEVICE void advance(const step &s, int64_t at) {
  float p[V], g[V], m[V], v[V];
  load(p, s.p + at);
  load(g, s.g + at);
  load(m, s.m + at);
  if constexpr (kind != RP_OPT_SGD) load(v, s.v + at);
  RP_UNROLL
  for (int i = 0; i < V; i++) {
    const float grad = g[i] * s.f.factor + s.decay * p[i];
    g[i] = 0;
    if constexpr (kind == RP_OPT_SGD) {
      m[i] = s.f.momentum * m[i] + grad;
      p[i] -= s.lr * m[i];
    } else {
      m[i] = s.f.b1 * m[i] + s.f.c1 * grad;
      v[i] = s.f.b2 * v[i] + s.f.c2 * grad * grad;
      p[i] = p[i] * s.keep - s.f.rate * __fdividef(m[i], fast_root(v[i]) * s.f.root + s.f.eps);
    }
  }
  store(s.p + at, p);
  store(s.g + at, g);
  store(s.m + at, m);
  if constexpr (kind != RP_OPT_SGD) store(s.v + at, v);
  put_copy(s.copy, at, p);
}

/* Elements [from, to) of the group, of which [first, last) in runs. */
template <rp_opt_name kind>
RP_DEVICE void advance_all(const step &s, int64_t from, int64_t first, int64_t last, int64_t to) {
  for (int64_t i = from + threadIdx.x; i < first; i += THREADS) advance<kind, 1>(s, i);
  for (int64_t i = first + 4 * (int64_t)threadIdx.x; i < last; i += 4 * THREADS)
    advance<kind, 4>(s, i);
  for (int64_t i = last + threadIdx.x; i < to; i += THREADS) advance<kind, 1>(s, i);
}

RP_DEVICE step step_of(const rp_optim_slices &a, const rp_range &r) {
  const rp_optim_args &o = a.op;
  const bool second = r.group != 0;
  step s;
  s.f = *(const factors *)a.factors.at;
  s.keep = o.kind == RP_OPT_ADAMW ? (float)(1 - s.f.lr * r.decay) : 1;
  s.decay = o.kind == RP_OPT_ADAMW ? 0 : (float)r.decay;
  s.lr = (float)s.f.lr;
  s.p = (float *)(second ? o.p[1] : o.p[0]).p.at;
  s.g = (float *)(second ? o.g[1] : o.g[0]).p.at;
  s.m = (float *)(second ? o.m[1] : o.m[0]).p.at;
  s.v = (float *)(second ? o.v[1] : o.v[0]).p.at;
  s.copy = o.copy;
  if (second || !s.copy.p.at) s.copy = {{0}, RP_F32};
  return s;
}

RP_KERNEL(optim, rp_optim_slices, THREADS) {
  const int64_t *begin = (const int64_t *)a.begin.at;
  const rp_range *range = (const rp_range *)a.op.range.at;
  const int32_t n = a.op.ranges;
  const int64_t total = begin[n], length = slice_length(total, a.slices);
  const int64_t from = blockIdx.x * length, to = min(from + length, total);
  if (from >= to) return;
  for (int32_t i = range_at(begin, n, from); i < n && begin[i] < to; i++) {
    const int64_t base = range[i].offset - begin[i];
    const int64_t at = max(from, begin[i]) + base, end = min(to, begin[i + 1]) + base;
    if (at >= end) continue;
    const step s = step_of(a, range[i]);
    if (s.f.skip) {
      for (int64_t k = at + threadIdx.x; k < end; k += THREADS) s.g[k] = 0;
      continue;
    }
    const uintptr_t all = (uintptr_t)s.p | (uintptr_t)s.g | (uintptr_t)s.m | (uintptr_t)s.v |
                          s.copy.p.at << (s.copy.dtype == RP_BF16);
    int64_t first, last;
    runs_of(at, end, all % 16 == 0, &first, &last);
    if (a.op.kind == RP_OPT_SGD)
      advance_all<RP_OPT_SGD>(s, at, first, last, end);
    else
      advance_all<RP_OPT_ADAMW>(s, at, first, last, end);
  }
}
