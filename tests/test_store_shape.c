/* The list of a model's tensors: names, shapes, offsets. */
#include "store_box.h"

static void names_of_the_reference(void **state) {
  (void)state;
  static const char *const names[] = {
      "embedding.wte.weight",
      "backbone.layers.0.seq_layer.in_proj.weight",
      "backbone.layers.0.seq_layer.input_norm.weight",
      "backbone.layers.0.seq_layer.out_proj.weight",
      "backbone.layers.0.hidden_layer.fc1.weight",
      "backbone.layers.0.hidden_layer.fc2.weight",
      "backbone.layers.0.hidden_layer.ln.weight",
      "backbone.layers.1.seq_layer.in_proj.weight",
  };
  rp_error err = {0};
  rp_model_settings m = box_sample();
  rp_shape s;
  check_ok(rp_shape_make(&s, &m, &err), err);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    assert_string_equal(s.p[i].name, names[i]);
  assert_string_equal(s.p[s.n - 1].name, "backbone.ln.weight");
  assert_int_equal(s.n, 14);
  assert_int_equal(s.units, 4);
  assert_int_equal(s.total, 11 * 8 + 2 * (40 * 8 + 8 + 64 + 128 + 128 + 8) + 8);
  rp_shape_free(&s);
  rp_model_settings_free(&m);
}

static void laws_of_every_shape(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  rp_error err = {0};
  for (int round = 0; round < 200; round++) {
    rp_model_settings m = box_random(&r);
    rp_shape s;
    int64_t next[2] = {0, 0}, total = 0;
    check_ok(rp_shape_make(&s, &m, &err), err);
    for (int i = 0; i < s.n; i++) {
      const rp_param *p = &s.p[i];
      assert_true(i == 0 || p->unit >= p[-1].unit);
      assert_int_equal(p->offset % 64, 0);
      assert_true(p->offset >= next[p->group] && p->offset < next[p->group] + 64);
      next[p->group] = p->offset + p->rows * p->cols;
      total += p->rows * p->cols;
      assert_ptr_equal(rp_shape_find(&s, p->name), p);
      assert_ptr_equal(rp_shape_at(&s, p->unit, p->slot), p);
      assert_int_equal(p->ndim == 2, p->group == RP_GROUP_MATRIX);
    }
    assert_int_equal(total, s.total);
    assert_true(s.matrix >= next[0] && s.vector >= next[1]);
    assert_null(rp_shape_find(&s, "backbone.layers.9.seq_layer.in_proj.weight"));
    assert_null(rp_shape_find(&s, "backbone.layers.99999999999999999999.x"));
    assert_null(rp_shape_find(&s, ""));
    assert_int_equal(rp_shape_find(&s, "head.lm_head.weight") != NULL, !m.tied);
    rp_shape_free(&s);
    rp_model_settings_free(&m);
  }
}

static void sizes_of_no_model(void **state) {
  (void)state;
  rp_error err = {0};
  rp_shape s;
  rp_model_settings m = box_sample();
  m.d = 0;
  check_fails(rp_shape_make(&s, &m, &err), RP_USAGE, err, "d=0");
  m.d = m.f = m.V = 2147483647;
  check_fails(rp_shape_make(&s, &m, &err), RP_USAGE, err, "more than this program can address");
  m.d = 8;
  m.N = -1;
  check_fails(rp_shape_make(&s, &m, &err), RP_USAGE, err, "-1 layers");
  rp_model_settings_free(&m);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(names_of_the_reference),
                                          cmocka_unit_test(laws_of_every_shape),
                                          cmocka_unit_test(sizes_of_no_model)};
CHECK_MAIN(tests)
