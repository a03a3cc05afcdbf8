/* log.h - the library's own messages; where they go is the caller's choice (rp_log_set). */
#ifndef RP_BASE_LOG_H
#define RP_BASE_LOG_H

#include "ratplus/base.h"

void rp_log(rp_log_level level, const char *fmt, ...) RP_PRINTF(2, 3);

/* Monotonic seconds, for durations. */
double rp_now(void);
/* Seconds since 1970. */
double rp_wall_time(void);

#endif
