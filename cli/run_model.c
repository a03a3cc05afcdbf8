#include "cli/run_model.h"

#include <stdlib.h>
#include <string.h>

#include "ratplus/generate.h"

static int on_load(void *ctx, double done) {
  cli_progress_update(ctx, (uint64_t)(1000 * done), 1000, "loading");
  return *cli_stop_flag();
}

static bool has_experiment(const char *const *words, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (strncmp(words[i], "experiment=", 11) == 0) return true;
  return false;
}

/* ---- what experiment= says of the model ---- */

/* Of the whole configuration these say how a model is run; the rest is in its file. */
static const char *const keys[] = {
    "model.backbone.seq_cell.d_head", "model.backbone.seq_cell.dilation_size",
    "model.backbone.seq_cell.local_size", "model.backbone.seq_cell.initial_size",
    "model.backbone.seq_cell.joint_train"};
enum { KEYS = sizeof keys / sizeof *keys };

typedef struct {
  const char *path, *dtype;
  const char *const *words;
  size_t n_words;
  char *owned[KEYS + 2]; /* freed with rp_free or free, see forget */
} told;

static void forget(told *t) {
  rp_free(t->owned[KEYS]);
  rp_free(t->owned[KEYS + 1]);
  for (int i = 0; i < KEYS; i++) free(t->owned[i]);
}

static int read_experiment(const cli_args *a, told *t) {
  rp_config *c;
  const int code = cli_compose(a, true, &c);
  if (code) return code;
  t->words = (const char *const *)t->owned;
  t->n_words = 0;
  for (int i = 0; i < KEYS; i++) {
    char *value = rp_config_get(c, keys[i]);
    if (!value) continue;
    const size_t n = strlen(keys[i]) + strlen(value) + 2;
    char *word = malloc(n);
    if (word) snprintf(word, n, "%s=%s", keys[i], value);
    rp_free(value);
    if (!word) {
      rp_config_free(c);
      return cli_fail(RP_NO_MEMORY, "out of memory for the configuration");
    }
    t->owned[t->n_words++] = word;
  }
  t->path = t->owned[KEYS] = rp_config_get(c, "trainer.pretrained_path");
  t->dtype = t->owned[KEYS + 1] = rp_config_get(c, "trainer.dtype");
  rp_config_free(c);
  if (t->path && (!*t->path || !strcmp(t->path, "null") || !strcmp(t->path, "none")))
    t->path = NULL;
  return 0;
}

static int read_words(const cli_args *a, told *t) {
  size_t n;
  const char *const *words = cli_words(a, &n);
  if (has_experiment(words, n)) {
    const int code = read_experiment(a, t);
    if (code) return code;
  } else {
    t->words = words;
    t->n_words = n;
  }
  if (cli_text(a, "model")) t->path = cli_text(a, "model");
  if (cli_text(a, "dtype")) t->dtype = cli_text(a, "dtype");
  return 0;
}

/* ---- opening ---- */

static int open_model(const cli_args *a, const told *t, cli_model *m) {
  rp_model_opts o;
  rp_error err = {0};
  cli_progress bar;
  if (!t->path)
    return cli_fail(RP_USAGE,
                    "no model is named; give --model DIR, or trainer.pretrained_path= "
                    "beside experiment=");
  rp_model_defaults(&o);
  o.words = t->words;
  o.n_words = t->n_words;
  o.dtype = t->dtype;
  o.device = cli_text(a, "device");
  o.progress = on_load;
  o.ctx = &bar;
  cli_progress_start(&bar);
  const rp_status st = rp_model_open(&m->model, t->path, &o, &err);
  cli_progress_end(&bar);
  if (st == RP_STOPPED) return 128 + *cli_stop_flag();
  if (st) return cli_error(&err);
  m->facts.size = sizeof m->facts;
  rp_model_about(m->model, &m->facts);
  return 0;
}

static int choose_pattern(const cli_args *a, cli_model *m) {
  rp_error err = {0};
  int trained;
  char line[512];
  if (cli_has(a, "pattern")) {
    const size_t n = strlen(cli_text(a, "pattern")) + 1;
    m->pattern = malloc(n);
    if (!m->pattern) return cli_fail(RP_NO_MEMORY, "out of memory for the pattern");
    memcpy(m->pattern, cli_text(a, "pattern"), n);
  } else {
    char *own;
    if (rp_model_pattern(m->model, &own, &err)) return cli_error(&err);
    m->pattern = strdup(own);
    rp_free(own);
    if (!m->pattern) return cli_fail(RP_NO_MEMORY, "out of memory for the pattern");
  }
  if (rp_model_trained(m->model, m->pattern, &trained, &err)) return cli_error(&err);
  if (strcmp(m->facts.device, "cpu")) cli_note("device: %s", m->facts.device);
  cli_note("pattern: %s", m->pattern);
  if (trained) return 0;
  snprintf(line, sizeof line,
           "the model was not trained in the pattern %.100s; `ratplus train "
           "experiment=cpu/adapt-tiny trainer.pretrained_path=MODEL "
           "model.backbone.seq_cell.dilation_size=...` adapts it",
           m->pattern);
  cli_log(NULL, RP_LOG_NOTICE, line);
  return 0;
}

int cli_model_open(const cli_args *a, cli_model *m) {
  told t = {0};
  int code = 0;
  if (cli_count(a, "model") > 1 || cli_count(a, "pattern") > 1)
    return cli_fail(RP_USAGE, "%s runs one model in one pattern; give --model and --pattern once",
                    cli_args_verb(a)->name);
  code = cli_use_threads(a);
  if (!code) code = read_words(a, &t);
  if (!code) code = open_model(a, &t, m);
  if (!code) code = choose_pattern(a, m);
  forget(&t);
  return code;
}

int cli_model_tokenizer(const cli_args *a, cli_model *m) {
  rp_error err = {0};
  const char *path = cli_text(a, "tokenizer") ? cli_text(a, "tokenizer") : m->facts.tokenizer;
  if (!path)
    return cli_fail(RP_USAGE, "%s: there is no tokenizer beside the model; give --tokenizer FILE",
                    m->facts.path);
  if (rp_tokenizer_open(&m->tokenizer, path, &err)) return cli_error(&err);
  if (rp_tokenizer_vocab_size(m->tokenizer) > m->facts.vocab_size)
    return cli_fail(RP_USAGE,
                    "%s: the tokenizer has %d pieces and the model %d tokens: it is another "
                    "model's; give the one it was trained with",
                    path, rp_tokenizer_vocab_size(m->tokenizer), m->facts.vocab_size);
  return 0;
}

void cli_model_close(cli_model *m) {
  rp_tokenizer_close(m->tokenizer);
  rp_model_close(m->model);
  free(m->pattern);
  *m = (cli_model){0};
}

int cli_cache_bytes(const cli_args *a, const cli_model *m, const int64_t *tokens, size_t n,
                    uint64_t *bytes) {
  rp_error err = {0};
  const int64_t mib = cli_int(a, "cache-mib");
  if (cli_has(a, "cache-mib")) {
    if (mib < 1 || mib > (int64_t)1 << 32)
      return cli_fail(RP_USAGE, "--cache-mib %lld: must be 1 or more", (long long)mib);
    *bytes = (uint64_t)mib << 20;
    return 0;
  }
  return rp_cache_plan(m->model, m->pattern, tokens, n, bytes, &err) ? cli_error(&err) : 0;
}

void cli_format_bytes(char out[32], uint64_t bytes) {
  static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
  double x = (double)bytes / 1024;
  int i = 0;
  for (; x >= 1024 && i < 3; i++) x /= 1024;
  snprintf(out, 32, "%.2f %s", x, units[i]);
}
