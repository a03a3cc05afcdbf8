// spm.cc - SentencePiece behind plain C. No exception leaves this file. Built only where
// SentencePiece is; spm_none.c stands in for it elsewhere.
#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <vector>

extern "C" {
#include "base/str.h"
#include "text/spm.h"
}

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

namespace sentencepiece {
namespace logging {
// Not in a public header, but exported; without it the library would write to stderr.
__attribute__((weak)) void SetMinLogLevel(int level);
}  // namespace logging
}  // namespace sentencepiece

struct rp_spm {
  sentencepiece::SentencePieceProcessor p;
};

namespace {

void silence() {
  if (&sentencepiece::logging::SetMinLogLevel) sentencepiece::logging::SetMinLogLevel(3);
}

std::string one_line(std::string s) {
  for (char &c : s)
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  return s;
}

rp_status copy_out(const std::string &s, char **text, size_t *len, rp_error *err) {
  *text = static_cast<char *>(rp_malloc(s.size() + 1, 1));
  if (!*text) return rp_fail_memory(err, s.size() + 1, "a text");
  std::memcpy(*text, s.data(), s.size());
  (*text)[s.size()] = '\0';
  *len = s.size();
  return RP_OK;
}

// Pulls sentences from the caller; the first failure ends the input and is kept.
class Sentences : public sentencepiece::SentenceIterator {
 public:
  Sentences(const rp_spm_train_spec *spec, rp_error *err) : spec_(spec), err_(err) { Next(); }
  bool done() const override { return done_; }
  void Next() override {
    const char *s = nullptr;
    size_t len = 0;
    status_ = spec_->next(spec_->ctx, &s, &len, err_);
    done_ = status_ != RP_OK || !s;
    if (!done_) value_.assign(s, len);
    if (!done_) count_++;
  }
  const std::string &value() const override { return value_; }
  sentencepiece::util::Status status() const override { return sentencepiece::util::Status(); }
  rp_status failed() const { return status_; }
  uint64_t count() const { return count_; }

 private:
  const rp_spm_train_spec *spec_;
  rp_error *err_;
  std::string value_;
  rp_status status_ = RP_OK;
  uint64_t count_ = 0;
  bool done_ = false;
};

// One string: the variant that takes a map would make this library export the map's code.
std::string train_args(const rp_spm_train_spec *spec) {
  char coverage[32];
  rp_format_f64(coverage, spec->coverage, true);
  return "--model_type=bpe --byte_fallback=true --normalization_rule_name=identity"
         " --remove_extra_whitespaces=false --add_dummy_prefix=true"
         " --allow_whitespace_only_pieces=true --max_sentence_length=1000000"
         " --unk_id=0 --bos_id=1 --eos_id=2 --pad_id=-1 --minloglevel=3"
         " --vocab_size=" +
         std::to_string(spec->vocab_size) + " --character_coverage=" + coverage +
         " --split_digits=" + (spec->split_digits ? "true" : "false");
}

}  // namespace

rp_status rp_spm_open(rp_spm **out, const void *proto, size_t len, const char *name,
                      rp_error *err) {
  *out = nullptr;
  silence();
  rp_spm *s = nullptr;
  try {
    s = new rp_spm;
    const auto st = s->p.LoadFromSerializedProto({static_cast<const char *>(proto), len});
    if (!st.ok()) {
      rp_fail(err, RP_BAD_DATA, "%s: not a SentencePiece model (%s); name a tokenizer.model file",
              name, one_line(st.ToString()).c_str());
      delete s;
      return RP_BAD_DATA;
    }
    *out = s;
    return RP_OK;
  } catch (const std::bad_alloc &) {
    delete s;
    return rp_fail_memory(err, len, "a tokenizer");
  } catch (const std::exception &e) {
    delete s;
    return rp_fail(err, RP_BAD_DATA, "%s: not a SentencePiece model (%s)", name, e.what());
  }
}

void rp_spm_close(rp_spm *s) { delete s; }

rp_status rp_spm_encode(const rp_spm *s, const char *text, size_t len, rp_ids *out, rp_error *err) {
  try {
    std::vector<int> ids;
    const auto st = s->p.Encode({text, len}, &ids);
    if (!st.ok())
      return rp_fail(err, RP_FAIL, "SentencePiece cannot encode a text of %zu bytes: %s", len,
                     one_line(st.ToString()).c_str());
    RP_TRY(rp_grow(&out->id, &out->cap, out->n + ids.size(), sizeof *out->id, "token ids", err));
    for (int id : ids) out->id[out->n++] = id;
    return RP_OK;
  } catch (const std::exception &) {
    return rp_fail_memory(err, len * sizeof(int), "encoding a text");
  }
}

rp_status rp_spm_decode(const rp_spm *s, const int32_t *ids, size_t n, char **text, size_t *len,
                        rp_error *err) {
  try {
    std::string out;
    const auto st = s->p.Decode(std::vector<int>(ids, ids + n), &out);
    if (!st.ok())
      return rp_fail(err, RP_FAIL, "SentencePiece cannot decode %zu ids: %s", n,
                     one_line(st.ToString()).c_str());
    return copy_out(out, text, len, err);
  } catch (const std::exception &) {
    return rp_fail_memory(err, n * sizeof(int), "decoding ids");
  }
}

int rp_spm_size(const rp_spm *s) { return s->p.GetPieceSize(); }
int rp_spm_unk(const rp_spm *s) { return s->p.unk_id(); }
int rp_spm_bos(const rp_spm *s) { return s->p.bos_id(); }
int rp_spm_eos(const rp_spm *s) { return s->p.eos_id(); }
bool rp_spm_is_control(const rp_spm *s, int id) { return s->p.IsControl(id); }
bool rp_spm_is_byte(const rp_spm *s, int id) { return s->p.IsByte(id); }

const char *rp_spm_piece(const rp_spm *s, int id, size_t *len) {
  const std::string &piece = s->p.IdToPiece(id);
  *len = piece.size();
  return piece.c_str();
}

int rp_spm_id(const rp_spm *s, const char *piece, size_t len) {
  return s->p.PieceToId({piece, len});
}

rp_status rp_spm_train(const rp_spm_train_spec *spec, char **proto, size_t *len, rp_error *err) {
  *proto = nullptr;
  silence();
  try {
    std::string model;
    Sentences sentences(spec, err);
    if (sentences.failed()) return sentences.failed();
    if (sentences.done())
      return rp_fail(err, RP_BAD_DATA, "the input holds no text to learn a vocabulary from");
    const auto st =
        sentencepiece::SentencePieceTrainer::Train(train_args(spec), &sentences, &model);
    if (sentences.failed()) return sentences.failed();
    if (!st.ok())
      return rp_fail(err, RP_USAGE, "a vocabulary of %d could not be learned from %llu lines: %s",
                     spec->vocab_size, static_cast<unsigned long long>(sentences.count()),
                     one_line(st.ToString()).c_str());
    return copy_out(model, proto, len, err);
  } catch (const std::bad_alloc &) {
    return rp_fail_memory(err, 0, "learning a vocabulary; use less text (--max-bytes)");
  } catch (const std::exception &e) {
    return rp_fail(err, RP_FAIL, "learning a vocabulary failed: %s", e.what());
  }
}
