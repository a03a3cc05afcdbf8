#!/usr/bin/env python3
"""Writes tests/data/golden/sample.json: the sampler of docs/inference.md, written from its definition.

Plain Python, everything sorted and summed in exact order with math.fsum; Philox4x32-10 from the paper.
Each case: float32 logits, the settings, tokens generated before; what may be drawn with which
probability, and what streams draw at some indices. Cases where a decision hangs on rounding (a mass
within 1e-9 of top_p, a draw within 1e-9 of a border) are left out.
"""
import json
import math
import pathlib
import random
import struct

MASK = (1 << 32) - 1
PURPOSE = 3  # RP_RNG_SAMPLE


def philox(seed, purpose, stream, counter):
    c = [counter & MASK, counter >> 32, stream & MASK, (stream >> 32) ^ (purpose << 24)]
    k = [seed & MASK, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & MASK, (a >> 32) ^ c[3] ^ k[1], a & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def uniform(seed, stream, index):
    x = philox(seed, PURPOSE, stream, index)
    return ((x[0] | x[1] << 32) >> 11) * 2.0 ** -53


def float32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


class Close(Exception):
    """A decision that rounding could turn."""


def allowed(logits, o, seen):
    """[(id, probability)] in order of id."""
    l = {i: x for i, x in enumerate(logits) if x != -math.inf}
    for i in set(seen) & set(l):
        l[i] = l[i] / o["repeat_penalty"] if l[i] >= 0 else l[i] * o["repeat_penalty"]
    order = sorted(l, key=lambda i: (-l[i], i))
    if o["temperature"] == 0:
        return [(order[0], 1.0)]
    w = {i: math.exp((l[i] - l[order[0]]) / o["temperature"]) for i in l}
    if o["top_k"]:
        order = order[: o["top_k"]]
    if o["top_p"] < 1:
        total, kept = math.fsum(w[i] for i in order), []
        for i in order:
            mass = math.fsum(w[j] for j in kept) / total
            if abs(mass - o["top_p"]) < 1e-9:
                raise Close
            if mass >= o["top_p"]:
                break
            kept.append(i)
        order = kept
    kept = []
    for i in order:
        if o["min_p"] and abs(w[i] - o["min_p"]) < 1e-9:
            raise Close
        if w[i] >= o["min_p"]:
            kept.append(i)
    total = math.fsum(w[i] for i in kept)
    return [(i, w[i] / total) for i in sorted(kept)]


def draw(kept, u):
    at = 0.0
    for i, p in kept:
        at += p
        if abs(at - u) < 1e-9:
            raise Close
        if at > u:
            return i
    return kept[-1][0]


def number(x):
    return None if x == -math.inf else x  # JSON has no infinity; null is a token that never comes


def case(r):
    V = r.choice([1, 2, 3, 5, 17, 64, 65, 97])
    spread = r.choice([0.1, 1, 5, 30])
    logits = [float32(r.gauss(0, spread)) for _ in range(V)]
    if r.random() < 0.3:  # ties
        logits = [float32(round(x * 2) / 2) for x in logits]
    for i in range(V):
        if i and r.random() < 0.05:
            logits[i] = -math.inf
    o = {
        "temperature": r.choice([0, 0.3, 0.7, 1, 1, 2.5]),
        "top_k": r.choice([0, 0, 1, 3, 10, 200]),
        "top_p": r.choice([1, 1, 0.05, 0.5, 0.9, 0.999]),
        "min_p": r.choice([0, 0, 0.02, 0.3, 1]) if spread > 0.1 else 0,
        "repeat_penalty": r.choice([1, 1, 1.3, 0.8]),
    }
    seen = [r.randrange(V) for _ in range(r.choice([0, 3, 20]))]
    seed, stream = r.getrandbits(64), r.choice([0, 1, 7, r.getrandbits(40)])
    kept = allowed(logits, o, seen)
    # The tokens before moved the index on. With a penalty what is drawn changes the next one's logits,
    # so each index is of the same `seen`.
    first = len(seen)
    ids = [draw(kept, uniform(seed, stream, first + i)) for i in range(6)]
    return dict(o, logits=[number(x) for x in logits], seen=seen, seed=str(seed), stream=stream,
                kept=[i for i, _ in kept], drawn=ids)


def main():
    r, cases = random.Random(20), []
    while len(cases) < 120:
        try:
            cases.append(case(r))
        except Close:
            pass
    out = pathlib.Path(__file__).resolve().parents[2] / "tests/data/golden/sample.json"
    with open(out, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")


main()
