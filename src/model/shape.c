/* shape.c - the list of logical tensors. */
#include "model/shape.h"

#include <string.h>

#include "base/str.h"

/* Tensors start at multiples of this many elements in their group's flat buffer, so that any of
 * them is aligned for every kernel in every dtype. */
enum { ALIGN = 64 };

/* Sizes past these are no model but a damaged file; below them no product here overflows. */
static const int64_t most_layers = 100000;
static const int64_t most_elements = INT64_C(1) << 48;

int64_t rp_in_proj_rows(const rp_model_settings *m) {
  const int64_t q = (int64_t)m->H * m->h, kv = (int64_t)m->Hk * m->h;
  return 2 * q + 2 * kv + (m->apply_re ? kv : 0);
}

static void add(rp_shape *s, const rp_param *like, const char *name) {
  rp_param *p = &s->p[s->n++];
  *p = *like;
  rp_snprintf(p->name, sizeof p->name, "%s", name);
  p->ndim = p->group == RP_GROUP_MATRIX ? 2 : 1;
  int64_t *size = p->group == RP_GROUP_MATRIX ? &s->matrix : &s->vector;
  const int64_t elements = p->rows * p->cols;
  p->offset = *size;
  *size += (elements + ALIGN - 1) / ALIGN * ALIGN;
  s->total += elements;
}

static void add_matrix(rp_shape *s, int unit, int slot, const char *name, int64_t rows,
                       int64_t cols) {
  const rp_role role = unit == 0 ? RP_ROLE_EMBED : RP_ROLE_LINEAR;
  add(s,
      &(rp_param){.rows = rows,
                  .cols = cols,
                  .unit = unit,
                  .slot = slot,
                  .group = RP_GROUP_MATRIX,
                  .role = role},
      name);
}

/* A norm's weight and, where it has one, its bias in the slot after it. */
static void add_norm(rp_shape *s, int unit, int slot, const char *name, rp_norm norm, int64_t d) {
  char full[96];
  rp_param p = {.rows = d,
                .cols = 1,
                .unit = unit,
                .slot = slot,
                .group = RP_GROUP_VECTOR,
                .role = RP_ROLE_ONE};
  rp_snprintf(full, sizeof full, "%s.weight", name);
  add(s, &p, full);
  if (norm != RP_NORM_LAYER) return;
  p.slot++;
  p.role = RP_ROLE_ZERO;
  rp_snprintf(full, sizeof full, "%s.bias", name);
  add(s, &p, full);
}

static void add_layer(rp_shape *s, const rp_model_settings *m, int layer) {
  const int unit = 1 + layer;
  const int64_t d = m->d, f = m->f;
  char name[96];
  if (m->cell != RP_CELL_IDENTITY) {
    rp_snprintf(name, sizeof name, "backbone.layers.%d.seq_layer.in_proj.weight", layer);
    add_matrix(s, unit, RP_SLOT_IN, name, rp_in_proj_rows(m), d);
    rp_snprintf(name, sizeof name, "backbone.layers.%d.seq_layer.input_norm", layer);
    add_norm(s, unit, RP_SLOT_NORM1, name, m->mixer_norm, d);
    rp_snprintf(name, sizeof name, "backbone.layers.%d.seq_layer.out_proj.weight", layer);
    add_matrix(s, unit, RP_SLOT_OUT, name, d, (int64_t)m->H * m->h);
  }
  rp_snprintf(name, sizeof name, "backbone.layers.%d.hidden_layer.fc1.weight", layer);
  add_matrix(s, unit, RP_SLOT_FC1, name, m->act == RP_ACT_SWIGLU ? 2 * f : f, d);
  rp_snprintf(name, sizeof name, "backbone.layers.%d.hidden_layer.fc2.weight", layer);
  add_matrix(s, unit, RP_SLOT_FC2, name, d, f);
  rp_snprintf(name, sizeof name, "backbone.layers.%d.hidden_layer.ln", layer);
  add_norm(s, unit, RP_SLOT_NORM2, name, m->ffn_norm, d);
}

static rp_status check_sizes(const rp_model_settings *m, rp_error *err) {
  const bool mixer = m->cell != RP_CELL_IDENTITY;
  if (m->N < 0 || m->N > most_layers || m->d < 1 || m->f < 1 || m->V < 1 ||
      (mixer && (m->H < 1 || m->Hk < 1 || m->h < 1)))
    return rp_fail(err, RP_USAGE,
                   "a model of %d layers, d=%d, f=%d, V=%d, H=%d, kv heads %d, d_head=%d has no "
                   "shape; give sizes of at least 1",
                   m->N, m->d, m->f, m->V, m->H, m->Hk, m->h);
  const double layer = (mixer ? (double)rp_in_proj_rows(m) + (double)m->H * m->h : 0) * m->d +
                       3.0 * m->f * m->d + 4.0 * m->d;
  const double all = layer * m->N + 2.0 * m->V * m->d;
  if (all > (double)most_elements)
    return rp_fail(err, RP_USAGE,
                   "a model of %d layers, d=%d, f=%d, V=%d would have %.3g parameters, more than "
                   "this program can address; check its sizes",
                   m->N, m->d, m->f, m->V, all);
  return RP_OK;
}

rp_status rp_shape_make(rp_shape *s, const rp_model_settings *m, rp_error *err) {
  *s = (rp_shape){0};
  RP_TRY(check_sizes(m, err));
  const size_t most = (size_t)m->N * RP_SLOTS + 4;
  s->p = rp_malloc(most, sizeof *s->p);
  if (!s->p) return rp_fail_memory(err, most * sizeof *s->p, "the list of a model's tensors");
  s->units = m->N + 2;
  add_matrix(s, 0, RP_SLOT_EMBED, "embedding.wte.weight", m->V, m->d);
  for (int i = 0; i < m->N; i++) add_layer(s, m, i);
  add_norm(s, m->N + 1, RP_SLOT_LAST_NORM, "backbone.ln", m->final_norm, m->d);
  if (!m->tied) add_matrix(s, m->N + 1, RP_SLOT_HEAD, "head.lm_head.weight", m->V, m->d);
  return RP_OK;
}

void rp_shape_free(rp_shape *s) {
  if (!s) return;
  rp_free(s->p);
  *s = (rp_shape){0};
}

/* Index of the first tensor of a unit: the list is sorted by unit. */
static int first_of_unit(const rp_shape *s, int unit) {
  int lo = 0, hi = s->n;
  while (lo < hi) {
    const int mid = lo + (hi - lo) / 2;
    if (s->p[mid].unit < unit) {
      lo = mid + 1;
    } else {
      hi = mid;
    }
  }
  return lo;
}

const rp_param *rp_shape_at(const rp_shape *s, int unit, int slot) {
  for (int i = first_of_unit(s, unit); i < s->n && s->p[i].unit == unit; i++) {
    if (s->p[i].slot == slot) return &s->p[i];
  }
  return NULL;
}

/* Unit that a name could belong to: a layer's number is in it. */
static int unit_of_name(const rp_shape *s, const char *name) {
  static const char layers[] = "backbone.layers.";
  if (rp_starts_with(name, "embedding.")) return 0;
  if (!rp_starts_with(name, layers)) return s->units - 1;
  int64_t layer = 0;
  for (const char *c = name + sizeof layers - 1; *c >= '0' && *c <= '9' && layer < s->units; c++)
    layer = layer * 10 + (*c - '0');
  return layer < s->units - 2 ? 1 + (int)layer : -1;
}

const rp_param *rp_shape_find(const rp_shape *s, const char *name) {
  const int unit = unit_of_name(s, name);
  if (unit < 0) return NULL;
  for (int i = first_of_unit(s, unit); i < s->n && s->p[i].unit == unit; i++) {
    if (!strcmp(s->p[i].name, name)) return &s->p[i];
  }
  return NULL;
}
