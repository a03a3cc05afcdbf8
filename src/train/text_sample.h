/* text_sample.h - samples of text from weights that are being trained.
 *
 * An engine over the trainer's own weights and queue, made at the start; a sample is made between two
 * iterations and changes nothing of the run. A thing to look at: what fails here never fails a run.
 * Over ranks all make it, with the same calls whatever comes out. One thread's. */
#ifndef RP_TRAIN_TEXT_SAMPLE_H
#define RP_TRAIN_TEXT_SAMPLE_H

#include "base/str.h"
#include "train/trainer.h"

typedef struct rp_text_sample rp_text_sample;
/* tokenizer: the bytes of a .model file. t outlives it. */
rp_status rp_text_sample_open(rp_text_sample **out, rp_trainer *t, const char *tokenizer,
                              size_t len, rp_error *err);
void rp_text_sample_close(rp_text_sample *x); /* NULL is fine */
/* The prompt and what the model makes of it after `step` iterations, in the configured pattern; without
 * NUL. Lives until the next call. */
rp_status rp_text_sample_make(rp_text_sample *x, int64_t step, const char **text, rp_error *err);
/* Bytes that it takes, without allocating; 0 when the settings ask for none. */
rp_status rp_text_sample_plan(const rp_device *d, const rp_settings *s, uint64_t *bytes,
                              rp_error *err);

#endif
