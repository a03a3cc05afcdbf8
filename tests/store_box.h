/* store_box.h - what the tests of stored models share: the sample model of tools/make_pth_samples.py
 * and random ones, with the values that their tensors have. */
#ifndef RP_STORE_BOX_H
#define RP_STORE_BOX_H

#include "check.h"
#include "model/store.h"

/* A case that reads a .pth. */
#define box_need_zip() \
  do { \
    if (!RATPLUS_WITH_ZIP) skip(); \
  } while (0)

/* Element k of the j-th tensor. */
CHECK_MAYBE static float box_value(int64_t j, int64_t k) {
  return (float)((7 * k + 13 * j) % 31 - 15) / 16;
}

/* N=2, d=8, f=16, V=11, two heads of 4, D=4 W=2 I=1, joint. */
CHECK_MAYBE static rp_model_settings box_sample(void) {
  rp_model_settings m = {.N = 2, .d = 8, .f = 16, .V = 11, .H = 2, .Hk = 2, .h = 4};
  m.init_range = 0.02;
  m.apply_re = m.joint_train = m.tied = m.rope = true;
  m.rope_base = 10000;
  m.rope_scale = 1;
  m.max_seq_len = 32;
  rp_error err = {0};
  check_ok(rp_pats_uniform(&m.pats, (rp_pat){4, 2, 1}, m.N, m.Hk, &err), err);
  return m;
}

/* Any model of a few thousand parameters. */
CHECK_MAYBE static rp_model_settings box_random(rp_rng *r) {
  rp_model_settings m = {.N = check_pick(r, 1, 4), .h = 2 * check_pick(r, 1, 4)};
  rp_error err = {0};
  m.H = check_pick(r, 1, 4);
  m.Hk = m.H % 2 == 0 && check_pick(r, 0, 1) ? m.H / 2 : m.H;
  m.d = m.H * m.h;
  m.f = check_pick(r, 1, 40);
  m.V = check_pick(r, 2, 60);
  m.act = (rp_act)check_pick(r, 0, RP_ACTS - 1);
  m.mixer_norm = (rp_norm)check_pick(r, 0, 1);
  m.ffn_norm = (rp_norm)check_pick(r, 0, 1);
  m.final_norm = (rp_norm)check_pick(r, 0, 1);
  m.init = (rp_init)check_pick(r, 0, 3);
  m.init_range = 0.02 * check_pick(r, 1, 3);
  m.cell = check_pick(r, 0, 5) ? RP_CELL_RATPLUS : RP_CELL_IDENTITY;
  m.apply_re = check_pick(r, 0, 1) || m.cell == RP_CELL_IDENTITY;
  m.joint_train = m.cell != RP_CELL_IDENTITY && check_pick(r, 0, 1);
  m.tied = check_pick(r, 0, 1);
  m.rope = true;
  m.rope_base = check_pick(r, 0, 1) ? 10000 : 500000;
  m.rope_scale = check_pick(r, 0, 1) ? 1 : 4.5;
  m.max_seq_len = check_pick(r, 1, 5000);
  check_ok(rp_pats_uniform(&m.pats, (rp_pat){check_pick(r, 1, 64), 0, 0}, m.N, m.Hk, &err), err);
  const int kind = check_pick(r, 0, 2); /* uniform, by layer, by head */
  for (int i = 0; i < m.N * m.Hk && kind; i++) {
    rp_pat *p = &m.pats.at[i];
    *p = (rp_pat){check_pick(r, 1, 64), check_pick(r, 0, 9), check_pick(r, 0, 5)};
    if (kind == 1 && i % m.Hk) *p = m.pats.at[i - 1];
  }
  return m;
}

/* A source for writers: the j-th tensor's values; ctx is the shape. `base` is added to j. */
typedef struct {
  const rp_shape *shape;
  int64_t base;
} box_source;
CHECK_MAYBE static rp_status box_pull(void *ctx, const rp_param *p, rp_dtype dtype, void *out,
                                      rp_error *err) {
  const box_source *s = ctx;
  (void)err;
  for (int64_t k = 0; k < p->rows * p->cols; k++) {
    const float x = box_value(s->base + (p - s->shape->p), k);
    const uint16_t half = dtype == RP_BF16 ? rp_f32_to_bf16(x) : rp_f32_to_f16(x);
    if (dtype == RP_F32) {
      ((float *)out)[k] = x;
    } else {
      ((uint16_t *)out)[k] = half;
    }
  }
  return RP_OK;
}

/* Every tensor of the store has box_value's values. */
CHECK_MAYBE static void box_check_values(const rp_store *s, const rp_shape *shape) {
  rp_error err = {0};
  for (int j = 0; j < shape->n; j++) {
    const rp_param *p = &shape->p[j];
    float *x = rp_malloc((size_t)(p->rows * p->cols), sizeof *x);
    assert_non_null(x);
    check_ok(rp_store_get_f32(s, p, x, &err), err);
    for (int64_t k = 0; k < p->rows * p->cols; k++) {
      if (x[k] != box_value(j, k))
        fail_msg("%s[%lld] is %g, not %g", p->name, (long long)k, (double)x[k],
                 (double)box_value(j, k));
    }
    rp_free(x);
  }
}

CHECK_MAYBE static void box_check_moments(const rp_store *s, const rp_shape *shape,
                                          const char *which, int64_t base) {
  rp_error err = {0};
  for (int j = 0; j < shape->n; j++) {
    const rp_param *p = &shape->p[j];
    bool has = false;
    float *x = rp_malloc((size_t)(p->rows * p->cols), sizeof *x);
    assert_non_null(x);
    check_ok(rp_store_moment_f32(s, shape, p, which, x, &has, &err), err);
    assert_true(has);
    for (int64_t k = 0; k < p->rows * p->cols; k++) assert_true(x[k] == box_value(base + j, k));
    rp_free(x);
  }
}

CHECK_MAYBE static void box_write(const char *path, const void *data, size_t bytes) {
  rp_error err = {0};
  check_ok(rp_file_replace(path, data, bytes, false, &err), err);
}

/* The settings are the same to what a file keeps of them. */
CHECK_MAYBE static void box_check_settings(const rp_model_settings *a, const rp_model_settings *b) {
  assert_int_equal(a->N, b->N);
  assert_int_equal(a->d, b->d);
  assert_int_equal(a->f, b->f);
  assert_int_equal(a->V, b->V);
  assert_int_equal(a->act, b->act);
  assert_int_equal(a->cell, b->cell);
  assert_int_equal(a->init, b->init);
  assert_int_equal(a->tied, b->tied);
  assert_int_equal(a->rope, b->rope);
  assert_int_equal(a->ffn_norm, b->ffn_norm);
  assert_int_equal(a->final_norm, b->final_norm);
  assert_int_equal(a->max_seq_len, b->max_seq_len);
  assert_true(a->init_range == b->init_range);
  assert_true(a->rope_base == b->rope_base && a->rope_scale == b->rope_scale);
  if (a->cell == RP_CELL_IDENTITY) return;
  assert_int_equal(a->H, b->H);
  assert_int_equal(a->Hk, b->Hk);
  assert_int_equal(a->h, b->h);
  assert_int_equal(a->mixer_norm, b->mixer_norm);
  assert_int_equal(a->apply_re, b->apply_re);
  assert_int_equal(a->joint_train, b->joint_train);
  assert_memory_equal(a->pats.at, b->pats.at, (size_t)(a->N * a->Hk) * sizeof *a->pats.at);
}

#endif
