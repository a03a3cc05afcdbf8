/* The grammar of patterns: texts that are patterns, texts that are none, and texts made from
 * patterns read back. */
#include "check.h"
#include "config/settings.h"

enum { LAYERS = 3, HEADS = 2, ALL = LAYERS * HEADS };

/* D, W and I of a model of 3 layers and 2 kv heads, layer by layer; "" is the usual one (1, 0, 0)
 * and a single number holds for every head. */
static const struct {
  const char *text, *D, *W, *I, *shortest;
} good[] = {
    {"D=16,W=256,I=4", "16", "256", "4", "D=16,W=256,I=4"},
    {"D=1", "", "", "", "D=1"},
    {"D=64", "64", "", "", "D=64"},
    {"W=256", "", "256", "", "W=256"},
    {"I=4", "", "", "4", "I=4"},
    {"W=0", "", "", "", "D=1"},
    {"I=0", "", "", "", "D=1"},
    {"D=1,W=0,I=0", "", "", "", "D=1"},
    {"I=4,W=256,D=16", "16", "256", "4", "D=16,W=256,I=4"},
    {"W=7,D=3", "3", "7", "", "D=3,W=7"},
    {"D=-1,W=7", "-1", "7", "", "D=-1,W=7"},
    {"D=-1,I=7", "-1", "", "7", "D=-1,I=7"},
    {"D=-1,W=1020,I=4", "-1", "1020", "4", "D=-1,W=1020,I=4"},
    {"D=1073741824", "1073741824", "", "", "D=1073741824"},
    {"W=1073741824,I=1073741824", "", "1073741824", "1073741824", "W=1073741824,I=1073741824"},
    {"W=-0", "", "", "", "D=1"},
    /* blanks */
    {" D=16", "16", "", "", "D=16"},
    {"D=16 ", "16", "", "", "D=16"},
    {"D = 16 , W = 256", "16", "256", "", "D=16,W=256"},
    {"\tD=16,\tW=2", "16", "2", "", "D=16,W=2"},
    {"D=[ 1, 2 ,3 ]", "1,1,2,2,3,3", "", "", "D=[1,2,3]"},
    {"D={ 1 : 1 , 64 : 1 }", "1,64,1,64,1,64", "", "", "D=1x1+64x1"},
    {"D=1 x 1 + 64 x 1", "1,64,1,64,1,64", "", "", "D=1x1+64x1"},
    {"D=[1] * 3", "", "", "", "D=1"},
    /* per layer */
    {"D=[1,64,64]", "1,1,64,64,64,64", "", "", "D=[1,64,64]"},
    {"D=[1,1,1]", "", "", "", "D=1"},
    {"W=[0,8,0]", "", "0,0,8,8,0,0", "", "W=[0,8,0]"},
    {"I=[4,0,2]", "", "", "4,4,0,0,2,2", "I=[4,0,2]"},
    {"D=[-1,1,1],W=[4,0,0]", "-1,-1,1,1,1,1", "4,4,0,0,0,0", "", "D=[-1,1,1],W=[4,0,0]"},
    {"D=[1,64,1],W=8,I=[1,2,3]", "1,1,64,64,1,1", "8", "1,1,2,2,3,3", "D=[1,64,1],W=8,I=[1,2,3]"},
    {"D=[8]*3", "8", "", "", "D=8"},
    {"D=3*[8]", "8", "", "", "D=8"},
    {"D=[1]+[64]*2", "1,1,64,64,64,64", "", "", "D=[1,64,64]"},
    {"D=[1]*2+[64]", "1,1,1,1,64,64", "", "", "D=[1,1,64]"},
    {"D=[1]+[2]+[3]", "1,1,2,2,3,3", "", "", "D=[1,2,3]"},
    {"D=[]+[1,2,3]", "1,1,2,2,3,3", "", "", "D=[1,2,3]"},
    {"D=([7])*3", "7", "", "", "D=7"},
    {"D=([1]+[2])*1+[3]", "1,1,2,2,3,3", "", "", "D=[1,2,3]"},
    {"D=(16)", "16", "", "", "D=16"},
    {"D=[(1),2,3]", "1,1,2,2,3,3", "", "", "D=[1,2,3]"},
    {"D=[1,2,3]*1", "1,1,2,2,3,3", "", "", "D=[1,2,3]"},
    /* per head */
    {"D={1:1,64:1}", "1,64,1,64,1,64", "", "", "D=1x1+64x1"},
    {"D={64:1,1:1}", "64,1,64,1,64,1", "", "", "D=64x1+1x1"},
    {"D={8:2}", "8", "", "", "D=8"},
    {"D=1x1+64x1", "1,64,1,64,1,64", "", "", "D=1x1+64x1"},
    {"D=64x2", "64", "", "", "D=64"},
    {"D=64x1+64x1", "64", "", "", "D=64"},
    {"D=-1x1+4x1,W=1", "-1,4,-1,4,-1,4", "1", "", "D=-1x1+4x1,W=1"},
    {"D={-1:1,4:1},I=1", "-1,4,-1,4,-1,4", "", "1", "D=-1x1+4x1,I=1"},
    {"W={0:1,64:1}", "", "0,64,0,64,0,64", "", "W=0x1+64x1"},
    {"W=0x1+64x1", "", "0,64,0,64,0,64", "", "W=0x1+64x1"},
    {"I=4x1+0x1", "", "", "4,0,4,0,4,0", "I=4x1+0x1"},
    {"D={1:1}+{64:1}", "1,64,1,64,1,64", "", "", "D=1x1+64x1"},
    {"D=(1x1)+64x1", "1,64,1,64,1,64", "", "", "D=1x1+64x1"},
    {"D=1x1+64x1,W=[1,2,3],I=4x1+0x1", "1,64,1,64,1,64", "1,1,2,2,3,3", "4,0,4,0,4,0",
     "D=1x1+64x1,W=[1,2,3],I=4x1+0x1"},
    /* per layer and head */
    {"D=[{1:1,64:1},1,2]", "1,64,1,1,2,2", "", "", "D=[[1,64],1,2]"},
    {"D=[1x1+64x1,1,2]", "1,64,1,1,2,2", "", "", "D=[[1,64],1,2]"},
    {"D=[[1,64],1,2]", "1,64,1,1,2,2", "", "", "D=[[1,64],1,2]"},
    {"D=[[1,64],[1,64],[1,64]]", "1,64,1,64,1,64", "", "", "D=1x1+64x1"},
    {"D=[[1,64]]*3", "1,64,1,64,1,64", "", "", "D=1x1+64x1"},
    {"D=[[1]+[64]]*3", "1,64,1,64,1,64", "", "", "D=1x1+64x1"},
    {"D=[[64]*2,1,[2,3]]", "64,64,1,1,2,3", "", "", "D=[64,1,[2,3]]"},
    {"D=[1x2]*2+[64x1+8x1]", "1,1,1,1,64,8", "", "", "D=[1,1,[64,8]]"},
    {"D=[(1x1+2x1),4,4]", "1,2,4,4,4,4", "", "", "D=[[1,2],4,4]"},
    {"W=[[1,2],[3,4],[5,6]]", "", "1,2,3,4,5,6", "", "W=[[1,2],[3,4],[5,6]]"},
    {"D=[-1,[1,-1],1],W=[[1,2],2,0]", "-1,-1,1,-1,1,1", "1,2,2,2,0,0", "",
     "D=[-1,[1,-1],1],W=[[1,2],2,0]"},
    {"D=[{8:2},{4:2},{2:2}]", "8,8,4,4,2,2", "", "", "D=[8,4,2]"},
};

/* "1,2,3" to n numbers; one for all; "" the usual. */
static void numbers(const char *text, int32_t usual, int32_t out[ALL]) {
  int n = 0;
  for (const char *p = text; *p; n++) {
    char *end;
    assert_in_range(n, 0, ALL - 1);
    out[n] = (int32_t)strtol(p, &end, 10);
    p = *end ? end + 1 : end;
  }
  assert_true(n == 0 || n == 1 || n == ALL);
  if (n == 0) out[n++] = usual;
  for (; n < ALL; n++) out[n] = out[0];
}

static void good_texts_are_patterns(void **state) {
  (void)state;
  assert_true(sizeof good / sizeof *good >= 60);
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    rp_error err = {0};
    rp_pats p;
    int32_t D[ALL], W[ALL], I[ALL];
    check_ok(rp_pats_parse(&p, good[i].text, LAYERS, HEADS, &err), err);
    numbers(good[i].D, 1, D);
    numbers(good[i].W, 0, W);
    numbers(good[i].I, 0, I);
    for (int k = 0; k < ALL; k++)
      if (p.at[k].D != D[k] || p.at[k].W != W[k] || p.at[k].I != I[k])
        fail_msg("%s: layer %d, head %d is D=%d W=%d I=%d", good[i].text, k / HEADS, k % HEADS,
                 p.at[k].D, p.at[k].W, p.at[k].I);
    char *text = rp_pats_format(&p);
    assert_string_equal(text, good[i].shortest);
    rp_free(text);
    rp_pats_free(&p);
  }
}

/* Models of other sizes. */
static void sizes_of_models(void **state) {
  (void)state;
  static const struct {
    const char *text;
    int layers, heads;
    const char *shortest;
  } cases[] = {
      {"D=[1,64]*12", 24, 16, "D=[1,64]*12"},
      {"D=([1]*3+[64])*6,W=8", 24, 16, "D=[1,1,1,64]*6,W=8"},
      {"D={1:4,64:12}", 24, 16, "D=1x4+64x12"},
      {"D=[{1:4,64:12},1]*12", 24, 16, "D=[1x4+64x12,1]*12"},
      {"D=[1]", 1, 16, "D=1"},
      {"D=[[1,2]]", 1, 2, "D=1x1+2x1"},
      {"D=1x65536", 1, 65536, "D=1"},
      {"D=[4]*65536", 65536, 1, "D=4"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    rp_error err = {0};
    rp_pats p;
    check_ok(rp_pats_parse(&p, cases[i].text, cases[i].layers, cases[i].heads, &err), err);
    char *text = rp_pats_format(&p);
    assert_string_equal(text, cases[i].shortest);
    rp_free(text);
    rp_pats_free(&p);
  }
}

/* A model of 4 layers and 2 kv heads; the character that is wrong (0: the whole), and what is said. */
static const struct {
  const char *text;
  int at;
  const char *why;
} wrong[] = {
    {"", 1, "an empty item"},
    {" ", 2, "an empty item"},
    {",D=1", 1, "an empty item"},
    {"D=1,", 5, "an empty item"},
    {"D=1,,W=2", 5, "an empty item"},
    {"D", 2, "after D comes ="},
    {"D 16", 2, "after D comes ="},
    {"D:16", 2, "after D comes ="},
    {"X=1", 1, "a pattern is D="},
    {"DD=1", 1, "a pattern is D="},
    {"16", 1, "a pattern is D="},
    {"=16", 1, "a pattern is D="},
    {"banana", 1, "a pattern is D="},
    {"d=16", 1, "written D="},
    {"D=16,w=4", 6, "written W="},
    {"i=4", 1, "written I="},
    {"dilation_size=16", 1, "written D="},
    {"local_size=16", 1, "written W="},
    {"initial_size=16", 1, "written I="},
    {"topk=16,block=64", 1, "not in this version"},
    {"D=16,topk=16", 6, "not in this version"},
    {"D=1,D=2", 5, "D is there twice"},
    {"W=1,D=4,W=1", 9, "W is there twice"},
    /* numbers */
    {"D=", 3, "an integer, a list"},
    {"D=,W=1", 3, "an integer, a list"},
    {"D=x", 3, "runs of heads"},
    {"D=-", 3, "an integer, a list"},
    {"D=--1", 3, "an integer, a list"},
    {"D=+16", 3, "an integer, a list"},
    {"D='16'", 3, "an integer, a list"},
    {"D=0", 3, "at least 1"},
    {"D=-2", 3, "-2 is no integer from -1"},
    {"W=-1", 3, "W is at least 0"},
    {"D=4,I=-1", 7, "I is at least 0"},
    {"D=1.5", 3, "1.5 is no integer"},
    {"D=1e3", 3, "1e3 is no integer"},
    {"D=16k", 3, "16k is no integer"},
    {"D=1_000", 3, "1_000 is no integer"},
    {"D=0x10", 3, "D is at least 1"}, /* a run of ten heads */
    {"D=016", 3, "begins with no 0"},
    {"D=99999999999", 3, "is no integer from -1 to 2^30"},
    {"W=1073741825", 3, "1073741825 is no integer from -1 to 2^30"},
    {"D=16 W=4", 6, "a comma or the end is expected"},
    {"D=16;W=4", 5, "a comma or the end is expected"},
    {"D=16)", 5, "a comma or the end is expected"},
    {"D=16\n", 5, "a comma or the end is expected"},
    {"D=2**4", 5, "an integer, a list"},
    {"D=2*4", 4, "* repeats a list"},
    {"D=2+4", 4, "+ joins two lists"},
    /* nothing to see */
    {"D=-1", 0, "sees nothing"},
    {"D=-1,W=0,I=0", 0, "layer 0"},
    {"D=[1,1,-1,1]", 0, "(layer 2)"},
    /* lists */
    {"D=[1,2,3]", 3, "3 entries and the model 4 layers"},
    {"D=[1,2,3,4,5]", 3, "5 entries and the model 4 layers"},
    {"W=1,D=[1]*3", 7, "3 entries and the model 4 layers"},
    {"D=[]", 3, "0 entries and the model 4 layers"},
    {"D=[1,64]*100000", 3, "200000 entries and the model 4 layers"},
    {"D=[1,64]*1000000", 9, "too long"},
    {"D=[1,2", 7, "a comma or ] is expected"},
    {"D=[1,2,3,4}", 11, "a comma or ] is expected"},
    {"D=[1,2,3,4]]", 12, "a comma or the end is expected"},
    {"D=[1,,2,3]", 6, "an integer, a list"},
    {"D=[1,2,3,4,]", 12, "an integer, a list"},
    {"D=[1,2,0,4]", 8, "D is at least 1"},
    {"W=[1,2,-1,4]", 8, "W is at least 0"},
    {"D=[1,2]*0", 8, "repeated at least once"},
    {"D=[1,2]*-1", 8, "repeated at least once"},
    {"D=[1,2]*[2]", 8, "* repeats a list"},
    {"D=[1,2]*", 9, "an integer, a list"},
    {"D=[1,2]+3", 8, "+ joins two lists"},
    {"D=[1,2]+1x2", 8, "+ joins two lists"},
    {"D=([1,2]*2", 11, "a ) is expected"},
    {"D=[[1,2,3],1,1,1]", 4, "layer 0: its list has 3 entries, the model has 2 key-value heads"},
    {"D=[1,[2],1,1]", 6, "layer 1: its list has 1 entries"},
    {"D=[1,1,1,[1,[2]]]", 13, "layer 3: "},
    {"D=[1,1,1,[1,{1:1}]]", 13, "layer 3: "},
    {"D=[[[[[[[[[1]]]]]]]]]", 11, "nested too deeply"},
    {"D=((((((((1))))))))", 11, "nested too deeply"},
    /* heads */
    {"D=1x4", 3, "add up to 4 heads, the model has 2"},
    {"D=1x1", 3, "add up to 1 heads, the model has 2"},
    {"D=1x1+2x", 9, "runs of heads are VALUExHEADS"},
    {"D=1x1+2", 6, "+ joins two lists"},
    {"D=1x1+", 7, "an integer, a list"},
    {"D=1x0+2x2", 5, "the count of heads is at least 1"},
    {"D=1x-1+2x3", 5, "the count of heads is at least 1"},
    {"D=1x1+0x1", 7, "D is at least 1"},
    {"W=1x1+-1x1", 7, "W is at least 0"},
    {"D=1x2000000000000", 5, "at most 65536 heads"},
    {"D=[1,1,1,1x1]", 10, "layer 3: the counts add up to 1 heads"},
    {"D=1x1*2", 6, "* repeats a list"},
    {"D={}", 4, "begins with a value"},
    {"D={1:3}", 3, "add up to 3"},
    {"D={1:0,2:2}", 6, "at least 1"},
    {"D={a:2}", 4, "no integer"},
    {"D={1,2}", 5, "needs a :"},
    {"D={1:1,64:1", 12, "a comma or } is expected"},
    {"D={1:1,64:1]", 12, "a comma or } is expected"},
    {"D={1:1,1:1}", 8, "1 is there twice"},
    {"D={1:1,}", 8, "begins with a value"},
    {"D={1:x}", 6, "VALUExHEADS"},
    {"D={0:2}", 4, "D is at least 1"},
    {"D=64:12", 5, "quote the pattern"},
    {"D=1:4,W=3", 4, "quote the pattern"},
};

static void wrong_texts_get_a_sentence(void **state) {
  (void)state;
  assert_true(sizeof wrong / sizeof *wrong >= 60);
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    rp_error err = {0};
    rp_pats p;
    char where[32] = "pattern '";
    if (wrong[i].at) snprintf(where, sizeof where, ", character %d: ", wrong[i].at);
    check_fails(rp_pats_parse(&p, wrong[i].text, 4, 2, &err), RP_USAGE, err, wrong[i].why);
    check_fails(rp_pats_parse(&p, wrong[i].text, 4, 2, &err), RP_USAGE, err, where);
    assert_true(!p.at);
    for (const char *c = err.text; *c; c++) assert_true(*c >= ' ' && *c <= '~');
  }
}

/* A long text is cut around what is wrong, and bytes that a terminal obeys are not repeated. */
static void sentences_stay_short_and_harmless(void **state) {
  (void)state;
  rp_error err = {0};
  rp_pats p;
  char text[5000];
  memset(text, '1', sizeof text);
  memcpy(text, "D=[", 3);
  for (size_t i = 4; i < 4000; i += 2) text[i] = ',';
  memcpy(text + 4001, "\033[31m\xff", 7);
  check_fails(rp_pats_parse(&p, text, 4, 2, &err), RP_USAGE, err, "character 4002: ");
  assert_true(strlen(err.text) < 300 && strstr(err.text, "pattern '...1,1") &&
              !strchr(err.text, 27));
}

/* Whatever the heads and layers see, its text reads back to the same, and is made again. */
static void text_of_a_pattern_reads_back(void **state) {
  (void)state;
  rp_rng r = check_rng(1);
  for (int round = 0; round < 4000; round++) {
    rp_error err = {0};
    rp_pats a, b;
    const int layers = check_pick(&r, 1, 9), heads = check_pick(&r, 1, 7),
              few = check_pick(&r, 1, 4);
    const bool by_layer = check_pick(&r, 0, 1), by_head = check_pick(&r, 0, 1);
    check_ok(rp_pats_uniform(&a, (rp_pat){check_pick(&r, 1, 3), 0, 0}, layers, heads, &err), err);
    for (int i = 0; i < layers * heads; i++) {
      const int l = i / heads, k = i % heads, back = check_pick(&r, 1, 3) * heads;
      if ((by_layer || l == 0) && (by_head || k == 0)) {
        const int D = check_pick(&r, 0, few);
        a.at[i] = (rp_pat){D ? D : -1, check_pick(&r, 0, few), check_pick(&r, D ? 0 : 1, 1 << few)};
        if (i >= back && !check_pick(&r, 0, 2)) a.at[i] = a.at[i - back];
      } else {
        a.at[i] = a.at[(by_layer ? l : 0) * heads + (by_head ? k : 0)];
      }
    }
    char *text = rp_pats_format(&a);
    assert_non_null(text);
    check_ok(rp_pats_parse(&b, text, layers, heads, &err), err);
    assert_memory_equal(a.at, b.at, (size_t)(layers * heads) * sizeof *a.at);
    char *again = rp_pats_format(&b);
    assert_string_equal(text, again);
    rp_free(text);
    rp_free(again);
    rp_pats_free(&a);
    rp_pats_free(&b);
  }
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(good_texts_are_patterns),
    cmocka_unit_test(sizes_of_models),
    cmocka_unit_test(wrong_texts_get_a_sentence),
    cmocka_unit_test(sentences_stay_short_and_harmless),
    cmocka_unit_test(text_of_a_pattern_reads_back),
};
CHECK_MAIN(tests)
