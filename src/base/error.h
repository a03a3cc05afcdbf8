/* error.h - how a status and its sentence are made. Any thread, each with its own rp_error. */
#ifndef RP_BASE_ERROR_H
#define RP_BASE_ERROR_H

#include "ratplus/base.h"

/* Fills err (NULL is allowed) with status and the formatted sentence and returns status, so that a
 * function can `return rp_fail(err, RP_BAD_DATA, "%s: ...", path)`. The sentence says what, where
 * and what to do. */
rp_status rp_fail(rp_error *err, rp_status status, const char *fmt, ...) RP_PRINTF(3, 4);

/* Puts "prefix: " in front of the sentence already in err; returns its status. */
rp_status rp_fail_at(rp_error *err, const char *fmt, ...) RP_PRINTF(2, 3);

/* The sentence for a failed allocation of `bytes` for `what`. */
rp_status rp_fail_memory(rp_error *err, size_t bytes, const char *what);

/* Sentence from errno: "what path: strerror". RP_NO_MEMORY for ENOMEM, else RP_FAIL. */
rp_status rp_fail_errno(rp_error *err, const char *what, const char *path);

/* Returns from the function, or goes to its `fail:` label, when the call fails. */
#define RP_TRY(call) \
  do { \
    rp_status rp_try_ = (call); \
    if (rp_try_) return rp_try_; \
  } while (0)
/* Needs a local `rp_status st` and a label `fail:`. */
#define RP_GO(call) \
  do { \
    st = (call); \
    if (st) goto fail; \
  } while (0)

#endif
