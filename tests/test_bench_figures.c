/* Figures of benchmarks: what they count is what the mask and the caches have, and the slopes of
 * cost over T are those of the numbers. Nothing here is timed. */
#include "check.h"

#include <math.h>

#include "bench/cost_lines.h"
#include "bench/mixer_rig.h"

/* ---- counts ---- */

static bool sees(rp_pat p, int64_t t, int64_t s) {
  return s <= t && (s < p.I || t - s <= p.W || (p.D != -1 && (s + 1) % p.D == 0));
}

/* Entries that a cache of T tokens has: what a later query may see (model.md 4). */
static bool kept(rp_pat p, int64_t T, int64_t s) {
  return s < T && (s < p.I || s >= T - p.W || (p.D != -1 && (s + 1) % p.D == 0));
}

/* (query, key) pairs of all tokens or of the last alone, and entries of the caches before that. */
static void count_mask(const rp_mixer_work *w, double *pairs, double *entries) {
  *pairs = *entries = 0;
  for (int g = 0; g < w->m.Hk; g++) {
    const rp_pat p = w->m.pats.at[g];
    for (int64_t t = w->decode ? w->T - 1 : 0; t < w->T; t++)
      for (int64_t s = 0; s <= t; s++) *pairs += sees(p, t, s);
    for (int64_t s = 0; s < w->T - 1; s++) *entries += kept(p, w->T - 1, s);
  }
}

static void counts_are_those_of_the_mask(void **state) {
  (void)state;
  static const char *const patterns[] = {"D=1", "D=16", "D=4,W=9", "D=-1,W=5,I=3", "D={1:1,8:1}"};
  rp_error err = {0};
  rp_rng r = check_rng(1);
  for (int round = 0; round < 200; round++) {
    rp_model_settings m = rp_bench_shape(1, 128);
    rp_mixer_work w;
    rp_figure f = {0};
    double pairs, entries;
    m.Hk = 2;
    m.H = m.Hk * check_pick(&r, 1, 3);
    m.h = 2 * check_pick(&r, 1, 20);
    m.d = m.H * m.h;
    m.apply_re = check_pick(&r, 0, 1);
    check_ok(rp_mixer_work_make(&w, &m, patterns[check_pick(&r, 0, 4)], &err), err);
    w.dtype = f.dtype = check_pick(&r, 0, 1) ? RP_BF16 : RP_F32;
    w.decode = check_pick(&r, 0, 1);
    w.core = check_pick(&r, 0, 1);
    w.T = check_pick(&r, 2, 80);
    w.batch = check_pick(&r, 1, 5);
    rp_mixer_count(&w, &f);
    count_mask(&w, &pairs, &entries);
    const double tokens = (double)(w.batch * (w.decode ? 1 : w.T)), c = w.dtype == RP_BF16 ? 2 : 4;
    const double wide = 2.0 * m.d + (m.apply_re ? 3.0 : 2.0) * m.Hk * m.h; /* rows of W_in */
    const double weights = w.core ? 0 : (wide + m.d) * m.d;
    const double group = (double)m.H / m.Hk;
    const double flops = 2 * weights * tokens + 4 * pairs * group * m.h * (double)w.batch;
    const double cache = entries * 2 * m.h * c * (double)w.batch;
    assert_true(f.tokens == tokens);
    assert_true(f.flops == flops);
    if (w.decode) assert_true(f.bytes == cache + weights * c);
    if (!w.decode) assert_true(f.bytes == (w.core ? tokens * (wide - m.d) * c : 0));
    rp_mixer_work_free(&w);
  }
}

/* A search for the largest batch rests on this, and a figure too large for a call must say so. */
static void more_sessions_need_more(void **state) {
  (void)state;
  rp_error err = {0};
  const rp_model_settings m = rp_bench_shape(1, 256);
  rp_mixer_work w;
  check_ok(rp_mixer_work_make(&w, &m, "D=8,W=20", &err), err);
  check_ok(rp_device_open(&w.dev, RP_DEVICE_CPU, &err), err);
  for (int which = 0; which < 4; which++) {
    double before = 0;
    w.decode = which % 2;
    w.core = which / 2;
    w.T = 1 << 20;
    for (w.batch = 1; w.batch <= 1 << 16; w.batch *= 4) {
      const double need = rp_mixer_need(&w);
      assert_true(need > before);
      before = need;
    }
  }
  rp_device_close(w.dev);
  rp_mixer_work_free(&w);
}

static void heads_that_differ_are_not_one(void **state) {
  (void)state;
  rp_error err = {0};
  rp_model_settings m = rp_bench_shape(1, 1024);
  rp_mixer_work w;
  check_ok(rp_mixer_work_make(&w, &m, "D={1:2,8:6}", &err), err);
  assert_false(rp_mixer_one_head(&w));
  rp_mixer_work_free(&w);
  m.Hk = 2;
  check_ok(rp_mixer_work_make(&w, &m, "D=8", &err), err);
  assert_true(rp_mixer_one_head(&w));
  assert_int_equal(w.slices, 2);
  assert_int_equal(w.m.H, 4); /* the queries of one key-value head */
  assert_int_equal(w.m.d, 1024);
  rp_mixer_work_free(&w);
}

/* ---- slopes ---- */

static void a_power_law_gives_its_exponent(void **state) {
  (void)state;
  double x[9], y[9];
  for (int i = 0; i < 9; i++) {
    x[i] = pow(2, 10 + i);
    y[i] = 3e-7 * pow(x[i], 1.7);
  }
  check_close(rp_fit_exponent(x, y, 9), 1.7, 1e-12);
  check_close(rp_fit_exponent(x + 7, y + 7, 2), 1.7, 1e-12);
  y[4] *= 2; /* in the middle: least squares keep their slope */
  check_close(rp_fit_exponent(x, y, 9), 1.7, 1e-12);
  y[8] *= 2; /* at the end: 4 log 2 over the sum of (i log 2)^2, i = -4..4 */
  check_close(rp_fit_exponent(x, y, 9), 1.7 + 4.0 / 60, 1e-12);
  assert_true(isnan(rp_fit_exponent(x, y, 1)));
  x[1] = x[0];
  assert_true(isnan(rp_fit_exponent(x, y, 2)));
}

static void add(rp_figures *all, bool decode, const char *pattern, int64_t T, int64_t batch,
                double seconds) {
  rp_error err = {0};
  rp_figure f = {.decode = decode, .dtype = RP_BF16, .T = T, .batch = batch, .seconds = seconds};
  rp_snprintf(f.pattern, sizeof f.pattern, "%s", pattern);
  check_ok(rp_figures_add(all, &f, &err), err);
}

static void figures_become_lines(void **state) {
  (void)state;
  rp_error err = {0};
  rp_figures all = {0};
  rp_line *lines;
  rp_str b = {0};
  size_t n;
  char *svg;
  add(&all, false, "D=1", 4096, 1, 16); /* in any order */
  add(&all, false, "D=1", 1024, 4, 4);  /* four sequences: 1 s each */
  add(&all, false, "D=1", 2048, 2, 8);
  add(&all, true, "D=1", 1024, 1, 1);
  add(&all, true, "D=1", 1024, 2, 1.5);
  add(&all, false, "D=16", 1024, 1, 0.5);
  add(&all, false, "D=16", 4096, 1, 2);
  check_ok(rp_lines_make(&all, &lines, &n, &err), err);
  assert_int_equal(n, 4);
  assert_int_equal(lines[0].n, 3);
  for (int i = 0; i < 3; i++) {
    assert_true(lines[0].x[i] == 1024 << i);
    assert_true(lines[0].y[i] == 1 << 2 * i);
  }
  check_close(lines[0].exponent, 2, 1e-12);
  check_close(lines[3].exponent, 1, 1e-12);
  assert_true(isnan(lines[1].exponent));
  rp_lines_add(&b, lines, n, 1);
  assert_non_null(strstr(b.s,
                         "\"exponent\":1,\"last_exponent\":1,\"longest\":4096,\"seconds\":2,"
                         "\"dense_over_it\":8}"));
  rp_str_clear(&b);
  rp_lines_add(&b, lines, n, 0);
  assert_non_null(strstr(b.s, "8.00\n"));
  check_ok(rp_lines_svg(lines, n, "a title", &svg, &err), err);
  assert_non_null(strstr(svg, ">D=16: T^1.00<"));
  assert_non_null(strstr(svg, ">D=1 x2<")); /* a step has one length and no slope */
  rp_free(svg);
  rp_str_free(&b);
  rp_free(lines);
  rp_figures_free(&all);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(counts_are_those_of_the_mask),
    cmocka_unit_test(more_sessions_need_more),
    cmocka_unit_test(heads_that_differ_are_not_one),
    cmocka_unit_test(a_power_law_gives_its_exponent),
    cmocka_unit_test(figures_become_lines),
};
CHECK_MAIN(tests)
