/* ops.c - the functions made from the list of ops: names, sizes, the way to a queue. */
#include "ops/ops.h"

#include "ops/backend.h"

const char *rp_op_name(rp_op op) {
  static const char *const names[] = {
#define RP_X(name) #name,
      RP_OPS(RP_X)
#undef RP_X
  };
  return op >= 0 && op < RP_OP_COUNT ? names[op] : "unknown";
}

size_t rp_op_args_bytes(rp_op op) {
  static const size_t bytes[] = {
#define RP_X(name) sizeof(rp_##name##_args),
      RP_OPS(RP_X)
#undef RP_X
  };
  return bytes[op];
}

void rp_repeat(rp_queue *q, rp_tensor t, int64_t have, int64_t n) {
  for (; have < n; have *= 2)
    rp_op_copy(q, &(rp_copy_args){.dst = rp_tensor_at(t, have).p,
                                  .src = t.p,
                                  .bytes = (size_t)(n - have < have ? n - have : have) *
                                           (size_t)rp_dtype_bytes(t.dtype)});
}

bool rp_device_has(const rp_device *d, rp_op op) { return d->kind->has(d, op); }

size_t rp_op_scratch(const rp_device *d, rp_op op, const void *args) {
  return d->kind->scratch(d, op, args);
}

static void put(rp_queue *q, rp_op op, const void *args) {
  if (q->err.status) return;
  if (!rp_device_has(q->d, op)) {
    rp_queue_fail(q, RP_FAIL, "op %s is not there on device %s", rp_op_name(op), q->d->name);
    return;
  }
  if (rp_op_check(q, op, args)) rp_queue_put(q, op, args);
}

#define RP_X(name) \
  void rp_op_##name(rp_queue *q, const rp_##name##_args *a) { put(q, RP_OP_##name, a); }
RP_OPS(RP_X)
#undef RP_X
