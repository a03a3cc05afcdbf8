/* session_box.h - a small random model with what one forward pass says of a text in some patterns,
 * and an engine over it, for tests of sessions. */
#ifndef RP_SESSION_BOX_H
#define RP_SESSION_BOX_H

#include <math.h>

#include "base/cpu.h"
#include "base/dtype.h"
#include "model_box.h"
#include "pattern/count.h"
#include "ratplus/session.h"
#include "session/engine.h"

enum { WORLD_T = 90, WORLD_V = 37, WORLD_PATTERNS = 3, WORLD_ROWS = 4 };

/* A pattern and what one forward pass in it says of every next token. */
typedef struct {
  rp_pats pats;
  char *text;
  double logprob[WORLD_T];
  int32_t best[WORLD_T];
} world_pattern;

typedef struct {
  box b;
  rp_weights w;
  rp_model *model;
  rp_engine *e;
  int T, R;
  int32_t ids[WORLD_T + 1];
  world_pattern in[WORLD_PATTERNS];
} world;

CHECK_MAYBE static rp_pat world_pat(rp_rng *r) {
  static const int D[] = {-1, 1, 2, 3, 4, 7, 16, 64};
  rp_pat p = {D[rp_rng_below(r, 8)], 0, 0};
  if (check_pick(r, 0, 1)) p.W = check_pick(r, 0, check_pick(r, 0, 3) ? 20 : WORLD_T + 5);
  if (check_pick(r, 0, 2) == 0) p.I = check_pick(r, 0, 20);
  if (p.D == -1 && !p.W && !p.I) p.W = 1;
  return p;
}

CHECK_MAYBE static void world_pass(world *x, world_pattern *in) {
  rp_error err = {0};
  const size_t n = (size_t)x->T;
  double lse[WORLD_T], logit[WORLD_T];
  rp_ptr at[4]; /* next ids, lse, logit, best */
  int plan;
  for (int i = 0; i < 4; i++)
    check_ok(rp_device_alloc(x->b.dev, n * 8, "a pass", &at[i], &err), err);
  check_ok(rp_net_add_plan(x->b.net, &in->pats, &plan, &err), err);
  rp_upload(x->b.q, x->b.ids, x->ids, n * 4);
  rp_upload(x->b.q, at[0], x->ids + 1, n * 4);
  const rp_net_pick p = {.batch = 1,
                         .T = x->T,
                         .plan = plan,
                         .ids = x->b.ids,
                         .wanted = at[0],
                         .lse = at[1],
                         .logit = at[2],
                         .best = at[3]};
  check_ok(rp_net_score(x->b.net, &x->w, &p, &err), err);
  const rp_dtype real = rp_device_real(x->b.dev);
  rp_download_as(x->b.q, lse, RP_F64, (rp_tensor){at[1], real}, x->T);
  rp_download_as(x->b.q, logit, RP_F64, (rp_tensor){at[2], real}, x->T);
  rp_download(x->b.q, in->best, at[3], n * 4);
  check_ok(rp_wait(x->b.q, &err), err);
  for (int t = 0; t < x->T; t++) in->logprob[t] = logit[t] - lse[t];
  for (int i = 0; i < 4; i++) rp_device_free(x->b.dev, at[i]);
}

/* Weights that bfloat16 holds, so that every numerics has the same model. */
CHECK_MAYBE static void world_round(world *x) {
  rp_error err = {0};
  for (int i = 0; i < x->b.params.shape.n; i++) {
    const rp_param *t = &x->b.params.shape.p[i];
    const int64_t n = t->rows * t->cols;
    float *w = rp_malloc((size_t)n, sizeof *w);
    assert_non_null(w);
    check_ok(rp_params_get(&x->b.params, t, w, &err), err);
    for (int64_t j = 0; j < n; j++) w[j] = rp_bf16_to_f32(rp_f32_to_bf16(w[j]));
    check_ok(rp_params_set(&x->b.params, t, w, &err), err);
    rp_free(w);
  }
  rp_params_round(&x->b.params);
  check_ok(rp_wait(x->b.q, &err), err);
}

CHECK_MAYBE static void world_engine(world *x, rp_rng *r) {
  rp_error err = {0};
  rp_engine_opts o;
  rp_engine_defaults(&o);
  o.chunk = check_pick(r, 4, 70);
  o.rows = WORLD_ROWS;
  o.wanted = o.chunk;
  o.rollback = x->R;
  o.cache_bytes = 1 << 21;
  check_ok(rp_engine_open(&x->e, x->model, &o, &err), err);
}

/* Threads of model number i: these are so small that threads mostly wait for each other. */
CHECK_MAYBE static void world_threads(int i) { rp_threads_set(i % 8 == 7 ? 2 : 1); }

/* The draws from r are the same on every device and in every numerics. least: tokens of the text. */
CHECK_MAYBE static void world_open(world *x, rp_rng *r, rp_device_kind kind, rp_dtype dtype,
                                   int least, bool round) {
  rp_error err = {0};
  memset(x, 0, sizeof *x);
  const int Hk = check_pick(r, 1, 2), H = Hk * check_pick(r, 1, 2), N = check_pick(r, 1, 3);
  x->T = check_pick(r, least, WORLD_T);
  x->R = check_pick(r, 0, 1) ? check_pick(r, 0, 5) : 0;
  rp_model_settings m =
      box_settings(N, H, Hk, 2 * check_pick(r, 1, 5), check_pick(r, 3, 20), WORLD_V);
  m.apply_re = check_pick(r, 0, 3) != 0;
  m.tied = check_pick(r, 0, 1);
  m.max_seq_len = WORLD_T;
  box_open(&x->b, kind, &m, dtype, 1, x->T, false);
  box_weights(&x->b, r, 0.5);
  if (round) world_round(x);
  x->w = rp_params_weights(&x->b.params);
  for (int t = 0; t <= x->T; t++) x->ids[t] = check_pick(r, 0, WORLD_V - 1);
  for (int k = 0; k < WORLD_PATTERNS; k++) {
    world_pattern *in = &x->in[k];
    check_ok(rp_pats_uniform(&in->pats, (rp_pat){1, 0, 0}, N, Hk, &err), err);
    const rp_pat one = world_pat(r);
    const bool mixed = check_pick(r, 0, 1);
    for (int i = 0; i < N * Hk; i++) in->pats.at[i] = mixed ? world_pat(r) : one;
    in->text = rp_pats_format(&in->pats);
    assert_non_null(in->text);
    world_pass(x, in);
  }
  check_ok(rp_model_borrow(&x->model, x->b.q, &m, dtype, &x->w, &err), err);
  world_engine(x, r);
}

CHECK_MAYBE static void world_close(world *x) {
  rp_pats pats = x->b.m.pats;
  rp_engine_close(x->e);
  rp_model_close(x->model);
  box_close(&x->b);
  rp_pats_free(&pats);
  for (int k = 0; k < WORLD_PATTERNS; k++) {
    rp_pats_free(&x->in[k].pats);
    rp_free(x->in[k].text);
  }
}

/* Bytes of cache of a session in a pattern that has held so many tokens. */
CHECK_MAYBE static int64_t world_bytes(const world *x, const rp_pats *p, int64_t tokens, int R) {
  int64_t n = 0;
  for (int i = 0; i < p->layers * p->kv_heads; i++) n += rp_pat_blocks(p->at[i], tokens, R);
  const int bytes = rp_dtype_bytes(x->b.params.compute);
  return n * (int64_t)rp_kv_block_elements(x->b.m.h) * bytes;
}

CHECK_MAYBE static uint64_t engine_used(rp_engine *e) {
  rp_engine_facts f = {.size = sizeof f};
  rp_engine_about(e, &f);
  return f.cache_used;
}

#endif
