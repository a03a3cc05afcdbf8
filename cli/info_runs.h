/* info_runs.h - the parts of `ratplus info` about runs: what a run directory tells, loss curves, and
 * what a run would take before it starts. Each returns an exit code, its error printed. */
#ifndef RATPLUS_CLI_INFO_RUNS_H
#define RATPLUS_CLI_INFO_RUNS_H

#include "cli/cli.h"

/* Run directories, one after the other (JSON: one object a line). svg: their loss curves as well,
 * into this file; NULL: not. */
int cli_info_runs(const char *const *dirs, size_t n, bool json, const char *svg);
/* The run that the words of the command line describe (experiment=...): sizes, steps, memory by
 * group, FLOPs, and what would make it fit. */
int cli_info_plan(const cli_args *a, bool json, int ranks);

#endif
