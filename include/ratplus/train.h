/* ratplus/train.h - training: runs that resume by themselves, and what a run will need before it
 * starts.
 *
 * A run lives in its run directory (docs/training.md): configuration, metrics, TensorBoard events,
 * checkpoints, status, lock. One call is one thread's; different runs may go on side by side. The
 * library prints nothing and installs no handlers: news comes through `event`, warnings through
 * rp_log_set, and a request to stop is a flag of the caller's. */
#ifndef RATPLUS_TRAIN_H
#define RATPLUS_TRAIN_H

#include <signal.h>
#include "ratplus/config.h"
#include "ratplus/ranks.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  RP_TRAIN_START = 0, /* everything is allocated; run_dir, step (resumed from) and of are known */
  RP_TRAIN_STEP,      /* an iteration ended */
  RP_TRAIN_LOG,       /* an iteration of the log interval ended; also in metrics.jsonl */
  RP_TRAIN_VAL,       /* validation goes on: step of `of` micro-batches */
  RP_TRAIN_SAVE,      /* a checkpoint was written: text is its folder, seconds what it took */
  RP_TRAIN_SAMPLE,    /* text: a prompt and how the model goes on from it, UTF-8 */
  RP_TRAIN_END        /* finished, or stopped */
} rp_train_kind;

/* What was not measured is NaN, or NULL. Texts live until the callback returns. */
typedef struct {
  rp_train_kind kind;
  int64_t step, of;               /* steps count from 0; START: steps done */
  int64_t tokens;                 /* read since step 0 */
  double train_loss, train_loss1; /* dense pass (or the only one); sparse pass */
  double val_loss, val_loss_dense;
  double lr;
  double grad_norm, grad_norm1;  /* before clipping; of the same passes as the losses */
  double tokens_per_second, mfu; /* of this interval; mfu 0..1 of the measured product rate */
  double seconds;                /* of training, over all starts of the run */
  double left;                   /* seconds to go, estimated */
  int ranks, slowest;            /* of this interval: the rank that the others waited for; -1 */
  double waiting;                /* share of their time that ranks waited for each other */
  int64_t skipped;               /* optimizer steps skipped so far */
  const char *run_dir, *text;
} rp_train_event;

typedef struct {
  size_t size;                       /* sizeof this struct; filled by rp_train_defaults */
  int overwrite;                     /* a different run in the same place is moved to NAME.old-N */
  int take_over;                     /* a lock of another machine is broken */
  const char *job;                   /* names this start in the lock ("slurm 4711"); NULL */
  const char *device;                /* "auto", "cpu", "cuda"; NULL: trainer.device */
  rp_ranks *ranks;                   /* who trains together; NULL: this process alone */
  const volatile sig_atomic_t *stop; /* not 0: finish the iteration, save, return; NULL: never */
  void (*event)(void *ctx, const rp_train_event *e); /* on the calling thread; NULL */
  void *ctx;
} rp_train_opts;
RP_API void rp_train_defaults(rp_train_opts *o);

/* How it ended. */
typedef struct {
  char run_dir[4096];
  int64_t step, of;                /* iterations done */
  double val_loss, val_loss_dense; /* last ones; NaN: none */
  int64_t skipped;
  int was_finished; /* the run was finished before: nothing was done */
  int saved;        /* a checkpoint of this step lies in the run directory */
} rp_train_result;

/* Trains, adapts or fine-tunes as the configuration says: a new run, or the unfinished run of the
 * same configuration in its run directory, from its last checkpoint, bit for bit. RP_STOPPED: asked
 * to stop, saved (result.saved says whether). RP_USAGE: configuration, a different run in the same
 * place (naming the keys), a lock held. RP_BAD_DATA: token files, checkpoint. RP_NO_MEMORY: the plan
 * does not fit, naming the setting that would. RP_FAIL: device, files, ten non-finite steps in a
 * row. `result` (NULL is fine) is filled as far as things went. */
RP_API rp_status rp_train(const rp_config *c, const rp_train_opts *opts, rp_train_result *result,
                          rp_error *err);

/* Bytes by group, before anything is allocated. Of these, anonymous memory is what counts: token
 * files and weights files are mapped. */
typedef struct {
  uint64_t masters; /* parameters in float32 */
  uint64_t copy;    /* matrices rounded to the computed dtype */
  uint64_t grads, optimizer;
  uint64_t acts;     /* what forward keeps for backward */
  uint64_t work;     /* buffers of the passes */
  uint64_t scratch;  /* of the largest op */
  uint64_t tables;   /* rotations, rows, plans */
  uint64_t loader;   /* ids and labels of an iteration */
  uint64_t saving;   /* one tensor on its way to or from a file */
  uint64_t gathered; /* over ranks: units gathered from all, and their gradients */
  uint64_t comm;     /* the communicator's own buffers */
  uint64_t samples;  /* the engine that makes samples of text */
  uint64_t total;
  uint64_t available;  /* what this machine (or its cgroup) has to give now */
  uint64_t checkpoint; /* bytes of one checkpoint on disk */
} rp_train_memory;

typedef struct {
  size_t size; /* sizeof this struct; filled by rp_train_plan_defaults */
  int ranks;
  const char *device; /* as in rp_train_opts */
} rp_train_plan_opts;
RP_API void rp_train_plan_defaults(rp_train_plan_opts *o);

typedef struct {
  rp_train_memory memory;
  int64_t parameters;
  int64_t steps;           /* S; -1 where the data does not say */
  int64_t tokens_per_step; /* of the whole iteration, over accumulation and ranks */
  int accumulation;
  double flops_per_step; /* of one iteration, all its passes */
  int fits;
  char advice[512]; /* not fitting: the setting that would make it fit; else "" */
  char run_dir[4096];
  char unknown[2048]; /* why there are no steps, in the words of a training; else "" */
} rp_train_plan;
/* Sizes of the run that the configuration describes. Token files are looked at if they are there. */
RP_API rp_status rp_train_plan_make(const rp_config *c, const rp_train_plan_opts *opts,
                                    rp_train_plan *out, rp_error *err);

/* A run over ranks on paper: one row a strategy. Where no rate or link is given there is no time. */
typedef struct {
  size_t size; /* sizeof this struct; filled by rp_rank_plan_defaults */
  int ranks, per_node;
  double rate;    /* FLOP/s that a rank reaches */
  double link;    /* bytes a second that a machine sends; one machine: each rank */
  double latency; /* seconds that a collective takes whatever its size */
} rp_rank_plan_opts;
RP_API void rp_rank_plan_defaults(rp_rank_plan_opts *o);
typedef struct {
  int strategy;                        /* as trainer.fsdp.sharding_strategy: 3, 2, 1 */
  rp_train_memory memory;              /* of a rank */
  double reduced, scattered, gathered; /* bytes a rank sends in an iteration, by kind */
  int64_t collectives;
  double work, wire; /* seconds of an iteration that each alone would take */
  double seconds;    /* with what is hidden hidden */
  char binds[16];    /* "work", "network" or "both" */
} rp_rank_plan;
RP_API rp_status rp_rank_plan_make(const rp_config *c, const rp_rank_plan_opts *o,
                                   rp_rank_plan rows[3], rp_error *err);

/* What a run directory tells. */
typedef struct {
  char dir[4096];
  char state[16]; /* running, stopped, finished, failed, interrupted (killed), "unknown" */
  int64_t step, of;
  int64_t checkpoint;                          /* step of the latest checkpoint; -1: none */
  double val_loss, val_loss_dense, train_loss; /* last ones; NaN: none */
  double tokens_per_second;
  double seconds_per_step; /* mean of the last lines; NaN */
  double save_seconds;     /* of the last checkpoint; NaN */
  int64_t skipped;
  char holder[256]; /* who holds the lock; "" */
} rp_run_info;
RP_API rp_status rp_run_read(const char *dir, rp_run_info *out, rp_error *err);
/* True (1) for a folder that holds a run. */
RP_API int rp_run_is(const char *dir);

#ifdef __cplusplus
}
#endif
#endif
