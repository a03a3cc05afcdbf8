/* gate_bwd.cu - gate, scan and rotation backward.
 *
 * The gates' gradient takes the states of the scan forward, and the scan backward begins at the row's end. So for some
 * units of columns, while the units before go backward, blocks go forward over k, x and g and hand on the links
 * of their chunks (gate_chain.h), no more. Backward a block
 *
 *   1. reads its chunk of k, x and g into registers and of dk and dv into shared memory, dk turned back;
 *   2. joins its runs of tokens in both directions, as gate_scan.cu does in one;
 *   3. learns the state before the chunk, which is there, and what the chunks behind it send back;
 *   4. goes over its tokens once more, forward and back.
 *
 * Blocks take their work from a counter, so that those that one waits for run already.
 *
 * Bytes of a channel and token, bfloat16 (float32): k, x, g, dk, dv read 14 (20), dk, dx, dg written 6 (12), dq read 4
 * (4), written 2 (4): 26 (40). Going forward reads k, x and g before: 6 (12) more, out of the second-level cache when
 * the units at once fit it. Links: 6 floats, filled, written and read, to 48 tokens: 1.5. */
#include "ops/cuda/kernel/gate_bwd.h"

#include "ops/cuda/kernel/gate_chain.h"

enum { TOKENS = RP_GATE_BWD_TOKENS, CHUNK = RP_GATE_BWD_CHUNK };

typedef rp_gate_bwd_room room;

RP_DEVICE int32_t chunks_of(const room *m) { return (m->row.n + CHUNK - 1) / CHUNK; }

/* Stage by stage: forward over some units, backward over those of the stage before, all their chunks in turn. */
RP_DEVICE bool find_task(const rp_gate_bwd_scan_args &a, room *m) {
  if (threadIdx.x == 0) {
    const uint32_t turn = atomicAdd((uint32_t *)a.links.at, 1u) + 1u;
    const uint32_t each = (uint32_t)(a.at_once * (2 + a.q_blocks)), chunks = (uint32_t)a.chunks;
    const int32_t stage = (int32_t)(turn / each / chunks), place = (int32_t)(turn / each % chunks);
    const int32_t rest = (int32_t)(turn % each), part = rest / a.at_once;
    const int32_t unit = (stage - (part > 0)) * a.at_once + rest % a.at_once;
    m->row.n = 0;
    if (unit >= 0 && unit < a.units) {
      m->row = ((const rp_row *)a.op.rows.row.at)[unit / a.kv_blocks];
      m->unit = unit;
      m->part = part;
      m->chunk = part ? chunks_of(m) - 1 - place : place;
      if (m->chunk < 0 || m->chunk >= chunks_of(m)) m->row.n = 0;
    }
  }
  __syncthreads();
  return m->row.n > 0;
}

/* The links of channel i of the block, forward or back. */
RP_DEVICE links links_of(const rp_gate_bwd_scan_args &a, const room *m, int32_t i, bool back) {
  const int64_t at = ((int64_t)back * a.units + m->unit) * a.chunks +
                     (back ? chunks_of(m) - 1 - m->chunk : m->chunk);
  links l;
  l.each = 3 * WIDTH;
  l.mine = (uint32_t *)a.links.at + RP_SCAN_LINKS + at * l.each + i;
  return l;
}

/* A thread's place: its column, and the first of its tokens. */
typedef struct {
  pairs c;
  bool there;        /* the column is */
  int32_t lane, run; /* column and run in the block */
  int32_t first;     /* token of the row */
  int32_t left;      /* so many behind it in the row; negative: it is not there */
} place;
RP_DEVICE place place_of(const room *m, int64_t block, int32_t heads, int32_t h) {
  const int64_t columns = rp_gate_columns(heads, h, 4);
  place p;
  p.lane = (int32_t)threadIdx.x % COLUMNS;
  p.run = (int32_t)threadIdx.x / COLUMNS;
  const int64_t column = block * COLUMNS + p.lane;
  p.there = column < columns;
  p.c = pairs_of(p.there ? column : columns - 1, h, 4);
  p.first = (m->chunk * RUNS + p.run) * TOKENS;
  p.left = m->row.n - 1 - p.first;
  return p;
}
/* Of the call; the row's last where the thread has none. */
RP_DEVICE int64_t token_of(const room *m, const place &p) {
  return m->row.tok + (int64_t)(p.left < 0 ? m->row.n - 1 : p.first);
}
RP_DEVICE const float *angles_of(const rp_gate_bwd_args &a, const room *m, const place &p) {
  return (const float *)a.rope.at +
         (m->row.pos + (int64_t)(p.left < 0 ? m->row.n - 1 : p.first)) * a.h + p.c.i;
}

/* Back by the angles at `table`. */
RP_DEVICE void turn_back(quad<float> &low, quad<float> &high, const float *table, int32_t half) {
  quad<float> cosine, sine;
  fetch(cosine, table);
  fetch(sine, table + half);
  RP_UNROLL
  for (int j = 0; j < 2; j++) {
    float2 x = two(low, j), y = two(high, j), s = two(sine, j);
    turn(x, y, two(cosine, j), make_float2(-s.x, -s.y));
    set_two(low, j, x);
    set_two(high, j, y);
  }
}

/* ---- columns that only turn back, or only move ---- */

template <class T>
RP_DEVICE void turn_chunk(const rp_gate_bwd_args &a, const room *m, int64_t block, int32_t heads,
                          rp_tensor from, int64_t to, rp_ptr rope) {
  const place p = place_of(m, block, heads, a.h);
  if (!p.there || p.left < 0) return;
  const int32_t ld = heads * a.h, ldp = (int32_t)a.ldp;
  const float *d = (const float *)from.p.at + token_of(m, p) * ld + p.c.at;
  const float *table = angles_of(a, m, p);
  T *dp = (T *)a.dp.p.at + token_of(m, p) * a.ldp + to + p.c.at;
  quad<float> x[TOKENS][2];
  RP_UNROLL
  for (int s = 0; s < TOKENS; s++) {
    fetch_once(x[s][0], d + at_most(s, p.left) * ld);
    fetch_once(x[s][1], d + at_most(s, p.left) * ld + p.c.half);
  }
  RP_UNROLL
  for (int s = 0; s < TOKENS; s++) {
    if (rope.at) turn_back(x[s][0], x[s][1], table + at_most(s, p.left) * a.h, p.c.half);
    if (s > p.left) continue;
    RP_UNROLL
    for (int half = 0; half < 2; half++) {
      quad<T> y;
      set_two(y, 0, two(x[s][half], 0));
      set_two(y, 1, two(x[s][half], 1));
      store_once(dp + s * ldp + half * p.c.half, y);
    }
  }
}

/* ---- forward ---- */

RP_DEVICE float2 *run_at(room *m, int what, int j, const place &p) {
  return (float2 *)&m->run[what][j][p.run][2 * p.lane];
}

/* j: channels 2 (j / 2) and the next, of half j % 2. */
template <class T, int S>
RP_DEVICE void sum_forward(const tokens<T, S> &d, room *m, const place &p) {
  RP_UNROLL
  for (int j = 0; j < 4; j++) {
    float2 gates = make_float2(1, 1), k = make_float2(0, 0), v = k;
    RP_UNROLL
    for (int s = 0; s < S; s++) {
      const float2 g = sigmoid(two(d.g[s][j % 2], j / 2));
      gates = mul2(gates, g);
      k = step(k, g, two(d.k[s][j % 2], j / 2));
      v = step(v, g, two(d.x[s][j % 2], j / 2));
    }
    *run_at(m, 0, j, p) = gates;
    *run_at(m, 1, j, p) = k;
    *run_at(m, 2, j, p) = v;
  }
}

template <class T>
RP_DEVICE void forward_chunk(const rp_gate_bwd_scan_args &a, room *m) {
  const place p = place_of(m, m->unit % a.kv_blocks, a.op.Hk, a.op.h);
  const int32_t i = (int32_t)threadIdx.x;
  tokens<T, TOKENS> d;
  fetch_tokens<false>(d, (const T *)a.op.p.p.at + p.c.at, a.op.ldp, token_of(m, p), p.left,
                      columns_of(a.op.H, a.op.Hk, a.op.h), p.c.half);
  sum_forward(d, m, p);
  __syncthreads();
  if (i >= WIDTH || m->chunk == chunks_of(m) - 1) return;
  link sum, start;
  sum.p = 1, sum.k = sum.v = 0;
  start.p = start.k = start.v = 0;
  RP_UNROLL
  for (int run = 0; run < RUNS; run++) {
    link x;
    x.p = m->run[0][i / 32][run][i % 32];
    x.k = m->run[1][i / 32][run][i % 32];
    x.v = m->run[2][i / 32][run][i % 32];
    sum = then(sum, x);
  }
  chain(links_of(a, m, i, false), m->chunk, true, false, sum, start);
}

/* ---- backward ---- */

/* dk and dv of a thread's tokens into its part of shared memory, 0 where there are none. */
RP_DEVICE void copy_up(const rp_gate_bwd_args &a, room *m, const place &p) {
  const int32_t ld = a.Hk * a.h;
  const int64_t at = token_of(m, p) * ld + p.c.at;
  const float *dk = (const float *)a.dk.p.at + at, *dv = (const float *)a.dv.p.at + at;
  RP_UNROLL
  for (int s = 0; s < TOKENS; s++) {
    const int32_t from = at_most(s, p.left) * ld, bytes = s <= p.left ? 16 : 0;
    RP_UNROLL
    for (int half = 0; half < 2; half++) {
      copy_async_16(m->up[0][s][half][threadIdx.x], dk + from + half * p.c.half, bytes);
      copy_async_16(m->up[1][s][half][threadIdx.x], dv + from + half * p.c.half, bytes);
    }
  }
  copies_close_group();
}
RP_DEVICE void turn_up(const rp_gate_bwd_args &a, room *m, const place &p) {
  const float *table = angles_of(a, m, p);
  RP_UNROLL
  for (int s = 0; s < TOKENS; s++) {
    quad<float> low, high;
    fetch(low, m->up[0][s][0][threadIdx.x]);
    fetch(high, m->up[0][s][1][threadIdx.x]);
    turn_back(low, high, table + at_most(s, p.left) * a.h, p.c.half);
    store(m->up[0][s][0][threadIdx.x], low);
    store(m->up[0][s][1][threadIdx.x], high);
  }
}
RP_DEVICE float2 up_at(const room *m, int what, int s, int j) {
  return *(const float2 *)&m->up[what][s][j % 2][threadIdx.x][j / 2 * 2];
}

/* What a run of tokens sends back of k~ and v~ if it gets 0. */
template <class T>
RP_DEVICE void sum_back(const tokens<T, TOKENS> &d, room *m, const place &p) {
  RP_UNROLL
  for (int j = 0; j < 4; j++) {
    float2 k = make_float2(0, 0), v = k;
    RP_UNROLL
    for (int s = TOKENS - 1; s >= 0; s--) {
      const float2 g = sigmoid(two(d.g[s][j % 2], j / 2)), dk = up_at(m, 0, s, j),
                   dv = up_at(m, 1, s, j);
      k = mul2(g, make_float2(k.x + dk.x, k.y + dk.y));
      v = mul2(g, make_float2(v.x + dv.x, v.y + dv.y));
    }
    *run_at(m, 3, j, p) = k;
    *run_at(m, 4, j, p) = v;
  }
}

/* Steps 2 and 3, of channel i. */
RP_DEVICE void join_chunk(const rp_gate_bwd_scan_args &a, room *m, int32_t i) {
  const int32_t j = i / 32, lane = i % 32, behind = chunks_of(m) - 1 - m->chunk;
  link state, sum;
  state.p = state.k = state.v = 0;
  state = chain(links_of(a, m, i, false), m->chunk, false, true, state, state);
  RP_UNROLL
  for (int run = 0; run < RUNS; run++) {
    float *k = &m->run[1][j][run][lane], *v = &m->run[2][j][run][lane];
    link x;
    x.p = m->run[0][j][run][lane], x.k = *k, x.v = *v;
    *k = state.k, *v = state.v;
    state = then(state, x);
  }
  sum.p = 1, sum.k = sum.v = 0;
  RP_UNROLL
  for (int run = RUNS - 1; run >= 0; run--) {
    float *p = &m->run[0][j][run][lane], *k = &m->run[3][j][run][lane],
          *v = &m->run[4][j][run][lane];
    link x;
    x.p = *p, x.k = *k, x.v = *v;
    *p = sum.p, *k = sum.k, *v = sum.v;
    sum = then(sum, x);
  }
  state.p = state.k = state.v = 0;
  state = chain(links_of(a, m, i, true), behind, m->chunk > 0, true, sum, state);
  m->carry[0][j][lane] = state.k;
  m->carry[1][j][lane] = state.v;
}

/* k, x and g become their gradients. */
template <class T>
RP_DEVICE void run_back(tokens<T, TOKENS> &d, room *m, const place &p) {
  RP_UNROLL
  for (int j = 0; j < 4; j++) {
    float2 g[TOKENS], k[TOKENS], v[TOKENS]; /* the gate, and k~ and v~ before the token */
    k[0] = *run_at(m, 1, j, p);
    v[0] = *run_at(m, 2, j, p);
    RP_UNROLL
    for (int s = 0; s < TOKENS; s++) g[s] = sigmoid(two(d.g[s][j % 2], j / 2));
    RP_UNROLL
    for (int s = 0; s < TOKENS - 1; s++) {
      k[s + 1] = step(k[s], g[s], two(d.k[s][j % 2], j / 2));
      v[s + 1] = step(v[s], g[s], two(d.x[s][j % 2], j / 2));
    }
    const float2 gates = *run_at(m, 0, j, p);
    float2 rk = fma2(gates, *(const float2 *)&m->carry[0][j][2 * p.lane], *run_at(m, 3, j, p));
    float2 rv = fma2(gates, *(const float2 *)&m->carry[1][j][2 * p.lane], *run_at(m, 4, j, p));
    RP_UNROLL
    for (int s = TOKENS - 1; s >= 0; s--) {
      const float2 in = two(d.k[s][j % 2], j / 2), x = two(d.x[s][j % 2], j / 2);
      const float2 dk = up_at(m, 0, s, j), dv = up_at(m, 1, s, j);
      const float2 rest = make_float2(1 - g[s].x, 1 - g[s].y);
      rk = make_float2(rk.x + dk.x, rk.y + dk.y);
      rv = make_float2(rv.x + dv.x, rv.y + dv.y);
      const float2 dg = fma2(rk, make_float2(k[s].x - in.x, k[s].y - in.y),
                             mul2(rv, make_float2(v[s].x - x.x, v[s].y - x.y)));
      set_two(d.k[s][j % 2], j / 2, mul2(rest, rk));
      set_two(d.x[s][j % 2], j / 2, mul2(rest, rv));
      set_two(d.g[s][j % 2], j / 2, mul2(dg, mul2(g[s], rest)));
      rk = mul2(g[s], rk);
      rv = mul2(g[s], rv);
    }
  }
}

template <class T>
RP_DEVICE void back_chunk(const rp_gate_bwd_scan_args &a, room *m) {
  const rp_gate_bwd_args &o = a.op;
  const columns col = columns_of(o.H, o.Hk, o.h);
  const place p = place_of(m, m->unit % a.kv_blocks, o.Hk, o.h);
  tokens<T, TOKENS> d;
  copy_up(o, m, p);
  fetch_tokens<true>(d, (const T *)o.p.p.at + p.c.at, o.ldp, token_of(m, p), p.left, col, p.c.half);
  sum_forward(d, m, p);
  forget(d);
  copies_wait<0>();
  turn_up(o, m, p);
  sum_back(d, m, p);
  __syncthreads();
  forget(d);
  if (threadIdx.x < WIDTH) join_chunk(a, m, (int32_t)threadIdx.x);
  __syncthreads();
  run_back(d, m, p);
  T *to = (T *)o.dp.p.at + token_of(m, p) * o.ldp + p.c.at;
  RP_UNROLL
  for (int half = 0; half < 2; half++, to += p.c.half) {
    RP_UNROLL
    for (int s = 0; s < TOKENS; s++) {
      if (!p.there || s > p.left) continue;
      store_once(to + col.k + s * (int32_t)o.ldp, d.k[s][half]);
      store_once(to + col.x + s * (int32_t)o.ldp, d.x[s][half]);
      store_once(to + col.g + s * (int32_t)o.ldp, d.g[s][half]);
    }
  }
}

template <class T>
RP_DEVICE void gate_bwd(const rp_gate_bwd_scan_args &a) {
  RP_SHARED(room, m);
  const rp_gate_bwd_args &o = a.op;
  if (!find_task(a, m)) return;
  const columns col = columns_of(o.H, o.Hk, o.h);
  const int64_t block = m->unit % a.kv_blocks;
  if (m->part > 1) {
    turn_chunk<T>(o, m, block * a.q_blocks + m->part - 2, o.H, o.dq, col.q, o.rope);
  } else if (!o.re && m->part) {
    turn_chunk<T>(o, m, block, o.Hk, o.dk, col.k, o.rope);
    turn_chunk<T>(o, m, block, o.Hk, o.dv, col.x, rp_ptr{0});
  } else if (m->part) {
    back_chunk<T>(a, m);
  } else if (o.re) {
    forward_chunk<T>(a, m);
  }
}
RP_KERNEL_FIT(gate_bwd_f32, rp_gate_bwd_scan_args, RP_SCAN_THREADS, 2) { gate_bwd<float>(a); }
RP_KERNEL_FIT(gate_bwd_bf16, rp_gate_bwd_scan_args, RP_SCAN_THREADS, 2) { gate_bwd<bf16>(a); }
