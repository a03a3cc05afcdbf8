/* frozen.h - the weights of a model that is only run: as they lie in their file, or converted.
 *
 * A tensor whose elements in the file are of the dtype that is computed in, in C order and aligned to
 * an element, is read from the file's pages, where the device can read host memory: they take no
 * memory of the process and are shared by all that map the file. Any other tensor is converted, on
 * its own, into memory of the device. Matrices are kept in the computed dtype, vectors in `real`; the
 * lookup of the embedding reads what the file has, up to `real`. Nothing is written after opening, so
 * that any queue of the device may read. */
#ifndef RP_MODEL_FROZEN_H
#define RP_MODEL_FROZEN_H

#include "model/params.h"

typedef struct {
  rp_device *dev;
  rp_tensor *slots; /* [units][RP_SLOTS] what need returns */
  rp_ptr *lent;     /* [n_lent] files whose pages are read */
  int n_lent;
  rp_ptr own;            /* all converted tensors */
  uint64_t mapped, kept; /* bytes of tensors in the file's pages, and of converted ones */
} rp_frozen;

/* progress: share of the weights that is there, 0 to 1; nonzero: stop (RP_STOPPED); NULL: none. */
typedef struct {
  int (*progress)(void *ctx, double done);
  void *ctx;
} rp_frozen_told;
/* s, which rp_store_check accepted for this shape, must outlive it where n_lent is not 0. dtype:
 * RP_F32 or RP_BF16, the run's. Waits for q. RP_NO_MEMORY before anything is converted where the machine
 * has not so much to give. */
rp_status rp_frozen_open(rp_frozen *f, rp_queue *q, const rp_shape *shape, rp_dtype dtype,
                         const rp_store *s, const rp_frozen_told *told, rp_error *err);
/* On the CPU, without opening anything: the bytes it would leave in the file's pages, and those it
 * would convert into memory. */
rp_status rp_frozen_plan(const rp_shape *shape, rp_dtype dtype, const rp_store *s, uint64_t *mapped,
                         uint64_t *kept, rp_error *err);
void rp_frozen_close(rp_frozen *f); /* {0} is fine */
rp_weights rp_frozen_weights(rp_frozen *f);

#endif
