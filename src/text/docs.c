#include "text/docs.h"

#include <string.h>

#include "base/file.h"
#include "text/unpack.h"
#include "text/utf8.h"

enum { BATCH = 1 << 18, READ = 1 << 18, RUN_MOST = 16 << 20, LINE_MOST = 1 << 30 };

struct rp_docs {
  const rp_text_source *src;
  rp_unpack *r;
  rp_cuts cuts;
  bool jsonl, at_end;
  bool inside; /* plain: part of the current document went into an earlier piece */
  rp_str have; /* read and not yet handed out: have.s[from, have.len) */
  size_t from;
  size_t looked; /* have.s[from, looked) holds no end of a document */
  uint64_t line; /* of have.s[from] */
};

void rp_batch_free(rp_batch *b) {
  rp_str_free(&b->text);
  rp_free(b->pieces);
  *b = (rp_batch){0};
}

bool rp_text_is_blank(const char *s, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!memchr(" \t\n\r\v\f", s[i], 6)) return false;
  return true;
}

bool rp_text_is_jsonl(const rp_text_source *s, const char *path) {
  static const char *const packed[] = {".gz", ".zst"}, *const json[] = {".jsonl", ".ndjson",
                                                                        ".json"};
  char name[16] = "";
  size_t n = strlen(path);
  if (s->format != RP_TEXT_AUTO) return s->format == RP_TEXT_JSONL;
  for (int i = 0; i < 2; i++)
    if (rp_ends_with(path, packed[i])) n -= strlen(packed[i]);
  for (int i = 0; i < 3; i++) {
    size_t k = strlen(json[i]);
    if (n >= k) memcpy(name, path + n - k, k), name[k] = '\0';
    if (n >= k && strcmp(name, json[i]) == 0) return true;
  }
  return false;
}

rp_status rp_text_source_check(const rp_text_source *s, rp_error *err) {
  size_t stdins = 0;
  if (s->n == 0) return rp_fail(err, RP_USAGE, "no input is named; give --input FILE or -");
  if (s->separator && s->separator_len == 0)
    return rp_fail(err, RP_USAGE, "the separator is empty; leave it out for one document a file");
  if (s->separator_len > BATCH)
    return rp_fail(err, RP_USAGE, "a separator of %zu bytes is too long", s->separator_len);
  if (s->format != RP_TEXT_PLAIN && (!s->field || !*s->field))
    return rp_fail(err, RP_USAGE, "the field of the JSON lines is empty; give --field NAME");
  for (size_t i = 0; i < s->n; i++) {
    const char *path = s->inputs[i];
    if (!path || !*path) return rp_fail(err, RP_USAGE, "input %zu is an empty name", i + 1);
    if (strcmp(path, "-") == 0) {
      if (stdins++) return rp_fail(err, RP_USAGE, "standard input (-) is named twice");
      continue;
    }
    if (rp_is_dir(path))
      return rp_fail(err, RP_USAGE, "%s: is a folder; name the files in it", path);
    if (!rp_exists(path)) return rp_fail(err, RP_USAGE, "%s: no such file", path);
  }
  return RP_OK;
}

rp_status rp_docs_open(rp_docs **out, const rp_text_source *src, const char *path, rp_cuts cuts,
                       const volatile int *stop, rp_error *err) {
  *out = NULL;
  rp_docs *d = rp_calloc(1, sizeof *d);
  if (!d) return rp_fail_memory(err, sizeof *d, "documents");
  *d = (rp_docs){.src = src, .cuts = cuts, .line = 1, .jsonl = rp_text_is_jsonl(src, path)};
  rp_status st = rp_unpack_open(&d->r, path, stop, err);
  if (st)
    rp_docs_close(d);
  else
    *out = d;
  return st;
}

void rp_docs_close(rp_docs *d) {
  if (!d) return;
  rp_unpack_close(d->r);
  rp_str_free(&d->have);
  rp_free(d);
}

int64_t rp_docs_raw(const rp_docs *d) { return rp_unpack_raw(d->r); }
const char *rp_docs_name(const rp_docs *d) { return rp_unpack_name(d->r); }
bool rp_docs_is_jsonl(const rp_docs *d) { return d->jsonl; }

static rp_status read_more(rp_docs *d, rp_error *err) {
  rp_str *h = &d->have;
  if (d->from) {
    memmove(h->s, h->s + d->from, h->len - d->from);
    h->len -= d->from;
    d->looked -= d->from;
    d->from = 0;
  }
  if (h->cap < h->len + READ + 1) {
    size_t want = h->cap < READ ? 2 * (size_t)READ : 2 * h->cap;
    char *s = rp_realloc(h->s, want, 1);
    if (!s) return rp_fail_memory(err, want, "a line of text");
    h->s = s;
    h->cap = want;
  }
  size_t n;
  RP_TRY(rp_unpack_read(d->r, h->s + h->len, READ, &n, err));
  h->len += n;
  d->at_end = n == 0;
  return RP_OK;
}

static rp_status add_piece(rp_docs *d, rp_batch *b, size_t len, bool begins, bool ends,
                           rp_error *err) {
  const char *s = d->have.s + d->from;
  RP_TRY(rp_grow(&b->pieces, &b->cap, b->n + 1, sizeof *b->pieces, "documents", err));
  b->pieces[b->n++] =
      (rp_piece){.at = b->text.len, .len = len, .line = d->line, .begins = begins, .ends = ends};
  rp_str_addn(&b->text, s, len);
  return b->text.failed ? rp_fail_memory(err, b->text.len + len, "documents") : RP_OK;
}

/* Moves on by n bytes. */
static void use(rp_docs *d, size_t n) {
  for (const char *p = d->have.s + d->from, *end = p + n; (p = memchr(p, '\n', (size_t)(end - p)));)
    p++, d->line++;
  d->from += n;
  if (d->looked < d->from) d->looked = d->from;
}

/* A long document goes out in parts: what is here up to the last place where it may be cut. */
static rp_status add_part(rp_docs *d, rp_batch *b, rp_error *err) {
  const char *s = d->have.s + d->from;
  /* The end of what is here may be the beginning of a separator: it waits. */
  size_t n = d->looked - d->from;
  size_t cut = n ? rp_cut_last(d->cuts, s, n) : 0;
  if (cut == 0 && n >= RUN_MOST) {
    const char *space = memrchr(s, ' ', n);
    cut = space && space > s ? (size_t)(space - s) : rp_utf8_floor(s, n - 4);
  }
  if (cut == 0) return RP_OK;
  RP_TRY(add_piece(d, b, cut, !d->inside, false, err));
  d->inside = true;
  use(d, cut);
  return RP_OK;
}

/* One step of plain text: a document, a part of one, or more bytes. */
static rp_status next_plain(rp_docs *d, rp_batch *b, rp_error *err) {
  const size_t sep = d->src->separator ? d->src->separator_len : 0;
  const char *s = d->have.s + d->from;
  const size_t n = d->have.len - d->from;
  const char *end = NULL;
  if (sep && n) {
    const size_t skip = d->looked - d->from;
    end = memmem(s + skip, n - skip, d->src->separator, sep);
  }
  if (end || d->at_end) {
    const size_t len = end ? (size_t)(end - s) : n;
    if (d->inside || !rp_text_is_blank(s, len))
      RP_TRY(add_piece(d, b, len, !d->inside, true, err));
    else if (end || n)
      b->empty++;
    d->inside = false;
    use(d, len + (end ? sep : 0));
    return RP_OK;
  }
  const size_t keep = sep ? sep - 1 : 0;
  if (n > keep) d->looked = d->have.len - keep;
  if (n >= BATCH + keep) RP_TRY(add_part(d, b, err));
  return read_more(d, err);
}

static rp_status next_line(rp_docs *d, rp_batch *b, rp_error *err) {
  const char *s = d->have.s + d->from;
  const size_t n = d->have.len - d->from, skip = d->looked - d->from;
  const char *end = n > skip ? memchr(s + skip, '\n', n - skip) : NULL;
  if (!end && !d->at_end) {
    d->looked = d->have.len;
    if (n > LINE_MOST)
      return rp_fail(err, RP_BAD_DATA,
                     "%s: line %llu is longer than 1 GiB; JSON lines hold one document each",
                     rp_docs_name(d), (unsigned long long)d->line);
    return read_more(d, err);
  }
  const size_t len = end ? (size_t)(end - s) : n;
  if (!rp_text_is_blank(s, len)) RP_TRY(add_piece(d, b, len, true, true, err));
  use(d, len + (end ? 1 : 0));
  return RP_OK;
}

rp_status rp_docs_next(rp_docs *d, rp_batch *b, rp_error *err) {
  rp_str_clear(&b->text);
  b->n = 0;
  b->empty = 0;
  if (!d->have.s) RP_TRY(read_more(d, err));
  while (b->text.len < BATCH && !(d->at_end && d->from == d->have.len && !d->inside))
    RP_TRY(d->jsonl ? next_line(d, b, err) : next_plain(d, b, err));
  return RP_OK;
}
