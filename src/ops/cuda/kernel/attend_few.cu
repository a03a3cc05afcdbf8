/* attend_few.cu - attention of rows of few tokens over caches, in bfloat16: what a step of decoding does.
 *
 * Every key is read once for all queries of its group, and that is the time it takes. Each warp takes every
 * WARPS-th 16 keys of the block's part through shared memory of its own, without waiting for others: while
 * some are multiplied those behind them are under way. The queries are the rows of one product of a
 * warp, so that up to 16 cost the same. At the end the warps' sums are merged, in order, and those of
 * several blocks by attend_merge. How many parts a unit has depends on its own keys and on shapes. */
#include "ops/cuda/kernel/attend_few.h"

#include "ops/cuda/kernel/attend_keys.h"

enum { KEYS = 16, QUERIES = RP_ATTEND_FEW_QUERIES };

template <int N>
struct work {
  static constexpr int WARPS = RP_ATTEND_FEW_WARPS(N), STAGES = RP_ATTEND_FEW_STAGES(N);
  bf16 kv[WARPS][STAGES][2][KEYS * N]; /* at the end each warp's sums, float [QUERIES][N] */
  uint32_t seen[WARPS][STAGES][KEYS];
  float max[WARPS][QUERIES], sum[WARPS][QUERIES];
  attend_keys keys;
};
static_assert(sizeof(work<64>) <= RP_ATTEND_FEW_SHARED(64) &&
                  sizeof(work<128>) <= RP_ATTEND_FEW_SHARED(128) &&
                  sizeof(work<256>) <= RP_ATTEND_FEW_SHARED(256),
              "shared memory");

/* Which queries a unit has: query r is token r / heads, head `head` + r % heads. */
typedef struct {
  int32_t row, group; /* key-value head */
  int32_t head, heads;
} unit;
RP_DEVICE unit unit_at(const rp_attend_few_args &a, int64_t i) {
  const int32_t chunk = (int32_t)(i % a.chunks), of_group = a.op.H / a.op.Hk;
  unit u;
  i /= a.chunks;
  u.group = (int32_t)(i % a.op.Hk);
  u.row = (int32_t)(i / a.op.Hk);
  u.head = u.group * of_group + chunk * a.heads;
  u.heads = rp_min_i32(a.heads, of_group - chunk * a.heads);
  return u;
}
RP_DEVICE int parts_of(const rp_attend_few_args &a, int32_t keys) {
  const int32_t parts = rp_max_i32(rp_min_i32(keys / a.least, a.fill), keys / a.most);
  return rp_max_i32(rp_min_i32(parts, a.parts), 1);
}
RP_DEVICE float *sums_at(const rp_attend_few_args &a, int64_t unit, int part, int query) {
  return (float *)a.sums.at + ((unit * a.parts + part) * a.queries + query) * (a.op.h + 4);
}
RP_DEVICE int64_t out_at(const rp_attend_args &a, const rp_row &row, const unit &u, int query) {
  return (int64_t)(row.tok + query / u.heads) * a.H + u.head + query % u.heads;
}

template <int N>
struct block {
  static constexpr int WARPS = work<N>::WARPS, STAGES = work<N>::STAGES;
  const rp_attend_args &a;
  work<N> *w;
  int lane, warp;
  rp_row row;
  unit u;
  int32_t queries, token[2]; /* of queries lane / 4, lane / 4 + 8 */
  int segment;
};

/* The queries, as mma_bf16 has its a. */
template <int N>
RP_DEVICE void take_queries(const block<N> *b, uint32_t q[N / 16][4]) {
  const rp_attend_args &a = b->a;
  const int g = b->lane / 4, p = b->lane % 4;
  RP_UNROLL
  for (int half = 0; half < 2; half++) {
    const int r = g + 8 * half;
    const bf16 *from =
        (const bf16 *)a.q.p.at + (r < b->queries ? out_at(a, b->row, b->u, r) * a.h : 0) + 2 * p;
    RP_UNROLL
    for (int c = 0; c < N / 8; c++)
      q[c / 2][c % 2 * 2 + half] =
          r < b->queries && c * 8 < a.h ? *(const uint32_t *)(from + c * 8) : 0;
  }
}

/* The place of the key that the lane, one of the first 16, has of those from `first` on. */
template <int N>
RP_DEVICE attend_place look_up(block<N> *b, int32_t first, int32_t end) {
  const int32_t j = first + b->lane;
  if (b->lane >= KEYS || j >= end) return {0, RP_ATTEND_UNSEEN};
  return place_of_key<bf16>(&b->w->keys, &b->segment, j, b->a, b->row.tok, b->u.group, b->row.pos,
                            b->row.n);
}

/* 16 keys and values are on their way. */
template <int N>
RP_DEVICE void send_keys(const block<N> *b, int stage, attend_place x) {
  constexpr int CHUNKS = N / 8, ROWS = 32 / CHUNKS < 1 ? 1 : 32 / CHUNKS;
  const int64_t fresh = to_value<bf16>(b->a, true), cached = to_value<bf16>(b->a, false);
  unsigned char *k = (unsigned char *)b->w->kv[b->warp][stage][0];
  unsigned char *v = (unsigned char *)b->w->kv[b->warp][stage][1];
  if (b->lane < KEYS) b->w->seen[b->warp][stage][b->lane] = x.seen;
  const int chunk = b->lane % CHUNKS, row = b->lane / CHUNKS;
  RP_UNROLL
  for (int r = 0; r < KEYS; r += ROWS) {
    const uintptr_t at = __shfl_sync(RP_ALL_LANES, x.at, r + row);
    const unsigned char *from = (const unsigned char *)(at & ~(uintptr_t)1) + 16 * chunk;
    const int bytes = at && chunk * 8 < b->a.h ? 16 : 0;
    const uint32_t to = swizzled<N>(r + row, chunk);
    copy_async_16(k + to, bytes ? from : (const unsigned char *)b->a.k.p.at, bytes);
    copy_async_16(v + to,
                  bytes ? from + (at & 1 ? fresh : cached) : (const unsigned char *)b->a.v.p.at,
                  bytes);
  }
}

template <int N>
struct sums {
  float o[N / 8][4];    /* as mma_bf16 has its c */
  float max[2], sum[2]; /* of queries g, g + 8; the sum is this lane's part */
};

template <int N>
RP_DEVICE void meet(const block<N> *b, int stage, const uint32_t q[N / 16][4], float scale,
                    sums<N> *o) {
  const int lane = b->lane, p = lane % 4;
  const unsigned char *k = (const unsigned char *)b->w->kv[b->warp][stage][0];
  const unsigned char *v = (const unsigned char *)b->w->kv[b->warp][stage][1];
  const uint32_t *seen = b->w->seen[b->warp][stage];
  const uint32_t k_at = swizzled<N>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
  const uint32_t v_at = swizzled<N>(lane % 16, lane / 16);
  float even[2][4] = {}, s[2][4] = {}; /* of every other 16 columns */
  RP_UNROLL
  for (int c = 0; c < N / 16; c++) {
    uint32_t y[4];
    load_matrix_x4(y, k + (k_at ^ (uint32_t)(c * 32)));
    mma_bf16(c % 2 ? s[0] : even[0], q[c], y);
    mma_bf16(c % 2 ? s[1] : even[1], q[c], y + 2);
  }
  RP_UNROLL
  for (int n = 0; n < 2; n++) RP_UNROLL
  for (int e = 0; e < 2; e++) {
    const uint32_t x = seen[8 * n + 2 * p + e];
    const int low = (int)(x & 0xffff), end = (int)(x >> 16);
    RP_UNROLL
    for (int half = 0; half < 2; half++) {
      const int token = b->token[half];
      float *to = &s[n][2 * half + e];
      *to = token < low || token >= end ? -INFINITY : *to + even[n][2 * half + e];
    }
  }
  bool higher = false;
  float fix[2];
  RP_UNROLL
  for (int half = 0; half < 2; half++) {
    float most =
        fmaxf(fmaxf(s[0][2 * half], s[0][2 * half + 1]), fmaxf(s[1][2 * half], s[1][2 * half + 1]));
    most = fmaxf(most, __shfl_xor_sync(RP_ALL_LANES, most, 1));
    most = fmaxf(most, __shfl_xor_sync(RP_ALL_LANES, most, 2));
    most = fmaxf(most, o->max[half]);
    fix[half] = fast_exp2((o->max[half] - most) * scale);
    higher = higher || most > o->max[half];
    o->max[half] = most;
    float part = 0;
    RP_UNROLL
    for (int n = 0; n < 2; n++) RP_UNROLL
    for (int e = 2 * half; e < 2 * half + 2; e++) {
      s[n][e] = fast_exp2(fmaf(s[n][e], scale, -most * scale));
      part += s[n][e];
    }
    o->sum[half] = fmaf(o->sum[half], fix[half], part);
  }
  if (__any_sync(RP_ALL_LANES, higher)) {
    RP_UNROLL
    for (int n = 0; n < N / 8; n++) RP_UNROLL
    for (int e = 0; e < 4; e++) o->o[n][e] *= fix[e / 2];
  }
  uint32_t x[4];
  RP_UNROLL
  for (int e = 0; e < 4; e++) x[e] = bf16x2(s[e / 2][e % 2 * 2 + 1], s[e / 2][e % 2 * 2]);
  RP_UNROLL
  for (int n = 0; n < N / 16; n++) {
    uint32_t y[4];
    load_matrix_x4_trans(y, v + (v_at ^ (uint32_t)(n * 32)));
    mma_bf16(o->o[2 * n], x, y);
    mma_bf16(o->o[2 * n + 1], x, y + 2);
  }
}

/* A warp's sums go where its keys lay. */
template <int N>
RP_DEVICE void leave(const block<N> *b, const sums<N> *s) {
  const int g = b->lane / 4, p = b->lane % 4;
  float *to = (float *)b->w->kv[b->warp];
  __syncwarp();
  RP_UNROLL
  for (int half = 0; half < 2; half++) {
    const int r = g + 8 * half;
    float sum = s->sum[half];
    sum += __shfl_xor_sync(RP_ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(RP_ALL_LANES, sum, 2);
    if (p == 0) {
      b->w->max[b->warp][r] = s->max[half];
      b->w->sum[b->warp][r] = sum;
    }
    RP_UNROLL
    for (int n = 0; n < N / 8; n++)
      *(float2 *)(to + r * N + 8 * n + 2 * p) =
          make_float2(s->o[n][2 * half], s->o[n][2 * half + 1]);
  }
}

template <int N>
RP_DEVICE void attend(const rp_attend_few_args &all) {
  constexpr int WARPS = work<N>::WARPS, STAGES = work<N>::STAGES;
  const rp_attend_args &a = all.op;
  RP_SHARED(work<N>, w);
  const int thread = (int)threadIdx.x, part = (int)(blockIdx.x % (unsigned)all.parts);
  const int64_t its = blockIdx.x / (unsigned)all.parts;
  const unit u = unit_at(all, its);
  const rp_row row = row_at(a.rows, u.row);
  int32_t *made = part == 0 && thread == 0 && all.parts > 1 ? (int32_t *)all.made.at + its : NULL;
  if (row.n > all.few) {
    if (made) *made = 0;
    return;
  }
  const int g = thread % 32 / 4;
  block<N> b = {
      a, w, thread % 32, thread / 32, row, u, row.n * u.heads, {g / u.heads, (g + 8) / u.heads}, 0};
  if (thread == 0)
    find_keys(&w->keys, a, row, pat_at(a.pats, a.pats_stride, row.plan, u.group), u.group, row.pos,
              row.pos + row.n, false);
  uint32_t q[N / 16][4];
  take_queries(&b, q);
  __syncthreads();
  const int32_t count = w->keys.count;
  const int parts = parts_of(all, count);
  if (made) *made = parts;
  if (part >= parts) return;

  /* [first, end) of the part, in sixteens from the first key on, so that one is a block of the cache
   * where it can be */
  const int64_t tiles = (count + KEYS - 1) / KEYS;
  const int32_t first = (int32_t)(tiles * part / parts) * KEYS;
  const int32_t end = rp_min_i32((int32_t)(tiles * (part + 1) / parts) * KEYS, count);
  sums<N> s = {};
  s.max[0] = s.max[1] = -1e30f; /* finite, so that who has seen nothing yet has no NaN */
  const float scale = (float)(a.scale * 1.4426950408889634);
  int32_t sent = first + b.warp * KEYS;
  attend_place next = look_up(&b, sent, end);
  int stage = 0;
  for (; stage < STAGES - 1; stage++) {
    if (sent < end) send_keys(&b, stage, next);
    copies_close_group();
    next = look_up(&b, sent += WARPS * KEYS, end);
  }
  for (int32_t at = first + b.warp * KEYS; at < end; at += WARPS * KEYS) {
    copies_wait<STAGES - 2>();
    __syncwarp();
    if (sent < end) send_keys(&b, stage, next);
    copies_close_group();
    next = look_up(&b, sent += WARPS * KEYS, end);
    stage = stage + 1 < STAGES ? stage + 1 : 0;
    meet(&b, stage, q, scale, &s);
  }
  copies_wait<0>();
  leave(&b, &s);
  __syncthreads();

  for (int i = thread; i < b.queries * a.h; i += 32 * WARPS) {
    const int r = i / a.h, c = i % a.h;
    float most = w->max[0][r], sum = 0, o = 0;
    RP_UNROLL
    for (int j = 1; j < WARPS; j++) most = fmaxf(most, w->max[j][r]);
    RP_UNROLL
    for (int j = 0; j < WARPS; j++) {
      const float f = fast_exp2((w->max[j][r] - most) * scale);
      sum = fmaf(f, w->sum[j][r], sum);
      o = fmaf(f, ((const float *)w->kv[j])[r * N + c], o);
    }
    if (parts > 1) {
      float *to = sums_at(all, its, part, r);
      to[c] = o;
      if (c == 0) to[a.h] = most, to[a.h + 1] = sum;
      continue;
    }
    const int64_t to = out_at(a, row, u, r);
    put_f32((bf16 *)a.out.p.at + to * a.h + c, o * (1 / sum));
    if (a.lse.at && c == 0) ((float *)a.lse.at)[to] = most * (float)a.scale + logf(sum);
  }
}

RP_KERNEL(attend_few_64, rp_attend_few_args, 32 * RP_ATTEND_FEW_WARPS(64)) { attend<64>(a); }
RP_KERNEL(attend_few_128, rp_attend_few_args, 32 * RP_ATTEND_FEW_WARPS(128)) { attend<128>(a); }
RP_KERNEL(attend_few_256, rp_attend_few_args, 32 * RP_ATTEND_FEW_WARPS(256)) { attend<256>(a); }

RP_KERNEL(attend_merge, rp_attend_few_args, RP_ATTEND_MERGE_THREADS) {
  const int64_t its = blockIdx.x / (unsigned)a.queries;
  const int query = (int)(blockIdx.x % (unsigned)a.queries), h = a.op.h;
  const int parts = ((const int32_t *)a.made.at)[its];
  if (parts < 2) return;
  const unit u = unit_at(a, its);
  const rp_row row = row_at(a.op.rows, u.row);
  if (query >= row.n * u.heads) return;
  const float scale = (float)(a.op.scale * 1.4426950408889634);
  const float *from = sums_at(a, its, 0, query);
  const int64_t step = (int64_t)a.queries * (h + 4);
  float most = -INFINITY;
  for (int i = 0; i < parts; i++) most = fmaxf(most, from[i * step + h]);
  const int64_t to = out_at(a.op, row, u, query);
  for (int c = (int)threadIdx.x; c < h; c += RP_ATTEND_MERGE_THREADS) {
    float sum = 0, o = 0;
    for (int i = 0; i < parts; i++) {
      const float f = fast_exp2((from[i * step + h] - most) * scale);
      sum = fmaf(f, from[i * step + h + 1], sum);
      o = fmaf(f, from[i * step + c], o);
    }
    put_f32((bf16 *)a.op.out.p.at + to * h + c, o * (1 / sum));
    if (a.op.lse.at && c == 0) ((float *)a.op.lse.at)[to] = most * (float)a.op.scale + logf(sum);
  }
}
