"""Token ids, offsets and decoding against the authorities' goldens, for both models.

`tokenizers` decides on well-formed text, llama.cpp on the rest; see docs/tokenizers.md.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import km

GOLDEN = Path(__file__).parent.parent / "golden_data"
FIXTURES = {"smollm2": "model", "gemma3": "gemma"}
MARK = "\u2581"
# Bytes SmolLM2's vocabulary has no token for; those above 0xF4 and C0, C1 are in no UTF-8.
SMOLLM2_MISSING = bytes.fromhex("04061314161dc0c1f1f2f5f6f7f8f9fafbfcfdfeff")


@pytest.fixture(scope="session", params=list(FIXTURES))
def named(request: pytest.FixtureRequest) -> tuple[str, km.Model]:
    """A model and its name; skipped where its package is not installed."""
    return request.param, request.getfixturevalue(FIXTURES[request.param])


def golden(name: str) -> dict[str, Any]:
    """The goldens of one model."""
    return json.loads(gzip.decompress((GOLDEN / f"tokenizer_{name}.json.gz").read_bytes()))


def characters(text: str, tokens: list[km.model.Token]) -> list[int]:
    """Offsets in characters: a token that holds part of a character covers all of it."""
    first, after = [], []  # for each byte: its character, and the character after it
    for i, char in enumerate(text):
        n = len(char.encode())
        first += [i] * n
        after += [i + 1] * n
    out = []
    for token in tokens:
        start = first[token.start] if token.start < len(first) else len(text)
        out += [start, after[token.end - 1] if token.end > token.start else start]
    return out


# ---- the goldens ----


def test_texts(named: tuple[str, km.Model]) -> None:
    name, model = named
    cases = golden(name)["cases"]
    assert len(cases) >= 1000
    for case in cases:
        tokens = model.tokens(case["text"], bos=False, special=case["special"])
        assert [t.id for t in tokens] == case["ids"], case["text"]
        if case["offsets"] is not None:
            assert characters(case["text"], tokens) == case["offsets"], case["text"]


def test_bytes_that_are_not_utf8(named: tuple[str, km.Model]) -> None:
    name, model = named
    cases = golden(name)["bytes"]
    assert len(cases) >= 500
    for case in cases:
        text = bytes.fromhex(case["hex"])
        tokens = model.tokens(text, bos=False)
        assert [t.id for t in tokens] == case["ids"], text
        starts = [t.start for t in tokens]
        assert starts == sorted(starts)
        assert all(0 <= t.start <= t.end <= len(text) for t in tokens)


def test_every_code_point(named: tuple[str, km.Model]) -> None:
    name, model = named
    wrong = []
    for block, want in enumerate(golden(name)["code_points"]):
        points = (c for c in range(256 * block, 256 * block + 256) if not 0xD800 <= c < 0xE000)
        line = "".join(" ".join(map(str, model.encode(chr(c), bos=False))) + ";" for c in points)
        if hashlib.sha256(line.encode()).hexdigest()[:8] != want:
            wrong.append(f"U+{256 * block:04X}")
    assert wrong == []


# ---- decoding gives the text back ----

TEXT = st.text(max_size=60)
MIXED = st.lists(
    st.sampled_from([" ", "  ", "\n", "\t", "a", "the", "'s", "12", "é", "漢", "🙂", "\u0301", "<"])
    | st.characters(exclude_categories=["Cs"]),
    max_size=40,
).map("".join)


def expected_back(name: str, text: str) -> bytes:
    """What decoding gives: the text, save for what the vocabulary cannot say."""
    if name == "gemma3":
        return text.replace(MARK, " ").encode()
    return text.encode().translate(None, SMOLLM2_MISSING)


@settings(max_examples=400, deadline=None)
@given(text=TEXT | MIXED)
def test_decode_undoes_encode(named: tuple[str, km.Model], text: str) -> None:
    name, model = named
    ids = model.encode(text, bos=False)
    assert model.decode_bytes(ids) == expected_back(name, text)


@settings(max_examples=300, deadline=None)
@given(text=st.binary(max_size=40))
def test_any_bytes_encode(named: tuple[str, km.Model], text: bytes) -> None:
    _, model = named
    for token in model.tokens(text, bos=False):
        assert 0 <= token.start <= token.end <= len(text)
        assert model.decode_bytes([token.id]) == token.piece


@settings(max_examples=200, deadline=None)
@given(text=TEXT | MIXED)
def test_tokens_cover_the_text(named: tuple[str, km.Model], text: str) -> None:
    name, model = named
    raw = text.encode()
    if name == "smollm2" and any(b in SMOLLM2_MISSING for b in raw):
        return
    at = 0
    for token in model.tokens(raw, bos=False):
        assert token.start == at
        at = token.end
    assert at == len(raw)


# ---- documented results ----


def test_smollm2_leaves_out_bytes_without_a_token(model: km.Model) -> None:
    assert len(SMOLLM2_MISSING) == 21
    for byte in SMOLLM2_MISSING:
        if byte < 0x80:
            assert model.encode(bytes([byte]), bos=False) == []
            assert model.decode(model.encode(f"a{chr(byte)}b", bos=False)) == "ab"
    # U+40000 is F1 80 80 80: F1 is left out and the offsets show the gap
    assert [(t.start, t.end) for t in model.tokens("\U00040000", bos=False)] == [
        (1, 2),
        (2, 3),
        (3, 4),
    ]


def test_ill_formed_bytes_become_the_replacement_character_for_smollm2(model: km.Model) -> None:
    tokens = model.tokens(b"a\xffb", bos=False)
    assert [(t.start, t.end, t.piece) for t in tokens] == [
        (0, 1, b"a"),
        (1, 2, "\ufffd".encode()),
        (2, 3, b"b"),
    ]


def test_beyond_the_last_code_point(model: km.Model, gemma: km.Model) -> None:
    text = b"a\xf4\x90\x80\x80b"  # ends the process in llama.cpp
    assert model.decode(model.encode(text, bos=False)) == "a\ufffd\ufffd\ufffd\ufffdb"
    assert gemma.decode_bytes(gemma.encode(text, bos=False)) == text


def test_gemma_reads_the_mark_as_a_blank(gemma: km.Model) -> None:
    assert gemma.encode(f"a{MARK}b", bos=False) == gemma.encode("a b", bos=False)
    assert gemma.decode(gemma.encode(f"a{MARK}{MARK}b", bos=False)) == "a  b"


def test_gemma_keeps_ill_formed_bytes(gemma: km.Model) -> None:
    for text in (b"\xff", b"caf\xe9", b"\xed\xa0\x80", b"\xc0\x80x"):
        assert gemma.decode_bytes(gemma.encode(text, bos=False)) == text


# ---- bos and special tokens ----


def test_bos(model: km.Model, gemma: km.Model) -> None:
    assert gemma.encode("Hello")[0] == gemma.bos == 2
    assert gemma.encode("Hello", bos=False) == gemma.encode("Hello")[1:]
    assert model.encode("Hello") == model.encode("Hello", bos=False)
    assert model.encode("Hello", bos=True)[0] == model.bos == 1


def test_special_tokens(model: km.Model) -> None:
    text = "<|im_start|>user"
    assert model.encode(text, special=True)[0] == model.bos
    assert model.bos not in model.encode(text)
    ids = model.encode(text, special=True)
    assert model.decode(ids) == text and model.decode(ids, special=False) == "user"


def test_long_text_without_blanks(named: tuple[str, km.Model]) -> None:
    _, model = named
    text = "ab" * 500_000
    assert model.decode(model.encode(text, bos=False)) == text


# ---- both containers ----


def gguf_metadata(path: Path) -> dict[str, Any]:
    """The keys under tokenizer.ggml of a GGUF file."""
    data = path.read_bytes()
    formats = ["B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d"]
    at = 24

    def read(kind: int) -> Any:
        nonlocal at
        if kind == 8:
            (n,) = struct.unpack_from("<Q", data, at)
            at += 8 + n
            return data[at - n : at].decode("utf-8", "surrogateescape")
        if kind == 9:
            element, n = struct.unpack_from("<IQ", data, at)
            at += 12
            return [read(element) for _ in range(n)]
        (value,) = struct.unpack_from("<" + formats[kind], data, at)
        at += struct.calcsize(formats[kind])
        return value

    out = {}
    for _ in range(struct.unpack_from("<Q", data, 16)[0]):
        name = read(8)
        (kind,) = struct.unpack_from("<I", data, at)
        at += 4
        out[name.removeprefix("tokenizer.ggml.")] = read(kind)
    return out


def byte_level_json(keys: dict[str, Any]) -> dict[str, Any]:
    """SmolLM2's tokenizer.json."""
    digits = {"type": "Digits", "individual_digits": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, level]},
        "post_processor": None,
        "decoder": level,
        "model": {"merges": keys["merges"]},
    }


def implied_merges(tokens: list[str]) -> Iterator[tuple[tuple[int, int, int], list[str]]]:
    """Every way to join two tokens into a third: earlier tokens first, then longer left parts."""
    known = set(tokens)
    for i, token in enumerate(tokens):
        for cut in range(1, len(token)):
            if token[:cut] in known and token[cut:] in known:
                yield (i, -cut, cut - len(token)), [token[:cut], token[cut:]]


def marked_json(keys: dict[str, Any]) -> dict[str, Any]:
    """Gemma 3's tokenizer.json."""
    tokens = keys["tokens"]
    tokens[:] = [MARK * len(t) if t.strip(" ") == "" else t for t in tokens]
    blank, mark = {"String": " "}, {"String": MARK}
    replace = {"type": "Replace", "pattern": blank, "content": MARK}
    undo = {"type": "Replace", "pattern": mark, "content": " "}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<bos>"}}, {"Sequence": {"id": "A"}}],
        "special_tokens": {"<bos>": {"ids": [2]}},
    }
    return {
        "normalizer": replace,
        "pre_tokenizer": {"type": "Split", "pattern": blank, "behavior": "MergedWithPrevious"},
        "post_processor": template,
        "decoder": {
            "type": "Sequence",
            "decoders": [undo, {"type": "ByteFallback"}, {"type": "Fuse"}],
        },
        "model": {
            "byte_fallback": True,
            "fuse_unk": True,
            "unk_token": "<unk>",
            "merges": [pair for _, pair in sorted(implied_merges(tokens))],
        },
    }


def write_tokenizer(folder: Path, gguf: Path) -> int:
    """Write tokenizer.json and its config from a GGUF file; return the vocabulary's size."""
    keys = gguf_metadata(gguf)
    file = marked_json(keys) if keys["model"] == "llama" else byte_level_json(keys)
    tokens = keys["tokens"]
    file["model"] |= {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}}
    file["added_tokens"] = [
        {"id": i, "content": tokens[i], "special": kind == 3}
        for i, kind in enumerate(keys["token_type"])
        if kind in (3, 4) and tokens[i].strip(MARK)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(file))
    names = {f"{n}_token": tokens[keys[f"{k}_token_id"]] for n, k in IDS.items()}
    config = names | {"model_max_length": 10**30}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


IDS = {"bos": "bos", "eos": "eos", "unk": "unknown"}
WIDTH = 8


def write_weights(folder: Path, vocab: int) -> None:
    """Write the smallest Llama that has this vocabulary."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": WIDTH,
        "vocab_size": vocab,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    layer = "model.layers.0."
    square = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    square += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    shapes = {"model.embed_tokens.weight": [vocab, WIDTH], "model.norm.weight": [WIDTH]}
    shapes |= {f"{layer}{name}.weight": [WIDTH, WIDTH] for name in square}
    for norm in ("input_layernorm", "post_attention_layernorm"):
        shapes[f"{layer}{norm}.weight"] = [WIDTH]
    header, at = {}, 0
    for name, shape in shapes.items():
        n = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    weights = np.full(at // 4, 0.01, np.float32).tobytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + weights)


def test_a_folder_gives_the_same_ids(
    named: tuple[str, km.Model], tmp_path_factory: pytest.TempPathFactory
) -> None:
    name, model = named
    folder = tmp_path_factory.mktemp(name)
    write_weights(folder, write_tokenizer(folder, Path(model.path)))
    other = km.load(folder)
    assert (other.bos, other.eos) == (model.bos, model.eos)
    data = golden(name)
    for case in data["cases"]:
        special = case["special"]
        assert other.encode(case["text"], bos=False, special=special) == case["ids"], case["text"]
    for case in data["bytes"]:
        assert other.encode(bytes.fromhex(case["hex"]), bos=False) == case["ids"], case["hex"]
    assert other.encode("Hello") == model.encode("Hello")
    if name == "smollm2":
        assert other.tokenizer_hash == model.tokenizer_hash
