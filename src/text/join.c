#include "text/join.h"

#include <string.h>

#include "base/rng.h"

enum { OPEN_MOST = 128, FEISTEL_ROUNDS = 6 };

typedef struct {
  const rp_join_spec *s;
  rp_part open[OPEN_MOST]; /* part p lies in slot p % OPEN_MOST */
  size_t holds[OPEN_MOST]; /* p + 1; 0: nothing */
  uint64_t *first;         /* [n + 1] documents before each part */
  uint64_t docs, tokens;
  int64_t documents[2]; /* in train.bin and val.bin */
} joiner;

typedef struct {
  const uint8_t *ids;
  uint64_t n;
} document;

uint64_t rp_shuffled(uint64_t seed, uint64_t n, uint64_t k) {
  int half = 1;
  while (half < 32 && (uint64_t)1 << (2 * half) < n) half++;
  const uint64_t mask = ((uint64_t)1 << half) - 1;
  /* A Feistel network permutes the next power of four; walking on from values beyond n keeps it a
   * bijection of [0, n). */
  do {
    uint64_t left = k >> half, right = k & mask;
    for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
      uint32_t r[4];
      rp_philox(seed, RP_RNG_SHUFFLE, round, right, r);
      const uint64_t mixed = left ^ (r[0] & mask);
      left = right;
      right = mixed;
    }
    k = left << half | right;
  } while (k >= n);
  return k;
}

static rp_status open_part(joiner *j, size_t p, const rp_part **out, rp_error *err) {
  const size_t slot = p % OPEN_MOST;
  if (j->holds[slot] != p + 1) {
    rp_part_close(&j->open[slot]);
    j->holds[slot] = 0;
    RP_TRY(rp_part_open(&j->open[slot], j->s->dir, j->s->names[p], err));
    j->holds[slot] = p + 1;
  }
  *out = &j->open[slot];
  return RP_OK;
}

/* The part that holds document d of all. */
static size_t part_of(const joiner *j, uint64_t d) {
  size_t lo = 0, hi = j->s->n;
  while (hi - lo > 1) {
    size_t mid = lo + (hi - lo) / 2;
    if (j->first[mid] <= d)
      lo = mid;
    else
      hi = mid;
  }
  return lo;
}

/* Document k of the output's order. */
static rp_status get_document(joiner *j, uint64_t k, document *out, rp_error *err) {
  const uint64_t d = j->s->shuffle ? rp_shuffled(j->s->seed, j->docs, k) : k;
  const size_t p = part_of(j, d), each = (size_t)j->s->num_bytes;
  const rp_part *part;
  RP_TRY(open_part(j, p, &part, err));
  const int64_t at = (int64_t)(d - j->first[p]);
  const uint64_t from = rp_part_end(part, at - 1), to = rp_part_end(part, at);
  if (from > to || to > part->ids.bytes / each)
    return rp_fail(err, RP_BAD_DATA, "%s/%s.idx: broken; remove %s and tokenize again", j->s->dir,
                   j->s->names[p], j->s->dir);
  *out = (document){part->ids.data + from * each, to - from};
  return RP_OK;
}

static rp_status count_all(joiner *j, rp_error *err) {
  j->first = rp_calloc(j->s->n + 1, sizeof *j->first);
  if (!j->first) return rp_fail_memory(err, (j->s->n + 1) * sizeof *j->first, "an index");
  for (size_t p = 0; p < j->s->n; p++) {
    rp_part_stats n;
    bool found;
    RP_TRY(rp_part_find(j->s->dir, j->s->names[p], j->s->num_bytes, &found, &n, err));
    if (!found)
      return rp_fail(err, RP_FAIL, "%s/%s.bin: gone or changed meanwhile; run the command again",
                     j->s->dir, j->s->names[p]);
    j->docs += n.docs;
    j->tokens += n.tokens;
    j->first[p + 1] = j->docs;
  }
  if (j->tokens == 0)
    return rp_fail(err, RP_BAD_DATA, "the input holds no text: every document is empty");
  return RP_OK;
}

/* Where the held-out part begins: document *k, its token *cut (0: whole). */
static rp_status find_cut(joiner *j, uint64_t *k, uint64_t *cut, rp_error *err) {
  uint64_t want = (uint64_t)j->s->val_tokens, have = 0;
  *k = j->docs;
  *cut = 0;
  if (j->s->val_share > 0) want = (uint64_t)(j->s->val_share * (double)j->tokens);
  if (j->s->val_share > 0 && want == 0) want = 1;
  if (want == 0) return RP_OK;
  if (want >= j->tokens)
    return rp_fail(err, RP_USAGE,
                   "%llu tokens held out of %llu leave none to train on; lower --val-tokens or "
                   "--val-share",
                   (unsigned long long)want, (unsigned long long)j->tokens);
  while (have < want) {
    document d;
    RP_TRY(get_document(j, --*k, &d, err));
    RP_TRY(rp_ticker_tick(j->s->ticker, err));
    /* A document that would more than double what was asked for, or leave nothing, is split. */
    if (have + d.n > 2 * want || *k == 0) *cut = have + d.n - want;
    have += d.n;
  }
  return RP_OK;
}

/* Beside the made result, then moved beside the final one. */
static rp_status write_sidecar(const joiner *j, const char *made, const char *final,
                               int64_t documents, int64_t tokens, rp_error *err) {
  rp_str b = {0}, from = {0}, to = {0};
  rp_str_addf(&from, "%s.json", made);
  rp_str_addf(&to, "%s.json", final);
  rp_str_addf(&b, "{\n  \"num_bytes\": %d,\n  \"vocab_size\": %d,\n", j->s->num_bytes,
              j->s->vocab_size);
  if (j->s->eos >= 0) rp_str_addf(&b, "  \"eos\": %d,\n", j->s->eos);
  rp_str_addf(&b, "  \"tokens\": %lld,\n  \"documents\": %lld,\n", (long long)tokens,
              (long long)documents);
  rp_str_addf(&b, "  \"tokenizer_sha256\": \"%s\",\n  \"made_from\": \"%s\"\n}\n",
              j->s->tokenizer_sha256, j->s->made_from);
  rp_status st = b.failed || from.failed || to.failed
                     ? rp_fail_memory(err, b.len, "a sidecar")
                     : rp_file_replace(from.s, b.s, b.len, true, err);
  if (!st) st = rp_rename(from.s, to.s, err);
  rp_str_free(&b);
  rp_str_free(&from);
  rp_str_free(&to);
  return st;
}

static void write_eos(const joiner *j, rp_out *o) {
  const uint32_t eos = (uint32_t)j->s->eos;
  uint8_t b[4] = {(uint8_t)eos, (uint8_t)(eos >> 8), (uint8_t)(eos >> 16), (uint8_t)(eos >> 24)};
  if (j->s->eos >= 0) rp_out_write(o, b, (size_t)j->s->num_bytes);
}

typedef struct {
  uint64_t from, to;               /* documents [from, to) */
  uint64_t skip_first, head_of_to; /* tokens left out of document `from`; taken of document `to` */
} range;

static rp_status write_documents(joiner *j, rp_out *o, range r, int64_t *documents, rp_error *err) {
  const size_t each = (size_t)j->s->num_bytes;
  document d;
  for (uint64_t k = r.from; k < r.to; k++) {
    const uint64_t skip = k == r.from ? r.skip_first : 0;
    RP_TRY(get_document(j, k, &d, err));
    rp_out_write(o, d.ids + skip * each, (size_t)(d.n - skip) * each);
    ++*documents;
    j->s->ticker->now.bytes += (int64_t)((d.n - skip) * each);
    RP_TRY(rp_ticker_tick(j->s->ticker, err));
  }
  if (r.head_of_to) {
    RP_TRY(get_document(j, r.to, &d, err));
    rp_out_write(o, d.ids, (size_t)r.head_of_to * each);
    write_eos(j, o);
    ++*documents;
  }
  return RP_OK;
}

/* One result: made among the parts, so that what an interruption leaves is cleared away with them,
 * then moved to its name after its sidecar. */
static rp_status write_result(joiner *j, const char *name, range r, int64_t *tokens,
                              rp_error *err) {
  rp_status st = RP_OK;
  rp_out *o = NULL;
  int64_t documents = 0;
  char *made = rp_path_join(j->s->dir, name), *final = rp_path_join(j->s->out, name);
  if (!made || !final) RP_GO(rp_fail_memory(err, strlen(j->s->out), "a path"));
  RP_GO(rp_out_open(&o, made, err));
  RP_GO(write_documents(j, o, r, &documents, err));
  *tokens = (int64_t)(rp_out_at(o) / (uint64_t)j->s->num_bytes);
  rp_out *closing = o;
  o = NULL;
  RP_GO(rp_out_commit(closing, err));
  RP_GO(write_sidecar(j, made, final, documents, *tokens, err));
  RP_GO(rp_rename(made, final, err));
fail:
  rp_out_cancel(o);
  rp_free(made);
  rp_free(final);
  return st;
}

static rp_status check_space(const joiner *j, rp_error *err) {
  char need[32], have[32];
  const uint64_t bytes = j->tokens * (uint64_t)j->s->num_bytes, room = rp_disk_free(j->s->out);
  if (room == 0 || room > bytes + (1 << 20)) return RP_OK;
  rp_format_bytes(need, (double)bytes);
  rp_format_bytes(have, (double)room);
  return rp_fail(err, RP_FAIL,
                 "%s: joining the parts takes %s and %s are free; make room and run the same "
                 "command again, what is tokenized is kept",
                 j->s->out, need, have);
}

rp_status rp_join(const rp_join_spec *s, int64_t *train_tokens, int64_t *val_tokens,
                  rp_error *err) {
  rp_status st = RP_OK;
  uint64_t k, cut;
  *train_tokens = *val_tokens = 0;
  joiner *j = rp_calloc(1, sizeof *j);
  if (!j) return rp_fail_memory(err, sizeof *j, "joining");
  j->s = s;
  RP_GO(count_all(j, err));
  RP_GO(check_space(j, err));
  s->ticker->now.bytes = 0;
  s->ticker->now.bytes_of = (int64_t)(j->tokens * (uint64_t)s->num_bytes);
  s->ticker->now.input = NULL;
  RP_GO(rp_ticker_phase(s->ticker, "joining", err));
  RP_GO(find_cut(j, &k, &cut, err));
  if (k < j->docs)
    RP_GO(write_result(j, "val.bin", (range){.from = k, .to = j->docs, .skip_first = cut},
                       val_tokens, err));
  RP_GO(write_result(j, "train.bin", (range){.from = 0, .to = k, .head_of_to = cut}, train_tokens,
                     err));
fail:
  for (int i = 0; i < OPEN_MOST; i++) rp_part_close(&j->open[i]);
  rp_free(j->first);
  rp_free(j);
  return st;
}
