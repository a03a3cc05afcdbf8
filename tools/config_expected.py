#!/usr/bin/env python3
"""Makes tests/data/config/expected.json: what Hydra composes of many small trees and words.

    python3 tools/config_expected.py            needs hydra-core 1.3 and a checkout

One line is one case: {"files": {path: text} or "tree": "configs", "words": [...], and "value": the
resolved configuration, or "error": true}. Values that are not finite are null. What we refuse on
purpose (functions, tags, lists of choices, ...) is not here but in tests/test_config_bad.c.
"""
import json
import math
import os
import tempfile
import warnings

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

warnings.simplefilter("ignore")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OmegaConf.register_new_resolver("eval", eval)
OmegaConf.register_new_resolver("int", int)


def clean(x):
    if isinstance(x, float) and not math.isfinite(x):
        return None
    if isinstance(x, dict):
        return {json.dumps(k) if isinstance(k, bool) else str(k): clean(v) for k, v in x.items()}
    if isinstance(x, list):
        return [clean(v) for v in x]
    return x


def run(folder, words):
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=folder, version_base="1.3"):
        try:
            return {"value": clean(OmegaConf.to_container(compose("config", words), resolve=True))}
        except Exception:  # any refusal of Hydra's
            return {"error": True}


def case(files, words):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
        return {"files": files, "words": words, **run(folder, words)}


def words_of(text):
    return text.split()


SCALARS = words_of("""
1 -1 +1 0 00 010 08 0777 0o10 0x1F 0X1F 0x 0xg 0b11 0b2 0b 1_0 1__0 _1 1_ 1:30 1:30:15 1:60 01:30
1:5 -1:30 1:30.5 0:30 .inf inf -.inf +.inf .Inf .INF .nan .NaN nan NaN true True TRUE tRuE yes Yes YES
yES no NO on On ON off y Y n N null Null NULL nULL ~ none 1e3 1e-3 8e-5 8.0e-5 1.0e+5 1. .5 +.5 -.5
1.e3 .5e3 .5e-3 1e 1_0.5 1.5_0 1_0e1 0.1 00.1 01e3 1.2.3 2001-01-01 12:30:45 190:20:30.15 abc a-b a/b
a:b $x x,y - 9223372036854775807 -9223372036854775808 1e400 1e-400 -0 -0.0 0xFF_FF 0b1010_0001 0_7
1.5e+3 -1.5E-3 +1.5 .1_0 1_000_000 685.230_15e+03 "x" 'x' "1" '1' "true" "" '' @a `a %a
""") + ["[1, 2]", "[]", "{}", "{a: 1}", "[a, [b, c]]", '"a\\nb"', "'it''s'", "|\n  a\n  b\n",
        ">\n  a\n  b\n", "|-\n  a", "a b c", "a # c", "a#b", '"a: b"', "[1,\n  2]", '"\\x41"', "é",
        "[yes, no, 010, 1:30]", "{null: 1}", "{a: 1, a: 2}", "*a", "[1", "{a", "- 1"]

VALUES = words_of("""
1 -1 +1 0 00 010 0x10 1_0 1__0 _1 1_ 1:30 .inf inf -inf Inf nan NaN .nan true True tRuE false null Null
none on off yes no y n ~ 1e3 1e-3 8e-5 1.0e-6 1. .5 +.5 1.e3 1e 1e+ 1_0.5 1.5_0 0.1 00.1 01e3 abc a-b
a.b a/b $x a@b a%b a*b a?b a|b a:b a=b {a:1} {a:1,b:2} {1:4,64:12} [1,64] [1,a,[2,3]] [] {} [1,] [,]
{a} {a:} {true:1} 'x' "x" 'a,b' "a'b" 'a"b' ${a.b} x${a.b}y ${a.c} ${a.d} [${a.b},2] ${nope} !x #x <x
ö "ö" \\( \\, \\\\ \\= a\\=b 1:2:3 1e400 -0 -0.0 0o10 0b11 nullx 1x -- + . / * 1.2.3 [null,true,1.5]
{null:1} {1.5:2} {a.b:1} {"a":1} [{a:1},{b:2}] ${oc.select:zz,7} ${oc.select:a.b,7} ${int:3.7}
""") + ["a b", " a", "a ", "[ 1 , 2 ]", "{ a : 1 , b : 2 }", '"a b"', "1 2", "'a' 'b'", '"${a.b} x"',
        "${ a.b }", "${.k}", "${a.b", "${}", '${eval:"1+2"}', '${eval:"[1,64]*3"}', "${eval:2 * 3}",
        '${eval:"2**10"}', '${eval:"10 // 3"}', '${eval:"-7 // 2"}', '${eval:"-7 % 3"}',
        '${eval:"7.5 % 2"}', '${eval:"2**-1"}', '${eval:"-2**2"}', '${eval:"1/4"}',
        '${eval:"(1+2)*3"}', '${eval:"[1]+[2]"}', '${eval:"1e3"}', '${eval:"010"}', '${eval:"1/0"}',
        '${eval:"[1,[2,3]]*2"}', '${eval:""}', '${eval:"-7//2.0"}', '${eval:"110*10**9"}',
        "${oc.select:a.zz,[1,2]}", "${oc.select:n,5}", '${int:" 12 "}', "${a.c.0}", "${a.c[1]}",
        "${a[b]}", "x${n}", "${a.c}x", "x${a.d}", r"\${a.b}", r"x\\${a.b}", r"'\${a.b}'"]

WORDS = [words_of(w) for w in """
a.b=2; a.zz=1; zz=1; +zz=1; +a.zz=1; ++zz=1; ++a.b=5; +a.b=5; ~a.b; ~a; ~zz; ~a.b=1; ~a.b=2; +q.r.s=1
q.r=1; a={b:3}; a={zz:3}; +a={zz:3}; a=5; a.b.c=5; +a.b.c=5; a.c.0=9; a.c.5=9; n.x=1; +n.x=1; n={x:1}
+n=5; a.d=null; k; =5; k=1 k=2; a.b=1 ~a.b; ~a.b +a.b=7; k=; a..b=1; .a=1; a.=1; k@x=1; a/b=1
+x.y=${k}; +x.y=${..k}; k=${k}; k=${n}; a.b=${a.d}; +w=${a} a.b=9; a.d=${a.zz}; k=1,64
""".replace("\n", ";").split(";") if w.strip()]

DOCUMENTS = ["", "---\na: 1\n", "a: 1\n---\nb: 2\n", "null\n", "- 1\n", "5\n", "a: 1\na: 2\n",
             "a: &x {b: 1}\nc: *x\n", "a:\n  b: 1\n c: 2\n", "a: b: c\n", "a: [1,2\nb: 3\n", "a:\nb:\n",
             "a: \n  - 1\n  - x: 1\n    y: 2\n", "a: ${b}\nb: ${a}\n", "a: ${a}\n",
             "a: {b: ${c}}\nc: ${a}\n", "a: ${b.c}\nb: {c: ${d}}\nd: 5\n",
             'a: {b: 1, c: ${.b}, d: {e: ${..b}, f: "${..c}x"}}\n', "a: {b: ${...x}}\nx: 1\n",
             "a: {b: ${..x}}\nx: 1\n", 'a: [1, "${.0}", "${..b}"]\nb: 2\n',
             "a: ${b}\nb: {y: ${.z}, z: 3}\nc: ${a.y}\n", 'a: ${b}x\nb: [1, "q", 1.5, null, true]\n',
             'a: "${b} and ${c}"\nb: true\nc: null\n', 'a: ${eval:"${b} * 2"}\nb: [1, 2]\n',
             "a: ${eval:${b} // ${.c}}\nb: 7\nc: 2\n", "a: ${oc.select:b.c,${d}}\nd: 4\n",
             'a: {b: "${oc.select:..d,1}"}\nd: 5\n', "a: \\${b}\n", 'a: "\\\\${b}"\nb: 2\n',
             "a: ${b.${c}}\nb: {x: 1}\nc: x\n", "a: ${b.2}\nb: [7]\n", "a: ${b\n", "a: ${int:${b}}\nb: 2.7\n",
             "a: ${now:xyz}\n", "a: {b: {c: ${d}}}\nd: ${a.e}\n",
             "a: ${b}\nb: ${c}\nc: ${d}\nd: {x: ${..e}}\ne: 4\n",
             "a: {x: {p: ${..y}}, y: 2}\nb: {x: ${a.x}, y: 3}\n", 'a: "${eval:1+1}${eval:2+2}"\n',
             'a: ${eval:"1 + ${b.c}"}\nb: {c: ${d}}\nd: ${e}\ne: 4\n', "a: ${oc.select:b,x y}\n"]

GROUPS = {
    "config.yaml": "defaults:\n  - _self_\n  - experiment: x\nbase: b\nm: {k: 0, init: {a: 1, b: 2}}\n",
    "experiment/x.yaml": "# @package _global_\ndefaults:\n  - /data: d/one\n  - /m/layer@m.cell: rat\n"
                         "  - /m/layer@m.hid: ffn\n  - /m/pe@m.pe: rope\n  - /opt/o: sgd\n  - _self_\n"
                         "m:\n  w: 4\n  cell: {h: 2}\ndata: {n: 5}\n",
    "data/d/one.yaml": '_name_: one\nn: 1\ntr: {n: "${..n}", nm: "${.._name_}"}\n',
    "data/d/two.yaml": "_name_: two\nn: 2\n",
    "m/layer/rat.yaml": "_name_: rat\nw: ${m.w}\nh: 1\nq: ${eval:${.w} // ${.h}}\ninit: ${m.init}\n"
                        "sel: ${oc.select:m.pe.base,null}\n",
    "m/layer/ffn.yaml": '_name_: ffn\nf: ${eval:"4 * ${m.w}"}\n',
    "m/layer/id.yaml": "_name_: id\n",
    "m/pe/rope.yaml": "_name_: rope\nbase: 10000\n",
    "opt/o/sgd.yaml": "_name_: sgd\nlr: 0.1\n",
    "opt/o/adam.yaml": "_name_: adam\nbetas: [1, 2]\n",
}
GROUP_WORDS = [words_of(w) for w in """
;opt/o=adam;m/layer@m.cell=id;m/layer=id;m/layer@m.zz=id;experiment=y;~experiment;~experiment=x
~experiment=z;~opt/o;~m/layer@m.cell;+m/layer@m.new=ffn;+m/layer=ffn;++opt/o=adam;opt/o=3;data=d/two
data.n=9;data={n:3};data={zz:3};m.cell.init.a=5;m.cell.init={a:5};+m.cell.init={c:5};+m.cell.init.c=5
m.init.a=7;m.cell.w=10;m.w=10;m.cell={h:3};m.cell=5;m.cell=null;opt/o=adam opt.o.betas=[3];opt/oo=adam
opt/o=adam opt.o.lr=3;nogroup@x=adam;opt/o@zz=adam;data=d/zz;data=../config;opt/o=adam opt/o=sgd
m/pe@m.pe=rope m.pe.base=5;+base2=${m.cell.q};+l=${m.cell};+data=d/two
""".replace("\n", ";").split(";")]
EXPERIMENTS = [
    "defaults:\n  - /data: d/one\n  - /data: d/two\n", "defaults:\n  - /data: d/one\n  - /data@e: d/two\nq: 1\n",
    "defaults:\n  - /opt/o@_global_: sgd\nq: 1\n", "defaults:\n  - /opt/o@_global_.z.y: sgd\nq: 1\n",
    "defaults:\n  - _self_\n  - /opt/o: sgd\nopt: {o: {lr: 5}}\n", "defaults:\n  - /opt/o: sgd\nopt: {o: {lr: 5}}\n",
    "defaults:\n  - _self_\n  - _self_\nq: 1\n", "defaults:\n  - /opt/o: null\nq: 1\n",
    "defaults:\n  - /opt/o: ???\nq: 1\n", "defaults:\n  - /opt/o: nope\nq: 1\n", "defaults: 5\nq: 1\n",
    "defaults: []\nq: 1\n", "defaults:\n  - 5\nq: 1\n", "defaults:\n  - {a: b, c: d}\nq: 1\n",
    "defaults:\n  - y\n  - sub: z\nq: 1\n", "defaults:\n  - /data: d/n\nq: 1\n", "m: null\n", "m: {init: 3}\n",
    "m: {init: {c: 3}}\nz: ${m.init}\n", "m: {k: {z: 1}}\n", "defaults:\n  - x\n",
    "defaults:\n  - /m/layer@m.cell: rat\nm: {w: 4, cell: {init: {b: 9, c: 3}}}\n",
]
FURTHER = {"experiment/y.yaml": "q: 0\nr: 2\n", "experiment/sub/z.yaml": "w: 3\n",
           "data/d/n.yaml": "defaults:\n  - /opt/o: sgd\n  - k: v\nx: 1\n", "data/k/v.yaml": "vv: 1\n"}
HEADERS = ["defaults:\n  - /data: d/one\nq: 1\n", "q: 1\n", "# @package foo.bar\nq: 1\n",
           "# @package _global_.foo\ndefaults:\n  - /data: d/one\nq: 1\n", "#@package _global_\nq: 1\n",
           "\n# a comment\n# @package _global_\nq: 1\n", "q: 1\n# @package _global_\n"]
OURS = [words_of(w) for w in """
experiment=fineweb_edu/ratplus-1b;experiment=fineweb_adapt/7b/ratplus-7b-d16w256
experiment=ruler_sft/basic-1b data._name_=niah_multikey_3
experiment=fineweb_edu/attention-3b optim/optimizer=sgd model/backbone/layer@model.backbone.seq_cell=identity
experiment=fineweb_edu/ratplus-1b trainer.dtype=float32 trainer.pretrained_path=ratplus.pth trainer.load_checkpoint=false data.vocab_size=97 data.seq_len=96 data.batch_size=2 data.global_batch_size=4 data.train.tokenized_file_path=train.bin data.train.limit_tokens=7680 data.val.tokenized_file_path=val.bin data.val.limit_tokens=-1 trainer.log_interval=1 model.backbone.num_layers=3 model.backbone.d_model=64 model.backbone.seq_cell.d_head=16 model.backbone.seq_cell.dilation_size=8
experiment=cpu/ratplus-tiny model.backbone.seq_cell.dilation_size=${eval:"[1,64]*3"} ~trainer.fsdp +note=x
experiment=cpu/ratplus-tiny model/embedding@model.embedding.pe=empty model.backbone.init._name_=xavier
""".strip().replace("\n", ";").split(";")]


def main():
    base = {"config.yaml": "k: 0\na: {b: 1, c: [1, 2, 3], d: {e: x}}\nn: null\n"}
    cases = [case({"config.yaml": "k: " + s + "\nz: 1\n"}, []) for s in SCALARS]
    cases += [case(base, ["k=" + v]) for v in VALUES] + [case(base, w) for w in WORDS]
    cases += [case({"config.yaml": d}, []) for d in DOCUMENTS]
    cases += [case(GROUPS, w) for w in GROUP_WORDS]
    small = {k: v for k, v in GROUPS.items() if not k.startswith("experiment")}
    for text in ["# @package _global_\n" + e for e in EXPERIMENTS] + HEADERS:
        cases.append(case({**small, **FURTHER, "experiment/x.yaml": text}, []))
    for w in OURS:
        cases.append({"tree": "configs", "words": w, **run(os.path.join(ROOT, "configs"), w)})
    out = os.path.join(ROOT, "tests", "data", "config", "expected.json")
    os.makedirs(os.path.dirname(out), exist_ok=True)
    with open(out, "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "refused by Hydra")


if __name__ == "__main__":
    main()
