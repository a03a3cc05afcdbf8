#!/usr/bin/env python3
"""Writes tests/golden_draws.h: the numbers that PyTorch's randint draws on the CPU.

The loaders' random windows and rows must be these. Needs PyTorch (made with 2.15).
Usage: python3 tools/golden_draws.py | clang-format > tests/golden_draws.h
"""
import torch

COUNT = 16
CASES = [  # seed + rank, n
    (0, 1), (0, 2), (0, 97), (0, 59904), (1, 59904), (2, 59904), (1005, 100_000_000),
    (0, 2**28 - 1), (0, 2**28), (0, 2**28 + 1), (3, 10**9), (7, 2**32 - 1), (7, 2**32),
    (0, 99_999_999_999), (5, 3 * 10**12 + 7), (2**32 - 1, 59904),
]


def draws(seed, n):
    generator = torch.Generator().manual_seed(seed)
    one_by_one = [int(torch.randint(n, (1,), generator=generator)) for _ in range(COUNT)]
    generator = torch.Generator().manual_seed(seed)
    assert one_by_one == torch.randint(n, (COUNT,), generator=generator).tolist()
    return one_by_one


print("/* golden_draws.h - made by tools/golden_draws.py with PyTorch", torch.__version__.split("+")[0],
      "*/")
print("#ifndef RP_TESTS_GOLDEN_DRAWS_H\n#define RP_TESTS_GOLDEN_DRAWS_H\n\n#include <stdint.h>\n")
print(f"enum {{ GOLDEN_DRAWS = {COUNT} }};")
print("static const struct {\n  uint32_t seed;\n  uint64_t n;\n  uint64_t x[GOLDEN_DRAWS];\n"
      "} golden_draws[] = {")
for seed, n in CASES:
    values = [f"{x}u" if x < 2**32 else f"{x}ull" for x in draws(seed, n)]
    rows = ",\n      ".join(", ".join(values[i:i + 5]) for i in range(0, COUNT, 5))
    print(f"    {{{seed}u,\n     {n}ull,\n     {{{rows}}}}},")
print("};\n\n#endif")
