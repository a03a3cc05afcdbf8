#include "text/encoder.h"

#include <string.h>

#include "text/utf8.h"

/* A word that is remembered: at most KEY bytes and IDS ids, in one cache line. */
enum { KEY = 22, IDS = 10, WORDS_LOG2 = 15 };
typedef struct {
  uint8_t len, n;
  char key[KEY];
  int32_t id[IDS];
} word;

struct rp_encoder {
  const rp_tokenizer *t;
  word *words;  /* [1 << WORDS_LOG2]; n 0: free */
  rp_str first; /* the first piece of a text with its space in front */
};

static bool is_cut(rp_cuts cuts, const char *s, size_t p) {
  if (cuts.newlines && (s[p] == '\n' || s[p - 1] == '\n')) return true;
  if (!cuts.spaces || s[p] != ' ' || s[p - 1] == ' ') return false;
  /* U+2581 in a text is a space to SentencePiece. */
  return !(p >= 3 && memcmp(s + p - 3, "\xe2\x96\x81", 3) == 0);
}

size_t rp_cut_next(rp_cuts cuts, const char *s, size_t from, size_t len) {
  if (!cuts.spaces && !cuts.newlines) return len;
  for (size_t p = from + 1; p < len; p++)
    if ((s[p] == ' ' || s[p] == '\n' || s[p - 1] == '\n') && is_cut(cuts, s, p)) return p;
  return len;
}

size_t rp_cut_last(rp_cuts cuts, const char *s, size_t len) {
  if (!cuts.spaces && !cuts.newlines) return 0;
  for (size_t p = len; p-- > 1;)
    if (is_cut(cuts, s, p)) return p;
  return 0;
}

rp_status rp_encoder_open(rp_encoder **out, const rp_tokenizer *t, rp_error *err) {
  const size_t n = (size_t)1 << WORDS_LOG2;
  *out = NULL;
  rp_encoder *e = rp_calloc(1, sizeof *e);
  if (e) e->words = rp_calloc(n, sizeof *e->words);
  if (!e || !e->words) {
    rp_encoder_close(e);
    return rp_fail_memory(err, n * sizeof(word), "an encoder");
  }
  e->t = t;
  *out = e;
  return RP_OK;
}

void rp_encoder_close(rp_encoder *e) {
  if (!e) return;
  rp_str_free(&e->first);
  rp_free(e->words);
  rp_free(e);
}

static size_t hash(const char *s, size_t len) {
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < len; i++) h = (h ^ (uint8_t)s[i]) * 0x100000001b3u;
  return (size_t)(h * 0x9e3779b97f4a7c15u >> (64 - WORDS_LOG2));
}

/* The end of the word that begins at `from`. */
static size_t word_end(const rp_tokenizer *t, const char *s, size_t from, size_t len) {
  size_t end = rp_cut_next(t->cuts, s, from, len);
  if (end - from <= RP_WORD_MOST) return end;
  return from + rp_utf8_floor(s + from, RP_WORD_MOST);
}

static rp_status add_word(rp_encoder *e, const char *s, size_t len, rp_ids *out, rp_error *err) {
  if (len > KEY) return rp_spm_encode(e->t->rest, s, len, out, err);
  word *w = e->words + hash(s, len);
  if (w->n && w->len == len && memcmp(w->key, s, len) == 0) {
    RP_TRY(rp_grow(&out->id, &out->cap, out->n + w->n, sizeof *out->id, "token ids", err));
    memcpy(out->id + out->n, w->id, w->n * sizeof *w->id);
    out->n += w->n;
    return RP_OK;
  }
  const size_t at = out->n;
  RP_TRY(rp_spm_encode(e->t->rest, s, len, out, err));
  if (out->n > at && out->n - at <= IDS) {
    w->len = (uint8_t)len;
    w->n = (uint8_t)(out->n - at);
    memcpy(w->key, s, len);
    memcpy(w->id, out->id + at, w->n * sizeof *w->id);
  }
  return RP_OK;
}

rp_status rp_encoder_add(rp_encoder *e, const char *s, size_t len, bool begins, rp_ids *out,
                         rp_error *err) {
  const rp_tokenizer *t = e->t;
  size_t at = 0;
  if (len == 0) return RP_OK;
  if (!t->cuts.spaces && !t->cuts.newlines)
    return rp_spm_encode(begins ? t->whole : t->rest, s, len, out, err);
  if (begins && t->prefix) {
    /* "word" begins as " word": the space that the model itself would put there. */
    at = word_end(t, s, 0, len);
    rp_str_clear(&e->first);
    rp_str_addn(&e->first, " ", 1);
    rp_str_addn(&e->first, s, at);
    if (e->first.failed) return rp_fail_memory(err, at, "a word");
    RP_TRY(add_word(e, e->first.s, e->first.len, out, err));
  }
  while (at < len) {
    size_t next = word_end(t, s, at, len);
    RP_TRY(add_word(e, s + at, next - at, out, err));
    at = next;
  }
  return RP_OK;
}
