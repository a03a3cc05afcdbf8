/* pattern_info.c - what a pattern sees, counted from its definition. */
#include "base/json.h"
#include "base/str.h"
#include "config/settings.h"
#include "ratplus/info.h"

enum { PICTURE = 64 }; /* the longest sequence that is drawn */

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

/* Dilated positions among from .. to-1: those with (s + 1) mod D = 0. */
static int64_t dilated(rp_pat p, int64_t from, int64_t to) {
  return p.D > 0 && to > from ? to / p.D - from / p.D : 0;
}

/* Keys that query t sees, by the set they are counted in (model.md 3: initial, local, dilated). */
typedef struct {
  int64_t initial, local, dilated;
} seen;

static seen count_seen(rp_pat p, int64_t t) {
  seen n = {.initial = at_most(p.I, t + 1)};
  const int64_t first = at_least(p.I, t - p.W); /* of the local window */
  n.local = at_least(t + 1 - first, 0);
  n.dilated = dilated(p, p.I, first);
  return n;
}

/* Entries that a cache keeps after T tokens. */
static int64_t count_kept(rp_pat p, int64_t T) {
  return at_most(T, p.I) + at_most(p.W, at_least(0, T - p.I)) + dilated(p, p.I, T - p.W);
}

/* Keys that the queries of a sequence see on average. Heads mostly repeat a few patterns. */
enum { KNOWN = 16 };
typedef struct {
  rp_pat pat[KNOWN];
  double mean[KNOWN];
  int n;
} means;

static double mean_seen(means *m, rp_pat p, int64_t T) {
  for (int i = 0; i < m->n; i++) {
    if (m->pat[i].D == p.D && m->pat[i].W == p.W && m->pat[i].I == p.I) return m->mean[i];
  }
  double all = 0;
  for (int64_t t = 0; t < T; t++) {
    const seen s = count_seen(p, t);
    all += (double)(s.initial + s.local + s.dilated);
  }
  if (m->n < KNOWN) {
    m->pat[m->n] = p;
    m->mean[m->n++] = all / (double)T;
  }
  return all / (double)T;
}

/* Means over every layer and kv head. */
typedef struct {
  double initial, local, dilated, last, mean, kept;
} facts;

static facts gather(const rp_pats *p, int64_t T) {
  const int n = p->layers * p->kv_heads;
  facts f = {0};
  means m = {.n = 0};
  for (int i = 0; i < n; i++) {
    const seen last = count_seen(p->at[i], T - 1);
    f.initial += (double)last.initial / n;
    f.local += (double)last.local / n;
    f.dilated += (double)last.dilated / n;
    f.mean += mean_seen(&m, p->at[i], T) / n;
    f.kept += (double)count_kept(p->at[i], T) / n;
  }
  f.last = f.initial + f.local + f.dilated;
  return f;
}

/* One row a query: i initial, l local, d dilated, . unseen. */
static void draw(rp_str *b, rp_pat p, int64_t T) {
  for (int64_t t = 0; t < T; t++) {
    rp_str_add(b, "  ");
    for (int64_t s = 0; s <= t; s++) {
      const char *c = ".";
      if (p.D > 0 && (s + 1) % p.D == 0) c = "d";
      if (t - s <= p.W) c = "l";
      if (s < p.I) c = "i";
      rp_str_add(b, c);
    }
    rp_str_add(b, "\n");
  }
}

static void add_text(rp_str *b, const rp_pats *p, const char *text, int64_t T) {
  const facts f = gather(p, T);
  const int n = p->layers * p->kv_heads;
  rp_str_addf(b, "pattern       %s\n", text);
  if (n > 1) rp_str_addf(b, "means over    %d layers of %d heads\n", p->layers, p->kv_heads);
  rp_str_addf(b,
              "last query    sees %.10g of %lld keys: %.10g initial, %.10g local, %.10g dilated\n",
              f.last, (long long)T, f.initial, f.local, f.dilated);
  rp_str_addf(b, "mean query    sees %.1f keys, %.2f%% of the %.1f of D=1\n", f.mean,
              200 * f.mean / ((double)T + 1), ((double)T + 1) / 2);
  rp_str_addf(b, "cache         keeps %.10g of %lld keys and values, %.2f%%\n", f.kept,
              (long long)T, 100 * f.kept / (double)T);
  if (n > 1 || T > PICTURE) return;
  rp_str_add(b, "a row a query: i initial, l local, d dilated, . unseen\n");
  draw(b, p->at[0], T);
}

static void add_json(rp_str *b, const rp_pats *p, const char *text, int64_t T) {
  const facts f = gather(p, T);
  const struct {
    const char *name;
    double value;
  } numbers[] = {{"keys_last_initial", f.initial},
                 {"keys_last_local", f.local},
                 {"keys_last_dilated", f.dilated},
                 {"keys_last", f.last},
                 {"keys_mean", f.mean},
                 {"keys_mean_dense", ((double)T + 1) / 2},
                 {"keys_kept", f.kept}};
  rp_str_add(b, "{\"pattern\":");
  rp_json_add_string(b, text);
  rp_str_addf(b, ",\"seq_len\":%lld", (long long)T);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    rp_str_addf(b, ",\"%s\":", numbers[i].name);
    rp_json_add_real(b, numbers[i].value);
  }
  rp_str_add(b, "}\n");
}

rp_status rp_pattern_info(const char *pattern, int64_t seq_len, int layers, int kv_heads, int json,
                          char **text, rp_error *err) {
  rp_pats p = {0};
  rp_str b = {0};
  char *name = NULL;
  *text = NULL;
  if (seq_len < 1 || seq_len > 1 << 24)
    return rp_fail(err, RP_USAGE, "a sequence of %lld tokens; give a length from 1 to %d",
                   (long long)seq_len, 1 << 24);
  if (layers < 1 || layers > 1024 || kv_heads < 1 || kv_heads > 1024)
    return rp_fail(err, RP_USAGE, "%d layers of %d kv heads; give numbers from 1 to 1024", layers,
                   kv_heads);
  rp_status st = RP_OK;
  RP_GO(rp_pats_parse(&p, pattern, layers, kv_heads, err));
  name = rp_pats_format(&p);
  if (name) (json ? add_json : add_text)(&b, &p, name, seq_len);
  *text = name ? rp_str_take(&b) : NULL;
  if (!*text) st = rp_fail_memory(err, b.len, "the description of a pattern");
fail:
  rp_str_free(&b);
  rp_free(name);
  rp_pats_free(&p);
  return st;
}
