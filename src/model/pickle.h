/* pickle.h - reads a pickle into a tree of plain values, for the reference's checkpoints.
 *
 * Nothing is ever executed: opcodes and the few callables that matter (collections.OrderedDict,
 * torch._utils._rebuild_tensor_v2, ...) are on a list, any other call is an error that names it.
 * Instances of any class are kept as their plain state, the class is only a name. Memory is bounded
 * by the length of the pickle. Values live until rp_pickle_free; one thread at a time. */
#ifndef RP_MODEL_PICKLE_H
#define RP_MODEL_PICKLE_H

#include "base/dtype.h"
#include "base/mem.h"

typedef enum {
  RP_PV_NONE,
  RP_PV_BOOL,
  RP_PV_INT,
  RP_PV_REAL,
  RP_PV_STRING,
  RP_PV_BYTES,
  RP_PV_LIST, /* sets too */
  RP_PV_TUPLE,
  RP_PV_DICT,    /* items: key, value, key, value ... */
  RP_PV_GLOBAL,  /* string: "module name" */
  RP_PV_OBJECT,  /* string: its class; items, pairs or state */
  RP_PV_STORAGE, /* string: its key in the archive */
  RP_PV_TENSOR
} rp_pv_type;

typedef struct rp_pv rp_pv;
struct rp_pv {
  rp_pv_type type;
  bool pairs;         /* OBJECT: items are keys and values */
  int64_t integer;    /* BOOL, INT; STORAGE: elements; TENSOR: offset in its storage, elements */
  double real;        /* REAL, INT */
  const char *string; /* NUL-terminated */
  size_t len;         /* bytes of string */
  rp_pv **items;
  size_t n, cap;
  const rp_pv *state;          /* OBJECT: what BUILD gave it; TENSOR: its STORAGE */
  const rp_pv *dims, *strides; /* TENSOR: tuples of INT */
  int dtype;                   /* STORAGE: rp_dtype, -1 for one that holds no weights */
};

typedef struct rp_pickle rp_pickle;
/* Reads one pickle; `what` names it in errors. */
rp_status rp_pickle_read(rp_pickle **p, const uint8_t *data, size_t len, const char *what,
                         rp_error *err);
const rp_pv *rp_pickle_root(const rp_pickle *p);
void rp_pickle_free(rp_pickle *p); /* NULL is fine */

/* The map behind a value: a DICT, an instance that carries items or a state, an OmegaConf container.
 * NULL for anything else. */
const rp_pv *rp_pv_map(const rp_pv *v);
/* The list behind a LIST, TUPLE or a list-like instance; NULL for anything else. */
const rp_pv *rp_pv_list(const rp_pv *v);
/* A value without the wrapper that OmegaConf puts around scalars. */
const rp_pv *rp_pv_plain(const rp_pv *v);
/* Value of a string key of a map (rp_pv_map); NULL when absent. */
const rp_pv *rp_pv_get(const rp_pv *map, const char *key);

#endif
