/* store_inner.h - what a store is made of; shared by the files that fill one (safetensors.c,
 * modeldir.c, pth_read.c) and nobody else. A store is filled once, then only read. */
#ifndef RP_MODEL_STORE_INNER_H
#define RP_MODEL_STORE_INNER_H

#include "model/store.h"

/* Tensors by name; names are owned. Sorted once filled. */
typedef struct {
  rp_view *v;
  size_t n, cap;
} rp_table;

struct rp_store {
  char *path;   /* the folder or file that was really opened */
  bool pth;     /* a reference .pth, else safetensors */
  rp_map *maps; /* mapped files */
  size_t n_maps, cap_maps;
  void **blocks; /* storages unpacked from a compressed archive */
  size_t n_blocks, cap_blocks;
  rp_table tensors;
  rp_table moments;       /* "exp_avg.NAME"; "exp_avg.#K" where a .pth numbers its state */
  int64_t numbered;       /* parameters that a numbered state counts; 0: by name */
  int64_t adam, step, of; /* Adam's counter; iterations finished, of all; -1 unknown */
  char *config;           /* text of the configuration that came along (YAML or JSON); NULL */
  char *config_name;      /* names it in errors */
  char *tokenizer;        /* path of its tokenizer.model; NULL */
};

/* Adds a view under a copy of `name`. */
rp_status rp_table_add(rp_table *t, const char *name, const rp_view *v, rp_error *err);
/* Sorts by name. RP_BAD_DATA for a name that is there twice; `what` names the file. */
rp_status rp_table_sort(rp_table *t, const char *what, rp_error *err);
const rp_view *rp_table_find(const rp_table *t, const char *name);
void rp_table_free(rp_table *t);

/* Bytes that a view of this dtype and these dims covers in C order; false on overflow or a
 * negative dimension. */
bool rp_view_bytes(const rp_view *v, uint64_t *bytes);
/* Fills the strides of C order. */
void rp_view_pack(rp_view *v);
bool rp_view_is_packed(const rp_view *v);
/* Copies n elements of the view, from the first-th in C order on, converted to float32. */
void rp_view_get_f32(const rp_view *v, int64_t first, int64_t n, float *out);

/* Maps a file and hands the mapping to the store. */
rp_status rp_store_map(rp_store *s, const char *path, rp_map *m, rp_error *err);
/* An owned block of the store. */
rp_status rp_store_block(rp_store *s, size_t bytes, void **block, rp_error *err);

/* One .safetensors file into a table. */
rp_status rp_safetensors_read(rp_store *s, rp_table *t, const char *path, rp_error *err);
/* model.safetensors.index.json and the shards it names. */
rp_status rp_safetensors_read_index(rp_store *s, rp_table *t, const char *path, rp_error *err);
/* A reference .pth: tensors, optimizer state, step, configuration. */
rp_status rp_pth_read(rp_store *s, const char *path, rp_error *err);
/* A model directory, checkpoint or run directory. */
rp_status rp_modeldir_read(rp_store *s, const char *path, rp_error *err);

/* Sizes told by the tensors alone, mostly those of layer 0. */
typedef struct {
  int64_t N, d, V;
  int64_t f;        /* -1: no fc2 */
  int64_t in_rows;  /* rows of in_proj, a separate fgate_proj counted; 0: no mixer */
  int64_t fc1_rows; /* 2f with swiglu */
  bool mixer;       /* layers have an in_proj */
  bool fgate;       /* a separate fgate_proj: the recurrence is on */
  bool mixer_bias, ffn_bias, final_bias; /* norms with a bias: LayerNorm */
  bool head, head_same;                  /* head.lm_head.weight is there; it equals the embedding */
} rp_told;
rp_status rp_store_told(const rp_store *s, rp_told *t, rp_error *err);

/* Takes keys of the model section that nothing knows out of a .pth's configuration, with a notice. */
rp_status rp_store_prune(rp_store *s, rp_error *err);
/* The configuration, what the tensors tell (unless it is one of ours, which is complete), and the
 * words, laid over each other. *known: whether it says what to see. */
rp_status rp_store_compose(const rp_store *s, const char *const *words, size_t n, rp_config **c,
                           bool *known, rp_error *err);

#endif
