/* memplan.h - what a run will take, counted before anything is allocated. */
#ifndef RP_TRAIN_MEMPLAN_H
#define RP_TRAIN_MEMPLAN_H

#include "config/settings.h"
#include "model/spread.h"
#include "ops/device.h"
#include "ratplus/train.h"

/* Bytes by group, of one of so many ranks; `available` too. Opens the device, allocates nothing on it. */
rp_status rp_memplan_make(const rp_settings *s, rp_device_kind kind, int ranks,
                          rp_train_memory *out, rp_error *err);
/* The setting that would make a run fit that does not: recomputation, a smaller batch, or both. "No
 * setting" is said too. */
void rp_memplan_advice(const rp_settings *s, rp_device_kind kind, int ranks, uint64_t available,
                       char *out, size_t cap);
/* RP_NO_MEMORY with the sum, what there is, and the advice, when the ranks of this machine, `here` of all,
 * do not fit together into `available` (0: unknown, all fits). */
rp_status rp_memplan_check(const rp_settings *s, rp_device_kind kind, int ranks, int here,
                           uint64_t available, rp_error *err);

/* rp_rank_plan_make from settings read for o->ranks. */
rp_status rp_rank_plan_settings(const rp_settings *s, rp_device_kind kind,
                                const rp_rank_plan_opts *o, rp_rank_plan rows[3], rp_error *err);

#endif
