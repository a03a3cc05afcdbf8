/* fuzz.h - for the targets of tests/fuzz: tests/fuzz/fuzz_X.c defines LLVMFuzzerTestOneInput, its
 * seeds are the files of tests/fuzz/corpus/X/. A target must not crash, leak or print, whatever the
 * bytes; it may check laws with fuzz_hold. */
#ifndef RP_FUZZ_H
#define RP_FUZZ_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A law of the parser under test. */
#define fuzz_hold(law) \
  do { \
    if (!(law)) abort(); \
  } while (0)

#endif
