/* together.h - what the ranks of one run tell each other outside of the computation: whether they run
 * the same thing, how an iteration went, whether somebody asked to stop. Alone (no communicator)
 * everything here is at once. One thread's. */
#ifndef RP_TRAIN_TOGETHER_H
#define RP_TRAIN_TOGETHER_H

#include "config/settings.h"
#include "dist/comm.h"

/* RP_USAGE, naming the first rank, where version, configuration, or the contents of a token file
 * differ from rank 0's, or the checkpoint of `step` (-1: none) is not seen by all. */
rp_status rp_together_same(rp_comm *c, const rp_settings *s, const rp_config *config, int64_t step,
                           rp_error *err);

/* One iteration of one rank; of all ranks after rp_together_report. */
typedef struct {
  int64_t stop;           /* asked to stop: any */
  int64_t save;           /* rank 0's clock says so */
  int64_t bad;            /* not finite by this rank's own loss, bit by pass; first: the rank */
  double seconds, waited; /* longest; mean */
  int first_bad;          /* the lowest rank with bad bits; -1 */
  int slowest;            /* the rank that waited least */
} rp_together;
/* scratch: rp_together_bytes of it, so that no step allocates. */
rp_status rp_together_report(rp_comm *c, rp_together *t, void *scratch, rp_error *err);
size_t rp_together_bytes(const rp_comm *c);

/* Text of one rank for all, in place (at most cap bytes with the end, a multiple of 8). */
rp_status rp_together_text(rp_comm *c, int root, char *text, size_t cap, rp_error *err);

#endif
