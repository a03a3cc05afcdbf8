/* registry.h - the cases of every op, in one place, for tests and for benchmarks.
 *
 * An op has one function in registry_ops.c that says, for sizes it draws, which tensors the op
 * takes and how large, what is in them, and how far the outputs may lie from those of ref64. A case
 * runs unchanged on any device: test_ops_registry.c compares every device and level with ref64, the
 * benchmark times the same case at sizes as models have them (registry_sizes.c). An op without a
 * case fails the tests.
 *
 *   static void norm(rp_case *c) {
 *     rp_norm_args *a = &c->args.norm;
 *     a->n = rp_case_size(c, 1, 70, tokens(c));       // tests draw 1..70, the benchmark's own
 *     a->d = rp_case_size(c, 1, 300, width(c));
 *     rp_case_in(c, &a->x, RP_CASE_REAL, (int64_t)a->n * a->d, 1);        // normal, spread 1
 *     rp_case_out(c, &a->y, RP_CASE_COMPUTE, (int64_t)a->n * a->d, a->d, 8);  // row, factor
 *     c->flops = 4.0 * a->n * a->d;
 *   }
 *
 * The tolerance of an output element is derived: factor * eps(real) * m, m the sum of the absolute
 * terms where the case gives it (terms), else the largest |value| of its row; and one unit in the last
 * place of a bfloat16 result. A case holds no device memory; one thread's. */
#ifndef RP_OPS_REGISTRY_H
#define RP_OPS_REGISTRY_H

#include "base/rng.h"
#include "ops/ops.h"

/* What a tensor's elements are. REAL and COMPUTE are those of the device and the case. */
typedef enum {
  RP_CASE_REAL,
  RP_CASE_COMPUTE,
  RP_CASE_F64,
  RP_CASE_I32,
  RP_CASE_BYTES
} rp_case_type;
typedef enum { RP_CASE_IN = 1, RP_CASE_OUT = 2, RP_CASE_INOUT = 3, RP_CASE_KEPT = 0 } rp_case_role;

typedef struct rp_case rp_case;
typedef struct {
  rp_case_type type;
  rp_case_role role;
  int64_t n, row;      /* elements; of a row, for the magnitude */
  double mean, spread; /* normal values of inputs; I32: uniform in [mean, mean + spread) */
  /* I32: element i, in place of random values; NULL. */
  int32_t (*entry)(const rp_case *c, int64_t i);
  double factor;     /* tolerance of outputs */
  double least;      /* size of the terms at least, where results cancel to 0 */
  const void *bytes; /* what it holds instead, in c->raw; NULL */
  size_t at[4];      /* where its address goes: offsets in rp_case */
  bool typed[4];     /* there is an rp_tensor, with a dtype */
  int places;
} rp_case_tensor;

typedef union {
#define RP_X(name) rp_##name##_args name;
  RP_OPS(RP_X)
#undef RP_X
} rp_op_args;

/* The address of tensor `to` goes into the given contents of tensor `in`, `at` bytes from its
 * start. */
typedef struct {
  int in, to;
  size_t at, plus; /* bytes into `to` that the address has */
} rp_case_link;

enum { RP_CASE_TENSORS = 20, RP_CASE_RAW = 8192, RP_CASE_LINKS = 128, RP_CASE_ROWS = 128 };

/* A size of a benchmark; d is H * h. */
typedef struct {
  bool step; /* a step of decoding: one new token (a product: one row) of each sequence */
  int32_t T,
      batch; /* tokens of a sequence, in a step with those before; at most RP_CASE_ROWS sequences */
  int32_t H, Hk, h; /* of a size that is listed H and Hk may be 0: as many as threads */
  rp_pat pat;       /* of every head */
  int32_t elements; /* of the ops that have none of these sizes; 0: 2^24 */
} rp_case_bench;

/* What of it an op's case reads; the rest is the op's own. */
enum { RP_CASE_BY_TOKENS = 1, RP_CASE_BY_WIDTH = 2, RP_CASE_BY_HEADS = 4, RP_CASE_BY_PATTERN = 8 };

struct rp_case {
  rp_op op;
  rp_op_args args;
  int before_op; /* an op that runs first and makes inputs of this one; -1: none */
  rp_op_args before;
  rp_case_tensor t[RP_CASE_TENSORS];
  int tensors;
  rp_case_link link[RP_CASE_LINKS];
  int links;
  bool bench, bf16; /* of the benchmark, at `size`; COMPUTE is bfloat16 */
  rp_case_bench size;
  uint64_t seed;
  rp_rng rng;
  double flops; /* of one run, for the share of the limit */
  double bytes; /* read and written; 0: every tensor once */
  bool
      reads; /* of these hardly any are written: the rate of reading is the limit, not of copying */
  /* Sum of absolute terms of element i of tensor t, from all tensors' values; NULL: row's
   * largest. */
  double (*terms)(const rp_case *c, double *const *values, int t, int64_t i);
  uint64_t raw[RP_CASE_RAW / 8];
  size_t raw_used; /* words */
};

/* A case of `op` for tests, by seed, and one for the benchmark. */
void rp_case_make(rp_case *c, rp_op op, uint64_t seed, bool bf16);
void rp_case_make_bench(rp_case *c, rp_op op, bool bf16, const rp_case_bench *size);
/* The sizes at which an op is timed where nobody names others, on a processor or on a GPU; *n of them,
 * at least one. */
const rp_case_bench *rp_case_benches(rp_op op, bool gpu, int *n);
unsigned rp_case_bench_by(rp_op op); /* RP_CASE_BY_* */
/* Whether some tensor of the case has the computed dtype, so that bf16 makes a difference. */
bool rp_case_computes(const rp_case *c);

/* For the functions in registry_ops.c. at: a tensor or pointer inside c->args or c->before; n
 * elements. */
int rp_case_size(rp_case *c, int low, int high, int bench);
/* Normal values of mean 0. */
rp_case_tensor *rp_case_in(rp_case *c, rp_tensor *at, rp_case_type type, int64_t n, double spread);
rp_case_tensor *rp_case_out(rp_case *c, rp_tensor *at, rp_case_type type, int64_t n, int64_t row,
                            double factor);
/* Behind a pointer; role and values are the caller's to set. */
rp_case_tensor *rp_case_at(rp_case *c, rp_ptr *at, rp_case_type type, int64_t n);
/* Given contents, copied. */
rp_case_tensor *rp_case_bytes(rp_case *c, rp_ptr *at, const void *bytes, size_t n);
/* The address `plus` bytes into `to` lies `at` bytes into what rp_case_bytes gave `in`. */
void rp_case_points(rp_case *c, rp_case_tensor *in, size_t at, const rp_case_tensor *to,
                    size_t plus);
/* The same tensor also goes there. */
void rp_case_also(rp_case *c, rp_case_tensor *t, rp_tensor *at);
void rp_case_also_at(rp_case *c, rp_case_tensor *t, rp_ptr *at);
/* The op's function; NULL: it has none. */
typedef void (*rp_case_fn)(rp_case *c);
rp_case_fn rp_case_of(rp_op op);

/* Value i of input t. */
double rp_case_value(const rp_case *c, int t, int64_t i);

/* ---- one case on one device ---- */

typedef struct {
  rp_queue *q;
  rp_case c;                      /* with addresses */
  rp_ptr memory;                  /* all tensors, each between guard bands */
  size_t offset[RP_CASE_TENSORS]; /* of each tensor */
  rp_dtype dtype[RP_CASE_TENSORS];
} rp_case_run;

/* Allocates, uploads the inputs (outputs hold NaN), reserves scratch, runs `before`. poison >= 0:
 * element `poison` of the first floating point input is NaN. */
rp_status rp_case_open(rp_case_run *r, const rp_case *c, rp_queue *q, int64_t poison,
                       rp_error *err);
void rp_case_put(rp_case_run *r); /* the op, on the queue */
/* Tensor t as doubles (whatever its type but BYTES). */
rp_status rp_case_read(rp_case_run *r, int t, double *out, rp_error *err);
/* RP_FAIL when a byte of a band changed. */
rp_status rp_case_bands(rp_case_run *r, rp_error *err);
void rp_case_close(rp_case_run *r); /* {0} is fine */
/* Bytes of device memory that a run of it takes, where float32 is `real`. */
size_t rp_case_memory(const rp_case *c, rp_dtype real);
/* Bytes that one run reads and writes at least, where float32 is `real`. */
double rp_case_traffic(const rp_case *c, rp_dtype real);

#endif
