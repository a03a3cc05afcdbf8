/* bench_kernel.c - the registry's cases at the sizes of a model: each beside the plain C level,
 * turn by turn, and against what bounds it. */
#include <string.h>

#include "base/cpu.h"
#include "base/json.h"
#include "base/log.h"
#include "bench/cost_lines.h"
#include "bench/place.h"
#include "ops/rate.h"
#include "ops/registry.h"

enum { MOST_ROUNDS = 200, MOST_SIZE = 1 << 20 };
/* What plain C would work on for long is not run there: beyond the first no warming up, beyond
 * the second not at all. */
#define WARM_FLOPS 2e10
#define PLAIN_FLOPS 2e11

typedef enum { BY_PRODUCTS, BY_COPY, BY_READ } bound;
static const char *const bound_words[] = {"products", "memory copy", "memory read"};
static const char *const bound_keys[] = {"products", "memory_copy", "memory_read"};

typedef struct {
  rp_op op;
  bool bf16;
  rp_case_bench size;
  rp_figure f;   /* its time, FLOPs and bytes */
  double plain;  /* seconds of one run; 0: not run */
  double memory; /* bytes of the device */
  bool reads;    /* memory is read, hardly written */
} row;

/* What was asked for: lists that replace an op's own sizes where they are given. */
typedef struct {
  rp_bench_opts o;
  rp_dtype dtype[2];
  int dtypes;
  int64_t T[RP_WORK_MOST], batch[RP_WORK_MOST];
  rp_pat pat[RP_WORK_MOST];
  int Ts, batches, pats;
  rp_device *dev, *plain; /* plain C, beside a processor */
  uint64_t memory;
} asked;

typedef struct {
  row *at;
  size_t n, cap;
  rp_figures notes; /* its notes alone */
} table;

/* ---- one case ---- */

/* A case on a device, so many times that a GPU's cache does not hold the data of the next. */
typedef struct {
  rp_queue *q;
  rp_case_run *run;
  int runs;
  rp_window window;
} side;

static void side_close(side *s) {
  rp_window_close(&s->window);
  for (int i = 0; i < s->runs; i++) rp_case_close(&s->run[i]);
  rp_free(s->run);
  rp_queue_close(s->q);
  *s = (side){0};
}

static void put_case(void *ctx, int which) {
  side *s = ctx;
  rp_case_put(&s->run[which]);
}

static rp_status side_open(side *s, rp_device *d, const rp_case *c, int runs, rp_error *err) {
  *s = (side){0};
  RP_TRY(rp_queue_open(&s->q, d, err));
  s->run = rp_calloc((size_t)runs, sizeof *s->run);
  if (!s->run) return rp_fail_memory(err, (size_t)runs * sizeof *s->run, "the cases of an op");
  for (; s->runs < runs; s->runs++) RP_TRY(rp_case_open(&s->run[s->runs], c, s->q, -1, err));
  s->window = (rp_window){.q = s->q, .put = put_case, .ctx = s, .sides = runs};
  return RP_OK;
}

/* What memory bounds finds none of its data in the processor's caches. */
static rp_status once(side *s, rp_cold *cold, double *seconds, rp_error *err) {
  rp_cold_run(cold);
  return rp_window_run(&s->window, seconds, err);
}

/* In turns, so that what slows the machine down slows both. b closed: a alone. */
static rp_status time_pair(side *a, side *b, rp_cold *cold, double seconds, row *r, rp_error *err) {
  double x[MOST_ROUNDS], y[MOST_ROUNDS];
  int n = 0;
  const bool warm = r->f.flops < WARM_FLOPS || a->window.tape;
  if (warm) RP_TRY(once(a, cold, &x[0], err));
  if (warm && b->q) RP_TRY(once(b, cold, &y[0], err));
  const double from = rp_now();
  do {
    RP_TRY(once(a, cold, &x[n], err));
    if (b->q) RP_TRY(once(b, cold, &y[n], err));
    n++;
  } while (n < MOST_ROUNDS && rp_now() - from < seconds);
  r->f.seconds = rp_median(x, n); /* sorts */
  r->f.least = x[0];
  r->f.most = x[n - 1];
  r->f.runs = n;
  r->plain = b->q ? rp_median(y, n) : 0;
  return RP_OK;
}

/* Seconds at the limits, and what makes them. */
static double limit_of(const row *r, const rp_limits *m, bound *by) {
  const double product = r->f.flops / m->product[r->bf16];
  const double memory = r->f.bytes / (r->reads ? m->read : m->copy);
  *by = memory <= product ? BY_PRODUCTS : r->reads ? BY_READ : BY_COPY;
  return memory > product ? memory : product;
}

/* How often a case is there at once: where memory bounds it, and it fits. */
static int runs_of(const asked *a, const row *r, bound by) {
  const double bytes = r->f.bytes, most = (double)a->memory / 2 / r->memory;
  const int n = by == BY_PRODUCTS ? 1 : rp_rate_sides(a->dev, bytes);
  return n <= most ? n : most < 1 ? 1 : (int)most;
}

static rp_status bench_case(row *r, const rp_case *c, const asked *a, const rp_limits *m,
                            rp_error *err) {
  side fast = {0}, plain = {0};
  rp_cold cold = {0};
  rp_status st = RP_OK;
  bound by;
  const bool gpu = rp_device_apart(a->dev);
  r->f.flops = c->flops;
  r->f.bytes = rp_case_traffic(c, RP_F32);
  r->memory = (double)rp_case_memory(c, RP_F32);
  r->reads = c->reads;
  limit_of(r, m, &by);
  RP_GO(side_open(&fast, a->dev, c, runs_of(a, r, by), err));
  RP_GO(rp_window_open(&fast.window, a->o.seconds, err));
  if (by != BY_PRODUCTS && !gpu) RP_GO(rp_cold_open(&cold, a->o.seconds, err));
  if (!gpu && c->flops < PLAIN_FLOPS && 2 * r->memory <= (double)a->memory) {
    RP_GO(side_open(&plain, a->plain, c, 1, err));
    RP_GO(rp_window_open(&plain.window, a->o.seconds, err));
  }
  RP_GO(time_pair(&fast, &plain, &cold, a->o.seconds, r, err));
fail:
  rp_cold_close(&cold);
  side_close(&fast);
  side_close(&plain);
  return st;
}

/* ---- what a case is called ---- */

static void size_words(rp_str *b, const row *r) {
  const unsigned by = rp_case_bench_by(r->op);
  const rp_case_bench *z = &r->size;
  if (!by) return;
  if (z->step && by & RP_CASE_BY_PATTERN)
    rp_str_addf(b, "step %dx%d, ", z->batch, z->T);
  else if (z->step)
    rp_str_addf(b, "%d row%s, ", z->batch, z->batch > 1 ? "s" : "");
  else if (by & RP_CASE_BY_TOKENS)
    rp_str_addf(b, "%dx%d, ", z->batch, z->T);
  if (!(by & RP_CASE_BY_HEADS)) {
    rp_str_addf(b, "d=%d", z->H * z->h);
    return;
  }
  rp_str_addf(b, "%dx%d", z->H, z->h);
  if (z->Hk != z->H) rp_str_addf(b, " (%d)", z->Hk);
  if (by & RP_CASE_BY_PATTERN) rp_str_addf(b, ", %s", r->f.pattern);
}

/* "attend bfloat16 step 1x4096, 16x128, D=16" */
static void full_name(char out[160], const row *r) {
  rp_str b = {0};
  size_words(&b, r);
  rp_snprintf(out, 160, "%s %s %s", rp_op_name(r->op), rp_dtype_name(r->f.dtype), b.s ? b.s : "");
  rp_str_free(&b);
}

static rp_status pattern_words(row *r, rp_error *err) {
  rp_pats p = {0};
  RP_TRY(rp_pats_uniform(&p, r->size.pat, 1, 1, err));
  char *text = rp_pats_format(&p);
  rp_pats_free(&p);
  if (!text) return rp_fail_memory(err, 64, "a pattern");
  rp_snprintf(r->f.pattern, sizeof r->f.pattern, "%s", text);
  rp_free(text);
  return RP_OK;
}

/* ---- which cases ---- */

static rp_status add_row(table *t, const asked *a, rp_op op, rp_case_bench size, rp_error *err) {
  if (a->o.only && (a->o.only[0] == 'd') != size.step) return RP_OK;
  if (!size.H) size.H = size.Hk = rp_threads() > 2 ? rp_threads() : 2;
  if (a->o.width) size.H = size.Hk = a->o.width % 128 ? 1 : a->o.width / 128;
  const int d = a->o.width ? a->o.width : 0;
  if (a->o.heads) size.H = size.Hk = a->o.heads;
  if (d) size.h = d / size.H;
  if (a->o.kv_heads) size.Hk = a->o.kv_heads;
  if ((d && d % size.H) || size.h % 2)
    return rp_fail(err, RP_USAGE, "a width of %d is not %d heads of an even width", d, size.H);
  if (size.H % size.Hk)
    return rp_fail(err, RP_USAGE, "%d query heads cannot share %d key-value heads", size.H,
                   size.Hk);
  if ((int64_t)size.T * size.batch > INT32_MAX)
    return rp_fail(err, RP_USAGE, "%d sequences of %d tokens are more than one call can hold",
                   size.batch, size.T);
  for (int i = 0; i < a->dtypes; i++) {
    rp_case c;
    row r = {.op = op, .bf16 = a->dtype[i] == RP_BF16, .size = size};
    r.f = (rp_figure){.decode = size.step,
                      .work = rp_op_name(op),
                      .dtype = a->dtype[i],
                      .T = size.T,
                      .batch = size.batch};
    RP_TRY(pattern_words(&r, err));
    rp_case_make_bench(&c, op, r.bf16, &size);
    if (r.bf16 && !rp_case_computes(&c)) continue;
    RP_TRY(rp_grow(&t->at, &t->cap, t->n + 1, sizeof *t->at, "a table of kernels", err));
    t->at[t->n++] = r;
  }
  return RP_OK;
}

/* Every combination of the lists; what they do not say is as in the op's first size of this
 * form. */
static rp_status add_lists(table *t, const asked *a, rp_op op, rp_case_bench size, rp_error *err) {
  const unsigned by = rp_case_bench_by(op);
  const bool positions = !size.step || by & RP_CASE_BY_PATTERN; /* a row of a product has none */
  const int Ts = positions && a->Ts ? a->Ts : 1;
  for (int i = 0; i < Ts; i++)
    for (int b = 0; b < (a->batches ? a->batches : 1); b++)
      for (int p = 0; p < (a->pats ? a->pats : 1); p++) {
        rp_case_bench one = size;
        if (positions && a->Ts) one.T = (int32_t)a->T[i];
        if (a->batches) one.batch = (int32_t)a->batch[b];
        if (a->pats) one.pat = a->pat[p];
        RP_TRY(add_row(t, a, op, one, err));
      }
  return RP_OK;
}

static rp_status add_op(table *t, const asked *a, rp_op op, rp_error *err) {
  int n;
  const rp_case_bench *sizes = rp_case_benches(op, rp_device_apart(a->dev), &n);
  const bool lists = a->Ts || a->batches || a->pats;
  bool seen[2] = {false, false};
  for (int i = 0; i < n; i++) {
    if (!lists) RP_TRY(add_row(t, a, op, sizes[i], err));
    if (lists && !seen[sizes[i].step]) RP_TRY(add_lists(t, a, op, sizes[i], err));
    seen[sizes[i].step] = true;
  }
  return RP_OK;
}

/* Sizes choose among the ops those that have them. */
static bool has_all(rp_op op, const asked *a) {
  const unsigned by = rp_case_bench_by(op);
  unsigned wanted = 0;
  if (a->Ts || a->batches) wanted |= RP_CASE_BY_TOKENS;
  if (a->o.width) wanted |= RP_CASE_BY_WIDTH;
  if (a->o.heads || a->o.kv_heads) wanted |= RP_CASE_BY_HEADS;
  if (a->pats) wanted |= RP_CASE_BY_PATTERN;
  return (by & wanted) == wanted;
}

static rp_status no_op(const char *name, rp_error *err) {
  rp_str names = {0};
  for (int op = 0; op < RP_OP_COUNT; op++)
    rp_str_addf(&names, "%s%s", op ? ", " : "", rp_op_name((rp_op)op));
  const rp_status st =
      rp_fail(err, RP_USAGE, "%s: no such op; there are %s", name, names.s ? names.s : "none");
  rp_str_free(&names);
  return st;
}

/* What the device does not have is left out; nothing else was asked for: RP_USAGE. */
static rp_status note_missing(table *t, const asked *a, const char *missing, rp_error *err) {
  if (!missing) return RP_OK;
  if (!t->n) return rp_fail(err, RP_USAGE, "device %s has no %s", rp_device_name(a->dev), missing);
  return rp_figures_note(&t->notes, err, "left out: device %s has no %s", rp_device_name(a->dev),
                         missing);
}

static rp_status choose_rows(table *t, const asked *a, const char *name, rp_error *err) {
  rp_str missing = {0};
  rp_status st = RP_OK;
  bool named = !name;
  for (int op = 0; op < RP_OP_COUNT; op++) {
    if (name && strcmp(name, rp_op_name((rp_op)op))) continue;
    named = true;
    if (!rp_device_has(a->dev, (rp_op)op))
      rp_str_addf(&missing, "%s%s", missing.len ? ", " : "", rp_op_name((rp_op)op));
    else if (has_all((rp_op)op, a))
      RP_GO(add_op(t, a, (rp_op)op, err));
  }
  if (!named) RP_GO(no_op(name, err));
  RP_GO(note_missing(t, a, missing.s, err));
  if (!t->n)
    RP_GO(
        rp_fail(err, RP_USAGE,
                "%s has no case of these sizes; leave out --pattern, --seq-len, --batch, --width, "
                "--heads, --only or --dtype",
                name ? name : "no op"));
fail:
  rp_str_free(&missing);
  return st;
}

/* ---- what was asked ---- */

static rp_status read_patterns(asked *a, rp_error *err) {
  char *words[RP_WORK_MOST] = {0};
  rp_status st = RP_OK;
  if (!a->o.patterns) return RP_OK;
  RP_GO(rp_bench_split(a->o.patterns, ';', words, &a->pats, err));
  for (int i = 0; i < a->pats; i++) {
    rp_pats p = {0};
    RP_GO(rp_pats_parse(&p, words[i], 1, 1, err));
    a->pat[i] = p.at[0];
    rp_pats_free(&p);
  }
fail:
  for (int i = 0; i < RP_WORK_MOST; i++) rp_free(words[i]);
  return st;
}

static rp_status read_asked(asked *a, const rp_bench_opts *opts, rp_error *err) {
  static const int64_t none[] = {-1};
  rp_bench_defaults(&a->o);
  if (opts) a->o = *opts;
  if (a->o.seconds <= 0) a->o.seconds = 0.5;
  if (a->o.patience <= 0) a->o.patience = 300;
  RP_TRY(rp_bench_device(&a->dev, a->o.device, true, err));
  RP_TRY(rp_device_open(&a->plain, RP_DEVICE_REF, err));
  a->memory = rp_bench_memory(a->dev, a->o.memory);
  RP_TRY(
      rp_bench_dtypes(a->o.dtypes ? a->o.dtypes : "float32,bfloat16", a->dtype, &a->dtypes, err));
  RP_TRY(rp_bench_numbers("seq-len", a->o.seq_lens, a->o.n_seq_lens, none, 2, (1 << 30) - 1, a->T,
                          &a->Ts, err));
  RP_TRY(rp_bench_numbers("batch", a->o.batches, a->o.n_batches, none, 1, RP_CASE_ROWS, a->batch,
                          &a->batches, err));
  RP_TRY(rp_bench_part("width", a->o.width, MOST_SIZE, err));
  RP_TRY(rp_bench_part("heads", a->o.heads, 64, err));
  RP_TRY(rp_bench_part("kv-heads", a->o.kv_heads, 64, err));
  return read_patterns(a, err);
}

/* ---- all cases ---- */

/* Whether it fits into memory and patience, before anything is allocated; a note says why not. */
static rp_status fits(table *t, const row *r, const rp_case *c, const asked *a, const rp_limits *m,
                      bool *out, rp_error *err) {
  char name[160], takes[32], there[32];
  const double need = (double)rp_case_memory(c, RP_F32), limit = c->flops / m->product[r->bf16];
  *out = need <= (double)a->memory && limit <= a->o.patience;
  if (*out) return RP_OK;
  full_name(name, r);
  rp_format_bytes(takes, need);
  rp_format_bytes(there, (double)a->memory);
  if (need > (double)a->memory)
    return rp_figures_note(&t->notes, err, "left out: %s takes %s of memory, and %s may be used",
                           name, takes, there);
  return rp_figures_note(&t->notes, err,
                         "left out: %s takes %.3g s at the machine's limit, beyond --patience %g",
                         name, limit, a->o.patience);
}

static rp_status run_rows(table *t, const asked *a, const rp_limits *m, rp_error *err) {
  size_t done = 0;
  for (size_t i = 0; i < t->n; i++) {
    char name[160];
    rp_case c;
    bool ok;
    row r = t->at[i];
    full_name(name, &r);
    if (a->o.progress && a->o.progress(a->o.ctx, (int)i, (int)t->n, name))
      return rp_fail(err, RP_STOPPED, "stopped as asked");
    rp_case_make_bench(&c, r.op, r.bf16, &r.size);
    RP_TRY(fits(t, &r, &c, a, m, &ok, err));
    if (!ok) continue;
    RP_TRY(bench_case(&r, &c, a, m, err));
    t->at[done++] = r;
  }
  t->n = done;
  if (done) return RP_OK;
  return rp_fail(err, RP_NO_MEMORY, "%s; nothing is left to measure", t->notes.note[0]);
}

/* Before the cases and after them: what disturbs a measurement only makes it slower. */
static rp_status measure_limits(rp_limits *m, const asked *a, rp_error *err) {
  const double seconds = a->o.seconds < 1 ? a->o.seconds : 1;
  RP_TRY(rp_limits_measure(m, a->dev, RP_F32, seconds, err));
  return rp_limits_measure(m, a->dev, RP_BF16, seconds, err);
}

/* ---- the report ---- */

static void add_text(rp_str *b, const table *t, const asked *a, const rp_limits *m) {
  rp_str_add(b, "kernel: ");
  rp_bench_place(b, a->dev);
  rp_str_addf(b,
              "\nlimits: products %.1f GFLOP/s float32, %.1f bfloat16; memory read %.1f GB/s, copy "
              "%.1f\n",
              m->product[0] * 1e-9, m->product[1] * 1e-9, m->read * 1e-9, m->copy * 1e-9);
  rp_str_add(b,
             "op          dtype     size                                   ms  least..most ms    "
             "plain ms  GFLOP/s     GB/s  share of\n");
  for (size_t i = 0; i < t->n; i++) {
    const row *r = &t->at[i];
    rp_str size = {0};
    char plain[32] = "-";
    bound by;
    const double limit = limit_of(r, m, &by);
    size_words(&size, r);
    if (r->plain > 0) rp_snprintf(plain, sizeof plain, "%.3f", r->plain * 1e3);
    rp_str_addf(b, "%-11s %-9s %-32s %8.3f %7.4g..%-7.4g %10s %8.1f %8.1f %5.1f%% %s\n",
                rp_op_name(r->op), rp_dtype_name(r->f.dtype), size.s ? size.s : "",
                r->f.seconds * 1e3, r->f.least * 1e3, r->f.most * 1e3, plain,
                r->f.flops / r->f.seconds * 1e-9, r->f.bytes / r->f.seconds * 1e-9,
                100 * limit / r->f.seconds, bound_words[by]);
    rp_str_free(&size);
  }
  for (size_t i = 0; i < t->notes.notes; i++) rp_str_addf(b, "%s\n", t->notes.note[i]);
}

static void add_size_json(rp_str *b, const row *r) {
  const unsigned by = rp_case_bench_by(r->op);
  const rp_case_bench *z = &r->size;
  if (by & RP_CASE_BY_TOKENS)
    rp_str_addf(b, ",\"step\":%s,\"seq_len\":%d,\"batch\":%d", z->step ? "true" : "false", z->T,
                z->batch);
  if (by & RP_CASE_BY_WIDTH) rp_str_addf(b, ",\"width\":%d", z->H * z->h);
  if (by & RP_CASE_BY_HEADS)
    rp_str_addf(b, ",\"heads\":%d,\"kv_heads\":%d,\"head_width\":%d", z->H, z->Hk, z->h);
  if (by & RP_CASE_BY_PATTERN) {
    rp_str_add(b, ",\"pattern\":");
    rp_json_add_string(b, r->f.pattern);
  }
}

static void add_json(rp_str *b, const table *t, const asked *a, const rp_limits *m) {
  rp_str_addf(b, "{\"bench\":\"kernel\",\"device\":\"%s\",\"threads\":%d,\"processor\":",
              rp_device_name(a->dev), rp_threads());
  rp_json_add_string(b, rp_device_label(a->dev));
  rp_str_addf(b,
              ",\"product_float32\":%.6g,\"product_bfloat16\":%.6g,\"memory_read\":%.6g,"
              "\"memory_copy\":%.6g,\"ops\":[",
              m->product[0], m->product[1], m->read, m->copy);
  for (size_t i = 0; i < t->n; i++) {
    const row *r = &t->at[i];
    bound by;
    const double limit = limit_of(r, m, &by);
    rp_str_addf(b, "%s{\"op\":\"%s\",\"dtype\":\"%s\"", i ? "," : "", rp_op_name(r->op),
                rp_dtype_name(r->f.dtype));
    add_size_json(b, r);
    rp_str_addf(b, ",\"seconds\":%.6g,\"least\":%.6g,\"most\":%.6g,\"runs\":%d", r->f.seconds,
                r->f.least, r->f.most, r->f.runs);
    if (r->plain > 0) rp_str_addf(b, ",\"plain_seconds\":%.6g", r->plain);
    rp_str_addf(b, ",\"flops\":%.17g,\"bytes\":%.17g,\"share\":%.4g,\"limit\":\"%s\"}", r->f.flops,
                r->f.bytes, limit / r->f.seconds, bound_keys[by]);
  }
  rp_str_add(b, "],\"left_out\":[");
  for (size_t i = 0; i < t->notes.notes; i++) {
    if (i) rp_str_add(b, ",");
    rp_json_add_string(b, t->notes.note[i]);
  }
  rp_str_add(b, "]}\n");
}

/* Cost over T of the ops that have one. */
static rp_status chart(const table *t, const asked *a, const char *name, rp_error *err) {
  rp_figures all = {0};
  rp_line *lines = NULL;
  rp_status st = RP_OK;
  rp_str title = {0};
  size_t n;
  for (size_t i = 0; i < t->n; i++)
    if (rp_case_bench_by(t->at[i].op) & RP_CASE_BY_TOKENS)
      RP_GO(rp_figures_add(&all, &t->at[i].f, err));
  RP_GO(rp_lines_make(&all, &lines, &n, err));
  rp_str_addf(&title, "kernel%s%s: ", name ? " " : "", name ? name : "");
  rp_bench_place(&title, a->dev);
  RP_GO(rp_lines_svg(lines, n, title.s ? title.s : "", a->o.svg, err));
fail:
  rp_str_free(&title);
  rp_free(lines);
  rp_figures_free(&all);
  return st;
}

rp_status rp_bench_kernel(const char *name, const rp_bench_opts *opts, char **text, rp_error *err) {
  asked a = {0};
  table t = {0};
  rp_limits m = {{0}, 0, 0};
  rp_str b = {0};
  rp_status st = RP_OK;
  *text = NULL;
  RP_GO(read_asked(&a, opts, err));
  RP_GO(choose_rows(&t, &a, name, err));
  RP_GO(measure_limits(&m, &a, err));
  RP_GO(run_rows(&t, &a, &m, err));
  RP_GO(measure_limits(&m, &a, err));
  (a.o.json ? add_json : add_text)(&b, &t, &a, &m);
  *text = rp_str_take(&b);
  if (!*text) RP_GO(rp_fail_memory(err, 4096, "the benchmark's table"));
  if (a.o.svg) RP_GO(chart(&t, &a, name, err));
fail:
  if (st) {
    rp_free(*text);
    *text = NULL;
  }
  rp_figures_free(&t.notes);
  rp_free(t.at);
  rp_device_close(a.plain);
  rp_device_close(a.dev);
  return st;
}
