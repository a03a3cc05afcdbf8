/* The pickle reader: values as Python's pickle module gives them, damage as clean errors. */
#include "check.h"
#include "model/pickle.h"

static rp_status read_bytes(rp_pickle **p, const void *data, size_t n, rp_error *err) {
  return rp_pickle_read(p, data, n, "test.pkl", err);
}

#define READ(p, text) read_bytes(p, text, sizeof(text) - 1, &err)

static const rp_pv *good(rp_pickle **p, const char *data, size_t n) {
  rp_error err = {0};
  check_ok(read_bytes(p, data, n, &err), err);
  return rp_pickle_root(*p);
}

static void scalars(void **state) {
  (void)state;
  static const struct {
    const char *data;
    size_t n;
    int64_t value;
  } ints[] = {
      {"\x80\x02K\xff.", 5, 255},
      {"\x80\x02M\xff\xff.", 6, 65535},
      {"\x80\x02J\xff\xff\xff\xff.", 8, -1},
      {"\x80\x02J\x00\x00\x00\x80.", 8, -2147483648LL},
      {"\x80\x02\x8a\x00.", 5, 0},
      {"\x80\x02\x8a\x01\xff.", 6, -1},
      {"\x80\x02\x8a\x05\x00\x00\x00\x00\x01.", 10, 4294967296LL},
      {"\x80\x02\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x80.", 13, INT64_MIN},
      {"\x80\x02\x8b\x02\x00\x00\x00\x00\x01.", 10, 256},
  };
  rp_pickle *p;
  for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
    const rp_pv *v = good(&p, ints[i].data, ints[i].n);
    assert_int_equal(v->type, RP_PV_INT);
    assert_int_equal(v->integer, ints[i].value);
    rp_pickle_free(p);
  }
  const rp_pv *v = good(&p, "\x80\x02G\xbf\xf8\x00\x00\x00\x00\x00\x00.", 12);
  assert_true(v->type == RP_PV_REAL && v->real == -1.5);
  rp_pickle_free(p);
  v = good(&p, "\x80\x02\x88.", 4);
  assert_true(v->type == RP_PV_BOOL && v->integer == 1);
  rp_pickle_free(p);
  v = good(&p, "N.", 2);
  assert_int_equal(v->type, RP_PV_NONE);
  rp_pickle_free(p);
}

/* {'a': [1, (2, 'x')], 'b': {'a': None}} and a list that is used twice. */
static void containers_and_memo(void **state) {
  (void)state;
  rp_pickle *p;
  static const char data[] =
      "\x80\x02}q\x00(X\x01\x00\x00\x00"
      "aq\x01]q\x02(K\x01K\x02X\x01\x00\x00\x00x\x86"
      "eX\x01\x00\x00\x00"
      "b}h\x01NsX\x01\x00\x00\x00"
      "ch\x02u.";
  const rp_pv *v = good(&p, data, sizeof data - 1);
  const rp_pv *a = rp_pv_list(rp_pv_get(v, "a")), *b = rp_pv_map(rp_pv_get(v, "b"));
  assert_non_null(a);
  assert_int_equal(a->n, 2);
  assert_int_equal(a->items[1]->type, RP_PV_TUPLE);
  assert_string_equal(a->items[1]->items[1]->string, "x");
  assert_int_equal(rp_pv_get(b, "a")->type, RP_PV_NONE);
  assert_ptr_equal(rp_pv_get(v, "c"), rp_pv_get(v, "a"));
  assert_null(rp_pv_get(v, "d"));
  rp_pickle_free(p);
}

static void instances_are_their_state(void **state) {
  (void)state;
  rp_pickle *p;
  static const char easy[] =
      "\x80\x02"
      "ceasydict\nEasyDict\n)\x81(X\x01\x00\x00\x00"
      "aK\x07u}b.";
  const rp_pv *v = good(&p, easy, sizeof easy - 1);
  assert_int_equal(v->type, RP_PV_OBJECT);
  assert_int_equal(rp_pv_get(rp_pv_map(v), "a")->integer, 7);
  rp_pickle_free(p);
  static const char node[] =
      "\x80\x02"
      "comegaconf.nodes\nAnyNode\n)\x81}(X\x04\x00\x00\x00_valK\x05ub.";
  v = rp_pv_plain(good(&p, node, sizeof node - 1));
  assert_true(v->type == RP_PV_INT && v->integer == 5);
  rp_pickle_free(p);
  /* A list that holds itself is a value like any other. */
  static const char self[] =
      "\x80\x02]q\x00h\x00"
      "a.";
  v = good(&p, self, sizeof self - 1);
  assert_ptr_equal(v->items[0], v);
  rp_pickle_free(p);
}

static void refused(void **state) {
  (void)state;
  rp_error err = {0};
  rp_pickle *p;
  check_fails(READ(&p, ""), RP_BAD_DATA, err, "is cut");
  check_fails(READ(&p, "\x80\x06N."), RP_BAD_DATA, err, "protocol");
  check_fails(READ(&p, "."), RP_BAD_DATA, err, "not there");
  check_fails(READ(&p, "cos\nsystem\n(X\x02\x00\x00\x00lstR."), RP_BAD_DATA, err, "\"os system\"");
  check_fails(READ(&p,
                   "cbuiltins\neval\n(X\x01\x00\x00\x00"
                   "1tR."),
              RP_BAD_DATA, err, "builtins eval");
  check_fails(READ(&p, "X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93)R."), RP_BAD_DATA, err,
              "\"os system\"");
  check_fails(READ(&p, "(S'x'\nios\nsystem\n."), RP_BAD_DATA, err, "opcode 0x53");
  check_fails(READ(&p, "(i"), RP_BAD_DATA, err, "opcode 0x69");
  check_fails(READ(&p, "\x82\x01."), RP_BAD_DATA, err, "opcode 0x82");
  check_fails(READ(&p, "K\x01)R."), RP_BAD_DATA, err, "no function");
  check_fails(READ(&p, "K\x01K\x02K\x03s."), RP_BAD_DATA, err, "no dict");
  check_fails(READ(&p,
                   "K\x01K\x02"
                   "a."),
              RP_BAD_DATA, err, "no list");
  check_fails(READ(&p, "}(K\x01u."), RP_BAD_DATA, err, "without a value");
  check_fails(READ(&p,
                   "(K\x01"
                   "d."),
              RP_BAD_DATA, err, "without a value");
  check_fails(READ(&p, "(N."), RP_BAD_DATA, err, "open mark");
  check_fails(READ(&p, "N(0."), RP_BAD_DATA, err, "not there");
  check_fails(READ(&p, "N\x86."), RP_BAD_DATA, err, "not there");
  check_fails(READ(&p, "u."), RP_BAD_DATA, err, "mark");
  check_fails(READ(&p, "h\x07."), RP_BAD_DATA, err, "memo");
  check_fails(READ(&p, "j\xff\xff\xff\xff."), RP_BAD_DATA, err, "memo");
  check_fails(READ(&p, "Nr\xff\xff\xff\xff."), RP_BAD_DATA, err, "memo number");
  check_fails(READ(&p,
                   "X\xff\xff\xff\xff"
                   "a."),
              RP_BAD_DATA, err, "longer than the file");
  check_fails(READ(&p,
                   "X\x03\x00\x00\x00"
                   "a\x00"
                   "b."),
              RP_BAD_DATA, err, "zero byte");
  check_fails(READ(&p, "\x8a\x09\x01\x01\x01\x01\x01\x01\x01\x01\x01."), RP_BAD_DATA, err,
              "64 bits");
  check_fails(READ(&p, "NQ."), RP_BAD_DATA, err, "no storage");
  check_fails(READ(&p, "ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tR."), RP_BAD_DATA, err,
              "without storage");
  check_fails(READ(&p, "ca"), RP_BAD_DATA, err, "is cut");
  check_fails(READ(&p, "c\n\n."), RP_BAD_DATA, err, "name of no use");
  check_fails(READ(&p, "N)\x81."), RP_BAD_DATA, err, "no class");
}

/* The pickle of the authors' run: whole, cut at every byte, and with any bytes changed. */
static void cut_and_changed(void **state) {
  (void)state;
  rp_error err = {0};
  rp_pickle *p;
  char *data;
  size_t n;
  check_ok(rp_file_read(check_source("tests/fuzz/corpus/pickle/reference.pkl"), 1 << 20, &data, &n,
                        &err),
           err);
  const rp_pv *root = good(&p, data, n);
  assert_int_equal(rp_pv_map(rp_pv_get(root, "task"))->n, 2 * 21);
  const rp_pv *model = rp_pv_map(rp_pv_get(rp_pv_map(rp_pv_get(root, "config")), "model"));
  const rp_pv *backbone = rp_pv_map(rp_pv_get(model, "backbone"));
  assert_int_equal(rp_pv_get(backbone, "num_layers")->integer, 3);
  rp_pickle_free(p);
  const size_t before = rp_mem_now();
  for (size_t k = 0; k < n; k++) assert_int_equal(read_bytes(&p, data, k, &err), RP_BAD_DATA);
  rp_rng r = check_rng(5);
  for (int round = 0; round < 5000; round++) {
    char was[4];
    size_t at[4];
    for (int i = 0; i < 4; i++) {
      at[i] = (size_t)check_pick(&r, 0, (int)n - 1);
      was[i] = data[at[i]];
      data[at[i]] = (char)check_pick(&r, 0, 255);
    }
    if (!read_bytes(&p, data, n, &err)) rp_pickle_free(p);
    for (int i = 3; i >= 0; i--) data[at[i]] = was[i];
  }
  rp_free(data);
  assert_true(rp_mem_now() <= before);
}

static void short_of_memory(void **state) {
  (void)state;
  rp_error err = {0};
  char *data;
  size_t n;
  check_ok(rp_file_read(check_source("tests/fuzz/corpus/pickle/reference.pkl"), 1 << 20, &data, &n,
                        &err),
           err);
  const size_t before = rp_mem_now();
  rp_status st = RP_NO_MEMORY;
  for (uint64_t k = 1; st; k++) {
    rp_pickle *p;
    rp_mem_fail_at(k);
    st = read_bytes(&p, data, n, &err);
    rp_mem_fail_at(0);
    if (st) {
      assert_int_equal(st, RP_NO_MEMORY);
      assert_int_equal(rp_mem_now(), before);
    } else {
      rp_pickle_free(p);
    }
  }
  rp_free(data);
}

static const struct CMUnitTest tests[] = {cmocka_unit_test(scalars),
                                          cmocka_unit_test(containers_and_memo),
                                          cmocka_unit_test(instances_are_their_state),
                                          cmocka_unit_test(refused),
                                          cmocka_unit_test(cut_and_changed),
                                          cmocka_unit_test(short_of_memory)};
CHECK_MAIN(tests)
