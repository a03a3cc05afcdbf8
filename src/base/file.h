/* file.h - files: mapped for reading, written beside and renamed, synced. Nothing here leaves a
 * half-written file under a final name. */
#ifndef RP_BASE_FILE_H
#define RP_BASE_FILE_H

#include "base/mem.h"

/* A file mapped read-only (MAP_PRIVATE). data is NULL when bytes is 0. */
typedef struct {
  const uint8_t *data;
  size_t bytes;
} rp_map;
rp_status rp_map_open(rp_map *m, const char *path, rp_error *err);
void rp_map_close(rp_map *m); /* {0} is fine */

/* The whole file as a NUL-terminated string of at most `most` bytes (free with rp_free). */
rp_status rp_file_read(const char *path, size_t most, char **text, size_t *len, rp_error *err);

/* A file being written as PATH.tmp-PID; commit syncs it, renames it to PATH and syncs the folder.
 * Errors are sticky and reported at commit. */
typedef struct rp_out rp_out;
rp_status rp_out_open(rp_out **o, const char *path, rp_error *err);
void rp_out_write(rp_out *o, const void *data, size_t bytes); /* buffered */
uint64_t rp_out_at(const rp_out *o);                          /* bytes written so far */
rp_status rp_out_commit(rp_out *o, rp_error *err);            /* frees o, also on failure */
void rp_out_cancel(rp_out *o);                                /* removes the temporary; NULL fine */

/* A small file replaced atomically. `sync` = also durable when this returns. */
rp_status rp_file_replace(const char *path, const void *data, size_t bytes, bool sync,
                          rp_error *err);

rp_status rp_mkdirs(const char *path, rp_error *err); /* like mkdir -p */
rp_status rp_sync_dir(const char *path, rp_error *err);
/* Renames and syncs both parents. */
rp_status rp_rename(const char *from, const char *to, rp_error *err);
/* Removes a file, or a folder with what is in it. Never follows symbolic links. */
rp_status rp_remove_tree(const char *path, rp_error *err);
bool rp_exists(const char *path);
bool rp_is_dir(const char *path);
bool rp_is_file(const char *path);
/* Size in bytes, or -1. */
int64_t rp_file_size(const char *path);
/* Free bytes on the file system that holds `path` (or its nearest existing parent); 0 unknown. */
uint64_t rp_disk_free(const char *path);
/* dir + "/" + name (free with rp_free); NULL when memory is short. */
char *rp_path_join(const char *dir, const char *name);
/* Names in a folder, sorted by bytes, without . and .. (free each and the array with rp_free). */
rp_status rp_list_dir(const char *path, char ***names, size_t *n, rp_error *err);
void rp_list_free(char **names, size_t n);

#endif
