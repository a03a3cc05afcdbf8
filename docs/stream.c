/* The library in thirty lines: loads a model and streams the text that follows a prompt.
 *   cc stream.c $(pkg-config --cflags --libs ratplus) && ./a.out MODEL 'In the beginning' 'D=16' */
#include <ratplus/ratplus.h>
#include <stdio.h>
#include <string.h>

static int show(void *ctx, const rp_generated *g) {
  (void)ctx;
  fwrite(g->text, 1, g->len, stdout);
  return fflush(stdout); /* not 0: enough */
}

int main(int argc, char **argv) {
  rp_error err = {0};
  rp_model *m = NULL;
  rp_engine *e = NULL;
  rp_tokenizer *t = NULL;
  rp_generator *g = NULL;
  rp_request q;
  int32_t *ids = NULL;
  rp_model_facts f = {.size = sizeof f};
  rp_request_defaults(&q);
  q.pattern = argc > 3 ? argv[3] : NULL; /* NULL: the model's own */
  q.max_tokens = 100;
  q.got = show;
  if (argc < 3) return fprintf(stderr, "usage: %s MODEL PROMPT [PATTERN]\n", argv[0]), RP_USAGE;
  if (rp_model_open(&m, argv[1], NULL, &err) || rp_engine_open(&e, m, NULL, &err) ||
      (rp_model_about(m, &f), rp_tokenizer_open(&t, f.tokenizer, &err)) ||
      rp_generator_open(&g, m, e, t, &err) ||
      rp_tokenizer_encode(t, argv[2], strlen(argv[2]), 0, &ids, &q.n, &err) ||
      (q.ids = ids, rp_generator_add(g, &q, NULL, &err)) || rp_generator_run(g, NULL, &err))
    fprintf(stderr, "%s\n", err.text);
  rp_free(ids);
  rp_generator_close(g);
  rp_tokenizer_close(t);
  rp_engine_close(e);
  rp_model_close(m);
  return printf("\n"), err.status;
}
