/* pickle.c - a reader of pickles that builds plain values and calls nothing. */
#include "model/pickle.h"

#include <string.h>

#include "base/str.h"

static const size_t most_bytes = 64u << 20; /* a checkpoint's pickle has some hundred kB */
static const size_t most_values = 4000000;
static const size_t most_memo = 4000000;

/* Values and strings are carved from blocks, freed together. */
typedef struct block block;
struct block {
  block *next;
  size_t used, size;
};
enum { BLOCK = 1 << 16, HEAD = (sizeof(block) + 15) / 16 * 16 };

struct rp_pickle {
  const uint8_t *data;
  size_t len, at;
  size_t op; /* where the opcode being read began */
  const char *what;
  rp_error *err;
  block *blocks;
  size_t values;
  rp_pv **stack;
  size_t top, stack_cap;
  size_t *marks;
  size_t n_marks, marks_cap;
  rp_pv **memo;
  size_t n_memo, memo_cap;
  const rp_pv *root;
};

static rp_status bad(rp_pickle *p, const char *what) {
  return rp_fail(p->err, RP_BAD_DATA, "%s: byte %zu of its pickle: %s", p->what, p->op, what);
}

/* ------------------------------------------------------------------ memory */

static void *carve(rp_pickle *p, size_t bytes) {
  bytes = (bytes + 15) / 16 * 16;
  if (!p->blocks || p->blocks->size - p->blocks->used < bytes) {
    const size_t size = bytes > BLOCK ? bytes : BLOCK;
    block *b = rp_malloc(1, HEAD + size);
    if (!b) {
      rp_fail_memory(p->err, HEAD + size, "the contents of a pickle");
      return NULL;
    }
    *b = (block){.next = p->blocks, .size = size};
    p->blocks = b;
  }
  void *at = (uint8_t *)p->blocks + HEAD + p->blocks->used;
  p->blocks->used += bytes;
  return at;
}

static rp_status new_value(rp_pickle *p, rp_pv_type type, rp_pv **v) {
  if (++p->values > most_values) return bad(p, "more values than any checkpoint has");
  *v = carve(p, sizeof **v);
  if (!*v) return RP_NO_MEMORY;
  **v = (rp_pv){.type = type};
  return RP_OK;
}

static rp_status copy_string(rp_pickle *p, rp_pv *v, const void *s, size_t len) {
  char *at = carve(p, len + 1);
  if (!at) return RP_NO_MEMORY;
  memcpy(at, s, len);
  at[len] = 0;
  v->string = at;
  v->len = len;
  return RP_OK;
}

static rp_status add_item(rp_pickle *p, rp_pv *v, rp_pv *item) {
  if (v->n == v->cap) {
    const size_t cap = v->cap ? 2 * v->cap : 4;
    rp_pv **items = carve(p, cap * sizeof *items);
    if (!items) return RP_NO_MEMORY;
    if (v->n) memcpy(items, v->items, v->n * sizeof *items);
    v->items = items;
    v->cap = cap;
  }
  v->items[v->n++] = item;
  return RP_OK;
}

/* ------------------------------------------------------------------ the stack */

static rp_status push(rp_pickle *p, rp_pv *v) {
  RP_TRY(rp_grow(&p->stack, &p->stack_cap, p->top + 1, sizeof *p->stack, "the stack of a pickle",
                 p->err));
  p->stack[p->top++] = v;
  return RP_OK;
}

/* Values above the last mark are the only ones an opcode may take. */
static size_t floor_of(const rp_pickle *p) { return p->n_marks ? p->marks[p->n_marks - 1] : 0; }

static rp_status pop(rp_pickle *p, rp_pv **v) {
  if (p->top <= floor_of(p)) return bad(p, "takes a value that is not there");
  *v = p->stack[--p->top];
  return RP_OK;
}

static rp_status peek(rp_pickle *p, rp_pv **v) {
  if (p->top <= floor_of(p)) return bad(p, "needs a value that is not there");
  *v = p->stack[p->top - 1];
  return RP_OK;
}

static rp_status pop_mark(rp_pickle *p, size_t *first) {
  if (!p->n_marks) return bad(p, "needs a mark that is not there");
  *first = p->marks[--p->n_marks];
  return RP_OK;
}

static rp_status push_new(rp_pickle *p, rp_pv_type type, rp_pv **v) {
  RP_TRY(new_value(p, type, v));
  return push(p, *v);
}

static rp_status push_int(rp_pickle *p, rp_pv_type type, int64_t x) {
  rp_pv *v = NULL;
  RP_TRY(push_new(p, type, &v));
  v->integer = x;
  v->real = (double)x;
  return RP_OK;
}

/* ------------------------------------------------------------------ bytes of the stream */

static rp_status take(rp_pickle *p, size_t n, const uint8_t **at) {
  if (n > p->len - p->at) return bad(p, "the pickle ends in the middle; the file is cut");
  *at = p->data + p->at;
  p->at += n;
  return RP_OK;
}

static rp_status take_uint(rp_pickle *p, int bytes, uint64_t *x) {
  const uint8_t *at = NULL;
  RP_TRY(take(p, (size_t)bytes, &at));
  *x = 0;
  for (int i = bytes - 1; i >= 0; i--) *x = *x << 8 | at[i];
  return RP_OK;
}

/* A length of `bytes` bytes, then so many bytes. */
static rp_status take_counted(rp_pickle *p, int bytes, const uint8_t **at, size_t *n) {
  uint64_t x = 0;
  RP_TRY(take_uint(p, bytes, &x));
  if (x > p->len) return bad(p, "a text longer than the file");
  *n = (size_t)x;
  return take(p, *n, at);
}

static rp_status push_text(rp_pickle *p, rp_pv_type type, int bytes) {
  const uint8_t *at = NULL;
  size_t n = 0;
  rp_pv *v = NULL;
  RP_TRY(take_counted(p, bytes, &at, &n));
  if (type == RP_PV_STRING && memchr(at, 0, n)) return bad(p, "a text with a zero byte in it");
  RP_TRY(push_new(p, type, &v));
  return copy_string(p, v, at, n);
}

static rp_status push_long(rp_pickle *p, int bytes) {
  const uint8_t *at = NULL;
  size_t n = 0;
  RP_TRY(take_counted(p, bytes, &at, &n));
  if (n > 8) return bad(p, "a number of more than 64 bits");
  uint64_t x = n && at[n - 1] & 0x80 ? UINT64_MAX : 0;
  for (size_t i = n; i-- > 0;) x = x << 8 | at[i];
  return push_int(p, RP_PV_INT, (int64_t)x);
}

static rp_status push_real(rp_pickle *p) {
  const uint8_t *at = NULL;
  rp_pv *v = NULL;
  uint64_t bits = 0;
  RP_TRY(take(p, 8, &at));
  for (int i = 0; i < 8; i++) bits = bits << 8 | at[i];
  RP_TRY(push_new(p, RP_PV_REAL, &v));
  memcpy(&v->real, &bits, 8);
  return RP_OK;
}

/* ------------------------------------------------------------------ containers */

static rp_status push_group(rp_pickle *p, rp_pv_type type, size_t first) {
  rp_pv *v = NULL;
  RP_TRY(new_value(p, type, &v));
  if (type == RP_PV_DICT && (p->top - first) % 2) return bad(p, "a key without a value");
  for (size_t i = first; i < p->top; i++) RP_TRY(add_item(p, v, p->stack[i]));
  p->top = first;
  return push(p, v);
}

static rp_status push_marked(rp_pickle *p, rp_pv_type type) {
  size_t first = 0;
  RP_TRY(pop_mark(p, &first));
  return push_group(p, type, first);
}

static rp_status push_tuple(rp_pickle *p, size_t n) {
  if (p->top - floor_of(p) < n) return bad(p, "takes a value that is not there");
  return push_group(p, RP_PV_TUPLE, p->top - n);
}

static rp_status append_from(rp_pickle *p, size_t first) {
  if (first <= floor_of(p)) return bad(p, "appends to nothing");
  rp_pv *to = p->stack[first - 1];
  if (to->type != RP_PV_LIST && (to->type != RP_PV_OBJECT || to->pairs))
    return bad(p, "appends to what is no list");
  for (size_t i = first; i < p->top; i++) RP_TRY(add_item(p, to, p->stack[i]));
  p->top = first;
  return RP_OK;
}

static rp_status set_from(rp_pickle *p, size_t first) {
  if (first <= floor_of(p)) return bad(p, "sets items of nothing");
  rp_pv *to = p->stack[first - 1];
  if ((p->top - first) % 2) return bad(p, "a key without a value");
  if (to->type != RP_PV_DICT && (to->type != RP_PV_OBJECT || (to->n && !to->pairs)))
    return bad(p, "sets items of what is no dict");
  to->pairs = true;
  for (size_t i = first; i < p->top; i++) RP_TRY(add_item(p, to, p->stack[i]));
  p->top = first;
  return RP_OK;
}

/* ------------------------------------------------------------------ names, calls, instances */

static rp_status make_global(rp_pickle *p, const char *module, size_t module_len, const char *name,
                             size_t name_len) {
  rp_pv *v = NULL;
  if (!module_len || !name_len || module_len + name_len > 400) return bad(p, "a name of no use");
  char text[404];
  memcpy(text, module, module_len);
  text[module_len] = ' ';
  memcpy(text + module_len + 1, name, name_len);
  for (size_t i = 0; i < module_len + 1 + name_len; i++) {
    if ((uint8_t)text[i] < ' ') return bad(p, "a name with control characters");
  }
  RP_TRY(push_new(p, RP_PV_GLOBAL, &v));
  return copy_string(p, v, text, module_len + 1 + name_len);
}

static rp_status push_global(rp_pickle *p) {
  const char *line[2];
  size_t len[2];
  for (int i = 0; i < 2; i++) {
    const uint8_t *end = memchr(p->data + p->at, '\n', p->len - p->at);
    if (!end) return bad(p, "a name without an end; the file is cut");
    line[i] = (const char *)p->data + p->at;
    len[i] = (size_t)(end - p->data) - p->at;
    p->at += len[i] + 1;
  }
  return make_global(p, line[0], len[0], line[1], len[1]);
}

static rp_status push_stack_global(rp_pickle *p) {
  rp_pv *name = NULL, *module = NULL;
  RP_TRY(pop(p, &name));
  RP_TRY(pop(p, &module));
  if (name->type != RP_PV_STRING || module->type != RP_PV_STRING)
    return bad(p, "a name that is no text");
  return make_global(p, module->string, module->len, name->string, name->len);
}

static int storage_dtype(const char *global) {
  static const struct {
    const char *global;
    rp_dtype dtype;
  } known[] = {{"torch FloatStorage", RP_F32}, {"torch BFloat16Storage", RP_BF16},
               {"torch HalfStorage", RP_F16},  {"torch DoubleStorage", RP_F64},
               {"torch LongStorage", RP_I64},  {"torch IntStorage", RP_I32}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (!strcmp(known[i].global, global)) return (int)known[i].dtype;
  }
  return -1;
}

/* ('storage', torch.FloatStorage, key, place, elements) */
static rp_status push_storage(rp_pickle *p) {
  rp_pv *id = NULL, *v = NULL;
  RP_TRY(pop(p, &id));
  if (id->type != RP_PV_TUPLE || id->n != 5 || id->items[0]->type != RP_PV_STRING ||
      strcmp(id->items[0]->string, "storage") || id->items[1]->type != RP_PV_GLOBAL ||
      id->items[2]->type != RP_PV_STRING || id->items[4]->type != RP_PV_INT ||
      id->items[4]->integer < 0)
    return bad(p, "a persistent id that is no storage of PyTorch");
  RP_TRY(push_new(p, RP_PV_STORAGE, &v));
  v->string = id->items[2]->string;
  v->len = id->items[2]->len;
  v->dtype = storage_dtype(id->items[1]->string);
  v->integer = id->items[4]->integer;
  return RP_OK;
}

static bool is_sizes(const rp_pv *v) {
  if (v->type != RP_PV_TUPLE) return false;
  for (size_t i = 0; i < v->n; i++) {
    if (v->items[i]->type != RP_PV_INT || v->items[i]->integer < 0) return false;
  }
  return true;
}

/* (storage, offset, dims, strides, ...) */
static rp_status push_tensor(rp_pickle *p, const rp_pv *args) {
  rp_pv *v = NULL;
  if (args->n < 4 || args->items[0]->type != RP_PV_STORAGE || args->items[1]->type != RP_PV_INT ||
      args->items[1]->integer < 0 || !is_sizes(args->items[2]) || !is_sizes(args->items[3]) ||
      args->items[2]->n != args->items[3]->n)
    return bad(p, "a tensor without storage, offset, sizes and strides");
  RP_TRY(push_new(p, RP_PV_TENSOR, &v));
  v->state = args->items[0];
  v->integer = args->items[1]->integer;
  v->dims = args->items[2];
  v->strides = args->items[3];
  return RP_OK;
}

static rp_status push_object(rp_pickle *p, const rp_pv *class) {
  rp_pv *v = NULL;
  RP_TRY(push_new(p, RP_PV_OBJECT, &v));
  v->string = class->string;
  v->len = class->len;
  return RP_OK;
}

/* A call of a dict or list class, with nothing or with one dict or list to copy. */
static rp_status push_container(rp_pickle *p, rp_pv_type type, const rp_pv *args) {
  rp_pv *v = NULL;
  RP_TRY(push_new(p, type, &v));
  const rp_pv *from = args->n ? args->items[args->n - 1] : NULL;
  if (from && type == RP_PV_DICT && from->type == RP_PV_DICT) {
    for (size_t i = 0; i < from->n; i++) RP_TRY(add_item(p, v, from->items[i]));
  } else if (from && (from->type == RP_PV_LIST || from->type == RP_PV_TUPLE)) {
    for (size_t i = 0; i < from->n; i++) {
      rp_pv *item = from->items[i];
      if (type != RP_PV_DICT) {
        RP_TRY(add_item(p, v, item));
        continue;
      }
      if ((item->type != RP_PV_LIST && item->type != RP_PV_TUPLE) || item->n != 2)
        return bad(p, "a dict made of what are no pairs");
      RP_TRY(add_item(p, v, item->items[0]));
      RP_TRY(add_item(p, v, item->items[1]));
    }
  }
  return RP_OK;
}

typedef enum { CALL_DICT, CALL_LIST, CALL_TUPLE, CALL_TENSOR, CALL_FIRST, CALL_OPAQUE } call;

static bool find_call(const char *global, call *c) {
  static const struct {
    const char *global;
    call c;
  } known[] = {
      {"collections OrderedDict", CALL_DICT},
      {"collections defaultdict", CALL_DICT},
      {"collections Counter", CALL_DICT},
      {"builtins dict", CALL_DICT},
      {"builtins list", CALL_LIST},
      {"builtins set", CALL_LIST},
      {"builtins frozenset", CALL_LIST},
      {"builtins tuple", CALL_TUPLE},
      {"torch Size", CALL_TUPLE},
      {"torch._utils _rebuild_tensor", CALL_TENSOR},
      {"torch._utils _rebuild_tensor_v2", CALL_TENSOR},
      {"torch._utils _rebuild_parameter", CALL_FIRST},
      {"torch._utils _rebuild_parameter_with_state", CALL_FIRST},
      {"torch device", CALL_OPAQUE},
      {"copyreg _reconstructor", CALL_OPAQUE},
      {"easydict EasyDict", CALL_OPAQUE},
      {"pathlib PosixPath", CALL_OPAQUE},
      {"pathlib PurePosixPath", CALL_OPAQUE},
      {"numpy dtype", CALL_OPAQUE},
      {"numpy.core.multiarray scalar", CALL_OPAQUE},
      {"numpy._core.multiarray scalar", CALL_OPAQUE},
      {"numpy.core.multiarray _reconstruct", CALL_OPAQUE},
      {"numpy._core.multiarray _reconstruct", CALL_OPAQUE},
      {"_codecs encode", CALL_OPAQUE},
  };
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (strcmp(known[i].global, global)) continue;
    *c = known[i].c;
    return true;
  }
  return false;
}

static rp_status reduce(rp_pickle *p) {
  rp_pv *args = NULL, *f = NULL;
  call c;
  RP_TRY(pop(p, &args));
  RP_TRY(pop(p, &f));
  if (f->type != RP_PV_GLOBAL || args->type != RP_PV_TUPLE)
    return bad(p, "a call of what is no function");
  if (!find_call(f->string, &c))
    return rp_fail(p->err, RP_BAD_DATA,
                   "%s: byte %zu of its pickle calls \"%s\", which is not among the names that a "
                   "checkpoint may use; nothing was executed; save tensors, numbers, dicts and "
                   "lists only",
                   p->what, p->op, f->string);
  switch (c) {
    case CALL_DICT: return push_container(p, RP_PV_DICT, args);
    case CALL_LIST: return push_container(p, RP_PV_LIST, args);
    case CALL_TUPLE: return push_container(p, RP_PV_TUPLE, args);
    case CALL_TENSOR: return push_tensor(p, args);
    case CALL_FIRST:
      if (!args->n) return bad(p, "a parameter without a tensor");
      return push(p, args->items[0]);
    case CALL_OPAQUE: return push_object(p, f);
  }
  return RP_OK;
}

static rp_status new_object(rp_pickle *p, bool with_keywords) {
  rp_pv *keywords, *args = NULL, *class = NULL;
  if (with_keywords) RP_TRY(pop(p, &keywords));
  RP_TRY(pop(p, &args));
  RP_TRY(pop(p, &class));
  if (class->type != RP_PV_GLOBAL || args->type != RP_PV_TUPLE)
    return bad(p, "an instance of what is no class");
  return push_object(p, class);
}

static rp_status build(rp_pickle *p) {
  rp_pv *state = NULL, *to = NULL;
  RP_TRY(pop(p, &state));
  RP_TRY(peek(p, &to));
  /* Attributes of dicts and tensors (a state_dict's _metadata) say nothing about weights. */
  if (to->type == RP_PV_OBJECT) to->state = state;
  return RP_OK;
}

/* ------------------------------------------------------------------ memo */

static rp_status put(rp_pickle *p, uint64_t k) {
  rp_pv *v = NULL;
  RP_TRY(peek(p, &v));
  if (k >= most_memo) return bad(p, "a memo number that no checkpoint reaches");
  const size_t old = p->memo_cap;
  RP_TRY(rp_grow(&p->memo, &p->memo_cap, (size_t)k + 1, sizeof *p->memo, "the memo of a pickle",
                 p->err));
  if (p->memo_cap > old) memset(p->memo + old, 0, (p->memo_cap - old) * sizeof *p->memo);
  p->memo[k] = v;
  if (k >= p->n_memo) p->n_memo = (size_t)k + 1;
  return RP_OK;
}

static rp_status get(rp_pickle *p, uint64_t k) {
  if (k >= p->n_memo || !p->memo[k]) return bad(p, "asks for a memo that was not set");
  return push(p, p->memo[k]);
}

static rp_status put_next(rp_pickle *p) { return put(p, p->n_memo); }

/* ------------------------------------------------------------------ opcodes */

static rp_status unknown(rp_pickle *p, int op) {
  return rp_fail(p->err, RP_BAD_DATA,
                 "%s: byte %zu of its pickle is opcode 0x%02x, which checkpoints of PyTorch do not "
                 "use; save it again with torch.save",
                 p->what, p->op, op);
}

/* Opcodes whose argument is a number in the stream. */
static rp_status run_number(rp_pickle *p, int op) {
  uint64_t x = 0;
  int bytes = 1;
  if (op == 'M') bytes = 2;
  if (op == 'J' || op == 'j' || op == 'r') bytes = 4;
  if (op == 0x95) bytes = 8;
  RP_TRY(take_uint(p, bytes, &x));
  switch (op) {
    case 0x80: return x <= 5 ? RP_OK : bad(p, "a pickle protocol above 5");
    case 0x95: return RP_OK; /* FRAME */
    case 'J': return push_int(p, RP_PV_INT, (int32_t)(uint32_t)x);
    case 'K':
    case 'M': return push_int(p, RP_PV_INT, (int64_t)x);
    case 'h':
    case 'j': return get(p, x);
    default: return put(p, x);
  }
}

static rp_status run_values(rp_pickle *p, int op) {
  rp_pv *v = NULL;
  switch (op) {
    case 'N': return push_new(p, RP_PV_NONE, &v);
    case 0x88: return push_int(p, RP_PV_BOOL, 1);
    case 0x89: return push_int(p, RP_PV_BOOL, 0);
    case 0x8a: return push_long(p, 1);
    case 0x8b: return push_long(p, 4);
    case 'G': return push_real(p);
    case 'X': return push_text(p, RP_PV_STRING, 4);
    case 0x8c: return push_text(p, RP_PV_STRING, 1);
    case 0x8d: return push_text(p, RP_PV_STRING, 8);
    case 'T': return push_text(p, RP_PV_STRING, 4);
    case 'U': return push_text(p, RP_PV_STRING, 1);
    case 'B': return push_text(p, RP_PV_BYTES, 4);
    case 'C': return push_text(p, RP_PV_BYTES, 1);
    case 0x8e: return push_text(p, RP_PV_BYTES, 8);
    case 0x96: return push_text(p, RP_PV_BYTES, 8);
    case ']': return push_new(p, RP_PV_LIST, &v);
    case ')': return push_new(p, RP_PV_TUPLE, &v);
    case '}': return push_new(p, RP_PV_DICT, &v);
    case 0x8f: return push_new(p, RP_PV_LIST, &v);
    default: return unknown(p, op);
  }
}

static rp_status run_stack(rp_pickle *p, int op, bool *known) {
  rp_pv *v = NULL;
  size_t first = 0;
  switch (op) {
    case '(':
      RP_TRY(rp_grow(&p->marks, &p->marks_cap, p->n_marks + 1, sizeof *p->marks,
                     "the marks of a pickle", p->err));
      p->marks[p->n_marks++] = p->top;
      return RP_OK;
    case '0': return pop(p, &v);
    case '1':
      RP_TRY(pop_mark(p, &first));
      p->top = first;
      return RP_OK;
    case '2': RP_TRY(peek(p, &v)); return push(p, v);
    case 'l': return push_marked(p, RP_PV_LIST);
    case 't': return push_marked(p, RP_PV_TUPLE);
    case 'd': return push_marked(p, RP_PV_DICT);
    case 0x91: return push_marked(p, RP_PV_LIST);
    case 0x85: return push_tuple(p, 1);
    case 0x86: return push_tuple(p, 2);
    case 0x87: return push_tuple(p, 3);
    case 'a': return p->top ? append_from(p, p->top - 1) : bad(p, "appends nothing");
    case 's': return p->top > 1 ? set_from(p, p->top - 2) : bad(p, "sets nothing");
    case 'e':
    case 0x90: RP_TRY(pop_mark(p, &first)); return append_from(p, first);
    case 'u': RP_TRY(pop_mark(p, &first)); return set_from(p, first);
    default: *known = false; return RP_OK;
  }
}

static rp_status run_calls(rp_pickle *p, int op, bool *known) {
  switch (op) {
    case 'c': return push_global(p);
    case 0x93: return push_stack_global(p);
    case 'R': return reduce(p);
    case 'b': return build(p);
    case 0x81: return new_object(p, false);
    case 0x92: return new_object(p, true);
    case 'Q': return push_storage(p);
    case 0x94: return put_next(p);
    default: *known = false; return RP_OK;
  }
}

static rp_status run(rp_pickle *p) {
  for (;;) {
    const uint8_t *at = NULL;
    bool known = true;
    p->op = p->at;
    RP_TRY(take(p, 1, &at));
    const int op = *at;
    if (op == '.') break;
    if (strchr("JKMhjqr\x80\x95", op) && op) {
      RP_TRY(run_number(p, op));
      continue;
    }
    RP_TRY(run_stack(p, op, &known));
    if (known) continue;
    known = true;
    RP_TRY(run_calls(p, op, &known));
    if (!known) RP_TRY(run_values(p, op));
  }
  rp_pv *root = NULL;
  if (p->n_marks) return bad(p, "ends with an open mark");
  RP_TRY(pop(p, &root));
  p->root = root;
  return RP_OK;
}

rp_status rp_pickle_read(rp_pickle **out, const uint8_t *data, size_t len, const char *what,
                         rp_error *err) {
  *out = NULL;
  if (len > most_bytes)
    return rp_fail(err, RP_BAD_DATA, "%s: its pickle has %zu bytes, more than any checkpoint", what,
                   len);
  rp_pickle *p = rp_calloc(1, sizeof *p);
  if (!p) return rp_fail_memory(err, sizeof *p, "a pickle");
  p->data = data;
  p->len = len;
  p->what = what;
  p->err = err;
  const rp_status st = run(p);
  rp_free(p->stack);
  rp_free(p->marks);
  rp_free(p->memo);
  p->stack = NULL;
  p->marks = NULL;
  p->memo = NULL;
  p->data = NULL;
  p->what = NULL;
  p->err = NULL;
  if (st) {
    rp_pickle_free(p);
    return st;
  }
  *out = p;
  return RP_OK;
}

const rp_pv *rp_pickle_root(const rp_pickle *p) { return p->root; }

void rp_pickle_free(rp_pickle *p) {
  if (!p) return;
  while (p->blocks) {
    block *next = p->blocks->next;
    rp_free(p->blocks);
    p->blocks = next;
  }
  rp_free(p);
}

/* ------------------------------------------------------------------ looking at values */

/* An instance's attributes: its state, or the first of a pair (state, slots). */
static const rp_pv *attributes(const rp_pv *v) {
  const rp_pv *s = v->state;
  if (s && s->type == RP_PV_TUPLE && s->n == 2) s = s->items[0];
  return s && s->type == RP_PV_DICT ? s : NULL;
}

const rp_pv *rp_pv_plain(const rp_pv *v) {
  const rp_pv *a = v && v->type == RP_PV_OBJECT && !v->n ? attributes(v) : NULL;
  const rp_pv *val = a ? rp_pv_get(a, "_val") : NULL;
  return val ? val : v;
}

const rp_pv *rp_pv_map(const rp_pv *v) {
  if (!v) return NULL;
  if (v->type == RP_PV_DICT) return v;
  if (v->type != RP_PV_OBJECT) return NULL;
  if (v->n) return v->pairs ? v : NULL;
  const rp_pv *a = attributes(v);
  const rp_pv *content = a ? rp_pv_get(a, "_content") : NULL;
  if (content) return content->type == RP_PV_DICT ? content : NULL;
  return a;
}

const rp_pv *rp_pv_list(const rp_pv *v) {
  if (!v) return NULL;
  if (v->type == RP_PV_LIST || v->type == RP_PV_TUPLE) return v;
  if (v->type != RP_PV_OBJECT) return NULL;
  if (v->n) return v->pairs ? NULL : v;
  const rp_pv *a = attributes(v);
  const rp_pv *content = a ? rp_pv_get(a, "_content") : NULL;
  return content && content->type == RP_PV_LIST ? content : NULL;
}

const rp_pv *rp_pv_get(const rp_pv *map, const char *key) {
  for (size_t i = map->n & ~(size_t)1; i >= 2; i -= 2) {
    const rp_pv *k = map->items[i - 2];
    if (k->type == RP_PV_STRING && !strcmp(k->string, key)) return map->items[i - 1];
  }
  return NULL;
}
