/* golden_cases.h - one case of cmocka for each golden file and each device and numerics it speaks of,
 * and rows of numbers against those of a file. */
#ifndef RP_GOLDEN_CASES_H
#define RP_GOLDEN_CASES_H

#include "golden.h"

typedef struct {
  const char *label;
  rp_device_kind kind;
  rp_dtype dtype;
  bool recompute; /* of a pass with gradients */
} golden_mode;

static const golden_mode golden_modes[] = {
    {"ref64", RP_DEVICE_REF64, RP_F32, false},      {"ref", RP_DEVICE_REF, RP_F32, false},
    {"cpu", RP_DEVICE_CPU, RP_F32, false},          {"guard", RP_DEVICE_GUARD, RP_F32, true},
    {"ref-bfloat16", RP_DEVICE_REF, RP_BF16, true}, {"cpu-bfloat16", RP_DEVICE_CPU, RP_BF16, false},
};
enum { GOLDEN_MODES = sizeof golden_modes / sizeof *golden_modes, GOLDEN_MOST = 384 };

/* The state of a case. */
typedef struct {
  char name[80]; /* of the golden file */
  const golden_mode *how;
} golden_case;

static struct CMUnitTest golden_tests[GOLDEN_MOST];
static size_t golden_count;

static bool golden_has_bf16(const char *name) {
  golden g;
  golden_open(&g, name);
  const bool has = rp_json_get(g.root, "bf16") != NULL;
  golden_close(&g);
  return has;
}

static void golden_add_file(const char *file, CMUnitTestFunction law) {
  static golden_case cases[GOLDEN_MOST];
  static char labels[GOLDEN_MOST][120];
  char name[80];
  snprintf(name, sizeof name, "%.*s", (int)(strlen(file) - strlen(".json")), file);
  for (int i = 0; i < GOLDEN_MODES; i++) {
    const size_t k = golden_count;
    if (golden_modes[i].dtype == RP_BF16 && !golden_has_bf16(name)) continue;
    if (k == GOLDEN_MOST) fail_msg("more than %d golden cases", GOLDEN_MOST);
    snprintf(cases[k].name, sizeof cases[k].name, "%s", name);
    cases[k].how = &golden_modes[i];
    snprintf(labels[k], sizeof labels[k], "%s-%s", name, golden_modes[i].label);
    golden_tests[k] =
        (struct CMUnitTest){.name = labels[k], .test_func = law, .initial_state = &cases[k]};
    golden_count++;
  }
}

/* The files whose name begins so, each in every mode it has numbers for. */
static void golden_add(const char *prefix, CMUnitTestFunction law) {
  rp_error err = {0};
  char **files;
  size_t n;
  check_ok(rp_list_dir(check_source("tests/data/golden"), &files, &n, &err), err);
  for (size_t i = 0; i < n; i++)
    if (rp_starts_with(files[i], prefix) && rp_ends_with(files[i], ".json"))
      golden_add_file(files[i], law);
  rp_list_free(files, n);
}

/* Sums of squares over rows: of what they are apart, and of what was wanted. */
typedef struct {
  double apart, wanted;
} golden_sums;

/* How far got[n] is from want[n], in parts of the largest of these; NaN is infinitely far. sums: NULL. */
static double golden_apart(const double *got, const float *want, int64_t n, golden_sums *sums) {
  double top = 0, diff = 0;
  for (int64_t i = 0; i < n; i++) {
    const double w = (double)want[i], d = fabs(got[i] - w);
    top = fmax(top, fabs(w));
    diff = d >= diff ? d : isnan(d) ? INFINITY : diff;
    if (sums) sums->apart += d * d, sums->wanted += w * w;
  }
  return diff > 0 ? diff / top : 0;
}

#endif
