/* store.h - models on disk: safetensors files, model directories, the reference's .pth.
 *
 * A reader maps files and hands out tensors as they lie there; a writer never leaves half a file.
 * Every file is hostile: offsets, shapes and counts are checked before use. */
#ifndef RP_MODEL_STORE_H
#define RP_MODEL_STORE_H

#include "base/file.h"
#include "model/shape.h"

typedef struct {
  const char *name;
  rp_dtype dtype;
  int ndim;
  int64_t dims[4];
  int64_t strides[4];  /* in elements; C order unless a view in a .pth */
  const uint8_t *data; /* inside a mapping or an unpacked storage; valid while the store is open */
} rp_view;

typedef struct rp_store rp_store;
/* Opens a model directory, a checkpoint (its folder), a run directory (its latest checkpoint), a
 * single .safetensors file or a reference .pth. RP_BAD_DATA names the file and the first thing
 * wrong. */
rp_status rp_store_open(rp_store **s, const char *path, rp_error *err);
void rp_store_close(rp_store *s); /* NULL is fine */
int rp_store_count(const rp_store *s);
const rp_view *rp_store_at(const rp_store *s, int i);
const rp_view *rp_store_find(const rp_store *s, const char *name); /* NULL when absent */
/* The folder or file that was really opened (a run directory resolves to its latest). */
const char *rp_store_path(const rp_store *s);
/* The configuration that came along (config.yaml, or the map inside a .pth) with `words` laid over
 * it; *c is NULL when there is none and no word says it. */
rp_status rp_store_config(const rp_store *s, const char *const *words, size_t n, rp_config **c,
                          rp_error *err);
/* Model settings from what the store knows: shapes first (d, N, V, f, apply_re), then its
 * configuration, then words. Asks by name for what is still unknown. */
rp_status rp_store_model(const rp_store *s, const char *const *words, size_t n,
                         rp_model_settings *m, rp_error *err);
/* Checks that the store holds every tensor of `shape` with its dimensions, and nothing unknown (a
 * tied head's copy is fine if equal in shape; `_orig_mod.` is stripped; a separate fgate_proj is
 * appended to in_proj). Names the first that does not fit. */
rp_status rp_store_check(const rp_store *s, const rp_shape *shape, rp_error *err);
/* Copies the named logical tensor, in C order, converted to float32. */
rp_status rp_store_get_f32(const rp_store *s, const rp_param *p, float *out, rp_error *err);
/* The same in any dtype but the integers; bit for bit where it is the file's own. */
rp_status rp_store_get(const rp_store *s, const rp_param *p, rp_dtype dtype, void *out,
                       rp_error *err);
/* Elements [from, from + n) of it in C order. */
rp_status rp_store_get_part(const rp_store *s, const rp_param *p, rp_dtype dtype, int64_t from,
                            int64_t n, void *out, rp_error *err);
/* The same elements straight from the file when it holds `dtype` in C order and at a multiple of an
 * element's size, else NULL. */
const void *rp_store_direct(const rp_store *s, const rp_param *p, rp_dtype dtype);
/* The mapped file that an address lies in; NULL: in none (unpacked from a compressed archive). */
const rp_map *rp_store_map_of(const rp_store *s, const void *at);
/* Optimizer state and step of a .pth or checkpoint: which = "exp_avg", "exp_avg_sq" or
 * "momentum_buffer". has is false when the store carries none. */
rp_status rp_store_moment_f32(const rp_store *s, const rp_shape *shape, const rp_param *p,
                              const char *which, float *out, bool *has, rp_error *err);
/* Adam's step counter and the number of finished iterations, -1 where unknown. */
void rp_store_steps(const rp_store *s, int64_t *adam, int64_t *step);
/* Path of the tokenizer.model beside the weights; NULL when there is none. */
const char *rp_store_tokenizer(const rp_store *s);
/* Whether the configuration or the words say what to see: a dilation_size or joint_train. Without
 * either a model runs only with a pattern given (interface.md). */
rp_status rp_store_pattern_known(const rp_store *s, const char *const *words, size_t n, bool *known,
                                 rp_error *err);

/* RP_F32 or RP_BF16, what the model runs in: what is asked for (NULL: nothing), else what the
 * configuration says (NULL: none), else as the embedding is stored. */
rp_status rp_store_run_dtype(const rp_store *s, const rp_config *c, const char *asked,
                             const rp_shape *shape, rp_dtype *out, rp_error *err);

/* Dtype of the file's tensor; RP_F32 when it is absent. */
rp_dtype rp_store_dtype(const rp_store *s, const rp_param *p);

/* Tensor source for writers: fills out (C order, `dtype`) with logical tensor p. */
typedef rp_status (*rp_pull)(void *ctx, const rp_param *p, rp_dtype dtype, void *out,
                             rp_error *err);
/* Tensors of one kind that go into a file. */
typedef struct {
  const rp_shape *shape;
  const char *prefix; /* in front of every name: "" or e.g. "exp_avg." */
  rp_dtype dtype;
  const rp_dtype *dtypes; /* [shape->n], instead of dtype; NULL */
  rp_pull pull;
  void *ctx;
} rp_tensor_set;
/* Writes PATH (.safetensors) with all the sets; above shard_bytes (0 = 5 GB) sharded as
 * STEM-00001-of-0000N.safetensors with PATH.index.json, which is written last. Streams one tensor
 * at a time; atomic and durable per file. */
rp_status rp_safetensors_write_sets(const char *path, const rp_tensor_set *sets, int n,
                                    uint64_t shard_bytes, rp_error *err);
/* The same by several ranks, which share a file system and hold the same list: each writes its files
 * (every rank but one pulls a tensor with out NULL, in the same order), and when all have returned one
 * writes the index that makes them whole. ranks 1: all files. */
typedef struct {
  const char *path;
  const rp_tensor_set *sets;
  int n;
  uint64_t shard_bytes;
  int rank, ranks;
} rp_writing;
rp_status rp_safetensors_write_part(const rp_writing *w, rp_error *err);
rp_status rp_safetensors_write_index(const rp_writing *w, rp_error *err);
/* The same for one set. */
rp_status rp_safetensors_write(const char *path, const rp_shape *shape, rp_dtype dtype,
                               const char *prefix, uint64_t shard_bytes, rp_pull pull, void *ctx,
                               rp_error *err);

/* What a .pth carries beside its tensors. */
typedef struct {
  bool tied;                      /* the head shares the embedding's storage */
  const char *config_json;        /* becomes plain dicts; NULL: none */
  int64_t step;                   /* finished iterations; the file says step - 1 as the reference */
  int64_t of;                     /* iterations of the whole run; 0 or less: unknown */
  int64_t adam;                   /* Adam's counter of every tensor's state */
  const rp_tensor_set *moments;   /* prefix "exp_avg." ...; float32 */
  int n_moments;                  /* 0: no optimizer state */
  const rp_optim_settings *optim; /* for param_groups; NULL: the defaults of AdamW */
} rp_pth_extra;
/* Writes a file that torch.load(weights_only=True) reads: a zip (stored entries, data at multiples
 * of 64 bytes) of a protocol 2 pickle, keys task, config, step, optimizer, lr_scheduler,
 * resume_kwargs. Atomic and durable. */
rp_status rp_pth_write(const char *path, const rp_tensor_set *weights, const rp_pth_extra *extra,
                       rp_error *err);

/* The configuration of a model directory: the model and task sections, from which rp_store_model
 * reads the same settings back (free with rp_free). Without pattern_known D, W, I and joint_train
 * are left out. */
rp_status rp_model_settings_json(const rp_model_settings *m, bool pattern_known, char **text,
                                 rp_error *err);

/* ratplus convert: IN (anything rp_store_open reads) to OUT (a model directory, a .pth when OUT
 * ends in .pth). dtype -1 keeps the file's. */
typedef struct {
  int dtype;             /* rp_dtype, or -1 */
  const char *tokenizer; /* copied along; NULL */
  bool with_optimizer;
  const char *const *words; /* key=value */
  size_t n_words;
  bool overwrite;
} rp_convert_settings;
rp_status rp_store_convert(const char *in, const char *out, const rp_convert_settings *o,
                           rp_error *err);

#endif
