/* layout.h - which elements of each logical tensor a rank keeps, and where in its flat buffers.
 *
 * One rank keeps everything, at the shape's own offsets. Otherwise each unit's matrices, and its
 * vectors, are cut into as many equal parts as there are ranks, in multiples of 64 elements, and a rank
 * keeps its part of every unit, one behind the other: so one collective gathers a unit's group.
 * Pure. */
#ifndef RP_MODEL_LAYOUT_H
#define RP_MODEL_LAYOUT_H

#include "model/shape.h"

/* Elements [from, from + n) of a tensor lie at `at` of this rank's buffer of its group. n may be 0. */
typedef struct {
  int64_t at, from, n;
} rp_piece;

/* A unit by group: elements [from, from + n) of the shape's flat buffer, padding included, in parts
 * of `part`, of which this rank's lies at `at` of its own buffer. */
typedef struct {
  int64_t from[2], n[2], part[2], at[2];
} rp_unit_at;

typedef struct {
  int rank, ranks;
  int64_t local[2]; /* elements this rank keeps, by rp_group */
  rp_piece *piece;  /* [shape->n] */
  rp_unit_at *unit; /* [shape->units] */
} rp_layout;

rp_status rp_layout_make(rp_layout *l, const rp_shape *s, int rank, int ranks, rp_error *err);
void rp_layout_free(rp_layout *l);
/* Elements of the largest unit among [first, last], gathered: ranks * part. */
int64_t rp_layout_largest(const rp_layout *l, int group, int first, int last);

#endif
