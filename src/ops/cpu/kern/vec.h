/* vec.h - vectors of real as wide as the level's registers, loaded from any element. Included by
 * kern/ sources only. */
#ifndef RP_OPS_CPU_KERN_VEC_H
#define RP_OPS_CPU_KERN_VEC_H

#include "ops/cpu/kern.h"

#if defined(__AVX512F__)
enum { VEC_BYTES = 64 };
#elif defined(__AVX2__)
enum { VEC_BYTES = 32 };
#else
enum { VEC_BYTES = 16 };
#endif
typedef rp_real vec __attribute__((vector_size(VEC_BYTES), may_alias, aligned(sizeof(rp_real))));
enum { VEC = VEC_BYTES / (int)sizeof(rp_real) };

#endif
