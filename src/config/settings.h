/* settings.h - the one place where a composed configuration becomes typed values. Nothing below
 * config sees YAML; nothing but this module knows a key's name or default. Immutable once made. */
#ifndef RP_CONFIG_SETTINGS_H
#define RP_CONFIG_SETTINGS_H

#include <stdbool.h>
#include "base/dtype.h"
#include "base/mem.h"
#include "ratplus/config.h"

typedef enum {
  RP_ACT_GELU,
  RP_ACT_RELU,
  RP_ACT_RELUSQUARED,
  RP_ACT_SILU,
  RP_ACT_FASTGELU,
  RP_ACT_SWIGLU,
  RP_ACTS
} rp_act;
typedef enum { RP_NORM_RMS, RP_NORM_LAYER } rp_norm;
typedef enum { RP_INIT_FIXED, RP_INIT_XAVIER, RP_INIT_UNIFORM, RP_INIT_TORCH } rp_init;
typedef enum { RP_CELL_RATPLUS, RP_CELL_IDENTITY } rp_cell_name; /* further mixers join here */
typedef enum { RP_OPT_ADAMW, RP_OPT_ADAM, RP_OPT_SGD } rp_opt_name;
typedef enum { RP_SCHED_COSINE, RP_SCHED_CONSTANT } rp_sched_name;
typedef enum {
  RP_SHARD_FULL = 1,
  RP_SHARD_GRAD_OP = 2,
  RP_SHARD_NONE = 3,
  RP_SHARD_HYBRID = 4
} rp_shard;
typedef enum {
  RP_LOAD_LM_ORDERED,
  RP_LOAD_LM_RANDOM,
  RP_LOAD_SFT_RANDOM,
  RP_LOAD_SFT_ORDERED
} rp_load_name;

const char *rp_act_name(rp_act a); /* "gelu" ... as in configurations */

/* D, W, I of one head (spec: the visible set): D 1 dense, -1 no dilated set. */
typedef struct {
  int32_t D, W, I;
} rp_pat;

/* Patterns of a whole model. */
typedef struct {
  int layers, kv_heads;
  rp_pat *at; /* [layers][kv_heads] */
} rp_pats;
rp_pat rp_pats_get(const rp_pats *p, int layer, int kv_head);
void rp_pats_free(rp_pats *p);

typedef struct {
  int N, d, f, V, H, Hk, h; /* layers, width, FFN width, vocabulary, heads, kv heads, d_head */
  rp_act act;
  rp_norm mixer_norm, ffn_norm, final_norm;
  rp_init init;      /* of the backbone; the embedding and head follow */
  double init_range; /* initializer_range, "fixed" */
  rp_cell_name cell;
  bool apply_re, joint_train, tied;
  bool rope;                    /* false: pe empty */
  double rope_base, rope_scale; /* position t / scale; default 1 */
  int max_seq_len;              /* pe.max_seq_len: a size to start from, never a limit */
  rp_pats pats;                 /* dilation_size, local_size, initial_size */
} rp_model_settings;

typedef struct {
  rp_load_name name;
  char *file;           /* tokenized_file_path; NULL for sft */
  char *input, *label;  /* tokenized_input_path, tokenized_label_path; NULL for lm */
  int64_t limit_tokens; /* -1: all */
  int T, batch, global_batch;
  int num_bytes, V;
  int32_t ignore_input; /* ignore_input_index; INT32_MIN: none */
  uint32_t seed;        /* 0 unless the configuration says */
} rp_load_settings;

typedef struct {
  rp_opt_name name;
  double lr, weight_decay, beta1, beta2, eps, momentum;
  rp_sched_name sched;
  double warmup, eta_min; /* warmup: fraction of S */
} rp_optim_settings;

typedef struct {
  int max_epoch;
  char *device; /* "auto", "cpu", "cuda" */
  uint64_t seed;
  bool load_checkpoint, save_checkpoint, eval_when_log, overwrite_ok;
  char *save_dir, *run_dir;  /* run_dir: resolved, never NULL (its default spelled out) */
  double save_interval;      /* fraction of all steps */
  double save_minutes;       /* 30; 0: off */
  int keep_last, keep_every; /* 0: all / none */
  int log_interval;
  rp_dtype dtype; /* RP_F32 or RP_BF16 */
  int global_batch;
  double clip;           /* gradient_clipping; 0: off */
  char *pretrained_path; /* NULL: from scratch */
  bool needs_pretrained; /* an adaptation or fine-tuning experiment with an empty path */
  rp_shard shard;
  int shards;       /* data.shards; 0: the ranks at first start */
  bool recompute;   /* trainer.recompute (ours): activations made again in backward */
  char *tokenizer;  /* key tokenizer (ours); NULL */
  int sample_every; /* iterations between samples of text (ours); 0: none */
  int sample_tokens;
  char *sample_prompt; /* NULL: the beginning of a document */
} rp_trainer_settings;

typedef struct {
  rp_model_settings model;
  rp_load_settings train, val;
  rp_optim_settings optim;
  rp_trainer_settings trainer;
} rp_settings;

/* Reads every key, fills the defaults of the reference, checks ranges and consistency (d_head,
 * num_head, batch sizes, patterns, unsupported switches). RP_USAGE names key and value. A key that
 * nothing reads and that is not in the accepted list is an error with the nearest names; accepted
 * ones without effect give one notice. `ranks` is for global batch arithmetic. */
rp_status rp_settings_read(rp_settings *out, const rp_config *c, int ranks, rp_error *err);
void rp_settings_free(rp_settings *s);
/* Only the model group (and its accepted neighbours), for files that carry a partial
 * configuration: config.yaml of a model directory, the map inside a reference .pth. */
rp_status rp_model_settings_read(rp_model_settings *out, const rp_config *c, rp_error *err);
void rp_model_settings_free(rp_model_settings *m);

/* Parses "D=16,W=256,I=4" and its forms (interface.md, Patterns) for a model of these sizes. */
rp_status rp_pats_parse(rp_pats *out, const char *text, int layers, int kv_heads, rp_error *err);
/* The shortest text that rp_pats_parse reads back to the same (free with rp_free). */
char *rp_pats_format(const rp_pats *p);
rp_status rp_pats_uniform(rp_pats *out, rp_pat one, int layers, int kv_heads, rp_error *err);

/* Two configurations compared: every path whose value differs and matters to the numbers of a run
 * (not directories, logging, saving intervals, threads), one per line with both values; "" when the
 * runs are the same (free with rp_free). */
rp_status rp_config_diff(const rp_config *a, const rp_config *b, char **text, rp_error *err);

/* A composed text (YAML, or JSON when `what` ends in .json or the text begins with a brace) with
 * words laid over it; `what` names it in errors. loose: words may name keys that are not there yet
 * (a model file that knows nothing: text "{}"). Free with rp_config_free. */
rp_status rp_config_from_text(rp_config **out, const char *text, size_t len, const char *what,
                              const char *const *words, size_t n, bool loose, rp_error *err);

#endif
