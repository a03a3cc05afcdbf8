/* events.h - TensorBoard event files: TFRecord frames around a few protobuf fields, by hand.
 *
 * One writer a file, one thread. Writing never fails a training: errors come back as a status and
 * the file is cut back to its last whole record, so that the next write may succeed. */
#ifndef RP_TRAIN_EVENTS_H
#define RP_TRAIN_EVENTS_H

#include "base/str.h"

typedef struct {
  const char *tag;
  double value; /* NaN: left out */
} rp_scalar;

typedef struct rp_events rp_events;
/* Creates DIR/events.out.tfevents.<seconds>.<host>.<pid>.<n> with the version record and, for
 * resume_step >= 0, SessionLog START there (TensorBoard drops older points from that step on). */
rp_status rp_events_open(rp_events **e, const char *dir, int64_t resume_step, rp_error *err);
/* One record with all finite scalars, flushed. */
rp_status rp_events_add(rp_events *e, int64_t step, const rp_scalar *s, size_t n, rp_error *err);
void rp_events_close(rp_events *e); /* NULL is fine */

/* CRC-32C (Castagnoli) of bytes, and TFRecord's masking of it. */
uint32_t rp_crc32c(const void *data, size_t n);
uint32_t rp_crc32c_masked(const void *data, size_t n);

#endif
