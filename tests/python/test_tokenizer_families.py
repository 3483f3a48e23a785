"""Token ids of every family of models, from tokenizer.json and from GGUF, against `tokenizers`.

The small tokenizers and their goldens are made by tests/oracle/make_tokenizer_families.py.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from test_tokenizer import GOLDEN, MARK, characters, write_weights

import km

FAMILIES = json.loads(gzip.decompress((GOLDEN / "tokenizer_families.json.gz").read_bytes()))[
    "families"
]
NORMALISING = ["gpt_neox", "qwen2"]
WITH_PREFIX = ["llama2", "mistral", "metaspace_always"]
IN_GGUF = [name for name, family in FAMILIES.items() if family["gguf"] is not None]


def pieces(family: dict[str, Any]) -> list[str]:
    """The tokens by id."""
    ids = dict(family["tokenizer"]["model"]["vocab"])
    ids |= {token["content"]: token["id"] for token in family["tokenizer"]["added_tokens"]}
    return sorted(ids, key=ids.__getitem__)


def write_folder(folder: Path, family: dict[str, Any]) -> Path:
    """A model folder with the family's tokenizer."""
    (folder / "tokenizer.json").write_text(json.dumps(family["tokenizer"]))
    (folder / "tokenizer_config.json").write_text(json.dumps(family["config"]))
    write_weights(folder, len(pieces(family)))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, km.Model]:
    """A model of each family."""
    return {
        name: km.load(write_folder(tmp_path_factory.mktemp(name), family))
        for name, family in FAMILIES.items()
    }


def check_cases(model: km.Model, name: str) -> None:
    for case in FAMILIES[name]["cases"]:
        tokens = model.tokens(case["text"], bos=False, special=case["special"])
        assert [t.id for t in tokens] == case["ids"], case["text"]
        if case["offsets"] is not None:
            got = characters(case["text"], tokens)
            # the blank that is put first stands for no bytes; `tokenizers` gives it a character
            want = list(case["offsets"])
            for i, token in enumerate(tokens):
                if name in WITH_PREFIX and token.start == token.end:
                    want[2 * i : 2 * i + 2] = got[2 * i : 2 * i + 2]
                    assert token.piece == b" "
            assert got == want, case["text"]


@pytest.mark.parametrize("name", FAMILIES)
def test_texts(folders: dict[str, km.Model], name: str) -> None:
    assert len(FAMILIES[name]["cases"]) > 300
    check_cases(folders[name], name)
    assert folders[name].encode("Hello world") == FAMILIES[name]["with_bos"]


@pytest.mark.parametrize("name", FAMILIES)
def test_code_points(folders: dict[str, km.Model], name: str) -> None:
    wrong = []
    for block, want in FAMILIES[name]["code_points"].items():
        first = int(block, 16)
        points = (c for c in range(first, first + 256) if not 0xD800 <= c < 0xE000)
        encode = folders[name].encode
        line = "".join(" ".join(map(str, encode(f"a{chr(c)}", bos=False))) + ";" for c in points)
        if hashlib.sha256(line.encode()).hexdigest()[:8] != want:
            wrong.append(f"U+{block}")
    assert wrong == []


@pytest.mark.parametrize("name", NORMALISING)
def test_tokens_cover_text_that_is_normalised(folders: dict[str, km.Model], name: str) -> None:
    for case in FAMILIES[name]["cases"]:
        raw = case["text"].encode()
        at = 0
        for token in folders[name].tokens(raw, bos=False, special=case["special"]):
            # the tokens of one changed stretch all cover it
            assert token.start <= at <= token.end, case["text"]
            at = max(at, token.end)
        assert at == len(raw), case["text"]


@pytest.mark.parametrize("name", NORMALISING)
def test_decoding_gives_form_c(folders: dict[str, km.Model], name: str) -> None:
    for text in ("cafe\u0301 \u1100\u1161\u11a8", "q\u0307\u0323", "\u212b\u2126"):
        model = folders[name]
        assert model.decode(model.encode(text)) == unicodedata.normalize("NFC", text)
        spans = [(t.start, t.end) for t in model.tokens("xe\u0301y")]
        assert spans[0][0] == 0 and spans[-1][1] == 5 and (1, 4) in spans


# ---- the same tokenizers in GGUF ----


def string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(name: str, value: Any) -> bytes:
    """One key: str, bool, int, or a list of str, int or float."""
    kinds: dict[type, tuple[int, str]] = {bool: (7, "?"), int: (5, "i"), float: (6, "f")}
    if isinstance(value, str):
        return string(name) + struct.pack("<I", 8) + string(value)
    if not isinstance(value, list):
        kind, letter = kinds[type(value)]
        return string(name) + struct.pack(f"<I{letter}", kind, value)
    if isinstance(value[0], str):
        kind, raw = 8, b"".join(map(string, value))
    else:
        kind, letter = kinds[type(value[0])]
        raw = struct.pack(f"<{len(value)}{letter}", *value)
    return string(name) + struct.pack("<IIQ", 9, kind, len(value)) + raw


def token_type(family: dict[str, Any], piece: str, added: dict[str, bool]) -> int:
    """GGUF's number for what kind of token it is."""
    if piece in added:
        return 2 if piece == "<unk>" else 3 if added[piece] else 4
    return 6 if family["gguf"] == "" and piece.startswith("<0x") else 1


def write_gguf(path: Path, family: dict[str, Any]) -> Path:
    """The smallest llama with the family's tokenizer, as llama.cpp's converter writes it."""
    tokens = pieces(family)
    added = {t["content"]: t["special"] for t in family["tokenizer"]["added_tokens"]}
    marked = family["gguf"] == ""
    keys: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.embedding_length": 8,
        "llama.feed_forward_length": 8,
        "llama.attention.head_count": 1,
        "llama.context_length": 64,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "llama" if marked else "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [token_type(family, t, added) for t in tokens],
    }
    if marked:
        keys["tokenizer.ggml.scores"] = [-float(i) for i in range(len(tokens))]
        keys["tokenizer.ggml.unknown_token_id"] = tokens.index("<unk>")
        prefix = family["tokenizer"]["normalizer"]["type"] == "Sequence"
        keys["tokenizer.ggml.add_space_prefix"] = prefix
    else:
        keys["tokenizer.ggml.pre"] = family["gguf"]
        merges = family["tokenizer"]["model"]["merges"]
        keys["tokenizer.ggml.merges"] = [" ".join(pair) for pair in merges]
    if (bos := family["config"]["bos_token"]) is not None:
        keys["tokenizer.ggml.bos_token_id"] = tokens.index(bos)
    shapes = {"token_embd": [len(tokens), 8], "output_norm": [8]}
    shapes |= {f"blk.0.{n}": [8] for n in ("attn_norm", "ffn_norm")}
    square = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    shapes |= {f"blk.0.{n}": [8, 8] for n in square}
    infos, at = b"", 0
    for name, shape in shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        infos += string(f"{name}.weight") + struct.pack("<I", len(shape))
        infos += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", 0, at)
        at += size
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(keys))
    head += b"".join(entry(k, v) for k, v in keys.items()) + infos
    head += bytes(-len(head) % 32)
    path.write_bytes(head + struct.pack("<f", 0.01) * (at // 4))
    return path


@pytest.mark.parametrize("name", IN_GGUF)
def test_gguf_gives_the_same_ids(tmp_path: Path, name: str) -> None:
    model = km.load(write_gguf(tmp_path / f"{name}.gguf", FAMILIES[name]))
    for case in FAMILIES[name]["cases"]:
        assert model.encode(case["text"], bos=False, special=case["special"]) == case["ids"], case
    assert model.encode("Hello world") == FAMILIES[name]["with_bos"]


@pytest.mark.parametrize("pre", ["tekken", "default", "deepseek-llm"])
def test_unknown_expression_is_refused_by_name(tmp_path: Path, pre: str) -> None:
    family = FAMILIES["gpt2"] | {"gguf": pre}
    with pytest.raises(km.UnsupportedError, match=f"pre-tokenizer '{pre}'"):
        km.load(write_gguf(tmp_path / "model.gguf", family))


def test_mark_is_a_blank_in_metaspace(folders: dict[str, km.Model]) -> None:
    model = folders["mistral"]
    assert model.encode(f"{MARK}the", bos=False) == model.encode(" the", bos=False)
    assert model.decode(model.encode("the is", bos=False)) == "the is"
