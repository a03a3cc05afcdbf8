/* convert.c - models from one kind of file to another. */
#include "ratplus/convert.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "config/typed.h"
#include "model/store_inner.h"

/* Everything that a conversion needs of its input. */
typedef struct {
  rp_store *in;
  rp_model_settings m;
  rp_shape shape;
  rp_config *config;
  bool pattern_known;
  rp_dtype *dtypes; /* [shape.n] of the output */
  rp_tensor_set weights, moments[2];
  struct moment {
    const rp_store *in;
    const rp_shape *shape;
    const char *which;
  } sources[2];
  int n_moments;
  const rp_convert_settings *o;
} job;

static rp_status pull_weight(void *ctx, const rp_param *p, rp_dtype dtype, void *out,
                             rp_error *err) {
  return rp_store_get(ctx, p, dtype, out, err);
}

static rp_status pull_moment(void *ctx, const rp_param *p, rp_dtype dtype, void *out,
                             rp_error *err) {
  const struct moment *m = ctx;
  bool has;
  (void)dtype; /* always float32 */
  RP_TRY(rp_store_moment_f32(m->in, m->shape, p, m->which, out, &has, err));
  if (!has)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: its optimizer has no %s for %s; leave out "
                   "--with-optimizer",
                   rp_store_path(m->in), m->which, p->name);
  return RP_OK;
}

static void add_moment(job *j, const char *which, const char *prefix) {
  const int k = j->n_moments++;
  j->sources[k] = (struct moment){j->in, &j->shape, which};
  j->moments[k] = (rp_tensor_set){.shape = &j->shape,
                                  .prefix = prefix,
                                  .dtype = RP_F32,
                                  .pull = pull_moment,
                                  .ctx = &j->sources[k]};
}

static bool has_moment(const rp_store *s, const char *prefix) {
  for (size_t i = 0; i < s->moments.n; i++) {
    if (rp_starts_with(s->moments.v[i].name, prefix)) return true;
  }
  return false;
}

static rp_status find_moments(job *j, rp_error *err) {
  if (!j->o->with_optimizer) return RP_OK;
  if (has_moment(j->in, "exp_avg.")) {
    add_moment(j, "exp_avg", "exp_avg.");
    add_moment(j, "exp_avg_sq", "exp_avg_sq.");
  } else if (has_moment(j->in, "momentum_buffer.")) {
    add_moment(j, "momentum_buffer", "momentum_buffer.");
  }
  if (!j->n_moments)
    return rp_fail(err, RP_BAD_DATA, "%s: carries no optimizer state; leave out --with-optimizer",
                   j->in->path);
  return RP_OK;
}

/* The model is to be run as it is written: read from the pages of its file. Without a word of the
 * configuration's the file's dtype counts. */
static rp_status set_dtype(job *j, rp_error *err) {
  char word[64], *text = NULL;
  const char *const words[] = {word};
  rp_config *c = NULL;
  if (j->o->dtype < 0 || !j->pattern_known) return RP_OK;
  rp_snprintf(word, sizeof word, "++trainer.dtype=%s", rp_dtype_name((rp_dtype)j->o->dtype));
  RP_TRY(rp_config_yaml(j->config, &text, err));
  const rp_status st =
      rp_config_from_text(&c, text, strlen(text), "the configuration", words, 1, true, err);
  rp_free(text);
  if (st) return st;
  rp_config_free(j->config);
  j->config = c;
  return RP_OK;
}

/* Vectors are computed with in float32 whatever the matrices are, and take nothing beside them. */
static rp_dtype output_dtype(const job *j, const rp_param *p) {
  if (j->o->dtype < 0) return rp_store_dtype(j->in, p);
  return p->group == RP_GROUP_MATRIX ? (rp_dtype)j->o->dtype : RP_F32;
}

static rp_status prepare(job *j, const char *in, rp_error *err) {
  const rp_convert_settings *o = j->o;
  RP_TRY(rp_store_open(&j->in, in, err));
  RP_TRY(rp_store_compose(j->in, o->words, o->n_words, &j->config, &j->pattern_known, err));
  RP_TRY(rp_model_settings_read(&j->m, j->config, err));
  RP_TRY(rp_shape_make(&j->shape, &j->m, err));
  RP_TRY(rp_store_check(j->in, &j->shape, err));
  RP_TRY(set_dtype(j, err));
  j->dtypes = rp_malloc((size_t)j->shape.n, sizeof *j->dtypes);
  if (!j->dtypes) return rp_fail_memory(err, (size_t)j->shape.n, "a list of dtypes");
  for (int i = 0; i < j->shape.n; i++) j->dtypes[i] = output_dtype(j, &j->shape.p[i]);
  j->weights = (rp_tensor_set){
      .shape = &j->shape, .prefix = "", .dtypes = j->dtypes, .pull = pull_weight, .ctx = j->in};
  return find_moments(j, err);
}

static void finish(job *j) {
  rp_free(j->dtypes);
  rp_shape_free(&j->shape);
  rp_model_settings_free(&j->m);
  rp_config_free(j->config);
  rp_store_close(j->in);
}

/* ------------------------------------------------------------------ the configuration */

/* The whole composed configuration; where nothing says what to see, only what is known. */
static rp_status config_text(job *j, bool json, char **text, rp_error *err) {
  char *own = NULL;
  rp_config *c = NULL;
  rp_status st = RP_OK;
  *text = NULL;
  if (j->pattern_known)
    return json ? rp_config_json(j->config, text, err) : rp_config_yaml(j->config, text, err);
  RP_TRY(rp_model_settings_json(&j->m, false, &own, err));
  if (json) {
    *text = own;
    return RP_OK;
  }
  RP_GO(rp_config_from_text(&c, own, strlen(own), "the configuration", NULL, 0, true, err));
  RP_GO(rp_config_yaml(c, text, err));
fail:
  rp_config_free(c);
  rp_free(own);
  return st;
}

static int64_t config_int(const job *j, const char *path, int64_t without) {
  char *v = rp_config_get(j->config, path);
  int64_t x;
  if (!v || !rp_parse_i64(v, &x) || x < 1) x = without;
  rp_free(v);
  return x;
}

/* ------------------------------------------------------------------ a model directory */

static rp_status copy_file(const char *from, const char *dir, const char *name, rp_error *err) {
  rp_map m = {0};
  rp_out *o = NULL;
  char *to = rp_path_join(dir, name);
  rp_status st = RP_OK;
  if (!to) return rp_fail_memory(err, strlen(dir), "a path");
  RP_GO(rp_map_open(&m, from, err));
  RP_GO(rp_out_open(&o, to, err));
  rp_out_write(o, m.data, m.bytes);
  st = rp_out_commit(o, err);
fail:
  rp_map_close(&m);
  rp_free(to);
  return st;
}

static rp_status write_text(const char *dir, const char *name, const char *text, rp_error *err) {
  char *path = rp_path_join(dir, name);
  if (!path) return rp_fail_memory(err, strlen(dir), "a path");
  const rp_status st = rp_file_replace(path, text, strlen(text), true, err);
  rp_free(path);
  return st;
}

/* Where a training that this file stopped in would stand, as one share sees it. The reference does
 * not store it, but its batches follow from the step. */
static rp_status write_state(const job *j, const char *dir, rp_error *err) {
  int64_t adam, step;
  rp_str b = {0};
  rp_store_steps(j->in, &adam, &step);
  if (step < 0) step = 0;
  const int64_t batch = config_int(j, "data.batch_size", 1);
  const int64_t all = config_int(j, "trainer.global_batch_size", batch);
  const int64_t T = config_int(j, "data.seq_len", 1), shards = config_int(j, "data.shards", 1);
  const int64_t of = j->in->of >= 0 ? j->in->of : config_int(j, "optim.lr_scheduler.T_max", step);
  rp_str_addf(&b,
              "{\"format\":1,\"step\":%lld,\"of\":%lld,\"tokens\":%lld,\"micro_batches\":%lld,"
              "\"adam_step\":%lld,\"skipped\":0,\"in_a_row\":0,\"shards\":%lld,\"threads\":0,"
              "\"val_step\":-1,\"seconds\":0.0,\"cpu\":\"\",\"version\":\"%s\"}\n",
              (long long)step, (long long)(of > step ? of : step), (long long)(step * all * T),
              (long long)(step * (all / (batch * shards))), (long long)(adam < 0 ? 0 : adam),
              (long long)shards, rp_version());
  const rp_status st =
      b.failed ? rp_fail_memory(err, b.len, "state.json") : write_text(dir, "state.json", b.s, err);
  rp_str_free(&b);
  return st;
}

static rp_status fill_state(const job *j, const char *dir, rp_error *err) {
  char *state = rp_path_join(j->in->path, "state.json");
  if (!state) return rp_fail_memory(err, strlen(dir), "a path");
  const rp_status st = !j->in->pth && rp_is_file(state) ? copy_file(state, dir, "state.json", err)
                                                        : write_state(j, dir, err);
  rp_free(state);
  return st;
}

static rp_status write_sets(const char *dir, const char *name, const rp_tensor_set *sets, int n,
                            rp_error *err) {
  char *path = rp_path_join(dir, name);
  if (!path) return rp_fail_memory(err, strlen(dir), "a path");
  const rp_status st = rp_safetensors_write_sets(path, sets, n, 0, err);
  rp_free(path);
  return st;
}

static rp_status fill_folder(job *j, const char *dir, rp_error *err) {
  const char *tokenizer = j->o->tokenizer ? j->o->tokenizer : j->in->tokenizer;
  char *text = NULL;
  RP_TRY(write_sets(dir, "model.safetensors", &j->weights, 1, err));
  RP_TRY(config_text(j, false, &text, err));
  rp_status st = write_text(dir, "config.yaml", text, err);
  rp_free(text);
  if (!st && tokenizer) st = copy_file(tokenizer, dir, "tokenizer.model", err);
  if (!st && j->n_moments)
    st = write_sets(dir, "optimizer.safetensors", j->moments, j->n_moments, err);
  if (!st && j->n_moments) st = fill_state(j, dir, err);
  return st;
}

/* Only a folder that holds nothing but a model may be replaced. */
static rp_status check_replaceable(const char *out, bool overwrite, rp_error *err) {
  char **names = NULL;
  size_t n = 0;
  rp_status st = RP_OK;
  RP_TRY(rp_list_dir(out, &names, &n, err));
  if (n && !overwrite)
    st = rp_fail(err, RP_USAGE, "%s is there already; add --overwrite to replace it", out);
  for (size_t i = 0; i < n && !st; i++) {
    const char *name = names[i];
    const bool known = rp_ends_with(name, ".safetensors") ||
                       rp_ends_with(name, ".safetensors.index.json") ||
                       !strcmp(name, "config.yaml") || !strcmp(name, "state.json") ||
                       !strcmp(name, "tokenizer.model");
    if (!known)
      st = rp_fail(err, RP_USAGE,
                   "%s holds %s, so it is not only a model and is not replaced; give "
                   "another name",
                   out, name);
  }
  rp_list_free(names, n);
  return st;
}

/* Puts the finished folder in the place of what is there. */
static rp_status move_into_place(const char *made, const char *out, rp_error *err) {
  rp_str old = {0};
  rp_status st = RP_OK;
  if (!rp_exists(out)) return rp_rename(made, out, err);
  rp_str_addf(&old, "%s.old-%ld", out, (long)getpid());
  if (old.failed) return rp_fail_memory(err, strlen(out), "a path");
  RP_GO(rp_rename(out, old.s, err));
  st = rp_rename(made, out, err);
  if (st) {
    rp_rename(old.s, out, NULL);
  } else {
    st = rp_remove_tree(old.s, err);
  }
fail:
  rp_str_free(&old);
  return st;
}

static rp_status make_parent(const char *out, rp_error *err) {
  char *copy = rp_strdup(out);
  if (!copy) return rp_fail_memory(err, strlen(out), "a path");
  char *slash = strrchr(copy, '/');
  rp_status st = RP_OK;
  if (slash && slash != copy) {
    *slash = 0;
    st = rp_mkdirs(copy, err);
  }
  rp_free(copy);
  return st;
}

static rp_status check_out_folder(const char *out, bool overwrite, rp_error *err) {
  if (rp_is_dir(out)) return check_replaceable(out, overwrite, err);
  if (rp_exists(out))
    return rp_fail(err, RP_USAGE,
                   "%s is a file; give the name of a folder, or one that ends in "
                   ".pth",
                   out);
  return RP_OK;
}

static rp_status to_folder(job *j, const char *out, rp_error *err) {
  rp_str made = {0};
  rp_status st = RP_OK;
  rp_str_addf(&made, "%s.tmp-%ld", out, (long)getpid());
  if (made.failed) return rp_fail_memory(err, strlen(out), "a path");
  RP_GO(make_parent(out, err));
  if (rp_exists(made.s)) RP_GO(rp_remove_tree(made.s, err));
  RP_GO(rp_mkdirs(made.s, err));
  st = fill_folder(j, made.s, err);
  if (!st) st = rp_sync_dir(made.s, err);
  if (!st) st = move_into_place(made.s, out, err);
  if (st) rp_remove_tree(made.s, NULL);
fail:
  rp_str_free(&made);
  return st;
}

/* ------------------------------------------------------------------ a .pth */

static rp_status check_out_file(const char *out, bool overwrite, rp_error *err) {
  if (rp_is_dir(out)) return rp_fail(err, RP_USAGE, "%s is a folder; give another name", out);
  if (rp_exists(out) && !overwrite)
    return rp_fail(err, RP_USAGE, "%s is there already; add --overwrite to replace it", out);
  return RP_OK;
}

static rp_status to_pth(job *j, const char *out, rp_error *err) {
  rp_settings s;
  char *config = NULL;
  rp_pth_extra x = {.tied = j->m.tied, .moments = j->moments, .n_moments = j->n_moments};
  rp_store_steps(j->in, &x.adam, &x.step);
  x.of = j->in->of;
  if (!j->n_moments) x.step = x.adam = x.of = 0;
  RP_TRY(make_parent(out, err));
  RP_TRY(config_text(j, true, &config, err));
  x.config_json = config;
  const bool whole = x.n_moments && !rp_settings_read_any(&s, j->config, NULL);
  if (whole) x.optim = &s.optim;
  const rp_status st = rp_pth_write(out, &j->weights, &x, err);
  if (whole) rp_settings_free(&s);
  rp_free(config);
  return st;
}

/* ------------------------------------------------------------------ the verb */

static char *without_slash(const char *path) {
  char *copy = rp_strdup(path);
  size_t n = copy ? strlen(copy) : 0;
  while (n > 1 && copy[n - 1] == '/') copy[--n] = 0;
  return copy;
}

rp_status rp_store_convert(const char *in, const char *out, const rp_convert_settings *o,
                           rp_error *err) {
  job j = {.o = o};
  rp_status st = RP_OK;
  char *to = without_slash(out);
  if (!to) return rp_fail_memory(err, strlen(out), "a path");
  const bool pth = rp_ends_with(to, ".pth");
  if (!*to) {
    st = rp_fail(err, RP_USAGE, "the output has no name; give a folder, or a file ending in .pth");
    goto fail;
  }
  RP_GO(pth ? check_out_file(to, o->overwrite, err) : check_out_folder(to, o->overwrite, err));
  if (o->tokenizer && !rp_is_file(o->tokenizer)) {
    st = rp_fail(err, RP_USAGE, "--tokenizer %s: no such file", o->tokenizer);
    goto fail;
  }
  if (o->tokenizer && pth) {
    st = rp_fail(err, RP_USAGE, "a .pth holds no tokenizer; leave out --tokenizer");
    goto fail;
  }
  RP_GO(prepare(&j, in, err));
  st = pth ? to_pth(&j, to, err) : to_folder(&j, to, err);
fail:
  finish(&j);
  rp_free(to);
  return st;
}

void rp_convert_defaults(rp_convert_opts *o) { *o = (rp_convert_opts){.size = sizeof *o}; }

rp_status rp_convert(const char *in, const char *out, const rp_convert_opts *opts, rp_error *err) {
  rp_convert_opts o;
  rp_convert_defaults(&o);
  if (opts) memcpy(&o, opts, opts->size < sizeof o ? opts->size : sizeof o);
  rp_convert_settings s = {.dtype = -1,
                           .tokenizer = o.tokenizer,
                           .with_optimizer = o.with_optimizer,
                           .words = o.words,
                           .n_words = o.n_words,
                           .overwrite = o.overwrite};
  if (o.dtype && !strcmp(o.dtype, "float32")) {
    s.dtype = RP_F32;
  } else if (o.dtype && !strcmp(o.dtype, "bfloat16")) {
    s.dtype = RP_BF16;
  } else if (o.dtype) {
    return rp_fail(err, RP_USAGE, "dtype %s is unknown; float32 and bfloat16 can be written",
                   o.dtype);
  }
  return rp_store_convert(in, out, &s, err);
}
