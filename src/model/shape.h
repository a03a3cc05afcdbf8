/* shape.h - the logical tensors of a model, computed from its settings: names as in the reference's
 * files, shapes, units, groups. Everything that stores, initialises, updates or ships weights walks
 * this one list. Pure; no device. */
#ifndef RP_MODEL_SHAPE_H
#define RP_MODEL_SHAPE_H

#include "config/settings.h"

typedef enum { RP_GROUP_MATRIX = 0, RP_GROUP_VECTOR = 1 } rp_group;
typedef enum {
  RP_ROLE_EMBED,
  RP_ROLE_LINEAR,
  RP_ROLE_ONE,
  RP_ROLE_ZERO
} rp_role; /* initial values */

/* Places of a tensor inside its unit (rp_param.slot); a bias exists only with LayerNorm. */
enum {
  RP_SLOT_IN = 0,
  RP_SLOT_NORM1,
  RP_SLOT_NORM1_BIAS,
  RP_SLOT_OUT,
  RP_SLOT_FC1,
  RP_SLOT_FC2,
  RP_SLOT_NORM2,
  RP_SLOT_NORM2_BIAS,
  RP_SLOTS
};                                                                            /* units 1..N */
enum { RP_SLOT_EMBED = 0 };                                                   /* unit 0 */
enum { RP_SLOT_LAST_NORM = 0, RP_SLOT_LAST_NORM_BIAS = 1, RP_SLOT_HEAD = 2 }; /* unit N+1 */

typedef struct {
  char name[96];      /* "backbone.layers.3.seq_layer.in_proj.weight" */
  int64_t rows, cols; /* vectors: rows = length, cols = 1 and ndim = 1 */
  int ndim;           /* 1 or 2 */
  int unit;           /* 0 embedding, 1+i layer i, N+1 last norm and untied head */
  int slot;           /* RP_SLOT_*: its place inside its unit */
  rp_group group;     /* matrices are kept in the computed dtype, vectors in float32 */
  rp_role role;
  int64_t offset; /* elements before it in the flat buffer of its group */
} rp_param;

typedef struct {
  rp_param *p;
  int n;
  int units;              /* N + 2 */
  int64_t matrix, vector; /* elements of each group, every tensor starting at a multiple of 64 */
  int64_t total;          /* parameters, without padding */
} rp_shape;

/* The list in unit order, inside a layer: in_proj, input_norm, (its bias), out_proj, fc1, fc2, ln,
 * (its bias) - which is also the order of the reference's optimizer state. */
rp_status rp_shape_make(rp_shape *s, const rp_model_settings *m, rp_error *err);
void rp_shape_free(rp_shape *s);
const rp_param *rp_shape_find(const rp_shape *s, const char *name); /* NULL when absent */
/* The tensor at a slot of a unit; NULL when this model has none there. */
const rp_param *rp_shape_at(const rp_shape *s, int unit, int slot);
/* Rows of the mixer's in_proj, in this order: o [H*h], q [H*h], k [Hk*h], x [Hk*h] and, with
 * apply_re, g [Hk*h]. */
int64_t rp_in_proj_rows(const rp_model_settings *m);

#endif
