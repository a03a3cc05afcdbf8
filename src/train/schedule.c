#include "train/schedule.h"

#include <math.h>

int64_t rp_sched_steps(int64_t epochs, int64_t batches, int64_t accumulation) {
  return accumulation > 0 ? epochs * batches / accumulation : 0;
}

int64_t rp_sched_warmup(double warmup, int64_t S) {
  if (!(warmup > 0)) return 0;
  const double w = warmup * (double)S;
  return w >= (double)S ? S : (int64_t)w;
}

double rp_sched_lr(const rp_optim_settings *o, int64_t step, int64_t S) {
  if (o->sched == RP_SCHED_CONSTANT) return o->lr;
  const int64_t w = rp_sched_warmup(o->warmup, S);
  if (step < w) return o->lr * (double)(step + 1) / (double)w;
  const double pi = 3.14159265358979323846;
  const double part = (double)(step - w) / (double)(S - w);
  return o->eta_min + (o->lr - o->eta_min) * (1 + cos(pi * part)) / 2;
}

int64_t rp_sched_save_every(double fraction, int64_t S) {
  const double every = fraction * (double)S;
  return every >= 1 ? (int64_t)every : 1;
}
