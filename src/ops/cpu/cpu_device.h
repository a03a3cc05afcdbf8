/* cpu_device.h - the CPU as something that runs ops: a table of drivers, the products, threads.
 * Devices cpu, ref, ref64 and guard are made of it. Threads are those of rp_threads() when it was opened. */
#ifndef RP_OPS_CPU_DEVICE_H
#define RP_OPS_CPU_DEVICE_H

#include "ops/backend.h"
#include "ops/cpu/kern.h"
#include "ops/cpu/products.h"

typedef struct {
  const rp_cpu_table *table;
  rp_products *products; /* NULL: the level's own */
  rp_bf16_way way;       /* widen: bfloat16 is the level's own too */
  int threads;
  rp_dtype real;
} rp_cpu_engine;

/* level: of the drivers. library: products by oneDNN where it is built in. */
rp_status rp_cpu_engine_open(rp_cpu_engine *e, rp_cpu_level level, bool library, rp_error *err);
/* The plain C in double. */
void rp_cpu_engine_ref64(rp_cpu_engine *e);
void rp_cpu_engine_close(rp_cpu_engine *e);

bool rp_cpu_engine_has(const rp_cpu_engine *e, rp_op op);
size_t rp_cpu_engine_scratch(const rp_cpu_engine *e, rp_op op, const void *args);
/* Runs one op now. Errors go to err, where nothing may be yet. */
void rp_cpu_engine_run(const rp_cpu_engine *e, uint8_t *scratch, size_t bytes, rp_op op,
                       const void *args, rp_error *err);
void rp_cpu_engine_copy(const rp_cpu_engine *e, const rp_copy *c);

/* A device of any level without oneDNN, for tests and benchmarks; level above rp_cpu_best fails. */
rp_status rp_cpu_device_open(rp_device **d, rp_cpu_level level, rp_error *err);

#endif
