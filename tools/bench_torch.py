"""Times one optimizer step of PyTorch at the shapes of `ratplus bench train`, to lay beside it.

    python tools/bench_torch.py [--dtype float32|bfloat16] [--threads N] [--compile] [--steps N]
        [--device cpu|cuda] [--attention-only] [--layers 12 --d 768 --heads 6 --seq-len 1024 --batch 4 --vocab 32000 --dilation 64]

Three lines, or with --attention-only the first: attention-only, RAT+ dense pass (D=1), RAT+ sparse pass (D=64), each with tokens/s and
the share of the limit that the model's FLOPs give at the product rate measured in the same run (a
multiply-add is 2, backward twice the forward, attention by the keys that the pattern sees).
Ordinary PyTorch: fused attention where it is dense, a recurrence of log2(T) doublings, gathered
keys in the sparse pass, fused AdamW; bfloat16 by autocast.
"""

import argparse
import math
import time

import torch
import torch.nn.functional as F
from torch import nn


def scan(g, x):
    """y_t = g_t y_{t-1} + (1 - g_t) x_t over dimension 1, by doubling: float32."""
    a, y, step = g, (1 - g) * x, 1
    while step < x.shape[1]:
        head_a, head_y = a[:, :step], y[:, :step]
        y = torch.cat([head_y, y[:, step:] + a[:, step:] * y[:, :-step]], 1)
        a = torch.cat([head_a, a[:, step:] * a[:, :-step]], 1)
        step *= 2
    return y


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def sparse_attention(q, k, v, D):
    """q, k, v [B, H, T, h]: a query sees itself and the tokens s <= t with (s + 1) mod D = 0."""
    T, h = q.shape[2], q.shape[3]
    pos = torch.arange(D - 1, T, D, device=q.device)
    t = torch.arange(T, device=q.device)
    far = (q @ k[:, :, pos].transpose(-1, -2)) / math.sqrt(h)
    far = far.masked_fill(pos[None] >= t[:, None], -math.inf)  # itself comes by the other term
    own = (q * k).sum(-1, keepdim=True) / math.sqrt(h)
    p = torch.softmax(torch.cat([far, own], -1).float(), -1).to(v.dtype)
    return p[..., :-1] @ v[:, :, pos] + p[..., -1:] * v


class Layer(nn.Module):
    def __init__(self, d, heads, recurrent):
        super().__init__()
        self.heads, self.recurrent = heads, recurrent
        self.norm1, self.norm2 = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        self.w_in = nn.Linear(d, (5 if recurrent else 4) * d, bias=False)
        self.w_out = nn.Linear(d, d, bias=False)
        self.fc1, self.fc2 = nn.Linear(d, 4 * d, bias=False), nn.Linear(4 * d, d, bias=False)

    def forward(self, x, cos, sin, D):
        B, T, d = x.shape
        parts = self.w_in(self.norm1(x)).chunk(5 if self.recurrent else 4, -1)
        o, q, k, v = parts[:4]
        if self.recurrent:
            g = torch.sigmoid(parts[4].float())
            kv = scan(torch.cat([g, g], -1), torch.cat([k, v], -1).float())
            k, v = (y.to(q.dtype) for y in kv.chunk(2, -1))
        q, k, v = (y.view(B, T, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        q, k = (rotate(y.float(), cos, sin).to(v.dtype) for y in (q, k))
        if D == 1:
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            a = sparse_attention(q, k, v, D)
        a = a.transpose(1, 2).reshape(B, T, d)
        x = x + self.w_out(a * torch.sigmoid(o))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Net(nn.Module):
    def __init__(self, o, recurrent):
        super().__init__()
        self.embedding = nn.Embedding(o.vocab, o.d)
        self.layers = nn.ModuleList(Layer(o.d, o.heads, recurrent) for _ in range(o.layers))
        self.norm = nn.RMSNorm(o.d, eps=1e-6)
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)
        h = o.d // o.heads
        angle = torch.arange(o.seq_len)[:, None] * 10000.0 ** (-2 * torch.arange(h // 2) / h)[None]
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, ids, labels, D):
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin, D)
        z = F.linear(self.norm(x), self.embedding.weight).float()
        return F.cross_entropy(z.view(-1, z.shape[-1]), labels.reshape(-1))


def flops(o, recurrent, D):
    """Of forward and backward over one batch."""
    T, d, rows = o.seq_len, o.d, o.batch * o.seq_len
    weights = o.layers * ((5 if recurrent else 4) + 1 + 8) * d * d + o.vocab * d
    keys = sum(t + 1 if D == 1 else (t + 1) // D + ((t + 1) % D != 0) for t in range(T))
    return 3 * (2 * rows * weights + 4 * o.batch * keys * d * o.layers)


def product_rate(o, dtype, device):
    """FLOP/s of the model's largest layer product, forward, best of several."""
    a = torch.randn(o.batch * o.seq_len, o.d, dtype=dtype, device=device)
    b = torch.randn(4 * o.d, o.d, dtype=dtype, device=device)
    best = math.inf
    for _ in range(20):
        at = now(device)
        a @ b.T
        best = min(best, now(device) - at)
    return 2 * a.shape[0] * a.shape[1] * b.shape[0] / best


def now(device):
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def trainer(o, recurrent, D, dtype):
    """A function that makes one optimizer step and returns its seconds."""
    torch.manual_seed(0)
    net = Net(o, recurrent).to(o.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1,
                                  fused=True)
    run = torch.compile(net) if o.compile else net
    ids = torch.randint(o.vocab, (o.batch, o.seq_len + 1), device=o.device)

    def step():
        at = now(o.device)
        with torch.autocast(o.device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = run(ids[:, :-1], ids[:, 1:], D)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return now(o.device) - at

    return step


def measure(o, recurrent, D, dtype):
    step = trainer(o, recurrent, D, dtype)
    times = [step() for _ in range(o.warmup + o.steps)]
    return sorted(times[o.warmup :])[o.steps // 2]


def main():
    ap = argparse.ArgumentParser()
    for name, value in (("layers", 12), ("d", 768), ("heads", 6), ("seq-len", 1024), ("batch", 4),
                        ("vocab", 32000), ("dilation", 64), ("threads", 0), ("steps", 3),
                        ("warmup", 1)):
        ap.add_argument("--" + name, type=int, default=value)
    ap.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    ap.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    ap.add_argument("--compile", action="store_true")
    ap.add_argument("--attention-only", action="store_true")
    o = ap.parse_args()
    if o.threads:
        torch.set_num_threads(o.threads)
    dtype = getattr(torch, o.dtype)
    rate = product_rate(o, dtype, o.device)
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads, {o.dtype}: products "
          f"{rate / 1e9:.0f} GFLOP/s")
    for label, recurrent, D in (("attention-only", False, 1), ("RAT+ D=1", True, 1),
                                (f"RAT+ D={o.dilation}", True, o.dilation)):
        if recurrent and o.attention_only:
            break
        seconds = measure(o, recurrent, D, dtype)
        limit = flops(o, recurrent, D) / rate
        print(f"{label:16} {o.batch * o.seq_len / seconds:8.0f} tokens/s  "
              f"{100 * limit / seconds:5.1f}% of the limit", flush=True)


if __name__ == "__main__":
    main()
