#include "train/rundir.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

rp_run_status rp_run_status_none(const char *state) {
  rp_run_status s = {
      .val_loss = NAN, .val_loss_dense = NAN, .seconds_per_step = NAN, .save_seconds = NAN};
  rp_snprintf(s.state, sizeof s.state, "%s", state);
  return s;
}

static void add_real(rp_str *b, const char *name, double x) {
  if (!isfinite(x)) return;
  rp_str_addf(b, ",\"%s\":", name);
  rp_json_add_real(b, x);
}

rp_status rp_run_status_write(const char *run_dir, const rp_run_status *s, const char *error,
                              rp_error *err) {
  rp_str b = {0};
  rp_str_addf(&b, "{\"state\":\"%s\",\"step\":%lld,\"of\":%lld", s->state, (long long)s->step,
              (long long)s->of);
  add_real(&b, "val_loss", s->val_loss);
  add_real(&b, "val_loss_dense", s->val_loss_dense);
  add_real(&b, "seconds_per_step", s->seconds_per_step);
  add_real(&b, "save_seconds", s->save_seconds);
  if (error && *error) {
    rp_str_add(&b, ",\"error\":");
    rp_json_add_string(&b, error);
  }
  rp_str_add(&b, "}\n");
  char *path = rp_path_join(run_dir, "status.json");
  rp_status st;
  if (b.failed || !path)
    st = rp_fail_memory(err, 256, "status.json");
  else
    st = rp_file_replace(path, b.s, b.len, false, err);
  rp_free(path);
  rp_str_free(&b);
  return st;
}

static double real_or_nan(const rp_json *o, const char *key) {
  const rp_json *v = rp_json_get(o, key);
  return v && (v->type == RP_JSON_INT || v->type == RP_JSON_REAL) ? v->real : NAN;
}

rp_status rp_run_status_read(const char *run_dir, rp_run_status *s, rp_error *err) {
  rp_status st = RP_OK;
  char *text = NULL;
  size_t len = 0;
  rp_json_doc *doc = NULL;
  *s = rp_run_status_none("");
  char *path = rp_path_join(run_dir, "status.json");
  if (!path) return rp_fail_memory(err, strlen(run_dir), "a path");
  RP_GO(rp_file_read(path, 1 << 16, &text, &len, err));
  RP_GO(rp_json_parse(&doc, text, len, path, err));
  const rp_json *o = rp_json_root(doc);
  const rp_json *state = rp_json_get(o, "state"), *step = rp_json_get(o, "step");
  const rp_json *of = rp_json_get(o, "of");
  if (!state || state->type != RP_JSON_STRING || !step || step->type != RP_JSON_INT || !of ||
      of->type != RP_JSON_INT)
    RP_GO(rp_fail(err, RP_BAD_DATA,
                  "%s: not a status of a run (state, step, of); name a run "
                  "directory",
                  path));
  rp_snprintf(s->state, sizeof s->state, "%s", state->string);
  s->step = step->integer;
  s->of = of->integer;
  s->val_loss = real_or_nan(o, "val_loss");
  s->val_loss_dense = real_or_nan(o, "val_loss_dense");
  s->seconds_per_step = real_or_nan(o, "seconds_per_step");
  s->save_seconds = real_or_nan(o, "save_seconds");
fail:
  rp_json_free(doc);
  rp_free(text);
  rp_free(path);
  return st;
}

rp_status rp_run_look(const char *run_dir, const rp_config *c, rp_run_kind *kind, char **diff,
                      rp_error *err) {
  rp_status st = RP_OK;
  rp_config *there = NULL;
  rp_run_status s;
  *kind = RP_RUN_NEW;
  *diff = NULL;
  char *path = rp_path_join(run_dir, "config.yaml");
  if (!path) return rp_fail_memory(err, strlen(run_dir), "a path");
  if (!rp_exists(path)) goto fail;
  rp_config_opts opts;
  rp_config_defaults(&opts);
  opts.file = path;
  RP_GO(rp_config_compose(&there, NULL, 0, &opts, err));
  RP_GO(rp_config_diff(there, c, diff, err));
  if (**diff) {
    *kind = RP_RUN_DIFFERENT;
    goto fail;
  }
  rp_free(*diff);
  *diff = NULL;
  *kind = RP_RUN_SAME;
  if (!rp_run_status_read(run_dir, &s, NULL) && strcmp(s.state, "finished") == 0)
    *kind = RP_RUN_FINISHED;
fail:
  rp_config_free(there);
  rp_free(path);
  return st;
}

rp_status rp_run_differs(const char *run_dir, const char *diff, rp_error *err) {
  rp_str b = {0};
  size_t lines = 0;
  for (const char *at = diff; *at && lines < 8;) {
    const char *end = strchr(at, '\n');
    const size_t n = end ? (size_t)(end - at) : strlen(at);
    if (n) {
      rp_str_add(&b, lines ? "; " : "");
      rp_str_addn(&b, at, n);
      lines++;
    }
    at += n + (end != NULL);
  }
  char *keys = rp_str_take(&b);
  const rp_status st =
      rp_fail(err, RP_USAGE,
              "%s holds a run of another configuration (%s); give this one its own place "
              "with run_dir=PATH, or move the old one to %s.old-N with --overwrite",
              run_dir, keys ? keys : "?", run_dir);
  rp_free(keys);
  return st;
}

rp_status rp_run_move_away(const char *run_dir, char **moved, rp_error *err) {
  size_t n = strlen(run_dir);
  while (n > 1 && run_dir[n - 1] == '/') n--;
  *moved = NULL;
  for (int i = 1; i < 1000000; i++) {
    rp_str b = {0};
    rp_str_addn(&b, run_dir, n);
    rp_str_addf(&b, ".old-%d", i);
    char *to = rp_str_take(&b);
    if (!to) return rp_fail_memory(err, n, "a path");
    if (rp_exists(to)) {
      rp_free(to);
      continue;
    }
    rp_status st = rp_rename(run_dir, to, err);
    if (!st) st = rp_mkdirs(run_dir, err);
    if (st)
      rp_free(to);
    else
      *moved = to;
    return st;
  }
  return rp_fail(err, RP_FAIL,
                 "%s: no free name for the old run; remove some of its .old-N folders", run_dir);
}
