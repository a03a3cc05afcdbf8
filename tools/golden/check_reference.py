"""Follows the run of the authors' program that lies in tests/data/reference: twenty iterations,
the validation loss and the scores. Prints the largest deviations; exit 1 when one is too large.

    python tools/golden/check_reference.py [--mode float32|float64]
"""

import argparse
import json
import pathlib
import sys
import types

import numpy as np
import torch

from model import Model, Settings
from train import Optimizer, iteration, learning_rate, ordered_samples

HERE = pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "data" / "reference"
T, BATCH, S = 96, 2, 20


def load():
    stub = types.ModuleType("easydict")
    stub.EasyDict = type("EasyDict", (dict,), {})
    sys.modules["easydict"] = stub
    return torch.load(HERE / "ratplus.pth", weights_only=False)["task"]


def read(name):
    return torch.from_numpy(np.fromfile(HERE / name, dtype="<u2").astype(np.int64))


def batches_of(samples, first, n):
    out = []
    for b in range(n):
        some = samples[first + b * BATCH : first + (b + 1) * BATCH]
        out.append((torch.stack([a for a, _ in some]), torch.stack([b for _, b in some])))
    return out


def follow(model, want):
    samples = ordered_samples(read("train.bin"), T, 2)[: 7680 // T]
    opt = Optimizer("adamw", weight_decay=0.1)
    worst_loss = worst_norm = worst_lr = 0.0
    for i in range(S):
        lr = learning_rate(i, S, 8e-4, 1e-6, 0.05)
        got = iteration(model, opt, batches_of(samples, i * 4, 2), lr, 1.0, True)
        step = want["steps"][i]
        for (loss, norm), ref, ref_norm in zip(
            got, (step["train_loss1"], step["train_loss"]), want["grad_norms"][2 * i :]
        ):
            worst_loss = max(worst_loss, abs(loss / ref - 1))
            worst_norm = max(worst_norm, abs(norm / ref_norm - 1))
        after = learning_rate(i + 1, S, 8e-4, 1e-6, 0.05)
        worst_lr = max(worst_lr, abs(after / step["lr"] - 1))
    return worst_loss, worst_norm, worst_lr


def validate(model):
    samples = ordered_samples(read("val.bin"), T, 2)[: 4000 // (4 * T) * 4]
    total = n = 0
    with torch.no_grad():
        for ids, labels in samples:
            a, b = model.losses(ids[None], labels[None])
            total, n = total + a.item(), n + b
    return total / n


def scores(model):
    worst = argmaxes = 0
    for text, rows in json.loads((HERE / "scores.json").read_text()).items():
        D, W, I = (int(p.split("=")[1]) for p in text.split(","))
        for row in rows:
            ids = torch.tensor(row["tokens"])
            with torch.no_grad():
                z = model.logits(ids[None], model.s.uniform(D, W, I))[0]
            lp = torch.log_softmax(z, -1)
            got = lp[:-1].gather(1, ids[1:, None])[:, 0]
            worst = max(worst, (got - torch.tensor(row["logprobs"][1:])).abs().max().item())
            argmaxes += int((z.argmax(-1) != torch.tensor(row["argmax"])).sum())
    return worst, argmaxes


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--mode", default="float32")
    mode = ap.parse_args().mode
    s = Settings(V=97, d=64, N=3, H=4, Hk=4, f=256)
    s.pats = s.uniform(8)
    weights = load()
    worst, argmaxes = scores(Model(s, weights, mode))
    model = Model(s, weights, mode)
    want = json.loads((HERE / "joint-float32.json").read_text())
    loss, norm, lr = follow(model, want)
    val = validate(model)
    print(f"{mode}: largest relative deviation over {S} iterations: loss {loss:.2e}, "
          f"gradient norm {norm:.2e}, lr {lr:.1e}")
    print(f"{mode}: validation loss {val:.9f}, reference {want['val_loss']:.9f}, "
          f"relative {abs(val / want['val_loss'] - 1):.2e}")
    print(f"{mode}: scores: largest log-probability deviation {worst:.2e}, "
          f"{argmaxes} argmax differ")
    bad = loss > 1e-5 or norm > 1e-5 or abs(val / want["val_loss"] - 1) > 1e-5
    sys.exit(1 if bad or worst > 1e-4 or argmaxes else 0)


if __name__ == "__main__":
    main()
