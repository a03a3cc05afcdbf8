#include "text/model_spec.h"

typedef struct {
  const char *p, *end;
} wire;

typedef struct {
  int number, type;
  uint64_t value;    /* a varint */
  const char *begin; /* of the whole field */
  wire inside;       /* length-delimited */
} wire_field;

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

static bool read_varint(wire *w, uint64_t *out) {
  *out = 0;
  for (int shift = 0; shift < 64 && w->p < w->end; shift += 7) {
    uint8_t b = (uint8_t)*w->p++;
    *out |= (uint64_t)(b & 0x7f) << shift;
    if (!(b & 0x80)) return true;
  }
  return false;
}

static bool read_field(wire *w, wire_field *f) {
  uint64_t tag, n = 0;
  *f = (wire_field){.begin = w->p};
  if (!read_varint(w, &tag) || tag >> 3 == 0 || tag >> 3 > 1 << 29) return false;
  f->number = (int)(tag >> 3);
  f->type = (int)(tag & 7);
  if (f->type == VARINT) return read_varint(w, &f->value);
  if (f->type == FIXED64) n = 8;
  if (f->type == FIXED32) n = 4;
  if (f->type == BYTES && !read_varint(w, &n)) return false;
  if ((f->type != FIXED64 && f->type != FIXED32 && f->type != BYTES) ||
      n > (uint64_t)(w->end - w->p))
    return false;
  f->inside = (wire){w->p, w->p + n};
  w->p += n;
  return true;
}

/* Field numbers of sentencepiece_model.proto. */
enum { MODEL_TRAINER = 2, MODEL_NORMALIZER = 3, MODEL_SELF_TEST = 4 };
enum { TRAINER_MODEL_TYPE = 3, TRAINER_BYTE_FALLBACK = 35, TYPE_BPE = 2 };
enum { NORM_CHARSMAP = 2, NORM_PREFIX = 3, NORM_EXTRA = 4, NORM_ESCAPE = 5 };

static bool read_trainer(rp_model_spec *s, wire w) {
  wire_field f;
  while (w.p < w.end) {
    if (!read_field(&w, &f)) return false;
    if (f.type != VARINT) continue;
    if (f.number == TRAINER_MODEL_TYPE) s->bpe = f.value == TYPE_BPE;
    if (f.number == TRAINER_BYTE_FALLBACK) s->byte_fallback = f.value != 0;
  }
  return true;
}

static bool read_normalizer(rp_model_spec *s, wire w) {
  wire_field f;
  while (w.p < w.end) {
    if (!read_field(&w, &f)) return false;
    if (f.number == NORM_CHARSMAP && f.type == BYTES) s->charsmap = f.inside.p < f.inside.end;
    if (f.type != VARINT) continue;
    if (f.number == NORM_PREFIX) s->dummy_prefix = f.value != 0;
    if (f.number == NORM_EXTRA) s->remove_extra_spaces = f.value != 0;
    if (f.number == NORM_ESCAPE) s->escape_spaces = f.value != 0;
  }
  return true;
}

bool rp_model_spec_read(rp_model_spec *s, const char *proto, size_t len) {
  wire w = {proto, proto + len};
  wire_field f;
  *s = (rp_model_spec){.dummy_prefix = true, .remove_extra_spaces = true, .escape_spaces = true};
  while (w.p < w.end) {
    if (!read_field(&w, &f)) return false;
    if (f.type != BYTES) continue;
    if (f.number == MODEL_TRAINER && !read_trainer(s, f.inside)) return false;
    if (f.number == MODEL_NORMALIZER && !read_normalizer(s, f.inside)) return false;
  }
  return true;
}

bool rp_model_spec_bare(const char *proto, size_t len, rp_str *out) {
  /* A later copy of a message is merged over an earlier one: field 3 { field 3 = false }. */
  static const char no_prefix[] = {(MODEL_NORMALIZER << 3) | BYTES, 2, NORM_PREFIX << 3, 0};
  wire w = {proto, proto + len};
  wire_field f;
  while (w.p < w.end) {
    if (!read_field(&w, &f)) return false;
    if (f.number != MODEL_SELF_TEST) rp_str_addn(out, f.begin, (size_t)(w.p - f.begin));
  }
  rp_str_addn(out, no_prefix, sizeof no_prefix);
  return !out->failed;
}
