#include "train/together.h"

#include <string.h>

#include "base/file.h"
#include "base/str.h"

/* ---- the same run? ---- */

static uint64_t add_hash(uint64_t h, const void *data, size_t n) {
  const uint8_t *p = data;
  for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * UINT64_C(1099511628211);
  return h;
}

static const uint64_t hash_start = UINT64_C(14695981039346656037);

/* Size and evenly spread pieces of a file: all of a small one, 64 pages of a large one. */
static uint64_t hash_file(const char *path) {
  enum { PIECES = 64, PIECE = 4096 };
  rp_map m;
  if (!path || rp_map_open(&m, path, NULL)) return 0;
  uint64_t h = add_hash(hash_start, &m.bytes, sizeof m.bytes);
  if (m.bytes <= PIECES * PIECE) {
    h = add_hash(h, m.data, m.bytes);
  } else {
    const size_t step = (m.bytes - PIECE) / (PIECES - 1);
    for (size_t i = 0; i < PIECES; i++) h = add_hash(h, m.data + i * step, PIECE);
  }
  rp_map_close(&m);
  return h;
}

static rp_status same_files(rp_comm *c, const rp_load_settings *s, const char *what,
                            rp_error *err) {
  char name[64];
  const char *const paths[] = {s->file, s->input, s->label};
  rp_snprintf(name, sizeof name, "content of data.%s's token file", what);
  for (int i = 0; i < 3; i++)
    RP_TRY(rp_comm_same(c, name, "copy the same file to all machines, or put it where all see it",
                        hash_file(paths[i]), err));
  return RP_OK;
}

rp_status rp_together_same(rp_comm *c, const rp_settings *s, const rp_config *config, int64_t step,
                           rp_error *err) {
  char *text = NULL;
  if (!c || rp_comm_size(c) == 1) return RP_OK;
  const char *build = rp_build_info();
  RP_TRY(rp_comm_same(c, "version of the program", "install the same on all machines",
                      add_hash(hash_start, build, strlen(build)), err));
  RP_TRY(rp_comm_agree(c, rp_config_yaml(config, &text, err), err));
  const uint64_t h = add_hash(hash_start, text, strlen(text));
  rp_free(text);
  RP_TRY(rp_comm_same(c, "configuration", "start all with the same words and files", h, err));
  RP_TRY(same_files(c, &s->train, "train", err));
  RP_TRY(same_files(c, &s->val, "val", err));
  return rp_comm_same(c, "latest checkpoint in the run directory",
                      "run_dir= must lie on a file system that all ranks share", (uint64_t)step,
                      err);
}

/* ---- an iteration ---- */

size_t rp_together_bytes(const rp_comm *c) {
  return c ? (size_t)rp_comm_size(c) * sizeof(rp_together) : 0;
}

rp_status rp_together_report(rp_comm *c, rp_together *t, void *scratch, rp_error *err) {
  rp_together *all = scratch;
  t->first_bad = t->bad ? 0 : -1;
  t->slowest = -1;
  if (!c || rp_comm_size(c) == 1) return RP_OK;
  const int n = rp_comm_size(c);
  _Static_assert(sizeof *t % 8 == 0, "a report travels in whole words");
  RP_TRY(rp_comm_host_run(c, RP_COMM_GATHER, RP_I64, t, all, sizeof *t / 8, 0, err));
  *t = (rp_together){.save = all[0].save, .first_bad = -1};
  for (int r = 0; r < n; r++) {
    t->stop |= all[r].stop;
    t->bad |= all[r].bad;
    if (all[r].bad && t->first_bad < 0) t->first_bad = r;
    if (all[r].seconds > t->seconds) t->seconds = all[r].seconds;
    if (all[r].waited < all[t->slowest].waited) t->slowest = r;
    t->waited += all[r].waited / n;
  }
  return RP_OK;
}

rp_status rp_together_text(rp_comm *c, int root, char *text, size_t cap, rp_error *err) {
  if (!c || rp_comm_size(c) == 1) return RP_OK;
  return rp_comm_host_run(c, RP_COMM_BROADCAST, RP_I64, text, text, (int64_t)(cap / 8), root, err);
}
