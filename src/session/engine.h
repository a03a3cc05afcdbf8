/* engine.h - what the rooms above may ask of an engine beside the public calls: engines over weights
 * that are not a file's, such as those of a training that goes on, or random ones of a benchmark. */
#ifndef RP_SESSION_ENGINE_H
#define RP_SESSION_ENGINE_H

#include "model/params.h"
#include "ratplus/session.h"

/* A model whose weights and queue are someone else's and outlive it. The settings are copied. Calls
 * of its engines are put on q, so q must be idle then. */
rp_status rp_model_borrow(rp_model **out, rp_queue *q, const rp_model_settings *m, rp_dtype compute,
                          const rp_weights *w, rp_error *err);
/* A model of these settings with random weights that repeat themselves, for benchmarks. */
rp_status rp_model_random(rp_model **out, const rp_model_settings *m, rp_device_kind kind,
                          rp_dtype dtype, uint64_t seed, rp_error *err);
const rp_model_settings *rp_model_settings_of(const rp_model *m);
uint64_t rp_model_available(
    const rp_model *m); /* bytes that are free where its device has memory */

/* For benchmarks: takes the blocks that `tokens` more tokens of s have, contents as they are, and stands
 * behind them. RP_NO_MEMORY when the pool is full. */
rp_status rp_session_skip(rp_session *s, int64_t tokens, rp_error *err);

/* For benchmarks: where the time of the engine's queue goes (ops/ops.h); NULL: no more. */
void rp_engine_time(rp_engine *e, rp_op_times *times);

/* Bytes that an engine with these options takes beside its pool, without allocating. */
rp_status rp_engine_plan(const rp_device *d, const rp_model_settings *m, rp_dtype compute,
                         const rp_engine_opts *o, uint64_t *work, rp_error *err);

#endif
