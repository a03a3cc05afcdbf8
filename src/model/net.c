/* net.c - walks the units forward and backward; what a layer is, its kinds know. */
#include "model/net.h"

#include "model/kind.h"

enum { PLANS = RP_NET_PLANS };

/* Where everything lies on the device; sizes only on a dry run. */
typedef struct {
  rp_tensor *x;  /* [N + 1]: input of every layer and of the last norm, real [n, d]; without
                        training all the same buffer */
  rp_tensor mid; /* input of the FFN, real [n, d]; per layer unless recomputing: see layer_acts */
  rp_ptr acts;   /* [layers kept] x layer_acts bytes */
  rp_tensor y;   /* the last norm's output, compute [n, d] */
  rp_ptr last_stat; /* of the last norm */
  rp_tensor dx, dy; /* gradients of the residual stream and of a norm's output, real [n, d] */
  rp_tensor taken; /* inference: rows of the residual stream that logits are made of, real [n, d] */
} buffers;

struct rp_net {
  rp_queue *q;
  rp_device *dev;
  rp_model_settings m;
  rp_net_opts o;
  const rp_kind *mixer, *ffn; /* mixer NULL: identity */
  rp_dtype real, compute;
  buffers b;
  size_t mixer_acts, layer_acts; /* bytes a layer keeps: mixer | mid | ffn */
  rp_ptr acts, tmp;              /* what was allocated */
  size_t tmp_bytes;
  rp_ptr pats; /* rp_pat [PLANS][N][Hk] */
  rp_ptr rows; /* rp_row [PLANS][batch] */
  rp_ptr rope;
  int plans;
  int rows_batch[PLANS], rows_T[PLANS]; /* what rows of a plan now say */
};

static size_t pats_bytes(const rp_model_settings *m) {
  return sizeof(rp_pat) * (size_t)m->N * (size_t)m->Hk;
}

static void run_init(rp_run *r, const rp_net *net, int batch, int T, int plan) {
  const rp_model_settings *m = &net->m;
  *r = (rp_run){.q = net->q, .dev = net->dev, .m = m, .real = net->real, .compute = net->compute};
  r->n = batch * T;
  size_t row = sizeof(rp_row) * (size_t)net->o.batch * (size_t)plan;
  r->rows = (rp_rows){rp_ptr_add(net->rows, row), batch, r->n, T};
  r->pats_stride = m->N * m->Hk;
  r->rope = net->rope;
  r->infer = net->o.infer;
  r->tmp.base = net->tmp.at;
}

/* The net's own buffers, carved in one order for planning and for use. */
static void carve_acts(rp_net *net, rp_carve *c, const rp_run *r, rp_tensor *x) {
  const rp_model_settings *m = &net->m;
  const size_t row = (size_t)m->d * (size_t)rp_dtype_bytes(net->real);
  const size_t bytes = (size_t)r->n * row;
  buffers *b = &net->b;
  b->x = x;
  for (int i = 0; i <= m->N; i++) {
    rp_ptr at = net->o.train || i == 0 ? rp_carve_take(c, bytes) : x[0].p;
    x[i] = (rp_tensor){at, net->real};
  }
  net->mixer_acts = net->mixer ? net->mixer->acts(r) : 0;
  rp_carve one = {0};
  rp_carve_take(&one, net->mixer_acts);
  rp_carve_take(&one, net->o.train ? bytes : 0);
  rp_carve_take(&one, net->ffn->acts(r));
  net->layer_acts = one.used;
  bool each = net->o.train && !net->o.recompute;
  b->acts = rp_carve_take(c, net->layer_acts * (size_t)(each ? m->N : 1));
  const size_t last = (size_t)r->n * (net->o.infer ? 2 : 1); /* both picks of a call */
  b->y = (rp_tensor){rp_carve_take(c, last * (size_t)m->d * (size_t)rp_dtype_bytes(net->compute)),
                     net->compute};
  b->last_stat = rp_carve_take(c, last * 2 * (size_t)rp_dtype_bytes(net->real));
  if (net->o.infer) b->taken = (rp_tensor){rp_carve_take(c, 2 * bytes), net->real};
  if (!net->o.train) return;
  b->dx = (rp_tensor){rp_carve_take(c, bytes), net->real};
  b->dy = (rp_tensor){rp_carve_take(c, bytes), net->real};
}

/* Acts of layer i: the mixer's, the FFN's input, the FFN's. */
typedef struct {
  rp_ptr mixer, ffn;
  rp_tensor mid;
} layer_at;
static layer_at layer_of(const rp_net *net, const rp_run *r, int i) {
  bool each = net->o.train && !net->o.recompute;
  size_t base = net->b.acts.at + (each ? net->layer_acts * (size_t)i : 0);
  rp_carve c = {base, 0, 0};
  layer_at l;
  l.mixer = rp_carve_take(&c, net->mixer_acts);
  size_t mid = (size_t)r->n * (size_t)net->m.d * (size_t)rp_dtype_bytes(net->real);
  rp_ptr own = rp_carve_take(&c, net->o.train ? mid : 0);
  l.mid = net->o.train && net->mixer ? (rp_tensor){own, net->real} : net->b.x[i];
  l.ffn = rp_carve_take(&c, 0);
  return l;
}

static void layer_forward(const rp_net *net, rp_run *r, int i, const rp_tensor *w, bool whole) {
  const layer_at l = layer_of(net, r, i);
  if (!r->dry) r->pats = rp_ptr_add(net->pats, sizeof(rp_pat) * (size_t)(i * net->m.Hk));
  if (net->mixer) net->mixer->forward(r, w, net->b.x[i], l.mid, l.mixer);
  net->ffn->forward(r, w, l.mid, whole ? net->b.x[i + 1] : (rp_tensor){{0}, net->real}, l.ffn);
}

static void layer_backward(const rp_net *net, rp_run *r, int i, const rp_tensor *w,
                           const rp_tensor *g) {
  const layer_at l = layer_of(net, r, i);
  if (net->o.recompute) layer_forward(net, r, i, w, false);
  if (!r->dry) r->pats = rp_ptr_add(net->pats, sizeof(rp_pat) * (size_t)(i * net->m.Hk));
  net->ffn->backward(r, w, g, l.mid, net->b.dx, l.ffn);
  if (net->mixer) net->mixer->backward(r, w, g, net->b.x[i], net->b.dx, l.mixer);
}

/* Embedding and all layers: the residual stream behind them is b.x[N]. */
static rp_status layers(rp_net *net, rp_run *r, const rp_weights *h, rp_ptr ids, rp_error *err) {
  const rp_model_settings *m = &net->m;
  const rp_tensor *w;
  RP_TRY(h->need(h->ctx, net->q, 0, &w, err));
  RP_PUT(r, embed, {r->n, m->d, m->V, ids, w[RP_SLOT_EMBED + 1], net->b.x[0]});
  for (int i = 0; i < m->N; i++) {
    r->kv.layer = i;
    RP_TRY(h->need(h->ctx, net->q, i + 1, &w, err));
    layer_forward(net, r, i, w, true);
    h->done(h->ctx, net->q, i + 1);
  }
  return RP_OK;
}

/* n rows of x through the last norm: b.y is the result. */
static rp_status last_norm(rp_net *net, rp_run *r, const rp_weights *h, rp_tensor x, int n,
                           rp_error *err) {
  const rp_tensor *w;
  RP_TRY(h->need(h->ctx, net->q, net->m.N + 1, &w, err));
  RP_PUT(r, norm,
         {n, net->m.d, net->m.final_norm, x, w[RP_SLOT_LAST_NORM], w[RP_SLOT_LAST_NORM_BIAS],
          net->b.y, net->b.last_stat});
  return RP_OK;
}

static rp_status forward(rp_net *net, rp_run *r, const rp_weights *h, rp_ptr ids, rp_error *err) {
  RP_TRY(layers(net, r, h, ids, err));
  return last_norm(net, r, h, net->b.x[net->m.N], r->n, err);
}

/* The matrix that makes logits: the embedding when tied. Units 0 and N+1 are held by now. */
static rp_status head_of(const rp_net *net, const rp_weights *h, rp_tensor *w, rp_error *err) {
  const rp_tensor *t;
  RP_TRY(h->need(h->ctx, net->q, net->m.tied ? 0 : net->m.N + 1, &t, err));
  *w = t[net->m.tied ? (int)RP_SLOT_EMBED : (int)RP_SLOT_HEAD];
  return RP_OK;
}

static rp_status head_grad_of(const rp_net *net, const rp_weights *h, rp_tensor *g, rp_error *err) {
  const rp_tensor *t;
  RP_TRY(h->grad(h->ctx, net->q, net->m.tied ? 0 : net->m.N + 1, &t, err));
  *g = t[net->m.tied ? (int)RP_SLOT_EMBED : (int)RP_SLOT_HEAD];
  return RP_OK;
}

/* Last norm, layers in reverse, embedding; b.dy holds the gradient of b.y. */
static rp_status backward(rp_net *net, rp_run *r, const rp_weights *h, rp_ptr ids, rp_error *err) {
  const rp_model_settings *m = &net->m;
  const size_t bytes = (size_t)r->n * (size_t)m->d * (size_t)rp_dtype_bytes(net->real);
  const rp_tensor *w, *g;
  RP_TRY(h->need(h->ctx, net->q, m->N + 1, &w, err));
  RP_TRY(h->grad(h->ctx, net->q, m->N + 1, &g, err));
  RP_PUT(r, zero, {net->b.dx.p, bytes});
  RP_PUT(r, norm_bwd,
         {r->n, m->d, m->final_norm, net->b.x[m->N], w[RP_SLOT_LAST_NORM], net->b.dy, net->b.dx,
          g[RP_SLOT_LAST_NORM], g[RP_SLOT_LAST_NORM_BIAS], net->b.last_stat});
  h->grad_ready(h->ctx, net->q, m->N + 1);
  h->done(h->ctx, net->q, m->N + 1);
  for (int i = m->N - 1; i >= 0; i--) {
    RP_TRY(h->need(h->ctx, net->q, i + 1, &w, err));
    RP_TRY(h->grad(h->ctx, net->q, i + 1, &g, err));
    layer_backward(net, r, i, w, g);
    h->grad_ready(h->ctx, net->q, i + 1);
    h->done(h->ctx, net->q, i + 1);
  }
  RP_TRY(h->grad(h->ctx, net->q, 0, &g, err));
  RP_PUT(r, embed_bwd, {r->n, m->d, m->V, ids, net->b.dx, g[RP_SLOT_EMBED]});
  h->grad_ready(h->ctx, net->q, 0);
  h->done(h->ctx, net->q, 0);
  return RP_OK;
}

static rp_status whole_pass(rp_net *net, rp_run *r, const rp_weights *h, const rp_pass *p,
                            rp_error *err) {
  rp_tensor w, g = {{0}, net->real};
  RP_TRY(forward(net, r, h, p->ids, err));
  RP_TRY(head_of(net, h, &w, err));
  if (p->grad) RP_TRY(head_grad_of(net, h, &g, err));
  RP_PUT(r, head_loss,
         {r->n, net->m.d, net->m.V, p->grad, p->weight, net->b.y, w, net->b.dy, g, p->labels,
          p->loss});
  if (p->grad) return backward(net, r, h, p->ids, err);
  h->done(h->ctx, net->q, net->m.N + 1);
  h->done(h->ctx, net->q, 0);
  return RP_OK;
}

static rp_status whole_score(rp_net *net, rp_run *r, const rp_weights *h, const rp_net_pick *p,
                             rp_error *err) {
  rp_tensor w;
  RP_TRY(forward(net, r, h, p->ids, err));
  RP_TRY(head_of(net, h, &w, err));
  RP_PUT(r, pick,
         {r->n, net->m.d, net->m.V, net->b.y, w, p->wanted, p->lse, p->logit, p->best, {0}});
  h->done(h->ctx, net->q, net->m.N + 1);
  h->done(h->ctx, net->q, 0);
  return RP_OK;
}

/* Inference: a rotation for every token, the layers over the caches, then what is wanted. */
static rp_status whole_call(rp_net *net, rp_run *r, const rp_weights *h, const rp_net_call *p,
                            rp_error *err) {
  const rp_model_settings *m = &net->m;
  const int wanted = p->picks[0].n + p->picks[1].n;
  rp_tensor w;
  if (net->rope.at || (r->dry && m->rope))
    RP_PUT(r, rope, {0, r->n, m->h, m->rope_base, m->rope_scale, net->rope, r->rows});
  RP_TRY(layers(net, r, h, p->ids, err));
  if (wanted) RP_PUT(r, take, {wanted, m->d, r->n, p->at, net->b.x[m->N], net->b.taken});
  if (wanted) RP_TRY(last_norm(net, r, h, net->b.taken, wanted, err));
  if (wanted) RP_TRY(head_of(net, h, &w, err));
  rp_tensor y = net->b.y;
  for (int i = 0; i < 2; i++) {
    const rp_take_logits *t = &p->picks[i];
    if (t->n)
      RP_PUT(r, pick, {t->n, m->d, m->V, y, w, t->ids, t->lse, t->logit, t->best, t->logits});
    y = rp_tensor_at(y, (int64_t)t->n * m->d);
  }
  if (wanted) h->done(h->ctx, net->q, m->N + 1);
  h->done(h->ctx, net->q, 0);
  return RP_OK;
}

/* Weights of a dry run: dtypes without addresses; [0] a layer's, [1] those of units 0 and N+1. */
typedef struct {
  int last;
  rp_tensor w[2][RP_SLOTS], g[RP_SLOTS];
} dry_weights;
static rp_status dry_need(void *ctx, rp_queue *q, int unit, const rp_tensor **w, rp_error *err) {
  dry_weights *dw = ctx;
  (void)q, (void)err;
  *w = dw->w[unit == 0 || unit == dw->last];
  return RP_OK;
}
static rp_status dry_grad(void *ctx, rp_queue *q, int unit, const rp_tensor **g, rp_error *err) {
  (void)q, (void)unit, (void)err;
  *g = ((dry_weights *)ctx)->g;
  return RP_OK;
}
static void dry_done(void *ctx, rp_queue *q, int unit) { (void)ctx, (void)q, (void)unit; }

/* A call of n tokens, all of them wanted both ways. */
static rp_status dry_call(rp_net *net, rp_run *r, const rp_weights *h, int n, rp_error *err) {
  rp_net_call c = {.picks = {{.n = n}, {.n = n, .logits = {1}}}};
  r->n = r->rows.tokens = n;
  return whole_call(net, r, h, &c, err);
}

static rp_weights dry_hooks(const rp_net *net, dry_weights *dw) {
  *dw = (dry_weights){.last = net->m.N + 1};
  for (int i = 0; i < RP_SLOTS; i++) {
    bool vector = i == RP_SLOT_NORM1 || i == RP_SLOT_NORM1_BIAS || i == RP_SLOT_NORM2 ||
                  i == RP_SLOT_NORM2_BIAS;
    dw->w[0][i] = (rp_tensor){{0}, vector ? net->real : net->compute};
    dw->w[1][i] = (rp_tensor){{0}, net->compute};
    dw->g[i] = (rp_tensor){{0}, net->real};
  }
  return (rp_weights){dw, dry_need, dry_done, dry_grad, dry_done};
}

/* Walks a whole pass without a queue: what work buffers and scratch it takes. */
static rp_status dry_run(rp_net *net, rp_carve *acts, rp_tensor *x, rp_run *r, rp_error *err) {
  dry_weights dw;
  run_init(r, net, net->o.batch, net->o.T, 0);
  r->dry = true;
  carve_acts(net, acts, r, x);
  const rp_weights h = dry_hooks(net, &dw);
  if (net->o.infer) return dry_call(net, r, &h, r->n, err);
  rp_pass p = {.batch = net->o.batch, .T = net->o.T, .grad = net->o.train, .weight = 1};
  RP_TRY(whole_pass(net, r, &h, &p, err));
  rp_net_pick s = {.batch = net->o.batch, .T = net->o.T};
  return whole_score(net, r, &h, &s, err);
}

static rp_status check_opts(const rp_model_settings *m, const rp_net_opts *o, rp_error *err) {
  int64_t n = (int64_t)o->batch * o->T;
  int64_t widest = 2 * (int64_t)m->f > rp_in_proj_rows(m) ? 2 * (int64_t)m->f : rp_in_proj_rows(m);
  if (o->batch < 1 || o->T < 1 || n > INT32_MAX || n > INT64_MAX / 16 / widest)
    return rp_fail(err, RP_USAGE,
                   "batch %d of %d tokens is out of range; choose data.batch_size and data.seq_len "
                   "of at least 1 with at most %d tokens a micro-batch",
                   o->batch, o->T, INT32_MAX);
  return RP_OK;
}

static void net_init(rp_net *net, rp_device *d, const rp_model_settings *m, const rp_net_opts *o) {
  *net = (rp_net){.dev = d, .m = *m, .o = *o};
  net->mixer = rp_kind_mixer(m);
  net->ffn = rp_kind_ffn(m);
  net->real = rp_device_real(d);
  net->compute = o->dtype == RP_BF16 ? RP_BF16 : net->real;
}

static size_t rope_bytes(const rp_net *net) {
  if (!net->m.rope || !net->mixer) return 0;
  return (size_t)net->o.T * (size_t)net->m.h * (size_t)rp_dtype_bytes(net->real);
}

static rp_status plan_net(rp_net *net, rp_tensor *x, rp_net_bytes *out, rp_error *err) {
  rp_carve acts = {0};
  rp_run r;
  RP_TRY(dry_run(net, &acts, x, &r, err));
  *out = (rp_net_bytes){.acts = acts.used,
                        .tmp = r.tmp.peak,
                        .scratch = r.scratch,
                        .tables = rope_bytes(net) + PLANS * pats_bytes(&net->m) +
                                  PLANS * sizeof(rp_row) * (size_t)net->o.batch};
  return RP_OK;
}

rp_status rp_net_plan(const rp_device *d, const rp_model_settings *m, const rp_net_opts *o,
                      rp_net_bytes *out, rp_error *err) {
  rp_net net;
  RP_TRY(check_opts(m, o, err));
  net_init(&net, (rp_device *)d, m, o);
  rp_tensor *x = rp_calloc((size_t)m->N + 1, sizeof *x);
  if (!x) return rp_fail_memory(err, ((size_t)m->N + 1) * sizeof *x, "the plan of a network");
  rp_status st = plan_net(&net, x, out, err);
  rp_free(x);
  return st;
}

static rp_status make_tables(rp_net *net, rp_error *err) {
  const rp_model_settings *m = &net->m;
  RP_TRY(rp_device_alloc(net->dev, PLANS * pats_bytes(m), "patterns", &net->pats, err));
  RP_TRY(rp_device_alloc(net->dev, PLANS * sizeof(rp_row) * (size_t)net->o.batch, "rows",
                         &net->rows, err));
  if (!rope_bytes(net)) return RP_OK;
  RP_TRY(rp_device_alloc(net->dev, rope_bytes(net), "the RoPE table", &net->rope, err));
  if (!net->o.infer)
    rp_op_rope(net->q, &(rp_rope_args){.count = net->o.T,
                                       .h = m->h,
                                       .base = m->rope_base,
                                       .scale = m->rope_scale,
                                       .table = net->rope});
  return RP_OK;
}

rp_status rp_net_open(rp_net **out, rp_queue *q, const rp_model_settings *m, const rp_net_opts *o,
                      rp_error *err) {
  rp_status st = RP_OK;
  rp_net_bytes bytes;
  *out = NULL;
  RP_TRY(check_opts(m, o, err));
  rp_net *net = rp_calloc(1, sizeof *net);
  rp_tensor *x = rp_calloc((size_t)m->N + 1, sizeof *x);
  if (!net || !x) {
    rp_free(net);
    rp_free(x);
    return rp_fail_memory(err, sizeof *net, "a network");
  }
  net_init(net, rp_queue_device(q), m, o);
  net->q = q;
  net->b.x = x;
  RP_GO(plan_net(net, x, &bytes, err));
  RP_GO(rp_device_alloc(net->dev, bytes.acts, "activations", &net->acts, err));
  RP_GO(rp_device_alloc(net->dev, bytes.tmp, "work buffers", &net->tmp, err));
  RP_GO(rp_queue_reserve(q, bytes.scratch, err));
  net->tmp_bytes = bytes.tmp;
  RP_GO(make_tables(net, err));
  rp_pats dense;
  int plan;
  RP_GO(rp_pats_uniform(&dense, (rp_pat){1, 0, 0}, m->N, m->Hk, err));
  st = rp_net_add_plan(net, &dense, &plan, err);
  rp_pats_free(&dense);
  if (st) goto fail;
  RP_GO(rp_wait(q, err));
  *out = net;
  return RP_OK;
fail:
  rp_wait(q, NULL);
  rp_net_close(net);
  return st;
}

void rp_net_close(rp_net *net) {
  if (!net) return;
  const rp_ptr all[] = {net->acts, net->tmp, net->pats, net->rows, net->rope};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (all[i].at) rp_device_free(net->dev, all[i]);
  rp_free(net->b.x);
  rp_free(net);
}

rp_status rp_net_add_plan(rp_net *net, const rp_pats *pats, int *plan, rp_error *err) {
  const rp_model_settings *m = &net->m;
  if (pats->layers != m->N || pats->kv_heads != m->Hk)
    return rp_fail(err, RP_USAGE,
                   "the pattern is for %d layers of %d key-value heads, the model has "
                   "%d of %d; give one integer or one per layer",
                   pats->layers, pats->kv_heads, m->N, m->Hk);
  if (net->plans == PLANS)
    return rp_fail(err, RP_USAGE, "more than %d patterns in one run; use fewer at a time", PLANS);
  *plan = net->plans++;
  return rp_net_set_plan(net, *plan, pats, err);
}

rp_status rp_net_set_plan(rp_net *net, int plan, const rp_pats *pats, rp_error *err) {
  const rp_model_settings *m = &net->m;
  if (plan < 0 || plan >= net->plans || pats->layers != m->N || pats->kv_heads != m->Hk)
    return rp_fail(err, RP_USAGE, "plan %d of %d is not of %d layers and %d key-value heads", plan,
                   net->plans, pats->layers, pats->kv_heads);
  rp_upload(net->q, rp_ptr_add(net->pats, pats_bytes(m) * (size_t)plan), pats->at, pats_bytes(m));
  return RP_OK;
}

/* The rows of a plan change only when the shape of the call does, so that a recorded pass holds. */
static rp_status set_rows(rp_net *net, int batch, int T, int plan, rp_error *err) {
  if (plan < 0 || plan >= net->plans || batch < 1 || T < 1 || batch > net->o.batch || T > net->o.T)
    return rp_fail(err, RP_USAGE,
                   "a call of %d x %d tokens in plan %d does not fit a network opened "
                   "for %d x %d",
                   batch, T, plan, net->o.batch, net->o.T);
  if (net->rows_batch[plan] == batch && net->rows_T[plan] == T) return RP_OK;
  for (int b = 0; b < batch; b++) {
    rp_row row = {.tok = b * T, .n = T, .plan = plan};
    size_t at = sizeof row * ((size_t)net->o.batch * (size_t)plan + (size_t)b);
    rp_upload(net->q, rp_ptr_add(net->rows, at), &row, sizeof row);
  }
  net->rows_batch[plan] = batch;
  net->rows_T[plan] = T;
  return RP_OK;
}

/* A smaller call uses the buffers of the largest: only their first rows. */
static rp_status start(rp_net *net, rp_run *r, int batch, int T, int plan, rp_error *err) {
  RP_TRY(set_rows(net, batch, T, plan, err));
  run_init(r, net, batch, T, plan);
  rp_carve c = {net->acts.at, 0, 0};
  carve_acts(net, &c, r, net->b.x);
  return RP_OK;
}

rp_status rp_net_pass(rp_net *net, const rp_weights *w, const rp_pass *p, rp_error *err) {
  rp_run r;
  if (p->grad && !net->o.train)
    return rp_fail(err, RP_USAGE, "a backward pass through a network opened without training");
  RP_TRY(start(net, &r, p->batch, p->T, p->plan, err));
  return whole_pass(net, &r, w, p, err);
}

rp_status rp_net_score(rp_net *net, const rp_weights *w, const rp_net_pick *p, rp_error *err) {
  rp_run r;
  RP_TRY(start(net, &r, p->batch, p->T, p->plan, err));
  return whole_score(net, &r, w, p, err);
}

rp_status rp_net_run(rp_net *net, const rp_weights *w, const rp_net_call *call, rp_error *err) {
  rp_run r;
  const int n = call->rows.tokens;
  if (!net->o.infer || n < 1 || n > net->o.T || call->picks[0].n > n || call->picks[1].n > n)
    return rp_fail(err, RP_USAGE, "a call of %d tokens over caches does not fit its network", n);
  run_init(&r, net, 1, n, 0);
  r.rows = call->rows;
  r.kv = call->kv;
  rp_carve c = {net->acts.at, 0, 0};
  carve_acts(net, &c, &r, net->b.x);
  return whole_call(net, &r, w, call, err);
}

rp_status rp_net_run_scratch(rp_net *net, int n, size_t *bytes, rp_error *err) {
  rp_run r;
  dry_weights dw;
  run_init(&r, net, 1, n, 0);
  r.dry = true;
  const rp_weights h = dry_hooks(net, &dw);
  RP_TRY(dry_call(net, &r, &h, n, err));
  *bytes = r.scratch;
  return RP_OK;
}

rp_status rp_net_hidden(rp_net *net, const rp_weights *w, int batch, int T, int plan, rp_ptr ids,
                        rp_tensor *x, rp_error *err) {
  rp_run r;
  RP_TRY(start(net, &r, batch, T, plan, err));
  RP_TRY(forward(net, &r, w, ids, err));
  w->done(w->ctx, net->q, net->m.N + 1);
  w->done(w->ctx, net->q, 0);
  *x = net->b.y;
  return RP_OK;
}
