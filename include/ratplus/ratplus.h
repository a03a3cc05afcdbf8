/* ratplus/ratplus.h - the whole public interface of libratplus.
 *
 * Opaque types, option structs with a size field that rp_*_defaults fill, rp_status and rp_error
 * everywhere. Calls on different objects are safe from any threads; all share one budget of workers
 * (rp_threads_set). After fork() the child must not call the library. */
#ifndef RATPLUS_RATPLUS_H
#define RATPLUS_RATPLUS_H

#include "ratplus/base.h"
#include "ratplus/bench.h"
#include "ratplus/config.h"
#include "ratplus/convert.h"
#include "ratplus/eval.h"
#include "ratplus/generate.h"
#include "ratplus/info.h"
#include "ratplus/ranks.h"
#include "ratplus/results.h"
#include "ratplus/session.h"
#include "ratplus/text.h"
#include "ratplus/train.h"

#endif
