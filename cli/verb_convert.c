/* ratplus convert: models from one kind of file to another. */
#include "cli/cli.h"
#include "ratplus/convert.h"

static int run(const cli_args *a) {
  rp_convert_opts o;
  rp_error err = {0};
  size_t n;
  const char *const *plain = cli_plain(a, &n);
  if (n != 2)
    return cli_fail(RP_USAGE,
                    "convert takes an input and an output, %zu %s given: ratplus convert "
                    "IN OUT",
                    n, n == 1 ? "was" : "were");
  rp_convert_defaults(&o);
  o.dtype = cli_text(a, "dtype");
  o.tokenizer = cli_text(a, "tokenizer");
  o.with_optimizer = cli_has(a, "with-optimizer");
  o.overwrite = cli_has(a, "overwrite");
  o.words = cli_words(a, &o.n_words);
  if (rp_convert(plain[0], plain[1], &o, &err)) return cli_error(&err);
  cli_note("wrote %s", plain[1]);
  return 0;
}

static const cli_flag flags[] = {
    {.name = "dtype",
     .type = CLI_TEXT,
     .value = "TYPE",
     .choices = cli_dtypes,
     .help = "write the matrices in float32 or bfloat16, and run the result so (default: as in "
             "the input)"},
    {.name = "tokenizer",
     .type = CLI_TEXT,
     .value = "FILE",
     .help = "a SentencePiece model to put beside the weights (default: the input's)"},
    {.name = "with-optimizer",
     .type = CLI_SWITCH,
     .help = "optimizer state and step too, so that training can go on"},
    {.name = "overwrite", .type = CLI_SWITCH, .help = "replace an output that is there already"},
    CLI_FLAGS_END};

const cli_verb cli_verb_convert = {
    .name = "convert",
    .usage = "IN OUT [key=value ...]",
    .summary = "turn a .pth of the reference into a model directory, or back",
    .detail =
        "IN is a model directory, a checkpoint, a run directory (its latest checkpoint), a "
        ".safetensors file or a .pth of the reference. OUT is a model directory, or a .pth when "
        "its name ends so; PyTorch loads it with weights_only=True. Nothing in a .pth is ever "
        "executed.\n"
        "\n"
        "Sizes come from the shapes, the rest from the configuration inside; words say what is "
        "missing or different:\n"
        "\n"
        "  ratplus convert 19999.pth model --tokenizer llama.model\n"
        "  ratplus convert old.pth model model.backbone.seq_cell.d_head=128\n"
        "  ratplus convert RUN model-bf16 --dtype bfloat16\n"
        "  ratplus convert RUN back.pth --with-optimizer",
    .flags = flags,
    .takes = CLI_TAKES_PLAIN | CLI_TAKES_WORDS,
    .run = run};
