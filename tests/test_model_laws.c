/* Laws of the whole network, over random shapes and patterns: gradients against central differences
 * in double, dense patterns against each other, rows of a batch alone, recomputation, devices,
 * grouped heads against copied ones.
 * label: threads, label: tsan */
#include <math.h>

#include "model_box.h"

enum { MOST = 4096 };
static int32_t ids[2 * MOST], labels[2 * MOST]; /* room behind the last sequence */

static rp_pat random_pat(rp_rng *r, int T) {
  rp_pat p = {check_pick(r, 1, 9), check_pick(r, 0, 5), check_pick(r, 0, 3)};
  switch (check_pick(r, 0, 5)) {
    case 0: p.D = -1, p.W = 1 + p.W; break;
    case 1: p.D = T + 3; break;
    case 2: p.D = 1; break;
    default: break;
  }
  return p;
}

/* Settings that take every switch of model.md in turn. */
static rp_model_settings random_settings(rp_rng *r, int T) {
  static const int heads[][2] = {{1, 1}, {2, 2}, {2, 1}, {4, 2}, {3, 1}};
  const int *H = heads[check_pick(r, 0, 4)];
  rp_model_settings m = box_settings(check_pick(r, 1, 3), H[0], H[1], 2 * check_pick(r, 1, 4),
                                     check_pick(r, 3, 17), check_pick(r, 5, 23));
  m.act = (rp_act)check_pick(r, 0, RP_ACTS - 1);
  m.mixer_norm = (rp_norm)check_pick(r, 0, 1);
  m.ffn_norm = (rp_norm)check_pick(r, 0, 1);
  m.final_norm = (rp_norm)check_pick(r, 0, 1);
  m.apply_re = check_pick(r, 0, 2) > 0;
  m.tied = check_pick(r, 0, 1);
  m.rope = m.apply_re ? true : check_pick(r, 0, 1);
  m.rope_scale = check_pick(r, 1, 2);
  if (!check_pick(r, 0, 7)) m.cell = RP_CELL_IDENTITY;
  for (int i = 0; i < m.N * m.Hk; i++) m.pats.at[i] = random_pat(r, T);
  return m;
}

/* ReLU's kink is no place for a difference: the step is small and the tolerance is that of a
 * second-order difference, |third derivative| eps^2, plus rounding, |loss| 2^-52 / eps. */
static void gradients_are_central_differences(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  for (int trial = 0; trial < 60; trial++) {
    const int T = check_pick(&r, 1, 11), batch = check_pick(&r, 1, 2);
    rp_model_settings m = random_settings(&r, T);
    box b;
    rp_error err = {0};
    int plan;
    box_open(&b, RP_DEVICE_REF64, &m, RP_F32, batch, T, check_pick(&r, 0, 1));
    box_weights(&b, &r, 0.6);
    box_random_data(&b, &r, ids, labels);
    check_ok(rp_net_add_plan(b.net, &m.pats, &plan, &err), err);
    box_pass(&b, batch, T, plan, true);
    double *g = box_grads(&b);
    int64_t at = 0;
    for (int i = 0; i < b.params.shape.n; i++) {
      const rp_param *t = &b.params.shape.p[i];
      const int64_t n = t->rows * t->cols;
      double *w = rp_malloc((size_t)n, sizeof *w), norm = 0;
      for (int64_t j = 0; j < n; j++) norm += g[at + j] * g[at + j];
      check_ok(rp_params_get_f64(&b.params, 0, t, w, &err), err);
      for (int probe = 0; probe < 3; probe++) {
        const int64_t j = (int64_t)rp_rng_below(&r, (uint64_t)n);
        const double was = w[j], eps = 1e-5;
        w[j] = was + eps;
        check_ok(rp_params_set_f64(&b.params, t, w, &err), err);
        const double up = box_pass(&b, batch, T, plan, false);
        w[j] = was - eps;
        check_ok(rp_params_set_f64(&b.params, t, w, &err), err);
        const double down = box_pass(&b, batch, T, plan, false);
        w[j] = was;
        const double slope = (up - down) / (2 * eps);
        if (!(fabs(slope - g[at + j]) <= 1e-7 * (1 + fabs(slope) + sqrt(norm))))
          fail_msg("trial %d: %s[%lld]: gradient %.12g, difference %.12g (act %s)", trial, t->name,
                   (long long)j, g[at + j], slope, rp_act_name(m.act));
      }
      check_ok(rp_params_set_f64(&b.params, t, w, &err), err);
      rp_free(w);
      at += n;
    }
    rp_free(g);
    box_close(&b);
    rp_pats_free(&m.pats);
  }
}

/* D=1 is plain attention, and so is D=-1 with I >= T. */
static void dense_patterns_agree(void **state) {
  (void)state;
  rp_rng r = check_rng(2);
  for (int trial = 0; trial < 20; trial++) {
    const int T = check_pick(&r, 1, 150), batch = check_pick(&r, 1, 2);
    rp_model_settings m = box_settings(2, 2, 1, 8, 24, 31);
    const rp_pat dense[] = {{1, 0, 0}, {-1, 0, T}, {1, 7, 3}, {-1, T, 0}, {5, T + 2, 0}};
    box b;
    rp_error err = {0};
    box_open(&b, RP_DEVICE_REF64, &m, RP_F32, batch, T, false);
    box_weights(&b, &r, 0.4);
    box_random_data(&b, &r, ids, labels);
    double first = 0;
    for (int i = 0; i < 5; i++) {
      rp_pats p;
      int plan;
      check_ok(rp_pats_uniform(&p, dense[i], m.N, m.Hk, &err), err);
      check_ok(rp_net_add_plan(b.net, &p, &plan, &err), err);
      rp_pats_free(&p);
      const double loss = box_pass(&b, batch, T, plan, false);
      if (i == 0) first = loss;
      check_close(loss, first, 1e-12 * fabs(first));
    }
    box_close(&b);
    rp_pats_free(&m.pats);
  }
}

/* Hidden rows of a sequence do not depend, bit for bit, on what else is in the batch. */
static void rows_of_a_batch_are_alone(void **state) {
  (void)state;
  rp_rng r = check_rng(3);
  for (int trial = 0; trial < 8; trial++) {
    const rp_dtype dtype = trial & 1 ? RP_BF16 : RP_F32;
    const int T = check_pick(&r, 1, 90), batch = 3;
    rp_model_settings m = random_settings(&r, T);
    const size_t row = (size_t)(T * m.d) * (size_t)rp_dtype_bytes(dtype);
    box b;
    rp_error err = {0};
    int plan;
    rp_tensor x;
    uint8_t *all = rp_malloc(3, row), *other = rp_malloc(3, row);
    box_open(&b, RP_DEVICE_CPU, &m, dtype, batch, T, false);
    box_weights(&b, &r, 0.4);
    box_random_data(&b, &r, ids, labels);
    check_ok(rp_net_add_plan(b.net, &m.pats, &plan, &err), err);
    const rp_weights w = rp_params_weights(&b.params);
    check_ok(rp_net_hidden(b.net, &w, batch, T, plan, b.ids, &x, &err), err);
    rp_download(b.q, all, x.p, 3 * row);
    check_ok(rp_wait(b.q, &err), err);
    for (int i = 0; i < T; i++) ids[i] = check_pick(&r, 0, m.V - 1);
    box_data(&b, ids, labels);
    check_ok(rp_net_hidden(b.net, &w, batch, T, plan, b.ids, &x, &err), err);
    rp_download(b.q, other, x.p, 3 * row);
    check_ok(rp_wait(b.q, &err), err);
    assert_memory_equal(all + row, other + row, 2 * row);
    rp_free(all);
    rp_free(other);
    box_close(&b);
    rp_pats_free(&m.pats);
  }
}

static double grads_of(rp_device_kind kind, const rp_model_settings *m, rp_dtype dtype, int batch,
                       int T, bool recompute, uint64_t stream, double **g) {
  rp_rng r = check_rng(stream);
  box b;
  rp_error err = {0};
  int plan;
  box_open(&b, kind, m, dtype, batch, T, recompute);
  box_weights(&b, &r, 0.3);
  box_random_data(&b, &r, ids, labels);
  check_ok(rp_net_add_plan(b.net, &m->pats, &plan, &err), err);
  box_pass(&b, batch, T, plan, true); /* a second pass must not remember the first */
  const double loss = box_pass(&b, batch, T, plan, true);
  *g = box_grads(&b);
  box_close(&b);
  return loss;
}

/* Recomputing activations, and running on the guard device, change no bit. */
static void recomputation_and_guard_change_no_bit(void **state) {
  (void)state;
  rp_rng r = check_rng(4);
  for (int trial = 0; trial < 12; trial++) {
    const rp_dtype dtype = trial & 1 ? RP_BF16 : RP_F32;
    const int T = check_pick(&r, 1, 70), batch = check_pick(&r, 1, 3);
    rp_model_settings m = random_settings(&r, T);
    const uint64_t stream = 100 + (uint64_t)trial;
    double *a, *b, *c;
    const double la = grads_of(RP_DEVICE_CPU, &m, dtype, batch, T, false, stream, &a);
    const double lb = grads_of(RP_DEVICE_CPU, &m, dtype, batch, T, true, stream, &b);
    const double lc = grads_of(RP_DEVICE_GUARD, &m, dtype, batch, T, trial & 2, stream, &c);
    rp_shape s;
    rp_error err = {0};
    check_ok(rp_shape_make(&s, &m, &err), err);
    assert_true(la == lb && la == lc);
    assert_memory_equal(a, b, sizeof *a * (size_t)s.total);
    assert_memory_equal(a, c, sizeof *a * (size_t)s.total);
    rp_shape_free(&s);
    rp_free(a), rp_free(b), rp_free(c);
    rp_pats_free(&m.pats);
  }
}

/* float32 on every device follows the double reference: its rounding, 2^-24 a term, grows with the
 * depth of the sums; 2e-5 of a tensor's norm holds for these sizes by a wide margin. */
static void float32_follows_double(void **state) {
  (void)state;
  rp_rng r = check_rng(5);
  for (int trial = 0; trial < 12; trial++) {
    const int T = check_pick(&r, 1, 140), batch = check_pick(&r, 1, 3);
    rp_model_settings m = random_settings(&r, T);
    const uint64_t stream = 200 + (uint64_t)trial;
    double *want, *got;
    rp_shape s;
    rp_error err = {0};
    const double lw = grads_of(RP_DEVICE_REF64, &m, RP_F32, batch, T, false, stream, &want);
    const rp_device_kind kind = trial & 1 ? RP_DEVICE_CPU : RP_DEVICE_REF;
    const double lg = grads_of(kind, &m, RP_F32, batch, T, false, stream, &got);
    check_close(lg, lw, 1e-5 * fabs(lw));
    check_ok(rp_shape_make(&s, &m, &err), err);
    int64_t at = 0;
    for (int i = 0; i < s.n; i++) {
      double norm = 0, apart = 0;
      const int64_t n = s.p[i].rows * s.p[i].cols;
      for (int64_t j = at; j < at + n; j++) {
        norm += want[j] * want[j];
        apart += (want[j] - got[j]) * (want[j] - got[j]);
      }
      if (!(sqrt(apart) <= 1e-4 * sqrt(norm) + 1e-7))
        fail_msg("trial %d: %s: off by %.3g of %.3g", trial, s.p[i].name, sqrt(apart), sqrt(norm));
      at += n;
    }
    rp_shape_free(&s);
    rp_free(want), rp_free(got);
    rp_pats_free(&m.pats);
  }
}

/* Two micro-batches of one sequence each with weight 1/2: loss and gradients are added up. */
static double two_halves(box *b, int T) {
  rp_error err = {0};
  rp_loss loss;
  rp_params_zero_grads(&b->params);
  rp_op_zero(b->q, &(rp_zero_args){b->loss, sizeof loss});
  const rp_weights w = rp_params_weights(&b->params);
  for (size_t i = 0; i < 2; i++) {
    const size_t skip = i * sizeof(int32_t) * (size_t)T;
    const rp_pass p = {.batch = 1,
                       .T = T,
                       .grad = true,
                       .weight = 0.5,
                       .ids = rp_ptr_add(b->ids, skip),
                       .labels = rp_ptr_add(b->labels, skip),
                       .loss = b->loss};
    check_ok(rp_net_pass(b->net, &w, &p, &err), err);
  }
  rp_download(b->q, &loss, b->loss, sizeof loss);
  check_ok(rp_wait(b->q, &err), err);
  return loss.mean;
}

static void grads_are(box *b, const double *want) {
  double *got = box_grads(b);
  for (int64_t i = 0; i < b->params.shape.total; i++)
    check_close(got[i], want[i], 1e-11 * (1 + fabs(want[i])));
  rp_free(got);
}

/* Micro-batches whose labels all count add up to the larger batch. */
static void accumulation_is_the_larger_batch(void **state) {
  (void)state;
  rp_rng r = check_rng(6);
  for (int trial = 0; trial < 6; trial++) {
    const int T = check_pick(&r, 2, 40);
    rp_model_settings m = random_settings(&r, T);
    box b;
    box_open(&b, RP_DEVICE_REF64, &m, RP_F32, 2, T, false);
    box_weights(&b, &r, 0.3);
    box_random_data(&b, &r, ids, labels);
    for (int i = 0; i < 2 * T; i++) labels[i] = ids[i] / 2;
    box_data(&b, ids, labels);
    const double whole = box_pass(&b, 2, T, 0, true);
    double *g = box_grads(&b);
    check_close(two_halves(&b, T), whole, 1e-12 * fabs(whole));
    grads_are(&b, g);
    rp_free(g);
    box_close(&b);
    rp_pats_free(&m.pats);
  }
}

/* Where the counts of labels differ the result is the plain mean of the means, made by hand from
 * each sequence alone; a micro-batch without a label counts as loss 0. */
static void accumulation_is_a_mean_of_means(void **state) {
  (void)state;
  rp_rng r = check_rng(7);
  for (int trial = 0; trial < 6; trial++) {
    const int T = check_pick(&r, 2, 40), left = trial ? check_pick(&r, 0, T - 1) : 0;
    rp_model_settings m = random_settings(&r, T);
    box b;
    box_open(&b, RP_DEVICE_REF64, &m, RP_F32, 2, T, false);
    box_weights(&b, &r, 0.3);
    box_random_data(&b, &r, ids, labels);
    for (int i = 0; i < 2 * T; i++) labels[i] = i < T + left ? ids[i] / 2 : -100;
    box_data(&b, ids, labels);
    const double first = box_pass(&b, 1, T, 0, true);
    double *g = box_grads(&b);
    box_data(&b, ids + T, labels + T); /* what lies behind is not read by one sequence */
    const double second = box_pass(&b, 1, T, 0, true);
    double *g2 = box_grads(&b);
    for (int64_t i = 0; i < b.params.shape.total; i++) g[i] = (g[i] + g2[i]) / 2;
    box_data(&b, ids, labels);
    check_close(two_halves(&b, T), (first + second) / 2, 1e-12 * (1 + fabs(first)));
    grads_are(&b, g);
    if (!left) assert_true(second == 0);
    rp_free(g);
    rp_free(g2);
    box_close(&b);
    rp_pats_free(&m.pats);
  }
}

/* Row of a grouped projection that row r of the ungrouped one is a copy of: o and q as they are, then
 * k, x and g, whose heads share their group's. */
static int64_t shared_row(const rp_model_settings *m, int64_t r) {
  const int64_t own = 2 * (int64_t)m->H * m->h, stream = (int64_t)m->H * m->h;
  if (r < own) return r;
  const int64_t head = (r - own) % stream / m->h, lane = r % m->h;
  return own + (r - own) / stream * m->Hk * m->h + head / (m->H / m->Hk) * m->h + lane;
}

/* Both models' tensor i, as indices into the grouped one's elements: copies[j] of the ungrouped
 * one's element j. Free with rp_free. */
static int64_t *copies_of(const box *grouped, const box *whole, int i) {
  const rp_param *g = &grouped->params.shape.p[i], *w = &whole->params.shape.p[i];
  const bool in = w->slot == RP_SLOT_IN && w->unit >= 1 && w->unit <= whole->m.N;
  int64_t *at = rp_malloc((size_t)(w->rows * w->cols), sizeof *at);
  assert_non_null(at);
  assert_string_equal(g->name, w->name);
  for (int64_t r = 0; r < w->rows; r++)
    for (int64_t c = 0; c < w->cols; c++)
      at[r * w->cols + c] = (in ? shared_row(&grouped->m, r) : r) * w->cols + c;
  return at;
}

static void copy_weights(box *grouped, box *whole) {
  rp_error err = {0};
  for (int i = 0; i < whole->params.shape.n; i++) {
    const rp_param *g = &grouped->params.shape.p[i], *w = &whole->params.shape.p[i];
    int64_t *at = copies_of(grouped, whole, i);
    double *from = rp_malloc((size_t)(g->rows * g->cols), sizeof *from);
    double *to = rp_malloc((size_t)(w->rows * w->cols), sizeof *to);
    check_ok(rp_params_get_f64(&grouped->params, 0, g, from, &err), err);
    for (int64_t j = 0; j < w->rows * w->cols; j++) to[j] = from[at[j]];
    check_ok(rp_params_set_f64(&whole->params, w, to, &err), err);
    rp_free(at), rp_free(from), rp_free(to);
  }
  rp_params_round(&whole->params);
}

/* A shared row's gradient is the sum of its copies'. */
static void gradients_add_up(box *grouped, box *whole) {
  double *got = box_grads(grouped), *copies = box_grads(whole);
  int64_t first = 0, from = 0;
  for (int i = 0; i < whole->params.shape.n; i++) {
    const rp_param *g = &grouped->params.shape.p[i], *w = &whole->params.shape.p[i];
    int64_t *at = copies_of(grouped, whole, i);
    const int64_t n = g->rows * g->cols;
    double *sum = rp_calloc((size_t)n, sizeof *sum), norm = 0;
    for (int64_t j = 0; j < w->rows * w->cols; j++) sum[at[j]] += copies[from + j];
    for (int64_t j = 0; j < n; j++) norm += sum[j] * sum[j];
    for (int64_t j = 0; j < n; j++) check_close(got[first + j], sum[j], 1e-12 * (1 + sqrt(norm)));
    first += n;
    from += w->rows * w->cols;
    rp_free(at), rp_free(sum);
  }
  rp_free(got), rp_free(copies);
}

/* Grouped keys and values are those of a model with a copy for every query head, patterns of its
 * kv heads included; one kv head for all is the extreme. */
static void grouped_heads_are_copied_heads(void **state) {
  (void)state;
  rp_rng r = check_rng(8);
  for (int trial = 0; trial < 40; trial++) {
    const int T = check_pick(&r, 1, 40), batch = check_pick(&r, 1, 2), group = check_pick(&r, 2, 4);
    const int Hk = trial % 4 ? check_pick(&r, 1, 4) : 1;
    rp_model_settings m = box_settings(check_pick(&r, 1, 3), Hk * group, Hk,
                                       2 * check_pick(&r, 1, 4), 11, check_pick(&r, 5, 23));
    rp_model_settings copied = box_settings(m.N, m.H, m.H, m.h, m.f, m.V);
    box a, b;
    rp_error err = {0};
    int plan;
    copied.apply_re = m.apply_re = check_pick(&r, 0, 2) > 0;
    for (int i = 0; i < m.N * m.Hk; i++) m.pats.at[i] = random_pat(&r, T);
    for (int i = 0; i < m.N * m.H; i++) copied.pats.at[i] = m.pats.at[i / group];
    box_open(&a, RP_DEVICE_REF64, &m, RP_F32, batch, T, false);
    box_open(&b, RP_DEVICE_REF64, &copied, RP_F32, batch, T, false);
    box_weights(&a, &r, 0.5);
    box_random_data(&a, &r, ids, labels);
    box_data(&b, ids, labels);
    copy_weights(&a, &b);
    check_ok(rp_net_add_plan(a.net, &m.pats, &plan, &err), err);
    const double one = box_pass(&a, batch, T, plan, true);
    check_ok(rp_net_add_plan(b.net, &copied.pats, &plan, &err), err);
    check_close(box_pass(&b, batch, T, plan, true), one, 1e-12 * (1 + fabs(one)));
    gradients_add_up(&a, &b);
    box_close(&a);
    box_close(&b);
    rp_pats_free(&m.pats);
    rp_pats_free(&copied.pats);
  }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(gradients_are_central_differences),
    cmocka_unit_test(dense_patterns_agree),
    cmocka_unit_test(rows_of_a_batch_are_alone),
    cmocka_unit_test(recomputation_and_guard_change_no_bit),
    cmocka_unit_test(float32_follows_double),
    cmocka_unit_test(accumulation_is_the_larger_batch),
    cmocka_unit_test(accumulation_is_a_mean_of_means),
    cmocka_unit_test(grouped_heads_are_copied_heads),
};
CHECK_MAIN(tests)
