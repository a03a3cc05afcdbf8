/* hopper.cu - attention on GPUs of compute capability 9.0: bfloat16, heads of 128.
 *
 * A block takes one item after the other: 128 queries of one row and head. Of its three warpgroups the first
 * brings keys and values, the two others have 64 queries each and take turns, so that the products of one run
 * while the other is at its softmax; within each, the next scores are made while it is at the softmax of the last.
 *
 * All keys that an item sees are one list, whatever segments they are in: tiles of KEYS of the list, gathered
 * row by row, are what the products meet. With each key comes which of the queries see it, and with each 32
 * whether that needs to be looked at. */
#include "ops/cuda/kernel/hopper.h"
#include "ops/cuda/kernel/lane.h"

#if defined(RP_EMULATE) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

#include "ops/cuda/kernel/wgmma.h"

#define RP_NONE (-INFINITY)

namespace {

enum { QUERIES = RP_HOPPER_QUERIES, KEYS = 128, STAGES = 3, WIDE = 128, LOADERS = 3, GATHER = 32 };
enum { HALF = 128 };          /* bytes of half a row, which lie together */
enum { L2_BYTES = 32 << 20 }; /* of the keys and values that are read at the same time */

/* What the planner tells of an item. */
struct plan {
  int32_t tiles;   /* of keys; -1: there are no more items */
  int32_t from;    /* position of its first query */
  int32_t queries; /* how many there are, <= QUERIES */
  int32_t token;   /* of the call: its first query */
  int32_t row;     /* token of the row's first */
  int32_t head, group;
  int32_t own_from, own_to; /* of the queries those that see themselves apart from the list */
  int32_t keys;             /* of the list */
  const int32_t *table[2];  /* of KEPT and RING */
  int32_t end[RP_SEGS_MAX]; /* entries of the list before the end of each segment */
  rp_seg seg[RP_SEGS_MAX];
};

struct shared {
  unsigned char q[QUERIES * 2 * HALF];
  unsigned char k[STAGES][KEYS * 2 * HALF], v[STAGES][KEYS * 2 * HALF];
  uint32_t see[STAGES][KEYS]; /* of the queries those from the low half to below the high one */
  uint32_t partly[STAGES][KEYS / GATHER]; /* bit w: warpgroup w has to look at `see` */
  plan plans[2];
  uint64_t planned[2], plan_read[2]; /* gates: filled, free */
  uint64_t q_there, q_read, k_there[STAGES], k_read[STAGES], v_there[STAGES], v_read[STAGES];
};

struct place {
  int stage;
  uint32_t turn;
};
RP_DEVICE void step(place *p, int stages) {
  if (++p->stage == stages) {
    p->stage = 0;
    p->turn ^= 1;
  }
}

RP_DEVICE int lane_of() { return (int)(threadIdx.x % 32); }
/* What a warp has in common, told to the compiler, which then keeps it in uniform registers. */
RP_DEVICE int same(int x) { return __shfl_sync(RP_ALL_LANES, x, 0); }
RP_DEVICE uint32_t same_at(const void *p) { return (uint32_t)same((int)shared_at(p)); }

/* ---- the planner: one warp ---- */

/* Which row an item is of, and which of the row's; row -1: there are no more. Rows follow each other, then
 * groups of heads whose keys stay in the L2 cache together, then tiles of queries, the longest first. */
struct item {
  int32_t row, head, tile;
};
RP_DEVICE item find_item(const rp_attend_args &a, int32_t few, int32_t at) {
  const rp_row *rows = (const rp_row *)a.rows.row.at;
  for (int32_t r = 0; r < a.rows.count; r += 32) {
    const int32_t mine = r + lane_of();
    const int32_t n = mine < a.rows.count ? rows[mine].n : 0;
    const int32_t tiles = n > few ? (n + QUERIES - 1) / QUERIES : 0;
    int32_t sum = tiles * a.H;
    for (int i = 1; i < 32; i *= 2) {
      const int32_t x = __shfl_up_sync(RP_ALL_LANES, sum, i);
      if (lane_of() >= i) sum += x;
    }
    const int from = __popc(__ballot_sync(RP_ALL_LANES, sum <= at));
    if (from == 32) {
      at -= __shfl_sync(RP_ALL_LANES, sum, 31);
      continue;
    }
    const int32_t count = __shfl_sync(RP_ALL_LANES, tiles, from);
    at -= __shfl_sync(RP_ALL_LANES, sum, from) - count * a.H;
    const rp_row row = rows[r + from];
    const int64_t bytes = ((int64_t)row.pos + row.n) * 2 * WIDE * (int)sizeof(bf16);
    const int32_t fit = (int32_t)(L2_BYTES / bytes), heads = (fit < 1      ? 1
                                                              : fit < a.Hk ? fit
                                                                           : a.Hk) *
                                                             (a.H / a.Hk);
    const int32_t first = at / (heads * count) * heads;
    const int32_t now = a.H - first < heads ? a.H - first : heads;
    at -= first * count;
    return {r + from, first + at % now, count - 1 - at / now};
  }
  return {-1, 0, 0};
}

RP_DEVICE void make_plan(const rp_attend_args &a, plan *p, item it) {
  if (lane_of() != 0) return;
  if (it.row < 0) {
    p->tiles = -1;
    return;
  }
  const rp_row row = ((const rp_row *)a.rows.row.at)[it.row];
  const int32_t first = it.tile * QUERIES;
  p->from = row.pos + first;
  p->queries = row.n - first < QUERIES ? row.n - first : QUERIES;
  p->token = row.tok + first;
  p->row = row.tok;
  p->head = it.head;
  p->group = it.head / (a.H / a.Hk);
  const rp_pat pat = ((const rp_pat *)a.pats.at)[(int64_t)row.plan * a.pats_stride + p->group];
  const rp_past past = {row.pos, row.top, a.kv.margin};
  const int n = rp_segs(p->seg, pat, past, p->from, p->from + p->queries);
  int32_t keys = 0;
  bool cached = false;
  p->own_from = p->own_to = 0;
  for (int i = 0; i < n; i++) {
    const rp_seg g = p->seg[i];
    if (g.far == 0) { /* each query's own key; no other segment is like that */
      p->own_from = g.pos - p->from;
      p->own_to = p->own_from + g.count;
      p->seg[i].count = 0;
    } else {
      keys += g.count;
      cached |= g.src != RP_SRC_NEW;
    }
    p->end[i] = keys;
  }
  if (cached)
    for (int i = 0; i < 2; i++)
      p->table[i] = rp_cell_table(&a.kv, row.cell, a.Hk, WIDE, sizeof(float), p->group,
                                  (rp_src)(RP_SRC_KEPT + i));
  p->keys = keys;
  p->tiles = (keys + KEYS - 1) / KEYS;
}

/* Where eighth `e` of a row lies in a tile of `rows`. */
RP_DEVICE uint32_t place_of(int rows, int row, int e) {
  return (uint32_t)((e / 8 * rows + row) * HALF + ((e % 8 ^ row % 8) << 4));
}

RP_DEVICE void load_queries(const rp_attend_args &a, const plan *p, unsigned char *q) {
  const bf16 *from = (const bf16 *)a.q.p.at + ((int64_t)p->token * a.H + p->head) * WIDE;
  const int e = lane_of() % 16, n = p->queries;
#pragma unroll 8
  for (int r = lane_of() / 16; r < QUERIES; r += 2)
    copy_async_16(q + place_of(QUERIES, r, e), from + (int64_t)(r < n ? r : 0) * a.H * WIDE + e * 8,
                  r < n ? 16 : 0);
}

/* Keys and values that the queries read themselves come to the L2 cache. */
RP_DEVICE void ask_own(const rp_attend_args &a, const plan *p) {
  const int32_t pick = lane_of() % 4; /* two lines of a key, two of a value */
  for (int r = p->own_from + lane_of() / 4; r < p->own_to; r += 8)
    ask_line((pick < 2 ? a.k.p.at : a.v.p.at) +
             (uintptr_t)(((int64_t)(p->token + r) * a.Hk + p->group) * 2 + pick % 2) * HALF);
}

RP_DEVICE void plan_items(const rp_hopper_attend_args &h, shared *sh) {
  place slot = {0, 0};
  uint32_t queries = 0;
  for (;;) {
    plan *p = &sh->plans[slot.stage];
    int32_t at = 0;
    if (lane_of() == 0) at = atomicAdd((int32_t *)h.next.at, 1);
    const item it = find_item(h.attend, h.few, same(at));
    gate_wait(&sh->plan_read[slot.stage], slot.turn ^ 1);
    make_plan(h.attend, p, it);
    __syncwarp();
    if (lane_of() == 0) gate_come(&sh->planned[slot.stage]);
    if (it.row < 0) return;
    ask_own(h.attend, p);
    gate_wait(&sh->q_read, queries ^ 1);
    load_queries(h.attend, p, sh->q);
    gate_come_behind_copies(&sh->q_there);
    queries ^= 1;
    step(&slot, 2);
  }
}

/* ---- the loaders: three warps ---- */

struct source {
  uintptr_t k, v; /* 0: no key */
};

/* Where entry i of a plan's list lies, and which of the queries see it. */
RP_DEVICE source find_key(const rp_attend_args &a, const plan *p, int32_t i, uint32_t *see) {
  *see = 0;
  if (i >= p->keys) return {0, 0};
  int s = 0;
  while (i >= p->end[s]) s++;
  const rp_seg g = p->seg[s];
  const int32_t e = i - (p->end[s] - g.count);
  const int64_t low = (int64_t)g.pos + (int64_t)e * g.step - p->from + g.near;
  const int64_t end = low - g.near + g.far + 1;
  const int64_t all = QUERIES;
  *see = (uint32_t)(low < 0     ? 0
                    : low < all ? low
                                : all) |
         (uint32_t)(end < 0     ? 0
                    : end < all ? end
                                : all)
             << 16;
  const int64_t slot = (int64_t)g.slot + (int64_t)e * g.slot_step;
  if (g.src == RP_SRC_NEW) {
    const uintptr_t at =
        (uintptr_t)(((p->row + slot) * a.Hk + p->group) * (WIDE * (int)sizeof(bf16)));
    return {a.k.p.at + at, a.v.p.at + at};
  }
  const int32_t block = p->table[g.src - RP_SRC_KEPT][slot / RP_KV_BLOCK];
  const uintptr_t k =
      a.kv.pool.p.at + (uintptr_t)rp_kv_entry(block, (int32_t)slot, WIDE) * sizeof(bf16);
  return {k, k + RP_KV_BLOCK * WIDE * sizeof(bf16)};
}

/* The GATHER rows that the lanes know, from row `first` of a tile on. */
RP_DEVICE void gather(unsigned char *tile, int first, uintptr_t mine, uintptr_t none) {
  const int e = lane_of() % 16, odd = lane_of() / 16;
  const uint32_t place = place_of(KEYS, first + odd, e);
  RP_UNROLL
  for (int r = 0; r < GATHER; r += 2) {
    const uintptr_t at = (uintptr_t)__shfl_sync(RP_ALL_LANES, (unsigned long long)mine, r + odd);
    copy_async_16(tile + ((place ^ (uint32_t)(r % 8 << 4)) + (uint32_t)(r * HALF)),
                  (const void *)((at ? at : none) + (uintptr_t)(e * 16)), at ? 16 : 0);
  }
}

RP_DEVICE void load_keys(const rp_attend_args &a, shared *sh, int warp) {
  place slot = {0, 0}, now = {0, 0};
  int turn = 0; /* whose the next rows are */
  for (;;) {
    const plan *p = &sh->plans[slot.stage];
    gate_wait(&sh->planned[slot.stage], slot.turn);
    const int32_t tiles = p->tiles;
    for (int32_t t = 0; t < tiles; t++) {
      for (int g = 0; g < KEYS / GATHER; g++) {
        const bool mine = turn == warp;
        turn = turn == LOADERS - 1 ? 0 : turn + 1;
        if (!mine) continue;
        uint32_t see;
        const source from = find_key(a, p, t * KEYS + g * GATHER + lane_of(), &see);
        gate_wait(&sh->k_read[now.stage], now.turn ^ 1);
        sh->see[now.stage][g * GATHER + lane_of()] = see;
        const uint32_t low = see & 0xffff, end = see >> 16;
        const int first = __any_sync(RP_ALL_LANES, low > 0 || end < QUERIES / 2);
        const int second = __any_sync(RP_ALL_LANES, low > QUERIES / 2 || end < QUERIES);
        if (lane_of() == 0) sh->partly[now.stage][g] = (uint32_t)(first | second << 1);
        __syncwarp();
        if (lane_of() == 0) gate_come(&sh->k_there[now.stage]);
        gather(sh->k[now.stage], g * GATHER, from.k, a.k.p.at);
        gate_come_behind_copies(&sh->k_there[now.stage]);
        gate_wait(&sh->v_read[now.stage], now.turn ^ 1);
        gather(sh->v[now.stage], g * GATHER, from.v, a.v.p.at);
        gate_come_behind_copies(&sh->v_there[now.stage]);
      }
      step(&now, STAGES);
    }
    __syncwarp();
    if (tiles < 0) return;
    if (lane_of() == 0) gate_come(&sh->plan_read[slot.stage]);
    step(&slot, 2);
  }
}

/* ---- the softmax: two warpgroups ---- */

/* Of the two rows of a thread. */
struct rows {
  float max[2], sum[2]; /* of the scores as they are; of this thread's columns */
};

RP_DEVICE void make_scores(float (&s)[KEYS / 2], uint64_t q, uint64_t k) {
  mma_fence();
  RP_UNROLL
  for (int i = 0; i < WIDE / 16; i++) {
    const uint32_t in = (uint32_t)(i % 4 * 32);
    mma_shared(s, q + ((i / 4 * QUERIES * HALF + in) >> 4), k + ((i / 4 * KEYS * HALF + in) >> 4),
               i > 0);
  }
  mma_close_group();
}
RP_DEVICE void add_values(float (&o)[WIDE / 2], const uint32_t (&p)[KEYS / 16][4], uint64_t v) {
  mma_fence();
  RP_UNROLL
  for (int i = 0; i < KEYS / 16; i++) mma_regs(o, p[i], v + (uint32_t)(i * 16 * HALF >> 4), 1);
  mma_close_group();
}

/* Scores of keys that a query does not see. row: the thread's first, in the tile. */
RP_DEVICE void hide(float (&s)[KEYS / 2], const uint32_t *see, const uint32_t *partly, uint32_t bit,
                    uint32_t row) {
  RP_UNROLL
  for (int g = 0; g < KEYS / GATHER; g++) {
    if (!(partly[g] & bit)) continue;
    RP_UNROLL
    for (int j = g * 4; j < g * 4 + 4; j++) {
      const uint2 w = *(const uint2 *)(see + 8 * j + 2 * (lane_of() % 4));
      RP_UNROLL
      for (int i = 0; i < 4; i++) {
        const uint32_t one = i % 2 ? w.y : w.x, r = row + (uint32_t)(i / 2 * 8);
        if (r < (one & 0xffff) || r >= one >> 16) s[4 * j + i] = RP_NONE;
      }
    }
  }
}

/* s becomes exp2(c (s - max)) under the new maximum; fix is the factor of what was summed under the old. */
RP_DEVICE void soften(float (&s)[KEYS / 2], rows *r, float c, float (&fix)[2]) {
  RP_UNROLL
  for (int i = 0; i < 2; i++) {
    float most[2] = {r->max[i], r->max[i]};
    RP_UNROLL
    for (int j = 0; j < KEYS / 8; j++)
      most[j % 2] = fmaxf(most[j % 2], fmaxf(s[4 * j + 2 * i], s[4 * j + 2 * i + 1]));
    float max = fmaxf(most[0], most[1]);
    max = fmaxf(max, __shfl_xor_sync(RP_ALL_LANES, max, 1));
    max = fmaxf(max, __shfl_xor_sync(RP_ALL_LANES, max, 2));
    const float under = max == RP_NONE ? 0 : max * c;
    fix[i] = fast_exp2(r->max[i] * c - under);
    r->max[i] = max;
    float sum[2] = {0, 0};
    RP_UNROLL
    for (int j = 0; j < KEYS / 8; j++) {
      RP_UNROLL
      for (int k = 0; k < 2; k++) {
        const float x = fast_exp2(s[4 * j + 2 * i + k] * c - under);
        s[4 * j + 2 * i + k] = x;
        sum[k] += x;
      }
    }
    r->sum[i] = r->sum[i] * fix[i] + (sum[0] + sum[1]);
  }
}

RP_DEVICE void scale_rows(float (&o)[WIDE / 2], const float (&fix)[2]) {
  RP_UNROLL
  for (int i = 0; i < WIDE / 2; i++) o[i] *= fix[i / 2 % 2];
}

RP_DEVICE void round_scores(uint32_t (&p)[KEYS / 16][4], const float (&s)[KEYS / 2]) {
  RP_UNROLL
  for (int i = 0; i < KEYS / 4; i++) p[i / 4][i % 4] = bf16x2(s[2 * i + 1], s[2 * i]);
}

/* The four lanes of a row give each other what they have of four blocks of 8 columns, so that lane p holds
 * block p whole. w: the pair 2p, 2p + 1 of each block. */
RP_DEVICE uint4 swap_blocks(uint32_t (&w)[4]) {
  const bool odd = lane_of() & 1, high = lane_of() & 2;
  uint32_t x[2][2]; /* of blocks (odd) and 2 + (odd): the pairs of two lanes */
  RP_UNROLL
  for (int i = 0; i < 2; i++) {
    const uint32_t got = __shfl_xor_sync(RP_ALL_LANES, odd ? w[2 * i] : w[2 * i + 1], 1);
    const uint32_t own = odd ? w[2 * i + 1] : w[2 * i];
    x[i][0] = odd ? got : own;
    x[i][1] = odd ? own : got;
  }
  uint32_t got[2];
  RP_UNROLL
  for (int i = 0; i < 2; i++) got[i] = __shfl_xor_sync(RP_ALL_LANES, high ? x[0][i] : x[1][i], 2);
  return high ? make_uint4(got[0], got[1], x[1][0], x[1][1])
              : make_uint4(x[0][0], x[0][1], got[0], got[1]);
}

/* Rows of the call's k or v, read before they are needed: of each of the thread's rows every fourth eighth. */
struct own {
  uint4 at[2][WIDE / 32];
};
RP_DEVICE own read_own(uintptr_t base, const rp_attend_args &a, int32_t token, int32_t group,
                       int row, int from, int to) {
  own x;
  RP_UNROLL
  for (int i = 0; i < 2; i++) {
    const int r = row + 8 * i;
    const uint4 *at =
        (const uint4 *)base + ((int64_t)(token + r) * a.Hk + group) * (WIDE / 8) + lane_of() % 4;
    RP_UNROLL
    for (int j = 0; j < WIDE / 32; j++)
      x.at[i][j] = r >= from && r < to ? at[4 * j] : make_uint4(0, 0, 0, 0);
  }
  return x;
}

RP_DEVICE float dot_of(uint32_t a, uint32_t b, float sum) {
  return sum + low_f32(a) * low_f32(b) + high_f32(a) * high_f32(b);
}
/* The softmax begins with the query's own key. */
RP_DEVICE void begin_own(float (&o)[WIDE / 2], rows *r, const unsigned char *q, const own &k,
                         const own &v, int row, int from, int to) {
  RP_UNROLL
  for (int i = 0; i < 2; i++) {
    float sum = 0;
    RP_UNROLL
    for (int j = 0; j < WIDE / 32; j++) {
      const uint4 x = *(const uint4 *)(q + place_of(QUERIES, row + 8 * i, 4 * j + lane_of() % 4));
      const uint4 y = k.at[i][j];
      sum = dot_of(x.x, y.x, dot_of(x.y, y.y, dot_of(x.z, y.z, dot_of(x.w, y.w, sum))));
      uint32_t w[4] = {v.at[i][j].x, v.at[i][j].y, v.at[i][j].z, v.at[i][j].w};
      const uint4 z = swap_blocks(w);
      const uint32_t pair[4] = {z.x, z.y, z.z, z.w};
      RP_UNROLL
      for (int b = 0; b < 4; b++) {
        o[4 * (4 * j + b) + 2 * i] = low_f32(pair[b]);
        o[4 * (4 * j + b) + 2 * i + 1] = high_f32(pair[b]);
      }
    }
    sum += __shfl_xor_sync(RP_ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(RP_ALL_LANES, sum, 2);
    if (row + 8 * i < from || row + 8 * i >= to) continue;
    r->max[i] = sum;
    r->sum[i] = lane_of() % 4 == 0;
  }
}

RP_DEVICE void write_rows(const rp_attend_args &a, float (&o)[WIDE / 2], const rows &r,
                          int32_t token, int32_t head, int row, int queries) {
  RP_UNROLL
  for (int i = 0; i < 2; i++) {
    float sum = r.sum[i];
    sum += __shfl_xor_sync(RP_ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(RP_ALL_LANES, sum, 2);
    const float by = 1 / sum;
    const int at = row + 8 * i;
    const int64_t to = (int64_t)(token + at) * a.H + head;
    bf16 *out = (bf16 *)a.out.p.at + to * WIDE + lane_of() % 4 * 8;
    RP_UNROLL
    for (int j = 0; j < WIDE / 8; j += 4) {
      uint32_t w[4];
      RP_UNROLL
      for (int k = 0; k < 4; k++)
        w[k] = bf16x2(o[4 * (j + k) + 2 * i + 1] * by, o[4 * (j + k) + 2 * i] * by);
      const uint4 x = swap_blocks(w);
      if (at < queries) *(uint4 *)(out + 8 * j) = x;
    }
    if (a.lse.at && at < queries && lane_of() % 4 == 0)
      ((float *)a.lse.at)[to] = r.max[i] * (float)a.scale + logf(sum);
  }
}

RP_DEVICE void attend_items(const rp_attend_args &a, shared *sh, int group) {
  const float c = (float)(a.scale * 1.4426950408889634);
  const int warp = same((int)threadIdx.x / 32) % 4;
  const int row = group * 64 + warp * 16 + lane_of() / 4;
  const uint32_t bit = 1u << group;
  const bool speaks = lane_of() == 0;
  const uint64_t q = mma_along(same_at(sh->q + group * 64 * HALF));
  place slot = {0, 0}, key = {0, 0}, value = {0, 0};
  uint32_t query = 0;
  if (group == 1) barrier_pass(1, 256);
  float o[WIDE / 2], s[KEYS / 2];
  uint32_t p[KEYS / 16][4];
  for (;;) {
    gate_wait(&sh->planned[slot.stage], slot.turn);
    const plan *plan = &sh->plans[slot.stage];
    const int32_t tiles = same(plan->tiles), token = plan->token, head = plan->head;
    const int32_t queries = plan->queries, kv = plan->group;
    const int32_t from = plan->own_from, to = same(plan->own_to);
    __syncwarp();
    if (speaks) gate_come(&sh->plan_read[slot.stage]);
    step(&slot, 2);
    if (tiles < 0) return;

    rows r = {{RP_NONE, RP_NONE}, {0, 0}};
    float fix[2];
    if (to) {
      const own k = read_own(a.k.p.at, a, token, kv, row, from, to);
      const own v = read_own(a.v.p.at, a, token, kv, row, from, to);
      gate_wait(&sh->q_there, query);
      begin_own(o, &r, sh->q, k, v, row, from, to);
    } else {
      RP_UNROLL
      for (int i = 0; i < WIDE / 2; i++) o[i] = 0;
      gate_wait(&sh->q_there, query);
    }
    if (tiles > 0) {
      gate_wait(&sh->k_there[key.stage], key.turn);
      mma_sees_shared();
      make_scores(s, q, mma_along(same_at(sh->k[key.stage])));
      mma_wait<0>();
      mma_made(s);
      hide(s, sh->see[key.stage], sh->partly[key.stage], bit, (uint32_t)row);
      __syncwarp();
      if (speaks) gate_come(&sh->k_read[key.stage]);
      step(&key, STAGES);
    }
    __syncwarp();
    if (speaks && tiles <= 1) gate_come(&sh->q_read);
    if (tiles > 0) {
      soften(s, &r, c, fix);
      round_scores(p, s);
      if (to) scale_rows(o, fix);
    } else {
      RP_UNROLL
      for (int i = 0; i < KEYS / 4; i++) p[i / 4][i % 4] = 0;
    }

    for (int32_t t = 1; t < tiles; t++) {
      gate_wait(&sh->k_there[key.stage], key.turn);
      mma_sees_shared();
      barrier_wait(1 + group, 256);
      make_scores(s, q, mma_along(same_at(sh->k[key.stage])));
      gate_wait(&sh->v_there[value.stage], value.turn);
      mma_sees_shared();
      add_values(o, p, mma_across(same_at(sh->v[value.stage]), KEYS * HALF));
      barrier_pass(2 - group, 256);
      mma_wait<1>();
      mma_made(s);
      hide(s, sh->see[key.stage], sh->partly[key.stage], bit, (uint32_t)row);
      __syncwarp();
      if (speaks) {
        gate_come(&sh->k_read[key.stage]);
        if (t == tiles - 1) gate_come(&sh->q_read);
      }
      step(&key, STAGES);
      soften(s, &r, c, fix);
      /* A loop, so that ptxas does not move the wait before the softmax, which is to run meanwhile. */
      do mma_wait<0>();
      while (queries < 0);
      mma_made(o);
      if (speaks) gate_come(&sh->v_read[value.stage]);
      step(&value, STAGES);
      round_scores(p, s);
      scale_rows(o, fix);
    }
    query ^= 1;
    if (tiles > 0) {
      gate_wait(&sh->v_there[value.stage], value.turn);
      mma_sees_shared();
      add_values(o, p, mma_across(same_at(sh->v[value.stage]), KEYS * HALF));
      mma_wait<0>();
      mma_made(o);
      if (speaks) gate_come(&sh->v_read[value.stage]);
      step(&value, STAGES);
    }
    write_rows(a, o, r, token, head, row, queries);
  }
}

RP_DEVICE void hopper_body(const rp_hopper_attend_args &h, unsigned char *base) {
  shared *sh = (shared *)base;
  static_assert(sizeof *sh <= RP_HOPPER_SHARED, "shared memory");
  if (threadIdx.x == 0) {
    if (shared_at(base) % 1024) stop_device();
    for (int i = 0; i < 2; i++) {
      gate_open(&sh->planned[i], 1);
      gate_open(&sh->plan_read[i], LOADERS + 8);
    }
    gate_open(&sh->q_there, 32);
    gate_open(&sh->q_read, 8);
    for (int i = 0; i < STAGES; i++) {
      gate_open(&sh->k_there[i], KEYS + KEYS / GATHER);
      gate_open(&sh->v_there[i], KEYS);
      gate_open(&sh->k_read[i], 8);
      gate_open(&sh->v_read[i], 8);
    }
  }
  __syncthreads();
  const int warp = same((int)threadIdx.x / 32);
  if (warp < 4) {
    leave_registers<56>();
    if (warp == LOADERS)
      plan_items(h, sh);
    else
      load_keys(h.attend, sh, warp);
  } else {
    take_registers<224>();
    attend_items(h.attend, sh, warp / 4 - 1);
  }
}

}  // namespace

#endif

#ifdef RP_EMULATE
#define RP_HOPPER_KERNEL(name) RP_KERNEL(name, rp_hopper_attend_args, RP_HOPPER_THREADS)
#else
#define RP_HOPPER_KERNEL(name) \
  extern "C" __global__ void __launch_bounds__(RP_HOPPER_THREADS, 1) \
      name(const __grid_constant__ rp_hopper_attend_args a)
#endif

RP_HOPPER_KERNEL(hopper_attend) {
#if defined(RP_EMULATE) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  RP_SHARED(unsigned char, base);
  hopper_body(a, base);
#else
  stop_device();
#endif
}
