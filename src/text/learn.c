/* learn.c - a vocabulary learned from text: the documents as lines, given to SentencePiece. */
#include <string.h>

#include "base/file.h"
#include "text/docs.h"
#include "text/jsonl.h"
#include "text/ticker.h"
#include "text/utf8.h"

/* SentencePiece keeps every line; longer ones are cut at a space. */
enum { LINE = 4096 };

typedef struct {
  const rp_tokenizer_train_opts *o;
  rp_ticker ticker;
  rp_docs *docs;
  size_t file;           /* the next to open */
  int64_t left, of_file; /* bytes still to be learned from: in all, of this file */
  rp_batch batch;
  size_t piece; /* the next one of the batch */
  rp_str text;  /* of the piece */
  size_t at;    /* of text: what was given */
  rp_str line;  /* the sentence given last */
} lines;

void rp_tokenizer_train_defaults(rp_tokenizer_train_opts *o) {
  *o = (rp_tokenizer_train_opts){.size = sizeof *o,
                                 .source = {.field = "text"},
                                 .character_coverage = 0.99995,
                                 .split_digits = 1,
                                 .max_bytes = (int64_t)256 << 20};
}

/* The next batch with pieces; batch.n 0 at the end of all input. */
static rp_status next_batch(lines *l, rp_error *err) {
  const rp_text_source *src = &l->o->source;
  l->piece = 0;
  l->batch.n = 0;
  while (l->docs || l->file < src->n) {
    RP_TRY(rp_ticker_tick(&l->ticker, err));
    if (!l->docs) {
      /* What a short file leaves is shared by those after it. */
      l->of_file = l->left / (int64_t)(src->n - l->file);
      l->ticker.now.input = src->inputs[l->file];
      l->ticker.now.file = l->file;
      RP_TRY(rp_docs_open(&l->docs, src, src->inputs[l->file++], (rp_cuts){true, true}, l->o->stop,
                          err));
    }
    if (l->of_file > 0) RP_TRY(rp_docs_next(l->docs, &l->batch, err));
    if (l->batch.n) return RP_OK;
    rp_docs_close(l->docs);
    l->docs = NULL;
  }
  return RP_OK;
}

/* The text of the next piece; *more false at the end of all input. */
static rp_status next_text(lines *l, bool *more, rp_error *err) {
  if (l->piece == l->batch.n || l->of_file <= 0) RP_TRY(next_batch(l, err));
  *more = l->batch.n > 0;
  if (!*more) return RP_OK;
  const rp_piece *p = &l->batch.pieces[l->piece++];
  const char *s = l->batch.text.s + p->at;
  rp_str_clear(&l->text);
  l->at = 0;
  if (!rp_docs_is_jsonl(l->docs))
    rp_str_addn(&l->text, s, p->len);
  else if (rp_jsonl_text(s, p->len, l->o->source.field, &l->text, err))
    return rp_fail_at(err, "%s: line %llu", rp_docs_name(l->docs), (unsigned long long)p->line);
  if (l->text.failed) return rp_fail_memory(err, p->len, "a document");
  l->ticker.now.documents += p->ends;
  return RP_OK;
}

/* One line of l->text, or as much of it as a sentence may hold. */
static size_t line_len(const lines *l) {
  const char *s = l->text.s + l->at;
  const size_t n = l->text.len - l->at, most = n < LINE ? n : LINE;
  const char *end = memchr(s, '\n', most);
  if (end) return (size_t)(end - s);
  if (n <= LINE) return n;
  const char *space = memrchr(s, ' ', LINE);
  return space && space > s ? (size_t)(space - s) : rp_utf8_floor(s, LINE);
}

/* The line as SentencePiece accepts it: what is no UTF-8, or NUL, is left out. */
static void add_clean(rp_str *out, const char *s, size_t n) {
  for (size_t i = 0; i < n;) {
    size_t run = i;
    int step = 1;
    while (run < n && s[run] && (step = rp_utf8_next(s + run, n - run)) != 0) run += (size_t)step;
    rp_str_addn(out, s + i, run - i);
    i = run + 1;
  }
}

static rp_status next_line(void *ctx, const char **s, size_t *len, rp_error *err) {
  lines *l = ctx;
  *s = NULL;
  for (;;) {
    while (l->at >= l->text.len || l->of_file <= 0) {
      bool more;
      RP_TRY(next_text(l, &more, err));
      if (!more) return RP_OK;
    }
    const size_t n = line_len(l);
    rp_str_clear(&l->line);
    add_clean(&l->line, l->text.s + l->at, n);
    if (l->line.failed) return rp_fail_memory(err, n, "a line");
    l->at += n;
    if (l->at < l->text.len && l->text.s[l->at] == '\n') l->at++;
    l->of_file -= (int64_t)n + 1;
    l->left -= (int64_t)n + 1;
    l->ticker.now.bytes = l->o->max_bytes - l->left;
    if (l->line.len == 0 || rp_text_is_blank(l->line.s, l->line.len)) continue;
    *s = l->line.s;
    *len = l->line.len;
    return RP_OK;
  }
}

static rp_status check_opts(const rp_tokenizer_train_opts *o, rp_error *err) {
  if (o->size != sizeof *o)
    return rp_fail(err, RP_USAGE,
                   "rp_tokenizer_train: options not filled by rp_tokenizer_train_defaults");
  RP_TRY(rp_text_source_check(&o->source, err));
  if (!o->out || !*o->out) return rp_fail(err, RP_USAGE, "no output file; give --out FILE.model");
  if (rp_is_dir(o->out))
    return rp_fail(err, RP_USAGE, "%s: is a folder; give the name of a .model file", o->out);
  if (rp_exists(o->out) && !o->overwrite)
    return rp_fail(err, RP_USAGE, "%s exists already; choose another --out or add --overwrite",
                   o->out);
  if (o->vocab_size < 260 || o->vocab_size > 1 << 24)
    return rp_fail(err, RP_USAGE,
                   "a vocabulary of %d is not possible: 3 control and 256 byte pieces are in it; "
                   "give --vocab-size 260 or more",
                   o->vocab_size);
  if (!(o->character_coverage > 0 && o->character_coverage <= 1))
    return rp_fail(err, RP_USAGE, "the character coverage is a share above 0 and at most 1");
  if (o->max_bytes < 1) return rp_fail(err, RP_USAGE, "--max-bytes must be at least 1");
  return RP_OK;
}

static rp_status learn(lines *l, char **proto, size_t *len, rp_error *err) {
  const rp_tokenizer_train_opts *o = l->o;
  const rp_spm_train_spec spec = {.vocab_size = o->vocab_size,

                                  .coverage = o->character_coverage,
                                  .split_digits = o->split_digits != 0,
                                  .next = next_line,
                                  .ctx = l};
  l->ticker.now.files = o->source.n;
  l->ticker.now.bytes_of = o->max_bytes;
  RP_TRY(rp_ticker_phase(&l->ticker, "reading", err));
  return rp_spm_train(&spec, proto, len, err);
}

rp_status rp_tokenizer_train(const rp_tokenizer_train_opts *o, rp_error *err) {
  char *proto = NULL;
  size_t len = 0;
  RP_TRY(check_opts(o, err));
  lines l = {.o = o, .left = o->max_bytes};
  rp_ticker_init(&l.ticker, o->stop, o->progress, o->progress_ctx);
  rp_status st = learn(&l, &proto, &len, err);
  if (!st) st = rp_file_replace(o->out, proto, len, true, err);
  rp_free(proto);
  rp_docs_close(l.docs);
  rp_batch_free(&l.batch);
  rp_str_free(&l.text);
  rp_str_free(&l.line);
  return st;
}
