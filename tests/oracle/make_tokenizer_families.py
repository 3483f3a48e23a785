"""Write small tokenizers of each model family with the golden ids of the `tokenizers` package.

usage: make_tokenizer_families.py OUT.json.gz [TEXT ...]

Vocabularies of some 600 tokens are trained on the given texts and on the sentences of
make_tokenizer.py, between the normalizer, pre-tokenizer, decoder and post-processor that the
family's own tokenizer.json has. Each family holds
- tokenizer, config: what its tokenizer.json and tokenizer_config.json hold;
- gguf: the value of tokenizer.ggml.pre ("" for SentencePiece-style), null where GGUF cannot say it;
- cases: text, whether special tokens are parsed, ids, and for every second
  text that normalisation leaves alone the characters each token covers;
- code_points: as in make_tokenizer.py, of every 16th block and of those that form C concerns.
Needs tokenizers; the test-suite does not.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import pathlib
import random
import unicodedata
from collections.abc import Iterator
from typing import Any

import tokenizers
from make_tokenizer import MARKS, SENTENCES, control_texts, random_texts, run_texts
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    processors,
    trainers,
)
from tokenizers import pre_tokenizers as pre

MARK = "\u2581"
HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# Texts that form C changes: composed, reordered, singletons, Hangul, excluded from composition.
UNNORMALISED = [
    "cafe\u0301 cafe\u0301s e\u0301\u0301 \u0301e",
    "a\u030a\u0323 \u1ea1\u030a a\u0323\u030a A\u030angstro\u0308m \u212b \u212a \u2126",
    "q\u0307\u0323 q\u0323\u0307 \u1e0b\u0323 d\u0323\u0307 \u0344 \u0374\u037e\u0387",
    "\u1100\u1161\u11a8 \u1100\u1161 \uac00\u11a8 \u1112\u1161\u11ab\u1100 \u11a8\u1161",
    "\u0958\u0915\u093c \ufb1d\ufb2c \u2adc \u0f73\u0f75\u0f81 \u09c7\u09be \u0b47\u0b56",
    "\uf900\uf901\ufa0e\ufa10 \U0002f800 \U0001d15e\U0001d160 \U000110a5\U00011131\U00011127",
    "\u0061\u0315\u0300\u05ae\u0062 \u0061\u0300\u0315\u05ae\u0062 \u0071\u0334\u0345\u0301",
    "\u0f71\u0f72\u0f71\u0f74 \u0dd9\u0dca \u0dd9\u0dcf\u0dca \u1b05\u1b35 \U00011935\U00011930",
    "\u2000\u2001 \u2329\u232a \u1fef\u1ffd \u0340\u0341\u0343 `\u0300",
    "<|endoftext|>\u0338 =\u0338 <\u0338 >\u0338 <think>\u0338",
    "x" + "\u0301\u0323" * 40 + "y",
    "e\u0301" * 60,
    "\u1100\u1161\u11a8" * 40,
    "re\u0301sume\u0301\n\n  re\u0301\tn\u0303 12\u0308 .\u0308! '\u0301s 's\u0301",
]
SPECIAL_TEXTS = [
    "{a}",
    "x{a}y",
    " {a} {a}{a}\n",
    "{a}user\nHi there{b}\n",
    "{a}{b}{a}",
    "{b} {a}",
    "12{a}34 \t{b}  ",
    "  {a}  x",
    "{u}",
    "a{u}b",
    " {u} ",
    "{u}{u}",
    "{a}{u}{b}",
    "cafe\u0301{a}cafe\u0301{u}\u0301",
]


class Family:
    """One family: how its tokenizer is put together and trained."""

    def __init__(
        self,
        kind: str,
        normalizer: Any,
        pre_tokenizer: Any,
        special: list[str],
        user: list[AddedToken] | None = None,
        *,
        bos: str | None = None,
        gguf: str | None = None,
        ignore_merges: bool = False,
        strip: bool = False,
        byte_level_post: bool = False,
    ) -> None:
        self.kind, self.normalizer, self.pre_tokenizer = kind, normalizer, pre_tokenizer
        self.special, self.user = special, user or []
        self.bos, self.gguf = bos, gguf
        self.ignore_merges, self.strip = ignore_merges, strip
        self.byte_level_post = byte_level_post

    def train(self, corpus: list[str]) -> Tokenizer:
        """Return the tokenizer."""
        tokenizer = self._marked(corpus) if self.kind == "marked" else self._bytes(corpus)
        if self.bos is not None:
            bos = tokenizer.token_to_id(self.bos)
            template = processors.TemplateProcessing(
                single=f"{self.bos} $A", special_tokens=[(self.bos, bos)]
            )
            level = processors.ByteLevel(trim_offsets=False)
            tokenizer.post_processor = (
                processors.Sequence([level, template]) if self.byte_level_post else template
            )
        elif self.byte_level_post:
            tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        return tokenizer

    def _bytes(self, corpus: list[str]) -> Tokenizer:
        tokenizer = Tokenizer(models.BPE(ignore_merges=self.ignore_merges))
        if self.normalizer is not None:
            tokenizer.normalizer = self.normalizer
        tokenizer.pre_tokenizer = self.pre_tokenizer
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=600, initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(corpus, trainer)
        tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in self.special])
        tokenizer.add_tokens(self.user)
        return tokenizer

    def _marked(self, corpus: list[str]) -> Tokenizer:
        trained = Tokenizer(models.BPE())
        trained.normalizer = normalizers.Replace(" ", MARK)
        trainer = trainers.BpeTrainer(vocab_size=500, limit_alphabet=120, show_progress=False)
        trained.train_from_iterator([w for t in corpus for w in t.split()], trainer)
        pieces = sorted(trained.get_vocab(), key=trained.get_vocab().get)  # type: ignore[arg-type]
        pieces += [MARK * n for n in (2, 4, 8)] + [MARK + w for w in ("the", "a", "is", "of")]
        pieces = [*self.special, *(f"<0x{b:02X}>" for b in range(256)), MARK, *pieces]
        vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
        model = models.BPE(
            vocab, implied_merges(vocab), unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
        tokenizer = Tokenizer(model)
        if self.normalizer is not None:
            tokenizer.normalizer = self.normalizer
        if self.pre_tokenizer is not None:
            tokenizer.pre_tokenizer = self.pre_tokenizer
        steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
        steps += [decoders.Strip(" ", 1, 0)] if self.strip else []
        tokenizer.decoder = decoders.Sequence(steps)
        tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in self.special])
        tokenizer.add_tokens(self.user)
        return tokenizer


def implied_merges(vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Return every way to join two pieces into a third, as a SentencePiece model has them."""
    found = [
        ((i, -cut, cut - len(piece)), (piece[:cut], piece[cut:]))
        for piece, i in vocab.items()
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab and not piece.startswith("<")
    ]
    return [pair for _, pair in sorted(found)]


def split(expression: str) -> pre.Sequence:
    """Return the pre-tokenizer that cuts by an expression, then goes to bytes."""
    cut = pre.Split(Regex(expression), "isolated", invert=False)
    return pre.Sequence([cut, pre.ByteLevel(add_prefix_space=False, use_regex=False)])


def families() -> dict[str, Family]:
    """Return every family by name."""
    level = pre.ByteLevel(add_prefix_space=False)
    blanks = [AddedToken(" " * n, normalized=True) for n in (24, 12, 8, 5, 4, 3, 2)]
    plain = AddedToken("<think>", normalized=False)
    prepend = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    replace = normalizers.Replace(" ", MARK)
    marks = ["<unk>", "<s>", "</s>"]
    gemma = [*marks[:1], "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    user = [AddedToken("[TOOL]", normalized=False)]

    def metaspace(scheme: str) -> pre.PreTokenizer:
        return pre.Metaspace(replacement=MARK, prepend_scheme=scheme, split=False)

    return {
        "gpt2": Family("bytes", None, level, ["<|endoftext|>"], gguf="gpt-2", byte_level_post=True),
        "gpt_neox": Family(
            "bytes",
            normalizers.NFC(),
            level,
            ["<|endoftext|>", "<|padding|>"],
            blanks,
            gguf="olmo",
            byte_level_post=True,
        ),
        "qwen2": Family(
            "bytes",
            normalizers.NFC(),
            split(HEAD + TAIL),
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            [plain],
            gguf="qwen2",
            byte_level_post=True,
        ),
        "llama3": Family(
            "bytes",
            None,
            split(HEAD + "{1,3}" + TAIL),
            ["<|begin_of_text|>", "<|eot_id|>"],
            bos="<|begin_of_text|>",
            gguf="llama-bpe",
            ignore_merges=True,
            byte_level_post=True,
        ),
        "llama2": Family("marked", prepend, None, marks, user, bos="<s>", gguf="", strip=True),
        "mistral": Family("marked", None, metaspace("first"), marks, user, bos="<s>", strip=True),
        "metaspace_always": Family("marked", None, metaspace("always"), marks, user, strip=True),
        "metaspace_never": Family(
            "marked", None, metaspace("never"), marks, [AddedToken("[TOOL]", normalized=True)]
        ),
        "gemma2": Family(
            "marked",
            replace,
            pre.Split(" ", "merged_with_previous"),
            gemma,
            user,
            bos="<bos>",
            gguf="",
        ),
    }


def texts(family: Family) -> Iterator[tuple[str, bool]]:
    """Yield every text with whether special tokens are parsed."""
    plain = ["", *SENTENCES, *MARKS, *UNNORMALISED, *list(control_texts())[::3]]
    plain += [f" {s}" for s in UNNORMALISED + SENTENCES[:12]]
    plain += [t for t in run_texts() if len(t) < 70][::5]
    plain += [unicodedata.normalize("NFD", s) for s in SENTENCES[4:34]]
    for text in plain:
        yield text, False
    a, b = family.special[0], family.special[-1]
    user = family.user[0].content if family.user else b
    for text in SPECIAL_TEXTS:
        filled = text.replace("{a}", a).replace("{b}", b).replace("{u}", user)
        yield filled, True
        yield filled, False
    rng = random.Random(11)
    pool = [s for t in UNNORMALISED for s in t.split(" ")] + [a, b, user, " ", "  ", "e", "\u0301"]
    for i in range(90):
        yield rng.choice(["", " "]).join(rng.choices(pool, k=rng.randint(1, 12))), i % 2 == 0
    yield from ((text, i % 3 == 0) for i, text in enumerate(random_texts(90)))


def golden_cases(tokenizer: Tokenizer, family: Family) -> list[dict[str, Any]]:
    """Return ids and offsets of every text."""
    normalises = isinstance(family.normalizer, normalizers.NFC)
    cases = []
    for i, (text, special) in enumerate(dict.fromkeys(texts(family))):
        tokenizer.encode_special_tokens = not special
        encoding = tokenizer.encode(text, add_special_tokens=False)
        kept = not normalises or tokenizer.normalizer.normalize_str(text) == text
        kept = kept and i % 2 == 0
        offsets = [x for pair in encoding.offsets for x in pair]
        case = {"text": text, "special": special, "ids": encoding.ids}
        cases.append(case | {"offsets": offsets if kept else None})
    return cases


def golden_code_points(tokenizer: Tokenizer) -> dict[str, str]:
    """Return a short hash of the ids of each chosen block of 256 code points, beside a letter."""
    tokenizer.encode_special_tokens = True
    blocks = {}
    for first in range(0, 0x110000, 256):
        chars = [chr(c) for c in range(first, first + 256) if not 0xD800 <= c < 0xE000]
        concerned = any(
            unicodedata.normalize("NFD", c) != c or unicodedata.combining(c) for c in chars
        )
        if not chars or not (concerned or first % 4096 == 0) or 0xAD00 <= first < 0xD700:
            continue
        ids = [
            e.ids
            for e in tokenizer.encode_batch([f"a{c}" for c in chars], add_special_tokens=False)
        ]
        line = "".join(" ".join(map(str, one)) + ";" for one in ids)
        blocks[f"{first:X}"] = hashlib.sha256(line.encode()).hexdigest()[:8]
    return blocks


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path, nargs="*")
    arguments = parser.parse_args()
    corpus = [*SENTENCES, *(path.read_text() for path in arguments.text)]
    golden: dict[str, Any] = {"made_with": {"tokenizers": tokenizers.__version__}, "families": {}}
    for name, family in families().items():
        tokenizer = family.train(corpus)
        unk = "<unk>" if family.kind == "marked" else None
        config = {"bos_token": family.bos, "eos_token": family.special[-1], "unk_token": unk}
        golden["families"][name] = {
            "tokenizer": json.loads(tokenizer.to_str()),
            "config": config,
            "gguf": family.gguf,
            "with_bos": tokenizer.encode("Hello world").ids,
            "cases": golden_cases(tokenizer, family),
            "code_points": golden_code_points(tokenizer),
        }
    text = json.dumps(golden, separators=(",", ":"))
    arguments.out.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    for name, family in golden["families"].items():
        print(name, len(family["cases"]), "texts", len(family["code_points"]), "blocks")


if __name__ == "__main__":
    main()
