#include "text/part.h"

#include <string.h>

enum { TRAILER = 8 };
#define MAGIC 0x3174726170706172u /* "rappart1" */

struct rp_part_writer {
  rp_out *ids, *idx;
  int num_bytes;
  rp_part_stats n;
};

static char *part_path(const char *dir, const char *name, const char *ending) {
  rp_str b = {0};
  rp_str_addf(&b, "%s/%s%s", dir, name, ending);
  return rp_str_take(&b);
}

static bool read_trailer(const rp_map *idx, uint64_t t[TRAILER]) {
  if (idx->bytes < TRAILER * sizeof *t || idx->bytes % sizeof *t) return false;
  memcpy(t, idx->data + idx->bytes - TRAILER * sizeof *t, TRAILER * sizeof *t);
  return t[0] == MAGIC && t[1] == idx->bytes / sizeof *t - TRAILER;
}

rp_status rp_part_find(const char *dir, const char *name, int num_bytes, bool *found,
                       rp_part_stats *out, rp_error *err) {
  rp_status st = RP_OK;
  uint64_t t[TRAILER];
  rp_map idx = {0};
  char *a = part_path(dir, name, ".bin"), *b = part_path(dir, name, ".idx");
  *found = false;
  if (!a || !b) st = rp_fail_memory(err, strlen(dir), "the name of a part");
  if (!st && rp_is_file(a) && rp_is_file(b) && !rp_map_open(&idx, b, NULL)) {
    *found = read_trailer(&idx, t) && t[6] == (uint64_t)num_bytes &&
             rp_file_size(a) == (int64_t)(t[2] * (uint64_t)num_bytes);
    if (*found)
      *out = (rp_part_stats){
          .docs = t[1], .tokens = t[2], .empty = t[3], .invalid = t[4], .bytes = t[5]};
  }
  rp_map_close(&idx);
  rp_free(a);
  rp_free(b);
  return st;
}

rp_status rp_part_create(rp_part_writer **out, const char *dir, const char *name, int num_bytes,
                         rp_error *err) {
  rp_status st = RP_OK;
  char *a = part_path(dir, name, ".bin"), *b = part_path(dir, name, ".idx");
  rp_part_writer *w = rp_calloc(1, sizeof *w);
  *out = NULL;
  if (!a || !b || !w) RP_GO(rp_fail_memory(err, sizeof *w, "a part"));
  w->num_bytes = num_bytes;
  RP_GO(rp_out_open(&w->ids, a, err));
  RP_GO(rp_out_open(&w->idx, b, err));
  *out = w;
  w = NULL;
fail:
  rp_part_cancel(w);
  rp_free(a);
  rp_free(b);
  return st;
}

void rp_part_add(rp_part_writer *w, const int32_t *ids, size_t n) {
  uint8_t buf[4096];
  const size_t each = (size_t)w->num_bytes, room = sizeof buf / each;
  w->n.tokens += n;
  while (n) {
    const size_t take = n < room ? n : room;
    for (size_t i = 0; i < take; i++)
      for (size_t b = 0; b < each; b++) buf[i * each + b] = (uint8_t)((uint32_t)ids[i] >> (8 * b));
    rp_out_write(w->ids, buf, take * each);
    ids += take;
    n -= take;
  }
}

void rp_part_end_doc(rp_part_writer *w) {
  w->n.docs++;
  rp_out_write(w->idx, &w->n.tokens, sizeof w->n.tokens);
}

rp_part_stats *rp_part_counts(rp_part_writer *w) { return &w->n; }

rp_status rp_part_commit(rp_part_writer *w, rp_error *err) {
  const uint64_t t[TRAILER] = {
      MAGIC, w->n.docs, w->n.tokens, w->n.empty, w->n.invalid, w->n.bytes, (uint64_t)w->num_bytes,
      0};
  rp_out_write(w->idx, t, sizeof t);
  rp_status st = rp_out_commit(w->idx, err);
  w->idx = NULL;
  if (!st) {
    st = rp_out_commit(w->ids, err);
    w->ids = NULL;
  }
  rp_part_cancel(w);
  return st;
}

void rp_part_cancel(rp_part_writer *w) {
  if (!w) return;
  rp_out_cancel(w->ids);
  rp_out_cancel(w->idx);
  rp_free(w);
}

rp_status rp_part_open(rp_part *p, const char *dir, const char *name, rp_error *err) {
  rp_status st = RP_OK;
  uint64_t t[TRAILER];
  char *a = part_path(dir, name, ".bin"), *b = part_path(dir, name, ".idx");
  *p = (rp_part){0};
  if (!a || !b) RP_GO(rp_fail_memory(err, strlen(dir), "the name of a part"));
  RP_GO(rp_map_open(&p->ids, a, err));
  RP_GO(rp_map_open(&p->idx, b, err));
  if (!read_trailer(&p->idx, t))
    RP_GO(rp_fail(err, RP_BAD_DATA, "%s: broken; remove %s and tokenize again", b, dir));
fail:
  if (st) rp_part_close(p);
  rp_free(a);
  rp_free(b);
  return st;
}

void rp_part_close(rp_part *p) {
  rp_map_close(&p->ids);
  rp_map_close(&p->idx);
}

uint64_t rp_part_end(const rp_part *p, int64_t d) {
  uint64_t end = 0;
  if (d >= 0) memcpy(&end, p->idx.data + (size_t)d * sizeof end, sizeof end);
  return end;
}
