/* embed.cu - rows of the table, and their gradients. */
#include "ops/cuda/kernel/embed.h"
#include "ops/cuda/kernel/wide.h"

enum { THREADS = RP_EMBED_THREADS, SORT = RP_EMBED_SORT, TILE = RP_EMBED_TILE };

template <class T>
RP_DEVICE void embed_body(const rp_embed_args &a) {
  enum { EACH = RP_EMBED_EACH };
  const int64_t row = blockIdx.x, id = ((const int32_t *)a.ids.at)[row];
  const T *from = (const T *)a.table.p.at + id * a.d;
  float *to = (float *)a.x.p.at + row * a.d;
  const int64_t first = ((int64_t)blockIdx.y * EACH * THREADS + threadIdx.x) * 4;
  float x[EACH][4];
  RP_UNROLL
  for (int i = 0; i < EACH; i++)
    if (first + i * THREADS * 4 < a.d) load(x[i], from + first + i * THREADS * 4);
  RP_UNROLL
  for (int i = 0; i < EACH; i++)
    if (first + i * THREADS * 4 < a.d) store(to + first + i * THREADS * 4, x[i]);
}
RP_KERNEL(embed_f32, rp_embed_args, THREADS) { embed_body<float>(a); }
RP_KERNEL(embed_bf16, rp_embed_args, THREADS) { embed_body<bf16>(a); }

RP_KERNEL(embed_any, rp_embed_args, THREADS) {
  const int64_t row = blockIdx.x, id = ((const int32_t *)a.ids.at)[row];
  const int64_t col = (int64_t)blockIdx.y * THREADS + threadIdx.x, at = id * a.d + col;
  if (col >= a.d) return;
  float *to = (float *)a.x.p.at + row * a.d + col;
  if (a.table.dtype == RP_F64)
    *to = (float)((const double *)a.table.p.at)[at];
  else if (a.table.dtype == RP_BF16)
    *to = to_f32(((const bf16 *)a.table.p.at)[at]);
  else
    *to = ((const float *)a.table.p.at)[at];
}

/* ---- sort by one digit ---- */

enum {
  DIGITS = 1 << RP_EMBED_BITS,
  SORT_WARPS = SORT / 32,
  LANE_TOKENS = RP_EMBED_SORT_TILE / SORT
};
struct entry {
  int32_t id, token;
};

/* The tokens of a warp: token i of this lane is the warp's (32 i + lane)th. */
struct warp_part {
  entry e[LANE_TOKENS];
  bool in[LANE_TOKENS];
  unsigned digit[LANE_TOKENS], same[LANE_TOKENS]; /* same: the lanes that have this lane's digit */
};

/* The lanes before this one. */
RP_DEVICE unsigned lanes_before() { return (1u << threadIdx.x % 32) - 1; }

/* count[warp][digit] of the block's tokens. */
RP_DEVICE void count_digits(const rp_embed_sort &a, int32_t (*count)[DIGITS], warp_part *w) {
  const int32_t first = (int32_t)(blockIdx.x * RP_EMBED_SORT_TILE +
                                  threadIdx.x / 32 * 32 * LANE_TOKENS + threadIdx.x % 32);
  int32_t *mine = count[threadIdx.x / 32];
  RP_UNROLL
  for (int i = 0; i < LANE_TOKENS; i++) {
    const int32_t at = first + i * 32;
    w->in[i] = at < a.n;
    w->e[i] = {0, at};
    if (w->in[i] && a.from.at)
      w->e[i] = ((const entry *)a.from.at)[at];
    else if (w->in[i])
      w->e[i].id = ((const int32_t *)a.ids.at)[at];
  }
  for (int i = (int)threadIdx.x % 32; i < 1 << a.bits; i += 32) mine[i] = 0;
  __syncwarp();
  RP_UNROLL
  for (int i = 0; i < LANE_TOKENS; i++) {
    const unsigned digit = (unsigned)w->e[i].id >> a.shift & ((1u << a.bits) - 1);
    unsigned same = __ballot_sync(RP_ALL_LANES, w->in[i]);
    for (int b = 0; b < a.bits; b++) {
      const unsigned set = __ballot_sync(RP_ALL_LANES, digit >> b & 1);
      same &= digit >> b & 1 ? set : ~set;
    }
    w->digit[i] = digit;
    w->same[i] = same;
    if (w->in[i] && !(same & lanes_before())) mine[digit] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
}

RP_KERNEL(embed_sort_count, rp_embed_sort, SORT) {
  __shared__ int32_t count[SORT_WARPS][DIGITS];
  warp_part mine;
  count_digits(a, count, &mine);
  for (int i = (int)threadIdx.x; i < 1 << a.bits; i += SORT) {
    int32_t sum = 0;
    for (int w = 0; w < SORT_WARPS; w++) sum += count[w][i];
    ((int32_t *)a.count.at)[((int64_t)blockIdx.x << a.bits) + i] = sum;
  }
}

/* How many tokens have `digit`, and (in the lower sum) in how many blocks before this one. */
RP_DEVICE int32_t count_all(const rp_embed_sort &a, int digit, int32_t *before) {
  enum { EACH = 16 };
  const int32_t *counted = (const int32_t *)a.count.at + digit, here = (int32_t)blockIdx.x;
  int32_t total = 0;
  *before = 0;
  for (int32_t t = 0; t < a.tiles; t += EACH) {
    int32_t x[EACH];
    RP_UNROLL
    for (int k = 0; k < EACH; k++) x[k] = t + k < a.tiles ? counted[(int64_t)(t + k) << a.bits] : 0;
    RP_UNROLL
    for (int k = 0; k < EACH; k++) {
      total += x[k];
      if (t + k < here) *before += x[k];
    }
  }
  return total;
}

/* The sums of x of the threads before. */
RP_DEVICE int32_t sum_before(int32_t x) {
  __shared__ int32_t sums[SORT];
  int32_t sum = x;
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned step = 1; step < SORT; step *= 2) {
    if (threadIdx.x >= step) sum += sums[threadIdx.x - step];
    __syncthreads();
    sums[threadIdx.x] = sum;
    __syncthreads();
  }
  return sum - x;
}

/* A digit's tokens of a warp go behind all smaller digits, the same in blocks before and in warps before. */
RP_KERNEL(embed_sort_move, rp_embed_sort, SORT) {
  enum { EACH = DIGITS / SORT };
  __shared__ int32_t count[SORT_WARPS][DIGITS];
  warp_part mine;
  count_digits(a, count, &mine);
  int32_t total[EACH], before[EACH], sum = 0;
  RP_UNROLL
  for (int k = 0; k < EACH; k++) {
    const int digit = (int)threadIdx.x * EACH + k;
    total[k] = before[k] = 0;
    if (digit < 1 << a.bits) total[k] = count_all(a, digit, &before[k]);
    sum += total[k];
  }
  int32_t at = sum_before(sum);
  RP_UNROLL
  for (int k = 0; k < EACH; k++) {
    const int digit = (int)threadIdx.x * EACH + k;
    int32_t to = at + before[k];
    at += total[k];
    for (int w = 0; w < SORT_WARPS && digit < 1 << a.bits; w++) {
      const int32_t x = count[w][digit];
      count[w][digit] = to;
      to += x;
    }
  }
  __syncthreads();
  int32_t *next = count[threadIdx.x / 32];
  RP_UNROLL
  for (int i = 0; i < LANE_TOKENS; i++) {
    const unsigned ahead = mine.same[i] & lanes_before();
    const int32_t to = next[mine.digit[i]] + __popc(ahead);
    __syncwarp();
    if (mine.in[i]) ((entry *)a.to.at)[to] = mine.e[i];
    if (mine.in[i] && !ahead) next[mine.digit[i]] += __popc(mine.same[i]);
    __syncwarp();
  }
}

/* ---- gradients of the table ---- */

/* The tokens of a tile, and one on each side: list[0] is the one before, with id -1 where there is none. */
RP_DEVICE int load_tile(const rp_embed_tiles &a, entry *list) {
  const int32_t from = (int32_t)blockIdx.x * TILE, n = min((int32_t)TILE, a.op.n - from);
  const entry *sorted = (const entry *)a.sorted.at;
  for (int i = (int)threadIdx.x; i < n + 2; i += THREADS) {
    const int32_t at = from + i - 1;
    list[i] = at < 0 || at >= a.op.n ? entry{-1, 0} : sorted[at];
  }
  __syncthreads();
  return n;
}

template <int V>
RP_DEVICE void bwd_tile(const rp_embed_tiles &a) {
  enum { EACH = V == 1 ? 4 : 8 };
  __shared__ entry list[TILE + 2];
  const int n = load_tile(a, list);
  const int64_t d = a.op.d, col = ((int64_t)blockIdx.y * THREADS + threadIdx.x) * V;
  if (col >= d) return;
  const float *dx = (const float *)a.op.dx.p.at + col;
  float *table = (float *)a.op.dtable.p.at + col;
  float *part = (float *)a.part.at + (int64_t)blockIdx.x * 2 * d + col;
  float sum[V] = {};
  bool whole = list[0].id != list[1].id; /* the run began in this tile */
  for (int i = 0; i < n; i += EACH) {
    float x[EACH][V], was[EACH][V];
    RP_UNROLL
    for (int k = 0; k < EACH; k++) {
      const entry *e = list + 1 + i + k;
      if (i + k < n) load(x[k], dx + e->token * d);
      if (i + k < n && e[0].id != e[1].id) load(was[k], table + e->id * d);
    }
    RP_UNROLL
    for (int k = 0; k < EACH; k++) {
      const entry *e = list + 1 + i + k;
      if (i + k >= n) break;
      RP_UNROLL
      for (int j = 0; j < V; j++) sum[j] += x[k][j];
      const bool ends = e[0].id != e[1].id;
      if (ends && whole) {
        RP_UNROLL
        for (int j = 0; j < V; j++) sum[j] += was[k][j];
        store(table + e->id * d, sum);
      } else if (ends) {
        store(part, sum);
      } else if (i + k == n - 1) {
        store(part + (whole ? d : 0), sum);
      }
      if (!ends) continue;
      whole = true;
      RP_UNROLL
      for (int j = 0; j < V; j++) sum[j] = 0;
    }
  }
}
RP_KERNEL(embed_bwd_tile, rp_embed_tiles, THREADS) { bwd_tile<4>(a); }
RP_KERNEL(embed_bwd_tile_any, rp_embed_tiles, THREADS) { bwd_tile<1>(a); }

/* A run that leaves the tile it began in: its part there, and those of the tiles behind that it reaches. */
RP_KERNEL(embed_bwd_join, rp_embed_tiles, THREADS) {
  enum { EACH = 8 };
  const entry *sorted = (const entry *)a.sorted.at;
  const int64_t d = a.op.d, col = (int64_t)blockIdx.y * THREADS + threadIdx.x;
  const int64_t end = ((int64_t)blockIdx.x + 1) * TILE; /* of the tile */
  if (end >= a.op.n || sorted[end - 1].id != sorted[end].id) return;
  const int32_t id = sorted[end].id;
  if (blockIdx.x && sorted[end - TILE].id == id && sorted[end - TILE - 1].id == id) return;
  if (col >= d) return;
  const float *part = (const float *)a.part.at + (int64_t)blockIdx.x * 2 * d + col;
  float sum = part[d];
  bool more = true;
  for (int64_t at = end; more; at += EACH * TILE) {
    float x[EACH];
    RP_UNROLL
    for (int i = 0; i < EACH; i++) {
      part += 2 * d;
      const int64_t first = at + i * TILE;
      more = more && first < a.op.n && sorted[min(first, (int64_t)a.op.n - 1)].id == id;
      x[i] = more ? part[0] : 0;
    }
    RP_UNROLL
    for (int i = 0; i < EACH; i++) sum += x[i];
  }
  ((float *)a.op.dtable.p.at)[id * d + col] += sum;
}
