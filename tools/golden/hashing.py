"""Weights and token ids from a hash; the same in C is tests/golden_weights.h."""

import numpy as np

GOLD, M1, M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
WRAP = (1 << 64) - 1


def key(name):
    x = 0xCBF29CE484222325
    for byte in name.encode():
        x = (x ^ byte) * 0x100000001B3 & WRAP
    return x


def unit(seed, name, n):
    """u in [0, 1) for elements 0..n-1, float64."""
    with np.errstate(over="ignore"):
        i = np.arange(1, n + 1, dtype=np.uint64)
        z = np.uint64((seed + key(name)) & WRAP) + i * np.uint64(GOLD)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(M1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(M2)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / float(1 << 24)


def signed(seed, name, n):
    return 2 * unit(seed, name, n) - 1


def weight(seed, scale, name, shape, kind):
    n = int(np.prod(shape))
    s = signed(seed, name, n)
    value = {"one": 1 + 0.2 * s, "zero": 0.1 * s}.get(kind, scale * s)
    return value.astype(np.float32).reshape(shape)


def tokens(seed, name, n, V):
    u = unit(seed, name, n)
    return (V * (u * u)).astype(np.int64)


def batch(seed, name, B, T, V, eos=2):
    """ids, labels [B, T]."""
    t = tokens(seed, name, B * (T + 1), V).reshape(B, T + 1)
    ids, labels = t[:, :T].copy(), t[:, 1:].copy()
    labels[ids == eos] = -100
    return ids, labels
