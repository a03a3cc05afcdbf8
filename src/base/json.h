/* json.h - JSON as the file formats need it: a strict reader (RFC 8259) into a tree, and a writer.
 *
 * The header of a model file is JSON, so a build without any library must read it; that is why this
 * is here and not a library. Depth, sizes and numbers are bounded; NaN and duplicate keys are
 * errors. A tree is one arena: nodes live until rp_json_free. */
#ifndef RP_BASE_JSON_H
#define RP_BASE_JSON_H

#include "base/str.h"

typedef enum {
  RP_JSON_NULL,
  RP_JSON_BOOL,
  RP_JSON_INT,
  RP_JSON_REAL,
  RP_JSON_STRING,
  RP_JSON_ARRAY,
  RP_JSON_OBJECT
} rp_json_type;

typedef struct rp_json rp_json;
struct rp_json {
  rp_json_type type;
  const char *key;             /* in an object; else NULL */
  const char *string;          /* UTF-8, NUL-terminated; a \u0000 inside is an error */
  size_t len;                  /* bytes of string */
  int64_t integer;             /* INT, and BOOL as 0 or 1 */
  double real;                 /* INT too */
  const rp_json *child, *next; /* first child; next sibling */
  size_t count;                /* children */
};

typedef struct rp_json_doc rp_json_doc;
/* Parses the whole text. `what` names it in errors ("FILE: line 3, column 7: ..."). */
rp_status rp_json_parse(rp_json_doc **doc, const char *text, size_t len, const char *what,
                        rp_error *err);
const rp_json *rp_json_root(const rp_json_doc *doc);
void rp_json_free(rp_json_doc *doc);
const rp_json *rp_json_get(const rp_json *object, const char *key); /* NULL when absent */

/* Writer: s quoted and escaped; a real so that it reads back, null when not finite. */
void rp_json_add_string(rp_str *b, const char *s);
void rp_json_add_real(rp_str *b, double x);

#endif
