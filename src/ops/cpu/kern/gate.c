#include "ops/cpu/kern/lanes.h"
#include "ops/cpu/kern/vec.h"

/* Gate, scan, rotate. Unit of work: (row, some key-value heads that lie side by side). It goes through
 * runs of RUN tokens, and through a run piece by piece of its channels, whose states stay in registers
 * meanwhile. Columns of the projection: o H*h | q H*h | k Hk*h | x Hk*h | g Hk*h. */

#define INLINE __attribute__((always_inline)) static inline

enum { RUN = 16 };

typedef struct {
  int64_t q, k, x, g;
} columns;
static columns columns_of(int H, int Hk, int h) {
  const int64_t q = (int64_t)H * h, kv = (int64_t)Hk * h;
  return (columns){q, 2 * q, 2 * q + kv, 2 * q + 2 * kv};
}

/* ---- two vectors of channels ---- */

/* In the order of memory, or where the compute type is bfloat16 (half) in split order (vec.h): then
 * neither reading nor writing moves a lane. n < TWO: the first n channels; what is read of others is 0. */
enum { TWO = 2 * VEC };
typedef struct {
  vec v[2];
} two;

INLINE two get(const void *x, const bool half, const int n) {
  const int64_t size = half ? 2 : sizeof(rp_real);
  rp_real part[TWO];
  if (n < TWO) {
    for (int64_t i = 0; i < TWO * size; i += VEC_BYTES)
      *(vec *)((uint8_t *)part + i) = vec_load_first((const uint8_t *)x + i, n * size - i);
    x = part;
  }
  if (half) return (two){{vec_halves(x, 0), vec_halves(x, 1)}};
  return (two){{((const vec *)x)[0], ((const vec *)x)[1]}};
}
/* past: past the caches (goes_past). */
INLINE void put(void *to, const two t, const bool half, const int n, const bool past) {
  const int64_t size = half ? 2 : sizeof(rp_real);
  rp_real part[TWO];
  void *x = n < TWO || past ? part : to;
  if (half) {
    vec_to_halves(x, t.v[0], t.v[1]);
  } else {
    ((vec *)x)[0] = t.v[0];
    ((vec *)x)[1] = t.v[1];
  }
  for (int64_t i = 0; (n < TWO || past) && i < TWO * size; i += VEC_BYTES) {
    const vec v = *(const vec *)((const uint8_t *)part + i);
    uint8_t *at = (uint8_t *)to + i;
    if (n < TWO)
      vec_store_first(at, v, n * size - i);
    else
      vec_store_past(at, v);
  }
}
/* From and to real, kept in the order of `half`. */
INLINE two get_real(const void *x, const bool half, const int n) {
  two t = get(x, false, n);
  if (half) vec_split(&t.v[0], &t.v[1]);
  return t;
}
INLINE void put_real(void *x, two t, const bool half, const int n) {
  if (half) vec_unsplit(&t.v[0], &t.v[1]);
  put(x, t, false, n, false);
}

/* Asks for a piece. Neighbours in a column of tokens lie on pages of their own, and 16 of these run
 * side by side: no processor sees a stream there that goes on, so each is asked for a run ahead, into the
 * second cache. That goes for what is written too: its lines are read before. */
INLINE void ask(const uint8_t *x, const int64_t far, const int64_t size) {
  for (int64_t i = 0; i < TWO * size; i += 64) {
    __builtin_prefetch(x + i, 0, 2);
    __builtin_prefetch(x + far + i, 0, 2);
  }
}
INLINE void ask_to_write(const uint8_t *x, const int64_t far, const int64_t size) {
  for (int64_t i = 0; i < TWO * size; i += 64) {
    __builtin_prefetch(x + i, 1, 2);
    __builtin_prefetch(x + far + i, 1, 2);
  }
}

INLINE two gates(two g) {
  RP_EACH(j, 2) VEC_MAP(g.v[j], sigmoid_real);
  return g;
}
/* state = g * state + (1 - g) * in */
INLINE void scan(two *state, const two g, const two in) {
  RP_EACH(j, 2) state->v[j] = g.v[j] * state->v[j] + (1 - g.v[j]) * in.v[j];
}
/* Pairs turn by an angle; sign -1 turns back. */
INLINE void turn(two *a, two *b, const two cosine, const two sine, const int sign) {
  RP_EACH(j, 2) {
    const vec x = a->v[j], y = b->v[j], s = sign < 0 ? -sine.v[j] : sine.v[j];
    a->v[j] = x * cosine.v[j] - y * s;
    b->v[j] = y * cosine.v[j] + x * s;
  }
}

/* ---- pieces ---- */

/* A piece is TWO channels and the TWO that turn with them, half a head (`apart`) further on; less at
 * the end of a head. What a piece is follows from h alone, so that a channel's sums have the same bits
 * in every unit. */
typedef struct {
  int count, per; /* per head */
  int h, apart;
} pieces;
typedef struct {
  int at, i;         /* first channel, and that within the head */
  int first, second; /* how many here and further on */
} piece;
static pieces pieces_of(int heads, int h) {
  const int apart = (h + 1) / 2, per = (apart + TWO - 1) / TWO;
  return (pieces){heads * per, per, h, apart};
}
static int at_most(int n, int most) { return n < most ? n : most; }
static piece piece_at(const pieces *p, int j) {
  const int i = j % p->per * TWO;
  return (piece){j / p->per * p->h + i, i, at_most(p->apart - i, TWO),
                 at_most(p->h - p->apart - i, TWO)};
}
/* f with `half` and the piece's width, constants but at the end of a head. */
#define BY_PIECE(f, half, c, ...) \
  do { \
    const bool whole = (c)->first == TWO && (c)->second == TWO; \
    if ((half) && whole) \
      f(__VA_ARGS__, c, true, TWO, TWO); \
    else if (half) \
      f(__VA_ARGS__, c, true, (c)->first, (c)->second); \
    else if (whole) \
      f(__VA_ARGS__, c, false, TWO, TWO); \
    else \
      f(__VA_ARGS__, c, false, (c)->first, (c)->second); \
  } while (0)
/* At most so many channels of pieces has a head. */
static int padded(int h) { return (int)round_up((size_t)(h + 1) / 2, TWO) * 2; }

/* ---- units ---- */

/* Heads of a unit: as many as fill the threads evenly, since what lies side by side is read at once;
 * at most MOST_WIDTH channels, so that a run's rows stay in the second cache. Every channel is on its
 * own, so this changes no result. */
enum { MOST_WIDTH = 1024 };
static int heads_of(const rp_rows *rows, int Hk, int h, int threads) {
  int best = 1;
  int64_t least = INT64_MAX;
  for (int n = 1; n <= Hk && (n == 1 || n * padded(h) <= MOST_WIDTH); n++) {
    const int64_t units = (int64_t)rows->count * ((Hk + n - 1) / n);
    const int64_t time = (units + threads - 1) / threads * n;
    if (time > least) continue;
    least = time;
    best = n;
  }
  return best;
}

/* Reals of one state of the widest unit, however many rows there are: more rows never take more
 * scratch. */
static size_t widest(int Hk, int h) {
  const int each = padded(h), heads = MOST_WIDTH / each;
  return (size_t)(heads < 1 ? 1 : at_most(heads, Hk)) * (size_t)each;
}

typedef struct {
  const rp_row *row;
  int head, heads; /* key-value heads [head, head + heads) */
  bool large;      /* what the op writes */
} unit;
static int64_t units_of(const rp_rows *rows, int Hk, int each) {
  return (int64_t)rows->count * ((Hk + each - 1) / each);
}
static unit unit_at(const rp_row *rows, int Hk, int each, bool large, int64_t i) {
  const int64_t per = (Hk + each - 1) / each;
  const int head = (int)(i % per) * each;
  return (unit){&rows[i / per], head, at_most(Hk - head, each), large};
}

/* What is written goes past the caches where no last level holds it and its pieces are whole lines. */
enum { LARGE = 32 << 20 };
static bool is_large(int64_t elements, rp_tensor t) {
  return elements * rp_dtype_bytes(t.dtype) >= LARGE;
}
static bool goes_past(const unit *u, const void *to, int64_t ld, int apart, int64_t size) {
  const uintptr_t all = (uintptr_t)to | (uintptr_t)ld | (uintptr_t)((apart | TWO) * size);
  return VEC_PAST && u->large && all % 64 == 0;
}

/* From a run to the next one of a unit; 0 after the last. */
static int ahead_of(const unit *u, int32_t t) { return t + RUN < u->row->n ? RUN : 0; }

/* ---- what turns, and no more ---- */

/* n rows, ld bytes apart; rope: the first one's angles [h], none: a copy. ahead: to rows that come
 * next. */
typedef struct {
  const uint8_t *from;
  uint8_t *to;
  int64_t ld_from, ld_to;
  const rp_real *rope;
  int n, ahead, sign;
  bool half_from, half_to, past;
} turning;

INLINE void turn_piece(const turning *r, const pieces *p, const bool half_from, const piece *c,
                       const bool half, const int first, const int second) {
  const int64_t in = half_from ? 2 : sizeof(rp_real), out = half ? 2 : sizeof(rp_real);
  const uint8_t *from = r->from + c->at * in;
  uint8_t *to = r->to + c->at * out;
  const rp_real *rope = r->rope + c->i;
  for (int t = 0; t < r->n; t++) {
    const uint8_t *far = from + p->apart * in;
    ask(from + r->ahead * r->ld_from, p->apart * in, in);
    if (!r->past) ask_to_write(to + r->ahead * r->ld_to, p->apart * out, out);
    two a = half_from ? get(from, true, first) : get_real(from, half, first);
    two b = half_from ? get(far, true, second) : get_real(far, half, second);
    if (r->rope) {
      turn(&a, &b, get_real(rope, half, first), get_real(rope + p->apart, half, first), r->sign);
      rope += p->h;
    }
    put(to, a, half, first, r->past);
    put(to + p->apart * out, b, half, second, r->past);
    from += r->ld_from;
    to += r->ld_to;
  }
}
static void turn_rows(const turning *r, const pieces *p) {
  for (int j = 0; j < p->count; j++) {
    const piece c = piece_at(p, j);
    if (r->half_from)
      BY_PIECE(turn_piece, true, &c, r, p, true);
    else
      BY_PIECE(turn_piece, r->half_to, &c, r, p, false);
  }
}

static bool is_half(rp_tensor t) { return t.dtype == RP_BF16; }
static const rp_real *rope_at(rp_ptr rope, int64_t position, int h) {
  return rope.at ? (const rp_real *)rope.at + position * h : NULL;
}

/* ---- forward ---- */

size_t RP_SCRATCH(gate)(const rp_cpu_ctx *c, const void *args) {
  const rp_gate_args *a = args;
  return (size_t)c->threads * 2 * widest(a->Hk, a->h) * sizeof(rp_real);
}

/* A row's states of a unit's heads before its first token, and after a later one: k~, and v~
 * Hk*h on. */
static rp_real *state_at(const rp_gate_args *a, const unit *u, int32_t t) {
  const rp_ptr p =
      rp_cell_state(&a->kv, u->row->cell, a->Hk, a->h, sizeof(rp_real), u->row->pos + t);
  return (rp_real *)p.at + (int64_t)u->head * a->h;
}

/* Tokens of a unit: where the first one's columns lie. */
typedef struct {
  const uint8_t *k, *x, *g;
  uint8_t *to_k, *to_v;
  int64_t ldp, ldk; /* bytes */
  const rp_real *rope;
  rp_real *state[RUN]; /* where a token leaves its states; none: nowhere */
  int64_t v;           /* from k~ to v~ there */
  int n, ahead;        /* tokens; to those that come next */
  bool past;
} keys_run;

INLINE void keys_piece(const keys_run *r, const pieces *p, two *carry, const piece *c,
                       const bool half, const int first, const int second) {
  const int64_t size = half ? 2 : sizeof(rp_real), far = p->apart * size;
  const uint8_t *k = r->k + c->at * size, *x = r->x + c->at * size, *g = r->g + c->at * size;
  uint8_t *to_k = r->to_k + c->at * size, *to_v = r->to_v + c->at * size;
  const rp_real *rope = r->rope + c->i;
  const int64_t ahead = r->ahead * r->ldp, ahead_to = r->ahead * r->ldk;
  two k1 = carry[0], k2 = carry[1], v1 = carry[2], v2 = carry[3];
  for (int t = 0; t < r->n; t++) {
    ask(k + ahead, far, size);
    ask(x + ahead, far, size);
    ask(g + ahead, far, size);
    if (!r->past) {
      ask_to_write(to_k + ahead_to, far, size);
      ask_to_write(to_v + ahead_to, far, size);
    }
    const two g1 = gates(get(g, half, first)), g2 = gates(get(g + far, half, second));
    scan(&k1, g1, get(k, half, first));
    scan(&k2, g2, get(k + far, half, second));
    scan(&v1, g1, get(x, half, first));
    scan(&v2, g2, get(x + far, half, second));
    put(to_v, v1, half, first, r->past);
    put(to_v + far, v2, half, second, r->past);
    two a = k1, b = k2;
    if (r->rope) {
      turn(&a, &b, get_real(rope, half, first), get_real(rope + p->apart, half, first), 1);
      rope += p->h;
    }
    put(to_k, a, half, first, r->past);
    put(to_k + far, b, half, second, r->past);
    if (r->state[t]) {
      rp_real *state = r->state[t] + c->at;
      put_real(state, k1, half, first);
      put_real(state + p->apart, k2, half, second);
      put_real(state + r->v, v1, half, first);
      put_real(state + r->v + p->apart, v2, half, second);
    }
    k += r->ldp;
    x += r->ldp;
    g += r->ldp;
    to_k += r->ldk;
    to_v += r->ldk;
  }
  carry[0] = k1;
  carry[1] = k2;
  carry[2] = v1;
  carry[3] = v2;
}
static void keys_rows(const keys_run *r, const pieces *p, bool half, two *carry) {
  for (int j = 0; j < p->count; j++) {
    const piece c = piece_at(p, j);
    BY_PIECE(keys_piece, half, &c, r, p, carry + 4 * j);
  }
}

/* The states to begin with. */
static void carry_in(const pieces *p, const rp_real *state, int64_t v, bool half, two *carry) {
  memset(carry, 0, (size_t)p->count * 4 * sizeof *carry);
  for (int j = 0; state && j < p->count; j++) {
    const piece c = piece_at(p, j);
    const rp_real *from = state + c.at;
    carry[4 * j] = get_real(from, half, c.first);
    carry[4 * j + 1] = get_real(from + p->apart, half, c.second);
    carry[4 * j + 2] = get_real(from + v, half, c.first);
    carry[4 * j + 3] = get_real(from + v + p->apart, half, c.second);
  }
}

/* Tokens [t, t + n) of a unit. */
static void gate_keys(const rp_gate_args *a, const unit *u, int32_t t, int n, const pieces *p,
                      const rp_real *rope, two *carry) {
  const int64_t kv = (int64_t)a->Hk * a->h, at = (int64_t)u->head * a->h;
  const int64_t tok = u->row->tok + t, size = rp_dtype_bytes(a->p.dtype);
  const columns col = columns_of(a->H, a->Hk, a->h);
  const int64_t from = tok * a->ldp + at, to = tok * kv + at;
  keys_run r = {.k = rd(a->p, from + col.k),
                .x = rd(a->p, from + col.x),
                .g = rd(a->p, from + col.g),
                .to_k = wr(a->k, to),
                .to_v = wr(a->v, to),
                .ldp = a->ldp * size,
                .ldk = kv * size,
                .rope = rope,
                .v = kv,
                .n = n,
                .ahead = ahead_of(u, t)};
  r.past = goes_past(u, r.to_k, r.ldk, p->apart, size) && goes_past(u, r.to_v, 0, 0, size);
  for (int j = 0; j < n; j++)
    if (u->row->cell.at && t + j >= u->row->n - a->kv.states) r.state[j] = state_at(a, u, t + j);
  keys_rows(&r, p, is_half(a->p), carry);
}
/* Columns as they are, but turned. */
static void gate_turn(const rp_gate_args *a, const unit *u, int32_t t, int64_t column, rp_tensor to,
                      int64_t ld, int64_t at, const rp_real *rope, int heads) {
  const int64_t tok = u->row->tok + t, size = rp_dtype_bytes(a->p.dtype);
  const pieces p = pieces_of(heads, a->h);
  turning r = {.from = rd(a->p, tok * a->ldp + column + at),
               .to = wr(to, tok * ld + at),
               .ld_from = a->ldp * size,
               .ld_to = ld * size,
               .rope = rope,
               .n = at_most(u->row->n - t, RUN),
               .ahead = ahead_of(u, t),
               .sign = 1,
               .half_from = is_half(a->p),
               .half_to = is_half(a->p)};
  r.past = goes_past(u, r.to, r.ld_to, p.apart, size);
  turn_rows(&r, &p);
}

static void gate_unit(const rp_gate_args *a, const unit *u, two *carry) {
  const rp_row *row = u->row;
  const int h = a->h, group = a->H / a->Hk;
  const int64_t q = (int64_t)a->H * h, kv = (int64_t)a->Hk * h, at = (int64_t)u->head * h;
  const columns col = columns_of(a->H, a->Hk, h);
  const pieces p = pieces_of(u->heads, h);
  const bool goes_on = a->re && row->cell.at && row->pos > 0;
  carry_in(&p, goes_on ? state_at(a, u, -1) : NULL, kv, is_half(a->p), carry);
  for (int32_t t = 0; t < row->n; t += RUN) {
    const int n = at_most(row->n - t, RUN);
    const int64_t tok = row->tok + t;
    const rp_real *rope = rope_at(a->rope, a->rope_by_token ? tok : row->pos + t, h);
    if (a->re) {
      gate_keys(a, u, t, n, &p, rope, carry);
    } else {
      gate_turn(a, u, t, col.k, a->k, kv, at, rope, u->heads);
      gate_turn(a, u, t, col.x, a->v, kv, at, NULL, u->heads);
    }
    gate_turn(a, u, t, col.q, a->q, q, at * group, rope, u->heads * group);
  }
  vec_past_end();
}

void RP_DRIVER(gate)(rp_cpu_ctx *c, const void *args) {
  const rp_gate_args *a = args;
  const bool ok = is_compute(a->p) && a->p.dtype == a->q.dtype && a->p.dtype == a->k.dtype &&
                  a->p.dtype == a->v.dtype;
  const rp_row *row = rows_of(c, &a->rows, &a->kv, "gate");
  if (!row || !dtypes(c, ok, "gate")) return;
  const int threads = team_for(c, (int64_t)a->rows.tokens * (a->H + 2 * a->Hk) * a->h);
  const int each = heads_of(&a->rows, a->Hk, a->h, threads);
  const int64_t units = units_of(&a->rows, a->Hk, each);
  const size_t reals = 2 * widest(a->Hk, a->h);
  const bool large = is_large(a->rows.tokens * ((int64_t)a->H + 2 * a->Hk) * a->h, a->p);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < units; i++) {
    const unit u = unit_at(row, a->Hk, each, large, i);
    gate_unit(a, &u, (two *)((rp_real *)c->scratch + (size_t)omp_get_thread_num() * reals));
  }
}

/* ---- backward ---- */

/* The scan runs forward once for the states in front of every run; then run by run from the end, and
 * piece by piece, forward again with what the way back needs kept, and back. So memory grows with
 * T / RUN. Of a thread: the gradients carried back, then the states in front of each run. */
static int64_t runs_of(int32_t n) { return (n + RUN - 1) / RUN; }
static size_t bwd_reals(const rp_gate_bwd_args *a) {
  const size_t states = a->re ? (size_t)runs_of(a->rows.longest) : 0;
  return (states + 1) * 2 * widest(a->Hk, a->h);
}
size_t RP_SCRATCH(gate_bwd)(const rp_cpu_ctx *c, const void *args) {
  return (size_t)c->threads * bwd_reals(args) * sizeof(rp_real);
}

/* Tokens of a unit: where the first one's columns lie. */
typedef struct {
  const uint8_t *k, *x, *g, *dk, *dv;
  uint8_t *to_k, *to_x, *to_g;
  int64_t ldp, ldk; /* bytes */
  const rp_real *rope;
  int n, ahead; /* tokens; to those that come next */
  bool past;
} back_run;

/* The states of a piece after the run from those before it. */
INLINE void again_piece(const back_run *r, const pieces *p, const two *before, two *after,
                        const piece *c, const bool half, const int first, const int second) {
  const int64_t size = half ? 2 : sizeof(rp_real), far = p->apart * size;
  const uint8_t *k = r->k + c->at * size, *x = r->x + c->at * size, *g = r->g + c->at * size;
  two k1 = before[0], k2 = before[1], v1 = before[2], v2 = before[3];
  const int64_t ahead = r->ahead * r->ldp;
  for (int t = 0; t < r->n; t++, k += r->ldp, x += r->ldp, g += r->ldp) {
    ask(k + ahead, far, size);
    ask(x + ahead, far, size);
    ask(g + ahead, far, size);
    const two g1 = gates(get(g, half, first)), g2 = gates(get(g + far, half, second));
    scan(&k1, g1, get(k, half, first));
    scan(&k2, g2, get(k + far, half, second));
    scan(&v1, g1, get(x, half, first));
    scan(&v2, g2, get(x + far, half, second));
  }
  after[0] = k1;
  after[1] = k2;
  after[2] = v1;
  after[3] = v2;
}
static void again_rows(const back_run *r, const pieces *p, bool half, const two *before,
                       two *after) {
  for (int j = 0; j < p->count; j++) {
    const piece c = piece_at(p, j);
    BY_PIECE(again_piece, half, &c, r, p, before + 4 * j, after + 4 * j);
  }
}

/* Of a token: the gate, and how far k and x were from the states before. */
typedef struct {
  two g, k, v;
} kept;
/* state += (1 - g) * (in - state); returns state - in. */
INLINE two scan_kept(two *state, const two g, const two in) {
  two d;
  RP_EACH(j, 2) {
    d.v[j] = state->v[j] - in.v[j];
    state->v[j] = g.v[j] * d.v[j] + in.v[j];
  }
  return d;
}
/* One token back. rk, rv: g_{t+1} r_{t+1} on entry, g_t r_t on return, where r_t is the gradient of
 * state t. dk, dv: its own part on entry, the gradients of k and x on return. Returns that of the
 * gate's column. */
INLINE two scan_back(two *rk, two *rv, const kept *s, two *dk, two *dv) {
  two dg;
  RP_EACH(j, 2) {
    const vec g = s->g.v[j], rest = 1 - g, k = rk->v[j] + dk->v[j], v = rv->v[j] + dv->v[j];
    dg.v[j] = (k * s->k.v[j] + v * s->v.v[j]) * (g * rest);
    dk->v[j] = rest * k;
    dv->v[j] = rest * v;
    rk->v[j] = g * k;
    rv->v[j] = g * v;
  }
  return dg;
}

INLINE void back_piece(const back_run *r, const pieces *p, const two *before, two *carry,
                       const piece *c, const bool half, const int first, const int second) {
  const int64_t size = half ? 2 : sizeof(rp_real), far = p->apart * size;
  const int64_t from = c->at * size, from_real = c->at * (int64_t)sizeof(rp_real);
  const int64_t far_real = p->apart * (int64_t)sizeof(rp_real);
  kept s1[RUN], s2[RUN];
  two k1 = before[0], k2 = before[1], v1 = before[2], v2 = before[3];
  for (int t = 0; t < r->n; t++) {
    const int64_t at = from + t * r->ldp, next = at + r->ahead * r->ldp;
    ask(r->k + next, far, size);
    ask(r->x + next, far, size);
    ask(r->g + next, far, size);
    s1[t].g = gates(get(r->g + at, half, first));
    s2[t].g = gates(get(r->g + at + far, half, second));
    s1[t].k = scan_kept(&k1, s1[t].g, get(r->k + at, half, first));
    s2[t].k = scan_kept(&k2, s2[t].g, get(r->k + at + far, half, second));
    s1[t].v = scan_kept(&v1, s1[t].g, get(r->x + at, half, first));
    s2[t].v = scan_kept(&v2, s2[t].g, get(r->x + at + far, half, second));
  }
  two rk1 = carry[0], rk2 = carry[1], rv1 = carry[2], rv2 = carry[3];
  for (int t = r->n - 1; t >= 0; t--) {
    const int64_t at = from + t * r->ldp, at_real = from_real + t * r->ldk;
    const int64_t next = at + r->ahead * r->ldp, next_real = at_real + r->ahead * r->ldk;
    ask(r->dk + next_real, far_real, sizeof(rp_real));
    ask(r->dv + next_real, far_real, sizeof(rp_real));
    if (!r->past) {
      ask_to_write(r->to_k + next, far, size);
      ask_to_write(r->to_x + next, far, size);
      ask_to_write(r->to_g + next, far, size);
    }
    two a = get_real(r->dk + at_real, half, first);
    two b = get_real(r->dk + at_real + far_real, half, second);
    if (r->rope) {
      const rp_real *rope = r->rope + c->i + (int64_t)t * p->h;
      turn(&a, &b, get_real(rope, half, first), get_real(rope + p->apart, half, first), -1);
    }
    two x1 = get_real(r->dv + at_real, half, first);
    two x2 = get_real(r->dv + at_real + far_real, half, second);
    put(r->to_g + at, scan_back(&rk1, &rv1, &s1[t], &a, &x1), half, first, r->past);
    put(r->to_g + at + far, scan_back(&rk2, &rv2, &s2[t], &b, &x2), half, second, r->past);
    put(r->to_k + at, a, half, first, r->past);
    put(r->to_k + at + far, b, half, second, r->past);
    put(r->to_x + at, x1, half, first, r->past);
    put(r->to_x + at + far, x2, half, second, r->past);
  }
  carry[0] = rk1;
  carry[1] = rk2;
  carry[2] = rv1;
  carry[3] = rv2;
}
static void back_rows(const back_run *r, const pieces *p, bool half, const two *before,
                      two *carry) {
  for (int j = 0; j < p->count; j++) {
    const piece c = piece_at(p, j);
    BY_PIECE(back_piece, half, &c, r, p, before + 4 * j, carry + 4 * j);
  }
}

static back_run back_run_at(const rp_gate_bwd_args *a, const unit *u, const pieces *p, int32_t t,
                            int ahead) {
  const int64_t kv = (int64_t)a->Hk * a->h, at = (int64_t)u->head * a->h;
  const int64_t tok = u->row->tok + t, from = tok * a->ldp + at, d = tok * kv + at;
  const int64_t size = rp_dtype_bytes(a->p.dtype);
  const columns col = columns_of(a->H, a->Hk, a->h);
  back_run r = {.k = rd(a->p, from + col.k),
                .x = rd(a->p, from + col.x),
                .g = rd(a->p, from + col.g),
                .dk = rd(a->dk, d),
                .dv = rd(a->dv, d),
                .to_k = wr(a->dp, from + col.k),
                .to_x = wr(a->dp, from + col.x),
                .to_g = wr(a->dp, from + col.g),
                .ldp = a->ldp * size,
                .ldk = kv * (int64_t)sizeof(rp_real),
                .rope = rope_at(a->rope, u->row->pos + t, a->h),
                .n = at_most(u->row->n - t, RUN),
                .ahead = ahead};
  r.past = goes_past(u, r.to_k, r.ldp, p->apart, size) && goes_past(u, r.to_x, 0, 0, size) &&
           goes_past(u, r.to_g, 0, 0, size);
  return r;
}
/* Gradients as they are, but turned back. */
static void gate_bwd_turn(const rp_gate_bwd_args *a, const unit *u, int32_t t, rp_tensor from,
                          int64_t ld, int64_t at, int64_t column, const rp_real *rope, int heads) {
  const int64_t tok = u->row->tok + t, size = rp_dtype_bytes(a->dp.dtype);
  const pieces p = pieces_of(heads, a->h);
  turning r = {.from = rd(from, tok * ld + at),
               .to = wr(a->dp, tok * a->ldp + column + at),
               .ld_from = ld * (int64_t)sizeof(rp_real),
               .ld_to = a->ldp * size,
               .rope = rope,
               .n = at_most(u->row->n - t, RUN),
               .ahead = t > 0 ? -RUN : 0,
               .sign = -1,
               .half_to = is_half(a->dp)};
  r.past = goes_past(u, r.to, r.ld_to, p.apart, size);
  turn_rows(&r, &p);
}

static void gate_bwd_unit(const rp_gate_bwd_args *a, const unit *u, two *carry, int64_t each) {
  const rp_row *row = u->row;
  const int h = a->h, group = a->H / a->Hk;
  const int64_t q = (int64_t)a->H * h, kv = (int64_t)a->Hk * h, at = (int64_t)u->head * h;
  const columns col = columns_of(a->H, a->Hk, h);
  const pieces p = pieces_of(u->heads, h);
  const int64_t runs = runs_of(row->n);
  two *starts = carry + each;
  memset(carry, 0, (size_t)(a->re ? 2 * each : each) * sizeof *carry);
  for (int64_t i = 0; a->re && i + 1 < runs; i++) {
    const back_run r = back_run_at(a, u, &p, (int32_t)i * RUN, RUN);
    again_rows(&r, &p, is_half(a->p), starts + i * each, starts + (i + 1) * each);
  }
  for (int64_t i = runs - 1; i >= 0; i--) {
    const int32_t t = (int32_t)i * RUN;
    const back_run r = back_run_at(a, u, &p, t, i > 0 ? -RUN : 0);
    if (a->re) {
      back_rows(&r, &p, is_half(a->p), starts + i * each, carry);
    } else {
      gate_bwd_turn(a, u, t, a->dk, kv, at, col.k, r.rope, u->heads);
      gate_bwd_turn(a, u, t, a->dv, kv, at, col.x, NULL, u->heads);
    }
    gate_bwd_turn(a, u, t, a->dq, q, at * group, col.q, r.rope, u->heads * group);
  }
  vec_past_end();
}

void RP_DRIVER(gate_bwd)(rp_cpu_ctx *c, const void *args) {
  const rp_gate_bwd_args *a = args;
  const bool ok = is_compute(a->p) && a->p.dtype == a->dp.dtype && is_real(a->dq) &&
                  is_real(a->dk) && is_real(a->dv);
  const rp_row *row = rows_of(c, &a->rows, &(rp_kv){0}, "gate_bwd");
  if (!row || !dtypes(c, ok, "gate_bwd")) return;
  const int each = heads_of(&a->rows, a->Hk, a->h, c->threads);
  const int64_t units = units_of(&a->rows, a->Hk, each);
  const size_t reals = bwd_reals(a);
  const int64_t state = (int64_t)(2 * widest(a->Hk, a->h) / TWO);
  const bool large = is_large(a->rows.tokens * ((int64_t)a->H + 3 * a->Hk) * a->h, a->dp);
#pragma omp parallel for num_threads(c->threads) schedule(static)
  for (int64_t i = 0; i < units; i++) {
    const unit u = unit_at(row, a->Hk, each, large, i);
    gate_bwd_unit(a, &u, (two *)((rp_real *)c->scratch + (size_t)omp_get_thread_num() * reals),
                  state);
  }
}
