/* origin.h - a timeline that several others go on from, so that what they have in common is computed
 * once and stored once. The last to come takes it, the others fork it. One thread's. */
#ifndef RP_SESSION_ORIGIN_H
#define RP_SESSION_ORIGIN_H

#include "base/mem.h"
#include "ratplus/session.h"

typedef struct {
  rp_session *s; /* NULL: given up for its blocks */
  uint64_t need; /* bytes of pool at its length */
  size_t users;
} rp_origin;

/* `reserved`, in all of these: the sum of bytes of pool that are spoken for. */

/* Of one user, who may leave at once. Takes s over; it is closed when this fails. */
rp_status rp_origin_make(rp_origin **out, rp_session *s, uint64_t need, uint64_t *reserved,
                         rp_error *err);
/* Gives up its session: who comes then begins from nothing, which is dearer, not wrong. False when
 * there was none. */
bool rp_origin_drop(rp_origin *o, uint64_t *reserved);
/* One user less; without any it is freed. NULL is fine. */
void rp_origin_leave(rp_origin *o, uint64_t *reserved);
/* A session for one of its users, who leaves: itself for the last, else a fork. NULL when it was given
 * up, or there is no memory for a fork. o NULL is fine. */
rp_session *rp_origin_take(rp_origin *o, uint64_t *reserved);

/* Tokens that two sequences have in common at their beginning. */
size_t rp_ids_agree(const int32_t *a, size_t n_a, const int32_t *b, size_t n_b);

#endif
