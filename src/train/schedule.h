/* schedule.h - how many iterations a run has, and the learning rate of each (model.md 5). Pure. */
#ifndef RP_TRAIN_SCHEDULE_H
#define RP_TRAIN_SCHEDULE_H

#include "config/settings.h"

/* S = epochs * batches // accumulation; batches: micro-batches of one epoch of one rank. */
int64_t rp_sched_steps(int64_t epochs, int64_t batches, int64_t accumulation);
/* Iterations of warm-up: int(warmup * S), 0..S. */
int64_t rp_sched_warmup(double warmup, int64_t S);
/* The rate of iteration `step` (from 0) of S. */
double rp_sched_lr(const rp_optim_settings *o, int64_t step, int64_t S);
/* Iterations between checkpoints: max(1, int(S * fraction)). */
int64_t rp_sched_save_every(double fraction, int64_t S);

#endif
