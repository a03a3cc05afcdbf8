/* machine_cache.h - what `ratplus bench machine` found, kept until the machine is booted again. */
#ifndef RATPLUS_CLI_MACHINE_CACHE_H
#define RATPLUS_CLI_MACHINE_CACHE_H

#include <stdbool.h>

/* The file for this boot, version of the program, count of threads and cap of instructions, under
 * $XDG_CACHE_HOME or ~/.cache; false, the error printed, where neither is told. */
bool cli_machine_file(char *path, int size, int threads, bool json);
/* Prints the file; false: there is none. */
bool cli_machine_print(const char *path);
/* Writes it, with the folders it lies in; an exit code, the error printed. */
int cli_machine_keep(char *path, const char *text);

#endif
