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

enum { DIGITS = 1 << RP_EMBED_BITS, SORT_WARPS = SORT / 32 };
struct entry {
  int32_t id, token;
};

RP_DEVICE entry entry_at(const rp_embed_sort &a, int32_t i) {
  if (a.from.at) return ((const entry *)a.from.at)[i];
  return {((const int32_t *)a.ids.at)[i], i};
}
RP_DEVICE unsigned digit_of(const rp_embed_sort &a, int32_t id) {
  return (unsigned)id >> a.shift & ((1u << a.bits) - 1);
}
/* Tokens [*from, *to) of a warp. */
RP_DEVICE void warp_part(const rp_embed_sort &a, int32_t *from, int32_t *to) {
  enum { EACH = RP_EMBED_SORT_TILE / SORT_WARPS };
  *from = (int32_t)(blockIdx.x * RP_EMBED_SORT_TILE + threadIdx.x / 32 * EACH);
  *to = min(*from + EACH, a.n);
}
/* The lanes that have this lane's digit. */
RP_DEVICE unsigned lanes_of(const rp_embed_sort &a, unsigned digit, bool in) {
  unsigned same = __ballot_sync(RP_ALL_LANES, in);
  for (int b = 0; b < a.bits; b++) {
    const unsigned set = __ballot_sync(RP_ALL_LANES, digit >> b & 1);
    same &= digit >> b & 1 ? set : ~set;
  }
  return same;
}
/* count[warp][digit] of the block's tokens. */
RP_DEVICE void count_digits(const rp_embed_sort &a, int32_t (*count)[DIGITS]) {
  const unsigned lane = threadIdx.x % 32;
  int32_t *mine = count[threadIdx.x / 32], from, to;
  for (int i = (int)lane; i < 1 << a.bits; i += 32) mine[i] = 0;
  __syncwarp();
  warp_part(a, &from, &to);
  for (int32_t i = from; i < to; i += 32) {
    const bool in = i + (int32_t)lane < to;
    const unsigned digit = in ? digit_of(a, entry_at(a, i + (int32_t)lane).id) : 0;
    const unsigned same = lanes_of(a, digit, in);
    if (in && !(same & ((1u << lane) - 1))) mine[digit] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
}

RP_KERNEL(embed_sort_count, rp_embed_sort, SORT) {
  __shared__ int32_t count[SORT_WARPS][DIGITS];
  count_digits(a, count);
  for (int i = (int)threadIdx.x; i < 1 << a.bits; i += SORT) {
    int32_t sum = 0;
    for (int w = 0; w < SORT_WARPS; w++) sum += count[w][i];
    ((int32_t *)a.count.at)[((int64_t)blockIdx.x << a.bits) + i] = sum;
  }
}

/* Where digit i of this block's warps begins: behind all smaller digits, and the same in blocks before. */
RP_KERNEL(embed_sort_move, rp_embed_sort, SORT) {
  __shared__ int32_t count[SORT_WARPS][DIGITS], all[DIGITS], sums[SORT];
  const unsigned lane = threadIdx.x % 32;
  const int digits = 1 << a.bits, each = (digits + SORT - 1) / SORT;
  const int32_t *counted = (const int32_t *)a.count.at;
  count_digits(a, count);
  int32_t mine = 0;
  for (int k = 0; k < each; k++) {
    const int i = (int)threadIdx.x * each + k;
    if (i >= digits) break;
    int32_t before = 0, total = 0;
    for (int32_t t = 0; t < a.tiles; t++) {
      const int32_t x = counted[((int64_t)t << a.bits) + i];
      total += x;
      if (t < (int32_t)blockIdx.x) before += x;
    }
    for (int w = 0; w < SORT_WARPS; w++) {
      const int32_t x = count[w][i];
      count[w][i] = before;
      before += x;
    }
    all[i] = mine;
    mine += total;
  }
  int32_t sum = mine;
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned step = 1; step < SORT; step *= 2) {
    if (threadIdx.x >= step) sum += sums[threadIdx.x - step];
    __syncthreads();
    sums[threadIdx.x] = sum;
    __syncthreads();
  }
  for (int k = 0; k < each; k++) {
    const int i = (int)threadIdx.x * each + k;
    if (i >= digits) break;
    for (int w = 0; w < SORT_WARPS; w++) count[w][i] += all[i] + sum - mine;
  }
  __syncthreads();
  int32_t *next = count[threadIdx.x / 32], from, to;
  warp_part(a, &from, &to);
  for (int32_t i = from; i < to; i += 32) {
    const bool in = i + (int32_t)lane < to;
    const entry e = in ? entry_at(a, i + (int32_t)lane) : entry{0, 0};
    const unsigned digit = digit_of(a, e.id), same = lanes_of(a, digit, in);
    const unsigned before = same & ((1u << lane) - 1);
    const int32_t at = in ? next[digit] + __popc(before) : 0;
    __syncwarp();
    if (in && !before) next[digit] += __popc(same);
    if (in) ((entry *)a.to.at)[at] = e;
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
  const entry *sorted = (const entry *)a.sorted.at;
  const int64_t d = a.op.d, col = (int64_t)blockIdx.y * THREADS + threadIdx.x;
  const int64_t end = ((int64_t)blockIdx.x + 1) * TILE; /* of the tile */
  if (end >= a.op.n || sorted[end - 1].id != sorted[end].id) return;
  const int32_t id = sorted[end].id;
  if (blockIdx.x && sorted[end - TILE].id == id && sorted[end - TILE - 1].id == id) return;
  if (col >= d) return;
  const float *part = (const float *)a.part.at + (int64_t)blockIdx.x * 2 * d + col;
  float sum = part[d];
  for (int64_t at = end; at < a.op.n && sorted[at].id == id; at += TILE) {
    part += 2 * d;
    sum += part[0];
  }
  ((float *)a.op.dtable.p.at)[id * d + col] += sum;
}
