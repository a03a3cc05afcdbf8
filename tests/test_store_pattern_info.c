/* What `info --pattern` says and draws, against counting the mask of every layer and head. */
#include "base/json.h"
#include "check.h"
#include "model/pattern_view.h"
#include "model/store.h"
#include "ratplus/info.h"

static bool sees(rp_pat p, int64_t t, int64_t s) {
  return s <= t && (s < p.I || t - s <= p.W || (p.D != -1 && (s + 1) % p.D == 0));
}

static rp_pat some_pat(rp_rng *r) {
  rp_pat p = {check_pick(r, 1, 20), check_pick(r, 0, 2) ? 0 : check_pick(r, 0, 20),
              check_pick(r, 0, 2) ? 0 : check_pick(r, 0, 9)};
  if (!check_pick(r, 0, 3)) p.D = 1;
  if (!check_pick(r, 0, 5) && p.W + p.I) p.D = -1;
  return p;
}

static const rp_json *get(const rp_json *o, const char *key) {
  const rp_json *v = rp_json_get(o, key);
  if (!v) fail_msg("no \"%s\"", key);
  return v;
}

static void number_is(const rp_json *o, const char *key, double want) {
  const double got = get(o, key)->real;
  if (!(got >= want * (1 - 1e-12) && got <= want * (1 + 1e-12)))
    fail_msg("%s: %.17g, counted %.17g", key, got, want);
}

/* Everything of some heads, counted pair by pair and token by token. */
typedef struct {
  double pairs, last, entries, blocks;
} counts;

static void count_head(counts *n, rp_pat p, int T) {
  int kept = 0, ring = 0;
  for (int t = 0; t < T; t++)
    for (int s = 0; s <= t; s++) n->pairs += sees(p, t, s);
  for (int s = 0; s < T; s++) {
    const bool stays = s < p.I || p.D == 1 || (s < T - p.W && sees(p, T, s));
    n->last += sees(p, T - 1, s);
    kept += stays;
    ring += !stays && s >= T - p.W; /* the window of the query that comes next, itself left out */
  }
  n->entries += kept + ring;
  n->blocks += (kept + 15) / 16 + (ring + 15) / 16;
}

static counts count_layer(const rp_pats *p, int layer, int T) {
  counts n = {0};
  for (int k = 0; k < p->kv_heads; k++) count_head(&n, rp_pats_get(p, layer, k), T);
  return n;
}

/* The numbers that a model and a count of its mask make. share: of the recurrence's states. */
static void numbers_are(const rp_json *o, const rp_model_settings *m, counts n, double share) {
  const double pair = 4.0 * (m->H / m->Hk) * m->h, entry = 2.0 * m->h;
  number_is(o, "pairs", n.pairs);
  number_is(o, "keys_last", n.last);
  number_is(o, "cache_entries", n.entries);
  number_is(o, "cache_blocks", n.blocks);
  number_is(o, "prefill_attention_flops", pair * n.pairs);
  number_is(o, "step_attention_flops", pair * n.last);
  number_is(o, "cache_bytes_bfloat16", 2 * entry * n.entries);
  number_is(o, "cache_bytes_float32", 4 * entry * n.entries);
  number_is(o, "block_bytes_bfloat16", 2 * 16 * entry * n.blocks);
  number_is(o, "block_bytes_float32", 4 * 16 * entry * n.blocks);
  number_is(o, "state_bytes", m->apply_re ? 2.0 * m->Hk * m->h * 4 * m->N * share : 0);
}

/* Linear layers: twice their elements a token; logits of one token. */
static double linear_flops(const rp_model_settings *m, int T) {
  rp_shape s;
  rp_error err = {0};
  double n = 0;
  check_ok(rp_shape_make(&s, m, &err), err);
  for (int i = 0; i < s.n; i++)
    if (s.p[i].ndim == 2 && s.p[i].unit >= 1 && s.p[i].unit <= m->N)
      n += 2.0 * (double)(s.p[i].rows * s.p[i].cols) * T;
  rp_shape_free(&s);
  return n + 2.0 * m->V * m->d;
}

static rp_model_settings some_model(rp_rng *r) {
  rp_error err = {0};
  const int Hk = check_pick(r, 1, 4), group = check_pick(r, 1, 3), h = 2 * check_pick(r, 1, 8);
  rp_model_settings m = {.N = check_pick(r, 1, 4),
                         .d = Hk * group * h,
                         .f = check_pick(r, 1, 50),
                         .V = check_pick(r, 2, 90),
                         .H = Hk * group,
                         .Hk = Hk,
                         .h = h,
                         .act = (rp_act)check_pick(r, 0, RP_ACTS - 1),
                         .init_range = 0.02,
                         .apply_re = check_pick(r, 0, 1),
                         .tied = true,
                         .rope = true,
                         .rope_base = 10000,
                         .rope_scale = 1,
                         .max_seq_len = check_pick(r, 1, 90)};
  check_ok(rp_pats_uniform(&m.pats, (rp_pat){1, 0, 0}, m.N, m.Hk, &err), err);
  return m;
}

static void random_pats(rp_rng *r, rp_pats *p) {
  const rp_pat few[] = {some_pat(r), some_pat(r), some_pat(r)};
  for (int i = 0; i < p->layers * p->kv_heads; i++) p->at[i] = few[check_pick(r, 0, 2)];
}

/* layers: what was said of each; NULL. */
static counts sum_of(const rp_pats *p, int T, const rp_json *layers, const rp_model_settings *m) {
  counts all = {0};
  const rp_json *layer = layers ? layers->child : NULL;
  for (int l = 0; l < p->layers; l++) {
    const counts n = count_layer(p, l, T);
    if (layers) {
      assert_non_null(layer);
      numbers_are(layer, m, n, 1.0 / p->layers);
      layer = layer->next;
    }
    all.pairs += n.pairs;
    all.last += n.last;
    all.entries += n.entries;
    all.blocks += n.blocks;
  }
  return all;
}

static void numbers_are_the_mask_of_every_head(void **state) {
  (void)state;
  rp_rng r = check_rng(9);
  for (int round = 0; round < 300; round++) {
    rp_error err = {0};
    rp_model_settings m = some_model(&r);
    rp_config *c;
    rp_json_doc *doc;
    char *settings, *text;
    check_ok(rp_model_settings_json(&m, true, &settings, &err), err);
    check_ok(rp_config_from_text(&c, settings, strlen(settings), "m.json", NULL, 0, false, &err),
             err);
    rp_pattern_opts o;
    rp_pattern_defaults(&o);
    random_pats(&r, &m.pats);
    char *pattern = rp_pats_format(&m.pats);
    const int T = check_pick(&r, 0, 1) ? check_pick(&r, 1, 90) : m.max_seq_len;
    o.pattern = pattern;
    o.config = c;
    o.seq_len = T == m.max_seq_len ? 0 : T;
    o.json = 1;
    check_ok(rp_pattern_info(&o, &text, NULL, &err), err);
    check_ok(rp_json_parse(&doc, text, strlen(text), "info", &err), err);
    const rp_json *root = rp_json_root(doc), *all = get(root, "model"), *d = get(root, "dense");
    const double heads = m.N * m.Hk, linear = linear_flops(&m, T), step = linear_flops(&m, 1);
    const counts n = sum_of(&m.pats, T, get(root, "by_layer"), &m);
    number_is(root, "seq_len", T);
    number_is(root, "keys_last", n.last / heads);
    number_is(root, "keys_mean", n.pairs / heads / T);
    number_is(root, "keys_kept", n.entries / heads);
    numbers_are(all, &m, n, 1);
    number_is(all, "prefill_flops", linear + get(all, "prefill_attention_flops")->real);
    number_is(all, "step_flops", step + get(all, "step_attention_flops")->real);
    assert_string_equal(get(root, "pattern")->string, pattern);
    rp_pats_free(&m.pats);
    check_ok(rp_pats_uniform(&m.pats, (rp_pat){1, 0, 0}, m.N, m.Hk, &err), err);
    numbers_are(d, &m, sum_of(&m.pats, T, NULL, &m), 1);
    rp_json_free(doc);
    rp_free(text);
    rp_free(settings);
    rp_free(pattern);
    rp_config_free(c);
    rp_pats_free(&m.pats);
  }
}

/* A cell's share and set, counted pair by pair; rows of up to 64 queries are not sampled. */
static void cells_are_the_mask(void **state) {
  (void)state;
  rp_rng r = check_rng(10);
  for (int round = 0; round < 300; round++) {
    const rp_pat p = some_pat(&r);
    const int T = check_pick(&r, 1, 300), rows = check_pick(&r, T > 100 ? 8 : 1, T < 64 ? T : 64);
    const int columns = check_pick(&r, 1, T);
    for (int row = 0; row < rows; row++) {
      for (int col = 0; col < columns; col++) {
        int all = 0, set[3] = {0};
        for (int t = T * row / rows; t < T * (row + 1) / rows; t++) {
          for (int s = T * col / columns; s < T * (col + 1) / columns && s <= t; s++, all++)
            if (sees(p, t, s)) set[s < p.I ? 0 : t - s <= p.W ? 1 : 2]++;
        }
        const rp_mask_cell cell = rp_mask_at(p, T, rows, columns, row, col);
        const int seen = set[0] + set[1] + set[2];
        if (!all) {
          assert_true(cell.share == -1);
          continue;
        }
        check_close(cell.share, (double)seen / all, 1e-12);
        const int most = cell.most == 'i' ? 0 : cell.most == 'l' ? 1 : 2;
        assert_true(seen ? cell.most != '.' : cell.most == '.');
        for (int k = 0; k < 3 && seen; k++) assert_true(set[most] >= set[k]);
      }
    }
  }
}

static void drawing_is(const char *pattern, int T, int layers, int heads, bool utf8,
                       const char *want) {
  rp_error err = {0};
  char *text;
  rp_pattern_opts o;
  rp_pattern_defaults(&o);
  o.pattern = pattern;
  o.seq_len = T;
  o.layers = layers;
  o.kv_heads = heads;
  o.utf8 = utf8;
  check_ok(rp_pattern_info(&o, &text, NULL, &err), err);
  const char *at = strstr(text, "\nmask");
  assert_non_null(at);
  assert_string_equal(strchr(at + 1, '\n') + 1, want);
  rp_free(text);
}

static void drawings_are_these(void **state) {
  (void)state;
  drawing_is("D=4,W=2,I=1", 8, 1, 1, false,
             "  i\n  il\n  ill\n  illl\n  i.lll\n  i..lll\n  i..dlll\n  i..d.lll\n");
  drawing_is("D=1x1+4x1", 4, 3, 2, false,
             "A  D=1\n  l\n  dl\n  ddl\n  dddl\nB  D=4\n  l\n  .l\n  ..l\n  ...l\n"
             "\nlayout, a letter a kv head\n  layers    0 to 2    AB\n"
             "  A  D=1                          3 heads, the last query sees 4 keys, a cache keeps "
             "4\n"
             "  B  D=4                          3 heads, the last query sees 1 keys, a cache keeps "
             "1\n");
}

/* Long sequences: lines of 64 cells at most, in the characters that were allowed. */
static void long_sequences_are_drawn_in_cells(void **state) {
  (void)state;
  for (int utf8 = 0; utf8 < 2; utf8++) {
    rp_error err = {0};
    char *text, *svg;
    rp_pattern_opts o;
    rp_pattern_defaults(&o);
    o.pattern = "D=64,W=256,I=4";
    o.seq_len = 1 << 30;
    o.utf8 = utf8;
    check_ok(rp_pattern_info(&o, &text, &svg, &err), err);
    const char *at = strchr(strstr(text, "\nmask") + 1, '\n') + 1;
    int rows = 0;
    for (const char *line = at; *line; line = strchr(line, '\n') + 1, rows++) {
      int cells = 0;
      for (const char *c = line + 2; *c != '\n'; c++) cells += (*c & 0xc0) != 0x80;
      assert_int_equal(cells, 2 * (rows + 1));
    }
    assert_int_equal(rows, 32);
    bool ascii = true;
    for (const char *c = text; *c; c++) ascii = ascii && (unsigned char)*c < 128;
    assert_true(ascii == !utf8);
    assert_true(!strchr(text, '\033'));
    assert_true(rp_starts_with(svg, "<svg ") && rp_ends_with(svg, "</svg>\n"));
    rp_free(text);
    rp_free(svg);
  }
}

static void wrong_sizes_get_a_sentence(void **state) {
  (void)state;
  rp_error err = {0};
  char *text = NULL;
  rp_pattern_opts o;
  rp_pattern_defaults(&o);
  o.pattern = "D=4";
  o.seq_len = -1;
  check_fails(rp_pattern_info(&o, &text, NULL, &err), RP_USAGE, err, "from 1 to 2^30");
  o.seq_len = ((int64_t)1 << 30) + 1;
  check_fails(rp_pattern_info(&o, &text, NULL, &err), RP_USAGE, err, "from 1 to 2^30");
  o.seq_len = 8;
  o.layers = 0;
  check_fails(rp_pattern_info(&o, &text, NULL, &err), RP_USAGE, err, "from 1 to 1024");
  o.layers = 2;
  o.pattern = "D=[1,2,3]";
  check_fails(rp_pattern_info(&o, &text, NULL, &err), RP_USAGE, err, "the model 2 layers");
  o.model = "no/such/model";
  check_fails(rp_pattern_info(&o, &text, NULL, &err), RP_BAD_DATA, err, "no/such/model");
  assert_true(!text);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(numbers_are_the_mask_of_every_head),
    cmocka_unit_test(cells_are_the_mask),
    cmocka_unit_test(drawings_are_these),
    cmocka_unit_test(long_sequences_are_drawn_in_cells),
    cmocka_unit_test(wrong_sizes_get_a_sentence),
};
CHECK_MAIN(tests)
