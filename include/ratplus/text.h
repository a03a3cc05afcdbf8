/* ratplus/text.h - tokenizers, and text turned into token files (docs/data.md).
 *
 * A tokenizer is a SentencePiece model (a .model file of the LLaMA family); immutable once open,
 * any thread may use it. Option structs are filled by rp_*_defaults and then changed. A stop flag
 * may be set from a signal handler; the call then ends with RP_STOPPED, keeping what is finished.
 * A build without SentencePiece has these functions; those that need it fail with a sentence. */
#ifndef RATPLUS_TEXT_H
#define RATPLUS_TEXT_H

#include "ratplus/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rp_tokenizer rp_tokenizer;

/* path: a .model file, or a folder that holds tokenizer.model. Close with rp_tokenizer_close. */
RP_API rp_status rp_tokenizer_open(rp_tokenizer **out, const char *path, rp_error *err);
RP_API void rp_tokenizer_close(rp_tokenizer *t);

RP_API int rp_tokenizer_vocab_size(const rp_tokenizer *t);
RP_API int rp_tokenizer_bos(const rp_tokenizer *t); /* -1: the model has none; so eos and unk */
RP_API int rp_tokenizer_eos(const rp_tokenizer *t);
RP_API int rp_tokenizer_unk(const rp_tokenizer *t);
/* SHA-256 of the model file, 64 hex digits; lives as long as t. */
RP_API const char *rp_tokenizer_sha256(const rp_tokenizer *t);

enum {
  RP_ENCODE_BOS = 1,
  RP_ENCODE_EOS = 2,
  RP_ENCODE_SPECIAL =
      4, /* control pieces spelled in the text ("</s>") become their ids, the longest
                             first; what stands between two is encoded as a text of its own */
  RP_ENCODE_CONTINUED = 8 /* the text goes on with another: no space is put in front of it */
};
/* The ids of text (len bytes, any bytes; invalid UTF-8 reads as U+FFFD) exactly as SentencePiece
 * gives them, with BOS in front and EOS behind where `flags` says (free *ids with rp_free). Without
 * RP_ENCODE_SPECIAL a control piece in the text is text. */
RP_API rp_status rp_tokenizer_encode(const rp_tokenizer *t, const char *text, size_t len, int flags,
                                     int32_t **ids, size_t *n, rp_error *err);
/* The text of n ids, NUL-terminated (free with rp_free). RP_BAD_DATA for an id that is none. */
RP_API rp_status rp_tokenizer_decode(const rp_tokenizer *t, const int32_t *ids, size_t n,
                                     char **text, size_t *len, rp_error *err);
/* What one id adds to a text being streamed: its bytes (part of a character where it is a byte
 * piece), "" for BOS and EOS. The first word of a text carries the space that SentencePiece puts in
 * front of it. Lives as long as t; NULL for an id that is none. */
RP_API const char *rp_tokenizer_bytes(const rp_tokenizer *t, int32_t id, size_t *len);

typedef enum {
  RP_TEXT_AUTO = 0, /* .jsonl, .ndjson and .json (before .gz, .zst) are JSON lines; else plain */
  RP_TEXT_PLAIN = 1,
  RP_TEXT_JSONL = 2
} rp_text_format;

/* Where documents come from. Files may be gzip or zstd, known by their first bytes; "-" is standard
 * input, at most once. */
typedef struct {
  const char *const *inputs;
  size_t n;
  rp_text_format format;
  const char *field;     /* JSON lines: the key of the text, "a.b" reaches inside; default "text" */
  const char *separator; /* plain text: what ends a document; NULL: a file is one document */
  size_t separator_len;
} rp_text_source;

/* Numbers of a running call, for a progress callback; -1 for what is unknown. */
typedef struct {
  size_t size;
  const char *phase;       /* "reading", "learning", "tokenizing", "joining" */
  const char *input;       /* the file being read; NULL in other phases */
  size_t file, files;      /* that file's number, from 0, and how many there are */
  int64_t bytes, bytes_of; /* of all inputs as they lie on disk; joining: of the output */
  int64_t documents, tokens;
  double seconds;
} rp_text_progress;
/* Called now and then (at most some times a second) from the calling thread; nonzero: stop. */
typedef int (*rp_text_progress_fn)(void *ctx, const rp_text_progress *p);

/* The lines of a text one by one, as prompts, documents to score and lists of ids are read. One
 * thread's. */
typedef struct rp_lines rp_lines;
/* path as one of a source's inputs. JSON lines (by `format`, or by the name) give the text at `field`
 * (NULL: "text"). stop: becomes nonzero to end the wait for a pipe (RP_STOPPED); NULL. */
RP_API rp_status rp_lines_open(rp_lines **out, const char *path, rp_text_format format,
                               const char *field, const volatile int *stop, rp_error *err);
RP_API void rp_lines_close(rp_lines *l); /* NULL is fine */
/* The next line without its end ("\n" or "\r\n"), NUL-terminated, until the next call; *text NULL after
 * the last. Empty lines of JSON lines are left out. RP_BAD_DATA names file and line. */
RP_API rp_status rp_lines_next(rp_lines *l, const char **text, size_t *len, rp_error *err);
RP_API const char *rp_lines_name(const rp_lines *l); /* the path, or "standard input" */
RP_API int64_t rp_lines_number(const rp_lines *l);   /* of the line last given, from 1 */

typedef struct {
  size_t size; /* sizeof this struct; filled by rp_tokenizer_train_defaults */
  rp_text_source source;
  const char *out;           /* the .model file to write */
  int vocab_size;            /* with the 3 control and 256 byte pieces */
  double character_coverage; /* share of all characters that get pieces; default 0.99995 */
  int split_digits;          /* default 1 */
  int64_t max_bytes;         /* of text learned from, the same share of every file; 256 MiB */
  int overwrite;             /* replace `out` */
  const volatile int *stop;  /* NULL, or becomes nonzero */
  rp_text_progress_fn progress;
  void *progress_ctx;
} rp_tokenizer_train_opts;
RP_API void rp_tokenizer_train_defaults(rp_tokenizer_train_opts *o);
/* Learns a BPE vocabulary with byte fallback (unk 0, BOS 1, EOS 2, settings as LLaMA's). */
RP_API rp_status rp_tokenizer_train(const rp_tokenizer_train_opts *o, rp_error *err);

typedef struct {
  size_t size; /* sizeof this struct; filled by rp_tokenize_defaults */
  rp_text_source source;
  const char *tokenizer; /* as for rp_tokenizer_open */
  const char *out;       /* the folder for train.bin, val.bin and their .json */
  int num_bytes;         /* 1, 2 or 4; 0: the fewest that hold the vocabulary */
  double val_share;      /* of the tokens, held out as val.bin; 0: none */
  int64_t val_tokens;    /* or a number of them; 0: none */
  int shuffle;           /* documents in the order of shuffle_seed */
  uint64_t shuffle_seed;
  int bos, eos;             /* BOS in front of (default 0), EOS behind (default 1) each document */
  int threads;              /* 0: as rp_threads_set; the result does not depend on it */
  int overwrite;            /* replace train.bin and val.bin made from something else */
  const volatile int *stop; /* NULL, or becomes nonzero */
  rp_text_progress_fn progress;
  void *progress_ctx;
} rp_tokenize_opts;
RP_API void rp_tokenize_defaults(rp_tokenize_opts *o);

typedef struct {
  size_t size; /* sizeof this struct, set by the caller */
  int64_t train_tokens, val_tokens;
  int64_t documents;    /* with text */
  int64_t empty;        /* left out: nothing but white space */
  int64_t invalid_utf8; /* documents with bytes that are not UTF-8 */
  int64_t text_bytes;
  int64_t tokens_now;          /* tokenized by this call, not taken from finished parts */
  int64_t parts, parts_reused; /* files tokenized now or before; of them, before */
  int num_bytes, vocab_size, eos;
  int was_complete; /* everything was there already */
  double seconds;
} rp_tokenize_result;
/* Text to OUT/train.bin and OUT/val.bin. Each input becomes a part in OUT/tokenize.parts; a call that was
 * interrupted leaves the finished ones, the next takes them up and joins all at the end. `result`
 * may be NULL. */
RP_API rp_status rp_tokenize(const rp_tokenize_opts *o, rp_tokenize_result *result, rp_error *err);

/* What a token file holds. */
typedef struct {
  size_t size; /* sizeof this struct, set by the caller */
  int64_t bytes, tokens;
  int num_bytes;
  int num_bytes_known; /* 0: no sidecar and none given, so 2 was assumed */
  int64_t max_id, eos_count;
  int eos;                   /* of the sidecar, else 2 */
  int64_t vocab_size;        /* of the sidecar, else -1 */
  char tokenizer_sha256[65]; /* of the sidecar, else "" */
} rp_tokens_report;
/* Reads the whole file. num_bytes 0: as its sidecar says. */
RP_API rp_status rp_tokens_inspect(const char *path, int num_bytes, rp_tokens_report *out,
                                   rp_error *err);
/* The same as text for people, or as one JSON object (free with rp_free). */
RP_API rp_status rp_tokens_info(const char *path, int num_bytes, int as_json, char **text,
                                rp_error *err);

#ifdef __cplusplus
}
#endif
#endif
