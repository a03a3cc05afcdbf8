/* Whole trainings: against the authors' own run, resumed bit for bit, on every device. */
#include "base/json.h"
#include "train_box.h"

/* ---- the authors' run ---- */

static const rp_json *array_of(const rp_json *o, const char *key) {
  const rp_json *v = rp_json_get(o, key);
  if (!v || v->type != RP_JSON_ARRAY) fail_msg("%s: no array", key);
  return v;
}

static rp_config *reference_config(const char *run_dir) {
  static char own[8][1024];
  const char *words[] = {
      "experiment=fineweb_edu/ratplus-1b", own[0], "trainer.dtype=float32", own[1],
      "trainer.load_checkpoint=false", "data.vocab_size=97", "data.seq_len=96",
      "data.batch_size=2", "data.global_batch_size=4", own[2], "data.train.limit_tokens=7680",
      own[3], "data.val.limit_tokens=-1", "trainer.log_interval=1", "model.backbone.num_layers=3",
      "model.backbone.d_model=64", "model.backbone.seq_cell.d_head=16",
      "model.backbone.seq_cell.dilation_size=8", own[4]};
  snprintf(own[0], 1024, "configs_dir=%s", check_source("configs"));
  snprintf(own[1], 1024, "trainer.pretrained_path=%s", check_source("tests/data/reference/ratplus.pth"));
  snprintf(own[2], 1024, "data.train.tokenized_file_path=%s", check_source("tests/data/reference/train.bin"));
  snprintf(own[3], 1024, "data.val.tokenized_file_path=%s", check_source("tests/data/reference/val.bin"));
  snprintf(own[4], 1024, "run_dir=%s", run_dir);
  rp_error err = {0};
  rp_config *c = NULL;
  check_ok(rp_config_compose(&c, words, sizeof words / sizeof *words, NULL, &err), err);
  return c;
}

static void follows_the_authors_run(void **state) {
  (void)state;
  static box_log log;
  rp_error err = {0};
  rp_train_result result;
  char *text = NULL;
  size_t len = 0;
  rp_json_doc *doc = NULL;
  log = (box_log){.stop_at = -1};
  rp_config *c = reference_config(check_path("reference-run"));
  check_ok(box_train(c, RP_DEVICE_CPU, &log, false, &result, &err), err);
  check_ok(rp_file_read(check_source("tests/data/reference/joint-float32.json"), 1 << 20, &text,
                        &len, &err), err);
  check_ok(rp_json_parse(&doc, text, len, "joint-float32.json", &err), err);
  assert_int_equal(log.n, 20);
  const rp_json *root = rp_json_root(doc);
  const rp_json *it = array_of(root, "steps")->child;
  const rp_json *norm = array_of(root, "grad_norms")->child;
  for (int i = 0; i < log.n; i++, it = it->next) {
    const rp_train_event *e = &log.at[i];
    check_close(e->train_loss, rp_json_get(it, "train_loss")->real, 1e-5);
    check_close(e->train_loss1, rp_json_get(it, "train_loss1")->real, 1e-5);
    check_close(e->grad_norm1 / norm->real, 1, 1e-5);
    check_close(e->grad_norm / norm->next->real, 1, 1e-5);
    /* The authors log the rate of the next iteration. */
    if (i + 1 < log.n) check_close(log.at[i + 1].lr, rp_json_get(it, "lr")->real, 1e-12);
    norm = norm->next->next;
  }
  check_close(result.val_loss, rp_json_get(root, "val_loss")->real, 1e-5);
  rp_json_free(doc);
  rp_free(text);
  rp_config_free(c);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(follows_the_authors_run),
};
CHECK_MAIN(tests)
