/* text_stream.h - pieces of a text that is being generated, turned into what may be shown: whole UTF-8
 * characters, up to the first stop string. One request's.
 *
 * What comes out does not depend on where the pieces end. A character that is not whole, and what may
 * become a stop string, is held back. Bytes that can be no character become U+FFFD, one each. */
#ifndef RP_SESSION_TEXT_STREAM_H
#define RP_SESSION_TEXT_STREAM_H

#include "base/str.h"

typedef struct {
  char *s;
  int32_t
      *fail; /* [len]: longest proper border of s[0..i], the automaton of Knuth, Morris, Pratt */
  size_t len, at; /* at: bytes of it that the text now ends with */
} rp_stop;

typedef struct {
  rp_stop *stops;
  size_t n_stops;
  int hit;     /* the stop string that ended the text; -1: none */
  char raw[4]; /* the beginning of a character */
  size_t n_raw;
  rp_str held; /* whole characters that may belong to a stop string */
} rp_text_stream;

/* RP_USAGE for an empty stop string. The strings are copied. */
rp_status rp_text_stream_open(rp_text_stream *t, const char *const *stops, size_t n, rp_error *err);
void rp_text_stream_close(rp_text_stream *t); /* {0} is fine */
/* Appends to out what may now be shown. After a hit nothing comes any more. out->failed and
 * held.failed are the caller's to look at. */
void rp_text_stream_add(rp_text_stream *t, const char *s, size_t n, rp_str *out);
/* No piece comes any more: what was held back. */
void rp_text_stream_end(rp_text_stream *t, rp_str *out);

#endif
