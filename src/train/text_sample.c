#include "train/text_sample.h"

#include <string.h>

#include "pattern/count.h"
#include "ratplus/generate.h"
#include "session/engine.h"
#include "text/encoder.h"

/* Tokens of the prompt that count, the last ones. */
enum { PROMPT_MOST = 64 };

struct rp_text_sample {
  rp_trainer *t;
  rp_tokenizer *tokenizer;
  rp_model *model;
  rp_engine *engine;
  rp_generator *generator;
  char *pattern;
  int32_t *ids;
  size_t n;
  const char *prompt; /* "" at the beginning of a document */
  rp_str text;
};

static uint64_t pool_bytes(const rp_settings *s) {
  const rp_model_settings *m = &s->model;
  const int64_t tokens = PROMPT_MOST + s->trainer.sample_tokens;
  int64_t blocks = 0;
  for (int i = 0; i < m->N; i++)
    for (int j = 0; j < m->Hk; j++) blocks += rp_pat_blocks(rp_pats_get(&m->pats, i, j), tokens, 0);
  return (uint64_t)blocks * RP_KV_BLOCK * 2 * (uint64_t)m->h * sizeof(float);
}

static rp_engine_opts engine_opts(const rp_settings *s) {
  rp_engine_opts o;
  rp_engine_defaults(&o);
  o.chunk = PROMPT_MOST;
  o.rows = o.wanted = 1;
  o.cache_bytes = pool_bytes(s);
  return o;
}

rp_status rp_text_sample_plan(const rp_device *d, const rp_settings *s, uint64_t *bytes,
                              rp_error *err) {
  *bytes = 0;
  if (s->trainer.sample_every == 0) return RP_OK;
  const rp_engine_opts o = engine_opts(s);
  RP_TRY(rp_engine_plan(d, &s->model, s->trainer.dtype, &o, bytes, err));
  *bytes += o.cache_bytes;
  return RP_OK;
}

/* The prompt's last tokens; the beginning of a document is what stands behind the end of another. */
static rp_status encode_prompt(rp_text_sample *x, rp_error *err) {
  const rp_tokenizer *t = x->tokenizer;
  int32_t *ids;
  size_t n;
  const int begin = rp_tokenizer_eos(t) >= 0 ? rp_tokenizer_eos(t) : rp_tokenizer_bos(t);
  RP_TRY(rp_tokenizer_encode(t, x->prompt, strlen(x->prompt), 0, &ids, &n, err));
  x->n = n < PROMPT_MOST ? n : PROMPT_MOST;
  x->ids = rp_malloc(x->n + 1, sizeof *x->ids);
  if (x->ids && x->n) memcpy(x->ids, ids + n - x->n, x->n * sizeof *ids);
  rp_free(ids);
  if (!x->ids) return rp_fail_memory(err, n * sizeof *ids, "a prompt");
  if (x->n) return RP_OK;
  if (begin < 0)
    return rp_fail(err, RP_USAGE,
                   "the tokenizer has neither EOS nor BOS to begin a text with; give "
                   "trainer.sample_prompt");
  x->ids[x->n++] = begin;
  return RP_OK;
}

rp_status rp_text_sample_open(rp_text_sample **out, rp_trainer *t, const char *tokenizer,
                              size_t len, rp_error *err) {
  rp_status st = RP_OK;
  const rp_settings *s = t->s;
  const rp_engine_opts o = engine_opts(s);
  *out = NULL;
  rp_text_sample *x = rp_calloc(1, sizeof *x);
  if (!x) return rp_fail_memory(err, sizeof *x, "samples of text");
  x->t = t;
  x->prompt = s->trainer.sample_prompt ? s->trainer.sample_prompt : "";
  RP_GO(rp_tokenizer_load(&x->tokenizer, tokenizer, len, "tokenizer", err));
  x->pattern = rp_pats_format(&s->model.pats);
  if (!x->pattern) RP_GO(rp_fail_memory(err, 64, "a pattern"));
  RP_GO(encode_prompt(x, err));
  RP_GO(rp_model_borrow(&x->model, t->q, &s->model, s->trainer.dtype, &t->weights, err));
  RP_GO(rp_engine_open(&x->engine, x->model, &o, err));
  RP_GO(rp_generator_open(&x->generator, x->model, x->engine, x->tokenizer, err));
  *out = x;
  return RP_OK;
fail:
  rp_text_sample_close(x);
  return st;
}

void rp_text_sample_close(rp_text_sample *x) {
  if (!x) return;
  rp_generator_close(x->generator);
  rp_engine_close(x->engine);
  rp_model_close(x->model);
  rp_tokenizer_close(x->tokenizer);
  rp_free(x->pattern);
  rp_free(x->ids);
  rp_str_free(&x->text);
  rp_free(x);
}

typedef struct {
  rp_str *text;
  rp_error *err;
  rp_status st;
  int32_t eos;
  bool ended; /* what comes behind EOS is not shown */
} sink;

static int on_piece(void *ctx, const rp_generated *g) {
  sink *k = ctx;
  if (g->token == k->eos) k->ended = true;
  if (g->end == RP_END_FAILED) k->st = rp_fail(k->err, g->error->status, "%s", g->error->text);
  if (k->ended) return 0;
  for (size_t i = 0; i < g->len; i++) rp_str_addn(k->text, g->text[i] ? g->text + i : " ", 1);
  return 0;
}

rp_status rp_text_sample_make(rp_text_sample *x, int64_t step, const char **text, rp_error *err) {
  const rp_trainer_settings *s = &x->t->s->trainer;
  sink k = {.text = &x->text, .err = err, .eos = rp_tokenizer_eos(x->tokenizer)};
  rp_request q;
  rp_request_defaults(&q);
  q.ids = x->ids;
  q.n = x->n;
  q.begins = !*x->prompt;
  q.pattern = x->pattern;
  q.max_tokens = s->sample_tokens;
  q.limit = (int64_t)x->n + s->sample_tokens;
  q.ignore_eos = 1; /* the number of calls, in which ranks gather, hangs on no token */
  q.sample.temperature = 0.8;
  q.sample.top_p = 0.95;
  q.sample.seed = s->seed;
  q.stream = (uint64_t)step;
  q.got = on_piece;
  q.ctx = &k;
  rp_str_clear(&x->text);
  rp_str_add(&x->text, x->prompt);
  RP_TRY(rp_generator_add(x->generator, &q, NULL, err));
  RP_TRY(rp_generator_run(x->generator, NULL, err));
  if (k.st) return k.st;
  if (x->text.failed) return rp_fail_memory(err, 64, "a sample of text");
  *text = x->text.s;
  return RP_OK;
}
