"""Optimizers, schedule and the training iteration, from their formulas (not from torch.optim)."""

import math

import torch


def learning_rate(i, S, lr, eta_min=0.0, warmup=0.0, name="cosine"):
    """Rate of iteration i (from 0) of S. "constant" has no warm-up."""
    if name == "constant":
        return lr
    w = int(warmup * S)
    if i < w:
        return lr * (i + 1) / w
    return eta_min + (lr - eta_min) * (1 + math.cos(math.pi * (i - w) / (S - w))) / 2


class Optimizer:
    def __init__(self, name, weight_decay=0.0, betas=(0.9, 0.95), eps=1e-8, momentum=0.0):
        self.name, self.wd, self.betas, self.eps, self.mu = name, weight_decay, betas, eps, momentum
        self.t, self.state = 0, {}

    def step(self, weights, lr):
        self.t += 1
        with torch.no_grad():
            for name, p in weights.items():
                getattr(self, "_" + self.name)(name, p, p.grad, lr)

    def _adam_like(self, name, p, g, lr):
        b1, b2 = self.betas
        m, v = self.state.get(name) or (torch.zeros_like(p), torch.zeros_like(p))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        self.state[name] = (m, v)
        mhat, vhat = m / (1 - b1**self.t), v / (1 - b2**self.t)
        p -= lr * mhat / (torch.sqrt(vhat) + self.eps)

    def _adamw(self, name, p, g, lr):
        p -= lr * self.wd * p
        self._adam_like(name, p, g, lr)

    def _adam(self, name, p, g, lr):
        self._adam_like(name, p, g + self.wd * p, lr)

    def _sgd(self, name, p, g, lr):
        g = g + self.wd * p
        v = self.state.get(name)
        v = g.clone() if v is None else self.mu * v + g
        self.state[name] = v
        p -= lr * v


def grad_norm(weights):
    return torch.sqrt(sum((p.grad.double() ** 2).sum() for p in weights.values())).item()


def one_pass(model, optimizer, batches, pats, lr, clip):
    """Forward, backward and one optimizer step over the micro-batches of an iteration. Returns the
    plain mean of their losses and the gradient norm before clipping."""
    model.zero_grad()
    total = 0.0
    for ids, labels in batches:
        loss = model.loss(ids, labels, pats) / len(batches)
        loss.backward()
        total += loss.item()
    norm = grad_norm(model.w)
    if clip:
        factor = min(1.0, clip / (norm + 1e-6))
        for p in model.w.values():
            p.grad *= factor
    optimizer.step(model.w, lr)
    return total, norm


def iteration(model, optimizer, batches, lr, clip, joint):
    """joint: the configured pattern first, then D=1, two whole steps. Else one step. Returns
    [(loss, norm)] in the order of the passes."""
    out = [one_pass(model, optimizer, batches, model.s.pats, lr, clip)]
    if joint:
        out.append(one_pass(model, optimizer, batches, model.s.uniform(1), lr, clip))
    return out


def ordered_samples(tokens, T, ignore_input=None):
    """Consecutive runs of T as (ids, labels); the label after `ignore_input` is -100."""
    out = []
    for at in range(0, len(tokens) - T, T):
        ids, labels = tokens[at : at + T].clone(), tokens[at + 1 : at + T + 1].clone()
        if ignore_input is not None:
            labels[ids == ignore_input] = -100
        out.append((ids, labels))
    return out
