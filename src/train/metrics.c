#include "train/metrics.h"

#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"

rp_metrics rp_metrics_none(int64_t step) {
  return (rp_metrics){.step = step,
                      .tokens = -1,
                      .train_loss = NAN,
                      .train_loss1 = NAN,
                      .val_loss = NAN,
                      .val_loss_dense = NAN,
                      .lr = NAN,
                      .grad_norm = NAN,
                      .tokens_per_second = NAN,
                      .mfu = NAN,
                      .seconds = NAN};
}

/* The real fields in the order of the file. */
typedef struct {
  const char *name;
  size_t at;
} real_field;
static const real_field REALS[] = {
    {"train_loss", offsetof(rp_metrics, train_loss)},
    {"train_loss1", offsetof(rp_metrics, train_loss1)},
    {"val_loss", offsetof(rp_metrics, val_loss)},
    {"val_loss_dense", offsetof(rp_metrics, val_loss_dense)},
    {"lr", offsetof(rp_metrics, lr)},
    {"grad_norm", offsetof(rp_metrics, grad_norm)},
    {"tokens_per_second", offsetof(rp_metrics, tokens_per_second)},
    {"mfu", offsetof(rp_metrics, mfu)},
    {"seconds", offsetof(rp_metrics, seconds)},
};
enum { REAL_COUNT = sizeof REALS / sizeof *REALS };

static double *real_at(rp_metrics *m, int i) { return (double *)(void *)((char *)m + REALS[i].at); }

void rp_metrics_format(rp_str *b, const rp_metrics *m) {
  rp_metrics copy = *m;
  rp_str_addf(b, "{\"step\":%lld", (long long)m->step);
  if (m->tokens >= 0) rp_str_addf(b, ",\"tokens\":%lld", (long long)m->tokens);
  for (int i = 0; i < REAL_COUNT; i++) {
    const double x = *real_at(&copy, i);
    if (!isfinite(x)) continue;
    rp_str_addf(b, ",\"%s\":", REALS[i].name);
    rp_json_add_real(b, x);
  }
  if (m->skipped > 0) rp_str_addf(b, ",\"skipped\":%lld", (long long)m->skipped);
  rp_str_add(b, "}");
}

static bool parse_line(const char *line, size_t len, rp_metrics *m) {
  rp_json_doc *doc = NULL;
  if (rp_json_parse(&doc, line, len, "metrics.jsonl", NULL)) return false;
  const rp_json *o = rp_json_root(doc), *v = NULL;
  bool ok = o->type == RP_JSON_OBJECT && (v = rp_json_get(o, "step")) && v->type == RP_JSON_INT &&
            v->integer >= 0;
  if (ok) {
    *m = rp_metrics_none(v->integer);
    v = rp_json_get(o, "tokens");
    if (v && v->type == RP_JSON_INT) m->tokens = v->integer;
    v = rp_json_get(o, "skipped");
    if (v && v->type == RP_JSON_INT) m->skipped = v->integer;
    for (int i = 0; i < REAL_COUNT; i++) {
      v = rp_json_get(o, REALS[i].name);
      if (v && (v->type == RP_JSON_INT || v->type == RP_JSON_REAL)) *real_at(m, i) = v->real;
    }
  }
  rp_json_free(doc);
  return ok;
}

enum { MOST = 1 << 28 };

rp_status rp_metrics_read(const char *run_dir, rp_metrics **out, size_t *n, rp_error *err) {
  rp_status st = RP_OK;
  rp_metrics *all = NULL;
  char *text = NULL;
  size_t count = 0, cap = 0, len = 0, line_number = 1;
  *out = NULL;
  *n = 0;
  char *path = rp_path_join(run_dir, "metrics.jsonl");
  if (!path) return rp_fail_memory(err, strlen(run_dir), "a path");
  if (rp_is_file(path)) RP_GO(rp_file_read(path, MOST, &text, &len, err));
  for (size_t at = 0; at < len; line_number++) {
    const char *end = memchr(text + at, '\n', len - at);
    if (!end) break;
    RP_GO(rp_grow(&all, &cap, count + 1, sizeof *all, "metrics", err));
    if (!parse_line(text + at, (size_t)(end - text) - at, &all[count]))
      RP_GO(rp_fail(err, RP_BAD_DATA,
                    "%s: line %zu is no line of metrics (an object with \"step\"); "
                    "remove the line or name another run",
                    path, line_number));
    count++;
    at = (size_t)(end - text) + 1;
  }
  *out = all;
  *n = count;
  all = NULL;
fail:
  rp_free(all);
  rp_free(text);
  rp_free(path);
  return st;
}

/* Bytes of the whole lines before the first that is not one or has a step >= from. */
static size_t kept_bytes(const char *text, size_t len, int64_t from) {
  size_t at = 0;
  while (at < len) {
    const char *end = memchr(text + at, '\n', len - at);
    rp_metrics m;
    if (!end || !parse_line(text + at, (size_t)(end - text) - at, &m) || m.step >= from) break;
    at = (size_t)(end - text) + 1;
  }
  return at;
}

rp_status rp_metrics_open(rp_metrics_file *f, const char *run_dir, int64_t from, rp_error *err) {
  rp_status st = RP_OK;
  char *text = NULL;
  size_t len = 0;
  *f = (rp_metrics_file){.fd = -1};
  f->path = rp_path_join(run_dir, "metrics.jsonl");
  if (!f->path) return rp_fail_memory(err, strlen(run_dir), "a path");
  if (rp_is_file(f->path)) RP_GO(rp_file_read(f->path, MOST, &text, &len, err));
  const size_t keep = kept_bytes(text ? text : "", len, from);
  /* Replaced whole, so that a crash here leaves the old file or the cut one. */
  if (keep < len) RP_GO(rp_file_replace(f->path, text, keep, true, err));
  f->fd = open(f->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (f->fd < 0) RP_GO(rp_fail_errno(err, "cannot open", f->path));
  f->good = (int64_t)keep;
  rp_free(text);
  return RP_OK;
fail:
  rp_free(text);
  rp_metrics_close(f);
  return st;
}

rp_status rp_metrics_add(rp_metrics_file *f, const rp_metrics *m, rp_error *err) {
  rp_str *b = &f->pending;
  const size_t before = b->len;
  rp_metrics_format(b, m);
  rp_str_add(b, "\n");
  if (b->failed) {
    rp_str_free(b);
    return rp_fail_memory(err, before + 256, "a line of metrics");
  }
  size_t at = 0;
  while (at < b->len) {
    const ssize_t n = write(f->fd, b->s + at, b->len - at);
    if (n <= 0) {
      const rp_status st = rp_fail_errno(err, "cannot write", f->path);
      if (ftruncate(f->fd, (off_t)f->good)) return st; /* a torn line is cut at the next start */
      return st;
    }
    at += (size_t)n;
  }
  f->good += (int64_t)b->len;
  rp_str_clear(b);
  return RP_OK;
}

void rp_metrics_sync(rp_metrics_file *f) {
  if (f->fd >= 0) (void)fsync(f->fd);
}

void rp_metrics_close(rp_metrics_file *f) {
  if (f->path && f->fd >= 0) close(f->fd);
  rp_free(f->path);
  rp_str_free(&f->pending);
  *f = (rp_metrics_file){.fd = -1};
}
