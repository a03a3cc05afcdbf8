#include "base/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

rp_status rp_fail(rp_error *err, rp_status status, const char *fmt, ...) {
  if (!err) return status;
  /* Arguments may point into err->text (a sentence being wrapped), so it is built aside. */
  char text[sizeof err->text];
  va_list ap;
  va_start(ap, fmt);
  rp_vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  memcpy(err->text, text, sizeof text);
  err->status = status;
  return status;
}

rp_status rp_fail_at(rp_error *err, const char *fmt, ...) {
  if (!err) return RP_FAIL;
  char text[sizeof err->text];
  va_list ap;
  va_start(ap, fmt);
  int n = rp_vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  size_t at = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
  rp_snprintf(text + at, sizeof text - at, ": %s", err->text);
  memcpy(err->text, text, sizeof text);
  return err->status;
}

rp_status rp_fail_memory(rp_error *err, size_t bytes, const char *what) {
  char size[32];
  rp_format_bytes(size, (double)bytes);
  return rp_fail(err, RP_NO_MEMORY, "%s: no memory for %s; free some or make the job smaller", what,
                 size);
}

rp_status rp_fail_errno(rp_error *err, const char *what, const char *path) {
  int e = errno;
  char reason[128];
  const char *text = strerror_r(e, reason, sizeof reason); /* the GNU variant returns the text */
  return rp_fail(err, e == ENOMEM ? RP_NO_MEMORY : RP_FAIL, "%s %s: %s", what, path, text);
}
