/* What Hydra itself composes of the same files and words: tests/data/config/expected.json, made by
 * tools/config_expected.py. */
#include "config_box.h"

#include "base/json.h"
#include "config/compose.h"

static rp_json_doc *doc;
static char *text;

static int open_expected(void **state) {
  (void)state;
  rp_error err = {0};
  size_t len;
  if (rp_file_read(check_source("tests/data/config/expected.json"), 1 << 26, &text, &len, &err) ||
      rp_json_parse(&doc, text, len, "expected.json", &err)) {
    printf("%s\n", err.text);
    return 1;
  }
  return 0;
}

static int close_expected(void **state) {
  (void)state;
  rp_json_free(doc);
  rp_free(text);
  return 0;
}

static bool same(const rp_node *n, const rp_json *j) {
  switch (j->type) {
    case RP_JSON_NULL: /* of a real: not finite */
      return n->kind == RP_NODE_NULL || (n->kind == RP_NODE_REAL && !(n->real - n->real == 0));
    case RP_JSON_BOOL: return n->kind == RP_NODE_BOOL && n->integer == j->integer;
    case RP_JSON_INT: return n->kind == RP_NODE_INT && n->integer == j->integer;
    case RP_JSON_REAL: return n->kind == RP_NODE_REAL && n->real == j->real;
    case RP_JSON_STRING: return n->kind == RP_NODE_STRING && strcmp(n->string, j->string) == 0;
    case RP_JSON_ARRAY:
    case RP_JSON_OBJECT: break;
  }
  if (n->kind != (j->type == RP_JSON_ARRAY ? RP_NODE_LIST : RP_NODE_MAP)) return false;
  if (n->count != j->count) return false;
  const rp_json *k = j->child;
  for (const rp_node *c = n->child; c; c = c->next, k = k->next) {
    if (k->key && strcmp(k->key, c->key) != 0) return false; /* the order is the files' */
    if (!same(c, k)) return false;
  }
  return true;
}

static void write_files(const rp_json *files, const char *dir) {
  rp_error err = {0};
  for (const rp_json *f = files->child; f; f = f->next) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, f->key);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    check_ok(rp_mkdirs(path, &err), err);
    *slash = '/';
    check_ok(rp_file_replace(path, f->string, f->len, false, &err), err);
  }
}

static bool one_case(const rp_json *j, const char *dir) {
  const char *words[32];
  size_t n = 0;
  rp_error err = {0};
  rp_config *c = NULL;
  rp_config_opts o;
  for (const rp_json *w = rp_json_get(j, "words")->child; w; w = w->next) words[n++] = w->string;
  rp_config_defaults(&o);
  o.configs_dir = dir;
  const rp_status st = rp_config_compose(&c, words, n, &o, &err);
  const rp_json *value = rp_json_get(j, "value");
  const bool ok = value ? !st && same(c->root, value) : st == RP_USAGE && err.text[0];
  if (!ok) {
    char *got = NULL;
    if (c) rp_config_json(c, &got, NULL);
    printf("case:");
    for (size_t i = 0; i < n; i++) printf(" %s", words[i]);
    const rp_json *files = rp_json_get(j, "files");
    if (files && files->count == 1) printf(" over\n%s", files->child->string);
    printf("\ngot: %s\n", got ? got : err.text);
    rp_free(got);
  }
  rp_config_free(c);
  return ok;
}

static void composes_as_hydra(void **state) {
  (void)state;
  box_needs_yaml();
  int bad = 0, n = 0;
  for (const rp_json *j = rp_json_root(doc)->child; j; j = j->next, n++) {
    const rp_json *files = rp_json_get(j, "files");
    char name[32];
    snprintf(name, sizeof name, "tree%d", n);
    const char *dir = files ? check_path(name) : check_source("configs");
    if (files) write_files(files, dir);
    bad += !one_case(j, dir);
    if (files) rp_remove_tree(dir, NULL);
  }
  assert_true(n > 400);
  assert_int_equal(bad, 0);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(composes_as_hydra, open_expected, close_expected)};
CHECK_MAIN(tests)
