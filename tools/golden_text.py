#!/usr/bin/env python3
"""Writes tests/data/text/: tiny SentencePiece models and what SentencePiece makes of hard texts.

Needs the Python package sentencepiece (made with 0.2.3). Usage: python3 tools/golden_text.py
  llama.model    byte-pair, byte fallback, settings as LLaMA's: texts are encoded word by word
  unigram.model  unigram, white space removed, no byte fallback: texts are encoded whole
  cases.txt      a line a text: its bytes in hex (- when empty), then for each model its ids
"""
import io
import pathlib
import random

import sentencepiece as spm

SAMPLE = """\
The recurrence keeps what the attention would have to look up again, and the window keeps the rest.
In the beginning there were 1234 words, 56 numbers and 7,890 commas; then came e-mail, HTML & C++.
Der schnelle braune Fuchs springt über den faulen Hund. Größe, Straße, Übermut und Äpfel.
Le cœur a ses raisons que la raison ne connaît point. Où est-elle ? « Ici », dit-il.
El niño comió piñas mañana. ¿Cuántos años tiene? ¡Muchísimos!
Быстрая коричневая лиса прыгает через ленивую собаку. Съешь же ещё этих мягких булок.
我能吞下玻璃而不伤身体。 天地玄黄，宇宙洪荒。 日月盈昃，辰宿列张。
いろはにほへと ちりぬるを わかよたれそ つねならむ。
나는 유리를 먹을 수 있어요. 그래도 아프지 않아요.
أنا قادر على أكل الزجاج و هذا لا يؤلمني.
def main(argv):
    for i in range(10):
        print("value:", i * 2)   # two spaces, four spaces
""".splitlines()

TEXTS = [
    b"", b" ", b"  ", b"\n", b"a", b" a", b"a ", b"  a  b   c    ", b"The recurrence keeps",
    b"\n\n  The\n", b"line one\nline two\r\nline three\n\n\nfour", b"\t\ttabs\tand spaces \t ",
    "Größe über Äpfel".encode(), "我能吞下玻璃而不伤身体。".encode(), "いろは にほ".encode(),
    "나는 유리를".encode(), "أنا قادر على".encode(), "ещё этих мягких".encode(),
    "emoji 😀😃 and 👨‍👩‍👧 family".encode(), "\u2581literal\u2581mark \u2581 \u2581\u2581x".encode(),
    b"nul \x00 inside\x00", b"bad \xff\xfe bytes \xc3", b"\xe2\x82 cut \xf0\x9f\x98 short",
    b"\xed\xa0\x80 surrogate \xc0\xaf overlong \xf4\x90\x80\x80", "e\u0301 combining".encode(),
    "non\u00a0breaking\u3000wide \u200bzero".encode(), b"<s></s><unk> <0x0A> </s>",
    b"1234567890 3.14159 1,000,000", b"CamelCaseWords snake_case_words kebab-case",
    b"x" * 300, b"ab " * 200, b"    def main(argv):\n        print()\n", "…—“quotes”".encode(),
    b"http://example.org/path?x=1&y=%20", "\u2585\u2047 ⁇ reserved".encode(), b"\x01\x02\x7f",
]


def random_texts(rng, n):
    words = " ".join(SAMPLE).split(" ")
    for _ in range(n):
        parts = []
        for _ in range(rng.randint(1, 40)):
            parts.append(rng.choice(words).encode() if rng.random() < 0.8 else
                         bytes(rng.randrange(256) for _ in range(rng.randint(1, 3))))
            parts.append(rng.choice([b" ", b" ", b" ", b"  ", b"\n", b"", "\u2581".encode()]))
        yield b"".join(parts)


def train(**extra):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLE * 4), model_writer=model, unk_id=0, bos_id=1, eos_id=2,
        pad_id=-1, normalization_rule_name="identity", minloglevel=2, **extra)
    return model.getvalue()


def main():
    out = pathlib.Path(__file__).resolve().parent.parent / "tests/data/text"
    out.mkdir(parents=True, exist_ok=True)
    models = {
        "llama": train(model_type="bpe", vocab_size=700, byte_fallback=True, split_digits=True,
                       character_coverage=0.99995, remove_extra_whitespaces=False,
                       allow_whitespace_only_pieces=True),
        "unigram": train(model_type="unigram", vocab_size=420, character_coverage=0.98,
                         hard_vocab_limit=False),
    }
    processors = []
    for name, model in models.items():
        (out / f"{name}.model").write_bytes(model)
        processors.append(spm.SentencePieceProcessor(model_proto=model))
    with open(out / "cases.txt", "w", encoding="ascii") as f:
        for text in TEXTS + list(random_texts(random.Random(1), 60)):
            columns = [text.hex() or "-"]
            for p in processors:
                columns.append(" ".join(map(str, p.encode(text))) or "-")
            f.write("\t".join(columns) + "\n")


main()
