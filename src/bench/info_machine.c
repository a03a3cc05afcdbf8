/* info_machine.c - what this machine is, as far as the program cares. Nothing is measured here, but
 * the way of bfloat16 products where no table knows the processor. */
#include "base/cpu.h"
#include "base/json.h"
#include "ops/cpu/products.h"
#include "ratplus/info.h"

static const char *reason_of(rp_way_reason why) {
  static const char *const reasons[] = {"as RATPLUS_BF16 says", "known of this family", "measured",
                                        "the only way here"};
  return reasons[why];
}

static void add_text(rp_str *b, const rp_cpu_info *cpu) {
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
  rp_str_addf(b, "%s%s\n", cpu->avx512_bf16 ? ", AVX512-BF16" : "", cpu->amx_bf16 ? ", AMX" : "");
  rp_str_addf(b, "products    %s; bfloat16: %s (%s)\n", rp_products_name(), rp_bf16_way_name(way),
              reason_of(why));
  rp_str_addf(b, "threads     %d of %d cores", rp_threads(), cpu->cores);
  if (cpu->cgroup_cpus > 0) rp_str_addf(b, ", cgroup limit %.4g", cpu->cgroup_cpus);
  rp_str_addf(b, "\nmemory      %s, %s available", total, available);
  if (cpu->memory_limit_bytes) rp_str_addf(b, ", cgroup limit %s", limit);
  rp_str_add(b, "\n");
}

static void add_json(rp_str *b, const rp_cpu_info *cpu) {
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
  rp_str_addf(b, ",\"memory_bytes\":%llu,\"memory_limit_bytes\":%llu,\"memory_available\":%llu}\n",
              (unsigned long long)cpu->memory_bytes, (unsigned long long)cpu->memory_limit_bytes,
              (unsigned long long)rp_memory_available());
}

rp_status rp_info_machine(int json, char **text, rp_error *err) {
  rp_str b = {0};
  if (json)
    add_json(&b, rp_cpu());
  else
    add_text(&b, rp_cpu());
  *text = rp_str_take(&b);
  return *text ? RP_OK : rp_fail_memory(err, 1024, "the description of the machine");
}
