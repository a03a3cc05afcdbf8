/* ratplus train: pretrain, adapt, fine-tune; resumes by itself. */
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "ratplus/train.h"

/* ---- what the run says, as it goes ---- */

typedef struct {
  cli_progress bar;
  char text[256]; /* of the last step, beside the bar */
  int64_t step, of;
} screen;

/* Appends to a line of fixed size; what does not fit is cut. */
static void add(char *line, size_t size, const char *fmt, ...) RP_PRINTF(3, 4);
static void add(char *line, size_t size, const char *fmt, ...) {
  const size_t n = strlen(line);
  va_list ap;
  va_start(ap, fmt);
  if (n < size) vsnprintf(line + n, size - n, fmt, ap);
  va_end(ap);
}

static void add_rate(char *line, size_t size, double tokens) {
  if (!isfinite(tokens)) return;
  if (tokens >= 1e6)
    add(line, size, "  %.2fM tokens/s", tokens / 1e6);
  else if (tokens >= 1e4)
    add(line, size, "  %.1fk tokens/s", tokens / 1e3);
  else
    add(line, size, "  %.0f tokens/s", tokens);
}

static void add_left(char *line, size_t size, double s) {
  if (!isfinite(s)) return;
  if (s >= 3600)
    add(line, size, "  %d h %02d min left", (int)(s / 3600), (int)(s / 60) % 60);
  else if (s >= 60)
    add(line, size, "  %d min %02d s left", (int)(s / 60), (int)s % 60);
  else
    add(line, size, "  %d s left", (int)s);
}

static void add_losses(char *line, size_t size, const rp_train_event *e) {
  if (isfinite(e->train_loss)) add(line, size, "  loss %.4f", e->train_loss);
  if (isfinite(e->train_loss1)) add(line, size, "  sparse %.4f", e->train_loss1);
  if (isfinite(e->val_loss)) add(line, size, "  val %.4f", e->val_loss);
  if (isfinite(e->val_loss_dense)) add(line, size, "  val dense %.4f", e->val_loss_dense);
}

static void on_log(screen *s, const rp_train_event *e) {
  char line[512];
  snprintf(line, sizeof line, "step %lld/%lld", (long long)e->step, (long long)e->of);
  add_losses(line, sizeof line, e);
  if (isfinite(e->lr)) add(line, sizeof line, "  lr %.3g", e->lr);
  if (isfinite(e->grad_norm)) add(line, sizeof line, "  norm %.3g", e->grad_norm);
  add_rate(line, sizeof line, e->tokens_per_second);
  if (isfinite(e->mfu)) add(line, sizeof line, "  mfu %.0f%%", 100 * e->mfu);
  if (isfinite(e->waiting))
    add(line, sizeof line, "  waiting %.0f%% (slowest: rank %d)", 100 * e->waiting, e->slowest);
  add_left(line, sizeof line, e->left);
  if (e->skipped) add(line, sizeof line, "  skipped %lld", (long long)e->skipped);
  cli_note("%s", line);
  fflush(stderr);
  (void)s;
}

static void on_step(screen *s, const rp_train_event *e) {
  char *line = s->text;
  s->step = e->step + 1;
  s->of = e->of;
  snprintf(line, sizeof s->text, "step %lld/%lld", (long long)s->step, (long long)e->of);
  add_losses(line, sizeof s->text, e);
  add_rate(line, sizeof s->text, e->tokens_per_second);
  if (isfinite(e->mfu)) add(line, sizeof s->text, "  mfu %.0f%%", 100 * e->mfu);
  cli_progress_update(&s->bar, (uint64_t)s->step, (uint64_t)e->of, line);
}

static void on_val(screen *s, const rp_train_event *e) {
  char line[320];
  snprintf(line, sizeof line, "%s  validating %lld/%lld", s->text, (long long)e->step,
           (long long)e->of);
  cli_progress_update(&s->bar, 0, 0, line);
}

/* On one line, whatever the text. */
static void on_sample(const rp_train_event *e) {
  char line[1024];
  snprintf(line, sizeof line, "%s", e->text);
  for (char *c = line; *c; c++)
    if ((unsigned char)*c < 32 || *c == 127) *c = ' ';
  cli_note("sample %lld/%lld  %s", (long long)e->step, (long long)e->of, line);
  fflush(stderr);
}

static void on_event(void *ctx, const rp_train_event *e) {
  screen *s = ctx;
  switch (e->kind) {
    case RP_TRAIN_START:
      if (e->step)
        cli_note("run: %s, resumed from step %lld of %lld", e->run_dir, (long long)e->step,
                 (long long)e->of);
      else
        cli_note("run: %s, from step 0 of %lld", e->run_dir, (long long)e->of);
      cli_progress_start(&s->bar);
      break;
    case RP_TRAIN_STEP: on_step(s, e); break;
    case RP_TRAIN_VAL: on_val(s, e); break;
    case RP_TRAIN_LOG: on_log(s, e); break;
    case RP_TRAIN_SAMPLE: on_sample(e); break;
    case RP_TRAIN_SAVE: cli_note("saved %s in %.1f s", e->text, e->seconds); break;
    case RP_TRAIN_END: cli_progress_end(&s->bar); break;
  }
}

/* ---- before ---- */

/* Who started us, for the lock. */
static const char *job_name(char *out, size_t size) {
  static const char *const names[] = {"SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *id = getenv(names[i]);
    if (!id || !*id) continue;
    snprintf(out, size, "%.*s %s", (int)strcspn(names[i], "_"), names[i], id);
    return out;
  }
  return NULL;
}

/* The command line's words, and what --dtype stands for. */
static int compose(const cli_args *a, rp_config **c) {
  char dtype[64];
  size_t n;
  const char *const *given = cli_words(a, &n);
  const char **words = malloc((n + 1) * sizeof *words);
  if (!words) return cli_fail(RP_NO_MEMORY, "out of memory for %zu words", n);
  for (size_t i = 0; i < n; i++) words[i] = given[i];
  if (cli_text(a, "dtype")) {
    snprintf(dtype, sizeof dtype, "trainer.dtype=%s", cli_text(a, "dtype"));
    words[n++] = dtype;
  }
  const int code = cli_compose_words(a, words, n, true, c);
  free(words);
  return code;
}

/* ---- after ---- */

static void print_real(const char *name, double x, const char *end) {
  if (isfinite(x)) printf("%s%.6f%s", name, x, end);
}

static void print_result(const rp_train_result *r, bool json) {
  if (json) {
    printf("{\"step\":%lld,\"of\":%lld", (long long)r->step, (long long)r->of);
    print_real(",\"val_loss\":", r->val_loss, "");
    print_real(",\"val_loss_dense\":", r->val_loss_dense, "");
    printf(",\"skipped\":%lld,\"was_finished\":%s}\n", (long long)r->skipped,
           r->was_finished ? "true" : "false");
    return;
  }
  if (r->was_finished) printf("finished before, after %lld steps\n", (long long)r->step);
  print_real("val_loss ", r->val_loss, "\n");
  print_real("val_loss_dense ", r->val_loss_dense, "\n");
}

static int train(const cli_args *a, rp_ranks *ranks) {
  rp_config *c = NULL;
  rp_train_opts o;
  rp_train_result result;
  rp_error err = {0};
  char job[128];
  screen s = {0};
  const int code = rp_ranks_agree(ranks, (rp_status)compose(a, &c));
  if (code) return code;
  cli_signals_catch();
  signal(SIGXFSZ, SIG_IGN); /* a file at its limit is a write that fails, not the end */
  rp_train_defaults(&o);
  o.overwrite = cli_has(a, "overwrite");
  o.take_over = cli_has(a, "take-over");
  o.device = cli_text(a, "device");
  o.job = job_name(job, sizeof job);
  o.ranks = ranks;
  o.stop = cli_stop_flag();
  o.event = on_event;
  o.ctx = &s;
  const rp_status st = rp_train(c, &o, &result, &err);
  rp_config_free(c);
  cli_progress_end(&s.bar);
  if (st && st != RP_STOPPED) return cli_ranks_error(ranks, &err);
  if (!rp_ranks_speaks(ranks)) return st;
  if (!st) {
    if (result.was_finished) cli_note("run: %s, finished", result.run_dir);
    print_result(&result, cli_has(a, "json"));
    return 0;
  }
  cli_note("ratplus: %s", err.text);
  return RP_STOPPED;
}

static int run(const cli_args *a) {
  rp_ranks *ranks;
  int code = cli_use_threads(a);
  if (!code) code = cli_ranks_join(a, &ranks);
  return code ? code : cli_ranks_leave(ranks, train(a, ranks));
}

static const cli_flag flags[] = {
    {.name = "overwrite",
     .type = CLI_SWITCH,
     .help = "move another run that lies in the run directory to NAME.old-N and start anew"},
    {.name = "take-over", .type = CLI_SWITCH, .help = "break the lock of a machine that is gone"},
    CLI_FLAG_RANKS,
    CLI_FLAG_DEADLINE,
    CLI_FLAG_LINK_RATE,
    CLI_FLAG_DTYPE,
    CLI_FLAG_DEVICE,
    CLI_FLAG_THREADS,
    CLI_FLAG_JSON,
    CLI_FLAG_CONFIGS,
    CLI_FLAG_CONFIG,
    CLI_FLAGS_END};

const cli_verb cli_verb_train = {
    .name = "train",
    .usage = "experiment=NAME [key=value ...]",
    .summary = "pretrain, adapt or fine-tune a model; resumes by itself",
    .detail =
        "Trains what the configuration describes into its run directory (run_dir=PATH, or a name "
        "made from the configuration): config.yaml, metrics.jsonl, TensorBoard events, "
        "checkpoints and status.json. The same command goes on with a run that was interrupted, "
        "bit for bit, from its last checkpoint; a finished run prints its last validation loss.\n"
        "\n"
        "SIGTERM, SIGINT, SIGUSR1 and SIGHUP finish the iteration, save and exit 75; a second "
        "one ends the program at once.\n"
        "\n"
        "Several ranks train together when mpirun or srun starts them, over MPI; "
        "trainer.fsdp.sharding_strategy says what each keeps.\n"
        "\n"
        "  mpirun -n 2 ratplus train experiment=cpu/ratplus-tiny data_dir=tokens\n"
        "  ratplus train experiment=cpu/ratplus-tiny data_dir=tokens run_dir=runs/first\n"
        "  ratplus train experiment=cpu/adapt-tiny trainer.pretrained_path=runs/first \\\n"
        "    model.backbone.seq_cell.dilation_size=16 run_dir=runs/first-d16",
    .flags = flags,
    .takes = CLI_TAKES_WORDS,
    .run = run};
