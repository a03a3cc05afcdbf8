/* results.c - evaluation results read back, as a table and a picture. */
#include "ratplus/results.h"

#include <math.h>
#include <string.h>

#include "base/chart.h"
#include "base/file.h"
#include "base/json.h"

enum { MOST_BYTES = 16 << 20, MOST_NAMES = 64, COLUMN = 20 };

/* Names in the order of their first appearance. */
typedef struct {
  char *name[MOST_NAMES];
  size_t n;
} names;

typedef struct {
  names labels, patterns;
  double perplexity[MOST_NAMES][MOST_NAMES]; /* [pattern][label], NaN where not measured */
  double cache[MOST_NAMES];                  /* bytes a token, NaN where not said */
} results;

static rp_status index_of(names *all, const char *name, const char *what, size_t *at,
                          rp_error *err) {
  for (*at = 0; *at < all->n; ++*at)
    if (!strcmp(all->name[*at], name)) return RP_OK;
  if (all->n == MOST_NAMES)
    return rp_fail(err, RP_BAD_DATA, "more than %d %s in the results; show fewer files", MOST_NAMES,
                   what);
  all->name[*at] = rp_strdup(name);
  if (!all->name[*at]) return rp_fail_memory(err, strlen(name) + 1, "a name in the results");
  all->n++;
  return RP_OK;
}

static void results_free(results *r) {
  if (!r) return;
  for (size_t i = 0; i < r->labels.n; i++) rp_free(r->labels.name[i]);
  for (size_t i = 0; i < r->patterns.n; i++) rp_free(r->patterns.name[i]);
  rp_free(r);
}

static const rp_json *field(const rp_json *row, const char *key, rp_json_type type) {
  const rp_json *v = row->type == RP_JSON_OBJECT ? rp_json_get(row, key) : NULL;
  return v && (v->type == type || (type == RP_JSON_REAL && v->type == RP_JSON_INT)) ? v : NULL;
}

static rp_status add_row(results *r, const rp_json *row, const char *where, rp_error *err) {
  const rp_json *label = field(row, "label", RP_JSON_STRING);
  const rp_json *pattern = field(row, "pattern", RP_JSON_STRING);
  const rp_json *perplexity = field(row, "perplexity", RP_JSON_REAL);
  const rp_json *cache = field(row, "cache_bytes_per_token", RP_JSON_REAL);
  if (!label) label = field(row, "model", RP_JSON_STRING);
  if (!label || !pattern || !perplexity)
    return rp_fail(err, RP_BAD_DATA,
                   "%s: no label, pattern and perplexity; give files that `ratplus eval loss "
                   "--json` wrote",
                   where);
  size_t l, p;
  RP_TRY(index_of(&r->labels, label->string, "labels", &l, err));
  RP_TRY(index_of(&r->patterns, pattern->string, "patterns", &p, err));
  r->perplexity[p][l] = perplexity->real;
  if (cache) r->cache[p] = cache->real;
  return RP_OK;
}

static rp_status read_file(results *r, const char *path, rp_error *err) {
  char *text = NULL, where[512];
  size_t len = 0;
  rp_status st = rp_file_read(path, MOST_BYTES, &text, &len, err);
  if (st) return st;
  int line = 1;
  for (char *at = text, *end; *at; at = end + 1, line++) {
    end = strchr(at, '\n');
    const bool last = !end;
    if (last) end = at + strlen(at);
    rp_snprintf(where, sizeof where, "%s: line %d", path, line);
    if (end > at) {
      rp_json_doc *doc = NULL;
      RP_GO(rp_json_parse(&doc, at, (size_t)(end - at), where, err));
      st = add_row(r, rp_json_root(doc), where, err);
      rp_json_free(doc);
      if (st) goto fail;
    }
    if (last) break;
  }
fail:
  rp_free(text);
  return st;
}

static void add_table(rp_str *b, const results *r) {
  int width = 12;
  for (size_t p = 0; p < r->patterns.n; p++) {
    const int len = (int)strlen(r->patterns.name[p]);
    if (len > width) width = len;
  }
  rp_str_addf(b, "%-*s", width, "pattern");
  for (size_t l = 0; l < r->labels.n; l++) rp_str_addf(b, "  %*s", COLUMN, r->labels.name[l]);
  rp_str_addf(b, "  %*s\n", COLUMN, "cache bytes/token");
  for (size_t p = 0; p < r->patterns.n; p++) {
    rp_str_addf(b, "%-*s", width, r->patterns.name[p]);
    for (size_t l = 0; l < r->labels.n; l++) {
      if (isnan(r->perplexity[p][l])) {
        rp_str_addf(b, "  %*s", COLUMN, "-");
      } else {
        rp_str_addf(b, "  %*.2f", COLUMN, r->perplexity[p][l]);
      }
    }
    if (isnan(r->cache[p])) {
      rp_str_addf(b, "  %*s\n", COLUMN, "-");
    } else {
      rp_str_addf(b, "  %*.1f\n", COLUMN, r->cache[p]);
    }
  }
}

static rp_status draw(const results *r, const char *path, rp_error *err) {
  double x[MOST_NAMES];
  double(*y)[MOST_NAMES] = rp_calloc(MOST_NAMES, sizeof *y); /* [label][pattern] */
  rp_series series[MOST_NAMES];
  char *svg = NULL;
  if (!y) return rp_fail_memory(err, sizeof *y * MOST_NAMES, "a chart");
  for (size_t l = 0; l < r->labels.n; l++) {
    for (size_t p = 0; p < r->patterns.n; p++) {
      x[p] = (double)p;
      y[l][p] = r->perplexity[p][l];
    }
    series[l] = (rp_series){r->labels.name[l], x, y[l], r->patterns.n, false};
  }
  const rp_chart c = {.title = "Perplexity on held-out text, one model in every pattern",
                      .x_label = "pattern",
                      .y_label = "perplexity",
                      .log_y = true,
                      .categories = (const char *const *)r->patterns.name,
                      .n_categories = r->patterns.n,
                      .series = series,
                      .n = r->labels.n};
  rp_status st = rp_chart_svg(&c, &svg, err);
  if (!st) st = rp_file_replace(path, svg, strlen(svg), false, err);
  rp_free(svg);
  rp_free(y);
  return st;
}

int rp_results_is(const char *path) {
  char *text = NULL;
  size_t len;
  if (!rp_ends_with(path, ".jsonl") || !rp_is_file(path)) return 0;
  if (rp_file_read(path, MOST_BYTES, &text, &len, NULL)) return 0;
  const char *end = strchr(text, '\n');
  if (end) len = (size_t)(end - text);
  const char *key = strstr(text, "\"perplexity\"");
  const int is = key && (size_t)(key - text) < len;
  rp_free(text);
  return is;
}

rp_status rp_results_table(const char *const *paths, size_t n, const char *svg, char **text,
                           rp_error *err) {
  rp_status st = RP_OK;
  rp_str b = {0};
  results *r = rp_calloc(1, sizeof *r);
  if (!r) return rp_fail_memory(err, sizeof *r, "results");
  for (size_t p = 0; p < MOST_NAMES; p++) {
    r->cache[p] = NAN;
    for (size_t l = 0; l < MOST_NAMES; l++) r->perplexity[p][l] = NAN;
  }
  for (size_t i = 0; i < n; i++) RP_GO(read_file(r, paths[i], err));
  if (!r->patterns.n) {
    st = rp_fail(err, RP_BAD_DATA, "%s holds no result; run `ratplus eval loss --json` first",
                 n ? paths[0] : "nothing");
    goto fail;
  }
  if (svg) RP_GO(draw(r, svg, err));
  add_table(&b, r);
  *text = rp_str_take(&b);
  if (!*text) st = rp_fail_memory(err, 4096, "a table");
fail:
  results_free(r);
  return st;
}
