/* attend_tile.cu - attention of many queries in bfloat16, on tensor cores.
 *
 * Four warps, each with 16 MT queries of the tile, meet the tile's keys KEYS at a time (Dao, FlashAttention-2,
 * arXiv 2307.08691). The keys come by asynchronous copies, row by row from wherever they lie, so that a tile of
 * them is full however far apart they are: while one is multiplied the next is under way, and the
 * places of the one behind it are looked up. Scores are kept in powers of 2. */
#include "ops/cuda/kernel/attend_tile.h"

#include "ops/cuda/kernel/attend_keys.h"

enum { WARPS = RP_ATTEND_TILE_THREADS / 32 };

template <int N>
struct work {
  static constexpr int TILE = RP_ATTEND_TILE_QUERIES(N), KEYS = RP_ATTEND_TILE_KEYS(N);
  bf16 q[TILE * N], k[2][KEYS * N], v[2][KEYS * N];
  uintptr_t at[2][KEYS];  /* attend_place, of key tiles 2i, 2i + 1 */
  uint32_t seen[3][KEYS]; /* of key tiles 3i .. */
  attend_keys keys;
};
static_assert(sizeof(attend_keys) <= 384 && sizeof(work<64>) <= RP_ATTEND_TILE_SHARED(64) &&
                  sizeof(work<128>) <= RP_ATTEND_TILE_SHARED(128) &&
                  sizeof(work<256>) <= RP_ATTEND_TILE_SHARED(256),
              "shared memory");

template <int N>
struct block {
  static constexpr int TILE = work<N>::TILE, KEYS = work<N>::KEYS, MT = TILE / WARPS / 16;
  static constexpr int CHUNKS = N / 8; /* 16 bytes of a row */
  const rp_attend_args &a;
  work<N> *w;
  int lane, warp;
  rp_row row;
  int32_t from, nq, t0; /* the tile's first query in the row, how many; its position */
  int head, group, segment;
};

/* Key j, for the thread that looks it up. */
template <int N>
RP_DEVICE attend_place look_up(block<N> *b, int32_t j) {
  const attend_keys *keys = &b->w->keys;
  if (j >= keys->count) return {0, RP_ATTEND_UNSEEN};
  return place_of_key<bf16>(keys, &b->segment, j, b->a, b->row.tok, b->group, b->t0, b->nq);
}

/* Keys and values of tile `i` are on their way. */
template <int N>
RP_DEVICE void send_keys(const block<N> *b, int i) {
  constexpr int CHUNKS = block<N>::CHUNKS, KEYS = block<N>::KEYS;
  const int chunk = (int)threadIdx.x % CHUNKS, first = (int)threadIdx.x / CHUNKS;
  const int64_t fresh = to_value<bf16>(b->a, true), cached = to_value<bf16>(b->a, false);
  unsigned char *k = (unsigned char *)b->w->k[i % 2], *v = (unsigned char *)b->w->v[i % 2];
  RP_UNROLL
  for (int r = first; r < KEYS; r += RP_ATTEND_TILE_THREADS / CHUNKS) {
    const uintptr_t at = b->w->at[i % 2][r];
    const unsigned char *from = (const unsigned char *)(at & ~(uintptr_t)1) + 16 * chunk;
    const int bytes = at && chunk * 8 < b->a.h ? 16 : 0;
    copy_async_16(k + swizzled<N>(r, chunk), bytes ? from : (const unsigned char *)b->a.k.p.at,
                  bytes);
    copy_async_16(v + swizzled<N>(r, chunk),
                  bytes ? from + (at & 1 ? fresh : cached) : (const unsigned char *)b->a.v.p.at,
                  bytes);
  }
  copies_close_group();
}

/* A warp's own queries. */
template <int N>
RP_DEVICE void send_queries(const block<N> *b) {
  constexpr int CHUNKS = block<N>::CHUNKS, ROWS = 16 * block<N>::MT;
  const bf16 *q = (const bf16 *)b->a.q.p.at;
  for (int i = b->lane; i < ROWS * CHUNKS; i += 32) {
    const int r = b->warp * ROWS + i / CHUNKS, chunk = i % CHUNKS;
    const bool there = r < b->nq && chunk * 8 < b->a.h;
    const int64_t at =
        ((int64_t)(b->row.tok + b->from + r) * b->a.H + b->head) * b->a.h + chunk * 8;
    copy_async_16((unsigned char *)b->w->q + swizzled<N>(r, chunk), there ? q + at : q,
                  there ? 16 : 0);
  }
  copies_close_group();
}

template <int N>
struct sums {
  static constexpr int MT = block<N>::MT;
  float o[MT][N / 8][4];        /* as mma_bf16 has its c */
  float max[MT][2], sum[MT][2]; /* of queries g, g + 8; the sum is this lane's part */
};

/* What every query sees of itself where the pattern has no window: one score, and the sums begin with it. */
template <int N>
RP_DEVICE void own_keys(const block<N> *b, sums<N> *s) {
  const rp_attend_args &a = b->a;
  const int g = b->lane / 4, p = b->lane % 4;
  const unsigned char *q = (const unsigned char *)b->w->q;
  RP_UNROLL
  for (int m = 0; m < block<N>::MT; m++) RP_UNROLL
  for (int half = 0; half < 2; half++) {
    const int r = (b->warp * block<N>::MT + m) * 16 + half * 8 + g;
    const bool has = r >= b->w->keys.own && r < b->w->keys.own_end;
    const int64_t at = ((int64_t)(b->row.tok + b->from + r) * a.Hk + b->group) * a.h;
    const bf16 *k = (const bf16 *)a.k.p.at + at, *v = (const bf16 *)a.v.p.at + at;
    float score = 0;
    RP_UNROLL
    for (int c = 0; c < N / 8; c++) {
      const bool there = has && c * 8 < a.h;
      const uint32_t x = *(const uint32_t *)(q + swizzled<N>(r, c) + 4 * p);
      const uint32_t y = there ? *(const uint32_t *)(k + c * 8 + 2 * p) : 0;
      const uint32_t z = there ? *(const uint32_t *)(v + c * 8 + 2 * p) : 0;
      if (there) score = fmaf(high_f32(x), high_f32(y), fmaf(low_f32(x), low_f32(y), score));
      s->o[m][c][2 * half] = low_f32(z);
      s->o[m][c][2 * half + 1] = high_f32(z);
    }
    score += __shfl_xor_sync(RP_ALL_LANES, score, 1);
    score += __shfl_xor_sync(RP_ALL_LANES, score, 2);
    if (has) {
      s->max[m][half] = score;
      s->sum[m][half] = p ? 0 : 1;
    }
  }
}

/* The warp's queries meet key tile i. */
template <int N>
RP_DEVICE void meet(const block<N> *b, int i, float scale, sums<N> *o) {
  constexpr int MT = block<N>::MT, KEYS = block<N>::KEYS, ROWS = 16 * MT;
  const int lane = b->lane, g = lane / 4, p = lane % 4, first = b->warp * ROWS;
  const uint32_t *seen = b->w->seen[i % 3];
  bool some = false, all = true;
  RP_UNROLL
  for (int j = 0; j < KEYS; j += 32) {
    const int low = (int)(seen[j + lane] & 0xffff), end = (int)(seen[j + lane] >> 16);
    some = some || (low < first + ROWS && end > first);
    all = all && low <= first && end >= rp_min_i32(first + ROWS, b->nq);
  }
  if (!__any_sync(RP_ALL_LANES, some)) return;
  const bool masks = __any_sync(RP_ALL_LANES, !all);

  const unsigned char *q = (const unsigned char *)b->w->q + first * 2 * N;
  const unsigned char *k = (const unsigned char *)b->w->k[i % 2];
  const unsigned char *v = (const unsigned char *)b->w->v[i % 2];
  const uint32_t q_at = swizzled<N>(lane % 16, lane / 16);
  const uint32_t k_at = swizzled<N>(lane % 8 + lane / 16 * 8, lane / 8 % 2);
  float s[MT][KEYS / 8][4] = {};
  RP_UNROLL
  for (int c = 0; c < N / 16; c++) {
    uint32_t x[MT][4];
    RP_UNROLL
    for (int m = 0; m < MT; m++) load_matrix_x4(x[m], q + (q_at ^ (uint32_t)(c * 32)) + m * 32 * N);
    RP_UNROLL
    for (int n = 0; n < KEYS / 16; n++) {
      uint32_t y[4];
      load_matrix_x4(y, k + (k_at ^ (uint32_t)(c * 32)) + n * 32 * N);
      RP_UNROLL
      for (int m = 0; m < MT; m++) {
        mma_bf16(s[m][2 * n], x[m], y);
        mma_bf16(s[m][2 * n + 1], x[m], y + 2);
      }
    }
  }

  if (masks) {
    RP_UNROLL
    for (int n = 0; n < KEYS / 8; n++) RP_UNROLL
    for (int e = 0; e < 2; e++) {
      const uint32_t x = seen[8 * n + 2 * p + e];
      const int low = (int)(x & 0xffff) - first - g, end = (int)(x >> 16) - first - g;
      RP_UNROLL
      for (int m = 0; m < MT; m++) RP_UNROLL
      for (int half = 0; half < 2; half++) {
        const int r = 16 * m + 8 * half;
        if (r < low || r >= end) s[m][n][2 * half + e] = -INFINITY;
      }
    }
  }

  bool higher = false;
  float fix[MT][2];
  RP_UNROLL
  for (int m = 0; m < MT; m++) RP_UNROLL
  for (int half = 0; half < 2; half++) {
    float most = o->max[m][half], part = 0;
    RP_UNROLL
    for (int n = 0; n < KEYS / 8; n++)
      most = fmaxf(most, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
    most = fmaxf(most, __shfl_xor_sync(RP_ALL_LANES, most, 1));
    most = fmaxf(most, __shfl_xor_sync(RP_ALL_LANES, most, 2));
    fix[m][half] = fast_exp2((o->max[m][half] - most) * scale);
    higher = higher || most > o->max[m][half];
    o->max[m][half] = most;
    const float less = most * scale;
    RP_UNROLL
    for (int n = 0; n < KEYS / 8; n++) RP_UNROLL
    for (int e = 2 * half; e < 2 * half + 2; e++) {
      s[m][n][e] = fast_exp2(fmaf(s[m][n][e], scale, -less));
      part += s[m][n][e];
    }
    o->sum[m][half] = fmaf(o->sum[m][half], fix[m][half], part);
  }
  if (__any_sync(RP_ALL_LANES, higher)) {
    RP_UNROLL
    for (int m = 0; m < MT; m++) RP_UNROLL
    for (int n = 0; n < N / 8; n++) RP_UNROLL
    for (int e = 0; e < 4; e++) o->o[m][n][e] *= fix[m][e / 2];
  }

  const uint32_t v_at = swizzled<N>(lane % 16, lane / 16);
  RP_UNROLL
  for (int c = 0; c < KEYS / 16; c++) {
    uint32_t x[MT][4];
    RP_UNROLL
    for (int m = 0; m < MT; m++) RP_UNROLL
    for (int e = 0; e < 4; e++) {
      const float *from = &s[m][2 * c + e / 2][e % 2 * 2];
      x[m][e] = bf16x2(from[1], from[0]);
    }
    RP_UNROLL
    for (int n = 0; n < N / 16; n++) {
      uint32_t y[4];
      load_matrix_x4_trans(y, v + (v_at ^ (uint32_t)(n * 32)) + c * 32 * N);
      RP_UNROLL
      for (int m = 0; m < MT; m++) {
        mma_bf16(o->o[m][2 * n], x[m], y);
        mma_bf16(o->o[m][2 * n + 1], x[m], y + 2);
      }
    }
  }
}

/* The warp's queries are done: through the place where they lay, so that whole rows are written. */
template <int N>
RP_DEVICE void put_out(const block<N> *b, double scale, sums<N> *s) {
  constexpr int MT = block<N>::MT, ROWS = 16 * MT, CHUNKS = block<N>::CHUNKS;
  const rp_attend_args &a = b->a;
  const int g = b->lane / 4, p = b->lane % 4, first = b->warp * ROWS;
  unsigned char *to = (unsigned char *)b->w->q;
  __syncwarp();
  RP_UNROLL
  for (int m = 0; m < MT; m++) RP_UNROLL
  for (int half = 0; half < 2; half++) {
    float sum = s->sum[m][half];
    sum += __shfl_xor_sync(RP_ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(RP_ALL_LANES, sum, 2);
    const float r = 1 / sum;
    const int query = first + 16 * m + 8 * half + g;
    if (a.lse.at && p == 0 && query < b->nq)
      ((float *)a.lse.at)[(int64_t)(b->row.tok + b->from + query) * a.H + b->head] =
          s->max[m][half] * (float)scale + logf(sum);
    RP_UNROLL
    for (int c = 0; c < CHUNKS; c++)
      *(uint32_t *)(to + swizzled<N>(query, c) + 4 * p) =
          bf16x2(s->o[m][c][2 * half + 1] * r, s->o[m][c][2 * half] * r);
  }
  __syncwarp();
  for (int i = b->lane; i < ROWS * CHUNKS; i += 32) {
    const int query = first + i / CHUNKS, chunk = i % CHUNKS;
    if (query >= b->nq || chunk * 8 >= a.h) continue;
    const int64_t at = ((int64_t)(b->row.tok + b->from + query) * a.H + b->head) * a.h + chunk * 8;
    *(uint4 *)((bf16 *)a.out.p.at + at) = *(const uint4 *)(to + swizzled<N>(query, chunk));
  }
}

template <int N>
RP_DEVICE void attend(const rp_attend_tile_args &all) {
  constexpr int TILE = block<N>::TILE, KEYS = block<N>::KEYS, MT = block<N>::MT;
  const rp_attend_args &a = all.op;
  RP_SHARED(work<N>, w);
  const int thread = (int)threadIdx.x;
  const attend_tile tile = find_tile(a.rows, all.few, TILE, (int32_t)(blockIdx.x / (unsigned)a.H));
  if (tile.row < 0) return;
  const rp_row row = row_at(a.rows, tile.row);
  const int32_t from = tile.tile * TILE;
  const int head = (int)(blockIdx.x % (unsigned)a.H);
  block<N> b = {a,
                w,
                thread % 32,
                thread / 32,
                row,
                from,
                rp_min_i32(row.n - from, TILE),
                row.pos + from,
                head,
                head / (a.H / a.Hk),
                0};
  send_queries(&b);
  if (thread == 0)
    find_keys(&w->keys, a, b.row, pat_at(a.pats, a.pats_stride, b.row.plan, b.group), b.group, b.t0,
              b.t0 + b.nq, true);
  __syncthreads();
  if (thread < KEYS) RP_UNROLL
  for (int i = 0; i < 2; i++) {
    const attend_place f = look_up(&b, i * KEYS + thread);
    w->at[i][thread] = f.at;
    w->seen[i][thread] = f.seen;
  }
  __syncthreads();
  const int tiles = (w->keys.count + KEYS - 1) / KEYS;
  send_keys(&b, 0);

  sums<N> s;
  RP_UNROLL
  for (int m = 0; m < MT; m++) {
    s.max[m][0] = s.max[m][1] = -1e30f; /* finite, so that who has seen nothing yet has no NaN */
    s.sum[m][0] = s.sum[m][1] = 0;
    RP_UNROLL
    for (int c = 0; c < N / 8; c++) s.o[m][c][0] = s.o[m][c][1] = s.o[m][c][2] = s.o[m][c][3] = 0;
  }
  copies_wait<1>();
  __syncwarp();
  if (w->keys.own_end > w->keys.own) own_keys(&b, &s);

  const float scale = (float)(a.scale * 1.4426950408889634);
  for (int i = 0; i < tiles; i++) {
    copies_wait<0>();
    __syncthreads();
    if (i + 1 < tiles) send_keys(&b, i + 1);
    attend_place f = {0, RP_ATTEND_UNSEEN};
    if (thread < KEYS) f = look_up(&b, (i + 2) * KEYS + thread);
    meet(&b, i, scale, &s);
    if (thread < KEYS) {
      w->at[i % 2][thread] = f.at;
      w->seen[(i + 2) % 3][thread] = f.seen;
    }
  }
  copies_wait<0>();
  put_out(&b, a.scale, &s);
}

RP_KERNEL(attend_tile_64, rp_attend_tile_args, RP_ATTEND_TILE_THREADS) { attend<64>(a); }
RP_KERNEL(attend_tile_128, rp_attend_tile_args, RP_ATTEND_TILE_THREADS) { attend<128>(a); }
RP_KERNEL(attend_tile_256, rp_attend_tile_args, RP_ATTEND_TILE_THREADS) { attend<256>(a); }
