#include "train/checkpoint.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

/* ---- names ---- */

void rp_checkpoint_name(char out[32], int64_t step) {
  rp_snprintf(out, 32, "step-%08lld", (long long)step);
}

int64_t rp_checkpoint_step(const char *name) {
  int64_t step;
  if (!rp_starts_with(name, "step-") || strlen(name) < 13) return -1;
  for (const char *c = name + 5; *c; c++)
    if (*c < '0' || *c > '9') return -1;
  return rp_parse_i64(name + 5, &step) ? step : -1;
}

/* ---- state.json ---- */

typedef struct {
  const char *name;
  size_t at;
  bool wide;
  int64_t absent; /* taken when the file does not say; REQUIRED: that is an error */
} int_field;
#define REQUIRED INT64_MIN
static const int_field INTS[] = {
    {"step", offsetof(rp_loop_state, step), true, REQUIRED},
    {"of", offsetof(rp_loop_state, of), true, -1},
    {"tokens", offsetof(rp_loop_state, tokens), true, -1},
    {"micro_batches", offsetof(rp_loop_state, micro_batches), true, -1},
    {"adam_step", offsetof(rp_loop_state, adam_step), true, REQUIRED},
    {"skipped", offsetof(rp_loop_state, skipped), true, 0},
    {"in_a_row", offsetof(rp_loop_state, in_a_row), false, 0},
    {"shards", offsetof(rp_loop_state, shards), false, 0},
    {"threads", offsetof(rp_loop_state, threads), false, 0},
    {"ranks", offsetof(rp_loop_state, ranks), false, 0},
    {"val_step", offsetof(rp_loop_state, val_step), true, -1},
};
enum { INT_COUNT = sizeof INTS / sizeof *INTS };

static int64_t get_int(const rp_loop_state *s, int i) {
  const char *p = (const char *)s + INTS[i].at;
  int64_t wide;
  int32_t narrow;
  if (INTS[i].wide) {
    memcpy(&wide, p, sizeof wide);
    return wide;
  }
  memcpy(&narrow, p, sizeof narrow);
  return narrow;
}

static bool set_int(rp_loop_state *s, int i, int64_t v) {
  char *p = (char *)s + INTS[i].at;
  if (INTS[i].wide) {
    memcpy(p, &v, sizeof v);
    return true;
  }
  const int32_t narrow = (int32_t)v;
  memcpy(p, &narrow, sizeof narrow);
  return narrow == v;
}

static void add_real(rp_str *b, const char *name, double x) {
  if (!isfinite(x)) return;
  rp_str_addf(b, ",\"%s\":", name);
  rp_json_add_real(b, x);
}

rp_status rp_loop_state_write(const char *path, const rp_loop_state *s, rp_error *err) {
  rp_str b = {0};
  rp_str_add(&b, "{\"format\":1");
  for (int i = 0; i < INT_COUNT; i++)
    rp_str_addf(&b, ",\"%s\":%lld", INTS[i].name, (long long)get_int(s, i));
  add_real(&b, "seconds", s->seconds);
  add_real(&b, "val_loss", s->val_loss);
  add_real(&b, "val_loss_dense", s->val_loss_dense);
  rp_str_add(&b, ",\"cpu\":");
  rp_json_add_string(&b, s->cpu);
  rp_str_addf(&b, ",\"version\":\"%s\"}\n", rp_version());
  rp_status st;
  if (b.failed)
    st = rp_fail_memory(err, 1024, "state.json");
  else
    st = rp_file_replace(path, b.s, b.len, true, err);
  rp_str_free(&b);
  return st;
}

static double real_or_nan(const rp_json *o, const char *key) {
  const rp_json *v = rp_json_get(o, key);
  return v && (v->type == RP_JSON_INT || v->type == RP_JSON_REAL) ? v->real : NAN;
}

static rp_status check_state(const rp_loop_state *s, const char *path, rp_error *err) {
  if (s->step >= 0 && (s->of < 0 || s->of >= s->step) && s->adam_step >= 0 && s->skipped >= 0 &&
      s->in_a_row >= 0 && s->shards >= 0)
    return RP_OK;
  return rp_fail(err, RP_BAD_DATA,
                 "%s: its counters contradict each other (step %lld of %lld); remove this "
                 "checkpoint to go on from the one before",
                 path, (long long)s->step, (long long)s->of);
}

rp_status rp_loop_state_read(const char *path, rp_loop_state *s, rp_error *err) {
  rp_status st = RP_OK;
  char *text = NULL;
  size_t len = 0;
  rp_json_doc *doc = NULL;
  *s = (rp_loop_state){0};
  RP_GO(rp_file_read(path, 1 << 20, &text, &len, err));
  RP_GO(rp_json_parse(&doc, text, len, path, err));
  const rp_json *o = rp_json_root(doc), *v;
  for (int i = 0; i < INT_COUNT; i++) {
    v = rp_json_get(o, INTS[i].name);
    if (!v && INTS[i].absent != REQUIRED && set_int(s, i, INTS[i].absent)) continue;
    if (!v || v->type != RP_JSON_INT || !set_int(s, i, v->integer))
      RP_GO(rp_fail(err, RP_BAD_DATA,
                    "%s: \"%s\" is missing or not an integer; remove this "
                    "checkpoint to go on from the one before",
                    path, INTS[i].name));
  }
  s->seconds = real_or_nan(o, "seconds");
  if (!isfinite(s->seconds)) s->seconds = 0;
  s->val_loss = real_or_nan(o, "val_loss");
  s->val_loss_dense = real_or_nan(o, "val_loss_dense");
  v = rp_json_get(o, "cpu");
  if (v && v->type == RP_JSON_STRING) rp_snprintf(s->cpu, sizeof s->cpu, "%s", v->string);
  RP_GO(check_state(s, path, err));
fail:
  rp_json_free(doc);
  rp_free(text);
  return st;
}

/* ---- the folders ---- */

static char *checkpoints_of(const char *run_dir) { return rp_path_join(run_dir, "checkpoints"); }

/* Step that `latest` names; -1: none, or it leads nowhere. */
static int64_t latest_step(const char *dir) {
  char target[64];
  char *link = rp_path_join(dir, "latest");
  if (!link) return -1;
  const ssize_t n = readlink(link, target, sizeof target - 1);
  int64_t step = -1;
  if (n > 0) {
    target[n] = 0;
    step = rp_checkpoint_step(target);
    if (!rp_is_dir(link)) step = -1;
  }
  rp_free(link);
  return step;
}

static rp_status move_latest(const char *dir, const char *name, rp_error *err) {
  rp_status st = RP_OK;
  rp_str b = {0};
  rp_str_addf(&b, "%s/.tmp-latest-%ld", dir, (long)getpid());
  char *tmp = rp_str_take(&b), *link = rp_path_join(dir, "latest");
  if (!tmp || !link) RP_GO(rp_fail_memory(err, strlen(dir), "a path"));
  unlink(tmp);
  if (symlink(name, tmp)) RP_GO(rp_fail_errno(err, "cannot make the link", tmp));
  if (rename(tmp, link)) {
    st = rp_fail_errno(err, "cannot move the link", link);
    unlink(tmp);
    goto fail;
  }
  st = rp_sync_dir(dir, err);
fail:
  rp_free(tmp);
  rp_free(link);
  return st;
}

/* A folder disappears from view before its files go. */
static void remove_hidden(const char *dir, const char *name) {
  rp_str b = {0};
  rp_str_addf(&b, "%s/.tmp-gone-%s-%ld", dir, name, (long)getpid());
  char *gone = rp_str_take(&b), *path = rp_path_join(dir, name);
  rp_error e = {0};
  if (gone && path && (rename(path, gone) || rp_remove_tree(gone, &e)))
    rp_log(RP_LOG_WARNING, "%s: the old checkpoint could not be removed%s%s", path,
           e.text[0] ? ": " : "", e.text);
  rp_free(gone);
  rp_free(path);
}

static rp_status publish(const char *dir, const char *tmp, const char *name, rp_error *err) {
  rp_status st = RP_OK;
  char *final = rp_path_join(dir, name);
  if (!final) return rp_fail_memory(err, strlen(dir), "a path");
  RP_GO(rp_sync_dir(tmp, err));
  /* A folder of this step that `latest` does not name: of a start that died before the link moved. */
  if (rp_exists(final)) remove_hidden(dir, name);
  RP_GO(rp_rename(tmp, final, err));
  st = move_latest(dir, name, err);
fail:
  rp_free(final);
  return st;
}

rp_status rp_checkpoint_save(const char *run_dir, int64_t step, rp_checkpoint_fill fill, void *ctx,
                             rp_error *err) {
  rp_status st = RP_OK;
  char name[32];
  rp_checkpoint_name(name, step);
  rp_str b = {0};
  char *dir = checkpoints_of(run_dir), *tmp = NULL;
  bool made = false;
  if (!dir) return rp_fail_memory(err, strlen(run_dir), "a path");
  if (latest_step(dir) == step) goto fail;
  rp_str_addf(&b, "%s/.tmp-%s-%ld", dir, name, (long)getpid());
  tmp = rp_str_take(&b);
  if (!tmp) RP_GO(rp_fail_memory(err, strlen(dir), "a path"));
  RP_GO(rp_mkdirs(dir, err));
  if (rp_exists(tmp)) RP_GO(rp_remove_tree(tmp, err));
  RP_GO(rp_mkdirs(tmp, err));
  made = true;
  RP_GO(fill(ctx, tmp, err));
  RP_GO(publish(dir, tmp, name, err));
fail:
  if (st && made && rp_exists(tmp)) rp_remove_tree(tmp, NULL);
  rp_free(tmp);
  rp_free(dir);
  return st;
}

rp_status rp_checkpoint_latest(const char *run_dir, char **out, rp_error *err) {
  rp_status st = RP_OK;
  char **names = NULL;
  size_t n = 0;
  *out = NULL;
  char *dir = checkpoints_of(run_dir);
  if (!dir) return rp_fail_memory(err, strlen(run_dir), "a path");
  int64_t best = latest_step(dir);
  if (best < 0 && rp_is_dir(dir)) {
    RP_GO(rp_list_dir(dir, &names, &n, err));
    for (size_t i = 0; i < n; i++)
      if (rp_checkpoint_step(names[i]) > best) best = rp_checkpoint_step(names[i]);
  }
  if (best >= 0) {
    char name[32];
    rp_checkpoint_name(name, best);
    *out = rp_path_join(dir, name);
    if (!*out) RP_GO(rp_fail_memory(err, strlen(dir), "a path"));
  }
fail:
  rp_list_free(names, n);
  rp_free(dir);
  return st;
}

void rp_checkpoint_clean(const char *run_dir) {
  char **names = NULL;
  size_t n = 0;
  char *dir = checkpoints_of(run_dir);
  if (dir && rp_is_dir(dir) && !rp_list_dir(dir, &names, &n, NULL)) {
    for (size_t i = 0; i < n; i++) {
      if (!rp_starts_with(names[i], ".tmp-")) continue;
      char *path = rp_path_join(dir, names[i]);
      if (path) rp_remove_tree(path, NULL);
      rp_free(path);
    }
  }
  rp_list_free(names, n);
  rp_free(dir);
}

static bool regular(const rp_checkpoint_keep *k, int64_t step) {
  return step == k->of || (k->interval > 0 && step % k->interval == 0);
}

void rp_checkpoint_prune(const char *run_dir, const rp_checkpoint_keep *k) {
  char **names = NULL;
  size_t n = 0;
  int newest = 0;
  bool first = true;
  char *dir = checkpoints_of(run_dir);
  if (dir && !rp_list_dir(dir, &names, &n, NULL)) {
    const int64_t latest = latest_step(dir);
    for (size_t i = n; i-- > 0;) { /* names sort as steps do, up to eight digits */
      const int64_t step = rp_checkpoint_step(names[i]);
      if (step < 0 || step > latest) continue;
      const bool marked = k->every > 0 && step % k->every == 0;
      bool stays = step == latest || first || marked;
      first = false;
      if (regular(k, step)) stays |= k->last == 0 || newest++ < k->last;
      if (!stays) remove_hidden(dir, names[i]);
    }
  }
  rp_list_free(names, n);
  rp_free(dir);
}
