/* loader.c - micro-batches of one share, in the order that makes a run repeatable. */
#include "data/loader.h"

#include <string.h>

enum { IGNORE = -100 };

struct rp_loader {
  rp_load_settings s; /* file names are not used after opening */
  rp_tokens ids;      /* the language-model file, or the SFT inputs */
  rp_tokens labels;   /* SFT only */
  bool is_sft, is_random;
  int64_t n;       /* random: offsets or rows are drawn from [0, n) */
  int64_t first;   /* ordered: first sample of this share */
  int64_t samples; /* of this share in one epoch */
  int64_t served;  /* micro-batches since the start */
  int64_t at;
  uint32_t seed;
  rp_mt19937 mt;
  int32_t *window; /* [T + 1] */
};

uint64_t rp_loader_draw(rp_mt19937 *m, uint64_t n) {
  uint64_t x = rp_mt_next(m);
  if (n >= (uint64_t)1 << 28) x = x << 32 | rp_mt_next(m);
  return x % n;
}

static rp_status check_settings(const rp_load_settings *s, int share, int shares, rp_error *err) {
  if (s->T < 1 || s->batch < 1 || s->global_batch < 1)
    return rp_fail(
        err, RP_USAGE,
        "data.seq_len is %d, data.batch_size %d and data.global_batch_size %d; each must "
        "be at least 1",
        s->T, s->batch, s->global_batch);
  if (shares < 1 || share < 0 || share >= shares)
    return rp_fail(err, RP_USAGE, "share %d of %d does not exist; check data.shards", share,
                   shares);
  if (s->global_batch % ((int64_t)s->batch * shares))
    return rp_fail(err, RP_USAGE,
                   "data.global_batch_size %d is not a multiple of data.batch_size %d times %d "
                   "shards",
                   s->global_batch, s->batch, shares);
  if (s->limit_tokens < -1)
    return rp_fail(err, RP_USAGE, "limit_tokens is %lld; use -1 for all, or a number of tokens",
                   (long long)s->limit_tokens);
  return RP_OK;
}

static rp_status open_sft(rp_loader *l, rp_error *err) {
  const rp_load_settings *s = &l->s;
  RP_TRY(rp_tokens_open(&l->ids, s->input, s->num_bytes, true, s->V, err));
  RP_TRY(rp_tokens_open(&l->labels, s->label, s->num_bytes, true, s->V, err));
  const rp_tokens *both[] = {&l->ids, &l->labels};
  for (int i = 0; i < 2; i++)
    if (both[i]->tokens % s->T)
      return rp_fail(
          err, RP_BAD_DATA,
          "%s: %lld ids are not whole samples of seq_len %d; use the length or num_bytes "
          "the file was made with",
          both[i]->path, (long long)both[i]->tokens, s->T);
  if (l->ids.tokens != l->labels.tokens)
    return rp_fail(
        err, RP_BAD_DATA,
        "%s holds %lld samples but %s holds %lld; inputs and labels must be made together",
        l->ids.path, (long long)(l->ids.tokens / s->T), l->labels.path,
        (long long)(l->labels.tokens / s->T));
  l->n = l->ids.tokens / s->T;
  return RP_OK;
}

static rp_status open_lm(rp_loader *l, rp_error *err) {
  const rp_load_settings *s = &l->s;
  RP_TRY(rp_tokens_open(&l->ids, s->file, s->num_bytes, false, s->V, err));
  l->n = l->ids.tokens - s->T - 1;
  if (l->is_random && l->n < 1)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: %lld tokens are too few for random windows of seq_len %d, which need %lld",
                   l->ids.path, (long long)l->ids.tokens, s->T, (long long)s->T + 2);
  return RP_OK;
}

/* How many samples one epoch of this share has, and where they begin. */
static rp_status set_length(rp_loader *l, int share, int shares, rp_error *err) {
  const rp_load_settings *s = &l->s;
  int64_t step = (int64_t)s->T * s->global_batch;
  int64_t have = l->is_sft ? l->ids.tokens : l->ids.tokens - 1;
  int64_t limit = s->limit_tokens == -1 ? have : s->limit_tokens;
  int64_t used = limit / step * step, fits = have / step * step;
  if (used == 0 || (!l->is_random && fits == 0))
    return rp_fail(
        err, limit < have ? RP_USAGE : RP_BAD_DATA,
        "%s: %lld tokens (%s) are less than one global batch of %d sequences of %d (%lld "
        "tokens)%s; lower global_batch_size or seq_len, or use more text",
        l->ids.path, (long long)(limit < have ? limit : have),
        limit < have ? "limit_tokens" : "the whole file", s->global_batch, s->T, (long long)step,
        l->is_sft ? "" : " and the token after it");
  if (!l->is_random && used > have)
    return rp_fail(err, RP_USAGE,
                   "%s: limit_tokens %lld is more than the file holds; the largest that fits is "
                   "limit_tokens=%lld (or -1 for all)",
                   l->ids.path, (long long)s->limit_tokens, (long long)fits);
  l->samples = used / s->T / shares;
  l->first = l->samples * share;
  return RP_OK;
}

/* Ids outside the vocabulary are found before the first step, in what this loader may read. */
static rp_status scan_files(const rp_loader *l, int shares, rp_error *err) {
  int64_t n = l->ids.tokens;
  if (!l->is_random) n = l->samples * shares * l->s.T + (l->is_sft ? 0 : 1);
  RP_TRY(rp_tokens_scan(&l->ids, 0, n, 0, l->s.V, err));
  if (l->is_sft) RP_TRY(rp_tokens_scan(&l->labels, 0, n, IGNORE, l->s.V, err));
  return RP_OK;
}

rp_status rp_loader_open(rp_loader **out, const rp_load_settings *s, int share, int shares,
                         rp_error *err) {
  rp_status st = RP_OK;
  rp_loader *l = NULL;
  *out = NULL;
  RP_TRY(check_settings(s, share, shares, err));
  l = rp_calloc(1, sizeof *l);
  if (!l) return rp_fail_memory(err, sizeof *l, "a loader");
  l->s = *s;
  l->is_sft = s->name == RP_LOAD_SFT_RANDOM || s->name == RP_LOAD_SFT_ORDERED;
  l->is_random = s->name == RP_LOAD_LM_RANDOM || s->name == RP_LOAD_SFT_RANDOM;
  l->seed = s->seed + (uint32_t)share;
  RP_GO(l->is_sft ? open_sft(l, err) : open_lm(l, err));
  RP_GO(set_length(l, share, shares, err));
  RP_GO(scan_files(l, shares, err));
  l->window = rp_malloc((size_t)s->T + 1, sizeof *l->window);
  if (!l->window) RP_GO(rp_fail_memory(err, ((size_t)s->T + 1) * sizeof *l->window, "a window"));
  rp_mt_seed(&l->mt, l->seed);
  *out = l;
  return RP_OK;
fail:
  rp_loader_close(l);
  return st;
}

void rp_loader_close(rp_loader *l) {
  if (!l) return;
  rp_tokens_close(&l->ids);
  rp_tokens_close(&l->labels);
  rp_free(l->window);
  rp_free(l);
}

int64_t rp_loader_batches(const rp_loader *l) { return l->samples / l->s.batch; }

/* First token (of the file) of the b-th sample of the micro-batch about to be served. */
static int64_t sample_at(rp_loader *l, int b) {
  if (l->is_random) {
    int64_t k = (int64_t)rp_loader_draw(&l->mt, (uint64_t)l->n);
    return l->is_sft ? k * l->s.T : k;
  }
  int64_t k = l->served % rp_loader_batches(l) * l->s.batch + b;
  return (l->first + k) * l->s.T;
}

/* ids [T], labels [T] */
static rp_status read_lm(const rp_loader *l, int64_t at, int32_t *ids, int32_t *labels,
                         rp_error *err) {
  const int T = l->s.T;
  RP_TRY(rp_tokens_get(&l->ids, at, (int64_t)T + 1, 0, l->s.V, l->window, err));
  memcpy(ids, l->window, (size_t)T * sizeof *ids);
  for (int t = 0; t < T; t++) labels[t] = ids[t] == l->s.ignore_input ? IGNORE : l->window[t + 1];
  return RP_OK;
}

static rp_status read_sft(const rp_loader *l, int64_t at, int32_t *ids, int32_t *labels,
                          rp_error *err) {
  const int T = l->s.T;
  RP_TRY(rp_tokens_get(&l->ids, at, T, 0, l->s.V, ids, err));
  RP_TRY(rp_tokens_get(&l->labels, at, T, IGNORE, l->s.V, labels, err));
  for (int t = 0; t < T; t++)
    if (labels[t] < 0 && labels[t] != IGNORE)
      return rp_fail(err, RP_BAD_DATA, "%s: label %d of sample %lld is %d, neither an id nor %d",
                     l->labels.path, t, (long long)(at / T), labels[t], IGNORE);
  return RP_OK;
}

rp_status rp_loader_next(rp_loader *l, int32_t *ids, int32_t *labels, rp_error *err) {
  const int T = l->s.T;
  for (int b = 0; b < l->s.batch; b++) {
    int64_t at = sample_at(l, b);
    size_t row = (size_t)b * (size_t)T;
    if (b == 0) l->at = at;
    rp_status st = l->is_sft ? read_sft(l, at, ids + row, labels + row, err)
                             : read_lm(l, at, ids + row, labels + row, err);
    if (st) return rp_fail_at(err, "micro-batch %lld, sample %d", (long long)l->served, b);
  }
  l->served++;
  return RP_OK;
}

rp_status rp_loader_seek(rp_loader *l, int64_t micro_batches) {
  if (micro_batches < 0) return RP_USAGE;
  if (l->is_random) {
    rp_mt_seed(&l->mt, l->seed);
    for (int64_t i = 0; i < micro_batches * l->s.batch; i++) rp_loader_draw(&l->mt, (uint64_t)l->n);
  }
  l->served = micro_batches;
  return RP_OK;
}

int64_t rp_loader_at(const rp_loader *l) { return l->at; }
