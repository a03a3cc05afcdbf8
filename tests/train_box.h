/* train_box.h - small runs for tests: token files, configurations from the tree, whole trainings. */
#ifndef RP_TRAIN_BOX_H
#define RP_TRAIN_BOX_H

#include <math.h>

#include "check.h"
#include "train/training.h"

/* ids below V, documents ended by 2, two bytes each. */
CHECK_MAYBE static void box_tokens(const char *path, int64_t n, int V, uint64_t stream) {
  rp_rng r;
  rp_error err = {0};
  rp_rng_init(&r, 7, RP_RNG_TEST, stream);
  uint8_t *b = rp_malloc((size_t)n, 2);
  assert_non_null(b);
  int id = 5;
  for (int64_t i = 0; i < n; i++) {
    /* mostly a chain that can be learnt */
    id = rp_rng_below(&r, 10) == 0 ? (int)rp_rng_below(&r, (uint64_t)V) : (id * 7 + 3) % V;
    if (rp_rng_below(&r, 60) == 0) id = 2;
    b[2 * i] = (uint8_t)(id & 255);
    b[2 * i + 1] = (uint8_t)(id >> 8);
  }
  check_ok(rp_file_replace(path, b, (size_t)n * 2, false, &err), err);
  rp_free(b);
}

enum { BOX_V = 97, BOX_T = 48, BOX_WORDS = 48 };

/* Where the data of every case lies; made once per process. */
CHECK_MAYBE static const char *box_data_dir(void) {
  static char dir[768];
  if (!*dir) {
    snprintf(dir, sizeof dir, "%s", check_dir());
    box_tokens(check_path("train.bin"), 20001, BOX_V, 1);
    box_tokens(check_path("val.bin"), 1001, BOX_V, 2);
  }
  return dir;
}

/* The tiny run (d=32, N=2, V=97, T=48; `steps` iterations of 4 sequences in two micro-batches) in
 * run_dir, with further words, NULL-terminated, laid over it. */
CHECK_MAYBE static rp_config *box_config_in(const char *dir, const char *run_dir, int steps,
                                            const char *const *more) {
  char own[BOX_WORDS][1024];
  const char *words[BOX_WORDS];
  size_t n = 0;
  rp_error err = {0};
#define WORD(...) \
  do { \
    snprintf(own[n], sizeof own[n], __VA_ARGS__); \
    words[n] = own[n]; \
    n++; \
  } while (0)
  WORD("experiment=fineweb_edu/ratplus-1b");
  WORD("configs_dir=%s", check_source("configs"));
  WORD("trainer.dtype=float32");
  WORD("data.vocab_size=%d", BOX_V);
  WORD("data.seq_len=%d", BOX_T);
  WORD("data.batch_size=2");
  WORD("data.global_batch_size=4");
  WORD("data.train.tokenized_file_path=%s/train.bin", dir);
  WORD("data.train.limit_tokens=%d", steps * 4 * BOX_T);
  WORD("data.val.tokenized_file_path=%s/val.bin", dir);
  WORD("data.val.limit_tokens=-1");
  WORD("trainer.log_interval=1");
  WORD("trainer.save_interval=0.1");
  WORD("model.backbone.num_layers=2");
  WORD("model.backbone.d_model=32");
  WORD("model.backbone.seq_cell.d_head=16");
  WORD("model.backbone.seq_cell.dilation_size=8");
  WORD("optim.optimizer.lr=0.005");
  WORD("run_dir=%s", run_dir);
#undef WORD
  for (; more && *more; more++) words[n++] = *more;
  rp_config *c = NULL;
  check_ok(rp_config_compose(&c, words, n, NULL, &err), err);
  return c;
}

CHECK_MAYBE static rp_config *box_config(const char *run_dir, int steps, const char *const *more) {
  return box_config_in(box_data_dir(), run_dir, steps, more);
}

/* Numbers of a run, iteration by iteration. */
typedef struct {
  rp_train_event at[512];
  int n;
  int saves;
  int64_t start; /* step it began at */
  volatile sig_atomic_t stop;
  int64_t stop_at; /* after this step; -1: never */
} box_log;

CHECK_MAYBE static void box_event(void *ctx, const rp_train_event *e) {
  box_log *l = ctx;
  if (e->kind == RP_TRAIN_START) l->start = e->step;
  if (e->kind == RP_TRAIN_SAVE) l->saves++;
  if (e->kind == RP_TRAIN_LOG && l->n < 512) {
    l->at[l->n] = *e;
    l->at[l->n].run_dir = l->at[l->n].text = NULL;
    l->n++;
  }
  if (e->kind == RP_TRAIN_STEP && e->step == l->stop_at) l->stop = 1;
}

CHECK_MAYBE static rp_status box_train(const rp_config *c, int device, box_log *log, bool overwrite,
                                       rp_train_result *result, rp_error *err) {
  rp_train_opts o;
  rp_train_defaults(&o);
  o.overwrite = overwrite;
  if (log) {
    o.event = box_event;
    o.ctx = log;
    o.stop = &log->stop;
  }
  rp_threads_set(1); /* tiny: threads would only wait for each other */
  const rp_train_inner in = {.device = device, .no_rate = true};
  return rp_train_with(c, &o, &in, result, err);
}

/* The files are equal byte by byte. */
CHECK_MAYBE static void box_same_file(const char *a, const char *b) {
  rp_map x = {0}, y = {0};
  rp_error err = {0};
  check_ok(rp_map_open(&x, a, &err), err);
  check_ok(rp_map_open(&y, b, &err), err);
  if (x.bytes != y.bytes || memcmp(x.data, y.data, x.bytes)) fail_msg("%s and %s differ", a, b);
  rp_map_close(&x);
  rp_map_close(&y);
}

/* Last checkpoints of two runs hold the same weights and optimizer state. */
CHECK_MAYBE static void box_same_runs(const char *a, const char *b) {
  static const char *const names[] = {"model.safetensors", "optimizer.safetensors"};
  for (int i = 0; i < 2; i++) {
    char x[1024], y[1024];
    snprintf(x, sizeof x, "%s/checkpoints/latest/%s", a, names[i]);
    snprintf(y, sizeof y, "%s/checkpoints/latest/%s", b, names[i]);
    box_same_file(x, y);
  }
}

#endif
