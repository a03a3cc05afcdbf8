/* safetensors files: what is written is read; what is damaged is refused. */
#include "store_box.h"

static rp_status open_path(const char *path, rp_error *err) {
  rp_store *s;
  const rp_status st = rp_store_open(&s, path, err);
  rp_store_close(s);
  return st;
}

/* A file of this header (its length put in front) and `bytes` zero bytes of data. */
static void write_header(const char *path, const char *header, size_t bytes) {
  uint8_t file[4096] = {0};
  const size_t n = strlen(header);
  assert_true(8 + n + bytes <= sizeof file);
  file[0] = (uint8_t)n;
  file[1] = (uint8_t)(n >> 8);
  memcpy(file + 8, header, n);
  box_write(path, file, 8 + n + bytes);
}

static void written_is_read(void **state) {
  (void)state;
  static const rp_dtype dtypes[] = {RP_F32, RP_BF16, RP_F16};
  rp_rng r = check_rng(2);
  rp_error err = {0};
  for (int round = 0; round < 24; round++) {
    rp_model_settings m = box_random(&r);
    rp_shape shape;
    rp_store *s;
    check_ok(rp_shape_make(&shape, &m, &err), err);
    box_source from = {&shape, 0};
    const char *path = check_path("one.safetensors");
    const rp_dtype dtype = dtypes[round % 3];
    check_ok(rp_safetensors_write(path, &shape, dtype, "", 0, box_pull, &from, &err), err);
    check_ok(rp_store_open(&s, path, &err), err);
    check_ok(rp_store_check(s, &shape, &err), err);
    assert_int_equal(rp_store_count(s), shape.n);
    box_check_values(s, &shape);
    for (int i = 0; i < shape.n; i++) {
      const rp_param *p = &shape.p[i];
      const rp_view *v = rp_store_find(s, p->name);
      assert_int_equal(rp_store_dtype(s, p), dtype);
      const void *direct = rp_store_direct(s, p, dtype);
      assert_ptr_equal(direct, v->data); /* whatever the sizes of those before it */
      assert_null(rp_store_direct(s, p, RP_F64));
    }
    assert_non_null(rp_store_direct(s, &shape.p[0], dtype));
    rp_store_close(s);
    rp_shape_free(&shape);
    rp_model_settings_free(&m);
  }
}

static void shards_are_one_model(void **state) {
  (void)state;
  rp_rng r = check_rng(3);
  rp_error err = {0};
  for (int round = 0; round < 6; round++) {
    rp_model_settings m = box_random(&r);
    rp_shape shape;
    rp_store *s;
    char dir[64];
    rp_snprintf(dir, sizeof dir, "shards%d", round);
    check_ok(rp_shape_make(&shape, &m, &err), err);
    check_ok(rp_mkdirs(check_path(dir), &err), err);
    char *path = rp_path_join(check_path(dir), "model.safetensors");
    box_source from = {&shape, 0};
    const uint64_t limit = (uint64_t)check_pick(&r, 300, 6000);
    check_ok(rp_safetensors_write(path, &shape, RP_F32, "", limit, box_pull, &from, &err), err);
    assert_int_equal(rp_is_file(path), (uint64_t)shape.total * 4 <= limit);
    check_ok(rp_store_open(&s, check_path(dir), &err), err);
    check_ok(rp_store_check(s, &shape, &err), err);
    box_check_values(s, &shape);
    rp_store_close(s);
    rp_free(path);
    rp_shape_free(&shape);
    rp_model_settings_free(&m);
  }
}

static void bad_headers(void **state) {
  (void)state;
  static const struct {
    const char *header;
    size_t bytes;
    const char *sentence;
  } bad[] = {
      {"[]", 0, "no JSON object"},
      {"{ ", 0, "line 1"},
      {"{\"a\":1}", 0, "no object"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "missing"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "missing"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", 4, "missing"},
      {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "F8_E4M3"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "whole number"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "whole number"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
       "4 dimensions"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "does not fit"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,2],\"data_offsets\":[0,0]}}", 0,
       "does not fit"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "outside"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 4, "outside"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "outside"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,99999999999999999999]}}", 4,
       "outside"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
       "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
       4, "overlap"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "no tensor covers"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "8 bytes of data"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
       "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
       8, "a"},
      {"{}", 0, "no tensors"},
      {"{\"__metadata__\":{}}", 0, "no tensors"},
  };
  rp_error err = {0};
  const char *path = check_path("bad.safetensors");
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    write_header(path, bad[i].header, bad[i].bytes);
    check_fails(open_path(path, &err), RP_BAD_DATA, err, bad[i].sentence);
    assert_non_null(strstr(err.text, "bad.safetensors"));
  }
  write_header(path, "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4);
  check_ok(open_path(path, &err), err);
  write_header(path, "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[0,0]}}", 0);
  check_ok(open_path(path, &err), err);
}

static void bad_lengths(void **state) {
  (void)state;
  rp_error err = {0};
  const char *path = check_path("length.safetensors");
  box_write(path, "", 0);
  check_fails(open_path(path, &err), RP_BAD_DATA, err, "too few");
  box_write(path, "\377\377\377\377\377\377\377\377{}", 10);
  check_fails(open_path(path, &err), RP_BAD_DATA, err, "header of 18446744073709551615");
  box_write(path, "\3\0\0\0\0\0\0\0{}", 10);
  check_fails(open_path(path, &err), RP_BAD_DATA, err, "is cut");
  check_fails(open_path(check_path("nothing"), &err), RP_BAD_DATA, err, "no such file");
  check_fails(open_path("", &err), RP_USAGE, err, "empty");
}

/* A small file cut at every byte is refused, and any byte changed does no harm. */
static void cut_and_changed(void **state) {
  (void)state;
  rp_error err = {0};
  rp_model_settings m = box_sample();
  rp_shape shape;
  char *file;
  size_t n;
  check_ok(rp_shape_make(&shape, &m, &err), err);
  box_source from = {&shape, 0};
  const char *path = check_path("cut.safetensors");
  check_ok(rp_safetensors_write(path, &shape, RP_BF16, "", 0, box_pull, &from, &err), err);
  check_ok(rp_file_read(path, 1 << 20, &file, &n, &err), err);
  for (size_t k = 0; k < n; k++) {
    box_write(path, file, k);
    assert_int_equal(open_path(path, &err), RP_BAD_DATA);
  }
  rp_rng r = check_rng(4);
  for (int round = 0; round < 1500; round++) {
    const size_t at = (size_t)check_pick(&r, 0, 2200);
    const char was = file[at];
    file[at] = (char)check_pick(&r, 0, 255);
    box_write(path, file, n);
    rp_store *s;
    if (!rp_store_open(&s, path, &err)) {
      if (!rp_store_check(s, &shape, &err)) {
        float x[512];
        check_ok(rp_store_get_f32(s, &shape.p[1], x, &err), err);
      }
      rp_store_close(s);
    }
    file[at] = was;
  }
  rp_free(file);
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
}

static void bad_indexes(void **state) {
  (void)state;
  static const struct {
    const char *text, *sentence;
  } bad[] = {
      {"{}", "weight_map"},
      {"[1]", "weight_map"},
      {"{\"weight_map\":{\"a\":1}}", "names no file"},
      {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", "names no file"},
      {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "names no file"},
      {"{\"weight_map\":{\"a\":\"..\"}}", "names no file"},
      {"{\"weight_map\":{\"a\":\"good.safetensors\",\"b\":\"good.safetensors\"}}", "\"b\" is not"},
      {"{\"weight_map\":{}}", "no tensors"},
      {"{\"weight_map\":{\"a\":\"good", "line 1"},
  };
  rp_error err = {0};
  check_ok(rp_mkdirs(check_path("index"), &err), err);
  const char *good = check_path("index/good.safetensors");
  const char *index = check_path("index/model.safetensors.index.json");
  write_header(good, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    box_write(index, bad[i].text, strlen(bad[i].text));
    check_fails(open_path(check_path("index"), &err), RP_BAD_DATA, err, bad[i].sentence);
  }
  const char *missing = "{\"weight_map\":{\"a\":\"gone.safetensors\"}}";
  box_write(index, missing, strlen(missing));
  assert_int_not_equal(open_path(index, &err), RP_OK);
  assert_non_null(strstr(err.text, "gone.safetensors"));
  const char *fine = "{\"weight_map\":{\"a\":\"good.safetensors\"}}";
  box_write(index, fine, strlen(fine));
  check_ok(open_path(check_path("index"), &err), err);
}

static void other_models_are_refused(void **state) {
  (void)state;
  rp_error err = {0};
  rp_model_settings m = box_sample();
  rp_shape shape, other;
  rp_store *s;
  check_ok(rp_shape_make(&shape, &m, &err), err);
  box_source from = {&shape, 0};
  const char *path = check_path("model.safetensors");
  check_ok(rp_safetensors_write(path, &shape, RP_F32, "", 0, box_pull, &from, &err), err);
  check_ok(rp_store_open(&s, path, &err), err);
  m.f = 17;
  check_ok(rp_shape_make(&other, &m, &err), err);
  check_fails(rp_store_check(s, &other, &err), RP_BAD_DATA, err, "fc1.weight is [16, 8]");
  rp_shape_free(&other);
  m.f = 16;
  m.N = 1;
  check_ok(rp_shape_make(&other, &m, &err), err);
  check_fails(rp_store_check(s, &other, &err), RP_BAD_DATA, err, "layers.1.");
  rp_shape_free(&other);
  m.N = 3;
  check_ok(rp_shape_make(&other, &m, &err), err);
  check_fails(rp_store_check(s, &other, &err), RP_BAD_DATA, err, "layers.2.seq_layer.in_proj");
  rp_shape_free(&other);
  rp_store_close(s);
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
}

/* Every allocation that fails is a clean status, and nothing is left behind. */
static void short_of_memory(void **state) {
  (void)state;
  rp_error err = {0};
  rp_model_settings m = box_sample();
  rp_shape shape;
  check_ok(rp_shape_make(&shape, &m, &err), err);
  box_source from = {&shape, 0};
  const char *path = check_path("memory.safetensors");
  const size_t before = rp_mem_now();
  rp_status st = RP_NO_MEMORY;
  for (uint64_t n = 1; st; n++) {
    rp_mem_fail_at(n);
    st = rp_safetensors_write(path, &shape, RP_F32, "", 4000, box_pull, &from, &err);
    rp_mem_fail_at(0);
    if (st) assert_int_equal(st, RP_NO_MEMORY);
    assert_int_equal(rp_mem_now(), before);
  }
  st = RP_NO_MEMORY;
  for (uint64_t n = 1; st; n++) {
    rp_store *s;
    rp_mem_fail_at(n);
    st = rp_store_open(&s, check_path("memory.safetensors.index.json"), &err);
    rp_mem_fail_at(0);
    if (st) assert_int_equal(st, RP_NO_MEMORY);
    rp_store_close(s);
    assert_int_equal(rp_mem_now(), before);
  }
  rp_shape_free(&shape);
  rp_model_settings_free(&m);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(written_is_read),
                                          cmocka_unit_test(shards_are_one_model),
                                          cmocka_unit_test(bad_headers),
                                          cmocka_unit_test(bad_lengths),
                                          cmocka_unit_test(cut_and_changed),
                                          cmocka_unit_test(bad_indexes),
                                          cmocka_unit_test(other_models_are_refused),
                                          cmocka_unit_test(short_of_memory)};
CHECK_MAIN(tests)
