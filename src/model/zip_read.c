/* zip_read.c - entries of a zip archive through libzip.
 *
 * libzip tells names, sizes and how an entry is packed, but not where its bytes lie. Checkpoints
 * are large and stored without compression, so their tensors should be the mapped pages: the local
 * headers are walked once, and whatever does not fit libzip's list is unpacked instead. */
#include "model/zip_read.h"

#include <stdlib.h>
#include <string.h>

#if RATPLUS_WITH_ZIP

#include <zip.h>

typedef struct {
  const char *name; /* libzip's */
  uint64_t bytes, packed;
  bool stored;
  const uint8_t *at;
} entry;

struct rp_zip {
  zip_t *archive;
  rp_map map;
  const char *path;
  entry *e;
  size_t n;
  entry **by_name; /* sorted */
};

enum {
  LOCAL = 0x04034b50,
  DESCRIPTOR = 0x08074b50,
  CENTRAL = 0x02014b50,
  END64 = 0x06064b50,
  END = 0x06054b50
};

static int by_text(const void *a, const void *b) {
  return strcmp((*(entry *const *)a)->name, (*(entry *const *)b)->name);
}

static uint32_t u32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint32_t u16(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }

static bool is_header(rp_map m, uint64_t at) {
  if (at > m.bytes || m.bytes - at < 4) return false;
  const uint32_t sig = u32(m.data + at);
  return sig == LOCAL || sig == CENTRAL || sig == END64 || sig == END;
}

/* First byte after an entry's data, past a data descriptor. 0: not recognised. */
static uint64_t after_data(rp_map m, uint64_t end) {
  static const uint64_t lengths[] = {0, 16, 24};
  for (int i = 0; i < 3; i++) {
    if (i && (m.bytes - end < 4 || u32(m.data + end) != DESCRIPTOR)) continue;
    if (is_header(m, end + lengths[i])) return end + lengths[i];
  }
  return 0;
}

static entry *find_entry(const rp_zip *z, const char *name, size_t len) {
  size_t lo = 0, hi = z->n;
  while (lo < hi) {
    const size_t mid = lo + (hi - lo) / 2;
    int c = strncmp(z->by_name[mid]->name, name, len);
    if (!c && z->by_name[mid]->name[len]) c = 1;
    if (!c) return z->by_name[mid];
    if (c < 0) {
      lo = mid + 1;
    } else {
      hi = mid;
    }
  }
  return NULL;
}

/* Sets where stored entries lie; stops at the first thing that does not fit libzip's list. */
static void walk(rp_zip *z) {
  const rp_map m = z->map;
  uint64_t at = 0;
  while (at <= m.bytes && m.bytes - at >= 30 && u32(m.data + at) == LOCAL) {
    const uint8_t *h = m.data + at;
    const uint64_t name_len = u16(h + 26), head = 30 + name_len + u16(h + 28);
    if (m.bytes - at < head) return;
    entry *e = find_entry(z, (const char *)h + 30, (size_t)name_len);
    if (!e || m.bytes - at - head < e->packed) return;
    const uint64_t end = at + head + e->packed;
    if (e->stored && e->bytes == e->packed && !u16(h + 8)) e->at = m.data + at + head;
    at = after_data(m, end);
    if (!at) {
      e->at = NULL;
      return;
    }
  }
}

static rp_status list_entries(rp_zip *z, rp_error *err) {
  const zip_int64_t n = zip_get_num_entries(z->archive, 0);
  const size_t count = n > 0 ? (size_t)n : 0;
  z->e = rp_calloc(count + 1, sizeof *z->e);
  z->by_name = rp_calloc(count + 1, sizeof *z->by_name);
  if (!z->e || !z->by_name)
    return rp_fail_memory(err, (count + 1) * sizeof *z->e, "the list of an archive's entries");
  for (z->n = 0; z->n < count; z->n++) {
    zip_stat_t s;
    const zip_uint64_t want = ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE |
                              ZIP_STAT_COMP_METHOD | ZIP_STAT_ENCRYPTION_METHOD;
    if (zip_stat_index(z->archive, z->n, 0, &s) || (s.valid & want) != want)
      return rp_fail(err, RP_BAD_DATA,
                     "%s: entry %zu of the archive cannot be read; the file is "
                     "damaged",
                     z->path, z->n);
    if (s.encryption_method != ZIP_EM_NONE)
      return rp_fail(err, RP_BAD_DATA, "%s: entry %s is encrypted; save it without a password",
                     z->path, s.name);
    z->e[z->n] = (entry){.name = s.name,
                         .bytes = s.size,
                         .packed = s.comp_size,
                         .stored = s.comp_method == ZIP_CM_STORE};
    z->by_name[z->n] = &z->e[z->n];
  }
  if (z->n) qsort(z->by_name, z->n, sizeof *z->by_name, by_text);
  return RP_OK;
}

rp_status rp_zip_open(rp_zip **out, rp_map map, const char *path, rp_error *err) {
  zip_error_t why;
  *out = NULL;
  rp_zip *z = rp_calloc(1, sizeof *z);
  if (!z) return rp_fail_memory(err, sizeof *z, "an open archive");
  z->map = map;
  z->path = path;
  zip_error_init(&why);
  zip_source_t *source = zip_source_buffer_create(map.data, map.bytes, 0, &why);
  if (source) z->archive = zip_open_from_source(source, ZIP_RDONLY, &why);
  if (source && !z->archive) zip_source_free(source);
  rp_status st = RP_OK;
  if (!z->archive) {
    st = zip_error_code_zip(&why) == ZIP_ER_MEMORY
             ? rp_fail_memory(err, map.bytes, "an open archive")
             : rp_fail(err, RP_BAD_DATA, "%s: %s; the file is damaged or cut", path,
                       zip_error_strerror(&why));
  } else {
    st = list_entries(z, err);
  }
  zip_error_fini(&why);
  if (st) {
    rp_zip_close(z);
    return st;
  }
  walk(z);
  *out = z;
  return RP_OK;
}

void rp_zip_close(rp_zip *z) {
  if (!z) return;
  if (z->archive) zip_discard(z->archive);
  rp_free(z->e);
  rp_free(z->by_name);
  rp_free(z);
}

size_t rp_zip_count(const rp_zip *z) { return z->n; }
const char *rp_zip_name(const rp_zip *z, size_t i) { return z->e[i].name; }
uint64_t rp_zip_bytes(const rp_zip *z, size_t i) { return z->e[i].bytes; }
const uint8_t *rp_zip_mapped(const rp_zip *z, size_t i) { return z->e[i].at; }

int64_t rp_zip_find(const rp_zip *z, const char *name) {
  const entry *e = find_entry(z, name, strlen(name));
  return e ? e - z->e : -1;
}

rp_status rp_zip_unpack(const rp_zip *z, size_t i, void *out, rp_error *err) {
  zip_file_t *f = zip_fopen_index(z->archive, i, 0);
  const uint64_t bytes = z->e[i].bytes;
  uint64_t have = 0;
  uint8_t extra;
  zip_int64_t n = f ? 0 : -1;
  while (f && have < bytes && (n = zip_fread(f, (uint8_t *)out + have, bytes - have)) > 0)
    have += (uint64_t)n;
  /* One byte more makes libzip see the end and check the checksum. */
  if (have == bytes && n >= 0) n = zip_fread(f, &extra, 1);
  const bool bad = n != 0 || have != bytes;
  if (f) zip_fclose(f);
  if (!bad) return RP_OK;
  return rp_fail(err, RP_BAD_DATA,
                 "%s: entry %s of the archive cannot be unpacked (%s); the file "
                 "is damaged",
                 z->path, z->e[i].name, zip_strerror(z->archive));
}

#else

rp_status rp_zip_open(rp_zip **out, rp_map map, const char *path, rp_error *err) {
  (void)map;
  *out = NULL;
  return rp_fail(err, RP_USAGE,
                 "%s: this program was built without libzip, so it reads no .pth; build it with "
                 "libzip, or convert the file to a model directory elsewhere",
                 path);
}
void rp_zip_close(rp_zip *z) { (void)z; }
size_t rp_zip_count(const rp_zip *z) { return (void)z, 0; }
const char *rp_zip_name(const rp_zip *z, size_t i) { return (void)z, (void)i, ""; }
int64_t rp_zip_find(const rp_zip *z, const char *name) { return (void)z, (void)name, -1; }
uint64_t rp_zip_bytes(const rp_zip *z, size_t i) { return (void)z, (void)i, 0; }
const uint8_t *rp_zip_mapped(const rp_zip *z, size_t i) { return (void)z, (void)i, NULL; }
rp_status rp_zip_unpack(const rp_zip *z, size_t i, void *out, rp_error *err) {
  (void)z;
  (void)i;
  (void)out;
  return rp_fail(err, RP_USAGE, "this program was built without libzip");
}

#endif
