/* gate_scan.cu - gate, scan and rotation in one pass over the projection.
 *
 * A block keeps its chunk of k, x and g in registers while it learns the state that the chunk begins with:
 *
 *   1. each thread: the product of the gates of its run of tokens and what k~ and v~ they end with, from 0;
 *   2. one thread a channel: these joined over the runs, and handed to later chunks;
 *   3. the same thread: the state before the chunk (gate_chain.h);
 *   4. each thread: its tokens once more, from the true state, turned and stored.
 *
 * Bytes: q, k, x, g are read once and q, k, v written once; links add 3 floats, filled, written and read, to the
 * 96 tokens (bfloat16; 48 in float32) of a channel: 2.7 % more. */
#include "ops/cuda/kernel/gate_scan.h"

#include "ops/cuda/kernel/gate_chain.h"

typedef rp_gate_scan_room room;

RP_DEVICE bool find_task(const rp_gate_scan_args &a, room *m, int32_t chunk) {
  const int32_t tid = (int32_t)threadIdx.x, count = a.op.rows.count;
  const rp_row *rows = (const rp_row *)a.op.rows.row.at;
  if (tid == 0) {
    m->turn = atomicAdd((uint32_t *)a.links.at, 1u) + 1u;
    m->row.n = 0;
  }
  __syncthreads();
  const uint32_t each = (uint32_t)(a.kv_blocks * (1 + a.q_blocks)), rest = m->turn % each;
  const int64_t slot = m->turn / each;
  for (int32_t i = tid; i < count; i += RP_SCAN_THREADS) {
    const int64_t c = slot - rp_scan_first(rows[i].tok, i, chunk);
    if (c < 0 || c * chunk >= rows[i].n) continue;
    m->row = rows[i];
    m->chunk = (int32_t)c;
    m->slot = slot;
    m->part = (int32_t)(rest / (uint32_t)a.kv_blocks);
    m->block = (int32_t)(rest % (uint32_t)a.kv_blocks);
  }
  __syncthreads();
  return m->row.n > 0;
}

/* ---- columns that only turn, or only move ---- */

template <class T, int S>
RP_DEVICE void turn_chunk(const rp_gate_args &a, const room *m, int64_t column, int32_t heads,
                          int64_t from, rp_tensor out, rp_ptr rope) {
  column += threadIdx.x % COLUMNS;
  const int32_t first = (m->chunk * RUNS + (int32_t)threadIdx.x / COLUMNS) * S;
  const int32_t left = m->row.n - 1 - first, ldp = (int32_t)a.ldp, ld = heads * a.h;
  if (left < 0 || column >= rp_gate_columns(heads, a.h, 4)) return;
  const pairs c = pairs_of(column, a.h, 4);
  const int64_t tok = m->row.tok + (int64_t)first;
  const T *p = (const T *)a.p.p.at + tok * a.ldp + from + c.at;
  T *to = (T *)out.p.at + tok * ld + c.at;
  const float *table =
      (const float *)rope.at + (a.rope_by_token ? tok : m->row.pos + (int64_t)first) * a.h + c.i;
  quad<T> low[S], high[S];
  RP_UNROLL
  for (int s = 0; s < S; s++) {
    fetch_once(low[s], p + at_most(s, left) * ldp);
    fetch_once(high[s], p + at_most(s, left) * ldp + c.half);
  }
  RP_UNROLL
  for (int s = 0; s < S; s++) {
    if (rope.at) {
      quad<float> cosine, sine;
      fetch(cosine, table + at_most(s, left) * a.h);
      fetch(sine, table + at_most(s, left) * a.h + c.half);
      RP_UNROLL
      for (int j = 0; j < 2; j++) {
        float2 x = two(low[s], j), y = two(high[s], j);
        turn(x, y, two(cosine, j), two(sine, j));
        set_two(low[s], j, x);
        set_two(high[s], j, y);
      }
    }
    if (s > left) continue;
    store(to + s * ld, low[s]);
    store(to + s * ld + c.half, high[s]);
  }
}

/* ---- the scan ---- */

template <class T, int S>
RP_DEVICE void sum_run(const tokens<T, S> &d, room *m, int32_t run, int32_t lane) {
  RP_UNROLL
  for (int j = 0; j < 4; j++) {
    float2 p = make_float2(1, 1), k = make_float2(0, 0), v = k;
    RP_UNROLL
    for (int s = 0; s < S; s++) {
      const float2 g = sigmoid(two(d.g[s][j % 2], j / 2));
      p = mul2(p, g);
      k = step(k, g, two(d.k[s][j % 2], j / 2));
      v = step(v, g, two(d.x[s][j % 2], j / 2));
    }
    *(float2 *)&m->run[0][j][run][2 * lane] = p;
    *(float2 *)&m->run[1][j][run][2 * lane] = k;
    *(float2 *)&m->run[2][j][run][2 * lane] = v;
  }
}

/* The whole chunk of channel i of the block; m->run becomes what is before each. */
RP_DEVICE link join_runs(room *m, int32_t i) {
  const int32_t j = i / 32, lane = i % 32;
  link sum;
  sum.p = 1, sum.k = sum.v = 0;
  RP_UNROLL
  for (int run = 0; run < RUNS; run++) {
    float *p = &m->run[0][j][run][lane], *k = &m->run[1][j][run][lane],
          *v = &m->run[2][j][run][lane];
    const float gate = *p, key = *k, value = *v;
    *p = sum.p, *k = sum.k, *v = sum.v;
    sum.k = fmaf(gate, sum.k, key);
    sum.v = fmaf(gate, sum.v, value);
    sum.p *= gate;
  }
  return sum;
}

/* Where the row's states are after its t-th token. */
RP_DEVICE float *cell_at(const rp_gate_args &a, const rp_row &row, int32_t t) {
  return (float *)rp_cell_state(&a.kv, row.cell, a.Hk, a.h, sizeof(float), row.pos + t).at;
}

/* Steps 2 and 3. */
RP_DEVICE void join_chunk(const rp_gate_scan_args &a, room *m, int32_t chunk) {
  const int32_t i = (int32_t)threadIdx.x, j = i / 32, lane = i % 32;
  const int64_t column = (int64_t)m->block * COLUMNS + lane / 2;
  link start;
  start.p = start.k = start.v = 0;
  if (i >= WIDTH) return;
  const link sum = join_runs(m, i);
  if (m->chunk == 0 && m->row.cell.at && m->row.pos > 0 &&
      column < rp_gate_columns(a.op.Hk, a.op.h, 4)) {
    const pairs c = pairs_of(column, a.op.h, 4);
    const float *from = cell_at(a.op, m->row, -1) + c.at + j % 2 * c.half + j / 2 * 2 + lane % 2;
    start.k = from[0];
    start.v = from[(int64_t)a.op.Hk * a.op.h];
  }
  links l;
  l.each = a.kv_blocks * 3 * WIDTH;
  l.mine = (uint32_t *)a.links.at + RP_SCAN_LINKS + m->slot * l.each + m->block * 3 * WIDTH + i;
  const bool last = (m->chunk + 1) * chunk >= m->row.n;
  start = chain(l, m->chunk, !last, true, sum, start);
  m->carry[0][j][lane] = start.k;
  m->carry[1][j][lane] = start.v;
}

/* The state before a thread's run, of channels 2j, 2j + 1 and their partners. */
RP_DEVICE void start_run(float2 (&k)[2], float2 (&v)[2], const room *m, int j, int32_t run,
                         int32_t lane) {
  RP_UNROLL
  for (int half = 0; half < 2; half++) {
    const int at = 2 * j + half;
    const float2 p = *(const float2 *)&m->run[0][at][run][2 * lane];
    k[half] = fma2(p, *(const float2 *)&m->carry[0][at][2 * lane],
                   *(const float2 *)&m->run[1][at][run][2 * lane]);
    v[half] = fma2(p, *(const float2 *)&m->carry[1][at][2 * lane],
                   *(const float2 *)&m->run[2][at][run][2 * lane]);
  }
}
template <class T, int S>
RP_DEVICE void step_run(float2 (&k)[2], float2 (&v)[2], const tokens<T, S> &d, int s, int j) {
  RP_UNROLL
  for (int half = 0; half < 2; half++) {
    const float2 g = sigmoid(two(d.g[s][half], j));
    k[half] = step(k[half], g, two(d.k[s][half], j));
    v[half] = step(v[half], g, two(d.x[s][half], j));
  }
}

/* The states after a row's last tokens go to its cell. */
template <class T, int S>
RP_DEVICE void leave_states(const tokens<T, S> &d, const rp_gate_args &a, int32_t first,
                            const pairs &c, const room *m, int32_t run, int32_t lane) {
  const int32_t from = m->row.n - a.kv.states;
  RP_UNROLL
  for (int j = 0; j < 2; j++) {
    float2 k[2], v[2];
    start_run(k, v, m, j, run, lane);
    RP_UNROLL
    for (int s = 0; s < S; s++) {
      const int32_t token = first + s;
      step_run(k, v, d, s, j);
      if (token < from || token >= m->row.n) continue;
      float *to = cell_at(a, m->row, token) + c.at + 2 * j, *v_to = to + (int64_t)a.Hk * a.h;
      *(float2 *)to = k[0];
      *(float2 *)(to + c.half) = k[1];
      *(float2 *)v_to = v[0];
      *(float2 *)(v_to + c.half) = v[1];
    }
  }
}

/* k and x become k~, turned, and v~. Behind the row's end nothing of use, at its last token's angle. */
template <class T, int S>
RP_DEVICE void scan_run(tokens<T, S> &d, const rp_gate_args &a, int32_t first, const pairs &c,
                        const room *m, int32_t run, int32_t lane) {
  const int32_t left = m->row.n - 1 - first, begin = left < 0 ? m->row.n - 1 : first;
  const float *table = (const float *)a.rope.at +
                       ((a.rope_by_token ? m->row.tok : m->row.pos) + (int64_t)begin) * a.h + c.i;
  RP_UNROLL
  for (int j = 0; j < 2; j++) {
    float2 k[2], v[2];
    start_run(k, v, m, j, run, lane);
    RP_UNROLL
    for (int s = 0; s < S; s++) {
      step_run(k, v, d, s, j);
      set_two(d.x[s][0], j, v[0]);
      set_two(d.x[s][1], j, v[1]);
      float2 low = k[0], high = k[1];
      const float *turns = table + at_most(s, left) * a.h + 2 * j;
      turn(low, high, *(const float2 *)turns, *(const float2 *)(turns + c.half));
      set_two(d.k[s][0], j, low);
      set_two(d.k[s][1], j, high);
    }
    forget(d);
  }
}

template <class T, int S>
RP_DEVICE void scan_chunk(const rp_gate_scan_args &a, room *m) {
  const int32_t lane = (int32_t)threadIdx.x % COLUMNS, run = (int32_t)threadIdx.x / COLUMNS;
  const int32_t first = (m->chunk * RUNS + run) * S;
  const int64_t column = (int64_t)m->block * COLUMNS + lane, ld = (int64_t)a.op.Hk * a.op.h;
  const int64_t columns_there = rp_gate_columns(a.op.Hk, a.op.h, 4);
  const bool there = column < columns_there;
  const pairs c = pairs_of(there ? column : columns_there - 1, a.op.h, 4);
  const int32_t left = m->row.n - 1 - first;
  tokens<T, S> d;
  fetch_tokens<true>(d, (const T *)a.op.p.p.at + c.at, a.op.ldp,
                     m->row.tok + (left < 0 ? m->row.n - 1 : first), left,
                     columns_of(a.op.H, a.op.Hk, a.op.h), c.half);
  sum_run(d, m, run, lane);
  __syncthreads();
  forget(d);
  join_chunk(a, m, RUNS * S);
  __syncthreads();
  if (there && m->row.cell.at && first < m->row.n && first + S > m->row.n - a.op.kv.states)
    leave_states(d, a.op, first, c, m, run, lane);
  forget(d);
  scan_run(d, a.op, first, c, m, run, lane);
  T *k = (T *)a.op.k.p.at + (m->row.tok + first) * ld + c.at;
  T *v = (T *)a.op.v.p.at + (m->row.tok + first) * ld + c.at;
  RP_UNROLL
  for (int half = 0; half < 2; half++, k += c.half, v += c.half) {
    RP_UNROLL
    for (int s = 0; s < S; s++) {
      if (!there || s > left) continue;
      store(k + s * (int32_t)ld, d.k[s][half]);
      store(v + s * (int32_t)ld, d.x[s][half]);
    }
  }
}

template <class T, int S>
RP_DEVICE void gate_scan(const rp_gate_scan_args &a) {
  RP_SHARED(room, m);
  const rp_gate_args &o = a.op;
  const columns col = columns_of(o.H, o.Hk, o.h);
  if (!find_task(a, m, RUNS * S)) return;
  if (m->part) {
    const int64_t block = (int64_t)m->block * a.q_blocks + m->part - 1;
    turn_chunk<T, S>(o, m, block * COLUMNS, o.H, col.q, o.q, o.rope);
  } else if (o.re) {
    scan_chunk<T, S>(a, m);
  } else {
    const int64_t column = (int64_t)m->block * COLUMNS;
    turn_chunk<T, S>(o, m, column, o.Hk, col.k, o.k, o.rope);
    turn_chunk<T, S>(o, m, column, o.Hk, col.x, o.v, rp_ptr{0});
  }
}
RP_KERNEL_FIT(gate_scan_f32, rp_gate_scan_args, RP_SCAN_THREADS, 2) {
  gate_scan<float, RP_SCAN_TOKENS_F32>(a);
}
RP_KERNEL_FIT(gate_scan_bf16, rp_gate_scan_args, RP_SCAN_THREADS, 2) {
  gate_scan<bf16, RP_SCAN_TOKENS_BF16>(a);
}
