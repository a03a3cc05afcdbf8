"""Writes tests/data/golden; README.md beside this file says what is in there.

    python tools/golden/make.py [NAME...]
"""

import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.numpy import save_file

import cases
import hashing
from model import Model, Rounding, Settings, kept_positions, params_of
from train import Optimizer, iteration, learning_rate

OUT = pathlib.Path(__file__).resolve().parent.parent.parent / "tests" / "data" / "golden"
PROJ_SEED = 77
PRIMES = [1, 3, 5, 7, 11, 13, 17, 23, 29, 37, 47, 61, 79, 101, 131, 167, 211, 263, 331]
VARIANTS = {
    "float64 sums": Rounding(wide=True),
    "softmax weights rounded": Rounding(probs=True),
    "outputs of W_out and W2 rounded": Rounding(outs=True),
    "gradients rounded nowhere": Rounding(grads=False),
    "gradients rounded at roundings too": Rounding(rope_grads=True),
    "k, v rounded before the rotation": Rounding(before_rope=True),
}
HALF_ULP = 2.0**-9


# -- common ----------------------------------------------------------------------------------------
def settings_of(case):
    s = Settings(**case.get("model", {}))
    pats = case.get("pats", [1, 0, 0])
    if not isinstance(pats[0], list):
        s.pats = s.uniform(*pats)
    elif not isinstance(pats[0][0], list):
        s.pats = [[tuple(p)] * s.Hk for p in pats]
    else:
        s.pats = [[tuple(p) for p in layer] for layer in pats]
    assert len(s.pats) == s.N and all(len(p) == s.Hk for p in s.pats)
    return s


def weights_of(s, seed, scale):
    return {n: hashing.weight(seed, scale, n, shape, kind) for n, shape, kind in params_of(s)}


def header(kind, case, s):
    m = {k: getattr(s, k) for k in
         "V d N H Hk h f act norm cell apply_re tied rope rope_base rope_scale".split()}
    return {"kind": kind, "about": case["about"], "model": m, "pats": s.pats,
            "weights": {"seed": case.get("seed", 1), "scale": case.get("scale", 0.3)},
            "modes": ["float64"] + (["bfloat16"] if case.get("bf16") else [])}


def sample(name, t, cap):
    """Stored elements and the JSON entry of a tensor."""
    a = t.detach().double().numpy().reshape(-1)
    stride = next(p for p in PRIMES if -(-a.size // p) <= cap)
    proj = float(hashing.signed(PROJ_SEED, name, a.size) @ a)
    return a[::stride].astype(np.float32), {
        "stride": stride, "norm": float(np.linalg.norm(a)), "proj": proj}


def write(name, doc, tensors):
    OUT.mkdir(parents=True, exist_ok=True)
    tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    save_file(tensors, OUT / f"{name}.safetensors",
              metadata={"kind": doc["kind"], "about": doc["about"]})
    (OUT / f"{name}.json").write_text(json.dumps(doc, indent=1) + "\n")
    size = sum((OUT / (name + e)).stat().st_size for e in (".json", ".safetensors"))
    print(f"{name}: {size / 1024:.0f} KB", flush=True)


def apart(a, b):
    """‖a - b‖ / ‖b‖ in float64; 0 when both vanish."""
    a, b = a.detach().double(), b.detach().double()
    diff, norm = (a - b).norm().item(), b.norm().item()
    return diff / norm if norm else diff


def row_apart(z, ref):
    """Largest difference of logits, of the row's largest |logit|."""
    z, ref = z.detach().double(), ref.detach().double()
    return ((z - ref).abs().amax(-1) / ref.abs().amax(-1)).max().item()


# -- pass ------------------------------------------------------------------------------------------
def run_pass(s, weights, ids, labels, mode, rounding=None):
    m = Model(s, weights, mode, rounding)
    keep = m.logits(ids)
    loss = m.loss(ids, labels)
    loss.backward()
    grads = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in m.w.items()}
    return {"logits": keep.detach(), "loss": loss.item(), "grads": grads}


def deviation(got, want):
    """Largest over all tensors, and by tensor."""
    by = {n: apart(g, want["grads"][n]) for n, g in got["grads"].items()}
    loss = abs(got["loss"] / want["loss"] - 1) if want["loss"] else abs(got["loss"])
    return {"loss": loss, "logits": row_apart(got["logits"], want["logits"]),
            "logits_rms": apart(got["logits"], want["logits"]), "grads": max(by.values())}, by


def stored_rows(B, T, cap):
    step = max(1, -(-B * T // cap))
    rows = set(range(0, B * T, step)) | {b * T + T - 1 for b in range(B)}
    return np.array(sorted(rows), dtype=np.int32)


def put_pass(tensors, prefix, run, rows, cap):
    entries = {}
    z = run["logits"].reshape(-1, run["logits"].shape[-1]).double().numpy()
    tensors[prefix + "logits"] = z[rows].astype(np.float32)
    for n, g in run["grads"].items():
        tensors[prefix + "grad." + n], entries[n] = sample(n, g, cap)
    return entries


def bf16_tolerance(args, exact):
    """The stored bfloat16 run, its tolerances and how they came about."""
    run = run_pass(*args, "bfloat16")
    worst = {"loss": 0.0, "logits": 0.0, "logits_rms": 0.0, "grads": 0.0}
    by, table = {n: 0.0 for n in run["grads"]}, {}
    for name, rounding in VARIANTS.items():
        got, each = deviation(run_pass(*args, "bfloat16", rounding), run)
        table[name] = got
        worst = {k: max(worst[k], got[k]) for k in worst}
        by = {n: max(by[n], each[n]) for n in by}
    tol = {k: max(2 * worst[k], HALF_ULP) for k in ("logits", "logits_rms")}
    tol["loss"] = max(2 * worst["loss"], 2.0**-14)
    each = {n: max(2 * v, HALF_ULP) for n, v in by.items()}
    return run, {"loss": run["loss"], "tol": tol, "variants": table,
                 "float64_deviation": deviation(run, exact)[0]}, each


def make_pass(name, case):
    s = settings_of(case)
    seed, B, T = case.get("seed", 1), case.get("B", 2), case["T"]
    weights = weights_of(s, seed, case.get("scale", 0.3))
    ids, labels = hashing.batch(seed, "ids", B, T, s.V)
    if case.get("no_labels"):
        labels[:] = -100
    args = (s, weights, torch.from_numpy(ids), torch.from_numpy(labels))
    exact, single = run_pass(*args, "float64"), run_pass(*args, "float32")
    rows, cap = stored_rows(B, T, case.get("rows", 48)), case.get("cap", 1024)
    tensors = {"ids": ids.astype(np.int32), "labels": labels.astype(np.int32), "logits_rows": rows}
    doc = header("pass", case, s)
    doc |= {"B": B, "T": T, "loss": exact["loss"], "labels_counted": int((labels != -100).sum()),
            "tol": {"logits": 2e-5, "grads": 1e-4, "loss": 1e-5},
            "float32_deviation": deviation(single, exact)[0]}
    doc["grads"] = put_pass(tensors, "", exact, rows, cap)
    if case.get("bf16"):
        run, doc["bf16"], tol = bf16_tolerance(args, exact)
        entries = put_pass(tensors, "bf16.", run, rows, min(cap, 1024))
        doc["bf16"]["grads"] = {n: e | {"tol": tol[n]} for n, e in entries.items()}
    dev = doc["float32_deviation"]
    assert dev["logits"] < 1e-5 and dev["grads"] < 5e-5 and dev["loss"] < 5e-6, dev
    write(name, doc, tensors)


# -- cache -----------------------------------------------------------------------------------------
def run_cache(s, weights, ids, mode, rounding=None):
    m, keep, out = Model(s, weights, mode, rounding), [], {}
    with torch.no_grad():
        out["last"] = m.logits(ids, keep=keep)[0, -1]
    T = ids.shape[1]
    for i, kept in enumerate(keep):
        out[f"{i}.state_k"], out[f"{i}.state_v"] = kept["state_k"][0], kept["state_v"][0]
        for j in range(s.Hk):
            D, W, I = s.pats[i][j]
            pos = kept_positions(T, D, W, I)
            dilated = [p for p in range(I, T - W) if D != -1 and (p + 1) % D == 0]
            assert len(pos) == min(T, I) + min(W, max(0, T - I)) + len(dilated)
            if pos:
                out[f"{i}.{j}.pos"] = torch.tensor(pos, dtype=torch.int32)
                out[f"{i}.{j}.k"], out[f"{i}.{j}.v"] = (kept[x][0, pos, j] for x in "kv")
    return out


def cache_apart(a, b):
    """Largest difference of the largest element, over all tensors."""
    return max(((a[n].double() - b[n].double()).abs().max() / b[n].double().abs().max()).item()
               for n in b if not n.endswith("pos"))


def make_cache(name, case):
    s = settings_of(case)
    seed = case.get("seed", 1)
    weights = weights_of(s, seed, case.get("scale", 0.3))
    doc, tensors = header("cache", case, s), {}
    del doc["pats"]
    doc |= {"cases": [], "tol": 2e-5, "float32_deviation": 0.0, "bf16": {"tol": 0.0}}
    for c, one in enumerate(case["cases"]):
        s = settings_of(case | {"pats": one["pats"]})
        ids, _ = hashing.batch(seed, "ids", 1, one["T"], s.V)
        tensors[f"{c}.ids"] = ids[0].astype(np.int32)
        args = (s, weights, torch.from_numpy(ids))
        exact, low = run_cache(*args, "float64"), run_cache(*args, "bfloat16")
        doc["cases"].append({"pats": s.pats, "T": one["T"]})
        dev = cache_apart(run_cache(*args, "float32"), exact)
        doc["float32_deviation"] = max(doc["float32_deviation"], dev)
        for rounding in VARIANTS.values():
            v = 2 * cache_apart(run_cache(*args, "bfloat16", rounding), low)
            doc["bf16"]["tol"] = max(doc["bf16"]["tol"], v)
        for n, t in exact.items():
            tensors[f"{c}.{n}"] = t.numpy().astype(np.int32 if n.endswith("pos") else np.float32)
            if not n.endswith("pos"):
                tensors[f"bf16.{c}.{n}"] = low[n].numpy().astype(np.float32)
    assert doc["float32_deviation"] < 1e-5, doc["float32_deviation"]
    write(name, doc, tensors)


# -- train -----------------------------------------------------------------------------------------
def run_train(s, weights, case, data, mode, rounding=None):
    o = case["optim"]
    m = Model(s, weights, mode, rounding)
    opt = Optimizer(o["name"], o["weight_decay"], (o["beta1"], o["beta2"]), o["eps"], o["momentum"])
    steps = []
    for i, micro in enumerate(data):
        lr = learning_rate(i, case["S"], o["lr"], o["eta_min"], o["warmup"], o["sched"])
        passes = iteration(m, opt, micro, lr, case["clip"], case["joint"])
        steps.append({"lr": lr, "passes": [{"loss": a, "norm": b} for a, b in passes]})
    return {"steps": steps, "final": m.w}


def train_apart(got, want):
    def worst(key):
        return max(abs(a[key] / b[key] - 1) for x, y in zip(got["steps"], want["steps"])
                   for a, b in zip(x["passes"], y["passes"]))
    return {"loss": worst("loss"), "norm": worst("norm"),
            "final": max(apart(p, want["final"][n]) for n, p in got["final"].items())}


def data_of(s, case):
    S, acc, B, T = (case[k] for k in ("S", "accumulation", "batch", "T"))
    ids, labels = hashing.batch(case.get("seed", 1), "ids", S * acc * B, T, s.V)
    ids, labels = (x.reshape(S, acc, B, T) for x in (ids, labels))
    both = [[(torch.from_numpy(ids[i, a]), torch.from_numpy(labels[i, a])) for a in range(acc)]
            for i in range(S)]
    return both, {"ids": ids.astype(np.int32), "labels": labels.astype(np.int32)}


def make_train(name, case):
    case = {"S": 20, "accumulation": 1, "clip": 1.0, "joint": True} | case
    case["optim"] = {"name": "adamw", "lr": 3e-3, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95,
                     "eps": 1e-8, "momentum": 0.0, "sched": "cosine", "warmup": 0.1,
                     "eta_min": 1e-5} | case.get("optim", {})
    s = settings_of(case)
    weights = weights_of(s, case.get("seed", 1), case.get("scale", 0.3))
    data, tensors = data_of(s, case)
    exact = run_train(s, weights, case, data, "float64")
    dev = train_apart(run_train(s, weights, case, data, "float32"), exact)
    doc = header("train", case, s)
    doc |= {k: case[k] for k in ("S", "batch", "T", "accumulation", "joint", "clip", "optim")}
    doc |= {"steps": exact["steps"], "tol": {"loss": 1e-4, "norm": 1e-4, "final": 1e-4},
            "float32_deviation": dev, "final": {}}
    assert max(dev.values()) < 3e-5, dev
    for n, p in exact["final"].items():
        tensors["final." + n], doc["final"][n] = sample(n, p, 256)
    if case.get("bf16"):
        low = run_train(s, weights, case, data, "bfloat16")
        table = {v: train_apart(run_train(s, weights, case, data, "bfloat16", r), low)
                 for v, r in VARIANTS.items()}
        tol = {k: max(2 * max(t[k] for t in table.values()), 2.0**-12) for k in dev}
        doc["bf16"] = {"steps": low["steps"], "tol": tol, "variants": table, "final": {},
                       "float64_deviation": train_apart(low, exact)}
        for n, p in low["final"].items():
            tensors["bf16.final." + n], doc["bf16"]["final"][n] = sample(n, p, 256)
    write(name, doc, tensors)


# -- tables ----------------------------------------------------------------------------------------
def make_schedule():
    rows = []
    for S, lr, eta_min, warmup, kind in cases.SCHEDULES:
        rates = [learning_rate(i, S, lr, eta_min, warmup, kind) for i in range(S)]
        rows.append({"S": S, "lr": lr, "eta_min": eta_min, "warmup": warmup, "sched": kind,
                     "rates": rates})
    (OUT / "schedule.json").write_text(json.dumps({"schedules": rows}, indent=0) + "\n")


def make_init():
    """Distribution of every kind of tensor: fan_in is a tensor's last dimension."""
    s = Settings(V=503, d=96, N=2, H=6, Hk=6, f=320, norm="layernorm", tied=False)
    normal = lambda std: {"law": "normal", "mean": 0.0, "std": std}
    uniform = lambda r: {"law": "uniform", "mean": 0.0, "std": r / 3**0.5, "bound": r}
    laws = {
        "fixed": lambda fan, kind: normal(0.02),
        "xavier": lambda fan, kind: normal(fan**-0.5),
        "uniform": lambda fan, kind: uniform(fan**-0.5),
        "torch_uniform": lambda fan, kind: uniform(fan**-0.5),
        "torch": lambda fan, kind: normal(1.0) if kind == "embed" else uniform(fan**-0.5),
    }
    doc = {"model": {k: getattr(s, k) for k in "V d N H Hk h f act norm tied".split()},
           "initializer_range": 0.02, "inits": {}}
    for name, law in laws.items():
        doc["inits"][name] = [
            {"name": n, "shape": list(shape)} | (
                {"law": "constant", "value": 1.0 if kind == "one" else 0.0}
                if kind in ("one", "zero") else law(shape[-1], kind))
            for n, shape, kind in params_of(s)]
    (OUT / "init.json").write_text(json.dumps(doc, indent=0) + "\n")


def main():
    torch.manual_seed(0)
    wanted = sys.argv[1:]
    OUT.mkdir(parents=True, exist_ok=True)
    kinds = ((cases.PASS, make_pass), (cases.CACHE, make_cache), (cases.TRAIN, make_train))
    for table, make in kinds:
        for name, case in table.items():
            if not wanted or name in wanted:
                make(name, case)
    make_schedule()
    make_init()


if __name__ == "__main__":
    main()
