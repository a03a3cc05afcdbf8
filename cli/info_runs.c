#include "cli/info_runs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ratplus/eval.h"
#include "ratplus/train.h"

/* ---- runs ---- */

static void line_real(const char *name, double x, const char *unit) {
  if (isfinite(x)) printf("  %-18s %.6g%s\n", name, x, unit);
}

static void print_run(const rp_run_info *r) {
  printf("%s\n", r->dir);
  printf("  %-18s %s\n", "state", r->state);
  printf("  %-18s %lld of %lld\n", "steps", (long long)r->step, (long long)r->of);
  if (r->checkpoint >= 0)
    printf("  %-18s step %lld\n", "latest checkpoint", (long long)r->checkpoint);
  if (r->holder[0]) printf("  %-18s %s\n", "held by", r->holder);
  line_real("train_loss", r->train_loss, "");
  line_real("val_loss", r->val_loss, "");
  line_real("val_loss_dense", r->val_loss_dense, "");
  line_real("tokens/s", r->tokens_per_second, "");
  line_real("iteration", r->seconds_per_step, " s");
  line_real("save", r->save_seconds, " s");
  if (isfinite(r->seconds_per_step) && isfinite(r->save_seconds))
    printf(
        "  %-18s %.0f s (iteration and save): let the scheduler signal this long before the "
        "end\n",
        "signal lead", ceil(r->seconds_per_step + r->save_seconds));
  if (r->skipped)
    printf("  %-18s %lld optimizer steps (not finite)\n", "skipped", (long long)r->skipped);
}

static void print_run_json(const rp_run_info *r) {
  printf("{\"run\":");
  cli_json_string(r->dir);
  printf(",\"state\":\"%s\",\"step\":%lld,\"of\":%lld", r->state, (long long)r->step,
         (long long)r->of);
  if (r->checkpoint >= 0) printf(",\"checkpoint\":%lld", (long long)r->checkpoint);
  if (r->holder[0]) {
    printf(",\"held_by\":");
    cli_json_string(r->holder);
  }
  cli_json_real("train_loss", r->train_loss);
  cli_json_real("val_loss", r->val_loss);
  cli_json_real("val_loss_dense", r->val_loss_dense);
  cli_json_real("tokens_per_second", r->tokens_per_second);
  cli_json_real("seconds_per_step", r->seconds_per_step);
  cli_json_real("save_seconds", r->save_seconds);
  printf(",\"skipped\":%lld}\n", (long long)r->skipped);
}

int cli_info_runs(const char *const *dirs, size_t n, bool json, const char *svg) {
  rp_error err = {0};
  for (size_t i = 0; i < n; i++) {
    rp_run_info r;
    if (rp_run_read(dirs[i], &r, &err)) return cli_error(&err);
    if (json)
      print_run_json(&r);
    else
      print_run(&r);
  }
  if (!svg) return 0;
  char *text;
  if (rp_runs_svg(dirs, n, &text, &err)) return cli_error(&err);
  const int code = cli_write_file(svg, text);
  rp_free(text);
  return code;
}

/* ---- plans ---- */

typedef struct {
  const char *name, *key;
  uint64_t bytes;
} group;

enum { GROUPS = 13 };

static void list_groups(const rp_train_memory *m, group g[GROUPS]) {
  const group all[GROUPS] = {
      {"parameters", "parameters", m->masters}, {"rounded copy", "copy", m->copy},
      {"gradients", "gradients", m->grads},     {"optimizer", "optimizer", m->optimizer},
      {"activations", "activations", m->acts},  {"work buffers", "work", m->work},
      {"scratch", "scratch", m->scratch},       {"tables", "tables", m->tables},
      {"loader", "loader", m->loader},          {"saving", "saving", m->saving},
      {"samples", "samples", m->samples},       {"gathered units", "gathered", m->gathered},
      {"communicator", "communicator", m->comm}};
  memcpy(g, all, sizeof all);
}

static void print_bytes(const char *name, uint64_t bytes) {
  const double x = (double)bytes;
  if (x >= 1 << 30)
    printf("  %-18s %10.2f GiB\n", name, x / (1 << 30));
  else if (x >= 1 << 20)
    printf("  %-18s %10.2f MiB\n", name, x / (1 << 20));
  else
    printf("  %-18s %10.2f KiB\n", name, x / 1024);
}

static void print_plan(const rp_train_plan *p) {
  group g[GROUPS];
  list_groups(&p->memory, g);
  printf("run_dir              %s\n", p->run_dir);
  printf("parameters           %lld\n", (long long)p->parameters);
  if (p->steps >= 0)
    printf("steps                %lld of %lld tokens (%.4g in all)\n", (long long)p->steps,
           (long long)p->tokens_per_step, (double)p->steps * (double)p->tokens_per_step);
  else
    printf("steps                unknown: %s\n", p->unknown);
  printf("accumulation         %d micro-batches a step\n", p->accumulation);
  printf("work                 %.4g FLOP a step\n", p->flops_per_step);
  printf("memory\n");
  for (int i = 0; i < GROUPS; i++)
    if (g[i].bytes) print_bytes(g[i].name, g[i].bytes);
  print_bytes("total", p->memory.total);
  print_bytes("free now", p->memory.available);
  printf("disk\n");
  print_bytes("a checkpoint", p->memory.checkpoint);
  if (!p->fits) printf("does not fit: %s\n", p->advice);
}

static void print_plan_json(const rp_train_plan *p) {
  group g[GROUPS];
  list_groups(&p->memory, g);
  printf("{\"run_dir\":");
  cli_json_string(p->run_dir);
  printf(",\"parameters\":%lld", (long long)p->parameters);
  if (p->steps >= 0) {
    printf(",\"steps\":%lld", (long long)p->steps);
  } else {
    printf(",\"steps_unknown\":");
    cli_json_string(p->unknown);
  }
  printf(",\"tokens_per_step\":%lld,\"accumulation\":%d,\"flops_per_step\":%.9g,\"memory\":{",
         (long long)p->tokens_per_step, p->accumulation, p->flops_per_step);
  for (int i = 0; i < GROUPS; i++) printf("\"%s\":%llu,", g[i].key, (unsigned long long)g[i].bytes);
  printf("\"total\":%llu,\"available\":%llu},\"checkpoint_bytes\":%llu,\"fits\":%s",
         (unsigned long long)p->memory.total, (unsigned long long)p->memory.available,
         (unsigned long long)p->memory.checkpoint, p->fits ? "true" : "false");
  if (!p->fits) {
    printf(",\"advice\":");
    cli_json_string(p->advice);
  }
  printf("}\n");
}

static const char *strategy_name(int s) {
  return s == 1 ? "FULL_SHARD" : s == 2 ? "SHARD_GRAD_OP" : "NO_SHARD";
}

static void print_rank_plan(const rp_rank_plan rows[3], const rp_rank_plan_opts *o) {
  printf("over %d ranks        memory GiB  all-reduce MB  scatter MB  gather MB  collectives",
         o->ranks);
  printf(rows[0].seconds > 0 ? "  work s  network s  step s  binds\n" : "\n");
  for (int i = 0; i < 3; i++) {
    const rp_rank_plan *p = &rows[i];
    printf("  %-18s %10.3f %14.1f %11.1f %10.1f %12lld", strategy_name(p->strategy),
           (double)p->memory.total / (1 << 30), p->reduced * 1e-6, p->scattered * 1e-6,
           p->gathered * 1e-6, (long long)p->collectives);
    if (p->seconds > 0) printf(" %7.3f %10.3f %7.3f  %s", p->work, p->wire, p->seconds, p->binds);
    printf("\n");
  }
}

static void print_rank_plan_json(const rp_rank_plan rows[3], const rp_rank_plan_opts *o) {
  for (int i = 0; i < 3; i++) {
    const rp_rank_plan *p = &rows[i];
    printf(
        "{\"ranks\":%d,\"strategy\":\"%s\",\"memory\":%llu,\"all_reduce_bytes\":%.0f,"
        "\"reduce_scatter_bytes\":%.0f,\"all_gather_bytes\":%.0f,\"collectives\":%lld",
        o->ranks, strategy_name(p->strategy), (unsigned long long)p->memory.total, p->reduced,
        p->scattered, p->gathered, (long long)p->collectives);
    if (p->seconds > 0)
      printf(
          ",\"work_seconds\":%.6g,\"network_seconds\":%.6g,\"step_seconds\":%.6g,\"binds\":\"%s\"",
          p->work, p->wire, p->seconds, p->binds);
    printf("}\n");
  }
}

/* What each strategy would hold, send and take. */
static int info_ranks(const cli_args *a, const rp_config *c, bool json, int ranks) {
  rp_rank_plan_opts o;
  rp_rank_plan rows[3];
  rp_error err = {0};
  rp_rank_plan_defaults(&o);
  o.ranks = ranks;
  if (cli_has(a, "gpus-per-node")) o.per_node = (int)cli_int(a, "gpus-per-node");
  o.link = 1e9 * cli_real(a, "link");
  o.rate = 1e12 * cli_real(a, "rate");
  o.latency = 1e-6 * cli_real(a, "latency");
  if (o.per_node < 1 || o.link < 0 || o.rate < 0 || o.latency < 0)
    return cli_fail(RP_USAGE,
                    "--gpus-per-node takes a number from 1, --link, --rate and --latency "
                    "take numbers above 0");
  if (rp_rank_plan_make(c, &o, rows, &err)) return cli_error(&err);
  if (json)
    print_rank_plan_json(rows, &o);
  else
    print_rank_plan(rows, &o);
  return 0;
}

int cli_info_plan(const cli_args *a, bool json, int ranks) {
  rp_config *c;
  rp_train_plan_opts o;
  rp_train_plan plan;
  rp_error err = {0};
  if (cli_has(a, "ranks") && ranks < 1)
    return cli_fail(RP_USAGE, "--ranks %d: give a number from 1 on", ranks);
  const int code = cli_compose(a, true, &c);
  if (code) return code;
  rp_train_plan_defaults(&o);
  o.ranks = ranks > 0 ? ranks : 1;
  const rp_status st = rp_train_plan_make(c, &o, &plan, &err);
  int result = st ? cli_error(&err) : 0;
  if (!st && json)
    print_plan_json(&plan);
  else if (!st)
    print_plan(&plan);
  if (!st && o.ranks > 1) result = info_ranks(a, c, json, o.ranks);
  rp_config_free(c);
  return result;
}
