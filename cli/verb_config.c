/* ratplus config: the composed configuration. */
#include "cli/cli.h"

static int list_experiments(const cli_args *a) {
  rp_config_opts o;
  rp_error err = {0};
  char *text;
  rp_config_defaults(&o);
  o.configs_dir = cli_text(a, "configs");
  o.program_dir = cli_program_dir(a);
  if (rp_config_experiments(&o, &text, &err)) return cli_error(&err);
  fputs(text, stdout);
  rp_free(text);
  return 0;
}

static int run(const cli_args *a) {
  rp_config *c;
  rp_error err = {0};
  char *text;
  if (cli_has(a, "experiments")) return list_experiments(a);
  const int code = cli_compose(a, true, &c);
  if (code) return code;
  rp_status st = RP_OK;
  if (cli_has(a, "check")) st = rp_config_check(c, &err);
  if (!st) {
    st = cli_has(a, "json") ? rp_config_json(c, &text, &err) : rp_config_yaml(c, &text, &err);
  }
  if (!st) {
    fputs(text, stdout);
    rp_free(text);
  }
  rp_config_free(c);
  return st ? cli_error(&err) : 0;
}

static const cli_flag flags[] = {
    CLI_FLAG_JSON,
    CLI_FLAG_CONFIGS,
    CLI_FLAG_CONFIG,
    {.name = "check",
     .type = CLI_SWITCH,
     .help = "also check the values as `ratplus train` would, without files"},
    {.name = "experiments", .type = CLI_SWITCH, .help = "list the experiments of the tree"},
    CLI_FLAGS_END};

const cli_verb cli_verb_config = {
    .name = "config",
    .usage = "experiment=NAME [key=value ...]",
    .summary = "print the composed and resolved configuration",
    .detail =
        "Composes the files of a tree of configurations as Hydra does, lays the words over them "
        "and "
        "prints the result: keys in file order, every ${reference} replaced by its value.\n"
        "\n"
        "  a.b=v            set a key that is there\n"
        "  +a.b=v  ++a.b=v  add one; add or set\n"
        "  ~a.b             delete\n"
        "  group=name       choose another file of a group: optim/optimizer=sgd\n"
        "  group@key=name   the same for a group put at a key:\n"
        "                   model/backbone/layer@model.backbone.seq_cell=identity\n"
        "\n"
        "A list is written k='[1,64]', an expression k='${eval:\"[1,64]*12\"}'. The tree is looked "
        "for in --configs, $RATPLUS_CONFIGS, ./configs, $XDG_CONFIG_HOME/ratplus/configs and "
        "beside "
        "the program; the one used is printed.",
    .flags = flags,
    .takes = CLI_TAKES_WORDS,
    .run = run};
