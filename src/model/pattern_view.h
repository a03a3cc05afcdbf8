/* pattern_view.h - a pattern laid out for people: what pattern_info.c gathers, and its pictures on
 * a terminal (pattern_draw.c) and as SVG (pattern_svg.c). Filled once, then only read. */
#ifndef RP_MODEL_PATTERN_VIEW_H
#define RP_MODEL_PATTERN_VIEW_H

#include "base/str.h"
#include "config/settings.h"
#include "pattern/count.h"

/* Heads that see the same are of one kind, named by a letter; those past the last are OTHERS. */
enum { RP_KINDS = 52, RP_KIND_OTHERS = RP_KINDS, RP_MASKS = 3 };

typedef struct {
  rp_model_settings m; /* sizes; h 0 where no model is known */
  rp_pats pats;        /* of the pattern asked for */
  char *name;          /* its text */
  int64_t T;
  rp_pat kind[RP_KINDS];
  int count[RP_KINDS]; /* heads of it */
  int kinds;
  uint8_t *kind_of; /* [N, Hk]: index into kind, or RP_KIND_OTHERS */
} rp_pattern_view;

/* Letter of a kind, '?' for OTHERS. */
char rp_kind_letter(int kind);
/* "D=64,W=8" of one head. */
void rp_kind_text(rp_pat p, char out[64]);

/* What the cell of row r and column c of a mask drawn in n rows by n_columns shows. */
typedef struct {
  double
      share; /* of its pairs (query, key), key no later than query, those that are seen; -1: none */
  char most; /* the set most of them are counted in: 'i', 'l' or 'd'; '.' when none is seen */
} rp_mask_cell;
rp_mask_cell rp_mask_at(rp_pat p, int64_t T, int rows, int columns, int r, int c);

/* The masks of the first kinds and the layout, on lines of at most 80 columns. */
void rp_pattern_draw(rp_str *b, const rp_pattern_view *v, bool colours, bool utf8);
/* The same as an SVG document. */
void rp_pattern_svg(rp_str *b, const rp_pattern_view *v);

#endif
