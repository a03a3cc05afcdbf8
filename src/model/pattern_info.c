/* pattern_info.c - what a pattern sees and costs, beside D=1. */
#include <string.h>

#include "base/json.h"
#include "model/cost.h"
#include "model/pattern_view.h"
#include "model/store.h"
#include "ratplus/info.h"

enum { SIZE_MOST = 1024 };
static const int64_t T_MOST = (int64_t)1 << 30;

void rp_pattern_defaults(rp_pattern_opts *o) {
  *o = (rp_pattern_opts){.size = sizeof *o, .layers = 1, .kv_heads = 1};
}

/* ------------------------------------------------------------------ gathering */

static rp_status read_sizes(const rp_pattern_opts *o, rp_pattern_view *v, rp_error *err) {
  rp_store *s = NULL;
  rp_status st = RP_OK;
  if (o->model) {
    RP_TRY(rp_store_open(&s, o->model, err));
    st = rp_store_model(s, o->words, o->n_words, &v->m, err);
    rp_store_close(s);
  } else if (o->config) {
    st = rp_model_settings_read(&v->m, o->config, err);
  } else if (o->layers < 1 || o->layers > SIZE_MOST || o->kv_heads < 1 || o->kv_heads > SIZE_MOST) {
    return rp_fail(err, RP_USAGE, "%d layers of %d kv heads; give numbers from 1 to %d", o->layers,
                   o->kv_heads, SIZE_MOST);
  } else {
    v->m = (rp_model_settings){.N = o->layers, .H = o->kv_heads, .Hk = o->kv_heads};
  }
  if (!st && v->m.cell == RP_CELL_IDENTITY)
    return rp_fail(err, RP_USAGE, "the model has no attention that a pattern could be for");
  return st;
}

static bool same(rp_pat a, rp_pat b) { return a.D == b.D && a.W == b.W && a.I == b.I; }

static int find_kind(rp_pattern_view *v, rp_pat p) {
  int k = 0;
  while (k < v->kinds && !same(v->kind[k], p)) k++;
  if (k == RP_KINDS) return RP_KIND_OTHERS;
  if (k == v->kinds) v->kind[v->kinds++] = p;
  v->count[k]++;
  return k;
}

static rp_status gather(const rp_pattern_opts *o, rp_pattern_view *v, rp_error *err) {
  RP_TRY(read_sizes(o, v, err));
  const size_t n = (size_t)v->m.N * (size_t)v->m.Hk;
  const int model_T = v->m.max_seq_len;
  v->T = o->seq_len ? o->seq_len : model_T ? model_T : 4096;
  if (v->T < 1 || v->T > T_MOST)
    return rp_fail(err, RP_USAGE, "a sequence of %lld tokens; give a length from 1 to 2^30",
                   (long long)v->T);
  RP_TRY(rp_pats_parse(&v->pats, o->pattern, v->m.N, v->m.Hk, err));
  v->name = rp_pats_format(&v->pats);
  v->kind_of = rp_malloc(n, 1);
  if (!v->name || !v->kind_of) return rp_fail_memory(err, n, "a pattern");
  for (size_t i = 0; i < n; i++) v->kind_of[i] = (uint8_t)find_kind(v, v->pats.at[i]);
  return RP_OK;
}

/* Every number of one pattern, over some layers. Without a model operations and bytes are 0. */
typedef struct {
  rp_seen seen;
  double prefill, step;              /* operations of attention */
  double all_prefill, all_step;      /* and of the rest, logits of one token */
  double cache[2], blocks[2], state; /* bytes; bfloat16, float32 */
} totals;

/* Of the whole model, or of one layer (operations of the rest are the whole's). */
static totals count(const rp_model_settings *m, const rp_pats *p, int layer, int64_t T) {
  totals n = {.seen = rp_cost_seen(p, layer, T, 0)};
  if (!m->h) return n;
  const double each = 4.0 * m->H / m->Hk * m->h;
  const rp_flops prefill = rp_cost_flops(m, p, 1, T), step = rp_cost_step(m, p, T);
  n.prefill = layer < 0 ? prefill.attention : each * n.seen.pairs;
  n.step = layer < 0 ? step.attention : each * n.seen.keys;
  n.all_prefill = prefill.products + prefill.attention + prefill.head / (double)T;
  n.all_step = step.products + step.attention + step.head;
  for (int i = 0; i < 2; i++) {
    const double entry = rp_cost_entry(m, i ? RP_F32 : RP_BF16);
    n.cache[i] = (n.seen.kept + n.seen.ring) * entry;
    n.blocks[i] = n.seen.blocks * RP_KV_BLOCK * entry;
  }
  n.state = rp_cost_state(m, 0) / (layer < 0 ? 1 : m->N);
  return n;
}

static totals count_dense(const rp_pattern_view *v, rp_error *err, rp_status *st) {
  rp_pats dense;
  totals n = {0};
  *st = rp_pats_uniform(&dense, (rp_pat){1, 0, 0}, v->m.N, v->m.Hk, err);
  if (*st) return n;
  n = count(&v->m, &dense, -1, v->T);
  rp_pats_free(&dense);
  return n;
}

/* ------------------------------------------------------------------ for a person */

static void format_flops(char out[32], double x) {
  static const char *const units[] = {"FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP"};
  int k = 0;
  while (x >= 999.5 && k < 6) x /= 1000, k++;
  rp_snprintf(out, 32, "%.3g %s", x, units[k]);
}

static void add_line(rp_str *b, const char *label, void (*format)(char[32], double), double layer,
                     double all, double dense) {
  char one[32], sum[32], most[32];
  format(one, layer);
  format(sum, all);
  format(most, dense);
  rp_str_addf(b, "%-24s %12s %12s %12s %8.2f%%\n", label, layer < 0 ? "" : one, sum, most,
              100 * all / dense);
}

static void add_table(rp_str *b, const rp_pattern_view *v, const totals *n, const totals *d) {
  const double N = v->m.N;
  rp_str_addf(b, "\n%-24s %12s %12s %12s %9s\n", "", N > 1 ? "mean layer" : "layer", "model", "D=1",
              "of D=1");
  add_line(b, "prefill, attention", format_flops, n->prefill / N, n->prefill, d->prefill);
  add_line(b, "prefill, all", format_flops, -1, n->all_prefill, d->all_prefill);
  add_line(b, "one step, attention", format_flops, n->step / N, n->step, d->step);
  add_line(b, "one step, all", format_flops, -1, n->all_step, d->all_step);
  add_line(b, "cache, bfloat16", rp_format_bytes, n->cache[0] / N, n->cache[0], d->cache[0]);
  add_line(b, "  its blocks", rp_format_bytes, n->blocks[0] / N, n->blocks[0], d->blocks[0]);
  add_line(b, "cache, float32", rp_format_bytes, n->cache[1] / N, n->cache[1], d->cache[1]);
  add_line(b, "  its blocks", rp_format_bytes, n->blocks[1] / N, n->blocks[1], d->blocks[1]);
  if (n->state > 0)
    add_line(b, "recurrence, float32", rp_format_bytes, n->state / N, n->state, d->state);
}

static void add_text(rp_str *b, const rp_pattern_view *v, const totals *n, const totals *d) {
  const rp_model_settings *m = &v->m;
  const double heads = n->seen.heads, T = (double)v->T;
  const double mean = n->seen.pairs / heads / T, kept = (n->seen.kept + n->seen.ring) / heads;
  rp_str_addf(b, "pattern       %s\n", v->name);
  if (m->h)
    rp_str_addf(b, "model         %d layers of %d heads of %d, %d kv heads\n", m->N, m->H, m->h,
                m->Hk);
  rp_str_addf(b, "sequence      %lld tokens\n", (long long)v->T);
  if (heads > 1) rp_str_addf(b, "means over    %d layers of %d kv heads\n", m->N, m->Hk);
  rp_str_addf(b,
              "last query    sees %.10g of %lld keys: %.10g initial, %.10g local, %.10g dilated\n",
              n->seen.keys / heads, (long long)v->T, n->seen.initial / heads, n->seen.local / heads,
              n->seen.dilated / heads);
  rp_str_addf(b, "mean query    sees %.1f keys, %.2f%% of the %.1f of D=1\n", mean,
              200 * mean / (T + 1), (T + 1) / 2);
  rp_str_addf(b,
              "cache         keeps %.10g of %lld keys and values, %.2f%%, in %.10g blocks of %d\n",
              kept, (long long)v->T, 100 * kept / T, n->seen.blocks / heads, RP_KV_BLOCK);
  if (m->h)
    add_table(b, v, n, d);
  else
    rp_str_add(b,
               "              (with a model or experiment=NAME: operations and bytes as well)\n");
}

/* ------------------------------------------------------------------ JSON */

static void add_number(rp_str *b, const char *name, double value) {
  rp_str_addf(b, "%s\"%s\":", b->len && b->s[b->len - 1] == '{' ? "" : ",", name);
  rp_json_add_real(b, value);
}

/* An object, left open. */
static void add_totals(rp_str *b, const totals *n, bool sized, bool whole) {
  rp_str_add(b, "{");
  add_number(b, "pairs", n->seen.pairs);
  add_number(b, "keys_last", n->seen.keys);
  add_number(b, "cache_entries", n->seen.kept + n->seen.ring);
  add_number(b, "cache_blocks", n->seen.blocks);
  if (!sized) return;
  add_number(b, "prefill_attention_flops", n->prefill);
  add_number(b, "step_attention_flops", n->step);
  if (whole) add_number(b, "prefill_flops", n->all_prefill);
  if (whole) add_number(b, "step_flops", n->all_step);
  add_number(b, "cache_bytes_bfloat16", n->cache[0]);
  add_number(b, "cache_bytes_float32", n->cache[1]);
  add_number(b, "block_bytes_bfloat16", n->blocks[0]);
  add_number(b, "block_bytes_float32", n->blocks[1]);
  add_number(b, "state_bytes", n->state);
}

static void add_layers(rp_str *b, const rp_pattern_view *v) {
  rp_str_add(b, ",\"by_layer\":[");
  for (int l = 0; l < v->m.N; l++) {
    const totals n = count(&v->m, &v->pats, l, v->T);
    const rp_pats one = {1, v->m.Hk, v->pats.at + (size_t)l * (size_t)v->m.Hk};
    char *name = rp_pats_format(&one);
    if (l) rp_str_add(b, ",");
    add_totals(b, &n, v->m.h > 0, false);
    rp_str_add(b, ",\"pattern\":");
    rp_json_add_string(b, name ? name : "");
    rp_str_add(b, "}");
    b->failed |= !name;
    rp_free(name);
  }
  rp_str_add(b, "]");
}

static void add_json(rp_str *b, const rp_pattern_view *v, const totals *n, const totals *d) {
  const double heads = n->seen.heads, T = (double)v->T;
  rp_str_add(b, "{\"pattern\":");
  rp_json_add_string(b, v->name);
  rp_str_addf(b, ",\"seq_len\":%lld,\"num_layers\":%d,\"num_kv_head\":%d", (long long)v->T, v->m.N,
              v->m.Hk);
  if (v->m.h) rp_str_addf(b, ",\"num_head\":%d,\"d_head\":%d", v->m.H, v->m.h);
  add_number(b, "keys_last_initial", n->seen.initial / heads);
  add_number(b, "keys_last_local", n->seen.local / heads);
  add_number(b, "keys_last_dilated", n->seen.dilated / heads);
  add_number(b, "keys_last", n->seen.keys / heads);
  add_number(b, "keys_mean", n->seen.pairs / heads / T);
  add_number(b, "keys_mean_dense", (T + 1) / 2);
  add_number(b, "keys_kept", (n->seen.kept + n->seen.ring) / heads);
  rp_str_add(b, ",\"model\":");
  add_totals(b, n, v->m.h > 0, true);
  rp_str_add(b, "},\"dense\":");
  add_totals(b, d, v->m.h > 0, true);
  rp_str_add(b, "}");
  add_layers(b, v);
  rp_str_add(b, "}\n");
}

/* ------------------------------------------------------------------ the call */

static rp_status finish(rp_str *b, char **out, rp_error *err) {
  *out = rp_str_take(b);
  return *out ? RP_OK : rp_fail_memory(err, b->len, "the description of a pattern");
}

rp_status rp_pattern_info(const rp_pattern_opts *o, char **text, char **svg, rp_error *err) {
  rp_pattern_view v = {0};
  rp_str b = {0}, picture = {0};
  rp_status st;
  *text = NULL;
  if (svg) *svg = NULL;
  RP_GO(gather(o, &v, err));
  const totals n = count(&v.m, &v.pats, -1, v.T), d = count_dense(&v, err, &st);
  if (st) goto fail;
  if (o->json) {
    add_json(&b, &v, &n, &d);
  } else {
    add_text(&b, &v, &n, &d);
    rp_pattern_draw(&b, &v, o->colours, o->utf8);
  }
  if (svg) {
    rp_pattern_svg(&picture, &v);
    RP_GO(finish(&picture, svg, err));
  }
  st = finish(&b, text, err);
fail:
  if (st && svg) {
    rp_free(*svg);
    *svg = NULL;
  }
  rp_str_free(&b);
  rp_str_free(&picture);
  rp_free(v.kind_of);
  rp_free(v.name);
  rp_pats_free(&v.pats);
  rp_model_settings_free(&v.m);
  return st;
}
