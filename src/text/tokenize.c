/* tokenize.c - text to token files: each input to a part, then all parts joined. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/json.h"
#include "base/log.h"
#include "text/join.h"
#include "text/part.h"
#include "text/pipe.h"
#include "text/sha256.h"

enum { PART_NAME = 33 };

typedef struct {
  const rp_tokenize_opts *o;
  rp_tokenizer *tokenizer;
  rp_ticker ticker;
  rp_pipe *pipe;
  char *dir;    /* OUT/tokenize.parts */
  int lock;     /* of that folder; -1 none */
  char **names; /* [n] of the parts */
  bool *done;   /* [n] the part is there */
  int num_bytes;
  char made_from[65];
  /* reading, ahead of what is written */
  rp_docs *docs;
  size_t reading;       /* the input being read, n: none left */
  int64_t bytes_before; /* of the inputs already read */
  /* writing */
  rp_part_writer *part;
  bool doc_invalid; /* of the document being written */
  rp_tokenize_result r;
} job;

void rp_tokenize_defaults(rp_tokenize_opts *o) {
  *o = (rp_tokenize_opts){.size = sizeof *o, .source = {.field = "text"}, .eos = 1};
}

static rp_status check_opts(const rp_tokenize_opts *o, rp_error *err) {
  if (o->size != sizeof *o)
    return rp_fail(err, RP_USAGE, "rp_tokenize: options not filled by rp_tokenize_defaults");
  RP_TRY(rp_text_source_check(&o->source, err));
  if (!o->out || !*o->out) return rp_fail(err, RP_USAGE, "no output folder; give --out DIR");
  if (o->num_bytes != 0 && o->num_bytes != 1 && o->num_bytes != 2 && o->num_bytes != 4)
    return rp_fail(err, RP_USAGE, "%d bytes an id is not possible; use 1, 2 or 4", o->num_bytes);
  if (!(o->val_share >= 0 && o->val_share < 1)) {
    char x[32];
    rp_format_f64(x, o->val_share, false);
    return rp_fail(err, RP_USAGE, "a held-out share of %s is not between 0 and 1", x);
  }
  if (o->val_tokens < 0)
    return rp_fail(err, RP_USAGE, "%lld held-out tokens are not possible",
                   (long long)o->val_tokens);
  if (o->val_share > 0 && o->val_tokens > 0)
    return rp_fail(err, RP_USAGE, "give --val-share or --val-tokens, not both");
  return RP_OK;
}

static rp_status choose_bytes(job *j, rp_error *err) {
  const int V = j->tokenizer->size, fewest = V <= 1 << 8 ? 1 : V <= 1 << 16 ? 2 : 4;
  j->num_bytes = j->o->num_bytes ? j->o->num_bytes : fewest;
  if (j->num_bytes < fewest)
    return rp_fail(err, RP_USAGE, "a vocabulary of %d does not fit in %d byte%s an id; use %d", V,
                   j->num_bytes, j->num_bytes > 1 ? "s" : "", fewest);
  if (j->o->bos && j->tokenizer->bos < 0)
    return rp_fail(err, RP_USAGE, "%s has no BOS; leave --bos out", j->o->tokenizer);
  if (j->o->eos && j->tokenizer->eos < 0)
    return rp_fail(err, RP_USAGE, "%s has no EOS to end documents with; use another tokenizer",
                   j->o->tokenizer);
  return RP_OK;
}

/* Everything that decides the tokens of one input goes into the name of its part. */
static void add_settings(const job *j, rp_sha256 *sha, const char *path, bool jsonl) {
  const rp_text_source *src = &j->o->source;
  char text[256];
  rp_snprintf(text, sizeof text, "part 1 %s %d %d %d %d ", j->tokenizer->sha256, j->num_bytes,
              j->o->bos != 0, j->o->eos != 0, jsonl);
  rp_sha256_add(sha, text, strlen(text) + 1);
  if (jsonl)
    rp_sha256_add(sha, src->field, strlen(src->field) + 1);
  else if (src->separator)
    rp_sha256_add(sha, src->separator, src->separator_len);
  rp_sha256_add(sha, "", 1);
  rp_sha256_add(sha, path, strlen(path) + 1);
}

static rp_status name_part(job *j, size_t i, rp_error *err) {
  const char *path = j->o->source.inputs[i];
  rp_sha256 sha;
  struct stat s = {0};
  char hex[65];
  rp_sha256_init(&sha);
  add_settings(j, &sha, path, rp_text_is_jsonl(&j->o->source, path));
  if (strcmp(path, "-") != 0 && stat(path, &s)) return rp_fail_errno(err, "cannot read", path);
  const int64_t place[] = {s.st_size, s.st_mtim.tv_sec, s.st_mtim.tv_nsec};
  if (S_ISREG(s.st_mode)) rp_sha256_add(&sha, place, sizeof place);
  rp_sha256_hex(&sha, hex);
  j->names[i] = rp_calloc(PART_NAME, 1);
  if (!j->names[i]) return rp_fail_memory(err, PART_NAME, "the name of a part");
  memcpy(j->names[i], hex, PART_NAME - 1);
  /* A stream cannot be known again: it is read anew. */
  rp_part_stats n;
  RP_TRY(rp_part_find(j->dir, j->names[i], j->num_bytes, &j->done[i], &n, err));
  if (!S_ISREG(s.st_mode)) j->done[i] = false;
  if (S_ISREG(s.st_mode) && j->ticker.now.bytes_of >= 0) j->ticker.now.bytes_of += s.st_size;
  if (!S_ISREG(s.st_mode)) j->ticker.now.bytes_of = -1;
  return RP_OK;
}

static rp_status name_parts(job *j, rp_error *err) {
  const size_t n = j->o->source.n;
  rp_sha256 sha;
  char val[64];
  j->names = rp_calloc(n, sizeof *j->names);
  j->done = rp_calloc(n, sizeof *j->done);
  if (!j->names || !j->done) return rp_fail_memory(err, n * sizeof *j->names, "names of parts");
  j->ticker.now.bytes_of = 0;
  j->ticker.now.files = n;
  rp_sha256_init(&sha);
  for (size_t i = 0; i < n; i++) {
    RP_TRY(name_part(j, i, err));
    rp_sha256_add(&sha, j->names[i], PART_NAME);
  }
  rp_format_f64(val, j->o->val_share, true);
  rp_sha256_add(&sha, val, strlen(val) + 1);
  const uint64_t rest[] = {(uint64_t)j->o->val_tokens, j->o->shuffle != 0,
                           j->o->shuffle ? j->o->shuffle_seed : 0};
  rp_sha256_add(&sha, rest, sizeof rest);
  rp_sha256_hex(&sha, j->made_from);
  return RP_OK;
}

/* What an earlier call left under a final name: nothing, the same (its tokens), or another. */
typedef enum { ABSENT, SAME, OTHER } left_over;

static rp_status look_at(const job *j, const char *name, left_over *out, int64_t *tokens,
                         rp_error *err) {
  rp_status st = RP_OK;
  char *text = NULL;
  size_t len = 0;
  rp_json_doc *doc = NULL;
  rp_str json = {0};
  char *path = rp_path_join(j->o->out, name);
  *tokens = 0;
  *out = ABSENT;
  if (path) rp_str_addf(&json, "%s.json", path);
  if (!path || json.failed) RP_GO(rp_fail_memory(err, strlen(j->o->out), "a path"));
  if (!rp_exists(path)) goto fail;
  *out = OTHER;
  if (!rp_is_file(json.s) || rp_file_read(json.s, 1 << 20, &text, &len, NULL) ||
      rp_json_parse(&doc, text, len, json.s, NULL))
    goto fail;
  const rp_json *root = rp_json_root(doc), *from = rp_json_get(root, "made_from");
  const rp_json *count = rp_json_get(root, "tokens");
  if (from && from->type == RP_JSON_STRING && strcmp(from->string, j->made_from) == 0 && count &&
      count->type == RP_JSON_INT && count->integer >= 0 &&
      rp_file_size(path) == count->integer * j->num_bytes) {
    *out = SAME;
    *tokens = count->integer;
  }
fail:
  rp_json_free(doc);
  rp_free(text);
  rp_free(path);
  rp_str_free(&json);
  return st;
}

/* Sets *complete when both results are there from the same inputs and settings. A val.bin alone is
 * what an interruption between the two leaves. */
static rp_status look_at_results(job *j, bool *complete, rp_error *err) {
  const bool has_val = j->o->val_share > 0 || j->o->val_tokens > 0;
  const bool is_stream = j->ticker.now.bytes_of < 0;
  left_over train, val;
  RP_TRY(look_at(j, "train.bin", &train, &j->r.train_tokens, err));
  RP_TRY(look_at(j, "val.bin", &val, &j->r.val_tokens, err));
  *complete = !is_stream && train == SAME && val == (has_val ? SAME : ABSENT);
  if (*complete || j->o->overwrite) return RP_OK;
  if (train == ABSENT && (val == ABSENT || (val == SAME && has_val && !is_stream))) return RP_OK;
  if (train == SAME && !is_stream && val == ABSENT) return RP_OK;
  return rp_fail(err, RP_USAGE,
                 "%s/%s exists already, made from other text or settings; choose another --out or "
                 "add --overwrite",
                 j->o->out, train != ABSENT ? "train.bin" : "val.bin");
}

/* With overwrite a former val.bin must not stay beside a train.bin it does not belong to. */
static rp_status remove_stale_val(const job *j, rp_error *err) {
  static const char *const names[] = {"val.bin", "val.bin.json"};
  rp_status st = RP_OK;
  if (!j->o->overwrite || j->o->val_share > 0 || j->o->val_tokens > 0) return RP_OK;
  for (int i = 0; i < 2 && !st; i++) {
    char *path = rp_path_join(j->o->out, names[i]);
    if (!path) return rp_fail_memory(err, strlen(j->o->out), "a path");
    if (rp_is_file(path)) st = rp_remove_tree(path, err);
    rp_free(path);
  }
  return st;
}

/* Fills one free job from the inputs; *any is false when there is nothing left to read. A failure
 * travels with the job, so that what was read before it is still written. */
static bool fill(job *j, rp_job *to) {
  const rp_text_source *src = &j->o->source;
  while (!j->docs && j->reading < src->n && j->done[j->reading]) {
    const int64_t size = rp_file_size(src->inputs[j->reading]);
    j->bytes_before += size > 0 ? size : 0;
    j->r.parts_reused++;
    j->reading++;
  }
  if (j->reading == src->n) return false;
  to->in.n = 0;
  to->file = j->reading;
  to->name = src->inputs[j->reading];
  to->err = (rp_error){0};
  to->st = j->docs
               ? RP_OK
               : rp_docs_open(&j->docs, src, to->name, j->tokenizer->cuts, j->o->stop, &to->err);
  if (!to->st) to->st = rp_docs_next(j->docs, &to->in, &to->err);
  if (!to->st) to->jsonl = rp_docs_is_jsonl(j->docs);
  if (!to->st) j->ticker.now.bytes = j->bytes_before + rp_docs_raw(j->docs);
  to->ends_file = to->st || to->in.n == 0;
  if (to->ends_file) {
    if (j->docs) j->bytes_before += rp_docs_raw(j->docs);
    rp_docs_close(j->docs);
    j->docs = NULL;
    j->reading = to->st ? src->n : j->reading + 1;
  }
  rp_pipe_submit(j->pipe);
  return true;
}

static void write_job(job *j, const rp_job *from) {
  rp_part_stats *n = rp_part_counts(j->part);
  size_t at = 0;
  n->empty += (uint64_t)from->in.empty;
  for (size_t i = 0; i < from->in.n; i++) {
    const rp_piece *p = &from->in.pieces[i];
    rp_part_add(j->part, from->ids.id + at, p->ids_end - at);
    at = p->ids_end;
    if (p->begins) j->doc_invalid = false;
    j->doc_invalid |= p->invalid;
    n->bytes += p->text_len;
    if (p->blank) n->empty++;
    if (!p->ends || p->blank) continue;
    n->invalid += j->doc_invalid;
    rp_part_end_doc(j->part);
    j->ticker.now.documents++;
  }
  j->ticker.now.tokens += (int64_t)from->ids.n;
}

static rp_status drain(job *j, const rp_job *from, rp_error *err) {
  if (from->st) {
    if (err) *err = from->err;
    return from->st;
  }
  j->ticker.now.input = from->name;
  j->ticker.now.file = from->file;
  if (!j->part) RP_TRY(rp_part_create(&j->part, j->dir, j->names[from->file], j->num_bytes, err));
  write_job(j, from);
  if (!from->ends_file) return RP_OK;
  rp_part_writer *w = j->part;
  j->part = NULL;
  return rp_part_commit(w, err);
}

static rp_status make_parts(job *j, rp_error *err) {
  const rp_pipe_spec spec = {.tokenizer = j->tokenizer,
                             .field = j->o->source.field,
                             .bos = j->o->bos != 0,
                             .eos = j->o->eos != 0};
  RP_TRY(rp_pipe_open(&j->pipe, &spec, j->o->threads > 0 ? j->o->threads : rp_threads(), err));
  RP_TRY(rp_ticker_phase(&j->ticker, "tokenizing", err));
  for (;;) {
    rp_job *to;
    while ((to = rp_pipe_free_job(j->pipe)) != NULL && fill(j, to)) {
    }
    rp_job *from = rp_pipe_oldest(j->pipe);
    if (!from) return RP_OK;
    RP_TRY(drain(j, from, err));
    rp_pipe_release(j->pipe);
    RP_TRY(rp_ticker_tick(&j->ticker, err));
  }
}

static rp_status sum_parts(job *j, rp_error *err) {
  j->r.parts = (int64_t)j->o->source.n;
  for (size_t i = 0; i < j->o->source.n; i++) {
    bool found;
    rp_part_stats n;
    RP_TRY(rp_part_find(j->dir, j->names[i], j->num_bytes, &found, &n, err));
    if (!found) continue;
    j->r.documents += (int64_t)n.docs;
    j->r.empty += (int64_t)n.empty;
    j->r.invalid_utf8 += (int64_t)n.invalid;
    j->r.text_bytes += (int64_t)n.bytes;
  }
  return RP_OK;
}

static rp_status join_parts(job *j, rp_error *err) {
  const rp_join_spec s = {.dir = j->dir,
                          .out = j->o->out,
                          .names = j->names,
                          .n = j->o->source.n,
                          .num_bytes = j->num_bytes,
                          .vocab_size = j->tokenizer->size,
                          .eos = j->o->eos ? j->tokenizer->eos : -1,
                          .shuffle = j->o->shuffle != 0,
                          .seed = j->o->shuffle_seed,
                          .val_share = j->o->val_share,
                          .val_tokens = j->o->val_tokens,
                          .tokenizer_sha256 = j->tokenizer->sha256,
                          .made_from = j->made_from,
                          .ticker = &j->ticker};
  RP_TRY(sum_parts(j, err));
  RP_TRY(remove_stale_val(j, err));
  RP_TRY(rp_join(&s, &j->r.train_tokens, &j->r.val_tokens, err));
  return rp_remove_tree(j->dir, err);
}

/* One writer at a time, and what a killed one left half-written is cleared away. A file system
 * without locks is taken as it is. */
static rp_status lock_parts(job *j, rp_error *err) {
  rp_status st = RP_OK;
  char **names = NULL, *path = rp_path_join(j->dir, "lock");
  size_t n = 0;
  if (!path) return rp_fail_memory(err, strlen(j->dir), "a path");
  j->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (j->lock < 0) RP_GO(rp_fail_errno(err, "cannot write", path));
  if (flock(j->lock, LOCK_EX | LOCK_NB)) {
    if (errno == EWOULDBLOCK)
      RP_GO(rp_fail(err, RP_USAGE,
                    "%s: another ratplus tokenize is writing here; wait for it, or "
                    "choose another --out",
                    j->o->out));
    goto fail;
  }
  RP_GO(rp_list_dir(j->dir, &names, &n, err));
  for (size_t i = 0; i < n; i++) {
    if (!strstr(names[i], ".tmp-")) continue;
    char *stale = rp_path_join(j->dir, names[i]);
    if (stale) rp_remove_tree(stale, NULL);
    rp_free(stale);
  }
fail:
  rp_list_free(names, n);
  rp_free(path);
  return st;
}

static rp_status run(job *j, rp_error *err) {
  bool complete = false;
  RP_TRY(check_opts(j->o, err));
  RP_TRY(rp_tokenizer_open(&j->tokenizer, j->o->tokenizer, err));
  RP_TRY(choose_bytes(j, err));
  j->dir = rp_path_join(j->o->out, "tokenize.parts");
  if (!j->dir) return rp_fail_memory(err, strlen(j->o->out), "a path");
  RP_TRY(name_parts(j, err));
  j->r.num_bytes = j->num_bytes;
  j->r.vocab_size = j->tokenizer->size;
  j->r.eos = j->o->eos ? j->tokenizer->eos : -1;
  RP_TRY(look_at_results(j, &complete, err));
  j->r.was_complete = complete;
  if (complete) return rp_is_dir(j->dir) ? rp_remove_tree(j->dir, err) : RP_OK;
  RP_TRY(rp_mkdirs(j->dir, err));
  RP_TRY(lock_parts(j, err));
  RP_TRY(make_parts(j, err));
  return join_parts(j, err);
}

rp_status rp_tokenize(const rp_tokenize_opts *o, rp_tokenize_result *result, rp_error *err) {
  job j = {.o = o, .lock = -1};
  rp_ticker_init(&j.ticker, o->stop, o->progress, o->progress_ctx);
  rp_status st = run(&j, err);
  rp_pipe_close(j.pipe);
  rp_docs_close(j.docs);
  rp_part_cancel(j.part);
  rp_tokenizer_close(j.tokenizer);
  if (j.lock >= 0) close(j.lock);
  for (size_t i = 0; j.names && i < o->source.n; i++) rp_free(j.names[i]);
  rp_free(j.names);
  rp_free(j.done);
  rp_free(j.dir);
  j.r.tokens_now = j.ticker.now.tokens;
  j.r.seconds = rp_ticker_seconds(&j.ticker);
  if (result) {
    const size_t size = result->size < sizeof j.r ? result->size : sizeof j.r;
    j.r.size = size;
    memcpy(result, &j.r, size);
  }
  return st;
}
