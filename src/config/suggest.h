/* suggest.h - "did you mean": the nearest of many names. */
#ifndef RP_CONFIG_SUGGEST_H
#define RP_CONFIG_SUGGEST_H

#include "base/str.h"

/* The up to `most` names (one a line in `names`) nearest to `wanted`, as "a or b", into out; left
 * empty when none is near. Dotted names are compared part by part: a part too much or too few and a
 * slip in a part both count as near. */
void rp_suggest(const char *wanted, const char *names, int most, rp_str *out);

#endif
