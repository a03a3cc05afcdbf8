/* config_box.h - for the tests of src/config: composing over our own tree, and one-file trees. */
#ifndef RP_CONFIG_BOX_H
#define RP_CONFIG_BOX_H

#include "check.h"
#include "config/settings.h"

/* A case that reads YAML files is a skip where they cannot be read. */
#if RATPLUS_WITH_YAML
#define box_needs_yaml() (void)0
#else
#define box_needs_yaml() skip()
#endif

/* Composes over configs/ (NULL words end the list). */
CHECK_MAYBE static rp_status box_compose(rp_config **c, const char *const *words, rp_error *err) {
  rp_config_opts o;
  size_t n = 0;
  while (words[n]) n++;
  rp_config_defaults(&o);
  o.configs_dir = check_source("configs");
  o.need_experiment = 1;
  return rp_config_compose(c, words, n, &o, err);
}

/* A small run whose sizes stay, whatever becomes of the experiments for readers. */
#define BOX_SMALL \
  "experiment=cpu/ratplus-tiny", "model.backbone.num_layers=4", "model.backbone.d_model=256", \
      "model.backbone.seq_cell.d_head=64", "model.backbone.seq_cell.dilation_size=16", \
      "data.seq_len=512", "data.batch_size=8", "data.global_batch_size=8", \
      "trainer.dtype=float32", "optim.optimizer.lr=2e-3"

#define BOX_WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Composes and reads; the settings are the caller's. */
CHECK_MAYBE static rp_status box_settings(rp_settings *s, const char *const *words, int ranks,
                                          rp_error *err) {
  rp_config *c = NULL;
  rp_status st = box_compose(&c, words, err);
  if (!st) st = rp_settings_read(s, c, ranks, err);
  rp_config_free(c);
  return st;
}

/* A tree of one file. */
CHECK_MAYBE static const char *box_tree(const char *name, const char *text) {
  rp_error err = {0};
  const char *dir = check_path(name);
  check_ok(rp_mkdirs(dir, &err), err);
  char *path = rp_path_join(dir, "config.yaml");
  check_ok(rp_file_replace(path, text, strlen(text), false, &err), err);
  rp_free(path);
  return dir;
}

#endif
