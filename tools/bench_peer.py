"""Times `ratplus bench` and an installed peer at the same shapes, turn by turn.

    python tools/bench_peer.py layer|model|train [--ratplus build/release/ratplus] [--rounds 5]
        [--shape 1b | --layers 24 --width 2048 --heads 16 --vocab 32000] [--dtype bfloat16]
        [--seq-len 4096,16384] [--batch 1,8] [--pattern 'D=1;D=16;D=16,W=256']
        [--only prefill|decode] [--threads N] [--llama-bench PATH]

Peers are PyTorch (the model of this repository in ordinary operators: fused attention where it is
dense, gathered keys where it is sparse, a recurrence by doublings; attention-only and RAT+) and,
for models, llama.cpp's llama-bench with a dense model of the same shape, whose weights are made up
and whose FFN has three matrices of 8/3 d in place of two of 4 d: as many parameters. What is not
installed is named and left out. Ours and the peer's run by turns, so that what slows the machine
slows both; printed are medians and, of the turns' ratios, the median and both ends. A peer may be
faster in the other --dtype: on processors without products of bfloat16 PyTorch is.

train runs the shapes of `ratplus bench train` (12 layers, d=768, T=1024, batch 4) whatever the
flags of shape say; it takes --dtype, --threads, --rounds and --pattern (D alone).
"""

import argparse
import array
import json
import math
import os
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

SHAPES = {"1b": (24, 2048), "3b": (28, 2560), "7b": (32, 4096)}
COLD = 256 << 20  # bytes that are read between two steps of a layer, as `ratplus bench` does


def parse(pattern):
    """D, W of 'D=16,W=256'; a peer here has no other patterns."""
    found = re.fullmatch(r"D=(\d{1,9})(?:,W=(\d{1,9}))?", pattern)
    if not found or int(found[1]) < 1:
        sys.exit(f"{pattern}: here patterns are D=.. or D=..,W=.. with whole numbers")
    return int(found[1]), int(found[2] or 0)


# ---- ours ----


class Ours:
    def __init__(self, o):
        self.o = o
        if not os.access(o.ratplus, os.X_OK):
            sys.exit(f"{o.ratplus}: no such program; build it with `make`, or use --ratplus")

    def run(self, *words):
        o = self.o
        line = [o.ratplus, "bench", *words, "--json", "--dtype", o.dtype]
        line += ["--seconds", str(o.seconds)]
        if o.threads:
            line += ["--threads", str(o.threads)]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(line)}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def figure(self, case):
        o = self.o
        words = [o.kind, "--only", case.work, "--seq-len", str(case.T), "--batch", str(case.batch)]
        words += ["--pattern", case.pattern, "--width", str(o.width), "--heads", str(o.heads)]
        if o.kind == "model":
            words += ["--layers", str(o.layers), "--vocab", str(o.vocab)]
        if not case.recurrent:
            words.append("--attention-only")
        return self.run(*words)["cases"][0]["tokens_per_second"]

    def step(self, case):
        words = ["train", "--pattern", case.pattern, "--steps", "1"]
        return self.run(*words)["cases"][0]["tokens_per_second"]


# ---- PyTorch ----


class Torch:
    """Mixers, or whole models of them, in one dtype."""

    name = "PyTorch"

    def __init__(self, o):
        import torch
        import bench_torch

        self.torch, self.parts, self.o = torch, bench_torch, o
        self.dtype = getattr(torch, o.dtype)
        self.cold = torch.ones(COLD // 8, dtype=torch.int64)
        self.built = {}
        if o.threads:
            torch.set_num_threads(o.threads)
        self.about = f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads"

    def takes(self, case):
        return True

    # Weights as [out, in]; the norm's are ones.
    def weight(self, rows, cols):
        return (self.torch.randn(rows, cols) * 0.02).to(self.dtype)

    def layers(self, recurrent):
        if recurrent not in self.built:
            self.built.clear()  # one kind at a time is in memory
            o, d = self.o, self.o.width
            made = []
            for _ in range(o.layers if o.kind == "model" else 1):
                w = {"in": self.weight((5 if recurrent else 4) * d, d), "out": self.weight(d, d)}
                if o.kind == "model":
                    w["up"], w["down"] = self.weight(4 * d, d), self.weight(d, 4 * d)
                made.append(w)
            table = self.weight(o.vocab, d) if o.kind == "model" else None
            self.built[recurrent] = (made, table)
        return self.built[recurrent]

    def norm(self, x):
        y = x * self.torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        return y.to(self.dtype)

    def angles(self, first, count):
        torch, h = self.torch, self.o.width // self.o.heads
        t = torch.arange(first, first + count)[:, None]
        angle = t * 10000.0 ** (-2 * torch.arange(h // 2) / h)[None]
        return angle.cos(), angle.sin()

    def heads(self, x, B, T):
        return x.view(B, T, self.o.heads, -1).transpose(1, 2)

    def rotate(self, x, cos, sin):
        return self.parts.rotate(x.float(), cos, sin).to(self.dtype)

    def sees(self, q, k, v, D, W):
        """Attention of whole sequences, in blocks of queries where it is sparse."""
        torch, T, h, block = self.torch, q.shape[2], q.shape[3], 1024
        F = torch.nn.functional
        if D == 1:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out = torch.empty_like(q)
        for a in range(0, T, block):
            b = min(T, a + block)
            t = torch.arange(a, b)[:, None]
            if W == 0:  # the query's own key apart from the dilated ones before it
                s = torch.arange(D - 1, max(b, D - 1), D)
                far = (q[:, :, a:b] @ k[:, :, s].transpose(-1, -2)).float() / math.sqrt(h)
                far = far.masked_fill(s[None] >= t, -math.inf)
                own = (q[:, :, a:b] * k[:, :, a:b]).sum(-1, keepdim=True).float() / math.sqrt(h)
                p = torch.softmax(torch.cat([far, own], -1), -1).to(v.dtype)
                out[:, :, a:b] = p[..., :-1] @ v[:, :, s] + p[..., -1:] * v[:, :, a:b]
                continue
            low = max(0, a - W)
            s = torch.cat([torch.arange(D - 1, max(low, D - 1), D), torch.arange(low, b)])
            seen = (s[None] <= t) & ((t - s[None] <= W) | ((s[None] + 1) % D == 0))
            out[:, :, a:b] = F.scaled_dot_product_attention(q[:, :, a:b], k[:, :, s], v[:, :, s],
                                                            attn_mask=seen)
        return out

    def project(self, x, w, recurrent):
        y = self.torch.nn.functional.linear(self.norm(x), w["in"])
        return y.chunk(5 if recurrent else 4, -1)

    def finish(self, x, a, o, w):
        """Output gate and projection, and the FFN where there is one; x float32."""
        F = self.torch.nn.functional
        x = x + F.linear(a * self.torch.sigmoid(o), w["out"])
        if "up" in w:
            x = x + F.linear(F.gelu(F.linear(self.norm(x), w["up"])), w["down"])
        return x

    def whole(self, x, w, recurrent, D, W, cos, sin):
        B, T, d = x.shape
        parts = self.project(x, w, recurrent)
        o, q, k, v = parts[:4]
        if recurrent:
            g = self.torch.sigmoid(parts[4].float())
            k, v = self.parts.scan(g, k.float()), self.parts.scan(g, v.float())
        q, k, v = (self.heads(y, B, T) for y in (q, k, v))
        q, k, v = self.rotate(q, cos, sin), self.rotate(k, cos, sin), v.to(self.dtype)
        return self.finish(x, self.sees(q, k, v, D, W).transpose(1, 2).reshape(B, T, d), o, w)

    def step(self, x, w, cache, recurrent, cos, sin):
        """One token of each session; the last place of the cache is the new token's."""
        B, _, d = x.shape
        parts = self.project(x, w, recurrent)
        o, q, k, v = parts[:4]
        if recurrent:
            g = self.torch.sigmoid(parts[4].float())
            k = cache["state_k"] * g + (1 - g) * k.float()
            v = cache["state_v"] * g + (1 - g) * v.float()
            cache["state_k"], cache["state_v"] = k, v
        q, k, v = (self.heads(y, B, 1) for y in (q, k, v))
        cache["k"][:, :, -1:] = self.rotate(k, cos, sin)
        cache["v"][:, :, -1:] = v.to(self.dtype)
        q = self.rotate(q, cos, sin)
        attention = self.torch.nn.functional.scaled_dot_product_attention
        a = attention(q, cache["k"], cache["v"])
        return self.finish(x, a.transpose(1, 2).reshape(B, 1, d), o, w)

    def cache(self, case, D, W):
        torch, o, d = self.torch, self.o, self.o.width
        t = case.T - 1  # the position of the step
        keys = sum(t - s <= W or (s + 1) % D == 0 for s in range(t)) + 1
        shape = (case.batch, o.heads, keys, d // o.heads)
        state = (case.batch, 1, d)
        k, v = (torch.randn(shape, dtype=self.dtype) for _ in range(2))
        return {"k": k, "v": v, "state_k": torch.zeros(state), "state_v": torch.zeros(state)}

    def prepare(self, case):
        """A function that runs the case once and returns tokens per second."""
        torch, d = self.torch, self.o.width
        D, W = parse(case.pattern)
        layers, table = self.layers(case.recurrent)
        decode = case.work == "decode"
        B, T = (case.batch, 1) if decode else (1, case.T)
        cos, sin = self.angles(case.T - 1 if decode else 0, T)
        x0 = torch.randn(B, T, d)
        caches = [self.cache(case, D, W) for _ in layers] if decode else []

        @torch.inference_mode()
        def run():
            if decode and table is None:
                self.cold.sum()
            at = time.perf_counter()
            x = x0
            for i, w in enumerate(layers):
                if decode:
                    x = self.step(x, w, caches[i], case.recurrent, cos, sin)
                else:
                    x = self.whole(x, w, case.recurrent, D, W, cos, sin)
            if table is not None:
                torch.nn.functional.linear(self.norm(x[:, -1]), table).argmax(-1)
            return B * T / (time.perf_counter() - at)

        run()  # warms up
        return run

    def prepare_step(self, case):
        D, _ = parse(case.pattern)
        o = argparse.Namespace(layers=12, d=768, heads=6, seq_len=1024, batch=4, vocab=32000,
                               device="cpu", compile=False)
        step = self.parts.trainer(o, case.recurrent, D, self.dtype)
        step()
        return lambda: o.batch * o.seq_len / step()


# ---- llama.cpp ----


def gguf_text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def gguf_model(path, layers, d, heads, f, vocab, longest, dtype):
    """A file of the dense architecture that llama.cpp calls llama, without a vocabulary's words."""
    kinds = {"float32": (0, 4), "bfloat16": (30, 2)}
    keys = [("general.architecture", 8, gguf_text("llama")),
            ("llama.block_count", 4, struct.pack("<I", layers)),
            ("llama.context_length", 4, struct.pack("<I", longest)),
            ("llama.embedding_length", 4, struct.pack("<I", d)),
            ("llama.feed_forward_length", 4, struct.pack("<I", f)),
            ("llama.attention.head_count", 4, struct.pack("<I", heads)),
            ("llama.attention.head_count_kv", 4, struct.pack("<I", heads)),
            ("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-6)),
            ("llama.rope.dimension_count", 4, struct.pack("<I", d // heads)),
            ("llama.vocab_size", 4, struct.pack("<I", vocab)),
            ("tokenizer.ggml.model", 8, gguf_text("no_vocab"))]
    tensors = [("token_embd.weight", (d, vocab)), ("output_norm.weight", (d,))]
    for i in range(layers):
        for name, dims in (("attn_norm", (d,)), ("attn_q", (d, d)), ("attn_k", (d, d)),
                           ("attn_v", (d, d)), ("attn_output", (d, d)), ("ffn_norm", (d,)),
                           ("ffn_gate", (d, f)), ("ffn_up", (d, f)), ("ffn_down", (f, d))):
            tensors.append((f"blk.{i}.{name}.weight", dims))
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    for name, kind, value in keys:
        head += gguf_text(name) + struct.pack("<I", kind) + value
    sizes, at = [], 0
    for name, dims in tensors:  # vectors in float32
        kind, each = kinds[dtype if len(dims) > 1 else "float32"]
        head += gguf_text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, at)
        sizes.append((math.prod(dims) * each, each))
        at += (sizes[-1][0] + 31) // 32 * 32
    # Numbers of the size that weights have, over and over: rates depend on zeros and subnormals.
    words = array.array("f", [0.02 * math.sin(i * i) for i in range(1 << 16)])
    full = {4: words.tobytes()}
    full[2] = b"".join(full[4][i + 2 : i + 4] for i in range(0, len(full[4]), 4))
    with open(path, "wb") as out:
        out.write(head + bytes(-len(head) % 32))
        for size, each in sizes:
            for done in range(0, size, len(full[each])):
                out.write(full[each][: size - done])
            out.write(bytes(-size % 32))


class Llama:
    """A dense model: D=1 without the recurrence, one session."""

    name = "llama.cpp"

    def __init__(self, o):
        self.o, self.folder = o, tempfile.TemporaryDirectory(prefix="ratplus-peer-")
        self.path = os.path.join(self.folder.name, "model.gguf")
        f = (o.width * 8 // 3 + 255) // 256 * 256
        gguf_model(self.path, o.layers, o.width, o.heads, f, o.vocab, max(o.seq_len), o.dtype)
        self.about = f"llama.cpp: {o.llama_bench}, FFN 3 x {f}"

    def takes(self, case):
        return case.pattern == "D=1" and case.batch == 1 and not case.recurrent

    def prepare(self, case):
        o, steps = self.o, min(16, case.T - 1)
        work = ["-p", str(case.T), "-n", "0"]
        if case.work == "decode":
            work = ["-p", "0", "-n", str(steps), "-d", str(case.T - steps)]
        kind = {"float32": "f32", "bfloat16": "bf16"}[o.dtype]
        line = [o.llama_bench, "-m", self.path, *work, "-r", "1", "-o", "json", "-ngl", "0",
                "-ctk", kind, "-ctv", kind, "-fa", "1"]
        if o.threads:
            line += ["-t", str(o.threads)]

        def run():
            done = subprocess.run(line, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{' '.join(line)}: {done.stderr.strip()[-500:]}")
            return json.loads(done.stdout)[0]["avg_ts"]

        return run


# ---- turns ----


class Case:
    def __init__(self, work, T, batch, pattern, recurrent):
        self.work, self.T, self.batch, self.pattern = work, T, batch, pattern
        self.recurrent = recurrent

    def __str__(self):
        kind = "RAT+" if self.recurrent else "attention"
        return f"{self.work:8} {kind:10} {self.pattern:14} {self.T:7} {self.batch:6}"


def turns(ours, theirs, rounds):
    pairs = []
    for _ in range(rounds):
        pairs.append((ours(), theirs()))
    ratios = sorted(a / b for a, b in pairs)
    mine, other = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    return (f"{mine:10.1f} {other:10.1f} {statistics.median(ratios):7.2f}x "
            f"{ratios[0]:6.2f}..{ratios[-1]:.2f}")


def cases_of(o):
    if o.kind == "train":
        yield from (Case("train", 1024, 4, pattern, True) for pattern in o.pattern)
        return
    for recurrent in (False, True):
        for work in [o.only] if o.only else ["prefill", "decode"]:
            for T in o.seq_len:
                for pattern in o.pattern:
                    for batch in o.batch if work == "decode" else [1]:
                        yield Case(work, T, batch, pattern, recurrent)


def peers_of(o):
    found = []
    try:
        found.append(Torch(o))
    except ImportError as why:
        print(f"PyTorch is not installed ({why}): left out; `pip install torch` has it")
    o.llama_bench = shutil.which(o.llama_bench or "llama-bench")
    if o.kind != "model":
        print("llama.cpp: its benchmark runs whole models alone: left out")
    elif not o.llama_bench:
        print("llama.cpp: no llama-bench on the PATH: left out; name it with --llama-bench")
    else:
        found.append(Llama(o))
    for peer in found:
        print(peer.about)
    return found


def numbers(text):
    values = [int(v) if v.isdigit() else 0 for v in text.split(",")]
    if min(values) < 1 or max(values) >= 1 << 30:
        raise argparse.ArgumentTypeError(f"{text}: whole numbers from 1 to 2^30 - 1")
    return values


def options():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("kind", choices=["layer", "model", "train"])
    ap.add_argument("--ratplus", default="build/release/ratplus")
    ap.add_argument("--llama-bench")
    ap.add_argument("--shape", choices=SHAPES, default="1b")
    for name in ("layers", "width", "heads", "threads"):
        ap.add_argument("--" + name, type=int, default=0)
    ap.add_argument("--vocab", type=int, default=32000)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--seconds", type=float, default=0.3, help="of ours, each turn")
    ap.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    ap.add_argument("--seq-len", type=numbers, default=[4096])
    ap.add_argument("--batch", type=numbers, default=[1])
    ap.add_argument("--pattern", default=None)
    ap.add_argument("--only", choices=["prefill", "decode"])
    o = ap.parse_args()
    layers, width = SHAPES[o.shape]
    o.layers, o.width = o.layers or layers, o.width or width
    o.heads = o.heads or max(1, o.width // 128)
    usual = "D=1;D=64" if o.kind == "train" else "D=1;D=16;D=16,W=256"
    o.pattern = (o.pattern or usual).split(";")
    for pattern in o.pattern:
        parse(pattern)
        if o.kind == "train" and parse(pattern)[1]:
            sys.exit(f"{pattern}: train takes D alone")
    if o.width % o.heads or o.width // o.heads % 2:
        sys.exit(f"a width of {o.width} is not {o.heads} heads of an even width")
    if o.rounds < 1:
        sys.exit("--rounds: give a number from 1")
    return o


def main():
    o = options()
    ours = Ours(o)
    peers = peers_of(o)
    if not peers:
        sys.exit("no peer to lay beside ours")
    print("tokens/s                                             peer             ours       peer   "
          "ours / peer, least..most")
    print("work     model      pattern              T  batch")
    for case in cases_of(o):
        for peer in peers:
            if not peer.takes(case):
                continue
            if o.kind == "train":
                pair = lambda c=case: ours.step(c), peer.prepare_step(case)
            else:
                pair = lambda c=case: ours.figure(c), peer.prepare(case)
            print(f"{case}  {peer.name:10} {turns(*pair, o.rounds)}", flush=True)


if __name__ == "__main__":
    main()
