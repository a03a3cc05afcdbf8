#include <string.h>

#include "base/str.h"
#include "text/docs.h"
#include "text/jsonl.h"
#include "text/unpack.h"

enum { READ = 1 << 16, LONGEST = 1 << 30 };

struct rp_lines {
  rp_unpack *r;
  bool jsonl, at_end;
  char *field;
  rp_str have; /* have.s[from, have.len) is read and not yet given */
  size_t from, looked;
  rp_str text; /* of a JSON line */
  char *kept;  /* where the NUL behind the last line was put, and what stood there */
  char was;
  int64_t number;
};

rp_status rp_lines_open(rp_lines **out, const char *path, rp_text_format format, const char *field,
                        const volatile int *stop, rp_error *err) {
  rp_status st = RP_OK;
  const rp_text_source source = {.inputs = &path, .n = 1, .format = format, .field = field};
  *out = NULL;
  rp_lines *l = rp_calloc(1, sizeof *l);
  if (!l) return rp_fail_memory(err, sizeof *l, "lines");
  l->jsonl = rp_text_is_jsonl(&source, path);
  l->field = rp_strdup(field ? field : "text");
  if (!l->field) RP_GO(rp_fail_memory(err, strlen(field), "a field"));
  RP_GO(rp_unpack_open(&l->r, path, stop, err));
  *out = l;
  return RP_OK;
fail:
  rp_lines_close(l);
  return st;
}

void rp_lines_close(rp_lines *l) {
  if (!l) return;
  rp_unpack_close(l->r);
  rp_free(l->field);
  rp_str_free(&l->have);
  rp_str_free(&l->text);
  rp_free(l);
}

const char *rp_lines_name(const rp_lines *l) { return rp_unpack_name(l->r); }
int64_t rp_lines_number(const rp_lines *l) { return l->number; }

static rp_status read_more(rp_lines *l, rp_error *err) {
  rp_str *h = &l->have;
  size_t n;
  if (l->from) {
    memmove(h->s, h->s + l->from, h->len - l->from);
    h->len -= l->from;
    l->looked -= l->from;
    l->from = 0;
  }
  if (h->len > LONGEST)
    return rp_fail(err, RP_BAD_DATA, "%s: line %lld is longer than 1 GiB", rp_lines_name(l),
                   (long long)l->number + 1);
  RP_TRY(rp_grow(&h->s, &h->cap, h->len + READ + 1, 1, "a line of text", err));
  RP_TRY(rp_unpack_read(l->r, h->s + h->len, READ, &n, err));
  h->len += n;
  l->at_end = n == 0;
  return RP_OK;
}

/* The next line as it stands in the file; *s NULL at the end. */
static rp_status raw_line(rp_lines *l, char **s, size_t *len, rp_error *err) {
  if (l->kept) *l->kept = l->was;
  l->kept = NULL;
  for (;;) {
    char *h = l->have.s;
    char *end =
        l->have.len > l->looked ? memchr(h + l->looked, '\n', l->have.len - l->looked) : NULL;
    if (!end && !l->at_end) {
      l->looked = l->have.len;
      RP_TRY(read_more(l, err));
      continue;
    }
    *s = NULL;
    *len = 0;
    if (!end && l->from == l->have.len) return RP_OK;
    *s = h + l->from;
    *len = (size_t)((end ? end : h + l->have.len) - *s);
    l->from += *len + (end ? 1 : 0);
    l->looked = l->from;
    l->number++;
    if (*len && (*s)[*len - 1] == '\r') --*len;
    l->kept = *s + *len;
    l->was = *l->kept;
    *l->kept = '\0';
    return RP_OK;
  }
}

rp_status rp_lines_next(rp_lines *l, const char **text, size_t *len, rp_error *err) {
  char *s;
  do RP_TRY(raw_line(l, &s, len, err));
  while (l->jsonl && s && rp_text_is_blank(s, *len));
  *text = s;
  if (!l->jsonl || !s) return RP_OK;
  rp_str_clear(&l->text);
  rp_str_add(&l->text, "");
  const rp_status st = rp_jsonl_text(s, *len, l->field, &l->text, err);
  if (st) return rp_fail_at(err, "%s: line %lld", rp_lines_name(l), (long long)l->number);
  if (l->text.failed) return rp_fail_memory(err, *len, "a line of text");
  *text = l->text.s ? l->text.s : "";
  *len = l->text.len;
  return RP_OK;
}
