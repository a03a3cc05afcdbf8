#include "session/text_stream.h"

#include <string.h>

#include "text/utf8.h"

static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */

static rp_status open_stop(rp_stop *p, const char *text, rp_error *err) {
  p->len = strlen(text);
  if (!p->len) return rp_fail(err, RP_USAGE, "a stop string is empty; leave it out");
  if (p->len > INT32_MAX)
    return rp_fail(err, RP_USAGE, "a stop string of %zu bytes is too long", p->len);
  p->s = rp_strdup(text);
  p->fail = rp_calloc(p->len, sizeof *p->fail);
  if (!p->s || !p->fail) return rp_fail_memory(err, 5 * p->len, "a stop string");
  for (size_t i = 1, k = 0; i < p->len; i++) {
    while (k > 0 && text[i] != text[k]) k = (size_t)p->fail[k - 1];
    if (text[i] == text[k]) k++;
    p->fail[i] = (int32_t)k;
  }
  return RP_OK;
}

rp_status rp_text_stream_open(rp_text_stream *t, const char *const *stops, size_t n,
                              rp_error *err) {
  rp_status st = RP_OK;
  *t = (rp_text_stream){.hit = -1, .n_stops = n};
  if (!n) return RP_OK;
  t->stops = rp_calloc(n, sizeof *t->stops);
  if (!t->stops) RP_GO(rp_fail_memory(err, n * sizeof *t->stops, "stop strings"));
  for (size_t i = 0; i < n; i++) RP_GO(open_stop(&t->stops[i], stops[i], err));
  return RP_OK;
fail:
  rp_text_stream_close(t);
  return st;
}

void rp_text_stream_close(rp_text_stream *t) {
  for (size_t i = 0; t->stops && i < t->n_stops; i++) {
    rp_free(t->stops[i].s);
    rp_free(t->stops[i].fail);
  }
  rp_free(t->stops);
  rp_str_free(&t->held);
  *t = (rp_text_stream){.hit = -1};
}

/* ---- stop strings ---- */

/* Moves every automaton over one byte. Returns the longest stop string that is now complete, -1 when
 * none is; *most becomes the most bytes of the text that may belong to one. */
static int match(rp_text_stream *t, char c, size_t *most) {
  int hit = -1;
  *most = 0;
  for (size_t i = 0; i < t->n_stops; i++) {
    rp_stop *p = &t->stops[i];
    while (p->at > 0 && p->s[p->at] != c) p->at = (size_t)p->fail[p->at - 1];
    if (p->s[p->at] == c) p->at++;
    if (p->at > *most) *most = p->at;
    if (p->at == p->len && (hit < 0 || p->len > t->stops[hit].len)) hit = (int)i;
  }
  return hit;
}

static void show(rp_text_stream *t, const char *s, size_t n, rp_str *out) {
  if (!t->n_stops) {
    rp_str_addn(out, s, n);
    return;
  }
  for (size_t i = 0; i < n && t->hit < 0; i++) {
    size_t most;
    rp_str_addn(&t->held, s + i, 1);
    t->hit = match(t, s[i], &most);
    if (t->held.failed) return;
    const size_t back = t->hit >= 0 ? t->stops[t->hit].len : most;
    const size_t free = t->held.len - back;
    rp_str_addn(out, t->held.s, free);
    memmove(t->held.s, t->held.s + free, back);
    t->held.len = t->hit >= 0 ? 0 : back;
  }
}

/* ---- characters ---- */

static void drop(rp_text_stream *t, size_t n) {
  memmove(t->raw, t->raw + n, t->n_raw - n);
  t->n_raw -= n;
}

/* Shows what of the raw bytes is decided; all of it when no byte follows. */
static void settle(rp_text_stream *t, bool last, rp_str *out) {
  while (t->n_raw) {
    const int n = rp_utf8_next(t->raw, t->n_raw);
    if (n) {
      char whole[4];
      memcpy(whole, t->raw, 4);
      drop(t, (size_t)n);
      show(t, whole, (size_t)n, out);
    } else if (!last && rp_utf8_begins(t->raw, t->n_raw)) {
      return;
    } else {
      drop(t, 1);
      show(t, replacement, 3, out);
    }
  }
}

void rp_text_stream_add(rp_text_stream *t, const char *s, size_t n, rp_str *out) {
  for (size_t i = 0; i < n && t->hit < 0; i++) {
    t->raw[t->n_raw++] = s[i];
    settle(t, false, out);
  }
}

void rp_text_stream_end(rp_text_stream *t, rp_str *out) {
  if (t->hit < 0) settle(t, true, out);
  if (t->hit < 0 && t->held.len) rp_str_addn(out, t->held.s, t->held.len);
  rp_str_clear(&t->held);
  t->n_raw = 0;
}
