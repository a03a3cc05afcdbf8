/* The folder the reference would put a run in: its name spells out what the run is. */
#include <string.h>

#include "config/compose.h"
#include "config/typed.h"

/* 64-bit FNV-1a: a name for a list that is too long to be one. */
static uint64_t fnv(const char *s) {
  uint64_t h = 14695981039346656037u;
  for (; *s; s++) h = (h ^ (unsigned char)*s) * 1099511628211u;
  return h;
}

static void add_value(const rp_config *c, const char *path, const char *without, rp_str *out) {
  const rp_node *n = rp_node_at(c->root, path);
  if (!n || n->kind == RP_NODE_NULL) {
    rp_str_add(out, without);
  } else if ((n->kind == RP_NODE_LIST || n->kind == RP_NODE_MAP) && n->count > 4) {
    rp_str all = {0};
    rp_node_text(n, &all);
    rp_node_text(n->child, out);
    rp_node_text(n->child->next, out);
    rp_str_addf(out, "%08x", (unsigned)(fnv(all.s ? all.s : "") & 0xffffffffu));
    if (all.failed) out->failed = true;
    rp_str_free(&all);
  } else {
    rp_str one = {0};
    rp_node_text(n, &one);
    for (const char *p = one.s; p && *p; p++) {
      if (*p != ' ' && *p != '/') rp_str_addn(out, p, 1);
    }
    if (one.failed) out->failed = true;
    rp_str_free(&one);
  }
}

static void add_model(const rp_config *c, const rp_settings *s, rp_str *b) {
  const rp_model_settings *m = &s->model;
  add_value(c, "task._name_", "lm", b);
  rp_str_add(b, "-");
  add_value(c, "model.embedding._name_", "lm", b);
  rp_str_add(b, "pos");
  add_value(c, "model.embedding.pe._name_", "rope", b);
  if (m->rope) add_value(c, "model.embedding.pe.base", "10000", b);
  rp_str_add(b, "-");
  add_value(c, "model.backbone._name_", "sequence", b);
  rp_str_addf(b, "d%dl%d-", m->d, m->N);
  add_value(c, "model.backbone.seq_cell._name_", "ratplus", b);
  if (m->cell == RP_CELL_RATPLUS) {
    rp_str_add(b, "d");
    add_value(c, "model.backbone.seq_cell.dilation_size", "64", b);
    rp_str_add(b, "p");
    add_value(c, "model.backbone.seq_cell.initial_size", "0", b);
    rp_str_add(b, "w");
    add_value(c, "model.backbone.seq_cell.local_size", "0", b);
    rp_str_addf(b, "re%sjointtrain%s", m->apply_re ? "True" : "False",
                m->joint_train ? "True" : "False");
  }
  rp_str_add(b, "-");
  add_value(c, "model.backbone.hidden_cell._name_", "ffn", b);
  rp_str_add(b, "-");
  add_value(c, "model.head._name_", "lm", b);
}

char *rp_run_dir_default(const rp_config *c, const rp_settings *s) {
  rp_str b = {0};
  char lr[32];
  rp_str_add(&b, s->trainer.save_dir);
  while (b.len > 1 && b.s[b.len - 1] == '/') b.s[--b.len] = '\0';
  rp_str_add(&b, "/");
  add_value(c, "data._name_", "data", &b);
  rp_str_addf(&b, "%d-", s->train.T);
  add_model(c, s, &b);
  rp_format_f64(lr, s->optim.lr, true);
  rp_str_add(&b, "/");
  for (const char *p = lr; *p; p++) rp_str_addn(&b, *p == '.' ? "x" : p, 1);
  rp_str_add(&b, "_");
  add_value(c, "data.global_batch_size", "1", &b);
  rp_str_addf(&b, "_%d", s->trainer.max_epoch);
  return rp_str_take(&b);
}
