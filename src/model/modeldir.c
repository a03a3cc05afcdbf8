/* modeldir.c - model directories, checkpoints and run directories. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "model/store_inner.h"

static const size_t most_text = 16u << 20; /* of config.yaml and state.json */

/* dir/name is there; its path in *path (free with rp_free). */
static rp_status find_file(const char *dir, const char *name, char **path, rp_error *err) {
  *path = rp_path_join(dir, name);
  if (!*path) return rp_fail_memory(err, strlen(dir) + strlen(name), "a path");
  if (rp_is_file(*path)) return RP_OK;
  rp_free(*path);
  *path = NULL;
  return RP_OK;
}

/* Weights or moments of a folder: STEM.safetensors, or the index of its shards. */
static rp_status read_tensors(rp_store *s, rp_table *t, const char *dir, const char *stem,
                              bool *there, rp_error *err) {
  char name[64], *path = NULL;
  rp_status st = RP_OK;
  *there = true;
  rp_snprintf(name, sizeof name, "%s.safetensors", stem);
  RP_GO(find_file(dir, name, &path, err));
  if (path) {
    st = rp_safetensors_read(s, t, path, err);
    goto fail;
  }
  rp_snprintf(name, sizeof name, "%s.safetensors.index.json", stem);
  RP_GO(find_file(dir, name, &path, err));
  if (path) st = rp_safetensors_read_index(s, t, path, err);
  *there = path != NULL;
fail:
  rp_free(path);
  return st;
}

static rp_status read_state(rp_store *s, const char *path, rp_error *err) {
  char *text = NULL;
  size_t len = 0;
  rp_json_doc *doc = NULL;
  RP_TRY(rp_file_read(path, most_text, &text, &len, err));
  rp_status st = rp_json_parse(&doc, text, len, path, err);
  if (!st && rp_json_root(doc)->type != RP_JSON_OBJECT)
    st = rp_fail(err, RP_BAD_DATA, "%s: is no JSON object; the checkpoint is damaged", path);
  if (!st) {
    const rp_json *step = rp_json_get(rp_json_root(doc), "step");
    const rp_json *adam = rp_json_get(rp_json_root(doc), "adam_step");
    if (step && step->type == RP_JSON_INT && step->integer >= 0) s->step = step->integer;
    const rp_json *of = rp_json_get(rp_json_root(doc), "of");
    if (of && of->type == RP_JSON_INT && of->integer >= 0) s->of = of->integer;
    if (adam && adam->type == RP_JSON_INT && adam->integer >= 0) s->adam = adam->integer;
  }
  rp_json_free(doc);
  rp_free(text);
  return st;
}

static rp_status read_folder(rp_store *s, const char *dir, bool *there, rp_error *err) {
  char *state = NULL;
  rp_status st = RP_OK;
  bool moments;
  RP_GO(read_tensors(s, &s->tensors, dir, "model", there, err));
  if (!*there) return RP_OK;
  s->path = rp_strdup(dir);
  if (!s->path) return rp_fail_memory(err, strlen(dir) + 1, "a path");
  RP_GO(read_tensors(s, &s->moments, dir, "optimizer", &moments, err));
  RP_GO(find_file(dir, "tokenizer.model", &s->tokenizer, err));
  RP_GO(find_file(dir, "config.yaml", &s->config_name, err));
  if (s->config_name) RP_GO(rp_file_read(s->config_name, most_text, &s->config, NULL, err));
  RP_GO(find_file(dir, "state.json", &state, err));
  if (state) RP_GO(read_state(s, state, err));
fail:
  rp_free(state);
  return st;
}

/* ------------------------------------------------------------------ run directories */

static bool is_step_name(const char *name) {
  if (!rp_starts_with(name, "step-")) return false;
  const char *digits = name + 5;
  return *digits && digits[strspn(digits, "0123456789")] == 0;
}

static int64_t step_of(const char *name) {
  int64_t step;
  return rp_parse_i64(name + 5, &step) ? step : -1;
}

/* The highest step-NNNNNNNN of a checkpoints folder; NULL when there is none. */
static rp_status highest_step(const char *dir, char **path, rp_error *err) {
  char **names = NULL;
  const char *best = NULL;
  size_t n = 0;
  *path = NULL;
  RP_TRY(rp_list_dir(dir, &names, &n, err));
  for (size_t i = 0; i < n; i++) {
    if (is_step_name(names[i]) && (!best || step_of(names[i]) > step_of(best))) best = names[i];
  }
  rp_status st = RP_OK;
  if (best && !(*path = rp_path_join(dir, best))) st = rp_fail_memory(err, strlen(dir), "a path");
  rp_list_free(names, n);
  return st;
}

/* The checkpoint that `latest` names, else the highest step. */
static rp_status latest_of(const char *dir, char **path, rp_error *err) {
  char target[NAME_MAX + 1];
  char *link = rp_path_join(dir, "latest");
  if (!link) return rp_fail_memory(err, strlen(dir), "a path");
  const ssize_t n = readlink(link, target, sizeof target - 1);
  const bool there = rp_is_dir(link);
  rp_free(link);
  *path = NULL;
  if (n > 0 && there) {
    target[n] = 0;
    *path = *target == '/' ? rp_strdup(target) : rp_path_join(dir, target);
    return *path ? RP_OK : rp_fail_memory(err, strlen(dir), "a path");
  }
  RP_TRY(highest_step(dir, path, err));
  if (*path)
    rp_log(RP_LOG_NOTICE, "%s: has no `latest` that leads anywhere; taking %s", dir, *path);
  return RP_OK;
}

static rp_status no_model(const char *path, rp_error *err) {
  char **names = NULL;
  size_t n = 0;
  const char *pth = NULL;
  if (!rp_list_dir(path, &names, &n, NULL)) {
    for (size_t i = 0; i < n; i++) {
      if (rp_ends_with(names[i], ".pth")) pth = names[i];
    }
  }
  const rp_status st =
      pth ? rp_fail(err, RP_BAD_DATA,
                    "%s: a folder of .pth files, not a model directory; give one of them: %s/%s",
                    path, path, pth)
          : rp_fail(err, RP_BAD_DATA,
                    "%s: holds neither model.safetensors nor checkpoints; give a model directory, "
                    "a checkpoint or a run directory that has saved one",
                    path);
  rp_list_free(names, n);
  return st;
}

rp_status rp_modeldir_read(rp_store *s, const char *path, rp_error *err) {
  char *checkpoints = NULL, *latest = NULL;
  bool there = false;
  rp_status st;
  RP_TRY(read_folder(s, path, &there, err));
  if (there) return RP_OK;
  checkpoints = rp_path_join(path, "checkpoints");
  if (!checkpoints) return rp_fail_memory(err, strlen(path), "a path");
  if (!rp_is_dir(checkpoints)) {
    st = no_model(path, err);
    goto fail;
  }
  RP_GO(latest_of(checkpoints, &latest, err));
  if (latest) RP_GO(read_folder(s, latest, &there, err));
  if (!there)
    st = rp_fail(err, RP_BAD_DATA, "%s: this run has saved no whole checkpoint yet", path);
fail:
  rp_free(checkpoints);
  rp_free(latest);
  return st;
}
