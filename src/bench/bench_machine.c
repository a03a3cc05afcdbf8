/* bench_machine.c - what the machine can do: products and memory, by one thread and by all. */
#include <string.h>

#include "base/cpu.h"
#include "base/json.h"
#include "bench/figure.h"
#include "bench/place.h"
#include "ops/cpu/products.h"
#include "ops/rate.h"
#include "ratplus/info.h"

/* One line of the result: rates in FLOP/s or bytes/s, with 1 thread and with all. */
typedef struct {
  const char *name, *unit;
  double one, all;
} rate;

enum { RATES = 5 };

/* By a device opened anew: it keeps the threads and the way that it was opened with. way -1: float32. */
static rp_status product(const char *device, int way, double seconds, double *out, rp_error *err) {
  rp_device *d;
  rp_bf16_way_force(way);
  rp_status st = rp_bench_device(&d, device, true, err);
  rp_bf16_way_force(-1);
  if (st) return st;
  st = rp_product_rate(d, way < 0 ? RP_F32 : RP_BF16, seconds, out, err);
  rp_device_close(d);
  return st;
}

/* With as many threads as are in force now. A level by name has no library, whose way dot is. */
static rp_status measure(rp_device *d, const char *device, double seconds, double out[RATES],
                         rp_error *err) {
  const bool library = rp_products_there() && strncmp(rp_device_name(d), "cpu-", 4) != 0;
  out[1] = 0;
  RP_TRY(product(device, -1, seconds, &out[0], err));
  if (library && rp_cpu_now() == RP_CPU_AVX512_BF16)
    RP_TRY(product(device, RP_BF16_DOT, seconds, &out[1], err));
  RP_TRY(product(device, RP_BF16_WIDEN, seconds, &out[2], err));
  return rp_memory_rate(d, seconds, &out[3], &out[4], err);
}

static void add_text(rp_str *b, const rate *r, int threads) {
  rp_str_addf(b, "%-24s %12s %9d threads\n", "", "1 thread", threads);
  for (int i = 0; i < RATES; i++) {
    if (r[i].all == 0)
      rp_str_addf(b, "%-24s %12s\n", r[i].name, "-");
    else
      rp_str_addf(b, "%-24s %12.1f %12.1f %s\n", r[i].name, r[i].one * 1e-9, r[i].all * 1e-9,
                  r[i].unit);
  }
}

static void add_json(rp_str *b, const rate *r, int threads) {
  static const char *const keys[RATES] = {"product_float32", "product_bfloat16_dot",
                                          "product_bfloat16_widen", "memory_read", "memory_copy"};
  rp_str_add(b, "{\"cpu\":");
  rp_json_add_string(b, rp_cpu()->name);
  rp_str_addf(b, ",\"level\":\"%s\",\"threads\":%d,\"bfloat16\":\"%s\"",
              rp_cpu_level_name(rp_cpu_now()), threads, rp_bf16_way_name(rp_bf16_way_now(NULL)));
  for (int i = 0; i < RATES; i++) {
    if (r[i].all == 0) continue;
    rp_str_addf(b, ",\"%s\":{\"one\":%.6g,\"all\":%.6g}", keys[i], r[i].one, r[i].all);
  }
  rp_str_add(b, "}\n");
}

/* ---- a GPU ---- */

static rp_status gpu_text(const rp_bench_opts *o, const rp_device *d, const double *product,
                          double read, double copy, char **text, rp_error *err) {
  rp_str b = {0};
  if (o->json) {
    rp_str_add(&b, "{\"device\":\"cuda\",\"processor\":");
    rp_json_add_string(&b, rp_device_label(d));
    rp_str_addf(&b,
                ",\"product_float32\":%.6g,\"product_bfloat16\":%.6g,\"memory_read\":%.6g,"
                "\"memory_copy\":%.6g}\n",
                product[0], product[1], read, copy);
  } else {
    rp_str_addf(&b,
                "%s\nproduct float32          %12.1f GFLOP/s\n"
                "product bfloat16         %12.1f GFLOP/s\n"
                "memory, read             %12.1f GB/s\nmemory, copy             %12.1f GB/s\n",
                rp_device_label(d), product[0] * 1e-9, product[1] * 1e-9, read * 1e-9, copy * 1e-9);
  }
  *text = rp_str_take(&b);
  return *text ? RP_OK : rp_fail_memory(err, 1024, "the benchmark's table");
}

static rp_status bench_gpu(const rp_bench_opts *o, rp_device *d, double seconds, char **text,
                           rp_error *err) {
  rp_limits l = {0};
  RP_TRY(rp_limits_measure(&l, d, RP_F32, seconds, err));
  RP_TRY(rp_limits_measure(&l, d, RP_BF16, seconds, err));
  return gpu_text(o, d, l.product, l.read, l.copy, text, err);
}

/* ---- a processor ---- */

static rp_status bench_processor(const rp_bench_opts *opts, rp_device *d, double seconds,
                                 char **text, rp_error *err) {
  rate r[RATES] = {{"product float32", "GFLOP/s", 0, 0},
                   {"product bfloat16, dot", "GFLOP/s", 0, 0},
                   {"product bfloat16, widen", "GFLOP/s", 0, 0},
                   {"memory, read", "GB/s", 0, 0},
                   {"memory, copy", "GB/s", 0, 0}};
  double one[RATES], all[RATES];
  const int threads = rp_threads();
  rp_status st = measure(d, opts->device, seconds, all, err);
  if (!st && threads > 1) {
    rp_threads_set(1);
    st = measure(d, opts->device, seconds, one, err);
    rp_threads_set(threads);
  }
  if (st) return st;
  for (int i = 0; i < RATES; i++) {
    r[i].all = all[i];
    r[i].one = threads > 1 ? one[i] : all[i];
  }
  rp_str b = {0};
  if (opts->json) {
    add_json(&b, r, threads);
  } else {
    char *machine;
    RP_TRY(rp_info_machine(0, &machine, err));
    rp_str_add(&b, machine);
    rp_free(machine);
    add_text(&b, r, threads);
  }
  *text = rp_str_take(&b);
  return *text ? RP_OK : rp_fail_memory(err, 4096, "the benchmark's table");
}

rp_status rp_bench_machine(const rp_bench_opts *opts, char **text, rp_error *err) {
  rp_bench_opts o;
  rp_device *d;
  rp_bench_defaults(&o);
  if (opts) o = *opts;
  *text = NULL;
  const double seconds = o.seconds > 0 ? o.seconds : 2;
  RP_TRY(rp_bench_device(&d, o.device, true, err));
  const rp_status st = rp_device_apart(d) ? bench_gpu(&o, d, seconds, text, err)
                                          : bench_processor(&o, d, seconds, text, err);
  rp_device_close(d);
  return st;
}
