#include "text/ticker.h"

#include "base/log.h"

void rp_ticker_init(rp_ticker *t, const volatile int *stop, rp_text_progress_fn fn, void *ctx) {
  *t = (rp_ticker){.stop = stop, .fn = fn, .ctx = ctx, .began = rp_now(), .told = -1e9};
  t->now = (rp_text_progress){.size = sizeof t->now, .bytes_of = -1};
}

double rp_ticker_seconds(const rp_ticker *t) { return rp_now() - t->began; }

static rp_status tell(rp_ticker *t, double now, rp_error *err) {
  t->told = now;
  t->now.seconds = now - t->began;
  if (t->fn && t->fn(t->ctx, &t->now))
    return rp_fail(err, RP_STOPPED, "stopped as asked; the same call goes on from here");
  return RP_OK;
}

rp_status rp_ticker_phase(rp_ticker *t, const char *phase, rp_error *err) {
  t->now.phase = phase;
  return tell(t, rp_now(), err);
}

rp_status rp_ticker_tick(rp_ticker *t, rp_error *err) {
  if (t->stop && *t->stop)
    return rp_fail(err, RP_STOPPED, "stopped as asked; the same call goes on from here");
  const double now = rp_now();
  return now - t->told < 0.2 ? RP_OK : tell(t, now, err);
}
