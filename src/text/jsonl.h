/* jsonl.h - one string out of one line of JSON. No state. */
#ifndef RP_TEXT_JSONL_H
#define RP_TEXT_JSONL_H

#include "base/str.h"

/* Checks the whole line as JSON (RFC 8259) and appends the text at `field` of its object to out;
 * "a.b" is the key "a.b", or "b" inside the object at "a". null adds nothing; of equal keys the last
 * counts; \u0000 is a NUL byte, half a surrogate pair U+FFFD. RP_BAD_DATA without file and line,
 * which the caller puts in front. */
rp_status rp_jsonl_text(const char *line, size_t len, const char *field, rp_str *out,
                        rp_error *err);

#endif
