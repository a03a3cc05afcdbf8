/* agree.c - what ranks must be of one mind about before they go on. */
#include <string.h>

#include "base/str.h"
#include "dist/comm.h"

static rp_status fail_as(rp_comm *c, int rank, bool all, const rp_error *own, rp_error *err) {
  rp_error told = own ? *own : (rp_error){0};
  _Static_assert(sizeof told.text % 8 == 0, "a sentence travels in whole words");
  RP_TRY(rp_comm_host_run(c, RP_COMM_BROADCAST, RP_I64, told.text, told.text, sizeof told.text / 8,
                          rank, err));
  told.text[sizeof told.text - 1] = 0;
  if (all) return rp_fail(err, told.status, "%s", told.text);
  return rp_fail(err, told.status, "rank %d on %s: %s", rank, rp_comm_host(c, rank), told.text);
}

rp_status rp_comm_agree(rp_comm *c, rp_status st, rp_error *err) {
  bool here;
  rp_error unread = {0};
  if (!c || rp_comm_size(c) == 1) return st;
  if (!err) err = &unread;
  if (rp_comm_failure(c, &here, NULL)) return st ? st : rp_comm_failure(c, &here, err);
  const int n = rp_comm_size(c);
  int64_t mine = st;
  int64_t *all = rp_calloc((size_t)n, sizeof *all);
  if (!all) return rp_fail_memory(err, (size_t)n * sizeof *all, "an agreement");
  rp_status out = rp_comm_host_run(c, RP_COMM_GATHER, RP_I64, &mine, all, 1, 0, err);
  int first = -1, failed = 0;
  for (int r = n - 1; r >= 0 && !out; r--) {
    failed += all[r] != 0;
    if (all[r]) first = r;
  }
  if (!out && first >= 0) {
    rp_error own = *err;
    own.status = (rp_status)all[first];
    out = fail_as(c, first, failed == n, &own, err);
    rp_comm_settle(c);
  }
  rp_free(all);
  return out;
}

rp_status rp_comm_same(rp_comm *c, const char *what, const char *advice, uint64_t mine,
                       rp_error *err) {
  if (!c || rp_comm_size(c) == 1) return RP_OK;
  const int n = rp_comm_size(c);
  rp_status st = RP_OK;
  uint64_t *all = rp_calloc((size_t)n, sizeof *all);
  if (!all) return rp_fail_memory(err, (size_t)n * sizeof *all, "an agreement");
  st = rp_comm_host_run(c, RP_COMM_GATHER, RP_I64, &mine, all, 1, 0, err);
  for (int r = 1; r < n && !st; r++) {
    if (all[r] == all[0]) continue;
    st = rp_fail(err, RP_USAGE, "rank %d on %s has another %s than rank 0 on %s; %s", r,
                 rp_comm_host(c, r), what, rp_comm_host(c, 0), advice);
    rp_comm_settle(c);
  }
  rp_free(all);
  return st;
}
