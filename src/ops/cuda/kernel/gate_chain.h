/* gate_chain.h - what gate_scan.cu and gate_bwd.cu share: a thread's tokens, and how chunks of a row hand on states.
 *
 * A scan over a chunk is a link: state -> p state + (k, v). Chunk c of a row hands on
 *
 *   its own link;                                  but if it ends a group of 4,
 *   the link of the whole group;                   but if it ends a set of 4 groups,
 *   the state after it, since the row's beginning.
 *
 * So the state before a chunk is that after the last set, through at most 3 links of groups and 3 of chunks: in an order
 * that is the same whatever block comes first, and a state waits for another block once in 16 chunks. A word of
 * a link is handed on by itself; all bits 1, which no sum is, say that it is not there yet. */
#ifndef RP_OPS_CUDA_KERNEL_GATE_CHAIN_H
#define RP_OPS_CUDA_KERNEL_GATE_CHAIN_H

#include "ops/cuda/kernel/gate_lane.h"
#include "ops/cuda/kernel/gate_scan.h"

enum { COLUMNS = RP_SCAN_COLUMNS, RUNS = RP_SCAN_RUNS, WIDTH = RP_SCAN_WIDTH, GROUP = 4, SET = 16 };

/* ---- links ---- */

typedef struct {
  float p, k, v;
} link;
/* Words of a channel: of this chunk, `each` from one chunk to the next; a link's are WIDTH apart. */
typedef struct {
  uint32_t *mine;
  int32_t each;
} links;

enum : uint32_t { NOT_YET = 0xffffffffu, OTHER_NAN = 0x7fffffffu };
RP_DEVICE void hand_word(uint32_t *to, float x) {
  const uint32_t bits = f32_bits(x);
  store_relaxed(to, bits == NOT_YET ? OTHER_NAN : bits);
}
RP_DEVICE void hand_link(uint32_t *to, const link &x) {
  hand_word(to, x.p);
  hand_word(to + WIDTH, x.k);
  hand_word(to + 2 * WIDTH, x.v);
}

/* A link that may have come: load it, do other things, then wait. */
typedef struct {
  uint32_t p, k, v;
} seen_link;
RP_DEVICE seen_link look(const uint32_t *from) {
  seen_link x;
  x.p = load_relaxed(from);
  x.k = load_relaxed(from + WIDTH);
  x.v = load_relaxed(from + 2 * WIDTH);
  return x;
}
RP_DEVICE link await_link(const uint32_t *from, const seen_link &seen) {
  link x;
  x.p = f32_of_bits(await_word(from, seen.p, NOT_YET));
  x.k = f32_of_bits(await_word(from + WIDTH, seen.k, NOT_YET));
  x.v = f32_of_bits(await_word(from + 2 * WIDTH, seen.v, NOT_YET));
  return x;
}
/* The two of them in one. */
RP_DEVICE link then(const link &first, const link &second) {
  link x;
  x.p = first.p * second.p;
  x.k = fmaf(second.p, first.k, second.k);
  x.v = fmaf(second.p, first.v, second.v);
  return x;
}

/* The links of n < GROUP chunks or groups in one, the first at `from`. */
RP_DEVICE link await_links(const uint32_t *from, int32_t each, int32_t n) {
  seen_link seen[GROUP - 1];
  link sum;
  sum.p = 1, sum.k = sum.v = 0;
  RP_UNROLL
  for (int i = 0; i < GROUP - 1; i++)
    if (i < n) seen[i] = look(from + i * each);
  RP_UNROLL
  for (int i = 0; i < GROUP - 1; i++)
    if (i < n) sum = then(sum, await_link(from + i * each, seen[i]));
  return sum;
}

/* Hands on what later chunks of the row need of chunk c, whose link is `own`, and says the state before it if it is
 * asked for (in k and v). `start` is what the row begins with, of use with c = 0 alone; later chunks get it
 * as a link that forgets what was before. */
RP_DEVICE link chain(const links &l, int32_t c, bool hands, bool asks, link own, link start) {
  const int32_t in_group = c % GROUP, groups = c % SET / GROUP;
  const bool ends_group = hands && in_group == GROUP - 1;
  const bool ends_set = ends_group && groups == SET / GROUP - 1;
  if (c == 0) {
    own.k = fmaf(own.p, start.k, own.k);
    own.v = fmaf(own.p, start.v, own.v);
    own.p = 0;
  }
  if (hands && !ends_group) hand_link(l.mine, own);
  if (!asks && !ends_group) return start;
  const link before = await_links(l.mine - in_group * l.each, l.each, in_group);
  if (ends_group && !ends_set) hand_link(l.mine, then(before, own));
  if (!asks && !ends_set) return start;
  const uint32_t *set = l.mine - c % SET * l.each;
  const link in_set = await_links(set + (GROUP - 1) * l.each, GROUP * l.each, groups);
  if (c >= SET) {
    set += WIDTH - l.each;
    const uint32_t k = load_relaxed(set), v = load_relaxed(set + WIDTH);
    start.k = f32_of_bits(await_word(set, k, NOT_YET));
    start.v = f32_of_bits(await_word(set + WIDTH, v, NOT_YET));
  }
  start = then(then(start, in_set), before);
  if (ends_set) {
    own = then(start, own);
    hand_word(l.mine + WIDTH, own.k);
    hand_word(l.mine + 2 * WIDTH, own.v);
  }
  return start;
}

/* ---- a thread's tokens ---- */

/* Gate, k and x of both halves. */
template <class T, int S>
struct tokens {
  quad<T> g[S][2], k[S][2], x[S][2];
};

/* s, or the last token there is, `left` on from the thread's first. So offsets fit 32 bits (RP_SCAN_LD), and no load
 * waits for a branch. */
RP_DEVICE int32_t at_most(int32_t s, int32_t left) { return s < left ? s : left < 0 ? 0 : left; }

/* Token tok and S - 1 more, of which `left` are there; the last is read again in place of the others. p: the thread's
 * column of the first token of all. */
template <bool once, class T, int S>
RP_DEVICE void fetch_tokens(tokens<T, S> &d, const T *p, int64_t ldp, int64_t tok, int32_t left,
                            const columns &col, int32_t half_width) {
  p += tok * ldp;
  RP_UNROLL
  for (int half = 0; half < 2; half++, p += half_width) {
    RP_UNROLL
    for (int s = 0; s < S; s++) {
      const int32_t at = at_most(s, left) * (int32_t)ldp;
      if (once) {
        fetch_once(d.g[s][half], p + col.g + at);
        fetch_once(d.k[s][half], p + col.k + at);
        fetch_once(d.x[s][half], p + col.x + at);
      } else {
        fetch(d.g[s][half], p + col.g + at);
        fetch(d.k[s][half], p + col.k + at);
        fetch(d.x[s][half], p + col.x + at);
      }
    }
  }
}

template <class T, int S>
RP_DEVICE void forget(tokens<T, S> &d) {
  RP_UNROLL
  for (int s = 0; s < S; s++) {
    RP_UNROLL
    for (int half = 0; half < 2; half++)
      forget(d.g[s][half]), forget(d.k[s][half]), forget(d.x[s][half]);
  }
}

#endif
