#include "fuzz.h"

#include "../settings_box.h"
#include "session/engine.h"

/* A sequence of public calls on a tiny random model: two bytes a call, what and of which session. A
 * session is followed by its number of tokens alone. Whatever comes, a status has its sentence, a call
 * that fails has changed nothing, logits are finite, and when all is closed the pool is whole again. */

enum { SESSIONS = 4, LIMIT = 40, CHUNK = 8, ROWS = 3, ROLLBACK = 2, V = 11 };

typedef struct {
  rp_model *model;
  rp_engine *e;
  rp_session *s[SESSIONS];
  const uint8_t *at, *end;
} player;

static unsigned next(player *p) { return p->at < p->end ? *p->at++ : 0; }

static void fits(rp_status st, const rp_error *err) {
  fuzz_hold(st == RP_OK || (err->status == st && err->text[0]));
  fuzz_hold(st == RP_OK || st == RP_USAGE || st == RP_NO_MEMORY || st == RP_STOPPED);
}

static void open_model(player *p) {
  rp_error err = {0};
  rp_model_settings m = box_plain_settings(2, 2, 1, 4, 8, V);
  m.init_range = 0.3;
  m.max_seq_len = LIMIT;
  rp_engine_opts o;
  fuzz_hold(!rp_pats_uniform(&m.pats, (rp_pat){1, 0, 0}, m.N, m.Hk, &err));
  fuzz_hold(!rp_model_random(&p->model, &m, RP_DEVICE_CPU, RP_F32, 1, &err));
  rp_pats_free(&m.pats);
  rp_engine_defaults(&o);
  o.chunk = CHUNK;
  o.rows = ROWS;
  o.wanted = CHUNK;
  o.rollback = ROLLBACK;
  o.cache_bytes = 14 * 2 * 16 * 4 * 4; /* fourteen blocks: two sessions or so */
  fuzz_hold(!rp_engine_open(&p->e, p->model, &o, &err));
}

static uint64_t used(const player *p) {
  rp_engine_facts f = {.size = sizeof f};
  rp_engine_about(p->e, &f);
  fuzz_hold(f.cache_used <= f.cache_bytes);
  return f.cache_used;
}

static void open_session(player *p, rp_session **s, unsigned how) {
  static const char *const patterns[] = {"D=1",          "D=4",   "D=4,W=5,I=2", "D=-1,W=3,I=1",
                                         "D=1;D=2,W=20", "D=0,W", "D=-1",        NULL};
  rp_error err = {0};
  const rp_status st = rp_session_open(s, p->e, patterns[how % 8], how / 8 % 4 ? LIMIT : 3, &err);
  fits(st, &err);
  fuzz_hold((st == RP_OK) == (*s != NULL));
}

/* n tokens of `s`, by chance one that is no token, into a row that wants by chance this or that. */
static rp_feed row_of(player *p, rp_session *s, int n, int32_t *ids, float *out, int32_t *best) {
  const unsigned want = next(p);
  for (int i = 0; i < n; i++) ids[i] = (int32_t)(next(p) % V);
  if (want % 16 == 15) ids[n - 1] = want % 32 == 31 ? -1 : V;
  return (rp_feed){.session = s,
                   .ids = ids,
                   .n = n,
                   .logits = want & 1 ? out : NULL,
                   .next = want & 2 ? ids : NULL,
                   .logprob = want & 4 ? out + V : NULL,
                   .best = want & 8 ? best : NULL};
}

static void finite(const rp_feed *f) {
  for (int v = 0; f->logits && v < V; v++) fuzz_hold(f->logits[v] > -1e30f && f->logits[v] < 1e30f);
  for (int64_t i = 0; f->best && i < f->n; i++) fuzz_hold(f->best[i] >= 0 && f->best[i] < V);
}

static void call(player *p, unsigned how) {
  rp_error err = {0};
  int32_t ids[ROWS + 1][2 * CHUNK], best[ROWS + 1][2 * CHUNK];
  float out[ROWS + 1][V + 2 * CHUNK];
  rp_feed f[ROWS + 1];
  int64_t before[ROWS + 1];
  int rows = 0;
  for (unsigned k = 0; k < 1 + how % (ROWS + 1); k++) {
    rp_session *s = p->s[next(p) % SESSIONS];
    if (!s) continue;
    const int n = 1 + (int)(next(p) % (CHUNK + 1));
    before[rows] = rp_session_tokens(s);
    f[rows] = row_of(p, s, n, ids[rows], out[rows], best[rows]);
    rows++;
  }
  const uint64_t held = used(p);
  const rp_status st = rp_engine_call(p->e, f, rows, &err);
  fits(st, &err);
  if (st) fuzz_hold(used(p) == held);
  for (int i = 0; i < rows; i++) {
    fuzz_hold(rp_session_tokens(f[i].session) == before[i] + (st ? 0 : f[i].n));
    if (!st) finite(&f[i]);
  }
}

static void prefill(player *p, rp_session *s, unsigned how) {
  rp_error err = {0};
  int32_t ids[2 * CHUNK], best[2 * CHUNK];
  float out[V + 2 * CHUNK];
  rp_prefill_opts o;
  rp_prefill_defaults(&o);
  o.chunk = (int)(how % 7);
  const int64_t before = rp_session_tokens(s);
  const rp_feed f = row_of(p, s, 1 + (int)(how % (2 * CHUNK)), ids, out, best);
  const rp_status st = rp_prefill(&f, how & 64 ? &o : NULL, &err);
  fits(st, &err);
  const int64_t now = rp_session_tokens(s);
  fuzz_hold(st ? now >= before && now < before + f.n : now == before + f.n);
  if (!st) finite(&f);
}

static void play(player *p) {
  rp_error err = {0};
  const unsigned what = next(p), which = next(p);
  rp_session **s = &p->s[which % SESSIONS], **to = &p->s[which / SESSIONS % SESSIONS];
  switch (what % 8) {
    case 0:
      if (!*s) open_session(p, s, which / SESSIONS);
      break;
    case 1:
      if (*s && !*to) {
        fits(rp_session_fork(to, *s, &err), &err);
        fuzz_hold(*to && rp_session_tokens(*to) == rp_session_tokens(*s));
      }
      break;
    case 2:
      if (*s) {
        const int64_t back = rp_session_tokens(*s) - (int64_t)(next(p) % 6) + 1;
        const rp_status st = rp_session_truncate(*s, which & 128 ? 0 : back, &err);
        fits(st, &err);
        fuzz_hold(st || rp_session_tokens(*s) == (which & 128 ? 0 : back));
      }
      break;
    case 3:
      rp_session_close(*s);
      *s = NULL;
      break;
    case 4:
      if (*s) prefill(p, *s, next(p));
      break;
    case 5:
      if (*s && which & 64) rp_session_cancel(*s);
      if (*s && which & 128) rp_session_deadline(*s, which & 32 ? 1e-9 : 0);
      break;
    default: call(p, what / 8); break;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static player p; /* the model and its engine stay for all inputs */
  rp_threads_set(1);
  if (!p.e) open_model(&p);
  p.at = data;
  p.end = data + (size < 600 ? size : 600);
  while (p.at < p.end) play(&p);
  for (int i = 0; i < SESSIONS; i++) {
    rp_session_close(p.s[i]);
    p.s[i] = NULL;
  }
  fuzz_hold(used(&p) == 0);
  return 0;
}
