/* gate.cu - gate, scan and rotation, their backward, the table of the rotation. */
#include "ops/cuda/kernel/gate.h"

#include "ops/cuda/kernel/gate_lane.h"

/* ---- the table ---- */

RP_KERNEL(rope, rp_rope_args, RP_ROPE_THREADS) {
  const int32_t half = a.h / 2, i = (int32_t)(blockIdx.y * RP_ROPE_THREADS + threadIdx.x);
  const int64_t tiles = gridDim.x / (a.rows.row.at ? a.rows.count : 1);
  const int64_t first = blockIdx.x % tiles * RP_ROPE_TOKENS;
  int64_t position = a.from, n = a.count;
  float *table = (float *)a.table.at; /* [n][h] */
  if (a.rows.row.at) {
    const rp_row row = ((const rp_row *)a.rows.row.at)[blockIdx.x / tiles];
    position = row.pos;
    n = row.n;
    table += (int64_t)row.tok * a.h;
  }
  if (i >= half || first >= n) return;
  const double speed = pow(a.base, -2.0 * i / a.h);
  const int64_t end = first + RP_ROPE_TOKENS < n ? first + RP_ROPE_TOKENS : n;
  for (int64_t t = first; t < end; t++) {
    double sine, cosine;
    sincos((double)(position + t) / a.scale * speed, &sine, &cosine);
    table[t * a.h + i] = (float)cosine;
    table[t * a.h + half + i] = (float)sine;
  }
}

/* ---- elements ---- */

RP_DEVICE void get(float (&to)[1], const float *p) { to[0] = *p; }
RP_DEVICE void get(float (&to)[1], const bf16 *p) { to[0] = to_f32(*p); }
template <class T>
RP_DEVICE void get(float (&to)[4], const T *p) {
  quad<T> q;
  fetch(q, p);
  const float2 a = two(q, 0), b = two(q, 1);
  to[0] = a.x, to[1] = a.y, to[2] = b.x, to[3] = b.y;
}
template <class T>
RP_DEVICE void put(T *p, const float (&x)[1]) {
  put_f32(p, x[0]);
}
template <class T>
RP_DEVICE void put(T *p, const float (&x)[4]) {
  quad<T> q;
  set_two(q, 0, make_float2(x[0], x[1]));
  set_two(q, 1, make_float2(x[2], x[3]));
  store(p, q);
}
/* Such as there are not: those behind an odd head. */
template <class T, int V>
RP_DEVICE void get_if(float (&to)[V], const T *p, bool there) {
  RP_UNROLL
  for (int i = 0; i < V; i++) to[i] = 0;
  if (there) get(to, p);
}

/* ---- forward, token by token: any shape, and calls of few tokens a row ---- */

/* sign 1 turns to the position, -1 back. */
template <int V>
RP_DEVICE void turn_to(float (&low)[V], float (&high)[V], rp_ptr rope, int64_t position, int32_t h,
                       pairs c, float sign) {
  const float *table = (const float *)rope.at + position * h + c.i;
  float cosine[V], sine[V];
  if (!rope.at) return;
  get(cosine, table);
  get(sine, table + c.half);
  RP_UNROLL
  for (int i = 0; i < V; i++) turn(low[i], high[i], cosine[i], sign * sine[i]);
}

template <class T, int V>
RP_DEVICE void turn_walk(const rp_gate_args &a, const rp_row &row, int64_t from, T *to, pairs c,
                         int64_t ld, rp_ptr rope) {
  for (int32_t t = 0; t < row.n; t++) {
    const int64_t tok = row.tok + t;
    const T *p = (const T *)a.p.p.at + tok * a.ldp + from + c.at;
    float low[V], high[V];
    get(low, p);
    get_if<T, V>(high, p + c.half, c.both);
    turn_to(low, high, rope, a.rope_by_token ? tok : row.pos + t, a.h, c, 1);
    put(to + tok * ld + c.at, low);
    if (c.both) put(to + tok * ld + c.at + c.half, high);
  }
}

/* k~ and v~ of a thread's pairs. */
template <int V>
struct states {
  float k[2][V], v[2][V];
};
template <int V>
RP_DEVICE void zero(states<V> &s) {
  RP_UNROLL
  for (int i = 0; i < V; i++) s.k[0][i] = s.k[1][i] = s.v[0][i] = s.v[1][i] = 0;
}
template <int V>
RP_DEVICE float *cell_at(const rp_gate_args &a, const rp_row &row, int32_t t, pairs c) {
  return (float *)rp_cell_state(&a.kv, row.cell, a.Hk, a.h, sizeof(float), row.pos + t).at + c.at;
}
template <int V>
RP_DEVICE void state_in(states<V> &s, const rp_gate_args &a, const rp_row &row, pairs c) {
  const float *from = cell_at<V>(a, row, -1, c), *v = from + (int64_t)a.Hk * a.h;
  get(s.k[0], from);
  get_if<float, V>(s.k[1], from + c.half, c.both);
  get(s.v[0], v);
  get_if<float, V>(s.v[1], v + c.half, c.both);
}
template <int V>
RP_DEVICE void state_out(const states<V> &s, const rp_gate_args &a, const rp_row &row, int32_t t,
                         pairs c) {
  float *to = cell_at<V>(a, row, t, c), *v = to + (int64_t)a.Hk * a.h;
  put(to, s.k[0]);
  put(v, s.v[0]);
  if (!c.both) return;
  put(to + c.half, s.k[1]);
  put(v + c.half, s.v[1]);
}

template <class T, int V>
RP_DEVICE void step_token(states<V> &s, float (&g)[2][V], float (&k)[2][V], float (&x)[2][V],
                          const T *p, columns col, pairs c) {
  RP_UNROLL
  for (int j = 0; j < 2; j++) {
    const bool there = !j || c.both;
    const T *from = p + j * c.half;
    get_if<T, V>(g[j], from + col.g, there);
    get_if<T, V>(k[j], from + col.k, there);
    get_if<T, V>(x[j], from + col.x, there);
  }
  RP_UNROLL
  for (int j = 0; j < 2; j++) {
    RP_UNROLL
    for (int i = 0; i < V; i++) {
      g[j][i] = sigmoid(g[j][i]);
      s.k[j][i] = step(s.k[j][i], g[j][i], k[j][i]);
      s.v[j][i] = step(s.v[j][i], g[j][i], x[j][i]);
    }
  }
}

template <class T, int V>
RP_DEVICE void scan_walk(const rp_gate_args &a, const rp_row &row, pairs c) {
  const columns col = columns_of(a.H, a.Hk, a.h);
  const int64_t ld = (int64_t)a.Hk * a.h;
  const bool keep = row.cell.at;
  states<V> s;
  zero(s);
  if (keep && row.pos > 0) state_in(s, a, row, c);
  for (int32_t t = 0; t < row.n; t++) {
    const int64_t tok = row.tok + t, to = tok * ld + c.at;
    float g[2][V], k[2][V], x[2][V];
    step_token<T, V>(s, g, k, x, (const T *)a.p.p.at + tok * a.ldp + c.at, col, c);
    if (keep && t >= row.n - a.kv.states) state_out(s, a, row, t, c);
    RP_UNROLL
    for (int j = 0; j < 2; j++) {
      RP_UNROLL
      for (int i = 0; i < V; i++) k[j][i] = s.k[j][i];
    }
    turn_to(k[0], k[1], a.rope, a.rope_by_token ? tok : row.pos + t, a.h, c, 1);
    put((T *)a.k.p.at + to, k[0]);
    put((T *)a.v.p.at + to, s.v[0]);
    if (!c.both) continue;
    put((T *)a.k.p.at + to + c.half, k[1]);
    put((T *)a.v.p.at + to + c.half, s.v[1]);
  }
}

template <class T, int V>
RP_DEVICE void gate_walk(const rp_gate_args &a) {
  const rp_row row = ((const rp_row *)a.rows.row.at)[blockIdx.x % a.rows.count];
  const int64_t kv = rp_gate_columns(a.Hk, a.h, V), all = kv + rp_gate_columns(a.H, a.h, V);
  const columns col = columns_of(a.H, a.Hk, a.h);
  const int64_t i = blockIdx.x / a.rows.count * (int64_t)RP_GATE_WALK_THREADS + threadIdx.x;
  if (i >= all) return;
  const pairs c = pairs_of(i < kv ? i : i - kv, a.h, V);
  if (i >= kv) {
    turn_walk<T, V>(a, row, col.q, (T *)a.q.p.at, c, (int64_t)a.H * a.h, a.rope);
  } else if (a.re) {
    scan_walk<T, V>(a, row, c);
  } else {
    turn_walk<T, V>(a, row, col.k, (T *)a.k.p.at, c, (int64_t)a.Hk * a.h, a.rope);
    turn_walk<T, V>(a, row, col.x, (T *)a.v.p.at, c, (int64_t)a.Hk * a.h, rp_ptr{0});
  }
}
RP_KERNEL(gate_walk_f32, rp_gate_args, RP_GATE_WALK_THREADS) { gate_walk<float, 1>(a); }
RP_KERNEL(gate_walk_bf16, rp_gate_args, RP_GATE_WALK_THREADS) { gate_walk<bf16, 1>(a); }
RP_KERNEL(gate_walk_f32_4, rp_gate_args, RP_GATE_WALK_THREADS) { gate_walk<float, 4>(a); }
RP_KERNEL(gate_walk_bf16_4, rp_gate_args, RP_GATE_WALK_THREADS) { gate_walk<bf16, 4>(a); }

/* ---- backward, token by token: any shape ---- */

/* dp's columns from the gradient, turned back. */
template <class T>
RP_DEVICE void turn_back_walk(const rp_gate_bwd_args &a, const rp_row &row, rp_tensor d, int64_t to,
                              pairs c, int64_t ld, rp_ptr rope) {
  for (int32_t t = 0; t < row.n; t++) {
    const int64_t tok = row.tok + t;
    const float *from = (const float *)d.p.at + tok * ld + c.at;
    T *p = (T *)a.dp.p.at + tok * a.ldp + to + c.at;
    float low[1], high[1];
    get(low, from);
    get_if<float, 1>(high, from + c.half, c.both);
    turn_to(low, high, rope, row.pos + t, a.h, c, -1);
    put(p, low);
    if (c.both) put(p + c.half, high);
  }
}

/* r: the upstream gradient plus g_{t+1} r_{t+1} on entry, g_t r_t on return. */
RP_DEVICE float step_back(float *r, float g, float before, float in, float *dg) {
  const float d = *r;
  *dg += d * (before - in);
  *r = g * d;
  return (1 - g) * d;
}

/* Tokens first .. end of a row, from the end; s: the states before `first`. */
template <class T>
RP_DEVICE void scan_back(const rp_gate_bwd_args &a, const rp_row &row, pairs c, int32_t first,
                         int32_t end, states<1> s, states<1> &r) {
  const columns col = columns_of(a.H, a.Hk, a.h);
  const int64_t ld = (int64_t)a.Hk * a.h;
  states<1> before[RP_GATE_KEPT];
  float g[2][1], k[2][1], x[2][1];
  for (int32_t t = first; t < end; t++) {
    before[t - first] = s;
    step_token<T, 1>(s, g, k, x, (const T *)a.p.p.at + (row.tok + t) * a.ldp + c.at, col, c);
  }
  for (int32_t t = end - 1; t >= first; t--) {
    const int64_t tok = row.tok + t;
    const float *dk = (const float *)a.dk.p.at + tok * ld + c.at;
    const float *dv = (const float *)a.dv.p.at + tok * ld + c.at;
    T *dp = (T *)a.dp.p.at + tok * a.ldp + c.at;
    float up[2][1], dx[2][1];
    step_token<T, 1>(s, g, k, x, (const T *)a.p.p.at + tok * a.ldp + c.at, col, c);
    get(up[0], dk);
    get_if<float, 1>(up[1], dk + c.half, c.both);
    get(dx[0], dv);
    get_if<float, 1>(dx[1], dv + c.half, c.both);
    turn_to(up[0], up[1], a.rope, row.pos + t, a.h, c, -1);
    for (int j = 0; j < 1 + c.both; j++) {
      const float gate = g[j][0];
      float dg = 0;
      r.k[j][0] += up[j][0];
      r.v[j][0] += dx[j][0];
      T *to = dp + j * c.half;
      put_f32(to + col.k, step_back(&r.k[j][0], gate, before[t - first].k[j][0], k[j][0], &dg));
      put_f32(to + col.x, step_back(&r.v[j][0], gate, before[t - first].v[j][0], x[j][0], &dg));
      put_f32(to + col.g, dg * gate * (1 - gate));
    }
  }
}

template <class T>
RP_DEVICE void scan_bwd_walk(const rp_gate_bwd_walk_args &a, const rp_row &row, int32_t which,
                             int64_t column, pairs c) {
  const rp_gate_bwd_args &o = a.op;
  const columns col = columns_of(o.H, o.Hk, o.h);
  const int64_t width = rp_gate_columns(o.Hk, o.h, 1);
  float *starts = (float *)a.starts.at + (int64_t)which * a.runs * 4 * width + column;
  float g[2][1], k[2][1], x[2][1];
  states<1> s, r;
  zero(s);
  zero(r);
  const int32_t runs = (row.n + RP_GATE_KEPT - 1) / RP_GATE_KEPT;
  for (int32_t t = 0; t < row.n; t++) {
    if (t % RP_GATE_KEPT == 0) {
      float *to = starts + (int64_t)(t / RP_GATE_KEPT) * 4 * width;
      to[0] = s.k[0][0], to[width] = s.k[1][0];
      to[2 * width] = s.v[0][0], to[3 * width] = s.v[1][0];
    }
    step_token<T, 1>(s, g, k, x, (const T *)o.p.p.at + (row.tok + t) * o.ldp + c.at, col, c);
  }
  for (int32_t i = runs - 1; i >= 0; i--) {
    const float *from = starts + (int64_t)i * 4 * width;
    const int32_t first = i * RP_GATE_KEPT, end = first + RP_GATE_KEPT;
    s.k[0][0] = from[0], s.k[1][0] = from[width];
    s.v[0][0] = from[2 * width], s.v[1][0] = from[3 * width];
    scan_back<T>(o, row, c, first, end < row.n ? end : row.n, s, r);
  }
}

template <class T>
RP_DEVICE void gate_bwd_walk(const rp_gate_bwd_walk_args &a) {
  const rp_gate_bwd_args &o = a.op;
  const int32_t which = (int32_t)(blockIdx.x % o.rows.count);
  const rp_row row = ((const rp_row *)o.rows.row.at)[which];
  const int64_t kv = rp_gate_columns(o.Hk, o.h, 1), all = kv + rp_gate_columns(o.H, o.h, 1);
  const columns col = columns_of(o.H, o.Hk, o.h);
  const int64_t i = blockIdx.x / o.rows.count * (int64_t)RP_GATE_WALK_THREADS + threadIdx.x;
  if (i >= all) return;
  const pairs c = pairs_of(i < kv ? i : i - kv, o.h, 1);
  if (i >= kv) {
    turn_back_walk<T>(o, row, o.dq, col.q, c, (int64_t)o.H * o.h, o.rope);
  } else if (o.re) {
    scan_bwd_walk<T>(a, row, which, i, c);
  } else {
    turn_back_walk<T>(o, row, o.dk, col.k, c, (int64_t)o.Hk * o.h, o.rope);
    turn_back_walk<T>(o, row, o.dv, col.x, c, (int64_t)o.Hk * o.h, rp_ptr{0});
  }
}
RP_KERNEL(gate_bwd_walk_f32, rp_gate_bwd_walk_args, RP_GATE_WALK_THREADS) {
  gate_bwd_walk<float>(a);
}
RP_KERNEL(gate_bwd_walk_bf16, rp_gate_bwd_walk_args, RP_GATE_WALK_THREADS) {
  gate_bwd_walk<bf16>(a);
}
