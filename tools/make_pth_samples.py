#!/usr/bin/env python3
"""Writes the small checkpoints of tests/data/pth with PyTorch: every form a .pth may take.

    python3 tools/make_pth_samples.py tests/data/pth

Element k of the j-th tensor (in the order of the model) is ((7 k + 13 j) mod 31 - 15) / 16, which
float16 and bfloat16 hold exactly; the optimizer's exp_avg is that of tensor j + 100, exp_avg_sq and
momentum_buffer that of j + 200. The tests compute the same. Needs torch and omegaconf."""
import collections
import io
import pickle
import sys
import types
import zipfile

import torch
from omegaconf import OmegaConf

N, d, V, f, h = 2, 8, 11, 16, 4

# The class that the reference's configurations are instances of; its module need not be installed.
easydict = types.ModuleType("easydict")


class EasyDict(dict):
    def __init__(self, **kwargs):
        super().__init__()
        for key, value in kwargs.items():
            self[key] = EasyDict(**value) if isinstance(value, dict) else value
            setattr(self, key, self[key])


EasyDict.__module__ = "easydict"
EasyDict.__qualname__ = "EasyDict"
easydict.EasyDict = EasyDict
sys.modules["easydict"] = easydict


def fill(j, *shape):
    n = 1
    for s in shape:
        n *= s
    k = torch.arange(n, dtype=torch.int64)
    return (((7 * k + 13 * j) % 31 - 15).to(torch.float32) / 16).reshape(shape)


def shapes(re=True, swiglu=False, layernorm=False, untied=False):
    out = [("embedding.wte.weight", (V, d))]
    for i in range(N):
        seq, hid = f"backbone.layers.{i}.seq_layer.", f"backbone.layers.{i}.hidden_layer."
        out.append((seq + "in_proj.weight", ((5 if re else 4) * d, d)))
        out.append((seq + "input_norm.weight", (d,)))
        if layernorm:
            out.append((seq + "input_norm.bias", (d,)))
        out.append((seq + "out_proj.weight", (d, d)))
        out.append((hid + "fc1.weight", ((2 * f if swiglu else f), d)))
        out.append((hid + "fc2.weight", (d, f)))
        out.append((hid + "ln.weight", (d,)))
        if layernorm:
            out.append((hid + "ln.bias", (d,)))
    out.append(("backbone.ln.weight", (d,)))
    if layernorm:
        out.append(("backbone.ln.bias", (d,)))
    if untied:
        out.append(("head.lm_head.weight", (V, d)))
    return out


def weights(**kwargs):
    task = collections.OrderedDict()
    for j, (name, shape) in enumerate(shapes(**kwargs)):
        task[name] = fill(j, *shape)
    return task


def config(name="ratplus", **cell):
    seq = {"d_model": d, "d_head": h, "num_head": d // h, "k_channel": h, "dilation_size": 4,
           "local_size": 2, "initial_size": 1, "joint_train": True, "_name_": name}
    seq.update(cell)
    return {"model": {"backbone": {"num_layers": N, "d_model": d, "ln": "rmsnorm", "seq_cell": seq,
                                   "hidden_cell": {"d_ffn": f, "act_fn": "gelu", "_name_": "ffn"},
                                   "_name_": "sequence"},
                      "embedding": {"vocab_size": V, "pe": {"_name_": "rope", "dim": h,
                                                            "base": 10000, "max_seq_len": 32},
                                    "_name_": "lm"},
                      "head": {"_name_": "lm"}},
            "data": {"_name_": "sample", "seq_len": 32, "vocab_size": V, "batch_size": 2,
                     "global_batch_size": 4},
            "trainer": {"global_batch_size": 4, "seed": 1005, "dtype": "float32"},
            "task": {"tie_embedding": True, "_name_": "lm"},
            "optim": {"lr_scheduler": {"_name_": "cosine", "T_max": 40},
                      "optimizer": {"_name_": "adamw", "lr": 0.0008, "weight_decay": 0.1,
                                    "betas": [0.9, 0.95]}}}


def checkpoint(task, cfg=None, **more):
    ckpt = {"task": task, "step": 6}
    if cfg is not None:
        ckpt["config"] = cfg
    ckpt.update(more)
    return ckpt


def views(task):
    """The same values through transposed, strided and offset views of shared storages."""
    out = collections.OrderedDict()
    pool = torch.zeros(4000)
    at = 3
    for j, (name, t) in enumerate(task.items()):
        if t.dim() == 2 and j % 3 == 0:  # stored transposed
            v = t.t().contiguous().t()
        elif t.dim() == 2 and j % 3 == 1:  # every second column of a wider matrix
            wide = torch.full((t.shape[0] + 1, 2 * t.shape[1]), 9.0)
            wide[1:, ::2] = t
            v = wide[1:, ::2]
        else:  # a slice of a pool that several tensors share
            v = pool[at:at + t.numel()].view(t.shape)
            v.copy_(t)
            at += t.numel() + 5
        out[name] = v
    return out


def optimizer(names=None, momentum=False):
    list_of = shapes()
    state = {}
    for j, (name, shape) in enumerate(list_of):
        if momentum:
            entry = {"momentum_buffer": fill(j + 200, *shape)}
        else:
            entry = {"step": torch.tensor(14.0), "exp_avg": fill(j + 100, *shape),
                     "exp_avg_sq": fill(j + 200, *shape)}
        state[name if names else j] = entry
    ids = [n for n, _ in list_of] if names else list(range(len(list_of)))
    return {"state": state, "param_groups": [{"lr": 0.0008, "betas": (0.9, 0.95), "eps": 1e-8,
                                              "weight_decay": 0.1, "params": ids}]}


class Evil:
    def __reduce__(self):
        import os
        return (os.system, ("echo never",))


def repack(path, method):
    with zipfile.ZipFile(path) as z:
        entries = [(i.filename, z.read(i)) for i in z.infolist()]
    with zipfile.ZipFile(path, "w", method) as z:
        for name, data in entries:
            z.writestr(zipfile.ZipInfo(name), data, method)


def rename(task, change):
    return collections.OrderedDict((change(k), v) for k, v in task.items())


def main(folder):
    def save(name, ckpt, **kwargs):
        torch.save(ckpt, f"{folder}/{name}.pth", **kwargs)

    plain = weights()
    save("plain", checkpoint(plain, config()))
    save("bare", checkpoint(plain))
    save("state_dict", plain)
    save("views", checkpoint(views(plain), config()))
    save("bf16", checkpoint({k: v.bfloat16() for k, v in plain.items()}, config()))
    save("f16", checkpoint({k: v.half() for k, v in plain.items()}, config()))
    save("f64", checkpoint({k: v.double() for k, v in plain.items()}, config()))
    shared = collections.OrderedDict(plain)
    shared["head.lm_head.weight"] = shared["embedding.wte.weight"]
    save("tied_shared", checkpoint(shared, config()))
    twice = collections.OrderedDict(plain)
    twice["head.lm_head.weight"] = plain["embedding.wte.weight"].clone()
    save("tied_twice", checkpoint(twice))
    untied = config()
    untied["task"]["tie_embedding"] = False
    save("untied", checkpoint(weights(untied=True), untied))
    gate = collections.OrderedDict()
    for k, v in plain.items():
        if "in_proj" in k:
            gate[k] = v[:4 * d].clone()
            gate[k.replace("in_proj", "fgate_proj")] = v[4 * d:].clone()
        else:
            gate[k] = v
    save("fgate", checkpoint(rename(gate, lambda k: "_orig_mod." + k), config()))
    save("compiled_layers", checkpoint(
        rename(plain, lambda k: k.replace("seq_layer.", "seq_layer._orig_mod.")), config()))
    save("attention", checkpoint(weights(re=False), config(joint_train=False)))
    ln = config()
    ln["model"]["backbone"]["ln"] = "layernorm"
    save("layernorm_swiglu", checkpoint(weights(layernorm=True, swiglu=True), ln))
    older = config("rat2gated", k_conv=4, chunk_size=16)
    older["model"]["backbone"]["prenorm"] = True
    save("easydict", checkpoint(plain, EasyDict(**older)))
    save("omegaconf", checkpoint(plain, OmegaConf.create(config())))
    save("parameters", checkpoint(
        collections.OrderedDict((k, torch.nn.Parameter(v)) for k, v in plain.items()), config()))
    save("metadata", checkpoint(
        rename(plain, lambda k: k), config(), resume_kwargs={"rng": torch.get_rng_state()[:16]}))
    save("adam_numbered", checkpoint(plain, config(), optimizer=optimizer(),
                                     lr_scheduler={"last_epoch": 7, "base_lrs": [0.0008]}))
    save("adam_named", checkpoint(plain, config(), optimizer=optimizer(names=True)))
    save("sgd", checkpoint(plain, config(), optimizer=optimizer(momentum=True)))
    save("protocol4", checkpoint(plain, config()), pickle_protocol=4)
    save("legacy", checkpoint(plain, config()), _use_new_zipfile_serialization=False)
    save("deflated", checkpoint(plain, config()))
    repack(f"{folder}/deflated.pth", zipfile.ZIP_DEFLATED)
    save("rezipped", checkpoint(plain, config()))
    repack(f"{folder}/rezipped.pth", zipfile.ZIP_STORED)
    # A call outside the list, inside an otherwise good archive.
    body = io.BytesIO()
    pickle.dump({"task": {}, "config": Evil()}, body, protocol=2)
    with zipfile.ZipFile(f"{folder}/evil.pth", "w", zipfile.ZIP_STORED) as z:
        z.writestr(zipfile.ZipInfo("evil/data.pkl"), body.getvalue())
        z.writestr(zipfile.ZipInfo("evil/version"), "3\n")


if __name__ == "__main__":
    main(sys.argv[1])
