/* --help, the man page and shell completion, all from the table. */
#include <string.h>

#include "cli/cli.h"

#define WIDTH 80

void cli_wrap(FILE *out, const char *text, int column, int indent) {
  bool first = true; /* in its line */
  while (*text) {
    const int n = (int)strcspn(text, " \n");
    if (!first && column + 1 + n > WIDTH) {
      fprintf(out, "\n%*s", indent, "");
      column = indent;
    } else if (!first) {
      fputc(' ', out);
      column++;
    }
    first = false;
    fprintf(out, "%.*s", n, text);
    column += n;
    text += n;
    while (*text == ' ' || *text == '\n') text++;
  }
  fputc('\n', out);
}

/* Paragraphs wrapped; lines that start with two blanks as they are. */
static void add_detail(FILE *out, const char *text) {
  while (*text) {
    if (*text == '\n') {
      fputc('\n', out);
      text++;
      continue;
    }
    const size_t n = strcspn(text, "\n");
    if (text[0] == ' ' && text[1] == ' ') {
      fprintf(out, "%.*s\n", (int)n, text);
    } else {
      char line[2048];
      snprintf(line, sizeof line, "%.*s", (int)n, text);
      cli_wrap(out, line, 0, 0);
    }
    text += n;
    if (*text) text++;
  }
}

static void flag_head(char *buf, size_t size, const cli_flag *f) {
  char letter[8] = "    ";
  if (f->letter) snprintf(letter, sizeof letter, "-%c, ", f->letter);
  snprintf(buf, size, "  %s--%s%s%s", letter, f->name, f->value ? " " : "",
           f->value ? f->value : "");
}

static void add_flag(FILE *out, const cli_flag *f) {
  char head[96], text[512];
  flag_head(head, sizeof head, f);
  snprintf(text, sizeof text, "%s%s%s%s%s", f->help, f->fallback ? " (default: " : "",
           f->fallback ? f->fallback : "", f->fallback ? ")" : "",
           f->repeat ? "; may be repeated" : "");
  fprintf(out, "%-26s", head);
  if (strlen(head) >= 26) fprintf(out, "\n%26s", "");
  cli_wrap(out, text, 26, 26);
}

void cli_help_verb(FILE *out, const cli_verb *v) {
  static const cli_flag help = {
      .name = "help", .letter = 'h', .type = CLI_SWITCH, .help = "print this"};
  char line[512];
  snprintf(line, sizeof line, "Usage: ratplus %s %s", v->name, v->usage);
  cli_wrap(out, line, 0, 15 + (int)strlen(v->name));
  fprintf(out, "\n%c%s.\n", v->summary[0] - ('a' <= v->summary[0] && v->summary[0] <= 'z' ? 32 : 0),
          v->summary + 1);
  if (v->detail) {
    fputc('\n', out);
    add_detail(out, v->detail);
  }
  for (const char *const *s = v->subs; s && *s; s++) {
    if (s == v->subs) fprintf(out, "\nWhat it has:\n");
    const int n = (int)strcspn(*s, "\t");
    fprintf(out, "  %-12.*s", n, *s);
    cli_wrap(out, (*s)[n] ? *s + n + 1 : "", 14, 14);
  }
  fprintf(out, "\nOptions:\n");
  for (const cli_flag *f = v->flags; f && f->name; f++) add_flag(out, f);
  add_flag(out, &help);
}

void cli_help(FILE *out) {
  fprintf(out, "Usage: ratplus VERB [options] [key=value ...]\n\n");
  cli_wrap(out, "Trains and runs RAT+ models: dense pretraining, sparse inference.", 0, 0);
  fprintf(out, "\nVerbs:\n");
  for (int i = 0; cli_verbs[i]; i++) {
    if (cli_verbs[i]->takes & CLI_HIDDEN) continue;
    fprintf(out, "  %-12s", cli_verbs[i]->name);
    cli_wrap(out, cli_verbs[i]->summary, 14, 14);
  }
  fprintf(out, "\n`ratplus VERB --help` explains a verb; `ratplus --version` what is built in.\n");
}

/* --- man ---------------------------------------------------------------------------------- */

/* Text for roff: backslashes, and dots and quotes that would begin a request. */
static void roff(FILE *out, const char *s, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (i == 0 && (s[i] == '.' || s[i] == '\'')) fputs("\\&", out);
    if (s[i] == '\\') {
      fputs("\\e", out);
    } else if (s[i] == '-') {
      fputs("\\-", out);
    } else {
      fputc(s[i], out);
    }
  }
}

static void roff_text(FILE *out, const char *s) { roff(out, s, strlen(s)); }

static void man_detail(FILE *out, const char *text) {
  bool verbatim = false;
  while (*text) {
    const size_t n = strcspn(text, "\n");
    const bool keep = n > 2 && text[0] == ' ' && text[1] == ' ';
    if (keep != verbatim) fputs(keep ? ".nf\n" : ".fi\n", out);
    verbatim = keep;
    if (n == 0) {
      fputs(".PP\n", out);
    } else {
      roff(out, text, n);
      fputc('\n', out);
    }
    text += n;
    if (*text) text++;
  }
  if (verbatim) fputs(".fi\n", out);
}

static void man_flag(FILE *out, const cli_flag *f) {
  fputs(".TP\n\\fB", out);
  if (f->letter) fprintf(out, "\\-%c\\fR, \\fB", f->letter);
  fputs("\\-\\-", out);
  roff_text(out, f->name);
  fputs("\\fR", out);
  if (f->value) fprintf(out, " \\fI%s\\fR", f->value);
  fputc('\n', out);
  roff_text(out, f->help);
  if (f->fallback) {
    fputs(" (default: ", out);
    roff_text(out, f->fallback);
    fputc(')', out);
  }
  fputs(f->repeat ? "; may be repeated\n" : "\n", out);
}

static void man_verb(FILE *out, const cli_verb *v) {
  fprintf(out, ".SS \"ratplus %s\"\n.B ratplus %s\n", v->name, v->name);
  roff_text(out, v->usage);
  fputs("\n.PP\n", out);
  roff_text(out, v->summary);
  fputs(".\n", out);
  if (v->detail) {
    fputs(".PP\n", out);
    man_detail(out, v->detail);
  }
  for (const char *const *s = v->subs; s && *s; s++) {
    const size_t n = strcspn(*s, "\t");
    fputs(".TP\n\\fB", out);
    roff(out, *s, n);
    fputs("\\fR\n", out);
    roff_text(out, (*s)[n] ? *s + n + 1 : "");
    fputc('\n', out);
  }
  for (const cli_flag *f = v->flags; f && f->name; f++) man_flag(out, f);
}

void cli_man(FILE *out) {
  fprintf(out, ".TH RATPLUS 1 \"\" \"ratplus %s\" \"User Commands\"\n", rp_version());
  fputs(
      ".SH NAME\nratplus \\- train and run RAT+ models\n.SH SYNOPSIS\n.B ratplus\n"
      ".I VERB\n[options] [key=value ...]\n.SH DESCRIPTION\n"
      "Trains RAT+ models densely and runs them sparsely. Results go to standard output, progress "
      "and messages to standard error.\n.SH VERBS\n",
      out);
  for (int i = 0; cli_verbs[i]; i++) {
    if (!(cli_verbs[i]->takes & CLI_HIDDEN)) man_verb(out, cli_verbs[i]);
  }
  fputs(
      ".SH \"EXIT STATUS\"\n"
      ".TP\n0\nok\n.TP\n1\nrun\\-time failure\n.TP\n2\nwrong usage or configuration\n"
      ".TP\n3\nbad data, model or checkpoint\n.TP\n4\nout of memory\n"
      ".TP\n75\nstopped by a signal, a checkpoint saved\n.TP\n128+n\nended by signal n\n"
      ".SH ENVIRONMENT\n.TP\nRATPLUS_CONFIGS\nthe tree of configurations\n"
      ".TP\nRATPLUS_CPU\nref, avx2, avx512 or avx512_bf16: the most the processor's instructions "
      "are used\n"
      ".TP\nNO_COLOR\nno colours\n",
      out);
}

/* --- completion --------------------------------------------------------------------------- */

static void bash_verb(FILE *out, const cli_verb *v) {
  fprintf(out, "    %s) words=\"--help", v->name);
  for (const cli_flag *f = v->flags; f && f->name; f++) fprintf(out, " --%s", f->name);
  for (const char *const *s = v->subs; s && *s; s++) {
    fprintf(out, " %.*s", (int)strcspn(*s, "\t"), *s);
  }
  if (v->takes & CLI_TAKES_WORDS) {
    fputs(
        "\"\n      [[ $cur == experiment=* ]] && words=$(ratplus config --experiments 2>/dev/null "
        "| "
        "sed 's/^/experiment=/')\n      words=\"$words experiment=",
        out);
  }
  fputs("\" ;;\n", out);
}

static void bash(FILE *out) {
  fputs(
      "_ratplus() {\n  local cur words\n  COMP_WORDBREAKS=${COMP_WORDBREAKS//=}\n"
      "  cur=${COMP_WORDS[COMP_CWORD]}\n  case ${COMP_WORDS[1]} in\n",
      out);
  for (int i = 0; cli_verbs[i]; i++) {
    if (!(cli_verbs[i]->takes & CLI_HIDDEN)) bash_verb(out, cli_verbs[i]);
  }
  fputs("  esac\n  if [[ $COMP_CWORD == 1 ]]; then words=\"--help --version", out);
  for (int i = 0; cli_verbs[i]; i++) {
    if (!(cli_verbs[i]->takes & CLI_HIDDEN)) fprintf(out, " %s", cli_verbs[i]->name);
  }
  fputs(
      "\"; fi\n  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
      "  [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace\n}\n"
      "complete -o default -F _ratplus ratplus\n",
      out);
}

static void fish(FILE *out) {
  for (int i = 0; cli_verbs[i]; i++) {
    const cli_verb *v = cli_verbs[i];
    if (v->takes & CLI_HIDDEN) continue;
    fprintf(out, "complete -c ratplus -n __fish_use_subcommand -a %s -d \"%s\"\n", v->name,
            v->summary);
    for (const cli_flag *f = v->flags; f && f->name; f++) {
      fprintf(out, "complete -c ratplus -n '__fish_seen_subcommand_from %s' -l %s%s\n", v->name,
              f->name, f->type == CLI_SWITCH ? "" : " -r");
    }
  }
}

int cli_completion(FILE *out, const char *shell) {
  if (strcmp(shell, "bash") == 0) {
    bash(out);
  } else if (strcmp(shell, "zsh") == 0) {
    fputs("autoload -U +X bashcompinit && bashcompinit\n", out);
    bash(out);
  } else {
    fish(out);
  }
  return 0;
}
