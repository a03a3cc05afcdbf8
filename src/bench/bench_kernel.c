/* bench_kernel.c - the registry's cases at the sizes of a model: each beside the plain C level,
 * turn by turn, and against what bounds it. */
#include "base/cpu.h"
#include "base/log.h"
#include "bench/rate.h"
#include "ops/cpu/cpu_device.h"
#include "ops/registry.h"

enum { MOST_ROUNDS = 200, MOST_ROWS = 2 * RP_OP_COUNT };

typedef struct {
  rp_op op;
  bool bf16;
  double seconds, plain; /* of one run; plain 0: not run */
  double flops, bytes;
  double share;
  bool by_memory; /* what bounds it */
} row;

typedef struct {
  double product[2]; /* float32, bfloat16 */
  double memory;
} limits;

typedef struct {
  rp_device *d;
  rp_queue *q;
  rp_case_run run;
} side;

static void side_close(side *s) {
  if (s->q) rp_case_close(&s->run);
  rp_queue_close(s->q);
  rp_device_close(s->d);
  *s = (side){0};
}

static rp_status device_named(const char *name, rp_device **d, rp_error *err) {
  if (!name || strcmp(name, "cpu") == 0) return rp_device_open(d, RP_DEVICE_CPU, err);
  if (strcmp(name, "guard") == 0) return rp_device_open(d, RP_DEVICE_GUARD, err);
  for (int i = 0; i < RP_CPU_LEVELS; i++)
    if (strcmp(name, rp_cpu_level_name((rp_cpu_level)i)) == 0)
      return rp_cpu_device_open(d, (rp_cpu_level)i, err);
  return rp_fail(err, RP_USAGE, "%s: no such device; choose cpu, guard, ref, avx2 or avx512", name);
}

static rp_status side_open(side *s, const char *device, const rp_case *c, rp_error *err) {
  *s = (side){0};
  RP_TRY(device_named(device, &s->d, err));
  RP_TRY(rp_queue_open(&s->q, s->d, err));
  return rp_case_open(&s->run, c, s->q, -1, err);
}

static rp_status once(side *s, double *seconds, rp_error *err) {
  const double t = rp_now();
  rp_case_put(&s->run);
  RP_TRY(rp_wait(s->q, err));
  *seconds = rp_now() - t;
  return RP_OK;
}

/* In turns, so that what slows the machine down slows both. */
static rp_status time_pair(side *a, side *b, double seconds, row *r, rp_error *err) {
  double x[MOST_ROUNDS], y[MOST_ROUNDS];
  int n = 0;
  RP_TRY(once(a, &x[0], err)); /* warms up */
  RP_TRY(once(b, &y[0], err));
  const double from = rp_now();
  do {
    RP_TRY(once(a, &x[n], err));
    RP_TRY(once(b, &y[n], err));
    n++;
  } while (n < MOST_ROUNDS && rp_now() - from < seconds);
  r->seconds = rp_bench_median(x, n);
  r->plain = rp_bench_median(y, n);
  return RP_OK;
}

static rp_status bench_case(row *r, const rp_bench_opts *o, const limits *m, rp_error *err) {
  rp_case c;
  side a = {0}, b = {0};
  rp_status st = RP_OK;
  rp_case_make(&c, r->op, 1, r->bf16, true);
  RP_GO(side_open(&a, o->device, &c, err));
  RP_GO(side_open(&b, "ref", &c, err));
  RP_GO(time_pair(&a, &b, o->seconds > 0 ? o->seconds : 0.5, r, err));
  r->flops = c.flops;
  r->bytes = rp_case_traffic(&a.run);
  const double product = r->flops / m->product[r->bf16], memory = r->bytes / m->memory;
  r->by_memory = memory > product;
  r->share = (r->by_memory ? memory : product) / r->seconds;
fail:
  side_close(&a);
  side_close(&b);
  return st;
}

static void add_text(rp_str *b, const row *rows, int n, const limits *m) {
  rp_str_addf(b, "limits: products %.0f GFLOP/s float32, %.0f bfloat16; memory %.1f GB/s\n",
              m->product[0] * 1e-9, m->product[1] * 1e-9, m->memory * 1e-9);
  rp_str_add(b, "op          dtype          ms   plain ms  GFLOP/s     GB/s  share of\n");
  for (int i = 0; i < n; i++) {
    const row *r = &rows[i];
    rp_str_addf(b, "%-11s %-8s %9.3f %10.3f %8.1f %8.1f %5.1f%% %s\n", rp_op_name(r->op),
                rp_dtype_name(r->bf16 ? RP_BF16 : RP_F32), r->seconds * 1e3, r->plain * 1e3,
                r->flops / r->seconds * 1e-9, r->bytes / r->seconds * 1e-9, 100 * r->share,
                r->by_memory ? "memory" : "products");
  }
}

static void add_json(rp_str *b, const row *rows, int n, const limits *m) {
  rp_str_addf(b, "{\"product_float32\":%.6g,\"product_bfloat16\":%.6g,\"memory\":%.6g,\"ops\":[",
              m->product[0], m->product[1], m->memory);
  for (int i = 0; i < n; i++) {
    const row *r = &rows[i];
    rp_str_addf(b,
                "%s{\"op\":\"%s\",\"dtype\":\"%s\",\"seconds\":%.6g,\"plain_seconds\":%.6g,"
                "\"flops\":%.6g,\"bytes\":%.6g,\"share\":%.4g,\"limit\":\"%s\"}",
                i ? "," : "", rp_op_name(r->op), rp_dtype_name(r->bf16 ? RP_BF16 : RP_F32),
                r->seconds, r->plain, r->flops, r->bytes, r->share,
                r->by_memory ? "memory" : "products");
  }
  rp_str_add(b, "]}\n");
}

/* The rows that `name` asks for; 0 when there is no such op. */
static int rows_of(const char *name, row *rows) {
  int n = 0;
  for (int op = 0; op < RP_OP_COUNT; op++) {
    rp_case c;
    if (name && strcmp(name, rp_op_name((rp_op)op))) continue;
    rp_case_make(&c, (rp_op)op, 1, false, true);
    rows[n++] = (row){.op = (rp_op)op};
    if (rp_case_computes(&c)) rows[n++] = (row){.op = (rp_op)op, .bf16 = true};
  }
  return n;
}

static rp_status no_op(const char *name, rp_error *err) {
  rp_str names = {0};
  for (int op = 0; op < RP_OP_COUNT; op++)
    rp_str_addf(&names, "%s%s", op ? ", " : "", rp_op_name((rp_op)op));
  const rp_status st =
      rp_fail(err, RP_USAGE, "%s: no such op; there are %s", name, names.s ? names.s : "none");
  rp_str_free(&names);
  return st;
}

rp_status rp_bench_kernel(const char *name, const rp_bench_opts *opts, char **text, rp_error *err) {
  rp_bench_opts o;
  row rows[MOST_ROWS];
  limits m;
  double read;
  rp_bench_defaults(&o);
  if (opts) o = *opts;
  *text = NULL;
  const int n = rows_of(name, rows);
  if (!n) return no_op(name, err);
  const double seconds = o.seconds > 0 && o.seconds < 1 ? o.seconds : 1;
  for (int i = 0; i < 2; i++)
    RP_TRY(rp_bench_product_rate(RP_DEVICE_CPU, i ? RP_BF16 : RP_F32, seconds, &m.product[i], err));
  RP_TRY(rp_bench_memory_rate(seconds, &read, &m.memory, err));
  for (int i = 0; i < n; i++) RP_TRY(bench_case(&rows[i], &o, &m, err));
  rp_str b = {0};
  if (o.json)
    add_json(&b, rows, n, &m);
  else
    add_text(&b, rows, n, &m);
  *text = rp_str_take(&b);
  return *text ? RP_OK : rp_fail_memory(err, 4096, "the benchmark's table");
}
