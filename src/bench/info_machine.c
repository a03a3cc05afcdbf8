/* info_machine.c - what this machine is, as far as the program cares. Nothing is measured here, but
 * the way of bfloat16 products where no table knows the processor. */
#include "base/cpu.h"
#include "base/json.h"
#include "ops/cpu/products.h"
#include "ops/cuda/gpus.h"
#include "ratplus/info.h"

enum { MOST_GPUS = 64 };

typedef struct {
  rp_gpu list[MOST_GPUS];
  int n, version;
  rp_error why; /* there is none */
} gpus;

static void look_for_gpus(gpus *g) {
  *g = (gpus){0};
  if (rp_gpus(g->list, MOST_GPUS, &g->n, &g->version, &g->why)) g->n = 0;
  if (g->n > MOST_GPUS) g->n = MOST_GPUS;
}

static const char *reason_of(rp_way_reason why) {
  static const char *const reasons[] = {"as RATPLUS_BF16 says", "known of this family", "measured",
                                        "the only way here"};
  return reasons[why];
}

static void add_gpus_text(rp_str *b, const gpus *g) {
  if (!g->n) rp_str_addf(b, "GPUs        none: %s\n", g->why.text);
  for (int i = 0; i < g->n; i++) {
    char memory[32];
    rp_format_bytes(memory, (double)g->list[i].bytes);
    rp_str_addf(b, "%s%d: %s, compute capability %d.%d, %s\n", i ? "            " : "GPUs        ",
                i, g->list[i].name, g->list[i].major, g->list[i].minor, memory);
  }
  if (g->n)
    rp_str_addf(b, "            driver for CUDA %d.%d\n", g->version / 1000,
                g->version % 1000 / 10);
}

static void add_gpus_json(rp_str *b, const gpus *g) {
  rp_str_add(b, ",\"gpus\":[");
  for (int i = 0; i < g->n; i++) {
    rp_str_addf(b, "%s{\"name\":", i ? "," : "");
    rp_json_add_string(b, g->list[i].name);
    rp_str_addf(b, ",\"compute_capability\":\"%d.%d\",\"memory_bytes\":%llu}", g->list[i].major,
                g->list[i].minor, (unsigned long long)g->list[i].bytes);
  }
  rp_str_add(b, "]");
  if (g->n) {
    rp_str_addf(b, ",\"cuda_driver\":%d", g->version);
  } else {
    rp_str_add(b, ",\"gpus_why\":");
    rp_json_add_string(b, g->why.text);
  }
}

static void add_text(rp_str *b, const rp_cpu_info *cpu, const gpus *g) {
  char total[32], limit[32], available[32];
  rp_way_reason why;
  const rp_bf16_way way = rp_bf16_way_now(&why);
  rp_format_bytes(total, (double)cpu->memory_bytes);
  rp_format_bytes(limit, (double)cpu->memory_limit_bytes);
  rp_format_bytes(available, (double)rp_memory_available());
  rp_str_addf(b, "processor   %s (family %d, model %d)\n", cpu->name, cpu->family, cpu->model);
  rp_str_addf(b, "kernels     %s", rp_cpu_level_name(rp_cpu_now()));
  if (rp_cpu_now() != rp_cpu_best())
    rp_str_addf(b, " (RATPLUS_CPU; the processor has %s)", rp_cpu_level_name(rp_cpu_best()));
  rp_str_addf(b, "%s\n", cpu->amx_bf16 ? ", AMX" : "");
  rp_str_addf(b, "products    %s; bfloat16: %s (%s)\n", rp_products_name(), rp_bf16_way_name(way),
              reason_of(why));
  rp_str_addf(b, "threads     %d of %d cores", rp_threads(), cpu->cores);
  if (cpu->cgroup_cpus > 0) rp_str_addf(b, ", cgroup limit %.4g", cpu->cgroup_cpus);
  rp_str_addf(b, "\nmemory      %s, %s available", total, available);
  if (cpu->memory_limit_bytes) rp_str_addf(b, ", cgroup limit %s", limit);
  rp_str_add(b, "\n");
  add_gpus_text(b, g);
}

static void add_json(rp_str *b, const rp_cpu_info *cpu, const gpus *g) {
  rp_way_reason why;
  const rp_bf16_way way = rp_bf16_way_now(&why);
  rp_str_add(b, "{\"cpu\":");
  rp_json_add_string(b, cpu->name);
  rp_str_addf(b, ",\"family\":%d,\"model\":%d,\"level\":\"%s\",\"best_level\":\"%s\"", cpu->family,
              cpu->model, rp_cpu_level_name(rp_cpu_now()), rp_cpu_level_name(rp_cpu_best()));
  rp_str_addf(b, ",\"avx512_bf16\":%s,\"amx\":%s", cpu->avx512_bf16 ? "true" : "false",
              cpu->amx_bf16 ? "true" : "false");
  rp_str_addf(b, ",\"products\":\"%s\",\"bfloat16\":\"%s\",\"bfloat16_why\":\"%s\"",
              rp_products_name(), rp_bf16_way_name(way), reason_of(why));
  rp_str_addf(b, ",\"threads\":%d,\"cores\":%d,\"cgroup_cpus\":%.4g", rp_threads(), cpu->cores,
              cpu->cgroup_cpus);
  rp_str_addf(b, ",\"memory_bytes\":%llu,\"memory_limit_bytes\":%llu,\"memory_available\":%llu",
              (unsigned long long)cpu->memory_bytes, (unsigned long long)cpu->memory_limit_bytes,
              (unsigned long long)rp_memory_available());
  add_gpus_json(b, g);
  rp_str_add(b, "}\n");
}

rp_status rp_info_machine(int json, char **text, rp_error *err) {
  rp_str b = {0};
  gpus g;
  look_for_gpus(&g);
  if (json)
    add_json(&b, rp_cpu(), &g);
  else
    add_text(&b, rp_cpu(), &g);
  *text = rp_str_take(&b);
  return *text ? RP_OK : rp_fail_memory(err, 1024, "the description of the machine");
}
