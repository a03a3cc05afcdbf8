#include "bench/work.h"

#include <string.h>

#include "base/cpu.h"
#include "base/json.h"
#include "bench/place.h"
#include "model/store.h"

enum { MOST_BATCH = 1 << 16 };

/* ---- words ---- */

rp_status rp_bench_split(const char *text, char separator, char **out, int *n, rp_error *err) {
  *n = 0;
  for (const char *at = text; *at;) {
    const char *end = strchr(at, separator);
    const size_t len = end ? (size_t)(end - at) : strlen(at);
    if (*n == RP_WORK_MOST)
      return rp_fail(err, RP_USAGE, "%s: more than %d words", text, RP_WORK_MOST);
    rp_str word = {0};
    rp_str_addn(&word, at, len);
    out[*n] = rp_str_take(&word);
    if (!out[*n]) return rp_fail_memory(err, len, "a word of the benchmark");
    ++*n;
    at += len + (end != NULL);
  }
  return *n ? RP_OK : rp_fail(err, RP_USAGE, "the benchmark was given an empty list");
}

rp_status rp_bench_dtype(const char *name, rp_dtype *t, rp_error *err) {
  *t = strcmp(name, "bfloat16") == 0 ? RP_BF16 : RP_F32;
  if (*t == RP_BF16 || strcmp(name, "float32") == 0) return RP_OK;
  return rp_fail(err, RP_USAGE, "--dtype %s: choose float32, bfloat16 or both with a comma", name);
}

/* ---- the shape ---- */

typedef struct {
  const char *name;
  int N, d;
} known;

/* Heads, FFN and patterns follow from the width. */
static void of_width(rp_model_settings *m) {
  m->H = m->Hk = m->d % 128 ? 1 : m->d / 128;
  m->h = m->d / m->H;
  m->f = 4 * m->d;
}

rp_model_settings rp_bench_shape(int N, int d) {
  rp_model_settings m = {.N = N,
                         .d = d,
                         .V = 32000,
                         .act = RP_ACT_GELU,
                         .init_range = 0.02,
                         .apply_re = true,
                         .joint_train = true,
                         .tied = true,
                         .rope = true,
                         .rope_base = 10000,
                         .rope_scale = 1,
                         .max_seq_len = 4096};
  of_width(&m);
  return m;
}

static rp_status named_shape(rp_model_settings *m, const char *name, rp_error *err) {
  static const known shapes[] = {{"1b", 24, 2048}, {"3b", 28, 2560}, {"7b", 32, 4096}};
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    if (strcmp(name, shapes[i].name)) continue;
    *m = rp_bench_shape(shapes[i].N, shapes[i].d);
    return RP_OK;
  }
  return rp_fail(err, RP_USAGE, "--shape %s: choose 1b, 3b or 7b", name);
}

rp_status rp_bench_part(const char *flag, int value, int most, rp_error *err) {
  if (value < 0 || value > most)
    return rp_fail(err, RP_USAGE, "--%s %d: give a number from 1 to %d", flag, value, most);
  return RP_OK;
}

static rp_status part(const char *flag, int value, int *at, rp_error *err) {
  RP_TRY(rp_bench_part(flag, value, 1 << 20, err));
  if (value) *at = value;
  return RP_OK;
}

/* A width without a number of heads has heads of 128, or one that is all of it. */
rp_status rp_bench_own_shape(rp_model_settings *m, const rp_bench_opts *o,
                             const rp_model_settings *usual, rp_error *err) {
  *m = *usual;
  if (o->shape) RP_TRY(named_shape(m, o->shape, err));
  RP_TRY(part("layers", o->layers, &m->N, err));
  RP_TRY(part("width", o->width, &m->d, err));
  RP_TRY(part("vocab", o->vocab, &m->V, err));
  of_width(m);
  RP_TRY(part("heads", o->heads, &m->H, err));
  m->Hk = m->H;
  RP_TRY(part("kv-heads", o->kv_heads, &m->Hk, err));
  m->h = m->d / m->H;
  m->apply_re = !o->attention_only;
  if (m->d % m->H || m->h % 2)
    return rp_fail(err, RP_USAGE, "a width of %d is not %d heads of an even width", m->d, m->H);
  if (m->H % m->Hk)
    return rp_fail(err, RP_USAGE, "%d query heads cannot share %d key-value heads", m->H, m->Hk);
  return RP_OK;
}

static rp_status config_shape(rp_model_settings *m, const rp_config *c, rp_error *err) {
  rp_settings s;
  RP_TRY(rp_settings_read(&s, c, 1, err));
  *m = s.model;
  s.model.pats = (rp_pats){0};
  rp_settings_free(&s);
  return RP_OK;
}

static rp_status file_shape(rp_model_settings *m, const char *path, rp_error *err) {
  rp_store *s;
  RP_TRY(rp_store_open(&s, path, err));
  const rp_status st = rp_store_model(s, NULL, 0, m, err);
  rp_store_close(s);
  return st;
}

bool rp_bench_told_shape(const rp_bench_opts *o) {
  return o->shape || o->layers || o->width || o->heads || o->kv_heads || o->vocab ||
         o->attention_only;
}

static rp_status read_shape(rp_work *w, const rp_config *c, rp_error *err) {
  if ((c || w->o.model) && rp_bench_told_shape(&w->o))
    return rp_fail(err, RP_USAGE,
                   "a shape by flags (--shape, --layers ...) and a %s: give one of the two",
                   c ? "configuration" : "model");
  if (c && w->o.model)
    return rp_fail(err, RP_USAGE, "--model and a configuration: give one of the two");
  if (w->o.model && !w->kind->one_layer) return RP_OK;
  const rp_model_settings usual = rp_bench_shape(24, 2048);
  RP_TRY(w->o.model ? file_shape(&w->m, w->o.model, err)
         : c        ? config_shape(&w->m, c, err)
                    : rp_bench_own_shape(&w->m, &w->o, &usual, err));
  if (w->kind->one_layer) {
    if (w->m.cell == RP_CELL_IDENTITY)
      return rp_fail(err, RP_USAGE, "bench %s: layers of this kind (identity) have no mixer",
                     w->kind->name);
    w->m.N = 1;
    w->m.f = 0;
  }
  rp_pats_free(&w->m.pats);
  return rp_pats_uniform(&w->m.pats, (rp_pat){1, 0, 0}, w->m.N, w->m.Hk, err);
}

/* ---- lists ---- */

rp_status rp_bench_numbers(const char *flag, const int64_t *given, size_t n, const int64_t *usual,
                           int64_t low, int64_t high, int64_t out[RP_WORK_MOST], int *count,
                           rp_error *err) {
  if (!n) {
    given = usual;
    while (usual[n] >= 0) n++;
  }
  if (n > RP_WORK_MOST)
    return rp_fail(err, RP_USAGE, "--%s: more than %d numbers", flag, RP_WORK_MOST);
  for (size_t i = 0; i < n; i++) {
    if (given[i] < low || given[i] > high)
      return rp_fail(err, RP_USAGE, "--%s %lld: give numbers from %lld to %lld", flag,
                     (long long)given[i], (long long)low, (long long)high);
    out[i] = given[i];
  }
  *count = (int)n;
  return RP_OK;
}

rp_status rp_bench_dtypes(const char *text, rp_dtype out[2], int *n, rp_error *err) {
  char *words[RP_WORK_MOST] = {0};
  int count = 0;
  rp_status st = RP_OK;
  RP_GO(rp_bench_split(text, ',', words, &count, err));
  if (count > 2) RP_GO(rp_fail(err, RP_USAGE, "--dtype %s: at most two types", text));
  for (int i = 0; i < count; i++) RP_GO(rp_bench_dtype(words[i], &out[i], err));
  *n = count;
fail:
  for (int i = 0; i < count; i++) rp_free(words[i]);
  return st;
}

static rp_status read_dtypes(rp_work *w, rp_error *err) {
  const bool own = w->o.model && !w->kind->one_layer;
  const char *text = w->o.dtypes ? w->o.dtypes : own ? NULL : "bfloat16";
  return text ? rp_bench_dtypes(text, w->dtype, &w->dtypes, err) : RP_OK;
}

static rp_status read_lists(rp_work *w, rp_error *err) {
  const rp_work_kind *k = w->kind;
  const bool paper = w->o.paper;
  RP_TRY(read_dtypes(w, err));
  RP_TRY(rp_bench_split(w->o.patterns ? w->o.patterns : k->patterns, ';', w->pattern, &w->patterns,
                        err));
  RP_TRY(rp_bench_numbers("seq-len", w->o.seq_lens, w->o.n_seq_lens, paper ? k->paper_T : k->T, 2,
                          (1 << 30) - 1, w->T, &w->Ts, err));
  return rp_bench_numbers("batch", w->o.batches, w->o.n_batches, paper ? k->paper_batch : k->batch,
                          0, MOST_BATCH, w->batch, &w->batches, err);
}

/* Patterns are told apart before anything is measured. */
static rp_status check_patterns(const rp_work *w, rp_error *err) {
  for (int i = 0; i < w->patterns && (w->kind->one_layer || !w->o.model); i++) {
    rp_pats p = {0};
    RP_TRY(rp_pats_parse(&p, w->pattern[i], w->m.N, w->m.Hk, err));
    rp_pats_free(&p);
  }
  return RP_OK;
}

rp_status rp_work_read(rp_work *w, const rp_work_kind *kind, const rp_config *c,
                       const rp_bench_opts *o, rp_error *err) {
  *w = (rp_work){.kind = kind};
  rp_bench_defaults(&w->o);
  if (o) w->o = *o;
  if (w->o.seconds <= 0) w->o.seconds = kind->seconds;
  if (w->o.patience <= 0) w->o.patience = kind->patience;
  if (w->o.tokens <= 0) w->o.tokens = w->o.paper ? kind->paper_tokens : kind->tokens;
  RP_TRY(rp_bench_device(&w->dev, w->o.device, false, err));
  w->memory = rp_bench_memory(w->dev, w->o.memory);
  if (w->o.only && strcmp(w->o.only, "prefill") && strcmp(w->o.only, "decode"))
    return rp_fail(err, RP_USAGE, "--only %s: choose prefill or decode", w->o.only);
  RP_TRY(read_shape(w, c, err));
  RP_TRY(read_lists(w, err));
  return check_patterns(w, err);
}

void rp_work_free(rp_work *w) {
  for (int i = 0; i < RP_WORK_MOST; i++) rp_free(w->pattern[i]);
  rp_model_settings_free(&w->m);
  rp_device_close(w->dev);
  *w = (rp_work){0};
}

bool rp_work_does(const rp_work *w, bool decode) {
  return !w->o.only || (w->o.only[0] == 'd') == decode;
}

/* ---- what is said ---- */

void rp_work_name(char out[160], const rp_figure *f) {
  rp_snprintf(out, 160, "%s %s %s, T=%lld, batch %lld%s", f->decode ? "decode" : "prefill",
              rp_dtype_name(f->dtype), f->pattern, (long long)f->T, (long long)f->batch,
              f->one_head ? ", one head alone" : "");
}

rp_status rp_work_progress(const rp_work *w, int done, int of, const rp_figure *f, rp_error *err) {
  char what[160];
  if (!w->o.progress) return RP_OK;
  rp_work_name(what, f);
  if (w->o.progress(w->o.ctx, done, of, what)) return rp_fail(err, RP_STOPPED, "stopped as asked");
  return RP_OK;
}

char *rp_work_head(const rp_work *w, const rp_model_settings *m) {
  rp_str b = {0};
  if (w->o.json) {
    rp_str_addf(&b,
                "\"bench\":\"%s\",\"layers\":%d,\"width\":%d,\"heads\":%d,\"kv_heads\":%d,"
                "\"head_width\":%d,\"ffn_width\":%d,\"vocab\":%d,\"recurrence\":%s,"
                "\"device\":\"%s\",\"threads\":%d,\"processor\":",
                w->kind->name, m->N, m->d, m->H, m->Hk, m->h, m->f, m->V,
                m->apply_re ? "true" : "false", rp_device_name(w->dev), rp_threads());
    rp_json_add_string(&b, rp_device_label(w->dev));
    return rp_str_take(&b);
  }
  return rp_work_title(w, m);
}

char *rp_work_title(const rp_work *w, const rp_model_settings *m) {
  rp_str b = {0};
  rp_str_addf(&b, "%s: ", w->kind->name);
  if (!w->kind->one_layer) rp_str_addf(&b, "%d layers, ", m->N);
  rp_str_addf(&b, "d=%d, %d heads of %d", m->d, m->H, m->h);
  if (m->Hk != m->H) rp_str_addf(&b, " (%d key-value)", m->Hk);
  if (!w->kind->one_layer) rp_str_addf(&b, ", f=%d, V=%d", m->f, m->V);
  rp_str_addf(&b, "%s; ", m->apply_re ? "" : ", attention only");
  rp_bench_place(&b, w->dev);
  return rp_str_take(&b);
}

rp_status rp_work_fits(const rp_work *w, const rp_figure *f, double limit, double need,
                       rp_figures *all, bool *fits, rp_error *err) {
  char name[160], takes[32], there[32];
  rp_work_name(name, f);
  *fits = need <= (double)w->memory && limit <= w->o.patience;
  if (need > (double)w->memory) {
    rp_format_bytes(takes, need);
    rp_format_bytes(there, (double)w->memory);
    return rp_figures_note(all, err, "left out: %s takes %s of memory, and %s may be used", name,
                           takes, there);
  }
  if (*fits) return RP_OK;
  return rp_figures_note(all, err,
                         "left out: %s takes %.3g s at the machine's limit, beyond --patience %g",
                         name, limit, w->o.patience);
}

rp_status rp_work_largest(const rp_work *w, rp_work_need need, void *ctx, int64_t *batch,
                          rp_error *err) {
  int64_t low = 0, high = MOST_BATCH;
  while (low < high) {
    const int64_t mid = low + (high - low + 1) / 2;
    double bytes;
    RP_TRY(need(ctx, mid, &bytes, err));
    if (bytes <= (double)w->memory)
      low = mid;
    else
      high = mid - 1;
  }
  *batch = low;
  return RP_OK;
}

rp_status rp_work_any(const rp_work *w, const rp_figures *all, rp_error *err) {
  if (all->n) return RP_OK;
  for (size_t i = 0; i < all->notes; i++)
    if (strstr(all->note[i], "of memory"))
      return rp_fail(err, RP_NO_MEMORY, "%s; nothing is left to measure", all->note[i]);
  return rp_fail(err, RP_USAGE,
                 "%s; nothing is left to measure with --protocol, --only and lists "
                 "as given to bench %s",
                 all->notes ? all->note[0] : "no figure was asked for", w->kind->name);
}
