/* Weights read from the pages of their file: the same logits, bit for bit, as from copies; from many
 * files, from a folder that cannot be written, from what `convert` makes. */
#include <fcntl.h>
#include <grp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/cpu.h"
#include "model/frozen.h"
#include "model_box.h"
#include "ratplus/convert.h"
#include "ratplus/info.h"
#include "ratplus/session.h"
#include "session/engine.h"
#include "store_box.h"

enum { TOKENS = 7 };

/* Values of which few are whole in bfloat16. */
typedef struct {
  const rp_shape *shape;
  uint64_t seed;
} source;

static float value(const source *s, const rp_param *p, int64_t k) {
  uint32_t u[4];
  rp_philox(s->seed, RP_RNG_TEST, (uint64_t)(p - s->shape->p), (uint64_t)k, u);
  return (float)(p->role == RP_ROLE_ONE) + 0.4f * ((float)u[0] * 0x1p-32f - 0.5f);
}

static rp_status pull(void *ctx, const rp_param *p, rp_dtype dtype, void *out, rp_error *err) {
  const source *s = ctx;
  (void)err;
  if (!out) return RP_OK; /* another rank's file */
  for (int64_t k = 0; k < p->rows * p->cols; k++) {
    const float x = value(s, p, k);
    if (dtype == RP_F32)
      ((float *)out)[k] = x;
    else if (dtype == RP_F64)
      ((double *)out)[k] = (double)x;
    else
      ((uint16_t *)out)[k] = dtype == RP_BF16 ? rp_f32_to_bf16(x) : rp_f32_to_f16(x);
  }
  return RP_OK;
}

/* A model directory whose tensors are of these dtypes, in files of at most shard_bytes, as so many
 * ranks write it. */
static void write_model_by(int ranks, const char *dir, const rp_model_settings *m,
                           const rp_shape *shape, const rp_dtype *dtypes, uint64_t seed,
                           uint64_t shard_bytes) {
  rp_error err = {0};
  char *text;
  source from = {shape, seed};
  char *weights = rp_path_join(dir, "model.safetensors"),
       *config = rp_path_join(dir, "config.yaml");
  const rp_tensor_set set = {
      .shape = shape, .prefix = "", .dtypes = dtypes, .pull = pull, .ctx = &from};
  rp_remove_tree(dir, NULL);
  check_ok(rp_mkdirs(dir, &err), err);
  for (int r = 0; r < ranks; r++) {
    const rp_writing w = {weights, &set, 1, shard_bytes, r, ranks};
    check_ok(rp_safetensors_write_part(&w, &err), err);
    if (r == ranks - 1) check_ok(rp_safetensors_write_index(&w, &err), err);
  }
  check_ok(rp_model_settings_json(m, true, &text, &err), err);
  box_write(config, text, strlen(text));
  rp_free(text);
  rp_free(weights);
  rp_free(config);
}

static void write_model(const char *dir, const rp_model_settings *m, const rp_shape *shape,
                        const rp_dtype *dtypes, uint64_t seed, uint64_t shard_bytes) {
  write_model_by(1, dir, m, shape, dtypes, seed, shard_bytes);
}

/* Moves the data of a file by `by` bytes, with blanks behind its header. */
static void shift_data(const char *path, size_t by) {
  rp_error err = {0};
  char *text;
  size_t n, header = 0;
  check_ok(rp_file_read(path, 1 << 24, &text, &n, &err), err);
  for (int i = 7; i >= 0; i--) header = header << 8 | (uint8_t)text[i];
  char *moved = rp_malloc(n + by, 1);
  assert_non_null(moved);
  memcpy(moved, text, 8 + header);
  memset(moved + 8 + header, ' ', by);
  memcpy(moved + 8 + header + by, text + 8 + header, n - 8 - header);
  for (int i = 0; i < 8; i++) moved[i] = (char)(uint8_t)((header + by) >> (8 * i));
  box_write(path, moved, n + by);
  rp_free(moved);
  rp_free(text);
}

/* Logits after every one of some tokens; [TOKENS, V]. */
static rp_status try_run(const rp_model *m, int V, float *logits, rp_error *err) {
  rp_status st = RP_OK;
  rp_engine_opts o;
  rp_engine *e = NULL;
  rp_session *s = NULL;
  rp_engine_defaults(&o);
  o.chunk = 4;
  RP_GO(rp_engine_open(&e, m, &o, err));
  RP_GO(rp_session_open(&s, e, "D=2,W=2", 0, err));
  for (int t = 0; t < TOKENS; t++) {
    const int32_t id = (5 * t + 3) % V;
    const rp_feed f = {.session = s, .ids = &id, .n = 1, .logits = logits + t * V};
    RP_GO(rp_engine_call(e, &f, 1, err));
  }
fail:
  rp_session_close(s);
  rp_engine_close(e);
  return st;
}

static void run(const rp_model *m, int V, float *logits) {
  rp_error err = {0};
  check_ok(try_run(m, V, logits, &err), err);
}

/* The same with every weight copied, in float32 and, where it is asked for, rounded. */
static void run_copied(const char *path, const rp_model_settings *m, rp_dtype dtype,
                       rp_device_kind kind, float *logits) {
  rp_error err = {0};
  rp_device *dev;
  rp_queue *q;
  rp_params p;
  rp_store *s;
  rp_model *model;
  check_ok(rp_device_open(&dev, kind, &err), err);
  check_ok(rp_queue_open(&q, dev, &err), err);
  check_ok(rp_params_open(&p, q, m, dtype, false, &err), err);
  check_ok(rp_store_open(&s, path, &err), err);
  check_ok(rp_params_load(&p, s, &err), err);
  rp_store_close(s);
  const rp_weights w = rp_params_weights(&p);
  check_ok(rp_model_borrow(&model, q, m, dtype, &w, &err), err);
  run(model, m->V, logits);
  rp_model_close(model);
  rp_params_close(&p);
  rp_queue_close(q);
  rp_device_close(dev);
}

/* Bytes of tensors that a run in `dtype` reads from the file: those whose dtype is the run's. */
static uint64_t expected(const rp_model_settings *m, const rp_shape *shape, const rp_dtype *dtypes,
                         rp_dtype dtype) {
  uint64_t sum = 0;
  for (int i = 0; i < shape->n; i++) {
    const rp_param *p = &shape->p[i];
    const rp_dtype wants = p->group == RP_GROUP_MATRIX ? dtype : RP_F32;
    /* A row of the embedding is looked up as it is. */
    const bool looked_up =
        p->unit == 0 && (dtypes[i] == RP_F32 || (!m->tied && dtypes[i] == RP_BF16));
    if (dtypes[i] == wants || looked_up)
      sum += (uint64_t)(p->rows * p->cols) * (uint64_t)rp_dtype_bytes(dtypes[i]);
  }
  return sum;
}

static rp_model_settings some_model(rp_rng *r) {
  const int Hk = check_pick(r, 1, 2), H = Hk * check_pick(r, 1, 2), h = 2 * check_pick(r, 1, 6);
  rp_model_settings m =
      box_settings(check_pick(r, 1, 3), H, Hk, h, check_pick(r, 1, 30), check_pick(r, 9, 50));
  m.tied = check_pick(r, 0, 1);
  m.act = check_pick(r, 0, 1) ? RP_ACT_SWIGLU : RP_ACT_GELU;
  m.mixer_norm = (rp_norm)check_pick(r, 0, 1);
  return m;
}

static rp_dtype *some_dtypes(rp_rng *r, const rp_shape *shape) {
  static const rp_dtype all[] = {RP_F32, RP_BF16, RP_F16, RP_F64};
  const int kind = check_pick(r, 0, 3); /* float32; bfloat16 with float32 vectors; any, twice */
  rp_dtype *d = rp_malloc((size_t)shape->n, sizeof *d);
  assert_non_null(d);
  for (int i = 0; i < shape->n; i++) {
    const bool matrix = shape->p[i].group == RP_GROUP_MATRIX;
    d[i] = kind == 0 ? RP_F32 : kind == 1 ? (matrix ? RP_BF16 : RP_F32) : all[check_pick(r, 0, 3)];
  }
  return d;
}

static rp_model *open_model(const char *dir, const char *dtype, rp_model_facts *f) {
  rp_error err = {0};
  rp_model_opts o;
  rp_model *model;
  rp_model_defaults(&o);
  o.dtype = dtype;
  check_ok(rp_model_open(&model, dir, &o, &err), err);
  f->size = sizeof *f;
  rp_model_about(model, f);
  return model;
}

/* Any dtypes in the file, any of the run, in one file or many, aligned or by some bytes off. */
static void mapped_as_copied(void **state) {
  (void)state;
  static const char *const names[] = {"float32", "bfloat16"};
  static const rp_dtype runs[] = {RP_F32, RP_BF16};
  rp_rng r = check_rng(1);
  rp_error err = {0};
  int none = 0, all = 0;
  for (int round = 0; round < 60; round++) {
    rp_model_settings m = some_model(&r);
    rp_shape shape;
    rp_model_facts f;
    float got[TOKENS * 50], want[TOKENS * 50];
    check_ok(rp_shape_make(&shape, &m, &err), err);
    rp_dtype *dtypes = some_dtypes(&r, &shape);
    const char *dir = check_path("model");
    const bool shards = check_pick(&r, 0, 2) == 0;
    const int ranks = check_pick(&r, 0, 2) ? 1 : check_pick(&r, 2, 4);
    write_model_by(ranks, dir, &m, &shape, dtypes, (uint64_t)round, shards ? 3000 : 0);
    char *file = rp_path_join(dir, "model.safetensors");
    const int by = rp_is_file(file) ? check_pick(&r, 0, 2) : 0;
    if (by) shift_data(file, (size_t)by);
    for (int k = 0; k < 2; k++) {
      rp_model *model = open_model(dir, names[k], &f);
      run_copied(dir, &m, runs[k], RP_DEVICE_CPU, want);
      rp_remove_tree(dir, NULL); /* the pages stay */
      run(model, m.V, got);
      rp_model_close(model);
      assert_memory_equal(got, want, sizeof *got * (size_t)(TOKENS * m.V));
      bool uniform = true; /* no float64 before it moves a tensor off its own size */
      for (int i = 0; i < shape.n; i++) uniform = uniform && dtypes[i] == dtypes[0];
      const uint64_t most = expected(&m, &shape, dtypes, runs[k]);
      if (by == 1 && uniform)
        assert_int_equal(f.weights_mapped, 0);
      else if (by == 0 && uniform)
        assert_int_equal(f.weights_mapped, most);
      assert_true(f.weights_mapped <= most && f.weights >= f.weights_mapped);
      none += f.weights_mapped == 0;
      all += f.weights_mapped == f.weights;
      if (k) break;
      write_model_by(ranks, dir, &m, &shape, dtypes, (uint64_t)round, shards ? 3000 : 0);
      if (by) shift_data(file, (size_t)by);
    }
    rp_free(file);
    rp_free(dtypes);
    rp_shape_free(&shape);
    rp_model_settings_free(&m);
  }
  printf("# of 120 openings %d mapped everything, %d nothing\n", all, none);
  assert_true(all && none);
}

/* A device that cannot read host memory copies, and says the same. */
static void a_device_apart(void **state) {
  (void)state;
  rp_rng r = check_rng(2);
  rp_error err = {0};
  for (int round = 0; round < 6; round++) {
    rp_model_settings m = some_model(&r);
    const rp_dtype dtype = round % 2 ? RP_BF16 : RP_F32;
    rp_shape shape;
    rp_device *dev;
    rp_queue *q;
    rp_store *s;
    rp_frozen f;
    rp_model *model;
    float got[TOKENS * 50], want[TOKENS * 50];
    check_ok(rp_shape_make(&shape, &m, &err), err);
    rp_dtype *dtypes = some_dtypes(&r, &shape);
    const char *dir = check_path("apart");
    write_model(dir, &m, &shape, dtypes, (uint64_t)round, 0);
    check_ok(rp_device_open(&dev, RP_DEVICE_GUARD, &err), err);
    check_ok(rp_queue_open(&q, dev, &err), err);
    check_ok(rp_store_open(&s, dir, &err), err);
    check_ok(rp_frozen_open(&f, q, &shape, dtype, s, NULL, &err), err);
    rp_store_close(s);
    assert_true(!rp_device_reads_host(dev) && f.n_lent == 0 && f.mapped == 0 && f.kept > 0);
    assert_true(rp_device_bytes(dev) >= f.kept);
    const rp_weights w = rp_frozen_weights(&f);
    check_ok(rp_model_borrow(&model, q, &m, dtype, &w, &err), err);
    run(model, m.V, got);
    rp_model_close(model);
    run_copied(dir, &m, dtype, RP_DEVICE_GUARD, want);
    assert_memory_equal(got, want, sizeof *got * (size_t)(TOKENS * m.V));
    rp_frozen_close(&f);
    assert_int_equal(rp_device_bytes(dev), 0);
    rp_queue_close(q);
    rp_device_close(dev);
    rp_free(dtypes);
    rp_shape_free(&shape);
    rp_model_settings_free(&m);
  }
}

/* KiB that a line of /proc/self/smaps says of the mappings of files whose path has this in it. */
static long of_mappings(const char *path, const char *field) {
  FILE *in = fopen("/proc/self/smaps", "r");
  char line[512];
  bool ours = false;
  long sum = 0, kib;
  if (!in) skip();
  while (fgets(line, sizeof line, in)) {
    unsigned long from, to;
    if (sscanf(line, "%lx-%lx ", &from, &to) == 2) ours = strstr(line, path) != NULL;
    if (ours && strncmp(line, field, strlen(field)) == 0 &&
        sscanf(line + strlen(field), "%ld", &kib) == 1)
      sum += kib;
  }
  fclose(in);
  return sum;
}

/* Matrices of this dtype, vectors in float32: what a run in it maps whole. */
static rp_dtype *whole_dtypes(const rp_shape *shape, rp_dtype matrices) {
  rp_dtype *d = rp_malloc((size_t)shape->n, sizeof *d);
  assert_non_null(d);
  for (int i = 0; i < shape->n; i++)
    d[i] = shape->p[i].group == RP_GROUP_MATRIX ? matrices : RP_F32;
  return d;
}

/* After a run the pages of one file, or of those that three ranks wrote, are here, and none of them is
 * this process's own. */
static void pages_are_shared(void **state) {
  (void)state;
  rp_error err = {0};
  rp_model_settings m = box_settings(2, 2, 2, 64, 256, 50);
  rp_shape shape;
  rp_model_facts f;
  float logits[TOKENS * 50];
  check_ok(rp_shape_make(&shape, &m, &err), err);
  for (int k = 0; k < 4; k++) {
    const rp_dtype dtype = k & 1 ? RP_BF16 : RP_F32;
    const int ranks = k & 2 ? 3 : 1;
    rp_dtype *dtypes = whole_dtypes(&shape, dtype);
    const char *dir = check_path("shared");
    write_model_by(ranks, dir, &m, &shape, dtypes, 1, 0);
    assert_int_equal(rp_is_file(check_path("shared/model.safetensors")), ranks == 1);
    assert_int_equal(rp_is_file(check_path("shared/model.safetensors.index.json")), ranks == 3);
    rp_model *model = open_model(dir, NULL, &f);
    assert_string_equal(f.dtype, rp_dtype_name(dtype));
    assert_int_equal(f.weights, f.weights_mapped);
    run(model, m.V, logits);
    assert_true(of_mappings(dir, "Rss:") * 1024 >= (long)f.weights);
    assert_int_equal(of_mappings(dir, "Anonymous:"), 0);
    rp_model_close(model);
    assert_int_equal(of_mappings(dir, "Rss:"), 0);
    rp_free(dtypes);
  }
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
}

/* In a child: someone who may not write here opens the model in the working directory. The code of its
 * end is 0 when all went well. */
static int run_as_guest(int V, float *logits) {
  rp_error err = {0};
  rp_model *model;
  rp_model_facts f = {.size = sizeof f};
  if (geteuid() == 0 && (setgroups(0, NULL) || setgid(65534) || setuid(65534))) return 77;
  FILE *out = fopen("new", "w"), *in = fopen("model.safetensors", "r+");
  if (out || in) return printf("# the folder can be written\n"), 2;
  if (rp_model_open(&model, ".", NULL, &err) || try_run(model, V, logits, &err))
    return printf("# %s\n", err.text), 3;
  rp_model_about(model, &f);
  rp_model_close(model);
  return f.weights > 0 && f.weights == f.weights_mapped ? 0 : 4;
}

/* A file of the folder, or the folder, has this mode and was last written at the beginning of time. */
static void set_old(const char *dir, const char *name, unsigned mode) {
  const struct timespec old[2] = {{0}, {0}};
  char *path = rp_path_join(dir, name);
  assert_int_equal(chmod(path, mode), 0);
  assert_int_equal(utimensat(AT_FDCWD, path, old, 0), 0);
  rp_free(path);
}

static void is_old(const char *dir, const char *name) {
  struct stat st;
  char *path = rp_path_join(dir, name);
  assert_int_equal(stat(path, &st), 0);
  if (st.st_mtim.tv_sec || st.st_mtim.tv_nsec) fail_msg("%s was written", path);
  rp_free(path);
}

/* Runs the model of the folder as somebody who may not write there; the code of its end. */
static int guest_in(const char *dir, int V, float *logits) {
  rp_error err = {0};
  char **names;
  size_t n;
  int end;
  check_ok(rp_list_dir(dir, &names, &n, &err), err);
  for (size_t i = 0; i < n; i++) set_old(dir, names[i], 0444);
  set_old(dir, ".", 0555);
  fflush(NULL);
  const pid_t pid = fork();
  if (!pid) {
    const int code = chdir(dir) ? 5 : run_as_guest(V, logits);
    fflush(NULL);
    _exit(code);
  }
  assert_int_equal(waitpid(pid, &end, 0), pid);
  for (size_t i = 0; i < n; i++) is_old(dir, names[i]);
  is_old(dir, ".");
  rp_list_free(names, n);
  assert_int_equal(chmod(dir, 0755), 0);
  assert_true(WIFEXITED(end));
  return WEXITSTATUS(end);
}

/* A model of one file or of three ranks' in a folder that its user cannot write is mapped as any other,
 * and nothing is written. A child goes on only from a process that made no threads: this case is the
 * first, and the children come first in it. */
static void from_a_folder_that_cannot_be_written(void **state) {
  (void)state;
  enum { N = TOKENS * 50 };
  static const char *const dirs[] = {"one", "three"};
  rp_error err = {0};
  rp_model_settings m = box_settings(2, 2, 2, 64, 256, 50);
  rp_shape shape;
  rp_model_facts f;
  float want[N];
  float *got =
      mmap(NULL, 2 * sizeof want, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  assert_true(got != MAP_FAILED);
  check_ok(rp_shape_make(&shape, &m, &err), err);
  rp_dtype *dtypes = whole_dtypes(&shape, RP_F32);
  for (int i = 0; i < 2; i++) {
    write_model_by(2 * i + 1, check_path(dirs[i]), &m, &shape, dtypes, 1, 0);
    const int code = guest_in(check_path(dirs[i]), m.V, got + i * N);
    if (code == 77) skip(); /* root without the right to be another */
    assert_int_equal(code, 0);
  }
  assert_true(rp_is_file(check_path("three/model.safetensors.index.json")));
  rp_model *model = open_model(check_path("one"), NULL, &f);
  run(model, m.V, want);
  rp_model_close(model);
  for (int i = 0; i < 2; i++) assert_memory_equal(got + i * N, want, sizeof want);
  munmap(got, 2 * sizeof want);
  rp_free(dtypes);
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
}

/* A configuration that says another dtype than the one converted to. */
static void say_dtype(const char *dir, const rp_model_settings *m, const char *dtype, bool known) {
  rp_error err = {0};
  rp_str b = {0};
  char *text, *path = rp_path_join(dir, "config.yaml");
  check_ok(rp_model_settings_json(m, known, &text, &err), err);
  rp_str_addf(&b, "{\"trainer\":{\"dtype\":\"%s\"},%s", dtype, text + 1);
  box_write(path, b.s, b.len);
  rp_str_free(&b);
  rp_free(text);
  rp_free(path);
}

/* What `convert --dtype` made is run in that dtype without being asked, and mapped whole. */
static void converted_opens_mapped(void **state) {
  (void)state;
  static const char *const names[] = {"float32", "bfloat16"};
  static const rp_dtype runs[] = {RP_F32, RP_BF16};
  rp_rng r = check_rng(3);
  rp_error err = {0};
  for (int k = 0; k < 32; k++) {
    const int to = k & 1;
    const bool known = k & 2, pth = k & 4;
    rp_model_settings m = some_model(&r);
    rp_shape shape;
    rp_model_facts f;
    rp_convert_opts o;
    char *text, part[64];
    float got[TOKENS * 50], want[TOKENS * 50];
    if (pth && !RATPLUS_WITH_ZIP) continue;
    check_ok(rp_shape_make(&shape, &m, &err), err);
    rp_dtype *dtypes = some_dtypes(&r, &shape);
    const char *in = check_path("in"), *out = check_path(pth ? "out.pth" : "out");
    write_model(in, &m, &shape, dtypes, (uint64_t)k, 0);
    say_dtype(in, &m, names[!to], known);
    rp_convert_defaults(&o);
    o.dtype = names[to];
    o.overwrite = true;
    check_ok(rp_convert(in, out, &o, &err), err);
    rp_model *model = open_model(out, NULL, &f);
    assert_string_equal(f.dtype, names[to]);
    assert_true(f.weights > 0);
    assert_int_equal(f.weights_mapped, f.weights);
    run(model, m.V, got);
    run_copied(out, &m, runs[to], RP_DEVICE_CPU, want);
    assert_memory_equal(got, want, sizeof *got * (size_t)(TOKENS * m.V));
    rp_model_close(model);
    check_ok(rp_model_info(out, NULL, 0, 1, &text, &err), err);
    rp_snprintf(part, sizeof part, "\"run_dtype\":\"%s\",\"mapped_bytes\":%llu,", names[to],
                (unsigned long long)f.weights);
    assert_non_null(strstr(text, part));
    assert_non_null(strstr(text, "\"converted_bytes\":0,"));
    rp_free(text);
    rp_free(dtypes);
    rp_shape_free(&shape);
    rp_model_settings_free(&m);
  }
}

/* What `info` says of any file is what opening it does. */
static void info_tells_what_is_mapped(void **state) {
  (void)state;
  rp_rng r = check_rng(4);
  rp_error err = {0};
  for (int k = 0; k < 20; k++) {
    rp_model_settings m = some_model(&r);
    rp_shape shape;
    rp_model_facts f;
    char *text, part[160];
    check_ok(rp_shape_make(&shape, &m, &err), err);
    rp_dtype *dtypes = some_dtypes(&r, &shape);
    const char *dir = check_path("told");
    write_model_by(check_pick(&r, 1, 2), dir, &m, &shape, dtypes, (uint64_t)k, 0);
    if (k & 1) say_dtype(dir, &m, k & 2 ? "bfloat16" : "float32", true);
    rp_model *model = open_model(dir, NULL, &f);
    rp_model_close(model);
    check_ok(rp_model_info(dir, NULL, 0, 1, &text, &err), err);
    rp_snprintf(part, sizeof part,
                "\"run_dtype\":\"%s\",\"mapped_bytes\":%llu,\"converted_bytes\":%llu,", f.dtype,
                (unsigned long long)f.weights_mapped,
                (unsigned long long)(f.weights - f.weights_mapped));
    if (!strstr(text, part)) fail_msg("wanted %s in %s", part, text);
    rp_free(text);
    check_ok(rp_model_info(dir, NULL, 0, 0, &text, &err), err);
    assert_non_null(strstr(text, "of weights mapped from the file, "));
    assert_int_equal(strstr(text, "nothing converted") != NULL, f.weights == f.weights_mapped);
    rp_free(text);
    rp_free(dtypes);
    rp_shape_free(&shape);
    rp_model_settings_free(&m);
  }
}

/* More cache than the machine has is refused before it is taken, and the mapped weights are told
 * apart from it. */
static void too_large_an_engine(void **state) {
  (void)state;
  rp_error err = {0};
  rp_model_settings m = box_settings(1, 2, 2, 16, 32, 50);
  rp_shape shape;
  rp_model_facts f;
  rp_engine_opts o;
  rp_engine *e;
  check_ok(rp_shape_make(&shape, &m, &err), err);
  rp_dtype *dtypes = whole_dtypes(&shape, RP_F32);
  write_model(check_path("large"), &m, &shape, dtypes, 1, 0);
  rp_model *model = open_model(check_path("large"), NULL, &f);
  const uint64_t free = rp_memory_available();
  rp_engine_defaults(&o);
  o.cache_bytes = 2 * free;
  if (free && 2 * free / 4096 < INT32_MAX) {
    check_fails(rp_engine_open(&e, model, &o, &err), RP_NO_MEMORY, err, "of cache and");
    assert_non_null(strstr(err.text, "of weights are mapped from the file and not counted"));
  }
  rp_model_close(model);
  rp_free(dtypes);
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
}

/* What is written lies at multiples of 64 bytes where all sizes are. */
static void written_aligned(void **state) {
  (void)state;
  rp_error err = {0};
  rp_model_settings m = box_settings(2, 2, 1, 16, 32, 50);
  rp_shape shape;
  check_ok(rp_shape_make(&shape, &m, &err), err);
  for (int k = 0; k < 2; k++) {
    rp_store *s;
    rp_dtype *dtypes = rp_malloc((size_t)shape.n, sizeof *dtypes);
    assert_non_null(dtypes);
    for (int i = 0; i < shape.n; i++)
      dtypes[i] = k && shape.p[i].group == RP_GROUP_MATRIX ? RP_BF16 : RP_F32;
    write_model(check_path("aligned"), &m, &shape, dtypes, 1, k ? 4000 : 0);
    check_ok(rp_store_open(&s, check_path("aligned"), &err), err);
    for (int i = 0; i < shape.n; i++) {
      const rp_view *v = rp_store_find(s, shape.p[i].name);
      assert_non_null(v);
      assert_int_equal((uintptr_t)v->data % 64, 0);
    }
    rp_store_close(s);
    rp_free(dtypes);
  }
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(from_a_folder_that_cannot_be_written),
    cmocka_unit_test(mapped_as_copied),
    cmocka_unit_test(a_device_apart),
    cmocka_unit_test(pages_are_shared),
    cmocka_unit_test(converted_opens_mapped),
    cmocka_unit_test(info_tells_what_is_mapped),
    cmocka_unit_test(too_large_an_engine),
    cmocka_unit_test(written_aligned),
};
CHECK_MAIN(tests)
