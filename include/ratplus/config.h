/* ratplus/config.h - a composed configuration: YAML files, group choices and key=value words, as
 * the reference's users type them. Opaque; immutable once composed; any thread may read it. */
#ifndef RATPLUS_CONFIG_H
#define RATPLUS_CONFIG_H

#include "ratplus/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rp_config rp_config;

typedef struct {
  size_t size;             /* sizeof this struct; filled by rp_config_defaults */
  const char *configs_dir; /* a tree of groups; NULL: searched (docs/configuration.md) */
  const char *program_dir; /* folder of the program, for PREFIX/share; NULL: not searched */
  const char *file;        /* an already composed file (.yaml or .json) instead of a tree; NULL */
  int need_experiment;     /* no experiment= is an error that lists them */
} rp_config_opts;
RP_API void rp_config_defaults(rp_config_opts *o);

/* Composes words ("experiment=X", "a.b=v", "+a=v", "~a", "group@package=name", "configs_dir=P") over
 * the tree and resolves it. The words are copied. Free with rp_config_free. RP_USAGE with file,
 * line and column, or the word, and the nearest names. */
RP_API rp_status rp_config_compose(rp_config **out, const char *const *words, size_t n,
                                   const rp_config_opts *opts, rp_error *err);
RP_API void rp_config_free(rp_config *c);

/* The composed and resolved configuration, keys in file order (free with rp_free). A build without
 * libyaml writes JSON for both, which is YAML too. */
RP_API rp_status rp_config_yaml(const rp_config *c, char **text, rp_error *err);
RP_API rp_status rp_config_json(const rp_config *c, char **text, rp_error *err);
/* The value at a dotted path as text, lists and maps as JSON; NULL when it is not there (free with
 * rp_free). */
RP_API char *rp_config_get(const rp_config *c, const char *path);
/* Reads every key as training would and refuses what it would refuse, but opens no file. */
RP_API rp_status rp_config_check(const rp_config *c, rp_error *err);
/* The folder it was composed from; lives as long as c; NULL when from a file. */
RP_API const char *rp_config_dir(const rp_config *c);
/* Experiments of the tree, one per line, sorted (free with rp_free). */
RP_API rp_status rp_config_experiments(const rp_config_opts *opts, char **text, rp_error *err);

#ifdef __cplusplus
}
#endif
#endif
