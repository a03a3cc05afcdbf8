/* attend.cu - attention of any width and type, and new keys into their caches. */
#include "ops/cuda/kernel/attend.h"

#include "ops/cuda/kernel/attend_keys.h"

/* ---- attention ----
 *
 * 16 x 16 threads; thread (y, x) has the scores of queries y, y + 16, .. with keys x, x + 16, .. and of
 * the same queries the columns 4x .., 64 + 4x .. of the output. The width goes through shared memory in
 * parts, so that any is served; a block makes some of the columns. */

enum {
  TILE = RP_ATTEND_TILE,
  KEYS = RP_ATTEND_KEYS,
  PART = RP_ATTEND_PART,
  COLUMNS = RP_ATTEND_COLUMNS,
  EACH = TILE / 16, /* queries, and keys, of a thread */
  WIDE = COLUMNS / 64
};
typedef rp_attend_plain_shared work;

template <class T>
RP_DEVICE float4 load_4(const T *p, int count) { /* zeros behind `count` */
  return make_float4(count > 0 ? to_f32(p[0]) : 0, count > 1 ? to_f32(p[1]) : 0,
                     count > 2 ? to_f32(p[2]) : 0, count > 3 ? to_f32(p[3]) : 0);
}

/* Columns [from, from + columns) of `rows` rows, `each` columns of the shared rows; zeros where there are
 * none. row(i): where row i begins, NULL: nowhere. */
template <class T, class F>
RP_DEVICE void fill(float *to, int ld, int rows, int columns, int from, int h, F row) {
  for (int i = (int)threadIdx.x; i < rows * (columns / 4); i += RP_ATTEND_THREADS) {
    const int r = i / (columns / 4), c = i % (columns / 4) * 4;
    const T *p = (const T *)row(r);
    *(float4 *)(to + r * ld + c) = load_4(p + from + c, p ? h - from - c : 0);
  }
}

RP_DEVICE float dot_4(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}
RP_DEVICE void add_4(float4 *to, float p, float4 v) {
  to->x = fmaf(p, v.x, to->x);
  to->y = fmaf(p, v.y, to->y);
  to->z = fmaf(p, v.z, to->z);
  to->w = fmaf(p, v.w, to->w);
}
/* Of the 16 threads that have the same queries. */
RP_DEVICE float max_16(float x) {
  RP_UNROLL
  for (int i = 8; i; i /= 2) x = fmaxf(x, __shfl_xor_sync(RP_ALL_LANES, x, i));
  return x;
}
RP_DEVICE float sum_16(float x) {
  RP_UNROLL
  for (int i = 8; i; i /= 2) x += __shfl_xor_sync(RP_ALL_LANES, x, i);
  return x;
}

template <class T>
RP_DEVICE void attend_plain(const rp_attend_plain_args &all) {
  const rp_attend_args &a = all.op;
  __shared__ attend_keys keys;
  RP_SHARED(work, w);
  const int thread = (int)threadIdx.x, x = thread % 16, y = thread / 16, h = a.h;
  const int head = (int)(blockIdx.x % (unsigned)a.H), group = head / (a.H / a.Hk);
  const int column = (int)blockIdx.y * COLUMNS;
  const attend_tile tile = find_tile(a.rows, all.few, TILE, (int32_t)(blockIdx.x / (unsigned)a.H));
  if (tile.row < 0) return;
  const rp_row row = row_at(a.rows, tile.row);
  const int32_t from = tile.tile * TILE, nq = rp_min_i32(row.n - from, TILE), t0 = row.pos + from;
  if (thread == 0)
    find_keys(&keys, a, row, pat_at(a.pats, a.pats_stride, row.plan, group), group, t0, t0 + nq,
              false);
  __syncthreads();

  const T *q = (const T *)a.q.p.at + ((int64_t)(row.tok + from) * a.H + head) * h;
  const float scale = (float)(a.scale * 1.4426950408889634); /* scores in powers of 2 */
  float max[EACH], sum[EACH];
  float4 o[EACH][WIDE];
  for (int i = 0; i < EACH; i++) {
    max[i] = -1e30f; /* finite, so that queries which have seen nothing yet have no NaN */
    sum[i] = 0;
    for (int j = 0; j < WIDE; j++) o[i][j] = make_float4(0, 0, 0, 0);
  }
  int segment = 0;
  for (int32_t first = 0; first < keys.count; first += KEYS) {
    if (thread < KEYS) {
      attend_key key = {NULL, NULL, false, TILE, -1};
      if (first + thread < keys.count)
        key = key_at<T>(&keys, &segment, first + thread, a, row.tok, group, t0, TILE);
      w->key[thread] = key.k;
      w->value[thread] = key.v;
      w->low[thread] = key.low;
      w->high[thread] = key.high;
    }
    __syncthreads();
    fill<T>(&w->v[0][0], COLUMNS, KEYS, COLUMNS, column, h, [&](int r) { return w->value[r]; });
    float s[EACH][EACH] = {};
    for (int c = 0; c < h; c += PART) {
      fill<T>(&w->q[0][0], PART + 4, TILE, PART, c, h, [&](int r) {
        return (const unsigned char *)(r < nq ? q + (int64_t)r * a.H * h : NULL);
      });
      fill<T>(&w->k[0][0], PART + 4, KEYS, PART, c, h, [&](int r) { return w->key[r]; });
      __syncthreads();
      for (int d = 0; d < PART; d += 4) {
        float4 b[EACH];
        RP_UNROLL
        for (int j = 0; j < EACH; j++) b[j] = *(const float4 *)&w->k[x + 16 * j][d];
        RP_UNROLL
        for (int i = 0; i < EACH; i++) {
          const float4 f = *(const float4 *)&w->q[y + 16 * i][d];
          RP_UNROLL
          for (int j = 0; j < EACH; j++) s[i][j] = dot_4(f, b[j], s[i][j]);
        }
      }
      __syncthreads();
    }
    RP_UNROLL
    for (int i = 0; i < EACH; i++) {
      const int query = y + 16 * i;
      float most = max[i], part = 0;
      RP_UNROLL
      for (int j = 0; j < EACH; j++) {
        const int key = x + 16 * j;
        const bool sees = query >= w->low[key] && query <= w->high[key];
        s[i][j] = sees ? s[i][j] * scale : -INFINITY;
        most = fmaxf(most, s[i][j]);
      }
      most = max_16(most);
      const float fix = exp2f(max[i] - most);
      max[i] = most;
      RP_UNROLL
      for (int j = 0; j < EACH; j++) {
        const float p = exp2f(s[i][j] - most);
        part += p;
        w->p[query][x + 16 * j] = p;
      }
      sum[i] = fmaf(sum[i], fix, sum_16(part));
      RP_UNROLL
      for (int j = 0; j < WIDE; j++) {
        o[i][j].x *= fix;
        o[i][j].y *= fix;
        o[i][j].z *= fix;
        o[i][j].w *= fix;
      }
    }
    __syncthreads();
    for (int key = 0; key < KEYS; key += 4) {
      float4 p[EACH];
      RP_UNROLL
      for (int i = 0; i < EACH; i++) p[i] = *(const float4 *)&w->p[y + 16 * i][key];
      RP_UNROLL
      for (int j = 0; j < WIDE; j++) {
        const float *v = &w->v[key][64 * j + 4 * x];
        RP_UNROLL
        for (int i = 0; i < EACH; i++) {
          add_4(&o[i][j], p[i].x, *(const float4 *)v);
          add_4(&o[i][j], p[i].y, *(const float4 *)(v + COLUMNS));
          add_4(&o[i][j], p[i].z, *(const float4 *)(v + 2 * COLUMNS));
          add_4(&o[i][j], p[i].w, *(const float4 *)(v + 3 * COLUMNS));
        }
      }
    }
    __syncthreads();
  }

  RP_UNROLL
  for (int i = 0; i < EACH; i++) {
    const int query = y + 16 * i;
    if (query >= nq) continue;
    const int64_t at = (int64_t)(row.tok + from + query) * a.H + head;
    const float r = 1 / sum[i];
    RP_UNROLL
    for (int j = 0; j < WIDE; j++) {
      const float out[4] = {o[i][j].x, o[i][j].y, o[i][j].z, o[i][j].w};
      RP_UNROLL
      for (int c = 0; c < 4; c++) {
        const int to = column + 64 * j + 4 * x + c;
        if (to < h) put_f32((T *)a.out.p.at + at * h + to, out[c] * r);
      }
    }
    if (a.lse.at && x == 0 && column == 0)
      ((float *)a.lse.at)[at] = max[i] * 0.6931471805599453f + logf(sum[i]);
  }
}

RP_KERNEL(attend_plain_f32, rp_attend_plain_args, RP_ATTEND_THREADS) { attend_plain<float>(a); }
RP_KERNEL(attend_plain_bf16, rp_attend_plain_args, RP_ATTEND_THREADS) { attend_plain<bf16>(a); }

/* ---- append ---- */

typedef struct {
  const rp_append_args *a;
  const int32_t *kept, *ring; /* tables of blocks */
  int64_t units;              /* of a key */
} lists;

/* The units of one entry, or of a new token's key and value, are moved by one warp: unit i of the key,
 * then of the value, by the same lane for every move of the entry. */
template <class U>
RP_DEVICE U *entry_at(const lists *l, const int32_t *table, int64_t e, int64_t unit) {
  const int64_t at = table[e / RP_KV_BLOCK] * (int64_t)(2 * RP_KV_BLOCK) + e % RP_KV_BLOCK;
  const int64_t value = unit < l->units ? 0 : RP_KV_BLOCK;
  return (U *)l->a->kv.pool.p.at + (at + value) * l->units + unit % l->units;
}

/* Token s of a row, positions [pos, end): what it pushes out of RING goes to KEPT, then it takes its
 * place. Of the tokens that come into the same place the last does both. */
template <class U>
RP_DEVICE void append_one(const lists *l, const rp_row &row, rp_pat p, int head, int64_t s) {
  const rp_append_args *a = l->a;
  const int64_t pos = row.pos, end = pos + row.n, top = end > row.top ? end : row.top;
  const int64_t size = rp_pat_ring(p, a->kv.margin);
  const int64_t gone = rp_pat_evicted(p, a->kv.margin, row.top);
  const int64_t going = rp_pat_evicted(p, a->kv.margin, top);
  const auto leaves = [&](int64_t t) {
    return p.D > 1 && t >= p.I && t >= gone && t < going && (t + 1) % p.D == 0;
  };
  int64_t kept = -1, ring = -1, old = -1, old_kept = -1;
  if (p.D == 1 || s < p.I) {
    kept = s;
  } else {
    if (leaves(s)) kept = rp_pat_slot(p, s);
    if (s >= end - size) {
      ring = (s - p.I) % size;
      old = s - (s - pos + size) / size * size; /* the last before pos in the same place */
      if (leaves(old)) old_kept = rp_pat_slot(p, old);
    }
  }
  const int64_t at = ((int64_t)(row.tok + s - pos) * a->Hk + head) * l->units;
  for (int64_t u = threadIdx.x % 32; u < 2 * l->units; u += 32) {
    const U *from =
        u < l->units ? (const U *)a->k.p.at + at + u : (const U *)a->v.p.at + at + (u - l->units);
    const U x = *from;
    if (old_kept >= 0) *entry_at<U>(l, l->kept, old_kept, u) = *entry_at<U>(l, l->ring, ring, u);
    if (kept >= 0) *entry_at<U>(l, l->kept, kept, u) = x;
    if (ring >= 0) *entry_at<U>(l, l->ring, ring, u) = x;
  }
}

template <class U>
RP_DEVICE void append(const rp_append_args &a) {
  const attend_tile tile = find_tile(a.rows, 0, RP_APPEND_TOKENS, (int32_t)blockIdx.x);
  if (tile.row < 0) return;
  const rp_row row = row_at(a.rows, tile.row);
  if (!row.cell.at) return;
  const int head = (int)blockIdx.y;
  const rp_pat pat = pat_at(a.pats, a.pats_stride, row.plan, head);
  const lists l = {&a, rp_cell_table(&a.kv, row.cell, a.Hk, a.h, sizeof(float), head, RP_SRC_KEPT),
                   rp_cell_table(&a.kv, row.cell, a.Hk, a.h, sizeof(float), head, RP_SRC_RING),
                   (int64_t)a.h * (a.k.dtype == RP_BF16 ? 2 : 4) / (int64_t)sizeof(U)};
  const int from = tile.tile * RP_APPEND_TOKENS, to = rp_min_i32(row.n, from + RP_APPEND_TOKENS);
  for (int i = from + (int)threadIdx.x / 32; i < to; i += RP_ATTEND_THREADS / 32)
    append_one<U>(&l, row, pat, head, (int64_t)row.pos + i);
}

RP_KERNEL(append_16, rp_append_args, RP_ATTEND_THREADS) { append<uint4>(a); }
RP_KERNEL(append_2, rp_append_args, RP_ATTEND_THREADS) { append<uint16_t>(a); }
