/* spm_none.c - stands in for spm.cc in a build without SentencePiece. */
#include "text/spm.h"

#if !RATPLUS_WITH_SENTENCEPIECE

static rp_status without(rp_error *err) {
  return rp_fail(err, RP_FAIL,
                 "this ratplus is built without SentencePiece; install libsentencepiece-dev and "
                 "build again");
}

rp_status rp_spm_open(rp_spm **out, const void *proto, size_t len, const char *name,
                      rp_error *err) {
  (void)proto, (void)len, (void)name;
  *out = NULL;
  return without(err);
}

void rp_spm_close(rp_spm *s) { (void)s; }

rp_status rp_spm_encode(const rp_spm *s, const char *text, size_t len, rp_ids *out, rp_error *err) {
  (void)s, (void)text, (void)len, (void)out;
  return without(err);
}

rp_status rp_spm_decode(const rp_spm *s, const int32_t *ids, size_t n, char **text, size_t *len,
                        rp_error *err) {
  (void)s, (void)ids, (void)n, (void)text, (void)len;
  return without(err);
}

int rp_spm_size(const rp_spm *s) { return (void)s, 0; }
int rp_spm_unk(const rp_spm *s) { return (void)s, -1; }
int rp_spm_bos(const rp_spm *s) { return (void)s, -1; }
int rp_spm_eos(const rp_spm *s) { return (void)s, -1; }
bool rp_spm_is_control(const rp_spm *s, int id) { return (void)s, (void)id, false; }
bool rp_spm_is_byte(const rp_spm *s, int id) { return (void)s, (void)id, false; }

const char *rp_spm_piece(const rp_spm *s, int id, size_t *len) {
  (void)s, (void)id;
  *len = 0;
  return "";
}

int rp_spm_id(const rp_spm *s, const char *piece, size_t len) {
  return (void)s, (void)piece, (void)len, -1;
}

rp_status rp_spm_train(const rp_spm_train_spec *spec, char **proto, size_t *len, rp_error *err) {
  (void)spec, (void)len;
  *proto = NULL;
  return without(err);
}

#endif
