"""An independent RAT+ / attention-only model, written from the mathematics alone.

It is slow and literal on purpose: the recurrence is a loop over tokens and the visible set is a
brute-force mask made from its definition. It shares no idea with the C program beyond the formulas,
so that an error in one is not repeated in the other.

Shapes: B batch, T tokens, d width, H heads, Hk key/value heads, h head width, V vocabulary.

Numerics ("mode"):
  float64, float32   everything in that type
  bfloat16           float32 master weights, residual stream, norms, softmax, recurrence, gate and
                     loss; operands of the matrix products of W_in, W_out, W1, W2 and the head
                     rounded to bfloat16, in both directions; rounded besides: the projections,
                     sigmoid(o), q / k / v once after the rotation, the attention's output, the
                     FFN's inner values. Logits and weight gradients are never rounded.
"""

from dataclasses import dataclass, field
import math

import torch

LN_EPS = 1e-6
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.float32}


@dataclass
class Settings:
    """One model. pats[layer][kv_head] = (D, W, I)."""

    V: int = 61
    d: int = 32
    N: int = 2
    H: int = 2
    Hk: int = 2
    f: int = 64
    act: str = "gelu"
    norm: str = "rmsnorm"
    cell: str = "ratplus"
    apply_re: bool = True
    tied: bool = True
    rope: bool = True
    rope_base: float = 10000.0
    rope_scale: float = 1.0  # position t / scale
    pats: list = field(default_factory=list)

    @property
    def h(self):
        return self.d // self.H

    def uniform(self, D=1, W=0, I=0):
        return [[(D, W, I)] * self.Hk for _ in range(self.N)]


@dataclass
class Rounding:
    """Roundings of the bfloat16 mode that an implementation is free to choose. `spec` below is the
    choice the golden files hold; the others measure how far a free choice may move a number."""

    probs: bool = False  # softmax weights and score gradients rounded as product operands
    outs: bool = False  # outputs of W_out and W2 rounded before they join the residual
    rope_grads: bool = False  # gradients rounded also where the forward value was rounded
    grads: bool = True  # gradients rounded where they enter a product
    wide: bool = False  # sums accumulated in float64
    before_rope: bool = False  # recurrent k, v rounded before the rotation too


def params_of(s):
    """[(name, shape, kind)] in the order of the files; kind: embed, linear, one, zero."""
    out = [("embedding.wte.weight", (s.V, s.d), "embed")]

    def norm(name):
        out.append((name + ".weight", (s.d,), "one"))
        if s.norm == "layernorm":
            out.append((name + ".bias", (s.d,), "zero"))

    for i in range(s.N):
        at = f"backbone.layers.{i}."
        if s.cell == "ratplus":
            kv = s.Hk * s.h
            rows = 2 * s.d + (3 if s.apply_re else 2) * kv
            out.append((at + "seq_layer.in_proj.weight", (rows, s.d), "linear"))
            norm(at + "seq_layer.input_norm")
            out.append((at + "seq_layer.out_proj.weight", (s.d, s.d), "linear"))
        wide = 2 * s.f if s.act == "swiglu" else s.f
        out.append((at + "hidden_layer.fc1.weight", (wide, s.d), "linear"))
        out.append((at + "hidden_layer.fc2.weight", (s.d, s.f), "linear"))
        norm(at + "hidden_layer.ln")
    norm("backbone.ln")
    if not s.tied:
        out.append(("head.lm_head.weight", (s.V, s.d), "linear"))
    return out


def bf16(x):
    return x.to(torch.bfloat16).to(x.dtype)


class _Round(torch.autograd.Function):
    """Rounds going forward; the gradient passes, rounded too if asked."""

    @staticmethod
    def forward(ctx, x, back):
        ctx.back = back
        return bf16(x)

    @staticmethod
    def backward(ctx, g):
        return (bf16(g) if ctx.back else g), None


class _RoundGrad(torch.autograd.Function):
    """Nothing going forward; the gradient is rounded."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return bf16(g)


class _Product(torch.autograd.Function):
    """y = x Wᵀ with every operand rounded, in the backward pass as well; results are not."""

    @staticmethod
    def forward(ctx, x, w, grads):
        x, w = bf16(x), bf16(w)
        ctx.save_for_backward(x, w)
        ctx.grads = grads
        return x @ w.T

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        if ctx.grads:
            g = bf16(g)
        dw = g.reshape(-1, g.shape[-1]).T @ x.reshape(-1, x.shape[-1])
        return g @ w, dw, None


def visible(T, D, W, I):
    """bool [T, T]: does query t see key s? Straight from the definition."""
    m = torch.zeros(T, T, dtype=torch.bool)
    for t in range(T):
        for s in range(t + 1):
            m[t, s] = s < I or t - s <= W or (D != -1 and (s + 1) % D == 0)
    return m


class Model:
    def __init__(self, s, weights, mode="float64", rounding=None):
        self.s, self.mode = s, mode
        self.low = mode == "bfloat16"
        self.rounding = rounding or Rounding()
        self.dtype = torch.float64 if self.rounding.wide else DTYPES[mode]
        self.w = {}
        for name, shape, _ in params_of(s):
            t = torch.as_tensor(weights[name]).to(self.dtype).clone().requires_grad_(True)
            assert tuple(t.shape) == tuple(shape), name
            self.w[name] = t

    # -- pieces ---------------------------------------------------------------------------------
    def round(self, x):
        return _Round.apply(x, self.rounding.rope_grads) if self.low else x

    def product(self, x, w):
        return _Product.apply(x, w, self.rounding.grads) if self.low else x @ w.T

    def norm(self, x, name):
        w = self.w[name + ".weight"]
        if self.s.norm == "layernorm":
            mean = x.mean(-1, keepdim=True)
            var = ((x - mean) ** 2).mean(-1, keepdim=True)
            return (x - mean) / torch.sqrt(var + LN_EPS) * w + self.w[name + ".bias"]
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + LN_EPS) * w

    def activation(self, u):
        a = self.s.act
        if a == "gelu":
            return 0.5 * u * (1 + torch.erf(u / math.sqrt(2)))
        if a == "relu":
            return torch.clamp(u, min=0)
        if a == "relusquared":
            return torch.clamp(u, min=0) ** 2
        if a == "silu":
            return u * torch.sigmoid(u)
        if a == "fastgelu":
            return 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        if a == "swiglu":
            x, gate = u[..., : self.s.f], u[..., self.s.f :]
            return x * (gate * torch.sigmoid(gate))
        raise ValueError(a)

    def rotate(self, x):
        """x [B, T, heads, h]; halves rotate by (t/scale)·base^(-2i/h). Angles are made in float64."""
        if not self.s.rope:
            return x
        T, h = x.shape[1], x.shape[3]
        i = torch.arange(h // 2, dtype=torch.float64)
        t = torch.arange(T, dtype=torch.float64) / self.s.rope_scale
        angle = t[:, None] * self.s.rope_base ** (-2 * i / h)[None]
        cos = torch.cos(angle).to(x.dtype)[None, :, None]
        sin = torch.sin(angle).to(x.dtype)[None, :, None]
        a, b = x[..., : h // 2], x[..., h // 2 :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    @staticmethod
    def scan(g, x):
        """y_t = g_t y_{t-1} + (1 - g_t) x_t over dimension 1, one token after the other."""
        y, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            y = g[:, t] * y + (1 - g[:, t]) * x[:, t]
            out.append(y)
        return torch.stack(out, 1)

    def attend(self, q, k, v, pats):
        """q [B,T,H,h], k and v [B,T,Hk,h]; each key/value head has its own pattern."""
        B, T, H, h = q.shape
        group = H // self.s.Hk
        outs = []
        for head in range(H):
            j = head // group
            m = visible(T, *pats[j])
            ks, vs, qs = k[:, :, j], v[:, :, j], q[:, :, head]
            score = torch.einsum("bth,bsh->bts", qs, ks) / math.sqrt(h)
            if self.low and self.rounding.probs:
                score = _RoundGrad.apply(score)
            score = score.masked_fill(~m[None], -math.inf)
            p = torch.softmax(score, -1)
            if self.low and self.rounding.probs:
                p = _Round.apply(p, False)
            a = torch.einsum("bts,bsh->bth", p, vs)
            if self.low and self.rounding.grads:
                a = _RoundGrad.apply(a)  # da is an operand of dP = da vᵀ and dv = Pᵀ da
            outs.append(a)
        return torch.stack(outs, 2).reshape(B, T, H * h)

    def mixer(self, n, at, pats, keep=None):
        s = self.s
        B, T, _ = n.shape
        kv = s.Hk * s.h
        p = self.round(self.product(n, self.w[at + "in_proj.weight"]))
        widths = [s.d, s.d, kv, kv] + ([kv] if s.apply_re else [])
        parts = torch.split(p, widths, -1)
        o, q, k, x = parts[:4]
        if s.apply_re:
            g = torch.sigmoid(parts[4])
            k, x = self.scan(g, k), self.scan(g, x)
        if keep is not None:
            keep["state_k"], keep["state_v"] = k[:, -1].detach(), x[:, -1].detach()
        if self.low and self.rounding.before_rope:
            k, x = self.round(k), self.round(x)
        q = self.round(self.rotate(q.reshape(B, T, s.H, s.h)))
        k = self.round(self.rotate(k.reshape(B, T, s.Hk, s.h)))
        v = self.round(x.reshape(B, T, s.Hk, s.h))
        if keep is not None:
            keep["k"], keep["v"] = k.detach(), v.detach()
        a = self.round(self.attend(q, k, v, pats))
        gated = a * self.round(torch.sigmoid(o))
        return self.product(gated, self.w[at + "out_proj.weight"])

    # -- whole ----------------------------------------------------------------------------------
    def logits(self, ids, pats=None, keep=None):
        """ids int [B, T] -> logits [B, T, V]. keep: a list that gets one dict of cache tensors a
        layer."""
        s = self.s
        pats = pats or s.pats
        x = self.w["embedding.wte.weight"][ids]
        for i in range(s.N):
            at = f"backbone.layers.{i}."
            if s.cell == "ratplus":
                kept = {} if keep is not None else None
                n = self.norm(x, at + "seq_layer.input_norm")
                y = self.mixer(n, at + "seq_layer.", pats[i], kept)
                x = x + (_Round.apply(y, False) if self.low and self.rounding.outs else y)
                if keep is not None:
                    keep.append(kept)
            n = self.norm(x, at + "hidden_layer.ln")
            u = self.round(self.product(n, self.w[at + "hidden_layer.fc1.weight"]))
            m = self.round(self.activation(u))
            y = self.product(m, self.w[at + "hidden_layer.fc2.weight"])
            x = x + (_Round.apply(y, False) if self.low and self.rounding.outs else y)
        n = self.norm(x, "backbone.ln")
        head = "embedding.wte.weight" if s.tied else "head.lm_head.weight"
        return self.product(n, self.w[head])

    def losses(self, ids, labels, pats=None):
        """Sum of the cross-entropy over labels != -100, and their number."""
        z = self.logits(ids, pats)
        return cross_entropy(z, labels)

    def loss(self, ids, labels, pats=None):
        """Mean over the micro-batch's own labels; 0 when it has none."""
        total, n = self.losses(ids, labels, pats)
        return total / n if n else total * 0

    def zero_grad(self):
        for t in self.w.values():
            t.grad = None


def cross_entropy(z, labels):
    z, labels = z.reshape(-1, z.shape[-1]), labels.reshape(-1)
    on = labels != -100
    z, labels = z[on], labels[on]
    lse = torch.logsumexp(z, -1)
    hit = z.gather(1, labels[:, None].long())[:, 0]
    return (lse - hit).sum(), int(on.sum())


def kept_positions(T, D, W, I):
    """What a layer keeps after T tokens, in the order initial, dilated, window. The window holds the
    last W tokens that are not initial ones."""
    initial = list(range(min(T, I)))
    window = list(range(max(I, T - W), T)) if W else []
    dilated = [] if D == -1 else [s for s in range(I, T - W) if (s + 1) % D == 0]
    return initial + dilated + window
