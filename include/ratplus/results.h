/* ratplus/results.h - what `eval loss --json` wrote, laid side by side: one row a pattern, one column
 * a label. */
#ifndef RATPLUS_RESULTS_H
#define RATPLUS_RESULTS_H

#include "ratplus/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Nonzero when the file begins with a line of such results. Never an error. */
RP_API int rp_results_is(const char *path);

/* Reads JSON lines {"label", "pattern", "perplexity", "cache_bytes_per_token", ...} of n files and
 * gives the table as text (free with rp_free). svg: also draws perplexity over the patterns into
 * this file; NULL: not. RP_BAD_DATA names file and line. */
RP_API rp_status rp_results_table(const char *const *paths, size_t n, const char *svg, char **text,
                                  rp_error *err);

#ifdef __cplusplus
}
#endif
#endif
