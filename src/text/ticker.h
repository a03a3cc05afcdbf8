/* ticker.h - progress and stopping of a long call, asked for often and acted upon now and then. */
#ifndef RP_TEXT_TICKER_H
#define RP_TEXT_TICKER_H

#include "base/error.h"
#include "ratplus/text.h"

typedef struct {
  const volatile int *stop;
  rp_text_progress_fn fn;
  void *ctx;
  rp_text_progress now; /* kept up to date by whoever ticks */
  double began, told;
} rp_ticker;
void rp_ticker_init(rp_ticker *t, const volatile int *stop, rp_text_progress_fn fn, void *ctx);
/* A new phase; always told. */
rp_status rp_ticker_phase(rp_ticker *t, const char *phase, rp_error *err);
/* RP_STOPPED, with a sentence, when the caller wants to stop. */
rp_status rp_ticker_tick(rp_ticker *t, rp_error *err);
double rp_ticker_seconds(const rp_ticker *t);

#endif
