/* model_box.h - a whole model on one device for tests: random settings, weights, data, one pass. */
#ifndef RP_MODEL_BOX_H
#define RP_MODEL_BOX_H

#include "check.h"
#include "model/net.h"
#include "settings_box.h"

typedef struct {
  rp_model_settings m;
  rp_device *dev;
  rp_queue *q;
  rp_params params;
  rp_net *net;
  rp_ptr ids, labels, loss;
  int batch, T;
} box;

/* A small model; pats is D=1 everywhere. Free with rp_pats_free(&m.pats). */
CHECK_MAYBE static rp_model_settings box_settings(int N, int H, int Hk, int h, int f, int V) {
  rp_error err = {0};
  rp_model_settings m = box_plain_settings(N, H, Hk, h, f, V);
  check_ok(rp_pats_uniform(&m.pats, (rp_pat){1, 0, 0}, N, Hk, &err), err);
  return m;
}

CHECK_MAYBE static void box_open(box *b, rp_device_kind kind, const rp_model_settings *m,
                                 rp_dtype dtype, int batch, int T, bool recompute) {
  rp_error err = {0};
  *b = (box){.m = *m, .batch = batch, .T = T};
  const size_t ids = sizeof(int32_t) * (size_t)(batch * T);
  check_ok(rp_device_open(&b->dev, kind, &err), err);
  check_ok(rp_queue_open(&b->q, b->dev, &err), err);
  check_ok(rp_params_open(&b->params, b->q, m, dtype, true, &err), err);
  rp_net_opts o = {.batch = batch, .T = T, .dtype = dtype, .train = true, .recompute = recompute};
  check_ok(rp_net_open(&b->net, b->q, m, &o, &err), err);
  check_ok(rp_device_alloc(b->dev, ids, "ids", &b->ids, &err), err);
  check_ok(rp_device_alloc(b->dev, ids, "labels", &b->labels, &err), err);
  check_ok(rp_device_alloc(b->dev, sizeof(rp_loss), "loss", &b->loss, &err), err);
}

CHECK_MAYBE static void box_close(box *b) {
  rp_wait(b->q, NULL);
  rp_device_free(b->dev, b->ids);
  rp_device_free(b->dev, b->labels);
  rp_device_free(b->dev, b->loss);
  rp_net_close(b->net);
  rp_params_close(&b->params);
  rp_queue_close(b->q);
  rp_device_close(b->dev);
}

/* Matrices uniform in +-range, norms around 1: gradients that no rounding hides. */
CHECK_MAYBE static void box_weights(box *b, rp_rng *r, double range) {
  rp_error err = {0};
  for (int i = 0; i < b->params.shape.n; i++) {
    const rp_param *t = &b->params.shape.p[i];
    const int64_t n = t->rows * t->cols;
    double *w = rp_malloc((size_t)n, sizeof *w);
    assert_non_null(w);
    for (int64_t j = 0; j < n; j++)
      w[j] = (t->role == RP_ROLE_ONE) + range * (2 * rp_rng_uniform(r) - 1);
    check_ok(rp_params_set_f64(&b->params, t, w, &err), err);
    rp_free(w);
  }
  rp_params_round(&b->params);
  check_ok(rp_wait(b->q, &err), err);
}

CHECK_MAYBE static void box_data(box *b, const int32_t *ids, const int32_t *labels) {
  const size_t bytes = sizeof(int32_t) * (size_t)(b->batch * b->T);
  rp_upload(b->q, b->ids, ids, bytes);
  rp_upload(b->q, b->labels, labels, bytes);
}

/* Random ids, labels with some ignored. */
CHECK_MAYBE static void box_random_data(box *b, rp_rng *r, int32_t *ids, int32_t *labels) {
  for (int i = 0; i < b->batch * b->T; i++) {
    ids[i] = check_pick(r, 0, b->m.V - 1);
    labels[i] = check_pick(r, 0, 7) ? check_pick(r, 0, b->m.V - 1) : -100;
  }
  labels[0] = 0;
  box_data(b, ids, labels);
}

/* One pass over the first `batch` sequences of T tokens; gradients start from zero. */
CHECK_MAYBE static double box_pass(box *b, int batch, int T, int plan, bool grad) {
  rp_error err = {0};
  rp_loss loss;
  const rp_weights w = rp_params_weights(&b->params);
  const rp_pass p = {.batch = batch,
                     .T = T,
                     .plan = plan,
                     .grad = grad,
                     .weight = 1,
                     .ids = b->ids,
                     .labels = b->labels,
                     .loss = b->loss};
  rp_op_zero(b->q, &(rp_zero_args){b->loss, sizeof loss});
  if (grad) rp_params_zero_grads(&b->params);
  check_ok(rp_net_pass(b->net, &w, &p, &err), err);
  rp_download(b->q, &loss, b->loss, sizeof loss);
  check_ok(rp_wait(b->q, &err), err);
  return loss.mean;
}

/* All gradients, tensor after tensor in the order of the shape (free with rp_free). */
CHECK_MAYBE static double *box_grads(box *b) {
  rp_error err = {0};
  double *g = rp_calloc((size_t)b->params.shape.total, sizeof *g);
  assert_non_null(g);
  int64_t at = 0;
  for (int i = 0; i < b->params.shape.n; i++) {
    const rp_param *t = &b->params.shape.p[i];
    check_ok(rp_params_get_f64(&b->params, 1, t, g + at, &err), err);
    at += t->rows * t->cols;
  }
  return g;
}

#endif
