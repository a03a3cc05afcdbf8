#include "model/layout.h"

#include "base/mem.h"

enum { ALIGN = 64 }; /* as in shape.c, so that a part begins where every kernel may */

/* The tensors of a unit are neighbours in both flat buffers. */
static void measure_units(rp_layout *l, const rp_shape *s) {
  for (int i = 0; i < s->n; i++) {
    const rp_param *p = &s->p[i];
    rp_unit_at *u = &l->unit[p->unit];
    const int64_t end = p->offset + (p->rows * p->cols + ALIGN - 1) / ALIGN * ALIGN;
    if (u->n[p->group] == 0) u->from[p->group] = p->offset;
    u->n[p->group] = end - u->from[p->group];
  }
}

static void place_units(rp_layout *l, const rp_shape *s) {
  for (int i = 0; i < s->units; i++) {
    rp_unit_at *u = &l->unit[i];
    for (int g = 0; g < 2; g++) {
      const int64_t each = (u->n[g] + l->ranks - 1) / l->ranks;
      u->part[g] = (each + ALIGN - 1) / ALIGN * ALIGN;
      u->at[g] = l->local[g];
      l->local[g] += u->part[g];
    }
  }
}

static rp_piece piece_of(const rp_layout *l, const rp_param *p) {
  const rp_unit_at *u = &l->unit[p->unit];
  const int64_t part = u->part[p->group], first = part * l->rank;
  const int64_t begin = p->offset - u->from[p->group], end = begin + p->rows * p->cols;
  const int64_t from = begin > first ? begin : first;
  const int64_t to = end < first + part ? end : first + part;
  if (to <= from) return (rp_piece){u->at[p->group], 0, 0};
  return (rp_piece){u->at[p->group] + from - first, from - begin, to - from};
}

rp_status rp_layout_make(rp_layout *l, const rp_shape *s, int rank, int ranks, rp_error *err) {
  *l = (rp_layout){.rank = rank, .ranks = ranks};
  l->piece = rp_calloc((size_t)s->n, sizeof *l->piece);
  l->unit = rp_calloc((size_t)s->units, sizeof *l->unit);
  if (!l->piece || !l->unit) {
    rp_layout_free(l);
    return rp_fail_memory(err, (size_t)s->n * sizeof *l->piece,
                          "the layout of a rank's parameters");
  }
  measure_units(l, s);
  place_units(l, s);
  for (int i = 0; i < s->n; i++) l->piece[i] = piece_of(l, &s->p[i]);
  return RP_OK;
}

void rp_layout_free(rp_layout *l) {
  rp_free(l->piece);
  rp_free(l->unit);
  *l = (rp_layout){0};
}

int64_t rp_layout_largest(const rp_layout *l, int group, int first, int last) {
  int64_t most = 0;
  for (int i = first; i <= last; i++)
    if (l->unit[i].part[group] * l->ranks > most) most = l->unit[i].part[group] * l->ranks;
  return most;
}
