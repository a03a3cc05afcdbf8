"""The cases of the golden files. pats: [D, W, I] for all, a list of one per layer, or a list per
layer and kv head. What is left out: model.Settings."""

BIG = {"d": 128, "H": 1, "Hk": 1, "N": 1, "f": 64, "V": 61}
ATT = {"apply_re": False}

PASS = {
    # lengths around tiles, and patterns
    "pass-dense-t1": {"about": "a single token", "T": 1, "B": 2},
    "pass-dense-t5": {"about": "dense, all gradients whole", "T": 5, "B": 3, "cap": 8192,
                      "bf16": True},
    "pass-d8-t64": {"about": "D=8 at a tile's length", "T": 64, "pats": [8, 0, 0], "bf16": True},
    "pass-d8w3i2-t65": {"about": "all three sets, one above a tile", "T": 65, "pats": [8, 3, 2],
                        "cap": 8192, "bf16": True},
    "pass-layers-t130": {"about": "a pattern per layer", "T": 130, "pats": [[1, 0, 0], [16, 5, 1]],
                         "bf16": True},
    "pass-d64-t200": {"about": "D=64 over three tiles", "T": 200, "B": 1, "pats": [64, 0, 0],
                      "bf16": True},
    "pass-d16w40i20-t200": {"about": "window and initial wider than D", "T": 200, "B": 1,
                            "pats": [16, 40, 20]},
    "pass-short-t20": {"about": "T < D: the dilated set is empty", "T": 20,
                       "pats": [[64, 0, 0], [64, 2, 1]], "bf16": True},
    "pass-stream-t65": {"about": "no dilated set", "T": 65, "pats": [-1, 7, 4]},
    "pass-initial-t33": {"about": "D=-1 with I >= T is dense", "T": 33, "pats": [-1, 0, 33]},
    "pass-i5d16-t70": {"about": "initial only, first block partly initial", "T": 70,
                       "pats": [[16, 0, 5], [3, 1, 0]]},
    # heads
    "pass-heads-t66": {"about": "a pattern per head", "T": 66, "B": 1, "bf16": True,
                       "model": {"d": 64, "H": 4, "Hk": 4, "f": 48},
                       "pats": [[[1, 0, 0], [8, 0, 0], [16, 5, 2], [-1, 9, 3]],
                                [[4, 1, 0], [1, 0, 0], [-1, 3, 0], [64, 2, 1]]]},
    "pass-gqa-t66": {"about": "four heads, two of keys and values", "T": 66, "bf16": True,
                     "model": {"d": 64, "H": 4, "Hk": 2, "f": 48},
                     "pats": [[[8, 3, 1], [1, 0, 0]], [[16, 0, 0], [-1, 6, 2]]]},
    "pass-mqa-t40": {"about": "four heads, one of keys and values", "T": 40, "pats": [8, 2, 0],
                     "model": {"d": 64, "H": 4, "Hk": 1, "f": 48}},
    "pass-h24-t37": {"about": "odd sizes: h=24, f=100, V=67", "T": 37, "pats": [5, 2, 3],
                     "model": {"d": 48, "H": 2, "Hk": 2, "f": 100, "V": 67}, "bf16": True},
    "pass-h128-t66": {"about": "full head width", "T": 66, "B": 1, "model": BIG,
                      "pats": [16, 5, 0], "bf16": True, "scale": 0.15},
    "pass-h128-t5": {"about": "full head width, short", "T": 5, "B": 2, "model": BIG,
                     "pats": [1, 0, 0], "scale": 0.15},
    "pass-h128-t130": {"about": "two heads of full width", "T": 130, "B": 1, "scale": 0.1,
                       "model": BIG | {"d": 256, "H": 2, "Hk": 2}, "pats": [1, 0, 0], "bf16": True},
    "pass-h128gqa-t66": {"about": "full width, grouped, D=8", "T": 66, "B": 1, "scale": 0.1,
                         "model": BIG | {"d": 256, "H": 2, "Hk": 1}, "pats": [8, 0, 0]},
    # the rest of the network
    "pass-untied-t33": {"about": "a head of its own", "T": 33, "model": {"tied": False},
                        "pats": [4, 0, 0], "bf16": True},
    "pass-swiglu-t33": {"about": "swiglu", "T": 33, "model": {"act": "swiglu"}, "bf16": True},
    "pass-relu-t33": {"about": "relu", "T": 33, "model": {"act": "relu"}, "pats": [4, 1, 0]},
    "pass-relusquared-t33": {"about": "relu squared", "T": 33, "model": {"act": "relusquared"}},
    "pass-silu-t33": {"about": "silu", "T": 33, "model": {"act": "silu"}, "pats": [8, 0, 1]},
    "pass-fastgelu-t33": {"about": "tanh gelu", "T": 33, "model": {"act": "fastgelu"}},
    "pass-layernorm-t33": {"about": "LayerNorm with bias", "T": 33,
                           "model": {"norm": "layernorm"}, "pats": [8, 2, 2], "bf16": True},
    "pass-identity-t33": {"about": "the mixer left out", "T": 33, "model": {"cell": "identity"}},
    "pass-rope-t90": {"about": "another base and scale", "T": 90, "B": 1, "pats": [16, 4, 0],
                      "model": {"rope_base": 500000.0, "rope_scale": 4.0}},
    "pass-nolabels-t9": {"about": "no label counts: loss and gradients are 0", "T": 9,
                         "no_labels": True},
    "pass-mixed-t70": {"about": "untied, swiglu, LayerNorm, grouped, three layers", "T": 70, "B": 1,
                       "model": {"d": 64, "H": 4, "Hk": 2, "f": 40, "N": 3, "V": 97, "tied": False,
                                 "act": "swiglu", "norm": "layernorm"}, "bf16": True, "cap": 512,
                       "pats": [[1, 0, 0], [16, 3, 1], [64, 0, 0]], "scale": 0.2},
    # without the recurrence
    "pass-attention-t65": {"about": "attention only, dense", "T": 65, "model": ATT, "bf16": True},
    "pass-attention-d8-t130": {"about": "attention only, D=8 W=3", "T": 130, "B": 1, "model": ATT,
                               "pats": [8, 3, 0], "bf16": True},
    "pass-attention-gqa-t40": {"about": "attention only, grouped", "T": 40, "pats": [4, 0, 2],
                               "model": ATT | {"d": 64, "H": 4, "Hk": 2, "f": 48}},
    "pass-attention-nope-t33": {"about": "attention only, no rotation", "T": 33,
                                "model": ATT | {"rope": False}},
    "pass-attention-h128-t66": {"about": "attention only, full width", "T": 66, "B": 1,
                                "model": BIG | ATT, "scale": 0.15},
}

CACHE = {
    "cache-ratplus": {"about": "what layers keep, by pattern and length", "cases": [
        {"pats": [8, 0, 0], "T": 70}, {"pats": [8, 5, 3], "T": 70}, {"pats": [16, 20, 5], "T": 33},
        {"pats": [-1, 7, 4], "T": 65}, {"pats": [64, 2, 1], "T": 20}, {"pats": [1, 0, 0], "T": 12},
        {"pats": [8, 30, 2], "T": 17}, {"pats": [64, 0, 0], "T": 5}, {"pats": [8, 0, 0], "T": 1},
        {"pats": [[1, 0, 0], [16, 4, 0]], "T": 34}, {"pats": [4, 0, 6], "T": 24}]},
    "cache-heads": {"about": "per kv head, grouped", "model": {"d": 64, "H": 4, "Hk": 2, "f": 48},
                    "cases": [
                        {"pats": [[[8, 3, 1], [1, 0, 0]], [[16, 0, 0], [-1, 6, 2]]], "T": 30}]},
    "cache-attention": {"about": "without the recurrence", "model": ATT, "cases": [
        {"pats": [8, 5, 3], "T": 40}, {"pats": [1, 0, 0], "T": 9}]},
}

SMALL = {"batch": 2, "T": 40}
TRAIN = {
    "train-joint": SMALL | {"about": "joint training, D=8, accumulation of two", "bf16": True,
                            "pats": [8, 0, 0], "accumulation": 2},
    "train-plain": SMALL | {"about": "one pass, a pattern per layer, no clipping, constant rate",
                            "pats": [[1, 0, 0], [16, 5, 2]], "joint": False, "clip": 0,
                            "bf16": True, "optim": {"sched": "constant", "warmup": 0.0}},
    "train-adam": SMALL | {"about": "Adam, decay added to the gradient", "pats": [4, 0, 0],
                           "optim": {"name": "adam", "weight_decay": 0.01}},
    "train-sgd": SMALL | {"about": "SGD with momentum", "pats": [8, 2, 0],
                          "optim": {"name": "sgd", "lr": 0.05, "momentum": 0.9,
                                    "weight_decay": 0.01}},
    "train-mixed": SMALL | {"about": "untied, swiglu, LayerNorm, grouped", "pats": [8, 1, 1],
                            "model": {"d": 64, "H": 4, "Hk": 2, "f": 40, "tied": False,
                                      "act": "swiglu", "norm": "layernorm"}, "scale": 0.2,
                            "bf16": True},
    "train-attention": SMALL | {"about": "attention only, plain", "model": ATT, "joint": False},
    "train-h128": {"about": "full head width, joint, D=16", "batch": 1, "T": 66, "model": BIG,
                   "pats": [16, 0, 0], "scale": 0.15, "bf16": True},
    "train-d64": {"about": "joint, D=64 above and below T", "batch": 1, "T": 130,
                  "pats": [[64, 0, 0], [256, 0, 0]], "joint": True},
}

#             S, lr, eta_min, warmup, kind
SCHEDULES = [
    (1, 1e-3, 1e-6, 0.0, "cosine"), (1, 1e-3, 1e-6, 0.05, "cosine"), (2, 1e-3, 0.0, 0.5, "cosine"),
    (7, 8e-4, 1e-6, 0.3, "cosine"), (20, 8e-4, 1e-6, 0.05, "cosine"),
    (100, 8e-5, 1e-6, 0.0, "cosine"), (201, 6e-4, 6e-5, 0.1, "cosine"),
    (10, 2e-3, 0.0, 0.0, "constant"), (30, 2e-3, 1e-6, 0.1, "constant"),
]
