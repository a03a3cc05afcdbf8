#include "session/origin.h"

rp_status rp_origin_make(rp_origin **out, rp_session *s, uint64_t need, uint64_t *reserved,
                         rp_error *err) {
  *out = rp_calloc(1, sizeof **out);
  if (!*out) {
    rp_session_close(s);
    return rp_fail_memory(err, sizeof **out, "a common beginning");
  }
  **out = (rp_origin){.s = s, .need = need, .users = 1};
  *reserved += need;
  return RP_OK;
}

bool rp_origin_drop(rp_origin *o, uint64_t *reserved) {
  if (!o || !o->s) return false;
  rp_session_close(o->s);
  o->s = NULL;
  *reserved -= o->need;
  o->need = 0;
  return true;
}

void rp_origin_leave(rp_origin *o, uint64_t *reserved) {
  if (!o || --o->users) return;
  rp_origin_drop(o, reserved);
  rp_free(o);
}

rp_session *rp_origin_take(rp_origin *o, uint64_t *reserved) {
  rp_session *s = NULL;
  if (o && o->s && o->users == 1) {
    s = o->s;
    o->s = NULL;
    *reserved -= o->need;
  } else if (o && o->s && rp_session_fork(&s, o->s, NULL)) {
    s = NULL;
  }
  rp_origin_leave(o, reserved);
  return s;
}

size_t rp_ids_agree(const int32_t *a, size_t n_a, const int32_t *b, size_t n_b) {
  const size_t most = n_a < n_b ? n_a : n_b;
  size_t n = 0;
  while (n < most && a[n] == b[n]) n++;
  return n;
}
